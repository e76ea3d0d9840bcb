//! One plan from beginning to end: what is asked of whom, in which order, and what is said and written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::config::load::{self, Loaded};
use crate::config::{Config, Pooler, Shard, settings};
use crate::console;
use crate::engine::Stopper;
use crate::planner::decide::decide;
use crate::planner::limits::{self, Fixed, Limits, ServerLimits};
use crate::planner::measure::{self, Bounds, Measured};
use crate::planner::plan::Plan;
use crate::planner::rates::Rates;
use crate::planner::report::{self, Report, VERSION};
use crate::planner::simulate::{self, Setup, Simulated};
use crate::planner::wish::{Asked, Assumption, Wish, duration, number};
use crate::planner::{PlanError, brokers, write};
use crate::words::{counted, grouped, rate};

/// What the command line says. Rates are records a second of all topics together; numbers may be written 400k, 2.5M, 10G.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub asked: Asked,
    /// Instead of what the databases say [default, where none is asked: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=MAX_CONNECTIONS_MAX))]
    pub max_connections: Option<i32>,
    /// Without --measure: rows that one database takes, a second [default: 12k].
    #[arg(long, value_name = "N", value_parser = number, conflicts_with = "measure")]
    pub shard_rows_per_second: Option<f64>,
    /// Without --measure: rows of one connection, a second [default: a quarter of the database's].
    #[arg(long, value_name = "N", value_parser = number, conflicts_with = "measure")]
    pub connection_rows_per_second: Option<f64>,
    /// Without --measure: what a COMMIT takes by itself [default: 2].
    #[arg(long, value_name = "MS", conflicts_with = "measure")]
    pub commit_latency_ms: Option<f64>,
    /// Write to one of the databases for a minute, in a schema of its own that is removed afterwards, and plan with what that
    /// bears: commit latency, rows a second by size of batch and number of connections, and the knee.
    #[arg(long, conflicts_with = "offline")]
    pub measure: bool,
    #[command(flatten)]
    pub probing: Probing,
    /// Let the plan run in a simulation: a peak, a hot tenant, a rolling deployment, a database lost for ten minutes, growth.
    #[arg(long)]
    pub simulate: bool,
    #[command(flatten)]
    pub simulating: Simulating,
    /// Write the simulation's charts into a directory.
    #[arg(long, value_name = "DIRECTORY", requires = "simulate")]
    pub svg: Option<PathBuf>,
    /// Ask nobody: plan with what is assumed, or given.
    #[arg(long)]
    pub offline: bool,
    /// Instead of the file's shards; once for each. Others on this machine can see it: where there is a password, use a file
    /// (dsn_file, dsn_env).
    #[arg(long, value_name = "DSN")]
    pub dsn: Vec<String>,
    /// Write a configuration and the commands that make the topics into a directory. Nothing is overwritten. The brokers are asked what
    /// they have.
    #[arg(long, value_name = "DIRECTORY")]
    pub write: Option<PathBuf>,
    /// For programs: everything as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Of `--measure`.
#[derive(Debug, Clone, Args)]
pub struct Probing {
    /// Which of the shards is measured [default: the first one].
    #[arg(long, value_name = "NAME", requires = "measure")]
    pub measure_shard: Option<String>,
    /// How long it is measured at most.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", requires = "measure")]
    pub probe_time: Duration,
    /// WAL that the server may write meanwhile [default: half of its max_wal_size].
    #[arg(long, value_name = "MIB", requires = "measure", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pub probe_wal_mib: Option<u64>,
    /// Rows of the table that is measured with.
    #[arg(long, value_name = "N", default_value_t = 200_000, requires = "measure", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub probe_rows: u64,
}

/// Of `--simulate`.
#[derive(Debug, Clone, Copy, Args)]
pub struct Simulating {
    /// Another one is another simulation; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "simulate")]
    pub seed: u64,
    /// Tenants that records are of.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "simulate", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub tenants: u64,
    /// Zipf's exponent: the tenant of rank k has a share proportional to 1/k^S of the records. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.5, requires = "simulate", value_parser = exponent)]
    pub skew: f64,
    /// Simulated records of a scenario, about: more are closer to single ones, and take longer.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, requires = "simulate", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pub simulated_records: u64,
}

