//! Every setting's definition, once: its name, type, unit, default, range and prose. Reading a configuration, refusing unknown
//! keys and the table in tuning.md all come from here.

mod cpus;
pub mod ingest;
mod kind;
mod table;

pub use cpus::{CPUS_EXPECTED, Cpus, CpusInTurn, cpus_in_turn};
pub use kind::{Choice, Described, Flag, Kind, Millis, Number, Optional, Reloads, Setting, Text, TextList};
pub use table::settings_table;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{Affinity, Delivery, FirstStart, InsertMode, Pooler, Tenant, Then, UnknownFields};

/// How `[shards] by` is written; the validated form is [`super::RouteBy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Partition,
    Hash,
    Modulo,
    Map,
}

/// `[topic.on_bad_record] policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPolicy {
    Stop,
    DeadLetter,
}

/// The order is that of the table in tuning.md. A setting that is missing here is refused as unknown.
pub static ALL: &[&dyn Described] = &[
    &BOOTSTRAP_SERVERS,
    &GROUP_ID,
    &AUTO_OFFSET_RESET,
    &WORKERS_PER_SHARD,
    &LANES,
    &BATCH_RECORDS_MAX,
    &BATCH_BYTES_MAX,
    &DELIVERY,
    &AFFINITY,
    &CORES,
    &POLLER_CORE,
    &KAFKA_CORES,
    &OTHER_CORES,
    &COMMIT_INTERVAL,
    &MANAGE_SCHEMA,
    &PARTITION_RECORDS_MAX,
    &PARTITION_BYTES_MAX,
    &DRAIN_DEADLINE,
    &REVOKE_DEADLINE,
    &LOCATE_DEADLINE,
    &RETRY_BACKOFF_MIN,
    &RETRY_BACKOFF_MAX,
    &SLOW_LANES_PER_SHARD,
    &PARK_AFTER,
    &PARKED_RECORDS_MAX,
    &PARKED_KEY_RECORDS_MAX,
    &HOT_KEY_PERCENT,
    &HOT_KEY_WINDOW,
    &HOT_KEY_HOLD,
    &CONTENTION_INTERVAL,
    &SHARDS_BY,
    &SHARDS_TENANT,
    &SHARDS_DELIMITER,
    &SHARDS_MAP_FILE,
    &SHARDS_DEFAULT,
    &SHARDS_TENANT_ROWS_PER_SECOND_MAX,
    &SHARD_NAME,
    &SHARD_DSN,
    &SHARD_DSN_FILE,
    &SHARD_DSN_ENV,
    &SHARD_PARTITIONS,
    &SHARD_CONNECT_TIMEOUT,
    &SHARD_STATEMENT_TIMEOUT,
    &SHARD_LOCK_TIMEOUT,
    &SHARD_CONNECTIONS_MAX,
    &SHARD_ROWS_PER_SECOND_MAX,
    &SHARD_ADAPTIVE_LIMIT,
    &SHARD_REPLICA,
    &SHARD_REPLICA_LAG_MAX,
    &SHARD_POOLER,
    &SHARD_COMMIT_REPLICAS,
    &SHARD_COMMIT_REPLICAS_MIN,
    &SHARD_CONNECTIONS_SHARE,
    &TOPIC_NAME,
    &TOPIC_TABLE,
    &TOPIC_HANDLER,
    &TOPIC_INSERT_MODE,
    &TOPIC_PK_FIELDS,
    &TOPIC_DELETE_ENABLED,
    &TOPIC_DELETE_FIELD,
    &TOPIC_KEY_FORMAT,
    &TOPIC_DELIVERY,
    &TOPIC_ROWS_PER_SECOND_MAX,
    &TOPIC_GUARD,
    &TOPIC_SKIP_UNCHANGED,
    &TOPIC_UNKNOWN_FIELDS,
    &ON_BAD_RECORD_POLICY,
    &ON_BAD_RECORD_THEN,
    &ON_BAD_RECORD_RUN_MAX,
    &ON_BAD_RECORD_PERCENT_MAX,
    &ON_BAD_RECORD_PARENT_TRIES,
    &ON_BAD_RECORD_FORWARD_TO,
    &ADMIN_LISTEN,
    &ADMIN_SOCKET,
    &ADMIN_TOKEN_FILE,
    &ADMIN_LAG_EXPORTER_NAMES,
    &ingest::LISTEN,
    &ingest::TOKEN_FILE,
    &ingest::ADMIN_LISTEN,
    &ingest::THREADS,
    &ingest::CORES,
    &ingest::KAFKA_CORES,
    &ingest::OTHER_CORES,
    &ingest::CONNECTIONS_MAX,
    &ingest::IDLE_TIMEOUT,
    &ingest::BODY_BYTES_MAX,
    &ingest::QUEUE_RECORDS_MAX,
    &ingest::QUEUE_BYTES_MAX,
    &ingest::DEADLINE,
    &ingest::DRAIN_DEADLINE,
    &ingest::POOL_SIZE,
    &ingest::POOL_WAIT,
    &ingest::HEADERS,
    &ingest::CATALOG_FILE,
    &ingest::CATALOG_INTERVAL,
    &ingest::ROUTE_PATH,
    &ingest::ROUTE_METHODS,
    &ingest::ROUTE_TOPIC,
    &ingest::ROUTE_KEY,
    &ingest::ROUTE_MODE,
    &ingest::ROUTE_UNKNOWN_FIELDS,
];

