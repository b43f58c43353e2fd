//! Semi-joins in a fragment: rows that match no row of the tables that are joined with theirs on the same shard do not travel.
//!
//! Of `FROM orders o, items i WHERE i.order_id = o.id AND o.day > 5`, both sharded by these columns, the rows of `items` come by
//! `SELECT ... FROM items AS i WHERE EXISTS (SELECT 1 FROM orders AS o WHERE (i.order_id = o.id) AND (o.day > 5))`.
//!
//! Tables of the same keyspace that are joined on their keys take part, and reference tables that are joined with any of these; all
//! in the same FROM, where no outer join makes them NULL, and only if some condition on them leaves rows out.

use sqlparser::ast::{BinaryOperator, Expr};

use super::conditions::Scope;
use super::level::{conjuncts, Home, Item, Level};
use crate::plan::analysis::Analysis;
use crate::plan::keys::strip;

/// What a fragment is joined with: tables that are joined with each other.
#[derive(Clone, Debug)]
pub struct SemiJoin {
    /// FROM items.
    pub tables: Vec<String>,
    pub conditions: Vec<Expr>,
}

/// Two columns that a condition holds equal: their items and names.
struct Pair {
    left: (usize, String),
    right: (usize, String),
}

impl Pair {
    fn other(&self, item: usize) -> Option<usize> {
        match (self.left.0 == item, self.right.0 == item) {
            (true, false) => Some(self.right.0),
            (false, true) => Some(self.left.0),
            _ => None,
        }
    }
}

struct Finder<'l, 'a, 's> {
    analysis: &'l Analysis<'a>,
    level: &'l Level<'a, 's>,
    /// Conditions that are true of every row of the level, and from where on they see items.
    parts: Vec<(&'s Expr, std::ops::Range<usize>)>,
    pairs: Vec<Pair>,
}

/// Of each item of the level.
pub fn find(analysis: &Analysis<'_>, level: &Level<'_, '_>) -> Vec<Vec<SemiJoin>> {
    let mut parts = Vec::new();
    for condition in level.conditions.iter().filter(|condition| condition.only.is_none()) {
        let mut found = Vec::new();
        conjuncts(condition.expr, &mut found);
        parts.extend(found.into_iter().map(|part| (part, condition.sees.clone())));
    }
    let mut finder = Finder { analysis, level, parts, pairs: Vec::new() };
    finder.pairs = finder.parts.iter().filter_map(|(part, sees)| finder.pair(part, sees)).collect();
    (0..level.items.len()).map(|item| finder.semi_joins(item)).collect()
}

impl Finder<'_, '_, '_> {
    fn pair(&self, part: &Expr, sees: &std::ops::Range<usize>) -> Option<Pair> {
        let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = strip(part) else { return None };
        self.analysis.context.catalog.operator("=").is_empty().then_some(())?;
        let side = |expr: &Expr| Some((self.level.column(expr, sees)?, super::level::column_name(expr)?));
        Some(Pair { left: side(left)?, right: side(right)? })
    }

    /// Whether PostgreSQL alone decides what reading it gives, and every row that matters is one of its.
    fn takes_part(item: &Item<'_>) -> bool {
        !item.nullable && item.home != Home::Elsewhere && item.relation.is_some_and(|table| table.is_read_alone())
    }

    /// Whether the pair joins `item` with `member` on one shard.
    fn is_local(&self, pair: &Pair, item: usize, member: usize) -> bool {
        if pair.other(item) != Some(member) {
            return false;
        }
        let (own, other) = if pair.left.0 == item { (&pair.left, &pair.right) } else { (&pair.right, &pair.left) };
        match (&self.level.items[item].home, &self.level.items[member].home) {
            (Home::Reference, _) => true,
            (Home::Keyspace { id, key }, Home::Keyspace { id: theirs, key: their_key }) => {
                id == theirs && own.1 == *key && other.1 == *their_key
            }
            _ => false,
        }
    }

    fn semi_joins(&self, target: usize) -> Vec<SemiJoin> {
        let item = &self.level.items[target];
        if !matches!(item.home, Home::Keyspace { .. }) || !Self::takes_part(item) {
            return Vec::new();
        }
        let members = self.pruned(self.joined(target));
        let groups = self.groups(members.get(1..).unwrap_or_default().to_vec());
        groups.into_iter().filter_map(|group| self.semi_join(target, &group)).collect()
    }

    fn semi_join(&self, target: usize, group: &[usize]) -> Option<SemiJoin> {
        let members = [&[target], group].concat();
        let mut conditions = Vec::new();
        for (part, sees) in &self.parts {
            let implied = self.implied(part, sees, &members);
            // What concerns the target alone is among its filters.
            let own = self.implied(part, sees, &[target]);
            conditions.extend(implied.filter(|implied| own.as_ref() != Some(implied)));
        }
        let table = |item: &usize| self.level.items[*item].sql(self.analysis.text.sql);
        Some(SemiJoin { tables: group.iter().map(table).collect::<Option<Vec<String>>>()?, conditions })
    }

    /// Those that are joined with each other, and not by the target alone.
    fn groups(&self, mut left: Vec<usize>) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        while let Some(first) = left.pop() {
            let mut group = vec![first];
            let joined = |group: &[usize], item: usize| {
                let with = |pair: &Pair, member| self.is_local(pair, item, member) || self.is_local(pair, member, item);
                self.pairs.iter().any(|pair| group.iter().any(|member| with(pair, *member)))
            };
            while let Some(position) = left.iter().position(|item| joined(&group, *item)) {
                group.push(left.remove(position));
            }
            groups.push(group);
        }
        groups.reverse();
        groups
    }

    fn implied(&self, part: &Expr, sees: &std::ops::Range<usize>, items: &[usize]) -> Option<Expr> {
        let catalog = self.analysis.context.catalog;
        Scope { level: self.level, catalog, sees: sees.clone(), items }.implied(part)
    }

    /// The target and all that is joined with it on every shard.
    fn joined(&self, target: usize) -> Vec<usize> {
        let mut members = vec![target];
        loop {
            let next = (0..self.level.items.len()).find(|item| {
                let joins = |pair: &Pair| members.iter().any(|member| self.is_local(pair, *item, *member));
                !members.contains(item) && Self::takes_part(&self.level.items[*item]) && self.pairs.iter().any(joins)
            });
            match next {
                Some(item) => members.push(item),
                None => return members,
            }
        }
    }

    /// Without those at the ends that leave no row out.
    fn pruned(&self, mut members: Vec<usize>) -> Vec<usize> {
        loop {
            let idle = members.iter().skip(1).position(|member| {
                let filtered = self.parts.iter().any(|(part, sees)| self.implied(part, sees, &[*member]).is_some());
                let mut neighbours: Vec<usize> = self.pairs.iter().filter_map(|pair| pair.other(*member)).collect();
                neighbours.retain(|neighbour| members.contains(neighbour));
                neighbours.sort_unstable();
                neighbours.dedup();
                !filtered && neighbours.len() < 2
            });
            match idle {
                Some(position) => members.remove(position + 1),
                None => return members,
            };
        }
    }
}
