//! What one process sees of the fake databases: [`Writer`] and [`Control`], an exact model of the fence protocol's
//! statements, each of which is one step of the simulation.
//!
//! A transaction whose answer is lost may have been applied, or not, or it is in flight and ends later; whoever needs a lock
//! that it holds waits for its end or gives up after a while, as `lock_timeout` makes it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use forebay::clock::Clock;
use forebay::sink::{
    Anchor, BadRecord, Control, Failure, FenceRow, Identity, Progress, Reason, Replica, RowCounts, Taken, Takeover,
    Tolerates, Writer, Written,
};
use forebay::state::batch::{Batch, LaneMove};
use forebay::state::replica::Position;
use forebay::types::{Lane, NextOffset, TopicIx, TopicPartition};

use super::db::{AnchorRow, Applied, Effect, Fence, Lock, Orphan, Tables};
use super::observe::Happening;
use super::world::{Shared, World};

/// A connection, of a worker or of a control loop.
struct Link {
    world: Shared,
    shard: usize,
    process: u32,
    /// The database's epoch when it was opened.
    epoch: Option<u64>,
}

pub struct FakeWriter(Link);
pub struct FakeControl(Link);

impl FakeWriter {
    pub fn new(world: Shared, shard: usize, process: u32) -> FakeWriter {
        FakeWriter(Link { world, shard, process, epoch: None })
    }
}

impl FakeControl {
    pub fn new(world: Shared, shard: usize, process: u32) -> FakeControl {
        FakeControl(Link { world, shard, process, epoch: None })
    }
}

/// How a transaction's answer gets lost.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    Applied,
    Unapplied,
    Orphaned,
}

fn outage(why: &str) -> Failure {
    Failure::Outage(Reason::new(why))
}

fn lock_wait() -> Failure {
    Failure::LockWait(Reason { sqlstate: Some("55P03".into()), text: "canceling statement due to lock timeout".into() })
}

impl Link {
    /// Uses the connection, opening one where there is none. A broken one is noticed once.
    fn connect(&mut self) -> Result<(), Failure> {
        let w = self.world.borrow();
        let db = &w.dbs[self.shard];
        if db.down {
            self.epoch = None;
            return Err(outage("connection refused"));
        }
        if self.epoch.is_some_and(|e| e != db.epoch) {
            self.epoch = None;
            return Err(outage("the server closed the connection"));
        }
        self.epoch = Some(db.epoch);
        Ok(())
    }

    /// Commits, or loses the answer.
    fn commit(&mut self, effect: Effect, fate: Fate) -> Result<(), Failure> {
        let mut w = self.world.borrow_mut();
        match fate {
            Fate::Answered => {}
            Fate::Unapplied => w.note(format_args!("p{} s{} lost, not applied", self.process, self.shard)),
            Fate::Applied => w.note(format_args!("p{} s{} lost, but applied:", self.process, self.shard)),
            Fate::Orphaned => {
                w.note(format_args!("p{} s{} lost, and in flight", self.process, self.shard));
                let orphan = Orphan { locks: effect.locks(), effect: effect.clone(), process: self.process };
                w.dbs[self.shard].orphans.push(orphan);
            }
        }
        if matches!(fate, Fate::Answered | Fate::Applied) {
            w.commit(self.shard, self.process, &effect);
        }
        if fate == Fate::Answered {
            return Ok(());
        }
        self.epoch = None;
        Err(outage("the connection broke before the answer came"))
    }

    fn control_fate(&self) -> Fate {
        let mut w = self.world.borrow_mut();
        let f = w.faults.clone();
        w.fate([f.control_lost_applied, f.control_lost_unapplied, f.control_orphaned])
    }
}

impl World {
    fn fate(&mut self, per_mille: [u32; 3]) -> Fate {
        let fates = [Fate::Applied, Fate::Unapplied, Fate::Orphaned];
        fates.into_iter().zip(per_mille).find(|(_, p)| self.chance(*p)).map_or(Fate::Answered, |(fate, _)| fate)
    }

    /// A transaction becomes visible and durable.
    pub fn commit(&mut self, shard: usize, process: u32, effect: &Effect) {
        let before: BTreeMap<TopicPartition, AnchorRow> =
            effect.anchors.iter().filter_map(|(at, _)| Some((*at, *self.dbs[shard].tables.anchors.get(at)?))).collect();
        // Shown one by one and before they are there, so that an observer can compare with what is.
        for (index, row) in effect.rows.iter().enumerate() {
            let earlier = &effect.rows[..index];
            self.happened(&Happening::Applied { shard, row: *row, earlier: earlier.to_vec() });
            self.broker.published[row.id as usize].ever_durable = true;
        }
        self.dbs[shard].apply(effect);
        for ((at, lane), fence) in &effect.fences {
            self.note(format_args!("p{process} s{shard} fence {} lane {lane} -> {fence:?}", show(*at)));
        }
        for (at, row) in &effect.anchors {
            let (at, row) = (*at, *row);
            match before.get(&at) {
                Some(old) if old.owner == row.owner => {
                    self.happened(&Happening::Progressed { shard, process, at, done: row.done });
                }
                _ => self.happened(&Happening::Taken { shard, process, at, row }),
            }
        }
    }

