//! Wiring: channels, threads and clients are made here, in this order, and ended in the opposite one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::config::live::Live;
use crate::config::{self, Config, RouteBy, Target};
use crate::cpus::{self, Place};
use crate::engine::Rules;
use crate::engine::control::{ControlLoop, LoopContext};
use crate::engine::dispatch::Dispatcher;
use crate::engine::ends::{Ends, EndsLoop, KafkaLogs};
use crate::engine::event::{EVENTS_MAX, Event, INBOX_CHUNKS_MAX, REQUESTS_MAX, Request};
use crate::engine::gate::Gate;
use crate::engine::hot_keys::HotKeys;
use crate::engine::observed::Observed;
use crate::engine::observer::{Observer, Running};
use crate::engine::pace::{Pace, PaceStatus};
use crate::engine::parked::Parked;
use crate::engine::pinning::Pinning;
use crate::engine::poller::{Poller, Ports, Settings, Stop, TopicSettings};
use crate::engine::reload::Reloader;
use crate::engine::report::{Reporter, Waker};
use crate::engine::sampler::{Sampled, SamplerLoop};
use crate::engine::slow_lane::SlowLaneLoop;
use crate::engine::thread::Thread;
use crate::engine::worker::{BatchLimits, Parking, Signals, TopicWriting, Worker};
use crate::forward::forwarder::{self, Forwarder};
use crate::forward::outbox::PostgresOutbox;
use crate::forward::producer::KafkaPublisher;
use crate::metrics::Counters;
use crate::sink::backends::Backends;
use crate::sink::control::PostgresControl;
use crate::sink::handler::{Handler, HandlerFactory};
use crate::sink::postgres::OwnRows;
use crate::sink::sample::PostgresSampler;
use crate::sink::writer::PostgresWriter;
use crate::sink::{Drain, Reason};
use crate::source::Source;
use crate::source::kafka::{KafkaSource, Options as SourceOptions};
use crate::state::backpressure::Window;
use crate::state::chunk::Chunk;
use crate::state::hot_key::Top;
use crate::state::pace::Limits;
use crate::state::retry::Backoff;
use crate::state::router::{Router, ShardFunction};
use crate::types::{ShardIx, TopicIx};

/// How to run, besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// End once everything up to the end offsets seen at start is durable and committed.
    pub until_end: bool,
    pub source: SourceOptions,
}

/// How a run ended, when nothing was wrong with the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Topics that stopped on the way, and why.
    pub stopped: Vec<(String, Reason)>,
}

/// Why a run ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("configuration: {0}")]
    Configuration(String),
    /// Who or what is not to be had, and why: Kafka put this process out of the group, or refused it; an address that is taken.
    #[error("{0}")]
    Unavailable(String),
    /// A broken invariant, or a thread that could not be started.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<Stop> for EngineError {
    fn from(stop: Stop) -> EngineError {
        match stop {
            Stop::Kafka(what) => EngineError::Unavailable(format!("Kafka: {what}")),
            Stop::Configuration(what) => EngineError::Configuration(what),
            Stop::Internal(what) => EngineError::Internal(what),
        }
    }
}

/// Asks a running engine to drain, commit and end. Cheap to clone; safe to use from a signal handler's thread.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The flag itself, for `signal_hook::flag::register`.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// The engine: a configuration, and your handlers for those of its topics that have no table.
pub struct Engine {
    config: Arc<Config>,
    live: Arc<Live>,
    function: Option<Arc<dyn ShardFunction>>,
    handlers: HashMap<TopicIx, HandlerFactory>,
    observed: Arc<Observed>,
    clock: Arc<dyn Clock>,
    /// By shard.
    hot: Vec<Arc<HotKeys>>,
    paces: Vec<Arc<Pace>>,
    sampled: Vec<Arc<Sampled>>,
    backends: Vec<Arc<Backends>>,
    pinning: Pinning,
    running: Arc<Mutex<Option<Running>>>,
}

