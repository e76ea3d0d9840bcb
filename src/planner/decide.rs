//! From a wish and the limits to a plan, or to why there is none. Pure: the same in, the same out; every number on the way is a line
//! that a person can check.
//!
//! Which way it goes, and why that way:
//!
//! 1. *What is needed.* A peak need not be borne as it comes: what waits at its end is applied within the time lag that is allowed. So
//!    peak × burst ÷ (burst + time lag) is enough; beside it, what an outage leaves must be caught up with.
//! 2. *What a database takes*, at the knee of its connections, with the batch from which on a larger one gains little; of that, a part.
//! 3. *How many databases* that makes, the busiest one being the measure.
//! 4. *How many processes*: as many as take it in when some fail, and not more than leave each database's connections to enough workers.
//!    Of all numbers of processes, those with the fewest databases come into question, and of these the least. How many of them have a
//!    part of a database is the assignor's: what is planned with is the worst of what it may come to.
//! 5. *Partitions* by databases, a power of two for each, so that more may come without other partitions.
//! 6. *Time*: lag at a peak's end, catching up, and how long Kafka must keep records.

mod break_first;
mod refuse;
mod size;
#[cfg(test)]
mod tests;
mod time;

use crate::check::budget;
use crate::config::settings;
use crate::planner::limits::{Fixed, Limits, ServerLimits};
use crate::planner::plan::{Decision, Plan, Step};
use crate::planner::rates::{KNEE_GAIN, Rates};
use crate::planner::wish::{Wish, seconds};
use crate::words::{counted, grouped, rate};

/// More processes than this are not considered.
const PROCESSES_MAX: usize = 256;
/// Beyond it, a plan is a mistake in what was asked, and a shard's number no number of forebay's.
const SHARDS_MAX: usize = 10_000;
/// What a pooler lets in is not known here.
const ROOM_OF_A_POOLER: i64 = 100_000;

/// See the module's text.
pub fn decide(wish: &Wish, limits: &Limits) -> Decision {
    let mut course = Course::new(wish, limits);
    course.decision.plan = course.plan();
    course.warn();
    course.decision
}

fn workers_max() -> usize {
    *settings::WORKERS_PER_SHARD.kind.range.end()
}

/// 1, 2, 4, … and the last one.
fn doublings(at_most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |n| Some(n * 2)).take_while(move |n| *n < at_most).chain([at_most])
}

/// `1 process`, `8 processes`.
fn processes(number: u64) -> String {
    format!("{} process{}", grouped(number), if number == 1 { "" } else { "es" })
}

/// What is decided so far.
struct Course<'a> {
    wish: &'a Wish,
    limits: &'a Limits,
    /// Of one database, while others of its server are as busy.
    rates: Rates,
    /// It is looked at whether it could be instead of something that was refused.
    is_offer: bool,
    decision: Decision,
}

/// What one number of processes makes of a database.
#[derive(Debug, Clone, Copy)]
struct Choice {
    processes: usize,
    /// Those that are left.
    alive: usize,
    /// So many of these have a part of each database in any case.
    spread: usize,
    workers_max: usize,
    batch: usize,
    /// Of a process, at the knee.
    workers: usize,
    /// Rows a second of a database with these, at the least, and the part of them that is planned with.
    rows_per_s: f64,
    usable: f64,
    shards: usize,
}

impl<'a> Course<'a> {
    fn new(wish: &'a Wish, limits: &'a Limits) -> Course<'a> {
        Course { wish, limits, rates: limits.rates_of_a_shard(), is_offer: false, decision: Decision::default() }
    }
}

