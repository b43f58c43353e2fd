//! `numeric_in`, `numeric_recv` and `hash_numeric_extended` (`src/backend/utils/adt/numeric.c`).
//!
//! No arithmetic: a number is read, normalised and hashed.

use super::hash::hash_bytes;
use super::key_value::{is_space, Fault, OUT_OF_RANGE, TOO_SHORT};

/// A `numeric`, without its display scale: 1.0 and 1.00 are the same value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Decimal {
    NaN,
    Infinity,
    NegativeInfinity,
    /// The digits are base 10000, neither the first nor the last is zero; the first one counts 10000 to the `weight`.
    /// Zero has no digits, weight 0 and no sign.
    Finite {
        negative: bool,
        weight: i16,
        digits: Vec<i16>,
    },
}

const DIGIT_BASE: i16 = 10_000;
const DISPLAY_SCALE_MAX: i64 = 0x3fff;
/// Beyond every number that `numeric` holds.
const EXPONENT_MAX: u32 = 200_000;

impl Decimal {
    /// Digits behind the decimal point, without trailing zeros.
    pub fn fraction_digits(&self) -> u32 {
        let Decimal::Finite { weight, digits, .. } = self else { return 0 };
        let Some(last) = digits.last() else { return 0 };
        let zeros = [1000, 100, 10].iter().position(|power| last % power == 0).map_or(0, |place| 3 - place as i32);
        let lowest = 4 * (i32::from(*weight) - digits.len() as i32 + 1) + zeros;
        u32::try_from(-lowest).unwrap_or(0)
    }

    pub(super) fn parse(text: &str) -> Result<Decimal, Fault> {
        let text = text.trim_matches(is_space);
        let malformed = || Fault::malformed_number(text);
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if ["inf", "infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name)) {
            return Ok(if negative { Decimal::NegativeInfinity } else { Decimal::Infinity });
        }
        if text.eq_ignore_ascii_case("nan") {
            return Ok(Decimal::NaN);
        }

        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent).ok_or_else(malformed)??),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let figures = || whole.bytes().chain(fraction.bytes());
        if figures().next().is_none() || !figures().all(|figure| figure.is_ascii_digit()) {
            return Err(malformed());
        }
        if fraction.len() as i64 - i64::from(exponent) > DISPLAY_SCALE_MAX {
            return Err(OUT_OF_RANGE);
        }

        // The power of ten of the first significant figure, and from it the base 10000 digit it falls into.
        let leading_zeros = figures().take_while(|figure| *figure == b'0').count();
        let power = whole.len() as i64 - 1 + i64::from(exponent) - leading_zeros as i64;
        let padding = 3 - power.rem_euclid(4) as usize;
        let mut digits = Vec::new();
        for (index, figure) in figures().skip(leading_zeros).enumerate() {
            let position = padding + index;
            if digits.is_empty() || position.is_multiple_of(4) {
                digits.push(0);
            }
            if let Some(digit) = digits.last_mut() {
                *digit += i16::from(figure - b'0') * 10i16.pow(3 - (position % 4) as u32);
            }
        }
        Decimal::normalised(negative, power.div_euclid(4), digits)
    }

    /// Network byte order: `ndigits`, `weight`, `sign`, `dscale`, then the digits, 16 bits each.
    pub(super) fn from_binary(bytes: &[u8]) -> Result<Decimal, Fault> {
        const BAD_FORMAT: Fault = Fault::Invalid("incorrect binary data format");
        let (words, odd) = bytes.as_chunks::<2>();
        let [count, weight, sign, scale, digits @ ..] = words else {
            return Err(Fault::Invalid(TOO_SHORT));
        };
        if digits.len() < usize::from(u16::from_be_bytes(*count)) {
            return Err(Fault::Invalid(TOO_SHORT));
        }
        if !odd.is_empty() {
            return Err(BAD_FORMAT);
        }
        let scale = u16::from_be_bytes(*scale);
        let mut digits: Vec<i16> = digits.iter().map(|word| i16::from_be_bytes(*word)).collect();
        if digits.len() != usize::from(u16::from_be_bytes(*count))
            || i64::from(scale) > DISPLAY_SCALE_MAX
            || !digits.iter().all(|digit| (0..DIGIT_BASE).contains(digit))
        {
            return Err(BAD_FORMAT);
        }
        let negative = match u16::from_be_bytes(*sign) {
            0x0000 => false,
            0x4000 => true,
            0xc000 => return Ok(Decimal::NaN),
            0xd000 => return Ok(Decimal::Infinity),
            0xf000 => return Ok(Decimal::NegativeInfinity),
            _ => return Err(BAD_FORMAT),
        };
        let weight = i64::from(i16::from_be_bytes(*weight));
        truncate(&mut digits, (weight + 1) * 4 + i64::from(scale));
        Decimal::normalised(negative, weight, digits)
    }

    fn normalised(negative: bool, weight: i64, mut digits: Vec<i16>) -> Result<Decimal, Fault> {
        let significant = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        digits.truncate(significant);
        let leading_zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..leading_zeros);
        if digits.is_empty() {
            return Ok(Decimal::Finite { negative: false, weight: 0, digits });
        }
        let weight = i16::try_from(weight - leading_zeros as i64).map_err(|_| OUT_OF_RANGE)?;
        Ok(Decimal::Finite { negative, weight, digits })
    }

    /// `hash_numeric_extended(value, 0)`. The sign does not enter it.
    pub(super) fn hash_extended(&self) -> u64 {
        match self {
            Decimal::NaN | Decimal::Infinity | Decimal::NegativeInfinity => 0,
            Decimal::Finite { digits, .. } if digits.is_empty() => u64::MAX,
            Decimal::Finite { weight, digits, .. } => {
                let bytes: Vec<u8> = digits.iter().flat_map(|digit| digit.to_le_bytes()).collect();
                hash_bytes(&bytes) ^ i64::from(*weight) as u64
            }
        }
    }
}

