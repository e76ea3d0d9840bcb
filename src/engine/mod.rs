//! Threads and loops: the poller, the workers, the control threads, and their ordered shutdown.

pub mod control;
pub mod dispatch;
pub mod event;
pub mod partition;
pub mod poller;
pub mod report;
mod run;
pub mod thread;
pub mod worker;

pub use run::{Engine, EngineError, Options, Outcome, Stopper};

/// The protocol's rules that live in the engine, each of which the simulation switches off to show that it finds what breaks
/// then. All are on; there is no setting for them.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A takeover is tried until it works, not once.
    pub takeover_retried: bool,
    /// An anchor that must be created begins at the lesser of the noted origin and the start.
    pub noted_origin: bool,
    /// A takeover that finds less progress than the partition started from starts it over.
    pub restart_when_done_lower: bool,
    /// Fences under another token, of a partition that is still assigned, are taken over again.
    pub retake_when_assigned: bool,
    /// Fences lower than believed, or mixed, lead to a rewind; they are never taken for the truth of this tenure.
    pub never_adopt: bool,
    /// Progress is stored, and so compared, when nothing moved, too.
    pub compare_when_idle: bool,
    /// Kafka's commit waits for every relevant shard.
    pub commit_only_acknowledged: bool,
    /// Stored progress rises only once the group holds the origins of all the partition's shards.
    pub progress_behind_note: bool,
    /// A log that does not hold the start is believed only after asking again, behind a takeover.
    pub ask_again: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        takeover_retried: true,
        noted_origin: true,
        restart_when_done_lower: true,
        retake_when_assigned: true,
        never_adopt: true,
        compare_when_idle: true,
        commit_only_acknowledged: true,
        progress_behind_note: true,
        ask_again: true,
    };
}
