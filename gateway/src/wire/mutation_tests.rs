//! Mutated input: valid messages with bytes changed, cut, repeated and lengths bent. Nothing may panic, and what parsing
//! allocates stays in proportion to its input. The seed is fixed, so a failure repeats; it names its case.

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::backend::{self, CommandTag, CopyResponse, ErrorFields, FieldDescription, Notification, PgError};
use super::frontend::{self, FrontendMessage, SaslInitialResponse};
use super::scram::{ClientBinding, ClientFirst, Credential, ScramKeys, ServerFirst, Verifier};
use super::startup::next_startup;
use super::{next_frame, Format, Frame, FrameScanner, Scanned, SqlState, Target, TxStatus};

const FRAME_BYTES_MAX: usize = 4096;

/// One to four changes of the kinds that break parsers.
fn mutate(rng: &mut StdRng, seed: &[u8]) -> Vec<u8> {
    const NASTY: [[u8; 4]; 6] =
        [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0; 4], [0, 0, 0, 4], [0xff, 0xff, 0xff, 0xfe]];
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let len = bytes.len();
        let at = rng.random_range(0..=len);
        match rng.random_range(0..7) {
            0 if at < len => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < len => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            4 if at < len => {
                bytes.remove(at);
            }
            5 if at + 4 <= len => bytes[at..at + 4].copy_from_slice(&NASTY[rng.random_range(0..NASTY.len())]),
            6 if at + 2 <= len => bytes[at..at + 2].copy_from_slice(&[0xff; 2]),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn cases(seed: u64, count: u32, samples: &[Vec<u8>], mut check: impl FnMut(&mut StdRng, Vec<u8>)) {
    let mut rng = StdRng::seed_from_u64(seed);
    for case in 0..count {
        let sample = &samples[rng.random_range(0..samples.len())];
        let bytes = mutate(&mut rng, sample);
        let shown = bytes.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut rng, bytes)));
        assert!(outcome.is_ok(), "seed {seed}, case {case}: {shown:02x?}");
    }
}

fn built(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut dst = BytesMut::new();
    build(&mut dst);
    dst.to_vec()
}

fn client_samples() -> Vec<Vec<u8>> {
    vec![
        built(|d| frontend::parse(d, "stmt", "select $1::int, $2", &[23, 0])),
        built(|d| {
            frontend::bind(
                d,
                "portal",
                "stmt",
                [Format::Binary, Format::Text],
                [Some(&b"\0\0\0\x07"[..]), None],
                [Format::Text],
            )
        }),
        built(|d| frontend::query(d, "select 'ä'")),
        built(|d| frontend::describe(d, Target::Statement, "stmt")),
        built(|d| frontend::execute(d, "portal", 10)),
        built(|d| frontend::sasl_initial_response(d, "SCRAM-SHA-256", b"n,,n=,r=abc")),
        b"F\0\0\0\x18\0\0\0\x07\0\x01\0\x01\0\x01\0\0\0\x02ab\0\x01".to_vec(),
    ]
}

