//! Where records go. [`Writer`] is what a worker needs of its database, [`Control`] what a shard's control thread needs;
//! the PostgreSQL ones follow the fence protocol described in `fence`, and the simulation has its own.

pub mod array;
mod aside;
pub mod backends;
pub mod bounds;
pub mod cancel;
mod careful_table;
pub mod catalog;
pub mod connect;
pub mod connections;
pub mod control;
pub mod dead_letter;
pub mod decode;
mod drain;
pub mod encode;
pub mod fault;
pub mod fence;
pub mod fold;
pub mod handler;
pub mod json;
pub mod key;
pub mod moment;
pub mod number;
pub mod parked;
pub mod place;
pub mod plan;
pub mod pool;
pub mod postgres;
pub mod replicas;
pub mod sample;
pub mod schema;
pub mod session;
pub mod shards;
pub mod sift;
pub mod sqlstate;
pub mod statement;
pub mod table;
pub mod watch;
pub mod write_handler;
pub mod write_table;
pub mod writer;

use std::ops::Range;

use crate::config::Then;
use crate::state::batch::{Batch, LaneMove};
use crate::state::chunk::RawRecord;
use crate::state::contention::{Ask, Sample};
use crate::state::holds::Decided;
use crate::state::parked::{Tail, Why};
use crate::state::replica::Position;
use crate::state::tolerance::Tolerance;
pub use crate::types::Anchor;
use crate::types::{KeyHash, Lane, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// What a worker wants of one transaction: the fences moved, all or nothing, and the records applied, in order.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    pub batch: &'a Batch,
    pub range: Range<usize>,
    /// Ignored with `at_least_once`.
    pub moves: &'a [LaneMove],
    /// Records that are parked instead of being applied, in order.
    pub park: &'a [ToPark],
    /// Keys that must have no row in `forebay.parked`, or nothing is done.
    pub free: &'a [FreeKey],
}

impl<'a> Job<'a> {
    /// Without anything parked.
    pub fn plain(batch: &'a Batch, range: Range<usize>, moves: &'a [LaneMove]) -> Job<'a> {
        Job { batch, range, moves, park: &[], free: &[] }
    }
}

/// A record of the batch that is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToPark {
    pub index: usize,
    pub why: Why,
}

/// A key of one of the batch's lanes that is believed to have left `forebay.parked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeKey {
    pub partition: i32,
    pub token: Token,
    pub hash: KeyHash,
}

/// How a transaction of a worker ended, as far as the database answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Fences moved and records applied, durably.
    Applied(Applied),
    /// Some fence was not where it was expected, or its token is another's: nothing was done.
    Mismatch,
    /// One of the job's free keys has rows in `forebay.parked`: nothing was done.
    NotFree,
}

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub counts: RowCounts,
    /// Records that were parked although the job did not say so, in order.
    pub parked: Vec<ToPark>,
    /// What each record of the batch took, in ns, up to the last one of the job; 0 of what was parked. Only of handlers.
    pub took_ns: Vec<u64>,
}

impl From<RowCounts> for Written {
    fn from(counts: RowCounts) -> Written {
        Written::Applied(Applied { counts, ..Applied::default() })
    }
}

/// How a job is written that failed as a whole.
pub struct Care<'a, 't> {
    /// A lock could not be had in time: keys whose rows others hold are parked.
    pub probe: bool,
    /// Its records, all together, have just been refused for the sake of one of them.
    pub refused: bool,
    /// What becomes of a dead letter's key.
    pub then: Then,
    /// How many more records may be parked.
    pub room: u64,
    pub tolerates: &'a mut Tolerates<'t>,
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
    /// Records that were parked.
    pub parked: u32,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: RowCounts) {
        self.upserted += other.upserted;
        self.deleted += other.deleted;
        self.folded += other.folded;
        self.dead += other.dead;
        self.parked += other.parked;
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
    /// Likewise, and parking does not help: the table is locked as a whole, or the fences are.
    LockedOut(Reason),
    /// More records would have to be parked than may be: fewer at a time.
    NoRoom(Reason),
    /// A statement took longer than it may.
    TooLong(Reason),
    /// A record is at fault: which one (index in the batch) where that is known.
    Record(Option<usize>, Reason),
    /// The topic cannot go on until a person has done something (table altered, privilege missing, another incarnation of the topic).
    Topic(Reason),
    /// The shard cannot go on until a person has done something (credentials, database missing, schema too new).
    Shard(Reason),
}

