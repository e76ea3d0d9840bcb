//! The databases of a benchmark: a schema of its own in each shard, with one table. What else it leaves there is what any engine
//! leaves, in schema `forebay`, under the names of its own groups. All of it goes at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::Client;
use postgres::types::Type;

use crate::bench::BenchError;
use crate::bench::figures::Server;
use crate::bench::latency::Skew;
use crate::bench::settings::{Settings, TABLE, Target};
use crate::config::{Config, Shard};
use crate::sink::Failure;
use crate::sink::connections::nobody_follows;
use crate::sink::pool::Pool;
use crate::sink::schema::{self, Expected};
use crate::sink::sqlstate;
use crate::types::ShardIx;
use crate::words::listed;

/// Percentiles of many rows take their time.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3600);
const PURPOSE: &str = "bench";

/// See the module's text.
pub struct Databases {
    config: Config,
    schema: String,
    shards: Vec<Known>,
    groups: Vec<String>,
}

struct Known {
    name: String,
    pool: Pool,
    /// What the server says of itself.
    version: String,
    settings: BTreeMap<String, String>,
    /// A group before us has made this database a shard: its name stays.
    has_name: bool,
    has_schema: bool,
}

/// Where shards are named by us, they are called what their databases have kept.
pub fn name_shards(settings: &mut Settings, config: &Config) -> Result<(), BenchError> {
    if !settings.names_are_ours {
        return Ok(());
    }
    for (index, shard) in config.shards.iter().enumerate() {
        let failed = |failure: Failure| BenchError::of_shard(&shard.name, &failure);
        let mut client = pool(shard, &config.kafka.group_id).and_then(|pool| pool.get()).map_err(failed)?;
        if let Some(name) = kept_name(&mut client).map_err(failed)? {
            settings.rename_shard(index, &name);
        }
    }
    Ok(())
}

fn kept_name(client: &mut Client) -> Result<Option<String>, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    if !exists(client, "forebay.meta")? {
        return Ok(None);
    }
    let row = client.query_typed_opt("SELECT value FROM forebay.meta WHERE key = 'shard'", &[]).map_err(failed)?;
    Ok(row.map(|row| row.get(0)))
}

fn exists(client: &mut Client, table: &str) -> Result<bool, Failure> {
    let row = client.query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&table, Type::TEXT)]);
    row.map(|row| row.get(0)).map_err(|error| sqlstate::failure(&error))
}

/// Settings of the server that a figure depends on.
const SERVER_SETTINGS: [&str; 7] = [
    "fsync",
    "full_page_writes",
    "max_wal_size",
    "shared_buffers",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_level",
];

impl Databases {
    /// Makes sure that forebay's own tables are there, and makes the schema.
    pub fn create(config: &Config, schema: &str) -> Result<Databases, BenchError> {
        let mut databases =
            Databases { config: config.clone(), schema: schema.to_owned(), shards: Vec::new(), groups: Vec::new() };
        for (index, shard) in config.shards.iter().enumerate() {
            let made = databases.add(ShardIx(index as u16), shard);
            if let Err(failure) = made {
                let error = BenchError::of_shard(&shard.name, &failure);
                databases.remove();
                return Err(error);
            }
        }
        Ok(databases)
    }

    fn add(&mut self, index: ShardIx, shard: &Shard) -> Result<(), Failure> {
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        let pool = pool(shard, &self.config.kafka.group_id)?;
        let mut client = pool.get()?;
        nobody_follows(&mut client)?;
        if schema::inspect(&mut client, &Expected::new(&self.config, index))?.is_none() {
            schema::init(&mut client)?;
        }
        let version = client.query_typed_one("SHOW server_version", &[]).map_err(failed)?.get(0);
        let asked = "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY ($1) ORDER BY name";
        let names: Vec<&str> = SERVER_SETTINGS.to_vec();
        let rows = client.query_typed(asked, &[(&names, Type::TEXT_ARRAY)]).map_err(failed)?;
        let settings = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let has_name = kept_name(&mut client)?.is_some();
        left_behind(&mut client, &self.schema, &shard.name);
        client.batch_execute(&format!("CREATE SCHEMA {}", self.schema)).map_err(failed)?;
        drop(client);
        self.shards.push(Known { name: shard.name.clone(), pool, version, settings, has_name, has_schema: true });
        Ok(())
    }

