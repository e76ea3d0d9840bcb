//! A shard's [`Breaker`], shared by its workers and its control thread. Who works passes it by one load of a flag; only
//! outages, and what ends them, take the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    closed: Condvar,
}

struct Inner {
    breaker: Breaker,
    rng: fastrand::Rng,
}

impl Gate {
    pub fn new(clock: Arc<dyn Clock>, rng: fastrand::Rng, backoff: Backoff) -> Gate {
        let inner = Mutex::new(Inner { breaker: Breaker::new(backoff), rng });
        Gate { clock, inner, open: AtomicBool::new(false), unproven: AtomicBool::new(false), closed: Condvar::new() }
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

    pub fn probed(&self, works: bool) {
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
