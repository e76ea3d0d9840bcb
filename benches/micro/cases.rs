//! The benchmarks: each makes what it needs once, and a job that goes through all records whenever it is called. A job leaves
//! everything as it found it, or goes on where it was, so that every call does the same.

use std::hint::black_box;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use forebay::config::Affinity;
use forebay::engine::dispatch::{Dispatched, Dispatcher, Owner, Received};
use forebay::engine::event::INBOX_CHUNKS_MAX;
use forebay::engine::pace::Pace;
use forebay::engine::partition::Owned;
use forebay::engine::worker::BatchLimits;
use forebay::sink::Taken;
use forebay::sink::decode::{self, Found};
use forebay::sink::encode::Scratch;
use forebay::sink::fold::{Cell, Fold, Op, Row, Rows, Rules};
use forebay::sink::plan::Mask;
use forebay::sink::table::TableWriter;
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::state::router::{Router, lane_of};
use forebay::state::tracker::{Place, Tracker};
use forebay::types::{Generation, NextOffset, Offset, ShardIx, Token, TopicPartition};

use super::input::{BATCH, LANES, RECORDS, Sample, TOPIC, config, plan};

pub type Job = Box<dyn FnMut()>;

pub struct Case {
    pub name: &'static str,
    /// Of one call of its job.
    pub records: u64,
    pub make: fn() -> Job,
}

const fn case(name: &'static str, make: fn() -> Job) -> Case {
    Case { name, records: RECORDS as u64, make }
}

pub const CASES: &[Case] = &[
    case("tracker, in order", || tracker(&[0, 1, 2, 3, 4, 5, 6, 7])),
    case("tracker, scattered", || tracker(&[3, 1, 7, 2, 6, 0, 5, 4])),
    case("route, one shard", || route(1, "")),
    case("route, by a part of the key", || route(4, "[shards]\nby = \"hash\"\ntenant = \"key:0\"")),
    case("route, by a field", || route(4, "[shards]\nby = \"hash\"\ntenant = \"field:app_id\"")),
    case("handover", handover),
    case("batch", batch),
    case("decode", decode),
    case("encode", encode),
    case("fold", || fold(&Sample::new())),
    case("fold, a hot key", || fold(&Sample::hot())),
    case("load", load),
];

/// Registers records and completes them: batches of several workers, which finish in this order.
fn tracker(order: &'static [usize]) -> Job {
    let mut tracker = Tracker::new(NextOffset(0));
    let place = Place { shard: ShardIx(0), lane: Some(3) };
    let window = order.len() * BATCH;
    Box::new(move || {
        let mut left = RECORDS;
        while left > 0 {
            let records = left.min(window);
            let (first, mut seq) = (tracker.received().0, 0);
            for record in 0..records as i64 {
                seq = tracker.register(Offset(first + record), 300, place);
            }
            let first_seq = seq + 1 - records as u64;
            for batch in order {
                for record in batch * BATCH..((batch + 1) * BATCH).min(records) {
                    tracker.complete(first_seq + record as u64, Offset(first + record as i64));
                }
            }
            assert_eq!(black_box(tracker.committable()).0, first + records as i64);
            left -= records;
        }
    })
}

/// A record's shard, and its lane there.
fn route(shards: usize, routing: &str) -> Job {
    let (router, sample) = (Router::new(&config(shards, routing)), Sample::new());
    Box::new(move || {
        for record in sample.records() {
            let record = black_box(record);
            let shard = router.route(0, &record).expect("every record has a tenant");
            black_box((shard, lane_of(record.key_hash(), LANES)));
        }
    })
}

const PARTITIONS: usize = 8;
const WORKERS: usize = 8;
/// Records of one partition that follow each other, and records of one poll.
const FETCH: usize = 100;
const POLL: usize = 1_000;

