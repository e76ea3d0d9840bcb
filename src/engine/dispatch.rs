//! From a routed record to a worker's inbox: the hot path. No allocation, no lock and no clock per record; chunks come back
//! with their completions and are used again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use crate::config::{Affinity, Config};
use crate::engine::ceiling::Ceiling;
use crate::engine::pace::Pace;
use crate::engine::partition::Owned;
use crate::engine::worker::BatchLimits;
use crate::state::chunk::{Blocks, Chunk, RawRecord};
use crate::state::lane::{Lane, Loads};
use crate::state::pace::Limits;
use crate::state::router::lane_of;
use crate::state::spares::Spares;
use crate::types::{Generation, KeyHash, NextOffset, ShardIx, Token, TopicIx, TopicPartition};

/// How much work of slow handlers a worker may have and still be preferred to an idle one.
const PACK_TIME: Duration = Duration::from_millis(5);

/// See the module's text.
pub struct Dispatcher {
    outlets: Vec<Outlet>,
    limits: BatchLimits,
    affinity: Affinity,
    spares: Spares,
    /// Serial number of the chunk opened last; 0 is no chunk.
    serial: u64,
    /// By topic: what a record takes, where records may be slow (handlers); `None` for tables.
    record_us: Vec<Option<u64>>,
    /// By topic: nothing of it is written any more, and no ceiling is kept.
    stopped: Vec<bool>,
}

/// The workers of one shard.
struct Outlet {
    inboxes: Vec<Sender<Box<Chunk>>>,
    loads: Loads,
    pace: Arc<Pace>,
    /// By topic.
    gates: Vec<Ceiling>,
    /// By worker, then by topic.
    open: Vec<Vec<Option<Open>>>,
    /// Chunks that found an inbox full, by worker.
    outbox: Vec<VecDeque<Box<Chunk>>>,
    /// Whether anything is open.
    dirty: bool,
    /// For what goes out, in microseconds of the engine's clock.
    now_us: u64,
}

/// A chunk being filled, and its serial number. Until it goes out, `sent_us` says when it was opened.
type Open = (u64, Box<Chunk>);

/// Whose record it is.
#[derive(Clone, Copy)]
pub struct Owner {
    pub at: TopicPartition,
    pub shard: ShardIx,
    pub generation: Generation,
    pub token: Token,
}

/// What the poller knows of a record beside its contents.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The tracker's number.
    pub seq: u64,
    pub fetched_us: u64,
    pub hash: KeyHash,
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatched {
    /// The database has it already.
    Skipped,
    /// To a worker.
    Sent,
    /// Its lane waits until it is empty, to move to another worker.
    Held,
}

/// A worker's thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerGone;

impl Dispatcher {
    /// `paces` and `inboxes` are by shard. `slow` says by topic whether its records may take long (handlers).
    pub fn new(
        inboxes: Vec<Vec<Sender<Box<Chunk>>>>,
        paces: &[Arc<Pace>],
        limits: BatchLimits,
        affinity: Affinity,
        slow: &[bool],
    ) -> Dispatcher {
        let outlet = |(inboxes, pace): (Vec<Sender<Box<Chunk>>>, &Arc<Pace>)| Outlet {
            pace: Arc::clone(pace),
            gates: slow.iter().map(|_| Ceiling::default()).collect(),
            loads: Loads::new(inboxes.len(), limits.records_max),
            open: inboxes.iter().map(|_| slow.iter().map(|_| None).collect()).collect(),
            outbox: inboxes.iter().map(|_| VecDeque::new()).collect(),
            inboxes,
            dirty: false,
            now_us: 0,
        };
        let mut dispatcher = Dispatcher {
            outlets: inboxes.into_iter().zip(paces).map(outlet).collect(),
            limits,
            affinity,
            spares: Spares::default(),
            serial: 0,
            record_us: slow.iter().map(|slow| slow.then_some(0)).collect(),
            stopped: vec![false; slow.len()],
        };
        dispatcher.set_gates(Duration::ZERO);
        dispatcher
    }

