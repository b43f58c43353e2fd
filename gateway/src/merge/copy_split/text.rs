//! A field of a line in text format (`CopyReadAttributesText`).

use super::{Field, NoKey};

/// The field at `position`, without its escapes. `null` is compared with the field as it is written.
pub(super) fn field(line: &[u8], delimiter: u8, null: &[u8], position: usize) -> Result<Field, NoKey> {
    let mut start = 0;
    let mut fields_before = position;
    let (mut at, mut escaped) = (0, false);
    let end = loop {
        match line.get(at) {
            None if fields_before == 0 => break line.len(),
            None => return Err(NoKey::Missing),
            Some(byte) if *byte == delimiter && fields_before == 0 => break at,
            Some(byte) if *byte == delimiter => {
                at += 1;
                fields_before -= 1;
                (start, escaped) = (at, false);
            }
            Some(b'\\') => {
                at = (at + 2).min(line.len());
                escaped = true;
            }
            Some(_) => at += 1,
        }
    };
    let written = &line[start..end];
    match escaped {
        _ if written == null => Err(NoKey::Null),
        false => Ok(Field::Verbatim(start..end)),
        true => Ok(Field::Decoded(without_escapes(written))),
    }
}

fn without_escapes(mut rest: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(rest.len());
    loop {
        let (byte, after) = match rest {
            [] => return value,
            [b'\\', b'0'..=b'7', ..] => {
                let digits = rest[1..].iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                (number(&rest[1..=digits], 8), &rest[digits + 1..])
            }
            [b'\\', b'x', digit, ..] if digit.is_ascii_hexdigit() => {
                let digits = rest[2..].iter().take(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
                (number(&rest[2..digits + 2], 16), &rest[digits + 2..])
            }
            [b'\\', byte, after @ ..] => {
                let byte = match byte {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 0x0b,
                    other => *other,
                };
                (byte, after)
            }
            [byte, after @ ..] => (*byte, after),
        };
        value.push(byte);
        rest = after;
    }
}

/// The low eight bits: `\777` is `\377`.
fn number(digits: &[u8], radix: u32) -> u8 {
    digits.iter().fold(0, |value: u32, digit| value * radix + char::from(*digit).to_digit(radix).unwrap_or(0)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, position: usize) -> Result<Vec<u8>, NoKey> {
        field(line.as_bytes(), b'\t', b"\\N", position).map(|field| match field {
            Field::Verbatim(range) => line.as_bytes()[range].to_vec(),
            Field::Decoded(value) => value,
        })
    }

    #[test]
    fn fields_are_found_and_unescaped() {
        for (line, position, value) in [
            ("a\tb\tc", 0, Ok(&b"a"[..])),
            ("a\tb\tc", 1, Ok(b"b")),
            ("a\tb\tc", 2, Ok(b"c")),
            ("a\tb\tc", 3, Err(NoKey::Missing)),
            ("", 0, Ok(b"")),
            ("", 1, Err(NoKey::Missing)),
            ("x\t", 1, Ok(b"")),
            ("x\\\ty\tz", 0, Ok(b"x\ty")),
            ("x\\\ty\tz", 1, Ok(b"z")),
            ("\\N\t1", 0, Err(NoKey::Null)),
            ("\\\\N\t1", 0, Ok(b"\\N")),
            ("\\N1", 0, Ok(b"N1")),
            (r"\b\f\n\r\t\v\\\.\q", 0, Ok(b"\x08\x0c\n\r\t\x0b\\.q")),
            (r"\1\12\101\7777\08", 0, Ok(b"\x01\x0aA\xff7\x008")),
            (r"\x4\x41\x414\xg\x", 0, Ok(b"\x04AA4xgx")),
            ("a\\", 0, Ok(b"a\\")),
        ] {
            assert_eq!(read(line, position), value.map(<[u8]>::to_vec), "{line:?} {position}");
        }
    }
}
