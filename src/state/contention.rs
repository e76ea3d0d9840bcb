//! What a shard's connections wait for: samples of them become shares of the last seconds, totals, who blocks them, and the health
//! of tables and log. What is seen is PostgreSQL's word about our own backends; nothing here changes how anything is written.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::state::blocking::{Blocker, Blocking, Look};

/// What shares are of: long enough for forty samples, short enough that what is over is gone soon.
pub const WINDOW: Duration = Duration::from_secs(10);
/// A sample stands for the time since the one before it, but not for times at which nobody looked.
const STANDS_FOR_MAX: Duration = Duration::from_secs(2);
/// Samples in the window, whatever the interval.
const SLOTS_MAX: usize = 1024;
/// PostgreSQL has some 250 events; extensions add theirs.
const EVENTS_MAX: usize = 512;
/// Without a statement for so long nothing is being written, and every fourth sample is enough.
const QUIET_AFTER: Duration = Duration::from_secs(5);
const QUIET_FACTOR: u32 = 4;
/// Who blocks is looked at when somebody waits who did not at the last look, and otherwise so often: each look goes over the whole
/// table of locks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SERVER_EVERY: Duration = Duration::from_secs(5);
const TABLES_EVERY: Duration = Duration::from_secs(10);
/// Without a sample for so long nobody knows who blocks whom.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// What the next sample is to look at besides our backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// At the locks, whoever waits.
    pub locks: bool,
    /// At the locks if some other of our backends than these waits.
    pub seen_waiting: Vec<i32>,
    /// Sessions that blocked ours, and may still.
    pub remembered: Vec<i32>,
    pub server: bool,
    pub tables: bool,
}

/// What PostgreSQL said at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Over a connection that is new: numbers that only grow may be another server's.
    pub fresh: bool,
    pub backends: Vec<Backend>,
    /// None where it was not looked.
    pub look: Option<Look>,
    pub server: Option<Server>,
    pub tables: Option<Vec<TableNumbers>>,
    /// What could not be seen, and what would help.
    pub notes: Vec<String>,
}

/// One of the connections that write, as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub thread: String,
    pub pid: i32,
    pub state: State,
    /// Type and event, as PostgreSQL names them.
    pub wait: Option<(String, String)>,
    /// Since its last statement began or ended.
    pub quiet: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Active,
    InTransaction,
    Idle,
    /// Hidden from this role, or not tracked.
    Unknown,
}

/// Numbers of the whole server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// Where the log ends, in bytes.
    pub wal: Option<i64>,
    pub checkpoints_timed: Option<i64>,
    pub checkpoints_requested: Option<i64>,
    pub connections: Connections,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Of this process; behind a pooler nobody knows.
    pub open: Option<u32>,
    /// What the server lets in, less what it reserves.
    pub server_max: u32,
    /// Of all programs together.
    pub server_used: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableNumbers {
    pub table: String,
    pub updates: i64,
    pub hot_updates: i64,
    pub live_rows: i64,
    pub dead_rows: i64,
    pub last_vacuum_at_ms: Option<i64>,
}

/// What a backend's time is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Between transactions: nothing to do, or the next batch is not there yet.
    Idle,
    /// Within a transaction, for our next statement, or for us to take an answer.
    Client,
    /// Running, without a wait.
    Cpu,
    Lock,
    /// For the log: its flush, its locks, a synchronous replica.
    Commit,
    Io,
    Other,
    /// A slow lane's, while keys that it has are behind somebody's lock: it tries, and does not wait there.
    Parked,
    /// Hidden.
    Unknown,
}

