//! tokio-postgres, in this process: statements prepared by the driver, binary values, pipelines, portals, COPY.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use futures_util::future::{join_all, poll_fn};
use futures_util::{pin_mut, SinkExt as _, TryStreamExt as _};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::{to_sql_checked, FromSql, IsNull, Json, Kind, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage, Socket};

use crate::transcript::Transcript;

const HEARD_MAX: Duration = Duration::from_secs(20);
const CANCEL_PAUSE: Duration = Duration::from_millis(50);
const SCHEMA: &str = include_str!("../../drivers/schema.sql");
const OWN_TYPES: &str = include_str!("../../drivers/own_types.sql");
const DROP_OWN_TYPES: &str = include_str!("../../drivers/drop_own_types.sql");
const DROP: &str = include_str!("../../drivers/drop.sql");

fn failure<T>(outcome: Result<T, Error>) -> String {
    let Err(error) = outcome else { return "no error".to_owned() };
    match error.as_db_error() {
        Some(db) => format!(
            "ERROR {} {} ({:?}, {:?}, {:?})",
            db.code().code(),
            db.message(),
            db.detail(),
            db.constraint(),
            db.position()
        ),
        None => format!("the driver's own error: {error}"),
    }
}

/// Every value by its column's type.
fn line(row: &Row) -> Result<String> {
    let mut values = Vec::new();
    for (index, column) in row.columns().iter().enumerate() {
        macro_rules! value {
            ($kind:ty) => {
                format!("{:?}", row.try_get::<_, Option<$kind>>(index)?)
            };
        }
        values.push(match *column.type_() {
            Type::INT8 => value!(i64),
            Type::INT4 => value!(i32),
            Type::INT2 => value!(i16),
            Type::FLOAT8 => value!(f64),
            Type::BOOL => value!(bool),
            Type::BYTEA => value!(Vec<u8>),
            Type::JSONB => value!(Json<serde_json::Value>),
            Type::TEXT_ARRAY => value!(Vec<Option<String>>),
            Type::INT4_ARRAY => value!(Vec<i32>),
            Type::TIMESTAMPTZ => value!(std::time::SystemTime),
            _ => value!(String),
        });
    }
    Ok(values.join(" | "))
}

async fn query(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>> {
    let statement = client.prepare(sql).await.with_context(|| sql.to_owned())?;
    let columns: Vec<String> =
        statement.columns().iter().map(|column| format!("{} {}", column.name(), column.type_())).collect();
    let mut lines = vec![format!("{:?} -> {}", statement.params(), columns.join(", "))];
    for row in client.query(&statement, parameters).await.with_context(|| sql.to_owned())? {
        lines.push(line(&row)?);
    }
    Ok(lines)
}

async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The whole scenario; its transcript.
pub async fn run(dsn: &str) -> Result<String> {
    let mut t = Transcript::default();
    let mut client = connect(dsn).await?;
    t.step("create", statements(&client, SCHEMA)).await;
    t.step("write", write(&client)).await;
    t.step("all types", types(&client)).await;
    t.step("types of the application's own", own_types(&client)).await;
    t.step("prepared statements", prepared(&client)).await;
    t.step("pipelines", pipelines(&client)).await;
    t.step("portals", portals(&mut client)).await;
    t.step("transactions", transactions(&mut client)).await;
    t.step("errors and recovery", errors(&client)).await;
    t.step("COPY", copy(&client)).await;
    t.step("simple queries", simple(&client)).await;
    t.step("LISTEN, NOTIFY and notices", listen(dsn)).await;
    t.step("statement_timeout and cancel", cancel(dsn)).await;
    let counted = async {
        let row = client.query_one("SELECT count(DISTINCT whole) FROM events", &[]).await?;
        Ok(vec![row.try_get::<_, i64>(0)?.to_string()])
    };
    t.step("distinct values of all shards counted", counted).await;
    t.step("drop", statements(&client, DROP)).await;
    Ok(t.end())
}

async fn statements(client: &Client, text: &str) -> Result<Vec<String>> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).collect();
    let text = text.join("\n");
    let mut lines = Vec::new();
    for statement in text.split(";\n").map(|statement| statement.trim().trim_end_matches(';')) {
        if !statement.is_empty() {
            lines.push(format!("{}", client.execute(statement, &[]).await.with_context(|| statement.to_owned())?));
        }
    }
    Ok(lines)
}

