//! `forebay check`.

use std::path::Path;

use super::ExitCode;
use super::pinning::Pinning;
use crate::console;

pub fn run(config: &Path, pinning: Pinning) -> ExitCode {
    let mut loaded = match super::load(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    pinning.overrule(&mut loaded);
    let mut report = crate::check::check(&loaded);
    crate::ingest::check::check(&loaded, &mut report);
    console::out(&report);
    match (report.problems.is_empty(), report.unavailable.is_empty()) {
        (true, true) => ExitCode::Ok,
        (true, false) => ExitCode::Unavailable,
        (false, _) => ExitCode::Config,
    }
}
