//! One set of OIDs for clients, those of the home shard: what a statement needs of them before it goes to another shard, and what
//! comes back is translated by.
//!
//! Messages are changed in place where they pass ([`Incoming`]); what a message names for the first time is asked for ([`resolve`]),
//! on both shards by its name. What the session's own transaction has made, nobody else can be asked for: the transaction's
//! connections are ([`learn_own`]). A number that cannot be translated is an error.
//!
//! Sessions with `SET ringway.shard` read that shard's catalogs and have its own OIDs.

mod lookup;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;

use lookup::{relations_sql, resolve, types_sql, Listed, Side};

use super::answers::ask;
use super::bound::{Bound, Statement};
use super::describe::{describe, Description};
use super::executor::Executor;
use super::failure::Failure;
use super::gateway::Gateway;
use super::hold::Admitted;
use super::pump::Outcome;
use super::view::View;
use crate::plan::oid_columns::is_written_number;
use crate::plan::types::{Access, CopyFormat};
use crate::pool::connection::{text_row, StatementId, TextRows};
use crate::pool::oids::ShardOids;
use crate::wire::frontend::Bind;
use crate::wire::oids::{
    is_number_of_other, is_plain, Columns, Form, Missing, OidError, Oids, Pass, Walk, FIRST_NORMAL,
};
use crate::wire::{Format, Frame, PgError, SqlState};

/// A catalog that changes faster than it can be asked.
const ATTEMPTS_MAX: usize = 5;

impl Executor {
    /// Whether a shard's OIDs are not those that the client knows.
    pub fn is_foreign(&self, view: &View, shard: ShardId) -> bool {
        self.only_shard.is_none() && view.topology.home_shard() != Some(shard)
    }

    /// A statement of the client, with types as the client knows them.
    pub fn statement(&self, sql: Arc<str>, types: Vec<u32>) -> Statement {
        let id = self.statement_id(&sql, &types);
        self.statement_with(sql, types, id)
    }

    pub fn statement_with(&self, sql: Arc<str>, types: Vec<u32>, id: StatementId) -> Statement {
        let mut statement = Statement::new(sql, types, id);
        statement.own_oids = self.only_shard.is_some();
        if !self.transaction.schema_changed {
            statement.catalog = self.gateway.catalog.load().as_ref().map_or(0, |loaded| loaded.serial);
        }
        statement
    }

    pub fn statement_id(&self, sql: &Arc<str>, types: &[u32]) -> StatementId {
        match self.transaction.schema_changed {
            // Its meaning may end with the transaction.
            true => self.gateway.own_statement_id(),
            false => self.gateway.statement_id(sql, types, self.only_shard.is_some()),
        }
    }

    fn oids(&self, view: &View, shard: ShardId) -> Result<Arc<ShardOids>, Failure> {
        let shard = self.shard(view, shard)?;
        Ok(self.gateway.pools.oids().of(shard.id, &shard.dsn))
    }
}

impl From<OidError> for Failure {
    fn from(error: OidError) -> Failure {
        match error {
            OidError::Malformed => PgError::new(SqlState::INVALID_BINARY_REPRESENTATION, "improper binary format").into(),
            OidError::TooDeep => PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string()).into(),
            OidError::Untranslatable => PgError::refused(
                "a binary value is the OID of an object that has another one on every shard",
                "Use text format, or cast it to text.",
            )
            .detail("Of regtype and regclass the gateway knows the home shard's OID; of regproc, regrole and the like it does not.")
            .into(),
        }
    }
}

/// The state of one answer: which columns of the rows to come have OIDs in them.
#[derive(Debug, Default)]
pub struct Incoming {
    rows: Columns,
    missing: Option<Missing>,
    /// Why the answer cannot be shown.
    pub refused: Option<OidError>,
    /// Of the last RowDescription: no column's binary form has OIDs.
    pub plain: bool,
}

impl Incoming {
    /// Whether a message has to be whole before it is sent on.
    pub fn changes(&self, tag: u8) -> bool {
        matches!(tag, b'T' | b't') || tag == b'D' && !self.rows.are_plain()
    }

    /// A message waits: what has to be found out for it, or an error.
    pub fn is_stuck(&self) -> bool {
        self.missing.is_some() || self.refused.is_some()
    }

    /// The rows are over.
    pub fn end_of_rows(&mut self) {
        self.rows = Columns::default();
    }

    /// A message's body gets the home shard's OIDs. False: it cannot yet, or not at all, and has not been changed.
    pub fn translates(&mut self, oids: &ShardOids, tag: u8, body: &mut [u8]) -> bool {
        let translated = self.translate(oids, tag, body);
        translated.unwrap_or_else(|error| {
            self.refused = Some(error);
            false
        })
    }

