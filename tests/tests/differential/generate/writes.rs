//! INSERT, UPDATE, DELETE, and WITH them.

use super::schema::{Placement, Table};
use super::scope::{CommonTable, Name, Scope};
use super::tree::{form, list, optional, text, Node};
use super::types::Type;
use super::Maker;

/// A writing statement and the index of its table.
pub type Write = (Node, usize);

/// A statement without RETURNING, and what RETURNING may name.
struct Change {
    node: Node,
    table: usize,
    returned: Vec<Name>,
}

impl Maker {
    pub fn write(&mut self) -> Write {
        let change = self.change();
        let table = change.table;
        let scope = Scope { local: change.returned.clone(), ..Scope::default() };
        if self.chance(0.05) {
            return (self.with_change(change, &scope), table);
        }
        let returning = match self.number(0..6) {
            // Of USING any row that fits may be given.
            0 => format!(" RETURNING {}.*", change.returned[0].text.split('.').next().unwrap_or_default()),
            1 | 2 => {
                let held = std::mem::replace(&mut self.subqueries, 0);
                let items = (0..self.number(1..4)).map(|_| {
                    let ty = self.known_type(&scope);
                    self.expression(&scope, ty, 1)
                });
                let items = list(", ", items.collect());
                self.subqueries = held;
                return (Node::Sequence(vec![change.node, optional(form(" RETURNING {}", vec![items]))]), table);
            }
            _ => String::new(),
        };
        (Node::Sequence(vec![change.node, optional(text(returning))]), table)
    }

    /// WITH w AS (INSERT ... RETURNING ...) SELECT ... FROM w.
    fn with_change(&mut self, change: Change, scope: &Scope) -> Node {
        let returned: Vec<Name> = (0..self.number(1..3)).map(|_| self.choose(&scope.local)).collect();
        let name = format!("w{}", self.fresh());
        let columns: Vec<(String, Type)> =
            returned.iter().enumerate().map(|(index, name)| (format!("y{index}"), name.ty)).collect();
        let items = returned.iter().zip(&columns).map(|(name, (alias, _))| format!("{} AS {alias}", name.text));
        let items = items.collect::<Vec<_>>().join(", ");
        let names = columns.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(", ");
        let common = CommonTable { name: name.clone(), columns };
        let inner = Scope { common: vec![common], ..Scope::default() };
        let body = match self.chance(0.7) {
            true => text(format!("SELECT {names} FROM {name}")),
            false => self.select(&inner, None, 0).node,
        };
        form(&format!("WITH {name} AS ({{}} RETURNING {items}) {{}}"), vec![change.node, body])
    }

    fn change(&mut self) -> Change {
        let table = self.number(0..self.schema.tables.len() as i64) as usize;
        match self.number(0..10) {
            0..=2 => self.insert(table),
            3 => self.insert_select(table).unwrap_or_else(|| self.insert(table)),
            4..=7 => self.update(table),
            _ => self.delete(table),
        }
    }

    fn columns_of(&self, table: usize, alias: &str) -> Vec<Name> {
        let columns = &self.schema.tables[table].columns;
        columns.iter().map(|column| Name { text: format!("{alias}.{}", column.name), ty: column.ty }).collect()
    }

    /// One that no row has yet.
    fn fresh_value(&mut self, ty: Type) -> String {
        let number = self.fresh() + 100;
        match ty {
            Type::Uuid => format!("'{number:08}-0000-4000-8000-000000000000'"),
            Type::Date => format!("DATE '2030-01-01' + {number}"),
            _ if ty.is_text() => format!("'n{number}'"),
            _ => number.to_string(),
        }
    }

    /// The columns that an INSERT gives: those that it must, and some.
    fn given(&mut self, table: &Table) -> Vec<usize> {
        let must = |index: usize| index < table.primary_key || table.columns[index].not_null;
        (0..table.columns.len()).filter(|index| must(*index) || *index == 0 || self.chance(0.7)).collect()
    }

