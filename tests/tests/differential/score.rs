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
    /// Generated statements that PostgreSQL accepts; those of them that read; those of these that are refused.
    accepted: usize,
    pub selects: usize,
    pub selects_refused: usize,
    too_long: usize,
    pub failures: Vec<String>,
    /// By the gateway's message: how often, and an example.
    refusals: Refusals,
    /// Those of generated SELECTs.
    select_refusals: Refusals,
}

impl Score {
    pub fn new(name: &str) -> Score {
        Score { name: name.to_owned(), ..Score::default() }
    }

    pub fn statements(&self) -> usize {
        self.equal + self.refused + self.different
    }

    /// For generated statements: what differs is told by who made it small.
    pub fn tally(&mut self, case: &Case, outcome: &Outcome) {
        let accepted = match outcome {
            Outcome::Equal { error } => {
                self.equal += 1;
                self.errors += usize::from(error.is_some());
                error.is_none()
            }
            Outcome::Refused { message, possible } => {
                self.refused += 1;
                if *possible {
                    let refusals = if case.select { &mut self.select_refusals } else { &mut self.refusals };
                    refusals.entry(without_numbers(message)).or_insert_with(|| (0, case.sql.clone())).0 += 1;
                    self.selects_refused += usize::from(case.select);
                }
                *possible
            }
            Outcome::Different(_) => {
                self.different += 1;
                true
            }
            Outcome::TooLong => {
                self.too_long += 1;
                false
            }
            Outcome::Skipped => {
                self.skipped += 1;
                false
            }
        };
        self.accepted += usize::from(accepted);
        self.selects += usize::from(accepted && case.select);
    }

    pub fn count(&mut self, case: &Case, outcome: Outcome) {
        let Case { origin, sql, .. } = case;
        let plain = matches!(case.expectation, Expectation::Plain | Expectation::Equal);
        self.plain += usize::from(plain && !matches!(outcome, Outcome::Skipped));
        match outcome {
            Outcome::Skipped | Outcome::TooLong => self.skipped += 1,
            Outcome::Equal { error } => {
                self.equal += 1;
                self.errors += usize::from(error.is_some());
                if case.expectation == Expectation::Refused {
                    self.failures.push(format!("{origin}: must be refused\n  {sql}"));
                }
            }
            Outcome::Refused { message, .. } => {
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
        self.accepted += other.accepted;
        self.selects += other.selects;
        self.selects_refused += other.selects_refused;
        self.too_long += other.too_long;
        self.failures.extend(other.failures);
        merge(&mut self.refusals, other.refusals);
        merge(&mut self.select_refusals, other.select_refusals);
    }

    /// Of generated statements.
    pub fn counts(&self) -> String {
        let Score { accepted, errors, selects, selects_refused, too_long, skipped, refused, different, .. } = self;
        let percent = (selects_refused * 10_000).checked_div(*selects).unwrap_or(0) as f64 / 100.0;
        format!(
            "{} generated statements, {accepted} accepted by PostgreSQL, {errors} errors alike, {refused} refused, {different} \
             different, {too_long} too long, {skipped} in transactions given up; of {selects} SELECTs {selects_refused} \
             ({percent} %) refused",
            self.statements()
        )
    }

    /// Of generated statements, by cause.
    pub fn causes(&self) -> String {
        format!("refused SELECTs:\n{}\nother refusals:\n{}", listed(&self.select_refusals), listed(&self.refusals))
    }

    pub fn reasons(&self) -> String {
        listed(&self.refusals)
    }
}

type Refusals = BTreeMap<String, (usize, String)>;

fn merge(all: &mut Refusals, other: Refusals) {
    for (message, (count, sql)) in other {
        all.entry(message).or_insert((0, sql)).0 += count;
    }
}

fn listed(refusals: &Refusals) -> String {
    let lines = refusals.iter().map(|(message, (count, sql))| {
        let sql: String = sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect();
        format!("{count:5}  {message}\n         {sql}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Generated names differ in their numbers alone.
fn without_numbers(message: &str) -> String {
    let mut text = String::new();
    for character in message.chars() {
        match character.is_ascii_digit() {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(character),
        }
    }
    text
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
