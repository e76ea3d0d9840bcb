//! The records that a benchmark publishes: each is made from its number and the seed alone, so that any can be made again without
//! those before it, and so that two runs publish the same. Knows neither Kafka nor PostgreSQL.

use std::fmt::Write;

use crate::bench::zipf::Zipf;

pub const COUNTRIES: [&str; 6] = ["US", "DE", "BR", "IN", "JP", "ZA"];
pub const DEVICES: [&str; 3] = ["iPhone15,3", "Pixel 8", "SM-S911B"];
/// The key that has the records of `hot_percent`.
pub const HOT: u64 = 0;
/// No whole row of the workload is larger by itself: what pads it must be so large at least.
pub const VALUE_BYTES_MIN: usize = 240;

/// What a record does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// All seven columns.
    Upsert,
    /// The key, `sessions` and `updated_at`; the others stay as they are.
    Partial,
    /// A tombstone.
    Delete,
}

/// In per cent; the rest are upserts of whole rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mix {
    pub partial: u8,
    pub delete: u8,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub seed: u64,
    /// Rows. Each tenant has as many of them as any other, next to each other.
    pub keys: u64,
    pub tenants: u64,
    /// How unequal the keys are; without it each has as many records as any other. The key of rank k is key k - 1, so the first
    /// tenants are the busiest.
    pub skew: Option<Zipf>,
    /// [`HOT`] has so many per cent of the records, whatever the others have.
    pub hot_percent: u64,
    pub mix: Mix,
    /// Whole rows are padded to so many bytes, in `device`.
    pub value_bytes: Option<usize>,
}

/// What a table of upserts must hold afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected {
    pub rows: u64,
    /// Of column `sessions`: it shows whether each row's last record was the last to be applied.
    pub sessions: i64,
}

impl Default for Workload {
    /// The reference job: upserts of 200,000 rows of 200 tenants, all as likely as each other.
    fn default() -> Workload {
        let (keys, tenants) = (200_000, 200);
        Workload { seed: 0, keys, tenants, skew: None, hot_percent: 0, mix: Mix::default(), value_bytes: None }
    }
}

impl Workload {
    /// Which row record `n` is of.
    pub fn key(&self, n: u64) -> u64 {
        let n = self.seeded(n);
        if self.hot_percent > 0 && random(!n) % 100 < self.hot_percent {
            return HOT;
        }
        drawn(self.keys, self.skew.as_ref(), n)
    }

    pub fn operation(&self, n: u64) -> Operation {
        let Mix { partial, delete } = self.mix;
        if partial == 0 && delete == 0 {
            return Operation::Upsert;
        }
        // Another draw than the key's.
        let drawn = random(self.seeded(n) ^ 0x5555_5555_5555_5555) % 100;
        match drawn {
            _ if drawn < u64::from(delete) => Operation::Delete,
            _ if drawn < u64::from(delete) + u64::from(partial) => Operation::Partial,
            _ => Operation::Upsert,
        }
    }

    pub fn tenant(&self, key: u64) -> u64 {
        // Divided first, or many keys of many tenants would not fit.
        key / self.keys.div_ceil(self.tenants)
    }

    /// The tenant's and the row's, as UUIDs.
    pub fn ids(&self, key: u64) -> (String, String) {
        let tenant = self.tenant(key);
        (
            format!("00000000-0000-4000-8000-{tenant:012x}"),
            format!("{:08x}-0000-4000-8000-{key:012x}", random(key) as u32),
        )
    }

    /// The key of record `n` in Kafka, instead of what `text` holds.
    pub fn write_key(&self, n: u64, text: &mut String) {
        self.write_key_of(self.key(n), text);
    }

