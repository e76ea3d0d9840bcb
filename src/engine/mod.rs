//! Threads and loops: the poller, the workers, the control threads, and their ordered shutdown.

mod ceiling;
pub mod control;
pub mod dispatch;
pub mod ends;
pub mod event;
pub mod gate;
pub mod hot_keys;
pub mod observed;
mod observer;
mod outbox;
pub mod pace;
pub mod parked;
pub mod partition;
mod pinning;
pub mod poller;
mod reload;
pub mod report;
pub mod rules;
mod run;
pub mod sampler;
pub mod slow_lane;
pub mod thread;
pub mod worker;

pub use observer::{Observer, Running};
pub use pinning::Pinning;
pub use reload::{ReloadError, Reloader};
pub use rules::Rules;
pub use run::{Engine, EngineError, Options, Outcome, Stopper};
