//! Clients that close, half-close, reset or fall silent: after each message of a conversation, in the header of the next one and in
//! its body; while they wait; and without reading what comes.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_gateway::wire::scram::{ClientFirst, Credential};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{frame, query, strings, Raw};
use ringway_tests::scenario::{sql, until};
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{World, ROLE, SOON};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Close,
    HalfClose,
    Reset,
    Silence,
}

const STOPS: [Stop; 4] = [Stop::Close, Stop::HalfClose, Stop::Reset, Stop::Silence];

/// How much of the next message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nothing,
    HalfHeader,
    HalfBody,
}

const PARTS: [Part; 3] = [Part::Nothing, Part::HalfHeader, Part::HalfBody];

impl Part {
    fn of(self, message: &[u8]) -> &[u8] {
        match self {
            Part::Nothing => &[],
            Part::HalfHeader => &message[..3.min(message.len() - 1)],
            Part::HalfBody => &message[..((5 + message.len()) / 2).min(message.len() - 1)],
        }
    }
}

/// A message, and the tag of the one that is awaited then; 0: none.
type Step = (Vec<u8>, u8);

/// Plays the first steps and a part of the next one.
async fn play(mut raw: Raw, steps: &[Step], count: usize, part: Part) -> Result<TcpStream> {
    for (bytes, awaited) in &steps[..count] {
        raw.send(bytes).await?;
        let mut last = None;
        while *awaited != 0 && last != Some(*awaited) {
            let message = raw.message().await?.context("the gateway closed")?;
            ensure!(message.tag != b'E', "{message:?}");
            last = Some(message.tag);
        }
    }
    if let Some((next, _)) = steps.get(count) {
        raw.send(part.of(next)).await?;
    }
    Ok(raw.into_stream())
}

/// Gives the stream back if it stays open.
async fn stop(mut stream: TcpStream, stop: Stop) -> Result<Option<TcpStream>> {
    match stop {
        Stop::Close => drop(stream),
        Stop::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Stop::HalfClose => {
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
            return Ok(Some(stream));
        }
        Stop::Silence => return Ok(Some(stream)),
    }
    Ok(None)
}

/// Reads until the gateway closes.
async fn closed(mut stream: TcpStream) -> Result<()> {
    let mut told = Vec::new();
    let reading = tokio::time::timeout(SOON, stream.read_to_end(&mut told)).await;
    reading.context("the gateway does not close")?.map(drop).or_else(|error| match error.kind() {
        std::io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error.into()),
    })
}

/// Startup packets, requests for encryption, SASL messages: who does not go on is cut off.
pub async fn logins(world: &World) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, "app pencil\n")?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let configuration = directory.path().join("gateway.toml");
    std::fs::write(&configuration, super::CONFIGURATION)?;
    let options =
        ["--users", &*users.to_string_lossy(), "--config", &*configuration.to_string_lossy()].map(str::to_owned);
    let gateway = Gateway::start_at(&world.bare.grpc(), &options.each_ref().map(String::as_str)).await?;
    let mut silent = JoinSet::new();
    for stop_kind in STOPS {
        for part in PARTS {
            for count in 0..=4 {
                let what = format!("{stop_kind:?} after {count} messages and {part:?}");
                let stream = log_in(gateway.port, count, part).await.with_context(|| what.clone())?;
                if let Some(stream) = stop(stream, stop_kind).await? {
                    silent.spawn(async move { closed(stream).await.context(what) });
                }
            }
        }
    }
    while let Some(outcome) = silent.join_next().await {
        outcome??;
    }
    gateway.serves("app:pencil").await
}

