//! The parked keys of one tenure in one shard: which they are, how far each reaches, and when the slow lane looks at it again.
//! Never reads a table, and never forgets a key because it looks empty: only a transaction that moved the key's lane and
//! found no row of it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::config::ParkingLimits;
use crate::state::router::lane_of;
use crate::state::tenant_pace::TenantHash;
use crate::types::{KeyHash, Lane, Offset};

/// Why a key's records are set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Somebody else holds a lock that it needs.
    Blocked,
    /// A record of it is at fault, or waits for another one, and the key waits with it.
    Record,
    /// A person said so.
    Held,
    /// It takes more than its share.
    Hot,
    /// Its tenant is over its ceiling.
    Paced,
}

impl Why {
    /// As `forebay.parked` says it.
    pub fn letter(self) -> char {
        match self {
            Why::Blocked => 'b',
            Why::Record => 'r',
            Why::Held => 'o',
            Why::Hot => 'h',
            Why::Paced => 'p',
        }
    }

    /// A letter that a newer forebay wrote may mean anything; nothing follows from it but words.
    pub fn of_letter(letter: char) -> Why {
        match letter {
            'r' => Why::Record,
            'o' => Why::Held,
            'h' => Why::Hot,
            'p' => Why::Paced,
            _ => Why::Blocked,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Blocked => "its row was locked by somebody else",
            Why::Record => "a record was at fault, or waited for another one",
            Why::Held => "it was held",
            Why::Hot => "it took more than its share",
            Why::Paced => "its tenant sent more than its ceiling",
        })
    }
}

impl ParkingLimits {
    /// Whether one more record of a key would be too many.
    pub fn reached(&self, rows: u64, rows_of_key: u64) -> bool {
        rows >= self.records_max || rows_of_key >= self.key_records_max
    }
}

/// A parked key as its database shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    pub hash: KeyHash,
    /// The last row's offset.
    pub offset: Offset,
    pub rows: u64,
    pub why: Why,
}

/// Where a record's key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of it is parked.
    Free,
    /// Its records follow the others.
    Parked(Why),
    /// The slow lane saw nothing of it any more; a transaction has yet to make sure.
    Gone,
}

/// What a key waits for that its tenant's ceiling told when to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub tenant: TenantHash,
    /// How many it wants to be applied.
    pub records: usize,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct ParkedKeys {
    keys: BTreeMap<KeyHash, Key>,
    /// When the slow lane looks at each again; what it looks at now is not there.
    due: BTreeSet<(Duration, KeyHash)>,
    /// Believed to have no row any more.
    gone: BTreeSet<KeyHash>,
    rows: u64,
}

#[derive(Debug)]
struct Key {
    tail: Offset,
    rows: u64,
    why: Why,
    /// When the slow lane looks at it again; none: it has it.
    due: Option<Duration>,
    /// Its tenant's ceiling said when to come again.
    told: Option<Told>,
    /// The pause before that look, where it waits for a person.
    rest: Duration,
}

/// How soon the slow lane looks again at a key that seems to be gone: a database that fell back behind a pooler brings its rows back,
/// and where nothing else moves nobody else would see them.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long a key is left alone that waits for a person: twice as long each time. What a person decides ends it.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(10);

impl ParkedKeys {
    /// As a takeover found them; the slow lane may begin at once.
    pub fn new(tails: impl IntoIterator<Item = Tail>) -> ParkedKeys {
        let mut keys = ParkedKeys::default();
        tails.into_iter().for_each(|tail| keys.found(tail, Duration::ZERO));
        keys
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys; those that are believed gone are none.
    pub fn waiting(&self) -> usize {
        self.keys.len() - self.gone.len()
    }

    /// Rows of all keys, as far as it is known here: another process may have taken some out.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn rows_of(&self, hash: KeyHash) -> u64 {
        self.keys.get(&hash).map_or(0, |key| key.rows)
    }

    pub fn standing(&self, hash: KeyHash) -> Standing {
        match self.keys.get(&hash) {
            None => Standing::Free,
            Some(_) if self.gone.contains(&hash) => Standing::Gone,
            Some(key) => Standing::Parked(key.why),
        }
    }

    /// A row is there now, behind all others of its key.
    pub fn add(&mut self, hash: KeyHash, offset: Offset, why: Why, now: Duration) {
        self.found(Tail { hash, offset, rows: self.rows_of(hash) + 1, why }, now);
    }

