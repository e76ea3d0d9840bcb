//! An open loop of requests: each is sent when it is due, whatever became of those before it, over keep-alive connections, of which another
//! one is made whenever all are in use; and whatever it takes counts from when it was *due*. Nobody who is slow makes the generator ask for
//! less.
//!
//! One thread, which never waits for one connection. A request that is due waits in a line until a connection is free or made, and is an
//! error once its time-out is over, sent or not: where there are as many connections as there may be, the loop is not open any more, and the
//! requests that were not sent say so. Nothing is tried again: who retries is a client of its own.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::compare::connection::{Connection, Progress};
use crate::compare::ledger::{Entry, Ledger, Outcome};
use crate::compare::moment::Zero;
use crate::compare::requests::Requests;
use crate::compare::schedule::Schedule;

/// How exactly it keeps time: a poll of the operating system's takes whole milliseconds.
const PACE: Duration = Duration::from_micros(200);
const POLL_MIN: Duration = Duration::from_millis(2);
/// How soon another one is tried after a connection that could not be made.
const AGAIN: Duration = Duration::from_millis(50);
const EVENTS: usize = 1024;

/// What to send, and to whom.
pub struct Load<'a> {
    pub address: SocketAddr,
    pub schedule: &'a Schedule,
    pub requests: &'a Requests,
    /// The number of the schedule's first request.
    pub first: u64,
    /// At most so many at once.
    pub connections: usize,
    pub timeout: Duration,
}

/// How far it is, for others to look at.
#[derive(Debug, Default)]
pub struct Live {
    pub due: AtomicU64,
    pub done: AtomicU64,
    pub accepted: AtomicU64,
    /// Nothing more is sent; what is under way is waited for.
    pub over: AtomicBool,
}

impl Live {
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A connection's place.
#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// What it is busy with.
    index: usize,
}

struct Generator<'a> {
    load: &'a Load<'a>,
    live: &'a Live,
    zero: Zero,
    poll: Poll,
    slots: Vec<Slot>,
    /// Slots without a connection.
    free: Vec<usize>,
    /// Connections that are being made.
    opening: usize,
    /// After one could not be made none is tried before that.
    again: Instant,
    idle: VecDeque<usize>,
    /// Due and not sent, by index in the ledger.
    line: VecDeque<usize>,
    /// Sent, in that order, with their slots; some are answered already.
    sent: VecDeque<(usize, usize)>,
    ledger: Ledger,
    text: String,
}

/// Sends all of it, or until somebody says that it is over. `zero` is the schedule's second 0.
///
/// # Errors
/// The operating system's, where there can be no connections at all.
pub fn run(load: &Load<'_>, zero: Zero, live: &Live) -> io::Result<Ledger> {
    let mut generator = Generator {
        load,
        live,
        zero,
        poll: Poll::new()?,
        slots: Vec::new(),
        free: Vec::new(),
        opening: 0,
        again: Instant::now(),
        idle: VecDeque::new(),
        line: VecDeque::new(),
        sent: VecDeque::new(),
        ledger: Ledger::new(load.first),
        text: String::new(),
    };
    let mut events = Events::with_capacity(EVENTS);
    while let Some(wait) = generator.turn() {
        generator.wait(&mut events, wait)?;
        generator.look(&events);
    }
    Ok(generator.ledger)
}

