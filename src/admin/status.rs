//! What `/status` says: the whole state of a process as JSON, for programs, for the page and for `forebay top`. Fields are only ever
//! added within one [`VERSION`]; whoever reads it ignores what it does not know. Times are in milliseconds: `…_ms` is a duration,
//! `…_at_ms` a moment since the Unix epoch. What is not known is null, never 0.
//!
//! Keys of records appear here and nowhere else; payloads, and literals of SQL, never.

use serde::{Deserialize, Serialize};

/// Of the form of what follows.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub process: Process,
    pub ready: Ready,
    /// What is wrong and who is to blame, the worst first; never empty.
    pub findings: Vec<Finding>,
    pub totals: Totals,
    /// In the configuration's order.
    pub topics: Vec<Topic>,
    /// Those assigned to this process, by topic, then by number.
    pub partitions: Vec<Partition>,
    /// In the configuration's order.
    pub shards: Vec<Shard>,
    pub top_keys: Vec<TopKeys>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Of forebay.
    pub version: String,
    pub librdkafka: String,
    pub pid: u32,
    pub host: String,
    pub group: String,
    pub started_at_ms: i64,
    /// When this was put together.
    pub now_ms: i64,
    /// Since the poller last turned; more than 5,000 means that it hangs.
    pub poll_age_ms: u64,
    /// Draining: it was told to end.
    pub leaving: bool,
    /// The directives in force, as `--log-level` takes them.
    pub log_level: String,
    pub memory_bytes: Option<u64>,
    /// CPU time used since the start, of all threads.
    pub cpu_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    pub ready: bool,
    /// Why not; and, where it is ready, what is wrong all the same.
    pub reasons: Vec<String>,
}

/// A sentence about the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// "bad" (it does not get better by itself), "warn" (writes wait, or will), "calm" (all is well), or "note".
    pub severity: String,
    /// Whom to ask: "forebay", "kafka", "database", "topic", "purpose" (somebody wanted it so), or "nobody".
    pub culprit: String,
    /// Which database or topic.
    pub name: Option<String>,
    pub text: String,
}

/// Of all partitions of this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Records in Kafka that are not committed yet; null while no partition's log has been looked at.
    pub message_lag: Option<u64>,
    /// Age of the oldest record that is not durable, committed and applied.
    pub time_lag_ms: u64,
    /// Likewise, without what is parked.
    pub unparked_lag_ms: u64,
    pub in_flight_records: u64,
    pub in_flight_bytes: u64,
    /// Over the last seconds.
    pub fetched_per_s: f64,
    pub durable_per_s: f64,
    /// Since the start.
    pub fetched: u64,
    pub durable: u64,
    pub parked_keys: u64,
    pub parked_records: u64,
    /// Records that became dead letters since the start.
    pub dead_letters: u64,
    pub rewinds: u64,
    pub rebalances: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    pub name: String,
    /// Null for a handler's topic.
    pub table: Option<String>,
    pub state: TopicState,
    /// Why it stopped.
    pub reason: Option<Reason>,
    pub message_lag: Option<u64>,
    pub time_lag_ms: u64,
    /// Records since the start, by outcome.
    pub records: Outcomes,
    /// How long records took from stage to stage, since the start; nothing of stages that no record has reached.
    pub stages: Vec<StageTimes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicState {
    Running,
    /// Somebody paused it by `POST /pause`: nothing of it is fetched until `POST /resume` or a restart.
    Paused,
    /// It cannot go on until a person has done something.
    Stopped,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcomes {
    pub upserted: u64,
    pub deleted: u64,
    /// Superfluous: another record of the batch decided.
    pub folded: u64,
    /// The database had them.
    pub skipped: u64,
    pub parked: u64,
    pub dead_lettered: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTimes {
    /// "fetched", "routed", "dequeued", "written", "committed", or "durable" for the whole way from the record's timestamp.
    pub stage: String,
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// For people: PostgreSQL's code, where it comes from there, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub sqlstate: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    /// "locating", "verifying", "located", "running", "revoking", or "stopped".
    pub state: String,
    /// Not fetched now: its window is full, its topic is paused or stopped.
    pub paused: bool,
    /// Next offsets: of the group in Kafka, of the unbroken prefix of what is durable, of what was fetched, and the log's end. Where
    /// it starts is not known yet, nothing is known of the two in the middle.
    pub committed: Option<i64>,
    pub durable: Option<i64>,
    pub fetched: Option<i64>,
    pub end: Option<i64>,
    pub message_lag: Option<u64>,
    /// Age of the oldest record that is not durable, committed and applied.
    pub time_lag_ms: u64,
    /// As `time_lag_ms`, without what is parked.
    pub unparked_lag_ms: u64,
    /// Age of the oldest record that is parked.
    pub parked_age_ms: Option<u64>,
    /// Fetched, and not durable.
    pub in_flight_records: u64,
    pub in_flight_bytes: u64,
    /// What holds up everything behind it: null where everything is committed and applied. A record that is parked comes first, then
    /// one that is not durable, then one that is not committed.
    pub frontier: Option<Frontier>,
    /// Where the frontier is parked: the oldest record that is not.
    pub unparked: Option<Frontier>,
}

/// The oldest record of a partition of its kind: parked, not durable, or not committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    pub offset: i64,
    /// As text, cut where it is long; null where the record has none, or nobody who knows it is asked.
    pub key: Option<String>,
    /// Since the record's own timestamp.
    pub age_ms: u64,
    /// Where it is: "waiting" (its shard is not taken over yet), "held" (its lane moves to another worker), "queued" (behind other
    /// batches of its worker), "writing", "uncommitted" (durable, and Kafka's commit is to come: `shard` has not acknowledged it, or, without one, Kafka has not), "parked", or "unfetched".
    pub place: String,
    pub shard: Option<String>,
    pub lane: Option<u16>,
    /// As `shards[].workers[].name`.
    pub worker: Option<String>,
    /// Tries so far, the one under way included.
    pub attempt: Option<u32>,
    /// What the last try that failed said.
    pub last: Option<Reason>,
    /// Sessions that hold locks which its worker waits for; of a record that is parked because of a lock: those that hold locks in
    /// its table.
    pub blocked_by: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    pub name: String,
    /// "up", "down" (its breaker is open: nobody but a probe tries it), "refused" (a person is needed), or "unknown" (nobody has
    /// reached it yet).
    pub state: String,
    /// For how long it has been so.
    pub since_ms: u64,
    pub reason: Option<Reason>,
    pub verdict: Verdict,
    pub connections: Connections,
    /// What holds its workers back on purpose.
    pub pace: Pace,
    pub parked_keys: u64,
    pub parked_records: u64,
    /// Null until it was sampled, and where it cannot be.
    pub contention: Option<Contention>,
    /// Workers, then slow lanes.
    pub workers: Vec<Worker>,
}

/// One word and a sentence on what a shard's writes wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// "idle", "waiting_for_us", "commit_bound", "lock_bound", "cpu_bound", "io_bound", "paced", "down", or "unknown".
    pub kind: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// What this process needs.
    pub needed: u32,
    /// Of this process, as the server counts them; null until it was sampled.
    pub open: Option<u32>,
    /// What the server lets in, less what it reserves.
    pub server_max: Option<u32>,
    /// Of all programs together.
    pub server_used: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// In words, one for each limit that holds workers back now.
    pub active: Vec<String>,
    pub replica_lag_ms: Option<u64>,
}