/// A binary value as it is, whatever its type.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Bytes, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Bytes(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Bytes {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The OIDs that the driver has found in the catalogs become names; whatever else is in the value stays.
fn named(value: &Bytes, kind: &Type, out: &mut String) {
    let mut oids = vec![(kind.oid(), kind.name().to_owned())];
    let mut types = vec![kind.clone()];
    while let Some(kind) = types.pop() {
        oids.push((kind.oid(), kind.name().to_owned()));
        match kind.kind() {
            Kind::Array(part) | Kind::Domain(part) => types.push(part.clone()),
            Kind::Composite(fields) => types.extend(fields.iter().map(|field| field.type_().clone())),
            _ => {}
        }
    }
    let mut rest = value.0.as_slice();
    while let Some(byte) = rest.first() {
        let name = oids.iter().find(|(oid, _)| *oid > 255 && rest.starts_with(&oid.to_be_bytes()));
        match name {
            Some((_, name)) => {
                let _ = write!(out, "<{name}>");
                rest = &rest[4..];
            }
            None => {
                let _ = write!(out, "{byte:02x}");
                rest = &rest[1..];
            }
        }
    }
}

async fn own_types(client: &Client) -> Result<Vec<String>> {
    statements(client, OWN_TYPES).await?;
    let row = "'ok', '{sad,NULL}', '(1,happy,{ok})', ARRAY[(2,NULL,'{}')::pair, NULL], '{happy}'";
    for id in 1..=20 {
        client.batch_execute(&format!("INSERT INTO owned VALUES ({id}, {row})")).await?;
    }
    let select = client.prepare("SELECT feeling, feelings, p, ps, d FROM owned WHERE id = $1").await?;
    let update = client.prepare("UPDATE owned SET feelings = $2, p = $3, ps = $4, d = $5 WHERE id = $1").await?;
    let mut lines =
        vec![format!("{:?} {:?}", kinds(select.columns().iter().map(|c| c.type_())), kinds(update.params()))];
    for id in 1..=20_i64 {
        let found = client.query_one(&select, &[&id]).await?;
        let mut line = String::new();
        let values: Vec<Bytes> = (0..5).map(|index| found.try_get(index)).collect::<Result<_, _>>()?;
        for (value, column) in values.iter().zip(found.columns()) {
            named(value, column.type_(), &mut line);
            line.push(' ');
        }
        // What one row gave another one takes.
        let next = id % 20 + 1;
        let taken = client.execute(&update, &[&next, &values[1], &values[2], &values[3], &values[4]]).await?;
        lines.push(format!("{taken} {line}"));
    }
    let all = client.query("SELECT ps, id FROM owned ORDER BY id", &[]).await?;
    for row in &all {
        let mut line = String::new();
        named(&row.try_get(0)?, row.columns()[0].type_(), &mut line);
        lines.push(line);
    }
    statements(client, DROP_OWN_TYPES).await?;
    Ok(lines)
}

fn kinds<'t>(types: impl IntoIterator<Item = &'t Type>) -> Vec<String> {
    types.into_iter().map(|kind| kind.to_string()).collect()
}

