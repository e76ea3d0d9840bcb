//! One JSON value to one column's bytes: what PostgreSQL's binary protocol carries for the type, or a text that the
//! statement casts where a binary form is not worth its code. Refuses what the column could not hold, so that a record's
//! fault is found before the database is asked. Its errors say what kind of thing was found, never the thing.

use std::fmt::Write;
use std::net::IpAddr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use postgres::types::Type;
use serde::{Deserialize, Serialize};

use crate::sink::number::{self, Number};
use crate::sink::{array, json, moment};

/// What a column can be, as far as encoding is concerned. Domains are what they are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// With the precision and the scale of a `numeric(p, s)`, which rounds what it gets.
    Numeric {
        rounds: Option<(i64, i64)>,
    },
    /// text, varchar, char; with the length of a `varchar(n)`.
    Text {
        chars_max: Option<usize>,
    },
    Name,
    Uuid,
    TimestampTz,
    Timestamp,
    Date,
    Time,
    Json,
    Jsonb,
    Bytea,
    /// Strings that PostgreSQL reads itself: interval, citext, timetz, macaddr.
    Opaque,
    Inet,
    Cidr,
    Enum(Vec<String>),
    Array(Box<Kind>),
}

/// Buffers that conversions use again.
#[derive(Debug, Default)]
pub struct Scratch {
    pub string: String,
    pub bytes: Vec<u8>,
}

/// PostgreSQL cuts a longer one off (<https://www.postgresql.org/docs/15/datatype-character.html>, type `name`).
const NAME_BYTES_MAX: usize = 63;

const LABEL: &str = "a string that is not one of its labels";
const TOO_LONG: &str = "a string that is too long";
const BASE64: &str = "a string that is not base64";
const NUL: &str = "a string with a zero byte";
const NO_ADDRESS: &str = "a string that is not an IP address or network";

