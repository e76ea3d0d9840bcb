//! What is wrong, in sentences, from a [`Status`] alone: whoever reads the first one knows whether writes are behind, and whether it is
//! Kafka, forebay, which database, a topic's data, or somebody's wish. It asks nobody, and knows no more than the status says.
//!
//! What is said first: causes before what follows from them, a whole database before one topic, and what needs a person before
//! what heals by itself. That something waits is said only where no cause is known.

use std::fmt;

use super::status::{Blocker, Frontier, Partition, Reason, Shard, Status, Topic, TopicState};
use super::words::{age, counted, grouped, harmless, rate};

/// Older than this, the oldest write that is not durable is late: commits alone take a second.
pub const LATE_MS: u64 = 10_000;

/// A poller that has not turned for so long hangs; it turns ten times a second.
const HANGS_MS: u64 = 5_000;

/// A shard that nobody has reached for so long is in trouble.
const UNREACHED_MS: u64 = 10_000;

/// A lock that is held for so long is a person's business.
const LOCKED_MS: u64 = 30_000;

/// Of a server's connections, in percent: what is left may not be enough for a restart.
const CONNECTIONS_PERCENT: u64 = 95;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// All is well.
    Calm,
    /// Writes wait, or will.
    Warn,
    /// It does not get better by itself.
    Bad,
}

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Culprit {
    Nobody,
    Forebay,
    Kafka,
    /// A shard, by its name.
    Database(String),
    /// Its data, or its table.
    Topic(String),
    /// Somebody wanted it so.
    OnPurpose,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Culprit::Nobody => f.write_str(""),
            Culprit::Forebay => f.write_str("forebay"),
            Culprit::Kafka => f.write_str("Kafka"),
            Culprit::Database(name) => write!(f, "database {}", harmless(name)),
            Culprit::Topic(name) => write!(f, "topic {}", harmless(name)),
            Culprit::OnPurpose => f.write_str("on purpose"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub culprit: Culprit,
    /// A sentence. Nothing in it does anything to a terminal ([`harmless`]).
    pub text: String,
}

/// Everything that is to be said, the most important first: never empty.
pub fn diagnosis(status: &Status) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    found.process(status);
    found.shards(status);
    found.topics(status);
    found.waiting(status);
    found.assignment(status);
    found.set_aside(status);
    found.not_ready(status);
    found.calm(status);
    found.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found.0
}

/// Of what is not held up on purpose, stopped or parked: how old the oldest record is that is not durable and committed.
pub fn late_ms(status: &Status) -> u64 {
    moving(status).map(|partition| partition.time_lag_ms).max().unwrap_or(0)
}

fn moving(status: &Status) -> impl Iterator<Item = &Partition> {
    let running = |partition: &&Partition| {
        let topic = status.topics.iter().find(|topic| topic.name == partition.topic);
        topic.is_none_or(|topic| topic.state == TopicState::Running) && partition.state != "stopped"
    };
    let parked =
        |partition: &&Partition| partition.frontier.as_ref().is_some_and(|frontier| frontier.place == "parked");
    status.partitions.iter().filter(running).filter(move |partition| !parked(partition))
}

struct Found(Vec<Finding>);

impl Found {
    fn say(&mut self, severity: Severity, culprit: Culprit, text: String) {
        self.0.push(Finding { severity, culprit, text });
    }

    fn has(&self, least: Severity) -> bool {
        self.0.iter().any(|finding| finding.severity >= least)
    }

    fn process(&mut self, status: &Status) {
        let process = &status.process;
        if process.poll_age_ms >= HANGS_MS {
            let since = age(process.poll_age_ms);
            self.say(Severity::Bad, Culprit::Forebay, format!("The poller has not turned for {since}: forebay hangs."));
        }
        if process.leaving {
            let left = counted(status.totals.in_flight_records, "record");
            self.say(Severity::Warn, Culprit::OnPurpose, format!("It was told to end, and drains: {left} in flight."));
        }
    }

