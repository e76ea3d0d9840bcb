//! Numbers as text, as JSON and PostgreSQL write them: read to the last digit, never by way of a float.

use std::cmp::Ordering;

/// Why a text is not the number that a column needs.
pub const NOT_A_NUMBER: &str = "a string that is not a number";
pub const FRACTION: &str = "a number with a fraction";
pub const OUT_OF_RANGE: &str = "a number out of range";

/// Digits before the decimal point, and behind it, that PostgreSQL's numeric can hold
/// (<https://www.postgresql.org/docs/15/datatype-numeric.html>).
const NUMERIC_DIGITS_BEFORE_MAX: i64 = 131_072;
const NUMERIC_DIGITS_BEHIND_MAX: i64 = 16_383;
/// Beyond it makes no difference how far.
const EXPONENT_MAX: i64 = 1_000_000;

/// An integer. `1.0` and `1e3` are integers, too: what they say is integral.
pub fn integer(text: &str) -> Result<i64, &'static str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // Eighteen digits always fit.
    if !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit()) {
        let value = digits.bytes().fold(0i64, |sum, b| sum * 10 + i64::from(b - b'0'));
        return Ok(if digits.len() < text.len() { -value } else { value });
    }
    let Some(Number::Finite(decimal)) = Number::parse(text) else { return Err(NOT_A_NUMBER) };
    if decimal.scale() > 0 {
        return Err(FRACTION);
    }
    if decimal.magnitude > 19 {
        return Err(OUT_OF_RANGE);
    }
    let mut value = decimal.digits().fold(0i128, |sum, d| sum * 10 + i128::from(d - b'0'));
    for _ in decimal.count() as i64..decimal.magnitude {
        value *= 10;
    }
    i64::try_from(if decimal.negative { -value } else { value }).map_err(|_| OUT_OF_RANGE)
}

/// A decimal number, taken apart; the digits stay where they were.
#[derive(Debug, Clone, Copy)]
pub struct Decimal<'a> {
    negative: bool,
    /// Significant digits: before the point and behind it, without zeros at either end. None for zero.
    before: &'a [u8],
    behind: &'a [u8],
    /// Where the decimal point is, counted from the first significant digit.
    magnitude: i64,
    /// Digits behind the decimal point as it is written, zeros included.
    written_scale: i64,
}

/// What a numeric can be.
#[derive(Debug, Clone, Copy)]
pub enum Number<'a> {
    NegativeInfinity,
    Finite(Decimal<'a>),
    Infinity,
    NotANumber,
}

impl<'a> Number<'a> {
    /// Reads `[+-] digits [. digits] [e [+-] digits]`, or one of the words that PostgreSQL knows.
    pub fn parse(text: &'a str) -> Option<Number<'a>> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if !rest.first().is_some_and(|b| b.is_ascii_digit() || *b == b'.') {
            return Number::word(negative, rest);
        }
        let (before, rest) = digits(rest);
        let (behind, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            rest => (&[][..], rest),
        };
        if before.is_empty() && behind.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => exponent(rest)?,
            _ => return None,
        };
        Some(Number::Finite(Decimal::new(negative, before, behind, exponent)))
    }

    fn word(negative: bool, rest: &[u8]) -> Option<Number<'a>> {
        let is = |word: &str| rest.eq_ignore_ascii_case(word.as_bytes());
        match (is("infinity") || is("inf"), negative) {
            (true, true) => Some(Number::NegativeInfinity),
            (true, false) => Some(Number::Infinity),
            (false, false) if is("nan") => Some(Number::NotANumber),
            _ => None,
        }
    }

    /// PostgreSQL's order: NaN is the greatest.
    pub fn order(&self, other: &Number<'_>) -> Ordering {
        match (self, other) {
            (Number::Finite(a), Number::Finite(b)) => a.order(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Number::NegativeInfinity => 0,
            Number::Finite(_) => 1,
            Number::Infinity => 2,
            Number::NotANumber => 3,
        }
    }

    /// Bytes that are equal exactly for equal numbers: `1.50` and `1.5` are one number.
    pub fn key(&self, into: &mut Vec<u8>) {
        into.push(self.rank());
        if let Number::Finite(decimal) = self {
            into.push(u8::from(decimal.negative));
            into.extend_from_slice(&decimal.magnitude.to_be_bytes());
            into.extend(decimal.digits());
        }
    }
}

