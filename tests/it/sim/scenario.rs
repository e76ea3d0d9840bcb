//! What a scenario is made of: processes that start, crash, hang and leave, and the quiet phase after which everything must be
//! as the guarantees say.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use forebay::config::{Affinity, FirstStart, OnBadRecord, Pace, ParkingLimits};
use forebay::engine::Rules;
use forebay::types::{NextOffset, TopicIx, TopicPartition};

use super::broker::{Broker, Content, ShardOf};
use super::db::Statements;
use super::group::Group;
use super::observe::{self, Happening};
use super::process::{HOT_KEYS, Process, SESSION_TIMEOUT, Setup};
use super::world::{Faults, Shared, World};

/// What stays the same through a scenario.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub slots: usize,
    pub topics: usize,
    pub partitions: usize,
    pub shards: usize,
    pub routing: ShardOf,
    pub eager: bool,
    /// A restarted process takes its predecessor's place in the group at once.
    pub static_members: bool,
    pub keys: u32,
    pub window: usize,
    pub rules: Rules,
    pub statements: Statements,
    pub on_bad_record: OnBadRecord,
    pub parking: ParkingLimits,
    pub contents: Contents,
}

/// What random records say besides their keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents {
    /// Keys meet in rows.
    pub meet: bool,
    /// Some need a row that may come later, elsewhere, or never.
    pub parents: bool,
    /// Some name no tenant.
    pub unroutable: bool,
}

impl Plan {
    /// One process, one topic, one partition, one shard.
    pub fn small(seed: u64) -> Plan {
        Plan {
            seed,
            slots: 1,
            topics: 1,
            partitions: 1,
            shards: 1,
            routing: ShardOf::Only,
            eager: false,
            static_members: false,
            keys: 3,
            window: 1000,
            rules: Rules::ALL,
            statements: Statements::default(),
            on_bad_record: OnBadRecord::Stop,
            parking: ParkingLimits { records_max: 1_000_000, key_records_max: 1_000_000 },
            contents: Contents::default(),
        }
    }

    pub fn setup(&self) -> Setup {
        Setup {
            workers: 1,
            lanes: 2,
            affinity: Affinity::Late,
            batch_records_max: 20,
            window: self.window,
            rules: self.rules,
            until_end: false,
            first_start: FirstStart::Earliest,
            on_bad_record: self.on_bad_record,
            pace: Pace::default(),
            topic_rows_per_second_max: None,
            tenant_rows_per_second_max: None,
            parking: self.parking,
            slow_lanes: 1,
            hot_keys: HOT_KEYS,
        }
    }
}

/// A place where a process may run.
pub enum Slot {
    Off,
    Running(Box<Process>),
    /// Stopped by SIGSTOP, or by a machine that swaps.
    Hung(Box<Process>),
}

pub struct Sim {
    pub world: Shared,
    pub plan: Plan,
    pub slots: Vec<Slot>,
    last_member: Vec<Option<u32>>,
    next_number: u32,
    /// Topics that the process which left last had given up.
    left_stopped: BTreeSet<u16>,
}

/// What one poll of the fake source hands out at most.
pub const POLL_RECORDS: usize = 12;

/// How long the quiet phase may take, in rounds that step everything once.
const ROUNDS_MAX: usize = 4_000;
/// Rows that keys share, where they do.
const MEETING_ROWS: u32 = 3;
pub const ROUND: Duration = Duration::from_millis(25);

pub const fn partition(topic: u16, partition: i32) -> TopicPartition {
    TopicPartition { topic: TopicIx(topic), partition }
}

impl Sim {
    pub fn new(plan: Plan) -> Sim {
        let broker = Broker::new(plan.topics, plan.partitions, plan.routing);
        let mut world = World::new(plan.seed, Group::new(plan.eager, SESSION_TIMEOUT), broker, plan.shards);
        world.observers = observe::all(plan.window + POLL_RECORDS);
        world.poll_records_max = POLL_RECORDS;
        world.sets_aside = plan.on_bad_record != OnBadRecord::Stop;
        for db in &mut world.dbs {
            db.switches = plan.statements;
            db.history_max = 200;
        }
        let slots = (0..plan.slots).map(|_| Slot::Off).collect();
        let last_member = vec![None; plan.slots];
        Sim {
            world: Rc::new(RefCell::new(world)),
            plan,
            slots,
            last_member,
            next_number: 0,
            left_stopped: BTreeSet::new(),
        }
    }

