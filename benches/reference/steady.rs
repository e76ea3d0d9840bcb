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
pub const WARM_UP: u64 = 1_000;
const WARM_UP_DEADLINE: Duration = Duration::from_secs(60);

/// Instead of an affinity: no engine.
const LEAST: &str = "least";

pub fn steady(a: &Arguments) -> Outcome<()> {
    println!("steady: {} records/s for {} s, producer's linger {} ms; latencies in ms", a.rate, a.seconds, a.linger);
    let mut of = ["late", "static", LEAST].map(|name| (name, Figures::default()));
    for round in 1..=a.rounds {
        for (name, figures) in &mut of {
            let load = load();
            let lived = live(a, name)?;
            println!("round {round}  {name:<6}  {lived}   {load}");
            figures.push(&lived);
        }
    }
    of.iter().for_each(|(name, figures)| println!("steady: {name:<6}  {figures}"));
    Ok(())
}

/// One run.
pub struct Lived {
    /// p50, p99, p99.9 and the largest, in ms.
    pub latency: [f64; 4],
    pub engine: Run,
    producer_late: f64,
    stalls: Stalls,
}

/// Times of [`STALL_MS`] or more in which no row at all was written, though records came steadily: then the cause is not one
/// slow record but something that holds up everybody, and a percentile says how long that took rather than how fast all is.
struct Stalls {
    number: i64,
    /// Of all of them, and the longest, in ms.
    total: f64,
    longest: f64,
}

/// See [`Stalls`].
const STALL_MS: f64 = 20.0;

impl fmt::Display for Lived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([p50, p99, p999, max], Run { cpu_us, records, batches, .. }) = (self.latency, &self.engine);
        let late = self.producer_late;
        write!(f, "p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1}   ")?;
        write!(f, "{batches:.0} transactions of {:.0} records, own CPU {cpu_us:.2} µs/row", records / batches)?;
        let Stalls { number, total, longest } = self.stalls;
        write!(f, ", producer late by {late:.1} at most")?;
        write!(f, ", {number} stalls of {total:.0} ms, the longest {longest:.0}")
    }
}

/// With lanes bound as `name` says.
pub fn live(a: &Arguments, name: &str) -> Outcome<Lived> {
    let topic = Topic::create("reference_steady", PARTITIONS);
    engine::fresh_table(a, Target::Log)?;
    let records = WARM_UP + a.rate * a.seconds;
    let job = Job { target: Target::Log, topic: topic.name(), records, affinity: name };
    let running = if name == LEAST { Running::start_child("least-child", a, &job) } else { Running::start(a, &job) }?;
    let mut client = Client::connect(&a.dsn, NoTls)?;
    warm_up(a, topic.name(), WARM_UP, &mut client)?;
    let producer_late = produce(a, topic.name())?;
    let engine = running.finish()?;
    let latency = latency(a, &mut client)?;
    Ok(Lived { latency, engine, producer_late, stalls: stalls(&mut client)? })
}

/// p50, p99, p99.9 and the largest, in ms, of all records that had a time; an error where not each has one row.
pub fn latency(a: &Arguments, client: &mut Client) -> Outcome<[f64; 4]> {
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
    Ok(latency.try_into().map_err(|_| "four percentiles were asked for")?)
}

fn stalls(client: &mut Client) -> Outcome<Stalls> {
    let row = client.query_one(
        "SELECT count(*), coalesce(sum(ms), 0), coalesce(max(ms), 0) FROM (SELECT (extract(epoch FROM \
         written - lag(written) OVER (ORDER BY written)) * 1000)::float8 AS ms FROM reference WHERE sent_us > 0) AS g \
         WHERE ms >= $1",
        &[&STALL_MS],
    )?;
    Ok(Stalls { number: row.get(0), total: row.get(1), longest: row.get(2) })
}

/// Records without a time, until so many rows are there.
pub fn warm_up(a: &Arguments, topic: &str, rows: u64, client: &mut Client) -> Outcome<()> {
    warm_up_as(a, topic, rows, client, |n| payload_sent(n, a, 0))
}

/// As [`warm_up`], with payloads of another form.
pub fn warm_up_as(
    a: &Arguments,
    topic: &str,
    rows: u64,
    client: &mut Client,
    payload: impl Fn(u64) -> String,
) -> Outcome<()> {
    let producer = producer(a, &[])?;
    for n in 0..WARM_UP {
        send(&producer, topic, &record_key(n, a), &payload(n))?;
    }
    producer.flush(Duration::from_secs(60))?;
    let began = Instant::now();
    while client.query_one("SELECT count(*) FROM reference", &[])?.get::<_, i64>(0) < rows as i64 {
        if began.elapsed() > WARM_UP_DEADLINE {
            return Err("the engine does not begin".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Of all rounds.
#[derive(Default)]
pub struct Figures {
    latency: [Rounds; 4],
    transactions: Rounds,
    cpu_us: Rounds,
}

impl Figures {
    pub fn push(&mut self, lived: &Lived) {
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
