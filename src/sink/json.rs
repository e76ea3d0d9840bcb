//! Pieces of JSON whose syntax serde_json has accepted already: strings are unescaped, documents checked for what
//! PostgreSQL refuses. Allocates only where a string has escapes, and then into a buffer that is used again.

use crate::sink::number::{Number, OUT_OF_RANGE};

/// Arrays and objects within each other. serde_json's limit for typed values; PostgreSQL's depends on its stack.
pub const DEPTH_MAX: usize = 128;

/// So many digits fit a numeric wherever the point is.
const PLAIN_DIGITS_MAX: usize = 16_000;

pub const NUL: &str = "a string with \\u0000";
pub const SURROGATE: &str = "a string with half a surrogate pair";
pub const TOO_DEEP: &str = "a document nested more than 128 levels deep";

/// What a value is, for messages.
pub fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "nothing",
    }
}

/// The content of a string token, quotes included in `raw`.
pub fn string<'a>(raw: &'a str, scratch: &'a mut String) -> Result<&'a str, &'static str> {
    let inner = &raw[1..raw.len() - 1];
    if !inner.as_bytes().contains(&b'\\') {
        return Ok(inner);
    }
    scratch.clear();
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        scratch.push_str(&rest[..at]);
        let (character, used) = escape(&rest.as_bytes()[at..])?;
        scratch.push(character);
        rest = &rest[at + used..];
    }
    scratch.push_str(rest);
    Ok(scratch)
}

/// An escape at the begin of `bytes`: the character, and how long the escape is.
fn escape(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    let character = match bytes.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => return unicode(bytes),
        Some(&other) => other as char,
        None => return Err(SURROGATE),
    };
    Ok((character, 2))
}

/// `\uXXXX`, or two of them that make one character.
fn unicode(bytes: &[u8]) -> Result<(char, usize), &'static str> {
    let first = hex4(bytes, 2).ok_or(SURROGATE)?;
    if first == 0 {
        return Err(NUL);
    }
    if let Some(character) = char::from_u32(first) {
        return Ok((character, 6));
    }
    let second = if bytes.get(6..8) == Some(b"\\u") { hex4(bytes, 8) } else { None };
    match (first, second) {
        (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
            let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            char::from_u32(code).map(|c| (c, 12)).ok_or(SURROGATE)
        }
        _ => Err(SURROGATE),
    }
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = std::str::from_utf8(bytes.get(at..at + 4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

/// Checks a document's depth and, with `values`, that its strings and numbers are some that jsonb can hold.
pub fn check(raw: &str, values: bool) -> Result<(), &'static str> {
    let bytes = raw.as_bytes();
    let has_long = bytes.len() > PLAIN_DIGITS_MAX;
    let (mut at, mut depth) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at, values)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(TOO_DEEP);
                }
            }
            b'}' | b']' => depth -= 1,
            // Few numbers can be out of range: those with an exponent (in words an `e` is behind a letter), and long ones.
            b'e' | b'E' if values && at >= 2 && bytes[at - 2].is_ascii_digit() => at = number(raw, at)?,
            b'-' | b'0'..=b'9' if values && has_long => at = number(raw, at)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks the string that begins at `at`, behind its quote. Returns where it ends, behind the other one.
fn end_of_string(bytes: &[u8], mut at: usize, values: bool) -> Result<usize, &'static str> {
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => break,
            b'\\' if values => at += escape(&bytes[at - 1..])?.1 - 1,
            b'\\' => at += 1,
            _ => {}
        }
    }
    Ok(at)
}

/// Checks the number around the byte before `at`: in jsonb it is a numeric. Returns where it ends.
fn number(raw: &str, at: usize) -> Result<usize, &'static str> {
    let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let from = at - raw.as_bytes()[..at].iter().rev().take_while(is_part).count();
    let end = at + raw.as_bytes()[at..].iter().take_while(is_part).count();
    let token = &raw[from..end];
    if token.len() <= PLAIN_DIGITS_MAX && !token.contains(['e', 'E']) {
        return Ok(end);
    }
    match Number::parse(token) {
        Some(Number::Finite(decimal)) if decimal.fits() => Ok(end),
        _ => Err(OUT_OF_RANGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_are_unescaped() {
        for (raw, expected) in [
            (r#""plain""#, Ok("plain")),
            (r#""""#, Ok("")),
            (r#""a\n\t\"\\\/b""#, Ok("a\n\t\"\\/b")),
            (r#""\u00e9\ud83d\ude00x""#, Ok("é😀x")),
            (r#""a\u0000""#, Err(NUL)),
            (r#""\ud83d""#, Err(SURROGATE)),
            (r#""\ud83dx\ude00""#, Err(SURROGATE)),
            (r#""\ude00""#, Err(SURROGATE)),
            (r#""\ud83d\u0041""#, Err(SURROGATE)),
        ] {
            assert_eq!(string(raw, &mut String::new()), expected, "{raw}");
            if raw.contains("\\u") {
                assert_eq!(check(raw, true), expected.map(drop), "{raw}");
            }
            assert_eq!(check(raw, false), Ok(()), "{raw}");
        }
    }

    #[test]
    fn numbers_fit_a_numeric() {
        for (raw, fits) in [
            (r#"{"a":[-1.5e3,0,7,1e131071],"1e999999":"1e999999"}"#, true),
            (r#"{"a":[1,1e131072]}"#, false),
            (r#"[true,false,{"e1e999999":null},-1.5E131072]"#, false),
            ("1e200000", false),
            ("[1e-16383]", true),
            ("[-1e-16384]", false),
            ("1E+99999999999999999999", false),
        ] {
            assert_eq!(check(raw, true), if fits { Ok(()) } else { Err(OUT_OF_RANGE) }, "{raw}");
            assert_eq!(check(raw, false), Ok(()), "{raw}");
        }
        assert_eq!(check(&"1".repeat(131_072), true), Ok(()));
        assert_eq!(check(&"1".repeat(131_073), true), Err(OUT_OF_RANGE));
    }

    #[test]
    fn depth_is_limited() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check(&nested(DEPTH_MAX), true), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX + 1), true), Err(TOO_DEEP));
        assert_eq!(check(&format!("\"{}\"", "[".repeat(500)), true), Ok(()));
        assert_eq!(check(&vec!["[]"; 300].join(","), true), Ok(()));
    }

    proptest! {
        #[test]
        fn what_serde_escapes_comes_back(text in "[^\\x00]*") {
            let raw = serde_json::to_string(&text).unwrap();
            let mut scratch = String::new();
            prop_assert_eq!(string(&raw, &mut scratch), Ok(text.as_str()));
            prop_assert_eq!(check(&raw, true), Ok(()));
        }
    }
}
