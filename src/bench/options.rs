//! What the command line of `forebay bench` may say, checked.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::workload::{Mix, VALUE_BYTES_MIN, Workload};
use crate::bench::zipf::Zipf;

/// A record takes some 400 bytes of disk at the broker, and as many in the database.
const RECORDS_MAX: u64 = 1_000_000_000;
/// Two bytes each, for the comparison at the end.
const KEYS_MAX: u64 = 1_000_000_000;
const RATE_MAX: u64 = 2_000_000;
const SECONDS_MAX: u64 = 24 * 3600;
const PARTITIONS_MAX: u64 = 10_000;
const ROUNDS_MAX: u64 = 1_000;
const LINGER_MS_MAX: u64 = 60_000;
/// What brokers take by default is a MiB, with what Kafka adds.
const VALUE_BYTES_MAX: u64 = 1_000_000;
const KEYS_PER_TENANT: u64 = 1000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    CatchUp,
    Steady,
    Ramp,
    Burst,
    SlowHandler,
    HotKey,
    NoDatabase,
}

impl Mode {
    pub const ALL: [Mode; 7] =
        [Mode::CatchUp, Mode::Steady, Mode::Ramp, Mode::Burst, Mode::SlowHandler, Mode::HotKey, Mode::NoDatabase];

    pub fn word(self) -> &'static str {
        match self {
            Mode::CatchUp => "catch-up",
            Mode::Steady => "steady",
            Mode::Ramp => "ramp",
            Mode::Burst => "burst",
            Mode::SlowHandler => "slow-handler",
            Mode::HotKey => "hot-key",
            Mode::NoDatabase => "no-database",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.word() == text);
        found.ok_or_else(|| format!("expected one of {}", Mode::ALL.map(Mode::word).join(", ")))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `upsert=90,partial=5,delete=5`, in any order; what is not named is none.
    fn from_str(text: &str) -> Result<Mix, String> {
        let expected = || "expected per cent that make a hundred, such as upsert=90,partial=5,delete=5".to_owned();
        let mut of = [None; 3];
        for part in text.split(',') {
            let (name, percent) = part.split_once('=').ok_or_else(expected)?;
            let at = ["upsert", "partial", "delete"].iter().position(|known| *known == name.trim());
            let percent: u8 = percent.trim().parse().map_err(|_| expected())?;
            if of[at.ok_or_else(expected)?].replace(percent).is_some() {
                return Err(expected());
            }
        }
        let [upsert, partial, delete] = of.map(Option::unwrap_or_default);
        match u32::from(upsert) + u32::from(partial) + u32::from(delete) {
            100 => Ok(Mix { partial, delete }),
            _ => Err(expected()),
        }
    }
}

/// Where the engine's settings come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// An ordinary configuration.
    pub file: PathBuf,
    pub brokers: Option<String>,
    /// Each is a shard; they replace the file's.
    pub dsns: Vec<String>,
    /// Paths of settings, and their values as TOML; they overrule the file's.
    pub settings: Vec<(String, String)>,
}

