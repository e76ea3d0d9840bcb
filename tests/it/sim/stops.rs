//! Never skip in silence: what each kind of trouble with a log must lead to. A topic that stops says why, and the others go on.

use forebay::config::{BadLimit, FirstStart, OnBadRecord, Then};
use forebay::types::{NextOffset, TopicIx, TopicPartition};

use super::broker::ShardOf;
use super::process::{Process, SESSION_TIMEOUT, Setup};
use super::scenario::{Plan, ROUND, Sim, Slot, partition};

/// Two topics; the first one gets into trouble once some of its records are applied.
fn running(seed: u64) -> Sim {
    let mut sim = Sim::new(Plan { topics: 2, ..Plan::small(seed) });
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    sim.publish(20);
    sim.rounds(30);
    sim
}

/// What the process that runs says of topic 0.
fn said(sim: &mut Sim) -> Option<String> {
    sim.running(0).and_then(|p| p.stopped.get(&0).cloned())
}

/// After the trouble topic 0 stops with a message that holds `words`, and topic 1 is done to its end.
fn stops(trouble: impl Fn(&mut Sim), words: &[&str]) {
    for seed in 0..10 {
        let mut sim = running(seed);
        trouble(&mut sim);
        sim.publish(5);
        // Identities are compared every half a minute.
        sim.rounds(1_500);
        sim.settle().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        let said = said(&mut sim).unwrap_or_else(|| panic!("seed {seed}: topic 0 goes on"));
        assert!(words.iter().all(|w| said.contains(w)), "{said:?} instead of {words:?}");
        assert_eq!(sim.world.borrow().missing_of(1), 0, "topic 1 goes on");
    }
}

fn restart(sim: &mut Sim) {
    sim.crash(0);
    sim.pass(SESSION_TIMEOUT * 2);
    let setup = sim.plan.setup();
    sim.start(0, &setup);
}

#[test]
fn a_topic_that_is_made_anew_under_a_running_process() {
    stops(|sim| sim.world.borrow_mut().broker.recreate(TopicIx(0)), &["deleted and created again"]);
}

#[test]
fn a_topic_that_is_made_anew_while_nobody_runs() {
    let trouble = |sim: &mut Sim| {
        sim.world.borrow_mut().broker.recreate(TopicIx(0));
        restart(sim);
    };
    stops(trouble, &["another"]);
}

/// All topics of a cluster are other ones then.
#[test]
fn another_cluster_under_the_same_group() {
    let mut sim = running(1);
    sim.world.borrow_mut().broker.cluster_id = "cluster-2".into();
    restart(&mut sim);
    sim.settle().unwrap();
    assert!(said(&mut sim).is_some_and(|s| s.contains("cluster-2")));
}

/// Retention overtakes a group that is away, and one whose partition waits for its database.
#[test]
fn retention_that_overtakes_the_group() {
    let overtake = |sim: &Sim| {
        sim.publish(40);
        let mut w = sim.world.borrow_mut();
        let end = w.broker.log(partition(0, 0)).end;
        w.broker.retain_from(partition(0, 0), NextOffset(end - 2));
    };
    let away = |sim: &mut Sim| {
        sim.hang(0);
        overtake(sim);
        restart(sim);
    };
    stops(away, &["gone from Kafka", "retention"]);
    let waiting = |sim: &mut Sim| {
        sim.world.borrow_mut().dbs[0].down = true;
        sim.rounds(20);
        overtake(sim);
        sim.rounds(20);
        sim.world.borrow_mut().dbs[0].down = false;
        restart(sim);
    };
    stops(waiting, &["gone from Kafka", "retention"]);
}

#[test]
fn a_log_that_ends_below_the_stored_progress() {
    let trouble = |sim: &mut Sim| {
        sim.world.borrow_mut().broker.truncate(partition(0, 0), NextOffset(2));
        restart(sim);
    };
    for seed in 0..10 {
        let mut sim = running(seed);
        trouble(&mut sim);
        sim.rounds(50);
        sim.settle().unwrap();
        assert!(said(&mut sim).is_some_and(|s| s.contains("truncated")), "seed {seed}");
    }
}

/// Two shards behind one partition, and a key of each.
fn two_shards(seed: u64) -> (Sim, [String; 2]) {
    let sim = Sim::new(Plan { shards: 2, routing: ShardOf::KeyHash(2), ..Plan::small(seed) });
    let shard_of =
        |shard| (0..).map(|n| format!("key{n}")).find(|key| sim.plan.routing.shard(0, Some(key.as_bytes())) == shard);
    let keys = [0, 1].map(|shard| shard_of(shard).expect("some key of each shard"));
    (sim, keys)
}

/// Two shards behind one partition, of which the second was down while the first got to the end of the log; nobody runs.
fn one_shard_behind(seed: u64, at: TopicPartition) -> (Sim, Setup) {
    let (mut sim, [fast, slow]) = two_shards(seed);
    sim.world.borrow_mut().dbs[1].down = true;
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    sim.publish_key(at, &slow);
    (0..60).for_each(|_| sim.publish_key(at, &fast));
    sim.rounds(60);
    sim.crash(0);
    sim.pass(SESSION_TIMEOUT * 2);
    (sim, setup)
}

/// The log is cut while its reader lags behind the cut, held up by one shard; another shard is beyond it already, and would
/// take what comes to lie there for done.
#[test]
fn a_log_that_is_cut_before_its_lagging_reader() {
    let at = partition(0, 0);
    for seed in 0..10 {
        let (mut sim, setup) = one_shard_behind(seed, at);
        sim.start(0, &Setup { window: 5, ..setup });
        sim.rounds(20);
        sim.world.borrow_mut().broker.truncate(at, NextOffset(40));
        sim.world.borrow_mut().dbs[1].down = false;
        sim.rounds(100);
        assert!(said(&mut sim).is_some_and(|s| s.contains("truncated")), "seed {seed}");
        sim.settle().unwrap();
    }
}

