//! Where an assigned partition starts, and its takeover in each shard.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::FirstStart;
use crate::engine::event::Request;
use crate::engine::partition::{Owned, Part, Partition, Phase};
use crate::engine::poller::{ASK_AGAIN, Core, Poller, Stop, find};
use crate::sink::{Anchor, Reason, Taken, Takeover};
use crate::source::{Committed, Source, SourceError, Watermarks};
use crate::state::ages::Ages;
use crate::state::assignment::{self, Beginning, Impossible, Located};
use crate::state::retry::Backoff;
use crate::state::tracker::Tracker;
use crate::types::{Generation, NextOffset, ShardIx, TopicIx, TopicPartition};

impl<S: Source> Poller<S> {
    /// Asks the shards and the group about the partitions that need it, and starts those for which enough is known.
    pub(super) fn drive_locating(&mut self, now: Duration) -> Result<(), Stop> {
        let mut ready = Vec::new();
        for p in self.core.partitions.iter().flatten().flatten() {
            let Phase::Locating { asked, not_before, deadline } = &p.phase else { continue };
            if now < *not_before {
                continue;
            }
            if !*asked || (p.parts.iter().any(|part| part.located.is_none()) && now < *deadline) {
                continue;
            }
            ready.push(p.at);
        }
        self.ask_shards(now);
        // The group is asked after the shards, and each time anew: what it notes is at least as old as what they have done,
        // because they store progress behind the note. An older answer could miss another owner's note.
        if !ready.is_empty() && now >= self.core.group_offsets_at {
            match self.source.committed(&ready) {
                Ok(offsets) => {
                    let of: Vec<TopicPartition> = offsets.iter().map(|committed| committed.at).collect();
                    let logs = self.source.watermarks(&of);
                    if logs.iter().all(Result::is_ok) {
                        self.core.log_backoff.reset();
                    }
                    for (committed, log) in offsets.iter().zip(logs) {
                        self.core.read_note(committed.at, &committed.metadata);
                        match log {
                            Ok(log) => self.decide_start(committed, log),
                            Err(SourceError::Fatal(what)) => return Err(Stop::Kafka(what)),
                            Err(error) => self.core.log_unknown(committed.at, &error),
                        }
                    }
                }
                Err(SourceError::Fatal(what)) => return Err(Stop::Kafka(what)),
                Err(error) => {
                    tracing::warn!("cannot read the group's offsets: {error}; asking again");
                    self.core.group_offsets_at = self.core.clock.now() + ASK_AGAIN;
                }
            }
        }
        // What could not be told to the source is tried again.
        let located: Vec<TopicPartition> = self
            .core
            .partitions
            .iter()
            .flatten()
            .flatten()
            .filter(|p| p.assigned && p.phase == Phase::Located)
            .map(|p| p.at)
            .collect();
        let refused: Option<SourceError> = located.into_iter().filter_map(|at| self.restart(at)).last();
        self.core.in_vain.restart.tell(now, "going on where it shall", refused.as_ref());
        Ok(())
    }

    /// Sends the questions that have not been sent yet.
    fn ask_shards(&mut self, now: Duration) {
        // One question per shard and topic: a shard that answers slowly would look silent to the last of many.
        let mut questions: BTreeMap<(ShardIx, TopicIx), Vec<(i32, Generation)>> = BTreeMap::new();
        let topics = &self.core.topics;
        for p in self.core.partitions.iter_mut().flatten().flatten() {
            let Phase::Locating { asked, not_before, deadline, .. } = &mut p.phase else { continue };
            if *asked || now < *not_before || topics[usize::from(p.at.topic.0)].identity.is_none() {
                continue;
            }
            *asked = true;
            *deadline = (*deadline).max(now + self.core.settings.locate_deadline);
            for part in p.parts.iter().filter(|part| part.located.is_none()) {
                questions.entry((part.shard, p.at.topic)).or_default().push((p.at.partition, p.generation));
            }
        }
        for ((shard, topic), partitions) in questions {
            if !self.core.fenced(topic) {
                for (partition, generation) in partitions {
                    self.core.located(TopicPartition { topic, partition }, generation, shard, None);
                }
            } else if let Some(identity) = self.core.topics[usize::from(topic.0)].identity.clone() {
                self.core.ask(shard, Request::Locate { topic, identity, partitions });
            }
        }
    }

