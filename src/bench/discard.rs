//! The engine without a database: the real source, poller, workers and control loop, a writer that drops every batch and a control
//! that says yes at once. And, to compare it with, librdkafka's bare poll loop over the same topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::live::Live;
use crate::cpus::{self, Place};
use crate::engine::control::{ControlLoop, LoopContext};
use crate::engine::dispatch::Dispatcher;
use crate::engine::event::{EVENTS_MAX, Event, INBOX_CHUNKS_MAX, REQUESTS_MAX};
use crate::engine::gate::Gate;
use crate::engine::hot_keys::HotKeys;
use crate::engine::observed::Observed;
use crate::engine::pace::Pace;
use crate::engine::parked::Parked;
use crate::engine::poller::{Poller, Ports, Settings};
use crate::engine::report::{Reporter, Waker};
use crate::engine::thread::Thread;
use crate::engine::worker::{BatchLimits, Parking, Signals, TopicWriting, Worker};
use crate::engine::{EngineError, Pinning, Rules, Stopper};
use crate::metrics::Counters;
use crate::sink::{
    Anchor, Care, Control, Failure, FenceRow, Identity, Job, Progress, RowCounts, Taken, Takeover, Writer, Written,
};
use crate::source::Source;
use crate::source::kafka::{KafkaSource, Options};
use crate::state::holds::Decided;
use crate::state::parked::Tail;
use crate::state::retry::Backoff;
use crate::state::router::Router;
use crate::types::{KeyHash, Lane, NextOffset, ShardIx, TopicIx};

const JOIN_WAIT: Duration = Duration::from_secs(10);
const POLL_WAIT: Duration = Duration::from_millis(100);

/// Drops what it gets.
struct Drops;