    fn translate(&mut self, oids: &ShardOids, tag: u8, body: &mut [u8]) -> Result<bool, OidError> {
        let map = oids.map();
        for pass in [Pass::Find, Pass::Replace] {
            let mut walk = Walk::new(&map.to_home, pass);
            match tag {
                b'T' => {
                    let described = walk.row_description(body)?;
                    (self.plain, self.rows) = (described.plain, described.columns);
                }
                b't' => walk.parameter_description(body)?,
                _ => {
                    walk.row(&self.rows, body)?;
                }
            }
            if !walk.missing.is_empty() {
                self.missing = Some(walk.missing);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// After [`Incoming::translates`] has said no: an error, or what it needs is known.
pub async fn settle(gateway: &Gateway, view: &View, shard: ShardId, incoming: &mut Incoming) -> Result<(), Failure> {
    if let Some(error) = incoming.refused {
        return Err(error.into());
    }
    let missing = incoming.missing.take().unwrap_or_default();
    resolve(gateway, view, shard, Side::Shard, &missing).await
}

/// What the session's transaction has made is known before anything of it can be met on a shard that is not home.
pub async fn learn_own(executor: &mut Executor, view: &View, shard: ShardId) -> Result<(), Failure> {
    let transaction = &executor.transaction;
    if !transaction.has_new_oids || transaction.failed || !executor.is_foreign(view, shard) {
        return Ok(());
    }
    let Some(home) = view.topology.home_shard().filter(|home| transaction.participants.contains_key(home)) else {
        return Ok(());
    };
    let others: Vec<ShardId> = transaction.participants.keys().copied().filter(|id| *id != home).collect();
    let of_home = own(executor, view, home).await?;
    for other in others {
        let of_shard = own(executor, view, other).await?;
        executor.oids(view, other)?.learn(&of_home.pairs(&of_shard), None);
    }
    executor.transaction.has_new_oids = false;
    Ok(())
}

/// Made or changed on this shard since the transaction began.
async fn own(executor: &mut Executor, view: &View, shard: ShardId) -> Result<Listed, Failure> {
    let is_new = |row: &str| {
        format!(
            "pg_catalog.age({row}.xmin) OPERATOR(pg_catalog.<=) \
             pg_catalog.age(CAST(pg_catalog.pg_current_xact_id_if_assigned() AS pg_catalog.xid))"
        )
    };
    let mut lent = executor.lend_open(view, shard, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    let read = async {
        let types = ask(connection, &types_sql(&is_new("t"))).await?;
        let relations = ask(connection, &relations_sql(&is_new("c"))).await?;
        let error = types.error.clone().or(relations.error.clone());
        let rows = |rows: &[bytes::Bytes]| rows.iter().filter_map(|row| text_row(row.get(5..)?)).collect::<TextRows>();
        let mut listed = Listed::default();
        listed.add_types(rows(&types.rows));
        listed.add_relations(rows(&relations.rows));
        Ok::<_, Failure>((error, listed))
    };
    let read = read.await;
    executor.transaction.failed |= read.is_err();
    let (error, listed) = read?;
    executor.give_back(lent, &Outcome::default()).await;
    match error {
        Some(error) => Err(Failure::Server(error)),
        None => Ok(listed),
    }
}

/// Types that have the same OIDs everywhere.
pub fn are_built_in(types: &[u32]) -> bool {
    types.iter().all(|oid| *oid < FIRST_NORMAL)
}

/// Types that a statement declares are known on the shard, so that Parse can be sent there.
pub async fn know_types(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    statement: &Statement,
) -> Result<(), Failure> {
    if are_built_in(&statement.types) {
        return Ok(());
    }
    if statement.own_oids != executor.only_shard.is_some() {
        return Err(PgError::refused(
            "a statement that was prepared with types of the application is used after SET ringway.shard",
            "Prepare it again: types have other OIDs there.",
        )
        .into());
    }
    if !executor.is_foreign(view, shard) {
        return Ok(());
    }
    learn_own(executor, view, shard).await?;
    let oids = executor.oids(view, shard)?;
    let mut missing = Missing::default();
    {
        let map = oids.map();
        let mut walk = Walk::new(&map.to_shard, Pass::Find);
        for oid in &statement.types {
            walk.form(*oid);
        }
        missing.types.append(&mut walk.missing.types);
    }
    if missing.is_empty() {
        return Ok(());
    }
    resolve(&executor.gateway, view, shard, Side::Home, &missing).await
}

/// The statement and its parameters as this shard is to get them.
pub async fn bound_for<'b>(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    bound: &'b Bound,
) -> Result<Cow<'b, Bound>, Failure> {
    know_types(executor, view, shard, &bound.statement).await?;
    if !executor.is_foreign(view, shard) {
        return Ok(Cow::Borrowed(bound));
    }
    let Some(bind) = bound.parsed()? else { return Ok(Cow::Borrowed(bound)) };
    if !may_have_oids(&bound.statement, &bind) {
        return Ok(Cow::Borrowed(bound));
    }
    let types = parameter_types(executor, &bound.statement).await?;
    learn_own(executor, view, shard).await?;
    let oids = executor.oids(view, shard)?;
    let Some(frame) = &bound.bind else { return Ok(Cow::Borrowed(bound)) };
    let mut bytes = BytesMut::from(&frame.bytes()[..]);
    for _ in 0..ATTEMPTS_MAX {
        let missing = {
            let map = oids.map();
            let find = parameters(&mut Walk::new(&map.to_shard, Pass::Find), &types, &bind, &mut bytes)?;
            if find.is_empty() {
                parameters(&mut Walk::new(&map.to_shard, Pass::Replace), &types, &bind, &mut bytes)?;
                let frame = Frame::new(bytes.freeze()).map_err(PgError::from)?;
                return Ok(Cow::Owned(Bound { statement: Arc::clone(&bound.statement), bind: Some(frame) }));
            }
            find
        };
        resolve(&executor.gateway, view, shard, Side::Home, &missing).await?;
    }
    Err(OidError::TooDeep.into())
}

/// A parameter in text may be a number where a name is meant to be: it would be read as the shard's own.
pub async fn refuse_written_numbers(executor: &mut Executor, bound: &Bound) -> Result<(), Failure> {
    let Some(bind) = bound.parsed()? else { return Ok(()) };
    let is_number = |(index, value): (usize, Option<&[u8]>)| {
        let text = value.filter(|_| bind.parameter_formats.get(index) == Format::Text);
        let text = text.and_then(|value| std::str::from_utf8(value).ok());
        text.is_some_and(|text| is_written_number(text.trim())).then_some(index)
    };
    let numbers: Vec<usize> = bind.parameters.iter().enumerate().filter_map(is_number).collect();
    if numbers.is_empty() {
        return Ok(());
    }
    let types = parameter_types(executor, &bound.statement).await?;
    let Some(index) = numbers.into_iter().find(|index| types.get(*index).is_some_and(|oid| is_number_of_other(*oid)))
    else {
        return Ok(());
    };
    Err(PgError::refused(
        format!("parameter ${} is an OID, written as text", index + 1),
        "Give the name, or the number in binary format.",
    )
    .detail("Every shard has OIDs of its own; a number in text is not translated.")
    .into())
}

/// One pass over the parameters of a Bind message.
fn parameters<O: Oids>(
    walk: &mut Walk<'_, O>,
    types: &[u32],
    bind: &Bind<'_>,
    message: &mut [u8],
) -> Result<Missing, OidError> {
    let forms = types.iter().enumerate().map(|(index, oid)| match bind.parameter_formats.get(index) {
        Format::Binary => walk.form(*oid).unwrap_or(Form::Plain),
        Format::Text | Format::Other(_) => Form::Plain,
    });
    let columns = Columns::new(&forms.collect::<Vec<_>>());
    let names = bind.portal.len() + bind.statement.len() + 2;
    let values = 5 + names + 2 + 2 * bind.parameter_formats.len();
    if !columns.are_plain() {
        walk.row(&columns, message.get_mut(values..).ok_or(OidError::Malformed)?)?;
    }
    Ok(std::mem::take(&mut walk.missing))
}

/// Whether binary parameters may have OIDs in them, by what the client has declared and what is known of the rest.
fn may_have_oids(statement: &Statement, bind: &Bind<'_>) -> bool {
    let formats = bind.parameter_formats;
    if formats.iter().all(|format| format == Format::Text) || bind.parameters.is_empty() {
        return false;
    }
    let described = statement.parameters.get();
    (0..bind.parameters.len()).any(|index| {
        let declared = statement.types.get(index).copied().filter(|oid| *oid != 0);
        let oid = declared.or_else(|| described?.get(index).copied());
        formats.get(index) == Format::Binary && oid.is_none_or(|oid| oid >= FIRST_NORMAL || !is_plain(oid))
    })
}

/// Whether it is known without a question that this shard can have the parameters as the client gives them.
pub fn parameters_are_plain(
    executor: &Executor,
    view: &View,
    shard: ShardId,
    statement: &Statement,
    bind: &Bind<'_>,
) -> bool {
    if !may_have_oids(statement, bind) {
        return true;
    }
    let (Some(types), Ok(oids)) = (statement.parameters.get(), executor.oids(view, shard)) else { return false };
    let map = oids.map();
    let mut walk = Walk::new(&map.to_shard, Pass::Find);
    let mut binary = types.iter().enumerate().filter(|(index, _)| bind.parameter_formats.get(*index) == Format::Binary);
    types.len() == bind.parameters.len() && binary.all(|(_, oid)| walk.form(*oid) == Some(Form::Plain))
}

async fn parameter_types(executor: &mut Executor, statement: &Arc<Statement>) -> Result<Arc<[u32]>, Failure> {
    if let Some(known) = statement.parameters.get() {
        return Ok(Arc::clone(known));
    }
    let declared = &statement.types;
    let types: Arc<[u32]> = if !declared.is_empty() && declared.iter().all(|oid| *oid != 0) {
        Arc::from(declared.as_slice())
    } else {
        Arc::from(Box::pin(describe(executor, statement)).await?.parameters)
    };
    Ok(Arc::clone(statement.parameters.get_or_init(|| types)))
}

/// Whether the rows that a Bind asks for have to be described before they come, because of OIDs in them.
pub fn rows_may_have_oids(statement: &Statement, bind: &Bind<'_>, catalog: u64) -> bool {
    bind.result_formats.iter().any(|format| format == Format::Binary) && !statement.has_plain_rows(catalog)
}

/// What a shard says of a statement, with the OIDs that the client knows.
pub async fn translate_description(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    description: &mut Description,
) -> Result<(), Failure> {
    if !executor.is_foreign(view, shard) {
        return Ok(());
    }
    let oids = executor.oids(view, shard)?;
    let fields = || description.fields.iter().flatten();
    let types = description.parameters.iter().copied().chain(fields().map(|field| field.type_oid));
    let mut missing = Missing::default();
    {
        let map = oids.map();
        let mut walk = Walk::new(&map.to_home, Pass::Find);
        for oid in types {
            walk.form(oid);
        }
        missing.types.append(&mut walk.missing.types);
        let tables = fields().map(|field| field.table_oid).filter(|oid| *oid >= FIRST_NORMAL);
        missing.relations.extend(tables.filter(|oid| map.to_home.user_relation(*oid).is_none()));
    }
    if !missing.is_empty() {
        resolve(&executor.gateway, view, shard, Side::Shard, &missing).await?;
    }
    let map = oids.map();
    let unknown = || PgError::internal("a type that was looked up is not known");
    let home_type = |oid: &mut u32| {
        if *oid >= FIRST_NORMAL {
            *oid = map.to_home.user_type(*oid).ok_or_else(unknown)?.oid;
        }
        Ok::<_, PgError>(())
    };
    description.parameters.iter_mut().try_for_each(home_type)?;
    for field in description.fields.iter_mut().flatten() {
        home_type(&mut field.type_oid)?;
        if field.table_oid >= FIRST_NORMAL {
            field.table_oid = map.to_home.user_relation(field.table_oid).ok_or_else(unknown)?;
        }
    }
    Ok(())
}

/// Rows of binary COPY are forwarded as they are: on another shard than the home shard their values must not have OIDs in them.
pub async fn refuse_oids_in_copy(
    executor: &mut Executor,
    admitted: &Admitted,
    format: &CopyFormat,
    columns_sql: &Arc<str>,
) -> Result<(), Failure> {
    let view = &admitted.view;
    let foreign = admitted.placement.shards.iter().copied().find(|shard| executor.is_foreign(view, *shard));
    let (CopyFormat::Binary, Some(shard)) = (format, foreign) else { return Ok(()) };
    let statement = Arc::new(executor.statement_with(Arc::clone(columns_sql), Vec::new(), StatementId(0)));
    let fields = describe(executor, &statement).await?.fields.unwrap_or_default();
    let oids = executor.oids(view, shard)?;
    for _ in 0..ATTEMPTS_MAX {
        let missing = {
            let map = oids.map();
            let mut walk = Walk::new(&map.to_shard, Pass::Find);
            let plain = fields.iter().all(|field| walk.form(field.type_oid).is_none_or(|form| form == Form::Plain));
            if !plain {
                return Err(PgError::refused(
                    "COPY in binary format of values that have OIDs in them (arrays of types of the application, composite types)",
                    "Use text or CSV format.",
                )
                .detail("These types have other OIDs on every shard.")
                .into());
            }
            walk.missing
        };
        if missing.is_empty() {
            return Ok(());
        }
        resolve(&executor.gateway, view, shard, Side::Home, &missing).await?;
    }
    Err(OidError::TooDeep.into())
}
