//! Which keys take more than their share: of a topic, in one shard, over records and over time. Bounded: it holds the same
//! memory for ten keys and for ten billion. Never sees a key, only its hash, and does nothing about it.
//!
//! The sketch is that of Misra and Gries ("Finding repeated elements", 1982) with weights, cleared by the median as in Anderson
//! et al., "A High-Performance Algorithm for Identifying Frequent Items in Data Streams" (IMC 2017; Apache DataSketches' Frequent
//! Items). Where no counter is free, the median of all is subtracted from each, and those that reach 0 are free again: at least
//! [`KEPT`] counters lose the median each, so what any key was robbed of is at most the whole weight / [`KEPT`]. A key's true
//! weight lies between its counter and its counter plus that.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::HotKeyRule;
use crate::types::KeyHash;

/// Places of the table, and how many of them are taken at most: short probes.
const SLOTS: usize = 256;
const USED_MAX: usize = 192;
/// Counters at or above the median. What a sketch does not know of a key is at most its whole weight / 96, about one per cent.
pub const KEPT: u64 = (USED_MAX / 2) as u64;
/// A key is calm again below this part of the share that made it hot.
const CALM: f64 = 0.5;
/// Keys that are shown to people.
const TOP: usize = 10;

const _: () = assert!(SLOTS.is_power_of_two() && USED_MAX < SLOTS, "a probe ends at an empty slot");

/// Counts weights by key.
#[derive(Debug, Clone)]
pub struct Sketch {
    slots: Box<[Slot; SLOTS]>,
    used: usize,
    /// What a counter may be too low by.
    error: u64,
    total: u64,
}

/// Free where its count is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    pub hash: KeyHash,
    /// Of the last record.
    pub partition: i32,
    pub count: u64,
    /// Records since the key got this slot.
    pub records: u64,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch { slots: Box::new([Slot::default(); SLOTS]), used: 0, error: 0, total: 0 }
    }
}

impl Sketch {
    pub fn add(&mut self, hash: KeyHash, partition: i32, weight: u64) {
        if weight == 0 {
            return;
        }
        self.total += weight;
        let mut place = place(&self.slots, hash);
        if self.slots[place].count == 0 {
            if self.used == USED_MAX {
                self.clear_up();
                place = self::place(&self.slots, hash);
            }
            self.used += 1;
            self.slots[place] = Slot { hash, ..Slot::default() };
        }
        let slot = &mut self.slots[place];
        slot.count += weight;
        slot.records += 1;
        slot.partition = partition;
    }

    fn clear_up(&mut self) {
        let before = *self.slots;
        let mut counts = [0; USED_MAX];
        let taken = before.iter().filter(|slot| slot.count > 0);
        counts.iter_mut().zip(taken).for_each(|(count, slot)| *count = slot.count);
        let (_, median, _) = counts.select_nth_unstable(USED_MAX / 2);
        self.error += *median;
        self.slots.fill(Slot::default());
        self.used = 0;
        for slot in before.into_iter().filter(|slot| slot.count > *median) {
            self.slots[place(&self.slots, slot.hash)] = Slot { count: slot.count - *median, ..slot };
            self.used += 1;
        }
    }

    /// The whole weight of all keys.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Every key whose weight is `least` or more, and none that lies below that by more than the sketch does not know; the
    /// heaviest first, with the most that each may weigh.
    pub fn at_least(&self, least: u64) -> Vec<Slot> {
        let weighs = |slot: &Slot| Slot { count: (slot.count + self.error).min(self.total), ..*slot };
        let taken = self.slots.iter().filter(|slot| slot.count > 0).map(weighs);
        let mut found: Vec<Slot> = taken.filter(|slot| slot.count >= least).collect();
        found.sort_by_key(|slot| (std::cmp::Reverse(slot.count), slot.hash));
        found
    }

    pub fn clear(&mut self) {
        self.slots.fill(Slot::default());
        (self.used, self.error, self.total) = (0, 0, 0);
    }

    fn top(&self) -> Vec<TopKey> {
        let share = |count| count as f64 / self.total.max(1) as f64;
        let all = self.at_least(self.error.max(1) + 1).into_iter().take(TOP);
        all.map(|Slot { hash, partition, count, .. }| TopKey { hash, partition, share: share(count) }).collect()
    }
}

