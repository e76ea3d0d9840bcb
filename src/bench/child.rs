//! The engine's own process: runs what it is told to, looks at itself some times a second, and says what it came to. It ends when
//! enough is durable, when it is told to, and with whoever started it.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::admin::process;
use crate::bench::discard;
use crate::bench::protocol::{Class, End, Line, Order, Quantiles, Sample, Spec, Spread, Work};
use crate::bench::settings;
use crate::bench::slow::Slow;
use crate::clock::unix_us;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::engine::observed::Observed;
use crate::engine::{Engine, EngineError, Observer, Options, Outcome, Stopper};
use crate::metrics::Counters;
use crate::metrics::histogram::Histogram;
use crate::metrics::labelled::{Cause, Metrics, OfShard, Outcome as RecordOutcome, Stage};

/// How exactly the end is seen, and how often others are told.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The process's whole life. What it has to say, failures included, goes to stdout.
pub fn child() {
    // Should whoever reads be gone, so is this process, soon.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let line = run().unwrap_or_else(|error| {
        let class = match error {
            EngineError::Configuration(_) => Class::Configuration,
            EngineError::Unavailable(_) => Class::Unavailable,
            EngineError::Internal(_) => Class::Internal,
        };
        Line::Failed { class, text: error.to_string() }
    });
    tell(&line);
}

fn run() -> Result<Line, EngineError> {
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first).map_err(|e| EngineError::Internal(format!("stdin: {e}")))?;
    let spec: Spec =
        serde_json::from_str(&first).map_err(|_| EngineError::Internal("not started by `forebay bench`".to_owned()))?;
    let loaded = settings::parse(&spec.file, &spec.config);
    let config = loaded.map_err(|problems| EngineError::Configuration(problems.to_string()))?.config;
    let stopper = Stopper::default();
    let orders =
        Arc::new(Orders { until: AtomicU64::new(spec.until.unwrap_or(u64::MAX)), mark: AtomicBool::new(false) });
    listen(Arc::clone(&orders), stopper.clone())?;
    let subject = Subject::new(config, spec.job)?;
    let watched = subject.watched();
    let watcher = {
        let (orders, stopper) = (Arc::clone(&orders), stopper.clone());
        std::thread::Builder::new().name("forebay-bench".into()).spawn(move || {
            let end = watch(&watched, &orders, &stopper);
            stopper.stop();
            end
        })
    };
    let watcher = watcher.map_err(|e| EngineError::Internal(format!("a thread: {e}")))?;
    let outcome = subject.run(&stopper);
    stopper.stop();
    let mut end = watcher.join().map_err(|_| EngineError::Internal("the watcher panicked".to_owned()))?;
    end.stopped = outcome?.stopped.first().map(|(_, reason)| reason.to_string());
    Ok(Line::End(Box::new(end)))
}

fn tell(line: &Line) {
    let Ok(text) = serde_json::to_string(line) else { return };
    let mut out = std::io::stdout().lock();
    // Whoever is not there any more needs nothing.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// What was ordered so far.
struct Orders {
    until: AtomicU64,
    /// Taken back when it is done.
    mark: AtomicBool,
}

/// On a thread of its own, which ends with the process.
fn listen(orders: Arc<Orders>, stopper: Stopper) -> Result<(), EngineError> {
    let body = move || {
        for line in std::io::stdin().lock().lines() {
            match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
                Some(Order::Mark) => orders.mark.store(true, Ordering::SeqCst),
                Some(Order::Until(records)) => orders.until.store(records, Ordering::SeqCst),
                None => break,
            }
        }
        stopper.stop();
    };
    let thread = std::thread::Builder::new().name("forebay-orders".into()).spawn(body);
    thread.map(drop).map_err(|e| EngineError::Internal(format!("a thread: {e}")))
}

/// What is measured.
enum Subject {
    Engine(Box<Engine>),
    Discard(Box<Config>, Arc<Observed>),
    Poll(Box<Config>, Arc<Observed>, i32),
}

/// Where its figures are.
enum Watched {
    Engine(Observer),
    Bare(Arc<Observed>, SystemClock),
}