/// From a routed record into a chunk, to a worker's inbox, and back: what the poller and workers do with it besides writing.
fn handover() -> Job {
    let limits = BatchLimits { records_max: BATCH, bytes_max: 4 << 20 };
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| bounded(INBOX_CHUNKS_MAX)).unzip();
    let paces = [Arc::new(Pace::unlimited(WORKERS, 1))];
    let zero = NextOffset(0);
    let fences = vec![zero; usize::from(LANES)];
    let taken = Taken { origin: zero, done: zero, created: true, fences, parked: Vec::new() };
    let mut way = Way {
        dispatcher: Dispatcher::new(vec![senders], &paces, limits, Affinity::Late, &[false]),
        inboxes,
        owned: (0..PARTITIONS).map(|_| Owned::new(&taken)).collect(),
        next: vec![0; PARTITIONS],
        moves: Vec::new(),
    };
    let sample = Sample::new();
    Box::new(move || {
        for (n, record) in sample.records().enumerate() {
            way.send(n / FETCH % PARTITIONS, record);
            if (n + 1) % POLL == 0 {
                way.give_back();
            }
        }
        way.give_back();
    })
}

struct Way {
    dispatcher: Dispatcher,
    inboxes: Vec<Receiver<Box<Chunk>>>,
    owned: Vec<Owned>,
    /// Each partition's next offset.
    next: Vec<i64>,
    moves: Vec<forebay::state::batch::LaneMove>,
}

fn owner(partition: usize) -> Owner {
    let at = TopicPartition { topic: TOPIC, partition: partition as i32 };
    Owner { at, shard: ShardIx(0), generation: Generation(1), token: Token(7) }
}

impl Way {
    fn send(&mut self, partition: usize, record: RawRecord<'_>) {
        let next = &mut self.next[partition];
        let record = RawRecord { offset: Offset(*next), ..record };
        *next += 1;
        let received = Received { seq: record.offset.0 as u64, fetched_us: 0, hash: record.key_hash() };
        let dispatched = self.dispatcher.send(owner(partition), &mut self.owned[partition], received, &record, None);
        assert_ne!(dispatched, Dispatched::Skipped);
    }

    /// Until nothing is on its way.
    fn give_back(&mut self) {
        loop {
            self.dispatcher.flush(std::time::Duration::ZERO).expect("workers are there");
            let mut came = false;
            for worker in 0..self.inboxes.len() {
                let mut batch = Batch::new();
                while batch.len() < BATCH
                    && let Ok(chunk) = self.inboxes[worker].try_recv()
                {
                    batch.push(chunk);
                }
                came |= !batch.is_empty();
                self.written(worker, batch);
            }
            if !came {
                return;
            }
        }
    }

    fn written(&mut self, worker: usize, mut batch: Batch) {
        let records = batch.len();
        batch.moves(records, &mut self.moves);
        batch.written(records);
        let chunks = batch.take_chunks();
        self.dispatcher.returned(ShardIx(0), worker as u16, &chunks, 0, 0);
        for chunk in chunks {
            for run in &chunk.runs {
                let owned = &mut self.owned[run.partition as usize];
                let lane = &mut owned.lanes[usize::from(run.lane)];
                lane.acked = run.expected;
                lane.in_flight -= run.records;
                if lane.in_flight == 0 {
                    self.dispatcher.release(owner(run.partition as usize), owned, run.lane);
                }
            }
            self.dispatcher.recycle(chunk);
        }
    }
}

/// What a worker does with a batch besides writing it: chunks in, the fences that it moves, chunks out.
fn batch() -> Job {
    let sample = Sample::new();
    let records: Vec<RawRecord<'_>> = sample.records().collect();
    let mut chunks: Vec<Box<Chunk>> = records.chunks(BATCH / 2).map(super::input::chunk).collect();
    let mut moves = Vec::new();
    Box::new(move || {
        let mut batch = Batch::new();
        for _ in 0..RECORDS / BATCH {
            let rest = chunks.len() - 2;
            chunks.drain(rest..).for_each(|chunk| batch.push(chunk));
            for index in 0..batch.len() {
                black_box(batch.record(index));
            }
            batch.moves(batch.len(), &mut moves);
            black_box(&moves);
            batch.written(batch.len());
            // Behind those that are yet to come.
            chunks.splice(0..0, batch.take_chunks());
        }
    })
}

