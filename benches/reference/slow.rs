//! A handler that sleeps for each record, many workers and one partition: beside what arithmetic allows.

use std::time::Duration;

use rdkafka::producer::Producer;

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::support::Topic;
use super::workload::{payload, producer, record_key, send};

const WORKERS: usize = 64;
/// Milliseconds a record.
const TAKES_MS: u64 = 10;
/// A record takes long, so a transaction of five hundred takes seconds: fewer, and more lanes, so that workers end together.
const BATCH: usize = 20;
const LANES: &str = "engine.lanes=1024";

pub fn slow(a: &Arguments) -> Outcome<()> {
    let mut a = Arguments { workers: WORKERS, batch: BATCH, slow_ms: TAKES_MS, hot_percent: 0, ..a.clone() };
    a.set.push(LANES.to_owned());
    let ceiling = WORKERS as f64 * 1e3 / TAKES_MS as f64;
    let records = ceiling as u64 * a.seconds;
    println!("slow: {records} records of {TAKES_MS} ms, one partition, {WORKERS} workers: {ceiling:.0}/s are possible");
    let topic = Topic::create("reference_slow", 1);
    let producer = producer(&a, &[("linger.ms", "20")])?;
    for n in 0..records {
        send(&producer, topic.name(), &record_key(n, &a), &payload(n, &a))?;
    }
    producer.flush(Duration::from_secs(60))?;
    let job = Job { target: Target::Sleep, topic: topic.name(), records, affinity: &a.affinity };
    let mut parts = Rounds::default();
    for round in 1..=a.rounds {
        let load = load();
        let run = engine::run(&a, &job)?;
        println!("round {round}  {run}   of what is possible {:.3}   {load}", run.rate / ceiling);
        parts.push(run.rate / ceiling);
    }
    println!("slow: of what is possible {parts:.3}");
    Ok(())
}
