//! What one process sees of the fake Kafka: [`Source`] over the shared world.
//!
//! It hands out records in any interleaving of partitions, now and then some twice, and reports a rebalance before it is
//! answered, like the real one. It panics where the poller breaks the trait's contract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay::clock::Clock;
use forebay::source::{Commit, Committed, Intake, PartitionError, Source, SourceError, SourceEvent, Start, Watermarks};
use forebay::state::chunk::{Headers, RawRecord};
use forebay::types::{NextOffset, Offset, TopicIx, TopicPartition};

use super::broker::ShardOf;
use super::group::{CommitFate, MemberId};
use super::observe::Happening;
use super::world::{Shared, World};

/// The header that names a record's tenant, where shards go by it.
pub const TENANT: &str = "tenant";

pub struct FakeSource {
    world: Shared,
    member: MemberId,
    /// What is assigned, as this client believes.
    assigned: BTreeMap<TopicPartition, Position>,
    /// Told, and to be answered before anything else is told.
    unanswered: Option<SourceEvent>,
    /// An answer was refused since the last poll.
    refusing: bool,
    closing: bool,
    closed: bool,
}

struct Position {
    /// `None`: assigned but never fetched.
    next: Option<i64>,
    start: i64,
    paused: bool,
    failed: bool,
    /// The end that was reported last, until something changes.
    end_told: Option<i64>,
    /// Positions of an earlier incarnation of the topic are believed in silence.
    incarnation: Option<String>,
}

impl FakeSource {
    pub fn new(world: Shared, member: MemberId) -> FakeSource {
        {
            let mut w = world.borrow_mut();
            let now = w.clock.now();
            w.group.join(member, now);
        }
        let (assigned, unanswered) = (BTreeMap::new(), None);
        FakeSource { world, member, assigned, unanswered, refusing: false, closing: false, closed: false }
    }

