//! `mode = "sync"`: the same rows as by way of Kafka, and what a client hears when the database cannot.

use std::time::{Duration, Instant};

use super::{Gate, SUBSCRIPTIONS, gateway, json, put, request, shard};
use crate::real::texts;
use crate::support::{Database, OwnServices, PATIENCE, Proxy, Rig, Server, Service, Stop, Topic, port_of, wait_until};

pub fn sync(topic: &str, more: &str) -> String {
    gateway(topic, more).replace("mode = \"async\"", "mode = \"sync\"")
}

pub const ROWS: &str =
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
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), sync(topic.name(), more)));
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
    wait_for_waiting(&database, 1);
    let start = Instant::now();
    let answer = put(&mut client, "b", 7, "never");
    let took = start.elapsed();
    assert_eq!(
        (answer.status, json(&answer)["detail"].as_str()),
        (503, Some("no connection to the database was free in time; nothing was done"))
    );
    assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
    let answer = waits.answer();
    assert!(answer.status == 503 && answer.text().contains("nothing was done"), "{}", answer.text());
    other.batch_execute("COMMIT").unwrap();
    wait_until(PATIENCE, "the connection", || put(&mut client, "b", 8, "after").status == 200);
    let rows =
        texts(&mut database.connect(), "SELECT app_id || subscription_id || state FROM subscriptions ORDER BY 1");
    assert_eq!(rows, ["a1one", "b8after"], "what was told that nothing was done was not done");
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

/// Waits until so many of the gateway's connections wait for a lock.
#[track_caller]
pub fn wait_for_waiting(database: &Database, connections: usize) {
    let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND application_name LIKE '%/sync'";
    let mut connection = database.connect();
    wait_until(PATIENCE, "locks to be waited for", || texts(&mut connection, waiting) == [connections.to_string()]);
}

#[test]
fn how_many_rows_is_said() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let toml = sync(topic.name(), "").replace("key_format", "guard = \"price\"\nkey_format");
    let rig = Rig::new(&format!("{}{toml}", shard("main", database.dsn(), "")));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    for (method, body, rows) in [
        ("DELETE", "", 0),
        ("PUT", "{\"state\":\"new\",\"price\":2}", 1),
        ("PUT", "{\"state\":\"old\",\"price\":1}", 0),
        ("PUT", "{\"state\":\"newer\",\"price\":3}", 1),
        ("DELETE", "", 1),
    ] {
        client.send(request(method, "a", "1", body));
        let answer = client.answer();
        assert_eq!((answer.status, json(&answer)), (200, serde_json::json!({ "rows": rows })), "{method} {body}");
    }
    // Its connections are checked as the engine's are.
    let stored = "SELECT key || ' ' || value FROM forebay.meta WHERE key = 'shard'";
    assert_eq!(texts(&mut database.connect(), stored), ["shard main"]);
}

/// All connections are there, and idle for longer than anybody who waits for a database may be left without an answer.
#[test]
fn a_connection_may_idle() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let dsn = format!(
        "{} options='-c statement_timeout=1500 -c lock_timeout=1400 -c idle_in_transaction_session_timeout=1500'",
        database.dsn()
    );
    let rig = Rig::new(&format!("{}{}", shard("main", &dsn, ""), sync(topic.name(), "pool_size = 2\n")));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    // Forebay's tables are made first, which may take longer.
    wait_until(PATIENCE, "a row", || put(&mut client, "a", 0, "before").status == 200);
    (0..10).for_each(|n| assert_eq!(put(&mut client, "a", n, "before").status, 200));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(13) {
        assert!(!gate.process.log().contains("it is cut"), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    (0..10).for_each(|n| assert_eq!(put(&mut client, "a", n, "after").status, 200));
}

/// Nobody is told that the outcome is not known only because connections were opened before the database started again.
#[test]
fn a_database_that_was_restarted_costs_no_request() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let connect = || postgres::Client::connect(&own.pg_dsn(Server::A), postgres::NoTls).expect("it answers");
    connect().batch_execute(SUBSCRIPTIONS).expect("a table");
    let topic = Topic::create("ingest", 1);
    let rig =
        Rig::new(&format!("{}{}", shard("main", &own.pg_dsn(Server::A), ""), sync(topic.name(), "pool_size = 4\n")));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    for how in [Stop::Immediate, Stop::Fast] {
        // As many as there are connections at the same time: all of them are opened.
        let mut other = connect();
        other.batch_execute("BEGIN; LOCK TABLE subscriptions").expect("a lock");
        let all: Vec<String> = (0..4).map(|n| request("PUT", "a", &n.to_string(), "{\"state\":\"x\"}")).collect();
        client.send(all.concat());
        let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%/sync'";
        let mut looks = connect();
        wait_until(PATIENCE, "four connections", || texts(&mut looks, waiting) == ["4"]);
        other.batch_execute("COMMIT").expect("it ends");
        (0..4).for_each(|_| assert_eq!(client.answer().status, 200));
        drop((other, looks));
        own.restart(Service::Pg(Server::A), how);
        client.send(all.concat());
        for _ in 0..4 {
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{how:?}: {}", answer.text());
        }
    }
}