/// Where the key is, or an empty slot for it.
fn place(slots: &[Slot; SLOTS], hash: KeyHash) -> usize {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4): lanes have used the lowest bits.
    let mut place = ((hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
    while slots[place].count > 0 && slots[place].hash != hash {
        place = (place + 1) % SLOTS;
    }
    place
}

/// A key among those that take most, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopKey {
    pub hash: KeyHash,
    pub partition: i32,
    /// Of all records, or of all time, between 0 and 1.
    pub share: f64,
}

/// The keys that took most in the last whole window: by records, and by time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Top {
    pub by_records: Vec<TopKey>,
    pub by_time: Vec<TopKey>,
}

/// A key became hot, or is so no more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub hash: KeyHash,
    pub partition: i32,
    /// Of a worker's time; what it would take, of one that is parked.
    pub share: f64,
    pub hot: bool,
}

/// One topic in one shard. A key is *hot* once it took more than the rule's share of one worker's time (its lane is with one
/// worker at a time, but may move) over a window, while others waited. It stays so until what comes of it would take less than
/// half of that share for as long as the rule says.
#[derive(Debug)]
pub struct Watch {
    rule: HotKeyRule,
    /// When the window began.
    began: Option<Duration>,
    records: Sketch,
    time: Sketch,
    /// Time during which somebody else waited.
    waited: Sketch,
    /// Of several keys.
    several: bool,
    first: Option<KeyHash>,
    /// Of a batch: it may have begun before the window.
    longest_ns: u64,
    hot: BTreeMap<KeyHash, Hot>,
    top: Top,
    windows: u64,
}

#[derive(Debug)]
struct Hot {
    partition: i32,
    /// Records in this window.
    came: u64,
    /// What one of them takes.
    record_ns: u64,
    share: f64,
    calm_since: Option<Duration>,
}

impl Watch {
    pub fn new(rule: HotKeyRule) -> Watch {
        Watch {
            rule,
            began: None,
            records: Sketch::default(),
            time: Sketch::default(),
            waited: Sketch::default(),
            several: false,
            first: None,
            longest_ns: 0,
            hot: BTreeMap::new(),
            top: Top::default(),
            windows: 0,
        }
    }

    /// A batch was written. Of each record: its key (if any), its partition, and the time that it took (0: it was parked).
    /// `more_waits` says whether something was queued behind it.
    pub fn batch<I>(&mut self, records: I, more_waits: bool)
    where
        I: Iterator<Item = (Option<KeyHash>, i32, u64)> + Clone,
    {
        let mut keys = records.clone().map(|(hash, ..)| hash);
        let one = keys.next().flatten();
        let waits = more_waits || one.is_none() || keys.any(|hash| hash != one);
        let mut took_ns = 0;
        for (hash, partition, ns) in records {
            took_ns += ns;
            let Some(hash) = hash else {
                self.several = true;
                continue;
            };
            self.several |= *self.first.get_or_insert(hash) != hash;
            self.records.add(hash, partition, 1);
            self.time.add(hash, partition, ns);
            if waits {
                self.waited.add(hash, partition, ns);
            }
            if !self.hot.is_empty()
                && let Some(hot) = self.hot.get_mut(&hash)
            {
                hot.came += 1;
            }
        }
        self.longest_ns = self.longest_ns.max(took_ns);
    }

    /// The engine is started again: its clock begins anew.
    pub fn restart(&mut self) {
        *self = Watch::new(self.rule);
    }

    /// So much parked records of a key took, elsewhere.
    pub fn drained(&mut self, hash: KeyHash, records: u64, took: Duration) {
        if let Some(hot) = self.hot.get_mut(&hash).filter(|_| records > 0) {
            // Slowly up and down: a single odd one says little.
            hot.record_ns = (hot.record_ns * 3 + took.as_nanos() as u64 / records) / 4;
        }
    }

    /// How much of a thread's time the hot keys want.
    pub fn load(&self) -> f64 {
        self.hot.values().map(|hot| hot.share).sum()
    }

