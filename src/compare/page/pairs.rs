//! What belongs side by side: the runs of both modes at one rate, and what the same trouble did to each. Decides nothing else.

use crate::compare::findings::{Disturbance, Effect, Findings, Kind, Mode, Run};
use crate::words::harmless;

/// Sync and async at one rate. One of them may be missing.
pub struct Pair<'f> {
    pub rate: u64,
    /// In words: that it is the most that sync bore, or a multiple of that.
    pub what: String,
    pub sync: Option<&'f Run>,
    /// The other mode (whose own name is a word of the language).
    pub queued: Option<&'f Run>,
}

/// One of the disturbances, or that there was none, as both modes had it.
pub struct Trouble<'f> {
    /// A label: `shard b stopped`.
    pub label: String,
    /// The beginning of a sentence: `While shard b was stopped`.
    pub during: String,
    /// None: undisturbed.
    pub kind: Option<Kind>,
    pub sync: Option<&'f Effect>,
    pub queued: Option<&'f Effect>,
}

/// From left to right.
pub const MODES: [Mode; 2] = [Mode::Sync, Mode::Async];

/// By rate, the lowest first.
pub fn pairs(findings: &Findings) -> Vec<Pair<'_>> {
    let mut rates: Vec<(u64, u64)> = findings.runs.iter().map(|run| (run.rate, run.factor)).collect();
    rates.sort_unstable();
    rates.dedup_by_key(|(rate, _)| *rate);
    let pair = |(rate, factor)| {
        let of = |mode| findings.runs.iter().find(|run| run.rate == rate && run.mode == mode);
        let ramp = findings.parameters.ramp.then(|| "reached at the end of a ramp".to_owned());
        let what: Vec<String> = [what(findings, rate, factor), ramp].into_iter().flatten().collect();
        Pair { rate, what: what.join(", "), sync: of(Mode::Sync), queued: of(Mode::Async) }
    };
    rates.into_iter().map(pair).collect()
}

fn what(findings: &Findings, rate: u64, factor: u64) -> Option<String> {
    let borne = findings.search.as_ref().and_then(|search| search.borne);
    match (factor, borne) {
        (_, Some(borne)) if borne == rate => Some("the most that sync bore".to_owned()),
        (2.., Some(borne)) if borne * factor == rate => Some(format!("{} what sync bore", times(factor))),
        (2.., _) => Some(format!("{} the rate asked for", times(factor))),
        _ => None,
    }
}

fn times(factor: u64) -> String {
    if factor == 2 { "twice".to_owned() } else { format!("{factor} times") }
}

impl<'f> Pair<'f> {
    pub fn run(&self, mode: Mode) -> Option<&'f Run> {
        match mode {
            Mode::Sync => self.sync,
            Mode::Async => self.queued,
        }
    }

    /// Those that are there.
    pub fn runs(&self) -> impl Iterator<Item = (Mode, &'f Run)> {
        MODES.into_iter().filter_map(|mode| Some((mode, self.run(mode)?)))
    }

    /// The end of the axis of time, in seconds: of both, what was still written after the last request included.
    pub fn end(&self) -> f64 {
        let ends = self.runs().flat_map(|(_, run)| {
            let sampled = run.samples.last().map_or(0.0, |sample| f64::from(sample.second) + 1.0);
            let disturbed = run.disturbances.iter().filter(|one| one.effect.is_some()).map(|one| one.to_s);
            disturbed.chain([sampled]).collect::<Vec<_>>()
        });
        ends.fold(0.0, f64::max)
    }

    /// Those that both modes had, which alone compare; without any, or where only one mode ran, all of them.
    pub fn compared(&self) -> Vec<Trouble<'f>> {
        let (shared, others): (Vec<_>, Vec<_>) =
            self.troubles().into_iter().partition(|one| one.sync.is_some() && one.queued.is_some());
        if shared.is_empty() { others } else { shared }
    }

    /// Undisturbed first, then as they came in sync, or in async where that is all there is.
    pub fn troubles(&self) -> Vec<Trouble<'f>> {
        let quiet = |run: Option<&'f Run>| run.map(|run| &run.quiet).filter(|quiet| quiet.offered > 0);
        let undisturbed = Trouble {
            label: "undisturbed".into(),
            during: "Undisturbed".into(),
            kind: None,
            sync: quiet(self.sync),
            queued: quiet(self.queued),
        };
        let mut found = vec![undisturbed];
        let (sync, queued) = (disturbances(self.sync), disturbances(self.queued));
        for (key, one) in &sync {
            let other = queued.iter().find(|(other, _)| other == key).map(|(_, other)| *other);
            found.push(Trouble::new(one, one.effect.as_ref(), other.and_then(|other| other.effect.as_ref())));
        }
        let only_queued = queued.iter().filter(|(key, _)| !sync.iter().any(|(other, _)| other == key));
        found.extend(only_queued.map(|(_, one)| Trouble::new(one, None, one.effect.as_ref())));
        found.retain(|trouble| trouble.sync.is_some() || trouble.queued.is_some());
        found
    }
}

