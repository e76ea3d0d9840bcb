//! Records on their way from the poller to a worker. Their bytes lie in blocks of one size, so that handing over a record costs
//! a copy of its bytes, and hardly ever an allocation: a chunk goes back to the poller with its completion, and its blocks
//! serve whichever chunk is filled next. (One arena a chunk would have to grow, which copies, and every chunk would keep what
//! the largest batch took.)
//!
//! A chunk holds records of one topic, in the order in which they were polled. Records of one lane follow each other in
//! offset order; each belongs to a [`LaneRun`], which says which fence value they start from and which they lead to.

use crate::state::router::key_hash;
use crate::types::{Generation, KeyHash, Lane, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// Records of one lane in a chunk, and the fence move they make: `expected` → `next`.
///
/// The worker moves `expected` on as it writes. When the chunk comes back, exactly the records below it are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneRun {
    pub partition: i32,
    pub lane: Lane,
    pub generation: Generation,
    pub token: Token,
    pub expected: NextOffset,
    pub next: NextOffset,
    /// How many records of the chunk belong to this run.
    pub records: u32,
}

/// A record in a chunk; its key, value and headers follow each other in one block.
#[derive(Debug, Clone, Copy)]
pub struct RecordMeta {
    pub offset: Offset,
    /// Milliseconds since the Unix epoch; −1 where the broker gave none.
    pub timestamp_ms: i64,
    /// When the poller received it, in microseconds of the engine's clock.
    pub fetched_us: u64,
    /// The tracker's number of this record within its generation.
    pub seq: u64,
    pub hash: KeyHash,
    /// Index into [`Chunk::runs`].
    pub run: u32,
    block: u32,
    /// Where in the block it begins.
    at: u32,
    /// Lengths; `NULL` for an absent key or value.
    key: u32,
    value: u32,
    headers: u32,
}

/// A record's meta fills a line of the processor's cache.
const _: () = assert!(size_of::<RecordMeta>() == 64);

const NULL: u32 = u32::MAX;

/// Bytes of a block. A record that needs more has a block of its own.
const BLOCK_BYTES: usize = 16 << 10;

/// Memory of the blocks that are kept; what does not fit in is freed.
const BLOCKS_KEPT_BYTES: usize = 4 << 20;

/// Empty blocks, kept for another use.
#[derive(Debug, Default)]
pub struct Blocks(Vec<Vec<u8>>);

impl Blocks {
    /// One with room for so many bytes: the one kept last, whose memory the processor's caches hold best, or a new one.
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        match bytes <= BLOCK_BYTES {
            true => self.0.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES)),
            false => Vec::with_capacity(bytes),
        }
    }

    fn keep(&mut self, mut block: Vec<u8>) {
        if block.capacity() == BLOCK_BYTES && (self.0.len() + 1) * BLOCK_BYTES <= BLOCKS_KEPT_BYTES {
            block.clear();
            self.0.push(block);
        }
    }
}

/// A record as the source hands it out: borrowed for the duration of one call.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Headers in the form that [`Headers`] reads; empty for none.
    pub headers: &'a [u8],
}

impl RawRecord<'_> {
    pub fn key_hash(&self) -> KeyHash {
        key_hash(self.key, self.offset)
    }

    /// Bytes that it will occupy in a block.
    pub fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len()
    }
}

/// A record as a worker, a table writer or a handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    pub partition: i32,
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

impl<'a> From<RecordRef<'a>> for RawRecord<'a> {
    fn from(record: RecordRef<'a>) -> RawRecord<'a> {
        let RecordRef { offset, timestamp_ms, key, value, headers, .. } = record;
        RawRecord { offset, timestamp_ms, key, value, headers: headers.0 }
    }
}

impl RecordRef<'_> {
    /// Bytes of its key, value and headers.
    pub fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.0.len()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Chunk {
    pub topic: TopicIx,
    pub runs: Vec<LaneRun>,
    pub records: Vec<RecordMeta>,
    /// When the poller gave it to its worker, and when that took it, in microseconds of the engine's clock.
    pub sent_us: u64,
    pub taken_us: u64,
    /// Only the last one is being filled.
    blocks: Vec<Vec<u8>>,
    /// Of all keys, values and headers.
    bytes: usize,
    /// Records without a shard of their own, and why: they are bad wherever they are. Hardly ever any.
    unroutable: Vec<(u32, Box<str>)>,
}

impl Chunk {
    pub fn new(topic: TopicIx) -> Chunk {
        Chunk {
            topic,
            runs: Vec::new(),
            records: Vec::new(),
            sent_us: 0,
            taken_us: 0,
            blocks: Vec::new(),
            bytes: 0,
            unroutable: Vec::new(),
        }
    }

