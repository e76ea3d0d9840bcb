//! The end of a client, in bounded time whatever the brokers do.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;

use super::KafkaSource;
use super::group::Unanswered;
use crate::cpus;
use crate::source::{Intake, Source, SourceEvent};
use crate::state::chunk::RawRecord;
use crate::types::TopicPartition;

/// Waiting for librdkafka to leave the group and to end its threads; then they are left to the end of the process.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
const END_DEADLINE: Duration = Duration::from_secs(5);
/// A poll's wait meanwhile.
const STEP: Duration = Duration::from_millis(5);

impl KafkaSource {
    /// Leaves everything as it is: threads and memory stay until the process ends. For when the broker does not answer and
    /// the process must.
    pub fn abandon(mut self) {
        std::mem::forget(self.queue.take());
        std::mem::forget(self.consumer.take());
    }
}

/// Takes no interest in anything; for leaving.
struct Nobody;

impl Intake for Nobody {
    fn record(&mut self, _: TopicPartition, _: &RawRecord<'_>) {}
    fn event(&mut self, _: SourceEvent) {}
}

impl Drop for KafkaSource {
    /// Leaves the group if that was not done, frees everything, and gives up after a while: a broker that does not answer
    /// must not keep the process.
    fn drop(&mut self) {
        if self.consumer.is_none() {
            return;
        }
        let until = Instant::now() + LEAVE_DEADLINE;
        while !self.closed() && Instant::now() < until {
            while let Some(unanswered) = self.unanswered.front() {
                let done = match unanswered {
                    Unanswered::Assigned(_) => self.assign(&[]),
                    Unanswered::Revoked(_) | Unanswered::Everything => self.unassign(&[]),
                };
                if done.is_err() {
                    break;
                }
            }
            if self.close().is_err() || self.poll(STEP, 0, &mut Nobody).is_err() {
                break;
            }
        }
        let closed = self.closed();
        let queue = self.queue.take();
        let consumer = self.consumer.take();
        if !closed {
            tracing::warn!("the group could not be left within {LEAVE_DEADLINE:?}; its session will time out");
            std::mem::forget((queue, consumer));
            return;
        }
        drop(queue);
        if let Some(consumer) = &consumer {
            consumer.context().answer_by_yourself();
        }
        let (done, ended) = mpsc::channel();
        let end = cpus::spawn("kafka-end", move || {
            drop(consumer);
            let _ = done.send(());
        });
        if end.is_err() || ended.recv_timeout(END_DEADLINE).is_err() {
            tracing::warn!("librdkafka's threads did not end within {END_DEADLINE:?}; the process's end will end them");
        }
    }
}
