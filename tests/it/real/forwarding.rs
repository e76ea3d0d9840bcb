//! Dead letters on to a topic of their own: what is published, header by header, and that each of them arrives, whatever goes away
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{LEDGER, count, ledger_topic, publish, shard, texts};
use crate::support::{
    Database, OwnServices, PATIENCE, Published, Rig, Server, Service, Stop, Topic, publish_records, unique_name,
    wait_until,
};

const ID: &str = "forebay.dead_letter.id";

/// Short waits between tries, and any number of bad records.
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\n";
const ANY_NUMBER: &str = "run_max = 1000000\npercent_max = 100\n";

/// The ledger's topic, whose dead letters go on to this one, or only into the table.
fn configuration(dsn: &str, topic: &Topic, to: Option<&str>) -> String {
    let to = to.map(|to| format!("forward_to = {to:?}\n")).unwrap_or_default();
    let letters = format!("[topic.on_bad_record]\n{ANY_NUMBER}{to}");
    format!("{ENGINE}{}{}{letters}", shard("main", dsn), ledger_topic(topic.name()))
}

/// A table, a topic for it, one for its letters, and a program that forwards them.
fn forwarding(partitions: i32) -> (Database, Topic, Topic, Rig) {
    let database = Database::create(Server::A, "forward");
    database.execute(LEDGER);
    let (topic, letters) = (Topic::create("forward", partitions), Topic::create("forward_letters", 2));
    let rig = Rig::new(&configuration(database.dsn(), &topic, Some(letters.name())));
    (database, topic, letters, rig)
}

/// Bad records, numbered from here in their values and keyed in turn.
fn publish_bad(topic: &Topic, numbers: std::ops::Range<i64>, keys: i64) {
    let records: Vec<(i32, String, String)> = numbers
        .map(|n| {
            let key = n % keys;
            ((key % i64::from(topic.partitions())) as i32, format!("key {key}"), format!("bad {n}"))
        })
        .collect();
    let records = records.iter().map(|(p, key, value)| (*p, Some(key.as_bytes()), Some(value.as_bytes())));
    crate::support::produce_at(topic.bootstrap(), topic.name(), records);
}

/// Whoever waits for a lock of the test waits for as long as it takes.
fn patient(database: &Database) -> String {
    format!("{} options='-c lock_timeout=80000 -c statement_timeout=90000'", database.dsn())
}

fn forwarded(client: &mut postgres::Client) -> i64 {
    count(client, "forebay.dead_letter WHERE forwarded_at IS NOT NULL")
}

/// Every bad record is among the letters at least once, each under one id of its own, and in order per key where none came again.
#[track_caller]
fn assert_all(letters: &Topic, bad: std::ops::Range<i64>) -> Vec<Published> {
    let published = letters.records();
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for letter in &published {
        let value = String::from_utf8(letter.value.clone().expect("a value")).expect("text");
        values.entry(letter.header(ID).expect("an id")).or_default().insert(value);
    }
    assert!(values.values().all(|values| values.len() == 1), "an id is of one letter: {values:?}");
    let found: BTreeSet<String> = values.into_values().flatten().collect();
    let expected: BTreeSet<String> = bad.map(|n| format!("bad {n}")).collect();
    assert_eq!(found, expected);
    if published.len() == expected.len() {
        let mut last: BTreeMap<&[u8], i64> = BTreeMap::new();
        for letter in &published {
            let offset: i64 = letter.header("__connect.errors.offset").expect("an offset").parse().expect("a number");
            let before = last.insert(letter.key.as_deref().expect("a key"), offset);
            assert!(before.is_none_or(|before| before < offset), "out of order: {before:?} and then {offset}");
        }
    }
    published
}

