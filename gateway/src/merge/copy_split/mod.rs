//! COPY FROM STDIN over many shards: a stream of CopyData, cut anywhere, becomes whole rows with their shard keys.
//!
//! Row bytes go to their shard as they came, so a shard parses exactly what the client wrote; only the key is decoded here,
//! as `src/backend/commands/copyfromparse.c` does it. What belongs to every shard (the header line of CSV, the binary
//! file header and trailer) is given apart. Errors that only the shard can see (a wrong number of columns, a bad value)
//! are left to it.
//!
//! The data are in the server's encoding, UTF-8. Options that change how the key is read (FORCE_NULL, FORCE_NOT_NULL,
//! DEFAULT, ENCODING, a header line in text format) are refused by the planner.

mod binary;
mod csv;
mod lines;
mod text;

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Buf, BytesMut};
use ringway_topology::token::{KeyType, KeyValue};

use crate::plan::types::CopyFormat;

use super::MergeError;
use binary::BinaryScanner;
use lines::{Line, LineScanner};

/// The splitter of one COPY.
#[derive(Debug)]
pub struct CopySplit {
    format: Format,
    key_position: usize,
    /// How many are copied.
    columns: usize,
    copy_row_bytes_max: usize,
    buffer: BytesMut,
    /// Bytes at the buffer's start that were given out.
    consumed: usize,
    input_ended: bool,
    /// The row that the last error is about.
    refused: Option<Range<usize>>,
}

#[derive(Debug)]
enum Format {
    Text { scanner: LineScanner, delimiter: u8, null: Vec<u8> },
    Csv { scanner: LineScanner, delimiter: u8, quote: u8, escape: u8, null: Vec<u8>, header_follows: bool },
    Binary(BinaryScanner),
}