    /// Where a window is over: what changed. Hot keys go to threads of their own, which have `capacity` (one for each), `others` of
    /// it taken by hot keys of other topics; what does not fit stays where it is. One key is always taken.
    pub fn turn(&mut self, now: Duration, capacity: f64, others: f64) -> Vec<Change> {
        let began = *self.began.get_or_insert(now);
        // Threads that look at the clock at the same time may come here in another order.
        if now.saturating_sub(began) < self.rule.window {
            return Vec::new();
        }
        let span_ns = ((now - began).as_nanos() as u64).max(self.longest_ns).max(1) as f64;
        let mut changes = self.calm(began, now, span_ns);
        let mut load = others + self.load();
        let share = f64::from(self.rule.percent) / 100.0;
        let candidates = match self.several && self.rule.percent > 0 {
            true => self.waited.at_least((share * span_ns).ceil() as u64),
            false => Vec::new(),
        };
        for Slot { hash, partition, count, records } in candidates {
            let share = (count as f64 / span_ns).min(1.0);
            let fits = load == 0.0 || load + share <= capacity;
            let known = self.hot.contains_key(&hash) || changes.iter().any(|change| change.hash == hash);
            if known || !fits {
                continue;
            }
            load += share;
            let record_ns = count / records.max(1);
            self.hot.insert(hash, Hot { partition, came: 0, record_ns, share, calm_since: None });
            changes.push(Change { hash, partition, share, hot: true });
        }
        self.top = Top { by_records: self.records.top(), by_time: self.time.top() };
        [&mut self.records, &mut self.time, &mut self.waited].into_iter().for_each(Sketch::clear);
        (self.began, self.several, self.first, self.longest_ns) = (Some(now), false, None, 0);
        self.windows += 1;
        changes
    }

    /// Hot keys that are so no more.
    fn calm(&mut self, began: Duration, now: Duration, span_ns: f64) -> Vec<Change> {
        let calm = f64::from(self.rule.percent) / 100.0 * CALM;
        let (hold, mut changes) = (self.rule.hold, Vec::new());
        self.hot.retain(|hash, hot| {
            hot.share = (hot.came * hot.record_ns) as f64 / span_ns;
            hot.came = 0;
            if hot.share >= calm {
                hot.calm_since = None;
                return true;
            }
            let stays = now - *hot.calm_since.get_or_insert(began) < hold;
            if !stays {
                changes.push(Change { hash: *hash, partition: hot.partition, share: hot.share, hot: false });
            }
            stays
        });
        changes
    }

    pub fn hot(&self) -> impl Iterator<Item = KeyHash> {
        self.hot.keys().copied()
    }

    /// Windows that are over.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    pub fn top(&self) -> &Top {
        &self.top
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Weights of keys, in an order: a few keys may be heavy, most are seen once.
    fn stream() -> impl Strategy<Value = Vec<(KeyHash, u64)>> {
        let heavy = (0..8i64, 1..2000u64);
        let light = (any::<i64>(), 1..100u64);
        prop::collection::vec(prop_oneof![heavy, light.clone(), light], 1..4000)
    }

    proptest! {
        #[test]
        fn every_heavy_key_is_found_no_light_one_is_and_memory_is_bounded(stream in stream(), percent in 2..60u64) {
            let (mut sketch, mut truth) = (Sketch::default(), BTreeMap::<KeyHash, u64>::new());
            for (hash, weight) in &stream {
                sketch.add(*hash, 0, *weight);
                *truth.entry(*hash).or_default() += weight;
                prop_assert!(sketch.used <= USED_MAX);
            }
            let total: u64 = truth.values().sum();
            prop_assert_eq!(sketch.total(), total);
            prop_assert!(sketch.error <= total / KEPT, "{} of {}", sketch.error, total);
            prop_assert_eq!(sketch.slots.iter().filter(|slot| slot.count > 0).count(), sketch.used);
            let least = total * percent / 100 + 1;
            let found = sketch.at_least(least);
            for (hash, weight) in &truth {
                prop_assert!(*weight < least || found.iter().any(|slot| slot.hash == *hash), "{} weighs {}", hash, weight);
            }
            for slot in &found {
                let weight = truth[&slot.hash];
                prop_assert!(slot.count >= weight && weight + total / KEPT >= least, "{:?} weighs {}", slot, weight);
            }
        }
    }

    const RULE: HotKeyRule = HotKeyRule { percent: 30, window: Duration::from_secs(2), hold: Duration::from_secs(10) };
    const HOT: KeyHash = 7;