impl Subject {
    fn new(config: Config, work: Work) -> Result<Subject, EngineError> {
        let observed = discard::observed(&config);
        Ok(match work {
            Work::Table => Subject::Engine(Box::new(Engine::new(config))),
            Work::Slow { table, sleep_us } => {
                let topic = config.topics[0].name.clone();
                let make = move || Slow::new(&table, Duration::from_micros(sleep_us));
                Subject::Engine(Box::new(Engine::new(config).handle(&topic, make)?))
            }
            Work::Discard => Subject::Discard(Box::new(config), observed),
            Work::Poll { partitions } => Subject::Poll(Box::new(config), observed, partitions),
        })
    }

    fn watched(&self) -> Watched {
        match self {
            Subject::Engine(engine) => Watched::Engine(engine.observer()),
            Subject::Discard(_, observed) | Subject::Poll(_, observed, _) => {
                Watched::Bare(Arc::clone(observed), SystemClock::new())
            }
        }
    }

    fn run(self, stopper: &Stopper) -> Result<Outcome, EngineError> {
        let nothing = Outcome { stopped: Vec::new() };
        match self {
            Subject::Engine(engine) => engine.run(Options::default(), stopper),
            Subject::Discard(config, observed) => discard::run(*config, &observed, stopper).map(|()| nothing),
            Subject::Poll(config, observed, partitions) => {
                discard::poll(&config, partitions, &observed.counters, stopper).map(|()| nothing)
            }
        }
    }
}

impl Watched {
    fn counters(&self) -> &Counters {
        match self {
            Watched::Engine(observer) => observer.counters(),
            Watched::Bare(observed, _) => &observed.counters,
        }
    }

    fn metrics(&self) -> &Metrics {
        match self {
            Watched::Engine(observer) => observer.metrics(),
            Watched::Bare(observed, _) => &observed.metrics,
        }
    }

    /// What all times of the engine are of.
    fn clock(&self) -> Duration {
        match self {
            Watched::Engine(observer) => observer.now(),
            Watched::Bare(_, clock) => clock.now(),
        }
    }

    /// Of the oldest record that is fetched and not durable, as of the poller's last look; what it saw before a moment is not meant.
    fn time_lag_ms(&self, since: Duration) -> u64 {
        let (view, now, wall_ms) = match self {
            Watched::Engine(observer) => (observer.view(), observer.now(), observer.wall_ms()),
            Watched::Bare(observed, clock) => (observed.view(), clock.now(), clock.wall_ms()),
        };
        if view.at < since {
            return 0;
        }
        let looked_ms = wall_ms - now.saturating_sub(view.at).as_millis() as i64;
        let oldest = view.partitions.iter().filter_map(|partition| Some(partition.oldest?.timestamp_ms)).min();
        oldest.map_or(0, |oldest| looked_ms.saturating_sub(oldest).max(0) as u64)
    }

    /// No record of it is anywhere but in its table, or among the dead.
    fn durable(&self) -> u64 {
        let counters = self.counters();
        let parked = counters.parked.get().saturating_sub(counters.drained.get());
        counters.durable.get().saturating_sub(parked)
    }
}