async fn write(client: &Client) -> Result<Vec<String>> {
    let kinds =
        client.execute("INSERT INTO kinds VALUES ($1, $2), ($3, $4)", &[&"click", &"Click", &"view", &"View"]).await?;
    let tenant = client.prepare("INSERT INTO tenants VALUES ($1, $2, $3)").await?;
    let mut tenants = 0;
    for id in 1..=40_i64 {
        let settings = Json(serde_json::json!({ "n": id }));
        tenants += client.execute(&tenant, &[&id, &format!("tenant {id}"), &settings]).await?;
    }
    let event = client.prepare("INSERT INTO events (tenant_id, id, whole) VALUES ($1, 100, $2)").await?;
    for id in 1..=20_i32 {
        client.execute(&event, &[&i64::from(id), &(id * id)]).await?;
    }
    let everywhere = client.execute("UPDATE events SET flag = true WHERE whole > $1", &[&99]).await?;
    Ok(vec![format!("{kinds} {tenants} {everywhere}")])
}

async fn types(client: &Client) -> Result<Vec<String>> {
    let tags: Vec<Option<&str>> = vec![Some("a"), Some("b c"), Some("quote\"d"), Some("\\"), None];
    let payload = Json(serde_json::json!({"a": [1, 2.5, null], "ü": "€"}));
    let at = std::time::UNIX_EPOCH + Duration::from_micros(1_709_210_096_789_012);
    let parameters: [&(dyn ToSql + Sync); 12] = [
        &7_i64,
        &1_i64,
        &"click",
        &i16::MIN,
        &65_536,
        &0.1_f64,
        &true,
        &[0_u8, 255, 92, 39].as_slice(),
        &tags,
        &vec![1, 2, 3],
        &payload,
        &at,
    ];
    let sql = "INSERT INTO events (tenant_id, id, kind, small, whole, ratio, flag, raw, tags, grid, payload, at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let mut lines = vec![format!("{}", client.execute(sql, &parameters).await?)];
    client.execute("INSERT INTO events (tenant_id, id) VALUES (8, 1)", &[]).await?;
    let columns = "tenant_id, id, kind, small, whole, ratio, flag, raw, tags, grid, payload, at";
    lines.extend(
        query(client, &format!("SELECT {columns} FROM events WHERE tenant_id = $1 ORDER BY id"), &[&7_i64]).await?,
    );
    lines.extend(query(client, &format!("SELECT {columns} FROM events WHERE id = 1 ORDER BY tenant_id"), &[]).await?);
    Ok(lines)
}

async fn prepared(client: &Client) -> Result<Vec<String>> {
    let by_key = client.prepare("SELECT id, name FROM tenants WHERE id = $1").await?;
    let over_all = client.prepare("SELECT count(*), max(whole), min(ratio) FROM events WHERE whole > $1").await?;
    let mut lines = Vec::new();
    for id in [1_i64, 7, 13, 25, 40, 99] {
        for row in client.query(&by_key, &[&id]).await? {
            lines.push(line(&row)?);
        }
        lines.push(line(&client.query_one(&over_all, &[&(id as i32 * 4)]).await?)?);
    }
    let typed = client.prepare_typed("SELECT id FROM tenants WHERE id = $1", &[Type::INT4]).await?;
    lines.push(format!("{:?} {}", typed.params(), line(&client.query_one(&typed, &[&7_i32]).await?)?));
    lines.extend(
        query(client, "SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id", &[&vec![3_i64, 1, 2, 99]]).await?,
    );
    lines.extend(
        query(client, "SELECT id, name FROM tenants ORDER BY id DESC LIMIT $1 OFFSET $2", &[&5_i64, &3_i64]).await?,
    );
    let joined = "SELECT t.id % 3 AS class, count(*) AS n FROM tenants t JOIN events e ON e.tenant_id = t.id WHERE e.whole > $1 \
                  GROUP BY 1 ORDER BY 1";
    lines.extend(query(client, joined, &[&10]).await?);
    Ok(lines)
}

