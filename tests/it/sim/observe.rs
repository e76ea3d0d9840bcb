//! The guarantees, as objects that watch every scenario. A scenario says only which of them it relaxes.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use forebay::types::TopicPartition;

use super::broker::Id;
use super::db::{AnchorRow, Applied, ParkedRow};
use super::group::MemberId;
use super::process::PARENT_TRIES;
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
    /// A record is about to become durable: the one at `index` of its transaction's.
    Applied {
        shard: usize,
        all: Rc<[Applied]>,
        index: usize,
        in_flight: bool,
    },
    /// A record is about to be parked behind so many of its key.
    Parked {
        shard: usize,
        row: ParkedRow,
        behind: usize,
    },
    /// A parked record is about to become a dead letter where it is, beside those that its transaction applies.
    Died {
        shard: usize,
        row: ParkedRow,
        all: Rc<[Applied]>,
        in_flight: bool,
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
    /// What a process has fetched and not finished, as it says.
    Holds {
        process: u32,
        waiting: usize,
        in_flight: usize,
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
            Happening::Applied { shard, all, index, .. } => {
                write!(f, "p{} s{shard} applies {:?}", all[*index].process, all[*index])
            }
            Happening::Parked { shard, row, behind } => write!(f, "s{shard} parks {row:?} behind {behind}"),
            Happening::Died { shard, row, .. } => write!(f, "s{shard} keeps {row:?} as a dead letter"),
            Happening::Taken { shard, process, at, row } => {
                write!(f, "p{process} s{shard} has taken over {}: {row:?}", show(*at))
            }
            Happening::Progressed { shard, process, at, done } => {
                write!(f, "p{process} s{shard} stores progress of {}: {done}", show(*at))
            }
            Happening::FellBack { shard, lost } => write!(f, "s{shard} falls back and loses {} records", lost.len()),
            Happening::Committed { member, at, next } => write!(f, "m{member} has committed {}: {next}", show(*at)),
            Happening::Holds { process, waiting, in_flight } => {
                write!(f, "p{process} holds {waiting} records, {in_flight} of them at workers")
            }
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
        Box::new(OnlyBadOnesDie),
        Box::new(LockedRowsStay),
        Box::new(OneOwner),
        Box::new(ProgressIsTrue),
        Box::new(CommitBehindDurable),
        Box::new(Bounded { window }),
        Box::new(NothingLost { stopped: BTreeSet::new() }),
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
        let Happening::Applied { shard, all, index, .. } = event else { return Ok(()) };
        let (row, earlier) = (&all[*index], &all[..*index]);
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
        let (shard, id) = match event {
            Happening::Applied { shard, all, index, .. } => (*shard, all[*index].id),
            Happening::Parked { shard, row, .. } => (*shard, row.id),
            _ => return Ok(()),
        };
        match world.broker.published[id as usize].shard == shard {
            true => Ok(()),
            false => Err(format!("#{id} is applied in shard {shard}")),
        }
    }
}

/// What could be applied is no dead letter, and what could not is nothing else. A record whose parent is missing could be, until it
/// has been tried often enough.
struct OnlyBadOnesDie;

impl OnlyBadOnesDie {
    /// Whether a record that is not bad may be a letter: of a slow lane's transaction that applies `all`, after so many tries.
    fn may_die(world: &World, shard: usize, id: Id, all: &[Applied], in_flight: bool) -> Result<(), String> {
        let waited = world.dbs[shard].tables.parked.values().find(|row| row.id == id).map_or(0, |row| row.tries);
        // A database that fell back may have forgotten some tries.
        let tried = waited + 1 >= PARENT_TRIES || world.dbs[shard].fell_back > 0;
        // What comes behind it in its own key comes too late.
        let key = |id: Id| &world.broker.published[id as usize].key;
        let other = |row: &&Applied| !row.dead && (key(row.id) != key(id) || row.id < id);
        let applied = all.iter().filter(other).map(|row| row.id);
        match world.misses_parent(shard, id, applied) {
            // When a transaction in flight looked it may have been missing.
            missing if tried && (missing || in_flight && world.broker.published[id as usize].parent.is_some()) => {
                Ok(())
            }
            true => Err(format!("#{id} is a dead letter after {waited} tries")),
            false => Err(format!("#{id} is not bad, and a dead letter")),
        }
    }
}

impl Observer for OnlyBadOnesDie {
    fn name(&self) -> &'static str {
        "dead letters are bad records"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let is_bad = |id: Id| world.broker.published[id as usize].is_bad();
        match event {
            Happening::Parked { row, .. } if row.dead && !is_bad(row.id) => Err(format!("#{} is not bad", row.id)),
            Happening::Parked { row, behind, .. } if row.dead && *behind > 0 => {
                Err(format!("#{} is a dead letter behind {behind} others of its key", row.id))
            }
            Happening::Applied { shard, all, index, in_flight } => {
                let Applied { id, dead, .. } = all[*index];
                match (is_bad(id), dead) {
                    (false, false) | (true, true) => Ok(()),
                    (true, false) => Err(format!("#{id} is bad, and no dead letter")),
                    (false, true) => OnlyBadOnesDie::may_die(world, *shard, id, all, *in_flight),
                }
            }
            Happening::Died { shard, row, all, in_flight } if !is_bad(row.id) => {
                OnlyBadOnesDie::may_die(world, *shard, row.id, all, *in_flight)
            }
            _ => Ok(()),
        }
    }
}

/// Nobody writes a row that somebody else has locked.
struct LockedRowsStay;

