//! What is written is what forebay reads, and what an operator wrote stays.

use super::*;
use crate::config::{Alignment, RouteBy};
use crate::planner::plan::Traffic;
use crate::planner::wish::Asked;

fn plan(shards: usize) -> Plan {
    let nothing = Traffic {
        shard_per_s: 0.0,
        waits: false,
        connections_at_work: 1,
        batch_records: 1.0,
        transactions_per_s: 1.0,
        transaction_s: 0.001,
    };
    Plan {
        shards,
        processes: 3,
        spare_processes: 1,
        workers_per_shard: 20,
        slow_lanes_per_shard: 2,
        lanes: 32,
        batch_records_max: 200,
        partitions_per_shard: 8,
        partitions: 8 * shards,
        partition_bytes_max: 4 << 20,
        connections_per_process: 24,
        connections_per_shard: 72,
        connections_room: 97,
        shard_rows_per_s: 1.0,
        capacity_per_s: 1.0,
        at_mean: nothing,
        at_peak: nothing,
        time_lag_s: 0.1,
        catch_up_s: 1.0,
        retention_s: 7200.0,
        segment_s: 1800.0,
        kafka_bytes: 1.0,
        replication: 3,
        min_insync_replicas: 2,
        process_memory_bytes: 1,
        breaks: Vec::new(),
    }
}

const FILE: &str = r#"
[kafka]
bootstrap.servers = "k1:9092,k2:9092"
"group.id" = "subs"
[engine]
commit_interval_ms = 500
lanes = 16
[admin]
token_file = "token"
listen = "127.0.0.1:9470"
[shards]
by = "map"
tenant = "header:app"
map_file = "map.toml"
[[shard]]
name = "one"
dsn_file = "one.dsn"
[[shard]]
name = "two"
dsn = "host=two user=app password='it is'"
[[topic]]
name = "subscription-updates"
table = "subscriptions"
insert_mode = "upsert"
pk_fields = ["id"]
"#;

fn present() -> (tempfile::TempDir, Present) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("forebay.toml", FILE),
        ("token", "0123456789abcdef0123"),
        ("map.toml", "\"a\" = \"one\"\n"),
        ("one.dsn", "host=one user=app"),
    ] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let present = Present::read(&directory.path().join("forebay.toml")).unwrap();
    (directory, present)
}

#[test]
fn what_an_operator_wrote_stays_and_the_plan_s_numbers_are_in_it() {
    let (_directory, present) = present();
    let text = configuration(&present, &plan(2)).unwrap();
    // Whoever reads it elsewhere finds the files that it names.
    let config = parse(&text).unwrap().config;
    assert_eq!((config.engine.workers_per_shard, config.engine.lanes, config.engine.slow_lanes_per_shard), (20, 32, 2));
    assert_eq!((config.engine.batch_records_max, config.engine.partition_bytes_max), (200, 4 << 20));
    assert_eq!(config.engine.commit_interval.as_millis(), 500);
    assert_eq!((config.kafka.group_id.as_str(), config.topics[0].name.as_str()), ("subs", "subscription-updates"));
    assert!(matches!(config.routing.by, RouteBy::Map { .. }));
    assert_eq!(config.alignment(), Alignment::Declared);
    assert_eq!(config.shards[0].partitions, Some(vec![0..=7]));
    assert_eq!(config.shards[1].partitions, Some(vec![8..=15]));
    assert!(config.shards[1].dsn.0.contains("it is"));
}

#[test]
fn a_plan_of_other_databases_than_there_are_is_not_written_into_them() {
    let (_directory, present) = present();
    let error = configuration(&present, &plan(3)).unwrap_err().to_string();
    assert_eq!(error, "shard: found 2, expected the 3 of the plan: the configuration lacks those that are yet to come");
}

/// Partitions that exist would be another database's, and their rows would be written where nobody looks for them.
#[test]
fn declared_partitions_stay_and_a_plan_of_others_is_not_written() {
    let (_directory, mut present) = present();
    let mut declare = |shard: usize, partitions: &str| {
        let shard = &mut present.document["shard"].as_array_mut().unwrap()[shard];
        shard.as_table_mut().unwrap().insert("partitions".to_owned(), partitions.into());
        configuration(&present, &plan(2)).map_err(|error| error.to_string())
    };
    let error = declare(1, "0-3").unwrap_err();
    let expected = "shard[1].partitions: found \"0-3\", and the plan has \"8-15\": nothing is written";
    assert!(error.starts_with(expected) && error.contains("--partitions-per-shard"), "{error}");
    let written = declare(1, "8-11, 12 - 15").unwrap();
    assert!(written.contains("8-11, 12 - 15"), "as the operator has it: {written}");
    assert_eq!(parse(&written).unwrap().config.shards[0].partitions, Some(vec![0..=7]));
    assert!(declare(0, "1-8").is_err());
}

#[test]
fn every_file_that_is_named_is_found_from_elsewhere() {
    let mut document: Table = "[ingest]\ncatalog_file = \"c.json\"\n[admin]\nsocket = \"/run/s\"\n".parse().unwrap();
    absolute(&mut document, Path::new("/etc/forebay"));
    assert_eq!(document["ingest"]["catalog_file"].as_str(), Some("/etc/forebay/c.json"));
    assert_eq!(document["admin"]["socket"].as_str(), Some("/run/s"));
}

#[test]
fn without_a_configuration_there_is_one_to_begin_with() {
    for shards in [1, 2, 40] {
        let text = configuration(&Present::default(), &plan(shards)).unwrap();
        let config = parse(&text).unwrap().config;
        let expected = if shards == 1 { Alignment::Built } else { Alignment::Declared };
        assert_eq!((config.shards.len(), config.alignment()), (shards, expected));
        assert!(text.starts_with("# Written by `forebay plan`"), "{text}");
    }
}

#[test]
fn commands_say_what_the_plan_says() {
    let (_directory, present) = present();
    let wish =
        crate::planner::wish::Wish::new(&Asked { peak: Some(1.0), record_bytes: Some(700_000.0), ..Asked::default() });
    let text = commands(&present, &plan(2), &wish.unwrap().0);
    for part in [
        "BROKERS=${BROKERS:-k1:9092,k2:9092}",
        "--create --if-not-exists --topic subscription-updates",
        "--partitions 16 --replication-factor 3",
        "retention.ms=7200000 --config segment.ms=1800000",
        "min.insync.replicas=2",
        "max.message.bytes=1400000",
        "--entity-name subscription-updates \\\n#     --add-config retention.ms=7200000,segment.ms=1800000,",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    // What the tool is given, by a shell.
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("topics.sh");
    std::fs::write(&script, &text).unwrap();
    let given = |file: &str| {
        let output = std::process::Command::new("sh")
            .arg(&script)
            .env("KAFKA_TOPICS", "echo")
            .env("COMMAND_CONFIG", file)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(given("").starts_with("--bootstrap-server k1:9092,k2:9092 --create --if-not-exists"), "{}", given(""));
    assert!(given("a file").contains(" --command-config a file --create"), "{}", given("a file"));
    assert_eq!(quoted("it's"), r"'it'\''s'");
}

#[test]
fn files_are_written_once_and_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("plan");
    let written = files(&below, "a", "b").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(written.iter().map(|path| mode(path)).collect::<Vec<_>>(), [0o600, 0o755]);
    std::fs::write(below.join(CONFIGURATION), "mine").unwrap();
    assert!(matches!(files(&below, "a", "b"), Err(PlanError::Unavailable(_))));
    assert_eq!(std::fs::read_to_string(below.join(CONFIGURATION)).unwrap(), "mine");
}
