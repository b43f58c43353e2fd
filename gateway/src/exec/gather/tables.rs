//! The temporary tables of a gathered statement.

use ringway_topology::ids::ShardId;
use ringway_topology::model::quote_ident;

use crate::exec::answers::{ask, Answers};
use crate::exec::executor::Executor;
use crate::exec::failure::Failure;
use crate::exec::hold::Admitted;
use crate::exec::pump::Outcome;
use crate::plan::types::{Access, Fragment, Gather, Limited};
use crate::wire::PgError;

const READ_ONLY_TRANSACTION: &str = "25006";
/// PostgreSQL knows nothing of new tables but their sizes. Those of so many rows at least are worth a look: joining them in a bad
/// order takes longer.
const ANALYZED_ROWS_MIN: u64 = 5_000;
/// Of all values together, as text.
const KNOWN_BYTES_MAX: usize = 256 << 10;

/// A statement of the gateway's own there.
pub async fn on_workbench(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    sql: &str,
) -> Result<Answers, Failure> {
    let mut lent = executor.lend_open(&admitted.view, workbench, Access::Read).await?;
    lent.participant.temporary = true;
    let answers = ask(&mut lent.participant.connection, sql).await;
    executor.give_back(lent, &Outcome::default()).await;
    answers?.check()
}

pub async fn make(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    plan: &Gather,
    tables: &[String],
) -> Result<(), Failure> {
    let statement = |(fragment, table): (&Fragment, &String)| {
        format!("CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS {} WITH NO DATA", fragment.shape)
    };
    let statements: Vec<String> = plan.fragments.iter().zip(tables).map(statement).collect();
    match on_workbench(executor, admitted, workbench, &statements.join("; ")).await {
        Err(Failure::Server(error)) if error.code() == READ_ONLY_TRANSACTION => Err(PgError::refused(
            "rows of several shards cannot be gathered in a READ ONLY transaction",
            "Run the statement outside of a transaction, or in a READ WRITE one.",
        )
        .detail("They come into temporary tables, which such a transaction may not make.")
        .into()),
        made => made.map(drop),
    }
}

/// What GROUP BY may rely on.
pub async fn add_keys(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    plan: &Gather,
    tables: &[String],
) -> Result<(), Failure> {
    let mut statements = Vec::new();
    for (fragment, table) in plan.fragments.iter().zip(tables).filter(|(of, _)| !of.primary_key.is_empty()) {
        let columns: Vec<String> = fragment.primary_key.iter().map(|name| quote_ident(name)).collect();
        statements.push(format!("ALTER TABLE {table} ADD PRIMARY KEY ({})", columns.join(", ")));
    }
    match statements.is_empty() {
        true => Ok(()),
        false => on_workbench(executor, admitted, workbench, &statements.join("; ")).await.map(drop),
    }
}

/// The values by which a fragment is limited.
pub struct Known<'p> {
    pub limited: &'p Limited,
    /// An array, as text. None: there are none, so no row matters.
    pub values: Option<String>,
}

/// Reads them from the table of the rows that are there. None: they are too large.
pub async fn known<'p>(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    limited: &'p Limited,
    table: &str,
) -> Result<Option<Known<'p>>, Failure> {
    let column = quote_ident(&limited.column);
    let sql = format!(
        "SELECT pg_catalog.array_agg(DISTINCT {column})::pg_catalog.text FROM {table} WHERE {column} IS NOT NULL \
         HAVING COALESCE(pg_catalog.sum(pg_catalog.octet_length({column}::pg_catalog.text)), 0) \
         OPERATOR(pg_catalog.<=) {KNOWN_BYTES_MAX}"
    );
    let answers = on_workbench(executor, admitted, workbench, &sql).await?;
    Ok((!answers.rows.is_empty()).then(|| Known { limited, values: answers.value() }))
}

/// `rows`: of each table.
pub async fn analyze(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    tables: &[String],
    rows: &[u64],
) -> Result<(), Failure> {
    let large = tables.iter().zip(rows).filter(|(_, rows)| **rows >= ANALYZED_ROWS_MIN);
    let large: Vec<&str> = large.map(|(table, _)| table.as_str()).collect();
    match large.is_empty() {
        true => Ok(()),
        false => on_workbench(executor, admitted, workbench, &format!("ANALYZE {}", large.join(", "))).await.map(drop),
    }
}
