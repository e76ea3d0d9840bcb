//! What the threads of one shard share of its parked keys. A worker asks it, once a batch and only where anything is parked or
//! held, which records follow their parked keys; the slow lane takes keys from it; the control thread brings in what a takeover
//! found. Nothing here is believed without the database: a takeover read it, or a transaction of ours wrote it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::config::ParkingLimits;
use crate::engine::Rules;
use crate::engine::pace::Tenants;
use crate::sink::{FreeKey, OldestParked, ToPark};
use crate::state::batch::{Batch, LaneMove};
use crate::state::chunk::{LaneRun, RawRecord};
use crate::state::holds::{Decided, Holds};
use crate::state::parked::{ParkedKeys, Standing, Tail, Told, Why};
use crate::state::router::Router;
use crate::state::tenant_pace::{Tally, TenantHash};
use crate::types::{Generation, KeyHash, Lane, Offset, Token, TopicIx, TopicPartition};

/// Tenures that ended with parked keys are remembered, so that no record of theirs overtakes the parked ones; the oldest are
/// forgotten beyond so many.
const CLOSED_MAX: usize = 1 << 16;

/// Keys beside its own that one transaction makes sure of.
const FREE_MAX: usize = 256;

/// See the module's text.
pub struct Parked {
    /// Nothing is parked, held or closed: batches need not be looked at.
    quiet: AtomicBool,
    inner: Mutex<Inner>,
    /// By partition: its oldest row, as the database showed it last.
    oldest: Mutex<BTreeMap<TopicPartition, OldestParked>>,
    nudge: Sender<()>,
    nudged: Receiver<()>,
    limits: ParkingLimits,
    rules: Rules,
}

#[derive(Default)]
struct Inner {
    tenures: BTreeMap<i64, Tenure>,
    closed: BTreeSet<i64>,
    closed_order: VecDeque<i64>,
    /// By topic.
    holds: BTreeMap<TopicIx, Holds>,
    /// By topic: see [`Decided`].
    letters: BTreeMap<TopicIx, i64>,
}

struct Tenure {
    at: TopicPartition,
    generation: Generation,
    lanes: Lane,
    keys: ParkedKeys,
}

/// Keys of one topic that the slow lane has, with the tail of each when it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub topic: TopicIx,
    pub keys: Vec<ClaimedKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedKey {
    pub token: Token,
    pub partition: i32,
    pub hash: KeyHash,
    pub tail: Offset,
    /// Its tenant's ceiling told it when to come.
    pub told: Option<Told>,
}

/// What is to be done with a batch's records, as far as parking has a say.
#[derive(Debug, Default)]
pub struct Sorted {
    pub park: Vec<ToPark>,
    pub free: Vec<FreeKey>,
    /// The records that are to be applied, by their tenants; nothing where no tenant has a ceiling.
    pub tally: Tally,
    /// Tenures that are over: nothing of theirs may be written.
    pub closed: BTreeSet<i64>,
    /// The first record that a limit keeps from being parked.
    pub cut: Option<usize>,
}

impl Sorted {
    pub fn clear(&mut self) {
        self.park.clear();
        self.free.clear();
        self.tally.clear();
        self.closed.clear();
        self.cut = None;
    }
}

/// What a free key may be parked for, beside what persons hold.
pub struct Grounds<'a> {
    /// Finds tenants that are held.
    pub router: &'a Router,
    /// Keys that take too much.
    pub hot: &'a BTreeSet<KeyHash>,
    /// Where tenants have ceilings; and whose each record is.
    pub tenants: Option<Tenants<'a>>,
    pub tenant_of: &'a [Option<TenantHash>],
}

/// A key of one tenure, where several meet in a batch.
type Key = (i64, KeyHash);

impl Parked {
    pub fn new(limits: ParkingLimits, rules: Rules) -> Parked {
        let (nudge, nudged) = bounded(1);
        Parked {
            quiet: AtomicBool::new(true),
            inner: Mutex::default(),
            oldest: Mutex::default(),
            nudge,
            nudged,
            limits,
            rules,
        }
    }

