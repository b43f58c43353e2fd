//! The client's socket: frames in, bytes out. An idle client holds no buffers but small ones.

use std::future::{poll_fn, Future as _};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Sleep;

use super::clients::ClientEntry;
use super::failure::Failure;
use crate::net::Stream;
use crate::wire::tag::client as tag;
use crate::wire::{next_frame, Frame, FrameHeader, Frames, PgError, SqlState};

/// An idle client's buffers are kept up to this: its next statement needs them again.
const KEPT_BYTES_MAX: usize = 256;
/// More than this is written past the output buffer.
const GATHER_BYTES: usize = 16 << 10;
/// What a client sends ahead of its answers is read up to this, to see whether it is still there.
const AHEAD_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
pub struct Client {
    stream: Stream,
    input: BytesMut,
    /// The last read was filled: see [`Stream::poll_receive`].
    bulk: bool,
    /// More than [`KEPT_BYTES_MAX`] has come since the client was idle.
    grown: bool,
    out: BytesMut,
    /// So much of it is sent before the client's leave, as PostgreSQL sends errors and what ends with ReadyForQuery at once.
    due: usize,
    frame_bytes_max: usize,
    /// How long the rest of a message may be silent; None: for ever.
    message_timeout: Option<Duration>,
    /// Runs while the rest of a message is waited for.
    stall: Option<Pin<Box<Sleep>>>,
    /// Bytes are being sent: a sender that gives up leaves the stream within a message.
    sending: bool,
    /// As [`Self::within_message`] has told.
    within: bool,
    /// Where [`Self::rewind`] goes back to; None once bytes have been sent since.
    mark: Option<usize>,
    /// The same for [`Self::unbind`].
    bound: Option<usize>,
    /// Forwarded bytes are kept here instead of being sent, within the bound.
    capture: Option<Capture>,
    /// It does not matter for now whether the client is still there.
    unwatched: bool,
    /// Who is told that COPY data are on their way.
    entry: Option<Arc<ClientEntry>>,
}

/// Forwarded bytes, within a bound.
#[derive(Debug)]
pub struct Capture {
    pub bytes: BytesMut,
    /// 0: all of it is dropped.
    pub bytes_max: usize,
    /// What is said about more.
    pub too_large: fn(usize) -> PgError,
}

impl Capture {
    /// Keeps nothing.
    pub fn nothing() -> Capture {
        Capture { bytes: BytesMut::new(), bytes_max: 0, too_large }
    }
}

impl Client {
    pub fn new(stream: Stream, input: BytesMut, frame_bytes_max: usize) -> Client {
        Client {
            stream,
            input,
            bulk: false,
            grown: true,
            out: BytesMut::new(),
            due: 0,
            frame_bytes_max,
            message_timeout: None,
            stall: None,
            sending: false,
            within: false,
            mark: None,
            bound: None,
            capture: None,
            unwatched: false,
            entry: None,
        }
    }

    /// What the next [`Self::flush`] sends.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// How the connection is protected, and by whose certificate.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Before the connection is dropped.
    pub fn close(&mut self) {
        self.stream.close();
    }

    /// What holds for messages once the client is logged in.
    pub fn set_bounds(&mut self, frame_bytes_max: usize, message_timeout: Option<Duration>) {
        self.frame_bytes_max = frame_bytes_max;
        self.message_timeout = message_timeout;
    }

    pub fn set_entry(&mut self, entry: Arc<ClientEntry>) {
        self.entry = Some(entry);
    }

    /// COPY data have come: the time of a silent peer (`query_timeout_ms`) begins anew.
    pub fn progresses(&self) {
        if let Some(entry) = &self.entry {
            entry.works();
        }
    }

    /// Whether what was forwarded ends within a message.
    pub fn within_message(&mut self, within: bool) {
        self.within = within;
    }

    /// Whether a message can be sent: not after one that was cut off.
    pub fn can_be_told(&self) -> bool {
        !self.sending && !self.within
    }

