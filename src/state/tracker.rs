//! Which of a partition's received records are durable, and how far the unbroken prefix of them reaches.
//!
//! The window holds *received* offsets only: logs have gaps (compaction, transaction markers), and a gap of a million
//! offsets costs nothing here. Owned by the poller thread alone. It never asks for anything and never waits.

use std::collections::VecDeque;

use crate::types::{Lane, NextOffset, Offset, ShardIx};

/// See the module's text.
#[derive(Debug)]
pub struct Tracker {
    /// From the first record that is not durable to the last one received.
    window: VecDeque<Entry>,
    /// The number of the window's first entry; numbers rise by one per received record.
    first_seq: u64,
    committable: NextOffset,
    /// Everything below was received, or never existed.
    received: NextOffset,
    /// Records in the window that are not durable, and their bytes.
    unfinished: usize,
    unfinished_bytes: usize,
}

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub shard: ShardIx,
    /// None until the shard has said how many lanes there are.
    pub lane: Option<Lane>,
}

/// One for each record between the first unfinished one and the last: small, because there may be very many.
#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: Offset,
    /// [`DURABLE`] once it is.
    bytes: u32,
    shard: ShardIx,
    /// [`UNBOUND`] while it is not known.
    lane: Lane,
}

const DURABLE: u32 = u32::MAX;
const UNBOUND: Lane = Lane::MAX;
const _: () = assert!(size_of::<Entry>() == 16);

impl Entry {
    fn is_durable(&self) -> bool {
        self.bytes == DURABLE
    }
}

impl Tracker {
    /// Begins at `start`: everything below is durable, or not ours to care about.
    pub fn new(start: NextOffset) -> Tracker {
        Tracker {
            window: VecDeque::new(),
            first_seq: 0,
            committable: start,
            received: start,
            unfinished: 0,
            unfinished_bytes: 0,
        }
    }

    /// Everything below was received, or never existed: a record below it is a repetition.
    pub fn received(&self) -> NextOffset {
        self.received
    }

    /// Notes a received record; the answer is its number, which [`Tracker::complete`] wants back.
    ///
    /// # Panics
    /// If it lies below [`Tracker::received`].
    pub fn register(&mut self, offset: Offset, bytes: usize, place: Place) -> u64 {
        assert!(!offset.is_below(self.received), "offset {offset} received again, below {}", self.received);
        self.received = offset.next();
        let Place { shard, lane } = place;
        let bytes = bytes.min(DURABLE as usize - 1);
        self.window.push_back(Entry { offset, bytes: bytes as u32, shard, lane: lane.unwrap_or(UNBOUND) });
        self.unfinished += 1;
        self.unfinished_bytes += bytes;
        self.first_seq + self.window.len() as u64 - 1
    }

