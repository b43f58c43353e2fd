//! How a database becomes a shard.

use std::time::Instant;

use ringway_topology::ids::ShardId;
use ringway_topology::model::{Shard, ShardState, TableKind, Topology};

use super::checks::{self, Server};
use super::fences::{self, Fences};
use super::{copy, dump, migrate, roles, sequences};
use crate::control::{Control, ControlError};
use crate::pg::ServiceClient;

/// Put on the `ringway` schema in the transaction that restores the user's schema: what is there is our own copy.
const COPIED: &str = "ringway: this shard's schema is a copy made while it joined";

#[derive(Debug, Clone)]
pub struct Joined {
    pub shard: ShardId,
    pub warnings: Vec<String>,
}

/// Registers a database as a shard, or goes on with it, until it is a full member. Idempotent. Goes on when the caller
/// goes away.
pub async fn join(control: &Control, name: &str, dsn: &str) -> Result<ShardId, ControlError> {
    Ok(join_with_warnings(control, name, dsn).await?.shard)
}

pub async fn join_with_warnings(control: &Control, name: &str, dsn: &str) -> Result<Joined, ControlError> {
    let (owned, name, dsn) = (control.clone(), name.to_owned(), dsn.to_owned());
    let task = control.spawn(async move {
        let _one = owned.lock_operations().await?;
        join_alone(&owned, &name, &dsn).await
    });
    match task.await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Err(ControlError::ShuttingDown),
        Err(error) => {
            crate::tables::settle_interrupted(control);
            Err(ControlError::Internal(format!("joining failed: {error}")))
        }
    }
}

/// Under the operations' lock.
async fn join_alone(control: &Control, name: &str, dsn: &str) -> Result<Joined, ControlError> {
    checks::check_name(name)?;
    let topology = control.topology();
    let known = topology.shard_named(name).cloned();
    if let Some(shard) = known.as_ref().filter(|shard| shard.state == ShardState::Member) {
        if shard.dsn == dsn {
            return Ok(Joined { shard: shard.id, warnings: Vec::new() });
        }
        return Err(ControlError::Precondition(format!(
            "there already is a shard {name}, with another connection string; choose another name"
        )));
    }
    let mut client = checks::connect(control, dsn, name).await?;
    let server = checks::check_server(&client, name).await?;
    checks::check_identity(&client, &topology.cluster_id, known.as_ref().map(|shard| shard.id), name).await?;

    let shard = store_joining(control, name, dsn, &server).await?;
    let labelled = |error: ControlError| error.context(format!("shard {name}"));
    migrate::migrate(&mut client).await.map_err(labelled)?;
    migrate::record_identity(&client, &control.topology(), shard, name).await.map_err(labelled)?;

    let home = control.topology().home_shard();
    let mut warnings = Vec::new();
    if server.service_role == "ringway" {
        warnings.push(
            "the service role has the name of the schema \"ringway\", so what people create as this role lands there; \
             another name is safer"
                .to_owned(),
        );
    }
    if let Some(home) = home {
        let filled = async {
            fences::raise(control, Fences::ALL).await?;
            warnings.extend(fill(control, &client, shard, home, dsn, &server).await?);
            Ok(())
        };
        if let Err(error) = filled.await {
            fences::lift_or_settle_later(control).await;
            return Err(error);
        }
    }
    let member = become_member(control, shard).await;
    if member.is_err() || home.is_some() {
        fences::lift_or_settle_later(control).await;
    }
    member?;
    tracing::info!(shard = name, number = shard.0, "shard joined");
    Ok(Joined { shard, warnings })
}

/// Persisted before anything is done to the database.
async fn store_joining(control: &Control, name: &str, dsn: &str, server: &Server) -> Result<ShardId, ControlError> {
    let topology = control
        .change("shard joining", |topology| {
            if let Some(id) = topology.shard_named(name).map(|shard| shard.id) {
                if let Some(shard) = topology.shards.get_mut(&id) {
                    shard.dsn = dsn.to_owned();
                    shard.system_identifier = server.system_identifier;
                }
                return Ok(());
            }
            let id = ShardId(topology.next_shard);
            topology.next_shard = topology
                .next_shard
                .checked_add(1)
                .ok_or_else(|| ControlError::Precondition("all 65534 shard numbers have been used".into()))?;
            let shard = Shard {
                id,
                name: name.to_owned(),
                dsn: dsn.to_owned(),
                state: ShardState::Joining,
                system_identifier: server.system_identifier,
            };
            topology.shards.insert(id, shard);
            Ok(())
        })
        .await?;
    let stored = topology.shard_named(name).map(|shard| shard.id);
    stored.ok_or_else(|| ControlError::Internal("a stored shard is gone".into()))
}

