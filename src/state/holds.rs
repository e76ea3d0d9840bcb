//! What a person wants kept back: keys, and whole tenants. Says nothing of what is parked already.

use std::collections::BTreeSet;

use crate::state::chunk::RawRecord;
use crate::state::router::{Router, key_hash};
use crate::types::{KeyHash, Offset};

/// The holds of one topic in one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    keys: BTreeSet<KeyHash>,
    tenants: BTreeSet<Vec<u8>>,
}

impl Holds {
    pub fn hold_key(&mut self, key: &[u8]) {
        self.keys.insert(key_hash(Some(key), Offset(0)));
    }

    pub fn hold_tenant(&mut self, tenant: Vec<u8>) {
        self.tenants.insert(tenant);
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tenants.is_empty()
    }

    /// Whether a record is to be kept back; `hash` is its key's.
    pub fn hold(&self, record: &RawRecord<'_>, hash: KeyHash, router: &Router) -> bool {
        record.key.is_some() && self.keys.contains(&hash)
            || !self.tenants.is_empty() && router.tenant_of(record).is_some_and(|t| self.tenants.contains(&*t))
    }
}
