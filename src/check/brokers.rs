//! The brokers, each topic's partitions against those that the shards declare, and the topics that dead letters go on to.

mod auto_create;

pub(crate) use auto_create::wait;

use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::raw::Places;
use crate::config::{Alignment, Config};
use crate::source::assignor::Assignor;
use crate::source::client::{client_config, committed};
use crate::words::counted;

use super::{Notes, Report};

/// Longest wait for one answer of the brokers.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps what librdkafka says about its connections: a metadata request by itself only says that it timed out.
#[derive(Default)]
struct Context {
    last: Mutex<Option<String>>,
}

impl ClientContext for Context {
    fn error(&self, _: KafkaError, reason: &str) {
        *self.last.lock() = Some(reason.to_owned());
    }
}

impl ConsumerContext for Context {}

pub fn check(config: &Config, places: &Places) -> Report {
    let mut notes = Notes::new(places);
    dealing(config, &mut notes);
    // Never subscribed: the group does not notice.
    let created = client_config(&config.kafka).create_with_context::<_, BaseConsumer<Context>>(Context::default());
    let consumer = match created {
        Ok(consumer) => consumer,
        Err(error) => {
            notes.problem("kafka", format!("properties that do not fit together: {}", reason(&error)), "a client");
            return notes.report;
        }
    };
    let mut counts = Vec::new();
    for (i, topic) in config.topics.iter().enumerate() {
        match partitions(&consumer, &topic.name) {
            Ok(count) => {
                notes.checked(format!("topic {}: {}", topic.name, counted(count as u64, "partition")));
                counts.push((i, count));
            }
            Err(Refusal::Topic(_, found)) => {
                notes.problem(&format!("topic[{i}].name"), found, "a topic that this client may read");
            }
            Err(Refusal::Brokers(found)) => {
                notes.unavailable("kafka.bootstrap.servers", found, "brokers that answer");
                return notes.report;
            }
        }
    }
    group(config, &consumer, &counts, &mut notes);
    coverage(config, &counts, &mut notes);
    for (topic, _) in &counts {
        notes.checked(format!("topic {}: {}", config.topics[*topic].name, config.alignment()));
    }
    forwarding(config, &consumer, &mut notes);
    notes.report
}

enum Refusal {
    /// What the brokers say of it; nothing where they do not know it at all.
    Topic(Option<RDKafkaErrorCode>, String),
    Brokers(String),
}

fn partitions(consumer: &BaseConsumer<Context>, topic: &str) -> Result<i32, Refusal> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_DEADLINE).map_err(|error| {
        // Runs the error callback.
        let _ = consumer.poll(Duration::ZERO);
        let last = consumer.context().last.lock().take();
        let why = last.map(|last| format!(" ({last})")).unwrap_or_default();
        Refusal::Brokers(format!("{}{why}", reason(&error)))
    })?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| (found.error(), found.partitions().len())) {
        Some((None, count)) if count > 0 => Ok(count as i32),
        Some((Some(error), _)) => {
            let code = RDKafkaErrorCode::from(error);
            Err(Refusal::Topic(Some(code), format!("{topic:?}: {code}")))
        }
        _ => Err(Refusal::Topic(None, format!("no topic {topic:?}"))),
    }
}

/// The topics that dead letters go on to: known to the brokers, or made by them when they are first written to.
fn forwarding(config: &Config, consumer: &BaseConsumer<Context>, notes: &mut Notes<'_>) {
    for (i, topic) in config.topics.iter().enumerate() {
        let Some(to) = &topic.forward_to else { continue };
        let key = format!("topic[{i}].on_bad_record.forward_to");
        match partitions(consumer, to) {
            Ok(count) => notes.checked(format!(
                "dead letters of {} go on to {to}: {}",
                topic.name,
                counted(count as u64, "partition")
            )),
            Err(Refusal::Topic(None | Some(RDKafkaErrorCode::UnknownTopicOrPartition), found)) => {
                match auto_create::enabled(config, consumer, ASK_DEADLINE) {
                    Ok(true) => notes.checked(format!(
                        "dead letters of {} go on to {to}, which the brokers make when the first one does",
                        topic.name
                    )),
                    Ok(false) => {
                        notes.problem(&key, found, "a topic that is there: the brokers make none by themselves")
                    }
                    Err(why) => {
                        let expected = format!(
                            "a topic that is there; whether the brokers make it by themselves is unknown: {why}"
                        );
                        notes.warning(&key, found, expected);
                    }
                }
            }
            Err(Refusal::Topic(_, found)) => {
                notes.problem(&key, found, "a topic that this client may describe and write to")
            }
            Err(Refusal::Brokers(found)) => notes.unavailable(&key, found, "brokers that answer"),
        }
    }
}

