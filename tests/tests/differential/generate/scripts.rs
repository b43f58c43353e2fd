//! Statements in their order: by themselves, and in transactions with savepoints and errors.

use super::tree::{text, Node};
use super::{Maker, SUBQUERIES_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    /// Of the table with this index.
    Write(usize),
    /// BEGIN, SAVEPOINT and the like, and what fails.
    Other,
}

#[derive(Clone, Debug)]
pub struct Statement {
    pub node: Node,
    pub kind: Kind,
    pub extended: bool,
    pub binary_results: bool,
}

/// Outside of a transaction at its beginning and end.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub statements: Vec<Statement>,
}

impl Script {
    pub fn writes(&self) -> bool {
        self.statements.iter().any(|statement| matches!(statement.kind, Kind::Write(_)))
    }
}

impl Maker {
    pub fn script(&mut self) -> Script {
        let statements = match self.number(0..100) {
            0..=67 => vec![self.statement(Kind::Read)],
            68..=70 => vec![self.failing()],
            71..=92 => vec![self.writing()],
            _ => self.transaction(),
        };
        Script { statements }
    }

    fn statement(&mut self, kind: Kind) -> Statement {
        self.subqueries = self.number(0..SUBQUERIES_MAX) as u32;
        self.parameters = self.chance(0.25);
        let node = self.read();
        self.finished(node, kind)
    }

    fn writing(&mut self) -> Statement {
        self.subqueries = self.choose(&[0, 0, 0, 1, 2]);
        self.parameters = self.chance(0.25);
        let (node, table) = self.write();
        self.finished(node, Kind::Write(table))
    }

    fn finished(&mut self, node: Node, kind: Kind) -> Statement {
        let extended = node.holds_parameters() || self.chance(0.15);
        Statement { node, kind, extended, binary_results: extended && self.chance(0.3) }
    }

    fn other(&mut self, sql: impl Into<String>) -> Statement {
        let extended = self.chance(0.2);
        Statement { node: text(sql), kind: Kind::Other, extended, binary_results: false }
    }

    fn failing(&mut self) -> Statement {
        let table = self.choose(&self.schema.tables.clone());
        let column = self.choose(&table.columns);
        let (name, column_name) = (&table.name, &column.name);
        let sql = match self.number(0..10) {
            0 => format!("SELECT 1 / 0, {column_name} FROM {name}"),
            1 => format!("SELECT no_such FROM {name}"),
            2 => format!("SELECT count(*) FROM {name}, nowhere"),
            3 => format!("SELECT 'many'::integer, {column_name} FROM {name} ORDER BY 2"),
            4 => format!("SELECT max(count(*)) FROM {name}"),
            5 => format!("SELECT {column_name}, count(*) FROM {name}"),
            6 => format!("SELECT sum({column_name}, 1) FROM {name} GROUP BY no_such"),
            7 => format!("UPDATE {name} SET no_such = 1"),
            8 => format!("SELECT 'angry'::mood FROM {name}"),
            _ => match table.rows.first() {
                Some(row) if table.primary_key > 0 => {
                    let names = table.names(table.columns.len());
                    format!("INSERT INTO {name} ({names}) VALUES ({0}), ({0})", row.join(", "))
                }
                _ => format!("INSERT INTO {name} ({column_name}) VALUES (1, 2)"),
            },
        };
        self.other(sql)
    }

    fn transaction(&mut self) -> Vec<Statement> {
        let begin = self.pick(&["BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION"]);
        let mut statements = vec![self.other(begin)];
        for _ in 0..self.number(1..6) {
            match self.number(0..8) {
                0 => {
                    statements.push(self.other("SAVEPOINT a"));
                    statements.push(self.writing());
                    let end = self.pick(&["ROLLBACK TO a", "ROLLBACK TO SAVEPOINT a", "RELEASE a"]);
                    statements.push(self.other(end));
                }
                1 => {
                    statements.push(self.other("SAVEPOINT b"));
                    statements.push(self.failing());
                    statements.push(self.other("ROLLBACK TO b"));
                }
                2..=4 => statements.push(self.writing()),
                _ => statements.push(self.statement(Kind::Read)),
            }
        }
        let end = self.pick(&["COMMIT", "COMMIT", "ROLLBACK", "END"]);
        statements.push(self.other(end));
        statements
    }
}
