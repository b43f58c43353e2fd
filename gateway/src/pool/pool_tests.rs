//! The pool against a server that answers as PostgreSQL does when a session begins, or does not answer at all.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::{Shard, ShardState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connect::Purpose;
use super::endpoint::Endpoint;
use super::error::PoolError;
use super::pool::{Claim, Counts, Pool, Shared};
use crate::config::pools::{PoolRules, PoolSettings};
use crate::config::Limits;
use crate::net::TcpOptions;

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const READY: &[u8] = &[b'Z', 0, 0, 0, 5, b'I'];
    let length = stream.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await?;
    stream.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0]).await?;
    stream.write_all(&[b'K', 0, 0, 0, 12, 0, 0, 0, 7, 0, 0, 0, 9]).await?;
    stream.write_all(READY).await?;
    loop {
        let tag = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await?;
        if tag == b'Q' {
            stream.write_all(READY).await?;
        }
    }
}

/// A server, and a pool to it. A silent one takes connections and says nothing.
async fn pool(silent: bool, change: impl FnOnce(&mut PoolSettings)) -> Arc<Pool> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            match silent {
                true => kept.push(stream),
                false => drop(tokio::spawn(answer(stream))),
            }
        }
    });
    let rules = PoolRules::new(Default::default(), &Limits::default(), Default::default(), Default::default()).unwrap();
    let mut settings = rules.of("app", "app");
    change(&mut settings);
    let dsn = format!("postgresql://service@127.0.0.1:{port}/app?sslmode=disable");
    let endpoint = Endpoint::parse("s1", &dsn).unwrap();
    let shard = Shard { id: ShardId(1), name: "s1".into(), dsn, state: ShardState::Member, system_identifier: 1 };
    let shared = Shared {
        gateway: GatewayId(1),
        pause: Arc::default(),
        oids: Arc::default(),
        server_statements_max: 10,
        tcp: TcpOptions::default(),
    };
    Arc::new(Pool::new(&shard, endpoint, "app".into(), Purpose::Application, shared, settings))
}

fn counts(pool: &Pool) -> Counts {
    let counts = pool.counts();
    assert!(counts.is_balanced(), "{counts:?}");
    counts
}

#[tokio::test]
async fn connections_are_lent_or_idle() {
    let pool = pool(false, |settings| settings.size_max = 3).await;
    let one = pool.checkout(Claim::First).await.unwrap();
    let two = pool.checkout(Claim::First).await.unwrap();
    assert_eq!(counts(&pool), Counts { lent: 2, total: 2, ..Counts::default() });
    drop(one);
    assert_eq!(counts(&pool), Counts { lent: 1, idle: 1, total: 2, ..Counts::default() });
    // One that is not at rest is closed.
    let mut one = pool.checkout(Claim::First).await.unwrap();
    one.queue_query("SELECT 1");
    drop(one);
    assert_eq!(counts(&pool), Counts { lent: 1, total: 1, ..Counts::default() });
    // One that is idle stays until all are renewed; one that is lent goes when it comes back.
    drop(pool.checkout(Claim::First).await.unwrap());
    assert_eq!(counts(&pool).idle, 1);
    pool.renew();
    assert_eq!(counts(&pool), Counts { lent: 1, total: 1, ..Counts::default() });
    drop(two);
    assert_eq!(counts(&pool), Counts::default());
    assert!(pool.servers().is_empty());
}

#[tokio::test]
async fn a_checkout_that_is_given_up_leaves_nothing() {
    let pool = pool(true, |settings| settings.size_max = 1).await;
    for _ in 0..3 {
        let mut checkout = Box::pin(pool.checkout(Claim::First));
        // Up to where the server does not answer.
        while counts(&pool).opening == 0 {
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut checkout).await.is_err());
        }
        // Another one waits for the place, and gives up.
        let mut second = Box::pin(pool.checkout(Claim::First));
        while counts(&pool).waiting == 0 {
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut second).await.is_err());
        }
        drop(second);
        drop(checkout);
        assert_eq!(counts(&pool), Counts::default());
    }
}

#[tokio::test]
async fn waiting_is_bounded_in_number_and_time() {
    let pool = pool(false, |settings| {
        settings.size_max = 1;
        settings.waiters_max = 1;
        settings.checkout_timeout_ms = 50;
    })
    .await;
    let one = pool.checkout(Claim::First).await.unwrap();
    let (first, second) = tokio::join!(pool.checkout(Claim::First), pool.checkout(Claim::First));
    assert!(matches!(first, Err(PoolError::Timeout { waited_ms: 50, .. })));
    assert!(matches!(second, Err(PoolError::TooManyWaiters { waiting: 1, .. })));
    // The reserve is for who holds a connection elsewhere.
    let further = pool.checkout(Claim::Further).await.unwrap();
    assert_eq!(counts(&pool), Counts { lent: 2, total: 2, ..Counts::default() });
    drop((one, further));
    assert_eq!(counts(&pool), Counts { idle: 2, total: 2, ..Counts::default() });
}

#[tokio::test]
async fn the_smallest_size_is_kept_and_the_old_go() {
    let pool = pool(false, |settings| {
        settings.size_min = 2;
        settings.idle_ms = 0;
        settings.lifetime_ms = 0;
    })
    .await;
    Arc::clone(&pool).fill_up().await;
    assert_eq!(counts(&pool), Counts { idle: 2, total: 2, ..Counts::default() });
    let held: Vec<_> = [pool.checkout(Claim::First).await, pool.checkout(Claim::First).await].into();
    drop(pool.checkout(Claim::First).await.unwrap());
    drop(held);
    assert_eq!(counts(&pool).idle, 3);
    // Not needed and unused for longer than nothing at all: down to the smallest size.
    while counts(&pool).idle > 2 {
        pool.reap();
        tokio::task::yield_now().await;
    }
    pool.reap();
    assert_eq!(counts(&pool).idle, 2);
    let mut settings = (*pool.settings()).clone();
    settings.lifetime_ms = 1;
    pool.set_settings(settings);
    while counts(&pool).total > 0 {
        pool.reap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_ends_idle_sessions_does_not_meet_a_statement() {
    let pool = pool(false, |_| ()).await;
    let mut one = pool.checkout(Claim::First).await.unwrap();
    let number = pool.servers()[0].number;
    let mut settings = super::settings::Settings::default();
    settings.set("idle_session_timeout", "SET idle_session_timeout = 2".into());
    one.settings = Some(settings);
    drop(one);
    tokio::time::timeout(Duration::from_secs(10), async {
        while pool.servers().iter().any(|server| server.number == number) {
            drop(pool.checkout(Claim::First).await.unwrap());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_pause_waits_for_what_is_lent_and_keeps_the_rest_out() {
    let pool = pool(false, |settings| settings.pause_timeout_ms = 50).await;
    let one = pool.checkout(Claim::First).await.unwrap();
    let pause = pool.pause();
    assert!(pause.begin() && !pause.begin());
    assert!(matches!(pool.checkout(Claim::First).await, Err(PoolError::Paused { .. })));
    // A transaction that grows does not wait for itself.
    drop(pool.checkout(Claim::Further).await.unwrap());
    drop(one);
    assert_eq!(counts(&pool).lent, 0);
    let (waited, ()) = tokio::join!(pool.checkout(Claim::First), async {
        tokio::task::yield_now().await;
        assert!(pause.end() && !pause.end());
    });
    assert!(waited.is_ok());
}
