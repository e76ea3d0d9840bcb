//! The slow lane: one thread, one shard, one connection. It applies parked records, each key in order, and takes them out. Keys
//! that still cannot go on wait by themselves, with growing pauses, and keep nobody else. Never says that a key is free: it only
//! says that it saw nothing of it any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, OnBadRecord};
use crate::engine::Rules;
use crate::engine::control::LoopContext;
use crate::engine::event::{Doing, Event};
use crate::engine::hot_keys::HotKeys;
use crate::engine::pace::Pace;
use crate::engine::parked::{Claim, ClaimedKey, Parked};
use crate::engine::report::Reporter;
use crate::engine::worker::{BatchLimits, Next, Parking, Signals};
use crate::metrics::Counters;
use crate::sink::{Drain, DrainLimits, Drained, Failure, ParkedRecord, Reason, SlowLane, Waiting};
use crate::state::chunk::RawRecord;
use crate::state::holds::Holds;
use crate::state::pace::{Ask, Tried, Turn};
use crate::state::retry::{Backoff, Trying};
use crate::state::router::Router;
use crate::types::{KeyHash, TopicIx};

/// Keys that one transaction takes.
const KEYS_MAX: usize = 64;
/// Rows taken out after which the table is tidied up: autovacuum comes once a minute at best, and until then a queue that moves
/// leaves its dead rows where its head is looked for.
const TIDY_AFTER: u64 = 100_000;
/// How long a key is left alone that waits for a person, or that another slow lane has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
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
    counters: Arc<Counters>,
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
        let then = match topic.on_bad_record {
            OnBadRecord::Stop => None,
            OnBadRecord::DeadLetter(_, then) => Some(then),
        };
        Drain { then, parent_tries: topic.parent_tries }
    }
}

impl<L: SlowLane> SlowLaneLoop<L> {
    pub fn new(
        lane: L,
        index: u16,
        counters: Arc<Counters>,
        limits: BatchLimits,
        topics: Vec<Drain>,
        parking: Parking,
        context: LoopContext,
    ) -> SlowLaneLoop<L> {
        let LoopContext { report, clock, rng, rules, backoff, signals, pace } = context;
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
            counters,
            clock,
            rng,
            backoff,
            limits: DrainLimits { records_max: limits.records_max, bytes_max: limits.bytes_max },
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
                tracing::debug!(shard = self.report.shard().0, "slow lane: VACUUM: {}", failure.reason());
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
        let signals = &self.signals;
        let stopped = |topic| signals.is_stopped(topic);
        match self.parked.claim(now, KEYS_MAX, &stopped) {
            Some(claim) => {
                self.work.push_back(Work::Read(claim));
                Next::Again
            }
            None => match self.parked.next_due(&stopped) {
                Some(at) => Next::After(at.saturating_sub(now)),
                None => Next::Inbox,
            },
        }
    }

    fn read(&mut self, claim: Claim) -> Next {
        let asked: Vec<(i32, KeyHash)> = claim.keys.iter().map(|key| (key.partition, key.hash)).collect();
        let found = match self.lane.read(claim.topic, &asked, self.limits) {
            Ok(found) => found,
            Err(failure) => return self.failed(claim, Vec::new(), failure),
        };
        self.report.well();
        let (now, holds) = (self.clock.now(), self.parked.holds(claim.topic));
        let mut found = found.into_iter().peekable();
        let how = self.topics[usize::from(claim.topic.0)];
        let (mut keys, mut waiting, mut alone) = (Vec::new(), Vec::new(), Vec::new());
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
                self.parked.again(&key, 0, now + LOOK_AGAIN);
                continue;
            }
            rows.records.truncate(held.unwrap_or(usize::MAX));
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

    fn holds(&self, holds: &Holds, hash: KeyHash, record: &ParkedRecord) -> bool {
        if holds.is_empty() {
            return false;
        }
        let (offset, timestamp_ms, headers) = (record.offset, record.timestamp_ms, &record.headers);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        holds.hold(&RawRecord { offset, timestamp_ms, key, value, headers }, hash, &self.router)
    }

    fn drain(&mut self, claim: Claim, waiting: Vec<Waiting>) -> Next {
        let records = waiting.iter().map(|key| key.records.len()).sum();
        if let Turn::Later(wait) = self.pace.ask(Ask { worker: self.index, topic: claim.topic, records, whole: true }) {
            self.work.push_front(Work::Drain(claim, waiting));
            return Next::After(wait);
        }
        let began = self.clock.now();
        let result = self.lane.drain(claim.topic, &waiting, self.topics[usize::from(claim.topic.0)]);
        self.pace.tried(self.index, tried(&result));
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(failure) => return self.failed(claim, waiting, failure),
        };
        self.report.well();
        self.backoff.reset();
        let now = self.clock.now();
        // The keys of one transaction share its time by their records.
        let all: usize = waiting.iter().map(|w| w.records.len()).sum();
        let record = (now - began) / all.max(1) as u32;
        for (key, outcome) in claim.keys.iter().zip(outcomes) {
            match outcome {
                Drained::Taken { rows, dead } => {
                    self.hot.drained(claim.topic, key.hash, rows, record * rows as u32);
                    self.taken(rows, dead);
                    self.went_on(claim.topic, key, now);
                    self.parked.again(key, rows, now);
                }
                Drained::Dead { rows, reason } => {
                    self.taken(rows, 1);
                    tracing::warn!(
                        topic = claim.topic.0,
                        partition = key.partition,
                        "a parked key waits behind a dead letter: {reason}"
                    );
                    self.went_on(claim.topic, key, now);
                    self.parked.again(key, rows, now + LOOK_AGAIN);
                }
                Drained::Waits { rows, reason } => {
                    self.taken(rows, 0);
                    self.waits(claim.topic, key, rows, &reason);
                }
                Drained::Busy => self.parked.again(key, 0, now + BUSY),
            }
        }
        Next::Again
    }

    fn taken(&mut self, rows: u64, dead: u64) {
        self.untidy += rows;
        self.counters.drained.add(rows);
        self.counters.dead_lettered.add(dead);
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
                tracing::debug!(shard = self.report.shard().0, "slow lane: {reason}; trying again");
                self.retry_at = now + self.backoff.next(self.rng.f64());
            }
        }
        claim.keys.iter().for_each(|key| self.parked.again(key, 0, self.retry_at.max(now)));
        Next::Again
    }
}

