//! A shard that goes away at each message of a transaction of its own: what the client is told is true.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::raw::{query, Message, Raw};
use ringway_tests::scenario::{sql, until};

use super::begins::{prepared, sync};
use super::proxy::{Fault, Side, Stop};
use super::{pools, World, ROLE, SOON};

const MESSAGES_MAX: usize = 100;
/// The outcome is unknown.
const UNKNOWN: &str = "08007";

pub async fn are_told_truly(world: &World) -> Result<()> {
    let update = format!("UPDATE accounts SET balance = balance + 1 WHERE id = {}", world.keys[0][0]);
    let group = [prepared("", "BEGIN"), prepared("", &update), prepared("", "COMMIT"), sync()].concat();
    let extended = |text: &str| [prepared("", text), sync()].concat();
    let conversations: &[(&str, Vec<Vec<u8>>)] = &[
        ("simple queries", vec![query("BEGIN"), query(&update), query("COMMIT")]),
        ("extended ones", vec![extended("BEGIN"), extended(&update), extended("COMMIT")]),
        ("one Sync group", vec![group]),
    ];
    let mut unknown = 0;
    for (what, messages) in conversations {
        for side in [Side::Server, Side::Gateway] {
            for within in [false, true] {
                for after in 0..MESSAGES_MAX {
                    let fault = Fault { side, after, within, stop: Stop::Close };
                    let (fired, code) =
                        case(world, messages, fault).await.with_context(|| format!("{what}: {fault:?}"))?;
                    unknown += usize::from(code == UNKNOWN);
                    if !fired {
                        break;
                    }
                }
            }
        }
    }
    ensure!(unknown > 4, "only {unknown} commits were lost");
    Ok(())
}

/// Whether the fault came to pass, and the client's error.
async fn case(world: &World, messages: &[Vec<u8>], fault: Fault) -> Result<(bool, String)> {
    world.console.simple_query("RECONNECT").await?;
    until("closed connections", SOON, || async {
        Ok(pools(&world.console).await?.iter().filter(|pool| pool.user == ROLE).all(|pool| pool.total == 0))
    })
    .await?;
    let before = balance(world).await?;
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    world.proxy.arm(fault);
    let mut told: Vec<Message> = Vec::new();
    for message in messages {
        client.send(message).await?;
        told.extend(client.until_ready().await?);
    }
    let fired = world.proxy.disarm();
    drop(client);
    let committed = told.iter().any(|message| message.tag == b'C' && message.body.starts_with(b"COMMIT"));
    let code = told.iter().find(|message| message.tag == b'E').map(Message::sqlstate).unwrap_or_default();
    until("no open transaction", SOON, || async {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL";
        Ok(sql::value(&world.direct[0], open).await? == "0")
    })
    .await?;
    let made = balance(world).await? - before;
    let is_true = match (committed, code.as_str()) {
        (true, "") => made == 1,
        (false, UNKNOWN) => made == 0 || made == 1,
        (false, "") => false,
        (false, _) => made == 0,
        (true, _) => false,
    };
    ensure!(is_true, "{made} row updated, and the client was told {told:?}");
    world.released("after the fault").await?;
    Ok((fired, code))
}

async fn balance(world: &World) -> Result<i64> {
    let one = world.keys[0][0];
    Ok(sql::value(&world.direct[0], &format!("SELECT balance FROM accounts WHERE id = {one}")).await?.parse()?)
}
