//! What a worker writes in one transaction: the records of some chunks of one topic, and the fence moves they make.

use std::ops::Range;

use crate::state::chunk::{Chunk, LaneRun, RecordMeta, RecordRef};
use crate::types::{Generation, Lane, NextOffset, Token, TopicIx};

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

/// See the module's text. Indices count the records of all chunks, in order.
#[derive(Debug, Default)]
pub struct Batch {
    chunks: Vec<Box<Chunk>>,
    /// (chunk, record) of every record still to be written.
    records: Vec<(u32, u32)>,
    bytes: usize,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::default()
    }

    /// The topic; none while empty.
    pub fn topic(&self) -> Option<TopicIx> {
        self.chunks.first().map(|c| c.topic)
    }

    /// Adds a chunk of the same topic behind what is there.
    pub fn push(&mut self, chunk: Box<Chunk>) {
        assert!(self.topic().is_none_or(|t| t == chunk.topic), "one topic per batch");
        let index = self.chunks.len() as u32;
        self.records.extend((0..chunk.len() as u32).map(|record| (index, record)));
        self.bytes += chunk.bytes();
        self.chunks.push(chunk);
    }

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

    pub fn meta(&self, index: usize) -> (&RecordMeta, &LaneRun) {
        let (chunk, record) = self.records[index];
        let chunk = &self.chunks[chunk as usize];
        let meta = &chunk.records[record as usize];
        (meta, &chunk.runs[meta.run as usize])
    }

    /// Forgets the records of the runs that `dead` names; their chunks stay for the completion.
    pub fn drop_runs(&mut self, dead: impl Fn(&LaneRun) -> bool) {
        let chunks = &self.chunks;
        self.records.retain(|&(chunk, record)| {
            let chunk = &chunks[chunk as usize];
            !dead(&chunk.runs[chunk.records[record as usize].run as usize])
        });
    }

    /// The fence moves of a part of the batch, in (partition, lane) order: the order in which locks are taken.
    /// `range` must not leave out an earlier record of a lane that is not written yet.
    pub fn moves(&self, range: Range<usize>, into: &mut Vec<LaneMove>) {
        into.clear();
        if range == (0..self.records.len()) && self.records.len() == self.chunks.iter().map(|c| c.len()).sum::<usize>()
        {
            self.whole_moves(into);
            return;
        }
        // A part: where a lane begins in it follows from the record of that lane before it.
        for index in 0..range.end {
            let (meta, run) = self.meta(index);
            let next = meta.offset.next();
            match into.iter_mut().find(|m| m.partition == run.partition && m.lane == run.lane) {
                Some(m) if index < range.start => (m.expected, m.next) = (next, next),
                Some(m) => m.next = next,
                None => {
                    let expected = if index < range.start { next } else { self.expected_at(index) };
                    let (partition, lane, generation, token) = (run.partition, run.lane, run.generation, run.token);
                    into.push(LaneMove { partition, lane, generation, token, expected, next });
                }
            }
        }
        into.retain(|m| m.expected < m.next);
        into.sort_unstable_by_key(|m| (m.partition, m.lane));
    }

    fn whole_moves(&self, into: &mut Vec<LaneMove>) {
        for run in self.chunks.iter().flat_map(|c| &c.runs) {
            let LaneRun { partition, lane, generation, token, expected, next, .. } = *run;
            into.push(LaneMove { partition, lane, generation, token, expected, next });
        }
        // A stable sort keeps the runs of one lane in their order, so that neighbours can be joined.
        into.sort_by_key(|m| (m.partition, m.lane));
        into.dedup_by(|later, first| {
            let same = (later.partition, later.lane) == (first.partition, first.lane);
            if same {
                assert_eq!(first.next, later.expected, "runs of one lane follow each other");
                first.next = later.next;
            }
            same
        });
    }

    /// The fence before the first record of a lane in this batch: that of its run.
    fn expected_at(&self, index: usize) -> NextOffset {
        self.meta(index).1.expected
    }

    /// Takes the chunks out, for the completion; the batch is empty then.
    pub fn take_chunks(&mut self) -> Vec<Box<Chunk>> {
        self.records.clear();
        self.bytes = 0;
        std::mem::take(&mut self.chunks)
    }
}
