//! One mode at one rate: the load, the disturbances in it, the drain behind it, and what all of it came to.
//!
//! Everything here happens on the thread that the servers and the processes were started in: they end with it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bench::progress::Progress;
use crate::compare::CompareError;
use crate::compare::check;
use crate::compare::disturb::{Happened, Trouble};
use crate::compare::environment::Environment;
use crate::compare::figures::{Observed, figures};
use crate::compare::findings::{Kind, Mode, Run};
use crate::compare::generator::{Live, Load};
use crate::compare::ledger::{Entry, Ledger};
use crate::compare::moment::Zero;
use crate::compare::options::Options;
use crate::compare::requests::Requests;
use crate::compare::rig::{self, Rig};
use crate::compare::sample::{Sampler, Watched};
use crate::compare::schedule::{Schedule, Script, Span, WARM_UP_S};
use crate::console;
use crate::engine::Stopper;
use crate::words::{counted, grouped};

/// Until the first request that does not count: threads are started.
const LEAD: Duration = Duration::from_millis(300);
/// What a look at the end of a second may take.
const LOOK_S: f64 = 0.3;
/// What the engine may take to catch up, besides so many times as long as was sent.
const DRAIN_MIN: Duration = Duration::from_secs(120);
const DRAIN_FACTOR: u32 = 3;
/// Of its row: the one that is written most often.
const BUSIEST: u32 = 0;

/// See the module's text.
pub fn run(
    environment: &mut Environment,
    options: &Options,
    mode: Mode,
    (rate, factor): (u64, u64),
    stopper: &Stopper,
) -> Result<Run, CompareError> {
    let script = Script::new(options.seconds);
    let schedule = script.schedule(rate, options.burst_factor, options.ramp);
    let rig = Rig::start(environment, mode, options, stopper)?;
    let zero = Zero::after(LEAD + Duration::from_secs_f64(WARM_UP_S));
    let observed = observe(environment, options, rig, (&script, &schedule, zero), (mode, rate), stopper)?;
    let rows = environment.rows()?;
    let verification = check::check(&observed.ledger, &rows);
    let mut run = figures(&observed, &script, rate);
    (run.mode, run.rate, run.factor, run.verification) = (mode, rate, factor, verification);
    // Whoever ends it once all was sent and written has a whole run.
    run.cut_short = stopper.is_stopped() && (run.seconds < script.seconds || run.drain_seconds.is_none());
    Ok(run)
}

fn observe(
    environment: &mut Environment,
    options: &Options,
    mut rig: Rig,
    (script, schedule, zero): (&Script, &Schedule, Zero),
    (mode, rate): (Mode, u64),
    stopper: &Stopper,
) -> Result<Observed, CompareError> {
    let live = Arc::new(Live::default());
    let shards = environment.config.shards.clone();
    let group = environment.config.kafka.group_id.clone();
    let sampler = Sampler::start(Watched {
        zero,
        live: Arc::clone(&live),
        gateway: rig.gateway.pid(),
        engine: rig.engine.as_ref().map(|(engine, admin)| (engine.pid(), *admin)),
        // In sync it works for others.
        kafka: environment.kafka.filter(|_| mode == Mode::Async),
        shards: shards.clone(),
        group: rig.made.group.clone(),
        own_group: group.clone(),
    });
    let requests = Requests::new(options.keys, options.skew, options.seed, options.value_bytes);
    let load = Load {
        address: rig.address,
        schedule,
        requests: &requests,
        first: 0,
        connections: options.connections,
        timeout: options.timeout,
    };
    let trouble = Trouble { zero, live: Arc::clone(&live), shards, group };
    let threads: Vec<JoinHandle<Happened>> = vec![
        trouble.lock_row(environment.table(), requests.ids(BUSIEST), script.row_locked),
        trouble.checkpoint(script.checkpoint_s),
    ];
    let mut stopping = Stopping::new(environment, script.shard_stopped);
    let mut bar = Bar::new(mode, rate, script.seconds);
    let ledger = rig::drive(&load, zero, &live, || {
        if stopper.is_stopped() {
            live.end();
        }
        stopping.turn(environment, zero, live.is_over())?;
        rig.check()?;
        bar.show(zero, &live, &sampler);
        Ok(())
    });
    // Whatever happened, the server is there again.
    let stopped = stopping.end(environment, zero);
    let ledger = ledger?;
    let mut happened = vec![stopped?];
    for thread in threads {
        let came = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        happened.push(felt(came, &ledger));
    }
    happened.push(burst(script, &ledger, options.burst_factor));
    let patience = DRAIN_MIN.max(DRAIN_FACTOR * Duration::from_secs_f64(script.seconds));
    let drained = rig.drain(patience, stopper, || bar.show(zero, &live, &sampler))?;
    drop(bar);
    // The last second's look is still to come.
    let last = ledger.entries.last().map_or(0.0, |last| last.due_us as f64 / 1e6).ceil();
    zero.wait_until(last + LOOK_S, &AtomicBool::new(false));
    let made = rig.stop()?;
    // Sessions that have ended have told the server of all their transactions.
    let seen = sampler.end();
    environment.drop_topic(&made.topic);
    let written = environment.written(zero, ledger.entries.len() as u64)?;
    Ok(Observed { ledger, seen, happened, drained, written })
}

