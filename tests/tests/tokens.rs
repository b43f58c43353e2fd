//! A key's token is the same for a live PostgreSQL's own hash, for `ringway.token` of the migration and for `topology::token`,
//! whichever way the value reaches them.

use std::error::Error;

use anyhow::{ensure, Context as _, Result};
use bytes::{BufMut as _, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringway_tests::cluster::temporary_directory;
use ringway_tests::scenario::{sql, turn};
use ringway_topology::token::{KeyType, KeyValue};
use shardctl::dev::postgres::{LocalPostgres, PostgresConfig};
use tokio_postgres::types::{to_sql_checked, IsNull, ToSql, Type};
use tokio_postgres::Client;

const VALUES_PER_TYPE: usize = 10_000;
const SEED: u64 = 7;
const MIGRATION: &str = include_str!("../../migrations/sql/V1__shard_schema.sql");

/// A value in its type's binary wire format.
#[derive(Debug)]
struct Binary(Vec<u8>);

impl ToSql for Binary {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[tokio::test]
async fn tokens_are_postgresqls_own_hashes() -> Result<()> {
    let _turn = turn().await?;
    let directory = temporary_directory()?;
    let mut server = LocalPostgres::launch(PostgresConfig::test(directory.path().join("s1"))).await?;
    let service = sql::connect(&server.dsn(shardctl::dev::postgres::SERVICE_ROLE)).await?;
    service.batch_execute("CREATE SCHEMA ringway").await?;
    service.batch_execute(MIGRATION).await.context("the shard schema")?;
    // An application's role, and settings that must not matter.
    let client = sql::connect(&server.dsn("app")).await?;
    client
        .batch_execute("SET TimeZone = 'Asia/Kathmandu'; SET bytea_output = 'escape'; SET extra_float_digits = 0")
        .await?;

    for key_type in KeyType::ALL {
        agree(&client, key_type).await.with_context(|| key_type.to_string())?;
    }
    integers_of_every_width_are_equal(&client).await?;
    tokens_are_inlined(&service).await?;
    null_has_no_token(&client).await?;
    server.stop().await?;
    Ok(())
}

/// The server's hash of a value `v`, spelled without `ringway.token`; for the types whose hash function cannot be called, by two
/// ways that do not share a step.
fn native(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Int2 => "hashint2extended(v, 0)",
        KeyType::Int4 => "hashint4extended(v, 0)",
        KeyType::Int8 => "hashint8extended(v, 0)",
        KeyType::Text | KeyType::Varchar => "hashtextextended(v, 0)",
        KeyType::Bpchar => "hashbpcharextended(v, 0)",
        KeyType::Uuid => "uuid_hash_extended(v, 0)",
        KeyType::Bytea => "hash_record_extended(ROW(v), 0)",
        KeyType::Date => {
            "CASE WHEN isfinite(v) THEN hashint4extended(v - date '2000-01-01', 0) ELSE hash_record_extended(ROW(v), 0) END"
        }
        KeyType::Timestamp => "timestamp_hash_extended(v, 0)",
        KeyType::Timestamptz => "timestamp_hash_extended(v AT TIME ZONE 'UTC', 0)",
        KeyType::Numeric => "hash_numeric_extended(v, 0)",
    }
}

fn send(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Int2 => "int2send",
        KeyType::Int4 => "int4send",
        KeyType::Int8 => "int8send",
        KeyType::Text => "textsend",
        KeyType::Varchar => "varcharsend",
        KeyType::Bpchar => "bpcharsend",
        KeyType::Uuid => "uuid_send",
        KeyType::Bytea => "byteasend",
        KeyType::Date => "date_send",
        KeyType::Timestamp => "timestamp_send",
        KeyType::Timestamptz => "timestamptz_send",
        KeyType::Numeric => "numeric_send",
    }
}

