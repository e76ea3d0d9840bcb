//! `/metrics`: what was counted and what is, as Prometheus' text format has it. Names, kinds and help come from
//! [`Name`]; labels are names of topics, shards and threads, numbers, and words from closed lists, never anything of a record.

use std::collections::BTreeMap;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as ProtoHistogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::admin::collect::Collector;
use crate::admin::process::Usage;
use crate::admin::status::{Partition, Shard, Status, TopicState};
use crate::metrics::histogram::Histogram;
use crate::metrics::labelled::{Cause, Outcome, Stage};
use crate::metrics::name::{Kind, Name};
use crate::state::verdict;
use crate::types::{ShardIx, TopicIx};

/// Bounds of buckets are powers of two, of seconds and of records: native histograms of any resolution have these bounds, too, so that
/// a change to those loses nothing. From 0.24 ms to an hour and eight minutes.
const SECONDS_FROM: i32 = -12;
const SECONDS_TO: i32 = 12;
/// Up to 65,536 records.
const RECORDS_TO: u32 = 16;

/// Metrics by family.
#[derive(Default)]
pub struct Families(BTreeMap<Name, Vec<Metric>>);

impl Families {
    pub fn add(&mut self, name: Name, labels: &[&str], value: impl Into<f64>) {
        let mut metric = labelled(name, labels);
        match name.family().kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value.into());
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value.into());
                metric.set_gauge(gauge);
            }
            Kind::Histogram => unreachable!("{name:?} is filled by `histogram`"),
        }
        self.0.entry(name).or_default().push(metric);
    }

    /// Where it is known.
    pub fn maybe(&mut self, name: Name, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, labels, value);
        }
    }

    /// `unit`: what of the histogram's numbers makes one of the metric's.
    pub fn histogram(&mut self, name: Name, labels: &[&str], of: &Histogram, bounds: &[f64], unit: f64) {
        let whole: Vec<u64> = bounds.iter().map(|bound| (bound * unit) as u64).collect();
        let bucket = |(bound, count): (&f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = ProtoHistogram::default();
        histogram.set_bucket(bounds.iter().zip(of.cumulative(&whole)).map(bucket).collect());
        histogram.set_sample_count(of.count());
        histogram.set_sample_sum(of.sum() as f64 / unit);
        let mut metric = labelled(name, labels);
        metric.set_histogram(histogram);
        self.0.entry(name).or_default().push(metric);
    }

    pub fn text(self) -> String {
        let family = |(name, metrics): (Name, Vec<Metric>)| {
            let family = name.family();
            let mut proto = MetricFamily::default();
            proto.set_name(family.name.to_owned());
            proto.set_help(family.help.to_owned());
            proto.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            proto.set_metric(metrics);
            proto
        };
        let families: Vec<MetricFamily> = self.0.into_iter().map(family).collect();
        let mut text = String::new();
        // It fails on families without metrics or names only, and there are none.
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::warn!("metrics cannot be written: {error}");
        }
        text
    }
}

fn labelled(name: Name, values: &[&str]) -> Metric {
    let labels = name.family().labels;
    debug_assert_eq!(labels.len(), values.len(), "{name:?}");
    let pair = |(label, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*label).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().zip(values).map(pair).collect())
}

