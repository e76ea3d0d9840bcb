//! What was found, for people on stdout, for programs as JSON, and as charts.

pub mod chart;
pub mod svg;
pub mod table;

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use crate::bench::BenchError;
use crate::bench::figures::Report;
use crate::bench::options::Options;
use crate::console;

/// Nobody waits for figures that then cannot be kept: makes sure that what is to be written can be. A file that is there already keeps what
/// it holds until there is something else.
///
/// # Errors
/// [`BenchError::Unavailable`], with the path and why.
pub fn make_room(options: &Options) -> Result<(), BenchError> {
    options.json.iter().try_for_each(|file| try_to_write(file).map_err(|e| unwritable(file, &e)))?;
    options.svg.iter().try_for_each(|directory| {
        let trial =
            std::fs::create_dir_all(directory).and_then(|()| try_to_write(&directory.join("forebay-bench.svg")));
        trial.map_err(|e| unwritable(directory, &e))
    })
}

/// Whether that file can be written. It is as it was afterwards, there or not.
///
/// # Errors
/// The operating system's.
pub fn try_to_write(file: &Path) -> io::Result<()> {
    let was_there = file.exists();
    OpenOptions::new().append(true).create(true).open(file)?;
    if was_there { Ok(()) } else { std::fs::remove_file(file) }
}

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