/// See the module's text.
#[derive(Debug)]
pub struct Contention {
    /// How long a blocker is remembered that nothing has confirmed.
    remember: Duration,
    slots: VecDeque<Slot>,
    events: Vec<Event>,
    sampled: Option<Duration>,
    sampled_at_ms: i64,
    quiet: bool,
    blocked: usize,
    blocking: Blocking,
    looked_at: Option<Duration>,
    server_at: Option<Duration>,
    wal: Wal,
    wal_position: Option<i64>,
    checkpoints: [Option<i64>; 2],
    connections: Option<Connections>,
    tables_at: Option<Duration>,
    tables: BTreeMap<String, Table>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Slot {
    at: Duration,
    stands_for: Duration,
    /// Events by their index, and how many backends were in it.
    counts: Vec<(u16, u16)>,
}

#[derive(Debug)]
struct Event {
    kind: String,
    event: String,
    class: Class,
    total: Duration,
}

#[derive(Debug)]
struct Table {
    numbers: TableNumbers,
    health: TableHealth,
}

/// What there is to tell, now.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// By the wall clock, the last one.
    pub sampled_at_ms: i64,
    /// What our backends did, as shares of their time in the window; the largest first.
    pub waits: Vec<Wait>,
    /// Since the beginning: type, event, and time that backends spent in it.
    pub totals: Vec<(String, String, Duration)>,
    /// Of ours, those that waited for a lock in the last sample.
    pub blocked: usize,
    /// The longest first.
    pub blockers: Vec<Blocker>,
    /// By name.
    pub tables: Vec<TableHealth>,
    pub wal: Option<Wal>,
    pub connections: Option<Connections>,
    pub notes: Vec<String>,
    /// Backends in the window, on average, by what their time is put down to.
    pub at: Vec<(Class, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// "CPU", "Idle" (between transactions), or PostgreSQL's own word.
    pub kind: String,
    pub event: String,
    pub class: Class,
    pub share: f64,
}

/// Counted since the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableHealth {
    pub table: String,
    pub updates: u64,
    pub hot_updates: u64,
    pub live_rows: u64,
    pub dead_rows: u64,
    pub last_vacuum_at_ms: Option<i64>,
}

impl TableHealth {
    /// Of the updates since the beginning: those that needed no index entry.
    pub fn hot_ratio(&self) -> Option<f64> {
        (self.updates > 0).then(|| self.hot_updates as f64 / self.updates as f64)
    }
}

/// Of the whole server, counted since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Wal {
    pub bytes: u64,
    /// As of the last two looks.
    pub bytes_per_s: Option<f64>,
    pub checkpoints_timed: Option<u64>,
    pub checkpoints_requested: Option<u64>,
}

