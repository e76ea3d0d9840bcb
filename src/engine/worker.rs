//! A worker: one thread, one shard, one connection. It takes whatever has queued up, up to a batch's limits, writes it in one
//! transaction with its fences, and hands the chunks back. It never lingers and never decides by a guess: after a lost answer
//! it reads its fences.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::clock::Clock;
use crate::config::{self, Delivery, OnBadRecord, Then};
use crate::engine::Rules;
use crate::engine::control::LoopContext;
use crate::engine::event::{Doing, Event};
use crate::engine::hot_keys::HotKeys;
use crate::engine::observed::{AtWork, Observed};
use crate::engine::pace::Pace;
use crate::engine::parked::{Grounds, Parked, Sorted};
use crate::engine::report::Reporter;
use crate::metrics::labelled::{Cause, OfTopicInShard};
use crate::sink::{Applied, BadRecord, Care, Failure, FenceRow, Job, Reason, RowCounts, ToPark, Writer, Written};
use crate::state::batch::{Batch, LaneMove};
use crate::state::chunk::{Chunk, RawRecord};
use crate::state::pace::{Ask, Tried, Turn};
use crate::state::parked::Why;
use crate::state::retry::{Backoff, Trying};
use crate::state::router::Router;
use crate::state::tenant_pace::TenantHash;
use crate::state::tolerance::Tolerance;
use crate::types::{Generation, KeyHash, Lane, Token, TopicIx, TopicPartition};

/// What a loop wants to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Again,
    /// Nothing to do until something arrives.
    Inbox,
    /// Nothing to do for this long, unless something arrives.
    After(Duration),
    Done,
}

/// Flags that the poller sets and every worker reads.
#[derive(Debug)]
pub struct Signals {
    /// By topic: it stopped, and nothing more of it is written.
    stopped: Vec<AtomicBool>,
    /// By topic: somebody paused it, and nothing more of it is fetched.
    paused: Vec<AtomicBool>,
    /// Give back what cannot be written at once: the deadline of the shutdown is over.
    abandon: AtomicBool,
}

impl Signals {
    pub fn new(topics: usize) -> Signals {
        let flags = || (0..topics).map(|_| AtomicBool::new(false)).collect();
        Signals { stopped: flags(), paused: flags(), abandon: AtomicBool::new(false) }
    }

    pub fn stop_topic(&self, topic: TopicIx) {
        self.stopped[usize::from(topic.0)].store(true, Ordering::SeqCst);
    }

    pub fn start_topic(&self, topic: TopicIx) {
        self.stopped[usize::from(topic.0)].store(false, Ordering::SeqCst);
    }

    /// Nothing more of a topic is fetched, or it is again. What is on its way is applied.
    pub fn pause_topic(&self, topic: TopicIx, paused: bool) {
        self.paused[usize::from(topic.0)].store(paused, Ordering::SeqCst);
    }

    pub fn is_paused(&self, topic: TopicIx) -> bool {
        self.paused[usize::from(topic.0)].load(Ordering::SeqCst)
    }

    pub fn is_stopped(&self, topic: TopicIx) -> bool {
        self.stopped[usize::from(topic.0)].load(Ordering::SeqCst)
    }

    pub fn abandon(&self) {
        self.abandon.store(true, Ordering::SeqCst);
    }

    fn abandoned(&self) -> bool {
        self.abandon.load(Ordering::SeqCst)
    }
}

/// What a batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    pub records_max: usize,
    pub bytes_max: usize,
}

impl BatchLimits {
    pub fn new(engine: &config::Engine) -> BatchLimits {
        BatchLimits { records_max: engine.batch_records_max, bytes_max: engine.batch_bytes_max }
    }

    /// Whether a chunk is a batch of its own already.
    pub fn reached(self, chunk: &Chunk) -> bool {
        chunk.len() >= self.records_max || chunk.bytes() >= self.bytes_max
    }
}

/// How a worker writes a topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicWriting {
    pub delivery: Delivery,
    /// What bad records are tolerated as dead letters; none: any of them stops the topic.
    tolerance: Option<Tolerance>,
    then: Then,
    letters: Unsaid,
    parked: Unsaid,
}

