//! How far a step of a benchmark is, on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::console;
use crate::words::grouped;

const LINE_EVERY: Duration = Duration::from_secs(5);

/// See the module's text. It is gone when it is dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    unit: &'static str,
    shown: Instant,
}

impl Progress {
    pub fn new(what: impl Into<String>, total: u64, unit: &'static str) -> Progress {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = format!("{{msg}}  {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{elapsed}}");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(what.clone())
        });
        Progress { bar, what, total, unit, shown: Instant::now() }
    }

    /// `note` goes behind what it is about.
    pub fn show(&mut self, done: u64, note: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}{note}", self.what));
                bar.set_position(done.min(self.total));
            }
            None if self.shown.elapsed() >= LINE_EVERY => {
                self.shown = Instant::now();
                let (done, total) = (grouped(done), grouped(self.total));
                console::err(format_args!("{}{note}: {done} of {total} {}", self.what, self.unit));
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
