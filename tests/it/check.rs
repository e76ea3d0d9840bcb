//! `forebay check` against real services: each case names everything that is said about one place of the configuration.

use std::path::Path;

use forebay::check::{Report, check};
use forebay::config::load::parse;

use crate::support::{Database, OwnServices, Server, Service, Topic, kafka_bootstrap, unique_name};

fn report(text: &str) -> Report {
    let loaded = parse(Path::new("f"), text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    check(&loaded)
}

fn kafka() -> String {
    format!("[kafka]\nbootstrap.servers = \"{}\"\ngroup.id = \"{}\"\n", kafka_bootstrap(), unique_name("check"))
}

/// Everything but what is in order, as `word key: text`, of the keys that `about` is part of.
fn said(report: &Report, about: &str) -> Vec<String> {
    [("problem", &report.problems), ("unavailable", &report.unavailable), ("warning", &report.warnings)]
        .into_iter()
        .flat_map(|(word, list)| list.iter().map(move |finding| format!("{word} {}: {}", finding.key, finding.text)))
        .filter(|line| line.contains(about))
        .collect()
}

#[test]
fn a_configuration_that_works_and_what_was_looked_at() {
    let (database, topic) = (Database::create(Server::A, "check"), Topic::create("check", 2));
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let text = format!(
        "{}[[shard]]\nname = \"main\"\ndsn = \"{}\"\n[[topic]]\nname = \"{}\"\ntable = \"t\"\ninsert_mode = \"upsert\"\n\
         pk_fields = [\"id\"]\ndelete_enabled = true\n",
        kafka(),
        database.dsn(),
        topic.name()
    );
    let report = report(&text);
    assert_eq!(said(&report, ""), [""; 0]);
    let [allowed, pinned] = &report.cpus[..] else { panic!("{:?}", report.cpus) };
    assert!(allowed.starts_with("this process may use CPU") && pinned == "no thread is pinned", "{:?}", report.cpus);
    let checked = report.checked.join("\n");
    for expected in [
        "configuration f: 1 shard, 1 topic, 4 workers and 16 lanes a shard",
        "shard main: PostgreSQL",
        "shard main: no schema forebay yet, `run` makes version",
        "shard main: every topic's table",
        "connections left, a process needs 7 (1 shard × (5 workers and slow lanes + 2))",
        &format!("topic {}: 2 partitions", topic.name()),
        "its committed offsets can be read",
    ] {
        assert!(checked.contains(expected), "{expected} is missing in\n{checked}");
    }
    let tables = "SELECT count(*) FROM pg_namespace WHERE nspname = 'forebay'";
    assert_eq!(database.connect().query_one(tables, &[]).unwrap().get::<_, i64>(0), 0, "check changed the database");
}

#[test]
fn replicas_that_are_not_there() {
    let database = Database::create(Server::A, "check");
    database.execute("CREATE TABLE t (id int)");
    let shard = format!("[[shard]]\nname = \"main\"\ndsn = \"{}\"\ncommit_replicas = [\"nobody\"]\n", database.dsn());
    let report = report(&format!("{}{shard}[[topic]]\nname = \"none\"\ntable = \"t\"\n", kafka()));
    let expected = "problem shard[0].commit_replicas: found too few of them are connected, expected 1 of them; Kafka's commit \
                    stands still until then";
    assert_eq!(said(&report, "shard[0]"), [expected]);
}

#[test]
fn tables_that_do_not_fit() {
    let database = Database::create(Server::A, "check");
    database.execute(
        "CREATE TABLE nokey (id int, v text); CREATE UNIQUE INDEX ON nokey (id) WHERE v IS NOT NULL;
         CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
         CREATE TABLE odd (id int PRIMARY KEY, place point);
         CREATE TABLE must (id int PRIMARY KEY, v text NOT NULL);
         CREATE VIEW looked AS SELECT 1 AS id;",
    );
    let upsert = "insert_mode = \"upsert\"\npk_fields = [\"id\"]";
    let cases: &[(&str, &str, &[&str])] = &[
        ("missing", upsert, &["problem", "not found"]),
        ("nokey", upsert, &["problem", "found unique keys none, expected one over exactly pk_fields (id)"]),
        ("nokey", "insert_mode = \"update\"\npk_fields = [\"id\"]", &["warning", "no index", "begins with id"]),
        ("made", "columns = { twice = \"/v\" }", &["problem", "\"twice\"", "a generated column"]),
        ("made", "columns = { nowhere = \"/v\" }", &["problem", "\"nowhere\"", "no such column"]),
        ("odd", upsert, &["problem", "\"place\"", "type point"]),
        ("odd", "columns = { place = false }", &[]),
        ("must", "columns = { v = false }", &["problem", "\"v\"", "NOT NULL without a default"]),
        ("looked", "", &["problem", "a view"]),
        ("must", "columns = { v = \"@offset\" }", &["problem", "\"v\"", "@offset"]),
    ];
    let mut text = format!("{}[[shard]]\nname = \"main\"\ndsn = \"{}\"\n", kafka(), database.dsn());
    for (i, (table, settings, _)) in cases.iter().enumerate() {
        text.push_str(&format!("[[topic]]\nname = \"no-such-topic-{i}\"\ntable = \"{table}\"\n{settings}\n"));
    }
    let report = report(&text);
    for (i, (table, settings, expected)) in cases.iter().enumerate() {
        // Two topics for one table are warned about, which is not what this is about.
        let lines = said(&report, &format!("topic[{i}].table"));
        let lines: Vec<&String> = lines.iter().filter(|line| !line.contains("a table of its own")).collect();
        assert_eq!(lines.len(), usize::from(!expected.is_empty()), "{table} {settings}: {lines:?}");
        for part in *expected {
            assert!(lines[0].contains(part), "{part} is missing in {}", lines[0]);
        }
    }
}

#[test]
fn privileges() {
    let database = Database::create(Server::A, "check");
    let role = unique_name("check_role");
    database.execute(&format!(
        "CREATE TABLE r (id int PRIMARY KEY); CREATE TABLE w (id int PRIMARY KEY); CREATE SCHEMA hidden;
         CREATE TABLE hidden.h (id int); CREATE ROLE {role}; GRANT SELECT, INSERT ON r TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON w TO {role}"
    ));
    let text = format!(
        "{}[[shard]]\nname = \"main\"\ndsn = \"{} options='-c role={role}'\"\nreplica = \"near\"\n\
         [[topic]]\nname = \"no-r\"\ntable = \"r\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\ndelete_enabled = true\n\
         [[topic]]\nname = \"no-w\"\ntable = \"w\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\ndelete_enabled = true\n\
         [[topic]]\nname = \"no-h\"\ntable = \"hidden.h\"\n",
        kafka(),
        database.dsn(),
    );
    let report = report(&text);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    let r = said(&report, "topic[0].table").join("\n");
    assert!(r.contains("no UPDATE privilege") && r.contains("no DELETE privilege") && !r.contains("INSERT"), "{r}");
    assert_eq!(said(&report, "topic[1].table"), [""; 0]);
    let h = said(&report, "topic[2].table").join("\n");
    assert!(h.contains("permission denied for schema hidden"), "{h}");
    let shard = said(&report, "shard[0]").join("\n");
    assert!(shard.contains("no privilege CREATE on the database"), "{shard}");
    assert!(shard.contains("a role that may not see replicas"), "{shard}");
}

#[test]
fn shards_that_are_not_what_they_seem() {
    let (a, b, c) = (
        Database::create(Server::A, "check"),
        Database::create(Server::A, "check"),
        Database::create(Server::B, "check"),
    );
    a.execute("CREATE TABLE t (id int)");
    b.execute("CREATE TABLE t (id int)");
    b.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", b.name()));
    c.execute("CREATE TABLE t (id int)");
    c.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 3", c.name()));
    let dsns = [
        a.dsn().to_owned(),
        a.dsn().replace("127.0.0.1", "localhost"),
        b.dsn().to_owned(),
        c.dsn().to_owned(),
        format!("{} dbname=nowhere", a.dsn()),
        "host=127.0.0.1 port=1 user=u password=hunter2".to_owned(),
    ];
    let mut text = format!("{}[shards]\nby = \"hash\"\n[[topic]]\nname = \"no\"\ntable = \"t\"\n", kafka());
    for (i, dsn) in dsns.iter().enumerate() {
        text.push_str(&format!("[[shard]]\nname = \"s{i}\"\ndsn = \"{dsn}\"\nconnect_timeout_ms = 2000\n"));
    }
    let report = report(&text);
    for (i, expected) in [
        "",
        "problem shard[1].dsn: found the database",
        "problem shard[2].dsn: found a database that is read-only",
        "problem shard[3].dsn: found 7 connections needed (5 workers and slow lanes + 2), expected at most 3, the database's connection limit",
        "problem shard[4].dsn: found \"s4\": ",
        "unavailable shard[5].dsn: found \"s5\": ",
    ]
    .into_iter()
    .enumerate()
    {
        let lines = said(&report, &format!("shard[{i}].dsn"));
        assert_eq!(lines.len(), usize::from(!expected.is_empty()), "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with(expected)), "{expected} is missing: {lines:?}");
    }
    assert!(!report.to_string().contains("hunter2"), "a password was shown");
}

/// Routes that write rows themselves hold a pool of connections to each shard, beside what `run` needs.
#[test]
fn a_gateway_that_writes_rows_takes_part_in_the_budget() {
    let database = Database::create(Server::A, "check");
    database.execute("CREATE TABLE t (id int PRIMARY KEY)");
    database.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 15", database.name()));
    let group = unique_name("check");
    let report = |mode: &str, pool: usize| {
        report(&format!(
            "[kafka]\nbootstrap.servers = \"{}\"\ngroup.id = \"{group}\"\n[[shard]]\nname = \"main\"\ndsn = \"{}\"\n[[topic]]\n\
             name = \"no\"\ntable = \"t\"\npk_fields = [\"id\"]\n[ingest]\npool_size = {pool}\n[[ingest.route]]\npath = \"/t/{{id}}\"\n\
             methods = [\"PUT\"]\ntopic = \"no\"\nmode = \"{mode}\"\n",
            kafka_bootstrap(),
            database.dsn()
        ))
    };
    let too_many = "problem shard[0].dsn: found 16 connections needed (5 workers and slow lanes + 2 + 8 of the gateway's pool + 1), \
                    expected at most 15, the database's connection limit";
    assert_eq!(said(&report("sync", 8), "shard[0].dsn"), [too_many]);
    assert_eq!(said(&report("async", 8), "shard[0].dsn"), [""; 0]);

    // As a gateway and a worker have them.
    let open = |name: &str| {
        let config = database.dsn().parse::<postgres::Config>().expect("a DSN").application_name(name).to_owned();
        config.connect(postgres::NoTls).expect("a connection")
    };
    let name = |end: &str| format!("forebay/{group}/{end}");
    let _open = [open(&name("sync")), open(&name("sync")), open(&name("ingest")), open(&name("fb-w0.0"))];
    let report = report("sync", 7);
    assert_eq!(said(&report, "shard[0]"), [""; 0]);
    let table = report.connections.join("\n");
    for row in [
        "server of shard main",
        "  max_connections",
        "-1  in use by `run` and commands of this group",
        "-3  in use by gateways of this group",
        "7  a process of `forebay run` (1 shard × (5 workers and slow lanes + 2))",
        "8  a process of `forebay ingest` (1 shard × (7 of the gateway's pool + 1))",
    ] {
        assert!(table.contains(row), "{row} is missing in\n{table}");
    }
    let shown = report.to_string();
    assert!(shown.contains("\nconnections: server of shard main\nconnections: "), "{shown}");
}

#[test]
fn a_database_that_is_another_shard_or_has_no_schema() {
    let database = Database::create(Server::A, "check");
    database.execute("CREATE TABLE t (id int)");
    let text = |name: &str, manage: bool| {
        format!(
            "{}[engine]\nmanage_schema = {manage}\n[[shard]]\nname = \"{name}\"\ndsn = \"{}\"\n[[topic]]\nname = \"no\"\n\
             table = \"t\"\n",
            kafka(),
            database.dsn()
        )
    };
    let lines = said(&report(&text("eu", false)), "shard[0]");
    assert!(lines.len() == 1 && lines[0].contains("run `forebay init`"), "{lines:?}");
    forebay::sink::schema::init(&mut database.connect()).expect("our tables");
    database.execute("INSERT INTO forebay.meta VALUES ('shard', 'eu')");
    assert_eq!(said(&report(&text("eu", false)), "shard[0]"), [""; 0]);
    let lines = said(&report(&text("us", true)), "shard[0]");
    assert!(lines.len() == 1 && lines[0].contains("this database is the shard \"eu\""), "{lines:?}");
}

#[test]
fn topics_and_their_partitions() {
    let (a, b) = (Database::create(Server::A, "check"), Database::create(Server::B, "check"));
    let topic = Topic::create("check", 4);
    let tables = "CREATE TABLE t (id int); CREATE TABLE u (id int)";
    a.execute(tables);
    b.execute(tables);
    let text = format!(
        "{}[[shard]]\nname = \"a\"\ndsn = \"{}\"\npartitions = \"0-1\"\n[[shard]]\nname = \"b\"\ndsn = \"{}\"\n\
         partitions = \"3,9\"\n[[topic]]\nname = \"{}\"\ntable = \"t\"\n[[topic]]\nname = \"no-such-topic\"\ntable = \"u\"\n",
        kafka(),
        a.dsn(),
        b.dsn(),
        topic.name()
    );
    let report = report(&text);
    assert_eq!(
        said(&report, "topic[0].name"),
        ["problem topic[0].name: found partitions without a shard: 2, expected each in the `partitions` of one shard"]
    );
    assert_eq!(
        said(&report, "shard[1].partitions"),
        ["warning shard[1].partitions: found partition 9, expected partitions that exist: no topic has more than 4"]
    );
    let lines = said(&report, "topic[1].name");
    assert!(lines.len() == 1 && lines[0].starts_with("problem") && lines[0].contains("no-such-topic"), "{lines:?}");
}

/// A topic that letters go on to is there, or the brokers make it when the first one does; asking makes none. It costs a connection.
#[test]
fn topics_that_dead_letters_go_on_to() {
    let own = OwnServices::start_with(&[Service::Kafka], "auto.create.topics.enable=true");
    let database = Database::create(Server::A, "check");
    database.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)");
    let letters = Topic::create("check_letters", 3);
    let text = |kafka: &str| {
        format!(
            "{kafka}[[shard]]\nname = \"a\"\ndsn = \"{}\"\n[[topic]]\nname = \"no-t\"\ntable = \"t\"\n\
             [topic.on_bad_record]\nforward_to = \"{}\"\n[[topic]]\nname = \"no-u\"\ntable = \"u\"\n\
             [topic.on_bad_record]\nforward_to = \"no-letters\"\n",
            database.dsn(),
            letters.name()
        )
    };
    let report = report(&text(&kafka()));
    let checked = report.checked.join("\n");
    assert!(checked.contains(&format!("dead letters of no-t go on to {}: 3 partitions", letters.name())), "{checked}");
    assert!(checked.contains("a process needs 8 (1 shard × (5 workers and slow lanes + 3))"), "{checked}");
    let lines = said(&report, "forward_to");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("problem topic[1].on_bad_record.forward_to: ") && line.contains("no-letters"), "{line}");
    assert!(line.contains("the brokers make none by themselves"), "{line}");

    let making = format!("[kafka]\nbootstrap.servers = \"{}\"\ngroup.id = \"check\"\n", own.kafka_bootstrap());
    for _ in 0..2 {
        let report = self::report(&text(&making));
        assert_eq!(said(&report, "forward_to"), [""; 0]);
        let made = "dead letters of no-u go on to no-letters, which the brokers make when the first one does";
        assert!(report.checked.iter().any(|line| line == made), "{:?}", report.checked);
    }
}

#[test]
fn brokers_that_do_not_answer_and_properties_that_do_not_fit() {
    let database = Database::create(Server::A, "check");
    database.execute("CREATE TABLE t (id int)");
    let text = |properties: &str| {
        format!(
            "[kafka]\ngroup.id = \"check\"\n{properties}\n[[shard]]\nname = \"a\"\ndsn = \"{}\"\n[[topic]]\nname = \"no\"\n\
             table = \"t\"\n",
            database.dsn()
        )
    };
    let lines = said(&report(&text("bootstrap.servers = \"127.0.0.1:1\"")), "kafka");
    assert!(lines.len() == 1 && lines[0].starts_with("unavailable kafka.bootstrap.servers"), "{lines:?}");
    // The next generation's protocol leaves this to the broker.
    let both = "bootstrap.servers = \"127.0.0.1:1\"\ngroup.protocol = \"consumer\"\nsession.timeout.ms = 6000";
    let lines = said(&report(&text(both)), "kafka");
    assert!(
        lines.len() == 1 && lines[0].contains("problem kafka: found properties that do not fit together"),
        "{lines:?}"
    );
}
