//! JSON arrays as PostgreSQL's array literals. They travel as text, because `unnest` would flatten an array of arrays.

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::sink::encode::{Kind, Scratch};

/// PostgreSQL's MAXDIM (src/include/utils/array.h).
const DIMENSIONS_MAX: usize = 6;

const RAGGED: &str = "an array whose rows differ in length";
const DIMENSIONS: &str = "an array of more than six dimensions";

/// Appends the literal for the array `raw`, whose elements are of the given kind.
pub fn literal(element: &Kind, raw: &str, into: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), &'static str> {
    let mut writer =
        Writer { element, scratch, out: String::new(), text: String::new(), lengths: Vec::new(), leaf: None };
    writer.array(raw, 0)?;
    // An array without elements has no dimensions, however it was nested.
    let literal = if writer.lengths.contains(&0) { "{}" } else { &writer.out };
    into.extend_from_slice(literal.as_bytes());
    Ok(())
}

struct Writer<'a> {
    element: &'a Kind,
    scratch: &'a mut Scratch,
    out: String,
    /// One element, unquoted.
    text: String,
    /// The length of each dimension.
    lengths: Vec<usize>,
    /// At which depth elements were found: all must be at the same.
    leaf: Option<usize>,
}

impl Writer<'_> {
    fn array(&mut self, raw: &str, depth: usize) -> Result<(), &'static str> {
        if depth == DIMENSIONS_MAX {
            return Err(DIMENSIONS);
        }
        self.out.push('{');
        let mut fault = None;
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        let visited = deserializer.deserialize_seq(Elements { writer: self, depth, fault: &mut fault });
        self.out.push('}');
        match (fault, visited) {
            (Some(fault), _) => Err(fault),
            (None, Err(_)) => Err("an array that is not valid JSON"),
            (None, Ok(length)) => self.length_is(depth, length),
        }
    }

    fn length_is(&mut self, depth: usize, length: usize) -> Result<(), &'static str> {
        // Inner arrays end before the outer ones.
        if self.lengths.len() <= depth {
            self.lengths.resize(depth + 1, usize::MAX);
        }
        match self.lengths[depth] {
            usize::MAX => self.lengths[depth] = length,
            known if known != length => return Err(RAGGED),
            _ => {}
        }
        Ok(())
    }

    fn value(&mut self, raw: &str, depth: usize) -> Result<(), &'static str> {
        // A JSON element may itself be an array; then it is a value, not a dimension.
        let nests = !matches!(self.element, Kind::Json | Kind::Jsonb);
        if nests && raw.starts_with('[') {
            return self.array(raw, depth + 1);
        }
        if *self.leaf.get_or_insert(depth) != depth {
            return Err(RAGGED);
        }
        if raw == "null" {
            self.out.push_str("NULL");
            return Ok(());
        }
        self.text.clear();
        self.element.encode_element(raw, &mut self.text, self.scratch)?;
        self.out.push('"');
        for character in self.text.chars() {
            if matches!(character, '"' | '\\') {
                self.out.push('\\');
            }
            self.out.push(character);
        }
        self.out.push('"');
        Ok(())
    }
}

struct Elements<'w, 'a, 'f> {
    writer: &'w mut Writer<'a>,
    depth: usize,
    fault: &'f mut Option<&'static str>,
}

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = usize;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(raw) = elements.next_element::<&RawValue>()? {
            if count > 0 {
                self.writer.out.push(',');
            }
            count += 1;
            if let Err(fault) = self.writer.value(raw.get(), self.depth) {
                *self.fault = Some(fault);
                return Err(serde::de::Error::custom(""));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(element: &Kind, raw: &str, expected: Result<&str, &'static str>) {
        let mut out = Vec::new();
        let result = literal(element, raw, &mut out, &mut Scratch::default());
        assert_eq!(result.map(|()| String::from_utf8(out).unwrap()).as_deref(), expected.as_deref(), "{raw}");
    }

    #[test]
    fn literals() {
        let text = Kind::Text { chars_max: None };
        check(&Kind::Int4, "[1, 2, null]", Ok(r#"{"1","2",NULL}"#));
        check(&Kind::Int4, "[[1,2],[3,4]]", Ok(r#"{{"1","2"},{"3","4"}}"#));
        check(&Kind::Int4, "[[],[]]", Ok("{}"));
        check(&Kind::Int4, "[]", Ok("{}"));
        check(&Kind::Int4, "[[1],[2,3]]", Err(RAGGED));
        check(&Kind::Int4, "[1,[2]]", Err(RAGGED));
        check(&Kind::Int4, "[null,[2]]", Err(RAGGED));
        check(&Kind::Int4, "[[[[[[[1]]]]]]]", Err(DIMENSIONS));
        check(&Kind::Int4, r#"["x"]"#, Err(crate::sink::number::NOT_A_NUMBER));
        check(&text, r#"["a\"b", "c\\d", "", "NULL", "{x,y}", " "]"#, Ok(r#"{"a\"b","c\\d","","NULL","{x,y}"," "}"#));
        check(&Kind::Bool, "[true,false]", Ok(r#"{"true","false"}"#));
        check(&Kind::Jsonb, r#"[{"a":1},[1,2]]"#, Ok(r#"{"{\"a\":1}","[1,2]"}"#));
        check(&Kind::Bytea, r#"["aGk="]"#, Ok(r#"{"\\x6869"}"#));
        check(&Kind::Date, r#"["2024-02-29"]"#, Ok(r#"{"2024-02-29"}"#));
        check(&Kind::TimestampTz, r#"["2024-02-29T01:00:00+01"]"#, Ok(r#"{"2024-02-29T00:00:00Z"}"#));
        check(&Kind::Float8, "[1.5, 1e300]", Ok(r#"{"1.5e0","1e300"}"#));
        check(&Kind::Numeric { rounds: None }, "[12345678901234567890.10]", Ok(r#"{"12345678901234567890.10"}"#));
    }
}
