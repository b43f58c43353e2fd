//! SELECT, VALUES and set operations, without order.

use super::scope::{Name, Relation, Scope};
use super::tree::{form, list, optional, tagged, text, Node, Tag};
use super::types::Type;
use super::Maker;

pub struct Select {
    pub node: Node,
    pub types: Vec<Type>,
}

/// Levels of set operations.
const SET_DEPTH_MAX: u32 = 2;

impl Maker {
    /// Columns of the wanted types, or of any.
    pub fn select(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        match self.number(0..20) {
            0..=7 => self.plain_select(outer, wanted, depth),
            8 | 9 => self.distinct_select(outer, wanted, depth),
            10..=13 => self.grouped_select(outer, wanted, depth),
            14 | 15 => self.window_select(outer, wanted, depth),
            16 => self.distinct_on(outer, wanted, depth),
            17 | 18 if depth <= SET_DEPTH_MAX => self.set_operation(outer, wanted, depth),
            19 => self.values(outer, wanted),
            _ => self.plain_select(outer, wanted, depth),
        }
    }

    fn types(&mut self, wanted: Option<&[Type]>, scope: &Scope) -> Vec<Type> {
        match wanted {
            Some(types) => types.to_vec(),
            None => (0..self.number(1..5)).map(|_| self.known_type(scope)).collect(),
        }
    }

    fn rows(&mut self, outer: &Scope, depth: u32) -> (Relation, Scope) {
        let mut from = self.from(outer, depth);
        if outer.outer.is_empty() && from.keys.len() == 1 && from.columns.len() > 1 && self.chance(0.1) {
            from = self.unqualified(from);
        }
        let mut scope = outer.clone();
        scope.local = from.columns.clone();
        scope.aggregated = None;
        (from, scope)
    }

    /// Names columns without their table, if there is but one of each name.
    fn unqualified(&mut self, from: Relation) -> Relation {
        let short = |name: &str| name.split_once('.').map_or(name.to_owned(), |(_, column)| column.to_owned());
        let mut names: Vec<String> = from.columns.iter().map(|column| short(&column.text)).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        if names.len() < all {
            return from;
        }
        let columns = from.columns.into_iter().map(|name| Name { text: short(&name.text), ty: name.ty }).collect();
        let unique = from.unique.iter().map(|name| short(name)).collect();
        Relation { columns, unique, ..from }
    }

    fn outputs(&mut self, scope: &Scope, types: &[Type], depth: u32) -> Node {
        let mut items = Vec::new();
        for (index, ty) in types.iter().enumerate() {
            let item = self.expression(scope, *ty, depth.min(2));
            items.push(self.named(item, index));
        }
        Node::Outputs(items)
    }

    fn named(&mut self, item: Node, index: usize) -> Node {
        match self.number(0..5) {
            0 => item,
            1 => Node::Sequence(vec![item, text(format!(" AS \"X {index}\""))]),
            _ => Node::Sequence(vec![item, text(format!(" AS x{index}"))]),
        }
    }

    pub fn plain_select(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let (from, scope) = self.rows(outer, depth);
        let types = self.types(wanted, &scope);
        let condition = self.filter(&scope, &from, 0.6, depth);
        let outputs = self.outputs(&scope, &types, depth);
        query(vec![text("SELECT "), outputs, text(" FROM "), from.node, condition], types)
    }

    /// SELECT *: for EXISTS, and statements by themselves.
    pub fn star_select(&mut self, outer: &Scope) -> Select {
        let (from, scope) = self.rows(outer, 1);
        let condition = self.filter(&scope, &from, 0.7, 1);
        let star = match from.columns.first().and_then(|column| column.text.split_once('.')) {
            Some((alias, _)) if self.chance(0.3) => format!("{alias}.*"),
            _ => "*".to_owned(),
        };
        let node = Node::Sequence(vec![text(format!("SELECT {star} FROM ")), from.node, condition]);
        Select { node, types: Vec::new() }
    }

    fn distinct_select(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let (from, scope) = self.rows(outer, depth);
        let types = self.types(wanted, &scope);
        let condition = self.filter(&scope, &from, 0.5, depth);
        let outputs = self.outputs(&scope, &types, depth.min(1));
        query(vec![text("SELECT "), optional(text("DISTINCT ")), outputs, text(" FROM "), from.node, condition], types)
    }

