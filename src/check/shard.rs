//! The databases: can they be reached and written to, do they have the connections, are they what they are taken for, and
//! do two names lead to one of them.

use postgres::Client;

use crate::config::load::CONNECTIONS_BESIDES_WORKERS;
use crate::config::raw::Places;
use crate::config::{Config, Target};
use crate::sink::pool::Pool;
use crate::sink::{Failure, schema, sqlstate};
use crate::types::ShardIx;

use super::{Notes, Report, table};

/// The fence statements need `MATERIALIZED`.
const SERVER_VERSION_MIN: i32 = 120_000;
/// One for the shard, one for a table.
const POOL: u32 = 2;

/// What a server says of itself. `pg_stat_database` shows its numbers to everyone, `pg_stat_activity` does not.
const FACTS: &str = "\
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS recovers,
       current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('max_connections')::int AS connections_max,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
       (SELECT sum(numbackends)::int FROM pg_stat_database WHERE datid <> 0) AS used,
       (SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE $1 AND usename = current_user) AS ours,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_max,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_max,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started,
       current_database()::text AS database_name, current_user::text AS role,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema";

/// A separate statement: it may be forbidden. Clones share the number, so that it alone proves nothing.
const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";

/// What is compared among shards.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    server: Server,
    database: u32,
    database_name: String,
    /// Connections left for us, if they are fewer than we need in all.
    left: i64,
    limits: String,
}

/// A running PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Server {
    system: Option<i64>,
    /// To the microsecond.
    started: f64,
}

pub fn check(config: &Config, places: &Places, index: usize) -> (Option<Facts>, Report) {
    let mut notes = Notes::new(places);
    let shard = &config.shards[index];
    let facts = match look(config, index, &mut notes) {
        Ok(facts) => Some(facts),
        Err(failure) => {
            let found = format!("{:?}: {}", shard.name, failure.reason());
            let key = format!("shard[{index}].dsn");
            match failure {
                Failure::Shard(_) | Failure::Topic(_) | Failure::Record(..) => {
                    notes.problem(&key, found, "a database that lets forebay in");
                }
                _ => notes.unavailable(&key, found, "a database that answers"),
            }
            None
        }
    };
    (facts, notes.report)
}

fn look(config: &Config, index: usize, notes: &mut Notes<'_>) -> Result<Facts, Failure> {
    let shard = &config.shards[index];
    let pool = Pool::new(shard, &config.kafka.group_id, "check", POOL)?;
    let mut client = pool.get()?;
    let facts = facts(config, index, &mut client, notes)?;
    let mut in_order = true;
    for (i, topic) in config.topics.iter().enumerate() {
        if let Target::Table(table) = &topic.target {
            in_order &= table::check(shard, (i, topic), table, &mut client, notes)?;
        }
    }
    if in_order {
        notes.checked(format!("shard {}: every topic's table", shard.name));
    }
    Ok(facts)
}

fn facts(config: &Config, index: usize, client: &mut Client, notes: &mut Notes<'_>) -> Result<Facts, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    let shard = &config.shards[index];
    let key = format!("shard[{index}].dsn");
    let ours = format!("{}%", like(&crate::sink::connect::application_prefix(&config.kafka.group_id)));
    let row = client.query_one(FACTS, &[&ours]).map_err(failed)?;
    let version: i32 = row.get("version");
    let (name, role): (String, String) = (row.get("database_name"), row.get("role"));
    if version < SERVER_VERSION_MIN {
        notes.problem(&key, format!("PostgreSQL {}", version / 10_000), "12 or newer");
    }
    if row.get("recovers") {
        notes.problem(&key, "a standby (in recovery)", "a primary");
    } else if row.get("read_only") {
        notes.problem(&key, "a database that is read-only", "one that takes writes");
    } else {
        let text = format!("shard {}: PostgreSQL {}, database {name}, role {role}", shard.name, version / 10_000);
        notes.checked(text);
    }
    forebays_own(config, index, client, row.get("may_create_schema"), notes)?;
    let system = client.query_one(SYSTEM, &[]).ok().map(|row| row.get("system_identifier"));
    let (max, reserved): (i32, i32) = (row.get("connections_max"), row.get("reserved"));
    // Ours are those of this check and of processes that run already.
    let others = row.get::<_, i32>("used") - row.get::<_, i32>("ours");
    let mut left = i64::from(max - reserved - others);
    for limit in [row.get::<_, i32>("role_max"), row.get("database_max")].into_iter().filter(|limit| *limit >= 0) {
        left = left.min(i64::from(limit));
    }
    Ok(Facts {
        server: Server { system, started: row.get("started") },
        database: row.get("database"),
        database_name: name,
        left,
        limits: format!("max_connections {max}, {reserved} of them reserved, {others} in use by others"),
    })
}

