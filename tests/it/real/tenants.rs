//! Tenants' ceilings: what one sends above its own is parked and applied in order as the ceiling allows, and nobody else waits.

use std::collections::BTreeMap;
use std::ops::Range;

use postgres::Client;
use rustix::process::Signal;

use super::pace::{CLOCKED, assert_kept, times};
use super::{assert_complete, count, ends, ledger, ledger_topic, publish_all, shard};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, wait_until};

/// In turn: a record of tenant `busy` and two of tenant `calm`, each with ten keys.
fn publish(topic: &Topic, numbers: Range<i64>) {
    let record = |seq: i64| {
        let (tenant, key) = (if seq % 3 == 0 { "busy" } else { "calm" }, seq / 3 % 10);
        ((key % 2) as i32, Some(format!("{tenant}:{key}")), Some(format!("{{\"seq\":{seq}}}")))
    };
    publish_all(topic, &numbers.map(record).collect::<Vec<_>>());
}

fn configuration(database: &Database, topic: &Topic, ceilings: &str) -> String {
    let shards = format!("[shards]\ntenant = \"key:0\"\n{ceilings}{}", shard("main", database.dsn()));
    format!("[engine]\ncommit_interval_ms = 200\n{shards}{}", ledger_topic(topic.name()))
}

/// How many rows each tenant has.
fn rows(client: &mut Client) -> BTreeMap<String, i64> {
    let rows = client.query("SELECT split_part(k, ':', 1), count(*) FROM ledger GROUP BY 1", &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_tenant_keeps_its_ceiling_and_slows_no_other() {
    let database = Database::create(Server::A, "tenants");
    database.execute(CLOCKED);
    let topic = Topic::create("tenants", 2);
    let rig = Rig::new(&configuration(&database, &topic, "[shards.tenant_rows_per_second]\nbusy = 120\n"));
    publish(&topic, 0..9000);
    let process = rig.start();
    let mut client = database.connect();
    wait_until(PATIENCE, "the rows of the tenant without a ceiling", || rows(&mut client).get("calm") == Some(&6000));
    for (partition, end) in ends(&topic) {
        wait_until(PATIENCE, "the commit", || rig.committed(topic.name(), partition) == Some(end));
    }
    let busy = rows(&mut client)["busy"];
    assert!(busy < 3000, "all rows of the busy tenant are there already");
    assert!(count(&mut client, "forebay.parked WHERE reason = 'p'") > 0, "the commit waits for none of its records");
    process.wait_for_log(&["shard main", "held back by tenant_rows_per_second_max"]);
    wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == 9000);
    assert_kept(&times(&mut client, "(SELECT at FROM ledger WHERE k LIKE 'busy:%') AS busy"), 120.0);
    wait_until(PATIENCE, "nothing to be parked", || count(&mut client, "forebay.parked") == 0);
    // What comes below the ceiling goes past the table.
    publish(&topic, 9000..9030);
    wait_until(PATIENCE, "the last rows", || count(&mut client, "ledger") == 9030);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

#[test]
fn a_tenants_ceiling_holds_behind_a_kill_and_changes_while_it_runs() {
    let database = Database::create(Server::A, "tenants");
    database.execute(CLOCKED);
    let topic = Topic::create("tenants", 2);
    let rig = Rig::new(&configuration(&database, &topic, "tenant_rows_per_second_max = 40\n"));
    publish(&topic, 0..20_000);
    let mut client = database.connect();
    let process = rig.start();
    wait_until(PATIENCE, "some rows", || count(&mut client, "ledger") >= 200);
    process.kill();
    let before = rows(&mut client);
    let from: String = client.query_one("SELECT clock_timestamp()::text", &[]).unwrap().get(0);
    let process = rig.start();
    let again = before.values().sum::<i64>() + 600;
    wait_until(PATIENCE, "some more", || count(&mut client, "ledger") >= again);
    for tenant in ["busy", "calm"] {
        let table = format!("(SELECT at FROM ledger WHERE k LIKE '{tenant}:%' AND at > '{from}') AS t");
        assert_kept(&times(&mut client, &table), 40.0);
    }
    rig.configure(&[], &configuration(&database, &topic, ""));
    process.signal(Signal::HUP);
    process.wait_for_log(&["reloaded", "shards.tenant_rows_per_second_max"]);
    wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == 20_000);
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// What a ceiling has parked is work that is not done: whoever is to leave at the end stays until it is.
#[test]
fn until_the_end_means_what_is_parked_for_a_ceiling_too() {
    let database = Database::create(Server::A, "tenants");
    database.execute(CLOCKED);
    let topic = Topic::create("tenants", 2);
    let rig = Rig::new(&configuration(&database, &topic, "tenant_rows_per_second_max = 150\n"));
    publish(&topic, 0..3000);
    rig.until_end().expect(0);
    let mut client = database.connect();
    assert_eq!((count(&mut client, "ledger"), count(&mut client, "forebay.parked")), (3000, 0));
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// A key whose first record names nobody: what follows is its tenant's all the same.
#[test]
fn a_record_without_a_tenant_opens_no_gate_for_those_behind_it() {
    let database = Database::create(Server::A, "tenants");
    database.execute(CLOCKED);
    let topic = Topic::create("tenants", 1);
    let ceiling = "[shards.tenant_rows_per_second]\nx = 60\n";
    let rig = Rig::new(&configuration(&database, &topic, ceiling).replace("key:0", "field:tenant"));
    let record = |seq: i64| {
        let tenant = if seq % 50 == 0 { "" } else { ",\"tenant\":\"x\"" };
        (0, Some("k".to_owned()), Some(format!("{{\"seq\":{seq}{tenant}}}")))
    };
    let process = rig.start();
    let mut client = database.connect();
    let mut next = 0;
    publish_all(&topic, &[record(0)]);
    wait_until(PATIENCE, "the topic to be known", || count(&mut client, "ledger") == 1);
    rig.command(&["park", "--topic", topic.name(), "--key", "k"]);
    wait_until(PATIENCE, "the hold", || {
        next += 50;
        publish_all(&topic, &[record(next)]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        count(&mut client, "forebay.parked") > 0
    });
    publish_all(&topic, &(next + 1..next + 401).map(record).collect::<Vec<_>>());
    wait_until(PATIENCE, "all to be parked", || count(&mut client, "forebay.parked") > 400);
    rig.command(&["unpark", "--topic", topic.name(), "--key", "k"]);
    wait_until(PATIENCE, "all rows", || count(&mut client, "forebay.parked") == 0);
    assert_kept(
        &times(&mut client, &format!("(SELECT at FROM ledger WHERE seq > {next} AND seq % 50 <> 0) AS x")),
        60.0,
    );
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}
