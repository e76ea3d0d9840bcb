//! The charts of a report, each a file: rate, lag and memory over time, and latency by percentile. What a case did not measure has no
//! chart.

use std::path::Path;

use plotters::chart::SeriesLabelPosition;

use crate::bench::BenchError;
use crate::bench::figures::{Case, Point, Report, Round};
use crate::bench::report::chart::{Chart, Line, plain};
use crate::bench::report::unwritable;

/// A chart over time: its name in the file's, its title, its axis, and where its figure is.
type OverTime = (&'static str, &'static str, &'static str, fn(&Point) -> Option<f64>);

const OVER_TIME: [OverTime; 4] = [
    ("rate", "rows that became durable", "rows/s", |point| Some(point.rows_per_s)),
    ("message-lag", "message lag: published, and not durable", "records", |point| Some(point.message_lag as f64)),
    ("time-lag", "time lag: age of the oldest record that is not durable", "ms", |point| {
        Some(point.time_lag_ms? as f64)
    }),
    ("memory", "resident memory of the engine", "MB", |point| Some(point.resident_bytes as f64 / 1_048_576.0)),
];

/// Writes them into a directory, which is made.
pub fn write(report: &Report, directory: &Path) -> Result<(), BenchError> {
    std::fs::create_dir_all(directory).map_err(|e| unwritable(directory, &e))?;
    for (name, chart) in report.cases.iter().flat_map(charts).chain(by_mode(&report.cases)) {
        let file = directory.join(format!("{name}.svg"));
        let svg = chart.svg().map_err(|e| BenchError::Failed(format!("{}: {e}", file.display())))?;
        std::fs::write(&file, svg).map_err(|e| unwritable(&file, &e))?;
    }
    Ok(())
}

/// Each with the name of its file.
fn charts(case: &Case) -> Vec<(String, Chart)> {
    let chart = |(name, title, y, figure): &OverTime| {
        let line = |(index, round): (usize, &Round)| Line {
            name: format!("round {}", index + 1),
            points: round.points.iter().filter_map(|point| Some((point.seconds, figure(point)?))).collect(),
        };
        let lines: Vec<Line> = case.rounds.iter().enumerate().map(line).filter(|line| line.points.len() > 1).collect();
        let drawn = lines.iter().any(|line| line.points.iter().any(|(_, y)| *y > 0.0));
        let title = format!("{}: {title}", case.name());
        let chart = Chart::over_time(title, y, lines);
        drawn.then(|| (format!("{}-{name}", file_name(case)), chart))
    };
    OVER_TIME.iter().filter_map(chart).collect()
}

/// One chart for all cases of a mode.
fn by_mode(all: &[Case]) -> Vec<(String, Chart)> {
    let mut modes: Vec<&'static str> = all.iter().map(|case| case.mode).collect();
    modes.dedup();
    let chart = |mode: &'static str| {
        let of_case = |case: &Case| {
            let several = case.rounds.len() > 1;
            let line = |(index, round): (usize, &Round)| {
                let which = if several { format!("round {}", index + 1) } else { String::new() };
                let name = [case.case.clone(), which].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
                let points = round.curve.iter().filter(|point| point.share < 1.0);
                Line { name: name.join(", "), points: points.map(|point| (nines(point.share), point.ms)).collect() }
            };
            case.rounds.iter().enumerate().map(line).collect::<Vec<_>>()
        };
        let cases = all.iter().filter(|case| case.mode == mode);
        let lines: Vec<Line> = cases.flat_map(of_case).filter(|line| !line.points.is_empty()).collect();
        let title = format!("{mode}: from when a record was due until its row was written");
        let legend = SeriesLabelPosition::UpperLeft;
        // Whole nines, as far as the curve goes.
        let chart = Chart { title, x: "percentile", y: "ms", x_label: percentile, x_labels: 5, legend, lines };
        (!chart.lines.is_empty()).then(|| (format!("{mode}-latency"), chart))
    };
    modes.into_iter().filter_map(chart).collect()
}

/// 0.9 is 1, 0.99 is 2: each further nine is as wide as the first.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

fn percentile(nines: f64) -> String {
    format!("{} %", plain(100.0 - 100.0 / 10f64.powf(nines)))
}

fn file_name(case: &Case) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = case.name().chars().map(plain).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::options::Mode;

    #[test]
    fn a_case_has_a_chart_of_each_thing_that_it_measured() {
        let point =
            |seconds| Point { seconds, rows_per_s: 5.0, time_lag_ms: None, message_lag: 3, resident_bytes: 1 << 20 };
        let mut case = Case::new(Mode::SlowHandler, "10 ms a record, 40/s");
        let round = Round { points: vec![point(0.0), point(1.0)], ..Round::default() };
        case.push(round);
        let names: Vec<String> = charts(&case).into_iter().map(|(name, _)| name).collect();
        let of = |what: &str| format!("slow-handler-10-ms-a-record-40-s-{what}");
        assert_eq!(names, [of("rate"), of("message-lag"), of("memory")], "there was no time lag");
    }

    #[test]
    fn the_latencies_of_a_mode_are_one_chart() {
        let mut case = Case::new(Mode::Steady, "");
        case.push(Round::default().with_curve(&[1.0; crate::bench::latency::CURVE.len()]));
        let mut found = by_mode(std::slice::from_ref(&case));
        let (name, chart) = found.remove(0);
        assert_eq!((name.as_str(), chart.lines.len(), found.len()), ("steady-latency", 1, 0));
        let line = &chart.lines[0].points;
        assert_eq!(
            (line.len(), line[5]),
            (crate::bench::latency::CURVE.len() - 1, (nines(0.9), 1.0)),
            "1.0 has no place"
        );
    }

    #[test]
    fn percentiles_are_a_nine_apart() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(percentile), ["0 %", "90 %", "99 %", "99.9 %"]);
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
    }
}
