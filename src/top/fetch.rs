//! The threads that speak to the network, so that the one with the terminal never waits for it. One asks for the status, again and
//! again; one does what it is told; one asks for what is parked, while somebody looks. None waits for another: behind the last two
//! there may be a database that does not answer.

use std::sync::Arc;
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

/// What was told and is under way at the end has so long to be sent; whoever was told goes on alone then.
const END_PATIENCE: Duration = Duration::from_secs(5);

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
    actions: Sender<Action>,
    looks: Sender<Look>,
    pub reports: Receiver<Report>,
    threads: Vec<JoinHandle<()>>,
}

/// For the thread that asks for what is parked.
enum Look {
    Looks(bool),
    /// Something has changed.
    Again,
}

impl Fetcher {
    pub fn start(client: Client, interval: Duration) -> std::io::Result<Fetcher> {
        let client = Arc::new(client);
        let (actions, told) = bounded(ORDERS_MAX);
        let (looks, looked) = bounded(ORDERS_MAX);
        let (again, asked) = bounded(1);
        let (send, reports) = bounded(REPORTS_MAX);
        let statuses = Statuses { client: Arc::clone(&client), interval, again: asked, reports: send.clone() };
        let listings = Listings { client: Arc::clone(&client), looks: looked, reports: send.clone() };
        let acts = Acts { client, actions: told, again, looks: looks.clone(), reports: send };
        let threads = vec![
            thread::Builder::new().name("top-status".to_owned()).spawn(move || statuses.run())?,
            thread::Builder::new().name("top-parked".to_owned()).spawn(move || listings.run())?,
            thread::Builder::new().name("top-act".to_owned()).spawn(move || acts.run())?,
        ];
        Ok(Fetcher { actions, looks, reports, threads })
    }

    /// False where it has too much to do, or is gone.
    pub fn tell(&self, order: Order) -> bool {
        match order {
            Order::Act(action) => sent(self.actions.try_send(action)),
            Order::LookAtParked(looked_at) => sent(self.looks.try_send(Look::Looks(looked_at))),
        }
    }

    /// One of its threads has ended before its time.
    pub fn is_gone(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends it. What it was told to do is done first, unless that takes long; a question under way is left behind, as the process
    /// ends anyway.
    pub fn end(self, acting: bool) {
        let Fetcher { actions, looks, reports, threads: _ } = self;
        drop((actions, looks));
        let deadline = Instant::now() + END_PATIENCE;
        // The channel may be full of other things.
        let mut waits = acting;
        while waits {
            waits = matches!(reports.recv_deadline(deadline), Ok(Report::Status(_) | Report::Parked(_)));
        }
    }
}

fn sent<T>(result: Result<(), TrySendError<T>>) -> bool {
    match result {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    }
}

struct Statuses {
    client: Arc<Client>,
    interval: Duration,
    again: Receiver<()>,
    reports: Sender<Report>,
}

impl Statuses {
    /// Until nobody listens.
    fn run(self) {
        loop {
            let began = Instant::now();
            if self.reports.send(Report::Status(Box::new(self.client.status()))).is_err() {
                return;
            }
            // One question after the other, however long an answer takes.
            match self.again.recv_deadline(began + self.interval) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

struct Listings {
    client: Arc<Client>,
    looks: Receiver<Look>,
    reports: Sender<Report>,
}

impl Listings {
    fn run(self) {
        let (mut looked_at, mut next) = (false, Instant::now());
        loop {
            let told = match looked_at {
                true => self.looks.recv_deadline(next),
                false => self.looks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match told {
                Ok(Look::Looks(looks)) => looked_at = looks,
                Ok(Look::Again) => next = Instant::now(),
                Err(RecvTimeoutError::Timeout) => {
                    if self.reports.send(Report::Parked(self.client.parked())).is_err() {
                        return;
                    }
                    next = Instant::now() + PARKED_EVERY;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

struct Acts {
    client: Arc<Client>,
    actions: Receiver<Action>,
    again: Sender<()>,
    looks: Sender<Look>,
    reports: Sender<Report>,
}

impl Acts {
    fn run(self) {
        for action in &self.actions {
            if self.reports.send(Report::Done(self.client.act(&action))).is_err() {
                return;
            }
            // What it changed is to be seen at once; whoever has been told to look anyway needs no second word.
            let _ = self.again.try_send(());
            let _ = self.looks.try_send(Look::Again);
        }
    }
}
