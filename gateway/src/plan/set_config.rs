//! `SELECT set_config('a', 'b', false)`: a SET that gives a row. Several in one select list are several SETs; calls of
//! `current_setting` may stand beside them.
//!
//! Arguments are literals or parameters. Anywhere else in a statement set_config is refused: the setting would
//! be made on one connection, behind the gateway's back.

use super::refuse::refused;
use super::session::check_setting;
use super::types::{ConfigItem, CurrentSetting, Plan, SessionCommand, SetConfig, SettingArgument};
use crate::sql::clauses::split_at_commas;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::PgError;

/// `None`: the statement has no set_config in it.
pub fn plan(text: &Text<'_>) -> Option<Result<Plan, PgError>> {
    let called = |index: usize| {
        text.lexemes[index].identifier(text.sql).as_deref() == Some("set_config") && text.punctuation(index + 1, b'(')
    };
    if !(0..text.lexemes.len()).any(called) {
        return None;
    }
    let known = only_if_known(text);
    let (end, only_known) = known.map_or((text.lexemes.len(), None), |(end, name)| (end, Some(name)));
    let Some(items) = items(text, end, only_known.as_deref()) else {
        return Some(Err(refused(
            "this call of set_config is not supported",
            "It changes a setting of one connection; the gateway follows only calls that stand alone in SELECT, with literals or \
             parameters as arguments.",
            "Write SELECT set_config('name', 'value', false) as a statement of its own, or SET.",
        )));
    };
    for item in &items {
        let ConfigItem::Set(item) = item else { continue };
        if let (SettingArgument::Literal(Some(name)), SettingArgument::Literal(value)) = (&item.name, &item.value) {
            if let Err(error) = check_setting(&name.to_ascii_lowercase(), value.as_deref()) {
                return Some(Err(error));
            }
        }
    }
    Some(Ok(Plan::Session(SessionCommand::SetConfig { items, only_known, sql: text.sql.to_owned() })))
}

/// `FROM pg_settings WHERE name = 'a'` at the end, which sets what the server knows (pg_dump): where it begins, and the name.
fn only_if_known(text: &Text<'_>) -> Option<(usize, String)> {
    let last = text.lexemes.len().checked_sub(1)?;
    let name = text.lexemes[last].string_value(text.sql).filter(|_| text.lexemes[last].kind == Kind::String)?;
    let is_equal = text.lexemes[last.checked_sub(1)?].is_operator(text.sql, "=");
    let words = is_equal && text.word(last.checked_sub(4)?, "pg_settings") && text.word(last - 3, "where");
    if !words || !text.word(last - 2, "name") {
        return None;
    }
    let from = [last.checked_sub(5), last.checked_sub(7)].into_iter().flatten().find(|at| text.word(*at, "from"))?;
    let qualified = from + 3 == last - 4 && text.word(from + 1, "pg_catalog") && text.punctuation(from + 2, b'.');
    (from + 1 == last - 4 || qualified).then_some((from, name))
}

/// `column`: what the column `name` is in every row.
fn items(text: &Text<'_>, end: usize, column: Option<&str>) -> Option<Vec<ConfigItem>> {
    if !text.word(0, "select") {
        return None;
    }
    split_at_commas(text, 1, end)?
        .into_iter()
        .map(|extent| {
            let mut at = *extent.start();
            if text.word(at, "pg_catalog") && text.punctuation(at + 1, b'.') {
                at += 2;
            }
            let function = text.lexemes.get(at)?.identifier(text.sql)?;
            if !matches!(function.as_str(), "set_config" | "current_setting") || !text.punctuation(at + 1, b'(') {
                return None;
            }
            let close = text.closing(at + 1)?;
            let arguments = split_at_commas(text, at + 2, close)?;
            let argument =
                |extent: &crate::sql::clauses::Extent| argument(text, *extent.start(), *extent.end(), column);
            let alias = match extent.end().checked_sub(close)? {
                0 => function.clone(),
                1 => text.lexemes[close + 1].identifier(text.sql)?,
                2 if text.word(close + 1, "as") => text.lexemes[close + 2].identifier(text.sql)?,
                _ => return None,
            };
            Some(match (function.as_str(), arguments.as_slice()) {
                ("set_config", [name, value, local]) => {
                    let (name, value, local) = (argument(name)?, argument(value)?, argument(local)?);
                    ConfigItem::Set(SetConfig { name, value, local, alias })
                }
                ("current_setting", [name]) => {
                    ConfigItem::Current(CurrentSetting { name: argument(name)?, missing_ok: None, alias })
                }
                ("current_setting", [name, missing]) => {
                    let (name, missing_ok) = (argument(name)?, Some(argument(missing)?));
                    ConfigItem::Current(CurrentSetting { name, missing_ok, alias })
                }
                _ => return None,
            })
        })
        .collect()
}

/// A literal or a parameter, perhaps cast to text or boolean.
fn argument(text: &Text<'_>, first: usize, last: usize, column: Option<&str>) -> Option<SettingArgument> {
    let cast = last == first + 2
        && text.lexemes[first + 1].text(text.sql) == "::"
        && ["text", "boolean", "bool", "varchar"].iter().any(|name| text.word(last, name));
    if first != last && !cast {
        return None;
    }
    let lexeme = text.lexemes[first];
    Some(match lexeme.kind {
        Kind::Parameter(number) => SettingArgument::Parameter((number as usize).checked_sub(1)?),
        Kind::String => SettingArgument::Literal(Some(lexeme.string_value(text.sql)?)),
        Kind::Word if column.is_some() && text.word(first, "name") => {
            SettingArgument::Literal(column.map(str::to_owned))
        }
        Kind::Word if text.word(first, "null") => SettingArgument::Literal(None),
        Kind::Word if text.word(first, "true") || text.word(first, "false") => {
            SettingArgument::Literal(Some(lexeme.text(text.sql).to_ascii_lowercase()))
        }
        _ => return None,
    })
}

/// A boolean as PostgreSQL reads it.
pub fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let is = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if is("true", 1) || is("yes", 1) || is("on", 2) || text == "1" {
        return Some(true);
    }
    (is("false", 1) || is("no", 1) || is("off", 2) || text == "0").then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for (text, expected) in [
            ("t", Some(true)),
            ("ON", Some(true)),
            ("o", None),
            ("of", Some(false)),
            ("0", Some(false)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(boolean(text), expected, "{text}");
        }
    }
}