/// For people: a SQLSTATE where there is one, and a sentence. Neither holds a value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub sqlstate: Option<String>,
    pub text: String,
    /// What a trigger or a function of the database said, which may hold values of a record: kept in the database, beside the
    /// record, never logged and never shown by [`Display`](std::fmt::Display).
    pub theirs: Option<String>,
}

impl Reason {
    pub fn new(text: impl Into<String>) -> Reason {
        Reason { sqlstate: None, text: text.into(), theirs: None }
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
            Failure::Outage(r) | Failure::Transient(r) | Failure::LockWait(r) | Failure::LockedOut(r) => r,
            Failure::NoRoom(r) | Failure::TooLong(r) => r,
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

/// Whether these records may all be set aside; [`Writer::write_with_care`] asks before it commits.
pub type Tolerates<'a> = dyn FnMut(&[BadRecord]) -> bool + 'a;

/// A worker's side of a database: one connection, one transaction at a time.
pub trait Writer {
    /// One transaction. Connects first where there is no connection. After [`Failure::Outage`] its outcome is unknown; after
    /// every other failure nothing was done.
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure>;
    /// As [`write`](Writer::write), record by record where it must be. Keys whose rows others have locked are parked. Records
    /// at fault become dead letters in the same transaction, and all others are applied; `tolerates` is shown them, in order,
    /// before anything is committed; where it says no, nothing is done, and [`Failure::Record`] names the first one. The key of
    /// a record that waits for another one that is not there (a missing parent) is parked. A second [`Failure::LockWait`] is
    /// about a lock that no probe shows; one that no parking would help is [`Failure::LockedOut`]. More to be parked than
    /// there is room for is [`Failure::NoRoom`].
    fn write_with_care(&mut self, job: &Job<'_>, care: Care<'_, '_>) -> Result<Written, Failure>;
    /// The fences as they are now, of lanes (partition, lane); one that does not exist is left out.
    fn reread(&mut self, topic: TopicIx, lanes: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure>;
    /// What is parked of these keys (partition, hash); those of which nothing is are left out.
    fn parked(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure>;
}

/// The slow lane's side of a database: applies parked records, each key in order, and takes them out of `forebay.parked` in the
/// same transaction. Two of them, of one process or of two, may be at work on the same keys.
pub trait SlowLane {
    /// The first rows of each of these keys (partition, hash), in order, no more than `limits` say. Keys without any are left out.
    fn read(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)], limits: DrainLimits) -> Result<Vec<Waiting>, Failure>;
    /// Applies what was read: one transaction, which holds the first row of every key for as long as it lasts. Says of each key,
    /// in their order, what became of it. Where there are several, none is at fault for a missing parent. More dead letters than are
    /// tolerated are none: nothing is done, and [`Failure::Record`] says why. What was done counts in `how`.
    fn drain(&mut self, topic: TopicIx, keys: &[Waiting], how: &mut Drain) -> Result<Vec<Drained>, Failure>;
    /// Many rows were taken out: their place is made free for others.
    fn tidy(&mut self) -> Result<(), Failure>;
}

impl Care<'_, '_> {
    /// Whether so many records more may be parked.
    fn fits(&self, records: usize) -> Result<(), Failure> {
        match records as u64 > self.room {
            false => Ok(()),
            true => Err(Failure::NoRoom(Reason::new(format!(
                "{records} records would have to be parked, and there is room for {} more (parked_records_max)",
                self.room
            )))),
        }
    }
}

/// How much the slow lane takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainLimits {
    pub records_max: usize,
    pub bytes_max: usize,
    /// Of one key.
    pub key_records_max: usize,
}

/// What becomes of records of the slow lane that are at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// What of them is tolerated as dead letters; none: any of them stops the topic.
    pub tolerance: Option<Tolerance>,
    pub then: Then,
    /// Tries of a record whose parent is missing before it is at fault.
    pub parent_tries: u32,
}

impl Drain {
    /// Whether a record that was tried so often for a missing parent is at fault if it is missing once more. It is only where its
    /// key is alone in its transaction: beside others, what is refused for the sake of one may hide a parent from another.
    pub fn is_last_try(&self, tries: u32) -> bool {
        tries > 0 && tries + 1 >= self.parent_tries
    }
}

/// The first parked records of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub partition: i32,
    pub hash: KeyHash,
    /// Its first row is a dead letter: it waits for a person.
    pub dead: bool,
    /// Tries of the first record so far.
    pub tries: u32,
    /// The first record was a dead letter, which a person wants tried again.
    pub replayed: bool,
    /// In order; none where it is dead.
    pub records: Vec<ParkedRecord>,
}