    fn shards(&mut self, status: &Status) {
        for shard in &status.shards {
            let (name, since) = (harmless(&shard.name), age(shard.since_ms));
            let why = reason_of(shard.reason.as_ref());
            let database = Culprit::Database(shard.name.clone());
            match shard.state.as_str() {
                "refused" => self.say(Severity::Bad, database, format!("Shard {name} refuses, for {since}{why}")),
                "down" => self.say(Severity::Bad, database, format!("Shard {name} is down, for {since}{why}")),
                "unknown" if shard.since_ms >= UNREACHED_MS => {
                    self.say(
                        Severity::Warn,
                        database,
                        format!("Nobody has reached shard {name} yet, for {since}{why}"),
                    );
                }
                _ => self.connections(shard, &name),
            }
        }
    }

    fn connections(&mut self, shard: &Shard, name: &str) {
        let connections = &shard.connections;
        let (Some(max), Some(used)) = (connections.server_max, connections.server_used) else { return };
        if u64::from(used) * 100 >= u64::from(max) * CONNECTIONS_PERCENT {
            let left = counted(max.saturating_sub(used).into(), "connection");
            let text = format!("Shard {name} has {left} of {max} left.");
            self.say(Severity::Note, Culprit::Database(shard.name.clone()), text);
        }
    }

    fn topics(&mut self, status: &Status) {
        for topic in &status.topics {
            let name = harmless(&topic.name);
            match topic.state {
                TopicState::Running => {}
                TopicState::Stopped => {
                    let why = reason_of(topic.reason.as_ref());
                    self.say(Severity::Bad, Culprit::Topic(topic.name.clone()), format!("Topic {name} stopped{why}"));
                }
                TopicState::Paused => {
                    let text = format!("Topic {name} is paused{}.", waiting(topic));
                    self.say(Severity::Warn, Culprit::OnPurpose, text);
                }
            }
        }
    }

    /// Why the writes that wait do: once for each shard, and for Kafka.
    fn waiting(&mut self, status: &Status) {
        let mut late: Vec<&Partition> = moving(status).filter(|partition| partition.time_lag_ms >= LATE_MS).collect();
        late.sort_by_key(|partition| std::cmp::Reverse(partition.time_lag_ms));
        for shard in &status.shards {
            let of_it = |partition: &&&Partition| {
                partition.frontier.as_ref().is_some_and(|frontier| frontier.shard.as_deref() == Some(&shard.name))
            };
            let oldest = late.iter().find(of_it).copied();
            if shard.state == "up" {
                self.shard_waits(shard, oldest);
            }
        }
        // What is not fetched has no shard yet.
        let Some(oldest) = late.first() else { return };
        if self.has(Severity::Warn) {
            return;
        }
        let (severity, culprit, text) = elsewhere(status, oldest);
        self.say(severity, culprit, text);
    }

    fn shard_waits(&mut self, shard: &Shard, oldest: Option<&Partition>) {
        let name = harmless(&shard.name);
        let database = Culprit::Database(shard.name.clone());
        let blocker = shard.contention.as_ref().and_then(|contention| contention.blockers.first());
        let late = oldest.is_some();
        if let Some(blocker) = blocker.filter(|blocker| late || blocker.blocked_for_ms >= LATE_MS) {
            let long = blocker.blocked_for_ms >= LOCKED_MS || blocker.transaction_age_ms.unwrap_or(0) >= LOCKED_MS;
            let severity = if long { Severity::Bad } else { Severity::Warn };
            let which = oldest.map(|partition| behind(partition, blocker.pid)).unwrap_or_default();
            return self.say(severity, database, format!("Shard {name} is lock-bound: {}{which}.", blocks(blocker)));
        }
        let Some(oldest) = oldest else { return };
        let frontier = oldest.frontier.as_ref();
        let failed = frontier.and_then(|f| f.last.as_ref().map(|last| (f, last)));
        if let Some((frontier, last)) = failed {
            let tries = frontier.attempt.map(|n| format!(", try {n}")).unwrap_or_default();
            let text =
                format!("Shard {name} fails to take {}{tries}{}", record(oldest, frontier), reason_of(Some(last)));
            return self.say(Severity::Warn, database, text);
        }
        let (word, text) = (word(&shard.verdict.kind), sentence(&shard.verdict.text));
        match shard.verdict.kind.as_str() {
            "lock_bound" | "commit_bound" | "io_bound" | "cpu_bound" => {
                self.say(Severity::Warn, database, format!("Shard {name} is {word}: {text}"));
            }
            "paced" => {
                let limits: Vec<String> = shard.pace.active.iter().map(|limit| harmless(limit)).collect();
                let by = if limits.is_empty() { text } else { format!("{}.", limits.join("; ")) };
                self.say(Severity::Warn, Culprit::OnPurpose, format!("Shard {name} is held back on purpose: {by}"));
            }
            _ => {}
        }
    }