    /// The next message if it is here already.
    pub fn try_frame(&mut self) -> Result<Option<Frame>, Failure> {
        if self.input.is_empty() {
            return Ok(None);
        }
        next_frame(&mut self.input, self.frame_bytes_max).map_err(|error| Failure::Gone(Some(Box::new(error.into()))))
    }

    /// The messages of a pipeline up to its Sync, if it is here whole and they are the extended protocol's, of at most `bytes_max`; or a simple
    /// query.
    /// To be given back with [`Self::recycle`].
    pub fn take_pipeline(&mut self, bytes_max: usize) -> Option<BytesMut> {
        let mut bytes = 0;
        for frame in Frames(&self.input) {
            let length = frame.bytes().len();
            if length > self.frame_bytes_max || bytes + length > bytes_max {
                return None;
            }
            bytes += length;
            match frame.tag() {
                tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {}
                tag::QUERY if bytes > length => return None,
                tag::SYNC | tag::QUERY if bytes == self.input.len() => return Some(std::mem::take(&mut self.input)),
                tag::SYNC | tag::QUERY => return Some(self.input.split_to(bytes)),
                _ => return None,
            }
        }
        None
    }

    /// Takes back the buffer of a pipeline that has been dealt with.
    pub fn recycle(&mut self, mut pipeline: BytesMut) {
        if self.input.is_empty() && !self.grown {
            pipeline.clear();
            self.input = pipeline;
        }
    }

    /// Tag of the message that comes next, if its header is here.
    pub fn peek_tag(&self) -> Option<u8> {
        FrameHeader::peek(&self.input).ok().flatten().map(|header| header.tag)
    }