async fn log_in(port: u16, count: usize, part: Part) -> Result<TcpStream> {
    let mut raw = Raw::connect(port).await?;
    let request = [8u32.to_be_bytes(), 80_877_103u32.to_be_bytes()].concat();
    if count == 0 {
        raw.send(part.of(&request)).await?;
        return Ok(raw.into_stream());
    }
    raw.send(&request).await?;
    ensure!(raw.byte().await? == b'N');
    let mut startup = 196_608u32.to_be_bytes().to_vec();
    startup.extend([strings(&["user", ROLE, "database", "app"]), vec![0]].concat());
    let startup = [&(startup.len() as u32 + 4).to_be_bytes()[..], &startup].concat();
    if count == 1 {
        raw.send(part.of(&startup)).await?;
        return Ok(raw.into_stream());
    }
    raw.send(&startup).await?;
    let offered = raw.message().await?.context("no offer")?;
    ensure!(offered.tag == b'R' && offered.body.starts_with(&10u32.to_be_bytes()), "{offered:?}");
    let (client, first) = ClientFirst::new(Credential::Password("pencil".to_owned()));
    let response = [&strings(&["SCRAM-SHA-256"])[..], &(first.len() as u32).to_be_bytes(), first.as_bytes()].concat();
    let response = frame(b'p', &response);
    if count == 2 {
        raw.send(part.of(&response)).await?;
        return Ok(raw.into_stream());
    }
    raw.send(&response).await?;
    let challenge = raw.message().await?.context("no challenge")?;
    let (_, last) = client.respond(&challenge.body[4..])?;
    let last = frame(b'p', last.as_bytes());
    if count == 3 {
        raw.send(part.of(&last)).await?;
        return Ok(raw.into_stream());
    }
    // Logged in perhaps, and never read: a session that is idle stays, so it leaves a message unfinished.
    raw.send(&last).await?;
    raw.send(&query("SELECT 1")[..4]).await?;
    Ok(raw.into_stream())
}

/// Statements in every protocol, transactions, COPY, over a key of either shard.
fn scripts(one: i64, two: i64) -> [Vec<Step>; 4] {
    let update = |key: i64| query(&format!("UPDATE accounts SET balance = -1 WHERE id = {key}"));
    let parse = {
        let text = strings(&["s", "UPDATE accounts SET balance = -1 WHERE id = $1"]);
        frame(b'P', &[&text[..], &[0, 0]].concat())
    };
    let bind = {
        let key = one.to_string();
        let head = [&strings(&["", "s"])[..], &[0, 0, 0, 1]].concat();
        frame(b'B', &[&head[..], &(key.len() as u32).to_be_bytes(), key.as_bytes(), &[0, 0]].concat())
    };
    [
        vec![
            (query("BEGIN"), b'Z'),
            (update(one), b'Z'),
            (update(two), b'Z'),
            (query("SELECT count(*) FROM accounts"), b'Z'),
        ],
        vec![
            (query("BEGIN"), b'Z'),
            (parse, 0),
            (frame(b'D', &strings(&["Ss"])), 0),
            (frame(b'H', &[]), b'n'),
            (bind, 0),
            (frame(b'E', &[&strings(&[""])[..], &[0; 4]].concat()), 0),
            (frame(b'H', &[]), b'C'),
            (frame(b'S', &[]), b'Z'),
            (frame(b'C', &strings(&["Ss"])), 0),
        ],
        vec![
            (query("COPY accounts FROM STDIN"), b'G'),
            (frame(b'd', b"1001\t-1\n1002\t-1\n"), 0),
            (frame(b'd', b"1003\t-1\n10"), 0),
            (frame(b'd', b"04\t-1\n"), 0),
        ],
        vec![
            (query("BEGIN"), b'Z'),
            (query("COPY (SELECT id, repeat('x', 1000) FROM accounts, generate_series(1, 100)) TO STDOUT"), b'H'),
            (query("SELECT 1"), 0),
        ],
    ]
}

