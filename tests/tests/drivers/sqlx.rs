//! sqlx, in this process: migrations, its pool, types of the application's own found by name in the catalogs, binary values, COPY,
//! PgListener.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use futures_util::TryStreamExt as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{
    PgAdvisoryLock, PgArguments, PgConnectOptions, PgDatabaseError, PgListener, PgPool, PgPoolCopyExt as _,
    PgPoolOptions, PgQueryResult, PgRow, PgValueFormat,
};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{
    query, query_as, query_scalar, raw_sql, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _,
    PgConnection, Postgres, QueryBuilder, Row as _, SqlSafeStr as _, Statement as _, TypeInfo as _, ValueRef as _,
};

use crate::sqlx_types::{Mood, Moods, Pair};
use crate::transcript::Transcript;

const HEARD_MAX: Duration = Duration::from_secs(20);
const CONNECTIONS: u32 = 4;
const MIGRATED: &str =
    "SELECT version, description, success, encode(checksum, 'hex') FROM _sqlx_migrations ORDER BY version";

/// The whole scenario; its transcript. `migrations`: a folder.
pub async fn run(dsn: &str, migrations: &Path) -> Result<String> {
    let mut t = Transcript::default();
    let options = PgConnectOptions::from_str(dsn)?;
    let pool = pool(&options, CONNECTIONS).await?;
    let mut connection = options.connect().await?;
    t.step("migrations", migrate(&options, migrations)).await;
    t.step("write", write(&mut connection)).await;
    t.step("batches", batches(&pool)).await;
    t.step("all types", types(&mut connection)).await;
    t.step("types of the application's own", own_types(&options)).await;
    t.step("prepared statements", prepared(&mut connection)).await;
    t.step("what statements are", described(&options)).await;
    t.step("streams", streams(&pool)).await;
    t.step("transactions", transactions(&mut connection)).await;
    t.step("errors and recovery", errors(&mut connection)).await;
    t.step("a parameter that is missing", missing(&mut connection)).await;
    t.step("COPY", copy(&pool)).await;
    t.step("simple queries", simple(&mut connection)).await;
    t.step("the pool", pooled(&options)).await;
    t.step("advisory locks", locks(&pool)).await;
    t.step("PgListener", listen(dsn, &pool)).await;
    t.step("statement_timeout", timeouts(&options)).await;
    t.step("migrations of tables with rows", later(&options, migrations, &mut connection)).await;
    t.step("migrations that fail", broken(&options)).await;
    let counted = query_scalar::<_, i64>("SELECT count(DISTINCT whole) FROM events").fetch_one(&mut connection).await;
    t.step("distinct values of all shards counted", async { Ok(vec![counted?.to_string()]) }).await;
    t.step("the plan of a prepared statement", explained(&options)).await;
    t.step("undo", undo(&options, migrations)).await;
    connection.close().await?;
    pool.close().await;
    Ok(t.end())
}

/// The other thing that `query!` asks.
async fn explained(options: &PgConnectOptions) -> Result<Vec<String>> {
    let mut connection = options.connect().await?;
    connection.prepare("SELECT id, name FROM tenants WHERE id = $1".into_sql_str()).await?;
    let explain = "EXPLAIN (VERBOSE, COSTS off, FORMAT JSON) EXECUTE sqlx_s_1(NULL)";
    let explained = raw_sql(explain).fetch_one(&mut connection).await?;
    connection.close().await?;
    let plan: String = explained.try_get_unchecked(0)?;
    Ok(plan.lines().map(str::to_owned).collect())
}

async fn pool(options: &PgConnectOptions, connections: u32) -> Result<PgPool> {
    let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(true);
    Ok(pool.connect_with(options.clone()).await?)
}

fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref())
}

fn failure<T>(outcome: Result<T, sqlx::Error>) -> String {
    match outcome {
        Ok(_) => "no error".to_owned(),
        Err(error) => told(&error),
    }
}

fn told(error: &sqlx::Error) -> String {
    match database_error(error) {
        Some(db) => format!(
            "{:?} {} {} ({:?}, {:?}, {:?}, {:?}, {:?})",
            db.severity(),
            db.code(),
            db.message(),
            db.detail(),
            db.table(),
            db.column(),
            db.constraint(),
            db.position()
        ),
        None => format!("the driver's own error: {error}"),
    }
}