const MIB: usize = 1024 * 1024;
/// Beyond it a ceiling cannot be told from none.
pub const ROWS_PER_SECOND_MAX: usize = 100_000_000;
const DELIVERIES: &[(&str, Delivery)] =
    &[("exactly_once", Delivery::ExactlyOnce), ("at_least_once", Delivery::AtLeastOnce)];

const fn number(unit: &'static str, default: usize, range: RangeInclusive<usize>) -> Number {
    Number { unit, default, range }
}

const fn millis(default: usize, range: RangeInclusive<usize>) -> Millis {
    Millis(number("ms", default, range))
}

const fn ceiling(unit: &'static str) -> Reloads<Optional<Number>> {
    Reloads(Optional(number(unit, 0, 1..=ROWS_PER_SECOND_MAX), "no ceiling"))
}

const fn text(expected: &'static str) -> Text<String> {
    Text { expected, required: false, parse: not_empty, absent: "none" }
}

// ---------------------------------------------------------------------------------------------------------------- kafka

pub static BOOTSTRAP_SERVERS: Setting<Text<String>> = Setting {
    section: "kafka",
    name: "bootstrap.servers",
    kind: Text { required: true, ..text("host:port of one or more brokers, separated by commas") },
    prose: "The brokers to begin with. Every other property of librdkafka may stand beside it and is handed through, except those that forebay owns.",
};
pub static GROUP_ID: Setting<Text<String>> = Setting {
    section: "kafka",
    name: "group.id",
    kind: Text { required: true, ..text("the name of a consumer group") },
    prose: "The consumer group. Processes with the same one share the partitions; stored progress belongs to it.",
};
pub static AUTO_OFFSET_RESET: Setting<Choice<FirstStart>> = Setting {
    section: "kafka",
    name: "auto.offset.reset",
    kind: Choice {
        default: FirstStart::Earliest,
        words: &[("earliest", FirstStart::Earliest), ("latest", FirstStart::Latest), ("error", FirstStart::Error)],
    },
    prose: "Where the very first start begins, when neither a database nor Kafka knows a position. Later starts never use it.",
};

// --------------------------------------------------------------------------------------------------------------- engine

