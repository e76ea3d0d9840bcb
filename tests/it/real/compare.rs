//! `forebay compare` through the binary: the same trouble in both modes, what each shows of it, that everything acknowledged is in the
//! tables, what it refuses, and that nothing of it stays behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Database, PATIENCE, Server, kafka_bootstrap, topics_and_groups, wait_until};

/// Below one that PostgreSQL's user can enter.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// With all that it makes in `directory`.
fn compare(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("compare").current_dir(directory).env("TMPDIR", directory).stdin(Stdio::null());
    command.args(["--brokers", &kafka_bootstrap(), "--out", "out"]).args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ended(output: &Output, code: i32) -> (String, String) {
    let (told, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}\n{errors}");
    (told, errors)
}

fn findings(directory: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join("out/compare.json")).unwrap()).unwrap()
}

fn left_in(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "out").collect()
}

/// Of a comparison that is over.
#[track_caller]
fn nothing_in_kafka(found: &Value) {
    let prefix = format!("forebay-compare-{}", found["id"].as_str().unwrap());
    wait_until(PATIENCE, "everything to be gone", || topics_and_groups(&prefix).is_empty());
}

fn in_database(database: &Database) -> Vec<String> {
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'forebay_compare%'";
    database.connect().query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn effect<'a>(run: &'a Value, kind: &str) -> &'a Value {
    let of = run["disturbances"].as_array().unwrap().iter().find(|one| one["kind"] == kind);
    let of = of.unwrap_or_else(|| panic!("no {kind}"));
    assert_eq!(of["skipped"], Value::Null, "{of}");
    assert!(number(&of["to_s"]) > number(&of["from_s"]), "{of}");
    &of["effect"]
}

/// What holds of any run that went well.
#[track_caller]
fn sound(run: &Value) {
    let found = &run["verification"];
    assert_eq!((&found["equal"], &found["missing"]), (&true.into(), &0.into()), "{found}");
    assert_eq!(found["acknowledged"], found["in_table"], "{found}");
    let totals = &run["totals"];
    let errors = &totals["errors"];
    let by_status: f64 = errors["by_status"].as_object().unwrap().values().map(number).sum();
    let others: f64 = ["timeouts", "unsent", "connection"].iter().map(|name| number(&errors[name])).sum();
    assert_eq!(number(&totals["offered"]), number(&totals["accepted"]) + by_status + others, "{totals}");
    // The warm-up is acknowledged, too, and does not count.
    assert!(number(&found["acknowledged"]) > number(&totals["accepted"]), "{found}");
    let samples = run["samples"].as_array().unwrap();
    let sum = |name: &str| samples.iter().map(|sample| number(&sample[name])).sum::<f64>();
    assert_eq!((sum("offered"), sum("accepted")), (number(&totals["offered"]), number(&totals["accepted"])));
    for (index, sample) in samples.iter().enumerate() {
        assert_eq!(sample["second"], index);
    }
}

