//! What one process sees of the fake databases: [`Writer`] and [`Control`], an exact model of the fence protocol's
//! statements, each of which is one step of the simulation.
//!
//! A transaction whose answer is lost may have been applied, or not, or it is in flight and ends later; whoever needs a lock
//! that it holds waits for its end or gives up after a while, as `lock_timeout` makes it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use forebay::clock::Clock;
use forebay::config::Then;
use forebay::sink::{
    Anchor, Care, Control, Drain, DrainLimits, Drained, Failure, FenceRow, Identity, Job, ParkedRecord, Progress,
    Reason, Replica, RowCounts, SlowLane, Taken, Takeover, ToPark, Waiting, Writer, Written,
};
use forebay::state::batch::{Batch, LaneMove};
use forebay::state::holds::Decided;
use forebay::state::parked::Tail;
use forebay::state::replica::Position;
use forebay::state::tolerance::Tolerance;
use forebay::types::{KeyHash, Lane, NextOffset, Offset, Token, TopicIx, TopicPartition};

use super::broker::Id;
use super::db::{AnchorRow, Applied, Effect, Fence, Lock, Orphan, ParkedRow, Tables};
use super::observe::Happening;
use super::trial::{Given, Trial};
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
pub struct FakeSlowLane(Link);

impl FakeSlowLane {
    pub fn new(world: Shared, shard: usize, process: u32) -> FakeSlowLane {
        FakeSlowLane(Link { world, shard, process, epoch: None })
    }
}

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

pub fn lock_wait() -> Failure {
    Failure::LockWait(Reason {
        sqlstate: Some("55P03".into()),
        ..Reason::new("canceling statement due to lock timeout")
    })
}