    /// What a look at the table found, after an answer was lost.
    pub fn found(&mut self, tail: Tail, now: Duration) {
        let Tail { hash, offset, rows, why } = tail;
        self.rows += rows;
        match self.keys.get_mut(&hash) {
            None => {
                self.due.insert((now, hash));
                self.keys
                    .insert(hash, Key { tail: offset, rows, why, due: Some(now), told: None, rest: Duration::ZERO });
            }
            Some(key) => {
                self.rows -= key.rows;
                (key.tail, key.rows) = (key.tail.max(offset), rows);
                self.not_gone(hash, now);
            }
        }
    }

    /// Nothing of it was in the table when a fence of its lane moved: it is a key like any other.
    pub fn free(&mut self, hash: KeyHash) {
        if self.gone.remove(&hash)
            && let Some(key) = self.keys.remove(&hash)
        {
            self.rows -= key.rows;
            key.due.map(|at| self.due.remove(&(at, hash)));
        }
    }

    /// It was believed gone, and is not: the slow lane looks again.
    pub fn not_gone(&mut self, hash: KeyHash, now: Duration) {
        if self.gone.remove(&hash) && self.keys.get(&hash).is_some_and(|key| key.due.is_some()) {
            self.schedule(hash, now);
        }
    }

    /// Keys of a lane that are believed gone.
    pub fn gone_of(&self, lane: Lane, lanes: Lane) -> impl Iterator<Item = KeyHash> {
        self.gone.iter().copied().filter(move |hash| lane_of(*hash, lanes) == lane)
    }

    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Up to `max` keys that are due; the slow lane has them until it says what became of each.
    pub fn claim(&mut self, now: Duration, max: usize) -> Vec<(KeyHash, Offset)> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(max);
        let claimed: Vec<(Duration, KeyHash)> = due.copied().collect();
        let claim = |(at, hash): (Duration, KeyHash)| {
            self.due.remove(&(at, hash));
            let key = self.keys.get_mut(&hash)?;
            key.due = None;
            Some((hash, key.tail))
        };
        claimed.into_iter().filter_map(claim).collect()
    }

    /// Whether the slow lane has something to do now, or is at it, or would be if a tenant's ceiling let it.
    pub fn is_busy(&self, now: Duration) -> bool {
        let now_or_told = |key: &Key| key.told.is_some() || key.due.is_none_or(|at| at <= now);
        let busy = |(hash, key): (&KeyHash, &Key)| now_or_told(key) && !self.gone.contains(hash);
        self.keys.iter().any(busy)
    }

    /// When the next key is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The slow lane is done with it for now, took so many rows out, and comes again.
    pub fn again(&mut self, hash: KeyHash, taken: u64, at: Duration) {
        let Some(key) = self.keys.get_mut(&hash).filter(|key| key.due.is_none()) else { return };
        let taken = taken.min(key.rows);
        key.rows -= taken;
        (key.rest, key.told) = (Duration::ZERO, None);
        self.rows -= taken;
        self.gone.remove(&hash);
        self.schedule(hash, at);
    }

    /// As [`again`](ParkedKeys::again), where its tenant's ceiling says when to come.
    pub fn told(&mut self, hash: KeyHash, told: Told, at: Duration) {
        self.again(hash, 0, at);
        self.keys.entry(hash).and_modify(|key| key.told = Some(told));
    }

    /// What its tenant's ceiling said of a key, if that is why it comes.
    pub fn was_told(&self, hash: KeyHash) -> Option<Told> {
        self.keys.get(&hash)?.told
    }

    /// As [`again`](ParkedKeys::again), of a key that waits for a person.
    pub fn rest(&mut self, hash: KeyHash, taken: u64, now: Duration) {
        let Some(key) = self.keys.get(&hash) else { return };
        let rest = (key.rest * 2).clamp(REST_MIN, REST_MAX);
        self.again(hash, taken, now + rest);
        self.keys.entry(hash).and_modify(|key| key.rest = rest);
    }

    /// A person has decided something: those that wait for one are looked at now. Also those that the slow lane looks at at this
    /// moment, soon: it may not have seen it yet.
    pub fn rouse(&mut self, now: Duration) {
        let resting = self.keys.iter_mut().filter(|(_, key)| !key.rest.is_zero());
        let rouse = |(hash, key): (&KeyHash, &mut Key)| {
            key.rest = Duration::ZERO;
            key.due.map(|_| *hash)
        };
        let roused: Vec<KeyHash> = resting.filter_map(rouse).collect();
        roused.into_iter().for_each(|hash| self.schedule(hash, now));
    }

    /// The slow lane saw no row of it, when `tail` was its last one. What was added since keeps it parked.
    pub fn seen_gone(&mut self, hash: KeyHash, tail: Offset, now: Duration) {
        let Some(key) = self.keys.get_mut(&hash).filter(|key| key.due.is_none()) else { return };
        if key.tail != tail {
            return self.again(hash, 0, now);
        }
        self.rows -= key.rows;
        (key.rows, key.told) = (0, None);
        self.gone.insert(hash);
        self.schedule(hash, now + LOOK_AGAIN);
    }

    fn schedule(&mut self, hash: KeyHash, at: Duration) {
        if let Some(key) = self.keys.get_mut(&hash) {
            key.due.map(|before| self.due.remove(&(before, hash)));
            key.due = Some(at);
            self.due.insert((at, hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn keys() -> ParkedKeys {
        let tail = |hash| Tail { hash, offset: Offset(10 * hash), rows: 2, why: Why::Blocked };
        ParkedKeys::new([tail(1), tail(2)])
    }

    #[test]
    fn a_key_is_parked_until_a_transaction_made_sure_that_it_is_gone() {
        let mut keys = keys();
        assert_eq!(keys.claim(NOW, 1), [(1, Offset(10))]);
        keys.seen_gone(1, Offset(10), NOW);
        assert_eq!((keys.standing(1), keys.standing(2)), (Standing::Gone, Standing::Parked(Why::Blocked)));
        assert_eq!((keys.standing(3), keys.rows()), (Standing::Free, 2));
        keys.not_gone(1, NOW);
        assert_eq!(keys.standing(1), Standing::Parked(Why::Blocked));
        assert_eq!(keys.claim(NOW, 9).len(), 2);
        keys.seen_gone(1, Offset(10), NOW);
        keys.free(1);
        keys.free(2);
        assert_eq!(
            (keys.standing(1), keys.standing(2), keys.waiting()),
            (Standing::Free, Standing::Parked(Why::Blocked), 1)
        );
    }

    /// The slow lane looked before the row was there, or did not know of it when it began.
    #[test]
    fn what_came_since_the_slow_lane_looked_keeps_the_key_parked() {
        let mut keys = keys();
        assert_eq!(keys.claim(NOW, 9).len(), 2);
        keys.add(1, Offset(15), Why::Blocked, NOW);
        keys.seen_gone(1, Offset(10), NOW);
        assert_eq!(keys.standing(1), Standing::Parked(Why::Blocked));
        assert_eq!(keys.claim(NOW, 1), [(1, Offset(15))]);
        keys.seen_gone(1, Offset(15), NOW);
        keys.add(1, Offset(16), Why::Hot, NOW);
        assert_eq!((keys.standing(1), keys.rows_of(1)), (Standing::Parked(Why::Blocked), 1));
    }

    #[test]
    fn the_slow_lane_comes_when_it_said() {
        let mut keys = keys();
        assert_eq!(keys.claim(NOW, 9).len(), 2);
        keys.again(1, 1, NOW * 3);
        keys.again(2, 0, NOW * 2);
        assert_eq!((keys.rows(), keys.next_due()), (3, Some(NOW * 2)));
        assert_eq!(keys.claim(NOW, 9), []);
        assert_eq!(keys.claim(NOW * 2, 9), [(2, Offset(20))]);
        assert_eq!(keys.claim(NOW * 3, 9), [(1, Offset(10))]);
    }

    #[test]
    fn a_key_that_waits_for_a_person_is_looked_at_less_and_less_until_one_decides() {
        let mut keys = keys();
        let mut now = NOW;
        let mut look = |keys: &mut ParkedKeys| {
            let before = now;
            now = keys.keys[&1].due.expect("nobody has it");
            assert!(keys.claim(now, 9).iter().any(|(hash, _)| *hash == 1));
            keys.rest(1, 0, now);
            keys.again(2, 0, now);
            now.saturating_sub(before).as_secs()
        };
        look(&mut keys);
        assert_eq!([(); 6].map(|()| look(&mut keys)), [1, 2, 4, 8, 10, 10]);
        keys.rouse(NOW);
        assert_eq!(keys.next_due(), Some(NOW));
        look(&mut keys);
        assert_eq!(look(&mut keys), 1);
        // What was decided while the slow lane looked is seen soon.
        keys.claim(NOW * 1000, 9);
        keys.rouse(NOW);
        keys.rest(1, 0, NOW * 1000);
        assert_eq!(keys.keys[&1].due, Some(NOW * 1001));
    }

    /// One that waits for a lock, or for a person, may do so for days; one that waits for its tenant's ceiling goes on by itself.
    #[test]
    fn what_a_ceiling_keeps_back_is_work_that_is_not_done() {
        let mut keys = keys();
        keys.claim(NOW, 9);
        keys.again(2, 0, NOW * 9);
        let told = Told { tenant: TenantHash::new(b"a"), records: 2 };
        keys.told(1, told, NOW * 5);
        assert_eq!((keys.is_busy(NOW), keys.was_told(1), keys.was_told(2)), (true, Some(told), None));
        assert_eq!(keys.claim(NOW * 5, 9), [(1, Offset(10))]);
        keys.again(1, 0, NOW * 9);
        assert_eq!((keys.is_busy(NOW), keys.was_told(1)), (false, None));
        keys.claim(NOW * 9, 1);
        keys.told(1, told, NOW * 10);
        keys.claim(NOW * 10, 9);
        keys.seen_gone(1, Offset(10), NOW);
        keys.again(2, 0, NOW * 19);
        assert!(!keys.is_busy(NOW));
    }

    #[test]
    fn gone_keys_are_found_by_their_lane() {
        let mut keys = keys();
        keys.claim(NOW, 9);
        keys.seen_gone(1, Offset(10), NOW);
        keys.seen_gone(2, Offset(20), NOW);
        assert_eq!(keys.gone_of(1, 2).collect::<Vec<_>>(), [1]);
        assert_eq!(keys.gone_of(0, 2).collect::<Vec<_>>(), [2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Park(i64),
        /// Found by a look at the table, with this many rows.
        Found(i64, u64),
        Claim(usize),
        Again(i64, u64),
        Rest(i64, u64),
        Rouse,
        SeenGone(i64, bool),
        NotGone(i64),
        Free(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let hash = 0..6i64;
        prop_oneof![
            hash.clone().prop_map(Step::Park),
            (hash.clone(), 0..5u64).prop_map(|(h, n)| Step::Found(h, n)),
            (1..4usize).prop_map(Step::Claim),
            (hash.clone(), 0..4u64).prop_map(|(h, n)| Step::Again(h, n)),
            (hash.clone(), 0..4u64).prop_map(|(h, n)| Step::Rest(h, n)),
            Just(Step::Rouse),
            (hash.clone(), any::<bool>()).prop_map(|(h, b)| Step::SeenGone(h, b)),
            hash.clone().prop_map(Step::NotGone),
            hash.prop_map(Step::Free),
        ]
    }

    proptest! {
        /// No order of events loses a key without a look at the table, or leaves one that nobody ever looks at again.
        #[test]
        fn every_key_is_due_or_claimed(steps in prop::collection::vec(step(), 0..80)) {
            let mut keys = ParkedKeys::default();
            let mut offset = 0;
            let mut claimed: BTreeMap<KeyHash, Offset> = BTreeMap::new();
            for step in steps {
                offset += 1;
                match step {
                    Step::Park(hash) => keys.add(hash, Offset(offset), Why::Blocked, NOW),
                    Step::Found(hash, rows) => keys.found(Tail { hash, offset: Offset(offset), rows, why: Why::Hot }, NOW),
                    Step::Claim(max) => claimed.extend(keys.claim(NOW * 1000, max)),
                    Step::Again(hash, taken) => {
                        if claimed.remove(&hash).is_some() {
                            keys.again(hash, taken, NOW);
                        }
                    }
                    Step::Rest(hash, taken) => {
                        if claimed.remove(&hash).is_some() {
                            keys.rest(hash, taken, NOW);
                        }
                    }
                    Step::Rouse => keys.rouse(NOW),
                    Step::SeenGone(hash, at_last) => {
                        if let Some(tail) = claimed.remove(&hash) {
                            keys.seen_gone(hash, if at_last { tail } else { Offset(-1) }, NOW);
                        }
                    }
                    Step::NotGone(hash) => keys.not_gone(hash, NOW),
                    Step::Free(hash) => {
                        let before = keys.standing(hash);
                        keys.free(hash);
                        prop_assert_eq!(keys.standing(hash) == Standing::Free, !matches!(before, Standing::Parked(_)));
                    }
                }
                let rows: u64 = keys.keys.values().map(|key| key.rows).sum();
                prop_assert_eq!(rows, keys.rows());
                let due: BTreeSet<(Duration, KeyHash)> =
                    keys.keys.iter().filter_map(|(hash, key)| Some((key.due?, *hash))).collect();
                prop_assert_eq!(&due, &keys.due);
                prop_assert!(keys.gone.iter().all(|hash| keys.keys.contains_key(hash)));
                prop_assert!(keys.keys.iter().all(|(hash, key)| key.due.is_some() || claimed.contains_key(hash)));
            }
        }
    }
}
