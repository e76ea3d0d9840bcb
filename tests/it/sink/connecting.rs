//! Connections to servers that speak TLS, and to one that does not speak at all.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::live::Live;
use forebay::config::{Config, RouteBy};
use forebay::sink::connect::Connector;
use forebay::sink::pool::Pool;
use forebay::sink::postgres::{OwnRows, PostgresControl};
use forebay::sink::{Control, Failure};
use forebay::types::{ShardIx, TopicIx};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use postgres::{Client, SimpleQueryMessage};
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{Database, OwnServices, Proxy, Server, Service, handler_config, port_of, shard, wait_until};

/// A certificate and its key.
struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Identity {
    /// Signed by `authority`, or by itself; for the hosts named.
    fn new(name: &str, serial: u32, authority: Option<&Identity>, hosts: &[&str]) -> Identity {
        let group = openssl::ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&BigNum::from_u32(serial).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(authority.map_or(&subject, |a| a.certificate.subject_name())).unwrap();
        if authority.is_none() {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        }
        if !hosts.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for host in hosts {
                names.dns(host);
            }
            let context = builder.x509v3_context(None, None);
            let names = names.build(&context).unwrap();
            builder.append_extension(names).unwrap();
        }
        builder.sign(authority.map_or(&key, |a| &a.key), MessageDigest::sha256()).unwrap();
        Identity { certificate: builder.build(), key }
    }

    fn pem(&self) -> (String, String) {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(self.certificate.to_pem().unwrap()), text(self.key.private_key_to_pem_pkcs8().unwrap()))
    }

    fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        std::fs::write(&certificate, self.pem().0).unwrap();
        std::fs::write(&key, self.pem().1).unwrap();
        (certificate, key)
    }
}

/// A file in the server's directory. Written by the server, because only its own user may be able to read its key.
fn file(admin: &mut Client, name: &str, text: &str) {
    let text = text.trim_end();
    let sql =
        format!("COPY (SELECT unnest(string_to_array($x${text}$x$, E'\\n'))) TO PROGRAM 'umask 077; cat > {name}'");
    admin.batch_execute(&sql).unwrap();
}

/// Connects; says whether the connection is encrypted.
fn connect(dsn: &str) -> Result<bool, Failure> {
    let mut opened = Connector::new(&shard("s0", dsn), "group", "test")?.connect()?;
    let answer = opened.client.simple_query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").unwrap();
    Ok(answer.iter().any(|m| matches!(m, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))))
}

#[track_caller]
fn check_refused(dsn: &str, expected: &str) {
    match connect(dsn) {
        Err(Failure::Shard(reason)) => assert!(reason.text.contains(expected), "{reason}"),
        other => panic!("{dsn}: {other:?}"),
    }
}

