//! Why a record was refused before the database was asked: where, what was expected there, and what kind of thing was found. It never says
//! what a value was.

use std::borrow::Cow;
use std::fmt;

/// See the module's text. As small as a pointer: hardly any record has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    place: Place,
    what: What,
}

/// What of a record is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Payload,
    /// The key of a null value.
    Key,
    /// That says whether the record is a delete.
    DeleteField,
    /// Of the payload.
    Field(String),
    Column(String),
    /// The record as a whole.
    Record,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The payload is no JSON; where that shows.
    Syntax {
        line: usize,
        column: usize,
    },
    Differs {
        expected: Cow<'static, str>,
        found: Cow<'static, str>,
    },
    Said(Cow<'static, str>),
}

impl Fault {
    pub fn new(place: Place, what: What) -> Fault {
        Fault(Box::new(Parts { place, what }))
    }

    pub fn differs(place: Place, expected: impl Into<Cow<'static, str>>, found: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(place, What::Differs { expected: expected.into(), found: found.into() })
    }

    pub fn said(place: Place, what: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(place, What::Said(what.into()))
    }

    pub fn place(&self) -> &Place {
        &self.0.place
    }

    pub fn what(&self) -> &What {
        &self.0.what
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Payload => f.write_str("the payload: "),
            Place::Key => f.write_str("the key of a null value: "),
            Place::DeleteField => f.write_str("the delete field: "),
            Place::Field(name) => write!(f, "field {name:?}: "),
            Place::Column(name) => write!(f, "column {name:?}: "),
            Place::Record => Ok(()),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Syntax { line, column } => write!(f, "not valid JSON at line {line}, column {column}"),
            What::Differs { expected, found } => write!(f, "expected {expected}, found {found}"),
            What::Said(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.place, self.0.what)
    }
}
