//! One PostgreSQL and the gateway side by side, kept in the same state.

use std::fmt;

use anyhow::{bail, ensure, Context as _, Result};
use ringway_tests::scenario::raw::Raw;

use crate::answer::{ask, difference, Answer};
use crate::case::{Case, Expectation, Protocol, Rows};
use crate::fixture;

const NOT_SUPPORTED: &str = "0A000";
const QUERY_CANCELED: &str = "57014";

pub struct Pair {
    /// Of PostgreSQL and the gateway.
    ports: (u16, u16),
    postgres: Raw,
    gateway: Raw,
    /// After a refusal within a transaction: what follows is skipped up to its end.
    skipping: bool,
}

/// What became of a statement.
pub enum Outcome {
    Equal {
        /// The SQLSTATE, if both refused it.
        error: Option<String>,
    },
    Refused {
        message: String,
        /// Whether PostgreSQL does it.
        possible: bool,
    },
    Different(Box<Mismatch>),
    /// One of them did not end in time.
    TooLong,
    /// It stands in a transaction that was given up.
    Skipped,
}

pub struct Mismatch {
    pub what: String,
    pub postgres: Answer,
    pub gateway: Answer,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  differs in {}", self.what)?;
        writeln!(f, "  PostgreSQL:\n{}", self.postgres)?;
        write!(f, "  gateway:\n{}", self.gateway)
    }
}

impl Pair {
    /// Ports of a server and a gateway with an empty database `app` each.
    pub async fn connect(postgres_port: u16, gateway_port: u16) -> Result<Pair> {
        let mut pair = Pair {
            ports: (postgres_port, gateway_port),
            postgres: Raw::session(postgres_port, "postgres").await.context("connecting to PostgreSQL")?,
            gateway: Raw::session(gateway_port, "postgres").await.context("connecting to the gateway")?,
            skipping: false,
        };
        // Statements that distribute tables can go to both.
        for statement in fixture::NO_DISTRIBUTION {
            pair.both_ends(statement, false).await?;
        }
        for statement in fixture::SCHEMA {
            pair.both(statement).await?;
        }
        for statement in fixture::DISTRIBUTION {
            let answer = ask(&mut pair.gateway, statement, &Protocol::Simple, "").await?;
            ensure!(answer.error.is_none(), "{statement}\n{answer}");
        }
        pair.reload().await?;
        Ok(pair)
    }

