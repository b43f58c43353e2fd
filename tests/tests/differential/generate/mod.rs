//! Statements made by chance over the shop, in families; the same seed gives the same statements.

mod reads;
mod terms;
mod writes;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::case::Case;

/// The source of chance, and what must not repeat.
pub struct Maker {
    random: StdRng,
    /// For primary keys that are not taken.
    next_id: i64,
}

type Family = (&'static str, fn(&mut Maker) -> Vec<Case>, usize);

/// Name, maker, share in per cent.
const FAMILIES: &[Family] = &[
    ("generated: point reads", |maker| vec![maker.point_read()], 10),
    ("generated: key joins", |maker| vec![maker.key_join()], 7),
    ("generated: fan-out", |maker| vec![maker.fan_out()], 9),
    ("generated: ordered", |maker| vec![maker.ordered()], 12),
    ("generated: aggregates", |maker| vec![maker.aggregate()], 14),
    ("generated: colocated joins", |maker| vec![maker.colocated_join()], 8),
    ("generated: subqueries", |maker| vec![maker.subquery()], 8),
    ("generated: windows", |maker| vec![maker.window()], 4),
    ("generated: set operations", |maker| vec![maker.set_operation()], 4),
    ("generated: parameters", |maker| vec![maker.with_parameters()], 6),
    ("generated: inserts", |maker| vec![maker.insert()], 5),
    ("generated: updates, deletes", |maker| vec![maker.change()], 7),
    ("generated: transactions", Maker::transaction, 6),
];

pub fn families(seed: u64, statements: usize) -> Vec<(&'static str, Vec<Case>)> {
    let mut families = Vec::new();
    for (index, (name, make, share)) in FAMILIES.iter().enumerate() {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(index as u64));
        let mut maker = Maker { random, next_id: 1_000 * (index as i64 + 1) };
        let mut cases = Vec::new();
        while cases.len() < statements * share / 100 {
            cases.extend(make(&mut maker));
        }
        for (number, case) in cases.iter_mut().enumerate() {
            case.origin = format!("{name}, seed {seed}, number {number}");
        }
        families.push((*name, cases));
    }
    families
}

impl Maker {
    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices.choose(&mut self.random).expect("there are choices")
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn number(&mut self, range: std::ops::Range<i64>) -> i64 {
        self.random.random_range(range)
    }

    /// A few of the list, in its order, at least one.
    fn some<'a>(&mut self, choices: &[&'a str]) -> Vec<&'a str> {
        let mut picked: Vec<&str> = choices.iter().copied().filter(|_| self.random.random_bool(0.4)).collect();
        if picked.is_empty() {
            picked.push(self.pick(choices));
        }
        picked
    }

    fn fresh_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }
}
