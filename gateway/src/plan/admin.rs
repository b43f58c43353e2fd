//! Administration in SQL that Citus users know: `SELECT create_distributed_table('t', 'col', colocate_with => 'u')`,
//! `create_reference_table('t')`, `undistribute_table('t')`.

use ringway_topology::model::TableName;

use super::context::PlanContext;
use super::refuse::refused;
use super::types::{AdminCommand, Plan};
use crate::catalog::Events;
use crate::sql::clauses::split_at_commas;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::PgError;

/// `None`: not one of these functions.
pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Option<Result<Plan, PgError>> {
    let mut at = 1;
    while text.punctuation(at + 1, b'.') {
        at += 2;
    }
    let name = text.lexemes.get(at)?.identifier(text.sql)?;
    if !matches!(name.as_str(), "create_distributed_table" | "create_reference_table" | "undistribute_table") {
        return None;
    }
    Some(call(context, text, &name, at))
}

fn call(context: &PlanContext<'_>, text: &Text<'_>, name: &str, at: usize) -> Result<Plan, PgError> {
    let bad = || {
        refused(
            format!("this call of {name} is not supported"),
            "It has to stand alone in SELECT, with string literals as arguments.",
            "For example: SELECT create_distributed_table('orders', 'user_id', colocate_with => 'users').",
        )
    };
    let close = text.closing(at + 1).filter(|close| close + 1 == text.lexemes.len()).ok_or_else(bad)?;
    let mut positional = Vec::new();
    let mut named = Vec::new();
    for extent in split_at_commas(text, at + 2, close).ok_or_else(bad)? {
        let (mut first, last) = (*extent.start(), *extent.end());
        let mut label = None;
        if let Some(operator) = text.lexemes.get(first + 1) {
            if operator.is_operator(text.sql, "=>") || operator.text(text.sql) == ":=" {
                label = text.lexemes[first].identifier(text.sql);
                first += 2;
            }
        }
        // A cast such as 't'::regclass is left out.
        let cast = last == first + 2 && text.lexemes[first + 1].text(text.sql) == "::";
        let value = match text.lexemes.get(first) {
            Some(lexeme) if lexeme.kind == Kind::String && (first == last || cast) => {
                lexeme.string_value(text.sql).ok_or_else(bad)?
            }
            _ => return Err(bad()),
        };
        match label {
            Some(label) => named.push((label, value)),
            None if named.is_empty() => positional.push(value),
            None => return Err(bad()),
        }
    }
    let take = |position: usize, labels: &[&str]| {
        positional.get(position).cloned().or_else(|| {
            named.iter().find(|(label, _)| labels.contains(&label.as_str())).map(|(_, value)| value.clone())
        })
    };
    let table = take(0, &["table_name", "relation"]).ok_or_else(bad)?;
    let command = match name {
        "create_distributed_table" => {
            let column = take(1, &["distribution_column"]).ok_or_else(bad)?;
            if positional.len() > 3 {
                return Err(bad());
            }
            if let Some(kind) = take(2, &["distribution_type"]) {
                if kind != "hash" {
                    return Err(refused("only hash distribution is supported", "", "Leave distribution_type out."));
                }
            }
            let colocate_with = named
                .iter()
                .find(|(label, _)| label == "colocate_with")
                .map(|(_, value)| value.clone())
                .filter(|value| value != "default");
            let known =
                ["table_name", "relation", "distribution_column", "distribution_type", "colocate_with", "shard_count"];
            if named.iter().any(|(label, _)| !known.contains(&label.as_str())) {
                return Err(bad());
            }
            let (schema, name) = table.rsplit_once('.').unwrap_or(("public", &table));
            super::reach::key_triggers(context, &TableName::new(schema, name), &column, Events::ALL)?;
            AdminCommand::CreateDistributedTable { table, column, colocate_with }
        }
        "create_reference_table" => AdminCommand::CreateReferenceTable { table },
        _ => AdminCommand::UndistributeTable { table },
    };
    Ok(Plan::Admin(command))
}
