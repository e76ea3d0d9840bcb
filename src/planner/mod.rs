//! `forebay plan`: from what is asked (records a second, sizes, times) and what the databases bear to shards, workers, processes,
//! lanes, partitions and retention, with the arithmetic written out so that a person can check it.
//!
//! It decides nothing for anybody: it prints, and writes files where it is asked to. Of the databases it asks what they say of
//! themselves; with `--measure` it writes to one of them, in a schema of its own that is gone afterwards. `--simulate` lets the plan's
//! own shards, partitions and workers run in a simulated hour of trouble, without any IO.
//!
//! [`wish`] (what is asked) and [`limits`] (what the databases say) with [`rates`] (what one of them takes) lead to a plan in
//! [`decide`], which is pure; [`write`] makes a configuration and commands of it; [`measure`] measures, [`simulate`] simulates,
//! [`report`] says it all.

mod brokers;
pub mod decide;
pub mod limits;
pub mod measure;
pub mod plan;
pub mod rates;
pub mod report;
mod run;
pub mod simulate;
pub mod wish;
pub mod write;

pub use run::{File, Options, Probing, Simulating, run};

use crate::config::problem::Problems;
use crate::sink::Failure;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Configuration(String),
    /// What was asked for cannot be; the report says why, and what can.
    #[error("what was asked for cannot be; the nearest things that can are above")]
    Refused,
    #[error("{0}")]
    Unavailable(String),
    #[error("ended before anything was planned")]
    Interrupted,
    #[error("{0}")]
    Failed(String),
}

impl From<Problems> for PlanError {
    fn from(problems: Problems) -> PlanError {
        PlanError::Configuration(problems.to_string())
    }
}

impl PlanError {
    pub(crate) fn of_shard(shard: &str, failure: &Failure) -> PlanError {
        let text = format!("shard {shard}: {}", failure.reason());
        match failure {
            Failure::Record(..) | Failure::Topic(_) | Failure::Shard(_) => PlanError::Configuration(text),
            _ => PlanError::Unavailable(text),
        }
    }
}
