//! Statements in, plans out: `testdata/*.test`. Each case is a statement (lines up to `----`) and what is planned (lines up to
//! an empty line). `UPDATE_PLANS=1 cargo test -p ringway-gateway --lib plan` rewrites them; the difference is to be reviewed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use ringway_topology::ids::{Epoch, KeyspaceId, MoveId, ShardId};
use ringway_topology::model::{
    Keyspace, Move, MoveKind, MoveRouting, Phase, Placement, Shard, ShardState, Table, TableKind, TableName, Topology,
};
use ringway_topology::ring::{Ring, TokenArc};
use ringway_topology::token::{KeyFamily, KeyType};

use super::filter::filtered;
use super::types::{Fragment, InsertSelect, Limited, MultiShard, Plan, PointRead, Query, Targets};
use super::{plan, route, Parameter, PlanContext};
use crate::catalog::Catalog;
use crate::wire::{Format, PgError};

pub fn topology() -> Topology {
    let mut topology = Topology::empty("test".into(), "secret".into());
    topology.epoch = Epoch(7);
    for number in 1..=3u16 {
        let shard = Shard {
            id: ShardId(number),
            name: format!("s{number}"),
            dsn: String::new(),
            state: ShardState::Member,
            system_identifier: 0,
        };
        topology.shards.insert(shard.id, shard);
    }
    let shards = [ShardId(1), ShardId(2), ShardId(3)];
    let families = [
        (1, "users", KeyFamily::Integer),
        (2, "slugs", KeyFamily::Text),
        (3, "events", KeyFamily::Uuid),
        (4, "ledger", KeyFamily::Numeric),
        (5, "parted", KeyFamily::Integer),
    ];
    for (id, name, family) in families {
        let ring = Ring::equal(&shards).unwrap();
        let id = KeyspaceId(id);
        topology.keyspaces.insert(id, Keyspace { id, name: name.into(), family, placement: Placement::Ring(ring) });
    }
    let sharded = [
        ("users", "id", 1, KeyType::Int8),
        ("orders", "user_id", 1, KeyType::Int8),
        ("items", "user_id", 1, KeyType::Int4),
        ("serials", "id", 1, KeyType::Int8),
        ("tenants", "slug", 2, KeyType::Text),
        ("pages", "slug", 2, KeyType::Varchar),
        ("events", "id", 3, KeyType::Uuid),
        ("ledger", "k", 4, KeyType::Numeric),
        ("parted", "k", 5, KeyType::Int4),
        ("audited", "id", 1, KeyType::Int8),
        ("summed", "id", 1, KeyType::Int8),
        ("guarded", "id", 1, KeyType::Int8),
        ("clubs", "id", 1, KeyType::Int8),
        ("loose", "id", 1, KeyType::Int8),
        ("shifted", "id", 1, KeyType::Int8),
    ];
    for (name, key, keyspace, key_type) in sharded {
        topology.tables.push(Table {
            name: TableName::new("public", name),
            kind: TableKind::Sharded { keyspace: KeyspaceId(keyspace), key_column: key.into(), key_type },
            changing: false,
        });
    }
    for name in ["products", "logged", "touched"] {
        topology.tables.push(Table {
            name: TableName::new("public", name),
            kind: TableKind::Reference,
            changing: false,
        });
    }
    topology
}

fn describe_error(error: &PgError) -> String {
    let mut out = format!("ERROR {}: {}\n", error.code, error.message);
    for (name, part) in [("detail", &error.detail), ("hint", &error.hint)] {
        if let Some(part) = part {
            let _ = writeln!(out, "  {name}: {part}");
        }
    }
    out
}

fn describe_travelling(insert: &InsertSelect) -> String {
    let InsertSelect { select_sql, head, tail, key_position, .. } = insert;
    format!("rows travel: key {key_position}\n  select: {select_sql}\n  head {head:?} tail {tail:?}\n")
}

