//! The admin interface of a running process: who is let in, what it can be told, and what Prometheus makes of its metrics.

use std::process::{Command, Stdio};

use forebay::admin::status::TopicState;
use forebay::metrics::name::{Kind, Name};

use super::{LEDGER, ledger_topic, publish, publish_all, shard};
use crate::support::{Admin, Chromium, Database, Forebay, PATIENCE, Prometheus, Rig, Server, Topic, wait_until};
use crate::top::terminal::Terminal;

const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\ncontention_interval_ms = 100\n";
const CANARY: &str = "Canary77";

struct Setup {
    database: Database,
    topic: Topic,
    forebay: Forebay,
    admin: Admin,
    rig: Rig,
}

impl Setup {
    /// `admin` is that part of the configuration; a token file and a place for a socket are beside it.
    fn new(admin: &str) -> Setup {
        let database = Database::create(Server::A, "admin");
        database.execute(LEDGER);
        let topic = Topic::create("admin", 2);
        let (shard, topic_part) = (shard("main", database.dsn()), ledger_topic(topic.name()));
        let rig = Rig::new(&format!("[admin]\nlisten = \"127.0.0.1:0\"\n{admin}{ENGINE}{shard}{topic_part}"));
        rig.write("token", "a-token-of-the-tests\n");
        let forebay = rig.start();
        let admin = forebay.admin();
        Setup { database, topic, forebay, admin, rig }
    }

    fn order(&self, path: &str, of: &str) -> String {
        self.admin.post(path, &format!("{{\"topic\":{:?}{of}}}", self.topic.name())).expect(200)
    }

    /// Records with bad values among them, and the canary wherever a record can have it.
    fn publish_bad(&self, key: &str) {
        publish_all(&self.topic, &[(0, Some(key.to_owned()), Some(format!("{{\"seq\":\"{CANARY}\"}}")))]);
    }
}

#[test]
fn who_is_let_in() {
    let setup = Setup::new("socket = \"admin.sock\"\n");
    let tcp = &setup.admin;
    let socket = Admin::Unix(setup.rig.path("admin.sock"));
    for admin in [tcp, &socket] {
        for path in ["/", "/healthz", "/metrics", "/status", "/parked", "/dead-letters"] {
            admin.get(path).expect(200);
        }
    }
    let with = |head: &str| tcp.request(&format!("{head}Connection: close\r\n\r\n"));
    let check = |head: &str, status: u16, says: &str| {
        let answer = with(head);
        assert!(answer.status == status && answer.body.contains(says), "{head:?}: {}\n{}", answer.head, answer.body);
    };
    check("GET /status HTTP/1.1\r\nHost: evil.example\r\n", 403, "expected an IP address or localhost");
    check("GET /status HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n", 200, "\"version\":1");
    check("GET /status HTTP/1.1\r\nHost: [::1]:9464\r\n", 200, "\"version\":1");
    check("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n", 200, "ok");
    check("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n", 404, "expected one of /, /healthz");
    check("DELETE /status HTTP/1.1\r\nHost: localhost\r\n", 405, "/status takes GET, HEAD");
    check("GET /park HTTP/1.1\r\nHost: localhost\r\n", 405, "/park takes POST");
    check("GET /parked?limit=1&limit=2 HTTP/1.1\r\nHost: localhost\r\n", 400, "expected limit, once");
    check("GET /status HTTP/1.1\r\nHost: LOCALHOST:1\r\n", 200, "\"version\":1");
    check("GET /parked?limit=0 HTTP/1.1\r\nHost: localhost\r\n", 400, "limit: expected a whole number from 1");
    let post = |headers: &str, body: &str| tcp.post_with("/pause", headers, body);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(post("Content-Type: text/plain\r\n", "{}").status, 415);
    assert_eq!(post("", "{}").status, 415);
    assert_eq!(post(&format!("{json}Origin: http://evil.example\r\n"), "{\"topic\":\"x\"}").status, 403);
    for (body, status, says) in [
        ("{\"topic\":\"x\"}", 404, "no topic of the configuration is named"),
        ("{\"topic\":\"x\",\"more\":1}", 400, "unknown field `more`"),
        ("{", 400, "the body: EOF"),
        ("", 400, "the body: expected a JSON object"),
        ("[\"x\"]", 400, "the body: expected a JSON object"),
    ] {
        let answer = post(&format!("{json}Origin: http://localhost\r\n"), body);
        assert!(answer.status == status && answer.body.contains(says), "{body}: {}", answer.body);
        assert!(
            answer.head.contains("application/problem+json") && answer.head.contains("no-store"),
            "{}",
            answer.head
        );
    }
    let head = with("HEAD /status HTTP/1.1\r\nHost: localhost\r\n");
    assert!(head.status == 200 && head.body.is_empty() && head.head.contains("nosniff"), "{head:?}");
    setup.forebay.terminate().expect(0);
    assert!(!setup.rig.path("admin.sock").exists(), "its socket is gone with it");
}

