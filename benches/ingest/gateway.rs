//! What is measured: the gateway in a process of its own, with a topic and a table; and the same HTTP server, answering without Kafka.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use forebay::http::{Limits, Listener, Request, Response, Served, Server, Service, Status, Ticket};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::CONNECTIONS;
use crate::support::block_on;

const PARTITIONS: i32 = 8;

/// A topic, a table in a database of the test cluster, and a configuration.
pub struct Setup {
    directory: tempfile::TempDir,
    topic: String,
    table: String,
    dsn: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Setup {
    pub fn new() -> Setup {
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
    pub fn records(&self) -> u64 {
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
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
}

impl Gateway {
    pub fn start(setup: &Setup) -> Gateway {
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

    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process that runs");
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    pub fn resident(&self) -> u64 {
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

/// Lets `load` drive the server without Kafka, with as many listeners.
pub fn without_kafka<T>(load: impl FnOnce(SocketAddr) -> T) -> T {
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
    let found = load(address);
    stops.iter().for_each(forebay::http::Stop::stop);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    found
}
