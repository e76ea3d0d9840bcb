//! What comes in: records from the source, finished chunks from the workers.

use crate::engine::dispatch::{Dispatched, Dispatcher, Owner, Received};
use crate::engine::event::Event;
use crate::engine::partition::{Owned, Part, Partition, Phase, Tenure};
use crate::engine::poller::{Core, find};
use crate::metrics::labelled::Outcome;
use crate::sink::{Reason, RowCounts};
use crate::source::{Intake, PartitionError, SourceEvent};
use crate::state::ages::plausible;
use crate::state::chunk::{Chunk, RawRecord, RecordMeta};
use crate::state::router::{RouteError, lane_of};
use crate::state::tracker::{Place, Tracker};
use crate::types::{Generation, NextOffset, Offset, ShardIx, Token, TopicPartition};

/// Where records go that name no shard: every process and every configuration of one group has a first shard.
const UNROUTABLE: ShardIx = ShardIx(0);

impl Intake for Core {
    fn record(&mut self, at: TopicPartition, record: &RawRecord<'_>) {
        if !self.drained_this_poll {
            // What finished while the poll waited decides which workers have room.
            self.drained_this_poll = true;
            self.drain_events();
            let now = self.clock.now();
            self.set_now(now);
            self.wall_ms = self.clock.wall_ms();
        }
        let (now_us, wall_ms) = (self.now_us, self.wall_ms);
        let Core { partitions, dispatcher, router, settings, window_full, topics, .. } = self;
        let Some(p) = find(partitions, at).filter(|p| p.takes_records()) else { return };
        if record.offset.is_below(p.tracker.received()) {
            return; // handed out twice
        }
        let (shard, unroutable) = match router.route(at.partition, record) {
            Ok(shard) => (shard, None),
            // A bad record like any other, of a shard that is always the same one.
            Err(RouteError::Unreadable(why)) => (UNROUTABLE, Some(format!("the tenant cannot be read: {why}"))),
            Err(error) => {
                let place = Some((at.partition, record.offset));
                let topic = &mut self.topics[usize::from(at.topic.0)];
                topic.unmapped = topic.stopped.is_none() && error == RouteError::Unmapped;
                return self.stop_topic(at.topic, place, Reason::new(error.to_string()));
            }
        };
        let topic = &mut topics[usize::from(at.topic.0)];
        topic.misaligned.uncounted += u64::from(unroutable.is_none() && !router.is_aligned(at.partition, shard));
        topic.fetched += 1;
        p.ages.received(record.offset, plausible(record.timestamp_ms, wall_ms));
        let hash = record.key_hash();
        let Partition { parts, generation, sent, tracker, paused, .. } = p;
        let part = parts.iter_mut().find(|part| part.shard == shard).expect("the router names relevant shards only");
        let lane = part.owned().map(|owned| lane_of(hash, owned.lanes.len() as u16));
        let seq = tracker.register(record.offset, record.bytes(), Place { shard, lane });
        *window_full |= !*paused && settings.window.must_pause(tracker);
        let received = Received { seq, fetched_us: now_us, hash };
        match &mut part.tenure {
            Tenure::Waiting { chunks, .. } => {
                let chunk = wait(chunks, dispatcher, at, *generation, received, record);
                unroutable.inspect(|why| chunk.mark_unroutable(why));
            }
            Tenure::Owned(owned) => {
                let owner = Owner { at, shard, generation: *generation, token: part.token };
                let dispatched = dispatcher.send(owner, owned, received, record, unroutable.as_deref());
                let skipped = &mut topic.skipped[usize::from(shard.0)];
                count(dispatched, sent, tracker, skipped, seq, record.offset);
            }
        }
    }

    fn event(&mut self, event: SourceEvent) {
        match event {
            // Its place among the records matters.
            SourceEvent::EndOfPartition { at, end } => {
                let Some(p) = self.partition(at).filter(|p| p.takes_records()) else { return };
                if p.has_beyond(end) {
                    // The log was cut behind our back. What comes to lie there now would pass for done.
                    let error = PartitionError::EndsBelow(end);
                    self.reported.push_back(SourceEvent::PartitionFailed { at, error });
                } else {
                    p.tracker.end_of_partition(end);
                    // For shards that are yet to be taken over: what they hold is compared with this end, not an older one.
                    p.high = end;
                }
            }
            other => self.reported.push_back(other),
        }
    }
}

