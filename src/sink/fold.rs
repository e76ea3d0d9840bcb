//! Several operations on one row in one batch, made into as few as have the same effect as all of them, one after the other.
//! A statement of PostgreSQL may touch a row only once, and rows are written in another order than they came in.
//!
//! What is left of a key is a chain of steps. Steps have stages: deletes even ones, writes odd ones; all steps of a
//! stage may run in one statement, and stages run one after the other. Most batches have stage 1 only.
//!
//! - A delete makes void what came before it, except inserts: those could have failed, and that must not be lost. (A partial
//!   upsert could, too, but only for want of columns; what it would have written does not outlive the batch either way.)
//! - A write after a write of the same row is merged: column by column, the later value counts, absent columns leave alone
//!   what was there. After a delete it is a step of its own, so that absent columns get their defaults.
//! - A partial write that could not create the row (a NOT NULL column is absent) is not merged into one that could: alone
//!   it may be refused, and a batch boundary must not decide that.
//! - With a guard only writes of the same columns are merged, by keeping the one with the greater guard, the first of
//!   equal ones; others are steps of their own, in order. Deletes are not guarded.
//! - An update after a delete has no row to update.

use crate::sink::plan::Mask;

/// What a record does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Delete,
    Insert,
    Upsert,
    Update,
}

/// A value in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub at: u32,
    pub len: u32,
}

impl Cell {
    pub const NULL: Cell = Cell { at: 0, len: u32::MAX };
    pub const ABSENT: Cell = Cell { at: 0, len: u32::MAX - 1 };

    pub fn is_null(self) -> bool {
        self == Cell::NULL
    }

    pub fn bytes(self, arena: &[u8]) -> &[u8] {
        &arena[self.at as usize..(self.at + self.len) as usize]
    }
}

/// One record's row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub op: Op,
    pub mask: Mask,
    /// In [`Rows::keys`]; empty for a table without key columns.
    pub key: (u32, u32),
    pub hash: u64,
}

/// The rows of a batch, in the order of its records.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// As many per row as the table has columns.
    pub cells: Vec<Cell>,
    pub keys: Vec<u8>,
    pub width: usize,
}

impl Rows {
    pub fn clear(&mut self, width: usize) {
        self.rows.clear();
        self.cells.clear();
        self.keys.clear();
        self.width = width;
    }

    /// Drops the cells of a row that was begun and not closed.
    pub fn drop_open(&mut self) {
        self.cells.truncate(self.rows.len() * self.width);
    }

    pub fn key(&self, row: u32) -> &[u8] {
        let (from, to) = self.rows[row as usize].key;
        &self.keys[from as usize..to as usize]
    }

    pub fn cell(&self, row: u32, column: usize) -> Cell {
        self.cells[row as usize * self.width + column]
    }

    /// Gives `later` the columns that only `earlier` has.
    fn merge(&mut self, earlier: u32, later: u32) {
        let missing = self.rows[earlier as usize].mask.without(&self.rows[later as usize].mask);
        for column in missing.iter() {
            self.cells[later as usize * self.width + column] = self.cell(earlier, column);
        }
        self.rows[later as usize].mask = self.rows[later as usize].mask.union(&missing);
    }
}

/// What follows from the table.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub guarded: bool,
    /// Columns without which a row cannot be created.
    pub required: Mask,
    /// Keys that look different may be equal: nothing can be folded, each record is a step of its own.
    pub one_by_one: bool,
    /// Whether rows have a key.
    pub keyed: bool,
}

/// A row that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub stage: u32,
    pub row: u32,
}

const NONE: u32 = u32::MAX;

/// Buffers, used again for every batch.
#[derive(Debug, Default)]
pub struct Fold {
    links: Vec<Link>,
    /// Open addressing, a power of two: the last link of a key's chain, and the low half of the key's hash.
    table: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    step: Step,
    previous: u32,
    void: bool,
}

