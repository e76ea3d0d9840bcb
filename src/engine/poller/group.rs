//! The group's side: assignments, revocations, leaving.

use std::time::Duration;

use crate::engine::partition::{Partition, Phase};
use crate::engine::poller::{COMMIT_AGAIN, Closing, Core, Poller, Stop};
use crate::source::{PartitionError, Source, SourceError, SourceEvent, Start, Watermarks};
use crate::types::{Generation, NextOffset, TopicIx, TopicPartition};

/// How long to wait before asking again, with `--until-end`, whether the group has reached the end.
const ASK_END_AGAIN: Duration = Duration::from_millis(100);

/// An answer that the group waits for; they are given in the order of the questions.
#[derive(Debug)]
pub(super) enum GroupAnswer {
    /// Once every one of them is located (or stopped), or the deadline is over: the others begin later.
    Assign { partitions: Vec<TopicPartition>, deadline: Duration },
    /// Once they are drained, stored and committed, or the deadline is over.
    Unassign { partitions: Vec<TopicPartition>, deadline: Duration, stage: Stage },
}

/// How far a revocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Draining,
    Storing,
    Committing,
    /// Nothing (more) to wait for.
    Over,
}

impl<S: Source> Poller<S> {
    /// Begins to leave: what is assigned comes back as a revocation.
    pub fn close(&mut self) {
        if self.core.closing == Closing::No {
            tracing::info!("leaving: draining what is at the workers");
            self.core.closing = Closing::Until(self.core.clock.now() + self.core.settings.drain_deadline);
            if let Err(error) = self.source.close() {
                tracing::warn!("leaving the group: {error}");
            }
        }
    }

    pub(super) fn serve_reports(&mut self) -> Result<(), Stop> {
        while let Some(event) = self.core.reported.pop_front() {
            match event {
                SourceEvent::Assigned(partitions) => {
                    tracing::info!("assigned: {}", self.core.list(&partitions));
                    self.core.counters.rebalances.add(1);
                    self.core.ever_assigned = true;
                    self.core.group_asked.get_or_insert(self.core.clock.now());
                    partitions.iter().for_each(|at| self.core.adopt_partition(*at));
                    let deadline = self.core.clock.now() + self.core.settings.locate_deadline * 2;
                    self.core.answers.push_back(GroupAnswer::Assign { partitions, deadline });
                }
                SourceEvent::Revoked(partitions) => {
                    tracing::info!("to be given back: {}", self.core.list(&partitions));
                    self.core.revoke(partitions, Stage::Draining);
                }
                SourceEvent::Lost(partitions) => {
                    tracing::warn!("lost to other members: {}", self.core.list(&partitions));
                    self.core.revoke(partitions, Stage::Over);
                }
                SourceEvent::PartitionFailed { at, error } => self.partition_failed(at, &error),
                SourceEvent::Committed(outcome) => {
                    let named = self.core.committing.take().unwrap_or_default();
                    match outcome {
                        Ok(()) => {
                            for (at, generation) in named {
                                self.core.noted(at, generation);
                                self.core.settled(at, generation);
                            }
                        }
                        Err(error) => {
                            tracing::warn!("commit: {error}; the next one repairs it");
                            self.core.commit_at = self.core.clock.now() + COMMIT_AGAIN;
                            self.core.uncommitted();
                        }
                    }
                }
                SourceEvent::Unwell(what) => {
                    if self.core.notices.is_news(&what, self.core.clock.now()) {
                        tracing::warn!("Kafka: {what}");
                    }
                }
                SourceEvent::EndOfPartition { .. } => unreachable!("served where it came in"),
            }
            self.core.housekeeping_at = Duration::ZERO;
        }
        Ok(())
    }

    fn partition_failed(&mut self, at: TopicPartition, error: &PartitionError) {
        let (topic, partition) = (self.core.topic_name(at.topic), at.partition);
        match error {
            PartitionError::OutOfRange => self.core.rewind_running(at, "the log does not hold the next offset"),
            PartitionError::EndsBelow(end) => {
                let why = format!(
                    "a database holds records beyond {end}, where the log ends: it was cut, or (if another program read \
                     without `read_committed` before) an open transaction begins there"
                );
                self.core.rewind_running(at, &why);
            }
            PartitionError::Unknown => {
                tracing::error!(topic, partition, "{topic} [{partition}]: the broker does not know it (any more)");
                self.core.identity_at = Duration::ZERO;
            }
            PartitionError::Other(what) => tracing::warn!(topic, partition, "{topic} [{partition}]: {what}"),
        }
    }

    /// Gives the first answer that is due, and follows a revocation through its stages.
    pub(super) fn drive_group(&mut self, now: Duration) -> Result<(), Stop> {
        while let Some(answer) = self.core.answers.pop_front() {
            match answer {
                GroupAnswer::Assign { partitions, deadline } => {
                    let due = self.core.all_located(&partitions) || self.core.closing != Closing::No || now >= deadline;
                    if !due || !self.assign(&partitions)? {
                        self.core.answers.push_front(GroupAnswer::Assign { partitions, deadline });
                        return Ok(());
                    }
                }
                GroupAnswer::Unassign { partitions, deadline, stage } => {
                    let stage = self.revoking(&partitions, deadline, stage, now);
                    if stage != Stage::Over || !self.unassign(&partitions)? {
                        self.core.answers.push_front(GroupAnswer::Unassign { partitions, deadline, stage });
                        return Ok(());
                    }
                }
            }
        }
        if let Some(asked) = self.core.group_asked.take() {
            let took = self.core.clock.now().saturating_sub(asked);
            self.core.counters.rebalancing_us.add(took.as_micros() as u64);
        }
        Ok(())
    }

