use bytes::BytesMut;

use super::*;
use crate::wire::{next_frame, tag, Format, Frame, Target, WireError};

/// What `build` appended must be exactly one message.
fn frame(build: impl FnOnce(&mut BytesMut)) -> Frame {
    let mut buf = BytesMut::new();
    build(&mut buf);
    let frame = next_frame(&mut buf, 1 << 20).unwrap().unwrap();
    assert!(buf.is_empty());
    frame
}

fn raw(tag: u8, body: &[u8]) -> Frame {
    frame(|dst| crate::wire::codec::put_message(dst, tag, |dst| dst.extend_from_slice(body)))
}

fn error(tag: u8, body: &[u8]) -> WireError {
    FrontendMessage::parse(&raw(tag, body)).unwrap_err()
}

fn sample_bind() -> Frame {
    frame(|dst| bind(dst, "p", "s", [Format::Binary], [Some(&b"\0\x01"[..]), None, Some(b"")], [Format::Text]))
}

#[test]
fn parse_and_bind_read_back() {
    let prepared = frame(|dst| parse(dst, "s1", "select $1, 'ä'", &[20, 0]));
    let FrontendMessage::Parse(message) = FrontendMessage::parse(&prepared).unwrap() else { panic!() };
    assert_eq!((message.statement, message.query), ("s1", "select $1, 'ä'"));
    assert_eq!(message.type_oids().collect::<Vec<_>>(), [20, 0]);
    let bound = sample_bind();
    let FrontendMessage::Bind(message) = FrontendMessage::parse(&bound).unwrap() else { panic!() };
    assert_eq!((message.portal, message.statement), ("p", "s"));
    assert_eq!(message.parameters.iter().collect::<Vec<_>>(), [Some(&b"\0\x01"[..]), None, Some(b"")]);
    assert_eq!((message.parameter_formats.get(2), message.parameter_formats.len()), (Format::Binary, 1));
    assert_eq!((message.result_formats.get(5), message.result_formats.is_empty()), (Format::Text, false));
}

#[test]
fn formats_are_none_one_or_each() {
    let values = [Some("a"), Some("b")];
    let parsed = |formats: &[Format]| {
        let bound = frame(|dst| bind(dst, "", "", formats.iter().copied(), values, []));
        Bind::parse(bound.body()).map(|bind| (bind.parameter_formats.get(0), bind.parameter_formats.get(1)))
    };
    assert_eq!(parsed(&[]), Ok((Format::Text, Format::Text)));
    assert_eq!(parsed(&[Format::Binary]), Ok((Format::Binary, Format::Binary)));
    assert_eq!(parsed(&[Format::Text, Format::Binary]), Ok((Format::Text, Format::Binary)));
    assert_eq!(parsed(&[Format::Text; 3]), Err(WireError::FormatCount { message: "Bind", formats: 3, values: 2 }));
}

