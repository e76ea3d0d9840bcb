//! What the benchmarks work on: records of the reference job, batches of them, and the plan of its table.

use std::collections::BTreeMap;

use forebay::bench::workload::Workload;
use forebay::config::{Config, Delivery, InsertMode, OnBadRecord, Table, Target, Topic, UnknownFields, load};
use forebay::sink::catalog::{Catalog, Column};
use forebay::sink::encode::Kind;
use forebay::sink::table::TablePlan;
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::state::router::lane_of;
use forebay::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// Records of one call of a benchmark.
pub const RECORDS: usize = 10_000;
pub const BATCH: usize = 500;
pub const LANES: u16 = 16;
pub const TOPIC: TopicIx = TopicIx(0);

/// Keys and values.
pub struct Sample(Vec<(String, String)>);

impl Sample {
    pub fn new() -> Sample {
        Sample::of(&Workload::default())
    }

    /// One key has half of all records.
    pub fn hot() -> Sample {
        Sample::of(&Workload { hot_percent: 50, ..Workload::default() })
    }

    fn of(workload: &Workload) -> Sample {
        let record = |n: u64| {
            let (mut key, mut value) = (String::new(), String::new());
            workload.write_key(n, &mut key);
            assert!(workload.write_value(n, &mut value), "no tombstone is among them");
            (key, value)
        };
        Sample((0..RECORDS as u64).map(record).collect())
    }

    /// As the source hands them out, of one partition.
    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        self.0.iter().enumerate().map(|(n, (key, value))| RawRecord {
            offset: Offset(n as i64),
            timestamp_ms: 1_767_225_600_000,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        })
    }

    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, value)| value.as_str())
    }

    /// As a worker has them.
    pub fn batches(&self) -> Vec<Batch> {
        let records: Vec<RawRecord<'_>> = self.records().collect();
        let batch = |records: &[RawRecord<'_>]| {
            let mut batch = Batch::new();
            batch.push(chunk(records));
            batch
        };
        records.chunks(BATCH).map(batch).collect()
    }
}

/// With a run for each lane.
pub fn chunk(records: &[RawRecord<'_>]) -> Box<Chunk> {
    let at = TopicPartition { topic: TOPIC, partition: 0 };
    let mut chunk = Chunk::new(TOPIC);
    for lane in 0..LANES {
        chunk.open_run(at, lane, Generation(1), Token(1), NextOffset(0));
    }
    for (seq, record) in records.iter().enumerate() {
        let run = lane_of(record.key_hash(), LANES);
        chunk.push(u32::from(run), seq as u64, 0, record);
    }
    Box::new(chunk)
}

/// A configuration of so many shards.
pub fn config(shards: usize, routing: &str) -> Config {
    let shard = |n: usize| format!("[[shard]]\nname = \"s{n}\"\ndsn = \"host=h{n}\"\n");
    let shards: String = (0..shards).map(shard).collect();
    let text = format!(
        "[kafka]\nbootstrap.servers = \"b\"\ngroup.id = \"g\"\n{routing}\n{shards}[[topic]]\nname = \"t\"\ntable = \"t\"\n"
    );
    load::parse("micro.toml".as_ref(), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// The reference job's table and topic: upserts.
pub fn plan() -> TablePlan {
    let text = Kind::Text { chars_max: None };
    let columns = [
        ("app_id", "uuid", Kind::Uuid),
        ("subscription_id", "uuid", Kind::Uuid),
        ("country", "text", text.clone()),
        ("device", "text", text),
        ("sessions", "int4", Kind::Int4),
        ("updated_at", "timestamptz", Kind::TimestampTz),
        ("tags", "jsonb", Kind::Jsonb),
    ];
    let pk_fields = vec!["app_id".to_owned(), "subscription_id".to_owned()];
    let catalog = Catalog {
        oid: 1,
        schema: "public".into(),
        table: "reference".into(),
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
        name: "reference".into(),
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
