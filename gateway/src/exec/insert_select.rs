//! INSERT of a query's rows that travel: read whole, within `insert_select_bytes_max`, then inserted by the owners of their keys.
//!
//! Every owner runs one INSERT over arrays of the query's own types, so that PostgreSQL assigns the values to the columns. A
//! key is what a shard makes of its value by the same assignment. All of it is one transaction, under one topology.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use ringway_topology::ids::ShardId;
use ringway_topology::model::quote_literal;

use super::aggregate::type_names;
use super::bound::{Bound, Statement};
use super::client::Capture;
use super::computed::{self, Key};
use super::describe;
use super::dispatch::{self, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::fanout::all_rows;
use super::fleet::ShardRequest;
use super::hold::Admitted;
use super::place::place;
use crate::merge::combine::Partials;
use crate::plan::clock::fixed;
use crate::plan::computed::cast_name;
use crate::plan::route::{evaluate, Parameter};
use crate::plan::types::{Access, InsertSelect, KeyExpression, Plan};
use crate::pool::connection::{row_values, StatementId};
use crate::pool::Claim;
use crate::wire::backend::FieldDescription;
use crate::wire::{frontend, Format, Frame, PgError, SqlState};

const TEXT_OID: u32 = describe::TEXT_OID;
/// text, bpchar, varchar, name, "char": a text is assigned to them.
const STRING_OIDS: &[u32] = &[TEXT_OID, 1042, 1043, 19, 18];
/// Names that are looked up by these belong to no type of PostgreSQL's.
const LITERAL_OID_MIN: u32 = u32::MAX - 4096;

/// What the query gave: its rows, as bodies of DataRow messages, and their keys.
struct Travelling {
    columns: Columns,
    rows: Vec<Bytes>,
    keys: Vec<Key>,
}

/// Columns of the rows that travel, and the names of types that are not PostgreSQL's own.
struct Columns {
    fields: Vec<FieldDescription>,
    names: BTreeMap<u32, String>,
}

impl Columns {
    fn rows(&self) -> Result<Partials, Failure> {
        Ok(Partials::new(&self.fields, |oid| self.names.get(&oid).cloned(), usize::MAX)?)
    }
}

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    plan: &InsertSelect,
) -> Result<Completed, Failure> {
    executor.begin_implicit();
    let open = executor.transaction.participants.keys().next().copied();
    let shard = executor.only_shard.or(open).or(admitted.view.topology.home_shard());
    let shard = shard.ok_or_else(|| PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet"))?;
    // What is wrong with the statement is said before anything is read, and parameters have the types that it gives them.
    let types = describe::ask(executor, &admitted.view, shard, &run.bound.statement).await?.parameters;
    let given = run.bound.parsed()?.map_or(0, |bind| bind.parameters.len());
    if given != types.len() {
        let count = types.len();
        let message = format!("the bind message does not supply the {count} parameters of the prepared statement");
        return Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into());
    }
    let select = self::select(executor, run, plan, &types)?;
    let described = describe::ask(executor, &admitted.view, shard, &select.statement).await?;
    let fields = described.fields.ok_or_else(|| PgError::internal("a query of INSERT gives no columns"))?;
    if fields.len() <= plan.key_position {
        let name = plan.columns.get(plan.key_position).map_or("", |(name, _)| name.as_str());
        return Err(PgError::refused(
            format!("INSERT into {} does not give the shard key \"{name}\"", plan.table),
            format!("Give a value for \"{name}\"."),
        )
        .detail("Which shard its rows belong to is not known.")
        .into());
    }
    let names = ["extra_float_digits", "datestyle", "intervalstyle"];
    exact_as_text(executor, admitted, shard, &names, "INSERT ... SELECT between shards").await?;
    let columns = columns(executor, admitted, plan, shard, fields).await?;
    let captured = read(executor, admitted, &select).await?;
    let rows = data_rows(executor, captured).await?;
    let keys = keys(executor, admitted, plan, shard, &columns, &rows).await?;

    let requests = requests(executor, run, admitted, plan, &types, Travelling { columns, rows, keys })?;
    all_rows(executor, run, admitted, requests).await
}

