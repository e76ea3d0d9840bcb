//! Reading the configuration again while the engine runs. A reading is taken over as a whole or not at all. Who uses a
//! setting that reloads looks at [`Live`].

use std::fmt;
use std::sync::Arc;

use crate::config::live::{Changes, Live};
use crate::config::load::load;
use crate::config::problem::Problems;
use crate::config::{Config, RouteBy};
use crate::sink::connect::Connector;
use crate::sink::schema::{self, Expected};
use crate::sink::{Failure, Reason};
use crate::state::tenants::{self, Contradiction, TenantMap};
use crate::types::ShardIx;

/// Makes a running engine read its configuration again. Cheap to clone; for any thread, but not for a signal's handler.
#[derive(Debug, Clone)]
pub struct Reloader {
    live: Arc<Live>,
    /// Of settings whose changes need a restart: whether this process has anything to do with them.
    concerns: fn(&str) -> bool,
}

/// Why a configuration was not taken over. What was in force still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadError {
    /// It cannot be read, or is not valid.
    Broken(Problems),
    /// It differs in settings that a running process cannot change: their keys.
    NeedsRestart(Vec<String>),
    /// It would send a tenant elsewhere than until now.
    Map(Contradiction),
    /// A database remembers that another process of the group sends a tenant elsewhere: which one, and what it says.
    Shard(String, Reason),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Broken(problems) => write!(f, "the configuration is not valid:\n{problems}"),
            ReloadError::Map(contradiction) => {
                let forget = "remove what the shards remember of the map (`forebay check` with the new map says how)";
                write!(f, "{contradiction}. {}", tenants::procedure(forget))
            }
            ReloadError::Shard(shard, reason) => write!(f, "shard {shard:?}: {reason}"),
            ReloadError::NeedsRestart(keys) => write!(f, "a change of {} needs a restart", keys.join(", ")),
        }
    }
}

impl std::error::Error for ReloadError {}

impl Reloader {
    /// `concerns`: of the key of a setting whose change needs a restart, whether this process has anything to do with it.
    pub fn new(live: Arc<Live>, concerns: fn(&str) -> bool) -> Reloader {
        Reloader { live, concerns }
    }

    /// Reads the file again, and with it those that it names. Returns the keys of what changed.
    ///
    /// # Errors
    /// See [`ReloadError`]; then nothing changed.
    pub fn reload(&self) -> Result<Vec<String>, ReloadError> {
        let old = self.live.get();
        let mut new = load(&old.file).map_err(ReloadError::Broken)?.config;
        if let RouteBy::Function { .. } = old.routing.by {
            new.routing.by = old.routing.by.clone();
        }
        let mut changes = Changes::between(&old, &new);
        changes.restart.retain(|key| (self.concerns)(key));
        if !changes.restart.is_empty() {
            return Err(ReloadError::NeedsRestart(changes.restart.into_iter().collect()));
        }
        if let (Some(before), Some(after)) = (TenantMap::of(&old), TenantMap::of(&new))
            && before != after
        {
            before.may_become(&after).map_err(ReloadError::Map)?;
            ask_shards(&new)?;
        }
        if !changes.reload.is_empty() {
            self.live.replace(Arc::new(new));
        }
        Ok(changes.reload.into_iter().collect())
    }
}

/// Asks every shard that answers whether it lets the new map in. One that does not answer is asked by the next connection
/// that leads to it, before anything is written.
fn ask_shards(config: &Config) -> Result<(), ReloadError> {
    let answers: Vec<(&str, Option<Failure>)> = std::thread::scope(|scope| {
        let ask = |index: usize| {
            let mut connector = Connector::new(&config.shards[index], &config.kafka.group_id, "reload")?;
            let mut opened = connector.connect()?;
            let known = schema::remembered_map(&mut opened.client, &Expected::new(config, ShardIx(index as u16)));
            opened.discard();
            known
        };
        let asked: Vec<_> = (0..config.shards.len()).map(|index| scope.spawn(move || ask(index))).collect();
        let answers = asked.into_iter().map(|asked| asked.join().expect("asking a database does not panic").err());
        config.shards.iter().map(|shard| shard.name.as_str()).zip(answers).collect()
    });
    for (shard, failure) in answers {
        match failure {
            Some(Failure::Shard(reason)) => return Err(ReloadError::Shard(shard.to_owned(), reason)),
            Some(failure) => {
                let reason = failure.reason();
                tracing::warn!(
                    shard,
                    sqlstate = reason.sqlstate,
                    "shard {shard} cannot be asked about the map now: {reason}"
                );
            }
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;

    const TEXT: &str = "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[shards]\nby = \"map\"\nmap_file = \"m\"\n\
                        [[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n";

    #[test]
    fn a_reading_is_taken_over_as_a_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).expect("writable");
        let file = directory.path().join("forebay.toml");
        write("m", "x = \"a\"");
        write("forebay.toml", TEXT);
        let engine = Engine::new(load(&file).expect("valid").config);
        let (reloader, live) = (engine.reloader(), Arc::clone(&engine.reloader().live));
        assert_eq!(reloader.reload(), Ok(vec![]));
        let gateway =
            "[ingest]\n[[ingest.route]]\npath = \"/t\"\nmethods = [\"POST\"]\ntopic = \"t\"\nkey = \"{id}\"\n";
        write("forebay.toml", &format!("{TEXT}{gateway}"));
        assert_eq!(reloader.reload(), Ok(vec![]), "the gateway is another process");
        write("m", "x = \"a\"\ny = \"a\"");
        write("forebay.toml", &TEXT.replace("[[topic]]", "[engine]\nlanes = 64\ncommit_interval_ms = 20\n[[topic]]"));
        let refused = reloader.reload().expect_err("a restart is needed").to_string();
        assert_eq!(refused, "a change of engine.commit_interval_ms, engine.lanes needs a restart");
        write("forebay.toml", "[kafka");
        assert!(matches!(reloader.reload(), Err(ReloadError::Broken(_))));
        write("forebay.toml", TEXT);
        write("m", "x = \"b\"");
        let refused = reloader.reload().expect_err("no such shard").to_string();
        assert!(refused.contains("tenants of \"b\""), "{refused}");
        assert_eq!(live.version(), 0, "nothing of all that was taken over");
        write("m", "x = \"a\"\ny = \"a\"");
        assert_eq!(reloader.reload(), Ok(vec!["shards.map_file".to_owned()]));
        assert_eq!((live.version(), reloader.reload()), (1, Ok(vec![])));
    }
}