    #[cfg(test)]
    pub fn of_test() -> Parked {
        Parked::new(ParkingLimits { records_max: 1000, key_records_max: 1000 }, Rules::ALL)
    }

    /// Whether no batch needs a look.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Acquire)
    }

    /// How many more rows may be parked.
    pub fn room(&self) -> u64 {
        self.limits.records_max.saturating_sub(self.inner.lock().rows())
    }

    /// What keeps lanes from parking more, for people.
    pub fn full(&self) -> String {
        let (keys, rows) = self.size();
        let ParkingLimits { records_max, key_records_max } = self.limits;
        format!(
            "{rows} records of {keys} keys are parked already (parked_records_max = {records_max}, parked_key_records_max = \
             {key_records_max})"
        )
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner);
        self.quiet.store(inner.is_quiet(), Ordering::Release);
        result
    }

    // --- The control thread ---------------------------------------------------------------------------------------------

    /// A takeover succeeded, and this is what it found parked.
    pub fn install(&self, at: TopicPartition, generation: Generation, token: Token, lanes: Lane, tails: Vec<Tail>) {
        let tenure = Tenure { at, generation, lanes, keys: ParkedKeys::new(tails) };
        self.change(|inner| inner.tenures.insert(token.0, tenure));
        self.nudge();
    }

    /// The tenures of this partition up to this generation are over.
    pub fn close(&self, at: TopicPartition, generation: Generation) {
        self.change(|inner| {
            let over = |t: &Tenure| t.at == at && t.generation <= generation;
            let tokens: Vec<i64> = inner.tenures.iter().filter(|(_, t)| over(t)).map(|(token, _)| *token).collect();
            for token in tokens {
                let had = inner.tenures.remove(&token);
                if had.is_some_and(|t| !t.keys.is_empty() || inner.holds.contains_key(&at.topic)) {
                    inner.remember_closed(token);
                }
            }
        });
    }

    /// What a person has decided, as the database says now.
    pub fn decided(&self, topic: TopicIx, Decided { holds, letters }: Decided, now: Duration) {
        let changed = self.change(|inner| {
            let other_letters = inner.letters.insert(topic, letters) != Some(letters);
            let changed = other_letters || inner.holds.get(&topic).cloned().unwrap_or_default() != holds;
            match holds.is_empty() {
                true => inner.holds.remove(&topic),
                false => inner.holds.insert(topic, holds),
            };
            if changed {
                inner.tenures.values_mut().filter(|t| t.at.topic == topic).for_each(|t| t.keys.rouse(now));
            }
            changed
        });
        if changed {
            self.nudge();
        }
    }

    // --- A worker -------------------------------------------------------------------------------------------------------

    /// Which of the first `upto` records are parked with their keys, and which keys are to be made sure of.
    pub fn sort(&self, batch: &Batch, upto: usize, moves: &[LaneMove], grounds: Grounds<'_>, into: &mut Sorted) {
        into.clear();
        let Grounds { router, hot, mut tenants, tenant_of } = grounds;
        let inner = self.inner.lock();
        let Some(topic) = batch.topic() else { return };
        let holds = inner.holds.get(&topic);
        let mut parked_now: BTreeMap<Key, (Why, u64)> = BTreeMap::new();
        let mut passes: BTreeMap<Key, i32> = BTreeMap::new();
        let mut total = inner.rows();
        for index in 0..upto {
            let (meta, run) = batch.meta(index);
            let Some(tenure) = inner.tenures.get(&run.token.0) else {
                if self.rules.closed_stay_closed {
                    into.closed.insert(run.token.0);
                }
                continue;
            };
            let key = (run.token.0, meta.hash);
            let before = parked_now.get(&key).copied();
            let record = || RawRecord::from(batch.record(index));
            let held = || holds.is_some_and(|h| h.hold(&record(), meta.hash, router));
            let mut paced = || match (&mut tenants, tenant_of.get(index).copied().flatten()) {
                (Some(tenants), Some(tenant)) => !tenants.goes(tenant, &mut into.tally),
                _ => false,
            };
            let why = match (tenure.keys.standing(meta.hash), before) {
                (Standing::Parked(why), _) | (_, Some((why, _))) if self.rules.parked_follow => why,
                (Standing::Free | Standing::Gone, _) if held() => Why::Held,
                // Also one that is believed gone: it would come and go as long as it is hot.
                (Standing::Free | Standing::Gone, _) if hot.contains(&meta.hash) => Why::Hot,
                (Standing::Free | Standing::Gone, _) if paced() => Why::Paced,
                (Standing::Gone, _) => {
                    passes.insert(key, run.partition);
                    continue;
                }
                _ => continue,
            };
            let of_key = tenure.keys.rows_of(meta.hash) + before.map_or(0, |(_, records)| records);
            if self.limits.reached(total, of_key) {
                into.cut = Some(index);
                break;
            }
            total += 1;
            parked_now.entry(key).or_insert((why, 0)).1 += 1;
            into.park.push(ToPark { index, why });
        }
        // What goes past must be made sure of, however much that is; of others some, so that they are forgotten in time.
        let free_key = |partition, token, hash| FreeKey { partition, token, hash };
        into.free.extend(passes.iter().map(|((token, hash), partition)| free_key(*partition, Token(*token), *hash)));
        for lane in moves {
            let Some(tenure) = inner.tenures.get(&lane.token.0).filter(|t| t.keys.has_gone()) else { continue };
            let known = |hash: &KeyHash| {
                let key = (lane.token.0, *hash);
                parked_now.contains_key(&key) || passes.contains_key(&key)
            };
            let free = tenure.keys.gone_of(lane.lane, tenure.lanes).filter(|hash| !known(hash));
            let room = FREE_MAX.saturating_sub(into.free.len());
            into.free.extend(free.take(room).map(|hash| free_key(lane.partition, lane.token, hash)));
        }
    }

    /// The batch was written: these of its records are parked now, and these keys are free.
    pub fn written<'p>(
        &self,
        batch: &Batch,
        parked: impl Iterator<Item = &'p ToPark>,
        free: &[FreeKey],
        now: Duration,
    ) {
        let mut parked = parked.peekable();
        if parked.peek().is_none() && free.is_empty() {
            return;
        }
        self.change(|inner| {
            for key in free {
                if let Some(tenure) = inner.tenures.get_mut(&key.token.0) {
                    tenure.keys.free(key.hash);
                }
            }
            for to_park in parked {
                let (meta, run) = batch.meta(to_park.index);
                let (offset, hash) = (meta.offset, meta.hash);
                inner.with_tenure(run, |keys| keys.add(hash, offset, to_park.why, now));
            }
        });
        self.nudge();
    }

    /// One of these keys was not free after all.
    pub fn not_free(&self, free: &[FreeKey], now: Duration) {
        self.change(|inner| {
            for key in free {
                if let Some(tenure) = inner.tenures.get_mut(&key.token.0) {
                    tenure.keys.not_gone(key.hash, now);
                }
            }
        });
        self.nudge();
    }

    /// What a look at the table found of the records of a write whose answer was lost.
    pub fn found(&self, token: Token, tail: Tail, now: Duration) {
        self.change(|inner| {
            if let Some(tenure) = inner.tenures.get_mut(&token.0) {
                tenure.keys.found(tail, now);
            } else {
                inner.remember_closed(token.0);
            }
        });
        self.nudge();
    }

    // --- The slow lane ------------------------------------------------------------------------------------------------

    /// Up to `max` keys of one topic that are due. `skip` names topics that are not to be touched.
    pub fn claim(
        &self,
        now: Duration,
        max: &dyn Fn(TopicIx) -> usize,
        skip: &dyn Fn(TopicIx) -> bool,
    ) -> Option<Claim> {
        let mut inner = self.inner.lock();
        let due = |t: &Tenure| t.keys.next_due().filter(|at| *at <= now && !skip(t.at.topic));
        let (_, topic) = inner.tenures.values().filter_map(|t| Some((due(t)?, t.at.topic))).min()?;
        let mut keys = Vec::new();
        // Whoever has waited longest, of whichever partition: one of them must not keep the others waiting.
        let max = max(topic);
        while keys.len() < max {
            let of_topic = inner.tenures.iter_mut().filter(|(_, t)| t.at.topic == topic);
            let due = of_topic.filter_map(|(token, t)| Some((t.keys.next_due().filter(|at| *at <= now)?, *token, t)));
            let Some((_, token, tenure)) = due.min_by_key(|(at, ..)| *at) else { break };
            let (token, partition) = (Token(token), tenure.at.partition);
            for (hash, tail) in tenure.keys.claim(now, 1) {
                keys.push(ClaimedKey { token, partition, hash, tail, told: tenure.keys.was_told(hash) });
            }
        }
        Some(Claim { topic, keys })
    }

    /// When the next key is due.
    pub fn next_due(&self, skip: &dyn Fn(TopicIx) -> bool) -> Option<Duration> {
        let inner = self.inner.lock();
        inner.tenures.values().filter(|t| !skip(t.at.topic)).filter_map(|t| t.keys.next_due()).min()
    }

    /// Whether the slow lane has something to do now, or is at it.
    pub fn is_busy(&self, now: Duration, skip: &dyn Fn(TopicIx) -> bool) -> bool {
        self.inner.lock().tenures.values().any(|t| !skip(t.at.topic) && t.keys.is_busy(now))
    }

    /// The slow lane took so many rows of a key out, and comes again at this time.
    pub fn again(&self, key: &ClaimedKey, taken: u64, at: Duration) {
        self.with_key(key, |keys| keys.again(key.hash, taken, at));
    }

    /// As [`again`](Parked::again), where its tenant's ceiling says when to come.
    pub fn told(&self, key: &ClaimedKey, told: Told, at: Duration) {
        self.with_key(key, |keys| keys.told(key.hash, told, at));
    }

    /// As [`again`](Parked::again), of a key that waits for a person.
    pub fn rest(&self, key: &ClaimedKey, taken: u64, now: Duration) {
        self.with_key(key, |keys| keys.rest(key.hash, taken, now));
    }

    /// Whether the key's tenure is not over yet.
    pub fn is_ours(&self, key: &ClaimedKey) -> bool {
        self.inner.lock().tenures.contains_key(&key.token.0)
    }

    /// The slow lane saw no row of this key.
    pub fn seen_gone(&self, key: &ClaimedKey, now: Duration) {
        self.with_key(key, |keys| keys.seen_gone(key.hash, key.tail, now));
    }

    fn with_key(&self, key: &ClaimedKey, then: impl FnOnce(&mut ParkedKeys)) {
        self.change(|inner| {
            if let Some(tenure) = inner.tenures.get_mut(&key.token.0) {
                then(&mut tenure.keys);
            }
        });
    }

    /// The holds of a topic.
    pub fn holds(&self, topic: TopicIx) -> Holds {
        self.inner.lock().holds.get(&topic).cloned().unwrap_or_default()
    }

    /// Something may be due.
    fn nudge(&self) {
        // Full: it will look anyway.
        let _ = self.nudge.try_send(());
    }

    /// What wakes the slow lane.
    pub fn nudged(&self) -> &Receiver<()> {
        &self.nudged
    }

    /// Keys and rows that are parked of each partition that is ours, as far as it is known here.
    pub fn sizes(&self) -> BTreeMap<TopicPartition, (usize, u64)> {
        let mut sizes = BTreeMap::new();
        for tenure in self.inner.lock().tenures.values() {
            let of: &mut (usize, u64) = sizes.entry(tenure.at).or_default();
            *of = (of.0 + tenure.keys.waiting(), of.1 + tenure.keys.rows());
        }
        sizes
    }

    /// What the database shows of a topic's partitions.
    pub fn show_oldest(&self, topic: TopicIx, oldest: Vec<OldestParked>) {
        let mut known = self.oldest.lock();
        known.retain(|at, _| at.topic != topic);
        known.extend(oldest.into_iter().map(|oldest| (TopicPartition { topic, partition: oldest.partition }, oldest)));
    }

    /// The oldest parked row of a partition, as of the last look; none once nothing of it is parked.
    pub fn oldest(&self, at: TopicPartition) -> Option<OldestParked> {
        let is_parked = self.inner.lock().tenures.values().any(|t| t.at == at && t.keys.rows() > 0);
        if is_parked { self.oldest.lock().get(&at).cloned() } else { None }
    }

    /// Keys and rows that are parked, as far as it is known here.
    pub fn size(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        (inner.tenures.values().map(|t| t.keys.waiting()).sum(), inner.rows())
    }
}

