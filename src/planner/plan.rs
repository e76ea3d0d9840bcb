//! What comes out: the plan, the arithmetic that led to it, or why there is none and what there could be.

use serde::Serialize;

/// See the module's text. Rates are records a second of all topics together; bytes are bytes, times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub shards: usize,
    /// Those that may fail are among them.
    pub processes: usize,
    pub spare_processes: usize,
    pub workers_per_shard: usize,
    pub slow_lanes_per_shard: usize,
    pub lanes: usize,
    pub batch_records_max: usize,
    pub partitions_per_shard: usize,
    pub partitions: usize,
    pub partition_bytes_max: u64,
    /// Of one process to one shard; of all of them to it; and how many there are for them.
    pub connections_per_process: usize,
    pub connections_per_shard: usize,
    pub connections_room: i64,
    /// Of one database, with the processes that are left when others fail, however partitions are dealt out among them.
    pub shard_rows_per_s: f64,
    /// Of all of them, as far as the busiest one bears its part and these processes take it in.
    pub capacity_per_s: f64,
    pub at_mean: Traffic,
    pub at_peak: Traffic,
    /// At the end of a peak, of the busiest shard.
    pub time_lag_s: f64,
    /// After the outage, beside the mean rate.
    pub catch_up_s: f64,
    pub retention_s: f64,
    /// So long a log segment is filled: it is kept for as long again as its last record.
    pub segment_s: f64,
    /// On the brokers' disks, all copies.
    pub kafka_bytes: f64,
    pub replication: u64,
    pub min_insync_replicas: u64,
    pub process_memory_bytes: u64,
    /// The first one is what breaks first.
    pub breaks: Vec<Break>,
}

/// What the busiest shard does at a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Traffic {
    pub shard_per_s: f64,
    /// It is more than the database takes: the batches are full, and records wait.
    pub waits: bool,
    pub connections_at_work: usize,
    pub batch_records: f64,
    pub transactions_per_s: f64,
    pub transaction_s: f64,
}

impl Traffic {
    /// From when a record is there until it is durable: it waits for the transaction that is under way, on average half of it, and
    /// is in the next one.
    pub fn durable_s(&self) -> f64 {
        1.5 * self.transaction_s
    }

    pub fn durable_worst_s(&self) -> f64 {
        2.0 * self.transaction_s
    }
}

/// Something that gives way, and at which rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Break {
    pub what: String,
    pub at_per_s: f64,
}

/// A line of arithmetic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub of: &'static str,
    pub text: String,
}

/// Why it cannot be, and what can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub why: String,
    pub nearest: Vec<String>,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Decision {
    /// None where something is refused.
    pub plan: Option<Plan>,
    pub steps: Vec<Step>,
    pub refusals: Vec<Refusal>,
    pub warnings: Vec<String>,
}
