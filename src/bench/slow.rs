//! A handler that takes its time for each record: what a slow query, or a call to somebody else, does to the engine. It writes
//! down which record it was, so that none can be lost unseen.

use std::time::Duration;

use postgres::Transaction;
use postgres::types::Type;

use crate::sink::handler::{Handler, HandlerError};
use crate::state::chunk::RecordRef;

/// See the module's text.
pub struct Slow {
    sleep: Duration,
    insert: String,
}

impl Slow {
    /// `table` is quoted already.
    pub fn new(table: &str, sleep: Duration) -> Slow {
        let insert = format!(
            "INSERT INTO {table} (app_id, subscription_id, n, sent_us) SELECT (r->>'app_id')::uuid, \
             (r->>'subscription_id')::uuid, (r->>'n')::bigint, (r->>'sent_us')::bigint FROM (SELECT $1::text::json) AS v (r)"
        );
        Slow { sleep, insert }
    }
}

impl Handler for Slow {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for (index, record) in records.iter().enumerate() {
            let value = record.value.and_then(|value| std::str::from_utf8(value).ok());
            let value = value.ok_or_else(|| HandlerError::record(index, "no record of the benchmark's"))?;
            if !self.sleep.is_zero() {
                std::thread::sleep(self.sleep);
            }
            // One round trip, as a handler should: without types it would be prepared first.
            transaction.query_typed(&self.insert, &[(&value, Type::TEXT)])?;
        }
        Ok(())
    }
}
