//! A handler that sleeps for each record, at half the rate that all workers together could do: what the waiting of others costs a
//! record.

use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::modes::live::{Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (workload, period) = (bench.options.workload.clone(), bench.options.period);
    for sleep in bench.options.sleeps.clone() {
        let capacity = capacity(bench, sleep);
        let rate = bench.options.rate.min((capacity / 2.0) as u64).max(1);
        let what = format!("{} ms a record, {rate}/s", sleep.as_millis());
        for _ in 0..bench.options.rounds {
            let table = bench.databases()?.table();
            let traffic = Traffic {
                what: &format!("slow-handler, {what}"),
                target: Target::Handler,
                work: Work::Slow { table, sleep_us: sleep.as_micros() as u64 },
                workload: &workload,
                rate,
                warm_up: warm_up(capacity),
                period,
                without: None,
            };
            let lived = live(bench, traffic, |look| if look.at < period { Next::Go } else { Next::Over })?;
            bench.push(Mode::SlowHandler, &what, lived.round);
            if bench.stopper.is_stopped() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Records a second that all workers together can do, as far as the sleep decides.
fn capacity(bench: &Bench<'_>, sleep: Duration) -> f64 {
    let workers = bench.config().shards.len() * bench.config().engine.workers_per_shard;
    if sleep.is_zero() { f64::INFINITY } else { workers as f64 / sleep.as_secs_f64() }
}
