//! What was found, for people on stdout, for programs as JSON, and as a page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::bench::report::table::aligned;
use crate::bench::report::try_to_write;
use crate::compare::findings::{Effect, Findings, Kind, Run, Search, Times};
use crate::compare::options::Options;
use crate::compare::{CompareError, page};
use crate::console;
use crate::words::{counted, grouped, listed};

pub const JSON: &str = "compare.json";
pub const PAGE: &str = "compare.html";
/// What a file is called until it is whole.
const PART: &str = ".part";

/// What is about to be measured, on what.
pub fn headline(findings: &Findings) -> String {
    let (of, on) = (&findings.parameters, &findings.environment);
    let names: Vec<String> = on.shards.iter().map(|shard| shard.name.clone()).collect();
    let versions: Vec<&str> = on.shards.iter().map(|shard| shard.version.as_str()).collect();
    let whose = if on.servers_are_ours { "of its own" } else { "as named" };
    format!(
        "PUT of {} bytes, {} keys (Zipf {}){}, up to {} connections, time-out {} ms; PostgreSQL {} {whose}: {}; Kafka at {}",
        of.value_bytes,
        grouped(of.keys),
        of.skew,
        if of.ramp { ", as a ramp" } else { "" },
        grouped(of.connections),
        grouped(of.timeout_ms),
        versions.first().unwrap_or(&"?"),
        listed(&names),
        on.brokers
    )
}

pub fn search(found: &Search) -> String {
    let mut text = "what sync bears, without disturbances:".to_owned();
    for step in &found.steps {
        let errors = step.offered - step.accepted;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n  {:>8}/s  p99 {:>8.1} ms  {}  {}",
            grouped(step.rate),
            step.p99_ms,
            counted(errors, "error"),
            if step.borne { "borne" } else { "not borne" }
        );
    }
    if found.machine_was_the_limit {
        text.push_str("\n  the machine was the limit, and not the mode: nothing of it was left");
    }
    text
}

/// A run, as it ends.
pub fn line(run: &Run) -> String {
    let of = &run.totals;
    let times = |times: Option<Times>| times.map_or("-".to_owned(), |of| format!("{:.1}/{:.1}", of.p50, of.p99));
    format!(
        "{}: {} of {} accepted ({:.2} % errors), answered in {} ms (p50/p99), row written after {} ms; {} of {} acknowledged are in the tables{}",
        name(run),
        grouped(of.accepted),
        grouped(of.offered),
        of.error_percent,
        times(of.request_ms),
        times(of.durable_ms),
        grouped(run.verification.in_table),
        grouped(run.verification.acknowledged),
        if run.cut_short { "  CUT SHORT" } else { "" }
    )
}

fn name(run: &Run) -> String {
    format!("{}, {}/s", run.mode.word(), grouped(run.rate))
}

/// That files can be written there.
pub fn make_room(options: &Options) -> Result<(), CompareError> {
    let done = fs::create_dir_all(&options.out).and_then(|()| try_to_write(&options.out.join(format!("{JSON}{PART}"))));
    done.map_err(|e| CompareError::Unavailable(format!("{}: {e}", options.out.display())))
}

/// The table, and the files; a file that cannot be written keeps nobody from the others.
pub fn write(findings: &Findings, options: &Options) -> Result<(), CompareError> {
    if findings.runs.is_empty() && findings.search.is_none() {
        return Ok(());
    }
    if !findings.runs.is_empty() {
        console::out(table(findings));
    }
    let json = serde_json::to_string_pretty(findings).map_err(|e| CompareError::Failed(format!("the report: {e}")))?;
    let (mut outcome, mut written) = (Ok(()), Vec::new());
    for (name, text) in [(PAGE, page::html(findings)), (JSON, json + "\n")] {
        let file = options.out.join(name);
        match save(&file, &text) {
            Ok(()) => written.push(file.display().to_string()),
            failed => outcome = failed,
        }
    }
    if !written.is_empty() {
        console::out(written.join(", "));
    }
    outcome
}

/// All of it, or what was there before.
fn save(file: &Path, text: &str) -> Result<(), CompareError> {
    let mut part = file.as_os_str().to_owned();
    part.push(PART);
    let done = fs::write(&part, text).and_then(|()| fs::rename(&part, file));
    done.map_err(|e| {
        let _ = fs::remove_file(&part);
        CompareError::Unavailable(format!("{}: {e}", file.display()))
    })
}

