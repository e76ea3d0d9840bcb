//! What the command line of `forebay bench` may say, checked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

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

/// What was written, as clap reads it.
#[derive(Debug, Clone, Args)]
pub struct Written {
    /// What to measure: catch-up [default], steady, ramp (a rate that rises until time lag grows), burst (and the recovery from
    /// it), slow-handler, hot-key, no-database.
    #[arg(value_name = "MODE")]
    pub modes: Vec<Mode>,
    /// Records to catch up with.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub records: u64,
    /// Rows that they are of.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub keys: u64,
    /// Tenants that the rows belong to, each having as many [default: one for each 1000 rows].
    #[arg(long, value_name = "N")]
    pub tenants: Option<u64>,
    /// Zipf's exponent: the row of rank k has a share proportional to 1/k^S of the records; rows of a tenant have neighbouring
    /// ranks. 0: all alike.
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    pub skew: f64,
    /// Pad whole rows to so many bytes [default: as they are, about 235].
    #[arg(long, value_name = "N")]
    pub value_bytes: Option<u64>,
    /// In per cent: whole rows, partial updates, tombstones. What is sent at a rate is whole rows, inserted.
    #[arg(long, value_name = "MIX", default_value = "upsert=100")]
    pub operations: Mix,
    /// Another one is another workload; the same one is the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Records a second of steady traffic, before a burst, and of the ramp's first step.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub rate: u64,
    /// How long steady traffic, and each step of a ramp, lasts; a burst a quarter of it.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub seconds: u64,
    /// How long the publisher waits for a batch to fill, where records are sent at a rate.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub linger_ms: u64,
    /// Of the topic [default: 8, or as many as the shards declare].
    #[arg(long, value_name = "N")]
    pub partitions: Option<u64>,
    /// Measure so many times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: u64,
    /// What the slow handler sleeps for each record.
    #[arg(long, value_name = "MS", value_delimiter = ',', default_values_t = [0, 1, 10, 100])]
    pub sleep_ms: Vec<u64>,
    /// The part of the records that the hot key has.
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub hot_percent: u64,
    /// The burst is so many times the rate.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub burst_factor: u64,
    /// Write every figure of every round to a file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write charts into a directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub svg: Option<PathBuf>,
    /// Leave topics, groups and the schema, and say which they are.
    #[arg(long)]
    pub keep: bool,
    /// Instead of the file's `bootstrap.servers`.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// Instead of the file's shards; once for each. Others on this machine can see it: where there is a
    /// password, use a file (dsn_file, dsn_env).
    #[arg(long, value_name = "DSN")]
    pub dsn: Vec<String>,
    /// Instead of `engine.workers_per_shard`.
    #[arg(long, value_name = "N")]
    pub workers: Option<u64>,
    /// Instead of `engine.batch_records_max`.
    #[arg(long, value_name = "N")]
    pub batch: Option<u64>,
    /// Instead of `engine.lanes`.
    #[arg(long, value_name = "N")]
    pub lanes: Option<u64>,
    /// Instead of any setting of the file: engine.affinity=static, kafka.fetch.wait.max.ms=10, shard.adaptive_limit=true (of all
    /// shards).
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
}

/// `SETTING=VALUE`.
///
/// # Errors
/// What was expected.
pub fn setting(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("expected SETTING=VALUE")?;
    Ok((path.trim().to_owned(), value.trim().to_owned()))
}

impl Written {
    fn sources(&self, file: &Path) -> Sources {
        let named = [("workers_per_shard", self.workers), ("batch_records_max", self.batch), ("lanes", self.lanes)];
        let named = named.into_iter().filter_map(|(name, value)| Some((format!("engine.{name}"), value?.to_string())));
        let settings = named.chain(self.set.iter().cloned()).collect();
        Sources { file: file.to_owned(), brokers: self.brokers.clone(), dsns: self.dsn.clone(), settings }
    }
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
    /// `file` is an ordinary configuration, which need not be there.
    ///
    /// # Errors
    /// [`BenchError::Usage`] names what is out of range.
    pub fn new(w: Written, file: &Path, log_level: String) -> Result<Options, BenchError> {
        let sources = w.sources(file);
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
            log_level,
            sources,
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

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        written: Written,
    }

    /// What is written where nothing is.
    fn written() -> Written {
        <Line as clap::Parser>::parse_from(["bench"]).written
    }

    fn read(written: Written) -> Result<Options, BenchError> {
        Options::new(written, Path::new("forebay.toml"), "warn".to_owned())
    }

    #[test]
    fn settings_are_named_short_or_long() {
        let line = ["bench", "--workers", "2", "--set", "engine.lanes = 8", "--dsn", "a", "--dsn", "b"];
        let sources = read(<Line as clap::Parser>::parse_from(line).written).unwrap().sources;
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(sources.settings, [setting("engine.workers_per_shard", "2"), setting("engine.lanes", "8")]);
        assert_eq!(sources.dsns, ["a", "b"]);
    }

    #[test]
    fn without_a_word_it_is_the_reference_job() {
        let options = read(written()).unwrap();
        assert_eq!((options.workload, options.modes), (Workload::default(), vec![Mode::CatchUp]));
        let twice = Written { modes: vec![Mode::Ramp, Mode::CatchUp, Mode::Ramp], ..written() };
        assert_eq!(read(twice).unwrap().modes, [Mode::Ramp, Mode::CatchUp]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let check = |change: &dyn Fn(&mut Written), expectation: &str| {
            let mut written = written();
            change(&mut written);
            let error = read(written).expect_err(expectation).to_string();
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
