//! Never faster than a database bears: ceilings by the database's own clock, changed while it runs; a replica that falls behind.

use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rustix::process::Signal;

use super::{Record, assert_complete, count, ends, ledger, ledger_topic, publish, publish_all, record, shard};
use crate::support::{Database, OwnServices, PATIENCE, Replica, Rig, Server, Service, Topic, port_of, wait_until};

/// A ledger whose rows say when they were written.
pub const CLOCKED: &str = "CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, p int NOT NULL, \
                       o bigint NOT NULL, k text, seq bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())";

/// What the poller and a busy machine may add to what a ceiling allows within a few seconds.
const TOLERANCE: f64 = 1.2;

/// When each row was written, in seconds since the first one of all.
pub fn times(client: &mut Client, table: &str) -> Vec<f64> {
    let sql = format!("SELECT extract(epoch FROM at - min(at) OVER ())::float8 FROM {table} ORDER BY at");
    client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// No three seconds hold more rows than the ceiling allows; and all of it is used.
#[track_caller]
pub fn assert_kept(times: &[f64], rows_per_second: f64) {
    const WINDOW: f64 = 3.0;
    let allowed = rows_per_second * WINDOW * TOLERANCE;
    let most = times.iter().enumerate().map(|(i, from)| times[i..].partition_point(|at| at - from < WINDOW));
    let most = most.max().unwrap_or_default();
    assert!(most as f64 <= allowed, "{most} rows within {WINDOW} s where {allowed} are tolerated");
    let rate = times.len() as f64 / times.last().copied().unwrap_or_default();
    assert!(rate >= rows_per_second / TOLERANCE, "{rate} rows/s where {rows_per_second} are allowed");
}

#[test]
fn a_shard_keeps_its_ceiling_and_slows_no_other() {
    let slow = Database::create(Server::A, "real");
    let fast = Database::create(Server::B, "real");
    [&slow, &fast].iter().for_each(|database| database.execute(CLOCKED));
    let topic = Topic::create("real", 2);
    let shards = format!(
        "{}partitions = \"0\"\nrows_per_second_max = 1000\n{}partitions = \"1\"\n",
        shard("slow", slow.dsn()),
        shard("fast", fast.dsn())
    );
    let rig = Rig::new(&format!("{shards}{}", ledger_topic(topic.name())));
    publish(&topic, 0..16_000, 20);
    let process = rig.start();
    let (mut slow, mut fast) = (slow.connect(), fast.connect());
    wait_until(PATIENCE, "the rows of the shard without a ceiling", || count(&mut fast, "ledger") == 8000);
    let meanwhile = count(&mut slow, "ledger");
    assert!(meanwhile < 5000, "{meanwhile} rows of the slow shard, in the time of 8000 of the other one");
    wait_until(PATIENCE, "all rows", || count(&mut slow, "ledger") == 8000);
    assert_kept(&times(&mut slow, "ledger"), 1000.0);
    process.wait_for_log(&["shard slow", "held back by rows_per_second_max (1000 rows/s)"]);
    process.wait_for_log(&["shard slow", "not held back by rows_per_second_max any more"]);
    let log = process.terminate().expect(0);
    assert!(!log.contains("shard fast: held back"), "{log}");
    let mut entries = ledger(&mut slow);
    entries.extend(ledger(&mut fast));
    assert_complete(&entries, &ends(&topic));
}

#[test]
fn a_topic_keeps_its_ceiling_and_slows_no_other() {
    let database = Database::create(Server::A, "real");
    database.execute(CLOCKED);
    database.execute(&CLOCKED.replace("ledger", "free"));
    let (slow, free) = (Topic::create("real_slow", 2), Topic::create("real_free", 2));
    let topics = format!(
        "{}{}",
        ledger_topic(slow.name()).replace("\"ledger\"\n", "\"ledger\"\nrows_per_second_max = 800\n"),
        ledger_topic(free.name()).replace("\"ledger\"", "\"free\"")
    );
    let rig = Rig::new(&format!("{}{topics}", shard("main", database.dsn())));
    publish(&slow, 0..6400, 20);
    publish(&free, 0..40_000, 20);
    let process = rig.start();
    let mut client = database.connect();
    wait_until(PATIENCE, "the rows of the topic without a ceiling", || count(&mut client, "free") == 40_000);
    let meanwhile = count(&mut client, "ledger");
    assert!(meanwhile < 4800, "{meanwhile} rows of the slow topic, in the time of 40,000 of the other one");
    wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == 6400);
    assert_kept(&times(&mut client, "ledger"), 800.0);
    let held = format!("held back by rows_per_second_max of topic {} (800 rows/s)", slow.name());
    process.wait_for_log(&["shard main", &held]);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&slow));
}