/// The query as a statement of its own, its rows as text.
fn select(executor: &Executor, run: &Run<'_>, plan: &InsertSelect, types: &[u32]) -> Result<Bound, Failure> {
    let bind = match run.bound.parsed()? {
        None => None,
        Some(bind) => {
            let mut message = BytesMut::new();
            let formats = (0..bind.parameters.len()).map(|index| bind.parameter_formats.get(index));
            frontend::bind(&mut message, "", "", formats, bind.parameters.iter(), [] as [Format; 0]);
            Some(Frame::new(message.freeze()).map_err(PgError::from)?)
        }
    };
    let id = executor.statement_id(&plan.select_sql, types);
    let statement = executor.statement_with(Arc::clone(&plan.select_sql), types.to_vec(), id);
    Ok(Bound { statement: Arc::new(statement), bind })
}

/// The query's answer, read to its end.
async fn read(executor: &mut Executor, admitted: &Admitted, bound: &Bound) -> Result<Bytes, Failure> {
    let view = &admitted.view;
    let planned = executor.plan(&bound.statement.sql, view)?;
    let query = match &planned.plan {
        Ok(Plan::Query(query)) => query,
        Ok(_) => return Err(PgError::internal("the query of an INSERT is no query").into()),
        Err(error) => return Err(Failure::Error(error.clone())),
    };
    let open = executor.transaction.participants.keys().next().copied();
    let placement = match executor.only_shard {
        Some(only) => super::place::Placement { shards: smallvec::smallvec![only], keyed: true, ..Default::default() },
        None => place(&view.topology, &query.targets, query.access, &bound.values()?, open.or(executor.last_shard))?,
    };
    if query.access != Access::Read {
        executor.slot.writes(&placement.footprints);
    }
    if let (true, Some(shard)) = (planned.pins, placement.single()) {
        executor.pin(shard);
    }
    let reading = Admitted { view: Arc::clone(view), planned: Arc::clone(&planned), placement, access: query.access };
    let bytes_max = executor.gateway.config.limits.insert_select_bytes_max;
    let capture = Capture { bytes: BytesMut::new(), bytes_max, too_large };
    let outer = executor.client.exchange_capture(Some(capture));
    let run = Run { bound, describe: false, rows_max: 0, portal: "" };
    let completed = Box::pin(dispatch::query(executor, &run, &reading, query)).await;
    let captured = executor.client.exchange_capture(outer);
    completed?;
    Ok(captured.map(|capture| capture.bytes.freeze()).unwrap_or_default())
}

fn too_large(bytes_max: usize) -> PgError {
    PgError::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("the rows of INSERT ... SELECT are larger than insert_select_bytes_max ({bytes_max} bytes)"),
    )
    .detail("Rows that travel between shards are read whole before the first one is inserted.")
    .hint("Insert fewer rows at a time, use COPY, or raise insert_select_bytes_max.")
}

/// The rows among the messages; the rest (notices) is the client's.
async fn data_rows(executor: &mut Executor, mut captured: Bytes) -> Result<Vec<Bytes>, Failure> {
    let mut rows = Vec::new();
    while captured.len() >= 5 {
        let tag = captured[0];
        let length = 1 + (&captured[1..5]).get_u32() as usize;
        if length < 5 || length > captured.len() {
            break;
        }
        let message = captured.split_to(length);
        match tag {
            b'D' => rows.push(message.slice(5..)),
            _ => executor.client.forward(&message).await?,
        }
    }
    if !captured.is_empty() {
        return Err(PgError::internal("the rows of a query end within a message").into());
    }
    Ok(rows)
}

