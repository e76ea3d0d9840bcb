//! A connection to a shard: what the DSN says, plus everything that rust-postgres leaves unbounded. Never decides what to
//! do about a failure; it says which class it is.
//!
//! Verifying without `sslrootcert` trusts the system's authorities, as `sslrootcert=system` does.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use postgres::config::SslMode;
use postgres::{Client, SimpleQueryMessage};
use postgres_openssl::MakeTlsConnector;
use r2d2_postgres::PostgresConnectionManager;
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::dsn::{self, Tls};
use crate::config::{self, Pooler};
use crate::cpus;
use crate::sink::bounds::{self, Bounded};
use crate::sink::cancel::Cancel;
use crate::sink::watch::{Mark, Watch};
use crate::sink::{Failure, Reason, sqlstate};

/// A dead peer is noticed after idle + interval × retries = 25 s without an answer, and after `USER_TIMEOUT` while data is
/// on its way to it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// A transaction of ours that idles was left behind by a process that hangs (or was stopped): it must not hold its locks
/// for ever. Added to the statement time-out, which a `Handler` may use up between two statements.
const IDLE_IN_TRANSACTION_EXTRA: Duration = Duration::from_secs(30);
/// Beyond what PostgreSQL itself bounds, nothing may come over a connection that somebody waits for so much longer; then it is
/// cut.
const SILENCE_EXTRA: Duration = Duration::from_secs(10);
/// `MATERIALIZED` in the fence statements came with PostgreSQL 12.
const SERVER_VERSION_MIN: u32 = 120_000;
/// PostgreSQL cuts names at 63 bytes: `forebay/` + group + `/` + a thread's name (≤ 15).
const GROUP_BYTES_MAX: usize = 39;
const _: () = assert!("forebay/".len() + GROUP_BYTES_MAX + "/".len() + 15 <= 63, "PostgreSQL's NAMEDATALEN - 1");

/// A connection to a shard, and who watches it.
pub struct Opened {
    pub client: Client,
    /// None over a Unix-domain socket.
    pub watch: Option<Watch>,
    pub cancel: Arc<Cancel>,
    /// Whether the server itself is at the other end; where nobody can tell, it is not.
    pub direct: bool,
    /// The server's process at the other end; none behind a pooler.
    pub pid: Option<i32>,
}

const NO_ANSWER: &str = "no answer to the connection attempt";

/// Makes the connections of one thread to one shard.
pub struct Connector {
    config: postgres::Config,
    tls: Option<MakeTlsConnector>,
    shard: config::Shard,
    user_timeout: Duration,
    /// Until the session has said what bounds it.
    silence_max: Duration,
    /// An attempt that took too long and still runs: rust-postgres bounds the TCP connect only, not what follows.
    pending: Option<Attempt>,
}

/// A connection attempt in a thread of its own, which ends with it.
struct Attempt {
    mark: Mark,
    /// A host said nothing for too long, and was given up.
    cut: bool,
    result: Receiver<Result<Client, postgres::Error>>,
}

