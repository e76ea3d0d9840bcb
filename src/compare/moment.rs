//! A run's own time: seconds from its first request that counts, and waiting for a moment of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::unix_us;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Second 0.
#[derive(Debug, Clone, Copy)]
pub struct Zero {
    at: Instant,
    /// The same by the wall clock, in µs since the Unix epoch.
    pub unix_us: i64,
}

impl Zero {
    pub fn after(wait: Duration) -> Zero {
        Zero { at: Instant::now() + wait, unix_us: unix_us() as i64 + wait.as_micros() as i64 }
    }

    /// Negative before second 0.
    pub fn now_us(&self) -> i64 {
        let now = Instant::now();
        match now.checked_duration_since(self.at) {
            Some(since) => since.as_micros() as i64,
            None => -((self.at - now).as_micros() as i64),
        }
    }

    pub fn now_s(&self) -> f64 {
        self.now_us() as f64 / 1e6
    }

    /// Returns whether the moment has come; false: it is over before.
    pub fn wait_until(&self, at_s: f64, over: &AtomicBool) -> bool {
        loop {
            let left = at_s - self.now_s();
            if left <= 0.0 {
                return true;
            }
            if over.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(LOOK_EVERY.min(Duration::from_secs_f64(left)));
        }
    }
}
