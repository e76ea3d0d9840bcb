//! Random sequences of operations: a batch has the effect of its records one by one, on the real database.

use forebay::config::{InsertMode, Table};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Record, database, rows, table, tombstone, value, write, writer};

/// What a random record does to one of a few rows.
#[derive(Debug, Clone)]
enum Step {
    Write { id: u8, a: Option<Option<u8>>, b: Option<u8>, version: u8 },
    Delete { id: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0u8..4;
    let a = proptest::option::of(proptest::option::of(0u8..5));
    let write = (id.clone(), a, proptest::option::of(0u8..5), 0u8..6).prop_map(|(id, a, b, version)| Step::Write {
        id,
        a,
        b,
        version,
    });
    proptest::collection::vec(prop_oneof![3 => write, 1 => id.prop_map(|id| Step::Delete { id })], 1..20)
}

fn record(step: &Step) -> Record {
    match step {
        Step::Delete { id } => tombstone(&format!("{id}")),
        Step::Write { id, a, b, version } => {
            let mut payload = format!(r#"{{"id":{id},"version":{version}"#);
            if let Some(a) = a {
                payload += &format!(r#","a":{}"#, a.map_or("null".into(), |a| a.to_string()));
            }
            if let Some(b) = b {
                payload += &format!(r#","b":{b}"#);
            }
            value(&(payload + "}"))
        }
    }
}

fn check(id_type: &str, configure: impl Fn(&mut Table)) {
    let (_database, mut client) = database();
    for name in ["whole", "single"] {
        client
            .batch_execute(&format!(
                "CREATE TABLE {name} (id {id_type} PRIMARY KEY, a int DEFAULT 9, b int DEFAULT 8, version int)"
            ))
            .unwrap();
    }
    let mut writers = ["whole", "single"].map(|name| {
        let mut table = table(name, InsertMode::Upsert, &["id"]);
        table.delete_enabled = true;
        configure(&mut table);
        writer(&mut client, &table)
    });
    let mut runner = TestRunner::new(Config { cases: 100, failure_persistence: None, ..Config::default() });
    let client = std::cell::RefCell::new(client);
    let writers = std::cell::RefCell::new(&mut writers);
    runner
        .run(&steps(), |steps| {
            let (mut client, mut writers) = (client.borrow_mut(), writers.borrow_mut());
            let records: Vec<Record> = steps.iter().map(record).collect();
            // Some rows are there already, of an earlier batch.
            let seed = "INSERT INTO %s VALUES (0, 1, 1, 3), (1, 2, NULL, NULL)";
            for name in ["whole", "single"] {
                client.batch_execute(&format!("TRUNCATE {name}; {}", seed.replace("%s", name))).unwrap();
            }
            let whole = write(&mut client, &mut writers[0], &records);
            for record in &records {
                write(&mut client, &mut writers[1], std::slice::from_ref(record)).unwrap();
            }
            let counts = whole.unwrap();
            prop_assert!((counts.upserted + counts.deleted + counts.folded) as usize == records.len());
            prop_assert_eq!(rows(&mut client, "whole"), rows(&mut client, "single"));
            Ok(())
        })
        .unwrap();
}

#[test]
fn upserts_and_deletes() {
    check("int", |_| {});
}

#[test]
fn updates_and_deletes() {
    check("int", |table| table.insert_mode = InsertMode::Update);
}

#[test]
fn guarded_upserts() {
    check("int", |table| table.guard = Some("version".into()));
}

#[test]
fn guarded_updates() {
    check("int", |table| {
        table.guard = Some("version".into());
        table.insert_mode = InsertMode::Update;
    });
}

#[test]
fn unchanged_rows_are_skipped() {
    check("int", |table| table.skip_unchanged = true);
}

#[test]
fn keys_whose_equality_only_the_database_knows() {
    check("numeric(3, 0)", |_| {});
}
