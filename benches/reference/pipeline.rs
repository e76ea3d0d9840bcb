//! The engine without a database: the real source, poller, workers and control loop, a writer that drops every batch and a
//! control that says yes at once; against librdkafka's bare poll loop over the same topic.

use std::time::Duration;

use forebay::bench::discard;
use forebay::engine::Stopper;

use super::Outcome;
use super::arguments::Arguments;
use super::common::{PATIENCE, bare_poll};
use super::engine::{Target, config, watch};
use super::rounds::{Rounds, load};
use super::workload::{PARTITIONS, publish};

pub fn pipeline(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let a = &Arguments { topic, ..a.clone() };
    let (mut bare, mut engine, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let drained = bare_poll(&a.kafka, &a.topic, PARTITIONS, a.records as usize, PATIENCE)?;
        let (poll, ours) = (Cost::of(a, (drained.took, drained.cpu)), Cost::of(a, drop_all(a)?));
        let ratio = ours.rate / poll.rate;
        println!(
            "round {round}  bare poll {:>8.0} records/s, CPU {:.2} µs   pipeline {:>8.0} records/s, CPU {:.2} µs   ratio {ratio:.3}   {load}",
            poll.rate, poll.cpu_us, ours.rate, ours.cpu_us
        );
        bare.push(poll.rate);
        engine.push(ours.rate);
        ratios.push(ratio);
    }
    println!("pipeline: bare poll {bare:.0} records/s, pipeline {engine:.0} records/s, ratio {ratios:.3}");
    Ok(())
}

/// Records per second, and the whole process's CPU per record, from the first one to the last.
struct Cost {
    rate: f64,
    cpu_us: f64,
}

impl Cost {
    fn of(a: &Arguments, (took, cpu): (Duration, Duration)) -> Cost {
        let records = a.records as f64;
        Cost { rate: records / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / records }
    }
}

/// Time and CPU time from the first record fetched until all of them are dropped, and known to be.
pub fn drop_all(a: &Arguments) -> Outcome<(Duration, Duration)> {
    let config = config(a, Target::Table)?;
    let (observed, stopper) = (discard::observed(&config), Stopper::default());
    let took = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let took = watch(&observed.counters, a.records, &stopper);
            stopper.stop();
            took
        });
        let ended = discard::run(config, &observed, &stopper);
        stopper.stop();
        let took = watcher.join().map_err(|_| "the watcher panicked")?;
        ended?;
        Ok::<_, Box<dyn std::error::Error>>(took)
    })?;
    match observed.counters.durable.get() {
        durable if durable < a.records => Err(format!("{durable} of {} records were dropped", a.records).into()),
        _ => Ok(took),
    }
}
