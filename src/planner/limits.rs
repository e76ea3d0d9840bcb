//! What the databases say of themselves: connections, and the settings that what they bear depends on. Asks, and keeps; what follows
//! others decide.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::Client;
use postgres::types::Type;
use serde::Serialize;

use crate::check::budget::{CATALOG, Room};
use crate::config::ingest::Ingest;
use crate::config::{Affinity, Config, Pooler};
use crate::planner::rates::Rates;
use crate::planner::wish::Assumption;
use crate::planner::{PlanError, write};
use crate::sink::connections::{self, Connections, Server};
use crate::sink::pool::Pool;
use crate::sink::{Failure, sqlstate};
use crate::source::assignor::Assignor;

/// PostgreSQL's own defaults.
const MAX_CONNECTIONS: i32 = 100;
const SUPERUSER_RESERVED: i32 = 3;
const PURPOSE: &str = "plan";

/// What figures depend on, and what is to be looked at where they are high.
const SETTINGS: [&str; 13] = [
    "server_version",
    "transaction_read_only",
    "synchronous_commit",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "wal_level",
    "wal_compression",
    "max_wal_size",
    "checkpoint_timeout",
    "checkpoint_completion_target",
    "shared_buffers",
    "autovacuum",
];

/// What a plan has to do with.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of the servers that were asked; one that stands for all where none was.
    pub servers: Vec<ServerLimits>,
    pub fixed: Fixed,
    /// Of a server that has one database.
    pub rates: Rates,
    /// How those came about, for people.
    pub rates_from: String,
    /// Measured; none where nothing was.
    pub wal_bytes_per_row: Option<f64>,
}

/// What a plan takes from a configuration as it is; the settings' defaults where there is none.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// Connections of a process to each shard besides its workers: slow lanes, and those that `besides` counts.
    pub slow_lanes: usize,
    pub besides: usize,
    /// Those of one gateway, whose sync routes write by themselves.
    pub gateway: usize,
    pub topics: usize,
    /// The lowest of the shards': connections of a process, and rows that it writes a second.
    pub connections_max: Option<usize>,
    pub rows_per_s_max: Option<usize>,
    /// Settings that hold records back and are not reckoned with, for people.
    pub unplanned: Vec<String>,
    pub assignor: Assignor,
    pub affinity: Affinity,
    pub batch_bytes_max: usize,
    pub partition_records_max: usize,
    pub partition_bytes_max: usize,
    pub retry_backoff_min: Duration,
    pub retry_backoff_max: Duration,
}

impl Fixed {
    pub fn of(config: &Config) -> Fixed {
        let engine = &config.engine;
        let pool = config.ingest.as_ref().map_or(0, Ingest::pooled_per_shard);
        Fixed {
            slow_lanes: engine.slow_lanes_per_shard,
            besides: config.connections_besides_writers(),
            gateway: if pool > 0 { pool + CATALOG } else { 0 },
            topics: config.topics.len(),
            connections_max: config.shards.iter().filter_map(|shard| shard.connections_max).min(),
            rows_per_s_max: config.shards.iter().filter_map(|shard| shard.pace.rows_per_second_max).min(),
            unplanned: unplanned(config),
            assignor: Assignor::of(&config.kafka),
            affinity: engine.affinity,
            batch_bytes_max: engine.batch_bytes_max,
            partition_records_max: engine.partition_records_max,
            partition_bytes_max: engine.partition_bytes_max,
            retry_backoff_min: engine.retry_backoff_min,
            retry_backoff_max: engine.retry_backoff_max,
        }
    }
}

fn unplanned(config: &Config) -> Vec<String> {
    let topics = config.topics.iter().filter(|topic| topic.rows_per_second_max.is_some());
    let mut all: Vec<String> = topics.map(|topic| format!("topic {}: rows_per_second_max", topic.name)).collect();
    for shard in &config.shards {
        let named = |name: &str| format!("shard {}: {name}", shard.name);
        all.extend(shard.pace.adaptive_limit.then(|| named("adaptive_limit")));
        all.extend(shard.pace.replica.is_some().then(|| named("replica")));
        all.extend(shard.commit_gate.is_some().then(|| named("commit_replicas")));
    }
    all
}