/// Both modes side by side.
pub fn table(findings: &Findings) -> String {
    let heads = std::iter::once(String::new()).chain(findings.runs.iter().map(name)).collect();
    let row = |(head, value): &(&str, Value)| {
        std::iter::once((*head).to_owned()).chain(findings.runs.iter().map(value)).collect::<Vec<String>>()
    };
    let mut rows: Vec<Vec<String>> = ROWS.iter().map(row).collect();
    for (kind, head) in KINDS {
        for (what, value) in EFFECTS {
            let of = |run: &Run| effect(run, kind).map_or_else(|| "-".to_owned(), value);
            let cells: Vec<String> = findings.runs.iter().map(of).collect();
            if cells.iter().any(|cell| cell != "-") {
                rows.push(std::iter::once(format!("{head}: {what}")).chain(cells).collect());
            }
        }
    }
    rows.retain(|row| row[1..].iter().any(|cell| cell != "-"));
    let mut text = aligned(heads, rows);
    let skipped = findings.runs.iter().flat_map(|run| run.disturbances.iter().map(move |one| (run, one)));
    for (run, one) in skipped {
        if let Some(why) = &one.skipped {
            let _ = writeln!(text, "{}: {} was left out: {why}", name(run), kind_word(one.kind));
        }
    }
    text.push_str("(times from when a request was due; the row's own clock_timestamp(), its COMMIT follows)\n");
    if findings.cut_short {
        text.push_str("CUT SHORT: it was ended early, or something failed; figures are of what was done by then\n");
    }
    for wrong in &findings.wrong {
        let _ = writeln!(text, "WRONG: {wrong}");
    }
    text
}

type Value = fn(&Run) -> String;

/// What stands on the left, and its figure.
const ROWS: [(&str, Value); 28] = [
    ("offered, /s", |run| decimal(Some(run.totals.offered_per_s), 0)),
    ("accepted, /s", |run| decimal(Some(run.totals.accepted_per_s), 0)),
    ("errors, %", |run| decimal(Some(run.totals.error_percent), 2)),
    ("  503", |run| whole(run.totals.errors.by_status.get(&503).copied())),
    ("  other statuses", |run| {
        let others = run.totals.errors.by_status.iter().filter(|(status, _)| **status != 503);
        whole(Some(others.map(|(_, count)| count).sum()).filter(|count| *count > 0))
    }),
    ("  time-outs", |run| whole(Some(run.totals.errors.timeouts).filter(|count| *count > 0))),
    ("  not sent in time", |run| whole(Some(run.totals.errors.unsent).filter(|count| *count > 0))),
    ("  connections lost", |run| whole(Some(run.totals.errors.connection).filter(|count| *count > 0))),
    ("answered, ms: p50", |run| quantile(run.totals.request_ms, |of| of.p50)),
    ("  p99", |run| quantile(run.totals.request_ms, |of| of.p99)),
    ("  p99.9", |run| quantile(run.totals.request_ms, |of| of.p999)),
    ("  max", |run| quantile(run.totals.request_ms, |of| of.max)),
    ("row written, ms: p50", |run| quantile(run.totals.durable_ms, |of| of.p50)),
    ("  p99", |run| quantile(run.totals.durable_ms, |of| of.p99)),
    ("sent late, ms: p99", |run| quantile(run.totals.late_ms, |of| of.p99)),
    ("clients' connections at most", |run| whole(Some(run.totals.client_connections_max).filter(|count| *count > 0))),
    ("message lag at most, records", |run| whole(run.totals.message_lag_max)),
    ("time lag at most, s", |run| decimal(run.totals.time_lag_max_ms.map(|ms| ms as f64 / 1000.0), 1)),
    ("connections at most", |run| whole(run.totals.connections_max.map(u64::from))),
    ("waiting for locks at most", |run| whole(run.totals.lock_waits_max.map(u64::from))),
    ("transactions for 1000", |run| decimal(run.totals.transactions_per_1000, 0)),
    ("WAL for 1000, KB", |run| decimal(run.totals.wal_bytes_per_1000.map(|bytes| bytes / 1024.0), 0)),
    ("CPU for 1000, ms: gateway", |run| decimal(run.totals.cpu_ms_per_1000.gateway, 0)),
    ("  engine", |run| decimal(run.totals.cpu_ms_per_1000.engine, 0)),
    ("  PostgreSQL", |run| decimal(run.totals.cpu_ms_per_1000.postgresql, 0)),
    ("  Kafka", |run| decimal(run.totals.cpu_ms_per_1000.kafka, 0)),
    ("acknowledged", |run| whole(Some(run.verification.acknowledged))),
    ("  of them in the tables", |run| whole(Some(run.verification.in_table))),
];

