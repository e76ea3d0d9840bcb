//! The guarantees, as objects that watch every scenario. A scenario says only which of them it relaxes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use forebay::types::TopicPartition;

use super::broker::Id;
use super::db::{AnchorRow, Applied};
use super::group::MemberId;
use super::sink::show;
use super::world::World;

/// What observers are shown.
#[derive(Debug, Clone)]
pub enum Happening {
    HandedOut {
        member: MemberId,
        at: TopicPartition,
        id: Id,
    },
    /// A client starts a partition at a new position.
    Placed {
        member: MemberId,
        at: TopicPartition,
    },
    /// A record is about to become durable, behind the `earlier` ones of its transaction.
    Applied {
        shard: usize,
        row: Applied,
        earlier: Vec<Applied>,
    },
    Taken {
        shard: usize,
        process: u32,
        at: TopicPartition,
        row: AnchorRow,
    },
    Progressed {
        shard: usize,
        process: u32,
        at: TopicPartition,
        done: i64,
    },
    FellBack {
        shard: usize,
        lost: Vec<Applied>,
    },
    Committed {
        member: MemberId,
        at: TopicPartition,
        next: i64,
    },
    /// A process gave a topic up, with a message.
    Stopped {
        process: u32,
        topic: u16,
        message: String,
    },
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::HandedOut { member, at, id } => write!(f, "m{member} is handed #{id} of {}", show(*at)),
            Happening::Placed { member, at } => write!(f, "m{member} places {}", show(*at)),
            Happening::Applied { shard, row, .. } => write!(f, "p{} s{shard} applies {row:?}", row.process),
            Happening::Taken { shard, process, at, row } => {
                write!(f, "p{process} s{shard} has taken over {}: {row:?}", show(*at))
            }
            Happening::Progressed { shard, process, at, done } => {
                write!(f, "p{process} s{shard} stores progress of {}: {done}", show(*at))
            }
            Happening::FellBack { shard, lost } => write!(f, "s{shard} falls back and loses {} records", lost.len()),
            Happening::Committed { member, at, next } => write!(f, "m{member} has committed {}: {next}", show(*at)),
            Happening::Stopped { process, topic, message } => write!(f, "p{process} stops topic {topic}: {message}"),
        }
    }
}

/// A guarantee.
pub trait Observer {
    fn name(&self) -> &'static str;
    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String>;
    /// When everything has healed and nothing moves any more.
    fn at_rest(&mut self, _world: &World) -> Result<(), String> {
        Ok(())
    }
}

/// All of them.
pub fn all(window: usize) -> Vec<Box<dyn Observer>> {
    vec![
        Box::new(OnceInOrder),
        Box::new(RightShard),
        Box::new(OneOwner),
        Box::new(ProgressIsTrue),
        Box::new(CommitBehindDurable),
        Box::new(Bounded { window, outstanding: BTreeMap::new() }),
        Box::new(NothingLost),
        Box::new(NoFalseAlarm),
        Box::new(NoSilentSkip { stopped: BTreeSet::new() }),
    ]
}

/// Every record of a key is applied exactly once in the surviving history, after all earlier ones of its key.
struct OnceInOrder;

impl Observer for OnceInOrder {
    fn name(&self) -> &'static str {
        "exactly once and in order"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let Happening::Applied { shard, row, earlier } = event else { return Ok(()) };
        let there = |id: Id| world.dbs[*shard].rows.iter().chain(earlier).any(|r| r.id == id);
        if there(row.id) {
            return Err(format!("#{} is applied twice in shard {shard}", row.id));
        }
        let record = &world.broker.published[row.id as usize];
        let Some(key) = &record.key else { return Ok(()) };
        if world.broker.is_broken(record.at) {
            return Ok(());
        }
        let before = world.broker.of_key(record.at, key).take_while(|(id, _)| *id != row.id);
        // What is gone from the log before anyone could have read it cannot come before.
        match before.filter(|(id, p)| p.shard == *shard && !p.removed && !there(*id)).last() {
            None => Ok(()),
            Some((missing, p)) => {
                Err(format!("#{} is applied before #{missing} (offset {}) of its key", row.id, p.offset))
            }
        }
    }
}

/// A record goes where its tenant lives.
struct RightShard;

impl Observer for RightShard {
    fn name(&self) -> &'static str {
        "right shard"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        match event {
            Happening::Applied { shard, row, .. } if world.broker.published[row.id as usize].shard != *shard => {
                Err(format!("#{} is applied in shard {shard}", row.id))
            }
            _ => Ok(()),
        }
    }
}

/// Only the process that took a partition over last has effects on it.
struct OneOwner;

impl Observer for OneOwner {
    fn name(&self) -> &'static str {
        "one owner at a time"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let Happening::Applied { shard, row, .. } = event else { return Ok(()) };
        let at = world.broker.published[row.id as usize].at;
        match world.dbs[*shard].tables.anchors.get(&at) {
            Some(anchor) if anchor.owner == row.token => Ok(()),
            owner => {
                Err(format!("p{} applies #{} with token {:?}, owner is {owner:?}", row.process, row.id, row.token))
            }
        }
    }
}

/// Everything below the stored progress is in the database.
struct ProgressIsTrue;