impl Connector {
    /// # Errors
    /// [`Failure::Shard`] for a DSN, certificate or key that cannot be read.
    pub fn new(shard: &config::Shard, group: &str, thread: &str) -> Result<Connector, Failure> {
        let fault = |what: String| Failure::Shard(Reason::new(format!("shard {:?}: dsn: {what}", shard.name)));
        let dsn = dsn::parse(&shard.dsn.0).map_err(|expected| fault(format!("expected {expected}")))?;
        let mut config = dsn.config;
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls_connector(&dsn.tls).map_err(fault)?),
        };
        bound(&mut config, shard);
        if shard.pooler == Pooler::None {
            let options = session_options(shard, config.get_options());
            config.options(&options);
        }
        config.application_name(&application_name(group, thread));
        config.notice_callback(|notice| {
            let sqlstate = notice.code().code();
            tracing::debug!(severity = notice.severity(), sqlstate, "PostgreSQL: {}", sqlstate::notice(&notice));
        });
        let user_timeout = dsn.user_timeout.unwrap_or(USER_TIMEOUT);
        let silence_max = idle_in_transaction_timeout(shard) + SILENCE_EXTRA;
        Ok(Connector { config, tls, shard: shard.clone(), user_timeout, silence_max, pending: None })
    }

    /// As [`open`](Connector::open), and makes sure that the server takes writes.
    pub fn connect(&mut self) -> Result<Opened, Failure> {
        let mut opened = self.open()?;
        match accepts_writes(&mut opened.client) {
            Ok(()) => Ok(opened),
            Err(failure) => {
                opened.discard();
                Err(failure)
            }
        }
    }

    fn hosts(&self) -> usize {
        self.config.get_hosts().len().max(self.config.get_hostaddrs().len()).max(1)
    }

    /// The longest that [`open`](Connector::open) takes.
    pub fn connect_max(&self) -> Duration {
        self.shard.connect_timeout * 2 * self.hosts() as u32
    }

    /// What r2d2_postgres calls a manager of such connections.
    pub fn manager(&self) -> Result<PostgresConnectionManager<MakeTlsConnector>, Failure> {
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            // Not used: the mode is `disable`. A pool wants one type for both.
            None => match SslConnector::builder(SslMethod::tls_client()) {
                Ok(builder) => MakeTlsConnector::new(builder.build()),
                Err(error) => return Err(Failure::Shard(Reason::new(format!("OpenSSL: {error}")))),
            },
        };
        Ok(PostgresConnectionManager::new(self.config.clone(), tls))
    }

    /// Connects within twice `connect_timeout` for each host of the DSN and makes sure that the session is bounded.
    /// [`Failure::Outage`] or [`Failure::Shard`], nothing else.
    pub fn open(&mut self) -> Result<Opened, Failure> {
        let mut opened = self.client()?;
        match bounds::check(&mut opened.client, &self.shard, opened.watch.as_ref().and_then(Watch::local_address)) {
            Ok(Bounded { direct, wait_max, pid }) => {
                opened.watch.iter().for_each(|watch| watch.allow(wait_max + SILENCE_EXTRA));
                Ok(Opened { direct, pid, ..opened })
            }
            Err(failure) => {
                opened.discard();
                Err(failure)
            }
        }
    }

    fn client(&mut self) -> Result<Opened, Failure> {
        let watched = |mark: Mark, client: Client| {
            let watch = |socket| Watch::new(socket, self.user_timeout, self.silence_max);
            let (watch, cancel) = (mark.find().map(watch), Cancel::new(&client, self.tls.clone(), mark));
            Opened { client, watch, cancel: Arc::new(cancel), direct: false, pid: None }
        };
        let mut attempt = match self.pending.take() {
            None => self.begin(),
            Some(pending) => match pending.result.try_recv() {
                Ok(Ok(client)) => return Ok(watched(pending.mark, client)),
                Err(TryRecvError::Empty) => pending,
                // It was given up.
                Ok(Err(_)) | Err(TryRecvError::Disconnected) => self.begin(),
            },
        };
        for _ in 0..self.hosts() {
            match attempt.result.recv_timeout(self.shard.connect_timeout * 2) {
                Ok(Ok(client)) => return Ok(watched(attempt.mark, client)),
                Ok(Err(_)) if attempt.cut => return Err(outage(NO_ANSWER)),
                Ok(Err(error)) => return Err(no_descriptors().unwrap_or_else(|| sqlstate::connect_failure(&error))),
                // A host that took the connection and says nothing: the attempt goes on with the next one.
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(socket) = attempt.mark.find() {
                        attempt.cut = true;
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let unexpected = || outage("the connection attempt ended unexpectedly");
                    return Err(no_descriptors().unwrap_or_else(unexpected));
                }
            }
        }
        // Waited for again next time instead of piling up attempts.
        self.pending = Some(attempt);
        Err(outage(NO_ANSWER))
    }

    fn begin(&self) -> Attempt {
        let (sender, result) = sync_channel(1);
        let mark = Mark::new(self.user_timeout);
        let (mut config, tls) = (self.config.clone(), self.tls.clone());
        config.tcp_user_timeout(mark.user_timeout());
        let attempt = move || {
            let result = match tls {
                Some(tls) => config.connect(tls),
                None => config.connect(postgres::NoTls),
            };
            // Nobody waits any more: the client is dropped here.
            let _ = sender.send(result);
        };
        if let Err(error) = cpus::spawn("pg-connect", attempt) {
            tracing::warn!("cannot start a thread to connect: {error}");
        }
        Attempt { mark, cut: false, result }
    }
}

