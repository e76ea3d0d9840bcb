//! The engine without a database: the real source, poller, workers and control loop, a writer that drops every batch and a
//! control that says yes at once; against librdkafka's bare poll loop over the same topic.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use forebay::clock::{Clock, SystemClock};
use forebay::config::live::Live;
use forebay::engine::Rules;
use forebay::engine::control::{ControlLoop, LoopContext};
use forebay::engine::dispatch::Dispatcher;
use forebay::engine::event::{EVENTS_MAX, INBOX_CHUNKS_MAX, REQUESTS_MAX};
use forebay::engine::gate::Gate;
use forebay::engine::hot_keys::HotKeys;
use forebay::engine::observed::Observed;
use forebay::engine::pace::Pace;
use forebay::engine::parked::Parked;
use forebay::engine::poller::{Poller, Ports, Settings};
use forebay::engine::report::{Reporter, Waker};
use forebay::engine::thread::Thread;
use forebay::engine::worker::{BatchLimits, Parking, Signals, TopicWriting, Worker};
use forebay::sink::{
    Anchor, Care, Control, Failure, FenceRow, Identity, Job, Progress, RowCounts, Taken, Takeover, Writer, Written,
};
use forebay::source::Source;
use forebay::source::kafka::{KafkaSource, Options};
use forebay::state::holds::Decided;
use forebay::state::parked::Tail;
use forebay::state::retry::Backoff;
use forebay::state::router::Router;
use forebay::types::{KeyHash, Lane, NextOffset, ShardIx, TopicIx};

use super::Outcome;
use super::arguments::Arguments;
use super::common::{bare_poll, process_cpu};
use super::engine::{Target, config};
use super::rounds::{Rounds, load};
use super::workload::{PARTITIONS, publish};

const JOIN_WAIT: Duration = Duration::from_secs(10);

pub fn pipeline(a: &Arguments) -> Outcome<()> {
    let topic = publish(a, a.records)?;
    let a = &Arguments { topic, ..a.clone() };
    let (mut bare, mut engine, mut ratios) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=a.rounds {
        let load = load();
        let poll = Cost::of(a, || Ok(bare_poll(&a.kafka, &a.topic, PARTITIONS, a.records as usize).took))?;
        let ours = Cost::of(a, || drop_all(a))?;
        let ratio = ours.rate / poll.rate;
        println!(
            "round {round}  bare poll {:>8.0} records/s, CPU {:.2} µs   pipeline {:>8.0} records/s, CPU {:.2} µs   ratio {ratio:.3}   {load}",
            poll.rate, poll.cpu_us, ours.rate, ours.cpu_us
        );
        bare.push(poll.rate);
        engine.push(ours.rate);
        ratios.push(ratio);
    }
    println!("pipeline: bare poll {bare:.0} records/s, pipeline {engine:.0} records/s, ratio {ratios:.3}");
    Ok(())
}

/// Records per second, and the whole process's CPU per record, start and end included.
struct Cost {
    rate: f64,
    cpu_us: f64,
}

impl Cost {
    fn of(a: &Arguments, job: impl FnOnce() -> Outcome<Duration>) -> Outcome<Cost> {
        let cpu = process_cpu();
        let took = job()?;
        let cpu_us = (process_cpu() - cpu).as_secs_f64() * 1e6 / a.records as f64;
        Ok(Cost { rate: a.records as f64 / took.as_secs_f64(), cpu_us })
    }
}

/// Drops what it gets.
#[derive(Clone)]
struct Drops {
    left: Arc<AtomicU64>,
    ended: Arc<OnceLock<Instant>>,
}

impl Writer for Drops {
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure> {
        let records = job.range.len() as u64;
        if self.left.fetch_sub(records, Ordering::Relaxed) == records {
            self.ended.get_or_init(Instant::now);
        }
        Ok(RowCounts { upserted: records as u32, ..RowCounts::default() }.into())
    }

    fn write_with_care(&mut self, _: &Job<'_>, _: Care<'_, '_>) -> Result<Written, Failure> {
        unreachable!("no write ever fails")
    }

    fn parked(&mut self, _: TopicIx, _: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        unreachable!("no write ever fails")
    }

    fn reread(&mut self, _: TopicIx, _: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        unreachable!("no write ever fails")
    }
}

/// Grants every takeover and believes every progress.
struct Grants;

