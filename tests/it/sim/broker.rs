//! The fake brokers' logs: offsets with gaps, retention, truncation, topics that are deleted and made anew.
//!
//! It also keeps the truth that the observers compare with: every record ever published, and what became of it.

use std::collections::{BTreeMap, BTreeSet};

use forebay::types::{NextOffset, TopicIx, TopicPartition};
use xxhash_rust::xxh3::xxh3_64;

/// Identifies a record for the observers; it is the record's value.
pub type Id = u64;

pub struct Broker {
    pub cluster_id: String,
    pub topics: Vec<Topic>,
    /// Every record ever published; `Id` is the index.
    pub published: Vec<Published>,
    /// No answer to anything.
    pub down: bool,
    /// Nobody answers for these.
    pub leaderless: BTreeSet<TopicPartition>,
    by_key: BTreeMap<(TopicPartition, Vec<u8>), Vec<Id>>,
    by_partition: BTreeMap<TopicPartition, Vec<Id>>,
    pub routing: ShardOf,
}

pub struct Topic {
    /// `None` for a broker without topic ids.
    pub id: Option<String>,
    pub logs: Vec<Log>,
    pub deleted: bool,
    /// Deleted and made anew under this name: its consumers go on in silence at their old positions.
    pub recreated: bool,
}

#[derive(Default)]
pub struct Log {
    /// Offset → record.
    pub records: BTreeMap<i64, Id>,
    pub low: i64,
    /// The high watermark; trailing transaction markers lie between the last record and it.
    pub end: i64,
    /// The log was cut at its end; offsets may have been given twice.
    pub truncated: bool,
}

pub struct Published {
    pub at: TopicPartition,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// Which row it writes; none: one of its own.
    pub row: Option<Vec<u8>>,
    /// The row that must be there before it.
    pub parent: Option<Vec<u8>>,
    /// It names no tenant.
    pub unroutable: bool,
    pub timestamp_ms: i64,
    /// Where it belongs, computed here and not by the code under test.
    pub shard: usize,
    /// No longer in the log: retention, truncation, recreation.
    pub removed: bool,
    /// Was in some database at some moment.
    pub ever_durable: bool,
    /// No database takes it.
    pub poison: bool,
}

/// What a record says.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub key: Option<Vec<u8>>,
    pub row: Option<Vec<u8>>,
    pub parent: Option<Vec<u8>>,
    pub unroutable: bool,
}

impl From<Option<Vec<u8>>> for Content {
    /// A key is a row, unless something else is said.
    fn from(key: Option<Vec<u8>>) -> Content {
        Content { row: key.clone(), key, ..Content::default() }
    }
}

impl Published {
    /// No database takes it, whatever comes.
    pub fn is_bad(&self) -> bool {
        self.poison || self.unroutable
    }
}

/// How records are spread over shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardOf {
    Only,
    /// Partition modulo shards.
    Partition(usize),
    /// Hash of the key modulo shards.
    KeyHash(usize),
}

impl ShardOf {
    pub fn shard(self, partition: i32, key: Option<&[u8]>) -> usize {
        match self {
            ShardOf::Only => 0,
            ShardOf::Partition(shards) => partition as usize % shards,
            ShardOf::KeyHash(shards) => (xxh3_64(key.unwrap_or_default()) % shards as u64) as usize,
        }
    }

    /// Which shards can hold records of a partition.
    pub fn shards(self, partition: i32) -> Vec<usize> {
        match self {
            ShardOf::Only => vec![0],
            ShardOf::Partition(shards) => vec![partition as usize % shards],
            ShardOf::KeyHash(shards) => (0..shards).collect(),
        }
    }
}

impl Broker {
    pub fn new(topics: usize, partitions: usize, routing: ShardOf) -> Broker {
        let topic = |index| Topic {
            id: Some(format!("topic-{index}-1")),
            logs: (0..partitions).map(|_| Log::default()).collect(),
            deleted: false,
            recreated: false,
        };
        let topics = (0..topics).map(topic).collect();
        Broker {
            cluster_id: "cluster-1".into(),
            topics,
            published: Vec::new(),
            down: false,
            leaderless: BTreeSet::new(),
            by_key: BTreeMap::new(),
            by_partition: BTreeMap::new(),
            routing,
        }
    }

