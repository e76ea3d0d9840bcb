//! Figures of several rounds, and the load of the machine on which they were taken.

use std::fmt;

/// One figure of each round; printed as their median and spread.
#[derive(Default)]
pub struct Rounds(Vec<f64>);

impl Rounds {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    /// Of no rounds it is not a number.
    pub fn median(&self) -> f64 {
        forebay::bench::median(&mut self.0.clone())
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(least), Some(most)) = (self.0.first(), self.0.last()) else { return f.write_str("no rounds") };
        let digits = f.precision().unwrap_or(0);
        write!(f, "{:.digits$} ({least:.digits$} to {most:.digits$})", self.median())
    }
}

/// How many processes wanted to run in the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("[load {}]", text.split(' ').next().unwrap_or("unknown"))
}
