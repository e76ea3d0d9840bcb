//! The loop against a database and brokers that do as they are told, on a clock whose hands the test moves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crossbeam_channel::Sender;

use super::*;
use crate::clock::TestClock;
use crate::config::load::parse;
use crate::forward::Publish;
use crate::sink::Reason;

/// A shard's letters and the brokers, as far as a forwarder sees them.
#[derive(Default)]
struct World {
    /// Of each topic: the letters that are due.
    letters: Vec<(String, VecDeque<Letter>)>,
    published: Vec<(String, i64)>,
    refused: Vec<i64>,
    /// No topic of the brokers; nothing for a topic that is there.
    missing: Vec<String>,
    /// The brokers go away in the middle of a claim, before its n-th letter.
    away_at: Option<usize>,
    too_large: Vec<i64>,
    database_away: bool,
    elsewhere: bool,
    /// Somebody holds every letter that is due.
    held: bool,
    looks: usize,
    asked: usize,
}

struct Fake(Rc<RefCell<World>>);

impl Outbox for Fake {
    fn due(&mut self, topics: &[String]) -> Result<Vec<bool>, Failure> {
        let mut world = self.0.borrow_mut();
        world.looks += 1;
        if world.database_away {
            return Err(Failure::Outage(Reason::new("connection refused")));
        }
        let due = |topic: &String| world.letters.iter().any(|(of, letters)| of == topic && !letters.is_empty());
        Ok(topics.iter().map(due).collect())
    }

    fn claim(&mut self, topic: &str, publish: &mut Publish<'_>) -> Result<bool, Failure> {
        if self.0.borrow().elsewhere {
            return Ok(false);
        }
        let claimed: Vec<Letter> = {
            let world = self.0.borrow();
            let (_, letters) = world.letters.iter().find(|(of, _)| of == topic).expect("a topic of the test");
            letters.iter().take(if world.held { 0 } else { 3 }).cloned().collect()
        };
        if claimed.is_empty() {
            return Ok(true);
        }
        let verdicts = publish(&claimed);
        let mut world = self.0.borrow_mut();
        for (letter, verdict) in claimed.iter().zip(verdicts) {
            match verdict {
                Verdict::Acknowledged => {}
                Verdict::Refused(_) => world.refused.push(letter.id),
                Verdict::NotNow(_) => continue,
            }
            let (_, letters) = world.letters.iter_mut().find(|(of, _)| of == topic).expect("a topic of the test");
            letters.retain(|other| other.id != letter.id);
        }
        Ok(true)
    }
}

impl Publisher for Fake {
    fn ready(&mut self, topic: &str) -> Result<(), Trouble> {
        let mut world = self.0.borrow_mut();
        world.asked += 1;
        match world.missing.iter().any(|missing| missing == topic) {
            true => Err(Trouble { text: "unknown topic".into(), needs_a_person: true }),
            false => Ok(()),
        }
    }

    fn publish(&mut self, topic: &str, messages: &[Message<'_>]) -> Vec<Verdict> {
        let mut world = self.0.borrow_mut();
        let away_at = world.away_at.unwrap_or(usize::MAX);
        let mut verdicts = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let id = message.headers.iter().find(|(name, _)| *name == "forebay.dead_letter.id").expect("an id");
            let id = String::from_utf8(id.1.as_deref().expect("a value").to_vec()).expect("text");
            let id: i64 = id.rsplit('/').next().expect("an offset").parse().expect("a number");
            verdicts.push(match () {
                () if index >= away_at => Verdict::NotNow(Trouble { text: "timed out".into(), needs_a_person: false }),
                () if world.too_large.contains(&id) => Verdict::Refused("too large".into()),
                () => {
                    world.published.push((topic.to_owned(), id));
                    Verdict::Acknowledged
                }
            });
        }
        verdicts
    }

    fn rest(&mut self) {}
}