/// Every value by its column's type; binary ones that have no type in Rust as they are.
fn line(row: &PgRow) -> Result<String> {
    let mut values = Vec::new();
    for (index, column) in row.columns().iter().enumerate() {
        macro_rules! value {
            ($kind:ty) => {
                format!("{:?}", row.try_get::<Option<$kind>, _>(index)?)
            };
        }
        let raw = row.try_get_raw(index)?;
        values.push(match column.type_info().name() {
            _ if raw.is_null() => "null".to_owned(),
            _ if raw.format() == PgValueFormat::Text => {
                format!("{:?}", raw.as_str().map_err(anyhow::Error::from_boxed)?)
            }
            "INT8" => value!(i64),
            "INT4" => value!(i32),
            "INT2" => value!(i16),
            "FLOAT8" => value!(f64),
            "BOOL" => value!(bool),
            "JSONB" => value!(Json<serde_json::Value>),
            "TEXT" | "VARCHAR" | "NAME" => value!(String),
            "TEXT[]" => value!(Vec<Option<String>>),
            "INT4[]" => value!(Vec<i32>),
            "INTERVAL" => value!(PgInterval),
            "mood" => value!(Mood),
            "mood[]" => value!(Vec<Option<Mood>>),
            "pair" => value!(Pair),
            "pair[]" => value!(Vec<Option<Pair>>),
            other => format!("{other} {:02x?}", raw.as_bytes().map_err(anyhow::Error::from_boxed)?),
        });
    }
    Ok(values.join(" | "))
}

fn lines(rows: &[PgRow]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if let Some(row) = rows.first() {
        let columns: Vec<String> =
            row.columns().iter().map(|column| format!("{} {}", column.name(), column.type_info())).collect();
        lines.push(columns.join(", "));
    }
    for row in rows {
        lines.push(line(row)?);
    }
    Ok(lines)
}

async fn found<'q>(connection: &mut PgConnection, query: Query<'q, Postgres, PgArguments>) -> Result<Vec<String>> {
    lines(&query.fetch_all(connection).await?)
}

/// Two programs that start at once: the second finds everything done.
async fn migrate(options: &PgConnectOptions, migrations: &Path) -> Result<Vec<String>> {
    let mut migrator = Migrator::new(migrations).await?;
    migrator.migrations.to_mut().retain(|migration| migration.version < 6);
    let (one, other) = (pool(options, 1).await?, pool(options, 1).await?);
    tokio::try_join!(migrator.run(&one), migrator.run(&other))?;
    other.close().await;
    let migrated = lines(&query(MIGRATED).fetch_all(&one).await?);
    one.close().await;
    migrated
}

async fn write(connection: &mut PgConnection) -> Result<Vec<String>> {
    let kinds =
        query("INSERT INTO kinds VALUES ($1, $2), ($3, $4)").bind("click").bind("Click").bind("view").bind("View");
    let mut lines = vec![affected(kinds.execute(&mut *connection).await?)];
    for id in 1..=40_i64 {
        let tenant = query("INSERT INTO tenants VALUES ($1, $2, $3)").bind(id).bind(format!("tenant {id}"));
        tenant.bind(Json(serde_json::json!({ "n": id }))).execute(&mut *connection).await?;
    }
    for id in 1..=20_i64 {
        let event = query("INSERT INTO events (tenant_id, id, whole) VALUES ($1, 100, $2) RETURNING tenant_id, whole");
        let row = event.bind(id).bind(id as i32 * id as i32).fetch_one(&mut *connection).await?;
        lines.push(line(&row)?);
    }
    let everywhere = query("UPDATE events SET flag = true WHERE whole > $1").bind(99);
    lines.push(affected(everywhere.execute(&mut *connection).await?));
    let settled =
        "INSERT INTO tenants VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name";
    for name in ["seven", "tenant 7"] {
        lines.extend(found(connection, query(settled).bind(7_i64).bind(name)).await?);
    }
    Ok(lines)
}

fn affected(result: PgQueryResult) -> String {
    format!("{} rows", result.rows_affected())
}

