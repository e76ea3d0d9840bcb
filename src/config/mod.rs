//! The validated configuration: what the rest of forebay sees. [`raw`] is what the user wrote, [`load`] leads from one to the
//! other and reports every problem at once.

pub mod dsn;
pub mod ingest;
pub mod kafka;
pub mod live;
pub mod load;
pub mod problem;
pub mod raw;
pub mod secret;
pub mod settings;
mod topic;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secret::Secret;

use crate::cpus::CpuSet;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from; for messages.
    pub file: PathBuf,
    pub kafka: Kafka,
    pub engine: Engine,
    pub admin: Admin,
    /// The gateway, where there is one.
    pub ingest: Option<ingest::Ingest>,
    pub shards: Vec<Shard>,
    pub routing: Routing,
    pub tenant_ceilings: TenantCeilings,
    pub topics: Vec<Topic>,
    /// What each setting came to, to be compared with a later reading.
    pub readings: live::Readings,
}

/// A shard's control thread has one connection, and whoever samples what the others wait for has one; while the shard is away it has
/// none, and a probe may have one.
const CONNECTIONS_BESIDES_WRITERS: usize = 2;

/// Whether one shard that is slow can hold up partitions of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alignment {
    /// All records of a partition are in one shard, whatever they hold.
    Built,
    /// So say the shards' `partitions`; records that say otherwise are counted.
    Declared,
    /// Any record may belong to any shard.
    None,
}

impl std::fmt::Display for Alignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Alignment::Built => "aligned: each partition is in one shard",
            Alignment::Declared => {
                "aligned as declared by the shards' `partitions`: records that belong elsewhere are counted and reported"
            }
            Alignment::None => {
                "not aligned: a record of any partition may belong to any shard, so one that is slow or away holds up the \
                 commits of all partitions. Declare each shard's `partitions` where producers keep tenants of a shard together"
            }
        })
    }
}

impl Config {
    /// How many connections to each shard a process needs besides those of its workers and slow lanes.
    pub fn connections_besides_writers(&self) -> usize {
        connections_besides_writers(&self.topics)
    }

    /// What the configuration says about it; that every partition is declared, `check` looks.
    pub fn alignment(&self) -> Alignment {
        match self.routing.by {
            RouteBy::Partition => Alignment::Built,
            _ if self.shards.len() == 1 => Alignment::Built,
            _ if self.shards.iter().any(|shard| shard.partitions.is_some()) => Alignment::Declared,
            _ => Alignment::None,
        }
    }

    /// Reads a configuration file. A topic without a `table` is left to a handler. Warnings are logged.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(file: &std::path::Path) -> Result<Config, problem::Problems> {
        let loaded = load::load(file)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded.config)
    }
}

/// Whoever forwards dead letters has a connection of his own.
fn connections_besides_writers(topics: &[Topic]) -> usize {
    CONNECTIONS_BESIDES_WRITERS + usize::from(topics.iter().any(|topic| topic.forward_to.is_some()))
}

#[derive(Debug, Clone)]
pub struct Kafka {
    pub group_id: String,
    /// For the very first start only.
    pub first_start: FirstStart,
    /// librdkafka's properties as the user wrote them (bootstrap.servers and group.id included); passwords are secrets.
    pub properties: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstStart {
    Earliest,
    Latest,
    /// Refuse to start without any stored position.
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Lanes without records in flight go to the first worker with room.
    Late,
    /// Lane modulo workers.
    Static,
}

#[derive(Debug, Clone)]
pub struct Engine {
    pub workers_per_shard: usize,
    /// Per partition and shard; a power of two.
    pub lanes: u16,
    pub batch_records_max: usize,
    pub batch_bytes_max: usize,
    pub delivery: Delivery,
    pub affinity: Affinity,
    /// Where workers run, in turn; none: not pinned.
    pub cores: Vec<CpuSet>,
    pub poller_core: Option<CpuSet>,
    /// Where librdkafka's threads run.
    pub kafka_cores: Option<CpuSet>,
    /// Where all others run.
    pub other_cores: Option<CpuSet>,
    pub commit_interval: Duration,
    pub manage_schema: bool,
    /// Records of one partition between fetched and committable; then it is paused.
    pub partition_records_max: usize,
    pub partition_bytes_max: usize,
    /// On SIGTERM: how long to drain before leaving what is not durable to the next owner.
    pub drain_deadline: Duration,
    /// On a revocation: likewise, while the whole group waits.
    pub revoke_deadline: Duration,
    /// How long an assignment waits for a shard that does not answer before it counts as silent.
    pub locate_deadline: Duration,
    pub retry_backoff_min: Duration,
    pub retry_backoff_max: Duration,
    /// For each shard: threads, and connections, that apply parked records.
    pub slow_lanes_per_shard: usize,
    /// The longest wait for a lock of a batch whose keys can be parked.
    pub park_after: Duration,
    pub parking: ParkingLimits,
    pub hot_keys: HotKeyRule,
    /// How often what a shard's connections wait for is sampled; none: never.
    pub contention_interval: Option<Duration>,
}

impl Engine {
    /// Connections to each shard that write rows.
    pub fn writers_per_shard(&self) -> usize {
        self.workers_per_shard + self.slow_lanes_per_shard
    }
}

/// What a running process says of itself, and to whom.
#[derive(Debug, Clone, Default)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    /// Somebody wrote the address: without it nothing starts.
    pub listen_written: bool,
    pub socket: Option<PathBuf>,
    /// What requests over `listen` must bring along.
    pub token: Option<Secret>,
    pub lag_exporter_names: bool,
}