/// From samples of `pg_stat_activity`, over the last seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contention {
    /// When it was sampled last.
    pub sampled_at_ms: i64,
    /// What our backends did, as shares of their time; the largest first.
    pub waits: Vec<Wait>,
    /// Who blocks our backends now, the longest first.
    pub blockers: Vec<Blocker>,
    /// The tables that this process writes.
    pub tables: Vec<TableHealth>,
    pub wal: Option<Wal>,
    /// What cannot be seen, and what would help: a privilege that is missing, a pooler in between.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// As PostgreSQL names it ("Lock", "LWLock", "IO", "Client"…); "CPU" for running without a wait.
    pub kind: String,
    pub event: String,
    /// 0 to 1.
    pub share: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blocker {
    pub pid: i32,
    /// Null where the role may not see it.
    pub application: Option<String>,
    pub user: Option<String>,
    /// "active", "idle in transaction"…
    pub state: Option<String>,
    pub transaction_age_ms: Option<u64>,
    pub query_age_ms: Option<u64>,
    /// The first word of what it runs or ran last ("UPDATE"), never more: literals are data.
    pub command: Option<String>,
    /// Our threads that wait for it, and for how long the longest has.
    pub blocks: Vec<String>,
    pub blocked_for_ms: u64,
    /// What they wait for: "transactionid", "tuple", "relation"… with the relation's name where there is one.
    pub lock: Option<String>,
    pub relation: Option<String>,
    /// It is one of this group's own connections.
    pub ours: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableHealth {
    pub table: String,
    /// Of the updates since the sampler began: those that needed no index entry; null without any.
    pub hot_ratio: Option<f64>,
    pub live_rows: u64,
    pub dead_rows: u64,
    pub last_vacuum_at_ms: Option<i64>,
}

/// Of the whole server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wal {
    pub bytes_per_s: Option<f64>,
    /// Checkpoints since the sampler began: by time, and because the log was full (`max_wal_size` is small).
    pub checkpoints_timed: Option<u64>,
    pub checkpoints_requested: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// As its thread and its `application_name` end: "fb-w0.3", "fb-s0.0" for a slow lane.
    pub name: String,
    /// "idle", "writing", "retrying", "paced", or "barred" (the shard is down).
    pub state: String,
    /// Of the last seconds, 0 to 1.
    pub busy: f64,
    /// Of the batch at hand.
    pub topic: Option<String>,
    pub records: u64,
    pub since_ms: Option<u64>,
    pub attempt: Option<u32>,
    pub last: Option<Reason>,
    /// Records queued for it.
    pub queued_records: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopKeys {
    pub shard: String,
    pub topic: String,
    /// The heaviest first, as far as they can be told from the others.
    pub by_count: Vec<TopKey>,
    pub by_time: Vec<TopKey>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopKey {
    pub partition: i32,
    /// As text, cut where it is long; null where only its hash is known.
    pub key: Option<String>,
    /// xxh3 of the key, seed 0, as 16 hexadecimal digits.
    pub hash: String,
    /// Of all records, or of all time, of the topic in the shard's last window; 0 to 1.
    pub share: f64,
}