/// Many rows in one statement, as sqlx's documentation has it.
async fn batches(pool: &PgPool) -> Result<Vec<String>> {
    let mut built = QueryBuilder::<Postgres>::new("INSERT INTO events (tenant_id, id, whole) ");
    built.push_values(1..=40_i64, |mut row, id| {
        row.push_bind(id).push_bind(200_i64).push_bind(id as i32);
    });
    let mut lines = vec![affected(built.build().execute(pool).await?)];
    let ids: Vec<i64> = (1..=40).collect();
    let wholes: Vec<Option<i32>> = (1..=40).map(|id| (id % 3 > 0).then_some(id)).collect();
    let unnested = "INSERT INTO events (tenant_id, id, whole) SELECT t, 201, w FROM unnest($1::bigint[], $2::integer[]) AS u (t, w)";
    lines.push(affected(query(unnested).bind(&ids).bind(&wholes).execute(pool).await?));
    let mut built =
        QueryBuilder::<Postgres>::new("SELECT tenant_id, id, whole FROM events WHERE id >= 200 AND tenant_id IN (");
    let mut keys = built.separated(", ");
    for key in [3_i64, 17, 31, 99] {
        keys.push_bind(key);
    }
    keys.push_unseparated(") ORDER BY tenant_id, id");
    lines.extend(self::lines(&built.build().fetch_all(pool).await?)?);
    let gone = query("DELETE FROM events WHERE id >= 200 AND tenant_id = ANY($1)").bind(&ids[..20]);
    lines.push(affected(gone.execute(pool).await?));
    let gone = query("DELETE FROM events WHERE id >= 200").execute(pool).await?;
    lines.push(affected(gone));
    Ok(lines)
}

async fn types(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "INSERT INTO events (tenant_id, id, kind, small, whole, ratio, flag, raw, tags, grid, payload, took, total, uid, day, at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::numeric, $14::text::uuid, $15::text::date, \
               $16::text::timestamptz)";
    let tags = vec![Some("a"), Some("b c"), Some("quote\"d"), Some("\\"), None];
    let insert = query(sql).bind(7_i64).bind(1_i64).bind("click").bind(i16::MIN).bind(65_536).bind(0.1_f64).bind(true);
    let insert = insert.bind(vec![0_u8, 255, 92, 39]).bind(tags).bind(vec![1, 2, 3]);
    let insert = insert.bind(Json(serde_json::json!({"a": [1, 2.5, null], "ü": "€"})));
    let insert = insert.bind(PgInterval { months: 14, days: -3, microseconds: 4_000_005 });
    let insert = insert.bind("12345.67").bind("6ecd8c99-4036-403d-bf84-cf8400f67836").bind("2024-02-29");
    let mut lines = vec![affected(insert.bind("2024-02-29 12:34:56.789012+00").execute(&mut *connection).await?)];
    query("INSERT INTO events (tenant_id, id) VALUES (8, 1)").execute(&mut *connection).await?;
    let (of_one, of_all) = (
        "SELECT * FROM events WHERE tenant_id = $1 ORDER BY id",
        "SELECT * FROM events WHERE id = $1 ORDER BY tenant_id",
    );
    lines.extend(found(connection, query(of_one).bind(7_i64)).await?);
    lines.extend(found(connection, query(of_all).bind(1_i64)).await?);
    let unsaid: (Option<i64>, Option<String>) =
        query_as("SELECT $1, $2").bind(None::<i64>).bind(None::<String>).fetch_one(&mut *connection).await?;
    lines.push(format!("{unsaid:?}"));
    Ok(lines)
}

