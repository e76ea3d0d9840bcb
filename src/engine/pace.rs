//! One shard's pace, shared by its workers and slow lanes (here all are workers, slow lanes the last ones), its control thread and the poller. What is decided, [`state::pace`](crate::state::pace)
//! decides; this is the lock around it, taken twice per batch and not at all while nothing is limited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::{Clock, SystemClock};
use crate::config::TenantCeilings;
use crate::metrics::{Counter, Counters};
use crate::sink::Failure;
use crate::state::bucket::Bucket;
use crate::state::pace::{Active, Ask, Limit, Limits, Pacing, Said, Tried, Turn};
use crate::state::replica::{Position, ReplayLag};
use crate::state::tenant_pace::{Tally, TenantHash, TenantPace};
use crate::types::TopicIx;

/// How much a shard's workers should have under a ceiling: what they can write in this time. It bounds how long draining takes.
const AHEAD: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct Pace {
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    /// Nothing is limited.
    free: AtomicBool,
    /// Copies of what the decisions say, for the poller.
    connections: AtomicUsize,
    ahead: AtomicUsize,
    inner: Mutex<Inner>,
    /// No tenant has a ceiling.
    tenants_free: AtomicBool,
    tenants: Mutex<TenantPace>,
    /// By topic: rows that slow lanes wrote, and for which its ceiling in front of the workers has not paid yet.
    slow_rows: Vec<AtomicUsize>,
    /// By worker: something changed, and it is its turn.
    turns: Vec<Condvar>,
}

struct Inner {
    pacing: Pacing,
    /// By topic: the slow lanes' part of its ceiling.
    slow: Vec<Option<Bucket>>,
    replay: ReplayLag,
    lag: Option<Duration>,
}

impl Inner {
    /// Of a topic's ceiling slow lanes have half, so that what was parked does not hold up what arrives.
    fn set_slow(&mut self, limits: &Limits, now: Duration) {
        for (bucket, rate) in self.slow.iter_mut().zip(&limits.topics) {
            Bucket::set(bucket, rate.map(|rate| (rate / 2).max(1)), now);
        }
    }
}

/// What holds a shard's workers back, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct PaceStatus {
    /// The limits that make workers wait now, and for how long they have been.
    pub active: Vec<Active>,
    /// Connections that may be at work; below one: for that part of the time.
    pub connections: f64,
    pub batch_records_max: usize,
    /// As of the last look; none without a replica that is named and there.
    pub replica_lag: Option<Duration>,
    pub limits: Limits,
}

/// What there is to say about a shard's pace.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// And how it stood then.
    Limit(Said, PaceStatus),
    /// Whoever is to be waited for cannot be seen, and why.
    NoReplica { name: String, why: String },
    /// It can be seen again.
    Replica { name: String },
}

impl Said {
    /// For people. `topic` names topics.
    pub fn text<'t>(&self, status: &PaceStatus, topic: impl Fn(TopicIx) -> &'t str) -> String {
        let name = |limit: &Limit| match limit {
            Limit::ShardRows => "rows_per_second_max".to_owned(),
            Limit::TopicRows(index) => format!("rows_per_second_max of topic {}", topic(*index)),
            Limit::TenantRows => "tenant_rows_per_second_max".to_owned(),
            Limit::Latency => "adaptive_limit".to_owned(),
            Limit::Replica => "replica_lag_max_ms".to_owned(),
        };
        match self {
            Said::HeldFor(limit, time) => {
                format!("not held back by {} any more, after {} s", name(limit), time.as_secs())
            }
            Said::Holds(limit) => {
                let what = match limit {
                    Limit::ShardRows => rows_text(status.limits.shard.rows_per_second_max),
                    Limit::TopicRows(index) => rows_text(status.limits.topics[usize::from(index.0)]),
                    Limit::TenantRows => "what tenants send above it is parked".to_owned(),
                    Limit::Latency => format!("{:.2} connections at work", status.connections),
                    Limit::Replica => {
                        let lag = status.replica_lag.unwrap_or_default();
                        format!("{} ms behind; {:.2} connections at work", lag.as_millis(), status.connections)
                    }
                };
                format!("held back by {} ({what})", name(limit))
            }
        }
    }
}

/// Tenants' ceilings, for as long as a batch is sorted: nobody else sorts meanwhile.
pub struct Tenants<'p> {
    now: Duration,
    pace: MutexGuard<'p, TenantPace>,
}

impl Tenants<'_> {
    /// See [`TenantPace::goes`].
    pub fn goes(&mut self, tenant: TenantHash, tally: &mut Tally) -> bool {
        self.pace.goes(tenant, tally, self.now)
    }

    /// See [`TenantPace::turn`].
    pub fn turn(
        &mut self,
        tenant: TenantHash,
        records: usize,
        told: bool,
        tally: &mut Tally,
    ) -> Result<usize, Duration> {
        self.pace.turn(tenant, records, told, tally, self.now)
    }

    /// See [`TenantPace::piece_max`].
    pub fn piece_max(&self) -> usize {
        self.pace.piece_max()
    }

    /// These were applied.
    pub fn applied(&mut self, tally: &Tally) {
        self.pace.applied(tally, self.now);
    }
}

