//! Decisions: value in, value out. No IO, no threads, no clock.

pub mod adaptive;
pub mod ages;
pub mod assignment;
pub mod backpressure;
pub mod batch;
pub mod blocking;
pub mod breaker;
pub mod bucket;
pub mod chunk;
pub mod contention;
pub mod gate;
pub mod holds;
pub mod hot_key;
pub mod lane;
pub mod pace;
pub mod parked;
pub mod placement;
pub mod replica;
pub mod retry;
pub mod router;
pub mod spares;
pub mod tenant_pace;
pub mod tenants;
pub mod tolerance;
pub mod tracker;
pub mod verdict;
