use super::*;

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &[u8] = &[91, 109, 153, 104, 157, 18, 53, 142, 236, 160, 75, 20, 18, 54, 250, 129];

fn password(password: &str) -> Credential {
    Credential::Password(password.to_owned())
}

/// A whole exchange; what each side ends with.
fn exchange(server: ServerFirst, credential: Credential) -> (Result<ScramKeys, ScramError>, Result<(), ScramError>) {
    let (client, first) = ClientFirst::new(credential);
    let (server, challenge) = server.respond(first.as_bytes()).unwrap();
    let (client, last) = match client.respond(challenge.as_bytes()) {
        Ok(next) => next,
        Err(error) => return (Err(ScramError::Nonce), Err(error)),
    };
    match server.respond(last.as_bytes()) {
        Ok(accepted) => (Ok(accepted.keys), client.finish(accepted.message.as_bytes()).map(|_| ())),
        Err(error) => (Err(error), Err(ScramError::Refused)),
    }
}

#[test]
fn rfc_7677_vector() {
    let verifier = ScramKeys::derive("pencil", SALT, 4096).unwrap().verifier();
    let (client, first) =
        ClientFirst::with_nonce(password("pencil"), ClientBinding::None, "user", CLIENT_NONCE.to_owned());
    assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (server, challenge) = ServerFirst::new(verifier).respond_with_nonce(first.as_bytes(), SERVER_NONCE).unwrap();
    assert_eq!(challenge, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    let (client, last) = client.respond(challenge.as_bytes()).unwrap();
    assert_eq!(
        last,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let accepted = server.respond(last.as_bytes()).unwrap();
    assert_eq!(accepted.message, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(client.finish(accepted.message.as_bytes()).unwrap(), accepted.keys);
}

#[test]
fn a_learnt_key_opens_servers_with_the_same_verifier_only() {
    for text in ["pencil", "", "p\u{e4}ss w\u{f6}rd", "\u{2168}", "tab\there", "a\u{00ad}b"] {
        let verifier = Verifier::generate(text);
        let (keys, client) = exchange(ServerFirst::new(verifier.clone()), password(text));
        assert_eq!(client, Ok(()), "{text:?}");
        let keys = keys.unwrap();
        assert!(keys.fit(&verifier) && verifier.matches(text) && !verifier.matches("other"));
        assert_eq!(keys.verifier(), verifier);
        let (again, client) = exchange(ServerFirst::new(verifier), Credential::Keys(keys.clone()));
        assert_eq!((again, client), (Ok(keys.clone()), Ok(())));
        let (_, client) = exchange(ServerFirst::new(Verifier::generate(text)), Credential::Keys(keys));
        assert_eq!(client, Err(ScramError::OtherVerifier));
    }
}

#[test]
fn passwords_are_prepared_as_postgresql_does() {
    let keys = |password| ScramKeys::derive(password, SALT, 1).unwrap();
    assert_eq!(keys("\u{2168}"), keys("IX"), "compatibility forms are one");
    assert_eq!(keys("a\u{00ad}b"), keys("ab"), "what maps to nothing");
    assert_ne!(keys("\u{00ad}"), keys(""), "a password that would vanish is taken as it is");
    assert_ne!(keys("a\u{7}"), keys("a"), "prohibited characters: taken as it is");
}

#[test]
fn unknown_users_look_like_wrong_passwords() {
    let secret = [7; 32];
    let challenge = |user| {
        let (_, first) = ClientFirst::with_nonce(password("x"), ClientBinding::None, "", CLIENT_NONCE.to_owned());
        ServerFirst::mock(user, &secret).respond_with_nonce(first.as_bytes(), SERVER_NONCE).unwrap().1
    };
    assert_eq!(challenge("a"), challenge("a"), "the salt of a user does not change");
    assert_ne!(challenge("a"), challenge("b"));
    let (mock, _) = exchange(ServerFirst::mock("a", &secret), password("x"));
    let (wrong, _) = exchange(ServerFirst::new(Verifier::generate("y")), password("x"));
    assert_eq!((mock, wrong), (Err(ScramError::WrongPassword), Err(ScramError::WrongPassword)));
    let error = ScramError::WrongPassword.to_client("a");
    assert_eq!(error.to_string(), "password authentication failed for user \"a\" (SQLSTATE 28P01)");
}

#[test]
fn verifiers_read_and_write_postgresqls_form() {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let verifier: Verifier = text.parse().unwrap();
    assert_eq!(verifier.to_string(), text);
    assert!(verifier.matches("pencil"));
    assert_eq!(format!("{verifier:?}"), "Verifier { iterations: 4096, .. }");
    for bad in [
        "",
        "md5abc",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPL",
        "SCRAM-SHA-256$4096:$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        &text[..text.len() - 4],
    ] {
        assert!(bad.parse::<Verifier>().is_err(), "{bad}");
    }
}

#[test]
fn what_a_client_may_not_send_first() {
    let refuse = |message: &str| ServerFirst::mock("a", &[0; 32]).respond(message.as_bytes()).unwrap_err();
    assert_eq!(refuse("p=tls-server-end-point,,n=,r=abc"), ScramError::ChannelBinding);
    assert_eq!(refuse("p=tls-unique,,n=,r=abc"), ScramError::ChannelBindingType);
    assert_eq!(refuse("n,a=root,n=,r=abc"), ScramError::AuthorizationIdentity);
    assert_eq!(refuse("n,,m=x,n=,r=abc"), ScramError::MandatoryExtension);
    assert_eq!(refuse("n,,n=,r="), ScramError::Malformed("invalid nonce"));
    assert_eq!(refuse("n,,n=,r=a b"), ScramError::Malformed("invalid nonce"));
    assert_eq!(refuse("n,,r=abc"), ScramError::Malformed("no user name"));
    assert_eq!(refuse("n,x,n=,r=abc"), ScramError::Malformed("no gs2 header"));
    assert_eq!(refuse("q,,n=,r=abc"), ScramError::Malformed("unexpected channel-binding flag"));
    assert_eq!(refuse(&format!("n,,n=,r={}", "a".repeat(2000))), ScramError::TooLong { len: 2008 });
    assert!(ServerFirst::mock("a", &[0; 32]).respond(b"y,,n=*,r=abc,x=ext").is_ok());
}

#[test]
fn what_a_client_may_not_send_last() {
    let proof = encode_zeros();
    let refuse = |message: String| {
        let server = ServerFirst::new(ScramKeys::derive("pencil", SALT, 1).unwrap().verifier());
        let (server, _) = server.respond_with_nonce(b"y,,n=,r=abc", "def").unwrap();
        server.respond(message.as_bytes()).unwrap_err()
    };
    assert_eq!(refuse(format!("c=eSws,r=abcdef,p={proof}")), ScramError::WrongPassword);
    assert_eq!(refuse(format!("c=eSws,r=abcdef,x=1,p={proof}")), ScramError::WrongPassword);
    assert_eq!(refuse(format!("c=biws,r=abcdef,p={proof}")), ScramError::ChannelBindingCheck);
    assert_eq!(refuse(format!("c=eSws,r=abcdeg,p={proof}")), ScramError::Nonce);
    assert_eq!(refuse("c=eSws,r=abcdef,p=AAAA".to_owned()), ScramError::Malformed("invalid proof"));
    assert_eq!(refuse("c=eSws,r=abcdef".to_owned()), ScramError::Malformed("no proof"));
    assert_eq!(refuse(format!("c=eSws,r=abcdef,p={proof},x=1")), ScramError::Malformed("no proof"));
}

fn encode_zeros() -> String {
    message::encode(&[0; 32])
}

#[test]
fn what_a_server_may_not_send() {
    let refuse = |message: &str| {
        let (client, _) = ClientFirst::with_nonce(password("x"), ClientBinding::None, "", "abc".to_owned());
        client.respond(message.as_bytes()).unwrap_err()
    };
    assert_eq!(refuse("r=abc,s=AAAA,i=1"), ScramError::Nonce);
    assert_eq!(refuse("r=xbcdef,s=AAAA,i=1"), ScramError::Nonce);
    assert_eq!(refuse("r=abcdef,s=AAAA,i=4000000000"), ScramError::Iterations(4_000_000_000));
    assert_eq!(refuse("r=abcdef,s=AAAA,i=0"), ScramError::Malformed("invalid iteration count"));
    assert_eq!(refuse("r=abcdef,s=,i=1"), ScramError::Malformed("empty salt"));
    let (client, _) = ClientFirst::with_nonce(password("x"), ClientBinding::None, "", "abc".to_owned());
    let (client, _) = client.respond(b"r=abcdef,s=AAAA,i=1").unwrap();
    assert_eq!(client.finish(format!("v={}", encode_zeros()).as_bytes()), Err(ScramError::ServerSignature));
    let (client, _) = ClientFirst::with_nonce(password("x"), ClientBinding::None, "", "abc".to_owned());
    let (client, _) = client.respond(b"r=abcdef,s=AAAA,i=1").unwrap();
    assert_eq!(client.finish(b"e=other-error"), Err(ScramError::Refused));
}

#[test]
fn channel_binding_is_what_both_ends_see() {
    let server = |binding: &ServerBinding| ServerFirst::new(Verifier::generate("pencil")).bound(binding.clone());
    let client = |binding: &ClientBinding| ClientFirst::bound(password("pencil"), binding.clone());
    let outcome = |ours: &ServerBinding, theirs: &ClientBinding| -> Result<(), ScramError> {
        let (client, first) = client(theirs);
        let (server, challenge) = server(ours).respond(first.as_bytes())?;
        let (client, last) = client.respond(challenge.as_bytes())?;
        client.finish(server.respond(last.as_bytes())?.message.as_bytes()).map(|_| ())
    };
    let (here, there) = (vec![1; 32], vec![2; 32]);
    let bound = ServerBinding::EndPoint(here.clone());
    for (ours, theirs, expected) in [
        (&ServerBinding::None, ClientBinding::None, Ok(())),
        (&ServerBinding::None, ClientBinding::NotOffered, Ok(())),
        (&ServerBinding::None, ClientBinding::EndPoint(here.clone()), Err(ScramError::ChannelBinding)),
        (&ServerBinding::Declined, ClientBinding::None, Ok(())),
        (&ServerBinding::Declined, ClientBinding::NotOffered, Err(ScramError::Downgrade)),
        (&ServerBinding::Declined, ClientBinding::EndPoint(here.clone()), Err(ScramError::ChannelBinding)),
        (&bound, ClientBinding::None, Err(ScramError::NoChannelBinding)),
        (&bound, ClientBinding::NotOffered, Err(ScramError::NoChannelBinding)),
        (&bound, ClientBinding::EndPoint(here), Ok(())),
        (&bound, ClientBinding::EndPoint(there), Err(ScramError::ChannelBindingCheck)),
    ] {
        assert_eq!(outcome(ours, &theirs), expected, "{ours:?} {theirs:?}");
    }
    let error = ScramError::Downgrade.to_client("a");
    assert_eq!(error.to_string(), "SCRAM channel binding negotiation error (SQLSTATE 28000)");
}