pub static WORKERS_PER_SHARD: Setting<Number> = Setting {
    section: "engine",
    name: "workers_per_shard",
    kind: number("threads", 4, 1..=256),
    prose: "Threads that write to each shard; each has one connection.",
};
/// More of them are more fences than a takeover should have to lock.
pub const LANES_MAX: usize = 1024;
pub static LANES: Setting<Optional<Number>> = Setting {
    section: "engine",
    name: "lanes",
    kind: Optional(number("lanes", 16, 1..=LANES_MAX), "16, or the next power of two that the workers need"),
    prose: "Ordered sub-streams of a partition in each shard; a power of two. More lanes than workers let work move between workers. A change takes effect once a partition is drained.",
};
pub static BATCH_RECORDS_MAX: Setting<Number> = Setting {
    section: "engine",
    name: "batch_records_max",
    kind: number("records", 500, 1..=100_000),
    prose: "Most records in one transaction. Batches are as large as the backlog, up to this.",
};
pub static BATCH_BYTES_MAX: Setting<Number> = Setting {
    section: "engine",
    name: "batch_bytes_max",
    kind: number("bytes", MIB, 4096..=256 * MIB),
    prose: "Most bytes of keys and values in one transaction. A single larger record is a batch of its own.",
};
pub static DELIVERY: Setting<Choice<Delivery>> = Setting {
    section: "engine",
    name: "delivery",
    kind: Choice { default: Delivery::ExactlyOnce, words: DELIVERIES },
    prose: "`exactly_once` moves the fences in each transaction; `at_least_once` leaves them out, for tables where a replay is harmless.",
};
pub static AFFINITY: Setting<Choice<Affinity>> = Setting {
    section: "engine",
    name: "affinity",
    kind: Choice { default: Affinity::Late, words: &[("late", Affinity::Late), ("static", Affinity::Static)] },
    prose: "`late` packs idle lanes onto as few workers as the load needs; `static` binds lane modulo workers.",
};
pub static CORES: Setting<CpusInTurn> = Setting {
    section: "engine",
    name: "cores",
    kind: CpusInTurn,
    prose: "CPUs that workers are pinned to, one each, in turn. Of a list (`[\"0-7\", \"8-15\"]`) each worker may use all of one entry. See [Pinning](#pinning).",
};
pub static POLLER_CORE: Setting<Cpus> = Setting {
    section: "engine",
    name: "poller_core",
    kind: Cpus,
    prose: "CPU that the poller is pinned to, or several that it may use.",
};
pub static KAFKA_CORES: Setting<Cpus> = Setting {
    section: "engine",
    name: "kafka_cores",
    kind: Cpus,
    prose: "CPUs that librdkafka's threads may use: one for each broker, and one for each client.",
};
pub static OTHER_CORES: Setting<Cpus> = Setting {
    section: "engine",
    name: "other_cores",
    kind: Cpus,
    prose: "CPUs that all other threads may use: control threads, slow lanes, samplers, the admin interface, the log.",
};
pub static COMMIT_INTERVAL: Setting<Millis> = Setting {
    section: "engine",
    name: "commit_interval_ms",
    kind: millis(1000, 10..=600_000),
    prose: "How often progress is stored in each shard and committed to Kafka. It bounds what a restart reads again, not what it writes again.",
};
pub static MANAGE_SCHEMA: Setting<Flag> = Setting {
    section: "engine",
    name: "manage_schema",
    kind: Flag { default: true },
    prose: "Whether `run` creates and upgrades the schema `forebay` in each shard; otherwise `forebay init` does.",
};
pub static PARTITION_RECORDS_MAX: Setting<Optional<Number>> = Setting {
    section: "engine",
    name: "partition_records_max",
    kind: Optional(number("records", 20_000, 1..=10_000_000), "20000, or eight batches if that is more"),
    prose: "Most records of one partition between fetched and durable; beyond, nothing more of it is taken from Kafka.",
};
pub static PARTITION_BYTES_MAX: Setting<Optional<Number>> = Setting {
    section: "engine",
    name: "partition_bytes_max",
    kind: Optional(number("bytes", 8 * MIB, 65_536..=1024 * MIB), "8388608, or eight batches if that is more"),
    prose: "Most bytes of one partition between fetched and durable; beyond, nothing more of it is taken from Kafka.",
};
pub static DRAIN_DEADLINE: Setting<Millis> = Setting {
    section: "engine",
    name: "drain_deadline_ms",
    kind: millis(30_000, 0..=3_600_000),
    prose: "On SIGTERM and SIGINT: how long to finish what was fetched. The rest is left to the next owner.",
};
pub static REVOKE_DEADLINE: Setting<Millis> = Setting {
    section: "engine",
    name: "revoke_deadline_ms",
    kind: millis(10_000, 0..=600_000),
    prose: "On a revocation: likewise, while the whole group waits.",
};
pub static LOCATE_DEADLINE: Setting<Millis> = Setting {
    section: "engine",
    name: "locate_deadline_ms",
    kind: millis(2000, 1..=600_000),
    prose: "How long an assignment waits for a shard's stored progress before that shard counts as silent.",
};
pub static RETRY_BACKOFF_MIN: Setting<Millis> = Setting {
    section: "engine",
    name: "retry_backoff_min_ms",
    kind: millis(50, 1..=60_000),
    prose: "First wait before a batch is tried again or a connection made again; it doubles, with jitter.",
};
pub static RETRY_BACKOFF_MAX: Setting<Millis> = Setting {
    section: "engine",
    name: "retry_backoff_max_ms",
    kind: millis(10_000, 1..=600_000),
    prose: "Longest such wait.",
};
pub static SLOW_LANES_PER_SHARD: Setting<Number> = Setting {
    section: "engine",
    name: "slow_lanes_per_shard",
    kind: number("threads", 1, 1..=64),
    prose: "Threads that apply parked records in each shard; each has one connection, which it opens when something is parked.",
};
pub static PARK_AFTER: Setting<Millis> = Setting {
    section: "engine",
    name: "park_after_ms",
    kind: millis(50, 1..=600_000),
    prose: "How long a batch waits for a lock that somebody else holds before the keys that need it are parked, so that others need not \
            wait. `at_least_once` cannot park: there, for everything else, and behind a pooler, `lock_timeout_ms` holds alone.",
};
pub static PARKED_RECORDS_MAX: Setting<Number> = Setting {
    section: "engine",
    name: "parked_records_max",
    kind: number("records", 1_000_000, 1..=1_000_000_000),
    prose: "Most records that this process keeps parked in each shard; beyond, the workers that would park more wait. Workers that park at \
            the same moment may exceed it by a batch each.",
};
pub static PARKED_KEY_RECORDS_MAX: Setting<Number> = Setting {
    section: "engine",
    name: "parked_key_records_max",
    kind: number("records", 100_000, 1..=1_000_000_000),
    prose: "Most parked records of one key; beyond, the worker that would park more waits. Where a whole batch has to be parked, it may \
            become up to a batch of each worker more.",
};
pub static HOT_KEY_PERCENT: Setting<Number> = Setting {
    section: "engine",
    name: "hot_key_percent",
    kind: number("%", 30, 0..=100),
    prose: "For topics with a handler, exactly once: a key that takes so much of one worker's time while others wait is hot. It is parked, \
            and a slow lane applies it beside the others, in order. 0: none ever is.",
};
pub static HOT_KEY_WINDOW: Setting<Millis> = Setting {
    section: "engine",
    name: "hot_key_window_ms",
    kind: millis(2000, 100..=600_000),
    prose: "Over how long that is measured.",
};
pub static HOT_KEY_HOLD: Setting<Millis> = Setting {
    section: "engine",
    name: "hot_key_hold_ms",
    kind: millis(10_000, 0..=3_600_000),
    prose: "A hot key is a key like any other again once what comes of it would have taken less than half of `hot_key_percent` for so long, \
            and nothing of it is parked any more.",
};