#[test]
fn a_letter_is_published_as_it_came_with_why_behind_it() {
    let (database, topic, letters, rig) = forwarding(3);
    // Good ones first, so that no number is another one by chance.
    publish(&topic, 0..12, 3);
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let own = vec![
        header("trace", Some(b"\0\xff")),
        header("null", None),
        header("empty", Some(b"")),
        header("trace", Some(b"again")),
        header("__connect.errors.offset", Some(b"of an earlier life")),
    ];
    let record =
        |key: Option<Vec<u8>>, value: Option<Vec<u8>>, timestamp_ms: i64, headers: &[(String, Option<Vec<u8>>)]| {
            Published { partition: 2, timestamp_ms: Some(timestamp_ms), key, value, headers: headers.to_vec() }
        };
    // Retention goes by these, here and in the letters' topic.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let sent = [
        record(bytes("k"), bytes("{}"), now - 60_003, &own),
        record(None, None, now - 50_007, &[]),
        record(bytes(""), bytes(""), now - 40_001, &[]),
        record(Some(vec![0, 255]), Some(vec![0, 254]), now + 60_009, &[header("trace", None)]),
    ];
    publish_records(&topic, &sent);
    rig.until_end().expect(0);

    let mut client = database.connect();
    let source: i32 = client.query_one("SELECT id FROM forebay.source", &[]).unwrap().get(0);
    let mut published = letters.records();
    published.sort_by_key(|letter| letter.header("__connect.errors.offset"));
    assert_eq!(published.len(), sent.len());
    for ((letter, sent), offset) in published.iter().zip(&sent).zip(4..) {
        assert_eq!((&letter.key, &letter.value, letter.timestamp_ms), (&sent.key, &sent.value, sent.timestamp_ms));
        let row = client
            .query_one(
                "SELECT error, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), sqlstate \
                 FROM forebay.dead_letter WHERE \"offset\" = $1",
                &[&i64::from(offset)],
            )
            .unwrap();
        let (error, at, code): (String, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(code.as_deref(), (offset == 4).then_some("23502"), "{error}");
        let mut expected = sent.headers.clone();
        let id = format!("main/{source}/2/{offset}");
        for (name, value) in [
            ("__connect.errors.topic", topic.name()),
            ("__connect.errors.partition", "2"),
            ("__connect.errors.offset", &offset.to_string()),
            ("__connect.errors.connector.name", rig.group()),
            ("__connect.errors.exception.class.name", "forebay::sink::BadRecord"),
            ("__connect.errors.exception.message", &error),
            (ID, &id),
            ("forebay.dead_letter.at", &at),
        ] {
            expected.push(header(name, Some(value.as_bytes())));
        }
        expected.extend(code.map(|code| header("forebay.dead_letter.sqlstate", Some(code.as_bytes()))));
        assert_eq!(letter.headers, expected, "offset {offset}");
    }
    assert_eq!(forwarded(&mut client), 4);
    let list = rig.command(&["dead-letters", "list"]);
    assert_eq!(
        list.lines().filter(|line| line.contains(" [forwarded 20") && line.ends_with("Z]")).count(),
        4,
        "{list}"
    );
    // Nothing comes again.
    rig.until_end().expect(0);
    assert_eq!(letters.records().len(), 4);
}

/// A topic that is missing stops neither the program nor the good records; its letters wait.
#[test]
fn a_missing_topic_that_is_created_later() {
    let database = Database::create(Server::A, "forward");
    database.execute(LEDGER);
    let topic = Topic::create("forward", 2);
    let name = unique_name("forward_missing");
    let text = configuration(database.dsn(), &topic, Some(&name));
    let rig = Rig::new(&text.replace(ENGINE, &format!("{ENGINE}drain_deadline_ms = 1000\n")));
    publish_bad(&topic, 0..50, 5);
    let log = rig.until_end().expect(0);
    assert!(log.contains("stay in forebay.dead_letter for the next run"), "{log}");

    let process = rig.start();
    process.wait_for_log(&["ERROR", "dead letters wait in forebay.dead_letter", &name, "Unknown topic"]);
    publish(&topic, 0..1000, 20);
    publish_bad(&topic, 50..60, 5);
    let mut client = database.connect();
    wait_until(PATIENCE, "the good rows", || count(&mut client, "ledger") == 1000);
    wait_until(PATIENCE, "the letters", || count(&mut client, "forebay.dead_letter") == 60);
    assert_eq!(forwarded(&mut client), 0);
    let said = process.log().matches("dead letters wait in").count();
    assert!(said <= 2, "said {said} times");

    let letters = Topic::named(&name, 1);
    wait_until(PATIENCE, "the letters in their topic", || forwarded(&mut client) == 60);
    process.wait_for_log(&["INFO", "dead letters go on to", "again"]);
    process.terminate().expect(0);
    assert_eq!(assert_all(&letters, 0..60).len(), 60, "none came again");
}

/// Brokers that make topics make this one, too.
#[test]
fn a_topic_that_the_brokers_make() {
    let own = OwnServices::start_with(&[Service::Kafka], "auto.create.topics.enable=true");
    let database = Database::create(Server::A, "forward");
    database.execute(LEDGER);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "forward", 1, &[]);
    let text = configuration(database.dsn(), &topic, Some("made"));
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &text);
    publish_bad(&topic, 0..5, 5);
    rig.until_end().expect(0);
    assert_eq!(forwarded(&mut database.connect()), 5);
}

