use super::*;

const ORDER: ValueOrder = ValueOrder { strings_by_bytes: true, iso_dates: true, exact_floats: true };

fn reader(oid: u32, format: Format) -> KeyReader {
    KeyReader::of(&field(oid, format), ORDER).unwrap()
}

fn read(reader: KeyReader, value: &[u8]) -> SortValue {
    let row = Bytes::copy_from_slice(value);
    reader.read(&row, &row).unwrap()
}

/// Ascending lists, as PostgreSQL 15 orders them; `=` in front of a value that equals the one before.
const TEXT_LISTS: &[(u32, &[&str])] = &[
    (oid::INT2, &["-32768", "-1", "0", "1", "9", "10", "32767"]),
    (oid::INT8, &["-9223372036854775808", "-10", "-9", "0", "9223372036854775807"]),
    (oid::OID, &["0", "2147483648", "4294967295"]),
    (oid::BOOL, &["f", "t"]),
    (oid::FLOAT8, &["-Infinity", "-1e+300", "-0.1", "-0", "=0", "1e-300", "0.1", "2", "10", "Infinity", "NaN", "=NaN"]),
    (oid::FLOAT4, &["-Infinity", "0.1", "1e+10", "Infinity", "NaN"]),
    (
        oid::NUMERIC,
        &[
            "-Infinity",
            "-10000",
            "-9999.9999",
            "-10",
            "-9",
            "-0.5",
            "-0.05",
            "-0.00001",
            "0",
            "=0.000",
            "0.00001",
            "0.05",
            "0.5",
            "1",
            "=1.00",
            "1.0001",
            "1.00011",
            "1.0002",
            "9.9",
            "10",
            "123456789012345678901234567890",
            "123456789012345678901234567890.5",
            "Infinity",
            "NaN",
            "=NaN",
        ],
    ),
    (
        oid::DATE,
        &[
            "-infinity",
            "4713-01-01 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1999-12-31",
            "2000-01-01",
            "12024-01-01",
            "infinity",
        ],
    ),
    (
        oid::TIMESTAMP,
        &[
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "1999-12-31 23:59:59.999999",
            "2000-01-01 00:00:00",
            "294276-12-31 23:59:59.999999",
            "infinity",
        ],
    ),
    (
        oid::TIMESTAMPTZ,
        &["2024-01-01 00:30:00+05:30", "2023-12-31 20:00:00+00", "=2023-12-31 12:00:00-08", "2024-01-01 00:00:00.1+00"],
    ),
    (oid::TIME, &["00:00:00", "00:00:00.000001", "09:00:00", "09:00:00.45", "09:00:00.5", "24:00:00"]),
    (
        oid::UUID,
        &[
            "00000000-0000-0000-0000-000000000000",
            "0a000000-0000-0000-0000-000000000000",
            "a0000000-0000-0000-0000-000000000000",
        ],
    ),
    (oid::BYTEA, &["\\x", "\\x00", "\\x0001", "\\x01", "\\x7f", "\\xff"]),
    (oid::TEXT, &["", " ", "A", "Z", "a", "aa", "z", "Ä", "ä", "日"]),
    (oid::BPCHAR, &["", "=   ", "a", "=a  ", "a b", "ab  "]),
    (oid::INTERNAL_CHAR, &["", "A", "a", "\\200", "\\377"]),
];

#[test]
fn text_values_are_in_postgresqls_order() {
    for (oid, list) in TEXT_LISTS {
        let reader = reader(*oid, Format::Text);
        let mut previous: Option<(&str, SortValue)> = None;
        for item in *list {
            let value = read(reader, item.trim_start_matches('=').as_bytes());
            if let Some((before, previous)) = &previous {
                let expected = if item.starts_with('=') { Ordering::Equal } else { Ordering::Less };
                assert_eq!(previous.compare(&value), expected, "type {oid}: {before} {item}");
                assert_eq!(value.compare(previous), expected.reverse(), "type {oid}: {item} {before}");
            }
            previous = Some((item, value));
        }
    }
}

/// What the type's send function gives for the values that the lists above have.
fn binary(oid: u32, text: &str) -> Option<Vec<u8>> {
    Some(match oid {
        oid::INT2 => text.parse::<i16>().ok()?.to_be_bytes().to_vec(),
        oid::INT8 => text.parse::<i64>().ok()?.to_be_bytes().to_vec(),
        oid::OID => text.parse::<u32>().ok()?.to_be_bytes().to_vec(),
        oid::BOOL => vec![u8::from(text == "t")],
        oid::FLOAT4 => text.parse::<f32>().ok()?.to_be_bytes().to_vec(),
        oid::FLOAT8 => text.parse::<f64>().ok()?.to_be_bytes().to_vec(),
        oid::TEXT | oid::BPCHAR => text.as_bytes().to_vec(),
        oid::UUID => match KeyValue::from_text(KeyType::Uuid, text).ok()? {
            KeyValue::Uuid(uuid) => uuid.to_vec(),
            _ => return None,
        },
        oid::BYTEA | oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ => {
            match KeyValue::from_text(KeyType::from_oid(oid)?, text).ok()? {
                KeyValue::Bytea(bytes) => bytes,
                KeyValue::Date(days) => days.to_be_bytes().to_vec(),
                KeyValue::Timestamp(micros) => micros.to_be_bytes().to_vec(),
                _ => return None,
            }
        }
        _ => return None,
    })
}

