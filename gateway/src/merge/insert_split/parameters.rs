//! Where `$1`, `$2`, ... stand in a statement's text. Lexical only (`src/backend/parser/scan.l`): what a quote, a comment
//! or a dollar quote contains is skipped.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParameterPlace {
    pub start: usize,
    pub end: usize,
    /// From 0.
    pub index: usize,
}

/// In the order of the text. `standard_conforming_strings` is on: the gateway allows nothing else.
pub(super) fn find_parameters(sql: &str) -> Vec<ParameterPlace> {
    let bytes = sql.as_bytes();
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'\'' => after_quote(bytes, at, b'\'', false),
            b'"' => after_quote(bytes, at, b'"', false),
            b'-' if bytes[at..].starts_with(b"--") => {
                bytes[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')).map_or(bytes.len(), |end| at + end)
            }
            b'/' if bytes[at..].starts_with(b"/*") => after_comment(bytes, at),
            b'$' => {
                let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let end = at + 1 + digits;
                match sql[at + 1..end].parse::<usize>() {
                    Ok(number) if number > 0 => {
                        places.push(ParameterPlace { start: at, end, index: number - 1 });
                        end
                    }
                    // `$0`, or too large a number: no parameter, and nothing else either.
                    _ if digits > 0 => end,
                    _ => after_dollar_quote(sql, at),
                }
            }
            b'e' | b'E' if bytes.get(at + 1) == Some(&b'\'') => after_quote(bytes, at + 1, b'\'', true),
            byte if is_identifier_start(*byte) => {
                at + bytes[at..].iter().take_while(|byte| is_identifier_part(**byte)).count()
            }
            byte if byte.is_ascii_digit() => after_number(bytes, at),
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => after_number(bytes, at),
            _ => at + 1,
        };
    }
    places
}

fn is_identifier_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_identifier_part(byte: u8) -> bool {
    is_identifier_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// As the lexer of `sql` has it: what follows a number without a blank is a token of its own.
fn after_number(bytes: &[u8], start: usize) -> usize {
    let is = |at: usize, is: fn(&u8) -> bool| bytes.get(at).is_some_and(is);
    if bytes[start] == b'0' && is(start + 1, |byte| b"xXoObB".contains(byte)) {
        let part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
        return start + 2 + bytes[start + 2..].iter().take_while(part).count();
    }
    let digits = |mut at: usize| {
        while is(at, u8::is_ascii_digit) || is(at, |byte| *byte == b'_') && is(at + 1, u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut at = digits(start);
    if is(at, |byte| *byte == b'.') && !is(at + 1, |byte| *byte == b'.') {
        at = digits(at + 1);
    }
    let sign = usize::from(is(at + 1, |byte| b"+-".contains(byte)));
    if is(at, |byte| b"eE".contains(byte)) && is(at + 1 + sign, u8::is_ascii_digit) {
        at = digits(at + 1 + sign);
    }
    at
}

/// A doubled quote ends and begins again, which needs no rule here. `start` is the opening quote.
fn after_quote(bytes: &[u8], start: usize, quote: u8, backslashes: bool) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if backslashes => at += 2,
            byte if *byte == quote && backslashes && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn after_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `$tag$ ... $tag$`, or else only the dollar.
fn after_dollar_quote(sql: &str, start: usize) -> usize {
    let bytes = sql.as_bytes();
    let tag = bytes[start + 1..].iter().take_while(|byte| is_identifier_start(**byte) || byte.is_ascii_digit()).count();
    let body = start + tag + 2;
    if bytes.get(start + 1 + tag) != Some(&b'$') || bytes[start + 1].is_ascii_digit() {
        return start + 1;
    }
    let delimiter = &sql[start..body];
    sql[body..].find(delimiter).map_or(sql.len(), |end| body + end + delimiter.len())
}

#[cfg(test)]
mod tests {
    use super::find_parameters;

    fn indexes(sql: &str) -> Vec<usize> {
        find_parameters(sql)
            .into_iter()
            .map(|place| {
                assert_eq!(sql[place.start..place.end], format!("${}", place.index + 1));
                place.index + 1
            })
            .collect()
    }

    #[test]
    fn only_parameters_are_found() {
        for (sql, found) in [
            ("$1,$23::int+$3", &[1, 23, 3][..]),
            ("'$1' $2 'it''s $3' $4", &[2, 4]),
            (r"E'\'$1' $2 e'\\' $3 E'''$4' $5", &[2, 3, 5]),
            (r"'\' $1", &[1]),
            (r#""$1" $2 "a""$3" $4"#, &[2, 4]),
            ("-- $1\n$2 -- $3", &[2]),
            ("/* $1 /* $2 */ $3 */ $4 /* $5", &[4]),
            ("$$ $1 $$ $2 $x$ $3 $$ $4 $x$ $5 $x", &[2, 5]),
            ("a$1 _$2 é$3 (t.c=$4)", &[4]),
            ("$0 $ $1", &[1]),
            ("1 - $1 / $2", &[1, 2]),
            ("$0b1$2 $3 $99999999999999999999a$4", &[3]),
            ("1.5a$$, $1", &[1]),
            ("1.5e3$1 .5$2 0x1f$3 1..$4", &[1, 2, 3, 4]),
            ("U&'$1' U&\"$2\" B'$3' N'$4' $5", &[5]),
        ] {
            assert_eq!(indexes(sql), found, "{sql}");
        }
    }
}
