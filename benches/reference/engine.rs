//! One run of the engine over a topic, in a process of its own.

use std::fmt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::admin::routes::Logs;
use forebay::admin::server::Admin;
use forebay::config::{Config, load};
use forebay::engine::{Engine, Options, Stopper};
use forebay::metrics::Counters;
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use postgres::{Client, NoTls, Transaction};

use super::Outcome;
use super::arguments::Arguments;
use super::common::process_cpu;

/// A run gives up when nothing became durable for this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What records become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Upserts.
    Table,
    /// Upserts, where sessions below zero are refused.
    Checked,
    /// Inserts that note when they were made.
    Log,
    /// Nothing.
    Handler,
    /// Nothing, but that takes its time for each.
    Sleep,
    /// Upserts that note when they were made (a trigger of the benchmark's).
    Timed,
    /// Inserts as `Log`, one by one, by a handler that takes its time for each.
    Slow,
}

impl Target {
    const ALL: [Target; 7] =
        [Target::Table, Target::Checked, Target::Log, Target::Handler, Target::Sleep, Target::Timed, Target::Slow];

    /// By which processes call it.
    pub fn word(self) -> &'static str {
        match self {
            Target::Table => "table",
            Target::Checked => "checked",
            Target::Log => "log",
            Target::Handler => "handler",
            Target::Sleep => "sleep",
            Target::Timed => "timed",
            Target::Slow => "slow",
        }
    }

    fn toml(self) -> &'static str {
        match self {
            Target::Table | Target::Checked | Target::Handler | Target::Timed => {
                "table = \"reference\"\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"subscription_id\"]\n"
            }
            Target::Sleep | Target::Slow => "handler = true\n",
            Target::Log => "table = \"reference\"\ninsert_mode = \"insert\"\n",
        }
    }

    fn more_columns(self) -> &'static str {
        match self {
            Target::Table | Target::Handler | Target::Sleep => "PRIMARY KEY (app_id, subscription_id)",
            Target::Checked => "PRIMARY KEY (app_id, subscription_id), CHECK (sessions >= 0)",
            Target::Timed => {
                "sent_us bigint, written timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (app_id, subscription_id)"
            }
            Target::Slow | Target::Log => "sent_us bigint, written timestamptz DEFAULT clock_timestamp()",
        }
    }
}

pub fn fresh_table(a: &Arguments, target: Target) -> Outcome<()> {
    fresh_table_at(&a.dsn, target, a.fillfactor)
}

pub fn fresh_table_at(dsn: &str, target: Target, fillfactor: u8) -> Outcome<()> {
    let mut client = Client::connect(dsn, NoTls)?;
    client.batch_execute(&format!(
        "DROP TABLE IF EXISTS reference; \
         CREATE TABLE reference (app_id uuid, subscription_id uuid, country text, device text, sessions int, \
         updated_at timestamptz, tags jsonb, {}) WITH (fillfactor = {fillfactor}); CHECKPOINT",
        target.more_columns()
    ))?;
    Ok(())
}

/// What a run is to do.
pub struct Job<'a> {
    pub target: Target,
    pub topic: &'a str,
    /// It ends when so many are durable.
    pub records: u64,
    pub affinity: &'a str,
}

/// What it took.
pub struct Run {
    pub rate: f64,
    pub cpu_us: f64,
    pub peak_mb: f64,
    pub records: f64,
    pub batches: f64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { rate, cpu_us, peak_mb, records, batches } = self;
        let batch = records / batches.max(1.0);
        write!(f, "{rate:>8.0} rows/s, own CPU {cpu_us:.2} µs/row, peak {peak_mb:.0} MB, {batch:.0} records/batch")
    }
}

/// From a fresh table to its end.
pub fn run(a: &Arguments, job: &Job<'_>) -> Outcome<Run> {
    fresh_table(a, job.target)?;
    Running::start(a, job)?.finish()
}

