//! The rows of each tab: which of a status' things, in what order. Says nothing of how they look.

use std::cmp::Reverse;

use super::parked::{Bytes, Entry};
use super::state::{KeySort, Sort, State, Tab};
use crate::admin::diagnosis::{of_shard, oldest_unparked};
use crate::admin::status::{Frontier, Partition, Shard, Topic, TopicState};

/// What a row stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    Shard(String),
    Partition(String, i32),
    Topic(String),
    Key { shard: String, topic: String, name: String },
}

/// Of the tab that is open.
pub fn ids(state: &State) -> Vec<Id> {
    match state.tab {
        Tab::Shards => shards(state).into_iter().map(|shard| Id::Shard(shard.name.clone())).collect(),
        Tab::Overview => furthest(state).into_iter().map(partition_id).collect(),
        Tab::Partitions => partitions(state).into_iter().map(partition_id).collect(),
        Tab::Topics => topics(state).into_iter().map(|topic| Id::Topic(topic.name.clone())).collect(),
        Tab::Keys => keys(state).iter().map(KeyRow::id).collect(),
    }
}

fn partition_id(partition: &Partition) -> Id {
    Id::Partition(partition.topic.clone(), partition.partition)
}

/// The worst first.
pub fn shards(state: &State) -> Vec<&Shard> {
    let mut shards: Vec<&Shard> = state.last().map(|status| status.shards.iter().collect()).unwrap_or_default();
    let worst = |shard: &&Shard| state.last().and_then(|status| of_shard(status, &shard.name));
    shards.sort_by_key(|shard| Reverse(worst(shard)));
    shards
}

/// The record that a row of the lists is about, as its time lag is: the oldest that is not parked, else the oldest that is.
pub fn shown(partition: &Partition) -> Option<&Frontier> {
    oldest_unparked(partition).or(partition.frontier.as_ref())
}

/// Of a topic, without what is parked.
pub fn time_lag_ms(state: &State, topic: &Topic) -> u64 {
    let partitions = state.last().map(|status| status.partitions.as_slice()).unwrap_or_default();
    let of_it = partitions.iter().filter(|partition| partition.topic == topic.name);
    of_it.map(|partition| partition.unparked_lag_ms).max().unwrap_or(0)
}

/// Furthest behind first, whatever the sorting of the other tab.
pub fn furthest(state: &State) -> Vec<&Partition> {
    let mut partitions = filtered(state);
    partitions
        .sort_by_key(|partition| Reverse((partition.unparked_lag_ms, partition.message_lag, partition.parked_age_ms)));
    partitions
}

pub fn partitions(state: &State) -> Vec<&Partition> {
    let mut partitions = filtered(state);
    match state.sort {
        Sort::TimeLag => partitions.sort_by_key(|partition| Reverse(partition.unparked_lag_ms)),
        Sort::MessageLag => partitions.sort_by_key(|partition| Reverse(partition.message_lag)),
        Sort::InFlight => partitions.sort_by_key(|partition| Reverse(partition.in_flight_records)),
        // They come by name.
        Sort::Name => {}
    }
    if state.reversed {
        partitions.reverse();
    }
    partitions
}

fn filtered(state: &State) -> Vec<&Partition> {
    let Some(status) = state.last() else { return Vec::new() };
    let matches = |partition: &&Partition| {
        let frontier = shown(partition);
        let name = format!("{} [{}]", partition.topic, partition.partition);
        let shard = frontier.and_then(|frontier| frontier.shard.as_deref());
        let worker = frontier.and_then(|frontier| frontier.worker.as_deref());
        let key = frontier.and_then(|frontier| frontier.key.as_deref());
        has(
            state,
            [Some(name.as_str()), Some(&partition.state), frontier.map(|f| f.place.as_str()), shard, worker, key],
        )
    };
    status.partitions.iter().filter(matches).collect()
}

/// In the configuration's order, those that do not run first.
pub fn topics(state: &State) -> Vec<&Topic> {
    let Some(status) = state.last() else { return Vec::new() };
    let matches = |topic: &&Topic| has(state, [Some(topic.name.as_str()), topic.table.as_deref()]);
    let mut topics: Vec<&Topic> = status.topics.iter().filter(matches).collect();
    topics.sort_by_key(|topic| match topic.state {
        TopicState::Stopped => 0,
        TopicState::Paused => 1,
        TopicState::Running => 2,
    });
    topics
}

/// A key that stands out: by its records, by the time that they take, or because it is parked.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRow {
    pub shard: String,
    pub topic: String,
    pub partition: Option<i32>,
    /// Null where only the hash is known, and for a tenant.
    pub key: Option<String>,
    pub hash: Option<String>,
    pub tenant: Option<String>,
    pub count: Option<f64>,
    pub time: Option<f64>,
    /// Somebody holds it.
    pub held: bool,
    pub parked: Option<Waiting>,
}

