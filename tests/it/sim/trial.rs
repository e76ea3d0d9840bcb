//! What becomes of the records that a transaction tries, a model of `src/sink/careful_table.rs`: a probe tells whose rows are
//! locked, the engine's own sifting which records are at fault, and what misses its parent waits for it. Also of the slow lane's.

use std::collections::{BTreeMap, BTreeSet};

use forebay::config::Then;
use forebay::sink::sift::{Pieces, Refused, sift};
use forebay::sink::{BadRecord, Failure, Reason};
use forebay::state::parked::Why;
use forebay::types::{KeyHash, TopicPartition};

use super::db::{Applied, Statements};
use super::sink::lock_wait;
use super::world::World;

/// A record that a transaction applies or parks.
pub struct Given {
    /// In the batch of its job.
    pub index: usize,
    pub at: TopicPartition,
    pub hash: KeyHash,
    pub offset: i64,
    pub row: Applied,
    /// It is not applied, but waits, or goes on waiting.
    pub park: Option<Why>,
    pub dead: bool,
    /// It was tried, and waits for its parent.
    pub awaits: bool,
    /// It names no shard, as the engine says.
    pub unroutable: bool,
    /// What a probe saw of it was another record's row.
    pub folded: bool,
}

impl Given {
    pub fn key(&self) -> (TopicPartition, KeyHash) {
        (self.at, self.hash)
    }

    pub fn place(&self) -> (TopicPartition, KeyHash, i64) {
        (self.at, self.hash, self.offset)
    }

    /// Its key waits for its sake.
    pub fn is_head(&self) -> bool {
        self.park.is_some() && (self.dead || self.awaits)
    }

    fn is_out(&self) -> bool {
        self.park.is_some() || self.dead || self.folded
    }
}

/// See the module's text. Records are named by their places in `given`, which are in order.
pub struct Trial<'a> {
    pub world: &'a World,
    pub shard: usize,
    pub given: &'a mut [Given],
    pub then: Then,
    /// Those whose parents are missing for so long that they are at fault.
    pub impatient: BTreeSet<usize>,
    applied: BTreeSet<usize>,
    /// What is wrong with those that were found at fault.
    reasons: BTreeMap<usize, Reason>,
    awaits: bool,
    awaits_believed: bool,
}

