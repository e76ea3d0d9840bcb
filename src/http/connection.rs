//! One connection: what was read and is not used, answers in their order, what is to be sent, and how long each of them may take.
//! It never waits: it is given turns, and the time.
//!
//! A turn does what can be done now, up to a budget, so that a busy connection leaves the others theirs.

mod carriage;
mod waiting;

use std::io;
use std::time::{Duration, Instant};

use super::answers::{Answers, Asked};
use super::buffer::{Input, Pool};
use super::head::Version;
use super::limits::Limits;
use super::output::Output;
use super::parser::{Parser, Progress};
use super::patience::{Awaited, Patience};
use super::refusal::Refusal;
use super::reply::{Key, Ticket};
use super::request::{Peer, Request};
use super::response::{Manner, Persistence, Response, Status};
use super::stream::Carrier;
use super::{Counts, Served, Service};

/// Requests that a turn serves at most.
const TURN_REQUESTS: usize = 64;
/// How long a turn goes on to serve and to send, whatever a request costs.
pub const TURN_TIME: Duration = Duration::from_millis(2);
/// Times that a turn reads.
const TURN_READS: usize = 8;

/// What a turn is given.
pub struct Context<'a, V> {
    pub service: &'a mut V,
    pub limits: &'a Limits,
    pub pool: &'a mut Pool,
    pub counts: &'a mut Counts,
    pub now: Instant,
    /// When the turn is to end, by this clock.
    pub until: Instant,
    pub clock: fn() -> Instant,
    pub date: &'a str,
}

impl<V> Context<'_, V> {
    fn is_spent(&self) -> bool {
        (self.clock)() >= self.until
    }
}

/// What a connection needs after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Another turn: there is more to do.
    Again,
    /// A turn when something happens.
    Wait,
    /// To be closed.
    Close,
}

/// How far the connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No further request is read; it closes when all answers are sent.
    Ending,
    /// Closed on this side; what still comes is dropped.
    Lingering {
        until: Instant,
    },
}

/// Why no more requests were served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// What was read is used up.
    Hungry,
    /// Too much is unanswered or unsent.
    Paused,
    /// The turn's budget is.
    Spent,
    /// The last request was read.
    Ended,
}

pub struct Connection<C> {
    carrier: C,
    key: Key,
    peer: Peer,
    /// One too many: it is told so, and not served.
    surplus: bool,
    parser: Parser,
    input: Input,
    answers: Answers,
    output: Output,
    phase: Phase,
    patience: Patience,
    /// Messages that were read.
    messages: u64,
    /// Whether a read might bring something, or a write might take something.
    readable: bool,
    writable: bool,
    /// The peer is known to have ended its side, though what it sent before may not be read yet.
    ended: bool,
    /// That end was read.
    eof: bool,
    draining: bool,
    /// And no further request is waited for.
    parting: bool,
    /// The service was asked about the head whose body is awaited.
    admitted: bool,
    continue_owed: bool,
    /// What the pool knows that it holds of answers.
    held: usize,
    /// Whether it is in line for a turn.
    pub in_line: bool,
    /// Which door it came in by.
    pub door: usize,
}

impl<C: Carrier> Connection<C> {
    pub fn new(carrier: C, key: Key, peer: Peer, surplus: bool, now: Instant) -> Connection<C> {
        Connection {
            carrier,
            key,
            peer,
            surplus,
            parser: Parser::default(),
            input: Input::default(),
            answers: Answers::default(),
            output: Output::default(),
            phase: Phase::Open,
            patience: Patience::new(if surplus { Awaited::SurplusBegin } else { Awaited::Begin }, now),
            messages: 0,
            readable: true,
            writable: true,
            ended: false,
            eof: false,
            draining: false,
            parting: false,
            admitted: false,
            continue_owed: false,
            held: 0,
            in_line: false,
            door: 0,
        }
    }

    /// Something happened to the carrier. (Errors show when it is used.)
    pub fn notice(&mut self, readable: bool, writable: bool, ended: bool) {
        self.readable |= readable || ended;
        self.writable |= writable;
        self.ended |= ended;
    }

