//! The record's key, made of the fields that were located, in their canonical texts; and whether the tenant is written as the router needs it.

use super::document::{Document, push_json};
use super::words;
use crate::ingest::problem::Problem;
use crate::ingest::rules::{KeyRule, Piece, Variant};
use crate::metrics::labelled::Refused;
use crate::sink::decode::Found;
use crate::sink::encode::{Kind, Scratch};
use crate::sink::json;
use crate::sink::table::TableWriter;

/// PostgreSQL's B-trees take no entry beyond 2704 bytes, headers included (`BTMaxItemSize`), unless it can be compressed. That goes for the
/// columns of a primary key, and for a record's key, which is made of what tells rows apart.
const KEY_BYTES_MAX: usize = 2600;

/// See the module's text. Its buffers are used again.
#[derive(Default)]
pub struct Key {
    key: String,
    /// Of the column at hand: encoded, and its text.
    bytes: Vec<u8>,
    text: String,
    scratch: Scratch,
}

/// The primary key of the row that was checked last.
pub fn check_primary(variant: &Variant, writer: &TableWriter) -> Result<(), Problem> {
    let bytes = |column: usize| writer.checked_cell(column).map_or(0, <[u8]>::len);
    let columns = 0..variant.plan.pk;
    let longest = columns.clone().max_by_key(|column| bytes(*column));
    fits_an_index(longest.map(|column| variant.fields[column].as_str()), columns.map(bytes).sum())
}

fn fits_an_index(field: Option<&str>, length: usize) -> Result<(), Problem> {
    if length <= KEY_BYTES_MAX {
        return Ok(());
    }
    let expected = format!("at most {KEY_BYTES_MAX}: no index takes more");
    Err(Problem::differs(Refused::Unfit, field, format!("a key of {length} bytes"), expected))
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// Of the fields that were located.
    pub fn make(&mut self, variant: &Variant, writer: &TableWriter, document: &Document) -> Result<(), Problem> {
        self.key.clear();
        match &variant.key {
            KeyRule::Format(pieces) => {
                for (n, piece) in pieces.iter().enumerate() {
                    match piece {
                        Piece::Literal(text) => self.key.push_str(text),
                        Piece::Column(column) => {
                            self.part(variant, writer, document, *column)?;
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
                    self.part(variant, writer, document, *column)?;
                    self.key.push(if n == 0 { '{' } else { ',' });
                    self.key.push_str(label);
                    push_json(&variant.plan.columns[*column].kind, &self.text, &mut self.key);
                }
                self.key.push('}');
            }
        }
        fits_an_index(None, self.key.len())
    }

    /// The router goes by the tenant as it is written. Equal values that are written in several ways would be several tenants, and their one row
    /// in several databases.
    pub fn tenant(&mut self, variant: &Variant, writer: &TableWriter, document: &Document) -> Result<(), Problem> {
        let Some(column) = variant.tenant else { return Ok(()) };
        let (of, field) = (&variant.plan.columns[column], Some(variant.fields[column].as_str()));
        let Found::At(from, to) = writer.located(column) else { return Ok(()) };
        let raw = &document.text()[from as usize..to as usize];
        self.bytes.clear();
        of.kind.encode(raw, &mut self.bytes, &mut self.scratch).map_err(|found| {
            Problem::differs(Refused::Unfit, field, found, words::expected(&of.kind, &of.type_name))
        })?;
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
    fn part(
        &mut self,
        variant: &Variant,
        writer: &TableWriter,
        document: &Document,
        column: usize,
    ) -> Result<(), Problem> {
        let of = &variant.plan.columns[column];
        let field = Some(variant.fields[column].as_str());
        let refuse = |found: &'static str| {
            Err(Problem::differs(
                Refused::Unfit,
                field,
                found,
                format!("{}: it is part of the key", words::expected(&of.kind, &of.type_name)),
            ))
        };
        let (from, to) = match writer.located(column) {
            Found::Absent => return refuse("nothing"),
            Found::Null => return refuse("null"),
            Found::At(from, to) => (from as usize, to as usize),
        };
        self.bytes.clear();
        if let Err(found) = of.kind.encode(&document.text()[from..to], &mut self.bytes, &mut self.scratch) {
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
}
