//! The group's committed offsets, rewritten while the group is stopped: by a consumer that never joins it. The broker refuses
//! that as long as the group has members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::config;
use crate::source::client::{Context, client_config, committed};

/// Each question to the brokers.
const ASK_DEADLINE: Duration = Duration::from_secs(15);

/// Where the next start shall begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToOffset {
    /// Where the group's committed offset is; partitions without one begin as `auto.offset.reset` says.
    Committed,
    Earliest,
    Latest,
    At(i64),
}

impl std::str::FromStr for ToOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<ToOffset, String> {
        match text {
            "committed" => Ok(ToOffset::Committed),
            "earliest" => Ok(ToOffset::Earliest),
            "latest" => Ok(ToOffset::Latest),
            number => match number.parse() {
                Ok(offset) if offset >= 0 => Ok(ToOffset::At(offset)),
                _ => Err("expected an offset, `earliest`, `latest` or `committed`".to_owned()),
            },
        }
    }
}

/// A consumer with the group's name that never joins the group.
pub(super) struct GroupOffsets {
    consumer: Arc<BaseConsumer<Context>>,
    group: String,
}

/// Why the group's offsets stay as they are.
#[derive(Debug)]
pub(super) enum OffsetsError {
    /// No answer.
    Unavailable(String),
    /// Asking again will not help before something was changed.
    Refused(String),
}

impl GroupOffsets {
    pub(super) fn new(kafka: &config::Kafka) -> Result<GroupOffsets, OffsetsError> {
        let mut settings = client_config(kafka);
        // These make a member of it.
        for property in ["group.instance.id", "group.protocol", "group.remote.assignor"] {
            settings.remove(property);
        }
        let consumer = settings.create_with_context(Context::default());
        let consumer = consumer.map_err(|e| OffsetsError::Refused(format!("[kafka]: {e}")))?;
        Ok(GroupOffsets { consumer: Arc::new(consumer), group: kafka.group_id.clone() })
    }

    /// Members of the group, as far as the broker tells.
    pub(super) fn members(&self) -> Result<Vec<String>, OffsetsError> {
        let groups = self.consumer.fetch_group_list(Some(&self.group), ASK_DEADLINE).map_err(unavailable)?;
        let members = groups.groups().iter().filter(|g| g.name() == self.group).flat_map(|g| g.members());
        Ok(members.map(|m| format!("{} at {}", m.client_id(), m.client_host())).collect())
    }

    /// The topic's partitions; none if it does not exist.
    pub(super) fn partitions(&self, topic: &str) -> Result<Vec<i32>, OffsetsError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), ASK_DEADLINE).map_err(unavailable)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        Ok(found.map(|t| t.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default())
    }

    /// Partition → offset to commit, for those that get one.
    pub(super) fn wanted(
        &self,
        topic: &str,
        partitions: &[i32],
        to: ToOffset,
    ) -> Result<BTreeMap<i32, i64>, OffsetsError> {
        if to == ToOffset::Committed {
            return offsets(&self.committed(topic, partitions)?);
        }
        let mut wanted = BTreeMap::new();
        for &partition in partitions {
            let marks = self.consumer.fetch_watermarks(topic, partition, ASK_DEADLINE).map_err(unavailable)?;
            let offset = match to {
                ToOffset::Earliest => marks.0,
                ToOffset::Latest => marks.1,
                ToOffset::At(offset) if (marks.0..=marks.1).contains(&offset) => offset,
                ToOffset::At(offset) => {
                    let text = format!("partition {partition} holds offsets {} to {}, not {offset}", marks.0, marks.1);
                    return Err(OffsetsError::Refused(text));
                }
                ToOffset::Committed => unreachable!("answered above"),
            };
            wanted.insert(partition, offset);
        }
        Ok(wanted)
    }

    fn committed(&self, topic: &str, partitions: &[i32]) -> Result<TopicPartitionList, OffsetsError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, *partition);
        }
        committed(&self.consumer, &list, ASK_DEADLINE).map_err(unavailable)
    }

    /// Commits these offsets without metadata and reads them back.
    pub(super) fn commit(&self, topic: &str, offsets: &BTreeMap<i32, i64>) -> Result<(), OffsetsError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(unavailable)?;
        }
        self.send(list)?;
        let partitions: Vec<i32> = offsets.keys().copied().collect();
        let stored = self.committed(topic, &partitions)?;
        if self::offsets(&stored)? != *offsets || stored.elements().iter().any(|e| !e.metadata().is_empty()) {
            let text = format!(
                "the group's offsets are {stored:?} after {offsets:?} were committed: does somebody else commit?"
            );
            return Err(OffsetsError::Refused(text));
        }
        Ok(())
    }

    /// In a thread of its own, because librdkafka's call knows no time-out: against a broker that answers late it blocks for
    /// minutes. The thread then ends when it does, or with the process.
    fn send(&self, list: TopicPartitionList) -> Result<(), OffsetsError> {
        let (answer, answered) = sync_channel(1);
        let consumer = Arc::clone(&self.consumer);
        let commit = move || answer.send(consumer.commit(&list, CommitMode::Sync));
        std::thread::Builder::new()
            .name("fb-commit".into())
            .spawn(commit)
            .map_err(|error| OffsetsError::Unavailable(format!("no thread for the commit: {error}")))?;
        match answered.recv_timeout(ASK_DEADLINE) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(OffsetsError::Refused(format!(
                "the broker does not take offsets for group {:?}: {error}. A group with members (or one whose process died \
                 less than its session time-out ago) refuses them; stop it and wait",
                self.group
            ))),
            Err(_) => Err(OffsetsError::Unavailable("no answer to the commit of the group's offsets".to_owned())),
        }
    }
}

/// Partition → offset, for those that have one.
fn offsets(list: &TopicPartitionList) -> Result<BTreeMap<i32, i64>, OffsetsError> {
    let mut offsets = BTreeMap::new();
    for element in list.elements() {
        element.error().map_err(unavailable)?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}

fn unavailable(error: rdkafka::error::KafkaError) -> OffsetsError {
    OffsetsError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_as_people_write_them() {
        for (text, expected) in [
            ("committed", Some(ToOffset::Committed)),
            ("earliest", Some(ToOffset::Earliest)),
            ("latest", Some(ToOffset::Latest)),
            ("0", Some(ToOffset::At(0))),
            ("42", Some(ToOffset::At(42))),
            ("-1", None),
            ("beginning", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