/// A row that is held and that nobody asks for is no trouble.
fn felt(happened: Happened, ledger: &Ledger) -> Happened {
    let (Kind::RowLocked, Ok((span, told))) = (happened.kind, &happened.outcome) else { return happened };
    let is_for_it = |entry: &&Entry| entry.key == BUSIEST && span.holds(entry.due_us as f64 / 1e6);
    let outcome = match ledger.entries.iter().filter(is_for_it).count() as u64 {
        0 => {
            Err("no request was for the row while it was held: fewer --keys, more --skew, or another --rate".to_owned())
        }
        count => Ok((*span, format!("{told}, {} for it meanwhile", counted(count, "request")))),
    };
    Happened { outcome, ..happened }
}

/// As much of it as was sent.
fn burst(script: &Script, ledger: &Ledger, factor: u64) -> Happened {
    let until = ledger.entries.last().map_or(0.0, |last| last.due_us as f64 / 1e6);
    let Span { from_s, to_s } = script.burst;
    let outcome = if until > from_s {
        Ok((Span { from_s, to_s: to_s.min(until) }, format!("{factor} times the rate")))
    } else {
        Err("it was ended before".to_owned())
    };
    Happened { kind: Kind::Burst, shard: None, outcome }
}

/// The last of our servers is stopped and started again.
struct Stopping {
    span: Span,
    state: State,
}

enum State {
    Waits,
    Down { since_s: f64 },
    Over(Happened),
}

impl Stopping {
    fn new(environment: &Environment, span: Span) -> Stopping {
        let state = if environment.servers.is_empty() {
            let why = "the servers were named, and are not ours to stop";
            State::Over(Happened::skipped(Kind::ShardStopped, why))
        } else {
            State::Waits
        };
        Stopping { span, state }
    }

    fn turn(&mut self, environment: &mut Environment, zero: Zero, over: bool) -> Result<(), CompareError> {
        match &self.state {
            State::Waits if over => {
                self.state = State::Over(Happened::skipped(Kind::ShardStopped, "it was ended before"));
            }
            State::Waits if zero.now_s() >= self.span.from_s => {
                let since_s = zero.now_s();
                self.state = State::Down { since_s };
                environment.servers.last_mut().map_or(Ok(()), |server| server.shut_down())?;
            }
            State::Down { since_s } if over || zero.now_s() >= self.span.to_s => {
                let from_s = *since_s;
                environment.servers.last_mut().map_or(Ok(()), |server| server.start_again())?;
                let span = Span { from_s, to_s: zero.now_s() };
                let told =
                    format!("PostgreSQL is shut down (fast), and answers again after {:.0} s", span.to_s - from_s);
                let shard = environment.config.shards.last().map(|shard| shard.name.clone());
                self.state = State::Over(Happened { kind: Kind::ShardStopped, shard, outcome: Ok((span, told)) });
            }
            _ => {}
        }
        Ok(())
    }

    fn end(mut self, environment: &mut Environment, zero: Zero) -> Result<Happened, CompareError> {
        self.turn(environment, zero, true)?;
        match self.state {
            State::Over(happened) => Ok(happened),
            _ => Err(CompareError::Failed("a server was stopped, and not started again".to_owned())),
        }
    }
}

struct Bar {
    progress: Progress,
}

impl Bar {
    fn new(mode: Mode, rate: u64, seconds: f64) -> Bar {
        let what = format!("{} at {}/s", mode.word(), grouped(rate));
        Bar { progress: Progress::new(what, seconds as u64, "s") }
    }

