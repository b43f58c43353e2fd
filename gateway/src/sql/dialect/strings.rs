//! Values of literals, as `scan.l` computes them: pieces that follow one another on further lines, escapes, Unicode escapes.

/// The pieces of a string's text, from behind its prefix: more than one where it goes on behind a line's end.
pub fn pieces(text: &str, backslash: bool) -> Option<Vec<&str>> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = bytes.iter().position(|byte| *byte == b'\'')?;
    loop {
        let start = at + 1;
        let end = closing_quote(bytes, start, backslash)?;
        out.push(&text[start..end]);
        if end + 1 == bytes.len() {
            return Some(out);
        }
        at = next_quote(bytes, end + 1)?;
    }
}

/// Where the quote stands that ends the string whose content begins at `start`.
fn closing_quote(bytes: &[u8], start: usize, backslash: bool) -> Option<usize> {
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if backslash => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// The quote behind blanks and comments, with a line's end among them: there a string goes on.
pub fn next_quote(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match bytes.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at += bytes[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
            }
            b'\'' if newline => return Some(at),
            _ => return None,
        }
    }
}

/// Plain strings, and those of `B''`, `X''`, `N''`: quotes are doubled.
pub fn plain(pieces: &[&str]) -> String {
    pieces.iter().map(|piece| piece.replace("''", "'")).collect()
}

/// `E''`. None for an escape that is none, and for bytes that are no UTF-8.
pub fn escaped(pieces: &[&str]) -> Option<String> {
    let mut out = Vec::new();
    let mut high = None;
    for piece in pieces {
        let mut rest = piece.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = match byte {
                b'\'' => {
                    out.push(b'\'');
                    after.get(1..).unwrap_or_default()
                }
                b'\\' => escape(after, &mut out, &mut high)?,
                _ => {
                    out.push(byte);
                    after
                }
            };
        }
    }
    if high.is_some() {
        return None;
    }
    String::from_utf8(out).ok()
}

/// One escape, from behind its backslash; gives what follows it.
fn escape<'t>(text: &'t [u8], out: &mut Vec<u8>, high: &mut Option<u32>) -> Option<&'t [u8]> {
    let (&kind, after) = text.split_first()?;
    let digits = |text: &[u8], most: usize, radix: u32| {
        text.iter().take(most).take_while(|byte| char::from(**byte).is_digit(radix)).count()
    };
    let number =
        |text: &[u8], radix: u32| std::str::from_utf8(text).ok().and_then(|text| u32::from_str_radix(text, radix).ok());
    let rest = match kind {
        b'b' => plain_byte(out, 8, after),
        b'f' => plain_byte(out, 12, after),
        b'n' => plain_byte(out, b'\n', after),
        b'r' => plain_byte(out, b'\r', after),
        b't' => plain_byte(out, b'\t', after),
        b'v' => return None,
        b'0'..=b'7' => {
            let length = digits(text, 3, 8);
            plain_byte(out, number(&text[..length], 8)? as u8, &text[length..])
        }
        b'x' if digits(after, 2, 16) > 0 => {
            let length = digits(after, 2, 16);
            plain_byte(out, number(&after[..length], 16)? as u8, &after[length..])
        }
        b'u' | b'U' => {
            let length = if kind == b'u' { 4 } else { 8 };
            if digits(after, length, 16) < length {
                return None;
            }
            unicode(number(&after[..length], 16)?, out, high)?;
            return Some(&after[length..]);
        }
        other => plain_byte(out, other, after),
    };
    Some(rest)
}

fn plain_byte<'t>(out: &mut Vec<u8>, byte: u8, rest: &'t [u8]) -> &'t [u8] {
    out.push(byte);
    rest
}

/// A code point; surrogates come in pairs.
fn unicode(code: u32, out: &mut Vec<u8>, high: &mut Option<u32>) -> Option<()> {
    let code = match (high.take(), code) {
        (None, 0xD800..=0xDBFF) => {
            *high = Some(code);
            return Some(());
        }
        (Some(first), 0xDC00..=0xDFFF) => 0x10000 + ((first & 0x3FF) << 10) + (code & 0x3FF),
        (None, code) => code,
        (Some(_), _) => return None,
    };
    let character = char::from_u32(code).filter(|character| *character != '\0')?;
    out.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

/// `U&''` and `U&""`, quotes no longer doubled: `\0061`, `\+000061` and the doubled escape character. None for what is no escape.
pub fn unicode_escaped(text: &str, escape: char) -> Option<String> {
    let mut out = Vec::new();
    let mut high = None;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != escape || rest.starts_with(escape) {
            if character == escape {
                rest = &rest[escape.len_utf8()..];
            }
            if high.is_some() {
                return None;
            }
            out.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let (digits, length) = match rest.strip_prefix('+') {
            Some(digits) => (digits, 6),
            None => (rest, 4),
        };
        let number = digits.get(..length).filter(|number| number.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        unicode(u32::from_str_radix(number, 16).ok()?, &mut out, &mut high)?;
        rest = &digits[length..];
    }
    if high.is_some() {
        return None;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_literals() {
        let value = |text: &str| plain(&pieces(text, false).unwrap());
        assert_eq!(value("'it''s'"), "it's");
        assert_eq!(value("'a' -- x\n  'b''c'\n'd'"), "ab'cd");
        let escapes = |text: &str| escaped(&pieces(text, true).unwrap());
        assert_eq!(escapes(r"E'a\tb\101\x42\u0043\'\\'").as_deref(), Some("a\tbABC'\\"));
        assert_eq!(escapes("E'a\\n'\n'\\'b'").as_deref(), Some("a\n'b"));
        assert_eq!(escapes(r"E'\ud83d\ude00'").as_deref(), Some("😀"));
        assert_eq!(escapes(r"E'\ud83d'"), None);
        assert_eq!(escapes(r"E'\xff'"), None);
        assert_eq!(unicode_escaped(r"d\0061t\+000061\\", '\\').as_deref(), Some("data\\"));
        assert_eq!(unicode_escaped("d!0061", '!').as_deref(), Some("da"));
        assert_eq!(unicode_escaped(r"d\00", '\\'), None);
    }
}
