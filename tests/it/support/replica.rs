//! A real streaming replica of a test's own PostgreSQL, asynchronous, which can be promoted. Stopped when its guard is dropped; its
//! files are below those of the services.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::services::free_ports;
use super::{OwnServices, wait_until};

pub struct Replica {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Replica {
    /// Of the server at `port` of this machine, under this application name.
    pub fn of(own: &OwnServices, port: u16, name: &str) -> Replica {
        let home = own.directory().join(name);
        let [own_port, ..] = free_ports();
        std::fs::create_dir(&home).expect("a directory");
        if rustix::process::geteuid().is_root() {
            let done = Command::new("chown").arg("postgres:").arg(&home).status().expect("chown");
            assert!(done.success(), "chown: {done}");
        }
        let replica = Replica { bin: server_programs(), data: home.join("data"), port: own_port };
        let source = format!("host=127.0.0.1 port={port} user=forebay application_name={name}");
        replica.run("pg_basebackup", &["-d", &source, "-R", "-X", "stream", "-c", "fast", "-D", &replica.data()]);
        let (log, options) = (home.join("log").display().to_string(), format!("-p {own_port}"));
        replica.run("pg_ctl", &["-D", &replica.data(), "-l", &log, "-o", &options, "-w", "-s", "start"]);
        replica
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The connection string of the same database and role as on the primary.
    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=forebay dbname=forebay", self.port)
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.dsn(), NoTls).expect("the replica")
    }

    /// Runs statements that return nothing, on a connection of their own.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.connect().batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Makes it a primary and waits until it takes writes.
    pub fn promote(&self) {
        let mut client = self.connect();
        client.simple_query("SELECT pg_promote(false)").expect("a promotion");
        wait_until(Duration::from_secs(60), "the replica to be a primary", || {
            !client.query_one("SELECT pg_is_in_recovery()", &[]).expect("an answer").get::<_, bool>(0)
        });
    }

    /// Lets go of its connection to the primary, which may be cut without its knowing, and connects anew.
    pub fn reconnect(&self) {
        // None where it has noticed by itself.
        let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_wal_receiver";
        self.connect().query(terminate, &[]).expect("an end of its receiver");
    }

    fn data(&self) -> String {
        self.data.display().to_string()
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) {
        if let Err(error) = self.try_run(program, arguments) {
            panic!("{error}");
        }
    }

    fn try_run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let program = self.bin.join(program);
        let mut command = match rustix::process::geteuid().is_root() {
            // PostgreSQL refuses to be root.
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(&program);
                command
            }
            false => Command::new(&program),
        };
        let command = command.args(arguments).current_dir("/").stdout(std::process::Stdio::null());
        // Into a file: a server that it starts would hold a pipe open.
        let errors = tempfile::tempfile().map_err(|e| e.to_string())?;
        command.stderr(errors.try_clone().map_err(|e| e.to_string())?);
        let status = command.status().map_err(|e| format!("{}: {e}", program.display()))?;
        if status.success() {
            return Ok(());
        }
        use std::io::{Read, Seek};
        let (mut errors, mut text) = (errors, String::new());
        let _ = errors.rewind().and_then(|()| errors.read_to_string(&mut text));
        Err(format!("{} {arguments:?}: {status}: {text}", program.display()))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Err(error) = self.try_run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-s", "stop"]) {
            eprintln!("a replica stays behind: {error}");
        }
    }
}

/// Where the server's programs are, as `bin/services` finds them: its newest version.
fn server_programs() -> PathBuf {
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/lib.sh");
    let line = format!("source {library}; pg_bin");
    let output = Command::new("bash").args(["-c", &line]).output().expect("bash runs");
    assert!(output.status.success(), "PostgreSQL's server programs: bin/install-deps test");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
