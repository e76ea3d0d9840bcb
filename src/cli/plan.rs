//! `forebay plan`.

use std::path::Path;

use super::ExitCode;
use super::run::on_signals;
use crate::console;
use crate::engine::Stopper;
use crate::planner::{self, File, Options, PlanError};

pub fn run(config: &Path, options: &Options) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    // Nobody named the default one.
    let file = File { path: config, may_lack: config == Path::new("forebay.toml") };
    let Err(error) = planner::run(options, &file, &stopper) else { return ExitCode::Ok };
    console::err(format_args!("forebay plan: {error}"));
    match error {
        PlanError::Usage(_) => ExitCode::Usage,
        PlanError::Configuration(_) | PlanError::Refused => ExitCode::Config,
        PlanError::Unavailable(_) | PlanError::Interrupted => ExitCode::Unavailable,
        PlanError::Failed(_) => ExitCode::Internal,
    }
}