/// Each connection looks the types up by name when it first meets them, as parameters or as columns.
async fn own_types(options: &PgConnectOptions) -> Result<Vec<String>> {
    let mut writer = options.connect().await?;
    let pair = |n| Pair { n, feeling: Some(Mood("happy".into())), feelings: Some(vec![Some(Mood("ok".into())), None]) };
    let mut lines = Vec::new();
    for id in 1..=20_i64 {
        let insert = query("INSERT INTO owned VALUES ($1, $2, $3, $4, $5, $6)").bind(id).bind(Mood("ok".into()));
        let insert = insert.bind(vec![Some(Mood("sad".into())), None]).bind(pair(Some(id as i32)));
        let insert = insert.bind(vec![Some(pair(None)), None]).bind(Moods(vec![Mood("happy".into())]));
        insert.execute(&mut writer).await?;
    }
    let mut reader = options.connect().await?;
    for id in 1..=20_i64 {
        let one = "SELECT feeling, feelings, p, ps, d FROM owned WHERE id = $1";
        let row = query(one).bind(id).fetch_one(&mut reader).await?;
        lines.extend((id == 1).then(|| format!("{:?}", kinds(&row))));
        let moods: Vec<Mood> = row.try_get_unchecked("d")?;
        let (feeling, feelings): (Mood, Vec<Option<Mood>>) = (row.try_get("feeling")?, row.try_get("feelings")?);
        let (p, ps): (Pair, Vec<Option<Pair>>) = (row.try_get("p")?, row.try_get("ps")?);
        lines.push(format!("{feeling:?} {feelings:?} {p:?} {ps:?} {moods:?}"));
        // What one row gave another one takes.
        let update = query("UPDATE owned SET feelings = $2, p = $3, ps = $4, d = $5 WHERE id = $1").bind(id % 20 + 1);
        let update = update.bind(feelings).bind(p).bind(ps).bind(Moods(moods)).execute(&mut reader).await?;
        lines.push(affected(update));
    }
    for (sql, feeling) in [
        ("SELECT id, ps, p, feeling FROM owned WHERE feeling = $1 ORDER BY id LIMIT 5", "ok"),
        ("SELECT count(*), max(id) FROM owned WHERE feeling = ANY($2) AND feeling <> $1", "sad"),
    ] {
        let mut fresh = options.connect().await?;
        let mut asked = query(sql).bind(Mood(feeling.into()));
        if sql.contains("$2") {
            asked = asked.bind(vec![Mood("ok".into()), Mood("happy".into())]);
        }
        lines.extend(found(&mut fresh, asked).await?);
        fresh.close().await?;
    }
    let wrong = query("INSERT INTO owned (id, feeling) VALUES (99, $1)").bind(Mood("bored".into()));
    lines.push(failure(wrong.execute(&mut reader).await));
    reader.close().await?;
    writer.close().await?;
    Ok(lines)
}

fn kinds(row: &PgRow) -> Vec<String> {
    row.columns().iter().map(|column| format!("{} {}", column.name(), column.type_info())).collect()
}

async fn prepared(connection: &mut PgConnection) -> Result<Vec<String>> {
    let by_key = connection.prepare("SELECT id, name FROM tenants WHERE id = $1".into_sql_str()).await?;
    let mut lines = Vec::new();
    for id in [1_i64, 7, 13, 25, 40, 99] {
        if let Some(row) = by_key.query().bind(id).fetch_optional(&mut *connection).await? {
            lines.push(line(&row)?);
        }
        let over_all = "SELECT count(*), max(whole), min(ratio) FROM events WHERE whole > $1";
        lines.push(line(&query(over_all).bind(id as i32 * 4).fetch_one(&mut *connection).await?)?);
    }
    lines.extend(found(connection, query("SELECT id FROM tenants WHERE $1 = id").bind(7_i32)).await?);
    lines.extend(found(connection, query("SELECT id FROM tenants WHERE id = $1").bind(7_i64)).await?);
    let some = query("SELECT id FROM tenants WHERE id = ANY($1) ORDER BY id").bind(vec![3_i64, 1, 2, 99]);
    lines.extend(found(connection, some).await?);
    let page = query("SELECT id, name FROM tenants ORDER BY id DESC LIMIT $1 OFFSET $2").bind(5_i64).bind(3_i64);
    lines.extend(found(connection, page.persistent(false)).await?);
    let joined = "SELECT t.id % 3 AS class, count(*) AS n FROM tenants t JOIN events e ON e.tenant_id = t.id WHERE e.whole > $1 \
                  GROUP BY 1 ORDER BY 1";
    lines.extend(found(connection, query(joined).bind(10)).await?);
    lines.push(format!("{} cached", connection.cached_statements_size()));
    connection.clear_cached_statements().await?;
    let names: Vec<String> = query_scalar("SELECT name FROM tenants WHERE id < $1 ORDER BY id")
        .bind(4_i64)
        .fetch_all(&mut *connection)
        .await?;
    lines.push(format!("{names:?} {} cached", connection.cached_statements_size()));
    Ok(lines)
}

