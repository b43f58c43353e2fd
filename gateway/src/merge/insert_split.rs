//! A multi-row INSERT becomes one INSERT per shard.
//!
//! `INSERT INTO orders VALUES ($1, 'a'), ($2, 'b'), ($1, 'c') RETURNING id` with rows 0 and 2 on one shard becomes
//! `INSERT INTO orders VALUES ($1, 'a'), ($1, 'c') RETURNING id` there and `INSERT INTO orders VALUES ($1, 'b') RETURNING
//! id` on the other shard, where `$1` is the client's `$2`: a shard gets only the parameters that its text uses, since it
//! could not tell the types of others.

mod parameters;

use std::collections::HashMap;

use crate::plan::types::InsertSplit;

use super::ShardIndex;
use parameters::{find_parameters, ParameterPlace};

/// What one shard is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInsert {
    pub shard: ShardIndex,
    pub sql: String,
    /// For each parameter of `sql` in order: the index (from 0) of the client's parameter.
    pub parameters: Vec<usize>,
    /// The rows it inserts, by their index in the statement.
    pub rows: Vec<usize>,
}

/// `owners[i]` is the shard that owns row `i` of the plan. Shards come in the order of their first rows, rows stay in
/// theirs. Client parameters that no text uses go nowhere.
pub fn split(sql: &str, plan: &InsertSplit, owners: &[ShardIndex]) -> Vec<ShardInsert> {
    debug_assert_eq!(plan.rows.len(), owners.len());
    let places = find_parameters(sql);
    let mut inserts: Vec<ShardInsert> = Vec::new();
    for (row, shard) in owners.iter().enumerate() {
        match inserts.iter_mut().find(|insert| insert.shard == *shard) {
            Some(insert) => insert.rows.push(row),
            None => inserts.push(ShardInsert {
                shard: *shard,
                sql: String::with_capacity(sql.len()),
                parameters: Vec::new(),
                rows: vec![row],
            }),
        }
    }
    for insert in &mut inserts {
        let mut renumbering = Renumbering { sql, places: &places, numbers: HashMap::new() };
        renumbering.copy(0, plan.head_end, insert);
        for index in 0..insert.rows.len() {
            let row = &plan.rows[insert.rows[index]];
            insert.sql.push_str(if index == 0 { "" } else { ", " });
            renumbering.copy(row.start, row.end, insert);
        }
        renumbering.copy(plan.tail_start, sql.len(), insert);
    }
    inserts
}

struct Renumbering<'a> {
    sql: &'a str,
    places: &'a [ParameterPlace],
    /// By the client's parameter, which may have any number: its number in the shard's text.
    numbers: HashMap<usize, usize>,
}

impl Renumbering<'_> {
    fn copy(&mut self, start: usize, end: usize, insert: &mut ShardInsert) {
        let first = self.places.partition_point(|place| place.start < start);
        let mut copied = start;
        for place in self.places[first..].iter().take_while(|place| place.end <= end) {
            insert.sql.push_str(&self.sql[copied..place.start]);
            let number = self.number(place.index, insert);
            insert.sql.push_str(&format!("${number}"));
            copied = place.end;
        }
        insert.sql.push_str(&self.sql[copied..end]);
    }

    fn number(&mut self, client: usize, insert: &mut ShardInsert) -> usize {
        *self.numbers.entry(client).or_insert_with(|| {
            insert.parameters.push(client);
            insert.parameters.len()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::types::{InsertRow, KeyExpression};

    /// Rows are written `(...)` without inner parentheses, between VALUES and the last `)` of the rows.
    fn plan(sql: &str) -> InsertSplit {
        let mut rows = Vec::new();
        let mut at = sql.find("VALUES").unwrap();
        while let Some(start) = sql[at..].find('(') {
            let start = at + start;
            let end = start + sql[start..].find(')').unwrap() + 1;
            rows.push(InsertRow { start, end, key: KeyExpression::Constant(None) });
            at = end;
        }
        InsertSplit { head_end: rows[0].start, tail_start: at, rows }
    }

    #[test]
    fn rows_go_to_their_owners_with_their_parameters() {
        let sql = "INSERT INTO orders VALUES ($1, 'a $9'), ($2, $4), ($1, 'c') RETURNING id + $3";
        let inserts = split(sql, &plan(sql), &[0, 1, 0]);
        assert_eq!(
            inserts,
            [
                ShardInsert {
                    shard: 0,
                    sql: "INSERT INTO orders VALUES ($1, 'a $9'), ($1, 'c') RETURNING id + $2".to_owned(),
                    parameters: vec![0, 2],
                    rows: vec![0, 2],
                },
                ShardInsert {
                    shard: 1,
                    sql: "INSERT INTO orders VALUES ($1, $2) RETURNING id + $3".to_owned(),
                    parameters: vec![1, 3, 2],
                    rows: vec![1],
                },
            ]
        );
    }

    #[test]
    fn parameters_of_the_head_come_first() {
        let sql = "WITH x AS (SELECT $2::int) INSERT INTO t\nVALUES (1, $1),\t(2, $2)  ON CONFLICT DO NOTHING";
        let inserts = split(sql, &plan(sql), &[7, 3]);
        assert_eq!(inserts[0].sql, "WITH x AS (SELECT $1::int) INSERT INTO t\nVALUES (1, $2)  ON CONFLICT DO NOTHING");
        assert_eq!((inserts[0].shard, &inserts[0].parameters[..]), (7, &[1, 0][..]));
        assert_eq!(inserts[1].sql, "WITH x AS (SELECT $1::int) INSERT INTO t\nVALUES (2, $1)  ON CONFLICT DO NOTHING");
        assert_eq!((inserts[1].shard, &inserts[1].parameters[..]), (3, &[1][..]));
    }

    #[test]
    fn every_row_goes_somewhere_once() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let count = random.random_range(1..40);
            let rows: Vec<String> = (0..count).map(|row| format!("({row}, ${})", random.random_range(1..9))).collect();
            let sql = format!("INSERT INTO t VALUES {}", rows.join(", "));
            let owners: Vec<usize> = (0..count).map(|_| random.random_range(0..5)).collect();
            let mut seen = vec![false; count];
            for insert in split(&sql, &plan(&sql), &owners) {
                let mut expected = Vec::new();
                for row in &insert.rows {
                    assert_eq!(owners[*row], insert.shard);
                    assert!(!std::mem::replace(&mut seen[*row], true));
                    expected.push(rows[*row].clone());
                }
                // Putting the client's numbers back gives the client's text.
                let mut back = insert.sql.clone();
                for (index, client) in insert.parameters.iter().enumerate() {
                    back = back.replace(&format!("${})", index + 1), &format!("#{})", client + 1));
                }
                assert_eq!(back.replace('#', "$"), format!("INSERT INTO t VALUES {}", expected.join(", ")));
            }
            assert!(seen.into_iter().all(|seen| seen));
        }
    }
}