pub static CONTENTION_INTERVAL: Setting<Millis> = Setting {
    section: "engine",
    name: "contention_interval_ms",
    kind: millis(250, 0..=2000),
    prose: "How often each shard is asked what our connections wait for, and who blocks them; four times more seldom while nothing is \
            written. 0: never.",
};

// --------------------------------------------------------------------------------------------------------------- shards

pub static SHARDS_BY: Setting<Choice<By>> = Setting {
    section: "shards",
    name: "by",
    kind: Choice {
        default: By::Partition,
        words: &[("partition", By::Partition), ("hash", By::Hash), ("modulo", By::Modulo), ("map", By::Map)],
    },
    prose: "What decides a record's shard: its partition, or its tenant's hash, number, or entry in `map_file`.",
};
pub static SHARDS_TENANT: Setting<Text<Tenant>> = Setting {
    section: "shards",
    name: "tenant",
    kind: Text {
        expected: "\"key\", \"key:N\", \"header:NAME\" or \"field:NAME\"",
        required: false,
        parse: tenant,
        absent: "`\"key\"`",
    },
    prose: "What of a record names its tenant: the key, the key's part N (from 0), a header, or a field of the payload. It serves the choice of a shard, tenants' ceilings, and `forebay park --tenant`.",
};
pub static SHARDS_DELIMITER: Setting<Text<String>> = Setting {
    section: "shards",
    name: "delimiter",
    // A space separates, too.
    kind: Text {
        absent: "`\":\"`",
        parse: |written| (!written.is_empty()).then(|| written.to_owned()),
        ..text("what separates the parts of a key")
    },
    prose: "Separates the parts of a key, for `tenant = \"key:N\"`.",
};
pub static SHARDS_MAP_FILE: Setting<Reloads<Text<PathBuf>>> = Setting {
    section: "shards",
    name: "map_file",
    kind: Reloads(Text { expected: "the path of a TOML file", required: false, parse: path, absent: "none" }),
    prose: "For `by = \"map\"`: a TOML file of lines `\"tenant\" = \"shard\"`.",
};
pub static SHARDS_DEFAULT: Setting<Reloads<Text<String>>> = Setting {
    section: "shards",
    name: "default",
    kind: Reloads(text("the name of a shard")),
    prose: "For `by = \"map\"`: the shard of tenants that the map lacks; without it they stop the topic.",
};
pub static SHARDS_TENANT_ROWS_PER_SECOND_MAX: Setting<Reloads<Optional<Number>>> = Setting {
    section: "shards",
    name: "tenant_rows_per_second_max",
    kind: ceiling("records/s"),
    prose: "Most records of each tenant per second that this process applies in each shard; what is more is parked, and applied in order as \
            the ceiling allows. A table `[shards.tenant_rows_per_second]` of lines `\"tenant\" = records` sets it for some of them. Records \
            that others of their batch made superfluous count, too. What waits already sees another ceiling within ten seconds.",
};
pub static SHARD_NAME: Setting<Text<String>> = Setting {
    section: "shard",
    name: "name",
    kind: Text { required: true, ..text("a name of its own for each shard") },
    prose: "What messages, metrics and the map call this database.",
};
pub static SHARD_DSN: Setting<Text<String>> = Setting {
    section: "shard",
    name: "dsn",
    kind: text("a connection string"),
    prose: "`host=… port=… user=… dbname=…` or `postgresql://…`. One of `dsn`, `dsn_file` and `dsn_env` is required.",
};
pub static SHARD_DSN_FILE: Setting<Text<PathBuf>> = Setting {
    section: "shard",
    name: "dsn_file",
    kind: Text { expected: "the path of a file", required: false, parse: path, absent: "none" },
    prose: "A file that holds the connection string.",
};
pub static SHARD_DSN_ENV: Setting<Text<String>> = Setting {
    section: "shard",
    name: "dsn_env",
    kind: text("the name of an environment variable"),
    prose: "An environment variable that holds the connection string.",
};
pub static SHARD_PARTITIONS: Setting<Text<Vec<RangeInclusive<i32>>>> = Setting {
    section: "shard",
    name: "partitions",
    kind: Text {
        expected: "partition numbers such as \"0-3\" or \"0-3,8\"",
        required: false,
        parse: partitions,
        absent: "all",
    },
    prose: "The partitions whose records live here: decides with `by = \"partition\"`, is checked with the others.",
};
pub static SHARD_CONNECT_TIMEOUT: Setting<Millis> = Setting {
    section: "shard",
    name: "connect_timeout_ms",
    kind: millis(5000, 1..=600_000),
    prose: "Longest wait for a connection to the database.",
};
pub static SHARD_STATEMENT_TIMEOUT: Setting<Millis> = Setting {
    section: "shard",
    name: "statement_timeout_ms",
    kind: millis(30_000, 1..=3_600_000),
    prose: "Longest time a statement of ours may take.",
};
pub static SHARD_LOCK_TIMEOUT: Setting<Millis> = Setting {
    section: "shard",
    name: "lock_timeout_ms",
    kind: millis(2000, 1..=3_600_000),
    prose: "Longest wait for a lock that somebody else holds; shorter than `statement_timeout_ms`.",
};
pub static SHARD_CONNECTIONS_MAX: Setting<Optional<Number>> = Setting {
    section: "shard",
    name: "connections_max",
    kind: Optional(number("connections", 0, 1..=100_000), "what the server allows"),
    prose: "Most connections that this process may open to the shard: it needs one for each worker and slow lane and two more, three where dead letters are forwarded. A gateway with routes of `mode = \"sync\"` needs `pool_size` and one more.",
};
pub static SHARD_POOLER: Setting<Choice<Pooler>> = Setting {
    section: "shard",
    name: "pooler",
    kind: Choice { default: Pooler::None, words: &[("none", Pooler::None), ("transaction", Pooler::Transaction)] },
    prose: "What stands between forebay and the database: nothing that changes a session, or a pooler that deals connections out \
            transaction by transaction (pgbouncer's `pool_mode = transaction`). Then statements have no names.",
};
pub static SHARD_COMMIT_REPLICAS: Setting<TextList> = Setting {
    section: "shard",
    name: "commit_replicas",
    kind: TextList { expected: "a list of the application_names of replicas" },
    prose: "Kafka's commit waits until these replicas have flushed what it is about; rows are applied all the same. Their names as \
            `pg_stat_replication` shows them.",
};
pub static SHARD_COMMIT_REPLICAS_MIN: Setting<Optional<Number>> = Setting {
    section: "shard",
    name: "commit_replicas_min",
    kind: Optional(number("replicas", 0, 1..=1000), "all"),
    prose: "So many of `commit_replicas` are enough.",
};

