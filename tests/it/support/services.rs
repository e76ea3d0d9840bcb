//! Services of a test's own, for tests that stop and kill them: on other ports and in another directory than the shared
//! ones, started by the same script, and gone when their guard is dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::{Server, unique_name};

/// What tells `bin/services` the ports, in the order of [`OwnServices`]'.
const PORTS: [&str; 4] = [
    "FOREBAY_SERVICES_PORT_KAFKA",
    "FOREBAY_SERVICES_PORT_CONTROLLER",
    "FOREBAY_SERVICES_PORT_PG_A",
    "FOREBAY_SERVICES_PORT_PG_B",
];

/// One of the things that `bin/services` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Kafka,
    Pg(Server),
}

impl Service {
    /// As `bin/services` calls it.
    fn word(self) -> &'static str {
        match self {
            Service::Kafka => "kafka",
            Service::Pg(Server::A) => "pg_a",
            Service::Pg(Server::B) => "pg_b",
        }
    }
}

/// How to stop one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Orderly: PostgreSQL's fast shutdown, the broker's own on SIGTERM.
    Fast,
    /// PostgreSQL without a checkpoint, the broker by SIGKILL; both recover at the next start.
    Immediate,
}

/// The services that a test started for itself. Those that it did not ask for do not run.
pub struct OwnServices {
    directory: PathBuf,
    /// Kafka, its controller, PostgreSQL A and B.
    ports: [u16; 4],
    /// A line of the broker's configuration that wins over those of `deploy/kafka`.
    kafka: &'static str,
}

impl OwnServices {
    /// Starts them and waits until they answer. A PostgreSQL takes about a second, a broker about five.
    pub fn start(services: &[Service]) -> OwnServices {
        OwnServices::start_with(services, "")
    }

    /// The same with another property of the broker.
    pub fn start_with(services: &[Service], kafka: &'static str) -> OwnServices {
        // Below the system's directory, because PostgreSQL's own user has to get there. `bin/test` names one of its own, in which
        // it finds what a run that was killed left behind.
        let parent = std::env::var_os("FOREBAY_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let directory = parent.join(unique_name("forebay_services"));
        let own = OwnServices { directory, ports: free_ports(), kafka };
        own.run("up", services, &[]);
        own
    }

    /// The address of the broker, for `bootstrap.servers`.
    pub fn kafka_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// The connection string of a PostgreSQL: role and database `forebay`, as on the shared ones.
    pub fn pg_dsn(&self, server: Server) -> String {
        let port = match server {
            Server::A => self.ports[2],
            Server::B => self.ports[3],
        };
        format!("host=127.0.0.1 port={port} user=forebay dbname=forebay")
    }

    /// Where their data and their logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops one.
    pub fn stop(&self, service: Service, how: Stop) {
        self.run("down", &[service], mode(how));
    }

    /// Ends a PostgreSQL as when its machine dies: every process at once, and nobody says goodbye. It is not started again.
    pub fn die(&self, server: Server) {
        let file = self.directory.join(Service::Pg(server).word()).join("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let postmaster: i32 = text.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
        let children = std::fs::read_dir("/proc").expect("the processes").flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // proc(5): the name is in brackets and may hold spaces; behind it come the state and the parent.
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<i32>().ok()?;
            (parent == postmaster).then_some(pid)
        });
        // The first one first: it would start others anew.
        for pid in std::iter::once(postmaster).chain(children.collect::<Vec<_>>()) {
            let _ = kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL);
        }
    }

    /// Starts one again and waits until it answers.
    pub fn up(&self, service: Service) {
        self.run("up", &[service], &[]);
    }

    /// Stops one, starts it again, and waits until it answers.
    pub fn restart(&self, service: Service, how: Stop) {
        self.run("restart", &[service], mode(how));
    }

    /// The broker neither answers nor closes a connection until it is thawed.
    pub fn freeze(&self, service: Service) {
        self.signal(service, Signal::STOP);
    }

    pub fn thaw(&self, service: Service) {
        self.signal(service, Signal::CONT);
    }

    fn signal(&self, service: Service, signal: Signal) {
        assert_eq!(service, Service::Kafka, "a PostgreSQL is many processes");
        let pid = std::fs::read_to_string(self.directory.join("kafka/pid")).expect("the broker's process id");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a signal to the broker");
    }

    fn run(&self, command: &str, services: &[Service], more: &[&str]) {
        if let Err(e) = self.try_run(command, services, more) {
            panic!("{e}");
        }
    }

    /// `bin/services` on their directory, as from a shell that knows nothing of their ports.
    fn script(&self, command: &str) -> Command {
        let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bin/services"));
        script.arg(command).env("FOREBAY_SERVICES_DIR", &self.directory);
        for name in PORTS {
            script.env_remove(name);
        }
        script
    }

    fn try_run(&self, command: &str, services: &[Service], more: &[&str]) -> Result<(), String> {
        let output = self
            .script(command)
            .args(services.iter().map(|service| service.word()))
            .args(more)
            .env("FOREBAY_SERVICES_KAFKA_PROPERTIES", self.kafka)
            .envs(PORTS.iter().zip(self.ports).map(|(name, port)| (name, port.to_string())))
            .output()
            .map_err(|e| format!("bin/services: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("bin/services {command} {services:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for OwnServices {
    fn drop(&mut self) {
        if let Err(e) = self.try_run("clean", &[], &[]) {
            eprintln!("{} stays behind: {e}", self.directory.display());
        }
    }
}

fn mode(how: Stop) -> &'static [&'static str] {
    match how {
        Stop::Fast => &["-m", "fast"],
        Stop::Immediate => &["-m", "immediate"],
    }
}

/// Ports that nobody listens on now. They are all held until the last is chosen, so that they differ.
pub fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

#[test]
fn own_services_start_restart_and_go() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let connect = || postgres::Client::connect(&own.pg_dsn(Server::A), postgres::NoTls);
    let mut before = connect().unwrap();
    before.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").unwrap();
    own.restart(Service::Pg(Server::A), Stop::Immediate);
    assert!(before.simple_query("SELECT 1").is_err(), "the connection outlived the restart");
    let rows = connect().unwrap().query("SELECT n FROM kept", &[]).unwrap();
    assert_eq!(rows.len(), 1, "a committed row outlives it");
    own.stop(Service::Pg(Server::A), Stop::Fast);
    assert!(connect().is_err(), "it answers after its stop");
    let directory = own.directory().to_owned();
    drop(own);
    assert!(!directory.exists());
}

/// At the usual ports those of another checkout may run: tests would then use its databases.
#[test]
fn what_runs_is_found_at_its_own_ports_by_those_who_do_not_know_them() {
    let own = OwnServices::start(&[Service::Kafka, Service::Pg(Server::A)]);
    let said = own.script("env").output().expect("bin/services");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let expected = format!(
        "export FOREBAY_TEST_KAFKA={}\nexport FOREBAY_TEST_PG_A={}\nexport FOREBAY_TEST_PG_B=''\n",
        own.kafka_bootstrap(),
        own.pg_dsn(Server::A).replace(' ', "\\ ")
    );
    assert_eq!(String::from_utf8_lossy(&said.stdout), expected);

    for (name, port) in PORTS.iter().zip(own.ports).take(3) {
        let other = (port - 1).to_string();
        let refused = own.script("up").arg("pg_a").env(name, other).output().expect("bin/services");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(&format!("runs at port {port}, and {name}=")), "{said}");
    }
}
