//! SET, SET LOCAL, RESET and set_config: what the session's settings become, on its shards and for its planner.
//!
//! In a transaction the statements are run on every shard that it is open on, and kept for shards that join it.

use super::Session;
use crate::exec::commit;
use crate::exec::executor::Executor;
use crate::exec::failure::Failure;
use crate::exec::search_path::value;
use crate::exec::transaction::Block;
use crate::plan::refuse::{lexical_error, refused};
use crate::plan::route::Parameter;
use crate::plan::session::check_setting;
use crate::plan::set_config::boolean;
use crate::plan::types::{ConfigItem, CurrentSetting, SettingArgument};
use crate::pool::settings::Settings;
use crate::sql::split::split;
use crate::wire::{Format, PgError, SqlState};
use ringway_topology::ids::ShardId;
use ringway_topology::model::{quote_ident, quote_literal};

const ROLE: &str = "role";
const SESSION_AUTHORIZATION: &str = "session_authorization";
const DATE_STYLE: &str = "datestyle";

impl Session {
    pub(super) async fn set(&mut self, name: &str, local: bool, value: Option<&str>, sql: &str) -> Result<(), Failure> {
        if local && self.executor.transaction.block == Block::None {
            return self.outside(sql).await;
        }
        let statement = match value {
            Some(_) => sql.to_owned(),
            None => self.to_default(name, local).unwrap_or_else(|| sql.to_owned()),
        };
        match local {
            true => self.set_local(name, &statement).await,
            false => self.set_for_session(name, value.is_some(), &statement).await,
        }
    }

    /// The session's setting becomes what it is; SET LOCAL's end would then go unseen.
    pub(super) async fn set_from_current(&mut self, name: &str, local: bool, sql: &str) -> Result<(), Failure> {
        if local && self.executor.transaction.block == Block::None {
            return self.outside(sql).await;
        }
        if local {
            return self.log(sql).await;
        }
        if self.executor.transaction.local_settings.get(name).is_some() {
            return Err(refused(
                format!("SET {name} FROM CURRENT is not supported after SET LOCAL {name}"),
                "It makes the transaction's value the session's.",
                "Use SET with the value.",
            )
            .into());
        }
        let settings = self.executor.settings.clone();
        self.change_settings(settings, sql).await
    }

