//! The settings of the gateway: `[ingest]` and its routes.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{
    Choice, Cpus, CpusInTurn, Listen, Millis, Number, Optional, Setting, Text, TextList, listen, millis, number, path,
    text,
};
use super::{MIB, UnknownFields};
use crate::config::ingest::{self, Mode, Part, Segment};

pub static LISTEN: Setting<Text<SocketAddr>> = Setting {
    section: "ingest",
    name: "listen",
    kind: Text {
        expected: "an IP address and a port such as \"127.0.0.1:8080\"",
        required: false,
        parse: |written| written.parse().ok(),
        absent: "127.0.0.1:8080",
    },
    prose: "Where the routes are served. Several processes of one user may have the same address, for a restart without a gap. An address that \
            others can reach should have `token_file`, or something in front of it that knows who asks.",
};
pub static TOKEN_FILE: Setting<Text<PathBuf>> = Setting {
    section: "ingest",
    name: "token_file",
    kind: Text { expected: "the path of a file", required: false, parse: path, absent: "none" },
    prose: "A file that holds a token of 16 to 4096 characters, which every request must bring along (`Authorization: Bearer …`).",
};
pub static ADMIN_LISTEN: Setting<Text<Listen>> = Setting {
    section: "ingest",
    name: "admin_listen",
    kind: Text {
        expected: "an IP address and a port such as \"127.0.0.1:9465\", or \"off\"",
        required: false,
        parse: listen,
        absent: "127.0.0.1:9465",
    },
    prose: "Where the gateway's own `/healthz`, `/readyz`, `/metrics` and `/status` are. An address that others can reach needs \
            `[admin] token_file`, whose token holds here, too. `\"off\"`: nowhere. While somebody else has the port (the gateway whose \
            place this one takes) it is tried again each second, and a line in the log says so.",
};
pub static THREADS: Setting<Number> = Setting {
    section: "ingest",
    name: "threads",
    kind: number("threads", 2, 1..=64),
    prose: "Threads that read, check and answer requests; each has a listener of its own on the same port.",
};
pub static CORES: Setting<CpusInTurn> = Setting {
    section: "ingest",
    name: "cores",
    kind: CpusInTurn,
    prose: "CPUs that these threads are pinned to, as `[engine] cores` has it for workers. See [Pinning](#pinning).",
};
pub static KAFKA_CORES: Setting<Cpus> = Setting {
    section: "ingest",
    name: "kafka_cores",
    kind: Cpus,
    prose: "CPUs that the threads of the gateway's librdkafka may use: one for each broker, and one for the client.",
};
pub static OTHER_CORES: Setting<Cpus> = Setting {
    section: "ingest",
    name: "other_cores",
    kind: Cpus,
    prose: "CPUs that all other threads of the gateway may use: those that take acknowledgements, write rows (`mode = \"sync\"`), ask brokers and \
            databases, its admin side, the log.",
};
pub static CONNECTIONS_MAX: Setting<Number> = Setting {
    section: "ingest",
    name: "connections_max",
    kind: number("connections", 16_384, 64..=1_000_000),
    prose: "Connections of clients at a time, in equal parts for each of `threads`. Whoever comes beyond takes the place of one that asks for nothing, or is answered with 503.",
};
pub static IDLE_TIMEOUT: Setting<Millis> = Setting {
    section: "ingest",
    name: "idle_timeout_ms",
    kind: millis(75_000, 1000..=3_600_000),
    prose: "How long a connection may ask for nothing before it is closed. Longer than that of a load balancer in front of it.",
};
pub static BODY_BYTES_MAX: Setting<Number> = Setting {
    section: "ingest",
    name: "body_bytes_max",
    kind: number("bytes", 900_000, 1024..=64 * MIB),
    prose: "Most bytes of a body; more is answered with 413. Brokers take records of about a megabyte unless the topic's `max.message.bytes` says \
            more.",
};
pub static QUEUE_RECORDS_MAX: Setting<Number> = Setting {
    section: "ingest",
    name: "queue_records_max",
    kind: number("records", 50_000, 1..=1_000_000),
    prose: "Most records on their way to the brokers; then requests are answered with 503 at once.",
};
pub static QUEUE_BYTES_MAX: Setting<Number> = Setting {
    section: "ingest",
    name: "queue_bytes_max",
    kind: number("bytes", 64 * MIB, 65_536..=2048 * MIB - 1),
    prose: "Most bytes of them, likewise: keys, values and headers. Rows of `mode = \"sync\"` may take as much again while they wait, in equal \
            parts for each shard.",
};
pub static DEADLINE: Setting<Millis> = Setting {
    section: "ingest",
    name: "deadline_ms",
    kind: millis(10_000, 1000..=300_000),
    prose: "How long a request may wait for the brokers before it is answered with 503. librdkafka gives a record up after three quarters of it, \
            so that what was answered with 503 hardly ever lands later; that it never does, nobody can promise. With `mode = \"sync\"` a \
            statement waits for locks no longer than this less `pool_wait_ms` (at least half of it), and is cancelled when this is over.",
};
pub static DRAIN_DEADLINE: Setting<Millis> = Setting {
    section: "ingest",
    name: "drain_deadline_ms",
    kind: millis(15_000, 100..=600_000),
    prose: "On SIGTERM and SIGINT: how long to answer what is under way. More than `deadline_ms` answers everything.",
};
pub static POOL_SIZE: Setting<Number> = Setting {
    section: "ingest",
    name: "pool_size",
    kind: number("connections", 8, 1..=256),
    prose: "For routes with `mode = \"sync\"`: connections to each shard, and threads that wait for them. `check` shows them beside what \
            `run` needs; a gateway for which a database has too few does not start.",
};
pub static POOL_WAIT: Setting<Millis> = Setting {
    section: "ingest",
    name: "pool_wait_ms",
    kind: millis(1000, 1..=60_000),
    prose: "Likewise: how long a request waits for one of them before it is answered with 503, and not done. At most `deadline_ms`.",
};
pub static HEADERS: Setting<Optional<TextList>> = Setting {
    section: "ingest",
    name: "headers",
    kind: Optional(
        TextList { expected: "a list of names of HTTP headers" },
        "`[\"traceparent\", \"Idempotency-Key\"]`",
    ),
    prose: "Headers of requests that become headers of records, under the name as it is written here. The one that names the tenant \
            (`[shards] tenant = \"header:…\"`), and those that columns take, always do.",
};
pub static CATALOG_FILE: Setting<Text<PathBuf>> = Setting {
    section: "ingest",
    name: "catalog_file",
    kind: Text {
        expected: "the path of a file",
        required: false,
        parse: path,
        absent: "beside the configuration, as `NAME.catalog.json`",
    },
    prose: "Where the columns of the tables are kept, so that the gateway starts and serves with every database away. It holds no row.",
};
pub static CATALOG_INTERVAL: Setting<Millis> = Setting {
    section: "ingest",
    name: "catalog_interval_ms",
    kind: millis(30_000, 1000..=3_600_000),
    prose: "How often the shards are asked for their tables' columns, and the brokers for the topics' partitions.",
};

