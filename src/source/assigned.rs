//! The assigned partitions and where each of them stands: what of a fetched batch is handed out, and as what.
//!
//! Nothing below a partition's position is handed out again: librdkafka may fetch records twice when a rebalance pauses a
//! partition while a batch is being taken. Nothing is handed out of a partition that failed or is stopped.
//!
//! **What follows an end may have a hole.** Taking the notice of an end out of a queue in a batch moves librdkafka's own
//! position one beyond that end (`rd_kafka_q_serve_rkmessages` adds one to the offset of whatever it hands out, as of
//! librdkafka 2.12). After the next pause, ours or that of a rebalance, it goes on fetching there, and the record at the end
//! itself would be missing in silence. So when something farther away follows an end, it is dropped, and the partition is
//! moved back to the end once; what comes then is true.

use std::collections::HashMap;

use rdkafka::types::RDKafkaErrorCode;

use crate::source::queue::{Fetched, Trouble};
use crate::source::{Intake, PartitionError, SourceEvent};
use crate::types::{NextOffset, TopicIx, TopicPartition};

/// Whether a partition's records are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Running,
    /// Something farther away followed an end: nothing is handed out until it was moved back there.
    Doubtful,
    /// Its topic is stopped, or it failed, or a restart did not succeed yet; librdkafka has it paused.
    Stopped,
}

/// An assigned partition.
#[derive(Debug, Clone)]
pub struct Part {
    pub at: TopicPartition,
    /// Everything below was handed out, or is not wanted.
    pub next: NextOffset,
    pub flow: Flow,
    /// By the caller; independent of `flow`.
    pub paused: bool,
    /// Whether librdkafka gave up fetching: only a new assignment starts it again.
    pub ended: bool,
    /// Whether the last that was handed out was an end.
    at_end: bool,
}

impl Part {
    pub fn new(at: TopicPartition, next: NextOffset, flow: Flow) -> Part {
        Part { at, next, flow, paused: false, ended: false, at_end: false }
    }

    pub fn begins_paused(self) -> Part {
        Part { paused: true, ..self }
    }

    /// Whether librdkafka must have it paused.
    pub fn held(&self) -> bool {
        self.paused || self.flow == Flow::Stopped
    }

    /// It goes on at `next`, and what comes from there is true.
    pub fn moved(&mut self, next: NextOffset) {
        (self.next, self.flow, self.ended, self.at_end) = (next, Flow::Running, false, false);
    }
}

/// See the module's text.
#[derive(Default)]
pub struct Assigned {
    parts: Vec<Part>,
    /// Where a message's partition lies in `parts`. Topics' addresses are only good while partitions of theirs are
    /// assigned, so every change empties it.
    slots: HashMap<(usize, i32), Option<usize>>,
    last: Option<((usize, i32), Option<usize>)>,
    /// Partitions that failed in the latest batch.
    failed: Vec<TopicPartition>,
}

impl Assigned {
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn get_mut(&mut self, at: TopicPartition) -> Option<&mut Part> {
        self.parts.iter_mut().find(|p| p.at == at)
    }

    pub fn add(&mut self, part: Part) {
        self.forget_slots();
        self.parts.retain(|p| p.at != part.at);
        self.parts.push(part);
    }

    pub fn remove(&mut self, gone: impl Fn(TopicPartition) -> bool) {
        self.forget_slots();
        self.parts.retain(|p| !gone(p.at));
    }

    pub fn forget_slots(&mut self) {
        self.slots.clear();
        self.last = None;
    }

    /// Partitions that failed since the last call; they are to be paused.
    pub fn take_failed(&mut self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.failed)
    }

    /// Partitions to be moved back to their position.
    pub fn doubtful(&self) -> impl Iterator<Item = (TopicPartition, NextOffset)> {
        self.parts.iter().filter(|p| p.flow == Flow::Doubtful).map(|p| (p.at, p.next))
    }

    /// Hands out one message. `topic` finds a topic by its name.
    pub fn hand_out(
        &mut self,
        fetched: Fetched<'_>,
        topic: impl Fn(&str) -> Option<TopicIx>,
        intake: &mut impl Intake,
    ) {
        let key = (fetched.topic_key(), fetched.partition);
        let slot = match self.last {
            Some((last, slot)) if last == key => slot,
            _ => {
                let parts = &self.parts;
                let slot = *self.slots.entry(key).or_insert_with(|| {
                    let at = TopicPartition { topic: topic(&fetched.topic_name())?, partition: fetched.partition };
                    parts.iter().position(|p| p.at == at)
                });
                self.last = Some((key, slot));
                slot
            }
        };
        let Some(part) = slot.map(|slot| &mut self.parts[slot]) else {
            return if let Err(trouble) = fetched.what {
                intake.event(SourceEvent::Unwell(trouble.to_string()))
            };
        };
        if part.flow != Flow::Running {
            return;
        }
        match fetched.what {
            Ok(record) if record.offset.is_below(part.next) => {}
            Ok(record) if part.at_end && record.offset.0 > part.next.0 => part.flow = Flow::Doubtful,
            Ok(record) => {
                part.next = record.offset.next();
                part.at_end = false;
                intake.record(part.at, &record);
            }
            Err(trouble) if trouble.code == RDKafkaErrorCode::PartitionEOF => {
                if part.at_end && trouble.offset > part.next.0 {
                    part.flow = Flow::Doubtful;
                    return;
                }
                part.next = part.next.max(NextOffset(trouble.offset));
                part.at_end = true;
                intake.event(SourceEvent::EndOfPartition { at: part.at, end: NextOffset(trouble.offset) });
            }
            Err(trouble) => match stopped_by(&trouble) {
                None => intake.event(SourceEvent::Unwell(format!("partition {}: {trouble}", fetched.partition))),
                Some(PartitionError::OutOfRange) if part.at_end => {
                    // One beyond the end, and nothing was there.
                    (part.flow, part.ended) = (Flow::Doubtful, true);
                }
                Some(error) => {
                    part.flow = Flow::Stopped;
                    part.ended = error == PartitionError::OutOfRange;
                    self.failed.push(part.at);
                    intake.event(SourceEvent::PartitionFailed { at: part.at, error });
                }
            },
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.text, self.code)
    }
}

/// What an error means for the partition; `None`: librdkafka tries again by itself. A message set that cannot be read is
/// skipped by librdkafka, so it must stop the partition, or its records would be missing in silence.
fn stopped_by(trouble: &Trouble) -> Option<PartitionError> {
    use RDKafkaErrorCode as E;
    match trouble.code {
        E::AutoOffsetReset | E::OffsetOutOfRange | E::LogTruncation => Some(PartitionError::OutOfRange),
        E::UnknownTopicOrPartition | E::UnknownTopicId | E::UnknownTopic | E::UnknownPartition => {
            Some(PartitionError::Unknown)
        }
        E::TopicAuthorizationFailed
        | E::BadMessage
        | E::BadCompression
        | E::Underflow
        | E::NotImplemented
        | E::UnsupportedFeature
        | E::InvalidMessage
        | E::InvalidRecord
        | E::MessageSizeTooLarge => Some(PartitionError::Other(trouble.to_string())),
        _ => None,
    }
}
