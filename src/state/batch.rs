//! What a worker writes: the records of some chunks of one topic, and the fence moves they make. Records leave the batch from
//! the front as they are written; its chunks stay until the completion takes them.

use crate::state::chunk::{Chunk, LaneRun, RawRecord, RecordMeta, RecordRef};
use crate::types::{Generation, Lane, NextOffset, Token, TopicIx, TopicPartition};

/// One fence of a transaction: from `expected` to `next`, only while the token is still ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneMove {
    pub partition: i32,
    pub lane: Lane,
    pub generation: Generation,
    pub token: Token,
    pub expected: NextOffset,
    pub next: NextOffset,
}

/// See the module's text. Indices count the records that are still to be written.
#[derive(Debug, Default)]
pub struct Batch {
    chunks: Vec<Box<Chunk>>,
    /// (chunk, record) of every record still to be written.
    records: Vec<(u32, u32)>,
    /// Whether `records` is still every record of every chunk.
    whole: bool,
    bytes: usize,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// A record by itself, for whoever moves no fences.
    pub fn of_one(partition: i32, record: &RawRecord<'_>) -> Batch {
        let at = TopicPartition { topic: TopicIx(0), partition };
        let mut chunk = Box::new(Chunk::new(at.topic));
        let run = chunk.open_run(at, 0, Generation(0), Token(0), NextOffset(record.offset.0));
        chunk.push(run, 0, 0, record);
        let mut batch = Batch::new();
        batch.push(chunk);
        batch
    }

    /// The topic; none without chunks.
    pub fn topic(&self) -> Option<TopicIx> {
        self.chunks.first().map(|c| c.topic)
    }

    /// Adds a chunk of the same topic behind what is there.
    pub fn push(&mut self, chunk: Box<Chunk>) {
        assert!(self.topic().is_none_or(|t| t == chunk.topic), "one topic per batch");
        let index = self.chunks.len() as u32;
        self.whole |= self.chunks.is_empty();
        self.records.extend((0..chunk.len() as u32).map(|record| (index, record)));
        self.bytes += chunk.bytes();
        self.chunks.push(chunk);
    }

    /// Its chunks were taken at this time, in microseconds of the engine's clock.
    pub fn taken(&mut self, at_us: u64) {
        self.chunks.iter_mut().for_each(|chunk| chunk.taken_us = at_us);
    }

    /// Records still to be written.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys, values and headers of all its chunks.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn record(&self, index: usize) -> RecordRef<'_> {
        let (chunk, record) = self.records[index];
        self.chunks[chunk as usize].record(record as usize)
    }

    /// Whether some record may be unroutable: a look at each chunk, not at each record.
    pub fn has_unroutable(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.has_unroutable())
    }

    /// Why a record cannot be applied anywhere, where that is so.
    pub fn unroutable(&self, index: usize) -> Option<&str> {
        let (chunk, record) = self.records[index];
        self.chunks[chunk as usize].unroutable(record as usize)
    }

    pub fn meta(&self, index: usize) -> (&RecordMeta, &LaneRun) {
        let (chunk, record) = self.records[index];
        let chunk = &self.chunks[chunk as usize];
        let meta = &chunk.records[record as usize];
        (meta, &chunk.runs[meta.run as usize])
    }

    /// The fence moves of its first `upto` records, in (partition, lane) order: the order in which locks are taken.
    pub fn moves(&self, upto: usize, into: &mut Vec<LaneMove>) {
        into.clear();
        if self.whole && upto == self.records.len() {
            let runs = self.chunks.iter().flat_map(|c| &c.runs);
            into.extend(runs.map(|run| lane_move(run, run.next)));
        } else {
            // A part of it, which happens only after a failure: each lane as far as these records lead.
            for index in 0..upto {
                let (meta, run) = self.meta(index);
                into.push(lane_move(run, meta.offset.next()));
            }
        }
        // A stable sort keeps what belongs to one lane in its order, so that neighbours can be joined. Two generations of one
        // lane stay apart: at most one of them still holds the fence's token, and the mismatch tells which.
        into.sort_by_key(|m| (m.partition, m.lane, m.generation));
        into.dedup_by(|later, first| {
            let key = |m: &LaneMove| (m.partition, m.lane, m.generation);
            let same = key(later) == key(first);
            if same {
                first.next = later.next;
            }
            same
        });
    }

    /// The first `upto` records are durable: their runs' fences moved on, and they leave the batch.
    pub fn written(&mut self, upto: usize) {
        if self.whole && upto == self.records.len() {
            self.chunks.iter_mut().flat_map(|c| &mut c.runs).for_each(|run| run.expected = run.next);
        } else {
            for &(chunk, record) in &self.records[..upto] {
                let chunk = &mut self.chunks[chunk as usize];
                let meta = &chunk.records[record as usize];
                chunk.runs[meta.run as usize].expected = meta.offset.next();
            }
        }
        self.leave_out(|index, _| index < upto);
    }

    /// The runs that `dead` names will not be written: their records leave the batch.
    pub fn drop_runs(&mut self, dead: impl Fn(&LaneRun) -> bool) {
        self.leave_out(|_, run| dead(run));
    }

    /// Moves the records of this one's lane behind all others, in their order. Returns how many they are.
    pub fn defer(&mut self, index: usize) -> usize {
        let (_, run) = self.meta(index);
        let lane = (run.partition, run.lane);
        let chunks = &self.chunks;
        let of_lane = |&(chunk, record): &(u32, u32)| {
            let chunk = &chunks[chunk as usize];
            let run = &chunk.runs[chunk.records[record as usize].run as usize];
            (run.partition, run.lane) == lane
        };
        let (deferred, others): (Vec<_>, Vec<_>) = self.records.iter().copied().partition(of_lane);
        self.records = others;
        self.records.extend(&deferred);
        deferred.len()
    }

    fn leave_out(&mut self, out: impl Fn(usize, &LaneRun) -> bool) {
        let (chunks, before, mut index) = (&self.chunks, self.records.len(), 0);
        self.records.retain(|&(chunk, record)| {
            let chunk = &chunks[chunk as usize];
            let keep = !out(index, &chunk.runs[chunk.records[record as usize].run as usize]);
            index += 1;
            keep
        });
        self.whole &= self.records.len() == before;
    }

    /// The fences that the runs of some lanes start from, as `fence` answers; for a test of the rule that forbids it.
    #[doc(hidden)]
    pub fn adopt(&mut self, fence: impl Fn(&LaneRun) -> Option<NextOffset>) {
        for run in self.chunks.iter_mut().flat_map(|c| &mut c.runs) {
            if let Some(next) = fence(run) {
                run.expected = next;
            }
        }
    }

    /// Takes the chunks out, for the completion; the batch is empty then.
    pub fn take_chunks(&mut self) -> Vec<Box<Chunk>> {
        self.records.clear();
        self.bytes = 0;
        self.whole = false;
        std::mem::take(&mut self.chunks)
    }
}

