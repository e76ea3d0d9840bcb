//! A batch into a `Handler`: one transaction, fences first, then each lane's records in offset order.

use std::any::Any;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::{Error, IsolationLevel, Transaction};

use crate::config::{Delivery, Then};
use crate::sink::aside::{Aside, key_of};
use crate::sink::careful_table::{locked_out, waits_for_parent};
use crate::sink::dead_letter::{Letters, Of};
use crate::sink::handler::{Handler, HandlerError, HandlerFactory};
use crate::sink::parked;
use crate::sink::session::own_failure;
use crate::sink::sift::{BEGIN_PIECE, END_PIECE, Pieces, Refused, UNDO_PIECE, sift};
use crate::sink::writer::{PostgresWriter, unroutable};
use crate::sink::{Applied, BadRecord, Care, Failure, Job, Reason, RowCounts, Written, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RecordRef;
use crate::state::parked::Why;
use crate::types::TopicIx;

/// How long the first key waits for a lock once its batch has waited in vain, and how long each does at least: every wait in vain
/// halves the next one, or hundreds of keys whose rows are locked would take a minute.
const PROBE_MS: u64 = 100;
const PROBE_MS_MIN: u64 = 5;

impl PostgresWriter {
    pub(super) fn write_handled(&mut self, topic: TopicIx, job: &Job<'_>) -> Result<Written, Failure> {
        let (source, router) = (self.ids.get(topic), Arc::clone(&self.router));
        let to_apply = job.to_apply();
        self.handled(topic, job, |call, transaction| {
            for lane in by_lane(job.batch, &to_apply) {
                call.handle(transaction, job.batch, &lane)?;
            }
            parked::park(transaction, source, job.batch, &router, &job.rows_to_park())?;
            let counts =
                RowCounts { upserted: to_apply.len() as u32, parked: job.park.len() as u32, ..RowCounts::default() };
            Ok(Applied { counts, ..Applied::default() })
        })
    }

    /// Finds the records at fault by savepoints within each lane, or, where locks are in the way, within each key, and sets them
    /// aside.
    pub(super) fn write_handled_with_care(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        care: Care<'_, '_>,
    ) -> Result<Written, Failure> {
        let (live, _) = self.session.open()?;
        let letters = live.ready_letters().map_err(|e| own_failure(&e))?;
        let (config, router) = (Arc::clone(&self.config), Arc::clone(&self.router));
        let of = Of::new(self.fences.source(), &config, topic);
        let batch = job.batch;
        self.handled(topic, job, |call, transaction| {
            let (all, alone) = (job.to_apply(), job.range.len() == 1);
            let mut pieces = HandlerPieces::new(call, transaction, batch, care.then, alone);
            unroutable(job).into_iter().for_each(|bad| pieces.bad(bad));
            let to_apply: Vec<usize> = all.iter().copied().filter(|i| batch.unroutable(*i).is_none()).collect();
            pieces.apply(&to_apply, care.probe)?;
            let HandlerPieces { mut aside, .. } = pieces;
            if let Some(first) = aside.settle(batch).first().cloned()
                && !(care.tolerates)(aside.bad_ones())
            {
                return Err(Failure::Record(Some(first.index), first.reason));
            }
            let dead = aside.bad_ones().len() as u32;
            if care.then == Then::Skip {
                for piece in Letters::new(of, batch, aside.bad_ones()) {
                    letters.execute(transaction, &piece.params()).map_err(|e| own_failure(&e))?;
                }
            }
            // What names no shard may wait behind others of its key, too.
            let (rows, newly) = aside.rows(batch, all.iter().copied());
            care.fits(newly.len())?;
            let rows = [&job.rows_to_park()[..], &rows].concat();
            parked::park(transaction, of.source, batch, &router, &rows)?;
            let upserted = to_apply.iter().filter(|index| !aside.has(batch, **index)).count() as u32;
            let parked = (job.park.len() + newly.len()) as u32;
            let counts = RowCounts { upserted, dead, parked, ..RowCounts::default() };
            Ok(Applied { counts, parked: newly, ..Applied::default() })
        })
    }

    /// One transaction with the topic's handler: fences, then `work`.
    fn handled(
        &mut self,
        topic: TopicIx,
        job: &Job<'_>,
        work: impl FnOnce(&mut Call<'_>, &mut Transaction<'_>) -> Result<Applied, Failure>,
    ) -> Result<Written, Failure> {
        let failed = |error: Error| sqlstate::failure(&error);
        let settings = &self.config.topics[usize::from(topic.0)];
        let (live, _) = self.session.open()?;
        let mut call = Call::new(topic, &settings.name, &self.factories, &mut self.handlers)?;
        let fences = match settings.delivery {
            Delivery::ExactlyOnce => Some(live.ready_fences(self.fences.found()).map_err(|e| own_failure(&e))?),
            Delivery::AtLeastOnce => None,
        };
        let begin = live.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
        let mut transaction = begin.map_err(failed)?;
        if let Some(statement) = fences {
            let row = statement.query_one(&mut transaction, &self.fences.params()).map_err(|e| locked_out(&e))?;
            if !self.fences.answer(&row) {
                transaction.rollback().map_err(failed)?;
                return Ok(Written::Mismatch);
            }
            if !parked::is_free(&mut transaction, self.fences.source(), job.free)? {
                transaction.rollback().map_err(failed)?;
                return Ok(Written::NotFree);
            }
        }
        let applied = work(&mut call, &mut transaction)?;
        commit(transaction, &settings.name)?;
        let mut took_ns = call.took_ns;
        took_ns.resize(job.range.end, 0);
        Ok(Written::Applied(Applied { took_ns, ..applied }))
    }
}

pub(super) fn commit(mut transaction: Transaction<'_>, topic: &str) -> Result<(), Failure> {
    // A statement that failed, if the handler goes on as if it had not, aborts the transaction, and PostgreSQL answers COMMIT
    // with a friendly ROLLBACK. The SELECT before it is refused instead.
    transaction.batch_execute("SELECT 1; COMMIT").map_err(|error| database_failure(topic, &error))?;
    // Committed; its drop would send a ROLLBACK. It owns nothing.
    std::mem::forget(transaction);
    Ok(())
}

/// Records on their way through a handler, piece by piece, within a transaction that somebody else began.
pub(super) struct HandlerPieces<'a, 'c, 't> {
    call: &'a mut Call<'c>,
    transaction: &'a mut Transaction<'t>,
    batch: &'a Batch,
    then: Then,
    /// There is one record.
    alone: bool,
    pub aside: Aside,
    applied: BTreeSet<usize>,
    /// A record whose parent is missing for so long that it is at fault.
    pub impatient: Option<usize>,
}

