//! The loop of a shard's forwarder: looks what is due, makes sure that the topic is there, claims, publishes, marks. It waits
//! with growing patience where brokers or the database are away, and never decides about a letter but by the brokers' word.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::Clock;
use crate::config::Config;
use crate::forward::message::{Message, Of};
use crate::forward::{Letter, Outbox, Publisher, Trouble, Verdict};
use crate::metrics::Counters;
use crate::sink::Failure;
use crate::state::retry::{Backoff, Notices};
use crate::types::ShardIx;

/// How often a database is asked for letters while there are none.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and while this process wants to end and another one is about them.
const LOOK_EVERY_AT_END: Duration = Duration::from_millis(100);

/// Letters that a topic refuses for good are said at once, and then in sums.
const SAY_REFUSED_EVERY: Duration = Duration::from_secs(10);

/// Asks a forwarder to end: at once where nothing is due, otherwise when everything is forwarded or this much time is over.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    pub patience: Duration,
}

/// What the loop wants to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Again,
    /// Nothing to do for this long, unless a [`Drain`] arrives.
    After(Duration),
    Done,
}

/// What a forwarder needs besides its database and the brokers.
pub struct Context {
    pub orders: Receiver<Drain>,
    pub clock: Arc<dyn Clock>,
    pub rng: fastrand::Rng,
    pub backoff: Backoff,
    pub counters: Arc<Counters>,
}

/// See the module's text.
pub struct Forwarder<O, P> {
    outbox: O,
    publisher: P,
    of: Of,
    /// What is read, …
    topics: Vec<String>,
    /// … where its letters go, and how that stands.
    routes: Vec<Route>,
    /// Whose turn it is, where several are due.
    turn: usize,
    database: Waiting,
    context: Context,
    /// Not later than this it ends.
    ending: Option<Duration>,
}

struct Route {
    to: String,
    brokers: Waiting,
    /// Its letters are in other hands (another process forwards, a person replays): not before this.
    elsewhere_until: Duration,
    refused: Refused,
}

/// Letters that the topic refused for good.
#[derive(Default)]
struct Refused {
    /// Nobody was told of so many, …
    unsaid: u64,
    /// … the last of them, for people, and why.
    last: (String, String),
    said: Option<Duration>,
}

impl<O: Outbox, P: Publisher> Forwarder<O, P> {
    pub fn new(outbox: O, publisher: P, config: &Config, shard: ShardIx, context: Context) -> Forwarder<O, P> {
        let of = Of { shard: config.shards[usize::from(shard.0)].name.clone(), group: config.kafka.group_id.clone() };
        let waiting = || Waiting::new(context.backoff.clone());
        let forwarded = config.topics.iter().filter_map(|topic| Some((topic.name.clone(), topic.forward_to.clone()?)));
        let route = |(topic, to)| (topic, Route::new(to, waiting()));
        let (topics, routes) = forwarded.map(route).unzip();
        let database = waiting();
        Forwarder { outbox, publisher, of, topics, routes, turn: 0, database, context, ending: None }
    }

    /// Until it is asked to end, or nobody is there any more who could ask.
    pub fn run(mut self) {
        loop {
            match self.step() {
                Next::Again => {}
                Next::After(wait) => match self.context.orders.recv_timeout(wait) {
                    Ok(order) => self.accept(order),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                },
                Next::Done => return,
            }
        }
    }

    /// At most one claim. Waits for nothing but the database and the brokers, and for both a bounded time.
    pub fn step(&mut self) -> Next {
        let next = self.look_and_forward();
        self.say_refused(next == Next::Done);
        next
    }

