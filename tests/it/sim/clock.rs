//! One clock for the whole simulated world. Its monotonic hands only rise; the wall clock may be set back and forth.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use forebay::clock::Clock;

#[derive(Clone, Default)]
pub struct SimClock {
    micros: Arc<AtomicU64>,
    wall_shift_ms: Arc<AtomicI64>,
}

/// A loop that sleeps instead of returning from its step would stop the whole simulation: it is let through, but time passes
/// for everybody.
const SLEEP_MAX: Duration = Duration::from_millis(50);

impl SimClock {
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(by.as_micros() as u64, Ordering::Relaxed);
    }

    /// Sets the wall clock, as an administrator or a time server does.
    pub fn shift_wall(&self, by_ms: i64) {
        self.wall_shift_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + self.now().as_millis() as i64 + self.wall_shift_ms.load(Ordering::Relaxed)
    }

    fn sleep(&self, for_how_long: Duration) {
        self.advance(for_how_long.min(SLEEP_MAX));
    }
}
