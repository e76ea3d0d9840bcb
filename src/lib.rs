//! forebay applies the writes of Kafka topics to PostgreSQL.

pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod engine;
pub mod metrics;
pub mod sink;
pub mod source;
pub mod state;
pub mod types;
