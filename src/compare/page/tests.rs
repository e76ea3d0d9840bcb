//! The page as a whole, and what its headings say of different outcomes.

use super::pairs::{Pair, pairs};
use super::{claims, html, samples};
use crate::compare::findings::{Cpu, Effect, Findings, Run};

type Claim = fn(&Pair<'_>) -> Option<String>;

/// What is said of the first pair, once something is changed in its runs (sync, async).
#[track_caller]
fn check(claim: Claim, change: impl FnOnce(&mut [Run]), expectation: &str) {
    let mut findings = samples::normal();
    change(&mut findings.runs);
    assert_eq!(said(claim, &findings).as_deref(), Some(expectation));
}

fn said(claim: Claim, findings: &Findings) -> Option<String> {
    claim(&pairs(findings)[0]).map(|said| said.replace('\u{a0}', " "))
}

fn effect(run: &mut Run, index: usize) -> &mut Effect {
    run.disturbances[index].effect.as_mut().expect("it came")
}

const STOP: usize = 2;

#[test]
fn errors_are_told_for_whom_they_hit() {
    let lag = "Async’s lag grew to 12,400 records, gone 8.0 s after the end.";
    let sync = "While shard b was stopped, 31 % of sync’s requests failed; none of async’s requests failed.";
    check(claims::requests, |_| {}, &format!("{sync} {lag}"));
    check(claims::requests, |runs| effect(&mut runs[1], STOP).message_lag_max = None, sync);
    check(
        claims::requests,
        |runs| {
            effect(&mut runs[0], STOP).error_percent = 0.0;
            effect(&mut runs[1], STOP).error_percent = 100.0;
        },
        "While shard b was stopped, none of sync’s requests failed; all of async’s requests failed.",
    );
    check(
        claims::requests,
        |runs| runs[0].quiet.error_percent = 64.0,
        "Undisturbed, 64 % of sync’s requests failed; none of async’s requests failed. Async’s lag was at most 210 records.",
    );
    check(
        claims::requests,
        |runs| {
            for run in runs {
                run.totals.error_percent = 0.0;
                run.totals.offered = 120_000;
                (0..4).for_each(|index| effect(run, index).error_percent = 0.0);
            }
        },
        "Sync accepted all of 120,000 requests; async accepted all of 120,000 requests.",
    );
    // What only one mode had is not compared, as long as there is anything that both had.
    check(
        claims::requests,
        |runs| runs[1].disturbances[STOP].effect = None,
        "During the burst, 18 % of sync’s requests failed; none of async’s requests failed. Async’s lag grew to 5,100 records, gone \
         1.6 s after the end.",
    );
    check(
        claims::requests,
        |runs| {
            runs[1].disturbances.clear();
            runs[1].quiet.offered = 0;
        },
        "While shard b was stopped, 31 % of sync’s requests failed; async did not have this trouble.",
    );
}

#[test]
fn latency_is_told_as_it_moved() {
    check(
        claims::latency,
        |_| {},
        "While a row was locked, sync’s p99 rose from 9.8 ms to 5.0 s; async’s p99 stayed at 6.3 ms.",
    );
    check(
        claims::latency,
        |runs| effect(&mut runs[1], 3).request_ms.as_mut().expect("times").p99 = 60_000.0,
        "During the burst, sync’s p99 rose from 9.8 ms to 1.0 s; async’s p99 rose from 6.1 ms to 1 min 0 s.",
    );
    check(
        claims::latency,
        |runs| runs.iter_mut().for_each(|run| run.disturbances.clear()),
        "Undisturbed, sync’s p99 was 9.8 ms; async’s p99 was 6.1 ms.",
    );
    // Before anything happens, one of them is as bad as it gets.
    check(
        claims::latency,
        |runs| {
            runs[0].quiet.request_ms = runs[0].disturbances[0].effect.as_ref().expect("it came").request_ms;
        },
        "Undisturbed, sync’s p99 was 5.0 s; async’s p99 was 6.1 ms.",
    );
    check(
        claims::latency,
        |runs| {
            effect(&mut runs[0], 0).request_ms.as_mut().expect("times").p99 = 9_000.0;
            runs[0].quiet.request_ms = None;
            effect(&mut runs[1], 0).request_ms.as_mut().expect("times").p99 = 1.0;
        },
        "While a row was locked, sync’s p99 was 9.0 s; async’s p99 fell from 6.1 ms to 1.0 ms.",
    );
}

#[test]
fn the_time_until_durable_is_told_for_what_was_accepted() {
    let of = "While shard b was stopped, the time until a row is durable (p99) stayed at 9.8 ms in sync, for the 69 % accepted;";
    check(
        claims::durable,
        |_| {},
        &format!("{of} it rose from 38 ms to 10 s in async, the last row 8.0 s after the end."),
    );
    check(
        claims::durable,
        |runs| effect(&mut runs[1], STOP).caught_up_after_s = Some(0.4),
        &format!("{of} it rose from 38 ms to 10 s in async."),
    );
}

#[test]
fn lag_is_told_with_its_end() {
    let waiting = "in sync, up to 804 requests waited for an answer.";
    let stop = "While shard b was stopped, async’s lag";
    check(claims::message_lag, |_| {}, &format!("{stop} grew to 12,400 records, gone 8.0 s after the end; {waiting}"));
    check(
        claims::message_lag,
        |runs| {
            effect(&mut runs[1], STOP).caught_up_after_s = None;
            runs[1].drain_seconds = None;
        },
        &format!(
            "{stop} grew to 12,400 records, not gone while it was watched; it had not caught up when the watch ended; {waiting}"
        ),
    );
    check(
        claims::message_lag,
        |runs| {
            runs[1].disturbances.clear();
            runs[1].quiet.message_lag_max = Some(0);
            runs[1].totals.message_lag_max = Some(0);
            runs[1].drain_seconds = Some(12.2);
        },
        &format!("Async’s lag was at most 0 records; it wrote for another 12 s after the last request; {waiting}"),
    );
}

#[test]
fn what_it_took_is_told_of_both() {
    check(
        claims::connections,
        |_| {},
        "Sync had up to 16 connections, up to 8 of them waiting for locks; async had up to 14 connections, at most one of \
         them waiting for a lock.",
    );
    check(
        claims::connections,
        |runs| {
            runs[0].totals.lock_waits_max = Some(0);
            runs[1].totals.connections_max = Some(40);
            runs[1].totals.lock_waits_max = None;
        },
        "Sync had up to 16 connections, none of them ever waiting for a lock; async had up to 40 connections.",
    );
    check(
        claims::transactions,
        |_| {},
        "1,000 writes took 1,004 transactions and 412 kB of WAL in sync; 38 transactions and 221 kB of WAL in async.",
    );
    check(
        claims::transactions,
        |runs| (runs[0].totals.transactions_per_1000, runs[0].totals.wal_bytes_per_1000) = (None, None),
        "1,000 writes took 38 transactions and 221 kB of WAL in async.",
    );
    check(
        claims::cpu,
        |_| {},
        "1,000 writes took 397 ms of CPU in sync, 305 ms of it in PostgreSQL; 321 ms of CPU in async, 120 ms of it in Kafka.",
    );
    check(
        claims::cpu,
        |runs| runs[1].totals.cpu_ms_per_1000.kafka = None,
        "1,000 writes took 397 ms of CPU in sync, 305 ms of it in PostgreSQL; 201 ms of CPU in async, 96 ms of it in \
         PostgreSQL. Async’s is without Kafka.",
    );
}

const CLAIMS: [Claim; 7] = [
    claims::requests,
    claims::latency,
    claims::durable,
    claims::message_lag,
    claims::connections,
    claims::transactions,
    claims::cpu,
];

#[test]
fn of_one_mode_nothing_is_compared() {
    for claim in CLAIMS {
        let said = said(claim, &samples::one_mode()).expect("sync was measured");
        assert!(said.ends_with("; async was not measured."), "{said}");
    }
}

#[test]
fn without_figures_nothing_is_claimed() {
    let empty: Vec<_> = CLAIMS.into_iter().filter_map(|claim| said(claim, &samples::empty_runs())).collect();
    assert_eq!(empty, [""; 0]);
    let all = samples::all_errors();
    let requests = "Undisturbed, all of sync’s requests failed; all of async’s requests failed.";
    assert_eq!(said(claims::requests, &all).as_deref(), Some(requests));
    for claim in [claims::latency, claims::durable, claims::transactions, claims::cpu] {
        assert_eq!(said(claim, &all), None);
    }
}

/// Whether each element ends where it has to, each attribute is quoted, and each name is there once. Scripts and styles are not looked into.
fn well_formed(html: &str) -> Result<usize, String> {
    const VOID: [&str; 3] = ["meta", "link", "!doctype"];
    let (mut open, mut ids, mut seen) = (Vec::new(), Vec::new(), 0);
    let mut rest = html;
    while let Some((text, from)) = rest.split_once('<') {
        if text.contains('>') {
            return Err(format!("'>' in {text:?}"));
        }
        let (tag, behind) = from.split_once('>').ok_or("no end of a tag")?;
        (rest, seen) = (behind, seen + 1);
        if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("{name} ends, {last:?} is open"));
            }
            continue;
        }
        let name = tag.split(' ').next().unwrap_or_default();
        if tag.matches('"').count() % 2 != 0 || tag.contains('\'') && name != "meta" {
            return Err(format!("quotes of <{tag}>"));
        }
        if let Some((_, id)) = tag.split_once(" id=\"") {
            ids.push(id.split('"').next().unwrap_or_default());
        }
        if ["script", "style"].contains(&name) {
            rest = rest.split_once(&format!("</{name}>")).ok_or("no end of a script")?.1;
        } else if !VOID.contains(&name) {
            open.push(name);
        }
    }
    let number = ids.len();
    ids.sort_unstable();
    ids.dedup();
    match (open.is_empty(), ids.len() == number) {
        (true, true) => Ok(seen),
        (false, _) => Err(format!("still open: {open:?}")),
        _ => Err("a name is there twice".into()),
    }
}

