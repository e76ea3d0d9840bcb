//! A batch into a table, without its bad records: one transaction, in which savepoints tell which they are.

use std::collections::HashSet;
use std::ops::Range;

use postgres::Error;

use crate::sink::dead_letter::{Letters, Of};
use crate::sink::session::{Live, own_failure};
use crate::sink::sift::{BEGIN_PIECE, END_PIECE, Refused, UNDO_PIECE, sift};
use crate::sink::table::TableWriter;
use crate::sink::write_table::Stop;
use crate::sink::writer::{FenceArrays, Name, deciding};
use crate::sink::{BadRecord, Failure, RowCounts, Tolerates, Written, sqlstate};
use crate::state::batch::Batch;
use crate::types::TopicIx;

/// One transaction that sets bad records aside.
pub(super) struct Sifting<'a, 't> {
    pub topic: TopicIx,
    pub of: Of<'a>,
    pub batch: &'a Batch,
    /// There is one record.
    pub alone: bool,
    pub writer: &'a mut TableWriter,
    pub tolerates: &'a mut Tolerates<'t>,
}

impl Sifting<'_, '_> {
    /// `undecoded` are known to be bad; all the others have been refused together where `refused` says so. The caller rolls
    /// back what was not applied.
    pub fn run(
        &mut self,
        live: &mut Live<Name>,
        range: Range<usize>,
        undecoded: Vec<BadRecord>,
        refused: bool,
        fences: &FenceArrays,
    ) -> Result<Written, Stop> {
        let fence_statement = live.prepared_fences()?;
        let letters = live.prepared_letters()?;
        live.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        if !live.client.query_one(&fence_statement, &fences.params())?.get::<_, bool>(0) {
            return Ok(Written::Mismatch);
        }
        let waits = |b: &BadRecord| b.reason.sqlstate.as_deref() == Some(sqlstate::MISSING_PARENT);
        live.client.batch_execute("SAVEPOINT records")?;
        let (mut bad, mut counts) = self.apply(live, range.clone(), refused, undecoded)?;
        if bad.iter().any(waits) {
            // Halves hide from each other: the parent may be in a later one. Together again, without those that are bad anyhow.
            bad.retain(|b| !waits(b));
            live.client.batch_execute("ROLLBACK TO SAVEPOINT records")?;
            (bad, counts) = self.apply(live, range, false, bad)?;
        }
        bad.sort_by_key(|b| b.index);
        if let Some(first) = deciding(&bad, self.tolerates) {
            return Err(Failure::Record(Some(first.index), first.reason.clone()).into());
        }
        for piece in Letters::new(self.of, self.batch, &bad) {
            live.client.execute(&letters, &piece.params()).map_err(|error| Stop::Failed(own_failure(&error)))?;
        }
        live.client.batch_execute("COMMIT")?;
        counts.dead = bad.len() as u32;
        Ok(Written::Applied(counts))
    }

    /// Applies what is not `bad` already; returns all that is.
    fn apply(
        &mut self,
        live: &mut Live<Name>,
        range: Range<usize>,
        refused: bool,
        mut bad: Vec<BadRecord>,
    ) -> Result<(Vec<BadRecord>, RowCounts), Stop> {
        let known: HashSet<usize> = bad.iter().map(|b| b.index).collect();
        let records: Vec<usize> = range.filter(|index| !known.contains(index)).collect();
        let (mut counts, alone) = (RowCounts::default(), self.alone);
        sift(&records, refused, &mut bad, |piece| {
            let refused = |error: Error| match Stop::from(error) {
                Stop::Failed(Failure::Record(_, reason)) => Refused::Record(None, reason),
                // Of several, the worker tries fewer at a time: what takes long, or is cancelled by a person, need not be bad.
                Stop::Failed(Failure::TooLong(reason)) if alone => Refused::Record(None, reason),
                other => Refused::Other(other),
            };
            live.client.batch_execute(BEGIN_PIECE).map_err(refused)?;
            match self.apply_piece(live, piece) {
                Ok(()) => {
                    counts += self.writer.counts();
                    Ok(())
                }
                Err(error) => {
                    let refused = refused(error);
                    if matches!(refused, Refused::Record(..)) {
                        live.client.batch_execute(UNDO_PIECE).map_err(|e| Refused::Other(e.into()))?;
                    }
                    Err(refused)
                }
            }
        })?;
        Ok((bad, counts))
    }

    fn apply_piece(&mut self, live: &mut Live<Name>, piece: &[usize]) -> Result<(), Error> {
        let mut undecoded = Vec::new();
        self.writer.load(self.batch, piece.iter().copied(), &mut undecoded);
        debug_assert!(undecoded.is_empty(), "a record that was decoded before");
        for group in 0..self.writer.groups() {
            live.rows(self.topic, self.writer, group)?;
        }
        live.client.batch_execute(END_PIECE)
    }
}
