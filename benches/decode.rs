//! What a record costs between the channel and the database: `TableWriter::load` on batches of 500 updates of 236 bytes,
//! seven columns (two uuid, two text, integer, timestamptz, jsonb). Prints nanoseconds per record; needs no service.
//!
//! `cargo bench --bench decode`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use forebay::config::{Delivery, InsertMode, OnBadRecord, Table, Target, Topic, UnknownFields};
use forebay::sink::BadRecord;
use forebay::sink::catalog::{Catalog, Column};
use forebay::sink::encode::Kind;
use forebay::sink::table::{TablePlan, TableWriter};
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};

const BATCHES: usize = 40;
const RECORDS: usize = 500;
const KEYS: u64 = 200_000;
const ROUNDS: usize = 5;
const REPEATS: usize = 10;

fn main() {
    let mut writer = TableWriter::new(Arc::new(plan()));
    let batches: Vec<Batch> = (0..BATCHES).map(|number| batch(number as u64)).collect();
    let bytes = batches.iter().map(Batch::bytes).sum::<usize>() / (BATCHES * RECORDS);
    let (mut best, mut bad) = (f64::MAX, Vec::new());
    for round in 0..=ROUNDS {
        let start = Instant::now();
        for batch in (0..REPEATS).flat_map(|_| &batches) {
            writer.load(black_box(batch), 0..batch.len(), &mut bad);
            if let Some(BadRecord { index, reason }) = bad.first() {
                panic!("record {index}: {reason}");
            }
            black_box(writer.groups());
        }
        let nanos = start.elapsed().as_nanos() as f64 / (REPEATS * BATCHES * RECORDS) as f64;
        // The first round fills the buffers.
        if round > 0 {
            println!("load: {nanos:.0} ns per record");
            best = best.min(nanos);
        }
    }
    println!("load: {best:.0} ns per record at best; {bytes} bytes of key and value each, batches of {RECORDS}");
}

fn batch(number: u64) -> Batch {
    let at = TopicPartition { topic: TopicIx(0), partition: 0 };
    let mut chunk = Chunk::new(TopicIx(0));
    let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(0));
    for index in 0..RECORDS as u64 {
        // A multiplier without common factors with the number of keys spreads them.
        let user = (number * RECORDS as u64 + index) * 7919 % KEYS;
        let (app, subscription) = (uuid(user % 1000), uuid(user + 1_000_000));
        let seats = index % 90 + 10;
        let value = format!(
            "{{\"app_id\":\"{app}\",\"subscription_id\":\"{subscription}\",\"status\":\"active\",\"plan\":\"basic\",\
             \"seats\":{seats},\"updated_at\":\"2026-11-23T20:14:06.123Z\",\"attributes\":{{\"a\":1,\"b\":[1,2]}}}}"
        );
        let key = format!("{app}:{subscription}");
        let raw = RawRecord {
            offset: Offset(index as i64),
            timestamp_ms: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        chunk.push(run, index, 0, &raw);
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    batch
}

fn uuid(number: u64) -> String {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-{:04x}-4000-8000-{number:012x}", spread >> 32, spread >> 16 & 0xffff)
}

fn plan() -> TablePlan {
    let text = Kind::Text { chars_max: None };
    let columns = [
        ("app_id", "uuid", Kind::Uuid),
        ("subscription_id", "uuid", Kind::Uuid),
        ("status", "text", text.clone()),
        ("plan", "text", text),
        ("seats", "int4", Kind::Int4),
        ("updated_at", "timestamptz", Kind::TimestampTz),
        ("attributes", "jsonb", Kind::Jsonb),
    ];
    let pk_fields = vec!["app_id".to_owned(), "subscription_id".to_owned()];
    let catalog = Catalog {
        oid: 1,
        schema: "public".into(),
        table: "subscriptions".into(),
        relkind: 'r',
        columns: columns.map(|(name, type_name, kind)| column(name, type_name, kind)).into(),
        unique: vec![pk_fields.clone()],
        primary: pk_fields.clone(),
        has_before_triggers: false,
        may_select: true,
        may_insert: true,
        may_update: true,
        may_delete: true,
    };
    let table = Table {
        schema: None,
        name: "subscriptions".into(),
        insert_mode: InsertMode::Upsert,
        pk_fields,
        delete_enabled: true,
        delete_field: None,
        key_format: None,
        guard: None,
        skip_unchanged: false,
        unknown_fields: UnknownFields::Ignore,
        columns: BTreeMap::new(),
    };
    let topic = Topic {
        name: "updates".into(),
        target: Target::Table(table.clone()),
        delivery: Delivery::ExactlyOnce,
        on_bad_record: OnBadRecord::Stop,
        rows_per_second_max: None,
        parent_tries: 10,
        forward_to: None,
    };
    TablePlan::new(&topic, &table, &catalog).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn column(name: &str, type_name: &str, kind: Kind) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        cast: format!("pg_catalog.{type_name}"),
        exact: kind.has_exact_key(),
        kind: Some(kind),
        not_null: true,
        has_default: false,
        generated: false,
        identity_always: false,
    }
}