/// Parameters, columns, the tables that they are of, and whether they may be null: what `query!` asks when a program is compiled.
async fn described(options: &PgConnectOptions) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for sql in [
        "SELECT id, name, settings, 1 + id AS more FROM tenants WHERE id = $1",
        "SELECT t.id, e.whole, e.kind, count(*) FROM tenants t LEFT JOIN events e ON e.tenant_id = t.id WHERE t.id = $1 GROUP BY 1, 2, 3",
        "INSERT INTO kinds VALUES ($1, $2) RETURNING code",
        "UPDATE owned SET p = $2, feelings = $3 WHERE id = $1",
        "SELECT feeling, ps, d FROM owned WHERE id = $1",
    ] {
        let mut connection = options.connect().await?;
        let statement = connection.prepare(sql.into_sql_str()).await.context(sql)?;
        let parameters = match statement.parameters() {
            Some(Either::Left(types)) => types.iter().map(|kind| kind.to_string()).collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        lines.push(format!("{parameters:?}"));
        let nullable = "SELECT NOT attnotnull FROM (SELECT $1::int4 AS table_id, $2::int2 AS col_idx) AS col \
                        LEFT JOIN pg_catalog.pg_attribute ON table_id IS NOT NULL AND attrelid = table_id AND attnum = col_idx";
        for column in statement.columns() {
            let asked = query_scalar(nullable).bind(column.relation_id()).bind(column.relation_attribute_no());
            let nullable: Option<bool> = asked.fetch_one(&mut connection).await?;
            lines.push(format!("{} {} {:?} {nullable:?}", column.name(), column.type_info(), column.origin()));
        }
        connection.close().await?;
    }
    Ok(lines)
}

/// Rows as they come; what is left is read by the connection's next user.
async fn streams(pool: &PgPool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut connection = pool.acquire().await?;
    for (sql, least) in [
        ("SELECT tenant_id, whole FROM events WHERE tenant_id = $1 ORDER BY id", 9_i64),
        ("SELECT id, name FROM tenants WHERE id > $1 ORDER BY id", 30),
        ("SELECT t.id, g FROM tenants t, generate_series(1, 3000) g WHERE t.id > $1 ORDER BY 1, 2", 35),
    ] {
        let mut rows = query(sql).bind(least).fetch(&mut *connection);
        for _ in 0..4 {
            if let Some(row) = rows.try_next().await? {
                lines.push(line(&row)?);
            }
        }
        drop(rows);
        let count: i64 = query_scalar("SELECT count(*) FROM tenants").fetch_one(&mut *connection).await?;
        lines.push(format!("{count}"));
    }
    Ok(lines)
}

async fn transactions(connection: &mut PgConnection) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut transaction = connection.begin().await?;
    query("UPDATE tenants SET name = upper(name) WHERE id <= $1").bind(4_i64).execute(&mut *transaction).await?;
    let mut inner = transaction.begin().await?;
    lines.push(failure(query("INSERT INTO tenants VALUES (7, 'again', NULL)").execute(&mut *inner).await));
    lines.push(failure(query("SELECT 1").execute(&mut *inner).await));
    inner.rollback().await?;
    let mut inner = transaction.begin().await?;
    query("UPDATE tenants SET name = $1 WHERE id = 5").bind("kept").execute(&mut *inner).await?;
    inner.commit().await?;
    let inner = transaction.begin().await?;
    drop(inner);
    lines.push(affected(query("DELETE FROM events WHERE id = 1").execute(&mut *transaction).await?));
    transaction.commit().await?;
    let mut dropped = connection.begin().await?;
    query("DELETE FROM events").execute(&mut *dropped).await?;
    drop(dropped);
    lines.extend(found(connection, query("SELECT name FROM tenants WHERE id < 7 ORDER BY id")).await?);
    lines.extend(found(connection, query("SELECT count(*) FROM events")).await?);
    let mut reading = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    lines.extend(
        found(&mut reading, query("SELECT count(*), current_setting('transaction_isolation') FROM tenants GROUP BY 2"))
            .await?,
    );
    lines.push(failure(query("UPDATE tenants SET name = 'no' WHERE id = 1").execute(&mut *reading).await));
    reading.rollback().await?;
    Ok(lines)
}

