//! The slow lane: one thread, one shard, one connection. It applies parked records, each key in order, and takes them out. Keys
//! that still cannot go on wait by themselves, with growing pauses, and keep nobody else. Never says that a key is free: it only
//! says that it saw nothing of it any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, OnBadRecord, Then};
use crate::engine::Rules;
use crate::engine::control::LoopContext;
use crate::engine::event::{Doing, Event};
use crate::engine::hot_keys::HotKeys;
use crate::engine::observed::{AtWork, Observed};
use crate::engine::pace::Pace;
use crate::engine::parked::{Claim, ClaimedKey, Parked};
use crate::engine::report::Reporter;
use crate::engine::worker::{BatchLimits, Next, Parking, Signals, cause};
use crate::metrics::labelled::Outcome;
use crate::sink::{Drain, DrainLimits, Drained, Failure, ParkedRecord, Reason, SlowLane, Waiting};
use crate::state::holds::Holds;
use crate::state::pace::{Ask, Tried, Turn};
use crate::state::parked::Told;
use crate::state::retry::{Backoff, Trying};
use crate::state::router::Router;
use crate::state::tenant_pace::Tally;
use crate::state::tolerance::Tolerance;
use crate::types::{KeyHash, TopicIx};

/// Keys that one transaction takes.
const KEYS_MAX: usize = 64;
/// Rows taken out after which the table is tidied up: autovacuum comes once a minute at best, and until then a queue that moves
/// leaves its dead rows where its head is looked for.
const TIDY_AFTER: u64 = 100_000;
/// Least wait while the shard's breaker is open.
const BARRED: Duration = Duration::from_millis(10);
const BUSY: Duration = Duration::from_millis(100);
/// How long the thread waits at most before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// See the module's text.
pub struct SlowLaneLoop<L> {
    lane: L,
    /// Among all who write to the shard.
    index: u16,
    report: Reporter,
    pace: Arc<Pace>,
    parked: Arc<Parked>,
    router: Arc<Router>,
    hot: Arc<HotKeys>,
    signals: Arc<Signals>,
    observed: Arc<Observed>,
    clock: Arc<dyn Clock>,
    rng: fastrand::Rng,
    backoff: Backoff,
    limits: DrainLimits,
    rules: Rules,
    /// By topic.
    topics: Vec<Drain>,
    work: VecDeque<Work>,
    /// Keys that cannot go on yet, and the pauses between their tries.
    waiting: BTreeMap<(TopicIx, i64, KeyHash), Backoff>,
    /// By topic: how long some key of it has waited.
    trying: BTreeMap<TopicIx, Trying>,
    /// Not before this is anything tried: the database was away.
    retry_at: Duration,
    /// Rows taken out since the table was tidied up.
    untidy: u64,
}

/// What is next, of keys that are claimed.
enum Work {
    Read(Claim),
    Drain(Claim, Vec<Waiting>),
}

impl Work {
    /// A key by itself.
    fn one(topic: TopicIx, key: ClaimedKey, rows: Waiting) -> Work {
        Work::Drain(Claim { topic, keys: vec![key] }, vec![rows])
    }
}

impl Drain {
    pub fn of(topic: &config::Topic) -> Drain {
        let (tolerance, then) = match topic.on_bad_record {
            OnBadRecord::Stop => (None, Then::Skip),
            OnBadRecord::DeadLetter(limit, then) => (Some(Tolerance::new(limit)), then),
        };
        Drain { tolerance, then, parent_tries: topic.parent_tries }
    }
}