    /// The next message; None at the end of the stream. Cancel-safe.
    pub async fn frame(&mut self) -> Result<Option<Frame>, Failure> {
        loop {
            if let Some(frame) = self.try_frame()? {
                return Ok(Some(frame));
            }
            if poll_fn(|context| self.poll_fill(context)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Receives some bytes; 0 at the end of the stream. Fails when a message was begun and nothing of it has come since.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        if let Poll::Ready(filled) = self.poll_input(context) {
            self.stall = None;
            return Poll::Ready(filled.map_err(gone));
        }
        let (Some(limit), false) = (self.message_timeout, self.input.is_empty()) else { return Poll::Pending };
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stall.as_mut().poll(context).map(|()| Err(stalled(limit)))
    }

    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let filled = ready!(self.stream.poll_receive(context, &mut self.input, &mut self.bulk));
        self.grown |= matches!(filled, Ok(received) if received > KEPT_BYTES_MAX);
        Poll::Ready(filled)
    }

    /// Ready when the client has gone, while it is not its turn to speak. What it says nevertheless is kept for later.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.unwatched {
            return Poll::Pending;
        }
        while self.input.len() < AHEAD_BYTES_MAX {
            // No buffer and no system call while nothing comes.
            match ready!(self.poll_input(context)) {
                Ok(read) if read > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Returns when the client has gone. Cancel-safe.
    pub async fn gone(&mut self) {
        poll_fn(|context| self.poll_gone(context)).await
    }

    /// Work that is better finished, whether the client is still there or not, begins or has ended.
    pub fn watch(&mut self, watched: bool) {
        self.unwatched = !watched;
    }

    /// Bytes of a server, in order with what is in the output buffer.
    pub async fn forward(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.try_forward(bytes)? {
            return Ok(());
        }
        self.flush().await?;
        self.forget_marks();
        self.sending = true;
        self.stream.send_all(bytes).await.map_err(gone)?;
        self.sending = false;
        Ok(())
    }

    /// As [`Self::forward`], without waiting. False: there is no room for them.
    pub fn try_forward(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let fits = self.capture.is_some() || self.out.len() + bytes.len() <= GATHER_BYTES;
        if fits {
            self.keep(bytes)?;
        }
        Ok(fits)
    }

    /// As [`Self::forward`], beyond the buffer's usual bound: for less than one read at a time.
    pub fn keep(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(capture) = &mut self.capture else {
            self.out.extend_from_slice(bytes);
            return Ok(());
        };
        if capture.bytes_max == 0 {
            return Ok(());
        }
        if capture.bytes.len() + bytes.len() > capture.bytes_max {
            return Err((capture.too_large)(capture.bytes_max).into());
        }
        capture.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// What is in the output so far is not left unsent, whatever the client says next.
    pub fn set_due(&mut self) {
        self.due = self.out.len();
    }

    /// The client takes its leave.
    pub async fn flush_due(&mut self) -> Result<(), Failure> {
        self.out.truncate(self.due);
        self.flush().await
    }

    pub async fn flush(&mut self) -> Result<(), Failure> {
        self.due = 0;
        if !self.out.is_empty() {
            self.forget_marks();
            self.sending = true;
            self.stream.send_all(&self.out).await.map_err(gone)?;
            self.sending = false;
            if self.out.capacity() > 4 * GATHER_BYTES {
                self.out = BytesMut::new();
            } else {
                self.out.clear();
            }
        }
        Ok(())
    }

    /// Keeps what is forwarded from now on, up to `bytes_max`.
    pub fn capture(&mut self, bytes_max: usize) {
        self.capture = Some(Capture { bytes: BytesMut::new(), bytes_max, too_large });
    }

    /// Keeps what is forwarded elsewhere from now on; gives what was in use.
    pub fn exchange_capture(&mut self, capture: Option<Capture>) -> Option<Capture> {
        std::mem::replace(&mut self.capture, capture)
    }

    /// What has been forwarded since [`Self::capture`].
    pub fn take_captured(&mut self) -> BytesMut {
        self.capture.take().map(|capture| capture.bytes).unwrap_or_default()
    }

    /// An answer begins that may have to be taken back.
    pub fn mark(&mut self) {
        self.mark = Some(self.out.len());
    }

    /// Whether nothing has been sent since [`Self::mark`].
    pub fn can_rewind(&self) -> bool {
        self.mark.is_some()
    }

    /// Takes back what was put into the output since [`Self::mark`].
    pub fn rewind(&mut self) {
        if let Some(length) = self.mark {
            self.out.truncate(length);
        }
    }

    /// The answer to a Bind begins, which no shard has seen yet.
    pub fn mark_bind(&mut self) {
        self.bound = Some(self.out.len());
    }

    /// The Bind has been answered for good.
    pub fn keep_bind(&mut self) {
        self.bound = None;
    }

    /// Takes back the answer to the Bind, and what follows it, unless some of it has been sent.
    pub fn unbind(&mut self) {
        if let Some(length) = self.bound.take() {
            self.out.truncate(length);
            self.mark = self.mark.filter(|mark| *mark <= length);
        }
    }

    fn forget_marks(&mut self) {
        (self.mark, self.bound) = (None, None);
    }

    /// Drops what an idle client does not need.
    pub fn trim(&mut self) {
        if self.out.is_empty() && self.out.capacity() > KEPT_BYTES_MAX {
            self.out = BytesMut::new();
        }
        if self.grown && self.input.is_empty() {
            self.input = BytesMut::new();
            self.grown = false;
        }
    }

    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }
}

fn too_large(bytes_max: usize) -> PgError {
    PgError::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("rows that wait for the next Execute are larger than gather_bytes_max ({bytes_max} bytes)"),
    )
    .hint("Fetch all rows at once (fetch size 0), use LIMIT, or raise gather_bytes_max.")
}

fn stalled(limit: Duration) -> Failure {
    let message = format!("a message was begun and not gone on with for {} ms (message_timeout_ms)", limit.as_millis());
    Failure::Gone(Some(Box::new(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message))))
}

fn gone(_: io::Error) -> Failure {
    Failure::Gone(None)
}