    /// Whatever the sessions have set or made for themselves is gone with them.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.postgres = Raw::session(self.ports.0, "postgres").await.context("connecting to PostgreSQL")?;
        self.gateway = Raw::session(self.ports.1, "postgres").await.context("connecting to the gateway")?;
        self.skipping = false;
        Ok(())
    }

    /// Makes both hold the fixture's rows again.
    pub async fn reload(&mut self) -> Result<()> {
        self.reconnect().await?;
        for (table, _) in fixture::TABLES.iter().rev() {
            // They may hold different rows.
            self.both_ends(&format!("DELETE FROM {table}"), true).await?;
        }
        for statement in fixture::load()? {
            self.both(&statement).await?;
        }
        self.check_tables().await
    }

    /// Whether all tables have the same rows on both sides, as seen through the gateway.
    pub async fn check_tables(&mut self) -> Result<()> {
        for (table, key) in fixture::TABLES {
            let sql = format!("SELECT * FROM {table} ORDER BY {key}");
            self.same_rows(&sql).await?;
        }
        Ok(())
    }

    /// Whether every row is where its key says, and every copy of a reference table is whole.
    pub async fn check_places(&mut self) -> Result<()> {
        self.check_places_of(fixture::SHARDED_TABLES, fixture::REFERENCE_TABLES).await
    }

    /// Sharded tables with their keys, and reference tables.
    pub async fn check_places_of(&mut self, sharded: &[(&str, &str)], reference: &[&str]) -> Result<()> {
        for (table, key) in sharded {
            let keys =
                ask(&mut self.postgres, &format!("SELECT DISTINCT {key}::text FROM {table}"), &Protocol::Simple, "")
                    .await?;
            for row in keys.results.iter().flat_map(|result| &result.rows) {
                let key_value = row.first().and_then(Option::as_deref).context("a row without a key")?;
                let literal = String::from_utf8_lossy(key_value).replace('\'', "''");
                let sql = format!("SELECT * FROM {table} WHERE {key} = '{literal}'");
                self.same_rows(&sql).await?;
            }
        }
        for table in reference {
            for shard in ["s1", "s2"] {
                ask(&mut self.gateway, &format!("SET ringway.shard = '{shard}'"), &Protocol::Simple, "").await?;
                let same = self.same_rows(&format!("SELECT * FROM {table}")).await;
                ask(&mut self.gateway, "SET ringway.shard = DEFAULT", &Protocol::Simple, "").await?;
                same.with_context(|| format!("on {shard}"))?;
            }
        }
        Ok(())
    }

    pub async fn ask_both(&mut self, sql: &str) -> Result<(Answer, Answer)> {
        let postgres = ask(&mut self.postgres, sql, &Protocol::Simple, "").await?;
        let gateway = ask(&mut self.gateway, sql, &Protocol::Simple, "").await?;
        Ok((postgres, gateway))
    }

    async fn same_rows(&mut self, sql: &str) -> Result<()> {
        let (postgres, gateway) = self.ask_both(sql).await?;
        match difference(&postgres, &gateway, &Rows::AnyOrder) {
            Some(what) => bail!("{sql}\n{}", Mismatch { what, postgres, gateway }),
            None => Ok(()),
        }
    }

    /// Runs a statement on both. The gateway is first: what it refuses is not done on PostgreSQL either.
    pub async fn run(&mut self, case: &Case) -> Result<Outcome> {
        if self.skipping {
            self.skipping = !case.ends_transaction();
            return Ok(Outcome::Skipped);
        }
        let gateway = ask(&mut self.gateway, &case.sql, &case.protocol, &case.copy_data).await.context("gateway")?;
        let refused = gateway.error.as_ref().filter(|error| error.code == NOT_SUPPORTED);
        let Some(refusal) = refused else {
            let postgres =
                ask(&mut self.postgres, &case.sql, &case.protocol, &case.copy_data).await.context("PostgreSQL")?;
            if [&postgres, &gateway].iter().any(|answer| answer.failed_with(QUERY_CANCELED)) {
                self.leave_transaction(&gateway, &postgres, case).await?;
                return Ok(Outcome::TooLong);
            }
            return match difference(&postgres, &gateway, &case.rows) {
                None => Ok(Outcome::Equal { error: postgres.error.map(|error| error.code) }),
                Some(what) => {
                    self.leave_transaction(&gateway, &postgres, case).await?;
                    Ok(Outcome::Different(Box::new(Mismatch { what, postgres, gateway })))
                }
            };
        };
        let message = refusal.message.clone();
        // Does PostgreSQL refuse it too? Whatever it does must leave no trace.
        let in_transaction = gateway.status != b'I';
        if !in_transaction {
            self.both_ends("BEGIN", false).await?;
        }
        let postgres =
            ask(&mut self.postgres, &case.sql, &case.protocol, &case.copy_data).await.context("PostgreSQL")?;
        let also = postgres.failed_with(NOT_SUPPORTED);
        let possible = postgres.error.is_none();
        if !in_transaction {
            self.both_ends("ROLLBACK", false).await?;
        } else if !also {
            self.leave_transaction(&gateway, &postgres, case).await?;
        }
        Ok(match also {
            true => Outcome::Equal { error: Some(NOT_SUPPORTED.to_owned()) },
            false => Outcome::Refused { message, possible },
        })
    }

    /// Rolls back whatever is open.
    pub async fn give_up(&mut self) -> Result<()> {
        self.skipping = false;
        self.both_ends("ROLLBACK", true).await
    }

    async fn leave_transaction(&mut self, gateway: &Answer, postgres: &Answer, case: &Case) -> Result<()> {
        if gateway.status == b'I' && postgres.status == b'I' {
            return Ok(());
        }
        self.skipping = !case.ends_transaction();
        self.both_ends("ROLLBACK", true).await
    }

    /// On PostgreSQL, and on the gateway too if asked.
    pub async fn both_ends(&mut self, sql: &str, gateway: bool) -> Result<()> {
        let answer = ask(&mut self.postgres, sql, &Protocol::Simple, "").await?;
        ensure!(answer.error.is_none(), "PostgreSQL: {sql}\n{answer}");
        if gateway {
            let answer = ask(&mut self.gateway, sql, &Protocol::Simple, "").await?;
            ensure!(answer.error.is_none(), "gateway: {sql}\n{answer}");
        }
        Ok(())
    }

    async fn both(&mut self, sql: &str) -> Result<()> {
        let case = Case::new(Expectation::Equal, sql);
        match self.run(&case).await? {
            Outcome::Equal { error: None } => Ok(()),
            Outcome::Equal { error: Some(code) } => bail!("{code}: {sql}"),
            Outcome::Refused { message, .. } => bail!("refused: {message}\n{sql}"),
            Outcome::Different(mismatch) => bail!("{sql}\n{mismatch}"),
            Outcome::Skipped | Outcome::TooLong => bail!("skipped: {sql}"),
        }
    }
}
