//! `byteain` (`src/backend/utils/adt/varlena.c`): the hex and the escape format.

use super::uuid::hex_digit;

pub(super) fn parse(text: &str) -> Option<Vec<u8>> {
    match text.as_bytes() {
        [b'\\', b'x', digits @ ..] => parse_hex(digits),
        bytes => parse_escape(bytes),
    }
}

/// White space is allowed between, not inside, the pairs of digits.
fn parse_hex(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(rest.len() / 2);
    loop {
        rest = match rest {
            [] => return Some(value),
            [b' ' | b'\n' | b'\t' | b'\r', after @ ..] => after,
            [high, low, after @ ..] => {
                value.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
                after
            }
            [_] => return None,
        }
    }
}

fn parse_escape(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(rest.len());
    loop {
        rest = match rest {
            [] => return Some(value),
            [b'\\', b'\\', after @ ..] => {
                value.push(b'\\');
                after
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                value.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            [b'\\', ..] => return None,
            [byte, after @ ..] => {
                value.push(*byte);
                after
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn hex_and_escape() {
        let read: [(&str, &[u8]); 8] = [
            ("", b""),
            (r"\x", b""),
            (r"\xDEADbeef", &[0xde, 0xad, 0xbe, 0xef]),
            ("\\x de\tad\n", &[0xde, 0xad]),
            (r"abc", b"abc"),
            (r"a\\b\000\377", &[b'a', b'\\', b'b', 0, 255]),
            (r"Xde", b"Xde"),
            ("é", "é".as_bytes()),
        ];
        for (text, value) in read {
            assert_eq!(parse(text).as_deref(), Some(value), "{text}");
        }
        for text in [r"\xd", r"\xd ad", r"\xgg", r"\", r"\1", r"\400", r"\08a", r"\X00"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
