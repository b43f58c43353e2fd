//! A table's rows on every shard alike, and the guard that holds writes to it while a shard joins.

use ringway_topology::model::TableName;
use tokio_postgres::Client;

use super::distribute::Members;
use super::shard_rows::{commit, lock_everywhere};
use crate::control::ControlError;
use crate::shards::copy;

/// The statement trigger; on the home shard it says that the table is a reference table.
pub const GUARD: &str = "ringway_reference_guard";

/// Answers the rows copied and warnings.
pub async fn copy_everywhere(members: &Members, table: &TableName) -> Result<(u64, Vec<String>), ControlError> {
    lock_everywhere(members, table, "ACCESS EXCLUSIVE").await?;
    let (_, _, home) = members.home();
    let columns = copy::columns(home, table).await?;
    let name = table.quoted();
    let mut rows = 0;
    for (index, (_, shard, client)) in members.sessions.iter().enumerate() {
        let labelled = |error: ControlError| error.context(format!("copying {table} to shard {shard}"));
        if index > 0 {
            client.execute(&format!("DELETE FROM ONLY {name}"), &[]).await?;
            let out = format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT");
            let input = format!("COPY {name} ({columns}) FROM STDIN");
            rows += copy::copy_rows(home, &out, client, &input).await.map_err(labelled)?;
            if copy::checksum(home, table).await? != copy::checksum(client, table).await? {
                return Err(ControlError::Internal(format!("the copy of {table} on shard {shard} differs")));
            }
        }
        install_guard(client, table).await.map_err(labelled)?;
    }
    commit(members).await?;
    Ok((rows, Vec::new()))
}

async fn install_guard(client: &Client, table: &TableName) -> Result<(), ControlError> {
    let name = table.quoted();
    client
        .batch_execute(&format!(
            "CREATE OR REPLACE TRIGGER {GUARD} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name}
                FOR EACH STATEMENT EXECUTE FUNCTION ringway.reference_guard();
             ALTER TABLE {name} ENABLE ALWAYS TRIGGER {GUARD}"
        ))
        .await?;
    client.execute("SELECT ringway.record_table($1::text::pg_catalog.regclass)", &[&name]).await?;
    Ok(())
}
