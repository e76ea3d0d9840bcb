//! The program as operators and scripts see it: exit codes, what goes where, `init`, `fences`, and a run to the end.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Database, Server, Topic, kafka_bootstrap, produce, unique_name};

struct Setup {
    database: Database,
    topic: Topic,
    group: String,
    directory: TempDir,
}

impl Setup {
    /// A topic of two partitions for a table `t (id int primary key, v text)`.
    fn new() -> Setup {
        let database = Database::create(Server::A, "cli");
        database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)");
        let setup = Setup {
            database,
            topic: Topic::create("cli", 2),
            group: unique_name("cli"),
            directory: tempfile::tempdir().expect("a directory"),
        };
        let text = format!(
            "[kafka]\nbootstrap.servers = \"{}\"\ngroup.id = \"{}\"\n[[shard]]\nname = \"main\"\ndsn = \"{}\"\n[[topic]]\n\
             name = \"{}\"\ntable = \"t\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\n",
            kafka_bootstrap(),
            setup.group,
            setup.database.dsn(),
            setup.topic.name()
        );
        std::fs::write(setup.file(), text).expect("a configuration");
        setup
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("forebay.toml")
    }

    #[track_caller]
    fn forebay(&self, arguments: &[&str], code: i32) -> (String, String) {
        let output = forebay().args(["--config".as_ref(), self.file().as_os_str()]).args(arguments).output();
        texts(output.expect("the program runs"), code)
    }

    /// What a command says to programs: one object a line.
    #[track_caller]
    fn json(&self, arguments: &[&str], code: i32) -> Vec<Value> {
        let (out, _) = self.forebay(&[arguments, &["--json"]].concat(), code);
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    fn count(&self) -> i64 {
        self.database.connect().query_one("SELECT count(*) FROM t", &[]).unwrap().get(0)
    }

    fn publish(&self, partition: i32, ids: std::ops::Range<i32>) {
        let values: Vec<String> = ids.map(|id| format!("{{\"id\": {id}, \"v\": \"x\"}}")).collect();
        produce(self.topic.name(), values.iter().map(|v| (partition, Some(&b"key"[..]), Some(v.as_bytes()))));
    }
}

fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.env_remove("FOREBAY_LOG");
    command
}

#[track_caller]
fn texts(output: Output, code: i32) -> (String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

#[test]
fn exit_codes_of_what_cannot_begin() {
    let usage = forebay().arg("frobnicate").output().expect("the program runs");
    texts(usage, 2);
    texts(forebay().arg("--help").output().expect("the program runs"), 0);
    let (_, err) = texts(forebay().args(["check", "--config", "/nowhere/f.toml"]).output().expect("it runs"), 78);
    assert!(err.contains("/nowhere/f.toml: found no readable file"), "{err}");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "[kafka]\ngroup.id = 1").expect("writable");
    for command in [&["run"][..], &["check"], &["init"], &["fences", "show"]] {
        let output = forebay().arg("--config").arg(file.path()).args(command).output();
        let (_, err) = texts(output.expect("the program runs"), 78);
        assert!(err.contains(":2: kafka.group.id: found 1, expected the name of a consumer group"), "{err}");
        assert!(err.contains("shard: found nothing"), "not all problems at once: {err}");
    }
}

/// What a shell calls `ulimit -S -n` is for programs that call `select`.
#[test]
fn a_run_may_open_as_many_files_as_the_administrator_lets_it() {
    let limited = |maximum: u64| {
        let mut command = forebay();
        command.args(["run", "--config", "/nowhere/f.toml", "--log-level", "debug"]);
        // SAFETY: a system call, which is fine between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = Rlimit { current: Some(64), maximum: Some(maximum) };
                Ok(setrlimit(Resource::Nofile, limit)?)
            });
        }
        texts(command.output().expect("it runs"), 78).1
    };
    let raised = "open files: 256 are allowed now, instead of 64";
    assert!(limited(256).contains(raised));
    assert!(!limited(64).contains("open files"), "there is nothing to raise");
}

