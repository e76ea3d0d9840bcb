//! What a person has decided: what is kept back, keys and whole tenants, and that something was decided about letters that block
//! their keys. Says nothing of what is parked already.

use std::collections::BTreeSet;

use crate::state::chunk::RawRecord;
use crate::state::router::{Router, key_hash};
use crate::types::{KeyHash, Offset};

/// What a person has decided about a topic, as one shard says now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    pub holds: Holds,
    /// Another number after each decision about letters that block their keys.
    pub letters: i64,
}

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

    /// Whether all of a key is kept back, whatever its records hold. (A record without a key whose hash is a held key's waits with it.)
    pub fn hold_all_of(&self, hash: KeyHash) -> bool {
        self.keys.contains(&hash)
    }

    /// Whether a record is to be kept back; `hash` is its key's.
    pub fn hold(&self, record: &RawRecord<'_>, hash: KeyHash, router: &Router) -> bool {
        record.key.is_some() && self.keys.contains(&hash)
            || !self.tenants.is_empty() && router.tenant_of(record).is_some_and(|t| self.tenants.contains(&*t))
    }
}