/// The types in which rows travel. PostgreSQL reads a literal without a type in a select list as the type of the column that it is
/// assigned to, and the query by itself gives it as text: such a text is read as that type again.
async fn columns(
    executor: &mut Executor,
    admitted: &Admitted,
    plan: &InsertSelect,
    shard: ShardId,
    mut fields: Vec<FieldDescription>,
) -> Result<Columns, Failure> {
    let oids: Vec<u32> = fields.iter().map(|field| field.type_oid).collect();
    let mut names = type_names(executor, admitted, &oids).await?;
    let literal = |index: usize| {
        let (field, column) = (fields.get(index)?, plan.columns.get(index)?);
        (field.type_oid == TEXT_OID && !STRING_OIDS.contains(&column.1)).then(|| column.0.clone())
    };
    let candidates: Vec<(usize, String)> =
        (0..fields.len()).filter_map(|index| Some((index, literal(index)?))).collect();
    if candidates.is_empty() {
        return Ok(Columns { fields, names });
    }
    let shard = executor.shard(&admitted.view, shard)?;
    let mut connection = executor.gateway.pools.service(shard)?.checkout(Claim::Further).await?;
    // Types of these columns that a text is not assigned to: nothing but a literal can have been.
    let sql = format!(
        "WITH RECURSIVE base AS (SELECT a.attname, a.atttypid AS type FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid OPERATOR(pg_catalog.=) {}::pg_catalog.regclass AND a.attnum OPERATOR(pg_catalog.>) 0 \
         UNION ALL SELECT b.attname, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) b.type \
         WHERE t.typtype OPERATOR(pg_catalog.=) 'd') \
         SELECT b.attname, pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) \
         pg_catalog.quote_ident(t.typname) FROM base b JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) b.type \
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace \
         WHERE t.typtype OPERATOR(pg_catalog.<>) 'd' AND t.typcategory OPERATOR(pg_catalog.<>) 'S' AND NOT EXISTS \
         (SELECT FROM pg_catalog.pg_cast c WHERE c.castsource OPERATOR(pg_catalog.=) 25 \
         AND c.casttarget OPERATOR(pg_catalog.=) t.oid AND c.castcontext OPERATOR(pg_catalog.<>) 'e')",
        quote_literal(&plan.table.quoted())
    );
    let rows = connection.query(&sql).await?;
    let pair = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        Some((values.next()?, values.next()?))
    };
    let types: BTreeMap<String, String> = rows.into_iter().filter_map(pair).collect();
    for (index, column) in candidates {
        if let Some(name) = types.get(&column) {
            let oid = LITERAL_OID_MIN + index as u32;
            fields[index].type_oid = oid;
            names.insert(oid, name.clone());
        }
    }
    Ok(Columns { fields, names })
}

/// Refuses settings, wherever they come from, in which a value's text may be read as another value.
pub async fn exact_as_text(
    executor: &mut Executor,
    admitted: &Admitted,
    shard: ShardId,
    names: &[&str],
    what: &str,
) -> Result<(), Failure> {
    let shown: Vec<String> = names.iter().map(|name| format!("pg_catalog.current_setting('{name}')")).collect();
    let sql = Arc::from(format!("SELECT {}", shown.join(", ")));
    let statement = Arc::new(Statement::new(sql, Vec::new(), StatementId(0)));
    let answers = computed::ask(executor, &admitted.view, shard, &Bound { statement, bind: None }).await?;
    let row = answers.rows.first().and_then(|row| row_values(row.get(5..)?)).ok_or_else(unreadable)?;
    for (name, value) in names.iter().copied().zip(row) {
        let set = String::from_utf8_lossy(value.unwrap_or_default()).to_ascii_lowercase();
        let exact = match name {
            "extra_float_digits" => set.parse::<i32>().is_ok_and(|digits| digits > 0),
            "datestyle" => set.starts_with("iso"),
            _ => set == "postgres",
        };
        if !exact {
            return Err(PgError::refused(
                format!("{what} is not supported while {name} is {set}"),
                "SET extra_float_digits = 1, datestyle = 'ISO' and intervalstyle = 'postgres' first.",
            )
            .detail("Values travel as text, which may then be read as other values.")
            .into());
        }
    }
    Ok(())
}

/// The keys as they will be stored.
async fn keys(
    executor: &mut Executor,
    admitted: &Admitted,
    plan: &InsertSelect,
    shard: ShardId,
    columns: &Columns,
    rows: &[Bytes],
) -> Result<Vec<Key>, Failure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let field = columns.fields[plan.key_position].clone();
    let mut values = Partials::new(&[field], |oid| columns.names.get(&oid).cloned(), usize::MAX)?;
    for row in rows {
        let row = row_values(row).ok_or_else(unreadable)?;
        values.push_values([*row.get(plan.key_position).ok_or_else(unreadable)?])?;
    }
    let item = values.from_item(0);
    let cast = cast_name(plan.key_type, plan.typmod);
    let sql: Arc<str> = format!("SELECT CAST(p.c0 AS {cast}) FROM {}", item.sql).into();
    let mut message = BytesMut::new();
    frontend::bind(&mut message, "", "", [Format::Text], item.arrays.iter().map(Some), [Format::Binary]);
    let bind = Some(Frame::new(message.freeze()).map_err(PgError::from)?);
    let statement = Arc::new(Statement::new(sql, Vec::new(), StatementId(0)));
    let answers = computed::ask(executor, &admitted.view, shard, &Bound { statement, bind }).await?;
    if answers.rows.len() != rows.len() {
        return Err(PgError::internal("a shard has not computed every key").into());
    }
    let body = |row: &Bytes| row.slice(5..);
    answers.rows.iter().map(|row| computed::key(&body(row), plan.key_type, plan.typmod)).collect()
}

