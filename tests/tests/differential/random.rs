//! Runs what is generated on both sides, and makes small what differs.

use anyhow::{Context as _, Result};

use crate::answer::difference;
use crate::case::Rows;
use crate::generate::{self, Kind, Schema, Script, Statement, Table, World};
use crate::pair::{Outcome, Pair};
use crate::score::Score;
use crate::shrink::{shrink, Failing, Oracle};

/// Statements over one schema.
const STATEMENTS_PER_WORLD: usize = 400;
/// Writing scripts after which the rows are those of the beginning again.
const WRITES_MAX: usize = 15;
/// Failures that are made small; further ones are shown as they are.
const SHRUNK_MAX: usize = 8;
/// Then nothing more is run.
const FAILURES_MAX: usize = 100;
/// Bounds what chance makes too large, on both sides.
const SETTINGS: &str = "SET statement_timeout = '4s'";

/// What differs, and how; the first word group says of what kind.
#[derive(Debug)]
struct Difference {
    what: String,
    shown: String,
}

/// The seed says everything: world `n` of it is made of `seed + n`.
pub async fn run(pair: &mut Pair, seed: u64, statements: usize, score: &mut Score) -> Result<()> {
    let mut left = statements;
    let mut number = 0;
    while left > 0 && score.failures.len() < FAILURES_MAX {
        let here = left.min(STATEMENTS_PER_WORLD);
        let world = generate::world(seed + number, here);
        run_world(pair, &world, seed + number, score).await.with_context(|| format!("world {}", seed + number))?;
        left -= here;
        number += 1;
        println!("world {}: {}", seed + number - 1, score.counts());
    }
    Ok(())
}

async fn run_world(pair: &mut Pair, world: &World, seed: u64, score: &mut Score) -> Result<()> {
    let mut stage = Stage { pair, shown: Schema::default(), what: String::new() };
    stage.set_up(&world.schema).await?;
    let mut history: Vec<Statement> = Vec::new();
    for (number, script) in world.scripts.iter().enumerate() {
        let origin = format!("world {seed}, script {number}");
        let difference = stage.play(&world.schema, &script.statements, Some((score, &origin))).await?;
        if script.writes() {
            history.extend(script.statements.iter().cloned());
        }
        let Some(difference) = difference else {
            if script.writes() && history.len() >= WRITES_MAX {
                stage.fill(&world.schema).await?;
                history.clear();
            }
            continue;
        };
        let failure = stage.explain(&world.schema, &history, script, difference, score.failures.len()).await?;
        eprintln!("{origin}\n{failure}\n");
        score.failures.push(format!("{origin}\n{failure}"));
        stage.set_up(&world.schema).await?;
        history.clear();
    }
    let checked = stage.check_places(&world.schema).await;
    if let Err(error) = checked {
        score.failures.push(format!("world {seed}: {error:#}"));
    }
    stage.tear_down().await
}

/// The pair with a schema on it.
struct Stage<'a> {
    pair: &'a mut Pair,
    /// What is there now.
    shown: Schema,
    /// The kind of difference that shrinking keeps.
    what: String,
}

