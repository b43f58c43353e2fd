//! FROM: tables, subqueries, common tables, VALUES and functions, joined in all ways.

use super::schema::Placement;
use super::scope::{Name, Relation, Scope};
use super::tree::{form, list, optional, tagged, text, Node, Tag};
use super::types::Type;
use super::Maker;

impl Maker {
    /// One to three relations.
    pub fn from(&mut self, outer: &Scope, depth: u32) -> Relation {
        let count = self.choose(&[1, 1, 1, 2, 2, 2, 3]);
        let mut joined = self.relation(outer, &[], depth);
        let by_comma = self.chance(0.25);
        for _ in 1..count {
            joined.node = tagged(Tag::Relation, joined.node);
            joined = match by_comma {
                true => self.comma(outer, joined, depth),
                false => self.join(outer, joined, depth),
            };
        }
        joined.node = tagged(Tag::Relation, joined.node);
        joined
    }

    fn comma(&mut self, outer: &Scope, left: Relation, depth: u32) -> Relation {
        let right = self.relation(outer, &left.columns, depth);
        let condition = self.join_condition(outer, &left, &right);
        let mut both = together(left, right, |left, right| list(", ", vec![left, right]));
        both.pending.push(condition);
        both
    }

    fn join(&mut self, outer: &Scope, left: Relation, depth: u32) -> Relation {
        let kind =
            self.choose(&["JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"]);
        let lateral: &[Name] = if matches!(kind, "RIGHT JOIN" | "FULL JOIN") { &[] } else { &left.columns };
        let mut right = self.relation(outer, lateral, depth);
        if kind == "CROSS JOIN" {
            return together(left, right, |left, right| form("{} CROSS JOIN {}", vec![left, right]));
        }
        if depth > 0 && self.chance(0.1) {
            // Joined among themselves first.
            let further = self.relation(outer, &[], 0);
            let condition = self.equality(&right, &further);
            right = together(right, further, |left, right| form("({} JOIN {} ON {})", vec![left, right, condition]));
        }
        if self.chance(0.2) {
            if let Some(using) = self.shared_names(&left, &right) {
                return together(left, right, |left, right| {
                    form(&format!("{{}} {kind} {{}} {using}"), vec![left, right])
                });
            }
        }
        let condition = match kind {
            // PostgreSQL needs one that it can merge or hash by.
            "FULL JOIN" => self.equality(&left, &right),
            _ => self.join_condition(outer, &left, &right),
        };
        together(left, right, |left, right| form(&format!("{{}} {kind} {{}} ON {{}}"), vec![left, right, condition]))
    }

    /// USING or NATURAL, where two tables have columns of the same name.
    fn shared_names(&mut self, left: &Relation, right: &Relation) -> Option<String> {
        let plain = |name: &Name| name.text.split_once('.').map(|(_, column)| column.to_owned());
        let mut shared = Vec::new();
        for column in &right.columns {
            let name = plain(column)?;
            let same: Vec<&Name> = left.columns.iter().filter(|other| plain(other).as_ref() == Some(&name)).collect();
            match same[..] {
                [] => {}
                [other] if comparable(other.ty, column.ty) => shared.push(name),
                _ => return None,
            }
        }
        if shared.is_empty() {
            return None;
        }
        Some(match self.chance(0.3) {
            // It has all of them, and stands before JOIN: as USING it is the same.
            true => format!("USING ({})", shared.join(", ")),
            false => format!("USING ({})", self.choose(&shared)),
        })
    }

    fn join_condition(&mut self, outer: &Scope, left: &Relation, right: &Relation) -> Node {
        let mut items = vec![self.equality(left, right)];
        let mut scope = outer.clone();
        scope.local = left.columns.iter().chain(&right.columns).cloned().collect();
        scope.aggregated = None;
        if self.chance(0.4) {
            items.push(self.condition(&scope, 1));
        }
        if items.len() > 1 && self.chance(0.1) {
            return form("({})", vec![list(" OR ", items)]);
        }
        list(" AND ", items)
    }