/// The schema `forebay`: is it there and ours, or may we make it.
fn forebays_own(
    config: &Config,
    index: usize,
    client: &mut Client,
    may_create: bool,
    notes: &mut Notes<'_>,
) -> Result<(), Failure> {
    let key = format!("shard[{index}].dsn");
    let name = &config.shards[index].name;
    match schema::inspect(client, &schema::Expected::new(config, ShardIx(index as u16))) {
        Ok(Some(version)) if version >= schema::CURRENT => {
            notes.checked(format!("shard {name}: schema forebay {version}"))
        }
        Ok(found) => {
            let found = found.map_or("no schema forebay".to_owned(), |version| format!("schema forebay {version}"));
            if !config.engine.manage_schema {
                notes.problem(&key, found, format!("version {}: run `forebay init`", schema::CURRENT));
            } else if !may_create {
                notes.problem(&key, format!("{found} and no privilege CREATE on the database"), "one or the other");
            } else {
                notes.checked(format!("shard {name}: {found} yet, `run` makes version {}", schema::CURRENT));
            }
        }
        Err(Failure::Shard(reason)) => notes.problem(&key, reason.to_string(), "a database that is this shard"),
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// What only shows when the shards are put side by side: one database under two names, and servers that several share.
pub fn compare(config: &Config, places: &Places, facts: &[(usize, Facts)]) -> Report {
    let mut notes = Notes::new(places);
    for (at, (i, this)) in facts.iter().enumerate() {
        let twin = facts[..at].iter().find(|(_, other)| other.server == this.server && other.database == this.database);
        if let Some((j, _)) = twin {
            let found = format!("the database {:?} of shard {:?} again", this.database_name, config.shards[*j].name);
            notes.problem(&format!("shard[{i}].dsn"), found, "another database for each shard");
        }
    }
    budget(config, facts, &mut notes);
    notes.report
}

/// One process needs a connection for each worker and two more, for each of its shards on a server.
fn budget(config: &Config, facts: &[(usize, Facts)], notes: &mut Notes<'_>) {
    let each = (config.engine.workers_per_shard + CONNECTIONS_BESIDES_WORKERS) as i64;
    for (at, (i, this)) in facts.iter().enumerate() {
        if facts[..at].iter().any(|(_, other)| other.server == this.server) {
            continue;
        }
        let on_it = facts.iter().filter(|(_, other)| other.server == this.server);
        let (shards, left) = on_it.fold((0, i64::MAX), |(n, left), (_, facts)| (n + 1, left.min(facts.left)));
        let needed = shards * each;
        let need = format!(
            "{needed} connections ({shards} shards × ({} workers + {CONNECTIONS_BESIDES_WORKERS}))",
            config.engine.workers_per_shard
        );
        if needed > left {
            let expected = format!("at most {left} that are left ({})", this.limits);
            notes.problem(&format!("shard[{i}].dsn"), format!("a process that needs {need}"), expected);
        } else {
            let name = &config.shards[*i].name;
            notes.checked(format!("server of shard {name}: {left} connections left, a process needs {need}"));
        }
    }
}

/// Text as LIKE takes it literally.
fn like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
