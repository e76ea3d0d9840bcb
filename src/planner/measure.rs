//! `--measure`: what one database bears, found by writing to it for a while, bounded in time and in bytes. Everything is in a schema of
//! its own, `forebay_probe_…`, which is gone afterwards, also after SIGINT, a failure or a panic. Nobody is asked anything; what it will
//! write is said first.
//!
//! What is written is what a worker writes: JSON records, decoded and folded, one statement that moves the fences of their lanes and
//! upserts the rows, one transaction. Connections share lanes, and so rows, as workers do: none has a row of another. Sizes of batches
//! and numbers of connections are those of [`BATCHES`] and the powers of two; for each size, connections are doubled until two doublings
//! in a row gain less than a tenth: behind the knee, which one point alone, on a machine with others on it, might feign.
//!
//! Not measured: indexes, triggers and foreign keys of your tables, checkpoints and vacuums of a longer run, and others in the database.

mod scratch;
mod writer;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::progress::Progress;
use crate::bench::report::table::aligned;
use crate::config::{Config, Shard};
use crate::engine::Stopper;
use crate::planner::PlanError;
use crate::planner::rates::{Curves, KNEE_GAIN, Point, Rates};
use crate::words::{grouped, rate};

use scratch::Scratch;
use writer::{Probe, Work};

/// The sizes of batches that are measured.
pub const BATCHES: [usize; 4] = [1, 50, 500, 2000];
/// More connections are not tried.
const CONNECTIONS_MAX: usize = 64;
/// Each point's part of the time: shorter ones are noise.
const POINT_MIN: Duration = Duration::from_millis(300);
/// Points of one batch size that the time left is dealt out over, if its knee is not found before.
const POINTS_OF_A_BATCH: u32 = 6;
/// Before a point counts: statements are planned, and connections have found their pace.
const WARM_UP: f64 = 0.2;

/// How much may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub time: Duration,
    /// Of WAL, of everybody in the server meanwhile.
    pub wal_bytes: u64,
    /// Of the table.
    pub rows: u64,
    pub record_bytes: usize,
    /// Connections that the probe may open.
    pub connections: usize,
    /// Of the topic in this shard, and its lanes: so many fences there are.
    pub partitions: usize,
    pub lanes: u16,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    pub shard: String,
    pub points: Vec<Point>,
    /// Of transactions of one row, on one connection.
    pub commit_ms: f64,
    /// At the largest batches.
    pub wal_bytes_per_row: f64,
    pub wal_bytes: u64,
    pub seconds: f64,
    pub rows: u64,
    pub record_bytes: usize,
    /// A bound, or somebody, ended it before every point was measured.
    pub cut_short: bool,
}

impl Measured {
    /// # Errors
    /// [`PlanError::Failed`] where nothing was measured.
    pub fn rates(&self) -> Result<Rates, PlanError> {
        let curves = Curves::new(&self.points);
        curves.map(Rates::Measured).ok_or_else(|| PlanError::Failed("nothing was measured".to_owned()))
    }

