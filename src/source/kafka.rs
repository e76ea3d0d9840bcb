//! The real [`Source`]: librdkafka's consumer. It decides nothing and blocks nobody: a rebalance is written down by the
//! callback, reported by the next poll, and answered whenever the poller says so; until then librdkafka keeps the group
//! waiting and goes on with its heartbeats.
//!
//! librdkafka's threads inherit the CPUs of the one that creates it ([`crate::cpus`]).

mod end;
mod group;
mod position;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use group::{Life, Unanswered};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::config;
use crate::source::assigned::Assigned;
use crate::source::client::{Context, client_config};
use crate::source::logs::{self, answered, refused};
use crate::source::queue::RecordQueue;
use crate::source::wake::Wake;
use crate::source::{ASK_DEADLINE, Commit, Committed, Intake, Source, SourceError, Start, Watermarks, ask};
use crate::types::{NextOffset, TopicIx, TopicPartition};

/// What is not configuration.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Asks this broker for topics' ids instead of the controller; librdkafka's mock cluster has no controller to ask.
    pub admin_broker: Option<i32>,
}

/// See the module's text.
pub struct KafkaSource {
    /// Before `consumer`: freed first. None only while being dropped.
    queue: Option<RecordQueue>,
    consumer: Option<Arc<BaseConsumer<Context>>>,
    wake: Arc<Wake>,
    options: Options,
    topics: Vec<String>,
    by_name: HashMap<String, TopicIx>,
    assigned: Assigned,
    /// Rebalances handed out and not answered yet, in order.
    unanswered: VecDeque<Unanswered>,
    life: Life,
    cluster_id: Option<String>,
}

/// The poller's thread gets it from the one that creates it.
const _: fn() = || {
    fn send<T: Send>() {}
    send::<KafkaSource>();
};

impl KafkaSource {
    /// Connects in the background and subscribes; `topics` are in the order of their [`TopicIx`].
    pub fn new(kafka: &config::Kafka, topics: &[String], options: Options) -> Result<KafkaSource, SourceError> {
        let wake = Arc::new(Wake::default());
        let mut consumer: BaseConsumer<Context> =
            client_config(kafka).create_with_context(Context::default()).map_err(configuration)?;
        let notify = Arc::clone(&wake);
        consumer.set_nonempty_callback(move || notify.notify());
        let consumer = Arc::new(consumer);
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(|e| SourceError::Fatal(e.to_string()))?;
        Ok(KafkaSource {
            queue: Some(RecordQueue::new(Arc::clone(&consumer), Arc::clone(&wake))),
            consumer: Some(consumer),
            wake,
            options,
            by_name: topics.iter().enumerate().map(|(ix, name)| (name.clone(), TopicIx(ix as u16))).collect(),
            topics: topics.to_vec(),
            assigned: Assigned::default(),
            unanswered: VecDeque::new(),
            life: Life::Member,
            cluster_id: None,
        })
    }

    fn consumer(&self) -> &BaseConsumer<Context> {
        self.consumer.as_ref().expect("the client lives until the drop")
    }

    fn queue(&mut self) -> &mut RecordQueue {
        self.queue.as_mut().expect("the queue lives until the drop")
    }

    fn name(&self, at: TopicPartition) -> &str {
        &self.topics[usize::from(at.topic.0)]
    }

    fn list(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for at in partitions {
            list.add_partition(self.name(at), at.partition);
        }
        list
    }

    fn list_at(&self, starts: &[(TopicPartition, NextOffset)]) -> Result<TopicPartitionList, SourceError> {
        let mut list = TopicPartitionList::new();
        for &(at, next) in starts {
            list.add_partition_offset(self.name(at), at.partition, KafkaOffset::Offset(next.0)).map_err(refused)?;
        }
        Ok(list)
    }

