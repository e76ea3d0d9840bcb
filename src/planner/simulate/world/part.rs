//! A partition: its log from the first record that is not durable on, and its tenure.

use std::collections::VecDeque;

use crate::engine::partition::Owned;
use crate::sink::Taken;
use crate::state::tracker::{Place, Tracker};
use crate::types::{Generation, NextOffset, Offset, ShardIx, TopicIx, TopicPartition};

/// A record in the log.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    pub at_us: u64,
    pub hash: i64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Part {
    pub at: TopicPartition,
    pub shard: usize,
    pub owner: Option<usize>,
    pub generation: Generation,
    pub owned: Owned,
    pub tracker: Tracker,
    lanes: usize,
    window: usize,
    /// From `first` on.
    log: VecDeque<Unit>,
    first: i64,
    /// The next record to be fetched.
    next: i64,
}

impl Part {
    /// Nobody's yet.
    pub fn new(number: usize, shard: usize, lanes: usize, window: usize) -> Part {
        Part {
            at: TopicPartition { topic: TopicIx(0), partition: number as i32 },
            shard,
            owner: None,
            generation: Generation(0),
            owned: owned(lanes, NextOffset(0)),
            tracker: Tracker::new(NextOffset(0)),
            lanes,
            window,
            log: VecDeque::new(),
            first: 0,
            next: 0,
        }
    }

    pub fn take_over(&mut self, process: usize) {
        let from = NextOffset(self.next);
        self.owner = Some(process);
        self.generation = Generation(self.generation.0 + 1);
        self.owned = owned(self.lanes, from);
    }

    pub fn append(&mut self, at_us: u64, hash: i64) {
        self.log.push_back(Unit { at_us, hash });
    }

    /// The next record, if its window has room: with its offset and the tracker's number.
    pub fn fetch(&mut self) -> Option<(Unit, Offset, u64)> {
        if self.tracker.window() >= self.window {
            return None;
        }
        let unit = *self.log.get((self.next - self.first) as usize)?;
        let offset = Offset(self.next);
        let seq = self.tracker.register(offset, 1, Place { shard: ShardIx(0), lane: None });
        self.next += 1;
        Some((unit, offset, seq))
    }

    pub fn in_flight(&self) -> usize {
        self.tracker.unfinished()
    }

    /// What is durable, without a gap, leaves the log.
    pub fn forget(&mut self) {
        let durable = (self.tracker.committable().0 - self.first).max(0) as usize;
        self.log.drain(..durable);
        self.first += durable as i64;
    }

    pub fn oldest_us(&self) -> Option<u64> {
        self.log.front().map(|unit| unit.at_us)
    }
}

fn owned(lanes: usize, from: NextOffset) -> Owned {
    let taken = Taken { origin: from, done: from, created: true, fences: vec![from; lanes], parked: Vec::new() };
    Owned::new(&taken)
}