/// A parked record, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRecord {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<u8>,
    /// Why it names no tenant, and so no shard: it is not to be applied.
    pub unroutable: Option<String>,
}

/// What became of one key in the slow lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// So many of its rows left, applied or as dead letters.
    Taken { rows: u64, dead: u64 },
    /// Its first record is at fault, and its key waits behind it; so many rows left before.
    Dead { rows: u64, reason: Reason },
    /// It waits: for a lock, or for a parent; so many rows left before.
    Waits { rows: u64, reason: Reason },
    /// Another slow lane has it, or has changed it since.
    Busy,
}

impl Drained {
    /// How many of the key's rows left.
    pub fn rows(&self) -> u64 {
        match self {
            Drained::Taken { rows, .. } | Drained::Dead { rows, .. } | Drained::Waits { rows, .. } => *rows,
            Drained::Busy => 0,
        }
    }
}

impl<'r> From<&'r ParkedRecord> for RawRecord<'r> {
    fn from(record: &'r ParkedRecord) -> RawRecord<'r> {
        let ParkedRecord { offset, timestamp_ms, key, value, headers, .. } = record;
        let (key, value) = (key.as_deref(), value.as_deref());
        RawRecord { offset: *offset, timestamp_ms: *timestamp_ms, key, value, headers }
    }
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
    /// What is parked of it.
    pub parked: Vec<Tail>,
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

/// The oldest parked record of a partition, as its database shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestParked {
    pub partition: i32,
    pub offset: Offset,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub why: Why,
    /// It is a dead letter and waits for a person.
    pub dead: bool,
    pub attempts: u32,
    /// What its last try said.
    pub sqlstate: Option<String>,
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
    /// Whether the database takes new connections now, and writes: asked while nobody else tries.
    fn probe(&mut self) -> Result<(), Failure>;
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
    /// the progress that is stored now and may be relied on: where replicas have a say, as far as they have it. One that does not
    /// come back has another owner, or its database went back.
    fn progress(&mut self, topic: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure>;
    /// How far the replica with this `application_name` is; of several, the last one. What has no replicas knows of none.
    fn replica(&mut self, _name: &str) -> Result<Replica, Failure> {
        Ok(Replica::Gone)
    }
    /// The oldest parked record of each of these partitions that has any.
    fn oldest_parked(&mut self, _topic: TopicIx, _partitions: &[i32]) -> Result<Vec<OldestParked>, Failure> {
        Ok(Vec::new())
    }
    /// What a person has decided about a topic.
    fn decided(&mut self, topic: TopicIx) -> Result<Decided, Failure>;
}

/// A shard's connection that only looks.
pub trait Sampler {
    /// What our backends do now, and what else is asked for. What this role may not see is left out, and noted.
    fn sample(&mut self, ask: &Ask) -> Result<Sample, Failure>;
    /// Nothing is asked for a while: its connection may be another one then.
    fn rest(&mut self);
}
