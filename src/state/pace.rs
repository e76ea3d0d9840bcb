//! Never faster than a database bears: who of a shard's workers may write now, how much, and what holds the others back.
//!
//! Workers ask in front of each try and say afterwards how it went. Those that may not write yet stand in a queue, in the order
//! in which they came, so that none of them starves. A topic's own ceiling is kept before its records reach a worker, which
//! would have nothing else to do meanwhile; here it is only known as something that holds records back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::{Config, Pace, TenantCeilings};
use crate::state::adaptive::Adaptive;
use crate::state::bucket::Bucket;
use crate::state::replica::Slowdown;
use crate::types::{ShardIx, TopicIx};

/// How often whoever cannot know when its turn comes asks again, if nobody tells it.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The longest rest between two batches of one connection.
const REST_MAX: Duration = Duration::from_secs(10);
/// The smallest part of a full batch, where less than one connection may be at work.
const PIECE_MIN: f64 = 0.25;
/// A limit that held nobody back for so long is not active any more.
const QUIET: Duration = Duration::from_secs(1);
/// One limit is spoken of so often at most.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What may hold workers back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// The shard's ceiling in rows per second.
    ShardRows,
    /// A topic's. Its records wait at the poller.
    TopicRows(TopicIx),
    /// Tenants'. Their records are parked: see [`tenant_pace`](super::tenant_pace).
    TenantRows,
    /// Batches take longer than at best.
    Latency,
    /// The replica is too far behind.
    Replica,
}

/// What one shard's workers are held to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub shard: Pace,
    /// By topic: rows per second.
    pub topics: Vec<Option<usize>>,
    pub tenants: TenantCeilings,
}

impl Limits {
    pub fn of(config: &Config, shard: ShardIx) -> Limits {
        Limits {
            shard: config.shards[usize::from(shard.0)].pace.clone(),
            topics: config.topics.iter().map(|topic| topic.rows_per_second_max).collect(),
            tenants: config.tenant_ceilings.clone(),
        }
    }

    /// Whether workers are held to nothing.
    pub fn none(&self) -> bool {
        self.shard == Pace::default()
    }
}

/// A worker's question.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub worker: u16,
    pub topic: TopicIx,
    pub records: usize,
    /// All or nothing of them: they were tried before.
    pub whole: bool,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Now, and so many of the records. How long it waited for that, and what for.
    Now { records: usize, waited: Option<(Limit, Duration)> },
    /// Not before this time has passed.
    Later(Duration),
}

/// How a try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// So many rows were written, in an ordinary batch.
    Written(usize),
    /// Likewise, but in another way, whose time tells nothing.
    Otherwise(usize),
    Nothing,
    /// It took longer than a statement may; nothing was written.
    TimedOut,
    /// Whether it was written is not known.
    Unknown,
}

/// A limit that is active, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    pub limit: Limit,
    pub since: Duration,
}

/// Something to say about a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Holds(Limit),
    /// Not any more, after so long.
    HeldFor(Limit, Duration),
}

/// See the module's text.
#[derive(Debug)]
pub struct Pacing {
    limits: Limits,
    workers: usize,
    batch_records_max: usize,
    shard: Option<Bucket>,
    adaptive: Option<Adaptive>,
    slowdown: Slowdown,
    /// By worker: what it is trying to write.
    at_work: Vec<Option<Work>>,
    queue: VecDeque<Waiting>,
    /// When the last try ended, and how long it took.
    last: (Duration, Duration),
    held: BTreeMap<Limit, Held>,
    /// How often anything changed that those who wait may want to know of.
    changes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Work {
    topic: TopicIx,
    records: usize,
    began: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ask: Ask,
    since: Duration,
    by: Limit,
    /// What it has seen of the changes.
    seen: u64,
}

/// How a limit holds workers back.
#[derive(Debug, Clone, Copy)]
struct Held {
    since: Duration,
    last: Duration,
    /// That it does was said, and not yet that it is over.
    open: bool,
    said: Option<Duration>,
}

/// Why someone may not write yet, and how long not, where that can be known.
type Obstacle = (Limit, Option<Duration>);

impl Pacing {
    pub fn new(limits: Limits, workers: usize, batch_records_max: usize, now: Duration) -> Pacing {
        let mut pacing = Pacing {
            limits: Limits { topics: vec![None; limits.topics.len()], ..Limits::default() },
            workers,
            batch_records_max,
            shard: None,
            adaptive: None,
            slowdown: Slowdown::new(workers),
            at_work: vec![None; workers],
            queue: VecDeque::new(),
            last: (Duration::ZERO, Duration::ZERO),
            held: BTreeMap::new(),
            changes: 0,
        };
        pacing.set(limits, now);
        pacing
    }

