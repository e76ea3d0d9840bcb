//! Wishes and limits on one side, plans or refusals on the other; and what holds for every plan.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::planner::limits::ServerLimits;
use crate::planner::plan::Refusal;
use crate::planner::wish::Asked;
use crate::planner::write;

fn wish(asked: &Asked) -> Wish {
    Wish::new(asked).expect("a valid wish").0
}

fn limits(max_connections: u64, rows_per_s: f64) -> Limits {
    Limits {
        servers: vec![ServerLimits::assumed(Some(max_connections)).0],
        slow_lanes: 1,
        besides: 2,
        rates: Rates::Assumed {
            database_rows_per_s: rows_per_s,
            connection_rows_per_s: rows_per_s / 4.0,
            commit_s: 0.002,
        },
        rates_from: "given".to_owned(),
        wal_bytes_per_row: None,
    }
}

/// The worked example of the documentation.
fn large() -> Asked {
    Asked { per_day: Some(1e10), peak: Some(4e5), shards: Some(40), growth: Some(16), ..Asked::default() }
}

#[track_caller]
fn plan(asked: &Asked, limits: &Limits) -> Plan {
    let decision = decide(&wish(asked), limits);
    decision.plan.unwrap_or_else(|| panic!("{:?}", decision.refusals))
}

#[test]
fn ten_billion_a_day_over_forty_databases() {
    let found = plan(&large(), &limits(200, 20_000.0));
    assert_eq!((found.shards, found.processes, found.spare_processes), (40, 5, 1));
    assert_eq!((found.workers_per_shard, found.lanes, found.batch_records_max), (1, 16, 200));
    assert_eq!((found.partitions_per_shard, found.partitions), (16, 640));
    assert_eq!((found.connections_per_process, found.connections_per_shard, found.connections_room), (4, 20, 197));
    // 4 connections: 800 / (0.002 + 200 / 5000) = 19,048 rows/s.
    assert_eq!((found.shard_rows_per_s.round(), found.capacity_per_s.round()), (19_048.0, 634_921.0));
    // 3472.2/s × 3600 s ÷ (19,047.6 − 3472.2) = 802.5 s, and 2 × (3600 + 802.5) s are 2.4 h.
    assert_eq!((found.catch_up_s.round(), found.retention_s), (803.0, 3.0 * 3600.0));
    // (115,741 × 10,800 + 284,259 × 600) × 300 × 3
    assert!((found.kafka_bytes / 1.278_5e12 - 1.0).abs() < 1e-3, "{}", found.kafka_bytes);
    assert_eq!((found.replication, found.min_insync_replicas), (3, 2));
    assert!(!found.at_peak.waits && found.at_mean.connections_at_work == 1, "{:?}", found.at_peak);
    assert_eq!(found.breaks[0].at_per_s, 400_000.0, "four processes of 100,000/s: {:?}", found.breaks);
}

#[test]
fn one_small_database_needs_little() {
    let asked = Asked { peak: Some(500.0), mean: Some(100.0), spare_processes: Some(0), ..Asked::default() };
    let found = plan(&asked, &limits(100, 12_000.0));
    assert_eq!((found.shards, found.processes, found.workers_per_shard, found.partitions), (1, 1, 1, 4));
    assert!(found.time_lag_s < 0.01, "{}", found.time_lag_s);
}

/// A burst need not be borne as it comes.
#[test]
fn what_may_wait_needs_fewer_databases() {
    let asked = |lag_s| Asked {
        peak: Some(120_000.0),
        mean: Some(10_000.0),
        burst: Some(Duration::from_secs(60)),
        time_lag: Some(Duration::from_secs(lag_s)),
        busiest_shard: Some(1.0),
        used_percent: Some(100.0),
        ..Asked::default()
    };
    let limits = limits(200, 12_000.0);
    let (prompt, late) = (plan(&asked(1), &limits), plan(&asked(60), &limits));
    assert_eq!((prompt.shards, late.shards), (11, 6), "118,033 and 60,000 ÷ 11,650 rows/s");
    assert!(late.at_peak.waits && (25.0..60.1).contains(&late.time_lag_s), "{}", late.time_lag_s);
}

