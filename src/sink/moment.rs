//! Dates and times: ISO 8601 texts to PostgreSQL's binary form, microseconds or days since 2000-01-01.
//!
//! Numbers are never read as dates: nobody can tell seconds from milliseconds. A `timestamptz` needs an offset, because
//! what a time without one means depends on the session; a `timestamp` takes none but `Z`, because PostgreSQL would drop it
//! in silence.

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp};

pub const NOT_ISO: &str = "a string that is not ISO 8601";
pub const NO_OFFSET: &str = "a time without an offset from UTC";
pub const OFFSET: &str = "a time with an offset from UTC other than Z";
pub const TOO_EARLY: &str = "a day before 4714-11-24 BC, PostgreSQL's first";

/// 2000-01-01T00:00:00Z in seconds since the Unix epoch, where PostgreSQL counts from.
const EPOCH_SECONDS: i64 = 946_684_800;
const EPOCH_MICROS: i64 = EPOCH_SECONDS * 1_000_000;
const EPOCH_DATE: Date = Date::constant(2000, 1, 1);
/// Day 0 of the Julian calendar, before which PostgreSQL has none. (Its last ones are far behind ISO 8601's.)
const FIRST_DAY: i32 = -2_451_545;
const FIRST_MICROS: i64 = FIRST_DAY as i64 * 86_400_000_000;

/// Infinity and minus infinity, as PostgreSQL keeps them.
fn infinity(text: &str) -> Option<bool> {
    match text {
        "infinity" | "Infinity" => Some(true),
        "-infinity" | "-Infinity" => Some(false),
        _ => None,
    }
}

pub fn timestamptz(text: &str) -> Result<i64, &'static str> {
    plain_utc(text).map_or_else(|| any_instant(text), Ok)
}

fn any_instant(text: &str) -> Result<i64, &'static str> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i64::MAX } else { i64::MIN });
    }
    match text.parse::<Timestamp>() {
        Ok(timestamp) => not_too_early(micros(timestamp.as_nanosecond()) - EPOCH_MICROS),
        Err(_) if text.parse::<DateTime>().is_ok() => Err(NO_OFFSET),
        Err(_) => Err(NOT_ISO),
    }
}

/// What nearly all programs write, `2026-01-02T03:04:05.678Z`: reading no more than that takes a fraction of the time that the
/// whole grammar takes. Everything else is left to it.
fn plain_utc(text: &str) -> Option<i64> {
    let (seconds, rest) = text.as_bytes().split_first_chunk::<19>()?;
    if [4, 7, 10, 13, 16].map(|at| seconds[at]) != *b"--T::" {
        return None;
    }
    let two = |from: usize| number(&seconds[from..from + 2]);
    let (year, hour, minute, second) = (number(&seconds[..4])?, two(11)?, two(14)?, two(17)?);
    // Years and seconds that are at the edge of what there is.
    if !(1..=9998).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let date = Date::new(year as i16, two(5)? as i8, two(8)? as i8).ok()?;
    let micros = match rest {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if digits.len() <= 6 => number(digits)? * 10i64.pow(6 - digits.len() as u32),
        _ => return None,
    };
    let day = date.duration_since(EPOCH_DATE).as_secs();
    Some((day + hour * 3600 + minute * 60 + second) * 1_000_000 + micros)
}

/// Of some decimal digits.
fn number(digits: &[u8]) -> Option<i64> {
    let add = |number: i64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'));
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

pub fn timestamp(text: &str) -> Result<i64, &'static str> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i64::MAX } else { i64::MIN });
    }
    let civil = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    match civil.parse::<DateTime>() {
        Ok(_) if has_offset(civil) => Err(OFFSET),
        Ok(at) => not_too_early(micros(at.duration_since(EPOCH_DATE.to_datetime(Time::midnight())).as_nanos())),
        Err(_) => Err(NOT_ISO),
    }
}

fn not_too_early(micros: i64) -> Result<i64, &'static str> {
    if micros >= FIRST_MICROS { Ok(micros) } else { Err(TOO_EARLY) }
}

/// A sign behind the date, or a zone in brackets. (The date's own hyphens are among the first ten bytes, or eleven with a sign.)
fn has_offset(text: &str) -> bool {
    text.bytes().skip(11).any(|b| matches!(b, b'+' | b'-' | b'['))
}

