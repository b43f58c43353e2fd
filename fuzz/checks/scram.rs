//! SCRAM messages in both roles, and verifiers. The first byte chooses whose turn it is.

use std::sync::LazyLock;

use ringway_gateway::wire::frontend::SaslInitialResponse;
use ringway_gateway::wire::scram::{
    ClientBinding, ClientFirst, Credential, ScramKeys, ServerBinding, ServerFirst, Verifier,
};

/// An exchange that succeeds.
struct Exchange {
    keys: ScramKeys,
    verifier: Verifier,
    challenge: String,
    last: String,
    signature: String,
}

static EXCHANGE: LazyLock<Exchange> = LazyLock::new(|| {
    let keys = ScramKeys::derive("pencil", b"0123456789abcdef", 1).expect("one round");
    let verifier = keys.verifier();
    let (client, first) = client(&keys);
    let (server, challenge) = server(&verifier, first.as_bytes()).expect("a client's own message");
    let (_, last) = client.respond(challenge.as_bytes()).expect("a server's own message");
    let signature = server.respond(last.as_bytes()).expect("the right proof").message;
    Exchange { keys, verifier, challenge, last, signature }
});

fn client(keys: &ScramKeys) -> (ClientFirst, String) {
    ClientFirst::with_nonce(Credential::Keys(keys.clone()), ClientBinding::None, "", "abc".to_owned())
}

fn server(
    verifier: &Verifier,
    first: &[u8],
) -> Result<(ringway_gateway::wire::scram::ServerFinal, String), ringway_gateway::wire::scram::ScramError> {
    ServerFirst::new(verifier.clone()).respond_with_nonce(first, "def")
}

pub fn check(data: &[u8]) {
    let Some((turn, message)) = data.split_first() else { return };
    let Exchange { keys, verifier, challenge, last, signature } = &*EXCHANGE;
    match turn % 6 {
        0 => {
            let _ = SaslInitialResponse::parse(message);
            for binding in [ServerBinding::None, ServerBinding::Declined, ServerBinding::EndPoint(vec![7; 32])] {
                let server = ServerFirst::new(verifier.clone()).bound(binding);
                if let Ok((_, challenge)) = server.respond_with_nonce(message, "def") {
                    assert!(challenge.starts_with("r=") && challenge.len() < message.len() + 100);
                }
            }
        }
        1 => {
            let (server, _) = server(verifier, b"n,,n=,r=abc").expect("a message that is right");
            if let Ok(accepted) = server.respond(message) {
                // Nobody gets in with another proof.
                assert_eq!((message, &accepted.keys), (last.as_bytes(), keys));
            }
        }
        2 => {
            let _ = client(keys).0.respond(message);
        }
        3 => {
            let (client, _) = client(keys).0.respond(challenge.as_bytes()).expect("a message that is right");
            assert!(client.finish(message).is_err() || message.starts_with(signature.as_bytes()));
        }
        4 => {
            if let Some(verifier) = std::str::from_utf8(message).ok().and_then(|text| text.parse::<Verifier>().ok()) {
                assert_eq!(verifier.to_string().parse(), Ok(verifier));
            }
        }
        // A whole exchange with what the client says first.
        _ => {
            let user = String::from_utf8_lossy(message);
            if let Ok((server, _)) = ServerFirst::mock(&user, &[3; 32]).respond_with_nonce(message, "def") {
                assert!(server.respond(last.as_bytes()).is_err());
            }
        }
    }
}
