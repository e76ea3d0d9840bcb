//! Records to rows: decodes the records of a batch, folds those that meet in one row, and says which statements write the
//! rest. Never talks to a database; whoever does composes the statements with the fences.
//!
//! What happens where the configuration leaves it open, and why:
//!
//! - **A null value while `delete_enabled` is off** is the record's fault. A compacted topic's tombstone means "delete"; to pass
//!   over it would leave a row that its producer believes gone.
//! - **The literal `null`**, or any payload that is not an object, is the record's fault: it is not a tombstone.
//! - **Unknown fields** are passed over, so that producers can add fields before the table has columns for them;
//!   `unknown_fields = "error"` makes them the record's fault. The fields of generated and ignored columns are known.
//! - **A key that occurs twice in an object**: the last one counts, as in PostgreSQL's jsonb.
//! - **An absent field** leaves its column alone (in a new row: the default); **null** writes a null. Where a column comes from
//!   inside of an object (`/geo/country`), a null object makes it null, an absent one leaves it alone, and anything
//!   else that is not an object is the record's fault. An absent header leaves alone, too.
//! - **A partial upsert of a row that is not there** inserts it with defaults; where a NOT NULL column has no
//!   default PostgreSQL refuses (23502), and the record is at fault.
//! - **An update of a row that is not there** has no effect, as in SQL: `update` says that others create the rows.
//! - **A key column that is absent or null** is the record's fault: it names no row.
//! - **`1.0` and `1e3` for integer columns** are taken, because what they say is integral; `1.5` is the record's fault. Numbers may
//!   be strings, too, because many producers write int8 and numeric so, for JavaScript's sake.
//! - **Numbers for date and time columns** are the record's fault: seconds or milliseconds, nobody can tell.
//! - **A guard with partial updates**: the guard column must be in every write; one without it is the record's fault, because it
//!   could not be ordered. Partial writes of different columns are applied one after the other, each by its own guard, so a write
//!   of some columns makes older writes of others void. An equal guard is not newer. Deletes are not guarded.
//! - **Insert mode** has no ON CONFLICT: a key that is there already is the record's fault (23505).
//! - **A delete by `delete_field`** reads the key columns from the payload, and nothing else of it.
//! - **Key columns whose equality PostgreSQL alone knows** (numeric(p, s), char(n), citext, inet, jsonb, arrays, lengths on times,
//!   nondeterministic collations) cannot be folded here: such records are written one by one, correct but slow.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use postgres::GenericClient;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type};

use crate::config::InsertMode;
use crate::sink::decode::{self, Found};
use crate::sink::encode::{Kind, Scratch};
use crate::sink::fault::{Fault, Place};
use crate::sink::fold::{Cell, Fold, Op, Row, Rows, Rules, Step};
pub use crate::sink::plan::TablePlan;
use crate::sink::plan::{Mask, PlanColumn, Source};
use crate::sink::session::{Ready, Text};
pub use crate::sink::statement::Shape;
use crate::sink::{BadRecord, Reason, RowCounts, moment, statement};
use crate::state::batch::Batch;
use crate::state::chunk::RecordRef;

/// Buffers above this are not kept for the next batch, or one oversized record would be paid for ever.
const ARENA_KEPT_MAX: usize = 4 << 20;

/// The reusable buffers of one worker for one topic.
pub struct TableWriter {
    plan: Arc<TablePlan>,
    rules: Rules,
    found: Vec<Found>,
    scratch: Scratch,
    arena: Vec<u8>,
    rows: Rows,
    /// Of each row: its record's index in the batch.
    records: Vec<usize>,
    fold: Fold,
    steps: Vec<Step>,
    groups: Vec<Group>,
    /// The parameters of all groups; those behind the last group's are kept for later batches.
    parameters: Vec<ArrayBody>,
    counts: RowCounts,
}

/// A statement that locks rows without waiting, and answers the numbers (from 1) of those that somebody else has, and who.
pub struct Probe {
    pub sql: String,
    parameters: Vec<(ArrayBody, Type)>,
    /// Of each row: the records (indices in the batch) that are about it, in order.
    pub records: Vec<Vec<usize>>,
}