impl<'a> Decimal<'a> {
    fn new(negative: bool, before: &'a [u8], behind: &'a [u8], exponent: i64) -> Decimal<'a> {
        let mut magnitude = before.len() as i64 + exponent;
        // PostgreSQL does not read an exponent that is beyond all reason, of zero neither.
        let written_scale = if exponent < EXPONENT_MAX { behind.len() as i64 - exponent } else { i64::MAX };
        let (before, dropped) = without_leading_zeros(before);
        magnitude -= dropped;
        let (behind, dropped) = if before.is_empty() { without_leading_zeros(behind) } else { (behind, 0) };
        magnitude -= dropped;
        let behind = without_trailing_zeros(behind);
        let before = if behind.is_empty() { without_trailing_zeros(before) } else { before };
        let zero = before.is_empty() && behind.is_empty();
        let magnitude = if zero { 0 } else { magnitude };
        Decimal { negative: negative && !zero, before, behind, magnitude, written_scale }
    }

    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.before.iter().chain(self.behind).copied()
    }

    fn count(&self) -> usize {
        self.before.len() + self.behind.len()
    }

    /// Digits behind the decimal point that matter.
    pub fn scale(&self) -> i64 {
        (self.count() as i64 - self.magnitude).max(0)
    }

    /// Whether a numeric can hold it, which keeps the zeros that it is written with.
    pub fn fits(&self) -> bool {
        self.magnitude <= NUMERIC_DIGITS_BEFORE_MAX && self.written_scale <= NUMERIC_DIGITS_BEHIND_MAX
    }

    /// Whether a `numeric(precision, scale)` can hold it once it is rounded, half away from zero.
    pub fn fits_in(&self, precision: i64, scale: i64) -> bool {
        let before_max = precision - scale;
        match self.magnitude.cmp(&before_max) {
            _ if self.count() == 0 => true,
            Ordering::Less => true,
            Ordering::Greater => false,
            // Only what rounds up to the next power of ten is too great: nines, as many as there is room for, and a five.
            Ordering::Equal => {
                let mut digits = self.digits();
                let nines = digits.by_ref().take(precision as usize).filter(|d| *d == b'9').count();
                nines < precision as usize || digits.next().is_none_or(|digit| digit < b'5')
            }
        }
    }

    fn order(&self, other: &Decimal<'_>) -> Ordering {
        let sign = |d: &Decimal<'_>| match (d.count(), d.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let (mine, others) = (sign(self), sign(other));
        if mine != others || mine == 0 {
            return mine.cmp(&others);
        }
        let size = self.magnitude.cmp(&other.magnitude).then_with(|| self.digits().cmp(other.digits()));
        if mine < 0 { size.reverse() } else { size }
    }
}

fn digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.iter().take_while(|b| b.is_ascii_digit()).count())
}

fn without_leading_zeros(bytes: &[u8]) -> (&[u8], i64) {
    let zeros = bytes.iter().take_while(|&&b| b == b'0').count();
    (&bytes[zeros..], zeros as i64)
}

fn without_trailing_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - bytes.iter().rev().take_while(|&&b| b == b'0').count()]
}