/// Base64 as RFC 4648 section 4 has it, with or without its padding.
const BASE64_ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Kind {
    /// The array type in which a group's values of this column travel.
    pub fn carrier(&self) -> Type {
        match self {
            Kind::Bool => Type::BOOL_ARRAY,
            Kind::Int2 => Type::INT2_ARRAY,
            Kind::Int4 => Type::INT4_ARRAY,
            Kind::Int8 => Type::INT8_ARRAY,
            Kind::Float4 => Type::FLOAT4_ARRAY,
            Kind::Float8 => Type::FLOAT8_ARRAY,
            Kind::Uuid => Type::UUID_ARRAY,
            Kind::TimestampTz => Type::TIMESTAMPTZ_ARRAY,
            Kind::Timestamp => Type::TIMESTAMP_ARRAY,
            Kind::Date => Type::DATE_ARRAY,
            Kind::Time => Type::TIME_ARRAY,
            Kind::Json => Type::JSON_ARRAY,
            Kind::Jsonb => Type::JSONB_ARRAY,
            Kind::Bytea => Type::BYTEA_ARRAY,
            _ => Type::TEXT_ARRAY,
        }
    }

    /// Whether a string says all there is to say: what a key, a header or a key's part can be read as.
    pub fn reads_text(&self) -> bool {
        !matches!(self, Kind::Json | Kind::Jsonb | Kind::Array(_))
    }

    /// Appends the bytes of a JSON value that is not null.
    pub fn encode(&self, raw: &str, into: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), &'static str> {
        let first = raw.as_bytes().first().copied().unwrap_or(b'n');
        match (self, first) {
            (Kind::Jsonb, _) => {
                json::check(raw, true)?;
                // The version of jsonb's binary form.
                into.push(1);
                into.extend_from_slice(raw.as_bytes());
                Ok(())
            }
            (Kind::Json, _) => {
                json::check(raw, false)?;
                into.extend_from_slice(raw.as_bytes());
                Ok(())
            }
            (Kind::Array(element), b'[') => {
                json::check(raw, false)?;
                array::literal(element, raw, into, scratch)
            }
            (Kind::Bool, b't' | b'f') => {
                into.push(u8::from(first == b't'));
                Ok(())
            }
            (Kind::Bool | Kind::Array(_), _) => Err(json::kind(raw)),
            (_, b'"') => {
                let text = json::string(raw, &mut scratch.string)?;
                self.encode_text(text, into)
            }
            (_, b'-' | b'0'..=b'9') if self.is_number() => self.encode_text(raw, into),
            (Kind::TimestampTz | Kind::Timestamp | Kind::Date | Kind::Time, b'-' | b'0'..=b'9') => {
                Err("a number (seconds or milliseconds? only ISO 8601 strings are read)")
            }
            _ => Err(json::kind(raw)),
        }
    }

    fn is_number(&self) -> bool {
        use Kind::*;
        matches!(self, Int2 | Int4 | Int8 | Float4 | Float8 | Numeric { .. })
    }

    /// Appends the bytes of a value given as text.
    pub fn encode_text(&self, text: &str, into: &mut Vec<u8>) -> Result<(), &'static str> {
        match self {
            Kind::Bool => match text {
                "true" => into.push(1),
                "false" => into.push(0),
                _ => return Err("a string"),
            },
            Kind::Int2 => into.extend_from_slice(&narrow::<i16>(text)?.to_be_bytes()),
            Kind::Int4 => into.extend_from_slice(&narrow::<i32>(text)?.to_be_bytes()),
            Kind::Int8 => into.extend_from_slice(&number::integer(text)?.to_be_bytes()),
            Kind::Float4 => {
                let value: f32 = text.parse().map_err(|_| number::NOT_A_NUMBER)?;
                in_range(f64::from(value), text)?;
                into.extend_from_slice(&value.to_be_bytes());
            }
            Kind::Float8 => {
                let value: f64 = text.parse().map_err(|_| number::NOT_A_NUMBER)?;
                in_range(value, text)?;
                into.extend_from_slice(&value.to_be_bytes());
            }
            Kind::Numeric { rounds } => match (Number::parse(text), *rounds) {
                (None, _) => return Err(number::NOT_A_NUMBER),
                (Some(Number::Finite(decimal)), _) if !decimal.fits() => return Err(number::OUT_OF_RANGE),
                (Some(Number::Finite(decimal)), Some((precision, scale))) if !decimal.fits_in(precision, scale) => {
                    return Err(number::OUT_OF_RANGE);
                }
                (Some(Number::Infinity | Number::NegativeInfinity), Some(_)) => return Err(number::OUT_OF_RANGE),
                (Some(_), _) => into.extend_from_slice(text.as_bytes()),
            },
            Kind::Text { chars_max } => {
                without_nul(text)?;
                if let Some(max) = *chars_max
                    && text.len() > max
                    // PostgreSQL cuts off blanks that are too many, and nothing else.
                    && text.chars().skip(max).any(|c| c != ' ')
                {
                    return Err(TOO_LONG);
                }
                into.extend_from_slice(text.as_bytes());
            }
            Kind::Name => {
                without_nul(text)?;
                if text.len() > NAME_BYTES_MAX {
                    return Err(TOO_LONG);
                }
                into.extend_from_slice(text.as_bytes());
            }
            Kind::Uuid => {
                let id = uuid::Uuid::try_parse(text).map_err(|_| "a string that is not a UUID")?;
                into.extend_from_slice(id.as_bytes());
            }
            Kind::TimestampTz => into.extend_from_slice(&moment::timestamptz(text)?.to_be_bytes()),
            Kind::Timestamp => into.extend_from_slice(&moment::timestamp(text)?.to_be_bytes()),
            Kind::Date => into.extend_from_slice(&moment::date(text)?.to_be_bytes()),
            Kind::Time => into.extend_from_slice(&moment::time(text)?.to_be_bytes()),
            Kind::Bytea => BASE64_ENGINE.decode_vec(text, into).map_err(|_| BASE64)?,
            Kind::Opaque => {
                without_nul(text)?;
                into.extend_from_slice(text.as_bytes());
            }
            Kind::Inet | Kind::Cidr => {
                address(text, *self == Kind::Cidr)?;
                into.extend_from_slice(text.as_bytes());
            }
            Kind::Enum(labels) => {
                let label = labels.iter().find(|label| *label == text).ok_or(LABEL)?;
                into.extend_from_slice(label.as_bytes());
            }
            Kind::Json | Kind::Jsonb | Kind::Array(_) => return Err("a string"),
        }
        Ok(())
    }

    /// Appends a value of an array's element as text, unquoted. `raw` is neither null nor an array.
    pub fn encode_element(&self, raw: &str, into: &mut String, scratch: &mut Scratch) -> Result<(), &'static str> {
        let mut bytes = std::mem::take(&mut scratch.bytes);
        bytes.clear();
        let encoded = self.encode(raw, &mut bytes, scratch);
        let written = encoded.map(|()| self.write_element(&bytes, into));
        scratch.bytes = bytes;
        written
    }

    /// What [`Kind::encode`] wrote, as the text that PostgreSQL's input functions read: one for each value.
    pub fn write_element(&self, bytes: &[u8], into: &mut String) {
        let int8 = || bytes.try_into().map(i64::from_be_bytes).unwrap_or_default();
        let written = match self {
            Kind::Bool => write!(into, "{}", bytes == [1]),
            Kind::Int2 => write!(into, "{}", bytes.try_into().map(i16::from_be_bytes).unwrap_or_default()),
            Kind::Int4 => write!(into, "{}", bytes.try_into().map(i32::from_be_bytes).unwrap_or_default()),
            Kind::Int8 => write!(into, "{}", int8()),
            Kind::Float4 => write!(into, "{:e}", bytes.try_into().map(f32::from_be_bytes).unwrap_or_default()),
            Kind::Float8 => write!(into, "{:e}", bytes.try_into().map(f64::from_be_bytes).unwrap_or_default()),
            Kind::Uuid => write!(into, "{}", uuid::Uuid::from_slice(bytes).unwrap_or_default()),
            Kind::TimestampTz => into.write_str(&moment::write_timestamptz(int8())),
            Kind::Timestamp => into.write_str(&moment::write_timestamp(int8())),
            Kind::Date => {
                let days = bytes.try_into().map(i32::from_be_bytes).unwrap_or_default();
                into.write_str(&moment::write_date(days))
            }
            Kind::Time => into.write_str(&moment::write_time(int8())),
            Kind::Bytea => into.write_str("\\x").and_then(|()| bytes.iter().try_for_each(|b| write!(into, "{b:02x}"))),
            Kind::Jsonb => into.write_str(std::str::from_utf8(&bytes[1..]).unwrap_or_default()),
            _ => into.write_str(std::str::from_utf8(bytes).unwrap_or_default()),
        };
        debug_assert!(written.is_ok(), "writing to a string");
    }

    /// Whether [`Kind::key`] tells exactly those values apart that PostgreSQL tells apart.
    pub fn has_exact_key(&self) -> bool {
        !matches!(self, Kind::Json | Kind::Jsonb | Kind::Opaque | Kind::Inet | Kind::Cidr | Kind::Array(_))
    }

    /// Appends bytes that are equal exactly for values that are equal in PostgreSQL.
    pub fn key(&self, encoded: &[u8], into: &mut Vec<u8>) {
        match self {
            Kind::Numeric { .. } => match std::str::from_utf8(encoded).ok().and_then(Number::parse) {
                Some(number) => number.key(into),
                None => into.extend_from_slice(encoded),
            },
            // The two zeros are equal, and so are all NaNs.
            Kind::Float4 | Kind::Float8 => match float(encoded) {
                0.0 => into.extend_from_slice(&0f64.to_be_bytes()),
                value if value.is_nan() => into.extend_from_slice(&f64::NAN.to_be_bytes()),
                value => into.extend_from_slice(&value.to_be_bytes()),
            },
            _ => into.extend_from_slice(encoded),
        }
    }

    /// Whether `a` is greater than `b` in PostgreSQL's order; none where we do not know that order (collations).
    pub fn is_greater(&self, a: &[u8], b: &[u8]) -> Option<bool> {
        let signed = |bytes: &[u8]| bytes.first().map(|first| first ^ 0x80);
        match self {
            Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::TimestampTz | Kind::Timestamp | Kind::Date | Kind::Time => {
                Some((signed(a), a) > (signed(b), b))
            }
            Kind::Float4 | Kind::Float8 => {
                let (a, b) = (float(a), float(b));
                Some(a > b || (a.is_nan() && !b.is_nan()))
            }
            Kind::Numeric { rounds: None } => {
                let number = |bytes| std::str::from_utf8(bytes).ok().and_then(Number::parse);
                Some(number(a)?.order(&number(b)?).is_gt())
            }
            Kind::Uuid | Kind::Bytea => Some(a > b),
            _ => None,
        }
    }
}

