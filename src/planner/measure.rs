//! `--measure`: what one database bears, found by writing to it for a while, bounded in time and in bytes. Everything is in a schema of
//! its own, `forebay_probe_…`, which is gone afterwards, also after SIGINT, a failure or a panic. Nobody is asked anything; what it will
//! write is said first.
//!
//! What is written is what a worker writes: JSON records, decoded and folded, one statement that moves the fences of their lanes and
//! upserts the rows, one transaction. Connections share lanes, and so rows, as workers do: none has a row of another. Sizes of batches
//! and numbers of connections are those of [`BATCHES`] and the powers of two; for each size, connections are doubled until two doublings
//! in a row gain less than a tenth: behind the knee, which one point alone, on a machine with others on it, might feign. A connection walks
//! through its rows in an order of its own, none twice in a batch, and what counts are rows, as the statement has them: records of the same
//! row become one.
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
use crate::words::{MIB, grouped, rate};

use scratch::Scratch;
use writer::{Probe, Work};

/// The sizes of batches that are measured.
pub const BATCHES: [usize; 4] = [500, 2000, 50, 1];
/// More connections are not tried.
const CONNECTIONS_MAX: usize = 64;
/// Each point's part of the time: shorter ones are noise.
const POINT_MIN: Duration = Duration::from_millis(300);
/// Points of one batch size that the time left is dealt out over, if its knee is not found before.
const POINTS_OF_A_BATCH: u32 = 6;
/// Before a point counts: statements are planned, and connections have found their pace.
const WARM_UP: f64 = 0.2;
/// A connection that has fewer batches of rows of a partition would write the same few rows all the time.
const BATCHES_OF_ROWS: u64 = 2;
/// How often it is looked at, during a point, how much WAL there is, and whether somebody wants an end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A transaction that has no answer for so long behind its point's end is given up: its COMMIT may wait for a standby that is away, which
/// no time-out of PostgreSQL's ends.
const PATIENCE: Duration = Duration::from_secs(15);
/// Rows of a statement that fills the table.
const FILL: usize = 1000;

/// How much may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub time: Duration,
    /// Of WAL, of everybody in the server meanwhile.
    pub wal_bytes: u64,
    /// Of the table.
    pub rows: u64,
    pub record_bytes: usize,
    /// The setting: no larger is a batch.
    pub batch_bytes_max: usize,
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
    /// At the first batches.
    pub wal_bytes_per_row: f64,
    pub wal_bytes: u64,
    pub seconds: f64,
    pub rows: u64,
    pub record_bytes: usize,
    /// A bound, or somebody, ended it before every point was measured.
    pub cut_short: bool,
    /// What failed behind the points that there are.
    pub failed: Option<String>,
}

impl Bounds {
    /// The sizes of batches, the largest first: where time or bytes are used up early, the small ones, which say least, are missing.
    fn batches(&self) -> Vec<usize> {
        let mut batches: Vec<usize> = BATCHES.into_iter().map(|batch| batch.min(self.batch_max())).collect();
        batches.dedup();
        batches
    }

    /// As many records as `batch_bytes_max` lets a batch have.
    fn batch_max(&self) -> usize {
        (self.batch_bytes_max / self.record_bytes.max(1)).max(1)
    }

