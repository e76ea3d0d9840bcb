//! What a full window does: nothing is taken out of Kafka where nobody would miss what comes after it, and its partition is
//! paused where somebody would.

use std::collections::BTreeSet;

use super::broker::ShardOf;
use super::process::Process;
use super::scenario::{Plan, ROUND, Sim};

const WINDOW: usize = 60;
const RECORDS: usize = 600;

/// Everything works but the workers of shard 0.
fn round_without_shard_0(sim: &mut Sim) {
    sim.step(0, Process::step_poller);
    for shard in 0..2 {
        sim.step(0, |p| p.step_control(shard));
    }
    // There is one worker for each shard.
    sim.step(0, |p| p.step_worker(1));
    sim.pass(ROUND);
}

/// What it fetched meanwhile would be thrown away, and fetched again.
#[test]
fn the_only_partition_with_records_is_not_paused() {
    // Its worker would take three batches of twenty.
    let mut sim = Sim::new(Plan { window: WINDOW / 2, ..Plan::small(7) });
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    sim.publish(RECORDS);
    sim.settle().unwrap();
    assert_eq!(sim.running(0).expect("it runs").pauses(), 0);
}

/// One database stands still; what the other one waits for lies behind records that no window has room for.
#[test]
fn a_partition_is_paused_where_another_has_room_and_a_worker_nothing_to_do() {
    let routing = ShardOf::Partition(2);
    let mut sim = Sim::new(Plan { window: WINDOW, partitions: 2, shards: 2, keys: 10, routing, ..Plan::small(7) });
    let setup = sim.plan.setup();
    sim.start(0, &setup);
    sim.publish(RECORDS);
    for _ in 0..400 {
        round_without_shard_0(&mut sim);
    }
    let pauses = sim.running(0).expect("it runs").pauses();
    assert!(pauses > 0, "shard 1 waits for what comes after a full window");
    let of: BTreeSet<i32> = {
        let w = sim.world.borrow();
        w.missing().map(|id| w.broker.published[id as usize].at.partition).collect()
    };
    assert_eq!(of, BTreeSet::from([0]), "shard 0 stands still, and shard 1 is done");
    sim.settle().unwrap();
}
