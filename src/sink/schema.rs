//! forebay's own tables in each shard's database, their versions, and how they are created and upgraded. Knows nothing of
//! what the tables mean (that is `fence`), and never drops or rewrites what holds data.
//!
//! The version is `major.minor`. A minor step adds what older processes do not look at, so versions may mix while a rolling
//! upgrade runs. A major step changes what they rely on: a process that meets a newer major version refuses to work.

use postgres::types::Type;
use postgres::{Client, SimpleQueryMessage, Transaction};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, RouteBy, Tenant};
use crate::sink::connect::{Connector, Opened};
use crate::sink::{Failure, Reason, sqlstate};
use crate::state::tenants::{self, TenantMap};
use crate::types::ShardIx;

/// Serialises creation and upgrade among processes: the lock's number is "forebay" in ASCII.
const LOCK: i64 = 0x66_6f_72_65_62_61_79;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Each step leads to its version from the one before; all of them may run again without harm.
const MIGRATIONS: &[(Version, &str)] = &[(FIRST, V1_0), (LETTERS, V1_1), (PARKING, V1_2), (FORWARDING, V1_3)];

const FIRST: Version = Version { major: 1, minor: 0 };

/// Since when there are dead letters.
pub const LETTERS: Version = Version { major: 1, minor: 1 };

/// Since when records may be parked.
pub const PARKING: Version = Version { major: 1, minor: 2 };

/// Since when it is noted which letters went on to a topic of their own.
pub const FORWARDING: Version = Version { major: 1, minor: 3 };

/// The tables of schema `forebay`, those of later versions included: what no topic may write to.
pub const TABLES: &[&str] = &["meta", "source", "partition", "fence", "parked", "hold", "dead_letter"];

/// What this program works with: the last step's version.
pub const CURRENT: Version = MIGRATIONS[MIGRATIONS.len() - 1].0;

const V1_0: &str = r#"
-- Facts about this database: 'schema' (version), 'shard' (its name in the configuration), 'routing <group>'
-- (how that group spreads its records over the shards), 'map <group>' (every tenant that its maps ever held).
CREATE TABLE IF NOT EXISTS forebay.meta (
  key text PRIMARY KEY,
  value text NOT NULL
);
-- A consumer group's topic, in one incarnation: a recreated topic or another cluster has other ids.
CREATE TABLE IF NOT EXISTS forebay.source (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  grp text NOT NULL,
  topic text NOT NULL,
  cluster_id text NOT NULL,
  topic_id text,
  UNIQUE (grp, topic)
);
-- The anchor: one row per source and partition. Every takeover locks it first.
CREATE TABLE IF NOT EXISTS forebay.partition (
  source int NOT NULL,
  partition int NOT NULL,
  lanes smallint NOT NULL,
  token bigint NOT NULL,         -- 64 random bits, new at every takeover: who may move the fences
  origin bigint NOT NULL,        -- where this shard began with the partition; never changes
  done bigint NOT NULL,          -- every record of this shard below it is durable here; only rises
  taken_by text NOT NULL,
  taken_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source, partition)
) WITH (fillfactor = 50);
-- The fences: one row per lane. No index holds next_offset or token, so that updates stay within their page (HOT).
CREATE TABLE IF NOT EXISTS forebay.fence (
  source int NOT NULL,
  partition int NOT NULL,
  lane smallint NOT NULL,
  next_offset bigint NOT NULL,   -- every record of this lane below it is durable here
  token bigint NOT NULL,
  PRIMARY KEY (source, partition, lane)
) WITH (fillfactor = 50);
"#;

const V1_1: &str = r#"
-- Records that could not be applied, whole: put here by the transaction that moved their fences.
CREATE TABLE IF NOT EXISTS forebay.dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source int NOT NULL,
  grp text NOT NULL,
  topic text NOT NULL,
  partition int NOT NULL,
  "offset" bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  ts timestamptz,                -- the record's own time
  sqlstate text,                 -- none where PostgreSQL never saw it
  error text NOT NULL,
  resolution text,               -- what a person decided; none so far
  key bytea,
  payload bytea,
  headers bytea,                 -- packed; `forebay dead-letters show` unpacks them
  UNIQUE (source, partition, "offset")
);
"#;