#[track_caller]
fn check_refused(asked: &Asked, limits: &Limits, why: &str, nearest: &[&str]) {
    let decision = decide(&wish(asked), limits);
    assert_eq!(decision.plan, None);
    let [Refusal { why: found, nearest: can }] = &decision.refusals[..] else { panic!("{:?}", decision.refusals) };
    assert_eq!((found.as_str(), can.iter().map(String::as_str).collect::<Vec<_>>()), (why, nearest.to_vec()));
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let small = limits(100, 12_000.0);
    check_refused(
        &Asked { shards: Some(20), outage: Some(Duration::from_secs(600)), ..large() },
        &small,
        "20 shards bear 155,340/s in all (20 × 9,320 ÷ 1.2); 393,443/s are needed",
        &[
            "51 shards",
            "databases that take 29,508 rows/s each, instead of 11,650",
            "a peak of 157,928/s (--peak), and 29 min 14 s to catch up (--catch-up)",
            "a time lag of 15 min 45 s at the end of this peak (--time-lag), and 29 min 14 s to catch up (--catch-up)",
        ],
    );
    check_refused(
        &Asked { shards: Some(5), ..large() },
        &small,
        "5 shards bear 38,835/s in all (5 × 9,320 ÷ 1.2); 393,443/s are needed",
        &[
            "51 shards",
            "databases that take 118,033 rows/s each, instead of 11,650",
            "a mean rate below 38,834/s (--mean)",
        ],
    );
    check_refused(
        &Asked { processes: Some(3), ..large() },
        &small,
        "3 processes, of which 1 may fail, take in 200,000/s; 393,443/s are needed",
        &["--processes 5", "processes that take in 196,721/s each (--process-rows-per-second)"],
    );
    check_refused(
        &large(),
        &limits(20, 12_000.0),
        "5 processes need 4 connections each to a shard (1 worker + 1 slow lanes + 2): 20; a database has 17",
        &[
            "max_connections = 23, if nothing else limits them",
            "4 processes, each of which takes in 133,333/s (--process-rows-per-second)",
        ],
    );
    check_refused(
        &Asked { time_lag: Some(Duration::from_millis(1)), peak: Some(1000.0), ..Asked::default() },
        &small,
        "time lag of 1.0 ms is allowed; a record that has just missed a transaction of 3.3 ms, and is in the next one, is durable after \
         6.7 ms",
        &[
            "a time lag of 6.7 ms (--time-lag)",
            "databases whose COMMIT takes less, or more of them, so that transactions are smaller",
        ],
    );
}

#[test]
fn more_databases_than_can_be_numbered_are_refused() {
    let asked =
        Asked { peak: Some(1e9), mean: Some(1e9), processes: Some(90), process_rows: Some(1e9), ..Asked::default() };
    let decision = decide(&wish(&asked), &limits(1000, 12_000.0));
    assert!(decision.refusals[0].why.starts_with("10,000 shards bear "), "{:?}", decision.refusals);
    assert!(decision.refusals[0].nearest[0].starts_with("databases that take "), "{:?}", decision.refusals);
}

/// The nearest thing is one that can be.
#[test]
fn what_a_refusal_offers_is_not_refused() {
    let small = limits(100, 12_000.0);
    for asked in [
        Asked { shards: Some(51), ..large() },
        Asked { shards: Some(20), peak: Some(157_928.0), catch_up: Some(Duration::from_secs(3600 * 7)), ..large() },
        Asked {
            shards: Some(20),
            time_lag: Some(Duration::from_secs(946)),
            catch_up: Some(Duration::from_secs(3600 * 7)),
            ..large()
        },
    ] {
        plan(&asked, &small);
    }
    plan(&large(), &Limits { servers: limits(23, 30_000.0).servers, ..limits(23, 30_000.0) });
}

#[test]
fn shards_on_one_server_share_its_connections() {
    let mut shared = limits(103, 12_000.0);
    shared.servers[0].shards = 4;
    shared.servers[0].name = "a".to_owned();
    let asked = Asked { peak: Some(10_000.0), shards: Some(4), ..Asked::default() };
    let found = plan(&asked, &shared);
    assert_eq!(found.connections_room, 25);
    assert!(found.connections_per_shard <= 25, "{found:?}");
}

