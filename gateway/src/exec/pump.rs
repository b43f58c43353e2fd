//! From a shard to the client: bytes are forwarded as they came; only message headers are looked at, up to ReadyForQuery.
//!
//! What is taken off the stream: our own INFO, answers to what the gateway has slipped in, ReadyForQuery and
//! CommandComplete where the gateway gives its own. Rows are never decoded.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use bytes::{BufMut, Bytes};
use ringway_topology::client::LeaseClock;
use ringway_topology::service::sqlstate;

use super::bound::{keep_account, Statement};
use super::client::Client;
use super::failure::{is_fence, translated, Failure};
use super::reports::Values;
use super::type_oids::Incoming;
use crate::pool::connection::{ServerConnection, StatementId, MESSAGE_BYTES_MAX};
use crate::pool::error::{field, PoolError, ServerError};
use crate::wire::{backend, PgError, SqlState};

/// The answer that the next message of a pipeline gets, in order.
#[derive(Debug)]
pub enum Expect {
    /// To a Parse: remembered as prepared; shown only if the client sent it.
    Parse { id: StatementId, named: bool, show: bool },
    /// BindComplete.
    Bind,
    /// To a Describe of a statement or portal: ends with RowDescription or NoData.
    Describe,
    /// To a Describe of a statement, which remembers it.
    Told { statement: Arc<Statement>, show: bool },
    /// To a Describe of the gateway's own before an Execute; not shown.
    Learn { statement: Arc<Statement>, catalog: u64 },
    /// To an Execute: rows, and how it ended.
    Execute,
    /// To the Execute of COMMIT: not shown, for the client is to hear of it once all is over.
    Commit,
    /// To a Close: shown only if the client sent it. One of the gateway's own closes a prepared statement.
    Close { show: bool, statement: Option<StatementId> },
    /// Nothing was sent for it: these bytes are the answer.
    Ready(&'static [u8]),
}

pub const PARSE_COMPLETE: &[u8] = &[b'1', 0, 0, 0, 4];
pub const CLOSE_COMPLETE: &[u8] = &[b'3', 0, 0, 0, 4];

/// What the client sees of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Show {
    pub rows: bool,
    pub row_description: bool,
    pub command_complete: bool,
    pub ready_for_query: bool,
    /// ParseComplete, BindComplete, CloseComplete, NoData, ParameterDescription.
    pub acknowledgements: bool,
    /// ParameterStatus, as it comes; else it is left to the caller.
    pub parameters: bool,
    /// A fence's error that comes before anything else is kept back, so that the statement can run again.
    pub fence: bool,
    /// Errors go to the client here (or are left to the caller).
    pub errors: bool,
}

impl Show {
    pub const ALL: Show = Show {
        rows: true,
        row_description: true,
        command_complete: true,
        ready_for_query: true,
        acknowledgements: true,
        parameters: true,
        fence: false,
        errors: true,
    };
    /// Rows only.
    pub const ROWS: Show = Show {
        rows: true,
        row_description: false,
        command_complete: false,
        ready_for_query: false,
        acknowledgements: false,
        parameters: true,
        fence: false,
        errors: false,
    };
    /// Nothing but notices.
    pub const NOTICES: Show = Show { rows: false, parameters: false, ..Show::ROWS };
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub error: Option<ServerError>,
    /// The transaction has captured rows.
    pub captured: Option<u64>,
    /// The last command tag.
    pub tag: Option<String>,
    pub suspended: bool,
    /// The client has been given some of the answer.
    pub forwarded: bool,
    /// A statement changed a reported setting.
    pub settings_changed: bool,
    /// What the client knows of settings that what went before the statement has set here too.
    pub told: Option<Values>,
    /// What it is now, where that is not shown.
    pub parameters: Vec<(String, String)>,
    /// The shard waits for COPY data.
    pub copy_in: bool,
    /// The shard has begun to send COPY data.
    pub copies_out: bool,
    /// The lease ran out before anything was shown; nothing has been.
    pub lease_lost: bool,
    /// The error is a fence's and was kept back: nothing of the answer has been shown.
    pub kept_back: bool,
    /// Answers that an error made impossible: what was expected from it on.
    pub unanswered: usize,
    /// Binds among them.
    pub unbound: usize,
    /// The connection has prepared statements that it is not known to have.
    pub unclosed: bool,
    /// OIDs in what a shard other than the home shard sends. If some are missing, the pump stops before the message.
    pub oids: Incoming,
    /// The answer has OIDs that cannot be translated: the client gets this error instead of the rest.
    pub refused: Option<Failure>,
}

