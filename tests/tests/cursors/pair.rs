//! One PostgreSQL and the gateway, sent the same bytes: their answers must be the same messages.

use anyhow::{bail, ensure, Result};
pub use ringway_tests::scenario::messages::{bind, close, describe, execute, parse, sync};
use ringway_tests::scenario::raw::{frame, query, Message, Raw};

/// How much of what was sent is told.
const LOG_MAX: usize = 12;

pub struct Pair {
    one: Raw,
    other: Raw,
    /// What has been sent last, for who has to find out what went wrong.
    log: Vec<String>,
    fields: &'static str,
}

/// What is read before the next step.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Up to such a message.
    Until(u8),
    /// Up to ReadyForQuery.
    Ready,
    /// Up to the end of the connection.
    Closed,
    /// Nothing.
    Sent,
}

/// Fields of errors and notices that are compared.
const FIELDS: &str = "SCMDH";
const ALL_FIELDS: &str = "SCMDHWstcdn";

impl Pair {
    pub async fn connect((one, other): (u16, u16)) -> Result<Pair> {
        let (one, other) = (Raw::session(one, "postgres").await?, Raw::session(other, "postgres").await?);
        Ok(Pair { one, other, log: Vec::new(), fields: FIELDS })
    }

    /// Steps are compared with all fields of errors and notices that do not tell a place in a server's code.
    pub fn with_all_fields(mut self) -> Pair {
        self.fields = ALL_FIELDS;
        self
    }

    /// With more startup parameters.
    pub async fn connect_with((one, other): (u16, u16), more: &[(&str, &str)]) -> Result<Pair> {
        let parameters = [&[("user", "postgres"), ("database", "app")], more].concat();
        let (mut one, mut other) = (Raw::connect(one).await?, Raw::connect(other).await?);
        for server in [&mut one, &mut other] {
            server.startup(&parameters).await?;
            server.until_ready().await?;
        }
        Ok(Pair { one, other, log: Vec::new(), fields: FIELDS })
    }

    /// A simple query.
    pub async fn same(&mut self, sql: &str) -> Result<Vec<Message>> {
        self.same_bytes(sql, &query(sql), shown).await
    }

    /// Messages that end with a Sync or a simple query.
    pub async fn same_messages(&mut self, what: &str, messages: &[Vec<u8>]) -> Result<Vec<Message>> {
        self.same_bytes(what, &messages.concat(), shown).await
    }

    /// As [`Self::same_messages`]: also the message that an error comes in place of is the same.
    pub async fn exact_messages(&mut self, what: &str, messages: &[Vec<u8>]) -> Result<Vec<Message>> {
        self.same_bytes(what, &messages.concat(), |messages| messages.iter().map(show).collect()).await
    }

    /// A message with Flush behind it, which has so many answers.
    pub async fn flushed(&mut self, what: &str, message: &[u8], answers: usize) -> Result<()> {
        let bytes = [message, &frame(b'H', &[])].concat();
        self.one.send(&bytes).await?;
        self.other.send(&bytes).await?;
        for _ in 0..answers {
            let (one, other) = (self.one.message().await?, self.other.message().await?);
            let shown = [&one, &other].map(|message| message.as_ref().map(show));
            ensure!(shown[0] == shown[1], "{what}: {:?} and {:?}", shown[0], shown[1]);
        }
        Ok(())
    }

    /// COPY FROM STDIN: `data` once both ask for it.
    pub async fn same_copy(&mut self, what: &str, start: &[u8], data: &[u8]) -> Result<()> {
        let mut answers = [Vec::new(), Vec::new()];
        for (server, answer) in [&mut self.one, &mut self.other].into_iter().zip(&mut answers) {
            server.send(start).await?;
            loop {
                let Some(message) = server.message().await? else { bail!("{what}: closed after {answer:?}") };
                let ready = message.tag == b'Z';
                answer.push(show(&message));
                if message.tag == b'G' {
                    server.send(data).await?;
                } else if ready {
                    break;
                }
            }
        }
        ensure!(
            answers[0] == answers[1],
            "COPY, {what}: PostgreSQL says\n  {}\nand the gateway\n  {}",
            answers[0].join("\n  "),
            answers[1].join("\n  ")
        );
        Ok(())
    }

