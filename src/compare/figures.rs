//! From what was seen of a run to its figures. Pure.

use crate::compare::check::{self, Written};
use crate::compare::disturb::Happened;
use crate::compare::findings::{Cpu, Disturbance, Effect, Run, Sample, Totals};
use crate::compare::ledger::{self, Ledger, Sum, times};
use crate::compare::sample::{self, Seen, Sums};
use crate::compare::schedule::{Script, Span};

/// What was seen, before anything is made of it.
pub struct Observed {
    pub ledger: Ledger,
    pub seen: Seen,
    pub happened: Vec<Happened>,
    /// Whether nothing waited at the end.
    pub drained: bool,
    pub written: Vec<Written>,
}

/// Without what was verified, and whose it is.
pub fn figures(observed: &Observed, script: &Script, rate: u64) -> Run {
    let Observed { ledger, seen, happened, drained, written } = observed;
    let durable = check::durable_us(ledger, written);
    let sent_until = ledger.entries.last().map_or(0.0, |last| last.due_us as f64 / 1e6).clamp(0.0, script.seconds);
    let cut = sent_until + 2.0 / (rate as f64) + 0.1 < script.seconds;
    let seconds = if cut { sent_until } else { script.seconds };
    let last_s = written_s(ledger, &durable, |_| true).flatten().fold(0.0, f64::max);
    let end = seconds.max(last_s).ceil() as u32;
    let (samples, sums) = sample::assemble(seen, &ledger::by_second(ledger, &durable), &by_second(written), end);
    let all = ledger::sum_of(ledger, &durable, |at| at >= 0.0);
    let spans: Vec<Span> = happened.iter().filter_map(|one| one.outcome.as_ref().ok()).map(|(span, _)| *span).collect();
    let mut disturbances: Vec<Disturbance> =
        happened.iter().map(|one| disturbance(one, &spans, ledger, &durable, &samples)).collect();
    disturbances.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    // A disturbance lasts until what came of it is over.
    let disturbed: Vec<Span> = disturbances.iter().filter_map(|one| until_well(one, script.recovery_s)).collect();
    let is_quiet = |at: f64| at >= 0.0 && !disturbed.iter().any(|span| span.holds(at));
    let is_quiet_second = |second: u32| is_quiet(f64::from(second)) && is_quiet(f64::from(second + 1));
    let quiet_samples = || samples.iter().filter(|sample| is_quiet_second(sample.second));
    let quiet_seconds = quiet_samples().filter(|sample| f64::from(sample.second) < seconds).count() as f64;
    let quiet = ledger::sum_of(ledger, &durable, is_quiet).effect(quiet_seconds);
    Run {
        seconds,
        drain_seconds: drained.then(|| (last_s - seconds).max(0.0)),
        totals: totals(&all, &samples, &sums, seconds, ledger),
        quiet: with_lag(quiet, quiet_samples()),
        disturbances,
        samples: samples.clone(),
        ..Run::default()
    }
}

/// When the rows of what was accepted were written, of requests due at such times. None: that has not been seen.
fn written_s(
    ledger: &Ledger,
    durable: &[Option<u64>],
    when: impl Fn(f64) -> bool,
) -> impl Iterator<Item = Option<f64>> {
    let accepted = ledger.entries.iter().zip(durable).filter(|(entry, _)| entry.is_accepted());
    let due = accepted.filter(move |(entry, _)| when(entry.due_us as f64 / 1e6));
    due.map(|(entry, us)| Some((entry.due_us + (*us)? as i64) as f64 / 1e6))
}

fn by_second(written: &[Written]) -> Vec<u64> {
    let mut seconds: Vec<u64> = Vec::new();
    for one in written {
        let Ok(second) = usize::try_from(one.at_us.div_euclid(1_000_000)) else { continue };
        if seconds.len() <= second {
            seconds.resize(second + 1, 0);
        }
        seconds[second] += 1;
    }
    seconds
}