struct Bench {
    world: Rc<RefCell<World>>,
    clock: TestClock,
    orders: Sender<Drain>,
    counters: Arc<Counters>,
    forwarder: Forwarder<Fake, Fake>,
}

/// Topics `a`, which goes on to `la`, `b` to `lb`, and `c`, whose letters stay; of each so many letters.
fn bench(of_each: i64) -> Bench {
    let mut text = String::from(
        "[kafka]\nbootstrap.servers = \"k\"\ngroup.id = \"g\"\n[[shard]]\nname = \"s\"\ndsn = \"host=h\"\n",
    );
    for (name, to) in [("a", "forward_to = \"la\""), ("b", "forward_to = \"lb\""), ("c", "")] {
        text.push_str(&format!("[[topic]]\nname = \"{name}\"\ntable = \"{name}\"\n[topic.on_bad_record]\n{to}\n"));
    }
    let config = parse(std::path::Path::new("f"), &text, &|_| None).expect("valid").config;
    let letters =
        |topic: &str, from: i64| (topic.to_owned(), (from..from + of_each).map(|id| letter(topic, id)).collect());
    let letters = vec![letters("a", 0), letters("b", 100), letters("c", 200)];
    let world = Rc::new(RefCell::new(World { letters, ..World::default() }));
    let (orders_in, orders) = crossbeam_channel::bounded(1);
    let clock = TestClock::default();
    let counters = Arc::new(Counters::default());
    let context = Context {
        orders,
        clock: Arc::new(clock.clone()),
        rng: fastrand::Rng::with_seed(1),
        backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
        counters: Arc::clone(&counters),
    };
    let fake = || Fake(Rc::clone(&world));
    let forwarder = Forwarder::new(fake(), fake(), &config, ShardIx(0), context);
    Bench { world: Rc::clone(&world), clock, orders: orders_in, counters, forwarder }
}

fn letter(topic: &str, id: i64) -> Letter {
    Letter {
        id,
        source: 1,
        topic: topic.to_owned(),
        partition: 0,
        offset: id,
        at: String::new(),
        timestamp_ms: None,
        sqlstate: None,
        error: String::new(),
        key: None,
        payload: None,
        headers: Vec::new(),
    }
}

impl Bench {
    /// Steps, waiting as told, until this much time is over or it is done; says whether it is.
    fn run_for(&mut self, time: Duration) -> bool {
        let until = self.clock.now() + time;
        while self.clock.now() < until {
            match self.forwarder.step() {
                Next::Again => {}
                Next::After(wait) => {
                    assert!(!wait.is_zero(), "it would spin");
                    self.clock.advance(wait);
                }
                Next::Done => return true,
            }
        }
        false
    }

    fn drain(&mut self, patience: u64) {
        self.orders.send(Drain { patience: Duration::from_secs(patience) }).expect("it listens");
    }

