//! `forebay demo`: its options, and the exit code that says how it went.

use crate::console;
use crate::demo::{self, DemoError, Options};
use crate::engine::Stopper;

use super::ExitCode;
use super::run::on_signals;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many updates to publish.
    #[arg(long, value_name = "N", default_value_t = demo::RECORDS)]
    records: u32,
    /// How many rows they update [default: 50000, but at most a quarter of the updates].
    #[arg(long, value_name = "N")]
    rows: Option<u32>,
    /// Publish so many a second [default: three quarters as fast as they are applied, then 10000 a second].
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Leave PostgreSQL running, and say how to look at it and how to remove it.
    #[arg(long)]
    keep: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        console::err(format_args!("no handlers for signals: {error}"));
        return ExitCode::Internal;
    }
    let Arguments { records, rows, rate, keep } = *arguments;
    let result = Options::new(records, rows, rate, keep).and_then(|options| demo::run(&options, &stopper));
    let Err(error) = result else { return ExitCode::Ok };
    console::err(format_args!("forebay demo: {error}"));
    match error {
        DemoError::Usage(_) => ExitCode::Usage,
        DemoError::Unavailable(_) | DemoError::Interrupted => ExitCode::Unavailable,
        DemoError::Engine(error) => ExitCode::from(&error),
        DemoError::Failed(_) => ExitCode::Internal,
    }
}