/// What was begun is undone.
pub async fn conversations(world: &World) -> Result<()> {
    let mut cases: usize = 0;
    let mut silent = JoinSet::new();
    for script in 0..4 {
        let length = scripts(0, 0)[script].len();
        for count in 0..=length {
            for part in PARTS {
                if count == length && part != Part::Nothing {
                    continue;
                }
                for stop_kind in STOPS {
                    // Rows of its own: those that fall silent keep theirs locked for a while.
                    let [one, two] = world.keys.each_ref().map(|keys| keys[cases % keys.len()]);
                    let steps = &scripts(one, two)[script];
                    cases += 1;
                    let what = format!("script {script}: {stop_kind:?} after {count} messages and {part:?}");
                    let raw = Raw::session(world.gateway.port, ROLE).await?;
                    let stream = play(raw, steps, count, part).await.with_context(|| what.clone())?;
                    let stays = stop_kind == Stop::Silence && part == Part::Nothing;
                    match stop(stream, stop_kind).await? {
                        // Between messages a client may think for as long as it likes.
                        Some(stream) if stays => drop(stream),
                        Some(stream) => {
                            silent.spawn(async move { closed(stream).await.context(what) });
                        }
                        None => {}
                    }
                    if silent.len() >= 40 {
                        while let Some(outcome) = silent.join_next().await {
                            outcome??;
                        }
                    }
                }
            }
        }
        while let Some(outcome) = silent.join_next().await {
            outcome??;
        }
        world.released("after a conversation's cases").await?;
    }
    println!("{cases} cases");
    let admin = sql::connect(&world.gateway.dsn("postgres")).await?;
    let count = sql::value(&admin, "SELECT count(*) FROM accounts WHERE balance = -1").await?;
    ensure!(count == "0", "{count} rows of transactions that nobody committed");
    world.serves("after all").await
}

/// For a lock, and for a shard's answer.
pub async fn waiting(world: &World) -> Result<()> {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'";
    let one = world.keys[0][0];
    let blocker = sql::connect(&world.gateway.dsn("postgres")).await?;
    blocker.batch_execute(&format!("BEGIN; UPDATE accounts SET balance = 1 WHERE id = {one}")).await?;
    for stop_kind in STOPS {
        let mut raw = Raw::session(world.gateway.port, ROLE).await?;
        raw.send(&query(&format!("UPDATE accounts SET balance = 2 WHERE id = {one}"))).await?;
        until("a statement that waits", SOON, || async { Ok(sql::value(&world.direct[0], WAITING).await? == "1") })
            .await?;
        // Silence is what a client that waits keeps: it ends with query_timeout_ms, and with an error.
        if let Some(stream) = stop(raw.into_stream(), stop_kind).await? {
            let mut raw = Raw::over(stream);
            let code = raw.refusal().await?;
            ensure!(stop_kind == Stop::HalfClose || code.as_deref() == Some("57014"), "{stop_kind:?}: {code:?}");
        }
        world.released("after one that waited for a lock").await?;
    }
    blocker.batch_execute("ROLLBACK").await?;
    world.serves("after all").await
}

/// For one of too few connections.
pub async fn places(world: &World) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let configuration = directory.path().join("gateway.toml");
    std::fs::write(&configuration, format!("{}pool_size_max = 1\npool_reserve_max = 0\n", super::CONFIGURATION))?;
    let gateway = Gateway::start_at(&world.bare.grpc(), &["--config", &configuration.to_string_lossy()]).await?;
    gateway.serves("postgres").await?;
    let console = sql::connect(&gateway.console("postgres")).await?;
    let read = format!("SELECT balance FROM accounts WHERE id = {}", world.keys[0][0]);
    // What servers say at a session's start is remembered: later logins need no connection.
    drop(Raw::session(gateway.port, ROLE).await?);
    let holder = sql::connect(&gateway.dsn(ROLE)).await?;
    holder.batch_execute(&format!("BEGIN; {read}")).await?;
    for stop_kind in STOPS {
        let mut raw = Raw::session(gateway.port, ROLE).await?;
        raw.send(&query(&read)).await?;
        until("one that waits", SOON, || async { Ok(super::counts(&console).await? == (1, 1)) }).await?;
        let stream = stop(raw.into_stream(), stop_kind).await?;
        until("an empty queue", SOON, || async { Ok(super::counts(&console).await? == (1, 0)) })
            .await
            .with_context(|| format!("{stop_kind:?}"))?;
        if let Some(stream) = stream {
            closed(stream).await?;
        }
    }
    holder.batch_execute("COMMIT").await?;
    let last = sql::connect(&gateway.dsn(ROLE)).await?;
    ensure!(sql::value(&last, &read).await? == sql::value(&last, &read).await?);
    until("no connection that is lent", SOON, || async { Ok(super::counts(&console).await? == (0, 0)) }).await
}

