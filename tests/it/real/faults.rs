//! Services that go away, answers that get lost, and everything that must never lead to records being skipped in silence: a
//! recreated topic, another cluster, retention, offsets moved by hand.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rustix::process::{Pid, Signal, kill_process};

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish, publish_all, shard};
use crate::support::{
    Database, Forebay, OwnServices, PATIENCE, Proxy, Rig, Server, Service, Stop, Topic, port_of, wait_until,
};

const PG_A: Service = Service::Pg(Server::A);
/// Short waits between tries, so that a test does not wait for a long one.
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\n";

fn configuration(dsn: &str, topic: &Topic) -> String {
    format!("{ENGINE}{}{}", shard("main", dsn), ledger_topic(topic.name()))
}

/// An append-only table, a topic of two partitions for it, and a program that is to apply it.
fn ledger_rig() -> (Database, Topic, Rig) {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&configuration(database.dsn(), &topic));
    (database, topic, rig)
}

fn client(dsn: &str) -> postgres::Client {
    postgres::Client::connect(dsn, postgres::NoTls).expect("a connection")
}

/// Whether the process hardly works while it has nothing to do but wait for somebody.
#[track_caller]
fn assert_waits_calmly(process: &Forebay) {
    let (lines, cpu, start) = (process.log().lines().count(), process.cpu(), Instant::now());
    thread::sleep(Duration::from_secs(3));
    let (lines, cpu) = (process.log().lines().count() - lines, process.cpu() - cpu);
    assert!(cpu < start.elapsed() / 4, "{cpu:?} of CPU in {:?} of waiting", start.elapsed());
    assert!(lines < 60, "{lines} lines of log in {:?} of waiting", start.elapsed());
}

#[test]
fn a_database_that_is_away_at_the_start_and_in_between() {
    let own = OwnServices::start(&[PG_A]);
    let dsn = own.pg_dsn(Server::A);
    client(&dsn).batch_execute(LEDGER).unwrap();
    let topic = Topic::create("real", 4);
    let rig = Rig::new(&configuration(&dsn, &topic));
    publish(&topic, 0..2000, 20);

    own.stop(PG_A, Stop::Fast);
    let process = rig.start();
    process.wait_for_log(&["shard main", "trying again"]);
    assert_waits_calmly(&process);
    own.up(PG_A);
    let all = |n: i64| wait_until(PATIENCE, "all rows", || count(&mut client(&dsn), "ledger") == n);
    all(2000);

    publish(&topic, 2000..22_000, 20);
    own.restart(PG_A, Stop::Immediate);
    publish(&topic, 22_000..24_000, 20);
    all(24_000);
    own.stop(PG_A, Stop::Fast);
    publish(&topic, 24_000..25_000, 20);
    assert_waits_calmly(&process);
    own.up(PG_A);
    all(25_000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client(&dsn)), &ends(&topic));
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end));
    }
}

/// An outage that is waited for by itself must not hide what needs a person.
#[test]
fn a_database_that_is_away_and_then_refuses_says_so() {
    let own = OwnServices::start(&[PG_A]);
    let mut admin = client(&own.pg_dsn(Server::A));
    admin.batch_execute(LEDGER).unwrap();
    let rights = "CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE forebay TO app; GRANT ALL ON ledger TO app";
    admin.batch_execute(rights).unwrap();
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&configuration(&own.pg_dsn(Server::A).replace("user=forebay", "user=app"), &topic));
    publish(&topic, 0..1000, 20);
    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut admin, "ledger") == 1000);
    // Whoever is connected stays so until the server goes.
    admin.batch_execute("REVOKE CONNECT ON DATABASE forebay FROM PUBLIC").unwrap();
    own.stop(PG_A, Stop::Fast);
    publish(&topic, 1000..2000, 20);
    process.wait_for_log(&["WARN", "shard main", "trying again"]);
    own.up(PG_A);
    process.wait_for_log(&["ERROR", "shard main", "permission denied for database"]);
    let mut admin = client(&own.pg_dsn(Server::A));
    assert_eq!(count(&mut admin, "ledger"), 1000);
    admin.batch_execute("GRANT CONNECT ON DATABASE forebay TO app").unwrap();
    wait_until(PATIENCE, "all rows", || count(&mut admin, "ledger") == 2000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut admin), &ends(&topic));
}