/// What was counted at a moment.
struct Mark {
    at: Instant,
    cpu_us: u64,
    durable: u64,
    batches: u64,
    times: Vec<(&'static str, Histogram)>,
    batch: Histogram,
}

impl Mark {
    fn now(watched: &Watched) -> Mark {
        let times = watched.metrics().topics[0].times.lock().clone();
        let mut stages: Vec<_> = Stage::ALL.iter().map(|of| (of.label(), times.stage(*of).clone())).collect();
        stages.push(("durable", times.durable));
        let mut batch = Histogram::default();
        watched.metrics().shards.iter().for_each(|shard| batch.add(&shard.topics[0].batch_records.lock()));
        Mark {
            at: Instant::now(),
            cpu_us: cpu_us(),
            durable: watched.counters().durable.get(),
            batches: watched.counters().batches.get(),
            times: stages,
            batch,
        }
    }
}

/// Until enough is durable, or somebody says that it is over.
fn watch(watched: &Watched, orders: &Orders, stopper: &Stopper) -> End {
    let (mut begin, mut begun_at, mut fetched) = (Mark::now(watched), watched.clock(), 0);
    // A run that is cut short, or told late that it is over, has the time of its last record, and not that of the wait behind it.
    let (mut durable, mut last) = (0, Instant::now());
    let mut told = Instant::now();
    loop {
        let (ended, now) = (stopper.is_stopped(), watched.durable());
        if orders.mark.swap(false, Ordering::SeqCst) {
            (begin, begun_at, fetched) = (Mark::now(watched), watched.clock(), watched.counters().fetched.get());
        } else if watched.counters().fetched.get() == fetched {
            // Nothing has come yet.
            begin = Mark::now(watched);
        }
        if now != durable {
            (durable, last) = (now, Instant::now());
        }
        let over = ended || now >= orders.until.load(Ordering::SeqCst);
        if over || told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(&Line::Sample(sample(watched, begun_at)));
        }
        if over {
            return end(watched, &begin, &Mark { at: last, ..Mark::now(watched) });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn sample(watched: &Watched, begun_at: Duration) -> Sample {
    Sample {
        at_us: unix_us(),
        fetched: watched.counters().fetched.get(),
        durable: watched.durable(),
        time_lag_ms: watched.time_lag_ms(begun_at),
        resident_bytes: memory("VmRSS:"),
        cpu_us: cpu_us(),
    }
}

fn end(watched: &Watched, begin: &Mark, last: &Mark) -> End {
    let ms = |us: f64| us / 1000.0;
    let since =
        |(now, before): (&(&'static str, Histogram), &(&'static str, Histogram))| (now.0, now.1.since(&before.1));
    let times: Vec<_> = last.times.iter().zip(&begin.times).map(since).filter(|(_, of)| of.count() > 0).collect();
    let durable = times.iter().find(|(stage, _)| *stage == "durable").map(|(_, histogram)| {
        let at = |q| ms(histogram.quantile(q) as f64);
        Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: ms(histogram.summary().max as f64) }
    });
    let stages = times.iter().filter(|(stage, _)| *stage != "durable");
    let (counters, metrics) = (watched.counters(), watched.metrics());
    let outcome = |of: RecordOutcome| metrics.shards.iter().map(|shard| shard.topics[0].outcome(of).get()).sum();
    let retries =
        |shard: &Arc<OfShard>| Cause::ALL.iter().map(|cause| shard.topics[0].retried(*cause).get()).sum::<u64>();
    End {
        seconds: last.at.saturating_duration_since(begin.at).as_secs_f64(),
        cpu_us: last.cpu_us.saturating_sub(begin.cpu_us),
        records: last.durable - begin.durable.min(last.durable),
        durable: watched.durable(),
        peak_bytes: memory("VmHWM:"),
        batches: last.batches - begin.batches.min(last.batches),
        batch: spread(&last.batch.since(&begin.batch), 1.0),
        durable_ms: durable,
        stages_ms: stages.map(|(stage, of)| ((*stage).to_owned(), spread(of, 1000.0))).collect(),
        outcomes: RecordOutcome::ALL.iter().map(|of| (of.label().to_owned(), outcome(*of))).collect(),
        retries: metrics.shards.iter().map(retries).sum(),
        rewinds: counters.rewinds.get(),
        stopped: None,
    }
}

fn spread(histogram: &Histogram, per: f64) -> Spread {
    let summary = histogram.summary();
    let mean = histogram.sum() as f64 / (histogram.count().max(1)) as f64;
    let [mean, p50, p99, max] = [mean, summary.p50 as f64, summary.p99 as f64, summary.max as f64].map(|v| v / per);
    Spread { mean, p50, p99, max }
}

/// User and system time of all threads, to a clock tick (10 ms as a rule).
fn cpu_us() -> u64 {
    process::cpu_seconds().map_or(0, |seconds| (seconds * 1e6) as u64)
}

/// A line of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() * 1024
}