impl Inner {
    fn is_quiet(&self) -> bool {
        self.closed.is_empty() && self.holds.is_empty() && self.tenures.values().all(|t| t.keys.is_empty())
    }

    fn rows(&self) -> u64 {
        self.tenures.values().map(|t| t.keys.rows()).sum()
    }

    fn remember_closed(&mut self, token: i64) {
        if self.closed.insert(token) {
            self.closed_order.push_back(token);
        }
        if self.closed_order.len() > CLOSED_MAX
            && let Some(oldest) = self.closed_order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }

    /// Its tenure, or the mark that it is over: what was parked meanwhile the next owner finds in the table.
    fn with_tenure(&mut self, run: &LaneRun, then: impl FnOnce(&mut ParkedKeys)) {
        match self.tenures.get_mut(&run.token.0) {
            Some(tenure) => then(&mut tenure.keys),
            None => self.remember_closed(run.token.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::Chunk;
    use crate::types::NextOffset;

    const NOW: Duration = Duration::from_secs(60);

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicIx(0), partition }
    }

    fn tail(hash: KeyHash) -> Tail {
        Tail { hash, offset: Offset(1), rows: 1, why: Why::Blocked }
    }

    fn never(_: TopicIx) -> bool {
        false
    }

    /// However many keys are believed gone: what a record goes past is looked at by its own transaction.
    #[test]
    fn every_key_that_is_applied_again_is_made_sure_of() {
        let parked = Parked::of_test();
        let record = |n: i64| format!("key {n}").into_bytes();
        let hash = |n: i64| crate::state::router::key_hash(Some(&record(n)), Offset(0));
        parked.install(at(0), Generation(1), Token(7), 1, (0..600).map(|n| tail(hash(n))).collect());
        let mut left = 600;
        while left > 0 {
            let claim = parked.claim(NOW, &|_| 64, &never).expect("keys are due");
            claim.keys.iter().for_each(|key| parked.seen_gone(key, NOW));
            left -= claim.keys.len();
        }
        let mut chunk = Chunk::new(TopicIx(0));
        let run = chunk.open_run(at(0), 0, Generation(1), Token(7), NextOffset(0));
        for n in 0..600 {
            let key = record(n);
            let raw = RawRecord { offset: Offset(10 + n), timestamp_ms: 0, key: Some(&key), value: None, headers: &[] };
            chunk.push(run, 0, 0, &raw);
        }
        let (mut batch, mut moves, mut sorted) = (Batch::new(), Vec::new(), Sorted::default());
        batch.push(Box::new(chunk));
        batch.moves(600, &mut moves);
        let grounds = Grounds { router: &Router::of_one_shard(), hot: &BTreeSet::new(), tenants: None, tenant_of: &[] };
        parked.sort(&batch, 600, &moves, grounds, &mut sorted);
        let free: BTreeSet<KeyHash> = sorted.free.iter().map(|key| key.hash).collect();
        assert_eq!((free.len(), sorted.free.len(), sorted.park.len()), (600, 600, 0));
    }

    /// A partition with many keys that are always due is not the only one that is served.
    #[test]
    fn the_slow_lane_takes_those_first_that_have_waited_longest() {
        let parked = Parked::of_test();
        parked.install(at(0), Generation(1), Token(1), 1, (0..100).map(tail).collect());
        parked.install(at(1), Generation(1), Token(2), 1, vec![tail(1000)]);
        let served = (0..3).any(|_| {
            let claim = parked.claim(NOW, &|_| 64, &never).expect("keys are due");
            claim.keys.iter().for_each(|key| parked.again(key, 0, NOW));
            claim.keys.iter().any(|key| key.partition == 1)
        });
        assert!(served, "one partition's keys were always taken first");
    }
}
