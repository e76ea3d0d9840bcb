//! Where a partition begins, and what the group's commits note about it.

use xxhash_rust::xxh3::xxh3_64;

use crate::types::{Anchor, NextOffset};

/// What a shard said of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// It holds an anchor.
    Anchored(Anchor),
    /// It answered, and has none.
    Unknown,
    /// It did not answer in time.
    Silent,
}

/// What is known of a partition's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    At(NextOffset),
    /// Every shard has answered, and nobody ever started.
    Nobody,
    /// Nothing is known, but a silent shard may know.
    Unanswered,
}

/// Where to start: the databases' word, where all of them can give it; otherwise the least of all that is known.
///
/// `committed` is Kafka's committed offset, `noted` the origin that the last commit noted for each shard. A shard that is
/// silent counts for nothing: what it says later, at its takeover, may lead further back.
pub fn start(shards: &[Located], noted: &[Option<NextOffset>], committed: Option<NextOffset>) -> Beginning {
    match least(shards, noted, committed) {
        Some(next) => Beginning::At(next),
        None if shards.contains(&Located::Silent) => Beginning::Unanswered,
        None => Beginning::Nobody,
    }
}

fn least(shards: &[Located], noted: &[Option<NextOffset>], committed: Option<NextOffset>) -> Option<NextOffset> {
    let done = |l: &Located| if let Located::Anchored(a) = l { Some(a.done) } else { None };
    let anchored = shards.iter().filter_map(done);
    if shards.iter().all(|l| done(l).is_some()) {
        return anchored.min();
    }
    let forgotten = shards.iter().zip(noted).filter(|(l, _)| **l == Located::Unknown).filter_map(|(_, origin)| *origin);
    anchored.chain(forgotten).chain(committed).min()
}

/// Why a partition cannot begin at a place, if it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impossible {
    /// Records between `start` and `low` are gone from the log.
    Retention { start: NextOffset, low: NextOffset },
    /// The log ends below what is durable already: it was truncated, or is another log.
    Truncated { durable: NextOffset, high: NextOffset },
}

/// Compares what the databases hold (`start`, and the furthest progress or fence) with the log as it is.
pub fn impossible(start: NextOffset, furthest: NextOffset, low: NextOffset, high: NextOffset) -> Option<Impossible> {
    if furthest > high {
        Some(Impossible::Truncated { durable: furthest, high })
    } else if start < low {
        Some(Impossible::Retention { start, low })
    } else {
        None
    }
}

/// What brokers take as a commit's metadata (`offset.metadata.max.bytes`).
pub const METADATA_BYTES_MAX: usize = 4096;
const PREFIX: &str = "forebay1 ";
const REST: &str = "*";

/// The origins of a partition's shards, as a commit's metadata: `forebay1 <hash of the shard's name>=<origin> …`. Where they do
/// not all fit, the others share their least one: starting too early costs time, starting too late costs records.
pub fn note(origins: &[(&str, NextOffset)]) -> String {
    let room = METADATA_BYTES_MAX - PREFIX.len() - 32;
    let mut text = String::from(PREFIX);
    let mut rest: Option<NextOffset> = None;
    for (shard, origin) in origins {
        let entry = format!("{}={} ", short(shard), origin.0);
        if text.len() + entry.len() <= room {
            text.push_str(&entry);
        } else {
            rest = Some(rest.map_or(*origin, |least| least.min(*origin)));
        }
    }
    if let Some(rest) = rest {
        text.push_str(&format!("{REST}={}", rest.0));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Reads back what [`note`] wrote; other tools' metadata notes nothing.
pub fn noted(metadata: &str, shards: &[&str]) -> Vec<Option<NextOffset>> {
    let Some(text) = metadata.strip_prefix(PREFIX) else { return vec![None; shards.len()] };
    let entries: Vec<(&str, i64)> =
        text.split(' ').filter_map(|e| e.split_once('=')).filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect();
    let find = |name: &str| entries.iter().find(|(k, _)| *k == name).map(|(_, origin)| NextOffset(*origin));
    shards.iter().map(|shard| find(&short(shard)).or_else(|| find(REST))).collect()
}

fn short(shard: &str) -> String {
    format!("{:08x}", xxh3_64(shard.as_bytes()) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchored(done: i64) -> Located {
        Located::Anchored(Anchor { origin: NextOffset(0), done: NextOffset(done) })
    }

    #[test]
    fn the_start_is_the_least_of_what_counts() {
        use Located::{Silent, Unknown};
        let check = |shards: &[Located], noted: &[Option<i64>], committed: Option<i64>, expected: Option<i64>| {
            let noted: Vec<_> = noted.iter().map(|n| n.map(NextOffset)).collect();
            let found = start(shards, &noted, committed.map(NextOffset));
            let silent = shards.contains(&Silent);
            let nothing = if silent { Beginning::Unanswered } else { Beginning::Nobody };
            let expected = expected.map_or(nothing, |next| Beginning::At(NextOffset(next)));
            assert_eq!(found, expected, "{shards:?} {noted:?} {committed:?}");
        };
        check(&[anchored(7)], &[None], Some(99), Some(7)); // the database's word, whatever Kafka says
        check(&[anchored(7), anchored(5)], &[None, None], None, Some(5));
        check(&[Unknown], &[None], Some(9), Some(9));
        check(&[Unknown], &[Some(3)], Some(9), Some(3)); // it fell back to before its anchor existed
        check(&[Unknown], &[None], None, None);
        check(&[anchored(12), Silent], &[Some(1), Some(1)], Some(9), Some(9));
        check(&[Silent], &[Some(1)], Some(9), Some(9)); // a silent shard counts for nothing
        check(&[anchored(4), Unknown], &[None, None], Some(9), Some(4));
    }

    #[test]
    fn notes_come_back_and_never_grow_beyond_what_the_broker_takes() {
        let names: Vec<String> = (0..400).map(|i| format!("shard-{i}")).collect();
        let origins: Vec<(&str, NextOffset)> =
            names.iter().enumerate().map(|(i, n)| (n.as_str(), NextOffset(9_000_000_000_000 - i as i64))).collect();
        let text = note(&origins);
        assert!(text.len() <= METADATA_BYTES_MAX, "{}", text.len());
        let shards: Vec<&str> = names.iter().map(String::as_str).collect();
        let back = noted(&text, &shards);
        for ((_, origin), found) in origins.iter().zip(&back) {
            assert!(found.is_some_and(|f| f <= *origin));
        }
        assert_eq!(back[0], Some(origins[0].1), "exact where it fits");
        assert_eq!(noted("some other tool's words", &shards[..2]), [None, None]);
    }

    #[test]
    fn a_log_that_does_not_hold_the_start_is_told() {
        let n = NextOffset;
        assert_eq!(impossible(n(5), n(9), n(5), n(9)), None);
        assert_eq!(impossible(n(4), n(9), n(5), n(9)), Some(Impossible::Retention { start: n(4), low: n(5) }));
        assert_eq!(impossible(n(5), n(10), n(0), n(9)), Some(Impossible::Truncated { durable: n(10), high: n(9) }));
    }
}
