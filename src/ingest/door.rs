//! Is a request a record that its table can take, and which record is it: value, key, partition. Value in, value out: it waits for nobody,
//! knows no connection and asks no clock. Types and fields are judged by the consumer's own decoder, so that the two cannot disagree.
//!
//! What only the database can tell passes: unique and foreign keys, CHECK and exclusion constraints, what triggers refuse, the texts of types
//! that PostgreSQL reads itself (interval, citext, macaddr), and whether the row of a partial PATCH is there. Then it is a dead letter, as of any
//! other producer.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::config::ingest::{Method, Mode};
use crate::config::problem::did_you_mean;
use crate::ingest::problem::Problem;
use crate::ingest::rules::{KeyRule, Parameter, Piece, RouteRules, Rules, Variant, has_one_text};
use crate::metrics::labelled::Refused;
use crate::sink::decode::Found;
use crate::sink::encode::{Kind, Scratch};
use crate::sink::fault::{Fault, Place, What};
use crate::sink::fold::Op;
use crate::sink::json;
use crate::sink::plan::TablePlan;
use crate::sink::table::TableWriter;
use crate::state::chunk::{Headers, RawRecord, RecordRef};
use crate::state::placement::Misplaced;
use crate::state::router::RouteError;
use crate::types::{Offset, ShardIx};

/// Integers beyond it are not the same to every reader of JSON (RFC 8259, 6).
const SAFE_INTEGER_MAX: i64 = (1 << 53) - 1;
/// A key is that of a row, and PostgreSQL's B-trees take no entry beyond 2704 bytes, headers included (`BTMaxItemSize`), unless it can be
/// compressed.
const KEY_BYTES_MAX: usize = 2600;
/// As much as is said of an enum's labels.
const LABELS_CHARS_MAX: usize = 80;

/// What of a request matters here.
pub struct Asked<'r> {
    pub route: usize,
    pub method: Method,
    /// Of the path, in its order.
    pub values: &'r [Cow<'r, str>],
    pub body: &'r [u8],
    /// Packed, under the records' names.
    pub headers: &'r [u8],
    pub now_ms: i64,
}

/// A record that its table can take, as far as anybody knows here.
#[derive(Debug)]
pub struct Passed<'d> {
    pub topic: usize,
    pub shard: ShardIx,
    pub partition: i32,
    pub key: &'d [u8],
    pub value: Option<&'d [u8]>,
    /// What it was judged by.
    pub plan: Arc<TablePlan>,
}

/// One thread's: rules, and buffers that are used again.
pub struct Door {
    rules: Arc<Rules>,
    /// By route and variant.
    writers: Vec<Vec<TableWriter>>,
    work: Work,
}

#[derive(Default)]
struct Work {
    /// The body with the path's parameters before its own fields, and how long those are.
    document: String,
    prefix: usize,
    /// The parameters' values, encoded; each with its end.
    parameters: Vec<u8>,
    ends: Vec<usize>,
    /// What is published.
    value: String,
    key: String,
    /// Of the columns in the key, and the two sides of a comparison.
    bytes: Vec<u8>,
    other: Vec<u8>,
    text: String,
    scratch: Scratch,
}

