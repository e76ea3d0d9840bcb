//! Steady traffic: how long from the time at which a record should have been sent to its row.

use std::fmt;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rdkafka::producer::Producer;

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Run, Running, Target};
use super::producer::{payload_sent, produce};
use super::rounds::{Rounds, load};
use super::support::Topic;
use super::workload::{PARTITIONS, producer, record_key, send};

/// Sent before, not counted: takeovers, the first connection, plans.
const WARM_UP: u64 = 1_000;
const WARM_UP_DEADLINE: Duration = Duration::from_secs(60);

pub fn steady(a: &Arguments) -> Outcome<()> {
    println!("steady: {} records/s for {} s, producer's linger {} ms; latencies in ms", a.rate, a.seconds, a.linger);
    let mut of = [("late", Figures::default()), ("static", Figures::default())];
    for round in 1..=a.rounds {
        for (affinity, figures) in &mut of {
            let load = load();
            let lived = live(a, affinity)?;
            println!("round {round}  {affinity:<6}  {lived}   {load}");
            figures.push(&lived);
        }
    }
    of.iter().for_each(|(affinity, figures)| println!("steady: {affinity:<6}  {figures}"));
    Ok(())
}

/// One run.
struct Lived {
    /// p50, p99, p99.9 and the largest, in ms.
    latency: [f64; 4],
    engine: Run,
    producer_late: f64,
}

impl fmt::Display for Lived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([p50, p99, p999, max], Run { cpu_us, records, batches, .. }) = (self.latency, &self.engine);
        let late = self.producer_late;
        write!(f, "p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1}   ")?;
        write!(f, "{batches:.0} transactions of {:.0} records, own CPU {cpu_us:.2} µs/row", records / batches)?;
        write!(f, ", producer late by {late:.1} at most")
    }
}

fn live(a: &Arguments, affinity: &str) -> Outcome<Lived> {
    let topic = Topic::create("reference_steady", PARTITIONS);
    engine::fresh_table(a, Target::Log)?;
    let records = WARM_UP + a.rate * a.seconds;
    let running = Running::start(a, &Job { target: Target::Log, topic: topic.name(), records, affinity })?;
    let mut client = Client::connect(&a.dsn, NoTls)?;
    warm_up(a, topic.name(), &mut client)?;
    let producer_late = produce(a, topic.name())?;
    let engine = running.finish()?;
    let row = client.query_one(
        "SELECT count(*), percentile_disc(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY ms) \
         FROM (SELECT (extract(epoch FROM written) * 1000 - sent_us / 1000.0)::float8 AS ms \
         FROM reference WHERE sent_us > 0) AS r",
        &[],
    )?;
    let (rows, latency): (i64, Vec<f64>) = (row.get(0), row.get(1));
    if rows as u64 != a.rate * a.seconds {
        return Err(format!("{rows} rows of {} records", a.rate * a.seconds).into());
    }
    let latency = latency.try_into().map_err(|_| "four percentiles were asked for")?;
    Ok(Lived { latency, engine, producer_late })
}

/// Records without a time, until their rows are there.
fn warm_up(a: &Arguments, topic: &str, client: &mut Client) -> Outcome<()> {
    let producer = producer(a, &[])?;
    for n in 0..WARM_UP {
        send(&producer, topic, &record_key(n, a), &payload_sent(n, a, 0))?;
    }
    producer.flush(Duration::from_secs(60))?;
    let began = Instant::now();
    while client.query_one("SELECT count(*) FROM reference", &[])?.get::<_, i64>(0) < WARM_UP as i64 {
        if began.elapsed() > WARM_UP_DEADLINE {
            return Err("the engine does not begin".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Of all rounds.
#[derive(Default)]
struct Figures {
    latency: [Rounds; 4],
    transactions: Rounds,
    cpu_us: Rounds,
}

impl Figures {
    fn push(&mut self, lived: &Lived) {
        self.latency.iter_mut().zip(lived.latency).for_each(|(rounds, ms)| rounds.push(ms));
        self.transactions.push(lived.engine.batches);
        self.cpu_us.push(lived.engine.cpu_us);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { latency: [p50, p99, p999, max], transactions, cpu_us } = self;
        write!(f, "p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1}   ")?;
        write!(f, "{transactions:.0} transactions, own CPU {cpu_us:.2} µs/row")
    }
}