async fn errors(connection: &mut PgConnection) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for sql in [
        "INSERT INTO tenants (id) VALUES (900)",
        "INSERT INTO tenants (id, name) VALUES (7, 'again')",
        "INSERT INTO events (tenant_id, id) VALUES (900, 1)",
        "INSERT INTO events (tenant_id, id, whole) VALUES (1, 900, 2000000)",
        "SELEC 1",
        "SELECT 1 FROM tenants WHERE",
        "SELECT nothing FROM tenants",
        "SELECT * FROM nowhere",
        "SELECT 1 / (id - 7) FROM tenants WHERE id = 7",
        "SELECT id FROM tenants WHERE 1 / (id - 7) > 0",
        "SELECT 1; SELECT 2",
    ] {
        lines.push(failure(query(sql).fetch_all(&mut *connection).await));
        lines.push(failure(raw_sql(sql).fetch_all(&mut *connection).await));
    }
    lines.push(failure(query("SELECT name FROM tenants WHERE id = $1").bind("seven").execute(&mut *connection).await));
    lines.push(failure(query("SELECT name FROM tenants WHERE id = $1").execute(&mut *connection).await));
    lines.push(failure(
        query_scalar::<_, i64>("SELECT id FROM tenants WHERE id = 99").fetch_one(&mut *connection).await,
    ));
    lines
        .push(failure(query_scalar::<_, i32>("SELECT id FROM tenants WHERE id = 7").fetch_one(&mut *connection).await));
    lines.extend(found(connection, query("SELECT count(*) FROM tenants")).await?);
    Ok(lines)
}

async fn missing(connection: &mut PgConnection) -> Result<Vec<String>> {
    Ok(vec![failure(query("SELECT $1").execute(&mut *connection).await)])
}

async fn copy(pool: &PgPool) -> Result<Vec<String>> {
    let mut sink = pool.copy_in_raw("COPY events (tenant_id, id, whole) FROM STDIN").await?;
    for id in 1..=40 {
        sink.send(format!("{id}\t500\t{id}\n").into_bytes()).await?;
    }
    let mut lines = vec![format!("{}", sink.finish().await?)];
    let rows: String = (1..=40).map(|id| format!("{id},501,\"{}\"\n", f64::from(id) / 4.0)).collect();
    let text = format!("tenant_id,id,ratio\n{rows}");
    let mut sink = pool.copy_in_raw("COPY events (tenant_id, id, ratio) FROM STDIN (FORMAT csv, HEADER)").await?;
    let shape = format!("{} {}", sink.is_textual(), sink.num_columns());
    sink.read_from(text.as_bytes()).await?;
    lines.push(format!("{shape} {}", sink.finish().await?));
    let mut connection = pool.acquire().await?;
    let copied = "SELECT tenant_id, id, whole, ratio FROM events WHERE tenant_id IN (9, 18) ORDER BY 1, 2";
    lines.extend(found(&mut connection, query(copied)).await?);
    let mut sink = connection.copy_in_raw("COPY events (tenant_id, id) FROM STDIN").await?;
    sink.send("1\t600\n2\t600\n".as_bytes()).await?;
    sink.abort("not wanted").await?;
    let mut sink = connection.copy_in_raw("COPY events (tenant_id, id) FROM STDIN").await?;
    sink.send("1\t600\n2\t100\n".as_bytes()).await?;
    lines.push(failure(sink.finish().await));
    lines.push(failure(connection.copy_in_raw("COPY nowhere FROM STDIN").await));
    lines.extend(found(&mut connection, query("SELECT count(*) FROM events")).await?);
    for sql in
        ["COPY tenants TO STDOUT (FORMAT csv)", "COPY (SELECT id, whole FROM events WHERE tenant_id = 9) TO STDOUT"]
    {
        let chunks: Vec<_> = connection.copy_out_raw(sql).await?.try_collect().await?;
        let text = String::from_utf8(chunks.concat())?;
        let mut rows: Vec<&str> = text.lines().collect();
        rows.sort_unstable();
        lines.push(format!("{} {:?}", rows.len(), rows.first()));
    }
    let binary =
        "COPY (SELECT tenant_id, id, ratio FROM events WHERE tenant_id = 9 AND id = 501) TO STDOUT (FORMAT binary)";
    let binary: Vec<_> = pool.copy_out_raw(binary).await?.try_collect().await?;
    lines.push(format!("{:02x?}", binary.concat()));
    query("DELETE FROM events WHERE tenant_id = 9 AND id = 501").execute(&mut *connection).await?;
    let mut sink = connection.copy_in_raw("COPY events (tenant_id, id, ratio) FROM STDIN (FORMAT binary)").await?;
    sink.send(binary.concat()).await?;
    lines.push(format!("{}", sink.finish().await?));
    Ok(lines)
}

