//! A map of tenants that changes while forebay runs, processes that disagree about it, and a program's own shard function.

use forebay::engine::{Engine, Options, Stopper};
use forebay::state::chunk::RawRecord;
use forebay::state::router::{RouteError, ShardFunction};
use forebay::types::ShardIx;
use rustix::process::Signal;

use super::{LEDGER, count, ledger_topic, publish_all, shard, texts};
use crate::support::{Database, Forebay, PATIENCE, Rig, Server, Topic, wait_until};

/// Two shards, a topic whose records name their tenant in the key, and a map.
struct Setup {
    shards: [Database; 2],
    topic: Topic,
    rig: Rig,
}

impl Setup {
    fn new(map: &str) -> Setup {
        let shards = [Database::create(Server::A, "maps"), Database::create(Server::B, "maps")];
        shards.iter().for_each(|shard| shard.execute(LEDGER));
        let topic = Topic::create("maps", 2);
        let rig = Rig::new(&Setup::toml(&shards, &topic, "map.toml", ""));
        rig.write("map.toml", map);
        Setup { shards, topic, rig }
    }

    fn toml(shards: &[Database; 2], topic: &Topic, map: &str, more: &str) -> String {
        format!(
            "[engine]\ncommit_interval_ms = 100\nretry_backoff_max_ms = 500\n{more}[shards]\nby = \"map\"\nmap_file = {map:?}\n\
             {}{}{}",
            shard("a", shards[0].dsn()),
            shard("b", shards[1].dsn()),
            ledger_topic(topic.name())
        )
    }

    fn publish(&self, tenant: &str, numbers: std::ops::Range<i64>) {
        let record = |seq| (0, Some(tenant.to_owned()), Some(format!("{{\"seq\":{seq}}}")));
        publish_all(&self.topic, &numbers.map(record).collect::<Vec<_>>());
    }

    #[track_caller]
    fn wait_for(&self, rows: [i64; 2]) {
        wait_until(PATIENCE, &format!("{rows:?} rows"), || {
            [0, 1].map(|shard| count(&mut self.shards[shard].connect(), "ledger")) == rows
        });
    }
}

/// Sends SIGHUP and waits for a line of the log, as often as it takes: the process may not listen yet.
#[track_caller]
fn reload(process: &Forebay, map: (&Rig, &str), says: &[&str]) {
    map.0.write("map.toml", map.1);
    let before = process.log().lines().count();
    process.signal(Signal::HUP);
    wait_until(PATIENCE, &format!("a new line of the log with {says:?}"), || {
        process.log().lines().skip(before).any(|line| says.iter().all(|part| line.contains(part)))
    });
}

#[test]
fn a_reload_adds_tenants_and_nothing_else() {
    let s = Setup::new("x = \"a\"\n");
    s.publish("x", 0..100);
    let process = s.rig.start();
    s.wait_for([100, 0]);
    // A tenant that nobody knows stops the topic, in front of its record.
    s.publish("y", 100..200);
    s.publish("x", 200..300);
    process.wait_for_log(&[s.topic.name(), "stopped", "no shard for this record's tenant", "SIGHUP"]);
    for (map, says) in [
        (
            "x = \"b\"\ny = \"b\"\n",
            &["reload refused", "\"x\" goes to the shard \"a\" and would go to \"b\"", "move the rows"],
        ),
        ("y = \"b\"\n", &["reload refused", "\"x\" would be in the map no more", "--until-end"]),
        ("x = \"a\"\ny =\n", &["reload refused", "map.toml", "error in line 2"]),
        ("x = \"a\"\ny = \"moon\"\n", &["reload refused", "tenants of \"moon\"", "only names of"]),
    ] {
        reload(&process, (&s.rig, map), says);
    }
    // What needs a restart is refused together with what does not.
    let with_lanes = Setup::toml(&s.shards, &s.topic, "map.toml", "lanes = 32\n");
    s.rig.configure(&[], &with_lanes);
    reload(&process, (&s.rig, "x = \"a\"\ny = \"b\"\n"), &["reload refused", "engine.lanes needs a restart"]);
    s.rig.configure(&[], &Setup::toml(&s.shards, &s.topic, "map.toml", ""));
    s.wait_for([100, 0]);

    reload(&process, (&s.rig, "x = \"a\"\ny = \"b\"\n"), &["reloaded: shards.map_file"]);
    s.wait_for([200, 100]);
    reload(&process, (&s.rig, "x = \"a\"\ny = \"b\"\n"), &["nothing changed"]);
    process.terminate().expect(0);
    assert_eq!(s.rig.committed(s.topic.name(), 0), Some(300));
    for (shard, tenant) in [(0, "x"), (1, "y")] {
        let keys = texts(&mut s.shards[shard].connect(), "SELECT DISTINCT k FROM ledger");
        assert_eq!(keys, [tenant]);
    }
    // What the databases remember outlives the processes.
    s.rig.write("map.toml", "x = \"a\"\ny = \"a\"\n");
    s.publish("y", 300..400);
    let (ended, forget) = (s.rig.until_end(), format!("DELETE FROM forebay.meta WHERE key = 'map {}'", s.rig.group()));
    ended.expect_log(78, &["\"y\" goes to the shard \"b\" and would go to \"a\"", &forget]);
    s.wait_for([200, 100]);
    // The procedure.
    for shard in &s.shards {
        shard.execute(&forget);
    }
    s.rig.until_end().expect(0);
    s.wait_for([300, 100]);
}

