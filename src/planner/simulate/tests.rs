//! The simulation against what arithmetic says of it, and that it is the same every time.

use super::*;
use crate::planner::decide::decide;
use crate::planner::limits::{Limits, ServerLimits};
use crate::planner::wish::Asked;
use crate::source::assignor::Assignor;

const RATES: Rates = Rates::Assumed { database_rows_per_s: 2_000.0, connection_rows_per_s: 500.0, commit_s: 0.002 };

fn planned(asked: &Asked) -> (Plan, Wish, Fixed) {
    planned_with(asked, Fixed::default())
}

fn planned_with(asked: &Asked, fixed: Fixed) -> (Plan, Wish, Fixed) {
    let (wish, _) = Wish::new(asked).unwrap();
    let limits = Limits {
        servers: vec![ServerLimits::assumed(None).0],
        fixed: fixed.clone(),
        rates: RATES,
        rates_from: "given".to_owned(),
        wal_bytes_per_row: None,
    };
    let decision = decide(&wish, &limits);
    (decision.plan.unwrap_or_else(|| panic!("{:?}", decision.refusals)), wish, fixed)
}

fn small() -> Asked {
    Asked { peak: Some(4_000.0), mean: Some(1_500.0), partitions_per_shard: Some(4), ..Asked::default() }
}

fn setup<'a>((plan, wish, fixed): &'a (Plan, Wish, Fixed)) -> Setup<'a> {
    Setup { plan, wish, rates: &RATES, fixed, seed: 7, tenants: 1000, skew: 0.5, units_max: 30_000 }
}

#[track_caller]
fn run(setup: &Setup<'_>, name: &str, change: impl Fn(&mut Scenario)) -> Outcome {
    let mut scenario = scenarios(setup).into_iter().find(|scenario| scenario.name == name).expect("a scenario");
    change(&mut scenario);
    let mut world = World::new(setup, &scenario).unwrap();
    while world.step() {}
    world.outcome()
}

#[test]
fn the_same_seed_is_the_same_simulation_and_another_one_another() {
    let planned = planned(&small());
    let simulated = |seed| {
        let simulated = simulate(&Setup { seed, ..setup(&planned) }, &Stopper::default()).unwrap();
        serde_json::to_string(&simulated).unwrap()
    };
    assert_eq!(simulated(1), simulated(1));
    assert_ne!(simulated(1), simulated(2));
}

#[test]
fn every_scenario_is_there_with_what_it_comes_to() {
    let planned = planned(&small());
    let simulated = simulate(&setup(&planned), &Stopper::default()).unwrap();
    let names: Vec<&str> = simulated.scenarios.iter().map(|of| of.scenario).collect();
    assert_eq!(names, ["peak", "hot tenant", "rolling", "shard lost", "growth"]);
    for of in &simulated.scenarios {
        assert_eq!((of.misaligned, of.partitions), (0, planned.0.partitions), "{}", of.scenario);
        assert!(of.shard_skew >= 1.0 && of.partition_skew >= 1.0 && of.records > 10_000, "{}", of.scenario);
    }
    let of = |name: &str| simulated.scenarios.iter().find(|of| of.scenario == name).unwrap();
    assert!(of("hot tenant").shard_skew > of("peak").shard_skew * 1.2, "{}", of("hot tenant").shard_skew);
    assert_eq!(of("growth").shards, planned.0.shards);
    let text = table(&simulated, 1.2);
    assert!(text.contains("shard lost") && text.contains("0 records misaligned"), "{text}");
}

/// A database that is away makes nobody else wait, and what waited is applied as fast as the plan's arithmetic says.
#[test]
fn a_lost_shard_is_caught_up_with_as_the_arithmetic_says_and_others_do_not_notice() {
    let planned = planned(&small());
    let (plan, wish, _) = &planned;
    let setup = Setup { skew: 0.0, ..setup(&planned) };
    let away = 120.0;
    let found = run(&setup, "shard lost", |scenario| {
        scenario.lost = scenario.lost.map(|lost| Lost { to_s: 30.0 + away, ..lost });
        (scenario.trouble_ends, scenario.seconds_max) = (30.0 + away, 900.0);
        scenario.rates = vec![(30.0, wish.mean_per_s), (f64::MAX, wish.mean_per_s)];
    });
    assert_eq!(found.worst_shard, 0);
    let longest_probe = 10.0;
    assert!((away..away + longest_probe + 5.0).contains(&found.time_lag_worst_s), "{}", found.time_lag_worst_s);
    assert!(found.time_lag_median_s < 1.0, "{}", found.time_lag_median_s);
    let of_shard = wish.mean_per_s / plan.shards as f64;
    let rows = RATES.rows_per_s(plan.batch_records_max as f64, (plan.workers_per_shard * plan.processes) as f64);
    let least = of_shard * away / (rows - of_shard);
    let most = of_shard * (away + longest_probe) / (rows - of_shard) + longest_probe;
    let calm = found.calm_after_s.expect("it is calm again");
    assert!((least * 0.85..most * 1.2 + 2.0).contains(&calm), "{calm} is not between {least} and {most}");
}

