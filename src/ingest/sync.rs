//! `mode = "sync"`: the row is written by the request itself, with the statement that the engine would use for one record, and is answered
//! after its COMMIT. What forebay is to replace, so that an endpoint can be moved by one word, and measured both ways.
//!
//! For each shard there are as many threads as connections; a request that none of them takes in time is answered with 503, and is not done.
//! Nothing keeps an order among requests that are under way at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use r2d2::PooledConnection;

use crate::config::Config;
use crate::cpus::Place;
use crate::engine::thread::Thread;
use crate::http::{Response, Status};
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Queue, Repliers};
use crate::metrics::labelled::Refused;
use crate::sink::connections;
use crate::sink::plan::TablePlan;
use crate::sink::pool::{Manager, Pool};
use crate::sink::table::TableWriter;
use crate::sink::{Failure, Reason, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RawRecord;
use crate::types::{Offset, ShardIx};

/// Requests of a shard that wait for a thread.
const LINE_MAX: usize = 4096;
/// How soon a database that was away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often is looked whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Forms of tables that a thread keeps buffers for.
const WRITERS_MAX: usize = 64;

/// A row to be written.
pub struct Job {
    pub pending: Arc<Pending>,
    pub plan: Arc<TablePlan>,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    /// Packed.
    pub headers: Vec<u8>,
    pub now_ms: i64,
}

/// The lines in front of the shards' threads.
pub struct Lines {
    lines: Vec<Sender<Job>>,
}

impl Lines {
    /// # Errors
    /// Where too many wait already, or there is nobody to wait for.
    pub fn put(&self, shard: ShardIx, job: Job) -> Result<(), Problem> {
        let Some(line) = self.lines.get(usize::from(shard.0)) else { return Err(no_connection()) };
        line.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => no_connection(),
        })
    }
}

pub fn no_connection() -> Problem {
    Problem::new(Refused::NoConnection, "no connection to the database was free in time; nothing was done")
}

/// What the threads share.
#[derive(Clone)]
pub struct Context {
    pub counts: Arc<Counts>,
    pub queue: Arc<Queue>,
    pub repliers: Repliers,
    pub over: Arc<AtomicBool>,
}

/// Starts the threads there, if `connections` is not 0. Those that open connections are where the caller is.
///
/// # Errors
/// If a thread cannot be started, or a DSN not be read.
pub fn start(
    config: &Config,
    connections: usize,
    place: &Place,
    context: &Context,
) -> std::io::Result<(Lines, Vec<Thread>)> {
    let (mut lines, mut threads) = (Vec::new(), Vec::new());
    if connections == 0 {
        return Ok((Lines { lines }, threads));
    }
    for (index, shard) in config.shards.iter().enumerate() {
        let pool = Pool::new(shard, &config.kafka.group_id, connections::SYNC, connections as u32);
        let pool = Arc::new(pool.map_err(|failure| std::io::Error::other(failure.reason().to_string()))?);
        let (line, jobs) = bounded(LINE_MAX);
        lines.push(line);
        for number in 0..connections {
            let worker = Worker {
                pool: Arc::clone(&pool),
                jobs: jobs.clone(),
                context: context.clone(),
                writers: Vec::new(),
                connection: None,
                away: None,
            };
            let name = format!("fb-s{index}.{number}");
            threads.push(Thread::spawn(&name, place.clone(), None, move || worker.run())?);
        }
    }
    Ok((Lines { lines }, threads))
}

struct Worker {
    pool: Arc<Pool>,
    jobs: Receiver<Job>,
    context: Context,
    writers: Vec<TableWriter>,
    /// Kept: to take one anew costs a question whether it is still there.
    connection: Option<PooledConnection<Manager>>,
    /// Until when the database is not tried again, and what was wrong.
    away: Option<(Instant, String)>,
}

