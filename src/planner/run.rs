//! One plan from beginning to end: what is asked of whom, in which order, and what is said and written.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::config::load::{self, Loaded};
use crate::config::{Config, Pooler, Shard};
use crate::console;
use crate::engine::Stopper;
use crate::planner::decide::decide;
use crate::planner::limits::{self, Limits, ServerLimits};
use crate::planner::measure::{self, Bounds, Measured};
use crate::planner::plan::Plan;
use crate::planner::rates::Rates;
use crate::planner::report::{self, Report, VERSION};
use crate::planner::simulate::{self, Setup, Simulated};
use crate::planner::wish::{Asked, Assumption, Wish};
use crate::planner::{PlanError, write};
use crate::words::rate;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    pub asked: Asked,
    /// An ordinary configuration; where it is the default one, it need not be there.
    pub file: PathBuf,
    pub file_may_lack: bool,
    /// Instead of the file's shards.
    pub dsns: Vec<String>,
    /// Nobody is asked anything.
    pub offline: bool,
    pub max_connections: Option<u64>,
    pub shard_rows: Option<f64>,
    pub connection_rows: Option<f64>,
    pub commit_ms: Option<f64>,
    pub measure: Option<Probing>,
    pub simulate: Option<Simulating>,
    pub json: bool,
    pub write: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

/// Of `--measure`.
#[derive(Debug, Clone)]
pub struct Probing {
    pub time: Duration,
    pub wal_mib: u64,
    pub rows: u64,
    /// By its name; the first one otherwise.
    pub shard: Option<String>,
}

/// Of `--simulate`.
#[derive(Debug, Clone, Copy)]
pub struct Simulating {
    pub seed: u64,
    pub tenants: u64,
    pub skew: f64,
    pub units: u64,
}

/// What one database bears where nobody measured, of a few cores and a table of a few indexes.
const SHARD_ROWS: f64 = 12_000.0;
const COMMIT_MS: f64 = 2.0;
/// A connection keeps a core busy, and such a database has a few.
const CONNECTIONS_OF_A_DATABASE: f64 = 4.0;
/// The settings' defaults, where there is no configuration.
const SLOW_LANES: usize = 1;
const BESIDES: usize = 2;
/// Of a shard that is measured.
const PROBE_PARTITIONS: usize = 8;
const LANES: u16 = 16;
/// Left to others, and to the measurement's own look at the server.
const CONNECTIONS_LEFT: i64 = 3;

/// Plans, and prints what it found.
///
/// # Errors
/// See [`PlanError`]. What is refused is printed all the same.
pub fn run(options: &Options, stopper: &Stopper) -> Result<(), PlanError> {
    let known = Known::read(options)?;
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
        slow_lanes: config.map_or(SLOW_LANES, |config| config.engine.slow_lanes_per_shard),
        besides: config.map_or(BESIDES, Config::connections_besides_writers),
        rates,
        rates_from,
        wal_bytes_per_row: measured.as_ref().map(|measured| measured.wal_bytes_per_row).filter(|bytes| *bytes > 0.0),
    };
    let decision = decide(&wish, &limits);
    let plan = decision.plan.clone();
    let simulated = match (&plan, options.simulate) {
        (Some(plan), Some(simulating)) => Some(simulated(plan, &wish, &limits.rates, simulating, stopper)?),
        _ => None,
    };
    let mut written = Vec::new();
    if let (Some(plan), Some(directory)) = (&plan, &options.write) {
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
    rates: &Rates,
    simulating: Simulating,
    stopper: &Stopper,
) -> Result<Simulated, PlanError> {
    let Simulating { seed, tenants, skew, units } = simulating;
    simulate::simulate(&Setup { plan, wish, rates, seed, tenants, skew, units_max: units }, stopper)
}

/// What is there: a configuration, or none.
struct Known {
    loaded: Option<Loaded>,
    present: write::Present,
}