impl Probe {
    pub fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.parameters.iter().map(|(body, carrier)| (body as &(dyn ToSql + Sync), carrier.clone())).collect()
    }
}

struct Group {
    shape: Shape,
    parameters: Range<usize>,
}

impl TableWriter {
    pub fn new(plan: Arc<TablePlan>) -> TableWriter {
        let rules = Rules {
            guarded: plan.guard.is_some(),
            required: plan.required,
            one_by_one: plan.pk > 0 && !plan.exact_keys,
            keyed: plan.pk > 0,
        };
        TableWriter {
            rules,
            found: vec![Found::Absent; plan.slots()],
            scratch: Scratch::default(),
            arena: Vec::new(),
            rows: Rows::default(),
            records: Vec::new(),
            fold: Fold::default(),
            steps: Vec::new(),
            groups: Vec::new(),
            parameters: Vec::new(),
            counts: RowCounts::default(),
            plan,
        }
    }

    pub fn plan(&self) -> &Arc<TablePlan> {
        &self.plan
    }

    /// Decodes and folds records of the batch, given by their indices in order. Those that do not decode are left out and
    /// named in `bad`.
    pub fn load(&mut self, batch: &Batch, records: impl Iterator<Item = usize>, bad: &mut Vec<BadRecord>) {
        self.clear();
        for index in records {
            match self.record(&batch.record(index)) {
                Ok(()) => self.records.push(index),
                Err(fault) => {
                    self.rows.drop_open();
                    bad.push(BadRecord { index, reason: Reason::new(fault.to_string()) });
                }
            }
        }
        let (plan, arena) = (&self.plan, &self.arena);
        let newer = |earlier: Cell, later: Cell| {
            let kind = &plan.columns[plan.guard?].kind;
            kind.is_greater(later.bytes(arena), earlier.bytes(arena))
        };
        self.fold.fold(&mut self.rows, &self.rules, newer, plan.guard, &mut self.steps);
        self.group();
    }

    /// Data-modifying statements that what was loaded needs, in this order; 0 if nothing is to be written.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Whether it was exactly these records of the batch that were loaded last, and all of them decoded.
    pub fn has_loaded(&self, records: &[usize]) -> bool {
        self.records == records
    }

    /// Equal shapes have equal statements, for equal `first` and `condition`.
    pub fn shape(&self, group: usize) -> Shape {
        self.groups[group].shape
    }

    /// The statement, its parameters numbered from `$first`; it writes only if the SQL expression `condition` holds. It can
    /// be a member of a WITH. Several groups need several statements: members of one WITH do not see each other's rows.
    pub fn sql(&self, group: usize, first: usize, condition: Option<&str>) -> String {
        statement::sql(&self.plan, self.shape(group), first, condition)
    }

    pub fn param_types(&self, group: usize) -> Vec<Type> {
        self.shape(group).mask.iter().map(|index| self.plan.columns[index].carrier.clone()).collect()
    }

    pub fn params(&self, group: usize) -> Vec<&(dyn ToSql + Sync)> {
        let parameters = &self.parameters[self.groups[group].parameters.clone()];
        parameters.iter().map(|body| body as &(dyn ToSql + Sync)).collect()
    }

    /// The rows that what was loaded is about, to be looked for by their keys; none where they have no keys.
    pub fn probe(&self) -> Option<Probe> {
        if self.plan.pk == 0 || self.rows.rows.is_empty() {
            return None;
        }
        let mut records: BTreeMap<&[u8], (u32, Vec<usize>)> = BTreeMap::new();
        for (row, index) in self.records.iter().enumerate() {
            records.entry(self.rows.key(row as u32)).or_insert((row as u32, Vec::new())).1.push(*index);
        }
        let mut parameters = Vec::new();
        for (index, column) in self.plan.pk_columns().iter().enumerate() {
            let mut body = ArrayBody::default();
            let rows: Vec<Cell> = records.values().map(|(row, _)| self.rows.cell(*row, index)).collect();
            body.write(column.element, rows.into_iter(), &self.arena);
            parameters.push((body, column.carrier.clone()));
        }
        let deletes = self.rows.rows.iter().any(|row| row.op == Op::Delete);
        let sql = statement::probe(&self.plan, deletes);
        Some(Probe { sql, parameters, records: records.into_values().map(|(_, records)| records).collect() })
    }