    fn look_and_forward(&mut self) -> Next {
        if let Ok(order) = self.context.orders.try_recv() {
            self.accept(order);
        }
        let now = self.context.clock.now();
        if self.ending.is_some_and(|ending| now >= ending) {
            let shard = &self.of.shard;
            tracing::warn!(
                shard,
                "shard {shard}: the time to end is over: dead letters that were not forwarded stay in forebay.dead_letter for the next run"
            );
            return Next::Done;
        }
        if let Some(wait) = self.database.wait(now) {
            return self.after(now, wait);
        }
        let due = match self.outbox.due(&self.topics) {
            Ok(due) => due,
            Err(failure) => return self.database_failed(&failure),
        };
        self.database_answered();
        let due: Vec<usize> = due.iter().enumerate().filter(|(_, due)| **due).map(|(index, _)| index).collect();
        if due.is_empty() {
            self.publisher.rest();
            return if self.ending.is_some() { Next::Done } else { Next::After(LOOK_EVERY) };
        }
        let wait = |index: &usize| self.routes[*index].wait(now);
        let ready: Vec<usize> = due.iter().copied().filter(|index| wait(index).is_none()).collect();
        let Some(&index) = ready.iter().find(|index| **index >= self.turn).or(ready.first()) else {
            let soonest = due.iter().filter_map(wait).min().unwrap_or(LOOK_EVERY);
            return self.after(now, soonest.min(LOOK_EVERY));
        };
        self.turn = index + 1;
        self.forward(index);
        Next::Again
    }

    fn accept(&mut self, order: Drain) {
        self.ending = Some(self.context.clock.now() + order.patience);
    }

    fn after(&self, now: Duration, wait: Duration) -> Next {
        let left = self.ending.map_or(wait, |ending| ending.saturating_sub(now));
        Next::After(wait.min(left))
    }

    fn forward(&mut self, index: usize) {
        let (topic, route) = (&self.topics[index], &mut self.routes[index]);
        if let Err(trouble) = self.publisher.ready(&route.to) {
            return self.brokers_failed(index, trouble);
        }
        let mut tally = Tally::default();
        let claimed = self.outbox.claim(topic, &mut |letters| {
            let messages: Vec<Message<'_>> = letters.iter().map(|letter| Message::new(&self.of, letter)).collect();
            let verdicts = self.publisher.publish(&route.to, &messages);
            tally.note(letters, &verdicts);
            verdicts
        });
        match claimed {
            Ok(true) if tally.letters > 0 => self.claimed(index, tally),
            Ok(_) => {
                let again = if self.ending.is_some() { LOOK_EVERY_AT_END } else { LOOK_EVERY };
                route.elsewhere_until = self.context.clock.now() + again;
            }
            Err(failure) => {
                self.database_failed(&failure);
            }
        }
    }

    /// A claim's transaction is committed.
    fn claimed(&mut self, index: usize, tally: Tally) {
        self.context.counters.forwarded.add(tally.acknowledged);
        let refused = &mut self.routes[index].refused;
        refused.unsaid += tally.refusals;
        refused.last = tally.refused.unwrap_or(std::mem::take(&mut refused.last));
        match tally.trouble {
            Some(trouble) => self.brokers_failed(index, trouble),
            None => {
                let now = self.context.clock.now();
                if let Some(lasted) = self.routes[index].brokers.well(now) {
                    let (shard, topic, to) = (&self.of.shard, &self.topics[index], &self.routes[index].to);
                    let seconds = lasted.as_secs();
                    tracing::info!(
                        shard,
                        topic,
                        "shard {shard}, topic {topic}: dead letters go on to {to} again, after {seconds} s"
                    );
                }
            }
        }
    }

    fn say_refused(&mut self, at_the_end: bool) {
        let now = self.context.clock.now();
        for (topic, Route { to, refused, .. }) in self.topics.iter().zip(&mut self.routes) {
            let soon = refused.said.is_some_and(|said| now < said + SAY_REFUSED_EVERY) && !at_the_end;
            if refused.unsaid == 0 || soon {
                continue;
            }
            let (letter, reason) = &refused.last;
            let shard = &self.of.shard;
            tracing::error!(
                shard,
                topic,
                "shard {shard}, topic {topic}: topic {to} refuses {} dead letters for good, the last of them {letter}: {reason}. They stay in \
                 forebay.dead_letter, with the reason in forward_error; set that to null once the topic takes them",
                refused.unsaid
            );
            (refused.unsaid, refused.said) = (0, Some(now));
        }
    }

