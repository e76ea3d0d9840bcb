//! On which machine it ran, and with which versions and settings: figures are worth nothing without.

use std::fs;
use std::process::Command;

use forebay::bench::machine::Machine;
use postgres::{Client, NoTls};
use serde_json::{Map, Value};

use super::Outcome;
use super::arguments::Arguments;
use super::options::Options;
use super::peer::{Kind, Peer};
use super::workload::{PARTITIONS, payload};

const BROKER: &str = include_str!("../../deploy/kafka/pom.xml");
const PARALLEL_CONSUMER: &str = include_str!("java/parallel-consumer/pom.xml");
const DEBEZIUM: &str = include_str!("java/debezium/pom.xml");

pub fn print(a: &Arguments, options: &Options, peers: &[Peer]) -> Outcome<()> {
    for (what, found) in all(a, options, peers)? {
        println!("{what}: {found}");
    }
    Ok(())
}

pub fn json(a: &Arguments, options: &Options, peers: &[Peer]) -> Outcome<Value> {
    Ok(Value::Object(all(a, options, peers)?.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect::<Map<_, _>>()))
}

fn all(a: &Arguments, options: &Options, peers: &[Peer]) -> Outcome<Vec<(&'static str, String)>> {
    let mut found = vec![
        ("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("machine", machine()),
        ("load before", fs::read_to_string("/proc/loadavg")?.trim().to_owned()),
        (
            "job",
            format!(
                "{} records of {} bytes, {} keys, {PARTITIONS} partitions, batch {}, {} connections, {} rounds",
                a.records,
                payload(0, a).len(),
                a.keys,
                a.batch,
                a.workers,
                a.rounds
            ),
        ),
        ("forebay", format!("{}, librdkafka {}", env!("CARGO_PKG_VERSION"), rdkafka::util::get_rdkafka_version().1)),
        ("PostgreSQL", postgresql(a)?),
        ("Kafka", version(BROKER, "kafka.version>", "<")?),
    ];
    for peer in peers {
        found.push(match peer.kind {
            Kind::ParallelConsumer => (
                "Confluent Parallel Consumer",
                format!(
                    "{}, PgJDBC {}, Jackson {}, KEY order",
                    of_artifact(PARALLEL_CONSUMER, "parallel-consumer-core")?,
                    of_artifact(PARALLEL_CONSUMER, "postgresql")?,
                    of_artifact(PARALLEL_CONSUMER, "jackson-databind")?
                ),
            ),
            Kind::Debezium => (
                "Debezium JDBC sink",
                format!(
                    "{}, Connect {}, PgJDBC {}, reduction buffer, {} tasks",
                    of_artifact(DEBEZIUM, "debezium-connector-jdbc")?,
                    of_artifact(DEBEZIUM, "connect-runtime")?,
                    of_artifact(DEBEZIUM, "postgresql")?,
                    a.workers
                ),
            ),
        });
    }
    if let Some(peer) = peers.first() {
        let output = Command::new(&peer.java).arg("-version").output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find(|line| line.contains(" version ")).unwrap_or_default().to_owned();
        let (options, warm_up) = (peer.options.join(" "), options.warm_up);
        found.push(("Java", format!("{line}; {options}; warmed up with {warm_up} records")));
    }
    Ok(found)
}

fn machine() -> String {
    let Machine { kernel, cpu, cores, memory_bytes, .. } = Machine::this();
    format!("{cores} cores ({cpu}), {:.0} GB, {kernel}", memory_bytes as f64 / 1e9)
}

fn postgresql(a: &Arguments) -> Outcome<String> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    let row = client.query_one(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), \
         current_setting('shared_buffers'), current_setting('max_wal_size')",
        &[],
    )?;
    let of = |index| row.get::<_, String>(index);
    Ok(format!(
        "{}, fsync {}, synchronous_commit {}, shared_buffers {}, max_wal_size {}",
        of(0),
        of(1),
        of(2),
        of(3),
        of(4)
    ))
}

/// What stands between two words.
fn version(text: &str, behind: &str, before: &str) -> Outcome<String> {
    let rest = text.split_once(behind).ok_or_else(|| format!("no {behind} in a pom.xml"))?.1;
    Ok(rest.split(before).next().unwrap_or_default().trim().to_owned())
}

fn of_artifact(pom: &str, artifact: &str) -> Outcome<String> {
    let rest = pom.split_once(&format!("<artifactId>{artifact}</artifactId>")).ok_or("an artifact is missing")?.1;
    version(rest, "<version>", "<")
}
