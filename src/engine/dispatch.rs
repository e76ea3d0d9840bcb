//! From a routed record to a worker's inbox: the hot path. No allocation, no lock and no clock per record; chunks come back
//! with their completions and are used again.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use crate::config::Affinity;
use crate::engine::partition::Owned;
use crate::engine::worker::BatchLimits;
use crate::state::chunk::{Chunk, RawRecord};
use crate::state::lane::Loads;
use crate::state::router::lane_of;
use crate::types::{Generation, ShardIx, Token, TopicIx, TopicPartition};

/// Emptied chunks kept for reuse.
const SPARE_CHUNKS_MAX: usize = 256;

/// How much work of slow handlers a worker may have and still be preferred to an idle one.
const PACK_TIME: Duration = Duration::from_millis(5);

/// See the module's text.
pub struct Dispatcher {
    outlets: Vec<Outlet>,
    limits: BatchLimits,
    affinity: Affinity,
    spare: Vec<Box<Chunk>>,
    /// Serial number of the chunk opened last; 0 is no chunk.
    serial: u64,
    /// By topic: what a record takes, where records may be slow (handlers); `None` for tables.
    record_us: Vec<Option<u64>>,
}

/// The workers of one shard.
struct Outlet {
    inboxes: Vec<Sender<Box<Chunk>>>,
    loads: Loads,
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
    /// `slow` says by topic whether its records may take long (handlers).
    pub fn new(
        inboxes: Vec<Vec<Sender<Box<Chunk>>>>,
        limits: BatchLimits,
        affinity: Affinity,
        slow: &[bool],
    ) -> Dispatcher {
        let outlet = |inboxes: Vec<Sender<Box<Chunk>>>| Outlet {
            loads: Loads::new(inboxes.len(), limits.records_max),
            open: inboxes.iter().map(|_| slow.iter().map(|_| None).collect()).collect(),
            outbox: inboxes.iter().map(|_| VecDeque::new()).collect(),
            inboxes,
            dirty: false,
        };
        Dispatcher {
            outlets: inboxes.into_iter().map(outlet).collect(),
            limits,
            affinity,
            spare: Vec::new(),
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
        if let Some(held) = lane.held {
            let chunk = owned.held[held as usize].as_mut().expect("a held lane has its chunk");
            chunk.push(0, seq, fetched_us, raw);
            lane.sent = raw.offset.next();
            return Dispatched::Held;
        }
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        if lane.in_flight == 0 {
            lane.worker = match self.affinity {
                Affinity::Static => (index % outlet.inboxes.len()) as u16,
                Affinity::Late => outlet.loads.choose(pack(self.record_us[usize::from(owner.at.topic.0)])) as u16,
            };
        } else if self.affinity == Affinity::Late && outlet.loads.uneven(usize::from(lane.worker)) {
            let mut chunk = take_spare(&mut self.spare, owner.at.topic);
            let run = chunk.open_run(owner.at, index as u16, owner.generation, owner.token, expected);
            chunk.push(run, seq, fetched_us, raw);
            lane.sent = raw.offset.next();
            lane.held = Some(hold(&mut owned.held, chunk));
            return Dispatched::Held;
        }
        let worker = usize::from(lane.worker);
        let open = &mut outlet.open[worker][usize::from(owner.at.topic.0)];
        let (serial, chunk) = open.get_or_insert_with(|| {
            self.serial += 1;
            (self.serial, take_spare(&mut self.spare, owner.at.topic))
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
        if chunk.len() >= self.limits.records_max || chunk.bytes() >= self.limits.bytes_max {
            let (_, chunk) = open.take().expect("just filled");
            outlet.deliver(worker, chunk);
        }
        Dispatched::Sent
    }

    /// A lane became empty: what was held of it goes to the worker with most room. Returns how many records that were.
    pub fn release(&mut self, owner: Owner, owned: &mut Owned, lane: u16) -> usize {
        let state = &mut owned.lanes[usize::from(lane)];
        let Some(held) = state.held.take() else { return 0 };
        let chunk = owned.held[held as usize].take().expect("a held lane has its chunk");
        let outlet = &mut self.outlets[usize::from(owner.shard.0)];
        let worker = outlet.loads.choose(pack(self.record_us[usize::from(owner.at.topic.0)]));
        let records = chunk.len();
        state.worker = worker as u16;
        state.in_flight = records as u32;
        outlet.loads.add(worker, records);
        outlet.deliver(worker, chunk);
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
        if self.spare.len() < SPARE_CHUNKS_MAX {
            self.spare.push(chunk);
        }
    }

    /// A chunk for records that cannot be sent yet.
    pub fn spare(&mut self, topic: TopicIx) -> Box<Chunk> {
        take_spare(&mut self.spare, topic)
    }

    /// Records at all workers.
    pub fn in_flight(&self) -> usize {
        self.outlets.iter().map(|o| o.loads.total()).sum()
    }

    /// Whether every shard's workers have as much as is good for them: then more would only wait here.
    pub fn congested(&self) -> bool {
        let full = |o: &Outlet| o.loads.total() >= o.inboxes.len() * self.limits.records_max * BATCHES_QUEUED;
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

fn take_spare(spare: &mut Vec<Box<Chunk>>, topic: TopicIx) -> Box<Chunk> {
    match spare.pop() {
        Some(mut chunk) => {
            chunk.reset(topic);
            chunk
        }
        None => Box::new(Chunk::new(topic)),
    }
}

fn hold(held: &mut Vec<Option<Box<Chunk>>>, chunk: Box<Chunk>) -> u32 {
    let free = held.iter().position(Option::is_none).unwrap_or_else(|| {
        held.push(None);
        held.len() - 1
    });
    held[free] = Some(chunk);
    free as u32
}
