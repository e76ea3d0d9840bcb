//! Records on their way from the poller to a worker: one arena per chunk, so that handing over a record costs a copy of
//! its bytes and no allocation. A chunk goes back to the poller with its completion and is used again.
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

/// A record in a chunk; its bytes lie in the chunk's arena.
#[derive(Debug, Clone, Copy)]
pub struct RecordMeta {
    pub offset: Offset,
    /// Milliseconds since the Unix epoch; −1 where the broker gave none.
    pub timestamp_ms: i64,
    /// When the poller received it, in microseconds of the engine's clock.
    pub fetched_us: u64,
    /// Index into [`Chunk::runs`].
    pub run: u32,
    /// The tracker's number of this record within its generation.
    pub seq: u64,
    pub hash: KeyHash,
    key: Span,
    value: Span,
    headers: Span,
}

/// A range of the arena; `len` = `NULL` for an absent key or value.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

const NULL: u32 = u32::MAX;

/// Bytes by which an arena grows at least.
const GROWTH_MIN: usize = 16 << 10;

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

    /// Bytes that it will occupy in a chunk's arena.
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
    bytes: Vec<u8>,
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
            bytes: Vec::new(),
            unroutable: Vec::new(),
        }
    }

    /// Empties it for another use.
    pub fn reset(&mut self, topic: TopicIx) {
        self.topic = topic;
        self.runs.clear();
        self.records.clear();
        self.bytes.clear();
        self.unroutable.clear();
    }

    /// Bytes of memory that it holds, whether it is full or empty.
    pub fn footprint(&self) -> usize {
        size_of::<Chunk>()
            + self.bytes.capacity()
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

    /// Copies a record in.
    ///
    /// # Panics
    /// If its offset lies below what its run has reached already: records of a lane come in order.
    pub fn push(&mut self, run: u32, seq: u64, fetched_us: u64, record: &RawRecord<'_>) {
        self.push_hashed(run, seq, fetched_us, record.key_hash(), record);
    }

    /// As [`push`](Chunk::push), where the key's hash is known.
    pub fn push_hashed(&mut self, run: u32, seq: u64, fetched_us: u64, hash: KeyHash, record: &RawRecord<'_>) {
        let lane = &mut self.runs[run as usize];
        assert!(!record.offset.is_below(lane.next), "offset {} below {} in one lane", record.offset, lane.next);
        lane.next = record.offset.next();
        lane.records += 1;
        self.make_room(record.bytes());
        let key = self.span(record.key);
        let value = self.span(record.value);
        let headers = self.span(Some(record.headers));
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        self.records.push(RecordMeta { offset, timestamp_ms, fetched_us, run, seq, hash, key, value, headers });
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

    /// By an eighth, not twofold: chunks are used again and again, and what each of them has to spare adds up.
    fn make_room(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve_exact(more.max(self.bytes.len() / 8).max(GROWTH_MIN));
        }
    }

    fn span(&mut self, bytes: Option<&[u8]>) -> Span {
        let at = self.bytes.len() as u32;
        match bytes {
            None => Span { at, len: NULL },
            Some(bytes) => {
                self.bytes.extend_from_slice(bytes);
                Span { at, len: bytes.len() as u32 }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record at `index`.
    pub fn record(&self, index: usize) -> RecordRef<'_> {
        let meta = &self.records[index];
        RecordRef {
            partition: self.runs[meta.run as usize].partition,
            offset: meta.offset,
            timestamp_ms: meta.timestamp_ms,
            key: self.slice(meta.key),
            value: self.slice(meta.value),
            headers: Headers(self.slice(meta.headers).unwrap_or_default()),
        }
    }

    fn slice(&self, span: Span) -> Option<&[u8]> {
        (span.len != NULL).then(|| &self.bytes[span.at as usize..(span.at + span.len) as usize])
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
