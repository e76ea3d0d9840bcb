//! How many bad records are a few, and how many are a bad deploy: beyond the limit their topic stops, rather than drain into
//! dead letters. Each worker and each slow lane judges what it sees of a topic.

use std::ops::Range;

use crate::config::BadLimit;

/// The ratio is judged over this many records at least, and twice as many at most.
const WINDOW: usize = 1000;

/// See the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance {
    limit: BadLimit,
    /// Bad records in a row, up to the last one seen.
    run: usize,
    /// Of the last records so many were bad.
    records: usize,
    bad: usize,
}

impl Tolerance {
    pub const fn new(limit: BadLimit) -> Tolerance {
        Tolerance { limit, run: 0, records: 0, bad: 0 }
    }

    /// What follows from these records, of which `bad` (in order) are bad.
    ///
    /// # Errors
    /// The limit that they exceed.
    pub fn after(mut self, records: Range<usize>, bad: impl IntoIterator<Item = usize>) -> Result<Tolerance, String> {
        let mut next = records.start;
        for index in bad {
            self.run = if index == next { self.run + 1 } else { 1 };
            next = index + 1;
            self.bad += 1;
            if self.run > self.limit.run_max {
                return Err(format!("more than {} bad records in a row (on_bad_record.run_max)", self.limit.run_max));
            }
        }
        if next < records.end {
            self.run = 0;
        }
        self.records += records.len();
        if self.records >= WINDOW && self.bad * 100 > self.limit.percent_max * self.records {
            return Err(format!(
                "{} of the last {} records bad, more than {} % (on_bad_record.percent_max)",
                self.bad, self.records, self.limit.percent_max
            ));
        }
        if self.records >= 2 * WINDOW {
            // Large batches count as one window: what was before fades all the same.
            self.bad = self.bad * WINDOW / self.records;
            self.records = WINDOW;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: BadLimit = BadLimit { run_max: 3, percent_max: 10 };

    #[test]
    fn a_run_goes_on_across_batches_and_ends_with_a_good_record() {
        let fresh = Tolerance::new(LIMIT);
        let two = fresh.after(0..4, [2, 3]).expect("two");
        let three = two.after(7..9, [7]).expect("three, and a good one");
        assert_eq!((two.run, three.run), (2, 0));
        assert!(two.after(0..9, [0, 1]).unwrap_err().contains("run_max"));
        assert!(two.after(0..9, [1, 2, 3]).is_ok(), "a good one at first");
        assert!(fresh.after(0..9, [0, 1, 2, 3]).unwrap_err().contains("more than 3 bad records in a row"));
    }

    #[test]
    fn a_ratio_needs_a_thousand_records_and_forgets() {
        let every = |n: usize, of: usize| (0..of).filter(move |i| i % n == 0);
        let few = Tolerance::new(LIMIT).after(0..900, every(5, 900)).expect("too few to judge");
        assert!(few.after(0..100, []).unwrap_err().contains("percent_max"));
        let good = Tolerance::new(LIMIT).after(0..900, []).and_then(|t| t.after(0..900, every(5, 900)));
        let good = good.expect("10 % of 1,800");
        let later = (0..10).try_fold(good, |t, _| t.after(0..500, []));
        assert!(later.expect("all good").bad < 10);
    }

    #[test]
    fn all_may_be_bad_where_the_limits_say_so() {
        let open = Tolerance::new(BadLimit { run_max: usize::MAX, percent_max: 100 });
        assert!((0..10).try_fold(open, |t, _| t.after(0..5000, 0..5000)).is_ok());
    }
}
