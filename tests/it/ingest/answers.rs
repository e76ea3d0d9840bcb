//! What a client hears, and what comes of it.

use serde_json::json;

use super::{Gate, SUBSCRIPTIONS, gateway, json, put, request, shard};
use crate::real::texts;
use crate::support::{Admin, Database, Rig, Server, Topic};

#[test]
fn what_is_accepted_ends_in_the_table_in_order_and_once() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 4);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "")));
    let gate = Gate::start(&rig);
    assert_eq!(gate.admin().get("/readyz").status, 200);
    assert_eq!(gate.admin().get("/healthz").body, "ok\n");

    // One client, one row after the other, and each row many times: pipelined.
    let mut client = gate.client();
    let mut accepted = 0;
    for round in 0..20 {
        let requests: Vec<String> = (0..50)
            .map(|n| {
                request("PUT", "blog", &n.to_string(), &format!("{{\"state\":\"round {round}\",\"price\":{round}.5}}"))
            })
            .collect();
        client.send(requests.concat());
        for _ in 0..50 {
            let answer = client.answer();
            assert_eq!(answer.status, 202, "{}", answer.text());
            let said = json(&answer);
            assert_eq!(said["topic"], topic.name());
            assert!(
                said["partition"].as_i64().is_some_and(|p| (0..4).contains(&p)) && said["offset"].is_i64(),
                "{said}"
            );
            accepted += 1;
        }
    }
    // Headers travel; a delete is a tombstone; a PATCH leaves alone what it does not name.
    client.send(request("PATCH", "blog", "0", "{\"state\":\"patched\"}").replace(
        "Host: gateway\r\n",
        "Host: gateway\r\nTraceparent: 00-ab-cd-01\r\nidempotency-key: k1\r\nX-Other: no\r\n",
    ));
    assert_eq!(client.answer().status, 202);
    client.send(request("DELETE", "blog", "1", "").replace("Content-Length: 0\r\n", ""));
    assert_eq!(client.answer().status, 202);
    client.send(request("PUT", "sl%2Fash%20%C3%BC", "007", "{\"state\":\"x\"}"));
    assert_eq!(client.answer().status, 202);
    accepted += 3;

    let records = topic.records();
    assert_eq!(records.len(), accepted);
    let patched = records.iter().find(|r| r.header("Idempotency-Key").is_some()).expect("the headers travelled");
    assert_eq!(patched.header("traceparent").as_deref(), Some("00-ab-cd-01"));
    assert_eq!(patched.headers.len(), 2);
    let value = patched.value.as_deref().expect("a value");
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(value).expect("JSON"),
        json!({"app_id": "blog", "subscription_id": 0, "state": "patched"})
    );
    assert!(records.iter().any(|r| r.key.as_deref() == Some(b"blog:1") && r.value.is_none()));
    let odd = records.iter().find(|r| r.key.as_deref() == Some("sl/ash ü:7".as_bytes())).expect("the odd one");
    assert_eq!(
        odd.value.as_deref(),
        Some("{\"app_id\":\"sl/ash ü\",\"subscription_id\":7,\"state\":\"x\"}".as_bytes())
    );

    rig.until_end().expect(0);
    let mut connection = database.connect();
    let found = texts(
        &mut connection,
        "SELECT format('%s %s %s %s', count(*), app_id, state, coalesce(trace, '-')) || ' ' || min(price)::text FROM subscriptions \
         WHERE app_id = 'blog' GROUP BY app_id, state, trace ORDER BY 1",
    );
    assert_eq!(found, ["1 blog patched 00-ab-cd-01 19.50", "48 blog round 19 - 19.50"]);
    assert_eq!(gate.metric(&counted("2xx")), accepted as f64);
    assert_eq!(gate.metric("forebay_ingest_acknowledged_seconds_count{mode=\"async\"}"), accepted as f64);
    assert_eq!(gate.metric("forebay_ingest_queue_records") + gate.metric("forebay_ingest_late_total"), 0.0);
    drop(client);
    gate.process.terminate().expect(0);
}

fn counted(class: &str) -> String {
    let route = "PUT,PATCH,DELETE /apps/{app_id}/subscriptions/{subscription_id}";
    format!("forebay_ingest_requests_total{{route=\"{route}\",class=\"{class}\"}}")
}

