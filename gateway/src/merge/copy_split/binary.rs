//! The binary format: a file header, rows of counted fields, a trailer (`CopyReadBinaryHeader`, `NextCopyFrom`).

use super::{Field, Found, MergeError, NoKey};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER_BYTES: usize = 19;
/// A field count of -1.
pub(super) const TRAILER: [u8; 2] = (-1i16).to_be_bytes();

#[derive(Debug, Default)]
pub(super) struct BinaryScanner {
    at: Stage,
    rows: u64,
    /// Bytes of the whole row that has no key.
    refused: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Stage {
    #[default]
    Header,
    Rows,
    AfterTrailer,
}

impl BinaryScanner {
    /// Rows that have been found.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The row that is read now; None before there are rows.
    pub(super) fn reading(&self) -> Option<u64> {
        (!matches!(self.at, Stage::Header)).then_some(self.rows + 1)
    }

    /// After an error: bytes of the row that it is about, if that is whole.
    pub(super) fn refused(&self) -> Option<usize> {
        self.refused
    }

    /// `rest` begins at byte `start` of the buffer, where the last piece ended.
    pub(super) fn find(
        &mut self,
        rest: &[u8],
        start: usize,
        key_position: usize,
        row_bytes_max: usize,
        input_ended: bool,
    ) -> Result<Option<Found>, MergeError> {
        let line = self.rows + 1;
        let bad = |message| MergeError::BadCopy { line, message, hint: None };
        let too_long = |bytes: usize| match bytes > row_bytes_max {
            true => Err(MergeError::CopyRowBytes { line, bytes_max: row_bytes_max }),
            false => Ok(()),
        };
        match self.at {
            Stage::AfterTrailer if rest.is_empty() => Ok(None),
            Stage::AfterTrailer => Err(bad("received copy data after EOF marker")),
            Stage::Header => {
                let signed = rest.len().min(SIGNATURE.len());
                if rest[..signed] != SIGNATURE[..signed] || input_ended && signed < SIGNATURE.len() {
                    return Err(bad("COPY file signature not recognized"));
                }
                let length = match rest.get(HEADER_BYTES - 4..).and_then(|rest| rest.first_chunk()) {
                    None => None,
                    Some(length) => {
                        let extension = usize::try_from(i32::from_be_bytes(*length))
                            .map_err(|_| bad("invalid COPY file header (missing length)"))?;
                        too_long(HEADER_BYTES + extension)?;
                        Some(HEADER_BYTES + extension).filter(|length| *length <= rest.len())
                    }
                };
                match length {
                    Some(length) => {
                        self.at = Stage::Rows;
                        Ok(Some(Found::Prologue(start..start + length)))
                    }
                    None if input_ended => Err(bad("invalid COPY file header (wrong length)")),
                    None => Ok(None),
                }
            }
            Stage::Rows => {
                if rest.is_empty() || rest == [0xff] && !input_ended {
                    return Ok(None);
                }
                if rest.starts_with(&TRAILER) {
                    self.at = Stage::AfterTrailer;
                    return match rest.len() {
                        2 => Ok(Some(Found::End(start + 2))),
                        _ => Err(bad("received copy data after EOF marker")),
                    };
                }
                match row(rest, key_position, line, row_bytes_max)? {
                    Some((length, key)) => {
                        self.rows += 1;
                        too_long(length)?;
                        self.refused = key.is_err().then_some(length);
                        let key = key.map_err(|fault| fault.on_line(line))?;
                        Ok(Some(Found::Row { bytes: start..start + length, key: key.at(start), line }))
                    }
                    None if input_ended => Err(bad("unexpected EOF in COPY data")),
                    None => too_long(rest.len()).map(|()| None),
                }
            }
        }
    }
}

type Row = (usize, Result<Field, NoKey>);

/// Length and key of the row that `rest` begins with; None if it is not whole.
fn row(rest: &[u8], key_position: usize, line: u64, row_bytes_max: usize) -> Result<Option<Row>, MergeError> {
    let bad = |message| MergeError::BadCopy { line, message, hint: None };
    let Some(count) = rest.first_chunk() else {
        return Ok(None);
    };
    let count = usize::try_from(i16::from_be_bytes(*count)).map_err(|_| bad("row field count is negative"))?;
    let mut at = 2;
    let mut key = Err(NoKey::Missing);
    for index in 0..count {
        let Some(length) = rest.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        at += 4;
        let value = match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| bad("invalid field size"))?;
                if length > row_bytes_max {
                    return Err(MergeError::CopyRowBytes { line, bytes_max: row_bytes_max });
                }
                Some(at..at + length)
            }
        };
        at = value.as_ref().map_or(at, |value| value.end);
        if index == key_position {
            key = value.map(Field::Verbatim).ok_or(NoKey::Null);
        }
    }
    Ok((at <= rest.len()).then_some((at, key)))
}
