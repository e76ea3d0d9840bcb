//! `forebay bench`, and the process that it runs the engine in.

use std::path::{Path, PathBuf};

use clap::Args;

use super::run::on_signals;
use super::{ExitCode, log};
use crate::bench::workload::Mix;
use crate::bench::{self, BenchError, Mode, Options, Settings, Sources, Written};
use crate::console;
use crate::engine::Stopper;

#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure: catch-up [default], steady, ramp (a rate that rises until time lag grows), burst (and the recovery from
    /// it), slow-handler, hot-key, no-database.
    #[arg(value_name = "MODE")]
    modes: Vec<Mode>,
    /// Records to catch up with.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Rows that they are of.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    keys: u64,
    /// Tenants that the rows belong to, each having as many [default: one for each 1000 rows].
    #[arg(long, value_name = "N")]
    tenants: Option<u64>,
    /// Zipf's exponent: the row of rank k has a share proportional to 1/k^S of the records; rows of a tenant have neighbouring
    /// ranks. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    skew: f64,
    /// Pad whole rows to so many bytes [default: as they are, about 235].
    #[arg(long, value_name = "N")]
    value_bytes: Option<u64>,
    /// In per cent: whole rows, partial updates, tombstones. What is sent at a rate is whole rows, inserted.
    #[arg(long, value_name = "MIX", default_value = "upsert=100")]
    operations: Mix,
    /// Another one is another workload; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Records a second of steady traffic, before a burst, and of the ramp's first step.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    rate: u64,
    /// How long steady traffic, and each step of a ramp, lasts; a burst a quarter of it.
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// How long the publisher waits for a batch to fill, where records are sent at a rate.
    #[arg(long, value_name = "N", default_value_t = 5)]
    linger_ms: u64,
    /// Of the topic [default: 8, or as many as the shards declare].
    #[arg(long, value_name = "N")]
    partitions: Option<u64>,
    /// Measure so many times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u64,
    /// What the slow handler sleeps for each record.
    #[arg(long, value_name = "MS", value_delimiter = ',', default_values_t = [0, 1, 10, 100])]
    sleep_ms: Vec<u64>,
    /// The part of the records that the hot key has.
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    hot_percent: u64,
    /// The burst is so many times the rate.
    #[arg(long, value_name = "N", default_value_t = 4)]
    burst_factor: u64,
    /// Write every figure of every round to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts into a directory.
    #[arg(long, value_name = "DIRECTORY")]
    svg: Option<PathBuf>,
    /// Leave topics, groups and the schema, and say which they are.
    #[arg(long)]
    keep: bool,
    /// Instead of the file's `bootstrap.servers`.
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Instead of the file's shards; once for each. Others on this machine can see it: where there is a
    /// password, use a file (dsn_file, dsn_env).
    #[arg(long, value_name = "DSN")]
    dsn: Vec<String>,
    /// Instead of `engine.workers_per_shard`.
    #[arg(long, value_name = "N")]
    workers: Option<u64>,
    /// Instead of `engine.batch_records_max`.
    #[arg(long, value_name = "N")]
    batch: Option<u64>,
    /// Instead of `engine.lanes`.
    #[arg(long, value_name = "N")]
    lanes: Option<u64>,
    /// Instead of any setting of the file: engine.affinity=static, kafka.fetch.wait.max.ms=10, shard.adaptive_limit=true (of all
    /// shards).
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

pub fn setting(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("expected SETTING=VALUE")?;
    Ok((path.trim().to_owned(), value.trim().to_owned()))
}

pub fn run(config: &Path, arguments: Bench) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    let result = written(config, arguments).and_then(|written| {
        let options = Options::new(written)?;
        let settings = Settings::read(&options.sources)?;
        bench::run(&options, settings, &stopper)
    });
    let Err(error) = result else { return ExitCode::Ok };
    console::err(format_args!("forebay bench: {error}"));
    match error {
        BenchError::Usage(_) => ExitCode::Usage,
        BenchError::Configuration(_) => ExitCode::Config,
        BenchError::Unavailable(_) | BenchError::Interrupted => ExitCode::Unavailable,
        BenchError::Engine(error) => ExitCode::from(&error),
        BenchError::Failed(_) => ExitCode::Internal,
    }
}

fn written(config: &Path, a: Bench) -> Result<Written, BenchError> {
    let named = [("workers_per_shard", a.workers), ("batch_records_max", a.batch), ("lanes", a.lanes)];
    let named = named.into_iter().filter_map(|(name, value)| Some((format!("engine.{name}"), value?.to_string())));
    let settings = named.chain(a.set).collect();
    let sources = Sources { file: config.to_owned(), brokers: a.brokers, dsns: a.dsn, settings };
    Ok(Written {
        modes: a.modes,
        records: a.records,
        keys: a.keys,
        tenants: a.tenants,
        skew: a.skew,
        value_bytes: a.value_bytes,
        operations: a.operations,
        seed: a.seed,
        rate: a.rate,
        seconds: a.seconds,
        linger_ms: a.linger_ms,
        partitions: a.partitions,
        rounds: a.rounds,
        sleep_ms: a.sleep_ms,
        hot_percent: a.hot_percent,
        burst_factor: a.burst_factor,
        json: a.json,
        svg: a.svg,
        keep: a.keep,
        log_level: log::level(),
        sources,
    })
}

/// The engine's process. What it has to say it says to whoever started it.
pub fn engine() -> ExitCode {
    bench::child();
    ExitCode::Ok
}