    /// Writes what was loaded, group by group, each by a statement that is not prepared. Returns how many rows that changed: none of those
    /// that a guard holds back, or that are not there to be updated or deleted.
    pub fn write(&self, on: &mut impl GenericClient) -> Result<u64, postgres::Error> {
        let mut rows = 0;
        for group in 0..self.groups() {
            let text = Text { sql: self.sql(group, 1, None), types: self.param_types(group) };
            rows += Ready::unnamed(text).execute(on, &self.params(group))?;
        }
        Ok(rows)
    }

    /// Rows that are sent; updates of rows that are not there, and rows that a guard holds back, are among them.
    pub fn counts(&self) -> RowCounts {
        self.counts
    }

    fn clear(&mut self) {
        self.arena.clear();
        if self.arena.capacity() > ARENA_KEPT_MAX {
            self.arena.shrink_to(ARENA_KEPT_MAX);
        }
        self.rows.clear(self.plan.columns.len());
        self.records.clear();
        self.steps.clear();
        self.groups.clear();
        self.counts = RowCounts::default();
    }

    fn record(&mut self, record: &RecordRef<'_>) -> Result<(), Fault> {
        let Some(value) = record.value else { return self.tombstone(record) };
        let document = document(value)?;
        self.locate(document)?;
        self.row(document, record)
    }

    /// Begins with a payload: finds its fields.
    pub fn locate(&mut self, document: &str) -> Result<(), Fault> {
        let plan = &self.plan;
        decode::find(&plan.fields, document, plan.unknown_is_error, &mut self.found)
    }

    /// Where [`locate`](TableWriter::locate) found a column's value; only for those that the payload feeds.
    pub fn located(&self, column: usize) -> Found {
        self.found[column]
    }

    /// Whether the payload whose fields were located last, or else the null value, can be this table's row or delete: the first half of
    /// [`load`](TableWriter::load), for whoever wants to know before it is a record of a batch. What else was loaded is gone.
    ///
    /// # Errors
    /// What `load` would refuse it for.
    pub fn check_only(&mut self, record: &RecordRef<'_>) -> Result<Op, Fault> {
        self.clear();
        match record.value {
            None => self.tombstone(record)?,
            Some(value) => self.row(document(value)?, record)?,
        }
        Ok(self.rows.rows[0].op)
    }

    /// The columns that the record which was checked last writes.
    pub fn checked_mask(&self) -> Mask {
        self.rows.rows[0].mask
    }

    /// A column's value in that record, encoded; none if it is absent or null.
    pub fn checked_cell(&self, column: usize) -> Option<&[u8]> {
        let cell = self.rows.cell(0, column);
        (cell != Cell::ABSENT && !cell.is_null()).then(|| cell.bytes(&self.arena))
    }

    /// The row of a payload whose fields are located.
    fn row(&mut self, document: &str, record: &RecordRef<'_>) -> Result<(), Fault> {
        let plan = self.plan.clone();
        let deletes = match plan.delete_slot.map(|slot| self.found[slot]) {
            None | Some(Found::Absent | Found::Null) => false,
            Some(Found::At(from, to)) => match &document[from as usize..to as usize] {
                "true" => true,
                "false" => false,
                other => return Err(Fault::differs(Place::DeleteField, "a boolean", crate::sink::json::kind(other))),
            },
        };
        let (op, columns) = match (deletes, plan.mode) {
            (true, _) => (Op::Delete, plan.pk),
            (false, InsertMode::Insert) => (Op::Insert, plan.columns.len()),
            (false, InsertMode::Upsert) => (Op::Upsert, plan.columns.len()),
            (false, InsertMode::Update) => (Op::Update, plan.columns.len()),
        };
        let mut mask = Mask::default();
        for (index, column) in plan.columns[..columns].iter().enumerate() {
            let cell = self.cell(index, column, document, record)?;
            if cell != Cell::ABSENT {
                mask.insert(index);
            }
            self.check(index, column, cell, op)?;
            self.rows.cells.push(cell);
        }
        if mask.is_empty() {
            return Err(Fault::said(Place::Payload, "none of its fields has a column"));
        }
        self.push(op, mask);
        Ok(())
    }

