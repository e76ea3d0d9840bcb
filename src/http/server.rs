//! The loop: one thread, one poll, all connections. It accepts, gives turns, hands answers from other threads on, and looks at
//! the deadlines.
//!
//! Whoever comes beyond the limit of connections takes the place of one that asks for nothing. If there is none, it is accepted all the
//! same, and told so with a 503: one who is left to wait in the kernel's queue learns nothing before a time-out of its own, and a load
//! balancer would send it more.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use super::buffer::Pool;
use super::connection::{Connection, Context, TURN_TIME, Turn};
use super::date::Date;
use super::limits::Limits;
use super::listener::Listener;
use super::places::{Place, Places, SURPLUS_MAX};
use super::reply::{Alarm, Presence, Replier, Stop, Ticket};
use super::request::Peer;
use super::response::Response;
use super::slab::Slab;
use super::stream::Stream;
use super::{Counts, Service};

/// Events that one poll brings.
const EVENTS: usize = 1024;
/// Connections that a step accepts from one listener.
const STEP_ACCEPTS: usize = 64;
/// Connections that are accepted from a listener before it closes: more than the kernel keeps waiting.
const LAST_ACCEPTS: usize = 4096;
/// How long nothing is accepted after the operating system could give no more, and how long [`Server::run`] waits for
/// something to happen before it gives the service a tick.
const PAUSE: Duration = Duration::from_millis(250);
/// Connections have the tokens of their slots, which have 32 bits; doors have those from here on.
const DOORS: usize = 1 << 40;
const ALARM: Token = Token(usize::MAX);

/// Speaks HTTP on some listeners, for one service, in the thread that calls it.
pub struct Server<V> {
    poll: Poll,
    events: Events,
    doors: Vec<Door>,
    places: Places,
    connections: Slab<Connection<Stream>>,
    /// Slots of connections that are to have a turn.
    line: VecDeque<u32>,
    answers: Receiver<(Ticket, Response)>,
    alarm: Arc<Alarm>,
    presence: Arc<Presence>,
    service: V,
    limits: Limits,
    pool: Pool,
    counts: Counts,
    date: Date,
    next_sweep: Instant,
    /// When it was said last that no connection can be accepted.
    refused_said: Option<Instant>,
}

/// A listener, and whether it is worth a try.
struct Door {
    listener: Listener,
    ready: bool,
    closed_until: Option<Instant>,
}

/// How often it is worth a line that no connection can be accepted.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut, because the deadline came before their requests were answered.
    pub cut: usize,
}

impl<V: Service> Server<V> {
    /// The service is made with what it needs to answer later.
    pub fn new(listeners: Vec<Listener>, limits: Limits, service: impl FnOnce(Replier) -> V) -> io::Result<Server<V>> {
        limits.check().map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        let poll = Poll::new()?;
        let mut doors = Vec::new();
        for (index, mut listener) in listeners.into_iter().enumerate() {
            listener.register(poll.registry(), Token(DOORS + index))?;
            doors.push(Door { listener, ready: true, closed_until: None });
        }
        let slots = limits.connections_max + SURPLUS_MAX;
        let (replier, answers) = Replier::new(Waker::new(poll.registry(), ALARM)?, slots);
        let now = Instant::now();
        Ok(Server {
            poll,
            events: Events::with_capacity(EVENTS),
            places: Places::new(limits.connections_max, doors.len()),
            doors,
            connections: Slab::new(),
            line: VecDeque::new(),
            answers,
            alarm: Arc::clone(replier.alarm()),
            presence: Arc::clone(replier.presence()),
            service: service(replier),
            pool: Pool::new(limits.buffered_bytes_max),
            counts: Counts::default(),
            date: Date::default(),
            next_sweep: now + limits.sweep_interval(),
            refused_said: None,
            limits,
        })
    }

