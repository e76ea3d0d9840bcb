//! Whether a shard may be tried at all: a breaker that the first outage opens, and that only a probe closes. So a server that
//! is away, full or read-only sees one attempt at a time instead of one from every worker.

use std::time::Duration;

use crate::state::retry::Backoff;

/// See the module's text.
///
/// A probe that works closes it, and everybody goes on at once. What a probe can do the work itself may not be able to do (a
/// full disk takes connections): then it opens again, and the waits go on growing until some work has really been done.
#[derive(Debug, Clone)]
pub struct Breaker {
    backoff: Backoff,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// A probe worked; nothing else has yet.
    Unproven,
    Open {
        probe_at: Duration,
    },
}

impl Breaker {
    pub fn new(backoff: Backoff) -> Breaker {
        Breaker { backoff, state: State::Closed }
    }

    /// When the next probe is due; none while it is closed.
    pub fn probe_at(&self) -> Option<Duration> {
        match self.state {
            State::Open { probe_at } => Some(probe_at),
            State::Closed | State::Unproven => None,
        }
    }

    /// Whether it is neither open nor unproven: then there is nothing to be told of work that was done.
    pub fn is_proven(&self) -> bool {
        self.state == State::Closed
    }

    /// Somebody's work met an outage. Says whether that opened it: of those whose work was under way already, only the first.
    pub fn failed(&mut self, now: Duration, random: f64) -> bool {
        let opens = self.probe_at().is_none();
        if opens {
            self.state = State::Open { probe_at: now + self.backoff.next(random) };
        }
        opens
    }

    /// A probe failed.
    pub fn probe_failed(&mut self, now: Duration, random: f64) {
        self.state = State::Open { probe_at: now + self.backoff.next(random) };
    }

    /// A probe worked. Says whether that closed it.
    pub fn probed(&mut self) -> bool {
        let closes = self.probe_at().is_some();
        if closes {
            self.state = State::Unproven;
        }
        closes
    }

    /// Work was done. Some that began before it opened may still end well: that closes nothing.
    pub fn worked(&mut self) {
        if self.probe_at().is_none() {
            self.state = State::Closed;
            self.backoff.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn breaker() -> Breaker {
        Breaker::new(Backoff::new(MS(100), MS(1000)))
    }

    #[test]
    fn the_first_failure_opens_it_and_a_probe_closes_it() {
        let mut breaker = breaker();
        assert_eq!((breaker.probe_at(), breaker.is_proven()), (None, true));
        assert!(breaker.failed(MS(5000), 1.0));
        assert!(!breaker.failed(MS(5050), 1.0), "one that was under way");
        assert_eq!(breaker.probe_at(), Some(MS(5100)));
        breaker.worked();
        assert_eq!(breaker.probe_at(), Some(MS(5100)), "what began before says nothing");
        breaker.probe_failed(MS(5100), 1.0);
        assert_eq!(breaker.probe_at(), Some(MS(5300)));
        assert!(breaker.probed() && !breaker.probed());
        assert_eq!((breaker.probe_at(), breaker.is_proven()), (None, false));
    }

    #[test]
    fn probes_that_work_do_not_hide_work_that_fails() {
        let mut breaker = breaker();
        let mut now = Duration::ZERO;
        let waits: Vec<u128> = (0..6)
            .map(|_| {
                breaker.failed(now, 1.0);
                let at = breaker.probe_at().expect("open");
                let wait = at - now;
                now = at;
                breaker.probed();
                wait.as_millis()
            })
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        breaker.worked();
        breaker.failed(now, 1.0);
        assert_eq!(breaker.probe_at(), Some(now + MS(100)), "work was done in between");
    }
}