    /// Serves callbacks, then takes records; returns how much was handed out.
    fn serve(&mut self, records_max: usize, intake: &mut impl Intake) -> Result<usize, SourceError> {
        self.run_callbacks(intake);
        let mut handed = self.report(intake);
        if let Life::Dead(why) = &self.life {
            return Err(SourceError::Fatal(why.clone()));
        }
        let queue = self.queue.as_mut().expect("the queue lives until the drop");
        let (assigned, by_name) = (&mut self.assigned, &self.by_name);
        if records_max > 0 {
            handed += queue.take(records_max, |m| assigned.hand_out(m, |name| by_name.get(name).copied(), intake));
        }
        let failed = assigned.take_failed();
        if !failed.is_empty() {
            // Best effort: nothing of them is handed out any more in any case.
            let _ = self.consumer().pause(&self.list(failed));
        }
        self.move_back();
        Ok(handed)
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration, records_max: usize, intake: &mut impl Intake) -> Result<(), SourceError> {
        if self.serve(records_max, intake)? == 0 && !wait.is_zero() {
            self.wake.wait(wait);
            self.serve(records_max, intake)?;
        }
        Ok(())
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Committed>, SourceError> {
        let list = self.consumer().committed_offsets(self.list(of.iter().copied()), ASK_DEADLINE).map_err(refused)?;
        let metadata = ask::metadata(&list);
        let mut found = Vec::with_capacity(of.len());
        for (element, metadata) in list.elements().iter().zip(metadata) {
            element.error().map_err(refused)?;
            let topic = self.by_name.get(element.topic()).copied();
            let next = match element.offset() {
                KafkaOffset::Offset(next) => Some(NextOffset(next)),
                _ => None,
            };
            if let Some(topic) = topic {
                let at = TopicPartition { topic, partition: element.partition() };
                found.push(Committed { at, next, metadata });
            }
        }
        Ok(found)
    }

    fn watermarks(&mut self, of: &[TopicPartition]) -> Vec<Result<Watermarks, SourceError>> {
        let names: Vec<(&str, i32)> = of.iter().map(|at| (self.name(*at), at.partition)).collect();
        logs::watermarks(self.consumer(), &names, ASK_DEADLINE)
    }

    fn cluster_id(&mut self) -> Result<String, SourceError> {
        // Asked once: librdkafka keeps the first answer for ever, and the binding leaks a copy per call.
        if self.cluster_id.is_none() {
            self.cluster_id = self.consumer().client().fetch_cluster_id(ASK_DEADLINE);
        }
        self.cluster_id.clone().ok_or_else(|| SourceError::Retriable("no broker names its cluster".to_owned()))
    }

    fn topic_id(&mut self, of: TopicIx) -> Result<Option<String>, SourceError> {
        let topic = &self.topics[usize::from(of.0)];
        ask::topic_id(self.consumer().client(), topic, self.options.admin_broker, ASK_DEADLINE).map_err(answered)
    }

    fn partitions(&mut self, of: TopicIx) -> Result<i32, SourceError> {
        let topic = &self.topics[usize::from(of.0)];
        let metadata = self.consumer().fetch_metadata(Some(topic), ASK_DEADLINE).map_err(refused)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        match found.map(|t| (t.error(), t.partitions().len())) {
            Some((None, count)) if count > 0 => Ok(count as i32),
            Some((Some(error), _)) => Err(answered((error.into(), format!("topic {topic}")))),
            _ => Err(SourceError::Refused(format!("no broker knows topic {topic}"))),
        }
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError> {
        self.answer_assigned(partitions)
    }

    fn unassign(&mut self, _: &[TopicPartition]) -> Result<(), SourceError> {
        self.answer_revoked()
    }

    fn restart(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
        self.go_on_at(at, next)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.consumer().pause(&self.list(partitions.iter().copied())).map_err(refused)?;
        for at in partitions {
            if let Some(part) = self.assigned.get_mut(*at) {
                part.paused = true;
            }
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        let mut free = Vec::new();
        for at in partitions {
            if let Some(part) = self.assigned.get_mut(*at) {
                part.paused = false;
                if !part.held() {
                    free.push(*at);
                }
            }
        }
        self.consumer().resume(&self.list(free)).map_err(refused)
    }

    fn commit(&mut self, offsets: &[Commit]) -> Result<(), SourceError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for commit in offsets {
            let mut element = list.add_partition(self.name(commit.at), commit.at.partition);
            element.set_offset(KafkaOffset::Offset(commit.next.0)).map_err(refused)?;
            element.set_metadata(commit.metadata.as_str());
        }
        self.queue().commit(&list).map_err(|code| answered((code, "the commit".to_owned())))
    }

    fn close(&mut self) -> Result<(), SourceError> {
        if self.life == Life::Member {
            self.life = Life::LeaveAfterAnswers;
        }
        self.leave_if_due()
    }

    fn closed(&self) -> bool {
        matches!(self.life, Life::Dead(_)) || self.consumer().closed()
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || wake.notify())
    }
}

/// A configuration that librdkafka refuses; its message without the value, which may be a secret.
fn configuration(error: KafkaError) -> SourceError {
    SourceError::Fatal(match error {
        KafkaError::ClientConfig(_, why, key, _) => format!("[kafka] {key:?}: {why}"),
        other => other.to_string(),
    })
}