/// `spans`: of all that happened.
fn disturbance(
    one: &Happened,
    spans: &[Span],
    ledger: &Ledger,
    durable: &[Option<u64>],
    samples: &[Sample],
) -> Disturbance {
    let blank = Disturbance { kind: one.kind, shard: one.shard.clone(), ..Disturbance::default() };
    match &one.outcome {
        Err(why) => Disturbance { skipped: Some(why.clone()), told: "left out".to_owned(), ..blank },
        Ok((span, told)) => {
            let seen = seen(span, spans);
            let sum = ledger::sum_of(ledger, durable, |at| seen.holds(at));
            let of = |sample: &&Sample| {
                let second = f64::from(sample.second);
                second + 1.0 > seen.from_s && second <= seen.to_s
            };
            let mut effect = with_lag(sum.effect(seen.to_s - seen.from_s), samples.iter().filter(of));
            // Nothing, where one of them was never written.
            let mut late_s = written_s(ledger, durable, |at| seen.holds(at)).map(|at| Some((at? - seen.to_s).max(0.0)));
            effect.caught_up_after_s = late_s.try_fold(0.0, |most: f64, late| Some(most.max(late?)));
            Disturbance { from_s: span.from_s, to_s: span.to_s, told: told.clone(), effect: Some(effect), ..blank }
        }
    }
}

/// Nothing, where it was left out.
fn until_well(one: &Disturbance, recovery_s: f64) -> Option<Span> {
    let effect = one.effect.as_ref()?;
    let well_after_s = effect.caught_up_after_s.map_or(f64::INFINITY, |after| after.max(recovery_s));
    Some(Span { from_s: one.from_s, to_s: one.to_s + well_after_s })
}

/// A moment is not without requests because it is short, and what comes next is not its effect.
fn seen(span: &Span, spans: &[Span]) -> Span {
    let next = spans.iter().map(|other| other.from_s).filter(|from| *from > span.from_s).fold(f64::MAX, f64::min);
    Span { to_s: span.to_s.max(span.from_s + 1.0).min(next), ..*span }
}

fn with_lag<'a>(effect: Effect, samples: impl Iterator<Item = &'a Sample> + Clone) -> Effect {
    Effect {
        message_lag_max: samples.clone().filter_map(|sample| sample.message_lag).max(),
        time_lag_max_ms: samples.filter_map(|sample| sample.time_lag_ms).max(),
        ..effect
    }
}