impl Door {
    pub fn new(rules: Arc<Rules>) -> Door {
        let writers = |route: &Result<RouteRules, String>| {
            let variants = route.iter().flat_map(|route| &route.variants);
            variants.map(|variant| TableWriter::new(Arc::clone(&variant.plan))).collect()
        };
        Door { writers: rules.routes.iter().map(writers).collect(), rules, work: Work::default() }
    }

    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// # Errors
    /// Why it is refused.
    pub fn check<'d>(&'d mut self, asked: &'d Asked<'_>) -> Result<Passed<'d>, Problem> {
        let rules = Arc::clone(&self.rules);
        let unknown = |why: &str| Problem::new(Refused::Unknown, why.to_owned());
        let route = rules.routes[asked.route].as_ref().map_err(|why| unknown(why))?;
        let placement = rules.placements[route.topic].as_ref();
        let needs_partition = route.mode == Mode::Async || rules.router.asks_partitions();
        if placement.is_none() && needs_partition {
            return Err(unknown("the brokers have not said yet how many partitions the topic has"));
        }
        let writers = &mut self.writers[asked.route];
        let mut refusal = None;
        for (index, (variant, writer)) in route.variants.iter().zip(writers).enumerate() {
            let published = match self.work.pass(variant, writer, asked) {
                Ok(published) => published,
                Err(problem) => {
                    refusal.get_or_insert(problem);
                    continue;
                }
            };
            let value = match published {
                Published::Null => None,
                Published::Body => Some(asked.body),
                Published::Made => Some(self.work.value.as_bytes()),
            };
            let key = self.work.key.as_bytes();
            let record = RawRecord {
                offset: Offset(0),
                timestamp_ms: asked.now_ms,
                key: Some(key),
                value,
                headers: asked.headers,
            };
            let place = match placement {
                Some(placement) if needs_partition => {
                    placement.place(&rules.router, &record).map(|place| (place.shard, place.partition))
                }
                // Its row needs no partition, and no broker.
                _ => rules.router.route(0, &record).map(|shard| (shard, 0)).map_err(Misplaced::Route),
            };
            let (shard, partition) = place.map_err(misplaced)?;
            match &route.of_shard[usize::from(shard.0)] {
                Ok(own) if *own == index => {}
                // It fits another form of the table than its own shard has.
                Ok(_) => continue,
                Err(why) => return Err(unknown(why)),
            }
            // Borrowed again, because a borrow that is returned would last through the loop.
            let topic = route.topic;
            let made = matches!(published, Published::Made);
            let value = if made { Some(self.work.value.as_bytes()) } else { value.map(|_| asked.body) };
            let plan = Arc::clone(&variant.plan);
            return Ok(Passed { topic, shard, partition, key: self.work.key.as_bytes(), value, plan });
        }
        Err(refusal.unwrap_or_else(|| unknown("the shards' tables differ, and this fits none of them as a whole")))
    }
}

/// What becomes the record's value.
#[derive(Clone, Copy)]
enum Published {
    Null,
    Body,
    /// `Work::value`.
    Made,
}

impl Work {
    fn pass(&mut self, variant: &Variant, writer: &mut TableWriter, asked: &Asked<'_>) -> Result<Published, Problem> {
        self.parameters(variant, asked)?;
        if asked.method == Method::Delete {
            return self.delete(variant, writer, asked).map(|()| Published::Null);
        }
        let inner = self.compose(variant, asked)?;
        writer.locate(&self.document).map_err(|fault| self.fault(variant, &fault, asked.body))?;
        let published = self.agree(variant, writer, asked, inner)?;
        self.key(variant, writer)?;
        self.tenant(variant, writer)?;
        let record = self.record(asked, Some(self.document.as_bytes()));
        let op = writer.check_only(&record).map_err(|fault| self.fault(variant, &fault, asked.body))?;
        // A PATCH may be of a row that is there, and leaves alone what it does not name.
        let is_new = matches!((op, asked.method), (Op::Insert, _) | (Op::Upsert, Method::Put | Method::Post));
        if is_new && let Some(missing) = variant.required.without(&writer.checked_mask()).iter().next() {
            let expected = format!("a value: {}, NOT NULL without a default", variant.plan.columns[missing].type_name);
            return Err(Problem::differs(Refused::Unfit, Some(&variant.fields[missing]), "nothing", expected));
        }
        Ok(published)
    }

