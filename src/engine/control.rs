//! One control thread per shard: takeovers, stored progress and comparison, on a connection of its own, so that the poller never
//! waits for a database.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use crate::clock::Clock;
use crate::engine::Rules;
use crate::engine::event::{Answer, Doing, Event, Request};
use crate::engine::observed::Observed;
use crate::engine::pace::{News, Pace};
use crate::engine::parked::Parked;
use crate::engine::report::Reporter;
use crate::engine::worker::{Next, Signals};
use crate::sink::{Control, Failure, Identity, Progress, Reason, Replica, Takeover};
use crate::state::retry::{Backoff, Trying};
use crate::types::{Generation, Lane, TopicIx, TopicPartition};

/// How long after a look at the replica that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often the oldest parked rows are looked at; more seldom where that takes long.
const PARKED_EVERY: Duration = Duration::from_secs(1);
const PARKED_EVERY_MAX: Duration = Duration::from_secs(30);
/// How often the pace is looked after: what there is to say of it, and how far behind the replica is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module's text. Requests are served in their order; one that fails goes to the back and waits.
pub struct ControlLoop<C> {
    control: C,
    report: Reporter,
    inbox: Receiver<Request>,
    parked: Arc<Parked>,
    clock: Arc<dyn Clock>,
    rng: fastrand::Rng,
    rules: Rules,
    tasks: VecDeque<Task>,
    backoff: Backoff,
    pace: Arc<Pace>,
    /// When the pace is looked after, and its replica looked at.
    look_at: Duration,
    /// When the oldest parked rows are looked at, and those topics of which there were any.
    parked_at: Duration,
    parked_of: BTreeSet<TopicIx>,
    /// The last look at the replica failed, or it was not there.
    blind: bool,
    /// Progress is asked for anew each time: by topic, how long it could not be stored.
    storing: BTreeMap<TopicIx, Trying>,
    /// Not before this does a failed task run again.
    retry_at: Duration,
    closed: bool,
}

/// A request on its way; one that `failed` waits for `retry_at`.
#[derive(Debug)]
struct Task {
    what: What,
    failed: bool,
    trying: Trying,
}

#[derive(Debug)]
enum What {
    Locate { topic: TopicIx, identity: Identity, partitions: Vec<(i32, Generation)> },
    Takeover { takeover: Takeover, generation: Generation },
    Progress { topic: TopicIx, of: Vec<(Progress, Generation)> },
}

/// What a loop needs besides its database.
pub struct LoopContext {
    pub report: Reporter,
    pub clock: Arc<dyn Clock>,
    pub rng: fastrand::Rng,
    pub rules: Rules,
    pub backoff: Backoff,
    pub pace: Arc<Pace>,
    pub signals: Arc<Signals>,
    pub observed: Arc<Observed>,
}

#[cfg(test)]
impl LoopContext {
    /// For a loop of the first shard, and what it tells the poller.
    pub fn of_test(clock: &crate::clock::TestClock, retry_max: Duration) -> (LoopContext, Receiver<Event>) {
        use crate::engine::gate::Gate;
        use crate::engine::report::Waker;
        use crate::types::ShardIx;

        let (told, events) = crossbeam_channel::bounded(1024);
        let backoff = Backoff::new(Duration::from_millis(50), retry_max);
        let gate = Gate::new(Arc::new(clock.clone()), fastrand::Rng::with_seed(2), backoff.clone());
        let gate = Arc::new(gate);
        let context = LoopContext {
            report: Reporter::new(ShardIx(0), "s0", told, Waker::new(Arc::new(|| {})), gate),
            clock: Arc::new(clock.clone()),
            rng: fastrand::Rng::with_seed(1),
            rules: Rules::ALL,
            pace: Arc::new(Pace::unlimited(1, 1)),
            backoff,
            signals: Arc::new(Signals::new(1)),
            observed: Arc::new(Observed::new(1, 1, 2)),
        };
        (context, events)
    }
}

