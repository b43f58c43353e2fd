//! Builders of server messages.

use bytes::{BufMut, BytesMut};

use super::{ErrorFields, FieldDescription, PgError};
use crate::wire::codec::{put_counted, put_cstr, put_message, put_values};
use crate::wire::tag::server as tag;
use crate::wire::{Format, TxStatus};

fn put_authentication(dst: &mut BytesMut, kind: u32, data: &[u8]) {
    put_message(dst, tag::AUTHENTICATION, |dst| {
        dst.put_u32(kind);
        dst.put_slice(data);
    });
}

/// The client is who it says.
pub fn authentication_ok(dst: &mut BytesMut) {
    put_authentication(dst, 0, &[]);
}

/// Asks for the password in clear text.
pub fn authentication_cleartext_password(dst: &mut BytesMut) {
    put_authentication(dst, 3, &[]);
}

/// Offers SASL mechanisms, the preferred one first.
pub fn authentication_sasl(dst: &mut BytesMut, mechanisms: &[&str]) {
    put_message(dst, tag::AUTHENTICATION, |dst| {
        dst.put_u32(10);
        for mechanism in mechanisms {
            put_cstr(dst, mechanism);
        }
        dst.put_u8(0);
    });
}

/// A SASL challenge.
pub fn authentication_sasl_continue(dst: &mut BytesMut, data: &[u8]) {
    put_authentication(dst, 11, data);
}

/// The outcome of SASL, before AuthenticationOk.
pub fn authentication_sasl_final(dst: &mut BytesMut, data: &[u8]) {
    put_authentication(dst, 12, data);
}

/// The client speaks a newer minor version or asks for options (`_pq_.*`) that are not known here.
pub fn negotiate_protocol_version(dst: &mut BytesMut, minor: u16, unsupported_options: &[&str]) {
    put_message(dst, tag::NEGOTIATE_PROTOCOL_VERSION, |dst| {
        // The documentation says "newest minor version"; servers send, and libpq reads, the whole version word.
        dst.put_u32(3 << 16 | u32::from(minor));
        dst.put_u32(unsupported_options.len() as u32);
        for option in unsupported_options {
            put_cstr(dst, option);
        }
    });
}

/// A setting's value, at the start and whenever it changes.
pub fn parameter_status(dst: &mut BytesMut, name: &str, value: &str) {
    put_message(dst, tag::PARAMETER_STATUS, |dst| {
        put_cstr(dst, name);
        put_cstr(dst, value);
    });
}

/// What a CancelRequest must show. `secret` is 4 bytes in protocol 3.0, 4 to 256 from 3.2 on.
pub fn backend_key_data(dst: &mut BytesMut, process_id: u32, secret: &[u8]) {
    put_message(dst, tag::BACKEND_KEY_DATA, |dst| {
        dst.put_u32(process_id);
        dst.put_slice(secret);
    });
}

/// The next command may come.
pub fn ready_for_query(dst: &mut BytesMut, status: TxStatus) {
    put_message(dst, tag::READY_FOR_QUERY, |dst| dst.put_u8(status.code()));
}

/// An error of the gateway's own.
pub fn error_response(dst: &mut BytesMut, error: &PgError) {
    error.encode(dst, tag::ERROR_RESPONSE);
}

/// A notice of the gateway's own.
pub fn notice_response(dst: &mut BytesMut, notice: &PgError) {
    notice.encode(dst, tag::NOTICE_RESPONSE);
}

/// A server's error, sent on unchanged.
pub fn forward_error(dst: &mut BytesMut, error: &ErrorFields) {
    error.encode(dst, tag::ERROR_RESPONSE);
}

/// A server's notice, sent on unchanged.
pub fn forward_notice(dst: &mut BytesMut, notice: &ErrorFields) {
    notice.encode(dst, tag::NOTICE_RESPONSE);
}

/// LISTEN's message.
pub fn notification_response(dst: &mut BytesMut, process_id: u32, channel: &str, payload: &str) {
    put_message(dst, tag::NOTIFICATION_RESPONSE, |dst| {
        dst.put_u32(process_id);
        put_cstr(dst, channel);
        put_cstr(dst, payload);
    });
}

