//! One key with half of all records: of a slow handler's topic, and of an upserted table.

use forebay::bench::workload::HOT;
use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Running, Target};
use super::producer::produce;
use super::rounds::{Rounds, load};
use super::steady::warm_up;
use super::support::Topic;
use super::workload::{PARTITIONS, ids, publish};

const SKEW: u64 = 50;
/// How much of one thread's time the hot key asks for, in thousandths: a slow lane must bear it.
const ASKS: u64 = 600;

/// As few workers as bear the records, so that the hot key does meet others.
const WORKERS: usize = 2;

pub fn hot(a: &Arguments) -> Outcome<()> {
    let rate = ASKS * 100 / SKEW / a.slow_ms.max(1);
    println!(
        "hot: {rate} records/s of {} ms for {} s on {WORKERS} workers; other keys' p50, p99 and longest latency in ms",
        a.slow_ms, a.seconds
    );
    let (mut left, mut parked, mut rates) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let even = Arguments { rate, workers: WORKERS, ..a.clone() };
        let skewed = Arguments { skew: SKEW, ..even.clone() };
        let never = Arguments { hot_percent: 0, ..skewed.clone() };
        let [even, never, skewed] = [others(&even)?, others(&never)?, others(&skewed)?];
        let ratios = [never[1] / even[1], skewed[1] / even[1]];
        println!(
            "round {round}  without {even:.1?}   with, never parked {never:.1?}   with, parked {skewed:.1?}   p99's ratios {ratios:.2?}   {load}"
        );
        left.push(ratios[0]);
        parked.push(ratios[1]);
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
    println!(
        "hot: handler, other keys' p99 with / without {parked:.2} (never parked: {left:.2}); table, throughput with / without {rates:.3}"
    );
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
        &[&ids(HOT, a).1],
    )?;
    Ok(row.get(0))
}

/// At least one window in which the key is found: that is no steady traffic.
const WARM_UP: u64 = 1_000;
