//! `mode = "sync"`: the same rows as by way of Kafka, and what a client hears when the database cannot.

use std::time::{Duration, Instant};

use super::{Gate, SUBSCRIPTIONS, gateway, json, put, request, shard};
use crate::real::texts;
use crate::support::{Database, Rig, Server, Topic};

fn sync(topic: &str, more: &str) -> String {
    gateway(topic, more).replace("mode = \"async\"", "mode = \"sync\"")
}

const ROWS: &str =
    "SELECT format('%s %s %s %s %s', app_id, subscription_id, state, price, trace) FROM subscriptions ORDER BY 1";

#[test]
fn both_modes_end_in_equal_tables() {
    let databases = [Database::create(Server::A, "ingest"), Database::create(Server::B, "ingest")];
    databases.iter().for_each(|database| database.execute(SUBSCRIPTIONS));
    let [before, after] = &databases;
    let topic = Topic::create("ingest", 3);
    let rig_of = |toml: &str| Rig::new(toml);
    let old = rig_of(&format!("{}{}", shard("main", before.dsn(), ""), sync(topic.name(), "")));
    let new = rig_of(&format!("{}{}", shard("main", after.dsn(), ""), gateway(topic.name(), "")));
    for (rig, status) in [(&old, 200), (&new, 202)] {
        let gate = Gate::start(rig);
        let mut client = gate.client();
        for n in 0..300 {
            let (app, row) = (format!("app{}", n % 3), (n % 20).to_string());
            let text = match n % 7 {
                6 => request("DELETE", &app, &row, ""),
                5 => request("PUT", &app, &row, &format!("{{\"state\":\"s{n}\",\"price\":{n}.25}}")),
                4 => request("PATCH", &app, &row, &format!("{{\"state\":\"p{n}\",\"price\":null}}")),
                _ => request("PUT", &app, &row, &format!("{{\"state\":\"s{n}\"}}"))
                    .replace("Host: gateway\r\n", &format!("Host: gateway\r\ntraceparent: t{n}\r\n")),
            };
            client.send(text);
            let answer = client.answer();
            assert_eq!(answer.status, status, "{}", answer.text());
        }
        drop(client);
        gate.process.terminate().expect(0);
    }
    new.until_end().expect(0);
    let rows = texts(&mut before.connect(), ROWS);
    assert!(rows.len() > 30, "{rows:?}");
    assert_eq!(texts(&mut after.connect(), ROWS), rows);
}

#[test]
fn what_the_database_refuses_is_the_client_s_and_what_it_cannot_is_not() {
    let database = Database::create(Server::A, "ingest");
    database.execute(&format!(
        "CREATE TABLE apps (app_id text PRIMARY KEY); INSERT INTO apps VALUES ('a'), ('b'); {SUBSCRIPTIONS}; \
         ALTER TABLE subscriptions ADD FOREIGN KEY (app_id) REFERENCES apps, ADD UNIQUE (state), ADD CHECK (price > 0)"
    ));
    let topic = Topic::create("ingest", 1);
    let more = "deadline_ms = 3000\npool_size = 1\npool_wait_ms = 300\n";
    // Locks are waited for longer than requests are.
    let main = format!("{}lock_timeout_ms = 20000\n", shard("main", database.dsn(), ""));
    let rig = Rig::new(&format!("{main}{}", sync(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    assert_eq!(put(&mut client, "a", 1, "one").status, 200);
    let answer = put(&mut client, "a", 2, "one");
    assert!(answer.status == 409 && answer.text().contains("23505"), "{}", answer.text());
    let answer = put(&mut client, "nobody", 1, "two");
    assert!(answer.status == 409 && answer.text().contains("23503"), "{}", answer.text());
    client.send(request("PATCH", "a", "1", "{\"price\":-1,\"state\":\"x\"}"));
    let answer = client.answer();
    assert!(answer.status == 422 && answer.text().contains("23514"), "{}", answer.text());
    client.send(request("PATCH", "a", "99", "{\"price\":1}"));
    let answer = client.answer();
    assert!(answer.status == 422 && answer.text().contains("23502"), "{}", answer.text());

    // Somebody has the row, and the only connection waits for it.
    let mut other = database.connect();
    other
        .batch_execute("BEGIN; UPDATE subscriptions SET price = 5 WHERE app_id = 'a' AND subscription_id = 1")
        .unwrap();
    let mut waits = gate.client();
    waits.send(request("PUT", "a", "1", "{\"state\":\"late\"}"));
    // Until it has begun, the other one could be the one that waits.
    crate::support::wait_until(crate::support::PATIENCE, "a lock to be waited for", || {
        let waiting = "SELECT count(*)::text FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        texts(&mut database.connect(), waiting) != ["0"]
    });
    let start = Instant::now();
    let answer = put(&mut client, "b", 7, "never");
    let took = start.elapsed();
    assert_eq!(
        (answer.status, json(&answer)["detail"].as_str()),
        (503, Some("no connection to the database was free in time; nothing was done"))
    );
    assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
    let answer = waits.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("whether it was done is not known"), "{}", answer.text());
    other.batch_execute("COMMIT").unwrap();
    crate::support::wait_until(crate::support::PATIENCE, "the connection", || {
        put(&mut client, "b", 8, "after").status == 200
    });
    let rows =
        texts(&mut database.connect(), "SELECT app_id || subscription_id || state FROM subscriptions ORDER BY 1");
    assert_eq!(rows, ["a1late", "b8after"], "what was told that nothing was done was not done");
    assert!(gate.metric("forebay_ingest_acknowledged_seconds_count{mode=\"sync\"}") >= 2.0);
    assert_eq!(topic.records(), [], "nothing of it goes to Kafka");
    drop((client, waits));
    gate.process.terminate().expect(0);
}

/// It would take connections that others need, or fail under load instead of now.
#[test]
fn beyond_what_the_database_lets_in_it_does_not_start() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    database.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 8", database.name()));
    let topic = Topic::create("ingest", 1);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), sync(topic.name(), "pool_size = 8\n")));
    let found =
        "found 9 connections needed (8 of the gateway's pool + 1), expected at most 8, the database's connection limit";
    rig.start_command("ingest", "forebay.toml", &[]).ended().expect_log(78, &[found]);
}
