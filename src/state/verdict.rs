//! One word and a sentence on what a shard's writes wait for: what the samples say, beside what the engine knows of its own workers.
//! For people, and for a glance; the numbers behind it are in the samples.

use std::time::Duration;

use crate::state::blocking::{Blocker, PREPARED, Session};
use crate::state::contention::{Class, Snapshot, WINDOW, Wait};

/// Below it, with nothing queued, the busiest worker has room: whatever its time goes into holds nothing up. (Idle lanes are packed
/// onto as few workers as the load needs, so others say nothing.)
const BUSY_FROM: f64 = 0.5;
/// With at least so much of the workers' time at work spent by PostgreSQL's side, that side is what they wait for.
const SERVER_FROM: f64 = 0.5;
/// Locks are not work: a quarter of the time is too much, whatever the rest goes into.
const LOCK_FROM: f64 = 0.25;
/// Of the time at PostgreSQL's side; a cause that takes less than that is one of many.
const DOMINANT_FROM: f64 = 0.4;
/// A share of the time that is none.
const NOTHING: f64 = 0.01;
/// Backends at work, on average, below which nothing was seen at all: one sample of one backend in the window is more.
const SEEN_FROM: f64 = 0.005;

/// Threads that a sentence names.
const NAMED_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is nothing to do, or room for more.
    Idle,
    /// PostgreSQL waits: for our next statement, or for the next batch.
    WaitingForUs,
    CommitBound,
    LockBound,
    CpuBound,
    IoBound,
    /// A limit holds the workers back on purpose.
    Paced,
    Down,
    Unknown,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Idle,
        Kind::WaitingForUs,
        Kind::CommitBound,
        Kind::LockBound,
        Kind::CpuBound,
        Kind::IoBound,
        Kind::Paced,
        Kind::Down,
        Kind::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Idle => "idle",
            Kind::WaitingForUs => "waiting_for_us",
            Kind::CommitBound => "commit_bound",
            Kind::LockBound => "lock_bound",
            Kind::CpuBound => "cpu_bound",
            Kind::IoBound => "io_bound",
            Kind::Paced => "paced",
            Kind::Down => "down",
            Kind::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    pub text: String,
}

/// What the engine knows of its workers at a shard, and no sample shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ours<'a> {
    /// Of each worker: how much of the last seconds it had a batch in hand that it was not held back from; 0 to 1.
    pub busy: &'a [f64],
    /// Records wait for a worker.
    pub queued: bool,
    /// The limit that holds workers back now, in words.
    pub paced: Option<&'a str>,
    /// Why the shard is away, while its breaker is open.
    pub down: Option<&'a str>,
}

/// See the module's text. `seen` is none where the shard is not sampled.
pub fn verdict(seen: Option<&Snapshot>, ours: &Ours<'_>) -> Verdict {
    let say = |kind, text| Verdict { kind, text };
    if let Some(why) = ours.down {
        return say(Kind::Down, format!("the shard is away: {why}"));
    }
    if let Some(limit) = ours.paced {
        return say(Kind::Paced, format!("workers are held back on purpose: {limit}"));
    }
    let (busy, at) = (Busy::new(ours), At::new(seen));
    let blocker = seen.and_then(|seen| seen.blockers.first()).map(holds_up);
    if busy.is_room() {
        return match blocker {
            Some(holds_up) => say(Kind::LockBound, format!("nothing to do but to wait for a lock: {holds_up}")),
            None if busy.most < NOTHING => say(Kind::Idle, "nothing to do".to_owned()),
            None => say(Kind::Idle, format!("there is room: {}", busy.text())),
        };
    }
    let besides = blocker.as_ref().map(|holds_up| format!("; besides, {holds_up}")).unwrap_or_default();
    let Some(seen) = seen.filter(|_| at.server + at.client + at.idle > SEEN_FROM) else {
        return say(Kind::Unknown, format!("no sample shows what for: {}", busy.text()));
    };
    // What is short falls between two samples, and what the engine measures is a little older.
    let at_work = busy.all.max(at.server + at.client);
    if at.lock > 0.0 && at.lock >= LOCK_FROM * at_work {
        let holds_up = blocker.map(|holds_up| format!("; {holds_up}")).unwrap_or_default();
        let share = percent(at.lock / at_work);
        let text = format!("{share} of the workers' time at work {LAST} was spent waiting for locks{holds_up}");
        return say(Kind::LockBound, text);
    }
    if at.server < SERVER_FROM * at_work || at_work < NOTHING {
        return say(Kind::WaitingForUs, format!("{}{besides}", waiting_for_us(&at, &busy, at_work)));
    }
    match at.dominant() {
        Some((kind, class, share)) => {
            let what = match class {
                Class::Commit => "went into making commits durable",
                Class::Cpu => "was computing, without a wait",
                Class::Io => "went into reading and writing tables and indexes",
                _ => "was spent waiting for locks",
            };
            let most = seen.waits.iter().find(|wait| wait.class == class && !wait.event.is_empty());
            let most = most.map(|wait| format!(" (most of it {})", wait.name())).unwrap_or_default();
            let share = percent(share);
            say(kind, format!("{share} of PostgreSQL's time for us {LAST} {what}{most}; {}{besides}", busy.text()))
        }
        None => {
            let parts = seen.waits.iter().filter(|wait| !matches!(wait.class, Class::Idle | Class::Parked));
            let parts: Vec<String> = parts.take(3).map(|w| format!("{} {}", w.name(), percent(w.share))).collect();
            say(Kind::Unknown, format!("nothing stands out {LAST}: {}{besides}", parts.join(", ")))
        }
    }
}