    /// Other limits from now on.
    pub fn set(&mut self, limits: Limits, now: Duration) {
        assert_eq!(limits.topics.len(), self.limits.topics.len(), "topics come and go with a restart only");
        Bucket::set(&mut self.shard, limits.shard.rows_per_second_max, now);
        match (limits.shard.adaptive_limit, &self.adaptive) {
            (true, None) => self.adaptive = Some(Adaptive::new(self.workers, limits.topics.len(), now)),
            (false, _) => self.adaptive = None,
            (true, Some(_)) => {}
        }
        if limits.shard.replica.is_none() {
            self.slowdown = Slowdown::new(self.workers);
        }
        if limits.none() || self.limits.none() {
            // Who asks and who is at work is not told while nothing is limited.
            self.queue.clear();
            self.at_work.fill(None);
        }
        self.limits = limits;
        self.changes += 1;
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A worker wants to write; it asks again until it may, or leaves.
    pub fn ask(&mut self, ask: Ask, now: Duration) -> Turn {
        let place = self.queue.iter().position(|waiting| waiting.ask.worker == ask.worker);
        // Whoever came first goes first; what it waits for, all behind it do, too.
        let in_front = self.queue.front().filter(|_| place != Some(0)).map(|first| (first.by, None));
        match in_front.or_else(|| self.obstacle(ask, now)) {
            None => {
                let waiting = place.and_then(|place| self.queue.remove(place));
                let records = if ask.whole { ask.records } else { self.piece(ask) };
                self.shard.iter_mut().for_each(|bucket| bucket.take(records));
                self.at_work[usize::from(ask.worker)] = Some(Work { topic: ask.topic, records, began: now });
                self.changes += 1;
                Turn::Now { records, waited: waiting.map(|w| (w.by, now.saturating_sub(w.since))) }
            }
            Some((by, wait)) => {
                self.holds(by, now);
                let seen = self.changes;
                match place {
                    Some(place) => self.queue[place] = Waiting { ask, by, seen, ..self.queue[place] },
                    None => self.queue.push_back(Waiting { ask, by, seen, since: now }),
                }
                Turn::Later(wait.unwrap_or(ASK_AGAIN))
            }
        }
    }

    /// A worker's try ended.
    pub fn tried(&mut self, worker: u16, tried: Tried, now: Duration) {
        let used = self.at_work.iter().flatten().count() * 2 >= self.connections();
        // Who began before anything was limited is not counted.
        let Some(work) = self.at_work[usize::from(worker)].take() else { return };
        let took = now.saturating_sub(work.began);
        let unwritten = match tried {
            Tried::Written(rows) | Tried::Otherwise(rows) => work.records.saturating_sub(rows),
            Tried::Nothing | Tried::TimedOut => work.records,
            Tried::Unknown => 0,
        };
        self.shard.iter_mut().for_each(|bucket| bucket.give_back(unwritten));
        match (&mut self.adaptive, tried) {
            (Some(adaptive), Tried::Written(_)) => adaptive.written(work.topic, work.records, took, used, now),
            (Some(adaptive), Tried::TimedOut) => adaptive.timed_out(),
            _ => {}
        }
        self.last = (now, took);
        self.changes += 1;
    }

    /// A worker does not want to write any more, or not what it asked for. What it may write and did not try is given back.
    pub fn leave(&mut self, worker: u16) {
        let before = self.queue.len();
        self.queue.retain(|waiting| waiting.ask.worker != worker);
        let untried = self.at_work[usize::from(worker)].take();
        if let (Some(work), Some(bucket)) = (untried, &mut self.shard) {
            bucket.give_back(work.records);
        }
        self.changes += u64::from(self.queue.len() < before || untried.is_some());
    }

    /// Whether a worker waits for its turn; and if so, whether something changed since it asked.
    pub fn waits(&self, worker: u16) -> Option<bool> {
        let waiting = self.queue.iter().find(|waiting| waiting.ask.worker == worker);
        waiting.map(|waiting| waiting.seen != self.changes)
    }

    /// Whose turn it is next.
    pub fn next(&self) -> Option<u16> {
        self.queue.front().map(|waiting| waiting.ask.worker)
    }

    /// Somebody else keeps a limit, and it holds records back.
    pub fn held_elsewhere(&mut self, limit: Limit, now: Duration) {
        self.holds(limit, now);
    }

    /// What the replica's lag was at a look; unknown where there is none.
    pub fn looked_at_replica(&mut self, lag: Option<Duration>) {
        if let Some(replica) = &self.limits.shard.replica {
            self.slowdown.looked(lag, replica.lag_max);
            self.changes += 1;
        }
    }

    /// Connections that may be at work, on average; below one: for so much of the time.
    pub fn limit(&self) -> f64 {
        let adaptive = self.adaptive.as_ref().map_or(self.workers as f64, Adaptive::limit);
        adaptive.min(self.slowdown.limit())
    }

    /// Connections that may be at work at once.
    pub fn connections(&self) -> usize {
        (self.limit().round() as usize).clamp(1, self.workers)
    }

    /// Most records of a batch.
    pub fn batch_records(&self) -> usize {
        ((self.batch_records_max as f64 * self.limit().clamp(PIECE_MIN, 1.0)) as usize).max(1)
    }

    /// What holds workers back now.
    pub fn active(&self, now: Duration) -> Vec<Active> {
        let active = self.held.iter().filter(|(_, held)| now.saturating_sub(held.last) < QUIET);
        active.map(|(limit, held)| Active { limit: *limit, since: now.saturating_sub(held.since) }).collect()
    }

    /// What there is to say since the last time.
    pub fn said(&mut self, now: Duration) -> Vec<Said> {
        let mut said = Vec::new();
        for (limit, held) in &mut self.held {
            let active = now.saturating_sub(held.last) < QUIET;
            if active && !held.open && held.said.is_none_or(|at| now.saturating_sub(at) >= SAY_EVERY) {
                (held.open, held.said) = (true, Some(now));
                said.push(Said::Holds(*limit));
            } else if !active && std::mem::take(&mut held.open) {
                said.push(Said::HeldFor(*limit, held.last.saturating_sub(held.since)));
            }
        }
        said
    }

    fn holds(&mut self, limit: Limit, now: Duration) {
        let held = self.held.entry(limit).or_insert(Held { since: now, last: now, open: false, said: None });
        if now.saturating_sub(held.last) >= QUIET && !held.open {
            held.since = now;
        }
        held.last = now;
    }

    fn obstacle(&mut self, ask: Ask, now: Duration) -> Option<Obstacle> {
        let records = if ask.whole { ask.records } else { self.piece(ask) };
        if let Some(wait) = self.shard.as_mut().and_then(|b| b.wait(records, now)) {
            return Some((Limit::ShardRows, Some(wait)));
        }
        let by = if self.slowdown.limit() <= self.limit() { Limit::Replica } else { Limit::Latency };
        if self.at_work.iter().flatten().count() >= self.connections() {
            return Some((by, None));
        }
        let (ended, took) = self.last;
        let rest = took.mul_f64((1.0 / self.limit() - 1.0).max(0.0)).min(REST_MAX);
        let wait = (ended + rest).saturating_sub(now);
        (!wait.is_zero()).then_some((by, Some(wait)))
    }

    /// How many of the records to write at once.
    fn piece(&self, ask: Ask) -> usize {
        let piece = self.shard.as_ref().map_or(ask.records, |bucket| bucket.piece(ask.records));
        if self.limit() < 1.0 { piece.min(self.batch_records()) } else { piece }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Replica;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);
    const A: TopicIx = TopicIx(0);
    const B: TopicIx = TopicIx(1);

    fn rows(shard: Option<usize>) -> Limits {
        Limits {
            shard: Pace { rows_per_second_max: shard, ..Pace::default() },
            topics: vec![None; 2],
            ..Limits::default()
        }
    }

    fn replica() -> Limits {
        let replica = Some(Replica { name: "r".into(), lag_max: S });
        Limits { shard: Pace { replica, ..Pace::default() }, topics: vec![None; 2], ..Limits::default() }
    }

    fn pacing(limits: Limits) -> Pacing {
        Pacing::new(limits, 4, 500, S)
    }

    fn ask(pacing: &mut Pacing, worker: u16, topic: TopicIx, records: usize, now: Duration) -> Result<usize, Duration> {
        match pacing.ask(Ask { worker, topic, records, whole: false }, now) {
            Turn::Now { records, .. } => Ok(records),
            Turn::Later(wait) => Err(wait),
        }
    }

    #[test]
    fn pieces_are_what_the_ceiling_bears() {
        let mut p = pacing(rows(Some(2000)));
        assert_eq!(ask(&mut p, 0, A, 100, S), Ok(100));
        assert_eq!(ask(&mut p, 1, B, 500, S), Ok(200));
        assert_eq!(ask(&mut p, 2, B, 500, S), Err(MS * 50), "400 rows, of which 300 are gone");
        assert_eq!(ask(&mut p, 3, B, 1, S), Err(ASK_AGAIN), "it came later");
        p.tried(0, Tried::Written(100), S);
        assert_eq!((p.next(), ask(&mut p, 2, B, 500, S + MS * 50)), (Some(2), Ok(200)));
        assert_eq!(p.active(S + MS * 60), [Active { limit: Limit::ShardRows, since: MS * 60 }]);
        assert_eq!(p.active(S * 3), []);
        p.leave(3);
        assert_eq!(p.next(), None);
    }

    #[test]
    fn those_who_wait_for_the_shard_take_turns() {
        let mut p = pacing(rows(Some(10)));
        let mut got = [0; 4];
        for n in 0..4000u32 {
            let (worker, now) = ((n % 7 % 4) as u16, S + MS * n);
            if ask(&mut p, worker, if worker == 0 { A } else { B }, 1 + n as usize % 9, now).is_ok() {
                p.tried(worker, Tried::Written(1), now);
                got[usize::from(worker)] += 1;
            }
        }
        assert!((40..=42).contains(&got.iter().sum::<u32>()), "{got:?}");
        assert!(got.iter().all(|n| (10..=11).contains(n)), "{got:?}");
    }

    #[test]
    fn a_turn_that_is_not_used_is_given_back() {
        let mut p = pacing(rows(Some(1000)));
        assert_eq!(ask(&mut p, 0, A, 100, S), Ok(100));
        assert_eq!(ask(&mut p, 1, A, 100, S), Ok(100));
        p.leave(0);
        assert_eq!(ask(&mut p, 0, A, 100, S), Ok(100), "by another piece, say");
        p.tried(1, Tried::Written(100), S);
        p.leave(1);
        assert_eq!(ask(&mut p, 1, A, 100, S), Err(MS * 100), "what was used is not there any more");

        let mut p = pacing(Limits {
            shard: Pace { adaptive_limit: true, ..Pace::default() },
            topics: vec![None; 2],
            ..Limits::default()
        });
        assert_eq!(ask(&mut p, 0, A, 100, S), Ok(100));
        assert_eq!(ask(&mut p, 1, A, 100, S), Err(ASK_AGAIN), "it begins with one connection");
        p.leave(0);
        assert_eq!((p.next(), ask(&mut p, 1, A, 100, S)), (Some(1), Ok(100)));
    }

    #[test]
    fn what_was_not_written_does_not_count() {
        let check = |tried, left: u32| {
            let mut p = pacing(rows(Some(1000)));
            assert_eq!(ask(&mut p, 1, A, 100, S), Ok(100));
            assert_eq!(ask(&mut p, 0, A, 100, S), Ok(100));
            p.tried(0, tried, S);
            let expected = if left == 100 { Ok(100) } else { Err(MS * (100 - left)) };
            assert_eq!(ask(&mut p, 0, A, 100, S), expected, "{tried:?}");
        };
        check(Tried::Nothing, 100);
        check(Tried::TimedOut, 100);
        check(Tried::Written(40), 60);
        check(Tried::Otherwise(70), 30);
        check(Tried::Unknown, 0);
    }

    #[test]
    fn a_piece_that_was_tried_before_stays_whole() {
        let mut p = pacing(rows(Some(1000)));
        let again = Ask { worker: 0, topic: A, records: 500, whole: true };
        assert_eq!(p.ask(again, S), Turn::Now { records: 500, waited: None });
        p.tried(0, Tried::Written(500), S);
        assert_eq!(ask(&mut p, 0, A, 1, S), Err(MS * 301), "and is paid for");
    }

    #[test]
    fn a_change_holds_at_once_for_those_who_wait() {
        let mut p = pacing(rows(Some(1)));
        assert_eq!(ask(&mut p, 0, A, 500, S), Ok(1));
        assert_eq!(ask(&mut p, 2, A, 500, S), Ok(1));
        assert_eq!(ask(&mut p, 1, A, 500, S), Err(S));
        assert_eq!((p.waits(1), p.waits(0)), (Some(false), None));
        p.set(rows(Some(10_000)), S + MS);
        assert_eq!(p.waits(1), Some(true), "there is news for it");
        assert_eq!(ask(&mut p, 1, A, 500, S + MS * 51), Ok(500));
        p.tried(1, Tried::Written(500), S + MS * 52);
        p.set(rows(None), S + MS * 60);
        assert_eq!((ask(&mut p, 3, A, 500, S + MS * 60), p.next()), (Ok(500), None));
    }

    #[test]
    fn a_replica_that_is_behind_takes_connections_away_then_time() {
        let mut p = pacing(replica());
        (0..4).for_each(|worker| assert_eq!(ask(&mut p, worker, A, 500, S), Ok(500)));
        (0..4).for_each(|worker| p.tried(worker, Tried::Written(500), S));
        (0..5).for_each(|_| p.looked_at_replica(Some(S * 2)));
        assert_eq!((p.connections(), p.batch_records()), (1, 474));
        assert_eq!(ask(&mut p, 0, A, 500, S), Ok(474));
        assert_eq!(ask(&mut p, 1, A, 500, S), Err(ASK_AGAIN));
        p.tried(0, Tried::Written(474), S + MS * 100);
        let rest = MS * 100 * 54 / 1000;
        let Err(wait) = ask(&mut p, 1, A, 500, S + MS * 100) else { panic!("it rests") };
        assert!(wait.abs_diff(rest) < MS, "{wait:?}");
        assert!(p.active(S + MS * 100).iter().any(|a| a.limit == Limit::Replica));
        (0..30).for_each(|_| p.looked_at_replica(None));
        assert_eq!((p.connections(), p.batch_records()), (4, 500));
    }

    #[test]
    fn a_limit_is_spoken_of_once_a_minute() {
        let mut p = pacing(rows(Some(1)));
        let mut said = Vec::new();
        for n in 0..1200u64 {
            let now = MS * 100 * n as u32;
            // Ten seconds on, ten seconds off.
            if n / 100 % 2 == 0 {
                let _ = ask(&mut p, 0, A, 5, now);
                let _ = ask(&mut p, 1, A, 5, now);
            } else {
                p.leave(0);
                p.leave(1);
            }
            said.extend(p.said(now).into_iter().map(|said| (n / 10, said)));
        }
        let [(0, Said::Holds(_)), (10, Said::HeldFor(_, first)), (60, Said::Holds(_)), (70, Said::HeldFor(_, second))] =
            said[..]
        else {
            panic!("{said:?}")
        };
        assert!(first > S * 9 && first < S * 10 && second > S * 9 && second < S * 10, "{said:?}");
    }

    /// Whatever workers ask, and whatever changes: everybody's turn comes, and the ceiling is kept.
    #[test]
    fn nobody_starves_and_the_ceiling_is_kept() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rate = rng.usize(100..5000);
            let pace = Pace { rows_per_second_max: Some(rate), adaptive_limit: rng.bool(), replica: None };
            let mut p = pacing(Limits { shard: pace, topics: vec![None; 2], ..Limits::default() });
            let mut now = S;
            let mut work: Vec<Option<usize>> = vec![None; 4];
            let (mut written, mut last) = (0, [now; 4]);
            while now < S * 11 {
                now += Duration::from_micros(rng.u64(0..4000));
                let worker = rng.usize(0..4);
                match work[worker].take() {
                    Some(records) => {
                        let rows = rng.usize(0..=records);
                        p.tried(worker as u16, Tried::Written(rows), now);
                        written += rows;
                    }
                    None => match ask(&mut p, worker as u16, TopicIx(worker as u16 % 2), rng.usize(1..=500), now) {
                        Ok(records) => (work[worker], last[worker]) = (Some(records), now),
                        Err(_) => assert!(now - last[worker] < S * 3, "seed {seed}: worker {worker} starves: {p:?}"),
                    },
                }
            }
            assert!(written <= rate * 10 + rate / 4, "seed {seed}: {written}");
        }
    }
}
