//! Traffic that comes at a rate, whoever is slow: a publisher that is an open loop, an engine that has been warmed up, and whoever
//! looks at both and says how it goes on.

use std::time::{Duration, Instant};

use crate::bench::BenchError;
use crate::bench::engine::Running;
use crate::bench::figures::Round;
use crate::bench::latency::{Latency, Range, each_once, latency};
use crate::bench::machine;
use crate::bench::progress::Progress;
use crate::bench::protocol::{Sample, Work};
use crate::bench::publisher::{Publisher, Steady};
use crate::bench::run::Bench;
use crate::bench::settings::Target;
use crate::bench::workload::Workload;
use crate::clock::unix_us;
use crate::words::grouped;

/// Sent before, not counted: takeovers, the first connection, plans.
const WARM_UP: u64 = 1_000;
/// A handler that takes a tenth of a second for each needs less of them.
const WARM_UP_MAX: Duration = Duration::from_secs(2);
/// After an early end: for what is on its way.
const LATE_DEADLINE: Duration = Duration::from_secs(10);

/// Traffic to be measured.
pub struct Traffic<'a> {
    /// For people.
    pub what: &'a str,
    pub target: Target,
    pub work: Work,
    pub workload: &'a Workload,
    /// Records a second at the begin, and how many of them the engine does at least.
    pub rate: u64,
    pub warm_up: u64,
    /// How long it takes, as far as is known, for the progress bar.
    pub period: Duration,
    /// Whose latency counts.
    pub without: Option<String>,
}

/// As many records as an engine does in a moment.
pub fn warm_up(per_s: f64) -> u64 {
    WARM_UP.min((per_s * WARM_UP_MAX.as_secs_f64()) as u64).max(1)
}

/// What whoever looks sees.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Since the first record was due.
    pub at: Duration,
    pub sample: Sample,
    /// Published, and not durable.
    pub behind: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Go,
    Rate(u64),
    Over,
}

/// One run; its table is still there.
pub struct Lived {
    pub round: Round,
    /// When the first record was due, in µs since the Unix epoch.
    pub began_us: u64,
    /// The publisher was far behind its own times.
    pub publisher_was_late: bool,
}

impl Lived {
    /// Of the records that were due between two moments since the begin.
    pub fn latency(&self, bench: &Bench<'_>, from: Duration, to: Duration) -> Result<Option<Latency>, BenchError> {
        let at = |moment: Duration| self.began_us + moment.as_micros() as u64;
        latency(bench.databases()?, &bench.skews, &Range { sent_us: (at(from).max(1), at(to)), without: None })
    }
}

/// One run. `decide` is asked some times a second until it says that it is over.
pub fn live(
    bench: &mut Bench<'_>,
    traffic: Traffic<'_>,
    mut decide: impl FnMut(&Look) -> Next,
) -> Result<Lived, BenchError> {
    let load_before = machine::load();
    let topic = bench.new_topic()?;
    bench.databases()?.fresh_table(traffic.target)?;
    let mut running = bench.start(&topic, traffic.target, traffic.work.clone(), None)?;
    let mut publisher = Publisher::new(&bench.config().kafka, &topic, Some(bench.options.linger))?;
    publisher.warm_up(traffic.workload, traffic.warm_up)?;
    warmed_up(bench, &mut running, traffic.warm_up)?;
    running.mark()?;
    running.samples.clear();
    let began_us = unix_us();
    let steady = Steady::start(publisher, traffic.workload.clone(), traffic.warm_up, traffic.rate)?;
    let mut under_way =
        UnderWay { running, traffic: &traffic, began: Instant::now(), published: Vec::new(), counted: None };
    under_way.flow(bench, &steady, &mut decide)?;
    let stopped = bench.stopper.is_stopped();
    let publisher_was_late = steady.late() > LATE_LIMIT;
    let sent = steady.end()?;
    let all = traffic.warm_up + sent.records;
    let given_up = under_way.wait(bench, all)?;
    let UnderWay { running, published, .. } = under_way;
    let (end, samples) = running.ended()?;
    bench.drop_topic(&topic);
    if given_up && !bench.stopper.is_stopped() {
        let text = format!("{}: nothing became durable any more after {} of {all} records", traffic.what, end.durable);
        return Err(BenchError::Failed(text));
    }
    let mut round = Round::new(&end, &samples, &published);
    (round.cut_short, round.load_before) = (stopped || given_up, load_before);
    (round.late_ms, round.acknowledged_ms) = (Some(sent.late_ms), Some(sent.acknowledged_ms));
    round.durable_ms = end.durable_ms.filter(|_| traffic.without.is_none());
    if end.durable >= all {
        let found = each_once(bench.databases()?, all);
        round.verified = bench.verify(traffic.what, found)?;
    }
    let range = Range { without: traffic.without, ..Range::all() };
    if let Some(latency) = latency(bench.databases()?, &bench.skews, &range)? {
        round.written_ms = Some(latency.quantiles);
        round = round.with_curve(&latency.curve);
    }
    Ok(Lived { round, began_us, publisher_was_late })
}

