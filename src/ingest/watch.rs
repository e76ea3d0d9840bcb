//! Who asks the databases what their tables are like, and the brokers how many partitions topics have: at the start, and every so often. What
//! comes of it are new rules. Whoever is away keeps nobody waiting: what was known of it holds, however old.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use rdkafka::producer::Producer;

use crate::clock::unix_ms;
use crate::config::live::Live;
use crate::config::{Config, Target};
use crate::ingest::catalog::{Known, topics};
use crate::ingest::rules::Rules;
use crate::ingest::service::Shared;
use crate::sink::Failure;
use crate::sink::catalog::{Catalog, CatalogError};
use crate::sink::connections;
use crate::sink::pool::Pool;
use crate::sink::sqlstate;

/// Longest wait for one answer of the brokers.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// How soon is asked again while something is missing, or somebody is away.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module's text.
pub struct Watch {
    live: Arc<Live>,
    shared: Arc<Shared>,
    file: PathBuf,
    found: Mutex<Found>,
    /// Two threads would write one file by one name.
    saving: Mutex<()>,
}

#[derive(Default)]
struct Found {
    known: Known,
    /// By topic.
    partitions: Vec<Option<i32>>,
    /// Of shards and brokers that said nothing when they were asked last, and why.
    shards: BTreeMap<usize, String>,
    brokers: Option<String>,
    /// Of topics that the brokers do not know.
    topics: BTreeMap<usize, String>,
    /// What was said of what is missing.
    missing: Vec<String>,
    saved: Option<Known>,
    save_failed: bool,
}

/// What is known, and what is not.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Why requests are refused that are not at fault.
    pub missing: Vec<String>,
    /// By shard: its name, when its tables were last seen (ms since the Unix epoch), and why it says nothing now.
    pub shards: Vec<(String, Option<u64>, Option<String>)>,
    /// The topics and their partitions.
    pub topics: Vec<(String, Option<i32>)>,
    pub brokers: Option<String>,
}

impl Watch {
    /// With what the file has, and rules made of it.
    pub fn new(live: Arc<Live>, shared: Arc<Shared>) -> Watch {
        let config = live.get();
        let file = shared.ingest.catalog_file.clone();
        let known = Known::load(&file).unwrap_or_else(|error| {
            tracing::warn!("what the tables are like is asked anew: {}: {error}", file.display());
            Known::default()
        });
        let partitions = vec![None; config.topics.len()];
        let found = Found { saved: Some(known.clone()), known, partitions, ..Found::default() };
        let watch = Watch { live, shared, file, found: Mutex::new(found), saving: Mutex::default() };
        watch.rebuild();
        watch
    }

    /// Rules made of what is known and configured now.
    pub fn rebuild(&self) {
        let mut found = self.found.lock();
        // Read under the lock: of two who rebuild, the later one has the newer configuration.
        let config = self.live.get();
        let rules = Rules::new(&config, &found.known.tables(&config), &found.partitions);
        let missing = rules.missing(&config);
        for new in missing.iter().filter(|line| !found.missing.contains(line)) {
            tracing::warn!("requests are refused: {new}");
        }
        if missing.is_empty() && !found.missing.is_empty() {
            tracing::info!("tables and partitions of all routes are known");
        }
        found.missing = missing;
        self.shared.set_rules(rules);
    }

    pub fn report(&self) -> Report {
        let config = self.live.get();
        let found = self.found.lock();
        let shard = |(index, shard): (usize, &crate::config::Shard)| {
            (shard.name.clone(), found.known.seen_at_ms(&config, index), found.shards.get(&index).cloned())
        };
        let mut missing = found.missing.clone();
        missing.extend(found.topics.values().cloned());
        Report {
            missing,
            shards: config.shards.iter().enumerate().map(shard).collect(),
            topics: topics(&config).into_iter().map(|t| (config.topics[t].name.clone(), found.partitions[t])).collect(),
            brokers: found.brokers.clone(),
        }
    }

    /// Whether requests can be served.
    pub fn is_complete(&self) -> bool {
        self.found.lock().missing.is_empty()
    }

    /// Asks the shards until it is told to end, by the channel's other end.
    pub fn follow_tables(&self, end: &Receiver<()>) {
        self.follow(end, || {
            self.look_at_tables();
            let found = self.found.lock();
            found.shards.is_empty() && found.missing.is_empty()
        });
    }

    /// Likewise the brokers.
    pub fn follow_topics(&self, end: &Receiver<()>) {
        self.follow(end, || {
            self.look_at_topics();
            let found = self.found.lock();
            found.brokers.is_none() && found.topics.is_empty() && found.partitions_are_known(&self.live.get())
        });
    }

