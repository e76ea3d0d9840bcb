//! Brokers and databases that are away, and clients that are slow.

use std::time::{Duration, Instant};

use super::{Gate, SUBSCRIPTIONS, gateway, json, published, put, request, shard};
use crate::support::{Database, OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

fn resident_bytes(gate: &Gate) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", gate.process.pid())).expect("a process that runs");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

#[test]
fn a_broker_that_is_away_is_a_503_in_bounded_time_and_memory() {
    let own = OwnServices::start(&[Service::Kafka]);
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "ingest", 2, &[]);
    let more = "deadline_ms = 2000\nqueue_records_max = 200\ncatalog_interval_ms = 1000\n";
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), more));
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &toml);
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    assert_eq!(put(&mut client, "a", 1, "before").status, 202);

    // It hangs: whoever comes waits no longer than the deadline, and no more of them than may.
    own.freeze(Service::Kafka);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| gate.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let many: Vec<String> =
            (0..50).map(|m| request("PUT", &format!("c{n}"), &m.to_string(), "{\"state\":\"during\"}")).collect();
        client.send(many.concat());
    }
    let mut reasons = std::collections::BTreeMap::new();
    for client in &mut clients {
        for _ in 0..50 {
            let answer = client.answer();
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(answer.head.contains("Retry-After: 1\r\n"), "{}", answer.head);
            *reasons.entry(json(&answer)["detail"].as_str().expect("a reason").to_owned()).or_insert(0) += 1;
        }
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}: {reasons:?}");
    assert_eq!(reasons["as many records are on their way to the brokers as may be"], 800, "{reasons:?}");
    wait_until(PATIENCE, "readiness to end", || gate.admin().get("/readyz").status == 503);
    assert!(gate.admin().get("/readyz").body.contains("the brokers do not answer"));

    // It is gone, and clients go on.
    own.thaw(Service::Kafka);
    own.stop(Service::Kafka, Stop::Immediate);
    let before = resident_bytes(&gate);
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(request("PUT", &format!("c{n}"), "1", "{\"state\":\"away\"}"));
        }
        for client in &mut clients {
            assert_eq!(client.answer().status, 503);
        }
    }
    let grown = resident_bytes(&gate).saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes more");
    wait_until(PATIENCE, "an empty queue", || gate.metric("forebay_ingest_queue_records") == 0.0);

    own.up(Service::Kafka);
    wait_until(PATIENCE, "an acceptance", || put(&mut client, "a", 2, "after").status == 202);
    wait_until(PATIENCE, "readiness", || gate.admin().get("/readyz").status == 200);
    assert_eq!(put(&mut client, "a", 3, "after").status, 202);
    let records = published(&topic);
    for (key, state) in [("a:1", "before"), ("a:2", "after"), ("a:3", "after")] {
        let found = records.iter().filter(|record| **record == (key.to_owned(), Some(state.to_owned()))).count();
        assert_eq!(found, 1, "{key} {state}");
    }
    gate.process.terminate().expect(0);
}

#[test]
fn it_starts_and_serves_with_every_database_away() {
    let topic = Topic::create("ingest", 2);
    let rig = Rig::empty(topic.bootstrap());
    let toml =
        |dsn: &str| format!("{}{}", shard("main", dsn, ""), gateway(topic.name(), "catalog_interval_ms = 1000\n"));
    let nowhere = "host=127.0.0.1 port=1 user=nobody dbname=none connect_timeout=1";
    // Nothing is known, and nobody says anything.
    rig.configure(&[], &toml(nowhere));
    let gate = Gate::start(&rig);
    let answer = put(&mut gate.client(), "a", 1, "x");
    assert_eq!(answer.status, 503);
    assert_eq!(json(&answer)["detail"], "no database has said yet what the columns of subscriptions are");
    let ready = gate.admin().get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("no database has said yet"), "{ready:?}");
    gate.process.terminate().expect(0);

    // Once somebody has said it, it is remembered.
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    rig.configure(&[], &toml(database.dsn()));
    let gate = Gate::start(&rig);
    assert_eq!(put(&mut gate.client(), "a", 1, "x").status, 202);
    // A column that is added is known soon.
    database.execute("ALTER TABLE subscriptions ADD colour text");
    let mut client = gate.client();
    wait_until(PATIENCE, "the new column", || {
        client.send(request("PUT", "a", "1", "{\"state\":\"x\",\"colour\":\"red\"}"));
        client.answer().status == 202
    });
    drop(client);
    gate.process.terminate().expect(0);
    drop(database);

    rig.configure(&[], &toml(nowhere));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    client.send(request("PUT", "a", "1", "{\"state\":\"x\",\"colour\":\"red\"}"));
    assert_eq!(client.answer().status, 202);
    client.send(request("PUT", "a", "1", "{\"state\":7}"));
    assert_eq!(client.answer().status, 422);
    assert_eq!(gate.admin().get("/readyz").status, 200);
    gate.process.wait_for_log(&["shard main does not say what its tables are like", "ago holds"]);
    let status: serde_json::Value = serde_json::from_str(&gate.admin().get("/status").body).expect("JSON");
    assert!(status["shards"][0]["catalog_seen_at_ms"].is_u64() && status["shards"][0]["away"].is_string(), "{status}");
    assert!(gate.metric("forebay_ingest_catalog_age_seconds{shard=\"main\"}") > 0.0);
    drop(client);
    gate.process.terminate().expect(0);
}

#[test]
fn slow_and_broken_clients_cost_the_others_nothing() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 2);
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "threads = 1\n"));
    let rig = Rig::new(&toml);
    let gate = Gate::start(&rig);
    // A byte at a time, and bodies that never end.
    let slowly = request("PUT", "slow", "1", "{\"state\":\"slow\"}");
    let mut slow: Vec<_> = (0..50).map(|_| gate.client()).collect();
    let mut fast = gate.client();
    for (n, byte) in slowly.as_bytes().iter().enumerate() {
        let last = n + 1 == slowly.len();
        for (k, client) in slow.iter_mut().enumerate() {
            if !last || k == 0 {
                client.send([*byte]);
            }
        }
        if n % 20 == 0 {
            let start = Instant::now();
            assert_eq!(put(&mut fast, "fast", n as i32, "on").status, 202);
            assert!(start.elapsed() < Duration::from_secs(5));
        }
    }
    assert_eq!(slow[0].answer().status, 202);
    drop(slow);
    assert_eq!(put(&mut fast, "fast", 1000, "on").status, 202);
    let slow = published(&topic).iter().filter(|(key, _)| key == "slow:1").count();
    assert_eq!(slow, 1, "what was cut is no record");
    drop(fast);
    gate.process.terminate().expect(0);
}
