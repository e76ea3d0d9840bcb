//! A configuration that is read again while the engine runs: what differs from the one before, and the one that holds now.
//! Knows settings by name only; what a change means to whoever uses the setting is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::Config;

/// What each setting came to when it was read, defaults and the content of files included: as fingerprints, because some of
/// it is secret.
#[derive(Debug, Clone, Default)]
pub struct Readings(BTreeMap<String, Reading>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    fingerprint: u64,
    reloads: bool,
}

impl Readings {
    pub(super) fn note(&mut self, key: &str, reloads: bool, value: &dyn Debug) {
        let fingerprint = xxh3_64(format!("{value:?}").as_bytes());
        self.0.insert(key.to_owned(), Reading { fingerprint, reloads });
    }

    /// Whether something under this table (`shard[1].`) was read at all.
    fn has_table(&self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix))
    }
}

/// The settings that two readings of a configuration differ in, by the keys of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// A running process can take these over.
    pub reload: BTreeSet<String>,
    /// These take effect with the next start only.
    pub restart: BTreeSet<String>,
}

impl Changes {
    pub fn between(old: &Config, new: &Config) -> Changes {
        let (old, new) = (&old.readings, &new.readings);
        let mut changes = Changes::default();
        for key in old.0.keys().chain(new.0.keys()) {
            let (before, after) = (old.0.get(key), new.0.get(key));
            if before == after {
                continue;
            }
            // A whole table that came or went is one change, not one for each of its settings.
            let table = key.find(']').map(|at| &key[..=at]);
            let lacks = |readings: &Readings, table: &str| !readings.has_table(&format!("{table}."));
            match table.filter(|table| lacks(old, table) || lacks(new, table)) {
                Some(table) => changes.restart.insert(table.to_owned()),
                None if before.or(after).is_some_and(|reading| reading.reloads) => changes.reload.insert(key.clone()),
                None => changes.restart.insert(key.clone()),
            };
        }
        changes
    }
}

/// The configuration that holds now, shared by everybody who uses settings that reload. A version that rises says that it
/// is another one: a look at it is one load, cheap enough for every batch.
#[derive(Debug)]
pub struct Live {
    current: Mutex<Arc<Config>>,
    version: AtomicU64,
}

impl Live {
    pub fn new(config: Arc<Config>) -> Live {
        Live { current: Mutex::new(config), version: AtomicU64::new(0) }
    }

    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.current.lock())
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whoever sees the new version sees the new configuration.
    pub fn replace(&self, config: Arc<Config>) {
        *self.current.lock() = config;
        self.version.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::parse;

    const FILE: &str = "[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\nsasl.password = { env = \"PASSWORD\" }\n[shards]\nby = \"map\"\n\
                        map_file = \"m\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n\
                        [topic.columns]\nx = \"/y\"\n";

    fn read(text: &str, map: &str, password: &str) -> Config {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("m"), map).expect("writable");
        let environment = |name: &str| (name == "PASSWORD").then(|| password.into());
        parse(&dir.path().join("f.toml"), text, &environment).expect("valid").config
    }

    #[track_caller]
    fn check(old: &str, new: &str, reload: &[&str], restart: &[&str]) {
        let (before, after) = (read(FILE, "x = \"a\"", "p"), read(&FILE.replace(old, new), "x = \"a\"", "p"));
        let found = Changes::between(&before, &after);
        let words = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
        assert_eq!((words(&found.reload), words(&found.restart)), (strings(reload), strings(restart)));
    }

    fn strings(of: &[&str]) -> Vec<String> {
        of.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_differs_is_named_by_its_key() {
        check("[kafka]", "# a comment\n[kafka]", &[], &[]);
        check("[[topic]]", "[engine]\nlanes = 16\ndelivery = \"exactly_once\"\n[[topic]]", &[], &[]);
        check("[[topic]]", "[engine]\nlanes = 32\n[[topic]]", &[], &["engine.lanes"]);
        check("map_file", "default = \"a\"\nmap_file", &["shards.default"], &[]);
        check(
            "by = \"map\"",
            "by = \"map\"\ndefault = \"a\"\ntenant = \"key:0\"",
            &["shards.default"],
            &["shards.tenant"],
        );
        check("bootstrap", "fetch.min.bytes = 2\nbootstrap", &[], &["kafka.fetch.min.bytes"]);
        check("host=a", "host=b", &[], &["shard[0].dsn"]);
        check("/y", "/z", &[], &["topic[0].columns.x"]);
        check("[[topic]]", "[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n[[topic]]", &[], &["shard[1]"]);
        let another = "[[topic]]\nname = \"u\"\ntable = \"u\"\n[[topic]]\nname = \"t\"";
        check(
            "[[topic]]\nname = \"t\"",
            another,
            &[],
            &["topic[0].columns.x", "topic[0].name", "topic[0].table", "topic[1]"],
        );
    }

    #[test]
    fn what_files_and_variables_hold_counts() {
        let old = read(FILE, "x = \"a\"", "p");
        let found = Changes::between(&old, &read(FILE, "x = \"a\"\ny = \"a\"", "q"));
        assert_eq!(found.reload, BTreeSet::from(["shards.map_file".to_owned()]));
        assert_eq!(found.restart, BTreeSet::from(["kafka.sasl.password".to_owned()]));
    }
}
