//! Logging to stderr: for people on a terminal, one JSON object a line otherwise.

use std::io::{IsTerminal, Write};
use std::str::FromStr;

use indicatif::ProgressBar;
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// A bar that is on the screen: lines go above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// From now on lines go above this bar, or where the cursor is.
pub fn above(bar: Option<ProgressBar>) {
    *BAR.lock() = bar;
}

/// Standard error, a line at a time.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let bar = BAR.lock().clone();
        let write = || std::io::stderr().write_all(line).map(|()| line.len());
        bar.map_or_else(write, |bar| bar.suspend(write))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// What is logged; checked when the command line is read.
#[derive(Debug, Clone)]
pub struct Level(String);

impl Level {
    pub fn of(word: &'static str) -> Level {
        Level(word.to_owned())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        // A single word that is not a level would be taken for the name of a target, and everything else fall silent.
        if let Some(word) =
            text.split(',').find(|d| !d.contains('=') && (d.is_empty() || d.parse::<LevelFilter>().is_err()))
        {
            return Err(format!("{word:?} is neither off, error, warn, info, debug, trace, nor TARGET=LEVEL"));
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Level(text.to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Starts logging, once for the process.
pub fn start(level: &Level) {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&level.0)).with_writer(|| Lines);
    // It would say so on stderr, by a macro that panics when that cannot be written either.
    let builder = builder.log_internal_errors(false);
    // It fails when somebody who embeds this has set a subscriber already; then that one gets the events.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
}
