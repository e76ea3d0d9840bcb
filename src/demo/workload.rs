//! What is published, and what the table must hold afterwards: updates of subscriptions, and a model of their rows that is
//! changed with every update, one by one. Knows neither Kafka nor PostgreSQL.

use std::fmt::Write;

use fastrand::Rng;
use jiff::Timestamp;
use uuid::Builder;
use xxhash_rust::xxh3::xxh3_64;

use crate::demo::broker::BYTES_KEPT;
use crate::demo::{PARTITIONS, broker};

/// The same data every time.
const SEED: u64 = 0x70_6f_6f_6c;
/// Rows per application, on average; the sizes follow Zipf's law.
const ROWS_PER_APP: u32 = 250;
/// One update in so many is a tombstone, or carries only some of the fields.
const TOMBSTONE_EVERY: u32 = 50;
const PARTIAL_EVERY: u32 = 5;

const COUNTRIES: [&str; 12] = ["DE", "FR", "PL", "BR", "US", "IN", "JP", "NG", "GB", "MX", "ID", "TR"];
const DEVICES: [&str; 6] = [
    "Android 16; Pixel 10",
    "Android 15; SM-S931B",
    "iOS 26.1; iPhone18,2",
    "Firefox 145; Linux",
    "Chrome 142; macOS",
    "\"Ü\"",
];
const PLANS: [&str; 3] = ["free", "silver", "gold"];

/// Most bytes of one record in the log: key, value, and what Kafka's format adds even to a batch of one.
pub const RECORD_BYTES_MAX: usize = 500;
/// Most records of a partition that may be published and not yet below its stored progress.
pub const RECORDS_AHEAD_MAX: i64 = 10_000;
const _: () = assert!(RECORDS_AHEAD_MAX as usize * RECORD_BYTES_MAX <= BYTES_KEPT, "the mock cluster drops the rest");
const _: () = assert!(RECORDS_AHEAD_MAX as usize <= broker::RECORDS_KEPT, "the mock cluster drops the rest");

/// A row as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub country: Option<&'static str>,
    pub device: Option<&'static str>,
    pub sessions: i32,
    pub updated_at_ms: i64,
    /// Plan and score.
    pub tags: Option<(&'static str, u32)>,
    pub version: i64,
}

/// One subscription: its identity, and its row as of the last update; none if it was deleted, or never written.
#[derive(Debug)]
pub struct Row {
    /// `app_id:subscription_id`, the records' key.
    pub key: String,
    pub partition: usize,
    pub key_hash: u64,
    pub now: Option<Subscription>,
    /// The offset of its last update.
    pub last_offset: Option<i64>,
    updates: i64,
}

/// By partition: where its log ends, which is how many records it has, because there is one publisher.
pub type Ends = [i64; PARTITIONS];

/// See the module's text.
pub struct Workload {
    pub rows: Vec<Row>,
    pub ends: Ends,
    /// Rows to be updated, in this order.
    order: Vec<u32>,
    next: usize,
    rng: Rng,
}

/// What came of one update; the payload lies in the caller's buffer.
pub struct Update<'a> {
    pub row: &'a Row,
    pub offset: i64,
    pub is_tombstone: bool,
}

impl Workload {
    /// Every row at least once, `records` updates in all (at least `rows`); rows of the larger applications more often.
    pub fn new(records: u32, rows: u32) -> Workload {
        let mut rng = Rng::with_seed(SEED);
        let of_rows = make_rows(rows, &mut rng);
        let more = (rows..records).map(|_| {
            let u = rng.f64();
            (f64::from(rows) * u * u) as u32
        });
        let mut order: Vec<u32> = (0..rows).collect();
        order.extend(more);
        rng.shuffle(&mut order);
        Workload { rows: of_rows, ends: Ends::default(), order, next: 0, rng }
    }

    /// The next update as of `now_ms`. Its value is put into `value`, unless it is a tombstone.
    pub fn next(&mut self, now_ms: i64, value: &mut String) -> Option<Update<'_>> {
        let row = &mut self.rows[*self.order.get(self.next)? as usize];
        self.next += 1;
        let offset = self.ends[row.partition];
        self.ends[row.partition] += 1;
        row.last_offset = Some(offset);
        row.updates += 1;
        value.clear();
        let is_tombstone = row.now.is_some() && self.rng.u32(..TOMBSTONE_EVERY) == 0;
        if is_tombstone {
            row.now = None;
        } else {
            let whole = self.rng.u32(..PARTIAL_EVERY) > 0;
            row.update(now_ms, whole, &mut self.rng);
            row.write_value(whole, value);
        }
        debug_assert!(row.key.len() + value.len() + 71 <= RECORD_BYTES_MAX, "{} bytes", value.len());
        Some(Update { row, offset, is_tombstone })
    }
}

