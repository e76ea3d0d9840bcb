//! Where everything is well: the smallest configuration, several topics, several shards, ends behind transaction markers,
//! shutdown and restart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{
    LEDGER, Record, assert_complete, assert_in_order, count, ends, ledger, ledger_topic, publish, publish_all, shard,
    texts,
};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

const SUBSCRIPTIONS: &str =
    "CREATE TABLE subscriptions (app_id text, subscription_id int, state text, PRIMARY KEY (app_id, subscription_id))";

fn update(partition: i32, app: &str, subscription: i32, state: &str) -> Record {
    let value = format!("{{\"app_id\":\"{app}\",\"subscription_id\":{subscription},\"state\":\"{state}\"}}");
    (partition, Some(format!("{app}:{subscription}")), Some(value))
}

fn tombstone(partition: i32, app: &str, subscription: i32) -> Record {
    (partition, Some(format!("{app}:{subscription}")), None)
}

#[test]
fn the_smallest_configuration_applies_upserts_and_tombstones() {
    let database = Database::create(Server::A, "real");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("real", 3);
    let rig = Rig::new(&format!(
        "[[shard]]\nname = \"main\"\ndsn = {:?}\n\
         [[topic]]\nname = {:?}\ntable = \"subscriptions\"\ninsert_mode = \"upsert\"\n\
         pk_fields = [\"app_id\", \"subscription_id\"]\ndelete_enabled = true\n\
         key_format = \"{{app_id}}:{{subscription_id}}\"\n",
        database.dsn(),
        topic.name()
    ));
    let mut records = Vec::new();
    for round in 0..4 {
        records.extend((0..300).map(|n| update(n % 3, "blog", n, &format!("round {round}"))));
    }
    // Deleted; deleted and there again; deleted without ever having been there.
    records.extend((0..100).map(|n| tombstone(n % 3, "blog", n)));
    records.extend((50..100).map(|n| update(n % 3, "blog", n, "back")));
    records.push(tombstone(0, "other", 1));
    publish_all(&topic, &records);

    rig.until_end().expect(0);

    let mut client = database.connect();
    let states = "SELECT format('%s: %s', state, count(*)) FROM subscriptions GROUP BY state ORDER BY 1";
    assert_eq!(texts(&mut client, states), ["back: 50", "round 3: 200"]);
    let first_back = "SELECT min(subscription_id)::text FROM subscriptions WHERE state = 'back'";
    assert_eq!(texts(&mut client, first_back), ["50"]);
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end), "the group's offset of partition {partition}");
    }
    // Nothing is left to do: not even an update with the same values.
    let versions = "SELECT xmin::text || ' ' || ctid::text FROM subscriptions ORDER BY subscription_id";
    let before = texts(&mut client, versions);
    rig.until_end().expect(0);
    assert_eq!(texts(&mut client, versions), before);
}

#[test]
fn several_topics_go_to_several_tables_and_one_that_stops_holds_up_no_other() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    database.execute("CREATE TABLE prices (item text PRIMARY KEY, cents int)");
    let (orders, prices) = (Topic::create("real_orders", 2), Topic::create("real_prices", 1));
    let rig = Rig::new(&format!(
        "{}{}[[topic]]\nname = {:?}\ntable = \"prices\"\ninsert_mode = \"upsert\"\npk_fields = [\"item\"]\n\
         [topic.on_bad_record]\npolicy = \"stop\"\n",
        shard("main", database.dsn()),
        ledger_topic(orders.name()),
        prices.name()
    ));
    publish(&orders, 0..500, 10);
    let price = |cents: &str| (0, Some("a".into()), Some(format!("{{\"item\":\"a\",\"cents\":{cents}}}")));
    publish_all(&prices, &[price("100"), price("200")]);
    rig.until_end().expect(0);
    let mut client = database.connect();
    assert_eq!(texts(&mut client, "SELECT item || cents FROM prices"), ["a200"]);
    assert_complete(&ledger(&mut client), &ends(&orders));

    publish_all(&prices, &[price("300"), price("\"many\""), price("500")]);
    publish(&orders, 500..1000, 10);
    rig.until_end().expect_log(65, &[prices.name(), "partition 0 offset 3", "Nothing of it is lost"]);
    assert_eq!(texts(&mut client, "SELECT item || cents FROM prices"), ["a300"], "what came before the bad record");
    assert_complete(&ledger(&mut client), &ends(&orders));
    assert_eq!(rig.committed(prices.name(), 0), Some(3));
}

