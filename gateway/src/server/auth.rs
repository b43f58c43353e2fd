//! Clients prove who they are: trust, or SCRAM-SHA-256 against the users file.

use bytes::BytesMut;

use super::Server;
use crate::config::AuthMode;
use crate::exec::client::Client;
use crate::exec::failure::Failure;
use crate::pool::credentials::Credentials;
use crate::wire::frontend::SaslInitialResponse;
use crate::wire::scram::{ServerFirst, MECHANISM};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, PgError, SqlState};

/// What the client's proof gives for proving the gateway to the shards.
pub async fn authenticate(server: &Server, client: &mut Client, user: &str) -> Result<Credentials, Failure> {
    if server.gateway.config.auth == AuthMode::Trust {
        backend::authentication_ok(client.out());
        return Ok(Credentials::None);
    }
    let fatal = |error: PgError| Failure::Gone(Some(Box::new(error)));
    backend::authentication_sasl(client.out(), &[MECHANISM]);
    let frame = password(client).await?;
    let first = SaslInitialResponse::parse(frame.body()).map_err(|error| fatal(error.into()))?;
    if first.mechanism != MECHANISM {
        let message = "client selected an invalid SASL authentication mechanism";
        return Err(fatal(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)));
    }
    let known = server.users.as_ref().and_then(|users| users.find(user));
    let exchange = match known {
        Some(known) => ServerFirst::new(known.verifier.clone()),
        None => ServerFirst::mock(user, &server.mock_secret),
    };
    let refused = |error: crate::wire::scram::ScramError| fatal(error.to_client(user));
    let (exchange, message) = exchange.respond(first.data.unwrap_or_default()).map_err(refused)?;
    backend::authentication_sasl_continue(client.out(), message.as_bytes());
    let frame = password(client).await?;
    let accepted = exchange.respond(frame.body()).map_err(refused)?;
    backend::authentication_sasl_final(client.out(), accepted.message.as_bytes());
    backend::authentication_ok(client.out());
    Ok(match known.and_then(|known| known.password.clone()) {
        Some(password) => Credentials::Password(password),
        None => Credentials::Keys(accepted.keys),
    })
}

async fn password(client: &mut Client) -> Result<Frame, Failure> {
    client.flush().await?;
    let frame = client.frame().await?.ok_or(Failure::Gone(None))?;
    if frame.tag() == tag::PASSWORD {
        return Ok(frame);
    }
    let message = format!("expected a SASL response, got message type {}", frame.tag());
    Err(Failure::Gone(Some(Box::new(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)))))
}

/// One error, before the connection is closed.
pub fn encode_fatal(error: &PgError) -> BytesMut {
    let mut out = BytesMut::new();
    backend::error_response(&mut out, error);
    out
}
