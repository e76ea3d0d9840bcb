//! One demonstration from beginning to end: what is started, in which order, and that all of it is stopped again.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::console;
use crate::demo::broker::{BROKER, Broker};
use crate::demo::options::Options;
use crate::demo::progress::Progress;
use crate::demo::publisher::Publisher;
use crate::demo::server::Server;
use crate::demo::verify::{self, Check};
use crate::demo::watch::{self, Lag, Seen};
use crate::demo::workload::{RECORDS_AHEAD_MAX, Workload};
use crate::demo::{DemoError, PARTITIONS, config, report};
use crate::engine::{self, Engine, Stopper};
use crate::source::kafka::Options as SourceOptions;
use crate::words::grouped;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nothing became durable for so long: something is broken.
const STALL: Duration = Duration::from_secs(30);

/// Runs it and prints what it shows. `stopper` ends it early; what was started is gone then, too.
///
/// # Errors
/// See [`DemoError`]; a check that fails is one.
pub fn run(options: &Options, stopper: &Stopper) -> Result<(), DemoError> {
    console::err("starting a PostgreSQL of its own and a mock Kafka");
    let mut server = Server::start(options.keep)?;
    let mut client = server.connect()?;
    let version: String = client.query_one("SHOW server_version", &[]).map_err(setting_up)?.get(0);
    client.batch_execute(config::TABLE_SQL).map_err(setting_up)?;
    let broker = Broker::start()?;
    console::out(format_args!(
        "{} updates of {} rows on {PARTITIONS} partitions; PostgreSQL {version} in {}, mock Kafka at {}",
        grouped(options.records.into()),
        grouped(options.rows.into()),
        server.directory().display(),
        broker.bootstrap()
    ));
    let engine = Engine::new(config::running(&broker.bootstrap(), &server.dsn())?);
    let mut workload = Workload::new(options.records, options.rows);
    if stopper.is_stopped() {
        return Err(DemoError::Interrupted);
    }
    let applied = apply(&engine, &server, &broker, &mut workload, options, stopper);
    let lags = applied?;
    let checks = verify::checks(&mut client, &broker.bootstrap(), &workload, &engine.counters())?;
    console::out(format_args!("{}{}", report::speed(&options.phases, &lags), report::proof(&checks)));
    if options.keep {
        keep(&mut server)?;
    }
    failures(&checks)
}

fn setting_up(error: postgres::Error) -> DemoError {
    DemoError::unavailable("setting up the demonstration's table", error)
}

fn failures(checks: &[Check]) -> Result<(), DemoError> {
    let failed: Vec<&str> = checks.iter().filter(|check| check.result.is_err()).map(|check| check.name).collect();
    if failed.is_empty() { Ok(()) } else { Err(DemoError::Failed(format!("failed: {}", failed.join(", ")))) }
}

fn keep(server: &mut Server) -> Result<(), DemoError> {
    let file = server.directory().join("forebay.toml");
    fs::write(&file, config::kept(&server.dsn())).map_err(|e| DemoError::unavailable("the configuration", e))?;
    console::out(format_args!(
        "PostgreSQL stays:\n  look at it     psql '{}'\n  configuration  {}\n  remove it      {}",
        server.dsn(),
        file.display(),
        server.keep()
    ));
    Ok(())
}

/// Publishes, applies and watches, each on threads of their own, until everything is durable.
fn apply(
    engine: &Engine,
    server: &Server,
    broker: &Broker,
    workload: &mut Workload,
    options: &Options,
    stopper: &Stopper,
) -> Result<Vec<Lag>, DemoError> {
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let watching = server.connect()?;
    let (published_in, published) = bounded(2 * RECORDS_AHEAD_MAX as usize * PARTITIONS);
    // Whoever fails first stops the others; `stopper` itself stays the user's word.
    let all = Stopper::default();
    thread::scope(|scope| {
        let _end = End { all: &all, over: &over };
        let run = engine::Options { until_end: false, source: SourceOptions { admin_broker: Some(BROKER) } };
        let applying = scope.spawn(|| stopping(&all, || engine.run(run, &all).map_err(DemoError::from)));
        let watcher = scope.spawn(|| {
            let published = published;
            stopping(&all, || watch::watch(watching, &published, options.phases.len(), &seen, &over))
        });
        let publisher = Publisher { broker, seen: &seen, stopper: &all, published: published_in };
        let publishing = scope.spawn(|| {
            let publisher = publisher;
            publisher.publish(workload, &options.phases).inspect_err(|_| all.stop())
        });
        let waited = wait(&publishing, &applying, &seen, options, stopper, &all);
        let published = joined(publishing);
        let stored = published.as_ref().map_or(Ok(()), |()| wait_for_progress(&seen, options, &all));
        all.stop();
        let outcome = joined(applying);
        over.store(true, Ordering::Relaxed);
        let lags = joined(watcher);
        waited?;
        // The engine's word first: what stopped it stopped the others.
        let outcome = outcome?;
        if let Some((topic, reason)) = outcome.stopped.first() {
            return Err(DemoError::Failed(format!("topic {topic} stopped: {reason}")));
        }
        let lags = lags?;
        published?;
        stored?;
        Ok(lags)
    })
}

/// Ends all threads when it is dropped, also by a panic: the scope waits for them.
struct End<'a> {
    all: &'a Stopper,
    over: &'a AtomicBool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.all.stop();
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Runs one of the threads; its end, however it comes, ends the engine and the publisher.
fn stopping<T>(all: &Stopper, body: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a Stopper);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    let _stop = Stop(all);
    body()
}

/// A panic goes on here, so that what was started is dropped.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Shows progress until everything is published and durable.
fn wait<P, A>(
    publishing: &ScopedJoinHandle<'_, P>,
    applying: &ScopedJoinHandle<'_, A>,
    seen: &Seen,
    options: &Options,
    stopper: &Stopper,
    all: &Stopper,
) -> Result<(), DemoError> {
    let mut progress = Progress::new(options.records.into());
    let mut last = (0, Instant::now());
    let mut result = Ok(());
    while !publishing.is_finished() && !applying.is_finished() && result.is_ok() {
        let durable = seen.durable.load(Ordering::Relaxed);
        progress.show(durable);
        if durable != last.0 {
            last = (durable, Instant::now());
        }
        if stopper.is_stopped() {
            result = Err(DemoError::Interrupted);
        } else if last.1.elapsed() > STALL {
            result = Err(DemoError::Failed(format!("nothing became durable for {STALL:?}, {durable} records are")));
        }
        thread::sleep(LOOK_EVERY);
    }
    progress.end();
    if result.is_err() || applying.is_finished() {
        all.stop();
    }
    result
}

/// Everything is durable; soon the stored progress says so, too.
fn wait_for_progress(seen: &Seen, options: &Options, all: &Stopper) -> Result<(), DemoError> {
    let start = Instant::now();
    while seen.done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<i64>() < i64::from(options.records) {
        if all.is_stopped() || start.elapsed() > STALL {
            return Err(DemoError::Failed("stored progress does not reach the logs' ends".to_owned()));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
