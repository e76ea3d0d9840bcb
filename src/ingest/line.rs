//! Rows of one shard that wait for a connection: bounded in records and bytes, apart from other shards and from what goes to the
//! brokers. Those of one key are taken in the order in which they came, one at a time; others pass them meanwhile. Knows no database.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ingest::queue::{Queue, Room};

/// A line that is full is not searched for those whom nobody waits for again before that.
const SWEEP_EVERY: Duration = Duration::from_millis(20);

/// See the module's text.
pub struct Line<T> {
    room: Arc<Queue>,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<Entry<T>>,
    /// Keys of which somebody has one.
    taken: Vec<u64>,
    swept: Option<Instant>,
    over: bool,
}

struct Entry<T> {
    key: u64,
    job: T,
    room: Room,
}

/// One that was taken. Until it is dropped nobody gets another one of its key.
pub struct Taken<'l, T> {
    pub job: T,
    key: u64,
    line: &'l Line<T>,
    _room: Room,
}

impl<T> Line<T> {
    pub fn new(records_max: usize, bytes_max: usize) -> Line<T> {
        let state = State { waiting: VecDeque::new(), taken: Vec::new(), swept: None, over: false };
        Line { room: Arc::new(Queue::new(records_max, bytes_max)), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether there is room for it. Where there is none, those are let go of first that nobody waits for any more.
    pub fn put(&self, key: u64, bytes: usize, job: T, now: Instant, is_over: impl Fn(&T) -> bool) -> bool {
        let room = Room::take(&self.room, bytes).or_else(|| {
            self.sweep(now, is_over);
            Room::take(&self.room, bytes)
        });
        let Some(room) = room else { return false };
        let mut state = self.state.lock();
        if state.over {
            return false;
        }
        state.waiting.push_back(Entry { key, job, room });
        drop(state);
        self.changed.notify_one();
        true
    }

    fn sweep(&self, now: Instant, is_over: impl Fn(&T) -> bool) {
        let mut state = self.state.lock();
        if state.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY) {
            state.swept = Some(now);
            state.waiting.retain(|entry| !is_over(&entry.job));
        }
    }

    /// The next one; waits for it. None once it is over.
    pub fn take(&self) -> Option<Taken<'_, T>> {
        let mut state = self.state.lock();
        loop {
            if state.over {
                return None;
            }
            if let Some(Entry { key, job, room }) = state.next() {
                return Some(Taken { job, key, line: self, _room: room });
            }
            self.changed.wait(&mut state);
        }
    }

    /// Whether somebody has one of that key.
    pub fn is_taken(&self, key: u64) -> bool {
        self.state.lock().taken.contains(&key)
    }

    /// Nobody waits any more, and nothing is taken.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.over = true;
        state.waiting.clear();
        drop(state);
        self.changed.notify_all();
    }
}

impl<T> State<T> {
    fn next(&mut self) -> Option<Entry<T>> {
        let next = self.waiting.iter().position(|entry| !self.taken.contains(&entry.key))?;
        let entry = self.waiting.remove(next)?;
        self.taken.push(entry.key);
        Some(entry)
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.line.state.lock().taken.retain(|key| *key != self.key);
        self.line.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(line: &Line<(u32, bool)>, key: u64, number: u32) -> bool {
        line.put(key, 10, (number, false), Instant::now(), |(_, over)| *over)
    }

    #[test]
    fn one_key_s_are_taken_in_order_and_one_at_a_time() {
        let line = Line::new(10, 1000);
        for (key, number) in [(1, 0), (1, 1), (2, 2), (1, 3)] {
            assert!(put(&line, key, number));
        }
        let take = || line.take().expect("one");
        let (first, other) = (take(), take());
        assert_eq!((first.job.0, other.job.0), (0, 2), "the second one of key 1 is passed");
        assert!(line.is_taken(1) && !line.is_taken(3));
        drop(first);
        let second = take();
        assert_eq!(second.job.0, 1);
        drop((second, other));
        assert_eq!(take().job.0, 3);
        assert_eq!((line.room.records(), line.room.bytes()), (0, 0));
    }

    #[test]
    fn who_waits_gets_what_comes_and_what_becomes_free() {
        let line: Line<(u32, bool)> = Line::new(10, 1000);
        std::thread::scope(|scope| {
            let taken: Vec<_> = (0..3).map(|_| scope.spawn(|| line.take().map(|taken| taken.job.0))).collect();
            (0..3).for_each(|number| assert!(put(&line, 7, number)));
            let mut numbers: Vec<_> = taken.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
            let ends = scope.spawn(|| line.take().is_none());
            line.end();
            assert!(ends.join().expect("no panic") && !put(&line, 1, 9));
        });
    }

    #[test]
    fn a_panic_gives_back_what_was_taken() {
        let line = Line::new(1, 1000);
        assert!(put(&line, 1, 0) && !put(&line, 1, 1));
        let dies = std::panic::AssertUnwindSafe(|| {
            let _taken = line.take();
            panic!("broken");
        });
        assert!(std::panic::catch_unwind(dies).is_err());
        assert!(put(&line, 1, 1));
        assert_eq!(line.take().expect("its key is free").job.0, 1);
    }

    #[test]
    fn those_whom_nobody_waits_for_make_room() {
        let (line, start) = (Line::new(2, 1000), Instant::now());
        let put = |number: u32, over: bool, at: u64| {
            line.put(number.into(), 10, (number, over), start + Duration::from_millis(at), |(_, over)| *over)
        };
        assert!(put(0, false, 0) && put(1, true, 0));
        assert!(put(2, true, 0), "there was room again");
        assert!(!put(3, false, 1) && put(3, false, 20), "it is not searched all the time");
        assert!(!put(4, false, 40));
        assert_eq!(line.take().expect("one").job.0, 0);
        assert!(put(4, false, 41));
        let bytes: Line<u32> = Line::new(10, 25);
        assert!(bytes.put(0, 20, 0, start, |_| false) && !bytes.put(1, 6, 1, start, |_| false));
        let _held = bytes.take();
        assert!(!bytes.put(1, 6, 1, start, |_| false), "what is being written takes room, too");
    }
}