    /// Rows a second by batch and connections.
    pub fn table(&self) -> String {
        let mut connections: Vec<usize> = self.points.iter().map(|point| point.connections).collect();
        connections.sort_unstable();
        connections.dedup();
        let heads = std::iter::once("  rows/s of batches of".to_owned());
        let heads = heads.chain(connections.iter().map(|n| format!("{n} conn."))).collect();
        let cell = |batch: usize, connections: usize| {
            let found = self.points.iter().find(|p| p.batch == batch && p.connections == connections);
            found.map_or("-".to_owned(), |point| rate(point.rows_per_s))
        };
        let row = |batch: &usize| {
            let head = std::iter::once(format!("  {}", grouped(*batch as u64)));
            head.chain(connections.iter().map(|n| cell(*batch, *n))).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<String>> = BATCHES.iter().map(row).collect();
        format!(
            "{}  a COMMIT of one row takes {:.2} ms; {:.0} bytes of WAL a row; {} rows of {} bytes, {:.0} s, {:.0} MiB of WAL{}\n",
            aligned(heads, rows),
            self.commit_ms,
            self.wal_bytes_per_row,
            grouped(self.rows),
            grouped(self.record_bytes as u64),
            self.seconds,
            self.wal_bytes as f64 / 1_048_576.0,
            if self.cut_short { "; CUT SHORT: not every point was measured" } else { "" }
        )
    }
}

/// What will be done, for whoever is about to see it done.
pub fn told(shard: &Shard, bounds: &Bounds) -> String {
    format!(
        "measuring at shard {}: writes into a schema forebay_probe_… of its own for {} s, with up to {} connections, {} rows of {} bytes and at most \
         {} MiB of WAL; it is removed afterwards, also after Ctrl-C",
        shard.name,
        bounds.time.as_secs(),
        bounds.connections,
        grouped(bounds.rows),
        grouped(bounds.record_bytes as u64),
        bounds.wal_bytes >> 20
    )
}

/// See the module's text.
///
/// # Errors
/// [`PlanError::Configuration`] for a replica, or a role that may not make a schema; [`PlanError::Unavailable`] for a database that does
/// not answer; [`PlanError::Interrupted`] if it was ended before the first point.
pub fn measure(config: &Config, shard: &Shard, bounds: Bounds, stopper: &Stopper) -> Result<Measured, PlanError> {
    let scratch = Scratch::create(shard, &config.kafka.group_id, &bounds)?;
    let result = Course::new(&scratch, bounds, stopper).and_then(|mut course| course.run(&shard.name));
    let removed = scratch.remove();
    let measured = result?;
    removed.map(|()| measured)
}

/// The points that were measured so far.
struct Course<'a> {
    scratch: &'a Scratch,
    bounds: Bounds,
    stopper: &'a Stopper,
    began: Instant,
    wal_began: u64,
    probes: Vec<Probe>,
    points: Vec<Point>,
}

