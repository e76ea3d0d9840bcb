//! Which records of a batch are set aside while the others are applied: bad ones, and whole keys from one of their records on.
//! Decides nothing about what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Then;
use crate::sink::parked::{Row, State};
use crate::sink::{BadRecord, Reason, ToPark};
use crate::state::batch::Batch;
use crate::state::parked::Why;
use crate::types::KeyHash;

/// A key of a partition.
pub type Key = (i32, KeyHash);

pub fn key_of(batch: &Batch, index: usize) -> Key {
    let (meta, run) = batch.meta(index);
    (run.partition, meta.hash)
}

/// See the module's text. Records are named by their indices in the batch.
#[derive(Debug, Default)]
pub struct Aside {
    /// Keys that wait: from this record on, and why.
    waiting: BTreeMap<Key, (usize, Why)>,
    /// The first record of a key that waits for its own sake, and what is wrong with it.
    heads: BTreeMap<usize, (State, Reason)>,
    /// Records that are at fault, in the order in which they were found.
    bad: Vec<BadRecord>,
    bad_indices: BTreeSet<usize>,
}

impl Aside {
    /// All of the key from record `from` on waits.
    pub fn key(&mut self, key: Key, from: usize, why: Why) {
        let waiting = self.waiting.entry(key).or_insert((from, why));
        waiting.0 = waiting.0.min(from);
    }

    /// The record is at fault. With `park` its key waits behind it.
    pub fn bad(&mut self, batch: &Batch, bad: BadRecord, then: Then) {
        if then == Then::Park {
            self.key(key_of(batch, bad.index), bad.index, Why::Record);
            self.heads.insert(bad.index, (State::Dead, bad.reason.clone()));
        }
        self.bad_indices.insert(bad.index);
        self.bad.push(bad);
    }

    /// The record waits for another one, and its key behind it.
    pub fn waits(&mut self, batch: &Batch, record: BadRecord) {
        self.key(key_of(batch, record.index), record.index, Why::Record);
        self.heads.insert(record.index, (State::Waiting, record.reason));
    }

    pub fn key_waits(&self, key: Key) -> bool {
        self.waiting.contains_key(&key)
    }

    /// Whether the record is not to be applied.
    pub fn has(&self, batch: &Batch, index: usize) -> bool {
        self.bad_indices.contains(&index) || self.waits_behind(batch, index).is_some()
    }

    /// Why the record waits, if it does.
    pub fn waits_behind(&self, batch: &Batch, index: usize) -> Option<Why> {
        self.waiting.get(&key_of(batch, index)).filter(|(from, _)| index >= *from).map(|(_, why)| *why)
    }

    /// What is wrong with the record, where its key waits for its sake.
    pub fn head(&self, batch: &Batch, index: usize) -> Option<(State, &Reason)> {
        let (from, _) = self.waiting.get(&key_of(batch, index))?;
        self.heads.get(&index).filter(|_| *from == index).map(|(state, reason)| (*state, reason))
    }

    /// All is known: the bad records, in order. One behind others of its key that wait waits like them, and what it is shows in
    /// its turn.
    pub fn settle(&mut self, batch: &Batch) -> &[BadRecord] {
        let waiting = &self.waiting;
        self.bad.retain(|b| waiting.get(&key_of(batch, b.index)).is_none_or(|(from, _)| *from >= b.index));
        self.bad.sort_by_key(|b| b.index);
        &self.bad
    }

    /// As settled.
    pub fn bad_ones(&self) -> &[BadRecord] {
        &self.bad
    }

    /// Those of `records` (in order) that wait, as rows for the table of parked records; and which they are.
    pub fn rows(&self, batch: &Batch, records: impl Iterator<Item = usize>) -> (Vec<Row<'_>>, Vec<ToPark>) {
        let row = |index: usize| {
            let why = self.waits_behind(batch, index)?;
            let head = self.head(batch, index);
            let state = head.map_or(State::Waiting, |(state, _)| state);
            Some(Row { index, why, state, reason: head.map(|(_, reason)| reason) })
        };
        let rows: Vec<Row<'_>> = records.filter_map(row).collect();
        let parked = rows.iter().map(|row| ToPark { index: row.index, why: row.why }).collect();
        (rows, parked)
    }
}
