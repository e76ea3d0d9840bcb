//! What no table can take: it becomes a dead letter, or the topic stops and says where and why; nothing of it is lost, other
//! topics go on. And tables that change under a running process.

use super::{
    Entry, LEDGER, Record, assert_complete, assert_in_order, count, ends, ledger, ledger_topic, publish, record, shard,
    texts,
};
use crate::support::{Database, PATIENCE, Rig, Server, Topic, produce, wait_until};

/// Records of a topic with a bad one among them, and where the bad one is. Its key, 300 modulo 7, has others around it.
const RECORDS: i64 = 600;
const BAD: i64 = 300;
const KEYS: i64 = 7;

/// Stops a topic at a bad record; goes behind the topic's section.
const STOP: &str = "[topic.on_bad_record]\npolicy = \"stop\"\n";

/// A bad record, and what must be said about it.
struct Case {
    name: &'static str,
    /// Columns besides those of every ledger.
    columns: &'static str,
    /// More settings of the topic.
    settings: &'static str,
    value: Option<Vec<u8>>,
    said: &'static [&'static str],
}

fn case(name: &'static str, value: impl Into<Vec<u8>>, said: &'static [&'static str]) -> Case {
    Case { name, columns: "", settings: "", value: Some(value.into()), said }
}

fn cases() -> Vec<Case> {
    let deep =
        |levels: usize| format!("{{\"seq\":300,\"doc\":{}{}}}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
    vec![
        case("malformed", "{\"seq\":300,", &["not valid JSON"]),
        case("trailing", "{\"seq\":300}}", &["not valid JSON"]),
        case("no_object", "[300]", &["expected a JSON object", "array"]),
        case("wrong_type", "{\"seq\":\"many\"}", &["\"seq\"", "bigint"]),
        case("a_fraction", "{\"seq\":300.5}", &["\"seq\"", "bigint"]),
        case("out_of_range", "{\"seq\":99999999999999999999}", &["\"seq\"", "bigint"]),
        case("not_utf8", b"{\"seq\":300,\"note\":\"\xff\xfe\"}".to_vec(), &["UTF-8"]),
        case("empty", "", &["not valid JSON"]),
        // The column is NOT NULL and has no default.
        case("missing", "{}", &["SQLSTATE 23502", "\"seq\""]),
        case("null", "{\"seq\":null}", &["\"seq\"", "NOT NULL"]),
        Case {
            columns: ", note varchar(5)",
            ..case("too_long", "{\"seq\":300,\"note\":\"123456\"}", &["\"note\"", "too long"])
        },
        Case { columns: ", note text", ..case("nul", "{\"seq\":300,\"note\":\"a\\u0000b\"}", &["note"]) },
        Case { columns: ", doc jsonb", ..case("deep", deep(100_000), &["doc"]) },
        Case {
            settings: "unknown_fields = \"error\"\n",
            ..case("unknown_field", "{\"seq\":300,\"extra\":1}", &["\"extra\""])
        },
        Case {
            columns: ", CONSTRAINT not_this CHECK (seq <> 7777)",
            ..case("check", "{\"seq\":7777}", &["SQLSTATE 23514", "not_this"])
        },
        Case { columns: ", UNIQUE (seq)", ..case("duplicate", "{\"seq\":293}", &["SQLSTATE 23505"]) },
        Case { value: None, ..case("null_value", "", &["null value"]) },
    ]
}

/// What the ledger of a stopped topic must hold: of the bad record's key exactly what came before it, of others nothing twice
/// and nothing out of order.
#[track_caller]
fn assert_stopped_at_the_bad_one(entries: &[Entry], name: &str) {
    assert_in_order(entries);
    assert!(entries.windows(2).all(|w| w[0].offset < w[1].offset), "{name}: applied twice");
    let key = format!("key {}", BAD % KEYS);
    let of_key: Vec<i64> = entries.iter().filter(|e| e.key.as_ref() == Some(&key)).map(|e| e.offset).collect();
    let expected: Vec<i64> = (0..BAD).filter(|offset| offset % KEYS == BAD % KEYS).collect();
    assert_eq!(of_key, expected, "{name}: the offsets of the bad record's key");
}

/// A topic and a ledger for each case, and a good one beside them.
struct World {
    database: Database,
    good: Topic,
    cases: Vec<(Case, Topic, String)>,
    rig: Rig,
}

impl World {
    fn new(policy: &str) -> World {
        let database = Database::create(Server::A, "real");
        let good = Topic::create("real_good", 2);
        database.execute(LEDGER);
        let mut toml = format!("{}{}", shard("main", database.dsn()), ledger_topic(good.name()));
        let mut topics = Vec::new();
        for case in cases() {
            let topic = Topic::create(&format!("real_{}", case.name), 1);
            let table = format!("ledger_{}", case.name);
            database.execute(
                &LEDGER
                    .replace("ledger", &table)
                    .replace("seq bigint NOT NULL)", &format!("seq bigint NOT NULL{})", case.columns)),
            );
            let section = ledger_topic(topic.name()).replace("\"ledger\"\n", &format!("{table:?}\n{}", case.settings));
            toml.push_str(&section);
            toml.push_str(policy);
            let records: Vec<Record> = (0..RECORDS).map(|seq| record(seq, KEYS, 1)).collect();
            produce(
                topic.name(),
                records.iter().zip(0..).map(|((partition, key, value), at)| {
                    let good = value.as_deref().map(str::as_bytes);
                    (
                        *partition,
                        key.as_deref().map(str::as_bytes),
                        if at == BAD { case.value.as_deref() } else { good },
                    )
                }),
            );
            topics.push((case, topic, table));
        }
        let rig = Rig::new(&toml);
        publish(&good, 0..2000, 20);
        World { database, good, cases: topics, rig }
    }
}

fn entries(client: &mut postgres::Client, table: &str) -> Vec<Entry> {
    let rows = client.query(&format!("SELECT p, o, id, k, seq FROM {table} ORDER BY o, id"), &[]).unwrap();
    let entry =
        |r: &postgres::Row| Entry { partition: r.get(0), offset: r.get(1), id: r.get(2), key: r.get(3), seq: r.get(4) };
    rows.iter().map(entry).collect()
}

#[test]
fn a_bad_record_stops_its_topic_and_says_where_and_why() {
    let World { database, good, cases, rig } = World::new(STOP);
    let mut client = database.connect();
    // The second run finds the same record again: nothing was skipped.
    for run in 0..2 {
        let log = rig.until_end().expect(65);
        // What is durable of a topic that stopped is also stored: nobody waits for the rest.
        assert!(!log.contains("before everything is stored"), "run {run}: {log}");
        for (case, topic, table) in &cases {
            let name = case.name;
            let stops: Vec<&str> =
                log.lines().filter(|line| line.contains(topic.name()) && line.contains("stopped")).collect();
            let line = stops.first().unwrap_or_else(|| panic!("run {run}: nothing says that {name} stopped:\n{log}"));
            let place = format!("partition 0 offset {BAD}");
            for part in case.said.iter().copied().chain([place.as_str()]) {
                assert!(line.contains(part), "run {run}: {name}: the message lacks {part:?}: {line}");
            }
            assert_stopped_at_the_bad_one(&entries(&mut client, table), name);
            let committed = rig.committed(topic.name(), 0).unwrap_or(0);
            assert!(committed <= BAD, "{name}: offset {committed} is committed beyond the bad record");
        }
        assert_complete(&ledger(&mut client), &ends(&good));
    }
}

/// By default: the bad record, whole, is a dead letter, exactly once, and everything else is applied.
#[test]
fn a_bad_record_becomes_a_dead_letter_and_its_key_goes_on() {
    let World { database, good, cases, rig } = World::new("");
    let mut client = database.connect();
    for run in 0..2 {
        let log = rig.until_end().expect(0);
        for (case, topic, table) in &cases {
            let name = case.name;
            let entries = entries(&mut client, table);
            assert_in_order(&entries);
            let offsets: Vec<i64> = entries.iter().map(|e| e.offset).collect();
            let expected: Vec<i64> = (0..RECORDS).filter(|offset| *offset != BAD).collect();
            assert_eq!(offsets, expected, "run {run}: {name}");
            let sql = "SELECT partition, \"offset\", error || coalesce(' (SQLSTATE ' || sqlstate || ')', ''), key, payload, \
                       ts IS NOT NULL FROM forebay.dead_letter WHERE topic = $1";
            let letters = client.query(sql, &[&topic.name()]).unwrap();
            let [letter] = &letters[..] else { panic!("run {run}: {name}: {} letters", letters.len()) };
            let (partition, offset, error): (i32, i64, String) = (letter.get(0), letter.get(1), letter.get(2));
            assert_eq!((partition, offset), (0, BAD), "{name}");
            let key = format!("key {}", BAD % KEYS).into_bytes();
            assert_eq!((letter.get(3), letter.get(4)), (Some(key), case.value.clone()), "{name}");
            assert!(letter.get::<_, bool>(5), "{name}: the record's time");
            case.said.iter().for_each(|part| assert!(error.contains(part), "{name}: {error:?} lacks {part:?}"));
            let said = log.lines().any(|line| {
                line.contains(topic.name()) && line.contains("dead letter") && line.contains(&format!("offset {BAD}"))
            });
            assert_eq!(said, run == 0, "run {run}: {name}: {log}");
            assert_eq!(rig.committed(topic.name(), 0), Some(RECORDS));
        }
        assert_complete(&ledger(&mut client), &ends(&good));
    }
}

/// A deploy that publishes nothing but what no table takes: so many letters as are allowed, then the topic stops.
#[test]
fn a_bad_deploy_is_not_drained_into_dead_letters() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 1);
    let limits = "[topic.on_bad_record]\nrun_max = 20\n";
    let rig = Rig::new(&format!("{}{}{limits}", shard("main", database.dsn()), ledger_topic(topic.name())));
    publish(&topic, 0..1000, 20);
    produce(topic.name(), (0..1000).map(|_| (0, Some(&b"bad"[..]), Some(&b"{}"[..]))));
    let mut client = database.connect();
    for _ in 0..2 {
        let said = [topic.name(), "stopped", "in a row (on_bad_record.run_max)", "SQLSTATE 23502"];
        rig.until_end().expect_log(65, &said);
        assert_eq!(count(&mut client, "ledger"), 1000);
        let letters = count(&mut client, "forebay.dead_letter");
        // A process counts anew.
        assert!(letters <= 2 * 20, "{letters} letters");
        let committed = rig.committed(topic.name(), 0).unwrap();
        assert_eq!(committed, 1000 + letters, "what is not a letter is not passed over");
    }
}