const V1_2: &str = r#"
-- Records that wait for their turn, each key's in order: put here by the transactions that moved their fences, applied and
-- taken out by the slow lanes. While a key has a row here, all its later records follow it.
CREATE TABLE IF NOT EXISTS forebay.parked (
  source int NOT NULL,
  partition int NOT NULL,
  key_hash bigint NOT NULL,      -- xxh3 of the key; of a record without one its offset
  "offset" bigint NOT NULL,
  parked_at timestamptz NOT NULL DEFAULT now(),
  ts timestamptz,                -- the record's own time
  state "char" NOT NULL DEFAULT 'w' CHECK (state IN ('w', 'd')),  -- waiting; a dead letter at its key's head, which waits for a person
  reason "char" NOT NULL,        -- b: a lock of somebody else's; r: the record; o: a person said so; h: a hot key; p: its tenant's ceiling; u: it names no shard
  sqlstate text,
  error text,
  attempts int NOT NULL DEFAULT 0,
  tenant bytea,
  key bytea,
  payload bytea,
  headers bytea,                 -- packed
  PRIMARY KEY (source, partition, key_hash, "offset")
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
CREATE INDEX IF NOT EXISTS parked_dead ON forebay.parked (source) WHERE state = 'd';
-- What a person keeps back: scope k: a key, t: a tenant.
CREATE TABLE IF NOT EXISTS forebay.hold (
  source int NOT NULL,
  scope "char" NOT NULL,
  value bytea NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source, scope, value)
);
"#;

/// The tables without which nobody may go on, and since when they are there.
const NEEDED: &[(&str, Version)] = &[
    ("forebay.source", FIRST),
    ("forebay.partition", FIRST),
    ("forebay.fence", FIRST),
    ("forebay.dead_letter", LETTERS),
    ("forebay.parked", PARKING),
    ("forebay.hold", PARKING),
];

const V1_3: &str = r#"
-- Dead letters go on to a topic of their own where `forward_to` says so; the table is their outbox.
ALTER TABLE forebay.dead_letter
  ADD COLUMN IF NOT EXISTS forwarded_at timestamptz,   -- the brokers acknowledged it; not yet where null
  ADD COLUMN IF NOT EXISTS forward_error text;         -- why the topic will never take it; null to try (again)
CREATE INDEX IF NOT EXISTS dead_letter_to_forward ON forebay.dead_letter (grp, topic, id)
  WHERE forwarded_at IS NULL AND forward_error IS NULL AND resolution IS NULL;
"#;

/// The fences' tables, in another schema: for who measures what moving them costs.
pub fn fences_in(schema: &str) -> String {
    V1_0.replace("forebay.", &format!("{schema}."))
}

/// Notes the version; a newer one stays.
fn store_version() -> String {
    format!(
        "INSERT INTO forebay.meta AS m VALUES ('schema', '{CURRENT}') ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value \
         WHERE string_to_array(m.value, '.')::int[] < string_to_array(EXCLUDED.value, '.')::int[]"
    )
}

/// The statements for someone who creates the tables by hand.
pub fn print() -> String {
    let mut sql = String::from(
        "-- forebay's own tables. Run this in each shard's database, as the role that shall own them.\n\
         -- Another role for forebay needs: GRANT USAGE ON SCHEMA forebay TO …;\n\
         -- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA forebay TO …;\n\
         BEGIN;\n",
    );
    sql.push_str(&format!("SELECT pg_advisory_xact_lock({LOCK});\n"));
    sql.push_str("CREATE SCHEMA IF NOT EXISTS forebay;\n");
    for (version, step) in MIGRATIONS {
        sql.push_str(&format!("\n-- version {version}{step}"));
    }
    sql.push_str(&format!(
        "{};
COMMIT;
",
        store_version()
    ));
    sql
}