    /// Empties it for another use; its blocks go back.
    pub fn empty(&mut self, blocks: &mut Blocks) {
        self.runs.clear();
        self.records.clear();
        self.unroutable.clear();
        self.bytes = 0;
        self.blocks.drain(..).for_each(|block| blocks.keep(block));
    }

    /// Bytes of memory that it holds beside its blocks, whether it is full or empty.
    pub fn footprint(&self) -> usize {
        size_of::<Chunk>()
            + self.blocks.capacity() * size_of::<Vec<u8>>()
            + self.records.capacity() * size_of::<RecordMeta>()
            + self.runs.capacity() * size_of::<LaneRun>()
    }

    /// Opens a run; records pushed with its index move its `next` on.
    pub fn open_run(
        &mut self,
        at: TopicPartition,
        lane: Lane,
        generation: Generation,
        token: Token,
        expected: NextOffset,
    ) -> u32 {
        debug_assert_eq!(at.topic, self.topic);
        let run = LaneRun { partition: at.partition, lane, generation, token, expected, next: expected, records: 0 };
        self.runs.push(run);
        (self.runs.len() - 1) as u32
    }

    /// Copies a record in, into a block of its own making.
    ///
    /// # Panics
    /// As [`push_hashed`](Chunk::push_hashed).
    pub fn push(&mut self, run: u32, seq: u64, fetched_us: u64, record: &RawRecord<'_>) {
        self.push_hashed(run, seq, fetched_us, record.key_hash(), record, &mut Blocks::default());
    }

    /// Copies a record in, where its key's hash is known. `blocks`: where there may be an empty one.
    ///
    /// # Panics
    /// If its offset lies below what its run has reached already: records of a lane come in order.
    pub fn push_hashed(
        &mut self,
        run: u32,
        seq: u64,
        fetched_us: u64,
        hash: KeyHash,
        record: &RawRecord<'_>,
        blocks: &mut Blocks,
    ) {
        let RawRecord { offset, timestamp_ms, key, value, headers } = *record;
        let lane = &mut self.runs[run as usize];
        assert!(!offset.is_below(lane.next), "offset {offset} below {} in one lane", lane.next);
        lane.next = offset.next();
        lane.records += 1;
        let bytes = record.bytes();
        if self.blocks.last().is_none_or(|block| block.capacity() - block.len() < bytes) {
            self.blocks.push(blocks.take(bytes));
        }
        let block = self.blocks.last_mut().expect("just made sure");
        let at = block.len() as u32;
        for part in [key, value, Some(headers)].into_iter().flatten() {
            block.extend_from_slice(part);
        }
        self.bytes += bytes;
        let length = |part: Option<&[u8]>| part.map_or(NULL, |bytes| bytes.len() as u32);
        self.records.push(RecordMeta {
            offset,
            timestamp_ms,
            fetched_us,
            seq,
            hash,
            run,
            block: self.blocks.len() as u32 - 1,
            at,
            key: length(key),
            value: length(value),
            headers: headers.len() as u32,
        });
    }

    /// The record pushed last names no tenant, and so no shard: it is not to be applied.
    pub fn mark_unroutable(&mut self, why: &str) {
        let last = self.records.len().checked_sub(1).expect("a record was pushed");
        self.unroutable.push((last as u32, why.into()));
    }

    pub fn has_unroutable(&self) -> bool {
        !self.unroutable.is_empty()
    }

    /// Why a record cannot be applied anywhere, where that is so.
    pub fn unroutable(&self, index: usize) -> Option<&str> {
        if self.unroutable.is_empty() {
            return None;
        }
        self.unroutable.iter().find(|(at, _)| *at as usize == index).map(|(_, why)| &**why)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record at `index`.
    pub fn record(&self, index: usize) -> RecordRef<'_> {
        let meta = &self.records[index];
        let mut rest = &self.blocks[meta.block as usize][meta.at as usize..];
        let mut part = |length: u32| {
            let (part, behind) = rest.split_at(length as usize);
            rest = behind;
            part
        };
        RecordRef {
            partition: self.runs[meta.run as usize].partition,
            offset: meta.offset,
            timestamp_ms: meta.timestamp_ms,
            key: (meta.key != NULL).then(|| part(meta.key)),
            value: (meta.value != NULL).then(|| part(meta.value)),
            headers: Headers(part(meta.headers)),
        }
    }
}

/// A record's headers, packed: per header the name's length (u32, little-endian), the name, the value's length
/// (`u32::MAX` for null), the value. Names are UTF-8.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a>(pub &'a [u8]);

impl<'a> Headers<'a> {
    /// Appends one header to a packed list.
    pub fn pack(into: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
        into.extend_from_slice(&(name.len() as u32).to_le_bytes());
        into.extend_from_slice(name.as_bytes());
        match value {
            None => into.extend_from_slice(&NULL.to_le_bytes()),
            Some(value) => {
                into.extend_from_slice(&(value.len() as u32).to_le_bytes());
                into.extend_from_slice(value);
            }
        }
    }

