//! What is delivered for systemd, Prometheus and Grafana: units that systemd accepts, rules that promtool accepts and whose unit tests pass,
//! queries that a real Prometheus understands, names that forebay has, and a word for people everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay::metrics::name::{Family, Kind, Name};
use serde_json::Value;

use crate::support::Prometheus;

/// Families that the dashboard does without: what they say is said by others.
const NOT_SHOWN: [Name; 2] = [Name::Offset, Name::ProcessFdsMax];

/// What Prometheus itself adds.
const FROM_PROMETHEUS: [&str; 2] = ["job", "instance"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(path("grafana/forebay.json")).unwrap()).expect("JSON")
}

fn array(of: &Value) -> &[Value] {
    of.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Those in rows that are folded, too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    array(&dashboard["panels"]).iter().flat_map(|panel| std::iter::once(panel).chain(array(&panel["panels"]))).collect()
}

fn text<'v>(of: &'v Value, field: &str) -> &'v str {
    of[field].as_str().unwrap_or_default()
}

/// The queries of the dashboard as Grafana sends them, each with its panel's title: everything is chosen.
pub fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let filled = |promql: &str| {
        let values = [("$__rate_interval", "1m"), ("$instance", ".*"), ("$topic", ".*"), ("$stage", "written")];
        values.iter().fold(promql.to_owned(), |promql, (variable, value)| promql.replace(variable, value))
    };
    let of_panel = |panel: &Value| -> Vec<(String, String)> {
        let queries = array(&panel["targets"]).iter().map(|target| filled(text(target, "expr")));
        queries.map(|query| (text(panel, "title").to_owned(), query)).collect()
    };
    let mut queries: Vec<_> = panels(&dashboard).into_iter().flat_map(of_panel).collect();
    let annotations = array(&dashboard["annotations"]["list"]).iter().filter(|a| a["expr"].is_string());
    queries.extend(annotations.map(|a| (text(a, "name").to_owned(), filled(text(a, "expr")))));
    queries
}

/// The metrics of a query, and the labels that each is chosen by: `name{label="…", …}`.
pub fn metrics(promql: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = promql;
    while let Some(start) = rest.find(|c: char| is_name(c) || c == '"') {
        rest = &rest[start..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').expect("an end").1;
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        rest = behind;
        if !["forebay_", "process_", "kafka_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(selector) = behind.strip_prefix('{') {
            let (selector, behind) = selector.split_once('}').expect("an end");
            // No value in these files holds a comma.
            labels = selector.split(',').map(|l| l.trim().split(['=', '!']).next().unwrap().to_owned()).collect();
            rest = behind;
        }
        found.push((name.to_owned(), labels));
    }
    found
}

/// The family that a series of this name belongs to, and whether it is one of a histogram's buckets.
fn family(series: &str) -> Option<(Name, bool)> {
    let parts = |Family { name, kind, .. }: Family| match kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec(),
        Kind::Counter | Kind::Gauge => vec![name.to_owned()],
    };
    let found = Name::ALL.iter().find(|name| parts(name.family()).iter().any(|part| part == series))?;
    Some((*found, series.ends_with("_bucket")))
}

#[track_caller]
fn assert_known(place: &str, promql: &str) -> BTreeSet<Name> {
    let known = |(series, labels): (String, Vec<String>)| {
        let (name, is_bucket) = family(&series).unwrap_or_else(|| panic!("{place}: forebay has no {series}"));
        for label in labels.iter().map(String::as_str) {
            let of_bucket = is_bucket && label == "le";
            let fits = name.family().labels.contains(&label) || FROM_PROMETHEUS.contains(&label) || of_bucket;
            assert!(fits, "{place}: {series} has no label {label}");
        }
        name
    };
    metrics(promql).into_iter().map(known).collect()
}

#[track_caller]
fn promtool(arguments: &[&str], file: &str) {
    let output =
        Command::new("promtool").args(arguments).arg(path(file)).output().expect("promtool: bin/install-deps test");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?} {file}: {}", String::from_utf8_lossy(&said));
}