    fn brokers_failed(&mut self, index: usize, trouble: Trouble) {
        let now = self.context.clock.now();
        let route = &mut self.routes[index];
        let (shard, topic, to, text) = (&self.of.shard, &self.topics[index], &route.to, &trouble.text);
        if route.brokers.failed(now, self.context.rng.f64(), text) {
            let said = format!(
                "shard {shard}, topic {topic}: dead letters wait in forebay.dead_letter; they cannot go on to topic {to}: {text}"
            );
            match trouble.needs_a_person {
                true => tracing::error!(shard, topic, "{said}"),
                false => tracing::warn!(shard, topic, "{said}; trying again"),
            }
        }
    }

    fn database_failed(&mut self, failure: &Failure) -> Next {
        self.publisher.rest();
        let now = self.context.clock.now();
        if self.database.failed(now, self.context.rng.f64(), &failure.reason().text) {
            // The shard's other threads say the rest.
            let (shard, reason) = (&self.of.shard, failure.reason());
            let sqlstate = &reason.sqlstate;
            tracing::warn!(shard, sqlstate, "shard {shard}: dead letters are not forwarded: {reason}; trying again");
        }
        self.after(now, self.database.wait(now).unwrap_or_default())
    }

    fn database_answered(&mut self) {
        if let Some(lasted) = self.database.well(self.context.clock.now()) {
            let (shard, seconds) = (&self.of.shard, lasted.as_secs());
            tracing::info!(shard, "shard {shard}: dead letters are forwarded again, after {seconds} s");
        }
    }
}

impl Route {
    fn new(to: String, brokers: Waiting) -> Route {
        Route { to, brokers, elsewhere_until: Duration::ZERO, refused: Refused::default() }
    }

    /// How long nothing is to be tried with it.
    fn wait(&self, now: Duration) -> Option<Duration> {
        let elsewhere = Some(self.elsewhere_until.saturating_sub(now)).filter(|wait| !wait.is_zero());
        elsewhere.max(self.brokers.wait(now))
    }
}

/// Something that is away is tried again and again, with growing patience, and said once a minute.
struct Waiting {
    backoff: Backoff,
    notices: Notices,
    /// Since when it fails, and until when to wait.
    failing: Option<(Duration, Duration)>,
}

impl Waiting {
    fn new(backoff: Backoff) -> Waiting {
        Waiting { backoff, notices: Notices::default(), failing: None }
    }

    fn wait(&self, now: Duration) -> Option<Duration> {
        self.failing.map(|(_, until)| until.saturating_sub(now)).filter(|wait| !wait.is_zero())
    }

    /// Whether that is news.
    fn failed(&mut self, now: Duration, random: f64, text: &str) -> bool {
        let since = self.failing.map_or(now, |(since, _)| since);
        self.failing = Some((since, now + self.backoff.next(random)));
        self.notices.is_news(text, now)
    }

    /// For how long it failed, where it did.
    fn well(&mut self, now: Duration) -> Option<Duration> {
        self.backoff.reset();
        self.failing.take().map(|(since, _)| now - since)
    }
}

/// What became of a claim's letters.
#[derive(Default)]
struct Tally {
    letters: usize,
    acknowledged: u64,
    refusals: u64,
    /// The last one, for people, and why.
    refused: Option<(String, String)>,
    trouble: Option<Trouble>,
}

impl Tally {
    fn note(&mut self, letters: &[Letter], verdicts: &[Verdict]) {
        self.letters = letters.len();
        for (letter, verdict) in letters.iter().zip(verdicts) {
            match verdict {
                Verdict::Acknowledged => self.acknowledged += 1,
                Verdict::Refused(reason) => {
                    self.refusals += 1;
                    let place = format!("{} (partition {} offset {})", letter.id, letter.partition, letter.offset);
                    self.refused = Some((place, reason.clone()));
                }
                Verdict::NotNow(trouble) => drop(self.trouble.get_or_insert_with(|| trouble.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
