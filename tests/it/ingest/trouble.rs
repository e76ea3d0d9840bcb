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
fn an_address_that_somebody_has_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let serving = gateway(topic.name(), "").replacen("127.0.0.1:0", &address.to_string(), 1);
    let rig = Rig::new(&format!("{}{serving}", shard("main", database.dsn(), "")));
    let ended = rig.start_command("ingest", "forebay.toml", &[]).ended();
    ended.expect_log(69, &[&format!("\"message\":\"[ingest] listen {address}: Address already in use")]);
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

/// Of a file that is none of ours nothing is believed, and it is made anew.
#[test]
fn a_broken_file_of_catalogs_is_asked_anew() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "")));
    for garbage in
        ["{\"version\":1,\"tables\":[{\"shard\":\"ma", "{\"version\":99,\"tables\":[],\"topics\":[]}", "\u{0}\u{1}"]
    {
        rig.write("forebay.catalog.json", garbage);
        let gate = Gate::start(&rig);
        gate.process.wait_for_log(&["what the tables are like is asked anew"]);
        assert_eq!(put(&mut gate.client(), "a", 1, "on").status, 202);
        let ours = || {
            let text = std::fs::read_to_string(rig.path("forebay.catalog.json")).expect("a file");
            serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|json| json["tables"][0]["shard"] == "main")
        };
        wait_until(PATIENCE, "a file of ours", ours);
        gate.process.terminate().expect(0);
    }
}

#[test]
fn more_partitions_are_followed() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let toml =
        format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), "catalog_interval_ms = 1000\n"));
    let rig = Rig::new(&toml);
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    let highest = |client: &mut crate::http::client::Client| {
        let partition = |n: i32| {
            let answer = put(client, "a", n, "on");
            assert_eq!(answer.status, 202, "{}", answer.text());
            json(&answer)["partition"].as_i64().expect("a partition")
        };
        (0..50).map(partition).max()
    };
    assert_eq!(highest(&mut client), Some(0));
    topic.grow(6);
    wait_until(PATIENCE, "the new partitions", || highest(&mut client) == Some(5));
    gate.process.wait_for_log(&["has 6 partitions, and had 1: keys move"]);
    assert_eq!(gate.admin().get("/readyz").status, 200);
    drop(client);
    gate.process.terminate().expect(0);
}

/// A topic that is not made yet, and a table that one topic lacks.
#[test]
fn what_one_route_lacks_is_nothing_to_the_others() {
    // Brokers that would make whatever they are asked for.
    let own = OwnServices::start_with(&[Service::Kafka], "auto.create.topics.enable=true");
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "ingest", 2, &[]);
    let other = |topic: &str, table: &str| {
        format!(
            "[[topic]]\nname = {topic:?}\ntable = {table:?}\ninsert_mode = \"upsert\"\npk_fields = [\"app_id\", \"subscription_id\"]\n\
             [[ingest.route]]\npath = \"/{topic}/{{app_id}}/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = {topic:?}\n"
        )
    };
    let more = "catalog_interval_ms = 1000\n";
    let toml = format!(
        "{}{}{}{}",
        shard("main", database.dsn(), ""),
        gateway(topic.name(), more),
        other("unmade", "subscriptions"),
        other("tableless", "nowhere")
    );
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &toml);
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    assert_eq!(put(&mut client, "a", 1, "on").status, 202);
    for (path, why) in [
        ("/unmade/a", "the brokers have not said yet how many partitions the topic has"),
        ("/tableless/a", "no database has said yet what the columns of nowhere are"),
    ] {
        client.send(request("PUT", "a", "1", "{\"state\":\"x\"}").replace("/apps/a/subscriptions", path));
        let answer = client.answer();
        assert_eq!((answer.status, json(&answer)["detail"].as_str()), (503, Some(why)));
    }
    let ready = gate.admin().get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("unmade") && ready.body.contains("nowhere"), "{ready:?}");
    gate.process.wait_for_log(&["topic unmade: the brokers do not know it"]);
    let names = topic.all_names();
    assert!(names.iter().any(|name| name == topic.name()) && !names.iter().any(|name| name == "unmade"), "{names:?}");
    gate.process.terminate().expect(0);
}

