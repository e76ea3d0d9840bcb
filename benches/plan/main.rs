//! What `forebay plan --measure` plans with, and what then is: peak rows a second, and the time to catch up with what waits while as much
//! comes as on average. Run it with
//!
//! ```text
//! bin/services up && cargo bench --bench plan -- [--OPTION N …]
//! ```
//!
//! Options: `--rounds` (3), `--probe-seconds` (30), `--backlog-seconds` (10; what waits, in seconds of the predicted rate),
//! `--mean-percent` (40; of the predicted rate, while it catches up).
//!
//! In each round, in turn: the database is measured, and the knee of its connections found; for half of the knee's workers, as many, and
//! twice as many (where the knee is one: one, two and four), [`decide`] says what such a plan takes, and how long it needs after an outage;
//! then `forebay run` with that plan's settings, in the same database, catches up with a backlog that nothing is added to (peak rows/s), and
//! with one that a producer adds to at the mean rate (catching up is over when less than what comes in two seconds waits). The simulation is
//! given the same outage: the database away for as long as it takes to make such a backlog. Broker, database, producer and forebay share one
//! machine; the measurement has the database and itself only. At the end a table: medians of the rounds, the least and the most. It prints;
//! it judges nothing.

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod engine;
#[path = "../reference/rounds.rs"]
mod rounds;

use std::error::Error;
use std::time::Duration;

use forebay::engine::Stopper;
use forebay::planner::decide::decide;
use forebay::planner::limits::{Fixed, Limits, ServerLimits};
use forebay::planner::measure::{Bounds, measure};
use forebay::planner::plan::Plan;
use forebay::planner::rates::Rates;
use forebay::planner::simulate::{Lost, Setup, World, scenarios};
use forebay::planner::wish::{Asked, Wish};
use rounds::{Rounds, load};
use support::{Database, Server};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Of the topic, and of the measurement.
const PARTITIONS: usize = 8;
const KEYS: u64 = 100_000;
/// Key and value.
const RECORD_BYTES: f64 = 308.0;
const CONNECTIONS_MAX: usize = 16;
const SETTINGS: [&str; 3] = ["half the knee", "the knee", "twice the knee"];

struct Arguments {
    rounds: u64,
    probe_seconds: u64,
    backlog_seconds: f64,
    mean_percent: f64,
}

