//! What is given, and what of it a plan says more about.

use super::*;

/// Whoever has a configuration asks what it takes.
#[test]
fn workers_that_are_given_are_planned_with() {
    let limits = limits(100, 20_000.0);
    let of = |workers, mean, outage_s| Asked {
        mean: Some(mean),
        peak: Some(mean),
        shards: Some(1),
        processes: Some(1),
        spare_processes: Some(0),
        workers_per_shard: Some(workers),
        busiest_shard: Some(1.0),
        used_percent: Some(100.0),
        outage: Some(Duration::from_secs(outage_s)),
        ..Asked::default()
    };
    // Two below the knee, four, and eight, which take little more: 8 × 200 ÷ (2 ms + 200 × 8 ÷ 20,000/s).
    for (workers, rows) in [(2, 9_756.0), (4, 19_048.0), (8, 19_512.0)] {
        let found = plan(&of(workers, 1_000.0, 600), &limits);
        let batch = found.batch_records_max as f64;
        assert_eq!(found.workers_per_shard as u64, workers);
        let expected = limits.rates.rows_per_s(batch, workers as f64);
        assert!(
            (found.shard_rows_per_s / expected - 1.0).abs() < 1e-9 && (expected / rows - 1.0).abs() < 0.05,
            "{found:?}"
        );
        assert!((found.catch_up_s - 600_000.0 / (found.shard_rows_per_s - 1_000.0)).abs() < 1e-6, "{found:?}");
    }
    let refused = |asked: &Asked, limits: &Limits| decide(&wish(asked), limits).refusals.remove(0);
    let many = refused(&of(200, 1_000.0, 600), &limits);
    assert!(many.why.starts_with("1 processes need 203 connections each to a shard (200 workers + 1 slow"), "{many:?}");
    assert!(many.nearest.iter().any(|can| can == "fewer workers (--workers-per-shard)"), "{many:?}");
    let few = refused(&of(1, 15_000.0, 0), &limits);
    assert!(few.nearest.iter().any(|can| can.starts_with("as many workers as it takes")), "{few:?}");
}

/// Beyond the rate at which a peak ends with the time lag that is allowed, it is refused; below, it is not.
#[test]
fn the_time_lag_breaks_where_the_plan_says() {
    let limits = limits(100, 20_000.0);
    let asked = Asked {
        mean: Some(1_000.0),
        peak: Some(15_000.0),
        burst: Some(Duration::from_secs(10)),
        time_lag: Some(Duration::from_secs(1)),
        workers_per_shard: Some(8),
        shards: Some(1),
        processes: Some(2),
        busiest_shard: Some(1.0),
        used_percent: Some(100.0),
        ..Asked::default()
    };
    let found = plan(&asked, &limits);
    let lag = found.breaks.iter().find(|each| each.what.contains("ends with a time lag of 1 s")).unwrap().at_per_s;
    plan(&Asked { peak: Some(lag * 0.999), ..asked.clone() }, &limits);
    assert_eq!(decide(&wish(&Asked { peak: Some(lag * 1.001), ..asked }), &limits).plan, None, "{lag}");
}

/// A deployment that starts new processes first needs connections for both.
#[test]
fn it_says_how_many_processes_fit_beside_those_of_the_plan() {
    let beside = |max| {
        let asked = Asked { peak: Some(1_000.0), processes: Some(3), ..Asked::default() };
        decide(&wish(&asked), &limits(max, 12_000.0)).warnings.join("\n")
    };
    // 3 × 4 of 97, 20 and 13.
    assert!(!beside(100).contains("connections are forebay's then"), "{}", beside(100));
    assert!(beside(23).contains("12 of 20 connections are forebay's then: 2 processes more fit"), "{}", beside(23));
    assert!(beside(16).contains("12 of 13 connections are forebay's then: 0 processes more fit"), "{}", beside(16));
}

/// A configuration's own ceilings hold whatever the server lets in.
#[test]
fn what_a_shard_s_settings_allow_a_process_is_not_exceeded() {
    let asked = Asked { peak: Some(12_000.0), shards: Some(1), processes: Some(3), ..Asked::default() };
    let mut ceilings = limits(200, 20_000.0);
    let free = plan(&asked, &ceilings);
    ceilings.fixed.connections_max = Some(free.connections_per_process - 1);
    let refused = decide(&wish(&asked), &ceilings).refusals.remove(0);
    assert!(refused.why.starts_with("1 shard bear"), "{refused:?}");
    ceilings.fixed.connections_max = Some(3);
    let refused = decide(&wish(&asked), &ceilings).refusals.remove(0);
    assert_eq!(refused.nearest[0], "connections_max = 5 for each shard, instead of 3", "{refused:?}");
    ceilings.fixed.connections_max = Some(free.connections_per_process);
    assert_eq!(plan(&asked, &ceilings).workers_per_shard, free.workers_per_shard);

    // Two of three are left, and both have a part of the only database.
    ceilings.fixed.rows_per_s_max = Some(9_000);
    assert!((plan(&asked, &ceilings).shard_rows_per_s - 18_000.0).abs() < 1e-6);
    ceilings.fixed.rows_per_s_max = Some(2_000);
    let refused = decide(&wish(&asked), &ceilings).refusals.remove(0);
    assert!(
        refused.why.starts_with("1 shard bear 2,667/s"),
        "4,000 rows/s, 80 % of them, the busiest one's 1.2: {refused:?}"
    );
    assert!(refused.nearest.iter().any(|can| can.starts_with("no rows_per_second_max")), "{refused:?}");
    ceilings.fixed = Fixed { unplanned: vec!["shard a: adaptive_limit".to_owned()], ..Fixed::default() };
    let warnings = decide(&wish(&asked), &ceilings).warnings.join("\n");
    assert!(warnings.contains("Kafka's commit, back: shard a: adaptive_limit"), "{warnings}");
}

/// Those that run, or one of the configuration: what is left is for `run`.
#[test]
fn gateways_that_write_rows_have_their_connections() {
    let asked = Asked { peak: Some(1_000.0), ..Asked::default() };
    let mut all = limits(100, 12_000.0);
    all.fixed.gateway = 9;
    assert_eq!(plan(&asked, &all).connections_room, 88);
    (all.servers[0].gateways, all.servers[0].shards) = (27, 1);
    assert_eq!(plan(&asked, &all).connections_room, 70);
    all.servers[0].shards = 3;
    assert_eq!(plan(&asked, &all).connections_room, 97 / 3 - 9);
}
