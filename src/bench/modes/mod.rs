//! What is measured, mode by mode.

mod burst;
mod catch_up;
mod drain;
mod hot_key;
mod live;
mod no_database;
mod ramp;
mod slow_handler;
mod steady;

use crate::bench::BenchError;
use crate::bench::options::Mode;
use crate::bench::run::Bench;

/// Every mode that was asked for, one after the other. Ended early it is no error: what there is by then is reported.
pub fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    for mode in &bench.options.modes {
        let done = match mode {
            Mode::CatchUp => catch_up::run(bench),
            Mode::Steady => steady::run(bench),
            Mode::Ramp => ramp::run(bench),
            Mode::Burst => burst::run(bench),
            Mode::SlowHandler => slow_handler::run(bench),
            Mode::HotKey => hot_key::run(bench),
            Mode::NoDatabase => no_database::run(bench),
        };
        match done {
            Err(BenchError::Interrupted) => return Ok(()),
            other => other?,
        }
        if bench.stopper.is_stopped() {
            return Ok(());
        }
    }
    Ok(())
}
