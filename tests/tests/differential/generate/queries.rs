//! Whole reading statements: WITH, order and limit.

use super::scope::{CommonTable, Name, Scope};
use super::tree::{form, list, optional, tagged, text, Node, Ordered, Tag};
use super::types::Type;
use super::Maker;

impl Maker {
    pub fn read(&mut self) -> Node {
        let mut scope = Scope::default();
        let with = if self.chance(0.15) { self.with(&mut scope) } else { text("") };
        let body = match self.number(0..20) {
            0 | 1 => self.star_select(&scope).node,
            2..=5 => self.sorted(&scope),
            _ => {
                let query = self.select(&scope, None, 2).node;
                match self.chance(0.4) {
                    true => self.ordered(query, None),
                    false => query,
                }
            }
        };
        Node::Sequence(vec![with, body])
    }

    fn ordered(&mut self, query: Node, leading: Option<Node>) -> Node {
        let directions = (0..3).map(|_| self.direction()).collect();
        let limit = match self.chance(0.5) {
            true => Some(optional(self.limit())),
            false => None,
        };
        Node::Ordered(Box::new(Ordered { query, leading, directions, limit }))
    }

    pub fn limit(&mut self) -> Node {
        match self.number(0..9) {
            8 => {
                let table = self.table_relation();
                let scope = Scope { local: table.columns.clone(), ..Scope::default() };
                let condition = self.condition(&scope, 0);
                form(" LIMIT (SELECT count(*) FROM {} WHERE {})", vec![table.node, condition])
            }
            0 => text(format!(" LIMIT {} OFFSET {}", self.number(0..12), self.number(0..12))),
            1 => text(format!(" OFFSET {}", self.number(0..20))),
            2 => text(format!(" FETCH FIRST {} ROWS ONLY", self.number(1..6))),
            3 => text(format!(" FETCH FIRST {} ROWS WITH TIES", self.number(1..6))),
            4 => text(" LIMIT ALL"),
            5 if self.parameters => {
                let rows = self.number(0..9).to_string();
                form(" LIMIT {}", vec![Node::Parameter(Type::Big, Some(rows))])
            }
            _ => text(format!(" LIMIT {}", self.number(0..12))),
        }
    }

    /// A plain SELECT that is sorted by what it does not show, too.
    fn sorted(&mut self, scope: &Scope) -> Node {
        let from = self.from(scope, 1);
        let mut scope = scope.clone();
        scope.local = from.columns.clone();
        let condition = self.filter(&scope, &from, 0.5, 1);
        let items: Vec<Node> = (0..self.number(1..5))
            .map(|_| {
                let ty = self.known_type(&scope);
                self.expression(&scope, ty, 1)
            })
            .collect();
        let keys = (0..self.number(1..3)).map(|_| {
            // A constant by itself would be a place in the select list.
            let key = match self.chance(0.3) {
                true => {
                    let ty = self.known_type(&scope);
                    form("coalesce({}, {})", vec![self.expression(&scope, ty, 1), text(self.literal(ty))])
                }
                false => text(self.choose(&scope.local).text),
            };
            Node::Sequence(vec![key, text(self.direction())])
        });
        let leading = list(", ", keys.collect());
        let parts = vec![text("SELECT "), Node::Outputs(items), text(" FROM "), from.node, condition];
        self.ordered(Node::Sequence(parts), Some(leading))
    }

    /// Common tables, which the scope knows from then on.
    fn with(&mut self, scope: &mut Scope) -> Node {
        let mut parts = Vec::new();
        let mut recursive = false;
        for _ in 0..self.number(1..3) {
            let name = format!("w{}", self.fresh());
            let (columns, node) = match self.number(0..10) {
                0 => {
                    recursive = true;
                    self.counting(&name)
                }
                1 | 2 => {
                    recursive = true;
                    self.following(&name)
                }
                _ => self.common_query(&name, scope),
            };
            parts.push(node);
            scope.common.push(CommonTable { name, columns });
        }
        let word = if recursive { "WITH RECURSIVE " } else { "WITH " };
        optional(form(&format!("{word}{{}} "), vec![list(", ", parts)]))
    }

    fn common_query(&mut self, name: &str, scope: &Scope) -> (Vec<(String, Type)>, Node) {
        let query = self.select(scope, None, 1);
        let node = self.sometimes_limited(query.node);
        let columns: Vec<(String, Type)> = query.types.iter().map(|ty| (format!("y{}", self.fresh()), *ty)).collect();
        let names = columns.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(", ");
        let how = self.pick(&["", "", " MATERIALIZED", " NOT MATERIALIZED"]);
        (columns, form(&format!("{name}({names}) AS{how} ({{}})"), vec![node]))
    }

    fn counting(&mut self, name: &str) -> (Vec<(String, Type)>, Node) {
        let end = self.number(1..7);
        let sql = format!("{name}(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM {name} WHERE n < {end})");
        (vec![("n".to_owned(), Type::Int)], text(sql))
    }

    /// From row to row by integer columns, a few steps far.
    fn following(&mut self, name: &str) -> (Vec<(String, Type)>, Node) {
        let table = self.table_relation();
        let integers: Vec<Name> = table.columns.iter().filter(|column| column.ty == Type::Int).cloned().collect();
        if integers.len() < 2 {
            return self.counting(name);
        }
        let (from, to) = (self.choose(&integers).text, self.choose(&integers).text);
        let scope = Scope { local: table.columns.clone(), ..Scope::default() };
        let condition = self.condition(&scope, 0);
        let relation = table.node.render().0;
        let steps = self.number(1..4);
        let node = form(
            &format!(
                "{name}(n, step) AS (SELECT {from}, 0 FROM {relation} WHERE {{}} UNION SELECT {to}, step + 1 \
                 FROM {name} JOIN {relation} ON {from} = n WHERE step < {steps})"
            ),
            vec![condition],
        );
        (vec![("n".to_owned(), Type::Int), ("step".to_owned(), Type::Int)], node)
    }

    /// A row that its whole primary key names.
    pub fn one_row_by_key(&mut self, outer: &Scope, ty: Type) -> Option<Node> {
        let fits = |table: &super::Table| table.primary_key > 0 && table.columns.iter().any(|column| column.ty == ty);
        let fitting: Vec<usize> =
            (0..self.schema.tables.len()).filter(|index| fits(&self.schema.tables[*index])).collect();
        if fitting.is_empty() {
            return None;
        }
        let index = self.choose(&fitting);
        let relation = self.named_table(index);
        let key = relation.columns[..self.schema.tables[index].primary_key].to_vec();
        let conditions = key.iter().map(|column| {
            let value = self.expression(outer, column.ty, 0);
            form(&format!("{} = {{}}", column.text), vec![value])
        });
        let conditions: Vec<Node> = conditions.collect();
        let column = relation.columns.iter().find(|column| column.ty == ty)?.text.clone();
        let outputs = Node::Outputs(vec![text(column)]);
        let conditions = Node::List { separator: " AND ", least: conditions.len(), items: conditions };
        let parts = vec![text("SELECT "), outputs, text(" FROM "), relation.node, text(" WHERE "), conditions];
        Some(tagged(Tag::Query(1), Node::Sequence(parts)))
    }
}
