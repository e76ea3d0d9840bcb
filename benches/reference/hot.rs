//! One key with half of all records: of a slow handler's topic, and of an upserted table.

use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Running, Target};
use super::producer::produce;
use super::rounds::{Rounds, load};
use super::steady::warm_up;
use super::support::Topic;
use super::workload::{HOT, PARTITIONS, ids, publish};

const SKEW: u64 = 50;
/// How much of one thread's time the hot key asks for, in thousandths: a slow lane must bear it.
const ASKS: u64 = 600;

pub fn hot(a: &Arguments) -> Outcome<()> {
    let rate = ASKS * 100 / SKEW / a.slow_ms.max(1);
    println!("hot: {rate} records/s of {} ms for {} s; other keys' latencies in ms", a.slow_ms, a.seconds);
    let (mut p99s, mut rates) = (Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let even = others(&Arguments { rate, ..a.clone() })?;
        let skewed = others(&Arguments { rate, skew: SKEW, ..a.clone() })?;
        let ratio = skewed[1] / even[1];
        println!(
            "round {round}  p50, p99, max without {even:.1?}   with {skewed:.1?}   p99's ratio {ratio:.2}   {load}"
        );
        p99s.push(ratio);
    }
    let skewed = Arguments { skew: SKEW, ..a.clone() };
    let (even_topic, skewed_topic) = (publish(a, a.records)?, publish(&skewed, a.records)?);
    let job = |topic| Job { target: Target::Table, topic, records: a.records, affinity: &a.affinity };
    for round in 1..=a.rounds {
        let load = load();
        let (even, skewed) = (engine::run(a, &job(&even_topic))?, engine::run(&skewed, &job(&skewed_topic))?);
        println!("round {round}  table without {even}   with {skewed}   ratio {:.3}   {load}", skewed.rate / even.rate);
        rates.push(skewed.rate / even.rate);
    }
    println!("hot: handler, other keys' p99 with / without {p99s:.2}; table, throughput with / without {rates:.3}");
    Ok(())
}

/// p50, p99 and the largest of all keys but the hot one.
fn others(a: &Arguments) -> Outcome<Vec<f64>> {
    let topic = Topic::create("reference_hot", PARTITIONS);
    engine::fresh_table(a, Target::Slow)?;
    let records = WARM_UP + a.rate * a.seconds;
    let job = Job { target: Target::Slow, topic: topic.name(), records, affinity: &a.affinity };
    let running = Running::start(a, &job)?;
    let mut client = Client::connect(&a.dsn, NoTls)?;
    warm_up(a, topic.name(), WARM_UP, &mut client)?;
    produce(a, topic.name())?;
    running.finish()?;
    let row = client.query_one(
        "SELECT percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY \
         (extract(epoch FROM written) * 1000 - sent_us / 1000.0)::float8) FROM reference \
         WHERE sent_us > 0 AND subscription_id <> $1::text::uuid",
        &[&ids(HOT).1],
    )?;
    Ok(row.get(0))
}

/// At least one window in which the key is found: that is no steady traffic.
const WARM_UP: u64 = 1_000;