    pub fn stopper(&self) -> Stop {
        Stop(Arc::clone(&self.alarm))
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn service(&mut self) -> &mut V {
        &mut self.service
    }

    /// Serves until it is told to stop, and then drains. An error is the operating system's, of the poll itself.
    pub fn run(&mut self) -> io::Result<Drained> {
        while !self.alarm.is_stopped() {
            self.step(PAUSE)?;
        }
        self.drain()
    }

    /// Accepts nothing more, lets the requests under way end, and closes.
    pub fn drain(&mut self) -> io::Result<Drained> {
        let now = Instant::now();
        self.close_doors(now);
        self.tell_all(Connection::drain);
        self.step_until(now + self.limits.drain_grace.min(self.limits.drain_deadline / 2))?;
        self.tell_all(Connection::part);
        self.step_until(now + self.limits.drain_deadline)?;
        let cut = self.connections.len();
        for slot in 0..self.connections.slots() {
            self.close(slot);
        }
        Ok(Drained { cut })
    }

    /// Those that wait to be accepted would be reset.
    fn close_doors(&mut self, now: Instant) {
        for index in 0..self.doors.len() {
            for _ in 0..LAST_ACCEPTS {
                let accepted = self.doors[index].listener.accept();
                match accepted.and_then(|(stream, peer)| self.welcome(index, stream, peer, now)) {
                    Ok(()) => {}
                    Err(error) if concerns_one_peer(error.kind()) => self.counts.accept_errors += 1,
                    // There is none, or nothing to accept it with.
                    Err(_) => break,
                }
            }
        }
        self.doors.clear();
    }

    fn tell_all(&mut self, tell: impl Fn(&mut Connection<Stream>)) {
        for slot in 0..self.connections.slots() {
            if let Some(connection) = self.connections.at(slot) {
                tell(connection);
                put_in_line(connection, slot, &mut self.line);
            }
        }
    }

    /// As long as there are connections.
    fn step_until(&mut self, until: Instant) -> io::Result<()> {
        while self.connections.len() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.step(left.min(PAUSE))?;
        }
        Ok(())
    }