impl Writer for Drops {
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure> {
        Ok(RowCounts { upserted: job.range.len() as u32, ..RowCounts::default() }.into())
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

/// What the loops of one run share.
struct Wiring {
    config: Config,
    clock: Arc<dyn Clock>,
    observed: Arc<Observed>,
    waker: Waker,
    events: Sender<Event>,
    signals: Arc<Signals>,
    gate: Arc<Gate>,
    pace: Arc<Pace>,
    backoff: Backoff,
    pinning: Pinning,
}

impl Wiring {
    fn context(&self) -> LoopContext {
        LoopContext {
            report: Reporter::new(ShardIx(0), "none", self.events.clone(), self.waker.clone(), Arc::clone(&self.gate)),
            pace: Arc::clone(&self.pace),
            clock: Arc::clone(&self.clock),
            rng: fastrand::Rng::new(),
            rules: Rules::ALL,
            backoff: self.backoff.clone(),
            signals: Arc::clone(&self.signals),
            observed: Arc::clone(&self.observed),
        }
    }

    fn spawn(&self, name: &str, place: Place, body: impl FnOnce() + Send + 'static) -> Result<Thread, EngineError> {
        let thread = Thread::spawn(name, place, Some(self.events.clone()), body);
        thread.map_err(|e| EngineError::Internal(format!("a thread: {e}")))
    }
}

/// What is to be read of such an engine, before it runs.
pub fn observed(config: &Config) -> Arc<Observed> {
    Arc::new(Observed::new(1, 1, config.engine.workers_per_shard))
}

/// Reads the one topic of `config` and drops it, until `stopper` says so. One shard, whatever the configuration has.
pub fn run(mut config: Config, observed: &Arc<Observed>, stopper: &Stopper) -> Result<(), EngineError> {
    config.shards.truncate(1);
    config.shards[0].partitions = None;
    let names = [config.topics[0].name.clone()];
    let pinning = Pinning::new(&config.engine, cpus::allowed().ok());
    let source = cpus::inherited_from(pinning.kafka(), || KafkaSource::new(&config.kafka, &names, Options::default()));
    let source = source.map_err(|e| EngineError::Configuration(e.to_string()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (events_in, events) = bounded(EVENTS_MAX);
    let backoff = Backoff::new(config.engine.retry_backoff_min, config.engine.retry_backoff_max);
    let workers = config.engine.workers_per_shard;
    let wiring = Wiring {
        waker: Waker::new(source.waker()),
        events: events_in,
        signals: Arc::new(Signals::new(1)),
        gate: Arc::new(Gate::new(Arc::clone(&clock), fastrand::Rng::new(), backoff.clone())),
        pace: Arc::new(Pace::unlimited(workers, 1)),
        observed: Arc::clone(observed),
        backoff,
        pinning,
        clock,
        config,
    };
    let config = &wiring.config;
    let (parked, router) = (Arc::new(Parked::new(config.engine.parking, Rules::ALL)), Arc::new(Router::new(config)));
    let (requests, inbox) = bounded(REQUESTS_MAX);
    let control = ControlLoop::new(Grants, inbox, Arc::clone(&parked), wiring.context());
    let mut threads = vec![wiring.spawn("fb-control", wiring.pinning.others(), move || control.run())?];
    let hot = Arc::new(HotKeys::new("none", &config.topics, config.engine.hot_keys, 1, Arc::default()));
    let limits = BatchLimits::new(&config.engine);
    let mut inboxes = Vec::new();
    for index in 0..workers as u16 {
        let (chunks, inbox) = bounded(INBOX_CHUNKS_MAX);
        let topics = vec![TopicWriting::new(&config.topics[0])];
        let parking = Parking { parked: Arc::clone(&parked), router: Arc::clone(&router), hot: Arc::clone(&hot) };
        let worker = Worker::new(Drops, index, inbox, limits, topics, parking, wiring.context());
        let place = wiring.pinning.worker(usize::from(index));
        threads.push(wiring.spawn("fb-worker", place, move || worker.run())?);
        inboxes.push(chunks);
    }
    let ports = Ports {
        events,
        controls: vec![requests],
        dispatcher: Dispatcher::new(
            vec![inboxes],
            &[Arc::clone(&wiring.pace)],
            limits,
            config.engine.affinity,
            &[false],
        ),
        parked: vec![parked],
        signals: Arc::clone(&wiring.signals),
        observed: Arc::clone(observed),
        waker: wiring.waker.clone(),
        live: Arc::new(Live::new(Arc::new(config.clone()))),
    };
    let settings = Settings::new(config, false);
    let clock = Arc::clone(&wiring.clock);
    let mut poller = Poller::new(source, settings, router, ports, clock, fastrand::Rng::new(), Rules::ALL);
    let (place, ending) = (wiring.pinning.poller(), stopper.clone());
    let body = move || {
        if let Err(error) = place.enter() {
            tracing::warn!("the poller could not be pinned: {error}");
        }
        poller.run(&|| ending.is_stopped())
    };
    let poller = std::thread::Builder::new().name("forebay-poller".into()).spawn(body);
    let poller = poller.map_err(|e| EngineError::Internal(format!("a thread: {e}")))?;
    let ended = poller.join().map_err(|_| EngineError::Internal("the poller panicked".into()))?;
    let deadline = Instant::now() + JOIN_WAIT;
    threads.into_iter().for_each(|thread| thread.join(deadline));
    ended.map(drop).map_err(EngineError::from)
}

/// The binding's own consumer at the begin of each partition, in no group, as librdkafka comes: but without the short back-off it would
/// stop fetching for a second whenever its queue is full.
pub fn bare_consumer<'a>(
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    topic: &str,
    partitions: i32,
) -> KafkaResult<BaseConsumer> {
    let mut client = ClientConfig::new();
    client.set("group.id", "forebay-bench").set("fetch.queue.backoff.ms", "2");
    for (name, value) in properties {
        client.set(name, value);
    }
    let consumer: BaseConsumer = client.set("enable.auto.commit", "false").create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Offset(0))?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// The binding's own one-message poll, doing nothing with what it gets.
pub fn poll(config: &Config, partitions: i32, counters: &Counters, stopper: &Stopper) -> Result<(), EngineError> {
    let failed = |e: rdkafka::error::KafkaError| EngineError::Unavailable(format!("Kafka: {e}"));
    let consumer = bare_consumer(config.kafka.consumer_properties(), &config.topics[0].name, partitions);
    let consumer = consumer.map_err(failed)?;
    while !stopper.is_stopped() {
        if let Some(message) = consumer.poll(POLL_WAIT) {
            message.map_err(failed)?;
            counters.fetched.add(1);
            counters.durable.add(1);
        }
    }
    Ok(())
}
