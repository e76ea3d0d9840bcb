//! What a running engine lets others see: the admin interface, a program that embeds it, tests. Threads write here what they know,
//! once a batch or a few times a second; whoever looks takes no lock for longer than a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::Counters;
use crate::metrics::labelled::Metrics;
use crate::sink::Reason;
use crate::state::batch::Batch;
use crate::state::tracker::Place;
use crate::types::{KEY_BYTES_MAX, NextOffset, Offset, ShardIx, TopicIx, TopicPartition};

/// See the module's text.
#[derive(Debug)]
pub struct Observed {
    pub counters: Arc<Counters>,
    pub metrics: Metrics,
    /// By shard, then by writer: workers, then slow lanes.
    pub at_work: Vec<Vec<AtWork>>,
    /// When the poller last turned, in microseconds of the engine's clock.
    turned_us: AtomicU64,
    view: Mutex<Arc<View>>,
}

/// What the poller sees, as of the last look.
#[derive(Debug, Default)]
pub struct View {
    /// Of the engine's clock; 0 before the first look.
    pub at: Duration,
    pub leaving: bool,
    /// It was ever assigned anything, be it nothing.
    pub assigned: bool,
    /// By topic: why it stopped.
    pub stopped: Vec<Option<Reason>>,
    pub partitions: Vec<PartitionView>,
    /// By shard.
    pub shards: Vec<ShardView>,
}

#[derive(Debug, Clone)]
pub struct PartitionView {
    pub at: TopicPartition,
    pub phase: &'static str,
    /// Where it starts is known: the offsets below count.
    pub begun: bool,
    pub paused: bool,
    /// Where this tenure began.
    pub start: NextOffset,
    pub committed: Option<NextOffset>,
    /// The unbroken prefix of what is durable.
    pub durable: NextOffset,
    pub fetched: NextOffset,
    /// The end of the log when a takeover asked.
    pub end: NextOffset,
    pub in_flight_records: usize,
    pub in_flight_bytes: usize,
    /// The first record that is not durable.
    pub oldest: Option<OldestView>,
    /// The timestamp of the first record that is fetched and not committed.
    pub uncommitted_ms: Option<i64>,
    /// The shard that has acknowledged least, where one has not acknowledged all that is durable.
    pub unconfirmed: Option<ShardIx>,
}

impl PartitionView {
    /// Everything below was fetched, or the group has committed it: a tenure that is yet to begin has fetched nothing.
    pub fn reached(&self) -> NextOffset {
        let fetched = if self.begun { self.fetched } else { NextOffset(0) };
        self.committed.map_or(fetched, |committed| committed.max(fetched))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct OldestView {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub place: Place,
    pub at: Whereabouts,
}

/// Where a record is that is fetched and not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its shard is yet to be taken over.
    Waiting,
    /// Its lane moves to another worker.
    Held,
    /// At this worker.
    Worker(u16),
}

#[derive(Debug, Clone, Default)]
pub struct ShardView {
    /// It has answered since the start.
    pub reached: bool,
    /// When it was there again, after it was away.
    pub well_since: Duration,
    /// What was said of it last, and since when; none: nothing is wrong.
    pub trouble: Option<Trouble>,
    /// Records at each worker.
    pub queued: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct Trouble {
    pub since: Duration,
    /// A person is needed.
    pub refused: bool,
    pub reason: Reason,
}

impl Observed {
    /// `writers`: of each shard.
    pub fn new(topics: usize, shards: usize, writers: usize) -> Observed {
        Observed {
            counters: Arc::default(),
            metrics: Metrics::new(topics, shards, writers),
            at_work: (0..shards).map(|_| (0..writers).map(|_| AtWork::default()).collect()).collect(),
            turned_us: AtomicU64::new(0),
            view: Mutex::default(),
        }
    }

    /// The poller turns.
    pub fn turned(&self, now_us: u64) {
        self.turned_us.store(now_us, Ordering::Relaxed);
    }

    /// When it did last, of the engine's clock.
    pub fn last_turn(&self) -> Duration {
        Duration::from_micros(self.turned_us.load(Ordering::Relaxed))
    }

    pub fn show(&self, view: View) {
        *self.view.lock() = Arc::new(view);
    }

    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock())
    }

    /// What one writer of a shard is at.
    pub fn at_work(&self, shard: ShardIx, writer: u16) -> &AtWork {
        &self.at_work[usize::from(shard.0)][usize::from(writer)]
    }
}

/// What one worker, or slow lane, is at. It tells when it begins, when something fails, and when it is done.
#[derive(Debug, Default)]
pub struct AtWork(Mutex<Task>);