    fn show(&mut self, zero: Zero, live: &Live, sampler: &Sampler) {
        use std::sync::atomic::Ordering::Relaxed;
        let (due, done, accepted) = (live.due.load(Relaxed), live.done.load(Relaxed), live.accepted.load(Relaxed));
        let lag = sampler.latest.lock().message_lag;
        let lag = lag.map_or(String::new(), |lag| format!(", {} behind", grouped(lag)));
        let note = format!(
            ": {} accepted, {} errors, {} under way{lag}",
            grouped(accepted),
            grouped(done.saturating_sub(accepted)),
            grouped(due.saturating_sub(done))
        );
        self.progress.show(zero.now_s().max(0.0) as u64, &note);
    }
}

/// A run that did not drain, or lost something: what is wrong with it, in sentences.
pub fn wrong(run: &Run) -> Vec<String> {
    if run.was_left() {
        return Vec::new();
    }
    let name = format!("{} at {}/s", run.mode.word(), grouped(run.rate));
    let mut wrong = Vec::new();
    let found = &run.verification;
    if run.drain_seconds.is_none() {
        wrong.push(format!("{name}: the engine had not caught up when patience ended"));
    }
    if !found.equal {
        let of = format!("{} of {} acknowledged requests", grouped(found.in_table), grouped(found.acknowledged));
        wrong.push(format!("{name}: {of} are in the tables: {}", found.problems.join("; ")));
    }
    wrong.iter().for_each(console::err);
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::findings::Verification;
    use crate::compare::ledger::Outcome;
    use crate::compare::ledger::tests::entry;

    #[test]
    fn a_row_that_nobody_asked_for_was_no_trouble() {
        let span = Span { from_s: 10.0, to_s: 15.0 };
        let after = |of: &[(u32, i64)]| {
            let entries = of.iter().map(|(key, due_s)| entry(*key, due_s * 1_000_000, 1, Outcome::Answered(200)));
            let ledger = Ledger { entries: entries.collect(), ..Ledger::new(0) };
            let outcome = Ok((span, "a row is held".to_owned()));
            felt(Happened { kind: Kind::RowLocked, shard: None, outcome }, &ledger).outcome
        };
        let told = |what: &str| Ok((span, format!("a row is held, {what} for it meanwhile")));
        assert_eq!(after(&[(BUSIEST, 9), (BUSIEST, 10), (3, 12), (BUSIEST, 14), (BUSIEST, 15)]), told("2 requests"));
        let why = after(&[(BUSIEST, 9), (3, 12)]).unwrap_err();
        assert!(why.starts_with("no request was for the row"), "{why}");
    }

    #[test]
    fn of_a_burst_that_was_ended_there_is_what_was_sent() {
        let script = Script::new(60);
        let of = |last_s: i64| {
            let entries = vec![entry(1, last_s * 1_000_000, 1, Outcome::Answered(200))];
            burst(&script, &Ledger { entries, ..Ledger::new(0) }, 3).outcome.map(|(span, _)| span.to_s)
        };
        assert_eq!((of(59), of(49)), (Ok(52.0), Ok(49.0)));
        assert!(of(46).is_err());
    }

    #[test]
    fn what_is_lost_or_late_for_ever_is_wrong() {
        let verification = Verification { acknowledged: 9, in_table: 9, equal: true, ..Verification::default() };
        let run = Run { drain_seconds: Some(0.0), verification, ..Run::default() };
        assert_eq!(wrong(&run), [] as [String; 0]);
        let late = Run { drain_seconds: None, mode: Mode::Async, rate: 1200, ..run.clone() };
        assert_eq!(wrong(&late), ["async at 1,200/s: the engine had not caught up when patience ended"]);
        // What was ended early may still wait in Kafka.
        let left = Run { cut_short: true, verification: Verification::default(), ..late.clone() };
        assert_eq!(wrong(&left), [] as [String; 0]);
        let mut lost = run;
        (lost.verification.equal, lost.verification.in_table) = (false, 8);
        lost.verification.problems = vec!["request 3 was acknowledged".to_owned()];
        let told = "sync at 0/s: 8 of 9 acknowledged requests are in the tables: request 3 was acknowledged";
        assert_eq!(wrong(&lost), [told]);
    }
}
