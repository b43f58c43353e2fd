//! A statement with its parameters, and the requests that run it on a shard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::place::{values, Values};
use super::pump::{Expect, CLOSE_COMPLETE, PARSE_COMPLETE};
use super::result_type::ResultType;
use crate::plan::block::BlockCommand;
use crate::pool::connection::{ServerConnection, ServerName, StatementId};
use crate::pool::error::ServerError;
use crate::wire::frontend::{self, Bind};
use crate::wire::{Format, Frame, PgError, Target};

/// A prepared statement of a client.
#[derive(Clone, Debug)]
pub struct Statement {
    pub sql: Arc<str>,
    /// As the client declared them.
    pub types: Vec<u32>,
    pub id: StatementId,
    /// It was declared in a session that sees a shard's own OIDs.
    pub own_oids: bool,
    /// The types of its parameters, once somebody has asked.
    pub parameters: OnceLock<Arc<[u32]>>,
    pub result: ResultType,
    /// The catalog (its serial number) that it was made under; 0: none.
    pub catalog: u64,
    /// It begins or ends a transaction block, and does nothing else.
    pub block: Option<BlockCommand>,
    plain_rows: PlainRows,
}

/// The catalog under which a statement's rows were found to have no OIDs in their binary values; 0: none.
#[derive(Debug, Default)]
struct PlainRows(AtomicU64);

impl Clone for PlainRows {
    fn clone(&self) -> PlainRows {
        PlainRows(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Statement {
    pub fn new(sql: Arc<str>, types: Vec<u32>, id: StatementId) -> Statement {
        let (parameters, plain_rows) = (OnceLock::new(), PlainRows::default());
        let (result, block) = (ResultType::default(), BlockCommand::of(&sql));
        Statement { sql, types, id, own_oids: false, parameters, result, catalog: 0, block, plain_rows }
    }

    /// `catalog`: its serial number.
    pub fn has_plain_rows(&self, catalog: u64) -> bool {
        self.plain_rows.0.load(Ordering::Relaxed) == catalog
    }

    pub fn set_plain_rows(&self, catalog: u64) {
        self.plain_rows.0.store(catalog, Ordering::Relaxed);
    }
}

/// What is executed: text with parameters (extended protocol), or text alone.
#[derive(Clone, Debug)]
pub struct Bound {
    pub statement: Arc<Statement>,
    /// The client's Bind message; None: no parameters, results as text.
    pub bind: Option<Frame>,
}

impl Bound {
    pub fn parsed(&self) -> Result<Option<Bind<'_>>, PgError> {
        self.bind.as_ref().map(|frame| Bind::parse(frame.body())).transpose().map_err(PgError::from)
    }

    pub fn values(&self) -> Result<Values<'_>, PgError> {
        Ok(values(self.parsed()?.as_ref(), &self.statement.types))
    }
}

/// Makes sure that the connection knows the statement; its ParseComplete, if any, is not shown. Gives its name there.
pub fn ensure_prepared(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    statement: &Statement,
) -> ServerName {
    prepare(connection, expects, statement.id, &statement.sql, &statement.types)
}

/// [`ensure_prepared`] of a text.
pub fn prepare(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    id: StatementId,
    sql: &str,
    types: &[u32],
) -> ServerName {
    let name = id.server_name();
    if !is_prepared(connection, expects, id) {
        make_room(connection, expects);
        connection.queue_parse(&name, sql, types);
        expects.push_back(Expect::Parse { id, named: true, show: false });
    }
    name
}

/// The client's own Parse of a named statement: sent only if the connection does not know the text yet.
pub fn queue_parse(connection: &mut ServerConnection, expects: &mut VecDeque<Expect>, statement: &Statement) {
    if is_prepared(connection, expects, statement.id) {
        expects.push_back(Expect::Ready(PARSE_COMPLETE));
        return;
    }
    make_room(connection, expects);
    connection.queue_parse(&statement.id.server_name(), &statement.sql, &statement.types);
    expects.push_back(Expect::Parse { id: statement.id, named: true, show: true });
}

/// Prepared already, or by a message of this very pipeline.
fn is_prepared(connection: &mut ServerConnection, expects: &VecDeque<Expect>, wanted: StatementId) -> bool {
    connection.prepared.get(&wanted).is_some()
        || expects.iter().any(|expect| matches!(expect, Expect::Parse { id, named: true, .. } if *id == wanted))
}

fn make_room(connection: &mut ServerConnection, expects: &mut VecDeque<Expect>) {
    let on_their_way = expects.iter().filter(|expect| matches!(expect, Expect::Parse { named: true, .. })).count();
    for closed in make_room_for(connection, on_their_way + 1) {
        expects.push_back(Expect::Close { show: false, statement: Some(closed) });
    }
}

/// Closes statements so that `count` more can be prepared, as far as there are any that can be closed.
pub fn make_room_for(connection: &mut ServerConnection, count: usize) -> Vec<StatementId> {
    let mut closed = Vec::new();
    while connection.prepared.len() + count > connection.statements_max {
        let Some((oldest, ())) = connection.prepared.pop_lru() else { break };
        frontend::close(connection.output(), Target::Statement, &oldest.server_name());
        closed.push(oldest);
    }
    closed
}

/// After an error of a shard, which discards what was expected: what is prepared on the connection then.
pub fn keep_account(connection: &mut ServerConnection, expects: &VecDeque<Expect>, error: &ServerError) {
    match (expects.front(), error.code()) {
        // A name has one text.
        (Some(Expect::Parse { id, named: true, .. }), "42P05") => {
            connection.prepared.put(*id, ());
        }
        // Somebody has deallocated them behind our back, as a function can.
        (Some(Expect::Bind | Expect::Describe | Expect::Told { .. }), "26000") => forget_prepared(connection),
        _ => {}
    }
    put_back(connection, expects);
}

/// Statements that were to be closed, and are there still.
pub fn put_back(connection: &mut ServerConnection, expects: &VecDeque<Expect>) {
    for expect in expects {
        if let Expect::Close { statement: Some(id), .. } = expect {
            connection.prepared.put(*id, ());
        }
    }
}

/// Nobody knows what is prepared there.
pub fn forget_prepared(connection: &mut ServerConnection) {
    connection.prepared.clear();
    connection.retires = true;
}

/// A Close of a prepared statement stays at the gateway.
pub fn queue_close_statement(expects: &mut VecDeque<Expect>) {
    expects.push_back(Expect::Ready(CLOSE_COMPLETE));
}

/// Whether rows may be binary. Those of a BINARY cursor are, whatever FETCH is bound with.
fn may_be_binary(bound: &Bound) -> Result<bool, PgError> {
    let fetches = bound.statement.sql.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("fetch"));
    let bind = bound.parsed()?;
    Ok(fetches || bind.is_some_and(|bind| bind.result_formats.iter().any(|format| format == Format::Binary)))
}