/// What is streamed to a client that does not read stays on the shard, and does not stay for ever.
pub async fn slow_readers(world: &World) -> Result<()> {
    const CLIENTS: usize = 4;
    const BYTES_MAX: u64 = 24 << 20;
    let process = world.gateway.process()?;
    let before = resident_bytes(process.pid)?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::session(world.gateway.port, ROLE).await?;
        let rows = "SELECT a.id, repeat('x', 1000) FROM accounts a, generate_series(1, 20000)";
        raw.send(&query(rows)).await?;
        clients.push(raw.into_stream());
    }
    let most = AtomicU64::new(before);
    until("the end of what nobody reads (query_timeout_ms)", SOON, || async {
        most.fetch_max(resident_bytes(process.pid)?, Ordering::Relaxed);
        Ok(world.counts().await? == (0, 0) && super::clients_of(&world.console).await?.iter().all(|user| user != ROLE))
    })
    .await?;
    let most = most.into_inner();
    println!("the gateway grew by {} kB for {CLIENTS} clients", (most - before) >> 10);
    ensure!(most - before < BYTES_MAX, "the gateway grew from {before} to {most} bytes");
    drop(clients);
    world.released("after clients that did not read").await?;
    world.serves("after all").await
}

/// What bounds silence does not end COPY whose data come, however long that takes; in silence it ends.
pub async fn long_copies(world: &World) -> Result<()> {
    // Of a `query_timeout_ms` of a second.
    const PAUSE: Duration = Duration::from_millis(400);
    const ROWS: i64 = 6;
    let one = world.keys[0][0];
    let admin = sql::connect(&world.gateway.dsn("postgres")).await?;
    admin.batch_execute("CREATE TABLE IF NOT EXISTS notes (id bigint PRIMARY KEY, n text)").await?;
    admin.batch_execute("SELECT create_distributed_table('notes', 'id'); GRANT ALL ON notes TO app").await?;
    let into = ["COPY notes FROM STDIN".to_owned(), "COPY single_notes FROM STDIN".to_owned()];
    admin.batch_execute("CREATE TABLE single_notes (id bigint, n text); GRANT ALL ON single_notes TO app").await?;
    for copy in into {
        let mut raw = Raw::session(world.gateway.port, ROLE).await?;
        raw.send(&query(&copy)).await?;
        let asked = raw.message().await?.context("the session has ended")?;
        ensure!(asked.tag == b'G', "{copy}: {asked:?}");
        for id in 0..ROWS {
            tokio::time::sleep(PAUSE).await;
            raw.send(&frame(b'd', format!("{id}\tx\n").as_bytes())).await?;
        }
        raw.send(&frame(b'c', &[])).await?;
        let answers = raw.until_ready().await.with_context(|| copy.clone())?;
        ensure!(answers[0].body.starts_with(format!("COPY {ROWS}").as_bytes()), "{copy}: {answers:?}");
        // Silence is something else.
        raw.send(&query(&copy)).await?;
        raw.send(&frame(b'd', b"100\tx\n")).await?;
        ensure!(raw.message().await?.is_some_and(|asked| asked.tag == b'G'));
        ensure!(raw.refusal().await?.as_deref() == Some("57014"), "{copy}");
    }
    let slow = "SELECT a.id, repeat('x', 9000), pg_sleep(0.4) FROM accounts a, generate_series(1, 6)";
    for rows in [format!("{slow} WHERE a.id = {one}"), format!("{slow} WHERE a.id IN ({one}, {})", world.keys[1][0])] {
        let mut raw = Raw::session(world.gateway.port, ROLE).await?;
        raw.send(&query(&format!("COPY ({rows}) TO STDOUT"))).await?;
        let answers = raw.until_ready().await.with_context(|| rows.clone())?;
        ensure!(answers.iter().any(|message| message.body.starts_with(b"COPY ")), "{rows}: {answers:?}");
    }
    world.released("after long COPYs").await
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
