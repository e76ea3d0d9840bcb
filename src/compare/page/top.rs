//! What is said first: what has to be known before any figure is believed, whether anything was lost, and what was found in short.

use super::figures::{bytes, ms, number, seconds};
use super::markup::{Markup, classed, el, foreign, plain};
use super::metrics::METRICS;
use super::pairs::{MODES, Pair, label};
use crate::compare::findings::{Findings, Mode, Run, Search};
use crate::words::{counted, listed};

/// Requests of which one in a hundred is sent so late have that in what they took.
const LATE_MS: f64 = 5.0;

/// As `admin`'s page has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Ok,
    Warn,
    Bad,
}

pub fn header(findings: &Findings) -> Markup {
    let fact = |text: &str| plain("span", foreign(text));
    let facts = [
        if findings.forebay.is_empty() { String::new() } else { format!("forebay {}", findings.forebay) },
        findings.started_at.clone(),
        findings.machine.host.clone(),
        findings.id.clone(),
    ];
    let facts: Markup = facts.iter().filter(|fact| !fact.trim().is_empty()).map(|text| fact(text)).collect();
    plain("header", plain("h1", "One endpoint, in sync and in async").and(classed("p", "facts", facts)))
}

/// Before all figures.
pub fn notices(findings: &Findings, pairs: &[Pair<'_>]) -> Markup {
    let mut said: Vec<(Weight, String)> = Vec::new();
    said.extend(
        findings.wrong.iter().map(|wrong| (Weight::Bad, format!("Contradicts what was acknowledged: {wrong}"))),
    );
    if findings.cut_short {
        said.push((Weight::Warn, "This comparison was ended early, or failed. What is here was found by then.".into()));
    }
    if pairs.is_empty() {
        said.push((Weight::Warn, "Nothing was measured.".into()));
    }
    said.extend(pairs.iter().flat_map(of_pair));
    said.extend(of_machine(findings));
    said.extend(lost(findings));
    let item = |(weight, text): (Weight, String)| {
        let class = match weight {
            Weight::Ok => "ok",
            Weight::Warn => "warn",
            Weight::Bad => "bad",
        };
        classed("li", class, foreign(&text))
    };
    if said.is_empty() {
        return Markup::default();
    }
    el(
        "ul",
        &[("class", &"notices"), ("aria-label", &"Before you read on")],
        said.into_iter().map(item).collect::<Markup>(),
    )
}

fn of_pair(pair: &Pair<'_>) -> Vec<(Weight, String)> {
    let at = format!("{}/s", number(pair.rate as f64));
    let mut said = Vec::new();
    for mode in MODES {
        let name = mode.word();
        let Some(run) = pair.run(mode) else {
            said.push((Weight::Warn, format!("At {at} {name} was not measured.")));
            continue;
        };
        if run.cut_short {
            let after = seconds(run.seconds);
            said.push((Weight::Warn, format!("The run of {name} at {at} was ended early, after {after}.")));
        }
        for one in &run.disturbances {
            let Some(why) = &one.skipped else { continue };
            let label = label(one);
            let what = if one.effect.is_none() { "was left out" } else { "did not go as planned" };
            said.push((Weight::Warn, format!("{name} at {at}: “{label}” {what}: {why}")));
        }
        if run.drain_seconds.is_none() && run.totals.accepted > 0 {
            said.push((
                Weight::Warn,
                format!("{name} at {at}: what was accepted was not all written while it was watched."),
            ));
        }
        let late = run.totals.late_ms.filter(|late| late.p99 >= LATE_MS);
        if let Some(late) = late {
            let late = ms(late.p99);
            let text =
                format!("{name} at {at}: requests were sent {late} late (p99); that is part of the times below.");
            said.push((Weight::Warn, text));
        }
        let unsent = run.totals.errors.unsent;
        if unsent > 0 {
            let (unsent, most) = (counted(unsent, "request"), number(run.totals.client_connections_max as f64));
            let text = format!(
                "{name} at {at}: {unsent} could not even be sent in time, over up to {most} connections. They are errors, and from there on \
                 the load was not all that was due."
            );
            said.push((Weight::Warn, text));
        }
    }
    said
}

fn of_machine(findings: &Findings) -> Option<(Weight, String)> {
    let load = findings.machine.load_before.filter(|load| *load >= 0.5)?;
    let cores = counted(findings.machine.cores as u64, "core");
    Some((
        Weight::Warn,
        format!("Others were at work on this machine before it began: a load of {load:.1} on {cores}."),
    ))
}

/// Whether what was acknowledged is in the tables.
fn lost(findings: &Findings) -> Vec<(Weight, String)> {
    let of = |mode: Mode| {
        let runs: Vec<&Run> = findings.runs.iter().filter(|run| run.mode == mode && !run.was_left()).collect();
        let sum = |of: fn(&Run) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let acknowledged = sum(|run| run.verification.acknowledged);
        let (missing, name) = (sum(|run| run.verification.missing), mode.word());
        let differs = runs.iter().any(|run| run.verification.acknowledged > 0 && !run.verification.equal);
        (acknowledged > 0).then(|| match (missing, differs) {
            (0, false) => (
                Weight::Ok,
                format!("All of {} acknowledged writes are in the tables ({name}).", number(acknowledged as f64)),
            ),
            (0, true) => (Weight::Bad, format!("Rows are not as the acknowledged writes left them ({name}).")),
            _ => {
                let (missing, all) = (number(missing as f64), number(acknowledged as f64));
                (Weight::Bad, format!("{missing} of {all} acknowledged writes are missing from the tables ({name})."))
            }
        })
    };
    MODES.into_iter().filter_map(of).collect()
}

/// Each metric's finding, and where it is told. Of the first pair that has one.
pub fn in_short(pairs: &[Pair<'_>]) -> Markup {
    let item = |metric: &super::metrics::Metric| {
        let claim = pairs.iter().find_map(|pair| (metric.claim)(pair))?;
        let link = el("a", &[("href", &format!("#{}", metric.id))], metric.name);
        Some(plain("li", link.and(plain("span", foreign(&claim)))))
    };
    let items: Vec<Markup> = METRICS.iter().filter_map(item).collect();
    if items.is_empty() {
        return Markup::default();
    }
    let head = el("h2", &[("id", &"short-title")], "In short");
    el("section", &[("id", &"short"), ("aria-labelledby", &"short-title")], head.and(plain("ol", items)))
}

/// How it was done, and what the bands of the charts are.
pub fn method(findings: &Findings, pairs: &[Pair<'_>]) -> Markup {
    if pairs.is_empty() {
        return Markup::default();
    }
    let p = &findings.parameters;
    let rates: Vec<String> = pairs.iter().map(|pair| format!("{}/s", number(pair.rate as f64))).collect();
    let how = format!(
        "The same requests in turn, to a gateway that writes each row before it answers (sync) and to one that answers once Kafka has \
         the record (async): {} for {} s each, for {} of {}, over as many connections as it takes, up to {}. They are due at fixed times, whether earlier ones have been \
         answered or not, and waiting counts. Left is sync, right is async, on the same scales; shaded is what was done to both.",
        listed(&rates),
        p.seconds,
        counted(p.keys, "row"),
        bytes(p.value_bytes as f64),
        number(p.connections as f64),
    );
    let told = told(findings);
    let told = if told.is_empty() {
        Markup::default()
    } else {
        plain("ul", told.iter().map(|one| plain("li", foreign(one))).collect::<Markup>())
    };
    let search =
        findings.search.as_ref().map(|search| plain("p", searched(search, p.borne_p99_ms))).unwrap_or_default();
    let head = el("h2", &[("id", &"method-title")], "What was done");
    el(
        "section",
        &[("id", &"method"), ("aria-labelledby", &"method-title")],
        head.and(plain("p", how)).and(told).and(search),
    )
}

/// Each disturbance, as its bands are called, and its sentence, as the first run has it; in others it may have taken a little longer.
fn told(findings: &Findings) -> Vec<String> {
    let mut told: Vec<(String, String)> = Vec::new();
    let came = findings.runs.iter().flat_map(|run| &run.disturbances).filter(|one| one.effect.is_some());
    for one in came.filter(|one| !one.told.trim().is_empty()) {
        let label = label(one);
        if told.iter().all(|(other, _)| *other != label) {
            told.push((label, one.told.clone()));
        }
    }
    told.into_iter().map(|(label, told)| format!("{label}: {told}")).collect()
}

fn searched(search: &Search, p99_ms: f64) -> String {
    let rate = |rate: u64| format!("{} requests a second", number(rate as f64));
    let borne = match search.borne {
        Some(borne) => format!("sync bore {}", rate(borne)),
        None => "sync bore none of the rates tried".to_owned(),
    };
    let not_borne = match search.not_borne {
        Some(not_borne) => format!("and did not bear {}", rate(not_borne)),
        None => "and no rate that it does not bear was found".to_owned(),
    };
    let limit = match search.machine_was_the_limit {
        true => " There the machine was the limit, which all of it shares, and not the mode: nothing of it was left.",
        false => "",
    };
    format!(
        "Undisturbed, {borne} {not_borne}.{limit} Borne means: all accepted, 99 of 100 answered within {}.",
        ms(p99_ms)
    )
}
