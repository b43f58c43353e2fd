//! LISTEN without a connection of its own: one connection per member shard listens for all clients of the gateway.
//!
//! [`Listeners`] knows who listens to what and which shards are members; a [`link`] is the connection to one of them, there
//! while somebody listens. A notification raised on any shard comes in by that shard's link, once, in the order of its commits, and
//! goes to the [`mailbox::Mailbox`] of every client of its channel; [`session`] is the client's side.
//!
//! A client is told that it listens when every member shard has said so. If a link is lost, notifications may have been missed:
//! its clients' sessions end, as they would if their server were lost. So they do when the gateway's lease has run out: it may not
//! have been told of shards that others use.

mod link;
pub mod mailbox;
pub mod session;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_topology::client::LeaseClock;
use ringway_topology::ids::ShardId;
use ringway_topology::model::{Shard, Topology};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::gateway::Gateway;
use crate::wire::{PgError, SqlState};
use link::Command;
use mailbox::Mailbox;

/// A new member that cannot be listened to keeps its epoch back for so long; then the clients that listen are ended.
const JOIN_WAIT: Duration = Duration::from_secs(2);

/// The lease is looked at as often as this, and when it ends.
const LEASE_LOOK: Duration = Duration::from_secs(1);

type Listening = oneshot::Receiver<Result<(), PgError>>;

#[derive(Debug, Default)]
pub struct Listeners {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<ShardId, Arc<Shard>>,
    /// By the client's number.
    clients: HashMap<u32, Client>,
    links: BTreeMap<ShardId, Link>,
    next: u64,
    /// Of the lease, when it was looked at last.
    lapses: u64,
}

#[derive(Debug)]
struct Client {
    mailbox: Arc<Mailbox>,
    channels: Vec<Arc<str>>,
}

/// A link's task and the way to it. Commands are sent under the lock, so that a task that ends leaves none behind.
#[derive(Debug)]
struct Link {
    number: u64,
    /// Bounded by `waiting`: a client asks for one thing at a time, and for anything but LISTEN only where it listens, or is about to.
    commands: mpsc::UnboundedSender<Command>,
    /// LISTENs that the shard has not answered yet.
    waiting: Arc<AtomicUsize>,
}

/// One of [`Link::waiting`], until this is dropped.
#[derive(Debug)]
struct Waits(Arc<AtomicUsize>);