impl<'a> Course<'a> {
    fn new(scratch: &'a Scratch, bounds: Bounds, stopper: &'a Stopper) -> Result<Course<'a>, PlanError> {
        let wal_began = scratch.wal()?;
        Ok(Course {
            scratch,
            bounds,
            stopper,
            began: Instant::now(),
            wal_began,
            probes: Vec::new(),
            points: Vec::new(),
        })
    }

    fn run(&mut self, shard: &str) -> Result<Measured, PlanError> {
        let mut progress = Progress::new("measuring", self.bounds.time.as_secs(), "s");
        self.fill()?;
        let mut wal_bytes_per_row = 0.0;
        // The largest first: where time or bytes are used up early, the small ones, which say least, are missing. A COMMIT by itself is
        // wanted in any case.
        self.point(1, 1, self.time_of(4, 0))?;
        for (done, batch) in [500, 2000, 50, 1].into_iter().enumerate() {
            let (mut best, mut in_vain) = (0.0, 0);
            for doubling in 0..=CONNECTIONS_MAX.ilog2() {
                let connections = 1 << doubling;
                if connections > self.bounds.connections || self.is_over() {
                    break;
                }
                progress.show(self.began.elapsed().as_secs(), &format!(", {connections} × batches of {batch}"));
                let known = self.points.iter().find(|p| p.batch == batch && p.connections == connections).copied();
                let (rows_per_s, wal_per_row) = match known {
                    Some(point) => (point.rows_per_s, 0.0),
                    None => self.point(batch, connections, self.time_of(4 - done as u32, doubling))?,
                };
                if batch == 500 && connections == 1 {
                    wal_bytes_per_row = wal_per_row;
                }
                in_vain = if rows_per_s < best * KNEE_GAIN { in_vain + 1 } else { 0 };
                best = rows_per_s.max(best);
                if in_vain == 2 {
                    break;
                }
            }
        }
        let commit = self.points.iter().find(|point| point.batch == 1 && point.connections == 1);
        let Some(commit) = commit else { return Err(PlanError::Interrupted) };
        Ok(Measured {
            shard: shard.to_owned(),
            commit_ms: 1e3 / commit.rows_per_s,
            wal_bytes_per_row,
            wal_bytes: self.scratch.wal()?.saturating_sub(self.wal_began),
            seconds: self.began.elapsed().as_secs_f64(),
            rows: self.bounds.rows,
            record_bytes: self.bounds.record_bytes,
            cut_short: self.is_over() || BATCHES.iter().any(|batch| !self.points.iter().any(|p| p.batch == *batch)),
            points: self.points.clone(),
        })
    }

    /// What a point may take: its part of what is left, with so many sizes to go and so many of this one's points measured.
    fn time_of(&self, sizes: u32, measured: u32) -> Duration {
        let points = (sizes * POINTS_OF_A_BATCH).saturating_sub(measured).max(1);
        let left = self.bounds.time.saturating_sub(self.began.elapsed());
        (left / points).div_f64(1.0 + WARM_UP).max(POINT_MIN)
    }

    /// Every row is there before anything counts: inserts and updates are not the same.
    fn fill(&mut self) -> Result<(), PlanError> {
        self.connections(1)?;
        let (rows, stopper) = (self.bounds.rows, self.stopper);
        let until = self.began + self.bounds.time / 2;
        let probe = &mut self.probes[0];
        probe.share(0, 1);
        let mut first = 0;
        while first < rows {
            if stopper.is_stopped() {
                return Err(PlanError::Interrupted);
            }
            if Instant::now() > until {
                let found = format!("{} rows in half of the time", grouped(first));
                return Err(PlanError::Failed(format!(
                    "{found}; expected {} before the first point: give it more time (--probe-time) or fewer rows (--probe-rows)",
                    grouped(rows)
                )));
            }
            let last = (first + 1000).min(rows);
            probe.write(first..last)?;
            first = last;
        }
        self.scratch.analyze()
    }

    fn connections(&mut self, number: usize) -> Result<(), PlanError> {
        while self.probes.len() < number {
            self.probes.push(self.scratch.probe(&self.bounds, self.probes.len())?);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let wal = self.scratch.wal().map_or(u64::MAX, |wal| wal.saturating_sub(self.wal_began));
        self.stopper.is_stopped() || self.began.elapsed() >= self.bounds.time || wal >= self.bounds.wal_bytes
    }

    /// Rows a second, and bytes of WAL for each. Measured, and noted.
    fn point(&mut self, batch: usize, connections: usize, each: Duration) -> Result<(f64, f64), PlanError> {
        self.connections(connections)?;
        let left = self.bounds.wal_bytes.saturating_sub(self.scratch.wal()?.saturating_sub(self.wal_began));
        // A row of WAL is larger than its record; what a point may write is not known before, so it is stopped by what it has.
        let work = Work {
            batch,
            warm_up: each.mul_f64(WARM_UP),
            time: each,
            records_max: left / self.bounds.record_bytes.max(64) as u64,
        };
        let wal = self.scratch.wal()?;
        let probes = &mut self.probes[..connections];
        probes.iter_mut().enumerate().for_each(|(i, probe)| probe.share(i, connections));
        let stopper = self.stopper;
        let done: Vec<_> = std::thread::scope(|scope| {
            let run = |probe: &'_ mut Probe| probe.run(work, connections, stopper);
            let started: Vec<_> = probes.iter_mut().map(|probe| scope.spawn(move || run(probe))).collect();
            started.into_iter().map(|thread| thread.join().expect("a probe does not panic")).collect()
        });
        let done = done.into_iter().collect::<Result<Vec<_>, PlanError>>()?;
        if stopper.is_stopped() {
            return Err(PlanError::Interrupted);
        }
        let rows_per_s: f64 = done.iter().map(|each| each.rows_per_s()).sum();
        let records: u64 = done.iter().map(|each| each.all).sum();
        if rows_per_s > 0.0 {
            self.points.push(Point { batch, connections, rows_per_s });
        }
        let wal = self.scratch.wal()?.saturating_sub(wal) as f64;
        Ok((rows_per_s, wal / records.max(1) as f64))
    }
}
