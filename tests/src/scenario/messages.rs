//! Messages of the extended protocol, as a client sends them.

use super::raw::{frame, strings};

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = strings(&[name, sql]);
    body.extend((types.len() as u16).to_be_bytes());
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

pub fn bind(portal: &str, statement: &str, values: &[Option<&str>], formats: &[u16]) -> Vec<u8> {
    let mut body = strings(&[portal, statement]);
    body.extend(0u16.to_be_bytes());
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1i32).to_be_bytes()),
            Some(value) => {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(value.bytes());
            }
        }
    }
    body.extend((formats.len() as u16).to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    frame(b'B', &body)
}

pub fn describe(kind: char, name: &str) -> Vec<u8> {
    frame(b'D', &[vec![kind as u8], strings(&[name])].concat())
}

pub fn close(kind: char, name: &str) -> Vec<u8> {
    frame(b'C', &[vec![kind as u8], strings(&[name])].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[strings(&[portal]), rows.to_be_bytes().to_vec()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}
