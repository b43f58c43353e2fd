//! EXPLAIN: `EXPLAIN (ROUTE) statement` tells tier, shards, texts and combine step without asking a shard; other forms are
//! forwarded with the statement, to its shard.

use std::sync::Arc;

use ringway_topology::ids::ShardId;
use ringway_topology::model::Topology;

use super::context::PlanContext;
use super::filter::filtered;
use super::refuse::refused;
use super::route::Route;
use super::session::Cursor;
use super::types::{CopyDestination, DdlKind, Explain, Limited, MultiShard, Plan, Query, SessionCommand, Targets};
use crate::sql::clauses::split_at_commas;
use crate::sql::parse::Text;
use crate::wire::PgError;

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let mut cursor = Cursor { text, at: 1 };
    let (mut analyze, mut route_only) = (false, false);
    if text.punctuation(1, b'(')
        && !["select", "with", "values", "table", "("]
            .iter()
            .any(|word| text.word(2, word) || text.punctuation(2, b'('))
    {
        let close = text.closing(1).ok_or_else(|| cursor.unexpected())?;
        for extent in split_at_commas(text, 2, close).ok_or_else(|| cursor.unexpected())? {
            let name = text.lexemes[*extent.start()].text(text.sql).to_ascii_lowercase();
            let value = (extent.end() > extent.start())
                .then(|| text.lexemes[*extent.end()].text(text.sql).to_ascii_lowercase());
            let on = !value.is_some_and(|value| matches!(value.trim_matches('\''), "false" | "off" | "0"));
            match name.as_str() {
                "analyze" => analyze = on,
                "route" => route_only = on,
                _ => {}
            }
        }
        cursor.at = close + 1;
    } else {
        while text.word(cursor.at, "analyze") || text.word(cursor.at, "verbose") {
            analyze |= text.word(cursor.at, "analyze");
            cursor.at += 1;
        }
    }
    if cursor.done() {
        return Err(cursor.unexpected());
    }
    let inner_start = text.lexemes[cursor.at].start;
    let inner_sql = text.slice(cursor.at, text.lexemes.len() - 1);
    let inner = super::plan(inner_sql, context)?;
    if let (false, Plan::Session(SessionCommand::Execute { name, arguments })) = (route_only, &inner) {
        let (name, arguments) = (name.clone(), arguments.clone());
        let explain = text.sql[..inner_start].to_owned();
        return Ok(Plan::Session(SessionCommand::ExplainExecute { explain, name, arguments }));
    }
    if !route_only && !matches!(inner, Plan::Query(_) | Plan::Home(_)) {
        return Err(refused(
            "only queries are explained by the shards",
            "The gateway carries this statement out itself, or on every shard.",
            "Use EXPLAIN (ROUTE), which tells where it goes.",
        ));
    }
    Ok(Plan::Explain(Explain {
        sql: Arc::from(text.sql),
        route_only,
        analyze,
        inner: Box::new(inner),
        inner_sql: Arc::from(inner_sql),
        inner_start,
    }))
}

/// Lines of text that tell what happens to a statement. `route` is `None` when the plan has no targets.
pub fn render(plan: &Plan, route: Option<&Route>, topology: &Topology) -> Vec<String> {
    let mut lines = Vec::new();
    match plan {
        Plan::Session(_) => lines.push("Tier: session".to_owned()),
        Plan::Admin(_) => lines.push("Tier: administration".to_owned()),
        Plan::ComputedKeys(keys) => {
            lines.push("Tier: insert, keys computed by a shard first".to_owned());
            lines.push(format!("Keys: {}", keys.keys_sql));
        }
        Plan::InsertSelect(insert) => {
            lines.push("Tier: insert, rows of a query split by owner".to_owned());
            lines.push(format!("Query: {}", insert.select_sql));
        }
        Plan::Home(_) => {
            lines.push("Tier: single shard".to_owned());
            lines.extend(topology.home_shard().map(|shard| format!("Shards: {}", name(topology, shard))));
        }
        Plan::Ddl(ddl) => {
            let how = match ddl.kind {
                DdlKind::Transactional => "every shard, one transaction",
                DdlKind::ShardByShard => "shard by shard",
                DdlKind::Temporary => "temporary, pinned to one shard",
            };
            lines.push(format!("Tier: schema change ({how})"));
        }
        Plan::CopyIn(copy) => lines.push(format!(
            "Tier: copy in ({})",
            match copy.destination {
                CopyDestination::Sharded { .. } => "split by owner",
                CopyDestination::EveryMember => "every shard",
                CopyDestination::Home => "home shard",
            }
        )),
        Plan::CopyOut(_) => lines.push("Tier: copy out".to_owned()),
        Plan::Cursor(cursor) => query_lines(&cursor.query, route, topology, &mut lines),
        Plan::AtCursor(_) => lines.push("Tier: single shard (the cursor's)".to_owned()),
        Plan::Explain(explain) => return render(&explain.inner, route, topology),
        Plan::Query(query) => query_lines(query, route, topology, &mut lines),
    }
    if let (Some(route), false) = (route, matches!(plan, Plan::Query(_) | Plan::Cursor(_))) {
        lines.push(shards_line(topology, &route.shards));
    }
    lines
}

