//! What stands at the end: what it ran on, with which numbers, each step of the search, each disturbance as it came, and what the tables
//! held afterwards.

use super::figures::{NOTHING, UNKNOWN, bytes, ms, number, or_unknown, percent, seconds};
use super::markup::{Markup, el, foreign, plain};
use super::pairs::label;
use super::section::scrolling;
use crate::compare::findings::{Findings, Run};

pub fn section(findings: &Findings) -> Markup {
    let head = el("h2", &[("id", &"setting-title")], "What it rests on");
    let inside = head
        .and(part("Machine and servers", &[], setting(findings)))
        .and(part("Asked for", &[], asked(findings)))
        .and(part(
            "Search for what sync bears",
            &["rate", "for", "offered", "accepted", "p99", "sent late, p99", "of the machine’s CPU", "borne"],
            search(findings),
        ))
        .and(part("Disturbances, as they came", &["run", "what", "from", "to", "told"], disturbances(findings)))
        .and(part(
            "What the tables held afterwards",
            &[
                "run",
                "acknowledged",
                "of these in the table",
                "missing",
                "not acknowledged, in the table",
                "rows",
                "as expected",
            ],
            verification(findings),
        ));
    el("section", &[("id", &"setting"), ("aria-labelledby", &"setting-title")], inside)
}

/// A table, where there is anything to show. The first cell of a row names it.
fn part(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Markup {
    if rows.is_empty() {
        return Markup::default();
    }
    let names = columns.iter().map(|column| el("th", &[("scope", &"col")], *column)).collect::<Markup>();
    let head = if columns.is_empty() { Markup::default() } else { plain("thead", plain("tr", names)) };
    let row = |cells: Vec<String>| {
        let cell = |(index, cell): (usize, String)| match index {
            0 => el("th", &[("scope", &"row")], foreign(&cell)),
            _ => plain("td", foreign(&cell)),
        };
        plain("tr", cells.into_iter().enumerate().map(cell).collect::<Markup>())
    };
    let body = plain("tbody", rows.into_iter().map(row).collect::<Markup>());
    plain("h3", title).and(scrolling(title, head.and(body)))
}

/// Those that are known.
fn named(rows: Vec<(&str, String)>) -> Vec<Vec<String>> {
    rows.into_iter()
        .filter(|(_, value)| !value.trim().is_empty())
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect()
}

fn setting(findings: &Findings) -> Vec<Vec<String>> {
    let (machine, environment) = (&findings.machine, &findings.environment);
    let cores = if machine.cores == 0 { String::new() } else { format!("{}, {}", machine.cores, machine.cpu) };
    let memory = if machine.memory_bytes == 0 { String::new() } else { bytes(machine.memory_bytes as f64) };
    let mut rows = vec![
        ("cores", cores),
        ("memory", memory),
        ("kernel", machine.kernel.clone()),
        ("load before", or_unknown(machine.load_before, |load| format!("{load:.2}"))),
        ("Kafka", environment.brokers.clone()),
        ("librdkafka", environment.librdkafka.clone()),
    ];
    for shard in &environment.shards {
        let settings: Vec<String> = shard.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let clock = ms(shard.clock_ahead_us.unsigned_abs() as f64 / 1e3);
        let text = format!(
            "PostgreSQL {}, max_connections = {}, {}; its clock differs by {clock}",
            shard.version,
            shard.connections_max,
            settings.join(", ")
        );
        rows.push(("shard", format!("{}: {text}", shard.name)));
    }
    named(rows)
}

fn asked(findings: &Findings) -> Vec<Vec<String>> {
    let p = &findings.parameters;
    named(vec![
        ("each run", format!("{} s", p.seconds)),
        ("rows", format!("{}, Zipf’s exponent {}, seed {}", number(p.keys as f64), p.skew, p.seed)),
        ("body", bytes(p.value_bytes as f64)),
        ("clients’ connections", format!("at most {}", number(p.connections as f64))),
        ("profile", (if p.ramp { "a ramp from a tenth of the rate" } else { "constant" }).to_owned()),
        ("time-out of a request", ms(p.timeout_ms as f64)),
        ("sync’s pool", format!("{} connections to each shard, waited for {}", p.pool_size, ms(p.pool_wait_ms as f64))),
        ("engine", format!("{} workers for each shard, {} partitions", p.workers_per_shard, p.partitions)),
        ("burst", format!("{} times the rate", p.burst_factor)),
    ])
}

fn search(findings: &Findings) -> Vec<Vec<String>> {
    let steps = findings.search.iter().flat_map(|search| &search.steps);
    let row = |step: &crate::compare::findings::Step| {
        vec![
            format!("{}/s", number(step.rate as f64)),
            seconds(step.seconds),
            number(step.offered as f64),
            number(step.accepted as f64),
            ms(step.p99_ms),
            ms(step.late_p99_ms),
            or_unknown(step.busy_percent, percent),
            (if step.borne { "yes" } else { "no" }).to_owned(),
        ]
    };
    steps.map(row).collect()
}

fn of(run: &Run) -> String {
    format!("{}, {}/s", run.mode.word(), number(run.rate as f64))
}

fn disturbances(findings: &Findings) -> Vec<Vec<String>> {
    let row = |run: &Run, one: &crate::compare::findings::Disturbance| {
        let told: Vec<&str> = [Some(one.told.as_str()), one.skipped.as_deref()].into_iter().flatten().collect();
        let (from, to) = match one.effect {
            Some(_) => (seconds(one.from_s), seconds(one.to_s)),
            None => (NOTHING.to_owned(), NOTHING.to_owned()),
        };
        vec![of(run), label(one), from, to, told.join(" ")]
    };
    findings.runs.iter().flat_map(|run| run.disturbances.iter().map(move |one| row(run, one))).collect()
}

fn verification(findings: &Findings) -> Vec<Vec<String>> {
    let row = |run: &Run| {
        let v = &run.verification;
        let part = if v.acknowledged == 0 {
            UNKNOWN.to_owned()
        } else {
            percent(v.in_table as f64 / v.acknowledged as f64 * 100.0)
        };
        let expected = match v.problems.first() {
            None if v.equal => "yes".to_owned(),
            None => "no".to_owned(),
            Some(problem) => format!("no: {problem}"),
        };
        let figures = [v.acknowledged as f64].map(number);
        let [acknowledged] = figures;
        let rows = format!("{} of {}", number(v.rows as f64), number(v.rows_expected as f64));
        let others = [v.missing, v.unacknowledged_in_table].map(|n| number(n as f64));
        let [missing, unacknowledged] = others;
        vec![of(run), acknowledged, part, missing, unacknowledged, rows, expected]
    };
    findings.runs.iter().map(row).collect()
}
