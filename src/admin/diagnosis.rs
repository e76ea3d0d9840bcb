//! What is wrong, in sentences, from a [`Status`] alone: whoever reads the first one knows whether writes are behind, and whether it is
//! Kafka, forebay, which database, a topic's data, or somebody's wish. It asks nobody, and knows no more than the status says. It is
//! decided here and nowhere else: whoever shows a status shows its findings.
//!
//! What is said first: causes before what follows from them, a whole database before one topic, and what needs a person before
//! what heals by itself. That something waits is said only where no cause is known. What is parked makes nobody late: it is said for
//! itself.

mod sentence;
mod waiting;

use super::status::{Finding, Frontier, Partition, Shard, Status, Topic, TopicState};
use crate::words::{age, counted, grouped, harmless};

pub use sentence::blocks;
use sentence::{name_of, reason_of, sentence, some_of};

/// Older than this, the oldest write that is not durable and committed, and not parked, is late: commits alone take a second.
pub const LATE_MS: u64 = 10_000;

/// From here on it is worth saying how old that write is, where nothing is wrong.
const WAITS_MS: u64 = 3_000;

/// A poller that has not turned for so long hangs; it turns ten times a second.
pub const HANGS_MS: u64 = 5_000;

/// A shard that nobody has reached for so long is in trouble.
const UNREACHED_MS: u64 = 10_000;

/// A lock that is waited for so long is said, whether or not any write waits for it.
const BLOCKED_MS: u64 = 10_000;

/// A lock that is held for so long is a person's business.
const LOCKED_MS: u64 = 30_000;

/// A shard that was not sampled for so long, although it was before, does not answer; at most it is eight seconds between two samples.
const UNSAMPLED_MS: i64 = 30_000;

/// Of a server's connections, in percent: what is left may not be enough for a restart.
const CONNECTIONS_PERCENT: u64 = 95;

/// Fewer records a second than that are none: something stands.
const STANDS_PER_S: f64 = 0.5;

/// Fewer than that, and nothing comes in.
const QUIET_PER_S: f64 = 0.05;

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

impl Severity {
    /// As [`Finding`] has it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Calm => "calm",
            Severity::Warn => "warn",
            Severity::Bad => "bad",
        }
    }

    /// What a later version says is at least worth knowing.
    pub fn of(finding: &Finding) -> Severity {
        let all = [Severity::Calm, Severity::Warn, Severity::Bad];
        all.into_iter().find(|severity| severity.name() == finding.severity).unwrap_or(Severity::Note)
    }
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Culprit<'a> {
    Nobody,
    Forebay,
    Kafka,
    /// A shard, by its name.
    Database(&'a str),
    /// Its data, or its table.
    Topic(&'a str),
    /// Somebody wanted it so.
    Purpose,
}

impl<'a> Culprit<'a> {
    /// As [`Finding`] has it.
    fn parts(self) -> (&'static str, Option<&'a str>) {
        match self {
            Culprit::Nobody => ("nobody", None),
            Culprit::Forebay => ("forebay", None),
            Culprit::Kafka => ("kafka", None),
            Culprit::Database(name) => ("database", Some(name)),
            Culprit::Topic(name) => ("topic", Some(name)),
            Culprit::Purpose => ("purpose", None),
        }
    }
}

/// Everything that is to be said, the most important first: never empty. Nothing in the texts does anything to a terminal
/// ([`harmless`]).
pub fn findings(status: &Status) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    found.process(status);
    found.shards(status);
    found.topics(status);
    found.waiting(status);
    found.assignment(status);
    found.set_aside(status);
    found.not_ready(status);
    found.calm(status);
    found.0.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    found.0.into_iter().map(|(_, finding)| finding).collect()
}

/// The worst of what a status says is wrong with a shard.
pub fn of_shard(status: &Status, shard: &str) -> Option<Severity> {
    let of_it = status.findings.iter().filter(|f| f.culprit == "database" && f.name.as_deref() == Some(shard));
    of_it.map(Severity::of).max()
}

/// The oldest record of a partition that is not parked: what its lag without the parked ones is about.
pub fn oldest_unparked(partition: &Partition) -> Option<&Frontier> {
    partition.frontier.as_ref().filter(|frontier| frontier.place != "parked").or(partition.unparked.as_ref())
}

/// Of what is not held up on purpose, stopped or parked: how old the oldest record is that is not durable and committed.
fn late_ms(status: &Status) -> u64 {
    moving(status).map(|partition| partition.unparked_lag_ms).max().unwrap_or(0)
}

fn moving(status: &Status) -> impl Iterator<Item = &Partition> {
    let running = |partition: &&Partition| {
        let topic = status.topics.iter().find(|topic| topic.name == partition.topic);
        topic.is_none_or(|topic| topic.state == TopicState::Running) && partition.state != "stopped"
    };
    status.partitions.iter().filter(running)
}

/// For how long a shard that was sampled has not been, where that is too long: nothing else may have asked it anything.
pub fn unsampled_ms(now_ms: i64, shard: &Shard) -> Option<u64> {
    let since = now_ms.saturating_sub(shard.contention.as_ref()?.sampled_at_ms);
    (since >= UNSAMPLED_MS).then_some(since as u64)
}

fn is_taken_over(partition: &Partition) -> bool {
    matches!(partition.state.as_str(), "locating" | "verifying" | "located")
}

struct Found(Vec<(Severity, Finding)>);

impl Found {
    fn say(&mut self, severity: Severity, culprit: Culprit<'_>, text: String) {
        let (culprit, name) = culprit.parts();
        let finding = Finding {
            severity: severity.name().to_owned(),
            culprit: culprit.to_owned(),
            name: name.map(str::to_owned),
            text,
        };
        self.0.push((severity, finding));
    }

