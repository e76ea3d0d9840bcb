//! What the tables say of a run: that each record is there once, or each row as its last record left it, and how long the records
//! took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::types::Type;

use crate::bench::BenchError;
use crate::bench::database::Databases;
use crate::bench::protocol::Quantiles;
use crate::bench::workload::Expected;
use crate::clock::unix_us;

/// Questions about the time; the quickest answer counts.
const TRIES: usize = 20;
/// Up to these the curve of a chart is drawn.
pub const CURVE: [f64; 14] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0];

/// Which records are meant.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// By the time at which they should have been sent, in µs since the Unix epoch; the end is not part of it.
    pub sent_us: (u64, u64),
    /// Without those of this row.
    pub without: Option<String>,
}

impl Range {
    /// All that had a time.
    pub fn all() -> Range {
        Range { sent_us: (1, i64::MAX as u64), without: None }
    }
}

/// Of one range.
#[derive(Debug, Clone, PartialEq)]
pub struct Latency {
    pub quantiles: Quantiles,
    /// In ms, as [`CURVE`] has them.
    pub curve: Vec<f64>,
}

/// How far a database's clock is ahead of ours, in µs, and how exactly that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    pub ahead_us: i64,
    pub within_us: u64,
}

/// Of each shard.
pub fn skews(databases: &Databases) -> Result<Vec<Skew>, BenchError> {
    databases.each(|client| {
        let mut best: Option<Skew> = None;
        for _ in 0..TRIES {
            let skew = skew(client)?;
            if best.is_none_or(|best| skew.within_us < best.within_us) {
                best = Some(skew);
            }
        }
        Ok(best.unwrap_or(Skew { ahead_us: 0, within_us: u64::MAX }))
    })
}

fn skew(client: &mut Client) -> Result<Skew, postgres::Error> {
    let (began, began_us) = (Instant::now(), unix_us());
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let theirs: i64 = client.query_typed_one(sql, &[])?.get(0);
    let took = began.elapsed();
    let middle = began_us + (took / 2).as_micros() as u64;
    Ok(Skew {
        ahead_us: theirs - middle as i64,
        within_us: (took / 2).max(Duration::from_micros(1)).as_micros() as u64,
    })
}

/// From the time at which records should have been sent until their rows were written, by the databases' clocks as far as they agree
/// with ours. None: there is no such record. The records of all shards are one distribution.
pub fn latency(databases: &Databases, skews: &[Skew], range: &Range) -> Result<Option<Latency>, BenchError> {
    // Values that are within a fifth of a per cent of each other come as one: some thousands, however many records there are.
    let sql = format!(
        "SELECT round(ln(us) * 500)::bigint, count(*), max(us)::float8 FROM (\
         SELECT greatest(extract(epoch FROM written) * 1000000 - sent_us - $4, 1)::float8 AS us FROM {} \
         WHERE sent_us >= $1 AND sent_us < $2 AND ($3 IS NULL OR subscription_id::text <> $3)) AS r GROUP BY 1",
        databases.table()
    );
    let (from, to) = (range.sent_us.0 as i64, range.sent_us.1.min(i64::MAX as u64) as i64);
    let of_shards = databases.each_with(skews, |client, skew| {
        client.query_typed(
            &sql,
            &[(&from, Type::INT8), (&to, Type::INT8), (&range.without, Type::TEXT), (&skew.ahead_us, Type::INT8)],
        )
    })?;
    let mut steps = Steps::default();
    for row in of_shards.iter().flatten() {
        steps.add(row.get(0), row.get::<_, i64>(1) as u64, row.get(2));
    }
    Ok(steps.latency())
}

/// A distribution in steps of equal ratio.
#[derive(Default)]
struct Steps {
    counts: BTreeMap<i64, u64>,
    max_us: f64,
}

impl Steps {
    fn add(&mut self, step: i64, count: u64, max_us: f64) {
        *self.counts.entry(step).or_default() += count;
        self.max_us = self.max_us.max(max_us);
    }

    fn latency(&self) -> Option<Latency> {
        let all: u64 = self.counts.values().sum();
        let at = |quantile: f64| {
            let rank = ((quantile * all as f64).ceil() as u64).max(1);
            let mut below = 0;
            let step = self.counts.iter().find(|(_, count)| {
                below += *count;
                below >= rank
            });
            let us = step.map_or(0.0, |(step, _)| (*step as f64 / 500.0).exp());
            if quantile >= 1.0 { self.max_us / 1000.0 } else { us.min(self.max_us) / 1000.0 }
        };
        (all > 0).then(|| Latency {
            quantiles: Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) },
            curve: CURVE.map(at).to_vec(),
        })
    }
}

/// Whether each of `records` is there, once.
pub fn each_once(databases: &Databases, records: u64) -> Result<(), BenchError> {
    let table = databases.table();
    let sql = format!("SELECT count(*), count(DISTINCT n), coalesce(max(n), -1) FROM {table}");
    let rows = databases.each(|client| {
        let row = client.query_typed_one(&sql, &[])?;
        Ok::<(i64, i64, i64), _>((row.get(0), row.get(1), row.get(2)))
    })?;
    let all = rows.iter().map(|(rows, ..)| rows).sum::<i64>() as u64;
    let different = rows.iter().map(|(_, different, _)| different).sum::<i64>() as u64;
    let last = rows.iter().map(|(.., last)| *last).max().unwrap_or(-1);
    if (all, different, last) == (records, records, records as i64 - 1) {
        return Ok(());
    }
    Err(BenchError::Failed(format!(
        "{records} records were published, and the table holds {all} rows of {different} different ones, the last of them {last}: \
         {} lost, {} repeated",
        records.saturating_sub(different),
        all - different.min(all)
    )))
}

/// Whether each row is as its last record left it.
pub fn as_expected(databases: &Databases, expected: &Expected) -> Result<(), BenchError> {
    let sql = format!("SELECT count(*), coalesce(sum(sessions), 0)::bigint FROM {}", databases.table());
    let rows = databases.each(|client| {
        let row = client.query_typed_one(&sql, &[])?;
        Ok::<(i64, i64), _>((row.get(0), row.get(1)))
    })?;
    let found = Expected {
        rows: rows.iter().map(|(rows, _)| rows).sum::<i64>() as u64,
        sessions: rows.iter().map(|(_, sessions)| sessions).sum(),
    };
    if found == *expected {
        return Ok(());
    }
    let Expected { rows, sessions } = expected;
    Err(BenchError::Failed(format!(
        "the records leave {rows} rows whose sessions add up to {sessions}, and the table holds {} rows and {}: records were lost, \
         repeated or applied out of order",
        found.rows, found.sessions
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_fifth_of_a_per_cent_and_the_longest_is_exact() {
        let mut steps = Steps::default();
        assert_eq!(steps.latency(), None);
        let add = |steps: &mut Steps, us: f64, count| steps.add((us.ln() * 500.0).round() as i64, count, us);
        add(&mut steps, 1_000.0, 985);
        // From another shard.
        add(&mut steps, 70_000.0, 10);
        add(&mut steps, 123_456.7, 5);
        let Latency { quantiles: Quantiles { p50, p99, p999, max }, curve } = steps.latency().unwrap();
        assert!((p50 / 1.0 - 1.0).abs() < 0.002 && (p99 / 70.0 - 1.0).abs() < 0.002, "{p50} {p99}");
        assert!((p999 / 123.4567 - 1.0).abs() < 0.002, "{p999}");
        assert_eq!((max, curve[CURVE.len() - 1]), (123.4567, 123.4567));
        assert!(curve.is_sorted());
    }
}