impl Control for Grants {
    fn probe(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn locate(&mut self, _: TopicIx, _: &Identity, partitions: &[i32]) -> Result<Vec<Option<Anchor>>, Failure> {
        Ok(vec![None; partitions.len()])
    }

    fn takeover(&mut self, takeover: &Takeover) -> Result<Taken, Failure> {
        let (begin, lanes) = (takeover.begin, usize::from(takeover.lanes));
        Ok(Taken { origin: begin, done: begin, created: true, fences: vec![begin; lanes], parked: Vec::new() })
    }

    fn progress(&mut self, _: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
        Ok(of.iter().map(|p| (p.partition, p.done)).collect())
    }

    fn decided(&mut self, _: TopicIx) -> Result<Decided, Failure> {
        Ok(Decided::default())
    }
}

/// From the first record fetched to the last one dropped.
pub fn drop_all(a: &Arguments) -> Outcome<Duration> {
    let config = config(a, Target::Table)?;
    let source = KafkaSource::new(&config.kafka, std::slice::from_ref(&a.topic), Options::default())?;
    let waker = Waker::new(source.waker());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (events_in, events) = bounded(EVENTS_MAX);
    let signals = Arc::new(Signals::new(1));
    let limits = BatchLimits::new(&config.engine);
    let pace = Arc::new(Pace::unlimited(a.workers, 1));
    let backoff = Backoff::new(config.engine.retry_backoff_min, config.engine.retry_backoff_max);
    let gate = Arc::new(Gate::new(Arc::clone(&clock), fastrand::Rng::new(), backoff.clone()));
    let observed = Arc::new(Observed::new(1, 1, a.workers));
    let context = || LoopContext {
        report: Reporter::new(ShardIx(0), "main", events_in.clone(), waker.clone(), Arc::clone(&gate)),
        pace: Arc::clone(&pace),
        clock: Arc::clone(&clock),
        rng: fastrand::Rng::new(),
        rules: Rules::ALL,
        backoff: backoff.clone(),
        signals: Arc::clone(&signals),
        observed: Arc::clone(&observed),
    };
    let (parked, router) = (Arc::new(Parked::new(config.engine.parking, Rules::ALL)), Arc::new(Router::new(&config)));
    let hot = Arc::new(HotKeys::new("main", &config.topics, config.engine.hot_keys, 1, Arc::default()));
    let (requests, inbox) = bounded(REQUESTS_MAX);
    let control = ControlLoop::new(Grants, inbox, Arc::clone(&parked), context());
    let mut threads = vec![Thread::spawn("control", None, Some(events_in.clone()), move || control.run())?];
    let writer = Drops { left: Arc::new(AtomicU64::new(a.records)), ended: Arc::default() };
    let mut inboxes = Vec::new();
    for index in 0..a.workers as u16 {
        let (chunks, inbox) = bounded(INBOX_CHUNKS_MAX);
        let topics = vec![TopicWriting::new(&config.topics[0])];
        let parking = Parking { parked: Arc::clone(&parked), router: Arc::clone(&router), hot: Arc::clone(&hot) };
        let worker = Worker::new(writer.clone(), index, inbox, limits, topics, parking, context());
        threads.push(Thread::spawn("worker", None, Some(events_in.clone()), move || worker.run())?);
        inboxes.push(chunks);
    }
    let ports = Ports {
        events,
        controls: vec![requests],
        dispatcher: Dispatcher::new(vec![inboxes], &[Arc::clone(&pace)], limits, config.engine.affinity, &[false]),
        parked: vec![parked],
        signals,
        observed: Arc::clone(&observed),
        waker,
        live: Arc::new(Live::new(Arc::new(config.clone()))),
    };
    let settings = Settings::new(&config, false);
    let mut poller = Poller::new(source, settings, router, ports, clock, fastrand::Rng::new(), Rules::ALL);
    let began = OnceLock::new();
    poller.run(&|| {
        if observed.counters.fetched.get() > 0 {
            began.get_or_init(Instant::now);
        }
        writer.ended.get().is_some()
    })?;
    drop(poller);
    let deadline = Instant::now() + JOIN_WAIT;
    threads.into_iter().for_each(|thread| thread.join(deadline));
    match (began.get(), writer.ended.get()) {
        (Some(began), Some(ended)) => Ok(ended.duration_since(*began)),
        _ => Err("the pipeline ended before its records".into()),
    }
}
