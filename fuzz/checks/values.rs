//! Values of sort columns, as shards send them: whatever they are, the order over them is one.

use std::cmp::Ordering;

use bytes::Bytes;
use ringway_gateway::merge::compare::{KeyReader, SortValue, ValueOrder};
use ringway_gateway::wire::backend::FieldDescription;
use ringway_gateway::wire::Format;
use ringway_topology::token::{Decimal, KeyType, KeyValue};

const OIDS: [u32; 22] =
    [16, 17, 18, 19, 20, 21, 23, 25, 26, 700, 701, 790, 1042, 1043, 1082, 1083, 1114, 1184, 1700, 2950, 600, 0];

/// The first byte chooses the type, the second the format; three values follow, each with its length in front.
pub fn check(data: &[u8]) {
    let [type_choice, choice, rest @ ..] = data else { return };
    let order = ValueOrder { strings_by_bytes: true, iso_dates: true, exact_floats: true };
    let field = FieldDescription {
        name: String::new(),
        table_oid: 0,
        column: 0,
        type_oid: OIDS[usize::from(*type_choice) % OIDS.len()],
        typlen: -1,
        typmod: -1,
        format: if choice & 1 == 0 { Format::Text } else { Format::Binary },
    };
    let row = Bytes::copy_from_slice(rest);
    let values = values(&row);
    if let Some(reader) = KeyReader::of(&field, order) {
        let read: Vec<SortValue> = values.iter().filter_map(|value| reader.read(&row, value).ok()).collect();
        is_an_order(&read);
    }
    let key_type = KeyType::ALL[usize::from(choice / 2) % KeyType::ALL.len()];
    let mut keys = Vec::new();
    for value in values {
        keys.extend(KeyValue::from_binary(key_type, value));
        if let Ok(text) = std::str::from_utf8(value) {
            keys.extend(KeyValue::from_text(key_type, text));
            let _ = (KeyValue::from_text_for(KeyType::Int2, key_type, text), text.parse::<f32>());
        }
    }
    for a in &keys {
        if let KeyValue::Numeric(decimal @ Decimal::Finite { .. }) = a {
            let _ = decimal.fraction_digits();
        }
        // Equal keys have equal tokens.
        assert!(keys.iter().all(|b| a != b || a.token() == b.token()));
    }
}

fn values(row: &Bytes) -> Vec<&[u8]> {
    let mut rest = &row[..];
    let mut values = Vec::new();
    while values.len() < 3 {
        let Some((length, after)) = rest.split_first() else { break };
        let (value, after) = after.split_at(after.len().min(usize::from(*length)));
        values.push(value);
        rest = after;
    }
    values
}

fn is_an_order(values: &[SortValue]) {
    for a in values {
        assert_eq!(a.compare(a), Ordering::Equal);
        for b in values {
            assert_eq!(a.compare(b), b.compare(a).reverse());
            for c in values {
                if a.compare(b).is_le() && b.compare(c).is_le() {
                    assert!(a.compare(c).is_le());
                }
            }
        }
    }
}
