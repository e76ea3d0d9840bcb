//! How far it is, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::console;
use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(2);

/// See the module's text.
pub enum Progress {
    Bar(ProgressBar),
    Lines { total: u64, shown: Instant },
}

impl Progress {
    pub fn new(total: u64) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress::Lines { total, shown: Instant::now() };
        }
        let template = "{wide_bar} {human_pos}/{human_len} records durable, {elapsed}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Progress::Bar(ProgressBar::new(total).with_style(style))
    }

    pub fn show(&mut self, durable: u64) {
        match self {
            Progress::Bar(bar) => bar.set_position(durable),
            Progress::Lines { total, shown } => {
                if shown.elapsed() >= LINE_EVERY {
                    *shown = Instant::now();
                    console::err(format_args!("{durable} of {total} records durable"));
                }
            }
        }
    }

    /// Leaves the screen to what comes next.
    pub fn end(self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