impl<'a> Trial<'a> {
    pub fn new(world: &'a World, shard: usize, given: &'a mut [Given], then: Then) -> Trial<'a> {
        let (impatient, applied) = (BTreeSet::new(), BTreeSet::new());
        let (reasons, awaits, awaits_believed) = (BTreeMap::new(), false, false);
        Trial { world, shard, given, then, impatient, applied, reasons, awaits, awaits_believed }
    }

    fn switches(&self) -> &Statements {
        &self.world.dbs[self.shard].switches
    }

    fn is_locked(&self, place: usize) -> bool {
        let given = &self.given[place];
        !given.is_out() && !given.unroutable && self.world.is_locked(given.row.id)
    }

    /// Whether a row that is to be written is locked.
    pub fn meets_lock(&self) -> bool {
        (0..self.given.len()).any(|place| self.is_locked(place))
    }

    /// The keys whose rows are locked wait as a whole, and so do those that meet them in a row. Whether there are none.
    pub fn probe(&mut self) -> bool {
        if !self.meets_lock() {
            return true;
        }
        let mut rows: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for (place, given) in self.given.iter().enumerate() {
            let row = self.world.broker.published[given.row.id as usize].row.as_deref();
            if let (Some(row), false) = (row, given.is_out() || given.unroutable) {
                rows.entry(row).or_default().push(place);
            }
        }
        let rows: Vec<Vec<usize>> = rows.into_values().collect();
        let locked: Vec<&Vec<usize>> = rows.iter().filter(|row| self.is_locked(row[0])).collect();
        if !self.switches().met_park_together {
            let winners = locked.iter().filter_map(|row| row.last().copied()).collect();
            self.keys_wait(winners);
            for row in &rows {
                if row.last().is_some_and(|winner| self.given[*winner].park.is_some()) {
                    row.iter().for_each(|place| self.given[*place].folded |= self.given[*place].park.is_none());
                }
            }
            return false;
        }
        self.keys_wait(locked.into_iter().flatten().copied().collect());
        loop {
            let waits = |place: &usize| self.given[*place].park.is_some();
            let split = |row: &&Vec<usize>| row.iter().any(waits) && !row.iter().all(waits);
            let met: Vec<usize> = rows.iter().filter(split).flatten().copied().collect();
            if met.is_empty() || !self.switches().losers_park_too {
                return false;
            }
            self.keys_wait(met);
        }
    }

    /// The keys of these records wait, with all that there is of them.
    fn keys_wait(&mut self, of: Vec<usize>) {
        let losers_too = self.switches().losers_park_too;
        for key in of.into_iter().map(|place| self.given[place].key()).collect::<BTreeSet<_>>() {
            let mut of_key: Vec<&mut Given> = self.given.iter_mut().filter(|g| g.key() == key).collect();
            let from = if losers_too { 0 } else { of_key.len() - 1 };
            of_key[from..].iter_mut().for_each(|g| g.park = Some(g.park.unwrap_or(Why::Blocked)));
        }
    }

    /// Applies what is not set aside; `refused`: all of it together was refused a moment ago.
    ///
    /// # Errors
    /// [`Failure::LockWait`] where a parent's row is locked: no probe shows that.
    pub fn apply(&mut self, refused: bool) -> Result<(), Failure> {
        for place in 0..self.given.len() {
            if self.given[place].unroutable && !self.given[place].is_out() {
                self.at_fault(place, Reason::new("no tenant"));
            }
        }
        let left = self.left();
        sift(&left, refused, self)?;
        if self.awaits {
            // Halves hide from each other: the parent may be in a later one.
            self.awaits_believed = true;
            self.applied.clear();
            let left = self.left();
            sift(&left, false, self)?;
        }
        Ok(())
    }

    fn left(&self) -> Vec<usize> {
        (0..self.given.len()).filter(|place| !self.given[*place].is_out()).collect()
    }

    fn misses_parent(&self, place: usize, piece: &[usize]) -> bool {
        let also = self.applied.iter().chain(piece).map(|place| self.given[*place].row.id);
        self.world.misses_parent(self.shard, self.given[place].row.id, also)
    }

    /// Why one of these records cannot be applied beside the others, and which one it is, where that is said.
    pub fn refusal(&self, piece: &[usize]) -> Option<(Option<usize>, Reason)> {
        let poison = |place: &&usize| self.world.broker.published[self.given[**place].row.id as usize].poison;
        if let Some(bad) = piece.iter().find(poison) {
            // Not every failure says which record it was.
            let named = self.given[*bad].row.id.is_multiple_of(2);
            return Some((named.then_some(*bad), Reason::new("value out of range")));
        }
        piece.iter().any(|place| self.misses_parent(*place, piece)).then(|| (None, missing_parent()))
    }

    fn at_fault(&mut self, place: usize, reason: Reason) {
        self.given[place].dead = true;
        self.reasons.insert(place, reason);
        if self.then == Then::Park {
            self.wait_from(place);
        }
    }

    /// The key of this record waits from it on: what is known of those behind it shows in their turn.
    fn wait_from(&mut self, place: usize) {
        let key = self.given[place].key();
        let keeps = self.switches().keys_wait_behind;
        self.given[place].park.get_or_insert(Why::Record);
        for behind in self.given[place + 1..].iter_mut().filter(|g| keeps && g.key() == key) {
            (behind.park, behind.dead, behind.awaits) = (Some(behind.park.unwrap_or(Why::Record)), false, false);
        }
    }

    /// The records at fault that count, in order.
    pub fn bad(&self) -> Vec<BadRecord> {
        let bad = |(place, reason): (&usize, &Reason)| {
            let given = &self.given[*place];
            given.dead.then(|| BadRecord { index: given.index, reason: reason.clone() })
        };
        self.reasons.iter().filter_map(bad).collect()
    }
}

fn missing_parent() -> Reason {
    Reason { sqlstate: Some("23503".into()), ..Reason::new("insert violates foreign key constraint") }
}

impl Pieces for Trial<'_> {
    type Error = Failure;

    fn attempt(&mut self, piece: &[usize]) -> Result<(), Refused<Failure>> {
        // Keys may have been set aside since the piece was cut.
        let piece: Vec<usize> = piece.iter().copied().filter(|place| !self.given[*place].is_out()).collect();
        if piece.iter().any(|place| self.world.is_parent_locked(self.given[*place].row.id)) {
            return Err(Refused::Other(lock_wait()));
        }
        match self.refusal(&piece) {
            Some((place, reason)) => Err(Refused::Record(place, reason)),
            None => {
                self.applied.extend(piece);
                Ok(())
            }
        }
    }

    fn bad(&mut self, BadRecord { index: place, reason }: BadRecord) {
        if self.given[place].is_out() {
            return;
        }
        let awaits = reason == missing_parent() && self.switches().parents_awaited;
        match awaits && !self.impatient.contains(&place) {
            true if self.awaits_believed => {
                self.given[place].awaits = true;
                self.wait_from(place);
            }
            true => self.awaits = true,
            false => self.at_fault(place, reason),
        }
    }
}