    /// Takes an answer that was deferred. Whether it was still waited for.
    pub fn answer(&mut self, number: u64, response: Response) -> bool {
        self.answers.give(number, response)
    }

    /// Whether the peer will send nothing more. It may still read.
    pub fn has_ended(&self) -> bool {
        self.ended || self.eof
    }

    pub fn key(&self) -> Key {
        self.key
    }

    /// Whether it is one too many.
    pub fn is_surplus(&self) -> bool {
        self.surplus
    }

    /// The request that is under way, or the next one, is the last one.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Where none is under way, none is waited for.
    pub fn part(&mut self) {
        self.parting = true;
    }

    /// Does what can be done now.
    pub fn turn<V: Service>(&mut self, cx: &mut Context<'_, V>) -> Turn {
        // An error of the carrier means that the peer is gone, or as good as that.
        let turn = self.work(cx).unwrap_or(Turn::Close);
        if self.input.is_empty() || self.phase != Phase::Open || turn == Turn::Close {
            cx.pool.take_input(&mut self.input);
        }
        if self.output.is_empty() || turn == Turn::Close {
            self.output.release(cx.pool);
        }
        self.hold(cx.pool);
        self.settle(cx.limits, cx.now);
        turn
    }

    fn work<V: Service>(&mut self, cx: &mut Context<'_, V>) -> io::Result<Turn> {
        let (mut requests, mut reads) = (TURN_REQUESTS, TURN_READS);
        loop {
            if let Phase::Lingering { .. } = self.phase {
                return self.linger(cx);
            }
            let halt = self.serve(cx, &mut requests);
            if !self.flush(cx)? {
                return Ok(Turn::Again);
            }
            if halt == Halt::Ended {
                if !self.answers.is_empty() || !self.output.is_empty() {
                    return Ok(Turn::Wait);
                }
                if self.eof {
                    return Ok(Turn::Close);
                }
                self.carrier.shutdown_write()?;
                self.phase = Phase::Lingering { until: cx.now + cx.limits.linger_deadline };
            } else if halt == Halt::Spent {
                return Ok(Turn::Again);
            } else if self.is_paused(cx.limits) {
                return Ok(Turn::Wait);
            } else if halt == Halt::Hungry {
                if !self.readable && self.parting && self.parser.is_fresh() {
                    self.phase = Phase::Ending;
                } else if !self.readable {
                    return Ok(Turn::Wait);
                } else if reads == 0 {
                    return Ok(Turn::Again);
                } else {
                    reads -= 1;
                    self.read(cx)?;
                }
            }
        }
    }

    /// Serves what was read, as far as it goes.
    fn serve<V: Service>(&mut self, cx: &mut Context<'_, V>, requests: &mut usize) -> Halt {
        loop {
            self.encode(cx);
            if self.phase != Phase::Open {
                return Halt::Ended;
            }
            if self.is_paused(cx.limits) {
                return Halt::Paused;
            }
            if *requests == 0 {
                return Halt::Spent;
            }
            if self.surplus && !self.input.is_empty() {
                let max = cx.limits.connections_max;
                let reason = format!("found {max} connections already; expected no more at a time");
                self.refuse(Refusal::new(Status::SERVICE_UNAVAILABLE, reason), cx);
                continue;
            }
            match self.parser.advance(self.input.bytes_mut(), cx.limits) {
                Ok(Progress::Complete { body, end }) => {
                    self.serve_one(body, cx);
                    self.input.consume(end);
                    self.parser.reset();
                    *requests = if cx.is_spent() { 0 } else { *requests - 1 };
                }
                Ok(Progress::More { keep }) => {
                    self.input.truncate(keep);
                    self.hunger(cx);
                    if self.phase == Phase::Open {
                        return Halt::Hungry;
                    }
                }
                Err(refusal) => self.refuse(refusal, cx),
            }
        }
    }