    /// A question to a broker: it may go unanswered.
    fn ask(&self) -> Result<std::cell::RefMut<'_, World>, SourceError> {
        let mut w = self.world.borrow_mut();
        let fails = w.faults.ask_fails;
        if w.broker.down || w.chance(fails) {
            return Err(SourceError::Retriable("no broker answers".into()));
        }
        Ok(w)
    }

    /// The client refuses now and then, whatever it is asked.
    fn may_fail(&self) -> Result<(), SourceError> {
        let mut w = self.world.borrow_mut();
        let fails = w.faults.client_fails;
        if w.chance(fails) { Err(SourceError::Retriable("try again".into())) } else { Ok(()) }
    }

    /// An answer that is refused stays refused until the client has been polled: to insist is a busy loop.
    fn may_take_answer(&mut self) -> Result<(), SourceError> {
        assert!(!self.refusing, "an answer is given again without a poll in between");
        self.may_fail().inspect_err(|_| self.refusing = true)
    }

    fn serve_group(&mut self, intake: &mut impl Intake) {
        let event = {
            let world = self.world.clone();
            let mut w = world.borrow_mut();
            if w.broker.down {
                return;
            }
            let now = w.clock.now();
            w.group.seen(self.member, now);
            w.tick_group();
            while let Some(answer) = w.group.next_answer(self.member) {
                intake.event(SourceEvent::Committed(answer));
            }
            let late = w.faults.event_late;
            if self.unanswered.is_some() || self.closed || w.chance(late) {
                return;
            }
            self.next_event(&mut w)
        };
        if let Some(event) = event {
            self.world.borrow_mut().note(format_args!("m{} is told {event:?}", self.member));
            self.unanswered = Some(event.clone());
            intake.event(event);
        }
    }

    fn next_event(&mut self, w: &mut World) -> Option<SourceEvent> {
        if w.group.is_expelled(self.member) {
            if !self.assigned.is_empty() {
                return Some(SourceEvent::Lost(self.assigned.keys().copied().collect()));
            }
            if self.closing {
                self.closed = true;
            } else {
                let now = w.clock.now();
                w.group.join(self.member, now);
            }
            return None;
        }
        let event = w.group.next_event(self.member);
        if event.is_none() && self.closing && w.group.is_gone(self.member) {
            self.closed = true;
        }
        event
    }

    /// Something that happened to a partition besides records.
    fn trouble(&mut self, intake: &mut impl Intake) {
        let w = self.world.borrow();
        for (&at, p) in &mut self.assigned {
            let Some(next) = p.next.filter(|_| !p.failed && !p.paused) else { continue };
            let topic = &w.broker.topics[at.topic.0 as usize];
            let log = w.broker.log(at);
            let error = if topic.deleted {
                PartitionError::Unknown
            } else if topic.id == p.incarnation && (next < log.low || next > log.end) {
                PartitionError::OutOfRange
            } else {
                continue;
            };
            p.failed = true;
            intake.event(SourceEvent::PartitionFailed { at, error });
        }
    }

    fn hand_out(&mut self, records_max: usize, intake: &mut impl Intake) {
        let mut left = records_max.min(self.world.borrow().poll_records_max);
        let order: Vec<TopicPartition> = {
            let mut order: Vec<_> = self.assigned.keys().copied().collect();
            self.world.borrow_mut().rng.shuffle(&mut order);
            order
        };
        for at in order {
            let share = self.world.borrow_mut().rng.usize(0..=left);
            left -= self.hand_out_of(at, share, intake);
        }
    }

    fn hand_out_of(&mut self, at: TopicPartition, records_max: usize, intake: &mut impl Intake) -> usize {
        let Some(p) = self.assigned.get_mut(&at) else { return 0 };
        if p.paused || p.failed {
            return 0;
        }
        let Some(mut next) = p.next else { return 0 };
        let mut handed = 0;
        while handed < records_max {
            let mut w = self.world.borrow_mut();
            let Some((&offset, &id)) = w.broker.log(at).records.range(next..).next() else { break };
            let published = &w.broker.published[id as usize];
            let (timestamp_ms, key, value) = (published.timestamp_ms, published.key.clone(), id.to_string());
            let mut headers = Vec::new();
            if matches!(w.broker.routing, ShardOf::KeyHash(_)) && !published.unroutable {
                Headers::pack(&mut headers, TENANT, key.as_deref());
            }
            w.happened(&Happening::HandedOut { member: self.member, at, id });
            let twice = w.faults.handed_out_twice;
            let again = w.chance(twice);
            drop(w);
            let value = Some(value.as_bytes());
            let (offset_of, key, headers) = (Offset(offset), key.as_deref(), &headers[..]);
            let record = RawRecord { offset: offset_of, timestamp_ms, key, value, headers };
            intake.record(at, &record);
            if again {
                intake.record(at, &record);
            }
            next = offset + 1;
            p.end_told = None;
            handed += 1;
        }
        let mut w = self.world.borrow_mut();
        let twice = w.faults.handed_out_twice;
        if handed > 0 && w.chance(twice) {
            // A few are going to come once more.
            p.next = Some(next.saturating_sub(w.rng.i64(1..6)).max(p.start));
            return handed;
        }
        let log = w.broker.log(at);
        if log.records.range(next..).next().is_none() && log.end >= next {
            next = log.end;
            if p.end_told != Some(next) && handed < records_max {
                p.end_told = Some(next);
                intake.event(SourceEvent::EndOfPartition { at, end: NextOffset(next) });
            }
        }
        p.next = Some(next);
        handed
    }

    fn place(&mut self, at: TopicPartition, next: Option<i64>, paused: bool) {
        let mut w = self.world.borrow_mut();
        let incarnation = w.broker.topics[at.topic.0 as usize].id.clone();
        w.note(format_args!("m{} starts {at:?} at {next:?}", self.member));
        self.assigned.insert(
            at,
            Position { next, start: next.unwrap_or_default(), paused, failed: false, end_told: None, incarnation },
        );
    }
}