impl Observer for ProgressIsTrue {
    fn name(&self) -> &'static str {
        "stored progress is true"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let Happening::Progressed { shard, at, done, .. } = event else { return Ok(()) };
        if world.broker.is_broken(*at) {
            return Ok(());
        }
        let db = &world.dbs[*shard];
        let origin = db.tables.anchors.get(at).map_or(0, |a| a.origin);
        let there: BTreeSet<Id> = db.rows.iter().map(|r| r.id).collect();
        let below = |p: &super::broker::Published| p.shard == *shard && p.offset >= origin && p.offset < *done;
        match world.broker.of_partition(*at).find(|(id, p)| below(p) && !there.contains(id)) {
            None => Ok(()),
            Some((id, p)) => Err(format!(
                "shard {shard} says {} is done below {done}, but #{id} (offset {}) is not there",
                show(*at),
                p.offset
            )),
        }
    }
}

/// Nothing below a committed offset has never been durable.
struct CommitBehindDurable;

impl Observer for CommitBehindDurable {
    fn name(&self) -> &'static str {
        "commit never beyond durable"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let Happening::Committed { at, next, .. } = event else { return Ok(()) };
        if world.broker.is_broken(*at) {
            return Ok(());
        }
        match world.broker.of_partition(*at).find(|(_, p)| p.offset < *next && !p.ever_durable) {
            None => Ok(()),
            Some((id, p)) => Err(format!(
                "{} is committed up to {next}, but #{id} (offset {}) was never durable",
                show(*at),
                p.offset
            )),
        }
    }
}

/// What a process holds of a partition stays within its window.
struct Bounded {
    window: usize,
    outstanding: BTreeMap<(MemberId, TopicPartition), BTreeSet<Id>>,
}

impl Observer for Bounded {
    fn name(&self) -> &'static str {
        "bounded window"
    }

    fn see(&mut self, event: &Happening, _world: &World) -> Result<(), String> {
        match event {
            Happening::Placed { member, at } => {
                self.outstanding.remove(&(*member, *at));
            }
            Happening::HandedOut { member, at, id } => {
                let held = self.outstanding.entry((*member, *at)).or_default();
                held.insert(*id);
                if held.len() > self.window {
                    return Err(format!("m{member} holds {} records of {}", held.len(), show(*at)));
                }
            }
            Happening::Applied { row, .. } => {
                for held in self.outstanding.values_mut() {
                    held.remove(&row.id);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// At rest every record is in its database, unless the scenario took it out of the log before.
struct NothingLost;

impl Observer for NothingLost {
    fn name(&self) -> &'static str {
        "nothing lost"
    }

    fn see(&mut self, _event: &Happening, _world: &World) -> Result<(), String> {
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Result<(), String> {
        match world.missing().find(|&id| !world.broker.published[id as usize].removed) {
            None => Ok(()),
            Some(id) => {
                let p = &world.broker.published[id as usize];
                Err(format!("#{id} ({} offset {}, shard {}) is not in its database", show(p.at), p.offset, p.shard))
            }
        }
    }
}

/// No topic stops unless the scenario gave it a reason.
struct NoFalseAlarm;

impl Observer for NoFalseAlarm {
    fn name(&self) -> &'static str {
        "no false alarm"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        match event {
            Happening::Stopped { process, topic, message } if !world.has_reason_to_stop(*topic) => {
                Err(format!("p{process} stopped topic {topic} without a reason: {message}"))
            }
            _ => Ok(()),
        }
    }
}

/// Where records were lost before they were durable, or a topic is not the one it was, somebody says so and stops.
struct NoSilentSkip {
    stopped: BTreeSet<u16>,
}

impl Observer for NoSilentSkip {
    fn name(&self) -> &'static str {
        "no silent skip"
    }

    fn see(&mut self, event: &Happening, _world: &World) -> Result<(), String> {
        if let Happening::Stopped { topic, .. } = event {
            self.stopped.insert(*topic);
        }
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Result<(), String> {
        let published = &world.broker.published;
        let lost = world.missing().find(|&id| published[id as usize].removed);
        match lost.filter(|&id| !self.stopped.contains(&published[id as usize].at.topic.0)) {
            None => Ok(()),
            Some(id) => Err(format!("#{id} of {} is gone, and nobody said so", show(published[id as usize].at))),
        }
    }
}

impl World {
    /// Records that are not in their database now.
    pub fn missing(&self) -> impl Iterator<Item = Id> {
        let there: Vec<BTreeSet<Id>> = self.dbs.iter().map(|db| db.rows.iter().map(|r| r.id).collect()).collect();
        let all = self.broker.published.iter().enumerate();
        all.filter(move |(id, p)| !there[p.shard].contains(&(*id as Id))).map(|(id, _)| id as Id)
    }

    /// Whether a topic that stops now does so rightly: it is another one, its log was cut, or retention has passed what
    /// some shard has stored as done.
    pub fn has_reason_to_stop(&self, topic: u16) -> bool {
        let partitions = self.broker.partitions();
        let mut of_topic = partitions.iter().filter(|at| at.topic.0 == topic);
        of_topic.any(|at| self.broker.is_broken(*at) || self.is_overtaken(*at))
    }

    /// Whether retention has passed what a shard of this partition could say it has done.
    pub fn is_overtaken(&self, at: TopicPartition) -> bool {
        let low = self.broker.log(at).low;
        let done = |shard: usize| self.dbs[shard].tables.anchors.get(&at).map_or(0, |a| a.done);
        self.routing().shards(at.partition).into_iter().any(|shard| done(shard) < low)
    }
}