/// At most [`EXPONENT_MAX`] either way.
fn exponent(bytes: &[u8]) -> Option<i64> {
    let (negative, bytes) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = bytes.iter().fold(0i64, |sum, b| (sum * 10 + i64::from(b - b'0')).min(EXPONENT_MAX));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_keep_every_digit() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(OUT_OF_RANGE)),
            ("9007199254740993.0", Ok(9_007_199_254_740_993)),
            ("1e3", Ok(1000)),
            ("1.5e1", Ok(15)),
            ("1200e-2", Ok(12)),
            ("1.5", Err(FRACTION)),
            ("1e-1", Err(FRACTION)),
            ("1e999999999999", Err(OUT_OF_RANGE)),
            ("0e999999999999", Ok(0)),
            ("NaN", Err(NOT_A_NUMBER)),
            ("", Err(NOT_A_NUMBER)),
            ("-", Err(NOT_A_NUMBER)),
            ("1x", Err(NOT_A_NUMBER)),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_ordered_as_postgresql_orders_them() {
        let rising =
            ["-Infinity", "-1e5", "-2", "-1.5", "-1e-9", "0", "1e-9", "0.9", "1", "1.05", "1.5", "10", "Inf", "NaN"];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                let (x, y) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
                assert_eq!(x.order(&y), i.cmp(&j), "{a} {b}");
            }
        }
    }

    fn key(text: &str) -> Vec<u8> {
        let mut key = Vec::new();
        Number::parse(text).unwrap().key(&mut key);
        key
    }

    #[test]
    fn equal_numbers_have_equal_keys() {
        for (a, b) in [("1.50", "1.5"), ("0", "-0.00"), ("1e2", "100"), ("0.01", "1E-2"), ("+7", "007")] {
            assert_eq!(key(a), key(b), "{a} {b}");
        }
        assert_ne!(key("1"), key("10"));
        assert_ne!(key("1"), key("-1"));
    }

    #[test]
    fn what_a_numeric_holds() {
        let zeros = |n: usize| format!("1.{}", "0".repeat(n));
        for (text, expected) in [
            ("1e131071".to_owned(), true),
            ("1e131072".to_owned(), false),
            ("1e-16383".to_owned(), true),
            ("1e-16384".to_owned(), false),
            ("0e-16383".to_owned(), true),
            ("0.0e-16383".to_owned(), false),
            ("0e999999".to_owned(), true),
            ("0.0e9999999999".to_owned(), false),
            (zeros(16_383), true),
            (zeros(16_384), false),
            (format!("{}e1", zeros(16_384)), true),
        ] {
            let Some(Number::Finite(decimal)) = Number::parse(&text) else { panic!("{text}") };
            assert_eq!(decimal.fits(), expected, "{text}");
        }
    }

    #[test]
    fn a_numeric_with_a_precision() {
        for (precision, scale, good, wrong) in [
            (
                5,
                2,
                &["999.994", "-999.99", "0", "1e-9", "0.000", "99.9999", "9.9e2"][..],
                &["1000", "999.995", "1e3", "-999.999"][..],
            ),
            (2, 0, &["99.4", "0.5"], &["99.5", "100"]),
            (3, 5, &["0.00999", "0", "-0.009994"], &["0.01", "0.009995", "1"]),
            (2, -3, &["99499", "1", "-98500"], &["99500", "100000"]),
        ] {
            for (texts, expected) in [(good, true), (wrong, false)] {
                for text in texts {
                    let Some(Number::Finite(decimal)) = Number::parse(text) else { panic!("{text}") };
                    assert_eq!(decimal.fits_in(precision, scale), expected, "{text} in numeric({precision}, {scale})");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn integers_come_back(value: i64, zeros in 0usize..4) {
            prop_assert_eq!(integer(&value.to_string()), Ok(value));
            prop_assert_eq!(integer(&format!("{value}.{}", "0".repeat(zeros))), Ok(value));
            prop_assert_eq!(integer(&format!("{value}{}e-{zeros}", "0".repeat(zeros))), Ok(value));
        }

        #[test]
        fn order_is_that_of_integers(a: i64, b: i64) {
            let (x, y) = (a.to_string(), b.to_string());
            prop_assert_eq!(Number::parse(&x).unwrap().order(&Number::parse(&y).unwrap()), a.cmp(&b));
        }
    }
}