/// Describe of a portal, for the gateway alone: which of the values of its rows have OIDs in them.
pub fn queue_learn(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    portal: &str,
    statement: &Arc<Statement>,
    catalog: u64,
) {
    frontend::describe(connection.output(), Target::Portal, portal);
    expects.push_back(Expect::Learn { statement: Arc::clone(statement), catalog });
}

/// Describe of a statement, whose answer it remembers.
pub fn queue_told(connection: &mut ServerConnection, expects: &mut VecDeque<Expect>, statement: &Arc<Statement>) {
    frontend::describe(connection.output(), Target::Statement, &statement.id.server_name());
    expects.push_back(Expect::Told { statement: Arc::clone(statement), show: false });
}

/// Parse (unless known), Bind, Execute of a whole statement with the text that this shard gets.
pub fn queue_execute(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    bound: &Bound,
    text: Option<&str>,
    describe: bool,
    portal: &str,
    rows_max: u32,
) -> Result<(), PgError> {
    queue_bind(connection, expects, bound, text, portal)?;
    if describe || connection.is_foreign() && may_be_binary(bound)? {
        frontend::describe(connection.output(), Target::Portal, portal);
        expects.push_back(Expect::Describe);
    }
    frontend::execute(connection.output(), portal, rows_max);
    expects.push_back(Expect::Execute);
    Ok(())
}

/// Parse (unless known) and Bind.
pub fn queue_bind(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    bound: &Bound,
    text: Option<&str>,
    portal: &str,
) -> Result<(), PgError> {
    let name = match text {
        None if bound.bind.is_some() => ensure_prepared(connection, expects, &bound.statement),
        text => {
            let sql = text.unwrap_or(&bound.statement.sql);
            connection.queue_parse("", sql, &bound.statement.types);
            expects.push_back(Expect::Parse { id: StatementId(0), named: false, show: false });
            ServerName::UNNAMED
        }
    };
    match &bound.bind {
        Some(frame) => frontend::rename(connection.output(), frame, Some(&name), Some(portal))?,
        None => frontend::bind(connection.output(), portal, &name, [], [] as [Option<&[u8]>; 0], []),
    }
    expects.push_back(Expect::Bind);
    Ok(())
}
