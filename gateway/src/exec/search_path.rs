//! How a session's unqualified names resolve: its `search_path` as a list, and its current role, which is `$user`.
//!
//! Settings are kept as the statements that made them; they are read here as the planner reads them.

use crate::plan::types::{ConfigItem, Plan, SessionCommand, SetConfig, SettingArgument};
use crate::sql::lexer::truncate;
use crate::sql::parse::Text;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// As set, with `$user` in it.
    pub search_path: Vec<String>,
    /// The current role.
    pub user: String,
}

impl Names {
    /// `setting`: the statement that has made a setting what it is. `login`: who logged in.
    pub fn of<'a>(setting: impl Fn(&str) -> Option<&'a str>, login: &str) -> Names {
        let set = |name: &str| setting(name).and_then(value);
        let role = set("role").filter(|role| role != "none");
        Names {
            // PostgreSQL's default is `"$user", public`; the gateway's connections begin with it.
            search_path: set("search_path")
                .map_or_else(|| vec!["$user".to_owned(), "public".to_owned()], |list| identifiers(&list)),
            user: role.or_else(|| set("session_authorization")).unwrap_or_else(|| login.to_owned()),
        }
    }
}

/// The value that a SET statement or a call of set_config gives; `None` for the default.
pub fn value(statement: &str) -> Option<String> {
    let text = Text::new(statement).ok()?;
    let plan = crate::plan::session::plan(&text).or_else(|| crate::plan::set_config::plan(&text))?;
    match plan.ok()? {
        Plan::Session(SessionCommand::Set { value, .. }) => value,
        Plan::Session(SessionCommand::SetConfig { items, .. }) => match items.into_iter().next()? {
            ConfigItem::Set(SetConfig { value: SettingArgument::Literal(value), .. }) => value,
            _ => None,
        },
        _ => None,
    }
}

/// `SplitIdentifierString` of PostgreSQL's `varlena.c`. What it would not accept, no server has accepted as a value.
fn identifiers(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let mut name = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            while let Some(end) = rest.find('"') {
                name.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                let Some(more) = rest.strip_prefix('"') else { break };
                name.push('"');
                rest = more;
            }
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
            name = rest[..end].to_ascii_lowercase();
            rest = &rest[end..];
        }
        names.push(truncate(name));
        rest = rest.trim_start();
        let Some(more) = rest.strip_prefix(',') else { break };
        rest = more.trim_start();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::settings::Settings;

    fn path(statement: &str) -> Vec<String> {
        Names::of(|name| (name == "search_path").then_some(statement), "app").search_path
    }

    #[test]
    fn paths_are_read_from_tokens() {
        for (statement, expected) in [
            ("SET search_path = App, \"Odd Name\", 'x'", vec!["app", "Odd Name", "x"]),
            ("SET SESSION search_path TO ''", vec![""]),
            ("SET search_path TO 'a, b'", vec!["a, b"]),
            ("SET SCHEMA 's2'", vec!["s2"]),
            ("SET LOCAL SCHEMA 'S2'", vec!["S2"]),
            ("SET search_path = /* x, y */ s2 -- z", vec!["s2"]),
            ("SET search_path -- c\n TO E's2', $$s3$$", vec!["s2", "s3"]),
            ("SET search_path TO 'a\"b', \"c\"\"d\"", vec!["a\"b", "c\"d"]),
            ("SET search_path TO DEFAULT", vec!["$user", "public"]),
            ("SELECT pg_catalog.set_config('search_path', 'A, \"B c\",d', false)", vec!["a", "B c", "d"]),
            ("SELECT pg_catalog.set_config('search_path', E'a\\\\b, it''s', true)", vec!["a\\b", "it's"]),
            ("SELECT pg_catalog.set_config('search_path', '', false)", vec![]),
            ("SELECT pg_catalog.set_config('search_path', NULL, false)", vec!["$user", "public"]),
        ] {
            assert_eq!(path(statement), expected, "{statement}");
        }
        assert_eq!(Names::of(|_| None, "app").search_path, ["$user", "public"]);
        let mut settings = Settings::default();
        settings.set_value("search_path", "\"$user\", public");
        assert_eq!(path(settings.get("search_path").unwrap()), ["$user", "public"]);
    }

    #[test]
    fn what_is_not_read_is_refused() {
        for statement in [
            r"SET search_path = U&'\0073'",
            r"SET search_path = E'\x73'",
            "SET search_path = 'a'\n'b'",
            "SET search_path = 1",
        ] {
            let planned = crate::plan::session::plan(&Text::new(statement).unwrap());
            let Some(Err(error)) = planned else { panic!("{statement}") };
            assert!(error.code == crate::wire::SqlState::FEATURE_NOT_SUPPORTED, "{statement}: {error:?}");
            assert!(error.detail.is_some() && error.hint.is_some(), "{statement}: {error:?}");
        }
    }

    #[test]
    fn the_user_is_the_current_role() {
        let user = |entries: &[(&str, &str)]| {
            Names::of(|name| entries.iter().find(|(known, _)| *known == name).map(|(_, sql)| *sql), "app").user
        };
        assert_eq!(user(&[]), "app");
        assert_eq!(user(&[("role", "SET ROLE Bob")]), "bob");
        assert_eq!(user(&[("role", "SET LOCAL role TO 'Bob'")]), "Bob");
        assert_eq!(user(&[("role", "SET ROLE NONE")]), "app");
        assert_eq!(user(&[("session_authorization", "SET SESSION AUTHORIZATION x")]), "x");
        assert_eq!(user(&[("session_authorization", "SET SESSION AUTHORIZATION DEFAULT")]), "app");
        assert_eq!(user(&[("session_authorization", "SET SESSION AUTHORIZATION x"), ("role", "SET ROLE y")]), "y");
    }
}