async fn pipelines(client: &Client) -> Result<Vec<String>> {
    let by_key = client.prepare("SELECT name FROM tenants WHERE id = $1").await?;
    let over_all = client.prepare("SELECT count(*) FROM tenants").await?;
    let ids: Vec<i64> = (1..=12).collect();
    // All are sent before the first answer is read.
    let parameters: Vec<[&(dyn ToSql + Sync); 1]> = ids.iter().map(|id| [id as &(dyn ToSql + Sync)]).collect();
    let keyed = join_all(parameters.iter().map(|parameter| client.query_one(&by_key, parameter)));
    let (keyed, failed, counted) = tokio::join!(
        keyed,
        client.execute("INSERT INTO tenants VALUES (7, 'again', NULL)", &[]),
        client.query_one(&over_all, &[])
    );
    let mut lines = Vec::new();
    for row in keyed {
        lines.push(line(&row?)?);
    }
    lines.push(failure(failed));
    lines.push(line(&counted?)?);
    Ok(lines)
}

async fn portals(client: &mut Client) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let transaction = client.transaction().await?;
    for (sql, key) in [
        ("SELECT id, whole FROM events WHERE tenant_id = $1 ORDER BY id", 7_i64),
        ("SELECT id, name FROM tenants WHERE id > $1 ORDER BY id", 30),
    ] {
        let portal = transaction.bind(sql, &[&key]).await?;
        loop {
            let rows = transaction.query_portal(&portal, 4).await?;
            lines.push(format!("{} rows", rows.len()));
            for row in &rows {
                lines.push(line(row)?);
            }
            if rows.len() < 4 {
                break;
            }
        }
    }
    transaction.commit().await?;
    Ok(lines)
}

async fn transactions(client: &mut Client) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut transaction = client.transaction().await?;
    transaction.execute("UPDATE tenants SET name = upper(name) WHERE id <= 4", &[]).await?;
    let savepoint = transaction.savepoint("here").await?;
    lines.push(failure(savepoint.execute("INSERT INTO tenants VALUES (7, 'again', NULL)", &[]).await));
    lines.push(failure(savepoint.query("SELECT 1", &[]).await));
    savepoint.rollback().await?;
    lines.push(format!("{}", transaction.execute("DELETE FROM events WHERE id = 1", &[]).await?));
    transaction.commit().await?;
    let dropped = client.transaction().await?;
    dropped.execute("DELETE FROM events", &[]).await?;
    drop(dropped);
    lines.extend(query(client, "SELECT name FROM tenants WHERE id < 6 ORDER BY id", &[]).await?);
    lines.extend(query(client, "SELECT count(*) FROM events", &[]).await?);
    let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let reading = builder.start().await?;
    lines.push(failure(reading.execute("UPDATE tenants SET name = 'no' WHERE id = 1", &[]).await));
    reading.rollback().await?;
    Ok(lines)
}

async fn errors(client: &Client) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for sql in [
        "INSERT INTO tenants (id) VALUES (900)",
        "INSERT INTO events (tenant_id, id) VALUES (900, 1)",
        "INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)",
        "SELEC 1",
        "SELECT 1 FROM tenants WHERE",
        "SELECT nothing FROM tenants",
        "SELECT * FROM nowhere",
        "SELECT 1 / (id - 7) FROM tenants WHERE id = 7",
        "SELECT id FROM tenants WHERE 1 / (id - 7) > 0",
        "SELECT $1",
    ] {
        lines.push(failure(client.execute(sql, &[]).await));
    }
    lines.extend(query(client, "SELECT count(*) FROM tenants", &[]).await?);
    Ok(lines)
}