    /// A null value: its key says which row goes.
    fn tombstone(&mut self, record: &RecordRef<'_>) -> Result<(), Fault> {
        let plan = self.plan.clone();
        if !plan.deletes {
            return Err(Fault::said(Place::Record, "a null value, which would delete, while delete_enabled is off"));
        }
        self.found.fill(Found::Absent);
        let key = match record.key {
            Some(key) => std::str::from_utf8(key).map_err(|_| Fault::said(Place::Key, "not UTF-8"))?,
            None if plan.pk_columns().iter().any(|column| column.source.is_payload()) => {
                return Err(Fault::said(Place::Record, "a null value without a key: nothing says which row to delete"));
            }
            None => "",
        };
        if let Some(format) = &plan.key_format {
            let base = key.as_ptr() as usize;
            let fits = format.split(key, |column, text| {
                let at = text.as_ptr() as usize - base;
                self.found[column] = Found::At(at as u32, (at + text.len()) as u32);
            });
            if !fits {
                return Err(Fault::said(Place::Key, "not as key_format says"));
            }
        } else if record.key.is_some() && plan.pk_columns().iter().any(|column| column.source.is_payload()) {
            self.json_key(&plan, key)?;
        }
        for (index, column) in plan.pk_columns().iter().enumerate() {
            let cell = match self.found[index] {
                Found::At(from, to) if plan.key_format.is_some() && column.source.is_payload() => {
                    let at = self.arena.len();
                    let text = &key[from as usize..to as usize];
                    column.kind.encode_text(text, &mut self.arena).map_err(|found| unfit(column, found))?;
                    self.since(at)
                }
                _ => self.cell(index, column, key, record)?,
            };
            self.check(index, column, cell, Op::Delete)?;
            self.rows.cells.push(cell);
        }
        self.push(Op::Delete, plan.pk_mask);
        Ok(())
    }

    fn json_key(&mut self, plan: &TablePlan, key: &str) -> Result<(), Fault> {
        let first = key.trim_start_matches([' ', '\t', '\r', '\n']);
        let hint = "expected JSON with the pk_fields (or key_format, to say how else to read it)";
        if first.starts_with('{') {
            return decode::find(&plan.key_fields, key, false, &mut self.found).map_err(|fault| match fault.place() {
                Place::Payload => Fault::said(Place::Key, format!("{}; {hint}", fault.what())),
                _ => Fault::said(Place::Key, format!("{fault}; {hint}")),
            });
        }
        let payload: Vec<usize> = (0..plan.pk).filter(|index| plan.columns[*index].source.is_payload()).collect();
        let scalar = serde_json::from_str::<&serde_json::value::RawValue>(key);
        match (payload.as_slice(), scalar) {
            ([only], Ok(raw)) => {
                let at = raw.get().as_ptr() as usize - key.as_ptr() as usize;
                let found = Found::At(at as u32, (at + raw.get().len()) as u32);
                self.found[*only] = if raw.get() == "null" { Found::Null } else { found };
                Ok(())
            }
            (_, Ok(raw)) => {
                Err(Fault::said(Place::Key, format!("found {}, {hint}", crate::sink::json::kind(raw.get()))))
            }
            (_, Err(_)) => Err(Fault::said(Place::Key, format!("not JSON, {hint}"))),
        }
    }

