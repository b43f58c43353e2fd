//! A proxy before a shard that stops at the message it is told to, once: for one connection of the role that comes to harm. Or it spoils
//! a word of what the gateway says on the role's connections. Or it lags behind the shard by an answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::{Buf as _, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::ROLE;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Gateway,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Close,
    Reset,
    /// Nothing passes any more, and nobody is told.
    Silence,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub side: Side,
    /// Messages of that side that pass before.
    pub after: usize,
    /// Half of the next one passes too.
    pub within: bool,
    pub stop: Stop,
}

/// A fault that waits for its moment, and how many messages have passed meanwhile.
struct Armed {
    fault: Fault,
    passed: usize,
    fired: bool,
}

type Shared = Arc<Mutex<Option<Armed>>>;
/// A word, and what the shard gets instead.
type Spoils = Arc<Mutex<Option<(&'static str, &'static str)>>>;
/// A word of the gateway's, on whichever connection, at which it falls silent.
type Silences = Arc<Mutex<Option<&'static str>>>;
/// Who lags passes the shard's last answer once the gateway has spoken again, or after so long.
const LAG_MAX: Duration = Duration::from_millis(20);

pub struct Proxy {
    pub port: u16,
    armed: Shared,
    spoils: Spoils,
    silences: Silences,
    turns: Arc<AtomicUsize>,
    lags: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(server: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let armed = Shared::default();
        let shared = Arc::clone(&armed);
        let spoils = Spoils::default();
        let spoiling = Arc::clone(&spoils);
        let silences = Silences::default();
        let silencing = Arc::clone(&silences);
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let lags = Arc::new(AtomicBool::new(false));
        let lagging = Arc::clone(&lags);
        let task = tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                let told = Told {
                    armed: Arc::clone(&shared),
                    spoils: Arc::clone(&spoiling),
                    silences: Arc::clone(&silencing),
                    turns: Arc::clone(&counted),
                    lags: Arc::clone(&lagging),
                };
                // Ends with either of its ends.
                tokio::spawn(async move { Connection::serve(gateway, server, told).await });
            }
        });
        Ok(Proxy { port, armed, spoils, silences, turns, lags, task })
    }

    pub fn arm(&self, fault: Fault) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Armed { fault, passed: 0, fired: false });
    }

    pub fn spoil(&self, word: Option<(&'static str, &'static str)>) {
        *self.spoils.lock().unwrap_or_else(PoisonError::into_inner) = word;
    }

    pub fn silence_at(&self, word: Option<&'static str>) {
        *self.silences.lock().unwrap_or_else(PoisonError::into_inner) = word;
    }

    pub fn lag(&self, lags: bool) {
        self.lags.store(lags, Ordering::Relaxed);
    }

    /// How often the gateway has begun to speak on the role's connections: round trips.
    pub fn turns(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether the fault has come to pass.
    pub fn disarm(&self) -> bool {
        let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner).take();
        armed.is_some_and(|armed| armed.fired)
    }
}

/// What a connection has been told to do.
struct Told {
    armed: Shared,
    spoils: Spoils,
    silences: Silences,
    turns: Arc<AtomicUsize>,
    lags: Arc<AtomicBool>,
}

struct Connection {
    gateway: TcpStream,
    server: TcpStream,
    told: Told,
    /// It belongs to the role, and its startup packet has passed.
    concerned: bool,
    started: bool,
}

