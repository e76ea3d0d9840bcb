//! `forebay run` on a backlog, and how long it takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay::bench::workload::Workload;
use forebay::planner::plan::Plan;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use crate::support::{Database, Forebay, Rig, Topic, kafka_bootstrap};
use crate::{KEYS, Outcome, PARTITIONS};

/// How often the database is asked how far it is, and how often it notes that.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const COMMIT_INTERVAL_MS: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(600);
/// Less than what comes in this time is no backlog.
const CAUGHT_UP_S: f64 = 2.0;
/// A producer at a rate sends so often.
const SEND_EVERY: Duration = Duration::from_millis(5);

struct Job<'a> {
    database: &'a Database,
    topic: Topic,
    rig: Rig,
    producer: BaseProducer,
    workload: Workload,
}

/// Rows a second of a backlog that nothing is added to.
pub fn peak(database: &Database, plan: &Plan, records: u64) -> Outcome<f64> {
    let job = Job::new(database, plan, records)?;
    let (_running, began, first) = job.start()?;
    let done = job.until(|done| done >= records)?;
    Ok((done - first) as f64 / began.elapsed().as_secs_f64())
}

/// Seconds to catch up with it while more comes.
pub fn catch_up(database: &Database, plan: &Plan, records: u64, mean: f64) -> Outcome<f64> {
    let job = Job::new(database, plan, records)?;
    let (_running, began, first) = job.start()?;
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let took = thread::scope(|scope| {
        let publishing = scope.spawn(|| job.publish_at(records, mean, &sent, &over));
        let caught = job.until(|done| (records + sent.load(Ordering::Relaxed) - done) as f64 <= mean * CAUGHT_UP_S);
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let published = publishing.join().map_err(|_| "the producer panicked")?;
        published?;
        caught.map(|_| took)
    })?;
    // What was done by the first look, and what was left at the last, as the rest went.
    let (before, after) = (first as f64, mean * CAUGHT_UP_S);
    Ok(took.as_secs_f64() * records as f64 / (records as f64 - before - after).max(1.0))
}

impl Job<'_> {
    /// With the backlog in its topic, and every row in its table, as the measurement has them.
    fn new<'a>(database: &'a Database, plan: &Plan, records: u64) -> Outcome<Job<'a>> {
        let Plan { workers_per_shard, lanes, batch_records_max, partition_bytes_max, .. } = plan;
        database.execute(
            "DROP TABLE IF EXISTS records; DROP SCHEMA IF EXISTS forebay CASCADE; CREATE TABLE records (app_id uuid, subscription_id uuid, country text, device text, sessions int, updated_at timestamptz, \
             tags jsonb, PRIMARY KEY (app_id, subscription_id))",
        );
        let topic = Topic::create("plan", PARTITIONS as i32);
        let rig = Rig::new(&format!(
            "[engine]\nworkers_per_shard = {workers_per_shard}\nlanes = {lanes}\nbatch_records_max = {batch_records_max}\n\
             partition_bytes_max = {partition_bytes_max}\ncommit_interval_ms = {COMMIT_INTERVAL_MS}\n[[shard]]\n\
             name = \"main\"\ndsn = \"{}\"\n[[topic]]\nname = \"{}\"\ntable = \"records\"\ninsert_mode = \"upsert\"\n\
             pk_fields = [\"app_id\", \"subscription_id\"]\n",
            database.dsn(),
            topic.name()
        ));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka_bootstrap()).set("partitioner", "murmur2_random");
        config.set("linger.ms", "5").set("queue.buffering.max.messages", "500000");
        let workload = Workload { keys: KEYS, tenants: KEYS / 1000, ..Workload::default() };
        let job = Job { database, topic, rig, producer: config.create()?, workload };
        job.fill()?;
        job.publish(0..records)?;
        Ok(job)
    }

    fn fill(&self) -> Outcome<()> {
        let mut rows = self.database.connect();
        let keys: Vec<(String, String)> = (0..KEYS).map(|key| self.workload.ids(key)).collect();
        for part in keys.chunks(10_000) {
            let apps: Vec<&str> = part.iter().map(|(app, _)| app.as_str()).collect();
            let subscriptions: Vec<&str> = part.iter().map(|(_, subscription)| subscription.as_str()).collect();
            let sql = "INSERT INTO records SELECT a::uuid, s::uuid, 'US', 'Pixel 8', 0, now(), '{\"plan\": \"p0\", \"n\": 1, \"beta\": true}' \
                       FROM UNNEST($1::text[], $2::text[]) AS u(a, s)";
            rows.execute(sql, &[&apps, &subscriptions])?;
        }
        // Each by itself: VACUUM wants no transaction around it.
        rows.batch_execute("VACUUM ANALYZE records")?;
        rows.batch_execute("CHECKPOINT")?;
        Ok(())
    }

    fn send(&self, n: u64, key: &mut String, value: &mut String) -> Outcome<()> {
        self.workload.write_key(n, key);
        self.workload.write_value(n, value);
        let mut record = BaseRecord::to(self.topic.name()).key(key.as_str()).payload(value.as_str());
        while let Err((error, back)) = self.producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            self.producer.poll(Duration::from_millis(10));
            record = back;
        }
        Ok(())
    }

    fn publish(&self, records: std::ops::Range<u64>) -> Outcome<()> {
        let (mut key, mut value) = (String::new(), String::new());
        for n in records {
            self.send(n, &mut key, &mut value)?;
            if n % 1000 == 0 {
                self.producer.poll(Duration::ZERO);
            }
        }
        self.producer.flush(Duration::from_secs(120))?;
        Ok(())
    }

    /// From record `first` on, so many a second, whatever becomes of them.
    fn publish_at(&self, first: u64, per_s: f64, sent: &AtomicU64, over: &AtomicBool) -> Result<(), String> {
        let (mut key, mut value) = (String::new(), String::new());
        let began = Instant::now();
        while !over.load(Ordering::Relaxed) {
            let due = (began.elapsed().as_secs_f64() * per_s) as u64;
            for n in sent.load(Ordering::Relaxed)..due {
                self.send(first + n, &mut key, &mut value).map_err(|error| error.to_string())?;
            }
            sent.store(due, Ordering::Relaxed);
            self.producer.poll(SEND_EVERY);
        }
        Ok(())
    }

    /// Starts it, and waits until something is durable: from then on it counts.
    fn start(&self) -> Outcome<(Forebay, Instant, u64)> {
        let running = self.rig.start();
        let first = self.until(|done| done > 0)?;
        Ok((running, Instant::now(), first))
    }

    /// Until it is so far: how far.
    fn until(&self, is_enough: impl Fn(u64) -> bool) -> Outcome<u64> {
        let mut client = self.database.connect();
        let began = Instant::now();
        loop {
            // Its tables are not there before it has made them.
            let row = client.query_one("SELECT to_regclass('forebay.partition') IS NOT NULL", &[])?;
            let done: i64 = match row.get(0) {
                true => {
                    client.query_one("SELECT coalesce(sum(done - origin), 0)::int8 FROM forebay.partition", &[])?.get(0)
                }
                false => 0,
            };
            if is_enough(done as u64) {
                return Ok(done as u64);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{done} records after {PATIENCE:?}").into());
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}