async fn copy(client: &Client) -> Result<Vec<String>> {
    let sink = client.copy_in("COPY events (tenant_id, id, whole) FROM STDIN").await?;
    pin_mut!(sink);
    for id in 1..=40 {
        sink.send(bytes::Bytes::from(format!("{id}\t500\t{id}\n"))).await?;
    }
    let mut lines = vec![format!("{}", sink.finish().await?)];
    let sink = client.copy_in("COPY events (tenant_id, id, ratio) FROM STDIN (FORMAT binary)").await?;
    let writer = BinaryCopyInWriter::new(sink, &[Type::INT8, Type::INT8, Type::FLOAT8]);
    pin_mut!(writer);
    for id in 1..=40_i64 {
        writer.as_mut().write(&[&id, &501_i64, &(id as f64 / 4.0)]).await?;
    }
    lines.push(format!("{}", writer.finish().await?));
    lines.extend(
        query(client, "SELECT tenant_id, id, whole, ratio FROM events WHERE tenant_id IN (9, 18) ORDER BY 1, 2", &[])
            .await?,
    );
    let text: Vec<bytes::Bytes> = client.copy_out("COPY tenants TO STDOUT (FORMAT csv)").await?.try_collect().await?;
    let text = String::from_utf8(text.concat())?;
    let mut copied: Vec<&str> = text.lines().collect();
    copied.sort_unstable();
    lines.push(format!("{} {:?}", copied.len(), copied.first()));
    let stream = client
        .copy_out("COPY (SELECT id, ratio FROM events WHERE tenant_id = 9 ORDER BY id) TO STDOUT (FORMAT binary)")
        .await?;
    let rows: Vec<_> = BinaryCopyOutStream::new(stream, &[Type::INT8, Type::FLOAT8]).try_collect().await?;
    lines.extend(rows.iter().map(|row| format!("{} {:?}", row.get::<i64>(0), row.get::<Option<f64>>(1))));
    let sink = client.copy_in("COPY events (tenant_id, id) FROM STDIN").await?;
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"1\t600\n2\t100\n")).await?;
    lines.push(failure(sink.finish().await));
    lines.extend(query(client, "SELECT count(*) FROM events", &[]).await?);
    Ok(lines)
}

async fn simple(client: &Client) -> Result<Vec<String>> {
    let messages = client
        .simple_query(
            "SELECT count(*) FROM tenants; INSERT INTO notes VALUES (1, 'x'); SELECT body, NULL AS none FROM notes",
        )
        .await?;
    Ok(messages
        .iter()
        .map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                (0..row.len()).map(|index| format!("{:?}", row.get(index))).collect::<Vec<_>>().join(" | ")
            }
            SimpleQueryMessage::CommandComplete(rows) => format!("complete {rows}"),
            _ => "columns".to_owned(),
        })
        .collect())
}

async fn listen(dsn: &str) -> Result<Vec<String>> {
    let (client, mut connection): (Client, Connection<Socket, _>) = tokio_postgres::connect(dsn, NoTls).await?;
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            let told = match message {
                AsyncMessage::Notice(notice) => format!("{} {}", notice.code().code(), notice.message()),
                AsyncMessage::Notification(news) => format!("{} {}", news.channel(), news.payload()),
                _ => continue,
            };
            let _ = heard.send(told);
        }
    });
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'n %', 1; END $$; LISTEN news").await?;
    connect(dsn).await?.execute("SELECT pg_notify('news', $1)", &[&"hello ü"]).await?;
    let mut lines = Vec::new();
    for _ in 0..2 {
        lines.push(tokio::time::timeout(HEARD_MAX, hears.recv()).await?.context("the connection is lost")?);
    }
    Ok(lines)
}

async fn cancel(dsn: &str) -> Result<Vec<String>> {
    let client = connect(dsn).await?;
    client.batch_execute("SET statement_timeout = 150").await?;
    let sleep = "SELECT pg_sleep(60) FROM tenants WHERE id = 7";
    let mut lines = vec![failure(client.execute(sleep, &[]).await)];
    client.batch_execute("RESET statement_timeout").await?;
    for sql in [sleep, "SELECT pg_sleep(60)"] {
        let token = client.cancel_token();
        let sleeping = client.execute(sql, &[]);
        pin_mut!(sleeping);
        // A request before the statement's start cancels nothing: ask until it ends.
        let outcome = loop {
            tokio::select! {
                outcome = &mut sleeping => break outcome,
                () = tokio::time::sleep(CANCEL_PAUSE) => token.cancel_query(NoTls).await?,
            }
        };
        lines.push(failure(outcome));
    }
    Ok(lines)
}
