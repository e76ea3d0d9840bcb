//! What a scenario came to: figures, and how it went over time.

use serde::Serialize;

use crate::bench::report::table::aligned;
use crate::planner::simulate::Simulated;
use crate::planner::wish::seconds;
use crate::words::{counted, grouped, rate};

/// A moment. Lags are of records that are not durable.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    pub seconds: f64,
    /// Records that came, and that became durable, a second, since the moment before.
    pub came_per_s: f64,
    pub durable_per_s: f64,
    pub message_lag: u64,
    /// Age of the oldest record that is not durable: of the shard where it is oldest, and of the one in the middle.
    pub worst_s: f64,
    pub median_s: f64,
}

/// See the module's text.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub scenario: &'static str,
    pub what: String,
    pub shards: usize,
    pub partitions: usize,
    pub seconds: f64,
    pub records: u64,
    /// Records that a simulated one stands for.
    pub weight: u64,
    /// The busiest shard's, and partition's, part of the records in shares of an even one, while there was trouble.
    pub shard_skew: f64,
    pub partition_skew: f64,
    pub time_lag_worst_s: f64,
    pub time_lag_median_s: f64,
    /// The shard with the worst.
    pub worst_shard: usize,
    pub message_lag_max: u64,
    /// From the end of the trouble until time lag was what it was before; none: it was not when the simulation ended.
    pub calm_after_s: Option<f64>,
    pub batch_records: f64,
    pub transactions_per_s: f64,
    /// Of each shard, on average over time and shards.
    pub connections_at_work: f64,
    /// Records whose partition is not of their shard.
    pub misaligned: u64,
    /// Of each shard and partition, the part of all records, sorted.
    pub shard_shares: Vec<f64>,
    pub partition_shares: Vec<f64>,
    pub samples: Vec<Sample>,
}

/// For people.
pub fn table(simulated: &Simulated, busiest_planned: f64) -> String {
    let heads = [
        "scenario",
        "records",
        "each of",
        "busiest shard",
        "busiest partition",
        "time lag, worst shard",
        "middle shard",
        "waiting at most",
        "calm again after",
        "records a transaction",
        "connections",
    ];
    let row = |of: &Outcome| {
        vec![
            of.scenario.to_owned(),
            grouped(of.records),
            grouped(of.weight),
            format!("× {:.2}", of.shard_skew),
            format!("× {:.2}", of.partition_skew),
            seconds(tidy(of.time_lag_worst_s)),
            seconds(tidy(of.time_lag_median_s)),
            grouped(of.message_lag_max),
            calm(of.calm_after_s),
            rate(of.batch_records),
            format!("{:.2}", of.connections_at_work),
        ]
    };
    let mut text = format!(
        "Simulated (seed {}, {}, Zipf's exponent {}; partitions are dealt out by {}, which takes {})\n",
        simulated.seed,
        counted(simulated.tenants, "tenant"),
        simulated.skew,
        simulated.assignor,
        seconds(simulated.rebalance_s)
    );
    text.push_str(&aligned(heads.map(str::to_owned).to_vec(), simulated.scenarios.iter().map(row).collect()));
    for of in &simulated.scenarios {
        text.push_str(&format!(
            "{}: {}; {} shards, {} partitions, {} simulated\n",
            of.scenario,
            of.what,
            of.shards,
            grouped(of.partitions as u64),
            seconds(of.seconds.round())
        ));
    }
    let peak = simulated.scenarios.iter().find(|of| of.scenario == "peak");
    if let Some(skew) = peak.map(|of| of.shard_skew).filter(|skew| *skew > busiest_planned * 1.02) {
        text.push_str(&format!(
            "these tenants give the busiest shard {skew:.2} of an even part, and the plan reckons with {busiest_planned}: --busiest-shard {:.1}, or \
             place the largest tenants by hand ([shards] by = \"map\")\n",
            (skew * 10.0).ceil() / 10.0
        ));
    }
    let misaligned: u64 = simulated.scenarios.iter().map(|of| of.misaligned).sum();
    text.push_str(&format!("{} misaligned\n", counted(misaligned, "record")));
    if simulated.cut_short {
        text.push_str("CUT SHORT: it was ended early\n");
    }
    text
}

fn calm(after_s: Option<f64>) -> String {
    match after_s {
        None => "not by the end".to_owned(),
        Some(s) if s < 1.0 => "at once".to_owned(),
        Some(s) => seconds(tidy(s)),
    }
}

/// No more digits than a simulation has.
fn tidy(s: f64) -> f64 {
    match s {
        s if s >= 10.0 => s.round(),
        s if s >= 1.0 => (s * 10.0).round() / 10.0,
        s => (s * 1000.0).round() / 1000.0,
    }
}
