//! Tier "push down and merge": ORDER BY and DISTINCT over rows of several shards.
//!
//! Every shard sorts its rows by the statement's own ORDER BY and gives its first LIMIT + OFFSET; the sorted streams are
//! merged. What is sorted by but not selected is appended to the select list and cut off again. SELECT DISTINCT is sorted by
//! all columns, and equal neighbours are dropped. Example:
//! `SELECT id FROM orders ORDER BY amount DESC NULLS LAST, lower(note) LIMIT 10 OFFSET 20`.

use sqlparser::ast::{Distinct, Expr, OrderByExpr, OrderByKind, OrderBySort, SelectItem};

use super::analysis::{Analysis, Facts, Output};
use super::concatenate::{limit_splices, splice, Rewrite};
use super::figure_name::output_name;
use super::keys::strip;
use super::names::ordinal;
use super::refuse::not_over_shards;
use super::types::{MergeSort, MultiShard, SortKey};
use crate::sql::parse::ident_value;
use crate::sql::splice::Splice;
use crate::wire::{PgError, SqlState};

pub fn plan(
    analysis: &mut Analysis<'_>,
    rewrite: &Rewrite<'_>,
    facts: &Facts,
    deduplicated: bool,
) -> Result<MultiShard, PgError> {
    if let Some(error) = analysis.own_collation() {
        return Err(error);
    }
    let select = rewrite.select;
    let keys: &[OrderByExpr] = match rewrite.query.order_by.as_ref().map(|order| &order.kind) {
        Some(OrderByKind::Expressions(keys)) => keys,
        Some(OrderByKind::All(_)) => return Err(not_over_shards("ORDER BY ALL.", "Name the columns.")),
        None => &[],
    };
    let unknown_width =
        || not_over_shards("How many columns the select list has is not known.", "Name the columns instead of *.");
    let text = analysis.text;
    let mut order: Vec<SortKey> = Vec::new();
    let mut hidden: Vec<String> = Vec::new();
    let sorted_text = |number: usize| -> Option<String> {
        // The expression without ASC, DESC, NULLS FIRST.
        let extent = rewrite.clauses.order_by.as_ref()?.items.get(number)?;
        let mut last = *extent.end();
        if last >= 2 && (text.word(last, "first") || text.word(last, "last")) && text.word(last - 1, "nulls") {
            last -= 2;
        }
        if text.word(last, "asc") || text.word(last, "desc") {
            last -= 1;
        }
        (last >= *extent.start()).then(|| text.slice(*extent.start(), last).to_owned())
    };
    let width = facts.columns.as_ref().map(Vec::len);
    for (number, key) in keys.iter().enumerate() {
        if matches!(key.options.sort, Some(OrderBySort::Using(_))) || key.with_fill.is_some() {
            return Err(not_over_shards("ORDER BY ... USING over several shards.", "Use ASC or DESC."));
        }
        let descending = matches!(key.options.sort, Some(OrderBySort::Desc));
        let nulls_first = key.options.nulls_first.unwrap_or(descending);
        let column = match output_column(&key.expr, &select.projection, facts.columns.as_deref())? {
            Some(column) => column,
            None => {
                if matches!(select.distinct, Some(Distinct::Distinct)) {
                    return Err(not_over_shards(
                        "ORDER BY of an expression that SELECT DISTINCT does not select.",
                        "Add it to the select list.",
                    ));
                }
                let width = width.ok_or_else(unknown_width)?;
                let expression = sorted_text(number).ok_or_else(unknown_width)?;
                hidden.push(expression);
                width + hidden.len() - 1
            }
        };
        order.push(SortKey { column, descending, nulls_first });
    }
    let mut splices = limit_splices(analysis, rewrite);
    let last_item = rewrite.clauses.items.last().ok_or_else(unknown_width)?;
    let body_end = text.lexemes[rewrite.clauses.body_last].end;
    let mut distinct = None;
    let mut added: Vec<String> = Vec::new();
    if deduplicated {
        match &select.distinct {
            Some(Distinct::On(on)) => {
                let mut seen: Vec<&Expr> = Vec::new();
                for expr in on.iter().map(strip).chain(keys.iter().take(on.len()).map(|key| strip(&key.expr))) {
                    seen.push(expr);
                }
                let (targets, leading) = seen.split_at(on.len());
                let repeated = |list: &[&Expr]| list.iter().enumerate().any(|(i, e)| list[..i].contains(e));
                let matching =
                    keys.is_empty() || leading.len() == on.len() && leading.iter().all(|e| targets.contains(e));
                if repeated(targets) || !matching {
                    return Err(not_over_shards(
                        "DISTINCT ON and ORDER BY do not name the same expressions in this form.",
                        "Begin ORDER BY with the expressions of DISTINCT ON, written alike.",
                    ));
                }
                if keys.is_empty() {
                    let extents = on_extents(analysis, rewrite).ok_or_else(unknown_width)?;
                    for (expr, written) in on.iter().zip(extents) {
                        let column = match output_column(expr, &select.projection, facts.columns.as_deref())? {
                            Some(column) => column,
                            None => {
                                hidden.push(written.clone());
                                width.ok_or_else(unknown_width)? + hidden.len() - 1
                            }
                        };
                        added.push(written);
                        order.push(SortKey { column, descending: false, nulls_first: false });
                    }
                }
                distinct = Some(on.len());
            }
            _ => {
                let width = width.ok_or_else(unknown_width)?;
                for column in 0..width {
                    if !order.iter().any(|key| key.column == column) {
                        order.push(SortKey { column, descending: false, nulls_first: false });
                        added.push((column + 1).to_string());
                    }
                }
                distinct = Some(order.len());
            }
        }
    }
    if !hidden.is_empty() {
        let at = text.lexemes[*last_item.end()].end;
        splices.push(Splice::insert(at, format!(", {}", hidden.join(", "))));
    }
    if !added.is_empty() {
        let (at, joined) = match &rewrite.clauses.order_by {
            Some(clause) => (text.lexemes[clause.last].end, format!(", {}", added.join(", "))),
            None => (body_end, format!(" ORDER BY {}", added.join(", "))),
        };
        splices.push(Splice::insert(at, joined));
    }
    let sql = splice(analysis, &splices)?;
    let limit = rewrite.limit.clone();
    Ok(MultiShard::MergeSort(MergeSort { sql, order, hidden_columns: hidden.len(), limit, distinct }))
}

