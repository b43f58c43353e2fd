//! The gateway's grammar is PostgreSQL's: the tree of every statement of the corpus, printed again, is the same query to a server.

use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ringway_gateway::sql::parse::{parse, Text};
use ringway_tests::cluster::{single_postgres, SinglePostgres};
use ringway_tests::grammar::meaning::Server;
use ringway_tests::grammar::print::print;
use ringway_tests::grammar::script::{queries, statements};
use ringway_tests::scenario::sql;

const STATEMENTS_MIN: usize = 300;

fn read(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grammar").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

async fn server() -> Result<(SinglePostgres, Server)> {
    let postgres = single_postgres().await?;
    let client = sql::connect(&postgres.dsn("postgres")).await?;
    for statement in statements(&read("schema.sql")?) {
        client.batch_execute(&statement).await.with_context(|| statement.clone())?;
    }
    let row = client.query_one("SELECT current_database()::text", &[]).await?;
    let server = Server::connect(postgres.port(), row.get(0)).await?;
    Ok((postgres, server))
}

/// How the gateway's reading of a statement differs from PostgreSQL's.
async fn difference(server: &mut Server, statement: &str) -> Result<Option<String>> {
    let text = match Text::new(statement) {
        Ok(text) => text,
        Err(error) => return Ok(Some(format!("not lexed: {error}"))),
    };
    let tree = match parse(&text) {
        Ok(tree) => tree,
        Err(error) => return Ok(Some(format!("not parsed: {error}"))),
    };
    let Some(printed) = print(&tree) else { return Ok(Some(format!("not printed: {tree}"))) };
    let own = match server.meaning(statement).await? {
        Ok(own) => own,
        Err((code, message)) => return Ok(Some(format!("PostgreSQL refuses it: {code} {message}"))),
    };
    Ok(match server.meaning(&printed).await? {
        Ok(again) if again == own => None,
        Ok(again) => Some(format!("another meaning: {printed}\n{}", first_difference(&own, &again))),
        Err((code, message)) => Some(format!("printed as {printed}: {code} {message}")),
    })
}

fn first_difference(a: &str, b: &str) -> String {
    let at = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(80)..text.len().min(at + 80)]).into_owned()
    };
    format!("    {}\n    {}", around(a), around(b))
}

#[tokio::test]
async fn trees_mean_what_their_statements_mean() -> Result<()> {
    let (_postgres, mut server) = server().await?;
    let mut corpus = Vec::new();
    for file in ["operators.sql", "queries.sql", "calls.sql", "writes.sql", "words.sql"] {
        corpus.extend(queries(&read(file)?));
    }
    ensure!(corpus.len() >= STATEMENTS_MIN, "only {} statements", corpus.len());
    let mut differences = Vec::new();
    for statement in &corpus {
        if let Some(difference) = difference(&mut server, statement).await? {
            differences.push(format!("{statement}\n  {difference}"));
        }
    }
    ensure!(differences.is_empty(), "{} of {}:\n{}", differences.len(), corpus.len(), differences.join("\n"));
    Ok(())
}

/// Statements whose print lacks what the gateway does not need, and that are nothing but understood.
#[tokio::test]
async fn what_is_left_out_is_understood() -> Result<()> {
    let (_postgres, mut server) = server().await?;
    for statement in queries(&read("left_out.sql")?) {
        parse(&Text::new(&statement)?).with_context(|| statement.clone())?;
        let meaning = server.meaning(&statement).await?;
        ensure!(meaning.is_ok(), "{statement}: {meaning:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_postgresql_refuses_is_refused() -> Result<()> {
    let (_postgres, mut server) = server().await?;
    let refused: Vec<String> = read("refused.sql")?.lines().map(|line| line.trim_end_matches(';').to_owned()).collect();
    ensure!(refused.len() >= 20, "only {} statements", refused.len());
    let mut wrong = Vec::new();
    for statement in refused {
        let meaning = server.meaning(&statement).await?;
        ensure!(matches!(&meaning, Err((code, _)) if code == "42601"), "{statement}: PostgreSQL says {meaning:?}");
        let understood = Text::new(&statement).is_ok_and(|text| parse(&text).is_ok());
        if understood {
            wrong.push(statement);
        }
    }
    ensure!(wrong.is_empty(), "understood all the same: {wrong:#?}");
    Ok(())
}
