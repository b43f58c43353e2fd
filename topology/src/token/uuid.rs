//! `uuid_in` (`src/backend/utils/adt/uuid.c`).

/// 32 hexadecimal digits in either case, a hyphen allowed after any group of four, braces around the whole allowed.
pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let mut rest = match bytes.strip_prefix(b"{") {
        Some(inner) => inner.strip_suffix(b"}")?,
        None => bytes,
    };
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let [high, low, after @ ..] = rest else {
            return None;
        };
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
        rest = match after {
            [b'-', after @ ..] if index % 2 == 1 && index < 15 => after,
            after => after,
        };
    }
    rest.is_empty().then_some(uuid)
}

pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_form_that_postgresql_reads() {
        let want = parse("a0eebc999c0b4ef8bb6d6bb9bd380a11");
        assert!(want.is_some());
        for text in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        for text in [
            "",
            "{}",
            " a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a111",
            "g0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
