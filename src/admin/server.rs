//! Where the admin interface listens, and its threads: one that answers, and some that wait for databases for it.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::admin::action::Action;
use crate::admin::collect::Collector;
use crate::admin::lines::{self, Lines};
use crate::admin::routes::{Logs, Routes};
use crate::config::{self, Config};
use crate::cpus::Place;
use crate::engine::Observer;
use crate::engine::thread::Thread;
use crate::http::{Limits, Listener, Server, Stop};

/// How long whoever ends waits for requests under way: a listing takes as long as its databases.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// The longest `connect_timeout` of orders: a person waits, and others behind.
const ORDER_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of the socket's file: this user and group.
const SOCKET_MODE: u32 = 0o660;

/// A running admin interface; it ends when it is dropped.
pub struct Admin {
    stop: Stop,
    /// What waits for a database is not begun any more.
    over: Arc<AtomicBool>,
    thread: Option<Thread>,
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
        let over = Arc::new(AtomicBool::new(false));
        let run = {
            let collector = Arc::clone(&collector);
            move |action: &Action| action.run(&patient(&collector.observer().config(), action))
        };
        let routes = |replier| {
            let shards = config.shards.iter().map(|shard| shard.name.clone()).collect();
            let lines = Lines::new(shards, Box::new(run), replier, Arc::clone(&over));
            Routes::new(collector, logs, lines, config.admin.token.clone())
        };
        let mut server = Server::new(listeners, limits(), routes)?;
        let stop = server.stopper();
        let body = move || {
            if let Err(error) = server.run() {
                tracing::error!("the admin interface is gone: {error}");
            }
        };
        let thread = Some(Thread::spawn("forebay-admin", Place::default(), None, body)?);
        Ok(Some(Admin { stop, over, thread, address }))
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
        // It drains, and ends the threads that wait for databases.
        let deadline = Instant::now() + DRAIN_DEADLINE + 2 * lines::JOIN_DEADLINE;
        self.thread.take().into_iter().for_each(|thread| thread.join(deadline));
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

/// The configuration, for whom it is to be done: an order does not wait as long for a connection as what has all night.
fn patient<'c>(config: &'c Config, action: &Action) -> Cow<'c, Config> {
    if action.is_listing() {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    for shard in &mut config.shards {
        shard.connect_timeout = shard.connect_timeout.min(ORDER_CONNECT_TIMEOUT);
    }
    Cow::Owned(config)
}

/// Few clients, small requests, and answers that may be long: a status of a thousand partitions, or a listing.
fn limits() -> Limits {
    Limits {
        body_bytes_max: 64 << 10,
        buffered_bytes_max: 8 << 20,
        connections_max: 128,
        // A listing is large, and made before anybody has taken the one before it.
        in_flight_max: 1,
        all_unsent_bytes_max: 32 << 20,
        // A shard that is away is waited for that long.
        answer_deadline: Duration::from_secs(60),
        drain_deadline: DRAIN_DEADLINE,
        ..Limits::default()
    }
}
