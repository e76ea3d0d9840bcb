//! A shard that is down: how it is tried, and that the other one goes on.

use std::time::Duration;

use forebay::types::NextOffset;

use super::broker::ShardOf;
use super::process::Setup;
use super::scenario::{Plan, ROUND, Sim, partition};

/// Two shards with a partition each, and eight workers a shard.
fn running(seed: u64) -> Sim {
    let plan = Plan { partitions: 2, shards: 2, routing: ShardOf::Partition(2), keys: 16, ..Plan::small(seed) };
    let mut sim = Sim::new(plan);
    let setup = Setup { workers: 8, lanes: 16, ..sim.plan.setup() };
    sim.start(0, &setup);
    sim.publish(60);
    sim.rounds(60);
    sim
}

#[test]
fn a_shard_that_is_down_is_tried_by_one_and_the_other_goes_on() {
    for seed in 0..20 {
        let mut sim = running(seed);
        {
            let mut w = sim.world.borrow_mut();
            w.dbs[1].down = true;
            (w.probes, w.refused) = (0, 0);
        }
        // Ten seconds, in which every worker has something to write.
        let rounds = (Duration::from_secs(10).as_millis() / ROUND.as_millis()) as usize;
        for _ in 0..rounds / 10 {
            sim.publish(20);
            sim.rounds(10);
        }
        let (probes, refused) = (sim.world.borrow().probes, sim.world.borrow().refused);
        assert!(probes >= 5, "seed {seed}: nobody looks: {probes} probes");
        assert!(refused <= probes + 9, "seed {seed}: {refused} attempts met it, {probes} of them probes");
        // They back off up to a bound of 60 ms, of which at least half is waited.
        assert!(probes < 10_000 / 30, "seed {seed}: {probes} probes in ten seconds");
        let (end, committed) = {
            let w = sim.world.borrow();
            let committed = |p| w.group.committed.get(&partition(0, p)).map(|(next, _)| NextOffset(*next));
            (w.broker.log(partition(0, 0)).end, committed(0))
        };
        assert!(
            committed.is_some_and(|next| next.0 > end / 2),
            "seed {seed}: the other one stands: {committed:?} of {end}"
        );
        // Back again: all of its workers go on with the first probe, and nothing is lost or repeated.
        sim.settle().unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}
