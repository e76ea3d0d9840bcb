//! Wishes and limits on one side, plans or refusals on the other; and what holds for every plan.

mod given;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::planner::plan::Refusal;
use crate::planner::rates::{Curves, Point};
use crate::planner::wish::Asked;
use crate::planner::write;
use crate::source::assignor::Assignor;

fn wish(asked: &Asked) -> Wish {
    Wish::new(asked).expect("a valid wish").0
}

fn limits(max_connections: i32, rows_per_s: f64) -> Limits {
    Limits {
        servers: vec![ServerLimits::assumed(Some(max_connections)).0],
        fixed: Fixed::default(),
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
    // A database may be of one process: it has as many workers as the database needs.
    assert_eq!((found.workers_per_shard, found.lanes, found.batch_records_max), (4, 16, 200));
    assert_eq!((found.partitions_per_shard, found.partitions), (16, 640));
    assert_eq!((found.connections_per_process, found.connections_per_shard, found.connections_room), (7, 35, 197));
    // 4 connections: 800 / (0.002 + 200 / 5000) = 19,048 rows/s. Four processes of 100,000/s take in less than 40 such databases.
    assert_eq!((found.shard_rows_per_s.round(), found.capacity_per_s.round()), (19_048.0, 400_000.0));
    // 3472.2/s × 3600 s ÷ (12,000 − 3472.2) = 1465.8 s, and 2 × (3600 + 1465.8) s are 2.8 h.
    assert_eq!((found.catch_up_s.round(), found.retention_s), (1466.0, 3.0 * 3600.0));
    // (115,741 × 10,800 × 1.25 + 284,259 × 600) × 300 × 3
    assert!((found.kafka_bytes / 1.559_75e12 - 1.0).abs() < 1e-3, "{}", found.kafka_bytes);
    assert_eq!((found.replication, found.min_insync_replicas), (3, 2));
    assert!(
        !found.at_peak.waits && found.at_mean.connections_at_work == 5,
        "each process wakes a worker: {:?}",
        found.at_mean
    );
    assert_eq!(found.breaks[0].at_per_s, 400_000.0, "four processes of 100,000/s: {:?}", found.breaks);
}

/// Where every process has a part of each database whatever happens, each needs fewer workers.
#[test]
fn who_deals_partitions_out_decides_how_many_workers_there_are() {
    let with = |assignor| {
        let mut limits = limits(200, 20_000.0);
        limits.fixed.assignor = assignor;
        let found = plan(&large(), &limits);
        (found.workers_per_shard, found.connections_per_shard, found.shard_rows_per_s.round())
    };
    assert_eq!(with(Assignor::Range), (4, 35, 19_048.0));
    assert_eq!(with(Assignor::Sticky), (4, 35, 19_048.0));
    assert_eq!(with(Assignor::RoundRobin), (1, 20, 19_048.0));
    let mut range = limits(200, 20_000.0);
    range.fixed.assignor = Assignor::Range;
    let warnings = decide(&wish(&large()), &range).warnings;
    assert!(
        warnings[0].starts_with("partition.assignment.strategy is range: each process gets whole shards"),
        "{warnings:?}"
    );
    // One database is everybody's.
    let one = Asked { peak: Some(9_000.0), shards: Some(1), processes: Some(5), ..Asked::default() };
    let found = plan(&one, &limits(200, 20_000.0));
    assert_eq!((found.partitions, found.workers_per_shard), (8, 1));
}

#[test]
fn one_small_database_needs_little() {
    let asked = Asked { peak: Some(500.0), mean: Some(100.0), spare_processes: Some(0), ..Asked::default() };
    let found = plan(&asked, &limits(100, 12_000.0));
    assert_eq!((found.shards, found.processes, found.workers_per_shard, found.partitions), (1, 1, 1, 1));
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
            "databases that take 29,509 rows/s each, instead of 11,650",
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
            "a mean rate of 25,889/s (--mean), with a peak of 39,482/s (--peak)",
        ],
    );
    check_refused(
        &Asked { processes: Some(3), ..large() },
        &limits(100, 20_000.0),
        "3 processes, of which 1 may fail, take in 200,000/s; 393,443/s are needed",
        &["--processes 5", "processes that take in 198,690/s each (--process-rows-per-second)"],
    );
    check_refused(
        &large(),
        &limits(20, 20_000.0),
        "5 processes need 4 connections each to a shard (1 worker + 1 slow lanes + 2): 20; a database has 17",
        // 23 would let one worker of each in, and 28 two: too few where a database is of one process.
        &["max_connections = 38, if nothing else limits them"],
    );
    check_refused(
        &Asked { time_lag: Some(Duration::from_millis(1)), peak: Some(1000.0), ..Asked::default() },
        &small,
        "time lag of 1.0 ms is allowed; a record that has just missed a transaction of 3.3 ms, and is in the next one, is durable after \
         6.7 ms",
        &["a time lag of 6.7 ms (--time-lag)", "databases that are 8 times as fast, COMMIT included"],
    );
}

