//! `forebay plan` through the binary: what it says without a database and with one, what it writes, what it refuses; and that a
//! measurement leaves nothing behind, however it ends.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use forebay::config::load::load;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Database, OwnServices, Server, Service, Topic, kafka_bootstrap, unique_name, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn plan(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("plan").args(arguments).current_dir(directory).stdin(Stdio::null()).env_remove("FOREBAY_LOG");
    command
}

fn started(directory: &Path, arguments: &[&str]) -> Child {
    plan(directory, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn ended(output: Output, code: i32) -> (String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    (out, err)
}

#[track_caller]
fn run(directory: &Path, arguments: &[&str], code: i32) -> (String, String) {
    ended(plan(directory, arguments).output().unwrap(), code)
}

#[track_caller]
fn json(directory: &Path, arguments: &[&str], code: i32) -> Value {
    let (out, err) = run(directory, &[arguments, &["--json"]].concat(), code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

fn schemas(database: &Database) -> Vec<String> {
    let sql = r"SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'forebay%'";
    database.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn without_a_database_it_plans_with_what_is_given_and_says_what_it_assumed() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--per-day",
        "10G",
        "--peak",
        "400k",
        "--shards",
        "40",
        "--shard-rows-per-second",
        "20k",
        "--max-connections",
        "200",
    ];
    let (out, _) = run(directory.path(), &arguments, 0);
    for part in [
        "40 shards",
        "393,443/s × 1.2 (the busiest one's part) ÷ 15,238 rows/s a shard = 31.0, so 40 shards (given)",
        "max_connections 200 − 3 reserved",
        "Assumed, because nobody said otherwise",
        "--compression",
    ] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    assert!(!out.contains("--peak\n"), "a given number is no assumption: {out}");
    let report = json(directory.path(), &arguments, 0);
    assert_eq!((&report["version"], &report["plan"]["shards"]), (&1.into(), &40.into()));
    assert!(report["steps"].as_array().unwrap().len() > 10 && report["assumptions"].as_array().unwrap().len() > 5);
    let assumed = report["assumptions"].as_array().unwrap().iter();
    assert!(assumed.clone().all(|each| each["option"].as_str().unwrap().contains("--")));
}

#[test]
fn what_it_writes_is_a_configuration_and_commands_and_nothing_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--peak", "20k", "--shards", "3", "--write", "plan"];
    let (out, _) = run(directory.path(), &arguments, 0);
    assert!(out.contains("written: plan/forebay.toml") && out.contains("written: plan/topics.sh"), "{out}");
    let config = load(&directory.path().join("plan/forebay.toml")).unwrap().config;
    assert_eq!(config.shards.len(), 3);
    let commands = std::fs::read_to_string(directory.path().join("plan/topics.sh")).unwrap();
    assert!(commands.contains("--partitions 6 --replication-factor 3"), "{commands}");
    let checked = Command::new("sh").args(["-n", "plan/topics.sh"]).current_dir(directory.path()).status().unwrap();
    assert!(checked.success());
    let (_, err) = run(directory.path(), &arguments, 69);
    assert!(err.contains("plan/forebay.toml") && err.contains("exists"), "{err}");
}

/// The guide's example is what the program says: its command, and its summary as far as that is shown.
#[test]
fn the_worked_example_of_the_guide_is_what_it_says() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning.md")).unwrap();
    let (_, example) = guide.split_once("### A plan worked through").unwrap();
    let fenced = |language: &str| {
        let (_, rest) = example.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("\n```").unwrap().0
    };
    let command: Vec<&str> = fenced("sh").split_whitespace().collect();
    assert_eq!((command[..2].join(" ").as_str(), command.last()), ("forebay plan", Some(&"--simulate")));
    let directory = tempfile::tempdir().unwrap();
    let (out, _) = run(directory.path(), &command[2..command.len() - 1], 0);
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said: Vec<String> = out.lines().map(squeezed).collect();
    let shown: Vec<&str> = fenced("text").lines().filter(|line| line.trim() != "…").collect();
    assert!(shown.len() > 8, "{shown:?}");
    for line in shown {
        assert!(said.contains(&squeezed(line)), "the guide has {line:?}; the program says\n{out}");
    }
    // And the arithmetic, in the text below it.
    let out = squeezed(&out);
    for part in [
        "393,443/s",
        "173,611/s",
        "at most 36 workers",
        "19,048 rows/s",
        "15,238 rows/s",
        "634,921/s",
        "12,500,000 records",
    ] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
        assert!(example.contains(part.trim_end_matches(" rows/s")), "{part} is missing in the guide");
    }
}