    fn decide_start(&mut self, group: &Committed, log: Watermarks) {
        let at = group.at;
        let Some(p) = self.core.partition(at) else { return };
        p.found = group.next;
        // Every commit of ours carries the origins; Kafka's tools leave none.
        let (committed, by_hand) = (group.next, group.metadata.is_empty());
        let located: Vec<Located> = p.parts.iter().map(|part| part.located.unwrap_or(Located::Silent)).collect();
        let noted: Vec<_> = p.parts.iter().map(|part| part.noted).collect();
        let start = match (assignment::start(&located, &noted, committed), self.core.settings.first_start) {
            (Beginning::At(start), _) => start,
            // As early as can be: whatever a silent shard says later, nothing is left out.
            (Beginning::Nobody | Beginning::Unanswered, FirstStart::Earliest) => log.low,
            (Beginning::Nobody, FirstStart::Latest) => log.high,
            (Beginning::Nobody, FirstStart::Error) => {
                let text = "nothing says where to start: the group has no offset, the databases have no progress, and \
                            auto.offset.reset is \"error\"";
                return self.core.stop_topic(at.topic, None, Reason::new(text));
            }
            (Beginning::Unanswered, FirstStart::Latest | FirstStart::Error) => return self.core.await_shards(at),
        };
        let done = |l: &Located| if let Located::Anchored(a) = l { a.done } else { start };
        let furthest = located.iter().map(done).max().unwrap_or(start).max(start);
        let anchored = located.iter().all(|l| matches!(l, Located::Anchored(_)));
        if anchored && let Some(committed) = committed.filter(|c| *c > furthest || (by_hand && *c != start)) {
            tracing::warn!(
                topic = self.core.topic_name(at.topic),
                partition = at.partition,
                "{} [{}]: the group's offset is {committed}, but the database has everything below {start} and no more. The \
                 database's word stands: it went back, or someone moved the group's offsets. To overrule it, stop the group \
                 and use `forebay fences reset`",
                self.core.topic_name(at.topic),
                at.partition
            );
        }
        self.core.set_high(at, log.high);
        match assignment::impossible(start, furthest, log.low, log.high) {
            None => {
                self.ready(at, start);
                self.core.take_over_all(at, start);
            }
            // Another owner may have gone on since, and retention after it: look again behind a takeover.
            Some(_) if self.core.rules.ask_again && self.core.fenced(at.topic) => {
                if let Some(p) = self.core.partition(at) {
                    p.phase = Phase::Verifying;
                }
                self.core.take_over_all(at, start);
            }
            Some(why) => self.stop_impossible(at, why),
        }
    }

    fn log(&mut self, at: TopicPartition) -> Result<Watermarks, SourceError> {
        self.source.watermarks(&[at]).pop().expect("an answer for each partition")
    }

    /// Where to start is settled.
    fn ready(&mut self, at: TopicPartition, start: NextOffset) {
        let Some(p) = self.core.partition(at) else { return };
        p.start = start;
        p.tracker = Tracker::new(start);
        p.begun = true;
        p.phase = Phase::Located;
        let (topic, partition) = (self.core.topic_name(at.topic), at.partition);
        tracing::debug!(topic, partition, "{topic} [{partition}]: starts at {start}");
        // One that is refused is tried again with the others.
        let _ = self.restart(at);
    }

    /// Tells the source where to go on, if it has the partition already.
    fn restart(&mut self, at: TopicPartition) -> Option<SourceError> {
        let start = self.core.partition(at).filter(|p| p.assigned)?.start;
        let outcome = self.source.restart(at, start);
        if outcome.is_ok()
            && let Some(p) = self.core.partition(at)
        {
            p.phase = Phase::Running;
        }
        outcome.err()
    }

    /// A control thread has taken a part over.
    pub(super) fn taken_over(&mut self, at: TopicPartition, generation: Generation, shard: ShardIx, taken: &Taken) {
        let Some(p) = self.core.tenure(at, generation) else { return };
        let Some(part) = p.part_mut(shard).filter(|part| part.owned().is_none()) else { return };
        // Where the anchor was made anew, below what was noted, the group has yet to hear of it.
        let heard = part.noted.is_some_and(|origin| origin <= taken.origin);
        p.noted &= heard;
        let (start, high, found, verifying) = (p.start, p.high, p.found, p.phase == Phase::Verifying);
        if !matches!(p.phase, Phase::Located | Phase::Running | Phase::Verifying) {
            return;
        }
        let furthest = taken.fences.iter().copied().max().unwrap_or(taken.done).max(taken.done);
        if furthest > high
            && let Some(why) = self.beyond_the_log(at, furthest)
        {
            return self.stop_impossible(at, why);
        }
        if !verifying && taken.done < start && self.core.rules.restart_when_done_lower {
            self.core.rewind(at, &format!("the database has everything below {} only, not {start}", taken.done));
            // Its word is known now: asked again, it might be too slow again, count for nothing, and lead here again.
            if let Some(part) = self.core.partition(at).and_then(|p| p.part_mut(shard)) {
                part.located = Some(Located::Anchored(Anchor { origin: taken.origin, done: taken.done }));
            }
            return;
        }
        let owned = match self.core.settings.gated[usize::from(shard.0)] {
            true => Owned::unconfirmed(taken, found),
            false => Owned::new(taken),
        };
        self.core.admit(at, shard, owned);
        if self.core.partition(at).is_some_and(|p| p.all_owned()) {
            if verifying {
                self.verify(at);
            }
            // The group is told the origins at once: until it knows them, stored progress does not rise.
            self.commit(|p| p.at == at);
        }
    }

