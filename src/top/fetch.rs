//! The thread that speaks to the network, so that the one with the terminal never waits for it. It asks again and again, and does
//! what it is told in between.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::action::Action;
use super::client::{Client, Failure};
use super::parked::Parked;
use crate::admin::status::Status;

/// What is parked is read from the databases: not more often than that.
const PARKED_EVERY: Duration = Duration::from_secs(5);

/// More would only be old.
const REPORTS_MAX: usize = 4;

/// One action is under way at a time; looking is said now and then.
const ORDERS_MAX: usize = 16;

pub enum Order {
    Act(Action),
    /// Whether anybody looks at what is parked.
    LookAtParked(bool),
}

pub enum Report {
    Status(Box<Result<Status, Failure>>),
    Parked(Result<Parked, Failure>),
    Done(Result<String, Failure>),
}

pub struct Fetcher {
    orders: Sender<Order>,
    pub reports: Receiver<Report>,
    thread: JoinHandle<()>,
}

impl Fetcher {
    pub fn start(client: Client, interval: Duration) -> std::io::Result<Fetcher> {
        let (orders, received) = bounded(ORDERS_MAX);
        let (send, reports) = bounded(REPORTS_MAX);
        let fetch = Fetch { client, interval, orders: received, reports: send, parked: false, parked_at: None };
        let thread = thread::Builder::new().name("top-fetch".to_owned()).spawn(|| fetch.run())?;
        Ok(Fetcher { orders, reports, thread })
    }

    /// False where it has too much to do, or is gone.
    pub fn tell(&self, order: Order) -> bool {
        match self.orders.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Ends it. What it was told to do is done first; a question under way is left behind, as the process ends anyway.
    pub fn end(self, acting: bool) {
        let Fetcher { orders, reports, thread } = self;
        drop(orders);
        if acting {
            // It may hang on a full channel.
            while reports.recv().is_ok() {}
            // Its panic was shown.
            let _ = thread.join();
        }
    }
}

struct Fetch {
    client: Client,
    interval: Duration,
    orders: Receiver<Order>,
    reports: Sender<Report>,
    parked: bool,
    parked_at: Option<Instant>,
}

impl Fetch {
    fn run(mut self) {
        let mut next = Instant::now();
        loop {
            match self.orders.recv_deadline(next) {
                Ok(Order::Act(action)) => {
                    if self.reports.send(Report::Done(self.client.act(&action))).is_err() {
                        return;
                    }
                    // What it changed is to be seen at once.
                    (next, self.parked_at) = (Instant::now(), None);
                }
                Ok(Order::LookAtParked(looked_at)) => {
                    self.parked = looked_at;
                    next = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    if self.ask().is_none() {
                        return;
                    }
                    // One question after the other, however long an answer takes.
                    next = (began + self.interval).max(Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// None where nobody listens.
    fn ask(&mut self) -> Option<()> {
        self.reports.send(Report::Status(Box::new(self.client.status()))).ok()?;
        if self.parked && self.parked_at.is_none_or(|at| at.elapsed() >= PARKED_EVERY) {
            self.parked_at = Some(Instant::now());
            self.reports.send(Report::Parked(self.client.parked())).ok()?;
        }
        Some(())
    }
}
