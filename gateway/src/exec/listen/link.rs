//! The connection that listens on one shard for all clients of the gateway. It is there while somebody listens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringway_topology::model::{quote_ident, Shard};
use tokio::sync::{mpsc, oneshot};

use super::mailbox::Mailbox;
use super::{lost, Waits};
use crate::exec::gateway::Gateway;
use crate::pool::connect::{connect, ConnectRequest, Purpose};
use crate::pool::connection::{Message, ServerConnection};
use crate::pool::credentials::Credentials;
use crate::pool::endpoint::Endpoint;
use crate::pool::error::{field, PoolError, ServerError};
use crate::wire::backend::Notification;
use crate::wire::{PgError, SqlState};

/// A shard that says nothing is asked so often whether it is still there.
const PING: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);

/// What a link is asked to do. There is one Listen or Barrier of a client at a time, and as many Unlistens as Listens.
#[derive(Debug)]
pub(super) enum Command {
    Listen {
        client: u32,
        mailbox: Arc<Mailbox>,
        channels: Vec<Arc<str>>,
        done: oneshot::Sender<Result<(), PgError>>,
        waits: Waits,
    },
    Unlisten {
        client: u32,
        channels: Vec<Arc<str>>,
    },
    Barrier {
        done: oneshot::Sender<()>,
    },
}

/// What is done when the shard has answered.
enum Then {
    Listening {
        client: u32,
        mailbox: Arc<Mailbox>,
        channels: Vec<Arc<str>>,
        done: oneshot::Sender<Result<(), PgError>>,
        _waits: Waits,
    },
    Passed(oneshot::Sender<()>),
    Nothing,
}

struct Asked {
    at: Instant,
    then: Then,
    error: Option<ServerError>,
}

struct Link {
    shard: Arc<Shard>,
    clients: HashMap<Arc<str>, BTreeMap<u32, Arc<Mailbox>>>,
    /// How many clients listen, or are about to.
    wanted: HashMap<Arc<str>, usize>,
    asked: VecDeque<Asked>,
    heard: Instant,
}

/// Until nobody listens, or the shard has another server, or the connection is lost.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    shard: Arc<Shard>,
    number: u64,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut link = Link {
        shard: Arc::clone(&shard),
        clients: HashMap::new(),
        wanted: HashMap::new(),
        asked: VecDeque::new(),
        heard: Instant::now(),
    };
    let ended = match open(&gateway, &shard).await {
        Ok(mut connection) => {
            tracing::debug!(shard = %shard.name, "listening");
            link.serve(&gateway, number, &mut commands, &mut connection).await
        }
        Err(error) => Err(error),
    };
    let Err(error) = ended else { return };
    tracing::warn!(shard = %shard.name, %error, "the connection that listens for clients is lost");
    gateway.listeners.forget(shard.id, number);
    commands.close();
    let refused = || {
        PgError::new(SqlState::CONNECTION_FAILURE, format!("the gateway cannot listen on shard \"{}\"", shard.name))
            .detail(error.to_string())
            .hint("Check that the shard runs (\"shardctl shard list\"), then try again.")
    };
    for asked in link.asked {
        if let Then::Listening { done, .. } = asked.then {
            let _gone = done.send(Err(refused()));
        }
    }
    while let Ok(command) = commands.try_recv() {
        if let Command::Listen { done, .. } = command {
            let _gone = done.send(Err(refused()));
        }
    }
    for mailbox in link.clients.values().flat_map(BTreeMap::values) {
        mailbox.fail(lost(&format!("the gateway's connection to shard \"{}\" was lost", shard.name)));
    }
}

async fn open(gateway: &Gateway, shard: &Shard) -> Result<ServerConnection, PoolError> {
    let endpoint = Endpoint::parse(&shard.name, &shard.dsn)?;
    let tcp = gateway.config.limits.tcp();
    let timeout = Duration::from_millis(gateway.live.load().pools.of_service().connect_timeout_ms);
    let opening = async {
        let mut connection = connect(ConnectRequest {
            endpoint: &endpoint,
            tcp: &tcp,
            role: &endpoint.service_role,
            purpose: Purpose::Service,
            gateway: gateway.id,
            credentials: &Credentials::None,
            timeout,
            server_statements_max: 1,
        })
        .await?;
        connection.query("SET application_name = 'ringway-gateway-listener'; SET idle_session_timeout = 0").await?;
        Ok(connection)
    };
    // Commands wait meanwhile: the limit is one for all of it.
    tokio::time::timeout(timeout, opening).await.unwrap_or_else(|_| {
        let message = format!("not within {} ms (connect_timeout_ms)", timeout.as_millis());
        Err(PoolError::Connect { shard: shard.name.clone(), message })
    })
}