/// What each `sslmode` promises, against a server whose certificate is for `localhost` only.
#[test]
fn tls_as_the_connection_string_says() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let files = tempfile::tempdir().unwrap();
    let authority = Identity::new("authority", 1, None, &[]);
    let stranger = Identity::new("stranger", 2, None, &[]);
    let server = Identity::new("server", 3, Some(&authority), &["localhost"]);
    let (root, _) = authority.write(files.path(), "root");
    let (other_root, _) = stranger.write(files.path(), "other");
    let (certificate, key) = Identity::new("forebay", 4, Some(&authority), &[]).write(files.path(), "client");

    let plain = own.pg_dsn(Server::A);
    assert_eq!(connect(&plain), Ok(false), "prefer, and the server has no TLS yet");
    check_refused(&format!("{plain} sslmode=require"), "TLS");
    let mut admin = Client::connect(&plain, postgres::NoTls).unwrap();
    file(&mut admin, "server.crt", &server.pem().0);
    file(&mut admin, "server.key", &server.pem().1);
    file(&mut admin, "root.crt", &authority.pem().0);
    for setting in ["ssl = on", "ssl_ca_file = 'root.crt'"] {
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
    }
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_until(Duration::from_secs(20), "the server to speak TLS", || connect(&plain) == Ok(true));

    let with = |host: &str, more: &str| format!("{} {more}", plain.replace("host=127.0.0.1", &format!("host={host}")));
    let root = format!("sslrootcert={}", root.display());
    let other_root = format!("sslrootcert={}", other_root.display());
    let encrypted = |host: &str, more: &str| assert_eq!(connect(&with(host, more)), Ok(true), "{host} {more}");
    assert_eq!(connect(&with("127.0.0.1", "sslmode=disable")), Ok(false));
    encrypted("127.0.0.1", "sslmode=require");
    encrypted("127.0.0.1", &format!("sslmode=verify-ca {root}"));
    encrypted("localhost", &format!("sslmode=verify-full {root}"));
    check_refused(&with("127.0.0.1", &format!("sslmode=verify-full {root}")), "mismatch");
    check_refused(&with("localhost", &format!("sslmode=verify-full {other_root}")), "certificate");
    check_refused(&with("127.0.0.1", &format!("sslmode=verify-ca {other_root}")), "certificate");
    check_refused(&with("127.0.0.1", &format!("sslmode=require {other_root}")), "certificate");
    check_refused(&with("localhost", "sslmode=verify-full"), "certificate");

    file(&mut admin, "pg_hba.conf", "hostssl all all all trust clientcert=verify-ca\nlocal all all trust");
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let of_ours = format!("sslcert={} sslkey={}", certificate.display(), key.display());
    wait_until(Duration::from_secs(20), "the server to want a certificate", || {
        connect(&with("127.0.0.1", "sslmode=require")).is_err()
    });
    encrypted("127.0.0.1", &format!("sslmode=require {of_ours}"));
    let url = plain.replace("host=127.0.0.1 port=", "postgresql://forebay@127.0.0.1:");
    let (at, _) = url.split_once(' ').unwrap();
    let query = of_ours.replace(' ', "&");
    assert_eq!(connect(&format!("{at}/forebay?sslmode=verify-ca&{}&{query}", root)), Ok(true), "the same as a URL");
}

const CHILD: &str = "sink::connecting::in_a_process_of_its_own";

