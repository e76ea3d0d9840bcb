//! What the command line of `forebay compare` may say, checked.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

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

/// What was written, as clap reads it.
#[derive(Debug, Clone, Args)]
pub struct Written {
    /// Requests a second, and then twice as many [default: the highest rate that sync bears, which is searched for first].
    #[arg(long, value_name = "N")]
    pub rate: Option<u64>,
    /// How long each of the runs sends: all disturbances are in it [default: 60].
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// 20 seconds, and not at twice the rate: a first look.
    #[arg(long)]
    pub quick: bool,
    /// Rows that requests are of.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub keys: u64,
    /// Zipf's exponent: the row of rank k has a share proportional to 1/k^S of the requests. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.8)]
    pub skew: f64,
    /// Another one is another workload; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Of a request's body.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub value_bytes: u64,
    /// Keep-alive connections that requests are sent over, at most: another one is made whenever all are in use. A request that is due while
    /// there can be no more waits, and that counts; one that is not sent in time is counted as such.
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_MAX)]
    pub connections: u64,
    /// The rate rises evenly over each run, from a tenth of it, instead of staying the same. The burst is so many times the rate of its time.
    #[arg(long)]
    pub ramp: bool,
    /// After so long without an answer a request is an error.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub timeout_ms: u64,
    /// Of the gateway in sync mode: connections to each database.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub pool: u64,
    /// Likewise: how long a request waits for one of them.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub pool_wait_ms: u64,
    /// Of the engine, for each database [default: 4].
    #[arg(long, value_name = "N")]
    pub workers: Option<u64>,
    /// Of the topic.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub partitions: u64,
    /// The burst is so many times the rate.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub burst_factor: u64,
    /// A rate is borne when every request is accepted, and 99 of 100 within this.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub p99_ms: u64,
    /// Where compare.html and compare.json go.
    #[arg(long, value_name = "DIRECTORY", default_value = "forebay-compare")]
    pub out: PathBuf,
    /// [default: a Kafka at 127.0.0.1:9092 or :19092].
    #[arg(long, value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// Instead of servers of its own, which no other is stopped for; once for each database. Others on this machine can see it.
    #[arg(long, value_name = "DSN")]
    pub dsn: Vec<String>,
    /// A setting of the engine: engine.batch_records_max=100, kafka.fetch.wait.max.ms=10, shard.lock_timeout_ms=1000 (of all shards).
    #[arg(long, value_name = "SETTING=VALUE", value_parser = crate::bench::setting)]
    pub set: Vec<(String, String)>,
}

impl Written {
    /// Its file is nobody's: see `Environment`.
    fn sources(&self) -> Sources {
        let workers = self.workers.map(|workers| ("engine.workers_per_shard".to_owned(), workers.to_string()));
        let settings = workers.into_iter().chain(self.set.iter().cloned()).collect();
        Sources { file: PathBuf::new(), brokers: self.brokers.clone(), dsns: self.dsn.clone(), settings }
    }
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
    pub ramp: bool,
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
    pub fn new(w: Written) -> Result<Options, CompareError> {
        let sources = w.sources();
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
        within("--pool", w.pool, 1, 256)?;
        within("--pool-wait-ms", w.pool_wait_ms, 1, 60_000)?;
        within("--partitions", w.partitions, 1, PARTITIONS_MAX)?;
        within("--burst-factor", w.burst_factor, 2, 100)?;
        within("--p99-ms", w.p99_ms, 1, 60_000)?;
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
            ramp: w.ramp,
            timeout: Duration::from_millis(w.timeout_ms),
            pool_size: w.pool,
            pool_wait: Duration::from_millis(w.pool_wait_ms),
            partitions: w.partitions as i32,
            burst_factor: w.burst_factor,
            borne_p99: Duration::from_millis(w.p99_ms),
            out: w.out,
            sources,
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

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        written: Written,
    }

    /// What is written where nothing is.
    fn written() -> Written {
        <Line as clap::Parser>::parse_from(["compare"]).written
    }

    #[test]
    fn workers_are_a_setting_of_the_engine_and_others_come_behind() {
        let line = ["compare", "--workers", "2", "--set", "engine.lanes=8"];
        let sources = Options::new(<Line as clap::Parser>::parse_from(line).written).unwrap().sources;
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(sources.settings, [setting("engine.workers_per_shard", "2"), setting("engine.lanes", "8")]);
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