pub static ROUTE_PATH: Setting<Text<Vec<Segment>>> = Setting {
    section: "ingest.route",
    name: "path",
    kind: Text {
        expected: "a path such as \"/apps/{app_id}/subscriptions/{subscription_id}\", each parameter once and a whole segment",
        required: true,
        parse: ingest::path,
        absent: "",
    },
    prose: "What the route answers to. A parameter stands for one segment, percent-decoded and not empty, and becomes the record's field of \
            that name; a body that says otherwise is refused.",
};
pub static ROUTE_METHODS: Setting<TextList> = Setting {
    section: "ingest.route",
    name: "methods",
    kind: TextList { expected: ingest::METHODS_EXPECTED },
    prose: "Required. `PUT`, `POST` and `PATCH` publish their body, all alike: what it does to the row is for the topic's `insert_mode`. `DELETE` \
            publishes a null value, for topics with `delete_enabled`.",
};
pub static ROUTE_TOPIC: Setting<Text<String>> = Setting {
    section: "ingest.route",
    name: "topic",
    kind: Text { required: true, ..text("the name of a [[topic]]") },
    prose: "Where its records go.",
};
pub static ROUTE_KEY: Setting<Text<Vec<Part>>> = Setting {
    section: "ingest.route",
    name: "key",
    kind: Text {
        expected: "a format such as \"{app_id}:{subscription_id}\"",
        required: false,
        parse: ingest::key,
        absent: "the topic's `key_format`, or JSON with its `pk_fields`",
    },
    prose: "The records' key, made of fields of path or body in their canonical form: all records of a row get the same one.",
};
pub static ROUTE_MODE: Setting<Choice<Mode>> = Setting {
    section: "ingest.route",
    name: "mode",
    kind: Choice { default: Mode::Async, words: &[("async", Mode::Async), ("sync", Mode::Sync)] },
    prose: "`async`: 202 once the brokers have the record. `sync`: the row is written at once, as the engine would write it, and answered with \
            200 after its COMMIT: what an endpoint was like before, to move it by one word.",
};
pub static ROUTE_UNKNOWN_FIELDS: Setting<Choice<UnknownFields>> = Setting {
    section: "ingest.route",
    name: "unknown_fields",
    kind: Choice {
        default: UnknownFields::Error,
        words: &[("error", UnknownFields::Error), ("ignore", UnknownFields::Ignore)],
    },
    prose: "What becomes of a body with a field that no column takes: it is refused, or the field is as the topic's setting of that name says.",
};
