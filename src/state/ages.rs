//! How old the records of a partition are, from its last commit to the last one received, without a timestamp for each: marks, so
//! far apart as one can tell ages from each other. Facts of the log: they outlive a tenure that starts over.

use std::collections::VecDeque;

use crate::types::{NextOffset, Offset};

/// Records that a mark stands for have timestamps this close to its own, unless their producers' clocks disagree.
const STEP_MS: i64 = 20;
/// Ages are never told more coarsely than to a day.
const STEP_MS_MAX: i64 = 24 * 3_600_000;
/// Marks that are kept; beyond them every second one goes, and the others stand for twice as much.
const MARKS_MAX: usize = 512;

/// A record's timestamp, or the time now where it has none, or none that can be. Of one that seems to come from ahead of now its
/// producer's clock, or its unit, is wrong: what is known of it is that it is here, and from now on it grows old.
pub fn plausible(timestamp_ms: i64, now_ms: i64) -> i64 {
    if (0..=now_ms).contains(&timestamp_ms) { timestamp_ms } else { now_ms }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Ages {
    marks: VecDeque<Mark>,
    /// Everything below was received.
    received: i64,
    step_ms: i64,
    /// A record within this span belongs to the last mark.
    from_ms: i64,
    to_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    offset: Offset,
    timestamp_ms: i64,
}

impl Ages {
    /// A record came. Those that come again, because a tenure starts over, change nothing.
    pub fn received(&mut self, offset: Offset, timestamp_ms: i64) {
        if offset.0 < self.received {
            if self.marks.front().is_none_or(|first| offset < first.offset) {
                // Further back than anything that is known.
                self.marks.clear();
                self.mark(offset, timestamp_ms);
                self.received = offset.0 + 1;
            }
            return;
        }
        self.received = offset.0 + 1;
        if timestamp_ms < self.from_ms || timestamp_ms >= self.to_ms || self.marks.is_empty() {
            self.mark(offset, timestamp_ms);
        }
    }

    fn mark(&mut self, offset: Offset, timestamp_ms: i64) {
        self.step_ms = self.step_ms.max(STEP_MS);
        if self.marks.len() == MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
            self.step_ms = (self.step_ms * 2).min(STEP_MS_MAX);
        }
        self.marks.push_back(Mark { offset, timestamp_ms });
        (self.from_ms, self.to_ms) = (timestamp_ms - STEP_MS, timestamp_ms + self.step_ms);
    }

    /// What is below `border` is of no interest any more.
    pub fn forget(&mut self, border: NextOffset) {
        while self.marks.get(1).is_some_and(|second| second.offset.0 <= border.0) {
            self.marks.pop_front();
        }
        if self.marks.len() == 1 {
            self.step_ms = STEP_MS;
        }
    }

    /// About the timestamp of the first record at or above `border`, and not after it; none where nothing such was received.
    pub fn at(&self, border: NextOffset) -> Option<i64> {
        if border.0 >= self.received {
            return None;
        }
        let above = self.marks.partition_point(|mark| mark.offset.0 <= border.0);
        self.marks.get(above.saturating_sub(1)).map(|mark| mark.timestamp_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records from `first` on, `every_ms` apart.
    fn received(ages: &mut Ages, offsets: std::ops::Range<i64>, every_ms: i64) {
        offsets.for_each(|o| ages.received(Offset(o), 1_000_000 + o * every_ms));
    }

    fn check(ages: &Ages, border: i64, expected: Option<i64>, within_ms: i64) {
        let found = ages.at(NextOffset(border));
        match (found, expected) {
            (Some(found), Some(expected)) => assert!(
                found <= expected && expected - found <= within_ms,
                "at {border}: found {found}, expected {expected} or at most {within_ms} ms before"
            ),
            _ => assert_eq!(found, expected, "at {border}"),
        }
    }

    #[test]
    fn ages_are_known_from_the_first_record_that_counts_to_the_last() {
        let mut ages = Ages::default();
        check(&ages, 0, None, 0);
        received(&mut ages, 0..1000, 3);
        for border in [0, 1, 7, 500, 999] {
            check(&ages, border, Some(1_000_000 + border * 3), STEP_MS);
        }
        check(&ages, 1000, None, 0);
        ages.forget(NextOffset(500));
        check(&ages, 500, Some(1_001_500), STEP_MS);
        ages.forget(NextOffset(1000));
        check(&ages, 1000, None, 0);
        received(&mut ages, 1000..1001, 3);
        check(&ages, 1000, Some(1_003_000), STEP_MS);
    }

    #[test]
    fn whatever_the_backlog_the_marks_are_bounded_and_nothing_looks_younger_than_it_is() {
        let mut ages = Ages::default();
        received(&mut ages, 0..200_000, 25);
        assert!(ages.marks.len() <= MARKS_MAX, "{}", ages.marks.len());
        let step = ages.step_ms;
        for border in [0, 1, 99_999, 199_999] {
            check(&ages, border, Some(1_000_000 + border * 25), step + 25);
        }
    }

    #[test]
    fn a_tenure_that_starts_over_knows_what_the_one_before_it_knew() {
        let mut ages = Ages::default();
        received(&mut ages, 100..200, 30);
        received(&mut ages, 120..150, 30);
        check(&ages, 120, Some(1_003_600), 0);
        check(&ages, 199, Some(1_005_970), 0);
        received(&mut ages, 50..60, 30);
        check(&ages, 50, Some(1_001_500), 0);
        check(&ages, 60, None, 0);
    }

    #[test]
    fn no_timestamp_is_too_odd() {
        let now = 1_700_000_000_000;
        for (timestamp, expected) in [
            (-1, now),
            (i64::MIN, now),
            (i64::MAX, now),
            (now * 1_000_000, now),
            (0, 0),
            (now - 5, now - 5),
            (now + 1000, now),
        ] {
            assert_eq!(plausible(timestamp, now), expected, "{timestamp}");
        }
        let mut ages = Ages::default();
        (0..5_000).for_each(|o| ages.received(Offset(o), now - o * 1_000_000));
        assert!(ages.marks.len() <= MARKS_MAX && ages.step_ms <= STEP_MS_MAX);
    }

    /// Once nothing was late for fifty minutes while nothing moved: the producers' clocks ran ahead.
    #[test]
    fn a_record_from_ahead_is_as_old_as_it_has_been_here() {
        let (mut ages, received, ahead) = (Ages::default(), 1_700_000_000_000, 50 * 60_000);
        ages.received(Offset(7), plausible(received + ahead, received));
        let now = received + 40_000;
        assert_eq!(ages.at(NextOffset(7)).map(|at| now - at), Some(40_000));
    }

    #[test]
    fn clocks_that_disagree_do_not_hide_an_old_record() {
        let mut ages = Ages::default();
        ages.received(Offset(0), 5_000);
        ages.received(Offset(1), 1_000);
        ages.received(Offset(2), 5_000);
        check(&ages, 1, Some(1_000), 0);
        check(&ages, 2, Some(5_000), 0);
    }
}
