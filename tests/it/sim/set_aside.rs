//! Records that cannot be applied as they come, by name: their parents are missing, they meet others in a row that is locked, they
//! name no shard. With each rule nothing is lost, no key loses its order, and only what must become a dead letter does.

use forebay::config::{OnBadRecord, ParkingLimits, Then};
use forebay::types::TopicPartition;

use super::broker::{Content, ShardOf};
use super::cases::{all_but_slow_lanes, check, lock, slow_lane};
use super::draw::ANY_NUMBER;
use super::scenario::{Plan, ROUND, Sim, partition};

const AT: TopicPartition = partition(0, 0);

fn skipping(seed: u64) -> Plan {
    Plan { on_bad_record: OnBadRecord::DeadLetter(ANY_NUMBER, Then::Skip), ..Plan::small(seed) }
}

/// A parent may come in another partition than its child.
fn two_partitions(seed: u64) -> Plan {
    Plan { partitions: 2, ..skipping(seed) }
}

fn of_key(key: &str) -> Content {
    Content::from(Some(key.as_bytes().to_vec()))
}

fn child(key: &str, parent: &str) -> Content {
    Content { parent: Some(parent.as_bytes().to_vec()), ..of_key(key) }
}

fn writes(key: &str, row: &str) -> Content {
    Content { row: Some(row.as_bytes().to_vec()), ..of_key(key) }
}

fn unroutable(key: &str) -> Content {
    Content { unroutable: true, ..of_key(key) }
}

fn started(plan: Plan) -> Sim {
    let mut sim = Sim::new(plan);
    start(&mut sim);
    sim
}

fn start(sim: &mut Sim) {
    let setup = sim.plan.setup();
    sim.start(0, &setup);
}

/// What the first shard has applied (true) and put among its dead letters, in its order.
fn rows(sim: &Sim) -> Vec<(u64, bool)> {
    sim.world.borrow().dbs[0].rows.iter().map(|row| (row.id, !row.dead)).collect()
}

/// How many rows of the first shard's keys are parked.
fn parked(sim: &Sim) -> usize {
    sim.world.borrow().dbs[0].tables.parked.len()
}

/// The parent comes in another partition, once its child has waited for a while.
fn parent_comes_later(sim: &mut Sim) {
    start(sim);
    sim.publish_content(AT, child("child", "parent"));
    sim.publish_key(AT, "child");
    all_but_slow_lanes(sim, 0, 20);
    sim.publish_key(partition(0, 1), "parent");
    all_but_slow_lanes(sim, 0, 20);
}

#[test]
fn a_child_waits_for_its_parent() {
    check(
        two_partitions,
        parent_comes_later,
        |plan| plan.statements.parents_awaited = false,
        "a dead letter after 0 tries",
    );
    let mut sim = Sim::new(two_partitions(0));
    parent_comes_later(&mut sim);
    assert_eq!((rows(&sim), parked(&sim)), (vec![(2, true)], 2), "the parent waits for nobody");
    sim.settle().unwrap();
    assert_eq!((rows(&sim), parked(&sim)), (vec![(2, true), (0, true), (1, true)], 0));
}

#[test]
fn what_comes_behind_a_child_that_waits_waits_too() {
    check(two_partitions, parent_comes_later, |plan| plan.statements.keys_wait_behind = false, "in order");
}

/// Parent and child come in one batch, and something else in it is refused: the halves hide one from the other.
#[test]
fn a_parent_in_the_other_half_is_found() {
    for seed in 0..30 {
        let mut sim = started(skipping(seed));
        sim.publish_content(AT, child("child", "parent"));
        sim.publish_key(AT, "bad");
        sim.world.borrow_mut().poison_last(AT).expect("nobody has taken it");
        sim.publish_key(AT, "other");
        sim.publish_key(AT, "parent");
        sim.settle().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(rows(&sim).into_iter().filter(|(_, applied)| !applied).collect::<Vec<_>>(), [(1, false)]);
    }
}

