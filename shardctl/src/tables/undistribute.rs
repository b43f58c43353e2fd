//! A distributed table becomes single again: its rows go to the home shard, in one distributed transaction anchored there.
//!
//! As when it was distributed, its statements wait meanwhile, and what the home shard has committed says how an interrupted
//! change ended ([`super::settle`]).

use ringway_topology::model::{quote_ident, Table, TableKind, TableName, Topology};
use ringway_topology::token::token_sql;

use super::distribute::{drain, refuse_while_moving, Members};
use super::inspect::{ForeignKey, TableInfo};
use super::name::parse_table;
use super::shard_rows::{any_of, commit, lock_everywhere};
use super::{settle, Distributed};
use crate::control::{Control, ControlError};
use crate::shards::copy;
use crate::shards::fences::{self, Fences};

pub async fn undistribute_table(control: &Control, table: &str) -> Result<Distributed, ControlError> {
    let _one = control.lock_operations().await?;
    let name = parse_table(table)?;
    let topology = control.topology();
    let Some(table) = topology.table(&name.schema, &name.name).cloned() else {
        return Err(ControlError::NotFound(format!("{name} is no sharded or reference table")));
    };
    refuse_while_moving(&topology, &table.kind)?;
    let members = Members::connect(control).await?;
    let info = members.inspect(&name).await?;
    check_foreign_keys(&name, &info, &topology)?;
    drop(members);

    fences::raise(control, Fences::DDL).await?;
    let outcome = fenced(control, &name).await;
    if outcome.is_err() {
        settle::settle_table(control, &name).await;
    }
    fences::lift_or_settle_later(control).await;
    outcome
}

/// Foreign keys hold on each shard alone: one whose other end stays on all shards would lose its rows.
fn check_foreign_keys(table: &TableName, info: &TableInfo, topology: &Topology) -> Result<(), ControlError> {
    let kind = |foreign_key: &ForeignKey| {
        let other = topology.table(&foreign_key.other.schema, &foreign_key.other.name);
        other.filter(|other| other.name != *table).map(|other| &other.kind)
    };
    let refuse = |foreign_key: &ForeignKey| {
        Err(ControlError::Precondition(format!(
            "foreign key {} is between {table} and {}, which is distributed; undistribute {} first, or drop the constraint",
            foreign_key.name, foreign_key.other, foreign_key.other
        )))
    };
    if let Some(foreign_key) = info.incoming.iter().find(|one| kind(one).is_some()) {
        return refuse(foreign_key);
    }
    match info.outgoing.iter().find(|one| matches!(kind(one), Some(TableKind::Sharded { .. }))) {
        Some(foreign_key) => refuse(foreign_key),
        None => Ok(()),
    }
}

/// The table's statements wait from the first epoch to the last.
async fn fenced(control: &Control, name: &TableName) -> Result<Distributed, ControlError> {
    let topology = control
        .change("table changing", |topology| {
            let table = topology.tables.iter_mut().find(|table| table.name == *name);
            let table = table.ok_or_else(|| ControlError::NotFound(format!("{name} has been dropped")))?;
            table.changing = true;
            let table = table.clone();
            refuse_while_moving(topology, &table.kind)
        })
        .await?;
    drain(control, &topology, name).await?;
    let members = Members::connect(control).await?;
    // Under the fence: nobody can have added a constraint since.
    check_foreign_keys(name, &members.inspect(name).await?, &topology)?;
    let table = topology.table(&name.schema, &name.name);
    let table = table.ok_or_else(|| ControlError::Internal(format!("{name} is gone from the topology")))?;
    let rows = gather(&topology, &members, table).await?;
    let topology = control
        .change("table undistributed", |topology| {
            topology.tables.retain(|table| table.name != *name);
            topology.catalog_version += 1;
            Ok(())
        })
        .await?;
    fences::everybody_knows(control, topology.epoch).await?;
    Ok(Distributed { epoch: topology.epoch, warnings: Vec::new(), rows })
}

/// Answers the rows that were copied to the home shard.
async fn gather(topology: &Topology, members: &Members, table: &Table) -> Result<u64, ControlError> {
    let name = &table.name;
    lock_everywhere(members, name, "ACCESS EXCLUSIVE").await?;
    let (_, _, home) = members.home();
    let columns = copy::columns(home, name).await?;
    let quoted = name.quoted();
    let mut rows = 0;
    for (index, (shard, label, client)) in members.sessions.iter().enumerate() {
        let labelled = |error: ControlError| error.context(format!("gathering {name} from shard {label}"));
        if let TableKind::Sharded { keyspace, key_column, .. } = &table.kind {
            let space = topology.keyspace(*keyspace);
            let space = space.ok_or_else(|| ControlError::Internal(format!("keyspace {keyspace} is gone")))?;
            let own = any_of(&space.ring().arcs_of(*shard), &token_sql(&quote_ident(key_column)));
            let stray = format!("SELECT EXISTS (SELECT FROM ONLY {quoted} WHERE NOT {own})");
            if client.query_one(&stray, &[]).await?.get(0) {
                return Err(ControlError::Precondition(format!(
                    "shard {label} has rows of {name} that belong to other shards; \"shardctl verify\" names them"
                )));
            }
            if index > 0 {
                let out = format!("COPY (SELECT {columns} FROM ONLY {quoted}) TO STDOUT");
                let input = format!("COPY {quoted} ({columns}) FROM STDIN");
                rows += copy::copy_rows(client, &out, home, &input).await.map_err(labelled)?;
            }
        }
        if index > 0 {
            client.execute(&format!("DELETE FROM ONLY {quoted}"), &[]).await?;
        }
        client.execute("SELECT ringway.forget_table($1::text::pg_catalog.regclass)", &[&quoted]).await?;
    }
    commit(members).await?;
    Ok(rows)
}
