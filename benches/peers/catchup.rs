//! A backlog: who has it in the table how soon.

use super::arguments::Arguments;
use super::bare;
use super::common::process_cpu;
use super::contest::{Column, Contest, Contestant, Report, Shown};
use super::engine::{self, Job, Run, Target};
use super::peer::Peer;
use super::workload::publish;
use super::{Outcome, check};

pub fn run(a: &Arguments, peers: &[Peer], report: &mut Report) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let (records, columns) = (bare::records(a), bare::columns(a));
    let of_rows = || from_memory(a, &columns, || bare::bare_of_rows(a, &records));
    let mut contestants = vec![
        forebay(a, "forebay".to_owned(), &topic),
        unnest(a, format!("bare UNNEST of {}", a.batch), &columns),
        Contestant { name: "bare UNNEST from rows".to_owned(), ours: false, run: Box::new(of_rows) },
    ];
    for peer in peers {
        let (topic, warm_up) = (peer.kind.publish(a, a.records)?, peer.publish_warm_up(a, Target::Table)?);
        let run = move || {
            let mut jvm = peer.start(a, Target::Table, &warm_up)?;
            jvm.order(Target::Table, &topic, a.records)?;
            shown(a, &jvm.figures()?)
        };
        contestants.push(Contestant { name: peer.kind.name().to_owned(), ours: false, run: Box::new(run) });
    }
    let title = format!("Catching up: {} records, batches of {}, {} connections", a.records, a.batch, a.workers);
    report.add(a.rounds, contest(title, contestants));
    Ok(())
}

pub fn contest(title: String, contestants: Vec<Contestant<'_>>) -> Contest<'_> {
    let columns = [("records/s", 0), ("own CPU, µs/record", 2), ("peak memory, MB", 0), ("records/transaction", 0)];
    let columns = columns.map(|(name, digits)| Column { name, digits }).into();
    Contest { title, columns, compared: 0, less_is_better: false, contestants }
}

pub fn forebay<'a>(a: &'a Arguments, name: String, topic: &'a str) -> Contestant<'a> {
    let run = move || {
        let job = Job { target: Target::Table, topic, records: a.records, affinity: &a.affinity };
        shown(a, &engine::run(a, &job)?)
    };
    Contestant { name, ours: true, run: Box::new(run) }
}

pub fn unnest<'a>(a: &'a Arguments, name: String, columns: &'a [Vec<bare::Columns>]) -> Contestant<'a> {
    Contestant { name, ours: false, run: Box::new(move || from_memory(a, columns, || bare::bare(a, columns))) }
}

/// Bare statements of this process; its memory is mostly the rows', so it says nothing.
pub fn from_memory(
    a: &Arguments,
    columns: &[Vec<bare::Columns>],
    statements: impl FnOnce() -> Outcome<f64>,
) -> Outcome<Shown> {
    let cpu = process_cpu();
    let rate = statements()?;
    let cpu_us = (process_cpu() - cpu).as_secs_f64() * 1e6 / a.records as f64;
    let batches: usize = columns.iter().map(Vec::len).sum();
    let figures = vec![Some(rate), Some(cpu_us), None, Some(a.records as f64 / batches as f64)];
    Ok(Shown { figures, fault: check::faults(a, a.records)? })
}

fn shown(a: &Arguments, run: &Run) -> Outcome<Shown> {
    let Run { rate, cpu_us, peak_mb, records, batches } = *run;
    let figures = [rate, cpu_us, peak_mb, records / batches].map(Some).into();
    Ok(Shown { figures, fault: check::faults(a, a.records)? })
}
