//! Commands of the session itself: transactions, settings, prepared statements in SQL.

use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use crate::config::pools::PoolMode;
use crate::exec::answers::ask;
use crate::exec::bound::Bound;
use crate::exec::commit;
use crate::exec::describe::describe;
use crate::exec::dispatch::{self, check_not_failed, Run};
use crate::exec::failure::Failure;
use crate::exec::forward::{forward, Request};
use crate::exec::listen::session::Change;
use crate::exec::pump::{Expect, Show};
use crate::exec::transaction::{merge_modes, modes_text, Block, Savepoint, Transaction};
use crate::plan::route::Parameter;
use crate::plan::types::{Access, Discard, Isolation, Plan, SessionCommand, TransactionModes};
use crate::pool::connection::ServerConnection;
use crate::wire::{backend, frontend, Format, Frame, PgError, SqlState};
use ringway_topology::ids::ShardId;
use ringway_topology::model::{quote_ident, quote_literal};

pub(super) const LOCK_TABLE: &str = "LOCK TABLE";
const SET_TRANSACTION: &str = "SET TRANSACTION";

impl Session {
    /// Runs it and shows its answer but for ReadyForQuery. `simple`: the text, when it came in a simple query (rows are
    /// described then).
    /// `values`: what the statement is executed with.
    pub async fn command(
        &mut self,
        command: &SessionCommand,
        values: &[Parameter<'_>],
        simple: Option<&str>,
    ) -> Result<(), Failure> {
        let ends = matches!(
            command,
            SessionCommand::Commit { .. } | SessionCommand::Rollback { .. } | SessionCommand::RollbackTo { .. }
        );
        if !ends {
            check_not_failed(&self.executor)?;
        }
        if simple.is_none() && self.executor.transaction.block == Block::Implicit {
            // A pipeline is no transaction block.
            let what = match command {
                SessionCommand::Set { local: true, .. } | SessionCommand::SetFromCurrent { local: true, .. } => {
                    "SET LOCAL"
                }
                SessionCommand::SetConstraints { .. } => "SET CONSTRAINTS",
                _ => "",
            };
            if !what.is_empty() {
                let message = format!("{what} can only be used in transaction blocks");
                self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, &message);
            }
        }
        let tag = match command {
            SessionCommand::Empty => {
                backend::empty_query_response(self.executor.client.out());
                return Ok(());
            }
            SessionCommand::Begin { modes, tag } => {
                self.check_mode()?;
                let within = self.executor.transaction.block == Block::Explicit;
                self.begin(modes);
                if within && *modes != TransactionModes::default() {
                    self.set_transaction(modes).await?;
                }
                tag
            }
            SessionCommand::Commit { chain } => self.commit(*chain).await?,
            SessionCommand::Rollback { chain } => self.roll_back(*chain).await?,
            SessionCommand::Savepoint { name } => self.savepoint(name).await?,
            SessionCommand::Release { name } => self.release(name).await?,
            SessionCommand::RollbackTo { name } => self.roll_back_to(name).await?,
            SessionCommand::Set { name, local, sql, value } => {
                self.set(name, *local, value.as_deref(), sql).await?;
                "SET"
            }
            SessionCommand::SetFromCurrent { name, local, sql } => {
                self.set_from_current(name, *local, sql).await?;
                "SET"
            }
            SessionCommand::SetConfig { items, only_known, sql } => {
                if let Some(name) = only_known {
                    let known = format!("SELECT 1 FROM pg_catalog.pg_settings WHERE name = {}", quote_literal(name));
                    if self.ask_any(&known).await?.is_none() {
                        return self.pass(sql, simple.is_some()).await;
                    }
                }
                return self.set_config(items, values, simple.is_some()).await;
            }
            SessionCommand::Reset { name, sql } => {
                self.reset(name.as_deref(), sql).await?;
                "RESET"
            }
            SessionCommand::Show { sql, .. } => return self.pass(sql, simple.is_some()).await,
            SessionCommand::SetTransaction { modes } => {
                let block = self.executor.transaction.block;
                if block == Block::None || block == Block::Implicit && simple.is_none() {
                    let warning = "SET TRANSACTION can only be used in transaction blocks";
                    self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, warning);
                }
                self.set_transaction(modes).await?;
                "SET"
            }
            SessionCommand::SetCharacteristics { modes } => {
                for (name, value) in default_modes(modes) {
                    let sql = format!("SET {name} TO {}", quote_literal(&value));
                    self.set(name, false, Some(&value), &sql).await?;
                }
                "SET"
            }
            SessionCommand::SetConstraints { sql } => {
                match self.executor.transaction.block {
                    Block::None => self.outside(sql).await?,
                    _ => self.log(sql).await?,
                }
                "SET CONSTRAINTS"
            }
            SessionCommand::Discard(what) => self.discard(*what).await?,
            SessionCommand::Prepare { name, parameter_types, sql } => {
                self.prepare(name, parameter_types, sql).await?;
                "PREPARE"
            }
            SessionCommand::Execute { name, arguments } => {
                return self.execute_prepared(name, arguments, simple.is_some()).await
            }
            SessionCommand::ExplainExecute { explain, name, arguments } => {
                return self.explain_prepared(explain, name, arguments, simple.is_some()).await
            }
            SessionCommand::Deallocate { name } => self.deallocate(name.as_deref())?,
            SessionCommand::Listen { channel, written } => {
                self.warn_truncated(written.as_deref(), channel);
                self.listen(Change::Listen(Arc::from(channel.as_str()))).await?;
                "LISTEN"
            }
            SessionCommand::Unlisten { channel } => {
                let change = channel.as_deref().map_or(Change::UnlistenAll, |name| Change::Unlisten(Arc::from(name)));
                self.listen(change).await?;
                "UNLISTEN"
            }
            SessionCommand::ListeningChannels { label } => {
                return self.listening_channels(label, simple.is_some()).await
            }
        };
        backend::command_complete(self.executor.client.out(), tag);
        Ok(())
    }

    fn warn(&mut self, code: SqlState, message: &str) {
        let mut warning = PgError::warning(message);
        warning.code = code;
        backend::notice_response(self.executor.client.out(), &warning);
    }

    pub(super) fn begin(&mut self, modes: &TransactionModes) {
        match self.executor.transaction.block {
            Block::Explicit => {
                self.warn(SqlState::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress")
            }
            // What has been done since the last Sync becomes part of it.
            Block::Implicit => {
                self.executor.transaction.block = Block::Explicit;
                merge_modes(&mut self.executor.transaction.modes, modes);
            }
            Block::None => {
                self.executor.transaction = Transaction {
                    block: Block::Explicit,
                    modes: modes.clone(),
                    settings_before: Some(self.executor.settings.clone()),
                    began: Some(std::time::SystemTime::now()),
                    ..Transaction::default()
                };
            }
        }
    }

    fn check_mode(&self) -> Result<(), Failure> {
        if self.executor.mode != PoolMode::Statement {
            return Ok(());
        }
        Err(PgError::refused(
            "transaction blocks are not allowed in statement pooling mode",
            "Send every statement by itself, or have pool_mode = \"transaction\" set for this role or database.",
        )
        .into())
    }

    async fn commit(&mut self, chain: bool) -> Result<&'static str, Failure> {
        let modes = self.executor.transaction.modes.clone();
        if chain && self.executor.transaction.block == Block::Implicit {
            self.no_transaction(chain, "COMMIT AND CHAIN")?;
        }
        let tag = match (self.executor.transaction.block, self.executor.transaction.failed) {
            (Block::None, _) => {
                self.no_transaction(chain, "COMMIT AND CHAIN")?;
                self.portals.clear();
                return Ok("COMMIT");
            }
            (_, true) => {
                commit::roll_back(&mut self.executor).await;
                self.transaction_ended(Default::default());
                "ROLLBACK"
            }
            (block, false) => {
                if block == Block::Implicit {
                    self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
                }
                let committed = commit::commit(&mut self.executor).await;
                self.portals.clear();
                self.transaction_ended(committed?);
                "COMMIT"
            }
        };
        self.chain(chain, &modes);
        Ok(tag)
    }

    async fn roll_back(&mut self, chain: bool) -> Result<&'static str, Failure> {
        let modes = self.executor.transaction.modes.clone();
        if chain && self.executor.transaction.block != Block::Explicit {
            self.no_transaction(chain, "ROLLBACK AND CHAIN")?;
        }
        if self.executor.transaction.block != Block::Explicit {
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        }
        if self.executor.transaction.is_open() {
            commit::roll_back(&mut self.executor).await;
        }
        self.transaction_ended(Default::default());
        self.chain(chain, &modes);
        Ok("ROLLBACK")
    }

    fn no_transaction(&mut self, chain: bool, what: &str) -> Result<(), Failure> {
        if chain {
            let message = format!("{what} can only be used in transaction blocks");
            return Err(PgError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message).into());
        }
        self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        Ok(())
    }

    fn chain(&mut self, chain: bool, modes: &TransactionModes) {
        if chain {
            self.begin(modes);
        }
    }

    pub(super) fn in_block(&self, what: &str) -> Result<(), Failure> {
        if self.executor.transaction.block == Block::Explicit {
            return Ok(());
        }
        let message = format!("{what} can only be used in transaction blocks");
        Err(PgError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message).into())
    }

    async fn savepoint(&mut self, name: &str) -> Result<&'static str, Failure> {
        self.in_block("SAVEPOINT")?;
        self.everywhere(&format!("SAVEPOINT {}", quote_ident(name))).await?;
        let settings = self.executor.settings.clone();
        let reports = self.executor.reports.mark();
        let transaction = &mut self.executor.transaction;
        let (local_settings, log) = (transaction.local_settings.clone(), transaction.log.len());
        let listens = transaction.listens.len();
        transaction.savepoints.push(Savepoint {
            name: name.to_owned(),
            settings,
            local_settings,
            log,
            reports,
            listens,
        });
        Ok("SAVEPOINT")
    }

    fn savepoint_named(&self, name: &str) -> Result<usize, Failure> {
        self.executor.transaction.savepoints.iter().rposition(|savepoint| savepoint.name == name).ok_or_else(|| {
            let message = format!("savepoint \"{name}\" does not exist");
            PgError::new(SqlState::INVALID_SAVEPOINT_SPECIFICATION, message).into()
        })
    }

    async fn release(&mut self, name: &str) -> Result<&'static str, Failure> {
        self.in_block("RELEASE SAVEPOINT")?;
        let index = self.savepoint_named(name)?;
        self.everywhere(&format!("RELEASE SAVEPOINT {}", quote_ident(name))).await?;
        let transaction = &mut self.executor.transaction;
        if let Some(savepoint) = transaction.savepoints.get(index) {
            // The transaction's modes are again what they were.
            let since = transaction.log.split_off(savepoint.log.min(transaction.log.len()));
            transaction.log.extend(since.into_iter().filter(|sql| !sql.starts_with(SET_TRANSACTION)));
        }
        transaction.savepoints.truncate(index);
        self.executor.cursors_released(index);
        for portal in self.portals.values_mut() {
            portal.depth = portal.depth.min(index);
        }
        Ok("RELEASE")
    }

    async fn roll_back_to(&mut self, name: &str) -> Result<&'static str, Failure> {
        self.in_block("ROLLBACK TO SAVEPOINT")?;
        let index = self.savepoint_named(name)?;
        let transaction = &self.executor.transaction;
        let lost = transaction.lent > 0 || transaction.participants.values().any(|part| part.connection.broken);
        if lost {
            return Err(PgError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "the connection to a shard was lost: the transaction can only be rolled back",
            )
            .into());
        }
        self.everywhere(&format!("ROLLBACK TO SAVEPOINT {}", quote_ident(name))).await?;
        self.executor.cursors_rolled_back(index);
        self.portals.retain(|_, portal| portal.depth <= index);
        let transaction = &mut self.executor.transaction;
        transaction.failed = false;
        transaction.savepoints.truncate(index + 1);
        if let Some(savepoint) = transaction.savepoints.last() {
            transaction.log.truncate(savepoint.log);
            transaction.listens.truncate(savepoint.listens);
            transaction.local_settings = savepoint.local_settings.clone();
            let settings = savepoint.settings.clone();
            self.executor.reports.rolled_back_to(&savepoint.reports);
            // Every shard has made what the transaction set inside it, and has undone it now.
            for participant in transaction.participants.values_mut() {
                if participant.connection.settings.is_some() {
                    participant.connection.settings = Some(settings.clone());
                }
            }
            self.executor.settings = settings;
            self.executor.settings_changed();
        }
        Ok("ROLLBACK")
    }

    /// On every shard that the transaction is open on.
    pub(super) async fn everywhere(&mut self, sql: &str) -> Result<(), Failure> {
        let mut failure = None;
        for participant in self.executor.transaction.participants.values_mut() {
            match ask(&mut participant.connection, sql).await {
                Ok(answers) => {
                    if let Some(error) = answers.error {
                        failure = Some(Failure::Server(error));
                    }
                }
                Err(error) => failure = Some(error.into()),
            }
            participant.prefix = 0;
        }
        failure.map_or(Ok(()), Err)
    }

    async fn set_transaction(&mut self, modes: &TransactionModes) -> Result<(), Failure> {
        if self.executor.transaction.block == Block::None {
            return Ok(());
        }
        let sql = format!("{SET_TRANSACTION}{}", modes_text(modes));
        if self.executor.transaction.savepoints.is_empty() {
            self.everywhere(&sql).await?;
            merge_modes(&mut self.executor.transaction.modes, modes);
            return Ok(());
        }
        // It ends with the savepoint, and a shard knows what may be set there.
        if self.executor.transaction.participants.is_empty() {
            let view = self.executor.enter()?;
            self.executor.slot.reads();
            let home = self.executor.only_shard.or(view.topology.home_shard());
            let home = home.ok_or_else(|| PgError::internal("no shard"))?;
            let lent = self.executor.lend_open(&view, home, Access::Read).await?;
            self.executor.give_back(lent, &Default::default()).await;
        }
        self.everywhere(&sql).await?;
        self.executor.transaction.log.push(sql);
        Ok(())
    }

    async fn discard(&mut self, what: Discard) -> Result<&'static str, Failure> {
        let tag = match what {
            Discard::All => "DISCARD ALL",
            Discard::Plans => "DISCARD PLANS",
            Discard::Sequences => "DISCARD SEQUENCES",
            Discard::Temporary => "DISCARD TEMP",
        };
        if what != Discard::All {
            // Without a connection of its own the session has neither.
            if what != Discard::Plans && !self.executor.pins.is_empty() {
                return Err(PgError::refused(
                    format!("{tag} is not supported once the session has a connection of its own"),
                    "Use DISCARD ALL, or DROP TABLE for single temporary tables.",
                )
                .detail(
                    "Temporary tables or advisory locks keep connections for the session, which hold more than that.",
                )
                .into());
            }
            return Ok(tag);
        }
        if self.executor.transaction.is_open() {
            let message = "DISCARD ALL cannot run inside a transaction block";
            return Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, message).into());
        }
        self.statements.clear();
        self.portals.clear();
        self.executor.close_pinned();
        self.executor.listening = None;
        let startup = self.executor.startup.clone();
        let text = startup.statements_from_unknown();
        self.change_settings(startup, &text).await?;
        Ok(tag)
    }

    async fn prepare(&mut self, name: &str, types: &[String], sql: &str) -> Result<(), Failure> {
        if self.statements.contains_key(name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(PgError::new(SqlState::DUPLICATE_PREPARED_STATEMENT, message).into());
        }
        let mut oids = Vec::with_capacity(types.len());
        for name in types {
            oids.push(self.type_oid(name).await?);
        }
        let sql: Arc<str> = Arc::from(sql);
        let statement = Arc::new(self.executor.statement(sql, oids));
        // Wrong statements are refused now, as PostgreSQL does.
        let description = describe(&mut self.executor, &statement).await?;
        let result = statement.result.clone();
        let mut statement = self.executor.statement(Arc::clone(&statement.sql), description.parameters);
        statement.result = result;
        let statement = Arc::new(statement);
        self.statements.insert(name.to_owned(), statement);
        Ok(())
    }

    async fn type_oid(&mut self, name: &str) -> Result<u32, Failure> {
        let sql = format!("SELECT {}::pg_catalog.regtype::pg_catalog.oid", quote_literal(name));
        Ok(self.ask_one(self.executor.only_shard, &sql).await?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// The first value that any shard gives, in the session's transaction.
    pub(super) async fn ask_any(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let open = self.executor.transaction.participants.keys().next().copied();
        self.ask_one(open, sql).await
    }

    /// As [`Self::ask_any`], of this shard or else the home shard.
    async fn ask_one(&mut self, shard: Option<ShardId>, sql: &str) -> Result<Option<String>, Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let shard = shard.or(view.topology.home_shard()).ok_or_else(|| PgError::internal("no shard"))?;
        let mut lent = self.executor.lend_open(&view, shard, Access::Read).await?;
        let answers = ask(&mut lent.participant.connection, sql).await?;
        self.executor.give_back(lent, &Default::default()).await;
        Ok(answers.check()?.value())
    }

    /// EXECUTE: its arguments are evaluated by a shard, and bound as text.
    async fn execute_prepared(&mut self, name: &str, arguments: &[String], describe: bool) -> Result<(), Failure> {
        let bound = self.bound_by_arguments(name, arguments).await?;
        let view = self.executor.enter()?;
        let planned = self.executor.plan(&bound.statement.sql, &view)?;
        if let Ok(Plan::Session(SessionCommand::SetConfig { items, .. })) = &planned.plan {
            self.executor.slot.reads();
            return self.set_config(items, &bound.values()?, describe).await;
        }
        let run = Run { bound: &bound, describe, rows_max: 0, portal: "" };
        let completed = dispatch::run(&mut self.executor, run).await?;
        if let Some(tag) = &completed.tag {
            backend::command_complete(self.executor.client.out(), tag);
        }
        Ok(())
    }

    /// EXPLAIN EXECUTE: the prepared text is explained with the same values.
    async fn explain_prepared(
        &mut self,
        explain: &str,
        name: &str,
        arguments: &[String],
        describe: bool,
    ) -> Result<(), Failure> {
        let Bound { statement, bind } = self.bound_by_arguments(name, arguments).await?;
        let sql = Arc::from(format!("{explain}{}", statement.sql));
        let statement = Arc::new(self.executor.statement(sql, statement.types.clone()));
        let bound = Bound { statement, bind };
        let run = Run { bound: &bound, describe, rows_max: 0, portal: "" };
        let completed = dispatch::run(&mut self.executor, run).await?;
        let mut complete = BytesMut::new();
        backend::command_complete(&mut complete, completed.tag.as_deref().unwrap_or("EXPLAIN"));
        self.executor.client.keep(&complete)
    }

    /// The prepared statement with the values of these arguments.
    async fn bound_by_arguments(&mut self, name: &str, arguments: &[String]) -> Result<Bound, Failure> {
        let statement = Box::pin(self.current_statement(name)).await?;
        // What is prepared by the protocol leaves types open.
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let numbered = match statement.sql.is_empty() {
            true => 0,
            false => self.executor.plan(&statement.sql, &view)?.parameters,
        };
        let types = match statement.types.len() >= numbered && !statement.types.contains(&0) {
            true => statement.types.clone(),
            false => Box::pin(describe(&mut self.executor, &statement)).await?.parameters,
        };
        if arguments.len() != types.len() {
            let message = format!("wrong number of parameters for prepared statement \"{name}\"");
            let detail = format!("Expected {} parameters but got {}.", types.len(), arguments.len());
            return Err(PgError::new(SqlState::SYNTAX_ERROR, message).detail(detail).into());
        }
        let values = if arguments.is_empty() { Vec::new() } else { self.evaluate(arguments, &types).await? };
        let mut buffer = BytesMut::new();
        frontend::bind(&mut buffer, "", "", [], values.iter().map(|value| value.as_deref()), [] as [Format; 0]);
        let frame = Frame::new(buffer.freeze()).map_err(PgError::from)?;
        Ok(Bound { statement, bind: Some(frame) })
    }

    async fn evaluate(&mut self, arguments: &[String], types: &[u32]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let home = self.executor.only_shard.or(view.topology.home_shard());
        let home = home.ok_or_else(|| PgError::internal("no shard"))?;
        let mut lent = self.executor.lend_open(&view, home, Access::Read).await?;
        let names = types.iter().map(|oid| format!("pg_catalog.format_type({oid}, NULL)")).collect::<Vec<_>>();
        let names = ask(&mut lent.participant.connection, &format!("SELECT {}", names.join(", "))).await?;
        let row = names.rows.first().cloned().unwrap_or_default();
        let names = row.get(5..).and_then(crate::pool::connection::text_row).unwrap_or_default();
        let casts: Vec<String> = arguments
            .iter()
            .enumerate()
            .map(|(index, text)| match names.get(index) {
                Some(Some(name)) => format!("CAST(({text}) AS {name})::pg_catalog.text"),
                _ => format!("({text})::pg_catalog.text"),
            })
            .collect();
        let answers = ask(&mut lent.participant.connection, &format!("VALUES ({})", casts.join(", "))).await?;
        self.executor.give_back(lent, &Default::default()).await;
        let answers = answers.check()?;
        let row = answers.rows.first().cloned().unwrap_or_default();
        let values = row.get(5..).and_then(crate::pool::connection::row_values).unwrap_or_default();
        Ok(values.into_iter().map(|value| value.map(<[u8]>::to_vec)).collect())
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<&'static str, Failure> {
        match name {
            None => {
                self.statements.clear();
                Ok("DEALLOCATE ALL")
            }
            Some(name) => match self.statements.remove(name) {
                Some(_) => Ok("DEALLOCATE"),
                None => {
                    let message = format!("prepared statement \"{name}\" does not exist");
                    Err(PgError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message).into())
                }
            },
        }
    }

    /// A statement that any shard answers, rows and command tag shown.
    pub(super) async fn pass(&mut self, sql: &str, describe: bool) -> Result<(), Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let open = self.executor.transaction.participants.keys().next().copied();
        let home = view.topology.home_shard();
        let shard = open.or(self.executor.last_shard).or(home).ok_or_else(|| PgError::internal("no shard"))?;
        let mut write = |connection: &mut ServerConnection, expects: &mut std::collections::VecDeque<Expect>| {
            let output = connection.output();
            frontend::parse(output, "", sql, &[]);
            frontend::bind(output, "", "", [], [] as [Option<&[u8]>; 0], []);
            frontend::describe(output, crate::wire::Target::Portal, "");
            frontend::execute(output, "", 0);
            connection.unnamed = None;
            expects.clear();
            connection.queue_sync();
        };
        let request = Request {
            shard,
            access: Access::Read,
            show: Show { row_description: describe, command_complete: true, errors: false, ..Show::ROWS },
            repeatable: false,
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        let had_parts = !self.executor.transaction.participants.is_empty();
        let outcome = forward(&mut self.executor, &view, request).await?;
        Box::pin(commit::leave_asked(&mut self.executor, had_parts)).await;
        outcome.error.map_or(Ok(()), |error| Err(Failure::Server(error)))
    }

    /// A SET on one shard: notices go to the client if `show`. Gives the values that it reports.
    pub(super) async fn on_shard(
        &mut self,
        shard: ShardId,
        sql: &str,
        show: bool,
    ) -> Result<Vec<(String, String)>, Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        if !show {
            if let Some(participant) = self.executor.transaction.participants.get_mut(&shard) {
                return ask(&mut participant.connection, sql).await?.check().map(|_| Vec::new());
            }
        }
        let mut write = |connection: &mut ServerConnection, _: &mut std::collections::VecDeque<Expect>| {
            connection.queue_query_in_group(sql)
        };
        let request = Request {
            shard,
            access: Access::Read,
            show: Show::NOTICES,
            repeatable: false,
            extended: false,
            changes_settings: true,
            write: &mut write,
        };
        let outcome = forward(&mut self.executor, &view, request).await?;
        outcome.error.map_or(Ok(outcome.parameters), |error| Err(Failure::Server(error)))
    }
}

/// The settings that give later transactions these modes.
fn default_modes(modes: &TransactionModes) -> Vec<(&'static str, String)> {
    let isolation = modes.isolation.map(|isolation| match isolation {
        Isolation::ReadUncommitted => "read uncommitted",
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
        Isolation::Serializable => "serializable",
    });
    let switch = |on: bool| if on { "on" } else { "off" };
    [
        ("default_transaction_isolation", isolation),
        ("default_transaction_read_only", modes.read_only.map(switch)),
        ("default_transaction_deferrable", modes.deferrable.map(switch)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?.to_owned())))
    .collect()
}