    /// Of keys of the same keyspace where there are any, else of columns of one type.
    fn equality(&mut self, left: &Relation, right: &Relation) -> Node {
        let mut pairs = Vec::new();
        for (key, place) in &left.keys {
            pairs.extend(right.keys.iter().filter(|(_, other)| other == place).map(|(other, _)| (key, other)));
        }
        if pairs.is_empty() || self.chance(0.3) {
            let all = left.columns.iter().flat_map(|a| right.columns.iter().map(move |b| (a, b)));
            let fitting: Vec<(&Name, &Name)> = all.filter(|(a, b)| a.ty == b.ty && a.ty != Type::Bool).collect();
            if !fitting.is_empty() {
                pairs = fitting;
            }
        }
        match pairs.is_empty() {
            true => text("true"),
            false => {
                let (a, b) = self.choose(&pairs);
                tagged(Tag::Value(Type::Bool), text(format!("{} = {}", a.text, b.text)))
            }
        }
    }

    fn relation(&mut self, outer: &Scope, before: &[Name], depth: u32) -> Relation {
        match self.number(0..20) {
            0..=2 if !outer.common.is_empty() => self.common_table(outer),
            3 | 4 if depth > 0 && self.subqueries > 0 => self.derived(outer, before),
            5 if depth > 0 => self.values_relation(),
            6 => self.function_relation(outer, before),
            _ if !outer.common.is_empty() && self.chance(0.3) => self.common_table(outer),
            _ => self.table_relation(),
        }
    }

    pub fn table_relation(&mut self) -> Relation {
        let index = self.number(0..self.schema.tables.len() as i64) as usize;
        self.named_table(index)
    }

    pub fn named_table(&mut self, index: usize) -> Relation {
        let table = self.schema.tables[index].clone();
        let alias = self.alias();
        let as_word = self.pick(&[" AS", ""]);
        let mut names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let mut columns = String::new();
        if self.chance(0.04) {
            match self.chance(0.3) {
                // Names of other columns, the shard key's among them.
                true => names.reverse(),
                false => names = (0..names.len()).map(|_| format!("r{}", self.fresh())).collect(),
            }
            columns = format!("({})", names.join(", "));
        }
        let named = |index: usize| Name { text: format!("{alias}.{}", names[index]), ty: table.columns[index].ty };
        let unique = if table.primary_key > 0 { table.primary_key } else { names.len() };
        let keys = match table.placement {
            Placement::Sharded(_) => vec![(named(0), table.placement.clone())],
            _ => Vec::new(),
        };
        Relation {
            node: text(format!("{}{as_word} {alias}{columns}", table.name)),
            columns: (0..names.len()).map(named).collect(),
            unique: (0..unique).map(|index| named(index).text).collect(),
            keys,
            pending: Vec::new(),
        }
    }

    fn common_table(&mut self, outer: &Scope) -> Relation {
        let table = self.choose(&outer.common);
        let alias = self.alias();
        let columns =
            table.columns.iter().map(|(name, ty)| Name { text: format!("{alias}.{name}"), ty: *ty }).collect();
        plain_relation(text(format!("{} AS {alias}", table.name)), columns)
    }

    fn derived(&mut self, outer: &Scope, before: &[Name]) -> Relation {
        self.subqueries -= 1;
        let lateral = !before.is_empty() && self.chance(0.3);
        let mut scope = Scope { local: Vec::new(), aggregated: None, ..outer.clone() };
        if lateral {
            scope.outer.extend(before.iter().cloned());
        }
        let query = self.select(&scope, None, 1);
        let node = self.sometimes_limited(query.node);
        let alias = self.alias();
        let names: Vec<String> = (0..query.types.len()).map(|_| format!("y{}", self.fresh())).collect();
        let columns =
            query.types.iter().zip(&names).map(|(ty, name)| Name { text: format!("{alias}.{name}"), ty: *ty });
        let lateral = if lateral { "LATERAL " } else { "" };
        let columns = columns.collect();
        plain_relation(form(&format!("{lateral}({{}}) AS {alias}({})", names.join(", ")), vec![node]), columns)
    }

