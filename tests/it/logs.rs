//! What the program's log holds, and what it never does: values of records and passwords, at the most talkative level. And where
//! it goes under systemd: a socket stands in for the journal's, in a mount namespace of the test's own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Database, PATIENCE, Published, Rig, Server, Topic, pg_dsn_a, publish_records, wait_until};

/// What must not be found.
const CANARY: &str = "c4n4ry";

const TALKATIVE: [&str; 2] = ["--log-level", "trace"];

/// Takes anything that a test wants refused, by forebay or by PostgreSQL, and repeats it wherever it can.
const TABLE: &str = "
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE t (
    id text PRIMARY KEY, whole int, day date, address inet, mood mood, short varchar(5), once text UNIQUE,
    checked text CHECK (checked !~ 'c4n4ry'), raised text, raised_as text, cast_to_int text, header int);
CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE number int;
BEGIN
    RAISE NOTICE 'writing %', NEW;
    IF NEW.raised IS NOT NULL THEN RAISE EXCEPTION 'refusing %', NEW.raised; END IF;
    IF NEW.raised_as IS NOT NULL THEN RAISE EXCEPTION 'refusing %', NEW.raised_as USING ERRCODE = '23514'; END IF;
    number := NEW.cast_to_int::int;
    RETURN NEW;
END $$;
CREATE TRIGGER talk BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION talk()";

fn published(key: &str, value: Option<&str>, header: &str) -> Published {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Published {
        partition: 0,
        timestamp_ms: None,
        key: Some(bytes(key)),
        value: value.map(bytes),
        headers: vec![("trace".to_owned(), Some(bytes(header))), ("number".to_owned(), Some(bytes("7")))],
    }
}