impl Engine {
    pub fn new(config: Config) -> Engine {
        let config = Arc::new(config);
        let live = Arc::new(Live::new(Arc::clone(&config)));
        let writers = config.engine.writers_per_shard();
        let observed = Arc::new(Observed::new(config.topics.len(), config.shards.len(), writers));
        let counters = &observed.counters;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (topics, engine) = (&config.topics, &config.engine);
        let hot = |shard: &config::Shard| {
            HotKeys::new(&shard.name, topics, engine.hot_keys, engine.slow_lanes_per_shard, Arc::clone(counters))
        };
        let hot = config.shards.iter().map(|shard| Arc::new(hot(shard))).collect();
        let records_max = engine.batch_records_max;
        let pace = |shard: usize| {
            let limits = Limits::of(&config, ShardIx(shard as u16));
            Arc::new(Pace::new(limits, writers, records_max, Arc::clone(&clock), Arc::clone(counters)))
        };
        let paces = (0..config.shards.len()).map(pace).collect();
        let sampled = |_: &config::Shard| Arc::new(Sampled::new(Arc::clone(&clock), engine.retry_backoff_max));
        let sampled = config.shards.iter().map(sampled).collect();
        let backends = config.shards.iter().map(|_| Arc::default()).collect();
        let (function, handlers, running) = (None, HashMap::new(), Arc::default());
        // Of the thread that makes it: threads that no setting pins run where that one may.
        let pinning = Pinning::new(engine, cpus::allowed().ok());
        Engine { config, live, function, handlers, observed, clock, hot, paces, sampled, backends, pinning, running }
    }

    /// Applies a topic's records by `make`'s handlers, one for each worker, instead of to a table.
    ///
    /// # Errors
    /// If the configuration has no such topic.
    pub fn handle<H, F>(mut self, topic: &str, make: F) -> Result<Engine, EngineError>
    where
        H: Handler + 'static,
        F: Fn() -> H + Send + Sync + 'static,
    {
        let index = self.config.topics.iter().position(|t| t.name == topic);
        let index = index.ok_or_else(|| EngineError::Configuration(format!("no [[topic]] is named {topic:?}")))?;
        let factory: HandlerFactory = Arc::new(move || Box::new(make()));
        self.handlers.insert(TopicIx(index as u16), factory);
        Ok(self)
    }

    /// Chooses each record's shard by a function of the program's own; it overrules `[shards] by`, which may say `"hash"` then.
    pub fn route(mut self, function: impl ShardFunction + 'static) -> Engine {
        let mut config = Config::clone(&self.config);
        config.routing.by = RouteBy::Function { generation: function.generation() };
        self.config = Arc::new(config);
        self.live = Arc::new(Live::new(Arc::clone(&self.config)));
        self.function = Some(Arc::new(function));
        self
    }

