//! The simulated world: partitions with what waits in them, processes with the engine's dispatchers, databases that take their time.

mod node;
mod part;
mod watch;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::engine::worker::BatchLimits;
use crate::planner::PlanError;
use crate::planner::plan::Plan;
use crate::planner::rates::Rates;
use crate::planner::simulate::Setup;
use crate::planner::simulate::outcome::Outcome;
use crate::planner::simulate::scenario::{Lost, REBALANCE_S, Scenario};
use crate::planner::simulate::shares::Senders;
use crate::planner::write;
use crate::state::chunk::RawRecord;
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
/// The settings' defaults.
const PARTITION_RECORDS_MAX: u64 = 20_000;
const RETRY_MIN: Duration = Duration::from_millis(50);

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
    Look,
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
    scenario: Scenario,
    shards: usize,
    weight: u64,
    rng: fastrand::Rng,
    senders: Senders,
    /// The producers' side: a tenant's shard, among those of the plan.
    placing: Router,
    /// The other side: where databases were split, a partition's shard is another one.
    router: Router,
    now_us: u64,
    /// When the next record comes.
    next_us: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Of events of one moment, the first to be planned is the first to happen.
    planned: u64,
    partitions: Vec<Part>,
    /// Partitions of each shard, as producers know it.
    placed: usize,
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
        let window = setup.wish.record_bytes.max(1.0);
        let window = ((plan.partition_bytes_max as f64 / window) as u64).min(PARTITION_RECORDS_MAX) / weight;
        let (shards, processes) = (scenario.shards, plan.processes);
        let partitions = shards * scenario.partitions_per_shard;
        let mut world = World {
            rates: setup.rates.clone(),
            scenario: scenario.clone(),
            shards,
            weight,
            rng: fastrand::Rng::with_seed(setup.seed),
            senders: Senders::new(setup.tenants, setup.skew, scenario.hot_share),
            placing: placing(setup)?,
            router: routing(setup, scenario)?,
            placed: setup.plan.partitions_per_shard,
            now_us: 0,
            next_us: 0,
            events: BinaryHeap::new(),
            planned: 0,
            partitions: (0..partitions)
                .map(|i| Part::new(i, i / scenario.partitions_per_shard, plan.lanes, window.max(2) as usize))
                .collect(),
            nodes: (0..shards * processes).map(|_| Node::new(plan.workers_per_shard, limits)).collect(),
            databases: vec![Database::default(); shards],
            alive: vec![true; processes],
            key: String::new(),
            watch: Watch::new(shards, partitions, weight),
            over: false,
        };
        for i in 0..partitions {
            world.partitions[i].take_over(i % processes);
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
                Some(Reverse((at, _, _))) if *at <= self.next_us => {
                    let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
                    self.now_us = at;
                    self.happen(event);
                }
                _ => {
                    self.now_us = self.next_us;
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
            let mut backoff = Backoff::new(RETRY_MIN, backoff_max);
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
    fn next_arrival(&mut self) -> u64 {
        let per_s = self.scenario.rate(self.seconds()) / self.weight as f64;
        let wait = -(1.0 - self.rng.f64()).ln() / per_s.max(1e-9);
        self.now_us + ((wait * 1e6) as u64).clamp(1, 3_600_000_000)
    }

    /// A record comes.
    fn arrive(&mut self) {
        let mut key = std::mem::take(&mut self.key);
        let trouble = self.scenario.hot_share > 0.0 && self.in_trouble();
        self.senders.key(&mut self.rng, trouble, &mut key);
        let raw =
            RawRecord { offset: Offset(0), timestamp_ms: -1, key: Some(key.as_bytes()), value: None, headers: &[] };
        let hash = raw.key_hash();
        let Ok(home) = self.placing.route(0, &raw) else { unreachable!("every key names its tenant") };
        // Not what the lane is made of.
        let partition = usize::from(home.0) * self.placed + (hash as u64 >> 32) as usize % self.placed;
        let aligned = self.placing.is_aligned(partition as i32, home);
        let Ok(shard) = self.router.route(partition as i32, &raw) else { unreachable!("every partition is declared") };
        self.watch.came(usize::from(shard.0), partition, aligned, self.in_trouble());
        self.partitions[partition].append(self.now_us, hash);
        self.key = key;
        self.fetch(partition);
    }

    fn in_trouble(&self) -> bool {
        let at = self.seconds();
        at >= self.scenario.rates[0].0 && at < self.scenario.trouble_ends
    }

    /// What waits in a partition goes to its owner, as far as its window lets it.
    fn fetch(&mut self, partition: usize) {
        let part = &mut self.partitions[partition];
        let Some(process) = part.owner else { return };
        let node = process * self.shards + part.shard;
        if self.nodes[node].take(part, self.now_us) && self.nodes[node].idles() {
            self.start(node);
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
    }

    /// A process drains and leaves; others get its partitions, each whoever has fewest.
    fn goes(&mut self, process: usize) {
        self.alive[process] = false;
        let mut has = vec![0usize; self.alive.len()];
        self.partitions.iter().filter_map(|part| part.owner).for_each(|owner| has[owner] += 1);
        for partition in 0..self.partitions.len() {
            if self.partitions[partition].owner != Some(process) {
                continue;
            }
            self.partitions[partition].owner = None;
            let others = (0..self.alive.len()).filter(|other| self.alive[*other]);
            let Some(next) = others.min_by_key(|other| has[*other]) else { continue };
            has[next] += 1;
            self.plan(self.now_us + (REBALANCE_S * 1e6) as u64, Event::Owned { partition, process: next });
        }
    }

    /// It gets back what it had.
    fn comes_back(&mut self, process: usize) {
        self.alive[process] = true;
        let processes = self.alive.len();
        for partition in (process..self.partitions.len()).step_by(processes) {
            self.partitions[partition].owner = None;
            self.plan(self.now_us + (REBALANCE_S * 1e6) as u64, Event::Owned { partition, process });
        }
    }

    /// Once nobody before has records of it any more. One that has moved on meanwhile is another's.
    fn owned(&mut self, partition: usize, process: usize) {
        if !self.alive[process] || self.partitions[partition].owner.is_some() {
            // Its only owner went: whoever comes back takes it.
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
fn placing(setup: &Setup<'_>) -> Result<Router, PlanError> {
    let text = write::configuration(&write::Present::default(), setup.plan)?;
    Ok(Router::new(&write::parse(&text)?.config))
}

/// The same partitions, next to each other, dealt out over the databases that there are.
fn routing(setup: &Setup<'_>, scenario: &Scenario) -> Result<Router, PlanError> {
    let (shards, partitions_per_shard) = (scenario.shards, scenario.partitions_per_shard);
    let plan = Plan { shards, partitions_per_shard, ..setup.plan.clone() };
    let text = write::configuration(&write::Present::default(), &plan)?;
    // Without a function of tenants, the partition decides.
    let by_partition = text.replace("by = \"hash\"", "by = \"partition\"").replace("tenant = \"key:0\"\n", "");
    Ok(Router::new(&write::parse(&by_partition)?.config))
}
