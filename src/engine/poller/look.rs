//! What the poller lets others see of itself, and what it measures by the way.

use std::time::Duration;

use crate::engine::event::Health;
use crate::engine::observed::{OldestView, PartitionView, ShardView, Trouble, View, Whereabouts};
use crate::engine::partition::{Part, Partition, Phase, Settling, Tenure};
use crate::engine::poller::{Closing, Core};
use crate::metrics::labelled::{Outcome, Stage, Times};
use crate::sink::Failure;
use crate::state::ages::plausible;
use crate::state::chunk::Chunk;
use crate::state::tracker::Place;
use crate::types::{Generation, NextOffset, ShardIx, TopicIx, TopicPartition};

/// Steps of a partition's progress that wait for Kafka's commit; beyond them they are not told apart.
const SETTLING_MAX: usize = 256;

impl Core {
    pub(super) fn set_now(&mut self, now: Duration) {
        self.now_us = now.as_micros() as u64;
        self.dispatcher.set_now(self.now_us);
    }

    pub(super) fn look(&self) {
        self.counters.in_flight.set(self.dispatcher.in_flight() as u64);
        self.counters.waiting.set(self.unfinished() as u64);
    }

    pub(super) fn show(&mut self, now: Duration) {
        let partitions = self.partitions.iter().flatten().flatten();
        let shard = |(index, health): (usize, &super::ShardHealth)| ShardView {
            reached: health.reached,
            well_since: health.well_since,
            trouble: health.trouble.clone(),
            queued: self.dispatcher.queued(ShardIx(index as u16)).to_vec(),
        };
        self.observed.show(View {
            at: now,
            leaving: self.closing != Closing::No,
            assigned: self.ever_assigned,
            stopped: self.topics.iter().map(|topic| topic.stopped.clone()).collect(),
            partitions: partitions.map(|p| self.partition_view(p)).collect(),
            shards: self.health.iter().enumerate().map(shard).collect(),
        });
    }

    fn partition_view(&self, p: &Partition) -> PartitionView {
        let durable = p.tracker.committable();
        let committed = p.settled.or(p.found);
        let oldest = p.tracker.oldest().map(|(offset, place)| OldestView {
            offset,
            timestamp_ms: p.ages.at(NextOffset(offset.0)).unwrap_or_else(|| self.clock.wall_ms()),
            place,
            at: whereabouts(p, place),
        });
        PartitionView {
            at: p.at,
            phase: word(&p.phase),
            begun: p.begun,
            paused: p.paused,
            start: p.start,
            committed,
            durable,
            fetched: p.tracker.received(),
            end: p.high,
            in_flight_records: p.tracker.unfinished(),
            in_flight_bytes: p.tracker.unfinished_bytes(),
            oldest,
            uncommitted_ms: p.ages.at(committed.unwrap_or(p.start)),
            unconfirmed: unconfirmed(p, durable),
        }
    }

    /// Whether nothing was wrong with it before.
    pub(super) fn note_health(&mut self, shard: ShardIx, health: &Health) -> bool {
        let now = self.clock.now();
        let known = &mut self.health[usize::from(shard.0)];
        let was_well = known.trouble.is_none();
        match health {
            Health::Up => {
                known.well_since = if was_well { known.well_since } else { now };
                (known.reached, known.trouble) = (true, None);
            }
            Health::Down(failure) => {
                let since = known.trouble.as_ref().map_or(now, |trouble| trouble.since);
                let refused = matches!(failure, Failure::Shard(_));
                known.trouble = Some(Trouble { since, refused, reason: failure.reason().clone() });
            }
        }
        was_well
    }

    /// Records of this poll that the databases had.
    pub(super) fn count_skipped(&mut self) {
        for (index, topic) in self.topics.iter_mut().enumerate() {
            for (shard, skipped) in topic.skipped.iter_mut().enumerate().filter(|(_, skipped)| **skipped > 0) {
                let skipped = std::mem::take(skipped);
                self.counters.skipped.add(skipped);
                let of = self.observed.metrics.shard(ShardIx(shard as u16)).topic(TopicIx(index as u16));
                of.outcome(Outcome::Skipped).add(skipped);
            }
        }
    }

