use bytes::BytesMut;

use super::*;
use crate::wire::{next_frame, SqlState, TxStatus, WireError};

/// What `build` appended must be exactly one message; its body.
fn body(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut buf = BytesMut::new();
    build(&mut buf);
    let frame = next_frame(&mut buf, 1 << 20).unwrap().unwrap();
    assert!(buf.is_empty());
    frame.body().to_vec()
}

#[test]
fn rows_and_their_description_survive() {
    let fields = vec![
        FieldDescription {
            name: "naïve".into(),
            table_oid: 16384,
            column: 1,
            type_oid: 25,
            typlen: -1,
            typmod: -1,
            format: Format::Text,
        },
        FieldDescription {
            name: "".into(),
            table_oid: 0,
            column: 0,
            type_oid: 20,
            typlen: 8,
            typmod: 7,
            format: Format::Binary,
        },
    ];
    let description = body(|dst| row_description(dst, &fields));
    assert_eq!(parse_row_description(&description), Ok(fields));
    let row = body(|dst| data_row(dst, [Some("x"), None, Some("")]));
    let values = parse_data_row(&row).unwrap();
    assert_eq!(values.iter().collect::<Vec<_>>(), [Some(&b"x"[..]), None, Some(&b""[..])]);
    assert_eq!((values.len(), values.get(1), values.get(3)), (3, Some(None), None));
}

#[test]
fn counts_and_lengths_are_held_against_the_body() {
    assert_eq!(
        parse_row_description(b"\xff\xff\0\0\0\0"),
        Err(WireError::Truncated { message: "RowDescription", field: "fields" })
    );
    for (row, error) in [
        (&b"\xff\xff"[..], WireError::Truncated { message: "DataRow", field: "values" }),
        (b"\0\x01\0\0\0\x05abc", WireError::Truncated { message: "DataRow", field: "values" }),
        (b"\0\x01\x7f\xff\xff\xff", WireError::Truncated { message: "DataRow", field: "values" }),
        (b"\0\x01\xff\xff\xff\xfe", WireError::ValueLength { message: "DataRow", field: "values", len: -2 }),
        (b"\0\x01\xff\xff\xff\xffx", WireError::TrailingBytes { message: "DataRow", extra: 1 }),
    ] {
        assert_eq!(parse_data_row(row).unwrap_err(), error);
    }
    assert!(parse_negotiate_protocol_version(b"\0\x03\0\0\xff\xff\xff\xff").is_err());
}

#[test]
fn command_tags_come_apart_and_together() {
    for (text, command, rows) in [
        ("INSERT 0 3", "INSERT", Some(3)),
        ("SELECT 0", "SELECT", Some(0)),
        ("COPY 18446744073709551615", "COPY", Some(u64::MAX)),
        ("CREATE TABLE", "CREATE TABLE", None),
        ("BEGIN", "BEGIN", None),
        ("", "", None),
    ] {
        let bytes = body(|dst| command_complete(dst, text));
        let tag = CommandTag::parse(&bytes).unwrap();
        assert_eq!((tag, tag.to_string()), (CommandTag { command, rows }, text.to_owned()));
    }
}

#[test]
fn a_servers_error_is_sent_on_unchanged() {
    let original = b"SFEHLER\0VERROR\0C23505\0Mdoppelt\0Dkey (a)=(\xff)\0?unknown\0Fnbtinsert.c\0L666\0\0";
    let fields = ErrorFields::parse(original).unwrap();
    assert_eq!(body(|dst| forward_error(dst, &fields)), original);
    assert_eq!(fields.code(), SqlState::UNIQUE_VIOLATION);
    assert_eq!(fields.severity(), Severity::Error);
    assert_eq!(fields.message(), "doppelt");
    assert_eq!(fields.detail().unwrap(), "key (a)=(\u{fffd})");
    assert_eq!(fields.hint(), None);
    assert!(ErrorFields::parse(b"SERROR\0").is_err());
    assert!(ErrorFields::parse(b"\0x").is_err());
}

#[test]
fn an_error_of_our_own_reads_back() {
    let context = ErrorContext { table: Some("t".into()), column: Some("k".into()), ..ErrorContext::default() };
    let error = PgError::refused("no", "do this").detail("because").position(7).context(context);
    let fields = ErrorFields::parse(&body(|dst| error_response(dst, &error))).unwrap();
    assert_eq!(PgError::from(&fields), error);
    let cut = PgError::new(SqlState::SYNTAX_ERROR, "a\0b");
    let fields = ErrorFields::parse(&body(|dst| error_response(dst, &cut))).unwrap();
    assert_eq!(fields.message(), "a", "a NUL cannot break the message's fields");
    assert!(std::mem::size_of::<PgError>() < 128, "cheap enough for the error side of a Result");
}

#[test]
fn the_start_of_a_session_reads_back() {
    let sasl = body(|dst| authentication_sasl(dst, &["SCRAM-SHA-256"]));
    assert_eq!(Authentication::parse(&sasl), Ok(Authentication::Sasl(vec!["SCRAM-SHA-256"])));
    let more = body(|dst| authentication_sasl_continue(dst, b"r=x"));
    assert_eq!(Authentication::parse(&more), Ok(Authentication::SaslContinue(b"r=x")));
    assert_eq!(Authentication::parse(&body(authentication_ok)), Ok(Authentication::Ok));
    let status = body(|dst| parameter_status(dst, "TimeZone", "UTC"));
    assert_eq!(parse_parameter_status(&status), Ok(("TimeZone", "UTC")));
    let key = body(|dst| backend_key_data(dst, 7, &[1, 2, 3, 4]));
    assert_eq!(parse_backend_key_data(&key), Ok((7, &[1, 2, 3, 4][..])));
    assert!(parse_backend_key_data(&key[..7]).is_err());
    let ready = body(|dst| ready_for_query(dst, TxStatus::Failed));
    assert_eq!(parse_ready_for_query(&ready), Ok(TxStatus::Failed));
    let negotiate = body(|dst| negotiate_protocol_version(dst, 2, &["_pq_.x"]));
    assert_eq!(parse_negotiate_protocol_version(&negotiate), Ok((2, vec!["_pq_.x"])));
}

#[test]
fn what_else_servers_send_reads_back() {
    let types = body(|dst| parameter_description(dst, &[20, 25]));
    assert_eq!(parse_parameter_description(&types), Ok(vec![20, 25]));
    let copy = body(|dst| copy_in_response(dst, Format::Binary, &[Format::Binary; 2]));
    assert_eq!(
        CopyResponse::parse(&copy),
        Ok(CopyResponse { format: Format::Binary, columns: vec![Format::Binary; 2] })
    );
    let note = body(|dst| notification_response(dst, 9, "chan", "hello"));
    assert_eq!(Notification::parse(&note), Ok(Notification { process_id: 9, channel: "chan", payload: "hello" }));
    for build in [parse_complete, bind_complete, close_complete, no_data, portal_suspended, empty_query_response] {
        assert!(body(build).is_empty());
    }
}
