//! Accepts clients: listening, TLS, the number of clients, shutdown.

pub mod auth;
pub mod auth_query;
pub mod cancels;
pub mod login;
pub mod opening;
pub mod threads;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ringway_tls::{ServerTls, TlsError};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::exec::clients::ClientEntry;
use crate::exec::failure::Failure;
use crate::exec::gateway::Gateway;
use crate::wire::{PgError, SqlState};
use auth_query::Verifiers;
use cancels::Cancels;
use threads::Threads;

/// What every connection of the listener needs.
pub struct Server {
    pub gateway: Arc<Gateway>,
    pub cancels: Cancels,
    /// What the files held when they were last read.
    pub tls: ArcSwapOption<ServerTls>,
    /// What the shards have said of roles.
    pub verifiers: Verifiers,
    /// Makes the salts of unknown users until the cluster's secret is known.
    own_secret: [u8; 32],
}

impl Server {
    /// Errors: the configuration's TLS files cannot be used.
    pub fn new(gateway: Arc<Gateway>) -> Result<Server, TlsError> {
        let tls = ArcSwapOption::empty();
        let verifiers = Verifiers::new(&gateway.config.limits);
        let server = Server { gateway, cancels: Cancels::default(), tls, verifiers, own_secret: rand::random() };
        server.read_tls()?;
        Ok(server)
    }

    /// Makes the salts of unknown users: the same on every gateway of the cluster, as those of known ones are.
    pub fn mock_secret(&self) -> [u8; 32] {
        let view = self.gateway.view.current();
        let cluster = view.as_ref().map(|view| view.topology.secret.as_str()).filter(|secret| !secret.is_empty());
        cluster.map_or(self.own_secret, |secret| {
            Sha256::new().chain_update("ringway: salts of unknown roles\0").chain_update(secret).finalize().into()
        })
    }

    /// Reads certificate, key and authorities for the connections that come from now on. On an error all stays as it was.
    pub fn read_tls(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.gateway.config.tls {
            self.tls.store(Some(Arc::new(ServerTls::read(files)?)));
        }
        Ok(())
    }
}