/// Notes what became of a record.
fn count(dispatched: Dispatched, sent: &mut usize, tracker: &mut Tracker, skipped: &mut u64, seq: u64, offset: Offset) {
    match dispatched {
        Dispatched::Sent => *sent += 1,
        Dispatched::Held => {}
        Dispatched::Skipped => {
            tracker.complete(seq, offset);
            *skipped += 1;
        }
    }
}

/// Keeps a record until its part is taken over, in the chunk that is returned.
fn wait<'c>(
    chunks: &'c mut Vec<Box<Chunk>>,
    dispatcher: &mut Dispatcher,
    at: TopicPartition,
    generation: Generation,
    received: Received,
    record: &RawRecord<'_>,
) -> &'c mut Chunk {
    let limits = dispatcher.limits();
    if chunks.last().is_none_or(|chunk| limits.reached(chunk)) {
        let mut chunk = dispatcher.spare(at.topic);
        chunk.open_run(at, 0, generation, Token(0), NextOffset(0));
        chunks.push(chunk);
    }
    let chunk = chunks.last_mut().expect("just made sure");
    chunk.push_hashed(0, received.seq, received.fetched_us, received.hash, record, dispatcher.blocks());
    chunk
}

impl Core {
    /// Takes what workers and control threads said. What needs the source waits for its turn.
    pub(super) fn drain_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take_event(event);
        }
    }

    pub(super) fn take_event(&mut self, event: Event) {
        match event {
            Event::Returned { shard, worker, chunks, counts, took_us, at_us } => {
                self.dispatcher.returned(shard, worker, &chunks, counts.folded as usize, took_us);
                self.counters.writing_us.add(took_us);
                self.returned(shard, chunks, counts, at_us);
            }
            other => self.deferred.push_back(other),
        }
    }

    fn returned(&mut self, shard: ShardIx, chunks: Vec<Box<Chunk>>, counts: RowCounts, at_us: u64) {
        self.counters.batches.add(1);
        if let Some(topic) = chunks.first().map(|chunk| chunk.topic) {
            let of_shard = self.observed.metrics.shard(shard).topic(topic);
            let RowCounts { upserted, deleted, folded, dead, parked } = counts;
            let outcomes = [
                (Outcome::Upserted, upserted),
                (Outcome::Deleted, deleted),
                (Outcome::Folded, folded),
                (Outcome::Parked, parked),
                (Outcome::DeadLettered, dead),
            ];
            outcomes.iter().for_each(|(outcome, n)| of_shard.outcome(*outcome).add(u64::from(*n)));
            // What comes back unwritten is no batch.
            if counts != RowCounts::default() {
                let records: usize = chunks.iter().map(|chunk| chunk.len()).sum();
                of_shard.batch_records.lock().record(records as u64, 1);
            }
        }
        self.counters.folded.add(u64::from(counts.folded));
        self.counters.dead_lettered.add(u64::from(counts.dead));
        self.counters.parked.add(u64::from(counts.parked));
        self.counters.upserted.add(u64::from(counts.upserted));
        self.counters.deleted.add(u64::from(counts.deleted));
        let mut durable = 0;
        for chunk in chunks {
            self.time(&chunk, at_us);
            durable += self.complete(shard, &chunk);
            self.dispatcher.recycle(chunk);
        }
        self.counters.durable.add(durable);
    }

    /// What waits for a ceiling is left to the next owner, which reads it again: to wait for it could take as long as the ceiling
    /// likes.
    pub(super) fn withdraw(&mut self) {
        let Core { partitions, dispatcher, .. } = self;
        let leaves = |at: TopicPartition| {
            let found = partitions[usize::from(at.topic.0)].get(at.partition as usize).and_then(Option::as_deref);
            found.is_none_or(|p| p.phase == Phase::Revoking)
        };
        for (shard, chunk) in dispatcher.withdraw(&leaves) {
            self.complete(shard, &chunk);
            self.dispatcher.recycle(chunk);
        }
    }

    /// Completes what of a chunk is durable, and frees its lanes. Returns the number of records.
    fn complete(&mut self, shard: ShardIx, chunk: &Chunk) -> u64 {
        let mut durable = 0;
        for meta in &chunk.records {
            let run = &chunk.runs[meta.run as usize];
            let at = TopicPartition { topic: chunk.topic, partition: run.partition };
            if meta.offset.is_below(run.expected)
                && let Some(p) = self.tenure(at, run.generation)
            {
                p.tracker.complete(meta.seq, meta.offset);
                p.completed += 1;
                durable += 1;
            }
        }
        let stopped = self.topics[usize::from(chunk.topic.0)].stopped.is_some();
        let mut free = Vec::new();
        let Core { partitions, dispatcher, left_behind, .. } = self;
        for (index, run) in chunk.runs.iter().enumerate() {
            let at = TopicPartition { topic: chunk.topic, partition: run.partition };
            let Some(p) = find(partitions, at).filter(|p| p.generation == run.generation) else {
                if let Some(records) = left_behind.get_mut(&at) {
                    *records -= run.records as usize;
                    if *records == 0 {
                        left_behind.remove(&at);
                        free.push(at);
                    }
                }
                continue;
            };
            p.sent -= run.records as usize;
            if run.expected == run.next {
                p.backoff.reset();
            }
            let Some(part) = p.parts.iter_mut().find(|part| part.shard == shard) else { continue };
            let owner = Owner { at, shard, generation: run.generation, token: part.token };
            let Some(owned) = part.owned_mut() else { continue };
            let lane = &mut owned.lanes[usize::from(run.lane)];
            lane.in_flight -= run.records;
            // One that came back untouched, because its topic stopped, only repeats what was hoped of the runs before it.
            let durable_of_run = |m: &RecordMeta| m.run as usize == index && m.offset.is_below(run.expected);
            if run.expected == run.next || chunk.records.iter().any(durable_of_run) {
                lane.acked = lane.acked.max(run.expected);
            }
            if lane.in_flight == 0 && lane.held.is_some() && !stopped && p.phase != Phase::Revoking {
                p.sent += dispatcher.release(owner, owned, run.lane);
            }
        }
        free.into_iter().for_each(|at| self.admit_ready(at));
        durable
    }

    /// Workers hold nothing of earlier tenures any more: what only waited for that begins.
    fn admit_ready(&mut self, at: TopicPartition) {
        let Some(p) = self.partition(at).filter(|p| matches!(p.phase, Phase::Located | Phase::Running)) else { return };
        let ready = |part: &mut Part| match &mut part.tenure {
            Tenure::Waiting { ready, .. } => Some((part.shard, ready.take()?)),
            Tenure::Owned(_) => None,
        };
        let ready: Vec<(ShardIx, Owned)> = p.parts.iter_mut().filter_map(ready).collect();
        ready.into_iter().for_each(|(shard, owned)| self.admit(at, shard, owned));
    }

    /// A part is ours: what waited for it goes to its lanes.
    pub(super) fn admit(&mut self, at: TopicPartition, shard: ShardIx, mut owned: Owned) {
        let Core { partitions, dispatcher, topics, left_behind, .. } = self;
        let skipped = &mut topics[usize::from(at.topic.0)].skipped[usize::from(shard.0)];
        let Some(p) = find(partitions, at) else { return };
        let generation = p.generation;
        let Partition { parts, sent, tracker, .. } = p;
        let Some(part) = parts.iter_mut().find(|part| part.shard == shard) else { return };
        let Part { tenure, token, .. } = part;
        if let (true, Tenure::Waiting { ready, .. }) = (left_behind.contains_key(&at), &mut *tenure) {
            *ready = Some(owned);
            return;
        }
        let waiting = match std::mem::replace(tenure, Tenure::Waiting { chunks: Vec::new(), ready: None }) {
            Tenure::Waiting { chunks, .. } => chunks,
            Tenure::Owned(_) => unreachable!("a part is taken over once a generation"),
        };
        let owner = Owner { at, shard, generation, token: *token };
        for chunk in waiting {
            for (index, meta) in chunk.records.iter().enumerate() {
                let raw = RawRecord::from(chunk.record(index));
                let why = chunk.unroutable(index);
                tracker.bind(meta.seq, lane_of(meta.hash, owned.lanes.len() as u16));
                let received = Received { seq: meta.seq, fetched_us: meta.fetched_us, hash: meta.hash };
                let dispatched = dispatcher.send(owner, &mut owned, received, &raw, why);
                count(dispatched, sent, tracker, skipped, meta.seq, meta.offset);
            }
            dispatcher.recycle(chunk);
        }
        *tenure = Tenure::Owned(owned);
    }
}
