//! `--simulate`: what a plan does in trouble, without a broker and without a database. A discrete-event simulation: seeded, no IO, no
//! clock but its own.
//!
//! Real are the routing ([`Router`](crate::state::router::Router)), the partition that a producer chooses
//! ([`Placement`](crate::state::placement::Placement)), lanes and their packing, holding back and releasing (the engine's own
//! [`Dispatcher`](crate::engine::dispatch::Dispatcher), one for each process and shard, with [`Loads`](crate::state::lane::Loads) and
//! [`Lane`](crate::state::lane::Lane)), chunks, and what of a partition is durable ([`Tracker`](crate::state::tracker::Tracker)). A
//! database is [`Rates`](crate::planner::rates::Rates): how long a transaction takes when so many connections are at work in it.
//!
//! What is simplified, and said in the report:
//!
//! - A simulated record stands for `weight` records of one key that come at the same moment, so that an hour of hundreds of thousands a
//!   second takes seconds. Batches, windows and times count real records; under light traffic the smallest batch is one of `weight`.
//! - Records come as a Poisson process. Tenants follow Zipf's law; each has as many rows as any other. A tenant's shard is its hash.
//! - There is one topic. A process takes in so many records a second as the wish says. Partitions are dealt out by the configured
//!   [`Assignor`](crate::source::assignor::Assignor), at first to all processes at once. A rebalance takes [`REBALANCE_S`]; partitions that
//!   move stand still meanwhile, with an eager assignor all of them. A database that was away is found again by the engine's own back-off.

mod outcome;
mod scenario;
mod shares;
mod svg;
#[cfg(test)]
mod tests;
mod world;

use serde::Serialize;

use crate::bench::progress::Progress;
use crate::engine::Stopper;
use crate::planner::PlanError;
use crate::planner::limits::Fixed;
use crate::planner::plan::Plan;
use crate::planner::rates::Rates;
use crate::planner::wish::Wish;

pub use outcome::{Outcome, Sample, table};
pub use scenario::{Lost, REBALANCE_S, Scenario, scenarios};
pub use svg::write as write_svg;
pub use world::World;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub plan: &'a Plan,
    pub wish: &'a Wish,
    /// Of one database.
    pub rates: &'a Rates,
    pub fixed: &'a Fixed,
    pub seed: u64,
    pub tenants: u64,
    /// Zipf's exponent; 0: all alike.
    pub skew: f64,
    /// Simulated records of a scenario, about.
    pub units_max: u64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Simulated {
    pub seed: u64,
    pub tenants: u64,
    pub skew: f64,
    pub rebalance_s: f64,
    pub assignor: &'static str,
    pub scenarios: Vec<Outcome>,
    /// Somebody ended it before all were done.
    pub cut_short: bool,
}

/// All scenarios, in turn.
///
/// # Errors
/// [`PlanError::Failed`] where the plan's own configuration is not valid: a defect.
pub fn simulate(setup: &Setup<'_>, stopper: &Stopper) -> Result<Simulated, PlanError> {
    let mut done = Vec::new();
    for scenario in scenarios(setup) {
        if stopper.is_stopped() {
            break;
        }
        let mut progress = Progress::new(format!("simulating {}", scenario.name), scenario.seconds_max as u64, "s");
        let mut world = World::new(setup, &scenario)?;
        while world.step() && !stopper.is_stopped() {
            progress.show(world.seconds() as u64, "");
        }
        done.push(world.outcome());
    }
    let Setup { seed, tenants, skew, .. } = *setup;
    let cut_short = stopper.is_stopped();
    Ok(Simulated {
        seed,
        tenants,
        skew,
        rebalance_s: REBALANCE_S,
        assignor: setup.fixed.assignor.word(),
        scenarios: done,
        cut_short,
    })
}