impl Default for Fixed {
    fn default() -> Fixed {
        let text = write::text(&write::template(&[write::stand_in(0)]));
        Fixed::of(&text.and_then(|text| write::parse(&text)).expect("the template is valid").config)
    }
}

/// One PostgreSQL, and how many of the shards it has.
#[derive(Debug, Clone, Serialize)]
pub struct ServerLimits {
    /// Of its first shard.
    pub name: String,
    /// 0: each shard is believed to have one of its own.
    pub shards: usize,
    pub max_connections: i64,
    pub reserved: i64,
    pub others: i64,
    /// In use by gateways of this group now.
    pub gateways: i64,
    /// For all processes of the group together: after others, reserves, shares, and the role's own limit.
    pub room: i64,
    /// The lowest connection limit of one of its databases.
    pub database_max: Option<i64>,
    /// What nobody has now, of what it really lets in.
    pub free: i64,
    /// Connections are a pooler's to deal out.
    pub pooled: bool,
    pub settings: BTreeMap<String, String>,
}

impl ServerLimits {
    /// A server that nobody asked.
    pub fn assumed(max_connections: Option<i32>) -> (ServerLimits, Vec<Assumption>) {
        let max = max_connections.unwrap_or(MAX_CONNECTIONS);
        let unknown = Server { system: None, started: 0.0 };
        let connections = Connections {
            server: unknown,
            max,
            reserved: SUPERUSER_RESERVED,
            others: 0,
            group: 0,
            gateways: 0,
            role_max: None,
            database_max: None,
        };
        let mut assumed = vec![Assumption::new(
            "connections that are reserved for superusers, and in use by others",
            format!("{SUPERUSER_RESERVED} and 0"),
            "--config FILE: ask the databases",
        )];
        if max_connections.is_none() {
            assumed.push(Assumption::new(
                "max_connections of each database",
                MAX_CONNECTIONS.to_string(),
                "--max-connections, or --config FILE: ask the databases",
            ));
        }
        (ServerLimits::new("each", 0, &connections, 100, false, BTreeMap::new()), assumed)
    }

    fn new(
        name: &str,
        shards: usize,
        of: &Connections,
        percent: usize,
        pooled: bool,
        settings: BTreeMap<String, String>,
    ) -> ServerLimits {
        ServerLimits {
            name: name.to_owned(),
            shards,
            max_connections: of.max.into(),
            reserved: of.reserved.into(),
            others: of.others.into(),
            gateways: of.gateways.into(),
            room: Room::of(of, percent).all(of),
            database_max: of.database_max.map(i64::from),
            free: Room::of(of, percent).all(of) - i64::from(of.group),
            pooled,
            settings,
        }
    }

    /// Connections for each shard of it.
    pub fn room_per_shard(&self) -> i64 {
        (self.room / self.shards.max(1) as i64).min(self.database_max.unwrap_or(i64::MAX))
    }

    /// Another of the shards is on it, too.
    fn has_another(&mut self, this: &ServerLimits) {
        self.shards += 1;
        self.room = self.room.min(this.room);
        self.free = self.free.min(this.free);
        self.database_max = [self.database_max, this.database_max].into_iter().flatten().min();
        // One way to it without a pooler is enough to be limited.
        self.pooled &= this.pooled;
    }

    /// As if it had so many connections: somebody is about to set that.
    fn with_max_connections(self, of: &Connections, percent: usize, max: i32) -> ServerLimits {
        let of = Connections { max, ..of.clone() };
        ServerLimits { max_connections: max.into(), room: Room::of(&of, percent).all(&of), ..self }
    }

