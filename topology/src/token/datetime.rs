//! Dates and timestamps: the ISO 8601 part of `date_in`, `timestamp_in` and `timestamptz_in`
//! (`src/backend/utils/adt/datetime.c`, `date.c`, `timestamp.c`).
//!
//! Read: `YYYY-MM-DD`, `YYYY-MM-DD HH:MM[:SS[.ffffff]]` with blanks or a `T` between, a numeric zone or `Z`, `BC` and
//! `AD`, and the infinities. Everything that depends on `DateStyle`, `TimeZone`, time zone names or the clock is
//! refused as unsupported.

use super::key_value::{is_space, Fault, OUT_OF_RANGE};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i128 = 86_400 * MICROS_PER_SECOND as i128;
/// 4714-11-24 BC and 5874898-01-01, in days since 2000-01-01 (`src/include/datatype/timestamp.h`).
const DATE_MIN: i64 = -2_451_545;
const DATE_END: i64 = 2_145_031_949;
/// `MIN_TIMESTAMP` and `END_TIMESTAMP`.
const TIMESTAMP_MIN: i64 = -211_813_488_000_000_000;
const TIMESTAMP_END: i64 = 9_223_371_331_200_000_000;

const NOT_ISO: Fault =
    Fault::Unsupported("only ISO 8601 dates and times, with a numeric time zone if there is one, are read");

pub(super) fn parse_date(text: &str) -> Result<i32, Fault> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i32::MAX } else { i32::MIN });
    }
    let Moment { day, micros: None, .. } = Moment::parse(text)? else {
        return Err(NOT_ISO);
    };
    check_date(i32::try_from(day).map_err(|_| OUT_OF_RANGE)?)
}

/// As in PostgreSQL, a time zone is checked and then ignored.
pub(super) fn parse_timestamp(text: &str) -> Result<i64, Fault> {
    parse_instant(text, |_| Ok(0))
}

pub(super) fn parse_timestamptz(text: &str) -> Result<i64, Fault> {
    parse_instant(text, |moment| {
        moment.offset.ok_or(Fault::Unsupported("without a time zone it depends on the session's TimeZone"))
    })
}

fn parse_instant(text: &str, offset: impl Fn(&Moment) -> Result<i64, Fault>) -> Result<i64, Fault> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i64::MAX } else { i64::MIN });
    }
    let moment = Moment::parse(text)?;
    let local = i128::from(moment.day) * MICROS_PER_DAY + i128::from(moment.micros.unwrap_or(0));
    let instant = local - i128::from(offset(&moment)? * MICROS_PER_SECOND);
    match i64::try_from(instant) {
        Ok(instant @ TIMESTAMP_MIN..TIMESTAMP_END) => Ok(instant),
        _ => Err(OUT_OF_RANGE),
    }
}

/// `date_recv`'s limits.
pub(super) fn check_date(days: i32) -> Result<i32, Fault> {
    match days {
        i32::MIN | i32::MAX => Ok(days),
        _ if (DATE_MIN..DATE_END).contains(&days.into()) => Ok(days),
        _ => Err(OUT_OF_RANGE),
    }
}

/// `timestamp_recv`'s limits.
pub(super) fn check_timestamp(micros: i64) -> Result<i64, Fault> {
    match micros {
        i64::MIN | i64::MAX | TIMESTAMP_MIN..TIMESTAMP_END => Ok(micros),
        _ => Err(OUT_OF_RANGE),
    }
}

fn infinity(text: &str) -> Option<bool> {
    let text = text.trim_matches(is_space);
    let (positive, name) = match text.strip_prefix('-') {
        Some(name) => (false, name),
        None => (true, text),
    };
    name.eq_ignore_ascii_case("infinity").then_some(positive)
}

/// What the text says, before it is checked against a type's range.
struct Moment {
    /// Since 2000-01-01.
    day: i64,
    /// Of the day, which ends with 24:00:00 and may have a 60th second. `None`: no time is given.
    micros: Option<i64>,
    /// Seconds east of UTC.
    offset: Option<i64>,
}

