//! Where the admin interface listens, and its threads: one that answers, and some that wait for databases for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::admin::action::Action;
use crate::admin::collect::Collector;
use crate::admin::routes::{Logs, Routes, guarded};
use crate::config;
use crate::engine::Observer;
use crate::http::{Limits, Listener, Replier, Server, Stop, Ticket};

/// Threads that wait for databases: a listing that waits for a shard that is away must not keep an action waiting.
const ACTORS: usize = 2;
/// Requests that wait for one of them.
const ACTIONS_MAX: usize = 32;
/// Of the socket's file: this user and group.
const SOCKET_MODE: u32 = 0o660;

/// A running admin interface; it ends when it is dropped.
pub struct Admin {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
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
        let (actions, orders) = bounded(ACTIONS_MAX);
        let token = config.admin.token.clone();
        let routes = {
            let collector = Arc::clone(&collector);
            move |replier| Routes { collector, logs, actions, replier, token, kept_at: Instant::now() }
        };
        let mut server = Server::new(listeners, limits(), routes)?;
        let (stop, replier) = (server.stopper(), server.service().replier.clone());
        let mut threads = Vec::new();
        for _ in 0..ACTORS {
            let (orders, replier, collector) = (orders.clone(), replier.clone(), Arc::clone(&collector));
            let body = move || act(&orders, &replier, &collector);
            threads.push(std::thread::Builder::new().name("forebay-act".into()).spawn(body)?);
        }
        let body = move || {
            if let Err(error) = server.run() {
                tracing::error!("the admin interface is gone: {error}");
            }
        };
        threads.push(std::thread::Builder::new().name("forebay-admin".into()).spawn(body)?);
        Ok(Some(Admin { stop, threads, address }))
    }

    /// Where it listens; none: on a socket only.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.stop();
        for thread in self.threads.drain(..) {
            // A panic was said where it happened.
            let _ = thread.join();
        }
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

/// Until the server is gone.
fn act(orders: &Receiver<(Ticket, Action)>, replier: &Replier, collector: &Collector) {
    while let Ok((ticket, action)) = orders.recv() {
        let response = action.run(&collector.observer().config());
        if !matches!(action, Action::Parked { .. } | Action::Letters { .. }) {
            tracing::info!("admin: {}: {}", action.name(), response.status().0);
        }
        replier.answer(ticket, guarded(response));
    }
}