/// rust-postgres panics, or says that a connection was closed. In a process of its own: nobody else there can open anything either.
#[test]
fn without_descriptors_that_is_the_reason() {
    let output = Command::new(std::env::current_exe().unwrap()).args(["--exact", CHILD, "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by without_descriptors_that_is_the_reason"]
fn in_a_process_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = shard("s0", &format!("host=127.0.0.1 port={port} user=forebay sslmode=disable"));
    let mut connector = Connector::new(&settings, "group", "test").unwrap();
    let limit = Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut copies: Vec<_> = std::iter::from_fn(|| listener.try_clone().ok()).collect();
    // With none left, and with a few that are used up on the way.
    for left in 0..4 {
        copies.truncate(copies.len() - usize::from(left > 0));
        match connector.connect() {
            Err(Failure::Outage(reason)) if reason.text.contains("no file descriptor left") => {
                assert!(reason.text.contains("Too many open files"), "{reason}");
            }
            // The attempt has given back what it had by then.
            Err(Failure::Outage(_)) if left > 0 => {}
            other => panic!("{left} left: {:?}", other.err()),
        }
    }
}

/// rust-postgres bounds the TCP connect only. A server that hangs behind it must not hang its thread, nor collect one
/// attempt for each time it is asked.
#[test]
fn a_server_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut settings = shard("s0", &format!("host=127.0.0.1 port={port} user=forebay sslmode=disable"));
    settings.connect_timeout = Duration::from_millis(150);
    let mut connector = Connector::new(&settings, "group", "test").unwrap();
    let begin = Instant::now();
    for _ in 0..3 {
        match connector.connect() {
            Err(Failure::Outage(reason)) => assert!(reason.text.contains("no answer"), "{reason}"),
            other => panic!("{:?}", other.err()),
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
    // Each was given up before the next one began, so that a server that comes back is found.
    listener.set_nonblocking(true).unwrap();
    let attempts: Vec<_> = listener.incoming().map_while(Result::ok).collect();
    assert!(attempts.len() > 1, "it waits for the first attempt for ever");
    for mut attempt in attempts {
        attempt.set_nonblocking(false).unwrap();
        attempt.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(attempt.read_to_end(&mut Vec::new()).is_ok(), "attempts pile up");
    }
}

/// Whatever opens it, and for what: time-outs of the session, and of its socket.
#[test]
fn every_connection_is_bounded() {
    let database = Database::create(Server::A, "bounded");
    // A port that no other socket of this process is connected to.
    let proxy = Proxy::to(port_of(database.dsn()));
    let mut config = handler_config("group", &[&proxy.dsn(database.dsn())], &["topic"]);
    config.shards[0].statement_timeout = Duration::from_secs(20);
    config.shards[0].lock_timeout = Duration::from_secs(3);
    let config = Arc::new(config);
    let mut connector = Connector::new(&config.shards[0], "group", "test").unwrap();
    let mut opened = connector.connect().expect("a connection");
    let pool = Pool::new(&config.shards[0], "group", "check", 1).unwrap();
    let mut lent = pool.get().expect("a connection");
    for client in [&mut opened.client, &mut **lent] {
        for (name, expected) in
            [("statement_timeout", "20s"), ("lock_timeout", "3s"), ("idle_in_transaction_session_timeout", "50s")]
        {
            let found: String = client.query_one("SELECT current_setting($1)", &[&name]).unwrap().get(0);
            assert_eq!(found, expected, "{name}");
        }
    }
    let ids = Arc::new(OwnRows::new(1));
    let mut control = PostgresControl::new(Arc::clone(&config), ShardIx(0), Arc::clone(&ids));
    control.locate(TopicIx(0), &crate::statements::identity(), &[0]).expect("an answer");
    let sockets: Vec<TcpStream> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.parse().ok())
        // SAFETY: it is copied at once, which fails where it is not open any more.
        .filter_map(|number| unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().ok())
        .map(TcpStream::from)
        .filter(|socket| socket.peer_addr().is_ok_and(|peer| peer.port() == proxy.port()))
        .collect();
    // Each of the three is open twice: by the driver, and by the watch.
    assert_eq!(sockets.len(), 6);
    for socket in sockets {
        assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(30_000));
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(Duration::from_secs(10)));
        assert_eq!(sockopt::tcp_keepintvl(&socket), Ok(Duration::from_secs(5)));
        assert_eq!(sockopt::tcp_keepcnt(&socket), Ok(3));
    }
}

/// The DSN's own time-outs win, and whoever watches the connection goes by them: a statement that may take longer is not cut.
/// What has no end is refused.
#[test]
fn a_connection_is_watched_as_its_session_is_bounded() {
    let database = Database::create(Server::A, "watched");
    let open = |options: &str| {
        let mut settings = shard("s0", &format!("{} options='{options}'", database.dsn()));
        settings.statement_timeout = Duration::from_secs(20);
        settings.lock_timeout = Duration::from_secs(3);
        let opened = Connector::new(&settings, "group", "test").unwrap().connect();
        opened.map(|opened| opened.watch.expect("a socket").silence_max().as_secs())
    };
    assert_eq!(open(""), Ok(60), "20 s, 30 s more for a transaction that idles, 10 s more for the watch");
    assert_eq!(open("-c statement_timeout=90s"), Ok(100));
    assert_eq!(open("-c idle_in_transaction_session_timeout=2min"), Ok(130));
    assert_eq!(open("-c statement_timeout=5s -c idle_in_transaction_session_timeout=6s"), Ok(16));
    // What a role sets does not win.
    database.execute(&format!("ALTER ROLE forebay IN DATABASE {} SET statement_timeout = '90s'", database.name()));
    assert_eq!(open(""), Ok(60));
    for endless in
        ["statement_timeout=0", "lock_timeout=0", "lock_timeout=20s", "idle_in_transaction_session_timeout=0"]
    {
        match open(&format!("-c {endless}")) {
            Err(Failure::Shard(reason)) => assert!(reason.text.contains("expected all three"), "{reason}"),
            other => panic!("{endless}: {other:?}"),
        }
    }
}

