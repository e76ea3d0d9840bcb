//! What a refusal says to a client who knows the request, and neither the table nor what was made of the request here.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::config::problem::did_you_mean;
use crate::ingest::problem::Problem;
use crate::ingest::rules::{Parameter, Variant};
use crate::metrics::labelled::Refused;
use crate::sink::encode::Kind;
use crate::sink::fault::{Fault, Place, What};
use crate::state::placement::Misplaced;
use crate::state::router::RouteError;

/// As much as is said of an enum's labels.
const LABELS_CHARS_MAX: usize = 80;

/// Of the consumer's decoder; `body` is what the client sent.
pub fn fault(variant: &Variant, fault: &Fault, body: &[u8]) -> Problem {
    let what = |field: Option<&str>| match fault.what() {
        What::Differs { expected, found } => Problem::differs(Refused::Unfit, field, found.clone(), expected.clone()),
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

pub fn syntax(line: usize, column: usize) -> Cow<'static, str> {
    format!("no valid JSON at line {line}, column {column}").into()
}

pub fn not_json(found: Cow<'static, str>) -> Problem {
    Problem::differs(Refused::NotJson, None, found, "a JSON object")
}

pub fn contradiction(parameter: &Parameter, found: &'static str) -> Problem {
    Problem::differs(Refused::Contradiction, Some(&parameter.name), found, "what the path says, or nothing")
}

pub fn misplaced(misplaced: Misplaced) -> Problem {
    let refused = match misplaced {
        Misplaced::Route(RouteError::Unreadable(_) | RouteError::Unmapped) => Refused::Tenant,
        _ => Refused::Unknown,
    };
    match misplaced {
        Misplaced::Route(RouteError::Unmapped) => Problem::new(refused, "no shard is known for this tenant"),
        other => Problem::new(refused, other.to_string()),
    }
}

/// What a column takes.
pub fn expected(kind: &Kind, type_name: &str) -> String {
    let Kind::Enum(labels) = kind else { return type_name.to_owned() };
    let labels: Vec<String> = labels.iter().map(|label| format!("{label:?}")).collect();
    let labels = labels.join(", ");
    if labels.chars().count() > LABELS_CHARS_MAX { type_name.to_owned() } else { format!("one of {labels}") }
}