impl Link {
    /// Uses the connection, opening one where there is none. A broken one is noticed once.
    fn connect(&mut self) -> Result<(), Failure> {
        let w = self.world.borrow();
        let db = &w.dbs[self.shard];
        if db.down {
            self.epoch = None;
            drop(w);
            self.world.borrow_mut().refused += 1;
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
                let effect = Effect { in_flight: true, ..effect.clone() };
                let orphan = Orphan { locks: effect.locks(), effect, process: self.process };
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
        let (all, in_flight): (Rc<[Applied]>, bool) = (effect.rows.as_slice().into(), effect.in_flight);
        for (index, row) in effect.rows.iter().enumerate() {
            self.happened(&Happening::Applied { shard, all: Rc::clone(&all), index, in_flight });
            self.broker.published[row.id as usize].ever_durable = true;
        }
        for place in &effect.kill {
            if let Some(row) = self.dbs[shard].tables.parked.get(place).copied() {
                self.happened(&Happening::Died { shard, row, all: Rc::clone(&all), in_flight });
            }
        }
        for (index, ((at, hash, offset), row)) in effect.park.iter().enumerate() {
            let before = effect.park[..index].iter().filter(|((a, h, _), _)| (a, h) == (at, hash)).count();
            let behind = before + self.dbs[shard].parked_of(*at, *hash).iter().filter(|(o, _)| o < offset).count();
            self.happened(&Happening::Parked { shard, row: *row, behind });
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
    /// Without `care` a bad record, or a lock, fails the whole.
    fn transact(&mut self, job: &Job<'_>, care: Option<Care<'_, '_>>) -> Result<Written, Failure> {
        self.0.connect()?;
        let (shard, process) = (self.0.shard, self.0.process);
        let mut given = given(job, process);
        let world = self.0.world.clone();
        let mut w = world.borrow_mut();
        let f = w.faults.clone();
        if w.chance(f.write_transient) {
            return Err(Failure::Transient(Reason::new("deadlock detected")));
        }
        if w.chance(f.write_lock_wait) {
            return Err(lock_wait());
        }
        if job.range.len() > 1 && w.chance(f.write_too_long) {
            return Err(Failure::TooLong(Reason::new("canceling statement due to statement timeout")));
        }
        let (bad, room) = match care {
            None => {
                let trial = Trial::new(&w, shard, &mut given, Then::Skip);
                let to_apply: Vec<usize> = (0..trial.given.len()).filter(|p| trial.given[*p].park.is_none()).collect();
                if let Some(named) = to_apply.iter().find(|place| trial.given[**place].unroutable) {
                    return Err(Failure::Record(Some(trial.given[*named].index), Reason::new("no tenant")));
                }
                if trial.meets_lock() || to_apply.iter().any(|p| w.is_parent_locked(trial.given[*p].row.id)) {
                    return Err(lock_wait());
                }
                if let Some((place, reason)) = trial.refusal(&to_apply) {
                    return Err(Failure::Record(place.map(|place| trial.given[place].index), reason));
                }
                (Vec::new(), u64::MAX)
            }
            Some(care) => {
                let mut trial = Trial::new(&w, shard, &mut given, care.then);
                let refused = match care.probe {
                    true => trial.probe() && care.refused,
                    false if trial.meets_lock() => return Err(lock_wait()),
                    false => care.refused,
                };
                trial.apply(refused)?;
                let bad = trial.bad();
                if let Some(first) = bad.first()
                    && !(care.tolerates)(&bad)
                {
                    return Err(Failure::Record(Some(first.index), first.reason.clone()));
                }
                (bad, care.room)
            }
        };
        let newly = |g: &&Given| g.park.is_some() && !job.park.iter().any(|p| p.index == g.index);
        let newly: Vec<ToPark> =
            given.iter().filter(newly).filter_map(|g| Some(ToPark { index: g.index, why: g.park? })).collect();
        if newly.len() as u64 > room {
            return Err(Failure::NoRoom(Reason::new("nothing more may be parked")));
        }
        let keys: Vec<_> = job.moves.iter().map(|m| lane_of_move(job.batch, m)).collect();
        w.wait(shard, |lock| keys.iter().any(|k| *lock == Lock::Fence(k.0, k.1)))?;
        let fate = w.fate([f.write_lost_applied, f.write_lost_unapplied, f.write_orphaned]);
        let db = &w.dbs[shard];
        let matches = |m: &&LaneMove| match db.tables.fences.get(&lane_of_move(job.batch, m)) {
            Some(fence) => *fence == Fence { next: m.expected.0, token: db.stored(m.token) },
            None => !db.switches.only_takeover_creates_fences,
        };
        let matching: Vec<&LaneMove> = job.moves.iter().filter(matches).collect();
        let ok = matching.len() == job.moves.len();
        let parked = |key: &forebay::sink::FreeKey| {
            let at = TopicPartition { topic: job.batch.topic().expect("a topic"), partition: key.partition };
            !db.parked_of(at, key.hash).is_empty()
        };
        if ok && db.switches.free_verified && job.free.iter().any(parked) {
            w.note(format_args!("p{process} s{shard} finds {:?} parked", job.free));
            return Ok(Written::NotFree);
        }
        let mut effect = Effect::default();
        if ok || !db.switches.all_fences_or_none {
            let moved =
                |m: &&LaneMove| (lane_of_move(job.batch, m), Some(Fence { next: m.next.0, token: db.stored(m.token) }));
            effect.fences = matching.iter().map(moved).collect();
        }
        let mut counts = RowCounts::default();
        let noted = db.switches.unroutable_noted;
        let took_ns = given.iter().map(|g| if g.park.is_some() { 0 } else { w.took_ns(g.row.id) }).collect();
        if ok {
            for g in given.iter().filter(|g| !g.folded) {
                match g.park {
                    Some(why) => {
                        let (unroutable, tries) = (g.unroutable && noted, u32::from(g.awaits || g.unroutable));
                        let row = ParkedRow { id: g.row.id, dead: g.dead, why, tries, unroutable };
                        effect.park.push((g.place(), row));
                        counts.parked += 1;
                    }
                    None => {
                        effect.rows.push(Applied { dead: g.dead, ..g.row });
                        counts.upserted += u32::from(!g.dead);
                    }
                }
            }
            counts.dead = bad.len() as u32;
        }
        w.note(format_args!(
            "p{process} s{shard} writes {} records, {} of them parked, {:?}: {ok}",
            job.range.len(),
            effect.park.len(),
            job.moves
        ));
        drop(w);
        self.0.commit(effect, fate)?;
        Ok(match ok {
            true => Written::Applied(forebay::sink::Applied { counts, parked: newly, took_ns }),
            false => Written::Mismatch,
        })
    }
}

fn lane_of_move(batch: &Batch, m: &LaneMove) -> (TopicPartition, Lane) {
    (TopicPartition { topic: batch.topic().expect("a batch has a topic"), partition: m.partition }, m.lane)
}

impl Writer for FakeWriter {
    fn write(&mut self, job: &Job<'_>) -> Result<Written, Failure> {
        self.transact(job, None)
    }

    fn write_with_care(&mut self, job: &Job<'_>, care: Care<'_, '_>) -> Result<Written, Failure> {
        self.transact(job, Some(care))
    }

    fn parked(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)]) -> Result<Vec<(i32, Tail)>, Failure> {
        self.0.connect()?;
        let mut w = self.0.world.borrow_mut();
        let lost = w.faults.reread_lost;
        if w.chance(lost) {
            drop(w);
            self.0.epoch = None;
            return Err(outage("the connection broke"));
        }
        let db = &w.dbs[self.0.shard];
        let tail = |&(partition, hash): &(i32, KeyHash)| {
            Some((partition, tail_of(hash, &db.parked_of(TopicPartition { topic, partition }, hash))?))
        };
        Ok(keys.iter().filter_map(tail).collect())
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

fn tail_of(hash: KeyHash, rows: &[(i64, ParkedRow)]) -> Option<Tail> {
    let (offset, row) = rows.last()?;
    Some(Tail { hash, offset: Offset(*offset), rows: rows.len() as u64, why: row.why })
}

/// A topic's parked keys, of one partition.
fn tails(tables: &Tables, at: TopicPartition) -> Vec<Tail> {
    let mut keys: BTreeMap<KeyHash, Vec<(i64, ParkedRow)>> = BTreeMap::new();
    for ((_, hash, offset), row) in tables.parked.iter().filter(|((a, ..), _)| *a == at) {
        keys.entry(*hash).or_default().push((*offset, *row));
    }
    keys.iter().filter_map(|(hash, rows)| tail_of(*hash, rows)).collect()
}

/// The records of a job. One that breaks the trait's contract is the engine's bug.
fn given(job: &Job<'_>, process: u32) -> Vec<Given> {
    let Job { batch, range, moves, park, .. } = job;
    assert!(!range.is_empty() && !moves.is_empty(), "a write without records or fences");
    assert!(moves.is_sorted_by_key(|m| (m.partition, m.lane)), "fences are locked in order: {moves:?}");
    assert!(park.is_sorted_by_key(|p| p.index) && park.iter().all(|p| range.contains(&p.index)), "{park:?}");
    let mut all = Vec::new();
    for index in range.clone() {
        let record = batch.record(index);
        let (meta, run) = batch.meta(index);
        // Two tenures of one fence may meet in a batch: at most one of them still has its token.
        let of_lane = |m: &&LaneMove| (m.partition, m.lane, m.token) == (run.partition, run.lane, run.token);
        let mut fences = moves.iter().filter(of_lane);
        let m = fences.next().expect("each record has a fence");
        assert!(fences.next().is_none(), "one move a fence: {moves:?}");
        let inside = record.offset.0 >= m.expected.0 && record.offset.0 < m.next.0;
        assert!(inside, "record {} outside its fence's move {m:?}", record.offset);
        let row = Applied { id: id_of(record.value), process, token: m.token, dead: false, slowly: false };
        let at = TopicPartition { topic: batch.topic().expect("a topic"), partition: run.partition };
        let park = park.iter().find(|p| p.index == index).map(|p| p.why);
        let (hash, offset, unroutable) = (meta.hash, record.offset.0, batch.unroutable(index).is_some());
        let (dead, awaits, folded) = (false, false, false);
        all.push(Given { index, at, hash, offset, row, park, dead, awaits, unroutable, folded });
    }
    all
}

fn id_of(value: Option<&[u8]>) -> Id {
    let value = value.and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
    value.expect("a record's value is its number")
}

impl SlowLane for FakeSlowLane {
    fn read(&mut self, topic: TopicIx, keys: &[(i32, KeyHash)], limits: DrainLimits) -> Result<Vec<Waiting>, Failure> {
        self.0.connect()?;
        let w = self.0.world.borrow();
        let each = (limits.records_max / keys.len().max(1)).clamp(1, limits.key_records_max);
        let waiting = |&(partition, hash): &(i32, KeyHash)| {
            let rows = w.dbs[self.0.shard].parked_of(TopicPartition { topic, partition }, hash);
            let (dead, tries) = rows.first().map(|(_, row)| (row.dead, row.tries))?;
            let record = |(offset, row): &(i64, ParkedRow)| ParkedRecord {
                offset: Offset(*offset),
                timestamp_ms: 0,
                key: w.broker.published[row.id as usize].key.clone(),
                value: Some(row.id.to_string().into_bytes()),
                headers: Vec::new(),
                unroutable: row.unroutable.then(|| "no tenant".to_owned()),
            };
            let records = if dead { Vec::new() } else { rows.iter().take(each).map(record).collect() };
            Some(Waiting { partition, hash, dead, tries, replayed: false, records })
        };
        Ok(keys.iter().filter_map(waiting).collect())
    }

    fn drain(&mut self, topic: TopicIx, keys: &[Waiting], how: &mut Drain) -> Result<Vec<Drained>, Failure> {
        self.0.connect()?;
        let (shard, process) = (self.0.shard, self.0.process);
        let world = self.0.world.clone();
        let mut w = world.borrow_mut();
        let f = w.faults.clone();
        if w.chance(f.write_transient) {
            return Err(Failure::Transient(Reason::new("deadlock detected")));
        }
        if w.chance(f.write_lock_wait) {
            return Err(lock_wait());
        }
        let fate = w.fate([f.write_lost_applied, f.write_lost_unapplied, f.write_orphaned]);
        let (outcomes, effect, tolerance) = drain_keys(&w, shard, process, topic, keys, *how)?;
        w.note(format_args!("p{process} s{shard} drains {keys:?}: {outcomes:?}"));
        let db = &w.dbs[shard];
        if db.switches.heads_locked && effect.take_out.iter().any(|place| !db.tables.parked.contains_key(place)) {
            return Err(Failure::Transient(Reason::new("parked records are gone that were read a moment ago")));
        }
        drop(w);
        self.0.commit(effect, fate)?;
        how.tolerance = tolerance;
        Ok(outcomes)
    }

    fn tidy(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// One transaction of a slow lane: what it does, and what becomes of each key.
fn drain_keys(
    w: &World,
    shard: usize,
    process: u32,
    topic: TopicIx,
    keys: &[Waiting],
    how: Drain,
) -> Result<(Vec<Drained>, Effect, Option<Tolerance>), Failure> {
    let db = &w.dbs[shard];
    let key_of = |key: &Waiting| (TopicPartition { topic, partition: key.partition }, key.hash);
    let is_ours = |key: &Waiting| {
        let (at, hash) = key_of(key);
        let first = key.records.first().expect("a key that waits has a record").offset.0;
        let held = db.holder(|lock| *lock == Lock::Head(at, hash)).is_some();
        let is_head = db.parked_of(at, hash).first().is_some_and(|(offset, row)| *offset == first && !row.dead);
        !db.switches.heads_locked || (!held && is_head)
    };
    let ours: Vec<&Waiting> = keys.iter().filter(|key| is_ours(key)).collect();
    let mut given: Vec<Given> = ours.iter().flat_map(|key| given_of(key_of(key), process, key)).collect();
    given.sort_by_key(|g| (g.at, g.offset));
    let mut trial = Trial::new(w, shard, &mut given, how.then);
    let alone = keys.len() == 1 || !db.switches.last_try_alone;
    let last_tries: Vec<_> = ours
        .iter()
        .filter(|key| alone && how.is_last_try(key.tries))
        .map(|key| (key_of(key), key.records[0].offset.0))
        .collect();
    let is_last = |place: &usize| last_tries.contains(&(trial.given[*place].key(), trial.given[*place].offset));
    trial.impatient = (0..trial.given.len()).filter(is_last).collect();
    trial.probe();
    trial.apply(false)?;
    let bad = trial.bad();
    // What waits has not been judged.
    let judged: Vec<bool> = given.iter().filter(|g| g.dead || g.park.is_none()).map(|g| g.dead).collect();
    let letters = judged.iter().enumerate().filter(|(_, dead)| **dead).map(|(place, _)| place);
    let tolerance = match (how.tolerance.map(|tolerance| tolerance.after(0..judged.len(), letters)), bad.first()) {
        (Some(Ok(after)), _) => Some(after),
        (Some(Err(limit)), _) => return Err(Failure::Record(None, Reason::new(limit))),
        (None, Some(first)) => return Err(Failure::Record(None, first.reason.clone())),
        (None, None) => None,
    };
    let mut effect = Effect { heads: ours.iter().map(|key| key_of(key)).collect(), ..Effect::default() };
    for g in &given {
        match g.park {
            None => {
                effect.rows.extend((!g.folded).then_some(Applied { dead: g.dead, ..g.row }));
                effect.take_out.push(g.place());
            }
            Some(_) => {
                effect.kill.extend(g.dead.then_some(g.place()));
                effect.tried.extend((g.is_head() && db.switches.tries_counted).then_some(g.place()));
            }
        }
    }
    let outcome = |key: &Waiting| {
        let of_key = || given.iter().filter(|g| g.key() == key_of(key));
        let rows = of_key().filter(|g| g.park.is_none()).count() as u64;
        let dead = of_key().filter(|g| g.park.is_none() && g.dead).count() as u64;
        let reason = || Reason::new("in vain");
        match of_key().find(|g| g.park.is_some()) {
            _ if of_key().next().is_none() => Drained::Busy,
            None => Drained::Taken { rows, dead },
            Some(head) if head.dead => Drained::Dead { rows, reason: reason() },
            Some(_) => Drained::Waits { rows, reason: reason() },
        }
    };
    let outcomes = keys.iter().map(outcome).collect();
    Ok((outcomes, effect, tolerance))
}

/// The records that a slow lane read of a key.
fn given_of((at, hash): (TopicPartition, KeyHash), process: u32, key: &Waiting) -> impl Iterator<Item = Given> {
    let given = move |(index, record): (usize, &ParkedRecord)| {
        let id = id_of(record.value.as_deref());
        let row = Applied { id, process, token: Token(0), dead: false, slowly: true };
        let (offset, unroutable) = (record.offset.0, record.unroutable.is_some());
        let (park, dead, awaits, folded) = (None, false, false, false);
        Given { index, at, hash, offset, row, park, dead, awaits, unroutable, folded }
    };
    key.records.iter().enumerate().map(given)
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

    fn probe(&mut self) -> Result<(), Failure> {
        self.0.world.borrow_mut().probes += 1;
        self.0.connect()
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
        let first_seen = before.clone();
        w.wait(shard, |lock| matches!(lock, Lock::Anchor(at) | Lock::Fence(at, _) if *at == t.at))?;
        w.dbs[shard].count_up(process, t.at, t.token);
        let stored = w.dbs[shard].stored(t.token);
        // Separate statements see what is there after each wait; one statement saw it before.
        let seen = if separate { w.dbs[shard].tables.clone() } else { before };
        let now = w.dbs[shard].fences_of(t.at);
        let behind = w.dbs[shard].switches.parked_read_behind_locks;
        let parked = tails(if behind { &w.dbs[shard].tables } else { &first_seen }, t.at);
        drop(w);
        let (mut taken, effect) = take(t, stored, &seen, &now);
        taken.parked = parked;
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

    fn decided(&mut self, topic: TopicIx) -> Result<Decided, Failure> {
        self.0.connect()?;
        let w = self.0.world.borrow();
        let mut decided = Decided::default();
        if let Some(keys) = w.dbs[self.0.shard].tables.holds.get(&topic.0) {
            keys.iter().for_each(|key| decided.holds.hold_key(key));
        }
        Ok(decided)
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
        parked: Vec::new(),
    };
    (taken, effect)
}