impl Outcome {
    /// The answer does not go on by itself.
    pub fn stops(&self) -> bool {
        self.lease_lost || self.copy_in || self.oids.is_stuck()
    }

    /// A ParameterStatus that is nothing new.
    pub fn is_told(&self, body: &[u8]) -> bool {
        let Some(told) = &self.told else { return false };
        backend::parse_parameter_status(body).is_ok_and(|(name, value)| told.get(name).is_some_and(|is| is == value))
    }
}

enum Verdict {
    Forward,
    Drop,
}

/// How far an answer has come.
#[derive(Debug)]
pub struct Progress {
    /// Bytes of a large row that are still to come and go straight through.
    through: usize,
    /// All that has arrived has been looked at.
    is_stale: bool,
    /// What is next for the client.
    passage: Option<Passage>,
}

/// A part of a connection's input, to be sent on and consumed.
#[derive(Clone, Copy, Debug)]
struct Passage {
    start: usize,
    end: usize,
    /// The status of a ReadyForQuery at its end.
    ready: Option<u8>,
    /// The pump stops behind it.
    last: bool,
}

/// What the pump works on.
pub struct Pumped<'a> {
    pub connection: &'a mut ServerConnection,
    pub client: &'a mut Client,
    pub expects: &'a mut VecDeque<Expect>,
    pub show: Show,
    pub lease: Option<&'a LeaseClock>,
    pub outcome: &'a mut Outcome,
}

impl Progress {
    pub fn new(connection: &ServerConnection) -> Progress {
        Progress { through: 0, is_stale: connection.input().is_empty(), passage: None }
    }

    /// As [`pump`], as long as it does not have to wait for the client. False: it has to. Cancel-safe.
    pub fn poll(&mut self, pumped: &mut Pumped<'_>, context: &mut Context<'_>) -> Poll<Result<bool, Failure>> {
        loop {
            if let Some(passage) = self.passage {
                let Passage { start, end, .. } = passage;
                if !pumped.client.try_forward(&pumped.connection.input()[start..end])? {
                    return Poll::Ready(Ok(false));
                }
                self.passed(pumped, passage);
                if passage.last {
                    return Poll::Ready(Ok(true));
                }
            }
            if pumped.connection.outstanding == 0 {
                return Poll::Ready(Ok(true));
            }
            if self.is_stale {
                let filled = ready!(poll_fill(pumped.connection, pumped.client, context));
                // Half a row has passed: an error would be read as its rest.
                filled.map_err(|failure| if self.through > 0 { Failure::Gone(None) } else { failure })?;
                if pumped.outcome.copies_out {
                    pumped.client.progresses();
                }
            }
            if pumped.lease.is_some_and(|lease| !pumped.outcome.forwarded && !lease.is_live()) {
                pumped.outcome.lease_lost = true;
                return Poll::Ready(Ok(true));
            }
            self.is_stale = true;
            self.passage = Some(self.look(pumped)?);
        }
    }

    fn passed(&mut self, pumped: &mut Pumped<'_>, passage: Passage) {
        self.passage = None;
        pumped.client.within_message(self.through > 0);
        pumped.connection.consume(passage.end);
        if let Some(status) = passage.ready {
            pumped.connection.ready_for_query(status);
            self.is_stale = pumped.connection.input().is_empty();
        }
    }

    /// Looks at the messages that have arrived, up to the next ReadyForQuery.
    fn look(&mut self, pumped: &mut Pumped<'_>) -> Result<Passage, Failure> {
        let Pumped { connection, client, expects, show, outcome, .. } = pumped;
        let foreign = connection.is_foreign();
        let mut pump = Pump { expects, show: *show, outcome, done: false, rewindable: true, fatal: None };
        let mut start = 0;
        let mut position = self.through.min(connection.input().len());
        self.through -= position;
        let mut ready = None;
        while ready.is_none() && !pump.outcome.copy_in {
            let Some((tag, length)) = connection.header_at(position) else { break };
            if length > MESSAGE_BYTES_MAX {
                connection.broken = true;
                return Err(PoolError::Protocol.into());
            }
            let available = connection.input().len() - position;
            if available < length {
                let whole = foreign && pump.outcome.oids.changes(tag);
                if matches!(tag, b'D' | b'd') && !pump.outcome.lease_lost && pump.passes(tag) && !whole {
                    self.through = length - available;
                    position += available;
                    pump.outcome.forwarded = true;
                }
                break;
            }
            let end = position + length;
            if foreign && pump.outcome.oids.changes(tag) {
                let oids = Arc::clone(&connection.oids);
                if !pump.outcome.oids.translates(&oids, tag, connection.body_mut(position..end)) {
                    return Ok(Passage { start, end: position, ready, last: true });
                }
            }
            if tag == b'D' && pump.passes(tag) {
                // As `message` has it, for what comes most often.
                pump.outcome.forwarded = true;
                position = end;
                continue;
            }
            pump.rewindable = client.can_rewind();
            if tag == b'E' {
                let error = ServerError::new(Bytes::copy_from_slice(&connection.input()[position + 5..end]));
                keep_account(connection, pump.expects, &error);
            }
            let verdict = {
                let body = &connection.input()[position + 5..end];
                if tag == b'Z' {
                    ready = body.first().copied();
                }
                pump.message(tag, body)
            };
            match verdict {
                Verdict::Forward => {
                    position = end;
                    pump.outcome.forwarded = true;
                }
                Verdict::Drop => {
                    client.keep(&connection.input()[start..position])?;
                    pump.instead(client);
                    position = end;
                    start = end;
                }
            }
            if let Some(error) = pump.fatal.take() {
                connection.broken = true;
                return Err(error.into());
            }
            if pump.answered(tag) {
                pump.remember(connection);
                if pump.expects.front().is_some_and(|next| matches!(next, Expect::Ready(_))) {
                    client.keep(&connection.input()[start..position])?;
                    start = position;
                    pump.ready(client);
                }
            }
        }
        Ok(Passage { start, end: position, ready, last: pump.outcome.copy_in })
    }
}

