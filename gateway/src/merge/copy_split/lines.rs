//! Where a line of text or CSV ends (`CopyReadLineText`, `src/backend/commands/copyfromparse.c`).

use super::MergeError;

/// Finds line after line. It remembers how far it has looked, so that no byte is looked at twice.
#[derive(Debug)]
pub(super) struct LineScanner {
    /// For CSV: the quote, and the escape if it is another character. A doubled quote ends and begins again.
    csv: Option<(u8, Option<u8>)>,
    line_end: Option<LineEnd>,
    /// Of the current line, from 1.
    number: u64,
    within_line: bool,
    /// Bytes of the current line that were looked at.
    at: usize,
    in_quote: bool,
    after_escape: bool,
    /// After `\.` nothing is data.
    data_ended: bool,
}

/// How lines end is told by the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Newline,
    CarriageReturn,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Bytes without the line end.
    pub content: usize,
    /// Bytes with it.
    pub bytes: usize,
    /// False for bytes that are no data: the end marker `\.`, and what follows it.
    pub is_row: bool,
}

/// What the scanner met.
enum Met {
    /// More must be fed; at the end of the input, what there is is the line.
    Nothing,
    LineEnd(Line),
    DataEnd(Line),
}

enum Fault {
    Newline,
    CarriageReturn,
    MarkerCorrupt,
    MarkerLineEnd,
}

impl LineScanner {
    pub(super) fn text() -> LineScanner {
        LineScanner {
            csv: None,
            line_end: None,
            number: 0,
            within_line: false,
            at: 0,
            in_quote: false,
            after_escape: false,
            data_ended: false,
        }
    }

    pub(super) fn csv(quote: u8, escape: u8) -> LineScanner {
        LineScanner { csv: Some((quote, Some(escape).filter(|escape| *escape != quote))), ..LineScanner::text() }
    }

    /// Number of the line that was found last, as PostgreSQL counts: line ends within quotes count too.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Number of the line that is read now.
    pub(super) fn reading(&self) -> u64 {
        self.number + u64::from(!self.within_line && !self.data_ended)
    }

    /// `rest` begins where the last line ended; at each call it is what it was, with bytes added.
    pub(super) fn find(
        &mut self,
        rest: &[u8],
        row_bytes_max: usize,
        input_ended: bool,
    ) -> Result<Option<Line>, MergeError> {
        if rest.is_empty() {
            return Ok(None);
        }
        if self.data_ended {
            return self.after_data(rest).map(Some);
        }
        if !self.within_line {
            self.within_line = true;
            self.number += 1;
            self.at = 0;
        }
        let met = match self.csv {
            None => self.scan_text(rest, input_ended),
            Some((quote, escape)) => self.scan_csv(rest, quote, escape, input_ended),
        };
        let line = match met.map_err(|fault| self.error(fault))? {
            Met::Nothing if rest.len() > row_bytes_max => Line { content: rest.len(), bytes: rest.len(), is_row: true },
            Met::Nothing if !input_ended => return Ok(None),
            Met::Nothing => Line { content: rest.len(), bytes: rest.len(), is_row: true },
            Met::LineEnd(line) => line,
            Met::DataEnd(line) => {
                self.data_ended = true;
                line
            }
        };
        if line.bytes > row_bytes_max {
            return Err(MergeError::CopyRowBytes { line: self.number, bytes_max: row_bytes_max });
        }
        self.within_line = false;
        Ok(Some(line))
    }

    fn scan_text(&mut self, rest: &[u8], input_ended: bool) -> Result<Met, Fault> {
        loop {
            let Some(distance) = rest[self.at..].iter().position(|byte| matches!(byte, b'\n' | b'\r' | b'\\')) else {
                self.at = rest.len();
                return Ok(Met::Nothing);
            };
            self.at += distance;
            match &rest[self.at..] {
                [b'\\'] => return Ok(Met::Nothing),
                [b'\\', b'.', after @ ..] => {
                    return match self.marker_end(after, input_ended)? {
                        Marker::Unknown => Ok(Met::Nothing),
                        Marker::None => Err(Fault::MarkerCorrupt),
                        Marker::Ends(bytes) => Ok(self.data_end(bytes)),
                    };
                }
                // Whatever a backslash precedes is data.
                [b'\\', ..] => self.at += 2,
                _ => return self.line_end(rest, input_ended),
            }
        }
    }