/// Creates or upgrades the tables; safe to call by several processes at once. Returns the version found before and does
/// nothing to a database whose schema is newer.
pub fn init(client: &mut Client) -> Result<Option<Version>, Failure> {
    let mut transaction = client.transaction().map_err(|e| sqlstate::failure(&e))?;
    let found = init_in(&mut transaction)?;
    transaction.commit().map_err(|e| sqlstate::failure(&e))?;
    Ok(found)
}

fn init_in(transaction: &mut Transaction<'_>) -> Result<Option<Version>, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    // IF NOT EXISTS alone is not safe: two that create at once collide in the catalog's unique indexes.
    transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).map_err(failed)?;
    let exists = transaction.simple_query("SELECT 1 FROM pg_namespace WHERE nspname = 'forebay'").map_err(failed)?;
    // Asked first, because CREATE SCHEMA IF NOT EXISTS wants the privilege even where it has nothing to do.
    if !exists.iter().any(|m| matches!(m, SimpleQueryMessage::Row(_))) {
        transaction.batch_execute("CREATE SCHEMA forebay").map_err(failed)?;
    }
    let has_meta = transaction.simple_query("SELECT to_regclass('forebay.meta')").map_err(failed)?;
    let found = match has_meta.iter().any(|m| matches!(m, SimpleQueryMessage::Row(r) if r.get(0).is_some())) {
        true => Meta::read(&transaction.simple_query(&Meta::sql()).map_err(failed)?)?.version,
        false => None,
    };
    for (version, step) in MIGRATIONS {
        if found.is_none_or(|found| found < *version) {
            transaction.batch_execute(step).map_err(failed)?;
        }
    }
    if found.is_none_or(|found| found < CURRENT) {
        transaction.batch_execute(&store_version()).map_err(failed)?;
    }
    Ok(found)
}

/// What `forebay.meta` says.
#[derive(Debug, Default)]
struct Meta {
    version: Option<Version>,
    rows: Vec<(String, String)>,
}

impl Meta {
    /// Facts, and which of the tables are lacking although a version is noted.
    fn sql() -> String {
        let needed: Vec<&str> = NEEDED.iter().map(|(table, _)| *table).collect();
        format!(
            "SELECT key, value FROM forebay.meta WHERE NOT starts_with(key, 'map ') UNION ALL SELECT 'lacks', t FROM UNNEST('{{{}}}'::text[]) t \
             WHERE to_regclass(t) IS NULL",
            needed.join(",")
        )
    }