async fn simple(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "SELECT count(*) FROM tenants; INSERT INTO notes VALUES (1, 'x'); SELECT body, NULL AS none FROM notes; \
               SELECT feeling, feelings FROM owned WHERE id = 7; UPDATE tenants SET settings = NULL WHERE id > 30";
    let answers: Vec<Either<PgQueryResult, PgRow>> = raw_sql(sql).fetch_many(&mut *connection).try_collect().await?;
    let mut lines = Vec::new();
    for sql in [
        "SELECT 'ü'; SELECT nothing FROM tenants",
        "SELECT 1; /* ü */ SELECT id FROM tenants WHERE 1 / (id - 7) > 0; SELEC",
    ] {
        lines.push(failure(raw_sql(sql).fetch_all(&mut *connection).await));
    }
    for answer in answers {
        lines.push(match answer {
            Either::Left(result) => affected(result),
            Either::Right(row) => format!("{:?} {}", kinds(&row), line(&row)?),
        });
    }
    Ok(lines)
}

/// More tasks than connections, with settings of their own, and more statements than a connection keeps.
async fn pooled(options: &PgConnectOptions) -> Result<Vec<String>> {
    let options = options.clone().statement_cache_capacity(2).application_name("shop");
    let options = options.options([("statement_timeout", "20s"), ("search_path", "public, pg_temp")]);
    let pool = PgPoolOptions::new().min_connections(1).max_connections(CONNECTIONS).test_before_acquire(true);
    let pool = pool.after_connect(|connection, _| {
        Box::pin(async move {
            connection.execute("SET TIME ZONE 'Asia/Tokyo'; SET idle_session_timeout = '1h'").await?;
            Ok(())
        })
    });
    let pool = pool.connect_with(options).await?;
    let mut lines = try_join_all((1..=40_i64).map(|id| task(&pool, id))).await?;
    pool.close().await;
    lines.push(format!("{} {}", pool.size(), failure(pool.acquire().await)));
    Ok(lines)
}

async fn task(pool: &PgPool, id: i64) -> Result<String> {
    let mut connection = pool.acquire().await?;
    let settings =
        "SELECT current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('search_path'), \
                    current_setting('application_name'), current_setting('DateStyle')";
    let settings = line(&query(settings).fetch_one(&mut *connection).await?)?;
    let name: String =
        query_scalar("SELECT name FROM tenants WHERE id = $1").bind(id).fetch_one(&mut *connection).await?;
    let mut transaction = connection.begin().await?;
    query("UPDATE tenants SET name = $2 WHERE id = $1").bind(id).bind("gone").execute(&mut *transaction).await?;
    drop(transaction);
    drop(connection);
    let kept: bool =
        query_scalar("SELECT name = $2 FROM tenants WHERE id = $1").bind(id).bind(&name).fetch_one(pool).await?;
    Ok(format!("{id} {name} {kept} {settings}"))
}

async fn locks(pool: &PgPool) -> Result<Vec<String>> {
    let lock = PgAdvisoryLock::new("shop");
    let mut lines = Vec::new();
    let held = lock.acquire(pool.acquire().await?).await?;
    let refused = lock.try_acquire(pool.acquire().await?).await?;
    lines.push(format!("held by one: {}", refused.is_right()));
    drop(refused);
    drop(held.release_now().await?);
    let Either::Left(taken) = lock.try_acquire(pool.acquire().await?).await? else { anyhow::bail!("still held") };
    // Released when the pool gives the connection out again or tests it.
    drop(taken);
    let again = lock.acquire(pool.acquire().await?).await?;
    let (_, released) = lock.force_release(again.leak()).await?;
    lines.push(format!("released: {released}"));
    Ok(lines)
}