/// `None`: no number. An error: a number that only zero could be multiplied by.
fn parse_exponent(text: &str) -> Option<Result<i32, Fault>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let exponent = text.parse().ok().filter(|exponent: &i32| exponent.unsigned_abs() <= EXPONENT_MAX);
    Some(exponent.ok_or(Fault::Unsupported("extreme exponent")))
}

/// `trunc_var`: the server drops the figures that the sender's display scale hides. `figures` counts the decimal
/// figures to keep, from the first digit on.
fn truncate(digits: &mut Vec<i16>, figures: i64) {
    let Ok(figures) = usize::try_from(figures) else {
        return digits.clear();
    };
    let keep = figures.div_ceil(4);
    if keep <= digits.len() {
        digits.truncate(keep);
        if let (Some(last), part @ 1..) = (digits.last_mut(), figures % 4) {
            *last -= *last % 10i16.pow(4 - part as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite(negative: bool, weight: i16, digits: &[i16]) -> Result<Decimal, Fault> {
        Ok(Decimal::Finite { negative, weight, digits: digits.to_vec() })
    }

    #[test]
    fn text_is_normalised() {
        for text in ["0", "-0.000", "+0e5", ".0", "0."] {
            assert_eq!(Decimal::parse(text), finite(false, 0, &[]), "{text}");
        }
        for text in ["12345", " 12345.00\n", "0012345", "1.2345e4", "1234500E-2", "+12345.", "1.2345e+04"] {
            assert_eq!(Decimal::parse(text), finite(false, 1, &[1, 2345]), "{text}");
        }
        assert_eq!(Decimal::parse("-.00012"), finite(true, -1, &[1, 2000]));
        assert_eq!(Decimal::parse("1e131071"), finite(false, 32767, &[1000]));
        assert_eq!(Decimal::parse("-InFinity"), Ok(Decimal::NegativeInfinity));
        assert_eq!(Decimal::parse(" +inf "), Ok(Decimal::Infinity));
        assert_eq!(Decimal::parse("nan"), Ok(Decimal::NaN));
    }

    #[test]
    fn what_is_not_read() {
        for text in ["", ".", "e5", ".e5", "1e", "1e+", "1.2.3", "--1", "-nan", "1a", "in", "1e5e5", "1e1.5"] {
            assert!(matches!(Decimal::parse(text), Err(Fault::Invalid(_))), "{text}");
        }
        for text in ["1e131072", "1e-16384"] {
            assert_eq!(Decimal::parse(text), Err(OUT_OF_RANGE), "{text}");
        }
        for text in ["0x10", "1_000", "1e 5", "- 1", "0e999999", "1\u{a0}", "1e99999999999999"] {
            assert!(matches!(Decimal::parse(text), Err(Fault::Unsupported(_))), "{text}");
        }
    }

    fn binary(words: &[u16]) -> Result<Decimal, Fault> {
        Decimal::from_binary(&words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn fraction_digits() {
        for (text, digits) in [
            ("0", 0),
            ("1", 0),
            ("120", 0),
            ("1e30", 0),
            ("NaN", 0),
            ("1.5", 1),
            ("1.50", 1),
            ("0.05", 2),
            ("1.0001", 4),
            ("1.00010", 4),
            ("-12345.67891", 5),
            ("1e-9", 9),
            ("100000000.1", 1),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().fraction_digits(), digits, "{text}");
        }
    }

    #[test]
    fn binary_is_normalised_and_checked() {
        assert_eq!(binary(&[3, 2, 0x4000, 0, 0, 1, 2345]), finite(true, 1, &[1, 2345]));
        assert_eq!(binary(&[2, 0, 0, 2, 1, 2345]), finite(false, 0, &[1, 2300]), "hidden figures are cut off");
        assert_eq!(binary(&[1, 0xffff, 0, 0, 5000]), finite(false, 0, &[]), "down to nothing");
        assert_eq!(binary(&[0, 0, 0xc000, 0]), Ok(Decimal::NaN));
        assert_eq!(binary(&[0, 0, 0xd000, 0]), Ok(Decimal::Infinity));
        assert_eq!(binary(&[0, 0, 0xf000, 0]), Ok(Decimal::NegativeInfinity));
        for words in [&[0, 0, 0][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 10_000], &[0, 0, 1, 0], &[0, 0, 0, 0x4000]] {
            assert!(binary(words).is_err(), "{words:?}");
        }
    }
}
