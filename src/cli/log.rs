//! Logging to stderr: for people on a terminal, to the journal where systemd connected stderr to it, and one JSON object a line
//! otherwise. The rest of the crate only emits events; what becomes of them is decided here, for the program, and by whoever
//! embeds the library for themselves. Nobody who logs waits for whoever reads ([`queue`]).
//!
//! What a line is (the rules for every event in this crate):
//!
//! - ERROR: data is at risk, or a person is needed. WARN: it was mended, or will mend itself. INFO: something began, ended, or
//!   changed. DEBUG: tries that failed, and what was found out on the way. Nothing is said for each record, at no level.
//! - The text is whole by itself: a terminal shows nothing else. Fields (`shard`, `topic`, `partition`, `sqlstate`, …) say parts of it
//!   again, for machines.
//! - No value of a record: no key, no payload, no header, and nothing of what PostgreSQL quotes of them
//!   ([`Reason`](crate::sink::Reason) says how). A hot key is shown by its hash; `forebay parked` shows keys to who may read the
//!   database. Names of fields, columns, constraints, and of tenants that the configuration lists are no values. What a handler
//!   says of a record is the handler's own word.
//! - No password: what may hold one is a [`Secret`](crate::config::secret::Secret).
//!
//! In the journal fields are named `FOREBAY_SHARD`, `FOREBAY_TOPIC` and so on (`journalctl FOREBAY_SHARD=main`); priorities are err,
//! warning, info, and debug for both debug and trace. Records of the `log` crate are not taken in: rust-postgres writes the
//! parameters of its statements there.

mod journal;
mod limit;
mod panics;
mod queue;
mod stderr;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::clock::{Clock, SystemClock};
use crate::console;
use crate::cpus;

use journal::Journal;
use limit::{Limit, Limited};
use queue::Queue;
pub use stderr::above;

/// Longer directives are refused: they may come over the network.
const LEVEL_BYTES_MAX: usize = 1_000;

/// At the end of the process, and in front of what a command says by itself, lines have so long to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Once [`start`] took logging over.
static LOGGING: OnceLock<Logging> = OnceLock::new();

struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Mutex<Level>,
    limit: &'static Limit,
}

/// Likewise: where lines wait.
static QUEUE: OnceLock<&Queue> = OnceLock::new();

/// What is logged; checked when the command line is read.
#[derive(Debug, Clone)]
pub struct Level(String);

impl Level {
    pub fn of(word: &'static str) -> Level {
        Level(word.to_owned())
    }

    /// Values of fields in it are compared as they stand: a regular expression from the network could be any.
    fn filter(&self) -> Result<EnvFilter, String> {
        EnvFilter::builder().with_regex(false).parse(&self.0).map_err(|error| error.to_string())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        if text.len() > LEVEL_BYTES_MAX {
            return Err(format!("at most {LEVEL_BYTES_MAX} bytes are expected, found {}", text.len()));
        }
        // A single word that is not a level would be taken for the name of a target, and everything else fall silent.
        if let Some(word) =
            text.split(',').find(|d| !d.contains('=') && (d.is_empty() || d.parse::<LevelFilter>().is_err()))
        {
            return Err(format!("{word:?} is neither off, error, warn, info, debug, trace, nor TARGET=LEVEL"));
        }
        let level = Level(text.to_owned());
        level.filter().map(|_| level)
    }
}

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Terminal,
    Journal,
    Json,
}

