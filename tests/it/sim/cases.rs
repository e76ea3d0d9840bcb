//! Each rule of the protocol by name: with it switched off the simulation finds what breaks, with it on it does not.
//!
//! Most failures turn up within a few hundred random scenarios; those that need a rare meeting of events are written out.

use forebay::state::parked::Why;
use forebay::types::{Lane, NextOffset};
use xxhash_rust::xxh3::xxh3_64;

use super::process::{Process, SESSION_TIMEOUT, Setup};
use super::random;
use super::scenario::{Plan, ROUND, Sim, partition};
use super::world::Faults;

/// Random scenarios with a rule off break one of the guarantees that `words` name; the same scenario with it on does not.
fn check_random(off: impl Fn(&mut Plan), words: &[&str]) {
    let found = random::find(&off, words);
    assert!(found.is_some(), "without the rule nothing breaks that says one of {words:?}");
}

/// A written-out scenario: sound with every rule on, whatever the seed; without one, broken for some seed as `words` say.
pub fn check(plan: impl Fn(u64) -> Plan, scenario: impl Fn(&mut Sim), off: impl Fn(&mut Plan), words: &str) {
    let run = |plan: Plan| {
        let mut sim = Sim::new(plan);
        sim.world.borrow_mut().trace.keep = 60;
        scenario(&mut sim);
        let outcome = sim.settle();
        let lines = std::mem::take(&mut sim.world.borrow_mut().trace.lines);
        outcome.map_err(|what| format!("{}\n{what}", Vec::from(lines).join("\n")))
    };
    let mut found = Vec::new();
    for seed in 0..30 {
        run(plan(seed)).unwrap_or_else(|what| panic!("seed {seed}, with every rule on: {what}"));
        let mut without = plan(seed);
        off(&mut without);
        found.extend(run(without).err());
    }
    assert!(found.iter().any(|f| f.contains(words)), "without the rule not {words:?}, but {}", found.join("\n\n"));
}

fn two_slots(seed: u64) -> Plan {
    Plan { slots: 2, ..Plan::small(seed) }
}

/// Everything but the workers works for a while: records reach them and stay there.
fn all_but_workers(sim: &mut Sim, slot: usize) {
    for _ in 0..20 {
        sim.step(slot, Process::step_poller);
        sim.step(slot, |p| p.step_control(0));
        sim.pass(ROUND);
    }
}

fn workers(sim: &mut Sim, slot: usize) {
    for index in 0..8 {
        sim.step(slot, |p| p.step_worker(index));
    }
}

/// Keys of this lane.
pub fn keys_of(lane: Lane, lanes: Lane) -> impl Iterator<Item = String> {
    let keys = (0..).map(|n| format!("key{n}"));
    keys.filter(move |key| xxh3_64(key.as_bytes()) % u64::from(lanes) == u64::from(lane))
}

fn key_of(lane: Lane, lanes: Lane) -> String {
    keys_of(lane, lanes).next().expect("some key of each lane")
}

/// p2 took over and hangs; the database forgets that; p3 takes over. If tokens count, both hold the same number.
#[test]
fn tokens_are_random() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        sim.publish(5);
        sim.rounds(20);
        let before = sim.world.borrow().dbs[0].past() - 1;
        sim.crash(0);
        sim.pass(SESSION_TIMEOUT * 2);
        sim.publish(5);
        sim.start(0, &setup);
        all_but_workers(sim, 0);
        sim.hang(0);
        sim.fall_back(0, before, true);
        sim.pass(SESSION_TIMEOUT * 2);
        sim.start(1, &setup);
        all_but_workers(sim, 1);
        sim.go_on(0);
        workers(sim, 0);
    };
    check(two_slots, scenario, |plan| plan.statements.random_tokens = false, "one owner at a time");
}

/// A database falls back to before its anchor existed, while other shards and Kafka's commit are further.
#[test]
fn a_created_anchor_takes_the_lesser_of_noted_origin_and_start() {
    check_random(|plan| plan.rules.noted_origin = false, &["in order", "stuck: missing [", "nothing lost"]);
}