#[test]
fn init_creates_once_and_prints_the_same() {
    let setup = Setup::new();
    let (out, _) = setup.forebay(&["init"], 0);
    assert!(out.starts_with("shard main: created, version "), "{out}");
    let (out, _) = setup.forebay(&["init"], 0);
    assert!(out.contains("as it was"), "{out}");
    let by_hand = Database::create(Server::B, "cli");
    let (sql, _) = setup.forebay(&["init", "--print"], 0);
    by_hand.execute(&sql);
    let columns = "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type, ', ' ORDER BY table_name, \
                   ordinal_position) FROM information_schema.columns WHERE table_schema = 'forebay'";
    let columns = |database: &Database| database.connect().query_one(columns, &[]).unwrap().get::<_, String>(0);
    assert_eq!(columns(&by_hand), columns(&setup.database));
}

#[test]
fn a_run_to_the_end_and_what_the_fences_say() {
    let setup = Setup::new();
    setup.forebay(&["check"], 0);
    setup.publish(0, 0..30);
    setup.publish(1, 100..120);
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 50);
    let (out, _) = setup.forebay(&["fences", "show"], 0);
    let of = |partition: &str| {
        let line = out.lines().find(|line| line.split_whitespace().nth(2) == Some(partition));
        let words = line.unwrap_or_else(|| panic!("no line about partition {partition}: {out}")).split_whitespace();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("0")[..6], ["main", setup.topic.name(), "0", "16", "0", "30"]);
    assert_eq!(of("1")[..6], ["main", setup.topic.name(), "1", "16", "0", "20"]);
    assert!(setup.forebay(&["run", "--until-end"], 0).1.lines().all(|line| line.starts_with('{')), "logs are JSON");
    let objects = setup.json(&["fences", "show", "--partition", "1"], 0);
    let [object] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!((&object["shard"], &object["topic"]), (&"main".into(), &setup.topic.name().into()));
    let numbers = ["partition", "lanes", "origin", "done", "fences"].map(|name| object[name].as_i64());
    assert_eq!(numbers, [1, 16, 0, 20, 16].map(Some));
    assert!(setup.json(&["fences", "show", "--topic", "nope"], 2).is_empty());
    let (out, _) = setup.forebay(&["fences", "show", "--topic", "nope"], 2);
    assert!(out.contains("knows a partition of topic \"nope\" of group"), "{out}");
    let (out, _) = setup.forebay(&["fences", "show", "--partition", "99"], 2);
    assert!(out.contains("knows partition 99 of group"), "{out}");
}

/// Once every line of the log on a full disk, and every line of a command behind `| head`, was a panic.
#[test]
fn streams_that_cannot_be_written_stop_nothing() {
    let setup = Setup::new();
    setup.publish(0, 0..30);
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
    let deaf = || Stdio::from(std::io::pipe().expect("a pipe").1);
    let mut number = 0;
    let mut check = |arguments: &[&str], out: &dyn Fn() -> Stdio, err: &dyn Fn() -> Stdio, code: i32| {
        number += 1;
        let mut command = forebay();
        command.args(["--config".as_ref(), setup.file().as_os_str()]).args(arguments).stdout(out()).stderr(err());
        let status = command.spawn().and_then(|mut child| child.wait()).expect("the program runs");
        assert_eq!(status.code(), Some(code), "case {number}: {arguments:?}");
    };
    check(&["check"], &deaf, &full, 0);
    check(&["init"], &deaf, &deaf, 0);
    check(&["run", "--until-end"], &full, &full, 0);
    assert_eq!(setup.count(), 30);
    check(&["run", "--until-end"], &deaf, &deaf, 0);
    check(&["fences", "show"], &deaf, &full, 0);
    // Whoever keeps the output must hear that it is not all there.
    check(&["init", "--print"], &full, &full, 69);
    check(&["fences", "reset", "--partition", "7"], &full, &deaf, 2);
}

