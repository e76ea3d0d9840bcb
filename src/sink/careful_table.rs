//! A batch into a table, without what cannot be applied now: one transaction, in which a probe tells which rows others have
//! locked, and savepoints tell which records are at fault. Never waits for a row's lock that the probe saw.

use std::collections::BTreeSet;

use postgres::Error;
use postgres::types::Type;

use crate::config::{Target, Then};
use crate::sink::aside::{Aside, key_of};
use crate::sink::dead_letter::{Letters, Of};
use crate::sink::parked::{self, Row, State};
use crate::sink::session::{Live, own_failure};
use crate::sink::sift::{BEGIN_PIECE, END_PIECE, Pieces, Refused, UNDO_PIECE, sift};
use crate::sink::table::TableWriter;
use crate::sink::write_table::Stop;
use crate::sink::writer::{FenceArrays, Name};
use crate::sink::{Applied, BadRecord, Care, Failure, Job, Reason, RowCounts, Written, sqlstate};
use crate::state::batch::Batch;
use crate::state::parked::Why;
use crate::state::router::Router;
use crate::types::TopicIx;

/// One transaction that sets aside what cannot be applied now.
pub(super) struct Careful<'a, 'c, 't> {
    pub topic: TopicIx,
    pub of: Of<'a>,
    pub job: &'a Job<'a>,
    pub writer: &'a mut TableWriter,
    pub router: &'a Router,
    pub fences: &'a FenceArrays,
    pub care: Care<'c, 't>,
}

impl Careful<'_, '_, '_> {
    /// `undecoded` are known to be bad; what the job does not park was loaded last. The caller rolls back what was not applied.
    pub fn run(self, live: &mut Live<Name>, undecoded: Vec<BadRecord>) -> Result<Written, Stop> {
        let Careful { topic, of, job, writer, router, fences, care } = self;
        let batch = job.batch;
        let fence_statement = live.ready_fences(fences.found())?;
        let letters = live.ready_letters()?;
        live.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        // A takeover has them, or a transaction of ours that is still in flight: no parking helps.
        let moved = fence_statement
            .query_one(&mut live.client, &fences.params())
            .map_err(|error| Stop::Failed(locked_out(&error)))?;
        if !fences.answer(&moved) {
            return Ok(Written::Mismatch);
        }
        if !parked::is_free(&mut live.client, of.source, job.free)? {
            return Ok(Written::NotFree);
        }
        let alone = job.range.len() == 1;
        let mut pieces = TablePieces::new(topic, batch, writer, care.then, alone, live);
        // What was refused together was refused with the keys that a probe sets aside.
        let refused = match care.probe {
            true => pieces.probe(job.range.start)? && care.refused,
            false => care.refused,
        };
        for bad in undecoded {
            pieces.bad(bad);
        }
        pieces.apply(&job.to_apply(), refused)?;
        let TablePieces { mut aside, mut counts, .. } = pieces;
        if let Some(first) = aside.settle(batch).first().cloned()
            && !(care.tolerates)(aside.bad_ones())
        {
            return Err(Failure::Record(Some(first.index), first.reason).into());
        }
        counts.dead = aside.bad_ones().len() as u32;
        if care.then == Then::Skip {
            for piece in Letters::new(of, batch, aside.bad_ones()) {
                letters
                    .execute(&mut live.client, &piece.params())
                    .map_err(|error| Stop::Failed(own_failure(&error)))?;
            }
        }
        let (rows, newly) = aside.rows(batch, job.to_apply().into_iter());
        care.fits(newly.len())?;
        counts.parked = (job.park.len() + newly.len()) as u32;
        let rows = [&job.rows_to_park()[..], &rows].concat();
        parked::park(&mut live.client, of.source, batch, router, &rows)?;
        live.client.batch_execute("COMMIT")?;
        Ok(Written::Applied(Applied { counts, parked: newly, ..Applied::default() }))
    }
}

/// A lock that is not on rows of the batch.
pub(super) fn locked_out(error: &Error) -> Failure {
    match own_failure(error) {
        Failure::LockWait(reason) => Failure::LockedOut(reason),
        other => other,
    }
}

impl<'a> Job<'a> {
    /// The records that are not to be parked.
    pub(super) fn to_apply(&self) -> Vec<usize> {
        let park: BTreeSet<usize> = self.park.iter().map(|p| p.index).collect();
        self.range.clone().filter(|index| !park.contains(index)).collect()
    }

    pub(super) fn rows_to_park(&self) -> Vec<Row<'a>> {
        let row = |p: &crate::sink::ToPark| Row { index: p.index, why: p.why, state: State::Waiting, reason: None };
        self.park.iter().map(row).collect()
    }
}

/// Records of a batch on their way into a table, piece by piece, within a transaction that somebody else began. What `writer` loaded
/// last is of the same batch.
pub(super) struct TablePieces<'a> {
    topic: TopicIx,
    batch: &'a Batch,
    writer: &'a mut TableWriter,
    then: Then,
    /// There is one record.
    alone: bool,
    live: &'a mut Live<Name>,
    pub aside: Aside,
    pub counts: RowCounts,
    /// Whether a record waits for another, as far as its piece could tell; and whether that is believed.
    waits: bool,
    waits_believed: bool,
    /// A record whose parent is missing for so long that it is at fault.
    pub impatient: Option<usize>,
}

