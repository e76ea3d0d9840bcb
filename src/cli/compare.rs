//! `forebay compare`.

use super::ExitCode;
use super::run::{on_signals, raise_descriptors};
use crate::bench::BenchError;
use crate::compare::{self, CompareError, Options, Written};
use crate::console;
use crate::demo::DemoError;
use crate::engine::Stopper;

pub fn run(written: Written) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    raise_descriptors();
    let Err(error) = Options::new(written).and_then(|options| compare::run(&options, &stopper)) else {
        return ExitCode::Ok;
    };
    console::err(format_args!("forebay compare: {error}"));
    match error {
        CompareError::Usage(_) | CompareError::Bench(BenchError::Usage(_)) => ExitCode::Usage,
        CompareError::Bench(BenchError::Configuration(_)) => ExitCode::Config,
        CompareError::Bench(BenchError::Engine(error)) => ExitCode::from(&error),
        CompareError::Failed(_) | CompareError::Bench(BenchError::Failed(_)) => ExitCode::Internal,
        CompareError::Server(DemoError::Failed(_)) => ExitCode::Internal,
        CompareError::Unavailable(_) | CompareError::Interrupted => ExitCode::Unavailable,
        CompareError::Bench(_) | CompareError::Server(_) => ExitCode::Unavailable,
    }
}