    pub fn start(&mut self, slot: usize, setup: &Setup) {
        self.next_number += 1;
        self.left_stopped.clear();
        if let (true, Some(last)) = (self.plan.static_members, self.last_member[slot]) {
            self.world.borrow_mut().group.expel(last);
        }
        self.last_member[slot] = Some(self.next_number);
        let process = Process::start(&self.world, self.next_number, setup);
        self.slots[slot] = Slot::Running(Box::new(process));
    }

    /// kill -9.
    pub fn crash(&mut self, slot: usize) {
        if let Slot::Running(p) | Slot::Hung(p) = std::mem::replace(&mut self.slots[slot], Slot::Off) {
            self.world.borrow_mut().note(format_args!("p{} is killed", p.number));
        }
    }

    pub fn hang(&mut self, slot: usize) {
        self.slots[slot] = match std::mem::replace(&mut self.slots[slot], Slot::Off) {
            Slot::Running(p) => {
                self.world.borrow_mut().note(format_args!("p{} hangs", p.number));
                Slot::Hung(p)
            }
            other => other,
        };
    }

    pub fn go_on(&mut self, slot: usize) {
        self.slots[slot] = match std::mem::replace(&mut self.slots[slot], Slot::Off) {
            Slot::Hung(p) => {
                self.world.borrow_mut().note(format_args!("p{} goes on", p.number));
                Slot::Running(p)
            }
            other => other,
        };
    }

    /// As on SIGTERM.
    pub fn close(&mut self, slot: usize) {
        if let Some(p) = self.running(slot) {
            p.close();
            let number = p.number;
            self.world.borrow_mut().note(format_args!("p{number} is asked to leave"));
        }
    }

    pub fn running(&mut self, slot: usize) -> Option<&mut Process> {
        match &mut self.slots[slot] {
            Slot::Running(p) => Some(p),
            _ => None,
        }
    }

    /// One step of one process; a process that has left is gone afterwards.
    pub fn step(&mut self, slot: usize, step: impl FnOnce(&mut Process)) {
        if let Some(p) = self.running(slot) {
            step(p);
            if p.finished {
                let number = p.number;
                self.left_stopped = p.stopped.keys().copied().collect();
                self.slots[slot] = Slot::Off;
                self.world.borrow_mut().note(format_args!("p{number} has left"));
            }
        }
    }

    /// Every running process does everything once, and a while passes.
    pub fn round(&mut self) {
        for slot in 0..self.slots.len() {
            self.step(slot, Process::step_all);
        }
        self.pass(ROUND);
    }

    pub fn rounds(&mut self, n: usize) {
        for _ in 0..n {
            self.round();
        }
    }

    pub fn pass(&self, time: Duration) {
        let mut w = self.world.borrow_mut();
        w.clock.advance(time);
        w.tick_group();
    }

    /// Publishes records of random keys.
    pub fn publish(&self, n: usize) {
        let mut w = self.world.borrow_mut();
        for _ in 0..n {
            let topic = w.rng.u16(0..self.plan.topics as u16);
            let key = w.rng.u32(0..self.plan.keys);
            let at = partition(topic, (key as usize % self.plan.partitions) as i32);
            let gap = if w.rng.u32(0..8) == 0 { w.rng.i64(1..5) } else { 0 };
            // Without a key there is no tenant to route by.
            let keyless = !matches!(self.plan.routing, ShardOf::KeyHash(_)) && w.rng.u32(0..20) == 0;
            let key = (!keyless).then(|| format!("k{key}").into_bytes());
            let content = self.content(&mut w, key);
            let timestamp_ms = forebay::clock::Clock::wall_ms(&w.clock);
            w.publish(at, gap, content, timestamp_ms);
        }
    }

    fn content(&self, w: &mut World, key: Option<Vec<u8>>) -> Content {
        let Contents { meet, parents, unroutable } = self.plan.contents;
        let mut content = Content::from(key);
        if meet && w.rng.u32(0..3) == 0 {
            content.row = Some(self.meeting_row(w.rng.u32(..)));
        }
        match if parents { w.rng.u32(0..8) } else { 8 } {
            0 => {
                let row = format!("x{}", w.broker.published.len()).into_bytes();
                w.awaited.push(row.clone());
                content.parent = Some(row);
            }
            1 => content.parent = Some(format!("k{}", w.rng.u32(0..self.plan.keys)).into_bytes()),
            2 | 3 if !w.awaited.is_empty() => {
                let which = w.rng.usize(0..w.awaited.len());
                content.row = Some(w.awaited.swap_remove(which));
            }
            _ => {}
        }
        content.unroutable = unroutable && w.rng.u32(0..10) == 0;
        content
    }

    /// A row that records of several keys write.
    pub fn meeting_row(&self, which: u32) -> Vec<u8> {
        format!("r{}", which % MEETING_ROWS).into_bytes()
    }