#[test]
fn a_process_with_another_map_is_refused() {
    let s = Setup::new("x = \"a\"\ny = \"b\"\n");
    s.publish("x", 0..100);
    let first = s.rig.start();
    s.wait_for([100, 0]);
    // A part of it is no other map; another shard for a tenant is.
    s.rig.write("part.toml", "x = \"a\"\n");
    s.rig.write("other.toml", "x = \"a\"\ny = \"a\"\n");
    for name in ["part", "other"] {
        let toml = Setup::toml(&s.shards, &s.topic, &format!("{name}.toml"), "");
        s.rig.configure_as(&format!("forebay-{name}.toml"), &[], &toml);
    }
    let part = s.rig.start_with("forebay-part.toml", &[]);
    part.wait_for_log(&["assigned: ", s.topic.name()]);
    part.terminate().expect(0);
    let other = s.rig.start_with("forebay-other.toml", &["--until-end"]);
    other.ended().expect_log(
        78,
        &["as this database remembers", "\"y\" goes to the shard \"b\"", "\"a\" by this process's map"],
    );

    // Two that run side by side, of which one learns what the other one knows differently.
    let second = s.rig.start_with("forebay-part.toml", &[]);
    second.wait_for_log(&["assigned: ", s.topic.name()]);
    s.rig.write("part.toml", "x = \"a\"\nz = \"a\"\n");
    second.signal(Signal::HUP);
    second.wait_for_log(&["reloaded: shards.map_file"]);
    let record = |seq: i64| ((seq % 2) as i32, Some("z".to_owned()), Some(format!("{{\"seq\":{seq}}}")));
    publish_all(&s.topic, &(100..200).map(record).collect::<Vec<_>>());
    // One partition is the second one's, the other one's topic stops.
    s.wait_for([150, 0]);
    reload(&first, (&s.rig, "x = \"a\"\ny = \"b\"\nz = \"b\"\n"), &["reload refused", "\"z\" goes to the shard \"a\""]);
    reload(&first, (&s.rig, "x = \"a\"\ny = \"b\"\nz = \"a\"\n"), &["reloaded"]);
    s.wait_for([200, 0]);
    s.publish("y", 200..300);
    second.terminate().expect(0);
    s.wait_for([200, 100]);
    first.terminate().expect(0);
}