/// A topic that takes no more than `bytes_max` at a time, of what can hardly be compressed.
fn with_bound(bytes_max: &str) -> (Database, Topic, Rig) {
    let database = Database::create(Server::A, "ingest");
    database.execute(&SUBSCRIPTIONS.replace("varchar(20)", "text"));
    let topic = Topic::create_with("ingest", 1, &[("max.message.bytes", bytes_max)]);
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), ""));
    // Whatever comes within this time would go together.
    let rig = Rig::at(topic.bootstrap(), &[("linger.ms", "300")], &toml);
    (database, topic, rig)
}

fn body(length: usize) -> String {
    let noise: String = (0..length).map(|_| fastrand::alphanumeric()).collect();
    format!("{{\"state\":\"{noise}\"}}")
}

/// Batches are smaller, and who is alone too large is told so.
#[test]
fn only_who_is_too_large_by_itself_is_told_so() {
    let (_database, _topic, rig) = with_bound("70000");
    let gate = Gate::start(&rig);
    let mut clients: Vec<_> = (0..3).map(|_| gate.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let many: String = (0..60).map(|m| request("PUT", &format!("c{n}"), &m.to_string(), &body(3000))).collect();
        client.send(many);
    }
    for client in &mut clients {
        for _ in 0..60 {
            let answer = client.answer();
            assert_eq!(answer.status, 202, "{}", answer.text());
        }
    }
    for (length, status) in [(60_000, 202), (100_000, 413)] {
        clients[0].send(request("PUT", "large", "1", &body(length)));
        let answer = clients[0].answer();
        assert_eq!(answer.status, status, "{length}: {}", answer.text());
    }
    drop(clients);
    gate.process.terminate().expect(0);
}

/// Where nobody else asks there are no others that it can have gone with.
#[test]
fn who_is_alone_is_told_that_it_is_too_large() {
    let (_database, _topic, rig) = with_bound("3000");
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    for (together, length, status) in [(1, 4500, 413), (3, 2000, 503), (1, 2000, 202), (1, 4500, 413)] {
        client.send((0..together).map(|n| request("PUT", "a", &n.to_string(), &body(length))).collect::<String>());
        for _ in 0..together {
            let answer = client.answer();
            assert_eq!(answer.status, status, "{together} of {length}: {}", answer.text());
        }
    }
    drop(client);
    gate.process.terminate().expect(0);
}

/// A pipe would never be read to its end.
#[test]
fn a_catalog_file_that_is_no_file_keeps_nobody() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let rig = Rig::empty(topic.bootstrap());
    let pipe = rig.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let more = format!("catalog_file = {pipe:?}\n");
    rig.configure(&[], &format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), &more)));
    let gate = Gate::start(&rig);
    assert_eq!(put(&mut gate.client(), "a", 1, "x").status, 202);
    gate.process.wait_for_log(&["found something else, expected a file"]);
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
    // Heads that never end, however diligently they come, are waited for no longer than ten seconds.
    let mut heads: Vec<_> = (0..20).map(|_| gate.client()).collect();
    heads.iter_mut().for_each(|client| client.send("PUT /apps/head/subscriptions/1 HTTP/1.1\r\nHost: a\r\nX: "));
    let start = Instant::now();
    let mut answered = 0;
    while answered < heads.len() {
        assert!(start.elapsed() < Duration::from_secs(20), "only {answered} were cut");
        assert_eq!(put(&mut fast, "fast", 999, "on").status, 202);
        answered = 0;
        for client in &mut heads {
            // Once it is answered, nothing more is taken.
            let _ = client.try_send(b"x");
            answered += usize::from(client.has_something());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(start.elapsed() > Duration::from_secs(9), "{:?}", start.elapsed());
    for client in &mut heads {
        assert_eq!(client.answer().status, 408);
    }
    assert!(gate.metric("forebay_ingest_malformed_total") >= 20.0);
    drop((slow, heads));
    assert_eq!(put(&mut fast, "fast", 1000, "on").status, 202);
    let slow = published(&topic).iter().filter(|(key, _)| key == "slow:1").count();
    assert_eq!(slow, 1, "what was cut is no record");
    drop(fast);
    gate.process.terminate().expect(0);
}
