//! What was found, for people on stdout, for programs as JSON, and as charts.

pub mod chart;
pub mod svg;
pub mod table;

use std::path::Path;

use crate::bench::BenchError;
use crate::bench::figures::Report;
use crate::bench::options::Options;
use crate::console;

/// The table, and the files that were asked for; a file that cannot be written keeps nobody from the rest.
pub fn write(report: &Report, options: &Options) -> Result<(), BenchError> {
    if report.cases.is_empty() {
        return Ok(());
    }
    console::out(table::table(report));
    let json = options.json.as_deref().map_or(Ok(()), |file| json(report, file));
    let charts = options.svg.as_deref().map_or(Ok(()), |directory| svg::write(report, directory));
    json.and(charts)
}

fn json(report: &Report, file: &Path) -> Result<(), BenchError> {
    let text = serde_json::to_string_pretty(report).map_err(|e| BenchError::Failed(format!("the report: {e}")))?;
    std::fs::write(file, text + "\n").map_err(|e| unwritable(file, &e))
}

fn unwritable(file: &Path, error: &dyn std::fmt::Display) -> BenchError {
    BenchError::Unavailable(format!("{}: {error}", file.display()))
}
