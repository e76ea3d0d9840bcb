//! One thread per shard that looks at what PostgreSQL says of our own connections, over one of its own. What it sees is for people:
//! it never writes, nothing waits for it, and its failures open no breaker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::engine::gate::Gate;
use crate::engine::thread::panic_message;
use crate::engine::worker::Next;
use crate::sink::Sampler;
use crate::state::contention::{Contention, Snapshot};

/// How long the thread waits at most before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);
/// After samples that failed: each pause is twice the one before, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// One that fails is tried again; so many in a row are worth a line.
const BLIND_AFTER: u32 = 3;
/// Beyond it a blocker that nothing confirms is forgotten; it is as long as several of a parked key's longest pauses.
const REMEMBERED_MIN: Duration = Duration::from_secs(30);
const CONFIRMED_WITHIN: u32 = 3;

/// What a shard's sampler has seen, for whoever asks while it runs.
pub struct Sampled {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    contention: Contention,
    /// Why nothing is seen.
    blind: Option<String>,
}

impl Sampled {
    /// `pause_max` is the longest pause between two tries of what waits.
    pub fn new(clock: Arc<dyn Clock>, pause_max: Duration) -> Sampled {
        let contention = Contention::new(REMEMBERED_MIN.max(pause_max * CONFIRMED_WITHIN));
        Sampled { clock, inner: Mutex::new(Inner { contention, blind: None }) }
    }

    /// None until there was a sample. What is too old is left out of it, and a note says why there is nothing newer.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let inner = self.inner.lock();
        let mut snapshot = inner.contention.snapshot(self.clock.now())?;
        snapshot.notes.extend(inner.blind.clone());
        Some(snapshot)
    }
}

/// See the module's text.
pub struct SamplerLoop<S> {
    sampler: S,
    shard: String,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    interval: Duration,
    sampled: Arc<Sampled>,
    due: Duration,
    /// In a row.
    failures: u32,
    /// It was said that nothing is seen.
    told: bool,
    resting: bool,
}

impl<S: Sampler> SamplerLoop<S> {
    pub fn new(
        sampler: S,
        shard: &str,
        gate: Arc<Gate>,
        clock: Arc<dyn Clock>,
        interval: Duration,
        sampled: Arc<Sampled>,
    ) -> SamplerLoop<S> {
        SamplerLoop {
            sampler,
            shard: shard.to_owned(),
            gate,
            clock,
            interval,
            sampled,
            due: Duration::ZERO,
            failures: 0,
            told: false,
            resting: false,
        }
    }

    /// Until `closing` says so.
    pub fn run(mut self, closing: &AtomicBool) {
        while !closing.load(Ordering::SeqCst) {
            if let Next::After(wait) = self.step() {
                self.clock.sleep(wait.min(PATIENCE));
            }
        }
    }

    /// At most one sample.
    pub fn step(&mut self) -> Next {
        let now = self.clock.now();
        if self.gate.is_open() {
            // Others find out when the database is there again, perhaps another one.
            if !std::mem::replace(&mut self.resting, true) {
                self.sampler.rest();
            }
            return Next::After(self.interval);
        }
        self.resting = false;
        if now < self.due {
            return Next::After(self.due - now);
        }
        let ask = self.sampled.inner.lock().contention.ask(now);
        match catch_unwind(AssertUnwindSafe(|| self.sampler.sample(&ask))) {
            Ok(Ok(sample)) => {
                let mut inner = self.sampled.inner.lock();
                // Whoever samples slowly says so.
                let now = self.clock.now();
                inner.contention.add(now, self.clock.wall_ms(), sample);
                inner.blind = None;
                self.due = now + inner.contention.pause(self.interval);
                drop(inner);
                self.sees();
            }
            Ok(Err(failure)) => self.failed(&failure.reason().to_string()),
            // A defect, but of somebody who only looks: nobody else ends because of it. Its connection may be in any state.
            Err(panic) => {
                self.sampler.rest();
                self.failed(&format!("the sampler panicked: {}", panic_message(panic.as_ref())));
            }
        }
        Next::Again
    }

    fn sees(&mut self) {
        self.failures = 0;
        if std::mem::take(&mut self.told) {
            tracing::info!(shard = self.shard, "what its connections wait for is seen again");
        }
    }

