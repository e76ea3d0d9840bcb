//! The poller: polls Kafka, routes records to workers, tracks what is durable, stores progress, commits. It owns every
//! tenure and never waits for a database.
//!
//! A partition's life here: assigned → *located* (its shards say how far they are) → fetched from there, while control
//! threads take it over in each shard → running → revoked: drained, progress stored, committed, given back. Whatever
//! contradicts what it believes starts the partition over: new generation, new takeover, new token, from the database's word.

mod group;
mod identity;
mod intake;
mod locate;
mod look;
mod progress;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::clock::Clock;
use crate::config::live::Live;
use crate::config::{Config, Delivery, FirstStart};
use crate::engine::Rules;
use crate::engine::dispatch::Dispatcher;
use crate::engine::event::{Answer, Event, Health, Request};
use crate::engine::observed::{Observed, Trouble};
use crate::engine::outbox::Outbox;
use crate::engine::pace::News;
use crate::engine::parked::Parked;
use crate::engine::partition::{Part, Partition, Phase, Tenure};
use crate::engine::report::Waker;
use crate::engine::worker::Signals;
use crate::metrics::Counters;
use crate::sink::{Failure, Identity, Reason, schema};
use crate::source::{Source, SourceError, SourceEvent};
use crate::state::backpressure::Window;
use crate::state::retry::{Backoff, Notices, Trying};
use crate::state::router::Router;
use crate::state::tracker::Tracker;
use crate::types::{Generation, NextOffset, Offset, ShardIx, Token, TopicIx, TopicPartition};

/// Records taken from the source in one poll.
const POLL_RECORDS_MAX: usize = 1000;
/// How long a poll waits when nothing is due.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How often what is not urgent is looked after.
const HOUSEKEEPING: Duration = Duration::from_millis(20);
/// How often the topics' identities are compared.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(30);
/// How often others are shown what the poller sees.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a refused commit waits for the next one.
const COMMIT_AGAIN: Duration = Duration::from_millis(100);
/// How often misaligned records are worth a line in the log, per topic.
const MISALIGNED_AGAIN: Duration = Duration::from_secs(60);
/// How long to wait before asking a broker again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What the poller needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub topics: Vec<TopicSettings>,
    /// Names, in the configuration's order.
    pub shards: Vec<String>,
    /// By shard: whether replicas have a say in what is committed to Kafka.
    pub gated: Vec<bool>,
    pub lanes: u16,
    pub window: Window,
    pub commit_interval: Duration,
    pub first_start: FirstStart,
    pub locate_deadline: Duration,
    pub revoke_deadline: Duration,
    pub drain_deadline: Duration,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub until_end: bool,
}

#[derive(Debug, Clone)]
pub struct TopicSettings {
    pub name: String,
    pub delivery: Delivery,
}

impl Settings {
    /// Whether a topic's transactions move fences.
    fn fenced(&self, topic: TopicIx) -> bool {
        self.topics[usize::from(topic.0)].delivery == Delivery::ExactlyOnce
    }
}

/// The poller's ends of the channels.
pub struct Ports {
    pub events: Receiver<Event>,
    /// By shard.
    pub controls: Vec<Sender<Request>>,
    pub dispatcher: Dispatcher,
    /// By shard.
    pub parked: Vec<Arc<Parked>>,
    pub signals: Arc<Signals>,
    pub observed: Arc<Observed>,
    pub waker: Waker,
    pub live: Arc<Live>,
}

/// Whether there is more to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Everything asked for is done, committed and given back. Topics that stopped on the way are named.
    Finished,
}

/// Why the engine must end now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error("{0}")]
    Kafka(String),
    /// A database refuses us, and the end of the work, not a person, is waited for.
    #[error("{0}")]
    Configuration(String),
    /// An invariant is broken.
    #[error("{0}")]
    Internal(String),
}

/// See the module's text. `S` is driven only from [`Poller::step`].
pub struct Poller<S> {
    source: S,
    core: Core,
}

