//! Parameters of Bind become shard keys: every type, both formats, single values and arrays.

use ringway_gateway::plan::route::{evaluate, Parameter};
use ringway_gateway::plan::types::KeyExpression;
use ringway_gateway::wire::frontend::{Bind, Execute, Parse};
use ringway_gateway::wire::Format;
use ringway_topology::token::{KeyType, KeyValue};

/// Types that parameters are declared with: none, the key types, an array of some, and one that is no key.
const OIDS: [u32; 20] =
    [0, 21, 23, 20, 25, 1043, 1042, 2950, 17, 1082, 1114, 1184, 1700, 1007, 1016, 1009, 1231, 2951, 114, 705];

pub fn check(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let _ = (Parse::parse(body).map(|parse| parse.type_oids().count()), Execute::parse(body));
    if let Ok(bind) = Bind::parse(body) {
        let parameters: Vec<_> = bind
            .parameters
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let type_oid = OIDS[(usize::from(*choice) + index) % OIDS.len()];
                Parameter { type_oid, format: bind.parameter_formats.get(index), value }
            })
            .collect();
        let key_type = KeyType::ALL[usize::from(*choice) % KeyType::ALL.len()];
        // Linear in the message: keys are few.
        for index in 0..parameters.len().min(4) {
            keys(&parameters, index, key_type);
        }
    }
    // The bytes as one value.
    for format in [Format::Text, Format::Binary] {
        let key_type = KeyType::ALL[usize::from(*choice / 16) % KeyType::ALL.len()];
        for type_oid in [0, OIDS[usize::from(*choice) % OIDS.len()]] {
            keys(&[Parameter { type_oid, format, value: Some(body) }], 0, key_type);
        }
    }
}

fn keys(parameters: &[Parameter<'_>], index: usize, key_type: KeyType) {
    let single = KeyExpression::Parameter { index, key_type, typmod: -1 };
    let key = evaluate(&single, parameters);
    let stored = evaluate(&KeyExpression::Parameter { index, key_type, typmod: 12 }, parameters);
    if let (Ok(key), Ok(stored)) = (&key, &stored) {
        assert_eq!(key, stored, "storing does not change a key that is routed");
    }
    let _ = evaluate(&KeyExpression::ParameterArray { index, key_type }, parameters);
    let Some(value) = parameters[index].value else {
        assert_eq!(key.ok().flatten(), None, "NULL has no key");
        return;
    };
    if let (Ok(Some(key)), 0) = (key, parameters[index].type_oid) {
        let direct = match parameters[index].format {
            Format::Binary => KeyValue::from_binary(key_type, value),
            Format::Text | Format::Other(_) => std::str::from_utf8(value)
                .map_or_else(|_| KeyValue::from_binary(KeyType::Int2, &[]), |text| KeyValue::from_text(key_type, text)),
        };
        // A parameter of no declared type is the column's.
        assert_eq!(direct.map(|direct| direct.token()), Ok(key.token()));
    }
}
