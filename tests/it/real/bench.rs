//! `forebay bench` through the binary: each mode once, with figures that can be; what it refuses; and that nothing of it stays behind.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Database, PATIENCE, Server, block_on, kafka_bootstrap, topics_and_groups, wait_until};

/// Small enough for seconds.
const SMALL: [&str; 8] =
    ["--records", "6000", "--keys", "600", "--workers", "2", "--operations", "upsert=80,partial=10,delete=10"];

struct Rig {
    directory: tempfile::TempDir,
    database: Database,
}

impl Rig {
    fn new() -> Rig {
        Rig { directory: tempfile::tempdir().unwrap(), database: Database::create(Server::A, "bench") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bench(self.directory.path());
        command.args(["--brokers", &kafka_bootstrap(), "--dsn", self.database.dsn(), "--json", "out.json"]);
        command.args(SMALL).args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> (Value, Output) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
        (self.report(), output)
    }

    fn report(&self) -> Value {
        let file = self.directory.path().join("out.json");
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    /// Whatever a run has left, by its name.
    fn left(&self, id: &str) -> Vec<String> {
        let mut client = self.database.connect();
        let mut left: Vec<String> = Vec::new();
        let mut ask =
            |sql: &str| left.extend(client.query(sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)));
        ask("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'forebay_bench%'");
        for table in ["partition", "fence", "parked", "hold", "dead_letter", "source"] {
            ask(&format!("SELECT '{table}' FROM forebay.{table}"));
        }
        ask("SELECT key FROM forebay.meta WHERE key <> 'schema'");
        left.extend(topics_and_groups(&format!("forebay-bench-{id}")));
        left
    }
}

/// In a directory without a configuration.
fn bench(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("bench").current_dir(directory).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn cases(report: &Value) -> Vec<(&str, &str)> {
    let cases = report["cases"].as_array().unwrap().iter();
    cases.map(|case| (case["mode"].as_str().unwrap(), case["case"].as_str().unwrap())).collect()
}

#[track_caller]
fn within(value: &Value, least: f64, most: f64) {
    let found = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!((least..=most).contains(&found), "{found} is not between {least} and {most}");
}

/// What the figures of any round that went well are.
#[track_caller]
fn plausible(case: &Value, records: f64) {
    for round in case["rounds"].as_array().unwrap() {
        assert_eq!((&round["verified"], &round["cut_short"]), (&true.into(), &false.into()), "{case:#}");
        within(&round["records"], records, records * 1.2);
        within(&round["rows_per_s"], 1.0, 1e7);
        within(&round["memory_peak_bytes"], 5e6, 2e9);
        within(&round["cpu_us_per_row"], 0.0, 20_000.0);
        if case["mode"] == "catch-up" || case["case"].as_str().unwrap().starts_with("table") {
            within(&round["batch_records"]["mean"], 1.0, 500.0);
            assert_eq!(round["time_lag_max_ms"], Value::Null);
        }
        let Some(written) = round["written_ms"].as_object() else { continue };
        let [p50, p99, p999, max] = ["p50", "p99", "p999", "max"].map(|name| written[name].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= max && max < 60_000.0, "{written:?}");
        within(&round["acknowledged_ms"]["p50"], 0.1, max);
        within(&round["late_ms"]["p50"], 0.0, max);
        assert!(round["curve"].as_array().unwrap().len() > 5);
    }
    within(&case["medians"]["records"]["median"], records, records * 1.2);
}

#[test]
fn every_mode_measures_and_leaves_nothing() {
    let rig = Rig::new();
    let modes = ["catch-up", "steady", "burst", "slow-handler", "hot-key", "no-database"];
    let more = ["--rate", "1000", "--seconds", "2", "--rounds", "2", "--sleep-ms", "0,20", "--svg", "charts"];
    let (report, output) = rig.run(&[&modes[..], &more[..]].concat());
    let found = cases(&report);
    let expected = [
        ("catch-up", ""),
        ("steady", ""),
        ("burst", ""),
        ("slow-handler", "0 ms a record, 1000/s"),
        ("slow-handler", "20 ms a record, 50/s"),
        ("hot-key", "table, even"),
        ("hot-key", "table, one key with 50 %"),
        ("hot-key", "handler of 5 ms, 240/s, even: other keys"),
        ("hot-key", "handler of 5 ms, 240/s, one key with 50 %: other keys"),
        ("no-database", "bare poll loop"),
        ("no-database", "engine"),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        (&report["version"], &report["cut_short"], &report["wrong"]),
        (&1.into(), &false.into(), &Value::Array(vec![]))
    );
    assert_eq!(report["settings"]["workers_per_shard"], 2);
    within(&report["postgresql"][0]["clock_ahead_us"], -20_000.0, 20_000.0);
    for case in report["cases"].as_array().unwrap() {
        assert_eq!(case["rounds"].as_array().unwrap().len(), 2);
        let records = match (case["mode"].as_str().unwrap(), case["case"].as_str().unwrap()) {
            ("steady", _) | ("slow-handler", "0 ms a record, 1000/s") => 1_900.0,
            ("slow-handler", _) => 90.0,
            ("hot-key", case) if case.starts_with("handler") => 460.0,
            ("burst", _) => continue,
            _ => 6_000.0,
        };
        plausible(case, records);
    }
    let burst = &report["cases"][2]["rounds"][0]["burst"];
    assert_eq!((&burst["base_per_s"], &burst["burst_per_s"]), (&1000.into(), &4000.into()));
    within(&burst["burst_seconds"], 1.0, 2.0);
    within(&burst["recovery_seconds"], 0.0, 30.0);
    let told = text(&output.stdout);
    for part in [
        "6,000 records of 2",
        "catch-up, round 2: ",
        "own CPU, µs/row",
        "durable (COMMIT answered)",
        "medians of the rounds",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    for chart in [
        "steady-rate",
        "slow-handler-20-ms-a-record-50-s-memory",
        "steady-latency",
        "steady-time-lag",
        "burst-message-lag",
        "hot-key-latency",
    ] {
        let svg = std::fs::read_to_string(rig.directory.path().join(format!("charts/{chart}.svg"))).unwrap();
        assert!(svg.contains("</svg>") && svg.contains("round 2"), "{chart}: {svg}");
    }
    wait_until(PATIENCE, "everything to be gone", || rig.left(report["id"].as_str().unwrap()).is_empty());
}

#[test]
fn a_ramp_goes_on_until_time_lag_grows() {
    let rig = Rig::new();
    // What the database is said to bear. A step of a second is over before a little too much of it shows.
    let arguments = ["ramp", "--rate", "200", "--seconds", "1", "--set", "shard.rows_per_second_max=700"];
    let (report, output) = rig.run(&arguments);
    let ramp = &report["cases"][0]["rounds"][0]["ramp"];
    let (borne, broken) = (&ramp["borne_per_s"], &ramp["broken_per_s"]);
    within(borne, 400.0, 2_000.0);
    within(broken, borne.as_f64().unwrap() + 1.0, 3_000.0);
    let steps = ramp["steps"].as_array().unwrap();
    assert_eq!((&steps[0]["rate_per_s"], &steps[1]["rate_per_s"]), (&200.into(), &250.into()));
    assert!(steps.iter().rev().skip(1).all(|step| step["borne"] == true && step["written_ms"]["p99"].is_number()));
    assert!(text(&output.stdout).contains("time lag grows\n  borne: "), "{}", text(&output.stdout));
    plausible(&report["cases"][0], report["cases"][0]["rounds"][0]["records"].as_f64().unwrap());
}

#[test]
fn ended_early_it_reports_and_leaves_nothing() {
    let rig = Rig::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = rig.command(&["steady", "burst", "--rate", "1000", "--seconds", "600"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(PATIENCE, "some rows", || rows(&rig.database) > 2_500);
        kill_process(Pid::from_child(&child), signal).unwrap();
        ended(&mut child);
        let output = child.wait_with_output().unwrap();
        let (told, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{told}\n{errors}");
        assert!(told.contains("CUT SHORT"), "{told}");
        let report = rig.report();
        assert_eq!((&report["cut_short"], cases(&report)), (&true.into(), vec![("steady", "")]));
        let round = &report["cases"][0]["rounds"][0];
        assert_eq!(
            (&round["cut_short"], &round["verified"]),
            (&true.into(), &true.into()),
            "what was sent is there: {errors}"
        );
        within(&round["records"], 1_400.0, 500_000.0);
        wait_until(PATIENCE, "everything to be gone", || rig.left(report["id"].as_str().unwrap()).is_empty());
    }
}

/// In the one table of a benchmark; none: there is no such table.
fn rows(database: &Database) -> i64 {
    let mut client = database.connect();
    let sql = "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname LIKE 'forebay_bench%'";
    let Some(schema) = client.query_opt(sql, &[]).unwrap() else { return 0 };
    let count = format!("SELECT count(*) FROM {}.records", schema.get::<_, String>(0));
    client.query_one(&count, &[]).map_or(0, |row| row.get(0))
}

fn ended(child: &mut Child) {
    wait_until(PATIENCE, "the benchmark to end", || child.try_wait().unwrap().is_some());
}

#[test]
fn kept_it_stays_as_it_says() {
    let rig = Rig::new();
    let (report, output) = rig.run(&["catch-up", "--keep"]);
    let id = report["id"].as_str().unwrap();
    let (topic, group) = (format!("forebay-bench-{id}-1"), format!("forebay-bench-{id}-2"));
    let told = text(&output.stderr);
    for part in [&topic, &group, &format!("forebay_bench_{id}")] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    let expected = forebay::bench::workload::Workload {
        keys: 600,
        tenants: 1,
        mix: "upsert=80,partial=10,delete=10".parse().unwrap(),
        ..Default::default()
    };
    assert_eq!(rows(&rig.database) as u64, expected.expected(6_000).rows);
    let mut left = topics_and_groups(&format!("forebay-bench-{id}"));
    left.sort();
    assert_eq!(left, [topic.as_str(), group.as_str()]);
    let (_, output) = rig.run(&["catch-up"]);
    let told = text(&output.stderr);
    assert!(told.contains("of another benchmark"), "{told}");
    for part in [topic.clone(), format!("schema forebay_bench_{id} is of another")] {
        assert!(told.contains(&part), "no {part} in {told}");
    }
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka_bootstrap()).create().unwrap();
    block_on(admin.delete_topics(&[&topic], &AdminOptions::new())).unwrap();
    block_on(admin.delete_groups(&[&group], &AdminOptions::new())).unwrap();
}

/// A trigger of the test's swallows one row, or writes one twice: figures of that must not pass.
#[test]
fn records_that_were_lost_or_repeated_are_no_success() {
    for (what, action, expected) in [
        ("lost", "RETURN NULL;", "1 lost, 0 repeated"),
        (
            "repeated",
            "EXECUTE format('INSERT INTO %I.records (n, sent_us) VALUES (7, 0)', TG_TABLE_SCHEMA); RETURN NEW;",
            "0 lost, 1 repeated",
        ),
    ] {
        let rig = Rig::new();
        rig.database.execute(&format!(
            "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action} END $$;
             CREATE FUNCTION on_table() RETURNS event_trigger LANGUAGE plpgsql AS $$
             DECLARE made record;
             BEGIN
               FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE schema_name LIKE 'forebay_bench%' AND object_type = 'table' LOOP
                 EXECUTE format('CREATE TRIGGER meddles BEFORE INSERT ON %s FOR EACH ROW WHEN (NEW.n = 1500) EXECUTE FUNCTION public.meddle()', made.object_identity);
               END LOOP;
             END $$;
             CREATE EVENT TRIGGER on_table ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION on_table()"
        ));
        let output = rig.command(&["steady", "--rate", "1000", "--seconds", "2"]).output().unwrap();
        let (told, errors) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(70), "{what}: {told}\n{errors}");
        assert!(told.contains("NOT AS PUBLISHED") && told.contains("WRONG: steady: "), "{what}: {told}");
        assert!(errors.contains(expected), "{what}: no {expected:?} in {errors}");
        assert_eq!(rig.report()["cases"][0]["rounds"][0]["verified"], false);
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let rig = Rig::new();
    let check = |arguments: &[&str], code: i32, part: &str| {
        let output = bench(rig.directory.path()).args(arguments).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: no {part:?} in {errors}");
    };
    let (brokers, dsn) = (kafka_bootstrap(), rig.database.dsn());
    let whole = ["--brokers", &brokers, "--dsn", dsn];
    let with = |more: &[&'static str]| [&whole[..], more].concat();
    check(&["faster"], 2, "expected one of catch-up, steady, ramp");
    check(&["--operations", "upsert=50"], 2, "per cent that make a hundred");
    check(&with(&["--records", "0"]), 2, "--records: found 0, expected 1 to");
    check(&[], 78, "no readable file");
    check(&with(&["--workers", "0"]), 78, "options: engine.workers_per_shard: found 0");
    check(&with(&["--set", "engine.poller_core=1023"]), 78, "options: engine.poller_core: found core 1023");
    check(&with(&["--json", "no/such/directory.json"]), 69, "no/such/directory.json: ");
    check(&with(&["--svg", "/proc/charts"]), 69, "/proc/charts: ");
    check(&["--brokers", "127.0.0.1:1", "--dsn", dsn], 69, "no answer from 127.0.0.1:1");
    check(&["--brokers", &brokers, "--dsn", "host=127.0.0.1 port=1 user=x"], 69, "shard bench: ");
}