#[test]
fn what_no_table_could_take_is_refused_with_a_reason() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 2);
    let more = "body_bytes_max = 4096\ntoken_file = \"token\"\n";
    let rig = Rig::empty(topic.bootstrap());
    rig.write("token", "0123456789abcdef\n");
    rig.configure(&[], &format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), more)));
    let gate = Gate::start(&rig);
    let good = request("PUT", "a", "1", "{\"state\":\"on\"}");
    let known =
        |text: &str| text.replace("Host: gateway\r\n", "Host: gateway\r\nAuthorization: Bearer 0123456789abcdef\r\n");
    let check = |text: &str, status: u16, members: serde_json::Value| {
        let mut client = gate.client();
        client.send(text);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{text}: {}", answer.text());
        assert!(answer.head.contains("Content-Type: application/problem+json\r\n"), "{}", answer.head);
        let said = json(&answer);
        assert_eq!(said["status"], status);
        for (name, value) in members.as_object().expect("members") {
            assert_eq!(&said[name], value, "{said}");
        }
        answer
    };
    let none = json!({});
    let answer = check(&good, 401, none.clone());
    assert!(answer.head.contains("WWW-Authenticate: Bearer\r\n"), "{}", answer.head);
    check(
        &good.replace("Host: gateway\r\n", "Host: gateway\r\nAuthorization: Bearer 0123456789abcdeX\r\n"),
        401,
        none.clone(),
    );
    let good = known(&good);
    check(&good.replace("/apps/a", "/app/a"), 404, none.clone());
    let answer = check(&good.replace("PUT", "POST"), 405, none.clone());
    assert!(answer.head.contains("Allow: PUT, PATCH, DELETE\r\n"), "{}", answer.head);
    check(
        &good.replace("application/json", "text/plain"),
        415,
        json!({"found": "Content-Type: text/plain", "expected": "application/json"}),
    );
    check(&good.replace("Content-Type: application/json\r\n", ""), 415, none.clone());
    let put = |body: &str| known(&request("PUT", "a", "1", body));
    check(&put("{\"state\":"), 400, json!({"found": "no valid JSON at line 1, column 9", "expected": "a JSON object"}));
    check(&put("[]"), 400, json!({"found": "an array"}));
    let unfit =
        |field: &str, found: &str, expected: &str| json!({"field": field, "found": found, "expected": expected});
    check(&put("{\"state\":1}"), 422, unfit("state", "a number", "character varying(20)"));
    check(
        &put("{\"state\":\"123456789012345678901\"}"),
        422,
        unfit("state", "a string that is too long", "character varying(20)"),
    );
    check(&put("{\"state\":\"x\",\"price\":12345}"), 422, unfit("price", "a number out of range", "numeric(6,2)"));
    check(&put("{}"), 422, unfit("state", "nothing", "a value: character varying(20), NOT NULL without a default"));
    check(
        &put("{\"stat\":\"x\"}"),
        422,
        unfit("stat", "an unknown field", "a field that a column takes; did you mean \"state\"?"),
    );
    check(
        &put("{\"state\":\"x\",\"app_id\":\"b\"}"),
        422,
        unfit("app_id", "another value in the body", "what the path says, or nothing"),
    );
    check(&known(&request("PUT", "a", "x", "{\"state\":\"x\"}")), 422, json!({"field": "subscription_id"}));
    check(&known(&request("PUT", "a:b", "1", "{\"state\":\"x\"}")), 422, json!({"field": "app_id"}));
    check(&known(&request("DELETE", "a", "1", "{}")), 400, none.clone());
    let large = format!("{{\"state\":\"{}\"}}", "x".repeat(5000));
    check(&put(&large), 413, json!({"found": "a larger body", "expected": "at most 4096 bytes"}));
    // In chunks, it is not announced.
    let chunked = good.replace("Content-Length: 14\r\n\r\n{\"state\":\"on\"}", "Transfer-Encoding: chunked\r\n\r\n");
    check(&format!("{chunked}1388\r\n{}\r\n0\r\n\r\n", "x".repeat(5000)), 413, none.clone());
    check(&good.replace("Content-Length: 14", "Content-Length: 14\r\nContent-Length: 15"), 400, none);
    assert_eq!(topic.records(), [], "nothing of all that was published");
    let refused = |reason: &str| gate.metric(&format!("forebay_ingest_refused_total{{reason=\"{reason}\"}}"));
    assert_eq!(
        [refused("token"), refused("method"), refused("contradiction"), refused("no_route"), refused("too_large")],
        [2.0, 1.0, 1.0, 1.0, 2.0]
    );

    let mut client = gate.client();
    client.send(&good);
    assert_eq!(client.answer().status, 202);
}