/// Records that nothing takes, each of another kind, with the canary wherever there is room; a good one in front.
fn records() -> Vec<Published> {
    let fields = [
        r#""whole":"c4n4ry""#,
        r#""day":"c4n4ry""#,
        r#""address":"c4n4ry""#,
        r#""mood":"c4n4ry""#,
        r#""short":"c4n4ry""#,
        r#""once":"c4n4ry 0""#,
        r#""checked":"c4n4ry""#,
        r#""raised":"c4n4ry""#,
        r#""raised_as":"c4n4ry""#,
        r#""cast_to_int":"c4n4ry""#,
        r#""id":["c4n4ry"]"#,
        r#""whole":"c4n4ry"#,
    ];
    let mut records = vec![published("c4n4ry 0", Some(r#"{"id":"c4n4ry 0","once":"c4n4ry 0"}"#), CANARY)];
    for (at, field) in fields.iter().enumerate() {
        let (key, value) = (format!("c4n4ry {}", at + 1), format!("{{\"id\":\"c4n4ry {}\",{field}}}", at + 1));
        records.push(published(&key, Some(&value), CANARY));
    }
    records.push(published("c4n4ry 100", Some(CANARY), CANARY));
    records.push(published("c4n4ry 101", Some("\"c4n4ry\""), CANARY));
    // Its key is no JSON, so nobody knows which row it deletes.
    records.push(published("c4n4ry 102", None, CANARY));
    let mut header = published("c4n4ry 103", Some(r#"{"id":"c4n4ry 103"}"#), CANARY);
    header.headers[1].1 = Some(CANARY.as_bytes().to_vec());
    records.push(header);
    records
}

fn shard(dsn: &str) -> String {
    format!("[[shard]]\nname = \"main\"\ndsn = {dsn:?}\n")
}

fn topic(name: &str, more: &str) -> String {
    format!(
        "[[topic]]\nname = {name:?}\ntable = \"t\"\ninsert_mode = \"upsert\"\npk_fields = [\"id\"]\ndelete_enabled = true\n{more}\
         [topic.columns]\nheader = \"@header:number\"\n"
    )
}

/// Also that there was something to find it in.
#[track_caller]
fn assert_silent(log: &str, parts: &[&str]) {
    for part in parts {
        assert!(log.contains(part), "the log lacks {part:?}");
    }
    let found: Vec<&str> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(found.is_empty(), "in the log: {found:#?}");
}

#[test]
fn values_of_records_stay_out_of_the_log() {
    let (database, of) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    database.execute(TABLE);
    let records = records();
    publish_records(&of, &records);
    let rig = Rig::new(&format!(
        "{}{}[topic.on_bad_record]\npercent_max = 100\n",
        shard(database.dsn()),
        topic(of.name(), "")
    ));
    let log = rig.start_with("forebay.toml", &[&["--until-end"], &TALKATIVE[..]].concat()).ended().expect(0);
    // The trigger's words are somebody else's; where they come from is told.
    let notice = "a notice of a trigger or function (PL/pgSQL function talk() line 4 at RAISE)";
    assert_silent(&log, &["became dead letters", "\"level\":\"DEBUG\"", notice]);

    let mut client = database.connect();
    let letters: Vec<(i64, String, Option<String>)> = client
        .query("SELECT \"offset\", error, sqlstate FROM forebay.dead_letter ORDER BY \"offset\"", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let offsets: Vec<i64> = letters.iter().map(|letter| letter.0).collect();
    assert_eq!(offsets, (1..records.len() as i64).collect::<Vec<_>>(), "{letters:?}");
    let error = |offset: usize| letters[offset - 1].1.as_str();
    // What the trigger said is kept beside the record.
    assert!(error(8).ends_with("at RAISE): refusing c4n4ry"), "{}", error(8));
    assert!(error(9).ends_with("at RAISE): refusing c4n4ry"), "{}", error(9));
    assert_eq!(letters[8].2.as_deref(), Some("23514"));
    assert!(error(10).contains("invalid input syntax for type integer: \"…\""), "{}", error(10));
}

/// Each such topic stops, or blocks a key, and says why.
#[test]
fn what_stops_a_topic_or_blocks_a_key_is_told_without_its_values() {
    let database = Database::create(Server::A, "logs");
    database.execute(TABLE);
    let stops = ["raised", "address", "checked"].map(|column| (column, Topic::create(&format!("logs_{column}"), 1)));
    let blocked = Topic::create("logs_blocked", 1);
    let mut toml = shard(database.dsn());
    for (column, of) in &stops {
        publish_records(
            of,
            &[published(CANARY, Some(&format!("{{\"id\":\"{column}\",{column:?}:\"{CANARY}\"}}")), CANARY)],
        );
        toml += &format!("{}[topic.on_bad_record]\npolicy = \"stop\"\n", topic(of.name(), ""));
    }
    publish_records(&blocked, &[published(CANARY, Some(r#"{"id":"c4n4ry","raised":"c4n4ry"}"#), CANARY)]);
    toml += &format!("{}[topic.on_bad_record]\nthen = \"park\"\npercent_max = 100\n", topic(blocked.name(), ""));
    let log =
        Rig::new(&toml).start_with("forebay.toml", &[&["--until-end"], &TALKATIVE[..]].concat()).ended().expect(65);
    for (_, of) in &stops {
        assert_silent(&log, &[&format!("topic {} stopped: partition 0 offset 0: ", of.name())]);
    }
    assert_silent(&log, &[&format!("shard main, topic {}: 1 records became dead letters", blocked.name())]);
}

#[test]
fn passwords_stay_out_of_the_log() {
    let (database, of) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    database.execute(TABLE);
    let table = topic(of.name(), "");
    let good = format!("{} password={CANARY}", database.dsn());
    let rig = Rig::new(&format!("{}{table}", shard(&good)));
    let log = rig.start_with("forebay.toml", &[&["--until-end"], &TALKATIVE[..]].concat()).ended().expect(0);
    assert_silent(&log, &["done: 0 records", "\"level\":\"DEBUG\""]);

    // Nobody listens there; nobody is let in there; nobody can read that.
    let away = format!("host=127.0.0.1 port=1 user=app dbname=app password={CANARY}");
    let rig = Rig::new(&format!("{}{table}", shard(&away)));
    let process = rig.start_with("forebay.toml", &TALKATIVE);
    process.wait_for_log(&["shard main", "trying again"]);
    assert_silent(&process.kill().log, &["refused"]);
    let unknown = format!("{} user=nobody password={CANARY}", pg_dsn_a());
    let rig = Rig::new(&format!("{}{table}", shard(&unknown)));
    let process = rig.start_with("forebay.toml", &TALKATIVE);
    process.wait_for_log(&["shard main", "nobody"]);
    assert_silent(&process.kill().log, &["a person is needed"]);
    for unreadable in [format!("postgres://app:{CANARY}@[x/app"), format!("host=x password='{CANARY}")] {
        let rig = Rig::new(&format!("{}{table}", shard(&unreadable)));
        assert_silent(&rig.start_with("forebay.toml", &TALKATIVE).ended().expect(78), &["dsn"]);
    }

    // The broker speaks no SASL; librdkafka says all that it does.
    let sasl = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "app"),
        ("sasl.password", CANARY),
        ("debug", "all"),
    ];
    let rig = Rig::at(&crate::support::kafka_bootstrap(), &sasl, &format!("{}{table}", shard(database.dsn())));
    let process = rig.start_with("forebay.toml", &TALKATIVE);
    process.wait_for_log(&["\"level\":\"WARN\"", "SASL"]);
    assert_silent(&process.kill().log, &["\"facility\":\"CONF\""]);
}

/// Whatever it hangs in.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Once everything stood still as soon as whoever reads the log did, and SIGTERM ended nothing.
#[test]
fn a_reader_that_stands_still_holds_nobody_up() {
    let (database, of) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    database.execute("CREATE TABLE t (id text PRIMARY KEY, header int)");
    let rig =
        Rig::at(of.bootstrap(), &[("debug", "all")], &format!("{}{}", shard(database.dsn()), topic(of.name(), "")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["run", "--config"]).arg(rig.path("forebay.toml")).args(TALKATIVE);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().expect("it runs"));
    let mut pipe = child.0.stderr.take().expect("a pipe");
    // SAFETY: an integer goes in, and the descriptor lives.
    let room = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(room, 4096, "{}", std::io::Error::last_os_error());
    wait_until(PATIENCE, "a pipe that is full", || rustix::io::ioctl_fionread(&pipe).expect("a pipe") > 3500);
    // It has its partition, or gets it, and writes.
    publish_records(&of, &[published("key", Some(r#"{"id":"key"}"#), "header")]);
    let mut client = database.connect();
    let mut rows = || client.query_one("SELECT count(*) FROM t", &[]).expect("a table").get::<_, i64>(0);
    wait_until(PATIENCE, "a row", || rows() == 1);
    kill_process(Pid::from_child(&child.0), Signal::TERM).expect("it runs");
    let mut status = None;
    wait_until(Duration::from_secs(20), "the end", || {
        status = child.0.try_wait().expect("a child");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    let mut read = String::new();
    pipe.read_to_string(&mut read).expect("text");
    let first = read.lines().next().expect("a line");
    assert!(serde_json::from_str::<serde_json::Value>(first).is_ok(), "{first}");
}

const CHILD: &str = "logs::panics_in_a_process_of_its_own";

#[test]
fn a_panic_of_any_thread_is_a_line_like_any_other() {
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    let output = child.args(["--exact", CHILD, "--ignored"]).env_remove("RUST_BACKTRACE").output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    let lines: Vec<serde_json::Value> =
        err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let [line] = &lines[..] else { panic!("not one line: {err}") };
    assert_eq!((&line["level"], &line["thread"]), (&"ERROR".into(), &"foreign".into()));
    let (place, message) = (line["place"].as_str().unwrap(), line["message"].as_str().unwrap());
    assert!(place.starts_with("tests/it/logs.rs:"), "{place}");
    assert_eq!(message, format!("thread foreign panicked at {place}: too many open files"));
}

#[test]
#[ignore = "run by a_panic_of_any_thread_is_a_line_like_any_other"]
fn panics_in_a_process_of_its_own() {
    forebay::cli::log::start(&"info".parse().expect("a level"));
    let foreign = std::thread::Builder::new().name("foreign".to_owned());
    assert!(foreign.spawn(|| panic!("too many open files")).expect("a thread").join().is_err());
    // It is out already: nobody waits for more at the end.
}

/// Runs `forebay run` with lines going to the journal, as systemd would start it; `journal` stands in for the journal's socket.
fn under_systemd(directory: &Path, journal: Option<&Path>, more: &[&str]) -> (i32, String) {
    let stderr = directory.join("stderr");
    let file = File::create(&stderr).expect("a file");
    let metadata = file.metadata().expect("its identity");
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let place = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && if test -n \"$1\"; then \
                 touch /run/systemd/journal/socket && mount --bind \"$1\" /run/systemd/journal/socket; fi && shift && exec \"$@\"";
    let status = unshare
        .args(["--mount", "sh", "-c", place, "sh"])
        .arg(journal.unwrap_or(Path::new("")))
        // Longer than anything takes here: what hangs is to fail the test.
        .args(["timeout", "--signal=KILL", "90", env!("CARGO_BIN_EXE_forebay"), "run", "--until-end"])
        .args(more)
        .current_dir(directory)
        .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .expect("unshare, of util-linux");
    let said = std::fs::read_to_string(stderr).expect("what went to stderr");
    (status.code().unwrap_or(-1), said)
}

/// The fields of an entry, by the journal's native protocol: `NAME=value`, or `NAME`, a length and that many bytes.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').expect("a line");
        let line = std::str::from_utf8(&entry[..end]).expect("text");
        entry = &entry[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (length, rest) = entry.split_first_chunk().expect("a length");
        let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
        fields.insert(line.to_owned(), String::from_utf8(value.to_vec()).expect("text"));
        entry = rest.strip_prefix(b"\n").expect("an end");
    }
    fields
}

/// A configuration whose topic stops at its first record.
fn stops(directory: &Path, topic: &Topic, database: &Database) {
    database.execute("CREATE TABLE none (id int CHECK (id > 7))");
    publish_records(topic, &[published("key", Some(r#"{"id":7}"#), "header")]);
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = {:?}\n{}[[topic]]\nname = {:?}\ntable = \"none\"\n\
         [topic.on_bad_record]\npolicy = \"stop\"\n",
        topic.bootstrap(),
        topic.name(),
        shard(database.dsn()),
        topic.name()
    );
    std::fs::write(directory.join("forebay.toml"), text).expect("a configuration");
}

#[test]
fn under_systemd_lines_go_to_the_journal_with_fields_and_priorities() {
    let (database, topic) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    let directory = tempfile::tempdir().expect("a directory");
    stops(directory.path(), &topic, &database);
    let socket = directory.path().join("journal");
    let journal = UnixDatagram::bind(&socket).expect("a socket");
    // Several hundred lines may wait in it before a sender does; these are fewer. What was sent is there when the program has ended.
    journal.set_read_timeout(Some(Duration::from_millis(1))).expect("a limit");
    let (code, stderr) = under_systemd(directory.path(), Some(&socket), &[]);
    assert_eq!((code, stderr.as_str()), (65, ""));
    let (mut entries, mut room) = (Vec::new(), [0; 1 << 16]);
    while let Ok(length) = journal.recv(&mut room) {
        entries.push(fields(&room[..length]));
    }
    let find = |priority: &str, text: &str| {
        let fits = |e: &&BTreeMap<String, String>| e["PRIORITY"] == priority && e["MESSAGE"].contains(text);
        entries
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("nothing of priority {priority} says {text:?}: {entries:#?}"))
    };
    let stopped = find("3", &format!("topic {} stopped: ", topic.name()));
    assert_eq!((stopped["FOREBAY_TOPIC"].as_str(), stopped["FOREBAY_SQLSTATE"].as_str()), (topic.name(), "23514"));
    assert_eq!(stopped["SYSLOG_IDENTIFIER"], "forebay");
    assert!(stopped["CODE_FILE"].ends_with(".rs") && stopped["TARGET"].starts_with("forebay::"), "{stopped:?}");
    assert_eq!(find("6", "aligned")["FOREBAY_TOPIC"], topic.name());
}

/// Its queue has room for a few entries.
#[test]
fn a_journal_that_stands_still_holds_nobody_up() {
    let (database, topic) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    let directory = tempfile::tempdir().expect("a directory");
    stops(directory.path(), &topic, &database);
    let file = directory.path().join("forebay.toml");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    std::fs::write(&file, text.replace("[kafka]", "[kafka]\ndebug = \"all\"")).expect("a configuration");
    let socket = directory.path().join("journal");
    let journal = UnixDatagram::bind(&socket).expect("a socket");
    let (code, stderr) = under_systemd(directory.path(), Some(&socket), &TALKATIVE);
    assert_eq!((code, stderr.as_str()), (65, ""));
    let room = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").expect("a number");
    let room: usize = room.trim().parse().expect("a number");
    journal.set_nonblocking(true).expect("a socket");
    let waited = std::iter::from_fn(|| journal.recv(&mut [0; 1 << 16]).ok()).count();
    assert!(waited > room, "{waited} entries are fewer than make a sender wait");
}

#[test]
fn without_a_journal_lines_go_to_stderr() {
    let (database, topic) = (Database::create(Server::A, "logs"), Topic::create("logs", 1));
    let directory = tempfile::tempdir().expect("a directory");
    stops(directory.path(), &topic, &database);
    let (code, stderr) = under_systemd(directory.path(), None, &[]);
    assert_eq!(code, 65, "{stderr}");
    let lines: Vec<serde_json::Value> =
        stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let said = |level: &str, text: &str| {
        let fits =
            |line: &&serde_json::Value| line["level"] == level && line["message"].as_str().unwrap().contains(text);
        lines.iter().find(fits).unwrap_or_else(|| panic!("no {level} says {text:?}: {stderr}"))
    };
    said("WARN", "the journal takes no lines");
    let stopped = said("ERROR", &format!("topic {} stopped: ", topic.name()));
    assert_eq!((&stopped["topic"], &stopped["sqlstate"]), (&topic.name().into(), &"23514".into()));
}