impl<L: SlowLane> SlowLaneLoop<L> {
    pub fn new(
        lane: L,
        index: u16,
        limits: BatchLimits,
        topics: Vec<Drain>,
        parking: Parking,
        context: LoopContext,
    ) -> SlowLaneLoop<L> {
        let LoopContext { report, clock, rng, rules, backoff, signals, pace, observed } = context;
        let Parking { parked, router, hot } = parking;
        SlowLaneLoop {
            lane,
            index,
            report,
            pace,
            parked,
            router,
            hot,
            signals,
            observed,
            clock,
            rng,
            backoff,
            limits: DrainLimits {
                records_max: limits.records_max,
                bytes_max: limits.bytes_max,
                key_records_max: usize::MAX,
            },
            rules,
            topics,
            work: VecDeque::new(),
            waiting: BTreeMap::new(),
            trying: BTreeMap::new(),
            retry_at: Duration::ZERO,
            untidy: 0,
        }
    }

    /// Until `closing` says so.
    pub fn run(mut self, closing: &AtomicBool) {
        while !closing.load(Ordering::SeqCst) {
            let wait = match self.step() {
                Next::Again => continue,
                Next::After(wait)
                    if !self.report.gate().is_open() && self.pace.wait(self.index, wait.min(PATIENCE)) =>
                {
                    continue;
                }
                Next::After(wait) => wait.min(PATIENCE),
                Next::Inbox | Next::Done => PATIENCE,
            };
            // An error is a time-out, or that nobody is left to nudge.
            let _ = self.parked.nudged().recv_timeout(wait);
        }
        self.pace.leave(self.index);
    }

    /// One look at the database, or one transaction.
    pub fn step(&mut self) -> Next {
        let now = self.clock.now();
        if let Some(probe_at) = self.report.gate().probe_at() {
            return Next::After(probe_at.saturating_sub(now).max(BARRED));
        }
        if now < self.retry_at {
            return Next::After(self.retry_at - now);
        }
        if self.untidy >= TIDY_AFTER {
            self.untidy = 0;
            if let Err(failure) = self.lane.tidy() {
                let (shard, reason) = (self.report.shard_name(), failure.reason());
                tracing::debug!(shard, sqlstate = reason.sqlstate, "shard {shard}, slow lane: VACUUM: {reason}");
            }
            return Next::Again;
        }
        match self.work.pop_front() {
            None => self.claim(now),
            Some(Work::Read(claim)) => self.read(claim),
            Some(Work::Drain(claim, waiting)) => self.drain(claim, waiting),
        }
    }

