//! One connection to a shard: bytes in and out, and what is known about the session at its other end.
//!
//! Output is queued and pushed while input is awaited, so that neither side can block the other. It decodes nothing but
//! frame headers, ReadyForQuery and ParameterStatus.

use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lru::LruCache;

use super::error::{PoolError, ServerError};
use super::oids::ShardOids;
use super::settings::Settings;
use crate::net::Stream;

/// Names a statement text with its declared parameter types, the same for all connections of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

impl StatementId {
    /// Its name on a server.
    pub fn server_name(self) -> ServerName {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut name = ServerName { bytes: *b"rw0000000000000000", length: 3 };
        let digits = (64 - self.0.leading_zeros()).div_ceil(4).max(1) as usize;
        for (index, byte) in name.bytes[2..2 + digits].iter_mut().enumerate() {
            *byte = DIGITS[(self.0 >> (4 * (digits - 1 - index)) & 15) as usize];
        }
        name.length = 2 + digits as u8;
        name
    }
}

/// A statement's name on a server, in place.
#[derive(Clone, Copy, Debug)]
pub struct ServerName {
    bytes: [u8; 18],
    length: u8,
}

impl ServerName {
    /// Of the unnamed statement.
    pub const UNNAMED: ServerName = ServerName { bytes: [0; 18], length: 0 };
}

impl Deref for ServerName {
    type Target = str;
    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    pub fn from_byte(byte: u8) -> TransactionStatus {
        match byte {
            b'T' => TransactionStatus::InTransaction,
            b'E' => TransactionStatus::Failed,
            _ => TransactionStatus::Idle,
        }
    }

    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// A whole message of a server; `raw` includes its header.
#[derive(Clone, Debug)]
pub struct Message {
    pub tag: u8,
    pub raw: Bytes,
}

impl Message {
    pub fn body(&self) -> &[u8] {
        &self.raw[5..]
    }
}

/// Buffers beyond this are dropped as soon as they are empty.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// What a connection at rest keeps of its input buffer.
const KEPT_BYTES_MAX: usize = 1 << 10;
/// The longest message of a server: PostgreSQL's own limit, and a header.
pub const MESSAGE_BYTES_MAX: usize = (1 << 30) + 5;

/// Rows of a simple query, values as text.
pub type TextRows = Vec<Vec<Option<String>>>;

#[derive(Debug)]
pub struct ServerConnection {
    stream: Stream,
    input: BytesMut,
    /// The last read was filled: see [`Stream::poll_receive`].
    bulk: bool,
    /// More than [`KEPT_BYTES_MAX`] has come at once since the connection was at rest.
    grown: bool,
    output: BytesMut,
    pub process_id: i32,
    pub secret_key: Bytes,
    pub status: TransactionStatus,
    /// Requests that end in a ReadyForQuery that has not arrived yet.
    pub outstanding: u32,
    /// Messages of the extended protocol have been queued that no Sync has followed yet.
    pub in_group: bool,
    /// The stream is not at a message boundary, or the connection is lost: never reuse it.
    pub broken: bool,
    /// It is closed when it comes back: nobody knows for certain what is prepared there.
    pub retires: bool,
    /// What the server's session has been told; None when a statement may have changed settings behind our back.
    pub settings: Option<Settings>,
    /// Statements prepared here, the most recently used first.
    pub prepared: LruCache<StatementId, ()>,
    /// The statement that has begun a transaction here last.
    pub begins: Option<StatementId>,
    /// More than this many are closed, as soon as they can be.
    pub statements_max: usize,
    /// What the unnamed statement is.
    pub unnamed: Option<StatementId>,
    /// ParameterStatus values at the connection's start, in order.
    pub parameters: Vec<(String, String)>,
    pub idle_since: Instant,
    /// What its numbers of types and tables are on the home shard.
    pub oids: Arc<ShardOids>,
    /// The session that has it wants the shard's own (`SET ringway.shard`).
    pub own_oids: bool,
}

impl ServerConnection {
    pub fn new(stream: Stream, server_statements_max: usize) -> ServerConnection {
        ServerConnection {
            stream,
            input: BytesMut::new(),
            bulk: false,
            grown: false,
            output: BytesMut::new(),
            process_id: 0,
            secret_key: Bytes::new(),
            status: TransactionStatus::Idle,
            outstanding: 0,
            in_group: false,
            broken: false,
            retires: false,
            settings: Some(Settings::default()),
            prepared: LruCache::unbounded(),
            begins: None,
            statements_max: server_statements_max.max(1),
            unnamed: None,
            parameters: Vec::new(),
            idle_since: Instant::now(),
            oids: Arc::default(),
            own_oids: false,
        }
    }