/// Where a document's fields are.
fn decode() -> Job {
    let (plan, sample) = (plan(), Sample::new());
    let mut found = vec![Found::Absent; plan.slots()];
    Box::new(move || {
        for value in sample.values() {
            decode::find(&plan.fields, black_box(value), false, &mut found).expect("JSON");
            black_box(&found);
        }
    })
}

/// Fields to PostgreSQL's binary form: two uuid, two text, an integer, a time, jsonb.
fn encode() -> Job {
    let plan = plan();
    let place = |value: String| {
        let mut found = vec![Found::Absent; plan.slots()];
        decode::find(&plan.fields, &value, false, &mut found).expect("JSON");
        let fields = found.iter().take(plan.columns.len()).map(|found| match found {
            Found::At(from, to) => *from as usize..*to as usize,
            other => panic!("every column has a value, not {other:?}"),
        });
        (fields.collect::<Vec<_>>(), value)
    };
    let documents: Vec<_> = Sample::new().values().map(|value| place(value.to_owned())).collect();
    let (mut arena, mut scratch) = (Vec::new(), Scratch::default());
    Box::new(move || {
        for batch in documents.chunks(BATCH) {
            arena.clear();
            for (fields, value) in batch {
                for (column, field) in plan.columns.iter().zip(fields) {
                    column.kind.encode(&value[field.clone()], &mut arena, &mut scratch).expect("a value that fits");
                }
            }
            black_box(&arena);
        }
    })
}

/// Rows that meet in one key. Copying them, so that each call finds them as they were, is a part of it.
fn fold(sample: &Sample) -> Job {
    const WIDTH: usize = 7;
    let mut mask = Mask::default();
    (0..WIDTH).for_each(|column| mask.insert(column));
    let records: Vec<RawRecord<'_>> = sample.records().collect();
    let rows_of = |records: &[RawRecord<'_>]| {
        let mut rows = Rows::default();
        rows.clear(WIDTH);
        for record in records {
            let from = rows.keys.len() as u32;
            rows.keys.extend_from_slice(record.key.unwrap_or_default());
            let key = (from, rows.keys.len() as u32);
            rows.rows.push(Row { op: Op::Upsert, mask, key, hash: record.key_hash() as u64 });
            rows.cells.extend([Cell { at: 0, len: 8 }; WIDTH]);
        }
        rows
    };
    let originals: Vec<Rows> = records.chunks(BATCH).map(rows_of).collect();
    let rules = Rules { guarded: false, required: mask, one_by_one: false, keyed: true };
    let (mut rows, mut fold, mut steps) = (Rows { width: WIDTH, ..Rows::default() }, Fold::default(), Vec::new());
    Box::new(move || {
        for original in &originals {
            rows.rows.clone_from(&original.rows);
            rows.cells.clone_from(&original.cells);
            rows.keys.clone_from(&original.keys);
            steps.clear();
            fold.fold(&mut rows, &rules, |_, _| None, None, &mut steps);
            black_box(&steps);
        }
    })
}

/// All that a worker does with a batch before it asks the database: decode, encode, fold, sort, and lay out the parameters.
fn load() -> Job {
    let (mut writer, batches) = (TableWriter::new(Arc::new(plan())), Sample::new().batches());
    let mut bad = Vec::new();
    Box::new(move || {
        for batch in &batches {
            writer.load(black_box(batch), 0..batch.len(), &mut bad);
            assert!(bad.is_empty(), "every record is good");
            black_box(writer.groups());
        }
    })
}
