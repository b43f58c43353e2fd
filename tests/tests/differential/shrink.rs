//! Makes a failing case small: statements, tables, columns, rows, clauses and parts of expressions go as long as it still fails.

use anyhow::Result;

use crate::case::{Case, Expectation, Protocol, Rows};
use crate::generate::{Kind, Schema, Statement};

/// Cases that are tried for one failure.
const ATTEMPTS_MAX: usize = 1_500;

/// A schema with its rows, and statements of which the last ones fail.
#[derive(Clone, Debug)]
pub struct Failing {
    pub schema: Schema,
    pub statements: Vec<Statement>,
}

/// Tells whether a case still fails in the same way.
pub trait Oracle {
    fn fails(&mut self, case: &Failing) -> impl std::future::Future<Output = Result<bool>>;
}

pub async fn shrink(case: Failing, oracle: &mut impl Oracle) -> Result<Failing> {
    let mut shrinker = Shrinker { case, oracle, attempts: 0 };
    loop {
        let before = shrinker.attempts_that_helped().await?;
        if !before || shrinker.attempts >= ATTEMPTS_MAX {
            return Ok(shrinker.case);
        }
    }
}

struct Shrinker<'a, O> {
    case: Failing,
    oracle: &'a mut O,
    attempts: usize,
}

impl<O: Oracle> Shrinker<'_, O> {
    /// One round; whether anything could go.
    async fn attempts_that_helped(&mut self) -> Result<bool> {
        let mut helped = self.drop_statements().await?;
        for index in 0..self.case.statements.len() {
            helped |= self.reduce_statement(index).await?;
        }
        helped |= self.drop_tables().await?;
        helped |= self.drop_rows().await?;
        helped |= self.drop_columns().await?;
        Ok(helped)
    }

    /// Keeps the candidate if it fails as well.
    async fn attempt(&mut self, candidate: Failing) -> Result<bool> {
        if self.attempts >= ATTEMPTS_MAX {
            return Ok(false);
        }
        self.attempts += 1;
        let fails = self.oracle.fails(&candidate).await?;
        if fails {
            self.case = candidate;
        }
        Ok(fails)
    }

    /// Halves first, then smaller and smaller pieces.
    async fn drop_pieces(&mut self, count: usize, without: impl Fn(&Failing, usize, usize) -> Failing) -> Result<bool> {
        let (mut left, mut piece, mut helped) = (count, count.div_ceil(2), false);
        while piece > 0 && left > 0 {
            let mut start = 0;
            while start < left {
                let end = (start + piece).min(left);
                match self.attempt(without(&self.case, start, end)).await? {
                    true => (left, helped) = (left - (end - start), true),
                    false => start = end,
                }
            }
            piece /= 2;
        }
        Ok(helped)
    }

    async fn drop_statements(&mut self) -> Result<bool> {
        let count = self.case.statements.len();
        self.drop_pieces(count, |case, start, end| {
            let mut case = case.clone();
            case.statements.drain(start..end);
            case
        })
        .await
    }

    async fn reduce_statement(&mut self, index: usize) -> Result<bool> {
        let mut helped = false;
        'again: loop {
            for node in self.case.statements[index].node.reductions() {
                let mut candidate = self.case.clone();
                candidate.statements[index].node = node;
                if self.attempt(candidate).await? {
                    helped = true;
                    continue 'again;
                }
            }
            break;
        }
        let statement = &self.case.statements[index];
        if statement.binary_results {
            let mut candidate = self.case.clone();
            candidate.statements[index].binary_results = false;
            helped |= self.attempt(candidate).await?;
        }
        if self.case.statements[index].extended {
            let mut candidate = self.case.clone();
            candidate.statements[index].extended = false;
            helped |= self.attempt(candidate).await?;
        }
        Ok(helped)
    }

    async fn drop_rows(&mut self) -> Result<bool> {
        let mut helped = false;
        for table in 0..self.case.schema.tables.len() {
            let count = self.case.schema.tables[table].rows.len();
            helped |= self
                .drop_pieces(count, |case, start, end| {
                    let mut case = case.clone();
                    case.schema.tables[table].rows.drain(start..end);
                    case
                })
                .await?;
        }
        Ok(helped)
    }

    async fn drop_tables(&mut self) -> Result<bool> {
        let mut helped = false;
        let mut table = self.case.schema.tables.len();
        while table > 0 {
            table -= 1;
            let mut candidate = self.case.clone();
            candidate.schema.tables.remove(table);
            // Statements know their table by its index.
            for statement in &mut candidate.statements {
                if let Kind::Write(index) = &mut statement.kind {
                    *index -= usize::from(*index > table);
                }
            }
            helped |= self.attempt(candidate).await?;
        }
        Ok(helped)
    }

    async fn drop_columns(&mut self) -> Result<bool> {
        let mut helped = false;
        for table in 0..self.case.schema.tables.len() {
            for what in [Clear::Indexes, Clear::Constraints, Clear::Defaults] {
                let mut candidate = self.case.clone();
                if what.apply(&mut candidate.schema, table) {
                    helped |= self.attempt(candidate).await?;
                }
            }
            let mut column = self.case.schema.tables[table].columns.len();
            while column > self.case.schema.tables[table].primary_key.max(1) {
                column -= 1;
                let mut candidate = self.case.clone();
                let shrunk = &mut candidate.schema.tables[table];
                shrunk.columns.remove(column);
                shrunk.rows.iter_mut().for_each(|row| drop(row.remove(column)));
                helped |= self.attempt(candidate).await?;
            }
        }
        Ok(helped)
    }
}

#[derive(Clone, Copy)]
enum Clear {
    Indexes,
    Constraints,
    Defaults,
}

impl Clear {
    /// Whether there was anything.
    fn apply(self, schema: &mut Schema, table: usize) -> bool {
        let table = &mut schema.tables[table];
        match self {
            Clear::Indexes => !std::mem::take(&mut table.indexes).is_empty(),
            Clear::Constraints => !std::mem::take(&mut table.constraints).is_empty(),
            Clear::Defaults => table.columns.iter_mut().filter_map(|column| column.default.take()).count() > 0,
        }
    }
}

impl Statement {
    pub fn case(&self) -> Case {
        let (sql, parameters) = self.node.render();
        let rows = if self.node.is_ordered() { Rows::Ordered } else { Rows::AnyOrder };
        let case = Case::new(Expectation::Hard, sql).rows(rows);
        match self.extended || !parameters.is_empty() {
            true => case.extended(parameters, self.binary_results),
            false => case,
        }
    }
}

impl Failing {
    /// As paragraphs of a .slt file.
    pub fn script(&self) -> String {
        let setup = self.schema.create().into_iter().chain(self.schema.fill());
        let mut paragraphs: Vec<String> = setup.map(|sql| format!("equal\n{sql}\n")).collect();
        paragraphs.extend(self.statements.iter().map(|statement| paragraph(&statement.case())));
        paragraphs.extend(self.schema.drop().into_iter().map(|sql| format!("equal\n{sql}\n")));
        paragraphs.join("\n")
    }
}

fn paragraph(case: &Case) -> String {
    let mut header = "equal".to_owned();
    if case.rows == Rows::Ordered {
        header += " ordered";
    }
    if let Protocol::Extended { parameters, binary_results } = &case.protocol {
        header += if *binary_results { " binary" } else { " extended" };
        if !parameters.is_empty() {
            header += " params";
        }
        for value in parameters {
            header += &value.as_ref().map_or(" NULL".to_owned(), |value| format!(" '{}'", value.replace('\'', "''")));
        }
    }
    format!("{header}\n{}\n", case.sql)
}