    /// Whether the source took the answer; otherwise it is given again later, after a poll.
    fn assign(&mut self, partitions: &[TopicPartition]) -> Result<bool, Stop> {
        let start = |core: &mut Core, at: TopicPartition| {
            // From the first record on: a rebalance must not let anything of a paused topic through.
            let paused = core.signals.is_paused(at.topic);
            match core.partition(at) {
                Some(p) if p.phase == Phase::Located && paused => Start::Paused(p.start),
                Some(p) if p.phase == Phase::Located => Start::At(p.start),
                _ => Start::Never,
            }
        };
        let starts: Vec<(TopicPartition, Start)> =
            partitions.iter().map(|at| (*at, start(&mut self.core, *at))).collect();
        let taken = self.source.assign(&starts);
        if !self.core.answered(taken)? {
            return Ok(false);
        }
        for (at, start) in starts {
            if let Some(p) = self.core.partition(at) {
                p.assigned = true;
                if start != Start::Never {
                    p.phase = Phase::Running;
                }
                p.paused |= matches!(start, Start::Paused(_));
            }
        }
        Ok(true)
    }

    /// The stage that a revocation has reached.
    fn revoking(&mut self, of: &[TopicPartition], deadline: Duration, mut stage: Stage, now: Duration) -> Stage {
        let names = |p: &Partition| of.contains(&p.at);
        if now >= deadline && stage != Stage::Over {
            tracing::warn!(
                "giving partitions back before everything is stored: the deadline is over; the fences keep it safe"
            );
            self.commit(names);
            return Stage::Over;
        }
        if stage == Stage::Draining {
            self.core.withdraw();
        }
        if stage == Stage::Draining && self.core.revoked(of).all(|p| p.sent == 0) {
            stage = Stage::Storing;
        }
        if stage == Stage::Storing {
            let stored = |p: &Partition| p.confirmed().is_none_or(|confirmed| confirmed >= p.tracker.committable());
            if self.core.revoked(of).all(stored) {
                if self.core.may_commit() {
                    self.commit(names);
                    stage = Stage::Committing;
                }
            } else {
                // One that was never committed has its origins to tell before its progress may rise.
                if self.core.revoked(of).any(|p| !p.noted) {
                    self.commit(names);
                }
                self.core.ask_progress(names);
            }
        }
        if stage == Stage::Committing && self.core.committing.is_none() {
            stage = Stage::Over;
        }
        stage
    }

    /// As `assign`.
    fn unassign(&mut self, partitions: &[TopicPartition]) -> Result<bool, Stop> {
        let taken = self.source.unassign(partitions);
        if !self.core.answered(taken)? {
            return Ok(false);
        }
        for at in partitions {
            let slot = self.core.partitions[usize::from(at.topic.0)].get_mut(at.partition as usize);
            if let Some(p) = slot.and_then(Option::take) {
                self.core.end(*p);
            }
        }
        Ok(true)
    }

    /// Whether everything asked for is done.
    pub(super) fn finished(&mut self, now: Duration) -> bool {
        match self.core.closing {
            Closing::No => {
                if self.core.settings.until_end && self.reached_the_end(now) {
                    self.close();
                }
                false
            }
            Closing::Until(deadline) => {
                let over = now >= deadline;
                if over {
                    tracing::warn!("the deadline for draining is over; the next owner does the rest");
                    self.core.signals.abandon();
                }
                over || (self.source.closed() && self.core.answers.is_empty())
            }
        }
    }

    /// With `--until-end`: whether everything below the ends seen at start is durable and committed, by us or by the group's
    /// other members.
    fn reached_the_end(&mut self, now: Duration) -> bool {
        if self.core.targets.is_none() && now >= self.core.end_asked_at {
            self.core.end_asked_at = now + ASK_END_AGAIN;
            self.core.targets = self.ask_targets();
        }
        let Some(targets) = &self.core.targets else { return false };
        if !self.core.ever_assigned || !self.core.answers.is_empty() {
            return false;
        }
        let (mut total, mut done, mut reached, mut durable) = (0, 0, true, true);
        for p in self.core.partitions.iter().flatten().flatten() {
            let Some(target) = targets[usize::from(p.at.topic.0)].get(p.at.partition as usize) else { continue };
            if p.phase == Phase::Stopped {
                reached &= p.sent == 0;
                continue;
            }
            total += target.0.saturating_sub(p.start.0).max(0) as u64;
            done += p.tracker.committable().0.min(target.0).saturating_sub(p.start.0).max(0) as u64;
            reached &= p.phase == Phase::Running && p.committed.is_some_and(|committed| committed >= *target);
            durable &= p.phase == Phase::Running && p.tracker.committable() >= *target;
        }
        if durable && !reached {
            // All that is left is to store and commit it: that does not wait for the interval.
            self.core.progress_at = Duration::ZERO;
        }
        self.core.counters.until_end_total.set(total);
        self.core.counters.until_end_done.set(done);
        if !reached || now < self.core.end_asked_at || self.core.slow_lanes_are_busy(now) {
            return false;
        }
        self.core.end_asked_at = now + ASK_END_AGAIN;
        self.group_reached_the_end()
    }

