//! CheckServers and JoinTarget: what can be known before anything is touched, and the target as a member.

use ringway_topology::model::ShardState;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;

/// PostgreSQL 14: multiranges and CREATE OR REPLACE TRIGGER.
const SERVER_VERSION_MIN: i32 = 140_000;

pub async fn check_servers(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let mut source = ctx.connect(record.source).await?;
    let mut target = match (record.target, &record.target_dsn) {
        (Some(target), _) => ctx.connect(target).await?,
        (None, Some(dsn)) => ctx.connect_dsn(dsn, &record.target_name).await?,
        (None, None) => return Err(MoveError::fatal("the move names no target")),
    };
    let source_encoding = check_server(&mut source).await?;
    let target_encoding = check_server(&mut target).await?;
    if source_encoding != target_encoding {
        return Err(MoveError::fatal(format!(
            "shard {} is encoded in {source_encoding}, shard {} in {target_encoding}",
            source.shard, target.shard
        )));
    }
    let tables = ctx.tables();
    if tables.is_empty() {
        return Err(MoveError::fatal("the keyspace has no tables"));
    }
    for (table, key) in tables {
        check_table(&mut source, &table.schema, &table.name, &key).await?;
    }
    Ok(())
}

/// Answers its encoding.
async fn check_server(shard: &mut ShardConn) -> Result<String, MoveError> {
    let row = shard
        .one(
            "SELECT current_setting('server_version_num')::int4, current_setting('max_prepared_transactions')::int4,
                    current_setting('server_encoding'), pg_catalog.pg_is_in_recovery(),
                    (SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = session_user)",
            &[],
        )
        .await?;
    let (version, prepared): (i32, i32) = (row.get(0), row.get(1));
    let name = &shard.shard;
    if version < SERVER_VERSION_MIN {
        return Err(MoveError::fatal(format!("shard {name} runs PostgreSQL {}, 14 is needed", version / 10_000)));
    }
    if prepared == 0 {
        return Err(MoveError::fatal(format!(
            "shard {name} cannot prepare transactions: set max_prepared_transactions and restart it"
        )));
    }
    if row.get::<_, bool>(3) {
        return Err(MoveError::retry(format!("shard {name} is a standby at the moment")));
    }
    if !row.get::<_, Option<bool>>(4).unwrap_or(false) {
        return Err(MoveError::fatal(format!(
            "the service role of shard {name} does not see rows under row-level security: ALTER ROLE ... BYPASSRLS"
        )));
    }
    Ok(row.get(2))
}

const TABLE_FACTS: &str = "
SELECT i.indexrelid IS NOT NULL,
       coalesce(i.indimmediate, false),
       EXISTS (SELECT FROM unnest(i.indclass) k(class), pg_catalog.pg_opclass oc, pg_catalog.pg_amop am,
                      pg_catalog.pg_operator o, pg_catalog.pg_namespace n
               WHERE oc.oid = k.class AND am.amopfamily = oc.opcfamily AND am.amoplefttype = oc.opcintype
                 AND am.amoprighttype = oc.opcintype AND o.oid = am.amopopr AND n.oid = o.oprnamespace
                 AND n.nspname <> 'pg_catalog'),
       (SELECT string_agg(t.tgname, ', ') FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
          AND t.tgenabled IN ('A', 'R') AND t.tgname NOT LIKE 'ringway%'),
       c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid OR h.inhrelid = c.oid),
       EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) p WHERE p.relid <> c.oid AND (
           SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = p.relid AND a.attnum > 0 AND NOT a.attisdropped) IS DISTINCT FROM (
           SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)),
       EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $3 AND NOT a.attisdropped),
       c.relkind IN ('r', 'p')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = $1 AND c.relname = $2";

async fn check_table(shard: &mut ShardConn, schema: &str, name: &str, key: &str) -> Result<(), MoveError> {
    let rows = shard.query(TABLE_FACTS, &[&schema, &name, &key]).await?;
    let refuse = |why: String| Err(MoveError::fatal(format!("table {schema}.{name} cannot be moved: {why}")));
    let Some(row) = rows.first() else {
        return refuse(format!("shard {} does not have it", shard.shard));
    };
    if !row.get::<_, bool>(7) {
        return refuse("it is not an ordinary or partitioned table".into());
    }
    if !row.get::<_, bool>(0) {
        return refuse("it has no primary key".into());
    }
    if !row.get::<_, bool>(1) {
        return refuse("its primary key is deferrable".into());
    }
    if row.get::<_, bool>(2) {
        return refuse("a column of its primary key is of an extension's type".into());
    }
    if let Some(triggers) = row.get::<_, Option<String>>(3) {
        return refuse(format!(
            "its triggers {triggers} are ENABLE ALWAYS or REPLICA and would fire for copied rows; ENABLE them plainly"
        ));
    }
    if row.get::<_, bool>(4) {
        return refuse("it has inheritance children or a parent".into());
    }
    if row.get::<_, bool>(5) {
        return refuse("a partition has its columns in another order".into());
    }
    if !row.get::<_, bool>(6) {
        return refuse(format!("it has no column {key}"));
    }
    Ok(())
}

/// The target as a full member: registered now if it is new.
pub async fn join_target(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let Some(dsn) = record.target_dsn.filter(|_| record.target.is_none()) else {
        let target = record.target.ok_or_else(|| MoveError::fatal("the move names no target"))?;
        let topology = ctx.topology();
        return match topology.shard(target) {
            Some(shard) if shard.state == ShardState::Member => Ok(()),
            _ => Err(MoveError::retry(format!("shard {} is not a full member yet", record.target_name))),
        };
    };
    let target = ctx.cluster.join_shard(&record.target_name, &dsn).await?;
    faults::point("JoinTarget", "middle");
    ctx.update(|record| {
        record.target = Some(target);
        record.target_dsn = None;
    })
    .await
}