#[test]
fn with_a_token_nobody_without_it_is_let_in_but_over_the_socket() {
    let setup = Setup::new("token_file = \"token\"\nsocket = \"admin.sock\"\n");
    let (admin, socket) = (&setup.admin, Admin::Unix(setup.rig.path("admin.sock")));
    let status = |token: &str| {
        let head = format!("GET /status HTTP/1.1\r\nHost: any.example\r\n{token}Connection: close\r\n\r\n");
        admin.request(&head).status
    };
    assert_eq!(status("Authorization: Bearer a-token-of-the-tests\r\n"), 200);
    for wrong in ["", "Authorization: Bearer a-token-of-the-test\r\n", "Authorization: Basic a-token-of-the-tests\r\n"]
    {
        assert_eq!(status(wrong), 401, "{wrong:?}");
    }
    assert!(admin.get("/metrics").head.contains("WWW-Authenticate: Bearer"));
    assert_eq!(admin.post("/pause", "{}").status, 401);
    for open in ["/", "/healthz"] {
        admin.get(open).expect(200);
    }
    socket.get("/status").expect(200);
    assert!(!setup.forebay.terminate().expect(0).contains("a-token-of-the-tests"), "the log says the token");
}

#[test]
fn an_address_that_is_taken_is_no_reason_to_stop_unless_somebody_asked_for_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let database = Database::create(Server::A, "admin_taken");
    database.execute(LEDGER);
    let topic = Topic::create("admin-taken", 1);
    let rest = format!("{}{}", shard("main", database.dsn()), ledger_topic(topic.name()));
    let rig = Rig::new(&format!("[admin]\nlisten = \"{address}\"\n{rest}"));
    rig.until_end().expect_log(69, &["[admin] listen", "in use"]);
}

/// What a person does about a key that waits.
#[test]
fn keys_and_letters_are_decided_about() {
    let setup = Setup::new("");
    publish(&setup.topic, 0..20, 10);
    setup.admin.wait_for("the rows", |status| status.totals.durable == 20);
    let held = setup.order("/park", ",\"key\":\"key 3\"");
    assert!(held.contains("is held; running processes park its records within 0.2 s"), "{held}");
    assert!(setup.order("/park", ",\"key\":\"key 3\"").contains("was held already"));
    wait_until(PATIENCE, "a parked key", || {
        publish(&setup.topic, 20..30, 10);
        setup.admin.status().totals.parked_keys == 1
    });
    let parked = setup.admin.get("/parked").expect(200);
    let parked: serde_json::Value = serde_json::from_str(&parked).expect("JSON");
    let kinds: Vec<&str> =
        parked["entries"].as_array().expect("entries").iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!(kinds, ["hold", "key", "total"], "{parked}");
    let seen = setup.admin.wait_for("the key at the frontier", |status| {
        status.partitions.iter().any(|p| p.frontier.as_ref().is_some_and(|f| f.key.as_deref() == Some("key 3")))
    });
    assert_eq!(seen.totals.message_lag, Some(0), "nobody waits for it");
    let unheld = setup.order("/unpark", ",\"key\":\"key 3\"");
    assert!(unheld.contains("is held no longer"), "{unheld}");
    setup.admin.wait_for("the key to go on", |status| status.totals.parked_keys == 0 && status.totals.time_lag_ms == 0);

    setup.publish_bad(&format!("key {CANARY}"));
    setup.admin.wait_for("a dead letter", |status| status.totals.dead_letters == 1);
    let letters = setup.admin.get("/dead-letters").expect(200);
    let letters: serde_json::Value = serde_json::from_str(&letters).expect("JSON");
    let letter = &letters["entries"][0];
    assert_eq!(letter["key"], format!("key {CANARY}"), "{letters}");
    let of = format!(",\"shard\":\"main\",\"partition\":{},\"offset\":{}", letter["partition"], letter["offset"]);
    let body = |more: &str| format!("{{\"topic\":{:?}{of}{more}}}", setup.topic.name());
    let refused = setup.admin.post("/dead-letters/replay", &body("")).expect(409);
    assert!(refused.contains("--out-of-order"), "{refused}");
    let refused = setup.admin.post("/dead-letters/replay", &body(",\"out_of_order\":true")).expect(409);
    assert!(refused.contains("refused again"), "{refused}");
    assert!(setup.order("/dead-letters/discard", &of).contains("discarded"));
    setup.admin.post("/dead-letters/discard", &body("")).expect(404);
    let level = setup.admin.post("/log-level", "{\"level\":\"error\"}").expect(200);
    assert!(level.contains("\\\"error\\\" now"), "{level}");
    assert_eq!(setup.admin.status().process.log_level, "error");
    setup.order("/pause", "");
    setup.admin.post("/log-level", "{\"level\":\"loud\"}").expect(400);
    setup.admin.post("/log-level", "{\"level\":\"info\"}").expect(200);
    setup.order("/resume", "");
    let log = setup.forebay.terminate().expect(0);
    assert!(!log.contains(CANARY), "a record's key or value is in the log");
    assert!(!log.contains("is paused until") && log.contains("goes on"), "the level changed nothing: {log}");
}

