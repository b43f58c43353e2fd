//! Prepared transactions on one shard whose fate another shard decides: finished by the same rule as recovery does, without
//! waiting for it.

use ringway_topology::ids::ShardId;
use ringway_topology::model::quote_literal;
use ringway_topology::service::{Gid, GID_PREFIX};

use crate::moves::conn::{is_true, ShardConn};
use crate::moves::error::MoveError;

/// Finishes every transaction on `copy` whose anchor on `anchor` has ended; answers how many were found whose anchor is
/// still in progress, and how many ended ones could not be finished at this moment.
pub async fn resolve(
    anchor: &mut ShardConn,
    copy: &mut ShardConn,
    anchor_id: ShardId,
) -> Result<Unfinished, MoveError> {
    let mut unfinished = Unfinished::default();
    let found = list(copy, anchor_id).await?;
    if found.is_empty() {
        return Ok(unfinished);
    }
    // In this order: the decision is there before the anchor's transaction has ended, or never.
    let questions: Vec<String> = found
        .iter()
        .map(|(text, gid)| {
            format!(
                "SELECT ringway.xact_in_progress('{}'::pg_catalog.xid8); SELECT EXISTS (SELECT FROM ringway.decided WHERE gid = {})",
                gid.anchor_xid,
                quote_literal(text)
            )
        })
        .collect();
    let answers = anchor.rows_of(&questions.join("; ")).await?;
    for ((text, _), answer) in found.iter().zip(answers.chunks(2)) {
        let [running, decided] = answer else { continue };
        if is_true(running) {
            unfinished.in_progress += 1;
            continue;
        }
        let verb = if is_true(decided) { "COMMIT" } else { "ROLLBACK" };
        match copy.batch(&format!("{verb} PREPARED {}", quote_literal(text))).await {
            Ok(()) => {}
            // The gateway or recovery was faster.
            Err(error) if error.is_undefined_object() => {}
            Err(error) if error.is_in_doubt() => return Err(error),
            Err(_) => unfinished.ended += 1,
        }
    }
    Ok(unfinished)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    pub in_progress: usize,
    pub ended: usize,
}

async fn list(copy: &mut ShardConn, anchor: ShardId) -> Result<Vec<(String, Gid)>, MoveError> {
    let rows = copy
        .rows_of(&format!(
            "SELECT p.gid FROM pg_catalog.pg_prepared_xact() p WHERE starts_with(p.gid, {})
             AND p.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())",
            quote_literal(&format!("{GID_PREFIX}{}:", anchor.0))
        ))
        .await?;
    let gids = rows.iter().flatten().filter_map(|row| row.get(0).map(str::to_owned));
    Ok(gids.filter_map(|text| Gid::parse(&text).map(|gid| (text, gid))).collect())
}
