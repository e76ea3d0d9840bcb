//! The source's side of its group: what the callbacks wrote down is reported once, and the answers are given when they are
//! due, in the order of the questions.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::{KafkaSource, refused};
use crate::source::assigned::{Flow, Part};
use crate::source::client::{Rebalance, Seen};
use crate::source::{Intake, PartitionError, SourceError, SourceEvent, Start};
use crate::types::{NextOffset, TopicPartition};

/// Callbacks served per poll; more of them wait for the next one.
const CALLBACKS_MAX: usize = 1_000;

/// Where it stands with its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    Member,
    /// To be left once the pending rebalances are answered: an answer to an earlier one would drop everything at once.
    LeaveAfterAnswers,
    Leaving,
    /// librdkafka raised a fatal error: it has dropped the assignment and takes no part any more.
    Dead(String),
}

/// A rebalance that was reported.
#[derive(Debug, Clone)]
pub(super) enum Unanswered {
    Assigned(Rebalance),
    Revoked(Rebalance),
    /// While leaving librdkafka takes any answer as "all of it is given back".
    Everything,
}

impl KafkaSource {
    pub(super) fn run_callbacks(&mut self, intake: &mut impl Intake) {
        for _ in 0..CALLBACKS_MAX {
            match self.consumer().poll(Duration::ZERO) {
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => self.die(code, ""),
                // Errors are reported by the context's `error`, which knows their text.
                Some(Err(_)) | None => {}
                Some(Ok(message)) => {
                    let (topic, partition) = (message.topic().to_owned(), message.partition());
                    drop(message);
                    self.fail_bypassed(&topic, partition, intake);
                }
            }
            if !self.queue().callbacks_wait() {
                break;
            }
        }
    }

    /// Every partition is forwarded to our queue before it is assigned, so no record can come here. Should one, then it
    /// would be missing: its partition stops.
    fn fail_bypassed(&mut self, topic: &str, partition: i32, intake: &mut impl Intake) {
        let Some(&topic) = self.by_name.get(topic) else { return };
        let at = TopicPartition { topic, partition };
        if let Some(part) = self.assigned.get_mut(at) {
            part.flow = Flow::Stopped;
            let error = PartitionError::Other("a record came past the queue".to_owned());
            intake.event(SourceEvent::PartitionFailed { at, error });
        }
    }

    fn die(&mut self, code: RDKafkaErrorCode, text: &str) {
        let why = match self.consumer().client().fatal_error() {
            Some((code, text)) => format!("{text} ({code:?})"),
            None => format!("{text} ({code:?})"),
        };
        if !matches!(self.life, Life::Dead(_)) {
            self.life = Life::Dead(why);
        }
    }

    /// Hands out what the callbacks wrote down.
    pub(super) fn report(&mut self, intake: &mut impl Intake) -> usize {
        let seen = self.consumer().context().take_seen();
        let mut handed = 0;
        for what in seen {
            handed += 1;
            match what {
                Seen::Committed(result) => intake.event(SourceEvent::Committed(result)),
                Seen::Unwell(text) => intake.event(SourceEvent::Unwell(text)),
                Seen::Fatal(text) => {
                    let known = self.consumer().client().fatal_error();
                    let why = known.map_or(text, |(code, text)| format!("{text} ({code:?})"));
                    self.life = Life::Dead(why);
                }
                Seen::Assigned(_) | Seen::Revoked(_) | Seen::Lost(_) if self.life == Life::Leaving => {
                    self.give_back_everything(matches!(what, Seen::Lost(_)), intake);
                }
                Seen::Assigned(rebalance) => {
                    intake.event(SourceEvent::Assigned(self.known(&rebalance)));
                    self.unanswered.push_back(Unanswered::Assigned(rebalance));
                }
                Seen::Revoked(rebalance) => {
                    intake.event(SourceEvent::Revoked(self.known(&rebalance)));
                    self.unanswered.push_back(Unanswered::Revoked(rebalance));
                }
                Seen::Lost(rebalance) => {
                    intake.event(SourceEvent::Lost(self.known(&rebalance)));
                    self.unanswered.push_back(Unanswered::Revoked(rebalance));
                }
            }
        }
        handed
    }

