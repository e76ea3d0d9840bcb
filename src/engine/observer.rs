//! Whoever looks at an engine, or tells it something, while it runs: the admin interface, or a program that embeds it. It never
//! waits for the engine, and the engine never for it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::live::Live;
use crate::engine::ends::Ends;
use crate::engine::gate::Gate;
use crate::engine::hot_keys::HotKeys;
use crate::engine::observed::{Observed, Task, View};
use crate::engine::pace::{Pace, PaceStatus};
use crate::engine::parked::Parked;
use crate::engine::sampler::Sampled;
use crate::engine::worker::Signals;
use crate::metrics::Counters;
use crate::metrics::labelled::Metrics;
use crate::state::contention::Snapshot;
use crate::state::hot_key::Top;
use crate::types::{KeyHash, ShardIx, TopicIx};

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    pub(super) live: Arc<Live>,
    pub(super) observed: Arc<Observed>,
    pub(super) clock: Arc<dyn Clock>,
    /// By shard.
    pub(super) hot: Vec<Arc<HotKeys>>,
    pub(super) paces: Vec<Arc<Pace>>,
    pub(super) sampled: Vec<Arc<Sampled>>,
    pub(super) running: Arc<Mutex<Option<Running>>>,
}

/// What there is only while it runs.
#[derive(Clone)]
pub struct Running {
    /// By shard.
    pub parked: Vec<Arc<Parked>>,
    pub gates: Vec<Arc<Gate>>,
    pub signals: Arc<Signals>,
    pub ends: Arc<Ends>,
}

impl Observer {
    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        self.live.get()
    }

    /// The engine's clock: what all its times are of.
    pub fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    pub fn counters(&self) -> &Counters {
        &self.observed.counters
    }

    pub fn metrics(&self) -> &Metrics {
        &self.observed.metrics
    }

    /// What the poller sees, as of its last look.
    pub fn view(&self) -> Arc<View> {
        self.observed.view()
    }

    /// When the poller last turned.
    pub fn last_turn(&self) -> Duration {
        self.observed.last_turn()
    }

    /// What a worker is at, or a slow lane: those come behind the workers.
    pub fn task(&self, shard: ShardIx, writer: u16) -> Task {
        self.observed.at_work(shard, writer).task()
    }

    /// What there is while it runs; none before and after.
    pub fn running(&self) -> Option<Running> {
        self.running.lock().clone()
    }

    /// What holds a shard back.
    pub fn pace(&self, shard: ShardIx) -> PaceStatus {
        self.paces[usize::from(shard.0)].status()
    }

    /// What a shard's connections wait for, and who blocks them; none until it was sampled.
    pub fn contention(&self, shard: ShardIx) -> Option<Snapshot> {
        self.sampled[usize::from(shard.0)].snapshot()
    }

    /// The keys that took most of a topic in a shard, in the last whole `hot_key_window_ms`. Of tables, one batch of sixteen is
    /// looked at.
    pub fn top_keys(&self, shard: ShardIx, topic: TopicIx) -> Top {
        self.hot.get(usize::from(shard.0)).map(|hot| hot.top(topic)).unwrap_or_default()
    }

    /// The first bytes of one of these keys, once a record of it was seen.
    pub fn key(&self, shard: ShardIx, topic: TopicIx, hash: KeyHash) -> Option<Vec<u8>> {
        self.hot.get(usize::from(shard.0))?.name(topic, hash)
    }

    /// Nothing more of a topic is fetched, or it is again; what is on its way is applied. Says whether that changes anything; none
    /// where nothing runs. Lasts until it is changed, or the run ends.
    pub fn pause_topic(&self, topic: TopicIx, paused: bool) -> Option<bool> {
        let signals = self.running()?.signals;
        let before = signals.is_paused(topic);
        signals.pause_topic(topic, paused);
        Some(before != paused)
    }
}
