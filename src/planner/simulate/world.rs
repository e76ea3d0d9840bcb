//! The simulated world: partitions with what waits in them, processes with the engine's dispatchers, databases that take their time.

mod node;
mod part;
mod watch;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::engine::worker::BatchLimits;
use crate::planner::PlanError;
use crate::planner::limits::Fixed;
use crate::planner::rates::Rates;
use crate::planner::simulate::Setup;
use crate::planner::simulate::outcome::Outcome;
use crate::planner::simulate::scenario::{Lost, REBALANCE_S, Scenario};
use crate::planner::simulate::shares::Senders;
use crate::planner::write;
use crate::state::chunk::RawRecord;
use crate::state::placement::Placement;
use crate::state::retry::Backoff;
use crate::state::router::Router;
use crate::types::Offset;

use node::Node;
use part::Part;
use watch::Watch;

/// Between two moments that are noted.
const SAMPLE_US: u64 = 1_000_000;
/// A partition whose last owner still has records of it is asked about again.
const ASK_AGAIN_US: u64 = 50_000;
/// So far ahead of what a process takes in it may be: it fetches some records at a time.
const AHEAD_US: f64 = 10_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A worker of a node has its answer.
    Done {
        node: usize,
        worker: usize,
    },
    ShardLost,
    ShardBack,
    ProcessGoes(usize),
    ProcessBack(usize),
    /// A partition has an owner.
    Owned {
        partition: usize,
        process: usize,
    },
    /// A process has taken in what it had.
    Fetches(usize),
    Look,
}

/// What takes in the records of a process.
#[derive(Debug, Clone, Default)]
struct Poller {
    /// With what it has taken.
    busy_until_us: f64,
    /// Something waits for it, in a partition or more.
    left: bool,
    /// It will be asked again.
    planned: bool,
    /// The partition that is next, so that each has its turn.
    from: usize,
}

/// A database.
#[derive(Debug, Clone, Default)]
struct Database {
    away: bool,
    /// Connections with a transaction under way.
    at_work: usize,
    /// Transactions whose answer did not come: nodes and workers.
    stalled: Vec<(usize, usize)>,
}

/// See the module's text.
pub struct World {
    rates: Rates,
    fixed: Fixed,
    scenario: Scenario,
    shards: usize,
    weight: u64,
    rng: fastrand::Rng,
    senders: Senders,
    /// A tenant's shard, and the partition that producers choose.
    router: Router,
    placement: Placement,
    now_us: u64,
    /// When the next record comes: in parts of a microsecond, or hundreds of thousands a second would be too many.
    next_us: f64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Of events of one moment, the first to be planned is the first to happen.
    planned: u64,
    partitions: Vec<Part>,
    /// By partition, as the group has dealt them out.
    assigned: Vec<Option<usize>>,
    pollers: Vec<Poller>,
    /// Records a microsecond that a process takes in.
    per_us: f64,
    /// By process, then by shard.
    nodes: Vec<Node>,
    databases: Vec<Database>,
    alive: Vec<bool>,
    key: String,
    watch: Watch,
    over: bool,
}

impl World {
    /// # Errors
    /// [`PlanError`] where the plan's configuration is not valid: a defect.
    pub fn new(setup: &Setup<'_>, scenario: &Scenario) -> Result<World, PlanError> {
        let (plan, weight) = (setup.plan, scenario.weight);
        let batch = (plan.batch_records_max as u64 / weight).max(1) as usize;
        let limits = BatchLimits { records_max: batch, bytes_max: usize::MAX };
        let window = (plan.partition_bytes_max as f64 / setup.wish.record_bytes.max(1.0)) as u64;
        let window = window.min(setup.fixed.partition_records_max as u64) / weight;
        let (shards, processes, partitions) = (plan.shards, plan.processes, plan.partitions);
        let router = router(setup)?;
        let node = |_| Node::new(plan.workers_per_shard, limits, setup.fixed.affinity);
        let mut world = World {
            rates: setup.rates.clone(),
            fixed: setup.fixed.clone(),
            scenario: scenario.clone(),
            shards,
            weight,
            rng: fastrand::Rng::with_seed(setup.seed),
            senders: Senders::new(setup.tenants, setup.skew, scenario.hot_share),
            placement: Placement::new(&router, partitions as i32),
            router,
            now_us: 0,
            next_us: 0.0,
            events: BinaryHeap::new(),
            planned: 0,
            partitions: (0..partitions)
                .map(|i| Part::new(i, i / plan.partitions_per_shard, plan.lanes, window.max(2) as usize))
                .collect(),
            assigned: vec![None; partitions],
            pollers: vec![Poller::default(); processes],
            per_us: setup.wish.process_rows_per_s / 1e6,
            nodes: (0..shards * processes).map(node).collect(),
            databases: vec![Database::default(); shards],
            alive: vec![true; processes],
            key: String::new(),
            watch: Watch::new(shards, partitions, weight),
            over: false,
        };
        let owners = world.fixed.assignor.assign(&world.assigned, &world.alive);
        for (partition, process) in owners.into_iter().enumerate() {
            world.assigned[partition] = Some(process);
            world.partitions[partition].take_over(process);
        }
        world.plan_trouble();
        world.plan(SAMPLE_US, Event::Look);
        world.next_us = world.next_arrival();
        Ok(world)
    }