/// What comes next in the stream.
#[derive(Debug, PartialEq)]
pub enum Piece<'a> {
    /// For every shard, in front of its rows.
    Prologue(&'a [u8]),
    /// A line without a key that has fewer fields than there are columns: an error that any shard finds.
    Short(&'a [u8]),
    Row(CopyRow<'a>),
}

/// One row, for one shard.
#[derive(Debug, PartialEq)]
pub struct CopyRow<'a> {
    /// As the client sent it, with its line end. The last row of a stream may have none.
    pub bytes: &'a [u8],
    pub key: CopyKey<'a>,
    /// From 1, with the header line.
    pub line: u64,
}

/// The shard key as the column's input or receive function gets it; never NULL.
#[derive(Debug, PartialEq)]
pub enum CopyKey<'a> {
    Text(Cow<'a, str>),
    Binary(&'a [u8]),
}

impl CopyRow<'_> {
    pub fn key_value(&self, key_type: KeyType) -> Result<KeyValue, MergeError> {
        let value = match &self.key {
            CopyKey::Text(text) => KeyValue::from_text(key_type, text),
            CopyKey::Binary(bytes) => KeyValue::from_binary(key_type, bytes),
        };
        value.map_err(|error| MergeError::BadKey { line: self.line, error })
    }
}

/// A piece by its places in the buffer.
enum Found {
    Prologue(Range<usize>),
    Short(Range<usize>),
    Row {
        bytes: Range<usize>,
        key: Field,
        line: u64,
    },
    /// No data up to here, for nobody.
    End(usize),
}

/// A decoded field. Places count from the buffer's start.
#[derive(Debug, PartialEq)]
enum Field {
    /// The bytes are the value.
    Verbatim(Range<usize>),
    Decoded(Vec<u8>),
}

impl Field {
    fn at(self, offset: usize) -> Field {
        match self {
            Field::Verbatim(range) => Field::Verbatim(range.start + offset..range.end + offset),
            decoded => decoded,
        }
    }
}

impl CopySplit {
    /// `key_position` is the key's index among the `columns` that are copied.
    pub fn new(format: &CopyFormat, key_position: usize, columns: usize, copy_row_bytes_max: usize) -> CopySplit {
        let format = match format.clone() {
            CopyFormat::Text { delimiter, null } => {
                Format::Text { scanner: LineScanner::text(), delimiter, null: null.into_bytes() }
            }
            CopyFormat::Csv { delimiter, quote, escape, null, header } => Format::Csv {
                scanner: LineScanner::csv(quote, escape),
                delimiter,
                quote,
                escape,
                null: null.into_bytes(),
                header_follows: header,
            },
            CopyFormat::Binary => Format::Binary(BinaryScanner::default()),
        };
        let (buffer, consumed, input_ended) = (BytesMut::new(), 0, false);
        CopySplit { format, key_position, columns, copy_row_bytes_max, buffer, consumed, input_ended, refused: None }
    }

    /// Adds a CopyData's bytes. Take all pieces out before the next one, so that at most one row waits here.
    pub fn feed(&mut self, data: &[u8]) {
        self.buffer.advance(std::mem::take(&mut self.consumed));
        self.buffer.extend_from_slice(data);
    }

    /// CopyDone: what is left is the last row.
    pub fn finish(&mut self) {
        self.input_ended = true;
    }

    /// The next whole piece; None if more must be fed, or, after [`CopySplit::finish`], if this was all.
    pub fn next_piece(&mut self) -> Result<Option<Piece<'_>>, MergeError> {
        let found = loop {
            match self.find()? {
                None => return Ok(None),
                Some(Found::End(end)) => self.consumed = end,
                Some(found) => break found,
            }
        };
        let buffer = &self.buffer[..];
        Ok(Some(match found {
            Found::Prologue(bytes) => {
                self.consumed = bytes.end;
                Piece::Prologue(&buffer[bytes])
            }
            Found::Short(bytes) => {
                self.consumed = bytes.end;
                Piece::Short(&buffer[bytes])
            }
            Found::Row { bytes, key, line } => {
                self.consumed = bytes.end;
                self.refused = Some(bytes.clone());
                let not_utf8 = |_| MergeError::KeyNotUtf8 { line };
                let key = match (&self.format, key) {
                    (Format::Binary(_), Field::Verbatim(range)) => CopyKey::Binary(&buffer[range]),
                    (_, Field::Verbatim(range)) => {
                        CopyKey::Text(std::str::from_utf8(&buffer[range]).map_err(not_utf8)?.into())
                    }
                    (_, Field::Decoded(value)) => {
                        CopyKey::Text(String::from_utf8(value).map_err(|_| MergeError::KeyNotUtf8 { line })?.into())
                    }
                };
                self.refused = None;
                Piece::Row(CopyRow { bytes: &buffer[bytes], key, line })
            }
            Found::End(_) => return Ok(None),
        }))
    }

    /// After an error of [`CopySplit::next_piece`]: the whole row that it is about, if a shard can say it in PostgreSQL's words.
    pub fn refused(&self) -> Option<&[u8]> {
        self.refused.clone().map(|row| &self.buffer[row])
    }

    /// The line that the last piece ended with, from 1 with the header line; in the binary format, the row.
    pub fn line(&self) -> u64 {
        match &self.format {
            Format::Text { scanner, .. } | Format::Csv { scanner, .. } => scanner.number(),
            Format::Binary(scanner) => scanner.rows(),
        }
    }

    /// The line that PostgreSQL would be reading now, once it reads lines.
    pub fn reading(&self) -> Option<u64> {
        match &self.format {
            Format::Text { scanner, .. } | Format::Csv { scanner, .. } => Some(scanner.reading()),
            Format::Binary(scanner) => scanner.reading(),
        }
    }

    /// For every shard, after its last row.
    pub fn epilogue(&self) -> &'static [u8] {
        match self.format {
            Format::Binary(_) => &binary::TRAILER,
            Format::Text { .. } | Format::Csv { .. } => b"",
        }
    }

    fn find(&mut self) -> Result<Option<Found>, MergeError> {
        let start = self.consumed;
        let rest = &self.buffer[start..];
        let (row_bytes_max, ended) = (self.copy_row_bytes_max, self.input_ended);
        let (line, number) = match &mut self.format {
            Format::Binary(scanner) => {
                let found = scanner.find(rest, start, self.key_position, row_bytes_max, ended);
                self.refused = scanner.refused().filter(|_| found.is_err()).map(|length| start..start + length);
                return found;
            }
            Format::Text { scanner, .. } | Format::Csv { scanner, .. } => {
                (scanner.find(rest, row_bytes_max, ended)?, scanner.number())
            }
        };
        let Some(Line { content, bytes, is_row }) = line else {
            return Ok(None);
        };
        if !is_row {
            return Ok(Some(Found::End(start + bytes)));
        }
        let content = &rest[..content];
        let key = match &mut self.format {
            Format::Text { delimiter, null, .. } => text::field(content, *delimiter, null, self.key_position),
            Format::Csv { header_follows: header_follows @ true, .. } => {
                *header_follows = false;
                return Ok(Some(Found::Prologue(start..start + bytes)));
            }
            Format::Csv { delimiter, quote, escape, null, .. } => {
                csv::field(content, *delimiter, *quote, *escape, null, self.key_position)
            }
            Format::Binary(_) => return Ok(None),
        };
        let key = match key {
            Ok(key) => key,
            Err(NoKey::UnterminatedQuote) => {
                self.refused = Some(start..start + bytes);
                return Err(NoKey::UnterminatedQuote.on_line(number));
            }
            Err(fault) => {
                // The last field is there as soon as it has a beginning.
                let last = self.columns.saturating_sub(1);
                let last = match &self.format {
                    Format::Text { delimiter, null, .. } => text::field(content, *delimiter, null, last),
                    Format::Csv { delimiter, quote, escape, null, .. } => {
                        csv::field(content, *delimiter, *quote, *escape, null, last)
                    }
                    Format::Binary(_) => return Ok(None),
                };
                return match last {
                    Err(NoKey::Missing) => Ok(Some(Found::Short(start..start + bytes))),
                    _ => {
                        self.refused = Some(start..start + bytes);
                        Err(fault.on_line(number))
                    }
                };
            }
        };
        Ok(Some(Found::Row { bytes: start..start + bytes, key: key.at(start), line: number }))
    }
}

/// Why a row has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoKey {
    Null,
    Missing,
    UnterminatedQuote,
}

impl NoKey {
    fn on_line(self, line: u64) -> MergeError {
        let bad = |message| MergeError::BadCopy { line, message, hint: None };
        match self {
            NoKey::Null => MergeError::NullKey { line },
            NoKey::Missing => bad("missing data for the column that is the shard key"),
            NoKey::UnterminatedQuote => bad("unterminated CSV quoted field"),
        }
    }
}

#[cfg(test)]
mod tests;