    fn insert(&mut self, index: usize) -> Change {
        let table = self.schema.tables[index].clone();
        let given = self.given(&table);
        let taken = self.chance(0.12);
        let mut rows = Vec::new();
        for _ in 0..self.choose(&[1, 1, 2, 4]) {
            let mut items = Vec::new();
            for &column in &given {
                let ty = table.columns[column].ty;
                let unique = column + 1 == table.primary_key;
                items.push(match unique && !taken {
                    true => text(self.fresh_value(ty)),
                    false if column < table.primary_key || table.columns[column].not_null => self.certain(ty),
                    false if table.columns[column].default.is_some() && self.chance(0.2) => text("DEFAULT"),
                    false => self.constant(ty),
                });
            }
            rows.push(form("({})", vec![Node::List { separator: ", ", least: items.len(), items }]));
        }
        let names: Vec<&str> = given.iter().map(|column| &table.columns[*column].name[..]).collect();
        let head = format!("INSERT INTO {} ({}) VALUES ", table.name, names.join(", "));
        let conflict = if self.chance(0.3) { self.on_conflict(&table) } else { text("") };
        let node = Node::Sequence(vec![text(head), list(", ", rows), conflict]);
        Change { node, table: index, returned: self.columns_of(index, &table.name) }
    }

    /// No NULL.
    fn certain(&mut self, ty: Type) -> Node {
        match self.parameters && self.chance(0.5) {
            true => Node::Parameter(ty, Some(self.value(ty).replace("''", "'"))),
            false => text(self.bare_literal(ty)),
        }
    }

    fn on_conflict(&mut self, table: &Table) -> Node {
        let free: Vec<usize> = (table.primary_key.max(1)..table.columns.len()).collect();
        if table.primary_key == 0 || free.is_empty() || self.chance(0.4) {
            return optional(text(" ON CONFLICT DO NOTHING"));
        }
        let column = table.columns[self.choose(&free)].name.clone();
        let key = table.names(table.primary_key);
        let condition = match self.chance(0.3) {
            true => format!(" WHERE {}.{column} IS DISTINCT FROM excluded.{column}", table.name),
            false => String::new(),
        };
        optional(text(format!(" ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}{condition}")))
    }

    /// Rows of a query. What must not repeat is numbered.
    fn insert_select(&mut self, index: usize) -> Option<Change> {
        let table = self.schema.tables[index].clone();
        let sharded = matches!(table.placement, Placement::Sharded(_));
        if sharded && table.primary_key == 1 {
            return None;
        }
        let given = self.given(&table);
        let source = self.table_relation();
        let scope = Scope { local: source.columns.clone(), ..Scope::default() };
        let offset = self.fresh() * 1_000;
        let mut items = Vec::new();
        for &column in &given {
            let ty = table.columns[column].ty;
            items.push(match column {
                _ if table.columns[column].name == "id" => {
                    text(format!("(row_number() OVER (ORDER BY {}))::integer + {offset}", source.unique.join(", ")))
                }
                _ if table.columns[column].not_null => {
                    form("coalesce({}, {})", vec![self.expression(&scope, ty, 0), text(self.literal(ty))])
                }
                _ => self.expression(&scope, ty, 1),
            });
        }
        let names: Vec<&str> = given.iter().map(|column| &table.columns[*column].name[..]).collect();
        let condition = self.filter(&scope, &source, 0.6, 1);
        let outputs = Node::List { separator: ", ", least: items.len(), items };
        let head = format!("INSERT INTO {} ({}) SELECT ", table.name, names.join(", "));
        let node = Node::Sequence(vec![text(head), outputs, text(" FROM "), source.node, condition]);
        Some(Change { node, table: index, returned: self.columns_of(index, &table.name) })
    }

