//! `forebay ingest`: the gateway in the foreground, and signals.

use std::path::Path;
use std::sync::Arc;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::check::budget::Whose;
use crate::config::Config;
use crate::cpus;
use crate::engine::{Pinning, Reloader, Stopper};
use crate::ingest::server::Running;
use crate::ingest::watch::Watch;

use super::{ExitCode, run};

/// Beside those of clients: brokers, databases, the log.
const OTHER_FILES: usize = 100;

pub fn run(config: &Path) -> ExitCode {
    // Before anything that may take time: whoever is told to end ends in order.
    let stopper = Stopper::default();
    if let Err(error) = run::on_signals(&stopper) {
        tracing::error!("no handlers for signals: {error}");
        return ExitCode::Internal;
    }
    let files_max = run::raise_descriptors();
    let mut loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(code) = run::within_budget(&loaded, Whose::Ingest) {
        return code;
    }
    fit_into(files_max, &mut loaded.config);
    let pinning = place(&loaded.config);
    let running = match Running::start(loaded.config, run::logs(), &pinning) {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(&error);
        }
    };
    let (reloader, watch) = running.reloader();
    if let Err(error) = reload_on_signal(reloader, watch) {
        tracing::error!("no handler for SIGHUP: {error}");
        return ExitCode::Internal;
    }
    tracing::info!("gateway: http://{}/", running.address);
    match running.run(&stopper) {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(&error)
        }
    }
}

/// No more connections than there may be files for: beyond `connections_max` idle ones make room, and beyond the files nobody is accepted.
fn fit_into(files_max: Option<u64>, config: &mut Config) {
    let (Some(ingest), Some(files)) = (&mut config.ingest, files_max) else { return };
    let room = usize::try_from(files).unwrap_or(usize::MAX);
    let room = room.saturating_sub(OTHER_FILES).max(room / 2);
    if room < ingest.connections_max {
        let wanted = std::mem::replace(&mut ingest.connections_max, room);
        tracing::warn!(
            "{room} connections at a time instead of connections_max = {wanted}: this process may have no more than {files} open files \
             (LimitNOFILE of the unit, or ulimit -Hn)"
        );
    }
}

/// Where its threads are to run. Those that the process has by now go where others do.
fn place(config: &Config) -> Pinning {
    let Some(ingest) = &config.ingest else { return Pinning::default() };
    // Before anything moves: it is where the process may run by itself.
    let pinning = Pinning::of_gateway(ingest, cpus::allowed().ok());
    if let Some(others) = &ingest.other_cores
        && let Err(error) = cpus::confine_all(others)
    {
        tracing::warn!("ingest.other_cores: threads could not be pinned there: {error}");
    }
    pinning
}

/// Each SIGHUP reads the configuration again, on a thread of its own, which lasts as long as the process.
fn reload_on_signal(reloader: Reloader, watch: Arc<Watch>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    let body = move || {
        for _ in signals.forever() {
            match reloader.reload() {
                Ok(changed) if changed.is_empty() => tracing::info!("reload: nothing changed"),
                Ok(changed) => {
                    watch.rebuild();
                    tracing::info!("reloaded: {}", changed.join(", "));
                }
                Err(error) => tracing::error!("reload refused, nothing changed: {error}"),
            }
        }
    };
    std::thread::Builder::new().name("forebay-reload".into()).spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::samples;

    #[test]
    fn there_is_a_file_for_each_connection() {
        for (files_max, expected) in [(None, 1000), (Some(1100), 1000), (Some(600), 500), (Some(64), 32)] {
            let mut config = samples::config("[ingest]\nconnections_max = 1000\n");
            fit_into(files_max, &mut config);
            assert_eq!(config.ingest.expect("a gateway").connections_max, expected, "{files_max:?}");
        }
    }
}