fn exponent(text: &str) -> Result<f64, String> {
    let expected = || "expected 0 to 10".to_owned();
    text.parse().ok().filter(|s| (0.0..=10.0).contains(s)).ok_or_else(expected)
}

/// PostgreSQL takes no more (MAX_BACKENDS in src/include/postmaster/postmaster.h).
const MAX_CONNECTIONS_MAX: i64 = 262_143;
/// What one database bears where nobody measured, of a few cores and a table of a few indexes.
const SHARD_ROWS: f64 = 12_000.0;
const COMMIT_MS: f64 = 2.0;
/// A connection keeps a core busy, and such a database has a few.
const CONNECTIONS_OF_A_DATABASE: f64 = 4.0;
/// Of a shard that is measured.
const PROBE_PARTITIONS: usize = 4;
const PROBE_CONNECTIONS_MAX: i64 = 64;
/// Where a server does not say how large it lets its WAL become: half of what PostgreSQL begins with.
const PROBE_WAL_BYTES: u64 = 512 << 20;

/// Plans, and prints what it found.
///
/// # Errors
/// See [`PlanError`]. What is refused is printed all the same.
pub fn run(options: &Options, file: &File<'_>, stopper: &Stopper) -> Result<(), PlanError> {
    let known = Known::read(options, file)?;
    let mut asked = options.asked.clone();
    if let (None, Some(loaded)) = (asked.shards, &known.loaded) {
        asked.shards = Some(loaded.config.shards.len() as u64);
    }
    let (wish, mut assumptions) = Wish::new(&asked)?;
    let servers = known.servers(options, &mut assumptions)?;
    let measured = known.measured(options, &wish, &servers, stopper)?;
    let (rates, rates_from) = rates(options, measured.as_ref(), &mut assumptions)?;
    let config = known.loaded.as_ref().map(|loaded| &loaded.config);
    let limits = Limits {
        servers,
        fixed: config.map_or_else(Fixed::default, Fixed::of),
        rates,
        rates_from,
        wal_bytes_per_row: measured.as_ref().map(|measured| measured.wal_bytes_per_row).filter(|bytes| *bytes > 0.0),
    };
    let decision = decide(&wish, &limits);
    let plan = decision.plan.clone();
    let simulated = match (&plan, options.simulate) {
        (Some(plan), true) => Some(simulated(plan, &wish, &limits, options.simulating, stopper)?),
        _ => None,
    };
    let mut written = Vec::new();
    if let (Some(plan), Some(directory)) = (&plan, &options.write) {
        if let (Some(loaded), false, true) = (&known.loaded, options.offline, options.dsn.is_empty()) {
            brokers::fits(&loaded.config, plan)?;
        }
        let configuration = write::configuration(&known.present, plan)?;
        let commands = write::commands(&known.present, plan, &wish);
        written.extend(write::files(directory, &configuration, &commands)?);
    }
    if let (Some(simulated), Some(directory)) = (&simulated, &options.svg) {
        written.extend(simulate::write_svg(simulated, directory)?);
    }
    let is_refused = !decision.refusals.is_empty();
    let report = Report {
        version: VERSION,
        forebay: env!("CARGO_PKG_VERSION").to_owned(),
        wish,
        servers: limits.servers,
        measured,
        assumptions,
        decision,
        simulated,
        written: written.iter().map(|path| path.display().to_string()).collect(),
    };
    say(&report, options.json)?;
    if is_refused { Err(PlanError::Refused) } else { Ok(()) }
}

fn say(report: &Report, json: bool) -> Result<(), PlanError> {
    if json {
        let text = serde_json::to_string_pretty(report).map_err(|e| PlanError::Failed(format!("the report: {e}")))?;
        console::out(text);
        return Ok(());
    }
    let mut text = report::text(report);
    if let Some(simulated) = &report.simulated {
        text.push('\n');
        text.push_str(&simulate::table(simulated, report.wish.busiest_shard));
    }
    console::out(text);
    Ok(())
}