    fn follow(&self, end: &Receiver<()>, look: impl Fn() -> bool) {
        let interval = self.shared.ingest.catalog_interval;
        loop {
            let wait = if look() { interval } else { interval.min(AGAIN) };
            if end.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Asks every shard, all at the same time.
    pub fn look_at_tables(&self) {
        let config = self.live.get();
        let answers: Vec<Result<Vec<OfTable>, String>> = std::thread::scope(|scope| {
            let config = &config;
            let ask = |shard| scope.spawn(move || tables_of(config, shard));
            let asked: Vec<_> = (0..config.shards.len()).map(ask).collect();
            let died = |_| Err("its thread has died".to_owned());
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(died)).collect()
        });
        let now = unix_ms() as u64;
        let mut changed = false;
        let mut found = self.found.lock();
        for (shard, answer) in answers.into_iter().enumerate() {
            let name = &config.shards[shard].name;
            let mut silent = Vec::new();
            match answer {
                // One table that is not as it should be is nothing to the others.
                Ok(tables) => {
                    for (topic, catalog) in tables {
                        let Target::Table(table) = &config.topics[topic].target else { continue };
                        match catalog {
                            Ok(catalog) => changed |= found.known.learn_table(name, table, catalog, now),
                            Err(why) => silent.push(why),
                        }
                    }
                }
                Err(why) => silent.push(why),
            }
            let why = silent.join("; ");
            if silent.is_empty() {
                if found.shards.remove(&shard).is_some() {
                    tracing::info!(shard = name, "shard {name} says again what its tables are like");
                }
            } else if found.shards.insert(shard, why.clone()).is_none() {
                let since = match found.known.seen_at_ms(&config, shard) {
                    Some(at) => format!("what it said {} ago holds", crate::words::age(now.saturating_sub(at))),
                    None => "of some of them nothing is known".to_owned(),
                };
                tracing::warn!(shard = name, "shard {name} does not say what its tables are like: {why}; {since}");
            }
        }
        drop(found);
        if changed {
            self.rebuild();
        }
        self.save();
    }

    /// Asks the brokers.
    pub fn look_at_topics(&self) {
        let producer = self.shared.sender.current();
        self.learn_topics(|name| {
            let metadata = producer.client().fetch_metadata(Some(name), ASK_DEADLINE).map_err(|error| {
                let why = producer.context().last().map(|why| format!(" ({why})")).unwrap_or_default();
                format!("the brokers do not answer: {error}{why}")
            })?;
            let described = metadata.topics().iter().find(|found| found.name() == name);
            let why = described.and_then(|topic| topic.error()).map(rdkafka::types::RDKafkaErrorCode::from);
            let count = described.filter(|_| why.is_none()).map_or(0, |topic| topic.partitions().len());
            Ok(if count > 0 { Ok(count as i32) } else { Err(why.map_or_else(String::new, |why| format!(": {why}"))) })
        });
    }

    /// `ask`: how many partitions a topic has, or why it has none; or that nobody answers.
    fn learn_topics(&self, mut ask: impl FnMut(&str) -> Result<Result<i32, String>, String>) {
        let config = self.live.get();
        let mut changed = false;
        for topic in topics(&config) {
            let name = &config.topics[topic].name;
            let answer = ask(name);
            let mut found = self.found.lock();
            let count = match answer {
                Ok(count) => count,
                Err(why) => {
                    if found.brokers.replace(why.clone()).is_none() {
                        tracing::warn!("{why}");
                    }
                    // What was learned of the topics before this one holds all the same.
                    break;
                }
            };
            if found.brokers.take().is_some() {
                tracing::info!("the brokers answer again");
            }
            match count {
                Ok(count) => changed |= found.learn_topic(&config, topic, count),
                Err(why) => {
                    let line = format!("topic {name}: the brokers do not know it{why}");
                    if found.topics.insert(topic, line.clone()).is_none() {
                        tracing::warn!("{line}");
                    }
                }
            }
        }
        if changed {
            self.rebuild();
        }
        self.save();
    }

    /// Writes the file, where there is something new.
    fn save(&self) {
        let _saving = self.saving.lock();
        let (known, failed) = {
            let found = self.found.lock();
            if found.saved.as_ref() == Some(&found.known) {
                return;
            }
            (found.known.clone(), found.save_failed)
        };
        let saved = known.save(&self.file);
        if let Err(error) = &saved
            && !failed
        {
            let file = self.file.display();
            tracing::warn!("{file}: {error}; without it a gateway does not start while its databases are away");
        }
        let mut found = self.found.lock();
        found.save_failed = saved.is_err();
        found.saved = Some(known);
    }
}

impl Found {
    /// Whether it is another number than before.
    fn learn_topic(&mut self, config: &Config, topic: usize, count: i32) -> bool {
        let name = &config.topics[topic].name;
        self.topics.remove(&topic);
        if let Some(before) = self.known.learn_topic(name, count).filter(|before| *before != count) {
            tracing::warn!(
                topic = name,
                "topic {name} has {count} partitions, and had {before}: keys move to other partitions, and records of a key \
                 that were published before may be applied after those that are published from now on"
            );
        }
        self.partitions[topic].replace(count) != Some(count)
    }