/// What was written, as clap read it.
#[derive(Debug, Clone)]
pub struct Written {
    pub modes: Vec<Mode>,
    pub records: u64,
    pub keys: u64,
    pub tenants: Option<u64>,
    pub skew: f64,
    pub value_bytes: Option<u64>,
    pub operations: Mix,
    pub seed: u64,
    pub rate: u64,
    pub seconds: u64,
    pub linger_ms: u64,
    pub partitions: Option<u64>,
    pub rounds: u64,
    pub sleep_ms: Vec<u64>,
    pub hot_percent: u64,
    pub burst_factor: u64,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub keep: bool,
    /// Of the engine's process, too.
    pub log_level: String,
    pub sources: Sources,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Options {
    /// Each once, in the order in which they were asked for.
    pub modes: Vec<Mode>,
    pub workload: Workload,
    pub records: u64,
    /// Records a second, for how long, and how long the publisher waits for a batch to fill.
    pub rate: u64,
    pub period: Duration,
    pub linger: Duration,
    /// As many as the shards' `partitions` say, or [`PARTITIONS`], unless somebody says.
    pub partitions: Option<i32>,
    pub rounds: usize,
    /// Of the slow handler.
    pub sleeps: Vec<Duration>,
    pub hot_percent: u64,
    /// So many times the rate.
    pub burst_factor: u64,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
    pub keep: bool,
    /// Of the engine's process, too.
    pub log_level: String,
    pub sources: Sources,
}

pub const PARTITIONS: i32 = 8;

impl Options {
    /// # Errors
    /// [`BenchError::Usage`] names what is out of range.
    pub fn new(written: Written) -> Result<Options, BenchError> {
        let w = written;
        within("--records", w.records, 1, RECORDS_MAX)?;
        within("--keys", w.keys, 1, KEYS_MAX)?;
        let tenants = w.tenants.unwrap_or((w.keys / KEYS_PER_TENANT).max(1));
        within("--tenants", tenants, 1, w.keys)?;
        if !(0.0..=10.0).contains(&w.skew) {
            return Err(BenchError::Usage(format!("--skew: found {}, expected 0 to 10", w.skew)));
        }
        if let Some(bytes) = w.value_bytes {
            within("--value-bytes", bytes, VALUE_BYTES_MIN as u64, VALUE_BYTES_MAX)?;
        }
        within("--rate", w.rate, 1, RATE_MAX)?;
        within("--seconds", w.seconds, 1, SECONDS_MAX)?;
        within("--linger-ms", w.linger_ms, 0, LINGER_MS_MAX)?;
        w.partitions.map_or(Ok(()), |partitions| within("--partitions", partitions, 1, PARTITIONS_MAX))?;
        within("--rounds", w.rounds, 1, ROUNDS_MAX)?;
        w.sleep_ms.iter().try_for_each(|ms| within("--sleep-ms", *ms, 0, 10_000))?;
        within("--hot-percent", w.hot_percent, 1, 99)?;
        within("--burst-factor", w.burst_factor, 2, 100)?;
        let mut modes = Vec::new();
        w.modes.into_iter().for_each(|mode| {
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        });
        if modes.is_empty() {
            modes.push(Mode::CatchUp);
        }
        let workload = Workload {
            seed: w.seed,
            keys: w.keys,
            tenants,
            skew: (w.skew > 0.0).then(|| Zipf::new(w.keys, w.skew)),
            hot_percent: 0,
            mix: w.operations,
            value_bytes: w.value_bytes.map(|bytes| bytes as usize),
        };
        Ok(Options {
            modes,
            workload,
            records: w.records,
            rate: w.rate,
            period: Duration::from_secs(w.seconds),
            linger: Duration::from_millis(w.linger_ms),
            partitions: w.partitions.map(|partitions| partitions as i32),
            rounds: w.rounds as usize,
            sleeps: w.sleep_ms.into_iter().map(Duration::from_millis).collect(),
            hot_percent: w.hot_percent,
            burst_factor: w.burst_factor,
            json: w.json,
            svg: w.svg,
            keep: w.keep,
            log_level: w.log_level,
            sources: w.sources,
        })
    }
}

fn within(option: &str, found: u64, least: u64, most: u64) -> Result<(), BenchError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(BenchError::Usage(format!("{option}: found {found}, expected {least} to {most}")))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What is written where nothing is.
    pub fn written() -> Written {
        Written {
            modes: Vec::new(),
            records: 1_000_000,
            keys: 200_000,
            tenants: None,
            skew: 0.0,
            value_bytes: None,
            operations: Mix::default(),
            seed: 0,
            rate: 20_000,
            seconds: 20,
            linger_ms: 5,
            partitions: None,
            rounds: 1,
            sleep_ms: vec![0, 1, 10, 100],
            hot_percent: 50,
            burst_factor: 4,
            json: None,
            svg: None,
            keep: false,
            log_level: "warn".to_owned(),
            sources: Sources::default(),
        }
    }

    #[test]
    fn without_a_word_it_is_the_reference_job() {
        let options = Options::new(written()).unwrap();
        assert_eq!((options.workload, options.modes), (Workload::default(), vec![Mode::CatchUp]));
        let twice = Written { modes: vec![Mode::Ramp, Mode::CatchUp, Mode::Ramp], ..written() };
        assert_eq!(Options::new(twice).unwrap().modes, [Mode::Ramp, Mode::CatchUp]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let check = |change: &dyn Fn(&mut Written), expectation: &str| {
            let mut written = written();
            change(&mut written);
            let error = Options::new(written).expect_err(expectation).to_string();
            assert_eq!(error, expectation);
        };
        check(&|w| w.records = 0, "--records: found 0, expected 1 to 1000000000");
        check(&|w| (w.keys, w.tenants) = (5, Some(6)), "--tenants: found 6, expected 1 to 5");
        check(&|w| w.skew = -0.5, "--skew: found -0.5, expected 0 to 10");
        check(&|w| w.skew = f64::NAN, "--skew: found NaN, expected 0 to 10");
        check(&|w| w.value_bytes = Some(10), "--value-bytes: found 10, expected 240 to 1000000");
        check(&|w| w.rate = 0, "--rate: found 0, expected 1 to 2000000");
        check(&|w| w.sleep_ms = vec![1, 10_001], "--sleep-ms: found 10001, expected 0 to 10000");
        check(&|w| w.burst_factor = 1, "--burst-factor: found 1, expected 2 to 100");
    }

    #[test]
    fn modes_and_operations_are_read() {
        assert_eq!("no-database".parse::<Mode>(), Ok(Mode::NoDatabase));
        assert!("fast".parse::<Mode>().unwrap_err().contains("catch-up, steady, ramp, burst"));
        assert_eq!("upsert=90,partial=7,delete=3".parse(), Ok(Mix { partial: 7, delete: 3 }));
        assert_eq!("delete=40, upsert=60".parse(), Ok(Mix { partial: 0, delete: 40 }));
        for wrong in
            ["", "upsert", "upsert=50", "upsert=50,upsert=50", "insert=100", "upsert=101", "upsert=300,delete=-200"]
        {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }
}
