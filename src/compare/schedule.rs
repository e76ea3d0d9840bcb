//! When requests are due, and when the disturbances come. Pure: times are seconds from the first request that counts, and nobody's
//! being late moves one of them.

/// Requests before those that count: connections are opened, and code and plans are warm.
pub const WARM_UP_S: f64 = 3.0;
/// Where a rate that is to rise over a run begins, as part of it.
const RAMP_FROM: f64 = 0.1;

/// A rate that goes evenly from one to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    pub seconds: f64,
    /// Requests a second.
    pub from: f64,
    pub to: f64,
}

impl Segment {
    pub fn constant(seconds: f64, rate: f64) -> Segment {
        Segment { seconds, from: rate, to: rate }
    }

    fn requests(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.seconds
    }

    /// After how many seconds of it `requests` were due: c = from·t + (to - from) / (2·seconds)·t², solved for t in the form that
    /// holds for a rate that stays the same, too.
    fn at(&self, requests: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        let root = (self.from * self.from + 2.0 * slope * requests).max(0.0).sqrt();
        if self.from + root > 0.0 { 2.0 * requests / (self.from + root) } else { 0.0 }
    }
}

/// The intended send times.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    segments: Vec<Segment>,
    /// Where each begins: seconds, and requests before it.
    begins: Vec<(f64, f64)>,
    end: (f64, f64),
}

impl Schedule {
    /// One segment after the other; the first begins at `begin_s`.
    pub fn new(begin_s: f64, segments: Vec<Segment>) -> Schedule {
        let mut at = (begin_s, 0.0);
        let mut begins = Vec::new();
        for segment in &segments {
            begins.push(at);
            at = (at.0 + segment.seconds, at.1 + segment.requests());
        }
        Schedule { segments, begins, end: at }
    }

    /// Of all segments.
    pub fn requests(&self) -> u64 {
        // What rounding takes from a whole number it gives back.
        (self.end.1 + 1e-6).floor() as u64
    }

    /// When request `n` is due, counted from 0.
    pub fn due_s(&self, n: u64) -> f64 {
        let n = n as f64;
        let index = self.begins.partition_point(|begin| begin.1 <= n).saturating_sub(1);
        let (Some(segment), Some(begin)) = (self.segments.get(index), self.begins.get(index)) else {
            return self.end.0;
        };
        begin.0 + segment.at(n - begin.1).min(segment.seconds)
    }
}

/// From when until when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub from_s: f64,
    pub to_s: f64,
}

impl Span {
    pub fn holds(&self, at_s: f64) -> bool {
        (self.from_s..self.to_s).contains(&at_s)
    }
}

/// When what happens in a run, the same in both modes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Script {
    pub seconds: f64,
    pub row_locked: Span,
    pub checkpoint_s: f64,
    pub shard_stopped: Span,
    pub burst: Span,
    /// What is given to a disturbance to be over behind its end.
    pub recovery_s: f64,
}

impl Script {
    /// In a minute or more a row is locked for 5 s, a shard stopped for 10 s, and a burst lasts 5 s; in less time all of it is shorter.
    pub fn new(seconds: u64) -> Script {
        let seconds = seconds as f64;
        let span = |from: f64, lasts: f64| Span { from_s: seconds * from, to_s: seconds * from + lasts };
        let short = (seconds / 12.0).min(5.0);
        Script {
            seconds,
            row_locked: span(1.0 / 6.0, short),
            checkpoint_s: seconds * 0.35,
            shard_stopped: span(25.0 / 60.0, 2.0 * short),
            burst: span(47.0 / 60.0, short),
            recovery_s: seconds / 12.0,
        }
    }

