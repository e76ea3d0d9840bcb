//! What the gateway takes: acknowledged requests a second with 1,024 connections, relative to the same HTTP server answering without Kafka; latency
//! with 64 connections at half that rate, from the time at which a request should have been sent; CPU time of its process for each request; and its
//! memory with 10,000 idle connections. Kafka, the gateway and the clients share the machine.
//!
//! `bin/services up && eval "$(bin/services env)" && cargo bench --bench ingest`

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forebay::bench::median;
use forebay::http::{Limits, Listener, Request, Response, Served, Server, Service, Status, Ticket};
use hdrhistogram::Histogram;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use support::block_on;

const ROUND: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
const CONNECTIONS: usize = 1024;
const IDLE: usize = 10_000;
const PARTITIONS: i32 = 8;
/// Threads of clients: few, so that they take little of the CPU that they share.
const CLIENTS: usize = 2;

fn main() {
    raise_descriptors();
    let setup = Setup::new();
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let alone = without_kafka();
        let gateway = Gateway::start(&setup);
        load(gateway.address, CONNECTIONS, Duration::from_secs(1));
        let (there, before, start) = (setup.records(), gateway.cpu(), Instant::now());
        let accepted = load(gateway.address, CONNECTIONS, ROUND);
        let (cpu, took) = (gateway.cpu() - before, start.elapsed());
        assert_eq!(setup.records() - there, accepted, "what was acknowledged is there");
        let rate = accepted as f64 / took.as_secs_f64();
        println!(
            "{CONNECTIONS} connections: {rate:.0} acknowledged requests/s, {:.1} µs of CPU each; the server alone {alone:.0} requests/s: {:.2} of it; {} MB",
            cpu.as_secs_f64() * 1e6 / accepted as f64,
            rate / alone,
            gateway.resident() >> 20
        );
        ratios.push(rate / alone);
        rates.push(rate);
    }
    let (ratio, rate) = (median(&mut ratios), median(&mut rates));
    println!("median: {ratio:.2} of the server alone, {rate:.0} requests/s");
    let gateway = Gateway::start(&setup);
    let latency = paced(gateway.address, 64, rate / 2.0, ROUND);
    let ms = |q: f64| latency.value_at_quantile(q) as f64 / 1000.0;
    println!(
        "64 connections at {:.0} requests/s: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, of {} requests",
        rate / 2.0,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        latency.len()
    );
    let idle: Vec<TcpStream> = (0..IDLE).map(|_| TcpStream::connect(gateway.address).expect("a connection")).collect();
    load(gateway.address, 1, Duration::from_secs(1));
    println!("{IDLE} idle connections: {} MB", gateway.resident() >> 20);
    drop(idle);
}

/// A topic, a table in a database of the test cluster, and a configuration.
struct Setup {
    directory: tempfile::TempDir,
    topic: String,
    table: String,
    dsn: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Setup {
    fn new() -> Setup {
        let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let bootstrap = setting("FOREBAY_TEST_KAFKA", "127.0.0.1:19092");
        let dsn = setting("FOREBAY_TEST_PG_A", "host=127.0.0.1 port=15431 user=forebay dbname=forebay");
        let name = format!("bench_ingest_{}", std::process::id());
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &bootstrap).create().expect("a client");
        let new = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
        for created in block_on(admin.create_topics([&new], &AdminOptions::new())).expect("an answer of Kafka") {
            created.expect("a topic");
        }
        postgres_of(
            &dsn,
            &format!(
                "CREATE TABLE {name} (app_id text, id int, state text NOT NULL, note text, PRIMARY KEY (app_id, id))"
            ),
        );
        let directory = tempfile::tempdir().expect("a directory");
        let toml = format!(
            "[kafka]\n\"bootstrap.servers\" = {bootstrap:?}\n\"group.id\" = {name:?}\n[[shard]]\nname = \"main\"\ndsn = {dsn:?}\n[[topic]]\n\
             name = {name:?}\ntable = {name:?}\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"id\"]\n[ingest]\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"off\"\n[[ingest.route]]\npath = \"/apps/{{app_id}}/rows/{{id}}\"\nmethods = [\"PUT\"]\ntopic = {name:?}\n\
             key = \"{{app_id}}:{{id}}\"\n"
        );
        fs::write(directory.path().join("forebay.toml"), toml).expect("writable");
        Setup { directory, topic: name.clone(), table: name, dsn, admin }
    }
}

impl Setup {
    /// In the topic, all in all.
    fn records(&self) -> u64 {
        let highs = (0..PARTITIONS).map(|partition| {
            let asked = self.admin.inner().fetch_watermarks(&self.topic, partition, Duration::from_secs(10));
            asked.expect("a partition").1 as u64
        });
        highs.sum()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        postgres_of(&self.dsn, &format!("DROP TABLE {}", self.table));
        drop(block_on(self.admin.delete_topics(&[&self.topic], &AdminOptions::new())));
    }
}

fn postgres_of(dsn: &str, sql: &str) {
    let mut client = postgres::Client::connect(dsn, postgres::NoTls).expect("PostgreSQL: bin/services up");
    client.batch_execute(sql).expect("a statement");
}