/// Whether this client may use the group: its committed offsets are part of where everything starts.
fn group(config: &Config, consumer: &BaseConsumer<Context>, counts: &[(usize, i32)], notes: &mut Notes<'_>) {
    let mut list = TopicPartitionList::new();
    for &(topic, count) in counts {
        list.add_partition_range(&config.topics[topic].name, 0, count - 1);
    }
    if list.count() == 0 {
        return;
    }
    match committed(consumer, &list, ASK_DEADLINE) {
        Ok(_) => notes.checked(format!("group {}: its committed offsets can be read", config.kafka.group_id)),
        Err(error) => {
            let code = error.rdkafka_error_code();
            let found = format!("group {:?}: {}", config.kafka.group_id, reason(&error));
            if code == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
                notes.problem("kafka.group.id", found, "a group that this client may use");
            } else {
                notes.unavailable("kafka.group.id", found, "an answer about its committed offsets");
            }
        }
    }
}

/// Whether a process gets whole shards: neighbours, where each shard's partitions are neighbours.
fn dealing(config: &Config, notes: &mut Notes<'_>) {
    if config.alignment() != Alignment::None
        && config.shards.len() > 1
        && Assignor::of(&config.kafka) == Assignor::Range
    {
        let expected = "cooperative-sticky or roundrobin: range gives each process whole shards, which then only its workers_per_shard \
                        connections write to, and every rebalance stops everything";
        notes.warning("kafka.partition.assignment.strategy", "range", expected);
    }
}

/// Where shards declare partitions, every partition of every topic has a shard; [`load`](crate::config::load) saw to it
/// that none has two.
fn coverage(config: &Config, counts: &[(usize, i32)], notes: &mut Notes<'_>) {
    let declared: Vec<_> = config.shards.iter().map(|shard| shard.partitions.as_deref()).collect();
    // A shard that declares none takes what comes.
    if declared.iter().any(Option::is_none) {
        return;
    }
    let ranges: Vec<_> = declared.iter().flatten().copied().flatten().collect();
    for &(topic, count) in counts {
        let missing: Vec<String> = (0..count)
            .filter(|partition| !ranges.iter().any(|range| range.contains(partition)))
            .map(|partition| partition.to_string())
            .collect();
        if missing.is_empty() {
            notes.checked(format!("topic {}: every partition has a shard", config.topics[topic].name));
        } else {
            let found = format!("partitions without a shard: {}", missing.join(", "));
            notes.problem(&format!("topic[{topic}].name"), found, "each in the `partitions` of one shard");
        }
    }
    let Some(most) = counts.iter().map(|(_, count)| *count).max() else { return };
    for (i, ranges) in declared.iter().enumerate() {
        for range in ranges.iter().copied().flatten().filter(|range| *range.end() >= most) {
            let found = format!("partition {}", range.end());
            let expected = format!("partitions that exist: no topic has more than {most}");
            notes.warning(&format!("shard[{i}].partitions"), found, expected);
        }
    }
}

/// rdkafka's own words are about types; the code's are about what happened.
fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
        error => error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gets_neighbours_gets_whole_shards() {
        let warnings = |kafka: &str, shards: usize| {
            let shard = |i| {
                format!("[[shard]]\nname = \"s{i}\"\ndsn = \"host=h{i}\"\npartitions = \"{}-{}\"\n", 4 * i, 4 * i + 3)
            };
            let shards: String = (0..shards).map(shard).collect();
            let text = format!(
                "[kafka]\nbootstrap.servers = \"b\"\ngroup.id = \"g\"\n{kafka}\n[[topic]]\nname = \"t\"\ntable = \"t\"\n{shards}"
            );
            let loaded = crate::config::load::parse(std::path::Path::new("f"), &text, &|_| None).expect("valid");
            let mut notes = Notes::new(&loaded.places);
            dealing(&loaded.config, &mut notes);
            notes.report.warnings.len()
        };
        let range = "partition.assignment.strategy = \"range,roundrobin\"";
        assert_eq!((warnings(range, 2), warnings(range, 1), warnings("", 2)), (1, 0, 0));
        assert_eq!(warnings("partition.assignment.strategy = \"roundrobin\"", 2), 0);
    }
}
