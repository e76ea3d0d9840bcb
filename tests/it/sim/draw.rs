//! What a seed decides before anything happens: the deployment, how often what goes wrong, which troubles come up.

use std::time::Duration;

use fastrand::Rng;
use forebay::config::{Affinity, BadLimit, OnBadRecord, Pace, ParkingLimits, Replica, Then};

use super::broker::ShardOf;
use super::process::Setup;
use super::scenario::{Contents, Plan};
use super::world::Faults;

/// Kinds of trouble; each seed leaves about half of them out, so that each pair meets alone now and then.
#[derive(Debug, Clone, Copy, Default)]
pub struct Troubles {
    pub crashes: bool,
    pub restarts: bool,
    pub hangs: bool,
    pub rebalances: bool,
    pub outages: bool,
    pub fall_backs: bool,
    pub hidden_fall_backs: bool,
    pub broker_outages: bool,
    pub safe_retention: bool,
    pub lossy_retention: bool,
    pub truncation: bool,
    pub recreation: bool,
    pub poison: bool,
    pub clock_jumps: bool,
    /// Rows that somebody else locks.
    pub locks: bool,
    /// Keys that an operator holds.
    pub holds: bool,
    /// Keys whose records take long.
    pub hot: bool,
}

/// What else stops a topic is tested where the limits are.
pub const ANY_NUMBER: BadLimit = BadLimit { run_max: usize::MAX, percent_max: 100 };

pub fn plan(seed: u64, rng: &mut Rng) -> Plan {
    let shards = rng.usize(1..=2);
    let routing = match (shards, rng.bool()) {
        (1, _) => ShardOf::Only,
        (n, true) => ShardOf::Partition(n),
        (n, false) => ShardOf::KeyHash(n),
    };
    let on_bad_record = match rng.u8(0..4) {
        0 | 1 => OnBadRecord::Stop,
        2 => OnBadRecord::DeadLetter(ANY_NUMBER, Then::Skip),
        _ => OnBadRecord::DeadLetter(ANY_NUMBER, Then::Park),
    };
    let topics = if rng.u8(0..5) == 0 { 2 } else { 1 };
    // What waits behind a dead letter, or of a topic that stopped, may fill it up, and then a person is waited for.
    let may_be_full = match on_bad_record {
        OnBadRecord::Stop => topics == 1,
        OnBadRecord::DeadLetter(_, then) => then == Then::Skip,
    };
    let parking = match rng.u8(0..4) {
        0 if may_be_full => ParkingLimits { records_max: rng.u64(1..30), key_records_max: rng.u64(1..10) },
        _ => Plan::small(seed).parking,
    };
    Plan {
        slots: rng.usize(1..=3),
        topics,
        partitions: rng.usize(1..=3),
        shards,
        routing,
        eager: rng.bool(),
        static_members: rng.u8(0..4) == 0,
        keys: rng.u32(1..10),
        window: rng.usize(5..60),
        on_bad_record,
        parking,
        ..Plan::small(seed)
    }
}

/// What records say besides their keys; each of it in some seeds only.
pub fn contents(plan: &Plan, rng: &mut Rng) -> Contents {
    // What stops a topic leaves little else to happen.
    let bad = |rng: &mut Rng| rng.u8(0..if plan.on_bad_record == OnBadRecord::Stop { 16 } else { 3 }) == 0;
    Contents {
        meet: rng.u8(0..3) == 0,
        parents: bad(rng),
        unroutable: bad(rng) && matches!(plan.routing, ShardOf::KeyHash(_)),
    }
}

pub fn setup(plan: &Plan, rng: &mut Rng) -> Setup {
    Setup {
        workers: rng.usize(1..=3),
        lanes: 1 << rng.u16(0..=3),
        affinity: if rng.u8(0..4) == 0 { Affinity::Static } else { Affinity::Late },
        batch_records_max: rng.usize(1..12),
        pace: pace(rng),
        topic_rows_per_second_max: ceiling(rng),
        tenant_rows_per_second_max: ceiling(rng),
        slow_lanes: rng.usize(1..=2),
        ..plan.setup()
    }
}

/// Most processes are held to nothing, some to several things at once.
pub fn pace(rng: &mut Rng) -> Pace {
    let replica = Replica { name: "replica".into(), lag_max: Duration::from_millis(200) };
    Pace {
        rows_per_second_max: ceiling(rng),
        adaptive_limit: rng.u8(0..4) == 0,
        replica: (rng.u8(0..6) == 0).then_some(replica),
    }
}

/// The lowest of them makes workers wait much longer than anything else here takes.
pub fn ceiling(rng: &mut Rng) -> Option<usize> {
    (rng.u8(0..4) == 0).then(|| 20 << rng.u32(0..8))
}

pub fn faults(rng: &mut Rng) -> Faults {
    let mut rate = |often: u32| if rng.bool() { 0 } else { rng.u32(1..=often) };
    Faults {
        write_lost_applied: rate(100),
        write_lost_unapplied: rate(100),
        write_orphaned: rate(150),
        write_transient: rate(100),
        write_lock_wait: rate(100),
        write_too_long: rate(100),
        reread_lost: rate(200),
        control_lost_applied: rate(100),
        control_lost_unapplied: rate(100),
        control_orphaned: rate(100),
        ask_fails: rate(200),
        client_fails: rate(200),
        commit_lost: rate(300),
        commit_late: rate(300),
        event_late: rate(500),
        replica_behind: rate(1000),
        handed_out_twice: rate(100),
    }
}

pub fn troubles(plan: &Plan, rng: &mut Rng) -> Troubles {
    let rare = |rng: &mut Rng| rng.u8(0..12) == 0;
    Troubles {
        crashes: rng.bool(),
        restarts: rng.bool(),
        hangs: rng.bool(),
        rebalances: rng.bool(),
        outages: rng.bool(),
        fall_backs: rng.u8(0..3) == 0,
        hidden_fall_backs: rng.u8(0..3) == 0,
        broker_outages: rng.u8(0..3) == 0,
        safe_retention: rng.u8(0..3) == 0,
        lossy_retention: rare(rng),
        truncation: rare(rng),
        recreation: rare(rng),
        // Where it stops a topic, little else happens to that topic.
        poison: rare(rng) || (plan.on_bad_record != OnBadRecord::Stop && rng.bool()),
        clock_jumps: rng.u8(0..4) == 0,
        locks: rng.bool(),
        holds: rng.u8(0..3) == 0,
        hot: rng.bool(),
    }
}