impl<C: Control> ControlLoop<C> {
    pub fn new(control: C, inbox: Receiver<Request>, parked: Arc<Parked>, context: LoopContext) -> ControlLoop<C> {
        let LoopContext { report, clock, rng, rules, backoff, pace, .. } = context;
        ControlLoop {
            control,
            report,
            inbox,
            parked,
            clock,
            rng,
            rules,
            tasks: VecDeque::new(),
            backoff,
            pace,
            look_at: Duration::ZERO,
            parked_at: Duration::ZERO,
            parked_of: BTreeSet::new(),
            blind: false,
            storing: BTreeMap::new(),
            retry_at: Duration::ZERO,
            closed: false,
        }
    }

    /// Until the poller drops its sender.
    pub fn run(mut self) {
        loop {
            match self.step() {
                Next::Again => {}
                Next::Inbox => unreachable!("there is always the next look at the pace"),
                Next::After(wait) => match self.inbox.recv_timeout(wait) {
                    Ok(request) => self.accept(request),
                    Err(error) if error.is_disconnected() => return,
                    Err(_) => {}
                },
                Next::Done => return,
            }
        }
    }

    /// Serves at most one task, and looks after the pace when that is due; never waits except for the database.
    pub fn step(&mut self) -> Next {
        loop {
            match self.inbox.try_recv() {
                Ok(request) => self.accept(request),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    break;
                }
            }
        }
        // What failed and nothing else can wait for is not worth staying for.
        if self.closed && self.tasks.iter().all(|t| t.failed) {
            return Next::Done;
        }
        let now = self.clock.now();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.look_after_pace();
        }
        if let Some(at) = self.report.gate().probe_at() {
            return self.probe(at, now);
        }
        if now >= self.parked_at {
            self.look_at_parked(now);
        }
        let due = |t: &Task| !t.failed || now >= self.retry_at;
        let Some(task) = self.tasks.iter().position(due).and_then(|index| self.tasks.remove(index)) else {
            let next = self.look_at.min(self.parked_at);
            let next = if self.tasks.is_empty() { next } else { next.min(self.retry_at) };
            return Next::After(next.saturating_sub(now));
        };
        self.serve(task);
        Next::Again
    }

    /// What has waited longest of what is parked: for people, and not worth more than a twentieth of the time.
    fn look_at_parked(&mut self, now: Duration) {
        let mut topics: BTreeMap<TopicIx, Vec<i32>> = BTreeMap::new();
        let sizes = self.parked.sizes().into_iter().filter(|(_, (_, rows))| *rows > 0);
        sizes.for_each(|(at, _)| topics.entry(at.topic).or_default().push(at.partition));
        for topic in self.parked_of.iter().filter(|topic| !topics.contains_key(topic)) {
            self.parked.show_oldest(*topic, Vec::new());
        }
        for (topic, partitions) in &topics {
            match self.control.oldest_parked(*topic, partitions) {
                Ok(oldest) => self.parked.show_oldest(*topic, oldest),
                Err(failure) => {
                    tracing::debug!("what is parked cannot be looked at: {}", failure.reason());
                    if matches!(failure, Failure::Outage(_) | Failure::Shard(_)) {
                        self.report.unwell(&failure);
                        break;
                    }
                }
            }
        }
        let topics = topics.into_keys().collect();
        self.parked_of = topics;
        let took = self.clock.now().saturating_sub(now);
        self.parked_at = now + (took * 20).clamp(PARKED_EVERY, PARKED_EVERY_MAX);
    }

    fn look_after_pace(&mut self) {
        let shard = self.report.shard();
        for said in self.pace.said() {
            self.report.tell(Event::Pace { shard, news: News::Limit(said, self.pace.status()) });
        }
        let Some(name) = self.pace.replica() else {
            self.blind = false;
            return;
        };
        // Others find out when the database is there again.
        let seen = if self.report.gate().is_open() { Ok(Replica::Unknown) } else { self.control.replica(&name) };
        let (position, why) = match seen {
            Ok(Replica::At(position)) => (Some(position), None),
            Ok(Replica::Unknown) => (None, None),
            Ok(Replica::Gone) => (None, Some("it is not connected".to_owned())),
            Ok(Replica::Hidden) => {
                (None, Some("this role may not see replicas: GRANT pg_read_all_stats (or pg_monitor) to it".to_owned()))
            }
            Err(failure) => {
                self.look_at = self.clock.now() + LOOK_AGAIN;
                (None, Some(failure.reason().to_string()))
            }
        };
        self.pace.looked_at_replica(position);
        let news = match (why, position) {
            (Some(why), _) if !std::mem::replace(&mut self.blind, true) => News::NoReplica { name, why },
            (None, Some(_)) if std::mem::take(&mut self.blind) => News::Replica { name },
            _ => return,
        };
        self.report.tell(Event::Pace { shard, news });
    }

    /// The shard's breaker is open: nothing is tried but this, and everybody else waits for it.
    fn probe(&mut self, at: Duration, now: Duration) -> Next {
        if self.closed {
            return Next::Done;
        }
        self.refuse_progress();
        if now < at {
            return Next::After(at - now);
        }
        self.report.gate().probes();
        match self.control.probe() {
            Ok(()) => {
                self.report.gate().probed(true);
                self.report.recovered();
                self.retry_at = now;
            }
            Err(failure) => {
                self.report.unwell(&failure);
                self.report.gate().probed(false);
            }
        }
        Next::Again
    }

    /// Progress that cannot be stored now is asked for again: other shards' commits do not wait for it.
    fn refuse_progress(&mut self) {
        for task in std::mem::take(&mut self.tasks) {
            let What::Progress { topic, .. } = task.what else {
                self.tasks.push_back(task);
                continue;
            };
            self.storing.insert(topic, task.trying);
            let failure = Failure::Outage(Reason::new("the shard's breaker is open"));
            let answer = Answer::NotProgressed { topic, failure };
            self.report.tell(Event::Control { shard: self.report.shard(), answer });
        }
    }

    fn accept(&mut self, request: Request) {
        let what = match request {
            Request::Locate { topic, identity, partitions } => What::Locate { topic, identity, partitions },
            Request::Takeover { takeover, generation } => What::Takeover { takeover, generation },
            Request::Progress { topic, of } => What::Progress { topic, of },
            Request::Cancel { at, generation } => return self.cancel(at, generation),
            // The next step looks at the breaker.
            Request::Probe => return,
        };
        let trying = match &what {
            What::Progress { topic, .. } => self.storing.remove(topic).unwrap_or_default(),
            What::Locate { .. } | What::Takeover { .. } => Trying::default(),
        };
        self.tasks.push_back(Task { what, failed: false, trying });
    }

    fn cancel(&mut self, at: TopicPartition, generation: Generation) {
        self.parked.close(at, generation);
        self.tasks.retain_mut(|task| match &mut task.what {
            What::Locate { topic, partitions, .. } => {
                partitions.retain(|(p, g)| *topic != at.topic || *p != at.partition || *g > generation);
                !partitions.is_empty()
            }
            What::Takeover { takeover, generation: g } => takeover.at != at || *g > generation,
            What::Progress { .. } => true,
        });
    }

    fn serve(&mut self, mut task: Task) {
        let outcome = match &task.what {
            What::Locate { topic, identity, partitions } => self.locate(*topic, identity, partitions),
            What::Takeover { takeover, generation } => self.take_over(takeover, *generation),
            What::Progress { topic, of } => self.progress(*topic, of),
        };
        match outcome {
            Ok(answer) => {
                self.report.well();
                self.backoff.reset();
                let lasted = task.trying.ended(self.clock.now());
                self.report.in_vain(task.what.topic(), task.what.doing(), lasted, None);
                self.report.tell(Event::Control { shard: self.report.shard(), answer });
            }
            Err(failure) => self.failed(task, failure),
        }
    }

    fn locate(&mut self, topic: TopicIx, identity: &Identity, of: &[(i32, Generation)]) -> Result<Answer, Failure> {
        let partitions: Vec<i32> = of.iter().map(|(p, _)| *p).collect();
        let anchors = self.control.locate(topic, identity, &partitions)?;
        assert_eq!(anchors.len(), of.len(), "an answer for every partition");
        let partitions = of.iter().zip(anchors).map(|((p, g), anchor)| (*p, *g, anchor)).collect();
        Ok(Answer::Located { topic, partitions })
    }

    fn take_over(&mut self, takeover: &Takeover, generation: Generation) -> Result<Answer, Failure> {
        let taken = self.control.takeover(takeover)?;
        let decided = self.control.decided(takeover.at.topic)?;
        self.parked.decided(takeover.at.topic, decided, self.clock.now());
        let (lanes, parked) = (taken.fences.len() as Lane, taken.parked.clone());
        // Before the poller hears of it, and so before any record of the tenure is sent.
        self.parked.install(takeover.at, generation, takeover.token, lanes, parked);
        Ok(Answer::TakenOver { at: takeover.at, generation, taken })
    }

    fn progress(&mut self, topic: TopicIx, of: &[(Progress, Generation)]) -> Result<Answer, Failure> {
        let asked: Vec<Progress> = of.iter().map(|(p, _)| p.clone()).collect();
        let stored = self.control.progress(topic, &asked)?;
        let decided = self.control.decided(topic)?;
        self.parked.decided(topic, decided, self.clock.now());
        let (mut acknowledged, mut missing) = (Vec::new(), Vec::new());
        for (progress, generation) in of {
            // At most what was asked for: nobody but the owner raises it.
            match stored.iter().find(|(p, _)| *p == progress.partition) {
                Some((_, stored)) => {
                    acknowledged.push((progress.partition, *generation, progress.done.min(*stored)));
                }
                None => missing.push((progress.partition, *generation)),
            }
        }
        Ok(Answer::Progressed { topic, acknowledged, missing })
    }

    fn failed(&mut self, task: Task, failure: Failure) {
        let Task { what, mut trying, .. } = task;
        match &failure {
            Failure::Topic(reason) => {
                let topic = what.topic();
                self.report.tell(Event::TopicStopped { topic, at: None, reason: reason.clone() });
                if let What::Progress { topic, .. } = what {
                    self.report.tell(Event::Control {
                        shard: self.report.shard(),
                        answer: Answer::NotProgressed { topic, failure },
                    });
                }
                return;
            }
            Failure::Outage(_) | Failure::Shard(_) => self.report.unwell(&failure),
            Failure::Transient(_)
            | Failure::LockWait(_)
            | Failure::LockedOut(_)
            | Failure::NoRoom(_)
            | Failure::TooLong(_)
            | Failure::Record(..) => {
                let (shard, reason) = (self.report.shard_name(), failure.reason());
                tracing::debug!(shard, sqlstate = reason.sqlstate, "shard {shard}, control: {reason}; trying again");
                let lasted = trying.failed(self.clock.now());
                self.report.in_vain(what.topic(), what.doing(), lasted, Some(failure.reason()));
            }
        }
        self.retry_at = self.clock.now() + self.backoff.next(self.rng.f64());
        match what {
            What::Progress { topic, .. } => {
                self.storing.insert(topic, trying);
                self.report.tell(Event::Control {
                    shard: self.report.shard(),
                    answer: Answer::NotProgressed { topic, failure },
                });
            }
            What::Takeover { .. } if !self.rules.takeover_retried => {}
            what => self.tasks.push_back(Task { what, failed: true, trying }),
        }
    }
}

