//! A distribution: HDR inside, so that quantiles are right to one per cent whatever the values are; cumulative buckets for those who
//! add up several processes.

use hdrhistogram::Histogram as Hdr;

/// Values are not told apart more finely than by one part in a hundred.
const DIGITS: u8 = 2;
/// Larger values count as this: a record of last year must not cost memory. A week, in microseconds.
const VALUE_MAX: u64 = 7 * 24 * 3600 * 1_000_000;

/// See the module's text. Whole numbers: microseconds, or records.
#[derive(Debug, Clone)]
pub struct Histogram {
    hdr: Hdr<u64>,
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { hdr: Hdr::new(DIGITS).expect("two digits are allowed"), sum: 0 }
    }
}

/// For people.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Histogram {
    /// So many times the same value.
    pub fn record(&mut self, value: u64, times: u64) {
        let value = value.min(VALUE_MAX);
        // It grows as far as the most.
        if self.hdr.record_n(value, times).is_ok() {
            self.sum = self.sum.saturating_add(value.saturating_mul(times));
        }
    }

    pub fn count(&self) -> u64 {
        self.hdr.len()
    }

    /// Of all values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn summary(&self) -> Summary {
        let quantile = |q| self.hdr.value_at_quantile(q);
        Summary { count: self.count(), p50: quantile(0.5), p99: quantile(0.99), max: self.hdr.max() }
    }

    /// The value that the share `q` of all values does not exceed.
    pub fn quantile(&self, q: f64) -> u64 {
        self.hdr.value_at_quantile(q)
    }

    /// What was recorded since it was as in `earlier`, a copy of it.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = self.clone();
        // Of another histogram nothing is taken away: it may hold more than this one.
        if since.hdr.subtract(&earlier.hdr).is_ok() {
            since.sum -= earlier.sum.min(since.sum);
        }
        since
    }

    /// As if everything in `other` had been recorded here.
    pub fn add(&mut self, other: &Histogram) {
        // It grows as far as the most of either.
        if self.hdr.add(&other.hdr).is_ok() {
            self.sum = self.sum.saturating_add(other.sum);
        }
    }

    /// How many values are at most each of `bounds`, which rise.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        for step in self.hdr.iter_recorded() {
            // Values of a step are within a hundredth of each other: the middle decides.
            let value = self.hdr.median_equivalent(step.value_iterated_to());
            let bucket = bounds.partition_point(|bound| *bound < value);
            if let Some(count) = counts.get_mut(bucket) {
                *count += step.count_at_value();
            }
        }
        let mut below = 0;
        counts.iter_mut().for_each(|count| {
            below += *count;
            *count = below;
        });
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_sums_and_buckets_agree_with_what_was_recorded() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary::default());
        histogram.record(10, 98);
        histogram.record(1_000, 1);
        histogram.record(1_000_000, 1);
        let Summary { count, p50, p99, max } = histogram.summary();
        assert_eq!((count, p50, histogram.sum()), (100, 10, 980 + 1_000 + 1_000_000));
        assert!((990..=1010).contains(&p99) && (1_000_000..=1_010_000).contains(&max), "{p99} {max}");
        assert_eq!(histogram.cumulative(&[9, 10, 500, 1_010, 2_000_000]), [0, 98, 98, 99, 100]);
    }

    #[test]
    fn what_was_recorded_since_a_copy_and_what_two_hold_together() {
        let mut histogram = Histogram::default();
        histogram.record(5_000_000, 3);
        let before = histogram.clone();
        histogram.record(10, 99);
        histogram.record(70, 1);
        let since = histogram.since(&before);
        assert_eq!((since.summary(), since.sum()), (Summary { count: 100, p50: 10, p99: 10, max: 70 }, 1_060));
        assert_eq!(since.quantile(0.999), 70);
        let mut both = since.clone();
        both.add(&before);
        assert_eq!((both.summary(), both.sum()), (histogram.summary(), histogram.sum()));
    }

    #[test]
    fn what_is_beyond_all_measure_counts_as_the_most_and_costs_no_memory() {
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX, 1);
        assert_eq!(histogram.sum(), VALUE_MAX);
        assert!(histogram.hdr.distinct_values() < 10_000, "{}", histogram.hdr.distinct_values());
    }
}
