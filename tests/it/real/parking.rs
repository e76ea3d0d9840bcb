//! A row that somebody else has locked, a table that is locked as a whole, a parent that is late: what waits, what does not, and
//! what Kafka's commit does meanwhile.

use std::collections::BTreeMap;

use postgres::Client;

use super::{Record, count, ends, publish_all, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

const KEYS: i64 = 50;
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\nbatch_records_max = 100\n";

/// One partition for a table with a row for each key.
fn rig(more: &str) -> (Database, Topic, Rig) {
    let database = Database::create(Server::A, "parking");
    database.execute("CREATE TABLE latest (k text PRIMARY KEY, seq bigint)");
    let topic = Topic::create("parking", 1);
    let rig = Rig::new(&format!(
        "{ENGINE}{}lock_timeout_ms = 300\n[[topic]]\nname = {:?}\ntable = \"latest\"\ninsert_mode = \"upsert\"\npk_fields = [\"k\"]\n\
         {more}[topic.columns]\nk = \"@key\"\n",
        shard("main", database.dsn()),
        topic.name()
    ));
    (database, topic, rig)
}

/// Record number `seq`: keys take turns.
fn record(seq: i64) -> Record {
    (0, Some(format!("key {}", seq % KEYS)), Some(format!("{{\"seq\":{seq}}}")))
}

fn publish(topic: &Topic, seqs: std::ops::Range<i64>) {
    publish_all(topic, &seqs.map(record).collect::<Vec<_>>());
}

fn rows(client: &mut Client) -> BTreeMap<String, i64> {
    client.query("SELECT k, seq FROM latest", &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The last of so many records of each key.
fn last(records: i64) -> BTreeMap<String, i64> {
    (records - KEYS..records).map(|seq| (format!("key {}", seq % KEYS), seq)).collect()
}

fn wait_for_commit(rig: &Rig, topic: &Topic) {
    let end = ends(topic)[&0];
    wait_until(PATIENCE, "everything to be committed", || rig.committed(topic.name(), 0) == Some(end));
}

/// Its key's records wait in the table, the others go on, and so does the commit; through a restart, too.
#[test]
fn a_locked_row_costs_nobody_but_its_key() {
    let (database, topic, rig) = rig("");
    let mut client = database.connect();
    publish(&topic, 0..KEYS);
    rig.until_end().expect(0);
    let mut other = database.connect();
    other.batch_execute("BEGIN; SELECT FROM latest WHERE k = 'key 7' FOR UPDATE").unwrap();
    let process = rig.start();
    publish(&topic, KEYS..1000);
    wait_for_commit(&rig, &topic);
    let mut expected = last(1000);
    expected.insert("key 7".to_owned(), 7);
    assert_eq!(rows(&mut client), expected);
    assert_eq!(count(&mut client, "forebay.parked"), 1000 / KEYS - 1);
    process.kill();
    let process = rig.start();
    publish(&topic, 1000..2000);
    wait_for_commit(&rig, &topic);
    assert_eq!(count(&mut client, "forebay.parked"), 2000 / KEYS - 1);
    other.batch_execute("ROLLBACK").unwrap();
    wait_until(PATIENCE, "the key to go on", || count(&mut client, "forebay.parked") == 0);
    assert_eq!(rows(&mut client), last(2000));
    // It is a key like any other again.
    publish(&topic, 2000..3000);
    wait_for_commit(&rig, &topic);
    assert_eq!((rows(&mut client), count(&mut client, "forebay.parked")), (last(3000), 0));
    process.terminate().expect(0);
}

/// A bad deploy behind a row that is locked: the topic stops instead of draining it into dead letters, and when the table was mended
/// nothing is missing.
#[test]
fn too_many_bad_records_of_a_parked_key_stop_their_topic() {
    let (database, topic, rig) = rig("[topic.on_bad_record]\nrun_max = 5\n");
    let mut client = database.connect();
    publish(&topic, 0..KEYS);
    rig.until_end().expect(0);
    let mut other = database.connect();
    other.batch_execute("BEGIN; SELECT FROM latest WHERE k = 'key 7' FOR UPDATE").unwrap();
    let process = rig.start();
    publish(&topic, KEYS..20 * KEYS);
    wait_for_commit(&rig, &topic);
    assert_eq!(count(&mut client, "forebay.parked"), 19);
    other.batch_execute("ALTER TABLE latest ADD CHECK (k <> 'key 7' OR seq < 100) NOT VALID; COMMIT").unwrap();
    process.wait_for_log(&["stopping because of more than 5 bad records in a row"]);
    process.terminate().expect(0);
    // Two that are good come first, and are not taken out by themselves.
    assert_eq!((count(&mut client, "forebay.parked"), count(&mut client, "forebay.dead_letter")), (19, 0));
    database.execute("ALTER TABLE latest DROP CONSTRAINT latest_check");
    rig.until_end().expect(0);
    assert_eq!((count(&mut client, "forebay.parked"), rows(&mut client)), (0, last(20 * KEYS)));
}

/// It is no key's fault: nothing is parked, the topic waits, and says for what.
#[test]
fn a_table_that_is_locked_as_a_whole_is_waited_for() {
    let (database, topic, rig) = rig("");
    let mut client = database.connect();
    publish(&topic, 0..KEYS);
    rig.until_end().expect(0);
    let mut other = database.connect();
    other.batch_execute("BEGIN; LOCK TABLE latest IN EXCLUSIVE MODE").unwrap();
    let process = rig.start();
    publish(&topic, KEYS..1000);
    process.wait_for_log(&["locked the table", "as a whole"]);
    assert_eq!(count(&mut client, "forebay.parked"), 0);
    assert_eq!(rig.committed(topic.name(), 0), Some(KEYS));
    other.batch_execute("ROLLBACK").unwrap();
    wait_for_commit(&rig, &topic);
    assert_eq!(rows(&mut client), last(1000));
    process.terminate().expect(0);
}

/// Beyond the limit the lane waits, and nothing is lost.
#[test]
fn no_more_is_parked_than_may_be() {
    let (database, topic, rig) = rig("");
    let mut client = database.connect();
    publish(&topic, 0..KEYS);
    rig.until_end().expect(0);
    let mut other = database.connect();
    other.batch_execute("BEGIN; SELECT FROM latest WHERE k = 'key 7' FOR UPDATE").unwrap();
    let toml = format!(
        "{}parked_key_records_max = 10\n{}lock_timeout_ms = 300\n[[topic]]\nname = {:?}\ntable = \"latest\"\ninsert_mode = \"upsert\"\n\
         pk_fields = [\"k\"]\n[topic.columns]\nk = \"@key\"\n",
        ENGINE,
        shard("main", database.dsn()),
        topic.name()
    );
    rig.configure(&[], &toml);
    let process = rig.start();
    publish(&topic, KEYS..2000);
    process.wait_for_log(&["tried in vain", "parked already", "parked_key_records_max = 10"]);
    assert_eq!(count(&mut client, "forebay.parked"), 10);
    assert!(rig.committed(topic.name(), 0) < Some(2000), "the lane of the key waits");
    other.batch_execute("ROLLBACK").unwrap();
    wait_for_commit(&rig, &topic);
    wait_until(PATIENCE, "the key to go on", || count(&mut client, "forebay.parked") == 0);
    assert_eq!(rows(&mut client), last(2000));
    process.terminate().expect(0);
}

/// The parent comes by another partition's record, later than its child.
#[test]
fn a_child_waits_for_its_parent() {
    let database = Database::create(Server::A, "parking");
    database.execute("CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node, v int)");
    let topic = Topic::create("parking", 2);
    let rig = Rig::new(&format!(
        "{ENGINE}{}[[topic]]\nname = {:?}\ntable = \"node\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\n\
         [topic.on_bad_record]\nparent_tries = 100\n",
        shard("main", database.dsn()),
        topic.name()
    ));
    let mut client = database.connect();
    let process = rig.start();
    let child = |id: i32, v: i32| {
        (0, Some(format!("child {id}")), Some(format!(r#"{{"id":{id},"parent":{},"v":{v}}}"#, id + 100)))
    };
    let children: Vec<Record> = (1..=20).flat_map(|id| [child(id, 1), child(id, 2)]).collect();
    publish_all(&topic, &children);
    wait_until(PATIENCE, "the children to wait", || rig.committed(topic.name(), 0) == Some(40));
    assert_eq!((count(&mut client, "node"), count(&mut client, "forebay.parked")), (0, 40));
    let parents: Vec<Record> =
        (101..=120).map(|id| (1, Some(format!("parent {id}")), Some(format!(r#"{{"id":{id},"v":0}}"#)))).collect();
    publish_all(&topic, &parents);
    wait_until(PATIENCE, "everybody", || count(&mut client, "forebay.parked") == 0);
    let sum: i64 = client.query_one("SELECT sum(v) FROM node", &[]).unwrap().get(0);
    assert_eq!((count(&mut client, "node"), sum, count(&mut client, "forebay.dead_letter")), (40, 40, 0));
    process.terminate().expect(0);
}
