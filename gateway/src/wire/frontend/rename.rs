//! Renaming statements and portals in a message whose other bytes stay as they are.

use bytes::{BufMut, BytesMut};

use crate::wire::codec::{put_cstr, put_message, Reader};
use crate::wire::tag::client as tag;
use crate::wire::{FrameRef, Target, WireError};

/// Appends `frame` (Parse, Bind, Describe, Close or Execute) to `dst` with its statement's and its portal's name replaced
/// where one is given and the message has one; everything else, such as SQL and parameters, is copied untouched.
///
/// Errors: any other message, or names that have no end. Nothing is appended then.
pub fn rename<'a>(
    dst: &mut BytesMut,
    frame: impl Into<FrameRef<'a>>,
    statement: Option<&str>,
    portal: Option<&str>,
) -> Result<(), WireError> {
    let frame = frame.into();
    let new = |name: Option<&str>, old: &[u8], dst: &mut BytesMut| match name {
        Some(name) => put_cstr(dst, name),
        None => put_cstr(dst, old),
    };
    match frame.tag() {
        tag::PARSE => {
            let mut reader = Reader::new("Parse", frame.body());
            let old = reader.cstr_bytes("statement name")?;
            put_message(dst, tag::PARSE, |dst| {
                new(statement, old, dst);
                dst.put_slice(reader.remainder());
            });
        }
        tag::BIND => {
            let mut reader = Reader::new("Bind", frame.body());
            let old_portal = reader.cstr_bytes("portal name")?;
            let old_statement = reader.cstr_bytes("statement name")?;
            let names = [portal.map_or(old_portal, str::as_bytes), statement.map_or(old_statement, str::as_bytes)];
            bind(dst, names, reader.remainder());
        }
        tag::EXECUTE => {
            let mut reader = Reader::new("Execute", frame.body());
            let old = reader.cstr_bytes("portal name")?;
            put_message(dst, tag::EXECUTE, |dst| {
                new(portal, old, dst);
                dst.put_slice(reader.remainder());
            });
        }
        tag @ (tag::DESCRIBE | tag::CLOSE) => {
            let message = if tag == tag::CLOSE { "Close" } else { "Describe" };
            let mut reader = Reader::new(message, frame.body());
            let code = reader.u8("kind")?;
            let name = match Target::from_code(code).ok_or_else(|| reader.invalid("kind", code))? {
                Target::Statement => statement,
                Target::Portal => portal,
            };
            let old = reader.cstr_bytes("name")?;
            put_message(dst, tag, |dst| {
                dst.put_u8(code);
                new(name, old, dst);
                dst.put_slice(reader.remainder());
            });
        }
        tag => return Err(WireError::UnexpectedTag { expected: "Parse, Bind, Describe, Close or Execute", tag }),
    }
    Ok(())
}

/// The message of every query of a prepared statement: put together before it is copied.
fn bind(dst: &mut BytesMut, names: [&[u8]; 2], rest: &[u8]) {
    const HEAD_BYTES: usize = 64;
    let mut head = [0; HEAD_BYTES];
    head[0] = tag::BIND;
    let mut length = 5;
    for name in names {
        let Some(place) = head.get_mut(length..length + name.len() + 1) else {
            return put_message(dst, tag::BIND, |dst| {
                names.iter().for_each(|name| put_cstr(dst, name));
                dst.put_slice(rest);
            });
        };
        // The NUL behind it is there.
        place[..name.len()].copy_from_slice(name);
        length += name.len() + 1;
    }
    head[1..5].copy_from_slice(&((length - 1 + rest.len()) as u32).to_be_bytes());
    dst.extend_from_slice(&head[..length]);
    dst.extend_from_slice(rest);
}