    /// Other limits from now on.
    pub fn set_pace(&mut self, config: &Config, now: Duration) {
        for (shard, outlet) in self.outlets.iter_mut().enumerate() {
            outlet.pace.set(Limits::of(config, ShardIx(shard as u16)));
            outlet.close_chunks();
        }
        self.set_gates(now);
    }

    fn set_gates(&mut self, now: Duration) {
        for outlet in &mut self.outlets {
            let rates = outlet.pace.topic_rates();
            outlet.gates.iter_mut().zip(rates).for_each(|(gate, rate)| gate.set(rate, now));
        }
    }

    /// The time that what goes out from now on is stamped with.
    pub fn set_now(&mut self, now_us: u64) {
        self.outlets.iter_mut().for_each(|outlet| outlet.now_us = now_us);
    }

    /// Records at each worker of a shard.
    pub fn queued(&self, shard: ShardIx) -> &[usize] {
        self.outlets[usize::from(shard.0)].loads.each()
    }

    /// Nothing of a topic is written any more: workers give back at once what they get of it.
    pub fn stop_topic(&mut self, topic: TopicIx) {
        self.stopped[usize::from(topic.0)] = true;
    }

    /// It is written again.
    pub fn start_topic(&mut self, topic: TopicIx) {
        self.stopped[usize::from(topic.0)] = false;
    }

    /// Hands a record to the worker of its lane. `unroutable`: it names no shard, and why.
    pub fn send(
        &mut self,
        owner: Owner,
        owned: &mut Owned,
        received: Received,
        raw: &RawRecord<'_>,
        unroutable: Option<&str>,
    ) -> Dispatched {
        let index = usize::from(lane_of(received.hash, owned.lanes.len() as u16));
        let lane = &mut owned.lanes[index];
        if raw.offset.is_below(lane.skip_below) {
            return Dispatched::Skipped;
        }
        let expected = lane.sent;
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        if self.affinity == Affinity::Late
            && lane.held.is_none()
            && lane.in_flight > 0
            && outlet.loads.uneven(usize::from(lane.worker), lane.in_flight as usize, outlet.pace.connections())
        {
            lane.held = Some(free_place(&mut owned.held));
        }
        if let Some(held) = lane.held {
            let chunks = &mut owned.held[held as usize];
            // Cut like every other chunk: once released, each of them is a batch, or a piece of a topic with a ceiling.
            let gate = &outlet.gates[usize::from(owner.at.topic.0)];
            if chunks.last().is_none_or(|chunk| gate.is_full(chunk, self.limits)) {
                let mut chunk = self.spares.take(owner.at.topic);
                chunk.open_run(owner.at, index as u16, owner.generation, owner.token, expected);
                chunks.push(chunk);
            }
            let chunk = chunks.last_mut().expect("just made sure");
            let Received { seq, fetched_us, hash } = received;
            chunk.push_hashed(0, seq, fetched_us, hash, raw, &mut self.spares.blocks);
            unroutable.inspect(|why| chunk.mark_unroutable(why));
            lane.sent = raw.offset.next();
            return Dispatched::Held;
        }
        if lane.in_flight == 0 {
            lane.worker = match self.affinity {
                Affinity::Static => (index % outlet.inboxes.len()) as u16,
                Affinity::Late => {
                    let pack = pack(self.record_us[usize::from(owner.at.topic.0)]);
                    outlet.loads.choose(pack, outlet.pace.connections()) as u16
                }
            };
        }
        lane.sent = raw.offset.next();
        self.fill(owner, index as u16, lane, expected, received, raw, unroutable);
        Dispatched::Sent
    }

