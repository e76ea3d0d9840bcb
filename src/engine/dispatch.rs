//! From a routed record to a worker's inbox: the hot path. No allocation, no lock and no clock per record; chunks come back
//! with their completions and are used again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use crate::config::Affinity;
use crate::engine::pace::Pace;
use crate::engine::partition::Owned;
use crate::engine::worker::BatchLimits;
use crate::state::chunk::{Chunk, RawRecord};
use crate::state::lane::Loads;
use crate::state::router::lane_of;
use crate::state::spares::Spares;
use crate::types::{Generation, ShardIx, Token, TopicIx, TopicPartition};

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
}

/// The workers of one shard.
struct Outlet {
    inboxes: Vec<Sender<Box<Chunk>>>,
    loads: Loads,
    pace: Arc<Pace>,
    /// By worker, then by topic.
    open: Vec<Vec<Option<Open>>>,
    /// Chunks that found an inbox full, by worker.
    outbox: Vec<VecDeque<Box<Chunk>>>,
    /// Whether anything is open.
    dirty: bool,
}

/// A chunk being filled, and its serial number.
type Open = (u64, Box<Chunk>);

/// Whose record it is.
#[derive(Clone, Copy)]
pub struct Owner {
    pub at: TopicPartition,
    pub shard: ShardIx,
    pub generation: Generation,
    pub token: Token,
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
            loads: Loads::new(inboxes.len(), limits.records_max),
            open: inboxes.iter().map(|_| slow.iter().map(|_| None).collect()).collect(),
            outbox: inboxes.iter().map(|_| VecDeque::new()).collect(),
            inboxes,
            dirty: false,
        };
        Dispatcher {
            outlets: inboxes.into_iter().zip(paces).map(outlet).collect(),
            limits,
            affinity,
            spares: Spares::default(),
            serial: 0,
            record_us: slow.iter().map(|slow| slow.then_some(0)).collect(),
        }
    }

    /// Hands a record to the worker of its lane.
    pub fn send(
        &mut self,
        owner: Owner,
        owned: &mut Owned,
        seq: u64,
        fetched_us: u64,
        raw: &RawRecord<'_>,
    ) -> Dispatched {
        let index = usize::from(lane_of(raw.key, raw.offset, owned.lanes.len() as u16));
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
            // Cut like every other chunk: once released, each of them is a batch, and batches are bounded.
            if chunks.last().is_none_or(|chunk| self.limits.reached(chunk)) {
                let mut chunk = self.spares.take(owner.at.topic);
                chunk.open_run(owner.at, index as u16, owner.generation, owner.token, expected);
                chunks.push(chunk);
            }
            chunks.last_mut().expect("just made sure").push(0, seq, fetched_us, raw);
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
        let worker = usize::from(lane.worker);
        let open = &mut outlet.open[worker][usize::from(owner.at.topic.0)];
        let (serial, chunk) = open.get_or_insert_with(|| {
            self.serial += 1;
            (self.serial, self.spares.take(owner.at.topic))
        });
        if lane.run.0 != *serial {
            let run = chunk.open_run(owner.at, index as u16, owner.generation, owner.token, expected);
            lane.run = (*serial, run);
        }
        chunk.push(lane.run.1, seq, fetched_us, raw);
        lane.sent = raw.offset.next();
        lane.in_flight += 1;
        outlet.loads.add(worker, 1);
        outlet.dirty = true;
        if self.limits.reached(chunk) {
            let (_, chunk) = open.take().expect("just filled");
            outlet.deliver(worker, chunk);
        }
        Dispatched::Sent
    }

    /// A lane became empty: what was held of it goes to the worker with most room. Returns how many records that were.
    pub fn release(&mut self, owner: Owner, owned: &mut Owned, lane: u16) -> usize {
        let state = &mut owned.lanes[usize::from(lane)];
        let Some(held) = state.held.take() else { return 0 };
        let chunks = std::mem::take(&mut owned.held[held as usize]);
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        let pack = pack(self.record_us[usize::from(owner.at.topic.0)]);
        let worker = outlet.loads.choose(pack, outlet.pace.connections());
        let records = chunks.iter().map(|chunk| chunk.len()).sum();
        state.worker = worker as u16;
        state.in_flight = records as u32;
        outlet.loads.add(worker, records);
        chunks.into_iter().for_each(|chunk| outlet.deliver(worker, chunk));
        records
    }

    /// Sends what is open to the workers.
    pub fn flush(&mut self) -> Result<(), WorkerGone> {
        for outlet in &mut self.outlets {
            if std::mem::take(&mut outlet.dirty) {
                for worker in 0..outlet.inboxes.len() {
                    for topic in 0..outlet.open[worker].len() {
                        if let Some((_, chunk)) = outlet.open[worker][topic].take() {
                            outlet.deliver(worker, chunk);
                        }
                    }
                }
            }
            for worker in 0..outlet.inboxes.len() {
                outlet.empty_outbox(worker)?;
            }
        }
        Ok(())
    }

    /// Notes that a worker is done with chunks.
    pub fn returned(&mut self, shard: ShardIx, worker: u16, chunks: &[Box<Chunk>], took_us: u64) {
        let records: usize = chunks.iter().map(|c| c.len()).sum();
        self.outlets[usize::from(shard.0)].loads.remove(usize::from(worker), records);
        if let (Some(topic), true) = (chunks.first().map(|c| c.topic), records > 0)
            && let Some(average) = &mut self.record_us[usize::from(topic.0)]
        {
            // Slowly up and down, so that one odd batch does not scatter the load.
            *average = (*average * 7 + took_us / records as u64) / 8;
        }
    }

    /// Keeps a chunk for reuse.
    pub fn recycle(&mut self, chunk: Box<Chunk>) {
        self.spares.keep(chunk);
    }

    /// A chunk for records that cannot be sent yet.
    pub fn spare(&mut self, topic: TopicIx) -> Box<Chunk> {
        self.spares.take(topic)
    }

    /// What one chunk may hold.
    pub fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Records at all workers.
    pub fn in_flight(&self) -> usize {
        self.outlets.iter().map(|o| o.loads.total()).sum()
    }

    /// Whether every shard's workers have as much as is good for them: then more would only wait here.
    pub fn congested(&self) -> bool {
        let enough = |o: &Outlet| (o.pace.connections() * self.limits.records_max * BATCHES_QUEUED).min(o.pace.ahead());
        let full = |o: &Outlet| o.loads.total() >= enough(o);
        self.outlets.iter().all(full)
    }
}