fn float(encoded: &[u8]) -> f64 {
    match (encoded.try_into().map(f64::from_be_bytes), encoded.try_into().map(f32::from_be_bytes)) {
        (Ok(value), _) => value,
        (_, Ok(value)) => f64::from(value),
        _ => f64::NAN,
    }
}

fn narrow<T: TryFrom<i64>>(text: &str) -> Result<T, &'static str> {
    T::try_from(number::integer(text)?).map_err(|_| number::OUT_OF_RANGE)
}

/// A number too great for a float, or so small that nothing is left of it, is out of range; the word "infinity" is not.
fn in_range(value: f64, text: &str) -> Result<(), &'static str> {
    let mantissa = || text.split(['e', 'E']).next().unwrap_or_default();
    let lost = value == 0.0 && mantissa().contains(|c: char| matches!(c, '1'..='9'));
    if lost || (value.is_infinite() && text.contains(|c: char| c.is_ascii_digit())) {
        return Err(number::OUT_OF_RANGE);
    }
    Ok(())
}

fn without_nul(text: &str) -> Result<(), &'static str> {
    if text.as_bytes().contains(&0) { Err(NUL) } else { Ok(()) }
}

/// An address, with or without the length of its network; where that is all there may be, nothing is behind it.
fn address(text: &str, is_network: bool) -> Result<(), &'static str> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let (bits, length_max) = match address.parse().map_err(|_| NO_ADDRESS)? {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    // As PostgreSQL reads it: digits, and for IPv6 no zero before others.
    let is_length = |digits: &str| {
        let plain = digits.len() == 1 || !digits.starts_with('0') || length_max == 32;
        plain && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let length = match length {
        None => length_max,
        Some(digits) => digits.parse().ok().filter(|n| *n <= length_max && is_length(digits)).ok_or(NO_ADDRESS)?,
    };
    let behind = bits.checked_shl(length).unwrap_or(0);
    if is_network && behind != 0 { Err("a network with bits to the right of its mask") } else { Ok(()) }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