/// Of what is logged, in this order.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Lines logged, by level.
pub type LogLines = [(&'static str, u64); 5];

/// Everything, as text. `status` is the collector's; `lines` says what was logged.
pub fn text(collector: &Collector, status: &Status, lines: &LogLines) -> String {
    let mut families = Families::default();
    process(&mut families, status, lines);
    totals(&mut families, collector);
    status.partitions.iter().for_each(|p| partition(&mut families, p));
    if collector.observer().config().admin.lag_exporter_names {
        lag_exporters(&mut families, status);
    }
    topics(&mut families, collector, status);
    by_topic_and_shard(&mut families, collector);
    for (index, shard) in status.shards.iter().enumerate() {
        of_shard(&mut families, collector, ShardIx(index as u16), shard);
    }
    families.text()
}

fn process(families: &mut Families, status: &Status, lines: &LogLines) {
    let of = &status.process;
    families.add(Name::BuildInfo, &[&of.version, &of.librdkafka, &of.group], 1);
    let started = of.started_at_ms as f64 / 1000.0;
    families.add(Name::StartTime, &[], started);
    families.add(Name::ProcessStart, &[], started);
    families.add(Name::Ready, &[], f64::from(status.ready.ready));
    families.add(Name::PollAge, &[], seconds(of.poll_age_ms));
    usage(families, lines);
}

/// Of any process of forebay.
pub fn usage(families: &mut Families, lines: &LogLines) {
    for (level, count) in lines {
        families.add(Name::LogLines, &[level], *count as f64);
    }
    let usage = Usage::now();
    families.maybe(Name::ProcessCpu, &[], usage.cpu_seconds);
    families.maybe(Name::ProcessMemory, &[], usage.resident_bytes.map(|n| n as f64));
    families.maybe(Name::ProcessFds, &[], usage.open_fds.map(|n| n as f64));
    families.maybe(Name::ProcessFdsMax, &[], usage.max_fds.map(|n| n as f64));
    families.maybe(Name::ProcessThreads, &[], usage.threads.map(|n| n as f64));
}

/// The bounds of every histogram of times.
pub fn seconds_bounds() -> Vec<f64> {
    (SECONDS_FROM..=SECONDS_TO).map(|power| 2f64.powi(power)).collect()
}

fn totals(families: &mut Families, collector: &Collector) {
    let counters = collector.observer().counters();
    families.add(Name::LettersForwarded, &[], counters.forwarded.get() as f64);
    families.add(Name::Rebalances, &[], counters.rebalances.get() as f64);
    families.add(Name::RebalanceSeconds, &[], counters.rebalancing_us.get() as f64 / 1e6);
    families.add(Name::Rewinds, &[], counters.rewinds.get() as f64);
    families.add(Name::Pauses, &[], counters.pauses.get() as f64);
    families.add(Name::Commits, &[], counters.commits.get() as f64);
    let held = [
        ("shard_rows", &counters.held_by_shard_rows_us),
        ("topic_rows", &counters.held_by_topic_rows_us),
        ("latency", &counters.held_by_latency_us),
        ("replica", &counters.held_by_replica_us),
    ];
    for (limit, held_us) in held {
        families.add(Name::PaceHeldSeconds, &[limit], held_us.get() as f64 / 1e6);
    }
    families.add(Name::PaceHeldRecords, &[], counters.held_by_tenant_rows.get() as f64);
    let hot = counters.hot_begun.get().saturating_sub(counters.hot_ended.get());
    families.add(Name::HotKeys, &[], hot as f64);
}

fn partition(families: &mut Families, p: &Partition) {
    let number = p.partition.to_string();
    let labels: &[&str] = &[&p.topic, &number];
    families.maybe(Name::Lag, labels, p.message_lag.map(|lag| lag as f64));
    families.add(Name::TimeLag, labels, seconds(p.time_lag_ms));
    families.add(Name::UnparkedLag, labels, seconds(p.unparked_lag_ms));
    families.add(Name::ParkedAge, labels, seconds(p.parked_age_ms.unwrap_or(0)));
    families.add(Name::InFlightRecords, labels, p.in_flight_records as f64);
    families.add(Name::InFlightBytes, labels, p.in_flight_bytes as f64);
    let offsets = [("fetched", p.fetched), ("durable", p.durable), ("committed", p.committed), ("end", p.end)];
    for (kind, offset) in offsets {
        families.maybe(Name::Offset, &[&p.topic, &number, kind], offset.map(|offset| offset as f64));
    }
}

fn lag_exporters(families: &mut Families, status: &Status) {
    let group = status.process.group.as_str();
    for p in &status.partitions {
        let number = p.partition.to_string();
        let labels: &[&str] = &[group, &p.topic, &number];
        families.maybe(Name::GroupLag, labels, p.message_lag.map(|lag| lag as f64));
        families.add(Name::GroupLagSeconds, labels, seconds(p.time_lag_ms));
        families.maybe(Name::GroupOffset, labels, p.committed.map(|offset| offset as f64));
        families.maybe(Name::LatestOffset, &labels[1..], p.end.map(|offset| offset as f64));
    }
    let most = status.partitions.iter().filter_map(|p| p.message_lag).max();
    families.maybe(Name::GroupMaxLag, &[group], most.map(|lag| lag as f64));
    families.add(Name::GroupMaxLagSeconds, &[group], seconds(status.totals.time_lag_ms));
}

fn topics(families: &mut Families, collector: &Collector, status: &Status) {
    let bounds = seconds_bounds();
    for (index, topic) in status.topics.iter().enumerate() {
        let name = topic.name.as_str();
        let assigned = status.partitions.iter().filter(|p| p.topic == name).count();
        families.add(Name::AssignedPartitions, &[name], assigned as f64);
        families.add(Name::TopicStopped, &[name], f64::from(topic.state == TopicState::Stopped));
        families.add(Name::TopicPaused, &[name], f64::from(topic.state == TopicState::Paused));
        let of_topic = collector.observer().metrics().topic(TopicIx(index as u16));
        families.add(Name::RecordsFetched, &[name], of_topic.fetched.get() as f64);
        families.add(Name::RecordsMisaligned, &[name], of_topic.misaligned.get() as f64);
        let times = of_topic.times.lock().clone();
        for stage in Stage::ALL {
            families.histogram(Name::StageSeconds, &[name, stage.label()], times.stage(*stage), &bounds, 1e6);
        }
        families.histogram(Name::DurableSeconds, &[name], &times.durable, &bounds, 1e6);
    }
}

fn by_topic_and_shard(families: &mut Families, collector: &Collector) {
    let bounds: Vec<f64> = (0..=RECORDS_TO).map(|power| f64::from(1 << power)).collect();
    let (config, parked) = (collector.observer().config(), collector.parked());
    for (s, shard) in config.shards.iter().enumerate() {
        for (t, topic) in config.topics.iter().enumerate() {
            let (shard_ix, topic_ix) = (ShardIx(s as u16), TopicIx(t as u16));
            let labels: &[&str] = &[&topic.name, &shard.name];
            let of = collector.observer().metrics().shard(shard_ix).topic(topic_ix);
            for outcome in Outcome::ALL {
                let labels = &[labels[0], labels[1], outcome.label()];
                families.add(Name::Records, labels, of.outcome(*outcome).get() as f64);
            }
            for cause in Cause::ALL {
                families.add(Name::Retries, &[labels[0], labels[1], cause.label()], of.retried(*cause).get() as f64);
            }
            families.add(Name::RecordsUnparked, labels, of.unparked.get() as f64);
            families.add(Name::Bisections, labels, of.bisections.get() as f64);
            families.histogram(Name::BatchRecords, labels, &of.batch_records.lock().clone(), &bounds, 1.0);
            let (keys, records) = parked.get(&(topic_ix, shard_ix)).copied().unwrap_or_default();
            families.add(Name::ParkedKeys, labels, keys as f64);
            families.add(Name::ParkedRecords, labels, records as f64);
        }
    }
}

fn of_shard(families: &mut Families, collector: &Collector, index: ShardIx, shard: &Shard) {
    let name = shard.name.as_str();
    let of = collector.observer().metrics().shard(index);
    let is_known = shard.state != "unknown";
    families.maybe(Name::ShardUp, &[name], is_known.then(|| f64::from(shard.state == "up")));
    families.add(Name::BreakerOpened, &[name], of.breaker_opened.get() as f64);
    for (times, worker) in of.writers.iter().zip(&shard.workers) {
        families.add(Name::WorkerBusy, &[name, &worker.name], times.busy_us.get() as f64 / 1e6);
        families.add(Name::WorkerQueued, &[name, &worker.name], worker.queued_records as f64);
    }
    let connections = &shard.connections;
    let kinds = [
        ("needed", Some(connections.needed)),
        ("open", connections.open),
        ("server_max", connections.server_max),
        ("server_used", connections.server_used),
    ];
    for (kind, count) in kinds {
        families.maybe(Name::Connections, &[name, kind], count.map(f64::from));
    }
    for kind in verdict::Kind::ALL {
        let holds = shard.verdict.kind == kind.name();
        families.add(Name::ShardVerdict, &[name, kind.name()], f64::from(holds));
    }
    sampled(families, collector, index, name);
}

fn sampled(families: &mut Families, collector: &Collector, index: ShardIx, name: &str) {
    let Some(snapshot) = collector.observer().contention(index) else { return };
    for (kind, event, time) in &snapshot.totals {
        families.add(Name::ShardWait, &[name, kind, event], time.as_secs_f64());
    }
    families.add(Name::ShardBlocked, &[name], snapshot.blocked as f64);
    for table in &snapshot.tables {
        let labels = &[name, table.table.as_str()];
        families.add(Name::TableUpdates, labels, table.updates as f64);
        families.add(Name::TableHotUpdates, labels, table.hot_updates as f64);
        families.add(Name::TableLiveRows, labels, table.live_rows as f64);
        families.add(Name::TableDeadRows, labels, table.dead_rows as f64);
    }
    let Some(wal) = snapshot.wal else { return };
    families.add(Name::WalBytes, &[name], wal.bytes as f64);
    families.maybe(Name::Checkpoints, &[name, "timed"], wal.checkpoints_timed.map(|n| n as f64));
    families.maybe(Name::Checkpoints, &[name, "requested"], wal.checkpoints_requested.map(|n| n as f64));
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