    /// What binds a SCRAM exchange to this connection.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.stream.peer_end_point()
    }

    /// Bytes that the next [`Self::fill`] or [`Self::flush`] sends.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    pub fn input(&self) -> &BytesMut {
        &self.input
    }

    /// The body of a message that has arrived whole, to be changed in place.
    pub fn body_mut(&mut self, message: std::ops::Range<usize>) -> &mut [u8] {
        self.input.get_mut(message.start + 5..message.end).unwrap_or_default()
    }

    pub fn consume(&mut self, bytes: usize) {
        self.input.advance(bytes);
    }

    /// Queues a simple query, which nothing that comes before it can make the server discard.
    pub fn queue_query(&mut self, sql: &str) {
        if self.in_group {
            self.queue_sync();
        }
        self.queue_query_in_group(sql);
    }

    /// Queues a simple query, which is discarded if what has been queued without a Sync fails.
    pub fn queue_query_in_group(&mut self, sql: &str) {
        self.output.put_u8(b'Q');
        self.output.put_i32((4 + sql.len() + 1) as i32);
        self.output.put_slice(sql.as_bytes());
        self.output.put_u8(0);
        // A simple query ends the unnamed statement.
        self.unnamed = None;
        self.outstanding += 1;
    }

    /// Queues Sync.
    pub fn queue_sync(&mut self) {
        self.output.put_slice(&[b'S', 0, 0, 0, 4]);
        self.outstanding += 1;
        self.in_group = false;
    }

    /// A group of messages has failed that simple queries without a Sync have followed: they are discarded up to this one.
    pub fn end_failed_group(&mut self) {
        self.outstanding = 0;
        self.queue_sync();
    }

    /// Tries to send what is queued without waiting.
    pub fn try_flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.try_send(&self.output) {
                Ok(0) => return Err(self.lost(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.lost(error)),
            }
        }
        self.trim_output();
        Ok(())
    }

    /// Sends all that is queued. Cancel-safe: what has not been sent stays queued.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            while !self.output.is_empty() {
                ready!(self.poll_push(context))?;
            }
            self.stream.poll_flush(context).map_err(|error| self.lost(error))
        })
        .await
    }

    /// Receives some bytes, sending what is queued meanwhile. Cancel-safe.
    pub async fn fill(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_fill(context)).await
    }

    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match self.poll_push(context) {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = self.stream.poll_flush(context) {
            return Poll::Ready(Err(self.lost(error)));
        }
        match ready!(self.stream.poll_receive(context, &mut self.input, &mut self.bulk)) {
            Ok(0) => Poll::Ready(Err(self.lost(io::ErrorKind::UnexpectedEof.into()))),
            Ok(received) => {
                self.grown |= received > KEPT_BYTES_MAX;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.lost(error))),
        }
    }

    fn poll_push(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.stream.poll_send(context, &self.output)) {
            Ok(0) => Poll::Ready(Err(self.lost(io::ErrorKind::WriteZero.into()))),
            Ok(written) => {
                self.output.advance(written);
                self.trim_output();
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.lost(error))),
        }
    }

    fn trim_output(&mut self) {
        if self.output.is_empty() && self.output.capacity() > BUFFER_BYTES_MAX {
            self.output = BytesMut::new();
        }
    }

    fn lost(&mut self, error: io::Error) -> io::Error {
        self.broken = true;
        error
    }

    /// Drops buffers that a burst has left behind.
    pub fn trim(&mut self) {
        if self.grown && self.input.is_empty() {
            self.input = BytesMut::new();
            self.grown = false;
        }
        self.trim_output();
    }

    /// Tag and whole length of the message at `offset` of the input, if its header has arrived. A length above [`MESSAGE_BYTES_MAX`]
    /// is none of PostgreSQL's.
    pub fn header_at(&self, offset: usize) -> Option<(u8, usize)> {
        let bytes = self.input.get(offset..offset + 5)?;
        let length = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
        Some((bytes[0], if length < 4 { MESSAGE_BYTES_MAX + 1 } else { 1 + length }))
    }

    /// Takes the next message if it has arrived whole.
    pub fn take_message(&mut self) -> Option<Message> {
        let (tag, length) = self.header_at(0)?;
        if self.input.len() < length {
            return None;
        }
        let raw = self.input.split_to(length).freeze();
        if tag == b'Z' {
            self.ready_for_query(raw.get(5).copied().unwrap_or_default());
        }
        Some(Message { tag, raw })
    }

    /// A ReadyForQuery with this status has been taken off the stream.
    pub fn ready_for_query(&mut self, status: u8) {
        self.status = TransactionStatus::from_byte(status);
        self.in_group = false;
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// The next message. Cancel-safe.
    pub async fn message(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            if self.header_at(0).is_some_and(|(_, length)| length > MESSAGE_BYTES_MAX) {
                return Err(self.lost(io::ErrorKind::InvalidData.into()));
            }
            self.fill().await?;
        }
    }

    /// Reads up to the end of all requests in flight, dropping everything but the first error.
    pub async fn settle(&mut self) -> Result<Option<ServerError>, PoolError> {
        let mut first = None;
        while self.outstanding > 0 {
            let message = self.message().await?;
            match message.tag {
                b'E' => {
                    first.get_or_insert(ServerError::new(message.raw.slice(5..)));
                }
                b'G' | b'W' => {
                    // COPY that nobody feeds.
                    self.output.put_slice(&[b'f', 0, 0, 0, 5, 0]);
                }
                _ => {}
            }
        }
        Ok(first)
    }

    /// Runs a simple query and gives its rows. An error of the server leaves the connection usable.
    pub async fn query(&mut self, sql: &str) -> Result<TextRows, PoolError> {
        self.queue_query(sql);
        self.rows().await
    }

    /// Rows of the requests in flight. For text results only.
    pub async fn rows(&mut self) -> Result<TextRows, PoolError> {
        let mut rows = Vec::new();
        let mut failure = None;
        while self.outstanding > 0 {
            let message = self.message().await?;
            match message.tag {
                b'D' => rows.push(text_row(message.body()).ok_or(PoolError::Protocol)?),
                b'E' => {
                    failure.get_or_insert(ServerError::new(message.raw.slice(5..)));
                }
                _ => {}
            }
        }
        match failure {
            Some(error) => Err(PoolError::Server(error)),
            None => Ok(rows),
        }
    }

    /// Whether an idle connection is still alive, without waiting.
    pub fn is_alive(&mut self) -> bool {
        // Anything unasked (an error before the end, a changed parameter): start afresh.
        !self.broken && self.input.is_empty() && self.stream.is_quiet()
    }

    /// At rest, outside a transaction, nothing on its way.
    pub fn is_clean(&self) -> bool {
        !self.broken
            && !self.retires
            && self.outstanding == 0
            && !self.in_group
            && self.status == TransactionStatus::Idle
            && self.output.is_empty()
            && self.stream.is_flushed()
            && self.input.is_empty()
    }
}

/// Values of a DataRow in text.
pub fn text_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    Some(row_values(body)?.into_iter().map(|v| v.map(|v| String::from_utf8_lossy(v).into_owned())).collect())
}

/// Values of a DataRow as they are.
pub fn row_values(mut body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    if body.len() < 2 {
        return None;
    }
    let count = body.get_u16() as usize;
    // Each value has a length, so no more are taken room for than there can be.
    let mut values = Vec::with_capacity(count.min(body.len() / 4));
    for _ in 0..count {
        if body.len() < 4 {
            return None;
        }
        let length = body.get_i32();
        match usize::try_from(length) {
            Err(_) => values.push(None),
            Ok(length) => {
                values.push(Some(body.get(..length)?));
                body.advance(length);
            }
        }
    }
    Some(values)
}
