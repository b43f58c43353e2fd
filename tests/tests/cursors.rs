//! Cursors and portals over rows of several shards, frame by frame beside one PostgreSQL: every direction, every end, every format.

#[path = "cursors/again.rs"]
mod again;
#[path = "cursors/binding.rs"]
mod binding;
#[path = "cursors/bindings_in_error.rs"]
mod bindings_in_error;
#[path = "cursors/blocks.rs"]
mod blocks;
#[path = "cursors/copies.rs"]
mod copies;
#[path = "cursors/copy_errors.rs"]
mod copy_errors;
#[path = "cursors/corners.rs"]
mod corners;
#[path = "cursors/current_of.rs"]
mod current_of;
#[path = "cursors/date_style.rs"]
mod date_style;
#[path = "cursors/memory.rs"]
mod memory;
#[path = "cursors/pair.rs"]
mod pair;
#[path = "cursors/pipelines.rs"]
mod pipelines;
#[path = "cursors/portals.rs"]
mod portals;
#[path = "cursors/protocol.rs"]
mod protocol;
#[path = "cursors/result_formats.rs"]
mod result_formats;
#[path = "cursors/result_types.rs"]
mod result_types;
#[path = "cursors/shared_names.rs"]
mod shared_names;
#[path = "cursors/sql.rs"]
mod sql_cursors;
#[path = "cursors/startup.rs"]
mod startup;

use anyhow::{Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options, SinglePostgres};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};

pub use pair::Pair;