pub static SHARD_CONNECTIONS_SHARE: Setting<Number> = Setting {
    section: "shard",
    name: "connections_share_percent",
    kind: number("%", 100, 1..=100),
    prose: "How much of what the shard's server offers (`max_connections` less what it reserves) all processes of the group together may take. Others keep the rest; a process that would exceed it does not start.",
};
pub static SHARD_ROWS_PER_SECOND_MAX: Setting<Reloads<Optional<Number>>> = Setting {
    section: "shard",
    name: "rows_per_second_max",
    kind: ceiling("rows/s"),
    prose: "Most rows per second that this process writes to the shard. Records that others of their batch made superfluous do not count.",
};
pub static SHARD_ADAPTIVE_LIMIT: Setting<Reloads<Flag>> = Setting {
    section: "shard",
    name: "adaptive_limit",
    kind: Reloads(Flag { default: false }),
    prose: "Whether fewer connections work, with smaller batches and pauses in the end, while batches take longer than they recently did at best.",
};
pub static SHARD_REPLICA: Setting<Reloads<Text<String>>> = Setting {
    section: "shard",
    name: "replica",
    kind: Reloads(text("the application_name of a replica")),
    prose: "A replica, by its `application_name` in `pg_stat_replication`, whose lag slows the shard. The role must be a member of `pg_read_all_stats`.",
};
pub static SHARD_REPLICA_LAG_MAX: Setting<Reloads<Millis>> = Setting {
    section: "shard",
    name: "replica_lag_max_ms",
    kind: Reloads(millis(5000, 100..=86_400_000)),
    prose: "While the replica has not replayed what is older than this, ever fewer connections work, in the end one with long pauses. A replica that is not connected slows nothing.",
};

