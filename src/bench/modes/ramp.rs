//! A rate that rises step by step until time lag grows: the most that is borne.

use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::figures::{Ramp, Step};
use crate::bench::modes::live::{Lived, Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

/// From step to step, in per cent.
const RISE_PERCENT: u64 = 25;
/// Beyond this time lag is watched: below it is what a checkpoint, or a scheduler, may do now and then.
const LAG_MS: u64 = 1_000;
/// Above it, and not falling, for so long: it grows.
const GROWS_FOR: Duration = Duration::from_secs(3);
/// A step whose end finds records waiting goes on for so long, until it is clear whether they become fewer.
const EXTRA: Duration = Duration::from_secs(15);
/// Beyond any machine there is.
const RATE_MAX: u64 = 10_000_000;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (workload, rate, period) = (bench.options.workload.clone(), bench.options.rate, bench.options.period);
    for _ in 0..bench.options.rounds {
        let mut steps = Steps::new(rate, period);
        let traffic = Traffic {
            what: "ramp",
            target: Target::Insert,
            work: Work::Table,
            workload: &workload,
            rate,
            warm_up: warm_up(f64::INFINITY),
            period: period * 5,
            without: None,
        };
        let mut lived = live(bench, traffic, |look| steps.look(look.at, look.sample.time_lag_ms))?;
        let ramp = ramp(bench, &lived, steps)?;
        lived.round.ramp = Some(ramp);
        bench.push(Mode::Ramp, "", lived.round);
        if bench.stopper.is_stopped() {
            break;
        }
    }
    Ok(())
}

/// With each step's latencies.
fn ramp(bench: &Bench<'_>, lived: &Lived, steps: Steps) -> Result<Ramp, BenchError> {
    let broken = steps.done.last().filter(|taken| !taken.borne).map(|taken| taken.rate);
    let borne = steps.done.iter().filter(|taken| taken.borne).map(|taken| taken.rate).max();
    let mut told = Vec::new();
    for taken in &steps.done {
        let latency = lived.latency(bench, taken.from, taken.to)?;
        told.push(Step {
            rate_per_s: taken.rate,
            seconds: (taken.to - taken.from).as_secs_f64(),
            borne: taken.borne,
            time_lag_max_ms: taken.lag_max_ms,
            written_ms: latency.map(|latency| latency.quantiles),
        });
    }
    Ok(Ramp {
        borne_per_s: borne,
        broken_per_s: broken,
        publisher_was_the_limit: broken.is_some() && lived.publisher_was_late,
        steps: told,
    })
}

/// The steps so far, and the one under way.
struct Steps {
    period: Duration,
    rate: u64,
    began: Duration,
    lag_max_ms: u64,
    /// Since when time lag has been beyond [`LAG_MS`], and what it was then.
    beyond: Option<(Duration, u64)>,
    done: Vec<Taken>,
}

/// A step that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    rate: u64,
    from: Duration,
    to: Duration,
    borne: bool,
    lag_max_ms: u64,
}

impl Steps {
    fn new(rate: u64, period: Duration) -> Steps {
        Steps { period, rate, began: Duration::ZERO, lag_max_ms: 0, beyond: None, done: Vec::new() }
    }

    fn look(&mut self, at: Duration, lag_ms: u64) -> Next {
        self.lag_max_ms = self.lag_max_ms.max(lag_ms);
        if lag_ms < LAG_MS {
            self.beyond = None;
        } else {
            let (since, then_ms) = *self.beyond.get_or_insert((at, lag_ms));
            if at - since >= GROWS_FOR {
                if lag_ms > then_ms {
                    return self.end(at, false);
                }
                // It falls: from here on anew.
                self.beyond = Some((at, lag_ms));
            }
        }
        match at - self.began {
            over if over >= self.period && self.beyond.is_none() => self.end(at, true),
            over if over >= self.period + EXTRA => self.end(at, false),
            _ => Next::Go,
        }
    }

    fn end(&mut self, at: Duration, borne: bool) -> Next {
        let taken = Taken { rate: self.rate, from: self.began, to: at, borne, lag_max_ms: self.lag_max_ms };
        self.done.push(taken);
        (self.began, self.lag_max_ms) = (at, 0);
        self.rate += (self.rate * RISE_PERCENT / 100).max(1);
        if borne && self.rate <= RATE_MAX { Next::Rate(self.rate) } else { Next::Over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks ten times a second at a lag that is a function of the time in seconds, until it is over or for a minute.
    fn taken(lag_ms: impl Fn(f64) -> u64) -> Vec<(u64, f64, bool)> {
        let mut steps = Steps::new(1000, Duration::from_secs(10));
        for tenth in 0..600 {
            let at = Duration::from_millis(tenth * 100);
            if steps.look(at, lag_ms(at.as_secs_f64())) == Next::Over {
                break;
            }
        }
        steps.done.iter().map(|taken| (taken.rate, taken.to.as_secs_f64(), taken.borne)).collect()
    }

    #[test]
    fn it_rises_until_time_lag_grows() {
        let grows_from = |from: f64| move |at: f64| if at < from { 20 } else { ((at - from) * 1000.0) as u64 };
        assert_eq!(taken(grows_from(21.0)), [(1000, 10.0, true), (1250, 20.0, true), (1562, 25.0, false)]);
        assert_eq!(taken(grows_from(0.0)), [(1000, 4.0, false)], "too much from the begin");
    }

    #[test]
    fn a_stall_that_is_made_up_for_breaks_nothing() {
        let stall = |at: f64| if (8.0..10.5).contains(&at) { 1500 } else { 20 };
        assert_eq!(taken(stall)[..2], [(1000, 10.5, true), (1250, 20.5, true)], "the step waits for its end");
        let falls = |at: f64| (5000.0 - at * 400.0).max(10.0) as u64;
        assert!(taken(falls)[0].2, "a backlog that becomes smaller");
    }

    #[test]
    fn a_backlog_that_neither_grows_nor_goes_is_not_borne() {
        assert_eq!(taken(|_| 1500), [(1000, 25.0, false)]);
    }
}
