//! What is seen of the simulated world, and made into figures.

use super::part::Part;
use crate::planner::simulate::outcome::{Outcome, Sample};
use crate::planner::simulate::scenario::Scenario;

/// Less than this is nothing to recover from.
const NORMAL_S_MIN: f64 = 0.5;
/// Before it, workers have not found their pace.
const SETTLED_S: f64 = 5.0;

/// See the module's text.
pub struct Watch {
    weight: u64,
    came: u64,
    /// At the last look.
    before: (u64, u64, u64),
    /// While there was trouble.
    of_shard: Vec<u64>,
    of_partition: Vec<u64>,
    misaligned: u64,
    transactions: u64,
    written: u64,
    at_work: u64,
    looks: u64,
    samples: Vec<Sample>,
    /// Of each shard, the worst.
    worst: Vec<f64>,
}

impl Watch {
    pub fn new(shards: usize, partitions: usize, weight: u64) -> Watch {
        Watch {
            weight,
            came: 0,
            before: (0, 0, 0),
            of_shard: vec![0; shards],
            of_partition: vec![0; partitions],
            misaligned: 0,
            transactions: 0,
            written: 0,
            at_work: 0,
            looks: 0,
            samples: Vec::new(),
            worst: vec![0.0; shards],
        }
    }

    pub fn came(&mut self, shard: usize, partition: usize, aligned: bool, counts: bool) {
        self.came += 1;
        self.misaligned += u64::from(!aligned);
        if counts {
            self.of_shard[shard] += 1;
            self.of_partition[partition] += 1;
        }
    }

    pub fn transaction(&mut self, units: usize) {
        self.transactions += 1;
        self.written += units as u64;
    }

    pub fn look(&mut self, partitions: &[Part], now_us: u64, at_work: usize) {
        let mut ages = vec![0f64; self.worst.len()];
        for part in partitions {
            let age = part.oldest_us().map_or(0.0, |at| (now_us - at) as f64 / 1e6);
            ages[part.shard] = ages[part.shard].max(age);
        }
        self.worst.iter_mut().zip(&ages).for_each(|(worst, age)| *worst = worst.max(*age));
        ages.sort_by(f64::total_cmp);
        let (at, came, written) = self.before;
        let seconds = ((now_us - at) as f64 / 1e6).max(1e-6);
        let per_s = |now: u64, before: u64| (now - before) as f64 * self.weight as f64 / seconds;
        self.samples.push(Sample {
            seconds: now_us as f64 / 1e6,
            came_per_s: per_s(self.came, came),
            durable_per_s: per_s(self.written, written),
            message_lag: (self.came - self.written) * self.weight,
            worst_s: ages.last().copied().unwrap_or_default(),
            median_s: ages[ages.len() / 2],
        });
        self.before = (now_us, self.came, self.written);
        self.at_work += at_work as u64;
        self.looks += 1;
    }

    /// For how long time lag has been what it was before the trouble; none: it is not.
    pub fn is_calm_since(&self, scenario: &Scenario) -> Option<f64> {
        let (calm, last) = (self.calm(scenario)?, self.samples.last()?);
        Some(last.seconds - calm)
    }

    /// From when on time lag stayed what it was before the trouble, after it.
    fn calm(&self, scenario: &Scenario) -> Option<f64> {
        let before = scenario.rates[0].0;
        let settled = self.samples.iter().filter(|s| s.seconds > SETTLED_S && s.seconds <= before);
        let normal = settled.map(|s| s.worst_s).fold(0.0, f64::max) * 1.5;
        let normal = normal.max(NORMAL_S_MIN);
        let after = self.samples.iter().rev().take_while(|s| s.seconds >= scenario.trouble_ends);
        after.take_while(|s| s.worst_s <= normal).last().map(|s| s.seconds)
    }

    pub fn outcome(self, scenario: &Scenario, now_us: u64) -> Outcome {
        let shares = |counts: &[u64]| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            let mut shares: Vec<f64> = counts.iter().map(|n| *n as f64 / all).collect();
            shares.sort_by(|a, b| b.total_cmp(a));
            shares
        };
        let (shard_shares, partition_shares) = (shares(&self.of_shard), shares(&self.of_partition));
        let skew = |shares: &[f64]| shares.first().map_or(0.0, |most| most * shares.len() as f64);
        let worst_shard = (0..self.worst.len()).max_by(|a, b| self.worst[*a].total_cmp(&self.worst[*b])).unwrap_or(0);
        let most = |figure: fn(&Sample) -> f64| self.samples.iter().map(figure).fold(0.0, f64::max);
        let seconds = now_us as f64 / 1e6;
        Outcome {
            scenario: scenario.name,
            what: scenario.what.clone(),
            shards: self.of_shard.len(),
            partitions: self.of_partition.len(),
            seconds,
            records: self.came * self.weight,
            weight: self.weight,
            shard_skew: skew(&shard_shares),
            partition_skew: skew(&partition_shares),
            time_lag_worst_s: most(|s| s.worst_s),
            time_lag_median_s: most(|s| s.median_s),
            worst_shard,
            message_lag_max: self.samples.iter().map(|s| s.message_lag).max().unwrap_or_default(),
            calm_after_s: self.calm(scenario).map(|at| (at - scenario.trouble_ends).max(0.0)),
            batch_records: (self.written * self.weight) as f64 / self.transactions.max(1) as f64,
            transactions_per_s: self.transactions as f64 / seconds.max(1e-6),
            connections_at_work: self.at_work as f64 / (self.looks.max(1) * self.of_shard.len() as u64) as f64,
            misaligned: self.misaligned,
            shard_shares,
            partition_shares,
            samples: self.samples,
        }
    }
}
