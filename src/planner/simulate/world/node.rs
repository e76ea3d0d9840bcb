//! One process's part in one shard: the engine's dispatcher, and workers that take what it hands out.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use super::part::Part;
use crate::config::Affinity;
use crate::engine::dispatch::{Dispatcher, Owner, Received};
use crate::engine::pace::Pace;
use crate::engine::worker::BatchLimits;
use crate::state::chunk::{Chunk, RawRecord};
use crate::types::{ShardIx, Token};

/// Nobody contests it.
const TOKEN: Token = Token(1);
/// The dispatcher knows of one shard.
const SHARD: ShardIx = ShardIx(0);

#[derive(Default)]
struct Worker {
    /// Being written; none: it idles.
    batch: Vec<Box<Chunk>>,
    /// It did not fit any more.
    carry: Option<Box<Chunk>>,
    began_us: u64,
}

/// See the module's text.
pub struct Node {
    dispatcher: Dispatcher,
    inboxes: Vec<Receiver<Box<Chunk>>>,
    workers: Vec<Worker>,
    limits: BatchLimits,
    /// Simulated records between taken and durable.
    unfinished: usize,
}

impl Node {
    pub fn new(workers: usize, limits: BatchLimits, affinity: Affinity) -> Node {
        let (senders, inboxes) = (0..workers).map(|_| unbounded()).unzip();
        let pace = Arc::new(Pace::unlimited(workers, 1));
        Node {
            dispatcher: Dispatcher::new(vec![senders], &[pace], limits, affinity, &[false]),
            inboxes,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            limits,
            unfinished: 0,
        }
    }

    /// Whether more would only wait here: the engine fetches nothing while all of its shards have enough.
    pub fn is_congested(&self) -> bool {
        self.dispatcher.congested(|| self.unfinished)
    }

    pub fn idles(&self) -> bool {
        self.workers.iter().any(|worker| worker.batch.is_empty())
    }

    /// Takes what a partition has room for, at most so many; answers how many.
    pub fn take(&mut self, part: &mut Part, now_us: u64, at_most: usize) -> usize {
        let owner = Owner { at: part.at, shard: SHARD, generation: part.generation, token: TOKEN };
        self.dispatcher.set_now(now_us);
        let mut taken = 0;
        while taken < at_most
            && let Some((unit, offset, seq)) = part.fetch()
        {
            let raw = RawRecord { offset, timestamp_ms: -1, key: None, value: None, headers: &[] };
            let received = Received { seq, fetched_us: now_us, hash: unit.hash };
            self.dispatcher.send(owner, &mut part.owned, received, &raw, None);
            taken += 1;
        }
        self.unfinished += taken;
        taken
    }

    /// Workers that idle take a batch, as the engine's do: what has come, up to the limit. Who has one now.
    pub fn begin(&mut self, now_us: u64) -> Vec<usize> {
        self.dispatcher.set_now(now_us);
        if self.dispatcher.flush(Duration::from_micros(now_us)).is_err() {
            unreachable!("the workers' inboxes are kept");
        }
        let mut begun = Vec::new();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            if !worker.batch.is_empty() {
                continue;
            }
            let mut records = 0;
            while let Some(chunk) = worker.carry.take().or_else(|| self.inboxes[index].try_recv().ok()) {
                if records > 0 && records + chunk.len() > self.limits.records_max {
                    worker.carry = Some(chunk);
                    break;
                }
                records += chunk.len();
                worker.batch.push(chunk);
            }
            if records > 0 {
                worker.began_us = now_us;
                begun.push(index);
            }
        }
        begun
    }

    /// Simulated records of the batch that a worker has.
    pub fn batch_len(&self, worker: usize) -> usize {
        self.workers[worker].batch.iter().map(|chunk| chunk.len()).sum()
    }

    /// A worker's batch is durable. Answers the partitions that it had records of.
    pub fn end(&mut self, worker: usize, partitions: &mut [Part], now_us: u64) -> Vec<usize> {
        let chunks = std::mem::take(&mut self.workers[worker].batch);
        let took_us = now_us - self.workers[worker].began_us;
        self.dispatcher.set_now(now_us);
        self.unfinished -= chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        self.dispatcher.returned(SHARD, worker as u16, &chunks, 0, took_us);
        let mut touched = Vec::new();
        for chunk in chunks {
            for record in &chunk.records {
                let partition = chunk.runs[record.run as usize].partition as usize;
                partitions[partition].tracker.complete(record.seq, record.offset);
            }
            for run in &chunk.runs {
                let partition = run.partition as usize;
                let part = &mut partitions[partition];
                let owner = Owner { at: part.at, shard: SHARD, generation: part.generation, token: TOKEN };
                let lane = &mut part.owned.lanes[usize::from(run.lane)];
                lane.in_flight -= run.records;
                lane.acked = lane.acked.max(run.next);
                if lane.in_flight == 0 && lane.held.is_some() {
                    self.dispatcher.release(owner, &mut part.owned, run.lane);
                }
                if !touched.contains(&partition) {
                    touched.push(partition);
                }
            }
            self.dispatcher.recycle(chunk);
        }
        touched
    }
}