    /// SELECT set_config(...): the settings are made as by SET, then the row is asked for.
    pub(super) async fn set_config(
        &mut self,
        items: &[ConfigItem],
        values: &[Parameter<'_>],
        describe: bool,
    ) -> Result<(), Failure> {
        let mut list = Vec::with_capacity(items.len());
        let open = self.executor.transaction.is_open();
        for item in items {
            let item = match item {
                ConfigItem::Set(item) => item,
                ConfigItem::Current(item) => {
                    let text = self.current_setting(item, values).await?;
                    let literal = text.map_or("NULL".to_owned(), |text| quote_literal(&text));
                    list.push(format!("{literal}::pg_catalog.text AS {}", quote_ident(&item.alias)));
                    continue;
                }
            };
            let name = argument(&item.name, values)?
                .ok_or_else(|| PgError::new(SqlState::INVALID_PARAMETER_VALUE, "SET requires parameter name"))?;
            let value = argument(&item.value, values)?;
            let local = match argument(&item.local, values)? {
                Some(text) => boolean(&text).ok_or_else(|| {
                    let message = format!("invalid input syntax for type boolean: \"{text}\"");
                    PgError::new(SqlState::INVALID_TEXT_REPRESENTATION, message)
                })?,
                None => false,
            };
            let folded = name.to_ascii_lowercase();
            if folded == "ringway.shard" {
                return Err(PgError::refused(
                    "ringway.shard is not set by set_config",
                    "Use SET ringway.shard = 'name', or RESET ringway.shard.",
                )
                .into());
            }
            check_setting(&folded, value.as_deref())?;
            let call = call(&folded, value.as_deref(), local);
            let statement = match value {
                Some(_) => format!("SELECT {call}"),
                None => self.to_default(&folded, local).unwrap_or_else(|| format!("SELECT {call}")),
            };
            let told = match local {
                // It holds for this statement.
                true if !open => call,
                _ => format!("coalesce(pg_catalog.current_setting({}, true), '')", quote_literal(&name)),
            };
            match local {
                true if open => self.set_local(&folded, &statement).await?,
                true => {}
                false => self.set_for_session(&folded, value.is_some(), &statement).await?,
            }
            list.push(format!("{told} AS {}", quote_ident(&item.alias)));
        }
        self.pass(&format!("SELECT {}", list.join(", ")), describe).await
    }

    /// What a setting is at this place of the select list.
    async fn current_setting(
        &mut self,
        item: &CurrentSetting,
        values: &[Parameter<'_>],
    ) -> Result<Option<String>, Failure> {
        let literal = |text: Option<String>| text.map_or("NULL".to_owned(), |text| quote_literal(&text));
        let name = literal(argument(&item.name, values)?);
        let sql = match &item.missing_ok {
            None => format!("SELECT pg_catalog.current_setting({name})"),
            Some(missing) => {
                let missing = literal(argument(missing, values)?);
                format!("SELECT pg_catalog.current_setting({name}, {missing})")
            }
        };
        self.ask_any(&sql).await
    }

    pub(super) async fn reset(&mut self, name: Option<&str>, sql: &str) -> Result<(), Failure> {
        if let Some(name) = name {
            let statement = self.to_default(name, false).unwrap_or_else(|| sql.to_owned());
            return self.set_for_session(name, false, &statement).await;
        }
        // All but who the session is.
        let mut settings = self.executor.startup.clone();
        let mut local = Settings::default();
        for name in [ROLE, SESSION_AUTHORIZATION] {
            settings.remove(name);
        }
        let rest = settings.statements_from(&Settings::default());
        let text = if rest.is_empty() { "RESET ALL".to_owned() } else { format!("RESET ALL; {rest}") };
        for name in [ROLE, SESSION_AUTHORIZATION] {
            if let Some(statement) = self.executor.settings.get(name) {
                settings.set(name, statement.to_owned());
            }
            if let Some(statement) = self.executor.transaction.local_settings.get(name) {
                local.set(name, statement.to_owned());
            }
        }
        self.change_settings(settings, &text).await?;
        self.executor.transaction.local_settings = local;
        self.executor.settings_changed();
        Ok(())
    }

    /// The statement that brings a setting back to what the startup packet said; `None`: it said nothing.
    fn to_default(&self, name: &str, local: bool) -> Option<String> {
        let statement = self.executor.startup.get(name)?;
        match local {
            true => Some(format!("SELECT {}", call(name, value(statement).as_deref(), true))),
            false => Some(statement.to_owned()),
        }
    }

    async fn set_for_session(&mut self, name: &str, given: bool, statement: &str) -> Result<(), Failure> {
        self.check_identity(name)?;
        let mut settings = self.executor.settings.clone();
        match given {
            true => settings.set(name, statement.to_owned()),
            false => reset_one(&self.executor, &mut settings, name),
        }
        if name == SESSION_AUTHORIZATION && settings.get(ROLE).is_some() {
            // It ends the role.
            settings.remove(ROLE);
            if self.executor.startup.get(ROLE).is_some() {
                settings.set(ROLE, "SET ROLE NONE".to_owned());
            }
        }
        self.change_settings(settings, statement).await?;
        if name == DATE_STYLE && given {
            self.settle_date_style();
        }
        self.executor.transaction.local_settings.remove(name);
        self.executor.settings_changed();
        Ok(())
    }

    async fn set_local(&mut self, name: &str, statement: &str) -> Result<(), Failure> {
        self.check_identity(name)?;
        self.log(statement).await?;
        let whole = self.date_style().filter(|_| name == DATE_STYLE);
        let statement = whole.unwrap_or_else(|| statement.to_owned());
        self.executor.transaction.local_settings.set(name, statement);
        self.executor.settings_changed();
        Ok(())
    }

    /// A style and an order, as a shard has made them of what there was and what was set.
    fn date_style(&self) -> Option<String> {
        let value = self.executor.reports.value("DateStyle")?;
        Some(format!("SET datestyle TO {}", quote_literal(value)))
    }

    /// What is kept does not depend on what a connection had before.
    fn settle_date_style(&mut self) {
        let Some(statement) = self.date_style() else { return };
        self.executor.settings.set(DATE_STYLE, statement);
        for participant in self.executor.transaction.participants.values_mut() {
            if participant.connection.settings.is_some() {
                participant.connection.settings = Some(self.executor.settings.clone());
            }
        }
    }

    /// What becomes of the role when the transaction ends differs between versions of PostgreSQL.
    fn check_identity(&self, name: &str) -> Result<(), Failure> {
        let role = self.executor.setting(ROLE).and_then(value).is_some_and(|role| role != "none");
        if name == SESSION_AUTHORIZATION && role && self.executor.transaction.is_open() {
            return Err(refused(
                "the session authorization cannot be changed in a transaction while a role is set",
                "It ends the role, and the transaction's end would have to bring it back.",
                "Use RESET ROLE first, or SET SESSION AUTHORIZATION before the transaction.",
            )
            .into());
        }
        Ok(())
    }

    /// A shard says whether the new settings are valid, and what has changed for the client.
    pub(super) async fn change_settings(&mut self, settings: Settings, text: &str) -> Result<(), Failure> {
        self.on_shards(&settings, text, false).await?;
        self.executor.settings = settings;
        self.executor.settings_changed();
        Ok(())
    }

    /// SET LOCAL and SET CONSTRAINTS: for the rest of the transaction, wherever it goes.
    pub(super) async fn log(&mut self, sql: &str) -> Result<(), Failure> {
        let settings = self.executor.settings.clone();
        self.on_shards(&settings, sql, true).await
    }

    /// On every shard that the transaction is open on, or on one (that then belongs to it): somebody must say what is wrong with
    /// it. `settings`: the session's, afterwards.
    async fn on_shards(&mut self, settings: &Settings, text: &str, local: bool) -> Result<(), Failure> {
        let shards: Vec<ShardId> = if self.executor.transaction.participants.is_empty() {
            self.some_shard()?.into_iter().collect()
        } else {
            self.executor.transaction.participants.keys().copied().collect()
        };
        let open = self.executor.transaction.is_open();
        // Whoever joins later is told what has been set; a SERIALIZABLE transaction is to be of one shard.
        let has_part = !self.executor.transaction.participants.is_empty() || !self.executor.is_serializable();
        for (index, shard) in shards.into_iter().enumerate() {
            let reported = self.on_shard(shard, text, index == 0).await?;
            if index == 0 {
                self.executor.reports.changed(reported, open, local);
            }
            if let Some(participant) = self.executor.transaction.participants.get_mut(&shard) {
                participant.connection.settings = Some(settings.clone());
            }
        }
        Box::pin(commit::leave_asked(&mut self.executor, has_part)).await;
        if open {
            // Each its own request.
            let pieces = split(text).map_err(|error| lexical_error(&error, text))?;
            self.executor.transaction.log.extend(pieces.into_iter().map(|piece| text[piece].to_owned()));
        }
        Ok(())
    }

    /// SET LOCAL without a transaction: a shard warns, or says what is wrong with it.
    pub(super) async fn outside(&mut self, sql: &str) -> Result<(), Failure> {
        if let Some(shard) = self.some_shard()? {
            self.on_shard(shard, sql, true).await?;
        }
        Ok(())
    }

    fn some_shard(&mut self) -> Result<Option<ShardId>, Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        Ok(self.executor.last_shard.or(view.topology.home_shard()))
    }
}

fn call(name: &str, value: Option<&str>, local: bool) -> String {
    let literal = value.map_or_else(|| "NULL".to_owned(), quote_literal);
    format!("pg_catalog.set_config({}, {literal}, {local})", quote_literal(name))
}

fn reset_one(executor: &Executor, settings: &mut Settings, name: &str) {
    match executor.startup.get(name) {
        Some(statement) => settings.set(name, statement.to_owned()),
        None => settings.remove(name),
    }
}

/// `None` is NULL.
fn argument(argument: &SettingArgument, values: &[Parameter<'_>]) -> Result<Option<String>, PgError> {
    let index = match argument {
        SettingArgument::Literal(value) => return Ok(value.clone()),
        SettingArgument::Parameter(index) => *index,
    };
    let value = values
        .get(index)
        .ok_or_else(|| PgError::new(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter ${}", index + 1)))?;
    let Some(bytes) = value.value else { return Ok(None) };
    // The binary form of text is the text; that of a boolean is one byte.
    match (value.format, bytes) {
        (Format::Binary, [flag @ (0 | 1)]) => Ok(Some((*flag == 1).to_string())),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => {
                Err(PgError::new(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\""))
            }
        },
    }
}