    /// Adds a record to the chunk that the worker of its lane gets next; `expected`: where the lane stands before it.
    #[allow(clippy::too_many_arguments)]
    fn fill(
        &mut self,
        owner: Owner,
        index: u16,
        lane: &mut Lane,
        expected: NextOffset,
        received: Received,
        raw: &RawRecord<'_>,
        unroutable: Option<&str>,
    ) {
        let (worker, topic) = (usize::from(lane.worker), owner.at.topic);
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        let (serial, chunk) = outlet.open[worker][usize::from(topic.0)].get_or_insert_with(|| {
            self.serial += 1;
            let mut chunk = self.spares.take(topic);
            chunk.sent_us = outlet.now_us;
            (self.serial, chunk)
        });
        if lane.run.0 != *serial {
            let run = chunk.open_run(owner.at, index, owner.generation, owner.token, expected);
            lane.run = (*serial, run);
        }
        let Received { seq, fetched_us, hash } = received;
        chunk.push_hashed(lane.run.1, seq, fetched_us, hash, raw, &mut self.spares.blocks);
        unroutable.inspect(|why| chunk.mark_unroutable(why));
        lane.in_flight += 1;
        outlet.dirty = true;
        let full = outlet.gates[usize::from(topic.0)].is_full(chunk, self.limits);
        outlet.count(worker, topic, 1);
        if full {
            outlet.close(worker, topic);
        }
    }

    /// A lane became empty: what was held of it goes to the worker with most room. Returns how many records that were.
    pub fn release(&mut self, owner: Owner, owned: &mut Owned, index: u16) -> usize {
        let lane = &mut owned.lanes[usize::from(index)];
        let Some(held) = lane.held.take() else { return 0 };
        debug_assert_eq!(lane.in_flight, 0, "its records would be overtaken");
        let mut chunks = std::mem::take(&mut owned.held[held as usize]);
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        let topic = owner.at.topic;
        let pack = pack(self.record_us[usize::from(topic.0)]);
        let worker = outlet.loads.choose(pack, outlet.pace.connections());
        let records = chunks.iter().map(|chunk| chunk.len()).sum();
        lane.worker = worker as u16;
        let gate = &outlet.gates[usize::from(topic.0)];
        let piece = gate.piece(self.limits.records_max);
        let last = chunks.pop_if(|last| gate.is_open() && !self.limits.reached(last));
        // One that passes by must not pass one of its own lane that waits.
        let mut passes = true;
        for chunk in chunks {
            lane.in_flight += chunk.len() as u32;
            passes &= chunk.len() > piece;
            outlet.let_released(worker, chunk, passes);
        }
        if let Some(last) = last {
            self.fill_with(owner, index, lane, last);
        }
        records
    }

    /// What a lane without an open run was held with and does not make a batch: it is filled further, or fills what is open.
    fn fill_with(&mut self, owner: Owner, index: u16, lane: &mut Lane, mut chunk: Box<Chunk>) {
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        let open = &mut outlet.open[usize::from(lane.worker)][usize::from(owner.at.topic.0)];
        if open.is_none() {
            self.serial += 1;
            lane.run = (self.serial, 0);
            lane.in_flight += chunk.len() as u32;
            outlet.loads.add(usize::from(lane.worker), chunk.len());
            chunk.sent_us = outlet.now_us;
            *open = Some((self.serial, chunk));
            outlet.dirty = true;
            return;
        }
        let mut expected = chunk.runs[0].expected;
        for (at, meta) in chunk.records.iter().enumerate() {
            let received = Received { seq: meta.seq, fetched_us: meta.fetched_us, hash: meta.hash };
            let raw = RawRecord::from(chunk.record(at));
            self.fill(owner, index, lane, expected, received, &raw, chunk.unroutable(at));
            expected = meta.offset.next();
        }
        self.recycle(chunk);
    }

    /// Sends what is open to the workers that want it, and what its topic's ceiling allows by now.
    pub fn flush(&mut self, now: Duration) -> Result<(), WorkerGone> {
        for outlet in &mut self.outlets {
            outlet.close_wanted(self.limits.records_max);
            outlet.pass_gates(now, &self.stopped);
            for worker in 0..outlet.inboxes.len() {
                outlet.empty_outbox(worker)?;
            }
        }
        Ok(())
    }

