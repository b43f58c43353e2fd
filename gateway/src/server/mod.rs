//! Accepts clients: listening, TLS, the number of clients, shutdown.

pub mod auth;
pub mod cancels;
pub mod login;
pub mod opening;
pub mod users;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ringway_tls::{ServerTls, TlsError};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::exec::failure::Failure;
use crate::exec::gateway::Gateway;
use cancels::Cancels;
use users::Users;

/// What every connection of the listener needs.
pub struct Server {
    pub gateway: Arc<Gateway>,
    pub users: Option<Users>,
    pub cancels: Cancels,
    /// What the files held when they were last read.
    pub tls: ArcSwapOption<ServerTls>,
    /// Makes the salts of unknown users.
    pub mock_secret: [u8; 32],
}

impl Server {
    /// Errors: the configuration's TLS files cannot be used.
    pub fn new(gateway: Arc<Gateway>, users: Option<Users>) -> Result<Server, TlsError> {
        let tls = ArcSwapOption::empty();
        let server = Server { gateway, users, cancels: Cancels::default(), tls, mock_secret: rand::random() };
        server.read_tls()?;
        Ok(server)
    }

    /// Reads certificate, key and authorities for the connections that come from now on. On an error all stays as it was.
    pub fn read_tls(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.gateway.config.tls {
            self.tls.store(Some(Arc::new(ServerTls::read(files)?)));
        }
        Ok(())
    }
}

/// Serves until the token is cancelled; then waits for open transactions, within `drain_timeout_ms`.
pub async fn serve(server: Arc<Server>, listener: TcpListener, token: CancellationToken) {
    let sessions = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let server = Arc::clone(&server);
                let token = token.clone();
                sessions.spawn(async move { client(server, stream, address, token).await });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    sessions.close();
    let grace = Duration::from_millis(server.gateway.config.limits.drain_timeout_ms);
    if tokio::time::timeout(grace, sessions.wait()).await.is_err() {
        tracing::warn!(clients = sessions.len(), "clients are cut off (drain_timeout_ms)");
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
    let too_many = clients >= server.gateway.config.limits.clients_max as u64;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let limit = Duration::from_millis(server.gateway.config.limits.startup_timeout_ms);
    let login = tokio::time::timeout(limit, login::login(&server, stream, too_many));
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
    let result = session.run(&token).await;
    if let Err(Failure::Gone(Some(error))) = &result {
        crate::wire::backend::error_response(session.executor.client.out(), error);
        let _gone_anyway = session.executor.client.flush().await;
    }
    session.executor.client.close();
    session.close().await;
    server.cancels.remove(key);
}