/// Each with its kind and which one of that kind it is.
fn disturbances(run: Option<&Run>) -> Vec<((Kind, usize), &Disturbance)> {
    let all = run.map_or(&[][..], |run| &run.disturbances);
    let which = |index: usize| all[..index].iter().filter(|before| before.kind == all[index].kind).count();
    all.iter().enumerate().map(|(index, one)| ((one.kind, which(index)), one)).collect()
}

impl<'f> Trouble<'f> {
    pub fn effect(&self, mode: Mode) -> Option<&'f Effect> {
        match mode {
            Mode::Sync => self.sync,
            Mode::Async => self.queued,
        }
    }

    fn new(one: &Disturbance, sync: Option<&'f Effect>, queued: Option<&'f Effect>) -> Trouble<'f> {
        Trouble { label: label(one), during: during(one), kind: Some(one.kind), sync, queued }
    }
}

/// What a disturbance is called in little room.
pub fn label(one: &Disturbance) -> String {
    match one.kind {
        Kind::RowLocked => "row locked".into(),
        Kind::Checkpoint => "checkpoint".into(),
        Kind::ShardStopped => format!("{} stopped", shard(one, "shard")),
        Kind::Burst => "burst".into(),
    }
}

fn during(one: &Disturbance) -> String {
    match one.kind {
        Kind::RowLocked => "While a row was locked".into(),
        Kind::Checkpoint => "During the checkpoint".into(),
        Kind::ShardStopped => format!("While {} was stopped", shard(one, "a shard")),
        Kind::Burst => "During the burst".into(),
    }
}

/// Some names say what they are.
fn shard(one: &Disturbance, unknown: &str) -> String {
    match one.shard.as_deref().map(harmless) {
        Some(name) if name.starts_with("shard") => name,
        Some(name) => format!("shard {name}"),
        None => unknown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn runs_of_a_rate_stand_side_by_side() {
        let findings = samples::normal();
        let pairs = pairs(&findings);
        let told: Vec<(u64, &str)> = pairs.iter().map(|pair| (pair.rate, pair.what.as_str())).collect();
        assert_eq!(told, [(1200, "the most that sync bore"), (2400, "twice what sync bore")]);
        assert!(pairs.iter().all(|pair| pair.sync.is_some() && pair.queued.is_some()));
        assert!(pairs[0].end() >= 90.0);
        let mut findings = samples::one_mode();
        findings.search = None;
        findings.runs[0].factor = 1;
        let pairs = super::pairs(&findings);
        assert!(pairs[0].queued.is_none() && pairs[0].what.is_empty());
        findings.parameters.ramp = true;
        assert_eq!(super::pairs(&findings)[0].what, "reached at the end of a ramp");
    }

    #[test]
    fn a_shard_is_called_so_once() {
        let called = |shard: Option<&str>| {
            let one =
                Disturbance { kind: Kind::ShardStopped, shard: shard.map(str::to_owned), ..Disturbance::default() };
            (label(&one), during(&one))
        };
        for (name, expected) in
            [(Some("b"), ["shard b", "shard b"]), (Some("shard-2"), ["shard-2"; 2]), (None, ["shard", "a shard"])]
        {
            let expected = (format!("{} stopped", expected[0]), format!("While {} was stopped", expected[1]));
            assert_eq!(called(name), expected);
        }
    }

    #[test]
    fn the_same_trouble_is_found_in_both() {
        let mut findings = samples::normal();
        let labels = |findings: &Findings| -> Vec<(String, bool, bool)> {
            let troubles = pairs(findings).remove(0);
            let troubles = troubles.troubles().into_iter();
            troubles.map(|one| (one.label.clone(), one.sync.is_some(), one.queued.is_some())).collect()
        };
        let of = |label: &str| (label.to_owned(), true, true);
        let all = ["undisturbed", "row locked", "checkpoint", "shard b stopped", "burst"].map(of).to_vec();
        assert_eq!(labels(&findings), all);
        // What one of them left out, the other one had nevertheless; the order is sync's.
        findings.runs[0].disturbances[1].effect = None;
        findings.runs[1].disturbances.reverse();
        let mut expected = all.clone();
        expected[2].1 = false;
        assert_eq!(labels(&findings), expected);
        findings.runs[1].disturbances.clear();
        expected.iter_mut().skip(1).for_each(|one| one.2 = false);
        expected.remove(2);
        assert_eq!(labels(&findings), expected);
    }
}
