//! Why the writes that are late are: once for each shard, and once for what no shard explains.

use super::sentence::{behind, blocks, name_of, reason_of, record, sentence, word};
use super::{
    BLOCKED_MS, Culprit, Found, HANGS_MS, LATE_MS, LOCKED_MS, STANDS_PER_S, Severity, is_taken_over, moving,
    oldest_unparked,
};
use crate::admin::status::{Frontier, Partition, Shard, Status};
use crate::words::{age, counted, harmless, rate};

/// A partition that is late, and its oldest record.
#[derive(Clone, Copy)]
struct Late<'a> {
    partition: &'a Partition,
    frontier: Option<&'a Frontier>,
}

impl Late<'_> {
    fn shard(&self) -> Option<&str> {
        self.frontier?.shard.as_deref()
    }

    fn place(&self) -> &str {
        self.frontier.map_or("", |frontier| frontier.place.as_str())
    }

    fn since(&self) -> String {
        age(self.partition.unparked_lag_ms)
    }
}

impl Found {
    pub(super) fn waiting(&mut self, status: &Status) {
        let late = moving(status).filter(|partition| partition.unparked_lag_ms >= LATE_MS);
        let mut late: Vec<Late<'_>> =
            late.map(|partition| Late { partition, frontier: oldest_unparked(partition) }).collect();
        late.sort_by_key(|late| std::cmp::Reverse(late.partition.unparked_lag_ms));
        let mut explained: Vec<&str> = Vec::new();
        for shard in &status.shards {
            let oldest = late.iter().find(|late| late.shard() == Some(&shard.name)).copied();
            // Of one that is away, or was not reached, that was said.
            if shard.state != "up" || self.shard_waits(shard, oldest) {
                explained.push(&shard.name);
            } else {
                self.paced(shard);
            }
        }
        // What a poller that hangs, or one that drains, leaves undone was said.
        if status.process.poll_age_ms >= HANGS_MS || status.process.leaving {
            return;
        }
        let any_away = status.shards.iter().any(|shard| shard.state != "up");
        let is_explained = |late: &&Late<'_>| match late.shard() {
            Some(shard) => explained.contains(&shard),
            // It is taken over once all its shards have answered.
            None => any_away && is_taken_over(late.partition),
        };
        if let Some(oldest) = late.iter().find(|late| !is_explained(late)) {
            self.elsewhere(status, oldest);
        }
    }

    /// Whether it was said why the shard's writes wait.
    fn shard_waits(&mut self, shard: &Shard, oldest: Option<Late<'_>>) -> bool {
        let name = harmless(&shard.name);
        let database = Culprit::Database(&shard.name);
        let writes = oldest.filter(|late| late.place() != "uncommitted");
        let blocker = shard.contention.as_ref().and_then(|contention| contention.blockers.first());
        let blocker = blocker.filter(|blocker| writes.is_some() || blocker.blocked_for_ms >= BLOCKED_MS);
        if let Some(blocker) = blocker {
            let long = blocker.blocked_for_ms >= LOCKED_MS || blocker.transaction_age_ms.unwrap_or(0) >= LOCKED_MS;
            let severity = if long { Severity::Bad } else { Severity::Warn };
            let which = writes.and_then(|late| Some(behind(late.partition, late.frontier?, blocker.pid)));
            let text = format!("Shard {name} is lock-bound: {}{}.", blocks(blocker), which.unwrap_or_default());
            self.say(severity, database, text);
        }
        let Some(late) = oldest else { return blocker.is_some() };
        let Some(frontier) = late.frontier else { return blocker.is_some() };
        if late.place() == "uncommitted" {
            self.say(Severity::Warn, database, unacknowledged(shard, late));
            return true;
        }
        if blocker.is_some() {
            return true;
        }
        if let Some(last) = &frontier.last {
            let tries = frontier.attempt.map(|n| format!(", try {n}")).unwrap_or_default();
            let what = record(late.partition, frontier);
            let text = format!("Shard {name} fails to take {what}{tries}{}", reason_of(Some(last)));
            self.say(Severity::Warn, database, text);
            return true;
        }
        let (since, text) = (late.since(), sentence(&shard.verdict.text));
        match shard.verdict.kind.as_str() {
            kind @ ("lock_bound" | "commit_bound" | "io_bound" | "cpu_bound") => {
                let word = word(kind);
                self.say(
                    Severity::Warn,
                    database,
                    format!("Shard {name} is {word}, and its writes are {since} late: {text}"),
                );
            }
            "paced" => {
                let by = limits(shard).map_or(text, |limits| format!("{limits}."));
                let text = format!("Shard {name} is held back on purpose, and its writes are {since} late: {by}");
                self.say(Severity::Warn, Culprit::Purpose, text);
            }
            _ => return false,
        }
        true
    }

    /// That nothing is late for it does not mean that nobody wants to know.
    fn paced(&mut self, shard: &Shard) {
        if let Some(limits) = limits(shard) {
            let text = format!("Shard {} is held back on purpose: {limits}.", harmless(&shard.name));
            self.say(Severity::Note, Culprit::Purpose, text);
        }
    }

    /// Why a partition is late where no shard is to blame.
    fn elsewhere(&mut self, status: &Status, late: &Late<'_>) {
        let totals = &status.totals;
        let (since, place) = (late.since(), name_of(late.partition));
        let moves = totals.durable_per_s >= STANDS_PER_S;
        let left = late.partition.message_lag.map(|lag| counted(lag, "record"));
        let (culprit, text) = if is_taken_over(late.partition) {
            (Culprit::Nobody, format!("{place} is being taken over, and {since} behind meanwhile."))
        } else if late.place() == "uncommitted" {
            let text =
                format!("Kafka has not taken the commit of what is durable of {place}; the oldest is {since} old.");
            (Culprit::Kafka, text)
        } else if late.place() == "unfetched" && !late.partition.paused && totals.fetched_per_s < STANDS_PER_S {
            let left = left.unwrap_or_else(|| "records".to_owned());
            let text = format!("Kafka hands out nothing of {place}, where {left} wait, the oldest for {since}.");
            (Culprit::Kafka, text)
        } else if late.place() == "waiting" {
            (Culprit::Nobody, format!("{place} waits for its shard's takeover, for {since}."))
        } else {
            let left = totals.message_lag.map(|lag| format!(", {} to go", counted(lag, "record"))).unwrap_or_default();
            let text = match moves {
                true => format!("Catching up: {since} behind{left}, {}/s become durable.", rate(totals.durable_per_s)),
                false => format!("{place} is {since} behind{left}, and nothing becomes durable."),
            };
            // Where every shard waits for records, it is forebay, or what Kafka hands out, that sets the pace.
            let idle = |shard: &Shard| matches!(shard.verdict.kind.as_str(), "waiting_for_us" | "idle");
            let ours = moves && !status.shards.is_empty() && status.shards.iter().all(idle);
            (if ours { Culprit::Forebay } else { Culprit::Nobody }, text)
        };
        self.say(Severity::Warn, culprit, text);
    }
}

/// It is durable, and not stored as progress there: a replica that must have it lags, or the shard does not answer.
fn unacknowledged(shard: &Shard, late: Late<'_>) -> String {
    let (name, place, since) = (harmless(&shard.name), name_of(late.partition), late.since());
    let replica = shard.pace.replica_lag_ms.map(|lag| format!("; its replica lags by {}", age(lag)));
    let replica = replica.unwrap_or_default();
    format!(
        "Shard {name} has not acknowledged what is durable of {place}, for {since}{replica}: Kafka's commit waits for it."
    )
}

/// What holds a shard's workers back, in words.
fn limits(shard: &Shard) -> Option<String> {
    let limits: Vec<String> = shard.pace.active.iter().map(|limit| harmless(limit)).collect();
    (!limits.is_empty()).then(|| limits.join("; "))
}