/// The broker goes after the records were read and before they became letters.
#[test]
fn the_broker_is_away_while_letters_arise() {
    let own = OwnServices::start(&[Service::Kafka]);
    let database = Database::create(Server::A, "forward");
    database.execute(LEDGER);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "forward", 2, &[]);
    let letters = Topic::create_at(&own.kafka_bootstrap(), "forward_letters", 2, &[]);
    let dsn = patient(&database);
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &configuration(&dsn, &topic, Some(letters.name())));
    let process = rig.start();
    publish_bad(&topic, 0..10, 5);
    let mut client = database.connect();
    wait_until(PATIENCE, "the first letters in their topic", || {
        count(&mut client, "pg_tables WHERE schemaname = 'forebay' AND tablename = 'dead_letter'") == 1
            && forwarded(&mut client) == 10
    });

    let mut holder = database.connect();
    let mut held = holder.transaction().unwrap();
    held.batch_execute("LOCK TABLE forebay.dead_letter").unwrap();
    publish_bad(&topic, 10..300, 5);
    // What writes letters waits for the lock; how far it read shows once the lock is gone.
    wait_until(PATIENCE, "the worker to wait", || {
        count(&mut client, "pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'") > 0
    });
    own.stop(Service::Kafka, Stop::Immediate);
    held.commit().unwrap();
    wait_until(PATIENCE, "letters", || count(&mut client, "forebay.dead_letter") > 10);
    process.wait_for_log(&["WARN", "dead letters wait in forebay.dead_letter", letters.name()]);
    assert!(forwarded(&mut client) < count(&mut client, "forebay.dead_letter"), "the broker is away");

    own.up(Service::Kafka);
    wait_until(PATIENCE, "every letter in its topic", || forwarded(&mut client) == 300);
    process.terminate().expect(0);
    assert_all(&letters, 0..300);
}

/// A broker that neither answers nor closes its connections: no letter is held meanwhile, and a person may still decide.
#[test]
fn a_broker_that_hangs_holds_no_letters() {
    let own = OwnServices::start(&[Service::Kafka]);
    let database = Database::create(Server::A, "forward");
    database.execute(LEDGER);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "forward", 1, &[]);
    let letters = Topic::create_at(&own.kafka_bootstrap(), "forward_letters", 1, &[]);
    let text = configuration(database.dsn(), &topic, Some(letters.name()));
    let rig = Rig::at(&own.kafka_bootstrap(), &[], &text);
    let process = rig.start();
    publish_bad(&topic, 0..5, 5);
    let mut client = database.connect();
    wait_until(PATIENCE, "our tables", || {
        count(&mut client, "pg_tables WHERE schemaname = 'forebay' AND tablename = 'dead_letter'") == 1
    });
    wait_until(PATIENCE, "the first letters in their topic", || forwarded(&mut client) == 5);

    own.freeze(Service::Kafka);
    let insert = "INSERT INTO forebay.dead_letter (source, grp, topic, partition, \"offset\", error, key, payload) \
                  SELECT source, grp, topic, partition, o, error, key, convert_to('bad ' || o, 'UTF8') \
                  FROM forebay.dead_letter, generate_series(5, 8) o WHERE \"offset\" = 0";
    database.execute(insert);
    process.wait_for_log(&["WARN", "dead letters wait in forebay.dead_letter", letters.name(), "do not answer"]);
    let discarded = rig.command(&["dead-letters", "discard", "--offset", "8"]);
    assert!(discarded.contains("discarded"), "{discarded}");
    own.thaw(Service::Kafka);
    wait_until(PATIENCE, "the others in their topic", || forwarded(&mut client) == 8);
    process.terminate().expect(0);
    assert_all(&letters, 0..8);
}

/// Killed after the brokers' acknowledgement and before the mark: what comes again comes under the same id.
#[test]
fn killed_between_acknowledgement_and_mark() {
    let (database, topic, letters, rig) = forwarding(2);
    // Whoever is killed is missed soon.
    let kafka = [("session.timeout.ms", "6000")];
    rig.configure(&kafka, &configuration(&patient(&database), &topic, Some(letters.name())));
    rig.configure_as("without.toml", &kafka, &configuration(database.dsn(), &topic, None));
    publish_bad(&topic, 0..40, 5);
    rig.start_with("without.toml", &["--until-end"]).ended().expect(0);
    // Whoever marks waits for the test.
    database.execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$; \
         CREATE TRIGGER gate BEFORE UPDATE ON forebay.dead_letter FOR EACH ROW EXECUTE FUNCTION gate()",
    );
    let mut gate = database.connect();
    gate.execute("SELECT pg_advisory_lock(4711)", &[]).unwrap();
    let mut client = database.connect();
    let waits = "pg_locks WHERE NOT granted AND locktype = 'advisory' AND objid = 4711";
    for _ in 0..2 {
        let process = rig.start();
        wait_until(PATIENCE, "the mark to wait", || count(&mut client, waits) > 0);
        process.kill();
        // Its backend waits on; it is gone before the next process may claim.
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        );
        wait_until(PATIENCE, "its backend to go", || count(&mut client, waits) == 0);
    }
    assert_eq!(forwarded(&mut client), 0);
    assert_eq!(assert_all(&letters, 0..40).len(), 80);
    drop(gate);
    rig.until_end().expect(0);
    assert_eq!(forwarded(&mut client), 40);
    assert_eq!(assert_all(&letters, 0..40).len(), 120, "once for each time that it was not marked");
}