    pub fn publish_key(&self, at: TopicPartition, key: &str) {
        self.publish_content(at, Content::from(Some(key.as_bytes().to_vec())));
    }

    pub fn publish_content(&self, at: TopicPartition, content: Content) {
        self.world.borrow_mut().publish(at, 0, content, 0);
    }

    /// A failover that loses what came after the state with this number.
    pub fn fall_back(&self, shard: usize, to: usize, hidden: bool) {
        let mut w = self.world.borrow_mut();
        let lost = w.dbs[shard].fall_back(to, hidden);
        w.happened(&Happening::FellBack { shard, lost });
    }

    /// Everything heals, and everybody works until nothing is left to do.
    ///
    /// # Errors
    /// The first guarantee that was broken, or what is stuck.
    pub fn settle(&mut self) -> Result<(), String> {
        self.heal();
        for _ in 0..ROUNDS_MAX {
            if self.world.borrow().broken.is_some() || self.is_settled() {
                break;
            }
            self.start_one();
            self.round();
        }
        if self.world.borrow().broken.is_none() && !self.is_settled() {
            let mut w = self.world.borrow_mut();
            let missing: Vec<_> = w.missing().collect();
            let committed = w.group.committed.clone();
            w.broken.get_or_insert(format!("stuck: missing {missing:?}, committed {committed:?}"));
        }
        let mut w = self.world.borrow_mut();
        if w.broken.is_none() {
            w.at_rest();
        }
        w.broken.clone().map_or(Ok(()), Err)
    }

    /// Rounds until a process has left by itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn leaves(&mut self, slot: usize) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            if matches!(self.slots[slot], Slot::Off) {
                return Ok(());
            }
            self.round();
        }
        Err("stuck: it does not leave".into())
    }

    /// Whether all is as it must be, without anybody doing anything more.
    ///
    /// # Errors
    /// The guarantee that is broken.
    pub fn settled(&mut self) -> Result<(), String> {
        let left_over = (!self.is_settled()).then(|| "stuck: it left before all was done".to_owned());
        let w = self.world.borrow_mut();
        w.broken.clone().or(left_over).map_or(Ok(()), Err)
    }

    fn heal(&mut self) {
        {
            let mut w = self.world.borrow_mut();
            w.note(format_args!("everything heals"));
            w.faults = Faults::default();
            w.broker.down = false;
            w.locked.clear();
            for shard in 0..w.dbs.len() {
                w.dbs[shard].down = false;
                w.dbs[shard].tables.holds.clear();
                while !w.dbs[shard].orphans.is_empty() {
                    let commits = w.rng.bool();
                    w.end_orphan(shard, 0, commits);
                }
            }
        }
        for slot in 0..self.slots.len() {
            self.go_on(slot);
        }
    }

    /// An operator's last resort, once all processes have crashed or left.
    fn start_one(&mut self) {
        if !self.slots.iter().any(|s| matches!(s, Slot::Running(_))) {
            let setup = self.plan.setup();
            self.start(0, &setup);
        }
    }

    /// Every topic is done or rightly stopped.
    fn is_settled(&self) -> bool {
        let w = self.world.borrow();
        let stopped =
            |topic: u16| self.slots.iter().any(|s| matches!(s, Slot::Running(p) if p.stopped.contains_key(&topic)));
        let given_up = |topic: u16| stopped(topic) || self.left_stopped.contains(&topic);
        (0..self.plan.topics as u16).all(|topic| given_up(topic) || (!w.must_stop(topic) && w.is_done(topic)))
    }
}

impl World {
    fn publish(&mut self, at: TopicPartition, gap: i64, content: Content, timestamp_ms: i64) {
        let id = self.broker.published.len();
        self.note(format_args!("#{id} is published: {content:?}"));
        self.broker.publish(at, gap, content, timestamp_ms);
    }

    /// Whether everything of a topic is applied and committed, where that can be.
    fn is_done(&self, topic: u16) -> bool {
        let applies = |at: &TopicPartition| at.topic.0 == topic && !self.is_broken(*at);
        let published = &self.broker.published;
        let waiting = self.missing().any(|id| applies(&published[id as usize].at) && !published[id as usize].removed);
        let committed = |at: TopicPartition| self.group.committed.get(&at).map(|(next, _)| NextOffset(*next));
        let end = |at: TopicPartition| NextOffset(self.broker.log(at).end);
        !waiting && self.broker.partitions().into_iter().filter(applies).all(|at| committed(at) == Some(end(at)))
    }

    fn is_broken(&self, at: TopicPartition) -> bool {
        self.broker.is_broken(at)
    }
}
