//! What the databases say of themselves: connections, and the settings that what they bear depends on. Asks, and keeps; what follows
//! others decide.

use std::collections::BTreeMap;

use postgres::Client;
use postgres::types::Type;
use serde::Serialize;

use crate::check::budget::Room;
use crate::config::{Config, Pooler};
use crate::planner::PlanError;
use crate::planner::rates::Rates;
use crate::planner::wish::Assumption;
use crate::sink::connections::{self, Connections, Server};
use crate::sink::pool::Pool;
use crate::sink::{Failure, sqlstate};

/// PostgreSQL's own defaults.
const MAX_CONNECTIONS: i32 = 100;
const SUPERUSER_RESERVED: i32 = 3;
const PURPOSE: &str = "plan";

/// What figures depend on, and what is to be looked at where they are high.
const SETTINGS: [&str; 12] = [
    "server_version",
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
    /// Connections of a process to each shard besides its workers: slow lanes, and those that `besides` counts.
    pub slow_lanes: usize,
    pub besides: usize,
    pub rates: Rates,
    /// How those came about, for people.
    pub rates_from: String,
    /// Measured; none where nothing was.
    pub wal_bytes_per_row: Option<f64>,
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
    /// For all processes of the group together: after others, reserves, shares, and the role's own limit.
    pub room: i64,
    /// Connections are a pooler's to deal out.
    pub pooled: bool,
    pub settings: BTreeMap<String, String>,
}

impl ServerLimits {
    /// A server that nobody asked.
    pub fn assumed(max_connections: Option<u64>) -> (ServerLimits, Vec<Assumption>) {
        let max = max_connections.map_or(MAX_CONNECTIONS, |n| n as i32);
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
            room: Room::of(of, percent).all(of),
            pooled,
            settings,
        }
    }

    /// Connections for each shard of it.
    pub fn room_per_shard(&self) -> i64 {
        self.room / self.shards.max(1) as i64
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
    /// The server with the least room for each shard: what fits there fits everywhere.
    ///
    /// # Panics
    /// Without a server; whoever makes limits puts one in.
    pub fn tightest(&self) -> &ServerLimits {
        self.servers.iter().min_by_key(|server| server.room_per_shard()).expect("at least one server")
    }
}

/// Asks every shard's server, all at once; those that share one are one.
///
/// # Errors
/// [`PlanError::Unavailable`] or [`PlanError::Configuration`] of the first shard that says nothing.
pub fn ask(config: &Config) -> Result<Vec<ServerLimits>, PlanError> {
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
        let this = ServerLimits::new(&shard.name, 1, &of, percent, pooled, settings);
        let database_max = of.database_max.map_or(i64::MAX, i64::from);
        match known.iter_mut().find(|(other, _)| other.server == of.server) {
            Some((_, server)) => {
                server.shards += 1;
                server.room = server.room.min(this.room).min(database_max.saturating_mul(server.shards as i64));
            }
            None => {
                let room = this.room.min(database_max);
                known.push((of, ServerLimits { room, ..this }));
            }
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
