//! Schemas, rows and statements made by chance; the same seed makes the same. Statements are typed, so that PostgreSQL accepts nearly
//! all of them, and have one answer: orders are total, floats are exact sums, nothing is volatile.

mod aggregates;
mod expressions;
mod from;
mod predicates;
mod queries;
mod schema;
mod scope;
mod scripts;
mod selects;
mod tree;
mod types;
mod writes;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

pub use schema::{Schema, Table};
pub use scripts::{Kind, Script, Statement};
pub use tree::{Ordered, Tag};

/// The source of chance, and what a statement has used up.
pub struct Maker {
    random: StdRng,
    schema: Schema,
    /// For aliases and primary keys that are not taken.
    next: i64,
    /// Subqueries that the statement may still have.
    subqueries: u32,
    /// Whether literals may be parameters.
    parameters: bool,
}

/// A schema and what is done with it.
pub struct World {
    pub schema: Schema,
    pub scripts: Vec<Script>,
}

/// Subqueries of a statement.
const SUBQUERIES_MAX: i64 = 5;

pub fn world(seed: u64, statements: usize) -> World {
    let random = StdRng::seed_from_u64(seed);
    let mut maker = Maker { random, schema: Schema::default(), next: 0, subqueries: 0, parameters: false };
    maker.schema = maker.schema();
    let mut scripts: Vec<Script> = Vec::new();
    let mut made = 0;
    while made < statements {
        let script = maker.script();
        made += script.statements.len();
        scripts.push(script);
    }
    World { schema: maker.schema, scripts }
}

impl Maker {
    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.choose(&mut self.random).expect("there are choices")
    }

    fn choose<T: Clone>(&mut self, choices: &[T]) -> T {
        choices.choose(&mut self.random).expect("there are choices").clone()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn number(&mut self, range: std::ops::Range<i64>) -> i64 {
        self.random.random_range(range)
    }

    fn fresh(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn alias(&mut self) -> String {
        format!("a{}", self.fresh())
    }
}