#[test]
fn more_databases_than_can_be_numbered_are_refused() {
    let asked =
        Asked { peak: Some(1e9), mean: Some(1e9), processes: Some(90), process_rows: Some(1e9), ..Asked::default() };
    let decision = decide(&wish(&asked), &limits(1000, 12_000.0));
    assert!(decision.refusals[0].why.starts_with("10,000 shards bear "), "{:?}", decision.refusals);
    // Ten thousand of the fastest would have more partitions than one Kafka carries.
    assert!(decision.refusals[0].nearest[0].starts_with("more than one of: "), "{:?}", decision.refusals);
}

/// What a measurement shows with more connections than the database likes, and nobody can keep processes from opening them.
#[test]
fn connections_that_all_processes_have_are_counted_on() {
    let point = |connections, rows_per_s| Point { batch: 500, connections, rows_per_s };
    let points = [point(1, 15_000.0), point(2, 28_000.0), point(4, 40_000.0), point(8, 34_000.0), point(16, 20_000.0)];
    let rates = Rates::Measured(Curves::new(&points).unwrap());
    let asked =
        Asked { peak: Some(60_000.0), shards: Some(8), processes: Some(4), growth: Some(1), ..Asked::default() };
    let found = plan(&asked, &Limits { rates: rates.clone(), ..limits(200, 1.0) });
    let of_all = rates.rows_per_s(500.0, (found.workers_per_shard * found.processes) as f64);
    assert!(found.shard_rows_per_s <= of_all + 1e-6, "{} and {of_all}", found.shard_rows_per_s);
    assert!(found.workers_per_shard < 4, "four of each process are sixteen: {found:?}");
}

/// Rates are those of a server, not of each database on it.
#[test]
fn databases_of_one_server_share_what_it_bears() {
    let asked = Asked { peak: Some(20_000.0), mean: Some(2_000.0), ..Asked::default() };
    let mut shared = limits(200, 20_000.0);
    let alone = plan(&asked, &shared).shards;
    shared.servers[0].shards = 4;
    let found = plan(&asked, &shared);
    // 23,607 rows/s with what the busiest one has more, of 15,238 and of a quarter of it.
    assert_eq!((alone, found.shards), (2, 7));
    assert!(found.shard_rows_per_s < 5_000.0, "{found:?}");
}

#[test]
fn what_cannot_fit_is_refused() {
    let fits = |asked: &Asked| decide(&wish(asked), &limits(200, 20_000.0));
    let many = fits(&Asked { partition_bytes: Some(1.0), ..large() });
    assert!(many.refusals[0].why.contains("one Kafka carries 200,000 or so"), "{:?}", many.refusals);
    assert!(
        many.refusals[0].nearest.iter().any(|can| can.contains("--partition-bytes-per-second")),
        "{:?}",
        many.refusals
    );
    let mut topics = limits(200, 20_000.0);
    topics.fixed.topics = 30;
    let small = Asked { process_memory_mib: Some(64), ..large() };
    let found = decide(&wish(&small), &topics);
    assert!(found.refusals[0].why.contains("64 are allowed"), "{:?}", found.refusals);
    assert!(found.refusals[0].nearest[0].starts_with("--process-memory-mib "), "{:?}", found.refusals);
}

