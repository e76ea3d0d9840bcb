//! `forebay ingest` and `forebay run` as processes of their own, as an operator has them: a configuration, a log, signals. What they
//! take of the CPU is theirs alone. A process ends with its guard, and with this process, however that ends.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::compare::CompareError;
use crate::engine::Stopper;

/// From its start until it says where it listens, and until it is ready.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// From SIGTERM until it has drained.
const END_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// What of its log an error shows.
const LOG_LINES: usize = 15;
/// A long exposition is some hundred kilobytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// A running one.
pub struct Forebay {
    child: Child,
    command: &'static str,
    log: PathBuf,
}

impl Forebay {
    /// To be called in a thread that lives as long as the process is to.
    pub fn start(command: &'static str, config: &Path) -> Result<Forebay, CompareError> {
        let failed = |error: std::io::Error| CompareError::Failed(format!("forebay {command}: {error}"));
        let log = config.with_file_name(format!("{command}.log"));
        let mut process = Command::new(std::env::current_exe().map_err(failed)?);
        process.arg(command).arg("--config").arg(config);
        // What it says where it listens.
        process.args(["--log-level", "info"]);
        // Out of reach of the terminal's Ctrl-C: this process says when it ends.
        process.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        process.stderr(File::create(&log).map_err(failed)?);
        // SAFETY: between fork and exec this makes one system call and nothing else.
        unsafe { process.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        Ok(Forebay { child: process.spawn().map_err(failed)?, command, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address behind these words of its log.
    pub fn address(&mut self, words: &str, stopper: &Stopper) -> Result<SocketAddr, CompareError> {
        self.wait(&format!("does not say {words:?}"), stopper, |log| {
            let (_, rest) = log.split_once(words)?;
            rest.split('/').next()?.parse().ok()
        })
    }

    /// Until `/readyz` of its admin side says so.
    pub fn wait_until_ready(&mut self, admin: SocketAddr, stopper: &Stopper) -> Result<(), CompareError> {
        self.wait("does not become ready", stopper, |_| get(admin, "/readyz").map(drop))
    }

    fn wait<T>(&mut self, what: &str, stopper: &Stopper, found: impl Fn(&str) -> Option<T>) -> Result<T, CompareError> {
        let start = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(found) = found(&log) {
                return Ok(found);
            }
            if stopper.is_stopped() {
                return Err(CompareError::Interrupted);
            }
            if start.elapsed() > START_DEADLINE {
                return Err(self.failed(what));
            }
            self.check()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// # Errors
    /// If it has ended, with the end of its log.
    pub fn check(&mut self) -> Result<(), CompareError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("ended by itself ({status})"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    fn failed(&self, what: &str) -> CompareError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        CompareError::Failed(format!("forebay {} {what}; the end of its log:\n{end}", self.command))
    }

    /// It drains and ends.
    pub fn stop(mut self) -> Result<(), CompareError> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failed(&format!("ended with {status}"))),
                Ok(None) if start.elapsed() < END_DEADLINE => std::thread::sleep(LOOK_EVERY),
                _ => return Err(self.failed("does not end")),
            }
        }
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What an admin side answers; none: nothing, or a refusal.
pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    let config =
        ureq::config::Config::builder().proxy(None).max_redirects(0).timeout_global(Some(ASK_DEADLINE)).build();
    let agent = ureq::Agent::new_with_config(config);
    let mut answer = agent.get(format!("http://{address}{path}")).call().ok()?;
    answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().ok()
}

/// The values of a series of an exposition, whatever its labels.
pub fn values<'a>(exposition: &'a str, series: &'a str) -> impl Iterator<Item = f64> + 'a {
    exposition.lines().filter_map(move |line| {
        let rest = line.strip_prefix(series)?;
        let rest = if rest.starts_with('{') { &rest[rest.rfind('}')? + 1..] } else { rest };
        rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_with_its_labels_and_without_its_neighbours() {
        let text =
            "# TYPE a gauge\na{topic=\"x {y} z\",partition=\"0\"} 3\na{topic=\"x\"} 4.5\na_total 9\na 1\nb{} NaN\n";
        assert_eq!(values(text, "a").collect::<Vec<_>>(), [3.0, 4.5, 1.0]);
        assert_eq!(values(text, "a_total").collect::<Vec<_>>(), [9.0]);
        assert_eq!(values(text, "c").count(), 0);
    }
}