/// The epoch that makes it a member; afterwards every gateway knows it, and none is served that does not.
async fn become_member(control: &Control, shard: ShardId) -> Result<(), ControlError> {
    let topology = control
        .change("shard joined", |topology| {
            if let Some(shard) = topology.shards.get_mut(&shard) {
                shard.state = ShardState::Member;
            }
            topology.catalog_version += 1;
            Ok(())
        })
        .await?;
    fences::everybody_knows(control, topology.epoch).await
}

/// Under the fences: schema, roles, reference tables, sequences, and what the guards need.
async fn fill(
    control: &Control,
    client: &ServiceClient,
    shard: ShardId,
    home: ShardId,
    dsn: &str,
    server: &Server,
) -> Result<Vec<String>, ControlError> {
    let started = Instant::now();
    let topology = control.topology();
    let home_dsn = topology.shard(home).map(|shard| shard.dsn.clone()).unwrap_or_default();
    let home_client = control.shard_client(home).await?;
    let home_server = checks::server(&home_client).await?;
    if server.major() < home_server.major() {
        return Err(ControlError::Precondition(format!(
            "the new shard runs PostgreSQL {}, older than the {} of the others; use the same version or a newer one",
            server.major(),
            home_server.major()
        )));
    }
    let mut warnings = roles::copy_roles(&home_client, client).await?;
    let schema = dump::schema(&home_dsn, &home_server).await?;
    restore(client, &schema, dsn, server).await?;
    register_tables(client, &topology).await?;
    copy_reference_tables(&home_client, client, &topology).await?;
    warnings.extend(copy_sequences(control, client, shard, &topology).await?);
    tracing::info!(milliseconds = started.elapsed().as_millis() as u64, "schema and reference tables copied");
    Ok(warnings)
}

/// One transaction. A copy of an earlier attempt may be out of date by now: it is made again.
async fn restore(client: &ServiceClient, schema: &str, dsn: &str, server: &Server) -> Result<(), ControlError> {
    let marked: bool = client
        .query_one(
            "SELECT pg_catalog.obj_description('ringway'::pg_catalog.regnamespace, 'pg_namespace') IS NOT DISTINCT FROM $1",
            &[&COPIED],
        )
        .await?
        .get(0);
    let relations = if marked { Vec::new() } else { checks::user_relations(client).await? };
    if !relations.is_empty() {
        let same = dump::same_schema(&dump::schema(dsn, server).await?, schema) && has_no_rows(client).await?;
        if same {
            return Ok(());
        }
        return Err(ControlError::Precondition(format!(
            "a shard that joins must be an empty database, and this one has {}{}; give an empty one (CREATE DATABASE)",
            relations.join(", "),
            if relations.len() == 10 { ", ..." } else { "" }
        )));
    }
    let wipe = if marked { wipe_sql(client, server).await? } else { String::new() };
    let marker = format!("COMMENT ON SCHEMA ringway IS {}", ringway_topology::model::quote_literal(COPIED));
    let outcome = client.batch_execute(&format!("BEGIN;\n{wipe}\n{schema}\n;{marker};\nCOMMIT")).await;
    if outcome.is_err() {
        client.batch_execute("ROLLBACK").await?;
    }
    // The dump has settings of its own.
    client.batch_execute("RESET ALL").await?;
    outcome.map_err(|error| ControlError::from(error).context("the schema cannot be restored on the new shard"))
}

