//! What is on its way to the brokers, and who waits for it. The queue is bounded in records and bytes; each request in it is answered
//! once: by the brokers' answer, or because its deadline came first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::http::{Replier, Response, Ticket};
use crate::ingest::problem::Problem;
use crate::metrics::Counter;
use crate::metrics::histogram::Histogram;
use crate::metrics::labelled::Refused;
use crate::types::ShardIx;

/// Answered ones that may stand in line behind one that is not, before they are taken out.
const ANSWERED_KEPT_MAX: usize = 1024;

/// How much is on its way, in all threads together.
#[derive(Debug)]
pub struct Queue {
    records: AtomicU64,
    /// All that ever entered.
    entered: AtomicU64,
    bytes: AtomicU64,
    records_max: u64,
    bytes_max: u64,
}

impl Queue {
    pub fn new(records_max: usize, bytes_max: usize) -> Queue {
        Queue {
            records: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            records_max: records_max as u64,
            bytes_max: bytes_max as u64,
        }
    }

    /// Takes room for one record, if there is some. A record that is larger than all the room is let in when there is nothing else.
    pub fn enter(&self, bytes: usize) -> bool {
        let records = self.records.fetch_add(1, Ordering::Relaxed);
        // Whoever sees this sees that there is one more.
        self.entered.fetch_add(1, Ordering::Release);
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if records < self.records_max && (before == 0 || before + bytes as u64 <= self.bytes_max) {
            return true;
        }
        self.leave(bytes);
        false
    }

    pub fn leave(&self, bytes: usize) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// How many ever entered.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::Acquire)
    }

    /// The same, if there is one record only: whose it is, it goes alone as long as that number stays.
    pub fn alone(&self) -> Option<u64> {
        let entered = self.entered();
        (self.records() == 1).then_some(entered)
    }

    /// Whether nothing more would be let in now.
    pub fn is_full(&self) -> bool {
        self.records() >= self.records_max || self.bytes() >= self.bytes_max
    }

    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Room in a queue, which is given back when this is dropped.
#[derive(Debug)]
pub struct Room {
    queue: Arc<Queue>,
    bytes: usize,
}

impl Room {
    pub fn take(queue: &Arc<Queue>, bytes: usize) -> Option<Room> {
        queue.enter(bytes).then(|| Room { queue: Arc::clone(queue), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.queue.leave(self.bytes);
    }
}

/// What the gateway counts, besides what its servers do.
#[derive(Debug)]
pub struct Counts {
    /// By route and class of the answer (2xx, 4xx, 5xx).
    requests: Vec<[Counter; 3]>,
    /// By reason.
    refused: Vec<Counter>,
    /// Acknowledgements, and COMMITs, of requests that had been answered with 503.
    pub late: Counter,
    /// Clients of librdkafka that had to be given up.
    pub producers_lost: Counter,
    /// From a record's handing over to its acknowledgement, in microseconds.
    pub acknowledged_us: Mutex<Histogram>,
    /// From a row's handing over to its COMMIT, likewise.
    pub committed_us: Mutex<Histogram>,
}

/// As the metric has them.
pub const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

impl Counts {
    pub fn new(routes: usize) -> Counts {
        Counts {
            requests: (0..routes).map(|_| Default::default()).collect(),
            refused: Refused::ALL.iter().map(|_| Counter::default()).collect(),
            late: Counter::default(),
            producers_lost: Counter::default(),
            acknowledged_us: Mutex::default(),
            committed_us: Mutex::default(),
        }
    }

    pub fn answered(&self, route: Option<usize>, response: &Response) {
        let class = match response.status().0 {
            200..300 => 0,
            400..500 => 1,
            _ => 2,
        };
        if let Some(of) = route.and_then(|route| self.requests.get(route)) {
            of[class].add(1);
        }
    }

    /// Counts a refusal, and makes its answer.
    pub fn refuse(&self, route: Option<usize>, problem: &Problem) -> Response {
        self.refused[problem.refused() as usize].add(1);
        let response = problem.response();
        self.answered(route, &response);
        response
    }

    pub fn requests(&self, route: usize) -> [u64; 3] {
        self.requests.get(route).map_or([0; 3], |of| of.each_ref().map(Counter::get))
    }

    pub fn refused(&self, refused: Refused) -> u64 {
        self.refused[refused as usize].get()
    }
}

/// A request that is under way. librdkafka, or the line in front of a database, keeps it until the outcome is known, and its listener until it
/// was answered.
#[derive(Debug)]
pub struct Pending {
    state: Mutex<State>,
    pub route: usize,
    pub bytes: usize,
    pub sent: Instant,
    /// The number of its listener.
    pub listener: usize,
    /// What it waits for in its shard's line, where it writes the row itself.
    pub row: Option<Row>,
    /// See [`Queue::alone`].
    pub alone: Option<u64>,
}

/// A row, by its shard and the hash of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(pub ShardIx, pub u64);

impl Pending {
    pub fn new(
        ticket: Ticket,
        route: usize,
        bytes: usize,
        listener: usize,
        row: Option<Row>,
        alone: Option<u64>,
    ) -> Arc<Pending> {
        let state = Mutex::new(State { ticket: Some(ticket), taken_up: false, begun: false });
        Arc::new(Pending { state, route, bytes, sent: Instant::now(), listener, row, alone })
    }

    /// A thread has it now, which may still have to connect. Whether anybody waits.
    pub fn take_up(&self) -> bool {
        let mut state = self.state.lock();
        state.taken_up = true;
        state.ticket.is_some()
    }

    pub fn is_taken_up(&self) -> bool {
        self.state.lock().taken_up
    }

    /// Marks it as begun: from now on it may have been done. False if it was answered before: then it must not be.
    pub fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.begun |= state.ticket.is_some();
        state.begun
    }

    /// The right to say that it was not done.
    pub fn take_unbegun(&self) -> Option<Ticket> {
        let mut state = self.state.lock();
        if state.begun { None } else { state.ticket.take() }
    }

    /// The right to answer it, for whoever comes first.
    pub fn take(&self) -> Option<Ticket> {
        self.state.lock().ticket.take()
    }

    pub fn is_answered(&self) -> bool {
        self.state.lock().ticket.is_none()
    }
}

#[derive(Debug)]
struct State {
    ticket: Option<Ticket>,
    taken_up: bool,
    begun: bool,
}

/// One listener's requests, in the order in which their deadlines come.
pub struct Waiting {
    line: VecDeque<Arc<Pending>>,
    deadline: Duration,
    /// Length at which answered ones are taken out.
    sweep_at: usize,
}

impl Waiting {
    pub fn new(deadline: Duration) -> Waiting {
        Waiting { line: VecDeque::new(), deadline, sweep_at: ANSWERED_KEPT_MAX }
    }