// --------------------------------------------------------------------------------------------------------------- topics

pub static TOPIC_NAME: Setting<Text<String>> = Setting {
    section: "topic",
    name: "name",
    kind: Text {
        required: true,
        parse: topic_name,
        ..text("the name of a topic: at most 249 letters, digits, dots, underscores and hyphens")
    },
    prose: "The topic.",
};
pub static TOPIC_TABLE: Setting<Text<(Option<String>, String)>> = Setting {
    section: "topic",
    name: "table",
    kind: Text {
        expected: "\"table\" or \"schema.table\"",
        required: false,
        parse: table_name,
        absent: "required, unless `handler`",
    },
    prose: "The table, in every shard. Its columns are matched to the payload's fields by name, as they are written (no folding to lower case). Without a schema the connection's `search_path` decides, and a role called forebay finds forebay's own schema first.",
};
pub static TOPIC_HANDLER: Setting<Flag> = Setting {
    section: "topic",
    name: "handler",
    kind: Flag { default: false },
    prose: "A program that embeds forebay applies this topic with a handler of its own; settings about a table are refused beside it.",
};
pub static TOPIC_INSERT_MODE: Setting<Choice<InsertMode>> = Setting {
    section: "topic",
    name: "insert_mode",
    kind: Choice {
        default: InsertMode::Insert,
        words: &[("insert", InsertMode::Insert), ("upsert", InsertMode::Upsert), ("update", InsertMode::Update)],
    },
    prose: "What a record does to its row.",
};
pub static TOPIC_PK_FIELDS: Setting<TextList> = Setting {
    section: "topic",
    name: "pk_fields",
    kind: TextList { expected: "a list of column names" },
    prose: "The columns that identify a row; needed for upserts, updates and deletes.",
};
pub static TOPIC_DELETE_ENABLED: Setting<Flag> = Setting {
    section: "topic",
    name: "delete_enabled",
    kind: Flag { default: false },
    prose: "Whether a null value deletes the row that its key names.",
};
pub static TOPIC_DELETE_FIELD: Setting<Text<String>> = Setting {
    section: "topic",
    name: "delete_field",
    kind: text("the name of a field"),
    prose: "A field of the payload whose value `true` makes the record a delete.",
};
pub static TOPIC_KEY_FORMAT: Setting<Text<String>> = Setting {
    section: "topic",
    name: "key_format",
    kind: Text { absent: "the key is JSON", ..text("a format such as \"{app_id}:{subscription_id}\"") },
    prose: "How the `pk_fields` are read from the key of a null value.",
};
pub static TOPIC_DELIVERY: Setting<Optional<Choice<Delivery>>> = Setting {
    section: "topic",
    name: "delivery",
    kind: Optional(Choice { default: Delivery::ExactlyOnce, words: DELIVERIES }, "that of `[engine]`"),
    prose: "Overrides `[engine] delivery` for this topic.",
};
pub static TOPIC_ROWS_PER_SECOND_MAX: Setting<Reloads<Optional<Number>>> = Setting {
    section: "topic",
    name: "rows_per_second_max",
    kind: ceiling("rows/s"),
    prose: "Most rows of the topic per second that this process writes to each shard. Other topics go on meanwhile.",
};
pub static TOPIC_GUARD: Setting<Text<String>> = Setting {
    section: "topic",
    name: "guard",
    kind: text("the name of a column"),
    prose: "Apply a record only if its value for this column is greater than the row's.",
};
pub static TOPIC_SKIP_UNCHANGED: Setting<Flag> = Setting {
    section: "topic",
    name: "skip_unchanged",
    kind: Flag { default: false },
    prose: "Leave a row alone when it would not change: less to write, but every row is compared.",
};
pub static TOPIC_UNKNOWN_FIELDS: Setting<Choice<UnknownFields>> = Setting {
    section: "topic",
    name: "unknown_fields",
    kind: Choice {
        default: UnknownFields::Ignore,
        words: &[("ignore", UnknownFields::Ignore), ("error", UnknownFields::Error)],
    },
    prose: "What a field without a column means: nothing, or that the record is at fault.",
};
pub static ON_BAD_RECORD_POLICY: Setting<Choice<BadPolicy>> = Setting {
    section: "topic.on_bad_record",
    name: "policy",
    kind: Choice {
        default: BadPolicy::DeadLetter,
        words: &[("dead_letter", BadPolicy::DeadLetter), ("stop", BadPolicy::Stop)],
    },
    prose: "What becomes of a record that cannot be applied. \"dead_letter\": it goes, whole, into `forebay.dead_letter`, in the \
            transaction that writes its neighbours. \"stop\": its topic stops in front of it, nothing of it is lost, other topics \
            go on; with at_least_once there is no other choice.",
};
pub static ON_BAD_RECORD_THEN: Setting<Choice<Then>> = Setting {
    section: "topic.on_bad_record",
    name: "then",
    kind: Choice { default: Then::Skip, words: &[("skip", Then::Skip), ("park", Then::Park)] },
    prose: "What becomes of a dead letter's key. \"skip\": it goes on without the record. \"park\": it waits in `forebay.parked` behind \
            the record, in order, until `forebay dead-letters replay` or `discard`; other keys go on.",
};
pub static ON_BAD_RECORD_RUN_MAX: Setting<Number> = Setting {
    section: "topic.on_bad_record",
    name: "run_max",
    kind: number("records", 100, 1..=1_000_000_000),
    prose: "So many dead letters in a row, as one worker or slow lane sees the topic; one more stops it: that is no bad record but a bad deploy.",
};
pub static ON_BAD_RECORD_PERCENT_MAX: Setting<Number> = Setting {
    section: "topic.on_bad_record",
    name: "percent_max",
    kind: number("%", 10, 0..=100),
    prose: "So many dead letters among the last thousand or two, likewise (never before a thousand); 100 never stops it.",
};
pub static ON_BAD_RECORD_PARENT_TRIES: Setting<Number> = Setting {
    section: "topic.on_bad_record",
    name: "parent_tries",
    kind: number("tries", 10, 1..=1_000_000),
    prose: "How often a record is tried whose foreign-key parent is missing (it may be on its way in another partition) before it counts as \
            bad; its key waits meanwhile, parked, with growing pauses up to `retry_backoff_max_ms`.",
};
pub static ON_BAD_RECORD_FORWARD_TO: Setting<Text<String>> = Setting {
    section: "topic.on_bad_record",
    name: "forward_to",
    kind: Text {
        expected: "a topic's name: at most 249 letters, digits, dots, dashes and underscores",
        required: false,
        parse: topic_name,
        absent: "none",
    },
    prose: "A topic on the same brokers that dead letters go on to from `forebay.dead_letter`, at least once each: key, value, \
            headers and timestamp as they were, and why it is a dead letter in headers behind them.",
};
pub static ADMIN_LISTEN: Setting<Text<Listen>> = Setting {
    section: "admin",
    name: "listen",
    kind: Text {
        expected: "an IP address and a port such as \"127.0.0.1:9464\", or \"off\"",
        required: false,
        parse: listen,
        absent: "127.0.0.1:9464",
    },
    prose: "Where metrics, `/status` and the page are served: see [The admin interface](#the-admin-interface). An address that others \
            can reach needs `token_file`. `\"off\"`: nowhere. Where nothing is written and the port is taken, it is not served, and a line in the log says so.",
};
pub static ADMIN_SOCKET: Setting<Text<PathBuf>> = Setting {
    section: "admin",
    name: "socket",
    kind: Text { expected: "the path of a Unix-domain socket", required: false, parse: path, absent: "none" },
    prose: "The same on a Unix-domain socket, for this user and group, without a token: the file's mode is its guard.",
};
pub static ADMIN_TOKEN_FILE: Setting<Text<PathBuf>> = Setting {
    section: "admin",
    name: "token_file",
    kind: Text { expected: "the path of a file", required: false, parse: path, absent: "none" },
    prose: "A file that holds a token of 16 to 4096 characters, which every request over `listen` must bring along (`Authorization: Bearer …`); \
            only `/` (the page, which asks for it), `/healthz` and `/readyz` need none.",
};
pub static ADMIN_LAG_EXPORTER_NAMES: Setting<Flag> = Setting {
    section: "admin",
    name: "lag_exporter_names",
    kind: Flag { default: false },
    prose: "Whether `/metrics` says the lags under the names of Kafka lag exporters, too (`kafka_consumergroup_group_lag`, …).",
};