pub fn date(text: &str) -> Result<i32, &'static str> {
    if let Some(positive) = infinity(text) {
        return Ok(if positive { i32::MAX } else { i32::MIN });
    }
    if text.contains([':', 'T', ' ']) {
        return Err("a string that is more than a date");
    }
    let date = text.parse::<Date>().map_err(|_| NOT_ISO)?;
    let days = i32::try_from(date.duration_since(EPOCH_DATE).as_secs() / 86_400).map_err(|_| NOT_ISO)?;
    if days >= FIRST_DAY { Ok(days) } else { Err(TOO_EARLY) }
}

pub fn time(text: &str) -> Result<i64, &'static str> {
    if text.contains(['-', '+', 'T', 'Z', '[']) {
        return Err("a string that is more than a time of day");
    }
    let time = text.parse::<Time>().map_err(|_| NOT_ISO)?;
    Ok(micros(time.duration_since(Time::midnight()).as_nanos()))
}

/// Kafka's milliseconds since the Unix epoch.
pub fn from_unix_ms(ms: i64) -> Option<i64> {
    ms.checked_mul(1000)?.checked_sub(EPOCH_MICROS).filter(|micros| *micros >= FIRST_MICROS)
}

/// Rounded to the nearest microsecond, as PostgreSQL rounds.
fn micros(nanos: i128) -> i64 {
    ((nanos + 500).div_euclid(1000)) as i64
}

/// The text that PostgreSQL reads back: for the elements of arrays, which travel as text.
pub fn write_timestamptz(value: i64) -> String {
    word(value).unwrap_or_else(|| match Timestamp::from_microsecond(value.saturating_add(EPOCH_MICROS)) {
        Ok(timestamp) => with_era(timestamp.to_string()),
        Err(_) => String::from("infinity"),
    })
}

pub fn write_timestamp(value: i64) -> String {
    let at = |v| EPOCH_DATE.to_datetime(Time::midnight()).saturating_add(SignedDuration::from_micros(v)).to_string();
    word(value).unwrap_or_else(|| with_era(at(value)))
}

pub fn write_date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".into(),
        i32::MIN => "-infinity".into(),
        days => with_era(EPOCH_DATE.saturating_add(SignedDuration::from_hours(i64::from(days) * 24)).to_string()),
    }
}

/// ISO 8601 has a year 0 and years before it, which PostgreSQL reads as 1 BC and so on.
fn with_era(text: String) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.as_str()), |digits| (-1, digits));
    match digits.split_once('-').map(|(year, rest)| (year.parse::<i16>().map(|year| sign * year), rest)) {
        Some((Ok(year), rest)) if year <= 0 => format!("{:04}-{rest} BC", 1 - year),
        _ => text,
    }
}

pub fn write_time(value: i64) -> String {
    Time::midnight().saturating_add(SignedDuration::from_micros(value)).to_string()
}