    /// The encoded value of a column.
    fn cell(
        &mut self,
        index: usize,
        column: &PlanColumn,
        document: &str,
        record: &RecordRef<'_>,
    ) -> Result<Cell, Fault> {
        let at = self.arena.len();
        let text = match &column.source {
            Source::Payload => {
                let raw = match self.found[index] {
                    Found::Absent => return Ok(Cell::ABSENT),
                    Found::Null => return Ok(Cell::NULL),
                    Found::At(from, to) => &document[from as usize..to as usize],
                };
                let encoded = column.kind.encode(raw, &mut self.arena, &mut self.scratch);
                encoded.map_err(|found| unfit(column, found))?;
                return Ok(self.since(at));
            }
            Source::Key => record.key,
            Source::Header(name) => match record.headers.get(name) {
                Some(value) => value,
                None => return Ok(Cell::ABSENT),
            },
            Source::Offset => return self.number(column, record.offset.0),
            Source::Partition => return self.number(column, i64::from(record.partition)),
            Source::Timestamp if record.timestamp_ms < 0 => return Ok(Cell::NULL),
            Source::Timestamp => {
                let value = if column.kind == Kind::Int8 {
                    record.timestamp_ms
                } else {
                    let out_of_range = || unfit(column, "a timestamp out of range");
                    moment::from_unix_ms(record.timestamp_ms).ok_or_else(out_of_range)?
                };
                self.arena.extend_from_slice(&value.to_be_bytes());
                return Ok(self.since(at));
            }
        };
        match (text, &column.kind) {
            (None, _) => Ok(Cell::NULL),
            (Some(bytes), Kind::Bytea) => {
                self.arena.extend_from_slice(bytes);
                Ok(self.since(at))
            }
            (Some(bytes), kind) => {
                let text = std::str::from_utf8(bytes).map_err(|_| unfit(column, "bytes that are not UTF-8"))?;
                kind.encode_text(text, &mut self.arena).map_err(|found| unfit(column, found))?;
                Ok(self.since(at))
            }
        }
    }

    fn number(&mut self, column: &PlanColumn, value: i64) -> Result<Cell, Fault> {
        let at = self.arena.len();
        match column.kind {
            Kind::Int8 => self.arena.extend_from_slice(&value.to_be_bytes()),
            _ => {
                let encoded = column.kind.encode_text(&value.to_string(), &mut self.arena);
                encoded.map_err(|found| unfit(column, found))?;
            }
        }
        Ok(self.since(at))
    }

    fn since(&self, at: usize) -> Cell {
        Cell { at: at as u32, len: (self.arena.len() - at) as u32 }
    }

    fn check(&self, index: usize, column: &PlanColumn, cell: Cell, op: Op) -> Result<(), Fault> {
        let found = match cell {
            Cell::NULL => "null",
            Cell::ABSENT => "nothing",
            _ => return Ok(()),
        };
        let needed = if index < self.plan.pk && (op != Op::Insert || cell.is_null()) {
            "a value of the key"
        } else if self.plan.guard == Some(index) && op != Op::Delete {
            "a value of the guard"
        } else if cell.is_null() && column.not_null {
            "a value (NOT NULL)"
        } else {
            return Ok(());
        };
        Err(Fault::differs(Place::Column(column.name.clone()), needed, found))
    }

    /// Closes the row whose cells were pushed last.
    fn push(&mut self, op: Op, mask: Mask) {
        let width = self.rows.width;
        let first = self.rows.rows.len() * width;
        self.rows.cells.resize(first + width, Cell::ABSENT);
        let from = self.rows.keys.len();
        let (cells, keys) = (&self.rows.cells[first..first + self.plan.pk], &mut self.rows.keys);
        let mut lengths = [0u32; 4];
        for (place, (cell, column)) in cells.iter().zip(self.plan.pk_columns()).enumerate() {
            let before = keys.len();
            // A table may number its own rows: then an insert has no key of its own.
            if *cell != Cell::ABSENT {
                column.kind.key(cell.bytes(&self.arena), keys);
            }
            let length = (keys.len() - before) as u32;
            match lengths.get_mut(place) {
                Some(slot) => *slot = length,
                None => keys.extend_from_slice(&length.to_be_bytes()),
            }
        }
        // With the lengths behind the values, equal bytes mean equal columns.
        for length in &lengths[..self.plan.pk.min(lengths.len())] {
            keys.extend_from_slice(&length.to_be_bytes());
        }
        let hash = xxhash_rust::xxh3::xxh3_64(&keys[from..]);
        let key = (from as u32, keys.len() as u32);
        self.rows.rows.push(Row { op, mask, key, hash });
    }