    pub fn iter(self) -> HeaderIter<'a> {
        HeaderIter(self.0)
    }

    /// The last header of that name (Kafka allows several; the last one written wins, as with `lastHeader` in Java).
    pub fn get(self, name: &str) -> Option<Option<&'a [u8]>> {
        self.iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }
}

/// See [`Headers::iter`].
pub struct HeaderIter<'a>(&'a [u8]);

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let name = self.take_slice()?.unwrap_or_default();
        let value = self.take_slice()?;
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    }
}

impl<'a> HeaderIter<'a> {
    fn take_slice(&mut self) -> Option<Option<&'a [u8]>> {
        let (len, rest) = self.0.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        if len == NULL {
            self.0 = rest;
            return Some(None);
        }
        let (bytes, rest) = rest.split_at_checked(len as usize)?;
        self.0 = rest;
        Some(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TopicPartition = TopicPartition { topic: TopicIx(1), partition: 5 };

    fn filled(records: &[RawRecord<'_>], blocks: &mut Blocks) -> Chunk {
        let mut chunk = Chunk::new(AT.topic);
        let run = chunk.open_run(AT, 3, Generation(1), Token(1), NextOffset(0));
        for (seq, record) in records.iter().enumerate() {
            chunk.push_hashed(run, seq as u64, 9, record.key_hash(), record, blocks);
        }
        chunk
    }

    fn parts(record: RecordRef<'_>) -> (Option<&[u8]>, Option<&[u8]>, &[u8]) {
        (record.key, record.value, record.headers.0)
    }

    fn records<'a>(values: &'a [Vec<u8>], headers: &'a [u8]) -> Vec<RawRecord<'a>> {
        let key = |n: usize| [None, Some(&b"key"[..]), Some(&[][..])][n % 3];
        let value = |n: usize| (n % 4 != 3).then(|| &values[n][..]);
        let headers = |n: usize| if n.is_multiple_of(2) { headers } else { &[] };
        let record = |n: usize| RawRecord {
            offset: Offset(n as i64),
            timestamp_ms: n as i64,
            key: key(n),
            value: value(n),
            headers: headers(n),
        };
        (0..values.len()).map(record).collect()
    }

    /// Absent and empty are told apart; blocks end between records, whatever these need.
    #[test]
    fn every_record_is_as_it_came() {
        let mut headers = Vec::new();
        Headers::pack(&mut headers, "name", Some(b"value"));
        let sizes = [0, 1, 5000, BLOCK_BYTES, BLOCK_BYTES - 20, 3 * BLOCK_BYTES, 200, BLOCK_BYTES + 1, 0, 12_000, 7000];
        let values: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, size)| vec![n as u8; *size]).collect();
        let records = records(&values, &headers);
        let chunk = filled(&records, &mut Blocks::default());
        for (index, raw) in records.iter().enumerate() {
            let found = chunk.record(index);
            assert_eq!(parts(found), (raw.key, raw.value, raw.headers), "record {index}");
            assert_eq!((found.offset, found.timestamp_ms, found.partition), (raw.offset, raw.timestamp_ms, 5));
        }
        assert_eq!(chunk.bytes(), records.iter().map(RawRecord::bytes).sum::<usize>());
    }

    #[test]
    fn blocks_are_used_again_and_large_ones_are_not_kept() {
        let values = vec![vec![7; BLOCK_BYTES / 2]; 6];
        let (large, mut blocks) = (vec![vec![1; BLOCK_BYTES * 2]], Blocks::default());
        let mut first = filled(&records(&values, &[]), &mut blocks);
        first.empty(&mut blocks);
        let kept = blocks.0.len();
        assert!(kept >= 2 && first.is_empty() && first.bytes() == 0 && first.blocks.is_empty());
        let mut second = filled(&records(&values, &[]), &mut blocks);
        assert!(blocks.0.is_empty(), "what was there was used");
        second.empty(&mut blocks);
        filled(&records(&large, &[]), &mut blocks).empty(&mut blocks);
        assert_eq!(blocks.0.len(), kept);
    }

    #[test]
    fn what_is_kept_of_blocks_is_bounded() {
        let mut blocks = Blocks::default();
        for _ in 0..3 {
            let mut chunk = filled(&records(&vec![vec![7; BLOCK_BYTES]; 200], &[]), &mut Blocks::default());
            chunk.empty(&mut blocks);
        }
        assert_eq!(blocks.0.len() * BLOCK_BYTES, BLOCKS_KEPT_BYTES);
        assert!(blocks.0.iter().all(Vec::is_empty));
    }
}