/// Binds, and lets another gateway do the same if `reuse_port`: from when this one stops listening on, clients reach the other.
pub fn listen(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    const BACKLOG: u32 = 1024;
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if reuse_port {
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the gateway closes, and then until the last client has left. Once it shuts down, idle clients are told to
/// leave, and the others have `drain_timeout_ms` to end their transactions.
pub async fn serve(server: Arc<Server>, listener: TcpListener, threads: &Threads) {
    let gateway = Arc::clone(&server.gateway);
    let sessions = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                // Its readiness is told by its own thread's runtime.
                let (Ok(stream), Some((seat, thread))) = (stream.into_std(), threads.seat()) else { continue };
                let server = Arc::clone(&server);
                let token = gateway.shutdown.clone();
                let session = async move {
                    let _seat = seat;
                    match TcpStream::from_std(stream) {
                        Ok(stream) => client(server, stream, address, token).await,
                        Err(error) => tracing::warn!(%error, %address, "a client's connection cannot be watched"),
                    }
                };
                sessions.spawn_on(session, thread);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    sessions.close();
    tokio::select! {
        () = sessions.wait() => return,
        () = gateway.shutdown.cancelled() => {}
    }
    let grace = Duration::from_millis(gateway.live.load().drain_timeout_ms);
    tokio::select! {
        drained = tokio::time::timeout(grace, sessions.wait()) => match drained {
            Ok(()) => return,
            Err(_) => tracing::warn!(clients = sessions.len(), "clients are cut off (drain_timeout_ms)"),
        },
        () = gateway.abort.cancelled() => {}
    }
    gateway.end_clients();
    let cancelling = gateway.clients.all().into_iter().map(|client| async move { client.kill().await });
    let ending = async { tokio::join!(futures_util::future::join_all(cancelling), sessions.wait()) };
    if tokio::time::timeout(KILL_GRACE + KILL_GRACE, ending).await.is_err() {
        tracing::warn!(clients = sessions.len(), "clients have not ended");
    }
}

/// What a session that is killed has to come to an end; it is cut off then.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Who may still come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Everybody,
    /// `clients_max` is reached: administrators have to be able to look at why.
    Administrators,
    Nobody,
}

impl Room {
    fn of(clients: u64, clients_max: u64) -> Room {
        const ADMINISTRATORS_MAX: u64 = 10;
        match clients.checked_sub(clients_max) {
            None => Room::Everybody,
            Some(more) if more < ADMINISTRATORS_MAX => Room::Administrators,
            Some(_) => Room::Nobody,
        }
    }
}

struct Counted<'a>(&'a Gateway);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.statistics.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn client(server: Arc<Server>, stream: TcpStream, address: SocketAddr, token: CancellationToken) {
    let clients = server.gateway.statistics.clients.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&server.gateway);
    let room = Room::of(clients, server.gateway.live.load().clients_max as u64);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let limits = &server.gateway.config.limits;
    if let Err(error) = limits.tcp().apply(&stream) {
        tracing::debug!(%error, "cannot set keepalive options");
    }
    let limit = Duration::from_millis(limits.startup_timeout_ms);
    let login = tokio::time::timeout(limit, Box::pin(login::login(&server, stream, room)));
    let login = tokio::select! {
        login = login => login,
        () = token.cancelled() => return,
    };
    let (mut session, key) = match login {
        Ok(Ok(Some(logged_in))) => logged_in,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%error, %address, "a client did not get in");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "a client did not log in in time (startup_timeout_ms)");
            return;
        }
    };
    let entry = Arc::clone(&session.executor.entry);
    let mut overtime_over = false;
    let result = tokio::select! {
        biased;
        result = session.run() => result,
        () = overdue(&entry) => Err(Failure::Gone(None)),
        error = overtime(&entry, limits.query_timeout()) => {
            overtime_over = true;
            Err(Failure::Gone(Some(Box::new(error))))
        }
    };
    let working = overtime_over || matches!(result, Err(Failure::Gone(None)));
    let client = &mut session.executor.client;
    if let (Err(Failure::Gone(Some(error))), true) = (&result, client.can_be_told()) {
        crate::wire::backend::error_response(client.out(), error);
        // Who does not read is not waited for.
        let _gone_anyway = tokio::time::timeout(FAREWELL_MAX, client.flush()).await;
    }
    session.executor.client.close();
    session.close(working).await;
    server.gateway.clients.remove(key);
    server.cancels.remove(key);
}

/// What a client has for taking the error that ends its session.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// What a session is told that works for one message for too long; never without a limit.
async fn overtime(entry: &ClientEntry, limit: Option<Duration>) -> PgError {
    let Some(limit) = limit else { return std::future::pending().await };
    entry.overtime(limit).await;
    let message = format!("the answer took longer than {} ms (query_timeout_ms)", limit.as_millis());
    PgError::fatal(SqlState::QUERY_CANCELED, message)
        .hint("If a transaction was being committed, look whether its effects are there before running it again.")
}

/// Returns when a session should have ended by now.
async fn overdue(entry: &ClientEntry) {
    std::future::poll_fn(|context| entry.poll_killed(context)).await;
    tokio::time::sleep(KILL_GRACE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand of them are idle most of the time: what is rare and large is in boxes of its own.
    #[test]
    fn a_clients_task_is_small() {
        const TASK_BYTES_MAX: usize = 4 << 10;
        fn size<F: std::future::Future>(
            _: impl Fn(Arc<Server>, TcpStream, SocketAddr, CancellationToken) -> F,
        ) -> usize {
            std::mem::size_of::<F>()
        }
        let bytes = size(client);
        assert!(bytes <= TASK_BYTES_MAX, "{bytes} bytes");
        println!("a client's task: {bytes} bytes");
    }
}
