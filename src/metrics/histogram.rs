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
    fn what_is_beyond_all_measure_counts_as_the_most_and_costs_no_memory() {
        let mut histogram = Histogram::default();
        histogram.record(u64::MAX, 1);
        assert_eq!(histogram.sum(), VALUE_MAX);
        assert!(histogram.hdr.distinct_values() < 10_000, "{}", histogram.hdr.distinct_values());
    }
}