    fn update(&mut self, index: usize) -> Change {
        let table = self.schema.tables[index].clone();
        let alias = self.alias();
        let columns = self.columns_of(index, &alias);
        let mut scope = Scope { local: columns.clone(), ..Scope::default() };
        let (from, joined) = self.update_from(&mut scope);
        let free: Vec<usize> = (table.primary_key.max(1)..table.columns.len()).collect();
        let first = self.choose(&free);
        let mut changed = vec![first];
        changed.extend(free.into_iter().filter(|column| *column != first && self.chance(0.2)));
        let mut sets = Vec::new();
        for column in changed {
            let ty = table.columns[column].ty;
            let value = match table.columns[column].not_null {
                true => form("coalesce({}, {})", vec![self.expression(&scope, ty, 1), text(self.literal(ty))]),
                false => self.expression(&scope, ty, 2),
            };
            sets.push(form(&format!("{} = {{}}", table.columns[column].name), vec![value]));
        }
        let condition = self.change_condition(&table, &scope, joined);
        let head = format!("UPDATE {} AS {alias} SET ", table.name);
        let node = Node::Sequence(vec![text(head), list(", ", sets), text(from), condition]);
        Change { node, table: index, returned: columns }
    }

    /// FROM one row at most: the row that a whole primary key names.
    fn update_from(&mut self, scope: &mut Scope) -> (String, Option<Node>) {
        if !self.chance(0.15) {
            return (String::new(), None);
        }
        let index = self.number(0..self.schema.tables.len() as i64) as usize;
        let key = self.schema.tables[index].primary_key;
        if key == 0 {
            return (String::new(), None);
        }
        let relation = self.named_table(index);
        let held = (std::mem::replace(&mut self.parameters, false), std::mem::replace(&mut self.subqueries, 0));
        let target = scope.clone();
        let mut conditions = Vec::new();
        for column in &relation.columns[..key] {
            let value = self.expression(&target, column.ty, 0).render().0;
            conditions.push(format!("{} = {value}", column.text));
        }
        (self.parameters, self.subqueries) = held;
        scope.local.extend(relation.columns.iter().cloned());
        (format!(" FROM {}", relation.node.render().0), Some(text(conditions.join(" AND "))))
    }

    fn change_condition(&mut self, table: &Table, scope: &Scope, joined: Option<Node>) -> Node {
        let mut items = Vec::new();
        if self.chance(0.4) {
            let key = scope.local[0].clone();
            let value = match table.rows.is_empty() {
                true => self.literal(key.ty),
                false => {
                    let row = self.number(0..table.rows.len() as i64) as usize;
                    table.rows[row][0].clone()
                }
            };
            items.push(text(format!("{} = {value}", key.text)));
        }
        if items.is_empty() || self.chance(0.6) {
            items.push(self.condition(scope, 1));
        }
        match joined {
            Some(joined) => form(" WHERE {} AND {}", vec![joined, list(" AND ", items)]),
            None => optional(form(" WHERE {}", vec![list(" AND ", items)])),
        }
    }

    fn delete(&mut self, index: usize) -> Change {
        let table = self.schema.tables[index].clone();
        let alias = self.alias();
        let columns = self.columns_of(index, &alias);
        let mut scope = Scope { local: columns.clone(), ..Scope::default() };
        let mut using = text("");
        let mut joined = None;
        if self.chance(0.15) {
            let relation = self.table_relation();
            let pairs: Vec<(Name, Name)> = columns
                .iter()
                .flat_map(|a| relation.columns.iter().map(move |b| (a.clone(), b.clone())))
                .filter(|(a, b)| a.ty == b.ty)
                .collect();
            if !pairs.is_empty() {
                let (a, b) = self.choose(&pairs);
                joined = Some(text(format!("{} = {}", a.text, b.text)));
                scope.local.extend(relation.columns.iter().cloned());
                using = form(" USING {}", vec![relation.node]);
            }
        }
        let condition = self.change_condition(&table, &scope, joined);
        let node = Node::Sequence(vec![text(format!("DELETE FROM {} AS {alias}", table.name)), using, condition]);
        Change { node, table: index, returned: columns }
    }
}
