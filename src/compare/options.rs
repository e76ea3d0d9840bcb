//! What the command line of `forebay compare` may say, checked.

use std::path::PathBuf;
use std::time::Duration;

use crate::bench::Sources;
use crate::compare::CompareError;

const SECONDS_MAX: u64 = 3600;
/// Below it the disturbances are shorter than the time-outs that they are to meet.
const SECONDS_MIN: u64 = 12;
const RATE_MAX: u64 = 200_000;
const KEYS_MAX: u64 = 50_000_000;
const CONNECTIONS_MAX: u64 = 10_000;
const PARTITIONS_MAX: u64 = 10_000;
/// What is known of a request is kept until the end: some 32 bytes.
const REQUESTS_MAX: u64 = 50_000_000;
/// The fields, and what is around them.
pub const VALUE_BYTES_MIN: u64 = 200;
const VALUE_BYTES_MAX: u64 = 500_000;
/// Of `--quick`.
const QUICK_SECONDS: u64 = 20;

/// What was written, as clap read it.
#[derive(Debug, Clone)]
pub struct Written {
    pub rate: Option<u64>,
    pub seconds: Option<u64>,
    pub quick: bool,
    pub keys: u64,
    pub skew: f64,
    pub seed: u64,
    pub value_bytes: u64,
    pub connections: u64,
    pub timeout_ms: u64,
    pub pool_size: u64,
    pub pool_wait_ms: u64,
    pub partitions: u64,
    pub burst_factor: u64,
    pub borne_p99_ms: u64,
    pub out: PathBuf,
    pub sources: Sources,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Options {
    /// None: the highest that sync bears is searched for.
    pub rate: Option<u64>,
    pub seconds: u64,
    /// Runs at so many times the rate.
    pub factors: Vec<u64>,
    pub keys: u64,
    pub skew: f64,
    pub seed: u64,
    pub value_bytes: usize,
    pub connections: usize,
    pub timeout: Duration,
    pub pool_size: u64,
    pub pool_wait: Duration,
    pub partitions: i32,
    pub burst_factor: u64,
    pub borne_p99: Duration,
    /// Where files go.
    pub out: PathBuf,
    /// Brokers and databases, where they were named, and settings of the engine.
    pub sources: Sources,
}

impl Options {
    /// # Errors
    /// [`CompareError::Usage`] names what is out of range.
    pub fn new(written: Written) -> Result<Options, CompareError> {
        let w = written;
        let seconds = w.seconds.unwrap_or(if w.quick { QUICK_SECONDS } else { 60 });
        within("--seconds", seconds, SECONDS_MIN, SECONDS_MAX)?;
        w.rate.map_or(Ok(()), |rate| within("--rate", rate, 1, RATE_MAX))?;
        within("--keys", w.keys, 1, KEYS_MAX)?;
        if !(0.0..=10.0).contains(&w.skew) {
            return Err(CompareError::Usage(format!("--skew: found {}, expected 0 to 10", w.skew)));
        }
        within("--value-bytes", w.value_bytes, VALUE_BYTES_MIN, VALUE_BYTES_MAX)?;
        within("--connections", w.connections, 1, CONNECTIONS_MAX)?;
        within("--timeout-ms", w.timeout_ms, 100, 60_000)?;
        within("--pool", w.pool_size, 1, 256)?;
        within("--pool-wait-ms", w.pool_wait_ms, 1, 60_000)?;
        within("--partitions", w.partitions, 1, PARTITIONS_MAX)?;
        within("--burst-factor", w.burst_factor, 2, 100)?;
        within("--p99-ms", w.borne_p99_ms, 1, 60_000)?;
        let factors = if w.quick { vec![1] } else { vec![1, 2] };
        let options = Options {
            rate: w.rate,
            seconds,
            factors,
            keys: w.keys,
            skew: w.skew,
            seed: w.seed,
            value_bytes: w.value_bytes as usize,
            connections: w.connections as usize,
            timeout: Duration::from_millis(w.timeout_ms),
            pool_size: w.pool_size,
            pool_wait: Duration::from_millis(w.pool_wait_ms),
            partitions: w.partitions as i32,
            burst_factor: w.burst_factor,
            borne_p99: Duration::from_millis(w.borne_p99_ms),
            out: w.out,
            sources: w.sources,
        };
        options.rate.map_or(Ok(()), |rate| options.fits(rate))?;
        Ok(options)
    }

    /// The most that a run at this rate would have to remember.
    ///
    /// # Errors
    /// [`CompareError::Usage`]
    pub fn fits(&self, rate: u64) -> Result<(), CompareError> {
        let most = self.factors.iter().max().unwrap_or(&1) * rate * (self.seconds + self.burst_factor * 5);
        if most <= REQUESTS_MAX {
            return Ok(());
        }
        Err(CompareError::Usage(format!(
            "{rate}/s for {} s: found up to {most} requests, expected at most {REQUESTS_MAX}; fewer --seconds, or another --rate",
            self.seconds
        )))
    }
}

fn within(option: &str, found: u64, least: u64, most: u64) -> Result<(), CompareError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(CompareError::Usage(format!("{option}: found {found}, expected {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Written {
        Written {
            rate: None,
            seconds: None,
            quick: false,
            keys: 10_000,
            skew: 0.8,
            seed: 0,
            value_bytes: 300,
            connections: 64,
            timeout_ms: 5000,
            pool_size: 8,
            pool_wait_ms: 1000,
            partitions: 8,
            burst_factor: 3,
            borne_p99_ms: 100,
            out: PathBuf::from("out"),
            sources: Sources::default(),
        }
    }

    #[test]
    fn quick_is_short_and_at_one_rate() {
        let options = Options::new(written()).unwrap();
        assert_eq!((options.seconds, options.factors), (60, vec![1, 2]));
        let options = Options::new(Written { quick: true, ..written() }).unwrap();
        assert_eq!((options.seconds, options.factors), (20, vec![1]));
        let options = Options::new(Written { quick: true, seconds: Some(15), ..written() }).unwrap();
        assert_eq!(options.seconds, 15);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let check = |change: &dyn Fn(&mut Written), expectation: &str| {
            let mut written = written();
            change(&mut written);
            assert_eq!(Options::new(written).expect_err(expectation).to_string(), expectation);
        };
        check(&|w| w.seconds = Some(11), "--seconds: found 11, expected 12 to 3600");
        check(&|w| w.rate = Some(0), "--rate: found 0, expected 1 to 200000");
        check(&|w| w.skew = f64::NAN, "--skew: found NaN, expected 0 to 10");
        check(&|w| w.connections = 0, "--connections: found 0, expected 1 to 10000");
        check(&|w| w.value_bytes = 10, "--value-bytes: found 10, expected 200 to 500000");
        check(&|w| w.burst_factor = 1, "--burst-factor: found 1, expected 2 to 100");
        check(
            &|w| (w.rate, w.seconds) = (Some(200_000), Some(3600)),
            "200000/s for 3600 s: found up to 1446000000 requests, expected at most 50000000; fewer --seconds, or another --rate",
        );
    }
}
