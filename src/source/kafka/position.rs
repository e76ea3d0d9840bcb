//! Where a partition's reading begins and goes on.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::group::Life;
use super::{KafkaSource, refused};
use crate::source::assigned::{Flow, Part};
use crate::source::{ASK_DEADLINE, SourceError};
use crate::types::{NextOffset, TopicPartition};

/// A partition that is just being started or stopped refuses to be moved: tried again for so long, in such steps.
const SEEK_RETRY: Duration = Duration::from_millis(300);
const SEEK_STEP: Duration = Duration::from_millis(5);

impl KafkaSource {
    /// Makes partitions ready to be assigned: waits until an earlier stop of theirs is done (it would undo the forwarding),
    /// sets whether they begin paused, and forwards them.
    pub(super) fn prepare(&self, parts: &[Part]) -> Result<(), SourceError> {
        let queue = self.queue.as_ref().expect("the queue lives until the drop");
        let forward = || {
            parts
                .iter()
                .try_for_each(|p| queue.forward(self.name(p.at), p.at.partition))
                .map_err(SourceError::Retriable)
        };
        // Makes them known to librdkafka, or pausing would skip them.
        forward()?;
        let all = self.list(parts.iter().map(|p| p.at));
        let free = self.list(parts.iter().filter(|p| !p.held()).map(|p| p.at));
        // A pause waits for the answer of the thread that stops partitions, behind whatever it has been told before. A resume
        // of one that is not paused waits for nobody, hence all of them are paused first.
        self.consumer().pause(&all).map_err(refused)?;
        self.consumer().resume(&free).map_err(refused)?;
        forward()
    }

    /// See [`Source::restart`](crate::source::Source::restart).
    pub(super) fn go_on_at(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
        let Some(part) = self.assigned.get_mut(at) else {
            return Err(SourceError::Retriable(format!("partition {} is not assigned", at.partition)));
        };
        let (ended, held, paused) = (part.ended, part.held(), part.paused);
        // Until this has succeeded nothing of it may be handed out, whatever state a half-done try leaves behind.
        part.flow = Flow::Stopped;
        if ended {
            self.reassign(at, next)?;
        } else {
            match self.seek(at, next) {
                Ok(()) if held && !paused => self.consumer().resume(&self.list([at])).map_err(refused)?,
                Ok(()) => {}
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => self.reassign(at, next)?,
                Err(error) => return Err(refused(error)),
            }
        }
        if let Some(part) = self.assigned.get_mut(at) {
            part.moved(next);
        }
        Ok(())
    }

    /// Moves partitions back to an end that something farther away followed. What does not succeed now is tried again.
    pub(super) fn move_back(&mut self) {
        let doubtful: Vec<_> = self.assigned.doubtful().collect();
        for (at, next) in doubtful {
            if let Err(error) = self.go_on_at(at, next) {
                let (topic, partition) = (self.name(at), at.partition);
                tracing::debug!(topic, partition, "{topic} [{partition}]: back to {next}: {error}; trying again");
                if let Some(part) = self.assigned.get_mut(at) {
                    part.flow = Flow::Doubtful;
                }
            }
        }
    }

    /// Moves a partition that librdkafka is fetching: everything fetched before carries an older version from now on, and
    /// librdkafka drops it.
    fn seek(&self, at: TopicPartition, next: NextOffset) -> Result<(), KafkaError> {
        let until = Instant::now() + SEEK_RETRY;
        loop {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(self.name(at), at.partition, KafkaOffset::Offset(next.0))?;
            let list = self.consumer().seek_partitions(list, ASK_DEADLINE)?;
            let error = list.elements().first().and_then(|e| e.error().err());
            match error.as_ref().and_then(KafkaError::rdkafka_error_code) {
                None => return error.map_or(Ok(()), Err),
                Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PreviousInProgress) if Instant::now() < until => {
                    std::thread::sleep(SEEK_STEP);
                }
                Some(code) => return Err(KafkaError::OffsetFetch(code)),
            }
        }
    }

    /// Assigns anew, for a partition that librdkafka has stopped fetching. An eager assignment can only be replaced as a
    /// whole; the others go on where they are.
    fn reassign(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
        if !self.unanswered.is_empty() || self.life != Life::Member {
            return Err(SourceError::Retriable("a rebalance is under way".to_owned()));
        }
        let incremental = matches!(self.consumer().rebalance_protocol(), RebalanceProtocol::Cooperative);
        let mut parts: Vec<Part> =
            self.assigned.parts().iter().filter(|p| !incremental || p.at == at).cloned().collect();
        if let Some(part) = parts.iter_mut().find(|p| p.at == at) {
            (part.next, part.flow) = (next, Flow::Running);
        }
        let starts: Vec<_> = parts.iter().map(|p| (p.at, p.next)).collect();
        let list = self.list_at(&starts)?;
        if incremental {
            // A try that failed half-way has taken it away already.
            let assignment = self.consumer().assignment().map_err(refused)?;
            if assignment.find_partition(self.name(at), at.partition).is_some() {
                self.consumer().incremental_unassign(&self.list([at])).map_err(refused)?;
            }
            self.prepare(&parts)?;
            self.consumer().incremental_assign(&list).map_err(refused)?;
        } else {
            self.consumer().unassign().map_err(refused)?;
            self.prepare(&parts)?;
            self.consumer().assign(&list).map_err(refused)?;
        }
        self.assigned.forget_slots();
        Ok(())
    }
}
