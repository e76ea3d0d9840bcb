//! Puts [`Status`] together from what an engine lets be seen. It keeps a few seconds of what was counted, for rates, and asks nobody.

mod look;
mod partition;
mod shard;
mod topic;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::admin::diagnosis;
use crate::admin::process::{self, Usage};
use crate::admin::status::{self, Partition, Ready, Shard, Status, Topic, TopicState, Totals};
use crate::engine::Observer;
use crate::engine::observed::Doing;
use crate::metrics::labelled::{OfShard, OfWriter};
use crate::types::{ShardIx, TopicIx};

use look::{Look, Rates};
use words::millis;

/// Over how long rates are taken.
const RATE_OVER: Duration = Duration::from_secs(5);
/// How often what was counted is kept for them.
pub const KEEP_EVERY: Duration = Duration::from_secs(1);
/// A poller that has not turned for so long hangs: its longest waits are for brokers, and each of them is bounded.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// One that has not for so long is not ready for anything new.
const SLOW_AFTER: Duration = Duration::from_millis(diagnosis::HANGS_MS);

/// See the module's text.
pub struct Collector {
    observer: Observer,
    group: String,
    host: String,
    started_at_ms: i64,
    log_level: Box<dyn Fn() -> String + Send + Sync>,
    kept: Mutex<VecDeque<Kept>>,
}

/// What was counted at a time.
struct Kept {
    at: Duration,
    fetched: u64,
    durable: u64,
    /// By shard and writer.
    busy_us: Vec<Vec<u64>>,
}

impl Collector {
    /// `log_level` says which directives are in force.
    pub fn new(observer: Observer, log_level: Box<dyn Fn() -> String + Send + Sync>) -> Collector {
        let group = observer.config().kafka.group_id.clone();
        // The engine's clock began with the process.
        let started_at_ms = observer.wall_ms() - observer.now().as_millis() as i64;
        let collector =
            Collector { observer, group, host: process::host(), started_at_ms, log_level, kept: Mutex::default() };
        collector.keep();
        collector
    }

    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Notes what is counted now. To be called about once per [`KEEP_EVERY`].
    pub fn keep(&self) {
        let now = self.counted();
        let mut kept = self.kept.lock();
        while kept.get(1).is_some_and(|second| now.at.saturating_sub(second.at) >= RATE_OVER) {
            kept.pop_front();
        }
        kept.push_back(now);
    }

    fn counted(&self) -> Kept {
        let (counters, metrics) = (self.observer.counters(), self.observer.metrics());
        let now = self.observer.now();
        let busy = |(shard, of): (usize, &Arc<OfShard>)| {
            let writer = |(index, writer): (usize, &OfWriter)| {
                // A try under way counts, too: it may take as long as everything before it.
                let task = self.observer.task(ShardIx(shard as u16), index as u16);
                let trying =
                    if task.doing == Doing::Writing { now.saturating_sub(task.tried_at) } else { Duration::ZERO };
                writer.busy_us.get() + trying.as_micros() as u64
            };
            of.writers.iter().enumerate().map(writer).collect()
        };
        Kept {
            at: now,
            fetched: counters.fetched.get(),
            durable: counters.durable.get(),
            busy_us: metrics.shards.iter().enumerate().map(busy).collect(),
        }
    }

    fn rates(&self) -> Rates {
        let now = self.counted();
        let kept = self.kept.lock();
        let before = kept.front().filter(|kept| kept.at < now.at);
        let Some(before) = before else {
            let busy = now.busy_us.iter().map(|writers| vec![0.0; writers.len()]).collect();
            return Rates { fetched: 0.0, durable: 0.0, busy };
        };
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let busy = |(now, before): (&Vec<u64>, &Vec<u64>)| -> Vec<f64> {
            let share = |(now, before): (&u64, &u64)| (rate(*now, *before) / 1e6).min(1.0);
            now.iter().zip(before).map(share).collect()
        };
        Rates {
            fetched: rate(now.fetched, before.fetched),
            durable: rate(now.durable, before.durable),
            busy: now.busy_us.iter().zip(&before.busy_us).map(busy).collect(),
        }
    }

