//! The reference job: a million JSON updates of 200,000 rows on 8 partitions, written to PostgreSQL by the engine, and, in turn, by
//! bare `UNNEST` upserts of the same rows from memory on as many connections. Run it with
//!
//! ```text
//! bin/services up && cargo bench --bench reference -- [--records N] [--keys N] [--rounds N] [--workers N] [--batch N] [MODE …]
//! ```
//!
//! Modes: `catchup` (default), `handler` (the engine with a handler that does nothing: no rows, but fences) and `lag` (the
//! engine alone, at one and at ten times the records: does memory grow with lag?). Every engine run is a process of its own, whose
//! CPU time and peak memory the operating system reports. It prints; it judges nothing.

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};

use forebay::config::load;
use forebay::engine::{Engine, Options, Stopper};
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, NoTls, Transaction};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PARTITIONS: i32 = 8;
const TABLE: &str = "CREATE TABLE reference (app_id uuid, subscription_id uuid, country text, device text, sessions int, \
                     updated_at timestamptz, tags jsonb, PRIMARY KEY (app_id, subscription_id))";

fn main() -> Outcome<()> {
    let arguments = Arguments::read()?;
    if arguments.modes.first().is_some_and(|m| m == "engine-child") {
        return child(&arguments);
    }
    let topic = publish(&arguments, arguments.records)?;
    println!(
        "{} records of {} bytes, {} keys, {PARTITIONS} partitions, batch {}, {} workers",
        arguments.records,
        payload(0, &arguments).len(),
        arguments.keys,
        arguments.batch,
        arguments.workers
    );
    for mode in if arguments.modes.is_empty() { vec!["catchup".to_owned()] } else { arguments.modes.clone() } {
        match mode.as_str() {
            "catchup" => catchup(&arguments, &topic)?,
            "handler" => {
                for _ in 0..arguments.rounds {
                    println!("handler  {}", engine(&arguments, &topic, "handler", arguments.records)?);
                }
            }
            "lag" => {
                println!("lag x1   {}", engine(&arguments, &topic, "table", arguments.records)?);
                let more = arguments.records * 10;
                let topic = publish(&arguments, more)?;
                println!("lag x10  {}", engine(&arguments, &topic, "table", more)?);
            }
            other => return Err(format!("no mode {other:?}: catchup, handler or lag").into()),
        }
    }
    Ok(())
}

/// The engine and the bare statements in turn.
fn catchup(arguments: &Arguments, topic: &str) -> Outcome<()> {
    let rows = bare_rows(arguments);
    let mut ratios = Vec::new();
    for round in 1..=arguments.rounds {
        let bare = bare(arguments, &rows)?;
        let engine = engine(arguments, topic, "table", arguments.records)?;
        println!("round {round}  bare UNNEST {bare:>8.0} rows/s   engine {engine}   ratio {:.3}", engine.rate / bare);
        ratios.push(engine.rate / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3} (from {:.3} to {:.3})", ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]);
    Ok(())
}

#[derive(Debug, Clone)]
struct Arguments {
    records: u64,
    keys: u64,
    rounds: usize,
    workers: usize,
    batch: usize,
    affinity: String,
    kafka: String,
    dsn: String,
    topic: String,
    modes: Vec<String>,
}

impl Arguments {
    fn read() -> Outcome<Arguments> {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let mut a = Arguments {
            records: 1_000_000,
            keys: 200_000,
            rounds: 3,
            workers: 8,
            batch: 500,
            affinity: "late".to_owned(),
            kafka: variable("FOREBAY_TEST_KAFKA", "127.0.0.1:19092"),
            dsn: variable("FOREBAY_TEST_PG_A", "host=127.0.0.1 port=15431 user=forebay dbname=forebay"),
            topic: String::new(),
            modes: Vec::new(),
        };
        let mut words = std::env::args().skip(1).filter(|w| w != "--bench");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--records" => a.records = value()?.parse()?,
                "--keys" => a.keys = value()?.parse()?,
                "--rounds" => a.rounds = value()?.parse()?,
                "--workers" => a.workers = value()?.parse()?,
                "--batch" => a.batch = value()?.parse()?,
                "--affinity" => a.affinity = value()?,
                "--topic" => a.topic = value()?,
                mode => a.modes.push(mode.to_owned()),
            }
        }
        Ok(a)
    }
}

