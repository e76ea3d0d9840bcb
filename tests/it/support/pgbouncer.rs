//! A pgbouncer of a test's own in front of a PostgreSQL: transactions are pooled, on a port of its own, as a user without rights.
//! Gone when its guard is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::{Client, Config, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::services::free_ports;
use super::{Database, wait_until};

/// Debian keeps it out of the PATH of ordinary users.
const PROGRAMS: [&str; 2] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];

pub struct Pgbouncer {
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Pgbouncer {
    /// In front of the server of `dsn`, with so many connections to each database. `more` are lines of its configuration.
    pub fn start(dsn: &str, pool_size: usize, more: &str) -> Pgbouncer {
        let directory = tempfile::Builder::new().prefix("forebay-pgbouncer").tempdir().expect("a directory");
        let [port, ..] = free_ports();
        let at = directory.path();
        let server = port_of(dsn);
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {0}/users\nadmin_users = forebay\npool_mode = transaction\n\
             default_pool_size = {pool_size}\nmax_client_conn = 200\nserver_login_retry = 1\nlogfile = {0}/log\n{more}\n",
            at.display()
        );
        fs::write(at.join("users"), "\"forebay\" \"\"\n").expect("its users");
        fs::write(at.join("ini"), ini).expect("its configuration");
        // Another user runs it where this one is root.
        fs::set_permissions(at, fs::Permissions::from_mode(0o777)).expect("its directory");
        let mut pgbouncer = Pgbouncer { directory, port, child: None };
        pgbouncer.up();
        pgbouncer
    }

    fn up(&mut self) {
        let program = PROGRAMS.iter().find(|path| Path::new(path).exists()).expect("pgbouncer: bin/install-deps test");
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
                command
            }
            false => Command::new(program),
        };
        let command = command.arg("-q").arg(self.directory.path().join("ini")).current_dir("/");
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting pgbouncer"));
        wait_until(Duration::from_secs(10), "pgbouncer to answer", || self.console().is_ok());
    }

    /// Stops it like a machine that goes away, and starts it again.
    pub fn restart(&mut self) {
        self.end();
        self.up();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
    }

    fn console(&self) -> Result<Client, postgres::Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("forebay").dbname("pgbouncer");
        config.connect_timeout(Duration::from_secs(5)).connect(NoTls)
    }

    /// A command on its console.
    #[track_caller]
    pub fn command(&self, command: &str) {
        let mut console = self.console().expect("pgbouncer's console");
        console.simple_query(command).unwrap_or_else(|e| panic!("{command}: {e:?}"));
    }

    /// The way through it to where `dsn` leads.
    pub fn dsn(&self, dsn: &str) -> String {
        let others: Vec<&str> = dsn.split_whitespace().filter(|word| !word.starts_with("port=")).collect();
        format!("{} port={}", others.join(" "), self.port)
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn port_of(dsn: &str) -> u16 {
    dsn.split_whitespace().find_map(|word| word.strip_prefix("port=")).expect("a port").parse().expect("a number")
}

/// Lets the role bring these time-outs along into this database, in milliseconds: for locks, statements, idle transactions.
pub fn bound_the_role(database: &Database, timeouts: [u64; 3]) {
    let names = ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"];
    for (setting, milliseconds) in names.iter().zip(timeouts) {
        database
            .execute(&format!("ALTER ROLE forebay IN DATABASE \"{}\" SET {setting} = {milliseconds}", database.name()));
    }
}
