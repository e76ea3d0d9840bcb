//! `forebay run`: the engine in the foreground, signals, and on a terminal a bar that shows how far `--until-end` got.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::admin::exposition;
use crate::admin::routes::Logs;
use crate::admin::server::Admin;
use crate::check::budget::{self, Whose};
use crate::config::load::Loaded;
use crate::engine::{Engine, EngineError, Options, Outcome, Reloader, Stopper};
use crate::metrics::Counters;

use super::pinning::Pinning;
use super::{ExitCode, log};

const DRAW_EVERY: Duration = Duration::from_millis(200);

pub fn run(config: &Path, until_end: bool, pinning: Pinning) -> ExitCode {
    // Before anything that may take time: whoever is told to end ends in order.
    let stopper = Stopper::default();
    if let Err(error) = on_signals(&stopper) {
        tracing::error!("no handlers for signals: {error}");
        return ExitCode::Internal;
    }
    raise_descriptors();
    let mut loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    pinning.overrule(&mut loaded);
    if let Err(code) = within_budget(&loaded, Whose::Run) {
        return code;
    }
    for topic in &loaded.config.topics {
        tracing::info!(topic = topic.name, "topic {}: {}", topic.name, loaded.config.alignment());
    }
    let engine = Engine::new(loaded.config);
    if let Err(error) = engine.confine_process() {
        tracing::warn!("engine.other_cores: threads could not be pinned there: {error}");
    }
    if let Err(error) = reload_on_signal(engine.reloader()) {
        tracing::error!("no handler for SIGHUP: {error}");
        return ExitCode::Internal;
    }
    let admin = match Admin::start(engine.observer(), logs()) {
        Ok(admin) => admin,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::Unavailable;
        }
    };
    if let Some(address) = admin.as_ref().and_then(Admin::address) {
        tracing::info!("admin interface: http://{address}/");
    }
    let options = Options { until_end, ..Options::default() };
    let result = if until_end && std::io::stderr().is_terminal() {
        with_bar(&engine, options, &stopper)
    } else {
        engine.run(options, &stopper)
    };
    match result {
        Ok(outcome) => ended(&outcome, until_end.then(|| engine.counters()).as_deref()),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(&error)
        }
    }
}

/// Whether the databases have the connections, as far as they say so at once.
pub fn within_budget(loaded: &Loaded, whose: Whose) -> Result<(), ExitCode> {
    let budget = budget::at_start(&loaded.config, &loaded.places, whose);
    for warning in &budget.warnings {
        tracing::warn!("{warning}");
    }
    for problem in &budget.problems {
        tracing::error!("{problem}");
    }
    if budget.problems.is_empty() { Ok(()) } else { Err(ExitCode::Config) }
}

/// Connections to databases and brokers, and those who look, take file descriptors. The soft limit is low for the sake of programs that
/// call `select`, which nothing here does; the hard one is what the administrator means.
///
/// Returns how many are allowed now; none where any number is.
pub fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return maximum;
    }
    let words = |limit: Option<u64>| limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
    let (from, to) = (words(current), words(maximum));
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            tracing::debug!("open files: {to} are allowed now, instead of {from}");
            maximum
        }
        Err(error) => {
            tracing::debug!("open files: {from} are allowed, and not {to}: {error}");
            current
        }
    }
}

/// What the admin interface may ask of this process's logging.
pub fn logs() -> Logs {
    Logs {
        level: Box::new(log::level),
        set_level: Box::new(log::set_level),
        lines: Box::new(|| {
            let mut lines = exposition::LEVELS.map(|level| (level, 0));
            lines.iter_mut().zip(log::lines()).for_each(|((_, count), of_level)| *count = of_level);
            lines
        }),
    }
}

/// `at_end`: of a run that was to go to the end.
fn ended(outcome: &Outcome, at_end: Option<&Counters>) -> ExitCode {
    for (topic, reason) in &outcome.stopped {
        tracing::error!(topic, sqlstate = reason.sqlstate, "topic {topic} stopped: {reason}");
    }
    let Some(counters) = at_end else { return ExitCode::Ok };
    let (durable, dead) = (counters.durable.get(), counters.dead_lettered.get());
    let parked = counters.parked.get().saturating_sub(counters.drained.get());
    tracing::info!("done: {durable} records are durable now, {dead} of them as dead letters, {parked} parked still");
    if outcome.stopped.is_empty() { ExitCode::Ok } else { ExitCode::Data }
}

/// The first SIGTERM or SIGINT drains; a second one ends the process at once, which the fences make safe. A SIGHUP, which
/// would end it, too, is for [`reload_on_signal`].
pub fn on_signals(stopper: &Stopper) -> std::io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        // Before the flag is set by the same signal, so that only the second one finds it set.
        flag::register_conditional_shutdown(signal, i32::from(ExitCode::Unavailable as u8), stopper.flag())?;
        flag::register(signal, stopper.flag())?;
    }
    flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// Each SIGHUP reads the configuration again, on a thread of its own, which lasts as long as the process.
fn reload_on_signal(reloader: Reloader) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    let body = move || {
        for _ in signals.forever() {
            match reloader.reload() {
                Ok(changed) if changed.is_empty() => tracing::info!("reload: nothing changed"),
                Ok(changed) => tracing::info!("reloaded: {}", changed.join(", ")),
                Err(error) => tracing::error!("reload refused, nothing changed: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("forebay-reload".into()).spawn(body).map(drop)
}

fn with_bar(engine: &Engine, options: Options, stopper: &Stopper) -> Result<Outcome, EngineError> {
    let counters = engine.counters();
    std::thread::scope(|scope| {
        let (done, over) = bounded::<()>(0);
        let drawing = std::thread::Builder::new().name("forebay-bar".into()).spawn_scoped(scope, move || {
            let bar = bar();
            log::above(Some(bar.clone()));
            while over.recv_timeout(DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                draw(&bar, &counters);
            }
            draw(&bar, &counters);
            log::above(None);
            bar.finish_and_clear();
        });
        if let Err(error) = drawing {
            tracing::warn!("no progress bar: {error}");
        }
        let result = engine.run(options, stopper);
        drop(done);
        result
    })
}

fn bar() -> ProgressBar {
    let template = "{wide_bar} {human_pos}/{human_len} records durable, {rate}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        // There is nobody to tell.
        let _ = write!(text, "{:.0}/s", state.per_sec());
    };
    let style = style.with_key("rate", rate);
    ProgressBar::new(0).with_style(style)
}

fn draw(bar: &ProgressBar, counters: &Counters) {
    bar.set_length(counters.until_end_total.get());
    bar.set_position(counters.until_end_done.get());
}