    /// The log does not hold what it must. A topic that was created again explains it better than its offsets do.
    fn stop_impossible(&mut self, at: TopicPartition, why: Impossible) {
        if let Err(error) = self.ask_identity(at.topic) {
            let topic = self.core.topic_name(at.topic);
            tracing::debug!(topic, "topic {topic}: cannot be identified: {error}");
        }
        self.core.stop_impossible(at, why);
    }

    /// Whether the log, asked now, ends below what a database holds.
    fn beyond_the_log(&mut self, at: TopicPartition, furthest: NextOffset) -> Option<Impossible> {
        // Where the broker does not answer, the start was checked before, and a truncation stops the fetch.
        let log = self.log(at).ok()?;
        self.core.set_high(at, log.high);
        (furthest > log.high).then_some(Impossible::Truncated { durable: furthest, high: log.high })
    }

    /// Everything is ours: the databases' word is fresh, and so is the second look at the log.
    fn verify(&mut self, at: TopicPartition) {
        let Some(p) = self.core.partition(at) else { return };
        // What was stored may be older than what is durable, and retention only goes by what was committed.
        let Some(start) = p.parts.iter().map(|part| part.owned().map(Owned::durable)).min().flatten() else { return };
        let done = p.parts.iter().filter_map(|part| part.owned()).map(|o| o.stored).max().unwrap_or(start);
        match self.log(at) {
            Ok(log) => match assignment::impossible(start, done, log.low, log.high) {
                Some(why) => self.stop_impossible(at, why),
                None => self.ready(at, start),
            },
            Err(error) => self.core.rewind(at, &format!("cannot ask for the begin and end of the log: {error}")),
        }
    }
}

impl Core {
    /// A new tenure, to be located.
    pub(super) fn adopt_partition(&mut self, at: TopicPartition) {
        let generation = self.next_generation();
        let now = self.clock.now();
        let deadline = now + self.settings.locate_deadline;
        let stopped = self.topics[usize::from(at.topic.0)].stopped.is_some();
        let shards = self.router.shards_of(at.partition);
        let phase = if stopped { Phase::Stopped } else { Phase::Locating { asked: false, not_before: now, deadline } };
        let partition = Partition {
            at,
            generation,
            phase,
            assigned: false,
            start: NextOffset(0),
            high: NextOffset(0),
            tracker: Tracker::new(NextOffset(0)),
            parts: shards.iter().map(|shard| Part::new(*shard)).collect(),
            sent: 0,
            paused: false,
            found: None,
            committed: None,
            noted: false,
            backoff: Backoff::new(self.settings.retry_min, self.settings.retry_max),
            ages: Ages::default(),
            begun: false,
            completed: 0,
            settling: VecDeque::new(),
            settled_records: 0,
            settled: None,
        };
        let slots = &mut self.partitions[usize::from(at.topic.0)];
        let index = at.partition as usize;
        if slots.len() <= index {
            slots.resize_with(index + 1, || None);
        }
        let before = slots[index].replace(Box::new(partition));
        if let Some(before) = before {
            self.end(*before);
        }
        if shards.is_empty() && !stopped {
            let text = format!("no shard declares partition {}; see `partitions` in [[shard]]", at.partition);
            self.stop_topic(at.topic, None, Reason::new(text));
        }
    }

    /// A shard's answer.
    pub(super) fn located(
        &mut self,
        at: TopicPartition,
        generation: Generation,
        shard: ShardIx,
        anchor: Option<Anchor>,
    ) {
        let Some(p) = self.tenure(at, generation) else { return };
        if let Some(part) = p.part_mut(shard) {
            part.located = Some(anchor.map_or(Located::Unknown, Located::Anchored));
        }
        self.housekeeping_at = Duration::ZERO;
    }

