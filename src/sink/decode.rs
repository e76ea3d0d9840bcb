//! A record's JSON, read once: finds the slices of the fields that columns want, and nothing else. Values stay borrowed
//! and unread until a column takes them; fields that nobody wants are stepped over.
//!
//! Of a key that occurs twice in one object the last occurrence counts, as in PostgreSQL's jsonb. A null where an object
//! was expected is a null for every column below it: the record says that there is no such thing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::sink::fault::{Fault, Place, What};

/// What a field is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Its value goes into this cell.
    Cell(usize),
    /// Known, but not written.
    Skip,
}

/// The fields of an object that matter, and of the objects in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldTree {
    /// By length and name.
    fields: Vec<(Box<str>, Node)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// A field may feed several columns.
    cells: Vec<usize>,
    /// What is wanted from inside of it.
    inside: Option<FieldTree>,
}

impl FieldTree {
    /// Adds the field at the end of `path`.
    pub fn insert(&mut self, path: &[String], slot: Slot) {
        let Some((name, rest)) = path.split_first() else { return };
        let at = match self.find(name) {
            Ok(at) => at,
            Err(at) => {
                self.fields.insert(at, (name.as_str().into(), Node::default()));
                at
            }
        };
        let node = &mut self.fields[at].1;
        match (rest, slot) {
            ([], Slot::Cell(cell)) if !node.cells.contains(&cell) => node.cells.push(cell),
            ([], _) => {}
            _ => node.inside.get_or_insert_default().insert(rest, slot),
        }
    }

    /// The cells that a field of the object itself goes into; none for one that is not known. Parts of it may be wanted, too.
    pub fn cells(&self, name: &str) -> Option<&[usize]> {
        self.find(name).ok().map(|at| self.fields[at].1.cells.as_slice())
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.fields.binary_search_by(|(known, _)| (known.len(), known.as_bytes()).cmp(&(name.len(), name.as_bytes())))
    }

    fn each_cell(&self, visit: &mut impl FnMut(usize)) {
        for (_, node) in &self.fields {
            node.each_cell(visit);
        }
    }
}

impl Node {
    fn each_cell(&self, visit: &mut impl FnMut(usize)) {
        self.cells.iter().copied().for_each(&mut *visit);
        if let Some(inside) = &self.inside {
            inside.each_cell(visit);
        }
    }
}

/// Where in the document a cell's value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Absent,
    Null,
    At(u32, u32),
}

/// Fills `cells` with where the tree's fields are in `document`.
pub fn find(tree: &FieldTree, document: &str, unknown_is_error: bool, cells: &mut [Found]) -> Result<(), Fault> {
    cells.fill(Found::Absent);
    let mut search = Search { document, unknown_is_error, cells, fault: None };
    let mut deserializer = serde_json::Deserializer::from_str(document);
    let object = Object { tree, search: &mut search, path: None };
    let result = object.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (search.fault, result) {
        (Some(fault), _) => Err(fault),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => {
            Err(Fault::new(Place::Payload, What::Syntax { line: error.line(), column: error.column() }))
        }
    }
}

struct Search<'s> {
    document: &'s str,
    unknown_is_error: bool,
    cells: &'s mut [Found],
    fault: Option<Fault>,
}

impl Search<'_> {
    fn fail<E: Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("")
    }

    /// A slice of the document, by its place in it.
    fn locate(&self, raw: &str) -> Found {
        if raw == "null" {
            return Found::Null;
        }
        let at = raw.as_ptr() as usize - self.document.as_ptr() as usize;
        Found::At(at as u32, (at + raw.len()) as u32)
    }
}

/// An object whose fields are wanted; `path` names it in messages, none for the document itself.
struct Object<'t, 's, 'd> {
    tree: &'t FieldTree,
    search: &'s mut Search<'d>,
    path: Option<&'t str>,
}

