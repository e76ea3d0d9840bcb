//! Tests of `fold`: what it leaves has the effect of all rows, one after the other, on a table modelled as a map.

use std::collections::{BTreeMap, HashMap};

use super::*;
use proptest::prelude::*;

/// Column 0 is the key, 1 the guard, 2 to 4 are others; column 4 is NOT NULL without a default where `required` says so.
const WIDTH: usize = 5;
const GUARD: usize = 1;

/// A record: operation, key, and a value for some columns.
type Record = (Op, u8, [Option<u8>; WIDTH]);

/// A row: none = null. An absent column of a new row gets 100 + its number.
type Table = BTreeMap<u8, [u8; WIDTH]>;

#[derive(Debug, Clone, Copy)]
struct Model {
    guarded: bool,
    required: bool,
}

/// What PostgreSQL would do. False: it refuses, and the table stays as it was.
fn apply(model: Model, table: &mut Table, (op, key, values): &Record) -> bool {
    match (op, table.get_mut(key)) {
        (Op::Delete, _) => drop(table.remove(key)),
        (Op::Insert, Some(_)) => return false,
        (Op::Upsert | Op::Update, Some(row)) => {
            if !model.guarded || values[GUARD] > Some(row[GUARD]) {
                for (old, new) in row.iter_mut().zip(values) {
                    *old = new.unwrap_or(*old);
                }
            }
        }
        (Op::Update, None) => {}
        (Op::Upsert | Op::Insert, None) => {
            if model.required && values[4].is_none() {
                return false;
            }
            table.insert(*key, std::array::from_fn(|i| values[i].unwrap_or(100 + i as u8)));
        }
    }
    true
}

fn rows(records: &[Record], arena: &mut Vec<u8>) -> Rows {
    let mut rows = Rows::default();
    rows.clear(WIDTH);
    for (op, key, values) in records {
        let mut mask = Mask::default();
        for (column, value) in values.iter().enumerate() {
            let at = arena.len() as u32;
            rows.cells.push(value.map_or(Cell::ABSENT, |value| {
                arena.push(value);
                mask.insert(column);
                Cell { at, len: 1 }
            }));
        }
        let from = rows.keys.len() as u32;
        rows.keys.push(*key);
        // Only three different hashes: keys must be compared, too.
        rows.rows.push(Row { op: *op, mask, key: (from, from + 1), hash: u64::from(key % 3) });
    }
    rows
}

/// The folded records, stage by stage, and how many stages there are.
fn folded(model: Model, one_by_one: bool, records: &[Record]) -> BTreeMap<u32, Vec<Record>> {
    let mut arena = Vec::new();
    let mut rows = rows(records, &mut arena);
    let mut required = Mask::default();
    if model.required {
        required.insert(4);
    }
    let rules = Rules { guarded: model.guarded, required, one_by_one, keyed: true };
    let mut steps = Vec::new();
    let newer = |earlier: Cell, later: Cell| Some(later.bytes(&arena) > earlier.bytes(&arena));
    Fold::default().fold(&mut rows, &rules, newer, model.guarded.then_some(GUARD), &mut steps);
    let mut stages: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
    for step in steps {
        let values = std::array::from_fn(|column| {
            let cell = rows.cell(step.row, column);
            (cell != Cell::ABSENT).then(|| cell.bytes(&arena)[0])
        });
        stages.entry(step.stage).or_default().push((rows.rows[step.row as usize].op, rows.key(step.row)[0], values));
    }
    stages
}

fn records(ops: &'static [Op], guarded: bool) -> impl Strategy<Value = Vec<Record>> {
    let value = || proptest::option::of(0u8..4);
    let record = (proptest::sample::select(ops), 0u8..5, 0u8..4, value(), value(), value());
    let record = record.prop_map(move |(op, key, guard, a, b, c)| match op {
        Op::Delete => (op, key, [Some(key), None, None, None, None]),
        _ => (op, key, [Some(key), guarded.then_some(guard), a, b, c]),
    });
    proptest::collection::vec(record, 0..24)
}

fn check(model: Model, one_by_one: bool, records: &[Record]) {
    let (mut single, mut refused) = (Table::from([(0, [0, 1, 7, 7, 7]), (1, [1, 2, 8, 8, 8])]), false);
    let mut whole = single.clone();
    for record in records {
        refused |= !apply(model, &mut single, record);
    }
    let stages = folded(model, one_by_one, records);
    let mut whole_refused = false;
    for (stage, members) in stages {
        let mut seen = HashMap::new();
        for record in &members {
            assert_eq!(stage % 2 == 0, record.0 == Op::Delete, "deletes have even stages");
            let twice = seen.insert(record.1, ()).is_some();
            assert!(!twice || matches!(record.0, Op::Insert | Op::Delete), "a statement may touch a row only once");
            whole_refused |= !apply(model, &mut whole, record);
        }
    }
    // A batch that is refused is written by nobody; that a refusal may go with a write that is void later is fine.
    if !refused {
        assert!(!whole_refused);
        assert_eq!(whole, single);
    }
    let voids = records.iter().any(|record| record.0 == Op::Delete);
    if refused && !voids {
        assert!(whole_refused, "folding must not make a bad record good");
    }
}

const UPSERTS: &[Op] = &[Op::Upsert, Op::Upsert, Op::Upsert, Op::Delete];
const UPDATES: &[Op] = &[Op::Update, Op::Update, Op::Update, Op::Delete];
const INSERTS: &[Op] = &[Op::Insert, Op::Delete];
const ALL: &[Op] = &[Op::Upsert, Op::Update, Op::Delete];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn upserts(required: bool, records in records(UPSERTS, false)) {
        check(Model { guarded: false, required }, false, &records);
    }

    #[test]
    fn upserts_without_deletes(required: bool, records in records(&[Op::Upsert], false)) {
        check(Model { guarded: false, required }, false, &records);
    }

    #[test]
    fn guarded_upserts(required: bool, records in records(UPSERTS, true)) {
        check(Model { guarded: true, required }, false, &records);
    }

    #[test]
    fn updates(guarded: bool, records in records(UPDATES, true)) {
        check(Model { guarded, required: false }, false, &records);
    }

    #[test]
    fn inserts(records in records(INSERTS, false)) {
        check(Model { guarded: false, required: false }, false, &records);
    }

    #[test]
    fn upserts_and_updates(guarded: bool, records in records(ALL, true)) {
        check(Model { guarded, required: false }, false, &records);
    }

    #[test]
    fn one_by_one(guarded: bool, records in records(ALL, true)) {
        check(Model { guarded, required: false }, true, &records);
    }
}

#[test]
fn folding_saves_statements() {
    let model = Model { guarded: false, required: false };
    let upsert = |key, a| (Op::Upsert, key, [Some(key), None, a, None, None]);
    let delete = |key| (Op::Delete, key, [Some(key), None, None, None, None]);
    let stages = folded(model, false, &[upsert(1, Some(1)), upsert(2, Some(1)), upsert(1, Some(2)), upsert(1, None)]);
    assert_eq!(stages, BTreeMap::from([(1, vec![upsert(1, Some(2)), upsert(2, Some(1))])]));
    let stages = folded(model, false, &[upsert(1, Some(1)), delete(1), upsert(1, None), upsert(2, Some(1)), delete(2)]);
    assert_eq!(stages, BTreeMap::from([(0, vec![delete(1), delete(2)]), (1, vec![upsert(1, None)])]));
}
