//! Messages after the startup: cut anywhere, with any body.

use bytes::{Bytes, BytesMut};
use ringway_gateway::merge::combine::Partials;
use ringway_gateway::merge::command_tag::CommandTags;
use ringway_gateway::pool::connection::{row_values, text_row};
use ringway_gateway::pool::error::{field, ServerError};
use ringway_gateway::wire::backend::{self, CommandTag, CopyResponse, ErrorFields, Notification, PgError};
use ringway_gateway::wire::frontend::{self, FrontendMessage, SaslInitialResponse};
use ringway_gateway::wire::{next_frame, Frame, FrameHeader, FrameScanner, Scanned};

use super::Cuts;

const FRAME_BYTES_MAX: usize = 4096;
const GATHER_BYTES_MAX: usize = 4096;

/// What a client sends: the messages are the same however the stream is cut.
pub fn client(data: &[u8]) {
    let (mut cuts, bytes) = Cuts::of(data);
    let (mut buf, mut frames) = (BytesMut::from(bytes), Vec::new());
    let whole = loop {
        match next_frame(&mut buf, FRAME_BYTES_MAX) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    frames.iter().for_each(client_message);

    let (mut buf, mut rest, mut seen) = (BytesMut::new(), bytes, 0);
    let cut = 'input: loop {
        loop {
            match next_frame(&mut buf, FRAME_BYTES_MAX) {
                Ok(Some(frame)) => {
                    assert_eq!(frames.get(seen), Some(&frame));
                    seen += 1;
                }
                Ok(None) => break,
                Err(error) => break 'input Some(error),
            }
        }
        if rest.is_empty() {
            break None;
        }
        buf.extend_from_slice(cuts.next(&mut rest));
    };
    assert_eq!((cut, seen), (whole, frames.len()));

    // The same bytes as the body of one message, whose kind the first byte says.
    if let Some((tag, body)) = bytes.split_first() {
        client_message(&message(*tag, body));
    }
}

fn message(tag: u8, body: &[u8]) -> Frame {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    Frame::new(bytes.into()).expect("one whole message")
}

fn client_message(frame: &Frame) {
    let body = frame.body();
    match FrontendMessage::parse(frame) {
        Ok(FrontendMessage::Bind(bind)) => {
            assert_eq!(bind.parameters.iter().count(), bind.parameters.len());
            assert!(bind.parameters.iter().flatten().map(<[u8]>::len).sum::<usize>() <= body.len());
            let _ = (bind.parameter_formats.get(3), bind.result_formats.iter().count());
        }
        Ok(FrontendMessage::Parse(parse)) => assert!(parse.type_oids().count() * 4 <= body.len()),
        _ => {}
    }
    let mut renamed = BytesMut::new();
    if frontend::rename(&mut renamed, frame, Some("other"), Some("p")).is_ok() {
        assert!(Frame::new(renamed.freeze()).is_ok());
    }
    let _ = (SaslInitialResponse::parse(body), frontend::parse_password(body).is_ok());
    let _ = (frontend::parse_target("Close", body).is_ok(), frontend::parse_query(body).is_ok());
}

/// What a server sends: rows pass, the rest is looked at, and neither depends on how the stream is cut.
pub fn server(data: &[u8]) {
    let (mut cuts, bytes) = Cuts::of(data);
    let mut frames = Vec::new();
    let whole = skim(bytes, |rest| std::mem::take(rest), &mut frames);
    let cut = skim(bytes, |rest| cuts.next(rest), &mut Vec::new());
    assert!(bytes.starts_with(&whole.0));
    assert_eq!(whole, cut);

    // As a login or the catalog's reader takes them: whole messages, rows too.
    let (mut buf, mut fields) = (BytesMut::from(bytes), Vec::new());
    while let Ok(Some(frame)) = next_frame(&mut buf, FRAME_BYTES_MAX) {
        frames.push(frame);
    }
    if let Some((tag, body)) = bytes.split_first() {
        frames.push(message(*tag, body));
    }
    let (mut partials, mut tags) = (None, CommandTags::default());
    for frame in &frames {
        server_message(frame);
        match frame.tag() {
            b'T' => fields = backend::parse_row_description(frame.body()).unwrap_or_default(),
            b'D' => {
                let name = |oid| (oid % 2 == 0).then(|| "\"s\".\"t\"".to_owned());
                let partials =
                    partials.get_or_insert_with(|| Partials::new(&fields, name, GATHER_BYTES_MAX).ok()).as_mut();
                let _ = partials.map(|partials| partials.push(frame));
            }
            b'C' => {
                let _ = CommandTag::parse(frame.body()).map(|_| tags.add(&String::from_utf8_lossy(frame.body())));
            }
            _ => {}
        }
    }
    if let Some(partials) = partials.flatten() {
        let arrays = partials.from_item(1).arrays;
        // Each is one literal: braces around it, and quotes in pairs.
        assert!(arrays.iter().all(|array| array.starts_with(b"{") && array.ends_with(b"}")));
    }
}

/// What passes through a scanner that is given pieces, how many rows began, and whether it ends with an error.
fn skim<'a>(
    mut rest: &'a [u8],
    mut piece: impl FnMut(&mut &'a [u8]) -> &'a [u8],
    controls: &mut Vec<Frame>,
) -> (Vec<u8>, u64, bool) {
    let mut scanner = FrameScanner::new(FRAME_BYTES_MAX);
    let (mut buf, mut out, mut began) = (BytesMut::new(), Vec::new(), 0);
    while !rest.is_empty() {
        buf.extend_from_slice(piece(&mut rest));
        loop {
            match scanner.next(&mut buf) {
                Ok(Some(Scanned::Rows { bytes, rows })) => {
                    out.extend_from_slice(&bytes);
                    began += rows;
                }
                Ok(Some(Scanned::Control(frame))) => {
                    assert!(!scanner.is_within_row());
                    out.extend_from_slice(frame.bytes());
                    controls.push(frame);
                }
                Ok(None) => break,
                Err(_) => return (out, began, true),
            }
        }
    }
    (out, began, false)
}

fn built(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut dst = BytesMut::new();
    build(&mut dst);
    dst
}

/// Every parser of bodies, whatever the tag says.
fn server_message(frame: &Frame) {
    let body = frame.body();
    assert!(FrameHeader::peek(frame.bytes()).is_ok());
    if let Ok(values) = backend::parse_data_row(body) {
        assert_eq!(values.iter().count(), values.len());
        let read = row_values(body).expect("what one reader takes, the other does");
        assert!(read.into_iter().eq(values.iter()));
    }
    let _ = text_row(body);
    if let Ok(fields) = backend::parse_row_description(body) {
        assert!(fields.capacity() * 19 <= body.len(), "allocates for what is there");
        assert_eq!(&built(|dst| backend::row_description(dst, &fields))[5..], body);
    }
    if let Ok(fields) = ErrorFields::parse(body) {
        assert_eq!(&built(|dst| backend::forward_error(dst, &fields))[5..], body);
        let error = PgError::from(&fields);
        let told = built(|dst| backend::error_response(dst, &error));
        assert!(ErrorFields::parse(&told[5..]).is_ok());
    }
    let error = ServerError::new(Bytes::copy_from_slice(body));
    let _ = (error.to_string(), field(body, b'D'));
    let _ = (CopyResponse::parse(body), Notification::parse(body));
    let _ = (backend::Authentication::parse(body), backend::parse_ready_for_query(body));
    let _ = (backend::parse_parameter_status(body), backend::parse_backend_key_data(body));
    let _ = (backend::parse_parameter_description(body), backend::parse_negotiate_protocol_version(body));
}
