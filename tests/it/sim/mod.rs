//! The seeded simulation: the engine's own code over a fake Kafka, fake databases and a fake clock, several processes in one
//! thread, every choice from one seed.
//!
//! Reading order: `world` (what exists), `broker`, `group`, `source` (the fake Kafka), `db`, `sink` (the fake databases, an
//! exact model of the statements in `src/sink/fence.rs`), `observe` (the guarantees), then the scenarios.

mod broker;
mod cases;
mod clock;
mod db;
mod fakes;
mod group;
mod observe;
mod process;
mod random;
mod scenario;
mod sink;
mod source;
mod stops;
mod world;
