//! How what the engine knows is said in the status.

use std::time::Duration;

use crate::admin::status;
use crate::config::Config;
use crate::sink::Reason;
use crate::types::{KEY_BYTES_SHOWN, ShardIx};

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
