//! Tier "push down and concatenate": every shard runs the statement on its own rows; the rows of all shards, in any order,
//! are the answer.
//!
//! Accepts one sharded table or several joined on their keys, inner-joined reference tables, subqueries joined on the key,
//! GROUP BY / DISTINCT / windows that contain the key, LIMIT and OFFSET without ORDER BY. Example:
//! `SELECT * FROM orders o JOIN items i ON i.user_id = o.user_id WHERE o.qty > 5 LIMIT 10`.

use std::sync::Arc;

use sqlparser::ast::{
    CastKind, Distinct, Expr, Fetch, GroupByExpr, LimitClause, OrderByKind, Query, Select, SetExpr, Value,
    ValueWithSpan,
};

use super::analysis::{Analysis, Facts};
use super::keys::{parameter_index, strip};
use super::names::item_expression;
use super::refuse::not_over_shards;
use super::types::{Concatenate, CountExpression, FilterSplice, LimitOffset, MultiShard, ShardedReference};
use super::{aggregate, merge_sort};
use crate::sql::clauses::{self, Clause, SelectClauses};
use crate::sql::splice::{apply, moved, Splice};
use crate::wire::PgError;

/// A SELECT that is rewritten for shards.
pub struct Rewrite<'q> {
    pub query: &'q Query,
    pub select: &'q Select,
    pub clauses: SelectClauses,
    pub limit: LimitOffset,
}

pub fn select(analysis: &mut Analysis<'_>, query: &Query, facts: &Facts) -> MultiShard {
    match try_select(analysis, query, facts) {
        Ok(multi) => multi,
        Err(error) => MultiShard::Refused(Box::new(error)),
    }
}

fn try_select(analysis: &mut Analysis<'_>, query: &Query, facts: &Facts) -> Result<MultiShard, PgError> {
    let select = match &*query.body {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { .. } => {
            if let Some(finish) = &facts.finish {
                return Err((**finish).clone());
            }
            if query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some() {
                return Err(not_over_shards(
                    "ORDER BY or LIMIT of a set operation over several shards.",
                    "Sort or limit in an outer query: SELECT * FROM (... UNION ALL ...) AS q ORDER BY ....",
                ));
            }
            return Ok(MultiShard::Concatenate(Concatenate { sql: None, limit: LimitOffset::default() }));
        }
        _ => return Err(not_over_shards("This form of query is not pushed down.", "Write it as a plain SELECT.")),
    };
    let clauses = analysis
        .text
        .location(select.select_token.0.span.start)
        .and_then(|index| clauses::select(analysis.text, index))
        .ok_or_else(|| {
            not_over_shards("The clauses of the query are not exactly known.", "Write it as a plain SELECT.")
        })?;
    agree(select, query, &clauses)?;
    let limit = limit(query, &clauses)?;
    let rewrite = Rewrite { query, select, clauses, limit };
    let grouped =
        rewrite.clauses.group_by.is_some() || select.having.is_some() || analysis.has_aggregates(query, select);
    let keyed = facts.finish.is_none();
    if grouped && !keyed {
        return aggregate::plan(analysis, &rewrite);
    }
    let deduplicated = select.distinct.as_ref().is_some_and(|d| !matches!(d, Distinct::All)) && !keyed;
    if deduplicated || query.order_by.is_some() {
        return merge_sort::plan(analysis, &rewrite, facts, deduplicated);
    }
    let splices = limit_splices(analysis, &rewrite);
    let sql = if splices.is_empty() { None } else { Some(splice(analysis, &splices)?) };
    Ok(MultiShard::Concatenate(Concatenate { sql, limit: rewrite.limit }))
}

pub fn splice(analysis: &mut Analysis<'_>, splices: &[Splice]) -> Result<Arc<str>, PgError> {
    analysis.rewritten_by = splices.to_vec();
    apply(analysis.text.sql, splices).map(Arc::from).ok_or_else(|| {
        not_over_shards("The clauses of the query are not exactly known.", "Write it as a plain SELECT.")
    })
}