    /// Under an order of all columns, which makes the limit's choice the only one.
    pub fn sometimes_limited(&mut self, query: Node) -> Node {
        if !self.chance(0.2) {
            return query;
        }
        let directions = vec![self.direction(), self.direction()];
        let limit = Some(optional(self.limit()));
        Node::Ordered(Box::new(super::Ordered { query, leading: None, directions, limit }))
    }

    fn values_relation(&mut self) -> Relation {
        let types: Vec<Type> = (0..self.number(1..4)).map(|_| self.ty()).collect();
        let rows = (0..self.number(1..4))
            .map(|_| {
                let items = types.iter().map(|ty| self.constant(*ty)).collect();
                form("({})", vec![Node::List { separator: ", ", items, least: types.len() }])
            })
            .collect();
        let alias = self.alias();
        let names: Vec<String> = (0..types.len()).map(|index| format!("v{index}")).collect();
        let columns = types.iter().zip(&names).map(|(ty, name)| Name { text: format!("{alias}.{name}"), ty: *ty });
        let columns = columns.collect();
        plain_relation(
            form(&format!("(VALUES {{}}) AS {alias}({})", names.join(", ")), vec![list(", ", rows)]),
            columns,
        )
    }

    fn function_relation(&mut self, outer: &Scope, before: &[Name]) -> Relation {
        let mut scope = outer.alone();
        scope.local = before.to_vec();
        let alias = self.alias();
        let name = |column: &str, ty: Type| Name { text: format!("{alias}.{column}"), ty };
        match self.number(0..4) {
            0 if self.subqueries > 0 && self.chance(0.3) => {
                self.subqueries -= 1;
                let array = self.one_aggregate(&scope.inner(), Type::Ints);
                let columns = vec![name("u", Type::Int)];
                plain_relation(form(&format!("unnest(({{}})) AS {alias}(u)"), vec![array]), columns)
            }
            0 => {
                let array = self.expression(&scope, Type::Ints, 1);
                let columns = vec![name("u", Type::Int)];
                plain_relation(form(&format!("unnest({{}}) AS {alias}(u)"), vec![array]), columns)
            }
            1 => {
                let array = self.expression(&scope, Type::Texts, 1);
                let columns = vec![name("u", Type::Text), name("n", Type::Big)];
                plain_relation(form(&format!("unnest({{}}) WITH ORDINALITY AS {alias}(u, n)"), vec![array]), columns)
            }
            _ => {
                let last = self.number(0..6);
                plain_relation(text(format!("generate_series(1, {last}) AS {alias}(g)")), vec![name("g", Type::Int)])
            }
        }
    }

    /// WHERE, with what the joins left for it; now and then one shard key is held.
    pub fn filter(&mut self, scope: &Scope, from: &Relation, probability: f64, depth: u32) -> Node {
        let mut items = from.pending.clone();
        if !from.keys.is_empty() && self.chance(0.2) {
            let (key, _) = self.choose(&from.keys);
            let value = self.constant(key.ty);
            items.push(form(&format!("{} = {{}}", key.text), vec![value]));
        }
        if self.chance(probability) {
            items.push(self.condition(scope, depth));
        }
        match items.is_empty() {
            true => text(""),
            false => optional(form(" WHERE {}", vec![list(" AND ", items)])),
        }
    }
}

fn comparable(a: Type, b: Type) -> bool {
    a == b || a.is_number() && b.is_number()
}

fn plain_relation(node: Node, columns: Vec<Name>) -> Relation {
    let unique = columns.iter().map(|column| column.text.clone()).collect();
    Relation { node, columns, unique, keys: Vec::new(), pending: Vec::new() }
}

fn together(left: Relation, right: Relation, node: impl FnOnce(Node, Node) -> Node) -> Relation {
    let mut both = Relation { node: node(left.node, right.node), ..left };
    both.columns.extend(right.columns);
    both.unique.extend(right.unique);
    both.keys.extend(right.keys);
    both.pending.extend(right.pending);
    both
}
