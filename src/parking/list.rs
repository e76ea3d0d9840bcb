//! What is held, and which keys are parked. Reads only.

use std::time::Duration;

use postgres::Row;
use postgres::types::Type;

use crate::config::Config;
use crate::letters::{Filter, MATCHES, PARKED, with_params};
use crate::parking::{Hold, Scope};
use crate::sink::shards::{self, Answer};
use crate::sink::{Failure, schema, sqlstate};
use crate::state::parked::Why;

/// A key that has parked records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub topic: String,
    pub partition: i32,
    /// None: a record without a key, which waits alone.
    pub key: Option<Vec<u8>>,
    pub rows: i64,
    /// The first record, which is in turn, and how long it has waited.
    pub offset: i64,
    pub age: Duration,
    pub why: Why,
    /// A person holds it now, or its tenant.
    pub held: bool,
    /// Its first record is a dead letter and waits for a person.
    pub dead: bool,
    pub sqlstate: Option<String>,
    pub error: Option<String>,
    /// How often the first record was tried.
    pub attempts: i32,
}

/// What a shard says: as much of it as was asked for, and how much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parked {
    /// With the time since when, UTC.
    pub holds: Vec<(Hold, String)>,
    pub holds_all: i64,
    pub keys: Vec<Key>,
    pub keys_all: i64,
    pub rows_all: i64,
}

/// $1 group; $2 topic, $3 key: any where null.
const HOLDS: &str = "\
SELECT s.topic, h.scope, h.value, to_char(h.since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || 'Z', count(*) OVER () \
FROM forebay.hold h JOIN forebay.source s ON s.id = h.source WHERE s.grp = $1 AND ($2::text IS NULL OR s.topic = $2) \
AND ($3::bytea IS NULL OR h.scope = 'k' AND h.value = $3) ORDER BY s.topic, h.scope, h.value";

/// Keys of which some record matches, whole; those that have waited longest come first.
fn keys(limit: i64) -> String {
    format!(
        "WITH k AS (SELECT DISTINCT d.topic, d.source, d.partition, d.key_hash FROM {PARKED} WHERE {MATCHES}) \
         SELECT k.topic, k.partition, h.key, g.rows, h.\"offset\", extract(epoch FROM now() - g.oldest)::float8, h.reason, h.state, \
         h.sqlstate, h.error, h.attempts, EXISTS (SELECT 1 FROM forebay.hold o WHERE o.source = k.source AND (\
         o.scope = 'k' AND o.value = h.key OR o.scope = 't' AND o.value = h.tenant)), count(*) OVER (), (sum(g.rows) OVER ())::bigint \
         FROM k CROSS JOIN LATERAL (SELECT count(*) AS rows, min(q.parked_at) AS oldest, min(q.\"offset\") AS head FROM forebay.parked q \
         WHERE q.source = k.source AND q.partition = k.partition AND q.key_hash = k.key_hash) g JOIN forebay.parked h \
         ON h.source = k.source AND h.partition = k.partition AND h.key_hash = k.key_hash AND h.\"offset\" = g.head \
         ORDER BY g.oldest, k.topic, k.partition, h.\"offset\" LIMIT {limit}"
    )
}

/// At most `limit` holds and `limit` keys of each shard.
///
/// # Errors
/// [`Failure::Shard`] for a filter that names no shard of the configuration.
pub fn list(config: &Config, filter: &Filter, limit: i64) -> Result<Vec<Answer<Parked>>, Failure> {
    let group = &config.kafka.group_id;
    let holds = format!("{HOLDS} LIMIT {limit}");
    shards::each(config, filter.shard.as_deref(), schema::PARKING, |client, _| {
        let key = filter.key.as_deref().map(str::as_bytes);
        let held = client
            .query_typed(&holds, &[(group, Type::TEXT), (&filter.topic, Type::TEXT), (&key, Type::BYTEA)])
            .map_err(|error| sqlstate::failure(&error))?;
        let parked = with_params(group, filter, |params| client.query_typed(&keys(limit), params))?;
        let all = |rows: &[Row], column: usize| rows.first().map_or(0, |row| row.get(column));
        Ok(Parked {
            holds_all: all(&held, 4),
            holds: held.iter().map(hold_of).collect(),
            keys_all: all(&parked, 12),
            rows_all: all(&parked, 13),
            keys: parked.iter().map(key_of).collect(),
        })
    })
}

fn hold_of(row: &Row) -> (Hold, String) {
    let hold = Hold { topic: row.get(0), scope: Scope::of_letter(row.get(1)), value: row.get(2) };
    (hold, row.get(3))
}

fn key_of(row: &Row) -> Key {
    Key {
        topic: row.get(0),
        partition: row.get(1),
        key: row.get(2),
        rows: row.get(3),
        offset: row.get(4),
        // A clock that was set back shows no time at all.
        age: Duration::try_from_secs_f64(row.get(5)).unwrap_or_default(),
        why: Why::of_letter(row.get::<_, i8>(6) as u8 as char),
        dead: row.get::<_, i8>(7) as u8 == b'd',
        sqlstate: row.get(8),
        error: row.get(9),
        attempts: row.get(10),
        held: row.get(11),
    }
}