/// What of a key is parked.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub records: u64,
    pub age_s: u64,
    pub reason: String,
    pub error: Option<String>,
}

impl KeyRow {
    fn new(shard: &str, topic: &str) -> KeyRow {
        KeyRow {
            shard: shard.to_owned(),
            topic: topic.to_owned(),
            partition: None,
            key: None,
            hash: None,
            tenant: None,
            count: None,
            time: None,
            held: false,
            parked: None,
        }
    }

    pub fn name(&self) -> String {
        match (&self.tenant, &self.key, &self.hash) {
            (Some(tenant), ..) => format!("tenant {tenant}"),
            (_, Some(key), _) => key.clone(),
            (.., hash) => format!("#{}", hash.as_deref().unwrap_or("?")),
        }
    }

    fn id(&self) -> Id {
        Id::Key { shard: self.shard.clone(), topic: self.topic.clone(), name: self.name() }
    }
}

pub fn keys(state: &State) -> Vec<KeyRow> {
    let mut rows: Vec<KeyRow> = Vec::new();
    for top in state.last().iter().flat_map(|status| &status.top_keys) {
        let by_count = top.by_count.iter().map(|key| (key, true));
        for (key, is_count) in by_count.chain(top.by_time.iter().map(|key| (key, false))) {
            let same = |row: &&mut KeyRow| {
                row.shard == top.shard && row.topic == top.topic && row.hash.as_ref() == Some(&key.hash)
            };
            let row = match rows.iter_mut().find(same) {
                Some(row) => row,
                None => {
                    let row = KeyRow { hash: Some(key.hash.clone()), ..KeyRow::new(&top.shard, &top.topic) };
                    rows.push(KeyRow { partition: Some(key.partition), key: key.key.clone(), ..row });
                    rows.last_mut().expect("pushed just now")
                }
            };
            *(if is_count { &mut row.count } else { &mut row.time }) = Some(key.share);
        }
    }
    add_parked(state, &mut rows);
    rows.retain(|row| has(state, [Some(row.name().as_str()), Some(&row.topic), Some(&row.shard)]));
    let share = |share: Option<f64>| (share.unwrap_or(-1.0) * 1e6) as i64;
    let age = |row: &KeyRow| (row.parked.as_ref().map(|waiting| waiting.age_s), row.held);
    match state.key_sort {
        KeySort::Count => rows.sort_by_key(|row| Reverse((share(row.count), share(row.time), age(row)))),
        KeySort::Time => rows.sort_by_key(|row| Reverse((share(row.time), share(row.count), age(row)))),
        KeySort::Parked => rows.sort_by_key(|row| Reverse(age(row))),
    }
    rows
}

fn add_parked(state: &State, rows: &mut Vec<KeyRow>) {
    let Some(Ok(parked)) = &state.parked else { return };
    for entry in &parked.entries {
        match entry {
            Entry::Key(key) => {
                let row = row_of(rows, &key.shard, &key.topic, key.key.as_ref());
                row.partition = Some(key.partition);
                row.held |= key.held;
                row.parked = Some(Waiting {
                    records: key.records,
                    age_s: key.age_s,
                    reason: if key.dead_letter { "dead letter".to_owned() } else { key.reason.clone() },
                    error: key.error.clone(),
                });
            }
            Entry::Hold(hold) if hold.scope == "key" => {
                row_of(rows, &hold.shard, &hold.topic, Some(&hold.value)).held = true;
            }
            Entry::Hold(hold) => {
                let row = KeyRow::new(&hold.shard, &hold.topic);
                rows.push(KeyRow { tenant: Some(hold.value.shown()), held: true, ..row });
            }
            Entry::Other => {}
        }
    }
}

fn row_of<'a>(rows: &'a mut Vec<KeyRow>, shard: &str, topic: &str, key: Option<&Bytes>) -> &'a mut KeyRow {
    let text = key.and_then(Bytes::text);
    // Bytes that are no text are shown, but name no key that could be parked.
    let hash = key.filter(|_| text.is_none()).map(Bytes::shown);
    let same = |row: &KeyRow| {
        let named = text.is_some() && row.key.as_deref() == text || hash.is_some() && row.hash == hash;
        row.shard == shard && row.topic == topic && row.tenant.is_none() && named
    };
    let index = rows.iter().position(same).unwrap_or_else(|| {
        rows.push(KeyRow { key: text.map(str::to_owned), hash: hash.clone(), ..KeyRow::new(shard, topic) });
        rows.len() - 1
    });
    &mut rows[index]
}

/// Whether the filter is in one of the texts; letters match both cases.
fn has<'a>(state: &State, texts: impl IntoIterator<Item = Option<&'a str>>) -> bool {
    let filter = state.filter.to_lowercase();
    filter.is_empty() || texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&filter))
}