    fn read(answer: &[SimpleQueryMessage]) -> Result<Meta, Failure> {
        let mut meta = Meta::default();
        for message in answer {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let (key, value) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            if key == "schema" {
                let parsed = value.split_once('.').and_then(|(major, minor)| {
                    Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
                });
                let text =
                    || format!("forebay.meta holds the schema version {value:?}; expected one like \"{CURRENT}\"");
                meta.version = Some(parsed.ok_or_else(|| Failure::Shard(Reason::new(text())))?);
            }
            meta.rows.push((key.to_owned(), value.to_owned()));
        }
        Ok(meta)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.rows.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// What follows where processes of a group spread its records differently.
const DISAGREES: &str = "a row could end up in two databases";

/// Whether a shard refuses this process because of how it spreads records: then no other shard may take any of it either.
pub fn is_disagreement(reason: &Reason) -> bool {
    reason.text.contains(DISAGREES)
}

/// What a connection makes sure of before anything else is sent over it.
#[derive(Debug, Clone)]
pub struct Expected {
    pub shard: String,
    pub group: String,
    pub routing: String,
    /// Where a map decides: may say more than what the database remembers, and nothing else.
    pub map: Option<TenantMap>,
    /// Create or upgrade the tables where needed; otherwise a person does, with `forebay init`.
    pub manage: bool,
}

impl Expected {
    pub fn new(config: &Config, shard: ShardIx) -> Expected {
        Expected {
            shard: config.shards[usize::from(shard.0)].name.clone(),
            group: config.kafka.group_id.clone(),
            routing: routing(config),
            map: TenantMap::of(config),
            manage: config.engine.manage_schema,
        }
    }

    fn map_key(&self) -> String {
        format!("map {}", self.group)
    }

    fn refused(&self, contradiction: &tenants::Contradiction) -> Failure {
        let forget = format!("`DELETE FROM forebay.meta WHERE key = '{}'` in every shard", self.map_key());
        Failure::Shard(Reason::new(format!(
            "as this database remembers, {contradiction} by this process's map: {DISAGREES}. {}",
            tenants::procedure(&forget)
        )))
    }

    /// What a database keeps from whoever connects first, and everyone after must agree with.
    fn facts(&self) -> [Fact<'_>; 2] {
        let shard = |found: &str| {
            format!(
                "this database is the shard {found:?}, but the configuration calls it {:?}: two shards are swapped or one \
                 of them was renamed. If it was renamed: UPDATE forebay.meta SET value = '…' WHERE key = 'shard'",
                self.shard
            )
        };
        let routing = |found: &str| {
            format!(
                "records of this group were spread over the shards by `{found}`, and this process would spread them by \
                 `{}`: {DISAGREES}. If the rows have been moved: stop and drain the whole group, \
                 then DELETE FROM forebay.meta WHERE key = 'routing {}' in every shard",
                self.routing, self.group
            )
        };
        [
            Fact { key: "shard".to_owned(), value: &self.shard, other: Box::new(shard) },
            Fact { key: format!("routing {}", self.group), value: &self.routing, other: Box::new(routing) },
        ]
    }
}

/// A row of `forebay.meta`.
struct Fact<'a> {
    key: String,
    value: &'a str,
    /// What to say about another value.
    other: Box<dyn Fn(&str) -> String + 'a>,
}

impl Fact<'_> {
    fn compare(&self, found: Option<&str>) -> Result<(), Failure> {
        match found {
            Some(found) if found != self.value => Err(Failure::Shard(Reason::new((self.other)(found)))),
            _ => Ok(()),
        }
    }
}

/// The routing function in words: two processes of a group that disagree about it would write one row to two databases.
/// What may change while records flow (a map's tenants, partitions declared for a shard) is left out.
pub fn routing(config: &Config) -> String {
    let tenant = match &config.routing.tenant {
        Tenant::Key => "key".to_owned(),
        Tenant::KeyPart(part) => format!("key:{part} split at \"{}\"", config.routing.delimiter),
        Tenant::Header(name) => format!("header:{name}"),
        Tenant::Field(name) => format!("field:{name}"),
    };
    let shards = || config.shards.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(",");
    match &config.routing.by {
        RouteBy::Partition => "partition".to_owned(),
        RouteBy::Hash => format!("hash of {tenant} over {}", shards()),
        RouteBy::Modulo => format!("modulo of {tenant} over {}", shards()),
        RouteBy::Map { .. } => format!("map of {tenant}"),
        RouteBy::Function { generation } => format!("function {generation} over {}", shards()),
    }
}

/// Checks, and where allowed creates, forebay's tables; checks that this database is the shard it is taken for.
///
/// # Errors
/// [`Failure::Shard`] with a way on; [`Failure::Outage`] where the server cannot be asked.
pub fn verify(client: &mut Client, expected: &Expected) -> Result<(), Failure> {
    let mut meta = read_meta(client)?;
    if meta.version.is_none_or(|found| found < CURRENT) {
        if !expected.manage {
            let found =
                meta.version.map_or("no tables of forebay".to_owned(), |v| format!("version {v} of its tables"));
            let text = format!("this database has {found}; expected {CURRENT}: run `forebay init`");
            return Err(Failure::Shard(Reason::new(text)));
        }
        init(client).map_err(as_connecting)?;
        meta = read_meta(client)?;
    }
    refuse(&meta)?;
    expected.facts().iter().try_for_each(|fact| claim(client, &meta, fact))?;
    claim_map(client, expected)
}

