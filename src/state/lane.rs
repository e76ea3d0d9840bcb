//! Lanes bind late: a lane with records in flight stays with its worker, one without goes where there is room.
//!
//! As few workers as the load needs get work: the first one with less than a batch outstanding. Eight connections that
//! commit tiny batches against each other are slower than two with fuller ones. Under backlog every worker has more than a
//! batch, and the least loaded one gets the next lane.

use crate::types::NextOffset;

/// What the poller knows of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// The fence after everything that was handed to a worker.
    pub sent: NextOffset,
    /// The fence as far as workers reported it.
    pub acked: NextOffset,
    /// Records below are in the database already.
    pub skip_below: NextOffset,
    /// Records handed to `worker` and not back yet.
    pub in_flight: u32,
    /// Meaningful while `in_flight` is not 0.
    pub worker: u16,
    /// Its open run in a worker's open chunk: (serial number of the chunk, index of the run).
    pub run: (u64, u32),
    /// Its records wait until it is empty, to move to another worker then: index of its chunks of held records.
    pub held: Option<u32>,
}

impl Lane {
    /// As a takeover found it.
    pub fn new(fence: NextOffset, done: NextOffset) -> Lane {
        Lane {
            sent: fence,
            acked: fence,
            skip_below: fence.max(done),
            in_flight: 0,
            worker: 0,
            run: (0, 0),
            held: None,
        }
    }
}

/// How many records each worker of a shard has outstanding, and who gets the next lane.
#[derive(Debug)]
pub struct Loads {
    outstanding: Vec<usize>,
    total: usize,
    /// A worker with less than this is worth filling up before another one is woken.
    pack: usize,
    /// How much more than the least loaded a worker may have before its lanes are held back to be moved.
    slack: usize,
}

impl Loads {
    pub fn new(workers: usize, batch_records_max: usize) -> Loads {
        Loads { outstanding: vec![0; workers], total: 0, pack: batch_records_max, slack: 2 * batch_records_max }
    }

    /// The worker for a lane without records in flight, one of the first `of`: no more than those may work at once. `pack`
    /// limits how many records a worker may have and still be preferred: the number of a batch, or less where single records
    /// take long.
    pub fn choose(&self, pack: usize, of: usize) -> usize {
        let pack = pack.min(self.pack).max(1);
        match self.first(of).iter().position(|&n| n < pack) {
            Some(first) => first,
            None => self.least(of).0,
        }
    }

    /// Records outstanding at each worker.
    pub fn each(&self) -> &[usize] {
        &self.outstanding
    }

    fn least(&self, of: usize) -> (usize, usize) {
        let least = self.first(of).iter().enumerate().min_by_key(|(_, n)| **n);
        least.map(|(worker, n)| (worker, *n)).unwrap_or_default()
    }

    fn first(&self, of: usize) -> &[usize] {
        &self.outstanding[..of.clamp(1, self.outstanding.len())]
    }

    /// Whether a lane bound to `worker`, with `of_lane` records there, should be held back until it is empty, to even out the
    /// loads. What counts is what the worker has besides: one that has nothing else would only take the load elsewhere.
    pub fn uneven(&self, worker: usize, of_lane: usize, of: usize) -> bool {
        let others = self.outstanding[worker].saturating_sub(of_lane);
        others > self.slack && others > self.least(of).1 + self.slack
    }

    pub fn add(&mut self, worker: usize, records: usize) {
        self.outstanding[worker] += records;
        self.total += records;
    }

    pub fn remove(&mut self, worker: usize, records: usize) {
        self.outstanding[worker] -= records;
        self.total -= records;
    }

    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_one_worker_before_it_wakes_the_next_and_spreads_when_all_have_enough() {
        let mut loads = Loads::new(3, 10);
        assert_eq!(loads.choose(usize::MAX, 3), 0);
        loads.add(0, 9);
        assert_eq!(loads.choose(usize::MAX, 3), 0);
        loads.add(0, 1);
        assert_eq!(loads.choose(usize::MAX, 3), 1);
        loads.add(1, 30);
        loads.add(2, 12);
        assert_eq!(loads.choose(usize::MAX, 3), 0, "the least loaded");
        assert!(!loads.uneven(1, 0, 3), "20 more is within the slack");
        loads.add(1, 1);
        assert!(loads.uneven(1, 0, 3));
        assert!(!loads.uneven(1, 1, 3), "the lane's own records do not count");
        assert_eq!(loads.total(), 53);
    }

    #[test]
    fn who_may_not_work_now_gets_no_new_lanes() {
        let mut loads = Loads::new(3, 10);
        loads.add(0, 30);
        loads.add(1, 20);
        assert_eq!(loads.choose(usize::MAX, 2), 1);
        assert_eq!(loads.choose(usize::MAX, 1), 0);
        assert_eq!(loads.choose(usize::MAX, 3), 2);
        loads.add(2, 51);
        assert!(loads.uneven(2, 0, 1), "what it has from before goes to those who may");
    }

    #[test]
    fn slow_records_spread_at_once() {
        let mut loads = Loads::new(2, 500);
        loads.add(0, 1);
        assert_eq!(loads.choose(1, 2), 1);
    }
}
