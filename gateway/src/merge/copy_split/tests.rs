use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const ROW_BYTES_MAX: usize = 200;

fn text_format() -> CopyFormat {
    CopyFormat::Text { delimiter: b'\t', null: "\\N".to_owned() }
}

fn csv_format(header: bool) -> CopyFormat {
    CopyFormat::Csv { delimiter: b',', quote: b'"', escape: b'"', null: String::new(), header }
}

/// Everything that comes out, in an owned form.
#[derive(Debug, Default, PartialEq)]
struct Pieces {
    prologue: Vec<u8>,
    rows: Vec<(Vec<u8>, Vec<u8>, u64)>,
    short: Vec<Vec<u8>>,
}

fn drain(split: &mut CopySplit, pieces: &mut Pieces) -> Result<(), MergeError> {
    while let Some(piece) = split.next_piece()? {
        match piece {
            Piece::Prologue(bytes) => pieces.prologue.extend_from_slice(bytes),
            Piece::Short(bytes) => pieces.short.push(bytes.to_vec()),
            Piece::Row(CopyRow { bytes, key, line }) => {
                let key = match key {
                    CopyKey::Text(text) => text.as_bytes().to_vec(),
                    CopyKey::Binary(bytes) => bytes.to_vec(),
                };
                pieces.rows.push((bytes.to_vec(), key, line));
            }
        }
    }
    Ok(())
}

fn run(format: &CopyFormat, key: usize, chunks: &[&[u8]]) -> Result<Pieces, MergeError> {
    // The key is the last column.
    let mut split = CopySplit::new(format, key, key + 1, ROW_BYTES_MAX);
    let mut pieces = Pieces::default();
    for chunk in chunks {
        split.feed(chunk);
        drain(&mut split, &mut pieces)?;
    }
    split.finish();
    drain(&mut split, &mut pieces)?;
    Ok(pieces)
}

