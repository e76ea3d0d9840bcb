//! Puts [`Status`] together from what an engine lets be seen. It keeps a few seconds of what was counted, for rates, and asks nobody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::admin::process::{self, Usage};
use crate::admin::status::{
    self, Blocker, Connections, Contention, Frontier, Outcomes, Partition, Ready, Shard, StageTimes, Status,
    TableHealth, TopKeys, Topic, TopicState, Totals, Wait, Wal, Worker,
};
use crate::config::{self, Config, Target};
use crate::engine::observed::{Doing, KEY_BYTES_SHOWN, OldestOf, OldestView, PartitionView, Task, View, Whereabouts};
use crate::engine::{Observer, Running};
use crate::metrics::histogram::Histogram;
use crate::metrics::labelled::{OfShard, OfTopicInShard, Outcome, Stage};
use crate::sink::{OldestParked, Reason};
use crate::state::blocking;
use crate::state::contention::Snapshot;
use crate::state::hot_key::TopKey;
use crate::state::pace::{Active, Said};
use crate::state::parked::Why;
use crate::state::verdict::{Ours, Verdict, verdict};
use crate::types::{NextOffset, ShardIx, TopicIx};

/// Over how long rates are taken.
const RATE_OVER: Duration = Duration::from_secs(5);
/// How often what was counted is kept for them.
pub const KEEP_EVERY: Duration = Duration::from_secs(1);
/// A poller that has not turned for so long hangs: its longest waits are for brokers, and each of them is bounded.
const HANGS_AFTER: Duration = Duration::from_secs(30);

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

/// Of the last seconds.
struct Rates {
    fetched: f64,
    durable: f64,
    busy: Vec<Vec<f64>>,
}

/// What one look found, for the parts of the status to share.
struct Look {
    config: Arc<Config>,
    view: Arc<View>,
    running: Option<Running>,
    now: Duration,
    now_ms: i64,
    rates: Rates,
    /// By shard.
    snapshots: Vec<Option<Snapshot>>,
    tasks: Vec<Vec<Task>>,
}