    pub fn log(&self, at: TopicPartition) -> &Log {
        &self.topics[at.topic.0 as usize].logs[at.partition as usize]
    }

    pub fn log_mut(&mut self, at: TopicPartition) -> &mut Log {
        &mut self.topics[at.topic.0 as usize].logs[at.partition as usize]
    }

    pub fn partitions(&self) -> Vec<TopicPartition> {
        let mut all = Vec::new();
        for (topic, t) in self.topics.iter().enumerate() {
            all.extend((0..t.logs.len()).map(|p| TopicPartition { topic: TopicIx(topic as u16), partition: p as i32 }));
        }
        all
    }

    /// Appends a record behind `gap` offsets that hold none.
    pub fn publish(&mut self, at: TopicPartition, gap: i64, content: impl Into<Content>, timestamp_ms: i64) -> Id {
        let Content { key, row, parent, unroutable } = content.into();
        let id = self.published.len() as Id;
        // What names no tenant goes to the first shard.
        let shard = if unroutable { 0 } else { self.routing.shard(at.partition, key.as_deref()) };
        let log = self.log_mut(at);
        let offset = log.end + gap;
        log.records.insert(offset, id);
        log.end = offset + 1;
        if let Some(key) = &key {
            self.by_key.entry((at, key.clone())).or_default().push(id);
        }
        self.by_partition.entry(at).or_default().push(id);
        self.published.push(Published {
            at,
            offset,
            key,
            row,
            parent,
            unroutable,
            timestamp_ms,
            shard,
            removed: false,
            ever_durable: false,
            poison: false,
        });
        id
    }

    /// Moves the end on without a record, as a transaction's marker does.
    pub fn mark(&mut self, at: TopicPartition) {
        self.log_mut(at).end += 1;
    }

    /// Retention: the log begins at `low` now.
    pub fn retain_from(&mut self, at: TopicPartition, low: NextOffset) {
        let log = self.log_mut(at);
        log.low = log.low.max(low.0.min(log.end));
        let kept = log.records.split_off(&log.low);
        let gone = std::mem::replace(&mut log.records, kept);
        self.remove(gone.into_values());
    }

    /// An unclean election: the log ends at `end` now.
    pub fn truncate(&mut self, at: TopicPartition, end: NextOffset) {
        let log = self.log_mut(at);
        log.end = end.0.max(log.low);
        log.truncated = true;
        let gone = log.records.split_off(&log.end.clone());
        self.remove(gone.into_values());
    }

    /// Deletes the topic and makes one of the same name.
    pub fn recreate(&mut self, topic: TopicIx) {
        let t = &mut self.topics[topic.0 as usize];
        t.recreated = true;
        t.id = t.id.as_ref().map(|id| format!("{id}+"));
        let gone: Vec<Id> = t.logs.iter_mut().flat_map(|l| std::mem::take(l).records.into_values()).collect();
        self.remove(gone);
    }

    fn remove(&mut self, gone: impl IntoIterator<Item = Id>) {
        for id in gone {
            self.published[id as usize].removed = true;
        }
    }

    /// Records of one key, in the order in which they were published.
    pub fn of_key(&self, at: TopicPartition, key: &[u8]) -> impl Iterator<Item = (Id, &Published)> {
        let ids = self.by_key.get(&(at, key.to_vec())).map_or(&[][..], Vec::as_slice);
        ids.iter().map(|&id| (id, &self.published[id as usize]))
    }

    /// Records of one partition, in the order in which they were published.
    pub fn of_partition(&self, at: TopicPartition) -> impl Iterator<Item = (Id, &Published)> {
        let ids = self.by_partition.get(&at).map_or(&[][..], Vec::as_slice);
        ids.iter().map(|&id| (id, &self.published[id as usize]))
    }

    /// Whether records of this partition vanished or offsets lost their meaning other than by retention.
    pub fn is_broken(&self, at: TopicPartition) -> bool {
        let topic = &self.topics[at.topic.0 as usize];
        topic.recreated || topic.deleted || self.log(at).truncated || self.cluster_id != "cluster-1"
    }
}
