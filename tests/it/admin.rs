//! The admin interface of an engine that does not run, whose databases say nothing: who is let in, and what a crowd does to it. Needs no
//! service. Of one that runs: `real::admin`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use forebay::admin::routes::Logs;
use forebay::admin::server::Admin;
use forebay::engine::Engine;

use crate::support::handler_config;

const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "Host: localhost\r\n";

/// Shards `s0` and `s1`, whose servers take connections and say nothing.
struct Setup {
    address: SocketAddr,
    _admin: Admin,
    _servers: [TcpListener; 2],
    _directory: tempfile::TempDir,
    socket: std::path::PathBuf,
}

impl Setup {
    fn new() -> Setup {
        let servers = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let dsns = [0, 1].map(|n: usize| {
            let port = servers[n].local_addr().unwrap().port();
            format!("host=127.0.0.1 port={port} user=nobody dbname=none sslmode=disable")
        });
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut config = handler_config("admin", &[&dsns[0], &dsns[1]], &["t"]);
        config.admin.listen = Some(([127, 0, 0, 1], 0).into());
        config.admin.listen_written = true;
        config.admin.socket = Some(socket.clone());
        let engine = Engine::new(config);
        let admin = Admin::start(engine.observer(), Logs::default()).unwrap().expect("it listens");
        let address = admin.address().expect("an address");
        Setup { address, _admin: admin, _servers: servers, _directory: directory, socket }
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
    let setup = Setup::new();
    let mut stream = setup.connect();
    let request = format!("GET /metrics HTTP/1.1\r\n{HOST}\r\n").repeat(2);
    stream.write_all(format!("{request}GET /healthz HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let answers = read(stream);
    let cpu: Vec<&str> = answers.lines().filter(|line| line.starts_with("process_cpu_seconds_total ")).collect();
    assert!(cpu.len() == 2 && cpu[0] == cpu[1], "{cpu:?}");
}

/// Of a shard that says nothing, an order waits for a while; nobody waits for it who has nothing to do with that shard.
#[test]
fn an_order_to_a_shard_that_hangs_ends_soon() {
    let setup = Setup::new();
    let order = |shard: &str| {
        let head = format!("POST /park HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n");
        setup.send(&head, &format!("{{\"topic\":\"t\",\"key\":\"k\",\"shard\":\"{shard}\"}}"))
    };
    let start = Instant::now();
    let (first, second, other) = (order("s0"), order("s0"), order("s1"));
    check(&read(other), 503, "no answer");
    let alone = start.elapsed();
    check(&read(first), 503, "no answer");
    check(&read(second), 503, "no answer");
    let all = start.elapsed();
    // The shard's own connect_timeout is ten seconds, of which an attempt takes twice as many.
    assert!(alone < Duration::from_secs(10) && alone < all, "{alone:?} {all:?}");
}
