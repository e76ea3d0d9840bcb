//! Where the admin interface listens, and its threads: one that answers, and some that wait for databases for it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::admin::action::Action;
use crate::admin::collect::Collector;
use crate::admin::routes::{Actions, Logs, Routes, guarded};
use crate::config;
use crate::engine::Observer;
use crate::engine::thread::Thread;
use crate::http::{Limits, Listener, Replier, Response, Server, Status, Stop, Ticket};

/// Requests that wait for a thread that waits for databases: orders, and listings, each have one of their own, so that a listing
/// that waits for a shard that is away keeps no order waiting.
const ACTIONS_MAX: usize = 32;
/// How long whoever ends waits for what these threads have begun.
const JOIN_DEADLINE: Duration = Duration::from_secs(2);
/// Of the socket's file: this user and group.
const SOCKET_MODE: u32 = 0o660;

/// A running admin interface; it ends when it is dropped.
pub struct Admin {
    stop: Stop,
    /// What waits for a database is not begun any more.
    over: Arc<AtomicBool>,
    threads: Vec<Thread>,
    address: Option<SocketAddr>,
}

impl Admin {
    /// Listens where the engine's configuration says. None where it says nowhere, or where nobody asked for it and somebody else
    /// listens there.
    ///
    /// # Errors
    /// If an address or a socket that was asked for cannot be had, or a thread not be started.
    pub fn start(observer: Observer, logs: Logs) -> io::Result<Option<Admin>> {
        let config = observer.config();
        let (listeners, address) = listeners(&config.admin)?;
        if listeners.is_empty() {
            return Ok(None);
        }
        let logs = Arc::new(logs);
        let level = Arc::clone(&logs);
        let collector = Arc::new(Collector::new(observer, Box::new(move || (level.level)())));
        let (listings, orders) = (bounded(ACTIONS_MAX), bounded(ACTIONS_MAX));
        let actions = Actions { listings: listings.0, orders: orders.0 };
        let token = config.admin.token.clone();
        let routes = {
            let collector = Arc::clone(&collector);
            move |replier| Routes { collector, logs, actions, replier, token, kept_at: Instant::now() }
        };
        let mut server = Server::new(listeners, limits(), routes)?;
        let (stop, replier) = (server.stopper(), server.service().replier.clone());
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (name, actions) in [("forebay-list", listings.1), ("forebay-act", orders.1)] {
            let (replier, collector, over) = (replier.clone(), Arc::clone(&collector), Arc::clone(&over));
            threads.push(Thread::spawn(name, None, None, move || act(&actions, &replier, &collector, &over))?);
        }
        let body = move || {
            if let Err(error) = server.run() {
                tracing::error!("the admin interface is gone: {error}");
            }
        };
        threads.push(Thread::spawn("forebay-admin", None, None, body)?);
        Ok(Some(Admin { stop, over, threads, address }))
    }

    /// Where it listens; none: on a socket only.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.stop.stop();
        let deadline = Instant::now() + JOIN_DEADLINE;
        self.threads.drain(..).for_each(|thread| thread.join(deadline));
    }
}

fn listeners(admin: &config::Admin) -> io::Result<(Vec<Listener>, Option<SocketAddr>)> {
    let (mut listeners, mut address) = (Vec::new(), None);
    if let Some(wanted) = admin.listen {
        match Listener::tcp(wanted, false) {
            Ok(listener) => {
                address = listener.local_addr();
                listeners.push(listener);
            }
            Err(error) if !admin.listen_written && error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(
                    "no admin interface: somebody else listens on {wanted}; [admin] listen says where else, or \"off\""
                );
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("[admin] listen {wanted}: {error}"))),
        }
    }
    if let Some(path) = &admin.socket {
        let listener = Listener::unix(path, SOCKET_MODE)
            .map_err(|error| io::Error::new(error.kind(), format!("[admin] socket {}: {error}", path.display())))?;
        listeners.push(listener);
    }
    Ok((listeners, address))
}

/// Few clients, small requests, and answers that may be long: a status of a thousand partitions.
fn limits() -> Limits {
    Limits {
        body_bytes_max: 64 << 10,
        buffered_bytes_max: 8 << 20,
        connections_max: 128,
        in_flight_max: 8,
        unsent_bytes_max: 4 << 20,
        // A shard that is away is waited for that long.
        answer_deadline: Duration::from_secs(60),
        drain_deadline: Duration::from_secs(1),
        ..Limits::default()
    }
}

/// Until the server is gone. Who asks for the same listing meanwhile gets the same answer. What panics is answered, and said where it
/// happened.
fn act(actions: &Receiver<(Ticket, Action)>, replier: &Replier, collector: &Collector, over: &AtomicBool) {
    let mut waiting: VecDeque<(Ticket, Action)> = VecDeque::new();
    while let Some((ticket, action)) = waiting.pop_front().or_else(|| actions.recv().ok()) {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let config = collector.observer().config();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| action.run(&config)));
        let response = done.unwrap_or_else(|_| {
            tracing::error!("admin: {} panicked", action.told());
            Response::problem(Status::INTERNAL_SERVER_ERROR, "a defect of forebay; whether it was done is not known")
        });
        let response = guarded(response);
        if action.is_listing() {
            waiting.extend(actions.try_iter());
            let (same, others) = waiting.into_iter().partition::<VecDeque<_>, _>(|(_, asked)| *asked == action);
            waiting = others;
            same.into_iter().for_each(|(other, _)| replier.answer(other, response.clone()));
        } else {
            tracing::info!("admin: {}: {}", action.told(), response.status().0);
        }
        replier.answer(ticket, response);
    }
}