/// Records that nobody has been told of.
#[derive(Debug, Clone, Copy, Default)]
struct Unsaid {
    records: u64,
    /// When somebody was told last.
    said: Option<Duration>,
}

impl Unsaid {
    /// So many more: how many are to be told of, if that is due.
    fn more(&mut self, records: u64, now: Duration) -> Option<u64> {
        self.records += records;
        let due = records > 0 && self.said.is_none_or(|said| now - said >= SAID_AGAIN);
        due.then(|| {
            self.said = Some(now);
            std::mem::take(&mut self.records)
        })
    }
}

impl TopicWriting {
    pub fn new(topic: &config::Topic) -> TopicWriting {
        let (tolerance, then) = match topic.on_bad_record {
            OnBadRecord::Stop => (None, Then::Skip),
            OnBadRecord::DeadLetter(limit, then) => (Some(Tolerance::new(limit)), then),
        };
        let unsaid = Unsaid::default();
        TopicWriting { delivery: topic.delivery, tolerance, then, letters: unsaid, parked: unsaid }
    }
}

/// See the module's text.
pub struct Worker<W> {
    writer: W,
    report: Reporter,
    index: u16,
    inbox: Receiver<Box<Chunk>>,
    clock: Arc<dyn Clock>,
    rng: fastrand::Rng,
    rules: Rules,
    signals: Arc<Signals>,
    observed: Arc<Observed>,
    pace: Arc<Pace>,
    limits: BatchLimits,
    /// By topic.
    topics: Vec<TopicWriting>,
    parking: Parking,
    backoff: Backoff,
    trying: Trying,
    batch: Batch,
    moves: Vec<LaneMove>,
    /// What of the last try was parked, and which keys were free.
    sorted: Sorted,
    /// Of each record of the piece: whose it is, where tenants have ceilings.
    tenants: Vec<Option<TenantHash>>,
    /// A chunk that did not fit the batch before.
    carry: Option<Box<Chunk>>,
    state: State,
    /// How many records to try at once: halved while one of them is at fault, without bound otherwise.
    piece_max: usize,
    /// How many records the shard's pace lets be tried; a try is repeated as a whole, so it asks for no other number
    /// until that was applied, or other records are to be tried.
    granted: Option<usize>,
    /// Records of the last try.
    tried: usize,
    /// How often something of the batch was tried.
    tries: u32,
    /// Records at the end of the batch whose lane waits, because nothing more of it may be parked.
    deferred: usize,
    how: How,
    /// What the topic's tolerance is once the last try is applied.
    judged: Option<Judged>,
    counts: RowCounts,
    began: Duration,
    /// Tenures whose fences were lost: what is left of them in the inbox is not worth a try.
    dead: HashMap<TopicPartition, Generation>,
}

/// What a worker needs to park records.
pub struct Parking {
    pub parked: Arc<Parked>,
    pub router: Arc<Router>,
    pub hot: Arc<HotKeys>,
}

/// How the piece is written: what failed before decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct How {
    /// A record of it is at fault: to be found, and set aside.
    sift: bool,
    /// All of its records, together, were refused for that.
    refused: bool,
    /// A lock could not be had in time: keys whose rows are locked are parked.
    probe: bool,
    /// Nor could one that no probe shows: all its keys are parked.
    park_all: bool,
}

/// Where a worker stands with its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has none.
    Idle,
    /// It is to be written, not before this time.
    Write { at: Duration },
    /// Whether the last try was applied is unknown; to be read, not before this time.
    Reread { at: Duration },
}

impl<W: Writer> Worker<W> {
    pub fn new(
        writer: W,
        index: u16,
        inbox: Receiver<Box<Chunk>>,
        limits: BatchLimits,
        topics: Vec<TopicWriting>,
        parking: Parking,
        context: LoopContext,
    ) -> Worker<W> {
        let LoopContext { report, clock, rng, rules, backoff, signals, pace, observed } = context;
        Worker {
            writer,
            report,
            index,
            inbox,
            clock,
            rng,
            rules,
            signals,
            observed,
            pace,
            limits,
            topics,
            parking,
            sorted: Sorted::default(),
            tenants: Vec::new(),
            backoff,
            trying: Trying::default(),
            batch: Batch::new(),
            moves: Vec::new(),
            carry: None,
            state: State::Idle,
            piece_max: usize::MAX,
            granted: None,
            tried: 0,
            tries: 0,
            deferred: 0,
            how: How::default(),
            judged: None,
            counts: RowCounts::default(),
            began: Duration::ZERO,
            dead: HashMap::new(),
        }
    }

