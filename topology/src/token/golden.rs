//! Tokens pinned to values of PostgreSQL 15: `SELECT hash_record_extended(ROW('...'::type), 0)`, which for one column
//! is the type's own extended hash. They are a persistent format: a row that fails here is a lost row.

use super::*;

#[rustfmt::skip]
const GOLDEN: &[(KeyType, &str, i64)] = &[
    (KeyType::Int2, "0", 4_154_612_158_245_552_303),
    (KeyType::Int2, "1", -3_670_598_878_359_251_130),
    (KeyType::Int2, "-1", -1_888_257_769_727_981_238),
    (KeyType::Int2, "42", 8_010_225_493_015_854_792),
    (KeyType::Int2, "-42", 8_809_670_066_178_192_187),
    (KeyType::Int2, "32767", 1_790_040_721_271_588_170),
    (KeyType::Int2, "-32768", 8_455_483_389_771_436_374),
    (KeyType::Int2, " 12345\t", -4_060_231_184_274_664_867),
    (KeyType::Int4, "0", 4_154_612_158_245_552_303),
    (KeyType::Int4, "1", -3_670_598_878_359_251_130),
    (KeyType::Int4, "-1", -1_888_257_769_727_981_238),
    (KeyType::Int4, "42", 8_010_225_493_015_854_792),
    (KeyType::Int4, "-42", 8_809_670_066_178_192_187),
    (KeyType::Int4, "2147483647", -9_109_110_466_470_504_941),
    (KeyType::Int4, "-2147483648", 1_977_219_185_673_256_887),
    (KeyType::Int4, "+100000", 4_579_935_568_182_402_376),
    (KeyType::Int8, "0", 4_154_612_158_245_552_303),
    (KeyType::Int8, "1", -3_670_598_878_359_251_130),
    (KeyType::Int8, "-1", -1_888_257_769_727_981_238),
    (KeyType::Int8, "42", 8_010_225_493_015_854_792),
    (KeyType::Int8, "-42", 8_809_670_066_178_192_187),
    (KeyType::Int8, "4294967296", -3_670_598_878_359_251_130),
    (KeyType::Int8, "9223372036854775807", 1_977_219_185_673_256_887),
    (KeyType::Int8, "-9223372036854775808", -9_109_110_466_470_504_941),
    (KeyType::Int8, "-4294967297", 495_194_309_054_116_481),
    (KeyType::Int8, "1234567890123", -6_236_938_892_533_063_859),
    (KeyType::Text, "", -6_939_563_903_564_495_251),
    (KeyType::Text, "a", 3_591_986_179_850_072_241),
    (KeyType::Text, "abc", -6_747_756_470_228_489_321),
    (KeyType::Text, "abc  ", 1_844_123_069_248_762_368),
    (KeyType::Text, "twelve bytes", -7_123_776_401_673_968_163),
    (KeyType::Text, "thirteen byte", -1_147_533_121_609_491_268),
    (KeyType::Text, "Ünïcödé ✓ 日本語", 3_053_566_255_300_667_846),
    (KeyType::Text, "The quick brown fox jumps over the lazy dog", 2_182_139_051_089_226_439),
    (KeyType::Text, "0123456789abcdefghijklmn", 6_260_941_006_295_183_541),
    (KeyType::Varchar, "", -6_939_563_903_564_495_251),
    (KeyType::Varchar, "a", 3_591_986_179_850_072_241),
    (KeyType::Varchar, "abc", -6_747_756_470_228_489_321),
    (KeyType::Varchar, "abc  ", 1_844_123_069_248_762_368),
    (KeyType::Varchar, "eleven byte", -1_446_953_353_892_728_106),
    (KeyType::Varchar, "customer-42@example.org", -698_883_869_575_335_567),
    (KeyType::Varchar, "x y", -6_245_531_880_110_505_631),
    (KeyType::Varchar, "ß", -2_240_060_419_770_908_844),
    (KeyType::Bpchar, "", -6_939_563_903_564_495_251),
    (KeyType::Bpchar, "   ", -6_939_563_903_564_495_251),
    (KeyType::Bpchar, "a", 3_591_986_179_850_072_241),
    (KeyType::Bpchar, "abc", -6_747_756_470_228_489_321),
    (KeyType::Bpchar, "abc  ", -6_747_756_470_228_489_321),
    (KeyType::Bpchar, " abc ", 2_875_757_718_084_364_655),
    (KeyType::Bpchar, "abc\t ", -3_761_958_581_109_978_784),
    (KeyType::Bpchar, "The quick brown fox  ", 6_377_859_067_987_231_983),
    (KeyType::Uuid, "00000000-0000-0000-0000-000000000000", -6_859_010_066_814_654_381),
    (KeyType::Uuid, "ffffffff-ffff-ffff-ffff-ffffffffffff", 293_445_543_803_463_785),
    (KeyType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 7_543_054_272_012_930_821),
    (KeyType::Uuid, "{A0EEBC99-9C0B4EF8-BB6D6BB9-BD380A11}", 7_543_054_272_012_930_821),
    (KeyType::Uuid, "a0eebc999c0b4ef8bb6d6bb9bd380a11", 7_543_054_272_012_930_821),
    (KeyType::Uuid, "018f3c2e-7b1a-7c3d-9e4f-5a6b7c8d9e0f", 4_054_819_944_770_146_864),
    (KeyType::Uuid, "00000000-0000-0000-0000-000000000001", 3_419_970_005_924_668_665),
    (KeyType::Uuid, "80000000-0000-0000-0000-000000000000", 9_022_107_499_229_921_510),
    (KeyType::Bytea, "", -6_939_563_903_564_495_251),
    (KeyType::Bytea, "\\x", -6_939_563_903_564_495_251),
    (KeyType::Bytea, "\\x00", -4_194_760_714_999_882_651),
    (KeyType::Bytea, "\\xDEADbeef", 5_555_239_932_434_991_430),
    (KeyType::Bytea, "\\x de\tad\n", 2_658_470_151_895_776_241),
    (KeyType::Bytea, "abc", -6_747_756_470_228_489_321),
    (KeyType::Bytea, "a\\\\b\\000\\377", -997_788_349_727_541_954),
    (KeyType::Bytea, "\\x000102030405060708090a0b0c0d0e0f", -2_148_041_578_476_338_960),
    (KeyType::Date, "2000-01-01", 4_154_612_158_245_552_303),
    (KeyType::Date, "1999-12-31", -1_888_257_769_727_981_238),
    (KeyType::Date, "2024-02-29", 8_051_018_284_886_573_209),
    (KeyType::Date, "1970-01-01", -9_067_010_975_138_725_602),
    (KeyType::Date, "infinity", -9_109_110_466_470_504_941),
    (KeyType::Date, "-infinity", 1_977_219_185_673_256_887),
    (KeyType::Date, "4714-11-24 BC", -6_851_249_991_184_538_658),
    (KeyType::Date, "5874897-12-31", 1_319_840_227_561_600_204),
    (KeyType::Date, " 0044-3-15 bc ", -1_399_449_866_377_390_411),
    (KeyType::Date, "20240-1-2", -4_226_579_073_424_210_008),
    (KeyType::Timestamp, "2000-01-01", 4_154_612_158_245_552_303),
    (KeyType::Timestamp, "1999-12-31 23:59:59.999999", -1_888_257_769_727_981_238),
    (KeyType::Timestamp, "2024-02-29T12:34:56.7891234", -3_112_638_564_288_269_647),
    (KeyType::Timestamp, "2024-02-29 12:34:56.0000005", 249_728_931_634_562_775),
    (KeyType::Timestamp, "2024-02-29 24:00:00", 6_690_378_611_258_550_401),
    (KeyType::Timestamp, "2024-02-29 12:34:60+02:30", 4_099_652_981_739_370_096),
    (KeyType::Timestamp, "infinity", 1_977_219_185_673_256_887),
    (KeyType::Timestamp, " -Infinity ", -9_109_110_466_470_504_941),
    (KeyType::Timestamp, "4714-11-24 00:00:00 BC", 6_694_956_730_269_417_295),
    (KeyType::Timestamp, "294276-12-31 23:59:59.999999", 7_428_886_456_205_503_812),
    (KeyType::Timestamp, "2024-02-29 1:2 AD", -7_380_813_044_559_735_309),
    (KeyType::Timestamptz, "2000-01-01 00:00:00+00", 4_154_612_158_245_552_303),
    (KeyType::Timestamptz, "1999-12-31T23:59:59.999999Z", -1_888_257_769_727_981_238),
    (KeyType::Timestamptz, "2024-02-29 12:34:56.5+05:30", 4_744_038_752_748_458_538),
    (KeyType::Timestamptz, "2024-02-29 12:34:56.5 -0330", -5_194_612_868_096_879_963),
    (KeyType::Timestamptz, "2024-02-29 12:34-15:59:59", 2_192_948_447_057_971_080),
    (KeyType::Timestamptz, "2024-02-29 23:59:59.9999999+1", -6_355_818_763_843_245_872),
    (KeyType::Timestamptz, "infinity", 1_977_219_185_673_256_887),
    (KeyType::Timestamptz, "-infinity", -9_109_110_466_470_504_941),
    (KeyType::Timestamptz, "4714-11-23 23:59:59-01 BC", 2_397_016_521_464_576_195),
    (KeyType::Timestamptz, "294277-01-01 00:30:00+01", -5_351_061_081_228_910_521),
    (KeyType::Numeric, "0", -1),
    (KeyType::Numeric, "-0.00", -1),
    (KeyType::Numeric, "1", -7_507_508_252_608_306_360),
    (KeyType::Numeric, "1.00", -7_507_508_252_608_306_360),
    (KeyType::Numeric, "-1", -7_507_508_252_608_306_360),
    (KeyType::Numeric, "10000", -7_507_508_252_608_306_359),
    (KeyType::Numeric, "100000000", -7_507_508_252_608_306_358),
    (KeyType::Numeric, "0.0001", 7_507_508_252_608_306_359),
    (KeyType::Numeric, "0.00000001", 7_507_508_252_608_306_358),
    (KeyType::Numeric, "12345.6789", -7_480_115_461_366_660_631),
    (KeyType::Numeric, "1234567890123456789.0987654321", 5_505_694_687_224_912_177),
    (KeyType::Numeric, "1e131071", -4_472_182_450_358_372_643),
    (KeyType::Numeric, "1.5E-16382", -671_306_689_144_856_725),
    (KeyType::Numeric, "NaN", 0),
    (KeyType::Numeric, "Infinity", 0),
    (KeyType::Numeric, "-inf", 0),
    (KeyType::Numeric, " +.5 ", 3_180_246_706_024_362_763),
    (KeyType::Numeric, "5.", 2_972_014_631_659_419_408),
];

