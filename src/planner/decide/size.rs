//! How many of everything: workers, lanes, partitions, windows.

use super::{Choice, Course, processes};
use crate::check::budget;
use crate::planner::plan::Plan;
use crate::words::{counted, grouped, rate};

/// The settings' defaults, and the least that one takes.
const LANES_MIN: usize = 16;
const PARTITION_BYTES_MAX: u64 = 8 << 20;
const PARTITION_BYTES_MIN: u64 = 65_536;
const PARTITION_RECORDS_MAX: f64 = 20_000.0;

/// What has a size, and no times yet.
pub struct Sized {
    pub shards: usize,
    pub choice: Choice,
    pub workers: usize,
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
        let rates = &self.limits.rates;
        let batch = choice.batch as f64;
        // As many as take it are within the knee: the number of shards was made of that.
        let at_work = rates.connections_for(batch, share / wish.used, choice.knee).unwrap_or(choice.knee);
        let workers = at_work.div_ceil(choice.alive);
        let shard_rows_per_s = rates.most(batch, workers * choice.alive);
        let text = format!(
            "{}/s × {} ÷ {} ÷ {:.0} % = {} rows/s of the busiest one take {}; ÷ {} left = {}",
            rate(needed),
            wish.busiest_shard,
            counted(shards as u64, "shard"),
            wish.used * 100.0,
            rate(share / wish.used),
            counted(at_work as u64, "connection"),
            processes(choice.alive as u64),
            counted(workers as u64, "worker")
        );
        self.say("workers", format!("{text} a process and shard"));
        let writers = workers + self.limits.slow_lanes;
        let each = budget::needed(1, writers, self.limits.besides);
        self.say(
            "workers",
            format!(
                "{} × ({workers} + {} + {}) = {} connections to each shard, of {} there are",
                processes(choice.processes as u64),
                self.limits.slow_lanes,
                self.limits.besides,
                choice.processes as i64 * each,
                grouped(self.room().max(0) as u64)
            ),
        );
        let partitions_per_shard = self.partitions_per_shard(shards, choice);
        let (partition_bytes_max, process_memory_bytes) = self.window(partitions_per_shard * shards, choice);
        Sized {
            shards,
            choice: *choice,
            workers,
            lanes: workers.next_power_of_two().max(LANES_MIN),
            partitions_per_shard,
            partition_bytes_max,
            process_memory_bytes,
            shard_rows_per_s,
        }
    }

    fn partitions_per_shard(&mut self, shards: usize, choice: &Choice) -> usize {
        let wish = self.wish;
        let grown = wish.growth as f64;
        let bytes = wish.peak_per_s * wish.busiest_shard / shards as f64 * wish.record_bytes * grown;
        let for_rate = (bytes / wish.partition_bytes_per_s).ceil().max(1.0) as usize;
        let least = for_rate.max(wish.growth as usize).max(choice.processes);
        let partitions = least.next_power_of_two();
        self.say(
            "partitions",
            format!(
                "for each shard the largest of: {} (so many databases may come of one), {} (each process has a part of each), and {} ({}/s × \
                 {} ÷ {shards} × {} bytes × {} ÷ {} bytes/s a partition); the next power of two: {partitions}",
                wish.growth,
                choice.processes,
                for_rate,
                rate(wish.peak_per_s),
                wish.busiest_shard,
                grouped(wish.record_bytes as u64),
                wish.growth,
                grouped(wish.partition_bytes_per_s as u64)
            ),
        );
        self.say(
            "partitions",
            format!(
                "{shards} × {partitions} = {} of each topic, aligned: all of a partition in one shard",
                grouped((shards * partitions) as u64)
            ),
        );
        partitions
    }

    /// Of a partition, in bytes; and what all windows of a process take at most.
    fn window(&mut self, partitions: usize, choice: &Choice) -> (u64, u64) {
        let wish = self.wish;
        let of_process = partitions.div_ceil(choice.alive) as u64;
        let fits = wish.process_memory_bytes / of_process / PARTITION_BYTES_MIN * PARTITION_BYTES_MIN;
        let window = PARTITION_BYTES_MAX.min(fits.max(PARTITION_BYTES_MIN));
        let filled = (PARTITION_RECORDS_MAX * wish.record_bytes).min(window as f64) as u64;
        let memory = filled * of_process;
        const MIB: f64 = 1_048_576.0;
        self.say(
            "memory",
            format!(
                "{} ÷ {} left = {} × {:.1} MiB of window = at most {:.0} MiB a process{}",
                counted(partitions as u64, "partition"),
                processes(choice.alive as u64),
                counted(of_process, "partition"),
                filled as f64 / MIB,
                memory as f64 / MIB,
                if window < PARTITION_BYTES_MAX { " (partition_bytes_max is made smaller for it)" } else { "" }
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
            kafka_bytes: 0.0,
            replication: 0,
            min_insync_replicas: 0,
            process_memory_bytes: self.process_memory_bytes,
            breaks: Vec::new(),
        }
    }
}
