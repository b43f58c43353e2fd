//! How sessions begin, frame by frame: requests for encryption, versions, parameters, names. And what they can do that no driver does.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::raw::{frame, strings, Message, Raw};

use super::pair::show;
use super::Pair;

const SSL: u32 = 1234 << 16 | 5679;
const GSSENC: u32 = 1234 << 16 | 5680;

fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = (rest.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn session(code: u32, parameters: &[&str]) -> Vec<u8> {
    packet(code, &[strings(parameters), vec![0]].concat())
}

/// All that a server says to these packets, each sent when the one before has been answered; then to `SELECT 1`.
async fn answers(port: u16, requests: &[u32], startup: &[u8]) -> Result<Vec<String>> {
    let mut raw = Raw::connect(port).await?;
    let mut seen = Vec::new();
    for request in requests {
        raw.send(&packet(*request, &[])).await?;
        match raw.byte().await? {
            b'N' => seen.push("N".to_owned()),
            b'E' => {
                // The rest of an ErrorResponse, whose text names versions.
                seen.push("E".to_owned());
                return Ok(seen);
            }
            other => seen.push(format!("{other}")),
        }
    }
    raw.send(startup).await?;
    let mut last = None;
    while let Some(message) = raw.message().await? {
        let tag = message.tag;
        match tag {
            // Settings have values of their own, versions above all; keys too.
            b'S' => {}
            b'K' => seen.push(format!("K, {} bytes", message.body.len())),
            _ => seen.push(show(&message)),
        }
        last = Some(tag);
        if tag == b'Z' {
            break;
        }
    }
    if last != Some(b'Z') {
        seen.push("closed".to_owned());
    }
    Ok(seen)
}

pub async fn begins((one, other): (u16, u16)) -> Result<()> {
    const V3: u32 = 3 << 16;
    let user = ["user", "postgres", "database", "app"];
    let with = |more: &[&'static str]| session(V3, &[&user[..], more].concat());
    let long = "p".repeat(70);
    let cases: Vec<(&str, Vec<u32>, Vec<u8>)> = vec![
        ("plain", vec![], with(&[])),
        ("SSLRequest first", vec![SSL], with(&[])),
        ("SSLRequest twice", vec![SSL, SSL], with(&[])),
        ("an option of the protocol", vec![], with(&["_pq_.report_parameters", "x"])),
        ("two options of the protocol", vec![], with(&["_pq_.b", "1", "_pq_.a", ""])),
        ("an unknown parameter", vec![], with(&["nonsense", "1"])),
        ("an unknown parameter of an extension", vec![], with(&["my.nonsense", "1"])),
        ("a wrong value", vec![], with(&["work_mem", "much"])),
        ("a wrong value in options", vec![], with(&["options", "-c statement_timeout=soon"])),
        ("no replication", vec![], with(&["replication", "false"])),
        ("wrong replication", vec![], with(&["replication", "maybe"])),
        ("no user", vec![], session(V3, &["database", "app"])),
        ("a long database name", vec![], session(V3, &["user", "postgres", "database", &long])),
    ];
    for (what, requests, startup) in cases {
        let expected = answers(one, &requests, &startup).await.with_context(|| format!("PostgreSQL, {what}"))?;
        let found = answers(other, &requests, &startup).await.with_context(|| format!("the gateway, {what}"))?;
        ensure!(
            without_hints(&expected) == without_hints(&found),
            "{what}: PostgreSQL says\n  {expected:?}\nand the gateway\n  {found:?}"
        );
    }
    // Servers that are built for it say yes to GSSAPI.
    let plain = answers(other, &[], &with(&[])).await?;
    for (requests, answered) in
        [(&[GSSENC][..], "N"), (&[GSSENC, SSL], "NN"), (&[SSL, GSSENC], "NN"), (&[GSSENC, GSSENC], "NE")]
    {
        let found = answers(other, requests, &with(&[])).await?;
        let (first, rest) = found.split_at(answered.len());
        ensure!(first.concat() == answered && (answered == "NE" || rest == plain), "{requests:?}: {found:?}");
    }
    // Newer than both; each says what it speaks.
    let newer = session(V3 | 9_999, &[&user[..], &["_pq_.a", "1"]].concat());
    let (expected, found) = (answers(one, &[], &newer).await?, answers(other, &[], &newer).await?);
    ensure!(expected.len() == found.len(), "{expected:?} and {found:?}");
    for (theirs, ours) in expected.iter().zip(&found) {
        ensure!(theirs.get(..2) == ours.get(..2), "{expected:?} and {found:?}");
    }
    for value in ["true", "1", "on", "database"] {
        let found = answers(other, &[], &with(&["replication", value])).await?;
        ensure!(found.iter().any(|line| line.contains("C=0A000")), "replication = {value}: {found:?}");
    }
    Ok(())
}

/// Hints of the gateway's own name what it serves.
fn without_hints(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.split(" H=").next().unwrap_or_default().to_owned()).collect()
}

/// A role with a name of 63 bytes logs in by a longer one.
pub async fn long_names(ports: (u16, u16)) -> Result<()> {
    let (long, short) = ("r".repeat(70), "r".repeat(63));
    let mut pair = Pair::connect(ports).await?;
    pair.same(&format!("CREATE ROLE {short} LOGIN")).await?;
    for port in [ports.0, ports.1] {
        let mut raw = Raw::connect(port).await?;
        raw.startup(&[("user", &long), ("database", "app")]).await?;
        let messages: Vec<Message> = raw.until_ready().await?;
        ensure!(messages.iter().any(|message| message.tag == b'Z'), "{messages:?}");
    }
    pair.same(&format!("DROP ROLE {short}")).await.map(|_| ())
}

/// SHOW ALL; binary COPY in both directions; a function call, which the gateway does not do.
pub async fn rarely_said(ports: (u16, u16)) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let all = pair.both("SHOW ALL").await?;
    let names = |messages: &[Message]| -> Vec<String> {
        let rows = messages.iter().filter(|message| message.tag == b'D');
        // Extensions have settings once they are used.
        rows.map(|row| row.body.iter().skip(6).take_while(|byte| byte.is_ascii_graphic()).map(|byte| *byte as char))
            .map(String::from_iter)
            .filter(|name: &String| !name.contains('.'))
            .collect()
    };
    ensure!(show(&all.0[0]) == show(&all.1[0]), "{} and {}", show(&all.0[0]), show(&all.1[0]));
    let (expected, found) = (names(&all.0), names(&all.1));
    ensure!(expected == found, "{expected:?} and {found:?}");
    for sql in ["CREATE TABLE blobs (id bigint PRIMARY KEY, b bytea, n int)"] {
        pair.same(sql).await?;
    }
    pair.gateway_alone("SELECT create_distributed_table('blobs', 'id')").await?;
    let header = [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat();
    let row = |id: i64, b: Option<&[u8]>| {
        let mut row = [&3u16.to_be_bytes()[..], &8u32.to_be_bytes(), &id.to_be_bytes()].concat();
        match b {
            Some(b) => row.extend([&(b.len() as u32).to_be_bytes()[..], b].concat()),
            None => row.extend((-1i32).to_be_bytes()),
        }
        row.extend([&4u32.to_be_bytes()[..], &7i32.to_be_bytes()].concat());
        row
    };
    let trailer = (-1i16).to_be_bytes().to_vec();
    let rows: Vec<Vec<u8>> = (1..=6).map(|id| row(id, (id % 2 == 0).then_some(&b"\0\xff"[..]))).collect();
    let data = |bytes: &[u8]| frame(b'd', bytes);
    let (done, whole) = (frame(b'c', &[]), [header.clone(), rows.concat(), trailer.clone()].concat());
    let start = ringway_tests::scenario::raw::query("COPY blobs FROM STDIN (FORMAT binary)");
    for (what, pieces) in [
        ("in one piece", vec![data(&whole), done.clone()]),
        ("byte by byte", whole.iter().map(|byte| data(&[*byte])).chain([done.clone()]).collect()),
        ("no trailer", vec![data(&header), data(&rows.concat()), done.clone()]),
        ("only a header", vec![data(&header), data(&trailer), done.clone()]),
        ("no header", vec![data(&rows.concat()), done.clone()]),
        ("nothing", vec![done.clone()]),
        ("half a row", vec![data(&header), data(&rows[0][..9]), done.clone()]),
        ("something behind the trailer", vec![data(&whole), data(b"x"), done.clone()]),
        ("failed", vec![data(&header), frame(b'f', b"no\0")]),
    ] {
        pair.same_copy(what, &start, &pieces.concat()).await?;
        pair.same("SELECT id, b, n FROM blobs ORDER BY id").await?;
        for sql in [
            "COPY (SELECT * FROM blobs WHERE id = 2) TO STDOUT (FORMAT binary)",
            "COPY (SELECT id, b FROM blobs WHERE id IN (3, 9000)) TO STDOUT (FORMAT binary)",
            "COPY (SELECT * FROM blobs WHERE id = -5) TO STDOUT WITH BINARY",
        ] {
            pair.same(sql).await?;
        }
        pair.same("DELETE FROM blobs").await?;
    }
    let call = frame(b'F', &[&1317u32.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0]].concat());
    ensure!(pair.gateway_alone_bytes(&call).await? == "0A000");
    pair.same("SELECT 1").await?;
    pair.same("DROP TABLE blobs").await?;
    for sql in [
        "LISTEN U&\"d\\0061ta\"",
        "SELECT pg_listening_channels()",
        "LISTEN U&\"d!0062\" UESCAPE '!'",
        "UNLISTEN U&\"d\\0061ta\"",
        "SELECT pg_listening_channels()",
        "LISTEN U&\"\\00\"",
        "LISTEN U&\"\\d83d\"",
        "UNLISTEN *",
    ] {
        pair.same(sql).await?;
    }
    Ok(())
}
