//! A row that somebody else has locked, a table that is locked as a whole, a parent that is late: what waits, what does not, and
//! what Kafka's commit does meanwhile.

use std::collections::BTreeMap;

use postgres::Client;

use super::{Record, count, ends, publish_all, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

const KEYS: i64 = 50;
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\nbatch_records_max = 100\n";

/// A table with a row for each key, a topic of one partition for it, and somebody who can be in the way.
struct Setup {
    database: Database,
    topic: Topic,
    rig: Rig,
    /// Locks something of the table.
    other: Client,
}

impl Setup {
    /// Every key has its row. `engine` is more of that part of the configuration.
    fn new(engine: &str) -> Setup {
        Setup::with(engine, "")
    }

    /// `topic_too` is more of the topic's part.
    fn with(engine: &str, topic_too: &str) -> Setup {
        let database = Database::create(Server::A, "parking");
        database.execute("CREATE TABLE latest (k text PRIMARY KEY, seq bigint)");
        let topic = Topic::create("parking", 1);
        let rig = Rig::new(&format!(
            "{ENGINE}{engine}{}lock_timeout_ms = 300\n[[topic]]\nname = {:?}\ntable = \"latest\"\ninsert_mode = \"upsert\"\n\
             pk_fields = [\"k\"]\n[topic.columns]\nk = \"@key\"\n{topic_too}",
            shard("main", database.dsn()),
            topic.name()
        ));
        let other = database.connect();
        let setup = Setup { database, topic, rig, other };
        setup.publish(0..KEYS);
        setup.rig.until_end().expect(0);
        setup
    }

    /// Keys take turns.
    fn publish(&self, seqs: std::ops::Range<i64>) {
        let record = |seq| (0, Some(key(seq)), Some(format!("{{\"seq\":{seq}}}")));
        publish_all(&self.topic, &seqs.map(record).collect::<Vec<Record>>());
    }

    /// Keeps a lock until [`Setup::unlock`].
    fn lock(&mut self, sql: &str) {
        self.other.batch_execute(&format!("BEGIN; {sql}")).expect("the lock");
    }

    fn unlock(&mut self) {
        self.other.batch_execute("ROLLBACK").expect("the end of the lock");
    }

    fn committed(&self) -> Option<i64> {
        self.rig.committed(self.topic.name(), 0)
    }

    #[track_caller]
    fn wait_for_commit(&self) {
        let end = ends(&self.topic)[&0];
        wait_until(PATIENCE, "everything to be committed", || self.committed() == Some(end));
    }

    fn parked(&self) -> i64 {
        count(&mut self.database.connect(), "forebay.parked")
    }

    #[track_caller]
    fn wait_until_nothing_is_parked(&self) {
        wait_until(PATIENCE, "the key to go on", || self.parked() == 0);
    }

    fn latest(&self) -> BTreeMap<String, i64> {
        let rows = self.database.connect().query("SELECT k, seq FROM latest", &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

fn key(seq: i64) -> String {
    format!("key {}", seq % KEYS)
}

/// What the table holds after so many records.
fn after(records: i64) -> BTreeMap<String, i64> {
    (records - KEYS..records).map(|seq| (key(seq), seq)).collect()
}

const LOCK_KEY_7: &str = "SELECT FROM latest WHERE k = 'key 7' FOR UPDATE";

/// Its key's records wait in the table, the others go on, and so does the commit; through a restart, too.
#[test]
fn a_locked_row_costs_nobody_but_its_key() {
    let mut s = Setup::new("");
    s.lock(LOCK_KEY_7);
    let process = s.rig.start();
    s.publish(KEYS..1000);
    s.wait_for_commit();
    let mut expected = after(1000);
    expected.insert(key(7), 7);
    assert_eq!((s.latest(), s.parked()), (expected, 1000 / KEYS - 1));
    process.kill();
    let process = s.rig.start();
    s.publish(1000..2000);
    s.wait_for_commit();
    assert_eq!(s.parked(), 2000 / KEYS - 1);
    s.unlock();
    s.wait_until_nothing_is_parked();
    assert_eq!(s.latest(), after(2000));
    // It is a key like any other again.
    s.publish(2000..3000);
    s.wait_for_commit();
    assert_eq!((s.latest(), s.parked()), (after(3000), 0));
    process.terminate().expect(0);
}

/// A bad deploy behind a row that is locked: the topic stops instead of draining it into dead letters, and when the table was mended
/// nothing is missing.
#[test]
fn too_many_bad_records_of_a_parked_key_stop_their_topic() {
    let mut s = Setup::with("", "[topic.on_bad_record]\nrun_max = 5\n");
    let mut client = s.database.connect();
    s.lock(LOCK_KEY_7);
    let process = s.rig.start();
    s.publish(KEYS..20 * KEYS);
    s.wait_for_commit();
    assert_eq!(s.parked(), 19);
    let check = "ALTER TABLE latest ADD CHECK (k <> 'key 7' OR seq < 100) NOT VALID; COMMIT";
    s.other.batch_execute(check).unwrap();
    process.wait_for_log(&["stopping because of more than 5 bad records in a row"]);
    process.terminate().expect(0);
    // Two that are good come first, and are not taken out by themselves.
    assert_eq!((s.parked(), count(&mut client, "forebay.dead_letter")), (19, 0));
    s.database.execute("ALTER TABLE latest DROP CONSTRAINT latest_check");
    s.rig.until_end().expect(0);
    assert_eq!((s.parked(), s.latest()), (0, after(20 * KEYS)));
}

/// It is no key's fault: nothing is parked, the topic waits, and says for what.
#[test]
fn a_table_that_is_locked_as_a_whole_is_waited_for() {
    let mut s = Setup::new("");
    s.lock("LOCK TABLE latest IN EXCLUSIVE MODE");
    let process = s.rig.start();
    s.publish(KEYS..1000);
    process.wait_for_log(&["locked the table", "as a whole"]);
    assert_eq!((s.parked(), s.committed()), (0, Some(KEYS)));
    s.unlock();
    s.wait_for_commit();
    assert_eq!(s.latest(), after(1000));
    process.terminate().expect(0);
}

/// Beyond the limit the lane waits, and nothing is lost.
#[test]
fn no_more_is_parked_than_may_be() {
    let mut s = Setup::new("parked_key_records_max = 10\n");
    s.lock(LOCK_KEY_7);
    let process = s.rig.start();
    s.publish(KEYS..2000);
    process.wait_for_log(&["tried in vain", "parked already", "parked_key_records_max = 10"]);
    assert_eq!(s.parked(), 10);
    assert!(s.committed() < Some(2000), "the lane of the key waits");
    s.unlock();
    s.wait_for_commit();
    s.wait_until_nothing_is_parked();
    assert_eq!(s.latest(), after(2000));
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
