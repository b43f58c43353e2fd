//! Conditions.

use super::scope::Scope;
use super::tree::{form, list, tagged, text, Node, Tag};
use super::types::Type;
use super::Maker;

impl Maker {
    pub fn condition(&mut self, scope: &Scope, depth: u32) -> Node {
        let node = self.untagged_condition(scope, depth);
        tagged(Tag::Value(Type::Bool), node)
    }

    fn untagged_condition(&mut self, scope: &Scope, depth: u32) -> Node {
        if depth > 0 {
            match self.number(0..10) {
                0 | 1 => {
                    let separator = self.choose(&[" AND ", " AND ", " OR "]);
                    let items = (0..self.number(2..4)).map(|_| self.condition(scope, depth - 1)).collect();
                    return form("({})", vec![list(separator, items)]);
                }
                2 => return form("(NOT {})", vec![self.condition(scope, depth - 1)]),
                3..=5 if self.subqueries > 0 => return self.subquery_condition(scope),
                _ => {}
            }
        }
        let depth = depth.saturating_sub(1);
        let ty = self.known_type(scope);
        let subject = self.expression(scope, ty, depth);
        match self.number(0..14) {
            0 => form("({} IS NULL)", vec![subject]),
            1 => form("({} IS NOT NULL)", vec![subject]),
            2 => {
                let items = (0..self.number(1..4)).map(|_| self.constant(ty)).collect();
                let not = self.pick(&["", "", " NOT"]);
                form(&format!("({{}}{not} IN ({{}}))"), vec![subject, list(", ", items)])
            }
            3 => form("({} BETWEEN {} AND {})", vec![subject, self.constant(ty), self.expression(scope, ty, depth)]),
            4 if ty.is_text() => {
                let pattern = self.pick(&["'%a%'", "'_'", "'Z%'", "'%ß%'", "''"]);
                let like = self.pick(&["LIKE", "NOT LIKE", "ILIKE"]);
                form(&format!("({{}} {like} {pattern})"), vec![subject])
            }
            5 => {
                let not = self.pick(&["", " NOT"]);
                form(&format!("({{}} IS{not} DISTINCT FROM {{}})"), vec![subject, self.expression(scope, ty, depth)])
            }
            6 if ty == Type::Bool => {
                let test = self.pick(&["IS TRUE", "IS NOT FALSE", "IS UNKNOWN"]);
                form(&format!("({{}} {test})"), vec![subject])
            }
            7 => {
                let other = self.known_type(scope);
                let pairs = vec![
                    subject,
                    self.expression(scope, other, 0),
                    self.constant(ty),
                    self.expression(scope, other, 0),
                ];
                form("(({}, {}) = ({}, {}))", pairs)
            }
            8 if ty == Type::Int => {
                let array = self.expression(scope, Type::Ints, depth);
                let quantifier = self.pick(&["= ANY", "<> ALL", "< ANY"]);
                form(&format!("({{}} {quantifier} ({{}}))"), vec![subject, array])
            }
            9 if matches!(ty, Type::Ints | Type::Json | Type::Texts) => {
                form("({} @> {})", vec![subject, self.constant(ty)])
            }
            10 if matches!(ty, Type::Int | Type::Big | Type::Num) => {
                let other = self.choose(&[Type::Int, Type::Big, Type::Num]);
                let operator = self.comparison();
                form(&format!("({{}} {operator} {{}})"), vec![subject, self.expression(scope, other, depth)])
            }
            _ => {
                let operator = self.comparison();
                form(&format!("({{}} {operator} {{}})"), vec![subject, self.expression(scope, ty, depth)])
            }
        }
    }

    fn comparison(&mut self) -> &'static str {
        self.choose(&["=", "=", "=", "<>", "<", "<=", ">", ">="])
    }

    /// Mostly one that the scope has columns of.
    pub fn known_type(&mut self, scope: &Scope) -> Type {
        match scope.local.is_empty() || self.chance(0.1) {
            true => self.ty(),
            false => {
                let index = self.number(0..scope.local.len() as i64) as usize;
                scope.local[index].ty
            }
        }
    }

    fn subquery_condition(&mut self, scope: &Scope) -> Node {
        self.subqueries -= 1;
        let inner = scope.inner();
        match self.number(0..8) {
            0..=2 => {
                let not = self.pick(&["", "", "NOT "]);
                let ty = self.ty();
                let wanted = [ty];
                let query = match self.number(0..4) {
                    0 => self.plain_select(&inner, Some(&[]), 1),
                    1 => self.star_select(&inner),
                    _ => self.select(&inner, Some(&wanted), 1),
                };
                form(&format!("({not}EXISTS ({{}}))"), vec![query.node])
            }
            3..=5 => {
                let not = self.pick(&["", "", " NOT"]);
                let count = if self.chance(0.2) { 2 } else { 1 };
                let types: Vec<Type> = (0..count).map(|_| self.known_type(scope)).collect();
                let subject: Vec<Node> = types.iter().map(|ty| self.expression(scope, *ty, 0)).collect();
                let query = self.select(&inner, Some(&types), 1);
                let subject = Node::List { separator: ", ", least: count, items: subject };
                let pattern = if count == 1 { "({}{} IN ({}))" } else { "(({}){} IN ({}))" };
                form(pattern, vec![subject, text(not), query.node])
            }
            _ => {
                let ty = self.known_type(scope);
                let subject = self.expression(scope, ty, 0);
                let operator = self.comparison();
                let quantifier = self.pick(&["ANY", "ALL", "SOME"]);
                let query = self.select(&inner, Some(&[ty]), 1);
                form(&format!("({{}} {operator} {quantifier} ({{}}))"), vec![subject, query.node])
            }
        }
    }
}