    /// A second of a topic: so many records of the hot key, so many of others, of so many ms each, then what changed.
    fn second(
        watch: &mut Watch,
        at: u64,
        hot: usize,
        others: usize,
        ms: u64,
        more_waits: bool,
    ) -> Vec<(KeyHash, bool)> {
        let parked = watch.hot().any(|hash| hash == HOT);
        let of_hot = (Some(HOT), 3, if parked { 0 } else { ms * 1_000_000 });
        let records = std::iter::repeat_n(of_hot, hot);
        let others = (0..others as i64).map(|n| (Some(1000 + n), 0, ms * 1_000_000));
        let records: Vec<_> = records.chain(others).collect();
        watch.batch(records.into_iter(), more_waits);
        watch.turn(Duration::from_secs(at), 1.0, 0.0).iter().map(|change| (change.hash, change.hot)).collect()
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(RULE);
        assert!(watch.turn(Duration::ZERO, 1.0, 0.0).is_empty());
        watch
    }

    #[test]
    fn a_key_is_hot_after_a_window_and_calm_after_its_hold_below_half() {
        let mut watch = watch();
        assert_eq!(second(&mut watch, 1, 80, 20, 5, false), [], "the window is not over");
        assert_eq!(second(&mut watch, 2, 80, 20, 5, false), [(HOT, true)], "40 % of the time");
        assert_eq!(watch.top().by_records[0], TopKey { hash: HOT, partition: 3, share: 0.8 });
        // Between the two thresholds, for long: 20 % of the time.
        (3..60).for_each(|at| assert_eq!(second(&mut watch, at, 40, 20, 5, false), []));
        // From the window on that began at 58.
        (60..68).for_each(|at| assert_eq!(second(&mut watch, at, 2, 20, 5, false), []));
        assert_eq!(second(&mut watch, 68, 2, 20, 5, false), [(HOT, false)]);
        (69..90).for_each(|at| assert_eq!(second(&mut watch, at, 40, 20, 5, false), [], "20 % do not make it hot"));
    }

    #[test]
    fn a_key_is_left_alone_whom_nobody_waits_for() {
        for (others, more_waits) in [(0, false), (0, true)] {
            let mut watch = watch();
            (1..10).for_each(|at| assert_eq!(second(&mut watch, at, 180, others, 5, more_waits), []));
        }
        // Batches of its own, and others elsewhere.
        let mut watch = watch();
        for at in 1..10 {
            watch.batch([(Some(1), 0, 1_000_000)].into_iter(), false);
            assert_eq!(second(&mut watch, at, 180, 0, 5, false), []);
        }
        watch.batch([(Some(1), 0, 1_000_000)].into_iter(), false);
        assert_eq!(second(&mut watch, 10, 180, 0, 5, true), [(HOT, true)], "and now they queue behind it");
    }

    #[test]
    fn what_parked_records_take_elsewhere_counts() {
        let mut watch = watch();
        assert_eq!(second(&mut watch, 2, 160, 20, 5, false), [(HOT, true)]);
        // As many as before, but they have become quick.
        (0..50).for_each(|_| watch.drained(HOT, 10, Duration::from_millis(1)));
        let calm = (3..30).find(|at| second(&mut watch, *at, 80, 20, 5, false) == [(HOT, false)]);
        assert_eq!(calm, Some(12));
    }

    #[test]
    fn no_more_keys_are_hot_than_there_are_threads_for() {
        let mut watch = watch();
        let records = |watch: &mut Watch| {
            let three = (0..3).map(|key| (Some(key), 0, 8_000_000 * (1 + key as u64 / 2)));
            (0..100).for_each(|_| watch.batch(three.clone(), true));
        };
        records(&mut watch);
        // 40 % for two of them, and 80 % for one.
        let hot = |changes: Vec<Change>| changes.iter().map(|change| change.hash).collect::<Vec<_>>();
        assert_eq!(hot(watch.turn(Duration::from_secs(1), 1.0, 0.0)), [0; 0]);
        assert_eq!(hot(watch.turn(Duration::from_secs(2), 1.0, 0.0)), [2], "the one that takes most, and no other");
        records(&mut watch);
        assert_eq!(hot(watch.turn(Duration::from_secs(4), 2.0, 0.0)), [0, 1], "two threads bear them all");
    }

    #[test]
    fn a_batch_longer_than_the_window_is_no_share_of_more_than_itself() {
        let mut watch = watch();
        watch.turn(Duration::from_secs(9), 1.0, 0.0);
        // Ten seconds for ten keys.
        watch.batch((0..100).map(|n| (Some(n % 10), 0, 100_000_000)), true);
        assert_eq!(watch.turn(Duration::from_secs(11), 1.0, 0.0), []);
    }
}
