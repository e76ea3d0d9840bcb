//! Pooled connections for what is not the engine's work: checks, the schema, looking at fences. The engine's threads own one
//! connection each and never come here.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postgres::Client;
use postgres_openssl::MakeTlsConnector;
use r2d2::{HandleError, ManageConnection, PooledConnection};
use r2d2_postgres::PostgresConnectionManager;
use scheduled_thread_pool::{OnPoolDropBehavior, ScheduledThreadPool};

use crate::config::Shard;
use crate::sink::connect::{Connector, Opened};
use crate::sink::{Failure, Reason, sqlstate};

/// A few connections to one shard. Nothing is opened before it is asked for.
pub struct Pool {
    pool: r2d2::Pool<Manager>,
    last: LastFailure,
    wait: Duration,
}

/// Opens connections one after the other, in bounded time, which r2d2_postgres does not know; it knows whether they work.
pub struct Manager {
    connector: Mutex<Connector>,
    checks: PostgresConnectionManager<MakeTlsConnector>,
}

/// A connection to look with: it need not accept writes.
pub struct Lent(Option<Opened>);

/// r2d2 itself only says that no connection came in time.
#[derive(Debug, Default, Clone)]
struct LastFailure(Arc<Mutex<Option<Failure>>>);

/// What r2d2 takes for an error.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason())]
pub struct NotOpened(Failure);

impl ManageConnection for Manager {
    type Connection = Lent;
    type Error = NotOpened;

    fn connect(&self) -> Result<Lent, NotOpened> {
        self.connector.lock().open().map(|opened| Lent(Some(opened))).map_err(NotOpened)
    }

    fn is_valid(&self, lent: &mut Lent) -> Result<(), NotOpened> {
        self.checks.is_valid(lent).map_err(|error| NotOpened(sqlstate::connect_failure(&error)))
    }

    fn has_broken(&self, lent: &mut Lent) -> bool {
        self.checks.has_broken(lent)
    }
}

impl HandleError<NotOpened> for LastFailure {
    fn handle_error(&self, error: NotOpened) {
        *self.0.lock() = Some(error.0);
    }
}

impl Lent {
    fn opened(&self) -> &Opened {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// See [`Opened::direct`].
    pub fn is_direct(&self) -> bool {
        self.opened().direct
    }
}

impl Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.opened().client
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0.as_mut().expect("it is there until it is dropped").client
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Opened::discard);
    }
}

impl Pool {
    /// # Errors
    /// [`Failure::Shard`] for a connection string or certificate that cannot be read.
    pub fn new(shard: &Shard, group: &str, purpose: &str, connections_max: u32) -> Result<Pool, Failure> {
        let connector = Connector::new(shard, group, purpose)?;
        let wait = connector.connect_max();
        let manager = Manager { checks: connector.manager()?, connector: Mutex::new(connector) };
        let last = LastFailure::default();
        let pool = r2d2::Pool::builder()
            .max_size(connections_max)
            .min_idle(Some(0))
            // Nobody keeps a pool for long: nothing of it grows old, and no thread stays to look whether something has.
            .max_lifetime(None)
            .idle_timeout(None)
            .thread_pool(Arc::new(opener()))
            .error_handler(Box::new(last.clone()))
            .build_unchecked(manager);
        Ok(Pool { pool, last, wait })
    }

    /// A connection, as soon as [`Connector::open`] has one. It need not accept writes.
    pub fn get(&self) -> Result<PooledConnection<Manager>, Failure> {
        self.pool.get_timeout(self.wait).map_err(|_| {
            let last = self.last.0.lock().take();
            last.unwrap_or_else(|| Failure::Outage(Reason::new("no answer to the connection attempt")))
        })
    }
}

/// The thread that opens a pool's connections, one after the other as [`Manager`] does; r2d2 would take three. Each pool has its own,
/// so that no shard waits for another one that is away, and it ends with its pool.
fn opener() -> ScheduledThreadPool {
    ScheduledThreadPool::builder()
        .num_threads(1)
        .on_drop_behavior(OnPoolDropBehavior::DiscardPendingScheduled)
        .thread_name_pattern("pg-pool")
        .build()
}
