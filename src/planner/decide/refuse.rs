//! What cannot be: why, and the nearest things that can.

use super::{Choice, Course, SHARDS_MAX, processes};
use crate::check::budget;
use crate::planner::plan::{Refusal, Traffic};
use crate::planner::wish::{Wish, seconds};
use crate::words::{counted, grouped, rate};

impl Course<'_> {
    fn refuse(&mut self, why: String, nearest: Vec<String>) {
        self.decision.refusals.push(Refusal { why, nearest });
    }

    pub(super) fn refuse_processes(&mut self, given: usize, least: usize, needed: f64) {
        let Wish { spare_processes, process_rows_per_s, .. } = *self.wish;
        let alive = given as f64 - spare_processes as f64;
        let why = format!(
            "{given} processes, of which {spare_processes} may fail, take in {}/s; {}/s are needed",
            rate(alive * process_rows_per_s),
            rate(needed)
        );
        let mut nearest = vec![format!("--processes {least}")];
        let without = (needed / process_rows_per_s).ceil() as usize;
        if given >= without {
            nearest.push(format!("--spare-processes {}: fewer may fail", given - without));
        }
        nearest.push(format!("processes that take in {}/s each (--process-rows-per-second)", rate(needed / alive)));
        self.refuse(why, nearest);
    }

    pub(super) fn refuse_connections(&mut self, started: usize) {
        let (slow_lanes, besides) = (self.limits.slow_lanes, self.limits.besides);
        let least = budget::needed(1, 1 + slow_lanes, besides);
        let (server, room) = (self.limits.tightest(), self.room());
        let shards = server.shards.max(1) as i64;
        let of = match server.shards {
            0 => "a database has".to_owned(),
            n => format!("the server of shard {} has, for each of {},", server.name, counted(n as u64, "shard")),
        };
        let why = format!(
            "{started} processes need {least} connections each to a shard (1 worker + {slow_lanes} slow lanes + {besides}): {}; {of} {}",
            least * started as i64,
            grouped(room.max(0) as u64)
        );
        let max_connections = least * started as i64 * shards + (server.max_connections - server.room);
        let mut nearest = vec![format!("max_connections = {max_connections}, if nothing else limits them")];
        let fit = (room / least).max(0);
        if fit > self.wish.spare_processes as i64 {
            let alive = fit - self.wish.spare_processes as i64;
            nearest.push(format!(
                "{}, each of which takes in {}/s (--process-rows-per-second)",
                processes(fit as u64),
                rate(self.wish.process_rows_per_s * (started as f64 - self.wish.spare_processes as f64) / alive as f64)
            ));
        }
        if shards > 1 {
            nearest.push(format!(
                "at most {} on that server",
                counted((server.room / (least * started as i64)).max(0) as u64, "shard")
            ));
        }
        self.refuse(why, nearest);
    }

    pub(super) fn refuse_shards(&mut self, given: usize, choice: &Choice, needed: f64) {
        let wish = self.wish;
        let bears = given as f64 * choice.usable / wish.busiest_shard;
        let why = format!(
            "{} bear {}/s in all ({} × {} ÷ {}); {}/s are needed",
            counted(given as u64, "shard"),
            rate(bears),
            given,
            rate(choice.usable),
            wish.busiest_shard,
            rate(needed)
        );
        let mut nearest = Vec::new();
        if choice.shards <= SHARDS_MAX {
            nearest.push(counted(choice.shards as u64, "shard"));
        }
        nearest.push(format!(
            "databases that take {} rows/s each, instead of {}",
            rate(needed * wish.busiest_shard / given as f64 / wish.used),
            rate(choice.rows_per_s)
        ));
        if bears > wish.mean_per_s {
            // Which of the two wishes is in the way, or both of them.
            let catch_up = wish.outage_s / (bears / wish.mean_per_s - 1.0);
            let later =
                (catch_up > wish.catch_up_s).then(|| format!("{} to catch up (--catch-up)", seconds(catch_up.ceil())));
            let peak =
                if wish.burst_s > 0.0 { bears * (wish.burst_s + wish.time_lag_s) / wish.burst_s } else { f64::MAX };
            let both = later.as_ref().map_or(String::new(), |later| format!(", and {later}"));
            if peak < wish.peak_per_s {
                let lag = wish.peak_per_s * wish.burst_s / bears - wish.burst_s;
                nearest.push(format!("a peak of {}/s (--peak){both}", rate(peak.floor())));
                nearest
                    .push(format!("a time lag of {} at the end of this peak (--time-lag){both}", seconds(lag.ceil())));
            } else {
                nearest.extend(later);
            }
        } else {
            nearest.push(format!("a mean rate below {}/s (--mean)", rate(bears.floor())));
        }
        self.refuse(why, nearest);
    }

    pub(super) fn refuse_time_lag(&mut self, peak: &Traffic) {
        let found = peak.durable_worst_s();
        let why = format!(
            "time lag of {} is allowed; a record that has just missed a transaction of {}, and is in the next one, is durable after {}",
            seconds(self.wish.time_lag_s),
            seconds(peak.transaction_s),
            seconds(found)
        );
        let lag = (found * 1e4).ceil() / 1e4;
        let nearest = vec![
            format!("a time lag of {} (--time-lag)", seconds(lag)),
            "databases whose COMMIT takes less, or more of them, so that transactions are smaller".to_owned(),
        ];
        self.refuse(why, nearest);
    }
}