impl Course<'_> {
    fn say(&mut self, of: &'static str, text: String) {
        self.decision.steps.push(Step { of, text });
    }

    fn plan(&mut self) -> Option<Plan> {
        let needed = self.needed();
        let choice = self.choice(needed)?;
        let shards = self.shards(needed, &choice)?;
        let sized = self.sized(needed, shards, &choice);
        if !self.keeps_limits(&sized) {
            return None;
        }
        let plan = self.timed(sized)?;
        let checked = budget::needed(1, plan.workers_per_shard + plan.slow_lanes_per_shard, self.limits.fixed.besides);
        assert!(plan.processes as i64 * checked <= plan.connections_room, "a plan exceeds the connection budget");
        Some(plan)
    }

    /// Records a second that must be applied, at the least.
    fn needed(&mut self) -> f64 {
        let Wish { peak_per_s, mean_per_s, burst_s, time_lag_s, outage_s, catch_up_s, .. } = *self.wish;
        let burst = if burst_s > 0.0 { peak_per_s * burst_s / (burst_s + time_lag_s) } else { mean_per_s };
        let after = mean_per_s * (1.0 + outage_s / catch_up_s.max(1e-3));
        self.say(
            "demand",
            format!(
                "peak {}/s for {}, time lag of {} allowed at its end: {} × {} ÷ ({} + {}) = {}/s",
                rate(peak_per_s),
                seconds(burst_s),
                seconds(time_lag_s),
                rate(peak_per_s),
                seconds(burst_s),
                seconds(burst_s),
                seconds(time_lag_s),
                rate(burst)
            ),
        );
        self.say(
            "demand",
            format!(
                "after {} of outage caught up within {}, beside the mean of {}/s: {} × (1 + {} ÷ {}) = {}/s",
                seconds(outage_s),
                seconds(catch_up_s),
                rate(mean_per_s),
                rate(mean_per_s),
                seconds(outage_s),
                seconds(catch_up_s),
                rate(after)
            ),
        );
        let needed = burst.max(after).max(mean_per_s);
        self.say("demand", format!("needed: the larger of both, {}/s", rate(needed)));
        needed
    }

    fn room(&self) -> i64 {
        let tightest = self.limits.tightest();
        let room = if tightest.pooled { ROOM_OF_A_POOLER } else { tightest.room_per_shard() };
        room - self.gateways(tightest)
    }

    /// Connections to each shard of gateways whose routes write rows: those that there are now, or of one.
    fn gateways(&self, server: &ServerLimits) -> i64 {
        let now = (server.gateways as u64).div_ceil(server.shards.max(1) as u64) as i64;
        now.max(self.limits.fixed.gateway as i64)
    }

    /// How many processes, and what is left of each database for their workers. None where that is refused.
    fn choice(&mut self, needed: f64) -> Option<Choice> {
        let spare = self.wish.spare_processes as usize;
        let least = (needed / self.wish.process_rows_per_s).ceil().max(1.0) as usize + spare;
        let given = self.wish.processes.map(|n| n as usize);
        if let Some(given) = given.filter(|given| *given < least) {
            self.refuse_processes(given, least, needed);
            return None;
        }
        let (from, to) = given.map_or((least, PROCESSES_MAX.max(least)), |given| (given, given));
        let choices: Vec<Choice> = (from..=to).filter_map(|processes| self.with(processes, needed)).collect();
        let Some(best) = self.best(&choices) else {
            self.refuse_connections(from);
            return None;
        };
        self.say(
            "processes",
            format!(
                "{}/s ÷ {}/s a process = {:.1}, so {} and {} that may fail: {}{}",
                rate(needed),
                rate(self.wish.process_rows_per_s),
                needed / self.wish.process_rows_per_s,
                least - spare,
                spare,
                best.processes,
                match (given, best.processes > least) {
                    (Some(_), _) => " (given)".to_owned(),
                    (None, true) => format!(
                        " ({} more: fewer would have fewer connections at work when {spare} fail)",
                        best.processes - least
                    ),
                    (None, false) => String::new(),
                }
            ),
        );
        self.say_database(&best);
        Some(best)
    }

    /// The fewest databases, or no more than there are; then the fewest processes.
    fn best(&self, choices: &[Choice]) -> Option<Choice> {
        let given = self.wish.shards.map_or(0, |n| n as usize);
        choices.iter().copied().min_by_key(|choice| (choice.shards.max(given), choice.processes))
    }

    /// Where nobody says how many databases there are, they are first believed to be many: of few, each has more processes.
    fn with(&self, processes: usize, needed: f64) -> Option<Choice> {
        let given = self.wish.shards.map(|n| n as usize);
        let first = self.with_shards(processes, given.unwrap_or(SHARDS_MAX), needed)?;
        if given.is_some() { Some(first) } else { self.with_shards(processes, first.shards.min(SHARDS_MAX), needed) }
    }

    fn with_shards(&self, processes: usize, shards: usize, needed: f64) -> Option<Choice> {
        let fixed = &self.limits.fixed;
        let besides = budget::needed(1, fixed.slow_lanes, fixed.besides);
        let of_process = fixed.connections_max.map_or(i64::MAX, |max| max as i64);
        let room = (self.room() / processes as i64).min(of_process);
        let workers_max = usize::try_from(room - besides).ok()?.min(workers_max());
        if workers_max < self.wish.workers_per_shard.unwrap_or(1) as usize {
            return None;
        }
        let alive = processes - self.wish.spare_processes as usize;
        let spread = fixed.assignor.fewest(alive, shards, self.partitions_for(shards, processes));
        let given = self.wish.workers_per_shard.map(|n| n as usize);
        let batch = self.batch(given.unwrap_or(workers_max) * spread);
        let rows = |workers: usize| self.rows_of(batch, workers, spread, processes);
        let best = doublings(workers_max).map(rows).fold(0.0, f64::max);
        let knee = || doublings(workers_max).find(|workers| rows(*workers) * KNEE_GAIN > best).unwrap_or(1);
        let workers = given.unwrap_or_else(knee);
        let rows_per_s = rows(workers);
        let usable = rows_per_s * self.wish.used;
        let shards = (needed * self.wish.busiest_shard / usable - 1e-9).ceil().max(1.0) as usize;
        Some(Choice { processes, alive, spread, workers_max, batch, workers, rows_per_s, usable, shards })
    }

    /// Rows a second of a database, at the least: of those connections that are at work in any case, or of more; and no more than those
    /// processes may write.
    fn rows_of(&self, batch: usize, workers: usize, spread: usize, processes: usize) -> f64 {
        let ceiling = self.limits.fixed.rows_per_s_max.map_or(f64::INFINITY, |max| (max * spread) as f64);
        self.rates.least(batch as f64, workers * spread, workers * processes).min(ceiling)
    }

    /// No larger than `batch_bytes_max` lets it become.
    fn batch(&self, at_most: usize) -> usize {
        let fits = (self.limits.fixed.batch_bytes_max as f64 / self.wish.record_bytes).floor().max(1.0) as usize;
        self.rates.batch(at_most).min(fits)
    }

    fn say_database(&mut self, choice: &Choice) {
        let fixed = self.limits.fixed.clone();
        let Fixed { slow_lanes, besides, assignor, .. } = fixed;
        let server = self.limits.tightest();
        let gateways = self.gateways(server);
        let each = budget::needed(1, choice.workers_max + slow_lanes, besides);
        let of = if server.shards > 1 { format!(" ÷ {} shards", server.shards) } else { String::new() };
        let whose =
            if server.shards == 0 { "each database".to_owned() } else { format!("server of shard {}", server.name) };
        let limited = server.room < server.max_connections - server.reserved - server.others
            || server.database_max.is_some_and(|max| max < server.room / server.shards.max(1) as i64);
        let text = match server.pooled {
            true => format!("{whose}: behind a pooler, whose limits decide; they are not known here"),
            false => format!(
                "{whose}: max_connections {} − {} reserved − {} in use by others{}{of}{} = {}",
                server.max_connections,
                server.reserved,
                server.others,
                if limited { ", and no more than the share or a role's or database's limit" } else { "" },
                if gateways > 0 { format!(" − {gateways} of gateways' sync routes") } else { String::new() },
                grouped(self.room().max(0) as u64)
            ),
        };
        self.say("connections", text);
        self.say(
            "connections",
            format!(
                "{} ÷ {} = {} a process and shard{} − {slow_lanes} (slow lanes) − {besides} (control, sampling{}) = at most {} ({each} in all)",
                grouped(self.room().max(0) as u64),
                processes(choice.processes as u64),
                self.room() / choice.processes as i64,
                fixed.connections_max.map_or(String::new(), |max| format!(" (connections_max: {max} at most)")),
                if besides > 2 { ", forwarding" } else { "" },
                counted(choice.workers_max as u64, "worker"),
            ),
        );
        self.say(
            "connections",
            format!(
                "{} of the {} left have a part of each database in any case ({}), and all of them may",
                processes(choice.spread as u64),
                choice.alive,
                assignor.word()
            ),
        );
        let shared = self.limits.databases_of_a_server();
        if shared > 1 {
            self.say(
                "a database",
                format!("{shared} of them share a server: each is planned to get a part of what it takes, ÷ {shared}"),
            );
        }
        let (least, most) = (choice.workers * choice.spread, choice.workers * choice.processes);
        let gain = match self.wish.workers_per_shard {
            Some(_) => "so many workers are given",
            None => "more of them gain less than a tenth",
        };
        self.say(
            "a database",
            format!(
                "batches of {}, {} a process, so {least} to {most} connections: {} rows/s at the least ({}); {gain}, \
                 larger batches gain less than a twentieth",
                grouped(choice.batch as u64),
                counted(choice.workers as u64, "worker"),
                rate(choice.rows_per_s),
                self.limits.rates_from
            ),
        );
        if let Some(max) = self.limits.fixed.rows_per_s_max {
            let max = rate(max as f64);
            self.say(
                "a database",
                format!("rows_per_second_max: at most {max} of each of {}", processes(choice.spread as u64)),
            );
        }
        self.say("a database", format!("{:.0} % of it: {} rows/s", self.wish.used * 100.0, rate(choice.usable)));
    }

    /// None where there are too few.
    fn shards(&mut self, needed: f64, choice: &Choice) -> Option<usize> {
        let exact = needed * self.wish.busiest_shard / choice.usable;
        let given = self.wish.shards.map(|n| n as usize);
        let text = format!(
            "{}/s × {} (the busiest one's part) ÷ {} rows/s a shard = {exact:.1}, so {}",
            rate(needed),
            self.wish.busiest_shard,
            rate(choice.usable),
            match given {
                None => counted(choice.shards as u64, "shard"),
                Some(given) if given >= choice.shards => format!("{} (given)", counted(given as u64, "shard")),
                Some(given) => format!("{}, and there are {given}", counted(choice.shards as u64, "shard")),
            }
        );
        self.say("shards", text);
        match given {
            Some(given) if given < choice.shards => {
                self.refuse_shards(given, choice, needed);
                None
            }
            None if choice.shards > SHARDS_MAX => {
                self.refuse_shards(SHARDS_MAX, choice, needed);
                None
            }
            _ => Some(given.unwrap_or(choice.shards)),
        }
    }
}
