//! What a person decides about parked records while a process runs: `park`, `unpark`, `parked`, and `dead-letters` of letters that
//! block their keys.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::Client;

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, publish_all, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

const ENGINE: &str =
    "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\n[shards]\nby = \"hash\"\ntenant = \"key:0\"\n";

/// How long a running process may take to notice a command: a commit interval, and a look of the slow lane.
const NOTICED: Duration = Duration::from_secs(5);

/// Tenants a, b, c and d take turns, each with two keys: a:0, b:0, c:0, d:0, a:1, …
fn key(seq: i64) -> String {
    format!("{}:{}", ["a", "b", "c", "d"][(seq % 4) as usize], seq / 4 % 2)
}

fn publish(topic: &Topic, seqs: std::ops::Range<i64>) {
    let record = |seq: i64| ((seq % 4 / 2) as i32, Some(key(seq)), Some(format!("{{\"seq\":{seq}}}")));
    publish_all(topic, &seqs.map(record).collect::<Vec<_>>());
}

/// Two partitions for an append-only table.
fn rig(more: &str) -> (Database, Topic, Rig) {
    let database = Database::create(Server::A, "parked");
    database.execute(LEDGER);
    let topic = Topic::create("parked", 2);
    let rig = Rig::new(&format!("{ENGINE}{}{}{more}", shard("main", database.dsn()), ledger_topic(topic.name())));
    (database, topic, rig)
}

