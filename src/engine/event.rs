//! Everything that threads say to each other: one closed enum per channel.

use std::fmt;
use std::time::Duration;

use crate::engine::pace::News;
use crate::sink::{Anchor, Failure, Identity, Progress, Reason, RowCounts, Taken, Takeover};
use crate::state::chunk::Chunk;
use crate::types::{Generation, NextOffset, Offset, ShardIx, TopicIx, TopicPartition};

/// Messages to the poller. Their number is bounded by the chunks and requests outstanding; the channel holds
/// [`EVENTS_MAX`], and a worker that finds it full waits (the poller never waits for a worker).
pub const EVENTS_MAX: usize = 1 << 12;

/// Chunks that one worker's inbox holds; beyond it they wait at the poller.
pub const INBOX_CHUNKS_MAX: usize = 1 << 10;

/// Requests that one control thread's inbox holds; beyond it they wait at the poller.
pub const REQUESTS_MAX: usize = 1 << 12;

/// To the poller.
#[derive(Debug)]
pub enum Event {
    /// Chunks come back. Of each run exactly the records below its `expected` are durable, at the latest since `at_us` of the
    /// engine's clock.
    Returned { shard: ShardIx, worker: u16, chunks: Vec<Box<Chunk>>, counts: RowCounts, took_us: u64, at_us: u64 },
    /// These tenures' fences are not what their worker believed: another owner, or a database that went back.
    FenceLost { shard: ShardIx, partitions: Vec<(TopicPartition, Generation)>, what: String },
    /// The topic cannot go on: a record is at fault, or the table is.
    TopicStopped { topic: TopicIx, at: Option<(i32, Offset)>, reason: Reason },
    /// So many records became dead letters since the last word about them; the last of them, for people.
    DeadLetters { shard: ShardIx, topic: TopicIx, letters: u64, last: String },
    /// What there is to say about a shard's pace.
    Pace { shard: ShardIx, news: News },
    /// So many records were parked since the last word about them.
    Parked { shard: ShardIx, topic: TopicIx, records: u64 },
    /// From a control thread.
    Control { shard: ShardIx, answer: Answer },
    /// A shard's worker or control thread lost its database, or has it again.
    Shard { shard: ShardIx, health: Health },
    /// A shard's breaker opened: its control thread is to probe.
    Opened { shard: ShardIx },
    /// Something of a topic is tried again and again, and why; or it works again, after that was said.
    InVain { shard: ShardIx, topic: TopicIx, doing: Doing, lasted: Duration, reason: Option<Reason> },
    /// A thread panicked: an invariant is broken.
    Panicked { thread: String, message: String },
}

/// What is tried, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Writing,
    Locating,
    /// Of this partition.
    TakingOver(i32),
    StoringProgress,
    /// What is parked.
    Draining,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Writing => f.write_str("writing"),
            Doing::Locating => f.write_str("asking how far it is"),
            Doing::TakingOver(partition) => write!(f, "taking over partition {partition}"),
            Doing::StoringProgress => f.write_str("storing progress"),
            Doing::Draining => f.write_str("applying parked records"),
        }
    }
}

/// What a control thread answers.
#[derive(Debug)]
pub enum Answer {
    Located {
        topic: TopicIx,
        partitions: Vec<(i32, Generation, Option<Anchor>)>,
    },
    TakenOver {
        at: TopicPartition,
        generation: Generation,
        taken: Taken,
    },
    /// `missing` did not come back: another owner, or the database went back.
    Progressed {
        topic: TopicIx,
        acknowledged: Vec<(i32, Generation, NextOffset)>,
        missing: Vec<(i32, Generation)>,
    },
    /// Progress could not be stored; the poller asks again.
    NotProgressed {
        topic: TopicIx,
        failure: Failure,
    },
}

/// To a control thread.
#[derive(Debug)]
pub enum Request {
    /// Tried until it works or is cancelled.
    Locate { topic: TopicIx, identity: Identity, partitions: Vec<(i32, Generation)> },
    /// Tried until it works or is cancelled.
    Takeover { takeover: Takeover, generation: Generation },
    /// Tried once.
    Progress { topic: TopicIx, of: Vec<(Progress, Generation)> },
    /// The shard's breaker is open: wake up and probe.
    Probe,
    /// This tenure is over: nothing more is to be done for it.
    Cancel { at: TopicPartition, generation: Generation },
}

/// How a thread finds its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Up,
    Down(Failure),
}