async fn agree(client: &Client, key_type: KeyType) -> Result<()> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut texts: Vec<String> = edges(key_type).iter().map(|text| text.to_string()).collect();
    while texts.len() < VALUES_PER_TYPE {
        texts.push(random_text(key_type, &mut random));
    }
    let (name, native, send) = (key_type.sql_name(), native(key_type), send(key_type));
    // Text format: the server's input function reads every value.
    let rows = client
        .query(
            &format!(
                "SELECT ringway.token(v), {native}, {send}(v), v::text
                 FROM (SELECT t::{name} AS v, n FROM unnest($1::text[]) WITH ORDINALITY u(t, n)) u ORDER BY n"
            ),
            &[&texts],
        )
        .await
        .context("in text format")?;
    let mut binaries = Vec::new();
    let mut expected = Vec::new();
    for (text, row) in texts.iter().zip(&rows) {
        let (token, hash, binary, out): (i64, i64, Vec<u8>, String) = (row.get(0), row.get(1), row.get(2), row.get(3));
        ensure!(token == hash, "{text:?}: ringway.token gives {token}, PostgreSQL's hash is {hash}");
        let from_text = KeyValue::from_text(key_type, text).with_context(|| format!("{text:?}"))?.token().0;
        ensure!(from_text == hash, "{text:?} read as text here gives {from_text}, PostgreSQL's hash is {hash}");
        let from_binary = KeyValue::from_binary(key_type, &binary).with_context(|| format!("{binary:?}"))?.token().0;
        ensure!(from_binary == hash, "{text:?} read as binary here gives {from_binary}, PostgreSQL's hash is {hash}");
        // What the server prints is read too; bytea and timestamptz print by settings that the client chose.
        if !matches!(key_type, KeyType::Bytea) {
            let again = KeyValue::from_text(key_type, &out).with_context(|| format!("{out:?}"))?.token().0;
            ensure!(again == hash, "{out:?}, as the server prints it, gives {again}, PostgreSQL's hash is {hash}");
        }
        binaries.push(Binary(binary));
        expected.push(hash);
    }
    // Binary format: the server's receive function reads every value.
    let rows = client
        .query(
            &format!("SELECT ringway.token(v) FROM unnest($1::{name}[]) WITH ORDINALITY u(v, n) ORDER BY n"),
            &[&binaries],
        )
        .await
        .context("in binary format")?;
    let tokens: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(tokens == expected, "tokens differ between the text and the binary format");
    println!("{key_type}: {} values agree", expected.len());
    Ok(())
}

