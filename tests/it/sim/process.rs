//! One whole process: the engine's own poller, workers and control loops over the fakes, each stepped by the scenario.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use fastrand::Rng;
use forebay::clock::Clock;
use forebay::config::live::{Live, Readings};
use forebay::config::secret::Secret;
use forebay::config::{
    self, Affinity, Config, Delivery, FirstStart, HotKeyRule, OnBadRecord, ParkingLimits, RouteBy, Routing, Target,
    Tenant, TenantCeilings,
};
use forebay::engine::Rules;
use forebay::engine::control::{ControlLoop, LoopContext};
use forebay::engine::dispatch::Dispatcher;
use forebay::engine::event::{EVENTS_MAX, INBOX_CHUNKS_MAX, REQUESTS_MAX};
use forebay::engine::gate::Gate;
use forebay::engine::hot_keys::HotKeys;
use forebay::engine::observed::Observed;
use forebay::engine::pace::Pace;
use forebay::engine::parked::Parked;
use forebay::engine::poller::{Flow, Poller, Ports, Settings, TopicSettings};
use forebay::engine::report::{Reporter, Waker};
use forebay::engine::slow_lane::SlowLaneLoop;
use forebay::engine::worker::{BatchLimits, Parking, Signals, TopicWriting, Worker};
use forebay::metrics::Counters;
use forebay::sink::Drain;
use forebay::state::backpressure::Window;
use forebay::state::pace::Limits;
use forebay::state::retry::Backoff;
use forebay::state::router::Router;
use forebay::types::{Lane, ShardIx};

use super::broker::ShardOf;
use super::observe::Happening;
use super::sink::{FakeControl, FakeSlowLane, FakeWriter};
use super::source::{FakeSource, TENANT};
use super::world::Shared;

/// How a process is configured; a restart may change it.
#[derive(Debug, Clone)]
pub struct Setup {
    pub workers: usize,
    pub lanes: Lane,
    pub affinity: Affinity,
    pub batch_records_max: usize,
    pub window: usize,
    pub rules: Rules,
    /// To leave once all that there is at the start is done.
    pub until_end: bool,
    pub first_start: FirstStart,
    pub on_bad_record: OnBadRecord,
    /// Of each shard, in each topic's rows per second, too.
    pub pace: config::Pace,
    pub topic_rows_per_second_max: Option<usize>,
    pub tenant_rows_per_second_max: Option<usize>,
    pub parking: ParkingLimits,
    pub slow_lanes: usize,
    pub hot_keys: HotKeyRule,
}

/// Times of the simulated deployment, short enough that everything comes up in one scenario.
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(400);
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(50);
/// A record of a hot key takes as long as the window.
pub const HOT_KEYS: HotKeyRule =
    HotKeyRule { percent: 30, window: Duration::from_millis(20), hold: Duration::from_millis(40) };
/// Tries of a record whose parent is missing.
pub const PARENT_TRIES: u32 = 3;
const LOCATE_DEADLINE: Duration = Duration::from_millis(100);
const REVOKE_DEADLINE: Duration = Duration::from_millis(150);
const DRAIN_DEADLINE: Duration = Duration::from_millis(300);
const RETRY_MIN: Duration = Duration::from_millis(2);
const RETRY_MAX: Duration = Duration::from_millis(60);

pub struct Process {
    pub number: u32,
    world: Shared,
    poller: Poller<FakeSource>,
    /// By shard.
    workers: Vec<Vec<Worker<FakeWriter>>>,
    controls: Vec<ControlLoop<FakeControl>>,
    slow_lanes: Vec<SlowLaneLoop<FakeSlowLane>>,
    counters: Arc<Counters>,
    live: Arc<Live>,
    held: (usize, usize),
    /// Topics that it gave up.
    pub stopped: BTreeMap<u16, String>,
    pub finished: bool,
}