const KINDS: [(Option<Kind>, &str); 5] = [
    (None, "undisturbed"),
    (Some(Kind::RowLocked), "row locked"),
    (Some(Kind::Checkpoint), "checkpoint"),
    (Some(Kind::ShardStopped), "shard stopped"),
    (Some(Kind::Burst), "burst"),
];

type OfEffect = fn(&Effect) -> String;

const EFFECTS: [(&str, OfEffect); 5] = [
    ("errors, %", |effect| decimal(Some(effect.error_percent), 2)),
    ("answered p99, ms", |effect| quantile(effect.request_ms, |of| of.p99)),
    ("row written p99, ms", |effect| quantile(effect.durable_ms, |of| of.p99)),
    ("message lag at most", |effect| whole(effect.message_lag_max)),
    ("caught up after, s", |effect| decimal(effect.caught_up_after_s, 1)),
];

fn kind_word(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == Some(kind)).map_or("", |(_, word)| word)
}

fn effect(run: &Run, kind: Option<Kind>) -> Option<&Effect> {
    match kind {
        None => Some(&run.quiet),
        Some(kind) => run.disturbances.iter().find(|one| one.kind == kind)?.effect.as_ref(),
    }
}

fn whole(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), grouped)
}

fn decimal(value: Option<f64>, decimals: usize) -> String {
    match (value, decimals) {
        (None, _) => "-".to_owned(),
        (Some(value), 0) => grouped(value.max(0.0).round() as u64),
        (Some(value), _) => format!("{value:.decimals$}"),
    }
}

fn quantile(times: Option<Times>, of: fn(&Times) -> f64) -> String {
    decimal(times.as_ref().map(of), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::findings::{Disturbance, Errors, Mode, Totals, Verification};

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.json");
        save(&file, "old").unwrap();
        let part = directory.path().join("x.json.part");
        // Nobody can write that, root neither.
        fs::create_dir(&part).unwrap();
        assert!(save(&file, "new").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        fs::remove_dir(&part).unwrap();
        save(&file, "new").unwrap();
        assert_eq!((fs::read_to_string(&file).unwrap().as_str(), part.exists()), ("new", false));
    }

    #[test]
    fn modes_stand_side_by_side_and_what_was_left_out_says_why() {
        let times = Times { p50: 1.25, p99: 20.0, p999: 30.0, max: 40.5 };
        let run = |mode, lag| Run {
            mode,
            rate: 1500,
            totals: Totals { request_ms: Some(times), message_lag_max: lag, ..Totals::default() },
            disturbances: vec![
                Disturbance { kind: Kind::Burst, effect: Some(Effect::default()), ..Disturbance::default() },
                Disturbance { kind: Kind::ShardStopped, skipped: Some("not ours".into()), ..Disturbance::default() },
            ],
            verification: Verification { acknowledged: 3, in_table: 2, ..Verification::default() },
            ..Run::default()
        };
        let runs = vec![run(Mode::Sync, None), run(Mode::Async, Some(1200))];
        let text = table(&Findings { runs, cut_short: true, wrong: vec!["one is lost".into()], ..Findings::default() });
        let line = |part: &str| {
            let found = text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in {text}"));
            found.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line("sync, 1,500/s"), ["sync,", "1,500/s", "async,", "1,500/s"]);
        assert_eq!(line("p99.9"), ["p99.9", "30.0", "30.0"]);
        assert_eq!(line("message lag at most, records")[5..], ["-", "1,200"]);
        assert_eq!(line("of them in the tables")[5..], ["2", "2"]);
        assert!(text.contains("async, 1,500/s: shard stopped was left out: not ours"), "{text}");
        assert!(text.contains("CUT SHORT") && text.contains("WRONG: one is lost"), "{text}");
        assert!(!text.contains("Kafka ") && !text.contains("time-outs"), "{text}");
        let errors = Errors { timeouts: 3, unsent: 4, ..Errors::default() };
        let totals = Totals { errors, late_ms: Some(times), client_connections_max: 10_000, ..Totals::default() };
        let text = table(&Findings { runs: vec![Run { totals, ..Run::default() }], ..Findings::default() });
        for line in
            ["  time-outs 3", "  not sent in time 4", "sent late, ms: p99 20.0", "clients' connections at most 10,000"]
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(text.lines().any(|found| found.split_whitespace().eq(words.iter().copied())), "{line}: {text}");
        }
    }
}
