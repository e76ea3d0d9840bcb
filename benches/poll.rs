//! What the source costs: 1,000,000 records of 236 bytes from a real broker into an intake that only counts, against the
//! same records through the binding's own one-message poll. Prints both; run it with `cargo bench --bench poll`, or with
//! librdkafka properties of the source's: `cargo bench --bench poll -- queued.min.messages=50000`.
//!
//! Needs a Kafka (`bin/services up`, or FOREBAY_TEST_KAFKA). The topic is made for the run and deleted afterwards.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use forebay::config::secret::Secret;
use forebay::config::{FirstStart, Kafka};
use forebay::source::kafka::{KafkaSource, Options};
use forebay::source::{Intake, Source, SourceEvent, Start};
use forebay::state::chunk::RawRecord;
use forebay::types::{NextOffset, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use common::{PATIENCE, bare_poll, process_cpu, thread_cpu};
use support::{Topic, kafka_bootstrap};

const RECORDS: usize = 1_000_000;
const PARTITIONS: i32 = 8;
const VALUE_BYTES: usize = 236;
/// The key is a number.
const BYTES: usize = RECORDS * (VALUE_BYTES + 8);
const ROUNDS: usize = 4;
/// As the poller's.
const POLL_RECORDS_MAX: usize = 1_000;
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let bootstrap = kafka_bootstrap();
    let topic = Topic::create("bench_poll", PARTITIONS);
    let topic = topic.name();
    fill(&bootstrap, topic);

    println!("{RECORDS} records of {VALUE_BYTES} bytes on {PARTITIONS} partitions");
    println!("CPU in µs per record, of the polling thread and of the whole process");
    println!("{:>5}  {:^32}  {:^32}  {:>13}", "", "the binding's poll", "the source", "source/binding");
    println!(
        "{:>5}  {:>12} {:>9} {:>9}  {:>12} {:>9} {:>9}",
        "round", "records/s", "thread", "process", "records/s", "thread", "process"
    );
    for round in 1..=ROUNDS {
        // Alternately, so that a busy machine hurts both alike.
        let bare = Cost::of(|| bare(&bootstrap, topic));
        let ours = Cost::of(|| source(&bootstrap, topic));
        println!("{round:>5}  {bare}  {ours}  {:>13.2}", bare.took.as_secs_f64() / ours.took.as_secs_f64());
    }
}

fn fill(bootstrap: &str, topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("linger.ms", "20").set("batch.size", "262144");
    let producer: BaseProducer = config.create().expect("a producer");
    let value = vec![b'v'; VALUE_BYTES];
    for n in 0..RECORDS {
        let key = (n as u64).to_le_bytes();
        let partition = (n % PARTITIONS as usize) as i32;
        let mut record = BaseRecord::to(topic).partition(partition).key(&key[..]).payload(&value[..]);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(DEADLINE).expect("the broker to take all records");
}

/// What reading all records cost.
struct Cost {
    took: Duration,
    thread: Duration,
    process: Duration,
}

impl Cost {
    fn of(job: impl FnOnce() -> Duration) -> Cost {
        let (thread, process) = (thread_cpu(), process_cpu());
        let took = job();
        Cost { took, thread: thread_cpu() - thread, process: process_cpu() - process }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / RECORDS as f64;
        let rate = RECORDS as f64 / self.took.as_secs_f64();
        write!(f, "{rate:>12.0} {:>9.2} {:>9.2}", each(self.thread), each(self.process))
    }
}

fn bare(bootstrap: &str, topic: &str) -> Duration {
    let drained = bare_poll(bootstrap, topic, PARTITIONS, RECORDS, PATIENCE).expect("all records");
    assert_eq!(drained.bytes, BYTES, "bytes of all records");
    drained.took
}

fn source(bootstrap: &str, topic: &str) -> Duration {
    let mut properties = BTreeMap::from([("bootstrap.servers".to_owned(), Secret(bootstrap.to_owned()))]);
    for (name, value) in env::args().filter_map(|a| a.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))) {
        properties.insert(name, Secret(value));
    }
    let group_id = format!("bench-poll-{}-{:?}", std::process::id(), Instant::now());
    let kafka = Kafka { group_id, first_start: FirstStart::Earliest, properties };
    let mut source = KafkaSource::new(&kafka, &[topic.to_owned()], Options::default()).expect("a source");
    let mut count = Count::default();
    while count.records < RECORDS {
        source.poll(Duration::from_millis(100), POLL_RECORDS_MAX, &mut count).expect("a poll");
        if let Some(assigned) = count.assigned.take() {
            let starts: Vec<_> = assigned.into_iter().map(|at| (at, Start::At(NextOffset(0)))).collect();
            source.assign(&starts).expect("an assignment");
        }
    }
    count.took()
}

#[derive(Default)]
struct Count {
    records: usize,
    bytes: usize,
    began: Option<Instant>,
    assigned: Option<Vec<TopicPartition>>,
}

impl Count {
    fn took(&self) -> Duration {
        assert_eq!(self.bytes, BYTES, "bytes of all records");
        self.began.expect("a first record").elapsed()
    }
}

impl Intake for Count {
    fn record(&mut self, _: TopicPartition, record: &RawRecord<'_>) {
        self.began.get_or_insert_with(Instant::now);
        self.records += 1;
        self.bytes += record.bytes();
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Assigned(partitions) => self.assigned = Some(partitions),
            SourceEvent::EndOfPartition { .. } => {}
            other => println!("{other:?}"),
        }
    }
}