    fn failed(&mut self, why: &str) {
        self.failures += 1;
        tracing::debug!(shard = self.shard, "no sample: {why}");
        self.sampled.inner.lock().blind = Some(format!("not sampled at the moment: {why}"));
        let pause = self.interval * 2u32.saturating_pow(self.failures.min(16));
        self.due = self.clock.now() + pause.min(PAUSE_MAX);
        if self.failures >= BLIND_AFTER && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(shard = self.shard, "what its connections wait for cannot be seen: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;
    use crate::clock::TestClock;
    use crate::sink::{Failure, Reason};
    use crate::state::contention::{Ask, Backend, Sample, State};
    use crate::state::retry::Backoff;

    const MS: Duration = Duration::from_millis(1);

    /// Answers what it was told to, and says when and what it was asked.
    #[derive(Default)]
    struct Script {
        /// None: it panics.
        answers: VecDeque<Option<Result<Sample, Failure>>>,
        asked: Vec<Ask>,
        rests: usize,
    }

    #[derive(Clone, Default)]
    struct Fake(Rc<RefCell<Script>>);

    impl Sampler for Fake {
        fn sample(&mut self, ask: &Ask) -> Result<Sample, Failure> {
            let mut script = self.0.borrow_mut();
            script.asked.push(ask.clone());
            let answer = script.answers.pop_front().expect("one sample more than expected");
            drop(script);
            answer.expect("a defect")
        }

        fn rest(&mut self) {
            self.0.borrow_mut().rests += 1;
        }
    }

    struct World {
        clock: TestClock,
        fake: Fake,
        gate: Arc<Gate>,
        sampler: SamplerLoop<Fake>,
    }

    impl World {
        fn new() -> World {
            let (clock, fake) = (TestClock::default(), Fake::default());
            let shared: Arc<dyn Clock> = Arc::new(clock.clone());
            let backoff = Backoff::new(50 * MS, 1000 * MS);
            let gate = Arc::new(Gate::new(Arc::clone(&shared), fastrand::Rng::with_seed(1), backoff));
            let sampled = Arc::new(Sampled::new(Arc::clone(&shared), 1000 * MS));
            let sampler = SamplerLoop::new(fake.clone(), "main", Arc::clone(&gate), shared, 250 * MS, sampled);
            World { clock, fake, gate, sampler }
        }

        fn answers(&self, answer: Result<Sample, Failure>) {
            self.fake.0.borrow_mut().answers.push_back(Some(answer));
        }

        /// Runs until nothing is due; says how long to wait then.
        fn run(&mut self) -> Duration {
            loop {
                match self.sampler.step() {
                    Next::Again => {}
                    Next::After(wait) => return wait,
                    Next::Inbox | Next::Done => panic!("it has no inbox"),
                }
            }
        }

        fn notes(&self) -> Vec<String> {
            self.sampler.sampled.snapshot().expect("a sample").notes
        }
    }

    fn working() -> Result<Sample, Failure> {
        let backend = |thread: &str, state| Backend { thread: thread.into(), pid: 1, state, wait: None, quiet: MS };
        Ok(Sample { backends: vec![backend("fb-w0.0", State::Active)], ..Sample::default() })
    }

    fn fails() -> Result<Sample, Failure> {
        Err(Failure::TooLong(Reason::new("statement time-out")))
    }

    #[test]
    fn one_sample_each_interval_and_fewer_while_nothing_is_written() {
        let mut world = World::new();
        assert!(world.sampler.sampled.snapshot().is_none());
        for _ in 0..3 {
            world.answers(working());
            assert_eq!(world.run(), 250 * MS);
            world.clock.advance(250 * MS);
        }
        world.answers(Ok(Sample::default()));
        assert_eq!(world.run(), 1000 * MS, "nothing is written");
        let snapshot = world.sampler.sampled.snapshot().expect("a sample");
        assert_eq!((snapshot.waits[0].kind.as_str(), snapshot.waits[0].share), ("CPU", 1.0));
        let asked: Vec<bool> = world.fake.0.borrow().asked.iter().map(|ask| ask.tables).collect();
        assert_eq!(asked, [true; 4], "until they were seen");
    }

    #[test]
    fn it_rests_while_the_breaker_is_open() {
        let mut world = World::new();
        world.answers(working());
        world.run();
        world.clock.advance(1000 * MS);
        world.gate.failed();
        world.gate.failed();
        while !world.gate.is_open() {
            world.gate.failed();
        }
        for _ in 0..5 {
            assert_eq!(world.run(), 250 * MS);
        }
        assert_eq!((world.fake.0.borrow().asked.len(), world.fake.0.borrow().rests), (1, 1));
        world.gate.probed(true);
        world.answers(working());
        world.run();
        assert_eq!(world.fake.0.borrow().asked.len(), 2);
    }

    #[test]
    fn its_failures_are_its_own() {
        let mut world = World::new();
        world.answers(working());
        world.run();
        world.clock.advance(250 * MS);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            world.answers(fails());
            let pause = world.run();
            pauses.push(pause.as_millis());
            world.clock.advance(pause);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert!(!world.gate.is_open());
        assert_eq!(world.notes(), ["not sampled at the moment: statement time-out"]);
        assert_eq!(world.sampler.sampled.snapshot().unwrap().waits, [], "what was seen is too old");
        world.answers(working());
        world.run();
        assert_eq!(world.notes(), [""; 0]);
        assert!(!world.sampler.told);
    }

    #[test]
    fn a_defect_of_it_ends_nobody() {
        let mut world = World::new();
        world.answers(working());
        world.run();
        world.clock.advance(250 * MS);
        world.fake.0.borrow_mut().answers.push_back(None);
        assert_eq!(world.run(), 500 * MS, "as after any failure");
        assert_eq!(world.notes(), ["not sampled at the moment: the sampler panicked: a defect"]);
        assert_eq!(world.fake.0.borrow().rests, 1, "its connection may be in any state");
        world.clock.advance(500 * MS);
        world.answers(working());
        world.run();
        assert_eq!(world.notes(), [""; 0]);
    }
}
