//! `forebay bench`: publishes a reproducible workload to real Kafka, runs the engine on the operator's own settings, and says what that
//! takes: rows a second, the engine's own CPU time and memory, batches, and how long records take that are sent at a rate.
//!
//! What a figure is of:
//!
//! - The engine runs in a process of its own, with nothing in it but what `forebay run` has: its CPU time and memory are its alone.
//!   The publisher is a thread of this process, and never waits for the engine.
//! - Latencies count from the time at which a record *should* have been sent. Where the publisher was late, that is part of them, and
//!   how late it was is reported beside them.
//! - What was published is compared with what the tables hold. Figures of records that were lost or repeated are no figures.
//!
//! It touches nothing of anybody else: topics, consumer groups and a schema of its own, which are gone afterwards.

mod child;
pub mod database;
pub mod discard;
mod engine;
mod figures;
pub mod latency;
pub mod machine;
mod modes;
mod options;
pub mod progress;
mod protocol;
mod publisher;
pub mod report;
mod run;
pub mod settings;
mod slow;
pub mod topics;
pub mod workload;
pub mod zipf;

pub use child::child;
pub use figures::median;
pub use options::{Mode, Options, Sources, Written, setting};
pub use run::{run, run_id};
pub use settings::Settings;

use crate::config::problem::Problems;
use crate::engine::EngineError;
use crate::sink::Failure;

/// Why there are no figures, or none that count.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Configuration(String),
    /// A broker or a database does not do what it is asked.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Engine(EngineError),
    #[error("ended before anything was measured")]
    Interrupted,
    /// Records were lost or repeated, or a check could not be made.
    #[error("{0}")]
    Failed(String),
}

impl From<Problems> for BenchError {
    fn from(problems: Problems) -> BenchError {
        BenchError::Configuration(problems.to_string())
    }
}

impl BenchError {
    fn of_shard(shard: &str, failure: &Failure) -> BenchError {
        let text = format!("shard {shard}: {}", failure.reason());
        match failure {
            Failure::Record(..) | Failure::Topic(_) | Failure::Shard(_) => BenchError::Configuration(text),
            _ => BenchError::Unavailable(text),
        }
    }

    fn kafka(what: &str, error: impl std::fmt::Display) -> BenchError {
        BenchError::Unavailable(format!("Kafka: {what}: {error}"))
    }
}