impl Opened {
    /// Lets go of the connection without waiting for its server: dropping a `Client` writes to the socket and waits.
    pub fn discard(self) {
        let Opened { client, watch, .. } = self;
        if client.is_closed() {
            return;
        }
        // Not for ever: it is watched until the server has said goodbye.
        if let Some(watch) = &watch {
            watch.begin();
        }
        // Where no thread can be had the closure, and the client with it, is dropped here.
        let _ = cpus::spawn("pg-close", move || {
            drop(client);
            drop(watch);
        });
    }
}

fn outage(text: &str) -> Failure {
    Failure::Outage(Reason::new(text))
}

/// Whether this process can open nothing more: then rust-postgres panics, or says that a connection was closed, and not why.
fn no_descriptors() -> Option<Failure> {
    let error = std::io::stderr().as_fd().try_clone_to_owned().err()?;
    let used_up = [Errno::MFILE, Errno::NFILE].iter().any(|errno| Some(errno.raw_os_error()) == error.raw_os_error());
    used_up.then(|| outage(&format!("no file descriptor left to connect with: {error}")))
}

/// `forebay/<group>/<thread>`, in the characters that PostgreSQL shows as they are. A group's name that had to be
/// changed carries its hash, so that two groups never look like one.
pub fn application_name(group: &str, thread: &str) -> String {
    format!("{}{thread}", application_prefix(group))
}

/// What the application name of every connection of a group begins with.
pub fn application_prefix(group: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != '~';
    if group.len() <= GROUP_BYTES_MAX && group.chars().all(plain) {
        return format!("forebay/{group}/");
    }
    let kept: String = group.chars().map(|c| if plain(c) { c } else { '_' }).take(GROUP_BYTES_MAX - 17).collect();
    format!("forebay/{kept}~{:016x}/", xxh3_64(group.as_bytes()))
}

/// How long a transaction of ours may idle.
pub fn idle_in_transaction_timeout(shard: &config::Shard) -> Duration {
    shard.statement_timeout + IDLE_IN_TRANSACTION_EXTRA
}

/// Settings of the session, all in one startup parameter; what the DSN's own `options` say comes last and wins, but for the
/// mark, by which is seen that any of them arrived.
fn session_options(shard: &config::Shard, own: Option<&str>) -> String {
    let mut options = format!(
        "-c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={} \
         -c default_transaction_isolation=read\\ committed",
        shard.statement_timeout.as_millis(),
        shard.lock_timeout.as_millis(),
        idle_in_transaction_timeout(shard).as_millis(),
    );
    if let Some(own) = own {
        options.push(' ');
        options.push_str(own);
    }
    options.push_str(&format!(" -c {}=on", bounds::MARK));
    options
}

/// The TCP user time-out is each attempt's own.
fn bound(config: &mut postgres::Config, shard: &config::Shard) {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(shard.connect_timeout);
    }
    // rust-postgres answers two hours where the DSN says nothing.
    if config.get_keepalives_idle() >= Duration::from_secs(2 * 60 * 60) {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
}

