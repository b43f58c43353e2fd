//! Which line of the client's data a shard means: in a COPY over several shards each counts the lines that it is given itself.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::pool::error::{field, with_field};

/// What is remembered of the lines of one shard, at two bytes or more a row. Older rows are stored: nothing is said of them any more, but
/// in a COPY of very short rows that the shard is far behind with.
const STEPS_BYTES_MAX: usize = 1 << 20;
/// Rows that PostgreSQL stores at a time (`MAX_BUFFERED_TUPLES`), if they are not long.
const STORED_ROWS: u64 = 1_000;
/// Characters between a table's name and the line's number, in whatever language: `, line `.
const BETWEEN_MAX: usize = 24;

#[derive(Debug)]
pub struct Lines {
    /// What PostgreSQL's context begins with: `COPY orders`.
    copy: String,
    /// The last row that is not remembered any more.
    forgotten: Place,
    last: Place,
    /// From row to row how many lines further its last line is, on the shard and in the client's data: numbers in base 128.
    steps: VecDeque<u8>,
    /// CSV of which the shard has seen no line's end yet: within quotes it takes carriage returns for them, as PostgreSQL does.
    is_csv_unended: bool,
}

/// A line, counted from 1.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    shard: u64,
    client: u64,
}

/// When one server would find an error: by the line that it reads then, and the line that is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(u64, u64);

impl When {
    /// It names no line: after all of them.
    pub const LAST: When = When(u64::MAX, u64::MAX);

    /// What is wrong with a row by itself is found when it is read, and its line is shown; what indexes say, without that, when rows are
    /// stored: many at a time (`CopyMultiInsertInfoIsFull`, src/backend/commands/copyfrom.c).
    fn of(line: u64, stored: bool) -> When {
        When(if stored { line.div_ceil(STORED_ROWS) * STORED_ROWS } else { line }, line)
    }
}

impl Lines {
    /// `table`: its name without the schema.
    pub fn new(table: &str, is_csv: bool) -> Lines {
        let (forgotten, last) = (Place::default(), Place::default());
        Lines { copy: format!("COPY {table}"), forgotten, last, steps: VecDeque::new(), is_csv_unended: is_csv }
    }

    /// The header is given to every shard.
    pub fn add_header(&mut self, lines: u64) {
        self.is_csv_unended = false;
        self.step(lines, lines);
    }

    /// The shard is given a row of so many lines, which ends with this line of the client's.
    pub fn add(&mut self, row: &[u8], lines: u64, client: u64) {
        let begins = std::mem::take(&mut self.is_csv_unended);
        let other_end = row.ends_with(b"\r") || row.ends_with(b"\r\n");
        let lines = match begins && !other_end {
            true => 1 + row.iter().filter(|byte| **byte == b'\r').count() as u64,
            false => lines,
        };
        self.step(lines, client);
    }

    fn step(&mut self, lines: u64, client: u64) {
        put(&mut self.steps, lines);
        put(&mut self.steps, client.saturating_sub(self.last.client));
        self.last = Place { shard: self.last.shard + lines, client };
        while self.steps.len() > STEPS_BYTES_MAX {
            self.forgotten.shard += take(&mut self.steps);
            self.forgotten.client += take(&mut self.steps);
        }
    }

    /// What the client calls this line of the shard's; `reading` is the line that it has not ended yet.
    fn of_client(&self, line: u64, reading: Option<u64>) -> Option<u64> {
        if line > self.last.shard {
            return reading;
        }
        if line <= self.forgotten.shard {
            return None;
        }
        let Place { mut shard, mut client } = self.forgotten;
        let mut steps = self.steps.iter().copied();
        while shard < line {
            shard += number(&mut steps)?;
            client += number(&mut steps)?;
        }
        Some(client - (shard - line))
    }

    /// An error's or a notice's body with the client's line, or, where that is not known, without a line.
    pub fn told(&self, body: Bytes, reading: Option<u64>) -> (Bytes, When) {
        let Some(context) = field(&body, b'W') else { return (body, When::LAST) };
        let Some(start) = self.starts(context) else { return (body, When::LAST) };
        let before = &context[..start];
        let number = self.number(&context[start..]).map(|(from, to)| (start + from, start + to));
        let line = number.and_then(|(from, to)| self.of_client(context[from..to].parse().ok()?, reading));
        match (number, line) {
            (Some((from, to)), Some(line)) => {
                let when = When::of(line, to == context.len());
                let context = format!("{}{line}{}", &context[..from], &context[to..]);
                (with_field(&body, b'W', Some(&context)), when)
            }
            _ => {
                let context = Some(before.trim_end()).filter(|before| !before.is_empty());
                (with_field(&body, b'W', context), When::default())
            }
        }
    }

