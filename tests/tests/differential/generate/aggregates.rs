//! Aggregates by the type of what they give.

use super::scope::Scope;
use super::tree::{form, optional, text, Node};
use super::types::Type;
use super::Maker;

impl Maker {
    /// Over the rows of a grouped query's groups.
    pub fn aggregate(&mut self, scope: &Scope, ty: Type, depth: u32) -> Node {
        let Some(rows) = &scope.aggregated else { return self.constant(ty) };
        let rows = rows.alone();
        let depth = depth.min(1);
        let held = std::mem::replace(&mut self.subqueries, 0);
        let node = self.aggregate_over(&rows, ty, depth);
        self.subqueries = held;
        node
    }

    fn aggregate_over(&mut self, rows: &Scope, ty: Type, depth: u32) -> Node {
        use Type::*;
        // The pattern, the argument's type, and whether DISTINCT may stand before it.
        let forms: &[(&str, Type, bool)] = match ty {
            Int => &[
                ("min({})", Int, false),
                ("max({})", Int, true),
                ("count({})::integer", Text, true),
                ("count(*)::integer", Int, false),
                ("percentile_disc(0.5) WITHIN GROUP (ORDER BY {})", Int, false),
                ("bit_or({})", Int, false),
            ],
            Big => &[
                ("count(*)", Int, false),
                ("count({})", Int, true),
                ("count({})", TextC, true),
                ("count({})", Json, true),
                ("count({})", Uuid, true),
                ("sum({})", Int, true),
                ("sum({})::bigint", Big, true),
                ("max({})", Big, false),
                ("min({})", Big, false),
                ("regr_count({0}, {0})", Float, false),
            ],
            Num => &[
                ("sum({})", Num, true),
                ("round(avg({}), 2)", Num, true),
                ("round(avg({}), 2)", Int, true),
                ("round(avg({}), 2)", Big, false),
                ("min({})", Num, false),
                ("max({})", Num, false),
                ("round(stddev({}), 2)", Num, false),
                ("round(var_pop({}), 2)", Int, false),
                ("percentile_disc(0.25) WITHIN GROUP (ORDER BY {} DESC)", Num, false),
            ],
            Float => &[
                ("sum({})", Float, false),
                ("avg({})", Float, false),
                ("min({})", Float, false),
                ("max({})", Float, true),
                ("percentile_cont(0.5) WITHIN GROUP (ORDER BY {})", Float, false),
            ],
            Text => &[
                ("min({})", Text, false),
                ("max({})", Text, true),
                ("string_agg({0}, ',' ORDER BY {0})", Text, true),
                ("string_agg({0}, ',' ORDER BY {0} DESC)", Text, false),
                ("mode() WITHIN GROUP (ORDER BY {})", Text, false),
                ("(array_agg({0} ORDER BY {0}))[1]::text", Uuid, false),
            ],
            TextC => &[("min({})", TextC, false), ("max({})", TextC, false)],
            TextIcu => &[("min({})", TextIcu, false), ("max({})", TextIcu, false)],
            Bool => &[("bool_and({})", Bool, false), ("bool_or({})", Bool, false), ("(count(*) > 2)", Bool, false)],
            Date => &[("min({})", Date, false), ("max({})", Date, false)],
            Stamp => &[("min({})", Stamp, false), ("max({})", Stamp, false)],
            StampTz => &[("min({})", StampTz, false), ("max({})", StampTz, false)],
            Uuid => &[("(array_agg({0} ORDER BY {0}))[1]", Uuid, false)],
            Ints => &[
                ("array_agg({0} ORDER BY {0})", Int, true),
                ("array_agg({0} ORDER BY {0} DESC NULLS LAST)", Int, false),
                ("max({})", Ints, false),
            ],
            Texts => &[("array_agg({0} ORDER BY {0})", Text, true), ("min({})", Texts, false)],
            Json => &[("jsonb_agg({0} ORDER BY {0})", Int, false), ("jsonb_agg({0} ORDER BY {0})", Text, false)],
            Mood => &[("min({})", Mood, false), ("max({})", Mood, false)],
        };
        let (pattern, argument_type, may_be_distinct) = self.choose(forms);
        let held = std::mem::replace(&mut self.parameters, false);
        // Sums of floats are exact for quarters alone.
        let argument = self.expression(rows, argument_type, depth);
        let filter = match self.chance(0.15) {
            true => form(" FILTER (WHERE {})", vec![self.condition(rows, 0)]),
            false => text(""),
        };
        self.parameters = held;
        let distinct = may_be_distinct && self.chance(0.3);
        let argument = match distinct {
            true => argument.render().0,
            false if pattern.contains("{0}") => argument.render().0,
            false => return self.filtered(pattern, vec![argument], filter),
        };
        // DISTINCT goes by the same expression as ORDER BY.
        let pattern = pattern.replacen("{0}", if distinct { "DISTINCT {}" } else { "{}" }, 1).replace("{0}", "{}");
        let pattern = match distinct && !pattern.contains("DISTINCT") {
            true => pattern.replacen("({}", "(DISTINCT {}", 1),
            false => pattern,
        };
        let places = pattern.matches("{}").count();
        self.filtered(&pattern, vec![text(argument); places], filter)
    }

    /// FILTER stands right behind the call, before whatever is done with its result.
    fn filtered(&mut self, pattern: &str, arguments: Vec<Node>, filter: Node) -> Node {
        let arguments = if pattern.contains("{}") { arguments } else { Vec::new() };
        if pattern.starts_with("round(") || pattern.starts_with('(') {
            return form(pattern, arguments);
        }
        let (call, rest) =
            pattern.split_once("::").map_or((pattern, String::new()), |(call, ty)| (call, format!("::{ty}")));
        let call = form(call, arguments);
        Node::Sequence(vec![call, optional(filter), text(rest)])
    }

    /// A query of one row: an aggregate over a FROM of its own.
    pub fn one_aggregate(&mut self, outer: &Scope, ty: Type) -> Node {
        let from = self.from(outer, 1);
        let mut scope = outer.clone();
        scope.local = from.columns.clone();
        let condition = self.filter(&scope, &from, 0.8, 1);
        let grouped =
            Scope { local: Vec::new(), outer: Vec::new(), aggregated: Some(Box::new(scope)), ..outer.clone() };
        let aggregate = self.aggregate(&grouped, ty, 1);
        let outputs = Node::Outputs(vec![aggregate]);
        super::tree::tagged(
            super::Tag::Query(1),
            Node::Sequence(vec![text("SELECT "), outputs, text(" FROM "), from.node, condition]),
        )
    }
}