/// The page in a real browser, `forebay top` in a real terminal, and both of a process that runs.
#[test]
fn the_page_and_the_terminal_show_what_status_says_and_act_on_it() {
    let setup = Setup::new("");
    let name = setup.topic.name().to_owned();
    publish(&setup.topic, 0..300, 10);
    setup.admin.wait_for("all done", |status| status.totals.durable == 300 && status.totals.time_lag_ms == 0);
    let mut page = Chromium::open(&format!("http://{}/", setup.admin.address()));
    page.wait_for_text("#freshness", "Live");
    page.wait_for_text("#diagnosis .first", "Caught up");
    page.wait_for_text("#head h1", setup.rig.group());
    page.wait_for_text("#topics", &name);
    page.wait_for_text("#shards", "fb-w0.0");
    page.click(&format!("button[aria-label={:?}]", format!("Pause topic {name}")));
    page.wait_for_text("#ask", &format!("Pause topic {name}?"));
    page.click("#ask-yes");
    setup.admin.wait_for("a paused topic", |status| status.topics[0].state == TopicState::Paused);
    publish(&setup.topic, 300..500, 10);
    setup.admin.wait_for("a lag", |status| status.totals.message_lag == Some(200));
    page.wait_for_text("#tiles", "200");
    page.wait_for_text("#partitions", "unfetched");

    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["top", "--admin", setup.admin.address(), "--interval", "0.2"]).env_remove("NO_COLOR");
    let terminal = Terminal::run(command, 30, 120);
    terminal.wait_for(setup.rig.group());
    terminal.wait_for("unfetched");
    setup.order("/resume", "");
    setup.admin.wait_for("all done", |status| status.totals.durable == 500 && status.totals.time_lag_ms == 0);
    terminal.wait_for("Caught up");
    terminal.quits();
    page.wait_for_text("#diagnosis .first", "Caught up");
    assert_eq!(page.complaints(), [""; 0]);
    setup.forebay.terminate().expect(0);
}

