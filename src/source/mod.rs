//! Where records come from. [`Source`] is what the poller needs of Kafka; `kafka` is the real one, and the simulation has
//! one of its own.
//!
//! A source decides nothing. A rebalance is *reported*, and the group waits until the poller answers it with
//! [`Source::assign`] or [`Source::unassign`]; start offsets are always explicit.

mod ask;
mod assigned;
pub mod assignor;
pub(crate) mod client;
pub mod kafka;
pub mod logs;
mod queue;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use crate::state::chunk::RawRecord;
use crate::types::{NextOffset, TopicIx, TopicPartition};

/// A call that asks a broker gives up after this.
pub const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// What a source reports besides records.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// The group gave us these (possibly none); nothing is fetched until [`Source::assign`] answers, once per event.
    Assigned(Vec<TopicPartition>),
    /// The group wants these back; it waits until [`Source::unassign`] answers, once per event.
    Revoked(Vec<TopicPartition>),
    /// These are somebody else's already; [`Source::unassign`] answers. Nothing can be committed for them any more.
    Lost(Vec<TopicPartition>),
    /// Everything below `end` was handed out; `end` lies behind trailing transaction markers.
    EndOfPartition { at: TopicPartition, end: NextOffset },
    /// Fetching stopped for this partition.
    PartitionFailed { at: TopicPartition, error: PartitionError },
    /// The answer to a [`Source::commit`]; an error is worth a warning, the next commit repairs it.
    Committed(Result<(), String>),
    /// Something is wrong that may heal by itself (broker away); for the log.
    Unwell(String),
}

/// Why fetching a partition stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionError {
    /// The position lies outside the log: retention overtook us, or the log was truncated.
    OutOfRange,
    /// Its end, as far as this group may read, lies below records that a database holds.
    EndsBelow(NextOffset),
    /// The topic or partition does not exist (any more).
    Unknown,
    /// Anything else, e.g. no authorisation.
    Other(String),
}

/// Takes what a poll brings. Events come in the order in which they happened, before the records behind them.
pub trait Intake {
    fn record(&mut self, at: TopicPartition, record: &RawRecord<'_>);
    fn event(&mut self, event: SourceEvent);
}

/// A group's committed offset for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub at: TopicPartition,
    pub next: Option<NextOffset>,
    /// Empty for none.
    pub metadata: String,
}

/// The log of a partition: what exists is `low <= offset < high`. `high` is the end of the log itself (the high watermark),
/// also where an open transaction keeps the last records from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub low: NextOffset,
    pub high: NextOffset,
}

/// Where an assigned partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    At(NextOffset),
    /// Likewise, but nothing is fetched until [`Source::resume`] says so.
    Paused(NextOffset),
    /// Assigned but never fetched: its topic is stopped.
    Never,
}

/// What is being asked for next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub at: TopicPartition,
    pub next: NextOffset,
    pub metadata: String,
}

/// Why a question to the brokers has no answer, or why this process cannot stay in the group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No answer, or a passing error: ask again.
    #[error("{0}")]
    Retriable(String),
    /// The brokers answer that they do not know it, or not for us. That may change, but not by asking more often.
    #[error("{0}")]
    Refused(String),
    /// This process must end: fenced out of the group, credentials refused, …
    #[error("{0}")]
    Fatal(String),
}

/// See the module's text. All calls come from one thread. Calls that ask a broker return within [`ASK_DEADLINE`] per question.
pub trait Source {
    /// Waits at most `wait` for something to happen and hands out at most `records_max` records. With `records_max` 0 it
    /// still serves the group (rebalances, commits' answers).
    fn poll(&mut self, wait: Duration, records_max: usize, intake: &mut impl Intake) -> Result<(), SourceError>;
    /// The group's committed offsets.
    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Committed>, SourceError>;
    /// What the logs hold, in the order of `of`. Asks the brokers, not a cache, and all of them at once.
    fn watermarks(&mut self, of: &[TopicPartition]) -> Vec<Result<Watermarks, SourceError>>;
    /// Identifies the cluster; for comparison only.
    fn cluster_id(&mut self) -> Result<String, SourceError>;
    /// Identifies this incarnation of the topic; `None` where the broker has no such ids (before Kafka 2.8).
    fn topic_id(&mut self, of: TopicIx) -> Result<Option<String>, SourceError>;
    /// Number of partitions of a topic.
    fn partitions(&mut self, of: TopicIx) -> Result<i32, SourceError>;
    /// Answers [`SourceEvent::Assigned`].
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError>;
    /// Answers [`SourceEvent::Revoked`] or [`SourceEvent::Lost`].
    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError>;
    /// Goes on with an assigned partition at `next`; no record fetched before is handed out afterwards. An error means: try
    /// again later.
    fn restart(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError>;
    /// Stops handing out a partition's records; survives `restart`.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError>;
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError>;
    /// Sends a commit without waiting; the answer comes as [`SourceEvent::Committed`].
    fn commit(&mut self, offsets: &[Commit]) -> Result<(), SourceError>;
    /// Begins to leave the group: what is assigned comes back as `Revoked`, later polls serve it.
    fn close(&mut self) -> Result<(), SourceError>;
    /// Whether leaving is done.
    fn closed(&self) -> bool;
    /// Ends a waiting [`Source::poll`] early, from any thread and also after the source is gone; a call between two polls
    /// ends the next one's wait.
    fn waker(&self) -> Arc<dyn Fn() + Send + Sync>;
}
