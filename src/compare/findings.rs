//! Everything that a comparison found, as it is written to JSON and as the table and the page show it. Holds figures, and decides nothing.
//!
//! Times are of three kinds. `…_ms` are durations in milliseconds. `…_s` and `second` count seconds from the first intended send time of
//! their run. What a client sees counts under the second in which its request was *due*, whenever it was sent or answered; what others
//! are asked for (lag, connections, CPU) under the second in which they were asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of the form of [`Findings`]: a number that is missed when an old file is read.
pub const VERSION: u32 = 2;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// [`VERSION`].
    pub version: u32,
    /// Of this program.
    pub forebay: String,
    /// In the names of topics, groups and schemas.
    pub id: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// It was ended early, or something failed: what is here was found by then.
    pub cut_short: bool,
    pub machine: Machine,
    pub environment: Environment,
    pub parameters: Parameters,
    /// None: the rate was given.
    pub search: Option<Search>,
    /// In the order in which they ran: sync before async, and the lower rate before the higher.
    pub runs: Vec<Run>,
    /// What contradicts what was acknowledged, in sentences. Figures are worth nothing while there is one.
    pub wrong: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub host: String,
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Threads that wanted to run, on average of the minute before it began: others' work, if it is far from 0.
    pub load_before: Option<f64>,
}

/// What both modes ran on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    pub brokers: String,
    pub librdkafka: String,
    /// Whether Kafka's CPU time is known: its process is on this machine and may be looked at.
    pub kafka_is_seen: bool,
    /// Whether the servers were started for this comparison, and may be stopped by it.
    pub servers_are_ours: bool,
    pub shards: Vec<Shard>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    pub name: String,
    /// Of PostgreSQL.
    pub version: String,
    /// Settings that figures depend on, such as `synchronous_commit`.
    pub settings: BTreeMap<String, String>,
    /// What others had in use when it began counts towards `max_connections`, too.
    pub connections_max: u32,
    /// How far its clock is ahead of ours; times until durable are without it.
    pub clock_ahead_us: i64,
}

/// What was asked for, with what was left out filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// How long each run sends.
    pub seconds: u64,
    /// Rows that the requests are of, and how unequally: Zipf's exponent.
    pub keys: u64,
    pub skew: f64,
    pub seed: u64,
    /// Of a request's body.
    pub value_bytes: u64,
    /// Keep-alive connections of the generator, at most. A request that is due while there can be no more waits, and that counts.
    pub connections: u64,
    /// The rate rises evenly over each run, from a tenth of it, instead of staying the same.
    pub ramp: bool,
    /// After so long without an answer a request is an error.
    pub timeout_ms: u64,
    /// Of a gateway in sync mode, to each shard, and how long a request waits for one.
    pub pool_size: u64,
    pub pool_wait_ms: u64,
    /// Of the engine, for each shard.
    pub workers_per_shard: u64,
    pub partitions: i32,
    /// A burst is so many times the rate.
    pub burst_factor: u64,
    /// A rate is borne when every request is accepted and 99 of 100 are answered within this.
    pub borne_p99_ms: f64,
}

/// The search for the highest rate that sync bears, without disturbances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub steps: Vec<Step>,
    /// The highest rate of a step that was borne. None: not even the lowest was.
    pub borne: Option<u64>,
    /// The lowest rate of a step that was not. None: it ended before there was one.
    pub not_borne: Option<u64>,
    /// At that rate the machine had nothing left, or the generator itself was late: more might be borne elsewhere.
    pub machine_was_the_limit: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Requests a second.
    pub rate: u64,
    /// How much of it counts, and how many requests were due in that, and accepted.
    pub seconds: f64,
    pub offered: u64,
    pub accepted: u64,
    /// As `request_ms` of [`Totals`].
    pub p99_ms: f64,
    /// As `late_ms` of [`Totals`].
    pub late_p99_ms: f64,
    /// Of the machine's CPU time, whoever used it. None: it is not known.
    pub busy_percent: Option<f64>,
    /// See `borne_p99_ms` of [`Parameters`].
    pub borne: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The row is written in the request: 200 after COMMIT.
    #[default]
    Sync,
    /// The request becomes a record: 202 after the brokers' acknowledgement; the engine writes the row.
    Async,
}

impl Mode {
    /// As `[[ingest.route]] mode` has it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
        }
    }
}

/// One mode at one rate, with all disturbances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub mode: Mode,
    /// Requests a second outside the burst; with a ramp at its end.
    pub rate: u64,
    /// So many times the rate that was found, or given: 1 or 2.
    pub factor: u64,
    /// For how long it sent.
    pub seconds: f64,
    /// From the last intended send time until everything accepted was in the tables. About 0 in sync. None: that did not come.
    pub drain_seconds: Option<f64>,
    pub cut_short: bool,
    pub totals: Totals,
    /// What was due outside of all disturbances, and of a twelfth of the run behind each, in which it may recover.
    pub quiet: Effect,
    pub disturbances: Vec<Disturbance>,
    /// One for each second, the drain included; what a field has no value for in a second is null.
    pub samples: Vec<Sample>,
    pub verification: Verification,
}

impl Run {
    /// It was ended before the engine had caught up: what is not in the tables may still have waited in Kafka.
    pub fn was_left(&self) -> bool {
        self.cut_short && self.drain_seconds.is_none()
    }
}