async fn has_no_rows(client: &ServiceClient) -> Result<bool, ControlError> {
    let tables = client
        .query(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' AND n.nspname NOT IN ('ringway', 'information_schema') AND n.nspname !~ '^pg_'",
            &[],
        )
        .await?;
    for row in tables {
        let table: String = row.get(0);
        if client.query_one(&format!("SELECT EXISTS (SELECT FROM {table})"), &[]).await?.get(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn wipe_sql(client: &ServiceClient, server: &Server) -> Result<String, ControlError> {
    let rows = client
        .query(
            "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
             WHERE n.nspname NOT IN ('ringway', 'information_schema') AND n.nspname !~ '^pg_'",
            &[],
        )
        .await?;
    let mut sql = String::from("DELETE FROM ringway.sharded_table;\nDELETE FROM ringway.distributed_table;\n");
    for row in rows {
        sql.push_str(&format!("DROP SCHEMA {} CASCADE;\n", row.get::<_, String>(0)));
    }
    sql.push_str(match server.major() {
        14 => "CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO PUBLIC;",
        _ => "CREATE SCHEMA public AUTHORIZATION pg_database_owner; GRANT USAGE ON SCHEMA public TO PUBLIC;",
    });
    Ok(sql)
}

/// What schema changes need to know of the distributed tables, and the guards of the sharded ones.
async fn register_tables(client: &ServiceClient, topology: &Topology) -> Result<(), ControlError> {
    for table in &topology.tables {
        let record = "SELECT ringway.record_table($1::text::pg_catalog.regclass)";
        client.execute(record, &[&table.name.quoted()]).await?;
        let TableKind::Sharded { keyspace, key_column, .. } = &table.kind else { continue };
        let id = i32::try_from(keyspace.0).unwrap_or(i32::MAX);
        client
            .execute(
                "INSERT INTO ringway.sharded_table (relation, keyspace, key_column)
                 VALUES ($1::text::pg_catalog.regclass, $2, $3::text)
                 ON CONFLICT (relation) DO UPDATE SET keyspace = excluded.keyspace, key_column = excluded.key_column",
                &[&table.name.quoted(), &id, key_column],
            )
            .await?;
        let state = "INSERT INTO ringway.guard_state (keyspace) VALUES ($1) ON CONFLICT DO NOTHING";
        client.execute(state, &[&id]).await?;
    }
    Ok(())
}

async fn copy_reference_tables(
    home: &ServiceClient,
    client: &ServiceClient,
    topology: &Topology,
) -> Result<(), ControlError> {
    for table in topology.tables.iter().filter(|table| table.kind == TableKind::Reference) {
        let name = table.name.quoted();
        let columns = copy::columns(home, &table.name).await?;
        client.batch_execute("BEGIN").await?;
        // The service role's sessions check no foreign keys and cascade nothing.
        client.execute(&format!("DELETE FROM ONLY {name}"), &[]).await?;
        let out = format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT");
        copy::copy_rows(home, &out, client, &format!("COPY {name} ({columns}) FROM STDIN")).await?;
        client.batch_execute("COMMIT").await?;
        if copy::checksum(home, &table.name).await? != copy::checksum(client, &table.name).await? {
            return Err(ControlError::Precondition(format!(
                "reference table {} differs after its copy: somebody wrote to it past the gateways; try again",
                table.name
            )));
        }
    }
    Ok(())
}

async fn copy_sequences(
    control: &Control,
    client: &ServiceClient,
    shard: ShardId,
    topology: &Topology,
) -> Result<Vec<String>, ControlError> {
    let mut warnings = Vec::new();
    let mut members = Vec::new();
    for member in fences::members(control) {
        members.push((member, control.shard_client(member).await?));
    }
    let mut numbers: Vec<ShardId> = members.iter().map(|(id, _)| *id).collect();
    numbers.push(shard);
    for table in topology.tables.iter().filter(|table| matches!(table.kind, TableKind::Sharded { .. })) {
        for sequence in sequences::of_table(client, &table.name).await? {
            sequences::check_tracks(&numbers, sequence.stride)?;
            let mut floor = 0;
            for (_, member) in &members {
                floor = floor.max(sequences::last_value(member, &sequence.name).await?);
            }
            let left = sequences::set_track(client, &sequence, shard, floor).await?;
            warnings.extend(sequences::warning(&sequence, left));
        }
    }
    Ok(warnings)
}