    fn grouped_select(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let (from, scope) = self.rows(outer, depth);
        let condition = self.filter(&scope, &from, 0.5, depth);
        let mut groups: Vec<Name> = Vec::new();
        for _ in 0..self.number(0..3) {
            let group = match self.chance(0.2) {
                true => self.group_expression(&scope),
                false => self.choose(&scope.local),
            };
            if groups.iter().all(|other| other.text != group.text) {
                groups.push(group);
            }
        }
        let grouped = Scope {
            local: groups.clone(),
            aggregated: Some(Box::new(scope.clone())),
            outer: scope.outer.clone(),
            common: scope.common,
        };
        let types = match wanted {
            Some(types) => types.to_vec(),
            None => {
                let mut types: Vec<Type> = groups.iter().map(|group| group.ty).collect();
                types.extend((0..self.number(1..4)).map(|_| self.ty()));
                types
            }
        };
        let mut items = Vec::new();
        for (index, ty) in types.iter().enumerate() {
            let item = match wanted.is_none() && index < groups.len() {
                true => text(groups[index].text.clone()),
                false => self.expression(&grouped, *ty, depth.min(2)),
            };
            items.push(self.named(item, index));
        }
        let outputs = Node::Outputs(items);
        let mut parts = vec![text("SELECT "), outputs, text(" FROM "), from.node, condition];
        parts.push(self.group_by(&groups));
        if self.chance(0.3) {
            parts.push(optional(form(" HAVING {}", vec![self.condition(&grouped, 1)])));
        }
        query(parts, types)
    }

    fn group_expression(&mut self, scope: &Scope) -> Name {
        let held = (std::mem::replace(&mut self.parameters, false), std::mem::replace(&mut self.subqueries, 0));
        let ty = self.known_type(scope);
        let expression = self.expression(&scope.alone(), ty, 2).render().0;
        (self.parameters, self.subqueries) = held;
        // A constant would stand for a place, and its type is not told by itself.
        match expression.contains('.') || scope.local.iter().any(|name| expression.contains(&name.text)) {
            true if expression.contains('(') => Name { text: expression, ty },
            _ => self.choose(&scope.local),
        }
    }

    fn group_by(&mut self, groups: &[Name]) -> Node {
        // Always there: without it the query would be another one.
        let names: Vec<Node> = groups.iter().map(|group| text(group.text.clone())).collect();
        let all = Node::List { separator: ", ", least: names.len(), items: names };
        match (groups.len(), self.number(0..10)) {
            (0, 0) => text(" GROUP BY ()"),
            (0, _) => text(""),
            (_, 0) => form(" GROUP BY ROLLUP ({})", vec![all]),
            (_, 1) => form(" GROUP BY CUBE ({})", vec![all]),
            (2.., 2) => {
                text(format!(" GROUP BY GROUPING SETS (({}), ({1}, {0}), ({1}))", groups[0].text, groups[1].text))
            }
            (_, 2) => text(format!(" GROUP BY GROUPING SETS (({}), ())", groups[0].text)),
            _ => form(" GROUP BY {}", vec![all]),
        }
    }

    fn window_select(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let (from, scope) = self.rows(outer, depth);
        let types = match wanted {
            Some(types) => types.to_vec(),
            None => {
                let mut types = self.types(None, &scope);
                types.push(Type::Big);
                types
            }
        };
        let condition = self.filter(&scope, &from, 0.4, depth);
        let mut items = Vec::new();
        let windowed = types.len() - 1;
        for (index, ty) in types.iter().enumerate() {
            let item = match index == windowed || self.chance(0.2) {
                true => tagged(Tag::Value(*ty), self.window_call(&scope, &from, *ty)),
                false => self.expression(&scope, *ty, 1),
            };
            items.push(self.named(item, index));
        }
        query(vec![text("SELECT "), Node::Outputs(items), text(" FROM "), from.node, condition], types)
    }