fn random(seed: u64) -> u64 {
    // splitmix64 (Steele, Lea, Flood 2014): any record can be made again without those before it.
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key_of(n: u64, a: &Arguments) -> u64 {
    random(n) % a.keys
}

fn ids(key: u64) -> (String, String) {
    let app = key / 1000;
    (format!("00000000-0000-4000-8000-{app:012x}"), format!("{:08x}-0000-4000-8000-{key:012x}", random(key) as u32))
}

const COUNTRIES: [&str; 6] = ["US", "DE", "BR", "IN", "JP", "ZA"];
const DEVICES: [&str; 3] = ["iPhone15,3", "Pixel 8", "SM-S911B"];

fn payload(n: u64, a: &Arguments) -> String {
    let (app, subscription) = ids(key_of(n, a));
    let (country, device) = (COUNTRIES[n as usize % 6], DEVICES[n as usize % 3]);
    format!(
        "{{\"app_id\":\"{app}\",\"subscription_id\":\"{subscription}\",\"country\":\"{country}\",\"device\":\"{device}\",\
         \"sessions\":{},\"updated_at\":\"{}\",\"tags\":{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}}}",
        n % 1000,
        timestamp(n),
        n % 7,
        n % 10
    )
}

fn timestamp(n: u64) -> String {
    format!(
        "2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        1 + n / 86_400_000 % 28,
        n / 3_600_000 % 24,
        n / 60_000 % 60,
        n / 1000 % 60,
        n % 1000
    )
}

/// Publishes the workload once; a topic that already holds it is used again.
fn publish(a: &Arguments, records: u64) -> Outcome<String> {
    let topic = format!("forebay-reference-{}-{records}-{}", payload(0, a).len(), a.keys);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &a.kafka);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    for outcome in support::block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(format!("cannot create topic {topic}: {code}").into()),
        }
    }
    let consumer: BaseConsumer = config.create()?;
    let mut held = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = loop {
            match consumer.fetch_watermarks(&topic, partition, Duration::from_secs(20)) {
                // A topic that was just created has no leader yet.
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition)) => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                answer => break answer?,
            }
        };
        held += high - low;
    }
    if held as u64 == records {
        return Ok(topic);
    }
    if held != 0 {
        return Err(format!("topic {topic} holds {held} records, not {records}: delete it").into());
    }
    eprintln!("publishing {records} records to {topic}");
    let producer: BaseProducer = config
        .clone()
        .set("linger.ms", "20")
        .set("batch.size", "500000")
        .set("queue.buffering.max.messages", "500000")
        .set("partitioner", "murmur2_random")
        .create()?;
    for n in 0..records {
        let (app, subscription) = ids(key_of(n, a));
        let (key, value) = (format!("{app}:{subscription}"), payload(n, a));
        let mut record = BaseRecord::to(&topic).key(&key).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(topic)
}

/// One connection's batches: columns of at most `batch` rows, each key once, sorted.
type Columns = (Vec<Raw>, Vec<Raw>, Vec<&'static str>, Vec<&'static str>, Vec<i32>, Vec<SystemTime>, Vec<Raw>);

/// A value in PostgreSQL's binary form.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The rows as the bare statements want them, ready in memory: as many records as the engine writes, split by key.
fn bare_rows(a: &Arguments) -> Vec<Vec<Columns>> {
    let mut of_connection: Vec<Vec<u64>> = vec![Vec::new(); a.workers];
    for n in 0..a.records {
        of_connection[key_of(n, a) as usize % a.workers].push(n);
    }
    let batch = |records: &[u64]| {
        let last: HashMap<u64, u64> = records.iter().map(|n| (key_of(*n, a), *n)).collect();
        let mut rows: Vec<(u64, u64)> = last.into_iter().collect();
        rows.sort_unstable();
        let mut c = Columns::default();
        for (key, n) in rows {
            let (app, subscription) = ids(key);
            c.0.push(uuid(&app));
            c.1.push(uuid(&subscription));
            c.2.push(COUNTRIES[n as usize % 6]);
            c.3.push(DEVICES[n as usize % 3]);
            c.4.push((n % 1000) as i32);
            c.5.push(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_000 + n));
            c.6.push(Raw(format!("\u{1}{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}", n % 7, n % 10).into_bytes()));
        }
        c
    };
    of_connection.iter().map(|records| records.chunks(a.batch).map(batch).collect()).collect()
}

/// Bare upserts from memory; returns records per second.
fn bare(a: &Arguments, rows: &[Vec<Columns>]) -> Outcome<f64> {
    fresh_table(a)?;
    let start = Barrier::new(rows.len() + 1);
    let elapsed = std::thread::scope(|scope| {
        let threads: Vec<_> = rows.iter().map(|batches| scope.spawn(|| bare_connection(a, batches, &start))).collect();
        start.wait();
        let began = Instant::now();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        (began.elapsed(), results)
    });
    for result in elapsed.1 {
        result.map_err(|_| "a connection's thread panicked")??;
    }
    Ok(a.records as f64 / elapsed.0.as_secs_f64())
}

fn bare_connection(a: &Arguments, batches: &[Columns], start: &Barrier) -> Result<(), String> {
    let run = || -> Result<(), postgres::Error> {
        let mut client = Client::connect(&a.dsn, NoTls)?;
        let statement = client.prepare_typed(
            "INSERT INTO reference SELECT * FROM UNNEST($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (app_id, subscription_id) DO UPDATE SET country = EXCLUDED.country, device = EXCLUDED.device, \
             sessions = EXCLUDED.sessions, updated_at = EXCLUDED.updated_at, tags = EXCLUDED.tags",
            &[
                Type::UUID_ARRAY,
                Type::UUID_ARRAY,
                Type::TEXT_ARRAY,
                Type::TEXT_ARRAY,
                Type::INT4_ARRAY,
                Type::TIMESTAMPTZ_ARRAY,
                Type::JSONB_ARRAY,
            ],
        )?;
        start.wait();
        for c in batches {
            client.execute(&statement, &[&c.0, &c.1, &c.2, &c.3, &c.4, &c.5, &c.6])?;
        }
        Ok(())
    };
    run().map_err(|e| format!("bare upsert: {e}: {:?}", e.as_db_error()))
}

