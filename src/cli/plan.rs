//! `forebay plan`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::ExitCode;
use super::run::on_signals;
use crate::console;
use crate::engine::Stopper;
use crate::planner::wish::{Asked, duration, number};
use crate::planner::{self, Options, PlanError};

/// Rates are records a second of all topics together; numbers may be written 400k, 2.5M, 10G.
#[derive(Debug, Args)]
pub struct Plan {
    /// Records a second at a peak [default: three times the mean].
    #[arg(long, value_name = "N", value_parser = number)]
    peak: Option<f64>,
    /// Records a second on average [default: a third of the peak].
    #[arg(long, value_name = "N", value_parser = number)]
    mean: Option<f64>,
    /// Instead of --mean: records a day.
    #[arg(long, value_name = "N", value_parser = number)]
    per_day: Option<f64>,
    /// Key, value and headers of a record [default: 300].
    #[arg(long, value_name = "BYTES", value_parser = number)]
    record_bytes: Option<f64>,
    /// How long a peak lasts [default: 10min].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    burst: Option<Duration>,
    /// Time lag allowed at the end of a peak [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    time_lag: Option<Duration>,
    /// The longest outage of the databases to survive [default: 1h].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    outage: Option<Duration>,
    /// Time to catch up after it, beside the mean rate [default: twice as long as the outage].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    catch_up: Option<Duration>,
    /// Copies of a record in Kafka [default: 3].
    #[arg(long, value_name = "N")]
    replication: Option<u64>,
    /// So many processes may fail at a time [default: 1].
    #[arg(long, value_name = "N")]
    spare_processes: Option<u64>,
    /// So many databases may come of each one without other partitions [default: 4].
    #[arg(long, value_name = "N")]
    growth: Option<u64>,
    /// Load of the busiest database, in shares of an even one [default: 1.2].
    #[arg(long, value_name = "N")]
    busiest_shard: Option<f64>,
    /// Part of what a database bears that is planned with [default: 80].
    #[arg(long, value_name = "PERCENT")]
    used_percent: Option<f64>,
    /// Bytes of records for each byte in Kafka [default: 1].
    #[arg(long, value_name = "N")]
    compression: Option<f64>,
    /// Kafka keeps records so many times as long as outage and catching up take [default: 2].
    #[arg(long, value_name = "N")]
    retention_factor: Option<f64>,
    /// Databases [default: the configuration's, or as many as it takes].
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// [default: as many as it takes].
    #[arg(long, value_name = "N")]
    processes: Option<u64>,
    /// Records that one process takes in [default: 100k].
    #[arg(long, value_name = "N", value_parser = number)]
    process_rows_per_second: Option<f64>,
    /// Memory of a process for records between Kafka and the databases [default: 2048].
    #[arg(long, value_name = "MIB")]
    process_memory_mib: Option<u64>,
    /// Bytes that one partition takes in, a second [default: 5M].
    #[arg(long, value_name = "N", value_parser = number)]
    partition_bytes_per_second: Option<f64>,
    /// Instead of what the databases say [default, where none is asked: 100].
    #[arg(long, value_name = "N")]
    max_connections: Option<u64>,
    /// Without --measure: rows that one database takes, a second [default: 12k].
    #[arg(long, value_name = "N", value_parser = number, conflicts_with = "measure")]
    shard_rows_per_second: Option<f64>,
    /// Without --measure: rows of one connection, a second [default: a quarter of the database's].
    #[arg(long, value_name = "N", value_parser = number, conflicts_with = "measure")]
    connection_rows_per_second: Option<f64>,
    /// Without --measure: what a COMMIT takes by itself [default: 2].
    #[arg(long, value_name = "MS", conflicts_with = "measure")]
    commit_latency_ms: Option<f64>,
    /// Write to one of the databases for a minute, in a schema of its own that is removed afterwards, and plan with what that
    /// bears: commit latency, rows a second by size of batch and number of connections, and the knee.
    #[arg(long, conflicts_with = "offline")]
    measure: bool,
    /// Which of the shards is measured [default: the first one].
    #[arg(long, value_name = "NAME", requires = "measure")]
    measure_shard: Option<String>,
    /// How long it is measured at most.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", requires = "measure")]
    probe_time: Duration,
    /// WAL that the server may write meanwhile.
    #[arg(long, value_name = "MIB", default_value_t = 4096, requires = "measure", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    probe_wal_mib: u64,
    /// Rows of the table that is measured with.
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "measure", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    probe_rows: u64,
    /// Let the plan run in a simulation: a peak, a hot tenant, a rolling deployment, a database lost for ten minutes, growth.
    #[arg(long)]
    simulate: bool,
    /// Another one is another simulation; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "simulate")]
    seed: u64,
    /// Tenants that records are of.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "simulate", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    tenants: u64,
    /// Zipf's exponent: the tenant of rank k has a share proportional to 1/k^S of the records. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.5, requires = "simulate", value_parser = exponent)]
    skew: f64,
    /// Simulated records of a scenario, about: more are closer to single ones, and take longer.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, requires = "simulate", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    simulated_records: u64,
    /// Write the simulation's charts into a directory.
    #[arg(long, value_name = "DIRECTORY", requires = "simulate")]
    svg: Option<PathBuf>,
    /// Ask nobody: plan with what is assumed, or given.
    #[arg(long)]
    offline: bool,
    /// Instead of the file's shards; once for each. Others on this machine can see it: where there is a password, use a file
    /// (dsn_file, dsn_env).
    #[arg(long, value_name = "DSN")]
    dsn: Vec<String>,
    /// Write a configuration and the commands that make the topics into a directory. Nothing is overwritten.
    #[arg(long, value_name = "DIRECTORY")]
    write: Option<PathBuf>,
    /// For programs: everything as one JSON object.
    #[arg(long)]
    json: bool,
}

