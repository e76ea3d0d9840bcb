//! `forebay dead-letters`: what could not be applied, and what a person decides about it. Works on the shards' tables alone; it
//! needs no broker and no running process.

pub mod discard;
pub mod list;
pub mod replay;

use postgres::Client;
use postgres::types::{ToSql, Type};

use crate::config::{self, Config};
use crate::sink::pool::Pool;
use crate::sink::schema::{self, Expected, Version};
use crate::sink::{Failure, Reason, sqlstate};
use crate::types::ShardIx;

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

/// What [`Filter`] means, for `forebay.dead_letter AS d`. $1 group; $2 topic, $3 partition, $4 offset, $5 id, $6 SQLSTATE,
/// $7 key: any where null; $8 whether those are meant, too, that somebody has decided about.
const MATCHES: &str = "\
d.grp = $1 AND ($2::text IS NULL OR d.topic = $2) AND ($3::int IS NULL OR d.partition = $3) \
AND ($4::bigint IS NULL OR d.\"offset\" = $4) AND ($5::bigint IS NULL OR d.id = $5) \
AND ($6::text IS NULL OR d.sqlstate = $6) AND ($7::bytea IS NULL OR d.key = $7) AND ($8 OR d.resolution IS NULL)";

/// Calls `run` with [`MATCHES`]' parameters.
fn with_params<T>(
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
pub type Answer<T> = (String, Result<Vec<T>, Failure>);

/// Asks each shard that is meant, and says which version its tables have. Where forebay was never there, there is nothing.
///
/// # Errors
/// [`Failure::Shard`] for a shard that the configuration does not name.
fn each<T>(
    config: &Config,
    filter: &Filter,
    ask: impl Fn(&mut Client, Version) -> Result<Vec<T>, Failure>,
) -> Result<Vec<Answer<T>>, Failure> {
    if let Some(name) = filter.shard.as_ref().filter(|name| config.shards.iter().all(|shard| shard.name != **name)) {
        let names: Vec<&str> = config.shards.iter().map(|shard| shard.name.as_str()).collect();
        return Err(Failure::Shard(Reason::new(format!("no shard {name:?}; expected one of {}", names.join(", ")))));
    }
    let answer = |(index, shard): (usize, &config::Shard)| {
        let connect_and_ask = || {
            let mut client = Pool::new(shard, &config.kafka.group_id, "letters", 1)?.get()?;
            let version = schema::inspect(&mut client, &Expected::new(config, ShardIx(index as u16)))?;
            match version.filter(|found| *found >= schema::LETTERS) {
                Some(version) => ask(&mut client, version),
                None => Ok(Vec::new()),
            }
        };
        (shard.name.clone(), connect_and_ask())
    };
    let meant = |shard: &config::Shard| filter.shard.as_ref().is_none_or(|name| *name == shard.name);
    Ok(config.shards.iter().enumerate().filter(|(_, shard)| meant(shard)).map(answer).collect())
}