fn uuid(text: &str) -> Raw {
    Raw(uuid::Uuid::parse_str(text).unwrap_or_default().into_bytes().to_vec())
}

fn fresh_table(a: &Arguments) -> Outcome<()> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    client.batch_execute(&format!("DROP TABLE IF EXISTS reference; {TABLE}; CHECKPOINT"))?;
    Ok(())
}

/// What one engine run took.
struct Run {
    rate: f64,
    cpu_us: f64,
    peak_mb: f64,
    batch: f64,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { rate, cpu_us, peak_mb, batch } = self;
        write!(f, "{rate:>8.0} rows/s, own CPU {cpu_us:.2} µs/row, peak {peak_mb:.0} MB, {batch:.0} records/batch")
    }
}

fn engine(a: &Arguments, topic: &str, target: &str, records: u64) -> Outcome<Run> {
    fresh_table(a)?;
    let child = Command::new(std::env::current_exe()?)
        .args(["engine-child", target, "--topic", topic, "--affinity", &a.affinity])
        .args(["--records", &records.to_string(), "--workers", &a.workers.to_string(), "--batch", &a.batch.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    match numbers[..] {
        [rate, cpu_us, peak_mb, batch] if output.status.success() => Ok(Run { rate, cpu_us, peak_mb, batch }),
        _ => Err(format!("the engine's run failed: {text}").into()),
    }
}

/// Writes nothing: what the pipeline costs without rows.
struct Nothing;

impl Handler for Nothing {
    fn handle(&mut self, _: &mut Transaction<'_>, _: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// One engine run in this process: prints rows/s, CPU per row, peak memory, records per batch.
fn child(a: &Arguments) -> Outcome<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let group = format!("reference-{}", std::process::id());
    let table = a.modes.get(1).is_none_or(|m| m == "table");
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = \"{}\"\n\"group.id\" = \"{group}\"\n\n[engine]\nworkers_per_shard = {}\n\
         batch_records_max = {}\naffinity = \"{}\"\n\n[[shard]]\nname = \"main\"\ndsn = \"{}\"\n\n[[topic]]\nname = \"{}\"\n\
         table = \"reference\"\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"subscription_id\"]\n",
        a.kafka, a.workers, a.batch, a.affinity, a.dsn, a.topic
    );
    let mut loaded = load::parse(Path::new("reference.toml"), &text, &|_| None).map_err(|p| p.to_string())?;
    let mut engine = if table {
        Engine::new(loaded.config)
    } else {
        loaded.config.topics[0].target = forebay::config::Target::Handler;
        Engine::new(loaded.config).handle(&a.topic, || Nothing)?
    };
    let counters = engine.counters();
    let stopper = Stopper::default();
    let watch = counters.clone();
    let records = a.records;
    let ender = stopper.clone();
    let watcher = std::thread::spawn(move || {
        let (mut began, mut cpu) = (Instant::now(), cpu_time());
        while watch.durable.get() < records && !ender.is_stopped() {
            if watch.fetched.get() == 0 {
                (began, cpu) = (Instant::now(), cpu_time());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let (elapsed, cpu) = (began.elapsed(), cpu_time() - cpu);
        ender.stop();
        (elapsed, cpu)
    });
    let outcome = run(&mut engine, &stopper);
    stopper.stop();
    let (elapsed, cpu) = watcher.join().map_err(|_| "the watcher panicked")?;
    outcome?;
    let rows = counters.durable.get() as f64;
    let batches = counters.batches.get().max(1) as f64;
    println!("{} {} {} {}", rows / elapsed.as_secs_f64(), cpu.as_secs_f64() * 1e6 / rows, peak_mb(), rows / batches);
    cleanup(a, &group)
}

fn run(engine: &mut Engine, stopper: &Stopper) -> Outcome<()> {
    let outcome = engine.run(Options::default(), stopper)?;
    match outcome.stopped.first() {
        None => Ok(()),
        Some((topic, reason)) => Err(format!("{topic}: {reason}").into()),
    }
}

fn cleanup(a: &Arguments, group: &str) -> Outcome<()> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    client.execute(
        "DELETE FROM forebay.fence WHERE source IN (SELECT id FROM forebay.source WHERE grp = $1)",
        &[&group],
    )?;
    client.execute(
        "DELETE FROM forebay.partition WHERE source IN (SELECT id FROM forebay.source WHERE grp = $1)",
        &[&group],
    )?;
    client.execute("DELETE FROM forebay.source WHERE grp = $1", &[&group])?;
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = behind_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
