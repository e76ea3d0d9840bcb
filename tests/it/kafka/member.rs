//! A member of a group that keeps what it is given and answers as a test tells it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forebay::config::secret::Secret;
use forebay::config::{FirstStart, Kafka};
use forebay::source::kafka::{KafkaSource, Options};
use forebay::source::{Commit, Intake, PartitionError, Source, SourceError, SourceEvent, Start};
use forebay::state::chunk::RawRecord;
use forebay::types::{NextOffset, TopicIx, TopicPartition};

use crate::support::{Topic, kafka_bootstrap, produce, wait_until};

/// Anything that a test waits for comes within this, or it failed.
pub const DEADLINE: Duration = Duration::from_secs(40);
pub const STEP: Duration = Duration::from_millis(20);

pub const EAGER: &[(&str, &str)] = &[("partition.assignment.strategy", "range")];
pub const COOPERATIVE: &[(&str, &str)] = &[("partition.assignment.strategy", "cooperative-sticky")];
pub const KIP_848: &[(&str, &str)] = &[("group.protocol", "consumer")];
pub const PROTOCOLS: [(&str, &[(&str, &str)]); 3] =
    [("eager", EAGER), ("cooperative", COOPERATIVE), ("consumer", KIP_848)];

pub fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicIx(0), partition }
}

pub fn settings(group: &str, extra: &[(&str, &str)]) -> Kafka {
    let mut properties: BTreeMap<String, Secret> = BTreeMap::new();
    properties.insert("bootstrap.servers".to_owned(), Secret(kafka_bootstrap()));
    for (name, value) in extra {
        properties.insert((*name).to_owned(), Secret((*value).to_owned()));
    }
    Kafka { group_id: group.to_owned(), first_start: FirstStart::Earliest, properties }
}

/// A member of a group that keeps all it is given, and answers rebalances as told.
pub struct Member {
    pub source: KafkaSource,
    pub seen: Seen,
    /// Where partitions begin; others at 0.
    pub starts: BTreeMap<i32, Start>,
    /// How long a rebalance waits for its answer.
    pub answer_after: Duration,
    pub pending: Option<(Instant, SourceEvent)>,
    pub owned: Vec<i32>,
    /// Committed while a revocation waits for its answer.
    pub commit_on_revoke: Option<NextOffset>,
    pub fatal: Option<String>,
}

/// Key, value, timestamp.
pub type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, i64);

#[derive(Default)]
pub struct Seen {
    pub records: Vec<(i32, i64)>,
    pub ends: Vec<(i32, i64)>,
    pub failed: Vec<(i32, PartitionError)>,
    pub commits: Vec<Result<(), String>>,
    pub rebalances: Vec<SourceEvent>,
    pub headers: Vec<Vec<u8>>,
    pub values: Vec<Parts>,
    pub keep_values: bool,
}

impl Intake for Seen {
    fn record(&mut self, at: TopicPartition, record: &RawRecord<'_>) {
        self.records.push((at.partition, record.offset.0));
        if self.keep_values {
            let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            self.values.push((own(record.key), own(record.value), record.timestamp_ms));
            self.headers.push(record.headers.to_vec());
        }
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::EndOfPartition { at, end } => self.ends.push((at.partition, end.0)),
            SourceEvent::PartitionFailed { at, error } => self.failed.push((at.partition, error)),
            SourceEvent::Committed(result) => self.commits.push(result),
            SourceEvent::Unwell(text) => eprintln!("unwell: {text}"),
            rebalance => self.rebalances.push(rebalance),
        }
    }
}

impl Member {
    pub fn new(topic: &str, group: &str, extra: &[(&str, &str)]) -> Member {
        let source = KafkaSource::new(&settings(group, extra), &[topic.to_owned()], Options::default()).unwrap();
        Member {
            source,
            seen: Seen::default(),
            starts: BTreeMap::new(),
            answer_after: Duration::ZERO,
            pending: None,
            owned: Vec::new(),
            commit_on_revoke: None,
            fatal: None,
        }
    }

    pub fn begin(mut self, partition: i32, start: i64) -> Member {
        self.starts.insert(partition, Start::At(NextOffset(start)));
        self
    }

    pub fn step(&mut self) {
        match self.source.poll(STEP, 100, &mut self.seen) {
            Ok(()) => {}
            Err(SourceError::Fatal(why)) => self.fatal = Some(why),
            Err(SourceError::Retriable(why) | SourceError::Refused(why)) => panic!("poll: {why}"),
        }
        if self.pending.is_none() && !self.seen.rebalances.is_empty() {
            let event = self.seen.rebalances.remove(0);
            if let (SourceEvent::Revoked(of), Some(next)) = (&event, self.commit_on_revoke) {
                let commits: Vec<_> =
                    of.iter().map(|&at| Commit { at, next, metadata: "on revoke".to_owned() }).collect();
                self.source.commit(&commits).unwrap();
            }
            self.pending = Some((Instant::now() + self.answer_after, event));
        }
        if self.pending.as_ref().is_some_and(|(when, _)| Instant::now() >= *when) {
            let (_, event) = self.pending.take().unwrap();
            self.answer(event);
        }
    }

    pub fn answer(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Assigned(parts) => {
                let start = |p: &TopicPartition| *self.starts.get(&p.partition).unwrap_or(&Start::At(NextOffset(0)));
                let starts: Vec<_> = parts.iter().map(|p| (*p, start(p))).collect();
                self.source.assign(&starts).unwrap();
                for p in parts {
                    assert!(!self.owned.contains(&p.partition), "partition {} assigned twice", p.partition);
                    self.owned.push(p.partition);
                }
            }
            SourceEvent::Revoked(parts) | SourceEvent::Lost(parts) => {
                self.source.unassign(&parts).unwrap();
                self.owned.retain(|p| !parts.iter().any(|gone| gone.partition == *p));
            }
            other => panic!("no rebalance: {other:?}"),
        }
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, condition: impl Fn(&Member) -> bool) {
        wait_until(DEADLINE, what, || {
            self.step();
            assert!(self.fatal.is_none(), "fatal: {:?}", self.fatal);
            condition(self)
        });
    }

    pub fn step_for(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            self.step();
        }
    }

    pub fn offsets(&self, partition: i32) -> Vec<i64> {
        self.seen.records.iter().filter(|(p, _)| *p == partition).map(|(_, o)| *o).collect()
    }

    #[track_caller]
    pub fn close(mut self) -> Seen {
        self.source.close().unwrap();
        wait_until(DEADLINE, "leaving the group", || {
            self.step();
            self.source.closed()
        });
        self.seen
    }
}

pub fn publish(topic: &Topic, partition: i32, count: usize) {
    let value = vec![b'x'; 200];
    produce(topic.name(), (0..count).map(|_| (partition, Some(&b"key"[..]), Some(value.as_slice()))));
}

#[track_caller]
pub fn both_until(a: &mut Member, b: &mut Member, what: &str, condition: impl Fn(&Member, &Member) -> bool) {
    wait_until(DEADLINE, what, || {
        a.step();
        b.step();
        assert!(a.fatal.is_none() && b.fatal.is_none(), "fatal: {:?} {:?}", a.fatal, b.fatal);
        condition(a, b)
    });
}