/// All but the source, so that a poll can hand records to it.
struct Core {
    settings: Settings,
    router: Arc<Router>,
    clock: Arc<dyn Clock>,
    rng: fastrand::Rng,
    rules: Rules,
    events: Receiver<Event>,
    controls: Vec<Outbox>,
    dispatcher: Dispatcher,
    parked: Vec<Arc<Parked>>,
    signals: Arc<Signals>,
    observed: Arc<Observed>,
    counters: Arc<Counters>,
    /// By shard.
    health: Vec<ShardHealth>,
    waker: Waker,
    live: Arc<Live>,
    /// The version of `live` that is in force here.
    version: u64,
    partitions: Partitions,
    topics: Vec<Topic>,
    /// Records of tenures that are over which workers still hold, of topics without fences.
    left_behind: BTreeMap<TopicPartition, usize>,
    generation: u64,
    /// Events that need the source.
    deferred: VecDeque<Event>,
    reported: VecDeque<SourceEvent>,
    answers: VecDeque<group::GroupAnswer>,
    /// Microseconds, read once per poll.
    now_us: u64,
    drained_this_poll: bool,
    /// The wall clock, likewise.
    wall_ms: i64,
    /// Some partition's window is full: before the next poll it is paused, or everything is held.
    window_full: bool,
    /// Nothing is taken out of the source while that is so: see [`Core::is_better_held`].
    held: bool,
    /// By shard and topic: a progress request is under way.
    progress_asked: Vec<Vec<bool>>,
    progress_at: Duration,
    /// Not before this is anything committed: the group refused a commit a moment ago.
    commit_at: Duration,
    /// The commit without an answer yet: what it names.
    committing: Option<Vec<(TopicPartition, Generation)>>,
    housekeeping_at: Duration,
    /// When others are shown anew what is seen here.
    look_at: Duration,
    /// Since when the group waits for an answer.
    group_asked: Option<Duration>,
    identity_at: Duration,
    group_offsets_at: Duration,
    /// When logs without an answer are asked about again.
    logs_at: Duration,
    log_backoff: Backoff,
    /// Who is asked first: the next one, when the last round took too long.
    identity_from: usize,
    identity_backoff: Backoff,
    closing: Closing,
    targets: Option<Vec<Vec<NextOffset>>>,
    end_asked_at: Duration,
    ever_assigned: bool,
    in_vain: InVain,
    notices: Notices,
    stop: Option<Stop>,
}

/// What is tried again whenever the source refuses it.
#[derive(Default)]
struct InVain {
    answer: SourceTrying,
    restart: SourceTrying,
    window: SourceTrying,
}

/// See [`Trying`].
#[derive(Default)]
struct SourceTrying(Trying);

impl SourceTrying {
    fn tell(&mut self, now: Duration, doing: &str, refused: Option<&SourceError>) {
        if let Some(error) = refused {
            tracing::debug!("Kafka: {doing}: {error}; trying again");
        }
        let lasted = if refused.is_some() { self.0.failed(now) } else { self.0.ended(now) };
        if let Some(lasted) = lasted {
            say_in_vain("Kafka", doing, lasted, refused);
        }
    }
}

/// That something has been tried in vain for long, and why; or, without a reason, that it works again.
fn say_in_vain(place: &str, doing: impl Display, lasted: Duration, reason: Option<impl Display>) {
    let seconds = lasted.as_secs();
    match reason {
        Some(reason) => tracing::warn!("{place}: {doing} has been tried in vain for {seconds} s: {reason}"),
        None => tracing::info!("{place}: {doing} works again, after {seconds} s"),
    }
}

/// By topic, then by partition.
type Partitions = Vec<Vec<Option<Box<Partition>>>>;

/// A partition, where the rest of the poller is borrowed, too.
fn find(partitions: &mut Partitions, at: TopicPartition) -> Option<&mut Partition> {
    partitions[usize::from(at.topic.0)].get_mut(usize::try_from(at.partition).ok()?)?.as_deref_mut()
}

/// Whether this process is leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Until then for draining; afterwards what is not durable is left to the next owner.
    Until(Duration),
}