    fn partitions_are_known(&self, config: &Config) -> bool {
        topics(config).into_iter().all(|topic| self.partitions[topic].is_some())
    }
}

/// A topic, and what its table is like; or why that is not known.
pub type OfTable = (usize, Result<Catalog, String>);

/// The tables of a shard, by topic; or why it says nothing at all.
pub fn tables_of(config: &Config, shard: usize) -> Result<Vec<OfTable>, String> {
    let said = |failure: Failure| failure.reason().to_string();
    let pool = Pool::new(&config.shards[shard], &config.kafka.group_id, connections::INGEST, 1).map_err(said)?;
    let mut client = pool.get().map_err(said)?;
    let mut tables = Vec::new();
    for topic in topics(config) {
        let Target::Table(table) = &config.topics[topic].target else { continue };
        let catalog = Catalog::read(&mut client, table).map_err(|error| match error {
            CatalogError::Database(error) => sqlstate::failure(&error).reason().to_string(),
            error => error.to_string(),
        });
        tables.push((topic, catalog));
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::producer::{Sender, producer_config};
    use crate::ingest::queue::{Counts, Queue, Repliers};
    use crate::ingest::samples;
    use crate::ingest::sync::Lines;

    /// Of a gateway whose brokers and databases nobody asks.
    fn watch(directory: &std::path::Path, more: &str) -> Watch {
        let config =
            Arc::new(samples::config(&format!("[ingest]\ncatalog_file = {:?}\n{more}", directory.join("c.json"))));
        let ingest = config.ingest.as_ref().expect("a gateway");
        let (counts, queue) = (Arc::new(Counts::new(1)), Arc::new(Queue::new(10, 1000)));
        let properties = producer_config(&config.kafka, ingest);
        let sender = Sender::new(properties, None, Arc::clone(&counts), Arc::clone(&queue), Repliers::default());
        let rules = Rules::new(&config, &Default::default(), &vec![None; config.topics.len()]);
        let shared = Shared::new(ingest, counts, queue, sender.expect("a producer"), Lines::default(), rules);
        Watch::new(Arc::new(Live::new(Arc::clone(&config))), Arc::new(shared))
    }

    fn in_force(watch: &Watch) -> Vec<Option<i32>> {
        watch.shared.rules().placements.iter().map(|p| p.as_ref().map(|p| p.partitions())).collect()
    }

    const TWO: &str = "[[topic]]\nname = \"u\"\ntable = \"subs\"\ninsert_mode = \"upsert\"\npk_fields = [\"app\", \"sub\"]\n\
                       [[ingest.route]]\npath = \"/u\"\nmethods = [\"PUT\"]\ntopic = \"u\"\n";

    /// Brokers that stop to answer in the middle of the questions.
    #[test]
    fn what_one_topic_is_like_is_not_lost_with_the_next_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let watch = watch(directory.path(), TWO);
        let ask = |first: i32, second: Result<i32, &str>| {
            let mut answers = vec![second.map(Ok).map_err(str::to_owned), Ok(Ok(first))];
            watch.learn_topics(|_| answers.pop().expect("two topics"));
            in_force(&watch)
        };
        assert_eq!(ask(4, Ok(4)), [Some(4), Some(4)]);
        assert_eq!(ask(8, Err("away")), [Some(8), Some(4)]);
        assert_eq!(watch.report().brokers.as_deref(), Some("away"));
        assert_eq!(ask(8, Ok(6)), [Some(8), Some(6)]);
        assert_eq!(watch.report().brokers, None);
        watch.learn_topics(|_| Ok(Err(String::new())));
        assert_eq!(in_force(&watch), [Some(8), Some(6)], "what was known holds");
        assert_eq!(watch.report().missing.iter().filter(|line| line.contains("do not know it")).count(), 2);
    }

    /// Both threads have news at the same time.
    #[test]
    fn the_file_is_whole_and_has_the_last_word_of_both() {
        let directory = tempfile::tempdir().expect("a directory");
        let watch = watch(directory.path(), TWO);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let watch = &watch;
                scope.spawn(move || {
                    for n in 1..=50 {
                        watch.found.lock().known.learn_topic(["t", "u"][thread], n);
                        watch.save();
                        assert!(Known::load(&watch.file).is_ok());
                    }
                });
            }
        });
        let mut known = Known::load(&watch.file).expect("ours");
        assert_eq!((known.learn_topic("t", 1), known.learn_topic("u", 1)), (Some(50), Some(50)));
        assert!(!watch.found.lock().save_failed);
    }
}