#[test]
fn a_shard_that_is_away_holds_up_its_own_partitions_only() {
    let own = OwnServices::start(&[PG_A]);
    let dsn = own.pg_dsn(Server::A);
    client(&dsn).batch_execute(LEDGER).unwrap();
    let there = Database::create(Server::B, "real");
    there.execute(LEDGER);
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&format!(
        "{ENGINE}{}partitions = \"0\"\n{}partitions = \"1\"\n{}",
        shard("away", &dsn),
        shard("there", there.dsn()),
        ledger_topic(topic.name())
    ));
    own.stop(PG_A, Stop::Fast);
    publish(&topic, 0..2000, 20);
    let process = rig.start();
    let mut other = there.connect();
    wait_until(PATIENCE, "the rows of the shard that is there", || count(&mut other, "ledger") == 1000);
    own.up(PG_A);
    wait_until(PATIENCE, "the rows of the other", || count(&mut client(&dsn), "ledger") == 1000);
    own.stop(PG_A, Stop::Immediate);
    publish(&topic, 2000..4000, 20);
    wait_until(PATIENCE, "more rows of the shard that is there", || count(&mut other, "ledger") == 2000);
    // Draining waits for a shard that is away until its deadline, and that is not an error.
    own.up(PG_A);
    process.terminate().expect(0);
    rig.until_end().expect(0);
    let mut entries = [ledger(&mut client(&dsn)), ledger(&mut other)].concat();
    entries.sort();
    assert_complete(&entries, &ends(&topic));
}

#[test]
fn sigterm_ends_in_time_although_the_database_is_away() {
    let own = OwnServices::start(&[PG_A]);
    let dsn = own.pg_dsn(Server::A);
    client(&dsn).batch_execute(LEDGER).unwrap();
    let topic = Topic::create("real", 2);
    let deadline = Duration::from_secs(5);
    let rig = Rig::new(&configuration(&dsn, &topic).replace("[engine]\n", "[engine]\ndrain_deadline_ms = 5000\n"));
    publish(&topic, 0..1000, 20);
    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut client(&dsn), "ledger") == 1000);
    own.stop(PG_A, Stop::Immediate);
    publish(&topic, 1000..2000, 20);
    process.wait_for_log(&["shard main", "trying again"]);
    let asked = Instant::now();
    process.terminate().expect(0);
    // The rest is for the threads to end and for a busy machine.
    assert!(asked.elapsed() < deadline + Duration::from_secs(10), "it took {:?}", asked.elapsed());
    own.up(PG_A);
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client(&dsn)), &ends(&topic));
}

#[test]
fn a_broker_that_is_away_and_another_cluster_under_the_same_group() {
    let own = OwnServices::start(&[Service::Kafka]);
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "real", 4, &[]);
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &configuration(database.dsn(), &topic));
    publish(&topic, 0..2000, 20);
    let mut rows = database.connect();

    own.stop(Service::Kafka, Stop::Immediate);
    let process = rig.start();
    process.wait_for_log(&["Kafka: "]);
    assert_waits_calmly(&process);
    own.up(Service::Kafka);
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 2000);

    own.stop(Service::Kafka, Stop::Immediate);
    assert_waits_calmly(&process);
    own.up(Service::Kafka);
    publish(&topic, 2000..4000, 20);
    wait_until(PATIENCE, "more rows", || count(&mut rows, "ledger") == 4000);
    own.restart(Service::Kafka, Stop::Fast);
    publish(&topic, 4000..6000, 20);
    wait_until(PATIENCE, "the last rows", || count(&mut rows, "ledger") == 6000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut rows), &ends(&topic));

    // The same group and the same name of a topic, on another cluster: its offsets mean other records.
    let namesake = Topic::named(topic.name(), 4);
    publish(&namesake, 0..9000, 20);
    rig.configure(&[("bootstrap.servers", namesake.bootstrap())], &configuration(database.dsn(), &namesake));
    rig.until_end().expect_log(65, &[topic.name(), "stopped", "cluster", "forebay fences reset"]);
    assert_eq!(count(&mut rows, "ledger"), 6000, "nothing of the other cluster is applied");
}

#[test]
fn a_topic_that_is_deleted_and_created_again_stops() {
    let (database, topic, rig) = ledger_rig();
    publish(&topic, 0..1000, 20);
    let mut rows = database.connect();
    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 1000);
    topic.delete();
    topic.create_again(&[]);
    // More than before, so that the old position exists in the new topic.
    publish(&topic, 0..3000, 20);
    process.wait_for_log(&[topic.name(), "stopped", "created again"]);
    process.terminate().expect(0);
    // Neither does a later start take the new topic for the old one.
    rig.until_end().expect_log(65, &[topic.name(), "stopped", "created again", "forebay fences reset"]);
    assert!(ledger(&mut rows).iter().all(|e| e.offset >= 500 || e.seq < 1000), "a record of the new topic was applied");
}

