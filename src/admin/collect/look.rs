//! What one look at an engine found, for the parts of the status to share.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::status::{Partition, Shard, Topic};
use crate::config::Config;
use crate::engine::observed::{Task, View};
use crate::engine::{Observer, Running};
use crate::state::contention::Snapshot;
use crate::types::{ShardIx, TopicIx};

pub struct Look<'o> {
    pub observer: &'o Observer,
    pub config: Arc<Config>,
    pub view: Arc<View>,
    pub running: Option<Running>,
    /// Of the engine's clock.
    pub now: Duration,
    pub now_ms: i64,
    pub rates: Rates,
    /// By shard.
    pub snapshots: Vec<Option<Snapshot>>,
    /// By shard and writer.
    pub tasks: Vec<Vec<Task>>,
}

/// Of the last seconds, per second.
pub struct Rates {
    pub fetched: f64,
    pub durable: f64,
    /// By shard and writer: the share of its time at work, 0 to 1.
    pub busy: Vec<Vec<f64>>,
}

impl<'o> Look<'o> {
    pub fn new(observer: &'o Observer, rates: Rates) -> Look<'o> {
        let config = observer.config();
        let shards = (0..config.shards.len()).map(|shard| ShardIx(shard as u16));
        let writers = config.engine.writers_per_shard() as u16;
        let tasks = |shard| (0..writers).map(|writer| observer.task(shard, writer)).collect();
        Look {
            observer,
            view: observer.view(),
            running: observer.running(),
            now: observer.now(),
            now_ms: observer.wall_ms(),
            rates,
            snapshots: shards.clone().map(|shard| observer.contention(shard)).collect(),
            tasks: shards.map(tasks).collect(),
            config,
        }
    }

    /// Since the poller last turned; none where nothing runs.
    pub fn poll_age(&self) -> Option<Duration> {
        self.running.as_ref().map(|_| self.now.saturating_sub(self.observer.last_turn()))
    }

    pub fn shards(&self) -> Vec<Shard> {
        (0..self.config.shards.len()).map(|shard| self.shard(ShardIx(shard as u16))).collect()
    }

    pub fn topics(&self, partitions: &[Partition]) -> Vec<Topic> {
        (0..self.config.topics.len()).map(|topic| self.topic(TopicIx(topic as u16), partitions)).collect()
    }
}