    /// The lane of a record that was registered without one.
    pub fn bind(&mut self, seq: u64, lane: Lane) {
        let index = seq.checked_sub(self.first_seq).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.window.get_mut(index)) {
            entry.lane = lane;
        }
    }

    /// Notes that a record is durable.
    ///
    /// # Panics
    /// If number and offset do not belong together, or it was durable already: both mean that the engine has lost count.
    pub fn complete(&mut self, seq: u64, offset: Offset) {
        let index = seq.checked_sub(self.first_seq).expect("completed twice: it left the window") as usize;
        let entry = self.window.get_mut(index).expect("completed, but never received");
        assert_eq!(entry.offset, offset, "number and offset belong together");
        assert!(!entry.is_durable(), "offset {offset} completed twice");
        let bytes = std::mem::replace(&mut entry.bytes, DURABLE);
        self.unfinished -= 1;
        self.unfinished_bytes -= bytes as usize;
        if index == 0 {
            self.advance();
        }
    }

    fn advance(&mut self) {
        while let Some(entry) = self.window.front().copied().filter(Entry::is_durable) {
            self.window.pop_front();
            self.first_seq += 1;
            self.committable = entry.offset.next();
        }
        if self.window.is_empty() {
            self.committable = self.received;
        }
    }

    /// Notes that everything below `end` was handed out. With nothing outstanding the prefix reaches `end`, past transaction
    /// markers, which nobody ever receives.
    pub fn end_of_partition(&mut self, end: NextOffset) {
        self.received = self.received.max(end);
        self.advance();
    }

    /// Everything below is durable: what may be stored as progress.
    pub fn committable(&self) -> NextOffset {
        self.committable
    }

    /// The first record that is not durable, and where it belongs.
    pub fn oldest(&self) -> Option<(Offset, Place)> {
        let entry = self.window.front()?;
        let lane = (entry.lane != UNBOUND).then_some(entry.lane);
        Some((entry.offset, Place { shard: entry.shard, lane }))
    }

    /// Entries held in memory: from the first unfinished record to the last received.
    pub fn window(&self) -> usize {
        self.window.len()
    }

    /// Bytes of the unfinished records.
    pub fn unfinished_bytes(&self) -> usize {
        self.unfinished_bytes
    }

    pub fn unfinished(&self) -> usize {
        self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { shard: ShardIx(0), lane: Some(3) };

    #[test]
    fn the_oldest_record_says_where_it_belongs() {
        let mut tracker = Tracker::new(NextOffset(0));
        let waiting = Place { shard: ShardIx(2), lane: None };
        let seqs: Vec<u64> =
            [waiting, PLACE].map(|place| tracker.register(Offset(tracker.received().0), 1, place)).to_vec();
        assert_eq!(tracker.oldest(), Some((Offset(0), waiting)));
        tracker.bind(seqs[0], 7);
        assert_eq!(tracker.oldest(), Some((Offset(0), Place { lane: Some(7), ..waiting })));
        tracker.complete(seqs[0], Offset(0));
        assert_eq!(tracker.oldest(), Some((Offset(1), PLACE)));
        tracker.bind(seqs[0], 9);
        assert_eq!(tracker.oldest(), Some((Offset(1), PLACE)), "one that left the window is nobody's");
    }

    #[test]
    fn the_prefix_waits_for_its_first_gap() {
        let mut tracker = Tracker::new(NextOffset(10));
        let seqs: Vec<u64> = [12, 13, 20].map(|o| tracker.register(Offset(o), 1, PLACE)).to_vec();
        tracker.complete(seqs[1], Offset(13));
        assert_eq!(tracker.committable(), NextOffset(10));
        tracker.complete(seqs[0], Offset(12));
        assert_eq!(tracker.committable(), NextOffset(14));
        tracker.complete(seqs[2], Offset(20));
        assert_eq!(tracker.committable(), NextOffset(21));
    }

    #[test]
    fn the_end_counts_only_with_nothing_outstanding() {
        let mut tracker = Tracker::new(NextOffset(0));
        let seq = tracker.register(Offset(3), 1, PLACE);
        tracker.end_of_partition(NextOffset(6));
        assert_eq!(tracker.committable(), NextOffset(0));
        tracker.complete(seq, Offset(3));
        assert_eq!(tracker.committable(), NextOffset(6));
    }

    #[test]
    #[should_panic(expected = "completed twice")]
    fn completing_twice_is_a_broken_invariant() {
        let mut tracker = Tracker::new(NextOffset(0));
        tracker.register(Offset(0), 1, PLACE);
        let seq = tracker.register(Offset(1), 1, PLACE);
        tracker.complete(seq, Offset(1));
        tracker.complete(seq, Offset(1));
    }

    proptest! {
        /// Against the obvious model: a sorted set of received offsets and one of durable ones.
        #[test]
        fn agrees_with_a_naive_model(gaps in prop::collection::vec(0i64..4, 1..80), order in any::<u64>(), end_after in 0usize..80) {
            let mut tracker = Tracker::new(NextOffset(0));
            let (mut received, mut open, mut offset, mut border) = (Vec::new(), Vec::new(), 0, 0);
            let mut rng = fastrand::Rng::with_seed(order);
            let mut durable = BTreeSet::new();
            for (i, gap) in gaps.iter().enumerate() {
                offset += gap;
                open.push((tracker.register(Offset(offset), 7, PLACE), offset));
                received.push(offset);
                offset += 1;
                border = border.max(offset);
                if i == end_after {
                    border = offset + 2;
                    tracker.end_of_partition(NextOffset(border));
                    offset = border;
                }
                while !open.is_empty() && rng.bool() {
                    let (seq, done) = open.swap_remove(rng.usize(..open.len()));
                    tracker.complete(seq, Offset(done));
                    durable.insert(done);
                }
                let first_open = received.iter().find(|o| !durable.contains(o));
                match first_open {
                    None => prop_assert_eq!(tracker.committable(), NextOffset(border)),
                    Some(first) => {
                        let before = received.iter().filter(|o| *o < first).max().map_or(0, |o| o + 1);
                        prop_assert!(tracker.committable().0 >= before && tracker.committable().0 <= *first);
                        prop_assert_eq!(tracker.oldest(), Some((Offset(*first), PLACE)));
                    }
                }
                prop_assert_eq!(tracker.unfinished(), open.len());
                prop_assert_eq!(tracker.unfinished_bytes(), open.len() * 7);
            }
        }
    }
}
