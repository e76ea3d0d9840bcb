//! Threads that are named, pinned where asked, owned and joined. A panic in one means a broken invariant: it is reported to the
//! poller, which ends the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::cpus::Place;
use crate::engine::event::Event;

/// What the kernel keeps of a thread's name.
const NAME_BYTES_MAX: usize = 15;

/// A running thread of the engine.
#[derive(Debug)]
pub struct Thread {
    name: String,
    handle: JoinHandle<()>,
}

impl Thread {
    /// Starts one. The name is cut to what the kernel shows; `place` says where it runs.
    pub fn spawn(
        name: &str,
        place: Place,
        events: Option<Sender<Event>>,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Thread> {
        let name: String = name.chars().take(NAME_BYTES_MAX).collect();
        let (inner, thread) = (name.clone(), name.clone());
        let guarded = move || {
            let cpus = place.own.clone();
            if let (Err(error), Some(cpus)) = (place.enter(), cpus) {
                tracing::warn!("{inner} could not be pinned to CPU {cpus}: {error}");
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
                // What it said, and where, is in the log already: the panic's hook sees to that.
                let message = panic_message(panic.as_ref());
                if let Some(events) = events {
                    // A poller that is gone is ending the process already.
                    let _ = events.send(Event::Panicked { thread: inner, message });
                }
            }
        };
        Ok(Thread { handle: Builder::new().name(thread).spawn(guarded)?, name })
    }

    /// Waits until it ends, at most until `deadline`. One that does not (a database that never answers) is left to the end of
    /// the process.
    pub fn join(self, deadline: Instant) {
        while !self.handle.is_finished() {
            if Instant::now() >= deadline {
                tracing::warn!("{} does not end in time and is left behind", self.name);
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.handle.join();
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_reaches_the_poller() {
        let (events, inbox) = crossbeam_channel::bounded(1);
        let thread =
            Thread::spawn("a-name-that-is-too-long", Place::default(), Some(events), || panic!("broken")).unwrap();
        match inbox.recv().unwrap() {
            Event::Panicked { thread, message } => {
                assert_eq!((thread.as_str(), message.as_str()), ("a-name-that-is-", "broken"));
            }
            other => panic!("{other:?}"),
        }
        thread.join(Instant::now() + Duration::from_secs(5));
    }
}
