//! `forebay bench`, and the process that it runs the engine in.

use std::path::Path;

use super::run::on_signals;
use super::{ExitCode, log};
use crate::bench::{self, BenchError, Options, Settings, Written};
use crate::console;
use crate::engine::Stopper;

pub fn run(config: &Path, written: Written) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    let result = Options::new(written, config, log::level()).and_then(|options| {
        let settings = Settings::read(&options.sources)?;
        bench::run(&options, settings, &stopper)
    });
    let Err(error) = result else { return ExitCode::Ok };
    console::err(format_args!("forebay bench: {error}"));
    match error {
        BenchError::Usage(_) => ExitCode::Usage,
        BenchError::Configuration(_) => ExitCode::Config,
        BenchError::Unavailable(_) | BenchError::Interrupted => ExitCode::Unavailable,
        BenchError::Engine(error) => ExitCode::from(&error),
        BenchError::Failed(_) => ExitCode::Internal,
    }
}

/// The engine's process. What it has to say it says to whoever started it.
pub fn engine() -> ExitCode {
    bench::child();
    ExitCode::Ok
}
