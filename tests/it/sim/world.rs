//! Everything that exists outside the processes: clock, brokers, group, databases; and who watches.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use fastrand::Rng;
use forebay::clock::Clock;
use forebay::types::TopicPartition;

use super::broker::{Broker, Id, ShardOf};
use super::clock::SimClock;
use super::db::Db;
use super::group::Group;
use super::observe::{Happening, Observer};

pub type Shared = Rc<RefCell<World>>;

pub struct World {
    pub clock: SimClock,
    pub rng: Rng,
    pub faults: Faults,
    pub broker: Broker,
    pub group: Group,
    pub dbs: Vec<Db>,
    pub observers: Vec<Box<dyn Observer>>,
    /// The first guarantee that was broken.
    pub broken: Option<String>,
    pub trace: Trace,
    /// What one poll of a source hands out at most.
    pub poll_records_max: usize,
    /// Bad records become dead letters; otherwise they stop their topic.
    pub sets_aside: bool,
    /// Rows that somebody else has locked, in every database.
    pub locked: BTreeSet<Vec<u8>>,
    /// How often a shard was probed, and how often somebody else found it down.
    pub probes: usize,
    pub refused: usize,
    /// Keys whose records take long.
    pub hot: BTreeSet<Vec<u8>>,
    /// Rows that records need and nobody has written yet.
    pub awaited: Vec<Vec<u8>>,
}

/// How often things go wrong: chances per thousand, per call. All zero is a calm day.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A write's answer is lost: it was applied; it was not; it is still running.
    pub write_lost_applied: u32,
    pub write_lost_unapplied: u32,
    pub write_orphaned: u32,
    pub write_transient: u32,
    pub write_lock_wait: u32,
    pub write_too_long: u32,
    pub reread_lost: u32,
    /// Likewise for the control connection.
    pub control_lost_applied: u32,
    pub control_lost_unapplied: u32,
    pub control_orphaned: u32,
    /// A question to the brokers goes unanswered.
    pub ask_fails: u32,
    /// The client refuses something.
    pub client_fails: u32,
    pub commit_lost: u32,
    pub commit_late: u32,
    /// A group event waits for a later poll.
    pub event_late: u32,
    /// A look at the replica finds it behind.
    pub replica_behind: u32,
    pub handed_out_twice: u32,
}

/// What happened, for people. Nothing is kept unless a failing seed is being replayed.
#[derive(Default)]
pub struct Trace {
    pub lines: VecDeque<String>,
    /// Lines kept; 0: none.
    pub keep: usize,
    /// Also to stderr, at once.
    pub loud: bool,
    /// Sums up all lines: two runs of a seed must agree.
    pub digest: Option<u64>,
}

impl World {
    pub fn new(seed: u64, group: Group, broker: Broker, shards: usize) -> World {
        World {
            clock: SimClock::default(),
            rng: Rng::with_seed(seed),
            faults: Faults::default(),
            broker,
            group,
            dbs: (0..shards).map(|_| Db::new()).collect(),
            observers: Vec::new(),
            broken: None,
            trace: Trace::default(),
            poll_records_max: usize::MAX,
            sets_aside: false,
            locked: BTreeSet::new(),
            probes: 0,
            refused: 0,
            hot: BTreeSet::new(),
            awaited: Vec::new(),
        }
    }

    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        let trace = &mut self.trace;
        if trace.keep == 0 && !trace.loud && trace.digest.is_none() {
            return;
        }
        let line = format!("{:>9.3} {what}", self.clock.now().as_secs_f64() * 1e3);
        if let Some(digest) = &mut trace.digest {
            *digest = xxhash_rust::xxh3::xxh3_64_with_seed(line.as_bytes(), *digest);
        }
        if trace.loud {
            eprintln!("{line}");
        }
        if trace.keep > 0 {
            trace.lines.push_back(line);
            if trace.lines.len() > trace.keep {
                trace.lines.pop_front();
            }
        }
    }

    /// Shows an event to every observer.
    pub fn happened(&mut self, event: &Happening) {
        self.note(format_args!("{event}"));
        let mut observers = std::mem::take(&mut self.observers);
        for observer in &mut observers {
            if let Err(what) = observer.see(event, self) {
                self.accuse(observer.name(), &what);
            }
        }
        self.observers = observers;
    }

    /// Asks every observer at the end, when all has healed and come to rest.
    pub fn at_rest(&mut self) {
        let mut observers = std::mem::take(&mut self.observers);
        for observer in &mut observers {
            if let Err(what) = observer.at_rest(self) {
                self.accuse(observer.name(), &what);
            }
        }
        self.observers = observers;
    }

    fn accuse(&mut self, observer: &str, what: &str) {
        let text = format!("{observer}: {what}");
        self.note(format_args!("BROKEN {text}"));
        self.broken.get_or_insert(text);
    }

    /// Lets the group's coordinator do what is due.
    pub fn tick_group(&mut self) {
        let now = self.clock.now();
        let partitions = self.broker.partitions();
        for accepted in self.group.tick(now, &partitions) {
            let (member, at, next) = (accepted.member, accepted.at, accepted.next);
            self.happened(&Happening::Committed { member, at, next });
        }
    }

    /// What a handler says that a record took.
    pub fn took_ns(&self, id: Id) -> u64 {
        let key = self.broker.published[id as usize].key.as_ref();
        if key.is_some_and(|key| self.hot.contains(key)) { 20_000_000 } else { 1_000 }
    }

    /// Whether the row of a record cannot be written now.
    pub fn is_locked(&self, id: Id) -> bool {
        self.broker.published[id as usize].row.as_ref().is_some_and(|row| self.locked.contains(row))
    }

    /// Whether the row that a record needs cannot be looked at now.
    pub fn is_parent_locked(&self, id: Id) -> bool {
        self.broker.published[id as usize].parent.as_ref().is_some_and(|row| self.locked.contains(row))
    }

    /// Whether a record needs a row that neither the database has nor one of `also` writes.
    pub fn misses_parent(&self, shard: usize, id: Id, mut also: impl Iterator<Item = Id>) -> bool {
        let published = |id: Id| &self.broker.published[id as usize];
        let Some(parent) = &published(id).parent else { return false };
        let is_parent = |id: Id| published(id).row.as_ref() == Some(parent);
        !also.any(is_parent) && !self.dbs[shard].rows.iter().any(|row| !row.dead && is_parent(row.id))
    }

    /// Makes the newest record of a partition one that no database takes, if none has taken it yet, or is about to.
    pub fn poison_last(&mut self, at: TopicPartition) -> Option<Id> {
        let (_, &id) = self.broker.log(at).records.last_key_value()?;
        let mut in_flight = self.dbs.iter().flat_map(|db| &db.orphans).map(|orphan| &orphan.effect);
        let taken = in_flight.any(|e| e.rows.iter().any(|r| r.id == id) || e.park.iter().any(|(_, r)| r.id == id));
        let record = &mut self.broker.published[id as usize];
        let fresh = !taken && !record.ever_durable && !record.poison;
        record.poison |= fresh;
        fresh.then_some(id)
    }

    pub fn routing(&self) -> ShardOf {
        self.broker.routing
    }
}
