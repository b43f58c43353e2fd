//! COPY FROM that is split by key: rows out are rows in, byte for byte, however the stream is cut.

use ringway_gateway::merge::copy_split::{CopyKey, CopySplit, Piece};
use ringway_gateway::merge::MergeError;
use ringway_gateway::plan::types::CopyFormat;
use ringway_topology::token::KeyType;

use super::Cuts;

const ROW_BYTES_MAX: usize = 300;

#[derive(Debug, Default, PartialEq)]
struct Pieces {
    /// All that came out, in order.
    bytes: Vec<u8>,
    prologue_bytes: usize,
    rows: Vec<(Vec<u8>, Vec<u8>, u64)>,
    short: usize,
}

/// The first byte chooses the cuts, the second the format, the third the key's column.
pub fn check(data: &[u8]) {
    let (mut cuts, rest) = Cuts::of(data);
    let [choice, position, input @ ..] = rest else { return };
    let (delimiter, null) = if choice & 8 == 0 { (b'\t', "\\N") } else { (b'|', "") };
    let format = match choice % 3 {
        0 => CopyFormat::Text { delimiter, null: null.to_owned() },
        1 => CopyFormat::Csv {
            delimiter: if choice & 8 == 0 { b',' } else { b';' },
            quote: if choice & 16 == 0 { b'"' } else { b'\'' },
            escape: if choice & 32 == 0 { b'"' } else { b'\\' },
            null: String::new(),
            header: choice & 64 != 0,
        },
        _ => CopyFormat::Binary,
    };
    let key = usize::from(position % 3);
    let columns = key + 1 + usize::from(position / 3 % 3);
    let split = || CopySplit::new(&format, key, columns, ROW_BYTES_MAX);
    let whole = run(split(), input, |rest| std::mem::take(rest));
    let cut = run(split(), input, |rest| cuts.next(rest));
    match (&cut, &whole) {
        // How far a row that is too long has been looked at depends on how it came.
        (Err(MergeError::CopyRowBytes { .. }), other) | (other, Err(MergeError::CopyRowBytes { .. })) => {
            assert!(other.is_err());
        }
        _ => assert_eq!(cut, whole),
    }
    if let Ok(pieces) = whole {
        check_whole(&pieces, &format, input);
    }
}

fn check_whole(pieces: &Pieces, format: &CopyFormat, input: &[u8]) {
    assert!(input.starts_with(&pieces.bytes), "bytes are passed on as they came");
    let rest = &input[pieces.bytes.len()..];
    match format {
        // Behind the marker of the end, which the last row may have on its line, or the trailer, nothing counts.
        CopyFormat::Text { .. } | CopyFormat::Csv { .. } => {
            let last = pieces.bytes.rsplitn(3, |byte| matches!(byte, b'\n' | b'\r')).collect::<Vec<_>>();
            let marked = last.iter().any(|line| line.windows(2).any(|pair| pair == b"\\."));
            assert!(rest.is_empty() || rest.starts_with(b"\\.") || marked);
        }
        CopyFormat::Binary => assert!(rest.is_empty() || rest.starts_with(&[0xff, 0xff])),
    }
    let simple = !input.contains(&b'\r') && !input.windows(2).any(|pair| pair == b"\\.");
    if let (CopyFormat::Text { .. }, true) = (format, simple) {
        // Lines that end with a newline that no backslash stands before.
        let (mut lines, mut escaped, mut open) = (0, false, false);
        for byte in input {
            match byte {
                b'\n' if !escaped => (lines, open) = (lines + 1, false),
                byte => (escaped, open) = (*byte == b'\\' && !escaped, true),
            }
        }
        assert_eq!(pieces.rows.len() + pieces.short, lines + usize::from(open));
    }
}

fn run<'a>(
    mut split: CopySplit,
    mut rest: &'a [u8],
    mut piece: impl FnMut(&mut &'a [u8]) -> &'a [u8],
) -> Result<Pieces, MergeError> {
    let mut pieces = Pieces::default();
    while !rest.is_empty() {
        split.feed(piece(&mut rest));
        drain(&mut split, &mut pieces)?;
    }
    split.finish();
    drain(&mut split, &mut pieces)?;
    Ok(pieces)
}

fn drain(split: &mut CopySplit, pieces: &mut Pieces) -> Result<(), MergeError> {
    while let Some(piece) = split.next_piece()? {
        match piece {
            Piece::Prologue(bytes) => {
                pieces.prologue_bytes += bytes.len();
                pieces.bytes.extend_from_slice(bytes);
            }
            Piece::Short(bytes) => {
                pieces.short += 1;
                pieces.bytes.extend_from_slice(bytes);
            }
            Piece::Row(row) => {
                assert!(!row.bytes.is_empty());
                for key_type in [KeyType::Int8, KeyType::Text, KeyType::Numeric] {
                    let _ = row.key_value(key_type).map(|key| key.token());
                }
                pieces.bytes.extend_from_slice(row.bytes);
                let key = match &row.key {
                    CopyKey::Text(text) => text.as_bytes().to_vec(),
                    CopyKey::Binary(bytes) => bytes.to_vec(),
                };
                pieces.rows.push((row.bytes.to_vec(), key, row.line));
            }
        }
    }
    Ok(())
}