impl Fold {
    /// What remains of `rows`, in no particular order. `newer(earlier, later)` compares guards; none: unknown.
    pub fn fold(
        &mut self,
        rows: &mut Rows,
        rules: &Rules,
        newer: impl Fn(Cell, Cell) -> Option<bool>,
        guard: Option<usize>,
        into: &mut Vec<Step>,
    ) {
        self.links.clear();
        self.table.clear();
        self.table.resize((rows.rows.len() * 2).next_power_of_two(), (NONE, 0));
        for row in 0..rows.rows.len() as u32 {
            if rules.one_by_one || !rules.keyed {
                self.follow(row, rows, rules.one_by_one);
                continue;
            }
            let place = self.place(row, rows);
            let last = self.table[place].0;
            let compare = |earlier: u32| guard.and_then(|g| newer(rows.cell(earlier, g), rows.cell(row, g)));
            let verdict = match last {
                NONE => Verdict::After,
                last => {
                    let earlier = self.links[last as usize].step.row;
                    judge(&rows.rows[earlier as usize], &rows.rows[row as usize], rules, || compare(earlier))
                }
            };
            match verdict {
                Verdict::Drop => {}
                Verdict::Replace => {
                    let link = &mut self.links[last as usize];
                    if !rules.guarded {
                        rows.merge(link.step.row, row);
                    }
                    // An update of a row that an upsert has made sure of is a part of the upsert.
                    rows.rows[row as usize].op = rows.rows[link.step.row as usize].op;
                    link.step.row = row;
                }
                Verdict::Void => {
                    self.void(last);
                    self.push(place, row, NONE, rows);
                }
                Verdict::After => self.push(place, row, last, rows),
            }
        }
        into.extend(self.links.iter().filter(|link| !link.void).map(|link| link.step));
    }

    /// The key's place in the table, found or free.
    fn place(&mut self, row: u32, rows: &Rows) -> usize {
        let hash = rows.rows[row as usize].hash;
        let last = self.table.len() - 1;
        let mut place = (hash >> 32) as usize & last;
        loop {
            let (link, low) = self.table[place];
            if link == NONE {
                self.table[place].1 = hash as u32;
                return place;
            }
            if low == hash as u32 && rows.key(self.links[link as usize].step.row) == rows.key(row) {
                return place;
            }
            place = (place + 1) & last;
        }
    }

    fn push(&mut self, place: usize, row: u32, previous: u32, rows: &Rows) {
        let before = (previous != NONE).then(|| self.links[previous as usize].step);
        let stage = stage(before, row, rows);
        self.table[place].0 = self.links.len() as u32;
        self.links.push(Link { step: Step { stage, row }, previous, void: false });
    }

    fn void(&mut self, mut link: u32) {
        while link != NONE {
            self.links[link as usize].void = true;
            link = self.links[link as usize].previous;
        }
    }

    /// After every row before it, or (without keys) beside them.
    fn follow(&mut self, row: u32, rows: &Rows, after: bool) {
        let before = self.links.last().filter(|_| after).map(|link| link.step);
        let step = Step { stage: stage(before, row, rows), row };
        self.links.push(Link { step, previous: NONE, void: false });
    }
}

enum Verdict {
    /// It has no effect.
    Drop,
    /// It takes the place of the last step.
    Replace,
    /// It makes void all that was before.
    Void,
    /// It is the next step.
    After,
}

fn judge(earlier: &Row, later: &Row, rules: &Rules, newer: impl Fn() -> Option<bool>) -> Verdict {
    match (earlier.op, later.op) {
        (Op::Delete, Op::Delete | Op::Update) => Verdict::Drop,
        (Op::Delete, _) | (Op::Insert, _) | (_, Op::Insert) => Verdict::After,
        (_, Op::Delete) => Verdict::Void,
        // Where there is no row, only the later one has an effect.
        (Op::Update, Op::Upsert) => Verdict::After,
        _ if rules.guarded => match newer() {
            Some(newer) if earlier.mask == later.mask && newer => Verdict::Replace,
            Some(_) if earlier.mask == later.mask => Verdict::Drop,
            _ => Verdict::After,
        },
        (Op::Update, _) => Verdict::Replace,
        (Op::Upsert, _) => {
            let missing = rules.required.without(&earlier.mask);
            if missing == missing.without(&later.mask) { Verdict::Replace } else { Verdict::After }
        }
    }
}

/// The first stage of the right parity behind `before`. Inserts may share one, and so may deletes.
fn stage(before: Option<Step>, row: u32, rows: &Rows) -> u32 {
    let op = rows.rows[row as usize].op;
    let parity = u32::from(op != Op::Delete);
    match before {
        None => parity,
        Some(step) if op == rows.rows[step.row as usize].op && matches!(op, Op::Insert | Op::Delete) => step.stage,
        Some(step) => step.stage + 1 + u32::from((step.stage + 1) % 2 != parity),
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
