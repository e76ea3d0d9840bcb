//! The seeded simulation: the engine's own code over a fake Kafka, fake databases and a fake clock, several processes in one
//! thread, every choice from one seed.
//!
//! Reading order: `world` (what exists), `broker`, `group`, `source` (the fake Kafka), `db`, `trial`, `sink` (the fake
//! databases, an exact model of the statements in `src/sink/fence.rs`, and of what is done about records that cannot be applied), `observe` (the guarantees), `process` and `scenario` (what can be done
//! to a process), then the scenarios themselves: `random` (with `draw`), `cases` (each rule of the protocol switched off), `set_aside` (likewise of
//! records that miss their parents, meet in rows or name no shard),
//! `stops` (never skip in silence), `outages` (a shard that is down), `windows` (full ones), `unfenced` (a poller without fences), and `fakes`, the tests of all this.

mod broker;
mod cases;
mod clock;
mod db;
mod draw;
mod fakes;
mod group;
mod observe;
mod outages;
mod process;
mod random;
mod scenario;
mod set_aside;
mod sink;
mod source;
mod stops;
mod trial;
mod unfenced;
mod windows;
mod world;