fn simulated(
    plan: &Plan,
    wish: &Wish,
    limits: &Limits,
    simulating: Simulating,
    stopper: &Stopper,
) -> Result<Simulated, PlanError> {
    let Simulating { seed, tenants, skew, simulated_records } = simulating;
    let (rates, fixed) = (&limits.rates_of_a_shard(), &limits.fixed);
    simulate::simulate(&Setup { plan, wish, rates, fixed, seed, tenants, skew, units_max: simulated_records }, stopper)
}

/// An ordinary configuration; where it is the default one, it need not be there.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    pub path: &'a Path,
    pub may_lack: bool,
}

/// What is there: a configuration, or none.
struct Known {
    loaded: Option<Loaded>,
    present: write::Present,
}

impl Known {
    fn read(options: &Options, file: &File<'_>) -> Result<Known, PlanError> {
        if !options.dsn.is_empty() {
            let shards: Vec<_> =
                options.dsn.iter().enumerate().map(|(i, dsn)| (write::shard_name(i), dsn.clone())).collect();
            let document = write::template(&shards);
            let loaded = load::parse(Path::new("--dsn"), &write::text(&document)?, &|name| std::env::var_os(name))?;
            let directory = std::env::current_dir().unwrap_or_default();
            return Ok(Known { loaded: Some(loaded), present: write::Present { document, directory } });
        }
        if file.may_lack && !file.path.exists() {
            return Ok(Known { loaded: None, present: write::Present::default() });
        }
        let loaded = load::load(file.path)?.with_tables_only()?;
        Ok(Known { loaded: Some(loaded), present: write::Present::read(file.path)? })
    }

    fn servers(&self, options: &Options, assumptions: &mut Vec<Assumption>) -> Result<Vec<ServerLimits>, PlanError> {
        let servers = match &self.loaded {
            Some(loaded) if !options.offline => limits::ask(&loaded.config, options.max_connections)?,
            _ => Vec::new(),
        };
        if let Some(most) = servers.iter().map(|server| server.others).max() {
            assumptions.push(Assumption::new(
                "connections that others have on a server: at most as many as now",
                grouped(most.max(0) as u64),
                "--max-connections, less what more they may have",
            ));
            return Ok(servers);
        }
        let (server, assumed) = ServerLimits::assumed(options.max_connections);
        assumptions.extend(assumed);
        Ok(vec![server])
    }

    fn measured(
        &self,
        options: &Options,
        wish: &Wish,
        servers: &[ServerLimits],
        stopper: &Stopper,
    ) -> Result<Option<Measured>, PlanError> {
        if !options.measure {
            return Ok(None);
        }
        let probing = &options.probing;
        let Some(Loaded { config, .. }) = &self.loaded else {
            let expected = "--measure: expected a database: --config FILE, or --dsn";
            return Err(PlanError::Usage(expected.to_owned()));
        };
        let shard = chosen(config, probing.measure_shard.as_deref())?;
        if shard.pooler != Pooler::None {
            return Err(PlanError::Configuration(format!(
                "shard {}: found a pooler, expected the server itself to measure at: --dsn",
                shard.name
            )));
        }
        let bounds = Bounds {
            time: probing.probe_time,
            wal_bytes: probing.probe_wal_mib.map_or_else(|| wal_bytes(servers), |mib| mib << 20),
            rows: probing.probe_rows,
            record_bytes: wish.record_bytes as usize,
            batch_bytes_max: config.engine.batch_bytes_max,
            connections: connections(servers)?,
            partitions: PROBE_PARTITIONS,
            lanes: config.engine.lanes.max(settings::LANES.kind.0.default as u16),
        };
        console::err(measure::told(shard, &bounds));
        measure::measure(config, shard, bounds, stopper).map(Some)
    }
}

