//! What `/parked` says: the same objects as `forebay parked --json`.

use serde::Deserialize;

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Parked {
    pub entries: Vec<Entry>,
    #[serde(default)]
    pub failed: Vec<Failed>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    Hold(Hold),
    Key(Key),
    /// How many there are in all, and whatever is to come.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Hold {
    pub shard: String,
    pub topic: String,
    /// "key" or "tenant".
    pub scope: String,
    pub value: Bytes,
    pub since: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Key {
    pub shard: String,
    pub topic: String,
    pub partition: i32,
    pub key: Option<Bytes>,
    pub records: u64,
    pub age_s: u64,
    /// "blocked", "record", "held", "hot", or "pace".
    pub reason: String,
    pub held: bool,
    pub dead_letter: bool,
    pub attempts: u32,
    pub sqlstate: Option<String>,
    pub error: Option<String>,
}

/// A shard that could not be asked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Failed {
    pub shard: String,
    pub reason: String,
}

/// A key: mostly text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    Text(String),
    Hex { hex: String },
}

impl Bytes {
    pub fn text(&self) -> Option<&str> {
        match self {
            Bytes::Text(text) => Some(text),
            Bytes::Hex { .. } => None,
        }
    }

    /// To be looked at; [`crate::words::harmless`] makes it fit for a terminal.
    pub fn shown(&self) -> String {
        match self {
            Bytes::Text(text) => text.clone(),
            Bytes::Hex { hex } => format!("0x{hex}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_as_the_command_prints_them() {
        let text = r#"{"entries": [
            {"kind": "hold", "shard": "b", "topic": "t", "scope": "tenant", "value": "a1", "since": "2026-11-26 03:00:00+00"},
            {"kind": "key", "shard": "b", "topic": "t", "partition": 3, "key": {"hex": "61ff"}, "records": 12, "offset": 7,
             "age_s": 90, "reason": "blocked", "held": false, "dead_letter": false, "attempts": 4, "sqlstate": "55P03",
             "error": "lock timeout"},
            {"kind": "total", "shard": "b", "holds": 1, "keys": 1, "records": 12}],
            "failed": [{"shard": "a", "reason": "down"}]}"#;
        let parked: Parked = serde_json::from_str(text).expect("valid");
        let [Entry::Hold(hold), Entry::Key(key), Entry::Other] = &parked.entries[..] else { panic!("{parked:?}") };
        assert_eq!((hold.value.text(), key.key.as_ref().map(Bytes::shown)), (Some("a1"), Some("0x61ff".to_owned())));
        assert_eq!(parked.failed[0].shard, "a");
    }
}
