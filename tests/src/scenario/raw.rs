//! PostgreSQL's protocol byte by byte, for what no driver would send.

use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER_MAX: Duration = Duration::from_secs(15);
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A message of the server: its type byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body.split(|byte| *byte == 0).find_map(|field| match field.split_first() {
            Some((first, rest)) if *first == code => Some(String::from_utf8_lossy(rest).into_owned()),
            _ => None,
        })
    }

    pub fn sqlstate(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }
}

/// A connection, under TLS perhaps.
pub struct Raw<S = TcpStream> {
    stream: S,
}

/// A frame with a type byte.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Strings, each ended by a zero byte.
pub fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().chain([0])).collect()
}

pub fn query(text: &str) -> Vec<u8> {
    frame(b'Q', &strings(&[text]))
}

impl Raw {
    pub async fn connect(port: u16) -> Result<Raw> {
        Ok(Raw { stream: TcpStream::connect(("127.0.0.1", port)).await? })
    }

    /// A session that is ready for queries; needs no password.
    pub async fn session(port: u16, role: &str) -> Result<Raw> {
        let mut raw = Raw::connect(port).await?;
        raw.startup(&[("user", role), ("database", "app")]).await?;
        raw.until_ready().await?;
        Ok(raw)
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn over(stream: S) -> Raw<S> {
        Raw { stream }
    }

    pub async fn startup(&mut self, parameters: &[(&str, &str)]) -> Result<()> {
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend(strings(&[name, value]));
        }
        body.push(0);
        let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
        bytes.extend(body);
        self.send(&bytes).await
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        // A server that closes at once is not an error of the sender's: what it said last is still to be read.
        let _ = tokio::time::timeout(ANSWER_MAX, sending).await.context("the server does not read")?;
        Ok(())
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await?;
        Ok(())
    }

    /// What is no message: the answer to a request for encryption.
    pub async fn byte(&mut self) -> Result<u8> {
        Ok(tokio::time::timeout(ANSWER_MAX, self.stream.read_u8()).await.context("no answer")??)
    }

    /// None at the end of the stream.
    pub async fn message(&mut self) -> Result<Option<Message>> {
        tokio::time::timeout(ANSWER_MAX, self.read()).await.context("no answer")?
    }

    async fn read(&mut self) -> Result<Option<Message>> {
        let mut head = [0; 5];
        if self.stream.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        ensure!((4..MESSAGE_BYTES_MAX).contains(&length), "a message of {length} bytes");
        let mut body = vec![0; length - 4];
        if self.stream.read_exact(&mut body).await.is_err() {
            return Ok(None);
        }
        Ok(Some(Message { tag: head[0], body }))
    }

    /// Messages up to and including ReadyForQuery.
    pub async fn until_ready(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            let Some(message) = self.message().await? else { bail!("the server closed after {messages:?}") };
            let ready = message.tag == b'Z';
            messages.push(message);
            if ready {
                return Ok(messages);
            }
        }
    }

    /// Messages up to the end of the stream.
    pub async fn until_closed(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(message) = self.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Everything up to the end of the stream, as it is: an old protocol's error has no length.
    pub async fn bytes_until_closed(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        tokio::time::timeout(ANSWER_MAX, self.stream.read_to_end(&mut bytes))
            .await
            .context("the stream does not end")??;
        Ok(bytes)
    }

    /// Sends frames that end in a Sync or are a query; the SQLSTATE of the error that comes, if one does.
    pub async fn ask(&mut self, bytes: &[u8]) -> Result<Option<String>> {
        self.send(bytes).await?;
        let messages = self.until_ready().await?;
        Ok(messages.iter().find(|message| message.tag == b'E').map(Message::sqlstate))
    }

    /// The SQLSTATE with which the server refuses and closes; None if it closes silently.
    pub async fn refusal(&mut self) -> Result<Option<String>> {
        let messages = self.until_closed().await?;
        Ok(messages.iter().find(|message| message.tag == b'E').map(Message::sqlstate))
    }
}
