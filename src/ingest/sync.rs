//! `mode = "sync"`: the row is written by the request itself, with the statement that the engine would use for one record, and is answered
//! after its COMMIT. What forebay is to replace, so that an endpoint can be moved by one word, and measured both ways.
//!
//! For each shard there are as many threads as connections, and a line of its own in front of them; a request that none of them takes in
//! time is answered with 503, and is not done. Rows of one key are written in the order in which a client sent them; among clients nothing
//! keeps an order. A connection is checked as the engine's are: it leads to the shard that it is taken for, and the shard agrees about the
//! routing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use crate::config::ingest::Ingest;
use crate::config::live::Live;
use crate::cpus::Place;
use crate::engine::thread::Thread;
use crate::http::{Response, Status};
use crate::ingest::alive::Alive;
use crate::ingest::away::Away;
use crate::ingest::line::Line;
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Repliers, Row};
use crate::ingest::under_way::UnderWay;
use crate::metrics::labelled::Refused;
use crate::sink::cancel::{self, Cancel};
use crate::sink::plan::TablePlan;
use crate::sink::session::Session;
use crate::sink::table::TableWriter;
use crate::sink::{Failure, Reason, connections, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RawRecord;
use crate::types::{Offset, ShardIx};

/// Requests of a shard that wait for a thread, or have one.
const LINE_MAX: usize = 4096;
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

/// The lines in front of the shards' threads, and what these are at.
#[derive(Default)]
pub struct Lines {
    shards: Vec<(Arc<Line<Job>>, Arc<Away>)>,
    under_way: Arc<UnderWay<Cancel>>,
}

impl Lines {
    /// # Errors
    /// Where too many wait already, or there is nobody to wait for.
    pub fn put(&self, Row(shard, key): Row, job: Job) -> Result<(), Problem> {
        let Some((line, _)) = self.shards.get(usize::from(shard.0)) else { return Err(no_connection()) };
        let bytes = job.pending.bytes;
        let is_there = line.put(key, bytes, job, Instant::now(), |job| job.pending.is_answered());
        if is_there { Ok(()) } else { Err(no_connection()) }
    }

    /// Why a row is not written that waited long enough.
    pub fn not_begun(&self, Row(shard, key): Row, pending: &Pending) -> Problem {
        let line = self.shards.get(usize::from(shard.0)).map(|(line, _)| line);
        // Whoever has a thread itself waits for nobody's row, but for a connection.
        match line.filter(|line| line.is_taken(key) && !pending.is_taken_up()) {
            Some(_) => Problem::new(
                Refused::RowBusy,
                "another request of the same row was still being written; nothing was done",
            ),
            None => no_connection(),
        }
    }

    /// Ends the threads: what waits is not written, and what they are at is cancelled.
    pub fn end(&self) {
        self.shards.iter().for_each(|(line, _)| line.end());
        self.under_way.give_up();
    }

    /// Shards that refused rows just now, until a person has done something, and why.
    pub fn refusing(&self) -> Vec<String> {
        let now = Instant::now();
        self.shards.iter().filter_map(|(_, away)| away.refuses(now)).collect()
    }
}

fn no_connection() -> Problem {
    Problem::new(Refused::NoConnection, "no connection to the database was free in time; nothing was done")
}

/// What the threads share.
#[derive(Clone)]
pub struct Context {
    pub counts: Arc<Counts>,
    pub repliers: Repliers,
    pub alive: Sender<&'static str>,
}

/// Starts the threads there, if `connections` is not 0.
///
/// # Errors
/// If a thread cannot be started.
pub fn start(
    live: &Arc<Live>,
    connections: usize,
    place: &Place,
    context: &Context,
) -> std::io::Result<(Lines, Vec<Thread>)> {
    let config = live.get();
    let Some(ingest) = config.ingest.as_ref().filter(|_| connections > 0) else { return Ok(Default::default()) };
    let under_way = Arc::new(UnderWay::new(config.shards.len() * connections));
    let (mut lines, mut threads) = (Lines { shards: Vec::new(), under_way: Arc::clone(&under_way) }, Vec::new());
    let (lives, threads_end) = bounded::<()>(0);
    for (index, shard) in config.shards.iter().enumerate() {
        let line = Arc::new(Line::new(LINE_MAX, ingest.queue_bytes_max / config.shards.len()));
        let away = Arc::new(Away::new(&shard.name));
        lines.shards.push((Arc::clone(&line), Arc::clone(&away)));
        for number in 0..connections {
            let shard = ShardIx(index as u16);
            let mut session = Session::new(&config, shard, connections::SYNC);
            session.follow(Arc::clone(live), shard);
            session.wait_for_locks(Some(lock_wait(ingest)));
            let (line, lives, alive) = (Arc::clone(&line), lives.clone(), context.alive.clone());
            let mut worker = Worker {
                session,
                away: Arc::clone(&away),
                context: context.clone(),
                under_way: Arc::clone(&under_way),
                number: index * connections + number,
                deadline: ingest.deadline,
                writers: Vec::new(),
            };
            let body = move || {
                let (_lives, _alive) = (lives, Alive(alive, "a thread that writes rows"));
                while let Some(taken) = line.take() {
                    worker.work(&taken.job);
                }
            };
            threads.push(Thread::spawn(&format!("fb-s{index}.{number}"), place.clone(), None, body)?);
        }
    }
    let alive = Alive(context.alive.clone(), "fb-cancel");
    let follow = move || {
        let _alive = alive;
        under_way.follow(&threads_end, cancel::send);
    };
    threads.push(Thread::spawn("fb-cancel", place.clone(), None, follow)?);
    Ok((lines, threads))
}

/// How long a statement may wait for a lock: one that began in time is over before anybody gives up, and is known not to have done anything.
fn lock_wait(ingest: &Ingest) -> Duration {
    (ingest.deadline - ingest.pool_wait).max(ingest.deadline / 2)
}

struct Worker {
    session: Session<()>,
    away: Arc<Away>,
    context: Context,
    under_way: Arc<UnderWay<Cancel>>,
    /// Of this thread, there.
    number: usize,
    deadline: Duration,
    writers: Vec<TableWriter>,
}

impl Worker {
    fn work(&mut self, job: &Job) {
        let Some(done) = self.write(job) else { return };
        let (Context { counts, repliers, .. }, pending) = (&self.context, &job.pending);
        let (ticket, response) = match (pending.take(), done) {
            (None, Ok(_)) => return counts.late.add(1),
            (None, Err(_)) => return,
            (Some(ticket), Ok(rows)) => {
                let took = pending.sent.elapsed().as_micros().min(u64::MAX.into()) as u64;
                counts.committed_us.lock().record(took, 1);
                let response = Response::json(Status::OK, format!("{{\"rows\":{rows}}}"));
                counts.answered(Some(pending.route), &response);
                (ticket, response)
            }
            (Some(ticket), Err(problem)) => (ticket, counts.refuse(Some(pending.route), &problem)),
        };
        repliers.answer(pending.listener, ticket, response);
    }

    /// How many rows were written; none if its client was told meanwhile that nothing was done: then nothing is.
    fn write(&mut self, job: &Job) -> Option<Result<u64, Problem>> {
        if !job.pending.take_up() {
            return None;
        }
        let writer = writer(&mut self.writers, &job.plan);
        let mut bad = Vec::new();
        writer.load(&batch(job), 0..1, &mut bad);
        if let Some(bad) = bad.first() {
            return Some(Err(Problem::new(Refused::Unfit, bad.reason.text.clone())));
        }
        self.session.look();
        if !self.session.is_open()
            && let Err(problem) = self.away.check(Instant::now())
        {
            return Some(Err(problem));
        }
        let (client, cancel) = match self.session.open() {
            Ok((live, is_new)) => {
                if is_new {
                    live.silent_for(self.deadline);
                    self.away.is_there();
                }
                (&mut live.client, Arc::clone(&live.cancel))
            }
            Err(failure) => {
                let failure = self.session.settle(Err::<(), _>(failure)).expect_err("it was an error");
                return Some(Err(self.away.note(failure, Instant::now())));
            }
        };
        // To open a connection may have taken longer than anybody waits. From here on it may be done.
        if !job.pending.begin() {
            self.session.rest();
            return None;
        }
        // Each statement is a transaction of its own, and of one record there is one at most.
        self.under_way.begin(self.number, job.pending.sent + self.deadline, cancel);
        let written = writer.write(client).map_err(|error| sqlstate::failure(&error));
        let was_cancelled = self.under_way.end(self.number);
        let written = self.session.settle(written);
        if was_cancelled {
            self.session.close();
        }
        Some(written.map_err(|failure| refused(&failure, was_cancelled)))
    }
}

fn writer<'w>(writers: &'w mut Vec<TableWriter>, plan: &Arc<TablePlan>) -> &'w mut TableWriter {
    let known = writers.iter().position(|writer| Arc::ptr_eq(writer.plan(), plan));
    let index = known.unwrap_or_else(|| {
        // Those of tables that were altered, too.
        if writers.len() >= WRITERS_MAX {
            writers.clear();
        }
        writers.push(TableWriter::new(Arc::clone(plan)));
        writers.len() - 1
    });
    &mut writers[index]
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