/// As an operator goes on: the topics are made, and the configuration is checked.
#[test]
fn what_it_writes_makes_topics_and_is_accepted_by_check() {
    let databases = [Database::create(Server::A, "plan"), Database::create(Server::B, "plan")];
    databases.iter().for_each(|database| database.execute("CREATE TABLE t (id text PRIMARY KEY, v int)"));
    let (topic, directory) = (unique_name("plan"), tempfile::tempdir().unwrap());
    let shards: String = (databases.iter().enumerate())
        .map(|(i, database)| format!("[[shard]]\nname = \"s{i}\"\ndsn = {:?}\n", database.dsn()))
        .collect();
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = {topic:?}\n[shards]\nby = \"hash\"\ntenant = \"key\"\n{shards}[[topic]]\n\
         name = {topic:?}\ntable = \"t\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\n",
        kafka_bootstrap()
    );
    std::fs::write(directory.path().join("two.toml"), text).unwrap();
    let arguments = ["--peak", "2k", "--config", "two.toml", "--replication", "1", "--write", "plan"];
    run(directory.path(), &arguments, 0);
    let tool = directory.path().join("kafka-topics");
    let services = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/services");
    std::fs::write(&tool, format!("#!/bin/sh\nexec {services} kafka org.apache.kafka.tools.TopicCommand \"$@\"\n"))
        .unwrap();
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
    let made =
        Command::new("plan/topics.sh").env("KAFKA_TOPICS", &tool).current_dir(directory.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let topic = Topic::adopt(&topic, 4);
    let checked = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(["check", "--config", "plan/forebay.toml"])
        .current_dir(directory.path())
        .output();
    let (out, err) = ended(checked.unwrap(), 0);
    assert!([out, err].concat().contains(topic.name()));
}

/// What the brokers have is not planned over.
#[test]
fn it_writes_nothing_that_the_brokers_cannot_have() {
    let (topic, database) = (Topic::create("plan", 6), Database::create(Server::A, "plan"));
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = \"plan\"\n[[shard]]\nname = \"main\"\ndsn = {:?}\n[[topic]]\n\
         name = {:?}\ntable = \"t\"\n",
        topic.bootstrap(),
        database.dsn(),
        topic.name()
    );
    std::fs::write(directory.path().join("one.toml"), text).unwrap();
    let write = |more: &[&str], code: i32| {
        let arguments = ["--peak", "1000", "--config", "one.toml", "--write", "plan"];
        run(directory.path(), &[&arguments, more].concat(), code).1
    };
    let err = write(&[], 78);
    assert!(err.contains("found 1 broker, expected at least 3 for so many copies of a record: --replication"), "{err}");
    let err = write(&["--replication", "1"], 78);
    assert!(err.contains(&format!("topic {}: found 6 partitions, and the plan has ", topic.name())), "{err}");
    assert!(!directory.path().join("plan").exists());
    write(&["--replication", "1", "--partitions-per-shard", "6"], 0);
    assert!(directory.path().join("plan/topics.sh").exists());
}

/// A subscriber that is sent rows of a table that it does not have stops.
#[test]
fn nothing_is_measured_where_every_table_is_published() {
    let database = Database::create(Server::A, "plan");
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES");
    let directory = tempfile::tempdir().unwrap();
    let (_, err) = run(directory.path(), &["--peak", "1000", "--dsn", database.dsn(), "--measure"], 78);
    assert!(err.contains("found publication everything FOR ALL TABLES, expected none to measure beside"), "{err}");
    assert_eq!(schemas(&database), [""; 0]);
}

/// It says that it stops before it has used up what it may, and does.
#[test]
fn a_measurement_keeps_to_its_wal() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        ["--peak", "1000", "--dsn", database.dsn(), "--measure", "--probe-wal-mib", "16", "--probe-rows", "100000"];
    let (_, err) = run(directory.path(), &arguments, 70);
    assert!(err.contains("half of the WAL, or would; expected 100,000 before the first point"), "{err}");
    assert_eq!(schemas(&database), [""; 0]);
}