impl Source for FakeSource {
    fn poll(&mut self, _wait: Duration, records_max: usize, intake: &mut impl Intake) -> Result<(), SourceError> {
        self.refusing = false;
        // Fetched before the zombie learned that it is one: records may come first.
        if self.world.borrow_mut().rng.bool() {
            self.serve_group(intake);
        }
        self.trouble(intake);
        if !self.world.borrow().broker.down {
            self.hand_out(records_max, intake);
        }
        self.serve_group(intake);
        Ok(())
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<Vec<Committed>, SourceError> {
        let w = self.ask()?;
        let committed = |&at: &TopicPartition| {
            let known = w.group.committed.get(&at).cloned();
            let (next, metadata) = known.map_or((None, String::new()), |(next, metadata)| (Some(next), metadata));
            Committed { at, next: next.map(NextOffset), metadata }
        };
        Ok(of.iter().map(committed).collect())
    }

    fn watermarks(&mut self, of: &[TopicPartition]) -> Vec<Result<Watermarks, SourceError>> {
        let ask = |at: &TopicPartition| {
            let w = self.ask()?;
            if w.broker.leaderless.contains(at) {
                return Err(SourceError::Retriable("it has no leader".into()));
            }
            let log = w.broker.log(*at);
            Ok(Watermarks { low: NextOffset(log.low), high: NextOffset(log.end) })
        };
        of.iter().map(ask).collect()
    }

    fn cluster_id(&mut self) -> Result<String, SourceError> {
        Ok(self.ask()?.broker.cluster_id.clone())
    }

    fn topic_id(&mut self, of: TopicIx) -> Result<Option<String>, SourceError> {
        Ok(self.ask()?.broker.topics[of.0 as usize].id.clone())
    }

    fn partitions(&mut self, of: TopicIx) -> Result<i32, SourceError> {
        Ok(self.ask()?.broker.topics[of.0 as usize].logs.len() as i32)
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<(), SourceError> {
        let Some(SourceEvent::Assigned(told)) = &self.unanswered else {
            panic!("assign answers an assignment, and there is none");
        };
        let mut answered: Vec<_> = partitions.iter().map(|(at, _)| *at).collect();
        answered.sort();
        assert_eq!(answered, *told, "an assignment is answered for exactly its partitions");
        self.may_take_answer()?;
        self.unanswered = None;
        for &(at, start) in partitions {
            let (next, paused) = match start {
                Start::At(next) => (Some(next.0), false),
                Start::Paused(next) => (Some(next.0), true),
                Start::Never => (None, false),
            };
            self.place(at, next, paused);
        }
        Ok(())
    }

    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        let Some(SourceEvent::Revoked(told) | SourceEvent::Lost(told)) = &self.unanswered else {
            panic!("unassign answers a revocation, and there is none");
        };
        let mut answered = partitions.to_vec();
        answered.sort();
        assert_eq!(answered, *told, "a revocation is answered for exactly its partitions");
        self.may_take_answer()?;
        self.unanswered = None;
        for at in partitions {
            self.assigned.remove(at);
        }
        self.world.borrow_mut().group.give_back(self.member, partitions);
        Ok(())
    }

    fn restart(&mut self, at: TopicPartition, next: NextOffset) -> Result<(), SourceError> {
        self.may_fail()?;
        let paused = self.assigned.get(&at).map(|p| p.paused).expect("restart is for an assigned partition");
        self.place(at, Some(next.0), paused);
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.set_paused(partitions, true);
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), SourceError> {
        self.may_fail()?;
        self.set_paused(partitions, false);
        Ok(())
    }

    fn commit(&mut self, offsets: &[Commit]) -> Result<(), SourceError> {
        self.may_fail()?;
        let mut w = self.world.borrow_mut();
        for c in offsets {
            assert!(c.metadata.len() <= 4096, "the broker refuses longer metadata");
        }
        let (lost, late) = (w.faults.commit_lost, w.faults.commit_late);
        let fate = match (w.broker.down || w.chance(lost), w.rng.bool()) {
            (false, _) => CommitFate::Answered,
            (true, false) => CommitFate::AnswerLost,
            (true, true) => CommitFate::Lost,
        };
        let delay = if w.chance(late) { Duration::from_millis(w.rng.u64(1..2_000)) } else { Duration::ZERO };
        let due = w.clock.now() + delay;
        w.group.request_commit(self.member, offsets, due, fate);
        w.note(format_args!("m{} commits {offsets:?}: {fate:?}, in {delay:?}", self.member));
        Ok(())
    }

    fn close(&mut self) -> Result<(), SourceError> {
        self.closing = true;
        self.world.borrow_mut().group.leave(self.member);
        Ok(())
    }

    fn closed(&self) -> bool {
        self.closed
    }

    fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        // Nothing waits here: the scenario decides who steps next.
        Arc::new(|| {})
    }
}

impl FakeSource {
    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for at in partitions {
            if let Some(p) = self.assigned.get_mut(at) {
                p.paused = paused;
            }
        }
    }
}