/// How many rows the ledger has of each key.
fn rows(client: &mut Client) -> BTreeMap<String, i64> {
    let rows = client.query("SELECT k, count(*) FROM ledger GROUP BY k", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn wait_for_commit(rig: &Rig, topic: &Topic) {
    for (partition, end) in ends(topic) {
        wait_until(PATIENCE, "everything to be committed", || rig.committed(topic.name(), partition) == Some(end));
    }
}

fn parked(client: &mut Client, rows: i64, within: Duration) {
    wait_until(within, &format!("{rows} parked rows"), || count(client, "forebay.parked") == rows);
}

/// Publishes from `next` on, a record of each key at a time, until the process acts on a hold: what it read before is applied.
fn publish_until_held(rig: &Rig, topic: &Topic, client: &mut Client, key: &str, mut next: i64) -> i64 {
    wait_until(NOTICED, "a hold to take effect", || {
        publish(topic, next..next + 8);
        next += 8;
        wait_for_commit(rig, topic);
        parked_of(client, key) > 0
    });
    next
}

fn parked_of(client: &mut Client, key: &str) -> i64 {
    let sql = "SELECT count(*) FROM forebay.parked WHERE key = convert_to($1, 'UTF8')";
    client.query_one(sql, &[&key]).unwrap().get(0)
}

#[test]
fn a_key_and_a_tenant_are_held_while_a_process_runs() {
    let (database, topic, rig) = rig("");
    let mut client = database.connect();
    let name = topic.name();
    let run = |arguments: &[&str]| rig.command(arguments);
    let process = rig.start();
    publish(&topic, 0..80);
    wait_for_commit(&rig, &topic);

    let said = run(&["park", "--topic", name, "--tenant", "a"]);
    assert_eq!(
        said,
        format!("shard main: tenant \"a\" of {name} is held; running processes park its records within 0.2 s\n")
    );
    let next = publish_until_held(&rig, &topic, &mut client, "a:0", 80);
    assert!(run(&["park", "--topic", name, "--key", "d:1"]).contains("key \"d:1\""));
    assert!(run(&["park", "--topic", name, "--key", "d:1"]).contains("was held already"), "idempotent");
    let held = publish_until_held(&rig, &topic, &mut client, "d:1", next);
    let before = rows(&mut client);
    publish(&topic, held..held + 800);
    wait_for_commit(&rig, &topic);
    let after = rows(&mut client);
    let more: BTreeMap<&str, i64> =
        after.iter().map(|(key, rows)| (key.as_str(), rows - before.get(key).unwrap_or(&0))).collect();
    let expected = |key: &str| if key.starts_with('a') || key == "d:1" { 0 } else { 100 };
    assert!(more.iter().all(|(key, rows)| *rows == expected(key)), "{more:?}");

    let list = run(&["parked"]);
    assert_eq!(list.lines().count(), run(&["parked", "list"]).lines().count(), "the list is what is shown");
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2 + 3 + 1, "{list}");
    assert!(lines[0].ends_with(&format!("shard main holds key \"d:1\" of {name}")), "{list}");
    assert!(lines[1].ends_with(&format!("shard main holds tenant \"a\" of {name}")), "{list}");
    let of_d = lines.iter().find(|line| line.contains("[1] key \"d:1\"")).unwrap_or_else(|| panic!("{list}"));
    let records_of_d = parked_of(&mut client, "d:1");
    assert!(
        of_d.contains(&format!("{records_of_d} records from offset")) && of_d.ends_with("because it was held; held"),
        "{list}"
    );
    let rows_parked = count(&mut client, "forebay.parked");
    assert_eq!(lines[5], format!("shard main: 2 holds, {rows_parked} records of 3 keys parked"));
    let few = run(&["parked", "--limit", "1"]);
    assert_eq!(few.lines().count(), 3, "{few}");
    assert_eq!(few.lines().last(), list.lines().last(), "the totals are those of everything");
    let one = run(&["parked", "--key", "a:1"]);
    assert!(one.lines().count() == 2 && one.contains("key \"a:1\"") && one.contains("of 1 key parked"), "{one}");
    for nothing in [["--partition", "7"], ["--sqlstate", "23514"], ["--topic", "other"]] {
        assert_eq!(run(&[&["parked"], &nothing[..]].concat()).matches("key \"a").count(), 0, "{nothing:?}");
    }

    // A process that starts knows the holds from the beginning.
    process.kill();
    let process = rig.start();
    publish(&topic, held + 800..held + 1600);
    wait_for_commit(&rig, &topic);
    assert_eq!(count(&mut client, "forebay.parked"), rows_parked + 300);

    let said = run(&["unpark", "--topic", name, "--tenant", "a"]);
    assert!(said.contains("is held no longer") && said.contains("of 2 keys are parked still"), "{said}");
    assert!(said.contains("1 hold of the topic left"), "{said}");
    parked(&mut client, records_of_d + 100, NOTICED);
    let said = run(&["unpark", "--topic", name, "--key", "d:1", "--shard", "main"]);
    assert!(said.contains(&format!("{} records of 1 key are parked still", records_of_d + 100)), "{said}");
    parked(&mut client, 0, NOTICED);
    assert!(run(&["unpark", "--topic", name, "--key", "d:1"]).contains("was not held; nothing of it is parked"));
    assert_eq!(run(&["parked"]), "nothing is held or parked\n");
    publish(&topic, held + 1600..held + 1680);
    wait_for_commit(&rig, &topic);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// A hold outlives a time without any process, and what was parked before goes on once one is there.
#[test]
fn what_is_unparked_while_nobody_runs_goes_on_with_the_next_start() {
    let (database, topic, rig) = rig("");
    let mut client = database.connect();
    publish(&topic, 0..80);
    rig.until_end().expect(0);
    rig.command(&["park", "--topic", topic.name(), "--key", "c:0"]);
    publish(&topic, 80..160);
    rig.until_end().expect(0);
    assert_eq!(count(&mut client, "forebay.parked"), 10);
    rig.command(&["unpark", "--topic", topic.name(), "--key", "c:0"]);
    assert_eq!(count(&mut client, "forebay.parked"), 10);
    rig.until_end().expect(0);
    parked(&mut client, 0, Duration::ZERO);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// A table that refuses two records: one's table is mended, the other is discarded. Both keys wait behind them and go on in order.
#[test]
fn letters_that_block_their_keys_are_replayed_and_discarded() {
    let (database, topic, rig) = rig("[topic.on_bad_record]\nthen = \"park\"\n");
    let mut client = database.connect();
    let name = topic.name();
    let run = |arguments: &[&str]| rig.command(arguments);
    let process = rig.start();
    // Of keys b:0 and c:0, and later ones of b:0.
    database.execute("ALTER TABLE ledger ADD CONSTRAINT not_yet CHECK (seq NOT IN (41, 42, 57))");
    publish(&topic, 0..80);
    wait_for_commit(&rig, &topic);
    let lists = |parts: &[&str], more: &[&str]| {
        let list = run(&[&["dead-letters", "list"], more].concat());
        list.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };
    let blocked = "letter that blocks its key: ";
    wait_until(PATIENCE, "two letters", || lists(&[blocked], &[]) == 2);
    assert_eq!(lists(&[blocked, "[0]", "key \"b:0\"", "SQLSTATE 23514"], &["--partition", "0"]), 1);
    assert_eq!(lists(&[blocked, "key \"c:0\""], &["--key", "c:0", "--sqlstate", "23514", "--topic", name]), 1);
    assert_eq!(lists(&[blocked], &["--offset", "7"]) + lists(&[blocked], &["--id", "1"]), 0);
    let shown = run(&["dead-letters", "show", "--key", "b:0"]);
    assert!(shown.contains(blocked) && shown.contains("payload: \"{\\\"seq\\\":41}\""), "{shown}");
    // 41, 49, 57, 65, 73 and 42, 50, 58, 66, 74.
    parked(&mut client, 10, Duration::ZERO);
    let list = run(&["parked"]);
    assert!(list.contains("key \"b:0\": 5 records") && list.contains("dead letter, tried 1 time: "), "{list}");
    assert!(list.ends_with("shard main: 0 holds, 10 records of 2 keys parked\n"), "{list}");

    // Refused again, it is what it was.
    let said = run(&["dead-letters", "replay", "--key", "b:0"]);
    assert!(said.contains("is next of its key"), "{said}");
    wait_until(NOTICED, "the second try", || run(&["parked", "--key", "b:0"]).contains("dead letter, tried 2 times"));
    parked(&mut client, 10, Duration::ZERO);

    // A row of which only the key's first record was mended blocks at the next one.
    database.execute("ALTER TABLE ledger DROP CONSTRAINT not_yet");
    database.execute("ALTER TABLE ledger ADD CONSTRAINT not_yet CHECK (seq <> 57) NOT VALID");
    assert_eq!(run(&["dead-letters", "replay", "--topic", name, "--key", "b:0"]).lines().count(), 1);
    wait_until(NOTICED, "the next letter", || {
        lists(&[blocked, "key \"b:0\""], &[]) == 1 && rows(&mut client)["b:0"] == 7
    });
    assert_eq!(count(&mut client, "forebay.parked"), 3 + 5);
    let said = run(&["dead-letters", "discard", "--key", "b:0"]);
    assert!(said.contains("letter 1 discarded; its key goes on"), "{said}");
    parked(&mut client, 5, NOTICED);
    assert_eq!(run(&["dead-letters", "discard", "--key", "b:0"]), "no such dead letter\n");
    assert_eq!((lists(&["[discarded]"], &["--all"]), lists(&["[discarded]"], &[])), (1, 0));
    process.terminate().expect(0);

    // Nobody runs: it waits until somebody does.
    run(&["dead-letters", "replay", "--all"]);
    assert_eq!(count(&mut client, "forebay.parked"), 5);
    rig.until_end().expect(0);
    parked(&mut client, 0, Duration::ZERO);
    let entries = ledger(&mut client);
    super::assert_in_order(&entries);
    let seqs: std::collections::BTreeSet<i64> = entries.iter().map(|entry| entry.seq).collect();
    assert_eq!((entries.len(), seqs.len(), seqs.contains(&57)), (79, 79, false), "everything else once");
    let letter = client.query_one("SELECT key, payload, sqlstate FROM forebay.dead_letter", &[]).unwrap();
    assert_eq!((letter.get(0), letter.get(1)), (b"b:0".to_vec(), b"{\"seq\":57}".to_vec()));
    assert_eq!(letter.get::<_, String>(2), "23514");
}