/// What is known of a shard.
#[derive(Default)]
struct ShardHealth {
    /// It has answered.
    reached: bool,
    /// When it was there again.
    well_since: Duration,
    trouble: Option<Trouble>,
}

/// A topic's state.
#[derive(Default)]
struct Topic {
    identity: Option<Identity>,
    partitions: Option<i32>,
    stopped: Option<Reason>,
    /// It stopped at a tenant that the map lacks, which a reload may cure.
    unmapped: bool,
    misaligned: Misaligned,
    /// Records that this poll brought.
    fetched: u64,
    /// Of them, by shard, those that the databases had already.
    skipped: Vec<u64>,
    /// The brokers do not know it, since then.
    refused: Option<Duration>,
}

/// Records of a topic that are not where their partition's shard was declared to be.
#[derive(Default)]
struct Misaligned {
    /// Since the last look.
    uncounted: u64,
    counted: u64,
    unsaid: u64,
    said: Option<Duration>,
}

impl<S: Source> Poller<S> {
    pub fn new(
        source: S,
        settings: Settings,
        router: Arc<Router>,
        ports: Ports,
        clock: Arc<dyn Clock>,
        rng: fastrand::Rng,
        rules: Rules,
    ) -> Poller<S> {
        let Ports { events, controls, dispatcher, parked, signals, observed, waker, live } = ports;
        let skipped = || vec![0; settings.shards.len()];
        let topics = settings.topics.iter().map(|_| Topic { skipped: skipped(), ..Topic::default() }).collect();
        let core = Core {
            partitions: settings.topics.iter().map(|_| Vec::new()).collect(),
            progress_asked: settings.shards.iter().map(|_| vec![false; settings.topics.len()]).collect(),
            topics,
            left_behind: BTreeMap::new(),
            router,
            rng,
            rules,
            events,
            controls: controls.into_iter().map(Outbox::new).collect(),
            dispatcher,
            parked,
            signals,
            counters: Arc::clone(&observed.counters),
            observed,
            health: settings.shards.iter().map(|_| ShardHealth::default()).collect(),
            waker,
            // What was reloaded before this began is looked at first.
            version: 0,
            live,
            generation: 0,
            deferred: VecDeque::new(),
            reported: VecDeque::new(),
            answers: VecDeque::new(),
            now_us: 0,
            drained_this_poll: false,
            wall_ms: 0,
            window_full: false,
            held: false,
            progress_at: clock.now() + settings.commit_interval,
            commit_at: Duration::ZERO,
            committing: None,
            housekeeping_at: Duration::ZERO,
            look_at: Duration::ZERO,
            group_asked: None,
            identity_at: Duration::ZERO,
            group_offsets_at: Duration::ZERO,
            logs_at: Duration::ZERO,
            log_backoff: Backoff::new(ASK_AGAIN, IDENTITY_INTERVAL),
            identity_from: 0,
            identity_backoff: Backoff::new(ASK_AGAIN, IDENTITY_INTERVAL),
            closing: Closing::No,
            targets: None,
            end_asked_at: Duration::ZERO,
            ever_assigned: false,
            in_vain: InVain::default(),
            notices: Notices::default(),
            stop: None,
            settings,
            clock,
        };
        Poller { source, core }
    }

    /// One turn: what workers and control threads said, one poll, what the poll brought, and what is due. Waits at most
    /// `wait`, and only where nothing is due.
    pub fn step(&mut self, wait: Duration) -> Result<Flow, Stop> {
        self.core.drain_events();
        self.core.controls.iter_mut().for_each(Outbox::flush);
        self.poll(wait)?;
        self.serve_reports()?;
        self.serve_deferred();
        let now = self.core.clock.now();
        self.core.set_now(now);
        self.core.dispatcher.flush(now).map_err(|_| self.core.worker_gone())?;
        if std::mem::take(&mut self.core.window_full) || self.core.held {
            self.drive_windows();
        }
        if now >= self.core.housekeeping_at {
            self.core.housekeeping_at = now + HOUSEKEEPING;
            self.housekeeping(now)?;
        }
        match self.core.stop.take() {
            Some(stop) => Err(stop),
            None => Ok(if self.finished(now) { Flow::Finished } else { Flow::Continue }),
        }
    }

