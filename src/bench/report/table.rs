//! The report for people: a line for each round as it ends, and tables of all cases at the end.

use std::fmt::Write;

use serde_json::Value;

use crate::bench::figures::{Case, Report, Round};
use crate::bench::protocol::Quantiles;
use crate::words::grouped;

const MB: f64 = 1_048_576.0;

/// A column: its head, where its figure is in a case's medians, what that is divided by, and its decimals.
struct Column {
    head: &'static str,
    pointer: &'static str,
    per: f64,
    decimals: usize,
}

const fn column(head: &'static str, pointer: &'static str, per: f64, decimals: usize) -> Column {
    Column { head, pointer, per, decimals }
}

const COSTS: [Column; 7] = [
    column("records", "/records", 1.0, 0),
    column("rows/s", "/rows_per_s", 1.0, 0),
    column("own CPU, µs/row", "/cpu_us_per_row", 1.0, 2),
    column("peak, MB", "/memory_peak_bytes", MB, 0),
    column("transactions", "/batches", 1.0, 0),
    column("records each", "/batch_records/mean", 1.0, 1),
    column("time lag at worst, ms", "/time_lag_max_ms", 1.0, 0),
];

/// What latencies are of, all counted from the time at which a record should have been sent.
const LATENCIES: [(&str, &str); 4] = [
    ("durable (COMMIT answered)", "/durable_ms"),
    ("row written (before COMMIT)", "/written_ms"),
    ("acknowledged by Kafka", "/acknowledged_ms"),
    ("publisher late", "/late_ms"),
];

/// The last round of a case.
pub fn round(case: &Case) -> String {
    let Some(round) = case.rounds.last() else { return String::new() };
    let mut text = format!("{}, round {}: ", case.name(), case.rounds.len());
    let Round { rows_per_s, cpu_us_per_row, memory_peak_bytes, .. } = round;
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{} rows/s, own CPU {cpu_us_per_row:.2} µs/row, peak {:.0} MB",
        grouped(*rows_per_s as u64),
        *memory_peak_bytes as f64 / MB
    );
    if let Some(batch) = &round.batch_records {
        let _ = write!(text, ", {:.0} records a transaction", batch.mean);
    }
    if let Some(Quantiles { p50, p99, p999, max }) = round.durable_ms.or(round.written_ms) {
        let _ = write!(text, ", latency p50 {p50:.1} p99 {p99:.1} p99.9 {p999:.1} max {max:.1} ms");
    }
    if let Some(Quantiles { p99, max, .. }) = round.late_ms {
        let _ = write!(text, ", publisher late p99 {p99:.1} max {max:.1} ms");
    }
    if let Some(load) = round.load_before {
        let _ = write!(text, "  [load {load:.1}]");
    }
    let _ = write!(text, "{}", if round.cut_short { "  CUT SHORT" } else { "" });
    let _ = write!(text, "{}", if round.verified || round.cut_short { "" } else { "  NOT AS PUBLISHED" });
    text + &special(round)
}

/// What only some modes have.
fn special(round: &Round) -> String {
    let mut text = String::new();
    if let Some(ramp) = &round.ramp {
        for step in &ramp.steps {
            let latency =
                step.written_ms.map_or(String::new(), |of| format!(", p50 {:.1} p99 {:.1} ms", of.p50, of.p99));
            let _ = write!(
                text,
                "\n  {:>9}/s for {:>5.1} s: time lag at most {:>6} ms{latency}{}",
                grouped(step.rate_per_s),
                step.seconds,
                grouped(step.time_lag_max_ms),
                if step.borne { "" } else { "  time lag grows" }
            );
        }
        let rate = |rate: Option<u64>| rate.map_or("none".to_owned(), |rate| format!("{}/s", grouped(rate)));
        let _ = write!(text, "\n  borne: {}; broken: {}", rate(ramp.borne_per_s), rate(ramp.broken_per_s));
        if ramp.publisher_was_the_limit {
            text.push_str(" (the publisher could not go faster: that is no limit of the engine)");
        }
    }
    if let Some(burst) = &round.burst {
        let recovery =
            burst.recovery_seconds.map_or("never normal again".to_owned(), |s| format!("normal again after {s:.1} s"));
        let _ = write!(
            text,
            "\n  {}/s, then {}/s for {:.1} s: {} records behind at most, time lag at most {} ms (before: {} ms), {recovery}",
            grouped(burst.base_per_s),
            grouped(burst.burst_per_s),
            burst.burst_seconds,
            grouped(burst.behind_records_max),
            grouped(burst.time_lag_max_ms),
            grouped(burst.normal_ms)
        );
    }
    text
}