/// The same before the group's commit says where anything began: stored progress of another shard must not have risen yet.
#[test]
fn stored_progress_waits_for_the_noted_origins() {
    check_random(|plan| plan.rules.progress_behind_note = false, &["in order", "stuck: missing [", "nothing lost"]);
}

#[test]
fn a_takeover_is_tried_until_it_works() {
    check_random(|plan| plan.rules.takeover_retried = false, &["stuck"]);
}

/// A crashed owner's transaction commits while its successor waits for the fences, with another number of lanes. Seen from one
/// statement all fences are still where they began, and may be laid anew.
#[test]
fn a_takeover_reads_the_fences_after_it_waited_for_them() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        sim.publish(4);
        all_but_workers(sim, 0);
        sim.world.borrow_mut().faults.write_orphaned = 1000;
        workers(sim, 0);
        sim.world.borrow_mut().faults = Faults::default();
        sim.crash(0);
        sim.pass(SESSION_TIMEOUT * 2);
        sim.start(0, &Setup { lanes: 4, ..setup });
        sim.rounds(20);
    };
    check(Plan::small, scenario, |plan| plan.statements.takeover_in_statements = false, "applied twice");
}

#[test]
fn only_a_takeover_creates_fences() {
    let off = |plan: &mut Plan| plan.statements.only_takeover_creates_fences = false;
    check_random(off, &["applied twice", "one owner at a time"]);
}

#[test]
fn a_lower_progress_than_expected_starts_the_partition_over() {
    check_random(|plan| plan.rules.restart_when_done_lower = false, &["stored progress is true"]);
}

/// A hidden fall-back leaves lane 0 as believed and lane 1 behind; one batch holds both.
#[test]
fn all_fences_move_or_none() {
    let scenario = |sim: &mut Sim| {
        let keys = [key_of(0, 2), key_of(1, 2)];
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        sim.publish_key(partition(0, 0), &keys[0]);
        sim.rounds(20);
        let before = sim.world.borrow().dbs[0].past() - 1;
        sim.publish_key(partition(0, 0), &keys[1]);
        sim.rounds(20);
        sim.fall_back(0, before, true);
        sim.publish_key(partition(0, 0), &keys[0]);
        sim.publish_key(partition(0, 0), &keys[1]);
        for _ in 0..10 {
            sim.step(0, Process::step_poller);
        }
        workers(sim, 0);
    };
    check(Plan::small, scenario, |plan| plan.statements.all_fences_or_none = false, "stored progress is true");
}

#[test]
fn what_another_took_over_is_taken_over_again_while_it_is_assigned() {
    check_random(|plan| plan.rules.retake_when_assigned = false, &["stuck"]);
}

#[test]
fn lower_or_mixed_fences_are_never_adopted() {
    check_random(|plan| plan.rules.never_adopt = false, &["in order", "stuck: missing [", "nothing lost"]);
}

#[test]
fn stored_progress_is_verified_against_the_fences() {
    check_random(|plan| plan.statements.verified_progress = false, &["stored progress is true"]);
}

#[test]
fn the_databases_are_compared_when_nothing_moves_too() {
    check_random(|plan| plan.rules.compare_when_idle = false, &["stuck"]);
}

#[test]
fn the_commit_waits_for_every_shard() {
    let off = |plan: &mut Plan| plan.rules.commit_only_acknowledged = false;
    check_random(off, &["in order", "stuck: missing [", "nothing lost", "never durable"]);
}

