//! The committed counts, and what is said about others beside them. Knows nothing of how they were counted.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

/// A count may grow by so many per cent before somebody has to say that it is meant.
pub const GROWTH_PERCENT_MAX: f64 = 10.0;

/// What counts depend on besides the code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tools {
    pub rustc: String,
    pub valgrind: String,
}

/// Of one kind of processor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Baseline {
    pub counted_by: Tools,
    /// By benchmark: instructions for each record.
    pub counts: BTreeMap<String, f64>,
}

/// The whole file, by the processor's name as Rust has it (`x86_64`).
pub type Baselines = BTreeMap<String, Baseline>;

/// What a comparison comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Any of them is a failure.
    pub problems: Vec<String>,
    pub remarks: Vec<String>,
}

/// The file's text.
pub fn parse(text: &str) -> Result<Baselines, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

/// What [`parse`] reads.
pub fn write(all: &Baselines) -> String {
    let mut text = String::from(
        "# Instructions for each record, by benchmark: see benches/README.md. Written by FOREBAY_UPDATE=1 bin/instructions.\n",
    );
    for (processor, Baseline { counted_by: Tools { rustc, valgrind }, counts }) in all {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[{processor}]\ncounted_by = {{ rustc = {rustc:?}, valgrind = {valgrind:?} }}\n");
        let _ = write!(text, "\n[{processor}.counts]\n");
        for (name, count) in counts {
            let _ = writeln!(text, "{name:?} = {count:.1}");
        }
    }
    text
}

/// Whether these counts, by benchmark, are as good as the committed ones.
pub fn compare(baseline: &Baseline, found: &[(&str, f64)], tools: &Tools) -> Verdict {
    let mut verdict = Verdict::default();
    for (name, count) in found {
        let Some(before) = baseline.counts.get(*name) else {
            verdict.problems.push(format!("{name}: no baseline, found {count:.1}"));
            continue;
        };
        let percent = (count / before - 1.0) * 100.0;
        let line = format!("{name}: baseline {before:.1}, found {count:.1} instructions a record ({percent:+.1} %)");
        if percent > GROWTH_PERCENT_MAX {
            verdict.problems.push(line);
        } else if percent < -GROWTH_PERCENT_MAX {
            verdict.remarks.push(format!("{line}: to be written down, so that it stays"));
        }
    }
    let gone = baseline.counts.keys().filter(|name| !found.iter().any(|(found, _)| found == name));
    verdict.problems.extend(gone.map(|name| format!("{name}: a baseline, and no benchmark")));
    if *tools != baseline.counted_by && !(verdict.problems.is_empty() && verdict.remarks.is_empty()) {
        let Tools { rustc, valgrind } = &baseline.counted_by;
        let by = format!("counted by {} and {}, the baseline by {rustc} and {valgrind}", tools.rustc, tools.valgrind);
        verdict.remarks.push(by);
    }
    verdict
}