impl<'a> TablePieces<'a> {
    pub fn new(
        topic: TopicIx,
        batch: &'a Batch,
        writer: &'a mut TableWriter,
        then: Then,
        alone: bool,
        live: &'a mut Live<Name>,
    ) -> TablePieces<'a> {
        TablePieces {
            topic,
            batch,
            writer,
            then,
            alone,
            live,
            aside: Aside::default(),
            counts: RowCounts::default(),
            waits: false,
            waits_believed: false,
            impatient: None,
        }
    }

    /// Locks the rows of what was loaded last; the keys of those that somebody else has locked wait, from record `from` on. Whether
    /// there are none.
    pub fn probe(&mut self, from: usize) -> Result<bool, Stop> {
        let Some(probe) = self.writer.probe() else { return Ok(true) };
        let rows = self.live.client.query_typed(&probe.sql, &probe.params())?;
        if let Some(known) = self.live.known.as_ref().filter(|_| !rows.is_empty()) {
            known.met_locks(&self.writer.plan().table, rows.iter().map(|row| row.get(1)));
        }
        let locked = rows.iter().filter_map(|row| probe.records.get((row.get::<_, i64>(0) - 1) as usize));
        for index in locked.flatten() {
            self.aside.key(key_of(self.batch, *index), from, Why::Blocked);
        }
        // Keys whose records meet in one row wait together: what is left of a row would not be what all of them make.
        loop {
            let waits = |index: &usize| self.aside.key_waits(key_of(self.batch, *index));
            let split = |records: &&Vec<usize>| records.iter().any(waits) && !records.iter().all(waits);
            let met: Vec<usize> = probe.records.iter().filter(split).flatten().copied().collect();
            if met.is_empty() {
                return Ok(rows.is_empty());
            }
            met.iter().for_each(|index| self.aside.key(key_of(self.batch, *index), from, Why::Blocked));
        }
    }

    /// Applies what is not set aside; `refused`: all of it together was refused a moment ago.
    pub fn apply(&mut self, records: &[usize], refused: bool) -> Result<(), Stop> {
        self.live.client.batch_execute("SAVEPOINT records")?;
        let left = self.left(records);
        sift(&left, refused, self)?;
        if self.waits {
            // Halves hide from each other: the parent may be in a later one. Together again, without those that are bad anyhow.
            self.live.client.batch_execute("ROLLBACK TO SAVEPOINT records")?;
            self.waits_believed = true;
            self.counts = RowCounts::default();
            sift(&self.left(records), false, self)?;
        }
        Ok(())
    }

    fn left(&self, records: &[usize]) -> Vec<usize> {
        records.iter().copied().filter(|index| !self.aside.has(self.batch, *index)).collect()
    }

    fn apply_piece(&mut self, piece: &[usize]) -> Result<(), Error> {
        // All of it together was loaded by whoever began.
        if !self.writer.has_loaded(piece) {
            let mut undecoded = Vec::new();
            self.writer.load(self.batch, piece.iter().copied(), &mut undecoded);
            debug_assert!(undecoded.is_empty(), "a record that was decoded before");
        }
        for group in 0..self.writer.groups() {
            self.live.rows(self.topic, self.writer, group)?;
        }
        self.live.client.batch_execute(END_PIECE)
    }
}

impl Pieces for TablePieces<'_> {
    type Error = Stop;

    fn attempt(&mut self, piece: &[usize]) -> Result<(), Refused<Stop>> {
        // Keys may have been set aside since the piece was cut.
        let piece = self.left(piece);
        if piece.is_empty() {
            return Ok(());
        }
        let alone = self.alone;
        let refused = |error: Error| match Stop::from(error) {
            Stop::Failed(Failure::Record(_, reason)) => Refused::Record(None, reason),
            // Of several, fewer are tried at a time: what takes long, or is cancelled by a person, need not be bad.
            Stop::Failed(Failure::TooLong(reason)) if alone => Refused::Record(None, reason),
            other => Refused::Other(other),
        };
        self.live.client.batch_execute(BEGIN_PIECE).map_err(refused)?;
        match self.apply_piece(&piece) {
            Ok(()) => {
                self.counts += self.writer.counts();
                Ok(())
            }
            Err(error) => {
                let refused = refused(error);
                if matches!(refused, Refused::Record(..)) {
                    self.live.client.batch_execute(UNDO_PIECE).map_err(|e| Refused::Other(e.into()))?;
                }
                Err(refused)
            }
        }
    }

    fn bad(&mut self, record: BadRecord) {
        if self.aside.has(self.batch, record.index) {
            return;
        }
        match waits_for_parent(&record.reason) && self.impatient != Some(record.index) {
            true if self.waits_believed => self.aside.waits(self.batch, record),
            true => self.waits = true,
            false => self.aside.bad(self.batch, record, self.then),
        }
    }
}

/// Whether the record may wait for another one that is on its way.
pub(super) fn waits_for_parent(reason: &Reason) -> bool {
    reason.sqlstate.as_deref() == Some(sqlstate::MISSING_PARENT)
}

/// Whether somebody holds, or waits for, a lock on the whole table that keeps us from writing any row of it.
const TABLE_LOCKED: &str = "\
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'relation' AND relation = to_regclass($1) AND pid <> pg_backend_pid() \
AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))";

impl Live<Name> {
    /// What a second time-out means, asked once its transaction is over: one on the whole table is nobody's key's fault.
    pub(super) fn second_time_out(&mut self, target: &Target, table: Option<&str>, reason: Reason) -> Failure {
        let (Target::Table(_), Some(table)) = (target, table) else { return Failure::LockWait(reason) };
        match self.client.query_typed(TABLE_LOCKED, &[(&table, Type::TEXT)]) {
            Ok(rows) if rows.first().is_some_and(|row| row.get(0)) => {
                let text = format!("{}; somebody has locked the table {table} as a whole", reason.text);
                Failure::LockedOut(Reason { text, ..reason })
            }
            Ok(_) => Failure::LockWait(reason),
            Err(error) => own_failure(&error),
        }
    }
}