    /// What it has done so far; may be read while it runs.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.observed.counters)
    }

    /// Moves every thread that this process has by now to `other_cores`, where that is configured: for a program that does little
    /// besides. Threads of the engine's own go where they belong when they start.
    ///
    /// # Errors
    /// If none of these CPUs is there and allowed.
    pub fn confine_process(&self) -> std::io::Result<()> {
        self.config.engine.other_cores.as_ref().map_or(Ok(()), cpus::confine_all)
    }

    /// What makes it read its configuration again while it runs.
    pub fn reloader(&self) -> Reloader {
        // The gateway is another process over the same file.
        Reloader::new(Arc::clone(&self.live), |key| !key.starts_with("ingest."))
    }

    /// What looks at it, and may tell it something, while it runs.
    pub fn observer(&self) -> Observer {
        Observer {
            live: Arc::clone(&self.live),
            observed: Arc::clone(&self.observed),
            clock: Arc::clone(&self.clock),
            hot: self.hot.clone(),
            paces: self.paces.clone(),
            sampled: self.sampled.clone(),
            running: Arc::clone(&self.running),
        }
    }

    /// The keys of a topic that took most, by records and by time, in the last whole `hot_key_window_ms` of a shard; may be read
    /// while it runs.
    pub fn top_keys(&self, shard: ShardIx, topic: TopicIx) -> Top {
        self.observer().top_keys(shard, topic)
    }

    /// What holds each shard back, by the shards' names; may be asked while it runs.
    pub fn pace(&self) -> Vec<(String, PaceStatus)> {
        let names = self.config.shards.iter().map(|shard| shard.name.clone());
        names.zip(self.paces.iter().map(|pace| pace.status())).collect()
    }

    /// What a shard's connections wait for, and who blocks them; may be asked while it runs. Nothing is seen with
    /// `contention_interval_ms = 0`.
    pub fn contention(&self, shard: ShardIx) -> Arc<Sampled> {
        Arc::clone(&self.sampled[usize::from(shard.0)])
    }

    /// Runs until `stopper` says so, or, with `until_end`, until everything is done. Blocks the calling thread.
    ///
    /// # Errors
    /// See [`EngineError`]. Records that cannot be applied, databases and brokers that are away are not errors.
    pub fn run(&self, options: Options, stopper: &Stopper) -> Result<Outcome, EngineError> {
        for (index, topic) in self.config.topics.iter().enumerate() {
            if matches!(topic.target, Target::Handler) && !self.handlers.contains_key(&TopicIx(index as u16)) {
                let text = format!("topic {:?} has neither a table nor a handler", topic.name);
                return Err(EngineError::Configuration(text));
            }
        }
        self.hot.iter().for_each(|hot| hot.restart());
        let names: Vec<String> = self.config.topics.iter().map(|t| t.name.clone()).collect();
        let source = cpus::inherited_from(self.pinning.kafka(), || {
            KafkaSource::new(&self.config.kafka, &names, options.source.clone())
        });
        let source = source.map_err(|e| EngineError::Configuration(e.to_string()))?;
        let waker = Waker::new(source.waker());
        let clock = Arc::clone(&self.clock);
        let (events_in, events) = bounded(EVENTS_MAX);
        let signals = Arc::new(Signals::new(self.config.topics.len()));
        let closing = Arc::new(AtomicBool::new(false));
        let router = Arc::new(match &self.function {
            Some(function) => Router::with_function(&self.config, Arc::clone(function)),
            None => Router::new(&self.config),
        });
        let threads = Threads {
            engine: self,
            waker: &waker,
            clock: &clock,
            events: &events_in,
            signals: &signals,
            router: &router,
            closing: &closing,
        };
        let Started { inboxes, controls, parked, gates, threads: workers } = threads.start()?;
        let forwarders = threads.forwarders()?;
        let ends = Arc::new(Ends::default());
        let (watch_ends, ends_thread) = threads.ends(&ends)?;
        *self.running.lock() = Some(Running { parked: parked.clone(), gates, signals: Arc::clone(&signals), ends });

        let config = &self.config;
        let slow: Vec<bool> = (0..names.len()).map(|t| self.handlers.contains_key(&TopicIx(t as u16))).collect();
        let limits = BatchLimits::new(&config.engine);
        let ports = Ports {
            events,
            controls,
            dispatcher: Dispatcher::new(inboxes, &self.paces, limits, config.engine.affinity, &slow),
            parked,
            signals: Arc::clone(&signals),
            observed: Arc::clone(&self.observed),
            waker: waker.clone(),
            live: Arc::clone(&self.live),
        };
        let settings = Settings::new(config, options.until_end);
        let poller = Poller::new(source, settings, router, ports, clock, rng()?, Rules::ALL);
        let outcome = self.poll(poller, stopper);
        *self.running.lock() = None;
        drop(watch_ends);
        let to_the_end = options.until_end && outcome.is_ok() && !stopper.is_stopped();
        signals.abandon();
        closing.store(true, Ordering::SeqCst);
        // The poller is gone, and with it every sender: workers and control threads end by themselves.
        let deadline = Instant::now() + JOIN_DEADLINE;
        workers.into_iter().for_each(|thread| thread.join(deadline));
        ends_thread.join(deadline);
        // Now the last letters are in the tables.
        let drain = config.engine.drain_deadline;
        let patience = if to_the_end { drain } else { drain.min(FORWARD_AT_STOP) };
        for (orders, _) in &forwarders {
            // One that is gone has nothing to drain.
            let _ = orders.send(forwarder::Drain { patience });
        }
        let deadline = Instant::now() + patience + JOIN_FORWARDER;
        forwarders.into_iter().for_each(|(_, thread)| thread.join(deadline));
        outcome
    }

    /// Runs the poller on a thread of its own, so that it can be pinned and named.
    fn poll(&self, poller: Poller<KafkaSource>, stopper: &Stopper) -> Result<Outcome, EngineError> {
        let (outcome_in, outcome) = bounded(1);
        let stopper = stopper.clone();
        let body = move || {
            let mut poller = poller;
            let ended = poller.run(&|| stopper.is_stopped());
            let result = ended.map(|_| Outcome { stopped: poller.stopped() }).map_err(EngineError::from);
            drop(poller);
            let _ = outcome_in.send(result);
        };
        let thread = Thread::spawn("forebay-poller", self.pinning.poller(), None, body)
            .map_err(|e| EngineError::Internal(format!("the poller's thread: {e}")))?;
        let result = outcome.recv().unwrap_or_else(|_| Err(EngineError::Internal("the poller panicked".into())));
        thread.join(Instant::now() + JOIN_DEADLINE);
        result
    }
}