/// A listing of some two megabytes, eight times for each of a hundred connections, which read nothing.
#[test]
fn listings_that_nobody_takes_hold_little() {
    let setup = Setup::new("");
    publish(&setup.topic, 0..20, 10);
    setup.admin.wait_for("the rows", |status| status.totals.durable == 20);
    setup.database.execute(
        "INSERT INTO forebay.dead_letter (source, grp, topic, partition, \"offset\", sqlstate, error, key) SELECT s.id, s.grp, \
         s.topic, 0, n, '22P02', repeat('e', 1000), decode(repeat('6b', 1000), 'hex') FROM forebay.source s, \
         generate_series(1, 1000) n",
    );
    let listing = setup.admin.get("/dead-letters?limit=1000").expect(200);
    let listing: serde_json::Value = serde_json::from_str(&listing).expect("JSON");
    let (shown, left_out) = (listing["entries"].as_array().expect("entries").len() as u64, &listing["left_out"]);
    assert!(left_out.as_u64() == Some(1000 - shown) && shown < 1000, "{shown} {left_out}");
    let memory = || setup.admin.status().process.memory_bytes.expect("/proc") >> 20;
    let before = memory();
    let address: std::net::SocketAddr = setup.admin.address().parse().expect("an address");
    let rude: Vec<std::net::TcpStream> = (0..100)
        .map(|_| {
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
            let socket = socket.expect("a socket");
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("an option");
            rustix::net::connect(&socket, &address).expect("it listens");
            let mut stream = std::net::TcpStream::from(socket);
            let request = "GET /dead-letters?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(8);
            std::io::Write::write_all(&mut stream, request.as_bytes()).expect("there is room for it");
            stream
        })
        .collect();
    // Those that are cut are cut once there is more of them than may be.
    for stream in &rude {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let seen = stream.peek(&mut [0; 9]);
        assert!(!matches!(&seen, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{seen:?}");
    }
    // None of them asks any more.
    wait_until(PATIENCE, "a listing", || setup.admin.get("/dead-letters?limit=1").status == 200);
    let after = memory();
    assert!(after < before + 100, "{before} MiB before, {after} MiB after");
    drop(rude);
    setup.forebay.terminate().expect(0);
}

/// What promtool says of a text, on its standard input.
#[track_caller]
pub fn promtool_takes(text: &str) {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: bin/install-deps test");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_real_prometheus_understands_every_metric_and_no_record_is_in_any() {
    let setup = Setup::new("lag_exporter_names = true\n");
    publish(&setup.topic, 0..5000, 50);
    setup.publish_bad(&format!("key {CANARY}"));
    setup.admin.wait_for("all done", |status| {
        let sampled =
            status.shards[0].contention.as_ref().is_some_and(|seen| !seen.tables.is_empty() && seen.wal.is_some());
        status.totals.durable == 5001 && status.totals.message_lag == Some(0) && sampled
    });
    let text = setup.admin.get("/metrics").expect(200);
    promtool_takes(&text);
    assert!(!text.contains(CANARY) && !text.contains("key "), "a record's key or value is in the metrics");
    let is_there = |name: &Name| {
        let family = name.family();
        let first =
            if family.kind == Kind::Histogram { format!("{}_bucket", family.name) } else { family.name.to_owned() };
        text.lines().any(|line| line.starts_with(&format!("{first}{{")) || line.starts_with(&format!("{first} ")))
    };
    let of_engine = Name::ALL.iter().filter(|name| !name.is_of_gateway());
    let missing: Vec<&str> = of_engine.filter(|name| !is_there(name)).map(|name| name.family().name).collect();
    assert!(missing.is_empty(), "not there: {missing:?}");

    let prometheus = Prometheus::scraping(setup.admin.address());
    let value = |promql: &str| -> Option<f64> {
        let found = prometheus.query(promql);
        assert!(found.len() <= 1, "{promql}: {found:?}");
        found.first().map(|(_, value)| *value)
    };
    wait_until(PATIENCE, "a scrape", || value("sum(forebay_records_total)") == Some(5001.0));
    assert_eq!(value("sum(forebay_lag_records)"), Some(0.0));
    assert_eq!(value("sum(forebay_stage_seconds_count{stage=\"written\"})"), Some(5001.0));
    assert_eq!(value("forebay_durable_seconds_bucket{le=\"+Inf\"}"), Some(5001.0));
    assert_eq!(value("forebay_records_total{outcome=\"dead_lettered\"}"), Some(1.0));
    assert_eq!(value("sum(forebay_shard_verdict)"), Some(1.0), "one verdict holds");
    assert_eq!(value("forebay_ready"), Some(1.0));
    assert_eq!(value("kafka_consumergroup_group_max_lag"), Some(0.0));
    let quantile = value("histogram_quantile(0.99, sum by (le) (forebay_stage_seconds_bucket{stage=\"written\"}))");
    assert!(quantile.is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{quantile:?}");
    assert_eq!(crate::real::count(&mut setup.database.connect(), "ledger"), 5000);
    setup.forebay.terminate().expect(0);
}
