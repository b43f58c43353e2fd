//! DateStyle is two settings in one: an order without a style, and a style without an order, leave the other as it is.

use anyhow::Result;

use super::Pair;

const VALUES: [&str; 14] = [
    "'DMY'",
    "'ISO'",
    "'SQL, DMY'",
    "German",
    "'ISO'",
    "'Postgres, US'",
    "'European'",
    "SQL",
    "ymd",
    "'ISO, NonEuro'",
    "'nonsense'",
    "'ISO, SQL'",
    "'German, MDY'",
    "'ISO, default'",
];

pub async fn date_style(ports: (u16, u16)) -> Result<()> {
    // Others leave connections with settings of their own behind.
    for other in ["German", "'SQL, DMY'", "Postgres", "'ISO, YMD'"] {
        let mut pair = Pair::connect(ports).await?;
        pair.same(&format!("SET datestyle TO {other}")).await?;
        reads(&mut pair).await?;
    }
    let mut pair = Pair::connect(ports).await?;
    for value in VALUES {
        for set in [format!("SET datestyle TO {value}"), format!("SET DateStyle = {value}")] {
            pair.same(&set).await?;
            reads(&mut pair).await?;
        }
        pair.same("BEGIN").await?;
        for local in ["'DMY'", "SQL", "DEFAULT", "'MDY'"] {
            pair.same(&format!("SET LOCAL datestyle TO {local}")).await?;
            reads(&mut pair).await?;
        }
        pair.same("SAVEPOINT a").await?;
        pair.same("SET datestyle TO 'YMD'").await?;
        reads(&mut pair).await?;
        pair.same("ROLLBACK TO a").await?;
        reads(&mut pair).await?;
        pair.same("SET datestyle TO Postgres").await?;
        pair.same(if value.len().is_multiple_of(2) { "COMMIT" } else { "ROLLBACK" }).await?;
        reads(&mut pair).await?;
    }
    for sql in [
        "RESET datestyle",
        "SET datestyle TO 'DMY'",
        "SET datestyle TO DEFAULT",
        "SET datestyle TO German",
        "RESET ALL",
        "SELECT set_config('datestyle', 'DMY', false)",
        "SELECT set_config('datestyle', 'SQL', false)",
        "SELECT set_config('datestyle', 'MDY', true)",
        "DISCARD ALL",
    ] {
        pair.same(sql).await?;
        reads(&mut pair).await?;
    }
    for options in ["DMY", "German", "SQL", "ISO, YMD", "Postgres, European"] {
        let mut pair = Pair::connect_with(ports, &[("datestyle", options)]).await?;
        for sql in [
            "SHOW datestyle",
            "SET datestyle TO SQL",
            "RESET datestyle",
            "SET datestyle TO 'MDY'",
            "SET datestyle TO DEFAULT",
            "SET datestyle TO 'YMD'",
            "RESET ALL",
        ] {
            pair.same(sql).await?;
            reads(&mut pair).await?;
        }
    }
    Ok(())
}

/// On one shard and on the other, and over both.
async fn reads(pair: &mut Pair) -> Result<()> {
    for sql in [
        "SHOW datestyle",
        "SELECT at FROM items WHERE id = 1",
        "SELECT at, '2003-02-01'::date FROM items WHERE id = 2",
        "SELECT id, '2001-02-03'::timestamp FROM items WHERE id IN (1, 2, 3, 4) ORDER BY id",
    ] {
        pair.same(sql).await?;
    }
    Ok(())
}