/// Batches per worker, being written and waiting, beyond which fetching more is of no use.
const BATCHES_QUEUED: usize = 3;

impl Outlet {
    fn deliver(&mut self, worker: usize, chunk: Box<Chunk>) {
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
    use crate::types::{NextOffset, Offset};
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
        let taken = Taken { origin: NextOffset(0), done: NextOffset(0), created: true, fences: vec![NextOffset(0); 2] };
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
                self.dispatcher.send(OWNER, &mut self.owned, offset.0 as u64, 0, &raw)
            };
            (0..n).map(|_| one()).collect()
        }

        /// What a worker got.
        fn got(&mut self, worker: usize) -> Vec<Box<Chunk>> {
            self.dispatcher.flush().unwrap();
            self.inboxes[worker].try_iter().collect()
        }
    }

    fn key_of(lane: u16) -> String {
        (0..).map(|n| format!("key{n}")).find(|k| lane_of(Some(k.as_bytes()), Offset(0), 2) == lane).expect("some key")
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
    fn a_held_lane_is_released_in_chunks_of_a_batch() {
        let mut bench = bench();
        let (hot, other) = (key_of(0), key_of(1));
        bench.send(&other, 1);
        bench.send(&hot, 30);
        assert_eq!(bench.send(&other, 34)[0], Dispatched::Held, "its worker has 30 more than the idle one without it");
        let first = bench.got(0);
        bench.dispatcher.returned(ShardIx(0), 0, &first, 0);
        let released = bench.dispatcher.release(OWNER, &mut bench.owned, 1);
        let lane = bench.owned.lanes[1];
        assert_eq!((released, lane.in_flight, lane.held), (34, 34, None));
        let chunks: Vec<Box<Chunk>> = (0..2).flat_map(|worker| bench.got(worker)).collect();
        assert_eq!(chunks.iter().map(|c| c.len()).collect::<Vec<_>>(), [10, 10, 10, 4]);
        let runs: Vec<_> = chunks.iter().flat_map(|c| &c.runs).collect();
        assert!(
            runs.windows(2).all(|w| w[0].next == w[1].expected),
            "each begins where the one before it ends: {runs:?}"
        );
        assert_eq!(runs.last().map(|r| r.next), Some(lane.sent));
        assert!(bench.owned.held.iter().all(Vec::is_empty));
    }
}