    /// Until finished, or `stop` says to leave.
    pub fn run(&mut self, stop: &dyn Fn() -> bool) -> Result<Flow, Stop> {
        loop {
            if stop() && self.core.closing == Closing::No {
                self.close();
            }
            if self.step(POLL_WAIT)? == Flow::Finished {
                return Ok(Flow::Finished);
            }
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<(), Stop> {
        let core = &mut self.core;
        core.drained_this_poll = false;
        let now = core.clock.now();
        core.set_now(now);
        core.observed.turned(core.now_us);
        let busy = !core.deferred.is_empty() || !core.reported.is_empty();
        let wait = if busy { Duration::ZERO } else { wait.min(core.housekeeping_at.saturating_sub(now)) };
        let congested = core.held || core.dispatcher.congested(|| core.unfinished());
        let outcome = if congested || core.overfull() || core.enough_waits() {
            // Nothing is fetched until workers have room, or there is something to give them: events say so.
            if let Ok(event) = core.events.recv_timeout(wait) {
                core.take_event(event);
            }
            self.source.poll(Duration::ZERO, 0, core)
        } else {
            core.waker.ask(!wait.is_zero() && core.waits_for_workers());
            let outcome = self.source.poll(wait, POLL_RECORDS_MAX, core);
            core.waker.ask(false);
            outcome
        };
        for (topic, observed) in core.topics.iter_mut().zip(&core.observed.metrics.topics) {
            let fetched = std::mem::take(&mut topic.fetched);
            observed.fetched.add(fetched);
            core.counters.fetched.add(fetched);
        }
        core.count_skipped();
        match outcome {
            Ok(()) => Ok(()),
            Err(SourceError::Retriable(what) | SourceError::Refused(what)) => {
                tracing::warn!("Kafka: {what}");
                Ok(())
            }
            Err(SourceError::Fatal(what)) => Err(Stop::Kafka(what)),
        }
    }

    fn housekeeping(&mut self, now: Duration) -> Result<(), Stop> {
        let version = self.core.live.version();
        if std::mem::replace(&mut self.core.version, version) != version {
            let config = self.core.live.get();
            self.core.reload(&config);
        }
        self.check_identities(now)?;
        self.drive_locating(now)?;
        self.drive_windows();
        self.drive_progress(now);
        self.drive_group(now)?;
        self.core.say_misaligned(now);
        self.core.settle();
        self.core.look();
        if now >= self.core.look_at {
            self.core.look_at = now + LOOK_EVERY;
            self.core.show(now);
        }
        Ok(())
    }

    fn serve_deferred(&mut self) {
        while let Some(event) = self.core.deferred.pop_front() {
            match event {
                Event::Returned { .. } => unreachable!("served when drained"),
                Event::FenceLost { shard, partitions, what } => {
                    for (at, generation) in partitions {
                        self.core.fence_lost(at, generation, &format!("{}: {what}", self.core.shard_name(shard)));
                    }
                }
                Event::TopicStopped { topic, at, reason } => self.core.stop_topic(topic, at, reason),
                Event::Control { shard, answer } => self.serve_answer(shard, answer),
                Event::Opened { shard } => {
                    self.core.observed.metrics.shard(shard).breaker_opened.add(1);
                    self.core.ask(shard, Request::Probe);
                }
                Event::Shard { shard, health } => self.core.shard_health(shard, &health),
                Event::InVain { shard, topic, doing, lasted, reason } => {
                    let place = format!("{}, topic {}", self.core.shard_name(shard), self.core.topic_name(topic));
                    say_in_vain(&place, doing, lasted, reason);
                }
                Event::Parked { shard, topic, records } => {
                    let (shard, topic) = (self.core.name_of(shard), self.core.topic_name(topic));
                    let place = format!("shard {shard}, topic {topic}");
                    tracing::warn!(
                        shard,
                        topic,
                        records,
                        "{place}: {records} records are parked, in order; `forebay parked` says why"
                    );
                }
                Event::DeadLetters { shard, topic, letters, last } => {
                    let (shard, topic) = (self.core.name_of(shard), self.core.topic_name(topic));
                    let place = format!("shard {shard}, topic {topic}");
                    tracing::warn!(
                        shard,
                        topic,
                        letters,
                        "{place}: {letters} records became dead letters; the last one: {last}"
                    );
                }
                Event::Pace { shard, news } => self.core.say_pace(shard, &news),
                Event::Panicked { thread, message } => {
                    self.core.stop = Some(Stop::Internal(format!("thread {thread} panicked: {message}")));
                }
            }
        }
    }

    fn serve_answer(&mut self, shard: ShardIx, answer: Answer) {
        if !matches!(answer, Answer::NotProgressed { .. }) {
            self.core.health[usize::from(shard.0)].reached = true;
        }
        match answer {
            Answer::Located { topic, partitions } => {
                for (partition, generation, anchor) in partitions {
                    self.core.located(TopicPartition { topic, partition }, generation, shard, anchor);
                }
            }
            Answer::TakenOver { at, generation, taken } => self.taken_over(at, generation, shard, &taken),
            Answer::Progressed { topic, acknowledged, missing } => {
                self.core.progress_asked[usize::from(shard.0)][usize::from(topic.0)] = false;
                self.core.progressed(topic, shard, &acknowledged);
                if !self.core.progress_under_way() {
                    self.commit(|_| true);
                }
                for (partition, generation) in missing {
                    let what = "the stored progress has another owner, or the database went back";
                    let at = TopicPartition { topic, partition };
                    self.core.fence_lost(at, generation, &format!("{}: {what}", self.core.shard_name(shard)));
                }
            }
            Answer::NotProgressed { topic, failure } => {
                self.core.progress_asked[usize::from(shard.0)][usize::from(topic.0)] = false;
                let (shard, reason) = (self.core.name_of(shard), failure.reason());
                tracing::debug!(shard, sqlstate = reason.sqlstate, "shard {shard}: progress not stored: {reason}");
            }
        }
    }

    /// Pauses partitions whose window is full, or holds everything, and resumes those with room again.
    fn drive_windows(&mut self) {
        let window = self.core.settings.window;
        let held = self.core.is_better_held();
        self.core.held = held;
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for p in self.core.partitions.iter_mut().flatten().flatten() {
            if !p.assigned {
                continue;
            }
            let wanted = match p.phase {
                Phase::Stopped => true,
                _ if self.core.signals.is_paused(p.at.topic) => true,
                Phase::Running if p.paused => !window.may_resume(&p.tracker),
                Phase::Running => !held && window.must_pause(&p.tracker),
                _ => p.paused,
            };
            if wanted != p.paused {
                p.paused = wanted;
                if wanted { pause.push(p.at) } else { resume.push(p.at) }
            }
        }
        if !pause.is_empty() {
            self.core.counters.pauses.add(pause.len() as u64);
            self.told(|s| s.pause(&pause), &pause, false);
        }
        if !resume.is_empty() {
            self.told(|s| s.resume(&resume), &resume, true);
        }
    }

    /// Tells the source to pause or resume; where it refuses, `was` is restored and the next turn tries again.
    fn told(&mut self, tell: impl FnOnce(&mut S) -> Result<(), SourceError>, of: &[TopicPartition], was: bool) {
        let refused = tell(&mut self.source).err();
        self.core.in_vain.window.tell(self.core.clock.now(), "pausing and resuming", refused.as_ref());
        if refused.is_some() {
            for at in of {
                if let Some(p) = self.core.partition(*at) {
                    p.paused = was;
                }
            }
        }
    }

    /// The topics that stopped, and why.
    pub fn stopped(&self) -> Vec<(String, Reason)> {
        let topics = self.core.topics.iter().zip(&self.core.settings.topics);
        topics.filter_map(|(t, s)| t.stopped.clone().map(|reason| (s.name.clone(), reason))).collect()
    }
}

impl Core {
    fn partition(&mut self, at: TopicPartition) -> Option<&mut Partition> {
        find(&mut self.partitions, at)
    }

    /// The partition, if it is still in this generation.
    fn tenure(&mut self, at: TopicPartition, generation: Generation) -> Option<&mut Partition> {
        self.partition(at).filter(|p| p.generation == generation)
    }

    fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        Generation(self.generation)
    }

    fn token(&mut self) -> Token {
        Token(self.rng.i64(..))
    }

    fn shard_name(&self, shard: ShardIx) -> String {
        format!("shard {}", self.name_of(shard))
    }

    fn name_of(&self, shard: ShardIx) -> &str {
        &self.settings.shards[usize::from(shard.0)]
    }

    fn topic_name(&self, topic: TopicIx) -> &str {
        &self.settings.topics[usize::from(topic.0)].name
    }

    fn fenced(&self, topic: TopicIx) -> bool {
        self.settings.fenced(topic)
    }

    fn worker_gone(&mut self) -> Stop {
        self.drain_events();
        let panicked = self.deferred.iter().find_map(|event| match event {
            Event::Panicked { thread, message } => Some(format!("thread {thread} panicked: {message}")),
            _ => None,
        });
        Stop::Internal(panicked.unwrap_or_else(|| "a worker's thread is gone".into()))
    }

    /// Sends a request to a control thread; where its inbox is full, as soon as it has room.
    fn ask(&mut self, shard: ShardIx, request: Request) {
        self.controls[usize::from(shard.0)].push(request);
    }

    fn shard_health(&mut self, shard: ShardIx, health: &Health) {
        let was_well = self.note_health(shard, health);
        let name = self.name_of(shard);
        match health {
            // Every thread that was away says so.
            Health::Up if was_well => {}
            Health::Up => tracing::info!(shard = name, "shard {name}: database reached"),
            // Whoever waits for the end would wait for ever; what is not durable is done by the next run.
            // One that never heard of this group would take what belongs elsewhere.
            Health::Down(Failure::Shard(reason)) if self.settings.until_end || schema::is_disagreement(reason) => {
                self.stop = Some(Stop::Configuration(format!("{}: {reason}", self.shard_name(shard))));
            }
            Health::Down(Failure::Shard(reason)) => {
                let sqlstate = &reason.sqlstate;
                tracing::error!(
                    shard = name,
                    sqlstate,
                    "shard {name}: {reason}; a person is needed, trying again until then"
                );
            }
            Health::Down(failure) => {
                let reason = failure.reason();
                tracing::warn!(shard = name, sqlstate = reason.sqlstate, "shard {name}: {reason}; trying again");
            }
        }
    }

    fn say_pace(&self, shard: ShardIx, news: &News) {
        let shard = self.name_of(shard);
        match news {
            News::NoReplica { name, why } => {
                tracing::warn!(
                    shard,
                    "shard {shard}: nothing waits for replica {name:?}, nobody knows how far it is: {why}"
                );
            }
            News::Replica { name } => {
                tracing::info!(shard, "shard {shard}: replica {name:?} is there; its lag counts again")
            }
            News::Limit(said, status) => {
                tracing::info!(shard, "shard {shard}: {}", said.text(status, |topic| self.topic_name(topic)));
            }
        }
    }

    /// Another owner has the fences, or they went back: start over from the database's word.
    fn fence_lost(&mut self, at: TopicPartition, generation: Generation, what: &str) {
        let retake = self.rules.retake_when_assigned;
        let Some(p) = self.tenure(at, generation) else { return };
        match p.phase {
            Phase::Running | Phase::Located | Phase::Verifying if retake => self.rewind(at, what),
            Phase::Running | Phase::Located | Phase::Verifying => p.phase = Phase::Revoking,
            // It goes away anyway, and what is not durable here the next owner does.
            Phase::Revoking | Phase::Stopped | Phase::Locating { .. } => {}
        }
    }

    /// Starts a partition over: new generation, new takeover, new token, from the database's word.
    fn rewind(&mut self, at: TopicPartition, why: &str) {
        let (generation, now, deadline) = (self.next_generation(), self.clock.now(), self.settings.locate_deadline);
        let random = self.rng.f64();
        let Some(p) = self.partition(at) else { return };
        let before = std::mem::replace(&mut p.generation, generation);
        let not_before = now + p.backoff.next(random);
        p.phase = Phase::Locating { asked: false, not_before, deadline: not_before + deadline };
        let sent = std::mem::take(&mut p.sent);
        p.committed = None;
        p.settling.clear();
        p.begun = false;
        p.noted = false;
        // What the old tenure believed is done must not be stored by the new one, should it stop or end before it starts.
        p.tracker = Tracker::new(NextOffset(0));
        let parts = std::mem::take(&mut p.parts);
        p.parts = parts.iter().map(|part| Part::new(part.shard)).collect();
        self.leave_behind(at, sent);
        self.counters.rewinds.add(1);
        tracing::warn!(
            topic = self.topic_name(at.topic),
            partition = at.partition,
            "{} [{}]: {why}; starting over from the database's word",
            self.topic_name(at.topic),
            at.partition
        );
        for part in parts {
            self.ask(part.shard, Request::Cancel { at, generation: before });
            self.discard(part.tenure);
        }
    }

    /// A tenure is over while workers hold records of it. Fences keep those from doing harm; without them the next tenure waits.
    fn leave_behind(&mut self, at: TopicPartition, sent: usize) {
        if sent > 0 && !self.fenced(at.topic) {
            *self.left_behind.entry(at).or_default() += sent;
        }
    }

    /// Takes the chunks back of a part that ends.
    fn discard(&mut self, tenure: Tenure) {
        let chunks: Vec<_> = match tenure {
            Tenure::Waiting { chunks, .. } => chunks,
            Tenure::Owned(owned) => owned.held.into_iter().flatten().collect(),
        };
        chunks.into_iter().for_each(|chunk| self.dispatcher.recycle(chunk));
    }

    /// Stops a topic: nothing more of it is written, nothing of it is lost, others go on.
    fn stop_topic(&mut self, topic: TopicIx, at: Option<(i32, Offset)>, reason: Reason) {
        let state = &mut self.topics[usize::from(topic.0)];
        if state.stopped.is_some() {
            return;
        }
        let reason = match at {
            None => reason,
            Some((partition, offset)) => {
                Reason { text: format!("partition {partition} offset {offset}: {}", reason.text), ..reason }
            }
        };
        state.stopped = Some(reason.clone());
        self.signals.stop_topic(topic);
        self.dispatcher.stop_topic(topic);
        tracing::error!(
            topic = self.topic_name(topic),
            sqlstate = reason.sqlstate,
            "topic {} stopped: {reason}. Nothing of it is lost; other topics go on",
            self.topic_name(topic)
        );
        for p in self.partitions[usize::from(topic.0)].iter_mut().flatten() {
            if p.phase != Phase::Revoking {
                p.phase = Phase::Stopped;
            }
        }
    }

    /// Takes over what may change while the engine runs.
    fn reload(&mut self, config: &Config) {
        self.dispatcher.set_pace(config, self.clock.now());
        // Workers read tenants with the old one; what that means does not change.
        self.router = Arc::new(self.router.reloaded(config));
        let topics = (0..self.topics.len()).map(|t| TopicIx(t as u16));
        topics
            .filter(|t| self.topics[usize::from(t.0)].unmapped)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|t| self.go_on(t));
    }