/// What was parked of a topic with a ceiling comes at half of it, and leaves the other half to what arrives.
#[test]
fn what_was_parked_keeps_its_topics_ceiling_too() {
    let database = Database::create(Server::A, "real");
    database.execute(CLOCKED);
    let topic = Topic::create("real", 2);
    let ceiling = ledger_topic(topic.name()).replace("\"ledger\"\n", "\"ledger\"\nrows_per_second_max = 400\n");
    let rig = Rig::new(&format!("[engine]\ncommit_interval_ms = 200\n{}{ceiling}", shard("main", database.dsn())));
    let process = rig.start();
    let mut client = database.connect();
    publish(&topic, 0..20, 20);
    wait_until(PATIENCE, "the first rows", || count(&mut client, "ledger") == 20);
    rig.command(&["park", "--topic", topic.name(), "--key", "key 0"]);
    let mut next = 1;
    let mut of_key_0 = |records: i64| {
        let records: Vec<Record> = (next..next + records).map(|n| record(n * 20, 20, 2)).collect();
        next += records.len() as i64;
        publish_all(&topic, &records);
    };
    wait_until(PATIENCE, "the hold", || {
        of_key_0(1);
        thread::sleep(Duration::from_millis(100));
        count(&mut client, "forebay.parked") > 0
    });
    of_key_0(1500);
    wait_until(PATIENCE, "the key to be parked", || count(&mut client, "forebay.parked") >= 1500);
    let from: String = client.query_one("SELECT clock_timestamp()::text", &[]).unwrap().get(0);
    let others = (0..4000).map(|n| record(20 + n / 19 * 20 + 1 + n % 19, 20, 2));
    publish_all(&topic, &others.collect::<Vec<_>>());
    rig.command(&["unpark", "--topic", topic.name(), "--key", "key 0"]);
    let all: i64 = ends(&topic).values().sum();
    wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == all);
    let mut since =
        |which: &str| times(&mut client, &format!("(SELECT at FROM ledger WHERE {which} at > '{from}') AS t"));
    assert_kept(&since(""), 400.0);
    assert_kept(&since("k = 'key 0' AND"), 200.0);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// What waits for a topic's ceiling is the next owner's: nobody who leaves waits for it.