    /// Asks the group: in the middle of a rebalance nothing at all may be ours, and a commit that was sent may have been lost.
    fn group_reached_the_end(&mut self) -> bool {
        let Some(targets) = &self.core.targets else { return false };
        let all = |(topic, targets): (usize, &Vec<NextOffset>)| -> Vec<(TopicPartition, NextOffset)> {
            let at = |partition| TopicPartition { topic: TopicIx(topic as u16), partition };
            targets.iter().enumerate().map(|(p, target)| (at(p as i32), *target)).collect()
        };
        let going_on = |(topic, _): &(usize, &Vec<NextOffset>)| self.core.topics[*topic].stopped.is_none();
        let wanted: Vec<(TopicPartition, NextOffset)> =
            targets.iter().enumerate().filter(going_on).flat_map(all).filter(|(_, target)| target.0 > 0).collect();
        let of: Vec<TopicPartition> = wanted.iter().map(|(at, _)| *at).collect();
        match self.source.committed(&of) {
            Ok(committed) => wanted.iter().all(|(at, target)| {
                committed.iter().any(|c| c.at == *at && c.next.is_some_and(|next| next >= *target))
            }),
            Err(error) => {
                tracing::warn!("cannot read the group's offsets: {error}; asking again");
                false
            }
        }
    }

    fn ask_targets(&mut self) -> Option<Vec<Vec<NextOffset>>> {
        let mut targets = Vec::new();
        for topic in (0..self.core.topics.len()).map(|t| TopicIx(t as u16)) {
            let count = self.core.topics[usize::from(topic.0)].partitions?;
            // Of an empty log nothing has to be committed.
            let target = |log: Watermarks| if log.low == log.high { NextOffset(0) } else { log.high };
            let of: Vec<TopicPartition> = (0..count).map(|partition| TopicPartition { topic, partition }).collect();
            let ends = self.source.watermarks(&of).into_iter().map(|log| log.ok().map(target));
            targets.push(ends.collect::<Option<Vec<_>>>()?);
        }
        Some(targets)
    }
}

impl Core {
    /// Whether the source took an answer to the group.
    fn answered(&mut self, outcome: Result<(), SourceError>) -> Result<bool, Stop> {
        if let Err(SourceError::Fatal(what)) = outcome {
            return Err(Stop::Kafka(what));
        }
        self.in_vain.answer.tell(self.clock.now(), "answering the group", outcome.as_ref().err());
        Ok(outcome.is_ok())
    }

    fn rewind_running(&mut self, at: TopicPartition, why: &str) {
        if self.partition(at).is_some_and(|p| p.phase == Phase::Running) {
            self.rewind(at, why);
        }
    }

    fn list(&self, partitions: &[TopicPartition]) -> String {
        if partitions.is_empty() {
            return "nothing".into();
        }
        let one = |at: &TopicPartition| format!("{} [{}]", self.topic_name(at.topic), at.partition);
        partitions.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn revoke(&mut self, partitions: Vec<TopicPartition>, stage: Stage) {
        self.counters.rebalances.add(1);
        self.group_asked.get_or_insert(self.clock.now());
        for at in &partitions {
            if let Some(p) = self.partition(*at) {
                p.phase = Phase::Revoking;
            }
        }
        let now = self.clock.now();
        let deadline = match self.closing {
            Closing::No => now + self.settings.revoke_deadline,
            // What comes after draining needs a little of it, too.
            Closing::Until(deadline) => deadline.saturating_sub(self.settings.drain_deadline / 10).max(now),
        };
        self.answers.push_back(GroupAnswer::Unassign { partitions, deadline, stage });
    }

    fn revoked<'a>(&'a self, of: &'a [TopicPartition]) -> impl Iterator<Item = &'a Partition> {
        self.partitions.iter().flatten().flatten().map(|p| &**p).filter(|p| of.contains(&p.at))
    }

    fn all_located(&self, partitions: &[TopicPartition]) -> bool {
        // One that is being verified may take as long as its shard is down: the group does not wait for it.
        self.revoked(partitions).all(|p| !matches!(p.phase, Phase::Locating { .. }))
    }

    /// The group has accepted a commit of this tenure, and with it the origins of its shards.
    fn noted(&mut self, at: TopicPartition, generation: Generation) {
        if let Some(p) = self.tenure(at, generation) {
            p.noted = true;
        }
    }

    /// A commit failed: what it said is to be said again.
    fn uncommitted(&mut self) {
        self.partitions.iter_mut().flatten().flatten().for_each(|p| p.committed = None);
    }
}
