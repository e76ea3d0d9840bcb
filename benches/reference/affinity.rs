//! Catching up with lanes that bind late against lanes bound to `lane mod workers`.

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::rounds::{Rounds, load};
use super::workload::publish;

pub fn affinity(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let job = |affinity| Job { target: Target::Table, topic: &topic, records: a.records, affinity };
    let (mut late, mut fixed, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let (l, s) = (engine::run(a, &job("late"))?, engine::run(a, &job("static"))?);
        println!("round {round}  late {l}   static {s}   late/static {:.3}   {load}", l.rate / s.rate);
        late.push(l.rate);
        fixed.push(s.rate);
        ratios.push(l.rate / s.rate);
    }
    println!("affinity: late {late:.0} rows/s, static {fixed:.0} rows/s, late/static {ratios:.3}");
    Ok(())
}