    fn assignment(&mut self, status: &Status) {
        if status.partitions.is_empty() && !status.topics.is_empty() && !status.process.leaving {
            self.say(Severity::Note, Culprit::Kafka, "No partition is assigned to this process.".to_owned());
        }
        let taken_over =
            |partition: &&Partition| matches!(partition.state.as_str(), "locating" | "verifying" | "located");
        let (open, all) = (status.partitions.iter().filter(taken_over).count(), status.partitions.len());
        if open > 0 {
            let text = format!("{open} of {} are being taken over.", counted(all as u64, "partition"));
            self.say(Severity::Note, Culprit::Nobody, text);
        }
    }

    /// What is parked or dead keeps nobody else.
    fn set_aside(&mut self, status: &Status) {
        let totals = &status.totals;
        if totals.parked_keys > 0 {
            let frontiers = status.partitions.iter().filter_map(|partition| partition.frontier.as_ref());
            let oldest = frontiers.filter(|frontier| frontier.place == "parked").map(|frontier| frontier.age_ms).max();
            let (keys, records) = (counted(totals.parked_keys, "key"), counted(totals.parked_records, "record"));
            let since = oldest.map(|ms| format!(", the oldest for {}", age(ms))).unwrap_or_default();
            let verb = if totals.parked_keys == 1 { "is" } else { "are" };
            self.say(Severity::Note, Culprit::Nobody, format!("{keys} {verb} parked, with {records}{since}."));
        }
        if totals.dead_letters > 0 {
            let letters = counted(totals.dead_letters, "dead letter");
            self.say(Severity::Note, Culprit::Nobody, format!("{letters} since the start."));
        }
    }

    /// Its reasons are texts; most follow from what was said already.
    fn not_ready(&mut self, status: &Status) {
        let (least, severity) = match status.ready.ready {
            true => (Severity::Warn, Severity::Warn),
            false => (Severity::Bad, Severity::Bad),
        };
        if self.has(least) {
            return;
        }
        let word = if status.ready.ready { "" } else { "Not ready: " };
        for reason in &status.ready.reasons {
            self.say(severity, Culprit::Nobody, format!("{word}{}", sentence(reason)));
        }
        if !status.ready.ready && status.ready.reasons.is_empty() {
            self.say(severity, Culprit::Nobody, "Not ready, and it does not say why.".to_owned());
        }
    }

    fn calm(&mut self, status: &Status) {
        if self.has(Severity::Warn) {
            return;
        }
        let (totals, late) = (&status.totals, late_ms(status));
        let text = match totals.message_lag {
            _ if late >= 3_000 => format!("Keeping up: the oldest write waits for {}.", age(late)),
            Some(0) if totals.fetched_per_s < 0.05 => "Caught up, and nothing comes in.".to_owned(),
            None => "Nothing waits, as far as is known: no partition's log has been looked at yet.".to_owned(),
            Some(_) => "Caught up.".to_owned(),
        };
        self.say(Severity::Calm, Culprit::Nobody, text);
    }
}

