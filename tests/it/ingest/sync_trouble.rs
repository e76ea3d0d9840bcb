//! `mode = "sync"` while rows are locked, statements take long, connections rest, and the gateway ends: who waits for what, and how long.

use std::time::{Duration, Instant};

use super::sync::{ROWS, sync, wait_for_waiting};
use super::{Gate, SUBSCRIPTIONS, json, put, request, shard};
use crate::real::texts;
use crate::support::{Database, OwnServices, PATIENCE, Proxy, Rig, Server, Service, Stop, Topic, port_of, wait_until};

fn refused(gate: &Gate, reason: &str) -> f64 {
    gate.metric(&format!("forebay_ingest_refused_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_row_that_somebody_holds_is_no_lack_of_connections() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    // Locks are waited for longer than requests are.
    let main = format!("{}lock_timeout_ms = 20000\n", shard("main", database.dsn(), ""));
    let more = "deadline_ms = 3000\npool_size = 2\npool_wait_ms = 500\n";
    let rig = Rig::new(&format!("{main}{}", sync(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    assert_eq!(put(&mut client, "a", 1, "before").status, 200);
    let mut other = database.connect();
    other.batch_execute("BEGIN; UPDATE subscriptions SET price = 5").expect("a lock");

    let start = Instant::now();
    let (mut first, mut second) = (gate.client(), gate.client());
    first.send(request("PUT", "a", "1", "{\"state\":\"first\"}"));
    wait_for_waiting(&database, 1);
    second.send(request("PUT", "a", "1", "{\"state\":\"second\"}"));
    // The other connection is free.
    assert_eq!(put(&mut client, "b", 1, "meanwhile").status, 200);
    for (client, why, within) in
        [(&mut second, "another request of the same row", 2000), (&mut first, "somebody else holds it", 5000)]
    {
        let answer = client.answer();
        let detail = json(&answer)["detail"].as_str().expect("why").to_owned();
        assert!(answer.status == 503 && detail.contains(why) && detail.contains("nothing was done"), "{detail}");
        assert!(start.elapsed() < Duration::from_millis(within), "{:?}: {detail}", start.elapsed());
    }
    assert_eq!((refused(&gate, "row_busy"), refused(&gate, "no_connection")), (2.0, 0.0));
    // Nothing waits at the database any more, and nothing comes late.
    wait_for_waiting(&database, 0);
    other.batch_execute("COMMIT").expect("it ends");
    assert_eq!(put(&mut client, "b", 1, "afterwards").status, 200);
    assert_eq!(texts(&mut database.connect(), ROWS), ["a 1 before 5.00 ", "b 1 afterwards  "]);
    assert_eq!(gate.metric("forebay_ingest_late_total"), 0.0);
}

/// Whoever has a thread, which still tries to connect, is told so, and not that its row is in use.
#[test]
fn a_database_that_answers_nobody_is_a_lack_of_connections() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let proxy = Proxy::to(port_of(database.dsn()));
    let main = shard("main", &proxy.dsn(database.dsn()), "");
    let rig =
        Rig::new(&format!("{main}{}", sync(topic.name(), "deadline_ms = 3000\npool_size = 2\npool_wait_ms = 500\n")));
    let gate = Gate::start(&rig);
    assert_eq!(put(&mut gate.client(), "a", 1, "before").status, 200);
    gate.process.terminate().expect(0);
    proxy.swallow(true);
    let gate = Gate::start(&rig);
    let answer = put(&mut gate.client(), "a", 1, "x");
    let detail = json(&answer)["detail"].as_str().expect("why").to_owned();
    assert!(answer.status == 503 && detail.starts_with("no connection to the database was free in time"), "{detail}");
    assert_eq!((refused(&gate, "row_busy"), refused(&gate, "no_connection")), (0.0, 1.0));
    gate.process.terminate().expect(0);
}

/// Nothing that is known beforehand bounds it: its request's deadline does.
#[test]
fn what_takes_longer_than_its_request_is_cancelled() {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    database.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.state = 'slow' THEN PERFORM pg_sleep(20); END IF; RETURN NEW; END $$; \
         CREATE TRIGGER dawdle BEFORE INSERT ON subscriptions FOR EACH ROW EXECUTE FUNCTION dawdle()",
    );
    let topic = Topic::create("ingest", 1);
    let more = "deadline_ms = 1000\npool_size = 1\npool_wait_ms = 500\n";
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), sync(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    wait_until(PATIENCE, "a row", || put(&mut client, "a", 1, "fast").status == 200);
    let answer = put(&mut client, "a", 2, "slow");
    // Whichever comes first: the deadline, or the database's word that it gave up.
    let said = ["is not known", "nothing was done"].into_iter().any(|what| answer.text().contains(what));
    assert!(answer.status == 503 && said, "{}", answer.text());
    let start = Instant::now();
    wait_until(PATIENCE, "the connection", || put(&mut client, "a", 3, "fast").status == 200);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(refused(&gate, "deadline"), 1.0);
    assert_eq!(texts(&mut database.connect(), ROWS), ["a 1 fast  ", "a 3 fast  "]);
}

/// Whether a connection lives is asked of nobody who was there a moment ago, and is seen over a Unix-domain socket as well.
#[test]
fn a_write_is_a_transaction_and_the_end_is_seen_without_one() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let connect = || postgres::Client::connect(&own.pg_dsn(Server::A), postgres::NoTls).expect("it answers");
    let sockets = own.directory().join("pg_a/data");
    let sockets = sockets.to_str().expect("text");
    connect().batch_execute(&format!("ALTER SYSTEM SET unix_socket_directories = '{sockets}'")).expect("a setting");
    own.restart(Service::Pg(Server::A), Stop::Fast);
    connect().batch_execute(SUBSCRIPTIONS).expect("a table");
    let dsn = own.pg_dsn(Server::A);
    let topic = Topic::create("ingest", 1);
    // Sleepers whom nobody needs would cost transactions, too.
    let more = "pool_size = 1\ncatalog_interval_ms = 3600000\n";
    for dsn in [dsn.replace("127.0.0.1", sockets), dsn] {
        let rig = Rig::new(&format!("{}{}", shard("main", &dsn, ""), sync(topic.name(), more)));
        let gate = Gate::start(&rig);
        let mut client = gate.client();
        wait_until(PATIENCE, "a row", || put(&mut client, "a", 0, "x").status == 200);
        let mut looks = connect();
        // What a session did is counted when it ends, or rests.
        let mut committed = || {
            std::thread::sleep(Duration::from_millis(1500));
            let sql = "SELECT xact_commit::text FROM pg_stat_database WHERE datname = current_database()";
            texts(&mut looks, sql)[0].parse::<i64>().expect("a number")
        };
        let before = committed();
        for n in 0..1000 {
            assert_eq!(put(&mut client, "a", n % 10, "x").status, 200);
        }
        // That of the last ones may be told with the next one only.
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(put(&mut client, "a", 0, "x").status, 200);
        let transactions = committed() - before;
        assert!((990..1050).contains(&transactions), "{transactions} for 1001 writes: {dsn}");
        drop(looks);
        for how in [Stop::Immediate, Stop::Fast] {
            own.restart(Service::Pg(Server::A), how);
            let answer = put(&mut client, "a", 1, "x");
            assert_eq!(answer.status, 200, "{how:?}, {dsn}: {}", answer.text());
        }
    }
}

/// Six statements wait; it is told to end, and does, once for all of them. `hangs`: the database says nothing any more, not even to those
/// who would cancel something.
#[track_caller]
fn ends_in_time(hangs: bool) {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 1);
    let proxy = Proxy::to(port_of(database.dsn()));
    let main = format!("{}lock_timeout_ms = 20000\n", shard("main", &proxy.dsn(database.dsn()), ""));
    let more = "deadline_ms = 30000\npool_size = 6\ndrain_deadline_ms = 500\ncatalog_interval_ms = 1000\n";
    let rig = Rig::new(&format!("{main}{}", sync(topic.name(), more)));
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    wait_until(PATIENCE, "a row", || put(&mut client, "a", 0, "x").status == 200);
    let mut other = database.connect();
    other.batch_execute("BEGIN; LOCK TABLE subscriptions").expect("a lock");
    client.send((0..6).map(|n| request("PUT", "a", &n.to_string(), "{\"state\":\"late\"}")).collect::<String>());
    wait_for_waiting(&database, 6);
    proxy.swallow(hangs);
    let start = Instant::now();
    gate.process.terminate().expect(0);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    if !hangs {
        wait_for_waiting(&database, 0);
    }
    other.batch_execute("COMMIT").expect("it ends");
}

#[test]
fn statements_that_wait_for_a_lock_at_the_end_are_cancelled() {
    ends_in_time(false);
}

#[test]
fn a_database_that_hangs_at_the_end_costs_one_deadline() {
    ends_in_time(true);
}