impl Contention {
    pub fn new(remember: Duration) -> Contention {
        Contention {
            remember,
            slots: VecDeque::new(),
            events: Vec::new(),
            sampled: None,
            sampled_at_ms: 0,
            quiet: false,
            blocked: 0,
            blocking: Blocking::default(),
            looked_at: None,
            server_at: None,
            wal: Wal::default(),
            wal_position: None,
            checkpoints: [None; 2],
            connections: None,
            tables_at: None,
            tables: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// What a sample now is to look at.
    pub fn ask(&self, now: Duration) -> Ask {
        let due = |at: Option<Duration>, every: Duration| at.is_none_or(|at| now >= at + every);
        Ask {
            locks: !self.blocking.is_empty() && due(self.looked_at, LOOK_EVERY),
            seen_waiting: self.blocking.waiters().to_vec(),
            remembered: self.blocking.remembered(),
            server: due(self.server_at, SERVER_EVERY),
            tables: due(self.tables_at, TABLES_EVERY),
        }
    }

    /// How long until the next sample, where `interval` is the usual time.
    pub fn pause(&self, interval: Duration) -> Duration {
        if self.quiet { interval * QUIET_FACTOR } else { interval }
    }

    /// Takes in a sample; `at_ms` is the wall clock's `now`.
    pub fn add(&mut self, now: Duration, at_ms: i64, sample: Sample) {
        let Sample { fresh, backends, look, server, tables, notes } = sample;
        if let Some(look) = look {
            self.blocking.look(now, look, self.remember);
            self.looked_at = Some(now);
        }
        let stands_for = self.sampled.map_or(Duration::ZERO, |last| now.saturating_sub(last)).min(STANDS_FOR_MAX);
        self.count(now, stands_for, &backends);
        self.blocked = backends.iter().filter(|backend| backend.waits_for_lock()).count();
        self.quiet = backends.iter().all(|b| b.state == State::Idle && b.quiet >= QUIET_AFTER);
        if fresh {
            (self.wal_position, self.checkpoints, self.server_at) = (None, [None; 2], None);
            self.tables.values_mut().for_each(|table| table.numbers = TableNumbers::default());
            self.tables_at = None;
        }
        if let Some(server) = server {
            self.server(now, &server);
        }
        if let Some(tables) = tables {
            self.tables(now, tables);
        }
        self.notes = notes;
        (self.sampled, self.sampled_at_ms) = (Some(now), at_ms);
    }

    fn count(&mut self, now: Duration, stands_for: Duration, backends: &[Backend]) {
        let mut counts: Vec<(u16, u16)> = Vec::new();
        for backend in backends {
            let (kind, event, class) = self.put_down(backend);
            let index = self.event(kind, event, class);
            self.events[usize::from(index)].total += stands_for;
            match counts.iter_mut().find(|(event, _)| *event == index) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => counts.push((index, 1)),
            }
        }
        self.slots.push_back(Slot { at: now, stands_for, counts });
        while self.slots.len() > SLOTS_MAX || self.slots.front().is_some_and(|slot| slot.at + WINDOW < now) {
            self.slots.pop_front();
        }
    }

    fn put_down<'b>(&self, backend: &'b Backend) -> (&'b str, &'b str, Class) {
        match (backend.state, &backend.wait) {
            (State::Idle, _) if is_slow_lane(&backend.thread) && self.blocking.holds_up(&backend.thread) => {
                ("Lock", "parked", Class::Parked)
            }
            (State::Idle, _) => ("Idle", "ClientRead", Class::Idle),
            (State::Unknown, _) => ("Unknown", "", Class::Unknown),
            (_, None) => ("CPU", "", Class::Cpu),
            (_, Some((kind, event))) => (kind, event, class(kind, event)),
        }
    }

    fn event(&mut self, kind: &str, event: &str, class: Class) -> u16 {
        let known = self.events.iter().position(|e| e.kind == kind && e.event == event);
        let index = known.unwrap_or_else(|| {
            // Beyond it events of a kind go by the name "other", and of kinds there are few.
            if self.events.len() >= EVENTS_MAX && event != "other" {
                return usize::from(self.event(kind, "other", class));
            }
            self.events.push(Event { kind: kind.into(), event: event.into(), class, total: Duration::ZERO });
            self.events.len() - 1
        });
        index as u16
    }

    fn server(&mut self, now: Duration, server: &Server) {
        let since = self.server_at.replace(now).map(|at| now.saturating_sub(at).as_secs_f64());
        let wal = &mut self.wal;
        wal.bytes_per_s = None;
        if let (Some(before), Some(position)) = (self.wal_position, server.wal) {
            // A server that took over may be behind.
            let bytes = (position - before).max(0) as u64;
            wal.bytes += bytes;
            wal.bytes_per_s = since.filter(|s| *s > 0.0).map(|s| bytes as f64 / s);
        }
        self.wal_position = server.wal;
        let counted = [server.checkpoints_timed, server.checkpoints_requested];
        let sums = [&mut wal.checkpoints_timed, &mut wal.checkpoints_requested];
        for ((sum, before), count) in sums.into_iter().zip(&mut self.checkpoints).zip(counted) {
            let Some(count) = count else { continue };
            *sum = Some(sum.unwrap_or_default() + before.map_or(0, |before| grown(before, count)));
            *before = Some(count);
        }
        self.connections = Some(server.connections);
    }