/// No parent ever comes. After its tries the child is what any bad record is, and its key goes on, or waits for a person.
#[test]
fn a_child_that_nobody_is_parent_of() {
    let scenario = |sim: &mut Sim| {
        start(sim);
        sim.publish_content(AT, child("child", "nobody"));
        sim.publish_key(AT, "child");
        sim.publish_key(AT, "other");
    };
    check(skipping, scenario, |plan| plan.statements.tries_counted = false, "stuck: missing");
    let outcome = |on_bad_record| {
        let mut sim = Sim::new(Plan { on_bad_record, ..Plan::small(0) });
        scenario(&mut sim);
        sim.settle().unwrap();
        let stopped = sim.running(0).and_then(|p| p.stopped.get(&0).cloned());
        let mut rows = rows(&sim);
        rows.sort_unstable();
        (rows, parked(&sim), stopped.is_some())
    };
    assert_eq!(
        outcome(OnBadRecord::DeadLetter(ANY_NUMBER, Then::Skip)),
        (vec![(0, false), (1, true), (2, true)], 0, false)
    );
    assert_eq!(outcome(OnBadRecord::DeadLetter(ANY_NUMBER, Then::Park)), (vec![(2, true)], 2, false));
    assert_eq!(outcome(OnBadRecord::Stop), (vec![(2, true)], 2, true));
}

/// Two children are at their last try, and the parent of one is parked, too. All three are tried together, refused for the sake of
/// the other child, and tried in halves: the first of them does not hold the parent.
#[test]
fn the_last_try_for_a_parent_is_made_alone() {
    let scenario = |sim: &mut Sim| {
        start(sim);
        sim.publish_content(AT, child("child", "parent"));
        sim.publish_content(AT, child("orphan", "nobody"));
        all_but_slow_lanes(sim, 0, 20);
        // It claims, reads, and tries them together.
        slow_lane(sim, 0, 3);
        hold(sim, &["parent"]);
        sim.publish_key(AT, "parent");
        all_but_slow_lanes(sim, 0, 20);
        hold(sim, &[]);
    };
    let without = |plan: &mut Plan| (plan.rules.last_try_alone, plan.statements.last_try_alone) = (false, false);
    check(skipping, scenario, without, "is not bad, and a dead letter");
}

/// An operator holds these keys now, and the process has heard of it.
fn hold(sim: &mut Sim, keys: &[&str]) {
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    sim.world.borrow_mut().dbs[0].tables.holds.insert(0, keys);
    all_but_slow_lanes(sim, 0, 200);
}

