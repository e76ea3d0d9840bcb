//! What each request is: made from its number and the seed alone, so that both modes are asked the same. Knows no connection.
//!
//! A request puts one subscription: its key in the path, its columns in the body. `n` is the request's number and the table's version
//! guard, so whichever of two requests for a row comes last, the later one stays.

use std::fmt::Write;

use crate::bench::workload::{drawn, random};
use crate::bench::zipf::Zipf;

/// Rows of a tenant.
const KEYS_PER_TENANT: u64 = 50;

/// As columns of the table.
pub const COLUMNS: &str = "app_id uuid NOT NULL, subscription_id uuid NOT NULL, n bigint NOT NULL, country text, device text, \
                           sessions int, updated_at timestamptz, tags jsonb, PRIMARY KEY (app_id, subscription_id)";
pub const GUARD: &str = "n";

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Requests {
    keys: u64,
    zipf: Option<Zipf>,
    seed: u64,
    value_bytes: usize,
}

impl Requests {
    pub fn new(keys: u64, skew: f64, seed: u64, value_bytes: usize) -> Requests {
        Requests { keys, zipf: (skew > 0.0).then(|| Zipf::new(keys, skew)), seed, value_bytes }
    }

    /// Which row request `n` is of. Row 0 has the most requests.
    pub fn key(&self, n: u64) -> u32 {
        drawn(self.keys, self.zipf.as_ref(), n ^ random(self.seed)) as u32
    }

    /// The tenant's and the row's. Neighbouring ranks are of different tenants, or one shard would have all that are busy.
    pub fn ids(&self, key: u32) -> (String, String) {
        let tenants = self.keys.div_ceil(KEYS_PER_TENANT);
        let tenant = u64::from(key) % tenants;
        let hash = random(u64::from(key)) as u32;
        (format!("00000000-0000-4000-8000-{tenant:012x}"), format!("{hash:08x}-0000-4000-8000-{key:012x}"))
    }

    /// From a row's `subscription_id`.
    pub fn key_of(id: &str) -> Option<u32> {
        u32::from_str_radix(id.rsplit('-').next()?, 16).ok()
    }

    /// Request `n` as it goes over the wire, instead of what is in `bytes`.
    pub fn write(&self, n: u64, bytes: &mut String) {
        let key = self.key(n);
        let (app, subscription) = self.ids(key);
        let country = ["US", "DE", "BR", "IN", "JP", "ZA"][(random(n) % 6) as usize];
        let mut body = String::with_capacity(self.value_bytes);
        // Writing to a String cannot fail.
        let _ = write!(
            body,
            "{{\"n\":{n},\"country\":\"{country}\",\"sessions\":{},\"updated_at\":\"2026-01-01T00:00:{:02}Z\",\
             \"tags\":{{\"plan\":\"gold\",\"score\":{}}},\"device\":\"",
            n % 1_000_000,
            n % 60,
            n % 1000
        );
        while body.len() + 2 < self.value_bytes {
            body.push('x');
        }
        body.push_str("\"}");
        bytes.clear();
        let _ = write!(
            bytes,
            "PUT /apps/{app}/subscriptions/{subscription} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_size_that_was_asked_for_and_names_its_row() {
        let requests = Requests::new(1000, 0.8, 7, 300);
        let mut text = String::new();
        for n in [0, 1, 999_999, 12_345_678] {
            requests.write(n, &mut text);
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.len(), 300);
            assert!(head.contains("Content-Length: 300"));
            let value: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(value["n"], n);
            let (app, id) = requests.ids(requests.key(n));
            assert!(head.starts_with(&format!("PUT /apps/{app}/subscriptions/{id} HTTP/1.1\r\n")));
            assert_eq!(Requests::key_of(&id), Some(requests.key(n)));
        }
    }

    #[test]
    fn keys_are_the_same_every_time_and_another_seed_draws_others() {
        let keys = |seed| {
            let requests = Requests::new(100, 0.8, seed, 300);
            (0..500).map(|n| requests.key(n)).collect::<Vec<_>>()
        };
        assert_eq!(keys(1), keys(1));
        assert_ne!(keys(1), keys(2));
        let counts = |key| keys(1).iter().filter(|drawn| **drawn == key).count();
        assert!(counts(0) > 3 * counts(50).max(1), "{} and {}", counts(0), counts(50));
        assert!((0..500).all(|n| Requests::new(100, 0.0, 1, 300).key(n) < 100));
    }
}
