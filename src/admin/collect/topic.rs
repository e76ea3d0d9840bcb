//! A topic's part of the status: its state, what became of its records, how long they took, and which keys stand out.

use crate::admin::status::{Outcomes, Partition, StageTimes, TopKey, TopKeys, Topic, TopicState};
use crate::config::{self, Target};
use crate::metrics::histogram::Histogram;
use crate::metrics::labelled::{OfTopicInShard, Outcome, Stage};
use crate::state::hot_key;
use crate::types::{ShardIx, TopicIx};

use super::look::Look;
use super::words::{reason, text};

impl Look<'_> {
    pub(super) fn topic(&self, index: TopicIx, partitions: &[Partition]) -> Topic {
        let config = &self.config.topics[usize::from(index.0)];
        let stopped = self.view.stopped.get(usize::from(index.0)).cloned().flatten();
        let of_topic = || partitions.iter().filter(|p| p.topic == config.name);
        let lags: Vec<u64> = of_topic().filter_map(|p| p.message_lag).collect();
        let state = match &stopped {
            Some(_) => TopicState::Stopped,
            None if self.running.as_ref().is_some_and(|r| r.signals.is_paused(index)) => TopicState::Paused,
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

    pub(super) fn top_keys(&self) -> Vec<TopKeys> {
        let mut found = Vec::new();
        for (shard, shard_config) in self.config.shards.iter().enumerate() {
            for (topic, topic_config) in self.config.topics.iter().enumerate() {
                let (shard, topic) = (ShardIx(shard as u16), TopicIx(topic as u16));
                let top = self.observer.top_keys(shard, topic);
                let named = |key: &hot_key::TopKey| TopKey {
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
}

fn table_name(table: &config::Table) -> String {
    match &table.schema {
        Some(schema) => format!("{schema}.{}", table.name),
        None => table.name.clone(),
    }
}
