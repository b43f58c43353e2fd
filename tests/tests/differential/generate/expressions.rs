//! Scalar expressions of a wanted type.

use super::scope::Scope;
use super::tree::{form, list, tagged, text, Node, Tag};
use super::types::Type;
use super::Maker;

impl Maker {
    /// An expression of the type. It never fails: errors have statements of their own.
    pub fn expression(&mut self, scope: &Scope, ty: Type, depth: u32) -> Node {
        let node = match depth == 0 || self.chance(0.35) {
            true => self.leaf(scope, ty),
            false if scope.aggregated.is_some() && self.chance(0.5) => self.aggregate(scope, ty, depth - 1),
            false => self.operation(scope, ty, depth - 1),
        };
        tagged(Tag::Value(ty), node)
    }

    fn leaf(&mut self, scope: &Scope, ty: Type) -> Node {
        let of_type = |names: &[super::scope::Name]| -> Vec<String> {
            names.iter().filter(|name| name.ty == ty).map(|name| name.text.clone()).collect()
        };
        let (local, outer) = (of_type(&scope.local), of_type(&scope.outer));
        if !outer.is_empty() && self.chance(if local.is_empty() { 0.5 } else { 0.2 }) {
            return text(self.choose(&outer));
        }
        if !local.is_empty() && self.chance(0.85) {
            return text(self.choose(&local));
        }
        if scope.aggregated.is_some() && self.chance(0.6) {
            return self.aggregate(scope, ty, 0);
        }
        self.constant(ty)
    }

    /// A literal or a parameter.
    pub fn constant(&mut self, ty: Type) -> Node {
        if self.parameters && self.chance(0.5) {
            let value = (!self.chance(0.1)).then(|| self.value(ty).replace("''", "'"));
            return Node::Parameter(ty, value);
        }
        match self.chance(0.05) {
            true => text(ty.plainest()),
            false => text(self.literal(ty)),
        }
    }

    fn operation(&mut self, scope: &Scope, ty: Type, depth: u32) -> Node {
        match self.number(0..12) {
            0 => {
                let (condition, yes) = (self.condition(scope, depth), self.expression(scope, ty, depth));
                match self.chance(0.7) {
                    true => form(
                        "CASE WHEN {} THEN {} ELSE {} END",
                        vec![condition, yes, self.expression(scope, ty, depth)],
                    ),
                    false => form("CASE WHEN {} THEN {} END", vec![condition, yes]),
                }
            }
            1 => form("coalesce({}, {})", vec![self.expression(scope, ty, depth), self.expression(scope, ty, depth)]),
            2 => {
                let other = self.choose(&[Type::Int, Type::Text, Type::Bool]);
                let (subject, value) = (self.expression(scope, other, depth), self.literal(other));
                let (yes, no) = (self.expression(scope, ty, depth), self.expression(scope, ty, depth));
                form("CASE {} WHEN {} THEN {} ELSE {} END", vec![subject, text(value), yes, no])
            }
            3 => form("nullif({}, {})", vec![self.expression(scope, ty, depth), self.constant(ty)]),
            4 | 5 if self.subqueries > 0 => self.scalar_subquery(scope, ty),
            6 if ty.has_extremes() => {
                let function = self.pick(&["greatest", "least"]);
                let items = (0..self.number(2..4)).map(|_| self.expression(scope, ty, depth)).collect();
                form(&format!("{function}({{}})"), vec![list(", ", items)])
            }
            _ => self.own_operation(scope, ty, depth),
        }
    }

    fn of(&mut self, scope: &Scope, depth: u32, pattern: &str, types: &[Type]) -> Node {
        let parts = types.iter().map(|ty| self.expression(scope, *ty, depth)).collect();
        form(pattern, parts)
    }

