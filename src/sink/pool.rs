//! Pooled connections for what is not the engine's work: checks, the schema, looking at fences. The engine's threads own one
//! connection each and never come here.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postgres_openssl::MakeTlsConnector;
use r2d2::{HandleError, PooledConnection};
use r2d2_postgres::PostgresConnectionManager;

use crate::config::Shard;
use crate::sink::connect::Connector;
use crate::sink::{Failure, Reason, sqlstate};

type Manager = PostgresConnectionManager<MakeTlsConnector>;

/// A few connections to one shard. Nothing is opened before it is asked for.
pub struct Pool {
    pool: r2d2::Pool<Manager>,
    last: LastFailure,
    wait: Duration,
}

/// r2d2 itself only says that no connection came in time.
#[derive(Debug, Default, Clone)]
struct LastFailure(Arc<Mutex<Option<Failure>>>);

impl HandleError<postgres::Error> for LastFailure {
    fn handle_error(&self, error: postgres::Error) {
        *self.0.lock() = Some(sqlstate::connect_failure(&error));
    }
}

impl Pool {
    /// # Errors
    /// [`Failure::Shard`] for a connection string or certificate that cannot be read.
    pub fn new(shard: &Shard, group: &str, purpose: &str, connections_max: u32) -> Result<Pool, Failure> {
        let manager = Connector::new(shard, group, purpose)?.manager()?;
        let last = LastFailure::default();
        let pool = r2d2::Pool::builder()
            .max_size(connections_max)
            .min_idle(Some(0))
            .error_handler(Box::new(last.clone()))
            .build_unchecked(manager);
        Ok(Pool { pool, last, wait: shard.connect_timeout })
    }

    /// A connection, within the shard's `connect_timeout`. It need not accept writes.
    pub fn get(&self) -> Result<PooledConnection<Manager>, Failure> {
        self.pool.get_timeout(self.wait).map_err(|_| {
            let last = self.last.0.lock().take();
            last.unwrap_or_else(|| Failure::Outage(Reason::new("no answer to the connection attempt")))
        })
    }
}