/// The same whole, byte by byte, and cut at random.
fn run_all_ways(format: &CopyFormat, key: usize, input: &[u8]) -> Result<Pieces, MergeError> {
    let whole = run(format, key, &[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(format, key, &bytes), whole, "byte by byte: {:?}", String::from_utf8_lossy(input));
    let mut random = StdRng::seed_from_u64(input.len() as u64);
    for _ in 0..20 {
        let mut rest = input;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(random.random_range(0..=rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        assert_eq!(run(format, key, &chunks), whole, "cut: {:?}", String::from_utf8_lossy(input));
    }
    whole
}

fn rows(format: &CopyFormat, key: usize, input: &str) -> Vec<(String, String, u64)> {
    let pieces = run_all_ways(format, key, input.as_bytes()).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    pieces.rows.into_iter().map(|(row, key, line)| (text(row), text(key), line)).collect()
}

fn owned(rows: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
    rows.iter().map(|(row, key, line)| (row.to_string(), key.to_string(), *line)).collect()
}

fn failure(format: &CopyFormat, key: usize, input: &[u8]) -> MergeError {
    run_all_ways(format, key, input).unwrap_err()
}

#[test]
fn lines_of_text() {
    for (input, expected) in [
        ("1\ta\n2\tb\n", &[("1\ta\n", "1", 1), ("2\tb\n", "2", 2)][..]),
        ("1\ta\n2\tb", &[("1\ta\n", "1", 1), ("2\tb", "2", 2)]),
        ("1\ta\r\n2\tb\r\n", &[("1\ta\r\n", "1", 1), ("2\tb\r\n", "2", 2)]),
        ("1\ta\r2\tb\r", &[("1\ta\r", "1", 1), ("2\tb\r", "2", 2)]),
        ("1\ta\\\nb\n2\tx\n", &[("1\ta\\\nb\n", "1", 1), ("2\tx\n", "2", 2)]),
        ("1\\\n2\tx\n", &[("1\\\n2\tx\n", "1\n2", 1)]),
        ("1\n\n", &[("1\n", "1", 1), ("\n", "", 2)]),
        ("", &[]),
        ("1\n\\.\n3\n", &[("1\n", "1", 1)]),
        ("1\r\n\\.\r\n3", &[("1\r\n", "1", 1)]),
        ("1\n2\\.\n3\n", &[("1\n", "1", 1), ("2\\.\n", "2", 2)]),
        ("1\\\\.\n2\n", &[("1\\\\.\n", "1\\.", 1), ("2\n", "2", 2)]),
        ("\\.\n", &[]),
    ] {
        assert_eq!(rows(&text_format(), 0, input), owned(expected), "{input:?}");
    }
}

#[test]
fn records_of_csv() {
    for (input, expected) in [
        ("1,a\n2,b\n", &[("1,a\n", "1", 1), ("2,b\n", "2", 2)][..]),
        ("\"1\n1\",a\n2,b\n", &[("\"1\n1\",a\n", "1\n1", 1), ("2,b\n", "2", 2)]),
        ("1,a\n\"2\n2\",b\n3,c\n", &[("1,a\n", "1", 1), ("\"2\n2\",b\n", "2\n2", 3), ("3,c\n", "3", 4)]),
        ("1,\"a\"\"\n\"\r\n2,b\r\n", &[("1,\"a\"\"\n\"\r\n", "1", 1), ("2,b\r\n", "2", 2)]),
        ("1\r2\r", &[("1\r", "1", 1), ("2\r", "2", 2)]),
        ("1,a\\.\n\\.x,b\n", &[("1,a\\.\n", "1", 1), ("\\.x,b\n", "\\.x", 2)]),
        ("1,a\n\\.\n", &[("1,a\n", "1", 1)]),
        ("1,a\n\"\\.\",\n", &[("1,a\n", "1", 1), ("\"\\.\",\n", "\\.", 2)]),
        ("1,a\n\\", &[("1,a\n", "1", 1), ("\\", "\\", 2)]),
    ] {
        assert_eq!(rows(&csv_format(false), 0, input), owned(expected), "{input:?}");
    }
    let error = failure(&csv_format(false), 0, b"1,a\n\\.\n2,b\n");
    assert_eq!((error.code().as_str(), error.copy_line()), ("0A000", Some(3)));
}

#[test]
fn a_header_line_is_for_every_shard() {
    let pieces = run_all_ways(&csv_format(true), 0, b"id,\"na\nme\"\n1,a\n").unwrap();
    assert_eq!(pieces.prologue, b"id,\"na\nme\"\n");
    assert_eq!(pieces.rows, [(b"1,a\n".to_vec(), b"1".to_vec(), 2)]);
    assert_eq!(run_all_ways(&csv_format(true), 0, b"").unwrap(), Pieces::default());
}

/// A shard says what is missing, unless the line is whole and its key is NULL.
#[test]
fn lines_with_too_few_fields_are_for_any_shard() {
    for (format, key, columns, input, expected) in [
        (text_format(), 1, 2, "1\ta\n2\n", Ok("2\n")),
        (text_format(), 0, 2, "1\ta\n\\N\n", Ok("\\N\n")),
        (text_format(), 0, 2, "1\ta\n\\N\tb\n", Err(2)),
        (csv_format(false), 0, 2, "3041,a\n\n", Ok("\n")),
        (csv_format(false), 1, 3, "a,3041,c\na\n", Ok("a\n")),
        (csv_format(false), 1, 3, "a,3041,c\na,\n", Ok("a,\n")),
        (csv_format(false), 1, 3, "a,3041,c\na,,\n", Err(2)),
        (csv_format(false), 0, 1, "3041\n\n", Err(2)),
    ] {
        let mut split = CopySplit::new(&format, key, columns, ROW_BYTES_MAX);
        let mut pieces = Pieces::default();
        split.feed(input.as_bytes());
        let drained = drain(&mut split, &mut pieces);
        assert_eq!(pieces.rows.len(), 1, "{input:?}");
        match expected {
            Ok(short) => {
                assert_eq!(drained, Ok(()), "{input:?}");
                assert_eq!(pieces.short, [short.as_bytes()], "{input:?}");
            }
            Err(line) => assert_eq!(drained, Err(MergeError::NullKey { line }), "{input:?}"),
        }
    }
}

#[test]
fn errors_tell_the_line() {
    let text = text_format();
    let csv = csv_format(false);
    for (format, key, input, code, line) in [
        (&text, 0, &b"1\n\\N\tx\n"[..], "23502", 2),
        (&text, 0, b"1\n2\r\n", "22P04", 2),
        (&text, 0, b"1\r\n2\n", "22P04", 2),
        (&text, 0, b"1\r2\n", "22P04", 2),
        (&text, 0, b"1\r\n2\rx", "22P04", 2),
        (&text, 0, b"1\n\\.x", "22P04", 2),
        (&text, 0, b"1\n\\.", "22P04", 2),
        (&text, 0, b"1\n\\.\r\n", "22P04", 2),
        (&text, 0, b"1\r\n\\.\n", "22P04", 2),
        (&text, 0, b"1\n\xff\tx\n", "22021", 2),
        (&text, 0, b"\\xff\tx\n", "22021", 1),
        (&csv, 0, b"1\n,2\n", "23502", 2),
        (&csv, 1, b"1,\"2\n", "22P04", 1),
        (&csv, 0, b"1\n2\r\n", "22P04", 2),
    ] {
        let error = failure(format, key, input);
        assert_eq!(
            (error.code().as_str(), error.copy_line()),
            (code, Some(line)),
            "{:?}",
            String::from_utf8_lossy(input)
        );
    }
    let error = failure(&text, 0, b"\\N\n").of_copy("orders");
    assert_eq!(error.context.unwrap().call_stack.unwrap(), "COPY orders, line 1");
}

#[test]
fn rows_are_bounded() {
    let long = vec![b'x'; ROW_BYTES_MAX + 1];
    for format in [text_format(), csv_format(false)] {
        let mut split = CopySplit::new(&format, 0, 1, ROW_BYTES_MAX);
        split.feed(b"1\n");
        split.feed(&long);
        assert!(matches!(split.next_piece(), Ok(Some(Piece::Row(_)))));
        let error = split.next_piece().unwrap_err();
        assert_eq!((error.code().as_str(), error.copy_line()), ("53400", Some(2)));
    }
    let mut input = SIGNATURE_AND_FLAGS.to_vec();
    input.extend_from_slice(b"\0\x01\x00\x00\x10\x00");
    assert_eq!(failure(&CopyFormat::Binary, 0, &input).code().as_str(), "53400");
}

const SIGNATURE_AND_FLAGS: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

fn binary_row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut row = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        row.extend_from_slice(&field.map_or(-1, |field| field.len() as i32).to_be_bytes());
        row.extend_from_slice(field.unwrap_or_default());
    }
    row
}

#[test]
fn rows_of_the_binary_format() {
    let first = binary_row(&[Some(b"a"), Some(&7i64.to_be_bytes()), None]);
    let second = binary_row(&[None, Some(&8i64.to_be_bytes()), Some(b"")]);
    let mut input = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03ext".to_vec();
    let header = input.clone();
    input.extend_from_slice(&first);
    input.extend_from_slice(&second);
    let expected = Pieces {
        prologue: header.clone(),
        rows: vec![(first, 7i64.to_be_bytes().to_vec(), 1), (second, 8i64.to_be_bytes().to_vec(), 2)],
        ..Pieces::default()
    };
    assert_eq!(run_all_ways(&CopyFormat::Binary, 1, &input).unwrap(), expected, "without a trailer");
    input.extend_from_slice(&binary::TRAILER);
    assert_eq!(run_all_ways(&CopyFormat::Binary, 1, &input).unwrap(), expected);

    assert_eq!(failure(&CopyFormat::Binary, 0, &input).code().as_str(), "23502");
    assert_eq!(failure(&CopyFormat::Binary, 3, &input).code().as_str(), "22P04");
    input.push(0);
    assert_eq!(failure(&CopyFormat::Binary, 1, &input).to_string(), "received copy data after EOF marker");
    for end in [0, 5, 11, 18, 21, header.len() + 1, header.len() + 9] {
        let error = failure(&CopyFormat::Binary, 1, &input[..end]);
        assert_eq!(error.code().as_str(), "22P04", "{end} bytes");
    }
    assert_eq!(failure(&CopyFormat::Binary, 0, b"1\ta\n").to_string(), "COPY file signature not recognized");
}

#[test]
fn keys_are_read_as_their_type() {
    let mut split = CopySplit::new(&text_format(), 0, 1, ROW_BYTES_MAX);
    split.feed(b"\\x34\\62\nx\n");
    let Some(Piece::Row(row)) = split.next_piece().unwrap() else { panic!("no row") };
    assert_eq!(row.key_value(KeyType::Int8), Ok(KeyValue::Int(42)));
    let Some(Piece::Row(row)) = split.next_piece().unwrap() else { panic!("no row") };
    let error = row.key_value(KeyType::Int8).unwrap_err();
    assert_eq!((error.code().as_str(), error.copy_line()), ("22P02", Some(2)));
}

/// What COPY TO writes is read back, row for row, with any cut of the stream.
#[test]
fn random_values_survive() {
    let alphabet = ['a', 'é', ' ', '\t', '\n', '\r', '\\', '"', ',', '.', 'N', '1', '\u{8}', '\u{b}'];
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let table: Vec<[String; 3]> = (0..random.random_range(0..8))
            .map(|_| {
                std::array::from_fn(|_| {
                    (0..random.random_range(0..6)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect()
                })
            })
            .collect();
        let key = random.random_range(0..3);
        let line_end = ["\n", "\r\n", "\r"][random.random_range(0..3)];
        let written_as_text = |value: &String| {
            let mut written = String::new();
            for character in value.chars() {
                match character {
                    '\\' => written.push_str("\\\\"),
                    '\n' => written.push_str("\\n"),
                    '\r' => written.push_str("\\r"),
                    '\t' => written.push_str(if random.random() { "\\t" } else { "\\\t" }),
                    '\u{8}' => written.push_str("\\b"),
                    other => written.push(other),
                }
            }
            written
        };
        let mut written_as_text = written_as_text;
        let mut text = String::new();
        let mut csv = String::new();
        let mut expected = Vec::new();
        for row in &table {
            text.push_str(&row.iter().map(&mut written_as_text).collect::<Vec<_>>().join("\t"));
            text.push_str(line_end);
            csv.push_str(
                &row.iter().map(|value| format!("\"{}\"", value.replace('"', "\"\""))).collect::<Vec<_>>().join(","),
            );
            csv.push_str(line_end);
            expected.push(row[key].clone());
        }
        for (format, input) in [(text_format(), text), (csv_format(false), csv)] {
            let found = rows(&format, key, &input);
            let keys: Vec<&String> = found.iter().map(|(_, key, _)| key).collect();
            assert_eq!(keys, expected.iter().collect::<Vec<_>>(), "seed {seed}: {input:?}");
            let together: String = found.iter().map(|(row, _, _)| &row[..]).collect();
            assert_eq!(together, input, "seed {seed}: every byte goes somewhere");
        }
    }
}