/// The configuration with a map of these tenants, all of the only shard.
fn with_map(config: &Config, tenants: &[&str]) -> Arc<Config> {
    let mut config = config.clone();
    let tenants = tenants.iter().map(|tenant| ((*tenant).to_owned(), 0)).collect();
    config.routing.by = RouteBy::Map { file: PathBuf::from("map"), tenants, default: None };
    Arc::new(config)
}

/// A map that was read again is made known over the connection that is open, before anything else is sent. What is in the way of that,
/// a row that somebody has locked or a server that says nothing any more, is an outage in the end, and no wait without one.
#[test]
fn making_a_new_map_known_does_not_wait_without_an_end() {
    let database = Database::create(Server::A, "catch_up");
    let proxy = Proxy::to(port_of(database.dsn()));
    let mut config = handler_config("group", &[&proxy.dsn(database.dsn())], &["topic"]);
    // Silence is 41 seconds with these.
    config.shards[0].statement_timeout = Duration::from_secs(1);
    config.shards[0].lock_timeout = Duration::from_millis(300);
    config.shards[0].connect_timeout = Duration::from_secs(1);
    let first = with_map(&config, &["a"]);
    let live = Arc::new(Live::new(Arc::clone(&first)));
    let ids = Arc::new(OwnRows::new(1));
    let control = PostgresControl::new(first, ShardIx(0), Arc::clone(&ids));
    let mut control = control.following(Arc::clone(&live), ShardIx(0));
    let mut locate = || {
        let began = Instant::now();
        (control.locate(TopicIx(0), &crate::statements::identity(), &[0]), began.elapsed())
    };
    assert!(locate().0.is_ok());

    let mut other = database.connect();
    other.batch_execute("BEGIN; SELECT FROM forebay.meta WHERE key LIKE 'map %' FOR UPDATE").unwrap();
    live.replace(with_map(&config, &["a", "b"]));
    for _ in 0..3 {
        let (result, took) = locate();
        assert!(matches!(result, Err(Failure::Outage(_))), "{result:?}");
        assert!(took < Duration::from_secs(10), "{took:?} for a lock");
    }
    other.batch_execute("ROLLBACK").unwrap();
    assert!(locate().0.is_ok());
    let known = |tenant: &str| {
        let sql = "SELECT count(*) FROM forebay.meta WHERE key LIKE 'map %' AND value LIKE '%' || $1 || '%'";
        database.connect().query_one(sql, &[&format!("\"{tenant}\"")]).unwrap().get::<_, i64>(0) == 1
    };
    assert!(known("b") && !known("c"));

    proxy.swallow(true);
    live.replace(with_map(&config, &["a", "b", "c"]));
    let (result, took) = locate();
    assert!(matches!(result, Err(Failure::Outage(_))), "{result:?}");
    assert!(took < Duration::from_secs(60), "{took:?} for an answer");
    proxy.swallow(false);
    wait_until(Duration::from_secs(20), "the shard to be there again", || locate().0.is_ok());
    assert!(known("c"));
}

/// Those that open a pool's connections.
fn openers() -> BTreeSet<OsString> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the threads").flatten();
    let is_opener = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("pg-pool"))
    };
    tasks.filter(is_opener).map(|task| task.file_name()).collect()
}

/// Each question to a database has a pool of its own: were its threads to stay for a while, they would be many.
#[test]
fn a_pools_threads_end_with_it() {
    let database = Database::create(Server::A, "pooled");
    let config = handler_config("group", &[database.dsn()], &["topic"]);
    let before = openers();
    let lent = Pool::new(&config.shards[0], "group", "check", 1).unwrap().get().expect("a connection");
    // Those of other tests' pools, maybe, which end as well.
    let ours: BTreeSet<_> = openers().difference(&before).cloned().collect();
    assert!(!ours.is_empty(), "nobody opens connections");
    drop(lent);
    wait_until(Duration::from_secs(20), "the pool's threads to end", || openers().is_disjoint(&ours));
}
