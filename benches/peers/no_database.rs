//! No database: what taking records from Kafka, in order per key and with all offsets accounted for, costs by itself.

use super::Outcome;
use super::arguments::Arguments;
use super::common::{PATIENCE, bare_poll};
use super::contest::{Column, Contest, Contestant, Report, Shown};
use super::engine::{self, Job, Run, Running, Target};
use super::peer::{Kind, Peer};
use super::pipeline::drop_all;
use super::workload::{PARTITIONS, publish};

/// forebay fetches when its queue is empty, which costs least at a steady rate. The bare loop, as librdkafka comes, fetches ahead.
const AHEAD: [&str; 2] = ["kafka.queued.min.messages=100000", "kafka.queued.max.messages.kbytes=65536"];

pub fn run(a: &Arguments, peers: &[Peer], report: &mut Report) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let child = |name: &str, ours, mode: &'static str, set: &[&str]| {
        let topic = &topic;
        let mut a = a.clone();
        a.set.extend(set.iter().map(|setting| (*setting).to_owned()));
        let run = move || {
            let job = Job { target: Target::Handler, topic, records: a.records, affinity: &a.affinity };
            shown(&Running::start_child(mode, &a, &job)?.finish()?)
        };
        Contestant { name: name.to_owned(), ours, run: Box::new(run) }
    };
    let mut contestants = vec![
        child("forebay without a database", true, "pipeline-child", &[]),
        child("the same, fetching ahead", false, "pipeline-child", &AHEAD),
        child("bare poll loop", false, "poll-child", &[]),
    ];
    // Debezium's sink is one for databases.
    for peer in peers.iter().filter(|peer| peer.kind == Kind::ParallelConsumer) {
        let (topic, warm_up) = (&topic, peer.publish_warm_up(a, Target::Handler)?);
        let run = move || {
            let mut jvm = peer.start(a, Target::Handler, &warm_up)?;
            jvm.order(Target::Handler, topic, a.records)?;
            shown(&jvm.figures()?)
        };
        contestants.push(Contestant { name: peer.kind.name().to_owned(), ours: false, run: Box::new(run) });
    }
    let columns = [("records/s", 0), ("own CPU, µs/record", 2), ("peak memory, MB", 0)];
    let columns = columns.map(|(name, digits)| Column { name, digits }).into();
    let title = format!("No database: {} records", a.records);
    report.add(a.rounds, Contest { title, columns, compared: 0, less_is_better: false, contestants });
    Ok(())
}

fn shown(run: &Run) -> Outcome<Shown> {
    Ok(Shown { figures: [run.rate, run.cpu_us, run.peak_mb].map(Some).into(), fault: None })
}

/// A process's own part: everything but the database.
pub fn pipeline_child(a: &Arguments) -> Outcome<()> {
    forebay::cli::memory::keep_large_blocks();
    let (took, cpu) = drop_all(a)?;
    engine::print_run(took, cpu, a.records, 1);
    Ok(())
}

/// The same of librdkafka's own loop, one message a call.
pub fn poll_child(a: &Arguments) -> Outcome<()> {
    let drained = bare_poll(&a.kafka, &a.topic, PARTITIONS, a.records as usize, PATIENCE)?;
    engine::print_run(drained.took, drained.cpu, a.records, 1);
    Ok(())
}
