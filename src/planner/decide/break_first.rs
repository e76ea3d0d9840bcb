//! What gives way first when traffic grows, at which rate of all topics together; and what is to be looked at before.

use super::size::Sized;
use super::{Course, processes};
use crate::planner::limits::ServerLimits;
use crate::planner::plan::{Break, Traffic};
use crate::planner::wish::seconds;
use crate::source::assignor::Assignor;
use crate::words::{GIB, grouped, rate};

impl Course<'_> {
    /// In the order in which they happen.
    pub(super) fn breaks(&mut self, sized: &Sized, capacity_per_s: f64) -> Vec<Break> {
        let wish = self.wish;
        let mut breaks = Vec::new();
        let mut add = |what: String, at_per_s: f64| breaks.push(Break { what, at_per_s });
        let of_databases = sized.shard_rows_per_s * sized.shards as f64 / wish.busiest_shard;
        add("the busiest database takes no more: records begin to wait".to_owned(), of_databases);
        if wish.burst_s > 0.0 {
            // Of that time, the last record needs a part once it is its turn: two transactions of full batches.
            let transaction_s =
                |connections: usize| self.rates.transaction_s(sized.choice.batch as f64, connections as f64);
            let all = sized.workers * sized.choice.processes;
            let worst_s = 2.0 * transaction_s(sized.connections).max(transaction_s(all));
            let at = capacity_per_s * (1.0 + (wish.time_lag_s - worst_s).max(0.0) / wish.burst_s);
            let (burst, lag) = (seconds(wish.burst_s), seconds(wish.time_lag_s));
            add(format!("a peak of {burst} at it ends with a time lag of {lag}"), at);
        }
        let alive = sized.choice.alive as f64;
        let failed = processes(wish.spare_processes);
        add(format!("processes take in no more, with {failed} failed"), alive * wish.process_rows_per_s);
        let partitions = sized.partitions() as f64;
        let at = partitions * wish.partition_bytes_per_s / wish.record_bytes / wish.busiest_shard;
        add("the busiest partitions take in no more".to_owned(), at);
        breaks.sort_by(|a, b| a.at_per_s.total_cmp(&b.at_per_s));
        for each in &breaks {
            self.decision.steps.push(crate::planner::plan::Step {
                of: "breaks first",
                text: format!("at {}/s: {}", rate(each.at_per_s), each.what),
            });
        }
        breaks
    }

    /// Whether WAL, and not time, brings a server's checkpoints. PostgreSQL begins one when so much has been written since the last:
    /// CalculateCheckpointSegments in src/backend/access/transam/xlog.c.
    fn warn_of_checkpoints(&self, server: &ServerLimits) -> Option<String> {
        let (plan, per_row) = (self.decision.plan.as_ref()?, self.limits.wal_bytes_per_row?);
        let size = server.setting("max_wal_size")?;
        let timeout = server.setting("checkpoint_timeout")?;
        let spread = server.setting("checkpoint_completion_target").unwrap_or(0.9);
        let of = |traffic: &Traffic| traffic.shard_per_s.min(plan.shard_rows_per_s) * server.shards.max(1) as f64;
        let (mean, peak) = (of(&plan.at_mean), of(&plan.at_peak));
        // A peak that is shorter than the time between two checkpoints is a part of it.
        let part = (self.wish.burst_s / timeout.max(1.0)).min(1.0);
        let rows = mean + (peak - mean) * part;
        let fills_s = size / (1.0 + spread) / (rows * per_row);
        let wanted = rows * per_row * timeout * (1.0 + spread);
        (fills_s < timeout).then(|| {
            format!(
                "server of shard {}: with a peak in it, {} rows/s × {per_row:.0} bytes of WAL fill max_wal_size ({}) ÷ {} in {}, before \
                 checkpoint_timeout ({}): checkpoints come so often, each page is written to WAL whole after each, and rows/s are fewer than measured; \
                 max_wal_size = {:.0} GB would do",
                server.name,
                rate(rows),
                server.settings["max_wal_size"],
                1.0 + spread,
                seconds(fills_s.round()),
                server.settings["checkpoint_timeout"],
                (wanted / GIB).ceil()
            )
        })
    }

    /// Settings that figures should not be believed with, or that they hide something behind.
    pub(super) fn warn(&mut self) {
        let mut warnings = Vec::new();
        let shards = self.decision.plan.as_ref().map_or(0, |plan| plan.shards);
        if shards > 1 && self.limits.fixed.assignor == Assignor::Range {
            warnings.push(
                "partition.assignment.strategy is range: each process gets whole shards, which only its own workers write to, and every rebalance \
                 stops everything; cooperative-sticky (forebay's default) stops what moves, roundrobin spreads each shard over all processes"
                    .to_owned(),
            );
        }
        if !self.limits.fixed.unplanned.is_empty() {
            warnings.push(format!(
                "not reckoned with, and may hold records, or Kafka's commit, back: {}",
                self.limits.fixed.unplanned.join(", ")
            ));
        }
        for server in &self.limits.servers {
            let is = |name: &str, value: &str| server.settings.get(name).is_some_and(|found| found == value);
            let name = &server.name;
            warnings.extend(self.warn_of_checkpoints(server));
            if is("transaction_read_only", "on") {
                warnings.push(format!(
                    "server of shard {name}: it takes no writes now (a replica, or read-only): what it says of itself may not be what the primary \
                     has, and forebay waits for one"
                ));
            }
            if is("fsync", "off") {
                warnings.push(format!(
                    "server of shard {name}: fsync is off: it is faster than one that survives a power cut, and so are figures measured here"
                ));
            }
            if is("full_page_writes", "off") {
                warnings.push(format!(
                    "server of shard {name}: full_page_writes is off, which is safe on few file systems only, and flatters figures"
                ));
            }
            if is("synchronous_commit", "off") || is("synchronous_commit", "local") {
                warnings.push(format!(
                    "server of shard {name}: synchronous_commit is {}: a failover may lose what was acknowledged; forebay applies it again \
                     as long as Kafka holds it, so keep retention well above how long that takes to be noticed",
                    server.settings["synchronous_commit"]
                ));
            }
            let waits = !is("synchronous_commit", "off") && !is("synchronous_commit", "local");
            let standbys = server.settings.get("synchronous_standby_names").filter(|names| waits && !names.is_empty());
            if let Some(names) = standbys {
                warnings.push(format!(
                    "server of shard {name}: every COMMIT waits for synchronous standbys ({names}); while they are away nothing is written, \
                     and nothing here plans for that"
                ));
            }
            if let Some(plan) = &self.decision.plan
                && !server.pooled
            {
                let shards = server.shards.max(1) as i64;
                let (each, all) =
                    (plan.connections_per_process as i64 * shards, plan.connections_per_shard as i64 * shards);
                // The tightest of its limits, a database's own one included.
                let room = (server.room_per_shard() - self.gateways(server)) * shards;
                let more = ((room - all) / each).max(0);
                if more < plan.processes as i64 {
                    warnings.push(format!(
                        "server of shard {name}: {} of {} connections are forebay's then: {} more fit beside these. A deployment that starts new \
                         processes before it stops old ones may have so many of them at a time, and a second set of all (another consumer \
                         group) does not fit",
                        grouped(all as u64),
                        grouped(room.max(0) as u64),
                        processes(more as u64)
                    ));
                }
            }
        }
        self.decision.warnings.extend(warnings);
    }
}