#[test]
fn text_has_the_server_s_token() {
    for (key_type, text, token) in GOLDEN {
        let value = KeyValue::from_text(*key_type, text).unwrap();
        assert_eq!(value.token(), Token(*token), "{key_type} {text:?}");
    }
}

#[test]
fn binary_is_the_same_value() {
    for (key_type, text, _) in GOLDEN {
        let value = KeyValue::from_text(*key_type, text).unwrap();
        let binary = binary(*key_type, &value);
        assert_eq!(KeyValue::from_binary(*key_type, &binary), Ok(value), "{key_type} {text:?}");
    }
}

/// What the server's send function would write.
fn binary(key_type: KeyType, value: &KeyValue) -> Vec<u8> {
    match value {
        KeyValue::Int(int) => {
            let width = match key_type {
                KeyType::Int2 => 2,
                KeyType::Int4 => 4,
                _ => 8,
            };
            int.to_be_bytes()[8 - width..].to_vec()
        }
        KeyValue::Text(text) => text.clone().into_bytes(),
        KeyValue::Bpchar(text) => format!("{text}   ").into_bytes(),
        KeyValue::Uuid(uuid) => uuid.to_vec(),
        KeyValue::Bytea(bytes) => bytes.clone(),
        KeyValue::Date(days) => days.to_be_bytes().to_vec(),
        KeyValue::Timestamp(micros) => micros.to_be_bytes().to_vec(),
        KeyValue::Numeric(decimal) => {
            let words = match decimal {
                Decimal::NaN => vec![0, 0, 0xc000, 0],
                Decimal::Infinity => vec![0, 0, 0xd000, 0x20],
                Decimal::NegativeInfinity => vec![0, 0, 0xf000, 0x20],
                Decimal::Finite { negative, weight, digits } => {
                    let sign = if *negative { 0x4000 } else { 0 };
                    let header = [digits.len() as u16, *weight as u16, sign, 0x3fff];
                    header.into_iter().chain(digits.iter().map(|digit| *digit as u16)).collect()
                }
            };
            words.into_iter().flat_map(u16::to_be_bytes).collect()
        }
    }
}
