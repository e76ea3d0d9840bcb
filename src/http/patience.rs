//! What a peer is waited for with, since when, and for how long at most.

use std::time::{Duration, Instant};

use super::limits::Limits;

/// What the peer is to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The first byte of a request.
    Begin,
    /// The same, of a connection that will only be told that it is one too many.
    SurplusBegin,
    HeadEnd,
    BodyEnd,
    /// Nothing: first something must be answered, or taken by it.
    Nothing,
}

/// A wait for a peer. Time that the peer is not waited for does not count.
#[derive(Debug)]
pub struct Patience {
    awaited: Awaited,
    since: Instant,
    /// How many messages there were by then.
    messages: u64,
}

impl Patience {
    /// With a connection that has just begun.
    pub fn new(awaited: Awaited, now: Instant) -> Patience {
        Patience { awaited, since: now, messages: 0 }
    }

    /// `awaited` is waited for now, after so many messages. The wait begins anew only if it is another one.
    pub fn settle(&mut self, awaited: Awaited, messages: u64, now: Instant) {
        if awaited != self.awaited || messages != self.messages {
            *self = Patience { awaited, since: now, messages };
        }
    }

    /// How long `awaited` has been waited for, if that is what is waited for.
    pub fn waited(&self, awaited: Awaited, now: Instant) -> Option<Duration> {
        (self.awaited == awaited).then(|| now.saturating_duration_since(self.since))
    }

    /// What was waited for too long, and how long that is.
    pub fn is_over(&self, limits: &Limits, now: Instant) -> Option<(Awaited, Duration)> {
        let deadline = match self.awaited {
            // A connection is made for a request, so the first one is not waited for as long as another one.
            Awaited::Begin if self.messages == 0 => limits.head_deadline.min(limits.idle_deadline),
            Awaited::Begin => limits.idle_deadline,
            Awaited::SurplusBegin => limits.linger_deadline,
            Awaited::HeadEnd => limits.head_deadline,
            Awaited::BodyEnd => limits.body_deadline,
            Awaited::Nothing => return None,
        };
        (now.saturating_duration_since(self.since) >= deadline).then_some((self.awaited, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_is_not_waited_for_long() {
        let limits = Limits { linger_deadline: Duration::from_secs(1), ..Limits::default() };
        let start = Instant::now();
        let patience = Patience::new(Awaited::SurplusBegin, start);
        assert!(patience.is_over(&limits, start).is_none());
        assert!(patience.is_over(&limits, start + limits.linger_deadline).is_some());
    }

    #[test]
    fn a_wait_begins_anew_only_with_another_one() {
        let limits = Limits {
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            idle_deadline: Duration::from_secs(60),
            ..Limits::default()
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Awaited::Begin, start);
        let check = |patience: &Patience, due: u64, awaited| {
            assert_eq!(patience.is_over(&limits, at(due - 1)), None);
            assert_eq!(patience.is_over(&limits, at(due)).map(|(awaited, _)| awaited), Some(awaited));
        };
        check(&patience, 10, Awaited::Begin);
        patience.settle(Awaited::HeadEnd, 0, at(9));
        patience.settle(Awaited::HeadEnd, 0, at(15));
        check(&patience, 19, Awaited::HeadEnd);
        patience.settle(Awaited::BodyEnd, 0, at(18));
        check(&patience, 48, Awaited::BodyEnd);
        patience.settle(Awaited::Nothing, 1, at(20));
        assert_eq!(patience.is_over(&limits, at(1_000_000)), None);
        patience.settle(Awaited::HeadEnd, 1, at(100));
        check(&patience, 110, Awaited::HeadEnd);
        patience.settle(Awaited::HeadEnd, 2, at(105));
        check(&patience, 115, Awaited::HeadEnd);
        patience.settle(Awaited::Begin, 3, at(110));
        check(&patience, 170, Awaited::Begin);
    }
}
