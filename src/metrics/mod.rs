//! What the engine counts, per batch and never per record: [`Counters`] of the whole process, and by topic, shard and worker
//! in [`labelled`]. Nothing here knows a key, and nothing here waits.

pub mod histogram;
pub mod labelled;
pub mod name;

use std::sync::atomic::{AtomicU64, Ordering};

/// What an engine has done since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records received from Kafka.
    pub fetched: Counter,
    /// Records that became durable.
    pub durable: Counter,
    /// Records that the database already had.
    pub skipped: Counter,
    /// Records that another one of their batch made superfluous.
    pub folded: Counter,
    /// Records that became dead letters.
    pub dead_lettered: Counter,
    /// Records that were parked, and records that the slow lanes took out again.
    pub parked: Counter,
    pub drained: Counter,
    /// Dead letters that went on to a topic of their own.
    pub forwarded: Counter,
    /// Records whose shard is not the one that declares their partition.
    pub misaligned: Counter,
    /// Keys that began to take more than their share, and keys that ceased to: the difference are those that do so now.
    pub hot_begun: Counter,
    pub hot_ended: Counter,
    /// Rows inserted or updated, and rows deleted.
    pub upserted: Counter,
    pub deleted: Counter,
    /// Batches that came back, and the microseconds that workers spent on them.
    pub batches: Counter,
    pub writing_us: Counter,
    /// Microseconds that workers waited because a limit of the pace held them back, by limit.
    pub held_by_shard_rows_us: Counter,
    pub held_by_topic_rows_us: Counter,
    pub held_by_latency_us: Counter,
    pub held_by_replica_us: Counter,
    /// Records that were parked because their tenant was over its ceiling.
    pub held_by_tenant_rows: Counter,
    /// Partitions started over from the database's word.
    pub rewinds: Counter,
    pub rebalances: Counter,
    /// Microseconds from what the group said to the answer it got.
    pub rebalancing_us: Counter,
    pub pauses: Counter,
    pub commits: Counter,
    /// Records at workers, and records received but not committable, as of the last look.
    pub in_flight: Counter,
    pub waiting: Counter,
    /// With `--until-end`: records between the start and the ends seen at start, and how many of them are durable.
    pub until_end_total: Counter,
    pub until_end_done: Counter,
}

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
