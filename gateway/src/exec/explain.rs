//! EXPLAIN: the route from the plan alone (`EXPLAIN (ROUTE)`, and whatever concerns several shards); otherwise the shard's own.

use super::admin::result;
use super::describe::text_field;
use super::dispatch::{single, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::hold::{targets, Admitted};
use crate::plan::explain::render;
use crate::plan::route::route;
use crate::plan::types::Explain;
use crate::wire::PgError;

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    explain: &Explain,
) -> Result<Completed, Failure> {
    if !explain.route_only {
        if let Some(shard) = admitted.placement.single() {
            return single(executor, run, admitted, shard, None).await;
        }
        if explain.analyze {
            return Err(PgError::refused(
                "EXPLAIN ANALYZE of a statement on several shards is not available yet",
                "Use EXPLAIN for its route, or SET ringway.shard to look at one shard.",
            )
            .into());
        }
    }
    let values = run.bound.values()?;
    let topology = &admitted.view.topology;
    let routed = match targets(&explain.inner) {
        Some(targets) => route(&targets, topology, &values).ok(),
        None => None,
    };
    let lines: Vec<Vec<String>> =
        render(&explain.inner, routed.as_ref(), topology).into_iter().map(|line| vec![line]).collect();
    result(executor, run, vec![text_field("QUERY PLAN")], &lines)?;
    Ok(Completed { tag: Some("EXPLAIN".into()), ..Completed::default() })
}
