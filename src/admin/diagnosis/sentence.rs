//! Parts of sentences: who, which record, and what PostgreSQL said.

use crate::admin::status::{Blocker, Frontier, Partition, Reason};
use crate::words::{age, harmless, listed};

/// So many partitions are named where more are meant.
const NAMED_MAX: usize = 3;

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

/// ", and with it key a1:s7 of updates [3], for 4 min 12 s": which record waits behind a session, where the status says so; else
/// only how late its partition is.
pub fn behind(partition: &Partition, frontier: &Frontier, pid: i32) -> String {
    match frontier.blocked_by.contains(&pid) {
        true => format!(", and with it {}", record(partition, frontier)),
        false => format!("; its writes are {} late", age(partition.unparked_lag_ms)),
    }
}

/// "key a1:s7 of updates [3], for 4 min 12 s".
pub fn record(partition: &Partition, frontier: &Frontier) -> String {
    let (place, since) = (name_of(partition), age(frontier.age_ms));
    match &frontier.key {
        Some(key) => format!("key {} of {place}, for {since}", harmless(key)),
        None => format!("offset {} of {place}, for {since}", frontier.offset),
    }
}

pub fn name_of(partition: &Partition) -> String {
    format!("{} [{}]", harmless(&partition.topic), partition.partition)
}

/// All of them, or the first ones and how many more.
pub fn some_of(names: &[String]) -> String {
    match names.len().checked_sub(NAMED_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", names[..NAMED_MAX].join(", ")),
        Some(0) | None => listed(names),
    }
}

/// ": what PostgreSQL said (its code)." or only the end of the sentence.
pub fn reason_of(reason: Option<&Reason>) -> String {
    let Some(reason) = reason else { return ".".to_owned() };
    let text = harmless(reason.text.trim_end().trim_end_matches('.'));
    let code = reason.sqlstate.as_deref().map(|code| format!(" (SQLSTATE {})", harmless(code))).unwrap_or_default();
    format!(": {text}{code}.")
}

pub fn sentence(text: &str) -> String {
    format!("{}.", harmless(text.trim_end().trim_end_matches('.')))
}

pub fn word(kind: &str) -> String {
    harmless(&kind.replace('_', "-"))
}