    fn record<'w>(&'w self, asked: &Asked<'w>, value: Option<&'w [u8]>) -> RecordRef<'w> {
        RecordRef {
            partition: 0,
            offset: Offset(0),
            timestamp_ms: asked.now_ms,
            key: Some(self.key.as_bytes()),
            value,
            headers: Headers(asked.headers),
        }
    }

    /// Encodes the path's values, and writes them down as the first fields of an object that is not closed yet.
    fn parameters(&mut self, variant: &Variant, asked: &Asked<'_>) -> Result<(), Problem> {
        self.document.clear();
        self.document.push('{');
        self.parameters.clear();
        self.ends.clear();
        for (n, (parameter, value)) in variant.parameters.iter().zip(asked.values).enumerate() {
            let column = &variant.plan.columns[parameter.column];
            column.kind.encode_text(value, &mut self.parameters).map_err(|found| {
                let expected = expected(&column.kind, &column.type_name);
                Problem::differs(Refused::Unfit, Some(&parameter.name), format!("{found}, in the path"), expected)
            })?;
            self.ends.push(self.parameters.len());
            if n > 0 {
                self.document.push(',');
            }
            let encoded = of_parameter(&self.parameters, &self.ends, n);
            push_field(parameter, &column.kind, value, encoded, &mut self.text, &mut self.document);
        }
        self.prefix = self.document.len();
        Ok(())
    }

    /// Adds what is inside of the body's object, which is returned.
    fn compose<'b>(&mut self, variant: &Variant, asked: &Asked<'b>) -> Result<&'b str, Problem> {
        let body = std::str::from_utf8(asked.body).map_err(|_| not_json("bytes that are not UTF-8".into()))?;
        let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let Some(inner) = body.trim_start_matches(blank).strip_prefix('{') else {
            let found = match serde_json::from_str::<IgnoredAny>(body) {
                Ok(_) => json::kind(body.trim_start_matches(blank)).into(),
                Err(_) if body.trim_start_matches(blank).is_empty() => "nothing".into(),
                Err(error) => syntax(error.line(), error.column()),
            };
            return Err(not_json(found));
        };
        let is_empty = inner.trim_start_matches(blank).starts_with('}');
        if !variant.parameters.is_empty() && !is_empty {
            self.document.push(',');
        }
        self.document.push_str(inner);
        Ok(inner)
    }

    /// What the body says of the path's parameters must be what the path says. Writes the value that is published: no field twice.
    fn agree(
        &mut self,
        variant: &Variant,
        writer: &TableWriter,
        asked: &Asked<'_>,
        inner: &str,
    ) -> Result<Published, Problem> {
        let mut made = false;
        self.value.clear();
        self.value.push('{');
        for (n, (parameter, text)) in variant.parameters.iter().zip(asked.values).enumerate() {
            let kind = &variant.plan.columns[parameter.column].kind;
            let value = of_parameter(&self.parameters, &self.ends, n);
            match writer.located(parameter.column) {
                Found::At(at, _) if (at as usize) < self.prefix => {
                    if made {
                        self.value.push(',');
                    }
                    made = true;
                    push_field(parameter, kind, text, value, &mut self.text, &mut self.value);
                }
                Found::At(at, to) => {
                    let raw = &self.document[at as usize..to as usize];
                    self.other.clear();
                    // What does not fit the column is told by whoever judges the columns.
                    let fits = kind.encode(raw, &mut self.other, &mut self.scratch).is_ok();
                    if fits && !is_equal(kind, value, &self.other) {
                        return Err(contradiction(parameter, "another value in the body"));
                    }
                }
                Found::Null => return Err(contradiction(parameter, "null in the body")),
                Found::Absent => unreachable!("it was written into the document"),
            }
        }
        if !made {
            return Ok(Published::Body);
        }
        if self.document.as_bytes().get(self.prefix) == Some(&b',') {
            self.value.push(',');
        }
        self.value.push_str(inner);
        Ok(Published::Made)
    }

    /// Of the fields that were located.
    fn key(&mut self, variant: &Variant, writer: &TableWriter) -> Result<(), Problem> {
        self.key.clear();
        match &variant.key {
            KeyRule::Format(pieces) => {
                for (n, piece) in pieces.iter().enumerate() {
                    match piece {
                        Piece::Literal(text) => self.key.push_str(text),
                        Piece::Column(column) => {
                            self.key_part(variant, writer, *column)?;
                            let behind = match pieces.get(n + 1) {
                                // Behind the last field a literal is the key's end, wherever it occurs.
                                Some(Piece::Literal(text)) if variant.key_is_read && n + 2 < pieces.len() => {
                                    text.as_str()
                                }
                                _ => "",
                            };
                            // Whoever takes the key apart ends the field where the literal occurs first.
                            let end = self.text.len();
                            self.text.push_str(behind);
                            if !behind.is_empty() && self.text.find(behind) != Some(end) {
                                let found = format!("{behind:?} in it, which ends it in the key");
                                let field = Some(variant.fields[*column].as_str());
                                return Err(Problem::differs(Refused::Unfit, field, found, "a value without it"));
                            }
                            self.key.push_str(&self.text[..end]);
                        }
                    }
                }
            }
            KeyRule::Json(fields) => {
                for (n, (label, column)) in fields.iter().enumerate() {
                    self.key_part(variant, writer, *column)?;
                    self.key.push(if n == 0 { '{' } else { ',' });
                    self.key.push_str(label);
                    push_json(&variant.plan.columns[*column].kind, &self.text, &mut self.key);
                }
                self.key.push('}');
            }
        }
        if self.key.len() > KEY_BYTES_MAX {
            let (found, expected) = (format!("a key of {} bytes", self.key.len()), "at most 2600: no index takes more");
            return Err(Problem::differs(Refused::Unfit, None, found, expected));
        }
        Ok(())
    }

    /// The router goes by the tenant as it is written. Equal values that are written in several ways would be several tenants, and their one row
    /// in several databases.
    fn tenant(&mut self, variant: &Variant, writer: &TableWriter) -> Result<(), Problem> {
        let Some(column) = variant.tenant else { return Ok(()) };
        let (of, field) = (&variant.plan.columns[column], Some(variant.fields[column].as_str()));
        let Found::At(from, to) = writer.located(column) else { return Ok(()) };
        let raw = &self.document[from as usize..to as usize];
        self.bytes.clear();
        of.kind
            .encode(raw, &mut self.bytes, &mut self.scratch)
            .map_err(|found| Problem::differs(Refused::Unfit, field, found, expected(&of.kind, &of.type_name)))?;
        self.text.clear();
        of.kind.write_element(&self.bytes, &mut self.text);
        let written = match raw.starts_with('"') {
            true => json::string(raw, &mut self.scratch.string).unwrap_or(raw),
            false => raw,
        };
        if written == self.text {
            return Ok(());
        }
        let expected = "as PostgreSQL writes it: it names the tenant, which decides where the row is";
        Err(Problem::differs(Refused::Unfit, field, format!("another form of {}", of.type_name), expected))
    }

    /// The canonical text of a column of the key, into `text`; its encoded form is in `bytes`.
    fn key_part(&mut self, variant: &Variant, writer: &TableWriter, column: usize) -> Result<(), Problem> {
        let of = &variant.plan.columns[column];
        let field = Some(variant.fields[column].as_str());
        let refuse = |found: &'static str| {
            Err(Problem::differs(
                Refused::Unfit,
                field,
                found,
                format!("{}: it is part of the key", expected(&of.kind, &of.type_name)),
            ))
        };
        let (from, to) = match writer.located(column) {
            Found::Absent => return refuse("nothing"),
            Found::Null => return refuse("null"),
            Found::At(from, to) => (from as usize, to as usize),
        };
        self.bytes.clear();
        if let Err(found) = of.kind.encode(&self.document[from..to], &mut self.bytes, &mut self.scratch) {
            return refuse(found);
        }
        self.text.clear();
        of.kind.write_element(&self.bytes, &mut self.text);
        match of.kind {
            // PostgreSQL would cut the blanks off, and the row would be another one than the key says.
            Kind::Text { chars_max: Some(max) } if self.text.chars().count() > max => {
                refuse("a string that is too long")
            }
            _ => Ok(()),
        }
    }

    /// A null value under the key that the path makes; the consumer must find the same row by it.
    fn delete(&mut self, variant: &Variant, writer: &mut TableWriter, asked: &Asked<'_>) -> Result<(), Problem> {
        if !asked.body.is_empty() {
            return Err(Problem::differs(Refused::NotJson, None, "a body", "none with DELETE"));
        }
        self.document.push('}');
        writer.locate(&self.document).map_err(|fault| self.fault(variant, &fault, b""))?;
        self.key(variant, writer)?;
        let record = self.record(asked, None);
        writer.check_only(&record).map_err(|fault| self.fault(variant, &fault, b""))?;
        for (n, parameter) in variant.parameters.iter().enumerate() {
            let value = of_parameter(&self.parameters, &self.ends, n);
            let kind = &variant.plan.columns[parameter.column].kind;
            let is_same = |found: Option<&[u8]>| found.is_some_and(|found| is_equal(kind, value, found));
            if parameter.column < variant.plan.pk && !is_same(writer.checked_cell(parameter.column)) {
                let found = "a value that cannot be read back from the key";
                return Err(Problem::differs(Refused::Unfit, Some(&parameter.name), found, "another one"));
            }
        }
        Ok(())
    }

    fn fault(&self, variant: &Variant, fault: &Fault, body: &[u8]) -> Problem {
        let what = |field: Option<&str>| match fault.what() {
            What::Differs { expected, found } => {
                Problem::differs(Refused::Unfit, field, found.clone(), expected.clone())
            }
            what => Problem::new(Refused::Unfit, what.to_string()),
        };
        match (fault.place(), fault.what()) {
            (_, What::Syntax { line, column }) => {
                // As the client counts, who has not seen what was put before its fields.
                let own = serde_json::from_slice::<IgnoredAny>(body).err().map(|e| (e.line(), e.column()));
                let (line, column) = own.unwrap_or((*line, *column));
                not_json(syntax(line, column))
            }
            (Place::Field(name), What::Said(_)) => {
                let known = did_you_mean(name, variant.fields.iter().map(String::as_str));
                let expected = match known {
                    Some(near) => format!("a field that a column takes; did you mean {near:?}?"),
                    None => "a field that a column takes".to_owned(),
                };
                Problem::differs(Refused::Unfit, Some(name), "an unknown field", expected)
            }
            (Place::Field(name), _) => what(Some(name)),
            (Place::Column(name), said) => {
                let column = variant.plan.columns.iter().position(|column| column.name == *name);
                let field = column.map_or(name.as_str(), |column| &variant.fields[column]);
                match (column, said) {
                    (Some(column), What::Differs { expected: said, found }) => {
                        let of = &variant.plan.columns[column];
                        let is_type = said.as_ref() == of.type_name;
                        let expected = if is_type { expected(&of.kind, &of.type_name) } else { said.to_string() };
                        Problem::differs(Refused::Unfit, Some(field), found.clone(), expected)
                    }
                    _ => what(Some(field)),
                }
            }
            _ => what(None),
        }
    }
}

