//! Time and randomness, passed in: nothing below the engine asks the operating system for either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds and microseconds that only rise, the wall clock, and waiting.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary start; only rises.
    fn now(&self) -> Duration;
    /// Milliseconds since the Unix epoch, as Kafka's timestamps count them.
    fn wall_ms(&self) -> i64;
    /// Waits. A test clock returns at once and moves its hands instead.
    fn sleep(&self, for_how_long: Duration);
}

/// The operating system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

/// The wall clock: milliseconds since the Unix epoch; 0 before it.
pub fn unix_ms() -> i64 {
    since_epoch().as_millis() as i64
}

/// The same in microseconds.
pub fn unix_us() -> u64 {
    since_epoch().as_micros() as u64
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        unix_ms()
    }

    fn sleep(&self, for_how_long: Duration) {
        std::thread::sleep(for_how_long);
    }
}

/// A clock whose hands a test moves.
#[derive(Clone, Default)]
pub struct TestClock {
    /// As fine as what one sleeps: a remainder that is cut off would be waited for without end.
    nanos: Arc<AtomicU64>,
}

impl TestClock {
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.now().as_millis() as i64
    }

    fn sleep(&self, for_how_long: Duration) {
        self.advance(for_how_long);
    }
}
