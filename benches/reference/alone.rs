//! The engine alone: what it costs without rows, and whether its memory grows with lag.

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::workload::publish;

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
    let records = |millions: &f64| (millions * 1e6).round() as u64;
    let topics: Vec<String> = a.lags.iter().map(|lag| publish(a, records(lag))).collect::<Outcome<_>>()?;
    let mut peaks: Vec<[Rounds; 2]> = a.lags.iter().map(|_| Default::default()).collect();
    for round in 1..=a.rounds {
        let mut first = None;
        for ((lag, topic), [peak, ratio]) in a.lags.iter().zip(&topics).zip(&mut peaks) {
            let load = load();
            let job = Job { target: Target::Table, topic, records: records(lag), affinity: &a.affinity };
            let run = engine::run(a, &job)?;
            println!("round {round}  {lag} million {run}   {load}");
            peak.push(run.peak_mb);
            ratio.push(run.peak_mb / *first.get_or_insert(run.peak_mb));
        }
    }
    for (lag, [peak, ratio]) in a.lags.iter().zip(&peaks) {
        println!("lag of {lag} million: peak {peak:.0} MB, {ratio:.2} of that of {} million", a.lags[0]);
    }
    Ok(())
}
