//! Times: until a record is durable, at the end of a peak, after an outage; and how long Kafka keeps records, which they decide.

use super::size::Sized;
use super::{Course, processes};
use crate::planner::plan::{Plan, Traffic};
use crate::planner::wish::seconds;
use crate::words::{GIB, counted, grouped, rate};

const HOUR_S: f64 = 3600.0;
/// Of how long records are kept, a segment takes so much before it is closed: only closed ones are deleted.
const SEGMENT: f64 = 0.25;
/// Smaller ones are a burden to a broker.
const SEGMENT_MIN_S: f64 = 600.0;

impl Course<'_> {
    /// None where the time lag that is allowed is less than it comes to.
    pub(super) fn timed(&mut self, sized: Sized) -> Option<Plan> {
        let (wish, fixed) = (self.wish, &self.limits.fixed);
        let (slow_lanes, besides, shards) = (fixed.slow_lanes, fixed.besides, sized.shards as f64);
        let processes = sized.choice.processes;
        let all = sized.partitions_per_shard.min(processes);
        let at_mean = self.traffic(&sized, wish.mean_per_s, all, processes);
        let mut at_peak = self.traffic(&sized, wish.peak_per_s, all, processes);
        // Where a database is of few processes, fewer connections have larger batches.
        let spread = sized.connections / sized.workers;
        let of_few = self.traffic(&sized, wish.peak_per_s, spread, spread);
        let slowest = if of_few.transaction_s > at_peak.transaction_s { of_few } else { at_peak };
        let rows = self.rows(&sized);
        at_peak.waits |= at_peak.shard_per_s > rows;
        let capacity_per_s = rows * shards / wish.busiest_shard;
        let time_lag_s = self.time_lag(&slowest, rows);
        if time_lag_s > wish.time_lag_s {
            self.refuse_time_lag(&slowest, time_lag_s);
            return None;
        }
        let catch_up_s = self.catch_up(wish.mean_per_s * wish.busiest_shard / shards, rows);
        let retention_s = self.retention(catch_up_s);
        let segment_s = (retention_s * SEGMENT).max(SEGMENT_MIN_S);
        let kafka_bytes = self.kafka(retention_s, segment_s);
        self.wal(&at_peak, rows);
        let plan = sized.plan(slow_lanes, besides, self.room());
        let breaks = self.breaks(&sized, capacity_per_s);
        Some(Plan {
            capacity_per_s,
            at_mean,
            at_peak,
            time_lag_s,
            catch_up_s,
            retention_s,
            segment_s,
            kafka_bytes,
            replication: wish.replication,
            // One copy may be away while producers with acks=all go on.
            min_insync_replicas: (wish.replication - 1).max(1),
            breaks,
            ..plan
        })
    }

    /// Rows a second of the busiest database: what it takes, or its part of what the processes that are left take in.
    fn rows(&mut self, sized: &Sized) -> f64 {
        let (wish, alive) = (self.wish, sized.choice.alive as f64);
        let part = alive * wish.process_rows_per_s * wish.busiest_shard / sized.shards as f64;
        let rows = sized.shard_rows_per_s.min(part);
        self.say(
            "capacity",
            format!(
                "busiest shard: the smaller of the {} rows/s that its database takes, and {} left × {}/s × {} ÷ {} = {} rows/s",
                rate(sized.shard_rows_per_s),
                processes(sized.choice.alive as u64),
                rate(wish.process_rows_per_s),
                wish.busiest_shard,
                counted(sized.shards as u64, "shard"),
                rate(part)
            ),
        );
        rows
    }

    /// The busiest shard at a rate of all, where so many of the processes have a part of it, and `awake` of them a record now and then.
    fn traffic(&self, sized: &Sized, per_s: f64, awake: usize, processes: usize) -> Traffic {
        let shard_per_s = per_s * self.wish.busiest_shard / sized.shards as f64;
        let (batch, connections) = (sized.choice.batch, sized.workers * processes);
        let (waits, at_work, batch_records) = match self.rates.steady(shard_per_s, batch, awake, connections) {
            Some((at_work, batch)) => (false, at_work, batch),
            None => (true, connections, batch as f64),
        };
        let transaction_s = self.rates.transaction_s(batch_records, at_work as f64);
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
                    "{shard} are no more than its {} rows/s: nothing piles up. {} at work, transactions of {} take {}: durable after {} as a rule, \
                     {} at worst (1.5 and 2 transactions)",
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

    /// What a server writes, and its replicas are sent. Nothing is known of it before it was measured.
    fn wal(&mut self, peak: &Traffic, rows: f64) {
        let Some(per_row) = self.limits.wal_bytes_per_row else { return };
        let (databases, replicas) = (self.limits.databases_of_a_server(), self.wish.replicas);
        let rows = peak.shard_per_s.min(rows);
        let bytes = rows * databases as f64 * per_row;
        self.say(
            "WAL",
            format!(
                "at the peak {} rows/s × {} of a server × {per_row:.0} bytes a row = {:.1} MB/s, and as much to each of {}: {:.1} MB/s of network",
                rate(rows),
                counted(databases as u64, "shard"),
                bytes / 1e6,
                counted(replicas, "replica"),
                bytes * replicas as f64 / 1e6
            ),
        );
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

    fn kafka(&mut self, retention_s: f64, segment_s: f64) -> f64 {
        let wish = self.wish;
        let kept_s = retention_s + segment_s;
        let peak_s = wish.burst_s.min(kept_s);
        let records = wish.mean_per_s * kept_s + (wish.peak_per_s - wish.mean_per_s) * peak_s;
        let bytes = records * wish.record_bytes / wish.compression * wish.replication as f64;
        self.say(
            "disk in Kafka",
            format!(
                "a log segment is deleted when its last record is {} old, and takes records for {} (segment.ms): kept for {} at most",
                seconds(retention_s),
                seconds(segment_s),
                seconds(kept_s)
            ),
        );
        self.say(
            "disk in Kafka",
            format!(
                "({}/s × {} + {}/s more for {}) × {} bytes ÷ {} (compression) × {} copies = {} GiB on all brokers",
                rate(wish.mean_per_s),
                seconds(kept_s),
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
