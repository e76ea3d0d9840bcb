//! What a benchmark and its engine's process say to each other: lines, over the child's stdin and stdout. The first line down is a
//! [`Spec`], which may hold passwords: no argument, and in no file. The end of the child's stdin is its end, too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Where relative paths of the configuration start.
    pub file: PathBuf,
    pub config: String,
    pub job: Work,
    /// Ends when so many records are durable; [`Order::Until`] may say so later.
    pub until: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// The engine writes the configuration's table.
    Table,
    /// A handler sleeps for each record, and inserts it.
    Slow { table: String, sleep_us: u64 },
    /// The engine without a database.
    Discard,
    /// No engine: librdkafka's own poll loop.
    Poll { partitions: i32 },
}

/// What may be said while it runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The end of the warm-up: what is measured is measured from here on.
    Mark,
    Until(u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    Sample(Sample),
    End(Box<End>),
    Failed { class: Class, text: String },
}

/// As the exit codes have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Configuration,
    Unavailable,
    Internal,
}

/// A look, some times a second.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Since the Unix epoch.
    pub at_us: u64,
    /// Since the start of the process.
    pub fetched: u64,
    pub durable: u64,
    /// Age of the oldest record that is fetched and not durable.
    pub time_lag_ms: u64,
    pub resident_bytes: u64,
    pub cpu_us: u64,
}

/// What it all came to: from the mark, or from the first record fetched, until the last one was durable.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct End {
    pub seconds: f64,
    pub cpu_us: u64,
    pub records: u64,
    /// Since the start, warm-up included.
    pub durable: u64,
    pub peak_bytes: u64,
    pub batches: u64,
    pub batch: Spread,
    /// From the record's timestamp to the COMMIT's answer, in ms.
    pub durable_ms: Option<Quantiles>,
    /// From stage to stage.
    pub stages_ms: BTreeMap<String, Spread>,
    /// Of all records since the start.
    pub outcomes: BTreeMap<String, u64>,
    pub retries: u64,
    pub rewinds: u64,
    /// Why the topic stopped, if it did.
    pub stopped: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}