fn server_samples() -> Vec<Vec<u8>> {
    let field = FieldDescription {
        name: "id".into(),
        table_oid: 1,
        column: 1,
        type_oid: 23,
        typlen: 4,
        typmod: -1,
        format: Format::Text,
    };
    vec![
        built(|d| backend::row_description(d, &[field.clone(), field])),
        built(|d| {
            for _ in 0..5 {
                backend::data_row(d, [Some("1"), None, Some("abc")]);
            }
            backend::command_complete(d, "INSERT 0 5");
            backend::ready_for_query(d, TxStatus::Idle);
        }),
        built(|d| backend::error_response(d, &PgError::new(SqlState::SYNTAX_ERROR, "x").hint("y").position(3))),
        built(|d| backend::authentication_sasl(d, &["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])),
        built(|d| backend::parameter_description(d, &[20, 25])),
        built(|d| backend::copy_in_response(d, Format::Text, &[Format::Text; 3])),
        built(|d| backend::negotiate_protocol_version(d, 2, &["_pq_.a", "_pq_.b"])),
        built(|d| backend::notification_response(d, 1, "channel", "payload")),
        built(|d| backend::backend_key_data(d, 1, &[1, 2, 3, 4])),
    ]
}

/// Every parser of bodies, whatever the tag says.
fn parse_everything(frame: &Frame) {
    let body = frame.body();
    if let Ok(FrontendMessage::Bind(bind)) = FrontendMessage::parse(frame) {
        assert_eq!(bind.parameters.iter().count(), bind.parameters.len());
        assert!(bind.parameters.iter().flatten().map(<[u8]>::len).sum::<usize>() <= body.len());
        let _ = (bind.parameter_formats.get(3), bind.result_formats.iter().count());
    }
    let mut renamed = BytesMut::new();
    if frontend::rename(&mut renamed, frame, Some("other"), Some("p")).is_ok() {
        assert!(Frame::new(renamed.freeze()).is_ok());
    }
    let _ = SaslInitialResponse::parse(body);
    if let Ok(values) = backend::parse_data_row(body) {
        assert_eq!(values.iter().count(), values.len());
    }
    if let Ok(fields) = backend::parse_row_description(body) {
        assert!(fields.capacity() * 19 <= body.len(), "allocates for what is there");
        let again = built(|d| backend::row_description(d, &fields));
        assert_eq!(&again[5..], body);
    }
    if let Ok(fields) = ErrorFields::parse(body) {
        assert_eq!(&built(|d| backend::forward_error(d, &fields))[5..], body);
        let _ = PgError::from(&fields);
    }
    let _ = (CommandTag::parse(body), CopyResponse::parse(body), Notification::parse(body));
    let _ = (backend::Authentication::parse(body), backend::parse_ready_for_query(body));
    let _ = (backend::parse_parameter_status(body), backend::parse_backend_key_data(body));
    let _ = (backend::parse_parameter_description(body), backend::parse_negotiate_protocol_version(body));
}

#[test]
fn bodies_of_any_bytes() {
    let samples: Vec<_> = client_samples().into_iter().chain(server_samples()).collect();
    cases(1, 70_000, &samples, |_, mut bytes| {
        // The length is made right, so that the mutation reaches the body's parser.
        if bytes.len() >= 5 {
            let len = (bytes.len() - 1) as u32;
            bytes[1..5].copy_from_slice(&len.to_be_bytes());
            parse_everything(&Frame::new(Bytes::from(bytes)).unwrap());
        }
    });
}

#[test]
fn streams_of_any_bytes() {
    let samples: Vec<_> = client_samples().into_iter().chain(server_samples()).collect();
    cases(2, 60_000, &samples, |rng, bytes| {
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = next_frame(&mut buf, FRAME_BYTES_MAX) {
            parse_everything(&frame);
        }
        // Cut at random, the scanner passes on a prefix of what came, and says the same as uncut.
        let (whole, whole_error) = skim(&bytes, || bytes.len().max(1));
        let (cut, cut_error) = skim(&bytes, || rng.random_range(1..8));
        assert!(bytes.starts_with(&whole));
        assert_eq!((whole, whole_error), (cut, cut_error));
    });
}

/// What passes through a scanner that is given pieces of the sizes told, and whether it ends with an error.
fn skim(bytes: &[u8], mut piece_bytes: impl FnMut() -> usize) -> (Vec<u8>, bool) {
    let mut scanner = FrameScanner::new(FRAME_BYTES_MAX);
    let (mut buf, mut out, mut at) = (BytesMut::new(), Vec::new(), 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + piece_bytes());
        buf.extend_from_slice(&bytes[at..end]);
        at = end;
        loop {
            match scanner.next(&mut buf) {
                Ok(Some(Scanned::Rows { bytes, .. })) => out.extend_from_slice(&bytes),
                Ok(Some(Scanned::Control(frame))) => out.extend_from_slice(frame.bytes()),
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

#[test]
fn startup_packets_of_any_bytes() {
    let samples = [
        built(|d| frontend::startup(d, [("user", "anna"), ("database", "d"), ("_pq_.x", "1")])),
        built(|d| frontend::cancel_request(d, 1, b"abcd")),
        built(frontend::ssl_request),
    ];
    cases(3, 40_000, &samples, |rng, mut bytes| {
        if bytes.len() >= 4 && rng.random_bool(0.7) {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_be_bytes());
        }
        let _ = next_startup(&mut BytesMut::from(&bytes[..]));
    });
}

#[test]
fn scram_messages_of_any_bytes() {
    let keys = ScramKeys::derive("pencil", b"0123456789abcdef", 1).unwrap();
    let verifier = keys.verifier();
    let client = || ClientFirst::with_nonce(Credential::Keys(keys.clone()), ClientBinding::None, "", "abc".to_owned());
    let server = || ServerFirst::new(verifier.clone()).respond_with_nonce(b"n,,n=,r=abc", "def");
    let (_, first) = client();
    let (_, challenge) = server().unwrap();
    let (_, last) = client().0.respond(challenge.as_bytes()).unwrap();
    let signature = server().unwrap().0.respond(last.as_bytes()).unwrap().message;
    let text = verifier.to_string();
    let samples = [&first, &challenge, &last, &signature, &text].map(|message| message.clone().into_bytes());
    cases(4, 30_000, &samples, |_, bytes| {
        let _ = ServerFirst::new(verifier.clone()).respond(&bytes);
        let _ = client().0.respond(&bytes);
        if let Ok(accepted) = server().unwrap().0.respond(&bytes) {
            assert_eq!((bytes.as_slice(), accepted.keys == keys), (last.as_bytes(), true));
        }
        let finish = client().0.respond(challenge.as_bytes()).unwrap().0.finish(&bytes);
        assert!(finish.is_err() || bytes.starts_with(signature.as_bytes()));
        if let Some(verifier) = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<Verifier>().ok()) {
            assert_eq!(verifier.to_string().parse(), Ok(verifier));
        }
    });
}