    pub fn seconds(&self) -> f64 {
        self.now_us as f64 / 1e6
    }

    pub fn outcome(self) -> Outcome {
        self.watch.outcome(&self.scenario, self.now_us)
    }

    /// A little of it; false at the end.
    pub fn step(&mut self) -> bool {
        for _ in 0..1000 {
            if self.over {
                return false;
            }
            match self.events.peek() {
                Some(Reverse((at, _, _))) if *at as f64 <= self.next_us => {
                    let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
                    self.now_us = at;
                    self.happen(event);
                }
                _ => {
                    self.now_us = self.next_us as u64;
                    self.arrive();
                    self.next_us = self.next_arrival();
                }
            }
        }
        true
    }

    fn plan(&mut self, at_us: u64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at_us, self.planned, event)));
    }

    fn plan_trouble(&mut self) {
        let us = |s: f64| (s * 1e6) as u64;
        if let Some(Lost { from_s, to_s, backoff_max }) = self.scenario.lost {
            // It is found again by whoever probes it.
            let mut backoff = Backoff::new(self.fixed.retry_backoff_min, backoff_max);
            let mut found = from_s;
            while found < to_s {
                found += backoff.next(self.rng.f64()).as_secs_f64();
            }
            self.plan(us(from_s), Event::ShardLost);
            self.plan(us(found), Event::ShardBack);
        }
        let restarts = self.scenario.restarts.clone();
        for (process, (at, takes)) in restarts.into_iter().enumerate() {
            self.plan(us(at), Event::ProcessGoes(process));
            self.plan(us(at + takes), Event::ProcessBack(process));
        }
    }

    /// Poisson: what passes until the next one is exponential. The rate is that of now: it changes seldom.
    fn next_arrival(&mut self) -> f64 {
        let per_s = self.scenario.rate(self.next_us / 1e6) / self.weight as f64;
        let wait = -(1.0 - self.rng.f64()).ln() / per_s.max(1e-9);
        self.next_us + (wait * 1e6).min(3.6e9)
    }

    /// A record comes.
    fn arrive(&mut self) {
        let mut key = std::mem::take(&mut self.key);
        let trouble = self.scenario.hot_share > 0.0 && self.in_trouble();
        self.senders.key(&mut self.rng, trouble, &mut key);
        let raw =
            RawRecord { offset: Offset(0), timestamp_ms: -1, key: Some(key.as_bytes()), value: None, headers: &[] };
        let hash = raw.key_hash();
        let Ok(place) = self.placement.place(&self.router, &raw) else { unreachable!("every shard has partitions") };
        let (partition, shard) = (place.partition as usize, usize::from(place.shard.0));
        let aligned = self.router.is_aligned(place.partition, place.shard) && self.partitions[partition].shard == shard;
        self.watch.came(shard, partition, aligned, self.in_trouble());
        self.partitions[partition].append(self.now_us, hash);
        self.key = key;
        self.fetch(partition);
    }

    fn in_trouble(&self) -> bool {
        let at = self.seconds();
        at >= self.scenario.rates[0].0 && at < self.scenario.trouble_ends
    }

    /// What waits in a partition goes to its owner, as far as its window and its poller let it.
    fn fetch(&mut self, partition: usize) {
        let Some(process) = self.partitions[partition].owner else { return };
        let room = self.room(process);
        let part = &mut self.partitions[partition];
        let node = process * self.shards + part.shard;
        let taken = if room > 0 { self.nodes[node].take(part, self.now_us, room) } else { 0 };
        let poller = &mut self.pollers[process];
        let began = poller.busy_until_us.max(self.now_us as f64);
        poller.busy_until_us = began + (taken as u64 * self.weight) as f64 / self.per_us;
        if taken == room {
            (poller.left, poller.from) = (true, partition + 1);
            // That it is asked again.
            self.room(process);
        }
        if taken > 0 && self.nodes[node].idles() {
            self.start(node);
        }
    }

    /// Simulated records that a process may take now. Where it is not its workers that have enough, it is asked again.
    fn room(&mut self, process: usize) -> usize {
        let nodes = process * self.shards..(process + 1) * self.shards;
        if self.nodes[nodes].iter().all(Node::is_congested) {
            return 0;
        }
        let poller = &mut self.pollers[process];
        let now = self.now_us as f64;
        let room = ((now + AHEAD_US - poller.busy_until_us.max(now)) * self.per_us) as usize / self.weight as usize;
        if room > 0 || poller.busy_until_us <= now {
            return room.max(1);
        }
        if !std::mem::replace(&mut poller.planned, true) {
            let at = poller.busy_until_us as u64;
            self.plan(at.max(self.now_us + 1), Event::Fetches(process));
        }
        0
    }

    /// What waits for a process, from the partition on where it ended.
    fn fetch_all(&mut self, process: usize) {
        let (from, all) = (self.pollers[process].from, self.partitions.len());
        self.pollers[process].left = false;
        for partition in (from..all).chain(0..from) {
            if self.partitions[partition].owner == Some(process) {
                self.fetch(partition);
            }
            if self.pollers[process].left && self.room(process) == 0 {
                return;
            }
        }
    }

    /// Workers without a batch take one.
    fn start(&mut self, node: usize) {
        let shard = node % self.shards;
        for worker in self.nodes[node].begin(self.now_us) {
            self.databases[shard].at_work += 1;
            self.answer(node, worker);
        }
    }

    /// When a transaction is answered: by how many are under way in its database as it begins.
    fn answer(&mut self, node: usize, worker: usize) {
        let database = &mut self.databases[node % self.shards];
        if database.away {
            database.stalled.push((node, worker));
            return;
        }
        let records = self.nodes[node].batch_len(worker) as u64 * self.weight;
        let takes = self.rates.transaction_s(records as f64, database.at_work as f64);
        self.plan(self.now_us + ((takes * 1e6) as u64).max(1), Event::Done { node, worker });
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Done { node, worker } => self.done(node, worker),
            Event::ShardLost => self.databases[0].away = true,
            Event::ShardBack => {
                self.databases[0].away = false;
                let stalled = std::mem::take(&mut self.databases[0].stalled);
                stalled.into_iter().for_each(|(node, worker)| self.answer(node, worker));
            }
            Event::ProcessGoes(process) => self.goes(process),
            Event::ProcessBack(process) => self.comes_back(process),
            Event::Owned { partition, process } => self.owned(partition, process),
            Event::Fetches(process) => {
                self.pollers[process].planned = false;
                self.fetch_all(process);
            }
            Event::Look => self.look(),
        }
    }

    fn done(&mut self, node: usize, worker: usize) {
        let shard = node % self.shards;
        if self.databases[shard].away {
            self.databases[shard].stalled.push((node, worker));
            return;
        }
        self.databases[shard].at_work -= 1;
        let records = self.nodes[node].batch_len(worker);
        self.watch.transaction(records);
        let touched = self.nodes[node].end(worker, &mut self.partitions, self.now_us);
        for partition in touched {
            self.partitions[partition].forget();
            self.fetch(partition);
        }
        self.start(node);
        let process = node / self.shards;
        if self.pollers[process].left && !self.pollers[process].planned && self.room(process) > 0 {
            self.fetch_all(process);
        }
    }

    /// A process drains and leaves.
    fn goes(&mut self, process: usize) {
        self.alive[process] = false;
        self.rebalance();
    }

    fn comes_back(&mut self, process: usize) {
        self.alive[process] = true;
        self.rebalance();
    }

    /// The group deals partitions out anew. Those that move stand still for it; with an eager assignor all do.
    fn rebalance(&mut self) {
        if !self.alive.contains(&true) {
            self.assigned.fill(None);
            self.partitions.iter_mut().for_each(|part| part.owner = None);
            return;
        }
        let assignor = self.fixed.assignor;
        let owners = assignor.assign(&self.assigned, &self.alive);
        for (partition, process) in owners.into_iter().enumerate() {
            let stays = self.assigned[partition].replace(process) == Some(process);
            if stays && !assignor.is_eager() {
                continue;
            }
            self.partitions[partition].owner = None;
            self.plan(self.now_us + (REBALANCE_S * 1e6) as u64, Event::Owned { partition, process });
        }
    }

    /// Once nobody before has records of it any more. One that has moved on meanwhile is another's.
    fn owned(&mut self, partition: usize, process: usize) {
        if self.assigned[partition] != Some(process) || self.partitions[partition].owner.is_some() {
            return;
        }
        if self.partitions[partition].in_flight() > 0 {
            self.plan(self.now_us + ASK_AGAIN_US, Event::Owned { partition, process });
            return;
        }
        self.partitions[partition].take_over(process);
        self.fetch(partition);
    }

    fn look(&mut self) {
        let at_work: usize = self.databases.iter().map(|database| database.at_work).sum();
        self.watch.look(&self.partitions, self.now_us, at_work);
        let calm = self.watch.is_calm_since(&self.scenario);
        self.over = self.seconds() >= self.scenario.seconds_max || calm.is_some_and(|s| s > 10.0 && self.is_done());
        self.plan(self.now_us + SAMPLE_US, Event::Look);
    }

    fn is_done(&self) -> bool {
        self.seconds() > self.scenario.trouble_ends + 15.0
    }
}

/// The plan's own sharding: tenants by their hash, partitions as they are declared.
fn router(setup: &Setup<'_>) -> Result<Router, PlanError> {
    let text = write::configuration(&write::Present::default(), setup.plan)?;
    Ok(Router::new(&write::parse(&text)?.config))
}