impl Known {
    fn read(options: &Options) -> Result<Known, PlanError> {
        if !options.dsns.is_empty() {
            let document = of_dsns(&options.dsns);
            let text = toml::to_string(&document).map_err(|e| PlanError::Failed(e.to_string()))?;
            let loaded = load::parse(Path::new("--dsn"), &text, &|name| std::env::var_os(name))?;
            let directory = std::env::current_dir().unwrap_or_default();
            return Ok(Known { loaded: Some(loaded), present: write::Present { document, directory } });
        }
        if options.file_may_lack && !options.file.exists() {
            return Ok(Known { loaded: None, present: write::Present::default() });
        }
        let loaded = load::load(&options.file)?.with_tables_only()?;
        Ok(Known { loaded: Some(loaded), present: write::Present::read(&options.file)? })
    }

    fn servers(&self, options: &Options, assumptions: &mut Vec<Assumption>) -> Result<Vec<ServerLimits>, PlanError> {
        let servers = match &self.loaded {
            Some(loaded) if !options.offline => limits::ask(&loaded.config)?,
            _ => Vec::new(),
        };
        if !servers.is_empty() && options.max_connections.is_none() {
            return Ok(servers);
        }
        // What somebody says holds: it may be about to be set.
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
        let Some(probing) = &options.measure else { return Ok(None) };
        let Some(Loaded { config, .. }) = &self.loaded else {
            let expected = "--measure: expected a database: --config FILE, or --dsn";
            return Err(PlanError::Usage(expected.to_owned()));
        };
        let shard = chosen(config, probing.shard.as_deref())?;
        if shard.pooler != Pooler::None {
            return Err(PlanError::Configuration(format!(
                "shard {}: found a pooler, expected the server itself to measure at: --dsn",
                shard.name
            )));
        }
        let room = servers.iter().map(ServerLimits::room_per_shard).min().unwrap_or(1);
        let bounds = Bounds {
            time: probing.time,
            wal_bytes: probing.wal_mib << 20,
            rows: probing.rows,
            record_bytes: wish.record_bytes as usize,
            connections: (room - CONNECTIONS_LEFT).clamp(1, 64) as usize,
            partitions: PROBE_PARTITIONS.max(wish.growth as usize).min(64),
            lanes: config.engine.lanes.max(LANES),
        };
        console::err(measure::told(shard, &bounds));
        measure::measure(config, shard, bounds, stopper).map(Some)
    }
}

fn chosen<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Shard, PlanError> {
    let Some(name) = name else { return Ok(&config.shards[0]) };
    config.shards.iter().find(|shard| shard.name == name).ok_or_else(|| {
        let names: Vec<&str> = config.shards.iter().map(|shard| shard.name.as_str()).collect();
        PlanError::Usage(format!("--measure-shard: found {name:?}, expected one of {}", names.join(", ")))
    })
}

/// Of connection strings alone; the rest is for whoever writes the configuration to say.
fn of_dsns(dsns: &[String]) -> Table {
    let shard = |(i, dsn): (usize, &String)| {
        let name = format!("db{:03}", i + 1);
        Value::Table(Table::from_iter([("name".to_owned(), name.into()), ("dsn".to_owned(), dsn.clone().into())]))
    };
    let text = "[kafka]\n\"bootstrap.servers\" = \"BROKER:9092\"\n\"group.id\" = \"forebay\"\n[[topic]]\nname = \"writes\"\ntable = \"writes\"\n\
                insert_mode = \"upsert\"\npk_fields = [\"tenant_id\", \"id\"]\n";
    let mut document: Table = text.parse().expect("it is valid");
    document.insert("shard".to_owned(), Value::Array(dsns.iter().enumerate().map(shard).collect()));
    if dsns.len() > 1 {
        let shards = Table::from_iter([("by".to_owned(), "hash".into()), ("tenant".to_owned(), "key:0".into())]);
        document.insert("shards".to_owned(), Value::Table(shards));
    }
    document
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
    let rows = given("--shard-rows-per-second", options.shard_rows, 1e9)?;
    let of_connection = given("--connection-rows-per-second", options.connection_rows, 1e9)?;
    let commit_ms = given("--commit-latency-ms", options.commit_ms, 60_000.0)?;
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