    /// Notes that a worker is done with chunks, of which so many records wrote no row.
    pub fn returned(&mut self, shard: ShardIx, worker: u16, chunks: &[Box<Chunk>], unwritten: usize, took_us: u64) {
        let records: usize = chunks.iter().map(|c| c.len()).sum();
        let outlet = &mut self.outlets[usize::from(shard.0)];
        outlet.loads.remove(usize::from(worker), records);
        if let Some(chunk) = chunks.first() {
            outlet.gates[usize::from(chunk.topic.0)].returned(records, unwritten);
        }
        if let (Some(topic), true) = (chunks.first().map(|c| c.topic), records > 0)
            && let Some(average) = &mut self.record_us[usize::from(topic.0)]
        {
            // Slowly up and down, so that one odd batch does not scatter the load.
            *average = (*average * 7 + took_us / records as u64) / 8;
        }
    }

    /// What waits for topics' ceilings and is of partitions that leave only: nobody waits for it any more.
    pub fn withdraw(&mut self, leaves: &dyn Fn(TopicPartition) -> bool) -> Vec<(ShardIx, Box<Chunk>)> {
        let all_leave = |chunk: &Chunk| {
            chunk.runs.iter().all(|run| leaves(TopicPartition { topic: chunk.topic, partition: run.partition }))
        };
        let mut withdrawn = Vec::new();
        for (shard, outlet) in self.outlets.iter_mut().enumerate() {
            outlet.close_chunks();
            let chunks = outlet.gates.iter_mut().flat_map(|gate| gate.withdraw(all_leave));
            withdrawn.extend(chunks.map(|chunk| (ShardIx(shard as u16), chunk)));
        }
        withdrawn
    }

    /// Keeps a chunk for reuse.
    pub fn recycle(&mut self, chunk: Box<Chunk>) {
        self.spares.keep(chunk);
    }

    /// A chunk for records that cannot be sent yet.
    pub fn spare(&mut self, topic: TopicIx) -> Box<Chunk> {
        self.spares.take(topic)
    }

    /// Where chunks that are filled elsewhere find blocks.
    pub fn blocks(&mut self) -> &mut Blocks {
        &mut self.spares.blocks
    }

    /// What one chunk may hold.
    pub fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Records at all workers, and on their way there.
    pub fn in_flight(&self) -> usize {
        self.outlets.iter().map(|o| o.loads.total() + o.gates.iter().map(Ceiling::records).sum::<usize>()).sum()
    }

    /// Whether more would only wait here: every shard's workers have as much as is good for them, or nobody runs dry soon while
    /// twice as much is `unfinished` in all, lanes that wait for their worker included.
    pub fn congested(&self, unfinished: impl Fn() -> usize) -> bool {
        let batch = self.limits.records_max;
        self.outlets.iter().all(|outlet| outlet.loads.total() >= outlet.enough(batch))
            || self.nobody_runs_dry() && self.is_enough(unfinished() / 2)
    }

    /// Whether each worker that may work has a batch in hand, and another one waiting.
    pub fn nobody_runs_dry(&self) -> bool {
        self.outlets.iter().all(|outlet| outlet.nobody_runs_dry(self.limits.records_max))
    }

    /// Whether so many records are as much as is good for all workers together.
    pub fn is_enough(&self, records: usize) -> bool {
        records >= self.outlets.iter().map(|outlet| outlet.enough(self.limits.records_max)).sum()
    }
}

/// Batches per worker, being written and waiting, beyond which fetching more is of no use.
const BATCHES_QUEUED: usize = 3;

/// Batches: the one that a worker writes, and the one that it takes next.
const ENOUGH: usize = 2;

/// So long a chunk may stay open, in microseconds: other topics' records, or one lane's, may keep its worker busy without an end.
const OPEN_MAX_US: u64 = 100_000;

impl Outlet {
    /// Records that are as much as is good for its workers.
    fn enough(&self, batch: usize) -> usize {
        (self.pace.connections() * batch * BATCHES_QUEUED).min(self.pace.ahead())
    }