    /// Where the COPY's own line of a context begins.
    fn starts(&self, context: &str) -> Option<usize> {
        let mut places = context.match_indices(&self.copy).map(|(at, _)| at);
        places.find(|at| *at == 0 || context.as_bytes()[at - 1] == b'\n')
    }

    /// Where the line's number stands in `COPY orders, line 3, column id: "x"`.
    fn number(&self, context: &str) -> Option<(usize, usize)> {
        let rest = context.get(self.copy.len()..)?;
        let (from, _) = rest.char_indices().take(BETWEEN_MAX).find(|(_, character)| character.is_ascii_digit())?;
        let digits = rest[from..].bytes().take_while(u8::is_ascii_digit).count();
        let from = self.copy.len() + from;
        Some((from, from + digits))
    }
}

fn put(steps: &mut VecDeque<u8>, mut number: u64) {
    while number > 0x7f {
        steps.push_back(number as u8 | 0x80);
        number >>= 7;
    }
    steps.push_back(number as u8);
}

fn take(steps: &mut VecDeque<u8>) -> u64 {
    number(&mut std::iter::from_fn(|| steps.pop_front())).unwrap_or(0)
}

fn number(steps: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = steps.next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(lines: &Lines, context: &str) -> (Option<String>, u64) {
        let (body, When(_, line)) = lines.told(Bytes::from(format!("SERROR\0W{context}\0Rf\0\0")), Some(900));
        assert_eq!((field(&body, b'S'), field(&body, b'R')), (Some("ERROR"), Some("f")));
        (field(&body, b'W').map(str::to_owned), line)
    }

    #[test]
    fn lines_are_the_clients() {
        let mut lines = Lines::new("t 2", false);
        lines.add(b"", 1, 1);
        lines.add(b"", 1, 7);
        lines.add(b"", 3, 400);
        for (shard, client) in [(1, 1), (2, 7), (3, 398), (4, 399), (5, 400), (6, 900)] {
            let told = context(&lines, &format!("COPY t 2, line {shard}, column a: \"x\nCOPY t 2, line 1\""));
            assert_eq!(told, (Some(format!("COPY t 2, line {client}, column a: \"x\nCOPY t 2, line 1\"")), client));
        }
        let told = context(&lines, "PL/pgSQL function f() line 2 at RAISE\nCOPY t 2, Zeile 2: »x«");
        assert_eq!(told, (Some("PL/pgSQL function f() line 2 at RAISE\nCOPY t 2, Zeile 7: »x«".to_owned()), 7));
        assert_eq!(context(&lines, "f() line 2 at RAISE"), (Some("f() line 2 at RAISE".to_owned()), u64::MAX));
        assert_eq!(context(&lines, "f\nCOPY t 2"), (Some("f".to_owned()), 0));
    }

    #[test]
    fn the_first_row_of_csv_is_counted_by_carriage_returns() {
        for (row, lines) in [(&b"\"1\n1\r\"\n"[..], 2), (b"\"1\n\n\"\n", 1), (b"\"\n\r\n\"\r\n", 3)] {
            let mut of_csv = Lines::new("t", true);
            of_csv.add(row, 3, 9);
            of_csv.add(row, 3, 12);
            assert_eq!((of_csv.last.shard, of_csv.last.client), (lines + 3, 12));
        }
    }

    #[test]
    fn rows_are_read_before_they_are_stored() {
        assert!(When::of(7, false) < When::of(3, true) && When::of(3, true) < When::of(5, true));
        assert!(When::of(1, true) < When::of(1001, false) && When::of(9, true) < When::LAST);
    }

    #[test]
    fn what_is_forgotten_has_no_line() {
        let mut lines = Lines::new("t", false);
        let rows = STEPS_BYTES_MAX as u64;
        (1..=rows).for_each(|row| lines.add(b"", 1, row * 3));
        assert!(lines.steps.len() <= STEPS_BYTES_MAX);
        assert_eq!(context(&lines, "COPY t, line 5: \"x\""), (None, 0));
        let line = rows - rows / 4;
        assert_eq!(context(&lines, &format!("COPY t, line {line}")).1, line * 3);
        assert_eq!(context(&lines, &format!("COPY t, line {rows}")).1, rows * 3);
    }
}
