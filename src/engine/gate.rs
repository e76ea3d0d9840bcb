//! A shard's [`Breaker`], shared by its workers and its control thread. Who works passes it by one load of a flag; only
//! outages, and what ends them, take the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::state::breaker::Breaker;
use crate::state::retry::Backoff;

/// See the module's text.
pub struct Gate {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    open: AtomicBool,
    /// Whether work that was done is news.
    unproven: AtomicBool,
    /// Since when a probe has been waiting for an answer, in microseconds of the clock; 0 where none does.
    probing_us: AtomicU64,
    closed: Condvar,
}

struct Inner {
    breaker: Breaker,
    rng: fastrand::Rng,
}

impl Gate {
    pub fn new(clock: Arc<dyn Clock>, rng: fastrand::Rng, backoff: Backoff) -> Gate {
        let inner = Mutex::new(Inner { breaker: Breaker::new(backoff), rng });
        let (open, unproven, probing_us) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        Gate { clock, inner, open, unproven, probing_us, closed: Condvar::new() }
    }

    /// Whether everybody but the probe has to wait.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// When the next probe is due, while it is open.
    pub fn probe_at(&self) -> Option<Duration> {
        if self.is_open() { self.inner.lock().breaker.probe_at() } else { None }
    }

    /// Somebody's work met an outage. Says whether that opened it.
    pub fn failed(&self) -> bool {
        self.change(|breaker, now, random| breaker.failed(now, random))
    }

    /// Work was done.
    pub fn worked(&self) {
        if self.unproven.load(Ordering::Acquire) {
            self.change(|breaker, _, _| breaker.worked());
        }
    }

    /// A probe begins; [`probed`](Gate::probed) tells how it went.
    pub fn probes(&self) {
        self.probing_us.store((self.clock.now().as_micros() as u64).max(1), Ordering::Relaxed);
    }

    /// For how long a probe has been waiting for an answer, if one does.
    pub fn probing(&self) -> Option<Duration> {
        let since = Some(self.probing_us.load(Ordering::Relaxed)).filter(|since| *since > 0)?;
        Some(self.clock.now().saturating_sub(Duration::from_micros(since)))
    }

    pub fn probed(&self, works: bool) {
        self.probing_us.store(0, Ordering::Relaxed);
        self.change(|breaker, now, random| match works {
            true => drop(breaker.probed()),
            false => breaker.probe_failed(now, random),
        });
        if works {
            self.closed.notify_all();
        }
    }

    /// Waits until it is closed, at most this long.
    pub fn wait(&self, at_most: Duration) {
        let mut inner = self.inner.lock();
        if inner.breaker.probe_at().is_some() {
            self.closed.wait_for(&mut inner, at_most);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Breaker, Duration, f64) -> T) -> T {
        let mut inner = self.inner.lock();
        let random = inner.rng.f64();
        let result = change(&mut inner.breaker, self.clock.now(), random);
        self.open.store(inner.breaker.probe_at().is_some(), Ordering::Release);
        self.unproven.store(!inner.breaker.is_proven(), Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;

    #[test]
    fn how_long_a_probe_waits_is_known_while_it_does() {
        let clock = TestClock::default();
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let gate = Gate::new(Arc::new(clock.clone()), fastrand::Rng::with_seed(1), backoff);
        gate.failed();
        assert_eq!(gate.probing(), None);
        gate.probes();
        clock.advance(Duration::from_secs(12));
        let about = gate.probing().map(|since| since.as_secs());
        assert!(matches!(about, Some(11 | 12)), "{about:?}");
        for works in [false, true] {
            gate.probed(works);
            assert_eq!(gate.probing(), None);
        }
    }
}
