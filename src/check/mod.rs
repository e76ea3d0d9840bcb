//! `forebay check`: everything that can be known about a configuration before the first record, all of it at once. It asks
//! brokers and databases, and changes neither.

mod brokers;
pub mod budget;
pub mod machine;
mod shard;
mod table;

pub(crate) use brokers::wait;

use std::fmt;
use std::path::PathBuf;

use crate::config::load::Loaded;
use crate::config::problem::Problem;
use crate::config::raw::Places;
use crate::config::{Config, Target};
use crate::words::counted;

/// One thing that a check has to say, and the place in the file that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: PathBuf,
    /// Counted from 1; 0 where the file says nothing about it.
    pub line: usize,
    pub key: String,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}: {}", self.file.display(), self.key, self.text),
            line => write!(f, "{}:{line}: {}: {}", self.file.display(), self.key, self.text),
        }
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Finding {
        let text = format!("found {}, expected {}", problem.found, problem.expected);
        Finding { file: problem.file, line: problem.line, key: problem.key, text }
    }
}

/// What a check says.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Which thread runs where: a line for each kind of thread.
    pub cpus: Vec<String>,
    /// Who has which server's connections, and who needs how many more: a table for each server.
    pub connections: Vec<String>,
    /// What was looked at and found in order.
    pub checked: Vec<String>,
    /// What keeps forebay from working until a person has done something.
    pub problems: Vec<Finding>,
    /// What could not be asked.
    pub unavailable: Vec<Finding>,
    /// What works but is hardly meant.
    pub warnings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, other: Report) {
        self.cpus.extend(other.cpus);
        self.connections.extend(other.connections);
        self.checked.extend(other.checked);
        self.problems.extend(other.problems);
        self.unavailable.extend(other.unavailable);
        self.warnings.extend(other.warnings);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for checked in &self.checked {
            writeln!(f, "ok: {checked}")?;
        }
        for line in &self.cpus {
            writeln!(f, "cpus: {line}")?;
        }
        for line in &self.connections {
            writeln!(f, "connections: {line}")?;
        }
        for (word, list) in
            [("warning", &self.warnings), ("unavailable", &self.unavailable), ("problem", &self.problems)]
        {
            for item in list {
                writeln!(f, "{word}: {item}")?;
            }
        }
        let problems = counted(self.problems.len() as u64, "problem");
        let warnings = counted(self.warnings.len() as u64, "warning");
        write!(f, "{} in order, {problems}, {} unavailable, {warnings}", self.checked.len(), self.unavailable.len())
    }
}

/// Notes findings at keys of the file.
struct Notes<'a> {
    places: &'a Places,
    report: Report,
}

impl<'a> Notes<'a> {
    fn new(places: &'a Places) -> Notes<'a> {
        Notes { places, report: Report::default() }
    }

    fn checked(&mut self, what: impl Into<String>) {
        self.report.checked.push(what.into());
    }

    fn problem(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.report.problems.push(self.places.problem(key, found, expected).into());
    }

    fn unavailable(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.report.unavailable.push(self.places.problem(key, found, expected).into());
    }

    fn warning(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.report.warnings.push(self.places.problem(key, found, expected).into());
    }

    /// What somebody else put into words.
    fn finding(&self, key: &str, text: impl Into<String>) -> Finding {
        let Problem { file, line, key, .. } = self.places.problem(key, "", "");
        Finding { file, line, key, text: text.into() }
    }
}

/// Asks everything that the configuration names. Shards and brokers are asked at the same time, each within its time-out.
pub fn check(loaded: &Loaded) -> Report {
    let Loaded { config, warnings, places } = loaded;
    let mut report = Report { warnings: warnings.iter().cloned().map(Finding::from).collect(), ..Report::default() };
    report.checked.push(format!("configuration {}: {}", config.file.display(), shape(config)));
    report.add(machine::check(config, places));
    std::thread::scope(|scope| {
        let brokers = scope.spawn(|| brokers::check(config, places));
        let shards: Vec<_> =
            (0..config.shards.len()).map(|shard| scope.spawn(move || shard::check(config, places, shard))).collect();
        let mut facts = Vec::new();
        for (i, shard) in shards.into_iter().enumerate() {
            let (found, shard_report) = shard.join().expect("a check does not panic");
            report.add(shard_report);
            facts.extend(found.map(|found| (i, found)));
        }
        report.add(shard::compare(config, places, &facts));
        report.add(brokers.join().expect("a check does not panic"));
    });
    for list in [&mut report.problems, &mut report.unavailable, &mut report.warnings] {
        list.sort_by_key(|finding| finding.line);
    }
    report
}

fn shape(config: &Config) -> String {
    let handlers = config.topics.iter().filter(|topic| matches!(topic.target, Target::Handler)).count();
    let of_them = if handlers > 0 { format!(" ({handlers} of them for handlers)") } else { String::new() };
    format!(
        "{}, {}{of_them}, {} and {} a shard",
        counted(config.shards.len() as u64, "shard"),
        counted(config.topics.len() as u64, "topic"),
        counted(config.engine.workers_per_shard as u64, "worker"),
        counted(u64::from(config.engine.lanes), "lane")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_kind_is_one() {
        let mut report = Report::default();
        assert_eq!(report.to_string(), "0 in order, 0 problems, 0 unavailable, 0 warnings");
        let finding = || Finding { file: "f".into(), line: 3, key: "k".to_owned(), text: "t".to_owned() };
        report.problems.push(finding());
        report.warnings.extend([finding(), finding()]);
        let lines = "warning: f:3: k: t\nwarning: f:3: k: t\nproblem: f:3: k: t\n";
        assert_eq!(report.to_string(), format!("{lines}0 in order, 1 problem, 0 unavailable, 2 warnings"));
    }
}
