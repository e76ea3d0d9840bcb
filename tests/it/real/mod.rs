//! The program on real services, as an operator runs it: what it applies, what stops it, and what it survives.

pub mod admin;
mod bad_input;
mod bench;
mod chaos;
mod compare;
mod contention;
mod end_to_end;
mod failover;
mod faults;
mod forwarding;
mod groups;
mod hot_keys;
mod maps;
mod pace;
mod parked_commands;
mod parking;
pub mod pinning;
mod seeing;
mod shards;
mod tenants;

use std::collections::BTreeMap;
use std::ops::Range;

use postgres::Client;

use crate::support::{Topic, produce_at};

/// The append-only table of most tests: one row for each record, numbered by the database in the order of insertion.
pub const LEDGER: &str = "CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                          p int NOT NULL, o bigint NOT NULL, k text, seq bigint NOT NULL)";

/// The part of a configuration that writes a topic to `ledger`.
pub fn ledger_topic(topic: &str) -> String {
    format!(
        "[[topic]]\nname = {topic:?}\ntable = \"ledger\"\n\
         [topic.columns]\np = \"@partition\"\no = \"@offset\"\nk = \"@key\"\n"
    )
}

pub fn shard(name: &str, dsn: &str) -> String {
    format!("[[shard]]\nname = {name:?}\ndsn = {dsn:?}\n")
}

/// One record as a test writes it down: partition, key, value.
pub type Record = (i32, Option<String>, Option<String>);

/// Record number `seq` of a topic: keys take turns, and a key keeps its partition.
pub fn record(seq: i64, keys: i64, partitions: i32) -> Record {
    let key = seq % keys;
    let partition = (key % i64::from(partitions)) as i32;
    (partition, Some(format!("key {key}")), Some(format!("{{\"seq\":{seq}}}")))
}

/// Publishes records with these numbers.
pub fn publish(topic: &Topic, numbers: Range<i64>, keys: i64) {
    let records: Vec<Record> = numbers.map(|seq| record(seq, keys, topic.partitions())).collect();
    publish_all(topic, &records);
}

pub fn publish_all(topic: &Topic, records: &[Record]) {
    fn bytes(text: &Option<String>) -> Option<&[u8]> {
        text.as_deref().map(str::as_bytes)
    }
    produce_at(topic.bootstrap(), topic.name(), records.iter().map(|(p, k, v)| (*p, bytes(k), bytes(v))));
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub partition: i32,
    pub offset: i64,
    pub id: i64,
    pub key: Option<String>,
    pub seq: i64,
}

/// The ledger by partition and offset.
pub fn ledger(client: &mut Client) -> Vec<Entry> {
    let rows = client.query("SELECT p, o, id, k, seq FROM ledger ORDER BY p, o, id", &[]).unwrap();
    let entry = |row: &postgres::Row| Entry {
        partition: row.get(0),
        offset: row.get(1),
        id: row.get(2),
        key: row.get(3),
        seq: row.get(4),
    };
    rows.iter().map(entry).collect()
}

/// The guarantees, on a ledger: every record of every partition below its end exactly once, none from beyond, and the rows
/// of one key in the order of their offsets. Keys must not repeat across partitions.
#[track_caller]
pub fn assert_complete(entries: &[Entry], ends: &BTreeMap<i32, i64>) {
    for (&partition, &end) in ends {
        let found: Vec<i64> = entries.iter().filter(|e| e.partition == partition).map(|e| e.offset).collect();
        let twice: Vec<i64> = found.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
        assert!(twice.is_empty(), "partition {partition}: applied twice: {}", few(&twice));
        let missing: Vec<i64> = (0..end).filter(|offset| found.binary_search(offset).is_err()).collect();
        assert!(missing.is_empty(), "partition {partition} up to {end}: never applied: {}", few(&missing));
        assert_eq!(found.len() as i64, end, "partition {partition}: records from beyond its end");
    }
    assert_in_order(entries);
}

/// Per key: later offsets have later rows and later numbers. The entries are sorted by partition and offset.
#[track_caller]
pub fn assert_in_order(entries: &[Entry]) {
    let mut last: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in entries {
        let Some(key) = entry.key.as_deref() else { continue };
        if let Some(before) = last.insert(key, entry) {
            assert!(
                before.id < entry.id && before.seq < entry.seq && before.offset < entry.offset,
                "out of order: {before:?} and then {entry:?}"
            );
        }
    }
}

fn few(of: &[i64]) -> String {
    format!("{} of them, {:?} …", of.len(), &of[..of.len().min(20)])
}

/// Where each partition of a topic ends now.
pub fn ends(topic: &Topic) -> BTreeMap<i32, i64> {
    (0..topic.partitions()).map(|p| (p, topic.watermarks(p).1)).collect()
}

/// How many rows a table has.
pub fn count(client: &mut Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0)
}

/// The rows of a query that returns one column of text.
pub fn texts(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}
