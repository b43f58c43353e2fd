//! Tier "partial aggregate": every shard aggregates its own rows; PostgreSQL combines the partial results.
//!
//! Accepts count, sum, avg, min, max, bool_and, bool_or, every, bit_and, bit_or with FILTER, GROUP BY of expressions,
//! HAVING, ORDER BY, LIMIT, and expressions over them. Example:
//! `SELECT note, count(*) AS n, avg(qty) FROM orders GROUP BY note HAVING count(*) > 5 ORDER BY n DESC LIMIT 10`
//! asks shards for `note, count(*), sum(qty), count(qty)` by note. DISTINCT aggregates, ordered aggregates and grouping sets
//! have no partial form.

use std::sync::Arc;

use ringway_topology::model::quote_ident;
use sqlparser::ast::{
    Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, OrderByKind, SelectItem,
};

use super::analysis::Analysis;
use super::concatenate::{splice, Rewrite};
use super::figure_name::output_name;
use super::keys::strip;
use super::names::ordinal;
use super::numeric_type::{plain_items, NumericType};
use super::refuse::not_over_shards;
use super::types::{Aggregate, MultiShard};
use crate::sql::clauses::{Clause, Extent};
use crate::sql::lexer::Kind;
use crate::sql::parse::{ident_value, name_parts};
use crate::sql::splice::Splice;
use crate::wire::PgError;

const GROUP_BY_KEY: &str = "Add the shard key to GROUP BY, or hold the tables to their keys.";

struct Builder<'b, 'a> {
    analysis: &'b Analysis<'a>,
    /// What rows are grouped by, and how it is written.
    groups: Vec<(Expr, String)>,
    /// Columns of the partial after the groups.
    partials: Vec<String>,
    /// Client parameters of the combine step.
    parameters: Vec<usize>,
}

/// A replaced range of tokens.
type Replacement = (usize, usize, String);

