//! Validated configurations for tests that start below the configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use forebay::config::live::Readings;
use forebay::config::secret::Secret;
use forebay::config::{
    Admin, Affinity, Config, Delivery, Engine, FirstStart, HotKeyRule, Kafka, OnBadRecord, Pace, ParkingLimits, Pooler,
    RouteBy, Routing, Shard, Target, Tenant, Topic,
};

/// Handler topics over shards `s0`, `s1`, … at these connection strings, by partition.
pub fn handler_config(group: &str, dsns: &[&str], topics: &[&str]) -> Config {
    Config {
        file: PathBuf::from("test.toml"),
        kafka: Kafka { group_id: group.to_owned(), first_start: FirstStart::Earliest, properties: BTreeMap::new() },
        engine: engine(),
        admin: Admin::default(),
        shards: dsns.iter().enumerate().map(|(n, dsn)| shard(&format!("s{n}"), dsn)).collect(),
        routing: Routing { by: RouteBy::Partition, tenant: Tenant::Key, delimiter: ":".to_owned() },
        ingest: None,
        tenant_ceilings: Default::default(),
        topics: topics
            .iter()
            .map(|name| Topic {
                name: (*name).to_owned(),
                target: Target::Handler,
                delivery: Delivery::ExactlyOnce,
                on_bad_record: OnBadRecord::Stop,
                rows_per_second_max: None,
                parent_tries: 3,
                forward_to: None,
            })
            .collect(),
        readings: Readings::default(),
    }
}

pub fn shard(name: &str, dsn: &str) -> Shard {
    Shard {
        name: name.to_owned(),
        dsn: Secret(dsn.to_owned()),
        partitions: None,
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(60),
        lock_timeout: Duration::from_secs(30),
        connections_max: None,
        pace: Pace::default(),
        pooler: Pooler::None,
        commit_gate: None,
        connections_share_percent: 100,
    }
}

fn engine() -> Engine {
    Engine {
        workers_per_shard: 2,
        lanes: 4,
        batch_records_max: 500,
        batch_bytes_max: 1 << 20,
        delivery: Delivery::ExactlyOnce,
        affinity: Affinity::Late,
        cores: Vec::new(),
        poller_core: None,
        kafka_cores: None,
        other_cores: None,
        commit_interval: Duration::from_millis(200),
        manage_schema: true,
        partition_records_max: 10_000,
        partition_bytes_max: 16 << 20,
        drain_deadline: Duration::from_secs(10),
        revoke_deadline: Duration::from_secs(10),
        locate_deadline: Duration::from_secs(10),
        retry_backoff_min: Duration::from_millis(10),
        retry_backoff_max: Duration::from_secs(1),
        slow_lanes_per_shard: 1,
        park_after: Duration::from_millis(100),
        parking: ParkingLimits { records_max: 1_000_000, key_records_max: 1_000_000 },
        hot_keys: HotKeyRule { percent: 30, window: Duration::from_secs(2), hold: Duration::from_secs(10) },
        contention_interval: None,
    }
}
