//! How a shard's threads speak to the poller: an event, and a wake-up where the poller asked for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::engine::event::{Doing, Event, Health};
use crate::engine::gate::Gate;
use crate::sink::{Failure, Reason};
use crate::types::{ShardIx, TopicIx};

/// Wakes the poller, but only while it has asked for that: a wake-up costs more than a message.
#[derive(Clone)]
pub struct Waker {
    asked: Arc<AtomicBool>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Waker {
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Waker {
        Waker { asked: Arc::new(AtomicBool::new(false)), wake }
    }

    /// The poller is about to wait, and something it waits for may come from a worker.
    pub fn ask(&self, wanted: bool) {
        self.asked.store(wanted, Ordering::SeqCst);
    }

    pub fn wake(&self) {
        if self.asked.load(Ordering::SeqCst) && self.asked.swap(false, Ordering::SeqCst) {
            (self.wake)();
        }
    }
}

/// One thread's voice. It says once that its database is away, and once that it is back.
pub struct Reporter {
    shard: ShardIx,
    /// For people.
    name: String,
    events: Sender<Event>,
    waker: Waker,
    gate: Arc<Gate>,
    /// What kind of trouble was told last, and PostgreSQL's code for it.
    down: Option<(std::mem::Discriminant<Failure>, Option<String>)>,
}

impl Reporter {
    pub fn new(shard: ShardIx, name: &str, events: Sender<Event>, waker: Waker, gate: Arc<Gate>) -> Reporter {
        Reporter { shard, name: name.to_owned(), events, waker, gate, down: None }
    }

    /// The shard's breaker.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub fn shard(&self) -> ShardIx {
        self.shard
    }

    /// What the configuration calls the shard.
    pub fn shard_name(&self) -> &str {
        &self.name
    }

    pub fn tell(&self, event: Event) {
        // A poller that is gone needs no answer.
        if self.events.send(event).is_ok() {
            self.waker.wake();
        }
    }

    pub fn unwell(&mut self, failure: &Failure) {
        if self.gate.failed() {
            self.tell(Event::Opened { shard: self.shard });
        }
        let kind = (std::mem::discriminant(failure), failure.reason().sqlstate.clone());
        // Of a connection that broke the server says nothing; what it said before explains more.
        let is_told = |told: &(_, Option<String>)| told.0 == kind.0 && (kind.1.is_none() || told.1 == kind.1);
        if !self.down.as_ref().is_some_and(is_told) {
            self.down = Some(kind);
            self.tell(Event::Shard { shard: self.shard, health: Health::Down(failure.clone()) });
        }
    }

    /// For a topic that waits for something else than a database that is away. `lasted` where it is to be said.
    pub fn in_vain(&self, topic: TopicIx, doing: Doing, lasted: Option<Duration>, reason: Option<&Reason>) {
        if let Some(lasted) = lasted {
            self.tell(Event::InVain { shard: self.shard, topic, doing, lasted, reason: reason.cloned() });
        }
    }

    /// The shard's breaker was closed by a probe: whoever said that it is away need not come back to say that it is there.
    pub fn recovered(&mut self) {
        self.down = None;
        self.tell(Event::Shard { shard: self.shard, health: Health::Up });
    }

    pub fn well(&mut self) {
        if self.down.take().is_some() {
            self.tell(Event::Shard { shard: self.shard, health: Health::Up });
        }
    }
}