impl Waits {
    fn new(waiting: &Arc<AtomicUsize>) -> Waits {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(waiting))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listeners {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client listens to these channels too, once all that is returned has come. On an error there: [`Self::unlisten`]. An error here:
    /// nothing has changed.
    fn listen(
        &self,
        gateway: &Arc<Gateway>,
        client: u32,
        mailbox: &Arc<Mailbox>,
        channels: &[Arc<str>],
    ) -> Result<Vec<Listening>, PgError> {
        let mut state = self.state();
        let limit = gateway.config.limits.listen_waiting_max;
        let full = |link: &Link| link.waiting.load(Ordering::Relaxed) >= limit;
        if let Some((id, _)) = state.links.iter().find(|(_, link)| full(link)) {
            let name = state.members.get(id).map(|shard| shard.name.clone()).unwrap_or_default();
            let message = format!("{limit} LISTENs wait for shard \"{name}\" already (listen_waiting_max)");
            return Err(PgError::new(SqlState::TOO_MANY_CONNECTIONS, message)
                .hint("Check that every shard runs (\"shardctl shard list\"), and try again in a moment."));
        }
        let known = state.clients.entry(client);
        let known = known.or_insert_with(|| Client { mailbox: Arc::clone(mailbox), channels: Vec::new() });
        known.channels.extend_from_slice(channels);
        let members: Vec<Arc<Shard>> = state.members.values().cloned().collect();
        Ok(members.iter().map(|shard| state.subscribe(gateway, shard, client, mailbox, channels)).collect())
    }

    /// The client listens to nothing any more, nor is it about to.
    fn leave(&self, client: u32) {
        let left = self.state().clients.get(&client).map(|known| known.channels.clone());
        if let Some(channels) = left {
            self.unlisten(client, &channels);
        }
    }

    fn unlisten(&self, client: u32, channels: &[Arc<str>]) {
        let mut state = self.state();
        if let Some(known) = state.clients.get_mut(&client) {
            let gone: HashSet<&Arc<str>> = channels.iter().collect();
            known.channels.retain(|channel| !gone.contains(channel));
            if known.channels.is_empty() {
                state.clients.remove(&client);
            }
        }
        for link in state.links.values() {
            let _ended = link.commands.send(Command::Unlisten { client, channels: channels.to_vec() });
        }
    }

    /// Everything that was committed on any shard before has come in when all that is returned has.
    fn barrier(&self) -> Vec<oneshot::Receiver<()>> {
        let state = self.state();
        let passing = state.links.values().map(|link| {
            let (done, passed) = oneshot::channel();
            let _ended = link.commands.send(Command::Barrier { done });
            passed
        });
        passing.collect()
    }

    /// A topology is about to be published: no statement may run on a new member before it is listened to.
    pub async fn follow(&self, gateway: &Arc<Gateway>, topology: &Topology) {
        self.check_lease(&gateway.view.lease);
        let joining = self.set_members(gateway, topology);
        if joining.is_empty() {
            return;
        }
        let (mailboxes, listening): (Vec<Arc<Mailbox>>, Vec<Listening>) = joining.into_iter().unzip();
        let listened = tokio::time::timeout(JOIN_WAIT, futures_util::future::join_all(listening)).await;
        for (index, mailbox) in mailboxes.iter().enumerate() {
            let listens = listened.as_ref().is_ok_and(|answers| matches!(answers[index], Ok(Ok(()))));
            if !listens {
                mailbox.fail(lost("a shard has joined that cannot be listened to"));
            }
        }
    }

    /// Who has listened while there was no lease may have missed something, even if there is one again.
    fn check_lease(&self, lease: &LeaseClock) {
        let mut state = self.state();
        // In this order: the count grows before a lease that had run out is live again.
        let (is_live, lapses) = (lease.is_live(), lease.lapses());
        if !is_live || lapses != state.lapses {
            state.lapses = lapses;
            let what = "the gateway was cut off from the control plane: there may be shards that it does not know";
            state.clients.values().for_each(|client| client.mailbox.fail(lost(what)));
        }
    }

    fn set_members(&self, gateway: &Arc<Gateway>, topology: &Topology) -> Vec<(Arc<Mailbox>, Listening)> {
        let mut state = self.state();
        let same = |known: &Shard| topology.members().any(|shard| shard.id == known.id && shard.dsn == known.dsn);
        let gone: Vec<ShardId> = state.members.values().filter(|known| !same(known)).map(|known| known.id).collect();
        for id in gone {
            state.members.remove(&id);
            let was_there = state.links.remove(&id).is_some();
            if was_there && topology.members().any(|shard| shard.id == id) {
                // Another server in its place: what was committed on the old one may not have come.
                state.clients.values().for_each(|client| client.mailbox.fail(lost("a shard has another server now")));
            }
        }
        let mut joining = Vec::new();
        for shard in topology.members() {
            if state.members.contains_key(&shard.id) {
                continue;
            }
            let shard = Arc::new(shard.clone());
            state.members.insert(shard.id, Arc::clone(&shard));
            let clients: Vec<_> = state
                .clients
                .iter()
                .map(|(number, client)| (*number, Arc::clone(&client.mailbox), client.channels.clone()))
                .collect();
            for (number, mailbox, channels) in clients {
                let listening = state.subscribe(gateway, &shard, number, &mailbox, &channels);
                joining.push((mailbox, listening));
            }
        }
        joining
    }

    /// Channels and how many clients listen to each.
    pub fn channels(&self) -> BTreeMap<Arc<str>, usize> {
        let mut channels = BTreeMap::new();
        for channel in self.state().clients.values().flat_map(|client| &client.channels) {
            *channels.entry(Arc::clone(channel)).or_insert(0) += 1;
        }
        channels
    }

    /// True: the link may end, nobody can reach it any more. False: there is more to do.
    fn retire(&self, shard: ShardId, number: u64, commands: &mpsc::UnboundedReceiver<Command>) -> bool {
        let mut state = self.state();
        if !commands.is_empty() {
            return false;
        }
        state.remove_link(shard, number);
        true
    }

    /// The link is lost: who listens next makes a new one.
    fn forget(&self, shard: ShardId, number: u64) {
        self.state().remove_link(shard, number);
    }
}

/// Ends the sessions that listen when the lease has run out. Until the token is cancelled.
pub async fn watch_lease(gateway: Arc<Gateway>, token: CancellationToken) {
    let lease = &gateway.view.lease;
    loop {
        gateway.listeners.check_lease(lease);
        let left = lease.lease().valid_until.saturating_duration_since(Instant::now());
        let wait = if left.is_zero() { LEASE_LOOK } else { left.min(LEASE_LOOK) };
        if token.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

impl State {
    fn subscribe(
        &mut self,
        gateway: &Arc<Gateway>,
        shard: &Arc<Shard>,
        client: u32,
        mailbox: &Arc<Mailbox>,
        channels: &[Arc<str>],
    ) -> Listening {
        let (done, listening) = oneshot::channel();
        let next = &mut self.next;
        let link = self.links.entry(shard.id).or_insert_with(|| {
            *next += 1;
            let (commands, receiver) = mpsc::unbounded_channel();
            gateway.tasks.spawn(link::run(Arc::clone(gateway), Arc::clone(shard), *next, receiver));
            Link { number: *next, commands, waiting: Arc::default() }
        });
        let mailbox = Arc::clone(mailbox);
        let waits = Waits::new(&link.waiting);
        let _ended = link.commands.send(Command::Listen { client, mailbox, channels: channels.to_vec(), done, waits });
        listening
    }

    fn remove_link(&mut self, shard: ShardId, number: u64) {
        if self.links.get(&shard).is_some_and(|link| link.number == number) {
            self.links.remove(&shard);
        }
    }
}

/// What PostgreSQL's clients are told when their server ends.
fn lost(what: &str) -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection: notifications may have been missed")
        .detail(format!("The session listens, and {what}."))
        .hint("Connect again, LISTEN again, and look at what has changed meanwhile.")
}