    fn window_call(&mut self, scope: &Scope, from: &Relation, ty: Type) -> Node {
        let held = std::mem::replace(&mut self.parameters, false);
        let argument = self.expression(&scope.alone(), ty, 0);
        self.parameters = held;
        // What needs no order, what has no frame, and the rest.
        let (call, framed) = match (ty, self.number(0..6)) {
            (Type::Big, 0) => (text("row_number()"), false),
            (Type::Big, 1) => (text("rank()"), false),
            (Type::Big, 2) => (text("dense_rank()"), false),
            (Type::Big, 3) => (text("count(*)"), true),
            (Type::Int, 0) => (text("ntile(3)"), false),
            (Type::Num, 0 | 1) => (form("sum({})", vec![argument]), true),
            (Type::Bool, 0) => (form("bool_or({})", vec![argument]), true),
            (_, 0 | 1) => {
                let function = self.pick(&["lag", "lead"]);
                (form(&format!("{function}({{}})"), vec![argument]), false)
            }
            (_, 2) => (form("nth_value({}, 2)", vec![argument]), true),
            (_, 3) if ty.has_extremes() => (form("max({})", vec![argument]), true),
            _ => {
                let function = self.pick(&["first_value", "last_value"]);
                (form(&format!("{function}({{}})"), vec![argument]), true)
            }
        };
        let mut window = Vec::new();
        let partitions: Vec<Node> = (0..self.number(0..3)).map(|_| text(self.choose(&scope.local).text)).collect();
        if !partitions.is_empty() {
            window.push(optional(form("PARTITION BY {} ", vec![list(", ", partitions)])));
        }
        let mut keys = Vec::new();
        if self.chance(0.4) {
            keys.push(format!("{}{}", self.choose(&scope.local).text, self.direction()));
        }
        for name in &from.unique {
            keys.push(format!("{name}{}", self.direction()));
        }
        window.push(text(format!("ORDER BY {}", keys.join(", "))));
        if framed && self.chance(0.5) {
            window.push(optional(text(self.pick(&[
                " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                " ROWS UNBOUNDED PRECEDING",
                " RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
                " GROUPS BETWEEN 2 PRECEDING AND CURRENT ROW",
                " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW",
                " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING EXCLUDE TIES",
            ]))));
        }
        form("{} OVER ({})", vec![call, Node::Sequence(window)])
    }

    fn distinct_on(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let (from, scope) = self.rows(outer, depth);
        let types = self.types(wanted, &scope);
        let condition = self.filter(&scope, &from, 0.4, depth);
        let on = self.choose(&scope.local).text;
        let mut keys = vec![format!("{on}{}", self.direction())];
        for name in &from.unique {
            keys.push(format!("{name}{}", self.direction()));
        }
        let outputs = self.outputs(&scope, &types, 1);
        let order = text(format!(" ORDER BY {}", keys.join(", ")));
        let node = Node::Sequence(vec![
            text(format!("SELECT DISTINCT ON ({on}) ")),
            outputs,
            text(" FROM "),
            from.node,
            condition,
            order,
        ]);
        // A query of its own: another order may follow.
        let alias = self.alias();
        query(vec![form(&format!("SELECT * FROM ({{}}) AS {alias}"), vec![node])], types)
    }

    fn set_operation(&mut self, outer: &Scope, wanted: Option<&[Type]>, depth: u32) -> Select {
        let types = match wanted {
            Some(types) => types.to_vec(),
            None => (0..self.number(1..4)).map(|_| self.ty()).collect(),
        };
        let operator =
            self.pick(&["UNION", "UNION ALL", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]);
        let left = self.select(outer, Some(&types), depth + 1).node;
        let right = self.select(outer, Some(&types), depth + 1).node;
        let pattern = match self.chance(0.5) {
            true => format!("{{}} {operator} ({{}})"),
            false => format!("({{}}) {operator} ({{}})"),
        };
        query(vec![form(&pattern, vec![left, right])], types)
    }

    fn values(&mut self, outer: &Scope, wanted: Option<&[Type]>) -> Select {
        let types = match wanted {
            Some(types) => types.to_vec(),
            None => (0..self.number(1..4)).map(|_| self.ty()).collect(),
        };
        if types.is_empty() {
            return self.plain_select(outer, wanted, 0);
        }
        let scope = Scope { local: Vec::new(), aggregated: None, ..outer.clone() };
        let mut rows = Vec::new();
        for number in 0..self.number(1..4) {
            let items = types.iter().map(|ty| self.expression(&scope, *ty, 0)).collect();
            let row = match number {
                0 => Node::Outputs(items),
                _ => Node::List { separator: ", ", items, least: types.len() },
            };
            rows.push(form("({})", vec![row]));
        }
        query(vec![text("VALUES "), list(", ", rows)], types)
    }
}

fn query(parts: Vec<Node>, types: Vec<Type>) -> Select {
    Select { node: tagged(Tag::Query(types.len()), Node::Sequence(parts)), types }
}