// -------------------------------------------------------------------------------------------------------------- parsers

/// Where the admin interface listens; none: nowhere.
pub type Listen = Option<std::net::SocketAddr>;

fn listen(written: &str) -> Option<Listen> {
    if written == "off" { Some(None) } else { written.parse().ok().map(Some) }
}

fn not_empty(written: &str) -> Option<String> {
    (!written.trim().is_empty()).then(|| written.to_owned())
}

fn path(written: &str) -> Option<PathBuf> {
    not_empty(written).map(PathBuf::from)
}

/// `0-3,8` → `[0..=3, 8..=8]`: no empty range, no number twice.
fn partitions(written: &str) -> Option<Vec<RangeInclusive<i32>>> {
    let mut ranges = Vec::new();
    for part in written.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| digits.trim().parse::<i32>().ok().filter(|n| *n >= 0);
        let (first, last) = (number(first)?, number(last)?);
        if first > last || ranges.iter().any(|r: &RangeInclusive<i32>| first <= *r.end() && *r.start() <= last) {
            return None;
        }
        ranges.push(first..=last);
    }
    Some(ranges)
}

fn tenant(written: &str) -> Option<Tenant> {
    match written.split_once(':') {
        None => (written == "key").then_some(Tenant::Key),
        Some(("key", part)) => part.parse().ok().map(Tenant::KeyPart),
        Some(("header", name)) => not_empty(name).map(Tenant::Header),
        Some(("field", name)) => not_empty(name).map(Tenant::Field),
        Some(_) => None,
    }
}

