//! Steady traffic: one rate, and how long records take.

use crate::bench::BenchError;
use crate::bench::modes::live::{Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (workload, rate, period) = (bench.options.workload.clone(), bench.options.rate, bench.options.period);
    for _ in 0..bench.options.rounds {
        let traffic = Traffic {
            what: "steady",
            target: Target::Insert,
            work: Work::Table,
            workload: &workload,
            rate,
            warm_up: warm_up(f64::INFINITY),
            period,
            without: None,
        };
        let lived = live(bench, traffic, |look| if look.at < period { Next::Go } else { Next::Over })?;
        bench.push(Mode::Steady, "", lived.round);
        if bench.stopper.is_stopped() {
            break;
        }
    }
    Ok(())
}
