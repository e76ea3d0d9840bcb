//! When a partition is paused and when it goes on.

use crate::state::tracker::Tracker;

/// The in-flight window of one partition. It closes at its limits and opens again at half of them, because a pause makes
/// librdkafka throw away and fetch again what it has prefetched.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub records_max: usize,
    pub bytes_max: usize,
}

impl Window {
    pub fn must_pause(&self, tracker: &Tracker) -> bool {
        tracker.window() >= self.records_max || tracker.unfinished_bytes() >= self.bytes_max
    }

    pub fn may_resume(&self, tracker: &Tracker) -> bool {
        tracker.window() <= self.records_max / 2 && tracker.unfinished_bytes() <= self.bytes_max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tracker::Place;
    use crate::types::{NextOffset, Offset, ShardIx};

    const PLACE: Place = Place { shard: ShardIx(0), lane: None };

    #[test]
    fn closes_at_the_limit_and_opens_at_half() {
        let window = Window { records_max: 4, bytes_max: 1000 };
        let mut tracker = Tracker::new(NextOffset(0));
        let seqs: Vec<u64> = (0..4).map(|o| tracker.register(Offset(o), 10, PLACE)).collect();
        assert!(window.must_pause(&tracker));
        tracker.complete(seqs[0], Offset(0));
        assert!(!window.must_pause(&tracker) && !window.may_resume(&tracker));
        tracker.complete(seqs[1], Offset(1));
        assert!(window.may_resume(&tracker));
    }

    #[test]
    fn bytes_count_too() {
        let window = Window { records_max: 100, bytes_max: 1000 };
        let mut tracker = Tracker::new(NextOffset(0));
        let seq = tracker.register(Offset(0), 5000, PLACE);
        assert!(window.must_pause(&tracker));
        tracker.complete(seq, Offset(0));
        assert!(window.may_resume(&tracker));
    }
}
