//! Builders of what a gateway sends to servers.

use bytes::{BufMut, BytesMut};

use crate::wire::codec::{put_counted, put_cstr, put_message, put_sized, put_values};
use crate::wire::tag::client as tag;
use crate::wire::{Format, Target};

/// StartupMessage in protocol 3.0, which every server speaks; `parameters` are `user`, `database`, settings, ...
pub fn startup<'a>(dst: &mut BytesMut, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    put_sized(dst, |dst| {
        dst.put_u32(3 << 16);
        for (name, value) in parameters {
            put_cstr(dst, name);
            put_cstr(dst, value);
        }
        dst.put_u8(0);
    });
}

/// SSLRequest; the server answers with the single byte `S` or `N`.
pub fn ssl_request(dst: &mut BytesMut) {
    put_sized(dst, |dst| dst.put_u32(crate::wire::startup::SSL_REQUEST_CODE));
}

/// CancelRequest, on a connection of its own; `secret` as it came in BackendKeyData.
pub fn cancel_request(dst: &mut BytesMut, process_id: u32, secret: &[u8]) {
    put_sized(dst, |dst| {
        dst.put_u32(crate::wire::startup::CANCEL_REQUEST_CODE);
        dst.put_u32(process_id);
        dst.put_slice(secret);
    });
}

/// PasswordMessage.
pub fn password(dst: &mut BytesMut, password: &str) {
    put_message(dst, tag::PASSWORD, |dst| put_cstr(dst, password));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(dst: &mut BytesMut, mechanism: &str, data: &[u8]) {
    put_message(dst, tag::PASSWORD, |dst| {
        put_cstr(dst, mechanism);
        dst.put_u32(data.len() as u32);
        dst.put_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(dst: &mut BytesMut, data: &[u8]) {
    put_message(dst, tag::PASSWORD, |dst| dst.put_slice(data));
}

/// Query: a simple query.
pub fn query(dst: &mut BytesMut, sql: &str) {
    put_message(dst, tag::QUERY, |dst| put_cstr(dst, sql));
}

/// Parse; `type_oids` may be shorter than the parameters, 0 leaves a type open.
pub fn parse(dst: &mut BytesMut, statement: &str, sql: &str, type_oids: &[u32]) {
    put_message(dst, tag::PARSE, |dst| {
        put_cstr(dst, statement);
        put_cstr(dst, sql);
        put_counted(dst, type_oids, |dst, oid| dst.put_u32(*oid));
    });
}

/// Bind; formats are none (text), one for all, or one each. At most 65,535 parameters.
pub fn bind<V: AsRef<[u8]>>(
    dst: &mut BytesMut,
    portal: &str,
    statement: &str,
    parameter_formats: impl IntoIterator<Item = Format>,
    parameters: impl IntoIterator<Item = Option<V>>,
    result_formats: impl IntoIterator<Item = Format>,
) {
    put_message(dst, tag::BIND, |dst| {
        put_cstr(dst, portal);
        put_cstr(dst, statement);
        put_counted(dst, parameter_formats, |dst, format| dst.put_u16(format.code()));
        put_values(dst, parameters);
        put_counted(dst, result_formats, |dst, format| dst.put_u16(format.code()));
    });
}

fn put_target(dst: &mut BytesMut, tag: u8, target: Target, name: &str) {
    put_message(dst, tag, |dst| {
        dst.put_u8(target.code());
        put_cstr(dst, name);
    });
}

/// Describe a statement (answered by ParameterDescription first) or a portal.
pub fn describe(dst: &mut BytesMut, target: Target, name: &str) {
    put_target(dst, tag::DESCRIBE, target, name);
}

/// Close a statement or a portal.
pub fn close(dst: &mut BytesMut, target: Target, name: &str) {
    put_target(dst, tag::CLOSE, target, name);
}

/// Execute; `rows_max` 0 returns all rows. Servers take at most `i32::MAX`.
pub fn execute(dst: &mut BytesMut, portal: &str, rows_max: u32) {
    put_message(dst, tag::EXECUTE, |dst| {
        put_cstr(dst, portal);
        dst.put_u32(rows_max.min(i32::MAX as u32));
    });
}

/// Sync: the end of a pipeline, answered by ReadyForQuery.
pub fn sync(dst: &mut BytesMut) {
    put_message(dst, tag::SYNC, |_| ());
}

/// Flush: asks for the answers so far.
pub fn flush(dst: &mut BytesMut) {
    put_message(dst, tag::FLUSH, |_| ());
}

/// Terminate: a polite end.
pub fn terminate(dst: &mut BytesMut) {
    put_message(dst, tag::TERMINATE, |_| ());
}

/// A piece of COPY FROM STDIN's stream.
pub fn copy_data(dst: &mut BytesMut, data: &[u8]) {
    put_message(dst, tag::COPY_DATA, |dst| dst.put_slice(data));
}

/// COPY FROM STDIN's stream is complete.
pub fn copy_done(dst: &mut BytesMut) {
    put_message(dst, tag::COPY_DONE, |_| ());
}

/// COPY FROM STDIN is given up; the server answers with an error that quotes `reason`.
pub fn copy_fail(dst: &mut BytesMut, reason: &str) {
    put_message(dst, tag::COPY_FAIL, |dst| put_cstr(dst, reason));
}