    /// That of a row's records.
    pub fn write_key_of(&self, key: u64, text: &mut String) {
        text.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "00000000-0000-4000-8000-{:012x}:{:08x}-0000-4000-8000-{key:012x}",
            self.tenant(key),
            random(key) as u32
        );
    }

    /// The value of record `n`; nothing where it is a tombstone, which is said.
    pub fn write_value(&self, n: u64, text: &mut String) -> bool {
        text.clear();
        match self.operation(n) {
            Operation::Delete => return false,
            Operation::Partial => {
                self.write_ids(self.key(n), text);
                write_changes(n, text);
            }
            Operation::Upsert => self.write_row(self.key(n), n, text),
        }
        text.push('}');
        true
    }

    /// A whole row, whatever the mix says, with its number and the time at which it is to be sent, in µs since the Unix epoch.
    pub fn write_sent(&self, n: u64, sent_us: u64, text: &mut String) {
        text.clear();
        self.write_row(self.key(n), n, text);
        let _ = write!(text, ",\"n\":{n},\"sent_us\":{sent_us}}}");
    }

    /// A whole row, named by its key, with what record `n` says, which may be another row's.
    pub fn write_row_of(&self, key: u64, n: u64, text: &mut String) {
        text.clear();
        self.write_row(key, n, text);
        text.push('}');
    }

    fn write_ids(&self, key: u64, text: &mut String) {
        let (tenant, row) = self.ids(key);
        let _ = write!(text, "{{\"app_id\":\"{tenant}\",\"subscription_id\":\"{row}\",");
    }

    fn write_row(&self, key: u64, n: u64, text: &mut String) {
        self.write_ids(key, text);
        let (country, device) = (COUNTRIES[n as usize % COUNTRIES.len()], DEVICES[n as usize % DEVICES.len()]);
        let _ = write!(text, "\"country\":\"{country}\",\"device\":\"{device}\",");
        let pad_at = text.len() - "\",".len();
        write_changes(n, text);
        let _ = write!(text, ",\"tags\":{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}", n % 7, n % 10);
        // The brace that closes it is yet to come.
        let missing = self.value_bytes.unwrap_or_default().saturating_sub(text.len() + 1);
        if missing > 0 {
            text.insert_str(pad_at, &self.padding(n, missing));
        }
    }

    /// Text that nobody can make smaller by much: real large values are no row of equal letters, which Kafka and PostgreSQL would compress
    /// to nothing.
    fn padding(&self, n: u64, bytes: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut state = self.seeded(n) ^ 0xaaaa_aaaa_aaaa_aaaa;
        let mut text = String::with_capacity(bytes);
        while text.len() < bytes {
            state = random(state);
            let letters = (0..10).map(|at| char::from(LETTERS[(state >> (6 * at)) as usize % LETTERS.len()]));
            text.extend(letters.take(bytes - text.len()));
        }
        text
    }

    /// What record `n` leaves in `sessions`.
    pub fn sessions(&self, n: u64) -> i32 {
        sessions(n)
    }

    /// What the first `records` of them leave in a table of upserts.
    pub fn expected(&self, records: u64) -> Expected {
        const NO_ROW: i16 = -1;
        let mut rows = vec![NO_ROW; self.keys as usize];
        for n in 0..records {
            rows[self.key(n) as usize] = match self.operation(n) {
                Operation::Delete => NO_ROW,
                Operation::Upsert | Operation::Partial => sessions(n) as i16,
            };
        }
        let alive = rows.iter().filter(|sessions| **sessions != NO_ROW);
        Expected { rows: alive.clone().count() as u64, sessions: alive.map(|sessions| i64::from(*sessions)).sum() }
    }

    /// So that another seed is another job; 0 leaves the numbers as they are.
    fn seeded(&self, n: u64) -> u64 {
        n ^ self.seed.wrapping_mul(0xd134_2543_de82_ef95)
    }
}

fn sessions(n: u64) -> i32 {
    (n % 1000) as i32
}

fn write_changes(n: u64, text: &mut String) {
    let _ = write!(
        text,
        "\"sessions\":{},\"updated_at\":\"2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z\"",
        sessions(n),
        1 + n / 86_400_000 % 28,
        n / 3_600_000 % 24,
        n / 60_000 % 60,
        n / 1000 % 60,
        n % 1000
    );
}