impl Moment {
    fn parse(text: &str) -> Result<Moment, Fault> {
        let mut cursor = Cursor { rest: text.trim_matches(is_space), out_of_range: false };
        let year = cursor.number(4..=7)?;
        cursor.expect("-")?;
        let month = cursor.number(1..=2)?;
        cursor.expect("-")?;
        let day = cursor.number(1..=2)?;

        let after_date = cursor.rest;
        let blanks = cursor.blanks();
        let mut moment = Moment { day: 0, micros: None, offset: None };
        if blanks && cursor.digit_follows() || !blanks && cursor.any("Tt") {
            moment.micros = Some(cursor.time()?);
            let after_time = cursor.rest;
            cursor.blanks();
            moment.offset = cursor.zone()?;
            if moment.offset.is_none() {
                cursor.rest = after_time;
            }
        } else {
            cursor.rest = after_date;
        }

        let era = cursor.blanks().then(|| std::mem::take(&mut cursor.rest));
        let before_christ = match era {
            None => false,
            Some(era) if era.eq_ignore_ascii_case("bc") => true,
            Some(era) if era.eq_ignore_ascii_case("ad") => false,
            Some(_) => return Err(NOT_ISO),
        };
        if !cursor.rest.is_empty() {
            return Err(NOT_ISO);
        }
        if cursor.out_of_range {
            return Err(OUT_OF_RANGE);
        }
        moment.day = day_number(year, before_christ, month, day).ok_or(OUT_OF_RANGE)?;
        Ok(moment)
    }
}

/// Days from 2000-01-01 to a day of the proleptic Gregorian calendar; `None` if there is no such day.
fn day_number(year: i64, before_christ: bool, month: i64, day: i64) -> Option<i64> {
    if year == 0 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    let leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let month_days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=month_days).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day last. 2000-01-01 is day 730425 since 1 March of year 0.
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    Some(march_year * 365 + leap_days + (march_month * 153 + 2) / 5 + day - 1 - 730_425)
}

struct Cursor<'a> {
    /// The text not yet read.
    rest: &'a str,
    /// A field was too large. That is certain to be an error only once the whole text has the expected form.
    out_of_range: bool,
}

impl Cursor<'_> {
    /// Reads an unsigned number of that many digits, all that there are.
    fn number(&mut self, lengths: std::ops::RangeInclusive<usize>) -> Result<i64, Fault> {
        let length = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if !lengths.contains(&length) {
            return Err(NOT_ISO);
        }
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        digits.parse().map_err(|_| NOT_ISO)
    }

    fn digit_follows(&self) -> bool {
        self.rest.starts_with(|c: char| c.is_ascii_digit())
    }

    fn any(&mut self, set: &str) -> bool {
        let rest = self.rest.strip_prefix(|c: char| set.contains(c));
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, character: &str) -> Result<(), Fault> {
        self.any(character).then_some(()).ok_or(NOT_ISO)
    }

    fn blanks(&mut self) -> bool {
        let rest = self.rest.trim_start_matches(is_space);
        let found = rest.len() < self.rest.len();
        self.rest = rest;
        found
    }

    /// `HH:MM[:SS[.ffffff]]` (`DecodeTime`), in microseconds.
    fn time(&mut self) -> Result<i64, Fault> {
        let hour = self.number(1..=2)?;
        self.expect(":")?;
        let minute = self.number(1..=2)?;
        let second = if self.any(":") { Some(self.number(1..=2)?) } else { None };
        let fraction = if second.is_some() && self.any(".") { self.fraction()? } else { 0 };
        let past_the_hour = (minute * 60 + second.unwrap_or(0)) * MICROS_PER_SECOND + fraction;
        self.out_of_range |= minute > 59 || second > Some(60) || hour > 24 || hour == 24 && past_the_hour > 0;
        Ok(hour * 3600 * MICROS_PER_SECOND + past_the_hour)
    }

    /// Microseconds, rounded as PostgreSQL does: a double's nearest, ties to even.
    fn fraction(&mut self) -> Result<i64, Fault> {
        let text = self.rest;
        self.number(1..=18)?;
        let digits = &text[..text.len() - self.rest.len()];
        let fraction: f64 = format!("0.{digits}").parse().map_err(|_| NOT_ISO)?;
        Ok((fraction * 1e6).round_ties_even() as i64)
    }

    /// `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS` (`DecodeTimezone`), in seconds east of UTC.
    fn zone(&mut self) -> Result<Option<i64>, Fault> {
        if self.any("Zz") {
            return Ok(Some(0));
        }
        let west = self.rest.starts_with('-');
        if !self.any("+-") {
            return Ok(None);
        }
        let text = self.rest;
        let mut hours = self.number(1..=4)?;
        let (mut minutes, mut seconds) = (0, 0);
        if text.len() - self.rest.len() > 2 {
            (hours, minutes) = (hours / 100, hours % 100);
        } else if self.any(":") {
            minutes = self.number(1..=2)?;
            if self.any(":") {
                seconds = self.number(1..=2)?;
            }
        }
        self.out_of_range |= hours > 15 || minutes > 59 || seconds > 59;
        let offset = (hours * 60 + minutes) * 60 + seconds;
        Ok(Some(if west { -offset } else { offset }))
    }
}
