//! Lines on their way out: a bounded queue, and one thread that writes them. Whoever logs never waits for a reader that stands still:
//! a line that finds no room is lost and counted, and the count is told once there is room again.
//!
//! `tracing-appender` does the like. It bounds lines and not bytes, loses what it cannot write without a count, and where its queue
//! is full at the end it says so on stdout, which belongs to the commands.

use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Of lines that wait. A start says some hundred lines of 200 bytes; a burst of librdkafka's detail some thousand.
const BYTES_MAX: usize = 4 << 20;

/// Lost ones are told of once no more than that waits: that line is not to be lost, too.
const TOLD_AT_BYTES: usize = BYTES_MAX / 2;

/// See the module's text.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread has taken one, and is at it.
    writing: bool,
    /// Nobody was told of these.
    lost: u64,
    /// Somebody waited in vain, and nothing was written since.
    stands: bool,
}

impl Queue {
    fn new() -> Queue {
        Queue { state: Mutex::default(), filled: Condvar::new(), drained: Condvar::new() }
    }

    /// Starts the thread, which lasts as long as the process. `write` writes a line; `tell` is told how many were lost.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(
        write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<&'static Queue> {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        thread::Builder::new().name("forebay-log".into()).spawn(move || queue.run(write, tell))?;
        Ok(queue)
    }

    /// Never waits for whoever reads. A line that would not fit into an empty queue has it for itself.
    pub fn push(&self, line: Vec<u8>) {
        let mut state = self.state.lock();
        if state.bytes + line.len() > BYTES_MAX && !state.lines.is_empty() {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until everything is written, at most so long, and only once for a reader that stands still.
    pub fn flush(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        let mut state = self.state.lock();
        while !state.stands && (state.writing || !state.lines.is_empty()) {
            if self.drained.wait_until(&mut state, deadline).timed_out() {
                state.stands = true;
            }
        }
    }

    fn run(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>, tell: impl Fn(u64)) {
        loop {
            let line = self.next();
            let written = write(&line).is_ok();
            let lost = self.wrote(written);
            if lost > 0 {
                tell(lost);
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        state.writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return line;
            }
            self.drained.notify_all();
            self.filled.wait(&mut state);
        }
    }

    /// How many lost ones are to be told of. One that could not be written is lost, too, and told of once another one could.
    fn wrote(&self, written: bool) -> u64 {
        let mut state = self.state.lock();
        state.stands = false;
        if !written {
            state.lost += 1;
            return 0;
        }
        if state.bytes > TOLD_AT_BYTES { 0 } else { std::mem::take(&mut state.lost) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A queue whose reader takes a line whenever it is let, and what it took.
    struct World {
        queue: &'static Queue,
        lets: Sender<bool>,
        taken: Receiver<String>,
    }

    impl World {
        fn new() -> World {
            let ((lets, let_go), (take, taken)) = (unbounded::<bool>(), unbounded());
            let write = move |line: &[u8]| {
                if !let_go.recv().expect("the test lasts") {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                take.send(String::from_utf8_lossy(line).into_owned()).expect("the test lasts");
                Ok(())
            };
            let own: Arc<Mutex<Option<&'static Queue>>> = Arc::default();
            let told = Arc::clone(&own);
            let tell = move |lost| told.lock().expect("set").push(format!("{lost} lost").into_bytes());
            let queue = Queue::start(write, tell).expect("a thread");
            *own.lock() = Some(queue);
            World { queue, lets, taken }
        }

        fn push(&self, line: &str) {
            self.queue.push(line.as_bytes().to_vec());
        }

        fn takes(&self) -> String {
            self.lets.send(true).expect("it runs");
            self.taken.recv_timeout(PATIENCE).expect("a line")
        }

        /// The thread has taken the line, and hangs.
        fn is_taken(&self) {
            let start = Instant::now();
            while !self.queue.state.lock().writing {
                assert!(start.elapsed() < PATIENCE);
                thread::yield_now();
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stands_still_and_what_was_lost_is_told() {
        let world = World::new();
        world.push("first");
        world.is_taken();
        let line = "x".repeat(1 << 20);
        (0..7).for_each(|_| world.push(&line));
        assert_eq!(world.queue.state.lock().bytes, BYTES_MAX);
        assert_eq!(world.takes(), "first");
        // Not before half of it is free, or it would be lost itself.
        assert_eq!((0..4).map(|_| world.takes().len()).collect::<Vec<_>>(), [1 << 20; 4]);
        assert_eq!(world.takes(), "3 lost");
        world.push("last");
        assert_eq!(world.takes(), "last");
    }

    #[test]
    fn a_flush_waits_for_the_reader_but_not_for_ever_nor_twice() {
        let world = World::new();
        world.queue.flush(PATIENCE);
        world.push("one");
        let start = Instant::now();
        world.queue.flush(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
        // The second one would be noticed.
        world.queue.flush(PATIENCE * 1000);
        assert_eq!(world.takes(), "one");
        world.push("two");
        let (done, flushed) = bounded(0);
        let queue = world.queue;
        thread::spawn(move || {
            queue.flush(PATIENCE);
            done.send(()).expect("the test lasts");
        });
        assert_eq!(world.takes(), "two");
        flushed.recv_timeout(PATIENCE).expect("it was written");
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_told_once_something_can() {
        let world = World::new();
        for line in ["a", "b", "c"] {
            world.push(line);
        }
        (0..2).for_each(|_| world.lets.send(false).expect("it runs"));
        assert_eq!(world.takes(), "c");
        assert_eq!(world.takes(), "2 lost");
    }

    #[test]
    fn a_line_larger_than_the_queue_goes_through_an_empty_one() {
        let world = World::new();
        world.push(&"x".repeat(BYTES_MAX + 1));
        assert_eq!(world.takes().len(), BYTES_MAX + 1);
    }
}
