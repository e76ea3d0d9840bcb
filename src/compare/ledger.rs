//! What became of each request, and what that adds up to. Pure: µs from the first request that counts; those before it are negative.

use hdrhistogram::Histogram;

use crate::compare::findings::{Effect, Errors, Times};

/// The longest that is told apart.
const LONGEST_US: u64 = 3_600_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not over: a run that was ended.
    Pending,
    /// By status.
    Answered(u16),
    /// Sent, and not answered in time.
    Timeout,
    /// Not even sent in time: no connection was free.
    Unsent,
    /// The connection ended before the answer.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: u32,
    pub due_us: i64,
    /// From then on.
    pub took_us: u64,
    pub outcome: Outcome,
}

impl Entry {
    pub fn is_accepted(&self) -> bool {
        matches!(self.outcome, Outcome::Answered(200 | 202))
    }

    fn is_timeout(&self) -> bool {
        matches!(self.outcome, Outcome::Timeout | Outcome::Unsent)
    }
}

/// Of one run of the generator: entry `i` is that of request `first + i`.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub first: u64,
    pub entries: Vec<Entry>,
    /// How late those were sent that count: the generator's own pace, and the wait for a connection.
    pub late: Histogram<u64>,
    /// Connections that were open at once, or being opened, at most.
    pub connections_max: usize,
}

impl Ledger {
    pub fn new(first: u64) -> Ledger {
        Ledger { first, entries: Vec::new(), late: histogram(), connections_max: 0 }
    }

    /// Of request `n`.
    pub fn entry(&self, n: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(n.checked_sub(self.first)?).ok()?)
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that are in order, and three digits")
}

/// None of nothing.
pub fn times(histogram: &Histogram<u64>) -> Option<Times> {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let max = histogram.max() as f64 / 1000.0;
    (!histogram.is_empty()).then(|| Times {
        p50: at(0.5).min(max),
        p99: at(0.99).min(max),
        p999: at(0.999).min(max),
        max,
    })
}

/// What some of the requests came to.
#[derive(Debug, Clone)]
pub struct Sum {
    pub offered: u64,
    pub accepted: u64,
    pub errors: Errors,
    request: Histogram<u64>,
    durable: Histogram<u64>,
}

impl Default for Sum {
    fn default() -> Sum {
        Sum { offered: 0, accepted: 0, errors: Errors::default(), request: histogram(), durable: histogram() }
    }
}

impl Sum {
    /// `durable_us`: from when it was due until its row was written.
    pub fn add(&mut self, entry: &Entry, durable_us: Option<u64>) {
        if entry.outcome == Outcome::Pending {
            return;
        }
        self.offered += 1;
        match entry.outcome {
            Outcome::Answered(200 | 202) => self.accepted += 1,
            Outcome::Answered(status) => *self.errors.by_status.entry(status).or_default() += 1,
            Outcome::Timeout => self.errors.timeouts += 1,
            Outcome::Unsent => self.errors.unsent += 1,
            Outcome::Broken => self.errors.connection += 1,
            Outcome::Pending => {}
        }
        if entry.is_accepted() || entry.is_timeout() {
            self.request.saturating_record(entry.took_us.max(1));
        }
        if let (true, Some(us)) = (entry.is_accepted(), durable_us) {
            self.durable.saturating_record(us.max(1));
        }
    }

    pub fn request_ms(&self) -> Option<Times> {
        times(&self.request)
    }

    pub fn durable_ms(&self) -> Option<Times> {
        times(&self.durable)
    }

    pub fn error_percent(&self) -> f64 {
        let errors = self.errors.all();
        if self.offered == 0 { 0.0 } else { errors as f64 * 100.0 / self.offered as f64 }
    }

    /// Without what only samples know.
    pub fn effect(&self, seconds: f64) -> Effect {
        Effect {
            seconds,
            offered: self.offered,
            accepted: self.accepted,
            error_percent: self.error_percent(),
            request_ms: self.request_ms(),
            durable_ms: self.durable_ms(),
            ..Effect::default()
        }
    }
}

/// Those due at a time that `when` names, in seconds.
pub fn sum_of(ledger: &Ledger, durable_us: &[Option<u64>], when: impl Fn(f64) -> bool) -> Sum {
    let mut sum = Sum::default();
    for (entry, durable) in ledger.entries.iter().zip(durable_us) {
        if when(entry.due_us as f64 / 1e6) {
            sum.add(entry, *durable);
        }
    }
    sum
}

/// By the second in which they were due, from second 0 on.
pub fn by_second(ledger: &Ledger, durable_us: &[Option<u64>]) -> Vec<Sum> {
    let mut seconds: Vec<Sum> = Vec::new();
    for (entry, durable) in ledger.entries.iter().zip(durable_us) {
        let Ok(second) = usize::try_from(entry.due_us.div_euclid(1_000_000)) else { continue };
        if seconds.len() <= second {
            seconds.resize_with(second + 1, Sum::default);
        }
        seconds[second].add(entry, *durable);
    }
    seconds
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn entry(key: u32, due_us: i64, took_us: u64, outcome: Outcome) -> Entry {
        Entry { key, due_us, took_us, outcome }
    }

    #[test]
    fn every_outcome_counts_once_and_errors_do_not_make_answers_look_fast() {
        let mut ledger = Ledger::new(10);
        let outcomes = [
            (Outcome::Answered(202), 3_000),
            (Outcome::Answered(503), 10),
            (Outcome::Answered(422), 10),
            (Outcome::Timeout, 5_000_000),
            (Outcome::Unsent, 5_000_000),
            (Outcome::Broken, 10),
            (Outcome::Pending, 0),
            (Outcome::Answered(200), 1_000),
        ];
        ledger.entries = outcomes.map(|(outcome, took)| entry(0, 500_000, took, outcome)).to_vec();
        let durable = vec![Some(9_000), None, None, None, None, None, None, Some(1_000)];
        let sum = sum_of(&ledger, &durable, |at| at == 0.5);
        assert_eq!((sum.offered, sum.accepted, sum.errors.all()), (7, 2, 5));
        assert_eq!(sum.errors.by_status, [(422, 1), (503, 1)].into());
        assert_eq!((sum.errors.timeouts, sum.errors.unsent, sum.errors.connection), (1, 1, 1));
        let (request, durable) = (sum.request_ms().unwrap(), sum.durable_ms().unwrap());
        assert!((request.p50 - 3.0).abs() < 0.1 && (request.max - 5_000.0).abs() < 10.0, "{request:?}");
        assert!((durable.max - 9.0).abs() < 0.1, "{durable:?}");
        assert_eq!(ledger.entry(17).unwrap().outcome, Outcome::Answered(200));
        assert!(ledger.entry(9).is_none() && ledger.entry(18).is_none());
    }

    #[test]
    fn a_request_belongs_to_the_second_in_which_it_was_due() {
        let mut ledger = Ledger::new(0);
        let due = [-1, 0, 999_999, 1_000_000, 2_500_000];
        ledger.entries = due.map(|due| entry(0, due, 4_000_000, Outcome::Answered(202))).to_vec();
        let seconds = by_second(&ledger, &[None; 5]);
        assert_eq!(seconds.iter().map(|sum| sum.offered).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(seconds[0].durable_ms().is_none());
    }
}