    /// Those that are gone are told of no more.
    fn tables(&mut self, now: Duration, tables: Vec<TableNumbers>) {
        self.tables_at = Some(now);
        let mut before = std::mem::take(&mut self.tables);
        for numbers in tables {
            let known = before.remove(&numbers.table);
            let base = known.as_ref().map(|known| &known.numbers).filter(|n| !n.table.is_empty());
            let grown_by = |of: fn(&TableNumbers) -> i64| base.map_or(0, |base| grown(of(base), of(&numbers)));
            let counted = known.as_ref().map_or((0, 0), |known| (known.health.updates, known.health.hot_updates));
            let health = TableHealth {
                table: numbers.table.clone(),
                updates: counted.0 + grown_by(|n| n.updates),
                hot_updates: counted.1 + grown_by(|n| n.hot_updates),
                live_rows: numbers.live_rows.max(0) as u64,
                dead_rows: numbers.dead_rows.max(0) as u64,
                last_vacuum_at_ms: numbers.last_vacuum_at_ms,
            };
            self.tables.insert(numbers.table.clone(), Table { numbers, health });
        }
    }

    /// None until there was a sample.
    pub fn snapshot(&self, now: Duration) -> Option<Snapshot> {
        let sampled = self.sampled?;
        let stale = now.saturating_sub(sampled) > STALE_AFTER;
        let slots = || self.slots.iter().filter(|slot| slot.at + WINDOW >= now);
        let window: f64 = slots().map(|slot| slot.stands_for.as_secs_f64()).sum();
        let mut times = vec![0.0; self.events.len()];
        for slot in slots() {
            for (index, count) in &slot.counts {
                times[usize::from(*index)] += slot.stands_for.as_secs_f64() * f64::from(*count);
            }
        }
        let all: f64 = times.iter().sum();
        let mut at: Vec<(Class, f64)> = Vec::new();
        let mut waits = Vec::new();
        for (event, time) in self.events.iter().zip(&times).filter(|(_, time)| **time > 0.0) {
            let Event { kind, event, class, .. } = event;
            waits.push(Wait { kind: kind.clone(), event: event.clone(), class: *class, share: time / all });
            match at.iter_mut().find(|(of, _)| of == class) {
                Some((_, backends)) => *backends += time / window,
                None => at.push((*class, time / window)),
            }
        }
        waits.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| (&a.kind, &a.event).cmp(&(&b.kind, &b.event))));
        Some(Snapshot {
            sampled_at_ms: self.sampled_at_ms,
            waits,
            totals: self.events.iter().map(|e| (e.kind.clone(), e.event.clone(), e.total)).collect(),
            blocked: if stale { 0 } else { self.blocked },
            blockers: if stale { Vec::new() } else { self.blocking.blockers(now) },
            tables: self.tables.values().map(|table| table.health.clone()).collect(),
            wal: self.server_at.map(|_| self.wal),
            connections: self.connections,
            notes: self.notes.clone(),
            at,
        })
    }
}

impl Backend {
    pub fn waits_for_lock(&self) -> bool {
        matches!(&self.wait, Some((kind, _)) if kind == "Lock")
    }
}

/// Slow lanes are called `fb-s<shard>.<number>`.
fn is_slow_lane(thread: &str) -> bool {
    thread.starts_with("fb-s")
}

/// Numbers begin again when statistics are reset.
fn grown(before: i64, now: i64) -> u64 {
    if now >= before { (now - before) as u64 } else { now.max(0) as u64 }
}

/// Names as of PostgreSQL 12 to 18: `WALWriteLock` became `WALWrite`, and `WALSync` `WalSync`.
fn class(kind: &str, event: &str) -> Class {
    let log = event.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case("wal"));
    match kind {
        "Client" => Class::Client,
        // A table that grows is no transaction's lock.
        "Lock" if event == "extend" => Class::Io,
        "Lock" => Class::Lock,
        "IO" | "LWLock" if log => Class::Commit,
        "IPC" if event == "SyncRep" => Class::Commit,
        // How the end of transactions is noted, by one for many.
        "IPC" if event.ends_with("GroupUpdate") => Class::Commit,
        "IO" => Class::Io,
        "LWLock" | "IPC" if event.eq_ignore_ascii_case("BufferIO") || event == "buffer_io" => Class::Io,
        _ => Class::Other,
    }
}

#[cfg(test)]
#[path = "contention_tests.rs"]
mod tests;
