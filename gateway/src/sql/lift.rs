//! A text with its literals lifted out: what the texts of one statement, written with other values each time, have in common.
//!
//! Only literals that mean the same as a parameter of no declared type are lifted: whole numbers and plain strings. Whether
//! the text without them is a statement at all is the parser's business (`DATE '...'` is none without its string).

use std::borrow::Cow;

use smallvec::SmallVec;

use super::lexer::{is_word_part, one_piece, Kind, Lexeme};

/// Longer texts are not worth looking for.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Nor are those with more literals: they are lists.
const LITERALS_MAX: usize = 64;
/// Longer numbers may not be of an integer type.
const DIGITS_MAX: usize = 18;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted<'a> {
    /// With `$1`, `$2`, ... where the literals were.
    pub text: String,
    /// The literals' values, in that order.
    pub values: SmallVec<[Cow<'a, str>; 4]>,
    /// Which of them were numbers: a bit each, the lowest for the first.
    pub numbers: u64,
}

/// `lexemes`: of the text, blanks and comments at its ends left out. None: nothing was lifted, or the text has parameters of its own
/// or is no single statement.
pub fn lift<'a>(sql: &'a str, lexemes: &[Lexeme]) -> Option<Lifted<'a>> {
    if sql.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut text = String::with_capacity(sql.len());
    let mut values: SmallVec<[Cow<'_, str>; 4]> = SmallVec::new();
    let mut numbers = 0;
    let mut copied = lexemes.first()?.start;
    let end = lexemes.last()?.end;
    for (place, lexeme) in lexemes.iter().enumerate() {
        let token = lexeme.text(sql);
        let mut start = lexeme.start;
        let before = place.checked_sub(1).and_then(|place| lexemes.get(place));
        let after = lexemes.get(place + 1);
        let value = match lexeme.kind {
            Kind::Parameter(_) => return None,
            Kind::Punctuation(b';') if place + 1 < lexemes.len() => return None,
            Kind::Number if token.len() <= DIGITS_MAX && token.bytes().all(|byte| byte.is_ascii_digit()) => {
                // `1.` and `.5` are other numbers, `a[1]` is no value.
                let joined = before.is_some_and(|before| before.end == lexeme.start && before.is(b'.'))
                    || after.is_some_and(|after| after.start == lexeme.end && !may_follow(after.kind, after.text(sql)));
                // After another operator, a parenthesis or a comma a minus can only be a sign.
                let sign =
                    before.filter(|before| before.kind == Kind::Operator && before.text(sql) == "-").filter(|_| {
                        place.checked_sub(2).and_then(|place| lexemes.get(place)).is_some_and(|earlier| {
                            earlier.kind == Kind::Operator || earlier.is(b'(') || earlier.is(b',')
                        })
                    });
                match (joined, sign) {
                    (true, _) => None,
                    (false, Some(sign)) => {
                        start = sign.start;
                        Some(Cow::Owned(format!("-{token}")))
                    }
                    (false, None) => Some(Cow::Borrowed(token)),
                }
            }
            Kind::String if token.starts_with('\'') => {
                // Strings that follow one another are one.
                let continues = before.is_some_and(|before| before.kind == Kind::String)
                    || after.is_some_and(|after| after.kind == Kind::String);
                if continues {
                    return None;
                }
                let inner = one_piece(&token[1..token.len() - 1])?;
                Some(if inner.contains('\'') { Cow::Owned(inner.replace("''", "'")) } else { Cow::Borrowed(inner) })
            }
            _ => None,
        };
        let Some(value) = value else { continue };
        // A parameter must not become part of what it touches: `date'2024-01-01'`, `'a'1`.
        let touches = |byte: Option<&u8>| byte.is_some_and(|byte| is_word_part(*byte));
        if touches(sql.as_bytes()[..start].last()) || touches(sql.as_bytes().get(lexeme.end)) {
            continue;
        }
        if values.len() == LITERALS_MAX {
            return None;
        }
        numbers |= u64::from(lexeme.kind == Kind::Number) << values.len();
        values.push(value);
        text.push_str(&sql[copied..start]);
        text.push('$');
        text.push_str(itoa(values.len(), &mut [0; 4]));
        copied = lexeme.end;
    }
    if values.is_empty() {
        return None;
    }
    text.push_str(&sql[copied..end]);
    Some(Lifted { text, values, numbers })
}

/// What may stand right behind a number.
fn may_follow(kind: Kind, token: &str) -> bool {
    kind == Kind::Operator || matches!(token, "," | ")" | ";")
}

/// Digits of a small number, without an allocation.
fn itoa(number: usize, digits: &mut [u8; 4]) -> &str {
    let mut rest = number;
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || start == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::lexer::lex;
    use super::*;

    fn lifted(sql: &str) -> Option<(String, Vec<String>)> {
        let lexemes = lex(sql).ok()?;
        lift(sql, &lexemes).map(|lifted| (lifted.text, lifted.values.into_iter().map(Cow::into_owned).collect()))
    }

    fn some(text: &str, values: &[&str]) -> Option<(String, Vec<String>)> {
        Some((text.to_owned(), values.iter().map(|value| (*value).to_owned()).collect()))
    }

    #[test]
    fn numbers_and_strings_become_parameters_and_the_rest_stays_byte_for_byte() {
        assert_eq!(
            lifted("SELECT  a /* 7 */ FROM t WHERE id = 42 AND name='it''s'; -- 8"),
            some("SELECT  a /* 7 */ FROM t WHERE id = $1 AND name=$2;", &["42", "it's"])
        );
        assert_eq!(
            lifted("INSERT INTO t VALUES (1, 'ä', 2)"),
            some("INSERT INTO t VALUES ($1, $2, $3)", &["1", "ä", "2"])
        );
    }

    #[test]
    fn a_sign_belongs_to_its_number_where_it_can_be_nothing_else() {
        let sql = "UPDATE t SET a = a + -5, b = b -6, c = c-7 WHERE id=-8 AND d IN (-9, - 10)";
        let text = "UPDATE t SET a = a + $1, b = b -$2, c = c-$3 WHERE id=$4 AND d IN ($5, $6)";
        assert_eq!(lifted(sql), some(text, &["-5", "6", "7", "-8", "-9", "-10"]));
        assert_eq!(lifted("SELECT -1"), some("SELECT -$1", &["1"]));
    }

    #[test]
    fn what_is_not_plainly_a_value_stays() {
        for sql in [
            "SELECT a FROM t",
            "SELECT $1, 5",
            "SELECT 1; SELECT 2",
            "SELECT 'a' 'b'",
            "SELECT 1.5, .5, 1e3, 0x10, 1_000, E'a', $$a$$, B'1', U&'a', N'a'",
            "SELECT 12345678901234567890",
            "SELECT a[1]",
            "SELECT date'2024-01-01', x'', 'a'b",
            "not 'a statement",
        ] {
            assert_eq!(lifted(sql), None, "{sql}");
        }
        assert_eq!(lifted("SELECT 'a'1"), some("SELECT 'a'$1", &["1"]));
        assert_eq!(lifted("SELECT 1.5, 2"), some("SELECT 1.5, $1", &["2"]));
        let many = (0..65).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        assert_eq!(lifted(&format!("SELECT {many}")), None);
    }

    #[test]
    fn parameters_are_numbered_past_nine() {
        let twelve = (1..=12).map(|n| n.to_string()).collect::<Vec<_>>();
        let (text, values) = lifted(&format!("SELECT {}", twelve.join(", "))).unwrap();
        assert!(text.ends_with("$9, $10, $11, $12"), "{text}");
        assert_eq!(values, twelve);
    }
}
