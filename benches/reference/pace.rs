//! What an engine that catches up does to others in the same database, with and without `adaptive_limit`; and what the limit
//! costs where there are no others. The others are pgbench's standard transactions at a fixed rate, each timed from the moment
//! at which it was due.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::engine::{self, Job, Running, Target};
use super::rounds::{Rounds, load};
use super::workload::publish;

/// More than any machine of the field notes writes: a run must not end before its time is measured.
const RECORDS_PER_SECOND_MAX: u64 = 250_000;
/// How large pgbench's tables are, and how many connections it has.
const SCALE: &str = "10";
const CLIENTS: &str = "4";
/// What the engine is given to start, and the limit to find its place.
const WARM_UP: Duration = Duration::from_secs(5);

pub fn pace(a: &Arguments) -> Outcome<()> {
    let programs = programs()?;
    let topic = publish(a, a.records)?;
    let long = publish(a, (a.seconds + WARM_UP.as_secs() + 2) * RECORDS_PER_SECOND_MAX)?;
    let [free, limited] = [false, true].map(|adaptive| Arguments { adaptive, ..a.clone() });
    let mut costs = Rounds::default();
    let mut all: [Figures; 3] = Default::default();
    pgbench(&programs, a, &["-i", "-q", "-s", SCALE])?;
    for round in 1..=a.rounds {
        let before = load();
        let job = Job { target: Target::Table, topic: &topic, records: a.records, affinity: &a.affinity };
        let (without, with) = (engine::run(&free, &job)?, engine::run(&limited, &job)?);
        costs.push(with.rate / without.rate);
        println!(
            "round {round}  alone: {without}   adaptive {with}   ratio {:.3}   {before}",
            with.rate / without.rate
        );
        let conditions = [("no engine", None), ("full speed", Some(&free)), ("adaptive", Some(&limited))];
        for ((name, engine), figures) in conditions.into_iter().zip(&mut all) {
            let before = load();
            let one = beside(&programs, a, engine, &long)?;
            println!("round {round}  {name:<10} {one}   {before}");
            figures.push(&one);
        }
    }
    println!("pace: alone, adaptive ÷ full speed: {costs:.3}");
    for (name, figures) in ["no engine", "full speed", "adaptive"].iter().zip(&all) {
        println!("pace: {name:<10} {figures}");
    }
    Ok(())
}

/// What one stretch of time showed.
struct Beside {
    p50_ms: f64,
    p99_ms: f64,
    /// Of pgbench, a second.
    transactions: f64,
    /// Of the engine, a second.
    records: f64,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beside { p50_ms, p99_ms, transactions, records } = self;
        write!(
            f,
            "others' p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms at {transactions:.0}/s; engine {records:>7.0} records/s"
        )
    }
}

/// The same of several rounds.
#[derive(Default)]
struct Figures {
    p50_ms: Rounds,
    p99_ms: Rounds,
    records: Rounds,
}

impl Figures {
    fn push(&mut self, one: &Beside) {
        self.p50_ms.push(one.p50_ms);
        self.p99_ms.push(one.p99_ms);
        self.records.push(one.records);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { p50_ms, p99_ms, records } = self;
        write!(f, "others' p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms; engine {records:.0} records/s")
    }
}

/// pgbench for as long as asked for, beside an engine where there is one.
fn beside(programs: &Path, a: &Arguments, engine: Option<&Arguments>, topic: &str) -> Outcome<Beside> {
    engine::fresh_table(a, Target::Table)?;
    let mut client = Client::connect(&a.dsn, NoTls)?;
    let job = Job { target: Target::Table, topic, records: u64::MAX, affinity: &a.affinity };
    let before = newest_source(&mut client)?;
    let mut running = engine.map(|engine| Running::start(engine, &job)).transpose()?;
    if let Some(running) = &mut running {
        let start = Instant::now();
        while done(&mut client, before)? == 0 {
            if start.elapsed() > Duration::from_secs(60) || !running.goes_on()? {
                return Err("the engine does not begin".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(WARM_UP);
    }
    let (start, from) = (Instant::now(), done(&mut client, before)?);
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let (rate, seconds, prefix) = (a.others.to_string(), a.seconds.to_string(), log.display().to_string());
    let options = ["-n", "-c", CLIENTS, "-R", &rate, "-T", &seconds, "--log", "--log-prefix", &prefix];
    pgbench(programs, a, &options)?;
    let (took, records) = (start.elapsed().as_secs_f64(), done(&mut client, before)? - from);
    if let Some(running) = &mut running
        && !running.goes_on()?
    {
        return Err("the engine ended before its time".into());
    }
    drop(running);
    let latencies = latencies(directory.path())?;
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize] / 1000.0;
    Ok(Beside {
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        transactions: latencies.len() as f64 / took,
        records: records as f64 / took,
    })
}

/// Microseconds, sorted: the third field of each line that pgbench's thread logged; those under `-R` count from the schedule.
fn latencies(directory: &Path) -> Outcome<Vec<f64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        for line in std::fs::read_to_string(entry?.path())?.lines() {
            let field = line.split(' ').nth(2).ok_or("pgbench's log has another form")?;
            // The word stands for one that was not run in time; nothing is skipped without a latency limit.
            all.push(field.parse::<f64>().map_err(|e| format!("pgbench's log: {line:?}: {e}"))?);
        }
    }
    if all.is_empty() {
        return Err("pgbench logged no transaction".into());
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Each engine's process is a group of its own; no schema yet, no source.
fn newest_source(client: &mut Client) -> Outcome<i32> {
    let known: bool = client.query_one("SELECT to_regclass('forebay.source') IS NOT NULL", &[])?.get(0);
    if !known {
        return Ok(0);
    }
    Ok(client.query_one("SELECT coalesce(max(id), 0) FROM forebay.source", &[])?.get(0))
}

/// Records that are durable, by the stored progress of sources beyond this one.
fn done(client: &mut Client, before: i32) -> Outcome<i64> {
    if newest_source(client)? <= before {
        return Ok(0);
    }
    let sql = "SELECT coalesce(sum(done - origin), 0)::bigint FROM forebay.partition WHERE source > $1";
    Ok(client.query_one(sql, &[&before])?.get(0))
}

fn pgbench(programs: &Path, a: &Arguments, options: &[&str]) -> Outcome<()> {
    let output = Command::new(programs.join("pgbench")).args(options).arg(&a.dsn).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("pgbench {options:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The newest version of Debian's server packages, which pgbench is part of.
fn programs() -> Outcome<PathBuf> {
    if let Some(named) = std::env::var_os("FOREBAY_PG_BIN") {
        return Ok(named.into());
    }
    let bins = std::fs::read_dir("/usr/lib/postgresql")?.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let newest = bins.filter(|bin| bin.join("pgbench").exists()).max();
    newest.ok_or_else(|| "no pgbench below /usr/lib/postgresql; FOREBAY_PG_BIN names another directory".into())
}