#[test]
fn the_same_trouble_is_errors_in_one_mode_and_lag_in_the_other() {
    let directory = directory();
    let output = compare(directory.path(), &["--quick", "--rate", "150", "--seconds", "18"]).output().unwrap();
    let (told, errors) = ended(&output, 0);
    let found = findings(directory.path());
    assert_eq!(
        (&found["version"], &found["cut_short"], &found["wrong"]),
        (&2.into(), &false.into(), &Value::Array(vec![]))
    );
    let runs = found["runs"].as_array().unwrap();
    let [sync, later] = &runs[..] else { panic!("{} runs", runs.len()) };
    assert_eq!((&sync["mode"], &later["mode"]), (&"sync".into(), &"async".into()));
    runs.iter().for_each(sound);

    // A stopped database: errors or long waits before, and nothing but lag afterwards, which goes.
    let (before, after) = (effect(sync, "shard_stopped"), effect(later, "shard_stopped"));
    assert!(number(&before["error_percent"]) > 10.0, "{before}");
    assert_eq!(number(&after["error_percent"]), 0.0, "{after}");
    assert_eq!(after["offered"], after["accepted"]);
    assert!(number(&after["message_lag_max"]) > 100.0, "{after}");
    assert!(number(&after["durable_ms"]["max"]) > 1000.0, "{after}");
    assert!(number(&later["drain_seconds"]) < 60.0);
    let lag: Vec<f64> =
        later["samples"].as_array().unwrap().iter().filter_map(|sample| sample["message_lag"].as_f64()).collect();
    let most = lag.iter().copied().fold(0.0, f64::max);
    assert!(lag.last().is_some_and(|last| *last < most), "{lag:?}");

    // A locked row: whoever asks for it waits, and it is seen in the database.
    let before = effect(sync, "row_locked");
    assert!(number(&before["request_ms"]["max"]) > 500.0, "{before}");
    assert!(number(&sync["totals"]["lock_waits_max"]) >= 1.0);
    // The burst is one, and the checkpoint was made.
    for run in runs {
        let burst = effect(run, "burst");
        let per_second = number(&burst["offered"]) / number(&burst["seconds"]);
        assert!((440.0..460.0).contains(&per_second), "{burst}");
        effect(run, "checkpoint");
    }
    what_it_took(sync, later);
    let page = std::fs::read_to_string(directory.path().join("out/compare.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("</html>"));
    for part in ["PostgreSQL", "sync, 150/s", "shard stopped: message lag at most", "acknowledged"] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    assert_eq!(left_in(directory.path()), [] as [String; 0], "{errors}");
    nothing_in_kafka(&found);
}

#[track_caller]
fn what_it_took(sync: &Value, later: &Value) {
    for run in [sync, later] {
        let totals = &run["totals"];
        // Of what a row takes at least: a transaction of its own in sync, fewer of more rows, and those of the fences, afterwards.
        assert!((10.0..4000.0).contains(&number(&totals["transactions_per_1000"])), "{totals}");
        assert!((50_000.0..50_000_000.0).contains(&number(&totals["wal_bytes_per_1000"])), "{totals}");
        assert!(number(&totals["connections_max"]) >= 2.0, "{totals}");
        // The loop was open: nobody waited for a connection.
        assert_eq!(totals["errors"]["unsent"], 0, "{totals}");
        assert!((1.0..10_000.0).contains(&number(&totals["client_connections_max"])), "{totals}");
        for part in ["generator", "gateway", "postgresql"] {
            assert!(number(&totals["cpu"][part]) > 0.0, "{part}: {totals}");
        }
    }
    for part in ["engine", "kafka"] {
        assert_eq!(sync["totals"]["cpu"][part], Value::Null, "{part}");
    }
    assert_eq!(sync["totals"]["message_lag_max"], Value::Null);
    assert!(number(&later["totals"]["cpu"]["engine"]) > 0.0);
    let of = |run: &Value, name: &str| number(&run["totals"][name]);
    // A COMMIT for each, and little besides: catalogs, and connections that are opened anew.
    assert!((900.0..1500.0).contains(&of(sync, "transactions_per_1000")), "{}", sync["totals"]);
    assert!(of(later, "transactions_per_1000") < 1700.0, "{}", later["totals"]);
    // Of 2 shards: a pool of 8 and one that looks; 4 workers, 2 slow lanes, 2 besides, and what dead letters take, and the gateway's.
    assert!((4.0..=18.0).contains(&of(sync, "connections_max")), "{}", sync["totals"]);
    assert!((4.0..=24.0).contains(&of(later, "connections_max")), "{}", later["totals"]);
    for run in [sync, later] {
        let (totals, quiet) = (&run["totals"], &run["quiet"]);
        let offered = number(&totals["offered_per_s"]);
        // 150 a second, and three times as many for a twelfth of the time.
        assert!((170.0..180.0).contains(&offered), "{totals}");
        assert!(number(&totals["accepted_per_s"]) <= offered, "{totals}");
        assert!((0.0..50.0).contains(&number(&totals["error_percent"])), "{totals}");
        for times in [&totals["request_ms"], &totals["durable_ms"], &quiet["request_ms"], &quiet["durable_ms"]] {
            let in_order: Vec<f64> = ["p50", "p99", "p999", "max"].iter().map(|name| number(&times[name])).collect();
            assert!(in_order.is_sorted() && in_order[0] > 0.05 && in_order[3] < 60_000.0, "{times}");
        }
    }
}

/// On a database that was named: nobody stops its server.
#[test]
fn ended_early_it_reports_and_leaves_nothing() {
    let (directory, database) = (directory(), Database::create(Server::A, "compare"));
    let arguments = ["--dsn", database.dsn(), "--rate", "100", "--seconds", "600"];
    let mut command = compare(directory.path(), &arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(PATIENCE, "some rows", || rows(&database) > 300);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    wait_for_end(&mut child);
    let (told, errors) = ended(&child.wait_with_output().unwrap(), 0);
    assert!(told.contains("CUT SHORT"), "{told}\n{errors}");
    let found = findings(directory.path());
    let runs = found["runs"].as_array().unwrap();
    assert_eq!((found["cut_short"].as_bool(), runs.len()), (Some(true), 1));
    assert_eq!((&runs[0]["cut_short"], &runs[0]["mode"]), (&true.into(), &"sync".into()));
    sound(&runs[0]);
    let why: Vec<&str> =
        runs[0]["disturbances"].as_array().unwrap().iter().filter_map(|d| d["skipped"].as_str()).collect();
    assert_eq!(why.len(), 4, "{why:?}");
    assert!(why.contains(&"the servers were named, and are not ours to stop"), "{why:?}");
    assert_eq!((left_in(directory.path()), in_database(&database)), (Vec::<String>::new(), Vec::new()), "{errors}");
    nothing_in_kafka(&found);
}

/// None yet: there is no such table.
fn rows(database: &Database) -> i64 {
    let Some(schema) = in_database(database).pop() else { return 0 };
    database.connect().query_one(&format!("SELECT count(*) FROM {schema}.records"), &[]).map_or(0, |row| row.get(0))
}

/// It gets SIGINT as soon as it has said this on stderr. Returns what is on stdout, and the rest of stderr.
fn interrupted_at(mut command: Command, said: &str, code: i32) -> (String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut before = String::new();
    while !before.contains(said) {
        assert!(errors.read_line(&mut before).unwrap() > 0, "it ended without {said:?}: {before}");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    let (told, _) = ended(&child.wait_with_output().unwrap(), code);
    (told, rest)
}

#[test]
fn ended_in_the_search_it_reports_its_steps() {
    let (directory, database) = (directory(), Database::create(Server::A, "compare"));
    let (told, errors) = interrupted_at(compare(directory.path(), &["--dsn", database.dsn()]), "what sync bears", 69);
    assert!(told.contains("100/s  p99") && errors.contains("ended before a run was measured"), "{told}\n{errors}");
    let found = findings(directory.path());
    let steps = found["search"]["steps"].as_array().unwrap();
    assert!(!steps.is_empty() && found["cut_short"] == true, "{found}");
    for step in steps {
        assert!((0.0..=100.0).contains(&number(&step["busy_percent"])) && number(&step["late_p99_ms"]) > 0.0, "{step}");
    }
    assert_eq!((left_in(directory.path()), in_database(&database)), (Vec::<String>::new(), Vec::new()), "{errors}");
    nothing_in_kafka(&found);
}

/// The table takes next to nothing, so that the engine never catches up: whoever ends that does not wait for it, and is not told that what
/// waits in Kafka was lost.
#[test]
fn ended_with_records_left_in_kafka_it_does_not_wait_for_them() {
    let (directory, database) = (directory(), Database::create(Server::A, "compare"));
    database.execute(&on_table("refuse", "RAISE EXCEPTION 'no';", "NEW.n > 20"));
    let arguments = ["--dsn", database.dsn(), "--quick", "--rate", "60", "--seconds", "12"];
    let begin = Instant::now();
    let (told, errors) = interrupted_at(compare(directory.path(), &arguments), "async at 60/s", 0);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}\n{errors}", begin.elapsed());
    assert!(told.contains("CUT SHORT") && !told.contains("WRONG"), "{told}\n{errors}");
    let found = findings(directory.path());
    let later = &found["runs"][1];
    assert_eq!((&later["mode"], &later["drain_seconds"]), (&"async".into(), &Value::Null));
    assert!(number(&later["verification"]["missing"]) > 0.0, "{later}");
    assert_eq!((left_in(directory.path()), in_database(&database)), (Vec::<String>::new(), Vec::new()), "{errors}");
    nothing_in_kafka(&found);
}

fn wait_for_end(child: &mut Child) {
    wait_until(PATIENCE, "the comparison to end", || child.try_wait().unwrap().is_some());
}

/// From now on a comparison's table has a trigger that does this before a row is inserted.
fn on_table(name: &str, action: &str, when: &str) -> String {
    format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action} END $$;
         CREATE FUNCTION on_table() RETURNS event_trigger LANGUAGE plpgsql AS $$
         DECLARE made record;
         BEGIN
           FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table'
               AND object_identity LIKE 'forebay_compare%.records' LOOP
             EXECUTE format('CREATE TRIGGER meddles BEFORE INSERT ON %s FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION public.{name}()',
                            made.object_identity);
           END LOOP;
         END $$;
         CREATE EVENT TRIGGER on_table ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION on_table()"
    )
}

/// A trigger of the test's swallows one row: figures of that must not pass, in neither mode.
#[test]
fn what_was_acknowledged_and_is_not_there_is_no_success() {
    let (directory, database) = (directory(), Database::create(Server::A, "compare"));
    database.execute(&on_table("swallow", "RETURN NULL;", "NEW.subscription_id::text LIKE ''%%-000000000003''"));
    let arguments = ["--dsn", database.dsn(), "--quick", "--rate", "60", "--seconds", "12", "--keys", "50"];
    let output = compare(directory.path(), &arguments).output().unwrap();
    let (told, errors) = ended(&output, 70);
    for mode in ["sync", "async"] {
        assert!(told.contains(&format!("WRONG: {mode} at 60/s: ")), "{told}");
    }
    assert!(errors.contains("was acknowledged, and its row 3 is not there"), "{errors}");
    let found = findings(directory.path());
    for run in found["runs"].as_array().unwrap() {
        let verification = &run["verification"];
        assert_eq!(verification["equal"], false);
        assert!(number(&verification["missing"]) > 3.0, "{verification}");
        assert_eq!(number(&verification["rows_expected"]), number(&verification["rows"]) + 1.0);
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (directory, database) = (directory(), Database::create(Server::A, "compare"));
    let check = |arguments: &[&str], code: i32, part: &str| {
        let output = compare(directory.path(), arguments).output().unwrap();
        let (_, errors) = ended(&output, code);
        assert!(errors.contains(part), "{arguments:?}: no {part:?} in {errors}");
    };
    let dsn = ["--dsn", database.dsn()];
    let with = |more: &[&'static str]| [&dsn[..], more].concat();
    check(&["--rate", "0"], 2, "--rate: found 0, expected 1 to");
    check(&["--seconds", "5"], 2, "--seconds: found 5, expected 12 to");
    check(&["--set", "topic.table=x"], 2, "--set: found \"topic.table\"");
    check(&with(&["--workers", "0"]), 78, "engine.workers_per_shard: found 0");
    check(&["--dsn", "host=127.0.0.1 port=1 user=x"], 69, "shard bench: ");
    database.execute(&on_table("slow", "PERFORM pg_sleep(0.05); RETURN NEW;", "true"));
    check(&with(&["--p99-ms", "10"]), 69, "not even the lowest rate");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let (_, errors) = ended(&command.args(["compare", "--out", "/proc/x"]).output().unwrap(), 69);
    assert!(errors.contains("/proc/x: "), "{errors}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["compare", "--brokers", "127.0.0.1:1", "--dsn", database.dsn()]).output().unwrap();
    let (_, errors) = ended(&output, 69);
    assert!(errors.contains("no answer from 127.0.0.1:1"), "{errors}");
    assert_eq!((left_in(directory.path()), in_database(&database)), (Vec::<String>::new(), Vec::new()));
}