/// Of each topic a partition has a window of its own.
#[test]
fn every_topic_has_windows() {
    let mut three = limits(200, 20_000.0);
    let asked = Asked { process_memory_mib: Some(1 << 20), ..large() };
    let one = plan(&asked, &three).process_memory_bytes;
    three.fixed.topics = 3;
    assert_eq!(plan(&asked, &three).process_memory_bytes, 3 * one);
}

/// Whoever is told a number takes it as it stands.
#[test]
fn a_number_that_a_refusal_names_can_be() {
    let small = limits(100, 12_000.0);
    let asked = Asked { shards: Some(20), outage: Some(Duration::from_secs(600)), ..large() };
    let first = &decide(&wish(&asked), &small).refusals[0].nearest[0];
    let shards: u64 = first.split(' ').next().and_then(|n| n.parse().ok()).expect(first);
    plan(&Asked { shards: Some(shards), ..asked }, &small);
    let asked = Asked { shards: Some(5), ..large() };
    let nearest = decide(&wish(&asked), &small).refusals.remove(0).nearest;
    let mean = nearest.iter().find(|can| can.contains("--mean")).expect("a mean");
    let number = |part: &str| {
        let digits: String = part.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<f64>().ok()
    };
    let numbers: Vec<f64> = mean.split("/s").filter_map(number).collect();
    plan(&Asked { per_day: None, mean: Some(numbers[0]), peak: Some(numbers[1]), ..asked }, &small);
}