/// Where `listen` is unless something is written.
pub const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

#[derive(Debug, Clone)]
pub struct Shard {
    pub name: String,
    /// libpq keyword/value string or URL, passwords included.
    pub dsn: Secret,
    /// Partitions whose records live here, where declared.
    pub partitions: Option<Vec<RangeInclusive<i32>>>,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    pub connections_max: Option<usize>,
    /// Of what the server offers, for all processes of the group together.
    pub connections_share_percent: usize,
    pub pooler: Pooler,
    /// Whose word Kafka's commit waits for; none: the database's own is enough.
    pub commit_gate: Option<CommitGate>,
    pub pace: Pace,
}

/// What a shard's workers are held to; by default to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    pub rows_per_second_max: Option<usize>,
    /// Whether connections at work follow the time that batches take.
    pub adaptive_limit: bool,
    pub replica: Option<Replica>,
}

/// A replica that must not fall behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its `application_name`.
    pub name: String,
    /// Beyond it the shard slows down.
    pub lag_max: Duration,
}

/// Replicas that must hold what Kafka is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitGate {
    /// Their application names.
    pub replicas: Vec<String>,
    /// So many of them.
    pub replicas_min: usize,
}

/// What stands between forebay and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// A connection of ours is one of the server's: it keeps settings and prepared statements.
    None,
    /// Each transaction may run on another of the server's connections: nothing outlives it.
    Transaction,
}

/// Which shard a record belongs to.
#[derive(Debug, Clone)]
pub struct Routing {
    pub by: RouteBy,
    pub tenant: Tenant,
    pub delimiter: String,
}

/// What each tenant is held to, in records per second in its shard; by default to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantCeilings {
    /// Those that are not named.
    pub each: Option<usize>,
    pub of: BTreeMap<String, usize>,
}

#[derive(Debug, Clone)]
pub enum RouteBy {
    /// One shard, or `partitions` in each shard.
    Partition,
    /// xxh3(tenant, seed 0) modulo the number of shards.
    Hash,
    /// The tenant is an integer; modulo the number of shards.
    Modulo,
    /// A file of tenant → shard name.
    Map { file: PathBuf, tenants: BTreeMap<String, usize>, default: Option<usize> },
    /// A program that embeds forebay decides, by code; `generation` names that code and its version.
    Function { generation: String },
}

/// What of a record names its tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenant {
    Key,
    KeyPart(usize),
    Header(String),
    Field(String),
}

#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub target: Target,
    /// Overrides the engine's.
    pub delivery: Delivery,
    pub on_bad_record: OnBadRecord,
    /// In each shard.
    pub rows_per_second_max: Option<usize>,
    /// Tries of a record whose foreign-key parent is missing, before it is at fault.
    pub parent_tries: u32,
    /// The topic that its dead letters go on to.
    pub forward_to: Option<String>,
}

/// What becomes of a record that cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBadRecord {
    /// Its topic stops in front of it.
    Stop,
    /// It goes into `forebay.dead_letter`, or waits at the head of its key; too many of them stop the topic.
    DeadLetter(BadLimit, Then),
}

/// What becomes of a dead letter's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It goes on without the record.
    Skip,
    /// It waits behind the record until a person decides.
    Park,
}

/// How much may be parked, by one process in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingLimits {
    pub records_max: u64,
    pub key_records_max: u64,
}

/// When a key of a `Handler` topic takes too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotKeyRule {
    /// Of one worker's time; 0: never.
    pub percent: u32,
    pub window: Duration,
    /// How long it takes little before it is a key like any other.
    pub hold: Duration,
}

/// Beyond it, as one worker sees a topic, bad records are no exception any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLimit {
    /// In a row.
    pub run_max: usize,
    /// Of the last thousand or two.
    pub percent_max: usize,
}

#[derive(Debug, Clone)]
pub enum Target {
    Table(Table),
    /// Filled in by the library's builder.
    Handler,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertMode {
    Insert,
    Upsert,
    Update,
}

#[derive(Debug, Clone)]
pub struct Table {
    /// `table` or `schema.table`; parts are quoted when used.
    pub schema: Option<String>,
    pub name: String,
    pub insert_mode: InsertMode,
    pub pk_fields: Vec<String>,
    pub delete_enabled: bool,
    /// A field whose value `true` makes a record a delete.
    pub delete_field: Option<String>,
    /// How the pk fields are read from a tombstone's key: `{a}:{b}`; none: the key is JSON.
    pub key_format: Option<String>,
    /// Apply only if this column's new value is greater.
    pub guard: Option<String>,
    pub skip_unchanged: bool,
    pub unknown_fields: UnknownFields,
    /// Column → where its value comes from, for those that are not simply the field of the same name.
    pub columns: BTreeMap<String, ColumnSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    Ignore,
    /// The record is at fault.
    Error,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnSource {
    /// RFC 6901 pointer, split and unescaped.
    Pointer(Vec<String>),
    Offset,
    Partition,
    Timestamp,
    Key,
    Header(String),
    /// Never written.
    Ignore,
}