/// The same tables with the same rows.
async fn servers() -> Result<(SinglePostgres, Cluster)> {
    let single = single_postgres().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let (one, other) = (sql::connect(&single.dsn("postgres")).await?, sql::connect(&cluster.dsn("postgres")).await?);
    for statement in [
        "CREATE TABLE items (id bigint PRIMARY KEY, kind int NOT NULL, name text, price numeric(10,2), at timestamptz NOT NULL)",
        "CREATE TABLE parts (item bigint NOT NULL, n int NOT NULL, PRIMARY KEY (item, n))",
        "CREATE TABLE plain (id int PRIMARY KEY)",
    ] {
        one.batch_execute(statement).await.context(statement)?;
        other.batch_execute(statement).await.context(statement)?;
    }
    other.batch_execute("SELECT create_distributed_table('items', 'id')").await?;
    other.batch_execute("SELECT create_distributed_table('parts', 'item', colocate_with => 'items')").await?;
    for client in [&one, &other] {
        client
            .batch_execute(
                "INSERT INTO items SELECT i, i % 7, CASE WHEN i % 5 > 0 THEN 'name ' || i END, i / 3.0, \
                 timestamptz '2024-02-29 12:00+01' + i * interval '1 hour' FROM generate_series(1, 100) i",
            )
            .await
            .context("items")?;
        client
            .batch_execute("INSERT INTO parts SELECT i, n FROM generate_series(1, 20) i, generate_series(1, 3) n")
            .await
            .context("parts")?;
        client.batch_execute("INSERT INTO plain VALUES (1), (2), (3)").await?;
    }
    Ok((single, cluster))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_move_as_postgresqls_do() -> Result<()> {
    let _turn = turn().await?;
    let (single, cluster) = servers().await?;
    let ports = (single.port(), cluster.listen_port());
    let mut stages = Stages::default();
    stages.run("every direction", sql_cursors::directions(ports)).await;
    stages.run("walks at random", sql_cursors::walks(ports)).await;
    stages.run("kinds of queries", sql_cursors::queries(ports)).await;
    stages.run("the life of a cursor", sql_cursors::life(ports)).await;
    stages.run("names and errors", sql_cursors::names(ports)).await;
    stages.run("the extended protocol", sql_cursors::extended(ports)).await;
    stages.run("what is refused", sql_cursors::refused(&cluster)).await;
    stages.run("portals", portals::portals(ports)).await;
    stages.run("memory", memory::stays_flat(&cluster)).await;
    stages.run("what is described", protocol::described(ports)).await;
    stages.run("parameters", protocol::parameters(ports)).await;
    stages.run("pipelines", protocol::pipelines(ports)).await;
    stages.run("flushes", protocol::flushes(ports)).await;
    stages.run("several statements in a message", protocol::messages(ports)).await;
    stages.run("settings that are reported", protocol::settings(ports)).await;
    stages.run("COPY", protocol::copies(ports)).await;
    stages.run("statements of the session", protocol::statements(ports)).await;
    stages.run("columns that have changed", result_types::changed(ports)).await;
    stages.run("types that the transaction renames", result_types::renamed(ports)).await;
    stages.run("DateStyle", date_style::date_style(ports)).await;
    stages.run("how sessions begin", startup::begins(ports)).await;
    stages.run("long names", startup::long_names(ports)).await;
    stages.run("what is rarely said", startup::rarely_said(ports)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_settings_come_in_their_place() -> Result<()> {
    let _turn = turn().await?;
    let (single, cluster) = servers().await?;
    let ports = (single.port(), cluster.listen_port());
    let mut stages = Stages::default();
    stages.run("the unnamed statement", corners::unnamed_statement(ports)).await;
    stages.run("wrong texts", corners::wrong_texts(ports)).await;
    stages.run("settings are told in time", corners::settings_told(ports)).await;
    stages.run("wrong shard keys", corners::wrong_keys(ports)).await;
    stages.run("wrong values", corners::wrong_values(ports)).await;
    stages.run("without a block", corners::without_a_block(ports)).await;
    stages.run("the portal that BEGIN was", corners::begins_portal(ports)).await;
    stages.run("the end of SET LOCAL", corners::local_settings_end(ports)).await;
    stages.run("formats of results that there are not", result_formats::unknown(ports)).await;
    stages.run("writes at cursors", current_of::writes(ports)).await;
    stages.run("writes at portals", current_of::of_portals(ports)).await;
    stages.run("wrong writes at cursors", current_of::errors(ports)).await;
    stages.run("writes at cursors that are refused", current_of::refused(&cluster)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn portals_begin_with_their_bind() -> Result<()> {
    let _turn = turn().await?;
    let (single, cluster) = servers().await?;
    let ports = (single.port(), cluster.listen_port());
    let mut stages = Stages::default();
    stages.run("what was there at Bind", binding::at_bind(ports)).await;
    stages.run("the unnamed portal", binding::unnamed(ports)).await;
    stages.run("savepoints", binding::savepoints(ports)).await;
    stages.run("portals in SQL", shared_names::portals_in_sql(ports)).await;
    stages.run("portals of commands", shared_names::portals_of_commands(ports)).await;
    stages.run("cursors in the protocol", shared_names::cursors_in_the_protocol(ports)).await;
    stages.run("BINARY cursors", shared_names::binary(ports)).await;
    stages.run("executed twice", again::twice(ports)).await;
    stages.run("counts of parameters", again::counts(ports)).await;
    stages.run("after an error", again::after_an_error(ports)).await;
    stages.run("what PREPARE takes", again::prepared(ports)).await;
    stages.run("blocks within a pipeline", blocks::whole(ports)).await;
    stages.run("orders of messages", blocks::orders(ports)).await;
    stages.run("what COMMIT says", blocks::commits(ports)).await;
    stages.run("errors behind the only Execute", pipelines::errors_behind(ports)).await;
    stages.run("code in pipelines", pipelines::code(ports)).await;
    stages.run("COPY in pipelines", pipelines::copy(ports)).await;
    stages.run("a failed transaction", bindings_in_error::failed(ports)).await;
    stages.run("malformed Binds", bindings_in_error::malformed(ports)).await;
    stages.run("SERIALIZABLE and what is only asked", bindings_in_error::serializable(ports)).await;
    stages.run("what a server lists", bindings_in_error::listed(ports)).await;
    stages.run("a login that is refused", bindings_in_error::login_refused(&cluster)).await;
    stages.run("statements that are counted", bindings_in_error::counted(&cluster)).await;
    stages.run("COPY and the Syncs around it", copies::overread(ports)).await;
    stages.run("COPY and triggers", copies::triggers(ports)).await;
    stages.run("bad rows of COPY", copy_errors::lines(ports)).await;
    stages.run("triggers of COPY", copy_errors::of_triggers(ports)).await;
    stages.run("COPY and what has no place in it", copy_errors::strangers(ports)).await;
    stages.run("BEGIN in a transaction", pipelines::begins_again(ports)).await;
    stages.run("modes of savepoints", pipelines::modes_of_savepoints(ports)).await;
    stages.run("queries behind an error", pipelines::queries_behind(ports)).await;
    stages.run("more statements than are kept", pipelines::many_statements(ports)).await;
    stages.run("statements that are deallocated", pipelines::deallocated(ports)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}