#[test]
fn settings_that_flatter_are_named() {
    let mut flattering = limits(100, 12_000.0);
    flattering.wal_bytes_per_row = Some(500.0);
    for (name, value) in [
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("max_wal_size", "1GB"),
        ("checkpoint_timeout", "5min"),
        ("checkpoint_completion_target", "0.9"),
    ] {
        flattering.servers[0].settings.insert(name.to_owned(), value.to_owned());
    }
    let found = decide(&wish(&Asked { peak: Some(6_000.0), ..Asked::default() }), &flattering);
    let warnings = found.warnings.join("\n");
    for expected in ["fsync is off", "synchronous_commit is off", "fill max_wal_size (1GB) ÷ 1.9 in 157 s"] {
        assert!(
            warnings.contains(expected) || warnings.contains("in 2 min 37 s"),
            "{expected} is missing in {warnings}"
        );
    }
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let rates = (1.0f64..1e6, 1.0f64..20.0, 10.0f64..5_000.0);
    let times = (0u64..7200, 1u64..120, 0u64..50_000);
    let others = (0u64..4, 1u64..33, 1.0f64..3.0, 20.0f64..100.0, proptest::option::of(1u64..200));
    (rates, times, others).prop_map(
        |((mean, factor, bytes), (burst, lag, outage), (spare, growth, busiest, used, shards))| Asked {
            mean: Some(mean),
            peak: Some(mean * factor),
            record_bytes: Some(bytes),
            burst: Some(Duration::from_secs(burst)),
            time_lag: Some(Duration::from_secs(lag)),
            outage: Some(Duration::from_secs(outage)),
            spare_processes: Some(spare),
            growth: Some(growth),
            busiest_shard: Some(busiest),
            used_percent: Some(used),
            shards,
            ..Asked::default()
        },
    )
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let of = (10u64..1000, 100.0f64..200_000.0, 0.05f64..1.0, 0.0001f64..0.1, 1usize..5);
    of.prop_map(|(max, rows, connection, commit_s, shards)| {
        let mut limits = limits(max, rows);
        limits.servers[0].shards = shards;
        limits.rates = Rates::Assumed { database_rows_per_s: rows, connection_rows_per_s: rows * connection, commit_s };
        limits
    })
}

proptest! {
    #[test]
    fn every_plan_keeps_what_it_promises(asked in any_asked(), limits in any_limits()) {
        let wish = wish(&asked);
        let decision = decide(&wish, &limits);
        prop_assert!(decision.plan.is_some() == decision.refusals.is_empty());
        let Some(plan) = decision.plan else {
            prop_assert!(decision.refusals.iter().all(|refusal| !refusal.nearest.is_empty()));
            return Ok(());
        };
        let each = plan.workers_per_shard + plan.slow_lanes_per_shard + limits.besides;
        prop_assert_eq!(plan.connections_per_process, each);
        let of_server = (plan.processes * each * limits.servers[0].shards.max(1)) as i64;
        prop_assert!(of_server <= limits.servers[0].room, "{} of {}", of_server, limits.servers[0].room);
        prop_assert_eq!(plan.partitions, plan.shards * plan.partitions_per_shard);
        prop_assert!(plan.partitions_per_shard.is_power_of_two() && plan.partitions_per_shard >= wish.growth as usize);
        prop_assert!(plan.lanes >= plan.workers_per_shard && plan.lanes.is_power_of_two());
        // What is needed is borne by the processes that are left.
        let alive = (plan.processes - plan.spare_processes) as f64;
        let needed = wish.peak_per_s * wish.burst_s / (wish.burst_s + wish.time_lag_s);
        prop_assert!(plan.capacity_per_s * wish.used >= needed * 0.999_999);
        prop_assert!(alive * wish.process_rows_per_s >= needed * 0.999_999);
        prop_assert!(plan.catch_up_s <= wish.catch_up_s * 1.000_001);
        prop_assert!(plan.retention_s >= wish.outage_s + plan.catch_up_s);
        // What waits at the end of a peak, and one transaction of its own.
        prop_assert!(plan.time_lag_s <= wish.time_lag_s + plan.at_peak.durable_worst_s() + 1e-6);
        prop_assert!(plan.breaks.is_sorted_by(|a, b| a.at_per_s <= b.at_per_s));
        if plan.shards > 200 {
            // Whatever there are more of is read the same way, and takes its time.
            return Ok(());
        }
        let text = write::configuration(&write::Present::default(), &plan).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let config = write::parse(&text).map_err(|e| TestCaseError::fail(e.to_string()))?.config;
        prop_assert_eq!(config.shards.len(), plan.shards);
        prop_assert_eq!(config.engine.writers_per_shard() + config.connections_besides_writers(), plan.connections_per_process);
        prop_assert_eq!((config.engine.batch_records_max, usize::from(config.engine.lanes)), (plan.batch_records_max, plan.lanes));
    }

    #[test]
    fn more_traffic_never_needs_fewer_databases(asked in any_asked(), limits in any_limits(), more in 1.0f64..5.0) {
        let asked = Asked { shards: None, ..asked };
        let greater = Asked { peak: asked.peak.map(|peak| peak * more), ..asked.clone() };
        let shards = |asked: &Asked| decide(&wish(asked), &limits).plan.map(|plan| plan.shards);
        match (shards(&asked), shards(&greater)) {
            (Some(less), Some(more)) => prop_assert!(less <= more, "{} and then {}", less, more),
            // It is refused for its connections, or because transactions become larger than the time lag lets them.
            (_, None) => {}
            (None, Some(_)) => {
                let first = decide(&wish(&asked), &limits);
                prop_assert!(first.refusals[0].why.contains("time lag"), "{:?}", first.refusals);
            }
        }
    }
}
