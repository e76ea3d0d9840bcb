//! When a client that has ended is followed by another one, and from when on that one is trusted. Value in, value out.

use std::time::{Duration, Instant};

use crate::state::retry::Backoff;

/// Without an error for so long, a new client works, whether or not it was asked for anything: it asks for its number at once.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// One that did not work is followed by another one after a wait between these.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug)]
pub struct Renewal {
    backoff: Backoff,
    state: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Proven,
    /// It took another one's place then.
    New(Instant),
    /// It has ended, and is to be followed then.
    Ended(Instant),
}

/// What is to be done beside that.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    GivenUp,
    Proven,
}

impl Renewal {
    pub fn new() -> Renewal {
        Renewal { backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX), state: Life::Proven }
    }

    /// `ended`, `proven`: what the client of the moment has heard.
    pub fn step(&mut self, now: Instant, ended: bool, proven: bool) -> Step {
        match self.state {
            Life::Ended(_) => Step::Nothing,
            Life::Proven if ended => {
                self.backoff.reset();
                self.state = Life::Ended(now);
                Step::GivenUp
            }
            Life::New(_) if ended => {
                self.state = Life::Ended(now + self.backoff.next(1.0));
                Step::GivenUp
            }
            Life::New(since) if proven || now.saturating_duration_since(since) >= PROVEN_AFTER => {
                self.state = Life::Proven;
                Step::Proven
            }
            Life::Proven | Life::New(_) => Step::Nothing,
        }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, Life::Ended(until) if now >= until)
    }

    /// Another one was made, or could not be.
    pub fn tried(&mut self, now: Instant, replaced: bool) {
        self.state = if replaced { Life::New(now) } else { Life::Ended(now + self.backoff.next(1.0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first loss is mended at once; a client that ends again and again is not made again and again without a pause.
    #[test]
    fn a_producer_that_has_ended_is_followed_by_another_one() {
        let (mut renewal, start) = (Renewal::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!((renewal.step(at(0), false, false), renewal.is_due(at(0))), (Step::Nothing, false));
        assert_eq!((renewal.step(at(1), true, true), renewal.is_due(at(1))), (Step::GivenUp, true));
        renewal.tried(at(1), true);
        // It works once the brokers took something of it.
        assert_eq!(renewal.step(at(2), false, false), Step::Nothing);
        assert_eq!(renewal.step(at(3), false, true), Step::Proven);
        assert_eq!(renewal.step(at(4), false, true), Step::Nothing);
        // Or when nothing was wrong for a while.
        assert_eq!((renewal.step(at(10), true, true), renewal.is_due(at(10))), (Step::GivenUp, true));
        renewal.tried(at(10), true);
        assert_eq!(renewal.step(at(5_009), false, false), Step::Nothing);
        assert_eq!(renewal.step(at(5_010), false, false), Step::Proven);
        // Until then each next one comes later.
        assert_eq!(renewal.step(at(6_000), true, false), Step::GivenUp);
        let mut now = 6_000;
        for wait in [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            renewal.tried(at(now), true);
            assert_eq!(renewal.step(at(now), true, false), Step::GivenUp);
            assert_eq!(renewal.step(at(now), true, false), Step::Nothing, "it is said once");
            assert!(!renewal.is_due(at(now + wait - 1)) && renewal.is_due(at(now + wait)), "{wait}");
            now += wait;
        }
        // One that cannot be made is tried again later, too.
        renewal.tried(at(now), false);
        assert!(!renewal.is_due(at(now + 9_999)) && renewal.is_due(at(now + 10_000)));
    }
}
