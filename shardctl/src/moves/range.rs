//! Ranges of primary keys and multiranges of arcs, as SQL text.

use ringway_topology::model::{quote_ident, quote_literal};
use ringway_topology::ring::TokenArc;

use super::table::KeyColumn;

/// Rows with `after < key <= through`; without a bound, from the bottom or to the top. Values are PostgreSQL's own text.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyRange {
    pub after: Option<Vec<String>>,
    pub through: Option<Vec<String>>,
}

impl KeyRange {
    /// A condition on the row variable `alias`.
    pub fn sql(&self, key: &[KeyColumn], alias: &str) -> String {
        let compare = |operator: &str, values: &[String]| {
            format!(
                "{} {operator} {}",
                row(key.iter().map(|c| format!("{alias}.{}", quote_ident(&c.name)))),
                row_of(key, values)
            )
        };
        let bounds: Vec<String> = [
            self.after.as_ref().map(|values| compare(">", values)),
            self.through.as_ref().map(|values| compare("<=", values)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if bounds.is_empty() {
            "TRUE".to_owned()
        } else {
            bounds.join(" AND ")
        }
    }
}

fn row(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.len() == 1 {
        parts.concat()
    } else {
        format!("ROW({})", parts.join(", "))
    }
}

fn row_of(key: &[KeyColumn], values: &[String]) -> String {
    row(key.iter().zip(values).map(|(column, value)| format!("{}::{}", quote_literal(value), column.type_sql)))
}

/// Text of an `int8multirange`. The top is left open: PostgreSQL cannot canonicalise a range that includes 2^63-1.
pub fn multirange(arcs: &[TokenArc]) -> String {
    let ranges: Vec<String> = arcs
        .iter()
        .map(|arc| {
            let after = arc.after.map(|after| after.to_string()).unwrap_or_default();
            if arc.through == i64::MAX {
                format!("({after},)")
            } else {
                format!("({after},{}]", arc.through)
            }
        })
        .collect();
    format!("{{{}}}", ranges.join(","))
}

/// Condition that `alias`'s row lies in the arcs.
pub fn in_arcs(arcs: &[TokenArc], alias: &str, key_column: &str) -> String {
    format!(
        "{}::pg_catalog.int8multirange OPERATOR(pg_catalog.@>) ringway.token({alias}.{})",
        quote_literal(&multirange(arcs)),
        quote_ident(key_column)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[(&str, &str)]) -> Vec<KeyColumn> {
        names.iter().map(|(name, ty)| KeyColumn { name: (*name).into(), type_sql: (*ty).into() }).collect()
    }

    #[test]
    fn ranges_of_one_and_more_columns() {
        let one = key(&[("id", "bigint")]);
        assert_eq!(KeyRange::default().sql(&one, "t"), "TRUE");
        let range = KeyRange { after: Some(vec!["5".into()]), through: Some(vec!["9".into()]) };
        assert_eq!(range.sql(&one, "t"), "t.\"id\" > '5'::bigint AND t.\"id\" <= '9'::bigint");
        let two = key(&[("a b", "text"), ("n", "numeric(4,2)")]);
        let range = KeyRange { after: Some(vec!["it's \\".into(), "1.00".into()]), through: None };
        assert_eq!(range.sql(&two, "t"), "ROW(t.\"a b\", t.\"n\") > ROW(E'it''s \\\\'::text, '1.00'::numeric(4,2))");
    }

    #[test]
    fn multiranges_leave_the_ends_of_the_token_space_open() {
        assert_eq!(multirange(&[TokenArc::ALL]), "{(,)}");
        let arcs = [TokenArc { after: None, through: -5 }, TokenArc { after: Some(7), through: i64::MAX }];
        assert_eq!(multirange(&arcs), "{(,-5],(7,)}");
    }
}