    /// A transaction in flight ends.
    pub fn end_orphan(&mut self, shard: usize, index: usize, commits: bool) {
        let orphan = self.dbs[shard].orphans.remove(index);
        let how = if commits { "commits" } else { "rolls back" };
        self.note(format_args!("p{} s{shard} the transaction in flight {how}", orphan.process));
        if commits {
            self.commit(shard, orphan.process, &orphan.effect);
        }
    }

    /// Waits for the transactions that hold one of these locks, or gives up.
    fn wait(&mut self, shard: usize, locks: impl Fn(&Lock) -> bool) -> Result<(), Failure> {
        while let Some(index) = self.dbs[shard].holder(&locks) {
            if self.rng.bool() {
                return Err(lock_wait());
            }
            let commits = self.rng.bool();
            self.end_orphan(shard, index, commits);
        }
        Ok(())
    }
}

/// Short, for traces.
pub fn show(at: TopicPartition) -> String {
    format!("{}/{}", at.topic.0, at.partition)
}

impl FakeWriter {
    /// Without `tolerates` a bad record fails the whole.
    fn transact(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        moves: &[LaneMove],
        tolerates: Option<&mut Tolerates<'_>>,
    ) -> Result<Written, Failure> {
        let topic = batch.topic().expect("a batch has a topic");
        self.0.connect()?;
        let (shard, process) = (self.0.shard, self.0.process);
        let mut rows = rows_of(batch, range.clone(), moves, process);
        let records = rows.len() as u32;
        let world = self.0.world.clone();
        let mut w = world.borrow_mut();
        let f = w.faults.clone();
        if w.chance(f.write_transient) {
            return Err(Failure::Transient(Reason::new("deadlock detected")));
        }
        if w.chance(f.write_lock_wait) {
            return Err(lock_wait());
        }
        if range.len() > 1 && w.chance(f.write_too_long) {
            return Err(Failure::TooLong(Reason::new("canceling statement due to statement timeout")));
        }
        let bad = |(index, row): (usize, &Applied)| {
            let reason = Reason::new("value out of range");
            w.broker.published[row.id as usize].poison.then_some(BadRecord { index: range.start + index, reason })
        };
        let bad: Vec<BadRecord> = rows.iter().enumerate().filter_map(bad).collect();
        match (bad.first(), tolerates) {
            (None, _) => {}
            (Some(first), None) => {
                // Not every failure says which record it was.
                let which = w.rng.bool().then_some(first.index);
                return Err(Failure::Record(which, first.reason.clone()));
            }
            (Some(first), Some(tolerates)) => {
                if !tolerates(&bad) {
                    return Err(Failure::Record(Some(first.index), first.reason.clone()));
                }
                bad.iter().for_each(|b| rows[b.index - range.start].dead = true);
            }
        }
        let dead = bad.len() as u32;
        let key = |m: &LaneMove| (TopicPartition { topic, partition: m.partition }, m.lane);
        let keys: Vec<_> = moves.iter().map(key).collect();
        w.wait(shard, |lock| keys.iter().any(|k| *lock == Lock::Fence(k.0, k.1)))?;
        let fate = w.fate([f.write_lost_applied, f.write_lost_unapplied, f.write_orphaned]);
        let db = &w.dbs[shard];
        let matches = |m: &&LaneMove| match db.tables.fences.get(&key(m)) {
            Some(fence) => *fence == Fence { next: m.expected.0, token: db.stored(m.token) },
            None => !db.switches.only_takeover_creates_fences,
        };
        let matching: Vec<&LaneMove> = moves.iter().filter(matches).collect();
        let ok = matching.len() == moves.len();
        let mut effect = Effect::default();
        if ok || !db.switches.all_fences_or_none {
            let moved = |m: &&LaneMove| (key(m), Some(Fence { next: m.next.0, token: db.stored(m.token) }));
            effect.fences = matching.iter().map(moved).collect();
        }
        if ok {
            effect.rows = rows;
        }
        w.note(format_args!("p{process} s{shard} writes {records} records, {moves:?}: {ok}"));
        drop(w);
        self.0.commit(effect, fate)?;
        let counts = RowCounts { upserted: records - dead, dead, ..RowCounts::default() };
        Ok(if ok { Written::Applied(counts) } else { Written::Mismatch })
    }
}

