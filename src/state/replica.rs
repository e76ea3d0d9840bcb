//! A replica that must not fall behind: how far behind it is, and how much the shard slows down for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::state::adaptive::LIMIT_MIN;

/// Positions that are remembered; then every second one is forgotten.
const POSITIONS_MAX: usize = 512;
/// What the limit falls by at each look that finds the replica too far behind, and what it grows by at each other one.
const FALL: f64 = 0.75;
const RISE: f64 = 1.25;

/// What a primary says of a replica at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The end of the write-ahead log, in bytes.
    pub written: u64,
    /// How far the replica has replayed it.
    pub replayed: u64,
    /// What the server itself measured.
    pub measured: Option<Duration>,
}

/// How far behind a replica is, from looks now and then. PostgreSQL's own `replay_lag` moves only when the replica answers,
/// and stands still with one that does not replay.
#[derive(Debug, Clone, Default)]
pub struct ReplayLag {
    /// When the log was how long, oldest first; those that were replayed are gone.
    positions: VecDeque<(Duration, u64)>,
}

impl ReplayLag {
    /// The lag now.
    pub fn seen(&mut self, position: Position, now: Duration) -> Duration {
        while self.positions.front().is_some_and(|(_, written)| *written <= position.replayed) {
            self.positions.pop_front();
        }
        if position.written <= position.replayed {
            return Duration::ZERO;
        }
        if self.positions.back().is_none_or(|(_, written)| *written < position.written) {
            if self.positions.len() >= POSITIONS_MAX {
                let mut keep = false;
                self.positions.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.positions.push_back((now, position.written));
        }
        let ours = self.positions.front().map_or(Duration::ZERO, |(since, _)| now.saturating_sub(*since));
        ours.max(position.measured.unwrap_or_default())
    }
}

/// How many connections may be at work, as far as the replica is concerned: fewer by a quarter, or one for a shorter part of
/// the time, at each look that finds it too far behind.
#[derive(Debug, Clone)]
pub struct Slowdown {
    limit: f64,
    max: f64,
}

impl Slowdown {
    pub fn new(max: usize) -> Slowdown {
        Slowdown { limit: max as f64, max: max as f64 }
    }

    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// After a look. `lag` is unknown where the replica is not there: nobody waits for one that may never come back.
    pub fn looked(&mut self, lag: Option<Duration>, lag_max: Duration) {
        let factor = if lag.is_some_and(|lag| lag > lag_max) { FALL } else { RISE };
        self.limit = (self.limit * factor).clamp(LIMIT_MIN, self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_replica_that_stands_still_is_further_behind_at_each_look() {
        let mut lag = ReplayLag::default();
        let at = |written, replayed| Position { written, replayed, measured: None };
        assert_eq!(lag.seen(at(100, 100), S), Duration::ZERO);
        assert_eq!(lag.seen(at(200, 100), S * 2), Duration::ZERO, "since just now, as far as we know");
        assert_eq!(lag.seen(at(300, 150), S * 3), S);
        assert_eq!(lag.seen(at(300, 150), S * 9), S * 7, "nothing more is written, and nothing replayed");
        assert_eq!(lag.seen(at(300, 200), S * 10), S * 7, "it waits for what came at 3");
        assert_eq!(lag.seen(at(400, 300), S * 11), Duration::ZERO);
        assert_eq!(lag.seen(at(400, 400), S * 12), Duration::ZERO);
        assert_eq!(
            lag.seen(Position { measured: Some(S * 5), ..at(500, 450) }, S * 13),
            S * 5,
            "from before we looked"
        );
        assert_eq!(lag.seen(Position { measured: Some(S * 5), ..at(500, 500) }, S * 14), Duration::ZERO, "out of date");
    }

    #[test]
    fn it_remembers_a_bounded_number_of_positions_and_loses_little() {
        let mut lag = ReplayLag::default();
        for n in 1..100_000u32 {
            let found = lag.seen(Position { written: u64::from(n), replayed: 0, measured: None }, S * n);
            assert!(found >= S * (n - n / 3 - 1), "{found:?} at {n}");
            assert!(lag.positions.len() <= POSITIONS_MAX);
        }
    }

    #[test]
    fn it_slows_down_to_a_trickle_and_comes_back() {
        let mut slow = Slowdown::new(8);
        slow.looked(Some(S), S);
        assert_eq!(slow.limit(), 8.0, "at the limit, not beyond it");
        let until = |slow: &mut Slowdown, lag, end: f64| {
            (1..100).find(|_| {
                slow.looked(lag, S);
                slow.limit() == end
            })
        };
        assert_eq!(until(&mut slow, Some(S * 2), LIMIT_MIN), Some(22));
        assert_eq!(until(&mut slow, Some(S / 2), 8.0), Some(28));
        slow.looked(Some(S * 2), S);
        slow.looked(None, S);
        assert!(slow.limit() > 7.0);
    }
}