const LAST: &str = "in the last 10 s";
const _: () = assert!(WINDOW.as_secs() == 10, "as LAST says");

/// What the engine says of the workers.
struct Busy {
    /// The busiest one.
    most: f64,
    /// All together.
    all: f64,
    queued: bool,
}

impl Busy {
    fn new(ours: &Ours<'_>) -> Busy {
        let most = ours.busy.iter().copied().fold(0.0, f64::max);
        Busy { most, all: ours.busy.iter().sum(), queued: ours.queued }
    }

    fn is_room(&self) -> bool {
        !self.queued && self.most < BUSY_FROM
    }

    fn text(&self) -> String {
        let queued = if self.queued { ", and records are queued" } else { "" };
        format!("the busiest worker is at work {} of the time{queued}", percent(self.most))
    }
}

/// Backends, on average over the window, by what they did.
#[derive(Default)]
struct At {
    idle: f64,
    client: f64,
    /// All that PostgreSQL does or waits for.
    server: f64,
    lock: f64,
    commit: f64,
    cpu: f64,
    io: f64,
}

impl At {
    fn new(seen: Option<&Snapshot>) -> At {
        let of = |class| {
            let all = seen.map(|seen| &seen.at[..]).unwrap_or_default();
            all.iter().find(|(of, _)| *of == class).map_or(0.0, |(_, backends)| *backends)
        };
        let (lock, commit, cpu, io) = (of(Class::Lock), of(Class::Commit), of(Class::Cpu), of(Class::Io));
        // A slow lane's tries come and go between two samples; what it waits for holds up no worker.
        let idle = of(Class::Idle) + of(Class::Parked);
        let server = lock + commit + cpu + io + of(Class::Other);
        At { idle, client: of(Class::Client), server, lock, commit, cpu, io }
    }

    /// What most of PostgreSQL's time goes into, where that is enough of it.
    fn dominant(&self) -> Option<(Kind, Class, f64)> {
        let all = [
            (Kind::CommitBound, Class::Commit, self.commit),
            (Kind::CpuBound, Class::Cpu, self.cpu),
            (Kind::IoBound, Class::Io, self.io),
            (Kind::LockBound, Class::Lock, self.lock),
        ];
        let most = all.into_iter().max_by(|a, b| a.2.total_cmp(&b.2));
        most.map(|(kind, class, backends)| (kind, class, backends / self.server)).filter(|most| most.2 >= DOMINANT_FROM)
    }
}

impl Wait {
    fn name(&self) -> String {
        if self.event.is_empty() { self.kind.clone() } else { format!("{}:{}", self.kind, self.event) }
    }
}

fn waiting_for_us(at: &At, busy: &Busy, at_work: f64) -> String {
    if at_work < NOTHING {
        return "records are queued, and no worker is at work: our backends have nothing to do".to_owned();
    }
    let waits = percent(1.0 - at.server / at_work);
    match at.client >= at.server && at.client > SEEN_FROM {
        true => format!(
            "{waits} of the workers' time at work {LAST} PostgreSQL waited for our next statement, within transactions \
             (Client:ClientRead); {}",
            busy.text()
        ),
        false => format!(
            "{waits} of the workers' time at work {LAST} their backends had nothing to do: the time goes into decoding, the network, \
             or this machine; {}",
            busy.text()
        ),
    }
}

/// Who, in which state, for how long, and whom.
fn holds_up(blocker: &Blocker) -> String {
    let who = match blocker.session.pid {
        PREPARED => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
        pid => format!("pid {pid}{}", looks(&blocker.session)),
    };
    let relation = blocker.relation.as_ref().map(|name| format!(" at {name}")).unwrap_or_default();
    let (named, more) = blocker.blocks.split_at(blocker.blocks.len().min(NAMED_MAX));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{who} holds up {}{more}{relation}, for {}", named.join(", "), duration(blocker.blocked_for))
}

/// As far as it may be seen.
fn looks(session: &Session) -> String {
    let application = session.application.clone().filter(|name| !name.is_empty());
    let state = session.state.as_ref().map(|state| match session.transaction_age {
        Some(age) => format!("{state}, its transaction {} old", duration(age)),
        None => state.clone(),
    });
    let looks: Vec<String> = application.into_iter().chain(state).collect();
    if looks.is_empty() { String::new() } else { format!(" ({})", looks.join(", ")) }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).clamp(0.0, 100.0))
}

fn duration(of: Duration) -> String {
    match of.as_secs() {
        0 => format!("{} ms", of.as_millis()),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