fn describe(result: &Result<Plan, PgError>) -> String {
    match result {
        Err(error) => describe_error(error),
        Ok(Plan::Query(query)) => {
            let mut out = String::new();
            let targets = match &query.targets {
                Targets::Keys(keys) => format!("Keys(keyspace {}) {:?}", keys.keyspace, keys.values),
                Targets::Keyspace(id) => format!("Keyspace({id})"),
                other => format!("{other:?}"),
            };
            let (rows, clock) = (query.returns_rows, query.clock);
            let told = [(rows, " rows"), (clock, " clock")].map(|(is, word)| if is { word } else { "" }).concat();
            let _ = writeln!(out, "{:?} {targets}{told}", query.access);
            match &query.multi {
                MultiShard::Refused(error) => out.push_str(&format!("refused: {}", describe_error(error))),
                MultiShard::Gather(gather) => {
                    out.push_str("gather\n");
                    for Fragment { sql, primary_key, limited, .. } in &gather.fragments {
                        let key = if primary_key.is_empty() { String::new() } else { format!(" key {primary_key:?}") };
                        let _ = writeln!(out, "  fragment{key}: {sql}");
                        for Limited { fragment, column, sql, .. } in limited {
                            let _ = writeln!(out, "    by {fragment}.{column}: {sql}");
                        }
                    }
                    let _ = writeln!(out, "  sql: {}", gather.text(1).unwrap());
                }
                MultiShard::Concatenate(c) => {
                    if c.sql.is_some() || c.limit.limit.is_some() || c.limit.offset.is_some() {
                        let _ = writeln!(out, "concatenate: limit {:?} offset {:?}", c.limit.limit, c.limit.offset);
                    } else {
                        out.push_str("concatenate\n");
                    }
                    if let Some(sql) = &c.sql {
                        let _ = writeln!(out, "  sql: {sql}");
                    }
                }
                MultiShard::MergeSort(m) => {
                    let keys: Vec<String> = m
                        .order
                        .iter()
                        .map(|k| {
                            format!(
                                "{}{}{}",
                                k.column,
                                if k.descending { " desc" } else { "" },
                                if k.nulls_first { " nulls first" } else { "" }
                            )
                        })
                        .collect();
                    let _ = writeln!(
                        out,
                        "merge by [{}] hidden {} distinct {:?} limit {:?} offset {:?}\n  sql: {}",
                        keys.join(", "),
                        m.hidden_columns,
                        m.distinct,
                        m.limit.limit,
                        m.limit.offset,
                        m.sql
                    );
                }
                MultiShard::Aggregate(a) => {
                    let _ = writeln!(
                        out,
                        "aggregate: {} columns, parameters {:?}\n  partial: {}\n  combine: {}",
                        a.partial_columns, a.combine_parameters, a.partial_sql, a.combine_sql
                    );
                }
                MultiShard::InsertSplit(split) => {
                    let rows: Vec<&str> = split.rows.iter().map(|row| &query.sql[row.start..row.end]).collect();
                    let _ = writeln!(
                        out,
                        "split: head {:?} rows {rows:?} tail {:?}",
                        &query.sql[..split.head_end],
                        &query.sql[split.tail_start..]
                    );
                }
                MultiShard::InsertSelect(insert) => out.push_str(&describe_travelling(insert)),
                other => {
                    let _ = writeln!(out, "{other:?}");
                }
            }
            out
        }
        Ok(Plan::InsertSelect(insert)) => {
            format!("Write Keyspace({})\n{}", insert.keyspace, describe_travelling(insert))
        }
        Ok(Plan::AtCursor(write)) => {
            format!("at cursor {:?}\n{}", write.cursor, describe(&Ok(Plan::Query(Query::clone(&write.query)))))
        }
        Ok(plan) => format!("{plan:?}\n"),
    }
}

fn files() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/plan/testdata");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    files
}

fn catalog() -> Catalog {
    Catalog::parse(include_str!("testdata/catalog.json")).unwrap()
}

fn cases() -> Vec<(PathBuf, Vec<(String, String)>)> {
    files()
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut cases = Vec::new();
            let mut sql: Vec<&str> = Vec::new();
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                if line == "----" {
                    let expected: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                    let expected = expected.iter().map(|line| format!("{line}\n")).collect();
                    cases.push((sql.join("\n"), expected));
                    sql.clear();
                } else if !line.is_empty() || !sql.is_empty() {
                    sql.push(line);
                }
            }
            (path, cases)
        })
        .collect()
}