/// The token stream and the tree must tell the same clauses.
fn agree(select: &Select, query: &Query, clauses: &SelectClauses) -> Result<(), PgError> {
    let group_by = match &select.group_by {
        GroupByExpr::Expressions(items, modifiers) if modifiers.is_empty() => items.len(),
        _ => usize::MAX,
    };
    let order_by = match query.order_by.as_ref().map(|order| &order.kind) {
        Some(OrderByKind::Expressions(keys)) => keys.len(),
        Some(_) => usize::MAX,
        None => 0,
    };
    let count = |clause: &Option<Clause>| clause.as_ref().map_or(0, |clause| clause.items.len());
    let same = clauses.items.len() == select.projection.len()
        && (group_by == usize::MAX || count(&clauses.group_by) == group_by)
        && count(&clauses.order_by) == order_by
        && clauses.having.is_some() == select.having.is_some()
        && clauses.where_.is_some() == select.selection.is_some()
        && clauses.fetch.is_some() == query.fetch.is_some();
    if same {
        return Ok(());
    }
    Err(not_over_shards("The clauses of the query are not exactly known.", "Write it as a plain SELECT."))
}

/// LIMIT, OFFSET and FETCH as values.
fn limit(query: &Query, clauses: &SelectClauses) -> Result<LimitOffset, PgError> {
    let mut out = LimitOffset::default();
    match &query.limit_clause {
        None => {}
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            out.limit = limit.as_ref().map(count).transpose()?.flatten();
            out.offset = offset.as_ref().map(|offset| count(&offset.value)).transpose()?.flatten();
        }
        Some(_) => return Err(not_over_shards("LIMIT in this form.", "Write LIMIT n OFFSET m.")),
    }
    if let Some(Fetch { with_ties, percent, quantity }) = &query.fetch {
        if *with_ties || *percent {
            return Err(not_over_shards("FETCH ... WITH TIES over several shards.", "Use FETCH ... ONLY."));
        }
        if clauses.limit.is_some() {
            return Err(not_over_shards("LIMIT and FETCH together.", "Use one of them."));
        }
        out.limit = match quantity {
            Some(quantity) => count(quantity)?,
            None => Some(CountExpression::Constant(1)),
        };
    }
    Ok(out)
}

fn count(expr: &Expr) -> Result<Option<CountExpression>, PgError> {
    match strip(expr) {
        Expr::Value(ValueWithSpan { value, .. }) => match value {
            Value::Null => return Ok(None),
            Value::Number(number, _) => {
                if let Some(value) = number.parse().ok().filter(|value: &u64| i64::try_from(*value).is_ok()) {
                    return Ok(Some(CountExpression::Constant(value)));
                }
            }
            Value::Placeholder(name) => {
                if let Some(index) = parameter_index(name) {
                    return Ok(Some(CountExpression::Parameter { index }));
                }
            }
            _ => {}
        },
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            use ringway_topology::token::KeyFamily;
            if super::keys::cast_type(data_type).is_some_and(|t| t.family() == KeyFamily::Integer) {
                return count(expr);
            }
        }
        _ => {}
    }
    Err(not_over_shards("LIMIT or OFFSET is an expression.", "Use a constant or a parameter."))
}

/// Every shard gives its first LIMIT + OFFSET rows.
pub fn limit_splices(analysis: &Analysis<'_>, rewrite: &Rewrite<'_>) -> Vec<Splice> {
    let clauses = &rewrite.clauses;
    let text = analysis.text;
    let range = |clause: &Clause| text.lexemes[clause.keyword].start..text.lexemes[clause.last].end;
    if rewrite.limit.offset.is_none() && clauses.offset.is_none() {
        return Vec::new();
    }
    let sql = |count: &CountExpression| match count {
        CountExpression::Constant(value) => value.to_string(),
        CountExpression::Parameter { index } => format!("${}::int8", index + 1),
    };
    let pushed = match (&rewrite.limit.limit, &rewrite.limit.offset) {
        (Some(CountExpression::Constant(a)), Some(CountExpression::Constant(b))) => {
            Some(a.saturating_add(*b).min(i64::MAX as u64).to_string())
        }
        (Some(limit), None) => Some(sql(limit)),
        // The sum may be no int8. NULL, which is no limit, is passed over by LEAST.
        (Some(limit), Some(offset)) => {
            Some(format!("LEAST({}::numeric + {}, {})::int8", sql(limit), sql(offset), i64::MAX))
        }
        // The parameter stays in the text.
        (None, Some(offset @ CountExpression::Parameter { .. })) => Some(format!("(NULL::int8 + {})", sql(offset))),
        (None, _) => None,
    };
    let mut places: Vec<&Clause> = [&clauses.limit, &clauses.offset, &clauses.fetch].into_iter().flatten().collect();
    places.sort_by_key(|clause| clause.keyword);
    places
        .into_iter()
        .enumerate()
        .map(|(number, clause)| {
            let limit = pushed.as_ref().filter(|_| number == 0).map_or(String::new(), |limit| format!("LIMIT {limit}"));
            Splice::replace(range(clause), limit)
        })
        .collect()
}