impl Collector {
    /// `log_level` says which directives are in force.
    pub fn new(observer: Observer, log_level: Box<dyn Fn() -> String + Send + Sync>) -> Collector {
        let group = observer.config().kafka.group_id.clone();
        let started_at_ms = observer.wall_ms() - observer.now().as_millis() as i64;
        let collector =
            Collector { observer, group, host: process::host(), started_at_ms, log_level, kept: Mutex::default() };
        collector.keep();
        collector
    }

    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// When the process began, in milliseconds since the Unix epoch.
    pub fn started_at_ms(&self) -> i64 {
        self.started_at_ms
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
        let busy = |shard: &Arc<OfShard>| shard.writers.iter().map(|writer| writer.busy_us.get()).collect();
        Kept {
            at: self.observer.now(),
            fetched: counters.fetched.get(),
            durable: counters.durable.get(),
            busy_us: metrics.shards.iter().map(busy).collect(),
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

    fn look(&self) -> Look {
        let observer = &self.observer;
        let config = observer.config();
        let shards = (0..config.shards.len()).map(|shard| ShardIx(shard as u16));
        let writers = config.engine.writers_per_shard() as u16;
        let tasks = |shard| (0..writers).map(|writer| observer.task(shard, writer)).collect();
        Look {
            view: observer.view(),
            running: observer.running(),
            now: observer.now(),
            now_ms: observer.wall_ms(),
            rates: self.rates(),
            snapshots: shards.clone().map(|shard| observer.contention(shard)).collect(),
            tasks: shards.map(tasks).collect(),
            config,
        }
    }

    /// Everything.
    pub fn status(&self) -> Status {
        let look = self.look();
        let shards: Vec<Shard> = (0..look.config.shards.len()).map(|s| self.shard(&look, ShardIx(s as u16))).collect();
        let partitions: Vec<Partition> = look.view.partitions.iter().map(|p| self.partition(&look, p)).collect();
        let topics: Vec<Topic> =
            (0..look.config.topics.len()).map(|t| self.topic(&look, TopicIx(t as u16), &partitions)).collect();
        let usage = Usage::now();
        Status {
            version: status::VERSION,
            process: status::Process {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                librdkafka: rdkafka::util::get_rdkafka_version().1,
                pid: std::process::id(),
                host: self.host.clone(),
                group: self.group.clone(),
                started_at_ms: self.started_at_ms,
                now_ms: look.now_ms,
                poll_age_ms: self.poll_age(&look).map_or(0, millis),
                leaving: look.view.leaving,
                log_level: (self.log_level)(),
                memory_bytes: usage.resident_bytes,
                cpu_ms: usage.cpu_seconds.map(|seconds| (seconds * 1000.0) as u64),
            },
            ready: self.readiness(&look, &shards, &topics),
            totals: self.totals(&look, &partitions, &shards),
            top_keys: self.top_keys(&look),
            topics,
            partitions,
            shards,
        }
    }

    fn poll_age(&self, look: &Look) -> Option<Duration> {
        look.running.as_ref().map(|_| look.now.saturating_sub(self.observer.last_turn()))
    }

    /// Why this process is not alive, if it is not: then only a restart helps.
    pub fn ailing(&self) -> Option<String> {
        let age = self.observer.now().saturating_sub(self.observer.last_turn());
        let hangs = self.observer.running().is_some() && age > HANGS_AFTER;
        hangs.then(|| format!("the poller has not turned for {} s", age.as_secs()))
    }

    /// As [`status`](Collector::status) has it, alone.
    pub fn ready(&self) -> Ready {
        let look = self.look();
        let shards: Vec<Shard> = (0..look.config.shards.len()).map(|s| self.shard(&look, ShardIx(s as u16))).collect();
        let topics: Vec<Topic> =
            (0..look.config.topics.len()).map(|t| self.topic(&look, TopicIx(t as u16), &[])).collect();
        self.readiness(&look, &shards, &topics)
    }

    fn readiness(&self, look: &Look, shards: &[Shard], topics: &[Topic]) -> Ready {
        let mut reasons = Vec::new();
        match self.poll_age(look) {
            None => reasons.push("the engine does not run".to_owned()),
            Some(age) if age > Duration::from_secs(5) => {
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
        for topic in topics.iter().filter(|topic| topic.state == TopicState::Stopped) {
            let why = topic.reason.as_ref().map_or("", |reason| &reason.text);
            reasons.push(format!("topic {} stopped: {why}", topic.name));
        }
        for topic in topics.iter().filter(|topic| topic.state == TopicState::Paused) {
            reasons.push(format!("topic {} is paused", topic.name));
        }
        Ready { ready, reasons }
    }

    fn totals(&self, look: &Look, partitions: &[Partition], shards: &[Shard]) -> Totals {
        let counters = self.observer.counters();
        let lags: Vec<u64> = partitions.iter().filter_map(|p| p.message_lag).collect();
        Totals {
            message_lag: (!lags.is_empty()).then(|| lags.iter().sum()),
            time_lag_ms: partitions.iter().map(|p| p.time_lag_ms).max().unwrap_or_default(),
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

    fn topic(&self, look: &Look, index: TopicIx, partitions: &[Partition]) -> Topic {
        let config = &look.config.topics[usize::from(index.0)];
        let stopped = look.view.stopped.get(usize::from(index.0)).cloned().flatten();
        let of_topic = || partitions.iter().filter(|p| p.topic == config.name);
        let lags: Vec<u64> = of_topic().filter_map(|p| p.message_lag).collect();
        let state = match &stopped {
            Some(_) => TopicState::Stopped,
            None if self.observer.is_paused(index) => TopicState::Paused,
            None => TopicState::Running,
        };
        Topic {
            name: config.name.clone(),
            table: match &config.target {
                Target::Table(table) => Some(table_name(table)),
                Target::Handler => None,
            },
            state,
            reason: stopped.map(reason),
            message_lag: (!lags.is_empty()).then(|| lags.iter().sum()),
            time_lag_ms: of_topic().map(|p| p.time_lag_ms).max().unwrap_or_default(),
            records: self.outcomes(index),
            stages: self.stages(index),
        }
    }

    fn outcomes(&self, topic: TopicIx) -> Outcomes {
        let of: Vec<&OfTopicInShard> = self.observer.metrics().shards.iter().map(|shard| shard.topic(topic)).collect();
        let sum = |outcome| of.iter().map(|of| of.outcome(outcome).get()).sum();
        Outcomes {
            upserted: sum(Outcome::Upserted),
            deleted: sum(Outcome::Deleted),
            folded: sum(Outcome::Folded),
            skipped: sum(Outcome::Skipped),
            parked: sum(Outcome::Parked),
            dead_lettered: sum(Outcome::DeadLettered),
        }
    }

    fn stages(&self, topic: TopicIx) -> Vec<StageTimes> {
        let times = self.observer.metrics().topic(topic).times.lock().clone();
        let stage = |stage: &str, histogram: &Histogram| {
            let summary = histogram.summary();
            let ms = |us: u64| us as f64 / 1000.0;
            let (p50_ms, p99_ms, max_ms) = (ms(summary.p50), ms(summary.p99), ms(summary.max));
            StageTimes { stage: stage.to_owned(), count: summary.count, p50_ms, p99_ms, max_ms }
        };
        let stages = Stage::ALL.iter().map(|of| stage(of.label(), times.stage(*of)));
        stages.chain([stage("durable", &times.durable)]).filter(|stage| stage.count > 0).collect()
    }

    fn partition(&self, look: &Look, p: &PartitionView) -> Partition {
        let end = self.observer.end(p.at);
        let log_end = end.map(|end| end.end).or((p.end > NextOffset(0)).then_some(p.end));
        let committed = p.committed.or((p.phase == "running").then_some(p.start));
        let message_lag =
            log_end.zip(committed).map(|(end, committed)| end.0.saturating_sub(committed.0).max(0) as u64);
        let (frontier, unparked) = self.frontier(look, p);
        let ages = frontier.iter().chain(&unparked).map(|frontier| frontier.age_ms);
        Partition {
            topic: look.config.topics[usize::from(p.at.topic.0)].name.clone(),
            partition: p.at.partition,
            state: p.phase.to_owned(),
            paused: p.paused,
            committed: p.committed.map(|next| next.0),
            durable: p.durable.0,
            fetched: p.fetched.0,
            end: log_end.map(|end| end.0),
            message_lag,
            time_lag_ms: ages.max().unwrap_or_default(),
            in_flight_records: p.in_flight_records as u64,
            in_flight_bytes: p.in_flight_bytes as u64,
            frontier,
            unparked,
        }
    }

    /// What holds a partition up; and, where that is parked, what does beside it.
    fn frontier(&self, look: &Look, p: &PartitionView) -> (Option<Frontier>, Option<Frontier>) {
        let running = look.running.as_ref();
        let parked = running.into_iter().flat_map(|running| running.parked.iter().enumerate());
        let parked = parked.filter_map(|(shard, parked)| Some((ShardIx(shard as u16), parked.oldest(p.at)?)));
        let parked = parked.min_by_key(|(_, oldest)| oldest.offset);
        let parked = parked.map(|(shard, oldest)| self.parked_frontier(look, p, shard, oldest));
        let unparked = self.unparked(look, p);
        match (parked, unparked) {
            (Some(parked), Some(unparked)) if unparked.offset < parked.offset => (Some(unparked), None),
            (Some(parked), unparked) => (Some(parked), unparked),
            (None, unparked) => (unparked, None),
        }
    }

    fn parked_frontier(&self, look: &Look, p: &PartitionView, shard: ShardIx, oldest: OldestParked) -> Frontier {
        let OldestParked { offset, timestamp_ms, key, why, attempts, last, .. } = oldest;
        let topic = &look.config.topics[usize::from(p.at.topic.0)];
        let table = match &topic.target {
            Target::Table(table) => Some(table.name.as_str()),
            Target::Handler => None,
        };
        // Nobody may wait for the lock at this moment; who held it when somebody did is known.
        let blockers = look.snapshots[usize::from(shard.0)].iter().flat_map(|snapshot| &snapshot.blockers);
        let is_table = |relation: &str| table.is_none_or(|table| relation.rsplit('.').next() == Some(table));
        let of_table = |blocker: &&blocking::Blocker| blocker.relation.as_deref().is_none_or(is_table);
        Frontier {
            offset: offset.0,
            key: key.map(|key| text(&key)),
            age_ms: age_ms(look.now_ms, timestamp_ms),
            place: "parked".to_owned(),
            shard: Some(look.config.shards[usize::from(shard.0)].name.clone()),
            lane: None,
            worker: None,
            attempt: Some(attempts),
            last: last.or_else(|| Some(parked_for(why))).map(reason),
            blocked_by: blockers.filter(of_table).map(|blocker| blocker.session.pid).collect(),
        }
    }

    fn unparked(&self, look: &Look, p: &PartitionView) -> Option<Frontier> {
        let committed = p.committed.unwrap_or(p.start);
        let bare = |offset: i64, age_ms: u64, place: &str| Frontier {
            offset,
            key: None,
            age_ms,
            place: place.to_owned(),
            shard: None,
            lane: None,
            worker: None,
            attempt: None,
            last: None,
            blocked_by: Vec::new(),
        };
        if let Some(timestamp_ms) = p.uncommitted_ms.filter(|_| committed < p.durable) {
            return Some(bare(committed.0, age_ms(look.now_ms, timestamp_ms), "uncommitted"));
        }
        if let Some(oldest) = &p.oldest {
            return Some(self.oldest(look, p, oldest, bare(oldest.offset.0, 0, "waiting")));
        }
        // Nothing that is fetched waits. Since when something has not been fetched is all that is known of its age.
        let end = self.observer.end(p.at).filter(|end| end.end > p.fetched)?;
        let since = end.stuck_since?;
        Some(bare(p.fetched.0, millis(look.now.saturating_sub(since)), "unfetched"))
    }

    fn oldest(&self, look: &Look, p: &PartitionView, oldest: &OldestView, bare: Frontier) -> Frontier {
        let shard = oldest.place.shard;
        let known = Frontier {
            age_ms: age_ms(look.now_ms, oldest.timestamp_ms),
            shard: Some(look.config.shards[usize::from(shard.0)].name.clone()),
            lane: oldest.place.lane,
            ..bare
        };
        let worker = match oldest.at {
            Whereabouts::Waiting => return known,
            Whereabouts::Held => return Frontier { place: "held".to_owned(), ..known },
            Whereabouts::Worker(worker) => worker,
        };
        let name = writer_name(&look.config, shard, worker);
        let blockers = look.snapshots[usize::from(shard.0)].iter().flat_map(|snapshot| &snapshot.blockers);
        let blocked_by: Vec<i32> =
            blockers.filter(|b| b.blocks.contains(&name)).map(|blocker| blocker.session.pid).collect();
        let known = Frontier { place: "queued".to_owned(), worker: Some(name), blocked_by, ..known };
        let task = &look.tasks[usize::from(shard.0)][usize::from(worker)];
        let at_hand = |of: &&OldestOf| of.partition == p.at.partition && of.offset == oldest.offset;
        match task.oldest.iter().find(at_hand).filter(|_| task.doing != Doing::Idle && task.topic == Some(p.at.topic)) {
            None => known,
            Some(of) => Frontier {
                place: "writing".to_owned(),
                key: of.key.as_deref().map(text),
                attempt: Some(task.attempt),
                last: task.last.clone().map(reason),
                ..known
            },
        }
    }

    fn shard(&self, look: &Look, index: ShardIx) -> Shard {
        let at = usize::from(index.0);
        let config = &look.config.shards[at];
        let seen = look.view.shards.get(at);
        let trouble = seen.and_then(|shard| shard.trouble.clone());
        let barred = look.running.as_ref().is_some_and(|running| running.gates[at].is_open());
        let state = match &trouble {
            Some(trouble) if trouble.refused => "refused",
            _ if barred => "down",
            Some(_) => "down",
            None if seen.is_some_and(|shard| shard.reached) => "up",
            None => "unknown",
        };
        let since = trouble.as_ref().map_or(Duration::ZERO, |trouble| trouble.since);
        let pace = self.pace(look, index);
        let snapshot = look.snapshots[at].as_ref();
        let queued: Vec<usize> = seen.map(|shard| shard.queued.clone()).unwrap_or_default();
        let Verdict { kind, text } =
            self.verdict(look, index, state, trouble.as_ref().map(|t| &t.reason), &pace, &queued);
        let sizes = look.running.as_ref().map(|running| running.parked[at].size()).unwrap_or_default();
        Shard {
            name: config.name.clone(),
            state: state.to_owned(),
            since_ms: millis(look.now.saturating_sub(since)),
            reason: trouble.map(|trouble| reason(trouble.reason)),
            verdict: status::Verdict { kind: kind.name().to_owned(), text },
            connections: connections(&look.config, snapshot),
            pace,
            parked_keys: sizes.0 as u64,
            parked_records: sizes.1,
            contention: snapshot.map(contention),
            workers: self.workers(look, index, barred, &queued),
        }
    }

    fn verdict(
        &self,
        look: &Look,
        index: ShardIx,
        state: &str,
        trouble: Option<&Reason>,
        pace: &status::Pace,
        queued: &[usize],
    ) -> Verdict {
        let at = usize::from(index.0);
        let workers = look.config.engine.workers_per_shard;
        let busy = &look.rates.busy[at][..workers.min(look.rates.busy[at].len())];
        let why = trouble.map_or("its breaker is open".to_owned(), ToString::to_string);
        let records_max = look.config.engine.batch_records_max;
        let ours = Ours {
            busy,
            queued: queued.iter().sum::<usize>() > records_max,
            paced: pace.active.first().map(String::as_str),
            down: matches!(state, "down" | "refused").then_some(why.as_str()),
        };
        verdict(look.snapshots[at].as_ref(), &ours)
    }

    fn pace(&self, look: &Look, index: ShardIx) -> status::Pace {
        let status = self.observer.pace(index);
        let topic = |topic: TopicIx| look.config.topics[usize::from(topic.0)].name.as_str();
        let words = |active: &Active| Said::Holds(active.limit).text(&status, topic);
        status::Pace {
            active: status.active.iter().map(words).collect(),
            replica_lag_ms: status.replica_lag.map(millis),
        }
    }

    fn workers(&self, look: &Look, index: ShardIx, barred: bool, queued: &[usize]) -> Vec<Worker> {
        let at = usize::from(index.0);
        let worker = |(writer, task): (usize, &Task)| {
            let idle = task.doing == Doing::Idle;
            let topic = task.topic.filter(|_| !idle);
            Worker {
                name: writer_name(&look.config, index, writer as u16),
                state: if barred && !idle { "barred".to_owned() } else { task.doing.word().to_owned() },
                busy: look.rates.busy[at].get(writer).copied().unwrap_or_default(),
                topic: topic.map(|topic| look.config.topics[usize::from(topic.0)].name.clone()),
                records: if idle { 0 } else { task.records as u64 },
                since_ms: (!idle).then(|| millis(look.now.saturating_sub(task.since))),
                attempt: (!idle).then_some(task.attempt),
                last: task.last.clone().filter(|_| !idle).map(reason),
                queued_records: queued.get(writer).copied().unwrap_or_default() as u64,
            }
        };
        look.tasks[at].iter().enumerate().map(worker).collect()
    }

    fn top_keys(&self, look: &Look) -> Vec<TopKeys> {
        let mut found = Vec::new();
        for (shard, shard_config) in look.config.shards.iter().enumerate() {
            for (topic, topic_config) in look.config.topics.iter().enumerate() {
                let (shard, topic) = (ShardIx(shard as u16), TopicIx(topic as u16));
                let top = self.observer.top_keys(shard, topic);
                let named = |key: &TopKey| status::TopKey {
                    partition: key.partition,
                    key: self.observer.key(shard, topic, key.hash).map(|key| text(&key)),
                    hash: format!("{:016x}", key.hash),
                    share: key.share,
                };
                if !top.by_records.is_empty() || !top.by_time.is_empty() {
                    found.push(TopKeys {
                        shard: shard_config.name.clone(),
                        topic: topic_config.name.clone(),
                        by_count: top.by_records.iter().map(named).collect(),
                        by_time: top.by_time.iter().map(named).collect(),
                    });
                }
            }
        }
        found
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

fn connections(config: &Config, snapshot: Option<&Snapshot>) -> Connections {
    let needed = config.engine.writers_per_shard() + config.connections_besides_writers();
    let known = snapshot.and_then(|snapshot| snapshot.connections);
    Connections {
        needed: needed as u32,
        open: known.and_then(|known| known.open),
        server_max: known.map(|known| known.server_max),
        server_used: known.map(|known| known.server_used),
    }
}

fn contention(snapshot: &Snapshot) -> Contention {
    let wait = |wait: &crate::state::contention::Wait| Wait {
        kind: wait.kind.clone(),
        event: wait.event.clone(),
        share: wait.share,
    };
    let blocker = |blocker: &blocking::Blocker| Blocker {
        pid: blocker.session.pid,
        application: blocker.session.application.clone(),
        user: blocker.session.user.clone(),
        state: blocker.session.state.clone(),
        transaction_age_ms: blocker.session.transaction_age.map(millis),
        query_age_ms: blocker.session.query_age.map(millis),
        command: blocker.session.command.clone(),
        blocks: blocker.blocks.clone(),
        blocked_for_ms: millis(blocker.blocked_for),
        lock: blocker.lock.clone(),
        relation: blocker.relation.clone(),
        ours: blocker.session.ours,
    };
    let table = |table: &crate::state::contention::TableHealth| TableHealth {
        table: table.table.clone(),
        hot_ratio: table.hot_ratio(),
        live_rows: table.live_rows,
        dead_rows: table.dead_rows,
        last_vacuum_at_ms: table.last_vacuum_at_ms,
    };
    Contention {
        sampled_at_ms: snapshot.sampled_at_ms,
        waits: snapshot.waits.iter().map(wait).collect(),
        blockers: snapshot.blockers.iter().map(blocker).collect(),
        tables: snapshot.tables.iter().map(table).collect(),
        wal: snapshot.wal.map(|wal| Wal {
            bytes_per_s: wal.bytes_per_s,
            checkpoints_timed: wal.checkpoints_timed,
            checkpoints_requested: wal.checkpoints_requested,
        }),
        notes: snapshot.notes.clone(),
    }
}

/// Why a key is parked of which no try has said more.
fn parked_for(why: Why) -> Reason {
    let sqlstate = (why == Why::Blocked).then(|| LOCK_NOT_AVAILABLE.to_owned());
    Reason { sqlstate, ..Reason::new(why.to_string()) }
}

/// What a lock that could not be had in time is called.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// As threads and `application_name` say it.
pub fn writer_name(config: &Config, shard: ShardIx, writer: u16) -> String {
    let workers = config.engine.workers_per_shard as u16;
    match writer.checked_sub(workers) {
        None => format!("fb-w{}.{writer}", shard.0),
        Some(lane) => format!("fb-s{}.{lane}", shard.0),
    }
}

fn table_name(table: &config::Table) -> String {
    match &table.schema {
        Some(schema) => format!("{schema}.{}", table.name),
        None => table.name.clone(),
    }
}

fn reason(reason: Reason) -> status::Reason {
    status::Reason { sqlstate: reason.sqlstate, text: reason.text }
}

/// A key for people; what is cut ends with an ellipsis.
fn text(key: &[u8]) -> String {
    match key.split_at_checked(KEY_BYTES_SHOWN) {
        Some((shown, more)) if !more.is_empty() => format!("{}…", String::from_utf8_lossy(shown)),
        _ => String::from_utf8_lossy(key).into_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn age_ms(now_ms: i64, timestamp_ms: i64) -> u64 {
    now_ms.saturating_sub(timestamp_ms).max(0) as u64
}