fn word(value: i64) -> Option<String> {
    match value {
        i64::MAX => Some("infinity".into()),
        i64::MIN => Some("-infinity".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Days that are none, leap years, digits that are none, and everything that stands at the edge of a range.
        #[test]
        fn the_plain_form_says_what_the_whole_grammar_says(
            (year, month, day) in (0u16..10_000, 0u8..14, 0u8..33),
            (hour, minute, second) in (0u8..26, 0u8..62, 0u8..62),
            fraction in "(\\.[0-9]{0,9})?",
            (place, byte) in (0usize..120, " -:tzZ.0-9+"),
        ) {
            let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z");
            if place < text.len() {
                text.replace_range(place..=place, &byte);
            }
            if let Some(micros) = plain_utc(&text) {
                prop_assert_eq!(any_instant(&text), Ok(micros), "{}", text);
            }
        }
    }

    #[test]
    fn the_plain_form_is_read_as_such() {
        for text in ["2026-01-02T03:04:05Z", "2024-02-29T23:59:59.1Z", "0001-01-01T00:00:00.123456Z"] {
            assert_eq!(plain_utc(text).map(Ok), Some(any_instant(text)), "{text}");
        }
        for text in
            ["2023-02-29T00:00:00Z", "2026-01-02T03:04:05.1234567Z", "2026-01-02T03:04:60Z", "2026-01-02T03:04:05."]
        {
            assert_eq!(plain_utc(text), None, "{text}");
        }
    }

    #[test]
    fn instants() {
        for (text, expected) in [
            ("2000-01-01T00:00:00Z", Ok(0)),
            ("2000-01-01 00:00:00+00", Ok(0)),
            ("2000-01-01T01:30:00+01:30", Ok(0)),
            ("2000-01-01T00:00:00.000001Z", Ok(1)),
            ("2000-01-01T00:00:00.0000015Z", Ok(2)),
            ("1999-12-31T23:59:59.999999Z", Ok(-1)),
            ("2000-01-01T00:00:00", Err(NO_OFFSET)),
            ("infinity", Ok(i64::MAX)),
            ("-infinity", Ok(i64::MIN)),
            ("yesterday", Err(NOT_ISO)),
            ("", Err(NOT_ISO)),
        ] {
            assert_eq!(timestamptz(text), expected, "{text}");
        }
    }

    #[test]
    fn local_times() {
        for (text, expected) in [
            ("2000-01-01T00:00:01", Ok(1_000_000)),
            ("2000-01-01 00:00:01.5", Ok(1_500_000)),
            ("2000-01-02", Ok(86_400_000_000)),
            ("2000-01-01T00:00:01Z", Ok(1_000_000)),
            ("2000-01-01T00:00:01+02:00", Err(OFFSET)),
            ("2000-01-01T00:00:01-02", Err(OFFSET)),
            ("1999-12-31T23:59:59", Ok(-1_000_000)),
            ("x", Err(NOT_ISO)),
        ] {
            assert_eq!(timestamp(text), expected, "{text}");
        }
    }

    #[test]
    fn dates_and_times_of_day() {
        assert_eq!(date("2000-02-01"), Ok(31));
        assert_eq!(date("1999-12-31"), Ok(-1));
        assert_eq!(date("infinity"), Ok(i32::MAX));
        assert!(date("2000-01-01T10:00:00").is_err());
        assert_eq!(date("2000-02-30"), Err(NOT_ISO));
        assert_eq!(time("00:00:01.000002"), Ok(1_000_002));
        assert_eq!(time("23:59:59"), Ok(86_399_000_000));
        assert!(time("2000-01-01T10:00:00").is_err());
        assert_eq!(time("25:00:00"), Err(NOT_ISO));
    }

    #[test]
    fn before_the_first_year() {
        let second = 1_000_000;
        let midnight = timestamptz("0000-01-01T00:00:00Z").unwrap();
        assert_eq!(write_timestamptz(midnight), "0001-01-01T00:00:00Z BC");
        assert_eq!(write_timestamptz(midnight - second), "0002-12-31T23:59:59Z BC");
        assert_eq!(write_timestamp(timestamp("-000044-03-15T12:00:00.5").unwrap()), "0045-03-15T12:00:00.5 BC");
        assert_eq!(write_date(date("-000044-03-15").unwrap()), "0045-03-15 BC");
        assert_eq!(write_date(date("0001-01-01").unwrap()), "0001-01-01");
    }

    #[test]
    fn the_first_day() {
        assert_eq!((date("-004713-11-24"), write_date(FIRST_DAY)), (Ok(FIRST_DAY), "4714-11-24 BC".into()));
        assert_eq!(date("-004713-11-23"), Err(TOO_EARLY));
        assert_eq!(timestamp("-004713-11-24T00:00:00"), Ok(FIRST_MICROS));
        assert_eq!(timestamp("-004713-11-23T23:59:59.999999"), Err(TOO_EARLY));
        assert_eq!(timestamptz("-004713-11-24T00:00:00Z"), Ok(FIRST_MICROS));
        assert_eq!(timestamptz("-004713-11-24T00:00:00+01:00"), Err(TOO_EARLY));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [0, 1, -1, 123_456_789_012_345, -123_456_789_012_345, i64::MAX, i64::MIN] {
            assert_eq!(timestamptz(&write_timestamptz(value)), Ok(value));
            assert_eq!(timestamp(&write_timestamp(value)), Ok(value));
        }
        assert_eq!(time(&write_time(86_399_999_999)), Ok(86_399_999_999));
    }
}
