//! What letters, and what became of them, look like: to programs as JSON, to people as a line.

use serde_json::{Value, json};

use super::discard::Discarded;
use super::list::{Forwarded, Letter};
use super::replay::Replayed;

/// Bytes for a program: text as it is.
pub fn value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Bytes for people: text in quotes, with what is not to be printed escaped.
pub fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}

pub fn object(shard: &str, letter: &Letter) -> Value {
    let (forwarded_at, forward_error) = match &letter.forwarded {
        Forwarded::No => (None, None),
        Forwarded::At(at) => (Some(at), None),
        Forwarded::Refused(reason) => (None, Some(reason)),
    };
    json!({
        "shard": shard,
        "id": letter.id,
        "blocks_key": letter.id.is_none(),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "at": letter.at,
        "key": letter.key.as_deref().map(value),
        "sqlstate": letter.sqlstate,
        "error": letter.error,
        "resolution": letter.resolution,
        "forwarded_at": forwarded_at,
        "forward_error": forward_error,
    })
}

pub fn replayed(shard: &str, topic: &str, letter: &Replayed) -> String {
    match letter {
        Replayed::Applied(id) => format!("shard {shard}: letter {id} applied"),
        Replayed::Refused(id, reason) => format!("shard {shard}: letter {id} refused again: {reason}"),
        Replayed::Left(id) => format!("shard {shard}: letter {id} left as it is"),
        Replayed::Waits { partition, offset } => format!(
            "shard {shard}: {topic} [{partition}] offset {offset} is next of its key: the slow lane of a running process applies it now"
        ),
    }
}

pub fn discarded(shard: &str, letter: &Discarded) -> String {
    let key = if letter.blocked { "; its key goes on" } else { "" };
    format!("shard {shard}: letter {} discarded{key}", letter.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_programs_are_text_or_clearly_not() {
        assert_eq!(value("k\"ü".as_bytes()).to_string(), r#""k\"ü""#);
        assert_eq!(value(b"a\xff").to_string(), r#"{"hex":"61ff"}"#);
        assert_eq!(shown(b"a\x1b[1m\xff"), r#"b"a\x1b[1m\xff""#);
    }
}
