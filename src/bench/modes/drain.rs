//! A topic that is full, and whoever reads it to its end.

use crate::bench::BenchError;
use crate::bench::figures::Round;
use crate::bench::machine;
use crate::bench::progress::Progress;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

/// One run of upserts, not compared with anything yet. `what` is for people.
pub fn drain(bench: &mut Bench<'_>, what: &str, topic: &str, work: Work) -> Result<Round, BenchError> {
    let records = bench.options.records;
    drain_some(bench, what, topic, (Target::Upsert, work), records)
}

/// The same with so many records, whatever becomes of them.
pub fn drain_some(
    bench: &mut Bench<'_>,
    what: &str,
    topic: &str,
    (target, work): (Target, Work),
    records: u64,
) -> Result<Round, BenchError> {
    let load_before = machine::load();
    let mut running = bench.start(topic, target, work, Some(records))?;
    let mut progress = Progress::new(what, records, "records durable");
    let (mut cut_short, mut stuck) = (false, false);
    while !running.look()? {
        progress.show(running.latest().durable, "");
        stuck |= running.is_stuck();
        if (stuck || bench.stopper.is_stopped()) && !cut_short {
            cut_short = true;
            running.stop();
            running.be_patient();
        }
    }
    drop(progress);
    let (end, samples) = running.ended()?;
    if stuck {
        let text = format!("{what}: nothing became durable any more after {} of {records} records", end.durable);
        return Err(BenchError::Failed(text));
    }
    // The end may have come before the signal.
    let cut_short = end.durable < records;
    let published = vec![records; samples.len()];
    Ok(Round { cut_short, load_before, ..Round::new(&end, &samples, &published).without_ages() })
}
