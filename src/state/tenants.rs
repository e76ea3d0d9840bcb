//! A map of tenants, and what another one may say beside it: two processes, or one before and after a reload, may know
//! different tenants, but never send one tenant to two shards.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Config, RouteBy};

/// Tenant → shard, by the shards' names: what databases remember must not depend on the order of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantMap {
    /// Of tenants that are not in the map; without it they have none.
    pub default: Option<String>,
    pub tenants: BTreeMap<String, String>,
}

/// What two maps contradict each other in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// One sends it here, the other there.
    Tenant {
        tenant: String,
        first: String,
        second: String,
    },
    Default {
        first: String,
        second: String,
    },
    /// Only the first has it: its records would have no shard any more.
    Removed(String),
    DefaultRemoved(String),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contradiction::Tenant { tenant, first, second } => {
                write!(f, "the tenant {tenant:?} goes to the shard {first:?} and would go to {second:?}")
            }
            Contradiction::Default { first, second } => {
                write!(f, "tenants that the map lacks go to the shard {first:?} and would go to {second:?}")
            }
            Contradiction::Removed(tenant) => write!(f, "the tenant {tenant:?} would be in the map no more"),
            Contradiction::DefaultRemoved(shard) => {
                write!(f, "tenants that the map lacks go to the shard {shard:?} and would stop their topic")
            }
        }
    }
}

impl TenantMap {
    /// None where no map decides.
    pub fn of(config: &Config) -> Option<TenantMap> {
        let RouteBy::Map { tenants, default, .. } = &config.routing.by else { return None };
        let name = |shard: &usize| config.shards[*shard].name.clone();
        Some(TenantMap {
            default: default.as_ref().map(name),
            tenants: tenants.iter().map(|(tenant, shard)| (tenant.clone(), name(shard))).collect(),
        })
    }

    fn shard(&self, tenant: &str) -> Option<&String> {
        self.tenants.get(tenant).or(self.default.as_ref())
    }

    /// What both know together.
    ///
    /// # Errors
    /// The first tenant, in their order, that the two would send to different shards.
    pub fn join(&self, other: &TenantMap) -> Result<TenantMap, Contradiction> {
        if let (Some(first), Some(second)) = (&self.default, &other.default)
            && first != second
        {
            return Err(Contradiction::Default { first: first.clone(), second: second.clone() });
        }
        let mut both = self.clone();
        both.tenants.extend(other.tenants.clone());
        for tenant in both.tenants.keys() {
            if let (Some(first), Some(second)) = (self.shard(tenant), other.shard(tenant))
                && first != second
            {
                let (first, second) = (first.clone(), second.clone());
                return Err(Contradiction::Tenant { tenant: tenant.clone(), first, second });
            }
        }
        both.default = both.default.or_else(|| other.default.clone());
        Ok(both)
    }

    /// Whether a running process may go on with `next` instead.
    ///
    /// # Errors
    /// What it would move or leave without a shard.
    pub fn may_become(&self, next: &TenantMap) -> Result<(), Contradiction> {
        self.join(next)?;
        if let Some(removed) = self.tenants.keys().find(|tenant| !next.tenants.contains_key(*tenant)) {
            return Err(Contradiction::Removed(removed.clone()));
        }
        match (&self.default, &next.default) {
            (Some(shard), None) => Err(Contradiction::DefaultRemoved(shard.clone())),
            _ => Ok(()),
        }
    }

    /// How many of its tenants `known` lacks.
    pub fn new_beside(&self, known: &TenantMap) -> usize {
        self.tenants.keys().filter(|tenant| !known.tenants.contains_key(*tenant)).count()
    }
}

/// What to do where a tenant really is to move; `forget` is what removes the databases' memory of the old map.
pub fn procedure(forget: &str) -> String {
    format!(
        "Updates between the copy of its rows and the switch would be lost. To move or remove tenants: stop the producers or let \
         the group reach the end (`forebay run --until-end`), stop every process of it, see that `forebay parked` shows nothing of \
         theirs, move the rows, {forget}, and start all \
         of them with the new map"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `"a=x b=y *=z"`: tenants, and the default behind a star.
    fn map(text: &str) -> TenantMap {
        let mut map = TenantMap::default();
        for (tenant, shard) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            match tenant {
                "*" => map.default = Some(shard.to_owned()),
                _ => drop(map.tenants.insert(tenant.to_owned(), shard.to_owned())),
            }
        }
        map
    }

    #[track_caller]
    fn check(first: &str, second: &str, together: Result<&str, &str>, becomes: Result<(), &str>) {
        let (first, second) = (map(first), map(second));
        let says = |c: Contradiction| c.to_string();
        match (first.join(&second).map_err(says), together) {
            (Ok(found), Ok(expected)) => assert_eq!(found, map(expected)),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{found:?}"),
        }
        match (first.may_become(&second).map_err(says), becomes) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn maps_side_by_side_and_one_behind_the_other() {
        check("a=x", "a=x", Ok("a=x"), Ok(()));
        check("a=x", "a=x b=y", Ok("a=x b=y"), Ok(()));
        check("a=x", "b=y", Ok("a=x b=y"), Err("\"a\" would be in the map no more"));
        check("a=x", "a=y", Err("\"a\" goes to the shard \"x\" and would go to \"y\""), Err("\"a\" goes to"));
        check("a=x", "a=x *=y", Ok("a=x *=y"), Ok(()));
        check("a=x *=y", "a=x", Ok("a=x *=y"), Err("would stop their topic"));
        check("a=x *=y", "a=x *=z", Err("would go to \"z\""), Err("would go to \"z\""));
        // What went to the default would move.
        check("*=y", "a=x *=y", Err("\"a\" goes to the shard \"y\" and would go to \"x\""), Err("\"a\" goes to"));
        check("*=y", "a=y *=y", Ok("a=y *=y"), Ok(()));
        check("*=y", "a=x", Err("\"a\" goes to"), Err("\"a\" goes to"));
        check("a=x", "*=y", Err("\"a\" goes to the shard \"x\" and would go to \"y\""), Err("\"a\" goes to"));
    }

    fn any_map() -> impl Strategy<Value = TenantMap> {
        let tenants = prop::collection::btree_map("[a-d]", "[x-z]", 0..4);
        (prop::option::of("[x-z]"), tenants).prop_map(|(default, tenants)| TenantMap { default, tenants })
    }

    proptest! {
        #[test]
        fn whoever_is_let_in_sends_no_tenant_elsewhere(first in any_map(), second in any_map(), third in any_map()) {
            // As a database remembers them: each that is let in is joined to what is known.
            let mut known = first.clone();
            let mut members = vec![first];
            for next in [second, third] {
                if let Ok(both) = known.join(&next) {
                    known = both;
                    members.push(next);
                }
            }
            for tenant in ["a", "b", "c", "d", "e"] {
                let mut shards: Vec<&String> = members.iter().filter_map(|m| m.shard(tenant)).collect();
                shards.dedup();
                prop_assert!(shards.len() <= 1, "{} goes to {:?}", tenant, shards);
            }
        }
    }
}
