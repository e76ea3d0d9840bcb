//! The page's headings: what was found, in a sentence. Each is made of the figures of one pair of runs and says whatever they say, in
//! favour of either mode; without figures there is none.

use super::figures::{bytes, ms, number, part, percent, seconds};
use super::pairs::{MODES, Pair, Trouble};
use crate::compare::findings::{Cpu, Effect, Mode, Run, Times};
use crate::words::listed;

/// What is so many times as large is said to have risen.
const MOVED: f64 = 1.2;

/// What took less than this was there at once, to people.
const LATE_FROM_S: f64 = 1.0;

/// Which part of the requests failed, in the trouble where most did.
pub fn requests(pair: &Pair<'_>) -> Option<String> {
    let failed = |one: &Trouble<'_>, mode: Mode| one.effect(mode).map(|effect| effect.error_percent);
    let most = |one: &Trouble<'_>| MODES.into_iter().filter_map(|mode| failed(one, mode)).fold(0.0, f64::max);
    let troubles = pair.compared();
    // Of equals the first, which is the calmest.
    let worst = troubles.iter().rev().max_by(|a, b| most(a).total_cmp(&most(b))).filter(|worst| most(worst) > 0.0);
    let Some(worst) = worst else {
        return sentence(pair, pair.runs().filter_map(|(mode, run)| accepted(mode, run)).collect());
    };
    let said = |mode: Mode| Some(format!("{} of {}’s requests failed", part(failed(worst, mode)?), mode.word()));
    let said: Vec<String> = MODES.into_iter().filter_map(said).collect();
    // What async did instead of failing.
    let instead =
        failed(worst, Mode::Async).filter(|queued| failed(worst, Mode::Sync).is_some_and(|sync| *queued < sync));
    let lag = instead.and_then(|_| lag(worst)).map(|lag| format!(" Async’s lag {lag}.")).unwrap_or_default();
    Some(format!("{}, {}{}.{lag}", worst.during, said.join("; "), unknown(pair, Some(worst))))
}

/// Of a whole run, where no time in particular stands out.
fn accepted(mode: Mode, run: &Run) -> Option<String> {
    let (totals, mode) = (&run.totals, mode.word());
    (totals.offered > 0).then(|| match totals.error_percent {
        failed if failed > 0.0 => format!("{} of {mode}’s requests failed", percent(failed)),
        _ => format!("{mode} accepted all of {} requests", number(totals.offered as f64)),
    })
}

/// How the slowest of a hundred requests fared: in the trouble that moved them most, or undisturbed, where the modes are further apart
/// than any trouble moves one of them.
pub fn latency(pair: &Pair<'_>) -> Option<String> {
    let times = |effect: &Effect| effect.request_ms;
    let troubles = pair.compared();
    let moves = Moves::most(&troubles, &MODES, times)?.or_apart();
    let said = |mode: Mode| Some(format!("{}’s p99 {}", mode.word(), moves.of(mode)?));
    let said: Vec<String> = MODES.into_iter().filter_map(said).collect();
    Some(format!("{}, {}{}.", moves.worst.during, said.join("; "), unknown(pair, Some(moves.worst))))
}

/// How long rows took, in the trouble that moved async's most.
pub fn durable(pair: &Pair<'_>) -> Option<String> {
    let times = |effect: &Effect| effect.durable_ms;
    let troubles = pair.compared();
    let moves = Moves::most(&troubles, &[Mode::Async], times).or_else(|| Moves::most(&troubles, &MODES, times))?;
    let said = |mode: Mode| {
        let (moved, effect) = (moves.of(mode)?, moves.worst.effect(mode)?);
        let accepted = 100.0 - effect.error_percent;
        let of = if accepted < 100.0 { format!(", for the {} accepted", percent(accepted)) } else { String::new() };
        let late = effect.caught_up_after_s.filter(|late| *late >= LATE_FROM_S);
        let late = late.map(|late| format!(", the last row {} after the end", seconds(late))).unwrap_or_default();
        Some(format!("{moved} in {}{of}{late}", mode.word()))
    };
    let said: Vec<String> = MODES.into_iter().filter_map(said).collect();
    let (during, unknown) = (&moves.worst.during, unknown(pair, Some(moves.worst)));
    Some(format!("{during}, the time until a row is durable (p99) {}{unknown}.", said.join("; it ")))
}

