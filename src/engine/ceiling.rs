//! A topic's ceiling in rows per second in one shard. The poller keeps it: a worker that waited for it could not write other
//! topics meanwhile. Chunks wait here, in their order, and go to their workers as the ceiling allows. Slow lanes, which apply what
//! was parked, keep half of it by themselves; what they write is paid for here.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::worker::BatchLimits;
use crate::state::bucket::Bucket;
use crate::state::chunk::Chunk;

/// Pieces of a topic that workers may have at once. Whatever makes them wait, no more than these come in a burst afterwards.
const PIECES_OUT_MAX: usize = 2;

/// See the module's text. Without a ceiling it is open, and nothing passes through it.
#[derive(Default)]
pub struct Ceiling {
    bucket: Option<Bucket>,
    /// With their workers.
    waiting: VecDeque<(usize, Box<Chunk>)>,
    /// Records that were sent towards workers and are not let through yet, those in chunks that are still being filled included.
    records: usize,
    /// Records let through that did not come back.
    out: usize,
    /// Since when, or since it was counted last, something waits that the ceiling holds back.
    held: Option<Duration>,
    /// How much of that nobody was told of.
    untold: Duration,
}

/// From so much on it is told.
const TOLD: Duration = Duration::from_millis(20);

impl Ceiling {
    /// Another ceiling from now on, or none. Chunks being filled must be let in before.
    pub fn set(&mut self, rate: Option<usize>, now: Duration) {
        Bucket::set(&mut self.bucket, rate, now);
    }

    /// Whether chunks may pass by: there is no ceiling, and nothing waits that came before.
    pub fn is_open(&self) -> bool {
        self.bucket.is_none() && self.records == 0
    }

    /// Records of a chunk with at most so many.
    pub fn piece(&self, records_max: usize) -> usize {
        self.bucket.as_ref().map_or(records_max, |bucket| bucket.piece(records_max))
    }

    /// Whether a chunk that is being filled is a batch, or a piece, already.
    pub fn is_full(&self, chunk: &Chunk, limits: BatchLimits) -> bool {
        limits.reached(chunk) || chunk.len() >= self.piece(limits.records_max)
    }

    /// So many more records are on their way to the gate.
    pub fn expect(&mut self, records: usize) {
        self.records += records;
    }

    pub fn records(&self) -> usize {
        self.records
    }

    pub fn let_in(&mut self, worker: usize, chunk: Box<Chunk>) {
        self.waiting.push_back((worker, chunk));
    }

    /// The next chunk that may go to its worker. `freely`: whatever the ceiling is.
    pub fn let_out(&mut self, now: Duration, freely: bool) -> Option<(usize, Box<Chunk>)> {
        let records = self.waiting.front()?.1.len();
        if let Some(bucket) = self.bucket.as_mut().filter(|_| !freely) {
            let out_max = PIECES_OUT_MAX * bucket.piece(usize::MAX);
            if self.out >= out_max || bucket.wait(records, now).is_some() {
                self.held.get_or_insert(now);
                return None;
            }
            bucket.take(records);
        }
        self.untold += self.held.take().map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.records -= records;
        self.out += records;
        self.waiting.pop_front()
    }

    /// What waits, where all of it may be taken back: to take some would leave gaps in lanes.
    pub fn withdraw(&mut self, may: impl Fn(&Chunk) -> bool) -> Vec<Box<Chunk>> {
        if !self.waiting.iter().all(|(_, chunk)| may(chunk)) {
            return Vec::new();
        }
        let withdrawn: Vec<Box<Chunk>> = self.waiting.drain(..).map(|(_, chunk)| chunk).collect();
        self.records -= withdrawn.iter().map(|chunk| chunk.len()).sum::<usize>();
        withdrawn
    }

    /// How long the ceiling held something back that nobody was told of; none: not long enough to be told.
    pub fn held(&mut self, now: Duration) -> Option<Duration> {
        if let Some(since) = &mut self.held {
            self.untold += now.saturating_sub(std::mem::replace(since, now));
        }
        (self.untold >= TOLD).then(|| std::mem::take(&mut self.untold))
    }

    /// So many rows were written that did not come this way.
    pub fn pay(&mut self, rows: usize) {
        self.bucket.iter_mut().for_each(|bucket| bucket.take(rows));
    }

    /// Records came back; so many of them wrote no row.
    pub fn returned(&mut self, records: usize, unwritten: usize) {
        self.out = self.out.saturating_sub(records);
        if let Some(bucket) = &mut self.bucket {
            bucket.give_back(unwritten);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::RawRecord;
    use crate::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};

    const MS: Duration = Duration::from_millis(1);

    fn chunk(records: usize) -> Box<Chunk> {
        let mut chunk = Box::new(Chunk::new(TopicIx(0)));
        let at = TopicPartition { topic: TopicIx(0), partition: 0 };
        let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(0));
        for n in 0..records as i64 {
            let raw = RawRecord { offset: Offset(n), timestamp_ms: 0, key: None, value: None, headers: &[] };
            chunk.push(run, n as u64, 0, &raw);
        }
        chunk
    }

    fn gate(rate: usize, chunks: &[usize]) -> Ceiling {
        let mut gate = Ceiling::default();
        gate.set(Some(rate), MS);
        for records in chunks {
            gate.expect(*records);
            gate.let_in(0, chunk(*records));
        }
        gate
    }

    fn out(gate: &mut Ceiling, now: Duration, freely: bool) -> Vec<usize> {
        std::iter::from_fn(|| gate.let_out(now, freely)).map(|(_, chunk)| chunk.len()).collect()
    }

    #[test]
    fn it_lets_out_what_the_ceiling_allows_and_only_a_little_that_did_not_come_back() {
        let mut gate = gate(1000, &[100; 20]);
        assert_eq!((gate.piece(500), gate.is_open(), gate.records()), (100, false, 2000));
        assert_eq!(out(&mut gate, MS, false), [100, 100]);
        assert_eq!(out(&mut gate, MS * 10_000, false), [0; 0], "nothing came back: the database is away");
        let held = [10_000, 10_001].map(|ms| gate.held(MS * ms));
        assert_eq!(held, [Some(MS * 9_999), None], "since the third piece waits");
        gate.returned(200, 0);
        assert_eq!(out(&mut gate, MS * 10_001, false), [100, 100], "and no burst when it is there again");
        gate.returned(200, 60);
        assert_eq!(out(&mut gate, MS * 10_041, false), [100], "60 of them were superfluous");
        assert_eq!(gate.records(), 1500);
    }

    #[test]
    fn all_that_waits_is_taken_back_or_nothing() {
        let mut gate = gate(1000, &[100, 100, 100, 50]);
        assert_eq!(out(&mut gate, MS, false), [100, 100]);
        assert!(gate.withdraw(|chunk| chunk.len() == 50).is_empty());
        assert_eq!((gate.withdraw(|_| true).len(), gate.records()), (2, 0));
        assert_eq!(out(&mut gate, MS * 10_000, true), [0; 0]);
    }

    #[test]
    fn without_a_ceiling_and_for_a_topic_that_stopped_all_of_it_goes() {
        let mut gate = gate(10, &[50, 60, 70]);
        assert_eq!(out(&mut gate, MS, false), [50]);
        assert_eq!(out(&mut gate, MS, true), [60, 70]);
        gate.expect(5);
        gate.let_in(0, chunk(5));
        gate.set(None, MS);
        assert!(!gate.is_open(), "what waits goes first");
        assert_eq!(out(&mut gate, MS, false), [5]);
        assert!(gate.is_open() && gate.held(MS).is_none());
    }
}