/// Forwards until all requests in flight are answered, or the shard asks for COPY data (`copy_in`; again with new progress after it), or
/// OIDs are missing. The outcome goes on over such calls. Not cancel-safe.
pub async fn pump(progress: &mut Progress, mut pumped: Pumped<'_>) -> Result<(), Failure> {
    while !poll_fn(|context| progress.poll(&mut pumped, context)).await? {
        let Some(passage) = progress.passage else { continue };
        pumped.client.forward(&pumped.connection.input()[passage.start..passage.end]).await?;
        progress.passed(&mut pumped, passage);
        if passage.last {
            break;
        }
    }
    Ok(())
}

/// Answers that need no shard, before the first that does.
pub fn show_ready(client: &mut Client, expects: &mut VecDeque<Expect>) {
    while let Some(Expect::Ready(bytes)) = expects.front() {
        client.out().put_slice(bytes);
        expects.pop_front();
    }
}

/// Receives some bytes of a shard; fails if the client goes away meanwhile. Cancel-safe.
pub async fn fill(connection: &mut ServerConnection, client: &mut Client) -> Result<(), Failure> {
    poll_fn(|context| poll_fill(connection, client, context)).await
}

/// The same.
pub fn poll_fill(
    connection: &mut ServerConnection,
    client: &mut Client,
    context: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    match connection.poll_fill(context) {
        Poll::Ready(filled) => Poll::Ready(filled.map_err(Failure::from)),
        Poll::Pending => client.poll_gone(context).map(|()| Err(Failure::Gone(None))),
    }
}

/// What a client is told of a shard's last words.
fn lost(body: &[u8]) -> PgError {
    let code = field(body, b'C').and_then(SqlState::parse).unwrap_or(SqlState::CONNECTION_FAILURE);
    let words = field(body, b'M').unwrap_or("the connection was closed");
    PgError::new(code, format!("a shard ended the session that this statement ran in: {words}"))
        .hint("Run the transaction again.")
}

struct Pump<'a> {
    expects: &'a mut VecDeque<Expect>,
    show: Show,
    outcome: &'a mut Outcome,
    /// The client is to be told of the error in other words.
    done: bool,
    /// Nothing of the answer has been sent yet.
    rewindable: bool,
    /// The shard has ended the session, and why.
    fatal: Option<PgError>,
}