impl Output {
    /// `journal_stream` is what systemd says of the stream that it connected to the journal, as `JOURNAL_STREAM`: device and
    /// inode. Whoever redirects stderr afterwards inherits the variable, and wants lines where they were redirected to.
    fn choose(terminal: bool, journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> Output {
        let named = |text: &str| {
            let (device, inode) = text.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        };
        if terminal {
            Output::Terminal
        } else if stderr.is_some() && journal_stream.and_then(named) == stderr {
            Output::Journal
        } else {
            Output::Json
        }
    }
}

/// Device and inode.
fn identity(stream: impl AsFd) -> Option<(u64, u64)> {
    let metadata = File::from(stream.as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Starts logging, once for the process; panics of any thread are logged, too. Whoever started it calls [`end`] before the process
/// ends.
pub fn start(level: &Level) {
    let stderr = std::io::stderr();
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let output = Output::choose(stderr.is_terminal(), stream.as_deref(), identity(stderr.as_fd()));
    // What was checked when the command line was read is good here, too.
    let Ok((filter, logging)) = Logging::new(level) else { return };
    let (queue, lines, refused) = match writing(output) {
        Ok(writing) => writing,
        Err(error) => {
            console::err(format_args!("nothing is logged: no thread can be had: {error}"));
            return;
        }
    };
    // It fails when somebody who embeds this has set a subscriber already; then that one gets the events.
    if tracing_subscriber::registry().with(filter).with(Limited(logging.limit)).with(lines).try_init().is_ok() {
        let _ = (LOGGING.set(logging), QUEUE.set(queue));
        console::after(flush);
        panics::log(flush);
    }
    if let Some(error) = refused {
        tracing::warn!("the journal takes no lines ({error}): they go to stderr as JSON");
    }
}

impl Logging {
    fn new(level: &Level) -> Result<(reload::Layer<EnvFilter, Registry>, Logging), String> {
        let (layer, filter) = reload::Layer::new(level.filter()?);
        let limit = Box::leak(Box::new(Limit::new(SystemClock::new(), left_out)));
        Ok((layer, Logging { filter, level: Mutex::new(level.clone()), limit }))
    }

    fn set_level(&self, wanted: Level) -> Result<(), String> {
        let filter = wanted.filter()?;
        let mut level = self.level.lock();
        let said =
            || tracing::info!(from = level.0, to = wanted.0, "the log level goes from {} to {}", level.0, wanted.0);
        // By that one of the two that lets it through.
        let before = tracing::enabled!(tracing::Level::INFO);
        if before {
            said();
        }
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        if !before {
            said();
        }
        *level = wanted;
        Ok(())
    }
}

/// A queue of lines, what puts them into it, and why that is not what was asked for.
type Writing<S> = (&'static Queue, Box<dyn Layer<S> + Send + Sync>, Option<std::io::Error>);

/// What writes lines there.
fn writing<S>(output: Output) -> std::io::Result<Writing<S>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let refused = match (output == Output::Journal).then(journal::sender) {
        Some(Ok(send)) => {
            let queue = Queue::start(send, lost)?;
            return Ok((queue, Journal(queue).boxed(), None));
        }
        Some(Err(error)) => Some(error),
        None => None,
    };
    let queue = Queue::start(stderr::write, lost)?;
    // Of itself it would say on stderr that it cannot write there, by a macro that panics when that cannot be done either.
    let stderr = || fmt::layer().with_writer(|| stderr::Lines(queue)).log_internal_errors(false);
    let lines = match output {
        Output::Terminal => {
            let text = debug_fn(|line, field, value| match field.name() {
                "message" => write!(line, "{value:?}"),
                _ => Ok(()),
            });
            stderr().with_target(false).fmt_fields(text).boxed()
        }
        Output::Journal | Output::Json => {
            stderr().json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    Ok((queue, lines, refused))
}

fn lost(lines: u64) {
    let lines_were = if lines == 1 { "line was" } else { "lines were" };
    tracing::warn!(lines, "… {lines} {lines_were} lost here: whoever reads the log did not keep up");
}

/// Lines began to be left out: a thread says so in time. It starts when there is something to say for the first time, and lasts as
/// long as the process.
fn left_out() {
    static BELL: OnceLock<Option<Sender<()>>> = OnceLock::new();
    let start = || {
        let (bell, rung) = bounded::<()>(1);
        let body = move || {
            while rung.recv().is_ok() {
                SystemClock::new().sleep(limit::INTERVAL);
                say_left_out();
            }
        };
        cpus::spawn("forebay-limit", body).ok().map(|_| bell)
    };
    if let Some(bell) = BELL.get_or_init(start) {
        // Where it was rung already, it will be heard.
        let _ = bell.try_send(());
    }
}

/// Says what there is to say still, and waits until everything is written, unless whoever reads stands still: to be called at the end
/// of the process.
pub fn end() {
    say_left_out();
    flush();
}

fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_MAX);
    }
}

/// Says at once which lines were left out.
fn say_left_out() {
    if let Some(logging) = LOGGING.get() {
        logging.limit.say();
    }
}

/// Changes what is logged, from now on: a level, or directives such as `info,forebay::sink=debug`.
///
/// # Errors
/// What is wrong with it; or that this process logs through somebody else's subscriber.
pub fn set_level(text: &str) -> Result<(), String> {
    let wanted: Level = text.parse()?;
    LOGGING.get().ok_or("this process does not log through forebay")?.set_level(wanted)
}

/// What is logged: a level, or directives; empty where this process logs through somebody else's subscriber.
pub fn level() -> String {
    LOGGING.get().map(|logging| logging.level.lock().0.clone()).unwrap_or_default()
}

/// How many lines there were of each level, error first, trace last: also those that were left out because there were too many, but
/// not those that the level keeps silent.
pub fn lines() -> [u64; 5] {
    LOGGING.get().map(|logging| logging.limit.lines()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_go_to_the_journal_where_it_is_stderr_itself() {
        let choose = Output::choose;
        let stderr = Some((9, 4711));
        assert_eq!(choose(false, Some("9:4711"), stderr), Output::Journal);
        assert_eq!(choose(true, Some("9:4711"), stderr), Output::Terminal, "a terminal is not the journal");
        for redirected in ["9:4712", "8:4711", "", "9", "9:", ":4711", "9:4711:1", "x:y", "9:4711 "] {
            assert_eq!(choose(false, Some(redirected), stderr), Output::Json, "{redirected:?}");
        }
        assert_eq!(choose(false, None, stderr), Output::Json);
        assert_eq!(choose(false, None, None), Output::Json);
        assert_eq!(choose(false, Some("nonsense"), None), Output::Json, "nothing equals nothing");
    }

    #[test]
    fn a_stream_is_known_by_device_and_inode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(identity(file.as_file()), Some((metadata.dev(), metadata.ino())));
        assert_ne!(identity(file.as_file()), identity(tempfile::tempfile().unwrap()));
    }

    /// The texts of the lines that come through.
    #[derive(Clone, Default)]
    struct Seen(std::sync::Arc<Mutex<Vec<u8>>>);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_level_changes_while_it_runs_and_a_change_is_told() {
        let (filter, logging) = Logging::new(&Level::of("warn")).unwrap();
        let seen = Seen::default();
        let writer = seen.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(false).without_time().with_target(false);
        let subscriber = tracing_subscriber::registry().with(filter).with(Limited(logging.limit)).with(lines);
        let expect = |expected: &str| {
            tracing::debug!("detail");
            tracing::info!("news");
            tracing::warn!("mended");
            let seen = String::from_utf8(std::mem::take(&mut seen.0.lock())).unwrap();
            assert_eq!(seen.split_whitespace().collect::<Vec<_>>().join(" "), expected);
        };
        let set = |text: &str| logging.set_level(text.parse().unwrap()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            expect("WARN mended");
            set("debug");
            let told = "INFO the log level goes from";
            expect(&format!("{told} warn to debug from=\"warn\" to=\"debug\" DEBUG detail INFO news WARN mended"));
            set("error");
            expect(&format!("{told} debug to error from=\"debug\" to=\"error\""));
            set("error,forebay::cli=info");
            let to = "error,forebay::cli=info";
            expect(&format!("{told} error to {to} from=\"error\" to=\"{to}\" INFO news WARN mended"));
        });
        assert_eq!(logging.level.lock().0, "error,forebay::cli=info");
        assert_eq!(logging.limit.lines(), [0, 3, 5, 1, 0]);
    }

    #[test]
    fn what_is_no_level_is_refused_before_anything_changes() {
        let long = format!("{}=info", "x".repeat(LEVEL_BYTES_MAX));
        for wrong in ["loud", "", "info,forebay", "forebay=loud", "info,,", &long] {
            assert!(set_level(wrong).is_err(), "{wrong}");
        }
        // Tests have no subscriber of ours.
        assert_eq!(set_level("debug"), Err("this process does not log through forebay".to_owned()));
        assert_eq!((level(), lines()), (String::new(), [0; 5]));
    }
}