/// Threads that hang in a database's answer are left behind after this.
const JOIN_DEADLINE: Duration = Duration::from_secs(5);

/// On SIGTERM and SIGINT: how long dead letters still go on. They are safe where they are.
const FORWARD_AT_STOP: Duration = Duration::from_secs(2);

/// What a forwarder has begun by then ends within this, or is left behind: it sends for a bounded time.
const JOIN_FORWARDER: Duration = Duration::from_secs(12);

/// What the threads of one run share.
struct Threads<'a> {
    engine: &'a Engine,
    waker: &'a Waker,
    clock: &'a Arc<dyn Clock>,
    events: &'a Sender<Event>,
    signals: &'a Arc<Signals>,
    router: &'a Arc<Router>,
    /// For the slow lanes, which have no channel that ends.
    closing: &'a Arc<AtomicBool>,
}

/// What [`Threads::start`] made; all but the threads by shard.
#[derive(Default)]
struct Started {
    inboxes: Vec<Vec<Sender<Box<Chunk>>>>,
    controls: Vec<Sender<Request>>,
    parked: Vec<Arc<Parked>>,
    gates: Vec<Arc<Gate>>,
    threads: Vec<Thread>,
}

impl Threads<'_> {
    /// Starts every shard's workers, slow lanes and control thread.
    fn start(&self) -> Result<Started, EngineError> {
        let config = &self.engine.config;
        let handlers = Arc::new(self.engine.handlers.clone());
        let mut started = Started::default();
        for shard in (0..config.shards.len()).map(|s| ShardIx(s as u16)) {
            let ids = Arc::new(OwnRows::new(config.topics.len()));
            let backends = &self.engine.backends[usize::from(shard.0)];
            let (requests, inbox) = bounded(REQUESTS_MAX);
            let gate = Arc::new(Gate::new(Arc::clone(self.clock), rng()?, self.backoff()));
            let control = PostgresControl::new(Arc::clone(config), shard, Arc::clone(&ids))
                .known_to(backends)
                .following(Arc::clone(&self.engine.live), shard);
            let parked = Arc::new(Parked::new(config.engine.parking, Rules::ALL));
            started.threads.push(self.control(control, inbox, Arc::clone(&parked), self.context(shard, &gate)?)?);
            started.controls.push(requests);
            let mut shard_inboxes = Vec::new();
            for index in 0..config.engine.workers_per_shard as u16 {
                let (chunks, inbox) = bounded(INBOX_CHUNKS_MAX);
                let name = format!("fb-w{}.{index}", shard.0);
                let writer =
                    PostgresWriter::new(Arc::clone(config), shard, Arc::clone(&ids), &name, Arc::clone(&handlers))
                        .known_to(backends)
                        .following(Arc::clone(&self.engine.live), shard);
                let (parking, context) = (self.parking(&parked, shard), self.context(shard, &gate)?);
                let number = usize::from(shard.0) * config.engine.workers_per_shard + usize::from(index);
                let place = self.engine.pinning.worker(number);
                started.threads.push(self.worker(writer, index, inbox, parking, &name, place, context)?);
                shard_inboxes.push(chunks);
            }
            let workers = config.engine.workers_per_shard as u16;
            for index in 0..config.engine.slow_lanes_per_shard as u16 {
                let name = format!("fb-s{}.{index}", shard.0);
                let lane =
                    PostgresWriter::new(Arc::clone(config), shard, Arc::clone(&ids), &name, Arc::clone(&handlers))
                        .known_to(backends)
                        .following(Arc::clone(&self.engine.live), shard);
                let (parking, context) = (self.parking(&parked, shard), self.context(shard, &gate)?);
                started.threads.push(self.slow_lane(lane, workers + index, parking, &name, context)?);
            }
            started.threads.extend(self.sampler(shard, &gate)?);
            started.inboxes.push(shard_inboxes);
            started.parked.push(parked);
            started.gates.push(gate);
        }
        Ok(started)
    }

    /// Starts the thread that samples what the shard's connections wait for, if it is wanted.
    fn sampler(&self, shard: ShardIx, gate: &Arc<Gate>) -> Result<Option<Thread>, EngineError> {
        let (config, engine) = (&self.engine.config, self.engine);
        let Some(interval) = config.engine.contention_interval else { return Ok(None) };
        let sampler = PostgresSampler::new(config, shard, Arc::clone(&engine.backends[usize::from(shard.0)]));
        let (sampled, name) = (engine.contention(shard), &config.shards[usize::from(shard.0)].name);
        let sampler = SamplerLoop::new(sampler, name, Arc::clone(gate), Arc::clone(self.clock), interval, sampled);
        let closing = Arc::clone(self.closing);
        self.spawn(&format!("fb-a{}", shard.0), move || sampler.run(&closing)).map(Some)
    }

    /// Starts a forwarder for each shard, where dead letters of some topic go on.
    fn forwarders(&self) -> Result<Vec<(Sender<forwarder::Drain>, Thread)>, EngineError> {
        let config = &self.engine.config;
        if config.topics.iter().all(|topic| topic.forward_to.is_none()) {
            return Ok(Vec::new());
        }
        let start = |shard: ShardIx| {
            let (orders_in, orders) = bounded(1);
            let context = forwarder::Context {
                orders,
                clock: Arc::clone(self.clock),
                rng: rng()?,
                backoff: Backoff::new(config.engine.retry_backoff_min, config.engine.retry_backoff_max),
                counters: Arc::clone(&self.engine.observed.counters),
            };
            let outbox = PostgresOutbox::new(config, shard).known_to(&self.engine.backends[usize::from(shard.0)]);
            let publisher = KafkaPublisher::new(&config.kafka).pinned(self.engine.pinning.kafka().cloned());
            let forwarder = Forwarder::new(outbox, publisher, config, shard, context);
            let thread = self.spawn(&format!("fb-f{}", shard.0), move || forwarder.run())?;
            Ok((orders_in, thread))
        };
        (0..config.shards.len()).map(|shard| start(ShardIx(shard as u16))).collect()
    }

    /// Starts the thread that asks where the logs end.
    fn ends(&self, ends: &Arc<Ends>) -> Result<(Sender<()>, Thread), EngineError> {
        let engine = self.engine;
        let logs = cpus::inherited_from(engine.pinning.kafka(), || KafkaLogs::new(&engine.config));
        let logs = logs.map_err(|e| EngineError::Configuration(e.to_string()))?;
        let ends = EndsLoop::new(logs, Arc::clone(&engine.observed), Arc::clone(ends), Arc::clone(self.clock));
        let (stop_in, stop) = bounded(0);
        Ok((stop_in, self.spawn("forebay-ends", move || ends.run(&stop))?))
    }

    /// Starts one that is neither the poller nor a worker.
    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<Thread, EngineError> {
        started(Thread::spawn(name, self.engine.pinning.others(), Some(self.events.clone()), body))
    }

    fn backoff(&self) -> Backoff {
        let engine = &self.engine.config.engine;
        Backoff::new(engine.retry_backoff_min, engine.retry_backoff_max)
    }

    fn context(&self, shard: ShardIx, gate: &Arc<Gate>) -> Result<LoopContext, EngineError> {
        Ok(LoopContext {
            report: Reporter::new(
                shard,
                &self.engine.config.shards[usize::from(shard.0)].name,
                self.events.clone(),
                self.waker.clone(),
                Arc::clone(gate),
            ),
            clock: Arc::clone(self.clock),
            rng: rng()?,
            rules: Rules::ALL,
            backoff: self.backoff(),
            pace: Arc::clone(&self.engine.paces[usize::from(shard.0)]),
            signals: Arc::clone(self.signals),
            observed: Arc::clone(&self.engine.observed),
        })
    }

    fn control(
        &self,
        control: PostgresControl,
        inbox: Receiver<Request>,
        parked: Arc<Parked>,
        context: LoopContext,
    ) -> Result<Thread, EngineError> {
        let name = format!("fb-c{}", context.report.shard().0);
        let control = ControlLoop::new(control, inbox, parked, context);
        self.spawn(&name, move || control.run())
    }

    fn parking(&self, parked: &Arc<Parked>, shard: ShardIx) -> Parking {
        let hot = Arc::clone(&self.engine.hot[usize::from(shard.0)]);
        Parking { parked: Arc::clone(parked), router: Arc::clone(self.router), hot }
    }

    fn slow_lane(
        &self,
        lane: PostgresWriter,
        writer: u16,
        parking: Parking,
        name: &str,
        context: LoopContext,
    ) -> Result<Thread, EngineError> {
        let config = &self.engine.config;
        let topics = config.topics.iter().map(Drain::of).collect();
        let limits = BatchLimits::new(&config.engine);
        let lane = SlowLaneLoop::new(lane, writer, limits, topics, parking, context);
        let closing = Arc::clone(self.closing);
        self.spawn(name, move || lane.run(&closing))
    }

    #[allow(clippy::too_many_arguments)]
    fn worker(
        &self,
        writer: PostgresWriter,
        index: u16,
        inbox: Receiver<Box<Chunk>>,
        parking: Parking,
        name: &str,
        place: Place,
        context: LoopContext,
    ) -> Result<Thread, EngineError> {
        let config = &self.engine.config;
        let topics = config.topics.iter().map(TopicWriting::new).collect();
        let limits = BatchLimits::new(&config.engine);
        let worker = Worker::new(writer, index, inbox, limits, topics, parking, context);
        started(Thread::spawn(name, place, Some(self.events.clone()), move || worker.run()))
    }
}

