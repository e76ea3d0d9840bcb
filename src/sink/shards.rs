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

/// Asks each shard, or only the one of this name, and says which version its tables have; all at once, so that one that is away keeps
/// nobody waiting for the others. Where they are older than `since`, or forebay was never there, there is nothing.
///
/// # Errors
/// [`Failure::Shard`] for a shard that the configuration does not name.
pub fn each<T: Default + Send>(
    config: &Config,
    only: Option<&str>,
    since: Version,
    ask: impl Fn(&mut Client, Version) -> Result<T, Failure> + Sync,
) -> Result<Vec<Answer<T>>, Failure> {
    only.map(|name| position(config.shards.iter().map(|shard| shard.name.as_str()), name)).transpose()?;
    let answer = |index: usize, shard: &config::Shard| {
        let mut client = Pool::new(shard, &config.kafka.group_id, PURPOSE, 1)?.get()?;
        let version = schema::inspect(&mut client, &Expected::new(config, ShardIx(index as u16)))?;
        match version.filter(|found| *found >= since) {
            Some(version) => ask(&mut client, version),
            None => Ok(T::default()),
        }
    };
    let meant = |shard: &config::Shard| only.is_none_or(|name| name == shard.name);
    let shards: Vec<_> = config.shards.iter().enumerate().filter(|(_, shard)| meant(shard)).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = shards.iter().map(|(index, shard)| scope.spawn(|| answer(*index, shard))).collect();
        let joined = asked.into_iter().map(|asked| asked.join().expect("asking a database does not panic"));
        Ok(shards.iter().map(|(_, shard)| shard.name.clone()).zip(joined).collect())
    })
}

/// Where a shard is among those of these names.
///
/// # Errors
/// [`Failure::Shard`] for one that is not among them.
pub fn position<'n>(names: impl Iterator<Item = &'n str> + Clone, name: &str) -> Result<usize, Failure> {
    names.clone().position(|known| known == name).ok_or_else(|| {
        let names: Vec<&str> = names.collect();
        Failure::Shard(Reason::new(format!("no shard {name:?}; expected one of {}", names.join(", "))))
    })
}
