//! The fake database: the tables of the fence protocol and an append-only log of applied records, with the locks that
//! transactions in flight hold, and a history that it can fall back into.
//!
//! What the statements do is in `sink`; here is what a database is.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use forebay::state::parked::Why;
use forebay::types::{KeyHash, Lane, Token, TopicPartition};

use super::broker::Id;

/// One database: what is committed, what is in flight, what was.
pub struct Db {
    pub tables: Tables,
    /// Every record that the surviving history applied, in order.
    pub rows: Vec<Applied>,
    /// Transactions whose client is gone or knows nothing; they hold their locks until they end.
    pub orphans: Vec<Orphan>,
    pub down: bool,
    /// Connections opened before this number are broken.
    pub epoch: u64,
    pub switches: Statements,
    history: VecDeque<Snapshot>,
    /// Snapshots kept; 0 where no scenario falls back.
    pub history_max: usize,
    /// How often it fell back.
    pub fell_back: u32,
    /// For `Statements::random_tokens` switched off.
    numbers: HashMap<Token, i64>,
    names: HashMap<(u32, TopicPartition, i64), Token>,
}

#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Topic → cluster id and topic id.
    pub sources: BTreeMap<u16, (String, Option<String>)>,
    pub anchors: BTreeMap<TopicPartition, AnchorRow>,
    pub fences: BTreeMap<(TopicPartition, Lane), Fence>,
    pub parked: BTreeMap<(TopicPartition, KeyHash, i64), ParkedRow>,
    /// Topic → keys that an operator holds.
    pub holds: BTreeMap<u16, BTreeSet<Vec<u8>>>,
}

/// A parked record; its place says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedRow {
    pub id: Id,
    pub dead: bool,
    pub why: Why,
    /// How often it was tried and found wanting.
    pub tries: u32,
    /// It names no shard.
    pub unroutable: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct AnchorRow {
    pub lanes: Lane,
    pub token: Token,
    pub origin: i64,
    pub done: i64,
    /// Who took it over last: not in the real table by its token, but the observers want to know.
    pub owner: Token,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub next: i64,
    pub token: Token,
}

/// A record that was applied, or put among the dead letters, by whom, with which token.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    pub id: Id,
    pub process: u32,
    pub token: Token,
    pub dead: bool,
    /// By a slow lane, which no token keeps out: the rows that it takes out do.
    pub slowly: bool,
}

#[derive(Clone)]
struct Snapshot {
    tables: Tables,
    rows: usize,
}

/// What is locked until a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    Anchor(TopicPartition),
    Fence(TopicPartition, Lane),
    /// A key's first parked row.
    Head(TopicPartition, KeyHash),
}

/// A transaction in flight that nobody waits for. Its locks keep what it saw as it was, so its effect is known.
pub struct Orphan {
    pub locks: BTreeSet<Lock>,
    pub effect: Effect,
    pub process: u32,
}

/// What a transaction does when it commits.
#[derive(Debug, Clone, Default)]
pub struct Effect {
    /// `None` deletes.
    pub fences: Vec<((TopicPartition, Lane), Option<Fence>)>,
    pub anchors: Vec<(TopicPartition, AnchorRow)>,
    pub rows: Vec<Applied>,
    pub park: Vec<((TopicPartition, KeyHash, i64), ParkedRow)>,
    pub take_out: Vec<(TopicPartition, KeyHash, i64)>,
    /// Heads that become dead letters where they are.
    pub kill: Vec<(TopicPartition, KeyHash, i64)>,
    /// Heads that were tried in vain.
    pub tried: Vec<(TopicPartition, KeyHash, i64)>,
    /// Keys whose first rows it has locked.
    pub heads: Vec<(TopicPartition, KeyHash)>,
    /// Nobody waits for it any more.
    pub in_flight: bool,
}

/// Rules of the protocol that live in statements, each of which a test can switch off.
#[derive(Debug, Clone, Copy)]
pub struct Statements {
    /// Off: a takeover's token is the anchor's plus one.
    pub random_tokens: bool,
    /// Off: one statement, that sees the database as it was before it waited for locks.
    pub takeover_in_statements: bool,
    /// Off: a worker's statement creates a fence that it does not find.
    pub only_takeover_creates_fences: bool,
    /// Off: each fence that matches moves, whatever the others do.
    pub all_fences_or_none: bool,
    /// Off: stored progress rises without a look at the fences.
    pub verified_progress: bool,
    /// Off: a slow lane applies what it read, whatever became of it since.
    pub heads_locked: bool,
    /// Off: a takeover reads what is parked as it was before it waited for the owner's transactions.
    pub parked_read_behind_locks: bool,
    /// Off: a key that the slow lane saw empty is free without another look.
    pub free_verified: bool,
    /// Off: a probe sets aside only those records that its folded rows still show: the last one of each key.
    pub losers_park_too: bool,
    /// Off: a probe sets aside the keys of the records that its folded rows still show, and not those that met them there.
    pub met_park_together: bool,
    /// Off: a record whose parent is missing is at fault.
    pub parents_awaited: bool,
    /// Off: nobody counts how often a record was tried whose parent is missing.
    pub tries_counted: bool,
    /// Off: what waits for its parent does not keep its key's later records.
    pub keys_wait_behind: bool,
    /// Off: a record is at its last try for a missing parent beside whatever else is tried.
    pub last_try_alone: bool,
    /// Off: a parked record that names no shard looks like any other.
    pub unroutable_noted: bool,
}