    /// Notes how far each partition is durable, and when that was.
    pub(super) fn settle(&mut self) {
        let at_us = self.now_us;
        for p in self.partitions.iter_mut().flatten().flatten().filter(|p| p.begun) {
            let next = p.tracker.committable();
            if p.settling.back().is_some_and(|last| last.next >= next) || p.settled.is_some_and(|done| done >= next) {
                continue;
            }
            if p.settling.len() == SETTLING_MAX {
                p.settling.pop_back();
            }
            p.settling.push_back(Settling { next, at_us, completed: p.completed });
        }
    }

    /// Kafka has committed what this generation of a partition asked for.
    pub(super) fn settled(&mut self, at: TopicPartition, generation: Generation) {
        let now_us = self.now_us;
        let Some(p) = self.tenure(at, generation) else { return };
        let Some(committed) = p.committed else { return };
        let mut steps = Vec::new();
        while let Some(step) = p.settling.front().copied().filter(|step| step.next <= committed) {
            p.settling.pop_front();
            steps.push((now_us.saturating_sub(step.at_us), step.completed.saturating_sub(p.settled_records)));
            p.settled_records = step.completed;
        }
        p.settled = Some(committed);
        p.ages.forget(committed);
        let mut times = self.observed.metrics.topic(at.topic).times.lock();
        steps.into_iter().for_each(|(took_us, records)| times.stage_mut(Stage::Committed).record(took_us, records));
    }

    /// Adds what the durable records of a chunk took, up to `at_us`.
    pub(super) fn time(&self, chunk: &Chunk, at_us: u64) {
        let (wall_ms, now_us) = (self.clock.wall_ms(), self.clock.now().as_micros() as u64);
        // Of a moment of the engine's clock.
        let age_us = |us: u64, timestamp_ms: i64| {
            let behind_us = now_us.saturating_sub(us) as i64;
            (wall_ms.saturating_sub(timestamp_ms).saturating_mul(1000)).saturating_sub(behind_us).max(0) as u64
        };
        let mut times = self.observed.metrics.topic(chunk.topic).times.lock();
        let mut add = |of: (i64, u64), records: u64| {
            let (timestamp_ms, fetched_us) = of;
            let Times { durable, .. } = &mut *times;
            durable.record(age_us(at_us, timestamp_ms), records);
            times.stage_mut(Stage::Fetched).record(age_us(fetched_us, timestamp_ms), records);
            times.stage_mut(Stage::Routed).record(chunk.sent_us.saturating_sub(fetched_us), records);
        };
        // Neighbours share their times more often than not.
        let (mut same, mut records, mut all) = ((0, 0), 0, 0);
        for meta in &chunk.records {
            if !meta.offset.is_below(chunk.runs[meta.run as usize].expected) {
                continue;
            }
            let timestamp_ms = plausible(meta.timestamp_ms, wall_ms);
            let of = (timestamp_ms, meta.fetched_us);
            if of != same && records > 0 {
                add(same, std::mem::take(&mut records));
            }
            same = of;
            records += 1;
            all += 1;
        }
        if records > 0 {
            add(same, records);
        }
        if all > 0 {
            times.stage_mut(Stage::Dequeued).record(chunk.taken_us.saturating_sub(chunk.sent_us), all);
            times.stage_mut(Stage::Written).record(at_us.saturating_sub(chunk.taken_us), all);
        }
    }
}

/// Which shard has not acknowledged all that is durable, if one has not.
fn unconfirmed(p: &Partition, durable: NextOffset) -> Option<ShardIx> {
    let least = |part: &Part| part.owned().map_or(NextOffset(i64::MIN), |owned| owned.confirmed);
    p.parts.iter().filter(|part| least(part) < durable).min_by_key(|part| least(part)).map(|part| part.shard)
}

fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Locating { .. } => "locating",
        Phase::Verifying => "verifying",
        Phase::Located => "located",
        Phase::Running => "running",
        Phase::Revoking => "revoking",
        Phase::Stopped => "stopped",
    }
}

fn whereabouts(p: &Partition, place: Place) -> Whereabouts {
    let Some(part) = p.parts.iter().find(|part| part.shard == place.shard) else { return Whereabouts::Waiting };
    match (&part.tenure, place.lane) {
        (Tenure::Owned(owned), Some(lane)) => match owned.lanes.get(usize::from(lane)) {
            Some(lane) if lane.in_flight > 0 => Whereabouts::Worker(lane.worker),
            Some(lane) if lane.held.is_some() => Whereabouts::Held,
            _ => Whereabouts::Waiting,
        },
        _ => Whereabouts::Waiting,
    }
}