impl Process {
    pub fn start(world: &Shared, number: u32, setup: &Setup) -> Process {
        let (clock, shards, topics, routing, seed) = {
            let mut w = world.borrow_mut();
            w.note(format_args!("p{number} starts: {setup:?}"));
            let seed = w.rng.u64(..);
            let clock: Arc<dyn Clock> = Arc::new(w.clock.clone());
            (clock, w.dbs.len(), w.broker.topics.len(), w.routing(), seed)
        };
        let mut rng = Rng::with_seed(seed);
        let waker = Waker::new(Arc::new(|| {}));
        let signals = Arc::new(Signals::new(topics));
        let limits = BatchLimits { records_max: setup.batch_records_max, bytes_max: 1 << 20 };
        let (events_in, events) = bounded(EVENTS_MAX);
        let observed = Arc::new(Observed::new(topics, shards, setup.workers + setup.slow_lanes));
        let counters = Arc::clone(&observed.counters);
        let tenants = TenantCeilings { each: setup.tenant_rows_per_second_max, ..Default::default() };
        let topic_rates = vec![setup.topic_rows_per_second_max; topics];
        let limits_of = Limits { shard: setup.pace.clone(), topics: topic_rates, tenants };
        let pace = || {
            let (clock, counters) = (Arc::clone(&clock), Arc::clone(&counters));
            Arc::new(Pace::new(
                limits_of.clone(),
                setup.workers + setup.slow_lanes,
                setup.batch_records_max,
                clock,
                counters,
            ))
        };
        let paces: Vec<Arc<Pace>> = (0..shards).map(|_| pace()).collect();
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut gate = |_| Arc::new(Gate::new(Arc::clone(&clock), rng.fork(), backoff.clone()));
        let gates: Vec<Arc<Gate>> = (0..shards).map(&mut gate).collect();
        let mut context = |shard: ShardIx| LoopContext {
            report: Reporter::new(
                shard,
                &format!("s{}", shard.0),
                events_in.clone(),
                waker.clone(),
                Arc::clone(&gates[usize::from(shard.0)]),
            ),
            pace: Arc::clone(&paces[usize::from(shard.0)]),
            clock: Arc::clone(&clock),
            rng: rng.fork(),
            rules: setup.rules,
            backoff: backoff.clone(),
            signals: Arc::clone(&signals),
            observed: Arc::clone(&observed),
        };
        let mut config = config(routing, shards);
        config.topics = vec![topic(setup.on_bad_record); topics];
        let router = Arc::new(Router::new(&config));
        let (mut inboxes, mut requests, mut workers, mut controls) = (vec![], vec![], vec![], vec![]);
        let (mut all_parked, mut slow_lanes) = (vec![], vec![]);
        for shard in 0..shards {
            let index = ShardIx(shard as u16);
            let (request, inbox) = bounded(REQUESTS_MAX);
            let control = FakeControl::new(world.clone(), shard, number);
            let parked = Arc::new(Parked::new(setup.parking, setup.rules));
            let all = vec![topic(setup.on_bad_record); topics];
            let hot = HotKeys::new("s", &all, setup.hot_keys, setup.slow_lanes, Arc::clone(&counters));
            let hot = Arc::new(hot);
            let parking =
                || Parking { parked: Arc::clone(&parked), router: Arc::clone(&router), hot: Arc::clone(&hot) };
            controls.push(ControlLoop::new(control, inbox, Arc::clone(&parked), context(index)));
            for lane in 0..setup.slow_lanes {
                let number_of = (setup.workers + lane) as u16;
                let lane = FakeSlowLane::new(world.clone(), shard, number);
                let topics = vec![Drain::of(&topic(setup.on_bad_record)); topics];
                slow_lanes.push(SlowLaneLoop::new(lane, number_of, limits, topics, parking(), context(index)));
            }
            requests.push(request);
            let (mut shard_inboxes, mut shard_workers) = (vec![], vec![]);
            for worker in 0..setup.workers as u16 {
                let (chunks, inbox) = bounded(INBOX_CHUNKS_MAX);
                let writer = FakeWriter::new(world.clone(), shard, number);
                let writing = vec![TopicWriting::new(&topic(setup.on_bad_record)); topics];
                let worker = Worker::new(writer, worker, inbox, limits, writing, parking(), context(index));
                shard_workers.push(worker);
                shard_inboxes.push(chunks);
            }
            inboxes.push(shard_inboxes);
            workers.push(shard_workers);
            all_parked.push(parked);
        }
        let live = Arc::new(Live::new(Arc::new(config)));
        let ports = Ports {
            events,
            controls: requests,
            dispatcher: Dispatcher::new(inboxes, &paces, limits, setup.affinity, &vec![false; topics]),
            parked: all_parked,
            signals,
            observed: Arc::clone(&observed),
            waker,
            live: Arc::clone(&live),
        };
        let settings = settings(setup, topics, shards);
        let source = FakeSource::new(world.clone(), number);
        let poller = Poller::new(source, settings, router, ports, clock, rng.fork(), setup.rules);
        let (world, stopped) = (world.clone(), BTreeMap::new());
        Process {
            number,
            world,
            poller,
            workers,
            controls,
            slow_lanes,
            counters,
            live,
            held: (0, 0),
            stopped,
            finished: false,
        }
    }

    pub fn step_poller(&mut self) {
        match self.poller.step(Duration::ZERO) {
            Ok(Flow::Continue) => {}
            Ok(Flow::Finished) => self.finished = true,
            Err(stop) => panic!("p{} ended: {stop}", self.number),
        }
        let held = (self.counters.waiting.get() as usize, self.counters.in_flight.get() as usize);
        if held != self.held {
            self.held = held;
            let (process, (waiting, in_flight)) = (self.number, held);
            self.world.borrow_mut().happened(&Happening::Holds { process, waiting, in_flight });
        }
        for (name, reason) in self.poller.stopped() {
            let topic: u16 = name.trim_start_matches('t').parse().expect("topics are named by their number");
            let message = reason.to_string();
            if self.stopped.insert(topic, message.clone()).is_none() {
                self.world.borrow_mut().happened(&Happening::Stopped { process: self.number, topic, message });
            }
        }
    }

    /// Steps one worker of all shards'.
    pub fn step_worker(&mut self, index: usize) {
        let all: usize = self.workers.iter().map(Vec::len).sum();
        if let Some(worker) = self.workers.iter_mut().flatten().nth(index % all) {
            worker.step();
        }
    }

