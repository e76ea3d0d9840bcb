//! One partition's tenure in this process: where it stands, what of it is where. Changed by the poller thread alone.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sink::Taken;
use crate::state::ages::Ages;
use crate::state::assignment::Located;
use crate::state::chunk::Chunk;
use crate::state::lane::Lane;
use crate::state::retry::Backoff;
use crate::state::tracker::Tracker;
use crate::types::{Generation, NextOffset, ShardIx, Token, TopicPartition};

/// See the module's text.
#[derive(Debug)]
pub struct Partition {
    pub at: TopicPartition,
    /// New at every rewind: answers of an older one are dropped.
    pub generation: Generation,
    pub phase: Phase,
    /// Whether the source has been told to fetch it: then a new start is a restart.
    pub assigned: bool,
    pub start: NextOffset,
    /// The end of the log when it was last asked for.
    pub high: NextOffset,
    pub tracker: Tracker,
    pub parts: Vec<Part>,
    /// Records of this generation at workers.
    pub sent: usize,
    /// Paused in the source, because its window is full or its topic stopped.
    pub paused: bool,
    /// What the group had committed when this generation asked where to start.
    pub found: Option<NextOffset>,
    /// What this generation has committed to Kafka.
    pub committed: Option<NextOffset>,
    /// The group holds the origins of all its shards. Not before that does stored progress rise: a shard that then forgets all
    /// it had would have nothing to say where it began, while the others say that they are further.
    pub noted: bool,
    pub backoff: Backoff,
    /// How old what is not committed yet is.
    pub ages: Ages,
    /// Where this generation starts is known: its tracker counts.
    pub begun: bool,
    /// Records that became durable.
    pub completed: u64,
    /// How far it was durable, since when, of what waits for Kafka's commit.
    pub settling: VecDeque<Settling>,
    /// Records of it that are told.
    pub settled_records: u64,
    /// What Kafka has acknowledged.
    pub settled: Option<NextOffset>,
}

/// A step of a partition's progress.
#[derive(Debug, Clone, Copy)]
pub struct Settling {
    pub next: NextOffset,
    pub at_us: u64,
    /// Of [`Partition::completed`].
    pub completed: u64,
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its shards are being asked how far they are.
    Locating {
        asked: bool,
        not_before: Duration,
        deadline: Duration,
    },
    /// The log does not hold its start: taken over first, then looked at again.
    Verifying,
    /// Where it starts is known; the source is yet to be told.
    Located,
    Running,
    /// It goes to another member: what is at workers may finish.
    Revoking,
    /// Its topic stopped.
    Stopped,
}

/// A partition's part in one shard.
#[derive(Debug)]
pub struct Part {
    pub shard: ShardIx,
    pub token: Token,
    pub located: Option<Located>,
    pub noted: Option<NextOffset>,
    pub tenure: Tenure,
}

/// Whether the part is ours yet.
#[derive(Debug)]
pub enum Tenure {
    /// Not taken over; what came for it waits.
    Waiting {
        chunks: Vec<Box<Chunk>>,
        /// What it becomes once workers hold nothing of earlier tenures any more: without fences, what they write late would
        /// replace what this tenure has written since.
        ready: Option<Owned>,
    },
    Owned(Owned),
}

/// A part that is ours.
#[derive(Debug)]
pub struct Owned {
    pub origin: NextOffset,
    /// The progress that the shard has acknowledged.
    pub stored: NextOffset,
    /// Of it, what may be committed to Kafka: less only where replicas have a say, and right after the takeover.
    pub confirmed: NextOffset,
    pub lanes: Vec<Lane>,
    /// The chunks of each lane that is held back; empty where no lane is.
    pub held: Vec<Vec<Box<Chunk>>>,
}

impl Owned {
    pub fn new(taken: &Taken) -> Owned {
        let lanes = taken.fences.iter().map(|fence| Lane::new(*fence, taken.done)).collect();
        Owned { origin: taken.origin, stored: taken.done, confirmed: taken.done, lanes, held: Vec::new() }
    }

    /// As [`new`](Owned::new), where replicas have a say: what they have of `done` is yet to be asked, but what the group has
    /// committed they had.
    pub fn unconfirmed(taken: &Taken, committed: Option<NextOffset>) -> Owned {
        Owned { confirmed: committed.unwrap_or(taken.origin).min(taken.done), ..Owned::new(taken) }
    }

    /// Every record below was durable at the takeover: the stored progress, or, where that was stored too seldom, the least
    /// fence.
    pub fn durable(&self) -> NextOffset {
        self.lanes.iter().map(|lane| lane.skip_below).min().unwrap_or(self.stored).max(self.stored)
    }
}

impl Part {
    pub fn new(shard: ShardIx) -> Part {
        let tenure = Tenure::Waiting { chunks: Vec::new(), ready: None };
        Part { shard, token: Token(0), located: None, noted: None, tenure }
    }

    pub fn owned(&self) -> Option<&Owned> {
        match &self.tenure {
            Tenure::Owned(owned) => Some(owned),
            Tenure::Waiting { .. } => None,
        }
    }

    pub fn owned_mut(&mut self) -> Option<&mut Owned> {
        match &mut self.tenure {
            Tenure::Owned(owned) => Some(owned),
            Tenure::Waiting { .. } => None,
        }
    }
}

impl Partition {
    pub fn all_owned(&self) -> bool {
        self.parts.iter().all(|p| p.owned().is_some())
    }

    /// The least progress that its shards have acknowledged and confirmed, once all of them are ours.
    pub fn confirmed(&self) -> Option<NextOffset> {
        self.parts.iter().map(|p| p.owned().map(|o| o.confirmed)).min().flatten()
    }

    pub fn part_mut(&mut self, shard: ShardIx) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| p.shard == shard)
    }

    /// Whether some shard holds records of it that lie beyond `end`.
    pub fn has_beyond(&self, end: NextOffset) -> bool {
        let beyond = |o: &Owned| o.stored > end || o.lanes.iter().any(|lane| lane.skip_below.max(lane.acked) > end);
        self.parts.iter().filter_map(Part::owned).any(beyond)
    }

    /// Whether records that the source hands out are wanted.
    pub fn takes_records(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether its progress is ours to store.
    pub fn has_progress(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Revoking | Phase::Stopped)
    }
}