impl Observer for LockedRowsStay {
    fn name(&self) -> &'static str {
        "locked rows stay as they are"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        match event {
            // What a transaction in flight writes it has locked itself.
            Happening::Applied { all, index, in_flight: false, .. }
                if !all[*index].dead && world.is_locked(all[*index].id) =>
            {
                Err(format!("#{} is applied while its row is locked", all[*index].id))
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
        let Happening::Applied { shard, all, index, .. } = event else { return Ok(()) };
        let row = &all[*index];
        if row.slowly {
            return Ok(());
        }
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
        let rows = db.rows.iter().map(|r| r.id);
        let there: BTreeSet<Id> = rows.chain(db.tables.parked.values().map(|row| row.id)).collect();
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

/// What a process holds stays within its partitions' windows, whatever the lag. It is the process that says how much that is:
/// what it has thrown away again nobody else can know.
struct Bounded {
    window: usize,
}

impl Observer for Bounded {
    fn name(&self) -> &'static str {
        "bounded window"
    }

    fn see(&mut self, event: &Happening, world: &World) -> Result<(), String> {
        let Happening::Holds { process, waiting, in_flight } = event else { return Ok(()) };
        let most = self.window * world.broker.partitions().len();
        // What tenures before a rewind have sent to the workers comes on top.
        if *waiting > most || *in_flight > 3 * most {
            return Err(format!("p{process} has {waiting} records waiting and {in_flight} at workers, {most} may be"));
        }
        Ok(())
    }
}

/// At rest every record is in its database, unless the scenario took it out of the log before, or its topic stopped and so
/// waits for a person.
struct NothingLost {
    stopped: BTreeSet<u16>,
}

impl Observer for NothingLost {
    fn name(&self) -> &'static str {
        "nothing lost"
    }

    fn see(&mut self, event: &Happening, _world: &World) -> Result<(), String> {
        if let Happening::Stopped { topic, .. } = event {
            self.stopped.insert(*topic);
        }
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Result<(), String> {
        let published = |id: Id| &world.broker.published[id as usize];
        let expected = |p: &super::broker::Published| !p.removed && !self.stopped.contains(&p.at.topic.0);
        match world.missing().find(|&id| expected(published(id)) && !world.broker.is_broken(published(id).at)) {
            None => Ok(()),
            Some(id) => {
                let p = published(id);
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
        let mut topics = 0..world.broker.topics.len() as u16;
        match topics.find(|topic| world.must_stop(*topic) && !self.stopped.contains(topic)) {
            None => Ok(()),
            Some(topic) => Err(format!("topic {topic} has lost records or is another one, and nobody said so")),
        }
    }
}

impl World {
    /// Records that are not in their database now: neither applied nor waiting for a person.
    pub fn missing(&self) -> impl Iterator<Item = Id> {
        let there = |db: &super::db::Db| db.rows.iter().map(|r| r.id).chain(db.behind_dead()).collect();
        let there: Vec<BTreeSet<Id>> = self.dbs.iter().map(there).collect();
        let all = self.broker.published.iter().enumerate();
        all.filter(move |(id, p)| !there[p.shard].contains(&(*id as Id))).map(|(id, _)| id as Id)
    }

    /// How many records of a topic are not in their database now.
    pub fn missing_of(&self, topic: u16) -> usize {
        self.missing().filter(|id| self.broker.published[*id as usize].at.topic.0 == topic).count()
    }

    /// Whether a topic cannot go on without a person.
    pub fn must_stop(&self, topic: u16) -> bool {
        let log_lost = |at: &TopicPartition| {
            let end = self.broker.log(*at).end;
            self.dbs.iter().any(|db| db.tables.anchors.get(at).is_some_and(|a| a.done > end))
        };
        let mut partitions = self.broker.partitions().into_iter().filter(|at| at.topic.0 == topic);
        // What an unclean election or a deletion threw away nobody can miss who never had it.
        let gone = |id: Id| {
            let p = &self.broker.published[id as usize];
            p.at.topic.0 == topic && p.removed && !self.broker.is_broken(p.at)
        };
        let bad = |id: Id| {
            let p = &self.broker.published[id as usize];
            let stops = p.at.topic.0 == topic && !self.sets_aside && !p.removed && !self.broker.is_broken(p.at);
            stops && (p.is_bad() || self.misses_parent(p.shard, id, std::iter::empty()))
        };
        let now = &self.broker.topics[usize::from(topic)].id;
        let another = |db: &super::db::Db| db.tables.sources.get(&topic).is_some_and(|(_, id)| id != now);
        self.dbs.iter().any(another)
            || self.broker.cluster_id != "cluster-1"
            || partitions.any(|at| log_lost(&at))
            || self.missing().any(|id| gone(id) || bad(id))
    }

    /// Whether a topic that stops now does so rightly: it is another one, its log was cut, or retention has passed what
    /// some shard has stored as done.
    pub fn has_reason_to_stop(&self, topic: u16) -> bool {
        let partitions = self.broker.partitions();
        let mut of_topic = partitions.iter().filter(|at| at.topic.0 == topic);
        let may_be_bad = |p: &super::broker::Published| p.at.topic.0 == topic && (p.is_bad() || p.parent.is_some());
        let bad = !self.sets_aside && self.broker.published.iter().any(may_be_bad);
        bad || of_topic.any(|at| self.broker.is_broken(*at) || self.is_overtaken(*at))
    }

    /// Whether retention has passed what a shard of this partition could say it has done.
    pub fn is_overtaken(&self, at: TopicPartition) -> bool {
        let low = self.broker.log(at).low;
        let done = |shard: usize| self.dbs[shard].tables.anchors.get(&at).map_or(0, |a| a.done);
        self.routing().shards(at.partition).into_iter().any(|shard| done(shard) < low)
    }
}