/// Where the references stand in the text that several shards are sent.
pub fn rewritten_references(
    analysis: &Analysis<'_>,
    references: &[ShardedReference],
    multi: &MultiShard,
) -> Vec<ShardedReference> {
    let rewritten: &str = match multi {
        MultiShard::Concatenate(Concatenate { sql: Some(sql), .. }) => sql,
        MultiShard::MergeSort(merge) => &merge.sql,
        MultiShard::Aggregate(aggregate) => &aggregate.partial_sql,
        // Its fragments have references of their own.
        MultiShard::Gather(_) => return Vec::new(),
        _ => return references.to_vec(),
    };
    // The parts that differ are the select list and what follows the body: a common prefix and suffix around each
    // reference is not enough, so the splices' effect is found again by the reference's own text and order.
    let original = analysis.text.sql;
    references
        .iter()
        .map(|reference| {
            let splice = match &reference.splice {
                FilterSplice::Relation { start, end, alias, aliased } => match analysis.shifted(*start, *end) {
                    Some((from, to)) if rewritten.get(from..to) == original.get(*start..*end) => {
                        FilterSplice::Relation { start: from, end: to, alias: alias.clone(), aliased: *aliased }
                    }
                    _ => FilterSplice::Unknown,
                },
                _ => FilterSplice::Unknown,
            };
            ShardedReference { splice, ..reference.clone() }
        })
        .collect()
}

impl Analysis<'_> {
    pub fn has_aggregates(&self, query: &Query, select: &Select) -> bool {
        let sorted = match query.order_by.as_ref().map(|order| &order.kind) {
            Some(OrderByKind::Expressions(keys)) => keys.as_slice(),
            _ => &[],
        };
        let selected = select.projection.iter().filter_map(item_expression);
        let expressions: Vec<&Expr> = selected.chain(sorted.iter().map(|key| &key.expr)).collect();
        self.collect(&expressions).aggregates
    }

    /// Where bytes of the original lie in the rewritten text, after [`Analysis::rewritten_by`].
    fn shifted(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let from = moved(start, &self.rewritten_by)?;
        Some((from, from + (end - start)))
    }

    /// Why text may be sorted or compared by another collation than the database's.
    pub fn own_collation(&self) -> Option<PgError> {
        let text = self.text;
        let named = (0..text.lexemes.len()).any(|index| text.word(index, "collate"));
        let mut column = None;
        for table in &self.tables {
            let Some(relation) = self.context.catalog.relation(table) else { continue };
            for own in relation.columns.iter().filter(|column| column.own_collation) {
                let mentioned = text.lexemes.iter().enumerate().any(|(index, lexeme)| {
                    lexeme.identifier(text.sql).as_deref() == Some(own.name.as_str())
                        || lexeme.is_operator(text.sql, "*")
                            && index > 0
                            && (text.word(index - 1, "select")
                                || text.punctuation(index - 1, b',')
                                || text.punctuation(index - 1, b'.'))
                });
                if mentioned {
                    column = Some(own.name.clone());
                }
            }
        }
        if named || column.is_some() {
            let what = column.map_or_else(
                || "The statement names a collation.".to_owned(),
                |column| format!("Column {column} has a collation of its own."),
            );
            return Some(not_over_shards(
                format!("{what} Rows of several shards are compared by the database's default collation."),
                "Leave such columns out of the statement, or hold the tables to their keys.",
            ));
        }
        None
    }
}
