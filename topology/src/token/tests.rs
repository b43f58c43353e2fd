use super::*;

#[test]
fn integers_have_one_token_whatever_their_width() {
    for value in [0i16, 1, -1, 42, i16::MIN, i16::MAX] {
        let tokens = [KeyType::Int2, KeyType::Int4, KeyType::Int8]
            .map(|key_type| KeyValue::from_text(key_type, &value.to_string()).unwrap().token());
        assert_eq!(tokens, [token_of_int(value.into()); 3]);
    }
    assert_eq!(KeyValue::from_text_for(KeyType::Int8, KeyType::Int2, "70000"), Ok(KeyValue::Int(70_000)));
    assert_eq!(KeyValue::from_binary_for(KeyType::Int2, KeyType::Int8, &[255, 254]), Ok(KeyValue::Int(-2)));
}

#[test]
fn a_parameter_of_another_type_is_read_for_the_column_or_refused() {
    let bpchar = KeyValue::Bpchar("ab".to_owned());
    assert_eq!(KeyValue::from_text_for(KeyType::Varchar, KeyType::Bpchar, "ab "), Ok(bpchar));
    let text = KeyValue::Text("ab ".to_owned());
    assert_eq!(KeyValue::from_binary_for(KeyType::Varchar, KeyType::Text, b"ab "), Ok(text));
    for (parameter, column) in [
        (KeyType::Bpchar, KeyType::Text),
        (KeyType::Numeric, KeyType::Int8),
        (KeyType::Date, KeyType::Timestamp),
        (KeyType::Timestamp, KeyType::Timestamptz),
        (KeyType::Text, KeyType::Uuid),
    ] {
        let error = KeyValue::from_text_for(parameter, column, "1").unwrap_err();
        assert!(matches!(error, KeyError::Unsupported { .. }), "{error}");
    }
}

#[test]
fn free_functions_agree_with_values() {
    assert_eq!(token_of_text("abc".as_bytes()), KeyValue::Text("abc".to_owned()).token());
    assert_eq!(token_of_text(b"abc"), KeyValue::Bytea(b"abc".to_vec()).token());
    assert_eq!(token_of_uuid(&[7; 16]), KeyValue::Uuid([7; 16]).token());
    assert_eq!(token_sql("t.id"), "ringway.token(t.id)");
}

#[test]
fn what_the_server_refuses_is_invalid() {
    for (key_type, text) in [
        (KeyType::Int2, "32768"),
        (KeyType::Int4, "-2147483649"),
        (KeyType::Int8, "9223372036854775808"),
        (KeyType::Int8, ""),
        (KeyType::Int8, "+-1"),
        (KeyType::Int8, "1.5"),
        (KeyType::Int8, "book"),
        (KeyType::Uuid, "a0eebc99"),
        (KeyType::Bytea, "\\xf"),
        (KeyType::Text, "a\0"),
        (KeyType::Date, "2023-02-29"),
        (KeyType::Date, "2024-13-01"),
        (KeyType::Date, "0000-01-01"),
        (KeyType::Date, "5874898-01-01"),
        (KeyType::Timestamp, "2024-01-01 24:00:01"),
        (KeyType::Timestamp, "2024-01-01 10:60:00"),
        (KeyType::Timestamp, "4714-11-23 23:59:59 BC"),
        (KeyType::Timestamp, "294276-12-31 23:59:59.9999999"),
        (KeyType::Timestamp, "2024-01-01 10:00:00+16"),
        (KeyType::Timestamptz, "2024-01-01 10:00:00+00:60"),
        (KeyType::Numeric, "one"),
    ] {
        let error = KeyValue::from_text(key_type, text).unwrap_err();
        assert!(matches!(error, KeyError::Invalid { .. }), "{key_type} {text:?}: {error}");
    }
    for key_type in KeyType::ALL.into_iter().filter(|key_type| *key_type != KeyType::Bytea) {
        assert!(KeyValue::from_binary(key_type, &[0xff; 3]).is_err(), "{key_type}");
    }
    let beyond = KeyValue::from_binary(KeyType::Timestamptz, &(i64::MAX - 1).to_be_bytes());
    assert!(matches!(beyond, Err(KeyError::Invalid { .. })));
}

#[test]
fn what_depends_on_settings_or_version_is_unsupported() {
    for (key_type, text) in [
        (KeyType::Int4, "0x10"),
        (KeyType::Int4, "1_000"),
        (KeyType::Int4, "1\u{a0}"),
        (KeyType::Date, "01/02/2024"),
        (KeyType::Date, "24-01-02"),
        (KeyType::Date, "20240102"),
        (KeyType::Date, "today"),
        (KeyType::Date, "2024-01-02 10:00"),
        (KeyType::Timestamp, "+infinity"),
        (KeyType::Timestamp, "2024-01-02 10:00:00."),
        (KeyType::Timestamp, "2024-01-02 10:60.5"),
        (KeyType::Timestamp, "2024-01-02 10:00:00 PM"),
        (KeyType::Timestamptz, "2024-01-02"),
        (KeyType::Timestamptz, "2024-01-02 10:00:00"),
        (KeyType::Timestamptz, "2024-01-02 10:00:00 Europe/Berlin"),
        (KeyType::Timestamptz, "2024-01-02 10:00:00 CET"),
        (KeyType::Timestamptz, "now"),
    ] {
        let error = KeyValue::from_text(key_type, text).unwrap_err();
        assert!(matches!(error, KeyError::Unsupported { .. }), "{key_type} {text:?}: {error}");
    }
}
