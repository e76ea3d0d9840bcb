//! The payloads for Kafka Connect: its JSON converter has no type for "any JSON", so `tags` is a string that holds it, as Debezium's
//! own sources write it. The rows are the same.

use super::Outcome;
use super::arguments::Arguments;
use super::producer::{child_as, payload_sent};

/// A payload of the reference job with `tags` as a string.
pub fn with_text_tags(payload: &str) -> String {
    const TAGS: &str = "\"tags\":";
    let begin = payload.find(TAGS).expect("payloads have tags") + TAGS.len();
    let end = begin + payload[begin..].find('}').expect("tags are an object without objects") + 1;
    let tags = payload[begin..end].replace('"', "\\\"");
    format!("{}\"{tags}\"{}", &payload[..begin], &payload[end..])
}

/// The producer of steady traffic, with such payloads.
pub fn producer_child(a: &Arguments) -> Outcome<()> {
    child_as(a, |n, sent_us| with_text_tags(&payload_sent(n, a, sent_us)))
}
