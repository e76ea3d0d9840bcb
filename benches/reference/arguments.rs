//! The command line, of the benchmark itself and of the processes that it starts.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Outcome;
use super::support::kafka_bootstrap;

/// 20,000 of the reference job's records have 6 MB of keys and values.
const BATCH_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Clone)]
pub struct Arguments {
    pub records: u64,
    pub keys: u64,
    pub rounds: usize,
    pub workers: usize,
    pub batch: usize,
    pub affinity: String,
    /// Records a second, for how long, and how long the producer waits for a batch to fill.
    pub rate: u64,
    pub seconds: u64,
    pub linger: String,
    /// What waits in `lag`, in millions of records.
    pub lags: Vec<f64>,
    /// Per cent of the records that one key has.
    pub skew: u64,
    /// From which share of a worker's time on a key is hot; 0: none is.
    pub hot_percent: u64,
    /// What a record takes in the handler of `hot`.
    pub slow_ms: u64,
    /// How long a batch waits for a lock before its keys are parked.
    pub park_after_ms: u64,
    /// For how long the row of `locked` is locked.
    pub lock_seconds: u64,
    /// Whether the shard's connections follow its commit latency.
    pub adaptive: bool,
    /// What others do in the same database: transactions a second.
    pub others: u64,
    /// Of the table's pages, the part that inserts fill, in per cent.
    pub fillfactor: u8,
    /// More settings of the engine's process, as `section.name=value`.
    pub set: Vec<String>,
    /// The socket on which the engine may be looked at; "off": nobody looks, and it samples nothing.
    pub seen_at: String,
    pub kafka: String,
    pub dsn: String,
    pub topic: String,
    pub modes: Vec<String>,
}

impl Arguments {
    /// Words behind the program's name.
    pub fn of(words: impl IntoIterator<Item = String>) -> Outcome<Arguments> {
        let mut a = Arguments {
            records: 1_000_000,
            keys: 200_000,
            rounds: 3,
            workers: 8,
            batch: 500,
            affinity: "late".to_owned(),
            rate: 20_000,
            seconds: 20,
            linger: "5".to_owned(),
            lags: vec![1.0, 10.0],
            skew: 0,
            hot_percent: 30,
            slow_ms: 5,
            park_after_ms: 50,
            lock_seconds: 30,
            adaptive: false,
            others: 200,
            fillfactor: 100,
            set: Vec::new(),
            seen_at: String::new(),
            kafka: kafka_bootstrap(),
            dsn: String::new(),
            topic: String::new(),
            modes: Vec::new(),
        };
        let mut words = words.into_iter().filter(|w| w != "--bench");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--records" => a.records = within(&word, &value()?, 1..=1_000_000_000)?,
                "--keys" => a.keys = within(&word, &value()?, 1..=1_000_000_000)?,
                "--rounds" => a.rounds = within(&word, &value()?, 1..=1000)?,
                "--workers" => a.workers = within(&word, &value()?, 1..=256)?,
                "--batch" => a.batch = within(&word, &value()?, 1..=100_000)?,
                "--affinity" => a.affinity = value()?,
                "--rate" => a.rate = within(&word, &value()?, 1..=2_000_000)?,
                "--seconds" => a.seconds = within(&word, &value()?, 1..=86_400)?,
                "--linger" => a.linger = value()?,
                "--lags" => a.lags = lags(&value()?)?,
                "--skew" => a.skew = within(&word, &value()?, 0..=100)?,
                "--hot-percent" => a.hot_percent = within(&word, &value()?, 0..=100)?,
                "--park-after-ms" => a.park_after_ms = within(&word, &value()?, 0..=3_600_000)?,
                "--slow-ms" => a.slow_ms = within(&word, &value()?, 0..=3_600_000)?,
                "--lock-seconds" => a.lock_seconds = within(&word, &value()?, 0..=86_400)?,
                "--adaptive" => a.adaptive = within(&word, &value()?, false..=true)?,
                "--others" => a.others = within(&word, &value()?, 0..=1_000_000)?,
                "--fillfactor" => a.fillfactor = within(&word, &value()?, 10..=100)?,
                "--set" => a.set.push(value()?),
                "--seen-at" => a.seen_at = value()?,
                "--dsn" => a.dsn = value()?,
                "--topic" => a.topic = value()?,
                option if option.starts_with('-') => return Err(format!("no option {option}").into()),
                mode => a.modes.push(mode.to_owned()),
            }
        }
        Ok(a)
    }

    /// The same with batches of up to so many records, whatever their bytes: by default those cut 5,000 of the reference job's
    /// records, and 20,000, to 3,400.
    pub fn with_batches_of(&self, records: usize) -> Arguments {
        let mut a = Arguments { batch: records, ..self.clone() };
        a.set.push(format!("engine.batch_bytes_max={BATCH_BYTES_MAX}"));
        a
    }
}

/// The value of an option.
fn within<T: FromStr + PartialOrd + Display>(option: &str, text: &str, range: RangeInclusive<T>) -> Result<T, String> {
    let found = text.parse().ok().filter(|value| range.contains(value));
    found.ok_or_else(|| format!("{option}: found {text:?}, expected {} to {}", range.start(), range.end()))
}

/// `1,10,50`
fn lags(text: &str) -> Result<Vec<f64>, String> {
    let millions = |part: &str| part.trim().parse().ok().filter(|n: &f64| *n >= 1e-6 && n.is_finite());
    let all: Option<Vec<f64>> = text.split(',').map(millions).collect();
    all.ok_or_else(|| format!("--lags: found {text:?}, expected millions of records, such as 1,10,50"))
}
