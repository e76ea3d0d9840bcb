//! One connection of a measurement: makes records, and writes them as a worker does, until its time is over.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Statement;

use crate::bench::workload::Workload;
use crate::engine::Stopper;
use crate::planner::PlanError;
use crate::planner::measure::Bounds;
use crate::planner::measure::scratch::Scratch;
use crate::sink::connect::Opened;
use crate::sink::fence::{self, Found};
use crate::sink::plan::TablePlan;
use crate::sink::sqlstate;
use crate::sink::table::TableWriter;
use crate::sink::writer::FenceArrays;
use crate::state::batch::{Batch, LaneMove};
use crate::state::chunk::{Chunk, RawRecord};
use crate::state::router::{key_hash, lane_of};
use crate::state::spares::Spares;
use crate::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// What is to be done at a point.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub batch: usize,
    pub warm_up: Duration,
    pub time: Duration,
    /// Of all connections.
    pub rows_max: u64,
}

/// What a connection has done, in rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Within the time that counts.
    pub rows: u64,
    pub seconds: f64,
    /// With the warm-up.
    pub all: u64,
}

impl Done {
    pub fn rows_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.rows as f64 / self.seconds } else { 0.0 }
    }
}

/// See the module's text.
pub struct Probe {
    shard: String,
    /// The server's process at the other end.
    pub pid: Option<i32>,
    /// Taken by `drop` alone.
    opened: Option<Opened>,
    /// Prepared with the first batch, by which the statement's text is known.
    statement: Option<Statement>,
    schema: String,
    source: i32,
    token: Token,
    workload: Workload,
    partitions: usize,
    lanes: u16,
    /// Which of the lanes are its own: those whose number, modulo so many connections, is its.
    mine: (usize, usize),
    /// The rows in these lanes, by partition, in an order of its own; empty until they are looked for.
    rows: Vec<Vec<u64>>,
    /// The next one of each partition.
    next_row: Vec<usize>,
    /// The partition that the last batch was of.
    partition: usize,
    next_record: u64,
    rng: fastrand::Rng,
    table: TableWriter,
    batch: Batch,
    spares: Spares,
    moves: Vec<LaneMove>,
    fences: FenceArrays,
    /// By partition and lane.
    fence_at: Vec<NextOffset>,
    key: String,
    value: String,
}

impl Probe {
    pub fn new(
        scratch: &Scratch,
        mut opened: Opened,
        plan: Arc<TablePlan>,
        bounds: &Bounds,
        number: usize,
    ) -> Result<Probe, PlanError> {
        // As a worker's session.
        let set = opened.client.batch_execute("SET enable_seqscan = off; SET jit = off");
        set.map_err(|error| PlanError::of_shard(scratch.shard(), &sqlstate::failure(&error)))?;
        let padded = bounds.record_bytes.saturating_sub(KEY_BYTES);
        let workload = Workload {
            keys: bounds.rows,
            tenants: (bounds.rows / 1000).max(1),
            value_bytes: (padded > 0).then_some(padded),
            ..Workload::default()
        };
        Ok(Probe {
            shard: scratch.shard().to_owned(),
            pid: opened.pid,
            opened: Some(opened),
            statement: None,
            schema: scratch.schema().to_owned(),
            source: scratch.source,
            token: Token(scratch.token),
            workload,
            partitions: bounds.partitions,
            lanes: bounds.lanes,
            mine: (0, 1),
            rows: Vec::new(),
            next_row: Vec::new(),
            partition: number,
            next_record: number as u64 * 1_000_000_007,
            rng: fastrand::Rng::with_seed(number as u64),
            table: TableWriter::new(plan),
            batch: Batch::new(),
            spares: Spares::default(),
            moves: Vec::new(),
            fences: FenceArrays::default(),
            fence_at: Vec::new(),
            key: String::new(),
            value: String::new(),
        })
    }

    /// Which part of the lanes is its own from now on: fences are read anew, because others may have moved them.
    pub fn share(&mut self, number: usize, of: usize) {
        self.mine = (number, of);
        self.rows.clear();
        self.fence_at.clear();
    }

    /// Writes until the time is over.
    pub fn run(&mut self, work: Work, connections: usize, stopper: &Stopper) -> Result<Done, PlanError> {
        let began = Instant::now();
        let mut done = Done::default();
        let mut counted: Option<Instant> = None;
        let most = work.rows_max / connections as u64;
        while !stopper.is_stopped() && began.elapsed() < work.warm_up + work.time {
            // One batch in any case, so that there is something to be told.
            if done.all > 0 && done.all + work.batch as u64 > most {
                break;
            }
            self.fill(work.batch)?;
            let rows = self.write_batch()?;
            done.all += rows;
            match counted {
                Some(since) => {
                    done.rows += rows;
                    done.seconds = since.elapsed().as_secs_f64();
                }
                None if began.elapsed() >= work.warm_up => counted = Some(Instant::now()),
                None => {}
            }
        }
        Ok(done)
    }

    /// For the session.
    pub fn set(&mut self, sql: &str) -> Result<(), PlanError> {
        self.client().batch_execute(sql).map_err(|error| self.failed(&error))
    }

    /// These rows, once each.
    pub fn write(&mut self, keys: Range<u64>) -> Result<(), PlanError> {
        let mut chunk = self.spares.take(TopicIx(0));
        let mut runs = Vec::new();
        for key in keys {
            self.push(key, key, &mut chunk, &mut runs)?;
        }
        self.batch.push(chunk);
        self.write_batch().map(|_| ())
    }

