//! What letters there are, and all of one.

use postgres::Row;

use crate::config::Config;
use crate::letters::{Answer, Filter, MATCHES, each, with_params};
use crate::sink::Failure;
use crate::sink::schema::{self, Version};

/// A letter, without its record's payload and headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub id: i64,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When it became one, UTC.
    pub at: String,
    pub sqlstate: Option<String>,
    pub error: String,
    /// What a person decided; none so far.
    pub resolution: Option<String>,
    pub key: Option<Vec<u8>>,
    pub forwarded: Forwarded,
}

/// Whether a letter went on to the topic of `forward_to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// Not, or not yet.
    No,
    /// When the brokers acknowledged it, UTC.
    At(String),
    /// The topic will never take it, and why.
    Refused(String),
}

/// All of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub letter: Letter,
    /// The record's own time, UTC.
    pub timestamp: Option<String>,
    pub payload: Option<Vec<u8>>,
    /// Packed; [`Headers`](crate::state::chunk::Headers) reads them.
    pub headers: Vec<u8>,
}

const COLUMNS: &str = "\
d.id, d.topic, d.partition, d.\"offset\", to_char(d.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z', d.sqlstate, d.error, \
d.resolution, d.key";

/// [`COLUMNS`], and what became of a letter in a topic; older tables say nothing of that.
fn columns(version: Version) -> String {
    let forwarded = match version >= schema::FORWARDING {
        true => "to_char(d.forwarded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z', d.forward_error",
        false => "NULL::text, NULL::text",
    };
    format!("{COLUMNS}, {forwarded}")
}

/// The newest ones, at most `limit` of each shard.
///
/// # Errors
/// [`Failure::Shard`] for a filter that names no shard of the configuration.
pub fn list(config: &Config, filter: &Filter, limit: i64) -> Result<Vec<Answer<Letter>>, Failure> {
    each(config, filter, |client, version| {
        let columns = columns(version);
        let sql =
            format!("SELECT {columns} FROM forebay.dead_letter d WHERE {MATCHES} ORDER BY d.id DESC LIMIT {limit}");
        with_params(&config.kafka.group_id, filter, |params| {
            Ok(client.query_typed(&sql, params)?.iter().map(letter).collect())
        })
    })
}

/// All of those that match.
///
/// # Errors
/// As [`list`].
pub fn show(config: &Config, filter: &Filter, limit: i64) -> Result<Vec<Answer<Whole>>, Failure> {
    let time = "to_char(d.ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS') || 'Z'";
    let whole = |row: &Row| Whole {
        letter: letter(row),
        timestamp: row.get(11),
        payload: row.get(12),
        headers: row.get::<_, Option<Vec<u8>>>(13).unwrap_or_default(),
    };
    each(config, filter, |client, version| {
        let columns = columns(version);
        let sql = format!(
            "SELECT {columns}, {time}, d.payload, d.headers FROM forebay.dead_letter d WHERE {MATCHES} \
             ORDER BY d.id DESC LIMIT {limit}"
        );
        with_params(&config.kafka.group_id, filter, |params| {
            Ok(client.query_typed(&sql, params)?.iter().map(whole).collect())
        })
    })
}

fn letter(row: &Row) -> Letter {
    Letter {
        id: row.get(0),
        topic: row.get(1),
        partition: row.get(2),
        offset: row.get(3),
        at: row.get(4),
        sqlstate: row.get(5),
        error: row.get(6),
        resolution: row.get(7),
        key: row.get(8),
        forwarded: match (row.get(9), row.get(10)) {
            (Some(at), _) => Forwarded::At(at),
            (None, Some(reason)) => Forwarded::Refused(reason),
            (None, None) => Forwarded::No,
        },
    }
}
