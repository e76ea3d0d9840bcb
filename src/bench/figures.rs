//! What was measured, in the form of the JSON report. Fields are only ever added within one [`VERSION`]; what was not measured is null
//! or not there, never 0.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::bench::latency::{CURVE, Skew};
use crate::bench::machine::Machine;
use crate::bench::options::{Mode, Options};
use crate::bench::protocol::{End, Quantiles, Sample, Spread};
use crate::config::{Affinity, Config, Delivery};
use crate::cpus::CpuSet;

/// Of the form of what follows.
pub const VERSION: u32 = 1;

/// Everything. Times are as their names say; bytes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: u32,
    pub forebay: String,
    /// In the names of everything that it made.
    pub id: String,
    /// RFC 3339.
    pub started_at: String,
    /// Somebody ended it early, or something failed: later figures are missing, and the last round's may be of a part.
    pub cut_short: bool,
    pub machine: Machine,
    pub kafka: Kafka,
    pub postgresql: Vec<Server>,
    pub settings: Settings,
    pub workload: Workload,
    pub cases: Vec<Case>,
    /// What was lost, repeated, or not as it should be. Nothing: every round that went to its end was compared.
    pub wrong: Vec<String>,
}

/// Brokers do not tell their version.
#[derive(Debug, Clone, Serialize)]
pub struct Kafka {
    pub librdkafka: String,
    pub brokers: usize,
    pub partitions: i32,
}

#[derive(Debug, Clone, Serialize)]
pub struct Server {
    pub shard: String,
    pub version: String,
    pub settings: BTreeMap<String, String>,
    /// By which latencies of rows are corrected, and to within what.
    pub clock_ahead_us: i64,
    pub clock_within_us: u64,
}

/// Of the engine: what a figure depends on first.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub shards: usize,
    pub workers_per_shard: usize,
    pub slow_lanes_per_shard: usize,
    pub lanes: u16,
    pub batch_records_max: usize,
    pub batch_bytes_max: usize,
    pub delivery: &'static str,
    pub affinity: &'static str,
    /// As lists of CPUs: the workers' in turn, the poller's, librdkafka's, the others'.
    pub cores: Vec<String>,
    pub poller_core: Option<String>,
    pub kafka_cores: Option<String>,
    pub other_cores: Option<String>,
    pub commit_interval_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Workload {
    pub seed: u64,
    pub records: u64,
    pub keys: u64,
    pub tenants: u64,
    /// Zipf's exponent; 0: all keys alike.
    pub skew: f64,
    pub upsert_percent: u8,
    pub partial_percent: u8,
    pub delete_percent: u8,
    /// The mean of the values.
    pub value_bytes: f64,
    pub rate: u64,
    pub seconds: u64,
    pub linger_ms: u64,
}