fn totals(all: &Sum, samples: &[Sample], sums: &Sums, seconds: f64, ledger: &Ledger) -> Totals {
    let a_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let a_thousand = |value: Option<f64>| value.filter(|_| all.accepted > 0).map(|v| v * 1000.0 / all.accepted as f64);
    let ms = |value: Option<f64>| a_thousand(value).map(|seconds| seconds * 1000.0);
    let Cpu { generator, gateway, engine, postgresql, kafka } = sums.cpu;
    let most = |value: fn(&Sample) -> Option<u64>| samples.iter().filter_map(value).max();
    Totals {
        offered: all.offered,
        accepted: all.accepted,
        offered_per_s: a_second(all.offered),
        accepted_per_s: a_second(all.accepted),
        errors: all.errors.clone(),
        error_percent: all.error_percent(),
        request_ms: all.request_ms(),
        durable_ms: all.durable_ms(),
        late_ms: times(&ledger.late),
        client_connections_max: ledger.connections_max as u64,
        message_lag_max: most(|sample| sample.message_lag),
        time_lag_max_ms: most(|sample| sample.time_lag_ms),
        retries: sums.retries.map(|retries| retries as u64),
        connections_max: most(|sample| sample.connections.map(u64::from)).map(|n| n as u32),
        lock_waits_max: most(|sample| sample.lock_waits.map(u64::from)).map(|n| n as u32),
        transactions_per_1000: a_thousand(sums.transactions),
        wal_bytes_per_1000: a_thousand(sums.wal_bytes),
        cpu: sums.cpu,
        cpu_ms_per_1000: Cpu {
            generator: ms(generator),
            gateway: ms(gateway),
            engine: ms(engine),
            postgresql: ms(postgresql),
            kafka: ms(kafka),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::findings::Kind;
    use crate::compare::ledger::Outcome;
    use crate::compare::ledger::tests::entry;
    use crate::compare::sample::Raw;

    /// A run of a minute at 10/s: from 25 to 35 all is refused (sync), or written late (async).
    fn observed(refuses: bool) -> Observed {
        let down = |at: f64| (25.0..35.0).contains(&at);
        let mut ledger = Ledger::new(0);
        let mut written = Vec::new();
        for n in 0..600u64 {
            let at = n as f64 / 10.0;
            let outcome = if refuses && down(at) { Outcome::Answered(503) } else { Outcome::Answered(202) };
            ledger.entries.push(entry(n as u32, (at * 1e6) as i64, 1_000, outcome));
            if outcome == Outcome::Answered(202) {
                let done = if down(at) { 37.0 } else { at + 0.01 };
                written.push(Written { n, at_us: (done * 1e6) as i64 });
            }
        }
        let lag = |second: u32| if (26..37).contains(&second) { u64::from(second - 25) * 10 } else { 0 };
        let raw = |second: u32| Raw {
            at_s: f64::from(second),
            message_lag: (!refuses).then(|| lag(second)),
            gateway: Some(f64::from(second) * 0.2),
            ..Raw::default()
        };
        let processes: BTreeMap<u32, Raw> = (0..=62).map(|second| (second, raw(second))).collect();
        let span = Span { from_s: 25.0, to_s: 35.0 };
        let stopped = Happened { kind: Kind::ShardStopped, shard: Some("b".into()), outcome: Ok((span, "x".into())) };
        let happened = vec![stopped, Happened::skipped(Kind::Checkpoint, "no right to")];
        Observed { ledger, seen: Seen { processes, shards: Vec::new() }, happened, drained: true, written }
    }

    #[test]
    fn trouble_is_errors_before_and_lag_afterwards() {
        let script = Script::new(60);
        let (before, after) = (figures(&observed(true), &script, 10), figures(&observed(false), &script, 10));
        let effect = |run: &Run| {
            run.disturbances.iter().find(|one| one.kind == Kind::ShardStopped).unwrap().effect.clone().unwrap()
        };
        let (sync, later) = (effect(&before), effect(&after));
        assert_eq!((sync.offered, sync.accepted, sync.error_percent), (100, 0, 100.0));
        assert_eq!((later.offered, later.accepted, later.error_percent), (100, 100, 0.0));
        assert_eq!((later.message_lag_max, later.caught_up_after_s), (Some(110), Some(2.0)));
        assert!(later.durable_ms.unwrap().max > 11_900.0 && before.quiet.durable_ms.unwrap().max < 20.0);
        assert_eq!((before.totals.accepted, before.totals.errors.by_status[&503]), (500, 100));
        assert_eq!((before.quiet.error_percent, after.quiet.message_lag_max), (0.0, Some(0)));
        // Ten seconds, and five behind them to be well again.
        assert_eq!(before.quiet.offered, 450);
        let skipped = after.disturbances.iter().find(|one| one.kind == Kind::Checkpoint).unwrap();
        assert_eq!((skipped.skipped.as_deref(), &skipped.effect), (Some("no right to"), &None));
        assert!((after.totals.cpu_ms_per_1000.gateway.unwrap() - 62.0 * 0.2 * 1e6 / 600.0).abs() < 1.0);
        assert_eq!(after.drain_seconds.map(|s| s < 0.1), Some(true));
        assert_eq!((after.samples[36].written, after.samples[37].written), (10, 110));
    }

    #[test]
    fn it_is_not_quiet_before_what_waited_is_written() {
        let mut observed = observed(false);
        observed.written.iter_mut().filter(|one| one.at_us == 37_000_000).for_each(|one| one.at_us = 45_000_000);
        assert_eq!(figures(&observed, &Script::new(60), 10).quiet.offered, 400);
    }

    #[test]
    fn what_was_never_written_was_not_caught_up_with() {
        let script = Script::new(60);
        let mut observed = observed(false);
        // Of the time in which the shard was stopped.
        observed.written.retain(|one| one.n != 300);
        let run = figures(&observed, &script, 10);
        let stopped = run.disturbances.iter().find(|one| one.kind == Kind::ShardStopped).unwrap();
        assert_eq!(stopped.effect.as_ref().unwrap().caught_up_after_s, None);
    }

    #[test]
    fn a_disturbance_ends_where_the_next_begins() {
        let span = |from_s, to_s| Span { from_s, to_s };
        let spans = [span(10.0, 15.0), span(21.0, 21.2), span(21.8, 30.0), span(40.0, 40.1)];
        let check = |index: usize, to_s: f64| assert_eq!(seen(&spans[index], &spans).to_s, to_s);
        check(0, 15.0);
        check(1, 21.8);
        check(2, 30.0);
        check(3, 41.0);
    }
}