/// One batch has to park more than there is room for: what fits goes, and the rest in its turn.
#[test]
fn a_batch_is_cut_to_the_room_for_what_it_parks() {
    for seed in 0..30 {
        let parking = ParkingLimits { records_max: 1, key_records_max: 10 };
        let mut sim = started(Plan { parking, ..skipping(seed) });
        for key in ["a", "b", "c"] {
            sim.publish_content(AT, child(key, "nobody"));
        }
        sim.publish_key(AT, "d");
        sim.settle().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

/// Nothing more may be parked, because what is parked waits for a person: lanes that have nothing to park go on.
fn a_lane_that_needs_room_holds_up_no_other(needs_room: impl Fn(&mut Sim, &str)) {
    let parking = ParkingLimits { records_max: 1, key_records_max: 10 };
    let mut sim = started(Plan { parking, ..skipping(0) });
    let lanes = sim.plan.setup().lanes;
    let [waits, needs, other] =
        [(0, 0), (0, 1), (1, 0)].map(|(lane, n)| super::cases::keys_of(lane, lanes).nth(n).expect("a key"));
    hold(&mut sim, &[&waits]);
    sim.publish_key(AT, &waits);
    all_but_slow_lanes(&mut sim, 0, 20);
    assert_eq!(parked(&sim), 1);
    needs_room(&mut sim, &needs);
    sim.publish_key(AT, &other);
    all_but_slow_lanes(&mut sim, 0, 40);
    assert_eq!(rows(&sim), [(2, true)], "the other lane's");
    sim.settle().unwrap();
    assert_eq!(rows(&sim).len(), 3);
}

#[test]
fn a_missing_parent_without_room_holds_up_no_other_lane() {
    a_lane_that_needs_room_holds_up_no_other(|sim, key| sim.publish_content(AT, child(key, "nobody")));
}

#[test]
fn a_locked_row_without_room_holds_up_no_other_lane() {
    a_lane_that_needs_room_holds_up_no_other(|sim, key| {
        lock(sim, key);
        sim.publish_key(AT, key);
    });
}

/// One key's row is locked, and in another row it meets a second key, which comes first. A statement that folds them into one row and
/// leaves that out with the first key leaves the second key's record out, too.
#[test]
fn keys_that_meet_in_a_row_park_together() {
    let scenario = |sim: &mut Sim| {
        start(sim);
        lock(sim, "locked");
        sim.publish_content(AT, writes("b", "shared"));
        sim.publish_content(AT, writes("a", "locked"));
        sim.publish_content(AT, writes("a", "shared"));
        all_but_slow_lanes(sim, 0, 20);
    };
    check(Plan::small, scenario, |plan| plan.statements.met_park_together = false, "stored progress is true");
}

/// Through a third key: none of them is left out, whichever row is locked.
#[test]
fn keys_that_meet_through_others_park_together() {
    for seed in 0..30 {
        let mut sim = started(Plan::small(seed));
        lock(&sim, "r1");
        for (key, row) in [("a", "r1"), ("a", "r2"), ("b", "r2"), ("b", "r3"), ("c", "r3"), ("d", "r4")] {
            sim.publish_content(AT, writes(key, row));
        }
        all_but_slow_lanes(&mut sim, 0, 20);
        let applied: Vec<u64> = rows(&sim).into_iter().map(|(id, _)| id).collect();
        assert!(applied.contains(&5), "seed {seed}: it meets nobody: {applied:?}");
        sim.settle().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

/// A key of the first shard's, and one of the second's.
fn keys_of_shards(sim: &Sim) -> [String; 2] {
    let shard_of = |key: &String| sim.plan.routing.shard(0, Some(key.as_bytes()));
    [0, 1].map(|shard| (0..).map(|n| format!("key{n}")).find(|key| shard_of(key) == shard).expect("some key of each"))
}

fn two_shards(seed: u64) -> Plan {
    Plan { shards: 2, routing: ShardOf::KeyHash(2), ..skipping(seed) }
}

/// It is a letter of the first shard, wherever its key lives.
#[test]
fn what_names_no_shard_is_a_letter_of_the_first() {
    let mut sim = started(two_shards(0));
    for key in keys_of_shards(&sim) {
        sim.publish_key(AT, &key);
        sim.publish_content(AT, unroutable(&key));
        sim.publish_key(AT, &key);
    }
    sim.settle().unwrap();
    let dead: Vec<u64> = rows(&sim).into_iter().filter(|(_, applied)| !applied).map(|(id, _)| id).collect();
    assert_eq!(dead, [1, 4]);
    assert!(sim.world.borrow().dbs[1].rows.iter().all(|row| !row.dead));
}

/// Its key is parked, and it follows it. Whoever takes it out must know what it is.
#[test]
fn what_names_no_shard_follows_its_key_and_is_a_letter_still() {
    let scenario = |sim: &mut Sim| {
        start(sim);
        let [key, _] = keys_of_shards(sim);
        lock(sim, &key);
        sim.publish_key(AT, &key);
        sim.publish_content(AT, unroutable(&key));
        sim.publish_key(AT, &key);
        all_but_slow_lanes(sim, 0, 20);
    };
    check(two_shards, scenario, |plan| plan.statements.unroutable_noted = false, "is bad, and no dead letter");
    let mut sim = Sim::new(two_shards(0));
    scenario(&mut sim);
    assert_eq!((rows(&sim), parked(&sim)), (vec![], 3));
    sim.settle().unwrap();
    assert_eq!(rows(&sim), [(0, true), (1, false), (2, true)]);
}

/// It waits for the takeover of the first shard with the others, and is no other record afterwards.
#[test]
fn what_names_no_shard_is_known_after_a_takeover_that_came_late() {
    let mut sim = Sim::new(two_shards(0));
    sim.world.borrow_mut().dbs[0].down = true;
    start(&mut sim);
    let [key, _] = keys_of_shards(&sim);
    sim.publish_content(AT, unroutable(&key));
    sim.publish_key(AT, &key);
    sim.rounds(40);
    sim.pass(ROUND);
    sim.settle().unwrap();
    assert_eq!(rows(&sim), [(0, false), (1, true)]);
}