    /// A topic that stopped at a tenant without a shard begins again there: the map was reloaded.
    fn go_on(&mut self, topic: TopicIx) {
        let state = &mut self.topics[usize::from(topic.0)];
        state.unmapped = false;
        state.stopped = None;
        self.signals.start_topic(topic);
        self.dispatcher.start_topic(topic);
        let stopped = self.partitions[usize::from(topic.0)].iter().flatten().filter(|p| p.phase == Phase::Stopped);
        for at in stopped.map(|p| p.at).collect::<Vec<_>>() {
            self.rewind(at, "the map was reloaded");
        }
    }

    /// Now and then, with how many there were and what they cost.
    fn say_misaligned(&mut self, now: Duration) {
        for (index, (topic, settings)) in self.topics.iter_mut().zip(&self.settings.topics).enumerate() {
            let m = &mut topic.misaligned;
            let uncounted = std::mem::take(&mut m.uncounted);
            self.counters.misaligned.add(uncounted);
            self.observed.metrics.topics[index].misaligned.add(uncounted);
            m.unsaid += uncounted;
            if m.unsaid == 0 || m.said.is_some_and(|said| now < said + MISALIGNED_AGAIN) {
                continue;
            }
            let unsaid = std::mem::take(&mut m.unsaid);
            m.counted += unsaid;
            m.said = Some(now);
            tracing::warn!(
                topic = settings.name,
                records = unsaid,
                "topic {}: {unsaid} records ({} so far) belong to another shard than the one that declares their partition. \
                 They are applied where they belong, but a shard that is slow or away holds up the commits of every partition \
                 that has such records, and, once their window is full, the partitions themselves",
                settings.name,
                m.counted
            );
        }
    }