/// A time, in the trouble that moved its p99 most from what it is undisturbed.
struct Moves<'t, 'f> {
    quiet: Option<&'t Trouble<'f>>,
    worst: &'t Trouble<'f>,
    times: fn(&Effect) -> Option<Times>,
}

impl<'t, 'f> Moves<'t, 'f> {
    /// `asked`: whose times decide which trouble it is.
    fn most(troubles: &'t [Trouble<'f>], asked: &[Mode], times: fn(&Effect) -> Option<Times>) -> Option<Moves<'t, 'f>> {
        let quiet = troubles.iter().find(|one| one.kind.is_none());
        let of = |worst| Moves { quiet, worst, times };
        let ratio = |one: &Moves<'_, '_>| {
            // Undisturbed nothing may have been accepted: then the largest counts.
            let ratio = |mode: &Mode| Some(one.to(*mode)? / one.from(*mode).unwrap_or(1.0).max(1e-3));
            asked.iter().filter_map(ratio).reduce(f64::max)
        };
        let disturbed = troubles.iter().filter(|one| one.kind.is_some()).map(of);
        let ratios = disturbed.filter_map(|one| Some((ratio(&one)?, one)));
        let worst = ratios.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, worst)| worst);
        worst.or_else(|| quiet.map(of).filter(|quiet| ratio(quiet).is_some()))
    }

    fn or_apart(self) -> Moves<'t, 'f> {
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?) / a?.min(b?).max(1e-3));
        let apart = ratio(self.from(Mode::Sync), self.from(Mode::Async)).unwrap_or(0.0);
        let moved = MODES.into_iter().filter_map(|mode| ratio(self.to(mode), self.from(mode))).fold(0.0, f64::max);
        let worst = self.quiet.filter(|_| apart > moved).unwrap_or(self.worst);
        Moves { worst, ..self }
    }

    fn to(&self, mode: Mode) -> Option<f64> {
        Some((self.times)(self.worst.effect(mode)?)?.p99)
    }

    fn from(&self, mode: Mode) -> Option<f64> {
        Some((self.times)(self.quiet?.effect(mode)?)?.p99)
    }

    /// The end of a sentence.
    fn of(&self, mode: Mode) -> Option<String> {
        let to = self.to(mode)?;
        Some(match self.from(mode).filter(|_| self.worst.kind.is_some()) {
            Some(from) if to > from * MOVED => format!("rose from {} to {}", ms(from), ms(to)),
            Some(from) if to * MOVED < from => format!("fell from {} to {}", ms(from), ms(to)),
            Some(_) => format!("stayed at {}", ms(to)),
            None => format!("was {}", ms(to)),
        })
    }
}

/// Where async's lag was largest, and who waits in sync.
pub fn message_lag(pair: &Pair<'_>) -> Option<String> {
    let troubles = pair.compared();
    let size = |one: &Trouble<'_>| one.queued.and_then(|effect| effect.message_lag_max);
    let worst = troubles.iter().filter(|one| size(one).is_some()).max_by_key(|one| size(one));
    let grew = worst.and_then(|worst| Some(format!("{}, async’s lag {}", worst.during, lag(worst)?)));
    let most = pair.queued.and_then(|run| run.totals.message_lag_max);
    let grew = grew.or_else(|| Some(format!("async’s lag was at most {}", records(most?))));
    let waiting =
        pair.sync.and_then(|run| run.samples.iter().map(|sample| sample.under_way).max()).filter(|most| *most > 0);
    let waiting = waiting.map(|most| format!("in sync, up to {} requests waited for an answer", number(most as f64)));
    let behind = grew.as_ref().and_then(|_| behind(pair.queued?));
    sentence(pair, [grew, behind, waiting].into_iter().flatten().collect())
}

fn records(number_of: u64) -> String {
    format!("{} {}", number(number_of as f64), if number_of == 1 { "record" } else { "records" })
}

/// Async's lag in a trouble, as the end of a sentence.
fn lag(one: &Trouble<'_>) -> Option<String> {
    let effect = one.queued?;
    let most = records(effect.message_lag_max.filter(|lag| *lag > 0)?);
    Some(match effect.caught_up_after_s {
        Some(late) if late >= LATE_FROM_S => format!("grew to {most}, gone {} after the end", seconds(late)),
        Some(_) => format!("grew to {most}, gone at once"),
        None if one.kind.is_some() => format!("grew to {most}, not gone while it was watched"),
        None => format!("was at most {most}"),
    })
}