/// One more database, which never heard of the group, would take what lives in the others.
#[test]
fn a_process_that_spreads_records_otherwise_stops_though_a_shard_remembers_nothing() {
    let shards = [Server::A, Server::B, Server::A].map(|server| Database::create(server, "maps"));
    shards.iter().for_each(|shard| shard.execute(LEDGER));
    let topic = Topic::create("maps", 2);
    let toml = |n: usize| {
        let shards: String = (0..n).map(|i| shard(&format!("s{i}"), shards[i].dsn())).collect();
        let engine = "[engine]\ncommit_interval_ms = 100\nlocate_deadline_ms = 300\n[shards]\nby = \"hash\"\n";
        format!("{engine}{shards}{}", ledger_topic(topic.name()))
    };
    let publish = |numbers: std::ops::Range<i64>| {
        let record = |seq: i64| ((seq % 2) as i32, Some(format!("key {seq}")), Some(format!("{{\"seq\":{seq}}}")));
        publish_all(&topic, &numbers.map(record).collect::<Vec<_>>());
    };
    let rows = || shards.each_ref().map(|shard| count(&mut shard.connect(), "ledger"));
    publish(0..100);
    let rig = Rig::new(&toml(2));
    rig.until_end().expect(0);
    let before = rows();
    assert_eq!((before[0] + before[1], before[2]), (100, 0));
    publish(100..200);
    rig.configure(&[], &toml(3));
    // Not told to end by itself.
    rig.start().ended().expect_log(78, &["a row could end up in two databases"]);
    assert_eq!(rows(), before);
    rig.configure(&[], &toml(2));
    rig.until_end().expect(0);
    assert_eq!(rows()[0] + rows()[1], 200);
}

#[test]
fn a_default_takes_whom_the_map_lacks_for_ever() {
    let s = Setup::new("x = \"a\"\n");
    s.publish("y", 0..100);
    let process = s.rig.start();
    process.wait_for_log(&[s.topic.name(), "stopped"]);
    let toml = Setup::toml(&s.shards, &s.topic, "map.toml", "");
    let with = |shard: &str| toml.replace("by = \"map\"", &format!("by = \"map\"\ndefault = {shard:?}"));
    s.rig.configure(&[], &with("b"));
    reload(&process, (&s.rig, "x = \"a\"\n"), &["reloaded: shards.default"]);
    s.wait_for([0, 100]);
    for (text, map, says) in [
        (with("a"), "x = \"a\"\n", "go to the shard \"b\" and would go to \"a\""),
        (toml.clone(), "x = \"a\"\n", "would stop their topic"),
        (with("b"), "x = \"a\"\ny = \"a\"\n", "\"y\" goes to the shard \"b\" and would go to \"a\""),
    ] {
        s.rig.configure(&[], &text);
        reload(&process, (&s.rig, map), &["reload refused", says]);
    }
    s.rig.configure(&[], &with("b"));
    reload(&process, (&s.rig, "x = \"a\"\ny = \"b\"\nz = \"b\"\n"), &["reloaded: shards.map_file"]);
    process.terminate().expect(0);
}