#[test]
fn retention_that_overtakes_a_stopped_group_stops_the_topic() {
    let (database, topic, rig) = ledger_rig();
    publish(&topic, 0..1000, 20);
    rig.until_end().expect(0);
    publish(&topic, 1000..2000, 20);
    // 500 to 599 were never applied.
    topic.delete_records_before(0, 600);
    rig.until_end()
        .expect_log(65, &[topic.name(), "stopped", "partition 0", "500 to 599", "retention", "fences reset"]);
    let mut rows = database.connect();
    let beyond = ledger(&mut rows).iter().filter(|e| e.partition == 0 && e.offset >= 600).count();
    assert_eq!(beyond, 0, "records behind the gap were applied");
    assert!(rig.committed(topic.name(), 0).is_none_or(|offset| offset <= 500));
}

/// Moves the group's offsets as an operator's tool does: without forebay's notes.
fn move_offsets(rig: &Rig, topic: &Topic, to: i64) {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", topic.bootstrap()).set("group.id", rig.group()).create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    for partition in 0..topic.partitions() {
        list.add_partition_offset(topic.name(), partition, rdkafka::Offset::Offset(to)).unwrap();
    }
    consumer.commit(&list, CommitMode::Sync).unwrap();
}

#[test]
fn offsets_moved_by_an_operator_do_not_overrule_the_database() {
    let (database, topic, rig) = ledger_rig();
    publish(&topic, 0..1000, 20);
    rig.until_end().expect(0);
    let mut rows = database.connect();
    for (to, all) in [(700, 2000), (100, 3000)] {
        // Forward over records that were never applied, and back over some that were.
        publish(&topic, all - 1000..all, 20);
        move_offsets(&rig, &topic, to);
        rig.until_end().expect_log(0, &["The database's word stands", "fences reset"]);
        assert_complete(&ledger(&mut rows), &ends(&topic));
        assert_eq!(count(&mut rows, "ledger"), all);
        for (partition, end) in ends(&topic) {
            assert_eq!(rig.committed(topic.name(), partition), Some(end), "committed after {to}");
        }
    }
}

#[test]
fn backends_that_are_terminated_at_random() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 4);
    let rig =
        Rig::new(&configuration(database.dsn(), &topic).replace("[engine]\n", "[engine]\nbatch_records_max = 100\n"));
    publish(&topic, 0..100, 20);
    let mut rows = database.connect();
    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 100);
    let mut terminated = 0;
    for round in 0..25 {
        publish(&topic, 100 + round * 1000..1100 + round * 1000, 20);
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name LIKE 'forebay/%' AND random() < 0.5";
        terminated += rows.query_one(sql, &[]).unwrap().get::<_, i64>(0);
    }
    wait_until(PATIENCE, "all rows", || count(&mut rows, "ledger") == 25_100);
    process.terminate().expect(0);
    assert!(terminated > 10, "only {terminated} backends were terminated");
    assert_complete(&ledger(&mut rows), &ends(&topic));
}

/// A ledger behind a proxy.
struct Behind {
    database: Database,
    topic: Topic,
    proxy: Proxy,
    rig: Rig,
}

impl Behind {
    /// `more` stands in the shard's part of the configuration.
    fn new(more: &str) -> Behind {
        let database = Database::create(Server::A, "real");
        database.execute(LEDGER);
        let topic = Topic::create("real", 4);
        let proxy = Proxy::to(port_of(database.dsn()));
        let engine = ENGINE.replace("[engine]\n", "[engine]\nbatch_records_max = 50\n");
        let shard = shard("main", &proxy.dsn(database.dsn()));
        let rig = Rig::new(&format!("{engine}{shard}{more}{}", ledger_topic(topic.name())));
        Behind { database, topic, proxy, rig }
    }

    /// Waits until all of `records` are there, ends the process, and looks whether each is there once and in order.
    #[track_caller]
    fn ends_well(&self, process: Forebay, records: i64) -> String {
        let mut rows = self.database.connect();
        wait_until(PATIENCE, "all rows", || count(&mut rows, "ledger") >= records);
        let log = process.terminate().expect(0);
        assert_complete(&ledger(&mut rows), &ends(&self.topic));
        for (partition, end) in ends(&self.topic) {
            assert_eq!(self.rig.committed(self.topic.name(), partition), Some(end), "partition {partition}");
        }
        log
    }
}

#[test]
fn answers_that_get_lost() {
    let behind = Behind::new("");
    publish(&behind.topic, 0..20_000, 40);
    // A connection needs some ten answers before it writes.
    behind.proxy.lose_one_in(30);
    let process = behind.rig.start();
    wait_until(PATIENCE, "lost answers", || behind.proxy.lost() >= 10);
    publish(&behind.topic, 20_000..25_000, 40);
    wait_until(PATIENCE, "more lost answers", || behind.proxy.lost() >= 20);
    behind.proxy.lose_one_in(0);
    behind.ends_well(process, 25_000);
}