    fn nobody_runs_dry(&self, batch: usize) -> bool {
        self.loads.each().iter().take(self.pace.connections()).all(|records| *records >= ENOUGH * batch)
    }

    /// Records more for a worker; those that wait for their topic's ceiling are no load yet.
    fn count(&mut self, worker: usize, topic: TopicIx, records: usize) {
        let gate = &mut self.gates[usize::from(topic.0)];
        if gate.is_open() { self.loads.add(worker, records) } else { gate.expect(records) }
    }

    fn close(&mut self, worker: usize, topic: TopicIx) {
        if let Some((_, chunk)) = self.open[worker][usize::from(topic.0)].take() {
            self.let_through(worker, chunk);
        }
    }

    fn close_chunks(&mut self) {
        if std::mem::take(&mut self.dirty) {
            (0..self.inboxes.len()).for_each(|worker| self.close_all(worker));
        }
    }

    /// A worker that has a batch in hand and another one waiting gets nothing but full chunks: smaller ones would become
    /// smaller batches, and cost the database more. What stays open is looked at again when the worker gives a batch back, and
    /// goes out in any case once it is old.
    fn close_wanted(&mut self, batch: usize) {
        if std::mem::take(&mut self.dirty) {
            for worker in 0..self.inboxes.len() {
                let open: usize = self.open[worker].iter().flatten().map(|(_, chunk)| chunk.len()).sum();
                let old = |(_, chunk): &Open| self.now_us.saturating_sub(chunk.sent_us) >= OPEN_MAX_US;
                let waits = self.loads.each()[worker].saturating_sub(open) >= ENOUGH * batch
                    && !self.open[worker].iter().flatten().any(old);
                match waits {
                    true => self.dirty |= open > 0,
                    false => self.close_all(worker),
                }
            }
        }
    }

    fn close_all(&mut self, worker: usize) {
        (0..self.open[worker].len()).for_each(|topic| self.close(worker, TopicIx(topic as u16)));
    }

    /// A chunk whose records were counted.
    fn let_through(&mut self, worker: usize, chunk: Box<Chunk>) {
        let gate = &mut self.gates[usize::from(chunk.topic.0)];
        if gate.is_open() { self.deliver(worker, chunk) } else { gate.let_in(worker, chunk) }
    }

    /// A chunk whose records were not counted. One that is larger than a piece was held before the topic had its ceiling: like what
    /// is at the workers then, it is on its way already, and `passes`. At the gate it would keep the topic waiting until all of it is
    /// paid off.
    fn let_released(&mut self, worker: usize, chunk: Box<Chunk>, passes: bool) {
        if passes {
            self.loads.add(worker, chunk.len());
            self.deliver(worker, chunk);
        } else {
            self.count(worker, chunk.topic, chunk.len());
            self.let_through(worker, chunk);
        }
    }

    fn pass_gates(&mut self, now: Duration, stopped: &[bool]) {
        for (topic, stopped) in stopped.iter().enumerate() {
            self.gates[topic].pay(self.pace.take_slow_rows(TopicIx(topic as u16)));
            if self.gates[topic].records() == 0 {
                continue;
            }
            while let Some((worker, chunk)) = self.gates[topic].let_out(now, *stopped) {
                self.loads.add(worker, chunk.len());
                self.deliver(worker, chunk);
            }
            if let Some(waited) = self.gates[topic].held(now) {
                self.pace.topic_held(TopicIx(topic as u16), waited);
            }
        }
    }

    fn deliver(&mut self, worker: usize, mut chunk: Box<Chunk>) {
        chunk.sent_us = self.now_us;
        self.outbox[worker].push_back(chunk);
        // A worker that is gone shows at the next flush.
        let _ = self.empty_outbox(worker);
    }