/// What was left when the last request had been sent.
fn behind(run: &Run) -> Option<String> {
    match run.drain_seconds {
        None if run.cut_short => None,
        None => Some("it had not caught up when the watch ended".to_owned()),
        Some(drain) if drain >= LATE_FROM_S => {
            Some(format!("it wrote for another {} after the last request", seconds(drain)))
        }
        Some(_) => None,
    }
}

/// How many connections each took, and how many of those waited.
pub fn connections(pair: &Pair<'_>) -> Option<String> {
    let of = |(mode, run): (Mode, &Run)| {
        let used = run.totals.connections_max?;
        let waited = match run.totals.lock_waits_max {
            Some(0) => ", none of them ever waiting for a lock".to_owned(),
            Some(1) => ", at most one of them waiting for a lock".to_owned(),
            Some(waits) => format!(", up to {waits} of them waiting for locks"),
            None => String::new(),
        };
        Some(format!("{} had up to {used} connections{waited}", mode.word()))
    };
    sentence(pair, pair.runs().filter_map(of).collect())
}

/// What the databases had to do for the same work.
pub fn transactions(pair: &Pair<'_>) -> Option<String> {
    let of = |(mode, run): (Mode, &Run)| {
        let transactions = run.totals.transactions_per_1000.map(|n| format!("{} transactions", number(n)));
        let wal = run.totals.wal_bytes_per_1000.map(|n| format!("{} of WAL", bytes(n)));
        let both: Vec<String> = [transactions, wal].into_iter().flatten().collect();
        (!both.is_empty()).then(|| format!("{} in {}", both.join(" and "), mode.word()))
    };
    took(pair, pair.runs().filter_map(of).collect())
}

/// What the same work took of the machine; the generator is no part of it.
pub fn cpu(pair: &Pair<'_>) -> Option<String> {
    let of = |(mode, run): (Mode, &Run)| {
        let known: Vec<(&str, f64)> =
            parts(&run.totals.cpu_ms_per_1000).into_iter().filter_map(|(part, ms)| Some((part, ms?))).collect();
        let (most, share) = known.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let sum: f64 = known.iter().map(|(_, ms)| ms).sum();
        Some(format!("{} of CPU in {}, {} of it in {most}", ms(sum), mode.word(), ms(*share)))
    };
    let claim = took(pair, pair.runs().filter_map(of).collect())?;
    // In sync neither engine nor Kafka has anything to do.
    let unseen = pair.queued.map(|run| parts(&run.totals.cpu_ms_per_1000)).into_iter().flatten();
    let unseen: Vec<String> = unseen.filter(|(_, ms)| ms.is_none()).map(|(part, _)| part.to_owned()).collect();
    let unseen = if unseen.is_empty() { String::new() } else { format!(" Async’s is without {}.", listed(&unseen)) };
    Some(format!("{claim}{unseen}"))
}

/// All but the generator.
pub fn parts(cpu: &Cpu) -> [(&'static str, Option<f64>); 4] {
    [("the gateway", cpu.gateway), ("the engine", cpu.engine), ("PostgreSQL", cpu.postgresql), ("Kafka", cpu.kafka)]
}

/// What a number of accepted requests took, which is the same for both.
fn took(pair: &Pair<'_>, parts: Vec<String>) -> Option<String> {
    (!parts.is_empty()).then(|| format!("1,000 writes took {}{}.", parts.join("; "), unknown(pair, None)))
}

/// Parts about both modes as one sentence, which names the mode that has none.
fn sentence(pair: &Pair<'_>, parts: Vec<String>) -> Option<String> {
    let joined = parts.join("; ");
    let mut letters = joined.chars();
    let first = letters.next()?;
    Some(format!("{}{}{}.", first.to_uppercase(), letters.as_str(), unknown(pair, None)))
}

/// That a mode is missing, all of it or in a trouble: it belongs in every sentence that would compare.
fn unknown(pair: &Pair<'_>, trouble: Option<&Trouble<'_>>) -> String {
    let missing = |mode: Mode| match trouble {
        _ if pair.run(mode).is_none() => Some(format!("; {} was not measured", mode.word())),
        Some(trouble) if trouble.effect(mode).is_none() => Some(format!("; {} did not have this trouble", mode.word())),
        _ => None,
    };
    MODES.into_iter().filter_map(missing).collect()
}