/// An engine, and what has been published beside it.
struct UnderWay<'a> {
    running: Running,
    traffic: &'a Traffic<'a>,
    began: Instant,
    /// So many records, at each of the engine's samples.
    published: Vec<u64>,
    /// When they were counted last, in µs since the Unix epoch, and how many they were.
    counted: Option<(u64, u64)>,
}

impl UnderWay<'_> {
    /// While records come.
    fn flow(
        &mut self,
        bench: &Bench<'_>,
        steady: &Steady,
        decide: &mut impl FnMut(&Look) -> Next,
    ) -> Result<(), BenchError> {
        let mut progress = Progress::new(self.traffic.what, self.traffic.period.as_secs(), "s");
        self.running.be_patient();
        loop {
            if self.running.look()? {
                return Err(BenchError::Failed(format!("{}: the engine ended by itself", self.traffic.what)));
            }
            self.count(self.traffic.warm_up + steady.sent());
            let (sample, published) = (self.running.latest(), self.published.last().copied().unwrap_or_default());
            let look = Look { at: self.began.elapsed(), sample, behind: published.saturating_sub(sample.durable) };
            let lag = grouped(sample.time_lag_ms);
            progress.show(look.at.as_secs(), &format!(", {} records behind by {lag} ms", grouped(look.behind)));
            if bench.stopper.is_stopped() || steady.has_ended() || self.running.is_stuck() {
                return Ok(());
            }
            // Before its first word after the mark nothing is known.
            match if self.running.samples.is_empty() { Next::Go } else { decide(&look) } {
                Next::Go => {}
                Next::Rate(rate) => steady.set_rate(rate),
                Next::Over => return Ok(()),
            }
        }
    }

    /// How many there were at the samples that have come since they were counted last: the engine looks at other moments than we do.
    fn count(&mut self, all: u64) {
        let now = (unix_us(), all);
        let before = self.counted.replace(now).unwrap_or((now.0, self.traffic.warm_up));
        let new = self.running.samples.iter().skip(self.published.len());
        self.published.extend(new.map(|sample| between(before, now, sample.at_us)));
    }

    /// Until all of it is durable. Returns whether that was given up.
    fn wait(&mut self, bench: &Bench<'_>, all: u64) -> Result<bool, BenchError> {
        let mut progress =
            Progress::new(format!("{}, waiting for the rest", self.traffic.what), all, "records durable");
        self.running.until(all)?;
        self.running.be_patient();
        let (begin, mut given_up) = (Instant::now(), false);
        while !self.running.look()? {
            self.count(all);
            progress.show(self.running.latest().durable, "");
            let too_long = bench.stopper.is_stopped() && begin.elapsed() > LATE_DEADLINE;
            if (too_long || self.running.is_stuck()) && !given_up {
                given_up = true;
                self.running.stop();
            }
        }
        Ok(given_up)
    }
}

/// What rises evenly from one moment's figure to another's.
fn between(before: (u64, u64), now: (u64, u64), at: u64) -> u64 {
    let part = at.clamp(before.0, now.0) - before.0;
    before.1 + (now.1 - before.1) * part / (now.0 - before.0).max(1)
}

/// Later than this the publisher cannot keep its rate.
const LATE_LIMIT: Duration = Duration::from_millis(500);

/// Waits until the engine has done what came before.
fn warmed_up(bench: &Bench<'_>, running: &mut Running, records: u64) -> Result<(), BenchError> {
    running.be_patient();
    while running.latest().durable < records {
        if running.look()? || running.is_stuck() {
            return Err(BenchError::Failed("the engine does not begin".to_owned()));
        }
        if bench.stopper.is_stopped() {
            return Err(BenchError::Interrupted);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_between_two_looks_is_in_between() {
        let (before, now) = ((1_000, 50), (3_000, 90));
        assert_eq!([500, 1_000, 2_000, 3_000, 9_000].map(|at| between(before, now, at)), [50, 50, 70, 90, 90]);
        assert_eq!(between((7, 5), (7, 5), 7), 5);
    }

    #[test]
    fn slow_engines_are_warmed_up_with_less() {
        assert_eq!([f64::INFINITY, 40.0, 0.1].map(warm_up), [1_000, 80, 1]);
    }
}
