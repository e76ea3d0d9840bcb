//! The highest rate that sync bears, without disturbances: steps of constant rates, each twice the one before, until one is not borne;
//! then between the last two. A step that was not borne is tried once more: on a machine with other work a hiccup is no limit. What is
//! found is the machine's limit, and not the mode's, where nothing of the machine was left.

use std::time::Duration;

use crate::bench::progress::Progress;
use crate::compare::CompareError;
use crate::compare::cpu::Busy;
use crate::compare::environment::Environment;
use crate::compare::findings::{Mode, Search, Step};
use crate::compare::generator::{Live, Load};
use crate::compare::ledger::{self, times};
use crate::compare::moment::Zero;
use crate::compare::options::Options;
use crate::compare::requests::Requests;
use crate::compare::rig::{self, Rig};
use crate::compare::schedule::{Schedule, Segment};
use crate::engine::Stopper;
use crate::words::grouped;

const FIRST: u64 = 100;
const MOST: u64 = 100_000;
const STEP_SECONDS: f64 = 3.0;
/// Of each step the first part does not count: connections are opened, and what the one before left is done.
const SETTLE_SECONDS: f64 = 0.5;
/// Between borne and not borne the ratio is halved so often, on a logarithmic scale: to about 9 %.
const HALVINGS: u32 = 3;
/// A machine that is busy to so much has nothing left.
const BUSY_PERCENT: f64 = 95.0;
/// A generator that is so late (p99) does not get the CPU that it needs.
const LATE_MS: f64 = 10.0;

/// See the module's text. Whatever ends it, `found` has the steps that were done.
pub fn search(
    environment: &mut Environment,
    options: &Options,
    stopper: &Stopper,
    found: &mut Search,
) -> Result<(), CompareError> {
    let mut rig = Rig::start(environment, Mode::Sync, options, stopper)?;
    let mut progress = Progress::new("what sync bears", u64::from(expected_steps()), "steps");
    let mut first = 0;
    let mut one = |rate: u64, found: &mut Search| -> Result<bool, CompareError> {
        for _ in 0..2 {
            progress.show(found.steps.len() as u64, &format!(", {}/s", grouped(rate)));
            let step = step(&mut rig, rate, &mut first, options, stopper)?;
            let borne = step.borne;
            found.steps.push(step);
            if borne {
                break;
            }
        }
        let borne = found.steps.last().is_some_and(|step| step.borne);
        if borne {
            found.borne = Some(rate);
        } else {
            found.not_borne = Some(rate);
            found.machine_was_the_limit = found.steps.last().is_some_and(took_all);
        }
        Ok(borne)
    };
    let mut rate = FIRST;
    while rate <= MOST && one(rate, found)? {
        rate *= 2;
    }
    for _ in 0..HALVINGS {
        let (Some(borne), Some(not_borne)) = (found.borne, found.not_borne) else { break };
        let rate = between(borne, not_borne);
        if rate == borne {
            break;
        }
        one(rate, found)?;
    }
    drop(progress);
    let made = rig.stop()?;
    environment.drop_topic(&made.topic);
    Ok(())
}

/// Whether there was nothing left of the machine.
fn took_all(step: &Step) -> bool {
    step.busy_percent.is_some_and(|percent| percent >= BUSY_PERCENT) || step.late_p99_ms >= LATE_MS
}

fn expected_steps() -> u32 {
    8 + HALVINGS
}

/// The geometric mean, in two digits that people can read.
fn between(low: u64, high: u64) -> u64 {
    let mean = (low as f64 * high as f64).sqrt();
    let digit = 10f64.powf(mean.log10().floor() - 1.0).max(1.0);
    (((mean / digit).round() * digit) as u64).clamp(low.min(high), high)
}

fn step(rig: &mut Rig, rate: u64, first: &mut u64, options: &Options, stopper: &Stopper) -> Result<Step, CompareError> {
    let segments = vec![Segment::constant(SETTLE_SECONDS + STEP_SECONDS, rate as f64)];
    let schedule = Schedule::new(-SETTLE_SECONDS, segments);
    let requests = Requests::new(options.keys, options.skew, options.seed, options.value_bytes);
    let load = Load {
        address: rig.address,
        schedule: &schedule,
        requests: &requests,
        first: *first,
        connections: options.connections,
        timeout: options.timeout,
    };
    let zero = Zero::after(Duration::from_secs_f64(SETTLE_SECONDS + 0.3));
    let (live, mut busy) = (Live::default(), Busy::default());
    let ledger = rig::drive(&load, zero, &live, || {
        if stopper.is_stopped() {
            return Err(CompareError::Interrupted);
        }
        if (0.0..STEP_SECONDS).contains(&zero.now_s()) {
            busy.look();
        }
        rig.check()
    })?;
    *first += schedule.requests();
    let none = vec![None; ledger.entries.len()];
    let sum = ledger::sum_of(&ledger, &none, |at| at >= 0.0);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let p99_ms = sum.request_ms().map_or(ms(options.timeout), |of| of.p99);
    let borne = sum.accepted == sum.offered && p99_ms <= ms(options.borne_p99);
    Ok(Step {
        rate,
        seconds: STEP_SECONDS,
        offered: sum.offered,
        accepted: sum.accepted,
        p99_ms,
        late_p99_ms: times(&ledger.late).map_or(0.0, |late| late.p99),
        busy_percent: busy.percent(),
        borne,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_machine_s_where_nothing_of_it_was_left() {
        let step = |busy_percent, late_p99_ms| Step { busy_percent, late_p99_ms, ..Step::default() };
        for (busy, late_ms, expectation) in
            [(Some(60.0), 0.4, false), (Some(98.0), 0.4, true), (None, 0.4, false), (Some(60.0), 30.0, true)]
        {
            assert_eq!(took_all(&step(busy, late_ms)), expectation, "{busy:?} {late_ms}");
        }
    }

    #[test]
    fn halfway_on_a_logarithmic_scale_in_readable_numbers() {
        for (low, high, expectation) in [(1600, 3200, 2300), (2300, 3200, 2700), (100, 200, 140), (7, 8, 7), (1, 2, 1)]
        {
            assert_eq!(between(low, high), expectation, "{low} {high}");
        }
    }
}
