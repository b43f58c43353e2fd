//! Where a statement goes, as its plan says: tier, shards, texts, combine step.

use ringway_topology::ids::ShardId;
use ringway_topology::model::Topology;

use super::report::{Node, Value};
use crate::plan::filter::filtered;
use crate::plan::route::Route;
use crate::plan::types::{CopyDestination, DdlKind, Fragment, Gather, MultiShard, Plan, Query, Targets};

/// What a fragment's shards are sent.
pub type Texts = Vec<(ShardId, String)>;

/// What the report is made from. `route` is `None` when the plan has no targets. `fragments`: the texts of a query's shards.
pub struct Subject<'a> {
    pub topology: &'a Topology,
    pub route: Option<&'a Route>,
    pub fragments: &'a dyn Fn(&str) -> Option<Texts>,
}

/// The whole statement.
pub fn report(plan: &Plan, subject: &Subject<'_>) -> Node {
    let mut node = Node { kind: "Ringway", ..Node::default() };
    let mut tier = |tier: &str| node.text("Tier", tier);
    match plan {
        Plan::Session(_) => tier("session"),
        Plan::Admin(_) => tier("administration"),
        Plan::ComputedKeys(keys) => {
            tier("insert, keys computed by a shard first");
            node.text("Keys", &*keys.keys_sql);
        }
        Plan::InsertSelect(insert) => {
            tier("insert, rows of a query split by owner");
            node.text("Query", &*insert.select_sql);
        }
        Plan::Home(_) => {
            tier("single shard");
            if let Some(shard) = subject.topology.home_shard().filter(|_| subject.route.is_none()) {
                node.item("Shards", Value::List(vec![subject.name(shard)]));
            }
        }
        Plan::Ddl(ddl) => {
            let how = match ddl.kind {
                DdlKind::Transactional => "every shard, one transaction",
                DdlKind::ShardByShard => "shard by shard",
                DdlKind::Temporary => "temporary, pinned to one shard",
            };
            tier(&format!("schema change ({how})"));
        }
        Plan::CopyIn(copy) => {
            let how = match copy.destination {
                CopyDestination::Sharded { .. } => "split by owner",
                CopyDestination::EveryMember => "every shard",
                CopyDestination::Home => "home shard",
            };
            tier(&format!("copy in ({how})"));
        }
        Plan::CopyOut(_) => tier("copy out"),
        Plan::Cursor(cursor) => subject.query(&cursor.query, &mut node),
        Plan::AtCursor(_) => tier("single shard (the cursor's)"),
        Plan::Explain(explain) => return report(&explain.inner, subject),
        Plan::Query(query) => subject.query(query, &mut node),
    }
    if let (Some(route), false) = (subject.route, matches!(plan, Plan::Query(_) | Plan::Cursor(_))) {
        node.item("Shards", subject.names(&route.shards));
    }
    node
}

impl Subject<'_> {
    pub fn name(&self, shard: ShardId) -> String {
        self.topology.shard(shard).map_or_else(|| shard.to_string(), |shard| shard.name.clone())
    }

    fn names(&self, shards: &[ShardId]) -> Value {
        Value::List(shards.iter().map(|shard| self.name(*shard)).collect())
    }

    fn query(&self, query: &Query, node: &mut Node) {
        let several = match self.route {
            Some(route) => route.shards.len() > 1,
            None => matches!(query.targets, Targets::Keyspace(_) | Targets::EveryMember),
        };
        if several {
            return self.several(query, node);
        }
        node.text("Tier", "single shard");
        if let Some(route) = self.route {
            node.item("Shards", self.names(&route.shards));
            route.tokens.iter().for_each(|token| node.text("Token", token.to_string()));
        }
        node.text("SQL", &*query.sql);
    }

    fn several(&self, query: &Query, node: &mut Node) {
        let (tier, sql) = match &query.multi {
            MultiShard::Concatenate(c) => ("push down and concatenate", c.sql.as_ref().unwrap_or(&query.sql)),
            MultiShard::MergeSort(m) => ("push down and merge", &m.sql),
            MultiShard::Aggregate(a) => ("partial aggregate", &a.partial_sql),
            MultiShard::Write => ("write on every shard of the keyspace", &query.sql),
            MultiShard::WriteEverywhere => ("write on every shard", &query.sql),
            MultiShard::InsertSplit(_) => ("insert, rows split by owner", &query.sql),
            MultiShard::InsertSelect(insert) => ("insert, rows of a query split by owner", &insert.sql),
            MultiShard::Gather(gather) => return self.gather(gather, node),
            MultiShard::Refused(error) => return node.text("Tier", format!("refused: {}", error.message)),
        };
        node.text("Tier", tier);
        let mut common = true;
        if let Some(route) = self.route {
            node.item("Shards", self.names(&route.shards));
            for shard in &route.shards {
                if let Ok(Some(text)) = filtered(sql, &query.rewritten, self.topology, *shard) {
                    node.text(format!("SQL on {}", self.name(*shard)), text);
                    common = false;
                }
            }
        }
        if common {
            node.text("SQL", &**sql);
        }
        match &query.multi {
            MultiShard::Aggregate(a) => node.text("Combine", &*a.combine_sql),
            MultiShard::MergeSort(m) => {
                let key = |key: &crate::plan::types::SortKey| {
                    let direction = if key.descending { "DESC" } else { "ASC" };
                    let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
                    format!("{} {direction} NULLS {nulls}", key.column + 1)
                };
                node.item("Merge", Value::List(m.order.iter().map(key).collect()));
            }
            _ => {}
        }
    }

    fn gather(&self, gather: &Gather, node: &mut Node) {
        node.text("Tier", "gather");
        if let Some(route) = self.route {
            node.item("Shards", self.names(&route.shards));
        }
        let workbench = self.topology.home_shard().map(|shard| self.name(shard)).unwrap_or_default();
        node.text(format!("SQL on {workbench}"), gather.text(1).unwrap_or_default());
        node.nodes = gather.fragments.iter().enumerate().map(|(at, fragment)| self.fragment(at, fragment)).collect();
    }

    fn fragment(&self, at: usize, fragment: &Fragment) -> Node {
        let number = at + 1;
        let mut node =
            Node { title: format!("Fragment {number}: {}", fragment.sql), kind: "Fragment", ..Node::default() };
        node.item("SQL", Value::Titled(fragment.sql.to_string()));
        node.text("Table", fragment.table.to_string());
        node.item("Columns", Value::List(fragment.columns.clone()));
        if let Some(conditions) = fragment.conditions() {
            node.text("Conditions", conditions);
        }
        let texts = (self.fragments)(&fragment.sql).unwrap_or_default();
        let shards: Vec<ShardId> = texts.iter().map(|(shard, _)| *shard).collect();
        node.item("Shards", self.names(&shards));
        for (shard, text) in texts.into_iter().filter(|(_, text)| **text != *fragment.sql) {
            node.text(format!("SQL on {}", self.name(shard)), text);
        }
        for by in &fragment.limited {
            node.text(format!("If there are few rows of fragment {}", by.fragment + 1), &*by.sql);
        }
        node
    }
}
