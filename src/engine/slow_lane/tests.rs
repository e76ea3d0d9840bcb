//! Keys that wait, and those that must not wait for them.

use parking_lot::Mutex;

use super::*;
use crate::clock::TestClock;
use crate::config::HotKeyRule;
use crate::state::holds::Decided;
use crate::state::parked::{Tail, Why};
use crate::state::router::key_hash;
use crate::types::{Generation, Offset, Token, TopicPartition};

/// Every key waits behind a dead letter; notes which were read, and when.
struct Dead(TestClock, Arc<Mutex<Vec<(u64, KeyHash)>>>);

impl SlowLane for Dead {
    fn read(&mut self, _: TopicIx, keys: &[(i32, KeyHash)], _: DrainLimits) -> Result<Vec<Waiting>, Failure> {
        self.1.lock().extend(keys.iter().map(|(_, hash)| (self.0.now().as_secs(), *hash)));
        let dead = |&(partition, hash): &(i32, KeyHash)| Waiting {
            partition,
            hash,
            dead: true,
            tries: 1,
            replayed: false,
            records: Vec::new(),
        };
        Ok(keys.iter().map(dead).collect())
    }

    fn drain(&mut self, _: TopicIx, _: &[Waiting], _: &mut Drain) -> Result<Vec<Drained>, Failure> {
        unreachable!("nothing can be applied")
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        unreachable!("nothing is taken out")
    }
}

/// A key that is held is not read at all, and one behind a dead letter less and less often; what a person decides is seen at once.
#[test]
fn who_waits_for_a_person_is_looked_at_when_one_has_decided() {
    let clock = TestClock::default();
    let (context, _events) = LoopContext::of_test(&clock, Duration::from_secs(5));
    let (parked, read) = (Arc::new(Parked::of_test()), Arc::new(Mutex::default()));
    let topic = TopicIx(0);
    let rule = HotKeyRule { percent: 0, window: Duration::from_secs(1), hold: Duration::from_secs(1) };
    let hot = Arc::new(HotKeys::new("s", &[], rule, 1, Arc::default()));
    let parking = Parking { parked: Arc::clone(&parked), router: Arc::new(Router::of_one_shard()), hot };
    let limits = BatchLimits { records_max: 10, bytes_max: 1000 };
    let drain = Drain { tolerance: None, then: Then::Park, parent_tries: 1 };
    let lane = Dead(clock.clone(), Arc::clone(&read));
    let mut lane = SlowLaneLoop::new(lane, 0, limits, vec![drain], parking, context);
    let mut looks = |until: u64| {
        while clock.now().as_secs() < until {
            if lane.step() != Next::Again {
                clock.advance(Duration::from_secs(1));
            }
        }
        std::mem::take(&mut *read.lock())
    };
    let (held, dead) = (key_hash(Some(b"held"), Offset(0)), key_hash(Some(b"dead"), Offset(0)));
    let mut decided = Decided { letters: 1, ..Decided::default() };
    decided.holds.hold_key(b"held");
    parked.decided(topic, decided.clone(), clock.now());
    let tail = |hash| Tail { hash, offset: Offset(1), rows: 1, why: Why::Held };
    let at = TopicPartition { topic, partition: 0 };
    parked.install(at, Generation(1), Token(1), 1, vec![tail(held), tail(dead)]);
    assert_eq!(looks(40), [0, 1, 3, 7, 15, 25, 35].map(|at| (at, dead)));
    // A letter is replayed or discarded.
    decided.letters = 2;
    parked.decided(topic, decided.clone(), clock.now());
    parked.decided(topic, decided, clock.now());
    assert_eq!(looks(42), [(40, dead), (41, dead)]);
    // The hold ends.
    parked.decided(topic, Decided { letters: 2, ..Decided::default() }, clock.now());
    let mut both = looks(43);
    both.sort();
    let mut expected = vec![(42, held), (42, dead)];
    expected.sort();
    assert_eq!(both, expected);
}

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
            Some(Waiting { partition, hash, dead: false, tries: 0, replayed: false, records })
        };
        Ok(keys.iter().filter_map(of_key).collect())
    }

    fn drain(&mut self, _: TopicIx, keys: &[Waiting], _: &mut Drain) -> Result<Vec<Drained>, Failure> {
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
        let topics = vec![Drain { tolerance: None, then: Then::Skip, parent_tries: 3 }];
        let mut lane = SlowLaneLoop::new(table, 0, limits, topics, parking, context);
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