    /// What the group's last commit notes of the shards' origins.
    fn read_note(&mut self, at: TopicPartition, metadata: &str) {
        let Core { partitions, settings, .. } = self;
        let Some(p) = find(partitions, at) else { return };
        let name = |shard: ShardIx| settings.shards[usize::from(shard.0)].as_str();
        let shards: Vec<&str> = p.parts.iter().map(|part| name(part.shard)).collect();
        let noted = assignment::noted(metadata, &shards);
        p.noted = noted.iter().all(Option::is_some);
        p.parts.iter_mut().zip(noted).for_each(|(part, origin)| part.noted = origin);
    }

    /// The brokers do not say what the log holds. All such partitions are asked about again together, because each question
    /// may take its whole deadline.
    fn log_unknown(&mut self, at: TopicPartition, error: &SourceError) {
        let now = self.clock.now();
        if self.logs_at <= now {
            self.logs_at = now + self.log_backoff.next(self.rng.f64());
            let (topic, partition) = (self.topic_name(at.topic), at.partition);
            tracing::warn!(
                topic,
                partition,
                "{topic} [{partition}]: cannot ask for its begin and end: {error}; asking again"
            );
        }
        let until = self.logs_at;
        if let Some(Phase::Locating { not_before, .. }) = self.partition(at).map(|p| &mut p.phase) {
            *not_before = until;
        }
    }

    /// Only a shard that is silent can say whether this is the very first start.
    fn await_shards(&mut self, at: TopicPartition) {
        let until = self.clock.now() + self.settings.locate_deadline;
        let (topic, partition) = (self.topic_name(at.topic), at.partition);
        tracing::warn!(
            topic,
            partition,
            "{topic} [{partition}]: whether anybody ever started is known by a shard that does not answer; asking again"
        );
        if let Some(Phase::Locating { deadline, .. }) = self.partition(at).map(|p| &mut p.phase) {
            *deadline = until;
        }
    }

    fn set_high(&mut self, at: TopicPartition, high: NextOffset) {
        if let Some(p) = self.partition(at) {
            p.high = high;
        }
    }

    /// Asks every shard's control thread to take the partition over.
    fn take_over_all(&mut self, at: TopicPartition, start: NextOffset) {
        let (lanes, fenced) = (self.settings.lanes, self.fenced(at.topic));
        let Some(p) = self.partition(at) else { return };
        let generation = p.generation;
        let parts: Vec<(ShardIx, Option<NextOffset>)> = p.parts.iter().map(|part| (part.shard, part.noted)).collect();
        for (shard, noted) in parts {
            if !fenced {
                // Nothing in the database to take over: the group's offset is all there is.
                let fences = vec![start; usize::from(lanes)];
                let taken = Taken { origin: start, done: start, created: false, fences, parked: Vec::new() };
                self.admit(at, shard, Owned::new(&taken));
                continue;
            }
            let token = self.token();
            if let Some(part) = self.partition(at).and_then(|p| p.part_mut(shard)) {
                part.token = token;
            }
            let noted = noted.filter(|_| self.rules.noted_origin);
            let begin = noted.map_or(start, |origin| origin.min(start));
            self.ask(shard, Request::Takeover { takeover: Takeover { at, token, lanes, begin }, generation });
        }
    }

    fn stop_impossible(&mut self, at: TopicPartition, why: Impossible) {
        let text = match why {
            Impossible::Retention { start, low } => format!(
                "partition {}: records {start} to {} are gone from Kafka and were never applied: retention overtook this \
                 group. `forebay fences reset --to-offset` says where to go on",
                at.partition,
                low.0 - 1
            ),
            Impossible::Truncated { durable, high } => format!(
                "partition {}: Kafka's log ends at {high}, but the database has progress up to {durable}: the log was \
                 truncated (unclean leader election) or is another one. `forebay fences reset --to-offset` says where to go on",
                at.partition
            ),
        };
        self.stop_topic(at.topic, None, Reason::new(text));
    }

    /// Ends a tenure: what waits for it is cancelled.
    pub(super) fn end(&mut self, p: Partition) {
        self.leave_behind(p.at, p.sent);
        for part in p.parts {
            if self.fenced(p.at.topic) {
                self.ask(part.shard, Request::Cancel { at: p.at, generation: p.generation });
            }
            self.discard(part.tenure);
        }
    }
}