impl Stage<'_> {
    async fn tear_down(&mut self) -> Result<()> {
        self.pair.reconnect().await?;
        for sql in std::mem::take(&mut self.shown).drop_if_there() {
            self.pair.both_ends(&sql, true).await?;
        }
        Ok(())
    }

    async fn set_up(&mut self, schema: &Schema) -> Result<()> {
        self.tear_down().await?;
        self.shown = schema.clone();
        for sql in schema.create() {
            self.pair.both_ends(&sql, true).await?;
        }
        self.insert(schema).await
    }

    /// The schema's rows again.
    async fn fill(&mut self, schema: &Schema) -> Result<()> {
        self.pair.reconnect().await?;
        for sql in schema.clear() {
            self.pair.both_ends(&sql, true).await?;
        }
        self.insert(schema).await
    }

    async fn insert(&mut self, schema: &Schema) -> Result<()> {
        for sql in schema.fill() {
            self.pair.both_ends(&sql, true).await?;
        }
        self.pair.both_ends(SETTINGS, true).await
    }

    /// Runs statements up to the first difference; whatever transaction is left open is rolled back.
    async fn play(
        &mut self,
        schema: &Schema,
        statements: &[Statement],
        mut score: Option<(&mut Score, &str)>,
    ) -> Result<Option<Difference>> {
        let mut wrote = false;
        for statement in statements {
            let mut case = statement.case();
            case.select = statement.kind == Kind::Read;
            let outcome = match self.pair.run(&case).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.pair.reconnect().await?;
                    self.pair.both_ends(SETTINGS, true).await?;
                    let shown = format!("{}\n{error:#}", case.sql);
                    return Ok(Some(Difference { what: "no answer".to_owned(), shown }));
                }
            };
            let mut difference = None;
            match &outcome {
                Outcome::Different(mismatch) => {
                    let shown = format!("{}\n{:?}\n{mismatch}", case.sql, case.protocol);
                    difference = Some(Difference { what: mismatch.what.clone(), shown });
                }
                Outcome::Equal { error: None } => {
                    if let Kind::Write(table) = statement.kind {
                        wrote = true;
                        difference = self.table_difference(schema, table, &case.sql).await?;
                    }
                }
                _ => {}
            }
            if let Some((score, origin)) = &mut score {
                case.origin = (*origin).to_owned();
                score.tally(&case, &outcome);
                score.different += usize::from(difference.is_some() && !matches!(outcome, Outcome::Different(_)));
            }
            if difference.is_some() {
                self.pair.give_up().await?;
                return Ok(difference);
            }
            if matches!((&outcome, statement.kind), (Outcome::TooLong, Kind::Write(_))) {
                // One of them may have done it.
                self.fill(schema).await?;
                return Ok(None);
            }
        }
        if statements.iter().any(|statement| statement.kind == Kind::Other) {
            self.pair.give_up().await?;
        }
        if wrote {
            for table in 0..schema.tables.len() {
                let difference = self.table_difference(schema, table, "at the end").await?;
                if difference.is_some() {
                    return Ok(difference);
                }
            }
        }
        Ok(None)
    }

    async fn table_difference(&mut self, schema: &Schema, table: usize, after: &str) -> Result<Option<Difference>> {
        let Some(table) = schema.tables.get(table) else { return Ok(None) };
        let (postgres, gateway) = self.pair.ask_both(&format!("SELECT * FROM {}", table.name)).await?;
        Ok(difference(&postgres, &gateway, &Rows::AnyOrder).map(|what| Difference {
            what: format!("table: {what}"),
            shown: format!("{} differs after {after}\n{postgres}\n{gateway}", table.name),
        }))
    }

    /// Every row where its key says, and every copy of a reference table whole.
    async fn check_places(&mut self, schema: &Schema) -> Result<()> {
        let tables: Vec<(String, String)> =
            schema.tables.iter().filter(|table| table.is_sharded()).map(Table::key).collect();
        let sharded: Vec<(&str, &str)> = tables.iter().map(|(table, key)| (&table[..], &key[..])).collect();
        let reference: Vec<&str> =
            schema.tables.iter().filter(|table| table.is_reference()).map(|table| &table.name[..]).collect();
        self.pair.check_places_of(&sharded, &reference).await
    }

    /// The difference and, if it can be repeated, its smallest case as a script.
    async fn explain(
        &mut self,
        schema: &Schema,
        history: &[Statement],
        script: &Script,
        difference: Difference,
        failures: usize,
    ) -> Result<String> {
        if failures >= SHRUNK_MAX {
            return Ok(difference.shown);
        }
        self.what = kind_of(&difference.what);
        let alone = Failing { schema: schema.clone(), statements: script.statements.clone() };
        let mut whole = history.to_vec();
        if !script.writes() {
            whole.extend(script.statements.iter().cloned());
        }
        let whole = Failing { schema: schema.clone(), statements: whole };
        for case in [alone, whole] {
            if self.fails(&case).await? {
                let small = shrink(case, self).await?;
                return Ok(format!("{}\nsmallest case:\n\n{}", difference.shown, small.script()));
            }
        }
        Ok(format!("{}\n(it does not repeat)", difference.shown))
    }
}

impl Oracle for Stage<'_> {
    async fn fails(&mut self, case: &Failing) -> Result<bool> {
        let (schema, shown) = (&case.schema, &self.shown);
        let ready = match (schema.create() == shown.create(), schema.fill() == shown.fill()) {
            (true, true) if !case.statements.iter().any(|statement| statement.kind != Kind::Read) => Ok(()),
            (true, _) => {
                self.shown = schema.clone();
                self.fill(schema).await
            }
            (false, _) => self.set_up(schema).await,
        };
        if ready.is_err() {
            // A schema or rows that cannot be: what is there is unknown now.
            self.tear_down_all(schema).await?;
            return Ok(false);
        }
        let difference = self.play(schema, &case.statements, None).await?;
        Ok(difference.is_some_and(|difference| kind_of(&difference.what) == self.what))
    }
}

impl Stage<'_> {
    async fn tear_down_all(&mut self, schema: &Schema) -> Result<()> {
        self.shown = schema.clone();
        self.tear_down().await
    }
}

fn kind_of(what: &str) -> String {
    match what.starts_with("errors:") {
        true => what.to_owned(),
        false => what.split(':').next().unwrap_or_default().to_owned(),
    }
}