impl Pump<'_> {
    /// Whether a row may pass piece by piece: not when nothing of it is shown.
    fn passes(&self, tag: u8) -> bool {
        !self.outcome.kept_back && (tag == b'd' || self.show.rows)
    }

    fn message(&mut self, tag: u8, body: &[u8]) -> Verdict {
        if self.outcome.kept_back {
            return Verdict::Drop;
        }
        let shown = match tag {
            b'D' => self.show.rows,
            b'H' => {
                self.outcome.copies_out = true;
                true
            }
            b'd' | b'c' | b'A' => true,
            b'I' => self.show.command_complete,
            b's' => {
                self.outcome.suspended = true;
                self.show.command_complete
            }
            b'1' => match self.expects.front() {
                Some(Expect::Parse { show, .. }) => *show,
                _ => self.show.acknowledgements,
            },
            b'3' => match self.expects.front() {
                Some(Expect::Close { show, .. }) => *show,
                _ => self.show.acknowledgements,
            },
            b'2' => {
                self.outcome.oids.end_of_rows();
                self.show.acknowledgements
            }
            b't' | b'T' | b'n' if matches!(self.expects.front(), Some(Expect::Told { .. })) => self.told(tag, body),
            b't' => self.show.acknowledgements,
            b'T' | b'n' if matches!(self.expects.front(), Some(Expect::Learn { .. })) => false,
            b'T' => self.show.row_description,
            b'n' => self.show.acknowledgements,
            b'C' => {
                let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
                if !self.show.command_complete {
                    self.outcome.tag = Some(String::from_utf8_lossy(text).into_owned());
                }
                self.show.command_complete && !matches!(self.expects.front(), Some(Expect::Commit))
            }
            b'Z' => self.show.ready_for_query,
            b'S' if self.outcome.is_told(body) => false,
            b'S' => {
                self.outcome.settings_changed = true;
                if !self.show.parameters {
                    let told = backend::parse_parameter_status(body).ok();
                    self.outcome.parameters.extend(told.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                // What an error undoes the gateway tells after it.
                self.show.parameters && (self.show.errors || self.outcome.error.is_none())
            }
            b'N' => {
                if field(body, b'C') == Some(sqlstate::CAPTURED) {
                    self.outcome.captured = field(body, b'D').and_then(|xid| xid.parse().ok());
                    false
                } else {
                    true
                }
            }
            b'E' => return self.error(body),
            b'G' | b'W' => {
                self.outcome.copy_in = true;
                true
            }
            _ => false,
        };
        if shown {
            Verdict::Forward
        } else {
            Verdict::Drop
        }
    }

    /// Whether the client has asked for it.
    fn told(&self, tag: u8, body: &[u8]) -> bool {
        let Some(Expect::Told { statement, show }) = self.expects.front() else { return false };
        statement.told(tag, body);
        *show
    }

    fn error(&mut self, body: &[u8]) -> Verdict {
        if matches!(field(body, b'V'), Some("FATAL" | "PANIC")) {
            // The client's own session goes on.
            self.fatal = Some(lost(body));
            return Verdict::Drop;
        }
        let mut error = ServerError::new(Bytes::copy_from_slice(body));
        self.outcome.unanswered = self.expects.iter().filter(|e| !matches!(e, Expect::Ready(_))).count();
        self.outcome.unbound = self.expects.iter().filter(|expect| matches!(expect, Expect::Bind)).count();
        error.at_bind = self.outcome.unbound > 0;
        self.expects.clear();
        let keep_back = self.show.fence && self.rewindable && is_fence(&error);
        let first = self.outcome.error.is_none();
        let ours = translated(&error).is_some();
        if first {
            self.outcome.error = Some(error);
        }
        self.outcome.kept_back = keep_back;
        if keep_back || !self.show.errors || !first {
            return Verdict::Drop;
        }
        if ours {
            // `instead` writes what the client is told.
            self.done = true;
            return Verdict::Drop;
        }
        Verdict::Forward
    }

    /// After a dropped message: what takes its place.
    fn instead(&mut self, client: &mut Client) {
        if std::mem::take(&mut self.done) {
            if let Some(error) = self.outcome.error.as_ref().and_then(translated) {
                backend::error_response(client.out(), &error);
                self.outcome.forwarded = true;
            }
        }
    }

    /// Whether this message is the last of the answer that is expected next.
    fn answered(&self, tag: u8) -> bool {
        match self.expects.front() {
            Some(Expect::Parse { .. }) => tag == b'1',
            Some(Expect::Bind) => tag == b'2',
            Some(Expect::Describe | Expect::Told { .. } | Expect::Learn { .. }) => matches!(tag, b'T' | b'n'),
            Some(Expect::Execute) => matches!(tag, b'C' | b'I' | b's'),
            Some(Expect::Commit) => tag == b'C',
            Some(Expect::Close { .. }) => tag == b'3',
            Some(Expect::Ready(_)) | None => false,
        }
    }

    fn remember(&mut self, connection: &mut ServerConnection) {
        match self.expects.pop_front() {
            Some(Expect::Parse { id, named: true, .. }) => {
                connection.prepared.put(id, ());
            }
            Some(Expect::Parse { id, named: false, .. }) => connection.unnamed = Some(id),
            Some(Expect::Learn { statement, catalog }) if self.outcome.oids.plain => statement.set_plain_rows(catalog),
            Some(Expect::Execute) => self.outcome.oids.end_of_rows(),
            _ => {}
        }
    }

    /// Answers to messages that were not sent on.
    fn ready(&mut self, client: &mut Client) {
        show_ready(client, self.expects);
    }
}