/// Also while a point is measured, whoever writes it.
#[test]
fn a_measurement_ends_when_its_wal_is_used_up() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    // A point of ten minutes takes 20 s.
    let bounds = ["--probe-time", "600s", "--probe-wal-mib", "64", "--probe-rows", "8000"];
    let arguments = [&["--peak", "10", "--dsn", database.dsn(), "--measure", "--json"], &bounds[..]].concat();
    let child = started(directory.path(), &arguments);
    let mut client = database.connect();
    let written = "SELECT count(*) FROM pg_stat_user_tables WHERE relname = 'records' AND n_tup_upd > 0";
    wait_until(PATIENCE, "the first point", || client.query_one(written, &[]).unwrap().get::<_, i64>(0) > 0);
    // A fifth of them counts for nothing.
    sleep(Duration::from_secs(7));
    let began = Instant::now();
    for _ in 0..70 {
        client.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1 << 20))", &[]).unwrap();
    }
    let (out, _) = ended(child.wait_with_output().unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["measured"]["cut_short"], Value::Bool(true), "{out}");
    assert_eq!(schemas(&database), [""; 0]);
}

/// Where a standby that COMMITs wait for is away, no time-out of PostgreSQL's ends that.
#[test]
fn a_measurement_that_waits_for_a_standby_that_is_away_can_be_ended() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let dsn = own.pg_dsn(Server::A);
    let mut client = postgres::Client::connect(&dsn, postgres::NoTls).unwrap();
    client.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--peak", "1000", "--dsn", &dsn, "--measure", "--probe-rows", "8000"];
    let child = started(directory.path(), &arguments);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until(PATIENCE, "a COMMIT that waits", || client.query_one(waits, &[]).unwrap().get::<_, i64>(0) > 0);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (_, err) = ended(child.wait_with_output().unwrap(), 69);
    assert!(err.contains("ended before anything was planned"), "{err}");
    let left = r"SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'forebay%'";
    assert_eq!(client.query_one(left, &[]).unwrap().get::<_, i64>(0), 0);
}

/// A failover, or somebody who ends sessions.
#[test]
fn a_measurement_whose_connections_are_ended_removes_what_it_made() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let child = measuring(directory.path(), &database);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.connect().execute(end, &[]).unwrap();
    ended(child.wait_with_output().unwrap(), 69);
    assert_eq!(schemas(&database), [""; 0]);
}

#[test]
fn what_cannot_be_is_refused_with_an_exit_code_and_the_nearest_thing() {
    let directory = tempfile::tempdir().unwrap();
    let refused = json(directory.path(), &["--peak", "400k", "--shards", "20"], 78);
    assert_eq!(refused["plan"], Value::Null);
    let nearest = &refused["refusals"][0]["nearest"];
    assert_eq!(nearest[0], "51 shards");
    let check = |arguments: &[&str], code: i32, part: &str| {
        let (_, err) = run(directory.path(), arguments, code);
        assert!(err.contains(part), "{arguments:?}: no {part:?} in {err}");
    };
    check(&[], 2, "expected --peak, --mean or --per-day");
    check(&["--peak", "many"], 2, "expected a number such as 1500, 400k");
    check(&["--peak", "10", "--burst", "10"], 2, "expected a time such as 500ms");
    check(&["--peak", "10", "--replication", "0"], 2, "--replication: found 0, expected 1 to 10");
    check(&["--peak", "10", "--measure"], 2, "expected a database: --config FILE, or --dsn");
    check(&["--peak", "10", "--measure", "--shard-rows-per-second", "5"], 2, "cannot be used with");
    check(&["--peak", "10", "--config", "nowhere.toml"], 78, "no readable file");
    check(&["--peak", "10", "--dsn", "host=127.0.0.1 port=1 user=x"], 69, "shard db001: ");
    let (_, err) = run(directory.path(), &["--peak", "10", "--dsn", "host=127.0.0.1 port=1 user=x", "--offline"], 0);
    assert_eq!(err, "");
}

#[test]
fn it_asks_the_databases_for_their_limits_and_changes_nothing() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let report = json(directory.path(), &["--peak", "1000", "--dsn", database.dsn()], 0);
    let max: String = database.connect().query_one("SHOW max_connections", &[]).unwrap().get(0);
    let server = &report["servers"][0];
    assert_eq!(server["max_connections"].to_string(), max);
    assert!(server["settings"]["max_wal_size"].is_string() && server["room"].as_i64().unwrap() > 0, "{server}");
    assert_eq!(schemas(&database), [""; 0]);
}

