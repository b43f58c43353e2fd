//! Statements of a psql script: meta-commands, COPY data and what is no query are left out.

/// Words that the statements begin with that the gateway parses.
const QUERIES: &[&str] = &["select", "values", "with", "table", "insert", "update", "delete", "merge"];

/// The queries of a script, in order, without their semicolons.
pub fn queries(script: &str) -> Vec<String> {
    statements(script).into_iter().filter(|statement| is_query(statement)).collect()
}

/// Whether the statement is a query or a write, by its first word.
pub fn is_query(statement: &str) -> bool {
    let rest = statement.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    let word: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
    QUERIES.contains(&word.to_ascii_lowercase().as_str())
}

struct Scanner<'s> {
    rest: &'s str,
    /// The statement so far, without comments.
    text: String,
    depth: usize,
    out: Vec<String>,
}

/// All statements of a script, comments left out.
pub fn statements(script: &str) -> Vec<String> {
    let mut scanner = Scanner { rest: script, text: String::new(), depth: 0, out: Vec::new() };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.end();
    scanner.out
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("--") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(comment(rest));
            self.text.push(' ');
        } else if rest.starts_with('\\') {
            self.command();
        } else if let Some(quoted) = quoted(rest, self.text.chars().last()) {
            self.take(quoted);
        } else if rest.starts_with(';') && self.depth == 0 {
            self.skip(1);
            self.end();
        } else {
            match rest.as_bytes()[0] {
                b'(' => self.depth += 1,
                b')' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            self.take(rest.chars().next().map_or(1, char::len_utf8));
        }
    }

    fn take(&mut self, length: usize) {
        self.text.push_str(&self.rest[..length]);
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        self.rest = &self.rest[length..];
    }

    /// A meta-command reaches to the end of its line; one behind a statement (`\gset`) ends it. `\;` is a semicolon.
    fn command(&mut self) {
        let line = self.rest.find('\n').unwrap_or(self.rest.len());
        if self.rest.starts_with("\\;") {
            self.skip(2);
        } else {
            self.skip(line);
        }
        self.end();
    }

    fn end(&mut self) {
        let statement = std::mem::take(&mut self.text).trim().to_owned();
        self.depth = 0;
        let words = statement.to_ascii_lowercase();
        if words.starts_with("copy") && words.contains("from stdin") {
            self.skip(self.rest.find("\n\\.").map_or(self.rest.len(), |end| end + 3));
        }
        if !statement.is_empty() {
            self.out.push(statement);
        }
    }
}

/// The length of a comment, those inside of it included.
fn comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of a string or quoted name that begins here; `before` is the character in front of it.
fn quoted(text: &str, before: Option<char>) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes[0] {
        b'\'' => {
            let escapes = matches!(before, Some('e' | 'E'));
            let mut at = 1;
            while at < bytes.len() {
                match bytes[at] {
                    b'\\' if escapes => at += 2,
                    b'\'' => return Some(at + 1),
                    _ => at += 1,
                }
            }
            Some(text.len())
        }
        b'"' => Some(text[1..].find('"').map_or(text.len(), |end| end + 2)),
        b'$' if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') => {
            let tag = text[1..].find('$')? + 2;
            let named = text[1..tag - 1].chars().all(|c| c.is_alphanumeric() || c == '_');
            let number = text[1..].starts_with(|c: char| c.is_ascii_digit());
            if !named || number {
                return None;
            }
            Some(text[tag..].find(&text[..tag]).map_or(text.len(), |end| end + 2 * tag))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_a_script() {
        let script = "\\set x 1\nSELECT ';', \"a;b\", $$;$$ -- ;\n, 2; /* ; /* */ ; */ VALUES (1)\\gset\nCOPY t FROM stdin;\n1;\n\\.\n\
                      select 1\\; select 2; create rule r as on insert to t do (select 1; select 2);";
        assert_eq!(queries(script), ["SELECT ';', \"a;b\", $$;$$ \n, 2", "VALUES (1)", "select 1", "select 2"]);
        assert_eq!(statements(script).len(), 6);
    }
}