#[test]
fn plans_are_as_reviewed() {
    let (catalog, topology) = (catalog(), topology());
    let path = ["$user".to_owned(), "public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let update = std::env::var_os("UPDATE_PLANS").is_some();
    let mut differences = String::new();
    let mut seen = BTreeMap::new();
    for (path, cases) in cases() {
        let mut rewritten = String::new();
        for (sql, expected) in cases {
            *seen.entry(sql.clone()).or_insert(0) += 1;
            let planned = describe(&plan(&sql, &context));
            let _ = write!(rewritten, "{sql}\n----\n{planned}\n");
            if planned != expected && !update {
                let _ = writeln!(differences, "{}: {sql}\nexpected: {expected}planned:  {planned}", path.display());
            }
        }
        if update {
            std::fs::write(path, rewritten).unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(seen.len() >= 150, "only {} statements", seen.len());
    let doubled: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "twice: {doubled:?}");
}

/// Everything that shards may be sent is SQL that parses, and splicing nothing changes nothing.
#[test]
fn texts_for_shards_parse() {
    use crate::sql::parse::{parse, Text};
    use crate::sql::splice::apply;
    let (catalog, mut topology) = (catalog(), topology());
    moving(&mut topology);
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let mut filters = 0;
    for (_, cases) in cases() {
        for (sql, _) in cases {
            assert_eq!(apply(&sql, &[]).as_deref(), Some(sql.as_str()));
            let Ok(Plan::Query(query)) = plan(&sql, &context) else { continue };
            let text = match &query.multi {
                MultiShard::Concatenate(c) => c.sql.clone().unwrap_or_else(|| query.sql.clone()),
                MultiShard::MergeSort(m) => m.sql.clone(),
                MultiShard::Aggregate(a) => a.partial_sql.clone(),
                MultiShard::Write => query.sql.clone(),
                MultiShard::Gather(gather) => gather.text(1).unwrap().into(),
                _ => continue,
            };
            let check = |text: &str| {
                let parsed = parse(&Text::new(text).unwrap());
                assert!(parsed.is_ok(), "{sql}\n{text}\n{parsed:?}");
            };
            check(&text);
            for reference in &query.rewritten {
                if let super::types::FilterSplice::Relation { start, end, .. } = &reference.splice {
                    let written = text[*start..*end].to_lowercase();
                    let named = written.contains(&reference.table.name) || written.starts_with("u&");
                    assert!(named, "{sql}: {text}");
                }
            }
            if let Ok(Some(filtered)) = filtered(&text, &query.rewritten, &topology, ShardId(1)) {
                check(&filtered);
                filters += 1;
            }
        }
    }
    assert!(filters > 20, "only {filters} texts were filtered");
}

fn moving(topology: &mut Topology) {
    for keyspace in 1..=5 {
        let keyspace = KeyspaceId(keyspace);
        let arc = topology.keyspaces[&keyspace].ring().arcs_of(ShardId(2))[0];
        let id = MoveId(u64::from(keyspace.0));
        topology.moves.insert(
            id,
            Move {
                id,
                kind: MoveKind::Move,
                keyspace,
                source: ShardId(2),
                target: ShardId(1),
                arcs: vec![TokenArc::new(Some(arc.through - 10), arc.through).unwrap()],
                phase: Phase::Mirroring,
                routing: MoveRouting { filter: true, mirror: true, hold: false },
            },
        );
    }
}

#[test]
fn filters_hide_foreign_rows() {
    let (catalog, mut topology) = (catalog(), topology());
    moving(&mut topology);
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let text = |sql: &str, shard: u16| -> Option<String> {
        let Plan::Query(query) = plan(sql, &context).unwrap() else { panic!("{sql}") };
        filtered(sql, &query.sharded, &topology, ShardId(shard)).unwrap()
    };
    let arc = topology.moves[&MoveId(1)].arcs[0];
    let condition = |table: &str, key: &str| arc.sql_condition(&format!("ringway.token(\"{table}\".\"{key}\")"));
    assert_eq!(
        text("SELECT * FROM ONLY orders o", 1).unwrap(),
        format!("SELECT * FROM (SELECT * FROM ONLY orders WHERE NOT ({})) o", condition("orders", "user_id"))
    );
    assert_eq!(
        text("DELETE FROM users RETURNING id", 1).unwrap(),
        format!("DELETE FROM users WHERE NOT ({}) RETURNING id", condition("users", "id"))
    );
    assert_eq!(
        text("UPDATE users u SET age = 1 WHERE age = 2 OR age = 3", 1).unwrap(),
        format!("UPDATE users u SET age = 1 WHERE (age = 2 OR age = 3) AND NOT ({})", condition("u", "id"))
    );
    assert_eq!(text("SELECT * FROM orders", 2), None, "the source owns what moves");
    assert_eq!(text("SELECT * FROM orders", 3), None);
}

#[test]
fn routes_by_parameters() {
    let (catalog, topology) = (catalog(), topology());
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let routed = |sql: &str, parameters: &[Parameter<'_>]| {
        let Plan::Query(query) = plan(sql, &context).unwrap() else { panic!("{sql}") };
        route(&query.targets, &topology, parameters)
    };
    let text = |oid, value| Parameter { type_oid: oid, format: Format::Text, value: Some(value) };
    let literal = routed("SELECT * FROM users WHERE id = 42", &[]).unwrap();
    assert_eq!(literal.shards.len(), 1);
    let sql = "SELECT * FROM users WHERE id = $1";
    for oid in [0, 20, 21, 23] {
        assert_eq!(routed(sql, &[text(oid, b"42")]).unwrap(), literal);
    }
    let binary = Parameter { type_oid: 23, format: Format::Binary, value: Some(&[0, 0, 0, 42]) };
    assert_eq!(routed(sql, &[binary]).unwrap(), literal);
    let null = Parameter { type_oid: 20, format: Format::Text, value: None };
    let nothing = routed(sql, &[null]).unwrap();
    assert!(nothing.tokens.is_empty() && nothing.shards.len() == 1);
    assert_eq!(routed(sql, &[text(20, b"x")]).unwrap_err().code.to_string(), "22P02");
    assert_eq!(routed(sql, &[text(1700, b"42.0")]).unwrap_err().code.to_string(), "0A000");
    let array = routed("SELECT * FROM users WHERE id = ANY($1)", &[text(1016, b"{42, 42,NULL}")]).unwrap();
    assert_eq!(array.shards, literal.shards);
    let any = routed("SELECT * FROM users WHERE id = ANY($1)", &[text(1016, b"{1,2,3,4,5,6,7,8,9,10}")]).unwrap();
    assert_eq!(any.shards.as_slice(), [ShardId(1), ShardId(2), ShardId(3)]);
    assert!(routed("SELECT * FROM users WHERE id = ANY($1)", &[text(1016, b"{{1},{2}}")]).is_err());
    let cast = routed("SELECT * FROM users WHERE id = $1::int", &[text(25, b"42")]).unwrap();
    assert_eq!(cast, literal);
    let empty = routed("SELECT * FROM users WHERE id = ANY('{}')", &[]).unwrap();
    assert_eq!(empty.shards.len(), 1);
    let too_long = routed("INSERT INTO pages VALUES ($1, 'a', 'b')", &[text(1043, b"123456789012345678901")]);
    assert_eq!(too_long.unwrap_err().code.to_string(), "0A000");
}

/// The codes that PostgreSQL gives for what cannot be a value of the key's type.
#[test]
fn keys_that_are_no_values_have_postgresqls_codes() {
    let (catalog, topology) = (catalog(), topology());
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let (by_id, by_slug) = ("SELECT * FROM users WHERE id = $1", "SELECT * FROM tenants WHERE slug = $1");
    let by_ids = "SELECT * FROM users WHERE id = ANY($1)";
    let array = |words: &[i32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    for (sql, oid, format, value, code) in [
        (by_slug, 25, Format::Text, b"\xff".to_vec(), "22021"),
        (by_slug, 25, Format::Binary, b"\xff".to_vec(), "22021"),
        (by_slug, 25, Format::Text, b"a\0b".to_vec(), "22021"),
        (by_slug, 25, Format::Binary, b"a\0b".to_vec(), "22021"),
        (by_id, 20, Format::Text, b"1\0".to_vec(), "22021"),
        (by_id, 20, Format::Binary, vec![0; 4], "08P01"),
        (by_id, 20, Format::Binary, vec![], "08P01"),
        (by_id, 20, Format::Binary, vec![0; 9], "22P03"),
        (by_ids, 1016, Format::Text, b"{\xff}".to_vec(), "22021"),
        (by_ids, 1016, Format::Binary, array(&[1, 0, 20, 2_000_000_000, 1]), "54000"),
        (by_ids, 1016, Format::Binary, array(&[2, 0, 20, 100_000, 1, 100_000, 1]), "54000"),
        (by_ids, 1016, Format::Binary, array(&[1, 0, 20, -1, 1]), "54000"),
        (by_ids, 1016, Format::Binary, array(&[7, 0, 20]), "54000"),
        (by_ids, 1016, Format::Binary, array(&[-1, 0, 20]), "22P03"),
        (by_ids, 1016, Format::Binary, array(&[1, 2, 20, 1, 1]), "22P03"),
        (by_ids, 1016, Format::Binary, array(&[1, 0, 20, 2, 1, -1]), "08P01"),
        (by_ids, 1016, Format::Binary, array(&[1, 0, 20, 1, 1, 8, 0]), "22P03"),
        (by_ids, 1016, Format::Binary, array(&[1, 0, 20, 1, 1, 4, 0]), "08P01"),
    ] {
        let Plan::Query(query) = plan(sql, &context).unwrap() else { panic!("{sql}") };
        let parameter = Parameter { type_oid: oid, format, value: Some(&value) };
        let error = route(&query.targets, &topology, &[parameter]).unwrap_err();
        assert_eq!(error.code.to_string(), code, "{sql} {value:?}: {}", error.message);
    }
}

#[test]
fn more_keys_than_the_limit_are_for_every_shard() {
    use super::analysis::KEYS_PER_STATEMENT_MAX;
    let (catalog, topology) = (catalog(), topology());
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let targets = |keys: usize| {
        let list: Vec<String> = (0..keys).map(|key| key.to_string()).collect();
        let sql = format!("SELECT count(*) FROM users WHERE id IN ({0}, {0})", list.join(", "));
        let Plan::Query(query) = plan(&sql, &context).unwrap() else { panic!("{keys} keys") };
        query.targets
    };
    let Targets::Keys(keys) = targets(KEYS_PER_STATEMENT_MAX) else { panic!("not by keys") };
    assert_eq!(keys.values.len(), KEYS_PER_STATEMENT_MAX, "each once");
    assert!(matches!(targets(KEYS_PER_STATEMENT_MAX + 1), Targets::Keyspace(KeyspaceId(1))));
}

#[test]
fn point_reads_find_one_row_and_compute_nothing() {
    let (catalog, topology) = (catalog(), topology());
    let path = ["public".to_owned()];
    let context =
        PlanContext { catalog: &catalog, topology: &topology, search_path: &path, user: "app", one_shard: false };
    let point_read = |sql: &str| match plan(sql, &context) {
        Ok(Plan::Query(query)) => query.point_read,
        _ => None,
    };
    let is_point_read = |sql: &str| point_read(sql).is_some();
    for sql in [
        "SELECT * FROM users WHERE id = $1",
        "SELECT name, u.email AS mail FROM public.users AS u WHERE u.id = $1::bigint AND name = 'x' LIMIT $2",
        "SELECT \"age\" FROM users WHERE ((-5) = (id))",
        "SELECT amount FROM orders WHERE user_id = 1 AND id = 2",
        "SELECT value FROM settings WHERE key = 'k'",
    ] {
        assert!(is_point_read(sql), "{sql}");
    }
    for sql in [
        "SELECT * FROM users",
        "SELECT * FROM users WHERE name = 'x'",
        "SELECT * FROM users WHERE id = 1 OR id = 2",
        "SELECT * FROM users WHERE id > 1",
        "SELECT * FROM users WHERE id = age",
        "SELECT * FROM users WHERE id = 1 AND lower(name) = 'x'",
        "SELECT * FROM users WHERE id = (SELECT 1)",
        "SELECT * FROM users WHERE id = 1 AND age = $1::positive",
        "SELECT * FROM users WHERE id = 1 FOR UPDATE",
        "SELECT * FROM users WHERE id = 1 OFFSET 1",
        "SELECT * FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = 1",
        "SELECT * FROM users TABLESAMPLE SYSTEM (1) WHERE id = 1",
        "SELECT count(*) FROM users WHERE id = 1",
        "SELECT name || 'x' FROM users WHERE id = 1",
        "SELECT users FROM users WHERE id = 1",
        "SELECT DISTINCT name FROM users WHERE id = 1",
        "SELECT name INTO copied FROM settings WHERE key = 'k'",
        "SELECT amount FROM orders WHERE user_id = 1",
        // Views, policies, partitioned tables, tables without a key, system catalogs.
        "SELECT * FROM cheap_products WHERE id = 1",
        "SELECT * FROM guarded WHERE id = 1",
        "SELECT * FROM parted WHERE k = 1",
        "SELECT * FROM pg_class WHERE oid = 1",
        "SELECT ctid FROM settings WHERE key = 'k'",
        "WITH u AS (SELECT 1) SELECT * FROM settings WHERE key = 'k'",
        "UPDATE users SET age = 1 WHERE id = 1 RETURNING age",
    ] {
        assert!(!is_point_read(sql), "{sql}");
    }
    let stands = |for_numbers, for_strings| Some(PointRead { for_numbers, for_strings });
    assert_eq!(point_read("SELECT * FROM users WHERE id = $1 AND name = $2 LIMIT $3"), stands(0b101, 0b11));
    assert_eq!(point_read("SELECT * FROM users WHERE id = $1::bigint AND $2 = name"), stands(0, 0b10));
    assert_eq!(point_read("SELECT * FROM users WHERE id = - $1"), stands(0, 0));
}