#[test]
fn a_measurement_says_what_the_database_bears_and_leaves_nothing() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        ["--peak", "1000", "--dsn", database.dsn(), "--measure", "--probe-time", "6s", "--probe-rows", "8000"];
    let report = json(directory.path(), &arguments, 0);
    let measured = &report["measured"];
    let points = measured["points"].as_array().unwrap();
    assert!(points.len() >= 4, "{measured:#}");
    assert!(points.iter().all(|point| point["rows_per_s"].as_f64().unwrap() > 1.0), "{measured:#}");
    let of = |batch: u64, connections: u64| {
        let found = points.iter().find(|p| p["batch"] == batch && p["connections"] == connections);
        found.and_then(|point| point["rows_per_s"].as_f64())
    };
    let (single, many) = (of(1, 1).unwrap(), of(500, 1).unwrap());
    assert!(many > 5.0 * single, "batches of 500 {many}/s, single rows {single}/s");
    assert!((0.01..1000.0).contains(&measured["commit_ms"].as_f64().unwrap()));
    assert!((50.0..100_000.0).contains(&measured["wal_bytes_per_row"].as_f64().unwrap()), "{measured:#}");
    assert!(measured["seconds"].as_f64().unwrap() < 20.0, "{measured:#}");
    assert_eq!(schemas(&database), [""; 0]);
}

/// Until it has made its schema.
fn measuring(directory: &Path, database: &Database) -> Child {
    let arguments = ["--peak", "1000", "--dsn", database.dsn(), "--measure", "--probe-time", "120s"];
    let child = started(directory, &arguments);
    wait_until(PATIENCE, "the measurement to begin", || !schemas(database).is_empty());
    child
}

#[test]
fn a_measurement_that_is_interrupted_removes_what_it_made() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let child = measuring(directory.path(), &database);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (_, err) = ended(child.wait_with_output().unwrap(), 69);
    assert!(err.contains("ended before anything was planned"), "{err}");
    assert_eq!(schemas(&database), [""; 0]);
}

/// Nothing helps against SIGKILL; the next one says what is left.
#[test]
fn what_a_killed_measurement_left_is_named() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let mut child = measuring(directory.path(), &database);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = schemas(&database).remove(0);
    let arguments =
        ["--peak", "1000", "--dsn", database.dsn(), "--measure", "--probe-time", "3s", "--probe-rows", "4000"];
    let (_, err) = run(directory.path(), &arguments, 0);
    assert!(err.contains(&format!("DROP SCHEMA {left} CASCADE")), "{err}");
    assert_eq!(schemas(&database), [left], "what is another's stays");
}

#[test]
fn where_it_may_not_write_it_says_so_and_writes_nothing() {
    let database = Database::create(Server::A, "plan");
    let directory = tempfile::tempdir().unwrap();
    let role = unique_name("plan");
    database.execute(&format!("CREATE ROLE {role} LOGIN"));
    let dsn = format!("{} user={role}", database.dsn());
    let (_, err) = run(directory.path(), &["--peak", "1000", "--dsn", &dsn, "--measure"], 78);
    database.execute(&format!("DROP ROLE {role}"));
    assert!(err.contains("this role may not make a schema to measure in: GRANT CREATE ON DATABASE"), "{err}");
    database.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name()));
    let (_, err) = run(directory.path(), &["--peak", "1000", "--dsn", database.dsn(), "--measure"], 78);
    assert!(err.contains("found a database that is read-only, expected a primary to measure at"), "{err}");
    let (out, _) = run(directory.path(), &["--peak", "1000", "--dsn", database.dsn()], 0);
    assert!(out.contains("it takes no writes now (a replica, or read-only)"), "{out}");
    assert_eq!(schemas(&database), [""; 0]);
}

#[test]
fn a_simulation_is_a_table_charts_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [
        "--peak",
        "4k",
        "--mean",
        "1500",
        "--shard-rows-per-second",
        "2k",
        "--simulate",
        "--simulated-records",
        "5000",
        "--tenants",
        "500",
        "--svg",
        "charts",
    ];
    let (out, _) = run(directory.path(), &arguments, 0);
    for part in
        ["Simulated (seed 0, 500 tenants", "dealt out by cooperative-sticky", "shard lost", "0 records misaligned"]
    {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let chart = std::fs::read_to_string(directory.path().join("charts/shard-lost-time-lag.svg")).unwrap();
    assert!(chart.starts_with("<svg") && chart.contains("the worst shard"), "{chart}");
    let once = json(directory.path(), &arguments, 0);
    assert_eq!(once["simulated"]["scenarios"].as_array().unwrap().len(), 5);
    assert_eq!(once["simulated"], json(directory.path(), &arguments, 0)["simulated"]);
}
