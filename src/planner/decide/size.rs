//! How many of everything: workers, lanes, partitions, windows.

use super::{Choice, Course, processes};
use crate::check::budget;
use crate::config::settings;
use crate::planner::limits::Fixed;
use crate::planner::plan::Plan;
use crate::planner::wish::Wish;
use crate::words::{MIB, counted, grouped, rate};

/// What one cluster was shown to carry, of all topics and copies, before it did without ZooKeeper (J. Rao, *Apache Kafka Supports 200K
/// Partitions Per Cluster*, Confluent, 2018): beyond, a plan is a mistake in what was asked.
const PARTITIONS_MAX: usize = 200_000;

/// What has a size, and no times yet.
pub struct Sized {
    pub shards: usize,
    pub choice: Choice,
    pub workers: usize,
    /// Connections at work while records wait: the fewest.
    pub connections: usize,
    pub lanes: usize,
    pub partitions_per_shard: usize,
    pub partition_bytes_max: u64,
    pub process_memory_bytes: u64,
    /// Rows a second of a database with the processes that are left.
    pub shard_rows_per_s: f64,
}

impl Sized {
    pub fn partitions(&self) -> usize {
        self.partitions_per_shard * self.shards
    }
}

impl Course<'_> {
    pub(super) fn sized(&mut self, needed: f64, shards: usize, choice: &Choice) -> Sized {
        let wish = self.wish;
        let share = needed * wish.busiest_shard / shards as f64;
        let partitions_per_shard = self.partitions_for(shards, choice.processes);
        let spread = self.limits.fixed.assignor.fewest(choice.alive, shards, partitions_per_shard);
        let rows = |workers: usize| self.rows_of(choice.batch, workers, spread, choice.processes);
        // As many as take it are within the knee: the number of shards was made of that.
        let least = if wish.workers_per_shard.is_some() { choice.workers } else { 1 };
        let enough = (least..=choice.workers).find(|workers| rows(*workers) >= share / wish.used);
        let workers = enough.unwrap_or(choice.workers);
        let (shard_rows_per_s, connections) = (rows(workers), workers * spread);
        let text = format!(
            "{}/s × {} ÷ {} ÷ {:.0} % = {} rows/s of the busiest one take {} a process and shard: {connections} to {} at work take {} at the least",
            rate(needed),
            wish.busiest_shard,
            counted(shards as u64, "shard"),
            wish.used * 100.0,
            rate(share / wish.used),
            counted(workers as u64, "worker"),
            counted((workers * choice.processes) as u64, "connection"),
            rate(shard_rows_per_s)
        );
        self.say("workers", text);
        let Fixed { slow_lanes, besides, .. } = self.limits.fixed;
        let each = budget::needed(1, workers + slow_lanes, besides);
        self.say(
            "workers",
            format!(
                "{} × ({workers} + {slow_lanes} + {besides}) = {} connections to each shard, of {} there are",
                processes(choice.processes as u64),
                choice.processes as i64 * each,
                grouped(self.room().max(0) as u64)
            ),
        );
        self.say_partitions(shards, partitions_per_shard, choice);
        let (partition_bytes_max, process_memory_bytes) = self.window(partitions_per_shard * shards, choice);
        Sized {
            shards,
            choice: *choice,
            workers,
            connections,
            lanes: workers.next_power_of_two().max(settings::LANES.kind.0.default),
            partitions_per_shard,
            partition_bytes_max,
            process_memory_bytes,
            shard_rows_per_s,
        }
    }

    /// What a partition must take in at the peak that may come.
    fn partitions_for_rate(&self, shards: usize) -> usize {
        let Wish { growth, peak_per_s, busiest_shard, record_bytes, partition_bytes_per_s, .. } = *self.wish;
        let bytes = peak_per_s * busiest_shard / shards as f64 * record_bytes * growth as f64;
        ((bytes / partition_bytes_per_s).ceil() as usize).clamp(1, PARTITIONS_MAX)
    }

    pub(super) fn partitions_for(&self, shards: usize, processes: usize) -> usize {
        let least = || self.partitions_for_rate(shards).max(processes).next_power_of_two();
        self.wish.partitions_per_shard.map_or_else(least, |given| given as usize)
    }

    fn say_partitions(&mut self, shards: usize, partitions: usize, choice: &Choice) {
        let wish = self.wish;
        self.say(
            "partitions",
            format!(
                "for each shard the larger of: {} (so each process may have a part of each), and {} ({}/s × {} ÷ {shards} × {} bytes × {} of \
                 growth ÷ {} bytes/s a partition); {}: {partitions}",
                choice.processes,
                grouped(self.partitions_for_rate(shards) as u64),
                rate(wish.peak_per_s),
                wish.busiest_shard,
                grouped(wish.record_bytes as u64),
                wish.growth,
                grouped(wish.partition_bytes_per_s as u64),
                if wish.partitions_per_shard.is_some() { "given" } else { "the next power of two" }
            ),
        );
        self.say(
            "partitions",
            format!(
                "{shards} × {partitions} = {} of each topic, aligned: all of a partition in one shard",
                grouped((shards * partitions) as u64)
            ),
        );
    }

    /// Of a partition, in bytes; and what all windows of a process take at most.
    fn window(&mut self, partitions: usize, choice: &Choice) -> (u64, u64) {
        let (wish, fixed) = (self.wish, self.limits.fixed.clone());
        let least = *settings::PARTITION_BYTES_MAX.kind.0.range.start() as u64;
        let of_process = (partitions * fixed.topics).div_ceil(choice.alive) as u64;
        let fits = wish.process_memory_bytes / of_process / least * least;
        let window = (fixed.partition_bytes_max as u64).min(fits.max(least));
        let filled = (fixed.partition_records_max as f64 * wish.record_bytes).min(window as f64) as u64;
        let memory = filled * of_process;
        let of_topics =
            if fixed.topics > 1 { format!(" × {}", counted(fixed.topics as u64, "topic")) } else { String::new() };
        self.say(
            "memory",
            format!(
                "{}{of_topics} ÷ {} left = {} × {:.1} MiB of window = at most {:.0} MiB a process{}",
                counted(partitions as u64, "partition"),
                processes(choice.alive as u64),
                counted(of_process, "partition"),
                filled as f64 / MIB,
                memory as f64 / MIB,
                if window < fixed.partition_bytes_max as u64 {
                    " (partition_bytes_max is made smaller for it)"
                } else {
                    ""
                }
            ),
        );
        let batch = choice.batch as f64 * wish.record_bytes;
        if (window as f64) < 4.0 * batch {
            self.decision.warnings.push(format!(
                "partition_bytes_max of {} bytes holds fewer than four batches of {} records: workers of a partition will \
                 starve; give a process more memory (--process-memory-mib), or more processes",
                grouped(window),
                choice.batch
            ));
        }
        (window, memory)
    }

    /// False where something is more than can be, which is refused then.
    pub(super) fn keeps_limits(&mut self, sized: &Sized) -> bool {
        let all = sized.partitions() * self.limits.fixed.topics * self.wish.replication as usize;
        if all > PARTITIONS_MAX {
            self.refuse_partitions(sized, all, PARTITIONS_MAX);
            return false;
        }
        if sized.process_memory_bytes > self.wish.process_memory_bytes {
            self.refuse_memory(sized);
            return false;
        }
        true
    }
}

