use super::*;

/// On this side types are 20001 and up, on the other a thousand more.
struct Table;

const MOOD: u32 = 20_001;
const MOODS: u32 = 20_002;
const PAIR: u32 = 20_003;
const PAIRS: u32 = 20_004;
const DOMAIN: u32 = 20_005;
const RANGE: u32 = 20_006;
const MULTIRANGE: u32 = 20_007;
const UNKNOWN: u32 = 30_000;

impl Oids for Table {
    fn user_type(&self, oid: u32) -> Option<Known> {
        let form = match oid {
            MOOD => Form::Plain,
            MOODS | PAIRS => Form::Array,
            PAIR => Form::Record,
            DOMAIN => Form::Domain(MOODS),
            RANGE => Form::Range(PAIR),
            MULTIRANGE => Form::Multirange(RANGE),
            _ => return None,
        };
        Some(Known { oid: oid + 1_000, form })
    }

    fn user_relation(&self, oid: u32) -> Option<u32> {
        (oid < 25_000).then_some(oid + 2_000)
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

fn array(element: u32, elements: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [u32::from(!elements.is_empty()), 0, element] {
        out.extend(number.to_be_bytes());
    }
    if !elements.is_empty() {
        out.extend((elements.len() as i32).to_be_bytes());
        out.extend(1i32.to_be_bytes());
    }
    elements.iter().for_each(|element| out.extend(self::sized(element)));
    out
}

fn record(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = (fields.len() as i32).to_be_bytes().to_vec();
    for (oid, value) in fields {
        out.extend(oid.to_be_bytes());
        out.extend(self::sized(value));
    }
    out
}

fn replaced(form: Form, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    let mut find = Walk::new(&Table, Pass::Find);
    let before = value.clone();
    find.value(form, &mut value, 0).unwrap();
    assert!(find.missing.is_empty());
    assert_eq!(value, before, "the first pass changes nothing");
    Walk::new(&Table, Pass::Replace).value(form, &mut value, 0).unwrap();
    value
}

#[test]
fn arrays_and_records_in_each_other() {
    let made = |shift: u32| {
        let moods = array(MOOD + shift, &[b"sad", b"ok"]);
        let pair = record(&[(23, &[0, 0, 0, 1]), (MOODS + shift, &moods), (DOMAIN + shift, &moods), (25, b"text")]);
        array(PAIR + shift, &[&pair, &pair])
    };
    assert_eq!(replaced(Form::Array, &made(0)), made(1_000));
    assert_eq!(replaced(Form::Array, &array(MOOD, &[])), array(MOOD + 1_000, &[]));
    assert_eq!(replaced(Form::Array, &array(23, &[&[0, 0, 0, 1]])), array(23, &[&[0, 0, 0, 1]]));
}

#[test]
fn ranges_over_composites() {
    let made = |shift: u32| {
        let bound = record(&[(MOOD + shift, b"ok")]);
        let range = [&[2u8][..], &self::sized(&bound), &self::sized(&bound)].concat();
        let multirange = [&1u32.to_be_bytes()[..], &self::sized(&range)].concat();
        (range, multirange)
    };
    assert_eq!(replaced(Form::Range(PAIR), &made(0).0), made(1_000).0);
    assert_eq!(replaced(Form::Multirange(RANGE), &made(0).1), made(1_000).1);
    assert_eq!(replaced(Form::Range(PAIR), &[1]), [1], "an empty range");
}

#[test]
fn values_that_are_oids() {
    assert_eq!(replaced(Form::Type, &MOOD.to_be_bytes()), (MOOD + 1_000).to_be_bytes());
    assert_eq!(replaced(Form::Type, &25u32.to_be_bytes()), 25u32.to_be_bytes());
    assert_eq!(replaced(Form::Relation, &20_500u32.to_be_bytes()), 22_500u32.to_be_bytes());
    let value = &mut 20_000u32.to_be_bytes();
    assert_eq!(Walk::new(&Table, Pass::Find).value(Form::Other, value, 0), Err(OidError::Untranslatable));
}

#[test]
fn rows_by_their_description() {
    let field = |name: &str, table: u32, oid: u32, format: u8| {
        let mut out = [name.as_bytes(), &[0]].concat();
        out.extend(table.to_be_bytes());
        out.extend([0, 1]);
        out.extend(oid.to_be_bytes());
        out.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, format]);
        out
    };
    let body = |types: u32, tables: u32| {
        let fields = [
            field("a", 20_100 + tables, MOOD + types, 1),
            field("é", 0, MOODS + types, 1),
            field("", 1259, PAIRS + types, 0),
        ];
        [&[0, 3][..], &fields.concat()].concat()
    };
    let mut bytes = body(0, 0);
    let described = Walk::new(&Table, Pass::Replace).row_description(&mut bytes).unwrap();
    assert_eq!(bytes, body(1_000, 2_000));
    assert!(!described.plain);
    let row = |shift: u32| {
        let values = [self::sized(b"ok"), self::sized(&array(MOOD + shift, &[b"ok"])), self::sized(b"{}")];
        [&[0, 3][..], &values.concat()].concat()
    };
    let mut bytes = row(0);
    Walk::new(&Table, Pass::Replace).row(&described.columns, &mut bytes).unwrap();
    assert_eq!(bytes, row(1_000));
}

#[test]
fn what_is_not_known_is_named_once() {
    let mut value = record(&[(UNKNOWN, b"x"), (UNKNOWN, b"y"), (2205, &26_000u32.to_be_bytes())]);
    let mut find = Walk::new(&Table, Pass::Find);
    find.value(Form::Record, &mut value, 0).unwrap();
    assert_eq!(find.missing, Missing { types: vec![UNKNOWN], relations: vec![26_000] });
}

#[test]
fn no_bytes_are_too_few() {
    let value = array(PAIR, &[&record(&[(MOODS, &array(MOOD, &[b"ok"]))])]);
    for end in 0..value.len() {
        let mut cut = value[..end].to_vec();
        // An array may end early: how many elements there are is not looked at.
        let _ = Walk::new(&Table, Pass::Replace).value(Form::Array, &mut cut, 0);
    }
    let mut nested = array(23, &[&[0]]);
    for _ in 0..100 {
        nested = record(&[(2249, &nested)]);
    }
    assert_eq!(Walk::new(&Table, Pass::Find).value(Form::Record, &mut nested, 0), Err(OidError::TooDeep));
}
