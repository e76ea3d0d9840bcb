//! What each setting moves: everything but one as the reference job has it, and that one at several values in turn.

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Target};
use super::parts::Parts;
use super::rounds::Rounds;
use super::steady;
use super::workload::publish;

/// What forebay sets. Where only the queue's size is written, that of answers follows it.
const FETCH_BYTES_MAX: usize = 2 << 20;

/// A setting, its values, and how they are set. The one that everything else is measured with is among them.
struct Curve {
    name: &'static str,
    values: &'static [&'static str],
    default: &'static str,
    set: fn(&mut Arguments, &str) -> Outcome<()>,
}

const CATCHING_UP: [Curve; 11] = [
    Curve {
        name: "batch_records_max",
        values: &["50", "100", "250", "500", "1000", "2000", "5000", "10000"],
        default: "500",
        set: |a, value| {
            *a = a.with_batches_of(value.parse()?);
            Ok(())
        },
    },
    Curve {
        name: "workers_per_shard",
        values: &["1", "2", "4", "8", "16", "32"],
        default: "8",
        set: |a, value| put(&mut a.workers, value),
    },
    Curve {
        name: "lanes",
        values: &["1", "4", "8", "16", "64"],
        default: "16",
        set: |a, value| set(a, "engine.lanes", value),
    },
    Curve {
        name: "partition_records_max",
        values: &["2000", "5000", "10000", "20000", "80000"],
        default: "20000",
        set: |a, value| set(a, "engine.partition_records_max", value),
    },
    Curve {
        name: "queued.max.messages.kbytes",
        values: &["512", "1024", "4096", "16384", "65536"],
        default: "4096",
        set: queue,
    },
    Curve {
        name: "fetch.message.max.bytes",
        values: &["65536", "262144", "524288", "1048576"],
        default: "524288",
        set: |a, value| set(a, "kafka.fetch.message.max.bytes", value),
    },
    Curve {
        name: "queued.min.messages",
        values: &["1", "1000", "10000", "100000"],
        default: "1",
        set: |a, value| set(a, "kafka.queued.min.messages", value),
    },
    Curve {
        name: "fetch.queue.backoff.ms",
        values: &["1", "2", "10", "100"],
        default: "1",
        set: |a, value| set(a, "kafka.fetch.queue.backoff.ms", value),
    },
    Curve {
        name: "delivery",
        values: &["at_least_once", "exactly_once"],
        default: "exactly_once",
        set: |a, value| set(a, "engine.delivery", &format!("{value:?}")),
    },
    Curve {
        name: "synchronous_commit",
        values: &["off", "on"],
        default: "on",
        set: |a, value| in_database(a, "synchronous_commit", value),
    },
    Curve {
        name: "fillfactor",
        values: &["50", "70", "85", "100"],
        default: "100",
        set: |a, value| put(&mut a.fillfactor, value),
    },
];

const STEADY: [Curve; 6] = [
    Curve {
        name: "workers_per_shard",
        values: &["1", "2", "4", "8", "16"],
        default: "8",
        set: |a, value| put(&mut a.workers, value),
    },
    Curve {
        name: "batch_records_max",
        values: &["10", "50", "500", "2000"],
        default: "500",
        set: |a, value| put(&mut a.batch, value),
    },
    Curve {
        name: "queued.min.messages",
        values: &["1", "10000"],
        default: "1",
        set: |a, value| set(a, "kafka.queued.min.messages", value),
    },
    Curve {
        name: "fetch.queue.backoff.ms",
        values: &["1", "2", "5"],
        default: "1",
        set: |a, value| set(a, "kafka.fetch.queue.backoff.ms", value),
    },
    Curve {
        name: "the producer's linger, ms",
        values: &["1", "5", "20"],
        default: "5",
        set: |a, value| put(&mut a.linger, value),
    },
    Curve {
        name: "synchronous_commit",
        values: &["off", "on"],
        default: "on",
        set: |a, value| in_database(a, "synchronous_commit", value),
    },
];

fn put<T: std::str::FromStr<Err: std::error::Error + 'static>>(place: &mut T, value: &str) -> Outcome<()> {
    *place = value.parse()?;
    Ok(())
}