/// What a failure means to the client. Its words hold no values. `cancelled`: the request was overdue.
fn refused(failure: &Failure, cancelled: bool) -> Problem {
    let reason: &Reason = failure.reason();
    let refused = match failure {
        Failure::Record(..) => match reason.sqlstate.as_deref() {
            // Of PostgreSQL's Appendix A, class 23: foreign key, unique, exclusion.
            Some("23503" | "23505" | "23P01") => Refused::Conflict,
            _ => Refused::Unfit,
        },
        Failure::LockWait(_) => Refused::RowBusy,
        Failure::TooLong(_) if cancelled => Refused::Deadline,
        _ => Refused::Database,
    };
    let what_became = match failure {
        Failure::Outage(_) => "; whether it was done is not known",
        Failure::LockWait(_) => ": somebody else holds it; nothing was done",
        Failure::TooLong(_) => "; nothing was done",
        _ => "",
    };
    Problem::new(refused, format!("{reason}{what_became}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_means() {
        let check = |failure: fn(Reason) -> Failure, code: &str, status: u16| {
            let reason = Reason { sqlstate: Some(code.to_owned()), ..Reason::new("x") };
            assert_eq!(refused(&failure(reason), false).status().0, status, "{code}");
        };
        let of = |failure: fn(Reason) -> Failure, cancelled| refused(&failure(Reason::new("x")), cancelled).refused();
        assert_eq!(of(Failure::LockWait, false), Refused::RowBusy);
        assert_eq!(
            [false, true].map(|cancelled| of(Failure::TooLong, cancelled)),
            [Refused::Database, Refused::Deadline]
        );
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
