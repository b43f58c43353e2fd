//! What a trigger function does to the row that is written, read off its tokens: which columns of NEW it may assign, and
//! whether it gives back another row. Like [`super::effects`] it errs on the side of doing more.

use std::collections::BTreeSet;

use crate::sql::lexer::{lex, Kind, Lexeme};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRow {
    columns: BTreeSet<String>,
    /// Why any column may be changed.
    whole: Option<String>,
}

impl NewRow {
    pub fn unknown(reason: impl Into<String>) -> NewRow {
        NewRow { whole: Some(reason.into()), ..NewRow::default() }
    }

    pub fn of(source: &str) -> NewRow {
        match lex(source) {
            Ok(lexemes) => Scan { sql: source, lexemes: &lexemes, out: NewRow::default() }.run(),
            Err(error) => NewRow::unknown(error.message),
        }
    }

    pub fn add(&mut self, other: NewRow) {
        self.columns.extend(other.columns);
        self.whole = self.whole.take().or(other.whole);
    }

    /// Why the column may be changed.
    pub fn changes(&self, column: &str) -> Option<String> {
        let assigned = self.columns.contains(column).then(|| format!("it assigns NEW.{column}"));
        assigned.or_else(|| self.whole.clone())
    }
}

struct Scan<'s> {
    sql: &'s str,
    lexemes: &'s [Lexeme],
    out: NewRow,
}

impl Scan<'_> {
    fn named(&self, index: usize, name: &str) -> bool {
        self.lexemes.get(index).and_then(|lexeme| lexeme.identifier(self.sql)).as_deref() == Some(name)
    }

    fn text(&self, index: usize) -> &str {
        self.lexemes.get(index).map_or("", |lexeme| lexeme.text(self.sql))
    }

    /// Whether a statement may begin at this token.
    fn begins(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return true };
        matches!(self.text(before), ";" | ">>")
            || ["begin", "then", "else", "loop"].iter().any(|word| self.named(before, word))
    }

    fn run(mut self) -> NewRow {
        // Inside a list of variables that are given values, up to a word that ends it.
        let mut targets = false;
        for index in 0..self.lexemes.len() {
            let unicode = self.lexemes[index].kind == Kind::QuotedWord && !self.text(index).starts_with('"');
            if unicode {
                self.whole("it has names with Unicode escapes");
            }
            match self.text(index).to_ascii_lowercase().as_str() {
                "into" | "foreach" | "diagnostics" => targets = true,
                "for" | "call" if self.begins(index) => targets = true,
                "alias" => self.whole("it has an alias of a variable"),
                "execute" => self.whole("it builds statements as text (EXECUTE)"),
                ";" | "from" | "in" | "select" | "values" | "using" | "where" | "loop" => targets = false,
                "return" => self.returned(index + 1),
                _ => {}
            }
            let qualified = index > 0 && self.text(index - 1) == ".";
            if self.named(index, "new") && !qualified {
                let column = (self.text(index + 1) == ".").then_some(index + 2);
                let after = self.text(column.unwrap_or(index) + 1);
                let assigned = matches!(after, ":=") || matches!(after, "=" | "[" | ".") && self.begins(index);
                // A column's name may be followed by a part of it: NEW.a[1] := 1.
                if targets || assigned {
                    match column.and_then(|column| self.lexemes.get(column)?.identifier(self.sql)) {
                        Some(column) => {
                            self.out.columns.insert(column);
                        }
                        None => self.whole("it assigns NEW as a whole"),
                    }
                }
            }
        }
        self.out
    }

    /// RETURN NEW, OLD, NULL or COALESCE of NEW and OLD.
    fn returned(&mut self, index: usize) {
        let words: Vec<String> = (index..self.lexemes.len())
            .map(|index| self.text(index).to_ascii_lowercase())
            .take_while(|text| text != ";")
            .take(7)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let same = matches!(
            words[..],
            [] | ["new" | "old" | "null"]
                | ["(", "new" | "old" | "null", ")"]
                | ["coalesce", "(", "new", ",", "old", ")"]
                | ["coalesce", "(", "old", ",", "new", ")"]
        );
        if !same {
            self.whole("it returns another row than NEW");
        }
    }

    fn whole(&mut self, reason: &str) {
        self.out.whole.get_or_insert_with(|| reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(source: &str) -> Option<String> {
        NewRow::of(source).changes("id")
    }

    #[test]
    fn assignments_to_the_column_are_found() {
        for source in [
            "BEGIN NEW.id := NEW.id + 1; RETURN NEW; END",
            "BEGIN new.id = 1; RETURN NEW; END",
            "BEGIN \"new\".\"id\" := 1; RETURN NEW; END",
            "BEGIN IF NEW.b IS NULL THEN NEW.id = 1; END IF; RETURN NEW; END",
            "BEGIN <<x>> NEW.id = 1; RETURN NEW; END",
            "BEGIN SELECT 1, 2 INTO new.b, new.id FROM x; RETURN NEW; END",
            "BEGIN SELECT 1 INTO STRICT new.id; RETURN NEW; END",
            "BEGIN INSERT INTO x VALUES (1) RETURNING id INTO new.id; RETURN NEW; END",
            "BEGIN FOR new.id IN 1..2 LOOP NULL; END LOOP; RETURN NEW; END",
            "BEGIN GET DIAGNOSTICS new.id = ROW_COUNT; RETURN NEW; END",
            "BEGIN CALL p(1, new.id); RETURN NEW; END",
            "BEGIN NEW := ROW(1, 'a'); RETURN NEW; END",
            "BEGIN SELECT * INTO NEW FROM x; RETURN NEW; END",
            "DECLARE r ALIAS FOR NEW; BEGIN r.id := 1; RETURN NEW; END",
            "DECLARE r x; BEGIN r := NEW; r.id := 1; RETURN r; END",
            "BEGIN RETURN ROW(NEW.id + 1, 'a'); END",
            "BEGIN EXECUTE 'SELECT 1' INTO x; RETURN NEW; END",
            "BEGIN U&\"n\\0065w\".id := 1; RETURN NEW; END",
            "BEGIN NEW.id[1] := 1; RETURN NEW; END",
        ] {
            assert!(changes(source).is_some(), "{source}");
        }
    }

    #[test]
    fn what_leaves_the_column_alone_is_let_through() {
        for source in [
            "BEGIN NEW.at := now(); RETURN NEW; END",
            "BEGIN IF NEW.id = 1 OR NEW.id > 5 THEN RETURN NULL; END IF; RETURN NEW; END",
            "BEGIN SELECT count(*) INTO NEW.n FROM x WHERE id = NEW.id; RETURN NEW; END",
            "BEGIN UPDATE x SET n = 1 WHERE id = new.id; RETURN OLD; END",
            "BEGIN INSERT INTO x VALUES (NEW.id, NEW.b); RETURN COALESCE(NEW, OLD); END",
            "BEGIN FOR r IN SELECT * FROM x WHERE x.id = NEW.id LOOP NEW.n := 1; END LOOP; RETURN NEW; END",
            "BEGIN old.id := 1; RETURN NEW; END",
        ] {
            assert_eq!(changes(source), None, "{source}");
        }
        assert_eq!(changes("BEGIN NEW.id := 1; RETURN NEW; END").as_deref(), Some("it assigns NEW.id"));
        assert!(NewRow::unknown("it is written in plpython3u").changes("id").is_some());
    }
}