    pub fn push(&mut self, pending: Arc<Pending>) {
        self.line.push_back(pending);
        if self.line.len() >= self.sweep_at {
            self.line.retain(|pending| !pending.is_answered());
            // Twice what is left: the work is paid by those who come.
            self.sweep_at = (self.line.len() * 2).max(ANSWERED_KEPT_MAX);
        }
    }

    /// Takes out those that are answered, as far as they are first, and those whose deadline has come; the latter are returned.
    pub fn expired(&mut self, now: Instant) -> Vec<Arc<Pending>> {
        let mut expired = Vec::new();
        while let Some(first) = self.line.front() {
            let is_due = now.saturating_duration_since(first.sent) >= self.deadline;
            if !is_due && !first.is_answered() {
                break;
            }
            let Some(first) = self.line.pop_front() else { break };
            if !first.is_answered() {
                expired.push(first);
            }
        }
        expired
    }

    pub fn len(&self) -> usize {
        self.line.len()
    }

    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

/// The servers' ends for late answers, by listener; they are known once all servers are made.
#[derive(Default, Clone)]
pub struct Repliers(Arc<std::sync::OnceLock<Vec<Replier>>>);

impl Repliers {
    pub fn set(&self, repliers: Vec<Replier>) {
        // They are made once.
        let _ = self.0.set(repliers);
    }

    pub fn answer(&self, listener: usize, ticket: Ticket, response: Response) {
        if let Some(replier) = self.0.get().and_then(|repliers| repliers.get(listener)) {
            replier.answer(ticket, response);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_lets_in_what_it_has_room_for() {
        let queue = Queue::new(3, 100);
        assert!(queue.enter(60) && !queue.enter(41) && queue.enter(40));
        assert_eq!((queue.records(), queue.bytes(), queue.is_full()), (2, 100, true));
        queue.leave(60);
        assert!(queue.enter(1) && !queue.is_full() && queue.enter(1) && queue.is_full() && !queue.enter(1));
        [40, 1, 1].into_iter().for_each(|bytes| queue.leave(bytes));
        assert_eq!((queue.records(), queue.bytes()), (0, 0));
        assert!(queue.enter(1000), "what is larger than the queue goes alone");
        assert!(!queue.enter(1));
    }

    #[test]
    fn who_is_alone() {
        let queue = Queue::new(9, 100);
        assert!(queue.enter(1));
        let first = queue.alone();
        assert_eq!(first, Some(queue.entered()));
        assert!(queue.enter(1));
        assert!(queue.alone().is_none() && first != Some(queue.entered()), "another one came, whatever becomes of it");
        queue.leave(1);
        assert_ne!(first, Some(queue.entered()));
        queue.leave(1);
        assert!(queue.enter(1) && queue.alone().is_some());
    }

    #[test]
    fn each_is_counted_once() {
        let counts = Counts::new(2);
        counts.refuse(Some(1), &Problem::new(Refused::Unfit, "x"));
        counts.refuse(None, &Problem::new(Refused::NoRoute, "x"));
        counts.refuse(Some(1), &Problem::new(Refused::QueueFull, "x"));
        assert_eq!((counts.requests(0), counts.requests(1)), ([0; 3], [0, 1, 1]));
        assert_eq!((counts.refused(Refused::Unfit), counts.refused(Refused::Deadline)), (1, 0));
    }
}