    fn own_operation(&mut self, scope: &Scope, ty: Type, depth: u32) -> Node {
        use Type::*;
        let forms: &[(&str, &[Type])] = match ty {
            Int => &[
                ("({} + {})", &[Int, Int]),
                ("({} - {})", &[Int, Int]),
                ("({} % 7)", &[Int]),
                ("({} / 3)", &[Int]),
                ("({} % 9 * 5)", &[Int]),
                ("abs({})", &[Int]),
                ("(-{})", &[Int]),
                ("length({})", &[Text]),
                ("char_length({})", &[TextC]),
                ("cardinality({})", &[Ints]),
                ("({} - {})", &[Date, Date]),
                ("({})[1]", &[Ints]),
                ("({} % 1000)::integer", &[Big]),
                ("extract(day FROM {})::integer", &[Date]),
                ("({})::integer", &[Bool]),
                ("strpos({}, 'a')", &[TextC]),
                ("sign({})::integer", &[Num]),
            ],
            Big => &[
                ("({})::bigint", &[Int]),
                ("({} + {})", &[Big, Big]),
                ("({} + {})", &[Big, Int]),
                ("({} - {})", &[Int, Big]),
                ("({} % 5)", &[Big]),
                ("({} / 2)", &[Big]),
                ("abs({})", &[Big]),
                ("array_length({}, 1)::bigint", &[Texts]),
            ],
            Num => &[
                ("({} + {})", &[Num, Num]),
                ("({} - {})", &[Num, Num]),
                ("round({} * 1.5, 2)", &[Num]),
                ("round({} / 4, 2)", &[Num]),
                ("({})::numeric(12,2)", &[Int]),
                ("round(({})::numeric, 2)", &[Float]),
                ("abs({})", &[Num]),
            ],
            Float => &[
                ("({} + {})", &[Float, Float]),
                ("({} - {})", &[Float, Float]),
                ("({} * 2)", &[Float]),
                ("({})::double precision", &[Int]),
                ("abs({})", &[Float]),
                ("(floor({}) + 0.0)", &[Float]),
            ],
            Text => &[
                ("upper({})", &[Text]),
                ("({} || {})", &[Text, Text]),
                ("({})::text", &[Int]),
                ("({})::text", &[Num]),
                ("({})::text", &[Date]),
                ("({})::text", &[Mood]),
                ("({})::text", &[Uuid]),
                ("({})::text", &[Ints]),
                ("({})::text", &[Json]),
                ("({})::text", &[Stamp]),
                ("({})::text", &[Bool]),
                ("md5({})", &[Text]),
                ("substr({}, 2)", &[Text]),
                ("left({}, 2)", &[Text]),
                ("replace({}, 'a', '++')", &[Text]),
                ("concat_ws('-', {}, {}, {})", &[Text, Int, Bool]),
                ("lpad({}, 3, '*')", &[Text]),
                ("({} ->> 'k')", &[Json]),
                ("({})[1]", &[Texts]),
                ("jsonb_typeof({})", &[Json]),
                ("({} COLLATE \"default\")", &[TextC]),
                ("reverse({})", &[Text]),
                ("trim(both 'a' from {})", &[Text]),
            ],
            TextC => &[
                ("lower({})", &[TextC]),
                ("({} || {})", &[TextC, TextC]),
                ("({} || {})", &[TextC, Int]),
                ("({} COLLATE \"C\")", &[Text]),
                ("({} COLLATE \"C\")", &[TextIcu]),
                ("right({}, 1)", &[TextC]),
            ],
            TextIcu => &[
                ("upper({})", &[TextIcu]),
                ("({} || {})", &[TextIcu, TextIcu]),
                ("({} COLLATE \"de-x-icu\")", &[Text]),
                ("repeat({}, 2)", &[TextIcu]),
            ],
            Bool => &[],
            Date => &[
                ("({} + {} % 9)", &[Date, Int]),
                ("({} - 1)", &[Date]),
                ("({})::date", &[Stamp]),
                ("({} AT TIME ZONE 'UTC')::date", &[StampTz]),
            ],
            Stamp => &[
                ("({})::timestamp", &[Date]),
                ("({} + interval '1 day 2 hours')", &[Stamp]),
                ("date_trunc('day', {})", &[Stamp]),
                ("({} AT TIME ZONE 'UTC')", &[StampTz]),
            ],
            StampTz => &[
                ("({} AT TIME ZONE 'Europe/Berlin')", &[Stamp]),
                ("({} - interval '3 hours')", &[StampTz]),
                ("date_trunc('hour', {})", &[StampTz]),
            ],
            Uuid => &[("coalesce({}, {})", &[Uuid, Uuid])],
            Ints => &[
                ("ARRAY[{}, {}]", &[Int, Int]),
                ("({} || {})", &[Ints, Int]),
                ("array_append({}, {})", &[Ints, Int]),
                ("array_remove({}, 2)", &[Ints]),
                ("({})[1:2]", &[Ints]),
            ],
            Texts => &[
                ("ARRAY[{}, {}]", &[Text, Text]),
                ("string_to_array({}, 'a')", &[Text]),
                ("({} || {})", &[Texts, Texts]),
            ],
            Json => &[
                ("jsonb_build_object('k', {})", &[Int]),
                ("to_jsonb({})", &[Text]),
                ("({} -> 'k')", &[Json]),
                ("jsonb_build_array({}, {})", &[Text, Bool]),
                ("to_jsonb({})", &[Ints]),
            ],
            Mood => &[("coalesce({}, {})", &[Mood, Mood])],
        };
        if forms.is_empty() {
            return self.condition(scope, depth);
        }
        let (pattern, types) = self.choose(forms);
        self.of(scope, depth, pattern, types)
    }

    /// A subquery of at most one row.
    fn scalar_subquery(&mut self, scope: &Scope, ty: Type) -> Node {
        self.subqueries -= 1;
        let inner = scope.inner();
        let query = match self.number(0..5) {
            0 | 1 => self.one_aggregate(&inner, ty),
            2 => self.one_row_by_key(&inner, ty).unwrap_or_else(|| self.one_aggregate(&inner, ty)),
            _ => {
                let query = self.select(&inner, Some(&[ty]), 1);
                let directions = vec![self.direction()];
                let limit = Some(text(" LIMIT 1"));
                Node::Ordered(Box::new(super::Ordered { query: query.node, leading: None, directions, limit }))
            }
        };
        form("({})", vec![query])
    }

    pub fn direction(&mut self) -> &'static str {
        self.choose(&["", "", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST"])
    }
}