    /// A rebalance of any kind while leaving: its answer gives everything back, so everything is asked for.
    fn give_back_everything(&mut self, lost: bool, intake: &mut impl Intake) {
        let all: Vec<TopicPartition> = self.assigned.parts().iter().map(|p| p.at).collect();
        if all.is_empty() {
            if let Err(error) = self.consumer().unassign() {
                intake.event(SourceEvent::Unwell(error.to_string()));
            }
            return;
        }
        intake.event(if lost { SourceEvent::Lost(all) } else { SourceEvent::Revoked(all) });
        self.unanswered.push_back(Unanswered::Everything);
    }

    fn known(&self, rebalance: &Rebalance) -> Vec<TopicPartition> {
        let known = |(name, partition): &(String, i32)| {
            Some(TopicPartition { topic: *self.by_name.get(name)?, partition: *partition })
        };
        rebalance.partitions.iter().filter_map(known).collect()
    }

    /// The oldest rebalance without an answer, if it is of the right kind. It stays until its answer has succeeded, or
    /// the group would wait for ever.
    fn next_answer(&self, right: impl Fn(&Unanswered) -> bool) -> Option<Unanswered> {
        self.unanswered.front().filter(|u| right(u)).cloned()
    }

    /// How to answer: as the group's protocol is now, or as it was then while the group has none.
    fn incremental(&self, rebalance: &Rebalance) -> bool {
        match self.consumer().rebalance_protocol() {
            RebalanceProtocol::Cooperative => true,
            RebalanceProtocol::Eager => false,
            RebalanceProtocol::None => rebalance.incremental,
        }
    }

    fn answered(&mut self) -> Result<(), SourceError> {
        self.unanswered.pop_front();
        self.leave_if_due()
    }

    /// Answers the oldest rebalance, an assignment. What `partitions` leaves out is never fetched.
    pub(super) fn answer_assigned(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError> {
        let Some(Unanswered::Assigned(rebalance)) = self.next_answer(|u| matches!(u, Unanswered::Assigned(_))) else {
            tracing::error!("an assignment was answered that is not pending");
            return Ok(());
        };
        let start = |at: TopicPartition| partitions.iter().find(|(p, _)| *p == at).map(|(_, start)| *start);
        let part = |at| match start(at) {
            Some(Start::At(next)) => Part::new(at, next, Flow::Running),
            Some(Start::Paused(next)) => Part::new(at, next, Flow::Running).begins_paused(),
            Some(Start::Never) | None => Part::new(at, NextOffset(0), Flow::Stopped),
        };
        let parts: Vec<Part> = self.known(&rebalance).into_iter().map(part).collect();
        self.prepare(&parts)?;
        let starts: Vec<_> = parts.iter().map(|p| (p.at, p.next)).collect();
        let list = self.list_at(&starts)?;
        if self.incremental(&rebalance) {
            self.consumer().incremental_assign(&list).map_err(refused)?;
        } else {
            self.consumer().assign(&list).map_err(refused)?;
            self.assigned.remove(|_| true);
        }
        parts.into_iter().for_each(|p| self.assigned.add(p));
        self.answered()
    }

    /// Answers the oldest rebalance, a revocation or a loss.
    pub(super) fn answer_revoked(&mut self) -> Result<(), SourceError> {
        match self.next_answer(|u| !matches!(u, Unanswered::Assigned(_))) {
            Some(Unanswered::Revoked(rebalance)) if self.incremental(&rebalance) => {
                let gone = self.known(&rebalance);
                // One that a move to another offset took away, and that could not be given back to us yet, is gone already.
                let there = self.consumer().assignment().map_err(refused)?;
                let held = gone.iter().filter(|at| there.find_partition(self.name(**at), at.partition).is_some());
                let list = self.list(held.copied());
                self.consumer().incremental_unassign(&list).map_err(refused)?;
                self.assigned.remove(|at| gone.contains(&at));
            }
            Some(_) => {
                self.consumer().unassign().map_err(refused)?;
                self.assigned.remove(|_| true);
            }
            None => {
                tracing::error!("a revocation was answered that is not pending");
                return Ok(());
            }
        }
        self.answered()
    }

    /// Leaves the group, once no answer is outstanding.
    pub(super) fn leave_if_due(&mut self) -> Result<(), SourceError> {
        if self.life != Life::LeaveAfterAnswers || !self.unanswered.is_empty() {
            return Ok(());
        }
        match self.consumer().close_queue() {
            Ok(()) => self.life = Life::Leaving,
            Err(KafkaError::ConsumerQueueClose(code)) => self.die(code, "the group could not be left"),
            Err(error) => return Err(refused(error)),
        }
        Ok(())
    }
}
