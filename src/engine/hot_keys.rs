//! What the threads of one shard share of its keys that take most: workers say what each batch took, and ask which keys to park; slow
//! lanes say what those take there. Of tables no key is ever hot (batches and folding absorb one that comes often); there it is
//! enough to look at some batches. Never parks anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{self, Delivery, HotKeyRule, Target};
use crate::metrics::Counters;
use crate::state::batch::Batch;
use crate::state::hot_key::{Change, Top, Watch};
use crate::types::{KEY_BYTES_MAX, KeyHash, TopicIx};

/// How often a topic's hot keys are worth a line in the log, in each shard.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// Where no key may be hot, one batch of so many tells which keys take most.
const LOOK_AT_ONE_OF: u64 = 16;

/// See the module's text.
pub struct HotKeys {
    shard: String,
    /// By topic: whether a key of it may be hot.
    may_be_hot: Vec<bool>,
    /// Batches of other topics.
    batches: AtomicU64,
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
    /// The last one of which is known what took most.
    window: u64,
    /// Keys of those that took most, and those whose keys are yet to be seen.
    names: BTreeMap<KeyHash, Vec<u8>>,
    unnamed: BTreeSet<KeyHash>,
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
        let may_be_hot = |t: &config::Topic| {
            matches!(t.target, Target::Handler) && t.delivery == Delivery::ExactlyOnce && rule.percent > 0
        };
        let none = Arc::new(BTreeSet::new());
        let topic = |t: &config::Topic| Topic {
            name: t.name.clone(),
            watch: Watch::new(if may_be_hot(t) { rule } else { HotKeyRule { percent: 0, ..rule } }),
            hot: Arc::clone(&none),
            said: Default::default(),
            window: 0,
            names: BTreeMap::new(),
            unnamed: BTreeSet::new(),
        };
        HotKeys {
            shard: shard.to_owned(),
            may_be_hot: topics.iter().map(may_be_hot).collect(),
            batches: AtomicU64::new(0),
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
            topic.window = 0;
            topic.names.clear();
            topic.unnamed.clear();
        }
    }

    fn may_be_hot(&self, topic: TopicIx) -> bool {
        self.may_be_hot.get(usize::from(topic.0)).is_some_and(|may_be| *may_be)
    }

    /// A topic's hot keys.
    pub fn of(&self, topic: TopicIx) -> Arc<BTreeSet<KeyHash>> {
        match self.may_be_hot(topic) {
            true => Arc::clone(&self.inner.lock()[usize::from(topic.0)].hot),
            false => Arc::clone(&self.none),
        }
    }

    /// The first records of a batch are durable, and took so long together. `took_ns` says what each of them took, 0 for one that was
    /// parked, where that is known. `more_waits`: something is queued behind the batch.
    pub fn written(
        &self,
        batch: &Batch,
        piece: usize,
        took: Duration,
        took_ns: &[u64],
        more_waits: bool,
        now: Duration,
    ) {
        let Some(topic) = batch.topic().filter(|topic| usize::from(topic.0) < self.may_be_hot.len()) else { return };
        let may_be_hot = self.may_be_hot(topic);
        if !may_be_hot && !self.batches.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_AT_ONE_OF) {
            return;
        }
        let share_ns = took.as_nanos() as u64 / piece.max(1) as u64;
        let count = if may_be_hot { took_ns.len() } else { piece };
        let records = (0..count).map(|index| {
            let (meta, run) = batch.meta(index);
            let ns = if may_be_hot { took_ns[index] } else { share_ns };
            (batch.record(index).key.map(|_| meta.hash), run.partition, ns)
        });
        let mut topics = self.inner.lock();
        let watched = &mut topics[usize::from(topic.0)];
        watched.watch.batch(records, more_waits);
        watched.name(batch, count);
        self.turn(&mut topics, now);
    }

    /// A slow lane applied so many parked records of a key.
    pub fn drained(&self, topic: TopicIx, hash: KeyHash, records: u64, took: Duration) {
        if self.may_be_hot(topic) {
            self.inner.lock()[usize::from(topic.0)].watch.drained(hash, records, took);
        }
    }

    /// Windows end when nothing comes, too.
    pub fn look(&self, now: Duration) {
        self.turn(&mut self.inner.lock(), now);
    }

    fn turn(&self, topics: &mut [Topic], now: Duration) {
        for index in 0..topics.len() {
            let load = |(other, t): (usize, &Topic)| if other == index { 0.0 } else { t.watch.load() };
            let others = topics.iter().enumerate().map(load).sum();
            let topic = &mut topics[index];
            let changes = topic.watch.turn(now, self.capacity, others);
            if topic.window != topic.watch.windows() {
                topic.window = topic.watch.windows();
                topic.wanted();
            }
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

    /// The keys that took most in a topic's last whole window.
    pub fn top(&self, topic: TopicIx) -> Top {
        self.inner.lock().get(usize::from(topic.0)).map(|topic| topic.watch.top().clone()).unwrap_or_default()
    }

    /// The first bytes of such a key, once a record of it was seen.
    pub fn name(&self, topic: TopicIx, hash: KeyHash) -> Option<Vec<u8>> {
        self.inner.lock().get(usize::from(topic.0))?.names.get(&hash).cloned()
    }
}

impl Topic {
    /// Those that took most are to be shown by their keys.
    fn wanted(&mut self) {
        let top = self.watch.top();
        let of_top = |hash: &KeyHash| top.by_records.iter().chain(&top.by_time).any(|key| key.hash == *hash);
        self.names.retain(|hash, _| of_top(hash));
        let all = top.by_records.iter().chain(&top.by_time).map(|key| key.hash);
        self.unnamed = all.filter(|hash| !self.names.contains_key(hash)).collect();
    }

    fn name(&mut self, batch: &Batch, count: usize) {
        for index in 0..count {
            if self.unnamed.is_empty() {
                return;
            }
            let hash = batch.meta(index).0.hash;
            if let Some(key) = batch.record(index).key.filter(|_| self.unnamed.remove(&hash)) {
                self.names.insert(hash, key[..key.len().min(KEY_BYTES_MAX)].to_vec());
            }
        }
    }

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
