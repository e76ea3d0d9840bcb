//! Decisions: value in, value out. No IO, no threads, no clock.

pub mod adaptive;
pub mod assignment;
pub mod backpressure;
pub mod batch;
pub mod bucket;
pub mod chunk;
pub mod lane;
pub mod pace;
pub mod replica;
pub mod retry;
pub mod router;
pub mod spares;
pub mod tolerance;
pub mod tracker;
