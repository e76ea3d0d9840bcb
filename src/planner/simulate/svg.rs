//! The simulation's charts, each a file: time lag and rate over time for each scenario, and who gets how much.

use std::path::{Path, PathBuf};

use plotters::chart::SeriesLabelPosition;

use crate::bench::report::chart::{Chart, Line, plain};
use crate::planner::PlanError;
use crate::planner::simulate::{Outcome, Sample, Simulated};

/// Writes them into a directory, which is made.
///
/// # Errors
/// [`PlanError::Unavailable`] where a file cannot be written.
pub fn write(simulated: &Simulated, directory: &Path) -> Result<Vec<PathBuf>, PlanError> {
    let unwritable =
        |path: &Path, error: &dyn std::fmt::Display| PlanError::Unavailable(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(directory).map_err(|e| unwritable(directory, &e))?;
    let mut written = Vec::new();
    for (name, chart) in simulated.scenarios.iter().flat_map(over_time).chain(shares(&simulated.scenarios)) {
        let path = directory.join(format!("{name}.svg"));
        let svg = chart.svg().map_err(|e| PlanError::Failed(format!("{}: {e}", path.display())))?;
        std::fs::write(&path, svg).map_err(|e| unwritable(&path, &e))?;
        written.push(path);
    }
    Ok(written)
}

/// Each with the name of its file.
fn over_time(of: &Outcome) -> Vec<(String, Chart)> {
    let line = |name: &str, figure: fn(&Sample) -> f64| {
        let points = of.samples.iter().map(|sample| (sample.seconds, figure(sample))).collect();
        Line { name: name.to_owned(), points }
    };
    let lag = vec![line("the worst shard", |s| s.worst_s), line("the shard in the middle", |s| s.median_s)];
    let rates = vec![line("came", |s| s.came_per_s), line("became durable", |s| s.durable_per_s)];
    let name = of.scenario.replace(", ", "-").replace(' ', "-");
    let title = |what: &str| format!("{}: {what}", of.what);
    vec![
        (format!("{name}-time-lag"), Chart::over_time(title("time lag"), "s", lag)),
        (format!("{name}-rate"), Chart::over_time(title("all shards"), "records/s", rates)),
    ]
}

/// The sorted parts of shards and partitions, in shares of an even one.
fn shares(all: &[Outcome]) -> Vec<(String, Chart)> {
    let of = |name: &str, title: &str, shares: fn(&Outcome) -> &[f64]| {
        let line = |outcome: &Outcome| {
            let shares = shares(outcome);
            let n = shares.len() as f64;
            let points =
                shares.iter().enumerate().map(|(i, share)| ((i as f64 + 0.5) / n * 100.0, share * n)).collect();
            Line { name: outcome.scenario.to_owned(), points }
        };
        let lines: Vec<Line> = all.iter().filter(|outcome| shares(outcome).len() > 1).map(line).collect();
        let legend = SeriesLabelPosition::UpperRight;
        let (x, y) = ("per cent of them, the busiest first", "of an even part");
        let chart = Chart { title: title.to_owned(), x, y, x_label: plain, x_labels: 10, legend, lines };
        (!chart.lines.is_empty()).then(|| (name.to_owned(), chart))
    };
    [
        of("shares-of-shards", "what each shard gets", |o| &o.shard_shares),
        of("shares-of-partitions", "what each partition gets", |o| &o.partition_shares),
    ]
    .into_iter()
    .flatten()
    .collect()
}
