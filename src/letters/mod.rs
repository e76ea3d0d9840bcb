//! `forebay dead-letters`: what could not be applied, and what a person decides about it. Works on the shards' tables alone; it
//! needs no broker and no running process.
//!
//! There are two kinds. A letter whose key went on without it lies in `forebay.dead_letter`. One that blocks its key
//! (`then = "park"`) is still where it is in turn, at the head of its key in `forebay.parked`; it gets a number when it is
//! discarded, and moves to the others.

pub mod discard;
pub mod list;
pub mod replay;
pub mod told;

use postgres::Client;
use postgres::types::{ToSql, Type};

use crate::config::Config;
use crate::sink::schema::{self, Version};
use crate::sink::shards;
use crate::sink::{Failure, sqlstate};

/// Which letters; what is not said does not matter. Those that somebody has decided about are only listed where that is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub shard: Option<String>,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub id: Option<i64>,
    pub sqlstate: Option<String>,
    /// The record's key, as text.
    pub key: Option<String>,
    pub decided: bool,
}

impl Filter {
    /// Whether it names anything by which letters differ.
    pub fn is_empty(&self) -> bool {
        *self == Filter { decided: self.decided, ..Filter::default() }
    }
}

/// Letters whose keys went on without them.
const SKIPPED: &str = "forebay.dead_letter d";

/// What is parked, as if it were letters; those that are have state `d`.
pub(crate) const PARKED: &str = "(SELECT NULL::bigint AS id, s.grp, s.topic, q.source, q.partition, q.key_hash, q.\"offset\", \
q.parked_at AS at, q.ts, q.state, q.sqlstate, q.error, NULL::text AS resolution, q.key, q.payload, q.headers, \
NULL::timestamptz AS forwarded_at, NULL::text AS forward_error FROM forebay.parked q JOIN forebay.source s ON s.id = q.source) d";

/// What [`Filter`] means, for [`SKIPPED`] and [`PARKED`]. $1 group; $2 topic, $3 partition, $4 offset, $5 id, $6 SQLSTATE,
/// $7 key: any where null; $8 whether those are meant, too, that somebody has decided about.
pub(crate) const MATCHES: &str = "\
d.grp = $1 AND ($2::text IS NULL OR d.topic = $2) AND ($3::int IS NULL OR d.partition = $3) \
AND ($4::bigint IS NULL OR d.\"offset\" = $4) AND ($5::bigint IS NULL OR d.id = $5) \
AND ($6::text IS NULL OR d.sqlstate = $6) AND ($7::bytea IS NULL OR d.key = $7) AND ($8 OR d.resolution IS NULL)";

/// A common table expression, `found`: the places of letters that block their keys.
fn found() -> String {
    format!(
        "found AS MATERIALIZED (SELECT d.source, d.partition, d.key_hash, d.\"offset\" FROM {PARKED} WHERE d.state = 'd' AND {MATCHES})"
    )
}

/// That a row of `forebay.parked q` is one of them, still.
const IS_FOUND: &str = "q.source = f.source AND q.partition = f.partition AND q.key_hash = f.key_hash AND q.\"offset\" = f.\"offset\" \
AND q.state = 'd'";

/// Calls `run` with [`MATCHES`]' parameters.
pub(crate) fn with_params<T>(
    group: &str,
    filter: &Filter,
    run: impl FnOnce(&[(&(dyn ToSql + Sync), Type)]) -> Result<T, postgres::Error>,
) -> Result<T, Failure> {
    let key = filter.key.as_deref().map(str::as_bytes);
    let Filter { topic, partition, offset, id, sqlstate: code, decided, .. } = filter;
    let params: [(&(dyn ToSql + Sync), Type); 8] = [
        (&group, Type::TEXT),
        (topic, Type::TEXT),
        (partition, Type::INT4),
        (offset, Type::INT8),
        (id, Type::INT8),
        (code, Type::TEXT),
        (&key, Type::BYTEA),
        (decided, Type::BOOL),
    ];
    run(&params).map_err(|error| sqlstate::failure(&error))
}

/// What a shard says, or why it says nothing.
pub type Answer<T> = shards::Answer<Vec<T>>;

/// Asks each shard that is meant, and says which version its tables have. Where forebay was never there, there is nothing.
fn each<T: Send>(
    config: &Config,
    filter: &Filter,
    ask: impl Fn(&mut Client, Version) -> Result<Vec<T>, Failure> + Sync,
) -> Result<Vec<Answer<T>>, Failure> {
    shards::each(config, filter.shard.as_deref(), schema::LETTERS, ask)
}