/// The lines of a unit that say something.
fn unit(name: &str) -> Vec<String> {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.starts_with('[');
    text.lines().filter(says).map(str::to_owned).collect()
}

fn value<'u>(unit: &'u [String], key: &str) -> &'u str {
    let found = unit.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key}"))
}

const UNITS: [&str; 2] = ["forebay.service", "forebay-ingest.service"];

#[test]
fn systemd_accepts_the_units() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in UNITS {
        let text = fs::read_to_string(path(name)).expect("a unit");
        // As it is installed, with a program that is there.
        let installed = text.replace("/usr/local/bin/forebay", env!("CARGO_BIN_EXE_forebay"));
        assert_ne!(installed, text, "{name}: another program");
        let file = directory.path().join(name);
        fs::write(&file, installed).expect("a file");
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
        let output = output.expect("systemd-analyze: bin/install-deps test");
        // What it does not know it only warns of.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
    }
}

#[test]
fn both_units_are_hardened_alike_and_let_a_process_end_in_order() {
    let [run, ingest] = UNITS.map(unit);
    let hardening = |unit: &[String]| -> Vec<String> {
        let from = unit.iter().position(|line| line == "NoNewPrivileges=yes").expect("its hardening");
        unit[from..].to_vec()
    };
    assert_eq!(hardening(&run), hardening(&ingest));
    assert!(hardening(&run).len() > 20);
    let default = |text: &str| {
        let config = forebay::config::load::parse("f".as_ref(), text, &|_| None).expect("valid").config;
        (config.engine.drain_deadline, config.ingest.expect("a gateway").drain_deadline)
    };
    let (engine, gateway) = default(
        "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\ndsn = \"host=a\"\n[[topic]]\nname = \"t\"\n\
         table = \"t\"\npk_fields = [\"x\"]\n[ingest]\n[[ingest.route]]\npath = \"/t\"\nmethods = [\"PUT\"]\ntopic = \"t\"\n",
    );
    for (unit, command, drain, codes) in [(&run, "run", engine, "2 65 78"), (&ingest, "ingest", gateway, "2 78")] {
        let expected = format!("/usr/local/bin/forebay {command} --config /etc/forebay/forebay.toml");
        assert_eq!(value(unit, "ExecStart"), expected);
        let stop =
            value(unit, "TimeoutStopSec").strip_suffix('s').and_then(|n| n.parse::<u64>().ok()).expect("seconds");
        assert!(stop >= drain.as_secs() + 13, "{command}: {stop} s, for a drain of {drain:?} and what comes after it");
        for (key, is) in [("KillSignal", "SIGTERM"), ("Restart", "on-failure"), ("RestartPreventExitStatus", codes)] {
            assert_eq!(value(unit, key), is, "{command}: {key}");
        }
    }
    assert_ne!(value(&run, "User"), value(&ingest, "User"));
}

#[test]
fn promtool_accepts_the_alerts_and_each_fires_on_its_case_only() {
    promtool(&["check", "rules"], "prometheus/forebay-alerts.yml");
    promtool(&["test", "rules"], "prometheus/forebay-alerts.test.yml");
    promtool(&["check", "config"], "prometheus/prometheus.yml");
}

#[test]
fn metrics_are_found_in_queries() {
    let found = metrics(
        "sum by (shard) (rate(forebay_a{x=\"forebay_no\", y!~\"b\"}[1m])) / on (job) forebay_b > up{job=\"c\"}",
    );
    let expected = [("forebay_a", vec!["x", "y"]), ("forebay_b", vec![])];
    assert_eq!(
        found,
        expected.map(|(name, labels)| (name.to_owned(), labels.iter().map(|l| (*l).to_owned()).collect()))
    );
}