impl<'a, 'c, 't> HandlerPieces<'a, 'c, 't> {
    pub fn new(
        call: &'a mut Call<'c>,
        transaction: &'a mut Transaction<'t>,
        batch: &'a Batch,
        then: Then,
        alone: bool,
    ) -> HandlerPieces<'a, 'c, 't> {
        let (aside, applied, impatient) = (Aside::default(), BTreeSet::new(), None);
        HandlerPieces { call, transaction, batch, then, alone, aside, applied, impatient }
    }

    /// Applies the records of each lane; with `by_key` those of each key, where a key that needs a lock of somebody else's waits
    /// from then on.
    pub fn apply(&mut self, records: &[usize], by_key: bool) -> Result<(), Failure> {
        if !by_key {
            return by_lane(self.batch, records).iter().try_for_each(|lane| sift(lane, false, self));
        }
        let mut wait_ms = PROBE_MS;
        self.wait_for_locks(wait_ms)?;
        for key in self::by_key(self.batch, records) {
            match sift(&key, false, self) {
                Ok(()) => {}
                // Its transaction is as it was before the piece that waited: see `attempt`.
                Err(Failure::LockWait(_)) => {
                    let first =
                        key.iter().find(|index| !self.applied.contains(index) && !self.aside.has(self.batch, **index));
                    if let Some(first) = first {
                        self.aside.key(key_of(self.batch, *first), *first, Why::Blocked);
                    }
                    wait_ms = (wait_ms / 2).max(PROBE_MS_MIN);
                    self.wait_for_locks(wait_ms)?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

impl HandlerPieces<'_, '_, '_> {
    fn wait_for_locks(&mut self, at_most_ms: u64) -> Result<(), Failure> {
        let sql = format!("SET LOCAL lock_timeout = {at_most_ms}");
        self.transaction.batch_execute(&sql).map_err(|error| sqlstate::failure(&error))
    }
}

impl Pieces for HandlerPieces<'_, '_, '_> {
    type Error = Failure;

    fn attempt(&mut self, piece: &[usize]) -> Result<(), Refused<Failure>> {
        // Keys may have been set aside since the piece was cut.
        let piece: Vec<usize> = piece.iter().copied().filter(|index| !self.aside.has(self.batch, *index)).collect();
        if piece.is_empty() {
            return Ok(());
        }
        let result = self.call.try_piece(self.transaction, self.batch, &piece);
        result.map(|()| self.applied.extend(piece)).map_err(|failure| match failure {
            Failure::Record(index, reason) => Refused::Record(index, reason),
            Failure::TooLong(reason) if self.alone => Refused::Record(None, reason),
            other => Refused::Other(other),
        })
    }

    fn bad(&mut self, record: BadRecord) {
        match waits_for_parent(&record.reason) && self.impatient != Some(record.index) {
            true => self.aside.waits(self.batch, record),
            false => self.aside.bad(self.batch, record, self.then),
        }
    }
}

/// The handler of one topic, and what is needed to call it.
pub(super) struct Call<'a> {
    name: &'a str,
    handler: &'a mut Box<dyn Handler>,
    factory: &'a HandlerFactory,
    /// What each record of the batch took so far. The records of one call share its time: nobody but the handler knows better.
    took_ns: Vec<u64>,
}

impl<'a> Call<'a> {
    pub fn new(
        topic: TopicIx,
        name: &'a str,
        factories: &'a HashMap<TopicIx, HandlerFactory>,
        handlers: &'a mut HashMap<TopicIx, Box<dyn Handler>>,
    ) -> Result<Call<'a>, Failure> {
        let Some(factory) = factories.get(&topic) else {
            return Err(Failure::Topic(Reason::new(format!("topic {name:?} has neither a table nor a handler"))));
        };
        let handler = handlers.entry(topic).or_insert_with(|| factory());
        Ok(Call { name, handler, factory, took_ns: Vec::new() })
    }

    /// `lane` holds places in the batch.
    fn handle(&mut self, transaction: &mut Transaction<'_>, batch: &Batch, lane: &[usize]) -> Result<(), Failure> {
        let records: Vec<RecordRef<'_>> = lane.iter().map(|index| batch.record(*index)).collect();
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.handler.handle(transaction, &records)));
        self.took(lane, began.elapsed());
        match result {
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

    fn took(&mut self, lane: &[usize], took: Duration) {
        let each = took.as_nanos() as u64 / lane.len().max(1) as u64;
        for index in lane {
            if self.took_ns.len() <= *index {
                self.took_ns.resize(index + 1, 0);
            }
            self.took_ns[*index] += each;
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
        if matches!(result, Err(Failure::Record(..) | Failure::TooLong(_) | Failure::LockWait(_))) {
            transaction.batch_execute(UNDO_PIECE).map_err(failed)?;
        }
        result
    }
}

/// Records of each lane, in offset order.
fn by_lane(batch: &Batch, records: &[usize]) -> Vec<Vec<usize>> {
    let lane_of = |index: &usize| {
        let (_, run) = batch.meta(*index);
        (run.partition, run.lane)
    };
    grouped(records, lane_of)
}

/// Records of each key, in offset order.
fn by_key(batch: &Batch, records: &[usize]) -> Vec<Vec<usize>> {
    grouped(records, |index| key_of(batch, *index))
}

/// Those of each group keep their order.
fn grouped<K: Ord>(records: &[usize], group: impl Fn(&usize) -> K) -> Vec<Vec<usize>> {
    let mut order = records.to_vec();
    order.sort_by_key(&group);
    order.chunk_by(|a, b| group(a) == group(b)).map(<[usize]>::to_vec).collect()
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
            Failure::Topic(Reason { sqlstate: Some(code.to_owned()), ..Reason::new(text) })
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
        assert_eq!(by_lane(&batch, &[0, 1, 2, 3, 4]), [vec![1, 4], vec![0, 3], vec![2]]);
        assert_eq!(by_lane(&batch, &[1, 2, 3]), [vec![1], vec![3], vec![2]]);
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