/// Whatever two readers could understand in two ways is refused, and what comes behind it is no request.
#[test]
fn nothing_is_smuggled_past_it() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "")));
    let gate = Gate::start(&rig);
    let hidden = request("PUT", "hidden", "1", "{\"state\":\"in\"}");
    let head = |headers: &str| {
        format!(
            "PUT /apps/a/subscriptions/1 HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n{headers}\r\n"
        )
    };
    let length = hidden.len();
    for (headers, body) in [
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), "0\r\n\r\n"),
        (format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), ""),
        ("Content-Length: 0, 0\r\n".to_owned(), ""),
        ("Content-Length: +0\r\n".to_owned(), ""),
        ("Content-Length : 0\r\n".to_owned(), ""),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding:\u{b}chunked\r\n".to_owned(), "0\r\n\r\n"),
        ("X: y\r\n Transfer-Encoding: chunked\r\n".to_owned(), "0\r\n\r\n"),
        ("X: y\nContent-Length: 0\r\n".to_owned(), ""),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "0x0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "-1\r\n\r\n"),
        ("Host: other\r\nContent-Length: 0\r\n".to_owned(), ""),
    ] {
        let mut client = gate.client();
        client.send(format!("{}{body}{hidden}", head(&headers)));
        let answer = client.answer();
        assert!(matches!(answer.status, 400 | 501) && answer.ends(), "{headers:?}: {}", answer.head);
        client.expect_gone();
    }
    assert_eq!(topic.records(), [], "nothing of all that was published");
    let mut client = gate.client();
    client.send(hidden);
    assert_eq!(client.answer().status, 202);
}

/// Tenants and partitions: what the gateway, `forebay route` and the consumer say is one and the same.
#[test]
fn topics_are_aligned_by_construction() {
    let databases = [Database::create(Server::A, "ingest"), Database::create(Server::B, "ingest")];
    databases.iter().for_each(|database| database.execute(SUBSCRIPTIONS));
    let topic = Topic::create("ingest", 6);
    let [a, b] = &databases;
    let rig = Rig::new(&format!(
        "[shards]\nby = \"hash\"\ntenant = \"key:0\"\n{}{}[engine]\nlanes = 16\n{}",
        shard("a", a.dsn(), "0,3-4"),
        shard("b", b.dsn(), "1-2,5"),
        gateway(topic.name(), "")
    ));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    let mut told = Vec::new();
    for n in 0..200 {
        let answer = put(&mut client, &format!("app{}", n % 17), n, "on");
        assert_eq!(answer.status, 202, "{}", answer.text());
        told.push((format!("app{}:{n}", n % 17), json(&answer)["partition"].as_i64().expect("a partition")));
    }
    let keys: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
    let lines = rig.command(&[&["route", "--json"], keys.as_slice()].concat());
    let mut shards = std::collections::BTreeMap::new();
    for (line, (key, partition)) in lines.lines().zip(&told) {
        let said: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&said["key"], &said["partition"]), (&json!(key), &json!(partition)), "{said}");
        assert_eq!(said["tenant"], key.split(':').next().expect("a tenant"));
        *shards.entry(said["shard"].as_str().expect("a shard").to_owned()).or_insert(0) += 1;
    }
    let explained = rig.command(&["route", "--explain", "app1:1"]);
    assert!(explained.contains("xxh3(app1) mod 2") && explained.contains("of the shard's 3 partitions"), "{explained}");
    drop(client);
    gate.process.terminate().expect(0);

    // The consumer has each row where the route says, and found none of them elsewhere.
    rig.configure(
        &[],
        &format!(
            "[shards]\nby = \"hash\"\ntenant = \"key:0\"\n{}{}[admin]\nlisten = \"127.0.0.1:0\"\n{}",
            shard("a", a.dsn(), "0,3-4"),
            shard("b", b.dsn(), "1-2,5"),
            gateway(topic.name(), "")
        ),
    );
    let process = rig.start();
    let count = |database: &Database| {
        texts(&mut database.connect(), "SELECT count(*)::text FROM subscriptions")[0].parse::<i64>().expect("a number")
    };
    crate::support::wait_until(crate::support::PATIENCE, "all rows", || count(a) + count(b) == 200);
    assert_eq!((count(a), count(b)), (shards["a"], shards["b"]));
    let Admin::Tcp(_) = process.admin() else { panic!("TCP") };
    let metrics = process.admin().get("/metrics").body;
    let misaligned = format!("forebay_records_misaligned_total{{topic=\"{}\"}} 0\n", topic.name());
    assert!(metrics.contains(&misaligned), "{metrics}");
    process.terminate().expect(0);
}