/// Why a partition is late where no shard is to blame.
fn elsewhere(status: &Status, oldest: &Partition) -> (Severity, Culprit, String) {
    let totals = &status.totals;
    let since = age(oldest.time_lag_ms);
    let place = format!("{} [{}]", harmless(&oldest.topic), oldest.partition);
    let at_place = oldest.frontier.as_ref().map_or("", |frontier| frontier.place.as_str());
    let moves = totals.durable_per_s >= 0.5;
    if at_place == "uncommitted" && !moves && oldest.durable == oldest.fetched {
        let text = format!(
            "Everything of {place} is durable, but Kafka has not taken the commit; the oldest write is {since} old."
        );
        return (Severity::Warn, Culprit::Kafka, text);
    }
    if at_place == "unfetched" && !oldest.paused && totals.fetched_per_s < 0.5 {
        let left = oldest.message_lag.map(|lag| counted(lag, "record")).unwrap_or_else(|| "records".to_owned());
        let text = format!("Kafka hands out nothing of {place}, where {left} wait, the oldest for {since}.");
        return (Severity::Warn, Culprit::Kafka, text);
    }
    if at_place == "waiting" {
        return (Severity::Warn, Culprit::Nobody, format!("{place} waits for its shard's takeover, for {since}."));
    }
    let left = totals.message_lag.map(|lag| format!(", {} to go", counted(lag, "record"))).unwrap_or_default();
    match moves {
        true => {
            let text = format!("Catching up: {since} behind{left}, {}/s become durable.", rate(totals.durable_per_s));
            // Where every shard waits for records, it is forebay, or what Kafka hands out, that sets the pace.
            let idle = |shard: &Shard| matches!(shard.verdict.kind.as_str(), "waiting_for_us" | "idle");
            let ours = !status.shards.is_empty() && status.shards.iter().all(idle);
            (Severity::Warn, if ours { Culprit::Forebay } else { Culprit::Nobody }, text)
        }
        false => {
            (Severity::Warn, Culprit::Nobody, format!("{place} is {since} behind{left}, and nothing becomes durable."))
        }
    }
}

/// "pid 4711 (psql, idle in transaction for 34 s) holds up fb-w1.0".
pub fn blocks(blocker: &Blocker) -> String {
    let mut about: Vec<String> = Vec::new();
    if blocker.ours {
        about.push("forebay's own".to_owned());
    }
    about.extend(blocker.application.as_deref().filter(|name| !name.is_empty()).map(harmless));
    about.extend(blocker.user.as_deref().map(|user| format!("user {}", harmless(user))));
    let since = blocker.transaction_age_ms.map(|ms| format!(" for {}", age(ms))).unwrap_or_default();
    about.extend(blocker.state.as_deref().map(|state| format!("{}{since}", harmless(state))));
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    let threads: Vec<String> = blocker.blocks.iter().map(|thread| harmless(thread)).collect();
    let whom = if threads.is_empty() { "our writes".to_owned() } else { threads.join(", ") };
    let table = blocker.relation.as_deref().map(|relation| format!(" on {}", harmless(relation))).unwrap_or_default();
    format!("pid {}{about} holds up {whom}{table}", blocker.pid)
}

/// Which record waits behind a session, where the status says so.
fn behind(partition: &Partition, pid: i32) -> String {
    let frontier = partition.frontier.as_ref().filter(|frontier| frontier.blocked_by.contains(&pid));
    frontier.map(|frontier| format!(", and with it {}", record(partition, frontier))).unwrap_or_default()
}

/// "key a1:s7 of updates [3], for 4 min 12 s".
fn record(partition: &Partition, frontier: &Frontier) -> String {
    let place = format!("{} [{}]", harmless(&partition.topic), partition.partition);
    let since = age(frontier.age_ms);
    match &frontier.key {
        Some(key) => format!("key {} of {place}, for {since}", harmless(key)),
        None => format!("offset {} of {place}, for {since}", frontier.offset),
    }
}

fn waiting(topic: &Topic) -> String {
    match topic.message_lag {
        Some(0) | None => String::new(),
        Some(1) => "; 1 record waits".to_owned(),
        Some(lag) => format!("; {} records wait", grouped(lag)),
    }
}

/// ": what PostgreSQL said (its code)." or only the end of the sentence.
fn reason_of(reason: Option<&Reason>) -> String {
    let Some(reason) = reason else { return ".".to_owned() };
    let text = harmless(reason.text.trim_end().trim_end_matches('.'));
    let code = reason.sqlstate.as_deref().map(|code| format!(" (SQLSTATE {})", harmless(code))).unwrap_or_default();
    format!(": {text}{code}.")
}

fn sentence(text: &str) -> String {
    format!("{}.", harmless(text.trim_end().trim_end_matches('.')))
}

fn word(kind: &str) -> String {
    harmless(&kind.replace('_', "-"))
}

#[cfg(test)]
mod tests;