impl Object<'_, '_, '_> {
    fn refuse<E: Error>(self, found: &'static str) -> E {
        let fault = match self.path {
            None => Fault::differs(Place::Payload, "a JSON object", found),
            Some(name) => Fault::differs(Place::Field(name.to_owned()), "an object", found),
        };
        self.search.fail(fault)
    }
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(known) = map.next_key_seed(Name(self.tree, self.search.unknown_is_error))? {
            match known {
                Ok(at) => {
                    let (name, node) = &self.tree.fields[at];
                    self.search.field(name, node, &mut map)?;
                }
                Err(Unknown(name)) if self.search.unknown_is_error => {
                    return Err(self.search.fail(Fault::said(Place::Field(name), "no column of that name")));
                }
                Err(_) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.path.is_none() {
            return Err(self.refuse("null"));
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(self.refuse("a string"))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an array"))
    }
}

impl Search<'_> {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, node: &Node, map: &mut A) -> Result<(), A::Error> {
        let Some(inside) = &node.inside else {
            if node.cells.is_empty() {
                return map.next_value::<IgnoredAny>().map(drop);
            }
            let raw = map.next_value::<&RawValue>()?.get();
            let found = self.locate(raw);
            for &cell in &node.cells {
                self.cells[cell] = found;
            }
            return Ok(());
        };
        // The whole and parts of it are wanted, or only parts. What an earlier field of this name said is void.
        let raw = map.next_value::<&RawValue>()?.get();
        let found = self.locate(raw);
        let inner = if found == Found::Null { Found::Null } else { Found::Absent };
        inside.each_cell(&mut |cell| self.cells[cell] = inner);
        for &cell in &node.cells {
            self.cells[cell] = found;
        }
        let mut deserializer = serde_json::Deserializer::from_str(raw);
        // What is wrong inside of it is known by its fault; its syntax has been checked.
        Object { tree: inside, search: self, path: Some(name) }.deserialize(&mut deserializer).map_err(A::Error::custom)
    }
}

/// A field's name, looked up; copied only where it will be needed for a message.
struct Name<'t>(&'t FieldTree, bool);

/// Nobody wants it. Kept short: it goes into a message.
struct Unknown(String);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Result<usize, Unknown>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = Result<usize, Unknown>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let length = if self.1 { 100 } else { 0 };
        Ok(self.0.find(name).map_err(|_| Unknown(name.chars().take(length).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> FieldTree {
        let mut tree = FieldTree::default();
        let paths: [(&[&str], usize); 5] =
            [(&["id"], 0), (&["geo", "country"], 1), (&["geo", "city"], 2), (&["geo"], 3), (&["id"], 4)];
        for (path, cell) in paths {
            let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
            tree.insert(&path, Slot::Cell(cell));
        }
        tree.insert(&["skipped".to_owned()], Slot::Skip);
        tree
    }

    /// The cells as text: `-` for absent.
    fn check(document: &str, unknown_is_error: bool, expected: Result<[&str; 5], &str>) {
        let mut cells = [Found::Absent; 5];
        let result = find(&tree(), document, unknown_is_error, &mut cells);
        let found = cells.map(|cell| match cell {
            Found::Absent => "-",
            Found::Null => "null",
            Found::At(from, to) => &document[from as usize..to as usize],
        });
        let result = result.map(|()| found).map_err(|fault| fault.to_string());
        assert_eq!(result, expected.map_err(str::to_owned), "{document}");
    }

    #[test]
    fn fields_are_found() {
        check(r#"{}"#, true, Ok(["-"; 5]));
        check(r#" {"id": 1 , "skipped":[{"id":2}]} "#, true, Ok(["1", "-", "-", "-", "1"]));
        check(r#"{"i\u0064":"x","other":{"id":3}}"#, false, Ok([r#""x""#, "-", "-", "-", r#""x""#]));
        let geo = r#"{"country":"DE","x":1}"#;
        check(&format!(r#"{{"geo":{geo}}}"#), false, Ok(["-", r#""DE""#, "-", geo, "-"]));
        check(r#"{"geo":null}"#, true, Ok(["-", "null", "null", "null", "-"]));
        check(r#"{"geo":{}}"#, true, Ok(["-", "-", "-", "{}", "-"]));
    }

    #[test]
    fn of_equal_names_the_last_one_counts() {
        check(r#"{"id":1,"id":2}"#, true, Ok(["2", "-", "-", "-", "2"]));
        check(r#"{"geo":{"country":1},"geo":{"city":2}}"#, true, Ok(["-", "-", "2", r#"{"city":2}"#, "-"]));
        check(r#"{"geo":{"country":1},"geo":null}"#, true, Ok(["-", "null", "null", "null", "-"]));
        check(r#"{"geo":null,"geo":{}}"#, true, Ok(["-", "-", "-", "{}", "-"]));
    }

    #[test]
    fn faults_name_fields_and_never_values() {
        check(r#"{"geo":"secret"}"#, false, Err(r#"field "geo": expected an object, found a string"#));
        check(r#"{"geo":{"continent":"secret"}}"#, true, Err(r#"field "continent": no column of that name"#));
        check(r#"{"other":"secret"}"#, true, Err(r#"field "other": no column of that name"#));
        check(r#"{"id":secret}"#, true, Err("the payload: not valid JSON at line 1, column 7"));
        check(r#"{"id":1}{}"#, true, Err("the payload: not valid JSON at line 1, column 9"));
        check("[1]", true, Err("the payload: expected a JSON object, found an array"));
        check("1e400", true, Err("the payload: not valid JSON at line 1, column 5"));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(r#"{{"other":{}{},"id":1}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
        check(&deep, false, Ok(["1", "-", "-", "-", "1"]));
    }
}