/// For the shard's pace. How long it took tells nothing of how long a batch would.
fn tried(result: &Result<Vec<Drained>, Failure>) -> Tried {
    let rows = |drained: &Drained| match drained {
        Drained::Taken { rows, .. } | Drained::Dead { rows, .. } | Drained::Waits { rows, .. } => *rows as usize,
        Drained::Busy => 0,
    };
    match result {
        Ok(outcomes) => Tried::Otherwise(outcomes.iter().map(rows).sum()),
        Err(failure) => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use crate::config::{HotKeyRule, Then};
    use crate::state::parked::{Tail, Why};
    use crate::types::{Generation, Offset, Token, TopicPartition};

    const KEYS: KeyHash = 5;
    const STUBBORN: KeyHash = 2;
    const ROWS: u64 = 3;

    /// A table in which each key has some rows. What has to do with one of them is refused, for its sake, until the clock says this.
    struct Table {
        rows: BTreeMap<KeyHash, u64>,
        clock: TestClock,
        until: Duration,
        failure: Failure,
    }

    impl SlowLane for Table {
        fn read(&mut self, _: TopicIx, keys: &[(i32, KeyHash)], _: DrainLimits) -> Result<Vec<Waiting>, Failure> {
            let record = |offset| {
                let (key, value, headers) = (None, None, Vec::new());
                ParkedRecord { offset: Offset(offset), timestamp_ms: 0, key, value, headers, unroutable: None }
            };
            let of_key = |&(partition, hash): &(i32, KeyHash)| {
                let rows = self.rows.get(&hash)?;
                let records = (0..*rows as i64).map(record).collect();
                Some(Waiting { partition, hash, dead: false, tries: 0, records })
            };
            Ok(keys.iter().filter_map(of_key).collect())
        }

        fn drain(&mut self, _: TopicIx, keys: &[Waiting], _: Drain) -> Result<Vec<Drained>, Failure> {
            if self.clock.now() < self.until && keys.iter().any(|key| key.hash == STUBBORN) {
                return Err(self.failure.clone());
            }
            let taken = |key: &Waiting| Drained::Taken { rows: self.rows.remove(&key.hash).unwrap_or(0), dead: 0 };
            Ok(keys.iter().map(taken).collect())
        }

        fn tidy(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }

    /// Deadlocks, a handler that asks for another try, a lock that is not had, a statement that takes too long: as long as it lasts
    /// it is that key's alone, which is then tried with pauses, and goes on by itself.
    #[test]
    fn a_key_that_cannot_go_on_keeps_no_other() {
        let reason = || Reason::new("later");
        for failure in [Failure::Transient(reason()), Failure::LockWait(reason()), Failure::TooLong(reason())] {
            let clock = TestClock::default();
            let (context, _events) = LoopContext::of_test(&clock, Duration::from_secs(1));
            let parked = Arc::new(Parked::of_test());
            let at = TopicPartition { topic: TopicIx(0), partition: 0 };
            let tail = |hash| Tail { hash, offset: Offset(ROWS as i64 - 1), rows: ROWS, why: Why::Blocked };
            parked.install(at, Generation(1), Token(1), 1, (0..KEYS).map(tail).collect());
            let (rows, until) = ((0..KEYS).map(|hash| (hash, ROWS)).collect(), Duration::from_secs(60));
            let table = Table { rows, clock: clock.clone(), until, failure: failure.clone() };
            let rule = HotKeyRule { percent: 0, window: Duration::from_secs(1), hold: Duration::from_secs(1) };
            let hot = Arc::new(HotKeys::new("s", &[], rule, 1, Arc::default()));
            let parking = Parking { parked: Arc::clone(&parked), router: Arc::new(Router::of_one_shard()), hot };
            let limits = BatchLimits { records_max: 100, bytes_max: 1000 };
            let topics = vec![Drain { then: Some(Then::Skip), parent_tries: 3 }];
            let mut lane = SlowLaneLoop::new(table, 0, Arc::default(), limits, topics, parking, context);
            let left = |lane: &SlowLaneLoop<Table>| lane.lane.rows.keys().copied().collect::<Vec<_>>();
            let mut tries = 0;
            while clock.now() < Duration::from_secs(2) {
                match lane.step() {
                    Next::Again => tries += 1,
                    Next::After(wait) => clock.advance(wait),
                    other => panic!("{failure:?}: {other:?}"),
                }
            }
            assert_eq!(left(&lane), [STUBBORN], "{failure:?}");
            assert!(tries < 200, "{failure:?}: {tries} steps in two seconds");
            while !left(&lane).is_empty() && clock.now() < Duration::from_secs(70) {
                if let Next::After(wait) = lane.step() {
                    clock.advance(wait);
                }
            }
            assert!(left(&lane).is_empty(), "{failure:?}: it goes on by itself");
        }
    }
}