    /// A setting in bytes or seconds, as PostgreSQL shows it: `1GB`, `5min`, `0.9`.
    pub fn setting(&self, name: &str) -> Option<f64> {
        let text = self.settings.get(name)?;
        let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let number: f64 = text[..at].trim().parse().ok()?;
        let unit = match &text[at..] {
            "" | "s" | "B" => 1.0,
            "kB" => 1024.0,
            "MB" => 1_048_576.0,
            "GB" => 1_073_741_824.0,
            "TB" => 1_099_511_627_776.0,
            "ms" => 1e-3,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        Some(number * unit)
    }
}

impl Limits {
    /// The server with the least room for each shard: what fits there fits everywhere. What is behind a pooler says nothing of it, and is
    /// looked at only where all are.
    ///
    /// # Panics
    /// Without a server; whoever makes limits puts one in.
    pub fn tightest(&self) -> &ServerLimits {
        let server = self.servers.iter().min_by_key(|server| (server.pooled, server.room_per_shard()));
        server.expect("at least one server")
    }

    /// The most databases that share a server.
    pub fn databases_of_a_server(&self) -> usize {
        self.servers.iter().map(|server| server.shards).max().unwrap_or(0).max(1)
    }

    /// What one database takes while those beside it on its server are as busy.
    pub fn rates_of_a_shard(&self) -> Rates {
        self.rates.shared_by(self.databases_of_a_server())
    }
}

/// Asks every shard's server, all at once; those that share one are one. `max_connections` instead of what they say: everything else
/// that limits them still does.
///
/// # Errors
/// [`PlanError::Unavailable`] or [`PlanError::Configuration`] of the first shard that says nothing.
pub fn ask(config: &Config, max_connections: Option<i32>) -> Result<Vec<ServerLimits>, PlanError> {
    let group = &config.kafka.group_id;
    let answer = |shard: &crate::config::Shard| -> Result<(Connections, BTreeMap<String, String>), Failure> {
        let mut client = Pool::new(shard, group, PURPOSE, 1)?.get()?;
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        Ok((connections::ask(&mut client, group, PURPOSE).map_err(failed)?, settings(&mut client).map_err(failed)?))
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = config.shards.iter().map(|shard| scope.spawn(|| answer(shard))).collect();
        asked.into_iter().map(|asked| asked.join().expect("asking a database does not panic")).collect()
    });
    let mut known: Vec<(Connections, ServerLimits)> = Vec::new();
    for (shard, answer) in config.shards.iter().zip(answers) {
        let (of, settings) = answer.map_err(|failure| PlanError::of_shard(&shard.name, &failure))?;
        let pooled = shard.pooler == Pooler::Transaction;
        let percent = shard.connections_share_percent;
        let mut this = ServerLimits::new(&shard.name, 1, &of, percent, pooled, settings);
        if let Some(max) = max_connections {
            this = this.with_max_connections(&of, percent, max);
        }
        match known.iter_mut().find(|(other, _)| other.server == of.server) {
            Some((_, server)) => server.has_another(&this),
            None => known.push((of, this)),
        }
    }
    Ok(known.into_iter().map(|(_, server)| server).collect())
}