fn lane_move(run: &LaneRun, next: NextOffset) -> LaneMove {
    let LaneRun { partition, lane, generation, token, expected, .. } = *run;
    LaneMove { partition, lane, generation, token, expected, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    /// Chunks written as lists of (lane, offset) of one partition; fences start at 0 or behind the chunk before.
    fn batch(chunks: &[&[(Lane, i64)]]) -> Batch {
        let (mut batch, at) = (Batch::new(), TopicPartition { topic: TopicIx(0), partition: 3 });
        let mut fences = std::collections::HashMap::new();
        for records in chunks {
            let mut chunk = Box::new(Chunk::new(TopicIx(0)));
            for &(lane, offset) in *records {
                let expected = *fences.entry(lane).or_insert(NextOffset(0));
                let run = chunk.runs.iter().position(|r| r.lane == lane).map(|i| i as u32);
                let run = run.unwrap_or_else(|| chunk.open_run(at, lane, Generation(1), Token(7), expected));
                let raw =
                    RawRecord { offset: Offset(offset), timestamp_ms: 0, key: None, value: Some(b"v"), headers: &[] };
                chunk.push(run, 0, 0, &raw);
                fences.insert(lane, Offset(offset).next());
            }
            batch.push(chunk);
        }
        batch
    }

    fn moves(batch: &Batch, upto: usize) -> Vec<(Lane, i64, i64)> {
        let mut moves = Vec::new();
        batch.moves(upto, &mut moves);
        moves.iter().map(|m| (m.lane, m.expected.0, m.next.0)).collect()
    }

    #[test]
    fn a_lane_moves_once_through_all_its_chunks() {
        let batch = batch(&[&[(1, 2), (0, 3), (1, 5)], &[(1, 9), (2, 10)]]);
        assert_eq!(moves(&batch, 5), [(0, 0, 4), (1, 0, 10), (2, 0, 11)]);
    }

    #[test]
    fn pieces_lead_to_the_same_fences_as_the_whole() {
        let mut batch = batch(&[&[(1, 2), (0, 3), (1, 5)], &[(1, 9), (2, 10)]]);
        assert_eq!(moves(&batch, 2), [(0, 0, 4), (1, 0, 3)]);
        batch.written(2);
        assert_eq!(moves(&batch, 1), [(1, 3, 6)]);
        batch.written(1);
        assert_eq!(moves(&batch, 2), [(1, 6, 10), (2, 0, 11)]);
        batch.written(2);
        assert!(batch.is_empty());
        let chunks = batch.take_chunks();
        assert!(chunks.iter().flat_map(|c| &c.runs).all(|r| r.expected == r.next), "everything is durable");
    }

    #[test]
    fn a_deferred_lane_comes_last_and_in_order() {
        let mut batch = batch(&[&[(1, 2), (0, 3), (1, 5)], &[(0, 9), (2, 10)]]);
        assert_eq!(batch.defer(0), 2);
        let offsets: Vec<i64> = (0..5).map(|index| batch.record(index).offset.0).collect();
        assert_eq!(offsets, [3, 9, 10, 2, 5]);
        assert_eq!(moves(&batch, 3), [(0, 0, 10), (2, 0, 11)]);
        batch.written(3);
        assert_eq!(moves(&batch, 1), [(1, 0, 3)]);
    }

    #[test]
    fn a_dropped_lane_stays_unwritten() {
        let mut batch = batch(&[&[(1, 2), (0, 3), (1, 5)]]);
        batch.drop_runs(|run| run.lane == 1);
        assert_eq!(moves(&batch, 1), [(0, 0, 4)]);
        batch.written(1);
        let runs: Vec<_> = batch.take_chunks()[0].runs.iter().map(|r| (r.lane, r.expected.0)).collect();
        assert_eq!(runs, [(1, 0), (0, 4)]);
    }
}
