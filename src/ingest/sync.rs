//! `mode = "sync"`: the row is written by the request itself, with the statement that the engine would use for one record, and is answered
//! after its COMMIT. What forebay is to replace, so that an endpoint can be moved by one word, and measured both ways.
//!
//! For each shard there are as many threads as connections, and a line of its own in front of them; a request that none of them takes in
//! time is answered with 503, and is not done. Rows of one key are written in the order in which a client sent them; among clients nothing
//! keeps an order. A connection is checked as the engine's are: it leads to the shard that it is taken for, and the shard agrees about the
//! routing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::live::Live;
use crate::cpus::Place;
use crate::engine::thread::Thread;
use crate::http::{Response, Status};
use crate::ingest::alive::Alive;
use crate::ingest::line::Line;
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Repliers};
use crate::metrics::labelled::Refused;
use crate::sink::plan::TablePlan;
use crate::sink::session::Session;
use crate::sink::table::TableWriter;
use crate::sink::{Failure, Reason, connections, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RawRecord;
use crate::types::{Offset, ShardIx};

/// Requests of a shard that wait for a thread, or have one.
const LINE_MAX: usize = 4096;
/// How soon a database that was away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// For so long a database that refuses is a reason not to be ready. Only requests try it again, and whoever is not ready gets none.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);
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
#[derive(Default)]
pub struct Lines(Vec<(Arc<Line<Job>>, Arc<Away>)>);

impl Lines {
    /// # Errors
    /// Where too many wait already, or there is nobody to wait for.
    pub fn put(&self, shard: ShardIx, job: Job) -> Result<(), Problem> {
        let Some((line, _)) = self.0.get(usize::from(shard.0)) else { return Err(no_connection()) };
        let (key, bytes) = (xxh3_64(&job.key), job.pending.bytes);
        let is_there = line.put(key, bytes, job, Instant::now(), |job| job.pending.is_answered());
        if is_there { Ok(()) } else { Err(no_connection()) }
    }

    /// Ends the threads, once each is done with what it has.
    pub fn end(&self) {
        self.0.iter().for_each(|(line, _)| line.end());
    }

    /// Shards that refused rows just now, until a person has done something, and why.
    pub fn refusing(&self) -> Vec<String> {
        let now = Instant::now();
        self.0.iter().filter_map(|(_, away)| away.refuses(now)).collect()
    }
}

pub fn no_connection() -> Problem {
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
    let (mut lines, mut threads) = (Lines::default(), Vec::new());
    let config = live.get();
    let Some(ingest) = config.ingest.as_ref().filter(|_| connections > 0) else { return Ok((lines, threads)) };
    for (index, shard) in config.shards.iter().enumerate() {
        let line = Arc::new(Line::new(LINE_MAX, ingest.queue_bytes_max / config.shards.len()));
        let away = Arc::new(Away { shard: shard.name.clone(), since: Mutex::default() });
        lines.0.push((Arc::clone(&line), Arc::clone(&away)));
        for number in 0..connections {
            let shard = ShardIx(index as u16);
            let mut session = Session::new(&config, shard, connections::SYNC);
            session.follow(Arc::clone(live), shard);
            let (line, away, context) = (Arc::clone(&line), Arc::clone(&away), context.clone());
            let body = move || {
                let _alive = Alive(context.alive.clone(), "a thread that writes rows");
                let mut worker = Worker { session, away, context, writers: Vec::new() };
                while let Some(taken) = line.take() {
                    worker.work(&taken.job);
                }
            };
            threads.push(Thread::spawn(&format!("fb-s{index}.{number}"), place.clone(), None, body)?);
        }
    }
    Ok((lines, threads))
}

/// What keeps connections to a shard from being opened.
pub struct Away {
    shard: String,
    /// Until when it is not tried again, and why.
    since: Mutex<Option<(Instant, Failure)>>,
}

impl Away {
    fn check(&self, now: Instant) -> Result<(), Problem> {
        match &*self.since.lock() {
            Some((until, failure)) if now < *until => Err(away(failure)),
            _ => Ok(()),
        }
    }

    /// It is said once, and again when it is another failure.
    fn note(&self, failure: Failure, now: Instant) -> Problem {
        let problem = away(&failure);
        let mut since = self.since.lock();
        if since.as_ref().is_none_or(|(_, known)| *known != failure) {
            let (shard, reason) = (&self.shard, failure.reason());
            match &failure {
                Failure::Shard(_) => tracing::error!(shard, "rows of requests are not written: {reason}"),
                _ => tracing::warn!(shard, "rows of requests are not written for now: {reason}"),
            }
        }
        *since = Some((now + AGAIN, failure));
        problem
    }

    fn is_there(&self) {
        if self.since.lock().take().is_some() {
            tracing::info!(shard = self.shard, "shard {}: rows of requests are written again", self.shard);
        }
    }

    fn refuses(&self, now: Instant) -> Option<String> {
        match &*self.since.lock() {
            Some((until, Failure::Shard(reason))) if now < *until + REFUSAL_HOLDS => Some(reason.to_string()),
            _ => None,
        }
    }
}

fn away(failure: &Failure) -> Problem {
    let why = match failure {
        // It names what is in the configuration, which is nobody's business out there.
        Failure::Shard(_) => "the database refuses this gateway, whose log says why; nothing was done".to_owned(),
        failure => format!("the database is away: {}; nothing was done", failure.reason()),
    };
    Problem::new(Refused::Database, why)
}

struct Worker {
    session: Session<()>,
    away: Arc<Away>,
    context: Context,
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
        if job.pending.is_answered() {
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
        let client = match self.session.open() {
            Ok((live, is_new)) => {
                if is_new {
                    self.away.is_there();
                }
                &mut live.client
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
        let written = writer.write(client).map_err(|error| sqlstate::failure(&error));
        Some(self.session.settle(written).map_err(|failure| refused(&failure)))
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

    /// It is tried again soon, and does not keep a gateway from being ready for ever that nobody asks any more.
    #[test]
    fn a_database_that_is_away_or_refuses() {
        let (away, start) = (Away { shard: "s".to_owned(), since: Mutex::default() }, Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(away.check(start).is_ok() && away.refuses(start).is_none());
        let problem = away.note(Failure::Outage(Reason::new("gone")), start);
        assert!(problem.detail().contains("gone") && problem.detail().contains("nothing was done"));
        assert_eq!((away.check(at(999)).err(), away.check(at(1000)).err()), (Some(problem), None));
        assert_eq!(away.refuses(start), None, "others may be served meanwhile");
        let problem = away.note(Failure::Shard(Reason::new("password of x")), start);
        assert!(!problem.detail().contains("password"), "that is for the log");
        assert_eq!(away.refuses(at(10_999)).as_deref(), Some("password of x"));
        assert_eq!(away.refuses(at(11_000)), None);
        away.is_there();
        assert_eq!(away.refuses(start), None);
    }

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
