//! What cannot be: why, and the nearest things that can. Each of those is decided before it is offered, so none is refused in its turn.

use super::size::Sized;
use super::{Choice, Course, SHARDS_MAX, processes, workers_max};
use crate::check::budget;
use crate::planner::limits::Limits;
use crate::planner::plan::{Refusal, Traffic};
use crate::planner::wish::{Wish, seconds};
use crate::words::{counted, grouped, rate};

/// How often a number is made larger until it does.
const TRIES: usize = 12;

/// Something that may be instead: in words, and what it makes of the wish and the limits.
struct Offer {
    text: String,
    wish: Wish,
    limits: Limits,
}

impl Course<'_> {
    fn refuse(&mut self, why: String, offers: Vec<Offer>) {
        let mut nearest = Vec::new();
        if !self.is_offer {
            nearest.extend(offers.into_iter().filter(Offer::can_be).map(|offer| offer.text));
            if nearest.is_empty() {
                nearest.push(
                    "more than one of: fewer records, more or faster databases, more connections, more time".to_owned(),
                );
            }
        }
        self.decision.refusals.push(Refusal { why, nearest });
    }

    fn offer(&self, text: String, change: impl FnOnce(&mut Wish)) -> Offer {
        let mut wish = self.wish.clone();
        change(&mut wish);
        Offer { text, wish, limits: self.limits.clone() }
    }

    /// The first of them that can be.
    fn first(&self, mut offers: impl Iterator<Item = Offer>) -> Option<Offer> {
        if self.is_offer { None } else { offers.find(Offer::can_be) }
    }

    pub(super) fn refuse_processes(&mut self, given: usize, least: usize, needed: f64) {
        let Wish { spare_processes, process_rows_per_s, .. } = *self.wish;
        let alive = given as f64 - spare_processes as f64;
        let why = format!(
            "{given} processes, of which {spare_processes} may fail, take in {}/s; {}/s are needed",
            rate(alive * process_rows_per_s),
            rate(needed)
        );
        let mut offers = vec![self.offer(format!("--processes {least}"), |w| w.processes = Some(least as u64))];
        let without = (needed / process_rows_per_s).ceil() as usize;
        if given >= without {
            let spare = (given - without) as u64;
            let text = format!("--spare-processes {spare}: fewer may fail");
            offers.push(self.offer(text, |w| w.spare_processes = spare));
        }
        // With just as many, what waits at a peak's end takes the whole of the time lag, and its transactions a little more.
        let rates = std::iter::successors(Some((needed / alive).ceil()), |each| Some((each * 1.01).ceil()));
        let faster = |each: f64| {
            let text = format!("processes that take in {}/s each (--process-rows-per-second)", rate(each));
            self.offer(text, |w| w.process_rows_per_s = each)
        };
        offers.extend(self.first(rates.take(TRIES).map(faster)));
        self.refuse(why, offers);
    }

    pub(super) fn refuse_connections(&mut self, started: usize) {
        let (slow_lanes, besides) = (self.limits.fixed.slow_lanes, self.limits.fixed.besides);
        let workers = self.wish.workers_per_shard.unwrap_or(1) as usize;
        let least = budget::needed(1, workers + slow_lanes, besides);
        let (server, room) = (self.limits.tightest(), self.room());
        let shards = server.shards.max(1) as i64;
        let of = match server.shards {
            0 => "a database has".to_owned(),
            n => format!("the server of shard {} has, for each of {},", server.name, counted(n as u64, "shard")),
        };
        let own = self.limits.fixed.connections_max.filter(|max| (*max as i64) < least);
        let why = format!(
            "{started} processes need {least} connections each to a shard ({} + {slow_lanes} slow lanes + {besides}): {}; {}",
            counted(workers as u64, "worker"),
            least * started as i64,
            match own {
                Some(max) => format!("connections_max lets each of them open {max}"),
                None => format!("{of} {}", grouped(room.max(0) as u64)),
            }
        );
        let mut offers = Vec::new();
        let more = |workers: usize| {
            let each = budget::needed(1, workers + slow_lanes, besides) * started as i64 + self.gateways(server);
            let max = each * shards + (server.max_connections - server.room);
            let mut offer = self.offer(format!("max_connections = {max}, if nothing else limits them"), |_| {});
            for server in &mut offer.limits.servers {
                server.room += (max - server.max_connections).max(0);
                server.max_connections = server.max_connections.max(max);
                server.database_max = None;
            }
            offer
        };
        offers.extend(self.first((0..8).map(|doubling| more((workers << doubling).min(workers_max())))));
        if workers > 1 {
            offers.push(self.offer("fewer workers (--workers-per-shard)".to_owned(), |w| w.workers_per_shard = None));
        }
        if let Some(max) = self.limits.fixed.connections_max {
            let own = |workers: usize| {
                let more = budget::needed(1, workers + slow_lanes, besides);
                let text = format!("connections_max = {more} for each shard, instead of {max}");
                let mut offer = self.offer(text, |_| {});
                offer.limits.fixed.connections_max = Some(more as usize);
                offer
            };
            offers.extend(self.first((0..8).map(|doubling| own((workers << doubling).min(workers_max())))));
        }
        let fit = (room / least).max(0);
        if fit > self.wish.spare_processes as i64 {
            let alive = fit - self.wish.spare_processes as i64;
            let started = (started as f64 - self.wish.spare_processes as f64) * self.wish.process_rows_per_s;
            let each = (started / alive as f64).ceil();
            let text = format!(
                "{}, each of which takes in {}/s (--process-rows-per-second)",
                processes(fit as u64),
                rate(each)
            );
            offers.push(self.offer(text, |w| (w.processes, w.process_rows_per_s) = (Some(fit as u64), each)));
        }
        let fewer = (server.room / (least * started as i64)).max(0) as usize;
        if shards > 1 && fewer > 0 {
            let text = format!("at most {} on that server", counted(fewer as u64, "shard"));
            let mut offer = self.offer(text, |_| {});
            offer.limits.servers.iter_mut().for_each(|server| server.shards = server.shards.min(fewer));
            offers.push(offer);
        }
        self.refuse(why, offers);
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
        let mut offers = Vec::new();
        // Of more databases each may be of fewer processes, and take less.
        let numbers = std::iter::successors(Some(choice.shards), |n| Some(n + n / 8 + 1)).take(TRIES);
        let shards = |n: usize| self.offer(counted(n as u64, "shard"), |w| w.shards = Some(n as u64));
        offers.extend(self.first(numbers.take_while(|n| *n <= SHARDS_MAX).map(shards)));
        let each = (needed * wish.busiest_shard / given as f64 / wish.used).ceil();
        let text = format!("databases that take {} rows/s each, instead of {}", rate(each), rate(choice.rows_per_s));
        let mut faster = self.offer(text, |w| w.shards = Some(given as u64));
        faster.limits.rates = faster.limits.rates.times(each / choice.rows_per_s);
        offers.push(faster);
        offers.extend(self.less(given, bears));
        if let Some(max) = self.limits.fixed.rows_per_s_max {
            let text = format!("no rows_per_second_max (of {} for each process and shard)", rate(max as f64));
            let mut offer = self.offer(text, |w| w.shards = Some(given as u64));
            offer.limits.fixed.rows_per_s_max = None;
            offers.push(offer);
        }
        if wish.workers_per_shard.is_some() {
            let text = "as many workers as it takes (without --workers-per-shard)".to_owned();
            offers.push(self.offer(text, |w| w.workers_per_shard = None));
        }
        self.refuse(why, offers);
    }

    /// Of what is asked, as much as so many databases bear.
    fn less(&self, given: usize, bears: f64) -> Vec<Offer> {
        let wish = self.wish;
        let peak = if wish.burst_s > 0.0 { bears * (wish.burst_s + wish.time_lag_s) / wish.burst_s } else { f64::MAX };
        let peak = peak.min(wish.peak_per_s).floor();
        if bears <= wish.mean_per_s {
            let mean = (bears / (1.0 + wish.outage_s / wish.catch_up_s.max(1e-3))).floor().min(peak);
            let text = format!("a mean rate of {}/s (--mean), with a peak of {}/s (--peak)", rate(mean), rate(peak));
            return vec![self.offer(text, |w| {
                (w.mean_per_s, w.peak_per_s, w.shards) = (mean, peak, Some(given as u64));
            })];
        }
        // Which of the two wishes is in the way, or both of them.
        let catch_up = (wish.outage_s / (bears / wish.mean_per_s - 1.0)).ceil().max(wish.catch_up_s);
        let later = (catch_up > wish.catch_up_s).then(|| format!("{} to catch up (--catch-up)", seconds(catch_up)));
        let offer = |text: String, peak: f64, lag: f64| {
            self.offer(text, |w| {
                (w.peak_per_s, w.time_lag_s, w.catch_up_s, w.shards) = (peak, lag, catch_up, Some(given as u64));
            })
        };
        if peak >= wish.peak_per_s.floor() {
            return later.map(|later| offer(later, wish.peak_per_s, wish.time_lag_s)).into_iter().collect();
        }
        let both = later.map_or(String::new(), |later| format!(", and {later}"));
        let lag = (wish.peak_per_s * wish.burst_s / bears - wish.burst_s).ceil();
        let lags = (0..TRIES as u64).map(|tries| lag + tries as f64);
        let late = |lag: f64| {
            let text = format!("a time lag of {} at the end of this peak (--time-lag){both}", seconds(lag));
            offer(text, wish.peak_per_s, lag)
        };
        let slower = offer(format!("a peak of {}/s (--peak){both}", rate(peak)), peak, wish.time_lag_s);
        std::iter::once(slower).chain(self.first(lags.map(late))).collect()
    }

    pub(super) fn refuse_time_lag(&mut self, peak: &Traffic, found: f64) {
        let allowed = seconds(self.wish.time_lag_s);
        let worst = peak.durable_worst_s();
        let why = if worst > self.wish.time_lag_s {
            format!(
                "time lag of {allowed} is allowed; a record that has just missed a transaction of {}, and is in the next one, is durable after \
                 {}",
                seconds(peak.transaction_s),
                seconds(worst)
            )
        } else {
            format!("time lag of {allowed} is allowed; at the end of a peak it comes to {}", seconds(found))
        };
        let lags = std::iter::successors(Some((found * 1e4).ceil() / 1e4), |lag| Some((lag * 1.2 * 1e4).ceil() / 1e4));
        let late =
            |lag: f64| self.offer(format!("a time lag of {} (--time-lag)", seconds(lag)), |w| w.time_lag_s = lag);
        let faster = |times: u32| {
            let mut offer = self.offer(format!("databases that are {times} times as fast, COMMIT included"), |_| {});
            offer.limits.rates = offer.limits.rates.times(times.into());
            offer
        };
        let offers = [self.first(lags.take(TRIES).map(late)), self.first([2, 4, 8, 16, 32].into_iter().map(faster))];
        self.refuse(why, offers.into_iter().flatten().collect());
    }

    pub(super) fn refuse_partitions(&mut self, sized: &Sized, all: usize, most: usize) {
        let why = format!(
            "{} partitions × {} × {} copies are {}; one Kafka carries {} or so",
            grouped(sized.partitions() as u64),
            counted(self.limits.fixed.topics as u64, "topic"),
            self.wish.replication,
            grouped(all as u64),
            grouped(most as u64)
        );
        let growths = std::iter::successors(Some(self.wish.growth / 2), |growth| Some(growth / 2));
        let slower = |growth: u64| self.offer(format!("--growth {growth}"), |w| w.growth = growth);
        let growth = self.first(growths.take_while(|growth| *growth > 0).map(slower));
        let each = |doubling: u32| {
            let bytes = self.wish.partition_bytes_per_s * f64::from(1 << doubling);
            let text = format!("partitions that take in {} bytes/s each (--partition-bytes-per-second)", rate(bytes));
            self.offer(text, |w| w.partition_bytes_per_s = bytes)
        };
        let faster = self.first((1..TRIES as u32 * 2).map(each));
        self.refuse(why, growth.into_iter().chain(faster).collect());
    }

    pub(super) fn refuse_memory(&mut self, sized: &Sized) {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (found, needed) = (mib(self.wish.process_memory_bytes), mib(sized.process_memory_bytes));
        let why = format!(
            "windows of {} partitions take {needed} MiB of a process at the least; {found} are allowed",
            grouped(sized.partitions() as u64)
        );
        let text = format!("--process-memory-mib {needed}");
        let offers = vec![self.offer(text, |w| w.process_memory_bytes = needed << 20)];
        self.refuse(why, offers);
    }
}

impl Offer {
    fn can_be(&self) -> bool {
        let mut course = Course::new(&self.wish, &self.limits);
        course.is_offer = true;
        course.plan().is_some()
    }
}
