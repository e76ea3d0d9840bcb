//! Who sends: tenants by Zipf's law, one of them hotter where a scenario says so, and the rows of each.

use crate::bench::zipf::Zipf;

/// Rows of a tenant; many, so that a partition's load is not that of a few keys.
const ROWS: u64 = 1_000;
/// The hot one is none of the others.
const HOT: u64 = 0;

/// See the module's text.
pub struct Senders {
    tenants: u64,
    zipf: Option<Zipf>,
    hot_share: f64,
}

impl Senders {
    pub fn new(tenants: u64, skew: f64, hot_share: f64) -> Senders {
        let zipf = (skew > 0.0).then(|| Zipf::new(tenants, skew));
        Senders { tenants, zipf, hot_share }
    }

    /// The key of the next record, `tenant:row`.
    pub fn key(&self, rng: &mut fastrand::Rng, hot: bool, into: &mut String) {
        use std::fmt::Write;
        let tenant = match &self.zipf {
            _ if hot && self.hot_share > 0.0 && rng.f64() < self.hot_share => HOT,
            Some(zipf) => zipf.rank(|| rng.f64()),
            None => 1 + rng.u64(..self.tenants),
        };
        into.clear();
        // Writing to a String cannot fail.
        let _ = write!(into, "{tenant}:{}", rng.u64(..ROWS));
    }
}