/// Processes of one group take turns with a shard; while nothing goes wrong each letter goes once, and in order.
#[test]
fn two_processes_forward_each_letter_once() {
    let (database, topic, letters, rig) = forwarding(4);
    let processes = [rig.start(), rig.start()];
    for round in 0..4 {
        publish_bad(&topic, round * 1000..(round + 1) * 1000, 20);
    }
    let mut client = database.connect();
    wait_until(PATIENCE, "our tables", || {
        count(&mut client, "pg_tables WHERE schemaname = 'forebay' AND tablename = 'dead_letter'") == 1
    });
    wait_until(PATIENCE, "every letter in its topic", || forwarded(&mut client) == 4000);
    for process in processes {
        process.terminate().expect(0);
    }
    assert_eq!(assert_all(&letters, 0..4000).len(), 4000);
}

/// What a topic refuses for good, whatever the others are like. Brokers refuse a whole batch for one such record: here nobody goes
/// with it.
#[test]
fn a_letter_that_its_topic_refuses_is_marked_and_holds_up_nobody() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let good = |n: usize| Published {
        partition: 0,
        timestamp_ms: Some(now),
        key: Some(b"key".to_vec()),
        value: Some(format!("bad {n}").into_bytes()),
        headers: Vec::new(),
    };
    // Nothing that compresses.
    let large = Published { value: Some((0..5000).map(|_| fastrand::u8(..)).collect()), ..good(0) };
    let keyless = Published { key: None, ..good(0) };
    let early = Published { timestamp_ms: Some(now + 1_800_000), ..good(0) };
    let cases = [
        (("max.message.bytes", "3000"), large, "Message size too large"),
        (("cleanup.policy", "compact"), keyless, "Broker failed to validate record"),
        (("message.timestamp.after.max.ms", "60000"), early, "Invalid timestamp"),
    ];
    for (setting, refused, said) in cases {
        let database = Database::create(Server::A, "forward");
        database.execute(LEDGER);
        let topic = Topic::create("forward", 1);
        let letters = Topic::create_with("forward_letters", 1, &[setting]);
        let rig = Rig::new(&configuration(database.dsn(), &topic, Some(letters.name())));
        let is_refused = |n: usize| n % 7 == 3;
        let records: Vec<Published> = (0..50).map(|n| if is_refused(n) { refused.clone() } else { good(n) }).collect();
        publish_records(&topic, &records);
        let log = rig.until_end().expect(0);
        assert!(log.contains("refuses 7 dead letters for good") && log.contains(said), "{setting:?}: {log}");
        let taken: Vec<Option<Vec<u8>>> = letters.records().into_iter().map(|letter| letter.value).collect();
        let expected: Vec<Option<Vec<u8>>> = (0..50).filter(|n| !is_refused(*n)).map(|n| good(n).value).collect();
        assert_eq!(taken, expected, "{setting:?}");
        let mut client = database.connect();
        let marked = format!(
            "SELECT \"offset\"::text FROM forebay.dead_letter d WHERE forward_error LIKE '%{said}%' AND forwarded_at IS NULL \
             ORDER BY d.\"offset\""
        );
        let expected: Vec<String> = (0..50).filter(|n| is_refused(*n)).map(|n| n.to_string()).collect();
        assert_eq!(texts(&mut client, &marked), expected, "{setting:?}");
        let list = rig.command(&["dead-letters", "list"]);
        assert_eq!(list.matches(" [not forwarded: ").count(), 7, "{list}");
        // Tried again only where a person says so.
        assert!(!rig.until_end().expect(0).contains("refuses"));
        database.execute("UPDATE forebay.dead_letter SET forward_error = NULL");
        assert!(rig.until_end().expect(0).contains("refuses 7 dead letters for good"));
        assert_eq!(letters.records().len(), 43, "{setting:?}");
    }
}