#[test]
fn the_rest_reads_back() {
    type Check = (fn(&mut BytesMut), fn(FrontendMessage<'_>) -> bool);
    let checks: [Check; 11] = [
        (|dst| query(dst, "select 1"), |m| matches!(m, FrontendMessage::Query("select 1"))),
        (
            |dst| describe(dst, Target::Statement, "s"),
            |m| matches!(m, FrontendMessage::Describe(Target::Statement, "s")),
        ),
        (|dst| close(dst, Target::Portal, ""), |m| matches!(m, FrontendMessage::Close(Target::Portal, ""))),
        (
            |dst| execute(dst, "p", u32::MAX),
            |m| matches!(m, FrontendMessage::Execute(Execute { portal: "p", rows_max: 0x7fff_ffff })),
        ),
        (sync, |m| matches!(m, FrontendMessage::Sync)),
        (flush, |m| matches!(m, FrontendMessage::Flush)),
        (terminate, |m| matches!(m, FrontendMessage::Terminate)),
        (|dst| copy_data(dst, b"1\t2\n"), |m| matches!(m, FrontendMessage::CopyData(b"1\t2\n"))),
        (copy_done, |m| matches!(m, FrontendMessage::CopyDone)),
        (|dst| copy_fail(dst, "why"), |m| matches!(m, FrontendMessage::CopyFail("why"))),
        (|dst| password(dst, "secret"), |m| matches!(m, FrontendMessage::Password(AuthenticationData(b"secret\0")))),
    ];
    for (index, (build, check)) in checks.into_iter().enumerate() {
        let frame = frame(build);
        assert!(check(FrontendMessage::parse(&frame).unwrap()), "message {index}");
    }
    let first = frame(|dst| sasl_initial_response(dst, "SCRAM-SHA-256", b"n,,n=,r=x"));
    let expected = SaslInitialResponse { mechanism: "SCRAM-SHA-256", data: Some(b"n,,n=,r=x") };
    assert_eq!(SaslInitialResponse::parse(first.body()), Ok(expected));
    let call = raw(tag::client::FUNCTION_CALL, b"\0\0\0\x07\0\0\0\x01\xff\xff\xff\xff\0\x01");
    let FrontendMessage::FunctionCall(call) = FrontendMessage::parse(&call).unwrap() else { panic!() };
    assert_eq!((call.function_oid, call.arguments.get(0), call.result_format), (7, Some(None), Format::Binary));
}

#[test]
fn a_negative_row_limit_means_none() {
    assert_eq!(Execute::parse(b"p\0\xff\xff\xff\xff"), Ok(Execute { portal: "p", rows_max: 0 }));
}

#[test]
fn malformed_bodies_are_named() {
    assert_eq!(error(b'Q', b"select 1"), WireError::Unterminated { message: "Query", field: "query string" });
    assert_eq!(error(b'Q', b"\xff\0"), WireError::NotUtf8 { message: "Query", field: "query string" });
    assert_eq!(error(b'Q', b"a\0b\0"), WireError::TrailingBytes { message: "Query", extra: 2 });
    assert_eq!(error(b'P', b"\0\0\xff\xff"), WireError::Truncated { message: "Parse", field: "type oids" });
    assert_eq!(error(b'D', b"Xs\0"), WireError::InvalidValue { message: "Describe", field: "kind", value: 88 });
    assert_eq!(error(b'S', b"x"), WireError::TrailingBytes { message: "Sync", extra: 1 });
    assert_eq!(error(b'?', b""), WireError::UnknownTag { tag: b'?' });
    for (body, expected) in [
        (&b"\0\0\xff\xff"[..], WireError::Truncated { message: "Bind", field: "parameter format codes" }),
        (b"\0\0\0\0\xff\xff", WireError::Truncated { message: "Bind", field: "parameters" }),
        (b"\0\0\0\0\0\x01\0\0\0\x09x", WireError::Truncated { message: "Bind", field: "parameters" }),
        (
            b"\0\0\0\0\0\x01\x80\0\0\0\0\0",
            WireError::ValueLength { message: "Bind", field: "parameters", len: i32::MIN },
        ),
        (b"\0\0\0\0\0\0\0\x01", WireError::Truncated { message: "Bind", field: "result format codes" }),
        (
            b"\0\0\0\x01\xff\xff\0\0\0\0",
            WireError::InvalidValue { message: "Bind", field: "parameter format codes", value: -1 },
        ),
    ] {
        assert_eq!(error(b'B', body), expected);
    }
}

#[test]
fn renaming_changes_names_only() {
    let renamed = |original: &Frame, statement, portal| frame(|dst| rename(dst, original, statement, portal).unwrap());
    let cases: [(Frame, Frame); 7] = [
        (frame(|d| parse(d, "s", "select $1", &[20])), frame(|d| parse(d, "long name", "select $1", &[20]))),
        (
            sample_bind(),
            frame(|dst| {
                bind(
                    dst,
                    "portal",
                    "long name",
                    [Format::Binary],
                    [Some(&b"\0\x01"[..]), None, Some(b"")],
                    [Format::Text],
                )
            }),
        ),
        (frame(|d| execute(d, "p", 5)), frame(|d| execute(d, "portal", 5))),
        (frame(|d| describe(d, Target::Statement, "")), frame(|d| describe(d, Target::Statement, "long name"))),
        (frame(|d| describe(d, Target::Portal, "p")), frame(|d| describe(d, Target::Portal, "portal"))),
        (frame(|d| close(d, Target::Statement, "s")), frame(|d| close(d, Target::Statement, "long name"))),
        (frame(|d| close(d, Target::Portal, "p")), frame(|d| close(d, Target::Portal, "portal"))),
    ];
    for (original, expected) in cases {
        assert_eq!(renamed(&original, Some("long name"), Some("portal")).bytes(), expected.bytes());
        assert_eq!(renamed(&original, None, None), original, "nothing given, nothing changed");
    }
    let mut dst = BytesMut::new();
    assert!(rename(&mut dst, &frame(|dst| query(dst, "select 1")), Some("x"), None).is_err());
    assert!(rename(&mut dst, &raw(b'B', b"no end"), Some("x"), None).is_err());
    assert!(dst.is_empty());
}