/// Kafka's committed offset stands after a reset: nothing is applied again unless it is moved.
#[test]
fn a_reset_overrules_the_databases() {
    let setup = Setup::new();
    setup.publish(0, 0..30);
    setup.publish(1, 100..120);
    setup.forebay(&["run", "--until-end"], 0);
    setup.database.execute("DELETE FROM t");
    setup.forebay(&["fences", "reset"], 0);
    assert_eq!(setup.forebay(&["fences", "show"], 0).0.lines().count(), 1, "only the head is left");
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 0, "the committed offsets stand");
    setup.forebay(&["fences", "reset", "--partition", "0", "--to-offset", "10"], 0);
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 20, "partition 0 from offset 10");
    setup.forebay(&["fences", "reset", "--to-offset", "earliest"], 0);
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 50);
    for (arguments, code) in [
        (&["fences", "reset", "--to-offset", "10"][..], 2),
        (&["fences", "reset", "--to-offset", "soon"], 2),
        (&["fences", "reset", "--topic", "other"], 2),
        (&["fences", "reset", "--partition", "7"], 2),
    ] {
        setup.forebay(arguments, code);
    }
}

#[test]
fn sigterm_drains_and_a_reset_is_refused_while_it_runs() {
    let setup = Setup::new();
    setup.publish(0, 0..1000);
    let mut child = forebay()
        .args(["--config".as_ref(), setup.file().as_os_str(), "run".as_ref()])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    crate::support::wait_until(std::time::Duration::from_secs(30), "1000 rows", || setup.count() == 1000);
    let (_, err) = setup.forebay(&["fences", "reset"], 78);
    assert!(err.contains("stop every process of it first"), "{err}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(setup.forebay(&["fences", "show"], 0).0.contains(" 1000 "), "everything was stored");
}

/// The first host refuses connections, or takes them and says nothing; the server is the second one.
#[test]
fn commands_find_the_server_behind_a_dead_host() {
    let setup = Setup::new();
    setup.publish(0, 0..30);
    setup.forebay(&["run", "--until-end"], 0);
    let text = std::fs::read_to_string(setup.file()).expect("a configuration");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = |listener: &TcpListener| listener.local_addr().expect("its address").port();
    let closed = port(&TcpListener::bind("127.0.0.1:0").expect("a free port"));
    for dead in [closed, port(&silent)] {
        let several = text.replace("host=127.0.0.1 port=", &format!("host=127.0.0.1,127.0.0.1 port={dead},"));
        assert_ne!(several, text);
        let patience = several.replace("[[shard]]\n", "[[shard]]\nconnect_timeout_ms = 300\n");
        std::fs::write(setup.file(), patience).expect("a configuration");
        let hold = ["--topic", setup.topic.name(), "--key", "key"];
        for (command, says) in [
            (&["fences", "show"][..], " 30 "),
            (&["dead-letters", "list"], "no dead letters"),
            (&[&["park"], &hold[..]].concat(), "is held"),
            (&["parked"], "holds key \"key\""),
            (&[&["unpark"], &hold[..]].concat(), "is held no longer"),
        ] {
            let (out, err) = setup.forebay(command, 0);
            assert!(out.contains(says), "{command:?}: {out}{err}");
        }
    }
}

/// A record that cannot be applied stops its topic and nothing else; a script sees it by the exit code.
#[test]
fn bad_data_is_exit_code_65() {
    let setup = Setup::new();
    // More of them than may become dead letters in a row.
    produce(setup.topic.name(), (0..101).map(|_| (0, Some(&b"key"[..]), Some(&b"not json"[..]))));
    let (_, err) = setup.forebay(&["run", "--until-end"], 65);
    assert!(err.contains(setup.topic.name()) && err.contains("stopped"), "{err}");
}

#[test]
fn dead_letters_are_listed_shown_replayed_and_discarded() {
    let setup = Setup::new();
    assert_eq!(setup.forebay(&["dead-letters", "list"], 0).0, "no dead letters\n", "forebay was never here");
    setup.database.execute("ALTER TABLE t ADD CHECK (v <> 'tardy')");
    let values = [
        r#"{"id": 4, "v": "tardy"}"#,
        r#"{"id": 1, "v": "x"}"#,
        r#"{"id": 2, "v": "tardy"}"#,
        "not json",
        r#"{"id": 3, "v": "x"}"#,
    ];
    produce(setup.topic.name(), values.map(|v| (0, Some(&b"key"[..]), Some(v.as_bytes()))));
    setup.forebay(&["run", "--until-end"], 0);
    let rows = || -> String {
        let sql = "SELECT string_agg(id || v, ' ' ORDER BY id) FROM t";
        setup.database.connect().query_one(sql, &[]).unwrap().get(0)
    };
    assert_eq!(rows(), "1x 3x");

    let (list, _) = setup.forebay(&["dead-letters", "list"], 0);
    assert_eq!(list.lines().count(), 3, "{list}");
    let place = format!("{} [0] offset 2 key \"key\": ", setup.topic.name());
    assert!(list.contains(&place) && list.contains("SQLSTATE 23514") && list.contains("not valid JSON"), "{list}");
    assert!(!list.contains("tardy"), "a payload is shown where nobody asked for it: {list}");
    let objects = setup.json(&["dead-letters", "list"], 0);
    let offsets: Vec<&Value> = objects.iter().map(|object| &object["offset"]).collect();
    assert_eq!(offsets, [&json!(3), &json!(2), &json!(0)], "the newest first");
    let is = |name: &str, value: Value| assert_eq!(objects[1][name], value, "{name}");
    is("shard", "main".into());
    is("topic", setup.topic.name().into());
    is("key", "key".into());
    is("sqlstate", "23514".into());
    is("blocks_key", false.into());
    is("resolution", Value::Null);
    assert!(setup.json(&["dead-letters", "list", "--key", "other"], 0).is_empty());
    let by_state = setup.forebay(&["dead-letters", "list", "--sqlstate", "23514"], 0).0;
    assert_eq!(by_state.lines().count(), 2, "{by_state}");
    assert_eq!(setup.forebay(&["dead-letters", "list", "--limit", "1"], 0).0.lines().count(), 1);
    assert_eq!(setup.forebay(&["dead-letters", "list", "--key", "other"], 0).0, "no dead letters\n");
    let (shown, _) = setup.forebay(&["dead-letters", "show", "--offset", "3"], 0);
    assert!(shown.contains("payload: \"not json\"") && shown.contains("timestamp: 20"), "{shown}");

    // Nothing is changed by accident.
    assert!(setup.forebay(&["dead-letters", "discard"], 2).1.contains("--all"));
    assert!(setup.forebay(&["dead-letters", "replay"], 2).1.contains("--all"));
    let (_, err) = setup.forebay(&["dead-letters", "replay", "--all"], 2);
    assert!(err.contains("--out-of-order") && err.contains("guard"), "{err}");
    let (_, err) = setup.forebay(&["dead-letters", "list", "--shard", "other"], 2);
    assert!(err.contains("no shard \"other\"; expected one of main"), "{err}");

    // Refused as before; mended, applied once, and only what was asked for.
    let (out, _) = setup.forebay(&["dead-letters", "replay", "--offset", "2", "--out-of-order"], 65);
    assert!(out.contains("refused again") && out.contains("SQLSTATE 23514"), "{out}");
    setup.database.execute("ALTER TABLE t DROP CONSTRAINT t_v_check");
    assert!(setup.forebay(&["dead-letters", "replay", "--offset", "2", "--out-of-order"], 0).0.contains("applied"));
    assert_eq!(rows(), "1x 2tardy 3x");
    let again = setup.forebay(&["dead-letters", "replay", "--offset", "2", "--out-of-order"], 0).0;
    assert_eq!(again, "no such dead letter\n");
    assert!(setup.forebay(&["dead-letters", "discard", "--offset", "3"], 0).0.contains("discarded"));
    let (list, _) = setup.forebay(&["dead-letters", "list"], 0);
    assert!(list.lines().count() == 1 && list.contains("offset 0"), "{list}");
    let (list, _) = setup.forebay(&["dead-letters", "list", "--all"], 0);
    assert!(list.contains("[replayed]") && list.contains("[discarded]") && list.lines().count() == 3, "{list}");
    assert_eq!(
        setup.forebay(&["dead-letters", "replay", "--id", "999", "--out-of-order"], 0).0,
        "no such dead letter\n"
    );
}

#[test]
fn what_may_be_parked_and_when_a_reset_is_refused() {
    let setup = Setup::new();
    let topic = setup.topic.name();
    for wrong in [
        &["park", "--topic", topic][..],
        &["park", "--key", "k"],
        &["park", "--topic", topic, "--key", "k", "--tenant", "t"],
        &["unpark", "--topic", topic],
        &["parked", "show"],
        &["parked", "--limit", "0"],
        &["parked", "--id", "1"],
    ] {
        setup.forebay(wrong, 2);
    }
    assert_eq!(setup.forebay(&["parked"], 0).0, "nothing is held or parked\n", "forebay was never here");
    assert_eq!(setup.forebay(&["parked", "--json"], 0).0, "");
    let park = ["park", "--topic", topic, "--key", "key"];
    let unknown = format!("no shard that was asked knows topic {topic:?} of group {:?}", setup.group);
    assert!(setup.forebay(&park, 2).1.contains(&unknown));
    setup.forebay(&["init"], 0);
    assert!(setup.forebay(&park, 2).1.contains(&unknown));

    setup.publish(0, 0..30);
    setup.forebay(&["run", "--until-end"], 0);
    assert!(setup.forebay(&["unpark", "--topic", "other", "--tenant", "t"], 2).1.contains("topic \"other\""));
    let (_, err) = setup.forebay(&[&park[..], &["--shard", "other"]].concat(), 2);
    assert!(err.contains("no shard \"other\"; expected one of main"), "{err}");
    setup.forebay(&park, 0);
    let (_, err) = setup.forebay(&["fences", "reset"], 78);
    assert!(err.contains("shard main: a person holds keys or tenants") && err.contains("forebay unpark"), "{err}");
    setup.publish(0, 30..40);
    setup.publish(1, 100..110);
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 30, "both partitions' records of the key are parked");
    let objects = setup.json(&["parked", "--partition", "1"], 0);
    let [hold, key, total] = &objects[..] else { panic!("{objects:?}") };
    let of = |object: &Value, names: &[&str]| names.iter().map(|name| object[name].clone()).collect::<Vec<_>>();
    let expected = [json!("hold"), json!("main"), json!(topic), json!("key"), json!("key")];
    assert_eq!(of(hold, &["kind", "shard", "topic", "scope", "value"]), expected);
    let expected = [json!("key"), json!(1), json!("key"), json!(10), json!("held"), json!(true), json!(false)];
    assert_eq!(of(key, &["kind", "partition", "key", "records", "reason", "held", "dead_letter"]), expected);
    assert_eq!(of(total, &["kind", "holds", "keys", "records"]), [json!("total"), json!(1), json!(1), json!(10)]);
    for (arguments, records) in [(&[][..], 20), (&["--partition", "1"], 10)] {
        let (_, err) = setup.forebay(&[&["fences", "reset"], arguments].concat(), 78);
        let expected = format!("shard main: {records} records of {topic} are parked");
        assert!(err.contains(&expected) && err.contains("forebay unpark"), "{err}");
    }
    assert!(setup.forebay(&["fences", "show"], 0).0.lines().count() == 3, "nothing was reset");
    setup.forebay(&["unpark", "--topic", topic, "--key", "key"], 0);
    setup.forebay(&["fences", "reset"], 78);
    setup.forebay(&["run", "--until-end"], 0);
    assert_eq!(setup.count(), 50);
    setup.forebay(&["fences", "reset"], 0);

    let text = std::fs::read_to_string(setup.file()).expect("a configuration");
    std::fs::write(setup.file(), format!("{text}delivery = \"at_least_once\"\n")).expect("a configuration");
    assert!(setup.forebay(&park, 2).1.contains("at_least_once"), "it would never be parked");
}
