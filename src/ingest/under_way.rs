//! The statements that sync mode's threads are at. Those whose requests are overdue are cancelled, so that their connections are free again;
//! at the end all of them are. Who is answered what is decided elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;

/// How often is looked which ones are overdue.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// See the module's text. `C` cancels one connection's statement.
pub struct UnderWay<C> {
    threads: Vec<Mutex<Option<Statement<C>>>>,
    over: AtomicBool,
}

struct Statement<C> {
    until: Instant,
    cancel: Arc<C>,
    cancelled: bool,
}

impl<C> Default for UnderWay<C> {
    fn default() -> UnderWay<C> {
        UnderWay::new(0)
    }
}

impl<C> UnderWay<C> {
    pub fn new(threads: usize) -> UnderWay<C> {
        let threads = (0..threads).map(|_| Mutex::new(None)).collect();
        UnderWay { threads, over: AtomicBool::new(false) }
    }

    /// A thread's statement begins.
    pub fn begin(&self, thread: usize, until: Instant, cancel: Arc<C>) {
        *self.threads[thread].lock() = Some(Statement { until, cancel, cancelled: false });
    }

    /// It has ended. Says whether it was cancelled: the request may come late, and would hit the connection's next statement.
    pub fn end(&self, thread: usize) -> bool {
        self.threads[thread].lock().take().is_some_and(|statement| statement.cancelled)
    }

    /// From now on nothing is worth waiting for.
    pub fn give_up(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Those to be cancelled now: each is returned once.
    fn overdue(&self, now: Instant) -> Vec<Arc<C>> {
        let over = self.over.load(Ordering::Acquire);
        let overdue = |thread: &Mutex<Option<Statement<C>>>| {
            let mut thread = thread.lock();
            let statement = thread.as_mut().filter(|s| !s.cancelled && (over || now >= s.until))?;
            statement.cancelled = true;
            Some(Arc::clone(&statement.cancel))
        };
        self.threads.iter().filter_map(overdue).collect()
    }

    /// Looks after them until nobody has the channel's other end any more.
    pub fn follow(&self, threads_end: &Receiver<()>, cancel: impl Fn(Vec<Arc<C>>)) {
        while threads_end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let overdue = self.overdue(Instant::now());
            if !overdue.is_empty() {
                cancel(overdue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_overdue_is_cancelled_once_and_everybody_at_the_end() {
        let (under_way, start) = (UnderWay::new(3), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let overdue = |ms: u64| under_way.overdue(at(ms)).iter().map(|cancel| **cancel).collect::<Vec<_>>();
        under_way.begin(0, at(100), Arc::new("a"));
        under_way.begin(2, at(200), Arc::new("c"));
        assert_eq!(overdue(99), [""; 0]);
        assert_eq!((overdue(100), overdue(150)), (vec!["a"], vec![]));
        assert!(under_way.end(0) && !under_way.end(0) && !under_way.end(1));
        under_way.begin(0, at(300), Arc::new("d"));
        under_way.give_up();
        assert_eq!((overdue(150), overdue(151)), (vec!["d", "c"], vec![]));
        // One that began too late to be told.
        under_way.begin(1, at(9000), Arc::new("e"));
        assert_eq!(overdue(152), ["e"]);
    }
}
