//! The request's fields in one text: those of the path before those of the body, so that the decoder sees an object like any other
//! record's; and what of it is published, with no field twice.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::words;
use crate::ingest::problem::Problem;
use crate::ingest::rules::{Parameter, Variant, has_one_text};
use crate::metrics::labelled::Refused;
use crate::sink::decode::Found;
use crate::sink::encode::{Kind, Scratch};
use crate::sink::json;
use crate::sink::table::TableWriter;

/// Integers beyond it are not the same to every reader of JSON (RFC 8259, 6).
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;

/// What becomes the record's value.
#[derive(Clone, Copy)]
pub enum Published {
    Null,
    Body,
    /// [`Document::value`].
    Made,
}

/// See the module's text. Its buffers are used again.
#[derive(Default)]
pub struct Document {
    text: String,
    /// How long the path's fields are.
    prefix: usize,
    /// The parameters' values, encoded; each with its end.
    parameters: Vec<u8>,
    ends: Vec<usize>,
    value: String,
    other: Vec<u8>,
    scratch: Scratch,
    field: String,
}

impl Document {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is published, where that is not the body as it came.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Of a request without a body.
    pub fn close(&mut self) {
        self.text.push('}');
    }

    /// Whether that is the value of one of the path's parameters, of this kind.
    pub fn says(&self, n: usize, kind: &Kind, value: &[u8]) -> bool {
        is_equal(kind, self.parameter(n), value)
    }

    /// The encoded value of one of the path's parameters.
    fn parameter(&self, n: usize) -> &[u8] {
        of_parameter(&self.parameters, &self.ends, n)
    }

    /// Encodes the path's values, and writes them down as the first fields of an object that is not closed yet.
    pub fn begin(&mut self, variant: &Variant, values: &[Cow<'_, str>]) -> Result<(), Problem> {
        self.text.clear();
        self.text.push('{');
        self.parameters.clear();
        self.ends.clear();
        for (n, (parameter, value)) in variant.parameters.iter().zip(values).enumerate() {
            let column = &variant.plan.columns[parameter.column];
            column.kind.encode_text(value, &mut self.parameters).map_err(|found| {
                let expected = words::expected(&column.kind, &column.type_name);
                Problem::differs(Refused::Unfit, Some(&parameter.name), format!("{found}, in the path"), expected)
            })?;
            self.ends.push(self.parameters.len());
            if n > 0 {
                self.text.push(',');
            }
            let encoded = of_parameter(&self.parameters, &self.ends, n);
            push_field(parameter, &column.kind, value, encoded, &mut self.field, &mut self.text);
        }
        self.prefix = self.text.len();
        Ok(())
    }

    /// Adds what is inside of the body's object, which is returned.
    pub fn append<'b>(&mut self, variant: &Variant, body: &'b [u8]) -> Result<&'b str, Problem> {
        let body = std::str::from_utf8(body).map_err(|_| words::not_json("bytes that are not UTF-8".into()))?;
        let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let Some(inner) = body.trim_start_matches(blank).strip_prefix('{') else {
            let found = match serde_json::from_str::<IgnoredAny>(body) {
                Ok(_) => json::kind(body.trim_start_matches(blank)).into(),
                Err(_) if body.trim_start_matches(blank).is_empty() => "nothing".into(),
                Err(error) => words::syntax(error.line(), error.column()),
            };
            return Err(words::not_json(found));
        };
        let is_empty = inner.trim_start_matches(blank).starts_with('}');
        if !variant.parameters.is_empty() && !is_empty {
            self.text.push(',');
        }
        self.text.push_str(inner);
        Ok(inner)
    }

    /// What the body says of the path's parameters must be what the path says. Writes the value that is published: no field twice.
    pub fn agree(
        &mut self,
        variant: &Variant,
        writer: &TableWriter,
        values: &[Cow<'_, str>],
        inner: &str,
    ) -> Result<Published, Problem> {
        let mut made = false;
        self.value.clear();
        self.value.push('{');
        for (n, (parameter, text)) in variant.parameters.iter().zip(values).enumerate() {
            let kind = &variant.plan.columns[parameter.column].kind;
            let value = of_parameter(&self.parameters, &self.ends, n);
            match writer.located(parameter.column) {
                Found::At(at, _) if (at as usize) < self.prefix => {
                    if made {
                        self.value.push(',');
                    }
                    made = true;
                    push_field(parameter, kind, text, value, &mut self.field, &mut self.value);
                }
                Found::At(at, to) => {
                    let raw = &self.text[at as usize..to as usize];
                    self.other.clear();
                    // What does not fit the column is told by whoever judges the columns.
                    let fits = kind.encode(raw, &mut self.other, &mut self.scratch).is_ok();
                    if fits && !is_equal(kind, value, &self.other) {
                        return Err(words::contradiction(parameter, "another value in the body"));
                    }
                }
                Found::Null => return Err(words::contradiction(parameter, "null in the body")),
                Found::Absent => unreachable!("it was written into the document"),
            }
        }
        if !made {
            return Ok(Published::Body);
        }
        if self.text.as_bytes().get(self.prefix) == Some(&b',') {
            self.value.push(',');
        }
        self.value.push_str(inner);
        Ok(Published::Made)
    }
}

/// The encoded value of one of the path's parameters.
fn of_parameter<'p>(parameters: &'p [u8], ends: &[usize], n: usize) -> &'p [u8] {
    let from = n.checked_sub(1).map_or(0, |before| ends[before]);
    &parameters[from..ends[n]]
}

/// Writes a parameter as a field: in its canonical form, where its type has one.
fn push_field(parameter: &Parameter, kind: &Kind, given: &str, encoded: &[u8], text: &mut String, into: &mut String) {
    into.push_str(&parameter.json);
    text.clear();
    match has_one_text(kind) {
        true => kind.write_element(encoded, text),
        false => text.push_str(given),
    }
    push_json(kind, text, into);
}

/// As PostgreSQL compares them.
fn is_equal(kind: &Kind, a: &[u8], b: &[u8]) -> bool {
    let key = |bytes: &[u8]| {
        let mut key = Vec::new();
        kind.key(bytes, &mut key);
        key
    };
    a == b || key(a) == key(b)
}

/// A canonical text as JSON: a number or a boolean where the column has them and every reader takes them for the same.
pub fn push_json(kind: &Kind, text: &str, into: &mut String) {
    let is_plain = match kind {
        Kind::Bool | Kind::Int2 | Kind::Int4 => true,
        Kind::Int8 => text.parse::<i64>().is_ok_and(|n| n.unsigned_abs() <= SAFE_INTEGER_MAX as u64),
        _ => false,
    };
    if is_plain {
        return into.push_str(text);
    }
    into.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => into.extend(['\\', c]),
            c if c.is_control() && c.is_ascii() => into.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => into.push(c),
        }
    }
    into.push('"');
}