fn exponent(text: &str) -> Result<f64, String> {
    let expected = || "expected 0 to 10".to_owned();
    text.parse().ok().filter(|s| (0.0..=10.0).contains(s)).ok_or_else(expected)
}

pub fn run(config: &Path, arguments: Plan) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    let Err(error) = planner::run(&options(config, arguments), &stopper) else { return ExitCode::Ok };
    console::err(format_args!("forebay plan: {error}"));
    match error {
        PlanError::Usage(_) => ExitCode::Usage,
        PlanError::Configuration(_) | PlanError::Refused => ExitCode::Config,
        PlanError::Unavailable(_) | PlanError::Interrupted => ExitCode::Unavailable,
        PlanError::Failed(_) => ExitCode::Internal,
    }
}

fn options(config: &Path, a: Plan) -> Options {
    let asked = Asked {
        peak: a.peak,
        mean: a.mean,
        per_day: a.per_day,
        record_bytes: a.record_bytes,
        burst: a.burst,
        time_lag: a.time_lag,
        outage: a.outage,
        catch_up: a.catch_up,
        replication: a.replication,
        spare_processes: a.spare_processes,
        growth: a.growth,
        busiest_shard: a.busiest_shard,
        used_percent: a.used_percent,
        compression: a.compression,
        retention_factor: a.retention_factor,
        shards: a.shards,
        processes: a.processes,
        process_rows: a.process_rows_per_second,
        process_memory_mib: a.process_memory_mib,
        partition_bytes: a.partition_bytes_per_second,
    };
    let probing =
        planner::Probing { time: a.probe_time, wal_mib: a.probe_wal_mib, rows: a.probe_rows, shard: a.measure_shard };
    let simulating = planner::Simulating { seed: a.seed, tenants: a.tenants, skew: a.skew, units: a.simulated_records };
    Options {
        asked,
        file: config.to_owned(),
        // Nobody named it.
        file_may_lack: config == Path::new("forebay.toml"),
        dsns: a.dsn,
        offline: a.offline,
        max_connections: a.max_connections,
        shard_rows: a.shard_rows_per_second,
        connection_rows: a.connection_rows_per_second,
        commit_ms: a.commit_latency_ms,
        measure: a.measure.then_some(probing),
        simulate: a.simulate.then_some(simulating),
        json: a.json,
        write: a.write,
        svg: a.svg,
    }
}