#[test]
fn every_page_is_well_formed() {
    let all = [
        samples::normal(),
        samples::empty(),
        samples::empty_runs(),
        samples::one_mode(),
        samples::all_errors(),
        samples::interrupted(),
    ];
    for findings in &all {
        well_formed(&html(findings)).expect("well-formed");
    }
    for wrong in ["<p><b></p></b>", "<p>", "<p>a > b</p>", "<p class=\"a>b</p>", "<p id=\"a\"></p><b id=\"a\"></b>"] {
        assert!(well_formed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn nothing_is_loaded_and_nothing_is_read_as_markup() {
    let html = html(&samples::normal());
    for outside in
        [" src=", "rel=\"stylesheet\"", "http:", "https:", "@import", "url(", " style=", " onclick=", "innerHTML"]
    {
        assert!(!html.contains(outside), "{outside}");
    }
    let policy =
        html.split("content=\"default-src").nth(1).and_then(|policy| policy.split('"').next()).expect("a policy");
    assert_eq!((policy.matches("'sha256-").count(), policy.contains("unsafe")), (3, false), "{policy}");
    assert_eq!((html.matches("<script>").count(), html.matches("<style>").count()), (1, 2));
}

/// As somebody would write it who means harm.
const HOSTILE: &str = "</title></script><img src=x onerror=\"alert('1')\">&\u{202e}";

#[test]
fn texts_of_others_stay_texts() {
    let mut findings = samples::interrupted();
    findings.started_at = HOSTILE.into();
    findings.id = HOSTILE.into();
    findings.machine.host = HOSTILE.into();
    findings.machine.cpu = HOSTILE.into();
    findings.environment.brokers = HOSTILE.into();
    findings.environment.shards[0].name = HOSTILE.into();
    findings.environment.shards[0].settings.insert(HOSTILE.into(), HOSTILE.into());
    findings.wrong.push(HOSTILE.into());
    for run in &mut findings.runs {
        run.verification.problems.push(HOSTILE.into());
        for one in &mut run.disturbances {
            one.shard = Some(HOSTILE.into());
            one.told = HOSTILE.into();
            one.skipped = Some(HOSTILE.into());
            one.effect.get_or_insert_default();
        }
    }
    let html = html(&findings);
    well_formed(&html).expect("well-formed");
    assert!(!html.contains("<img") && !html.contains('\u{202e}'));
    assert!(html.matches("&lt;img src=x").count() > 20);
}

#[test]
fn what_is_to_be_known_first_is_said_first() {
    let mut findings = samples::interrupted();
    findings.machine.load_before = Some(3.25);
    findings.runs[0].verification.missing = 17;
    findings.runs[0].totals.late_ms.as_mut().expect("times").p99 = 40.0;
    findings.runs[0].totals.errors.unsent = 12;
    findings.runs[1].verification.missing = 300;
    findings.wrong.push("17 writes are missing.".into());
    let html = html(&findings).replace('\u{a0}', " ");
    let first = html.split("<main").nth(1).and_then(|main| main.split("<section").next()).expect("notices");
    for notice in [
        "<li class=\"bad\">Contradicts what was acknowledged: 17 writes are missing.",
        "<li class=\"warn\">This comparison was ended early",
        "The run of async at 1,200/s was ended early, after 31 s.",
        "sync at 1,200/s: “shard b stopped” was left out: the servers are not ours to stop",
        "sync at 1,200/s: requests were sent 40 ms late (p99)",
        "sync at 1,200/s: 12 requests could not even be sent in time, over up to 3,600 connections.",
        "async at 1,200/s: what was accepted was not all written while it was watched.",
        "a load of 3.2 on 8 cores.",
        "<li class=\"bad\">17 of 112,",
    ] {
        assert!(first.contains(notice), "no {notice} in {first}");
    }
    // What still waited in Kafka when it was ended is not lost.
    assert!(!first.contains("(async)."), "{first}");
    assert!(super::html(&samples::normal()).contains("<li class=\"ok\">All of "));
    // What was left out has no band.
    assert!(!html.contains("band shard-stopped") && html.contains("band row-locked"));
}

#[test]
fn whose_limit_was_found_is_said() {
    let mut findings = samples::normal();
    let said = "the machine was the limit";
    assert!(!html(&findings).contains(said));
    findings.search.as_mut().expect("it was searched").machine_was_the_limit = true;
    assert!(html(&findings).contains(said));
}

#[test]
fn nothing_found_is_a_page_that_says_so() {
    let html = html(&samples::empty());
    assert!(html.contains("Nothing was measured.") && !html.contains("<figure"), "{html}");
    let html = super::html(&samples::empty_runs());
    assert!(html.contains("not measured") && !html.contains("NaN"), "{html}");
}

#[test]
fn both_modes_are_drawn_on_the_same_scales() {
    let html = html(&samples::normal());
    let latency = html.split("<section id=\"latency\"").nth(1).expect("a section");
    let axes: Vec<&str> =
        latency.split("<svg class=\"ys\"").skip(1).map(|axis| axis.split("</svg>").next().expect("an end")).collect();
    assert_eq!(axes[0], axes[1]);
    let ends: Vec<&str> =
        latency.split("data-end=\"").skip(1).map(|end| end.split('"').next().expect("an end")).collect();
    assert_eq!((ends[0], ends[1]), ("91", "91"));
}

#[test]
fn a_long_run_is_thinned() {
    let mut findings = samples::normal();
    for run in &mut findings.runs {
        let first = run.samples[0].clone();
        run.samples = (0..3600).map(|second| crate::compare::findings::Sample { second, ..first.clone() }).collect();
        run.totals.cpu = Cpu::default();
    }
    let html = html(&findings);
    let longest =
        html.split(" d=\"").skip(1).map(|path| path.split('"').next().unwrap_or_default().matches('L').count()).max();
    assert_eq!(longest, Some(599));
}