impl From<&Failure> for Tried {
    fn from(failure: &Failure) -> Tried {
        match failure {
            Failure::Outage(_) => Tried::Unknown,
            Failure::TooLong(_) => Tried::TimedOut,
            _ => Tried::Nothing,
        }
    }
}

fn rows_text(rows: Option<usize>) -> String {
    format!("{} rows/s", rows.unwrap_or_default())
}

impl Pace {
    pub fn new(
        limits: Limits,
        workers: usize,
        batch_records_max: usize,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Pace {
        let topics = limits.topics.len();
        let pacing = Pacing::new(limits.clone(), workers, batch_records_max, clock.now());
        let pace = Pace {
            clock,
            counters,
            free: AtomicBool::new(true),
            connections: AtomicUsize::new(workers),
            ahead: AtomicUsize::new(usize::MAX),
            inner: Mutex::new(Inner { pacing, slow: vec![None; topics], replay: ReplayLag::default(), lag: None }),
            slow_rows: (0..topics).map(|_| AtomicUsize::new(0)).collect(),
            tenants_free: AtomicBool::new(true),
            tenants: Mutex::default(),
            turns: (0..workers).map(|_| Condvar::new()).collect(),
        };
        pace.set(limits);
        pace
    }

    /// Nothing is limited, yet.
    pub fn unlimited(workers: usize, topics: usize) -> Pace {
        let limits = Limits { topics: vec![None; topics], ..Limits::default() };
        Pace::new(limits, workers, 1, Arc::new(SystemClock::new()), Arc::default())
    }

    /// Other limits from now on, for those who wait, too.
    pub fn set(&self, limits: Limits) {
        self.set_tenants(&limits.tenants);
        let mut inner = self.inner.lock();
        if limits.shard.replica != inner.pacing.limits().shard.replica {
            (inner.replay, inner.lag) = (ReplayLag::default(), None);
        }
        inner.set_slow(&limits, self.clock.now());
        inner.pacing.set(limits, self.clock.now());
        self.publish(&inner.pacing);
        for turn in &self.turns {
            turn.notify_one();
        }
    }

    fn set_tenants(&self, ceilings: &TenantCeilings) {
        self.tenants.lock().set(ceilings, self.clock.now());
        self.tenants_free.store(*ceilings == TenantCeilings::default(), Ordering::Relaxed);
    }

    /// In front of a try: may it be made, and with how many of the records. Who may not asks again.
    pub fn ask(&self, ask: Ask) -> Turn {
        if self.free.load(Ordering::Relaxed) {
            return Turn::Now { records: ask.records, waited: None };
        }
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        let turn = inner.pacing.ask(ask, now);
        if let Turn::Now { waited, .. } = turn {
            if let Some((by, waited)) = waited {
                self.counter(by).add(waited.as_micros() as u64);
            }
            self.call_next(&inner.pacing);
        }
        turn
    }

    /// Behind a try.
    pub fn tried(&self, worker: u16, tried: Tried) {
        if self.free.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        inner.pacing.tried(worker, tried, now);
        self.publish(&inner.pacing);
        self.call_next(&inner.pacing);
    }

    /// A worker gives its batch back, or wants to write another piece of it: it waits for nothing any more, and what it was
    /// granted and did not try is there for others.
    pub fn leave(&self, worker: u16) {
        if !self.free.load(Ordering::Relaxed) {
            let mut inner = self.inner.lock();
            inner.pacing.leave(worker);
            self.call_next(&inner.pacing);
        }
    }

    /// Waits until it may be this worker's turn, at most so long. False at once where it waits for something else.
    pub fn wait(&self, worker: u16, at_most: Duration) -> bool {
        if self.free.load(Ordering::Relaxed) {
            return false;
        }
        let mut inner = self.inner.lock();
        let Some(news) = inner.pacing.waits(worker) else { return false };
        if !news {
            self.turns[usize::from(worker)].wait_for(&mut inner, at_most);
        }
        true
    }

    /// The first workers of the shard, so many, may work at once: others need no new lanes.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// So many records at the shard's workers are enough.
    pub fn ahead(&self) -> usize {
        self.ahead.load(Ordering::Relaxed)
    }

    /// The replica that is to be looked at.
    pub fn replica(&self) -> Option<String> {
        if self.free.load(Ordering::Relaxed) {
            return None;
        }
        self.inner.lock().pacing.limits().shard.replica.as_ref().map(|replica| replica.name.clone())
    }

    /// What a look at the replica found; none: it is not there, or nobody knows.
    pub fn looked_at_replica(&self, position: Option<Position>) {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        let lag = position.map(|position| inner.replay.seen(position, now));
        if lag.is_none() {
            inner.replay = ReplayLag::default();
        }
        inner.lag = lag;
        inner.pacing.looked_at_replica(lag);
        self.publish(&inner.pacing);
        self.call_next(&inner.pacing);
    }

    /// By topic: its ceiling.
    pub fn topic_rates(&self) -> Vec<Option<usize>> {
        self.inner.lock().pacing.limits().topics.clone()
    }

    /// A topic's ceiling holds records back at the poller; `waited`: so much longer than when it was said last.
    pub fn topic_held(&self, topic: TopicIx, waited: Duration) {
        self.counters.held_by_topic_rows_us.add(waited.as_micros() as u64);
        self.inner.lock().pacing.held_elsewhere(Limit::TopicRows(topic), self.clock.now());
    }

    /// By topic, how long slow lanes write nothing of it; nothing where no topic has a ceiling.
    pub fn slow_rests(&self) -> Vec<Duration> {
        let mut inner = self.inner.lock();
        if inner.slow.iter().all(Option::is_none) {
            return Vec::new();
        }
        let now = self.clock.now();
        let rest = |bucket: &mut Option<Bucket>| bucket.as_mut().and_then(|b| b.wait(usize::MAX, now));
        inner.slow.iter_mut().map(|bucket| rest(bucket).unwrap_or_default()).collect()
    }

    /// How many rows of a topic slow lanes write at once at most.
    pub fn slow_piece(&self, topic: TopicIx) -> usize {
        let inner = self.inner.lock();
        inner.slow[usize::from(topic.0)].as_ref().map_or(usize::MAX, |bucket| bucket.piece(usize::MAX))
    }

    /// Slow lanes wrote so many rows of a topic.
    pub fn slowly_wrote(&self, topic: TopicIx, rows: usize) {
        if let Some(bucket) = &mut self.inner.lock().slow[usize::from(topic.0)] {
            bucket.take(rows);
            self.slow_rows[usize::from(topic.0)].fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// What slow lanes wrote of a topic since this was asked last.
    pub fn take_slow_rows(&self, topic: TopicIx) -> usize {
        let rows = &self.slow_rows[usize::from(topic.0)];
        if rows.load(Ordering::Relaxed) == 0 { 0 } else { rows.swap(0, Ordering::Relaxed) }
    }

    /// Whether some tenant has a ceiling.
    pub fn paces_tenants(&self) -> bool {
        !self.tenants_free.load(Ordering::Relaxed)
    }

    /// None where no tenant has a ceiling.
    pub fn tenants(&self) -> Option<Tenants<'_>> {
        self.paces_tenants().then(|| Tenants { now: self.clock.now(), pace: self.tenants.lock() })
    }

    /// Records that are parked wait for their tenants' ceilings still.
    pub fn tenants_wait(&self) {
        self.inner.lock().pacing.held_elsewhere(Limit::TenantRows, self.clock.now());
    }

    /// So many records were parked because their tenants are over their ceilings.
    pub fn tenants_held(&self, records: u64) {
        if records > 0 {
            self.counters.held_by_tenant_rows.add(records);
            self.tenants_wait();
        }
    }

    /// What there is to say since the last time.
    pub fn said(&self) -> Vec<Said> {
        self.inner.lock().pacing.said(self.clock.now())
    }

    pub fn status(&self) -> PaceStatus {
        let inner = self.inner.lock();
        PaceStatus {
            active: inner.pacing.active(self.clock.now()),
            connections: inner.pacing.limit(),
            batch_records_max: inner.pacing.batch_records(),
            replica_lag: inner.lag,
            limits: inner.pacing.limits().clone(),
        }
    }

    fn counter(&self, limit: Limit) -> &Counter {
        match limit {
            Limit::ShardRows => &self.counters.held_by_shard_rows_us,
            Limit::TopicRows(_) => &self.counters.held_by_topic_rows_us,
            Limit::TenantRows => unreachable!("nobody waits for a tenant's ceiling: its records are parked"),
            Limit::Latency => &self.counters.held_by_latency_us,
            Limit::Replica => &self.counters.held_by_replica_us,
        }
    }

    fn publish(&self, pacing: &Pacing) {
        let rows = pacing.limits().shard.rows_per_second_max;
        self.ahead.store(rows.map_or(usize::MAX, |rows| rows * AHEAD.as_secs() as usize), Ordering::Relaxed);
        self.connections.store(pacing.connections(), Ordering::Relaxed);
        self.free.store(pacing.limits().none(), Ordering::Relaxed);
    }

    /// Only one is woken: the others could do nothing but wait again.
    fn call_next(&self, pacing: &Pacing) {
        if let Some(worker) = pacing.next() {
            self.turns[usize::from(worker)].notify_one();
        }
    }
}
