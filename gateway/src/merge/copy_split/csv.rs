//! A field of a record in CSV format (`CopyReadAttributesCSV`).

use super::{Field, NoKey};

/// The field at `position`, without quotes and escapes. An unquoted field that is written as `null` is NULL.
pub(super) fn field(
    line: &[u8],
    delimiter: u8,
    quote: u8,
    escape: u8,
    null: &[u8],
    position: usize,
) -> Result<Field, NoKey> {
    let mut at = 0;
    for index in 0..=position {
        let wanted = index == position;
        let start = at;
        let mut value = Vec::new();
        let (mut quoted, mut in_quote) = (false, false);
        let end = loop {
            let Some(&byte) = line.get(at) else {
                if in_quote {
                    return Err(NoKey::UnterminatedQuote);
                }
                break at;
            };
            at += 1;
            let literal = match in_quote {
                false if byte == delimiter => break at - 1,
                false if byte == quote => {
                    if wanted && !quoted {
                        value.extend_from_slice(&line[start..at - 1]);
                    }
                    (quoted, in_quote) = (true, true);
                    continue;
                }
                false => byte,
                true => match line.get(at) {
                    Some(next) if byte == escape && (*next == escape || *next == quote) => {
                        at += 1;
                        *next
                    }
                    _ if byte == quote => {
                        in_quote = false;
                        continue;
                    }
                    _ => byte,
                },
            };
            if wanted && quoted {
                value.push(literal);
            }
        };
        if wanted {
            return match quoted {
                true => Ok(Field::Decoded(value)),
                false if line[start..end] == *null => Err(NoKey::Null),
                false => Ok(Field::Verbatim(start..end)),
            };
        }
        // A record that ends with the delimiter has one more, empty field.
        if end == line.len() {
            return Err(NoKey::Missing);
        }
    }
    Err(NoKey::Missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, escape: u8, position: usize) -> Result<String, NoKey> {
        field(line.as_bytes(), b',', b'"', escape, b"", position).map(|field| match field {
            Field::Verbatim(range) => line[range].to_owned(),
            Field::Decoded(value) => String::from_utf8(value).unwrap(),
        })
    }

    #[test]
    fn fields_are_found_and_unquoted() {
        for (line, position, value) in [
            ("a,b,c", 0, Ok("a")),
            ("a,b,c", 2, Ok("c")),
            ("a,b,c", 3, Err(NoKey::Missing)),
            ("a,", 1, Err(NoKey::Null)),
            ("a,\"\"", 1, Ok("")),
            (",x", 0, Err(NoKey::Null)),
            ("\"a,b\",c", 0, Ok("a,b")),
            ("\"a,b\",c", 1, Ok("c")),
            ("\"a\"\"b\"\"\",c", 0, Ok("a\"b\"")),
            ("x\"y,z\"w,c", 0, Ok("xy,zw")),
            ("x\"y\"\"z\"\"\"w\"v\",c", 0, Ok("xy\"z\"wv")),
            ("\"line\r\nbreak\",2", 0, Ok("line\r\nbreak")),
            ("\"open,1", 0, Err(NoKey::UnterminatedQuote)),
            ("1,\"open", 0, Ok("1")),
            ("1,\"open", 2, Err(NoKey::UnterminatedQuote)),
            ("\"\"\"\"", 0, Ok("\"")),
        ] {
            assert_eq!(read(line, b'"', position), value.map(str::to_owned), "{line:?} {position}");
        }
    }

    #[test]
    fn an_escape_of_its_own() {
        for (line, position, value) in
            [(r#""a\"b",c"#, 0, "a\"b"), (r#""a\\",c"#, 1, "c"), (r#""a\b",c"#, 0, r"a\b"), (r#"a\"b",c"#, 0, r"a\b")]
        {
            assert_eq!(read(line, b'\\', position), Ok(value.to_owned()), "{line:?} {position}");
        }
    }
}