/// An engine's process; dropping it kills it.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(a: &Arguments, job: &Job<'_>) -> Outcome<Running> {
        Running::start_child("engine-child", a, job)
    }

    /// Another program for the same job.
    pub fn start_child(mode: &str, a: &Arguments, job: &Job<'_>) -> Outcome<Running> {
        let child = Command::new(std::env::current_exe()?)
            .args([mode, job.target.word(), "--topic", job.topic, "--affinity", job.affinity])
            .args(["--records", &job.records.to_string(), "--workers", &a.workers.to_string()])
            .args(["--batch", &a.batch.to_string(), "--dsn", &a.dsn, "--slow-ms", &a.slow_ms.to_string()])
            .args(["--adaptive", &a.adaptive.to_string(), "--hot-percent", &a.hot_percent.to_string()])
            .args(["--park-after-ms", &a.park_after_ms.to_string()])
            .args(["--seen-at", &a.seen_at])
            .args(a.set.iter().flat_map(|setting| ["--set", setting]))
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Running(Some(child)))
    }

    /// Whether it is still at work.
    pub fn goes_on(&mut self) -> Outcome<bool> {
        Ok(self.0.as_mut().ok_or("waited for already")?.try_wait()?.is_none())
    }

    pub fn finish(mut self) -> Outcome<Run> {
        let output = self.0.take().ok_or("waited for once")?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        match numbers[..] {
            [rate, cpu_us, peak_mb, records, batches] if output.status.success() => {
                Ok(Run { rate, cpu_us, peak_mb, records, batches })
            }
            _ => Err(format!("the engine's run failed: {text}").into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn config(a: &Arguments, target: Target) -> Outcome<Config> {
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = \"{}\"\n\"group.id\" = \"reference-{}\"\n{}\n[engine]\nworkers_per_shard = {}\n\
         batch_records_max = {}\naffinity = \"{}\"\nhot_key_percent = {}\npark_after_ms = {}\n{}{}\n[[shard]]\nname = \"main\"\ndsn = \"{}\"\n\
         adaptive_limit = {}\n\n\
         [[topic]]\nname = \"{}\"\n{}",
        a.kafka,
        std::process::id(),
        more(a, "kafka"),
        a.workers,
        a.batch,
        a.affinity,
        a.hot_percent,
        a.park_after_ms,
        more(a, "engine"),
        seen(&a.seen_at),
        a.dsn,
        a.adaptive,
        a.topic,
        target.toml()
    );
    Ok(load::parse(Path::new("reference.toml"), &text, &|_| None)?.config)
}

/// The lines that `--set` adds to a section.
fn more(a: &Arguments, section: &str) -> String {
    let of_section = |set: &String| {
        let (name, value) = set.strip_prefix(section)?.strip_prefix('.')?.split_once('=')?;
        Some(format!("\"{name}\" = {value}\n"))
    };
    a.set.iter().filter_map(of_section).collect()
}

/// As much of the configuration as says who looks.
fn seen(at: &str) -> String {
    match at {
        "" => "[admin]\nlisten = \"off\"\n".to_owned(),
        "off" => "contention_interval_ms = 0\n[admin]\nlisten = \"off\"\n".to_owned(),
        socket => format!("[admin]\nlisten = \"off\"\nsocket = {socket:?}\n"),
    }
}

/// Writes nothing: what the engine costs without rows.
struct Nothing;

impl Handler for Nothing {
    fn handle(&mut self, _: &mut Transaction<'_>, _: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Takes its time for each record.
struct Sleep(Duration);

impl Handler for Sleep {
    fn handle(&mut self, _: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        records.iter().for_each(|_| std::thread::sleep(self.0));
        Ok(())
    }
}

/// Takes its time for each record, and writes down when.
struct Slow(Duration);

impl Handler for Slow {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            std::thread::sleep(self.0);
            let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
            transaction.execute(
                "INSERT INTO reference (subscription_id, sent_us) SELECT (r->>'subscription_id')::uuid, (r->>'sent_us')::bigint \
                 FROM (SELECT $1::text::json) AS v(r)",
                &[&value],
            )?;
        }
        Ok(())
    }
}

/// The process's own part: runs until the records are durable and prints a [`Run`]'s numbers.
pub fn child(a: &Arguments) -> Outcome<()> {
    // As the program does.
    forebay::cli::memory::keep_large_blocks();
    let word = a.modes.get(1).map(String::as_str);
    let target = Target::ALL.into_iter().find(|t| Some(t.word()) == word).ok_or("no such target")?;
    // Where records are bad on purpose, each word about them is one too many.
    let level = if target == Target::Checked { tracing::Level::ERROR } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).init();
    let mut config = config(a, target)?;
    let takes = Duration::from_millis(a.slow_ms);
    let engine = if target == Target::Slow {
        Engine::new(config).handle(&a.topic, move || Slow(takes))?
    } else if target == Target::Sleep {
        Engine::new(config).handle(&a.topic, move || Sleep(takes))?
    } else if target == Target::Handler {
        config.topics[0].target = forebay::config::Target::Handler;
        Engine::new(config).handle(&a.topic, || Nothing)?
    } else {
        Engine::new(config)
    };
    engine.confine_process()?;
    let (counters, stopper) = (engine.counters(), Stopper::default());
    let (watched, ender, records) = (counters.clone(), stopper.clone(), a.records);
    let watcher = std::thread::spawn(move || {
        let took = watch(&watched, records, &ender);
        ender.stop();
        took
    });
    let admin = Admin::start(engine.observer(), Logs::default())?;
    let outcome = engine.run(Options::default(), &stopper);
    drop(admin);
    stopper.stop();
    let (elapsed, cpu) = watcher.join().map_err(|_| "the watcher panicked")?;
    if let Some((topic, reason)) = outcome?.stopped.first() {
        return Err(format!("{topic}: {reason}").into());
    }
    let (rows, batches) = (counters.durable.get(), counters.batches.get());
    if rows < records {
        return Err(format!("{rows} of {records} records became durable").into());
    }
    print_run(elapsed, cpu, rows, batches);
    Ok(())
}

/// The numbers that [`Running::finish`] reads.
pub fn print_run(elapsed: Duration, cpu: Duration, rows: u64, batches: u64) {
    let cpu_us = cpu.as_secs_f64() * 1e6 / rows as f64;
    println!("{} {cpu_us} {} {rows} {batches}", rows as f64 / elapsed.as_secs_f64(), peak_mb());
}

/// Time and CPU time from the first record until all are durable.
pub fn watch(counters: &Counters, records: u64, stopper: &Stopper) -> (Duration, Duration) {
    let (mut began, mut cpu) = (Instant::now(), process_cpu());
    let (mut durable, mut moved) = (0, Instant::now());
    while durable < records && moved.elapsed() < PATIENCE && !stopper.is_stopped() {
        if counters.fetched.get() == 0 {
            (began, cpu) = (Instant::now(), process_cpu());
        }
        if counters.durable.get() > durable {
            (durable, moved) = (counters.durable.get(), Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    (began.elapsed(), process_cpu() - cpu)
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}