    fn claim(&mut self, now: Duration) -> Next {
        self.hot.look(now);
        let rests = self.pace.slow_rests();
        let rest = |topic: TopicIx| rests.get(usize::from(topic.0)).copied().filter(|rest| !rest.is_zero());
        let skip = |topic| self.signals.is_stopped(topic) || rest(topic).is_some();
        let keys_max = |topic| KEYS_MAX.min(self.pace.slow_piece(topic));
        if let Some(claim) = self.parked.claim(now, &keys_max, &skip) {
            self.work.push_back(Work::Read(claim));
            return Next::Again;
        }
        self.at_work().done();
        let mut next = self.parked.next_due(&skip).map(|at| at.saturating_sub(now));
        for topic in (0..rests.len() as u16).map(TopicIx) {
            let due = self.parked.next_due(&|other| other != topic || self.signals.is_stopped(other));
            if let (Some(rest), Some(due)) = (rest(topic), due) {
                if due <= now {
                    self.pace.topic_held(topic, Duration::ZERO);
                }
                let at = rest.max(due.saturating_sub(now));
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next.map_or(Next::Inbox, Next::After)
    }

    fn read(&mut self, claim: Claim) -> Next {
        let (now, holds) = (self.clock.now(), self.parked.holds(claim.topic));
        // All that comes of these is known, and nothing of it is read while the hold stands.
        let (held, keys): (Vec<_>, Vec<_>) = claim.keys.into_iter().partition(|key| holds.hold_all_of(key.hash));
        held.iter().for_each(|key| self.parked.rest(key, 0, now));
        let keys = self.without_those_told_to_wait(keys, now);
        if keys.is_empty() {
            return Next::Again;
        }
        let claim = Claim { keys, ..claim };
        let asked: Vec<(i32, KeyHash)> = claim.keys.iter().map(|key| (key.partition, key.hash)).collect();
        let piece_max = self.pace.tenants().map_or(usize::MAX, |tenants| tenants.piece_max());
        let records_max = self.limits.records_max.min(self.pace.slow_piece(claim.topic));
        let limits = DrainLimits { records_max, key_records_max: piece_max, ..self.limits };
        let found = match self.lane.read(claim.topic, &asked, limits) {
            Ok(found) => found,
            Err(failure) => return self.failed(claim, Vec::new(), failure),
        };
        self.report.well();
        let (now, holds) = (self.clock.now(), self.parked.holds(claim.topic));
        let mut found = found.into_iter().peekable();
        let how = self.topics[usize::from(claim.topic.0)];
        let (mut keys, mut waiting, mut alone, mut tally) = (Vec::new(), Vec::new(), Vec::new(), Tally::default());
        for key in claim.keys {
            let Some(rows) = found.next_if(|w| (w.partition, w.hash) == (key.partition, key.hash)) else {
                self.went_on(claim.topic, &key, now);
                self.parked.seen_gone(&key, now);
                continue;
            };
            let mut rows = rows;
            // A hold may be about some records of a key only: a tenant that is read from a field.
            let held = rows.records.iter().position(|record| self.holds(&holds, rows.hash, record));
            if rows.dead || held == Some(0) {
                self.parked.rest(&key, 0, now);
                continue;
            }
            rows.records.truncate(held.unwrap_or(usize::MAX));
            if let Err((told, wait)) = self.pace_tenant(&mut rows.records, key.told.is_some(), &mut tally) {
                self.parked.told(&key, told, now + wait);
                continue;
            }
            if self.rules.last_try_alone && how.is_last_try(rows.tries) {
                alone.push((key, rows));
            } else {
                keys.push(key);
                waiting.push(rows);
            }
        }
        let topic = claim.topic;
        if !keys.is_empty() {
            self.work.push_back(Work::Drain(Claim { topic, keys }, waiting));
        }
        // Behind those among which their parents may be.
        self.work.extend(alone.into_iter().map(|(key, rows)| Work::one(topic, key, rows)));
        Next::Again
    }

    /// Of those that their tenants' ceilings told to come now, whoever still finds nothing left is told again, without a look at
    /// the table.
    fn without_those_told_to_wait(&self, keys: Vec<ClaimedKey>, now: Duration) -> Vec<ClaimedKey> {
        let mut tally = Tally::default();
        let wait = |key: &ClaimedKey| {
            let told = key.told?;
            let wait = self.pace.tenants()?.turn(told.tenant, told.records, true, &mut tally).err()?;
            Some((told, wait))
        };
        let told: Vec<Option<(Told, Duration)>> = keys.iter().map(wait).collect();
        if told.iter().any(Option::is_some) {
            self.pace.tenants_wait();
        }
        let goes = |(key, told): (ClaimedKey, Option<(Told, Duration)>)| match told {
            Some((told, wait)) => {
                self.parked.told(&key, told, now + wait);
                None
            }
            None => Some(key),
        };
        keys.into_iter().zip(told).filter_map(goes).collect()
    }

    /// Leaves those of a key's records that its tenant's ceiling lets go now, beside those of `tally`; or says how long they wait.
    fn pace_tenant(
        &self,
        records: &mut Vec<ParkedRecord>,
        told: bool,
        tally: &mut Tally,
    ) -> Result<(), (Told, Duration)> {
        if !self.pace.paces_tenants() {
            return Ok(());
        }
        let tenant_of = |record: &ParkedRecord| self.router.tenant_hash(&record.into());
        let tenant = records.first().and_then(tenant_of);
        // A tenant that is read from a field may change within a key, or be missing.
        let all = records.iter().position(|record| tenant_of(record) != tenant).unwrap_or(records.len());
        records.truncate(all);
        if let (Some(tenant), Some(mut tenants)) = (tenant, self.pace.tenants()) {
            let go = tenants.turn(tenant, all, told, tally).map_err(|wait| (Told { tenant, records: all }, wait))?;
            records.truncate(go);
        }
        Ok(())
    }

    /// So many records of these keys were applied: their tenants pay for them.
    fn pay<'w>(&self, applied: impl Iterator<Item = (&'w Waiting, u64)>) {
        if !self.pace.paces_tenants() {
            return;
        }
        let mut tally = Tally::default();
        for (key, rows) in applied {
            if let Some(tenant) = key.records.first().and_then(|first| self.router.tenant_hash(&first.into())) {
                tally.add(tenant, rows as usize);
            }
        }
        self.pace.tenants().into_iter().for_each(|mut tenants| tenants.applied(&tally));
    }