fn edges(key_type: KeyType) -> &'static [&'static str] {
    match key_type {
        KeyType::Int2 => &["0", "-0", "1", "-1", "32767", "-32768", " 7 "],
        KeyType::Int4 => &["0", "1", "-1", "2147483647", "-2147483648", "+5"],
        KeyType::Int8 => &["0", "1", "-1", "4294967296", "-4294967296", "9223372036854775807", "-9223372036854775808"],
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => &[
            "",
            " ",
            "a",
            "a ",
            "é",
            "e\u{301}",
            "日本語",
            "🦀",
            "\\x00",
            "'",
            "\t\n\r",
            "abcdefghijkl",
            "abcdefghijklm",
        ],
        KeyType::Uuid => &[
            "00000000-0000-0000-0000-000000000000",
            "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ],
        KeyType::Bytea => &["", "\\x", "\\x00", "abc", "\\\\", "\\000\\377"],
        KeyType::Date => {
            &["infinity", "-infinity", "2000-01-01", "1999-12-31", "4713-01-01 BC", "5874897-12-31", "2024-02-29"]
        }
        KeyType::Timestamp => &[
            "infinity",
            "-infinity",
            "2000-01-01 00:00:00",
            "1999-12-31 23:59:59.999999",
            "4713-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "2024-02-29T12:00:00",
        ],
        KeyType::Timestamptz => &[
            "infinity",
            "-infinity",
            "2000-01-01 00:00:00+00",
            "2000-01-01 00:00:00Z",
            "2000-01-01 05:45:00+05:45",
            "294276-12-31 23:59:59.999999+00",
        ],
        KeyType::Numeric => &[
            "0",
            "-0",
            "0.000",
            "1",
            "1.0",
            "1.00000",
            "-1",
            "NaN",
            "1e100",
            "1.5e-50",
            "10000",
            "0.0001",
            "99999999.99999999",
        ],
    }
}

fn random_text(key_type: KeyType, random: &mut StdRng) -> String {
    match key_type {
        KeyType::Int2 => (random_int(random) as i16).to_string(),
        KeyType::Int4 => (random_int(random) as i32).to_string(),
        KeyType::Int8 => random_int(random).to_string(),
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => {
            let length = random.random_range(0..40);
            (0..length).map(|_| random_char(random)).collect()
        }
        KeyType::Uuid => {
            let digits = format!("{:032x}", random.random::<u128>());
            match random.random_range(0..3) {
                0 => digits,
                1 => digits.to_uppercase(),
                _ => {
                    format!(
                        "{}-{}-{}-{}-{}",
                        &digits[..8],
                        &digits[8..12],
                        &digits[12..16],
                        &digits[16..20],
                        &digits[20..]
                    )
                }
            }
        }
        KeyType::Bytea => {
            let length = random.random_range(0..60);
            (0..length).fold("\\x".to_string(), |text, _| format!("{text}{:02x}", random.random::<u8>()))
        }
        KeyType::Date => random_date(random, 5_874_000),
        KeyType::Timestamp => random_timestamp(random, ""),
        KeyType::Timestamptz => {
            let zone = match random.random_range(0..4) {
                0 => "Z".to_string(),
                1 => format!("+{:02}", random.random_range(0..15)),
                2 => format!("-{:02}:{:02}", random.random_range(0..15), random.random_range(0..60)),
                _ => format!("+{:02}:{:02}", random.random_range(0..15), random.random_range(0..60)),
            };
            random_timestamp(random, &zone)
        }
        KeyType::Numeric => {
            let sign = if random.random() { "-" } else { "" };
            let whole: String = (0..random.random_range(1..30)).map(|_| random_digit(random)).collect();
            let fraction: String = (0..random.random_range(0..30)).map(|_| random_digit(random)).collect();
            let exponent = match random.random_range(0..4) {
                0 => format!("e{}", random.random_range(-40..40)),
                _ => String::new(),
            };
            if fraction.is_empty() {
                format!("{sign}{whole}{exponent}")
            } else {
                format!("{sign}{whole}.{fraction}{exponent}")
            }
        }
    }
}

/// Of every magnitude.
fn random_int(random: &mut StdRng) -> i64 {
    random.random::<i64>() >> random.random_range(0..64)
}

/// Zeros more often than their share, so that groups of them occur.
fn random_digit(random: &mut StdRng) -> char {
    if random.random_range(0..3) == 0 {
        return '0';
    }
    char::from(b'0' + random.random_range(0..10u8))
}

fn random_char(random: &mut StdRng) -> char {
    match random.random_range(0..8) {
        0 => ['é', 'ß', 'ñ', 'Ω'][random.random_range(0..4)],
        1 => ['日', '本', '語', '☂'][random.random_range(0..4)],
        2 => ['🦀', '𝄞', '😀', '\u{10FFFF}'][random.random_range(0..4)],
        3 => ' ',
        4 => ['\'', '"', '\\', '\t'][random.random_range(0..4)],
        _ => char::from(random.random_range(0x21..0x7fu8)),
    }
}

fn random_date(random: &mut StdRng, year_max: i32) -> String {
    let year: i32 = match random.random_range(0..10) {
        0 => random.random_range(1..4713),
        1 => random.random_range(10_000..year_max),
        _ => random.random_range(1900..2100),
    };
    let era = if year < 1900 && random.random() { " BC" } else { "" };
    format!("{year:04}-{:02}-{:02}{era}", random.random_range(1..=12), random.random_range(1..=28))
}

fn random_timestamp(random: &mut StdRng, zone: &str) -> String {
    let date = random_date(random, 294_000);
    let (date, era) = date.strip_suffix(" BC").map_or((date.as_str(), ""), |bare| (bare, " BC"));
    let (hour, minute, second) = (random.random_range(0..24), random.random_range(0..60), random.random_range(0..60));
    let fraction = match random.random_range(0..3) {
        0 => String::new(),
        1 => format!(".{}", random.random_range(0..10)),
        _ => format!(".{:06}", random.random_range(0..1_000_000)),
    };
    format!("{date} {hour:02}:{minute:02}:{second:02}{fraction}{zone}{era}")
}

async fn integers_of_every_width_are_equal(client: &Client) -> Result<()> {
    let differing = sql::value(
        client,
        "SELECT count(*) FROM generate_series(-32768, 32767) v
         WHERE ringway.token(v::int2) <> ringway.token(v::int8) OR ringway.token(v::int4) <> ringway.token(v::int8)",
    )
    .await?;
    ensure!(differing == "0", "{differing} small integers have tokens that depend on their width");
    let differing = sql::value(
        client,
        "SELECT count(*) FROM generate_series(-1000000, 1000000, 37) v WHERE ringway.token(v * 2000) <> ringway.token(v::int8 * 2000)",
    )
    .await?;
    ensure!(differing == "0", "{differing} integers have tokens that depend on their width");
    Ok(())
}

/// In a WHERE clause nothing of `ringway.token` is left but the hash function.
async fn tokens_are_inlined(service: &Client) -> Result<()> {
    for key_type in KeyType::ALL {
        let name = key_type.sql_name();
        service.batch_execute(&format!("CREATE TEMPORARY TABLE t (k {name})")).await?;
        let plan =
            sql::column(service, "EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM t WHERE ringway.token(k) > 5").await?;
        let text = plan.join("\n");
        ensure!(!text.contains("ringway."), "{key_type}: ringway.token is not inlined:\n{text}");
        ensure!(text.contains("Filter") && text.contains("hash"), "{key_type}: no hash in\n{text}");
        service.batch_execute("DROP TABLE t").await?;
    }
    Ok(())
}

async fn null_has_no_token(client: &Client) -> Result<()> {
    for key_type in KeyType::ALL {
        let query = format!("SELECT ringway.token(NULL::{}) IS NULL", key_type.sql_name());
        ensure!(sql::value(client, &query).await? == "t", "{key_type}: NULL has a token");
    }
    Ok(())
}
