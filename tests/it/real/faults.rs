//! Services that go away, answers that get lost, and everything that must never lead to records being skipped in silence: a
//! recreated topic, another cluster, retention, offsets moved by hand.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish, shard};
use crate::support::{Database, Forebay, OwnServices, PATIENCE, Proxy, Rig, Server, Service, Stop, Topic, wait_until};

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

#[test]
fn answers_that_get_lost() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 4);
    let words = || database.dsn().split_whitespace();
    let port = words().find_map(|word| word.strip_prefix("port=")).expect("a port").parse().unwrap();
    let proxy = Proxy::to(port);
    // Not a second `port` behind the first: they would be two servers to choose from.
    let others: Vec<&str> = words().filter(|word| !word.starts_with("port=")).collect();
    let dsn = format!("{} port={}", others.join(" "), proxy.port());
    let toml = configuration(&dsn, &topic).replace("[engine]\n", "[engine]\nbatch_records_max = 50\n");
    let rig = Rig::new(&toml);
    publish(&topic, 0..20_000, 40);
    let mut rows = database.connect();
    // A connection needs some ten answers before it writes.
    proxy.lose_one_in(30);
    let process = rig.start();
    wait_until(PATIENCE, "lost answers", || proxy.lost() >= 10);
    publish(&topic, 20_000..25_000, 40);
    wait_until(PATIENCE, "more lost answers", || proxy.lost() >= 20);
    proxy.lose_one_in(0);
    wait_until(PATIENCE, "all rows", || count(&mut rows, "ledger") >= 25_000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut rows), &ends(&topic));
}
