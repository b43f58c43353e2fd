//! Names as they are written in SQL.

use ringway_topology::model::TableName;

use crate::control::ControlError;

/// `t`, `s.t`, `"S"."T"`: unquoted parts in lower case, `public` by default.
pub fn parse_table(text: &str) -> Result<TableName, ControlError> {
    let wrong = || ControlError::Invalid(format!("{text:?} is no table name; write TABLE or SCHEMA.TABLE"));
    let mut parts = split(text).ok_or_else(wrong)?;
    let name = parts.pop().ok_or_else(wrong)?;
    let schema = parts.pop().unwrap_or_else(|| "public".to_owned());
    if !parts.is_empty() || matches!(schema.as_str(), "ringway" | "pg_catalog" | "information_schema") {
        return Err(wrong());
    }
    Ok(TableName::new(schema, name))
}

/// A column's name as it is written, or as it is.
pub fn parse_column(text: &str) -> Result<String, ControlError> {
    match split(text).as_deref() {
        Some([name]) => Ok(name.clone()),
        _ => Err(ControlError::Invalid(format!("{text:?} is no column name"))),
    }
}

fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted)?,
            None => {
                let end = rest.find(['.', '"']).unwrap_or(rest.len());
                (rest[..end].trim().to_lowercase(), &rest[end..])
            }
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match after.trim_start() {
            "" => return Some(parts),
            after => rest = after.strip_prefix('.')?.trim_start(),
        }
    }
}

/// What follows an opening quote, up to the closing one; and the rest.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                part.push('"');
                rest = after;
            }
            None => return Some((part, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_sql() {
        for (text, schema, name) in [
            ("Orders", "public", "orders"),
            ("sales.Orders", "sales", "orders"),
            (r#""Sa.les"."Or""ders""#, "Sa.les", "Or\"ders"),
            (r#" sales . "O" "#, "sales", "O"),
        ] {
            assert_eq!(parse_table(text).unwrap(), TableName::new(schema, name), "{text}");
        }
        for text in ["", ".", "a.", "a.b.c", "\"a", "\"a\"b", "ringway.shard", "pg_catalog.pg_class"] {
            assert!(parse_table(text).is_err(), "{text}");
        }
        assert_eq!(parse_column("\"Id\"").unwrap(), "Id");
        assert!(parse_column("a.b").is_err());
    }
}