#[test]
fn shards_on_one_server_share_its_connections() {
    let mut shared = limits(103, 12_000.0);
    shared.servers[0].shards = 4;
    shared.servers[0].name = "a".to_owned();
    let asked = Asked { peak: Some(5_000.0), shards: Some(4), ..Asked::default() };
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
    // 7200 rows/s of the busiest one at the peak, of twice the checkpoints' time: 1 GiB ÷ 1.9 ÷ (7200 × 500) s.
    for expected in ["fsync is off", "synchronous_commit is off", "fill max_wal_size (1GB) ÷ 1.9 in 2 min 37 s"] {
        assert!(warnings.contains(expected), "{expected} is missing in {warnings}");
    }
    assert!(!warnings.contains("takes no writes"), "{warnings}");
    for (name, value) in [("transaction_read_only", "on"), ("synchronous_standby_names", "b")] {
        flattering.servers[0].settings.insert(name.to_owned(), value.to_owned());
    }
    let warnings = decide(&wish(&Asked { peak: Some(6_000.0), ..Asked::default() }), &flattering).warnings.join("\n");
    assert!(warnings.contains("it takes no writes now (a replica, or read-only)"), "{warnings}");
    assert!(!warnings.contains("every COMMIT waits"), "with synchronous_commit off it does not: {warnings}");
    // A peak of ten seconds is no lasting load.
    let short =
        Asked { peak: Some(6_000.0), mean: Some(100.0), burst: Some(Duration::from_secs(10)), ..Asked::default() };
    let warnings = decide(&wish(&short), &flattering).warnings.join("\n");
    assert!(!warnings.contains("max_wal_size"), "{warnings}");
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

fn any_rates() -> impl Strategy<Value = Rates> {
    let assumed = (100.0f64..200_000.0, 0.05f64..1.0, 0.0001f64..0.1).prop_map(|(rows, connection, commit_s)| {
        Rates::Assumed { database_rows_per_s: rows, connection_rows_per_s: rows * connection, commit_s }
    });
    // Up to the knee it rises, behind it whatever a database does.
    let times = proptest::collection::vec(0.6f64..1.9, 6);
    let measured = (100.0f64..2_000.0, times.clone(), times).prop_map(|(single, of_one, of_many)| {
        let points =
            [(1, single, of_one), (500, single * 40.0, of_many)].into_iter().flat_map(|(batch, first, factors)| {
                let rates = factors.into_iter().scan(first, |rows, factor| {
                    *rows *= factor;
                    Some(*rows)
                });
                let point = |(doubling, rows_per_s)| Point { batch, connections: 1usize << doubling, rows_per_s };
                rates.enumerate().map(point).collect::<Vec<_>>()
            });
        Rates::Measured(Curves::new(&points.collect::<Vec<_>>()).expect("twelve points"))
    });
    prop_oneof![assumed, measured]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    const ASSIGNORS: [Assignor; 3] = [Assignor::Range, Assignor::RoundRobin, Assignor::Sticky];
    let of = (10i32..1000, any_rates(), 1usize..5, proptest::sample::select(&ASSIGNORS[..]), 1usize..4);
    of.prop_map(|(max, rates, shards, assignor, topics)| {
        let mut limits = limits(max, 1.0);
        limits.servers[0].shards = shards;
        (limits.fixed.assignor, limits.fixed.topics) = (assignor, topics);
        Limits { rates, ..limits }
    })
}

proptest! {
    #[test]
    fn every_plan_keeps_what_it_promises(asked in any_asked(), limits in any_limits()) {
        let wish = wish(&asked);
        let decision = decide(&wish, &limits);
        prop_assert!(decision.plan.is_some() == decision.refusals.is_empty());
        let Some(plan) = decision.plan else {
            prop_assert!(decision.refusals.len() == 1 && !decision.refusals[0].nearest.is_empty());
            return Ok(());
        };
        let each = plan.workers_per_shard + plan.slow_lanes_per_shard + limits.fixed.besides;
        prop_assert_eq!(plan.connections_per_process, each);
        let of_server = (plan.processes * each * limits.servers[0].shards.max(1)) as i64;
        prop_assert!(of_server <= limits.servers[0].room, "{} of {}", of_server, limits.servers[0].room);
        prop_assert_eq!(plan.partitions, plan.shards * plan.partitions_per_shard);
        prop_assert!(plan.partitions_per_shard.is_power_of_two() && plan.partitions_per_shard >= plan.processes);
        prop_assert!(plan.lanes >= plan.workers_per_shard && plan.lanes.is_power_of_two());
        // What is needed is borne by the processes that are left.
        let alive = (plan.processes - plan.spare_processes) as f64;
        let needed = wish.peak_per_s * wish.burst_s / (wish.burst_s + wish.time_lag_s);
        prop_assert!(plan.capacity_per_s >= needed * 0.999_999);
        let of_databases = plan.shard_rows_per_s * plan.shards as f64 / wish.busiest_shard;
        prop_assert!(of_databases * wish.used >= needed * 0.999_999);
        // However partitions are dealt out, and however many of all these connections are at work.
        let rates = limits.rates_of_a_shard();
        let spread = limits.fixed.assignor.fewest(alive as usize, plan.shards, plan.partitions_per_shard);
        for connections in spread * plan.workers_per_shard..=plan.processes * plan.workers_per_shard {
            let rows = rates.rows_per_s(plan.batch_records_max as f64, connections as f64);
            prop_assert!(rows >= plan.shard_rows_per_s * 0.999_999, "{} connections: {} rows/s", connections, rows);
        }
        prop_assert!(alive * wish.process_rows_per_s >= needed * 0.999_999);
        prop_assert!(plan.catch_up_s <= wish.catch_up_s * 1.000_001);
        prop_assert!(plan.retention_s >= wish.outage_s + plan.catch_up_s);
        prop_assert!(plan.time_lag_s <= wish.time_lag_s);
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
                // Nor has a power of two of partitions for each to do with how many there are of them.
                let others = ["time lag", "one Kafka carries", "MiB of a process"];
                let why = &first.refusals[0].why;
                prop_assert!(others.iter().any(|other| why.contains(other)), "{:?}", first.refusals);
            }
        }
    }
}