    /// Waits for something to happen, at most `timeout`, and does what is to be done.
    pub fn step(&mut self, timeout: Duration) -> io::Result<()> {
        let wait = self.wait(timeout);
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            polled => polled?,
        }
        let now = Instant::now();
        self.date.refresh(SystemTime::now());
        for event in &self.events {
            match event.token() {
                ALARM => {}
                Token(slot) if slot < DOORS => notice(event, slot as u32, &mut self.connections, &mut self.line),
                Token(door) => {
                    if let Some(door) = self.doors.get_mut(door - DOORS) {
                        door.ready = true;
                    }
                }
            }
        }
        self.accept(now);
        self.hand_answers_on();
        // Who gets in line again waits until all others had their turn.
        for _ in 0..self.line.len() {
            if let Some(slot) = self.line.pop_front() {
                self.give_turn(slot, now);
            }
        }
        if now >= self.next_sweep {
            self.sweep(now);
        }
        self.counts.connections = self.connections.len() as u64;
        self.service.tick(now, &self.counts);
        Ok(())
    }

    /// How long there is nothing to do unless something happens.
    fn wait(&self, timeout: Duration) -> Duration {
        let now = Instant::now();
        let opens = |door: &Door| door.ready.then(|| door.closed_until.unwrap_or(now));
        if !self.line.is_empty() {
            return Duration::ZERO;
        }
        let sweep = (self.connections.len() > 0).then_some(self.next_sweep);
        let next = self.doors.iter().filter_map(opens).chain(sweep).min();
        next.map_or(timeout, |next| timeout.min(round_up(next.saturating_duration_since(now))))
    }

    fn accept(&mut self, now: Instant) {
        for index in 0..self.doors.len() {
            let door = &mut self.doors[index];
            if door.closed_until.is_some_and(|until| until > now) {
                continue;
            }
            door.closed_until = None;
            for _ in 0..STEP_ACCEPTS {
                let door = &mut self.doors[index];
                if !door.ready {
                    break;
                }
                let accepted = door.listener.accept();
                match accepted.and_then(|(stream, peer)| self.welcome(index, stream, peer, now)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.doors[index].ready = false,
                    Err(error) if concerns_one_peer(error.kind()) => self.counts.accept_errors += 1,
                    Err(error) => {
                        // Out of descriptors or memory: trying again at once would only burn the CPU.
                        if self.refused_said.is_none_or(|said| now.duration_since(said) >= SAID_AGAIN) {
                            self.refused_said = Some(now);
                            tracing::warn!(%error, "no connection can be accepted for now");
                        }
                        self.counts.accept_errors += 1;
                        self.doors[index].closed_until = Some(now + PAUSE);
                        break;
                    }
                }
            }
        }
    }

    fn welcome(&mut self, door: usize, mut stream: Stream, peer: Peer, now: Instant) -> io::Result<()> {
        self.counts.accepted += 1;
        if self.places.is_full(door) {
            self.displace(door, now);
        }
        let place = self.places.take(door);
        self.counts.surplus += u64::from(place != Place::Served);
        if place == Place::None {
            return Ok(());
        }
        let mut registered = Ok(());
        let key = self.connections.insert(|key| {
            let token = Token(key.slot as usize);
            registered = self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE);
            Connection::new(stream, key, peer, place == Place::Surplus, now)
        });
        if let Some(connection) = self.connections.at(key.slot) {
            connection.door = door;
            self.presence.set(key, false);
            // What it asks for is often there already.
            put_in_line(connection, key.slot, &mut self.line);
        }
        if registered.is_err() {
            self.close(key.slot);
        }
        registered
    }

    /// Makes room for one at this door, if somebody who is in the way asks for nothing: of these, who has for the longest time.
    fn displace(&mut self, door: usize, now: Instant) {
        let idle = |(slot, connection): (u32, &Connection<Stream>)| {
            let waited = connection.idle(now).filter(|_| self.places.is_in_the_way(connection.door, door))?;
            Some((waited, slot))
        };
        if let Some((_, slot)) = self.connections.iter().filter_map(idle).max() {
            self.counts.displaced += 1;
            self.close(slot);
        }
    }

    /// Cuts who has not taken its answers for the longest time, until the others are within the bound. `newest` had the last turn, and
    /// stays: it holds no more than one connection may.
    fn relieve(&mut self, newest: u32, now: Instant) {
        while self.pool.unsent_bytes() > self.limits.all_unsent_bytes_max {
            let others = self.connections.iter().filter(|(slot, _)| *slot != newest);
            let Some((_, slot)) = others.filter_map(|(slot, other)| Some((other.burden(now)?, slot))).max() else {
                return;
            };
            self.counts.relieved += 1;
            self.close(slot);
        }
    }

    fn hand_answers_on(&mut self) {
        self.alarm.lower();
        for _ in 0..self.answers.len() {
            let Ok((ticket, response)) = self.answers.try_recv() else {
                return;
            };
            let waiting = self.connections.get(ticket.key);
            let waiting =
                waiting.and_then(|connection| connection.answer(ticket.number, response).then_some(connection));
            match waiting {
                Some(connection) => put_in_line(connection, ticket.key.slot, &mut self.line),
                None => self.counts.late_answers += 1,
            }
        }
    }

    fn give_turn(&mut self, slot: u32, now: Instant) {
        self.serve(slot, now, |connection, context| {
            connection.in_line = false;
            connection.turn(context)
        });
        self.relieve(slot, now);
    }

    fn sweep(&mut self, now: Instant) {
        self.next_sweep = now + self.limits.sweep_interval();
        for slot in 0..self.connections.slots() {
            self.serve(slot, now, |connection, context| connection.expire(context));
        }
    }

    /// What a connection, if the slot has one, needs after `turn`.
    fn serve(
        &mut self,
        slot: u32,
        now: Instant,
        turn: impl FnOnce(&mut Connection<Stream>, &mut Context<'_, V>) -> Turn,
    ) {
        let Some(connection) = self.connections.at(slot) else {
            return;
        };
        let mut context = Context {
            service: &mut self.service,
            limits: &self.limits,
            pool: &mut self.pool,
            counts: &mut self.counts,
            now,
            until: Instant::now() + TURN_TIME,
            clock: Instant::now,
            date: &self.date.text,
        };
        let turn = turn(connection, &mut context);
        self.presence.set(connection.key(), connection.has_ended());
        match turn {
            Turn::Again => put_in_line(connection, slot, &mut self.line),
            Turn::Wait => {}
            Turn::Close => self.close(slot),
        }
    }

    /// The poll forgets a descriptor that is closed.
    fn close(&mut self, slot: u32) {
        if let Some(mut connection) = self.connections.remove(slot) {
            connection.release(&mut self.pool);
            self.presence.clear(slot);
            self.places.give_back(connection.door, connection.is_surplus());
        }
    }
}

fn put_in_line(connection: &mut Connection<Stream>, slot: u32, line: &mut VecDeque<u32>) {
    if !connection.in_line {
        connection.in_line = true;
        line.push_back(slot);
    }
}

/// An event may be one of a connection that is closed, whose slot is another's by now: that one then tries in vain, no more.
fn notice(event: &Event, slot: u32, connections: &mut Slab<Connection<Stream>>, line: &mut VecDeque<u32>) {
    if let Some(connection) = connections.at(slot) {
        let ended = event.is_read_closed() || event.is_error();
        connection.notice(event.is_readable(), event.is_writable(), ended);
        put_in_line(connection, slot, line);
    }
}

/// Whether accepting failed because of who wanted to connect, so that the next one may fare better.
fn concerns_one_peer(error: io::ErrorKind) -> bool {
    use io::ErrorKind::*;
    matches!(
        error,
        ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | HostUnreachable | NetworkUnreachable
    )
}

/// The poll counts milliseconds and cuts off the rest, for which one would be awake without need.
fn round_up(wait: Duration) -> Duration {
    Duration::from_millis(wait.as_micros().div_ceil(1000) as u64)
}