#[derive(Debug, Clone, Default)]
pub struct Task {
    pub doing: Doing,
    pub topic: Option<TopicIx>,
    pub records: usize,
    /// When the batch was begun, of the engine's clock, and the try under way.
    pub since: Duration,
    pub tried_at: Duration,
    /// Tries so far, the one under way included.
    pub attempt: u32,
    /// What the last try said that failed.
    pub last: Option<Reason>,
    /// The first record of each partition in the batch.
    pub oldest: Vec<OldestOf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Doing {
    #[default]
    Idle,
    Writing,
    /// The last try failed, and the next one is to come.
    Retrying,
    /// The shard's pace says when.
    Paced,
}

impl Doing {
    pub fn word(self) -> &'static str {
        match self {
            Doing::Idle => "idle",
            Doing::Writing => "writing",
            Doing::Retrying => "retrying",
            Doing::Paced => "paced",
        }
    }
}

#[derive(Debug, Clone)]
pub struct OldestOf {
    pub partition: i32,
    pub offset: Offset,
    /// Its first bytes; none of a record without one.
    pub key: Option<Vec<u8>>,
}

impl AtWork {
    /// A batch begins, or what is left of one.
    pub fn begin(&self, batch: &Batch, now: Duration) {
        let mut task = self.0.lock();
        (task.doing, task.topic, task.records) = (Doing::Writing, batch.topic(), batch.len());
        (task.since, task.tried_at, task.attempt, task.last) = (now, now, 1, None);
        let mut partitions = 0;
        for index in 0..batch.len() {
            let (meta, run) = batch.meta(index);
            let known = task.oldest[..partitions].iter().position(|oldest| oldest.partition == run.partition);
            let place = known.unwrap_or(partitions);
            if known.is_some() && task.oldest[place].offset <= meta.offset {
                continue;
            }
            if known.is_none() {
                partitions += 1;
                if task.oldest.len() < partitions {
                    task.oldest.push(OldestOf { partition: 0, offset: meta.offset, key: None });
                }
            }
            // In place: from batch to batch the same memory.
            let oldest = &mut task.oldest[place];
            (oldest.partition, oldest.offset) = (run.partition, meta.offset);
            keep(&mut oldest.key, batch.record(index).key);
        }
        task.oldest.truncate(partitions);
    }

    /// Parked records of a topic.
    pub fn begin_parked(&self, topic: TopicIx, records: usize, now: Duration) {
        let mut task = self.0.lock();
        let topic = Some(topic);
        *task =
            Task { doing: Doing::Writing, topic, records, since: now, tried_at: now, attempt: 1, ..Task::default() };
    }

    pub fn failed(&self, reason: &Reason) {
        let mut task = self.0.lock();
        task.doing = Doing::Retrying;
        task.last = Some(reason.clone());
    }

    /// The next try begins.
    pub fn again(&self, now: Duration) {
        let mut task = self.0.lock();
        task.tried_at = now;
        if task.doing == Doing::Retrying {
            task.attempt += 1;
        }
        task.doing = Doing::Writing;
    }

    pub fn paced(&self) {
        self.0.lock().doing = Doing::Paced;
    }

    pub fn done(&self) {
        self.0.lock().doing = Doing::Idle;
    }

    pub fn task(&self) -> Task {
        self.0.lock().clone()
    }
}

fn keep(kept: &mut Option<Vec<u8>>, key: Option<&[u8]>) {
    match key {
        None => *kept = None,
        Some(key) => {
            let kept = kept.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(&key[..key.len().min(KEY_BYTES_MAX)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::{Chunk, RawRecord};
    use crate::types::{Generation, Token};

    #[test]
    fn the_first_record_of_each_partition_is_named() {
        let mut chunk = Chunk::new(TopicIx(0));
        let mut push = |partition, offset, key: Option<&[u8]>| {
            let at = TopicPartition { topic: TopicIx(0), partition };
            let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(offset));
            let raw = RawRecord { offset: Offset(offset), timestamp_ms: 0, key, value: None, headers: &[] };
            chunk.push(run, 0, 0, &raw);
        };
        let long = [b'x'; 1000];
        push(3, 12, Some(b"later"));
        push(3, 10, Some(b"first"));
        push(5, 7, None);
        push(6, 1, Some(&long));
        let mut batch = Batch::new();
        batch.push(Box::new(chunk));
        let at_work = AtWork::default();
        for _ in 0..2 {
            at_work.begin(&batch, Duration::from_secs(1));
            let task = at_work.task();
            let found: Vec<_> = task.oldest.iter().map(|o| (o.partition, o.offset.0, o.key.as_deref())).collect();
            let expected = [(3, 10, Some(&b"first"[..])), (5, 7, None), (6, 1, Some(&long[..KEY_BYTES_MAX]))];
            assert_eq!(found, expected);
        }
        at_work.failed(&Reason::new("locked"));
        at_work.again(Duration::from_secs(2));
        let task = at_work.task();
        assert_eq!((task.doing, task.attempt, task.last), (Doing::Writing, 2, Some(Reason::new("locked"))));
    }
}