impl Row {
    /// A part leaves alone what it does not name; in a new row that is null.
    fn update(&mut self, now_ms: i64, whole: bool, rng: &mut Rng) {
        let before = self.now.take();
        let (country, device, tags) = if whole {
            let pick = |of: &[&'static str], rng: &mut Rng| of[rng.usize(..of.len())];
            (Some(pick(&COUNTRIES, rng)), Some(pick(&DEVICES, rng)), Some((pick(&PLANS, rng), rng.u32(..100_000))))
        } else {
            before.map_or((None, None, None), |row| (row.country, row.device, row.tags))
        };
        let (sessions, version) = (rng.i32(0..1_000_000), self.updates);
        self.now = Some(Subscription { country, device, sessions, updated_at_ms: now_ms, tags, version });
    }

    fn write_value(&self, whole: bool, value: &mut String) {
        let Some(row) = &self.now else { return };
        let (app, subscription) = self.key.split_at(self.key.len() / 2);
        let at = Timestamp::from_millisecond(row.updated_at_ms).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(
            value,
            r#"{{"app_id":"{app}","subscription_id":"{}","sessions":{},"updated_at":"{at:.3}","version":{}"#,
            &subscription[1..],
            row.sessions,
            row.version
        );
        if let (true, Some(country), Some(device), Some((plan, score))) = (whole, row.country, row.device, row.tags) {
            let device = serde_json::Value::from(device);
            let _ =
                write!(value, r#","country":"{country}","device":{device},"tags":{{"plan":"{plan}","score":{score}}}"#);
        }
        value.push('}');
    }
}

fn make_rows(rows: u32, rng: &mut Rng) -> Vec<Row> {
    let apps = (rows / ROWS_PER_APP).max(1);
    let mut id = || Builder::from_random_bytes(rng.u128(..).to_le_bytes()).into_uuid().to_string();
    let mut made = Vec::with_capacity(rows as usize);
    let all: f64 = (1..=apps).map(|rank| 1.0 / f64::from(rank)).sum();
    for rank in 1..=apps {
        let share = (f64::from(rows) / (f64::from(rank) * all)).ceil() as usize;
        let app = id();
        // The shares are rounded up: the last, smallest applications may find nothing left.
        for _ in 0..share.min(rows as usize - made.len()) {
            let key = format!("{app}:{}", id());
            let key_hash = xxh3_64(key.as_bytes());
            // Other bits than those that decide the lane.
            let partition = (key_hash >> 32) as usize % PARTITIONS;
            made.push(Row { key, partition, key_hash, now: None, last_offset: None, updates: 0 });
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn every_row_is_updated_and_the_values_say_what_the_model_says() {
        let mut workload = Workload::new(4000, 1000);
        assert_eq!(workload.rows.len(), 1000);
        let (mut seen, mut tombstones, mut parts, mut value) = (HashSet::new(), 0, 0, String::new());
        while let Some(update) = workload.next(1_763_900_000_120, &mut value) {
            seen.insert(update.row.key.clone());
            tombstones += usize::from(update.is_tombstone);
            assert_eq!(update.row.now.is_none(), update.is_tombstone);
            assert!(update.row.key.len() + value.len() + 71 <= RECORD_BYTES_MAX);
            let Some(row) = &update.row.now else { continue };
            let json: BTreeMap<String, serde_json::Value> = serde_json::from_str(&value).unwrap();
            let id = format!("{}:{}", json["app_id"].as_str().unwrap(), json["subscription_id"].as_str().unwrap());
            assert_eq!(id, update.row.key);
            assert_eq!(json["version"], row.version);
            assert_eq!(json["updated_at"], "2025-11-23T12:13:20.120Z");
            match json.get("device") {
                Some(device) => assert_eq!(device, row.device.unwrap()),
                None => parts += 1,
            }
        }
        assert_eq!(seen.len(), 1000);
        assert!(tombstones > 20 && parts > 500, "{tombstones} tombstones, {parts} partial updates");
    }

    #[test]
    fn applications_differ_in_size() {
        let mut sizes = BTreeMap::new();
        for row in Workload::new(5000, 5000).rows {
            *sizes.entry(row.key[..36].to_owned()).or_insert(0) += 1;
        }
        let (largest, smallest) = (sizes.values().max().unwrap(), sizes.values().min().unwrap());
        assert!(*largest > 10 * smallest, "{largest} and {smallest}");
    }
}