    fn has(&self, least: Severity) -> bool {
        self.0.iter().any(|(severity, _)| *severity >= least)
    }

    fn process(&mut self, status: &Status) {
        let process = &status.process;
        if process.poll_age_ms >= HANGS_MS {
            let text = format!("forebay itself hangs: its poller has not turned for {}.", age(process.poll_age_ms));
            self.say(Severity::Bad, Culprit::Forebay, text);
        }
        if process.leaving {
            let left = counted(status.totals.in_flight_records, "record");
            self.say(Severity::Warn, Culprit::Purpose, format!("It was told to end, and drains: {left} in flight."));
        }
    }

    fn shards(&mut self, status: &Status) {
        for shard in &status.shards {
            let (name, since) = (harmless(&shard.name), age(shard.since_ms));
            let why = reason_of(shard.reason.as_ref());
            let (severity, text) = match shard.state.as_str() {
                "refused" => {
                    (Severity::Bad, format!("Shard {name} has refused us for {since} and needs a person{why}"))
                }
                "down" => (Severity::Bad, format!("Shard {name} has been down for {since}{why}")),
                "unknown" if shard.since_ms >= UNREACHED_MS => {
                    (Severity::Warn, format!("Shard {name} has not been reached for {since}{why}"))
                }
                _ => {
                    self.unsampled(status.process.now_ms, shard, &name);
                    self.connections(shard, &name);
                    continue;
                }
            };
            self.say(severity, Culprit::Database(&shard.name), text);
        }
    }

    /// With nothing to write nobody else notices that a database has ceased to answer.
    fn unsampled(&mut self, now_ms: i64, shard: &Shard, name: &str) {
        if let Some(since) = unsampled_ms(now_ms, shard) {
            let text = format!("Shard {name} has not said for {} what it does: it may not answer", age(since));
            self.say(Severity::Warn, Culprit::Database(&shard.name), text);
        }
    }

    fn connections(&mut self, shard: &Shard, name: &str) {
        let connections = &shard.connections;
        let (Some(max), Some(used)) = (connections.server_max, connections.server_used) else { return };
        if u64::from(used) * 100 >= u64::from(max) * CONNECTIONS_PERCENT {
            let left = counted(max.saturating_sub(used).into(), "connection");
            let text = format!("Shard {name} has {left} of {max} left.");
            self.say(Severity::Note, Culprit::Database(&shard.name), text);
        }
    }

    fn topics(&mut self, status: &Status) {
        for topic in &status.topics {
            let name = harmless(&topic.name);
            match topic.state {
                TopicState::Running => self.stopped_partitions(status, topic),
                TopicState::Stopped => {
                    let why = reason_of(topic.reason.as_ref());
                    let text = format!("Topic {name} has stopped and needs a person{why}");
                    self.say(Severity::Bad, Culprit::Topic(&topic.name), text);
                }
                TopicState::Paused => {
                    let text = format!("Topic {name} is paused: nothing of it is fetched{}.", waiting(topic));
                    self.say(Severity::Warn, Culprit::Purpose, text);
                    self.stopped_partitions(status, topic);
                }
            }
        }
    }

    /// Of a topic that goes on.
    fn stopped_partitions(&mut self, status: &Status, topic: &Topic) {
        let of_it = status.partitions.iter().filter(|p| p.topic == topic.name && p.state == "stopped");
        let names: Vec<String> = of_it.map(name_of).collect();
        if names.is_empty() {
            return;
        }
        let which = some_of(&names);
        let text = match names.len() {
            1 => format!("{which} has stopped and needs a person."),
            _ => format!("{which} have stopped and need a person."),
        };
        self.say(Severity::Bad, Culprit::Topic(&topic.name), text);
    }

    fn assignment(&mut self, status: &Status) {
        if status.partitions.is_empty() && !status.topics.is_empty() && !status.process.leaving {
            self.say(Severity::Note, Culprit::Kafka, "No partition is assigned to this process.".to_owned());
        }
        let open = status.partitions.iter().filter(|partition| is_taken_over(partition)).count();
        if open > 0 {
            let all = counted(status.partitions.len() as u64, "partition");
            self.say(Severity::Note, Culprit::Nobody, format!("{open} of {all} are being taken over."));
        }
    }

    /// What is parked or dead keeps nobody else.
    fn set_aside(&mut self, status: &Status) {
        let totals = &status.totals;
        if totals.parked_keys > 0 {
            let oldest = status.partitions.iter().filter_map(|partition| partition.parked_age_ms).max();
            let (keys, records) = (counted(totals.parked_keys, "key"), counted(totals.parked_records, "record"));
            let since = oldest.map(|ms| format!(", the oldest {} old", age(ms))).unwrap_or_default();
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
            // With nothing that becomes durable it is not known whether anything keeps up.
            _ if late >= WAITS_MS => {
                let keeps_up = if totals.durable_per_s >= STANDS_PER_S { "Keeping up: the" } else { "The" };
                format!("{keeps_up} oldest write waits for {}.", age(late))
            }
            Some(0) if totals.fetched_per_s < QUIET_PER_S => "Caught up, and nothing comes in.".to_owned(),
            None => "Nothing waits, as far as is known: no partition's log has been looked at yet.".to_owned(),
            Some(_) => "Caught up.".to_owned(),
        };
        self.say(Severity::Calm, Culprit::Nobody, text);
    }
}

fn waiting(topic: &Topic) -> String {
    match topic.message_lag {
        Some(0) | None => String::new(),
        Some(1) => "; 1 record waits".to_owned(),
        Some(lag) => format!("; {} records wait", grouped(lag)),
    }
}

#[cfg(test)]
mod tests;
