//! Plants faults on the shards, past every guard, to show that the audit can fail: a lost, a doubled and a misplaced row. Each is
//! mended again.

use anyhow::{bail, ensure, Result};
use tokio_postgres::Client;

use super::audit::{audit, connect, Cluster, Mode};
use super::journal::{Journal, Key};
use super::Size;

/// Shows every fault to the audit; fails if one is not found, or if the audit finds anything once they are mended.
pub async fn audit_can_fail(cluster: &Cluster, size: Size, journal: &Journal) -> Result<Vec<&'static str>> {
    let Some(key) = journal.ledger.keys().next().copied() else {
        bail!("the traffic booked nothing: nothing to plant")
    };
    let (owner, other) = owner_and_other(cluster, key).await?;
    let image: String = owner
        .query_one("SELECT l::text FROM public.ledger l WHERE tenant_id = $1 AND id = $2", &[&key.0, &key.1])
        .await?
        .get(0);
    let mut found = Vec::new();

    delete(&owner, key).await?;
    expect(cluster, size, journal, "lost row").await?;
    found.push("lost");

    insert(&other, &image).await?;
    expect(cluster, size, journal, "misplaced row").await?;
    found.push("misplaced");

    insert(&owner, &image).await?;
    expect(cluster, size, journal, "doubled row").await?;
    found.push("doubled");

    delete(&other, key).await?;
    let report = audit(cluster, size, journal, Mode::Complete).await?;
    ensure!(report.passed(), "the planted faults were mended, but the audit finds\n{}", report.findings());
    Ok(found)
}

async fn owner_and_other(cluster: &Cluster, key: Key) -> Result<(Client, Client)> {
    let (mut owner, mut other) = (None, None);
    for shard in &cluster.shards {
        let client = connect(&shard.dsn).await?;
        client.batch_execute("SET session_replication_role = replica").await?;
        let owned = cluster.owned_condition(shard.number, "$1::int8");
        if client.query_one(&format!("SELECT {owned}"), &[&key.0]).await?.get(0) {
            owner = Some(client);
        } else {
            other = Some(client);
        }
    }
    match (owner, other) {
        (Some(owner), Some(other)) => Ok((owner, other)),
        _ => bail!("tenant {} has no owner, or there is one shard only", key.0),
    }
}

async fn delete(client: &Client, key: Key) -> Result<()> {
    let deleted =
        client.execute("DELETE FROM public.ledger WHERE tenant_id = $1 AND id = $2", &[&key.0, &key.1]).await?;
    ensure!(deleted == 1, "planting: {deleted} rows deleted");
    Ok(())
}

async fn insert(client: &Client, image: &str) -> Result<()> {
    client.execute("INSERT INTO public.ledger SELECT ($1::text::public.ledger).*", &[&image]).await?;
    Ok(())
}

async fn expect(cluster: &Cluster, size: Size, journal: &Journal, kind: &str) -> Result<()> {
    let report = audit(cluster, size, journal, Mode::Complete).await?;
    ensure!(report.has(kind), "a planted {kind} was not found; the audit says: {}", report.summary());
    Ok(())
}