pub fn plan(analysis: &mut Analysis<'_>, rewrite: &Rewrite<'_>) -> Result<MultiShard, PgError> {
    if let Some(error) = analysis.own_collation() {
        return Err(error);
    }
    let (select, clauses) = (rewrite.select, &rewrite.clauses);
    let refuse = |what: &str| not_over_shards(what, GROUP_BY_KEY);
    if clauses.window.is_some() || clauses.locks.is_some() {
        return Err(refuse("Windows or locks over grouped rows of several shards."));
    }
    if matches!(select.distinct, Some(Distinct::On(_))) {
        return Err(refuse("DISTINCT ON over grouped rows of several shards."));
    }
    let items = plain_items(&select.projection).ok_or_else(|| refuse("* in the select list of a grouped query."))?;
    let from_where = clauses.from_where.clone().ok_or_else(|| refuse("A grouped query without FROM."))?;
    let group_exprs = match &select.group_by {
        GroupByExpr::Expressions(group_by, modifiers) if modifiers.is_empty() => group_by.as_slice(),
        _ => return Err(refuse("GROUPING SETS, ROLLUP or CUBE over rows of several shards.")),
    };
    let mut builder = Builder { analysis, groups: Vec::new(), partials: Vec::new(), parameters: Vec::new() };
    for (number, expr) in group_exprs.iter().enumerate() {
        let extent = clauses.group_by.as_ref().and_then(|clause| clause.items.get(number)).cloned();
        let extent = extent.ok_or_else(|| refuse("GROUP BY in this form."))?;
        builder.group(expr, &extent, &select.projection, &items, &clauses.items)?;
    }
    // The select list.
    let mut list = Vec::with_capacity(items.len());
    let mut names = Vec::with_capacity(items.len());
    for ((item, expr), extent) in select.projection.iter().zip(&items).zip(&clauses.items) {
        let (extent, alias) = match item {
            SelectItem::ExprWithAlias { alias, .. } => {
                let end = builder.before_alias(extent, alias).ok_or_else(|| refuse("An alias in this form."))?;
                (*extent.start()..=end, ident_value(alias))
            }
            _ => {
                let name = output_name(expr).ok_or_else(|| {
                    not_over_shards("The name of an output column is not known.", "Give it an alias.")
                })?;
                (extent.clone(), name)
            }
        };
        list.push(format!("{} AS {}", builder.text(expr, &extent, true)?, quote_ident(&alias)));
        names.push(alias);
    }
    let mut combine = "SELECT ".to_owned();
    if matches!(select.distinct, Some(Distinct::Distinct)) {
        combine.push_str("DISTINCT ");
    }
    combine.push_str(&list.join(", "));
    combine.push_str(" FROM {partials}");
    if !builder.groups.is_empty() {
        let columns: Vec<String> = (0..builder.groups.len()).map(|column| format!("p.c{column}")).collect();
        combine.push_str(&format!(" GROUP BY {}", columns.join(", ")));
    }
    if let (Some(having), Some(clause)) = (&select.having, &clauses.having) {
        let extent = clause.content().ok_or_else(|| refuse("HAVING in this form."))?;
        combine.push_str(&format!(" HAVING {}", builder.text(having, &extent, true)?));
    }
    if let (Some(order), Some(clause)) = (&rewrite.query.order_by, &clauses.order_by) {
        let OrderByKind::Expressions(keys) = &order.kind else { return Err(refuse("ORDER BY ALL.")) };
        let mut sorted = Vec::new();
        for (key, extent) in keys.iter().zip(&clause.items) {
            if key.with_fill.is_some() || matches!(key.options.sort, Some(sqlparser::ast::OrderBySort::Using(_))) {
                return Err(refuse("ORDER BY ... USING over several shards."));
            }
            let named = matches!(strip(&key.expr), Expr::Identifier(name) if names.contains(&ident_value(name)));
            let text = if named || ordinal(&key.expr).is_some() {
                builder.verbatim(extent, Vec::new())
            } else {
                builder.text(&key.expr, extent, false)?
            };
            sorted.push(text);
        }
        combine.push_str(&format!(" ORDER BY {}", sorted.join(", ")));
    }
    let mut tail: Vec<&Clause> = [&clauses.limit, &clauses.offset, &clauses.fetch].into_iter().flatten().collect();
    tail.sort_by_key(|clause| clause.keyword);
    for clause in tail {
        combine.push(' ');
        combine.push_str(&builder.verbatim(&(clause.keyword..=clause.last), Vec::new()));
    }
    // Shards: the groups, then the partials.
    let mut columns: Vec<String> = builder.groups.iter().map(|(_, text)| text.clone()).collect();
    let group_by = match columns.len() {
        0 => String::new(),
        count => format!(" GROUP BY {}", (1..=count).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")),
    };
    columns.extend(builder.partials.iter().cloned());
    let parameters = std::mem::take(&mut builder.parameters);
    let partial_columns = columns.len();
    let lexemes = &analysis.text.lexemes;
    let list_range = lexemes[clauses.select].end..lexemes[*from_where.start()].start;
    let tail_range = lexemes[*from_where.end()].end..lexemes[clauses.last].end;
    let splices =
        [Splice::replace(list_range, format!(" {} ", columns.join(", "))), Splice::replace(tail_range, group_by)];
    let partial_sql = splice(analysis, &splices)?;
    Ok(MultiShard::Aggregate(Aggregate {
        partial_sql,
        combine_sql: Arc::from(combine),
        combine_parameters: parameters,
        partial_columns,
    }))
}

impl Builder<'_, '_> {
    fn refuse(what: impl Into<String>) -> PgError {
        not_over_shards(what, GROUP_BY_KEY)
    }

    fn group(
        &mut self,
        expr: &Expr,
        extent: &Extent,
        projection: &[SelectItem],
        items: &[&Expr],
        item_extents: &[Extent],
    ) -> Result<(), PgError> {
        let text = self.analysis.text;
        let stripped = strip(expr);
        let mut place = ordinal(stripped).map(|ordinal| ordinal.wrapping_sub(1));
        if let (None, Expr::Identifier(name)) = (place, stripped) {
            // An input column goes before an output name.
            let name = ident_value(name);
            let input = self.analysis.base_tables.iter().any(|(_, table)| {
                self.analysis.context.catalog.relation(table).is_some_and(|relation| relation.column(&name).is_some())
            });
            if !input {
                place = projection.iter().position(
                    |item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if ident_value(alias) == name),
                );
                let derived = self.analysis.derived_in_from;
                if derived && place.is_some() {
                    return Err(Self::refuse(
                        "GROUP BY names an output column that may be a column of a subquery too.",
                    ));
                }
            }
        }
        if place.is_none() && matches!(stripped, Expr::Value(_) | Expr::Tuple(_)) {
            return Err(Self::refuse("GROUP BY of a constant or a list."));
        }
        if matches!(stripped, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)) {
            return Err(Self::refuse("Rows of several shards are grouped in more than one way."));
        }
        let (expr, text) = match place {
            None => (stripped.clone(), text.slice(*extent.start(), *extent.end()).to_owned()),
            Some(place) => {
                let (Some(item), Some(expr), Some(extent)) =
                    (projection.get(place), items.get(place), item_extents.get(place))
                else {
                    return Err(Self::refuse("GROUP BY position is not in the select list."));
                };
                let end = match item {
                    SelectItem::ExprWithAlias { alias, .. } => {
                        self.before_alias(extent, alias).ok_or_else(|| Self::refuse("An alias in this form."))?
                    }
                    _ => *extent.end(),
                };
                (strip(expr).clone(), text.slice(*extent.start(), end).to_owned())
            }
        };
        if self.analysis.collect(&[&expr]).has_sublinks() {
            return Err(Self::refuse("GROUP BY has a subquery."));
        }
        if !self.groups.iter().any(|(known, _)| *known == expr) {
            self.groups.push((expr, text));
        }
        Ok(())
    }

    /// The last token of an item's expression.
    fn before_alias(&self, extent: &Extent, alias: &sqlparser::ast::Ident) -> Option<usize> {
        let text = self.analysis.text;
        let at = text.ident(alias)?;
        if at != *extent.end() || at == *extent.start() {
            return None;
        }
        let before = at - 1;
        if text.word(before, "as") {
            before.checked_sub(1)
        } else {
            Some(before)
        }
    }

    /// The combine step's text of an expression that stands at `extent`; `exact`: nothing else stands there.
    fn text(&mut self, expr: &Expr, extent: &Extent, exact: bool) -> Result<String, PgError> {
        if let (true, Some(column)) = (exact, self.group_column(expr)) {
            return Ok(format!("p.c{column}"));
        }
        let mut replacements = Vec::new();
        self.walk(expr, &mut replacements, extent)?;
        Ok(self.verbatim(extent, replacements))
    }

    fn group_column(&self, expr: &Expr) -> Option<usize> {
        let expr = strip(expr);
        self.groups.iter().position(|(group, _)| group == expr)
    }

    /// Finds groups and aggregates in an expression; anything else that reads a row is refused.
    fn walk(&mut self, expr: &Expr, out: &mut Vec<Replacement>, extent: &Extent) -> Result<(), PgError> {
        if let Some(column) = self.group_column(expr) {
            if let Some((first, last)) = self.extent_of(strip(expr), extent) {
                out.push((first, last, format!("p.c{column}")));
                return Ok(());
            }
            if !matches!(strip(expr), Expr::Value(_)) {
                return Err(Self::refuse("An expression of GROUP BY stands inside another expression."));
            }
        }
        match expr {
            Expr::Nested(inner)
            | Expr::UnaryOp { expr: inner, .. }
            | Expr::Cast { expr: inner, .. }
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::Extract { expr: inner, .. } => self.walk(inner, out, extent),
            Expr::BinaryOp { left, right, .. }
            | Expr::IsDistinctFrom(left, right)
            | Expr::IsNotDistinctFrom(left, right)
            | Expr::AtTimeZone { timestamp: left, time_zone: right } => {
                self.walk(left, out, extent)?;
                self.walk(right, out, extent)
            }
            Expr::Between { expr, low, high, .. } => {
                self.walk(expr, out, extent)?;
                self.walk(low, out, extent)?;
                self.walk(high, out, extent)
            }
            Expr::InList { expr, list, .. } => {
                self.walk(expr, out, extent)?;
                list.iter().try_for_each(|value| self.walk(value, out, extent))
            }
            Expr::Like { expr, pattern, escape_char: None, any: false, .. }
            | Expr::ILike { expr, pattern, escape_char: None, any: false, .. } => {
                self.walk(expr, out, extent)?;
                self.walk(pattern, out, extent)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                for part in operand.iter().chain(else_result) {
                    self.walk(part, out, extent)?;
                }
                for when in conditions {
                    self.walk(&when.condition, out, extent)?;
                    self.walk(&when.result, out, extent)?;
                }
                Ok(())
            }
            Expr::Value(_) | Expr::TypedString(_) | Expr::Interval(_) => Ok(()),
            Expr::Function(function) if self.analysis.is_aggregate(function) => {
                let (first, last) = self
                    .function_extent(function)
                    .ok_or_else(|| Self::refuse("Where an aggregate stands in the text is not exactly known."))?;
                let combined = self.aggregate(function, first, last)?;
                out.push((first, last, combined));
                Ok(())
            }
            Expr::Function(function) if function.over.is_none() => match &function.args {
                FunctionArguments::None => Ok(()),
                FunctionArguments::List(list) if list.duplicate_treatment.is_none() && list.clauses.is_empty() => {
                    list.args.iter().try_for_each(|arg| match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => self.walk(expr, out, extent),
                        _ => Err(Self::refuse("A function's argument in this form.")),
                    })
                }
                _ => Err(Self::refuse("A function call in this form.")),
            },
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                Err(Self::refuse("A column is neither grouped nor aggregated as written."))
            }
            _ => Err(Self::refuse("An expression over aggregates in this form.")),
        }
    }

    fn extent_of(&self, expr: &Expr, within: &Extent) -> Option<(usize, usize)> {
        let text = self.analysis.text;
        let found = match expr {
            Expr::Identifier(ident) => text.ident(ident).map(|at| (at, at)),
            Expr::CompoundIdentifier(parts) => {
                let (first, last) = (text.ident(parts.first()?)?, text.ident(parts.last()?)?);
                (last == first + 2 * (parts.len() - 1)).then_some((first, last))
            }
            Expr::Function(function) => self.function_extent(function),
            _ => None,
        };
        found.filter(|(first, last)| within.contains(first) && within.contains(last))
    }

    /// From its name to its last parenthesis, FILTER included.
    fn function_extent(&self, function: &Function) -> Option<(usize, usize)> {
        let text = self.analysis.text;
        let (first, last_name) = text.object_name(&function.name)?;
        if !text.punctuation(last_name + 1, b'(') {
            return matches!(function.args, FunctionArguments::None).then_some((first, last_name));
        }
        let mut last = text.closing(last_name + 1)?;
        if function.filter.is_some() {
            if !text.word(last + 1, "filter") {
                return None;
            }
            last = text.closing(last + 2)?;
        }
        Some((first, last))
    }

    /// Adds the partial columns of an aggregate; gives the expression that combines them.
    fn aggregate(&mut self, function: &Function, first: usize, last: usize) -> Result<String, PgError> {
        let text = self.analysis.text;
        let name = name_parts(&function.name).and_then(|parts| parts.last().cloned()).unwrap_or_default();
        let user = self.analysis.context.catalog.function(&name).is_some_and(|f| f.user_defined);
        let FunctionArguments::List(list) = &function.args else {
            return Err(Self::refuse(format!("Aggregate {name} in this form.")));
        };
        if list.duplicate_treatment.is_some_and_distinct() {
            return Err(Self::refuse(format!("{name}(DISTINCT ...) compares rows of several shards.")));
        }
        if user || !list.clauses.is_empty() || !function.within_group.is_empty() || function.over.is_some() {
            return Err(Self::refuse(format!("Aggregate {name} has no partial form.")));
        }
        let argument = match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => Some(expr),
            [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if name == "count" => None,
            _ => return Err(Self::refuse(format!("Aggregate {name} in this form."))),
        };
        let mut inside: Vec<&Expr> = argument.into_iter().collect();
        inside.extend(function.filter.as_deref());
        let level = self.analysis.collect(&inside);
        if level.has_sublinks() || level.aggregates {
            return Err(Self::refuse(format!("Aggregate {name} has a subquery.")));
        }
        let whole = text.slice(first, last).to_owned();
        let open = text.object_name(&function.name).map(|(_, last)| last + 1).unwrap_or(first + 1);
        let close = text.closing(open).unwrap_or(last);
        let after = if close < last { format!(" {}", text.slice(close + 1, last)) } else { String::new() };
        let inner = if open + 1 < close { text.slice(open + 1, close - 1).to_owned() } else { String::new() };
        let groups = self.groups.len();
        let mut column = |partial: String| -> String {
            let place = self.partials.iter().position(|known| *known == partial).unwrap_or_else(|| {
                self.partials.push(partial);
                self.partials.len() - 1
            });
            format!("p.c{}", groups + place)
        };
        let not_known = || {
            not_over_shards(
                format!("The type of the argument of {name} is not known, so neither is that of the result."),
                format!("Cast it: {name}((...)::numeric)."),
            )
        };
        Ok(match name.as_str() {
            "count" => format!("coalesce(pg_catalog.sum({}), 0)::pg_catalog.int8", column(whole)),
            "min" | "max" | "bool_and" | "bool_or" | "every" | "bit_and" | "bit_or" => {
                let combine = if name == "every" { "bool_and" } else { name.as_str() };
                format!("pg_catalog.{combine}({})", column(whole))
            }
            "sum" => {
                let argument = argument.ok_or_else(not_known)?;
                let sum = match self.analysis.numeric_type(argument).ok_or_else(not_known)? {
                    NumericType::Int2 | NumericType::Int4 => {
                        format!("pg_catalog.sum({})::pg_catalog.int8", column(whole))
                    }
                    _ => format!("pg_catalog.sum({})", column(whole)),
                };
                sum
            }
            "avg" => {
                let argument = argument.ok_or_else(not_known)?;
                let kind = self.analysis.numeric_type(argument).ok_or_else(not_known)?;
                let inner = inner.strip_prefix("all ").map_or(inner.clone(), str::to_owned);
                let count = column(format!("pg_catalog.count({inner}){after}"));
                match kind {
                    NumericType::Float4 | NumericType::Float8 => {
                        let sum = column(format!("pg_catalog.sum(({inner})::pg_catalog.float8){after}"));
                        format!("(pg_catalog.sum({sum}) / nullif(pg_catalog.sum({count}), 0)::pg_catalog.float8)")
                    }
                    _ => {
                        let sum = column(format!("pg_catalog.sum({inner}){after}"));
                        format!("(pg_catalog.sum({sum})::pg_catalog.numeric / nullif(pg_catalog.sum({count}), 0))")
                    }
                }
            }
            _ => return Err(Self::refuse(format!("Aggregate {name} has no partial form."))),
        })
    }

    /// The text at `extent` with ranges replaced and parameters renumbered.
    fn verbatim(&mut self, extent: &Extent, mut replacements: Vec<Replacement>) -> String {
        replacements.sort();
        let text = self.analysis.text;
        let mut out = String::new();
        let mut at = *extent.start();
        let mut from = text.lexemes[at].start;
        while at <= *extent.end() {
            let lexeme = text.lexemes[at];
            if let Some((_, last, with)) = replacements.iter().find(|(first, _, _)| *first == at) {
                out.push_str(&text.sql[from..lexeme.start]);
                out.push_str(with);
                at = *last;
                from = text.lexemes[at].end;
            } else if let Kind::Parameter(number) = lexeme.kind {
                let index = (number as usize).saturating_sub(1);
                let place = self.parameters.iter().position(|known| *known == index).unwrap_or_else(|| {
                    self.parameters.push(index);
                    self.parameters.len() - 1
                });
                out.push_str(&text.sql[from..lexeme.start]);
                out.push_str(&format!("${}", place + 1));
                from = lexeme.end;
            }
            at += 1;
        }
        let end = text.lexemes[*extent.end()].end;
        if from < end {
            out.push_str(&text.sql[from..end]);
        }
        out
    }
}

trait IsDistinct {
    fn is_some_and_distinct(&self) -> bool;
}

impl IsDistinct for Option<sqlparser::ast::DuplicateTreatment> {
    fn is_some_and_distinct(&self) -> bool {
        matches!(self, Some(sqlparser::ast::DuplicateTreatment::Distinct))
    }
}