fn started(thread: std::io::Result<Thread>) -> Result<Thread, EngineError> {
    thread.map_err(|e| EngineError::Internal(format!("a thread could not be started: {e}")))
}

/// From the operating system's randomness: tokens must differ between processes.
fn rng() -> Result<fastrand::Rng, EngineError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|e| EngineError::Internal(format!("no randomness: {e}")))?;
    Ok(fastrand::Rng::with_seed(u64::from_le_bytes(seed)))
}

impl Settings {
    pub fn new(config: &Config, until_end: bool) -> Settings {
        let engine = &config.engine;
        let topic = |t: &config::Topic| TopicSettings { name: t.name.clone(), delivery: t.delivery };
        Settings {
            topics: config.topics.iter().map(topic).collect(),
            shards: config.shards.iter().map(|s| s.name.clone()).collect(),
            gated: config.shards.iter().map(|s| s.commit_gate.is_some()).collect(),
            lanes: engine.lanes,
            window: Window { records_max: engine.partition_records_max, bytes_max: engine.partition_bytes_max },
            commit_interval: engine.commit_interval,
            first_start: config.kafka.first_start,
            locate_deadline: engine.locate_deadline,
            revoke_deadline: engine.revoke_deadline,
            drain_deadline: engine.drain_deadline,
            retry_min: engine.retry_backoff_min,
            retry_max: engine.retry_backoff_max,
            until_end,
        }
    }
}
