//! `forebay compare`.

use std::path::PathBuf;

use clap::Args;

use super::ExitCode;
use super::run::{on_signals, raise_descriptors};
use crate::bench::{BenchError, Sources};
use crate::compare::{self, CompareError, Options, Written};
use crate::console;
use crate::demo::DemoError;
use crate::engine::Stopper;

#[derive(Debug, Args)]
pub struct Compare {
    /// Requests a second, and then twice as many [default: the highest rate that sync bears, which is searched for first].
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// How long each of the runs sends: all disturbances are in it [default: 60].
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// 20 seconds, and not at twice the rate: a first look.
    #[arg(long)]
    quick: bool,
    /// Rows that requests are of.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: u64,
    /// Zipf's exponent: the row of rank k has a share proportional to 1/k^S of the requests. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.8)]
    skew: f64,
    /// Another one is another workload; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Of a request's body.
    #[arg(long, value_name = "N", default_value_t = 300)]
    value_bytes: u64,
    /// Keep-alive connections that requests are sent over. One that is due while all are in use waits, and that counts.
    #[arg(long, value_name = "N", default_value_t = 256)]
    connections: u64,
    /// After so long without an answer a request is an error.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout_ms: u64,
    /// Of the gateway in sync mode: connections to each database.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pool: u64,
    /// Likewise: how long a request waits for one of them.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pool_wait_ms: u64,
    /// Of the engine, for each database [default: 4].
    #[arg(long, value_name = "N")]
    workers: Option<u64>,
    /// Of the topic.
    #[arg(long, value_name = "N", default_value_t = 8)]
    partitions: u64,
    /// The burst is so many times the rate.
    #[arg(long, value_name = "N", default_value_t = 3)]
    burst_factor: u64,
    /// A rate is borne when every request is accepted, and 99 of 100 within this.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    p99_ms: u64,
    /// Where compare.html and compare.json go.
    #[arg(long, value_name = "DIRECTORY", default_value = "forebay-compare")]
    out: PathBuf,
    /// [default: a Kafka at 127.0.0.1:9092 or :19092].
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Instead of servers of its own, which no other is stopped for; once for each database. Others on this machine can see it.
    #[arg(long, value_name = "DSN")]
    dsn: Vec<String>,
    /// A setting of the engine: engine.batch_records_max=100, kafka.fetch.wait.max.ms=10, shard.lock_timeout_ms=1000 (of all shards).
    #[arg(long, value_name = "SETTING=VALUE", value_parser = crate::bench::setting)]
    set: Vec<(String, String)>,
}

pub fn run(arguments: Compare) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    raise_descriptors();
    let Err(error) = Options::new(written(arguments)).and_then(|options| compare::run(&options, &stopper)) else {
        return ExitCode::Ok;
    };
    console::err(format_args!("forebay compare: {error}"));
    match error {
        CompareError::Usage(_) | CompareError::Bench(BenchError::Usage(_)) => ExitCode::Usage,
        CompareError::Bench(BenchError::Configuration(_)) => ExitCode::Config,
        CompareError::Bench(BenchError::Engine(error)) => ExitCode::from(&error),
        CompareError::Failed(_) | CompareError::Bench(BenchError::Failed(_)) => ExitCode::Internal,
        CompareError::Server(DemoError::Failed(_)) => ExitCode::Internal,
        CompareError::Unavailable(_) | CompareError::Interrupted => ExitCode::Unavailable,
        CompareError::Bench(_) | CompareError::Server(_) => ExitCode::Unavailable,
    }
}

fn written(a: Compare) -> Written {
    let workers = a.workers.map(|workers| ("engine.workers_per_shard".to_owned(), workers.to_string()));
    let settings = workers.into_iter().chain(a.set).collect();
    // Its file is nobody's: see `Environment`.
    let sources = Sources { file: PathBuf::new(), brokers: a.brokers, dsns: a.dsn, settings };
    Written {
        rate: a.rate,
        seconds: a.seconds,
        quick: a.quick,
        keys: a.keys,
        skew: a.skew,
        seed: a.seed,
        value_bytes: a.value_bytes,
        connections: a.connections,
        timeout_ms: a.timeout_ms,
        pool_size: a.pool,
        pool_wait_ms: a.pool_wait_ms,
        partitions: a.partitions,
        burst_factor: a.burst_factor,
        borne_p99_ms: a.p99_ms,
        out: a.out,
        sources,
    }
}
