//! How long to wait before the next try: exponential, jittered, bounded. And when to say that trying is all that happens.

use std::collections::VecDeque;
use std::time::Duration;

/// Waits between `min` and `max`; half of each is random, so that many workers do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max: max.max(min), attempt: 0 }
    }

    /// The next wait; `random` is anything in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let full = self.min.saturating_mul(1 << self.attempt.min(20)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Tries in vain are worth a word after this time, …
const SAY_AFTER: Duration = Duration::from_secs(10);
/// … and again each time this passed.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How long something has been tried in vain: a lock that somebody holds for minutes must not look like a quiet day.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trying {
    /// When the first try failed, and when to say so (again).
    since: Option<(Duration, Duration)>,
    said: bool,
}

impl Trying {
    /// Another try failed: for how long they have been failing, where that is to be said now.
    pub fn failed(&mut self, now: Duration) -> Option<Duration> {
        let (since, say_at) = *self.since.get_or_insert((now, now + SAY_AFTER));
        (now >= say_at).then(|| {
            self.since = Some((since, now + SAY_EVERY));
            self.said = true;
            now - since
        })
    }

    /// A try worked, or there is nothing to try any more: for how long it did not, where that was said.
    pub fn ended(&mut self, now: Duration) -> Option<Duration> {
        let before = std::mem::take(self);
        before.since.filter(|_| before.said).map(|(since, _)| now - since)
    }
}

/// The latest notices: while brokers are away, librdkafka repeats the same few several times a second.
#[derive(Debug, Default)]
pub struct Notices(VecDeque<(String, Duration)>);

impl Notices {
    /// That many different ones are remembered.
    const MAX: usize = 16;

    /// Whether it is news: not said within the last minute.
    pub fn is_news(&mut self, text: &str, now: Duration) -> bool {
        self.0.retain(|(_, said)| now < *said + SAY_EVERY);
        if self.0.iter().any(|(said, _)| said == text) {
            return false;
        }
        if self.0.len() == Notices::MAX {
            self.0.pop_front();
        }
        self.0.push_back((text.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_said_once_a_minute() {
        let s = Duration::from_secs;
        let mut notices = Notices::default();
        let said = (0..130).filter(|t| notices.is_news("broker down", s(*t))).collect::<Vec<_>>();
        assert_eq!(said, [0, 60, 120]);
        assert!(notices.is_news("another", s(130)) && !notices.is_news("another", s(131)));
        (0..100).for_each(|n| assert!(notices.is_news(&n.to_string(), s(132))));
        assert_eq!(notices.0.len(), Notices::MAX);
    }

    #[test]
    fn trying_in_vain_is_said_after_a_while_then_once_a_minute_and_when_it_ends() {
        let s = Duration::from_secs;
        let mut trying = Trying::default();
        let said: Vec<u64> = (100..=300).filter(|t| trying.failed(s(*t)).is_some()).collect();
        assert_eq!(said, [110, 170, 230, 290]);
        assert_eq!(trying.ended(s(301)), Some(s(201)));
        assert_eq!((trying.failed(s(302)), trying.failed(s(311))), (None, None), "a new one");
        assert_eq!(trying.ended(s(312)), None, "nobody heard of it");
    }

    #[test]
    fn doubles_up_to_its_bound_and_jitters_down_to_half() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(300));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 300, 300]);
        assert_eq!(backoff.next(0.0).as_millis(), 150);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 50);
    }
}
