//! What was acknowledged against what the tables hold, and when each row was written. Pure: it is given both.
//!
//! A row is right when its `n` is that of the last acknowledged request for it, or of a later one that was not acknowledged: what timed
//! out, or was refused late, may have been done. A request is in the table when its row has its `n` or a later one: the version guard
//! lets nothing older overwrite it.

use std::collections::HashMap;

use crate::compare::findings::Verification;
use crate::compare::ledger::Ledger;

/// As many contradictions are told.
const PROBLEMS_MAX: usize = 10;

/// A row: which, what `n` it has, and in which shard it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub key: u32,
    pub n: u64,
    pub shard: usize,
}

/// That a row was written: by which request, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub n: u64,
    /// From the first request that counts.
    pub at_us: i64,
}

#[derive(Default)]
struct OfKey {
    last_acknowledged: Option<u64>,
    row: Option<u64>,
}

/// See the module's text.
pub fn check(ledger: &Ledger, rows: &[Row]) -> Verification {
    let mut found = Verification { rows: rows.len() as u64, ..Verification::default() };
    let mut problems = Vec::new();
    let mut keys: HashMap<u32, OfKey> = HashMap::new();
    let numbered = || (ledger.first..).zip(&ledger.entries);
    for (n, entry) in numbered().filter(|(_, entry)| entry.is_accepted()) {
        found.acknowledged += 1;
        keys.entry(entry.key).or_default().last_acknowledged = Some(n);
    }
    found.rows_expected = keys.len() as u64;
    for row in rows {
        let of = keys.entry(row.key).or_default();
        if let Some(other) = of.row.replace(row.n) {
            problems
                .push(format!("row {} is there twice, with n {other} and {} (shard {})", row.key, row.n, row.shard));
        }
        match ledger.entry(row.n) {
            Some(entry) if entry.key == row.key && entry.is_accepted() => {}
            Some(entry) if entry.key == row.key => found.unacknowledged_in_table += 1,
            _ => problems.push(format!("row {} has n {}, which is no request for it", row.key, row.n)),
        }
    }
    for (n, entry) in numbered().filter(|(_, entry)| entry.is_accepted()) {
        let row = keys.get(&entry.key).and_then(|of| of.row);
        if row.is_some_and(|row| row >= n) {
            found.in_table += 1;
        } else {
            let has = row.map_or("is not there".to_owned(), |row| format!("has n {row}"));
            problems.push(format!("request {n} was acknowledged, and its row {} {has}", entry.key));
        }
    }
    found.missing = found.acknowledged - found.in_table;
    found.equal = problems.is_empty();
    problems.truncate(PROBLEMS_MAX);
    found.problems = problems;
    found
}

/// For each entry of the ledger: from when it was due until its row was written with it, or with a later request for the row, in whose
/// batch it was superfluous. None: that has not been seen.
pub fn durable_us(ledger: &Ledger, written: &[Written]) -> Vec<Option<u64>> {
    let mut of_keys: HashMap<u32, Vec<Written>> = HashMap::new();
    for one in written {
        if let Some(entry) = ledger.entry(one.n) {
            of_keys.entry(entry.key).or_default().push(*one);
        }
    }
    for of_key in of_keys.values_mut() {
        of_key.sort_unstable_by_key(|one| one.n);
        // The earliest of each and all behind it: who asks for an n takes the first that is not below it.
        let mut earliest = i64::MAX;
        for one in of_key.iter_mut().rev() {
            earliest = earliest.min(one.at_us);
            one.at_us = earliest;
        }
    }
    let of_entry = |(n, entry): (u64, &crate::compare::ledger::Entry)| {
        let of_key = of_keys.get(&entry.key)?;
        let at = of_key.get(of_key.partition_point(|one| one.n < n))?.at_us;
        // Clocks agree to some µs.
        Some((at - entry.due_us).max(1) as u64)
    };
    (ledger.first..).zip(&ledger.entries).map(of_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::ledger::Outcome;
    use crate::compare::ledger::tests::entry;

    const OK: Outcome = Outcome::Answered(202);

    /// Requests 100, 101, … for these rows, due a second apart.
    fn ledger(of: &[(u32, Outcome)]) -> Ledger {
        let entries = of.iter().zip(0..).map(|((key, outcome), i)| entry(*key, i * 1_000_000, 1000, *outcome));
        Ledger { entries: entries.collect(), ..Ledger::new(100) }
    }

    fn row(key: u32, n: u64) -> Row {
        Row { key, n, shard: 0 }
    }

    #[test]
    fn a_table_as_it_must_be() {
        let ledger = ledger(&[
            (1, OK),
            (2, OK),
            (1, OK),
            (2, Outcome::Timeout),
            (3, Outcome::Answered(503)),
            (4, Outcome::Timeout),
        ]);
        // Row 2 has what was not acknowledged; row 4, too, and nobody was promised that it has not.
        let found = check(&ledger, &[row(1, 102), row(2, 103), row(4, 105)]);
        assert_eq!((found.acknowledged, found.in_table, found.missing), (3, 3, 0));
        assert_eq!((found.unacknowledged_in_table, found.rows_expected, found.rows), (2, 2, 3));
        assert!(found.equal && found.problems.is_empty(), "{found:?}");
    }

    #[test]
    fn what_is_not_as_it_must_be_is_told() {
        let ledger = ledger(&[(1, OK), (2, OK), (1, OK), (2, Outcome::Timeout)]);
        let check = |rows: &[Row], missing: u64, part: &str| {
            let found = super::check(&ledger, rows);
            assert!(!found.equal && found.problems.iter().any(|problem| problem.contains(part)), "{found:?}");
            assert_eq!(found.missing, missing, "{found:?}");
        };
        check(&[row(1, 100), row(2, 101)], 1, "request 102 was acknowledged, and its row 1 has n 100");
        check(&[row(1, 102)], 1, "request 101 was acknowledged, and its row 2 is not there");
        check(&[row(1, 102), row(2, 101), row(2, 103)], 0, "row 2 is there twice");
        check(&[row(1, 102), row(2, 102)], 0, "row 2 has n 102, which is no request for it");
        check(&[row(1, 102), row(2, 999)], 0, "row 2 has n 999");
    }

    #[test]
    fn a_write_that_came_with_a_later_one_of_its_row_is_durable_with_it() {
        let ledger = ledger(&[(1, OK), (1, OK), (1, OK), (2, OK), (1, OK)]);
        let at = |n, at_us| Written { n, at_us };
        // 101 was folded into 102, which came before 100's own row was seen; 104 is not there yet.
        let written = [at(102, 2_500_000), at(100, 3_000_000), at(103, 3_000_001)];
        let durable = durable_us(&ledger, &written);
        assert_eq!(durable, [Some(2_500_000), Some(1_500_000), Some(500_000), Some(1), None]);
    }
}