    /// Until the poller drops its sender and the inbox is empty.
    pub fn run(mut self) {
        loop {
            match self.step() {
                Next::Again => {}
                Next::Inbox => match self.inbox.recv() {
                    Ok(chunk) => self.carry = Some(chunk),
                    Err(_) => return,
                },
                Next::After(_) if self.report.gate().is_open() => self.report.gate().wait(PATIENCE),
                Next::After(wait) if self.pace.wait(self.index, wait.min(PATIENCE)) => {}
                Next::After(wait) => self.clock.sleep(wait.min(PATIENCE)),
                Next::Done => return,
            }
        }
    }

    /// One step: fill a batch, or one try of writing it, or one look at its fences. Waits for nothing but the database.
    pub fn step(&mut self) -> Next {
        let now = self.clock.now();
        let barred = self.report.gate().is_open();
        match self.state {
            State::Write { .. } | State::Reread { .. } if barred && (self.signals.abandoned() || self.stopped()) => {
                self.give_back()
            }
            State::Write { .. } | State::Reread { .. } if barred => Next::After(PATIENCE),
            State::Idle => self.fill(now),
            State::Write { at } | State::Reread { at } if self.signals.abandoned() && at > now => self.give_back(),
            State::Write { at } | State::Reread { at } if at > now => Next::After(at - now),
            State::Write { .. } if self.stopped() => self.give_back(),
            State::Write { .. } => self.held_back().unwrap_or_else(|| self.busy(now, Worker::write)),
            State::Reread { .. } => self.busy(now, Worker::reread),
        }
    }

    /// At work on the database.
    fn busy(&mut self, now: Duration, work: impl FnOnce(&mut Self) -> Next) -> Next {
        let next = work(self);
        let took = self.clock.now().saturating_sub(now);
        let observed = self.observed.metrics.shard(self.report.shard());
        observed.writers[usize::from(self.index)].busy_us.add(took.as_micros() as u64);
        next
    }

    fn at_work(&self) -> &AtWork {
        self.observed.at_work(self.report.shard(), self.index)
    }

    /// What is counted of the batch's topic.
    fn metrics(&self) -> &OfTopicInShard {
        let topic = self.batch.topic().expect("a batch is being written");
        self.observed.metrics.shard(self.report.shard()).topic(topic)
    }

    fn stopped(&self) -> bool {
        self.batch.topic().is_some_and(|topic| self.signals.is_stopped(topic))
    }

