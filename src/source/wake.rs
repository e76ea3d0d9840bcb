//! How the poller waits: until somebody has something for it. Notifying is cheap and allowed from any thread, librdkafka's
//! included. It is Rust's own condition variable rather than librdkafka's, so that a waker may outlive the client.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A notification is kept until the next wait, so none is lost between two of them.
#[derive(Default)]
pub struct Wake {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub fn notify(&self) {
        *self.raised.lock() = true;
        self.changed.notify_one();
    }

    /// Waits for a notification, at most `wait`, and takes it.
    pub fn wait(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut raised = self.raised.lock();
        while !*raised {
            if self.changed.wait_until(&mut raised, until).timed_out() {
                break;
            }
        }
        *raised = false;
    }
}
