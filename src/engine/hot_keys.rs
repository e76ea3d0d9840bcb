//! What the threads of one shard share of its hot keys: workers say what each batch took, and ask which keys to park; slow lanes
//! say what those take there. Tables are not watched: batches and folding absorb a key that comes often. Never parks anything,
//! and never shows a key's bytes, only its hash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{self, Delivery, HotKeyRule, Target};
use crate::metrics::Counters;
use crate::state::batch::Batch;
use crate::state::hot_key::{Change, Top, Watch};
use crate::types::{KeyHash, TopicIx};

/// How often a topic's hot keys are worth a line in the log, in each shard.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// See the module's text.
pub struct HotKeys {
    shard: String,
    /// By topic: whether it is watched.
    watched: Vec<bool>,
    /// What hot keys may take together: one for each slow lane.
    capacity: f64,
    inner: Mutex<Vec<Topic>>,
    none: Arc<BTreeSet<KeyHash>>,
    counters: Arc<Counters>,
}

/// Workers take the lock once a batch.
struct Topic {
    name: String,
    watch: Watch,
    hot: Arc<BTreeSet<KeyHash>>,
    said: [Said; 2],
}

/// Lines of one kind.
#[derive(Default)]
struct Said {
    at: Option<Duration>,
    left_out: u64,
}

impl HotKeys {
    pub fn new(
        shard: &str,
        topics: &[config::Topic],
        rule: HotKeyRule,
        slow_lanes: usize,
        counters: Arc<Counters>,
    ) -> HotKeys {
        let watched = |t: &config::Topic| {
            matches!(t.target, Target::Handler) && t.delivery == Delivery::ExactlyOnce && rule.percent > 0
        };
        let none = Arc::new(BTreeSet::new());
        let topic = |t: &config::Topic| Topic {
            name: t.name.clone(),
            watch: Watch::new(rule),
            hot: Arc::clone(&none),
            said: Default::default(),
        };
        HotKeys {
            shard: shard.to_owned(),
            watched: topics.iter().map(watched).collect(),
            capacity: slow_lanes as f64,
            inner: Mutex::new(topics.iter().map(topic).collect()),
            none: Arc::clone(&none),
            counters,
        }
    }

    /// Nothing of an earlier run is left.
    pub fn restart(&self) {
        for topic in self.inner.lock().iter_mut() {
            topic.watch.restart();
            topic.hot = Arc::clone(&self.none);
            topic.said = Default::default();
        }
    }

    fn is_watched(&self, topic: TopicIx) -> bool {
        self.watched.get(usize::from(topic.0)).is_some_and(|watched| *watched)
    }

    /// A topic's hot keys.
    pub fn of(&self, topic: TopicIx) -> Arc<BTreeSet<KeyHash>> {
        match self.is_watched(topic) {
            true => Arc::clone(&self.inner.lock()[usize::from(topic.0)].hot),
            false => Arc::clone(&self.none),
        }
    }

    /// The first records of a batch are durable; `took_ns` says what each of them took, 0 for one that was parked. `more_waits`:
    /// something is queued behind the batch.
    pub fn written(&self, batch: &Batch, took_ns: &[u64], more_waits: bool, now: Duration) {
        let Some(topic) = batch.topic().filter(|topic| self.is_watched(*topic)) else { return };
        let records = took_ns.iter().enumerate().map(|(index, ns)| {
            let (meta, run) = batch.meta(index);
            (batch.record(index).key.map(|_| meta.hash), run.partition, *ns)
        });
        let mut topics = self.inner.lock();
        topics[usize::from(topic.0)].watch.batch(records, more_waits);
        self.turn(&mut topics, now);
    }

    /// A slow lane applied so many parked records of a key.
    pub fn drained(&self, topic: TopicIx, hash: KeyHash, records: u64, took: Duration) {
        if self.is_watched(topic) {
            self.inner.lock()[usize::from(topic.0)].watch.drained(hash, records, took);
        }
    }

    /// Windows end when nothing comes, too.
    pub fn look(&self, now: Duration) {
        if self.watched.contains(&true) {
            self.turn(&mut self.inner.lock(), now);
        }
    }

    fn turn(&self, topics: &mut [Topic], now: Duration) {
        for index in 0..topics.len() {
            if !self.watched[index] {
                continue;
            }
            let load = |(other, t): (usize, &Topic)| if other == index { 0.0 } else { t.watch.load() };
            let others = topics.iter().enumerate().map(load).sum();
            let topic = &mut topics[index];
            let changes = topic.watch.turn(now, self.capacity, others);
            if changes.is_empty() {
                continue;
            }
            topic.hot = Arc::new(topic.watch.hot().collect());
            for change in &changes {
                let counter = if change.hot { &self.counters.hot_begun } else { &self.counters.hot_ended };
                counter.add(1);
                topic.say(&self.shard, change, now);
            }
        }
    }

    /// The keys that took most in a topic's last whole window; nothing of a topic that is not watched.
    pub fn top(&self, topic: TopicIx) -> Top {
        match self.is_watched(topic) {
            true => self.inner.lock()[usize::from(topic.0)].watch.top().clone(),
            false => Top::default(),
        }
    }
}

impl Topic {
    fn say(&mut self, shard: &str, change: &Change, now: Duration) {
        let said = &mut self.said[usize::from(change.hot)];
        if said.at.is_some_and(|at| now.saturating_sub(at) < SAID_AGAIN) {
            said.left_out += 1;
            return;
        }
        said.at = Some(now);
        let (topic, Change { hash, partition, share, .. }) = (&self.name, *change);
        let others = match std::mem::take(&mut said.left_out) {
            0 => String::new(),
            n => format!(" (and {n} more keys since the last such line)"),
        };
        let percent = share * 100.0;
        match change.hot {
            true => tracing::warn!(
                shard,
                topic,
                partition,
                "topic {topic} partition {partition}: key #{hash:016x} takes {percent:.0} % of a worker's time in shard {shard}, and \
                 others wait for it; it is parked, and a slow lane applies it{others}"
            ),
            false => tracing::info!(
                shard,
                topic,
                partition,
                "topic {topic} partition {partition}: key #{hash:016x} would take {percent:.0} % of a worker's time in shard {shard} and \
                 is a key like any other once nothing of it is parked{others}"
            ),
        }
    }
}