fn unreadable() -> PgError {
    PgError::internal("a shard's row cannot be read")
}

/// One INSERT for each owner; without rows one shard runs it, for what an INSERT does besides.
fn requests(
    executor: &Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    plan: &InsertSelect,
    types: &[u32],
    Travelling { columns, rows, keys }: Travelling,
) -> Result<Vec<ShardRequest>, Failure> {
    let keyspace = admitted.view.topology.keyspace(plan.keyspace);
    let keyspace = keyspace.ok_or_else(|| PgError::internal("a keyspace of the plan is not in the topology"))?;
    let shards = &admitted.placement.shards;
    let mut owned: BTreeMap<ShardId, Partials> = BTreeMap::new();
    let expression = KeyExpression::Parameter { index: 0, key_type: plan.key_type, typmod: -1 };
    for (row, key) in rows.iter().zip(&keys) {
        let parameter = Parameter { type_oid: plan.key_type.oid(), format: Format::Binary, value: key.as_deref() };
        let owner = match evaluate(&expression, &[parameter])? {
            Some(key) => executor.only_shard.unwrap_or(keyspace.owner(key.token())),
            None => return Err(null_key(plan).into()),
        };
        if !shards.contains(&owner) {
            return Err(PgError::internal("a row of an INSERT has an owner of its own").into());
        }
        let partials = match owned.entry(owner) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(columns.rows()?),
        };
        partials.push_values(row_values(row).ok_or_else(unreadable)?)?;
    }
    if owned.is_empty() {
        let first = shards.first().copied().ok_or_else(|| PgError::internal("no shard to insert on"))?;
        owned.insert(first, columns.rows()?);
    }
    let bind = run.bound.parsed()?;
    let readings = executor.readings();
    let names: Vec<String> = (0..columns.fields.len()).map(|index| format!("p.c{index}")).collect();
    let mut requests = Vec::with_capacity(owned.len());
    for (shard, partials) in owned {
        let item = partials.from_item(types.len());
        let mut sql = format!("{}SELECT {} FROM {} {}", plan.head, names.join(", "), item.sql, plan.tail);
        if plan.clock {
            sql = fixed(&sql, &readings).unwrap_or(sql);
        }
        let mut formats: Vec<Format> = Vec::new();
        let mut values: Vec<Option<&[u8]>> = Vec::new();
        let mut results: Vec<Format> = Vec::new();
        if let Some(bind) = &bind {
            formats.extend((0..types.len()).map(|index| bind.parameter_formats.get(index)));
            values.extend(bind.parameters.iter());
            results.extend(bind.result_formats.iter());
        }
        formats.extend(item.arrays.iter().map(|_| Format::Text));
        values.extend(item.arrays.iter().map(|array| Some(&array[..])));
        let mut message = BytesMut::new();
        frontend::bind(&mut message, "", "", formats, values, results);
        let bind = Some(Frame::new(message.freeze()).map_err(PgError::from)?);
        let statement = executor.statement_with(Arc::from(sql.as_str()), types.to_vec(), StatementId(0));
        let bound = Bound { statement: Arc::new(statement), bind };
        let describe = run.describe && plan.returns_rows;
        requests.push(ShardRequest { shard, bound, text: Some(sql), describe, before: Vec::new() });
    }
    Ok(requests)
}

fn null_key(plan: &InsertSelect) -> PgError {
    let column = plan.columns.get(plan.key_position).map_or("", |(name, _)| name.as_str());
    PgError::new(
        SqlState::NOT_NULL_VIOLATION,
        format!("null value in column \"{column}\" of relation \"{}\" violates not-null constraint", plan.table.name),
    )
}