impl Default for Statements {
    fn default() -> Statements {
        Statements {
            random_tokens: true,
            takeover_in_statements: true,
            only_takeover_creates_fences: true,
            all_fences_or_none: true,
            verified_progress: true,
            heads_locked: true,
            parked_read_behind_locks: true,
            free_verified: true,
            losers_park_too: true,
            met_park_together: true,
            parents_awaited: true,
            tries_counted: true,
            last_try_alone: true,
            keys_wait_behind: true,
            unroutable_noted: true,
        }
    }
}

impl Effect {
    /// What it keeps locked while it is in flight.
    pub fn locks(&self) -> BTreeSet<Lock> {
        let anchors = self.anchors.iter().map(|(at, _)| Lock::Anchor(*at));
        let fences = self.fences.iter().map(|((at, lane), _)| Lock::Fence(*at, *lane));
        anchors.chain(fences).chain(self.heads.iter().map(|(at, hash)| Lock::Head(*at, *hash))).collect()
    }
}

impl Db {
    pub fn new() -> Db {
        Db {
            tables: Tables::default(),
            rows: Vec::new(),
            orphans: Vec::new(),
            down: false,
            epoch: 0,
            switches: Statements::default(),
            history: VecDeque::from([Snapshot { tables: Tables::default(), rows: 0 }]),
            history_max: 0,
            fell_back: 0,
            numbers: HashMap::new(),
            names: HashMap::new(),
        }
    }

    /// Commits.
    pub fn apply(&mut self, effect: &Effect) {
        for (key, fence) in &effect.fences {
            match fence {
                Some(fence) => self.tables.fences.insert(*key, *fence),
                None => self.tables.fences.remove(key),
            };
        }
        self.tables.anchors.extend(effect.anchors.iter().copied());
        self.rows.extend(effect.rows.iter().copied());
        for (key, row) in &effect.park {
            self.tables.parked.entry(*key).or_insert(*row);
        }
        for key in &effect.take_out {
            self.tables.parked.remove(key);
        }
        for key in &effect.kill {
            self.tables.parked.entry(*key).and_modify(|row| row.dead = true);
        }
        for key in &effect.tried {
            self.tables.parked.entry(*key).and_modify(|row| row.tries += 1);
        }
        self.remember();
    }

    /// Keeps what is committed now as something to fall back to.
    pub fn remember(&mut self) {
        if self.history_max > 0 {
            self.history.push_back(Snapshot { tables: self.tables.clone(), rows: self.rows.len() });
            if self.history.len() > self.history_max {
                // The empty database at the front stays: before any anchor existed.
                self.history.remove(1);
            }
        }
    }

    /// How many states it can fall back to; the last one is the present.
    pub fn past(&self) -> usize {
        self.history.len()
    }

    /// A failover that lost the end of the log: rows and fences together. Nothing in flight survives. Connections break,
    /// unless a pooler hides it. Returns what was lost.
    pub fn fall_back(&mut self, to: usize, hidden: bool) -> Vec<Applied> {
        self.history.truncate(to + 1);
        let Some(snapshot) = self.history.back() else { return Vec::new() };
        self.tables = snapshot.tables.clone();
        self.orphans.clear();
        self.fell_back += 1;
        self.epoch += u64::from(!hidden);
        self.rows.split_off(snapshot.rows)
    }

    /// The first transaction in flight that holds one of these.
    pub fn holder(&self, locks: impl Fn(&Lock) -> bool) -> Option<usize> {
        self.orphans.iter().position(|o| o.locks.iter().any(&locks))
    }

    /// What this database stores for a token.
    pub fn stored(&self, token: Token) -> Token {
        self.numbers.get(&token).map_or(token, |&n| Token(n))
    }

    /// How a process reads a stored token.
    pub fn read_as(&self, process: u32, at: TopicPartition, stored: Token) -> Token {
        self.names.get(&(process, at, stored.0)).copied().unwrap_or(stored)
    }

    /// With tokens that count, the next number becomes what is stored for `token`.
    pub fn count_up(&mut self, process: u32, at: TopicPartition, token: Token) {
        if !self.switches.random_tokens {
            let next = self.tables.anchors.get(&at).map_or(0, |a| a.token.0) + 1;
            self.numbers.insert(token, next);
            self.names.insert((process, at, next), token);
        }
    }

    /// The parked rows of a key, in order.
    pub fn parked_of(&self, at: TopicPartition, hash: KeyHash) -> Vec<(i64, ParkedRow)> {
        let all = self.tables.parked.range((at, hash, i64::MIN)..=(at, hash, i64::MAX));
        all.map(|((.., offset), row)| (*offset, *row)).collect()
    }

    /// Records that wait behind a dead letter, and so for a person.
    pub fn behind_dead(&self) -> BTreeSet<Id> {
        let dead: BTreeSet<(TopicPartition, KeyHash)> =
            self.tables.parked.iter().filter(|(_, row)| row.dead).map(|((at, hash, _), _)| (*at, *hash)).collect();
        let behind = self.tables.parked.iter().filter(|((at, hash, _), _)| dead.contains(&(*at, *hash)));
        behind.map(|(_, row)| row.id).collect()
    }

    /// The lanes of a partition, in order.
    pub fn fences_of(&self, at: TopicPartition) -> Vec<(Lane, Fence)> {
        let all = self.tables.fences.range((at, 0)..=(at, Lane::MAX));
        all.map(|((_, lane), fence)| (*lane, *fence)).collect()
    }
}
