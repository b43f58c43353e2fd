//! Clients prove who they are: trust, SCRAM-SHA-256 against the users file or the shards' own verifiers, or a certificate.

use bytes::BytesMut;
use ringway_tls::certificate::common_name;

use super::auth_query::{Role, Secret};
use super::Server;
use crate::config::AuthMode;
use crate::exec::client::Client;
use crate::exec::failure::Failure;
use crate::pool::credentials::Credentials;
use crate::wire::frontend::SaslInitialResponse;
use crate::wire::scram::{ScramError, ServerBinding, ServerFirst, MECHANISM, MECHANISM_PLUS};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, PgError, SqlState};

/// What the client's proof gives for proving the gateway to the shards. `end_point`: what SCRAM can be bound to.
pub async fn authenticate(
    server: &Server,
    client: &mut Client,
    user: &str,
    end_point: Option<&[u8]>,
) -> Result<Credentials, Failure> {
    let config = &server.gateway.config;
    if config.tls.as_ref().is_some_and(|files| files.client_authorities.is_some()) {
        check_certificate(client, user, config.auth == AuthMode::Cert)?;
    }
    match config.auth {
        AuthMode::Trust => {
            backend::authentication_ok(client.out());
            Ok(Credentials::None)
        }
        AuthMode::Cert => {
            backend::authentication_ok(client.out());
            let users = server.gateway.users.load_full();
            let known = users.as_ref().and_then(|users| users.find(user));
            Ok(known.and_then(|known| known.password.clone()).map_or(Credentials::None, Credentials::Password))
        }
        AuthMode::Scram => scram(server, client, user, end_point).await,
    }
}

/// A certificate that is there has passed the handshake: one of the authorities has signed it.
fn check_certificate(client: &Client, user: &str, is_login: bool) -> Result<(), Failure> {
    let Some(certificate) = client.stream().peer_certificate() else {
        let message = "connection requires a valid client certificate";
        let hint = "Give the client a certificate: sslcert and sslkey.";
        return Err(PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message).hint(hint).into());
    };
    if !is_login || common_name(certificate).as_deref() == Some(user) {
        return Ok(());
    }
    let message = format!("certificate authentication failed for user \"{user}\"");
    Err(PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
        .hint("The certificate's common name must be the user's name.")
        .into())
}

async fn scram(
    server: &Server,
    client: &mut Client,
    user: &str,
    end_point: Option<&[u8]>,
) -> Result<Credentials, Failure> {
    let fatal = |error: PgError| Failure::Gone(Some(Box::new(error)));
    let offered: &[&str] = if end_point.is_some() { &[MECHANISM_PLUS, MECHANISM] } else { &[MECHANISM] };
    backend::authentication_sasl(client.out(), offered);
    let frame = password(client).await?;
    let first = SaslInitialResponse::parse(frame.body()).map_err(|error| fatal(error.into()))?;
    let binding = match (first.mechanism, end_point) {
        (MECHANISM, None) => ServerBinding::None,
        (MECHANISM, Some(_)) => ServerBinding::Declined,
        (MECHANISM_PLUS, Some(end_point)) => ServerBinding::EndPoint(end_point.to_vec()),
        _ => {
            let message = "client selected an invalid SASL authentication mechanism";
            return Err(fatal(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)));
        }
    };
    let users = server.gateway.users.load_full();
    let known = users.as_ref().and_then(|users| users.find(user));
    let asked = match (&server.gateway.config.auth_query, known) {
        (Some(query), None) => Some(server.verifiers.find(&server.gateway, query, user).await.map_err(fatal)?),
        _ => None,
    };
    let verifier = match (known, asked.as_deref()) {
        (Some(known), _) => Some(known.verifier.clone()),
        (None, Some(Role { secret: Secret::Verifier(verifier), .. })) => Some(verifier.clone()),
        _ => None,
    };
    // Who has no verifier goes the same way as who has one, and fails at its end.
    let exchange = match verifier {
        Some(verifier) => ServerFirst::new(verifier),
        None => ServerFirst::mock(user, &server.mock_secret()),
    }
    .bound(binding);
    let refused = |error: ScramError| fatal(error.to_client(user));
    let (exchange, message) = exchange.respond(first.data.unwrap_or_default()).map_err(refused)?;
    backend::authentication_sasl_continue(client.out(), message.as_bytes());
    let frame = password(client).await?;
    let accepted = match exchange.respond(frame.body()) {
        Ok(accepted) => accepted,
        Err(error) => {
            let told = error.to_client(user);
            if error != ScramError::WrongPassword {
                return Err(fatal(told));
            }
            server.verifiers.doubt(user);
            return Err(fatal(match asked.as_deref() {
                Some(Role { secret: Secret::Other(kept), .. }) => told
                    .detail(format!("The role has no SCRAM-SHA-256 verifier: its password is kept {kept}."))
                    .hint("Set it again, with password_encryption = 'scram-sha-256': ALTER ROLE ... PASSWORD."),
                _ => told,
            }));
        }
    };
    if asked.is_some_and(|role| !role.may_login) {
        let message = format!("role \"{user}\" is not permitted to log in");
        return Err(fatal(PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)));
    }
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