fn syntax(line: usize, column: usize) -> Cow<'static, str> {
    format!("no valid JSON at line {line}, column {column}").into()
}

fn not_json(found: Cow<'static, str>) -> Problem {
    Problem::differs(Refused::NotJson, None, found, "a JSON object")
}

fn contradiction(parameter: &Parameter, found: &'static str) -> Problem {
    Problem::differs(Refused::Contradiction, Some(&parameter.name), found, "what the path says, or nothing")
}

fn misplaced(misplaced: Misplaced) -> Problem {
    let refused = match misplaced {
        Misplaced::Route(RouteError::Unreadable(_) | RouteError::Unmapped) => Refused::Tenant,
        _ => Refused::Unknown,
    };
    match misplaced {
        Misplaced::Route(RouteError::Unmapped) => Problem::new(refused, "no shard is known for this tenant"),
        other => Problem::new(refused, other.to_string()),
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

fn expected(kind: &Kind, type_name: &str) -> String {
    let Kind::Enum(labels) = kind else { return type_name.to_owned() };
    let labels: Vec<String> = labels.iter().map(|label| format!("{label:?}")).collect();
    let labels = labels.join(", ");
    if labels.chars().count() > LABELS_CHARS_MAX { type_name.to_owned() } else { format!("one of {labels}") }
}

/// A canonical text as JSON: a number or a boolean where the column has them and every reader takes them for the same.
fn push_json(kind: &Kind, text: &str, into: &mut String) {
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

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
