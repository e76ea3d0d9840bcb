//! Every rule of the configuration as one entry: what was written, what is said about it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::load::{Loaded, parse};
use super::settings as s;
use super::*;

const SMALLEST: &str = r#"
[kafka]
"bootstrap.servers" = "127.0.0.1:9092"
"group.id" = "subscriptions"

[[shard]]
name = "main"
dsn = "host=127.0.0.1 port=5432 user=app dbname=app password=hunter2"

[[topic]]
name = "subscription-updates"
table = "subscriptions"
insert_mode = "upsert"
pk_fields = ["app_id", "subscription_id"]
delete_enabled = true
key_format = "{app_id}:{subscription_id}"
"#;

fn environment(name: &str) -> Option<OsString> {
    match name {
        "DSN" => Some("host=127.0.0.1 user=env".into()),
        "PASSWORD" => Some("hunter2".into()),
        "LATIN" => Some(OsString::from_vec(b"hunter\xe9".to_vec())),
        "NUL" => Some("hunter2\0".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Loaded, problem::Problems> {
    parse(Path::new("forebay.toml"), text, &environment)
}

fn valid(text: &str) -> Loaded {
    read(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The smallest configuration with `old` replaced by `new`: exactly these lines are said about it.
#[track_caller]
fn check(old: &str, new: &str, expectation: &[&str]) {
    assert!(SMALLEST.contains(old), "{old}");
    let said = match read(&SMALLEST.replacen(old, new, 1)) {
        Ok(loaded) => loaded.warnings.iter().map(|w| format!("warning: {w}")).collect(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    assert_eq!(said, expectation);
    assert!(!said.join("\n").contains("hunter"), "a secret was shown");
}

const TOPIC_END: &str = "key_format = \"{app_id}:{subscription_id}\"";
const KAFKA: &str = "[kafka]";
const SHARD: &str = "[[shard]]";

#[test]
fn the_smallest_configuration_and_its_defaults() {
    let Loaded { config, warnings, places } = valid(SMALLEST);
    assert_eq!(warnings, []);
    assert_eq!(config.kafka.group_id, "subscriptions");
    assert_eq!(config.kafka.first_start, FirstStart::Earliest);
    assert_eq!(config.kafka.properties.keys().collect::<Vec<_>>(), ["bootstrap.servers", "group.id"]);
    let e = &config.engine;
    assert_eq!((e.workers_per_shard, e.lanes, e.batch_records_max, e.batch_bytes_max), (4, 16, 500, 1 << 20));
    assert_eq!((e.delivery, e.affinity, e.manage_schema), (Delivery::ExactlyOnce, Affinity::Late, true));
    let windows = |engine: &str| {
        let e = valid(&format!("{SMALLEST}[engine]\n{engine}\n")).config.engine;
        (e.partition_records_max, e.partition_bytes_max)
    };
    assert_eq!(windows(""), (20_000, 8 << 20));
    assert_eq!(windows("batch_records_max = 5000\nbatch_bytes_max = 2097152"), (40_000, 16 << 20));
    assert_eq!(windows("batch_records_max = 5000\npartition_records_max = 5001"), (5_001, 8 << 20));
    assert_eq!((e.commit_interval, e.locate_deadline), (Duration::from_secs(1), Duration::from_secs(2)));
    assert_eq!((e.drain_deadline, e.revoke_deadline), (Duration::from_secs(30), Duration::from_secs(10)));
    assert_eq!((e.retry_backoff_min, e.retry_backoff_max), (Duration::from_millis(50), Duration::from_secs(10)));
    assert_eq!((e.cores.len(), &e.poller_core, &e.kafka_cores, &e.other_cores), (0, &None, &None, &None));
    assert!(matches!(config.routing.by, RouteBy::Partition));
    let Target::Table(table) = &config.topics[0].target else { panic!("a table") };
    assert_eq!((table.schema.as_deref(), &*table.name, table.insert_mode), (None, "subscriptions", InsertMode::Upsert));
    assert_eq!(table.key_format.as_deref(), Some("{app_id}:{subscription_id}"));
    assert_eq!(
        (places.line("topic[0].table"), places.line("shard[0].name"), places.line("topic[0].guard")),
        (12, 7, 10)
    );
}

#[test]
fn everything_that_can_be_written() {
    let text = r#"
[kafka]
bootstrap.servers = "a:1,b:2"
group.id = "g"
auto.offset.reset = "latest"
"isolation.level" = "read_uncommitted"
fetch.queue.backoff.ms = 5
sasl.password = { env = "PASSWORD" }

[engine]
workers_per_shard = 20
batch_records_max = 2_000
delivery = "at_least_once"
cores = "1-3,5"
poller_core = 0
kafka_cores = "0x30"
other_cores = "0,6-7"
affinity = "static"
manage_schema = false

[shards]
by = "hash"
tenant = "key:1"
delimiter = "/"

[[shard]]
name = "a"
dsn_env = "DSN"
partitions = "0-3,8"
lock_timeout_ms = 10

[[shard]]
name = "b"
dsn = "postgresql://u@h/d?sslmode=verify-full"
connections_max = 30

[[topic]]
name = "t"
table = "s.t"
insert_mode = "upsert"
pk_fields = ["id"]
delivery = "exactly_once"
delete_field = "gone"
guard = "updated_at"
skip_unchanged = true
unknown_fields = "error"
[topic.columns]
country = "/geo/a~1b/0"
at = "@offset"
trace = "@header:trace"
secret = false
[topic.on_bad_record]
policy = "stop"
"#;
    let Loaded { config, warnings, .. } = valid(text);
    assert_eq!(warnings, []);
    assert_eq!(config.kafka.first_start, FirstStart::Latest);
    assert_eq!(config.kafka.properties["sasl.password"].0, "hunter2");
    assert_eq!(config.kafka.properties["fetch.queue.backoff.ms"].0, "5");
    assert!(!config.kafka.properties.contains_key("auto.offset.reset"), "never handed through");
    assert_eq!(config.engine.lanes, 32);
    let e = &config.engine;
    let set = |text| CpuSet::parse(text).unwrap();
    assert_eq!(e.cores, ["1", "2", "3", "5"].map(set));
    let pinned = [&e.poller_core, &e.kafka_cores, &e.other_cores].map(|cpus| cpus.clone().unwrap());
    assert_eq!(pinned, ["0", "4-5", "0,6-7"].map(set));
    assert_eq!((config.routing.tenant, &*config.routing.delimiter), (Tenant::KeyPart(1), "/"));
    assert_eq!(config.shards[0].dsn.0, "host=127.0.0.1 user=env");
    assert_eq!(config.shards[0].partitions, Some(vec![0..=3, 8..=8]));
    let Target::Table(table) = &config.topics[0].target else { panic!("a table") };
    assert_eq!(config.topics[0].delivery, Delivery::ExactlyOnce);
    assert_eq!(config.topics[0].on_bad_record, OnBadRecord::Stop);
    assert_eq!(table.columns["country"], ColumnSource::Pointer(vec!["geo".into(), "a/b".into(), "0".into()]));
    assert_eq!(table.columns["at"], ColumnSource::Offset);
    assert_eq!(table.columns["trace"], ColumnSource::Header("trace".into()));
    assert_eq!(table.columns["secret"], ColumnSource::Ignore);
}

#[test]
fn all_problems_at_once() {
    let text =
        SMALLEST.replace("upsert", "upsrt").replace("[kafka]", "[engine]\nlane = 3\nworkers_per_shard = 0\n[kafka]");
    let said = read(&text).expect_err("three problems").to_string();
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(
        said.starts_with(
            "forebay.toml:3: engine.lane: found an unknown key, expected a known one; did you mean lanes?"
        )
    );
}

#[test]
fn keys_and_words() {
    check(
        "upsert",
        "upsrt",
        &["forebay.toml:13: topic[0].insert_mode: found \"upsrt\", expected one of insert, upsert, update"],
    );
    check(
        "pk_fields",
        "pk_field",
        &[
            "forebay.toml:10: topic[0].pk_fields: found nothing, expected the columns that identify a row: upserts, updates and deletes need them",
            "forebay.toml:14: topic[0].pk_field: found an unknown key, expected a known one; did you mean pk_fields?",
        ],
    );
    check("true", "1", &["forebay.toml:15: topic[0].delete_enabled: found 1, expected true or false"]);
    check("[[shard]]", "[shard]", &["forebay.toml:6: shard: found a table, expected [[shard]], one table for each"]);
    check(
        KAFKA,
        "[kafkas]",
        &[
            "forebay.toml: kafka.bootstrap.servers: found nothing, expected host:port of one or more brokers, separated by commas",
            "forebay.toml: kafka.group.id: found nothing, expected the name of a consumer group",
            "forebay.toml:2: kafkas: found an unknown key, expected a known one; did you mean kafka?",
        ],
    );
    check(
        KAFKA,
        "[engine]\nbatch_records_max = 1_000_000\ncores = \"3-1\"\n[kafka]",
        &[
            "forebay.toml:3: engine.batch_records_max: found 1000000, expected a whole number of records from 1 to 100000",
            "forebay.toml:4: engine.cores: found \"3-1\", expected CPU numbers such as 0 or \"0,2-5\", or a mask such as \"0x3d\", or a list of these",
        ],
    );
    check(
        KAFKA,
        "[kafka",
        &["forebay.toml:2: found a syntax error in column 7: unclosed table, expected `]`, expected TOML"],
    );
}

#[test]
fn empty_lists() {
    let nothing = |name: &str, at: &str| {
        let (table, _) = SMALLEST.split_once(at).expect("a part before it");
        let rest = if name == "shard" { SMALLEST.split_once("[[topic]]").map_or("", |(_, rest)| rest) } else { "" };
        let topic = if rest.is_empty() { "" } else { "[[topic]]" };
        let text = format!("{name} = []\n{table}{topic}{rest}");
        read(&text).expect_err("nothing to do").to_string()
    };
    let expected =
        |name: &str| format!("forebay.toml:1: {name}: found an empty list, expected [[{name}]], one table for each");
    assert_eq!(nothing("shard", "[[shard]]"), expected("shard"));
    assert_eq!(nothing("topic", "[[topic]]"), expected("topic"));
    check(
        "[\"app_id\", \"subscription_id\"]",
        "[]",
        &[
            "forebay.toml:14: topic[0].pk_fields: found an empty list, expected the columns that identify a row: upserts, updates and deletes need them",
        ],
    );
}

#[test]
fn lists_say_what_is_wrong_in_them() {
    for (list, found) in [
        ("[\"\"]", "a list with \"\" in it"),
        ("[\"app_id\", 5]", "a list with 5 in it"),
        ("[\"app_id\", [\"hunter\"]]", "a list with a list in it"),
        ("5", "5"),
    ] {
        check(
            "[\"app_id\", \"subscription_id\"]",
            list,
            &[&format!("forebay.toml:14: topic[0].pk_fields: found {found}, expected a list of column names")],
        );
    }
}

#[test]
fn control_characters_are_refused_where_they_stand() {
    let found = "found a text with the control character U+0000";
    check(
        "\"subscription-updates\"",
        "\"a\\u0000b\"",
        &[&format!(
            "forebay.toml:11: topic[0].name: {found}, expected the name of a topic: at most 249 letters, digits, dots, underscores and hyphens without it"
        )],
    );
    for (old, new, line, key) in [
        ("\"subscriptions\"\n\n", "\"a\\u0000\"\n\n", 4, "kafka.group.id"),
        ("9092", "9092\\u0000", 3, "kafka.bootstrap.servers"),
        ("hunter2", "hunter2\\u0000", 8, "shard[0].dsn"),
        ("table = \"", "table = \"\\u0000", 12, "topic[0].table"),
        ("subscription_id\"]", "\\u0000\"]", 14, "topic[0].pk_fields"),
        ("[kafka]", "[kafka]\nsasl.password = \"hunter2\\u0000\"", 3, "kafka.sasl.password"),
        ("[kafka]", "[kafka]\nsasl.password = { env = \"NUL\" }", 3, "kafka.sasl.password"),
        ("name = \"main\"", "name = \"\\u007fmain\"", 7, "shard[0].name"),
    ] {
        let problems = read(&SMALLEST.replacen(old, new, 1)).expect_err(key);
        let said = problems.0[0].to_string();
        assert!(said.starts_with(&format!("forebay.toml:{line}: {key}: found a text with the control")), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
    check("dbname=app ", "dbname=app\\n\\t", &[]);
}

/// A password may stand under a misspelt name, and a connection string under any.
#[test]
fn what_may_be_a_secret_is_not_shown() {
    for (property, value) in [
        ("sasl.pasword", "\"hunter2\""),
        ("sasl.pasword", "2024"),
        ("sasl.pasword", "[\"hunter2\"]"),
        ("hunter_cb", "\"hunter2\""),
    ] {
        let problems =
            read(&SMALLEST.replace(KAFKA, &format!("[kafka]\n\"{property}\" = {value}"))).expect_err("unknown");
        assert!(!problems.0[0].found.contains(value.trim_matches(['[', ']', '"'])), "{problems}");
    }
    let dsn = "dsn = \"host=127.0.0.1 port=5432 user=app dbname=app password=hunter2\"";
    for (instead, line) in [
        (
            "dsn_env = \"host=x password=hunter2\"",
            "dsn_env: found no name of a variable, but a text that is not shown, expected one that holds the value",
        ),
        (
            "dsn_file = \"postgresql://a:hunter2@b/c\"",
            "dsn_file: found no path, but a text that is not shown, expected a file that holds the value",
        ),
        (
            "dsn = { file = \"postgresql://a:hunter2@b/c\" }",
            "dsn: found no path, but a text that is not shown, expected a file that holds the value",
        ),
        (
            "dsn_env = \"LATIN\"",
            "dsn_env: found an environment variable LATIN that is not UTF-8, expected one that holds the value",
        ),
    ] {
        check(dsn, instead, &[&format!("forebay.toml:8: shard[0].{line}")]);
    }
    for (instead, line) in [("dsn = host=a password=hunter2", 8), ("dsn = \"hunter2", 8), ("dsn = { hunter2 }", 8)] {
        let problems = read(&SMALLEST.replace(dsn, instead)).expect_err("no TOML");
        assert_eq!(problems.0[0].line, line);
        assert!(!problems.to_string().contains("hunter"), "{problems}");
    }
    check(
        SHARD,
        "[shards]\nby = \"map\"\nmap_file = \"m\"\ndefault = \"postgresql://a:hunter2@b/c\"\n[[shard]]",
        &[
            "forebay.toml:8: shards.map_file: found no readable file at m: No such file or directory (os error 2), expected a tenant map",
            "forebay.toml:9: shards.default: found a text that is not shown, expected the name of a shard",
        ],
    );
    check(
        KAFKA,
        "[kafka]\nsecurity.protocol = \"password=hunter2\"",
        &["forebay.toml:3: kafka.security.protocol: found a text that is not shown, expected what librdkafka accepts"],
    );
    check(
        "\"upsert\"",
        "\"host=a password=hunter2\"",
        &[
            "forebay.toml:13: topic[0].insert_mode: found a text that is not shown, expected one of insert, upsert, update",
        ],
    );
}

#[test]
fn dead_letters_need_fences() {
    let policy = |toml: &str| {
        valid(&SMALLEST.replacen(TOPIC_END, &format!("{TOPIC_END}\n{toml}"), 1)).config.topics[0].on_bad_record
    };
    assert_eq!(policy(""), OnBadRecord::DeadLetter(BadLimit { run_max: 100, percent_max: 10 }, Then::Skip));
    let limits = "[topic.on_bad_record]\nthen = \"park\"\nrun_max = 7\npercent_max = 100";
    assert_eq!(policy(limits), OnBadRecord::DeadLetter(BadLimit { run_max: 7, percent_max: 100 }, Then::Park));
    assert_eq!(policy("delivery = \"at_least_once\""), OnBadRecord::Stop);
    check(
        TOPIC_END,
        &format!("{TOPIC_END}\ndelivery = \"at_least_once\"\n[topic.on_bad_record]\npolicy = \"dead_letter\""),
        &[
            "forebay.toml:19: topic[0].on_bad_record.policy: found \"dead_letter\" with delivery = \"at_least_once\", expected \"stop\": dead letters are written with the fences, and there are none",
        ],
    );
}

#[test]
fn dead_letters_go_on_to_a_topic_of_their_own() {
    let with = |toml: &str| format!("{TOPIC_END}\n{toml}[topic.on_bad_record]\nforward_to = ");
    let loaded = valid(&SMALLEST.replacen(TOPIC_END, &format!("{}\"letters\"", with("")), 1));
    assert_eq!(loaded.config.topics[0].forward_to.as_deref(), Some("letters"));
    assert_eq!(loaded.config.connections_besides_writers(), 3);
    assert_eq!(valid(SMALLEST).config.connections_besides_writers(), 2);
    check(
        TOPIC_END,
        &format!("{}\"subscription-updates\"", with("")),
        &[
            "forebay.toml:18: topic[0].on_bad_record.forward_to: found \"subscription-updates\", which is one of the topics here, expected a topic that is not read here",
        ],
    );
    check(
        TOPIC_END,
        &format!("{}\"letters/mine\"", with("")),
        &[
            "forebay.toml:18: topic[0].on_bad_record.forward_to: found \"letters/mine\", expected a topic's name: at most 249 letters, digits, dots, dashes and underscores",
        ],
    );
    check(
        TOPIC_END,
        &format!("{}\"letters\"", with("delivery = \"at_least_once\"\n")),
        &[
            "forebay.toml:19: topic[0].on_bad_record.forward_to: found a value, expected nothing: this topic has no dead letters",
        ],
    );
    check(
        TOPIC_END,
        &format!("{}\"letters\"\npolicy = \"stop\"", with("")),
        &[
            "forebay.toml:18: topic[0].on_bad_record.forward_to: found a value, expected nothing: this topic has no dead letters",
        ],
    );
    check(
        TOPIC_END,
        &format!("{}\"letters\"\nthen = \"park\"", with("")),
        &[
            "warning: forebay.toml:18: topic[0].on_bad_record.forward_to: found a value beside then = \"park\", expected then = \"skip\": letters that block their key wait in forebay.parked and go nowhere",
        ],
    );
    check(SHARD, "[[shard]]\nconnections_max = 7", &[]);
    let forwarding = SMALLEST.replacen(SHARD, "[[shard]]\nconnections_max = 7", 1).replacen(
        TOPIC_END,
        &format!("{}\"letters\"", with("")),
        1,
    );
    let said = read(&forwarding).expect_err("one connection more").to_string();
    assert!(said.contains("expected at least 8: one for each of 5 workers and slow lanes, and 3 more"), "{said}");
}

#[test]
fn what_says_something_of_dead_letters_needs_them() {
    let settings =
        "[topic.on_bad_record]\npolicy = \"stop\"\nthen = \"park\"\nrun_max = 5\npercent_max = 50\nparent_tries = 3";
    let none = |line: usize, key: &str| {
        format!(
            "forebay.toml:{line}: topic[0].on_bad_record.{key}: found a value, expected nothing: this topic has no dead letters"
        )
    };
    // A parent is waited for where bad records stop the topic as well.
    check(TOPIC_END, settings, &[&none(18, "then"), &none(19, "run_max"), &none(20, "percent_max")]);
    check(
        TOPIC_END,
        &format!("delivery = \"at_least_once\"\n{}", settings.replace("policy = \"stop\"\n", "")),
        &[
            &none(18, "then"),
            &none(19, "run_max"),
            &none(20, "percent_max"),
            "forebay.toml:21: topic[0].on_bad_record.parent_tries: found a value, expected nothing: with delivery = \"at_least_once\" nothing is parked, and no record waits for its parent",
        ],
    );
}

#[test]
fn what_serves_no_topic_is_warned_about() {
    const PARKED: [&str; 3] = ["engine.park_after_ms", "engine.parked_records_max", "engine.parked_key_records_max"];
    const HOT: [&str; 2] = ["engine.hot_key_percent", "engine.hot_key_hold_ms"];
    let settings = [&PARKED[..], &HOT].concat().join(" = 100\n").replace("engine.", "") + " = 100\n";
    let said = |delivery: &str, topic: &str| {
        let topic = format!("[engine]\n{settings}delivery = {delivery:?}\n[[topic]]\nname = \"t\"\n{topic}\n");
        let text = SMALLEST.split("[[topic]]").next().expect("a part before it").to_owned() + &topic;
        valid(&text).warnings
    };
    let keys = |warnings: Vec<problem::Problem>| warnings.into_iter().map(|warning| warning.key).collect::<Vec<_>>();
    assert_eq!(said("exactly_once", "handler = true"), []);
    assert_eq!(said("at_least_once", "handler = true\ndelivery = \"exactly_once\""), []);
    assert_eq!(keys(said("exactly_once", "table = \"t\"")), HOT);
    let neither = said("at_least_once", "handler = true");
    assert_eq!(
        neither[0].to_string(),
        "forebay.toml:11: engine.park_after_ms: found a value, expected a topic with delivery = \"exactly_once\": nothing of any other is parked"
    );
    assert_eq!(
        neither[3].to_string(),
        "forebay.toml:14: engine.hot_key_percent: found a value, expected a topic with handler = true and delivery = \"exactly_once\": no key of any other is ever hot"
    );
    assert_eq!(keys(neither), [&PARKED[..], &HOT].concat());
    check(
        SHARD,
        "[engine]\npark_after_ms = 2000\n[[shard]]",
        &[
            "warning: forebay.toml:7: engine.park_after_ms: found a value, expected less than a shard's lock_timeout_ms, which holds otherwise",
        ],
    );
    check(
        SHARD,
        "[engine]\npark_after_ms = 20\n[[shard]]\npooler = \"transaction\"",
        &[
            "warning: forebay.toml:7: engine.park_after_ms: found a value, expected a shard without a pooler: behind one the role's lock_timeout holds",
        ],
    );
}

/// `[ingest]` with one route, whose lines may be others, over a topic that deletes.
fn gateway(ingest: &str, route: &str) -> String {
    let route = match route {
        "" => "path = \"/a/{x}/{y}\"\nmethods = [\"PUT\", \"DELETE\"]\ntopic = \"t\"\n",
        other => other,
    };
    format!(
        "[kafka]\nbootstrap.servers = \"b\"\ngroup.id = \"g\"\n[[shard]]\nname = \"m\"\ndsn = \"host=h\"\n[[topic]]\nname = \"t\"\n\
         table = \"t\"\ninsert_mode = \"upsert\"\npk_fields = [\"x\", \"y\"]\ndelete_enabled = true\nkey_format = \"{{x}}:{{y}}\"\n[ingest]\n\
         {ingest}\n[[ingest.route]]\n{route}"
    )
}

#[track_caller]
fn check_gateway(ingest: &str, route: &str, expected: &[&str]) {
    check_text(&gateway(ingest, route), expected);
}

#[track_caller]
fn check_text(text: &str, expected: &[&str]) {
    let found: Vec<String> = match parse(Path::new("f.toml"), text, &|_| None) {
        Ok(loaded) => loaded.warnings.iter().map(ToString::to_string).collect(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    };
    let found: Vec<&str> = found.iter().filter_map(|line| line.split_once(": ")).map(|(_, text)| text).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_gateway_s_routes_fit_their_topics() {
    check_gateway("", "", &[]);
    let route = |lines: &str| format!("topic = \"t\"\n{lines}\n");
    let put = |path: &str, more: &str| route(&format!("path = \"{path}\"\nmethods = [\"PUT\"]\n{more}"));
    let delete = |path: &str, more: &str| route(&format!("path = \"{path}\"\nmethods = [\"DELETE\"]\n{more}"));
    check_gateway("", &put("/a", ""), &[]);
    check_gateway(
        "",
        &put("/a/{x", ""),
        &[
            "ingest.route[0].path: found \"/a/{x\", expected a path such as \"/apps/{app_id}/subscriptions/{subscription_id}\", each parameter once and a whole segment",
        ],
    );
    check_gateway(
        "",
        &route("path = \"/a\"\nmethods = [\"GET\"]"),
        &[
            "ingest.route[0].methods: found \"GET\", expected a list of \"PUT\", \"POST\", \"PATCH\" and \"DELETE\", at least one",
        ],
    );
    check_gateway(
        "",
        "path = \"/a\"\nmethods = [\"PUT\"]\ntopic = \"u\"\n",
        &["ingest.route[0].topic: found \"u\", expected the name of a [[topic]]"],
    );
    check_gateway(
        "",
        &put("/a", "mode = \"magic\""),
        &["ingest.route[0].mode: found \"magic\", expected one of async, sync"],
    );
    const OTHER_FORM: &str = "ingest.route[0].key: found another form than the topic's key_format ({x}:{y}), expected the same for DELETE, or no key here";
    check_gateway("", &put("/a", "key = \"{x}:{z}\""), &[OTHER_FORM]);
    let without_deletes =
        |routes: &str| gateway("", routes).replace("delete_enabled = true\nkey_format = \"{x}:{y}\"\n", "");
    check_text(
        &without_deletes(&put("/a", "key = \"{x}:{z}\"")),
        &[
            "ingest.route[0].key: found {z}, expected fields of pk_fields only: records of one row would get several keys, and have no order",
        ],
    );
    let pair = |one: &str, other: &str| {
        without_deletes(&format!("{}[[ingest.route]]\n{}", put("/a", one), put("/b/{x}", other)))
    };
    let other_key = "ingest.route[1].key: found another form than that of \"/a\", which has the same topic, expected the same: records of one row have one key";
    for (one, other, expected) in [
        ("key = \"{x}:{y}\"", "key = \"{x}:{y}\"", &[][..]),
        ("", "", &[]),
        ("key = \"{x}:{y}\"", "key = \"{x}/{y}\"", &[other_key]),
        ("key = \"{x}:{y}\"", "", &[other_key]),
    ] {
        check_text(&pair(one, other), expected);
    }
    // Nothing of the row is in the payload.
    check_text(
        &format!("{}[topic.columns]\nx = \"@header:x\"\ny = \"@header:y\"\n", without_deletes(&put("/a", ""))),
        &["ingest.route[0].key: found nothing, expected a key: without one records of a row have no order"],
    );
    check_gateway(
        "deadline_ms = 1000\npool_wait_ms = 1001",
        "",
        &["ingest.pool_wait_ms: found 1001, expected at most deadline_ms, which holds for the whole request"],
    );
    check_gateway(
        "",
        &delete("/a/{x}", ""),
        &[
            "ingest.route[0].path: found \"/a/{x}\" with DELETE, expected {y} in it: the key of a null value is made of the path",
        ],
    );
    check_gateway("", &delete("/a/{x}/{y}", "key = \"{y}:{x}\""), &[OTHER_FORM]);
    let two = format!("{}[[ingest.route]]\n{}", put("/a/{x}/{y}", ""), put("/a/b/{z}", ""));
    check_gateway(
        "",
        &two,
        &[
            "ingest.route[1].path: found \"/a/b/{z}\" with PUT, beside \"/a/{x}/{y}\", expected paths of which no request can mean both",
        ],
    );
    let methods = format!("{}[[ingest.route]]\n{}", put("/a/{x}/{y}", ""), delete("/a/{x}/{y}", ""));
    check_gateway("", &methods, &[]);
}

/// Shard and lane of a key come of the same hash, where the whole key is the tenant.
#[test]
fn every_worker_finds_a_lane_that_is_filled() {
    let check = |shards: usize, shards_section: &str, engine: &str, lanes: u16, warning: &[&str]| {
        let all: String = (0..shards).map(|i| format!("[[shard]]\nname = \"s{i}\"\ndsn = \"host=h{i}\"\n")).collect();
        let text = format!(
            "[kafka]\nbootstrap.servers = \"b\"\ngroup.id = \"g\"\n[engine]\n{engine}\n[shards]\n{shards_section}\n[[topic]]\nname = \"t\"\n\
             table = \"t\"\n{all}"
        );
        let loaded = parse(Path::new("f.toml"), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        let said: Vec<String> =
            loaded.warnings.iter().map(|w| format!("{}: {}, {}", w.key, w.found, w.expected)).collect();
        assert_eq!((loaded.config.engine.lanes, said), (lanes, warning.iter().map(|w| (*w).to_owned()).collect()));
    };
    let by_key = "by = \"hash\"";
    for (shards, lanes) in [(2, 16), (3, 16), (4, 16), (6, 16), (8, 32), (16, 64)] {
        check(shards, by_key, "", lanes, &[]);
        check(shards, "by = \"hash\"\ntenant = \"key:0\"", "", 16, &[]);
    }
    check(8, by_key, "workers_per_shard = 20", 256, &[]);
    let found = "16 lanes, of which each of 8 shards fills 2, for 4 workers";
    let expected = "32: with the whole key as tenant shard and lane are chosen by the same hash";
    check(8, by_key, "lanes = 16", 16, &[&format!("engine.lanes: {found}, {expected}")]);
    check(8, by_key, "lanes = 32", 32, &[]);
    check(8, "by = \"modulo\"", "lanes = 16", 16, &[]);
    check(8, by_key, "lanes = 8\nworkers_per_shard = 1", 8, &[]);
}

/// Its connections are bounded as those of `run` are.
#[test]
fn a_gateway_s_pool_fits_the_shard() {
    let check = |mode: &str, max: usize, expected: &[&str]| {
        let route = format!("path = \"/a\"\nmethods = [\"PUT\"]\ntopic = \"t\"\nmode = \"{mode}\"\n");
        let text = gateway("", &route).replace("\"host=h\"\n", &format!("\"host=h\"\nconnections_max = {max}\n"));
        let problems = parse(Path::new("f.toml"), &text, &|_| None).map_or_else(|problems| problems.0, |_| Vec::new());
        assert_eq!(
            problems.iter().map(|p| format!("{}: {}, {}", p.key, p.found, p.expected)).collect::<Vec<_>>(),
            expected
        );
    };
    check("sync", 9, &[]);
    let expected = "less than the 8 that shard \"m\" may have (connections_max): one more looks at its tables";
    check("sync", 8, &[&format!("ingest.pool_size: 8, {expected}")]);
    check("async", 8, &[]);
}

#[test]
fn what_a_gateway_shows_to_others() {
    check_gateway(
        "listen = \"0.0.0.0:8080\"",
        "",
        &[
            "ingest.listen: found 0.0.0.0:8080, expected token_file beside it, a loopback address, or something in front of it that knows who asks",
        ],
    );
    check_gateway(
        "admin_listen = \"0.0.0.0:9465\"",
        "",
        &[
            "ingest.admin_listen: found 0.0.0.0:9465, expected [admin] token_file, or a loopback address: others can reach this one",
        ],
    );
    check_gateway(
        "headers = [\"a b\"]",
        "",
        &["ingest.headers: found a text that is not shown, expected a list of names of HTTP headers"],
    );
}

#[test]
fn who_listens_where_others_can_reach_it_needs_a_token() {
    const OPEN: &str = "forebay.toml:3: admin.listen: found 0.0.0.0:9464, expected token_file beside it, or a loopback address: others can reach this one";
    let admin = |lines: &str| format!("[admin]\n{lines}\n[kafka]");
    check(KAFKA, &admin("listen = \"0.0.0.0:9464\""), &[OPEN]);
    check(
        KAFKA,
        &admin("listen = \"localhost\""),
        &[
            "forebay.toml:3: admin.listen: found \"localhost\", expected an IP address and a port such as \"127.0.0.1:9464\", or \"off\"",
        ],
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    let with_token = |token: &str| {
        std::fs::write(&file, token).expect("writable");
        let lines = format!("[admin]\nlisten = \"0.0.0.0:9464\"\ntoken_file = {file:?}\nsocket = \"admin.sock\"\n");
        load::parse(&directory.path().join("forebay.toml"), &format!("{lines}{SMALLEST}"), &|_| None)
    };
    let short = with_token("0123456789\n").expect_err("it can be guessed").to_string();
    assert!(
        short.contains(
            "admin.token_file: found a text that is not shown, expected at least 16 and at most 4096 printable"
        ),
        "{short}"
    );
    let admin = with_token("0123456789abcdef\n").expect("valid").config.admin;
    assert_eq!(admin.token, Some(secret::Secret("0123456789abcdef".into())));
    assert_eq!(admin.socket, Some(directory.path().join("admin.sock")));
    assert!(admin.listen_written && admin.listen == Some(([0, 0, 0, 0], 9464).into()));
    let unwritten = valid(SMALLEST).config.admin;
    assert!(!unwritten.listen_written && unwritten.listen == Some(ADMIN_LISTEN));
    let off = valid(&format!("[admin]\nlisten = \"off\"\n{SMALLEST}")).config.admin;
    assert_eq!(off.listen, None);
}

#[test]
fn properties_of_librdkafka() {
    check(
        KAFKA,
        "[kafka]\nenable.auto.commit = true\n\"fetch.mn.bytes\" = 1\n\"session.timeout.ms\" = \"soon\"",
        &[
            "forebay.toml:3: kafka.enable.auto.commit: found true, expected no such property: forebay owns it, because an offset is committed only when every record below it is durable in PostgreSQL",
            "forebay.toml:4: kafka.fetch.mn.bytes: found a value that is not shown, expected a property of librdkafka; did you mean fetch.min.bytes?",
            "forebay.toml:5: kafka.session.timeout.ms: found \"soon\", expected what librdkafka accepts: Invalid value for configuration property \"session.timeout.ms\"",
        ],
    );
    check(
        KAFKA,
        "[kafka]\nauto.offset.reset = \"newest\"\nsasl.password = [\"hunter3\"]",
        &[
            "forebay.toml:3: kafka.auto.offset.reset: found \"newest\", expected one of earliest, latest, error",
            "forebay.toml:4: kafka.sasl.password: found a list, expected text, a number, true or false",
        ],
    );
    check(
        KAFKA,
        "[kafka]\nsession.timeout.ms = 5999",
        &[
            "warning: forebay.toml:3: kafka.session.timeout.ms: found 5999, expected at least 6000: brokers refuse less, unless their group.min.session.timeout.ms says otherwise",
        ],
    );
    for (property, _) in kafka::OWNED {
        let problems = read(&SMALLEST.replace(KAFKA, &format!("[kafka]\n{property} = 1"))).expect_err("owned");
        assert!(problems.0[0].expected.contains("forebay owns it"), "{problems}");
    }
}

#[test]
fn shards_and_routing() {
    let two = "[[shard]]\nname = \"main\"\ndsn = \"host=b\"\n[[shard]]";
    check(
        SHARD,
        two,
        &[
            "forebay.toml:6: shard[0].partitions: found nothing, expected the partitions of each shard, or [shards] by = \"hash\", \"modulo\" or \"map\"",
            "forebay.toml:9: shard[1].partitions: found nothing, expected the partitions of each shard, or [shards] by = \"hash\", \"modulo\" or \"map\"",
            "forebay.toml:10: shard[1].name: found \"main\" again, expected a name of its own for each shard",
        ],
    );
    let overlap =
        "[[shard]]\nname = \"other\"\ndsn = \"host=b\"\npartitions = \"0-3,7\"\n[[shard]]\npartitions = \"4-6,7-9\"";
    check(
        SHARD,
        overlap,
        &[
            "forebay.toml:11: shard[1].partitions: found partition 7, which \"other\" has, too, expected each partition in one shard",
        ],
    );
    check(
        SHARD,
        "[shards]\nby = \"partition\"\nmap_file = \"m\"\ndefault = \"main\"\n[[shard]]",
        &[
            "forebay.toml:8: shards.map_file: found a value, expected nothing: it does not serve this choice of shards.by",
            "forebay.toml:9: shards.default: found a value, expected nothing: it does not serve this choice of shards.by",
        ],
    );
    check(
        SHARD,
        "[shards]\nby = \"map\"\ndefault = \"moon\"\n[[shard]]",
        &[
            "forebay.toml:6: shards.map_file: found nothing, expected the path of a TOML file of lines \"tenant\" = \"shard\"",
        ],
    );
    check(
        "dsn = \"host",
        "dsn_env = \"DSN\"\ndsn = \"host",
        &["forebay.toml:9: shard[0].dsn: found dsn and dsn_env, expected one of dsn, dsn_file and dsn_env"],
    );
    check(
        "port=5432",
        "port=hunter",
        &[
            "forebay.toml:8: shard[0].dsn: found a text that is not shown, expected a connection string with a valid port",
        ],
    );
    check(
        "dsn = \"host=127.0.0.1 port=5432 user=app dbname=app password=hunter2\"",
        "dsn = { env = \"NO\" }",
        &["forebay.toml:8: shard[0].dsn: found no environment variable NO, expected one that holds the value"],
    );
    check(
        SHARD,
        "[[shard]]\nlock_timeout_ms = 30_000",
        &[
            "forebay.toml:7: shard[0].lock_timeout_ms: found 30000, expected less than statement_timeout_ms, or waits for locks look like slow statements",
        ],
    );
}

#[test]
fn topics() {
    let again = format!("{TOPIC_END}\n[[topic]]\nname = \"subscription-updates\"\ntable = \"t\"");
    check(
        TOPIC_END,
        &again,
        &[
            "forebay.toml:18: topic[1].name: found \"subscription-updates\" again, expected each topic once: two entries would take it from each other for ever",
        ],
    );
    let shared = format!("{TOPIC_END}\n[[topic]]\nname = \"other\"\ntable = \"subscriptions\"");
    check(
        TOPIC_END,
        &shared,
        &[
            "warning: forebay.toml:19: topic[1].table: found the table of topic \"subscription-updates\", expected a table of its own: rows that both topics write have no order between them",
        ],
    );
    check(
        "{app_id}:",
        "{app_id}",
        &[
            "forebay.toml:16: topic[0].key_format: found \"{app_id}{subscription_id}\", expected something that separates {subscription_id} from what is before it",
        ],
    );
    check(
        "{app_id}:",
        "",
        &[
            "forebay.toml:16: topic[0].key_format: found \"{subscription_id}\", expected each of {app_id}, {subscription_id}",
        ],
    );
    check(
        TOPIC_END,
        "guard = \"app_id\"",
        &[
            "forebay.toml:16: topic[0].guard: found \"app_id\", expected a column that is not one of pk_fields: those never change",
        ],
    );
    check(
        "delete_enabled = true",
        "delete_enabled = false",
        &[
            "warning: forebay.toml:16: topic[0].key_format: found a value, expected delete_enabled = true beside it: only the keys of null values are read",
        ],
    );
    let expected = "\"/json/pointer\", \"@offset\", \"@partition\", \"@timestamp\", \"@key\", \"@header:NAME\", or false to never write it";
    check(
        TOPIC_END,
        "[topic.columns]\na = \"b\"\nc = \"/~2\"\napp_id = false",
        &[
            "forebay.toml:14: topic[0].pk_fields: found \"app_id\", which columns.app_id never writes, expected columns with a value",
            &format!("forebay.toml:17: topic[0].columns.a: found \"b\", expected {expected}"),
            &format!("forebay.toml:18: topic[0].columns.c: found \"/~2\", expected {expected}"),
        ],
    );
}

#[test]
fn a_handlers_topic() {
    let text = SMALLEST.split("table =").next().expect("a part before it").to_owned() + "handler = true\n";
    let loaded = valid(&text);
    assert!(matches!(loaded.config.topics[0].target, Target::Handler));
    assert_eq!(
        loaded.with_tables_only().expect_err("the program has no handlers").to_string(),
        "forebay.toml:12: topic[0].handler: found true, expected a table: this program has no handlers"
    );
    check(
        "delete_enabled = true\nkey_format = \"{app_id}:{subscription_id}\"",
        "handler = true",
        &["table", "insert_mode", "pk_fields"].map(|name| {
            let line = SMALLEST.lines().position(|line| line.starts_with(name)).expect("a line") + 1;
            format!("forebay.toml:{line}: topic[0].{name}: found a value beside handler = true, expected nothing: the handler decides")
        }).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    check(
        "table = \"subscriptions\"",
        "",
        &[
            "forebay.toml:10: topic[0].table: found nothing, expected a table, or handler = true in a program that embeds forebay",
        ],
    );
}

#[test]
fn a_connection_budget_that_cannot_work() {
    check(
        SHARD,
        "[[shard]]\nconnections_max = 5",
        &[
            "forebay.toml:7: shard[0].connections_max: found 5, expected at least 7: one for each of 5 workers and slow lanes, and 2 more",
        ],
    );
}

#[test]
fn what_a_shard_is_held_to() {
    check(
        SHARD,
        "[[shard]]\nrows_per_second_max = 0\nreplica_lag_max_ms = 500",
        &[
            "forebay.toml:7: shard[0].rows_per_second_max: found 0, expected a whole number of rows/s from 1 to 100000000",
            "forebay.toml:8: shard[0].replica_lag_max_ms: found a value, expected replica beside it: the application_name of the one that is meant",
        ],
    );
    assert_eq!(
        read(SMALLEST).unwrap().config.shards[0].pace,
        Pace::default(),
        "nothing is limited unless it is asked for"
    );
    let settings =
        "[[shard]]\nrows_per_second_max = 5_000\nadaptive_limit = true\nreplica = \"near\"\nreplica_lag_max_ms = 500";
    let config = read(&SMALLEST.replace(SHARD, settings)).unwrap().config;
    let replica = Some(Replica { name: "near".into(), lag_max: Duration::from_millis(500) });
    assert_eq!(config.shards[0].pace, Pace { rows_per_second_max: Some(5000), adaptive_limit: true, replica });
}

#[test]
fn poolers_and_replicas() {
    let pooler = "[[shard]]\npooler = \"transaction\"";
    check(SHARD, pooler, &[]);
    check(
        SHARD,
        "[[shard]]\npooler = \"session\"",
        &["forebay.toml:7: shard[0].pooler: found \"session\", expected one of none, transaction"],
    );
    let options =
        read(&SMALLEST.replacen(SHARD, pooler, 1).replace("dbname=app", "dbname=app options='-c lock_timeout=1'"));
    let problems = options.expect_err("options would be dropped").0;
    assert_eq!(problems.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["shard[0].pooler"]);
    check(
        SHARD,
        &format!("{pooler}\nconnections_share_percent = 40"),
        &[
            "forebay.toml:8: shard[0].connections_share_percent: found a value beside pooler = \"transaction\", expected nothing: the pooler's limits decide how many of the server's connections there are",
        ],
    );
    check(SHARD, "[[shard]]\ncommit_replicas = [\"a\", \"b\"]\ncommit_replicas_min = 1", &[]);
    check(
        SHARD,
        "[[shard]]\ncommit_replicas = [\"a\", \"b\", \"a\"]",
        &[
            "forebay.toml:7: shard[0].commit_replicas: found \"a\" twice, expected each replica once: connections of one name count as one",
        ],
    );
    for replicas in ["", "commit_replicas = [\"a\"]\n"] {
        let found = read(&SMALLEST.replacen(SHARD, &format!("[[shard]]\n{replicas}commit_replicas_min = 2"), 1));
        let problems = found.expect_err("more than there are").0;
        assert_eq!(problems.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["shard[0].commit_replicas_min"]);
    }
}

#[test]
fn a_readable_file_with_a_password_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("forebay.toml");
    for (text, mode, warnings) in [
        (SMALLEST.to_owned(), 0o644, 1),
        (SMALLEST.to_owned(), 0o600, 0),
        (SMALLEST.replace("password=hunter2", ""), 0o644, 0),
        (SMALLEST.replace("password=hunter2", "").replace(KAFKA, "[kafka]\nssl.key.password = \"hunter2\""), 0o644, 1),
    ] {
        std::fs::write(&file, text).expect("writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("permitted");
        let loaded = super::load::load(&file).expect("valid");
        assert_eq!(loaded.warnings.len(), warnings, "{mode:o}");
    }
}

#[test]
fn secrets_from_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let secret = dir.path().join("dsn");
    std::fs::write(&secret, "host=a password=hunter2\n").expect("writable");
    let text = SMALLEST
        .replace("dsn = \"host=127.0.0.1 port=5432 user=app dbname=app password=hunter2\"", "dsn_file = \"dsn\"");
    for (mode, warnings) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).expect("permitted");
        let loaded = parse(&dir.path().join("forebay.toml"), &text, &environment).expect("valid");
        assert_eq!(loaded.config.shards[0].dsn.0, "host=a password=hunter2");
        assert_eq!(loaded.warnings.len(), warnings, "{mode:o}");
    }
}

#[test]
fn a_map_of_tenants() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = SMALLEST
        .replace(SHARD, "[shards]\nby = \"map\"\nmap_file = \"tenants.toml\"\ntenant = \"field:app_id\"\n[[shard]]");
    let read = |map: &str| {
        std::fs::write(dir.path().join("tenants.toml"), map).expect("writable");
        parse(&dir.path().join("forebay.toml"), &text, &environment)
    };
    let RouteBy::Map { tenants, default, .. } = read("\"acme\" = \"main\"\n").expect("valid").config.routing.by else {
        panic!("a map")
    };
    assert_eq!((tenants["acme"], default), (0, None));
    assert!(read("acme = \"moon\"").expect_err("no such shard").to_string().contains("tenants of \"moon\""));
    assert!(read("a = \"main\"\nb =").expect_err("no value").to_string().contains("error in line 2"));
}

#[test]
fn debug_shows_no_secret() {
    let text =
        SMALLEST.replace(KAFKA, "[kafka]\nsasl.password = { env = \"PASSWORD\" }\nssl.key.password = \"hunter3\"");
    let shown = format!("{:?}", valid(&text));
    assert!(shown.contains("subscription-updates") && !shown.contains("hunter"), "{shown}");
}

#[test]
fn every_setting_has_prose_and_a_default_within_its_range() {
    for setting in s::ALL {
        let [_, default, range, prose] = setting.row();
        assert!(prose.ends_with('.') && !default.is_empty(), "{}", setting.name());
        if let (Ok(default), Some((first, last))) = (default.parse::<usize>(), range.split_once('–')) {
            let bounds = first.parse::<usize>().expect("a number")..=last.parse().expect("a number");
            assert!(bounds.contains(&default), "{}", setting.name());
        }
    }
}

#[test]
fn ceilings_of_tenants() {
    let ceilings = "[shards]\ntenant = \"key:0\"\ntenant_rows_per_second_max = 500\n\
                    [shards.tenant_rows_per_second]\nacme = 20\n\"a.b\" = 30\n[[shard]]";
    let of = [("a.b", 30), ("acme", 20)].map(|(name, records)| (name.to_owned(), records));
    let config = valid(&SMALLEST.replacen(SHARD, ceilings, 1)).config;
    assert_eq!(config.tenant_ceilings, TenantCeilings { each: Some(500), of: of.into() });
    let expected = "expected a whole number of records/s from 1 to 100000000";
    check(
        SHARD,
        "[shards.tenant_rows_per_second]\nacme = 0\nb = \"x\"\n[[shard]]",
        &[
            &format!("forebay.toml:7: shards.tenant_rows_per_second.acme: found 0, {expected}"),
            &format!("forebay.toml:8: shards.tenant_rows_per_second.b: found \"x\", {expected}"),
        ],
    );
    check(
        SHARD,
        "[shards.tenant_rows_per_second]\na.b = 2\n\"a.b\" = 3\n[[shard]]",
        &[
            "forebay.toml:8: shards.tenant_rows_per_second.a.b: found the tenant again, expected one line for each tenant",
        ],
    );
    check(
        SHARD,
        "[engine]\ndelivery = \"at_least_once\"\n[shards]\ntenant_rows_per_second_max = 5\n[[shard]]",
        &["forebay.toml:9: shards.tenant_rows_per_second_max: found a value, and topic \"subscription-updates\" with \
           at_least_once, expected exactly_once for every topic: what is above a tenant's ceiling is parked"],
    );
}
