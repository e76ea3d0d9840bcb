//! `forebay demo`: the main job on defaults of its own. librdkafka's mock cluster stands in for Kafka; PostgreSQL is real, a
//! throw-away cluster started from the installed programs. Updates of subscriptions are published *while* the engine applies
//! them, and afterwards every row is compared with what was published.
//!
//! The engine is the one that `forebay run` runs; nothing here knows more of it than a configuration file could say.

mod binaries;
mod broker;
mod config;
mod directory;
mod options;
mod progress;
mod publisher;
mod report;
mod run;
pub mod server;
mod verify;
mod watch;
mod workload;

use crate::engine::EngineError;

pub use options::{Options, RECORDS};
pub use run::run;

/// Partitions of the demonstration's topic.
const PARTITIONS: usize = 8;
const TOPIC: &str = "subscription-updates";
const TABLE: &str = "subscriptions";
const GROUP: &str = "forebay-demo";

/// Why there was nothing to see, or not what there should be.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{0}")]
    Usage(String),
    /// PostgreSQL's programs are missing, or do not run.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("stopped before the end; everything that was started is gone")]
    Interrupted,
    /// A check found something else than what was published.
    #[error("{0}")]
    Failed(String),
}

impl DemoError {
    /// PostgreSQL or the mock cluster did not do what they always do.
    fn unavailable(what: &str, error: impl std::error::Error) -> DemoError {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        DemoError::Unavailable(format!("{what}: {error}{cause}"))
    }
}