/// The successor has read the stored progress; its predecessor, still the owner, stores more; retention follows. What the
/// successor knows lies below the log's begin, and nothing is lost.
#[test]
fn a_start_below_the_log_is_believed_only_after_asking_again() {
    let at = partition(0, 0);
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        sim.publish(6);
        sim.rounds(30);
        sim.publish(4);
        for _ in 0..10 {
            sim.step(0, Process::step_poller);
        }
        sim.step(0, |p| p.step_control(0));
        sim.hang(0);
        sim.pass(SESSION_TIMEOUT * 2);
        sim.start(1, &setup);
        for _ in 0..2 {
            sim.step(1, Process::step_poller);
            sim.pass(ROUND);
        }
        sim.step(1, |p| p.step_control(0));
        sim.go_on(0);
        workers(sim, 0);
        sim.step(0, Process::step_poller);
        sim.step(0, |p| p.step_control(0));
        let mut w = sim.world.borrow_mut();
        let done = w.dbs[0].tables.anchors[&at].done;
        w.broker.retain_from(at, NextOffset(done));
    };
    check(two_slots, scenario, |plan| plan.rules.ask_again = false, "without a reason");
}

/// Everything but the slow lanes works for a while.
pub fn all_but_slow_lanes(sim: &mut Sim, slot: usize, rounds: usize) {
    for _ in 0..rounds {
        sim.step(slot, Process::step_poller);
        sim.step(slot, |p| p.step_control(0));
        workers(sim, slot);
        sim.pass(ROUND);
    }
}

pub fn slow_lane(sim: &mut Sim, slot: usize, steps: usize) {
    for _ in 0..steps {
        sim.step(slot, |p| p.step_slow_lane(0));
    }
}

pub fn lock(sim: &Sim, key: &str) {
    sim.world.borrow_mut().locked.insert(key.as_bytes().to_vec());
}

/// A key whose row is locked is parked; what comes of it after the lock is gone, and before the slow lane has been there, must not
/// overtake it.
#[test]
fn later_records_of_a_parked_key_follow_it() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        lock(sim, "a");
        sim.publish_key(partition(0, 0), "a");
        all_but_slow_lanes(sim, 0, 20);
        sim.world.borrow_mut().locked.clear();
        sim.publish_key(partition(0, 0), "a");
        all_but_slow_lanes(sim, 0, 5);
    };
    check(Plan::small, scenario, |plan| plan.rules.parked_follow = false, "in order");
}

/// A key whose records take long while others wait is parked without a person. Once its records are quick, and the slow lane has
/// emptied it, it goes on like any other. Every guarantee holds on the way.
#[test]
fn a_hot_key_is_parked_and_comes_back() {
    let mut sim = Sim::new(Plan::small(0));
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    let publish = |sim: &mut Sim, rounds: usize| {
        for _ in 0..rounds {
            ["a", "b"].iter().for_each(|key| sim.publish_key(partition(0, 0), key));
            all_but_slow_lanes(sim, 0, 3);
        }
    };
    let parked = |sim: &Sim| -> Vec<(Vec<u8>, Why)> {
        let w = sim.world.borrow();
        let key = |id: u64| w.broker.published[id as usize].key.clone().unwrap_or_default();
        w.dbs[0].tables.parked.values().map(|row| (key(row.id), row.why)).collect()
    };
    publish(&mut sim, 20);
    assert_eq!(parked(&sim), [], "nothing takes long");
    sim.world.borrow_mut().hot.insert(b"a".to_vec());
    publish(&mut sim, 20);
    let hot = parked(&sim);
    assert!(hot.len() > 5 && hot.iter().all(|row| *row == (b"a".to_vec(), Why::Hot)), "{hot:?}");
    sim.world.borrow_mut().hot.clear();
    // What its records took counts until the slow lane has shown that they take it no more.
    for _ in 0..40 {
        publish(&mut sim, 1);
        slow_lane(&mut sim, 0, 6);
    }
    assert_eq!(parked(&sim), []);
    publish(&mut sim, 3);
    assert_eq!(parked(&sim), [], "it is a key like any other");
    sim.settle().unwrap_or_else(|what| panic!("{what}"));
}

/// A batch folds the records of a key into one row; the probe finds it locked. All of them park, not only the last one.
#[test]
fn losers_of_the_folding_park_with_the_winner() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        lock(sim, "a");
        (0..3).for_each(|_| sim.publish_key(partition(0, 0), "a"));
        all_but_slow_lanes(sim, 0, 20);
    };
    // The fake database applies records one by one: a loser that is lost is one that is applied to a locked row there.
    let without = |plan: &mut Plan| plan.statements.losers_park_too = false;
    check(Plan::small, scenario, without, "its row is locked");
}