impl Writer for FakeWriter {
    fn write(&mut self, batch: &Batch, range: Range<usize>, moves: &[LaneMove]) -> Result<Written, Failure> {
        self.transact(batch, range, moves, None)
    }

    fn sift(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        moves: &[LaneMove],
        tolerates: &mut Tolerates<'_>,
    ) -> Result<Written, Failure> {
        self.transact(batch, range, moves, Some(tolerates))
    }

    fn reread(&mut self, topic: TopicIx, lanes: &[(i32, Lane)]) -> Result<Vec<FenceRow>, Failure> {
        self.0.connect()?;
        let mut w = self.0.world.borrow_mut();
        let lost = w.faults.reread_lost;
        if w.chance(lost) {
            drop(w);
            self.0.epoch = None;
            return Err(outage("the connection broke"));
        }
        let db = &w.dbs[self.0.shard];
        let row = |&(partition, lane): &(i32, Lane)| {
            let at = TopicPartition { topic, partition };
            let fence = db.tables.fences.get(&(at, lane))?;
            let token = db.read_as(self.0.process, at, fence.token);
            Some(FenceRow { partition, lane, next: NextOffset(fence.next), token })
        };
        let rows: Vec<FenceRow> = lanes.iter().filter_map(row).collect();
        w.note(format_args!("p{} s{} reads {rows:?}", self.0.process, self.0.shard));
        Ok(rows)
    }
}

/// The records that a write applies. A write that breaks the trait's contract is the engine's bug.
fn rows_of(batch: &Batch, range: Range<usize>, moves: &[LaneMove], process: u32) -> Vec<Applied> {
    assert!(!range.is_empty() && !moves.is_empty(), "a write without records or fences");
    assert!(moves.is_sorted_by_key(|m| (m.partition, m.lane)), "fences are locked in order: {moves:?}");
    let mut rows = Vec::new();
    for index in range {
        let record = batch.record(index);
        let (_, run) = batch.meta(index);
        // Two tenures of one fence may meet in a batch: at most one of them still has its token.
        let of_lane = |m: &&LaneMove| (m.partition, m.lane, m.token) == (run.partition, run.lane, run.token);
        let mut fences = moves.iter().filter(of_lane);
        let m = fences.next().expect("each record has a fence");
        assert!(fences.next().is_none(), "one move a fence: {moves:?}");
        let inside = record.offset.0 >= m.expected.0 && record.offset.0 < m.next.0;
        assert!(inside, "record {} outside its fence's move {m:?}", record.offset);
        let value = record.value.and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
        let id = value.expect("a record's value is its number");
        rows.push(Applied { id, process, token: m.token, dead: false });
    }
    rows
}

impl Control for FakeControl {
    /// Up to date, or a second behind.
    fn replica(&mut self, _: &str) -> Result<Replica, Failure> {
        self.0.connect()?;
        let mut w = self.0.world.borrow_mut();
        let (written, behind) = (w.clock.now().as_millis() as u64, w.faults.replica_behind);
        let lag = if w.chance(behind) { Duration::from_secs(1) } else { Duration::ZERO };
        let replayed = written.saturating_sub(lag.as_millis() as u64);
        Ok(Replica::At(Position { written, replayed, measured: Some(lag) }))
    }

    fn locate(
        &mut self,
        topic: TopicIx,
        identity: &Identity,
        partitions: &[i32],
    ) -> Result<Vec<Option<Anchor>>, Failure> {
        self.0.connect()?;
        let mut w = self.0.world.borrow_mut();
        let (shard, lost) = (self.0.shard, w.faults.reread_lost);
        if w.chance(lost) {
            drop(w);
            self.0.epoch = None;
            return Err(outage("the connection broke"));
        }
        let ours = (identity.cluster_id.clone(), identity.topic_id.clone());
        let known = w.dbs[shard].tables.sources.get(&topic.0).cloned();
        match known {
            None => {
                w.dbs[shard].tables.sources.insert(topic.0, ours);
                w.dbs[shard].remember();
            }
            Some(known) if known != ours => {
                let text = format!("the topic is another one: registered {known:?}, found {ours:?}");
                return Err(Failure::Topic(Reason::new(text)));
            }
            Some(_) => {}
        }
        let anchor = |&partition: &i32| {
            let row = w.dbs[shard].tables.anchors.get(&TopicPartition { topic, partition })?;
            Some(Anchor { origin: NextOffset(row.origin), done: NextOffset(row.done) })
        };
        let anchors: Vec<_> = partitions.iter().map(anchor).collect();
        w.note(format_args!("p{} s{shard} locates {topic:?} {partitions:?}: {anchors:?}", self.0.process));
        Ok(anchors)
    }

