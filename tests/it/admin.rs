//! The admin interface of an engine that does not run, whose databases say nothing: who is let in, and what a crowd does to it. Needs no
//! service. Of one that runs: `real::admin`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay::admin::process::Usage;
use forebay::admin::routes::Logs;
use forebay::admin::server::Admin;
use forebay::engine::Engine;

use crate::support::handler_config;

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "Host: localhost\r\n";

/// Shards `s0` and `s1`, whose servers take connections and say nothing.
struct Setup {
    address: SocketAddr,
    admin: Admin,
    servers: [TcpListener; 2],
    _directory: tempfile::TempDir,
    socket: std::path::PathBuf,
}

impl Setup {
    fn new() -> Setup {
        Setup::with(Logs::default(), Duration::from_secs(10))
    }

    fn with(logs: Logs, connect_timeout: Duration) -> Setup {
        let servers = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let dsns = [0, 1].map(|n: usize| {
            let port = servers[n].local_addr().unwrap().port();
            format!("host=127.0.0.1 port={port} user=nobody dbname=none sslmode=disable")
        });
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut config = handler_config("admin", &[&dsns[0], &dsns[1]], &["t"]);
        config.shards.iter_mut().for_each(|shard| shard.connect_timeout = connect_timeout);
        config.admin.listen = Some(([127, 0, 0, 1], 0).into());
        config.admin.listen_written = true;
        config.admin.socket = Some(socket.clone());
        let engine = Engine::new(config);
        let admin = Admin::start(engine.observer(), logs).unwrap().expect("it listens");
        let address = admin.address().expect("an address");
        Setup { address, admin, servers, _directory: directory, socket }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a head, and perhaps a body behind it.
    fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        let length = body.len();
        let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }
}

#[track_caller]
fn read(mut stream: impl Read) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[track_caller]
fn check(answer: &str, status: u16, says: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says), "{answer}");
}

#[test]
fn whom_a_request_is_for_is_known() {
    let setup = Setup::new();
    let get = |head: &str, status: u16, says: &str| check(&read(setup.send(head, "")), status, says);
    get("GET /status HTTP/1.0\r\n", 403, "Host: found none, expected an IP address or localhost");
    get("GET http://evil.example/status HTTP/1.0\r\n", 403, "evil.example");
    get("GET http://localhost/status HTTP/1.0\r\n", 200, "\"version\":1");
    get(&format!("GET /status HTTP/1.0\r\n{HOST}"), 200, "\"version\":1");
    get("GET /healthz HTTP/1.0\r\n", 200, "ok");
}

/// A page of somebody else's can make a browser ask, and must not make databases work, nor be taken for an order.
#[test]
fn pages_of_other_sites_ask_for_nothing() {
    let setup = Setup::new();
    let get = |path: &str, site: &str, status: u16| {
        let head = format!("GET {path} HTTP/1.1\r\n{HOST}Sec-Fetch-Site: {site}\r\n");
        check(&read(setup.send(&head, "")), status, "");
    };
    for site in ["cross-site", "same-site"] {
        get("/parked", site, 403);
        get("/dead-letters?limit=1000", site, 403);
        // A link may lead here.
        get("/", site, 200);
        get("/metrics", site, 200);
    }
    // These wait for the databases, unless somebody says that the limit is none.
    get("/parked?limit=0", "same-origin", 400);
    get("/parked?limit=0", "none", 400);
    let post = |more: &str, status: u16, says: &str| {
        let head = format!("POST /pause HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n{more}");
        check(&read(setup.send(&head, "{\"topic\":\"x\"}")), status, says);
    };
    post("", 404, "no topic");
    post("Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n", 404, "no topic");
    post("Origin: null\r\n", 403, "Origin");
    post("Sec-Fetch-Site: cross-site\r\n", 403, "Sec-Fetch-Site");
}

/// As many as may be there, and none of them asks for anything any more.
#[test]
fn idle_connections_shut_nobody_out() {
    let setup = Setup::new();
    let mut idle = Vec::new();
    for _ in 0..130 {
        let mut stream = setup.connect();
        let request = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        assert!(stream.read(&mut [0; 1000]).expect("an answer") > 0);
        idle.push(stream);
    }
    check(&read(setup.send(&format!("GET /healthz HTTP/1.1\r\n{HOST}"), "")), 200, "ok");
    let mut socket = std::os::unix::net::UnixStream::connect(&setup.socket).expect("it listens");
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
    check(&read(socket), 200, "ok");
}