    /// Whether each of so many connections has rows enough of its own for such batches: none has a row of another, and none writes a row
    /// twice in a batch.
    fn has_rows_for(&self, batch: usize, connections: usize) -> bool {
        self.rows / (self.partitions * connections) as u64 >= BATCHES_OF_ROWS * batch as u64
    }
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
        let mut batches: Vec<usize> = self.points.iter().map(|point| point.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let rows: Vec<Vec<String>> = batches.iter().map(row).collect();
        format!(
            "{}  a COMMIT of one row takes {:.2} ms; {:.0} bytes of WAL a row; {} rows of {} bytes, {:.0} s, {:.0} MiB of WAL{}\n",
            aligned(heads, rows),
            self.commit_ms,
            self.wal_bytes_per_row,
            grouped(self.rows),
            grouped(self.record_bytes as u64),
            self.seconds,
            self.wal_bytes as f64 / MIB,
            match (&self.failed, self.cut_short) {
                (Some(why), _) => format!("; CUT SHORT: {why}"),
                (None, true) =>
                    "; time or WAL was used up, or it was ended: points with a - were not measured".to_owned(),
                (None, false) => String::new(),
            }
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
    /// The most that was seen.
    wal_per_row: f64,
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
            wal_per_row: 0.0,
            probes: Vec::new(),
            points: Vec::new(),
        })
    }

    fn run(&mut self, shard: &str) -> Result<Measured, PlanError> {
        let mut progress = Progress::new("measuring", self.bounds.time.as_secs(), "s");
        self.fill()?;
        // A COMMIT by itself is wanted in any case.
        let (_, mut wal_bytes_per_row) = self.point(1, 1, self.time_of(4, 0))?;
        let Some(commit_ms) = self.points.first().map(|point| 1e3 / point.rows_per_s) else {
            return Err(if self.stopper.is_stopped() {
                PlanError::Interrupted
            } else {
                let mib = self.bounds.wal_bytes >> 20;
                PlanError::Failed(format!(
                    "the server wrote {mib} MiB of WAL, others' too, before there was a first point: give it more (--probe-wal-mib), or measure when less is written"
                ))
            });
        };
        let ended = self.points(&mut progress, &mut wal_bytes_per_row);
        // What there is by then counts.
        let failed = match ended {
            Err(error) if self.points.len() < 2 => return Err(error),
            Err(PlanError::Interrupted) | Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
        let batches = self.bounds.batches();
        let is_missing = |batch: &usize| !self.points.iter().any(|point| point.batch == *batch);
        Ok(Measured {
            shard: shard.to_owned(),
            commit_ms,
            wal_bytes_per_row,
            wal_bytes: self.scratch.wal().unwrap_or(self.wal_began).saturating_sub(self.wal_began),
            seconds: self.began.elapsed().as_secs_f64(),
            rows: self.bounds.rows,
            record_bytes: self.bounds.record_bytes,
            cut_short: failed.is_some() || self.is_over() || batches.iter().any(is_missing),
            failed,
            points: self.points.clone(),
        })
    }

    fn points(&mut self, progress: &mut Progress, wal_bytes_per_row: &mut f64) -> Result<(), PlanError> {
        let batches = self.bounds.batches();
        let sizes = batches.len();
        for (done, batch) in batches.into_iter().enumerate() {
            let (mut best, mut in_vain) = (0.0, 0);
            for doubling in 0..=CONNECTIONS_MAX.ilog2() {
                let connections = 1 << doubling;
                if self.is_over() {
                    return Ok(());
                }
                if connections > self.bounds.connections || !self.bounds.has_rows_for(batch, connections) {
                    break;
                }
                progress.show(self.began.elapsed().as_secs(), &format!(", {connections} × batches of {batch}"));
                let known = self.points.iter().find(|p| p.batch == batch && p.connections == connections).copied();
                let (rows_per_s, wal_per_row) = match known {
                    Some(point) => (point.rows_per_s, 0.0),
                    None => self.point(batch, connections, self.time_of((sizes - done) as u32, doubling))?,
                };
                if done == 0 && connections == 1 && known.is_none() {
                    *wal_bytes_per_row = wal_per_row;
                }
                in_vain = if rows_per_s < best * KNEE_GAIN { in_vain + 1 } else { 0 };
                best = rows_per_s.max(best);
                if in_vain == 2 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What a point may take: its part of what is left, with so many sizes to go and so many of this one's points measured.
    fn time_of(&self, sizes: u32, measured: u32) -> Duration {
        let points = (sizes * POINTS_OF_A_BATCH).saturating_sub(measured).max(1);
        let left = self.bounds.time.saturating_sub(self.began.elapsed());
        (left / points).div_f64(1.0 + WARM_UP).max(POINT_MIN)
    }

    /// Every row is there before anything counts: inserts and updates are not the same.
    fn fill(&mut self) -> Result<(), PlanError> {
        let Bounds { rows, wal_bytes, .. } = self.bounds;
        let (batch, first_size) = (self.bounds.batch_max().min(FILL) as u64, self.bounds.batches()[0]);
        if !self.bounds.has_rows_for(first_size, 1) {
            let least = BATCHES_OF_ROWS * (first_size * self.bounds.partitions) as u64;
            let found = format!("--probe-rows: found {rows}, expected at least {least}");
            return Err(PlanError::Usage(format!(
                "{found}: {BATCHES_OF_ROWS} batches of {first_size} of each partition"
            )));
        }
        self.connections(1)?;
        // Nothing of it has to be on a standby.
        self.probes[0].set("SET synchronous_commit = local")?;
        let until = self.began + self.bounds.time / 2;
        self.probes[0].share(0, 1);
        let mut first = 0;
        while first < rows {
            if self.stopper.is_stopped() {
                return Err(PlanError::Interrupted);
            }
            let (late, wal) = (Instant::now() > until, self.wal()?);
            self.wal_per_row = wal as f64 / first.max(1) as f64;
            // At the first look it is more than others write meanwhile.
            let much =
                wal > wal_bytes / 2 || first >= 10 * batch && self.wal_per_row * rows as f64 > wal_bytes as f64 / 2.0;
            if late || much {
                let what = if late { "half of the time" } else { "half of the WAL, or would" };
                let more = if late { "time (--probe-time)" } else { "WAL (--probe-wal-mib)" };
                return Err(PlanError::Failed(format!(
                    "{} rows took {what}; expected {} before the first point: give it more {more} or fewer rows (--probe-rows)",
                    grouped(first),
                    grouped(rows)
                )));
            }
            let last = (first + batch).min(rows);
            self.probes[0].write(first..last)?;
            first = last;
        }
        self.wal_per_row = self.wal()? as f64 / rows as f64;
        self.probes[0].set("RESET synchronous_commit")?;
        self.scratch.analyze()
    }

    /// Bytes since it began, of everybody in the server.
    fn wal(&self) -> Result<u64, PlanError> {
        Ok(self.scratch.wal()?.saturating_sub(self.wal_began))
    }

    fn connections(&mut self, number: usize) -> Result<(), PlanError> {
        while self.probes.len() < number {
            self.probes.push(self.scratch.probe(&self.bounds, self.probes.len())?);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let wal = self.wal().unwrap_or(u64::MAX);
        self.stopper.is_stopped() || self.began.elapsed() >= self.bounds.time || wal >= self.bounds.wal_bytes
    }

    /// Rows a second, and bytes of WAL for each. Measured, and noted.
    fn point(&mut self, batch: usize, connections: usize, each: Duration) -> Result<(f64, f64), PlanError> {
        self.connections(connections)?;
        let before = self.wal()?;
        let left = self.bounds.wal_bytes.saturating_sub(before) as f64;
        let rows_max = (left / self.wal_per_row.max(self.bounds.record_bytes as f64).max(64.0)) as u64;
        let work = Work { batch, warm_up: each.mul_f64(WARM_UP), time: each, rows_max };
        let probes = &mut self.probes[..connections];
        probes.iter_mut().enumerate().for_each(|(i, probe)| probe.share(i, connections));
        let pids: Vec<i32> = probes.iter().filter_map(|probe| probe.pid).collect();
        let (scratch, wal_max, began) = (self.scratch, self.wal_began + self.bounds.wal_bytes, Instant::now());
        let (enough, stopper) = (Stopper::default(), self.stopper);
        let mut late = false;
        let done: Vec<_> = std::thread::scope(|scope| {
            let run = |probe: &'_ mut Probe| probe.run(work, connections, &enough);
            let started: Vec<_> = probes.iter_mut().map(|probe| scope.spawn(move || run(probe))).collect();
            while !started.iter().all(|thread| thread.is_finished()) {
                std::thread::sleep(LOOK_EVERY);
                // Behind a checkpoint a row may take a page of WAL, and others write, too: it was not reckoned with.
                if stopper.is_stopped() || scratch.wal().is_ok_and(|wal| wal >= wal_max) {
                    enough.stop();
                }
                late |= began.elapsed() > work.warm_up + work.time + PATIENCE;
                if late || stopper.is_stopped() {
                    scratch.cancel(&pids);
                }
            }
            started.into_iter().map(|thread| thread.join().expect("a probe does not panic")).collect()
        });
        if stopper.is_stopped() {
            return Err(PlanError::Interrupted);
        }
        if late {
            return Err(PlanError::Unavailable(format!(
                "shard {}: a transaction of {batch} rows had no answer {} s behind its time; where synchronous standbys are named, one may be away",
                scratch.shard(),
                PATIENCE.as_secs()
            )));
        }
        let done = done.into_iter().collect::<Result<Vec<_>, PlanError>>()?;
        let rows_per_s: f64 = done.iter().map(|each| each.rows_per_s()).sum();
        let rows: u64 = done.iter().map(|each| each.all).sum();
        // One that was cut short says little; but of the first there must be something.
        let is_whole = done.iter().all(|each| each.seconds >= work.time.as_secs_f64() / 2.0);
        if rows_per_s > 0.0 && (is_whole || self.points.is_empty()) {
            self.points.push(Point { batch, connections, rows_per_s });
        }
        let per_row = self.wal()?.saturating_sub(before) as f64 / rows.max(1) as f64;
        self.wal_per_row = self.wal_per_row.max(per_row);
        Ok((rows_per_s, per_row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            time: Duration::from_secs(60),
            wal_bytes: 1 << 29,
            rows: 200_000,
            record_bytes: 300,
            batch_bytes_max: 4 << 20,
            connections: 64,
            partitions: 4,
            lanes: 16,
        }
    }

    /// Few rows would be written again and again, which is not what a database gets of many tenants.
    #[test]
    fn connections_without_rows_enough_of_their_own_are_not_measured() {
        assert!(bounds().has_rows_for(500, 32) && !bounds().has_rows_for(500, 64));
        assert!(bounds().has_rows_for(2000, 8) && !bounds().has_rows_for(2000, 16));
    }

    #[test]
    fn large_records_make_small_batches() {
        assert_eq!(bounds().batches(), [500, 2000, 50, 1]);
        assert_eq!(Bounds { record_bytes: 100_000, ..bounds() }.batches(), [41, 1]);
        assert_eq!(Bounds { record_bytes: 10 << 20, ..bounds() }.batches(), [1]);
    }
}
