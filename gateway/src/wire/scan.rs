//! Skimming what a server sends: rows pass as runs of bytes, everything else ("control") is reported message by message.
//!
//! Only headers are looked at, nothing is copied, and a row that is cut over several reads passes piece by piece, so a
//! row of any size needs no memory here.

use bytes::BytesMut;

use super::frame::{Frame, FrameHeader, HEADER_BYTES};
use super::{tag, WireError};

/// Where the scanner stands between reads: how much of a cut row is still to come.
#[derive(Debug)]
pub struct FrameScanner {
    frame_bytes_max: usize,
    row_bytes_left: usize,
}

/// What the first bytes of the scanned slice are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The first `bytes` bytes belong to DataRow or CopyData messages; `rows` of these messages begin in them. They may
    /// begin and end within a message.
    Rows { bytes: usize, rows: u64 },
    /// The first `len` bytes are one whole message of another kind.
    Control(FrameHeader),
    /// More must be read first.
    Incomplete,
}

/// What [`FrameScanner::next`] split off.
#[derive(Debug)]
pub enum Scanned {
    /// See [`Span::Rows`].
    Rows { bytes: BytesMut, rows: u64 },
    /// A whole message of another kind.
    Control(Frame),
}

impl FrameScanner {
    /// `frame_bytes_max` bounds control messages, which are held until they are whole; rows are not held.
    pub fn new(frame_bytes_max: usize) -> Self {
        FrameScanner { frame_bytes_max, row_bytes_left: 0 }
    }

    /// Whether the last span ended within a row: until it has passed whole, nothing else may be put in the stream.
    pub fn is_within_row(&self) -> bool {
        self.row_bytes_left > 0
    }

    /// Looks at the first bytes of `buf`. Whatever span is returned counts as consumed: the next call must be given
    /// what follows it.
    ///
    /// Errors: lengths that are none, control messages above the bound.
    pub fn scan(&mut self, buf: &[u8]) -> Result<Span, WireError> {
        let mut bytes = self.row_bytes_left.min(buf.len());
        self.row_bytes_left -= bytes;
        let mut rows = 0;
        while self.row_bytes_left == 0 {
            let header = match FrameHeader::peek(&buf[bytes..]) {
                Ok(Some(header)) => header,
                // Rows before a bad header still pass; the next call reports it.
                Err(error) if bytes == 0 => return Err(error),
                Ok(None) | Err(_) => break,
            };
            if !matches!(header.tag, tag::server::DATA_ROW | tag::server::COPY_DATA) {
                if bytes == 0 {
                    let header = header.check(self.frame_bytes_max)?;
                    return Ok(if buf.len() < header.len { Span::Incomplete } else { Span::Control(header) });
                }
                break;
            }
            let here = header.len.min(buf.len() - bytes);
            bytes += here;
            rows += 1;
            self.row_bytes_left = header.len - here;
        }
        Ok(if bytes == 0 { Span::Incomplete } else { Span::Rows { bytes, rows } })
    }

    /// Splits the next span off `buf` without copying; `None` if more must be read first.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Scanned>, WireError> {
        Ok(match self.scan(buf)? {
            Span::Incomplete => None,
            Span::Rows { bytes, rows } => Some(Scanned::Rows { bytes: buf.split_to(bytes), rows }),
            Span::Control(header) => {
                debug_assert!(header.len >= HEADER_BYTES);
                Some(Scanned::Control(Frame::new(buf.split_to(header.len).freeze())?))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend;
    use crate::wire::TxStatus;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn answer(rng: &mut StdRng) -> (BytesMut, u64, Vec<u8>) {
        let mut bytes = BytesMut::new();
        let (mut rows, mut controls) = (0, Vec::new());
        for _ in 0..rng.random_range(0..20) {
            match rng.random_range(0..5) {
                0 => {
                    backend::command_complete(&mut bytes, "SELECT 1");
                    controls.push(b'C');
                }
                1 => {
                    backend::ready_for_query(&mut bytes, TxStatus::Idle);
                    controls.push(b'Z');
                }
                2 => {
                    backend::copy_data(&mut bytes, b"a\tb\n");
                    rows += 1;
                }
                _ => {
                    let value = vec![b'Z'; rng.random_range(0..50)];
                    backend::data_row(&mut bytes, [Some(&value), None]);
                    rows += 1;
                }
            }
        }
        (bytes, rows, controls)
    }

    #[test]
    fn every_way_to_cut_a_stream_gives_the_same_messages() {
        let mut rng = StdRng::seed_from_u64(1);
        for case in 0..2000 {
            let (stream, rows, controls) = answer(&mut rng);
            let mut scanner = FrameScanner::new(1000);
            let (mut buf, mut out) = (BytesMut::new(), BytesMut::new());
            let (mut seen_rows, mut seen_controls, mut at) = (0, Vec::new(), 0);
            while at < stream.len() {
                let end = rng.random_range(at + 1..=stream.len().min(at + 40));
                buf.extend_from_slice(&stream[at..end]);
                at = end;
                while let Some(scanned) = scanner.next(&mut buf).unwrap() {
                    match scanned {
                        Scanned::Rows { bytes, rows } => {
                            assert!(!bytes.is_empty());
                            out.extend_from_slice(&bytes);
                            seen_rows += rows;
                        }
                        Scanned::Control(frame) => {
                            assert!(!scanner.is_within_row());
                            seen_controls.push(frame.tag());
                            out.extend_from_slice(frame.bytes());
                        }
                    }
                }
                assert!(buf.len() < 40, "case {case}: rows must not pile up");
            }
            assert_eq!((out, seen_rows, seen_controls), (stream, rows, controls), "case {case}");
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn a_run_of_rows_is_one_span() {
        let mut buf = BytesMut::new();
        for _ in 0..100 {
            backend::data_row(&mut buf, [Some("x")]);
        }
        let rows_bytes = buf.len();
        backend::command_complete(&mut buf, "SELECT 100");
        let mut scanner = FrameScanner::new(1000);
        assert_eq!(scanner.scan(&buf), Ok(Span::Rows { bytes: rows_bytes, rows: 100 }));
        assert!(matches!(scanner.scan(&buf[rows_bytes..]), Ok(Span::Control(FrameHeader { tag: b'C', .. }))));
    }

    #[test]
    fn a_huge_row_passes_and_a_huge_control_message_does_not() {
        let mut scanner = FrameScanner::new(1000);
        assert_eq!(scanner.scan(b"D\x40\x00\x00\x00\x00\x01"), Ok(Span::Rows { bytes: 7, rows: 1 }));
        assert!(scanner.is_within_row());
        assert_eq!(scanner.scan(b"ZZZZZZZZ"), Ok(Span::Rows { bytes: 8, rows: 0 }));
        let mut scanner = FrameScanner::new(1000);
        assert!(matches!(scanner.scan(b"T\x40\x00\x00\x00\x00\x01"), Err(WireError::FrameTooLong { tag: b'T', .. })));
    }
}
