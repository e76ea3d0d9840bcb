//! The engine without a database, against librdkafka's bare poll loop over the same topic, in turn.

use crate::bench::BenchError;
use crate::bench::modes::drain::drain;
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let workload = bench.options.workload.clone();
    let topic = bench.topic_of(&workload)?;
    let partitions = bench.partitions;
    for _ in 0..bench.options.rounds {
        for (case, work) in [("bare poll loop", Work::Poll { partitions }), ("engine", Work::Discard)] {
            let mut round = drain(bench, &format!("no-database, {case}"), &topic, work)?;
            // Each record was counted: there is nothing else to compare.
            round.verified = !round.cut_short;
            bench.push(Mode::NoDatabase, case, round);
            if bench.stopper.is_stopped() {
                return Ok(());
            }
        }
    }
    Ok(())
}