impl Worker {
    fn run(mut self) {
        while !self.context.over.load(Ordering::Acquire) {
            match self.jobs.recv_timeout(LOOK_EVERY) {
                Ok(job) => self.work(&job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn work(&mut self, job: &Job) {
        let Context { counts, queue, repliers, .. } = self.context.clone();
        let pending = &job.pending;
        // Whoever was told that nothing was done is right.
        let done = pending.begin().then(|| self.write(job));
        queue.leave(pending.bytes);
        let Some((done, ticket)) = done.zip(pending.take()) else { return };
        let response = match done {
            Ok(()) => {
                let took = pending.sent.elapsed().as_micros().min(u64::MAX.into()) as u64;
                counts.committed_us.lock().record(took, 1);
                let response = Response::json(Status::OK, "{\"written\":true}");
                counts.answered(Some(pending.route), &response);
                response
            }
            Err(problem) => counts.refuse(Some(pending.route), &problem),
        };
        repliers.answer(pending.listener, ticket, response);
    }

    fn write(&mut self, job: &Job) -> Result<(), Problem> {
        if let Some((until, why)) = &self.away
            && Instant::now() < *until
        {
            return Err(Problem::new(Refused::Database, format!("the database is away: {why}; nothing was done")));
        }
        self.away = None;
        let writer = match self.writers.iter().position(|writer| Arc::ptr_eq(writer.plan(), &job.plan)) {
            Some(known) => known,
            None => {
                // Those of tables that were altered, too.
                if self.writers.len() >= WRITERS_MAX {
                    self.writers.clear();
                }
                self.writers.push(TableWriter::new(Arc::clone(&job.plan)));
                self.writers.len() - 1
            }
        };
        let writer = &mut self.writers[writer];
        let mut bad = Vec::new();
        writer.load(&batch(job), 0..1, &mut bad);
        if let Some(bad) = bad.first() {
            return Err(Problem::new(Refused::Unfit, bad.reason.text.clone()));
        }
        let mut client = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => self.pool.get().map_err(|failure| {
                let why = failure.reason().to_string();
                self.away = Some((Instant::now() + AGAIN, why.clone()));
                Problem::new(Refused::Database, format!("the database is away: {why}; nothing was done"))
            })?,
        };
        // Each statement is a transaction of its own, and of one record there is one at most.
        let written = writer.write(&mut **client);
        self.connection = Some(client);
        written.map_err(|error| refused(&sqlstate::failure(&error)))
    }
}

fn batch(job: &Job) -> Batch {
    let record = RawRecord {
        offset: Offset(0),
        timestamp_ms: job.now_ms,
        key: Some(&job.key),
        value: job.value.as_deref(),
        headers: &job.headers,
    };
    Batch::of_one(0, &record)
}

/// What a failure means to the client. Its words hold no values.
fn refused(failure: &Failure) -> Problem {
    let reason: &Reason = failure.reason();
    let refused = match failure {
        Failure::Record(..) => match reason.sqlstate.as_deref() {
            // Of PostgreSQL's Appendix A, class 23: foreign key, unique, exclusion.
            Some("23503" | "23505" | "23P01") => Refused::Conflict,
            _ => Refused::Unfit,
        },
        _ => Refused::Database,
    };
    let unknown = if matches!(failure, Failure::Outage(_)) { "; whether it was done is not known" } else { "" };
    Problem::new(refused, format!("{reason}{unknown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_means() {
        let check = |failure: fn(Reason) -> Failure, code: &str, status: u16| {
            let reason = Reason { sqlstate: Some(code.to_owned()), ..Reason::new("x") };
            assert_eq!(refused(&failure(reason)).status().0, status, "{code}");
        };
        let record = |reason| Failure::Record(None, reason);
        check(record, "23505", 409);
        check(record, "23503", 409);
        check(record, "23502", 422);
        check(record, "23514", 422);
        check(record, "22003", 422);
        check(Failure::Outage, "57P01", 503);
        check(Failure::LockWait, "55P03", 503);
        check(Failure::Transient, "40P01", 503);
        check(Failure::TooLong, "57014", 503);
        check(Failure::Topic, "42P01", 503);
    }
}