async fn listen(dsn: &str, pool: &PgPool) -> Result<Vec<String>> {
    let mut listener = PgListener::connect(dsn).await?;
    listener.listen_all(["news", "Other News"]).await?;
    listener.listen("more").await?;
    listener.unlisten("more").await?;
    for (channel, payload) in [("more", "unheard"), ("news", "hello ü"), ("Other News", "")] {
        query("SELECT pg_notify($1, $2)").bind(channel).bind(payload).execute(pool).await?;
    }
    let mut lines = Vec::new();
    for _ in 0..2 {
        let news = tokio::time::timeout(HEARD_MAX, listener.recv()).await??;
        lines.push(format!("{} {}", news.channel(), news.payload()));
    }
    // It is also a connection.
    query("SELECT pg_notify('news', 'own')").execute(&mut listener).await?;
    let news = tokio::time::timeout(HEARD_MAX, listener.recv()).await??;
    lines.push(format!("{} {}", news.channel(), news.payload()));
    listener.unlisten_all().await?;
    query("SELECT pg_notify('news', 'unheard')").execute(&mut listener).await?;
    lines.push(format!("{}", listener.next_buffered().is_none()));
    Ok(lines)
}

async fn timeouts(options: &PgConnectOptions) -> Result<Vec<String>> {
    let mut connection = options.clone().options([("statement_timeout", "150ms")]).connect().await?;
    let mut lines = Vec::new();
    for sql in ["SELECT pg_sleep(60) FROM tenants WHERE id = 7", "SELECT pg_sleep(60)"] {
        lines.push(failure(query(sql).execute(&mut connection).await));
    }
    connection.ping().await?;
    lines.extend(found(&mut connection, query("SELECT count(*) FROM tenants")).await?);
    connection.close().await?;
    Ok(lines)
}

/// Another connection has statements that were prepared before.
async fn later(options: &PgConnectOptions, migrations: &Path, before: &mut PgConnection) -> Result<Vec<String>> {
    let star = "SELECT * FROM tenants WHERE id = $1";
    let of_all = "SELECT * FROM tenants ORDER BY id LIMIT 2";
    let mut lines = found(before, query(star).bind(8_i64)).await?;
    lines.extend(found(before, query(of_all)).await?);
    let pool = pool(options, 1).await?;
    Migrator::new(migrations).await?.run(&pool).await?;
    lines.extend(self::lines(&query(MIGRATED).fetch_all(&pool).await?)?);
    lines.extend(self::lines(&query(star).bind(8_i64).fetch_all(&pool).await?)?);
    lines.push(failure(query(star).bind(8_i64).fetch_all(&mut *before).await));
    lines.push(failure(query(of_all).fetch_all(&mut *before).await));
    before.clear_cached_statements().await?;
    lines.extend(found(before, query(star).bind(8_i64)).await?);
    lines.extend(found(before, query(of_all)).await?);
    pool.close().await;
    Ok(lines)
}

/// The connection of a migration that has failed keeps the lock until it is closed.
async fn broken(options: &PgConnectOptions) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (version, sql) in [
        (7, "CREATE TABLE half (id integer); SELECT * FROM nowhere"),
        (7, "ALTER TABLE tenants ADD COLUMN half integer; INSERT INTO tenants (id, name) VALUES (7, 'again')"),
        (2, "SELECT 'another text'"),
    ] {
        let migration = Migration::new(version, "broken".into(), MigrationType::Simple, sql.into_sql_str(), false);
        let mut migrator = Migrator::with_migrations(vec![migration]);
        migrator.set_ignore_missing(true);
        let pool = pool(options, 1).await?;
        lines.push(match migrator.run(&pool).await {
            Err(MigrateError::ExecuteMigration(error, version)) => format!("{version}: {}", told(&error)),
            Err(MigrateError::Execute(error)) => told(&error),
            Err(error) => format!("{error}"),
            Ok(()) => "done".to_owned(),
        });
        pool.close().await;
    }
    let pool = pool(options, 1).await?;
    lines.extend(self::lines(&query("SELECT * FROM tenants WHERE id = 7").fetch_all(&pool).await?)?);
    lines.extend(self::lines(&query("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(&pool).await?)?);
    pool.close().await;
    Ok(lines)
}

async fn undo(options: &PgConnectOptions, migrations: &Path) -> Result<Vec<String>> {
    let pool = pool(options, 1).await?;
    let migrator = Migrator::new(migrations).await?;
    migrator.undo(&pool, 5).await?;
    let mut lines = self::lines(&query("SELECT * FROM tenants WHERE id = 7").fetch_all(&pool).await?)?;
    migrator.undo(&pool, 0).await?;
    lines.extend(self::lines(&query(MIGRATED).fetch_all(&pool).await?)?);
    query("DROP TABLE _sqlx_migrations").execute(&pool).await?;
    pool.close().await;
    Ok(lines)
}