/// It would write rows where nobody looks for them.
#[test]
fn a_database_that_is_another_shard_is_refused() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let rig = Rig::empty(topic.bootstrap());
    let toml = |name: &str| format!("{}{}", shard(name, database.dsn(), ""), sync(topic.name(), "pool_size = 1\n"));
    rig.configure(&[], &toml("main"));
    let gate = Gate::start(&rig);
    assert_eq!(put(&mut gate.client(), "a", 1, "right").status, 200);
    gate.process.terminate().expect(0);
    rig.configure(&[], &toml("other"));
    let gate = Gate::start(&rig);
    let answer = put(&mut gate.client(), "a", 2, "wrong");
    assert!(answer.status == 503 && answer.text().contains("the database refuses this gateway"), "{}", answer.text());
    gate.process.wait_for_log(&["this database is the shard \"main\""]);
    let ready = gate.admin().get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("this database is the shard \"main\""), "{ready:?}");
    assert_eq!(texts(&mut database.connect(), "SELECT state FROM subscriptions"), ["right"]);
}

#[test]
fn pipelined_requests_of_a_row_are_written_in_order() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    database.execute(
        "CREATE TABLE seen (n bigserial, app_id text, subscription_id int, state text); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO seen (app_id, subscription_id, state) VALUES (NEW.app_id, NEW.subscription_id, NEW.state); RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON subscriptions FOR EACH ROW EXECUTE FUNCTION note()",
    );
    let topic = Topic::create("ingest", 1);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), sync(topic.name(), "pool_size = 8\n")));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    let all: Vec<String> =
        (0..300).map(|n| request("PUT", "a", &(n % 3).to_string(), &format!("{{\"state\":\"{n}\"}}"))).collect();
    client.send(all.concat());
    (0..300).for_each(|_| assert_eq!(client.answer().status, 200));
    for row in 0..3 {
        let seen = format!("SELECT state FROM seen WHERE subscription_id = {row} ORDER BY n");
        let expected: Vec<String> = (0..300).filter(|n| n % 3 == row).map(|n| n.to_string()).collect();
        assert_eq!(texts(&mut database.connect(), &seen), expected);
    }
}

