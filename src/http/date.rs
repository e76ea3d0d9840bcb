//! The `Date` of answers.

use std::time::SystemTime;

/// Written once a second.
#[derive(Default)]
pub struct Date {
    second: u64,
    /// As RFC 9110, 5.6.7 wants it.
    pub text: String,
}

impl Date {
    pub fn refresh(&mut self, now: SystemTime) {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.text.is_empty() {
            let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
            let at = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
            self.second = second;
            self.text = printer.timestamp_to_rfc9110_string(&at).unwrap_or_default();
        }
    }
}
