//! What was learned of the databases and the brokers, and the file that keeps it, so that a gateway starts with every database away. Names of
//! columns and types are in it, and no row.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Table, Target};
use crate::ingest::rules::Tables;
use crate::sink::catalog::{Catalog, table_name};

/// Of the file's form: another one is not read.
const VERSION: u32 = 1;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    version: u32,
    tables: Vec<KnownTable>,
    topics: Vec<KnownTopic>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownTable {
    shard: String,
    /// As the configuration names it, quoted.
    table: String,
    /// When it was last seen like that, in milliseconds since the Unix epoch.
    seen_at_ms: u64,
    catalog: Catalog,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownTopic {
    topic: String,
    partitions: i32,
}

impl Default for Known {
    fn default() -> Known {
        Known { version: VERSION, tables: Vec::new(), topics: Vec::new() }
    }
}

impl Known {
    /// Nothing, where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of ours.
    pub fn load(file: &Path) -> io::Result<Known> {
        // Whoever opened something else, a pipe say, might wait for ever.
        let metadata = match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            found => found?,
        };
        if !metadata.is_file() {
            return Err(io::Error::other("found something else, expected a file"));
        }
        let bytes = fs::read(file)?;
        let known: Known = serde_json::from_slice(&bytes)?;
        match known.version {
            VERSION => Ok(known),
            other => Err(io::Error::other(format!("found version {other}, expected {VERSION}"))),
        }
    }

    /// Replaces the file at once, whoever reads it meanwhile.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = file.with_file_name(name);
        let write = || {
            let mut opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            opened.write_all(&serde_json::to_vec(self)?)?;
            opened.sync_all()?;
            fs::rename(&new, file)
        };
        write().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Notes how a table is; whether that is another form than before.
    pub fn learn_table(&mut self, shard: &str, table: &Table, catalog: Catalog, now_ms: u64) -> bool {
        let table = table_name(table);
        match self.tables.iter_mut().find(|known| known.shard == shard && known.table == table) {
            Some(known) => {
                known.seen_at_ms = now_ms;
                std::mem::replace(&mut known.catalog, catalog) != known.catalog
            }
            None => {
                self.tables.push(KnownTable { shard: shard.to_owned(), table, seen_at_ms: now_ms, catalog });
                true
            }
        }
    }

    /// Notes how many partitions a topic has, and returns how many it had.
    pub fn learn_topic(&mut self, topic: &str, partitions: i32) -> Option<i32> {
        match self.topics.iter_mut().find(|known| known.topic == topic) {
            Some(known) => Some(std::mem::replace(&mut known.partitions, partitions)),
            None => {
                self.topics.push(KnownTopic { topic: topic.to_owned(), partitions });
                None
            }
        }
    }

    /// The tables of the routes' topics.
    pub fn tables(&self, config: &Config) -> Tables {
        let mut tables = Tables::new();
        for (shard, topic, table) in wanted(config) {
            let (shard_name, name) = (&config.shards[shard].name, table_name(table));
            let known = self.tables.iter().find(|known| known.shard == *shard_name && known.table == name);
            tables.extend(known.map(|known| ((shard, topic), known.catalog.clone())));
        }
        tables
    }

    /// When the oldest of a shard's tables was last seen; none while one of them never was.
    pub fn seen_at_ms(&self, config: &Config, shard: usize) -> Option<u64> {
        let of_shard = wanted(config).into_iter().filter(|(index, ..)| *index == shard);
        let seen = of_shard.map(|(_, _, table)| {
            let name = table_name(table);
            let known =
                self.tables.iter().find(|known| known.shard == config.shards[shard].name && known.table == name);
            known.map(|known| known.seen_at_ms)
        });
        seen.collect::<Option<Vec<u64>>>()?.into_iter().min()
    }
}

/// The topics that routes lead to, by their index.
pub fn topics(config: &Config) -> Vec<usize> {
    let mut topics: Vec<usize> =
        config.ingest.iter().flat_map(|ingest| &ingest.routes).map(|route| route.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// Shard, topic and table of everything that is to be known.
fn wanted(config: &Config) -> Vec<(usize, usize, &Table)> {
    let topics = topics(config);
    let of_shard = |shard: usize| {
        topics.iter().filter_map(move |topic| match &config.topics[*topic].target {
            Target::Table(table) => Some((shard, *topic, table)),
            Target::Handler => None,
        })
    };
    (0..config.shards.len()).flat_map(of_shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::samples;

    #[test]
    fn what_was_learned_is_there_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("f.catalog.json");
        assert_eq!(Known::load(&file).expect("nothing yet"), Known::default());
        let config = samples::config("");
        let Target::Table(table) = &config.topics[0].target else { panic!("a table") };
        let mut known = Known::default();
        assert!(known.learn_table("main", table, samples::catalog(), 5));
        assert!(!known.learn_table("main", table, samples::catalog(), 7));
        assert_eq!((known.learn_topic("t", 8), known.learn_topic("t", 12)), (None, Some(8)));
        known.save(&file).expect("writable");
        let mut read = Known::load(&file).expect("ours");
        assert_eq!(read, known);
        assert_eq!(read.tables(&config).len(), 1);
        assert_eq!((read.seen_at_ms(&config, 0), Known::default().seen_at_ms(&config, 0)), (Some(7), None));
        let mut altered = samples::catalog();
        altered.columns.pop();
        assert!(read.learn_table("main", table, altered, 8));
        assert_eq!(fs::read_dir(directory.path()).expect("it").count(), 1, "nothing is left beside it");
        fs::write(&file, "{}").expect("writable");
        assert!(Known::load(&file).is_err());
        let lost = directory.path().join("no/such/directory");
        assert!(known.save(&lost).is_err());
    }
}