/// Joins this process's map to what the database remembers of the group's maps, or refuses it.
///
/// # Errors
/// [`Failure::Shard`] where a tenant would go elsewhere than some process sends it, or sent it.
pub fn claim_map(client: &mut Client, expected: &Expected) -> Result<(), Failure> {
    let Some(map) = &expected.map else { return Ok(()) };
    let failed = |error: postgres::Error| sqlstate::connect_failure(&error);
    let (key, own) = (expected.map_key(), Remembered::of(map));
    // Every new connection asks; the whole map is looked at only where it differs.
    let digest = client
        .query_typed_opt("SELECT left(value, 16) FROM forebay.meta WHERE key = $1", &[(&key, Type::TEXT)])
        .map_err(failed)?;
    if digest.is_some_and(|row| row.get::<_, String>(0) == own.digest()) {
        return Ok(());
    }
    let mut transaction = client.transaction().map_err(failed)?;
    let insert = "INSERT INTO forebay.meta VALUES ($1, $2) ON CONFLICT DO NOTHING";
    transaction.execute_typed(insert, &[(&key, Type::TEXT), (&own.0, Type::TEXT)]).map_err(failed)?;
    // Its lock keeps two that join at once from forgetting each other's tenants.
    let locked = "SELECT value FROM forebay.meta WHERE key = $1 FOR UPDATE";
    let row = transaction.query_typed_one(locked, &[(&key, Type::TEXT)]);
    let known = Remembered(row.map_err(failed)?.get(0));
    let both = known.read(&key)?.join(map).map_err(|contradiction| expected.refused(&contradiction))?;
    let both = Remembered::of(&both);
    if both.0 != known.0 {
        transaction
            .execute_typed(
                "UPDATE forebay.meta SET value = $2 WHERE key = $1",
                &[(&key, Type::TEXT), (&both.0, Type::TEXT)],
            )
            .map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// What the database remembers of the group's maps, without changing it; none where no map decides or nothing is known yet.
///
/// # Errors
/// As [`claim_map`].
pub fn remembered_map(client: &mut Client, expected: &Expected) -> Result<Option<TenantMap>, Failure> {
    let Some(map) = &expected.map else { return Ok(None) };
    let key = expected.map_key();
    let row = match client.query_typed_opt("SELECT value FROM forebay.meta WHERE key = $1", &[(&key, Type::TEXT)]) {
        Ok(row) => row,
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(sqlstate::connect_failure(&error)),
    };
    let Some(row) = row else { return Ok(None) };
    let known = Remembered(row.get(0)).read(&key)?;
    known.join(map).map_err(|contradiction| expected.refused(&contradiction))?;
    Ok(Some(known))
}

/// A map as `forebay.meta` holds it: a digest, which spares reading the rest, a line end, and JSON.
struct Remembered(String);

impl Remembered {
    fn of(map: &TenantMap) -> Remembered {
        let json = serde_json::to_string(map).expect("text to text is JSON");
        Remembered(format!("{:016x}\n{json}", xxh3_64(json.as_bytes())))
    }

    fn digest(&self) -> &str {
        &self.0[..16]
    }

    fn read(&self, key: &str) -> Result<TenantMap, Failure> {
        let json = self.0.split_once('\n').map_or("", |(_, json)| json);
        serde_json::from_str(json).map_err(|error| {
            let text = format!("forebay.meta holds no map under {key:?}, but something else: {error}");
            Failure::Shard(Reason::new(text))
        })
    }
}

/// What cannot be worked with, whoever asks.
fn refuse(meta: &Meta) -> Result<(), Failure> {
    if let Some(found) = meta.version.filter(|found| found.major > CURRENT.major) {
        let text =
            format!("forebay's tables here have version {found}, made by a newer forebay; this one knows {CURRENT}");
        return Err(Failure::Shard(Reason::new(text)));
    }
    let older = |since: Version| meta.version.is_none_or(|found| found < since);
    let since = |table: &str| NEEDED.iter().find(|(name, _)| *name == table).map_or(FIRST, |(_, since)| *since);
    let mut lacking = meta.rows.iter().filter(|(key, _)| key == "lacks").map(|(_, table)| table.as_str());
    if let Some(table) = lacking.find(|table| since(table) == FIRST || !older(since(table))) {
        let text =
            format!("the table {table} is gone; somebody dropped it, and with it what says which records are applied");
        return Err(Failure::Shard(Reason::new(text)));
    }
    Ok(())
}

/// What is there, without changing it: the version, if there are tables at all.
///
/// # Errors
/// [`Failure::Shard`] where [`verify`] would refuse.
pub fn inspect(client: &mut Client, expected: &Expected) -> Result<Option<Version>, Failure> {
    let meta = read_meta(client)?;
    refuse(&meta)?;
    for fact in expected.facts() {
        fact.compare(meta.get(&fact.key))?;
    }
    Ok(meta.version)
}

/// Opens a checked connection.
pub fn connect(connector: &mut Connector, expected: &Expected) -> Result<Opened, Failure> {
    let mut opened = connector.connect()?;
    match verify(&mut opened.client, expected) {
        Ok(()) => Ok(opened),
        Err(failure) => {
            opened.discard();
            Err(failure)
        }
    }
}

/// No such table, no such schema.
fn is_missing(error: &postgres::Error) -> bool {
    error.code().is_some_and(|c| ["42P01", "3F000"].contains(&c.code()))
}

fn read_meta(client: &mut Client) -> Result<Meta, Failure> {
    match client.simple_query(&Meta::sql()) {
        Ok(answer) => Meta::read(&answer),
        Err(error) if is_missing(&error) => Ok(Meta::default()),
        Err(error) => Err(sqlstate::connect_failure(&error)),
    }
}

/// While connecting nothing but the shard can be at fault, and a passing failure is an outage like any other.
fn as_connecting(failure: Failure) -> Failure {
    match failure {
        Failure::Outage(r) | Failure::Transient(r) | Failure::LockWait(r) | Failure::LockedOut(r) => Failure::Outage(r),
        Failure::NoRoom(r) => Failure::Outage(r),
        Failure::TooLong(r) => Failure::Outage(r),
        Failure::Record(_, r) | Failure::Topic(r) | Failure::Shard(r) => Failure::Shard(r),
    }
}

/// Stores a fact where nobody did, and refuses another one.
fn claim(client: &mut Client, meta: &Meta, fact: &Fact<'_>) -> Result<(), Failure> {
    if meta.get(&fact.key) == Some(fact.value) {
        return Ok(());
    }
    // Whoever else stores it at this moment wins or loses as a whole; the answer is what is stored then.
    let insert = "INSERT INTO forebay.meta VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let failed = |error: postgres::Error| sqlstate::connect_failure(&error);
    if meta.get(&fact.key).is_none() {
        client.execute_typed(insert, &[(&fact.key, Type::TEXT), (&fact.value, Type::TEXT)]).map_err(failed)?;
    }
    let select = "SELECT value FROM forebay.meta WHERE key = $1";
    let found = client.query_typed_opt(select, &[(&fact.key, Type::TEXT)]).map_err(failed)?;
    fact.compare(found.map(|row| row.get::<_, String>(0)).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise() {
        assert!(MIGRATIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(CURRENT.to_string(), "1.3");
    }

    #[test]
    fn what_is_printed_is_one_transaction_with_every_table() {
        let sql = print();
        for expected in
            ["BEGIN;", "CREATE SCHEMA", "forebay.meta", "forebay.source", "forebay.partition", "forebay.fence"]
        {
            assert!(sql.contains(expected), "{expected} is missing");
        }
        assert!(sql.trim_end().ends_with("COMMIT;"));
    }
}
