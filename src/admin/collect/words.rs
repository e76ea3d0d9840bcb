//! How what the engine knows is said in the status.

use std::time::Duration;

use crate::admin::status;
use crate::config::Config;
use crate::sink::Reason;
use crate::types::{KEY_BYTES_SHOWN, ShardIx};
use crate::words;

/// A probe takes a round trip, or a few; one that has waited so long is worth a word.
const UNANSWERED_MIN: Duration = Duration::from_secs(2);

/// As threads and `application_name` say it.
pub fn writer_name(config: &Config, shard: ShardIx, writer: u16) -> String {
    let workers = config.engine.workers_per_shard as u16;
    match writer.checked_sub(workers) {
        None => format!("fb-w{}.{writer}", shard.0),
        Some(lane) => format!("fb-s{}.{lane}", shard.0),
    }
}

pub fn reason(reason: Reason) -> status::Reason {
    status::Reason { sqlstate: reason.sqlstate, text: reason.text }
}

/// What was said of a shard that is away is old news while a probe waits for an answer.
pub fn unanswered(reason: &mut Reason, probing: Duration) {
    if probing >= UNANSWERED_MIN {
        let since = words::age(millis(probing));
        reason.text = format!("no answer to a probe for {since}; before that: {}", reason.text);
    }
}

/// A key for people; what is cut ends with an ellipsis.
pub fn text(key: &[u8]) -> String {
    match key.split_at_checked(KEY_BYTES_SHOWN) {
        Some((shown, more)) if !more.is_empty() => format!("{}…", String::from_utf8_lossy(shown)),
        _ => String::from_utf8_lossy(key).into_owned(),
    }
}

pub fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

pub fn age_ms(now_ms: i64, timestamp_ms: i64) -> u64 {
    now_ms.saturating_sub(timestamp_ms).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once a server that had been shut down, and then was gone without a word, was still said to be shutting down.
    #[test]
    fn a_probe_without_an_answer_is_newer_than_what_was_said() {
        let said = |seconds| {
            let mut reason = Reason::new("terminating connection due to administrator command");
            unanswered(&mut reason, Duration::from_secs(seconds));
            reason.text
        };
        assert_eq!(said(1), "terminating connection due to administrator command");
        let expected =
            "no answer to a probe for 12 s; before that: terminating connection due to administrator command";
        assert_eq!(said(12), expected);
    }
}
