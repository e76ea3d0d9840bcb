//! What is published of a dead letter: the record as it came, and behind its own headers those that say why it is one.
//!
//! Names and encodings (UTF-8, numbers in decimal) of `__connect.errors.…` are those of Kafka Connect's `DeadLetterQueueReporter`
//! (<https://github.com/apache/kafka/blob/trunk/connect/runtime/src/main/java/org/apache/kafka/connect/runtime/errors/DeadLetterQueueReporter.java>),
//! as far as forebay has what they mean: it has no tasks, stages and stack traces. Connect leaves out a header whose name the
//! record has already (it went through a dead-letter topic before); here both are there, and the last one, which is what readers
//! take, is forebay's.

use std::borrow::Cow;

use crate::forward::Letter;
use crate::state::chunk::Headers;

pub const TOPIC: &str = "__connect.errors.topic";
pub const PARTITION: &str = "__connect.errors.partition";
pub const OFFSET: &str = "__connect.errors.offset";
/// The consumer group.
pub const CONNECTOR_NAME: &str = "__connect.errors.connector.name";
/// Always [`BAD_RECORD`].
pub const EXCEPTION_CLASS: &str = "__connect.errors.exception.class.name";
pub const EXCEPTION_MESSAGE: &str = "__connect.errors.exception.message";
/// `shard/source/partition/offset`: the same each time this letter is sent, and no other letter's. `source` is the topic's number
/// in `forebay.source`, another one after the topic was recreated and the fences reset.
pub const ID: &str = "forebay.dead_letter.id";
/// When the record became a dead letter: UTC, ISO 8601.
pub const AT: &str = "forebay.dead_letter.at";
/// Only where PostgreSQL saw the record.
pub const SQLSTATE: &str = "forebay.dead_letter.sqlstate";

/// The type in this program that says what [`EXCEPTION_CLASS`] says elsewhere.
pub const BAD_RECORD: &str = "forebay::sink::BadRecord";

/// Whose letters they are.
#[derive(Debug, Clone)]
pub struct Of {
    pub shard: String,
    pub group: String,
}

/// A record to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub timestamp_ms: Option<i64>,
    /// In this order; names may repeat.
    pub headers: Vec<(&'a str, Option<Cow<'a, [u8]>>)>,
}

impl<'a> Message<'a> {
    pub fn new(of: &'a Of, letter: &'a Letter) -> Message<'a> {
        let own = Headers(&letter.headers).iter().map(|(name, value)| (name, value.map(Cow::Borrowed)));
        let id = format!("{}/{}/{}/{}", of.shard, letter.source, letter.partition, letter.offset);
        let text = |name, value: &'a str| (name, Some(Cow::Borrowed(value.as_bytes())));
        let made = |name, value: String| (name, Some(Cow::Owned(value.into_bytes())));
        let ours = [
            text(TOPIC, &letter.topic),
            made(PARTITION, letter.partition.to_string()),
            made(OFFSET, letter.offset.to_string()),
            text(CONNECTOR_NAME, &of.group),
            text(EXCEPTION_CLASS, BAD_RECORD),
            text(EXCEPTION_MESSAGE, &letter.error),
            made(ID, id),
            text(AT, &letter.at),
        ];
        let code = letter.sqlstate.as_deref().map(|code| text(SQLSTATE, code));
        Message {
            key: letter.key.as_deref(),
            value: letter.payload.as_deref(),
            timestamp_ms: letter.timestamp_ms,
            headers: own.chain(ours).chain(code).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each header as `name=value`, `name` alone for null.
    fn shown(message: &Message<'_>) -> Vec<String> {
        let value = |value: &[u8]| format!("={}", value.escape_ascii());
        message.headers.iter().map(|(n, v)| format!("{n}{}", v.as_deref().map(value).unwrap_or_default())).collect()
    }

    #[test]
    fn a_letter_keeps_its_record_and_says_why_behind_it() {
        let mut headers = Vec::new();
        Headers::pack(&mut headers, "trace", Some(b"\0\xff"));
        Headers::pack(&mut headers, "null", None);
        Headers::pack(&mut headers, "empty", Some(b""));
        Headers::pack(&mut headers, "trace", Some(b"again"));
        Headers::pack(&mut headers, OFFSET, Some(b"of an earlier life"));
        let letter = Letter {
            id: 99,
            source: 7,
            topic: "orders".into(),
            partition: 3,
            offset: 41,
            at: "2026-11-26T11:00:00.000001Z".into(),
            timestamp_ms: Some(1_700_000_000_123),
            sqlstate: Some("23514".into()),
            error: "größer".into(),
            key: Some(Vec::new()),
            payload: None,
            headers,
        };
        let of = Of { shard: "eu/1".into(), group: "billing".into() };
        let message = Message::new(&of, &letter);
        assert_eq!((message.key, message.value, message.timestamp_ms), (Some(&b""[..]), None, Some(1_700_000_000_123)));
        let expected = [
            "trace=\\x00\\xff",
            "null",
            "empty=",
            "trace=again",
            "__connect.errors.offset=of an earlier life",
            "__connect.errors.topic=orders",
            "__connect.errors.partition=3",
            "__connect.errors.offset=41",
            "__connect.errors.connector.name=billing",
            "__connect.errors.exception.class.name=forebay::sink::BadRecord",
            "__connect.errors.exception.message=gr\\xc3\\xb6\\xc3\\x9fer",
            "forebay.dead_letter.id=eu/1/7/3/41",
            "forebay.dead_letter.at=2026-11-26T11:00:00.000001Z",
            "forebay.dead_letter.sqlstate=23514",
        ];
        assert_eq!(shown(&message), expected);
        let unseen = Letter { sqlstate: None, headers: Vec::new(), key: None, payload: Some(Vec::new()), ..letter };
        let message = Message::new(&of, &unseen);
        assert_eq!((message.key, message.value), (None, Some(&b""[..])));
        assert_eq!(shown(&message), expected[5..13]);
    }
}
