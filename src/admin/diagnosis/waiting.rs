//! Why the writes that are late are: once for each shard, and once for what no shard explains.

use super::sentence::{behind, blocks, name_of, reason_of, record, sentence, some_of, word};
use super::{
    BLOCKED_MS, Culprit, Found, HANGS_MS, LATE_MS, LOCKED_MS, STANDS_PER_S, Severity, WAITS_MS, is_taken_over, moving,
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

    fn is_late(&self) -> bool {
        self.partition.unparked_lag_ms >= LATE_MS
    }

    /// Kafka hands out nothing of it, although it could: something that is not fetched is as old as that.
    fn is_withheld(&self) -> bool {
        self.place() == "unfetched" && !self.partition.paused && !is_taken_over(self.partition)
    }
}

impl Found {
    pub(super) fn waiting(&mut self, status: &Status) {
        let waits = moving(status).filter(|partition| partition.unparked_lag_ms >= WAITS_MS);
        let mut waits: Vec<Late<'_>> =
            waits.map(|partition| Late { partition, frontier: oldest_unparked(partition) }).collect();
        waits.sort_by_key(|late| std::cmp::Reverse(late.partition.unparked_lag_ms));
        let late = &waits[..waits.partition_point(Late::is_late)];
        let mut explained: Vec<&str> = Vec::new();
        for shard in &status.shards {
            let of_it = |late: &&Late<'_>| late.shard() == Some(&shard.name);
            // Of one that is away, or was not reached, that was said.
            let is_up = shard.state == "up";
            let locked = is_up && self.locked(shard, waits.iter().find(of_it).copied());
            if !is_up || self.shard_waits(shard, late.iter().find(of_it).copied(), locked) {
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
            self.elsewhere(status, oldest, late);
        }
    }

    /// Whether it was said that somebody holds a lock which the shard's writes wait for. `oldest` waits, and need not be late: who
    /// holds it up is known before.
    fn locked(&mut self, shard: &Shard, oldest: Option<Late<'_>>) -> bool {
        let writes = oldest.filter(|late| late.place() != "uncommitted");
        let blocker = shard.contention.as_ref().and_then(|contention| contention.blockers.first());
        let Some(blocker) = blocker.filter(|blocker| match &writes {
            Some(late) => late.is_late() || blocker.blocked_for_ms >= WAITS_MS,
            None => blocker.blocked_for_ms >= BLOCKED_MS,
        }) else {
            return false;
        };
        let long = blocker.blocked_for_ms >= LOCKED_MS || blocker.transaction_age_ms.unwrap_or(0) >= LOCKED_MS;
        let severity = if long { Severity::Bad } else { Severity::Warn };
        let which = writes.and_then(|late| Some(behind(late.partition, late.frontier?, blocker.pid)));
        let name = harmless(&shard.name);
        let text = format!("Shard {name} is lock-bound: {}{}.", blocks(blocker), which.unwrap_or_default());
        self.say(severity, Culprit::Database(&shard.name), text);
        true
    }

    /// Whether it was said why the shard's writes wait; `locked`: that somebody holds a lock was.
    fn shard_waits(&mut self, shard: &Shard, oldest: Option<Late<'_>>, locked: bool) -> bool {
        let name = harmless(&shard.name);
        let database = Culprit::Database(&shard.name);
        let Some(late) = oldest else { return locked };
        let Some(frontier) = late.frontier else { return locked };
        if late.place() == "uncommitted" {
            self.say(Severity::Warn, database, unacknowledged(shard, late));
            return true;
        }
        if locked {
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
    fn elsewhere(&mut self, status: &Status, late: &Late<'_>, all: &[Late<'_>]) {
        let totals = &status.totals;
        let (since, place) = (late.since(), name_of(late.partition));
        let moves = totals.durable_per_s >= STANDS_PER_S;
        let (culprit, text) = if is_taken_over(late.partition) {
            (Culprit::Nobody, format!("{place} is being taken over, and {since} behind meanwhile."))
        } else if late.place() == "uncommitted" {
            let text =
                format!("Kafka has not taken the commit of what is durable of {place}; the oldest is {since} old.");
            (Culprit::Kafka, text)
        } else if late.is_withheld() {
            (Culprit::Kafka, withheld(all, totals.fetched_per_s >= STANDS_PER_S))
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

/// What Kafka does not hand out, the oldest first; `others`: it does hand out other partitions.
fn withheld(late: &[Late<'_>], others: bool) -> String {
    let withheld: Vec<&Late<'_>> = late.iter().filter(|late| late.is_withheld()).collect();
    let names: Vec<String> = withheld.iter().map(|late| name_of(late.partition)).collect();
    let lags = withheld.iter().map(|late| late.partition.message_lag);
    let left = lags.sum::<Option<u64>>().map_or_else(|| "records".to_owned(), |lag| counted(lag, "record"));
    let since = withheld.first().map(|late| late.since()).unwrap_or_default();
    let why = match others {
        true => ", while it does of others: a producer's open transaction may hold this back",
        false => "",
    };
    format!("Kafka hands out nothing of {}, where {left} wait, the oldest for {since}{why}.", some_of(&names))
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