/// A standby or a read-only server is an outage: a primary will come back. Another isolation level would break the fence
/// protocol, whose statements need a fresh snapshot each.
fn accepts_writes(client: &mut Client) -> Result<(), Failure> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), \
               current_setting('transaction_isolation'), current_setting('server_version_num')";
    let answer = client.simple_query(sql).map_err(|error| sqlstate::connect_failure(&error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(row) = row else { return Err(outage("the server answered its settings with nothing")) };
    let value = |column: usize| row.get(column).unwrap_or_default();
    if value(0) == "t" || value(1) == "on" {
        return Err(outage("read-only: waiting for a primary"));
    }
    if value(2) != "read committed" {
        let text = format!("transactions here are {:?}; forebay's protocol needs \"read committed\"", value(2));
        return Err(Failure::Shard(Reason::new(text)));
    }
    let version: u32 = value(3).parse().unwrap_or_default();
    if version < SERVER_VERSION_MIN {
        let text = format!("PostgreSQL {}: forebay needs 12 or newer", version / 10_000);
        return Err(Failure::Shard(Reason::new(text)));
    }
    Ok(())
}

fn tls_connector(tls: &Tls) -> Result<MakeTlsConnector, String> {
    let openssl = |error: openssl::error::ErrorStack| format!("OpenSSL: {error}");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(openssl)?;
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        builder.set_certificate_chain_file(certificate).map_err(|e| format!("sslcert {certificate:?}: {e}"))?;
        builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| format!("sslkey {key:?}: {e}"))?;
    }
    match &tls.root {
        _ if !tls.verify_ca => {
            builder.set_verify(SslVerifyMode::NONE);
            // The system's authorities, half a megabyte for each connection, are of no use then.
            builder.set_cert_store(X509StoreBuilder::new().map_err(openssl)?.build());
        }
        Some(root) if root != "system" => {
            // A store of its own: `set_ca_file` would trust the system's authorities, too.
            let pem = std::fs::read(root).map_err(|e| format!("sslrootcert {root:?}: {e}"))?;
            let authorities = X509::stack_from_pem(&pem).map_err(|e| format!("sslrootcert {root:?}: {e}"))?;
            if authorities.is_empty() {
                return Err(format!("sslrootcert {root:?} holds no certificate"));
            }
            let mut store = X509StoreBuilder::new().map_err(openssl)?;
            for authority in authorities {
                store.add_cert(authority).map_err(openssl)?;
            }
            builder.set_cert_store(store.build());
        }
        _ => {}
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    let verify_host = tls.verify_host;
    connector.set_callback(move |connection, _| {
        connection.set_verify_hostname(verify_host);
        Ok(())
    });
    Ok(connector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    fn shard(dsn: &str) -> config::Shard {
        config::Shard {
            name: "main".into(),
            dsn: Secret(dsn.into()),
            partitions: None,
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(20),
            lock_timeout: Duration::from_secs(2),
            connections_max: None,
            pace: config::Pace::default(),
            pooler: config::Pooler::None,
            commit_gate: None,
            connections_share_percent: 100,
        }
    }

    #[test]
    fn faults_are_named_without_the_password() {
        for (dsn, expected) in [
            ("host=a sslmode=allow password=geheim", "a valid sslmode"),
            ("host=a password=geheim sslmode=verify-ca sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem"),
        ] {
            let Err(Failure::Shard(reason)) = Connector::new(&shard(dsn), "g", "t") else { panic!("accepted: {dsn}") };
            assert!(reason.text.contains(expected), "{reason}");
            assert!(!reason.text.contains("geheim"), "the password is shown: {reason}");
        }
    }

    #[test]
    fn nothing_is_left_unbounded() {
        let connector = Connector::new(&shard("host=a"), "g", "fb-w0").expect("valid");
        let config = &connector.config;
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!((connector.user_timeout, connector.silence_max), (USER_TIMEOUT, Duration::from_secs(60)));
        assert_eq!(config.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(config.get_keepalives_retries(), Some(KEEPALIVE_RETRIES));
        assert_eq!(config.get_application_name(), Some("forebay/g/fb-w0"));
        let options = config.get_options().expect("options");
        for expected in ["statement_timeout=20000", "lock_timeout=2000", "idle_in_transaction_session_timeout=50000"] {
            assert!(options.contains(expected), "{options}");
        }
        let own =
            Connector::new(&shard("host=a connect_timeout=9 keepalives_idle=60 options='-c lock_timeout=1'"), "g", "t");
        let own = own.expect("valid").config;
        assert_eq!(own.get_connect_timeout(), Some(&Duration::from_secs(9)));
        assert_eq!(own.get_keepalives_idle(), Duration::from_secs(60));
        let options = own.get_options().expect("options");
        assert!(options.ends_with(" -c lock_timeout=1 -c forebay.options=on"), "the DSN's own come last");
    }

    #[test]
    fn application_names_fit_and_tell_groups_apart() {
        assert_eq!(application_prefix("subscriptions"), "forebay/subscriptions/");
        let long = "g".repeat(200);
        for group in [&long, "größe", "a/b", "a b", "x~0123456789abcdef"] {
            let name = application_name(group, "123456789012345");
            assert!(name.len() <= 63 && name.is_ascii(), "{name}");
            assert!(name.starts_with(&application_prefix(group)));
        }
        assert_ne!(application_prefix("a/b"), application_prefix("a_b"));
        assert_ne!(application_prefix(&long), application_prefix(&"g".repeat(201)));
    }
}