impl Sized {
    /// Everything but what is about time.
    pub fn plan(&self, slow_lanes: usize, besides: usize, room: i64) -> Plan {
        let each = budget::needed(1, self.workers + slow_lanes, besides) as usize;
        let nothing = crate::planner::plan::Traffic {
            shard_per_s: 0.0,
            waits: false,
            connections_at_work: 0,
            batch_records: 0.0,
            transactions_per_s: 0.0,
            transaction_s: 0.0,
        };
        Plan {
            shards: self.shards,
            processes: self.choice.processes,
            spare_processes: self.choice.processes - self.choice.alive,
            workers_per_shard: self.workers,
            slow_lanes_per_shard: slow_lanes,
            lanes: self.lanes,
            batch_records_max: self.choice.batch,
            partitions_per_shard: self.partitions_per_shard,
            partitions: self.partitions(),
            partition_bytes_max: self.partition_bytes_max,
            connections_per_process: each,
            connections_per_shard: each * self.choice.processes,
            connections_room: room,
            shard_rows_per_s: self.shard_rows_per_s,
            capacity_per_s: 0.0,
            at_mean: nothing,
            at_peak: nothing,
            time_lag_s: 0.0,
            catch_up_s: 0.0,
            retention_s: 0.0,
            segment_s: 0.0,
            kafka_bytes: 0.0,
            replication: 0,
            min_insync_replicas: 0,
            process_memory_bytes: self.process_memory_bytes,
            breaks: Vec::new(),
        }
    }
}