impl Link {
    async fn serve(
        &mut self,
        gateway: &Gateway,
        number: u64,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        connection: &mut ServerConnection,
    ) -> Result<(), PoolError> {
        let limit = Duration::from_millis(gateway.config.limits.listen_timeout_ms);
        let mut tick = tokio::time::interval(TICK);
        self.heard = Instant::now();
        loop {
            while let Some(message) = connection.take_message() {
                self.heard = Instant::now();
                self.message(&message)?;
            }
            let idle = self.asked.is_empty() && self.wanted.is_empty();
            if idle && gateway.listeners.retire(self.shard.id, number, commands) {
                return Ok(());
            }
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command, connection),
                    None => return Ok(()),
                },
                filled = connection.fill() => filled?,
                _ = tick.tick() => {
                    if self.asked.front().is_some_and(|asked| asked.at.elapsed() > limit) {
                        let message = format!("no answer within {} ms (listen_timeout_ms)", limit.as_millis());
                        return Err(PoolError::Connect { shard: self.shard.name.clone(), message });
                    }
                    if self.asked.is_empty() && self.heard.elapsed() > PING {
                        self.ask(connection, "", Then::Nothing);
                    }
                }
            }
        }
    }

    fn ask(&mut self, connection: &mut ServerConnection, sql: &str, then: Then) {
        connection.queue_query(sql);
        self.asked.push_back(Asked { at: Instant::now(), then, error: None });
    }

    fn command(&mut self, command: Command, connection: &mut ServerConnection) {
        match command {
            Command::Listen { client, mailbox, channels, done, waits } => {
                for channel in &channels {
                    *self.wanted.entry(Arc::clone(channel)).or_insert(0) += 1;
                }
                // Also if all is listened to already: the answer parts what came before from what comes after.
                let new: Vec<Arc<str>> =
                    channels.iter().filter(|channel| !self.clients.contains_key(*channel)).cloned().collect();
                let sql = statements("LISTEN", &new);
                self.ask(connection, &sql, Then::Listening { client, mailbox, channels, done, _waits: waits });
            }
            Command::Unlisten { client, channels } => {
                let mut ended = Vec::new();
                let mut pending = Vec::new();
                for channel in channels {
                    let clients = self.clients.get_mut(&channel);
                    if clients.is_some_and(|clients| clients.remove(&client).is_some()) {
                        if self.wanted_less(&channel) {
                            ended.push(channel);
                        }
                    } else {
                        pending.push(channel);
                    }
                }
                self.stop(connection, &ended);
                if !pending.is_empty() {
                    self.withdraw(client, &pending, connection);
                }
            }
            Command::Barrier { done } => self.ask(connection, "", Then::Passed(done)),
        }
    }

    /// True: nobody wants it any more.
    fn wanted_less(&mut self, channel: &Arc<str>) -> bool {
        let Some(count) = self.wanted.get_mut(channel) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.wanted.remove(channel);
        self.clients.remove(channel);
        true
    }

    fn stop(&mut self, connection: &mut ServerConnection, channels: &[Arc<str>]) {
        if !channels.is_empty() {
            let sql = statements("UNLISTEN", channels);
            self.ask(connection, &sql, Then::Nothing);
        }
    }

    /// What the client is about to listen to, it does not want any more.
    fn withdraw(&mut self, withdrawing: u32, unwanted: &[Arc<str>], connection: &mut ServerConnection) {
        let mut given_up = Vec::new();
        for asked in &mut self.asked {
            if let Then::Listening { client, channels, .. } = &mut asked.then {
                if *client == withdrawing {
                    given_up.extend(channels.extract_if(.., |channel| unwanted.contains(channel)));
                }
            }
        }
        given_up.retain(|channel| self.wanted_less(channel));
        self.stop(connection, &given_up);
    }

    fn message(&mut self, message: &Message) -> Result<(), PoolError> {
        match message.tag {
            b'A' => self.notification(message),
            b'E' => {
                let error = ServerError::new(message.raw.slice(5..));
                if matches!(field(message.body(), b'V'), Some("FATAL" | "PANIC")) {
                    return Err(PoolError::Server(error));
                }
                if let Some(asked) = self.asked.front_mut() {
                    asked.error.get_or_insert(error);
                }
            }
            b'Z' => self.answered(),
            _ => {}
        }
        Ok(())
    }

    fn notification(&mut self, message: &Message) {
        let Ok(Notification { channel, .. }) = Notification::parse(message.body()) else { return };
        let Some((channel, clients)) = self.clients.get_key_value(channel) else { return };
        // A copy, once for all clients: what waits must not keep a whole buffer.
        let raw = Bytes::copy_from_slice(&message.raw);
        for mailbox in clients.values() {
            mailbox.put(channel, &raw);
        }
    }

    fn answered(&mut self) {
        let Some(asked) = self.asked.pop_front() else { return };
        match (asked.then, asked.error) {
            (Then::Listening { client, mailbox, channels, done, .. }, None) => {
                for channel in &channels {
                    self.clients.entry(Arc::clone(channel)).or_default().insert(client, Arc::clone(&mailbox));
                }
                // If nobody waits any more, an Unlisten is on its way.
                let _gone = done.send(Ok(()));
            }
            (Then::Listening { channels, done, .. }, Some(error)) => {
                for channel in &channels {
                    self.wanted_less(channel);
                }
                let message = format!("the gateway cannot listen on shard \"{}\": {error}", self.shard.name);
                let _gone = done.send(Err(PgError::new(SqlState::SYSTEM_ERROR, message)));
            }
            (Then::Passed(done), _) => {
                let _gone = done.send(());
            }
            (Then::Nothing, _) => {}
        }
    }
}

/// One statement for each channel, in one transaction.
fn statements(verb: &str, channels: &[Arc<str>]) -> String {
    channels.iter().map(|channel| format!("{verb} {}", quote_ident(channel))).collect::<Vec<_>>().join("; ")
}