/// The gateway, in a process of its own.
struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(setup: &Setup) -> Gateway {
        let mut child = Command::new(env!("CARGO_BIN_EXE_forebay"))
            .arg("ingest")
            .current_dir(setup.directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("forebay");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines().map_while(Result::ok);
        let says = "gateway: http://";
        let line = lines.find(|line| line.contains(says)).expect("an address");
        let address =
            line.split(says).nth(1).and_then(|rest| rest.split('/').next()?.parse().ok()).expect("an address");
        // It must not wait for a reader of its log.
        thread::spawn(move || lines.for_each(drop));
        Gateway { child, address }
    }

    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process that runs");
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn resident(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).expect("a process that runs");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As the gateway answers, at once.
struct Accept;

impl Service for Accept {
    fn serve(&mut self, request: &Request<'_>, _: Ticket) -> Served {
        assert!(!request.body().is_empty());
        Served::Now(Response::json(
            Status::ACCEPTED,
            "{\"topic\":\"bench_ingest_1234567\",\"partition\":3,\"offset\":1234567}",
        ))
    }
}

/// Requests a second of the server without Kafka, with as many listeners.
fn without_kafka() -> f64 {
    let mut address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let (mut stops, mut threads) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let listener = Listener::tcp(address, true).expect("a port");
        address = listener.local_addr().expect("an address");
        let limits = Limits { connections_max: CONNECTIONS, ..Limits::default() };
        let mut server = Server::new(vec![listener], limits, |_| Accept).expect("a server");
        stops.push(server.stopper());
        threads.push(thread::spawn(move || server.run().expect("a poll")));
    }
    load(address, CONNECTIONS, Duration::from_secs(1));
    let start = Instant::now();
    let answered = load(address, CONNECTIONS, ROUND);
    let rate = answered as f64 / start.elapsed().as_secs_f64();
    stops.iter().for_each(forebay::http::Stop::stop);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    rate
}

/// A request with a body of about 300 bytes.
fn request(app: usize, id: u64) -> Vec<u8> {
    let body = format!("{{\"state\":\"s{id}\",\"note\":\"{}\"}}", "x".repeat(270));
    let length = body.len();
    format!(
        "PUT /apps/app{app}/rows/{} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        id % 1000
    )
    .into_bytes()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("an option");
    stream
}

/// Reads one answer, which has to be an acceptance.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut length = 0;
    loop {
        let read = stream.read(&mut buffer[length..]).expect("an answer");
        assert!(read > 0, "the server closed");
        length += read;
        let text = std::str::from_utf8(&buffer[..length]).expect("text");
        assert!(text.starts_with("HTTP/1.1 202"), "{text}");
        // Its body ends with it.
        if text.ends_with('}') {
            return;
        }
    }
}

/// Each connection sends when it was answered; how many answers there were.
fn load(address: SocketAddr, connections: usize, time: Duration) -> u64 {
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = CLIENTS.min(connections);
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            thread::spawn(move || {
                let mut streams: Vec<TcpStream> = (0..connections / clients).map(|_| connect(address)).collect();
                let mut buffer = vec![0; 64 << 10];
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    for (app, stream) in streams.iter_mut().enumerate() {
                        stream.write_all(&request(client * 100_000 + app, n)).expect("the server takes it");
                    }
                    for stream in &mut streams {
                        answer(stream, &mut buffer);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    n += 1;
                }
            })
        })
        .collect();
    thread::sleep(time);
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    answered.load(Ordering::Relaxed)
}

/// An open loop: whoever is late does not move the times at which the next ones should be sent, and nobody waits for an answer before
/// sending. In µs from those times.
fn paced(address: SocketAddr, connections: usize, rate: f64, time: Duration) -> Histogram<u64> {
    let interval = Duration::from_secs_f64(connections as f64 / rate);
    let start = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                let mine = (client..connections).step_by(CLIENTS);
                let mut clients: Vec<Paced> = mine
                    .map(|number| {
                        Paced::new(address, number, start + interval.mul_f64(number as f64 / connections as f64))
                    })
                    .collect();
                let mut found = histogram();
                while !clients.iter().all(|client| client.is_done(start + time)) {
                    let moved = clients
                        .iter_mut()
                        .fold(false, |moved, client| client.turn(start + time, interval, &mut found) | moved);
                    if !moved {
                        thread::sleep(PACE);
                    }
                }
                found
            })
        })
        .collect();
    let mut all = histogram();
    threads.into_iter().for_each(|thread| all.add(thread.join().expect("a client")).expect("the same range"));
    all
}

/// It looks so often what is due.
const PACE: Duration = Duration::from_micros(200);

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("a minute to three digits")
}

/// A connection that sends by the clock.
struct Paced {
    stream: TcpStream,
    number: usize,
    next: Instant,
    sent: u64,
    /// When those that are not answered should have been sent.
    due: VecDeque<Instant>,
    buffer: Vec<u8>,
}

impl Paced {
    fn new(address: SocketAddr, number: usize, next: Instant) -> Paced {
        let stream = connect(address);
        stream.set_nonblocking(true).expect("an option");
        Paced { stream, number, next, sent: 0, due: VecDeque::new(), buffer: vec![0; 64 << 10] }
    }

    fn is_done(&self, end: Instant) -> bool {
        self.next >= end && self.due.is_empty()
    }

    fn turn(&mut self, end: Instant, interval: Duration, found: &mut Histogram<u64>) -> bool {
        let mut moved = false;
        while self.next < end && self.next <= Instant::now() {
            // The server reads on as long as few are under way, and requests are small: it fits the socket's buffer.
            self.stream.write_all(&request(self.number, self.sent)).expect("the server takes it");
            self.due.push_back(self.next);
            self.next += interval;
            self.sent += 1;
            moved = true;
        }
        match self.stream.read(&mut self.buffer) {
            Ok(0) => panic!("the server closed"),
            Ok(length) => {
                assert!(!self.buffer[..length].windows(5).any(|five| five == b" 503 "), "it was refused");
                // Each answer ends with its body, which is a flat object.
                for _ in self.buffer[..length].iter().filter(|byte| **byte == b'}') {
                    let due = self.due.pop_front().expect("a request for each answer");
                    found.saturating_record(due.elapsed().as_micros() as u64);
                }
                moved = true;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        moved
    }
}

/// As many as may be: the clients' side of the idle connections is here.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit");
}