    fn holds(&self, holds: &Holds, hash: KeyHash, record: &ParkedRecord) -> bool {
        if holds.is_empty() {
            return false;
        }
        holds.hold(&record.into(), hash, &self.router)
    }

    fn drain(&mut self, claim: Claim, waiting: Vec<Waiting>) -> Next {
        let records = waiting.iter().map(|key| key.records.len()).sum();
        if let Turn::Later(wait) = self.pace.ask(Ask { worker: self.index, topic: claim.topic, records, whole: true }) {
            self.work.push_front(Work::Drain(claim, waiting));
            return Next::After(wait);
        }
        let began = self.clock.now();
        self.at_work().begin_parked(claim.topic, records, began);
        let result = self.lane.drain(claim.topic, &waiting, &mut self.topics[usize::from(claim.topic.0)]);
        self.pace.tried(self.index, tried(&result));
        self.at_work().done();
        let took = self.clock.now().saturating_sub(began);
        let metrics = self.observed.metrics.shard(self.report.shard());
        metrics.writers[usize::from(self.index)].busy_us.add(took.as_micros() as u64);
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(failure) => return self.failed(claim, waiting, failure),
        };
        self.report.well();
        self.backoff.reset();
        self.pace.slowly_wrote(claim.topic, outcomes.iter().map(|outcome| outcome.rows() as usize).sum());
        let now = self.clock.now();
        // The keys of one transaction share its time by their records.
        let all: usize = waiting.iter().map(|w| w.records.len()).sum();
        let record = (now - began) / all.max(1) as u32;
        self.pay(waiting.iter().zip(outcomes.iter().map(Drained::rows)));
        for (key, outcome) in claim.keys.iter().zip(outcomes) {
            match outcome {
                Drained::Taken { rows, dead } => {
                    self.hot.drained(claim.topic, key.hash, rows, record * rows as u32);
                    self.taken(claim.topic, rows, dead);
                    self.went_on(claim.topic, key, now);
                    self.parked.again(key, rows, now);
                }
                Drained::Dead { rows, reason } => {
                    self.taken(claim.topic, rows, 1);
                    let last = format!("partition {}, a parked key waits behind it: {reason}", key.partition);
                    let (shard, topic) = (self.report.shard(), claim.topic);
                    self.report.tell(Event::DeadLetters { shard, topic, letters: 1, last });
                    self.went_on(claim.topic, key, now);
                    self.parked.rest(key, rows, now);
                }
                Drained::Waits { rows, reason } => {
                    self.at_work().failed(&reason);
                    self.taken(claim.topic, rows, 0);
                    self.waits(claim.topic, key, rows, &reason);
                }
                Drained::Busy => self.parked.again(key, 0, now + BUSY),
            }
        }
        Next::Again
    }

    fn taken(&mut self, topic: TopicIx, rows: u64, dead: u64) {
        self.untidy += rows;
        self.observed.counters.drained.add(rows);
        self.observed.counters.dead_lettered.add(dead);
        let metrics = self.observed.metrics.shard(self.report.shard()).topic(topic);
        metrics.unparked.add(rows);
        metrics.outcome(Outcome::DeadLettered).add(dead);
    }

    fn at_work(&self) -> &AtWork {
        self.observed.at_work(self.report.shard(), self.index)
    }

    fn went_on(&mut self, topic: TopicIx, key: &ClaimedKey, now: Duration) {
        self.waiting.remove(&(topic, key.token.0, key.hash));
        let of_topic = (topic, i64::MIN, KeyHash::MIN)..=(topic, i64::MAX, KeyHash::MAX);
        if self.waiting.range(of_topic).next().is_none()
            && let Some(mut trying) = self.trying.remove(&topic)
        {
            self.report.in_vain(topic, Doing::Draining, trying.ended(now), None);
        }
    }

    /// The key comes again after a pause, which grows.
    fn waits(&mut self, topic: TopicIx, key: &ClaimedKey, rows: u64, reason: &Reason) {
        let now = self.clock.now();
        let pauses = self.waiting.entry((topic, key.token.0, key.hash)).or_insert_with(|| {
            let mut pauses = self.backoff.clone();
            pauses.reset();
            pauses
        });
        let at = now + pauses.next(self.rng.f64());
        self.parked.again(key, rows, at);
        if !self.parked.is_ours(key) {
            // Somebody else looks after it.
            return self.went_on(topic, key, now);
        }
        let lasted = self.trying.entry(topic).or_default().failed(now);
        self.report.in_vain(topic, Doing::Draining, lasted, Some(reason));
    }

    /// Nothing was done, or nobody knows: the next look at the table tells.
    fn failed(&mut self, claim: Claim, mut waiting: Vec<Waiting>, failure: Failure) -> Next {
        self.at_work().failed(failure.reason());
        let metrics = self.observed.metrics.shard(self.report.shard()).topic(claim.topic);
        metrics.retried(cause(&failure)).add(1);
        let now = self.clock.now();
        match &failure {
            // Each key by itself: the one that is in the way must not keep the others.
            Failure::LockWait(_) | Failure::TooLong(_) | Failure::Transient(_) if waiting.len() > 1 => {
                let topic = claim.topic;
                let one = |(key, rows)| Work::one(topic, key, rows);
                self.work.extend(claim.keys.into_iter().zip(waiting).map(one));
                return Next::Again;
            }
            Failure::TooLong(_) if waiting.first().is_some_and(|w| w.records.len() > 1) => {
                let half = waiting[0].records.len() / 2;
                waiting[0].records.truncate(half);
                self.work.push_back(Work::Drain(claim, waiting));
                return Next::Again;
            }
            Failure::LockWait(reason) | Failure::TooLong(reason) | Failure::Transient(reason) if waiting.len() == 1 => {
                self.waits(claim.topic, &claim.keys[0], 0, reason);
                return Next::Again;
            }
            Failure::Outage(_) | Failure::Shard(_) => {
                self.report.unwell(&failure);
                self.retry_at = now + self.backoff.next(self.rng.f64());
            }
            Failure::Record(_, reason) | Failure::Topic(reason) => {
                self.signals.stop_topic(claim.topic);
                self.report.tell(Event::TopicStopped { topic: claim.topic, at: None, reason: reason.clone() });
            }
            Failure::Transient(reason)
            | Failure::LockWait(reason)
            | Failure::LockedOut(reason)
            | Failure::NoRoom(reason)
            | Failure::TooLong(reason) => {
                let shard = self.report.shard_name();
                tracing::debug!(shard, sqlstate = reason.sqlstate, "shard {shard}, slow lane: {reason}; trying again");
                self.retry_at = now + self.backoff.next(self.rng.f64());
            }
        }
        claim.keys.iter().for_each(|key| self.parked.again(key, 0, self.retry_at.max(now)));
        Next::Again
    }
}

/// For the shard's pace. How long it took tells nothing of how long a batch would.
fn tried(result: &Result<Vec<Drained>, Failure>) -> Tried {
    match result {
        Ok(outcomes) => Tried::Otherwise(outcomes.iter().map(|drained| drained.rows() as usize).sum()),
        Err(failure) => failure.into(),
    }
}

#[cfg(test)]
mod tests;