    fn serve_one<V: Service>(&mut self, body: std::ops::Range<usize>, cx: &mut Context<'_, V>) {
        let head = self.parser.head();
        if self.draining || !head.persistent {
            self.phase = Phase::Ending;
        }
        let request = Request::new(head, self.input.bytes(), body, self.peer);
        let asked =
            Asked { head_only: request.method() == "HEAD", say_keep_alive: request.version() == Version::Http10 };
        let due_by = cx.now + cx.limits.answer_deadline;
        let number = self.answers.open(asked, due_by);
        match cx.service.serve(&request, Ticket { key: self.key, number, due_by }) {
            Served::Now(response) => {
                self.answers.give(number, response);
            }
            Served::Later => cx.counts.deferred += 1,
        }
        cx.counts.requests += 1;
        self.messages += 1;
        (self.admitted, self.continue_owed) = (false, false);
    }

    /// What was read is used up, in the middle of a message or not.
    fn hunger<V: Service>(&mut self, cx: &mut Context<'_, V>) {
        if self.eof {
            if self.parser.is_fresh() {
                self.phase = Phase::Ending;
            } else {
                self.refuse(
                    Refusal::bad("found the end of the connection within a request; expected its end first"),
                    cx,
                );
            }
            return;
        }
        if self.parser.has_head() && !self.admitted {
            self.admitted = true;
            self.continue_owed = self.parser.head().expects_continue;
            let head = Request::new(self.parser.head(), self.input.bytes(), 0..0, self.peer);
            if let Err(response) = cx.service.admit(&head) {
                cx.counts.requests += 1;
                self.end_with(response, cx);
                return;
            }
        }
        if self.continue_owed && self.answers.is_empty() {
            self.continue_owed = false;
            self.output.end(cx.pool).extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn refuse<V: Service>(&mut self, refusal: Refusal, cx: &mut Context<'_, V>) {
        cx.counts.refusals += 1;
        let response = cx.service.refuse(refusal.status, &refusal.reason);
        let response = match refusal.status {
            Status::SERVICE_UNAVAILABLE => response.header("Retry-After", "1"),
            _ => response,
        };
        self.end_with(response, cx);
    }

    /// The last answer, behind those that are waited for.
    fn end_with<V>(&mut self, response: Response, cx: &mut Context<'_, V>) {
        let head_only = self.parser.has_head() && self.parser.head().method.of(self.input.bytes()) == b"HEAD";
        let number = self.answers.open(Asked { head_only, say_keep_alive: false }, cx.now);
        self.answers.give(number, response);
        self.phase = Phase::Ending;
    }

    /// Writes down the answers whose turn it is.
    fn encode<V>(&mut self, cx: &mut Context<'_, V>) {
        while let Some((response, asked)) = self.answers.pop() {
            let persistence = match asked.say_keep_alive {
                _ if self.phase != Phase::Open && self.answers.is_empty() => Persistence::Ends,
                true => Persistence::Said,
                false => Persistence::Implied,
            };
            let manner = Manner { head_only: asked.head_only, persistence, date: cx.date };
            let body = response.encode(self.output.end(cx.pool), &manner);
            self.output.push_body(body);
        }
    }

    fn is_paused(&self, limits: &Limits) -> bool {
        self.answers.len() >= limits.in_flight_max
            || self.output.unsent_bytes() + self.answers.held_bytes() >= limits.unsent_bytes_max
    }

    /// Lets the pool know what it holds of answers.
    fn hold(&mut self, pool: &mut Pool) {
        let held = self.output.held_bytes() + self.answers.held_bytes();
        pool.hold(self.held, held);
        self.held = held;
    }

    /// Gives its memory back, before it is dropped.
    pub fn release(&mut self, pool: &mut Pool) {
        pool.take_input(&mut self.input);
        self.output.release(pool);
        pool.hold(self.held, 0);
        self.held = 0;
    }

    #[cfg(test)]
    pub fn carrier(&mut self) -> &mut C {
        &mut self.carrier
    }
}