impl Connection {
    async fn serve(gateway: TcpStream, server: u16, told: Told) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", server)).await?;
        gateway.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut connection = Connection { gateway, server, told, concerned: false, started: false };
        let (mut from_gateway, mut from_server) = (BytesMut::new(), BytesMut::new());
        let mut spoke = Side::Server;
        loop {
            let (side, read) = tokio::select! {
                read = connection.gateway.read_buf(&mut from_gateway) => (Side::Gateway, read?),
                read = connection.server.read_buf(&mut from_server) => (Side::Server, read?),
                () = tokio::time::sleep(LAG_MAX), if !from_server.is_empty() => {
                    connection.catch_up(&mut from_server, 0).await?;
                    continue;
                }
            };
            if read == 0 {
                return Ok(());
            }
            if connection.concerned && side == Side::Gateway && spoke == Side::Server {
                connection.told.turns.fetch_add(1, Ordering::Relaxed);
            }
            spoke = side;
            if connection.lags() {
                // The gateway's first: what it says next is not an answer to this.
                connection.pass(Side::Gateway, &mut from_gateway).await?;
                connection.catch_up(&mut from_server, usize::from(side == Side::Server)).await?;
                continue;
            }
            let buffer = if side == Side::Gateway { &mut from_gateway } else { &mut from_server };
            if let Some(stop) = connection.pass(side, buffer).await? {
                return connection.stop(stop).await;
            }
        }
    }

    fn lags(&self) -> bool {
        self.concerned && self.started && self.told.lags.load(Ordering::Relaxed)
    }

    /// Passes the shard's messages on, but for its last so many answers.
    async fn catch_up(&mut self, buffer: &mut BytesMut, but_for: usize) -> std::io::Result<()> {
        let (mut at, mut ends) = (0, vec![0; but_for + 1]);
        while let Some(length) = self.message_bytes(Side::Server, &BytesMut::from(&buffer[at..])) {
            let tag = buffer[at];
            at += length;
            if tag == b'Z' {
                ends.push(at);
            }
        }
        let passing = if but_for == 0 { at } else { ends[ends.len() - 1 - but_for] };
        self.gateway.write_all(&buffer[..passing]).await?;
        buffer.advance(passing);
        Ok(())
    }

    /// Passes whole messages on.
    async fn pass(&mut self, side: Side, buffer: &mut BytesMut) -> std::io::Result<Option<Stop>> {
        while let Some(length) = self.message_bytes(side, buffer) {
            let due = self.due(side);
            if self.is_silenced(side, &buffer[..length]) {
                return Ok(Some(Stop::Silence));
            }
            let spoilt = self.spoilt(side, &buffer[..length]);
            let to = if side == Side::Gateway { &mut self.server } else { &mut self.gateway };
            if let Some(fault) = due {
                let passing = if fault.within { length / 2 } else { 0 };
                to.write_all(&buffer[..passing]).await?;
                return Ok(Some(fault.stop));
            }
            to.write_all(&spoilt.unwrap_or_else(|| buffer[..length].to_vec())).await?;
            buffer.advance(length);
        }
        Ok(None)
    }

    /// The first message's length, if it is there. What has no tag: startup packets, and the answer to a request for TLS.
    fn message_bytes(&mut self, side: Side, buffer: &BytesMut) -> Option<usize> {
        let word = |at: usize| {
            let bytes = buffer.get(at..at + 4)?;
            Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
        };
        let length = match (self.started, side) {
            (true, _) => 1 + word(1)?,
            (false, Side::Server) => 1,
            (false, Side::Gateway) => word(0)?,
        };
        if buffer.len() < length.max(1) {
            return None;
        }
        if !self.started && side == Side::Gateway && word(4) == Some(3 << 16) {
            self.started = true;
            let user = [&b"user\0"[..], ROLE.as_bytes(), b"\0"].concat();
            self.concerned = buffer[..length].windows(user.len()).any(|window| window == user);
        }
        Some(length)
    }

    fn is_silenced(&self, side: Side, message: &[u8]) -> bool {
        let word = *self.told.silences.lock().unwrap_or_else(PoisonError::into_inner);
        let said = |word: &str| message.windows(word.len()).any(|window| window == word.as_bytes());
        side == Side::Gateway && word.is_some_and(said)
    }

    /// The message with another word.
    fn spoilt(&self, side: Side, message: &[u8]) -> Option<Vec<u8>> {
        let spoils = *self.told.spoils.lock().unwrap_or_else(PoisonError::into_inner);
        let (word, instead) = spoils.filter(|_| self.concerned && self.started && side == Side::Gateway)?;
        let at = message.windows(word.len()).position(|window| window == word.as_bytes())?;
        let mut spoilt = [&message[..at], instead.as_bytes(), &message[at + word.len()..]].concat();
        let length = (spoilt.len() - 1) as u32;
        spoilt[1..5].copy_from_slice(&length.to_be_bytes());
        Some(spoilt)
    }

    fn due(&self, side: Side) -> Option<Fault> {
        let mut armed = self.told.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = armed.as_mut().filter(|armed| self.concerned && !armed.fired && armed.fault.side == side)?;
        armed.passed += 1;
        armed.fired = armed.passed > armed.fault.after;
        armed.fired.then_some(armed.fault)
    }

    async fn stop(mut self, stop: Stop) -> std::io::Result<()> {
        match stop {
            Stop::Close => Ok(()),
            Stop::Reset => {
                SockRef::from(&self.gateway).set_linger(Some(Duration::ZERO))?;
                SockRef::from(&self.server).set_linger(Some(Duration::ZERO))
            }
            Stop::Silence => {
                // Until the gateway gives up.
                let mut unheard = [0; 1024];
                while self.gateway.read(&mut unheard).await? > 0 {}
                Ok(())
            }
        }
    }
}
