//! What is held and parked, and what became of a hold, looks like: to programs as JSON, to people as a line.

use std::time::Duration;

use serde_json::{Value, json};

use super::list::{Key, Parked};
use super::{Held, Hold, Scope, Unheld};
use crate::letters::told::{shown, value};
use crate::state::parked::Why;
use crate::words::counted;

/// What a hold is of.
pub fn name(hold: &Hold) -> String {
    format!("{} {} of {}", scope(hold), shown(&hold.value), hold.topic)
}

fn scope(hold: &Hold) -> &'static str {
    match hold.scope {
        Scope::Key => "key",
        Scope::Tenant => "tenant",
    }
}

/// What is true of it now; `within`: how soon running processes see it.
pub fn held(held: &Held, within: Duration) -> String {
    match held.before {
        false => format!("is held; running processes park its records within {} s", within.as_secs_f64()),
        true => "was held already".to_owned(),
    }
}

pub fn unheld(unheld: &Unheld) -> String {
    let mut text = (if unheld.before { "is held no longer" } else { "was not held" }).to_owned();
    text.push_str(&match unheld.records {
        0 => "; nothing of it is parked".to_owned(),
        records => format!(
            "; {} of {} {} parked still: the slow lane of a running process applies them now, in order, as far as no other hold keeps them",
            counted(records.unsigned_abs(), "record"),
            counted(unheld.keys.unsigned_abs(), "key"),
            if records == 1 { "is" } else { "are" }
        ),
    });
    if unheld.dead > 0 {
        let keys = counted(unheld.dead.unsigned_abs(), "key");
        text.push_str(&format!(", but {keys} behind a dead letter (forebay dead-letters list)"));
    }
    if unheld.others > 0 {
        text.push_str(&format!("; {} of the topic left", counted(unheld.others.unsigned_abs(), "hold")));
    }
    text
}

/// For the answers of all shards: a topic that none of them knows is held nowhere.
pub fn unknown(group: &str, hold: &Hold) -> String {
    format!(
        "no shard that was asked knows topic {:?} of group {group:?}: a topic can be held once `forebay run` has taken it over",
        hold.topic
    )
}

/// For one shard's answer; none: it does not know the topic.
pub fn answer<T>(shard: &str, hold: &Hold, answer: Option<&T>, what: impl Fn(&T) -> String) -> String {
    match answer {
        Some(answer) => format!("shard {shard}: {} {}", name(hold), what(answer)),
        None => format!("shard {shard}: knows nothing of topic {:?}; nothing is held there", hold.topic),
    }
}

/// Of three kinds: holds, keys, and how many there are in all.
pub fn objects(shard: &str, parked: &Parked) -> Vec<Value> {
    let hold = |(hold, since): &(Hold, String)| {
        json!({
            "kind": "hold",
            "shard": shard,
            "topic": hold.topic,
            "scope": scope(hold),
            "value": value(&hold.value),
            "since": since,
        })
    };
    let mut objects: Vec<Value> = parked.holds.iter().map(hold).collect();
    objects.extend(parked.keys.iter().map(|key| object(shard, key)));
    if !objects.is_empty() {
        objects.push(json!({
            "kind": "total",
            "shard": shard,
            "holds": parked.holds_all,
            "keys": parked.keys_all,
            "records": parked.rows_all,
        }));
    }
    objects
}

fn object(shard: &str, key: &Key) -> Value {
    json!({
        "kind": "key",
        "shard": shard,
        "topic": key.topic,
        "partition": key.partition,
        "key": key.key.as_deref().map(value),
        "records": key.rows,
        "offset": key.offset,
        "age_s": key.age.as_secs(),
        "reason": match key.why {
            Why::Blocked => "blocked",
            Why::Record => "record",
            Why::Held => "held",
            Why::Hot => "hot",
            Why::Paced => "pace",
        },
        "held": key.held,
        "dead_letter": key.dead,
        "attempts": key.attempts,
        "sqlstate": key.sqlstate,
        "error": key.error,
    })
}
