//! The session's `search_path` as a list of names.

use crate::pool::settings::Settings;

/// PostgreSQL's default is `"$user", public`.
pub fn of(settings: &Settings) -> Vec<String> {
    let Some(statement) = settings.get("search_path") else {
        return vec!["$user".to_owned(), "public".to_owned()];
    };
    parse(value(statement))
}

/// The value in `SET search_path TO value` or `SELECT pg_catalog.set_config('search_path', 'value', false)`.
fn value(statement: &str) -> &str {
    if let Some(rest) = statement.strip_prefix("SELECT pg_catalog.set_config(") {
        let inner = rest.split_once(", ").map_or("", |(_, rest)| rest);
        let inner = inner.strip_suffix(", false)").unwrap_or(inner);
        return inner.trim_matches('\'');
    }
    let lower = statement.to_ascii_lowercase();
    let Some(at) = lower.find("search_path") else { return "" };
    let at = at + "search_path".len();
    let rest = statement[at..].trim_start().trim_start_matches('"').trim_start();
    if let Some(rest) = rest.strip_prefix('=') {
        return rest.trim();
    }
    if rest.len() >= 2 && rest.is_char_boundary(2) && rest[..2].eq_ignore_ascii_case("to") {
        return rest[2..].trim();
    }
    rest
}

/// Identifiers, quoted ones and strings, separated by commas.
fn parse(text: &str) -> Vec<String> {
    if text.trim().eq_ignore_ascii_case("default") {
        return vec!["$user".to_owned(), "public".to_owned()];
    }
    let mut names = Vec::new();
    let mut name = String::new();
    let mut quote = None;
    let mut was_quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), c) if c == open => {
                if characters.peek() == Some(&open) {
                    name.push(open);
                    characters.next();
                } else {
                    quote = None;
                }
            }
            (Some(_), c) => name.push(c),
            (None, '"' | '\'') => {
                quote = Some(character);
                was_quoted = true;
            }
            (None, ',') => {
                if was_quoted || !name.is_empty() {
                    names.push(std::mem::take(&mut name));
                }
                was_quoted = false;
            }
            (None, c) if c.is_whitespace() => {}
            (None, c) => name.extend(c.to_lowercase()),
        }
    }
    if was_quoted || !name.is_empty() {
        names.push(name);
    }
    // SET search_path TO 'a, b' names one schema; a startup packet's value is a list.
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_set_and_startup_packets_give() {
        let mut settings = Settings::default();
        assert_eq!(of(&settings), ["$user", "public"]);
        settings.set("search_path", "SET search_path = App, \"Odd Name\", 'x'".into());
        assert_eq!(of(&settings), ["app", "Odd Name", "x"]);
        settings.set("search_path", "SET SESSION search_path TO ''".into());
        assert!(of(&settings).is_empty());
        settings.set_value("search_path", "a, b");
        assert_eq!(of(&settings), ["a", "b"]);
        settings.set_value("search_path", "\"$user\", public");
        assert_eq!(of(&settings), ["$user", "public"]);
    }
}
