//! Stored progress, once per interval and shard, and Kafka's commit behind it.

use std::time::Duration;

use crate::engine::Rules;
use crate::engine::event::Request;
use crate::engine::partition::{Partition, Phase};
use crate::engine::poller::{Core, Poller};
use crate::sink::Progress;
use crate::source::{Commit, Source};
use crate::state::assignment::note;
use crate::types::{Generation, NextOffset, ShardIx, TopicIx, TopicPartition};

impl<S: Source> Poller<S> {
    pub(super) fn drive_progress(&mut self, now: Duration) {
        if now < self.core.progress_at {
            return;
        }
        self.core.progress_at = now + self.core.settings.commit_interval;
        self.core.ask_progress(|_| true);
        // What was acknowledged while a shard that is down kept the round open; else the commit follows the last answer.
        self.commit(|_| true);
    }

    /// Commits what every relevant shard has acknowledged.
    pub(super) fn commit(&mut self, of: impl Fn(&Partition) -> bool) {
        if !self.core.may_commit() {
            return;
        }
        let commits = self.core.due_commits(of);
        if commits.is_empty() {
            return;
        }
        match self.source.commit(&commits) {
            Ok(()) => {
                self.core.counters.commits.add(1);
                let mut named = Vec::with_capacity(commits.len());
                for commit in commits {
                    if let Some(p) = self.core.partition(commit.at) {
                        p.committed = Some(commit.next);
                        named.push((p.at, p.generation));
                    }
                }
                self.core.committing = Some(named);
            }
            Err(error) => tracing::warn!("commit: {error}; the next one repairs it"),
        }
    }
}

impl Core {
    /// Whether the group is worth asking: it refuses everything for a while when it rebalances. One commit at a time, so that
    /// there is no question which one an answer is for: librdkafka holds commits back while it looks for the coordinator.
    pub(super) fn may_commit(&self) -> bool {
        self.committing.is_none() && self.clock.now() >= self.commit_at
    }

    pub(super) fn progress_under_way(&self) -> bool {
        self.progress_asked.iter().flatten().any(|asked| *asked)
    }

    /// Asks the shards to store progress, and so to compare what they hold with what we believe.
    pub(super) fn ask_progress(&mut self, of: impl Fn(&Partition) -> bool) {
        let topics = self.partitions.len();
        for shard in (0..self.controls.len()).map(|s| ShardIx(s as u16)) {
            for topic in (0..topics).map(|t| TopicIx(t as u16)) {
                let asked = self.progress_asked[usize::from(shard.0)][usize::from(topic.0)];
                if asked || !self.fenced(topic) {
                    continue;
                }
                let partitions = self.partitions[usize::from(topic.0)].iter().flatten();
                let of: Vec<(Progress, Generation)> = partitions
                    .filter(|p| p.has_progress() && of(p))
                    .filter_map(|p| believed(p, shard, self.rules))
                    .collect();
                if !of.is_empty() {
                    self.progress_asked[usize::from(shard.0)][usize::from(topic.0)] = true;
                    self.ask(shard, Request::Progress { topic, of });
                }
            }
        }
        for p in self.partitions.iter_mut().flatten().flatten() {
            // Without fences there is nothing to ask a shard for.
            if !self.settings.fenced(p.at.topic) && p.has_progress() {
                let done = p.tracker.committable();
                p.parts
                    .iter_mut()
                    .filter_map(|part| part.owned_mut())
                    .for_each(|owned| (owned.stored, owned.confirmed) = (done, done));
            }
        }
    }

    /// A shard has stored these.
    pub(super) fn progressed(&mut self, topic: TopicIx, shard: ShardIx, of: &[(i32, Generation, NextOffset)]) {
        for &(partition, generation, done) in of {
            let Some(p) = self.tenure(TopicPartition { topic, partition }, generation) else { continue };
            if let Some(owned) = p.part_mut(shard).and_then(|part| part.owned_mut()) {
                owned.stored = owned.stored.max(done);
                owned.confirmed = owned.confirmed.max(done);
            }
        }
    }

    fn due_commits(&self, of: impl Fn(&Partition) -> bool) -> Vec<Commit> {
        let due = |p: &Partition| {
            let next = if self.rules.commit_only_acknowledged { p.confirmed()? } else { p.tracker.committable() };
            // The first commit of a tenure notes the origins, even where nothing moved.
            let moved = p.committed.is_none_or(|committed| next > committed);
            moved.then(|| Commit { at: p.at, next, metadata: self.origins(p) })
        };
        self.partitions
            .iter()
            .flatten()
            .flatten()
            .filter(|p| p.has_progress() && of(p))
            .filter_map(|p| due(p))
            .collect()
    }

    fn origins(&self, p: &Partition) -> String {
        if !self.fenced(p.at.topic) {
            return String::new();
        }
        let name = |shard: ShardIx| self.settings.shards[usize::from(shard.0)].as_str();
        let origins: Vec<(&str, NextOffset)> =
            p.parts.iter().filter_map(|part| Some((name(part.shard), part.owned()?.origin))).collect();
        note(&origins)
    }
}

/// What we believe of a partition in a shard, if it is ours.
fn believed(p: &Partition, shard: ShardIx, rules: Rules) -> Option<(Progress, Generation)> {
    let part = p.parts.iter().find(|part| part.shard == shard)?;
    let owned = part.owned()?;
    let done = if p.noted || !rules.progress_behind_note { p.tracker.committable() } else { owned.stored };
    if p.phase == Phase::Located || (!rules.compare_when_idle && owned.stored >= done) {
        return None;
    }
    let fences = owned.lanes.iter().map(|lane| lane.acked).collect();
    Some((Progress { partition: p.at.partition, token: part.token, done, fences }, p.generation))
}