fn name(topology: &Topology, shard: ShardId) -> String {
    topology.shard(shard).map_or_else(|| shard.to_string(), |shard| shard.name.clone())
}

fn shards_line(topology: &Topology, shards: &[ShardId]) -> String {
    let names: Vec<String> = shards.iter().map(|shard| name(topology, *shard)).collect();
    format!("Shards: {}", names.join(", "))
}

fn query_lines(query: &Query, route: Option<&Route>, topology: &Topology, lines: &mut Vec<String>) {
    let several = match route {
        Some(route) => route.shards.len() > 1,
        None => matches!(query.targets, Targets::Keyspace(_) | Targets::EveryMember),
    };
    if !several {
        lines.push("Tier: single shard".to_owned());
        if let Some(route) = route {
            lines.push(shards_line(topology, &route.shards));
            lines.extend(route.tokens.iter().map(|token| format!("Token: {token}")));
        }
        lines.push(format!("SQL: {}", query.sql));
        return;
    }
    let (tier, sql) = match &query.multi {
        MultiShard::Concatenate(c) => ("push down and concatenate", c.sql.as_ref().unwrap_or(&query.sql)),
        MultiShard::MergeSort(m) => ("push down and merge", &m.sql),
        MultiShard::Aggregate(a) => ("partial aggregate", &a.partial_sql),
        MultiShard::Write => ("write on every shard of the keyspace", &query.sql),
        MultiShard::WriteEverywhere => ("write on every shard", &query.sql),
        MultiShard::InsertSplit(_) => ("insert, rows split by owner", &query.sql),
        MultiShard::InsertSelect(insert) => ("insert, rows of a query split by owner", &insert.sql),
        MultiShard::Gather(gather) => {
            lines.push("Tier: gather".to_owned());
            lines.extend(route.map(|route| shards_line(topology, &route.shards)));
            for (index, fragment) in gather.fragments.iter().enumerate() {
                lines.push(format!("Fragment {}: {}", index + 1, fragment.sql));
                let limited =
                    |by: &Limited| format!("  if there are few rows of fragment {}: {}", by.fragment + 1, by.sql);
                lines.extend(fragment.limited.iter().map(limited));
            }
            let workbench = topology.home_shard().map(|shard| name(topology, shard)).unwrap_or_default();
            lines.push(format!("SQL on {workbench}: {}", gather.text(1).unwrap_or_default()));
            return;
        }
        MultiShard::Refused(error) => {
            lines.push(format!("Tier: refused: {}", error.message));
            return;
        }
    };
    lines.push(format!("Tier: {tier}"));
    if let Some(route) = route {
        lines.push(shards_line(topology, &route.shards));
        let mut common = true;
        for shard in &route.shards {
            if let Ok(Some(text)) = filtered(sql, &query.rewritten, topology, *shard) {
                lines.push(format!("SQL on {}: {text}", name(topology, *shard)));
                common = false;
            }
        }
        if common {
            lines.push(format!("SQL: {sql}"));
        }
    } else {
        lines.push(format!("SQL: {sql}"));
    }
    match &query.multi {
        MultiShard::Aggregate(a) => lines.push(format!("Combine: {}", a.combine_sql)),
        MultiShard::MergeSort(m) => {
            let keys: Vec<String> = m
                .order
                .iter()
                .map(|key| {
                    let direction = if key.descending { "DESC" } else { "ASC" };
                    let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
                    format!("{} {direction} NULLS {nulls}", key.column + 1)
                })
                .collect();
            lines.push(format!("Merge: {}", keys.join(", ")));
        }
        _ => {}
    }
}
