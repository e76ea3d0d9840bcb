//! What `forebay plan --measure` predicts, and what then is: peak rows a second, and the time to catch up with what waits while as much
//! comes as on average. Run it with
//!
//! ```text
//! bin/services up && cargo bench --bench plan -- [--OPTION N …]
//! ```
//!
//! Options: `--settings` (workers × batch, `1x50,1x500,2x500`), `--rounds` (1), `--probe-seconds` (30), `--backlog-seconds` (10; what waits,
//! in seconds of the predicted rate), `--mean-percent` (40; of the predicted rate, while it catches up).
//!
//! In each round, in turn: the database is measured; for each setting, `forebay run` catches up with a backlog that nothing is added to
//! (peak rows/s), and with one that a producer adds to at the mean rate (catching up is over when less than what comes in two seconds
//! waits). The simulation is given the same outage: the database away for as long as it takes to make such a backlog. Broker,
//! database, producer and forebay share one machine; the measurement has the database and itself only. It prints; it judges nothing.

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod engine;

use std::error::Error;
use std::time::Duration;

use forebay::engine::Stopper;
use forebay::planner::decide::decide;
use forebay::planner::limits::{Fixed, Limits, ServerLimits};
use forebay::planner::measure::{Bounds, measure};
use forebay::planner::rates::Rates;
use forebay::planner::simulate::{Lost, Setup, World, scenarios};
use forebay::planner::wish::{Asked, Wish};
use support::{Database, Server};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Of the topic, and of the measurement.
const PARTITIONS: usize = 8;
const KEYS: u64 = 100_000;
/// Key and value.
const RECORD_BYTES: f64 = 308.0;

struct Arguments {
    settings: Vec<(usize, usize)>,
    rounds: u64,
    probe_seconds: u64,
    backlog_seconds: f64,
    mean_percent: f64,
}

impl Arguments {
    fn read() -> Outcome<Arguments> {
        let mut a = Arguments {
            settings: vec![(1, 50), (1, 500), (2, 500)],
            rounds: 1,
            probe_seconds: 30,
            backlog_seconds: 10.0,
            mean_percent: 40.0,
        };
        // cargo adds `--bench`.
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(option) = words.next() {
            let value = words.next().ok_or(format!("{option}: expected a value"))?;
            match option.as_str() {
                "--settings" => a.settings = value.split(',').map(setting).collect::<Outcome<_>>()?,
                "--rounds" => a.rounds = value.parse()?,
                "--probe-seconds" => a.probe_seconds = value.parse()?,
                "--backlog-seconds" => a.backlog_seconds = value.parse()?,
                "--mean-percent" => a.mean_percent = value.parse()?,
                other => return Err(format!("no option {other}: see the head of benches/plan/main.rs").into()),
            }
        }
        Ok(a)
    }
}

fn setting(text: &str) -> Outcome<(usize, usize)> {
    let (workers, batch) = text.split_once('x').ok_or("expected workers x batch, such as 2x500")?;
    Ok((workers.parse()?, batch.parse()?))
}

fn main() -> Outcome<()> {
    let a = Arguments::read()?;
    println!(
        "{:<10} {:>12} {:>12} {:>7}   {:>12} {:>12} {:>7} {:>12} {:>7}",
        "setting", "predicted/s", "measured/s", "ratio", "catch up, s", "measured, s", "ratio", "simulated, s", "ratio"
    );
    for _ in 0..a.rounds {
        let rates = measured(&a)?;
        for &(workers, batch) in &a.settings {
            let predicted = rates.rows_per_s(batch as f64, workers as f64);
            let (mean, waits) = (predicted * a.mean_percent / 100.0, predicted * a.backlog_seconds);
            let catch_up = waits / (predicted - mean);
            let simulated = simulated(&rates, workers, batch, mean, waits)?;
            let peak = engine::peak(workers, batch, waits as u64)?;
            let found = engine::catch_up(workers, batch, waits as u64, mean)?;
            println!(
                "{:<10} {predicted:>12.0} {peak:>12.0} {:>7.2}   {catch_up:>12.1} {found:>12.1} {:>7.2} {simulated:>12.1} {:>7.2}   [load {:.1}]",
                format!("{workers} x {batch}"),
                peak / predicted,
                found / catch_up,
                found / simulated,
                forebay::bench::machine::load().unwrap_or_default()
            );
        }
    }
    Ok(())
}

fn measured(a: &Arguments) -> Outcome<Rates> {
    let database = Database::create(Server::A, "plan");
    let config = support::handler_config("plan-bench", &[database.dsn()], &["none"]);
    let bounds = Bounds {
        time: Duration::from_secs(a.probe_seconds),
        wal_bytes: 8 << 30,
        rows: KEYS,
        record_bytes: RECORD_BYTES as usize,
        batch_bytes_max: 4 << 20,
        connections: 16,
        partitions: PARTITIONS,
        lanes: 16,
    };
    let measured = measure(&config, &config.shards[0], bounds, &Stopper::default())?;
    println!("{}", measured.table());
    Ok(measured.rates()?)
}

/// The same outage, simulated: from when the database is there until time lag is what it was.
fn simulated(rates: &Rates, workers: usize, batch: usize, mean: f64, waits: f64) -> Outcome<f64> {
    let seconds = Duration::from_secs_f64;
    let asked = Asked {
        mean: Some(mean),
        peak: Some(mean),
        record_bytes: Some(RECORD_BYTES),
        shards: Some(1),
        processes: Some(1),
        spare_processes: Some(0),
        time_lag: Some(seconds(60.0)),
        catch_up: Some(seconds(86_400.0)),
        outage: Some(seconds(1.0)),
        busiest_shard: Some(1.0),
        used_percent: Some(100.0),
        process_rows: Some(1e6),
        ..Asked::default()
    };
    let (wish, _) = Wish::new(&asked)?;
    let limits = Limits {
        servers: vec![ServerLimits::assumed(None).0],
        fixed: Fixed::default(),
        rates: rates.clone(),
        rates_from: "measured".to_owned(),
        wal_bytes_per_row: None,
    };
    let mut plan = decide(&wish, &limits).plan.ok_or("the setting cannot bear its mean rate")?;
    (plan.workers_per_shard, plan.batch_records_max) = (workers, batch);
    (plan.partitions_per_shard, plan.partitions) = (PARTITIONS, PARTITIONS);
    let fixed = &limits.fixed;
    let setup =
        Setup { plan: &plan, wish: &wish, rates, fixed, seed: 0, tenants: 1000, skew: 0.0, units_max: 2_000_000 };
    let mut scenario = scenarios(&setup).into_iter().find(|s| s.name == "shard lost").ok_or("no such scenario")?;
    let away = waits / mean;
    // Here it is found at once: the engine is started then.
    scenario.lost = Some(Lost { from_s: 30.0, to_s: 30.0 + away, backoff_max: Duration::ZERO });
    (scenario.trouble_ends, scenario.seconds_max) = (30.0 + away, 600.0 + away);
    let mut world = World::new(&setup, &scenario)?;
    while world.step() {}
    Ok(world.outcome().calm_after_s.ok_or("it was not calm again")?)
}