impl Generator<'_> {
    /// What is to be done by now. Returns how long nothing will be; none: it is over.
    fn turn(&mut self) -> Option<Duration> {
        let now = self.zero.now_us();
        let is_over = self.live.is_over();
        let all = if is_over { self.ledger.entries.len() as u64 } else { self.load.schedule.requests() };
        while (self.ledger.entries.len() as u64) < all && self.next_due_us() <= now {
            self.enter();
        }
        self.expire(now);
        self.send();
        self.connect();
        let is_busy = || !self.line.is_empty() || self.slots.iter().any(Slot::is_busy);
        if self.ledger.entries.len() as u64 == all && !is_busy() {
            return None;
        }
        let until = if (self.ledger.entries.len() as u64) < all { self.next_due_us() } else { now + 10_000 };
        Some(Duration::from_micros((until - self.zero.now_us()).max(0) as u64))
    }

    fn next_due_us(&self) -> i64 {
        (self.load.schedule.due_s(self.ledger.entries.len() as u64) * 1e6) as i64
    }

    /// The next request is due.
    fn enter(&mut self) {
        let index = self.ledger.entries.len();
        let key = self.load.requests.key(self.load.first + index as u64);
        let due_us = self.next_due_us();
        self.ledger.entries.push(Entry { key, due_us, took_us: 0, outcome: Outcome::Pending });
        self.line.push_back(index);
        self.live.due.store(index as u64 + 1, Ordering::Relaxed);
    }

    fn send(&mut self) {
        // Whoever has rested longest; the server has them on several threads.
        while !self.line.is_empty() && !self.idle.is_empty() {
            let (Some(index), Some(slot)) = (self.line.pop_front(), self.idle.pop_front()) else { return };
            self.load.requests.write(self.load.first + index as u64, &mut self.text);
            let due_us = self.ledger.entries[index].due_us;
            if due_us >= 0 {
                self.ledger.late.saturating_record((self.zero.now_us() - due_us).max(1) as u64);
            }
            self.slots[slot].index = index;
            self.sent.push_back((index, slot));
            let connection = self.slots[slot].connection.as_mut().expect("an idle slot has one");
            let progress = connection.send(self.text.as_bytes());
            self.settle(slot, progress);
        }
    }

    /// Whoever waits too long, sent or not, is over. All have the same time-out, so the first in each line is the first to be.
    fn expire(&mut self, now: i64) {
        let timeout = self.load.timeout.as_micros() as i64;
        while let Some(index) = self.line.front().copied() {
            if self.ledger.entries[index].due_us + timeout > now {
                break;
            }
            self.line.pop_front();
            self.finish(index, Outcome::Unsent, timeout as u64);
        }
        while let Some((index, slot)) = self.sent.front().copied() {
            let is_pending = self.ledger.entries[index].outcome == Outcome::Pending;
            if is_pending && self.ledger.entries[index].due_us + timeout > now {
                break;
            }
            self.sent.pop_front();
            if is_pending {
                self.finish(index, Outcome::Timeout, timeout as u64);
                // Its answer may still come, to nobody.
                self.let_go(slot);
            }
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome, took_us: u64) {
        let entry = &mut self.ledger.entries[index];
        (entry.outcome, entry.took_us) = (outcome, took_us);
        self.live.done.fetch_add(1, Ordering::Relaxed);
        if entry.is_accepted() {
            self.live.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One for each request in the line, as far as there may be more.
    fn connect(&mut self) {
        while self.opening < self.line.len() && self.again <= Instant::now() {
            if self.free.is_empty() && self.slots.len() < self.load.connections {
                self.free.push(self.slots.len());
                self.slots.push(Slot::default());
            }
            let Some(slot) = self.free.pop() else { break };
            match Connection::open(self.load.address, self.poll.registry(), Token(slot)) {
                Ok(connection) => {
                    self.slots[slot].connection = Some(connection);
                    self.opening += 1;
                }
                Err(_) => self.not_made(slot),
            }
        }
        self.ledger.connections_max = self.ledger.connections_max.max(self.slots.len() - self.free.len());
    }

    fn not_made(&mut self, slot: usize) {
        self.again = Instant::now() + AGAIN;
        self.let_go(slot);
    }

    fn let_go(&mut self, slot: usize) {
        self.slots[slot].connection = None;
        self.free.push(slot);
    }

    fn wait(&mut self, events: &mut Events, wait: Duration) -> io::Result<()> {
        let whole = if wait >= POLL_MIN { wait.min(AGAIN) - Duration::from_millis(1) } else { Duration::ZERO };
        match self.poll.poll(events, Some(whole)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if events.is_empty() && whole.is_zero() && !wait.is_zero() {
            std::thread::sleep(wait.min(PACE));
        }
        Ok(())
    }

    fn look(&mut self, events: &Events) {
        for event in events {
            let slot = event.token().0;
            if let Some(connection) = &mut self.slots[slot].connection {
                let progress = connection.progress();
                self.settle(slot, progress);
            }
        }
    }

    fn settle(&mut self, slot: usize, progress: Progress) {
        let index = self.slots[slot].index;
        let now = self.zero.now_us();
        let pending = self.ledger.entries.get(index).filter(|entry| entry.outcome == Outcome::Pending);
        let took = pending.map(|entry| (now - entry.due_us).max(1) as u64);
        match progress {
            Progress::Nothing => {}
            Progress::Ready => {
                self.opening -= 1;
                self.idle.push_back(slot);
            }
            Progress::Refused => {
                self.opening -= 1;
                self.not_made(slot);
            }
            Progress::Answered { status, closes } => {
                if let Some(took) = took {
                    self.finish(index, Outcome::Answered(status), took);
                }
                if closes {
                    self.let_go(slot);
                } else {
                    self.idle.push_back(slot);
                }
            }
            Progress::Gone { busy } => {
                self.idle.retain(|idle| *idle != slot);
                if let (true, Some(took)) = (busy, took) {
                    self.finish(index, Outcome::Broken, took);
                }
                self.let_go(slot);
            }
        }
    }
}

impl Slot {
    fn is_busy(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_busy)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::compare::schedule::Segment;

    /// A server of a thread for each connection; `answer` gets the number of the request.
    fn server(answer: impl Fn(u64, &mut TcpStream) + Copy + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move |stream: TcpStream| {
            let (mut out, mut input) = (stream.try_clone().unwrap(), BufReader::new(stream));
            let mut line = String::new();
            while input.read_line(&mut line).is_ok_and(|length| length > 0) {
                let mut length = 0;
                loop {
                    let mut header = String::new();
                    input.read_line(&mut header).unwrap();
                    let Some((name, value)) = header.split_once(": ") else { break };
                    if name == "Content-Length" {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                input.read_exact(&mut body).unwrap();
                let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                answer(value["n"].as_u64().unwrap(), &mut out);
                line.clear();
            }
        };
        // They end with the test's process, or with their clients.
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || serve(stream))))
        });
        address
    }

    fn say(out: &mut TcpStream, status: &str) {
        let _ = out.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes());
    }

    fn load(address: SocketAddr, rate: f64, connections: usize, timeout_ms: u64) -> Ledger {
        let schedule = Schedule::new(0.0, vec![Segment::constant(0.5, rate)]);
        let requests = Requests::new(100, 0.0, 0, 300);
        let timeout = Duration::from_millis(timeout_ms);
        let load = Load { address, schedule: &schedule, requests: &requests, first: 1000, connections, timeout };
        let live = Live::default();
        let ledger = run(&load, Zero::after(Duration::from_millis(50)), &live).unwrap();
        assert_eq!(live.done.load(Ordering::Relaxed), schedule.requests());
        assert_eq!(ledger.entries.len() as u64, schedule.requests());
        ledger
    }

    fn count(ledger: &Ledger, outcome: Outcome) -> usize {
        ledger.entries.iter().filter(|entry| entry.outcome == outcome).count()
    }

    #[test]
    fn each_is_answered_and_statuses_are_kept_apart() {
        let address = server(|n, out| say(out, if n % 10 == 3 { "503 Service Unavailable" } else { "202 Accepted" }));
        let ledger = load(address, 400.0, 8, 5000);
        assert_eq!((count(&ledger, Outcome::Answered(202)), count(&ledger, Outcome::Answered(503))), (180, 20));
        assert_eq!(ledger.entry(1003).unwrap().outcome, Outcome::Answered(503));
    }

    /// A server that takes 300 ms for each: there are as many connections as the rate wants, and nobody waits for one.
    #[test]
    fn whoever_is_slow_gets_more_connections_and_not_less_to_do() {
        let address = server(|_, out| {
            std::thread::sleep(Duration::from_millis(300));
            say(out, "200 OK");
        });
        let ledger = load(address, 200.0, 1000, 5000);
        assert_eq!(count(&ledger, Outcome::Answered(200)), 100);
        assert!((50..=100).contains(&ledger.connections_max), "{}", ledger.connections_max);
        let late_us = ledger.late.value_at_quantile(0.9);
        assert!(late_us < 150_000, "{late_us}");
        // Who is quick is asked over few.
        let quick = load(server(|_, out| say(out, "200 OK")), 100.0, 1000, 5000);
        assert!(quick.connections_max < 50, "{}", quick.connections_max);
    }

    /// One connection and a server that takes 20 ms: what is due while it works waits, and that counts.
    #[test]
    fn waiting_for_a_connection_is_part_of_what_it_takes() {
        let address = server(|_, out| {
            std::thread::sleep(Duration::from_millis(20));
            say(out, "200 OK");
        });
        let ledger = load(address, 100.0, 1, 60_000);
        assert_eq!(count(&ledger, Outcome::Answered(200)), 50);
        // 50 requests of 20 ms, the last due after 490 ms and answered after a second.
        let last = ledger.entries.last().unwrap().took_us;
        assert!(last > 400_000, "{last}");
        let late = ledger.late.max();
        assert!(late > 300_000, "that it was sent late is said: {late}");
        assert!(ledger.entries.iter().map(|entry| entry.due_us).is_sorted());
    }

    #[test]
    fn a_time_out_is_an_error_sent_or_not_and_the_loop_stays_open() {
        let address = server(|n, out| {
            if n == 1000 {
                std::thread::sleep(Duration::from_millis(600));
            }
            say(out, "200 OK");
        });
        let ledger = load(address, 100.0, 1, 300);
        let [answered, timeouts, unsent] =
            [Outcome::Answered(200), Outcome::Timeout, Outcome::Unsent].map(|outcome| count(&ledger, outcome));
        assert_eq!(answered + timeouts + unsent, 50);
        assert_eq!(ledger.entries[0].outcome, Outcome::Timeout);
        assert!(answered > 10, "a new connection goes on: {answered}");
        assert_eq!(ledger.entries[0].took_us, 300_000);
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(count(&load(nobody, 100.0, 2, 200), Outcome::Unsent), 50);
    }

    #[test]
    fn a_connection_that_breaks_costs_its_own_request_and_comes_again() {
        let address = server(|n, out| {
            if n % 20 == 5 {
                let _ = out.shutdown(std::net::Shutdown::Both);
            } else {
                say(out, "202 Accepted");
            }
        });
        let ledger = load(address, 200.0, 4, 5000);
        assert_eq!((count(&ledger, Outcome::Broken), count(&ledger, Outcome::Answered(202))), (5, 95));
    }
}