#[test]
fn a_topics_ceiling_does_not_hold_up_whoever_leaves() {
    let database = Database::create(Server::A, "real");
    database.execute(CLOCKED);
    let topic = Topic::create("real", 2);
    let ceiling = |rows: i64| {
        let topic = ledger_topic(topic.name());
        let topic = topic.replace("\"ledger\"\n", &format!("\"ledger\"\nrows_per_second_max = {rows}\n"));
        format!("{}{topic}", shard("main", database.dsn()))
    };
    let rig = Rig::new(&ceiling(100));
    publish(&topic, 0..10_000, 20);
    let process = rig.start();
    let mut client = database.connect();
    wait_until(PATIENCE, "some rows", || count(&mut client, "ledger") > 100);
    let start = Instant::now();
    process.terminate().expect(0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?} for a hundred rows a second", start.elapsed());
    assert!(count(&mut client, "ledger") < 2500);
    rig.configure(&[], &ceiling(100_000));
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// Counts after a change until a condition holds, and says after how long.
fn after(mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_until(PATIENCE, "the change to take effect", &mut holds);
    start.elapsed()
}

#[test]
fn a_ceiling_changes_while_it_runs() {
    let database = Database::create(Server::A, "real");
    database.execute(CLOCKED);
    let topic = Topic::create("real", 2);
    let configuration = |shard_ceiling: &str, topic_ceiling: &str| {
        let topic = ledger_topic(topic.name()).replace("\"ledger\"\n", &format!("\"ledger\"\n{topic_ceiling}\n"));
        format!("{}{shard_ceiling}\n{topic}", shard("main", database.dsn()))
    };
    let rig = Rig::new(&configuration("rows_per_second_max = 50", ""));
    publish(&topic, 0..60_000, 20);
    let process = rig.start();
    let mut client = database.connect();
    let mut rows = || count(&mut client, "ledger");
    wait_until(PATIENCE, "some rows", || rows() >= 100);
    let reload = |shard_ceiling: &str, topic_ceiling: &str| {
        rig.configure(&[], &configuration(shard_ceiling, topic_ceiling));
        process.signal(Signal::HUP);
    };
    // Faster, by the shard's; the rate is there within a second.
    let before = rows();
    reload("rows_per_second_max = 5000", "");
    let took = after(|| rows() >= before + 500);
    assert!(took < Duration::from_millis(1500), "500 rows took {took:?}: ten seconds at the old rate");
    // Slower, by the topic's.
    reload("", "rows_per_second_max = 100");
    process.wait_for_log(&["reloaded", "topic[0].rows_per_second_max"]);
    thread::sleep(Duration::from_secs(1));
    let (before, start) = (rows(), Instant::now());
    thread::sleep(Duration::from_secs(3));
    let rate = (rows() - before) as f64 / start.elapsed().as_secs_f64();
    assert!((70.0..=130.0).contains(&rate), "{rate} rows/s, a second after the ceiling became 100");
    // None at all.
    reload("", "");
    wait_until(PATIENCE, "all rows", || rows() == 60_000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// Its lag slows the shard down to a trickle, whatever the server says of a replica that stands still; when it has caught up,
/// all goes on at full speed. One that is not there holds up nobody.
#[test]
fn a_replica_that_falls_behind_slows_the_shard() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let replica = Replica::of(&own, port_of(&own.pg_dsn(Server::A)), "near");
    let mut client = Client::connect(&own.pg_dsn(Server::A), NoTls).unwrap();
    client.batch_execute(CLOCKED).unwrap();
    let topic = Topic::create("real", 4);
    let settings = "replica = \"near\"\nreplica_lag_max_ms = 1000\n";
    let rig = Rig::new(&format!("{}{settings}{}", shard("main", &own.pg_dsn(Server::A)), ledger_topic(topic.name())));
    let process = rig.start();
    publish(&topic, 0..1000, 20);
    wait_until(PATIENCE, "the first rows", || count(&mut client, "ledger") == 1000);
    replica.execute("SELECT pg_wal_replay_pause()");
    // Enough to go on with while it slows down.
    let publishing = thread::scope(|scope| {
        let published = scope.spawn(|| {
            let mut next = 1000;
            while next < 100_000 && !process.log().contains("held back by replica_lag_max_ms") {
                publish(&topic, next..next + 2000, 20);
                next += 2000;
                thread::sleep(Duration::from_millis(100));
            }
            publish(&topic, next..next + 200_000, 20);
            next + 200_000
        });
        process.wait_for_log(&["shard main", "held back by replica_lag_max_ms", "ms behind"]);
        published.join().unwrap()
    });
    let mut rate_of = |seconds: u64| {
        let before = count(&mut client, "ledger");
        let start = Instant::now();
        thread::sleep(Duration::from_secs(seconds));
        (count(&mut client, "ledger") - before) as f64 / start.elapsed().as_secs_f64()
    };
    let mut slowest = f64::MAX;
    wait_until(PATIENCE, "the shard to slow down to a trickle", || {
        slowest = rate_of(2);
        slowest < 3000.0
    });
    replica.execute("SELECT pg_wal_replay_resume()");
    wait_until(PATIENCE, "the shard's full speed", || rate_of(1) > 3.0 * slowest);
    wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == publishing);
    drop(replica);
    process.wait_for_log(&["shard main", "nothing waits for replica \"near\"", "not connected"]);
    publish(&topic, publishing..publishing + 5000, 20);
    wait_until(PATIENCE, "rows without the replica", || count(&mut client, "ledger") == publishing + 5000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}