    /// What is known of each shard's server, with how far its clock is ahead.
    pub fn servers(&self, skews: &[Skew]) -> Vec<Server> {
        let server = |(known, skew): (&Known, &Skew)| Server::new(&known.name, &known.version, &known.settings, *skew);
        self.shards.iter().zip(skews).map(server).collect()
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    pub fn table(&self) -> String {
        format!("{}.{TABLE}", self.schema)
    }

    /// An engine of this group will leave traces.
    pub fn note_group(&mut self, group: &str) {
        self.groups.push(group.to_owned());
    }

    /// An empty table, for another round.
    pub fn fresh_table(&self, target: Target) -> Result<(), BenchError> {
        let more = match target {
            Target::Upsert => "PRIMARY KEY (app_id, subscription_id)",
            Target::Insert | Target::Handler => {
                "n bigint NOT NULL, sent_us bigint NOT NULL, written timestamptz NOT NULL DEFAULT clock_timestamp()"
            }
        };
        let table = self.table();
        let sql = format!(
            "DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (app_id uuid, subscription_id uuid, country text, device text, \
             sessions int, updated_at timestamptz, tags jsonb, {more})"
        );
        self.each(|client| client.batch_execute(&sql)).map(drop)
    }

    /// Asks every shard the same.
    pub fn each<T>(&self, ask: impl Fn(&mut Client) -> Result<T, postgres::Error>) -> Result<Vec<T>, BenchError> {
        self.each_with(&vec![(); self.shards.len()], |client, ()| ask(client))
    }

    /// Asks every shard with what belongs to it.
    pub fn each_with<T, W>(
        &self,
        with: &[W],
        ask: impl Fn(&mut Client, &W) -> Result<T, postgres::Error>,
    ) -> Result<Vec<T>, BenchError> {
        let one = |(shard, with): (&Known, &W)| {
            let asked =
                shard.pool.get().and_then(|mut client| ask(&mut client, with).map_err(|e| sqlstate::failure(&e)));
            asked.map_err(|failure| BenchError::of_shard(&shard.name, &failure))
        };
        self.shards.iter().zip(with).map(one).collect()
    }

    /// Returns what could not be removed, and why.
    pub fn remove(&mut self) -> Vec<String> {
        let (schema, groups) = (&self.schema, &self.groups);
        let mut trouble = Vec::new();
        for shard in &mut self.shards {
            let removed = shard.pool.get().and_then(|mut client| {
                if std::mem::take(&mut shard.has_schema) {
                    let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
                    client.batch_execute(&drop).map_err(|e| sqlstate::failure(&e))?;
                }
                forget(&mut client, groups, shard.has_name).map_err(|e| sqlstate::failure(&e))
            });
            if let Err(failure) = removed {
                trouble.push(format!("shard {}: schema {schema} stays behind: {}", shard.name, failure.reason()));
            }
        }
        trouble
    }

    /// What there is now, in words.
    pub fn told(&self) -> String {
        let names: Vec<String> = self.shards.iter().map(|shard| shard.name.clone()).collect();
        format!("schema {} in shard {}", self.schema, listed(&names))
    }
}

/// Says which schemas are of measurements like that of `schema`, whose name ends with what only it has, and were killed. Another one may be
/// running, so nothing is done about them.
pub fn left_behind(client: &mut Client, schema: &str, shard: &str) {
    let prefix = schema.rfind('_').map_or(schema, |end| &schema[..=end]);
    let sql = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE starts_with(nspname::text, $1)";
    for row in client.query_typed(sql, &[(&prefix, Type::TEXT)]).unwrap_or_default() {
        let name: String = row.get(0);
        tracing::warn!(
            "shard {shard}: schema {name} is of another measurement; if none is running: DROP SCHEMA {name} CASCADE"
        );
    }
}

/// A connection that may take longer than an engine's.
fn pool(shard: &Shard, group: &str) -> Result<Pool, Failure> {
    Pool::new(&Shard { statement_timeout: STATEMENT_TIMEOUT, ..shard.clone() }, group, PURPOSE, 1)
}

/// Removes what engines of these groups have left in schema `forebay`. The shard's name, too, where nobody but them has given it one:
/// whoever comes next may call it otherwise.
fn forget(client: &mut Client, groups: &[String], has_name: bool) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    let of_sources = "(SELECT id FROM forebay.source WHERE grp = ANY ($1))";
    // Anchors first, as every takeover locks them.
    for table in ["partition", "fence", "parked", "hold", "dead_letter"] {
        let sql = format!("DELETE FROM forebay.{table} WHERE source IN {of_sources}");
        transaction.execute_typed(&sql, &[(&groups, Type::TEXT_ARRAY)])?;
    }
    transaction.execute_typed("DELETE FROM forebay.source WHERE grp = ANY ($1)", &[(&groups, Type::TEXT_ARRAY)])?;
    let keys: Vec<String> =
        groups.iter().flat_map(|group| ["routing", "map"].map(|what| format!("{what} {group}"))).collect();
    transaction.execute_typed("DELETE FROM forebay.meta WHERE key = ANY ($1)", &[(&keys, Type::TEXT_ARRAY)])?;
    if !has_name {
        let sql = "DELETE FROM forebay.meta WHERE key = 'shard' \
                   AND NOT EXISTS (SELECT FROM forebay.meta WHERE starts_with(key, 'routing '))";
        transaction.execute_typed(sql, &[])?;
    }
    transaction.commit()
}