/// One of so many keys: `n` says which, and where some are more likely than others the lower ones are.
pub fn drawn(keys: u64, skew: Option<&Zipf>, n: u64) -> u64 {
    let Some(zipf) = skew else { return random(n) % keys };
    let mut state = n;
    let uniform = || {
        state = random(state);
        // 53 bits: as many as a double holds.
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    zipf.rank(uniform) - 1
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), of one step.
pub fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn value(workload: &Workload, n: u64) -> Option<String> {
        let mut text = String::new();
        workload.write_value(n, &mut text).then_some(text)
    }

    #[test]
    fn the_reference_job_is_what_it_always_was() {
        let job = Workload::default();
        let mut key = String::new();
        job.write_key(123_456, &mut key);
        let row = value(&job, 123_456).unwrap();
        let json: BTreeMap<String, serde_json::Value> = serde_json::from_str(&row).unwrap();
        assert_eq!(json.len(), 7);
        assert_eq!(key, format!("{}:{}", json["app_id"].as_str().unwrap(), json["subscription_id"].as_str().unwrap()));
        assert_eq!(json["sessions"], 456);
        assert_eq!(json["updated_at"], "2026-01-01T00:02:03.456Z");
        assert_eq!(row.len(), 237);
        let mean = (0..10_000).map(|n| value(&job, n).unwrap().len()).sum::<usize>() / 10_000;
        assert_eq!(mean, 235, "of 236 to a byte");
    }

    #[test]
    fn a_record_follows_from_its_number_and_the_seed_alone() {
        let job = Workload { mix: Mix { partial: 10, delete: 10 }, ..Workload::default() };
        let other = Workload { seed: 1, ..job.clone() };
        let values = |job: &Workload| (0..1000).rev().map(|n| (job.key(n), value(job, n))).collect::<Vec<_>>();
        assert_eq!(values(&job), values(&job.clone()));
        assert_ne!(values(&job), values(&other));
        assert_eq!(job.expected(1000), job.expected(1000));
    }

    #[test]
    fn keys_are_even_unless_asked_otherwise() {
        let shares = |job: &Workload| {
            let mut counts = vec![0u32; job.keys as usize];
            (0..100_000).for_each(|n| counts[job.key(n) as usize] += 1);
            counts
        };
        let job = Workload { keys: 100, tenants: 10, ..Workload::default() };
        let even = shares(&job);
        assert!(even.iter().all(|count| (800..1200).contains(count)), "{even:?}");
        let hot = shares(&Workload { hot_percent: 50, ..job.clone() });
        assert!((49_500..51_500).contains(&hot[0]), "{}", hot[0]);
        assert!(hot[1..].iter().all(|count| (350..650).contains(count)), "{hot:?}");
        let tenants: Vec<u64> = (0..100).map(|key| job.tenant(key)).collect();
        assert!(tenants.is_sorted() && tenants[9] == 0 && tenants[10] == 1 && tenants[99] == 9);
    }

    #[test]
    fn a_skewed_job_follows_zipf_s_law() {
        let job = Workload { keys: 1000, tenants: 10, skew: Some(Zipf::new(1000, 1.0)), ..Workload::default() };
        let mut counts = vec![0u32; 1000];
        (0..200_000).for_each(|n| counts[job.key(n) as usize] += 1);
        let all: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1, 2, 3, 10, 50] {
            let (found, expected) = (f64::from(counts[rank - 1]), 200_000.0 / (rank as f64 * all));
            assert!((found / expected - 1.0).abs() < 0.12, "rank {rank}: {found} instead of {expected}");
        }
    }

    #[test]
    fn operations_are_as_often_as_asked_and_only_whole_rows_are_padded() {
        let job = Workload { mix: Mix { partial: 20, delete: 5 }, value_bytes: Some(1000), ..Workload::default() };
        let mut counts = [0u32; 3];
        for n in 0..20_000 {
            let operation = job.operation(n);
            counts[operation as usize] += 1;
            let text = value(&job, n);
            match operation {
                Operation::Upsert => assert_eq!(text.unwrap().len(), 1000),
                Operation::Partial => assert!(text.unwrap().len() < VALUE_BYTES_MIN),
                Operation::Delete => assert_eq!(text, None),
            }
        }
        for (found, percent) in counts.into_iter().zip([75.0, 20.0, 5.0]) {
            assert!((f64::from(found) / 200.0 - percent).abs() < 1.0, "{counts:?}");
        }
        let natural = (0..10_000).filter_map(|n| value(&Workload::default(), n)).map(|text| text.len()).max();
        assert!(natural < Some(VALUE_BYTES_MIN), "{natural:?}");
    }

    /// Brokers, and PostgreSQL's TOAST, would make next to nothing of one letter a thousand times, and figures with it.
    #[test]
    fn what_pads_a_row_cannot_be_made_much_smaller() {
        let job = Workload { value_bytes: Some(10_000), ..Workload::default() };
        let (one, other) = (value(&job, 1).unwrap(), value(&job, 2).unwrap());
        assert_ne!(one, other);
        assert_eq!(Some(&one), value(&job, 1).as_ref());
        // Hardly any four letters come twice, which is what makes a text smaller.
        let seen: std::collections::BTreeSet<&[u8]> = one.as_bytes().windows(4).collect();
        assert!(seen.len() > 9_500, "{} kinds", seen.len());
        assert_ne!(Some(one), value(&Workload { seed: 3, ..job }, 1));
    }

    #[test]
    fn the_expected_table_is_that_of_the_last_record_of_each_key() {
        let job = Workload { keys: 50, tenants: 5, mix: Mix { partial: 10, delete: 30 }, ..Workload::default() };
        let mut rows = BTreeMap::new();
        for n in 0..5000 {
            match job.operation(n) {
                Operation::Delete => drop(rows.remove(&job.key(n))),
                _ => drop(rows.insert(job.key(n), i64::from(job.sessions(n)))),
            }
        }
        assert!(rows.len() < 50);
        assert_eq!(job.expected(5000), Expected { rows: rows.len() as u64, sessions: rows.values().sum() });
    }

    #[test]
    fn what_is_sent_at_a_rate_says_its_number_and_when() {
        let job = Workload { mix: Mix { partial: 0, delete: 100 }, ..Workload::default() };
        let mut text = String::new();
        job.write_sent(7, 1_700_000_000_000_000, &mut text);
        let json: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["n"], &json["sent_us"], json.len()), (&7.into(), &1_700_000_000_000_000u64.into(), 9));
    }
}