#[test]
fn requests_that_are_cut_in_their_middle() {
    let behind = Behind::new("");
    publish(&behind.topic, 0..20_000, 40);
    behind.proxy.delay(Duration::from_millis(2));
    behind.proxy.cut_one_in(30);
    let process = behind.rig.start();
    wait_until(PATIENCE, "requests that are cut", || behind.proxy.cut() >= 15);
    behind.proxy.cut_one_in(0);
    behind.proxy.delay(Duration::ZERO);
    behind.ends_well(process, 20_000);
}

/// The answer to COMMIT: of batches that are several statements, and of takeovers.
#[test]
fn the_answer_to_commit_gets_lost() {
    let behind = Behind::new("");
    // Two kinds of rows are two statements, in one explicit transaction.
    let records = |numbers: std::ops::Range<i64>| -> Vec<_> {
        // A key keeps its kind: within a batch one kind is written before the other.
        let some = |seq: i64| (if seq % 40 < 20 { "a" } else { "b" }, seq);
        let value = |(kind, seq): (&str, i64)| match kind {
            "a" => format!("{{\"seq\":{seq}}}"),
            _ => format!("{{\"seq\":{seq},\"note\":\"x\"}}"),
        };
        numbers.map(|seq| ((seq % 4) as i32, Some(format!("key {}", seq % 40)), Some(value(some(seq))))).collect()
    };
    behind.database.execute("ALTER TABLE ledger ADD note text");
    publish_all(&behind.topic, &records(0..8000));
    behind.proxy.lose_answers_to(b"COMMIT\0", 20);
    let process = behind.rig.start();
    wait_until(PATIENCE, "answers to COMMIT that are lost", || behind.proxy.lost() >= 20);
    publish_all(&behind.topic, &records(8000..9000));
    behind.ends_well(process, 9000);
}

/// How long silence lasts before a connection is cut: with these settings 41 seconds.
const SILENT: &str = "statement_timeout_ms = 1000\nlock_timeout_ms = 500\nconnect_timeout_ms = 1000\n";

/// Its kernel acknowledges everything: neither TCP nor PostgreSQL finds anything wrong.
#[test]
fn a_proxy_that_swallows_everything() {
    let behind = Behind::new(SILENT);
    publish(&behind.topic, 0..1000, 40);
    let process = behind.rig.start();
    let mut rows = behind.database.connect();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 1000);
    behind.proxy.swallow(true);
    publish(&behind.topic, 1000..2000, 40);
    wait_until(PATIENCE, "something to be swallowed", || behind.proxy.swallowed() >= 1);
    process.wait_for_log(&["shard main", "the connection was cut"]);
    // Those who connect meanwhile are not answered either, and do not wait for ever.
    let swallowed = behind.proxy.swallowed();
    wait_until(PATIENCE, "more attempts", || behind.proxy.swallowed() > swallowed + 10);
    behind.proxy.swallow(false);
    behind.ends_well(process, 2000);
}

/// Backends that are stopped: those of the workers, and that of the control thread. On a server of its own: every DROP DATABASE
/// waits for all of a server's backends.
#[test]
fn backends_that_are_stopped() {
    let own = OwnServices::start(&[PG_A]);
    let dsn = own.pg_dsn(Server::A);
    let mut rows = client(&dsn);
    rows.batch_execute(LEDGER).unwrap();
    let topic = Topic::create("real", 4);
    let rig = Rig::new(&format!("{ENGINE}{}{SILENT}{}", shard("main", &dsn), ledger_topic(topic.name())));
    publish(&topic, 0..1000, 40);
    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut rows, "ledger") == 1000);
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'forebay/%'";
    let pids: Vec<i32> = rows.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(pids.len() >= 2, "{pids:?}");
    let stopped = StoppedProcesses::new(&pids);
    publish(&topic, 1000..2000, 40);
    // They hold nothing that others need: what they were told to do is done by others.
    wait_until(PATIENCE, "all rows", || count(&mut rows, "ledger") >= 2000);
    process.wait_for_log(&["shard main", "the connection was cut"]);
    // What they do when they wake up, they do too late.
    drop(stopped);
    publish(&topic, 2000..2500, 40);
    wait_until(PATIENCE, "the last rows", || count(&mut rows, "ledger") >= 2500);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut rows), &ends(&topic));
}

/// Processes of the server that are stopped until this is dropped: a server that stops waits for them.
struct StoppedProcesses(Vec<Pid>);

impl StoppedProcesses {
    fn new(pids: &[i32]) -> StoppedProcesses {
        let pids: Vec<Pid> = pids.iter().map(|pid| Pid::from_raw(*pid).expect("a process id")).collect();
        for pid in &pids {
            kill_process(*pid, Signal::STOP).expect("a backend of ours");
        }
        StoppedProcesses(pids)
    }
}

impl Drop for StoppedProcesses {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}
