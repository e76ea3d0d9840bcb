//! What the command line of `forebay demo` may say, checked.

use crate::demo::DemoError;

/// Updates without `--records`, and rows without `--rows`.
pub const RECORDS: u32 = 200_000;
const ROWS: u32 = 50_000;

/// The order of the updates is drawn beforehand: four bytes each.
const RECORDS_MAX: u32 = 20_000_000;
const ROWS_MAX: u32 = 5_000_000;
const RATE_MAX: u32 = 1_000_000;

/// The part of the records that is published steadily, for the time lag: one in so many, but no more than a maximum.
const STEADY_PART: u32 = 4;
const STEADY_MAX: u32 = 100_000;
/// Records per second of that part.
const STEADY_RATE: u32 = 10_000;

/// What to publish, and what stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub records: u32,
    pub rows: u32,
    /// Leave PostgreSQL running afterwards.
    pub keep: bool,
    pub phases: Vec<Phase>,
}

/// Some of the records, and how fast they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    pub records: u32,
    /// Records per second; as fast as they are applied without it.
    pub rate: Option<u32>,
}

impl Options {
    /// Without a `rate`, most of the records show how fast it goes, and the rest, published steadily, how old a record is
    /// when it is durable.
    ///
    /// # Errors
    /// [`DemoError::Usage`] names what is out of range.
    pub fn new(records: u32, rows: Option<u32>, rate: Option<u32>, keep: bool) -> Result<Options, DemoError> {
        within("--records", records, 1..=RECORDS_MAX)?;
        let rows = rows.unwrap_or(ROWS.min((records / 4).max(1)));
        within("--rows", rows, 1..=ROWS_MAX)?;
        if rows > records {
            let text = format!("--rows: found {rows}, expected at most one for each of the {records} --records");
            return Err(DemoError::Usage(text));
        }
        let phases = match rate {
            Some(rate) => {
                within("--rate", rate, 1..=RATE_MAX)?;
                vec![Phase { records, rate: Some(rate) }]
            }
            None => {
                let steady = (records / STEADY_PART).min(STEADY_MAX);
                let fast = Phase { records: records - steady, rate: None };
                let steady = Phase { records: steady, rate: Some(STEADY_RATE) };
                [fast, steady].into_iter().filter(|phase| phase.records > 0).collect()
            }
        };
        Ok(Options { records, rows, keep, phases })
    }
}

fn within(option: &str, found: u32, range: std::ops::RangeInclusive<u32>) -> Result<(), DemoError> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(DemoError::Usage(format!("{option}: found {found}, expected {} to {}", range.start(), range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(records: u32, rows: Option<u32>, rate: Option<u32>, expectation: Result<(u32, &[u32]), &str>) {
        let found = Options::new(records, rows, rate, false);
        match (found, expectation) {
            (Ok(found), Ok((rows, phases))) => {
                assert_eq!(found.rows, rows);
                assert_eq!(found.phases.iter().map(|p| p.records).collect::<Vec<_>>(), phases);
                assert_eq!(found.phases.iter().map(|p| p.records).sum::<u32>(), records);
            }
            (Err(DemoError::Usage(text)), Err(part)) => assert!(text.contains(part), "{text}"),
            (found, expectation) => panic!("{found:?} instead of {expectation:?}"),
        }
    }

    #[test]
    fn every_number_has_a_range() {
        check(200_000, None, None, Ok((50_000, &[150_000, 50_000])));
        check(1_000_000, None, None, Ok((50_000, &[900_000, 100_000])));
        check(1000, None, None, Ok((250, &[750, 250])));
        check(1, None, None, Ok((1, &[1])));
        check(1000, Some(1000), Some(50), Ok((1000, &[1000])));
        check(0, None, None, Err("--records: found 0, expected 1 to"));
        check(u32::MAX, None, None, Err("--records"));
        check(1000, Some(1001), None, Err("--rows: found 1001, expected at most one for each of the 1000"));
        check(1000, Some(0), None, Err("--rows: found 0"));
        check(1000, None, Some(0), Err("--rate: found 0"));
    }
}
