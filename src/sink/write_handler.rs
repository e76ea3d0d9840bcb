//! A batch into a `Handler`: one transaction, fences first, then each lane's records in offset order.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use postgres::{Error, IsolationLevel, Transaction};

use crate::config::Delivery;
use crate::sink::dead_letter::Letters;
use crate::sink::handler::{Handler, HandlerError, HandlerFactory};
use crate::sink::session::own_failure;
use crate::sink::sift::{BEGIN_PIECE, END_PIECE, Refused, UNDO_PIECE, sift};
use crate::sink::writer::{PostgresWriter, deciding};
use crate::sink::{Failure, Reason, RowCounts, Tolerates, Written, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RecordRef;
use crate::types::TopicIx;

impl PostgresWriter {
    pub(super) fn write_handled(
        &mut self,
        topic: TopicIx,
        batch: &Batch,
        range: Range<usize>,
    ) -> Result<Written, Failure> {
        self.handled(topic, |call, transaction| {
            for lane in by_lane(batch, range.clone()) {
                call.handle(transaction, batch, &lane)?;
            }
            Ok(RowCounts { upserted: range.len() as u32, ..RowCounts::default() })
        })
    }

    /// Finds the records at fault by savepoints within each lane, and makes them dead letters.
    pub(super) fn sift_handled(
        &mut self,
        topic: TopicIx,
        batch: &Batch,
        range: Range<usize>,
        tolerates: &mut Tolerates<'_>,
    ) -> Result<Written, Failure> {
        let (live, _) = self.session.open()?;
        let letters = live.prepared_letters().map_err(|e| own_failure(&e))?;
        let alone = range.len() == 1;
        let config = Arc::clone(&self.config);
        let of = self.fences.of(&config, topic);
        self.handled(topic, |call, transaction| {
            let mut bad = Vec::new();
            for lane in by_lane(batch, range.clone()) {
                sift(&lane, false, &mut bad, |piece| {
                    call.try_piece(transaction, batch, piece).map_err(|failure| match failure {
                        Failure::Record(index, reason) => Refused::Record(index, reason),
                        Failure::TooLong(reason) if alone => Refused::Record(None, reason),
                        other => Refused::Other(other),
                    })
                })?;
            }
            bad.sort_by_key(|b| b.index);
            if let Some(first) = deciding(&bad, tolerates) {
                return Err(Failure::Record(Some(first.index), first.reason.clone()));
            }
            for piece in Letters::new(of, batch, &bad) {
                transaction.execute(&letters, &piece.params()).map_err(|e| own_failure(&e))?;
            }
            let dead = bad.len() as u32;
            Ok(RowCounts { upserted: range.len() as u32 - dead, dead, ..RowCounts::default() })
        })
    }

    /// One transaction with the topic's handler: fences, then `work`.
    fn handled(
        &mut self,
        topic: TopicIx,
        work: impl FnOnce(&mut Call<'_>, &mut Transaction<'_>) -> Result<RowCounts, Failure>,
    ) -> Result<Written, Failure> {
        let failed = |error: Error| sqlstate::failure(&error);
        let settings = &self.config.topics[usize::from(topic.0)];
        let Some(factory) = self.factories.get(&topic) else {
            let text = format!("topic {:?} has neither a table nor a handler", settings.name);
            return Err(Failure::Topic(Reason::new(text)));
        };
        let handler = self.handlers.entry(topic).or_insert_with(|| factory());
        let (live, _) = self.session.open()?;
        let fences = match settings.delivery {
            Delivery::ExactlyOnce => Some(live.prepared_fences().map_err(|e| own_failure(&e))?),
            Delivery::AtLeastOnce => None,
        };
        let begin = live.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
        let mut transaction = begin.map_err(failed)?;
        if let Some(statement) = fences {
            let row = transaction.query_one(&statement, &self.fences.params()).map_err(|e| own_failure(&e))?;
            if !row.get::<_, bool>(0) {
                transaction.rollback().map_err(failed)?;
                return Ok(Written::Mismatch);
            }
        }
        let counts = work(&mut Call { name: &settings.name, handler, factory }, &mut transaction)?;
        // A statement that failed, if the handler goes on as if it had not, aborts the transaction, and PostgreSQL answers
        // COMMIT with a friendly ROLLBACK. The SELECT before it is refused instead.
        transaction.batch_execute("SELECT 1; COMMIT").map_err(|error| database_failure(&settings.name, &error))?;
        // Committed; its drop would send a ROLLBACK. It owns nothing.
        std::mem::forget(transaction);
        Ok(Written::Applied(counts))
    }
}

/// The handler of one topic, and what is needed to call it.
struct Call<'a> {
    name: &'a str,
    handler: &'a mut Box<dyn Handler>,
    factory: &'a HandlerFactory,
}

