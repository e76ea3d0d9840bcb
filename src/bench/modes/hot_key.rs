//! One key that has a large part of all records: what it does to a table's throughput, and, with a handler that takes its time, to
//! the latency of all other keys.

use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::modes::catch_up::upserts;
use crate::bench::modes::live::{Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;
use crate::bench::workload::{HOT, Workload};

/// Of the handler, for each record.
const SLEEP: Duration = Duration::from_millis(5);
/// How much of one thread's time the hot key asks for: one thread can still do it.
const ASKS: f64 = 0.6;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let even = bench.options.workload.clone();
    let hot = Workload { hot_percent: bench.options.hot_percent, ..even.clone() };
    let with = format!("one key with {} %", hot.hot_percent);
    let cases = [("even", &even), (with.as_str(), &hot)];
    for _ in 0..bench.options.rounds {
        for (name, workload) in cases {
            let case = format!("table, {name}");
            let round = upserts(bench, &format!("hot-key, {case}"), workload)?;
            bench.push(Mode::HotKey, &case, round);
            if bench.stopper.is_stopped() {
                return Ok(());
            }
        }
    }
    for _ in 0..bench.options.rounds {
        for (name, workload) in cases {
            handler(bench, name, workload)?;
            if bench.stopper.is_stopped() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// All others' latencies.
fn handler(bench: &mut Bench<'_>, name: &str, workload: &Workload) -> Result<(), BenchError> {
    let (period, percent) = (bench.options.period, bench.options.hot_percent);
    let rate = ((ASKS / SLEEP.as_secs_f64() * 100.0 / percent as f64) as u64).clamp(1, bench.options.rate);
    let case = format!("handler of {} ms, {rate}/s, {name}: other keys", SLEEP.as_millis());
    let traffic = Traffic {
        what: &format!("hot-key, {case}"),
        target: Target::Handler,
        work: Work::Slow { table: bench.databases()?.table(), sleep_us: SLEEP.as_micros() as u64 },
        workload,
        rate,
        warm_up: warm_up(1.0 / SLEEP.as_secs_f64()),
        period,
        without: Some(workload.ids(HOT).1),
    };
    let lived = live(bench, traffic, |look| if look.at < period { Next::Go } else { Next::Over })?;
    bench.push(Mode::HotKey, &case, lived.round);
    Ok(())
}
