//! Times: until a record is durable, at the end of a peak, after an outage; and how long Kafka keeps records, which they decide.

use super::Course;
use super::size::Sized;
use crate::planner::plan::{Plan, Traffic};
use crate::planner::wish::seconds;
use crate::words::{grouped, rate};

const HOUR_S: f64 = 3600.0;
const GIB: f64 = 1_073_741_824.0;

impl Course<'_> {
    /// None where the time lag that is allowed is less than a transaction takes.
    pub(super) fn timed(&mut self, sized: Sized) -> Option<Plan> {
        let wish = self.wish;
        let (rows, shards) = (sized.shard_rows_per_s, sized.shards as f64);
        let at_mean = self.traffic(&sized, wish.mean_per_s);
        let at_peak = self.traffic(&sized, wish.peak_per_s);
        let capacity_per_s = rows * shards / wish.busiest_shard;
        let time_lag_s = self.time_lag(&at_peak, rows);
        // What piles up is within it: what is needed was made of that.
        if at_peak.durable_worst_s() > wish.time_lag_s {
            self.refuse_time_lag(&at_peak);
            return None;
        }
        let catch_up_s = self.catch_up(wish.mean_per_s * wish.busiest_shard / shards, rows);
        let retention_s = self.retention(catch_up_s);
        let kafka_bytes = self.kafka(retention_s);
        let plan = sized.plan(self.limits.slow_lanes, self.limits.besides, self.room());
        let breaks = self.breaks(&sized, capacity_per_s);
        Some(Plan {
            capacity_per_s,
            at_mean,
            at_peak,
            time_lag_s,
            catch_up_s,
            retention_s,
            kafka_bytes,
            replication: wish.replication,
            // One copy may be away while producers with acks=all go on.
            min_insync_replicas: (wish.replication - 1).max(1),
            breaks,
            ..plan
        })
    }

    /// The busiest shard at a rate of all.
    fn traffic(&self, sized: &Sized, per_s: f64) -> Traffic {
        let shard_per_s = per_s * self.wish.busiest_shard / sized.shards as f64;
        let (batch, connections) = (sized.choice.batch, sized.workers * sized.choice.processes);
        let rates = &self.limits.rates;
        let (waits, at_work, batch_records) = match rates.steady(shard_per_s, batch, connections) {
            Some((at_work, batch)) => (false, at_work, batch),
            None => (true, connections, batch as f64),
        };
        let transaction_s = rates.transaction_s(batch_records, at_work as f64);
        // A connection that is faster than records come waits for them.
        let transactions_per_s = (at_work as f64 / transaction_s).min(shard_per_s / batch_records);
        Traffic { shard_per_s, waits, connections_at_work: at_work, batch_records, transactions_per_s, transaction_s }
    }

    fn time_lag(&mut self, peak: &Traffic, rows: f64) -> f64 {
        let worst = peak.durable_worst_s();
        let burst_s = self.wish.burst_s;
        let shard = format!("the busiest shard's {}/s", rate(peak.shard_per_s));
        if peak.shard_per_s <= rows {
            self.say(
                "time lag",
                format!(
                    "{shard} are fewer than its {} rows/s: nothing piles up. {} at work, transactions of {} take {}: durable after {} as a rule, {} \
                     at worst (1.5 and 2 transactions)",
                    rate(rows),
                    peak.connections_at_work,
                    rate(peak.batch_records),
                    seconds(peak.transaction_s),
                    seconds(peak.durable_s()),
                    seconds(worst)
                ),
            );
            return worst;
        }
        let waits = (peak.shard_per_s - rows) * burst_s;
        let lag = waits / rows + worst;
        self.say(
            "time lag",
            format!(
                "{shard} − {} rows/s that it takes = {}/s that wait; × {} = {} records at the end of the peak; ÷ {} + {} = {}",
                rate(rows),
                rate(peak.shard_per_s - rows),
                seconds(burst_s),
                grouped(waits.round() as u64),
                rate(rows),
                seconds(worst),
                seconds(lag)
            ),
        );
        lag
    }

    fn catch_up(&mut self, mean: f64, rows: f64) -> f64 {
        let waits = mean * self.wish.outage_s;
        let time = waits / (rows - mean).max(1e-9);
        self.say(
            "catching up",
            format!(
                "busiest shard: {}/s × {} = {} records; ÷ ({} − {}) rows/s = {}",
                rate(mean),
                seconds(self.wish.outage_s),
                grouped(waits.round() as u64),
                rate(rows),
                rate(mean),
                seconds(time.ceil())
            ),
        );
        time
    }

    fn retention(&mut self, catch_up_s: f64) -> f64 {
        let (outage_s, factor) = (self.wish.outage_s, self.wish.retention_factor);
        let needed = (outage_s + catch_up_s) * factor;
        let retention = (needed / HOUR_S).ceil().max(1.0) * HOUR_S;
        self.say(
            "retention",
            format!(
                "({} of outage + {} of catching up) × {factor} = {}, so {}",
                seconds(outage_s),
                seconds(catch_up_s.ceil()),
                seconds(needed.ceil()),
                seconds(retention)
            ),
        );
        retention
    }

    fn kafka(&mut self, retention_s: f64) -> f64 {
        let wish = self.wish;
        let peak_s = wish.burst_s.min(retention_s);
        let records = wish.mean_per_s * retention_s + (wish.peak_per_s - wish.mean_per_s) * peak_s;
        let bytes = records * wish.record_bytes / wish.compression * wish.replication as f64;
        self.say(
            "disk in Kafka",
            format!(
                "({}/s × {} + {}/s more for {}) × {} bytes ÷ {} (compression) × {} copies = {} GiB on all brokers",
                rate(wish.mean_per_s),
                seconds(retention_s),
                rate(wish.peak_per_s - wish.mean_per_s),
                seconds(peak_s),
                grouped(wish.record_bytes as u64),
                wish.compression,
                wish.replication,
                grouped((bytes / GIB).ceil() as u64)
            ),
        );
        bytes
    }
}
