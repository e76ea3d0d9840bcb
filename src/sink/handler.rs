//! The library's door: your own code instead of a table, under the same guarantees.

use postgres::Transaction;

use crate::sink::Reason;
use crate::state::chunk::RecordRef;

/// Applies records inside forebay's transaction, whose COMMIT also moves the fences: what it does through `transaction` happens
/// exactly once, in order per key. Whatever it does elsewhere (a call to another service) may happen again.
///
/// One handler belongs to one worker thread; it may keep state between calls, but a batch may be tried again after a failure.
///
/// Behind a pooler (`pooler = "transaction"`) the next transaction may run on another of the server's connections: settings are made
/// with `SET LOCAL` (a plain `SET` would stay with whoever gets this connection next), statements are prepared in the transaction
/// that uses them, advisory locks are those of the transaction, and values of types of your own are best cast in the statement
/// (`$1::text::mood`), because what the driver knows of a type it learns by a statement that it prepares once.
pub trait Handler: Send {
    /// Applies the records of one lane, in offset order. On an error the transaction is rolled back.
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError>;
}

/// Why a handler gave up.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// PostgreSQL refused: what happens next follows from the SQLSTATE.
    #[error(transparent)]
    Database(#[from] postgres::Error),
    /// This record (index into the slice) can never be applied.
    #[error("record {index} of the batch: {reason}")]
    Record { index: usize, reason: String },
    /// Not now: the same batch again, after a while.
    #[error("{0}")]
    Retry(String),
}

impl HandlerError {
    pub fn record(index: usize, reason: impl Into<String>) -> HandlerError {
        HandlerError::Record { index, reason: reason.into() }
    }
}

impl From<HandlerError> for Reason {
    fn from(error: HandlerError) -> Reason {
        Reason::new(error.to_string())
    }
}

/// Makes a handler for each worker.
pub type HandlerFactory = std::sync::Arc<dyn Fn() -> Box<dyn Handler> + Send + Sync>;
