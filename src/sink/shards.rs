//! The same question to every shard, for commands that work on the databases alone: they need no broker and no running process.

use postgres::Client;

use crate::config::{self, Config};
use crate::sink::pool::Pool;
use crate::sink::schema::{self, Expected, Version};
use crate::sink::{Failure, Reason};
use crate::types::ShardIx;

/// What the connections of such commands call themselves. They own nothing.
pub const PURPOSE: &str = "command";

/// What a shard says, or why it says nothing.
pub type Answer<T> = (String, Result<T, Failure>);

/// Asks each shard, or only the one of this name, and says which version its tables have. Where they are older than `since`, or
/// forebay was never there, there is nothing.
///
/// # Errors
/// [`Failure::Shard`] for a shard that the configuration does not name.
pub fn each<T: Default>(
    config: &Config,
    only: Option<&str>,
    since: Version,
    ask: impl Fn(&mut Client, Version) -> Result<T, Failure>,
) -> Result<Vec<Answer<T>>, Failure> {
    if let Some(name) = only.filter(|name| config.shards.iter().all(|shard| shard.name != *name)) {
        let names: Vec<&str> = config.shards.iter().map(|shard| shard.name.as_str()).collect();
        return Err(Failure::Shard(Reason::new(format!("no shard {name:?}; expected one of {}", names.join(", ")))));
    }
    let answer = |(index, shard): (usize, &config::Shard)| {
        let connect_and_ask = || {
            let mut client = Pool::new(shard, &config.kafka.group_id, PURPOSE, 1)?.get()?;
            let version = schema::inspect(&mut client, &Expected::new(config, ShardIx(index as u16)))?;
            match version.filter(|found| *found >= since) {
                Some(version) => ask(&mut client, version),
                None => Ok(T::default()),
            }
        };
        (shard.name.clone(), connect_and_ask())
    };
    let meant = |shard: &config::Shard| only.is_none_or(|name| name == shard.name);
    Ok(config.shards.iter().enumerate().filter(|(_, shard)| meant(shard)).map(answer).collect())
}