    fn published(&self, to: &str) -> Vec<i64> {
        self.world.borrow().published.iter().filter(|(topic, _)| topic == to).map(|(_, id)| *id).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_topic_that_forwards_has_its_turn_and_keeps_its_order() {
    let mut bench = bench(7);
    bench.run_for(SECOND);
    assert_eq!(bench.published("la"), (0..7).collect::<Vec<_>>());
    assert_eq!(bench.published("lb"), (100..107).collect::<Vec<_>>());
    assert_eq!(bench.world.borrow().published.len(), 14, "nobody forwards c's");
    assert_eq!(bench.world.borrow().published[3].0, "lb", "a's backlog does not hold b up");
    assert_eq!(bench.counters.forwarded.get(), 14);
    let looks = bench.world.borrow().looks;
    bench.run_for(SECOND * 10);
    assert!((9..=11).contains(&(bench.world.borrow().looks - looks)), "once a second while there is nothing");
}

#[test]
fn a_missing_topic_holds_up_its_own_letters_only_and_is_asked_for_with_patience() {
    let mut bench = bench(4);
    bench.world.borrow_mut().missing = vec!["la".into()];
    bench.run_for(SECOND * 60);
    assert_eq!((bench.published("la").len(), bench.published("lb").len()), (0, 4));
    let asked = bench.world.borrow().asked;
    assert!((10..30).contains(&asked), "{asked} times in a minute");
    bench.world.borrow_mut().missing.clear();
    bench.run_for(SECOND * 11);
    assert_eq!(bench.published("la"), [0, 1, 2, 3]);
}

#[test]
fn brokers_that_go_away_in_the_middle_get_the_rest_later() {
    let mut bench = bench(4);
    bench.world.borrow_mut().away_at = Some(1);
    bench.run_for(Duration::from_millis(10));
    assert_eq!(bench.published("la"), [0]);
    bench.world.borrow_mut().away_at = None;
    bench.run_for(SECOND * 11);
    assert_eq!(bench.published("la"), [0, 1, 2, 3]);
}

#[test]
fn a_letter_that_is_refused_for_good_holds_up_nobody() {
    let mut bench = bench(5);
    bench.world.borrow_mut().too_large = vec![0, 3];
    bench.run_for(SECOND);
    assert_eq!(bench.published("la"), [1, 2, 4]);
    assert_eq!(bench.world.borrow().refused, [0, 3]);
    assert_eq!(bench.counters.forwarded.get(), 8);
}

#[test]
fn a_database_that_is_away_is_waited_for() {
    let mut bench = bench(2);
    bench.world.borrow_mut().database_away = true;
    bench.run_for(SECOND * 60);
    let looks = bench.world.borrow().looks;
    assert!((10..30).contains(&looks), "{looks} times in a minute");
    bench.world.borrow_mut().database_away = false;
    bench.run_for(SECOND * 11);
    assert_eq!(bench.published("la"), [0, 1]);
}

#[test]
fn at_the_end_everything_goes_on_unless_the_time_is_over() {
    let mut empty = bench(0);
    empty.drain(30);
    assert!(empty.run_for(SECOND) && empty.clock.now() < SECOND, "nothing to wait for");

    let mut full = bench(10);
    full.drain(30);
    assert!(full.run_for(SECOND * 31));
    assert_eq!(full.published("la").len() + full.published("lb").len(), 20);

    let mut stuck = bench(1);
    stuck.world.borrow_mut().missing = vec!["lb".into()];
    stuck.drain(5);
    assert!(stuck.run_for(SECOND * 6));
    assert_eq!(stuck.clock.now(), SECOND * 5, "not a moment longer");
    assert_eq!(stuck.published("la"), [0]);

    let mut away = bench(1);
    away.world.borrow_mut().database_away = true;
    away.drain(5);
    assert!(away.run_for(SECOND * 6));
    assert_eq!(away.clock.now(), SECOND * 5);
}

/// It is due, and nobody may claim it: not worth a whole core.
#[test]
fn a_letter_that_somebody_holds_is_waited_for() {
    let mut bench = bench(1);
    bench.world.borrow_mut().held = true;
    bench.run_for(SECOND * 10);
    let looks = bench.world.borrow().looks;
    assert!(looks < 40, "{looks} looks in ten seconds");
    bench.world.borrow_mut().held = false;
    bench.run_for(SECOND * 2);
    assert_eq!((bench.published("la"), bench.published("lb")), (vec![0], vec![100]));
}

/// Two processes that end together: the one without the lock leaves when the other one is done.
#[test]
fn letters_that_another_process_forwards_are_waited_for() {
    let mut bench = bench(1);
    bench.world.borrow_mut().elsewhere = true;
    bench.run_for(SECOND * 10);
    let looks = bench.world.borrow().looks;
    assert!(looks < 40, "{looks} looks in ten seconds");
    bench.drain(30);
    assert!(!bench.run_for(SECOND * 3));
    bench.world.borrow_mut().letters.clear();
    assert!(bench.run_for(SECOND));
    assert!(bench.world.borrow().published.is_empty());
}