/// One thing that was measured, some times.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    pub mode: &'static str,
    /// Which of the mode's; empty where it has one.
    pub case: String,
    pub rounds: Vec<Round>,
    /// Of every number of the rounds that were not cut short: its median, its least and its most.
    pub medians: Value,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// Somebody ended it, or it made no progress any more.
    pub cut_short: bool,
    /// The tables were compared with what was published, and hold it.
    pub verified: bool,
    /// Of the machine in the last minute before it.
    pub load_before: Option<f64>,
    pub records: u64,
    /// From the first record fetched (or the first one due) until the last one was durable.
    pub seconds: f64,
    pub rows_per_s: f64,
    pub cpu_us_per_row: f64,
    pub memory_peak_bytes: u64,
    /// Transactions that wrote records.
    pub batches: u64,
    pub batch_records: Option<Spread>,
    /// From the time at which records should have been sent, all of them:
    /// until their rows were written, by the database's clock, before COMMIT;
    pub written_ms: Option<Quantiles>,
    /// until the COMMIT was answered, by the engine's;
    pub durable_ms: Option<Quantiles>,
    /// until the brokers had acknowledged them;
    pub acknowledged_ms: Option<Quantiles>,
    /// until the publisher handed them to librdkafka.
    pub late_ms: Option<Quantiles>,
    /// From stage to stage, as `/status` has them.
    pub stages_ms: BTreeMap<String, Spread>,
    pub outcomes: BTreeMap<String, u64>,
    pub retries: u64,
    pub rewinds: u64,
    /// Age of the oldest record that was not durable, at its worst; of records that waited in a topic before anybody read it: none.
    pub time_lag_max_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// Latency of rows, as `written_ms`, at these shares of the records.
    pub curve: Vec<CurvePoint>,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Ramp {
    /// The highest rate at which time lag stayed where it was.
    pub borne_per_s: Option<u64>,
    /// The one at which it grew; none: it was ended before.
    pub broken_per_s: Option<u64>,
    /// It was the publisher that could not go on.
    pub publisher_was_the_limit: bool,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Step {
    pub rate_per_s: u64,
    pub seconds: f64,
    pub borne: bool,
    pub time_lag_max_ms: u64,
    pub written_ms: Option<Quantiles>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Burst {
    pub base_per_s: u64,
    pub burst_per_s: u64,
    pub burst_seconds: f64,
    /// Time lag before the burst, at its worst.
    pub normal_ms: u64,
    pub behind_records_max: u64,
    pub time_lag_max_ms: u64,
    /// From the burst's end until time lag was, and stayed, normal; none: it never was.
    pub recovery_seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct CurvePoint {
    pub share: f64,
    pub ms: f64,
}

/// A moment of a round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Since the round's begin.
    pub seconds: f64,
    /// Since the moment before.
    pub rows_per_s: f64,
    pub time_lag_ms: Option<u64>,
    /// Published, and not durable.
    pub message_lag: u64,
    pub resident_bytes: u64,
}

impl Round {
    /// What every round has. `published`: how many records there were at each of the samples.
    pub fn new(end: &End, samples: &[Sample], published: &[u64]) -> Round {
        let per_row = |figure: f64| figure / end.records.max(1) as f64;
        Round {
            records: end.records,
            seconds: end.seconds,
            rows_per_s: if end.seconds > 0.0 { end.records as f64 / end.seconds } else { 0.0 },
            cpu_us_per_row: per_row(end.cpu_us as f64),
            memory_peak_bytes: end.peak_bytes,
            batches: end.batches,
            batch_records: (end.batches > 0).then_some(end.batch),
            stages_ms: end.stages_ms.clone(),
            outcomes: end.outcomes.clone(),
            retries: end.retries,
            rewinds: end.rewinds,
            time_lag_max_ms: samples.iter().map(|sample| sample.time_lag_ms).max(),
            points: points(samples, published),
            ..Round::default()
        }
    }

    /// Of records that waited in a topic: how long says nothing of whoever reads it.
    pub fn without_ages(mut self) -> Round {
        self.time_lag_max_ms = None;
        self.points.iter_mut().for_each(|point| point.time_lag_ms = None);
        self.stages_ms.remove("fetched");
        self
    }

    pub fn with_curve(mut self, curve: &[f64]) -> Round {
        self.curve = CURVE.iter().zip(curve).map(|(share, ms)| CurvePoint { share: *share, ms: *ms }).collect();
        self
    }
}

/// From the last look on at which nothing had come yet.
fn points(samples: &[Sample], published: &[u64]) -> Vec<Point> {
    let idle = samples.iter().take_while(|sample| sample.fetched == 0).count().saturating_sub(1);
    let (samples, published) = (&samples[idle..], &published[idle.min(published.len())..]);
    let Some(first) = samples.first() else { return Vec::new() };
    let since = |at: u64| at.saturating_sub(first.at_us) as f64 / 1e6;
    let pairs = samples.windows(2).zip(published.iter().skip(1));
    let point = |(pair, published): (&[Sample], &u64)| {
        let (before, now) = (pair[0], pair[1]);
        let seconds = (since(now.at_us) - since(before.at_us)).max(1e-3);
        Point {
            seconds: since(now.at_us),
            rows_per_s: now.durable.saturating_sub(before.durable) as f64 / seconds,
            time_lag_ms: Some(now.time_lag_ms),
            message_lag: published.saturating_sub(now.durable),
            resident_bytes: now.resident_bytes,
        }
    };
    pairs.map(point).collect()
}

impl Case {
    pub fn new(mode: Mode, case: impl Into<String>) -> Case {
        Case { mode: mode.word(), case: case.into(), rounds: Vec::new(), medians: Value::Null }
    }

    /// The mode, and which of its cases.
    pub fn name(&self) -> String {
        if self.case.is_empty() { self.mode.to_owned() } else { format!("{}, {}", self.mode, self.case) }
    }

    pub fn push(&mut self, round: Round) {
        self.rounds.push(round);
        // Figures of records that were lost or repeated are no figures.
        let whole = self.rounds.iter().filter(|round| round.verified && !round.cut_short);
        let values: Vec<Value> = whole.filter_map(|round| serde_json::to_value(round).ok()).collect();
        self.medians = medians(&values.iter().collect::<Vec<_>>()).unwrap_or(Value::Null);
    }
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        let engine = &config.engine;
        Settings {
            shards: config.shards.len(),
            workers_per_shard: engine.workers_per_shard,
            slow_lanes_per_shard: engine.slow_lanes_per_shard,
            lanes: engine.lanes,
            batch_records_max: engine.batch_records_max,
            batch_bytes_max: engine.batch_bytes_max,
            delivery: match engine.delivery {
                Delivery::ExactlyOnce => "exactly_once",
                Delivery::AtLeastOnce => "at_least_once",
            },
            affinity: match engine.affinity {
                Affinity::Late => "late",
                Affinity::Static => "static",
            },
            cores: engine.cores.iter().map(CpuSet::to_string).collect(),
            poller_core: engine.poller_core.as_ref().map(CpuSet::to_string),
            kafka_cores: engine.kafka_cores.as_ref().map(CpuSet::to_string),
            other_cores: engine.other_cores.as_ref().map(CpuSet::to_string),
            commit_interval_ms: engine.commit_interval.as_millis() as u64,
        }
    }
}

impl Workload {
    /// `value_bytes`: on average.
    pub fn of(options: &Options, value_bytes: f64) -> Workload {
        let job = &options.workload;
        Workload {
            seed: job.seed,
            records: options.records,
            keys: job.keys,
            tenants: job.tenants,
            skew: job.skew.as_ref().map_or(0.0, |zipf| zipf.exponent),
            upsert_percent: 100 - job.mix.partial - job.mix.delete,
            partial_percent: job.mix.partial,
            delete_percent: job.mix.delete,
            value_bytes,
            rate: options.rate,
            seconds: options.period.as_secs(),
            linger_ms: options.linger.as_millis() as u64,
        }
    }
}

impl Server {
    pub fn new(shard: &str, version: &str, settings: &BTreeMap<String, String>, skew: Skew) -> Server {
        let (shard, version, settings) = (shard.to_owned(), version.to_owned(), settings.clone());
        Server { shard, version, settings, clock_ahead_us: skew.ahead_us, clock_within_us: skew.within_us }
    }
}

/// The one in the middle, or what lies between the two that are; sorts them. Of none it is not a number.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

/// Of values of one form: wherever all have a number, its median, least and most. Lists are left out.
fn medians(values: &[&Value]) -> Option<Value> {
    match values.first()? {
        Value::Object(first) => {
            let of = |key: &String| {
                let all: Option<Vec<&Value>> = values.iter().map(|value| value.get(key)).collect();
                Some((key.clone(), medians(&all?)?))
            };
            let found: Map<String, Value> = first.keys().filter_map(of).collect();
            (!found.is_empty()).then_some(Value::Object(found))
        }
        Value::Number(_) => {
            let numbers: Option<Vec<f64>> = values.iter().map(|value| value.as_f64()).collect();
            let mut numbers = numbers?;
            let median = median(&mut numbers);
            Some(serde_json::json!({ "median": median, "least": numbers[0], "most": numbers[numbers.len() - 1] }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_are_of_the_numbers_that_every_round_has() {
        let rounds = [
            json!({"a": 3, "b": {"c": 1.5}, "d": null, "e": [1], "f": true}),
            json!({"a": 1, "b": {"c": 2.5}, "d": 7}),
            json!({"a": 2}),
        ];
        let of = |count: usize| medians(&rounds[..count].iter().collect::<Vec<_>>());
        assert_eq!(of(3), Some(json!({"a": {"median": 2.0, "least": 1.0, "most": 3.0}})));
        let two = json!({"a": {"median": 2.0, "least": 1.0, "most": 3.0}, "b": {"c": {"median": 2.0, "least": 1.5, "most": 2.5}}});
        assert_eq!(of(2), Some(two));
        assert_eq!(of(0), None);
    }

    #[test]
    fn a_round_that_was_cut_short_is_in_no_median() {
        let mut case = Case::new(Mode::Steady, "");
        let round = |records, cut_short, verified| Round { records, cut_short, verified, ..Round::default() };
        case.push(round(7, true, true));
        assert_eq!(case.medians, Value::Null);
        case.push(round(9, false, false));
        assert_eq!(case.medians, Value::Null, "what was lost or repeated");
        case.push(round(5, false, true));
        assert_eq!(case.medians["records"]["median"], 5.0);
    }

    #[test]
    fn points_say_what_happened_since_the_one_before() {
        let sample = |at_us, durable| Sample { at_us, fetched: durable, durable, ..Sample::default() };
        let samples = [sample(300_000, 0), sample(1_000_000, 0), sample(1_500_000, 100), sample(2_000_000, 400)];
        let found = points(&samples, &[0, 50, 300, 500]);
        let found: Vec<_> = found.iter().map(|p| (p.seconds, p.rows_per_s, p.message_lag)).collect();
        assert_eq!(found, [(0.5, 200.0, 200), (1.0, 600.0, 100)]);
    }
}
