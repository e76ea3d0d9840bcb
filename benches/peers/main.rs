//! The reference job done by forebay and by others, in turn, in one run. Run it with
//!
//! ```text
//! bin/install-deps bench && bin/services up && cargo bench --bench peers -- [--OPTION N …] [MODE …]
//! ```
//!
//! | mode | who is compared |
//! |---|---|
//! | `catchup` | forebay, bare `UNNEST` upserts of the same rows from memory, Confluent Parallel Consumer, the Debezium JDBC sink: all with `--batch` records |
//! | `limits` | forebay, bare `UNNEST` and bare `COPY` into a temporary table at 500, 2,000, 5,000 and 20,000 records: who is how fast at his best |
//! | `poll` | no database: forebay's source, poller and workers, librdkafka's bare poll loop, Parallel Consumer with a function that does nothing |
//! | `steady` | an open loop of `--rate` records a second for `--seconds`, producer's linger 1 and 5 ms: latency from the time at which a record should have been sent to its row, of forebay, Parallel Consumer and Debezium |
//!
//! Without a mode it is all four. Options are those of `benches/reference/main.rs`, and `--warm-up` (records for a peer's JVM before its
//! clock starts, 400,000), `--heap` (a peer's largest heap, 2g), `--without` (names of peers, with commas between), `--json FILE` (each
//! run's figures).
//!
//! Each contestant is a process of its own (the bare statements are threads of this one), starts with a fresh table behind a
//! CHECKPOINT, and another one begins in each round. What the table holds in the end is compared with what the records say, row by row.
//! The peers' sources are in `java/`; Maven and javac build them once, below `target/peers`. It prints; it judges nothing.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/it/support/mod.rs"]
mod support;

// Of the reference job, as much as is needed; the rest has its user there.
#[allow(dead_code)]
#[path = "../reference/arguments.rs"]
mod arguments;
#[allow(dead_code)]
#[path = "../reference/bare.rs"]
mod bare;
#[allow(dead_code)]
#[path = "../reference/engine.rs"]
mod engine;
#[allow(dead_code)]
#[path = "../reference/parts.rs"]
mod parts;
#[allow(dead_code)]
#[path = "../reference/pipeline.rs"]
mod pipeline;
#[allow(dead_code)]
#[path = "../reference/producer.rs"]
mod producer;
#[path = "../reference/rounds.rs"]
mod rounds;
#[allow(dead_code)]
#[path = "../reference/steady.rs"]
mod steady;
#[allow(dead_code)]
#[path = "../reference/workload.rs"]
mod workload;

mod catchup;
mod check;
mod contest;
mod copy;
mod latency;
mod limits;
mod no_database;
mod options;
mod peer;
mod surroundings;
mod text;

use std::error::Error;

use contest::Report;
use support::{Database, Server};

const MODES: [&str; 4] = ["catchup", "limits", "poll", "steady"];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let (mut a, options) = options::read(std::env::args().skip(1))?;
    match a.modes.first().map(String::as_str) {
        Some("engine-child") => return engine::child(&a),
        Some("producer-child") => return producer::child(&a),
        Some("text-producer-child") => return text::producer_child(&a),
        Some("poll-child") => return no_database::poll_child(&a),
        Some("pipeline-child") => return no_database::pipeline_child(&a),
        Some(_) => {}
        None => a.modes = MODES.map(str::to_owned).to_vec(),
    }
    if let Some(unknown) = a.modes.iter().find(|mode| !MODES.contains(&mode.as_str())) {
        return Err(format!("no mode {unknown:?}: {}", MODES.join(", ")).into());
    }
    let database = Database::create(Server::A, "peers");
    a.dsn = database.dsn().to_owned();
    let peers = peer::build(&options)?;
    surroundings::print(&a, &options, &peers)?;
    let mut report = Report::default();
    for mode in &a.modes {
        match mode.as_str() {
            "catchup" => catchup::run(&a, &peers, &mut report)?,
            "limits" => limits::run(&a, &mut report)?,
            "poll" => no_database::run(&a, &peers, &mut report)?,
            "steady" => latency::run(&a, &peers, &mut report)?,
            other => unreachable!("{other} is none of the modes"),
        }
    }
    report.finish(&surroundings::json(&a, &options, &peers)?, options.json.as_deref())
}
