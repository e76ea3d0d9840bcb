//! The words every module shares: offsets, lanes, tokens, generations.
//!
//! Two kinds of offset exist and never mix: [`Offset`] is a record's own; [`NextOffset`] says "everything below this".
//! [`Offset::next`] is the only way from one to the other.

use std::fmt;

/// The offset of one record in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

/// A border between records: everything of a partition (or lane) below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextOffset(pub i64);

impl Offset {
    /// The border right behind this record.
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }

    /// Whether this record lies below `border`.
    pub fn is_below(self, border: NextOffset) -> bool {
        self.0 < border.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a topic in the validated configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicIx(pub u16);

/// Index of a shard in the validated configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIx(pub u16);

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicIx,
    pub partition: i32,
}

/// Where a shard stands with a partition, before anyone takes it over: where it began, and the stored progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub origin: NextOffset,
    pub done: NextOffset,
}

/// An ordered sub-stream of one partition in one shard.
pub type Lane = u16;

/// What of a record's key decides its lane and names it where it is parked: xxh3 (seed 0); of a record without a key its offset,
/// which nothing looks up.
pub type KeyHash = i64;

/// Sixty-four random bits, new at every takeover: who may move a partition's fences.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub i64);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One tenure of a partition in this process: new at every assignment and at every rewind. Answers of an older
/// generation are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// Bytes of a record's key that are shown to people.
pub const KEY_BYTES_SHOWN: usize = 256;

/// Bytes of one that are kept for that: one more, so that a key that is cut is known.
pub const KEY_BYTES_MAX: usize = KEY_BYTES_SHOWN + 1;