#[test]
fn both_formats_give_the_same_order() {
    let mut compared = 0;
    for (oid, list) in TEXT_LISTS {
        let values: Vec<_> = list
            .iter()
            .filter_map(|item| {
                let text = item.trim_start_matches('=');
                let in_binary = read(reader(*oid, Format::Binary), &binary(*oid, text)?);
                Some((read(reader(*oid, Format::Text), text.as_bytes()), in_binary))
            })
            .collect();
        for (text_a, binary_a) in &values {
            for (text_b, binary_b) in &values {
                assert_eq!(text_a.compare(text_b), binary_a.compare(binary_b), "type {oid}");
                compared += 1;
            }
        }
    }
    assert!(compared > 300);
}

#[test]
fn numeric_in_binary() {
    let reader = reader(oid::NUMERIC, Format::Binary);
    let value = |words: &[u16]| read(reader, &words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>());
    // 1.5, 1.50, 2, -1.5, NaN, Infinity
    let values = [
        value(&[2, 0, 0, 1, 1, 5000]),
        value(&[2, 0, 0, 2, 1, 5000]),
        value(&[1, 0, 0, 0, 2]),
        value(&[2, 0, 0x4000, 1, 1, 5000]),
        value(&[0, 0, 0xc000, 0]),
        value(&[0, 0, 0xd000, 0]),
    ];
    let order: Vec<_> = values.windows(2).map(|pair| pair[0].compare(&pair[1])).collect();
    use Ordering::{Equal, Greater, Less};
    assert_eq!(order, [Equal, Less, Greater, Less, Greater]);
}

#[test]
fn random_numerics_agree_with_their_floats() {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    let reader = reader(oid::NUMERIC, Format::Text);
    let values: Vec<(f64, SortValue)> = (0..400)
        .map(|_| {
            let scaled = random.random_range(-99_999_999i64..99_999_999) / 10i64.pow(random.random_range(0..8));
            let text = format!("{}.{:03}", scaled, random.random_range(0..1000));
            (text.parse().unwrap(), read(reader, text.as_bytes()))
        })
        .collect();
    for (float_a, a) in &values {
        for (float_b, b) in &values {
            assert_eq!(a.compare(b), float_a.partial_cmp(float_b).unwrap(), "{float_a} {float_b}");
        }
    }
}

#[test]
fn what_is_not_known_is_not_compared() {
    let known = |oid, format, order| KeyReader::of(&field(oid, format), order).is_some();
    let locale = ValueOrder { strings_by_bytes: false, ..ORDER };
    for oid in [oid::TEXT, oid::VARCHAR, oid::NAME, oid::BPCHAR] {
        assert!(known(oid, Format::Text, ORDER) && !known(oid, Format::Text, locale), "{oid}");
    }
    let german = ValueOrder { iso_dates: false, ..ORDER };
    for oid in [oid::DATE, oid::TIMESTAMP, oid::TIMESTAMPTZ] {
        assert!(known(oid, Format::Text, ORDER) && !known(oid, Format::Text, german), "{oid}");
        assert!(known(oid, Format::Binary, german));
    }
    let rounded = ValueOrder { exact_floats: false, ..ORDER };
    assert!(!known(oid::FLOAT8, Format::Text, rounded) && known(oid::FLOAT8, Format::Binary, rounded));
    assert!(!known(oid::MONEY, Format::Text, ORDER) && known(oid::MONEY, Format::Binary, ORDER));
    // interval, timetz, json, inet, an array, a type of somebody's own.
    for oid in [1186, 1266, 114, 869, 1007, 20_000] {
        assert!(!known(oid, Format::Text, ORDER) && !known(oid, Format::Binary, ORDER), "{oid}");
    }
}

#[test]
fn values_that_are_not_as_promised_are_errors() {
    for (oid, value) in [
        (oid::DATE, "31.12.2024"),
        (oid::TIMESTAMP, "Tue Dec 31 10:00:00 2024"),
        (oid::INT4, "x"),
        (oid::BOOL, "true"),
        (oid::NUMERIC, ""),
        (oid::FLOAT8, "1,5"),
    ] {
        let row = Bytes::from_static(value.as_bytes());
        let read = reader(oid, Format::Text).read(&row, &row);
        assert_eq!(read, Err(MergeError::UnreadableSortKey { type_oid: oid }), "{value}");
    }
    let row = Bytes::from_static(b"abc");
    assert!(reader(oid::INT8, Format::Binary).read(&row, &row).is_err());
    assert!(reader(oid::FLOAT8, Format::Binary).read(&row, &row).is_err());
}