    fn empty_outbox(&mut self, worker: usize) -> Result<(), WorkerGone> {
        while let Some(chunk) = self.outbox[worker].pop_front() {
            match self.inboxes[worker].try_send(chunk) {
                Ok(()) => {}
                Err(TrySendError::Full(chunk)) => {
                    self.outbox[worker].push_front(chunk);
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(WorkerGone),
            }
        }
        Ok(())
    }
}

/// How many records a worker may have and still be preferred to an idle one.
fn pack(record_us: Option<u64>) -> usize {
    match record_us {
        None => usize::MAX,
        Some(us) => (PACK_TIME.as_micros() as u64 / us.max(1)).max(1) as usize,
    }
}

/// Where a lane that is to be held keeps its chunks.
fn free_place(held: &mut Vec<Vec<Box<Chunk>>>) -> u32 {
    let free = held.iter().position(Vec::is_empty).unwrap_or_else(|| {
        held.push(Vec::new());
        held.len() - 1
    });
    free as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Taken;
    use crate::state::router::key_hash;
    use crate::types::Offset;
    use crossbeam_channel::{Receiver, bounded};

    const AT: TopicPartition = TopicPartition { topic: TopicIx(0), partition: 0 };
    const OWNER: Owner = Owner { at: AT, shard: ShardIx(0), generation: Generation(1), token: Token(7) };
    const LIMITS: BatchLimits = BatchLimits { records_max: 10, bytes_max: 1 << 20 };

    /// One shard with two workers, and one partition with two lanes of it.
    struct Bench {
        dispatcher: Dispatcher,
        inboxes: Vec<Receiver<Box<Chunk>>>,
        owned: Owned,
        next: i64,
    }

    fn bench() -> Bench {
        let (senders, inboxes) = (0..2).map(|_| bounded(1 << 10)).unzip();
        let (zero, fences) = (NextOffset(0), vec![NextOffset(0); 2]);
        let taken = Taken { origin: zero, done: zero, created: true, fences, parked: Vec::new() };
        let pace = Arc::new(Pace::unlimited(2, 1));
        let dispatcher = Dispatcher::new(vec![senders], &[pace], LIMITS, Affinity::Late, &[false]);
        Bench { dispatcher, inboxes, owned: Owned::new(&taken), next: 0 }
    }

    impl Bench {
        fn send(&mut self, key: &str, n: usize) -> Vec<Dispatched> {
            let mut one = || {
                let offset = Offset(self.next);
                self.next += 1;
                let raw = RawRecord { offset, timestamp_ms: 0, key: Some(key.as_bytes()), value: None, headers: &[] };
                let received = Received { seq: offset.0 as u64, fetched_us: 0, hash: raw.key_hash() };
                self.dispatcher.send(OWNER, &mut self.owned, received, &raw, None)
            };
            (0..n).map(|_| one()).collect()
        }

        /// A lane's records came back, and what was held of it goes out.
        fn release(&mut self, lane: u16) -> usize {
            self.owned.lanes[usize::from(lane)].in_flight = 0;
            self.dispatcher.release(OWNER, &mut self.owned, lane)
        }

        /// What a worker got.
        fn got(&mut self, worker: usize) -> Vec<Box<Chunk>> {
            self.dispatcher.flush(Duration::ZERO).unwrap();
            self.inboxes[worker].try_iter().collect()
        }
    }

    fn key_of(lane: u16) -> String {
        (0..)
            .map(|n| format!("key{n}"))
            .find(|k| lane_of(key_hash(Some(k.as_bytes()), Offset(0)), 2) == lane)
            .expect("some key")
    }

    #[test]
    fn one_hot_lane_is_not_held_where_it_is_the_whole_load() {
        let mut bench = bench();
        let sent = bench.send(&key_of(0), 200);
        assert!(sent.iter().all(|d| *d == Dispatched::Sent), "moving it would even out nothing");
        let lens: Vec<usize> = bench.got(0).iter().map(|c| c.len()).collect();
        assert_eq!(lens, [10; 20]);
        assert!(bench.got(1).is_empty());
    }

    #[test]
    fn a_worker_with_another_batch_waiting_gets_full_chunks_only() {
        let mut bench = bench();
        let lens = |chunks: &[Box<Chunk>]| chunks.iter().map(|c| c.len()).collect::<Vec<_>>();
        bench.send(&key_of(0), 13);
        let first = bench.got(0);
        assert_eq!(lens(&first), [10, 3], "it has nothing else to do");
        bench.send(&key_of(0), 9);
        assert_eq!(lens(&bench.got(0)), [9], "22 are there by now, of which it had 13");
        bench.send(&key_of(0), 4);
        assert!(bench.got(0).is_empty(), "it has 22 in hand");
        bench.send(&key_of(0), 9);
        assert_eq!(lens(&bench.got(0)), [10]);
        bench.dispatcher.returned(ShardIx(0), 0, &first[..1], 0, 0);
        assert!(bench.got(0).is_empty(), "it still has 22");
        bench.dispatcher.returned(ShardIx(0), 0, &first[1..], 0, 0);
        assert_eq!(lens(&bench.got(0)), [3], "what is open goes out as soon as the worker might run dry");
    }

    #[test]
    fn a_held_lane_is_released_in_chunks_of_a_batch_and_the_last_one_is_filled_further() {
        let mut bench = bench();
        let (hot, other) = (key_of(0), key_of(1));
        bench.send(&other, 1);
        bench.send(&hot, 29);
        assert_eq!(bench.send(&other, 34)[0], Dispatched::Held, "its worker has 29 more than the idle one without it");
        let first = bench.got(0);
        bench.dispatcher.returned(ShardIx(0), 0, &first, 0, 0);
        let released = bench.release(1);
        let lane = bench.owned.lanes[1];
        assert_eq!((released, lane.in_flight, lane.held), (34, 34, None));
        let mut chunks: Vec<Box<Chunk>> = bench.got(0);
        assert_eq!(chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), [10; 3], "the worker has enough to do");
        bench.send(&other, 6);
        chunks.append(&mut bench.got(0));
        assert_eq!(chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), [10; 4]);
        let runs: Vec<_> = chunks.iter().flat_map(|c| &c.runs).collect();
        assert!(
            runs.windows(2).all(|w| w[0].next == w[1].expected),
            "each begins where the one before it ends: {runs:?}"
        );
        assert_eq!(runs.len(), 4, "the lane goes on in its run");
        assert_eq!(runs.last().map(|r| r.next), Some(bench.owned.lanes[1].sent));
        assert!(bench.owned.held.iter().all(Vec::is_empty));
    }

    #[test]
    fn what_a_released_lane_has_left_fills_the_chunk_that_is_open() {
        for (held, open, out) in [(4, 7, vec![10]), (7, 4, vec![10]), (3, 4, vec![]), (13, 9, vec![10, 10])] {
            let mut bench = bench();
            let (hot, other) = (key_of(0), key_of(1));
            bench.send(&other, 1);
            bench.send(&hot, 29);
            assert_eq!(bench.send(&other, held)[0], Dispatched::Held);
            let first = bench.got(0);
            bench.send(&hot, open);
            assert!(bench.got(0).is_empty(), "it has three batches in hand");
            bench.dispatcher.returned(ShardIx(0), 0, &first, 0, 0);
            bench.release(1);
            let mut chunks: Vec<Box<Chunk>> = bench.inboxes[0].try_iter().collect();
            assert_eq!(chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), out, "{held} were held, {open} were open");
            bench.send(&other, 2);
            bench.dispatcher.outlets[0].close_chunks();
            chunks.append(&mut bench.got(0));
            let of_lane = |c: &Chunk| c.runs.iter().copied().filter(|run| run.lane == 1).collect::<Vec<_>>();
            let runs: Vec<_> = chunks.iter().flat_map(|c| of_lane(c)).collect();
            assert_eq!(runs.iter().map(|run| run.records).sum::<u32>() as usize, held + 2);
            assert!(
                runs.windows(2).all(|w| w[0].next == w[1].expected),
                "each begins where the one before it ends: {runs:?}"
            );
            assert_eq!(
                runs.first().map(|r| r.expected),
                Some(NextOffset(1)),
                "behind the one record that was not held"
            );
            assert_eq!(runs.last().map(|r| r.next), Some(bench.owned.lanes[1].sent));
            assert_eq!(bench.owned.lanes[1].in_flight as usize, held + 2);
        }
    }

    #[test]
    fn a_chunk_that_is_old_goes_out_although_its_worker_has_enough_to_do() {
        let mut bench = bench();
        bench.send(&key_of(0), 30);
        assert_eq!(bench.got(0).len(), 3);
        bench.send(&key_of(0), 4);
        bench.dispatcher.set_now(OPEN_MAX_US - 1);
        assert!(bench.got(0).is_empty());
        bench.dispatcher.set_now(OPEN_MAX_US);
        assert_eq!(bench.got(0).iter().map(|c| c.len()).collect::<Vec<_>>(), [4]);
    }

    /// While it was held its topic had a ceiling, then none, then one again.
    #[test]
    fn no_chunk_of_a_released_lane_passes_one_that_waits() {
        let mut bench = bench();
        let (hot, other) = (key_of(0), key_of(1));
        bench.send(&other, 1);
        bench.send(&hot, 29);
        assert_eq!(bench.send(&other, 1), [Dispatched::Held]);
        let (first, pace) = (bench.got(0), Arc::clone(&bench.dispatcher.outlets[0].pace));
        let ceiling = |bench: &mut Bench, rows: Option<usize>| {
            pace.set(Limits { topics: vec![rows], ..Limits::default() });
            bench.dispatcher.set_gates(Duration::ZERO);
        };
        ceiling(&mut bench, Some(10));
        bench.send(&other, 2);
        ceiling(&mut bench, None);
        bench.send(&other, 5);
        ceiling(&mut bench, Some(10));
        let held: Vec<usize> = bench.owned.held.iter().flatten().map(|chunk| chunk.len()).collect();
        assert_eq!(held, [1, 1, 6], "of which a piece is one record");
        bench.dispatcher.returned(ShardIx(0), 0, &first, 0, 0);
        assert_eq!(bench.release(1), 8);
        assert!(bench.inboxes.iter().all(|inbox| inbox.is_empty()), "the second one would be overtaken");
    }

    #[test]
    fn a_ceiling_is_kept_again_for_a_topic_that_goes_on() {
        let mut bench = bench();
        let pace = Arc::clone(&bench.dispatcher.outlets[0].pace);
        pace.set(Limits { topics: vec![Some(10)], ..Limits::default() });
        bench.dispatcher.set_gates(Duration::ZERO);
        bench.send(&key_of(0), 10);
        assert_eq!(bench.got(0).len(), 2, "a full bucket of rows, one in each piece");
        bench.dispatcher.stop_topic(AT.topic);
        assert_eq!(bench.got(0).len(), 8, "they go back to be dropped");
        bench.dispatcher.start_topic(AT.topic);
        bench.send(&key_of(0), 10);
        assert_eq!(bench.got(0).len(), 0);
    }

    #[test]
    fn what_was_held_before_there_was_a_ceiling_does_not_keep_the_topic_waiting_afterwards() {
        let mut bench = bench();
        let (hot, other) = (key_of(0), key_of(1));
        bench.send(&other, 1);
        bench.send(&hot, 30);
        assert_eq!(bench.send(&other, 10)[0], Dispatched::Held);
        let first = bench.got(0);
        let pace = Arc::clone(&bench.dispatcher.outlets[0].pace);
        pace.set(Limits { topics: vec![Some(10)], ..Limits::default() });
        bench.dispatcher.set_gates(Duration::ZERO);
        assert_eq!(bench.send(&other, 2), [Dispatched::Held; 2]);
        bench.dispatcher.returned(ShardIx(0), 0, &first, 0, 0);
        assert_eq!(bench.release(1), 12);
        let lens: Vec<usize> = bench.got(0).iter().map(|c| c.len()).collect();
        assert_eq!(lens, [10, 1, 1], "what was held, and a full bucket of pieces besides");
    }
}