/// A hundred of them ask for all metrics as fast as they can, and read them.
#[test]
fn who_asks_for_much_does_not_keep_others_waiting() {
    let setup = Setup::new();
    let request = format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n").repeat(100);
    let greedy: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = setup.connect();
            stream.write_all(request.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    let start = Instant::now();
    check(&read(setup.send(&format!("GET /healthz HTTP/1.1\r\n{HOST}"), "")), 200, "ok");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(greedy);
}

/// Who asks at about the same time is told the same; but whoever changed something sees it.
#[test]
fn a_status_is_made_for_all_who_ask_and_shows_what_was_ordered() {
    let (made, level) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new("info".to_owned())));
    let logs = {
        let (made, shown, set) = (Arc::clone(&made), Arc::clone(&level), Arc::clone(&level));
        Logs {
            // Each status asks for it once.
            level: Box::new(move || {
                made.fetch_add(1, Ordering::Relaxed);
                shown.lock().unwrap().clone()
            }),
            set_level: Box::new(move |level| {
                *set.lock().unwrap() = level.to_owned();
                Ok(())
            }),
            ..Logs::default()
        }
    };
    let setup = Setup::with(logs, Duration::from_secs(10));
    let mut stream = setup.connect();
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\n{HOST}\r\n");
    let status = (ask("/readyz") + &ask("/metrics") + &ask("/status")).repeat(100);
    let body = "{\"level\":\"debug\"}";
    let order = format!(
        "POST /log-level HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let last = format!("GET /status HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n");
    stream.write_all(format!("{status}{order}{last}").as_bytes()).unwrap();
    let answers = read(stream);
    let shown = |level: &str| answers.matches(&format!("\"log_level\":\"{level}\"")).count();
    assert_eq!((shown("info"), shown("debug")), (100, 1));
    let made = made.load(Ordering::Relaxed);
    assert!((2..50).contains(&made), "{made} times");
}

/// A listing that waits for a database takes longer than most requests, and is answered all the same.
#[test]
fn a_listing_under_way_is_answered_at_the_end() {
    let setup = Setup::with(Logs::default(), Duration::from_secs(1));
    let listing = setup.send(&format!("GET /parked HTTP/1.1\r\n{HOST}"), "");
    // It is under way once a database has been asked.
    setup.servers[0].accept().expect("a connection attempt");
    drop(setup.admin);
    check(&read(listing), 200, "\"failed\":[{");
}

/// What peers ask for and do not take is held by the kernel, as far as that goes, and not copied here for each of them.
#[test]
fn pages_that_nobody_takes_hold_little() {
    let binary = std::env::current_exe().unwrap();
    let output = Command::new(binary).args(["--exact", CHILD, "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

const CHILD: &str = "admin::in_a_process_of_its_own";

#[test]
#[ignore = "run by pages_that_nobody_takes_hold_little"]
fn in_a_process_of_its_own() {
    let resident = || Usage::now().resident_bytes.expect("/proc");
    let setup = Setup::new();
    let before = resident();
    let request = format!("GET / HTTP/1.1\r\n{HOST}\r\n").repeat(400);
    let rude: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = setup.connect();
            stream.write_all(request.as_bytes()).expect("there is room for it");
            assert_eq!(stream.peek(&mut [0; 9]).expect("an answer"), 9);
            stream
        })
        .collect();
    check(&read(setup.send(&format!("GET /healthz HTTP/1.1\r\n{HOST}"), "")), 200, "ok");
    let grown = resident().saturating_sub(before) >> 20;
    assert!(grown < 40, "{grown} MiB");
    drop(rude);
}

/// Of a shard that says nothing, an order waits for a while only, however long its `connect_timeout` is; the one to another shard at
/// the same time.
#[test]
fn an_order_to_a_shard_that_hangs_ends_soon() {
    let setup = Setup::new();
    let start = Instant::now();
    let orders = ["s0", "s1"].map(|shard| {
        let head = format!("POST /park HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n");
        setup.send(&head, &format!("{{\"topic\":\"t\",\"key\":\"k\",\"shard\":\"{shard}\"}}"))
    });
    orders.into_iter().for_each(|order| check(&read(order), 503, "no answer"));
    // Twice ten seconds are what the shard's own setting would allow, each.
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}
