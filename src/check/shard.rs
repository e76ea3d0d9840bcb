//! The databases: can they be reached and written to, do they have the connections, are they what they are taken for, and
//! do two names lead to one of them.

use postgres::Client;
use postgres::types::Type;

use crate::config::raw::Places;
use crate::config::{CommitGate, Config, Shard, Target};
use crate::sink::connections::{self, Connections, Server};
use crate::sink::control::REPLICA;
use crate::sink::pool::Pool;
use crate::sink::replicas::{POSITIONS, Positions, Replicas};
use crate::sink::{Failure, schema, sqlstate};
use crate::types::ShardIx;
use crate::words::counted;

use super::budget;
use super::{Notes, Report, table};

/// The fence statements need `MATERIALIZED`.
const SERVER_VERSION_MIN: i32 = 120_000;
/// One for the shard, one for a table.
const POOL: u32 = 2;

/// What a server says of itself.
const FACTS: &str = "\
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS recovers,
       current_setting('transaction_read_only') = 'on' AS read_only,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
       current_database()::text AS database_name, current_user::text AS role,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema";

/// What is compared among shards.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    connections: Connections,
    database: u32,
    database_name: String,
}

impl Facts {
    fn is_same_database(&self, other: &Facts) -> bool {
        let server = |facts: &Facts| -> Server { facts.connections.server };
        server(self) == server(other) && self.database == other.database
    }
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
    budget::pooler(config, index, client.is_direct(), notes);
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
    let row = client.query_typed_one(FACTS, &[]).map_err(failed)?;
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
    replica(config, index, client, notes)?;
    if let Some(gate) = &shard.commit_gate {
        commit_gate(index, shard, gate, client, notes)?;
    }
    Ok(Facts {
        connections: connections::ask(client, &config.kafka.group_id, "check").map_err(failed)?,
        database: row.get("database"),
        database_name: name,
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
    the_map(config, index, client, notes)
}

/// What the map says beside those that the group's processes had, as far as this database remembers.
fn the_map(config: &Config, index: usize, client: &mut Client, notes: &mut Notes<'_>) -> Result<(), Failure> {
    let expected = schema::Expected::new(config, ShardIx(index as u16));
    let Some(map) = &expected.map else { return Ok(()) };
    let name = &config.shards[index].name;
    match schema::remembered_map(client, &expected) {
        Ok(None) => {}
        Ok(Some(known)) => {
            let (new, lacking) = (map.new_beside(&known), known.new_beside(map));
            notes.checked(format!("shard {name}: no tenant of the map moves, {new} are new to the database"));
            if lacking > 0 {
                let found = format!("{} fewer than the shard {name} remembers", counted(lacking as u64, "tenant"));
                let expected = "every tenant that has rows: a record of one that the map lacks stops its topic";
                notes.warning("shards.map_file", found, expected);
            }
        }
        Err(Failure::Shard(reason)) => {
            notes.problem("shards.map_file", format!("shard {name}: {reason}"), "a map that only adds tenants");
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// The replicas that Kafka's commit waits for.
fn commit_gate(
    index: usize,
    shard: &Shard,
    gate: &CommitGate,
    client: &mut Client,
    notes: &mut Notes<'_>,
) -> Result<(), Failure> {
    let (names, enough) = Replicas::new(gate.clone(), &shard.name).params();
    let asked = client.query_typed_one(POSITIONS.text, &[(&names, Type::TEXT_ARRAY), (&enough, Type::INT8)]);
    let positions = Positions::new(&asked.map_err(|error| sqlstate::failure(&error))?);
    if positions.are_known() {
        let (enough, of) = (gate.replicas_min, gate.replicas.join(", "));
        notes.checked(format!(
            "shard {}: Kafka's commit waits for {enough} of the replicas {of}, and they are there",
            shard.name
        ));
    } else {
        let key = format!("shard[{index}].commit_replicas");
        let expected = format!("{} of them; Kafka's commit stands still until then", gate.replicas_min);
        notes.problem(&key, positions.why(), expected);
    }
    Ok(())
}

/// The replica that is waited for: may it be seen, and is it there.
fn replica(config: &Config, index: usize, client: &mut Client, notes: &mut Notes<'_>) -> Result<(), Failure> {
    let shard = &config.shards[index];
    let Some(replica) = &shard.pace.replica else { return Ok(()) };
    let key = format!("shard[{index}].replica");
    let asked = client.query_typed_one(REPLICA.text, &[(&replica.name, Type::TEXT)]);
    let row = asked.map_err(|error| sqlstate::failure(&error))?;
    if row.get::<_, Option<i64>>(2).is_some() {
        notes.checked(format!("shard {}: replica {}", shard.name, replica.name));
    } else if row.get(0) {
        notes.problem(&key, format!("no replica {:?} that is connected", replica.name), "an application_name of one");
    } else {
        notes.problem(&key, "a role that may not see replicas", "a member of pg_read_all_stats");
    }
    Ok(())
}

/// What only shows when the shards are put side by side: one database under two names, and servers that several share.
pub fn compare(config: &Config, places: &Places, facts: &[(usize, Facts)]) -> Report {
    let mut notes = Notes::new(places);
    for (at, (i, this)) in facts.iter().enumerate() {
        let twin = facts[..at].iter().find(|(_, other)| other.is_same_database(this));
        if let Some((j, _)) = twin {
            let found = format!("the database {:?} of shard {:?} again", this.database_name, config.shards[*j].name);
            notes.problem(&format!("shard[{i}].dsn"), found, "another database for each shard");
        }
    }
    let connections: Vec<_> = facts.iter().map(|(i, facts)| (*i, &facts.connections)).collect();
    budget::compare(config, &connections, budget::Whose::All, &mut notes);
    notes.report
}
