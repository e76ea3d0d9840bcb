//! A handler that sleeps for each record, at half the rate that all workers together could do: what the waiting of others costs a
//! record.

use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::modes::drain::drain_some;
use crate::bench::modes::live::{Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::publisher::Publisher;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (workload, period) = (bench.options.workload.clone(), bench.options.period);
    for sleep in bench.options.sleeps.clone() {
        let capacity = capacity(bench, sleep)?;
        if bench.stopper.is_stopped() {
            return Ok(());
        }
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

/// Records that a handler without a sleep is tried with.
const TRIED: u64 = 10_000;

/// Records a second that all workers together can do: the sleep decides, or, where there is none, a short backlog shows it.
fn capacity(bench: &mut Bench<'_>, sleep: Duration) -> Result<f64, BenchError> {
    let workers = bench.config().shards.len() * bench.config().engine.workers_per_shard;
    if !sleep.is_zero() {
        return Ok(workers as f64 / sleep.as_secs_f64());
    }
    let topic = bench.new_topic()?;
    Publisher::new(&bench.config().kafka, &topic, None)?.warm_up(&bench.options.workload, TRIED)?;
    bench.databases()?.fresh_table(Target::Handler)?;
    let work = Work::Slow { table: bench.databases()?.table(), sleep_us: 0 };
    let round = drain_some(bench, "slow-handler, what it can do", &topic, (Target::Handler, work), TRIED)?;
    bench.drop_topic(&topic);
    Ok(round.rows_per_s)
}