/// `command` is the whole tag, such as `INSERT 0 1`; see [`super::CommandTag`] for one made of its parts.
pub fn command_complete(dst: &mut BytesMut, command: &str) {
    put_message(dst, tag::COMMAND_COMPLETE, |dst| put_cstr(dst, command));
}

/// The answer to an empty query string, instead of CommandComplete.
pub fn empty_query_response(dst: &mut BytesMut) {
    put_message(dst, tag::EMPTY_QUERY_RESPONSE, |_| ());
}

/// The columns of the rows that follow. At most 65,535 (PostgreSQL: 1,664).
pub fn row_description(dst: &mut BytesMut, fields: &[FieldDescription]) {
    put_message(dst, tag::ROW_DESCRIPTION, |dst| {
        put_counted(dst, fields, |dst, field| {
            put_cstr(dst, &field.name);
            dst.put_u32(field.table_oid);
            dst.put_i16(field.column);
            dst.put_u32(field.type_oid);
            dst.put_i16(field.typlen);
            dst.put_i32(field.typmod);
            dst.put_u16(field.format.code());
        });
    });
}

/// One row; `None` is NULL.
pub fn data_row<V: AsRef<[u8]>>(dst: &mut BytesMut, values: impl IntoIterator<Item = Option<V>>) {
    put_message(dst, tag::DATA_ROW, |dst| put_values(dst, values));
}

/// Answers Parse.
pub fn parse_complete(dst: &mut BytesMut) {
    put_message(dst, tag::PARSE_COMPLETE, |_| ());
}

/// Answers Bind.
pub fn bind_complete(dst: &mut BytesMut) {
    put_message(dst, tag::BIND_COMPLETE, |_| ());
}

/// Answers Close.
pub fn close_complete(dst: &mut BytesMut) {
    put_message(dst, tag::CLOSE_COMPLETE, |_| ());
}

/// Answers Describe of what returns no rows.
pub fn no_data(dst: &mut BytesMut) {
    put_message(dst, tag::NO_DATA, |_| ());
}

/// Execute reached its row limit.
pub fn portal_suspended(dst: &mut BytesMut) {
    put_message(dst, tag::PORTAL_SUSPENDED, |_| ());
}

/// The types of a prepared statement's parameters. At most 65,535.
pub fn parameter_description(dst: &mut BytesMut, type_oids: &[u32]) {
    put_message(dst, tag::PARAMETER_DESCRIPTION, |dst| {
        put_counted(dst, type_oids, |dst, oid| dst.put_u32(*oid));
    });
}

fn put_copy_response(dst: &mut BytesMut, tag: u8, format: Format, columns: &[Format]) {
    put_message(dst, tag, |dst| {
        dst.put_u8(format.code() as u8);
        put_counted(dst, columns, |dst, column| dst.put_u16(column.code()));
    });
}

/// COPY FROM STDIN begins. In the text format every column is text.
pub fn copy_in_response(dst: &mut BytesMut, format: Format, columns: &[Format]) {
    put_copy_response(dst, tag::COPY_IN_RESPONSE, format, columns);
}

/// COPY TO STDOUT begins.
pub fn copy_out_response(dst: &mut BytesMut, format: Format, columns: &[Format]) {
    put_copy_response(dst, tag::COPY_OUT_RESPONSE, format, columns);
}

/// A piece of COPY's stream; servers send one row per message.
pub fn copy_data(dst: &mut BytesMut, data: &[u8]) {
    put_message(dst, tag::COPY_DATA, |dst| dst.put_slice(data));
}

/// COPY's stream is complete.
pub fn copy_done(dst: &mut BytesMut) {
    put_message(dst, tag::COPY_DONE, |_| ());
}

/// The result of FunctionCall; `None` is NULL.
pub fn function_call_response(dst: &mut BytesMut, value: Option<&[u8]>) {
    put_message(dst, tag::FUNCTION_CALL_RESPONSE, |dst| match value {
        Some(value) => {
            dst.put_u32(value.len() as u32);
            dst.put_slice(value);
        }
        None => dst.put_i32(-1),
    });
}