    /// Whether workers hold more than all windows allow: a rewind leaves the records of the tenure before it at the workers,
    /// and several in a row must not add up.
    fn overfull(&self) -> bool {
        let (in_flight, window) = (self.dispatcher.in_flight(), self.settings.window.records_max);
        in_flight > 2 * window && in_flight > 2 * window * self.partitions.iter().flatten().flatten().count()
    }

    /// Whether a window is full, and nobody would miss what comes after it: no other partition has much room, or all workers have
    /// enough to do. Then nothing is taken out of the source until a batch is back. A pause would be dear: what was fetched is
    /// thrown away, and librdkafka can take some 100 ms to fetch again.
    fn is_better_held(&self) -> bool {
        let window = self.settings.window;
        let (mut full, mut room) = (false, false);
        for p in self.partitions.iter().flatten().flatten() {
            if p.assigned && !p.paused && p.takes_records() && !self.signals.is_paused(p.at.topic) {
                full |= window.must_pause(&p.tracker);
                room |= window.may_resume(&p.tracker);
            }
        }
        full && (!room || self.dispatcher.nobody_runs_dry())
    }

    /// Records between fetched and durable.
    fn unfinished(&self) -> usize {
        self.partitions.iter().flatten().flatten().map(|p| p.tracker.window()).sum()
    }