/// Of what nobody has now, half: others come and go, and somebody has to look at it.
fn connections(servers: &[ServerLimits]) -> Result<usize, PlanError> {
    let free = |server: &ServerLimits| server.free.min(server.database_max.unwrap_or(i64::MAX));
    let free = servers.iter().map(free).min().unwrap_or_default();
    match free / 2 {
        half if half >= 1 => Ok(half.min(PROBE_CONNECTIONS_MAX) as usize),
        _ => Err(PlanError::Unavailable(format!(
            "--measure: found {} free, expected at least 2: half of them are measured with",
            counted(free.max(0) as u64, "connection")
        ))),
    }
}

/// As much as brings no checkpoint before its time.
fn wal_bytes(servers: &[ServerLimits]) -> u64 {
    let sizes = servers.iter().filter_map(|server| server.setting("max_wal_size"));
    sizes.map(|bytes| (bytes / 2.0) as u64).min().unwrap_or(PROBE_WAL_BYTES)
}

fn chosen<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Shard, PlanError> {
    let Some(name) = name else { return Ok(&config.shards[0]) };
    config.shards.iter().find(|shard| shard.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.shards.iter().map(|shard| shard.name.as_str()).collect();
        PlanError::Usage(format!("--measure-shard: found {name:?}, expected one of {}", names.join(", ")))
    })
}

/// What one database takes, and how that is known.
fn rates(
    options: &Options,
    measured: Option<&Measured>,
    assumptions: &mut Vec<Assumption>,
) -> Result<(Rates, String), PlanError> {
    if let Some(measured) = measured {
        let others = "every other database is believed to be like it";
        return Ok((measured.rates()?, format!("measured at shard {}; {others}", measured.shard)));
    }
    let given = |option: &str, value: Option<f64>, most: f64| match value {
        Some(value) if !(value > 0.0 && value <= most) => {
            Err(PlanError::Usage(format!("{option}: found {value}, expected more than 0 and at most {most}")))
        }
        value => Ok(value),
    };
    let rows = given("--shard-rows-per-second", options.shard_rows_per_second, 1e9)?;
    let of_connection = given("--connection-rows-per-second", options.connection_rows_per_second, 1e9)?;
    let commit_ms = given("--commit-latency-ms", options.commit_latency_ms, 60_000.0)?;
    let from = if rows.is_some() { "given" } else { "assumed" };
    let database_rows_per_s = rows.unwrap_or(SHARD_ROWS);
    let connection_rows_per_s = of_connection.unwrap_or(database_rows_per_s / CONNECTIONS_OF_A_DATABASE);
    let mut assume = |what: &str, value: String, option: &str| {
        assumptions.push(Assumption::new(what, value, &format!("{option}, or --measure")));
    };
    if rows.is_none() {
        assume("rows/s that one database takes at most", rate(database_rows_per_s), "--shard-rows-per-second");
    }
    if of_connection.is_none() {
        assume(
            "rows/s of one connection: a quarter of that",
            rate(connection_rows_per_s),
            "--connection-rows-per-second",
        );
    }
    if commit_ms.is_none() {
        assume("time that a COMMIT takes by itself, ms", COMMIT_MS.to_string(), "--commit-latency-ms");
    }
    let commit_s = commit_ms.unwrap_or(COMMIT_MS) / 1e3;
    Ok((Rates::Assumed { database_rows_per_s, connection_rows_per_s, commit_s }, from.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server has free is more than this database lets in.
    #[test]
    fn a_measurement_takes_half_of_what_its_database_lets_in() {
        let (mut server, _) = ServerLimits::assumed(Some(100));
        assert_eq!(connections(std::slice::from_ref(&server)).ok(), Some(48));
        server.database_max = Some(10);
        assert_eq!(connections(std::slice::from_ref(&server)).ok(), Some(5));
        server.database_max = Some(1);
        let error = connections(&[server]).unwrap_err().to_string();
        assert!(error.contains("found 1 connection free, expected at least 2"), "{error}");
    }
}