impl What {
    fn doing(&self) -> Doing {
        match self {
            What::Locate { .. } => Doing::Locating,
            What::Takeover { takeover, .. } => Doing::TakingOver(takeover.at.partition),
            What::Progress { .. } => Doing::StoringProgress,
        }
    }

    fn topic(&self) -> TopicIx {
        match self {
            What::Locate { topic, .. } | What::Progress { topic, .. } => *topic,
            What::Takeover { takeover, .. } => takeover.at.topic,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::clock::TestClock;
    use crate::sink::{Anchor, Taken};
    use crate::state::holds::Decided;
    use crate::types::{NextOffset, Token};

    /// Its fences are locked by a transaction that never ends; progress can be stored.
    struct Locked;

    /// A database that is away, and how often somebody tried to connect.
    struct Away(Arc<AtomicU64>);

    impl Control for Away {
        fn locate(&mut self, _: TopicIx, _: &Identity, _: &[i32]) -> Result<Vec<Option<Anchor>>, Failure> {
            unreachable!("nobody asks")
        }

        fn takeover(&mut self, _: &Takeover) -> Result<Taken, Failure> {
            unreachable!("nobody asks")
        }

        fn progress(&mut self, _: TopicIx, _: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(Failure::Outage(Reason::new("connection refused")))
        }

        fn probe(&mut self) -> Result<(), Failure> {
            self.progress(TopicIx(0), &[]).map(drop)
        }

        fn decided(&mut self, _: TopicIx) -> Result<Decided, Failure> {
            Ok(Decided::default())
        }
    }

    impl Control for Locked {
        fn locate(&mut self, _: TopicIx, _: &Identity, _: &[i32]) -> Result<Vec<Option<Anchor>>, Failure> {
            unreachable!("nobody asks")
        }

        fn takeover(&mut self, _: &Takeover) -> Result<Taken, Failure> {
            Err(Failure::LockWait(Reason::new("canceling statement due to lock timeout")))
        }

        fn progress(&mut self, _: TopicIx, of: &[Progress]) -> Result<Vec<(i32, NextOffset)>, Failure> {
            Ok(of.iter().map(|p| (p.partition, p.done)).collect())
        }

        fn probe(&mut self) -> Result<(), Failure> {
            unreachable!("a lock is no outage")
        }

        fn decided(&mut self, _: TopicIx) -> Result<Decided, Failure> {
            Ok(Decided::default())
        }
    }

    struct Bench<C> {
        clock: TestClock,
        events: Receiver<Event>,
        requests: crossbeam_channel::Sender<Request>,
        control: ControlLoop<C>,
    }

    fn bench<C: Control>(control: C) -> Bench<C> {
        let clock = TestClock::default();
        let (context, events) = LoopContext::of_test(&clock, Duration::from_secs(1));
        let (requests, inbox) = bounded(8);
        Bench {
            clock,
            events,
            requests,
            control: ControlLoop::new(control, inbox, Arc::new(Parked::of_test()), context),
        }
    }

    /// The poller asks every 20 ms while it gives partitions back. Each try is a connection and a thread of the driver.
    #[test]
    fn a_database_that_is_away_is_not_asked_for_progress_all_the_time() {
        let tries = Arc::new(AtomicU64::new(0));
        let Bench { clock, events, requests, mut control } = bench(Away(Arc::clone(&tries)));
        let ask = || requests.send(Request::Progress { topic: TopicIx(0), of: Vec::new() }).unwrap();
        ask();
        for _ in 0..500 {
            control.step();
            clock.advance(Duration::from_millis(20));
            let refused = |e: Event| matches!(e, Event::Control { answer: Answer::NotProgressed { .. }, .. });
            events.try_iter().filter_map(|e| refused(e).then_some(())).for_each(|()| ask());
        }
        let tries = tries.load(Ordering::SeqCst);
        assert!((8..30).contains(&tries), "{tries} in ten seconds, with at most one second between them");
    }

    /// That something else succeeds meanwhile does not hide it.
    #[test]
    fn a_takeover_that_waits_for_ever_is_said() {
        let Bench { clock, events, requests, mut control } = bench(Locked);
        let at = TopicPartition { topic: TopicIx(0), partition: 3 };
        let takeover = Takeover { at, token: Token(1), lanes: 1, begin: NextOffset(0) };
        requests.send(Request::Takeover { takeover, generation: Generation(1) }).unwrap();
        let mut said = Vec::new();
        for _ in 0..80 {
            requests.send(Request::Progress { topic: TopicIx(0), of: Vec::new() }).unwrap();
            for _ in 0..3 {
                control.step();
            }
            clock.advance(Duration::from_secs(1));
            said.extend(events.try_iter().filter_map(|event| match event {
                Event::InVain { doing, lasted, reason: Some(_), .. } => Some((doing, lasted.as_secs())),
                _ => None,
            }));
        }
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|(doing, _)| *doing == Doing::TakingOver(3)), "{said:?}");
        assert!((10..13).contains(&said[0].1) && (70..74).contains(&said[1].1), "{said:?}");
    }
}