    /// Sorts what remains, so that all workers lock rows in one order, and lays out the parameters.
    fn group(&mut self) {
        let rows = &self.rows;
        let pk_mask = self.plan.pk_mask;
        // An update that only names its row changes nothing.
        self.steps.retain(|step| {
            let row = &rows.rows[step.row as usize];
            row.op != Op::Update || !row.mask.without(&pk_mask).is_empty()
        });
        let order = |step: &Step| {
            let row = &rows.rows[step.row as usize];
            let key = rows.key(step.row);
            let prefix = key.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            (step.stage, row.mask, prefix)
        };
        self.steps.sort_unstable_by(|a, b| {
            order(a).cmp(&order(b)).then_with(|| rows.key(a.row).cmp(rows.key(b.row))).then(a.row.cmp(&b.row))
        });
        let mut from = 0;
        let mut parameter = 0;
        while let Some(first) = self.steps.get(from) {
            let row = &rows.rows[first.row as usize];
            let (stage, shape) = (first.stage, Shape { op: row.op, mask: row.mask });
            let alike = |step: &&Step| step.stage == stage && rows.rows[step.row as usize].mask == shape.mask;
            let count = self.steps[from..].iter().take_while(alike).count();
            let steps = &self.steps[from..from + count];
            let begin = parameter;
            for index in shape.mask.iter() {
                if self.parameters.len() == parameter {
                    self.parameters.push(ArrayBody::default());
                }
                let cells = steps.iter().map(|step| rows.cell(step.row, index));
                self.parameters[parameter].write(self.plan.columns[index].element, cells, &self.arena);
                parameter += 1;
            }
            self.groups.push(Group { shape, parameters: begin..parameter });
            match shape.op {
                Op::Delete => self.counts.deleted += count as u32,
                _ => self.counts.upserted += count as u32,
            }
            from += count;
        }
        self.counts.folded = (rows.rows.len() - self.steps.len()) as u32;
    }
}

fn unfit(column: &PlanColumn, found: &'static str) -> Fault {
    Fault::differs(Place::Column(column.name.clone()), column.type_name.clone(), found)
}

fn document(value: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(value).map_err(|_| Fault::said(Place::Payload, "not UTF-8"))
}

/// A parameter: an array in PostgreSQL's binary form (`array_recv`), laid out before it is asked for.
#[derive(Debug, Default)]
struct ArrayBody(Vec<u8>);

impl ArrayBody {
    fn write(&mut self, element: u32, cells: impl ExactSizeIterator<Item = Cell> + Clone, arena: &[u8]) {
        let bytes = &mut self.0;
        bytes.clear();
        if bytes.capacity() > ARENA_KEPT_MAX {
            bytes.shrink_to(ARENA_KEPT_MAX);
        }
        let has_null = cells.clone().any(Cell::is_null);
        // Dimensions, whether there are nulls, the elements' type; of the only dimension the length and the lower bound.
        for word in [1, u32::from(has_null), element, cells.len() as u32, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for cell in cells {
            // A null's length is −1, which is what a cell says of it.
            bytes.extend_from_slice(&cell.len.to_be_bytes());
            if !cell.is_null() {
                bytes.extend_from_slice(cell.bytes(arena));
            }
        }
    }
}

impl ToSql for ArrayBody {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    postgres::types::to_sql_checked!();
}
