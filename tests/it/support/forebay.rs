//! The program itself, started as an operator starts it: a configuration file, a process, its signals, its exit status and
//! its log. A test that fails prints the end of every process's log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{kafka_bootstrap, unique_name, wait_until};

/// Anything that a process is waited for comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What of each log is shown when a test fails.
const TAIL_LINES: usize = 40;

/// A configuration in a directory of its own, and a consumer group of its own.
pub struct Rig {
    directory: TempDir,
    group: String,
    bootstrap: String,
    started: AtomicU32,
}

impl Rig {
    /// On the shared broker. `toml` is the configuration without its `[kafka]` part.
    pub fn new(toml: &str) -> Rig {
        Rig::at(&kafka_bootstrap(), &[], toml)
    }

    /// On any broker, with more of librdkafka's properties.
    pub fn at(bootstrap: &str, kafka: &[(&str, &str)], toml: &str) -> Rig {
        let rig = Rig::empty(bootstrap);
        rig.configure(kafka, toml);
        rig
    }

    /// Without a configuration yet.
    pub fn empty(bootstrap: &str) -> Rig {
        Rig {
            directory: tempfile::Builder::new().prefix("forebay-test").tempdir().expect("a directory"),
            group: unique_name("group"),
            bootstrap: bootstrap.to_owned(),
            started: AtomicU32::new(0),
        }
    }

    /// Writes the configuration anew; processes that run keep theirs.
    pub fn configure(&self, kafka: &[(&str, &str)], toml: &str) {
        self.write("forebay.toml", &self.text(kafka, toml));
    }

    /// Writes another configuration of the same group, for [`Rig::start_with`].
    pub fn configure_as(&self, file: &str, kafka: &[(&str, &str)], toml: &str) {
        self.write(file, &self.text(kafka, toml));
    }

    fn text(&self, kafka: &[(&str, &str)], toml: &str) -> String {
        let own = [("bootstrap.servers", self.bootstrap.as_str()), ("group.id", self.group.as_str())];
        let own = own.iter().filter(|(name, _)| !kafka.iter().any(|(other, _)| name == other));
        let lines = own.chain(kafka).map(|(name, value)| format!("{name:?} = {value:?}\n"));
        // Processes of many tests run at a time.
        let admin = if toml.contains("[admin]") { "" } else { "[admin]\nlisten = \"off\"\n" };
        format!("[kafka]\n{}\n{admin}{toml}", lines.collect::<String>())
    }

    /// Writes a file beside the configuration.
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join(file), text).expect("writing a configuration");
    }

    /// Of a file beside the configuration.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    /// Starts `forebay run`.
    pub fn start(&self) -> Forebay {
        self.start_with("forebay.toml", &[])
    }

    /// Starts `forebay run` with another configuration file and more arguments.
    pub fn start_with(&self, file: &str, more: &[&str]) -> Forebay {
        self.start_command("run", file, more)
    }

    /// Starts any command that goes on.
    pub fn start_command(&self, command: &str, file: &str, more: &[&str]) -> Forebay {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.directory.path().join(format!("{number}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .arg(command)
            .args(["--config", file])
            .args(more)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("starting forebay");
        Forebay { child, log, number, code: None }
    }

    /// Runs a command of the program to its end, which is a success: what it wrote to stdout.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> String {
        self.command_with(arguments, 0)
    }

    /// Likewise, with another exit status.
    #[track_caller]
    pub fn command_with(&self, arguments: &[&str], code: i32) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .expect("starting forebay");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs `forebay run --until-end` to its end.
    #[track_caller]
    pub fn until_end(&self) -> Ended {
        self.start_with("forebay.toml", &["--until-end"]).ended()
    }

    /// What the group has committed for a partition.
    pub fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", &self.group)
            .create()
            .expect("a consumer");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition(topic, partition);
        let answer = consumer.committed_offsets(list, Duration::from_secs(30)).expect("the group's offsets");
        match answer.elements()[0].offset() {
            rdkafka::Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

/// Of a test that fails: where the logs are, and their ends.
impl Drop for Rig {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.directory.disable_cleanup(true);
        eprintln!("the configuration and the logs stay in {}", self.directory.path().display());
        for number in 0..self.started.load(Ordering::Relaxed) {
            let log = read_log(&self.directory.path().join(format!("{number}.log")));
            eprintln!("--- process {number}, the end of its log:\n{}", tail(&log));
        }
    }
}

/// A running `forebay`. Dropping it kills it.
pub struct Forebay {
    child: Child,
    log: PathBuf,
    number: u32,
    code: Option<i32>,
}

/// How a process ended: its exit status, or -1 where a signal ended it.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub log: String,
}

impl Ended {
    /// Insists on an exit status and returns the log.
    #[track_caller]
    pub fn expect(self, code: i32) -> String {
        assert_eq!(self.code, code, "exit status");
        self.log
    }

    /// Insists on an exit status and on parts of the log.
    #[track_caller]
    pub fn expect_log(self, code: i32, parts: &[&str]) {
        let log = self.expect(code);
        for part in parts {
            assert!(log.contains(part), "the log lacks {part:?}");
        }
    }
}

impl Forebay {
    /// What it logged so far.
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Waits until a line of the log holds all of these. The process may end meanwhile.
    #[track_caller]
    pub fn wait_for_log(&self, parts: &[&str]) {
        wait_until(PATIENCE, &format!("a line of the log with {parts:?}"), || {
            self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        if self.code.is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).expect("a signal to a process that was not waited for");
        }
    }

    /// How much CPU it has used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process that runs");
        // proc(5): the name is in brackets and may hold spaces; user and system time are fields 14 and 15, in hundredths.
        let behind_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks =
            behind_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// The name of each thread, and the CPUs that it may use, as the kernel lists them.
    pub fn threads(&self) -> Vec<(String, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process that runs");
        // One may end meanwhile.
        let statuses = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        let field = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        statuses.filter_map(|status| Some((field(&status, "Name")?, field(&status, "Cpus_allowed_list")?))).collect()
    }

    /// Whether it runs still (a stopped one does).
    pub fn is_running(&mut self) -> bool {
        if self.code.is_none()
            && let Some(status) = self.child.try_wait().expect("its status")
        {
            self.code = Some(status.code().unwrap_or(-1));
        }
        self.code.is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let start = Instant::now();
        while self.is_running() {
            assert!(start.elapsed() < PATIENCE, "process {} does not end", self.number);
            thread::sleep(Duration::from_millis(10));
        }
        Ended { code: self.code.unwrap_or(-1), log: self.log() }
    }

    /// Asks it to end and waits.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Ended {
        self.end();
        Ended { code: self.code.unwrap_or(-1), log: self.log() }
    }

    fn end(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.code = Some(status.code().unwrap_or(-1));
            }
        }
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        self.end();
    }
}

/// It logs JSON where stderr is no terminal; quotes are shown as they were meant.
fn read_log(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).replace("\\\"", "\"")
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