fn set(a: &mut Arguments, name: &str, value: &str) -> Outcome<()> {
    a.set.push(format!("{name}={value}"));
    Ok(())
}

fn queue(a: &mut Arguments, value: &str) -> Outcome<()> {
    set(a, "kafka.fetch.max.bytes", &FETCH_BYTES_MAX.to_string())?;
    set(a, "kafka.queued.max.messages.kbytes", value)
}

fn in_database(a: &mut Arguments, name: &str, value: &str) -> Outcome<()> {
    a.dsn.push_str(&format!(" options='-c {name}={value}'"));
    Ok(())
}

/// All of them; what takes half an hour with three rounds.
pub fn curves(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    for curve in &CATCHING_UP {
        curve.catching_up(a, &topic)?;
    }
    for curve in &STEADY {
        curve.steady(a)?;
    }
    Ok(())
}

impl Curve {
    fn at(&self, a: &Arguments, value: &str) -> Outcome<Arguments> {
        let mut a = a.clone();
        (self.set)(&mut a, value)?;
        Ok(a)
    }

    /// The value as the table shows it.
    fn shown(&self, value: &str) -> String {
        if value == self.default { format!("**{value}**") } else { value.to_owned() }
    }

    /// What `run` shows at each value, in turn; each round begins with another one, so that none always runs first.
    fn measured(&self, a: &Arguments, run: impl Fn(&Arguments) -> Outcome<[f64; 5]>) -> Outcome<Vec<[Rounds; 5]>> {
        let number = self.values.len();
        let mut of: Vec<[Rounds; 5]> = self.values.iter().map(|_| Default::default()).collect();
        for round in 0..a.rounds {
            let first = round * number / a.rounds;
            for turn in 0..number {
                let index = (first + turn) % number;
                let figures = run(&self.at(a, self.values[index])?)?;
                of[index].iter_mut().zip(figures).for_each(|(rounds, figure)| rounds.push(figure));
            }
        }
        Ok(of)
    }

    fn catching_up(&self, a: &Arguments, topic: &str) -> Outcome<()> {
        let of = self.measured(a, |a| {
            let began = Parts::now(&a.dsn)?;
            let job = Job { target: Target::Table, topic, records: a.records, affinity: &a.affinity };
            let run = engine::run(a, &job)?;
            let of_database = (Parts::now(&a.dsn)? - began).each(a.records as f64).postgres();
            Ok([run.rate, run.records / run.batches.max(1.0), of_database, run.cpu_us, run.peak_mb])
        })?;
        println!(
            "\n| {} | rows/s | records/batch | PostgreSQL, µs/row | own CPU, µs/row | peak memory, MB |",
            self.name
        );
        println!("|---|---|---|---|---|---|");
        for (value, [rate, batch, database, own, peak]) in self.values.iter().zip(&of) {
            println!(
                "| {} | {rate:.0} | {:.0} | {:.2} | {:.2} | {:.0} |",
                self.shown(value),
                batch.median(),
                database.median(),
                own.median(),
                peak.median()
            );
        }
        Ok(())
    }

    fn steady(&self, a: &Arguments) -> Outcome<()> {
        let of = self.measured(a, |a| {
            let lived = steady::live(a, "late")?;
            let [p50, p99, p999, _] = lived.latency;
            Ok([p50, p99, p999, lived.engine.records / lived.engine.batches.max(1.0), lived.engine.cpu_us])
        })?;
        println!(
            "\n| {}, at {} records/s | p50, ms | p99, ms | p99.9, ms | records/transaction | own CPU, µs/row |",
            self.name, a.rate
        );
        println!("|---|---|---|---|---|---|");
        for (value, [p50, p99, p999, batch, own]) in self.values.iter().zip(&of) {
            println!(
                "| {} | {:.1} | {p99:.1} | {:.1} | {:.1} | {:.2} |",
                self.shown(value),
                p50.median(),
                p999.median(),
                batch.median(),
                own.median()
            );
        }
        Ok(())
    }
}