impl Arguments {
    fn read() -> Outcome<Arguments> {
        let mut a = Arguments { rounds: 3, probe_seconds: 30, backlog_seconds: 10.0, mean_percent: 40.0 };
        // cargo adds `--bench`.
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(option) = words.next() {
            let value = words.next().ok_or(format!("{option}: expected a value"))?;
            match option.as_str() {
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

/// What is planned for a setting.
struct Planned {
    plan: Plan,
    wish: Wish,
    limits: Limits,
    mean: f64,
    /// Records, at the end of the outage.
    waits: f64,
}

/// Predicted, measured, their ratio; for both figures, and the simulated time beside the measured one.
#[derive(Default)]
struct Figures([Rounds; 8]);

fn main() -> Outcome<()> {
    let a = Arguments::read()?;
    let mut figures: [Figures; 3] = Default::default();
    for round in 1..=a.rounds {
        let database = Database::create(Server::A, "plan");
        let rates = measured(&a, &database)?;
        let knee = rates.knee(rates.batch(CONNECTIONS_MAX) as f64, CONNECTIONS_MAX);
        let half = (knee / 2).max(1);
        for ((name, workers), figures) in SETTINGS.iter().zip([half, 2 * half, 4 * half]).zip(&mut figures) {
            let load = load();
            let planned = Planned::new(&a, &rates, workers)?;
            let Planned { plan, mean, waits, .. } = &planned;
            let simulated = planned.simulated()?;
            let peak = engine::peak(&database, plan, *waits as u64)?;
            let took = engine::catch_up(&database, plan, *waits as u64, *mean)?;
            println!(
                "round {round}  {name:<14} {workers} × {:<5} {:.0} rows/s predicted, {peak:.0} measured   catching up {:.1} s predicted, \
                 {simulated:.1} simulated, {took:.1} measured   {load}",
                plan.batch_records_max, plan.shard_rows_per_s, plan.catch_up_s
            );
            let (rows, catch_up) = (plan.shard_rows_per_s, plan.catch_up_s);
            let all = [rows, peak, peak / rows, catch_up, took, took / catch_up, simulated, took / simulated];
            figures.0.iter_mut().zip(all).for_each(|(rounds, figure)| rounds.push(figure));
        }
    }
    println!(
        "\n| workers | rows/s predicted | measured | ratio | catching up predicted, s | measured, s | ratio | simulated, s | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, Figures([rows, peak, of_rows, catch_up, took, of_catch_up, simulated, of_simulated])) in
        SETTINGS.iter().zip(&figures)
    {
        println!(
            "| {name} | {rows:.0} | {peak:.0} | {of_rows:.2} | {catch_up:.1} | {took:.1} | {of_catch_up:.2} | {simulated:.1} | {of_simulated:.2} |"
        );
    }
    Ok(())
}

fn measured(a: &Arguments, database: &Database) -> Outcome<Rates> {
    let config = support::handler_config("plan-bench", &[database.dsn()], &["none"]);
    let bounds = Bounds {
        time: Duration::from_secs(a.probe_seconds),
        wal_bytes: 8 << 30,
        rows: KEYS,
        record_bytes: RECORD_BYTES as usize,
        batch_bytes_max: Fixed::default().batch_bytes_max,
        connections: CONNECTIONS_MAX,
        partitions: PARTITIONS,
        lanes: 16,
    };
    let measured = measure(&config, &config.shards[0], bounds, &Stopper::default())?;
    println!("{}", measured.table());
    Ok(measured.rates()?)
}

impl Planned {
    /// What so many workers of one process take; and then, at a part of that on average, after an outage.
    fn new(a: &Arguments, rates: &Rates, workers: usize) -> Outcome<Planned> {
        let rows = Planned::of(rates, workers, 1.0, 1.0)?.plan.shard_rows_per_s;
        Planned::of(rates, workers, rows * a.mean_percent / 100.0, rows * a.backlog_seconds)
    }

    fn of(rates: &Rates, workers: usize, mean: f64, waits: f64) -> Outcome<Planned> {
        let seconds = Duration::from_secs_f64;
        let asked = Asked {
            mean: Some(mean),
            peak: Some(mean),
            record_bytes: Some(RECORD_BYTES),
            shards: Some(1),
            processes: Some(1),
            spare_processes: Some(0),
            workers_per_shard: Some(workers as u64),
            partitions_per_shard: Some(PARTITIONS as u64),
            time_lag: Some(seconds(60.0)),
            catch_up: Some(seconds(86_400.0)),
            outage: Some(seconds(waits / mean)),
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
        let decision = decide(&wish, &limits);
        let plan = decision.plan.ok_or_else(|| format!("{workers} workers: {:?}", decision.refusals))?;
        Ok(Planned { plan, wish, limits, mean, waits })
    }

    /// The same outage, simulated: from when the database is there until time lag is what it was.
    fn simulated(&self) -> Outcome<f64> {
        let Planned { plan, wish, limits: Limits { rates, fixed, .. }, .. } = self;
        let setup = Setup { plan, wish, rates, fixed, seed: 0, tenants: 1000, skew: 0.0, units_max: 2_000_000 };
        let mut scenario = scenarios(&setup).into_iter().find(|s| s.name == "shard lost").ok_or("no such scenario")?;
        let away = self.waits / self.mean;
        // Here it is found at once: the engine is started then.
        scenario.lost = Some(Lost { from_s: 30.0, to_s: 30.0 + away, backoff_max: Duration::ZERO });
        (scenario.trouble_ends, scenario.seconds_max) = (30.0 + away, 600.0 + away);
        let mut world = World::new(&setup, &scenario)?;
        while world.step() {}
        Ok(world.outcome().calm_after_s.ok_or("it was not calm again")?)
    }
}
