//! Tests of `encode`: every kind, what it takes and what it refuses.

use super::*;
use crate::sink::number::{FRACTION, NOT_A_NUMBER, OUT_OF_RANGE};
use proptest::prelude::*;

fn encode(kind: &Kind, raw: &str) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    kind.encode(raw, &mut out, &mut Scratch::default()).map(|()| out)
}

fn check(kind: Kind, cases: &[(&str, Result<&[u8], &'static str>)]) {
    for (raw, expected) in cases {
        assert_eq!(encode(&kind, raw), expected.map(<[u8]>::to_vec), "{kind:?} {raw}");
    }
}

const NUMERIC: Kind = Kind::Numeric { rounds: None };
const TEXT: Kind = Kind::Text { chars_max: None };

#[test]
fn numbers() {
    check(
        Kind::Int2,
        &[
            ("32767", Ok(&[0x7f, 0xff])),
            ("32768", Err(OUT_OF_RANGE)),
            ("\"-1\"", Ok(&[0xff, 0xff])),
            ("true", Err("a boolean")),
        ],
    );
    check(
        Kind::Int4,
        &[("1.0", Ok(&[0, 0, 0, 1])), ("1.5", Err(FRACTION)), ("\"x\"", Err(NOT_A_NUMBER)), ("[]", Err("an array"))],
    );
    check(
        Kind::Int8,
        &[("9223372036854775807", Ok(&i64::MAX.to_be_bytes())), ("9223372036854775808", Err(OUT_OF_RANGE))],
    );
    check(
        Kind::Float8,
        &[
            ("0.1", Ok(&0.1f64.to_be_bytes())),
            ("\"NaN\"", Ok(&f64::NAN.to_be_bytes())),
            ("\"Infinity\"", Ok(&f64::INFINITY.to_be_bytes())),
            ("1e400", Err(OUT_OF_RANGE)),
            ("-1e-400", Err(OUT_OF_RANGE)),
            ("5e-324", Ok(&5e-324f64.to_be_bytes())),
            ("0.0e-400", Ok(&0f64.to_be_bytes())),
        ],
    );
    check(
        Kind::Float4,
        &[
            ("0.1", Ok(&0.1f32.to_be_bytes())),
            ("1e40", Err(OUT_OF_RANGE)),
            ("0.01e-60", Err(OUT_OF_RANGE)),
            ("1e-45", Ok(&1e-45f32.to_be_bytes())),
        ],
    );
    check(
        Kind::Numeric { rounds: Some((5, 2)) },
        &[
            ("999.994", Ok(b"999.994")),
            ("999.995", Err(OUT_OF_RANGE)),
            ("\"NaN\"", Ok(b"NaN")),
            ("\"-Infinity\"", Err(OUT_OF_RANGE)),
        ],
    );
    check(
        NUMERIC,
        &[
            ("12345678901234567890.123456789", Ok(b"12345678901234567890.123456789")),
            ("\"1.50\"", Ok(b"1.50")),
            ("1e200000", Err(OUT_OF_RANGE)),
            ("1e-20000", Err(OUT_OF_RANGE)),
            ("\"1,5\"", Err(NOT_A_NUMBER)),
            ("\"\"", Err(NOT_A_NUMBER)),
            ("{}", Err("an object")),
        ],
    );
}

#[test]
fn texts() {
    check(
        TEXT,
        &[(r#""a\nb""#, Ok(b"a\nb")), ("5", Err("a number")), (r#""\u0000""#, Err(json::NUL)), ("null", Err("null"))],
    );
    let varchar = Kind::Text { chars_max: Some(3) };
    check(
        varchar,
        &[
            (r#""abc""#, Ok(b"abc")),
            (r#""äöü""#, Ok("äöü".as_bytes())),
            (r#""abcd""#, Err(TOO_LONG)),
            (r#""abc ""#, Ok(b"abc ")),
        ],
    );
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    check(Kind::Name, &[(&long(63), Ok(&[b'x'; 63])), (&long(64), Err(TOO_LONG)), (r#""\u0000""#, Err(json::NUL))]);
    check(
        Kind::Enum(vec!["red".into()]),
        &[(r#""red""#, Ok(b"red")), (r#""Red""#, Err(LABEL)), ("1", Err("a number"))],
    );
    check(
        Kind::Bytea,
        &[
            (r#""aGk=""#, Ok(b"hi")),
            (r#""aGk""#, Ok(b"hi")),
            (r#""a-_k""#, Err(BASE64)),
            (r#""\/\/8=""#, Ok(&[255, 255])),
        ],
    );
    check(
        Kind::Inet,
        &[
            (r#""10.0.0.1""#, Ok(b"10.0.0.1")),
            (r#""::1/64""#, Ok(b"::1/64")),
            (r#""10.0.0.1/33""#, Err("a string that is not an IP address or network")),
        ],
    );
    check(Kind::Opaque, &[(r#""1 day""#, Ok(b"1 day")), ("1", Err("a number"))]);
}

#[test]
fn the_rest() {
    check(
        Kind::Bool,
        &[("true", Ok(&[1])), ("false", Ok(&[0])), ("1", Err("a number")), (r#""true""#, Err("a string"))],
    );
    let uuid = r#""7f3e4a10-0000-4000-8000-00000000002a""#;
    check(
        Kind::Uuid,
        &[
            (uuid, Ok(&[0x7f, 0x3e, 0x4a, 0x10, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x2a])),
            (r#""x""#, Err("a string that is not a UUID")),
        ],
    );
    check(
        Kind::Jsonb,
        &[(r#"{"a":[1]}"#, Ok(b"\x01{\"a\":[1]}")), (r#"{"a":"\u0000"}"#, Err(json::NUL)), ("1", Ok(b"\x011"))],
    );
    check(Kind::Json, &[(r#"{"a":"\u0000"}"#, Ok(br#"{"a":"\u0000"}"#))]);
    check(Kind::Date, &[(r#""2000-01-02""#, Ok(&[0, 0, 0, 1]))]);
    check(
        Kind::TimestampTz,
        &[("1700000000", Err("a number (seconds or milliseconds? only ISO 8601 strings are read)"))],
    );
    check(
        Kind::Array(Box::new(Kind::Int4)),
        &[("[1]", Ok(br#"{"1"}"#)), ("1", Err("a number")), ("{}", Err("an object"))],
    );
}

#[test]
fn keys_are_equal_for_equal_values() {
    let key = |kind: &Kind, raw: &str| {
        let mut key = Vec::new();
        kind.key(&encode(kind, raw).unwrap(), &mut key);
        key
    };
    assert_eq!(key(&NUMERIC, "1.50"), key(&NUMERIC, "1.5"));
    assert_eq!(key(&Kind::Float8, "0.0"), key(&Kind::Float8, "-0.0"));
    assert_ne!(key(&Kind::Float8, "1"), key(&Kind::Float8, "-1"));
}

proptest! {
    #[test]
    fn order_is_that_of_the_values(a: i64, b: i64, x: f64, y: f64) {
        let of = |kind: &Kind, value: String| encode(kind, &format!("\"{value}\"")).unwrap();
        for kind in [Kind::Int8, NUMERIC] {
            let (left, right) = (of(&kind, a.to_string()), of(&kind, b.to_string()));
            prop_assert_eq!(kind.is_greater(&left, &right), Some(a > b));
        }
        let (left, right) = (of(&Kind::Float8, x.to_string()), of(&Kind::Float8, y.to_string()));
        prop_assert_eq!(Kind::Float8.is_greater(&left, &right), Some(x > y || (x.is_nan() && !y.is_nan())));
    }

    #[test]
    fn floats_come_back_exactly(x: f64) {
        prop_assume!(x.is_finite());
        prop_assert_eq!(encode(&Kind::Float8, &serde_json::to_string(&x).unwrap()).unwrap(), x.to_be_bytes());
    }
}
