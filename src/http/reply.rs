//! How answers come from other threads, and how the server is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::response::Response;

/// Which connection. Generations are unique in the process, so nothing that belongs to a connection that is gone, or to another
/// server, is ever taken for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub slot: u32,
    pub generation: u64,
}

impl Key {
    pub fn new(slot: u32) -> Key {
        static GENERATION: AtomicU64 = AtomicU64::new(0);
        Key { slot, generation: GENERATION.fetch_add(1, Ordering::Relaxed) }
    }
}

/// The right to answer one request, once. Dropping it is harmless: the server gives up waiting by itself.
#[derive(Debug)]
pub struct Ticket {
    pub(super) key: Key,
    pub(super) number: u64,
    /// Then the server answers by itself.
    pub(super) due_by: Instant,
}

/// Who asked, by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Waits,
    /// It will send nothing more. Most have gone then, which shows only once something is sent; some still read.
    Ended,
    /// Nobody gets the answer: the connection is no more, or the server has answered.
    Gone,
}

/// Answers from any thread what the service deferred.
#[derive(Clone)]
pub struct Replier {
    /// Not bounded: it holds at most one answer for each ticket, and whoever issues tickets is bounded.
    answers: Sender<(Ticket, Response)>,
    alarm: Arc<Alarm>,
    presence: Arc<Presence>,
}

impl Replier {
    /// For a server that uses no more than `slots`.
    pub(super) fn new(waker: mio::Waker, slots: usize) -> (Replier, Receiver<(Ticket, Response)>) {
        let (answers, receiver) = crossbeam_channel::unbounded();
        let alarm = Alarm { waker, raised: AtomicBool::new(false), stop: AtomicBool::new(false) };
        let presence = Presence { slots: (0..slots).map(|_| AtomicU64::new(NOBODY)).collect() };
        (Replier { answers, alarm: Arc::new(alarm), presence: Arc::new(presence) }, receiver)
    }

    /// Whether it is worth to begin with what this ticket is for.
    pub fn asker(&self, ticket: &Ticket) -> Asker {
        if Instant::now() >= ticket.due_by { Asker::Gone } else { self.presence.of(ticket.key) }
    }

    /// Never waits. Whoever no longer waits for it, connection or server, does not get it.
    pub fn answer(&self, ticket: Ticket, response: Response) {
        if self.answers.send((ticket, response)).is_ok() {
            self.alarm.raise();
        }
    }

    pub(super) fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    pub(super) fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }
}

const NOBODY: u64 = u64::MAX;

/// Which connections there are, for other threads to see: of each slot twice the generation, and one more if its peer has ended its side.
pub struct Presence {
    slots: Vec<AtomicU64>,
}

impl Presence {
    pub fn set(&self, key: Key, ended: bool) {
        if let Some(slot) = self.slots.get(key.slot as usize) {
            slot.store(key.generation * 2 + u64::from(ended), Ordering::Relaxed);
        }
    }

    pub fn clear(&self, slot: u32) {
        if let Some(slot) = self.slots.get(slot as usize) {
            slot.store(NOBODY, Ordering::Relaxed);
        }
    }

    fn of(&self, key: Key) -> Asker {
        let found = self.slots.get(key.slot as usize).map_or(NOBODY, |slot| slot.load(Ordering::Relaxed));
        match found ^ (key.generation * 2) {
            0 => Asker::Waits,
            1 => Asker::Ended,
            _ => Asker::Gone,
        }
    }
}

/// Tells a server to stop, from any thread.
#[derive(Clone)]
pub struct Stop(pub(super) Arc<Alarm>);

impl Stop {
    /// Returns at once. [`super::Server::run`] ends once the requests under way are answered.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.raise();
    }
}

/// Wakes the server's thread, once for all that comes before it has looked.
pub struct Alarm {
    waker: mio::Waker,
    raised: AtomicBool,
    stop: AtomicBool,
}

impl Alarm {
    fn raise(&self) {
        // What was sent before is seen by whoever lowers the alarm after this.
        if !self.raised.swap(true, Ordering::AcqRel) {
            // Without a wake the answer waits for the server's next look around.
            let _ = self.waker.wake();
        }
    }

    /// Before the server looks.
    pub fn lower(&self) {
        self.raised.swap(false, Ordering::AcqRel);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