    /// The warm-up, which does not count, and the rate, with the burst in it. `ramp`: the rate is reached at the end.
    pub fn schedule(&self, rate: u64, burst_factor: u64, ramp: bool) -> Schedule {
        let begin = if ramp { RAMP_FROM } else { 1.0 };
        let at = |second: f64| rate as f64 * (begin + (1.0 - begin) * second / self.seconds);
        let part = |from_s: f64, to_s: f64, times: f64| Segment {
            seconds: to_s - from_s,
            from: times * at(from_s),
            to: times * at(to_s),
        };
        let segments = vec![
            Segment { seconds: WARM_UP_S, from: at(0.0) * 0.1, to: at(0.0) },
            part(0.0, self.burst.from_s, 1.0),
            part(self.burst.from_s, self.burst.to_s, burst_factor as f64),
            part(self.burst.to_s, self.seconds, 1.0),
        ];
        Schedule::new(-WARM_UP_S, segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_rate_is_even() {
        let schedule = Schedule::new(0.0, vec![Segment::constant(2.0, 250.0)]);
        assert_eq!(schedule.requests(), 500);
        for n in 0..500 {
            assert!((schedule.due_s(n) - n as f64 / 250.0).abs() < 1e-9, "{n}");
        }
    }

    #[test]
    fn a_ramp_has_the_rate_of_each_moment() {
        let schedule = Schedule::new(-4.0, vec![Segment { seconds: 4.0, from: 0.0, to: 1000.0 }]);
        assert_eq!((schedule.requests(), schedule.due_s(0)), (2000, -4.0));
        assert!(schedule.due_s(1999) < 0.0);
        // Half of the time has a quarter of the requests.
        assert!((schedule.due_s(500) + 2.0).abs() < 1e-9);
        let at = |from: f64, to: f64| (0..2000).filter(|n| (from..to).contains(&schedule.due_s(*n))).count();
        assert!((at(-1.1, -1.0) as i64 - 74).abs() <= 1, "{}", at(-1.1, -1.0));
        let down = Schedule::new(0.0, vec![Segment { seconds: 4.0, from: 1000.0, to: 0.0 }]);
        assert!((down.due_s(1500) - 2.0).abs() < 1e-9 && down.due_s(1999) < 4.0);
    }

    #[test]
    fn times_only_rise_over_all_segments() {
        let script = Script::new(60);
        let schedule = script.schedule(101, 3, false);
        let dues: Vec<f64> = (0..schedule.requests()).map(|n| schedule.due_s(n)).collect();
        assert!(dues.is_sorted() && dues[0] == -WARM_UP_S && *dues.last().unwrap() <= 60.0);
        let within = |span: &Span| dues.iter().filter(|due| span.holds(**due)).count() as i64;
        assert!((within(&script.burst) - 1515).abs() <= 1, "{}", within(&script.burst));
        assert!((within(&script.row_locked) - 505).abs() <= 1);
    }

    #[test]
    fn a_ramp_reaches_the_rate_at_the_end_and_has_its_burst() {
        let script = Script::new(60);
        let schedule = script.schedule(1000, 3, true);
        let dues: Vec<f64> = (0..schedule.requests()).map(|n| schedule.due_s(n)).collect();
        assert!(dues.is_sorted());
        let a_second = |from_s: f64| dues.iter().filter(|due| (from_s..from_s + 1.0).contains(*due)).count() as f64;
        // At its begin a tenth, halfway up 0.55, and 15 a second more with each second.
        for (from_s, expectation) in [(0.0, 107.5), (29.5, 550.0), (59.0, 992.5), (48.0, 3.0 * 827.5)] {
            assert!((a_second(from_s) - expectation).abs() <= 1.5, "{from_s}: {}", a_second(from_s));
        }
    }

    #[test]
    fn a_minute_has_the_whole_story_and_less_a_shorter_one() {
        let lasts = |span: Span| ((span.to_s - span.from_s) * 1000.0).round() / 1000.0;
        for (seconds, lock, stop) in [(60, 5.0, 10.0), (600, 5.0, 10.0), (12, 1.0, 2.0)] {
            let script = Script::new(seconds);
            assert_eq!((lasts(script.row_locked), lasts(script.shard_stopped)), (lock, stop));
            assert_eq!(lasts(script.burst), lock);
            // None begins before the one before it is over and done with.
            assert!(
                script.row_locked.to_s + lock <= script.checkpoint_s
                    && script.checkpoint_s < script.shard_stopped.from_s
            );
            assert!(script.shard_stopped.to_s + script.recovery_s < script.burst.from_s);
            assert!(script.burst.to_s + script.recovery_s < script.seconds);
        }
    }
}