/// Two slow lanes have read the same rows. The first one applies them and goes on; the second one comes late.
#[test]
fn the_slow_lane_locks_the_first_row_of_a_key() {
    let scenario = |sim: &mut Sim| {
        let setup = Setup { slow_lanes: 1, ..sim.plan.setup() };
        sim.start(0, &setup);
        lock(sim, "a");
        sim.publish_key(partition(0, 0), "a");
        all_but_slow_lanes(sim, 0, 20);
        sim.world.borrow_mut().locked.clear();
        // It claims and reads, and then its machine swaps.
        slow_lane(sim, 0, 2);
        sim.hang(0);
        sim.pass(SESSION_TIMEOUT * 2);
        sim.start(1, &setup);
        sim.rounds(30);
        sim.go_on(0);
        slow_lane(sim, 0, 1);
    };
    check(two_slots, scenario, |plan| plan.statements.heads_locked = false, "applied twice");
}

/// The owner's transaction that parks a key is in flight when its successor takes over and waits for it. Read in the statement that
/// began before the wait, the key looks free.
#[test]
fn a_takeover_reads_what_is_parked_after_it_waited() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        lock(sim, "a");
        sim.publish_key(partition(0, 0), "a");
        all_but_workers(sim, 0);
        sim.world.borrow_mut().faults.write_orphaned = 1000;
        workers(sim, 0);
        sim.world.borrow_mut().faults = Faults::default();
        sim.crash(0);
        sim.world.borrow_mut().locked.clear();
        sim.pass(SESSION_TIMEOUT * 2);
        sim.publish_key(partition(0, 0), "a");
        sim.start(0, &setup);
        all_but_slow_lanes(sim, 0, 30);
    };
    check(Plan::small, scenario, |plan| plan.statements.parked_read_behind_locks = false, "in order");
}

/// The slow lane has emptied a key, and a database that fell back behind a pooler brings its rows back, with the fences as they are.
#[test]
fn a_key_is_free_only_if_a_transaction_of_its_lane_finds_it_so() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        lock(sim, "a");
        sim.publish_key(partition(0, 0), "a");
        all_but_slow_lanes(sim, 0, 20);
        let before = sim.world.borrow().dbs[0].past() - 1;
        sim.world.borrow_mut().locked.clear();
        slow_lane(sim, 0, 6);
        sim.fall_back(0, before, true);
        sim.publish_key(partition(0, 0), "a");
        for _ in 0..5 {
            sim.step(0, Process::step_poller);
        }
        workers(sim, 0);
    };
    check(Plan::small, scenario, |plan| plan.statements.free_verified = false, "in order");
}

/// The probe found which keys are locked; the answer that says so is lost.
#[test]
fn after_a_lost_answer_what_is_parked_is_read() {
    let scenario = |sim: &mut Sim| {
        let setup = sim.plan.setup();
        sim.start(0, &setup);
        lock(sim, "a");
        sim.publish_key(partition(0, 0), "a");
        all_but_workers(sim, 0);
        sim.world.borrow_mut().faults.write_lost_applied = 1000;
        // It fills its batch, waits for the lock, and then probes.
        (0..3).for_each(|_| sim.step(0, |p| p.step_worker(0)));
        sim.world.borrow_mut().faults = Faults::default();
        sim.world.borrow_mut().locked.clear();
        sim.publish_key(partition(0, 0), "a");
        all_but_slow_lanes(sim, 0, 20);
    };
    check(Plan::small, scenario, |plan| plan.rules.reread_parked = false, "in order");
}

/// A tenure has parked a key and ends, while records of it are at a worker; its token is still the fences'.
#[test]
fn nothing_is_written_for_a_tenure_that_ended_with_parked_keys() {
    check_random(|plan| plan.rules.closed_stay_closed = false, &["in order"]);
}
