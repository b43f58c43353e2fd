//! The bytes of a connection, plain or under TLS, to clients and to shards.
//!
//! A plain connection makes the same system calls as a bare socket: what is to be read is waited for before memory is taken, and
//! a read that did not fill its buffer is known to have emptied the socket. Short messages land in a buffer of the thread, and
//! only what has come is kept. Under TLS decrypted bytes come out of rustls' own buffers. What is absent: it knows
//! nothing of what the bytes mean.

use std::cell::RefCell;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll, Waker};

use bytes::BytesMut;
use ringway_tls::certificate;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

/// What one read of a short message takes at most.
const LANDING_BYTES: usize = 16 << 10;
/// What one read takes at most once a read has been filled.
const BULK_BYTES: usize = 64 << 10;

thread_local! {
    /// Where bytes land before it is known how many they are.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; LANDING_BYTES].into_boxed_slice());
}

#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub fn tls(stream: impl Into<TlsStream<TcpStream>>) -> Stream {
        Stream::Tls(Box::new(stream.into()))
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// The peer's own certificate in DER, which has been verified as far as the configuration says.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let Stream::Tls(stream) = self else { return None };
        stream.get_ref().1.peer_certificates()?.first().map(|certificate| &certificate[..])
    }

    /// What binds a SCRAM exchange to this connection; on the client's side.
    pub fn peer_end_point(&self) -> Option<Vec<u8>> {
        self.peer_certificate().and_then(certificate::end_point)
    }

    /// The application protocol that the handshake has agreed on.
    pub fn application_protocol(&self) -> Option<&[u8]> {
        let Stream::Tls(stream) = self else { return None };
        stream.get_ref().1.alpn_protocol()
    }

    /// Appends some bytes, at most `bytes` at a time of a plain connection; 0 at the end of the stream. Takes no memory
    /// while it waits. Cancel-safe.
    pub async fn receive(&mut self, input: &mut BytesMut, bytes: usize) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => {
                stream.readable().await?;
                input.reserve(bytes);
                // Unlike `try_read_buf`, a read that did not fill the buffer is known to have emptied the socket: no second
                // one asks.
                stream.read_buf(input).await
            }
            Stream::Tls(stream) => poll_fn(|context| poll_decrypted(stream, context, input)).await,
        }
    }

    /// The same, as many bytes as there are within a bound. `bulk` is the caller's to keep, false at first: whether more came last
    /// than a short message.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
        bulk: &mut bool,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(stream) if *bulk => {
                ready!(stream.poll_read_ready(context))?;
                input.reserve(if input.is_empty() { BULK_BYTES } else { BULK_BYTES / 4 });
                let received = ready!(poll_read_buf(Pin::new(stream), context, input))?;
                *bulk = received >= LANDING_BYTES;
                Poll::Ready(Ok(received))
            }
            Stream::Plain(stream) => LANDING.with_borrow_mut(|landing| {
                let mut landing = ReadBuf::new(landing);
                ready!(Pin::new(stream).poll_read(context, &mut landing))?;
                input.extend_from_slice(landing.filled());
                *bulk = landing.remaining() == 0;
                Poll::Ready(Ok(landing.filled().len()))
            }),
            Stream::Tls(stream) => poll_decrypted(stream, context, input),
        }
    }

    /// Takes some of `bytes`, at least one; under TLS what it took may still have to be pushed by [`Self::poll_flush`].
    pub fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(stream) => loop {
                ready!(stream.poll_write_ready(context))?;
                match stream.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    sent => return Poll::Ready(sent),
                }
            },
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Pushes what TLS has encrypted and not sent.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    /// Takes some of `bytes` if that can be done at once: `WouldBlock` otherwise.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.try_write(bytes),
            // Whoever waits for this connection later registers its own waker.
            Stream::Tls(stream) => now(poll_fn(|context| Pin::new(&mut **stream).poll_write(context, bytes))),
        }
    }

    /// Whether all that was sent has been given to the system.
    pub fn is_flushed(&self) -> bool {
        match self {
            Stream::Plain(_) => true,
            Stream::Tls(stream) => !stream.get_ref().1.wants_write(),
        }
    }

    /// Not cancel-safe.
    pub async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Whether nothing has come: no byte, no end, no error. A byte that has come may be lost.
    pub fn is_quiet(&mut self) -> bool {
        let received = match self {
            Stream::Plain(stream) => stream.try_read(&mut [0; 1]),
            Stream::Tls(stream) => {
                now(poll_fn(|context| Pin::new(&mut **stream).poll_fill_buf(context).map_ok(<[u8]>::len)))
            }
        };
        matches!(received, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Says goodbye as TLS demands it, if that can be done at once.
    pub fn close(&mut self) {
        if let Stream::Tls(stream) = self {
            let _gone_anyway = now(poll_fn(|context| Pin::new(&mut **stream).poll_shutdown(context)));
        }
    }
}

/// What is decrypted already, or the next record.
fn poll_decrypted(
    stream: &mut TlsStream<TcpStream>,
    context: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut received = 0;
    loop {
        let bytes = ready!(Pin::new(&mut *stream).poll_fill_buf(context))?;
        let length = bytes.len();
        input.extend_from_slice(bytes);
        Pin::new(&mut *stream).consume(length);
        received += length;
        // More that is decrypted comes along; the socket is not asked again.
        if length == 0 || stream.get_ref().1.wants_read() {
            return Poll::Ready(Ok(received));
        }
    }
}

/// What a future gives at once, whatever this task's turn has used up already; `WouldBlock` if it would wait.
fn now<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let future = pin!(tokio::task::unconstrained(future));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
