//! `forebay park|unpark|parked`: what a person keeps back, and what waits. Commands write `forebay.hold` and nothing else: it is the
//! processes that park what is held, and their slow lanes that apply it once it is held no longer. Works on the shards' tables
//! alone; it needs no broker and no running process.

pub mod list;
pub mod told;

use postgres::types::{ToSql, Type};

use crate::config::{Config, Delivery};
use crate::sink::shards::{self, Answer};
use crate::sink::{Failure, Reason, schema, sqlstate};

/// What a hold is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Key,
    Tenant,
}

impl Scope {
    /// As `forebay.hold` says it.
    fn letter(self) -> i8 {
        match self {
            Scope::Key => b'k' as i8,
            Scope::Tenant => b't' as i8,
        }
    }

    /// As `HOLDS` is read: a letter that nobody knows holds a key at most.
    fn of_letter(letter: i8) -> Scope {
        match letter as u8 {
            b't' => Scope::Tenant,
            _ => Scope::Key,
        }
    }

    /// The column of `forebay.parked` that holds its value.
    fn column(self) -> &'static str {
        match self {
            Scope::Key => "key",
            Scope::Tenant => "tenant",
        }
    }
}

/// A key or a tenant of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub topic: String,
    pub scope: Scope,
    pub value: Vec<u8>,
}

/// A hold is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// It was there before.
    pub before: bool,
}

/// A hold is there no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unheld {
    /// It was there before.
    pub before: bool,
    /// What is parked of its key or tenant: the slow lane applies it now.
    pub records: i64,
    pub keys: i64,
    /// Keys of these that wait behind a dead letter, and so for a person.
    pub dead: i64,
    /// Other holds of the topic.
    pub others: i64,
}

/// The lock keeps a reset from forgetting the topic meanwhile. $1 group, $2 topic, $3 scope, $4 value.
const HOLD: &str = "\
WITH s AS MATERIALIZED (SELECT id FROM forebay.source WHERE grp = $1 AND topic = $2 FOR KEY SHARE), \
i AS (INSERT INTO forebay.hold (source, scope, value) SELECT id, $3, $4 FROM s ON CONFLICT DO NOTHING RETURNING 1) \
SELECT NOT EXISTS (SELECT 1 FROM i) FROM s";

const UNHOLD: &str = "\
WITH s AS MATERIALIZED (SELECT id FROM forebay.source WHERE grp = $1 AND topic = $2), \
d AS (DELETE FROM forebay.hold h USING s WHERE h.source = s.id AND h.scope = $3 AND h.value = $4 RETURNING 1) \
SELECT s.id, EXISTS (SELECT 1 FROM d) FROM s";

/// Those of [`HOLD`] and [`UNHOLD`].
fn params<'p>(config: &'p Config, hold: &'p Hold, scope: &'p i8) -> [(&'p (dyn ToSql + Sync), Type); 4] {
    [(&config.kafka.group_id, Type::TEXT), (&hold.topic, Type::TEXT), (scope, Type::CHAR), (&hold.value, Type::BYTEA)]
}

/// Holds a key or a tenant in each shard that knows the topic, or in one. What a shard that does not know it says: nothing.
/// A topic is known where some process has ever taken a partition of it over.
///
/// # Errors
/// [`Failure::Topic`] for a topic that cannot park; [`Failure::Shard`] for a shard that the configuration does not name.
pub fn park(config: &Config, hold: &Hold, shard: Option<&str>) -> Result<Vec<Answer<Option<Held>>>, Failure> {
    let topic = config.topics.iter().find(|topic| topic.name == hold.topic);
    if topic.is_some_and(|topic| topic.delivery == Delivery::AtLeastOnce) {
        let text = format!(
            "topic {:?}: with delivery = \"at_least_once\" nothing can be parked: there are no fences to keep the order by",
            hold.topic
        );
        return Err(Failure::Topic(Reason::new(text)));
    }
    shards::each(config, shard, schema::PARKING, |client, _| {
        let row = client
            .query_typed_opt(HOLD, &params(config, hold, &hold.scope.letter()))
            .map_err(|error| sqlstate::failure(&error))?;
        Ok(row.map(|row| Held { before: row.get(0) }))
    })
}

/// Lets a key or a tenant go on, and says what of it is parked.
///
/// # Errors
/// [`Failure::Shard`] for a shard that the configuration does not name.
pub fn unpark(config: &Config, hold: &Hold, shard: Option<&str>) -> Result<Vec<Answer<Option<Unheld>>>, Failure> {
    let left = format!(
        "SELECT count(*), count(DISTINCT (q.partition, q.key_hash)), count(*) FILTER (WHERE q.state = 'd'), \
         (SELECT count(*) FROM forebay.hold h WHERE h.source = $1) FROM forebay.parked q WHERE q.source = $1 AND q.{} = $2",
        hold.scope.column()
    );
    shards::each(config, shard, schema::PARKING, |client, _| {
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        let Some(row) = client.query_typed_opt(UNHOLD, &params(config, hold, &hold.scope.letter())).map_err(failed)?
        else {
            return Ok(None);
        };
        let (source, before): (i32, bool) = (row.get(0), row.get(1));
        let row =
            client.query_typed_one(&left, &[(&source, Type::INT4), (&hold.value, Type::BYTEA)]).map_err(failed)?;
        let (records, keys, dead, others) = (row.get(0), row.get(1), row.get(2), row.get(3));
        Ok(Some(Unheld { before, records, keys, dead, others }))
    })
}
