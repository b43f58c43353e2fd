//! A Parse whose connection to the shard is lost before its answer is asked again, on another connection: the client does not notice.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::messages::parse;
use ringway_tests::scenario::raw::{query, Raw};

use super::begins::sync;
use super::proxy::{Fault, Side, Stop};
use super::{World, ROLE};

const MESSAGES_MAX: usize = 20;

pub async fn are_asked_again(world: &World) -> Result<()> {
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    let (mut texts, mut lost) = (0, 0);
    // One that a shard can be sent as it is, and one that it is only asked about.
    let parsed = ["SELECT count(*) + ", "EXPLAIN SELECT count(*) + "];
    for (side, verb) in [Side::Server, Side::Gateway].into_iter().flat_map(|side| parsed.map(|verb| (side, verb))) {
        for within in [false, true] {
            for after in 0..MESSAGES_MAX {
                // The connection is there already, and nothing is known of the text.
                client.send(&query("SELECT count(*) FROM accounts")).await?;
                client.until_ready().await?;
                texts += 1;
                let text = format!("{verb}{texts} FROM accounts WHERE balance > 0");
                let fault = Fault { side, after, within, stop: Stop::Close };
                world.proxy.arm(fault);
                client.send(&[parse("", &text, &[]), sync()].concat()).await?;
                let answers = client.until_ready().await.with_context(|| format!("{fault:?}"))?;
                let fired = world.proxy.disarm();
                let tags: Vec<u8> = answers.iter().map(|message| message.tag).collect();
                ensure!(tags == b"1Z", "{fault:?}: {answers:?}");
                if !fired {
                    break;
                }
                lost += 1;
            }
        }
    }
    ensure!(lost > 8, "only {lost} connections were lost");
    drop(client);
    world.released("after the last fault").await
}