    fn fill(&mut self, now: Duration) -> Next {
        debug_assert!(self.batch.topic().is_none());
        loop {
            let chunk = match self.carry.take() {
                Some(chunk) => chunk,
                None => match self.inbox.try_recv() {
                    Ok(chunk) => chunk,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) if self.batch.topic().is_none() => return Next::Done,
                    Err(TryRecvError::Disconnected) => break,
                },
            };
            let fits = self.batch.len() + chunk.len() <= self.limits.records_max
                && self.batch.bytes() + chunk.bytes() <= self.limits.bytes_max
                && self.batch.topic().is_none_or(|topic| topic == chunk.topic);
            // One that is too large alone is taken alone: the limits bound what is put together.
            if !fits && self.batch.topic().is_some() {
                self.carry = Some(chunk);
                break;
            }
            self.batch.push(chunk);
        }
        self.batch.taken(now.as_micros() as u64);
        let Some(topic) = self.batch.topic() else { return Next::Inbox };
        if !self.dead.is_empty() {
            let dead = &self.dead;
            self.batch.drop_runs(|run| {
                let at = TopicPartition { topic, partition: run.partition };
                dead.get(&at).is_some_and(|generation| run.generation <= *generation)
            });
        }
        self.began = now;
        self.at_work().begin(&self.batch, now);
        self.state = State::Write { at: now };
        Next::Again
    }

    fn writing(&mut self) -> &mut TopicWriting {
        let topic = self.batch.topic().expect("a batch is being written");
        &mut self.topics[usize::from(topic.0)]
    }

    fn exactly_once(&mut self) -> bool {
        self.writing().delivery == Delivery::ExactlyOnce
    }

    fn piece(&self) -> usize {
        (self.batch.len() - self.deferred).min(self.piece_max).min(self.granted.unwrap_or(usize::MAX))
    }

    /// Asks for the turn to write. Where it is not this worker's: what to do instead.
    fn held_back(&mut self) -> Option<Next> {
        let (topic, records) = (self.batch.topic()?, self.piece());
        if records == 0 {
            return None;
        }
        match self.pace.ask(Ask { worker: self.index, topic, records, whole: self.granted.is_some() }) {
            Turn::Now { records, waited } => {
                self.granted = Some(records);
                if waited.is_some() {
                    self.at_work().again(self.clock.now());
                }
                // What a batch takes is not what it waited for.
                self.began += waited.map_or(Duration::ZERO, |(_, waited)| waited);
                None
            }
            Turn::Later(_) if self.signals.abandoned() => Some(self.give_back()),
            Turn::Later(wait) => {
                self.at_work().paced();
                Some(Next::After(wait))
            }
        }
    }

    /// What was granted is not what will be tried: it is asked for anew.
    fn let_go(&mut self) {
        self.granted = None;
        self.pace.leave(self.index);
    }

    fn write(&mut self) -> Next {
        let piece = self.piece();
        if self.batch.is_empty() {
            return self.give_back();
        }
        if piece == 0 {
            return self.wait_for_room();
        }
        self.batch.moves(piece, &mut self.moves);
        if self.sort(piece) {
            if !self.sorted.closed.is_empty() {
                let closed = &self.sorted.closed;
                self.batch.drop_runs(|run| closed.contains(&run.token.0));
                self.deferred = 0;
                self.let_go();
                return Next::Again;
            }
            if let Some(index) = self.sorted.cut {
                return self.cut(index);
            }
        }
        if self.how.park_all {
            let parked = &self.sorted.park;
            let why = |index: usize| parked.iter().find(|p| p.index == index).map_or(Why::Blocked, |p| p.why);
            self.sorted.park = (0..piece).map(|index| ToPark { index, why: why(index) }).collect();
            self.sorted.tally.clear();
        }
        self.tried = piece;
        if self.tries > 0 {
            self.at_work().again(self.clock.now());
        }
        self.tries += 1;
        let began = self.clock.now();
        let result = match self.how {
            How { park_all: false, sift, probe, .. } if sift || probe => self.write_with_care(piece),
            _ => {
                self.judged = None;
                let Sorted { park, free, .. } = &self.sorted;
                self.writer.write(&Job { batch: &self.batch, range: 0..piece, moves: &self.moves, park, free })
            }
        };
        self.pace.tried(self.index, self.tried_as(&result));
        match result {
            Ok(Written::Applied(Applied { counts, parked, took_ns })) => {
                self.counts += counts;
                let (now, all) = (self.clock.now(), self.sorted.park.iter().chain(&parked));
                self.parking.parked.written(&self.batch, all, &self.sorted.free, now);
                for parked in &parked {
                    if let Some(tenant) = self.tenants.get(parked.index).copied().flatten() {
                        self.sorted.tally.remove(tenant, 1);
                    }
                }
                self.say_parked(counts.parked.into(), now);
                let more_waits = self.carry.is_some() || !self.inbox.is_empty() || piece < self.batch.len();
                let took = now.saturating_sub(began);
                self.parking.hot.written(&self.batch, piece, took, &took_ns, more_waits, now);
                self.applied(piece)
            }
            Ok(Written::Mismatch) => {
                self.metrics().retried(Cause::Mismatch).add(1);
                self.report.well();
                self.state = State::Reread { at: Duration::ZERO };
                Next::Again
            }
            Ok(Written::NotFree) => {
                self.metrics().retried(Cause::Mismatch).add(1);
                self.report.well();
                self.parking.parked.not_free(&self.sorted.free, self.clock.now());
                self.state = State::Write { at: Duration::ZERO };
                Next::Again
            }
            Err(failure) => self.failed(piece, failure),
        }
    }

    /// Finds out what of the piece is to be parked. False: nothing can be.
    fn sort(&mut self, piece: usize) -> bool {
        self.sorted.clear();
        let exactly_once = self.exactly_once();
        let Parking { parked, router, hot } = &self.parking;
        let hot = self.batch.topic().map(|topic| hot.of(topic)).unwrap_or_default();
        let paced = self.pace.paces_tenants();
        if !exactly_once || parked.is_quiet() && hot.is_empty() && !paced {
            return false;
        }
        // Before any lock is taken: to read a tenant may mean to read a payload.
        let tenant_of = |index| router.tenant_hash(&RawRecord::from(self.batch.record(index)));
        self.tenants.clear();
        self.tenants.extend((0..piece).filter(|_| paced).map(tenant_of));
        let grounds = Grounds { router, hot: &hot, tenants: self.pace.tenants(), tenant_of: &self.tenants };
        parked.sort(&self.batch, piece, &self.moves, grounds, &mut self.sorted);
        true
    }

    /// The record at `index` can be neither written nor parked: first what is before it, then what is of other lanes.
    fn cut(&mut self, index: usize) -> Next {
        match index {
            0 => {
                self.deferred += self.batch.defer(0);
                self.piece_max = usize::MAX;
            }
            _ => self.piece_max = index,
        }
        self.let_go();
        Next::Again
    }

    /// Nothing is left but lanes that may not park more.
    fn wait_for_room(&mut self) -> Next {
        self.deferred = 0;
        self.piece_max = usize::MAX;
        self.let_go();
        let limit = self.parking.parked.full();
        self.in_vain(&Reason::new(limit));
        self.state = State::Write { at: self.later() };
        Next::Again
    }

    /// For the shard's pace.
    fn tried_as(&self, result: &Result<Written, Failure>) -> Tried {
        match result {
            Ok(Written::Applied(Applied { counts, .. })) => {
                let rows = self.tried.saturating_sub(counts.folded as usize);
                // Record by record, or into another table.
                if self.how == How::default() { Tried::Written(rows) } else { Tried::Otherwise(rows) }
            }
            Ok(Written::Mismatch | Written::NotFree) => Tried::Nothing,
            Err(failure) => failure.into(),
        }
    }

    fn write_with_care(&mut self, piece: usize) -> Result<Written, Failure> {
        let &mut TopicWriting { tolerance, then, .. } = self.writing();
        let mut judged = None;
        let mut tolerates = |bad: &[BadRecord]| {
            let Some(tolerance) = tolerance else { return false };
            let after = tolerance.after(0..piece, bad.iter().map(|b| b.index));
            let last = bad.last().map(|b| {
                let record = self.batch.record(b.index);
                format!("partition {} offset {}: {}", record.partition, record.offset, b.reason)
            });
            let tolerated = after.is_ok();
            judged = Some(Judged { after, letters: bad.len() as u64, last });
            tolerated
        };
        let Sorted { park, free, .. } = &self.sorted;
        let job = Job { batch: &self.batch, range: 0..piece, moves: &self.moves, park, free };
        let room = self.parking.parked.room().saturating_sub(park.len() as u64);
        let How { probe, refused, .. } = self.how;
        let result = self.writer.write_with_care(&job, Care { probe, refused, then, room, tolerates: &mut tolerates });
        self.judged = judged;
        match (result, self.judged.as_ref().map(|judged| &judged.after)) {
            (Err(Failure::Record(index, mut reason)), Some(Err(limit))) => {
                reason.text.push_str(&format!("; stopping because of {limit}"));
                Err(Failure::Record(index, reason))
            }
            (result, _) => result,
        }
    }

    /// The piece is durable: what it says about the topic counts.
    fn judge(&mut self, topic: TopicIx, piece: usize) {
        let after = match self.judged.take() {
            Some(Judged { after, letters, last }) => {
                self.say_letters(topic, letters, last);
                after
            }
            None => match self.topics[usize::from(topic.0)].tolerance {
                Some(tolerance) => tolerance.after(0..piece, []),
                None => return,
            },
        };
        if let Ok(tolerance) = after {
            self.topics[usize::from(topic.0)].tolerance = Some(tolerance);
        }
    }

    fn say_parked(&mut self, records: u64, now: Duration) {
        let topic = self.batch.topic().expect("a batch is being written");
        if let Some(records) = self.topics[usize::from(topic.0)].parked.more(records, now) {
            self.report.tell(Event::Parked { shard: self.report.shard(), topic, records });
        }
    }

    /// Now and then, with how many there were since the last time.
    fn say_letters(&mut self, topic: TopicIx, letters: u64, last: Option<String>) {
        let due = self.topics[usize::from(topic.0)].letters.more(letters, self.clock.now());
        if let (Some(letters), Some(last)) = (due, last) {
            self.report.tell(Event::DeadLetters { shard: self.report.shard(), topic, letters, last });
        }
    }

    fn applied(&mut self, piece: usize) -> Next {
        self.report.well();
        self.report.gate().worked();
        self.backoff.reset();
        let topic = self.batch.topic().expect("a batch is being written");
        self.report.in_vain(topic, Doing::Writing, self.trying.ended(self.clock.now()), None);
        self.pay();
        self.judge(topic, piece);
        self.granted = None;
        self.how = How::default();
        self.batch.written(piece);
        self.tries = 0;
        if self.batch.is_empty() {
            return self.give_back();
        }
        self.at_work().begin(&self.batch, self.clock.now());
        self.state = State::Write { at: Duration::ZERO };
        Next::Again
    }

    /// Tenants pay for what was applied of theirs.
    fn pay(&mut self) {
        let Sorted { park, tally, .. } = &self.sorted;
        if !tally.is_empty() {
            self.pace.tenants().into_iter().for_each(|mut tenants| tenants.applied(tally));
        }
        self.pace.tenants_held(park.iter().filter(|p| p.why == Why::Paced).count() as u64);
    }

    fn failed(&mut self, piece: usize, failure: Failure) -> Next {
        self.at_work().failed(failure.reason());
        self.metrics().retried(cause(&failure)).add(1);
        if matches!(failure, Failure::Record(..) | Failure::TooLong(_) | Failure::NoRoom(_)) && piece > 1 {
            self.metrics().bisections.add(1);
        }
        match &failure {
            Failure::Outage(_) => {
                self.report.unwell(&failure);
                // The breaker says when.
                let at = self.clock.now();
                // Without fences nothing tells whether it was applied: it is sent again.
                self.state = if self.exactly_once() { State::Reread { at } } else { State::Write { at } };
            }
            Failure::Shard(_) => {
                self.report.unwell(&failure);
                self.state = State::Write { at: self.clock.now() };
            }
            // Once a probe has shown whose rows are locked, another lock is in the way: a parent's, or one of a unique index.
            Failure::LockWait(_) if self.exactly_once() && !self.how.probe => {
                self.how.probe = true;
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::LockWait(_) if self.exactly_once() && !self.how.park_all => {
                // All of the piece, or as much of it as there is room for.
                match self.parking.parked.room() {
                    // Which record needs the lock is not known, and nobody must wait for it but its lane.
                    0 => return self.cut(piece / 2),
                    room if piece as u64 <= room => self.how.park_all = true,
                    room => self.piece_max = room as usize,
                }
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::Transient(reason) | Failure::LockWait(reason) | Failure::LockedOut(reason) => {
                self.in_vain(reason);
                self.how = How::default();
                self.state = State::Write { at: self.later() };
            }
            // Which record does not fit is not known: ever fewer, and at last what is of other lanes.
            Failure::NoRoom(_) => {
                self.how.refused = false;
                return self.cut(piece / 2);
            }
            // Found by a look at each record; one that is too long even alone is at fault, too.
            Failure::Record(index, _) if !self.how.sift && self.exactly_once() => {
                self.how = How { sift: true, refused: index.is_none(), ..self.how };
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::TooLong(_) if !self.how.sift && self.exactly_once() && piece == 1 => {
                self.how.sift = true;
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::Record(Some(0), reason) => return self.stop_topic(true, reason.clone()),
            Failure::Record(Some(index), _) => {
                // What is before it, and then it alone.
                self.how = How::default();
                self.piece_max = *index;
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::Record(None, reason) | Failure::TooLong(reason) if piece == 1 => {
                return self.stop_topic(true, reason.clone());
            }
            Failure::Record(None, _) | Failure::TooLong(_) => {
                self.piece_max = piece / 2;
                self.how.refused = false;
                self.state = State::Write { at: Duration::ZERO };
            }
            Failure::Topic(reason) => return self.stop_topic(false, reason.clone()),
        }
        Next::Again
    }

    /// Nothing says how long this may go on: a table that is locked, a handler that asks for another try.
    fn in_vain(&mut self, reason: &Reason) {
        let (shard, worker) = (self.report.shard_name(), self.index);
        tracing::debug!(
            shard,
            worker,
            sqlstate = reason.sqlstate,
            "shard {shard}, worker {worker}: {reason}; trying again"
        );
        let topic = self.batch.topic().expect("a batch is being written");
        let lasted = self.trying.failed(self.clock.now());
        self.report.in_vain(topic, Doing::Writing, lasted, Some(reason));
    }

    fn later(&mut self) -> Duration {
        self.clock.now() + self.backoff.next(self.rng.f64())
    }

    /// The first record of the batch cannot be written, or the table cannot be: the topic stops, and nothing of it is lost.
    fn stop_topic(&mut self, record_at_fault: bool, reason: Reason) -> Next {
        let topic = self.batch.topic().expect("a batch is being written");
        self.signals.stop_topic(topic);
        let at = (record_at_fault && !self.batch.is_empty()).then(|| {
            let record = self.batch.record(0);
            (record.partition, record.offset)
        });
        self.report.tell(Event::TopicStopped { topic, at, reason });
        self.give_back()
    }

    /// Reads the fences of the last try and follows what they say: see the table in `engine::rules`.
    fn reread(&mut self) -> Next {
        let topic = self.batch.topic().expect("a batch is being written");
        let lanes: Vec<(i32, Lane)> = self.moves.iter().map(|m| (m.partition, m.lane)).collect();
        let rows = match self.writer.reread(topic, &lanes) {
            Ok(rows) => rows,
            Err(failure) => return self.reread_failed(failure),
        };
        self.report.well();
        match compare(&self.moves, &rows) {
            Comparison::Applied if !self.rules.reread_parked => self.applied(self.tried),
            Comparison::Applied => match self.reread_parked(topic) {
                Ok(()) => self.applied(self.tried),
                Err(failure) => self.reread_failed(failure),
            },
            Comparison::NotApplied => {
                self.state = State::Write { at: Duration::ZERO };
                Next::Again
            }
            Comparison::Lost(partitions) => self.lose(topic, &partitions, &rows),
        }
    }

    fn reread_failed(&mut self, failure: Failure) -> Next {
        if let Failure::Topic(reason) = failure {
            return self.stop_topic(false, reason);
        }
        match &failure {
            Failure::Outage(_) | Failure::Shard(_) => {
                self.report.unwell(&failure);
                self.state = State::Reread { at: self.clock.now() };
            }
            other => {
                self.in_vain(other.reason());
                self.state = State::Reread { at: self.later() };
            }
        }
        Next::Again
    }

    /// What was applied without an answer may have parked keys that only its transaction knew of.
    fn reread_parked(&mut self, topic: TopicIx) -> Result<(), Failure> {
        let mut keys: BTreeMap<(i32, KeyHash), Token> = BTreeMap::new();
        for index in 0..self.tried {
            let (meta, run) = self.batch.meta(index);
            keys.insert((run.partition, meta.hash), run.token);
        }
        let asked: Vec<(i32, KeyHash)> = keys.keys().copied().collect();
        for (partition, tail) in self.writer.parked(topic, &asked)? {
            if let Some(token) = keys.get(&(partition, tail.hash)) {
                self.parking.parked.found(*token, tail, self.clock.now());
            }
        }
        Ok(())
    }

    fn lose(&mut self, topic: TopicIx, partitions: &[(i32, Generation)], rows: &[FenceRow]) -> Next {
        if !self.rules.never_adopt {
            self.batch.adopt(|run| {
                let row = rows.iter().find(|r| (r.partition, r.lane) == (run.partition, run.lane))?;
                (row.token == run.token).then_some(row.next)
            });
        }
        let at = |partition| TopicPartition { topic, partition };
        let lost: Vec<(TopicPartition, Generation)> =
            partitions.iter().filter(|_| self.rules.never_adopt).map(|(p, g)| (at(*p), *g)).collect();
        self.batch.drop_runs(|run| lost.iter().any(|(l, g)| l.partition == run.partition && run.generation <= *g));
        self.deferred = 0;
        self.let_go();
        if !lost.is_empty() {
            self.dead.extend(lost.iter().copied());
            let what = describe(&self.moves, rows);
            self.report.tell(Event::FenceLost { shard: self.report.shard(), partitions: lost, what });
        }
        self.state = State::Write { at: Duration::ZERO };
        Next::Again
    }

    /// Hands the chunks back: what of them is durable, their runs say. Of one that is abandoned the rest is not, though later
    /// records of its lanes may be: fences skip exactly those when it is read again, and `at_least_once` repeats them in order.
    fn give_back(&mut self) -> Next {
        let chunks = self.batch.take_chunks();
        let counts = std::mem::take(&mut self.counts);
        let now = self.clock.now();
        let (took_us, at_us) = (now.saturating_sub(self.began).as_micros() as u64, now.as_micros() as u64);
        self.at_work().done();
        let (shard, worker) = (self.report.shard(), self.index);
        self.report.tell(Event::Returned { shard, worker, chunks, counts, took_us, at_us });
        self.let_go();
        self.piece_max = usize::MAX;
        self.deferred = 0;
        self.how = How::default();
        self.judged = None;
        self.trying = Trying::default();
        self.tries = 0;
        self.state = State::Idle;
        Next::Again
    }
}

/// For the metrics.
pub(super) fn cause(failure: &Failure) -> Cause {
    match failure {
        Failure::Outage(_) => Cause::Outage,
        Failure::Transient(_) => Cause::Transient,
        Failure::LockWait(_) | Failure::LockedOut(_) => Cause::Lock,
        Failure::NoRoom(_) => Cause::NoRoom,
        Failure::TooLong(_) => Cause::TooLong,
        Failure::Record(..) => Cause::Record,
        Failure::Topic(_) | Failure::Shard(_) => Cause::Refused,
    }
}

/// What a try of sifting would make of the topic's tolerance, for when it is known to be applied.
struct Judged {
    after: Result<Tolerance, String>,
    letters: u64,
    /// The last of the letters, for people.
    last: Option<String>,
}

/// How often dead letters and parked records are worth a line in the log, per worker and topic.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// How long a worker sleeps before it looks at the signals again.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the fences say of a try whose outcome is unknown.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// All are where the try leads to, under our token.
    Applied,
    /// All are where it began, under our token.
    NotApplied,
    /// These partitions are another's, or went back, or are a mixture that our transactions cannot have left.
    Lost(Vec<(i32, Generation)>),
}

fn compare(moves: &[LaneMove], rows: &[FenceRow]) -> Comparison {
    let row = |m: &LaneMove| rows.iter().find(|r| (r.partition, r.lane) == (m.partition, m.lane));
    let is = |m: &LaneMove, next| row(m).is_some_and(|r| r.token == m.token && r.next == next);
    if moves.iter().all(|m| is(m, m.next)) {
        return Comparison::Applied;
    }
    let mut lost: Vec<(i32, Generation)> =
        moves.iter().filter(|m| !is(m, m.expected)).map(|m| (m.partition, m.generation)).collect();
    lost.dedup();
    if lost.is_empty() { Comparison::NotApplied } else { Comparison::Lost(lost) }
}

fn describe(moves: &[LaneMove], rows: &[FenceRow]) -> String {
    let one = |m: &LaneMove| match rows.iter().find(|r| (r.partition, r.lane) == (m.partition, m.lane)) {
        None => Some(format!("partition {} lane {}: expected {}, found no fence", m.partition, m.lane, m.expected)),
        Some(r) if r.token != m.token => {
            Some(format!("partition {} lane {}: another owner took over", m.partition, m.lane))
        }
        Some(r) if r.next != m.expected => {
            Some(format!("partition {} lane {}: expected {}, found {}", m.partition, m.lane, m.expected, r.next))
        }
        Some(_) => None,
    };
    moves.iter().filter_map(one).next().unwrap_or_else(|| "fences changed between two reads".into())
}

#[cfg(test)]
mod tests;