    pub fn step_control(&mut self, index: usize) {
        let all = self.controls.len();
        self.controls[index % all].step();
    }

    pub fn step_slow_lane(&mut self, index: usize) {
        let all = self.slow_lanes.len();
        self.slow_lanes[index % all].step();
    }

    /// Steps everything once.
    pub fn step_all(&mut self) {
        self.step_poller();
        for control in &mut self.controls {
            control.step();
        }
        for worker in self.workers.iter_mut().flatten() {
            worker.step();
        }
        for lane in &mut self.slow_lanes {
            lane.step();
        }
    }

    /// How often it paused a partition whose window was full.
    pub fn pauses(&self) -> u64 {
        self.counters.pauses.get()
    }

    /// As on SIGHUP, with other limits in the configuration.
    pub fn set_pace(&mut self, pace: &config::Pace, topic: Option<usize>, tenant: Option<usize>) {
        let mut config = Config::clone(&self.live.get());
        config.shards.iter_mut().for_each(|shard| shard.pace = pace.clone());
        config.topics.iter_mut().for_each(|of| of.rows_per_second_max = topic);
        config.tenant_ceilings.each = tenant;
        self.live.replace(Arc::new(config));
    }

    /// As on SIGTERM.
    pub fn close(&mut self) {
        self.poller.close();
    }
}

pub fn settings(setup: &Setup, topics: usize, shards: usize) -> Settings {
    let topic = |index| TopicSettings { name: format!("t{index}"), delivery: Delivery::ExactlyOnce };
    Settings {
        topics: (0..topics).map(topic).collect(),
        shards: (0..shards).map(|s| format!("s{s}")).collect(),
        gated: vec![false; shards],
        lanes: setup.lanes,
        window: Window { records_max: setup.window, bytes_max: 1 << 20 },
        commit_interval: COMMIT_INTERVAL,
        first_start: setup.first_start,
        locate_deadline: LOCATE_DEADLINE,
        revoke_deadline: REVOKE_DEADLINE,
        drain_deadline: DRAIN_DEADLINE,
        retry_min: RETRY_MIN,
        retry_max: RETRY_MAX,
        until_end: setup.until_end,
    }
}

/// A topic's configuration, as far as the router and the workers look at it.
fn topic(on_bad_record: OnBadRecord) -> config::Topic {
    let (name, target, delivery) = ("t0".into(), Target::Handler, Delivery::ExactlyOnce);
    config::Topic {
        name,
        target,
        delivery,
        on_bad_record,
        rows_per_second_max: None,
        parent_tries: PARENT_TRIES,
        forward_to: None,
    }
}

/// A configuration, as far as the router looks at one.
pub fn config(routing: ShardOf, shards: usize) -> Config {
    let declared = |shard: usize| match routing {
        ShardOf::Partition(n) => Some((0..64).filter(|p| *p as usize % n == shard).map(|p| p..=p).collect()),
        ShardOf::Only | ShardOf::KeyHash(_) => None,
    };
    let shard = |index: usize| config::Shard {
        name: format!("s{index}"),
        dsn: Secret(String::new()),
        partitions: declared(index),
        connect_timeout: Duration::ZERO,
        statement_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        connections_max: None,
        pace: config::Pace::default(),
        pooler: forebay::config::Pooler::None,
        commit_gate: None,
        connections_share_percent: 100,
    };
    let (by, tenant) = match routing {
        ShardOf::KeyHash(_) => (RouteBy::Hash, Tenant::Header(TENANT.into())),
        ShardOf::Only | ShardOf::Partition(_) => (RouteBy::Partition, Tenant::Key),
    };
    Config {
        file: PathBuf::new(),
        kafka: config::Kafka { group_id: "g".into(), first_start: FirstStart::Earliest, properties: BTreeMap::new() },
        engine: config::Engine {
            workers_per_shard: 1,
            lanes: 1,
            batch_records_max: 1,
            batch_bytes_max: 1,
            delivery: Delivery::ExactlyOnce,
            affinity: Affinity::Late,
            cores: Vec::new(),
            poller_core: None,
            kafka_cores: None,
            other_cores: None,
            commit_interval: COMMIT_INTERVAL,
            manage_schema: true,
            partition_records_max: 1,
            partition_bytes_max: 1,
            drain_deadline: DRAIN_DEADLINE,
            revoke_deadline: REVOKE_DEADLINE,
            locate_deadline: LOCATE_DEADLINE,
            retry_backoff_min: RETRY_MIN,
            retry_backoff_max: RETRY_MAX,
            slow_lanes_per_shard: 1,
            park_after: Duration::ZERO,
            parking: ParkingLimits { records_max: 1, key_records_max: 1 },
            hot_keys: HOT_KEYS,
            contention_interval: None,
        },
        admin: config::Admin::default(),
        shards: (0..shards).map(shard).collect(),
        routing: Routing { by, tenant, delimiter: ":".into() },
        ingest: None,
        tenant_ceilings: TenantCeilings::default(),
        topics: vec![topic(OnBadRecord::Stop)],
        readings: Readings::default(),
    }
}
