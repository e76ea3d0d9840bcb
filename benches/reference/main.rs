//! The reference job: a million JSON updates of 200,000 rows on 8 partitions, in a Kafka and a PostgreSQL beside it. Run it with
//!
//! ```text
//! bin/services up && cargo bench --bench reference -- [--OPTION N …] [MODE …]
//! ```
//!
//! | mode | what it runs, in turn |
//! |---|---|
//! | `catchup` (default) | bare `UNNEST` upserts of the same rows from memory, on as many connections; the engine |
//! | `affinity` | the engine with lanes bound late; with lanes bound statically |
//! | `pinning` | the engine with no thread pinned, with its workers pinned, with all its threads pinned (or as `--set engine.cores=…` and the like say, instead of these two): catching up, and steady traffic |
//! | `handler` | the engine with a handler that does nothing: no rows, but fences |
//! | `lag` | the engine with each of `--lags` million records waiting: does memory grow with lag? |
//! | `seen` | the engine while nobody looks and nothing is sampled; while somebody asks for `/metrics` four times a second, and for `/status` once: what that costs, and how soon it is answered |
//! | `bad` | the engine with no bad records; with some that PostgreSQL refuses; with some that do not decode |
//! | `hot` | a handler that takes its time, and a table, each without and with one key that has half of all records: the other keys' latency, also where no key is ever parked; the table's throughput |
//! | `locked` | steady upserts on one partition, beside nobody, beside a transaction that is open, and with a row locked from outside that has two per cent of the records: the other keys' throughput and latency, and how long stored progress stood still |
//! | `steady` | a producer that never waits for the engine, and latencies from the time at which a record should have been sent to the `clock_timestamp()` of its row (before COMMIT); lanes bound late, statically, and the least that does such a job: one thread without fences |
//! | `pace` | the engine without a limit and with `adaptive_limit`, alone; then pgbench's transactions in the same database, at a fixed rate: with no engine, with one that catches up at full speed, with one that catches up under `adaptive_limit` |
//! | `shard-down` | a steady producer and four shards in two clusters, of which one lets nobody in for `--seconds` (the figure to report: 60): the other three's rows/s before and meanwhile, and how long the fourth takes to catch up |
//! | `curves` | catching up, and steady traffic, at several values of each setting that matters; as Markdown, for tuning.md |
//! | `flat` | own CPU time a row of `forebay bench catch-up` with 1 to 64 partitions, 1 to 32 workers, 1,000 to 10 million rows, and records of 160 bytes to 10 kB |
//! | `slow` | a handler that sleeps 10 ms for each record, 64 workers, one partition, beside 64 × 100 records/s (for `--seconds`) |
//! | `pipeline` | librdkafka's bare poll loop; the engine's source, poller and workers without a database |
//!
//! Options: `--records` (1,000,000), `--keys` (200,000), `--rounds` (3), `--workers` (8), `--batch` (500), `--affinity` (late);
//! for `lag` `--lags` (1,10; millions of records that wait, instead of `--records`);
//! for `steady` and `shard-down` `--rate` (20,000 a second), `--seconds` (20) and `--linger` (the producer's, 5 ms);
//! for `hot` `--slow-ms` (5, for each record), `--hot-percent` (30) and `--seconds`; for `locked` `--rate`, `--lock-seconds` (30) and `--park-after-ms` (50);
//! for `pace` `--others` (pgbench's transactions a second, 200) and `--seconds`; for `slow` `--seconds`; for all `--skew` (0; per cent of the
//! records that one key has), `--adaptive` (false), `--fillfactor` (100), and `--set SECTION.NAME=VALUE` as often as needed, for settings of
//! `[kafka]` and `[engine]`.
//!
//! Every engine run but that of `pipeline` is a process of its own, whose CPU time and peak memory the operating system
//! reports. Each round shows the machine's load before it. It prints; it judges nothing.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/it/support/mod.rs"]
mod support;

mod affinity;
mod alone;
mod arguments;
mod bad;
mod bare;
mod curves;
mod engine;
mod flat;
mod hot;
mod least;
mod locked;
mod pace;
mod parts;
mod pinning;
mod pipeline;
mod producer;
mod rounds;
mod seen;
mod shards;
mod slow;
mod steady;
mod workload;

use std::error::Error;

use arguments::Arguments;
use support::{Database, Server};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = Arguments::of(std::env::args().skip(1))?;
    match arguments.modes.first().map(String::as_str) {
        Some("engine-child") => return engine::child(&arguments),
        Some("least-child") => return least::child(&arguments),
        Some("producer-child") => return producer::child(&arguments),
        Some(_) => {}
        None => arguments.modes.push("catchup".to_owned()),
    }
    let database = Database::create(Server::A, "reference");
    arguments.dsn = database.dsn().to_owned();
    println!(
        "{} records of {} bytes, {} keys, {} partitions, batch {}, {} workers",
        arguments.records,
        workload::payload(0, &arguments).len(),
        arguments.keys,
        workload::PARTITIONS,
        arguments.batch,
        arguments.workers
    );
    for mode in &arguments.modes {
        match mode.as_str() {
            "catchup" => bare::catchup(&arguments)?,
            "curves" => curves::curves(&arguments)?,
            "affinity" => affinity::affinity(&arguments)?,
            "pinning" => pinning::pinning(&arguments)?,
            "handler" => alone::handler(&arguments)?,
            "lag" => alone::lag(&arguments)?,
            "seen" => seen::seen(&arguments)?,
            "bad" => bad::bad(&arguments)?,
            "hot" => hot::hot(&arguments)?,
            "locked" => locked::locked(&arguments)?,
            "steady" => steady::steady(&arguments)?,
            "pace" => pace::pace(&arguments)?,
            "flat" => flat::flat(&arguments)?,
            "slow" => slow::slow(&arguments)?,
            "shard-down" => shards::shard_down(&arguments)?,
            "pipeline" => pipeline::pipeline(&arguments)?,
            other => {
                return Err(format!(
                    "no mode {other:?}: catchup, affinity, pinning, handler, lag, seen, bad, hot, locked, steady, pace, shard-down, curves, flat, slow or pipeline"
                )
                .into());
            }
        }
    }
    Ok(())
}