impl Call<'_> {
    /// `lane` holds places in the batch.
    fn handle(&mut self, transaction: &mut Transaction<'_>, batch: &Batch, lane: &[usize]) -> Result<(), Failure> {
        let records: Vec<RecordRef<'_>> = lane.iter().map(|index| batch.record(*index)).collect();
        match catch_unwind(AssertUnwindSafe(|| self.handler.handle(transaction, &records))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(handler_failure(self.name, error, lane)),
            Err(panic) => {
                // What the handler kept between calls may be half changed.
                *self.handler = (self.factory)();
                let text = format!("the handler of topic {:?} panicked: {}", self.name, panic_text(&*panic));
                Err(Failure::Record(only(lane), Reason::new(text)))
            }
        }
    }

    /// As `handle`, behind a savepoint: of what fails for a record's sake, nothing is left.
    fn try_piece(&mut self, transaction: &mut Transaction<'_>, batch: &Batch, piece: &[usize]) -> Result<(), Failure> {
        let name = self.name;
        let failed = |error: Error| database_failure(name, &error);
        transaction.batch_execute(BEGIN_PIECE).map_err(failed)?;
        let result = self.handle(transaction, batch, piece).and_then(|()| {
            transaction.batch_execute(END_PIECE).map_err(|error| match failed(error) {
                Failure::Record(_, reason) => Failure::Record(only(piece), reason),
                other => other,
            })
        });
        if matches!(result, Err(Failure::Record(..) | Failure::TooLong(_))) {
            transaction.batch_execute(UNDO_PIECE).map_err(failed)?;
        }
        result
    }
}

/// The batch's records of each lane, in offset order.
fn by_lane(batch: &Batch, range: Range<usize>) -> Vec<Vec<usize>> {
    let lane_of = |index: &usize| {
        let (_, run) = batch.meta(*index);
        (run.partition, run.lane)
    };
    let mut order: Vec<usize> = range.collect();
    // Stable: records of one lane keep their order.
    order.sort_by_key(lane_of);
    order.chunk_by(|a, b| lane_of(a) == lane_of(b)).map(<[usize]>::to_vec).collect()
}

/// The record at fault where there is only one that can be.
fn only(lane: &[usize]) -> Option<usize> {
    match lane {
        [index] => Some(*index),
        _ => None,
    }
}

/// `lane` holds the places in the batch of the records that the handler was given.
fn handler_failure(topic: &str, error: HandlerError, lane: &[usize]) -> Failure {
    match error {
        HandlerError::Database(error) => match database_failure(topic, &error) {
            Failure::Record(_, reason) => Failure::Record(only(lane), reason),
            other => other,
        },
        HandlerError::Record { index, reason } => {
            Failure::Record(lane.get(index).copied().or_else(|| only(lane)), Reason::new(reason))
        }
        HandlerError::Retry(text) => Failure::Transient(Reason::new(format!("the handler of topic {topic:?}: {text}"))),
    }
}

/// As everywhere, but for a statement behind one that failed, whose error the handler kept to itself.
fn database_failure(topic: &str, error: &Error) -> Failure {
    match error.code().map(|code| code.code()) {
        Some(code @ "25P02") => {
            let text = format!(
                "the handler of topic {topic:?} went on although a statement of its transaction had failed; nothing of it can \
                 be committed. Return the error, or use a savepoint where failing is expected"
            );
            Failure::Topic(Reason { sqlstate: Some(code.to_owned()), text })
        }
        _ => sqlstate::failure(error),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::{Chunk, RawRecord};
    use crate::types::{Generation, Offset, TopicPartition};
    use crate::types::{Lane, NextOffset, Token};

    fn batch(records: &[(i32, Lane, i64)]) -> Batch {
        let topic = TopicIx(0);
        let mut chunk = Chunk::new(topic);
        for (seq, &(partition, lane, offset)) in records.iter().enumerate() {
            let at = TopicPartition { topic, partition };
            let run = chunk
                .runs
                .iter()
                .position(|r| (r.partition, r.lane) == (partition, lane))
                .map_or_else(|| chunk.open_run(at, lane, Generation(1), Token(1), NextOffset(0)), |run| run as u32);
            let record =
                RawRecord { offset: Offset(offset), timestamp_ms: 0, key: None, value: Some(b"v"), headers: &[] };
            chunk.push(run, seq as u64, 0, &record);
        }
        let mut batch = Batch::new();
        batch.push(Box::new(chunk));
        batch
    }

    #[test]
    fn a_handler_gets_each_lane_in_offset_order() {
        let batch = batch(&[(0, 1, 5), (0, 0, 6), (1, 1, 3), (0, 1, 7), (0, 0, 8)]);
        assert_eq!(by_lane(&batch, 0..5), [vec![1, 4], vec![0, 3], vec![2]]);
        assert_eq!(by_lane(&batch, 1..4), [vec![1], vec![3], vec![2]]);
    }

    #[test]
    fn a_handlers_record_is_found_in_the_batch() {
        let failure = |error, lane: &[usize]| handler_failure("t", error, lane);
        let index = |failure| match failure {
            Failure::Record(index, _) => index,
            other => panic!("{other:?}"),
        };
        assert_eq!(index(failure(HandlerError::record(1, "no"), &[3, 8, 9])), Some(8));
        // A handler that counts wrongly must not accuse another record.
        assert_eq!(index(failure(HandlerError::record(7, "no"), &[3, 8])), None);
        assert_eq!(index(failure(HandlerError::record(7, "no"), &[3])), Some(3));
        assert!(matches!(failure(HandlerError::Retry("later".into()), &[1]), Failure::Transient(_)));
    }
}
