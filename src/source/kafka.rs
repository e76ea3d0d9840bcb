//! The real [`Source`]: librdkafka's consumer. It decides nothing and blocks nobody: a rebalance is written down by the
//! callback, reported by the next poll, and answered whenever the poller says so; until then librdkafka keeps the group
//! waiting and goes on with its heartbeats.
//!
//! Create it before pinning the thread: librdkafka's threads inherit the creator's CPU mask.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset as KafkaOffset, TopicPartitionList};

use crate::config;
use crate::source::assigned::{Assigned, Flow, Part};
use crate::source::client::{Context, Rebalance, Seen, client_config, is_fatal};
use crate::source::queue::RecordQueue;
use crate::source::wake::Wake;
use crate::source::{
    ASK_DEADLINE, Commit, Committed, Intake, PartitionError, Source, SourceError, SourceEvent, Start, Watermarks, ask,
};
use crate::state::chunk::RawRecord;
use crate::types::{NextOffset, TopicIx, TopicPartition};

/// Callbacks served per poll; more of them wait for the next one.
const CALLBACKS_MAX: usize = 1_000;
/// A partition that is just being started or stopped refuses to be moved: tried again for so long, in such steps.
const SEEK_RETRY: Duration = Duration::from_millis(300);
const SEEK_STEP: Duration = Duration::from_millis(5);
/// Waiting for librdkafka to leave the group and to end its threads; then they are left to the end of the process.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
const END_DEADLINE: Duration = Duration::from_secs(5);

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

/// Where it stands with its group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    Member,
    /// To be left once the pending rebalances are answered: an answer to an earlier one would drop everything at once.
    LeaveAfterAnswers,
    Leaving,
    /// librdkafka raised a fatal error: it has dropped the assignment and takes no part any more.
    Dead(String),
}

/// The poller's thread gets it from the one that creates it.
const _: fn() = || {
    fn send<T: Send>() {}
    send::<KafkaSource>();
};

#[derive(Debug, Clone)]
enum Unanswered {
    Assigned(Rebalance),
    Revoked(Rebalance),
    /// While leaving librdkafka takes any answer as "all of it is given back".
    Everything,
}

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

    /// librdkafka's latest statistics as JSON; only with `statistics.interval.ms`.
    pub fn statistics(&self) -> Option<String> {
        self.consumer().context().statistics()
    }

    /// Leaves everything as it is: threads and memory stay until the process ends. For when the broker does not answer and
    /// the process must.
    pub fn abandon(mut self) {
        std::mem::forget(self.queue.take());
        std::mem::forget(self.consumer.take());
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
        Ok(handed)
    }

    fn run_callbacks(&mut self, intake: &mut impl Intake) {
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
    fn report(&mut self, intake: &mut impl Intake) -> usize {
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

    /// Makes partitions ready to be assigned: waits until an earlier stop of theirs is done (it would undo the forwarding),
    /// sets whether they begin paused, and forwards them.
    fn prepare(&self, parts: &[Part]) -> Result<(), SourceError> {
        let queue = self.queue.as_ref().expect("the queue lives until the drop");
        let forward = || {
            parts
                .iter()
                .try_for_each(|p| queue.forward(self.name(p.at), p.at.partition))
                .map_err(SourceError::Retriable)
        };
        // Makes them known to librdkafka, or pausing would skip them.
        forward()?;
        let held = self.list(parts.iter().filter(|p| p.held()).map(|p| p.at));
        let free = self.list(parts.iter().filter(|p| !p.held()).map(|p| p.at));
        // Both wait for the answer of the thread that stops partitions, behind whatever it has been told before.
        self.consumer().pause(&held).map_err(refused)?;
        self.consumer().resume(&free).map_err(refused)?;
        forward()
    }

    /// Leaves the group, once no answer is outstanding.
    fn leave_if_due(&mut self) -> Result<(), SourceError> {
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
            self.consumer().incremental_unassign(&self.list([at])).map_err(refused)?;
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

    fn watermarks(&mut self, of: TopicPartition) -> Result<Watermarks, SourceError> {
        let consumer = self.consumer();
        let (low, _) = consumer.fetch_watermarks(self.name(of), of.partition, ASK_DEADLINE).map_err(refused)?;
        let high = ask::log_end(consumer.client(), self.name(of), of.partition, ASK_DEADLINE).map_err(answered)?;
        Ok(Watermarks { low: NextOffset(low), high: NextOffset(high) })
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
            _ => Err(SourceError::Retriable(format!("no broker knows topic {topic}"))),
        }
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError> {
        let Some(Unanswered::Assigned(rebalance)) = self.next_answer(|u| matches!(u, Unanswered::Assigned(_))) else {
            tracing::error!("an assignment was answered that is not pending");
            return Ok(());
        };
        let start = |at: TopicPartition| partitions.iter().find(|(p, _)| *p == at).map(|(_, start)| *start);
        let part = |at| match start(at) {
            Some(Start::At(next)) => Part::new(at, next, Flow::Running),
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

    fn unassign(&mut self, _partitions: &[TopicPartition]) -> Result<(), SourceError> {
        match self.next_answer(|u| !matches!(u, Unanswered::Assigned(_))) {
            Some(Unanswered::Revoked(rebalance)) if self.incremental(&rebalance) => {
                let gone = self.known(&rebalance);
                self.consumer().incremental_unassign(&self.list(gone.iter().copied())).map_err(refused)?;
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

    fn restart(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
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
            (part.next, part.flow, part.ended) = (next, Flow::Running, false);
        }
        Ok(())
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
            if self.close().is_err() || self.poll(SEEK_STEP, 0, &mut Nobody).is_err() {
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
        let end = std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || {
            drop(consumer);
            let _ = done.send(());
        });
        if end.is_err() || ended.recv_timeout(END_DEADLINE).is_err() {
            tracing::warn!("librdkafka's threads did not end within {END_DEADLINE:?}; the process's end will end them");
        }
    }
}

/// A configuration that librdkafka refuses; its message without the value, which may be a secret.
fn configuration(error: KafkaError) -> SourceError {
    SourceError::Fatal(match error {
        KafkaError::ClientConfig(_, why, key, _) => format!("[kafka] {key:?}: {why}"),
        other => other.to_string(),
    })
}

fn refused(error: KafkaError) -> SourceError {
    match error.rdkafka_error_code() {
        Some(code) => answered((code, error.to_string())),
        None => SourceError::Retriable(error.to_string()),
    }
}

fn answered((code, text): ask::Refusal) -> SourceError {
    let text = format!("{text} ({code:?})");
    if is_fatal(code) { SourceError::Fatal(text) } else { SourceError::Retriable(text) }
}