/// Two append-only tables, `ledger` and `other`, a topic for each, and a program that is to apply both.
fn two_ledgers() -> (Database, Topic, Topic, Rig) {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    database.execute(&LEDGER.replace("ledger", "other"));
    let (topic, other) = (Topic::create("real", 2), Topic::create("real_other", 2));
    let rig = Rig::new(&format!(
        "{}{}{STOP}{}",
        shard("main", database.dsn()),
        ledger_topic(topic.name()),
        ledger_topic(other.name()).replace("\"ledger\"", "\"other\"")
    ));
    (database, topic, other, rig)
}

#[test]
fn after_the_cause_is_gone_a_restart_goes_on_and_nothing_is_lost() {
    let (database, topic, other, rig) = two_ledgers();
    database.execute("ALTER TABLE ledger ADD CONSTRAINT not_yet CHECK (seq <> 5250)");
    publish(&topic, 0..10_000, 100);
    let process = rig.start();
    process.wait_for_log(&[topic.name(), "stopped", "SQLSTATE 23514", "not_yet", "partition 0 offset 2625"]);
    // Other topics go on, for as long as it runs.
    let mut client = database.connect();
    publish(&other, 0..3000, 100);
    wait_until(PATIENCE, "the other topic's rows", || count(&mut client, "other") == 3000);
    let key = "SELECT o::text FROM ledger AS l WHERE k = 'key 50' ORDER BY l.o";
    let expected: Vec<String> = (0..2625).filter(|o| o % 50 == 25).map(|o| o.to_string()).collect();
    assert_eq!(texts(&mut client, key), expected);
    process.terminate().expect(0);

    database.execute("ALTER TABLE ledger DROP CONSTRAINT not_yet");
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
    for (partition, end) in ends(&topic) {
        assert_eq!(rig.committed(topic.name(), partition), Some(end));
    }
}

