//! The topics and consumer groups of a benchmark: made here, and gone afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::bench::BenchError;
use crate::check::wait;
use crate::config;
use crate::words::listed;

const ASK_DEADLINE: Duration = Duration::from_secs(15);
/// From a topic's creation until each partition has a leader.
const LEADERS_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Of the topics and groups that benchmarks make.
pub const PREFIX: &str = "forebay-bench-";

/// See the module's text.
pub struct Topics {
    admin: AdminClient<DefaultClientContext>,
    pub partitions: i32,
    topics: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Topics {
    /// # Errors
    /// If no broker answers.
    pub fn new(kafka: &config::Kafka, partitions: i32) -> Result<Topics, BenchError> {
        let mut config = client(kafka);
        // A broker that is away is said once, by whoever asked.
        config.set_log_level(RDKafkaLogLevel::Critical);
        let admin: AdminClient<_> = config.create().map_err(|e| BenchError::Configuration(format!("[kafka]: {e}")))?;
        let bootstrap = kafka.properties.get("bootstrap.servers").map_or("", |servers| &servers.0);
        let asked = admin.inner().fetch_metadata(None, ASK_DEADLINE);
        asked.map_err(|e| BenchError::kafka(&format!("no answer from {bootstrap}"), e))?;
        Ok(Topics { admin, partitions, topics: BTreeSet::new(), groups: BTreeSet::new() })
    }

    /// Brokers that are known.
    pub fn brokers(&self) -> Result<usize, BenchError> {
        let metadata = self.admin.inner().fetch_metadata(None, ASK_DEADLINE);
        Ok(metadata.map_err(|e| BenchError::kafka("its brokers", e))?.brokers().len())
    }

    /// Says which topics are of benchmarks that were killed. Another one may be running, so nothing is done about them.
    pub fn left_behind(&self) -> Result<(), BenchError> {
        let metadata = self.admin.inner().fetch_metadata(None, ASK_DEADLINE);
        let metadata = metadata.map_err(|e| BenchError::kafka("its topics", e))?;
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        let names: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
        if !names.is_empty() {
            tracing::warn!("of another benchmark, and of no use if none is running: topics {}", listed(&names));
        }
        Ok(())
    }

    /// A new topic, kept until it is removed, with the brokers' own number of replicas.
    pub fn create(&mut self, topic: &str) -> Result<(), BenchError> {
        let what = format!("creating topic {topic}");
        // -1 leaves it to the broker (KIP-464).
        let new = NewTopic::new(topic, self.partitions, TopicReplication::Fixed(-1)).set("retention.ms", "-1");
        let created = wait(self.admin.create_topics([&new], &options()), ASK_DEADLINE * 2);
        let outcomes = created.ok_or_else(|| BenchError::kafka(&what, "no answer"))?;
        self.topics.insert(topic.to_owned());
        for outcome in outcomes.map_err(|e| BenchError::kafka(&what, e))? {
            if let Err((_, code)) = outcome {
                self.topics.remove(topic);
                return Err(BenchError::kafka(&what, code));
            }
        }
        let start = Instant::now();
        while !self.has_leaders(topic)? {
            if start.elapsed() > LEADERS_DEADLINE {
                return Err(BenchError::kafka(&what, "its partitions have no leaders"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn has_leaders(&self, topic: &str) -> Result<bool, BenchError> {
        let asked = self.admin.inner().fetch_metadata(Some(topic), ASK_DEADLINE);
        let metadata = asked.map_err(|e| BenchError::kafka(&format!("topic {topic}"), e))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(found.is_some_and(|found| {
            found.partitions().len() == self.partitions as usize
                && found.partitions().iter().all(|partition| partition.error().is_none() && partition.leader() >= 0)
        }))
    }

    /// A group that will be used.
    pub fn note_group(&mut self, group: &str) {
        self.groups.insert(group.to_owned());
    }

    /// Returns what could not be removed, and why. Others are not touched.
    pub fn remove_topic(&mut self, topic: &str) -> Option<String> {
        self.topics.remove(topic);
        let answer = wait(self.admin.delete_topics(&[topic], &options()), ASK_DEADLINE * 2);
        let trouble = match answer {
            None => "no answer".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(outcomes)) => match outcomes.into_iter().find_map(Result::err) {
                None | Some((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => return None,
                Some((_, code)) => code.to_string(),
            },
        };
        Some(format!("topic {topic} stays behind: {trouble}"))
    }

    /// All of them.
    pub fn remove(&mut self) -> Vec<String> {
        let topics = std::mem::take(&mut self.topics);
        let mut trouble: Vec<String> = topics.iter().filter_map(|topic| self.remove_topic(topic)).collect();
        let groups = std::mem::take(&mut self.groups);
        trouble.extend(groups.iter().filter_map(|group| self.remove_group(group)));
        trouble
    }

    /// A group whose last member has just gone is not empty at once.
    fn remove_group(&self, group: &str) -> Option<String> {
        let start = Instant::now();
        loop {
            let answer = wait(self.admin.delete_groups(&[group], &options()), ASK_DEADLINE * 2);
            let trouble = match answer {
                None => "no answer".to_owned(),
                Some(Err(error)) => error.to_string(),
                Some(Ok(outcomes)) => match outcomes.into_iter().find_map(Result::err) {
                    None | Some((_, RDKafkaErrorCode::GroupIdNotFound)) => return None,
                    Some((_, RDKafkaErrorCode::NonEmptyGroup)) if start.elapsed() < ASK_DEADLINE => {
                        std::thread::sleep(LOOK_EVERY);
                        continue;
                    }
                    Some((_, code)) => code.to_string(),
                },
            };
            return Some(format!("consumer group {group} stays behind: {trouble}"));
        }
    }

    /// What there is now, in words.
    pub fn told(&self) -> String {
        let names = |set: &BTreeSet<String>| listed(&set.iter().cloned().collect::<Vec<_>>());
        format!("topics {}; consumer groups {}", names(&self.topics), names(&self.groups))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_DEADLINE)).operation_timeout(Some(ASK_DEADLINE))
}

/// The operator's properties, as far as a producer knows them, which an administrator is to librdkafka.
pub fn client(kafka: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "forebay-bench");
    // What makes the publisher another one than is meant, or no order per key.
    const LEFT_OUT: [&str; 14] = [
        "acks",
        "batch.num.messages",
        "batch.size",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "linger.ms",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.send.max.retries",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.required.acks",
        "retries",
        "transactional.id",
    ];
    for (name, value) in kafka.producer_properties().filter(|(name, _)| !LEFT_OUT.contains(name)) {
        config.set(name, value);
    }
    config
}

/// Whether a client should wait and try again.
pub fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}
