//! Where records go. [`Writer`] is what a worker needs of its database, [`Control`] what a shard's control thread needs;
//! the PostgreSQL ones follow the fence protocol described in `fence`, and the simulation has its own.

pub mod array;
pub mod catalog;
pub mod connect;
pub mod control;
pub mod dead_letter;
pub mod decode;
pub mod encode;
pub mod fence;
pub mod fold;
pub mod handler;
pub mod json;
pub mod key;
pub mod moment;
pub mod number;
pub mod plan;
pub mod pool;
pub mod postgres;
pub mod schema;
pub mod session;
pub mod sift;
mod sift_table;
pub mod sqlstate;
pub mod statement;
pub mod table;
pub mod write_handler;
pub mod write_table;
pub mod writer;

use std::ops::Range;

use crate::state::batch::{Batch, LaneMove};
use crate::state::replica::Position;
pub use crate::types::Anchor;
use crate::types::{Lane, NextOffset, Token, TopicIx, TopicPartition};

/// How a transaction of a worker ended, as far as the database answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Fences moved and rows written, durably.
    Applied(RowCounts),
    /// Some fence was not where it was expected, or its token is another's: nothing was done.
    Mismatch,
}

/// What a transaction did, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    pub upserted: u32,
    pub deleted: u32,
    /// Records that another one of the batch made superfluous.
    pub folded: u32,
    /// Records that became dead letters.
    pub dead: u32,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: RowCounts) {
        self.upserted += other.upserted;
        self.deleted += other.deleted;
        self.folded += other.folded;
        self.dead += other.dead;
    }
}

/// A record that cannot be applied: its index in the batch, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    pub index: usize,
    pub reason: Reason,
}

/// What went wrong, by what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke: whether a COMMIT in flight happened is unknown.
    Outage(Reason),
    /// Deadlock, serialisation failure: the same again, after a while.
    Transient(Reason),
    /// A lock could not be had in time.
    LockWait(Reason),
    /// A statement took longer than it may.
    TooLong(Reason),
    /// A record is at fault: which one (index in the batch) where that is known.
    Record(Option<usize>, Reason),
    /// The topic cannot go on until a person has done something (table altered, privilege missing, another incarnation of the topic).
    Topic(Reason),
    /// The shard cannot go on until a person has done something (credentials, database missing, schema too new).
    Shard(Reason),
}

/// For people: a SQLSTATE where there is one, and a sentence. Never a value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub sqlstate: Option<String>,
    pub text: String,
}

impl Reason {
    pub fn new(text: impl Into<String>) -> Reason {
        Reason { sqlstate: None, text: text.into() }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.sqlstate {
            Some(code) => write!(f, "{} (SQLSTATE {code})", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl Failure {
    pub fn reason(&self) -> &Reason {
        match self {
            Failure::Outage(r) | Failure::Transient(r) | Failure::LockWait(r) | Failure::TooLong(r) => r,
            Failure::Record(_, r) | Failure::Topic(r) | Failure::Shard(r) => r,
        }
    }
}

/// A fence as it is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FenceRow {
    pub partition: i32,
    pub lane: Lane,
    pub next: NextOffset,
    pub token: Token,
}

/// Whether these records may all be set aside; [`Writer::sift`] asks before it commits.
pub type Tolerates<'a> = dyn FnMut(&[BadRecord]) -> bool + 'a;

/// A worker's side of a database: one connection, one transaction at a time.
pub trait Writer {
    /// One transaction: moves the fences named by `moves`, all or nothing, and applies the records of `range` in order.
    /// Connects first where there is no connection. After [`Failure::Outage`] its outcome is unknown; after every other
    /// failure nothing was done. With `at_least_once` `moves` is ignored.
    fn write(&mut self, batch: &Batch, range: Range<usize>, moves: &[LaneMove]) -> Result<Written, Failure>;
    /// As [`write`](Writer::write), but the records at fault become dead letters in the same transaction, and all others are
    /// applied. `tolerates` is shown them, in order, before anything is committed; where it says no, and where a record waits
    /// for another that is not there (a missing parent), nothing is done, and [`Failure::Record`] names the first one.
    fn sift(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        moves: &[LaneMove],
        tolerates: &mut Tolerates<'_>,
    ) -> Result<Written, Failure>;
    /// The fences as they are now, of lanes (partition, lane); one that does not exist is left out.
    fn reread(&mut self, topic: TopicIx, lanes: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure>;
}

/// Which incarnation of a topic this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub topic_id: Option<String>,
}

/// What a takeover asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takeover {
    pub at: TopicPartition,
    pub token: Token,
    /// The configured number of lanes; the database's wins while fences lie beyond `done`.
    pub lanes: Lane,
    /// Origin and stored progress of an anchor that must be created.
    pub begin: NextOffset,
}

/// What a takeover found and marked as ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub origin: NextOffset,
    pub done: NextOffset,
    pub created: bool,
    /// The fence of each lane; their number is the number of lanes.
    pub fences: Vec<NextOffset>,
}

/// One partition's progress in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub partition: i32,
    pub token: Token,
    /// Everything below is durable, as far as we believe.
    pub done: NextOffset,
    /// What we believe of each lane's fence.
    pub fences: Vec<NextOffset>,
}

/// What a primary says of one of its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replica {
    At(Position),
    /// No replica of that name is connected.
    Gone,
    /// This role may not see any.
    Hidden,
    /// Nobody was asked.
    Unknown,
}

/// A shard's control connection.
pub trait Control {
    /// The anchors of partitions, in their order. Registers the topic's identity where nobody did; another one than the
    /// registered is [`Failure::Topic`].
    fn locate(
        &mut self,
        topic: TopicIx,
        identity: &Identity,
        partitions: &[i32],
    ) -> Result<Vec<Option<Anchor>>, Failure>;
    /// Makes the partition ours, waiting (for a bounded time: [`Failure::LockWait`]) for its owner's transactions in flight.
    fn takeover(&mut self, takeover: &Takeover) -> Result<Taken, Failure>;
    /// Raises the stored progress of those partitions whose token and fences are as we believe, and returns them with
    /// the progress that is stored now. One that does not come back has another owner, or its database went back.
    fn progress(&mut self, topic: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure>;
    /// How far the replica with this `application_name` is; of several, the last one. What has no replicas knows of none.
    fn replica(&mut self, _name: &str) -> Result<Replica, Failure> {
        Ok(Replica::Gone)
    }
}