#[test]
fn a_table_may_change_where_the_records_still_fit() {
    let database = Database::create(Server::A, "real");
    database.execute(LEDGER);
    let topic = Topic::create("real", 2);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn()), ledger_topic(topic.name())));
    let mut client = database.connect();
    let mut published = 0;
    let mut go_on = |process: &crate::support::Forebay, what: &str| {
        publish(&topic, published..published + 1000, 20);
        published += 1000;
        wait_until(PATIENCE, what, || count(&mut client, "ledger") == published);
        assert!(!process.log().contains("stopped"), "after {what}");
    };
    let process = rig.start();
    go_on(&process, "the first rows");
    let changes = [
        "ADD COLUMN added text",
        "ADD COLUMN defaulted int NOT NULL DEFAULT 5",
        "DROP COLUMN added",
        "ALTER COLUMN seq TYPE numeric",
        "ALTER COLUMN seq TYPE bigint",
        "ALTER COLUMN k TYPE varchar(100)",
        "ADD UNIQUE (p, o)",
    ];
    for change in changes {
        database.execute(&format!("ALTER TABLE ledger {change}"));
        go_on(&process, change);
    }
    process.terminate().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

/// Takes something away that records need, waits for the message, gives it back, and goes on.
fn taken_away_and_given_back(take: &str, said: &[&str], give_back: &str) {
    let (database, topic, other, rig) = two_ledgers();
    let mut client = database.connect();
    let process = rig.start();
    publish(&topic, 0..1000, 20);
    wait_until(PATIENCE, "the first rows", || count(&mut client, "ledger") == 1000);

    database.execute(take);
    publish(&topic, 1000..2000, 20);
    let mut parts = vec![topic.name(), "stopped"];
    parts.extend(said);
    process.wait_for_log(&parts);
    publish(&other, 0..1000, 20);
    wait_until(PATIENCE, "the other topic's rows", || count(&mut client, "other") == 1000);
    process.terminate().expect(0);
    // At start it says so as well.
    let mut parts = vec![topic.name()];
    parts.extend(said);
    rig.until_end().expect_log(65, &parts);

    database.execute(give_back);
    rig.until_end().expect(0);
    assert_complete(&ledger(&mut client), &ends(&topic));
}

#[test]
fn a_mapped_column_that_is_gone_stops_the_topic() {
    taken_away_and_given_back(
        "ALTER TABLE ledger RENAME COLUMN o TO gone",
        &["\"o\""],
        "ALTER TABLE ledger RENAME COLUMN gone TO o",
    );
}

#[test]
fn a_table_that_is_gone_stops_the_topic() {
    taken_away_and_given_back("ALTER TABLE ledger RENAME TO gone", &["ledger"], "ALTER TABLE gone RENAME TO ledger");
}