    fn look(&self) -> Look<'_> {
        Look::new(&self.observer, self.rates())
    }

    /// Everything.
    pub fn status(&self) -> Status {
        let look = self.look();
        let shards = look.shards();
        let partitions: Vec<Partition> = look.view.partitions.iter().map(|p| look.partition(p)).collect();
        let topics = look.topics(&partitions);
        let usage = Usage::now();
        let mut status = Status {
            version: status::VERSION,
            process: status::Process {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                librdkafka: rdkafka::util::get_rdkafka_version().1,
                pid: std::process::id(),
                host: self.host.clone(),
                group: self.group.clone(),
                started_at_ms: self.started_at_ms,
                now_ms: look.now_ms,
                poll_age_ms: look.poll_age().map_or(0, millis),
                leaving: look.view.leaving,
                log_level: (self.log_level)(),
                memory_bytes: usage.resident_bytes,
                cpu_ms: usage.cpu_seconds.map(|seconds| (seconds * 1000.0) as u64),
            },
            ready: readiness(&look, &shards, &topics),
            findings: Vec::new(),
            totals: self.totals(&look, &partitions, &shards),
            top_keys: look.top_keys(),
            topics,
            partitions,
            shards,
        };
        status.findings = diagnosis::findings(&status);
        status
    }

    /// Why this process is not alive, if it is not: then only a restart helps.
    pub fn ailing(&self) -> Option<String> {
        let age = self.observer.now().saturating_sub(self.observer.last_turn());
        let hangs = self.observer.running().is_some() && age > HANGS_AFTER;
        hangs.then(|| format!("the poller has not turned for {} s", age.as_secs()))
    }

    fn totals(&self, look: &Look<'_>, partitions: &[Partition], shards: &[Shard]) -> Totals {
        let counters = self.observer.counters();
        let lags: Vec<u64> = partitions.iter().filter_map(|p| p.message_lag).collect();
        Totals {
            message_lag: (!lags.is_empty()).then(|| lags.iter().sum()),
            time_lag_ms: partitions.iter().map(|p| p.time_lag_ms).max().unwrap_or_default(),
            unparked_lag_ms: partitions.iter().map(|p| p.unparked_lag_ms).max().unwrap_or_default(),
            in_flight_records: partitions.iter().map(|p| p.in_flight_records).sum(),
            in_flight_bytes: partitions.iter().map(|p| p.in_flight_bytes).sum(),
            fetched_per_s: look.rates.fetched,
            durable_per_s: look.rates.durable,
            fetched: counters.fetched.get(),
            durable: counters.durable.get(),
            parked_keys: shards.iter().map(|shard| shard.parked_keys).sum(),
            parked_records: shards.iter().map(|shard| shard.parked_records).sum(),
            dead_letters: counters.dead_lettered.get(),
            rewinds: counters.rewinds.get(),
            rebalances: counters.rebalances.get(),
        }
    }

    /// Keys and records that are parked, by topic and shard.
    pub fn parked(&self) -> BTreeMap<(TopicIx, ShardIx), (u64, u64)> {
        let mut found = BTreeMap::new();
        for (shard, parked) in self.observer.running().iter().flat_map(|running| running.parked.iter().enumerate()) {
            for (at, (keys, rows)) in parked.sizes() {
                let of: &mut (u64, u64) = found.entry((at.topic, ShardIx(shard as u16))).or_default();
                *of = (of.0 + keys as u64, of.1 + rows);
            }
        }
        found
    }
}

fn readiness(look: &Look<'_>, shards: &[Shard], topics: &[Topic]) -> Ready {
    let mut reasons = Vec::new();
    match look.poll_age() {
        None => reasons.push("the engine does not run".to_owned()),
        Some(age) if age > SLOW_AFTER => {
            reasons.push(format!("the poller has not turned for {} s", age.as_secs()));
        }
        Some(_) if look.view.leaving => reasons.push("it was told to end, and drains".to_owned()),
        Some(_) if !look.view.assigned => reasons.push("the group has not assigned anything yet".to_owned()),
        Some(_) => {}
    }
    let away = shards.iter().filter(|shard| matches!(shard.state.as_str(), "down" | "refused"));
    for shard in away {
        let why = shard.reason.as_ref().map_or("no answer", |reason| &reason.text);
        reasons.push(format!("shard {} is {} since {} s: {why}", shard.name, shard.state, shard.since_ms / 1000));
    }
    let ready = reasons.is_empty();
    // Whoever looks is not needed for the work: it opens no breaker, and takes nobody's readiness.
    reasons.extend(shards.iter().filter_map(|shard| unsampled(look.now_ms, shard)));
    for topic in topics.iter().filter(|topic| topic.state == TopicState::Stopped) {
        let why = topic.reason.as_ref().map_or("", |reason| &reason.text);
        reasons.push(format!("topic {} stopped: {why}", topic.name));
    }
    for topic in topics.iter().filter(|topic| topic.state == TopicState::Paused) {
        reasons.push(format!("topic {} is paused", topic.name));
    }
    Ready { ready, reasons }
}

/// A shard that seems to be there, because nobody had anything to write to it.
fn unsampled(now_ms: i64, shard: &Shard) -> Option<String> {
    let since_ms = diagnosis::unsampled_ms(now_ms, shard).filter(|_| shard.state == "up")?;
    Some(format!("shard {} has not answered its sampler for {} s", shard.name, since_ms / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::samples::bad_night;

    /// Once an idle shard behind a network that swallows everything was "up", and nothing else.
    #[test]
    fn a_shard_that_does_not_answer_its_sampler_is_told() {
        let status = bad_night();
        let (now, mut shard) = (status.process.now_ms, status.shards[1].clone());
        let sampled_at = shard.contention.as_ref().expect("sampled").sampled_at_ms;
        assert_eq!(unsampled(now, &shard), None);
        let expected = "shard b has not answered its sampler for 40 s";
        assert_eq!(unsampled(sampled_at + 40_000, &shard).as_deref(), Some(expected));
        shard.state = "down".to_owned();
        assert_eq!(unsampled(sampled_at + 40_000, &shard), None, "that is said elsewhere");
    }
}