/// All of it.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let costs: Vec<Vec<String>> = report.cases.iter().map(costs).collect();
    let heads = std::iter::once("").chain(COSTS.iter().map(|column| column.head)).map(str::to_owned).collect();
    text.push_str(&aligned(heads, costs));
    let latencies: Vec<Vec<String>> = report.cases.iter().flat_map(latencies).collect();
    if !latencies.is_empty() {
        let heads =
            ["from when a record was due, ms", "until", "p50", "p99", "p99.9", "max"].map(str::to_owned).to_vec();
        text.push('\n');
        text.push_str(&aligned(heads, latencies));
    }
    if report.cases.iter().any(|case| case.rounds.len() > 1) {
        text.push_str("(medians of the rounds, and in brackets the least and the most)\n");
    }
    if report.cut_short {
        text.push_str("CUT SHORT: it was ended early, or something failed; figures are of what was done by then\n");
    }
    for wrong in &report.wrong {
        let _ = writeln!(text, "WRONG: {wrong}");
    }
    text
}

fn costs(case: &Case) -> Vec<String> {
    let figures = figures(case);
    let cell = |column: &Column| cell(figures.pointer(column.pointer), column.per, column.decimals);
    std::iter::once(case.name()).chain(COSTS.iter().map(cell)).collect()
}

/// The medians; of a case that has no whole round, what there is.
fn figures(case: &Case) -> Value {
    match (&case.medians, case.rounds.last()) {
        (Value::Null, Some(round)) => serde_json::to_value(round).unwrap_or_default(),
        (medians, _) => medians.clone(),
    }
}

fn latencies(case: &Case) -> Vec<Vec<String>> {
    let figures = figures(case);
    let row = |(what, pointer): &(&str, &str)| {
        let of = figures.pointer(pointer).filter(|of| of.is_object())?;
        let cells = ["p50", "p99", "p999", "max"].map(|quantile| cell(of.get(quantile), 1.0, 1));
        Some([case.name(), (*what).to_owned()].into_iter().chain(cells).collect())
    };
    LATENCIES.iter().filter_map(row).collect()
}

/// A number, or a median with its spread.
fn cell(value: Option<&Value>, per: f64, decimals: usize) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let shown = |number: f64| match decimals {
        0 => grouped((number / per).max(0.0).round() as u64),
        _ => format!("{:.decimals$}", number / per),
    };
    let of = |name: &str| value.get(name).and_then(Value::as_f64);
    match (value.as_f64(), of("median"), of("least"), of("most")) {
        (Some(number), ..) => shown(number),
        (_, Some(median), Some(least), Some(most)) if least < most => {
            format!("{} ({}-{})", shown(median), shown(least), shown(most))
        }
        (_, Some(median), ..) => shown(median),
        _ => "-".to_owned(),
    }
}

/// Columns that nobody has a figure for are left out. Names are to the left, figures to the right.
pub fn aligned(heads: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let used: Vec<usize> = (0..heads.len()).filter(|i| *i == 0 || rows.iter().any(|row| row[*i] != "-")).collect();
    let width = |i: usize| rows.iter().chain([&heads]).map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = used.iter().map(|i| width(*i)).collect();
    let mut text = String::new();
    for row in [&heads].into_iter().chain(&rows) {
        let mut line = String::new();
        for (i, width) in used.iter().zip(&widths) {
            let is_name = rows.iter().any(|row| row[*i].starts_with(char::is_alphabetic));
            let width = *width;
            let _ = if is_name { write!(line, "{:<width$}  ", row[*i]) } else { write!(line, "{:>width$}  ", row[*i]) };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::options::Mode;

    fn rounds(mode: Mode, rates: &[f64]) -> Case {
        let mut case = Case::new(mode, "");
        for rate in rates {
            let round =
                Round { rows_per_s: *rate, records: 1_000, verified: true, cpu_us_per_row: 2.5, ..Round::default() };
            case.push(round);
        }
        case
    }

    #[test]
    fn a_case_is_a_line_of_medians_and_their_spread() {
        let case = rounds(Mode::CatchUp, &[100_000.0, 130_000.0, 110_000.0]);
        assert_eq!(costs(&case)[..4], ["catch-up", "1,000", "110,000 (100,000-130,000)", "2.50"]);
        assert!(latencies(&case).is_empty());
        let mut case = rounds(Mode::Steady, &[]);
        let durable_ms = Some(Quantiles { p50: 1.0, p99: 2.0, p999: 3.0, max: 4.0 });
        case.push(Round { durable_ms, cut_short: true, ..Round::default() });
        assert_eq!(
            latencies(&case),
            [["steady", "durable (COMMIT answered)", "1.0", "2.0", "3.0", "4.0"].map(str::to_owned)]
        );
        assert!(
            round(&case).contains("latency p50 1.0 p99 2.0 p99.9 3.0 max 4.0 ms")
                && round(&case).ends_with("CUT SHORT")
        );
    }

    #[test]
    fn columns_without_a_figure_are_left_out() {
        let heads = ["", "a", "b"].map(str::to_owned).to_vec();
        let rows = vec![["steady", "-", "12"].map(str::to_owned).to_vec(), ["x", "-", "3"].map(str::to_owned).to_vec()];
        assert_eq!(aligned(heads, rows), "         b\nsteady  12\nx        3\n");
    }

    #[test]
    fn a_round_that_lost_something_says_so() {
        let mut case = rounds(Mode::CatchUp, &[]);
        case.push(Round::default());
        assert!(round(&case).ends_with("NOT AS PUBLISHED"));
    }
}