    /// A batch of records of its own lanes, all of one partition, the next one: an engine with a backlog gets records as they lie
    /// in the log, many of one partition before any of the next, and so has few fences to move in a transaction.
    fn fill(&mut self, records: usize) -> Result<(), PlanError> {
        if self.rows.is_empty() {
            self.find_rows();
        }
        let mut others = (1..=self.partitions).map(|step| (self.partition + step) % self.partitions);
        let Some(partition) = others.find(|partition| !self.rows[*partition].is_empty()) else {
            return Err(PlanError::Failed("too few rows for so many connections: --probe-rows".to_owned()));
        };
        self.partition = partition;
        let mut chunk = self.spares.take(TopicIx(0));
        let mut runs = Vec::new();
        for _ in 0..records {
            let (rows, next) = (&self.rows[partition], &mut self.next_row[partition]);
            let (key, n) = (rows[*next % rows.len()], self.next_record);
            *next = (*next + 1) % rows.len();
            self.next_record += 1;
            self.push(key, n, &mut chunk, &mut runs)?;
        }
        self.batch.push(chunk);
        Ok(())
    }

    fn find_rows(&mut self) {
        self.rows = vec![Vec::new(); self.partitions];
        for key in 0..self.workload.keys {
            self.workload.write_key_of(key, &mut self.key);
            let place = self.place();
            if place % self.mine.1 == self.mine.0 {
                self.rows[place / usize::from(self.lanes)].push(key);
            }
        }
        self.next_row = vec![0; self.partitions];
        self.rows.iter_mut().for_each(|rows| self.rng.shuffle(rows));
    }

    fn place(&self) -> usize {
        let hash = key_hash(Some(self.key.as_bytes()), Offset(0));
        let lane = usize::from(lane_of(hash, self.lanes));
        // Another part of the hash than the lane's.
        let partition = (hash as u64 >> 32) as usize % self.partitions;
        partition * usize::from(self.lanes) + lane
    }

    /// Record `n`, made one of a row, behind those of its lane.
    fn push(&mut self, row: u64, n: u64, chunk: &mut Chunk, runs: &mut Vec<(usize, u32)>) -> Result<(), PlanError> {
        self.workload.write_key_of(row, &mut self.key);
        self.workload.write_row_of(row, n, &mut self.value);
        if self.fence_at.is_empty() {
            self.read_fences()?;
        }
        let place = self.place();
        let run = match runs.iter().find(|(known, _)| *known == place) {
            Some((_, run)) => *run,
            None => {
                let (partition, lane) = (place / usize::from(self.lanes), place % usize::from(self.lanes));
                let at = TopicPartition { topic: TopicIx(0), partition: partition as i32 };
                let run = chunk.open_run(at, lane as u16, Generation(1), self.token, self.fence_at[place]);
                runs.push((place, run));
                run
            }
        };
        let offset = Offset(chunk.runs[run as usize].next.0);
        let (key, value) = (Some(self.key.as_bytes()), Some(self.value.as_bytes()));
        let record = RawRecord { offset, timestamp_ms: -1, key, value, headers: &[] };
        chunk.push_hashed(run, 0, 0, record.key_hash(), &record, &mut self.spares.blocks);
        Ok(())
    }

    fn read_fences(&mut self) -> Result<(), PlanError> {
        let sql = format!("SELECT next_offset FROM {}.fence ORDER BY partition, lane", self.schema);
        let rows = self.client().query_typed(&sql, &[]).map_err(|error| self.failed(&error))?;
        self.fence_at = rows.iter().map(|row| NextOffset(row.get(0))).collect();
        Ok(())
    }

    fn client(&mut self) -> &mut postgres::Client {
        &mut self.opened.as_mut().expect("it is there until it is dropped").client
    }

    fn failed(&self, error: &postgres::Error) -> PlanError {
        PlanError::of_shard(&self.shard, &sqlstate::failure(error))
    }

    /// One transaction, in one round trip: the statement that a worker sends, with the fences of another schema. Answers how many rows.
    fn write_batch(&mut self) -> Result<u64, PlanError> {
        let mut bad = Vec::new();
        let records = self.batch.len();
        self.table.load(&self.batch, 0..records, &mut bad);
        if let Some(bad) = bad.first() {
            return Err(PlanError::Failed(format!("a record of the measurement's own: {}", bad.reason)));
        }
        self.batch.moves(records, &mut self.moves);
        self.fences.fill(self.source, &self.moves);
        if self.statement.is_none() {
            let rows = self.table.sql(0, fence::BATCH_PARAMS + 1, Some(fence::CONDITION));
            let sql =
                fence::batch(Found::ByKey, &[&rows]).replace("forebay.fence ", &format!("{}.fence ", self.schema));
            let types = [&fence::batch_types()[..], &self.table.param_types(0)].concat();
            let prepared = self.client().prepare_typed(&sql, &types);
            self.statement = Some(prepared.map_err(|error| self.failed(&error))?);
        }
        let statement = self.statement.clone().expect("just prepared");
        let params = [&self.fences.params()[..], &self.table.params(0)].concat();
        let opened = self.opened.as_mut().expect("it is there until it is dropped");
        let row = opened.client.query_one(&statement, &params);
        let row = row.map_err(|error| PlanError::of_shard(&self.shard, &sqlstate::failure(&error)))?;
        if !self.fences.answer(&row) {
            return Err(PlanError::Failed("the measurement's fences are not where it left them".to_owned()));
        }
        for each in &self.moves {
            self.fence_at[each.partition as usize * usize::from(self.lanes) + usize::from(each.lane)] = each.next;
        }
        let (batch, spares) = (&mut self.batch, &mut self.spares);
        batch.take_chunks().into_iter().for_each(|chunk| spares.keep(chunk));
        Ok(self.table.counts().upserted.into())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.opened.take().into_iter().for_each(Opened::discard);
    }
}

/// Of a record's key: two UUIDs and what is between them.
const KEY_BYTES: usize = 73;
