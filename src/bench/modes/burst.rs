//! A burst: steady traffic, then some times as much for a while, then as before. How far behind it gets, and how long until time
//! lag is what it was.

use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::figures::Burst;
use crate::bench::modes::live::{Look, Next, Traffic, live, warm_up};
use crate::bench::options::Mode;
use crate::bench::protocol::Work;
use crate::bench::run::Bench;
use crate::bench::settings::Target;

/// The burst's part of the period; a second at least.
const BURST_PART: u32 = 4;
/// Time lag is normal again when it has been for so long.
const CALM: Duration = Duration::from_secs(2);
/// Less than this is nothing to recover from.
const NORMAL_MS_MIN: u64 = 100;
/// It is waited for the recovery for so many periods.
const PERIODS_MAX: u32 = 10;

pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (workload, rate, period) = (bench.options.workload.clone(), bench.options.rate, bench.options.period);
    let factor = bench.options.burst_factor;
    for _ in 0..bench.options.rounds {
        let mut course = Course::new(rate, rate * factor, period);
        let traffic = Traffic {
            what: "burst",
            target: Target::Insert,
            work: Work::Table,
            workload: &workload,
            rate,
            warm_up: warm_up(f64::INFINITY),
            period: period * 2,
            without: None,
        };
        let mut lived = live(bench, traffic, |look| course.look(look))?;
        lived.round.burst = Some(course.told);
        bench.push(Mode::Burst, "", lived.round);
        if bench.stopper.is_stopped() {
            break;
        }
    }
    Ok(())
}

/// How far it is.
struct Course {
    period: Duration,
    burst: Duration,
    phase: Phase,
    told: Burst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    Burst {
        began: Duration,
    },
    /// Since when time lag is normal.
    After {
        began: Duration,
        calm: Option<Duration>,
    },
}

impl Course {
    fn new(base_per_s: u64, burst_per_s: u64, period: Duration) -> Course {
        let burst = (period / BURST_PART).max(Duration::from_secs(1));
        let told = Burst { base_per_s, burst_per_s, normal_ms: NORMAL_MS_MIN, ..Burst::default() };
        Course { period, burst, phase: Phase::Before, told }
    }

    fn look(&mut self, Look { at, sample, behind }: &Look) -> Next {
        let (at, lag_ms) = (*at, sample.time_lag_ms);
        if self.phase != Phase::Before {
            self.told.behind_records_max = self.told.behind_records_max.max(*behind);
            self.told.time_lag_max_ms = self.told.time_lag_max_ms.max(lag_ms);
        }
        match self.phase {
            Phase::Before => {
                if at < self.period {
                    self.told.normal_ms = self.told.normal_ms.max(lag_ms);
                    return Next::Go;
                }
                self.phase = Phase::Burst { began: at };
                Next::Rate(self.told.burst_per_s)
            }
            Phase::Burst { began } => {
                self.told.burst_seconds = (at - began).as_secs_f64();
                if at - began < self.burst {
                    return Next::Go;
                }
                self.phase = Phase::After { began: at, calm: None };
                Next::Rate(self.told.base_per_s)
            }
            Phase::After { began, calm } => {
                let calm = (lag_ms <= self.told.normal_ms).then(|| calm.unwrap_or(at));
                self.phase = Phase::After { began, calm };
                match calm {
                    Some(since) if at - since >= CALM => {
                        self.told.recovery_seconds = Some((since - began).as_secs_f64());
                        Next::Over
                    }
                    _ if at - began > self.period * PERIODS_MAX => Next::Over,
                    _ => Next::Go,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::protocol::Sample;

    #[test]
    fn it_is_over_when_time_lag_has_been_normal_for_a_while() {
        let mut course = Course::new(100, 400, Duration::from_secs(8));
        let mut rates = Vec::new();
        let lag_ms = |at: f64| match at {
            at if at < 8.0 => 150,
            at if at < 10.0 => ((at - 8.0) * 1000.0) as u64,
            // Normal for a moment, and not yet again.
            at if (12.0..12.5).contains(&at) => 140,
            at if at < 14.0 => 500,
            _ => 120,
        };
        let over = (0..1000).find(|tenth| {
            let at = Duration::from_millis(tenth * 100);
            let sample = Sample { time_lag_ms: lag_ms(at.as_secs_f64()), ..Sample::default() };
            let next = course.look(&Look { at, sample, behind: tenth * 3 });
            if let Next::Rate(rate) = next {
                rates.push((*tenth, rate));
            }
            next == Next::Over
        });
        assert_eq!((rates, over), (vec![(80, 400), (100, 100)], Some(160)));
        let Burst { normal_ms, time_lag_max_ms, recovery_seconds, burst_seconds, behind_records_max, .. } = course.told;
        assert_eq!((normal_ms, time_lag_max_ms, recovery_seconds), (150, 1900, Some(4.0)));
        assert_eq!((burst_seconds, behind_records_max), (2.0, 480));
    }

    #[test]
    fn without_recovery_it_ends_all_the_same() {
        let mut course = Course::new(100, 400, Duration::from_secs(1));
        let sample = |at| Sample { time_lag_ms: if at < 10 { 0 } else { 9_000 }, ..Sample::default() };
        let look = |at: u64| Look { at: Duration::from_millis(at * 100), sample: sample(at), behind: 0 };
        let over = (0..1000).find(|at| course.look(&look(*at)) == Next::Over);
        assert_eq!((over, course.told.recovery_seconds), (Some(121), None));
    }
}
