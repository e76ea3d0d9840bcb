//! The command line: what was asked for, who does it, and the exit code that says how it went. Decides nothing else.

mod answers;
mod bench;
mod check;
mod compare;
mod demo;
mod fences;
mod ingest;
mod init;
mod letters;
pub mod log;
pub mod memory;
mod parking;
mod pinning;
mod plan;
mod route;
mod run;
mod top;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::load::{self, Loaded};
use crate::console;
use crate::engine::EngineError;
use crate::sink::Failure;

/// Applies the writes of Kafka topics to PostgreSQL: in order per row, in parallel across rows, exactly once in effect.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "forebay.toml", global = true)]
    config: PathBuf,
    /// What to log to stderr: error, warn, info, debug, trace, or directives such as `info,forebay::sink=debug`
    /// [default: info; demo, bench, compare and plan: warn].
    #[arg(long, value_name = "LEVEL", env = "FOREBAY_LOG", global = true)]
    log_level: Option<log::Level>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply records until SIGTERM or SIGINT, which drain, commit and end with exit code 0.
    Run {
        /// End once everything up to the end offsets seen at start is durable and committed.
        #[arg(long)]
        until_end: bool,
        #[command(flatten)]
        pinning: pinning::Pinning,
    },
    /// Serve the routes of `[ingest]`: requests become records, and are answered with 202 once the brokers have them. SIGTERM and SIGINT
    /// answer what is under way and end with exit code 0.
    Ingest,
    /// Look at everything the configuration names (brokers, topics, shards, tables, privileges, cores) and report every
    /// problem at once. Changes nothing.
    Check(pinning::Pinning),
    /// Create or upgrade forebay's own tables, in schema `forebay` of each shard.
    Init {
        /// Only show the SQL. Needs neither a configuration nor a database.
        #[arg(long)]
        print: bool,
    },
    /// Look at, or overrule, what the databases know of the group's progress.
    #[command(subcommand)]
    Fences(fences::Fences),
    /// Look at, or decide about, records that could not be applied.
    #[command(subcommand)]
    DeadLetters(letters::Letters),
    /// Keep a key, or a whole tenant, of a topic back: its records wait in order in `forebay.parked`, and keep nobody else. Takes
    /// effect without a restart and lasts until `unpark`.
    Park(parking::What),
    /// Let it go on, in order.
    Unpark(parking::What),
    /// What is held, and which keys are parked, for how long and why. Changes nothing.
    Parked(parking::Listing),
    /// Say which tenant, shard, partition and lane keys go to: what a producer of your own has to reproduce. Changes nothing.
    Route(route::Route),
    /// Watch a running forebay in a terminal: how far behind it is and because of whom, and pause topics or park keys. Asks
    /// its admin interface, here or on another machine.
    Top(top::Top),
    /// Measure it on real Kafka and PostgreSQL, with records, topics and a table of its own: rows a second, own CPU time, memory,
    /// and the latency of records that are sent at a rate. Brokers, shards and the engine's settings are the configuration's, whose
    /// topics are left alone; without one, --brokers and --dsn say enough.
    Bench(crate::bench::Written),
    /// The same HTTP endpoint before and after: `mode = "sync"` and `mode = "async"` under the same load and the same trouble (a locked row, a
    /// checkpoint, a database that is stopped, a burst), in turn, with every metric side by side as a table, JSON and a page. On PostgreSQL
    /// servers of its own and a Kafka that is there; --brokers and --dsn name others. The configuration is left alone.
    Compare(crate::compare::Written),
    /// How many databases, processes, workers and partitions it takes, for how many records and which time lag: with the arithmetic
    /// written out, from what the databases say, or from what one of them bears (--measure). Refuses what cannot be, and says
    /// what can.
    Plan(Box<crate::planner::Options>),
    /// The engine that `bench` measures.
    #[command(hide = true)]
    BenchEngine,
    /// See it work, on a throw-away PostgreSQL and a mock Kafka of its own: updates are published while they are applied,
    /// and every row is compared with what was published.
    Demo(demo::Arguments),
}

impl Command {
    /// What is logged unless something else is asked for: the demonstration, the measurements and the plan speak for themselves.
    fn log_level(&self) -> log::Level {
        let measures = matches!(self, Command::Bench(_) | Command::BenchEngine | Command::Compare(_));
        let speaks = measures || matches!(self, Command::Demo(_) | Command::Plan(_));
        log::Level::of(if speaks { "warn" } else { "info" })
    }
}

