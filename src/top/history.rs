//! The lag of the last minutes, as it was seen from here. Time is passed in, as a duration since the start.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back the curves go.
pub const SPAN: Duration = Duration::from_secs(300);

/// A trend is that of so long.
const TREND: Duration = Duration::from_secs(30);

/// From fewer seconds nothing can be told.
const TREND_MIN: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: Duration,
    /// Without what is parked.
    pub time_lag_ms: u64,
    pub message_lag: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct History(VecDeque<Sample>);

impl History {
    pub fn push(&mut self, sample: Sample) {
        self.0.push_back(sample);
        while self.0.front().is_some_and(|first| first.at + SPAN < sample.at) {
            self.0.pop_front();
        }
    }

    /// The largest value of each of `width` equal parts of the last [`SPAN`], the oldest first; none of a part without a sample.
    pub fn bars(&self, width: usize, now: Duration, value: impl Fn(&Sample) -> Option<u64>) -> Vec<Option<u64>> {
        let mut bars = vec![None; width];
        // The parts' borders stand still, so that a bar does not change while it moves.
        let part = (SPAN.as_millis() / width.max(1) as u128).max(1);
        let newest = now.as_millis() / part;
        for sample in &self.0 {
            let back = newest.saturating_sub(sample.at.as_millis() / part) as usize;
            if let (Some(value), Some(index)) = (value(sample), width.checked_sub(back + 1)) {
                bars[index] = Some(bars[index].unwrap_or(0).max(value));
            }
        }
        bars
    }

    /// Of the message lag, in records a second: how much more it gets.
    pub fn message_trend(&self) -> Option<f64> {
        self.trend(|sample| sample.message_lag)
    }

    /// Of the time lag, in milliseconds a second.
    pub fn time_trend(&self) -> Option<f64> {
        self.trend(|sample| Some(sample.time_lag_ms))
    }

    fn trend(&self, value: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
        let last = self.0.back()?;
        let first = self.0.iter().find(|sample| sample.at + TREND >= last.at)?;
        let seconds = last.at.checked_sub(first.at).filter(|time| *time >= TREND_MIN)?.as_secs_f64();
        Some((value(last)? as f64 - value(first)? as f64) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(samples: &[(u64, u64)]) -> History {
        let mut history = History::default();
        for (second, lag) in samples {
            let at = Duration::from_secs(*second);
            history.push(Sample { at, time_lag_ms: lag * 10, message_lag: Some(*lag) });
        }
        history
    }

    #[test]
    fn each_bar_is_the_most_of_its_time() {
        let history = history(&[(0, 9), (61, 1), (62, 5), (119, 2), (290, 7)]);
        let bars = history.bars(5, Duration::from_secs(299), |sample| sample.message_lag);
        assert_eq!(bars, [Some(9), Some(5), None, None, Some(7)]);
        let bars = history.bars(5, Duration::from_secs(301), |sample| sample.message_lag);
        assert_eq!(bars, [Some(5), None, None, Some(7), None], "all moved by one");
        assert!(history.bars(0, Duration::from_secs(301), |sample| sample.message_lag).is_empty());
    }

    #[test]
    fn a_trend_is_that_of_the_last_seconds() {
        assert_eq!(history(&[(0, 0), (3, 90)]).message_trend(), None, "too short");
        assert_eq!(history(&[(0, 0), (100, 0), (110, 500)]).message_trend(), Some(50.0));
        assert_eq!(history(&[(0, 500), (10, 0)]).time_trend(), Some(-500.0));
    }

    #[test]
    fn what_is_older_than_the_curves_is_forgotten() {
        assert_eq!(history(&[(0, 1), (1, 1), (301, 1)]).0.len(), 2);
    }
}