fn on_extents(analysis: &Analysis<'_>, rewrite: &Rewrite<'_>) -> Option<Vec<String>> {
    let text = analysis.text;
    let open = rewrite.clauses.select + 3;
    let close = text.closing(open)?;
    let parts = crate::sql::clauses::split_at_commas(text, open + 1, close)?;
    Some(parts.into_iter().map(|extent| text.slice(*extent.start(), *extent.end()).to_owned()).collect())
}

/// The column of the output that an ORDER BY item names: by number, by output name, or by being the same expression.
/// `None`: it is not selected.
fn output_column(expr: &Expr, projection: &[SelectItem], columns: Option<&[Output]>) -> Result<Option<usize>, PgError> {
    let expr = strip(expr);
    if let Some(ordinal) = ordinal(expr) {
        return match ordinal.checked_sub(1) {
            Some(column) if columns.is_none_or(|columns| column < columns.len()) => Ok(Some(column)),
            _ => Err(PgError::new(
                SqlState::INVALID_COLUMN_REFERENCE,
                format!("ORDER BY position {ordinal} is not in select list"),
            )),
        };
    }
    let plain: Option<Vec<(&Expr, Option<String>)>> = projection
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expr) => Some((strip(expr), output_name(expr))),
            SelectItem::ExprWithAlias { expr, alias } => Some((strip(expr), Some(ident_value(alias)))),
            _ => None,
        })
        .collect();
    if let Expr::Identifier(name) = expr {
        let name = ident_value(name);
        let named: Vec<usize> = match (&plain, columns) {
            (Some(items), _) => {
                if items.iter().any(|(_, name)| name.is_none()) {
                    return Err(not_over_shards(
                        "The name of an output column is not known, so what ORDER BY means is not.",
                        "Give the columns aliases.",
                    ));
                }
                let places = items.iter().enumerate().filter(|(_, (_, n))| n.as_deref() == Some(name.as_str()));
                places.map(|(place, _)| place).collect()
            }
            (None, Some(columns)) => {
                let places = columns.iter().enumerate().filter(|(_, c)| c.name.as_deref() == Some(name.as_str()));
                places.map(|(place, _)| place).collect()
            }
            (None, None) => {
                return Err(not_over_shards("The columns of * are not known.", "Name the columns instead of *."))
            }
        };
        match named.as_slice() {
            [] => {}
            [place] => return Ok(Some(*place)),
            several => {
                let same =
                    plain.as_ref().is_some_and(|items| several.iter().all(|&p| items[p].0 == items[several[0]].0));
                if same {
                    return Ok(Some(several[0]));
                }
                return Err(PgError::new(
                    crate::wire::sqlstate::SqlState::AMBIGUOUS_COLUMN,
                    format!("ORDER BY \"{name}\" is ambiguous"),
                ));
            }
        }
    }
    Ok(plain.and_then(|items| items.iter().position(|(item, _)| *item == expr)))
}