/// Prometheus takes the rules, and reports them in a form that can be looked at.
#[test]
fn each_alert_has_a_run_book_a_severity_and_a_test() {
    let prometheus = Prometheus::with_rules("127.0.0.1:1", &path("prometheus/forebay-alerts.yml"));
    let cases = fs::read_to_string(path("prometheus/forebay-alerts.test.yml")).unwrap();
    let rules = prometheus.rules();
    assert!(rules.len() >= 15, "{} rules", rules.len());
    for rule in &rules {
        let (name, annotations) = (text(rule, "name"), &rule["annotations"]);
        assert_eq!(rule["type"], "alerting", "{name}");
        assert!(["page", "ticket"].contains(&text(&rule["labels"], "severity")), "{name}: its severity");
        for annotation in ["summary", "description", "runbook"] {
            assert!(!text(annotations, annotation).is_empty(), "{name} has no {annotation}");
        }
        // A line each, however long: who shows them breaks them.
        let runbook: Vec<&str> = text(annotations, "runbook").lines().collect();
        let parts = ["Means: ", "Look: ", "Do: "];
        let fits = runbook.len() == 3 && parts.iter().zip(&runbook).all(|(part, line)| line.starts_with(part));
        assert!(fits, "{name}: its run-book has {runbook:#?}");
        assert!(cases.contains(&format!("alertname=\"{name}\"")), "{name}: no case in which it fires");
        assert_known(name, text(rule, "query"));
    }
}

#[test]
fn the_dashboard_shows_what_there_is_in_queries_that_prometheus_understands() {
    let prometheus = Prometheus::scraping("127.0.0.1:1");
    let mut shown = BTreeSet::new();
    for (panel, promql) in dashboard_queries() {
        assert!(!promql.contains('$'), "{panel}: a variable that is not known: {promql}");
        prometheus.query(&promql);
        shown.extend(assert_known(&panel, &promql));
    }
    // Of the same name as others in the world, for the dashboards that go with those.
    let is_other = |name: Name| name.is_alias() || name == Name::ProcessStart;
    let own = Name::ALL.iter().filter(|name| !is_other(**name));
    let missing: Vec<&Name> = own.filter(|name| shown.contains(name) == NOT_SHOWN.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "not on the dashboard, or there although it is on the list of what is not: {missing:?}"
    );
}

#[test]
fn the_dashboard_can_be_imported_anywhere_and_explains_each_panel() {
    let dashboard = dashboard();
    assert_eq!((text(&dashboard, "uid"), &dashboard["id"]), ("forebay", &Value::Null));
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36) && dashboard["version"].is_u64());
    let variables: Vec<&str> = array(&dashboard["templating"]["list"]).iter().map(|v| text(v, "name")).collect();
    assert_eq!(variables, ["datasource", "group", "instance", "topic", "stage"]);
    let mut ids = BTreeMap::new();
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id"), title).is_none(), "{title}: another one has its id");
        assert!(text(panel, "description").len() > 40, "{title}: no description");
        if text(panel, "type") == "row" {
            continue;
        }
        assert!(!array(&panel["targets"]).is_empty(), "{title}: no query");
        let has_unit =
            panel["fieldConfig"]["defaults"]["unit"].is_string() || panel["options"]["yAxis"]["unit"].is_string();
        assert!(has_unit || ["state-timeline", "table"].contains(&text(panel, "type")), "{title}: no unit");
    }
    assert_no_datasource_of_ones_own(&dashboard);
    assert_places(&panels(&dashboard));
}

/// Only the variable, and Grafana's own for what people write into a dashboard.
#[track_caller]
fn assert_no_datasource_of_ones_own(value: &Value) {
    if let Some(datasource) = value.get("datasource") {
        assert!(["${datasource}", "-- Grafana --"].contains(&text(datasource, "uid")), "{datasource}");
    }
    let inner: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(values) => values.iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().for_each(assert_no_datasource_of_ones_own);
}

/// On a grid of 24 columns nothing lies upon something else.
#[track_caller]
fn assert_places(panels: &[&Value]) {
    let mut taken = BTreeMap::new();
    for panel in panels {
        let place = |field: &str| panel["gridPos"][field].as_u64().expect("its place");
        let (x, y, title) = (place("x"), place("y"), text(panel, "title"));
        assert!(x + place("w") <= 24, "{title} is too wide");
        for cell in (y..y + place("h")).flat_map(|y| (x..x + place("w")).map(move |x| (y, x))) {
            if let Some(other) = taken.insert(cell, title) {
                panic!("{title} lies upon {other}");
            }
        }
    }
}