    /// Whether nothing is taken over yet, and as much waits for that as all workers may have: more would only fill the memory, and
    /// be copied twice. As soon as one part is ours, each partition's window is its only bound.
    fn enough_waits(&self) -> bool {
        let mut partitions = self.partitions.iter().flatten().flatten();
        let waits = |part: &Part| part.owned().is_none();
        partitions.all(|p| p.parts.iter().all(waits)) && self.dispatcher.is_enough(self.unfinished())
    }

    fn waits_for_workers(&self) -> bool {
        self.closing != Closing::No
            || !self.answers.is_empty()
            || self.dispatcher.in_flight() > 0 && self.any_held()
            || self.partitions.iter().flatten().flatten().any(|p| p.phase != Phase::Running || !p.all_owned())
    }

    /// Whether something is parked that need not be: it is durable, but whoever waits for the end wants to see it applied.
    fn slow_lanes_are_busy(&self, now: Duration) -> bool {
        let stopped = |topic: TopicIx| self.signals.is_stopped(topic);
        self.parked.iter().any(|parked| parked.is_busy(now, &stopped))
    }

    fn any_held(&self) -> bool {
        let held = |p: &Partition| {
            p.parts.iter().filter_map(|p| p.owned()).any(|o| o.held.iter().any(|chunks| !chunks.is_empty()))
        };
        self.partitions.iter().flatten().flatten().any(|p| p.paused || held(p))
    }
}