    fn scan_csv(&mut self, rest: &[u8], quote: u8, escape: Option<u8>, input_ended: bool) -> Result<Met, Fault> {
        if self.at == 0 && rest[0] == b'\\' {
            match rest {
                [_] if !input_ended => return Ok(Met::Nothing),
                [_, b'.', after @ ..] => match self.marker_end(after, input_ended)? {
                    Marker::Unknown => return Ok(Met::Nothing),
                    Marker::None => {}
                    Marker::Ends(bytes) => return Ok(self.data_end(bytes)),
                },
                _ => {}
            }
        }
        while let Some(&byte) = rest.get(self.at) {
            if self.in_quote && Some(byte) == escape {
                self.after_escape = !self.after_escape;
            }
            if byte == quote && !self.after_escape {
                self.in_quote = !self.in_quote;
            }
            if Some(byte) != escape {
                self.after_escape = false;
            }
            if matches!(byte, b'\n' | b'\r') {
                if !self.in_quote {
                    return self.line_end(rest, input_ended);
                }
                let counted = if self.line_end == Some(LineEnd::Newline) { b'\n' } else { b'\r' };
                self.number += u64::from(byte == counted);
            }
            self.at += 1;
        }
        Ok(Met::Nothing)
    }

    /// At a line feed or carriage return that is no data.
    fn line_end(&mut self, rest: &[u8], input_ended: bool) -> Result<Met, Fault> {
        let (found, length) = match (&rest[self.at..], self.line_end) {
            ([b'\n', ..], None | Some(LineEnd::Newline)) => (LineEnd::Newline, 1),
            ([b'\n', ..], _) => return Err(Fault::Newline),
            (_, Some(LineEnd::Newline)) => return Err(Fault::CarriageReturn),
            (_, Some(LineEnd::CarriageReturn)) => (LineEnd::CarriageReturn, 1),
            ([_, b'\n', ..], _) => (LineEnd::Both, 2),
            ([_], _) if !input_ended => return Ok(Met::Nothing),
            (_, None) => (LineEnd::CarriageReturn, 1),
            (_, Some(LineEnd::Both)) => return Err(Fault::CarriageReturn),
        };
        self.line_end = Some(found);
        Ok(Met::LineEnd(Line { content: self.at, bytes: self.at + length, is_row: true }))
    }

    fn data_end(&self, marker_bytes: usize) -> Met {
        Met::DataEnd(Line { content: self.at, bytes: self.at + marker_bytes, is_row: self.at > 0 })
    }

    /// `after` follows the two characters of `\.`.
    fn marker_end(&self, after: &[u8], input_ended: bool) -> Result<Marker, Fault> {
        let (after, length) = match (self.line_end, after) {
            (Some(LineEnd::Both), [b'\n', ..]) if self.csv.is_some() => return Ok(Marker::None),
            (Some(LineEnd::Both), [b'\n', ..]) => return Err(Fault::MarkerLineEnd),
            (Some(LineEnd::Both), [b'\r', after @ ..]) => (after, 4),
            (Some(LineEnd::Both), [_, ..]) => return Ok(Marker::None),
            (_, after) => (after, 3),
        };
        match (after, self.line_end) {
            ([], _) if !input_ended => Ok(Marker::Unknown),
            ([b'\n', ..], Some(LineEnd::CarriageReturn)) => Err(Fault::MarkerLineEnd),
            ([b'\r', ..], Some(LineEnd::Newline | LineEnd::Both)) => Err(Fault::MarkerLineEnd),
            ([b'\r' | b'\n', ..], _) => Ok(Marker::Ends(length)),
            _ => Ok(Marker::None),
        }
    }

    /// PostgreSQL 18 no longer takes `\.` for the end of CSV data. At the very end that makes no difference worth an error.
    fn after_data(&self, rest: &[u8]) -> Result<Line, MergeError> {
        if self.csv.is_some() {
            return Err(MergeError::UnsupportedCopy {
                line: self.number + 1,
                message: "CSV data go on after a line that is \\.",
                hint: "Quote the value, or leave out what follows: PostgreSQL versions differ in how they read it.",
            });
        }
        Ok(Line { content: 0, bytes: rest.len(), is_row: false })
    }

    fn error(&self, fault: Fault) -> MergeError {
        let is_csv = self.csv.is_some();
        let (message, hint) = match fault {
            Fault::Newline if is_csv => {
                ("unquoted newline found in data", Some("Use quoted CSV field to represent newline."))
            }
            Fault::Newline => ("literal newline found in data", Some("Use \"\\n\" to represent newline.")),
            Fault::CarriageReturn if is_csv => {
                ("unquoted carriage return found in data", Some("Use quoted CSV field to represent carriage return."))
            }
            Fault::CarriageReturn => {
                ("literal carriage return found in data", Some("Use \"\\r\" to represent carriage return."))
            }
            Fault::MarkerCorrupt => ("end-of-copy marker corrupt", None),
            Fault::MarkerLineEnd => ("end-of-copy marker does not match previous newline style", None),
        };
        MergeError::BadCopy { line: self.number, message, hint }
    }
}

/// What follows `\.` tells what it is.
enum Marker {
    Unknown,
    /// It is none: data in CSV, an error in text.
    None,
    /// So many bytes, with the line end.
    Ends(usize),
}