/// How it went. The numbers are those of BSD's sysexits.h where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Ok = 0,
    /// The command line makes no sense.
    Usage = 2,
    /// `run --until-end` with a topic that stopped on its data.
    Data = 65,
    /// A broker or a database that is needed does not answer, or the group does not want this process.
    Unavailable = 69,
    /// A broken invariant: a defect of forebay.
    Internal = 70,
    /// The configuration, or what it names, is not right.
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

impl From<&EngineError> for ExitCode {
    fn from(error: &EngineError) -> ExitCode {
        match error {
            EngineError::Configuration(_) => ExitCode::Config,
            EngineError::Unavailable(_) => ExitCode::Unavailable,
            EngineError::Internal(_) => ExitCode::Internal,
        }
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> ExitCode {
        match failure {
            Failure::Outage(_) | Failure::Transient(_) | Failure::LockWait(_) => ExitCode::Unavailable,
            Failure::LockedOut(_) | Failure::NoRoom(_) | Failure::TooLong(_) => ExitCode::Unavailable,
            Failure::Record(..) | Failure::Topic(_) | Failure::Shard(_) => ExitCode::Config,
        }
    }
}

/// Does what the process's arguments say.
pub fn main() -> std::process::ExitCode {
    memory::keep_large_blocks();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing to do about a closed stdout or stderr.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok }.into();
        }
    };
    log::start(&arguments.log_level.unwrap_or_else(|| arguments.command.log_level()));
    let config = &arguments.config;
    let code = match arguments.command {
        Command::Run { until_end, pinning } => run::run(config, until_end, pinning),
        Command::Ingest => ingest::run(config),
        Command::Check(pinning) => check::run(config, pinning),
        Command::Init { print } => init::run(config, print),
        Command::Fences(command) => fences::run(config, &command),
        Command::DeadLetters(command) => letters::run(config, &command),
        Command::Park(what) => parking::park(config, &what),
        Command::Unpark(what) => parking::unpark(config, &what),
        Command::Parked(listing) => parking::parked(config, &listing),
        Command::Route(arguments) => route::run(config, &arguments),
        Command::Top(arguments) => top::run(config, arguments),
        Command::Bench(arguments) => bench::run(config, arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Plan(arguments) => plan::run(config, &arguments),
        Command::BenchEngine => bench::engine(),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    log::end();
    match code {
        ExitCode::Ok if console::lost_output() => ExitCode::Unavailable,
        code => code,
    }
    .into()
}

/// The configuration; its problems go to stderr. Handlers are code, and this program has none.
fn load(file: &Path) -> Result<Loaded, ExitCode> {
    load::load(file).and_then(|loaded| loaded.with_tables_only()).map_err(|problems| {
        console::err(problems);
        ExitCode::Config
    })
}

/// The configuration for a command that works with it; its warnings are logged.
fn load_to_work(file: &Path) -> Result<Loaded, ExitCode> {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_stand_before_or_behind_the_command() {
        for line in [["forebay", "--config", "a.toml", "check"], ["forebay", "check", "--config", "a.toml"]] {
            let arguments = Arguments::try_parse_from(line).expect("valid");
            assert_eq!(arguments.config, Path::new("a.toml"));
        }
        let level = |level: &'static str| Arguments::try_parse_from(["forebay", "check", "--log-level", level]);
        for good in ["off", "INFO", "info,forebay::sink=debug", "forebay[span{a=1}]=trace,warn"] {
            assert!(level(good).is_ok(), "{good}");
        }
        for wrong in ["loud=loud", "wat", "info,forebay", "", "wat,info"] {
            assert!(level(wrong).is_err(), "{wrong}");
        }
        assert!(Arguments::try_parse_from(["forebay"]).is_err());
    }

    /// As far as a line shows one whole: without what a shell makes of it, and without placeholders.
    fn command(line: &str) -> Option<Vec<String>> {
        let line = line.trim_start();
        let words = line.strip_prefix("forebay ").or_else(|| line.strip_prefix("target/release/forebay "))?;
        let words = words.split(['#', '|', '>']).next()?;
        let word = |word: &str| if word.starts_with('$') { "1".to_owned() } else { word.to_owned() };
        (!words.contains('…')).then(|| words.split_whitespace().map(word).collect())
    }

    #[test]
    fn commands_that_the_documents_show_are_ones() {
        let mut checked = 0;
        for document in ["README.md", "tuning.md"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
            let text = std::fs::read_to_string(path).expect("a document is readable");
            let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
            for words in blocks.flat_map(|(block, _)| block.lines()).filter_map(command) {
                let line = std::iter::once("forebay".to_owned()).chain(words.iter().cloned());
                if let Err(error) = Arguments::try_parse_from(line) {
                    panic!("{document}: forebay {}: {error}", words.join(" "));
                }
                checked += 1;
            }
        }
        assert!(checked > 20, "{checked} commands");
    }
}
