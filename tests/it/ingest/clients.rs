//! Clients that others wrote: curl, and Python's own, with keep-alive and pipelining.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Gate, SUBSCRIPTIONS, gateway, published, request, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

const PYTHON: &str = r#"
import http.client, json, socket, sys
host, port = sys.argv[1].rsplit(":", 1)
kept = http.client.HTTPConnection(host, int(port), timeout=30)
for n in range(100):
    kept.request("PUT", f"/apps/py/subscriptions/{n}", json.dumps({"state": f"kept {n}"}), {"Content-Type": "application/json"})
    answer = kept.getresponse()
    assert answer.status == 202, answer.read()
    assert set(json.load(answer)) == {"topic", "partition", "offset"}
    if n == 0:
        own = kept.sock
assert kept.sock is own, "the connection was kept"
line = socket.create_connection((host, int(port)), timeout=30)
body = json.dumps({"state": "piped"})
one = "PATCH /apps/py/subscriptions/%d HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
line.sendall("".join(one % (n, len(body), body) for n in range(200)).encode())
line.shutdown(socket.SHUT_WR)
answers = b""
while chunk := line.recv(65536):
    answers += chunk
assert answers.count(b"HTTP/1.1 202 Accepted\r\n") == 200, answers
chunked = http.client.HTTPConnection(host, int(port), timeout=30)
chunked.request("PUT", "/apps/py/subscriptions/7", iter([b'{"sta', b'te":"chun', b'ked"}']), {"Content-Type": "application/json"}, encode_chunked=True)
assert chunked.getresponse().status == 202
"#;

#[test]
fn curl_and_python_are_understood() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 2);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "")));
    let gate = Gate::start(&rig);

    let python = Command::new("python3").args(["-c", PYTHON, &gate.address.to_string()]).output().expect("python3");
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));

    let url = |subscription: &str| format!("http://{}/apps/curl/subscriptions/{subscription}", gate.address);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").args(["-sS", "-w", "%{http_code}"]).args(arguments).output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let json = "Content-Type: application/json";
    // With a body so large that curl asks whether it may come.
    let large = format!("{{\"state\":\"expected\"{}}}", " ".repeat(100_000));
    for (arguments, status) in [
        (["-X", "PUT", "-H", json, "-d", "{\"state\":\"one\"}", &url("1")].as_slice(), "202"),
        (&["-X", "PUT", "-H", json, "-H", "Expect: 100-continue", "-d", &large, &url("2")], "202"),
        (&["-X", "DELETE", &url("1")], "202"),
        (&["-X", "PUT", "-d", "state=one", &url("1")], "415"),
        (&["-X", "PUT", "-H", json, "-H", "Expect: 100-continue", "-d", &large, &url("x/y")], "404"),
        (&[&url("1")], "405"),
    ] {
        let said = curl(arguments);
        assert!(said.ends_with(status), "{}: {said}", arguments.last().expect("an address"));
    }
    let records = published(&topic);
    let of_curl: Vec<_> = records.iter().filter(|(key, _)| key.starts_with("curl:1")).collect();
    assert_eq!(of_curl.iter().map(|(_, state)| state.as_deref()).collect::<Vec<_>>(), [Some("one"), None]);
    assert_eq!(records.len(), 304);
    let seven: Vec<_> = records.iter().filter(|(key, _)| key == "py:7").map(|(_, state)| state.as_deref()).collect();
    assert_eq!(seven, [Some("kept 7"), Some("piped"), Some("chunked")]);
}

/// As many as a gateway in front of many small clients has, nearly all of which ask for nothing at a time.
#[test]
fn ten_thousand_connections_are_served() {
    const CONNECTIONS: usize = 10_000;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(
        maximum.is_none_or(|most| most > 12_000),
        "this test opens 10,000 connections, and may have {maximum:?} files"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a soft limit like the hard one");
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 2);
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "connections_max = 16384\n"));
    let rig = Rig::new(&toml);
    let gate = Gate::start(&rig);
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| gate.client()).collect();
    wait_until(PATIENCE, "all of them", || gate.metric("forebay_ingest_connections") == CONNECTIONS as f64);
    for _ in 0..2 {
        for (n, client) in clients.iter_mut().enumerate().step_by(10) {
            client.send(request("PUT", "many", &n.to_string(), "{\"state\":\"on\"}"));
        }
        for client in clients.iter_mut().step_by(10) {
            assert_eq!(client.answer().status, 202);
        }
    }
    assert_eq!(gate.metric("forebay_ingest_connections"), CONNECTIONS as f64);
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", gate.process.pid())).expect("a process that runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    assert!(pages * 4096 < 256 << 20, "{pages} pages");
    drop(clients);
    gate.process.terminate().expect(0);
}