/// Two shards, and what each of them got.
fn two_shards(routing: &str, partitions: [&str; 2], files: &[(&str, &str)]) -> [Vec<super::Entry>; 2] {
    let databases = [Database::create(Server::A, "real"), Database::create(Server::B, "real")];
    databases.iter().for_each(|database| database.execute(LEDGER));
    let topic = Topic::create("real", 4);
    let rig = Rig::empty(topic.bootstrap());
    files.iter().for_each(|(name, text)| rig.write(name, text));
    let [a, b] = [shard("a", databases[0].dsn()), shard("b", databases[1].dsn())];
    rig.configure(&[], &format!("{routing}{a}{}{b}{}{}", partitions[0], partitions[1], ledger_topic(topic.name())));
    publish(&topic, 0..400, 40);
    rig.until_end().expect(0);
    publish(&topic, 400..1200, 40);
    rig.until_end().expect(0);
    let entries = databases.each_ref().map(|database| ledger(&mut database.connect()));
    for entries in &entries {
        assert_in_order(entries);
        assert!(!entries.is_empty(), "a shard got nothing");
    }
    // The numbers of rows mean nothing across two databases; records of one key come together again here only if both have it.
    let mut all: Vec<_> = entries.concat();
    all.sort();
    assert_complete(&all, &ends(&topic));
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end));
    }
    entries
}

#[test]
fn shards_by_partition() {
    let [a, b] = two_shards("", ["partitions = \"0,2\"\n", "partitions = \"1,3\"\n"], &[]);
    assert!(a.iter().all(|e| e.partition % 2 == 0));
    assert!(b.iter().all(|e| e.partition % 2 == 1));
}

#[test]
fn shards_by_hash_of_the_key() {
    let entries = two_shards("[shards]\nby = \"hash\"\n", ["", ""], &[]);
    for (shard, entries) in entries.iter().enumerate() {
        for entry in entries {
            let hash = xxhash_rust::xxh3::xxh3_64(entry.key.as_deref().unwrap().as_bytes());
            assert_eq!(hash % 2, shard as u64, "{entry:?}");
        }
    }
}

#[test]
fn shards_by_a_map_of_tenants() {
    let map: String = (0..40).map(|k| format!("\"{k}\" = {:?}\n", if k % 3 == 0 { "a" } else { "b" })).collect();
    let routing = "[shards]\nby = \"map\"\ntenant = \"key:1\"\ndelimiter = \" \"\nmap_file = \"tenants.toml\"\n";
    let [a, b] = two_shards(routing, ["", ""], &[("tenants.toml", &map)]);
    let number = |e: &super::Entry| e.seq % 40;
    assert!(a.iter().all(|e| number(e) % 3 == 0));
    assert!(b.iter().all(|e| number(e) % 3 != 0));
}

#[test]
fn sigterm_drains_commits_and_a_restart_applies_nothing_twice() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 4);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn()), ledger_topic(topic.name())));
    publish(&topic, 0..40_000, 100);
    let mut client = database.connect();

    let process = rig.start();
    wait_until(PATIENCE, "the first rows", || count(&mut client, "ledger") > 0);
    let asked = Instant::now();
    process.terminate().expect(0);
    // The default of `drain_deadline_ms`.
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?} to end", asked.elapsed());

    let rows = ledger(&mut client);
    for partition in 0..4 {
        let applied: Vec<i64> = rows.iter().filter(|e| e.partition == partition).map(|e| e.offset).collect();
        let contiguous = applied.iter().zip(0..).take_while(|(offset, expected)| *offset == expected).count() as i64;
        // Lanes that waited for their turn leave gaps; below the first one everything is committed.
        assert_eq!(rig.committed(topic.name(), partition).unwrap_or(0), contiguous, "partition {partition}");
    }
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// Without a drain at all: the fences alone keep a restart from applying anything twice.
#[test]
fn after_sigkill_a_restart_applies_everything_exactly_once() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 4);
    let toml = format!(
        "[engine]\nbatch_records_max = 50\ncommit_interval_ms = 60000\n{}{}",
        shard("main", database.dsn()),
        ledger_topic(topic.name())
    );
    let rig = Rig::at(topic.bootstrap(), &[("session.timeout.ms", "6000")], &toml);
    publish(&topic, 0..20_000, 100);
    let mut client = database.connect();
    for _ in 0..3 {
        let before = count(&mut client, "ledger");
        let process = rig.start();
        wait_until(PATIENCE, "more rows", || count(&mut client, "ledger") > before.min(19_999));
        process.kill();
    }
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

