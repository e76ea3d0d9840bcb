//! Holds stored progress back until a replica has it, too: which of it may be told to Kafka follows from two positions in the
//! database's log, the one behind which the progress was written and the one up to which enough replicas have flushed it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::types::NextOffset;

/// A position in PostgreSQL's write-ahead log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(pub i64);

/// By partition: what waits, and what has passed. Bounded: of what waits, the oldest and the newest are kept.
#[derive(Debug)]
pub struct Gate<K>(HashMap<K, Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The oldest first.
    written: VecDeque<(LogPosition, NextOffset)>,
    passed: Option<NextOffset>,
}

/// What becomes of a partition's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// What of it has passed by now.
    pub progress: Option<NextOffset>,
    /// Something from an earlier time waits still.
    pub waits: bool,
}

impl<K: Hash + Eq> Default for Gate<K> {
    fn default() -> Gate<K> {
        Gate(HashMap::new())
    }
}

impl<K: Hash + Eq> Gate<K> {
    /// `progress` was written before `written`, and everything before `confirmed` is on enough replicas.
    pub fn pass(&mut self, of: K, progress: NextOffset, written: LogPosition, confirmed: LogPosition) -> Passed {
        let waiting = self.0.entry(of).or_default();
        if waiting.written.len() == 2 {
            // The newest takes the place of the one before it: waiting for all of them would be waiting for ever.
            waiting.written.pop_back();
        }
        waiting.written.push_back((written, progress));
        while let Some(&(_, progress)) = waiting.written.front().filter(|(written, _)| *written <= confirmed) {
            waiting.passed = waiting.passed.max(Some(progress));
            waiting.written.pop_front();
        }
        let waits = waiting.written.front().is_some_and(|(earlier, _)| *earlier < written);
        Passed { progress: waiting.passed, waits }
    }

    /// Forgets all of those: what waited may be lost, and somebody else's positions may follow.
    pub fn forget(&mut self, which: impl Fn(&K) -> bool) {
        self.0.retain(|of, _| !which(of));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is progress, where it was written, what is confirmed; and what has passed (-1: nothing), whether something waits.
    fn check(gate: &mut Gate<i32>, of: i32, steps: &[(i64, i64, i64, i64, bool)]) {
        for &(progress, written, confirmed, passed, waits) in steps {
            let found = gate.pass(of, NextOffset(progress), LogPosition(written), LogPosition(confirmed));
            let found = (found.progress.map_or(-1, |next| next.0), found.waits);
            assert_eq!(found, (passed, waits), "progress {progress}");
        }
    }

    #[test]
    fn what_replicas_confirm_passes_in_order() {
        let mut gate = Gate::default();
        let steps = [
            (10, 100, 99, -1, false),
            (15, 150, 150, 15, false),
            // They fall behind: the oldest waits for its own position, those in between for the newest one.
            (20, 200, 180, 15, false),
            (30, 300, 190, 15, true),
            (40, 400, 199, 15, true),
            (50, 500, 250, 20, false),
            (60, 600, 499, 20, true),
            (60, 700, 700, 60, false),
            (60, 800, 0, 60, false),
        ];
        check(&mut gate, 0, &steps);
    }

    #[test]
    fn each_waits_for_itself_and_what_is_forgotten_waits_no_more() {
        let mut gate = Gate::default();
        check(&mut gate, 1, &[(5, 10, 0, -1, false), (6, 20, 0, -1, true)]);
        check(&mut gate, 2, &[(7, 10, 10, 7, false)]);
        gate.forget(|of| *of == 1);
        check(&mut gate, 1, &[(6, 30, 25, -1, false)]);
        check(&mut gate, 2, &[(8, 30, 25, 7, false)]);
    }
}