/// The log is cut after its reader learned where it ends, and the reader comes to the new end before it has taken over the
/// shard that is beyond it.
#[test]
fn a_log_that_is_cut_before_the_takeover() {
    let at = partition(0, 0);
    for seed in 0..10 {
        let (mut sim, setup) = one_shard_behind(seed, at);
        sim.world.borrow_mut().dbs[1].down = false;
        sim.start(0, &setup);
        for _ in 0..4 {
            sim.step(0, Process::step_poller);
            sim.pass(ROUND);
        }
        // They say how far they are; the takeovers that are asked for then wait.
        (0..2).for_each(|shard| sim.step(0, |p| p.step_control(shard)));
        (0..2).for_each(|_| sim.step(0, Process::step_poller));
        sim.world.borrow_mut().broker.truncate(at, NextOffset(40));
        for _ in 0..10 {
            sim.step(0, Process::step_poller);
            sim.pass(ROUND);
        }
        sim.rounds(100);
        assert!(said(&mut sim).is_some_and(|s| s.contains("truncated")), "seed {seed}");
        sim.settle().unwrap();
    }
}

/// An operator moved the group's offsets, forth or back: the database's word stands.
#[test]
fn offsets_that_an_operator_moved() {
    for next in [0, 3, 1_000] {
        let mut sim = running(next as u64);
        sim.crash(0);
        sim.publish(20);
        let at = partition(0, 0);
        sim.world.borrow_mut().group.committed.insert(at, (next, String::new()));
        restart(&mut sim);
        sim.settle().unwrap();
        assert!(matches!(&sim.slots[0], Slot::Running(p) if p.stopped.is_empty()));
    }
}

/// A record that no database takes stops its topic, at its place; nothing of the topic is lost.
#[test]
fn a_record_that_cannot_be_applied() {
    let trouble = |sim: &mut Sim| {
        sim.hang(0);
        sim.publish(20);
        let id = sim.world.borrow_mut().poison_last(partition(0, 0));
        assert!(id.is_some());
        sim.go_on(0);
    };
    stops(trouble, &["partition 0 offset", "value out of range"]);
}

/// Where bad records are set aside, that record alone is a dead letter, and its topic goes on; beyond the limit it stops, with
/// as many letters as are allowed, and nothing lost.
#[test]
fn a_record_that_is_set_aside() {
    for (bad, run_max) in [(1, 1), (3, 3), (4, 3)] {
        let on_bad_record = OnBadRecord::DeadLetter(BadLimit { run_max, percent_max: 100 }, Then::Skip);
        let mut sim = Sim::new(Plan { on_bad_record, keys: 1, ..Plan::small(7) });
        let setup = sim.plan.setup();
        sim.publish(10);
        for _ in 0..bad {
            sim.publish(1);
            sim.world.borrow_mut().poison_last(partition(0, 0)).expect("nobody has taken it");
        }
        sim.publish(10);
        // Too many are a reason to stop.
        sim.world.borrow_mut().sets_aside = bad <= run_max;
        sim.start(0, &setup);
        sim.rounds(400);
        let stopped = matches!(&sim.slots[0], Slot::Running(p) if !p.stopped.is_empty());
        let world = sim.world.borrow();
        let letters = world.dbs[0].rows.iter().filter(|row| row.dead).count();
        assert_eq!(world.broken, None);
        assert!(letters <= run_max, "{letters} letters");
        assert_eq!((stopped, world.missing().count() == 0), (bad > run_max, bad <= run_max), "{bad} bad ones");
    }
}

/// "latest" is for the very first start: a shard that does not answer may know that it is not.
#[test]
fn a_silent_shard_may_know_of_an_earlier_start() {
    let at = partition(0, 0);
    let (mut sim, [a, b]) = two_shards(1);
    let setup = Setup { first_start: FirstStart::Latest, ..sim.plan.setup() };
    sim.start(0, &setup);
    sim.rounds(100);
    sim.crash(0);
    // Only the first shard is left to know of it, and nobody has committed.
    sim.world.borrow_mut().group.committed.clear();
    sim.world.borrow_mut().dbs[1].tables.anchors.clear();
    sim.world.borrow_mut().dbs[1].tables.fences.clear();
    sim.publish_key(at, &a);
    (0..5).for_each(|_| sim.publish_key(at, &b));
    sim.pass(SESSION_TIMEOUT * 2);
    sim.world.borrow_mut().dbs[0].down = true;
    sim.start(0, &setup);
    sim.rounds(400);
    sim.world.borrow_mut().dbs[0].down = false;
    sim.rounds(400);
    sim.settle().unwrap();
}

/// A partition that nobody leads waits; the others of the assignment go on.
#[test]
fn a_partition_without_a_leader_holds_up_no_other() {
    let mut sim = Sim::new(Plan { partitions: 2, ..Plan::small(1) });
    sim.world.borrow_mut().broker.leaderless.insert(partition(0, 1));
    sim.publish(40);
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    let committed = |sim: &Sim, p| sim.world.borrow().group.committed.get(&partition(0, p)).map(|(next, _)| *next);
    sim.rounds(2_000);
    assert_eq!(committed(&sim, 0), Some(sim.world.borrow().broker.log(partition(0, 0)).end));
    assert_eq!(committed(&sim, 1), None);
    sim.world.borrow_mut().broker.leaderless.clear();
    sim.settle().unwrap();
    assert_eq!(committed(&sim, 1), Some(sim.world.borrow().broker.log(partition(0, 1)).end));
}