    /// What is sent piece by piece, each once so much of the answer has come.
    pub async fn same_steps(&mut self, what: &str, steps: &[(Vec<u8>, Step)]) -> Result<()> {
        let (one, other) =
            (stepped(&mut self.one, steps, self.fields).await?, stepped(&mut self.other, steps, self.fields).await?);
        let (one, other) = (one.join("\n  "), other.join("\n  "));
        ensure!(one == other, "{what}: PostgreSQL says\n  {one}\nand the gateway\n  {other}");
        Ok(())
    }

    async fn same_bytes(
        &mut self,
        what: &str,
        bytes: &[u8],
        shown: impl Fn(&[Message]) -> Vec<String>,
    ) -> Result<Vec<Message>> {
        if self.log.len() == LOG_MAX {
            self.log.remove(0);
        }
        self.log.push(what.to_owned());
        self.one.send(bytes).await?;
        self.other.send(bytes).await?;
        let (one, other) = (self.one.until_ready().await?, self.other.until_ready().await?);
        let (expected, found) = (shown(&one), shown(&other));
        let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
        let told = |messages: &[String]| {
            let told: Vec<&str> = messages.iter().skip(same.saturating_sub(1)).take(8).map(String::as_str).collect();
            told.join("\n  ")
        };
        ensure!(
            expected == found,
            "after\n  {}\nanswers differ from message {same} on; PostgreSQL says\n  {}\nand the gateway\n  {}",
            self.log.join("\n  "),
            told(&expected),
            told(&found)
        );
        Ok(one)
    }

    /// What both say to a simple query, where that differs.
    pub async fn both(&mut self, sql: &str) -> Result<(Vec<Message>, Vec<Message>)> {
        self.one.send(&query(sql)).await?;
        self.other.send(&query(sql)).await?;
        Ok((self.one.until_ready().await?, self.other.until_ready().await?))
    }

    /// A simple query of the gateway alone: its SQLSTATE, empty without an error.
    pub async fn gateway_alone(&mut self, sql: &str) -> Result<String> {
        self.gateway_alone_bytes(&query(sql)).await
    }

    pub async fn gateway_alone_bytes(&mut self, bytes: &[u8]) -> Result<String> {
        self.other.send(bytes).await?;
        let messages = self.other.until_ready().await?;
        Ok(messages.iter().find(|message| message.tag == b'E').map(Message::sqlstate).unwrap_or_default())
    }
}

async fn stepped(server: &mut Raw, steps: &[(Vec<u8>, Step)], fields: &str) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    for (bytes, step) in steps {
        server.send(bytes).await?;
        if matches!(step, Step::Sent) {
            continue;
        }
        loop {
            let Some(message) = server.message().await? else {
                answers.push("the end".to_owned());
                break;
            };
            answers.push(show_with(&message, fields));
            let waits = match step {
                Step::Until(tag) => message.tag != *tag,
                Step::Ready => message.tag != b'Z',
                Step::Closed | Step::Sent => true,
            };
            if !waits {
                break;
            }
        }
    }
    Ok(answers)
}

/// Without what differs from server to server.
fn shown(messages: &[Message]) -> Vec<String> {
    let mut shown: Vec<String> = messages.iter().map(show).collect();
    // What is wrong with a statement or a value a shard may say when it is next asked about it: after ParseComplete, BindComplete.
    for index in (1..shown.len()).rev() {
        if shown[index].starts_with("E ") && matches!(shown[index - 1].as_str(), "1 " | "2 ") {
            shown.remove(index - 1);
        }
    }
    // Settings are told in any order.
    for run in shown.chunk_by_mut(|a, b| a.starts_with("S ") && b.starts_with("S ")) {
        run.sort();
    }
    shown
}

pub fn show(message: &Message) -> String {
    show_with(message, FIELDS)
}

fn show_with(message: &Message, fields: &str) -> String {
    let tag = message.tag as char;
    match tag {
        'E' | 'N' => {
            let fields: Vec<String> =
                fields.bytes().filter_map(|code| Some(format!("{}={}", code as char, message.field(code)?))).collect();
            format!("{tag} {}", fields.join(" "))
        }
        'T' => {
            let mut body = message.body.clone();
            let mut at = 2;
            while let Some(end) = body[at..].iter().position(|byte| *byte == 0) {
                // The table's OID, and the column's number.
                let from = at + end + 1;
                body[from..from + 6].fill(0);
                at = from + 18;
                if at >= body.len() {
                    break;
                }
            }
            format!("{tag} {}", body.escape_ascii())
        }
        _ => format!("{tag} {}", message.body.escape_ascii()),
    }
}
