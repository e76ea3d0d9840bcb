//! The engine alone: what it costs without rows, and whether its memory grows with lag.

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::workload::publish;

const MORE: u64 = 10;

pub fn handler(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let job = Job { target: Target::Handler, topic: &topic, records: a.records, affinity: &a.affinity };
    let mut rates = Rounds::default();
    for round in 1..=a.rounds {
        let load = load();
        let run = engine::run(a, &job)?;
        println!("round {round}  handler {run}   {load}");
        rates.push(run.rate);
    }
    println!("handler: {rates:.0} records/s");
    Ok(())
}

pub fn lag(a: &Arguments) -> Outcome<()> {
    let (topic, longer) = (publish(a, a.records)?, publish(a, a.records * MORE)?);
    let job = |topic, records| Job { target: Target::Table, topic, records, affinity: &a.affinity };
    let (mut short, mut long, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let one = engine::run(a, &job(&topic, a.records))?;
        let ten = engine::run(a, &job(&longer, a.records * MORE))?;
        let ratio = ten.peak_mb / one.peak_mb;
        println!("round {round}  x1 {one}   x{MORE} {ten}   peaks' ratio {ratio:.2}   {load}");
        short.push(one.peak_mb);
        long.push(ten.peak_mb);
        ratios.push(ratio);
    }
    println!("lag: peak at x1 {short:.0} MB, at x{MORE} {long:.0} MB, ratio {ratios:.2}");
    Ok(())
}