/// Even partitions to the second shard: what no setting says.
struct Crosswise(&'static str);

impl ShardFunction for Crosswise {
    fn shard(&self, partition: i32, _: &RawRecord<'_>, shards: u16) -> Result<ShardIx, RouteError> {
        Ok(ShardIx((partition as u16 + 1) % shards))
    }

    fn generation(&self) -> String {
        self.0.to_owned()
    }
}

#[test]
fn a_programs_own_function_decides_and_another_one_is_refused() {
    let s = Setup::new("x = \"a\"\n");
    let record = |seq: i64| ((seq % 2) as i32, Some(format!("k{}", seq % 2)), Some(format!("{{\"seq\":{seq}}}")));
    publish_all(&s.topic, &(0..200).map(record).collect::<Vec<_>>());
    let run = |generation| {
        let toml = Setup::toml(&s.shards, &s.topic, "map.toml", "")
            .replace("by = \"map\"\nmap_file = \"map.toml\"", "by = \"hash\"");
        let text = format!(
            "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = {:?}\n{toml}",
            s.topic.bootstrap(),
            s.rig.group()
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("writable");
        let config = forebay::config::Config::load(file.path()).expect("valid");
        let options = Options { until_end: true, ..Options::default() };
        Engine::new(config).route(Crosswise(generation)).run(options, &Stopper::default())
    };
    run("crosswise 1").expect("it runs");
    for (shard, partition) in [(0, 1), (1, 0)] {
        let mut client = s.shards[shard].connect();
        assert_eq!(count(&mut client, "ledger"), 100);
        assert_eq!(count(&mut client, &format!("ledger WHERE p = {partition}")), 100);
    }
    let refused = run("crosswise 2").expect_err("another function").to_string();
    assert!(refused.contains("function crosswise 1") && refused.contains("function crosswise 2"), "{refused}");
}

#[test]
fn a_record_that_names_no_tenant_is_a_bad_record_of_the_first_shard() {
    let s = Setup::new("x = \"a\"\n");
    let by_field = Setup::toml(&s.shards, &s.topic, "map.toml", "")
        .replace("by = \"map\"\nmap_file = \"map.toml\"", "by = \"modulo\"\ntenant = \"field:seq\"");
    s.rig.configure(&[], &by_field);
    let record = |seq: i64| {
        let value = match seq {
            50 => "{\"other\":1}".to_owned(),
            51 => "{\"seq\":\"x51\"}".to_owned(),
            52 => "no JSON".to_owned(),
            _ => format!("{{\"seq\":{seq}}}"),
        };
        (0, Some(format!("k{}", seq % 2)), Some(value))
    };
    publish_all(&s.topic, &(0..100).map(record).collect::<Vec<_>>());
    s.rig.until_end().expect(0);
    // 51 would be odd: the second shard's.
    s.wait_for([48, 49]);
    let letters = |shard: usize| {
        let sql = "SELECT concat_ws(' ', \"offset\", convert_from(key, 'UTF8'), error) FROM forebay.dead_letter ORDER BY \"offset\"";
        texts(&mut s.shards[shard].connect(), sql)
    };
    let (first, second) = (letters(0), letters(1));
    assert!(second.is_empty(), "{second:?}");
    for (letter, words) in first.iter().zip([
        "50 k0 the tenant cannot be read: the record has no field",
        "51 k1 the tenant",
        "52 k0 the tenant",
    ]) {
        assert!(letter.starts_with(words), "{letter}");
    }
    assert_eq!(first.len(), 3);
    assert_eq!(s.rig.committed(s.topic.name(), 0), Some(100));
    // Where bad records stop the topic, such a one does.
    s.rig.configure(&[], &format!("{by_field}[topic.on_bad_record]\npolicy = \"stop\"\n"));
    publish_all(&s.topic, &[(0, Some("k1".to_owned()), Some("{}".to_owned())), record(100)]);
    s.rig.until_end().expect_log(65, &["stopped", "partition 0 offset 100", "the tenant cannot be read"]);
}

/// Its letter lies in the first shard because it must lie somewhere: a replay once made a row of it there.
#[test]
fn a_letter_that_names_no_tenant_is_refused_again() {
    let s = Setup::new("x = \"a\"\n");
    let by_field = Setup::toml(&s.shards, &s.topic, "map.toml", "")
        .replace("by = \"map\"\nmap_file = \"map.toml\"", "by = \"modulo\"\ntenant = \"field:app\"");
    s.rig.configure(&[], &by_field);
    let values = ["{\"app\":0,\"seq\":0}", "{\"seq\":1}", "{\"app\":1,\"seq\":\"late\"}"];
    publish_all(&s.topic, &values.map(|value| (0, Some("k".to_owned()), Some(value.to_owned()))));
    s.rig.until_end().expect(0);
    s.wait_for([1, 0]);
    s.shards[1].execute("ALTER TABLE ledger ALTER seq TYPE text");
    let said = s.rig.command_with(&["dead-letters", "replay", "--all", "--out-of-order"], 65);
    assert!(said.contains("shard a: letter 1 refused again: the tenant cannot be read: the record has no"), "{said}");
    assert!(said.contains("publish the record again with its tenant, and discard this letter"), "{said}");
    assert!(said.contains("shard b: letter 1 applied"), "the table takes it now: {said}");
    s.wait_for([1, 1]);
    assert_eq!(s.rig.command(&["dead-letters", "list"]).lines().count(), 1, "it is a letter still");
}
