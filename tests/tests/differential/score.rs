//! Counts of what became of statements, and the list of those that fail the test.

use std::collections::BTreeMap;
use std::fmt;

use crate::case::{Case, Expectation};
use crate::pair::Outcome;

#[derive(Default)]
pub struct Score {
    name: String,
    equal: usize,
    /// Of the equal ones: errors.
    errors: usize,
    refused: usize,
    pub different: usize,
    skipped: usize,
    pub plain: usize,
    pub plain_refused: usize,
    pub failures: Vec<String>,
    /// By the gateway's message: how often, and an example.
    refusals: BTreeMap<String, (usize, String)>,
}

impl Score {
    pub fn new(name: &str) -> Score {
        Score { name: name.to_owned(), ..Score::default() }
    }

    pub fn statements(&self) -> usize {
        self.equal + self.refused + self.different
    }

    pub fn count(&mut self, case: &Case, outcome: Outcome) {
        let Case { origin, sql, .. } = case;
        let plain = matches!(case.expectation, Expectation::Plain | Expectation::Equal);
        self.plain += usize::from(plain && !matches!(outcome, Outcome::Skipped));
        match outcome {
            Outcome::Skipped => self.skipped += 1,
            Outcome::Equal { error } => {
                self.equal += 1;
                self.errors += usize::from(error.is_some());
                if case.expectation == Expectation::Refused {
                    self.failures.push(format!("{origin}: must be refused\n  {sql}"));
                }
            }
            Outcome::Refused { message } => {
                self.refused += 1;
                self.plain_refused += usize::from(plain);
                if case.expectation == Expectation::Equal {
                    self.failures.push(format!("{origin}: must not be refused\n  {sql}\n  {message}"));
                }
                self.refusals.entry(message).or_insert_with(|| (0, sql.clone())).0 += 1;
            }
            Outcome::Different(mismatch) => {
                self.different += 1;
                self.failures.push(format!("{origin}:\n  {sql}\n  {:?}\n{mismatch}", case.protocol));
            }
        }
    }

    pub fn add(&mut self, other: Score) {
        self.equal += other.equal;
        self.errors += other.errors;
        self.refused += other.refused;
        self.different += other.different;
        self.skipped += other.skipped;
        self.plain += other.plain;
        self.plain_refused += other.plain_refused;
        self.failures.extend(other.failures);
        for (message, (count, sql)) in other.refusals {
            self.refusals.entry(message).or_insert((0, sql)).0 += count;
        }
    }

    pub fn reasons(&self) -> String {
        let lines = self.refusals.iter().map(|(message, (count, sql))| {
            let sql: String = sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
            format!("{count:5}  {message}\n         {sql}")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Score { name, equal, errors, refused, different, skipped, plain, plain_refused, .. } = self;
        write!(
            f,
            "{name:28} {:5} statements: {equal} equal ({errors} errors), {refused} refused, {different} different, {skipped} skipped; \
             {plain_refused} of {plain} plain ones refused",
            self.statements()
        )
    }
}
