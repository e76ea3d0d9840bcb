//! A throw-away PostgreSQL: made, started, stopped and removed here. It answers on a Unix socket in a directory that only its
//! own user (and root) can enter, runs with PostgreSQL's default durability, and is gone when its guard is dropped, when the
//! process is killed, too (the directory stays behind then; the next demonstration removes it).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::console;
use crate::demo::DemoError;
use crate::demo::binaries::{self, User};
use crate::demo::directory::Directory;

const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// With a checkpoint.
const SHUT_DOWN_DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What of its log an error shows.
const LOG_LINES: usize = 15;

pub const ROLE: &str = "forebay";
pub const DATABASE: &str = "demo";

/// See the module's text.
pub struct Server {
    programs: PathBuf,
    user: Option<User>,
    directory: Directory,
    child: Option<Child>,
    keep: bool,
}

impl Server {
    /// Creates a cluster, starts it, waits until it answers, and creates the database. With `keep` the end of this process is
    /// not its end.
    pub fn start(keep: bool) -> Result<Server, DemoError> {
        let programs = binaries::directory()?;
        let user = binaries::user()?;
        let directory = Directory::create(user.as_ref(), keep)?;
        // From here on its drop cleans up.
        let mut server = Server { programs, user, directory, child: None, keep: false };
        server.initialise()?;
        server.spawn(keep)?;
        let mut client = server.wait_for_answer()?;
        let create = format!("CREATE DATABASE {DATABASE}");
        client.batch_execute(&create).map_err(|e| DemoError::unavailable("the demonstration's database", e))?;
        Ok(server)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The connection string of the demonstration's database.
    pub fn dsn(&self) -> String {
        self.dsn_of(DATABASE)
    }

    pub fn connect(&self) -> Result<Client, DemoError> {
        Client::connect(&self.dsn(), NoTls).map_err(|e| DemoError::unavailable("PostgreSQL", e))
    }

    /// An orderly stop, with a checkpoint, as before a restart: sessions end at once, and connections are refused from then on.
    pub fn shut_down(&mut self) -> Result<(), DemoError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        match Server::end(&mut child, Signal::INT, SHUT_DOWN_DEADLINE) {
            true => Ok(()),
            false => Err(DemoError::Unavailable("PostgreSQL does not stop; it was killed".to_owned())),
        }
    }

    /// Starts it again, with what it had, and waits until it answers. To be called in a thread that lives as long as it is to run.
    pub fn start_again(&mut self) -> Result<(), DemoError> {
        if self.child.is_none() {
            self.spawn(false)?;
        }
        self.wait_for_answer().map(drop)
    }

    /// Lets it live on. Returns how to stop it and to remove what it leaves.
    pub fn keep(&mut self) -> String {
        self.keep = true;
        let (pg_ctl, directory) = (self.programs.join("pg_ctl"), self.directory().display());
        let as_user = self.user.as_ref().map(|user| format!("runuser -u {} -- ", user.name)).unwrap_or_default();
        format!("{as_user}{} -D {directory}/data stop -m fast && rm -r {directory}", pg_ctl.display())
    }

    fn dsn_of(&self, database: &str) -> String {
        format!("host={} user={ROLE} dbname={database}", self.directory().display())
    }

    /// A program of PostgreSQL, as its user, out of reach of the terminal's Ctrl-C.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.directory()).env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    fn initialise(&self) -> Result<(), DemoError> {
        let mut command = self.command("initdb");
        // What is not synchronised here is an empty cluster; the server itself synchronises everything it acknowledges.
        command.args(["-D", "data", "-U", ROLE, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let output = command.output().map_err(|e| DemoError::unavailable("initdb", e))?;
        if output.status.success() {
            return Ok(());
        }
        Err(DemoError::Unavailable(format!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end())))
    }

    fn spawn(&mut self, keep: bool) -> Result<(), DemoError> {
        let log = File::create(self.log()).map_err(|e| DemoError::unavailable("PostgreSQL's log", e))?;
        let errors = log.try_clone().map_err(|e| DemoError::unavailable("PostgreSQL's log", e))?;
        let mut command = self.command("postgres");
        command.args(["-D", "data", "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-k"]);
        command.arg(self.directory()).stdout(log).stderr(errors);
        if !keep {
            // SAFETY: between fork and exec this makes one system call and nothing else.
            unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::QUIT))?)) };
        }
        self.child = Some(command.spawn().map_err(|e| DemoError::unavailable("postgres", e))?);
        Ok(())
    }

    fn wait_for_answer(&mut self) -> Result<Client, DemoError> {
        let (start, dsn) = (Instant::now(), self.dsn_of("postgres"));
        loop {
            let error = match Client::connect(&dsn, NoTls) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || start.elapsed() > ANSWER_DEADLINE {
                let what = format!("PostgreSQL does not start; the end of its log:\n{}", self.end_of_log());
                return Err(DemoError::unavailable(&what, error));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn log(&self) -> PathBuf {
        self.directory().join("log")
    }

    fn end_of_log(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Whether it ended by itself.
    fn end(child: &mut Child, signal: Signal, deadline: Duration) -> bool {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // An error means that it has ended already; the loop sees it.
        let _ = pid.map(|pid| kill_process(pid, signal));
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Some(child) = &mut self.child {
            // Without a checkpoint: nobody will read this data again.
            Server::end(child, Signal::QUIT, STOP_DEADLINE);
        }
        if let Err(error) = fs::remove_dir_all(self.directory()) {
            console::err(format_args!("{} stays behind: {error}", self.directory().display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_in_order_it_comes_again_with_what_it_had() {
        let mut server = Server::start(false).unwrap();
        server.connect().unwrap().batch_execute("CREATE UNLOGGED TABLE t AS SELECT 7 AS x").unwrap();
        server.shut_down().unwrap();
        assert!(server.connect().is_err());
        server.start_again().unwrap();
        let row = server.connect().unwrap().query_one("SELECT x FROM t", &[]).unwrap();
        assert_eq!(row.get::<_, i32>(0), 7);
    }

    #[test]
    fn it_answers_durably_and_goes_with_its_guard() {
        let server = Server::start(false).unwrap();
        let mut client = server.connect().unwrap();
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let row = client.query_one("SELECT current_setting($1)", &[&setting]).unwrap();
            assert_eq!(row.get::<_, &str>(0), "on", "{setting}");
        }
        let (directory, dsn) = (server.directory().to_owned(), server.dsn());
        drop(server);
        assert!(!directory.exists());
        assert!(Client::connect(&dsn, NoTls).is_err(), "it answers after its end");
    }
}
