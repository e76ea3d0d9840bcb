//! Watches, over a connection of its own, what is durable: reads all fences, over and over. A record whose lane's fence has
//! moved past it is committed, as the next reader of the database sees it; its age at that moment is its time lag. So the lag
//! of *every* record is measured, from outside the engine, and at most one look too long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use hdrhistogram::Histogram;
use postgres::Client;

use crate::demo::{DemoError, PARTITIONS};

/// Between two looks; on a small machine looking costs the engine something.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LAG_US_MAX: u64 = 3_600_000_000;

/// The fences, and as lane -1 each partition's stored progress.
const LOOK: &str = "SELECT partition, lane, next_offset FROM forebay.fence \
                    UNION ALL SELECT partition, -1::smallint, done FROM forebay.partition";

/// A record that was published.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    pub phase: usize,
    pub partition: usize,
    pub key_hash: u64,
    pub offset: i64,
    /// When it was to be published: a publisher that falls behind must not make the lag look small.
    pub at: Instant,
}

/// What the others may ask while it watches.
#[derive(Default)]
pub struct Seen {
    /// By partition: everything below it is durable, and a restart would begin there.
    pub done: [AtomicI64; PARTITIONS],
    /// Records that are durable.
    pub durable: AtomicU64,
    /// Every partition has been taken over: from now on records are applied as they come.
    pub ready: AtomicBool,
}

/// What it saw of one phase.
#[derive(Debug, Clone)]
pub struct Lag {
    /// Microseconds.
    pub histogram: Histogram<u64>,
    pub first_published: Option<Instant>,
    pub last_durable: Option<Instant>,
}

impl Lag {
    fn new() -> Result<Lag, DemoError> {
        let histogram = Histogram::new_with_bounds(1, LAG_US_MAX, 3);
        let histogram = histogram.map_err(|e| DemoError::unavailable("a histogram", e))?;
        Ok(Lag { histogram, first_published: None, last_durable: None })
    }

    fn record(&mut self, record: &Published, now: Instant) {
        let micros = now.saturating_duration_since(record.at).as_micros() as u64;
        self.histogram.saturating_record(micros);
        self.first_published = Some(self.first_published.map_or(record.at, |first| first.min(record.at)));
        self.last_durable = Some(now);
    }
}

/// Watches until `over` and nothing more is published. Returns what it saw, by phase.
pub fn watch(
    mut client: Client,
    published: &Receiver<Published>,
    phases: usize,
    seen: &Seen,
    over: &AtomicBool,
) -> Result<Vec<Lag>, DemoError> {
    let failed = |e| DemoError::unavailable("watching the fences", e);
    let mut lags = (0..phases).map(|_| Lag::new()).collect::<Result<Vec<Lag>, DemoError>>()?;
    let mut waiting = Waiting::default();
    // Forebay makes its tables when it starts.
    let exists = "SELECT to_regclass('forebay.fence') IS NOT NULL";
    while !client.query_one(exists, &[]).map_err(failed)?.get::<_, bool>(0) {
        if over.load(Ordering::Relaxed) {
            return Ok(lags);
        }
        thread::sleep(LOOK_EVERY);
    }
    let look = client.prepare(LOOK).map_err(failed)?;
    while !over.load(Ordering::Relaxed) {
        let rows = client.query(&look, &[]).map_err(failed)?;
        // Behind the answer: what it shows was durable by now.
        let now = Instant::now();
        waiting.fences(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))), seen);
        published.try_iter().for_each(|record| waiting.add(record));
        let durable = waiting.take_durable(|record| lags[record.phase].record(record, now));
        seen.durable.fetch_add(durable, Ordering::Relaxed);
        thread::sleep(LOOK_EVERY);
    }
    Ok(lags)
}

/// By partition and lane: the fence, and the records that wait for it to move past them.
#[derive(Default)]
struct Waiting {
    lanes: [Vec<(i64, VecDeque<Published>)>; PARTITIONS],
}

impl Waiting {
    fn fences(&mut self, rows: impl Iterator<Item = (i32, i16, i64)>, seen: &Seen) {
        for (partition, lane, next) in rows {
            let partition = partition as usize;
            let Ok(lane) = usize::try_from(lane) else {
                seen.done[partition].store(next, Ordering::Relaxed);
                continue;
            };
            let lanes = &mut self.lanes[partition];
            // A takeover makes all of a partition's fences at once.
            lanes.resize_with(lanes.len().max(lane + 1), || (0, VecDeque::new()));
            lanes[lane].0 = next;
        }
        if self.lanes.iter().all(|lanes| !lanes.is_empty()) {
            seen.ready.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing is published before every partition has its lanes.
    fn add(&mut self, record: Published) {
        let lanes = &mut self.lanes[record.partition];
        let lane = (record.key_hash % lanes.len() as u64) as usize;
        lanes[lane].1.push_back(record);
    }

    fn take_durable(&mut self, mut each: impl FnMut(&Published)) -> u64 {
        let mut durable = 0;
        for (next, records) in self.lanes.iter_mut().flatten() {
            while let Some(record) = records.front().filter(|record| record.offset < *next) {
                each(record);
                records.pop_front();
                durable += 1;
            }
        }
        durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_durable_when_its_own_lane_s_fence_has_passed_it() {
        let (mut waiting, seen, at) = (Waiting::default(), Seen::default(), Instant::now());
        let record = |key_hash, offset| Published { phase: 0, partition: 1, key_hash, offset, at };
        let offsets = |waiting: &mut Waiting| {
            let mut offsets = Vec::new();
            waiting.take_durable(|record| offsets.push(record.offset));
            offsets
        };
        waiting.fences([(1, 0, 0), (1, 1, 0), (1, -1, 0)].into_iter(), &seen);
        assert!(!seen.ready.load(Ordering::Relaxed), "seven partitions are still without an owner");
        waiting.fences((0..PARTITIONS as i32).map(|partition| (partition, 1, 0)), &seen);
        assert!(seen.ready.load(Ordering::Relaxed));
        waiting.add(record(6, 0));
        waiting.add(record(7, 1));
        waiting.add(record(8, 2));
        assert_eq!(offsets(&mut waiting), [] as [i64; 0]);
        waiting.fences([(1, 0, 1), (1, 1, 2), (1, -1, 2)].into_iter(), &seen);
        assert_eq!(offsets(&mut waiting), [0, 1]);
        assert_eq!(seen.done[1].load(Ordering::Relaxed), 2);
        waiting.fences([(1, 0, 3)].into_iter(), &seen);
        assert_eq!(offsets(&mut waiting), [2]);
    }
}