/// As Kafka's `org.apache.kafka.common.internals.Topic` has it. librdkafka would take a name that begins with `^` for a pattern
/// and subscribe to whatever it matches.
fn topic_name(written: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits = (1..=249).contains(&written.len()) && written.bytes().all(legal) && !matches!(written, "." | "..");
    fits.then(|| written.to_owned())
}

fn table_name(written: &str) -> Option<(Option<String>, String)> {
    match written.split('.').map(not_empty).collect::<Option<Vec<_>>>()?.as_slice() {
        [table] => Some((None, table.clone())),
        [schema, table] => Some((Some(schema.clone()), table.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_numbers() {
        assert_eq!(partitions("0-3,8"), Some(vec![0..=3, 8..=8]));
        assert_eq!(partitions(" 1 - 2 , 4"), Some(vec![1..=2, 4..=4]));
        for wrong in ["", "3-1", "a", "0-3,2", "-1", "1,,2", "99999999999"] {
            assert_eq!(partitions(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_of_topics() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(topic_name(name).as_deref(), Some(name));
        }
        for wrong in ["", ".", "..", "^a.*", "a/b c", "a b", "ä", "a\0b", &"x".repeat(250)] {
            assert_eq!(topic_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn tenants_and_tables() {
        assert_eq!(tenant("key"), Some(Tenant::Key));
        assert_eq!(tenant("key:1"), Some(Tenant::KeyPart(1)));
        assert_eq!(tenant("header:app"), Some(Tenant::Header("app".into())));
        assert_eq!(tenant("field:app_id"), Some(Tenant::Field("app_id".into())));
        for wrong in ["", "key:", "key:x", "keys", "header:", "offset:1"] {
            assert_eq!(tenant(wrong), None, "{wrong}");
        }
        assert_eq!(table_name("a.b"), Some((Some("a".into()), "b".into())));
        for wrong in ["", ".b", "a.", "a.b.c"] {
            assert_eq!(table_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn no_setting_is_defined_twice() {
        let mut names: Vec<String> = ALL.iter().map(|s| format!("{}.{}", s.section(), s.name())).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