/// What a server's figures depend on.
pub fn settings(client: &mut Client) -> Result<BTreeMap<String, String>, postgres::Error> {
    let asked = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY ($1)";
    let rows = client.query_typed(asked, &[(&&SETTINGS[..], Type::TEXT_ARRAY)])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_nobody_asked_has_postgresql_s_defaults() {
        let (server, assumed) = ServerLimits::assumed(None);
        assert_eq!((server.room, server.room_per_shard(), assumed.len()), (97, 97, 2));
        let (server, assumed) = ServerLimits::assumed(Some(500));
        assert_eq!((server.room, assumed.len()), (497, 1));
    }

    /// 500 connections in all, of which 3 are reserved, 7 in use by others and 40 by the group.
    fn connections(database_max: Option<i32>) -> Connections {
        let server = Server { system: Some(1), started: 0.0 };
        Connections { server, max: 500, reserved: 3, others: 7, group: 40, gateways: 0, role_max: None, database_max }
    }

    fn of(connections: &Connections) -> ServerLimits {
        ServerLimits::new("a", 1, connections, 100, false, BTreeMap::new())
    }

    #[test]
    fn a_database_s_own_limit_holds_for_it_and_not_for_its_server() {
        let mut server = of(&connections(Some(20)));
        server.has_another(&of(&connections(Some(30))));
        assert_eq!((server.shards, server.room, server.room_per_shard()), (2, 490, 20), "20 for each of both, not 10");
        server.has_another(&of(&connections(None)));
        assert_eq!(server.room_per_shard(), 20);
        assert_eq!(server.free, 450, "what the group has now is not free");
    }

    #[test]
    fn what_somebody_is_about_to_set_leaves_the_other_limits() {
        let now = Connections { role_max: Some(60), ..connections(None) };
        let (server, half) = (of(&now), ServerLimits::new("a", 1, &connections(None), 50, false, BTreeMap::new()));
        assert_eq!((server.room, half.room), (60, 248));
        assert_eq!(server.with_max_connections(&now, 100, 1000).room, 60, "the role's limit holds");
        let then = half.with_max_connections(&connections(None), 50, 1003);
        assert_eq!((then.max_connections, then.room, then.free), (1003, 500, 208), "it is not set yet");
    }

    /// What a pooler lets in is not known, so it says nothing about the others.
    #[test]
    fn a_pooled_server_is_not_the_tightest() {
        let (mut pooled, mut direct) = (of(&connections(None)), of(&connections(None)));
        (pooled.room, pooled.pooled, direct.name) = (1, true, "b".to_owned());
        let mut limits = Limits {
            servers: vec![pooled, direct],
            fixed: Fixed::default(),
            rates: Rates::Assumed { database_rows_per_s: 1.0, connection_rows_per_s: 1.0, commit_s: 1.0 },
            rates_from: String::new(),
            wal_bytes_per_row: None,
        };
        assert_eq!(limits.tightest().name, "b");
        limits.servers.truncate(1);
        assert_eq!(limits.tightest().name, "a");
    }

    /// As `forebay check` reckons: a pool, and one that looks at tables.
    #[test]
    fn a_gateway_has_its_pool_and_one_more() {
        let gateway = |mode: &str| {
            let text = format!(
                "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\npk_fields = [\"x\"]\n\
                 rows_per_second_max = 9\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\nconnections_max = 30\nrows_per_second_max = 500\n\
                 adaptive_limit = true\n[ingest]\npool_size = 8\n[[ingest.route]]\npath = \"/t/{{x}}\"\nmethods = [\"PUT\"]\ntopic = \"t\"\n\
                 mode = {mode:?}\n"
            );
            Fixed::of(&write::parse(&text).unwrap().config)
        };
        assert_eq!((gateway("sync").gateway, gateway("async").gateway), (9, 0));
        let fixed = gateway("sync");
        assert_eq!((fixed.connections_max, fixed.rows_per_s_max), (Some(30), Some(500)));
        assert_eq!(fixed.unplanned, ["topic t: rows_per_second_max", "shard a: adaptive_limit"]);
    }

    #[test]
    fn settings_are_read_as_postgresql_shows_them() {
        let (mut server, _) = ServerLimits::assumed(None);
        for (text, expectation) in [
            ("1GB", Some(1_073_741_824.0)),
            ("16MB", Some(16_777_216.0)),
            ("5min", Some(300.0)),
            ("30s", Some(30.0)),
            ("0.9", Some(0.9)),
            ("replica", None),
        ] {
            server.settings.insert("x".to_owned(), text.to_owned());
            assert_eq!(server.setting("x"), expectation, "{text}");
        }
    }
}
