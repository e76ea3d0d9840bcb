//! A ceiling in rows per second: a token bucket that fills steadily and is emptied by what is written.
//!
//! The level is kept in billionths of a row, because rows per second times nanoseconds are just that: nothing is rounded, and
//! over any length of time no more is taken than the ceiling allows and one bucket full besides.

use std::time::Duration;

use crate::config::settings::ROWS_PER_SECOND_MAX;

/// A piece is at most what comes in within this time, or one row where that is more, so that nobody sees a burst. A bucket
/// holds two of them: workers that oversleep a little lose nothing.
const PIECE: Duration = Duration::from_millis(100);

/// One row.
const ROW: i64 = 1_000_000_000;

/// The bucket in billionths of a row, and a whole second's worth, must fit the numbers used.
const _: () = assert!((ROWS_PER_SECOND_MAX as i64).checked_mul(ROW).is_some());

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Rows per second.
    rate: i64,
    /// Below zero after a piece that is larger than the bucket.
    level: i64,
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: usize, now: Duration) -> Bucket {
        let mut bucket = Bucket { rate: 1, level: 0, at: now };
        bucket.set_rate(rate, now);
        bucket.level = bucket.capacity();
        bucket
    }

    /// Another ceiling from now on, or none.
    pub fn set(bucket: &mut Option<Bucket>, rate: Option<usize>, now: Duration) {
        match (bucket.as_mut(), rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (None, Some(rate)) => *bucket = Some(Bucket::new(rate, now)),
            (_, None) => *bucket = None,
        }
    }

    /// Another ceiling from now on.
    pub fn set_rate(&mut self, rate: usize, now: Duration) {
        self.fill(now);
        self.rate = rate.clamp(1, ROWS_PER_SECOND_MAX) as i64;
        self.level = self.level.min(self.capacity());
    }

    /// How many of `rows` to write at once.
    pub fn piece(&self, rows: usize) -> usize {
        rows.min((self.piece_max() / ROW) as usize)
    }

    /// How long until so many may be taken; none: now. Of more than a piece, one piece must be there.
    pub fn wait(&mut self, rows: usize, now: Duration) -> Option<Duration> {
        self.fill(now);
        let missing = self.piece(rows) as i64 * ROW - self.level;
        // Rounded up: whoever comes back then finds them.
        (missing > 0).then(|| Duration::from_nanos((missing as u64).div_ceil(self.rate as u64)))
    }

    /// How many may be taken now.
    pub fn there(&mut self, now: Duration) -> usize {
        self.fill(now);
        (self.level.max(0) / ROW) as usize
    }

    /// Whether waiting brings no more.
    pub fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.level >= self.capacity()
    }

    /// How long so many take to come in.
    pub fn time_of(&self, rows: usize) -> Duration {
        Duration::from_nanos((rows as u64 * ROW as u64).div_ceil(self.rate as u64))
    }

    pub fn take(&mut self, rows: usize) {
        self.level -= rows as i64 * ROW;
    }

    /// So many of those taken were not written.
    pub fn give_back(&mut self, rows: usize) {
        self.level = (self.level + rows as i64 * ROW).min(self.capacity());
    }

    fn piece_max(&self) -> i64 {
        (self.rate * PIECE.as_nanos() as i64).max(ROW)
    }

    fn capacity(&self) -> i64 {
        2 * self.piece_max()
    }

    fn fill(&mut self, now: Duration) {
        let mut passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        // In steps of a second, which cannot overflow; a full bucket ends it.
        while passed > Duration::ZERO && self.level < self.capacity() {
            let step = passed.min(Duration::from_secs(1));
            self.level = (self.level + self.rate * step.as_nanos() as i64).min(self.capacity());
            passed -= step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_piece_is_a_tenth_of_a_second_and_at_least_one_row_and_it_holds_two() {
        let check = |rate, piece, wait_for_one_more: u64| {
            let mut bucket = Bucket::new(rate, MS);
            assert_eq!(bucket.piece(usize::MAX / 2), piece, "{rate}");
            for _ in 0..2 {
                assert_eq!(bucket.wait(piece, MS), None, "{rate}: it begins full");
                bucket.take(piece);
            }
            assert_eq!(bucket.wait(1, MS), Some(Duration::from_nanos(wait_for_one_more)), "{rate}");
        };
        check(1, 1, 1_000_000_000);
        check(10, 1, 100_000_000);
        check(30, 3, 33_333_334);
        check(1000, 100, 1_000_000);
        check(ROWS_PER_SECOND_MAX, ROWS_PER_SECOND_MAX / 10, 10);
    }

    #[test]
    fn what_is_too_large_for_it_is_paid_off_before_the_next() {
        let mut bucket = Bucket::new(1000, MS);
        assert_eq!(bucket.wait(500, MS), None);
        bucket.take(500);
        assert_eq!(bucket.wait(1, MS), Some(MS * 301));
        bucket.give_back(200);
        assert_eq!(bucket.wait(1, MS), Some(MS * 101));
        bucket.give_back(1_000_000);
        assert_eq!(bucket.wait(500, MS), None, "a piece is there");
        bucket.take(200);
        assert!(bucket.wait(1, MS).is_some());
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let mut bucket = Bucket::new(10, MS);
        bucket.take(2);
        bucket.set_rate(1000, MS * 51);
        assert_eq!(bucket.wait(1, MS * 51), Some(MS / 2), "half a row came in at the old rate");
        bucket.set_rate(10, MS * 10_000);
        assert_eq!(bucket.piece(100), 1);
        bucket.take(2);
        assert_eq!(bucket.wait(1, MS * 10_000), Some(MS * 100), "what the larger one held is gone");
    }

    /// Whoever always wants more gets all that the ceiling allows, even where each oversleeps by most of a piece.
    #[test]
    fn oversleeping_loses_nothing() {
        for (rate, rows) in [(10, 1), (1000, 100), (50_000, 5000)] {
            let (mut bucket, mut now, mut taken) = (Bucket::new(rate, MS), MS, 0);
            while now < MS * 10_001 {
                match bucket.wait(rows, now) {
                    Some(wait) => now += wait + MS * 90,
                    None => {
                        bucket.take(rows);
                        taken += rows;
                    }
                }
            }
            assert!((rate * 10..=rate * 10 + rate / 3).contains(&taken), "{taken} of {rate} rows/s in 10 s");
        }
    }

    /// Whatever workers take and give back, at whatever times: never more than the ceiling and one bucket full.
    #[test]
    fn the_ceiling_is_kept_over_any_length_of_time() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = [1, 7, 100, 9_999, 1_000_000, ROWS_PER_SECOND_MAX][rng.usize(0..6)];
            let mut now = Duration::from_nanos(rng.u64(0..u64::MAX / 4));
            let mut bucket = Bucket::new(rate, now);
            // (time, rows), of every taking.
            let mut taken: Vec<(Duration, usize)> = Vec::new();
            for _ in 0..60 {
                let rows = bucket.piece(rng.usize(1..=1000));
                match bucket.wait(rows, now) {
                    Some(wait) => {
                        now += wait + Duration::from_nanos(rng.u64(0..PIECE.as_nanos() as u64));
                        assert_eq!(bucket.wait(rows, now), None, "seed {seed}: it was said to be there then");
                    }
                    None => {
                        let written = if rng.u8(0..4) == 0 { rng.usize(0..=rows) } else { rows };
                        bucket.take(rows);
                        bucket.give_back(rows - written);
                        taken.push((now, written));
                    }
                }
            }
            for (first, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (until, rows) in &taken[first..] {
                    sum += rows;
                    let bucket = (rate as f64 * 2.0 * PIECE.as_secs_f64()).max(2.0);
                    let allowed = bucket + rate as f64 * (*until - *from).as_secs_f64();
                    assert!(sum as f64 <= allowed + 1e-3, "seed {seed}: {sum} rows where {allowed} are allowed");
                }
            }
        }
    }
}