    fn takeover(&mut self, t: &Takeover) -> Result<Taken, Failure> {
        self.0.connect()?;
        let fate = self.0.control_fate();
        let (shard, process) = (self.0.shard, self.0.process);
        let world = self.0.world.clone();
        let mut w = world.borrow_mut();
        let separate = w.dbs[shard].switches.takeover_in_statements;
        let before = w.dbs[shard].tables.clone();
        w.wait(shard, |lock| matches!(lock, Lock::Anchor(at) | Lock::Fence(at, _) if *at == t.at))?;
        w.dbs[shard].count_up(process, t.at, t.token);
        let stored = w.dbs[shard].stored(t.token);
        // Separate statements see what is there after each wait; one statement saw it before.
        let seen = if separate { w.dbs[shard].tables.clone() } else { before };
        let now = w.dbs[shard].fences_of(t.at);
        drop(w);
        let (taken, effect) = take(t, stored, &seen, &now);
        self.0.commit(effect, fate)?;
        Ok(taken)
    }

    fn progress(&mut self, topic: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
        self.0.connect()?;
        let fate = self.0.control_fate();
        let (shard, process) = (self.0.shard, self.0.process);
        let world = self.0.world.clone();
        let mut w = world.borrow_mut();
        let key = |partition| TopicPartition { topic, partition };
        w.wait(shard, |lock| matches!(lock, Lock::Anchor(at) if of.iter().any(|p| key(p.partition) == *at)))?;
        let db = &w.dbs[shard];
        let mut effect = Effect::default();
        let mut raised = Vec::new();
        for p in of {
            let (at, token) = (key(p.partition), db.stored(p.token));
            let Some(row) = db.tables.anchors.get(&at).filter(|row| row.token == token) else { continue };
            let holds = |(lane, believed): (usize, &NextOffset)| {
                let fence = db.tables.fences.get(&(at, lane as Lane));
                fence.is_some_and(|f| f.token == token && f.next >= believed.0)
            };
            if db.switches.verified_progress && !p.fences.iter().enumerate().all(holds) {
                continue;
            }
            let row = AnchorRow { done: row.done.max(p.done.0), ..*row };
            raised.push((p.partition, NextOffset(row.done)));
            effect.anchors.push((at, row));
        }
        w.note(format_args!("p{process} s{shard} progress {of:?}: {raised:?}"));
        drop(w);
        self.0.commit(effect, fate)?;
        Ok(raised)
    }
}

/// A takeover's answer and effect, given the tables as its statements see them and the fences that exist.
fn take(t: &Takeover, stored: forebay::types::Token, seen: &Tables, now: &[(Lane, Fence)]) -> (Taken, Effect) {
    let mut effect = Effect::default();
    let old = seen.anchors.get(&t.at).copied();
    let begin = t.begin.0;
    let fresh = AnchorRow { lanes: t.lanes, token: stored, origin: begin, done: begin, owner: t.token };
    let mut row = old.map_or(fresh, |old| AnchorRow { token: stored, owner: t.token, ..old });
    let mut fences: Vec<(Lane, i64)> =
        seen.fences.range((t.at, 0)..=(t.at, Lane::MAX)).map(|((_, lane), f)| (*lane, f.next)).collect();
    let drained = fences.iter().all(|&(_, next)| next <= row.done);
    if old.is_none() || (row.lanes != t.lanes && drained) {
        row.lanes = t.lanes;
        effect.fences.extend(now.iter().map(|(lane, _)| ((t.at, *lane), None)));
        fences = (0..t.lanes).map(|lane| (lane, row.done)).collect();
        let made = |&(lane, next): &(Lane, i64)| ((t.at, lane), Some(Fence { next, token: stored }));
        effect.fences.extend(fences.iter().map(made));
    } else {
        // The mark touches no more than the token: whatever the offset is by now, stays.
        let marked = now.iter().map(|(lane, f)| ((t.at, *lane), Some(Fence { next: f.next, token: stored })));
        effect.fences.extend(marked);
    }
    effect.anchors.push((t.at, row));
    let taken = Taken {
        origin: NextOffset(row.origin),
        done: NextOffset(row.done),
        created: old.is_none(),
        fences: fences.into_iter().map(|(_, next)| NextOffset(next)).collect(),
    };
    (taken, effect)
}
