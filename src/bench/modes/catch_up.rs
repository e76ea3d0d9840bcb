//! Catching up: everything is published before the engine starts, and it goes as fast as it can.

use crate::bench::BenchError;
use crate::bench::figures::Round;
use crate::bench::latency::as_expected;
use crate::bench::modes::drain::drain;
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;
use crate::bench::workload::Workload;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let workload = bench.options.workload.clone();
    for _ in 0..bench.options.rounds {
        let round = upserts(bench, "catch-up", &workload)?;
        bench.push(Mode::CatchUp, "", round);
        if bench.stopper.is_stopped() {
            break;
        }
    }
    Ok(())
}

/// One round of upserts, compared with what they must leave.
pub fn upserts(bench: &mut Bench<'_>, what: &str, workload: &Workload) -> Result<Round, BenchError> {
    let topic = bench.topic_of(workload)?;
    bench.databases()?.fresh_table(Target::Upsert)?;
    let mut round = drain(bench, what, &topic, Work::Table)?;
    if !round.cut_short {
        let expected = workload.expected(bench.options.records);
        let found = as_expected(bench.databases()?, &expected);
        round.verified = bench.verify(what, found)?;
    }
    Ok(round)
}
