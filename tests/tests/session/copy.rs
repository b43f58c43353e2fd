//! COPY in and out, split among shards.

use anyhow::{bail, ensure, Context as _, Result};
use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;

use super::{connect, exact_or_refused, refused};

pub async fn copy(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client.batch_execute("CREATE TABLE lines (k bigint, n int, t text, PRIMARY KEY (k, n))").await?;
    client.batch_execute("SELECT create_distributed_table('lines', 'k')").await?;
    let put = |statement: &'static str, chunks: Vec<String>| {
        let client = &client;
        async move {
            let sink = client.copy_in::<_, Bytes>(statement).await?;
            futures_util::pin_mut!(sink);
            for chunk in chunks {
                sink.send(Bytes::from(chunk)).await?;
            }
            sink.finish().await
        }
    };
    // Rows that are cut anywhere.
    let text: String = (1..=5_000).map(|i| format!("{}\t{i}\tline {i} ☂\\n\\N\n", i % 97)).collect();
    let mut chunks = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let mut cut = rest.len().min(1_013);
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        chunks.push(rest[..cut].to_string());
        rest = &rest[cut..];
    }
    ensure!(put("COPY lines FROM STDIN", chunks).await? == 5_000);
    let csv = "n,k,t\n1,1000,\"a, \"\"b\"\"\nc\"\n2,1001,\n3,1002,\"\"\n".to_string();
    ensure!(put("COPY lines (n, k, t) FROM STDIN WITH (FORMAT csv, HEADER true)", vec![csv]).await? == 3);
    let row = client.query_one("SELECT t, (SELECT t FROM lines WHERE k = 1001) FROM lines WHERE k = 1000", &[]).await;
    let row = match row {
        Ok(row) => (row.get::<_, String>(0), row.get::<_, Option<String>>(1)),
        Err(error) => bail!("reading the CSV rows: {error:?}"),
    };
    ensure!(row == ("a, \"b\"\nc".into(), None), "{row:?}");
    // A bad row in the middle: nothing of it all, and the session goes on.
    let mut bad: Vec<String> = (1..=100).map(|i| format!("{i}\t{}\tx\n", i + 10_000)).collect();
    bad.insert(50, "x\t1\tno number\n".into());
    refused(put("COPY lines FROM STDIN", bad).await, "22P02")?;
    refused(put("COPY lines FROM STDIN", vec!["1\t20000\n".into()]).await, "22P04")?;
    refused(put("COPY lines FROM STDIN", vec!["\\N\t20000\tx\n".into()]).await, "23502")?;
    // A client that gives up.
    {
        let sink = client.copy_in::<_, Bytes>("COPY lines FROM STDIN").await?;
        futures_util::pin_mut!(sink);
        sink.send(Bytes::from_static(b"5\t30000\tx\n6\t30001\ty\n")).await?;
    }
    let count: i64 = client.query_one("SELECT count(*) FROM lines", &[]).await?.get(0);
    ensure!(count == 5_003, "{count} lines");
    // Out: a table, a query, one shard's rows.
    for (statement, expected) in [
        ("COPY lines TO STDOUT", 5_003),
        ("COPY (SELECT k, t FROM lines WHERE n <= 100) TO STDOUT", 103),
        ("COPY (SELECT * FROM lines WHERE k = 5) TO STDOUT WITH (FORMAT csv)", 52),
    ] {
        let chunks: Vec<Bytes> = client.copy_out(statement).await?.try_collect().await.context(statement)?;
        let lines = chunks.iter().flat_map(|chunk| chunk.iter()).filter(|byte| **byte == b'\n').count();
        // A value with a line break in it takes two lines in CSV, and \n in text format.
        ensure!(lines == expected || statement.contains("csv") && lines >= expected, "{statement}: {lines} lines");
    }
    // In a transaction that is rolled back.
    client.batch_execute("BEGIN").await?;
    ensure!(put("COPY lines FROM STDIN", vec!["7\t40000\tx\n8\t40001\ty\n9\t40002\tz\n".into()]).await? == 3);
    client.batch_execute("ROLLBACK").await?;
    let count: i64 = client.query_one("SELECT count(*) FROM lines", &[]).await?.get(0);
    ensure!(count == 5_003, "{count} lines after a rollback");
    Ok(())
}

/// Rows that a query makes are split among the shards like any others.
pub async fn insert_select(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client.batch_execute("CREATE TABLE made (k bigint PRIMARY KEY, v text)").await?;
    client.batch_execute("SELECT create_distributed_table('made', 'k')").await?;
    client.batch_execute(&format!("INSERT INTO made VALUES {}", sql::rows(1..=100, |k| format!("{k}, 'v'")))).await?;
    let mut total = 100;
    for (statement, expected) in [
        ("INSERT INTO made SELECT i, 'v' || i FROM generate_series(5001, 5100) i", 100),
        ("INSERT INTO made SELECT k + 1000, v FROM made WHERE k <= 100", 100),
        ("INSERT INTO made SELECT k, 'again' FROM made ON CONFLICT (k) DO NOTHING", 0),
    ] {
        if let Some(made) = exact_or_refused(statement, client.execute(statement, &[]).await)? {
            ensure!(made == expected, "{statement} made {made} rows");
            total += made as i64;
        }
    }
    let count: i64 = client.query_one("SELECT count(*) FROM made", &[]).await?.get(0);
    ensure!(count == total, "{count} rows of {total}");
    Ok(())
}