/// A database that hangs: its requests wait, and nobody else does.
#[test]
fn rows_that_wait_take_no_room_of_records() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let more = "queue_records_max = 10\npool_size = 2\npool_wait_ms = 500\ndeadline_ms = 2000\n";
    let at_once = format!(
        "[[ingest.route]]\npath = \"/now/{{app_id}}/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = {:?}\nmode = \"sync\"\n",
        topic.name()
    );
    let main = format!("{}lock_timeout_ms = 20000\n", shard("main", database.dsn(), ""));
    let rig = Rig::new(&format!("{main}{}{at_once}", gateway(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut other = database.connect();
    other.batch_execute("BEGIN; LOCK TABLE subscriptions").expect("a lock");
    let mut waits = gate.client();
    let now =
        |n: usize| request("PUT", "a", &n.to_string(), "{\"state\":\"x\"}").replace("/apps/a/subscriptions", "/now/a");
    waits.send((0..40).map(now).collect::<String>());
    wait_for_waiting(&database, 2);
    let mut client = gate.client();
    for n in 0..20 {
        assert_eq!(put(&mut client, "b", n, "on").status, 202);
    }
    let details: Vec<String> = (0..40)
        .map(|_| {
            let answer = waits.answer();
            assert_eq!(answer.status, 503, "{}", answer.text());
            json(&answer)["detail"].as_str().expect("why").to_owned()
        })
        .collect();
    let not_done = details.iter().filter(|why| why.contains("nothing was done")).count();
    let locked_out = details.iter().filter(|why| why.contains("somebody else holds it")).count();
    assert_eq!((locked_out, not_done, details.len()), (2, 40, 40), "{details:?}");
    other.batch_execute("COMMIT").expect("it ends");
    // Nothing of it comes late.
    waits.send(now(99));
    assert_eq!(waits.answer().status, 200);
    assert_eq!(texts(&mut database.connect(), "SELECT count(*)::text FROM subscriptions"), ["1"]);
    assert_eq!(gate.metric("forebay_ingest_late_total"), 0.0);
}

/// To open a connection may take long, and nothing was done then.
#[test]
fn who_waits_for_a_connection_to_be_opened_waits_no_longer() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let proxy = Proxy::to(port_of(database.dsn()));
    let more = "pool_size = 1\npool_wait_ms = 300\ncatalog_interval_ms = 3600000\n";
    let main = format!("{}connect_timeout_ms = 1000\n", shard("main", &proxy.dsn(database.dsn()), ""));
    let rig = Rig::new(&format!("{main}{}", sync(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    client.send(request("PUT", "a", "1", "{\"state\":1}"));
    assert_eq!(client.answer().status, 422, "its table is known");
    proxy.swallow(true);
    let start = Instant::now();
    let answer = put(&mut client, "a", 1, "never");
    assert!(answer.status == 503 && answer.text().contains("nothing was done"), "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    proxy.swallow(false);
    wait_until(PATIENCE, "a connection", || put(&mut client, "a", 2, "on").status == 200);
    assert_eq!(texts(&mut database.connect(), "SELECT subscription_id::text FROM subscriptions"), ["2"]);
}

/// Back and forth under load, while records of one mode wait and rows of the other are written: with a guard the newest write stays.
#[test]
fn with_a_guard_modes_may_change_under_load() {
    let database = Database::create(Server::A, "ingest");
    database.execute(&SUBSCRIPTIONS.replace("price numeric(6,2)", "price numeric(6,2), version int NOT NULL"));
    let topic = Topic::create("ingest", 2);
    let guarded = |toml: String| {
        let toml = toml.replace("key_format", "guard = \"version\"\nkey_format");
        format!("{}{toml}", shard("main", database.dsn(), ""))
    };
    let rig = Rig::new(&guarded(gateway(topic.name(), "")));
    rig.configure_as("sync.toml", &[], &guarded(sync(topic.name(), "pool_size = 4\n")));
    let engine = rig.start();
    let gates = [Gate::start(&rig), Gate::of(rig.start_command("ingest", "sync.toml", &[]))];
    let address = [gates[0].address, gates[1].address];
    let last = 400;
    let clients: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut clients = address.map(crate::http::client::Client::tcp);
                let mut held_back = 0;
                for version in 1..=last {
                    // A few in one mode, a few in the other.
                    let mode = version as usize / 7 % 2;
                    let body = format!("{{\"state\":\"v{version}\",\"version\":{version}}}");
                    clients[mode].send(request("PUT", &format!("c{number}"), "1", &body));
                    let answer = clients[mode].answer();
                    assert_eq!(answer.status, [202, 200][mode], "{}", answer.text());
                    held_back += usize::from(mode == 1 && json(&answer)["rows"] == 0);
                }
                held_back
            })
        })
        .collect();
    let held_back: usize = clients.into_iter().map(|client| client.join().expect("a client")).sum();
    assert_eq!(held_back, 0, "nobody's newest write is older than what is there");
    gates.into_iter().for_each(|gate| drop(gate.process.terminate().expect(0)));
    engine.terminate().expect(0);
    rig.until_end().expect(0);
    let rows = texts(&mut database.connect(), "SELECT app_id || ' ' || state FROM subscriptions ORDER BY 1");
    assert_eq!(rows, ["c0 v400", "c1 v400", "c2 v400", "c3 v400"]);
}
