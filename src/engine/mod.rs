//! Threads and loops: poller, workers, control threads, and their ordered shutdown.

pub mod control;
pub mod event;
pub mod poller;
pub mod thread;
pub mod worker;
