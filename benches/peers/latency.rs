//! Steady traffic: from the time at which a record should have been sent to the `clock_timestamp()` of its row.

use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::contest::{Column, Contest, Contestant, Report, Shown};
use super::engine::{self, Job, Run, Running, Target};
use super::peer::{Kind, Peer};
use super::producer::{payload_sent, produce_as};
use super::steady::{WARM_UP, latency, warm_up_as};
use super::support::Topic;
use super::workload::PARTITIONS;

/// How long the producer waits for a batch to fill, in ms.
const LINGERS: [&str; 2] = ["1", "5"];

pub fn run(a: &Arguments, peers: &[Peer], report: &mut Report) -> Outcome<()> {
    for linger in LINGERS {
        let a = &Arguments { linger: linger.to_owned(), ..a.clone() };
        let records = WARM_UP + a.rate * a.seconds;
        let forebay = move || {
            let topic = Topic::create("peers_steady", PARTITIONS);
            engine::fresh_table(a, Target::Log)?;
            let job = Job { target: Target::Log, topic: topic.name(), records, affinity: &a.affinity };
            let running = Running::start(a, &job)?;
            traffic(a, Kind::ParallelConsumer, &topic, || running.finish())
        };
        let mut contestants = vec![Contestant { name: "forebay".to_owned(), ours: true, run: Box::new(forebay) }];
        for peer in peers {
            let warm_up = peer.publish_warm_up(a, Target::Log)?;
            let run = move || {
                let mut jvm = peer.start(a, Target::Log, &warm_up)?;
                let topic = Topic::create("peers_steady", PARTITIONS);
                jvm.order(Target::Log, topic.name(), records)?;
                traffic(a, peer.kind, &topic, || jvm.figures())
            };
            contestants.push(Contestant { name: peer.kind.name().to_owned(), ours: false, run: Box::new(run) });
        }
        let columns = [
            ("p50, ms", 1),
            ("p99, ms", 1),
            ("p99.9, ms", 1),
            ("max, ms", 1),
            ("records/transaction", 0),
            ("own CPU, µs/record", 2),
            ("peak memory, MB", 0),
            ("producer late, ms", 1),
        ];
        let columns = columns.map(|(name, digits)| Column { name, digits }).into();
        let title = format!(
            "Steady: {} records/s for {} s, producer's linger {linger} ms, {} connections",
            a.rate, a.seconds, a.workers
        );
        report.add(a.rounds, Contest { title, columns, compared: 1, less_is_better: true, contestants });
    }
    Ok(())
}

/// Records for somebody who waits for them; `form` says which.
fn traffic(a: &Arguments, form: Kind, topic: &Topic, finish: impl FnOnce() -> Outcome<Run>) -> Outcome<Shown> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    warm_up_as(a, topic.name(), WARM_UP, &mut client, |n| form.form(payload_sent(n, a, 0)))?;
    let mode = match form {
        Kind::ParallelConsumer => "producer-child",
        Kind::Debezium => "text-producer-child",
    };
    let late = produce_as(mode, a, topic.name())?;
    let Run { cpu_us, peak_mb, records, batches, .. } = finish()?;
    let [p50, p99, p999, max] = latency(a, &mut client)?;
    Ok(Shown { figures: [p50, p99, p999, max, records / batches, cpu_us, peak_mb, late].map(Some).into(), fault: None })
}
