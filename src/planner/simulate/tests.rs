//! The simulation against what arithmetic says of it, and that it is the same every time.

use super::*;
use crate::planner::decide::decide;
use crate::planner::limits::{Limits, ServerLimits};
use crate::planner::wish::Asked;

const RATES: Rates = Rates::Assumed { database_rows_per_s: 2_000.0, connection_rows_per_s: 500.0, commit_s: 0.002 };

fn planned(asked: &Asked) -> (Plan, Wish) {
    let (wish, _) = Wish::new(asked).unwrap();
    let limits = Limits {
        servers: vec![ServerLimits::assumed(None).0],
        slow_lanes: 1,
        besides: 2,
        rates: RATES,
        rates_from: "given".to_owned(),
        wal_bytes_per_row: None,
    };
    let decision = decide(&wish, &limits);
    (decision.plan.unwrap_or_else(|| panic!("{:?}", decision.refusals)), wish)
}

fn small() -> Asked {
    Asked { peak: Some(4_000.0), mean: Some(1_500.0), growth: Some(4), ..Asked::default() }
}

fn setup<'a>(plan: &'a Plan, wish: &'a Wish) -> Setup<'a> {
    Setup { plan, wish, rates: &RATES, seed: 7, tenants: 1000, skew: 0.5, units_max: 30_000 }
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
    let (plan, wish) = planned(&small());
    let simulated = |seed| {
        let simulated = simulate(&Setup { seed, ..setup(&plan, &wish) }, &Stopper::default()).unwrap();
        serde_json::to_string(&simulated).unwrap()
    };
    assert_eq!(simulated(1), simulated(1));
    assert_ne!(simulated(1), simulated(2));
}

#[test]
fn every_scenario_is_there_and_everything_is_aligned() {
    let (plan, wish) = planned(&small());
    let simulated = simulate(&setup(&plan, &wish), &Stopper::default()).unwrap();
    let names: Vec<&str> = simulated.scenarios.iter().map(|of| of.scenario).collect();
    assert_eq!(names, ["peak", "hot tenant", "rolling", "shard lost", "growth", "growth, split"]);
    for of in &simulated.scenarios {
        assert_eq!((of.misaligned, of.partitions), (0, plan.partitions), "{}", of.scenario);
        assert!(of.shard_skew >= 1.0 && of.partition_skew >= 1.0 && of.records > 10_000, "{}", of.scenario);
    }
    let of = |name: &str| simulated.scenarios.iter().find(|of| of.scenario == name).unwrap();
    assert!(of("hot tenant").shard_skew > of("peak").shard_skew * 1.2, "{}", of("hot tenant").shard_skew);
    assert_eq!(of("growth, split").shards, plan.shards * plan.partitions_per_shard);
    let text = table(&simulated, 1.2);
    assert!(text.contains("shard lost") && text.contains("0 records misaligned"), "{text}");
}

/// A database that is away makes nobody else wait, and what waited is applied as fast as the plan's arithmetic says.
#[test]
fn a_lost_shard_is_caught_up_with_as_the_arithmetic_says_and_others_do_not_notice() {
    let (plan, wish) = planned(&small());
    let setup = Setup { skew: 0.0, ..setup(&plan, &wish) };
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
    let rows = RATES.most(plan.batch_records_max as f64, plan.workers_per_shard * plan.processes);
    let least = of_shard * away / (rows - of_shard);
    let most = of_shard * (away + longest_probe) / (rows - of_shard) + longest_probe;
    let calm = found.calm_after_s.expect("it is calm again");
    assert!((least * 0.85..most * 1.2 + 2.0).contains(&calm), "{calm} is not between {least} and {most}");
}

/// More comes than is borne: what waits grows by the difference.
#[test]
fn an_overloaded_database_falls_behind_by_what_it_does_not_take() {
    let (plan, wish) = planned(&small());
    let setup = Setup { skew: 0.0, ..setup(&plan, &wish) };
    let (came, seconds) = (12_000.0, 60.0);
    let found = run(&setup, "peak", |scenario| {
        scenario.rates = vec![(30.0, wish.mean_per_s), (30.0 + seconds, came), (f64::MAX, wish.mean_per_s)];
        (scenario.trouble_ends, scenario.seconds_max) = (30.0 + seconds, 30.0 + seconds);
    });
    let rows = RATES.most(plan.batch_records_max as f64, plan.workers_per_shard * plan.processes) * plan.shards as f64;
    let expected = (came - rows) * seconds;
    let ratio = found.message_lag_max as f64 / expected;
    assert!((0.85..1.15).contains(&ratio), "{} instead of {expected}", found.message_lag_max);
}

#[test]
fn in_a_rolling_deployment_moved_partitions_stand_still_for_a_rebalance() {
    let (plan, wish) = planned(&small());
    let found = run(&setup(&plan, &wish), "rolling", |_| {});
    assert!((REBALANCE_S * 0.7..REBALANCE_S + 2.0).contains(&found.time_lag_worst_s), "{}", found.time_lag_worst_s);
    assert!(found.calm_after_s.is_some());
}

#[test]
fn charts_are_written_for_each_scenario() {
    let (plan, wish) = planned(&small());
    let simulated = simulate(&setup(&plan, &wish), &Stopper::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let written = write_svg(&simulated, directory.path()).unwrap();
    assert_eq!(written.len(), 2 * simulated.scenarios.len() + 2);
    for file in written {
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("<svg"), "{}", file.display());
    }
}