fn transactional(topic: &Topic) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", topic.bootstrap())
        .set("transactional.id", topic.name())
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &Topic, (partition, key, value): &Record) {
    let record = BaseRecord::<str, str>::to(topic.name()).partition(*partition);
    let record = record.key(key.as_deref().unwrap()).payload(value.as_deref().unwrap());
    producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
}

#[test]
fn until_end_passes_markers_and_aborted_transactions() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn()), ledger_topic(topic.name())));
    let producer = transactional(&topic);
    let mut published: BTreeMap<(i32, i64), i64> = BTreeMap::new();
    let mut next = BTreeMap::from([(0, 0), (1, 0)]);
    for transaction in 0..10 {
        producer.begin_transaction().unwrap();
        let commits = transaction % 3 != 2;
        for seq in transaction * 20..(transaction + 1) * 20 {
            let record = super::record(seq, 6, 2);
            send(&producer, &topic, &record);
            let offset = next.get_mut(&record.0).unwrap();
            if commits {
                published.insert((record.0, *offset), seq);
            }
            *offset += 1;
        }
        if commits {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
        }
        // The marker has an offset of its own.
        next.values_mut().for_each(|offset| *offset += 1);
    }
    // Nothing but an aborted record and markers at one end.
    producer.begin_transaction().unwrap();
    send(&producer, &topic, &super::record(1000, 6, 2));
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();

    rig.until_end().expect(0);

    let rows = ledger(&mut database.connect());
    let found: BTreeMap<(i32, i64), i64> = rows.iter().map(|e| ((e.partition, e.offset), e.seq)).collect();
    assert_eq!(rows.len(), found.len(), "a record was applied twice");
    assert_eq!(found, published);
    assert_in_order(&rows);
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end), "the end behind the markers");
    }
    rig.until_end().expect(0);
    assert_eq!(count(&mut database.connect(), "ledger"), published.len() as i64);
}

#[test]
fn records_without_a_key_are_applied_once_each() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn()), ledger_topic(topic.name())));
    let without = |n: i64| ((n % 2) as i32, None, Some(format!("{{\"seq\":{n}}}")));
    publish_all(&topic, &(0..3000).map(without).collect::<Vec<_>>());
    rig.until_end().expect(0);
    publish_all(&topic, &(3000..4000).map(without).collect::<Vec<_>>());
    rig.until_end().expect(0);
    let rows = ledger(&mut database.connect());
    assert_complete(&rows, &ends(&topic));
    assert!(rows.iter().all(|e| e.key.is_none() && e.seq == e.offset * 2 + i64::from(e.partition)));
}

#[test]
fn until_end_does_not_wait_for_a_database_that_refuses() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    publish(&topic, 0..100, 10);
    let configuration = |name: &str, dsn: &str| format!("{}{}", shard(name, dsn), ledger_topic(topic.name()));
    let rig = Rig::new(&configuration("main", database.dsn()));
    rig.until_end().expect(0);

    publish(&topic, 100..200, 10);
    rig.configure(&[], &configuration("other", database.dsn()));
    rig.until_end().expect_log(78, &["shard other", "\"main\""]);

    let role = format!("{}_role", database.name());
    database.execute(&format!("CREATE ROLE {role} NOLOGIN"));
    rig.configure(&[], &configuration("main", &database.dsn().replace("user=forebay", &format!("user={role}"))));
    let ended = rig.until_end();
    database.execute(&format!("DROP ROLE {role}"));
    ended.expect_log(78, &["shard main", "is not permitted to log in"]);

    rig.configure(&[], &configuration("main", database.dsn()));
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut database.connect()), &ends(&topic));
}

#[test]
fn a_topic_that_is_not_there_holds_up_no_other() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    publish(&topic, 0..100, 10);
    let missing = format!("{}_missing", topic.name());
    let topics = format!("{}{}", ledger_topic(&missing), ledger_topic(topic.name()));
    let rig = Rig::new(&format!("{}{topics}", shard("main", database.dsn())));

    let process = rig.start();
    wait_until(PATIENCE, "all rows of the topic that is there", || count(&mut database.connect(), "ledger") == 100);
    process.wait_for_log(&[&missing, "other topics go on"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let said = process.log().lines().filter(|line| line.contains("other topics go on")).count();
    assert_eq!(said, 1, "said once:\n{}", process.log());
    process.terminate().expect(0);

    rig.until_end().expect_log(78, &[&missing]);
    assert_complete(&ledger(&mut database.connect()), &ends(&topic));
}