/// Of a whole run, disturbances included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests that were due.
    pub offered: u64,
    /// Answered with 200 or 202.
    pub accepted: u64,
    /// Of the time in which it sent.
    pub offered_per_s: f64,
    pub accepted_per_s: f64,
    pub errors: Errors,
    /// Of what was offered.
    pub error_percent: f64,
    /// From when a request was due to its answer: of accepted ones, and of timeouts, which count as long as the timeout.
    pub request_ms: Option<Times>,
    /// From when a request was due until its row was written, of accepted ones.
    pub durable_ms: Option<Times>,
    /// How late requests were sent, by the generator's own pace or because there was no connection: it is part of the times above. Those that
    /// were not sent at all are `unsent`.
    pub late_ms: Option<Times>,
    /// The generator's own connections, at most. As many as it may have: from there on the loop was not open.
    pub client_connections_max: u64,
    /// Records published and not durable, at most. None in sync.
    pub message_lag_max: Option<u64>,
    /// Age of the oldest record that was not durable, at most. None in sync.
    pub time_lag_max_ms: Option<u64>,
    /// Times that the engine tried again. None in sync, where whoever asks has to.
    pub retries: Option<u64>,
    /// Connections to all shards of gateway and engine together, at most.
    pub connections_max: Option<u32>,
    /// Those of them that waited for a lock, at most.
    pub lock_waits_max: Option<u32>,
    /// Of all shards, for 1000 accepted requests: commits and rollbacks in these databases, all included but our own looks, and the WAL of
    /// their servers.
    pub transactions_per_1000: Option<f64>,
    pub wal_bytes_per_1000: Option<f64>,
    /// CPU seconds.
    pub cpu: Cpu,
    /// CPU milliseconds for 1000 accepted requests.
    pub cpu_ms_per_1000: Cpu,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Answered, by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Sent and not answered in time; and not sent in time, because there was no connection.
    pub timeouts: u64,
    pub unsent: u64,
    /// The connection ended, or could not be made.
    pub connection: u64,
}

impl Errors {
    pub fn all(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.timeouts + self.unsent + self.connection
    }
}

/// In ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Of each part; null where nothing is known, or nothing runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// This process: generator and sampling.
    pub generator: Option<f64>,
    pub gateway: Option<f64>,
    pub engine: Option<f64>,
    /// All servers, with all their processes.
    pub postgresql: Option<f64>,
    /// Whatever else the broker does is in it. Null in sync, which has nothing to do with it.
    pub kafka: Option<f64>,
}

/// A second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// 0 is the first.
    pub second: u32,

    // Of the requests due in it.
    pub offered: u64,
    pub accepted: u64,
    /// Answered with something else, or broken connections.
    pub refused: u64,
    /// Sent in time or not.
    pub timeouts: u64,
    pub request_p50_ms: Option<f64>,
    pub request_p99_ms: Option<f64>,
    pub request_max_ms: Option<f64>,
    pub durable_p50_ms: Option<f64>,
    pub durable_p99_ms: Option<f64>,
    pub durable_max_ms: Option<f64>,

    // As of its end.
    /// Rows written in it. Less than what was accepted where an update came with a later one of its row.
    pub written: u64,
    /// Requests due and not yet answered.
    pub under_way: u64,
    pub message_lag: Option<u64>,
    pub time_lag_ms: Option<u64>,
    pub retries: Option<u64>,
    /// Of gateway and engine; of the shards that answer.
    pub connections: Option<u32>,
    pub lock_waits: Option<u32>,
    pub transactions: Option<u64>,
    pub wal_bytes: Option<u64>,
    /// Cores: CPU seconds for each second.
    pub cpu: Cpu,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another session holds a row that is written often.
    #[default]
    RowLocked,
    Checkpoint,
    /// A server is stopped, and started again.
    ShardStopped,
    Burst,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Disturbance {
    pub kind: Kind,
    /// Where. None: everywhere.
    pub shard: Option<String>,
    /// As it came, not as it was planned.
    pub from_s: f64,
    pub to_s: f64,
    /// One sentence for people.
    pub told: String,
    /// Why it was left out, or what went wrong with it.
    pub skipped: Option<String>,
    /// None where it was left out.
    pub effect: Option<Effect>,
}

/// What clients saw of the requests that were due in a time, and how far the engine was behind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    pub seconds: f64,
    pub offered: u64,
    pub accepted: u64,
    pub error_percent: f64,
    pub request_ms: Option<Times>,
    pub durable_ms: Option<Times>,
    pub message_lag_max: Option<u64>,
    pub time_lag_max_ms: Option<u64>,
    /// From its end until the last row of what was accepted in it was written; in `quiet` none.
    pub caught_up_after_s: Option<f64>,
}

/// What was acknowledged against what the tables hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Answered with 200 or 202.
    pub acknowledged: u64,
    /// Of those: written, or overtaken by a later write of their row.
    pub in_table: u64,
    /// The rest. Anything but 0 is an error.
    pub missing: u64,
    /// Not acknowledged, and nevertheless the last write of their row: timeouts, and refusals that came after the write.
    pub unacknowledged_in_table: u64,
    /// Rows that must be there, and that are.
    pub rows_expected: u64,
    pub rows: u64,
    /// Each row is as the last acknowledged request for it left it, or as a later one did that was not acknowledged.
    pub equal: bool,
    /// The first contradictions, in words.
    pub problems: Vec<String>,
}