/// More comes than is borne: what waits grows by the difference.
#[test]
fn an_overloaded_database_falls_behind_by_what_it_does_not_take() {
    let planned = planned(&small());
    let (plan, wish, _) = &planned;
    let setup = Setup { skew: 0.0, ..setup(&planned) };
    let (came, seconds) = (12_000.0, 60.0);
    let found = run(&setup, "peak", |scenario| {
        scenario.rates = vec![(30.0, wish.mean_per_s), (30.0 + seconds, came), (f64::MAX, wish.mean_per_s)];
        (scenario.trouble_ends, scenario.seconds_max) = (30.0 + seconds, 30.0 + seconds);
    });
    let rows = RATES.rows_per_s(plan.batch_records_max as f64, (plan.workers_per_shard * plan.processes) as f64)
        * plan.shards as f64;
    let expected = (came - rows) * seconds;
    let ratio = found.message_lag_max as f64 / expected;
    assert!((0.85..1.15).contains(&ratio), "{} instead of {expected}", found.message_lag_max);
}

#[test]
fn in_a_rolling_deployment_moved_partitions_stand_still_for_a_rebalance() {
    let planned = planned(&small());
    let found = run(&setup(&planned), "rolling", |_| {});
    assert!((REBALANCE_S * 0.7..REBALANCE_S + 2.0).contains(&found.time_lag_worst_s), "{}", found.time_lag_worst_s);
    assert!(found.calm_after_s.is_some());
}

/// With an eager assignor everything stops for a rebalance, and not only what moves.
#[test]
fn an_eager_rebalance_stops_every_partition() {
    let least_durable = |assignor: Assignor| {
        let fixed = Fixed { assignor, ..Fixed::default() };
        let planned = planned_with(&Asked { processes: Some(5), ..small() }, fixed);
        let found = run(&setup(&planned), "rolling", |_| {});
        let trouble = found.samples.iter().filter(|s| (31.0..150.0).contains(&s.seconds));
        trouble.map(|sample| sample.durable_per_s).fold(f64::INFINITY, f64::min)
    };
    let (sticky, eager) = (least_durable(Assignor::Sticky), least_durable(Assignor::RoundRobin));
    assert!(eager < 1.0 && sticky > 300.0, "{eager}/s and {sticky}/s of 1,500/s");
}

/// However fast the databases are.
#[test]
fn processes_take_in_no_more_than_they_can() {
    let (mut plan, wish, fixed) = planned(&Asked { growth: Some(1), ..small() });
    let wish = Wish { process_rows_per_s: 300.0, ..wish };
    (plan.processes, plan.spare_processes) = (4, 0);
    let planned = (plan, wish, fixed);
    let (came, seconds) = (4_000.0, 60.0);
    let found = run(&Setup { skew: 0.0, ..setup(&planned) }, "peak", |scenario| {
        scenario.rates = vec![(30.0, 600.0), (30.0 + seconds, came), (f64::MAX, 600.0)];
        (scenario.trouble_ends, scenario.seconds_max) = (30.0 + seconds, 30.0 + seconds);
    });
    let expected = (came - 4.0 * 300.0) * seconds;
    let ratio = found.message_lag_max as f64 / expected;
    assert!((0.9..1.1).contains(&ratio), "{} instead of {expected}", found.message_lag_max);
}

/// Hundreds of thousands a second come less than a microsecond apart each ten.
#[test]
fn as_many_records_come_as_the_rate_says() {
    let asked =
        Asked { peak: Some(400_000.0), mean: Some(400_000.0), outage: Some(std::time::Duration::ZERO), ..small() };
    let planned = planned(&asked);
    let setup = Setup { units_max: 10_000_000, ..setup(&planned) };
    let found = run(&setup, "peak", |scenario| {
        scenario.weight = 1;
        (scenario.trouble_ends, scenario.seconds_max) = (1.0, 1.0);
    });
    let rate = found.records as f64 / found.seconds;
    assert!((rate / 400_000.0 - 1.0).abs() < 0.02, "{rate}/s");
}

#[test]
fn charts_are_written_for_each_scenario() {
    let planned = planned(&small());
    let simulated = simulate(&setup(&planned), &Stopper::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let written = write_svg(&simulated, directory.path()).unwrap();
    assert_eq!(written.len(), 2 * simulated.scenarios.len() + 2);
    for file in written {
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg"), "{}", file.display());
    }
}
