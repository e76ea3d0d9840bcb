//! `forebay compare`: the same HTTP endpoint in `mode = "sync"` (the row is written in the request) and in `mode = "async"` (gateway,
//! Kafka, engine, row), under the same open-loop load, in turn, with the same keys and the same disturbances: what an operator sees
//! before, and what the same trouble looks like afterwards.
//!
//! What a figure is of:
//!
//! - Gateway and engine are the programs that operators run, each in a process of its own. PostgreSQL is two servers started for this, or
//!   databases that were named; Kafka is one that is there.
//! - Whatever takes time counts from when a request was *due*. Nobody who is slow makes the generator ask for less, and a time-out is an
//!   error.
//! - What was answered with 200 or 202 is looked for in the tables. Figures of a run that lost something are no figures.
//!
//! It touches nothing of anybody else: servers, topics, groups and schemas of its own, which are gone afterwards.
//!
//! # In reading order
//!
//! [`findings`] (everything that comes of it); [`options`]; [`schedule`] (when requests are due and trouble comes), [`requests`] (what they
//! are), [`ledger`] (what became of them), [`check`] (against the tables): all pure. [`moment`] (a run's own time), [`connection`] and
//! [`generator`] (the load). [`process`] and [`cpu`] (programs, and what they take), [`environment`] (what both modes run on), [`rig`]
//! (what one mode needs). [`disturb`] (the trouble), [`sample`] (a look each second) and [`figures`] (what it all
//! comes to). [`search`] (the highest rate that sync bears),
//! [`one`] (one mode at one rate) and [`run`] (all of it); [`report`] and [`page`].

mod check;
mod connection;
mod cpu;
mod disturb;
mod environment;
mod figures;
pub mod findings;
mod generator;
mod ledger;
mod moment;
mod one;
mod options;
pub mod page;
mod process;
mod report;
mod requests;
mod rig;
mod run;
mod sample;
mod schedule;
mod search;

pub use options::{Options, Written};
pub use run::run;

use crate::bench::BenchError;
use crate::demo::DemoError;

/// Why there are no figures, or none that count.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("{0}")]
    Usage(String),
    /// A broker or a database does not do what it is asked.
    #[error("{0}")]
    Unavailable(String),
    #[error("ended before a run was measured")]
    Interrupted,
    /// Requests were lost, a process of ours ended, or a check could not be made.
    #[error("{0}")]
    Failed(String),
    /// Of settings, topics and databases.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Of servers of our own.
    #[error(transparent)]
    Server(#[from] DemoError),
}
