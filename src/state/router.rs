//! Which shard and which lane a record belongs to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Write};
use std::sync::Arc;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, RouteBy, Tenant};
use crate::state::chunk::{Headers, RawRecord};
use crate::state::tenant_pace::TenantHash;
use crate::types::{KeyHash, Lane, Offset, ShardIx};

/// xxh3(key, seed 0); a record without a key has no order to keep and goes by its offset.
pub fn key_hash(key: Option<&[u8]>, offset: Offset) -> KeyHash {
    key.map_or(offset.0, |key| xxh3_64(key) as i64)
}

/// The lane of a key: its hash modulo the number of lanes.
pub fn lane_of(hash: KeyHash, lanes: Lane) -> Lane {
    (hash as u64 % u64::from(lanes)) as Lane
}

/// Why a record has no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("no shard declares partition {0}")]
    Partition(i32),
    #[error("the tenant cannot be read: {0}")]
    Unreadable(String),
    #[error(
        "the map has no shard for this record's tenant, and there is no default: add the tenant to the map, or set \
         shards.default, and send SIGHUP"
    )]
    Unmapped,
    #[error("the shard function names shard {0}, and there are {1}, counted from 0")]
    NoSuchShard(u16, u16),
}

/// A program's own way to choose a shard: implement it to reproduce how the databases are sharded already. See
/// [`Engine::route`](crate::engine::Engine::route).
///
/// It is called for every record, on the poller's thread: it must neither block nor allocate.
pub trait ShardFunction: Send + Sync {
    /// The shard, counted from 0 in the configuration's order, of `shards`. All records of one row must get the same one, in
    /// every process, for ever. `headers` are read by [`Headers`](crate::state::chunk::Headers).
    ///
    /// # Errors
    /// [`RouteError::Unreadable`] for a record that names no tenant: it is handled as a bad record of the first shard.
    /// [`RouteError::Unmapped`] for a tenant that is not known yet: its topic stops.
    fn shard(&self, partition: i32, record: &RawRecord<'_>, shards: u16) -> Result<ShardIx, RouteError>;

    /// Names the function and its version: another one sends some row elsewhere. Each database remembers it, and refuses a
    /// process with another one.
    fn generation(&self) -> String;
}

/// See the module's text. Built from the configuration.
pub struct Router {
    shards: u16,
    by: By,
    tenant: Tenant,
    delimiter: String,
    /// Where partitions are declared: partition → its shard.
    declared: Option<Vec<(std::ops::RangeInclusive<i32>, ShardIx)>>,
}

enum By {
    Function(Arc<dyn ShardFunction>),
    /// A program's function that is not at hand: such a router finds tenants, which is all that workers want of one.
    Absent,
    Partition,
    Hash,
    Modulo,
    Map {
        tenants: BTreeMap<String, usize>,
        default: Option<usize>,
    },
}

impl Router {
    pub fn new(config: &Config) -> Router {
        let by = match &config.routing.by {
            RouteBy::Partition => By::Partition,
            RouteBy::Hash => By::Hash,
            RouteBy::Modulo => By::Modulo,
            RouteBy::Map { tenants, default, .. } => By::Map { tenants: tenants.clone(), default: *default },
            RouteBy::Function { .. } => By::Absent,
        };
        Router::by(config, by)
    }

    pub fn with_function(config: &Config, function: Arc<dyn ShardFunction>) -> Router {
        Router::by(config, By::Function(function))
    }

    /// The same with what may change while records flow: the map, whose tenants keep their shards.
    pub fn reloaded(&self, config: &Config) -> Router {
        match &self.by {
            By::Function(function) => Router::with_function(config, Arc::clone(function)),
            _ => Router::new(config),
        }
    }

    fn by(config: &Config, by: By) -> Router {
        let declared: Vec<_> = config
            .shards
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.partitions.iter().flatten().map(move |r| (r.clone(), ShardIx(i as u16))))
            .collect();
        Router {
            shards: config.shards.len() as u16,
            by,
            tenant: config.routing.tenant.clone(),
            delimiter: config.routing.delimiter.clone(),
            declared: (!declared.is_empty()).then_some(declared),
        }
    }

    #[cfg(test)]
    pub fn of_one_shard() -> Router {
        Router { shards: 1, by: By::Partition, tenant: Tenant::Key, delimiter: ":".into(), declared: None }
    }

    fn declared(&self, partition: i32) -> Option<ShardIx> {
        self.declared.as_ref()?.iter().find(|(range, _)| range.contains(&partition)).map(|(_, shard)| *shard)
    }

    /// Whether a record that was routed to `shard` is where its partition's records are declared to be. True where nothing
    /// is declared.
    pub fn is_aligned(&self, partition: i32, shard: ShardIx) -> bool {
        self.declared.is_none() || self.declared(partition).is_none_or(|declared| declared == shard)
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Whether a record's shard follows from its partition.
    pub fn asks_partitions(&self) -> bool {
        self.shards > 1 && matches!(self.by, By::Partition)
    }

    /// Whether tenants have shards, and these partitions of their own: whoever produces can keep them together.
    pub fn tells_tenants_apart(&self) -> bool {
        self.shards > 1 && self.declared.is_some() && !matches!(self.by, By::Partition)
    }

    /// Whether a shard's tenants may be in this partition: it is declared for the shard or, where the shard declares none, for nobody.
    pub fn is_candidate(&self, partition: i32, shard: ShardIx) -> bool {
        let declares = self.declared.iter().flatten().any(|(_, declared)| *declared == shard);
        match self.declared(partition) {
            Some(declared) => declared == shard,
            None => !declares,
        }
    }

    /// The shards that records of a partition can reach.
    pub fn shards_of(&self, partition: i32) -> Vec<ShardIx> {
        match (&self.by, self.declared(partition)) {
            (By::Partition, Some(shard)) => vec![shard],
            (By::Partition, None) if self.declared.is_some() => Vec::new(),
            // Declared beside a function: aligned as far as the operator says. A record that belongs elsewhere is still
            // routed by the function, so every shard stays relevant.
            _ => (0..self.shards).map(ShardIx).collect(),
        }
    }

    /// The shard of a record.
    pub fn route(&self, partition: i32, record: &RawRecord<'_>) -> Result<ShardIx, RouteError> {
        if self.shards == 1 {
            return Ok(ShardIx(0));
        }
        match &self.by {
            By::Function(function) => match function.shard(partition, record, self.shards)? {
                shard if shard.0 < self.shards => Ok(shard),
                shard => Err(RouteError::NoSuchShard(shard.0, self.shards)),
            },
            By::Absent => unreachable!("only the poller routes, and its router has the function"),
            By::Partition => self.declared(partition).ok_or(RouteError::Partition(partition)),
            By::Hash => {
                self.with_tenant(record, |tenant| Ok(ShardIx((xxh3_64(tenant) % u64::from(self.shards)) as u16)))
            }
            By::Modulo => self.with_tenant(record, |tenant| {
                let number = std::str::from_utf8(tenant).ok().and_then(|t| t.parse::<i128>().ok());
                let number = number.ok_or_else(|| RouteError::Unreadable("it is not an integer".into()))?;
                Ok(ShardIx(number.rem_euclid(i128::from(self.shards)) as u16))
            }),
            By::Map { tenants, default } => self.with_tenant(record, |tenant| {
                let name = std::str::from_utf8(tenant).map_err(|_| RouteError::Unreadable("it is not UTF-8".into()))?;
                let shard = tenants.get(name).or(default.as_ref()).ok_or(RouteError::Unmapped)?;
                Ok(ShardIx(*shard as u16))
            }),
        }
    }

    /// What names a record's tenant, as far as that can be read.
    pub fn tenant_of<'r>(&self, record: &RawRecord<'r>) -> Option<Cow<'r, [u8]>> {
        match &self.tenant {
            Tenant::Key => record.key.map(Cow::Borrowed),
            Tenant::KeyPart(n) => nth_part(record.key?, self.delimiter.as_bytes(), *n).map(Cow::Borrowed),
            Tenant::Header(name) => Headers(record.headers).get(name).flatten().map(Cow::Borrowed),
            Tenant::Field(name) => match read_field(record.value?, name).ok()?? {
                Field::Text(Cow::Borrowed(text)) => Some(Cow::Borrowed(text.as_bytes())),
                other => Some(Cow::Owned(other.with_text(<[u8]>::to_vec))),
            },
        }
    }

    /// The same, hashed.
    pub fn tenant_hash(&self, record: &RawRecord<'_>) -> Option<TenantHash> {
        self.tenant_of(record).map(|name| TenantHash::new(&name))
    }

    fn with_tenant<T>(
        &self,
        record: &RawRecord<'_>,
        then: impl FnOnce(&[u8]) -> Result<T, RouteError>,
    ) -> Result<T, RouteError> {
        let missing = |what: &str| RouteError::Unreadable(format!("the record has no {what}"));
        match &self.tenant {
            Tenant::Key => then(record.key.ok_or_else(|| missing("key"))?),
            Tenant::KeyPart(n) => {
                let key = record.key.ok_or_else(|| missing("key"))?;
                then(
                    nth_part(key, self.delimiter.as_bytes(), *n)
                        .ok_or_else(|| missing(&format!("part {n} in its key")))?,
                )
            }
            Tenant::Header(name) => {
                let value = Headers(record.headers).get(name).flatten();
                then(value.ok_or_else(|| missing(&format!("header {name:?}")))?)
            }
            Tenant::Field(name) => {
                let value = record.value.ok_or_else(|| missing("value to read the tenant from"))?;
                let field = read_field(value, name).map_err(RouteError::Unreadable)?;
                field.ok_or_else(|| missing(&format!("field {name:?}")))?.with_text(then)
            }
        }
    }
}

fn nth_part<'a>(key: &'a [u8], delimiter: &[u8], n: usize) -> Option<&'a [u8]> {
    let mut rest = key;
    for _ in 0..n {
        let at = find(rest, delimiter)?;
        rest = &rest[at + delimiter.len()..];
    }
    Some(find(rest, delimiter).map_or(rest, |end| &rest[..end]))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    (!needle.is_empty()).then(|| haystack.windows(needle.len()).position(|w| w == needle)).flatten()
}

/// A top-level string or integer field of a JSON object. Borrowed from it, unless it is written with escapes.
fn read_field<'j>(json: &'j [u8], name: &str) -> Result<Option<Field<'j>>, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    // serde's words for the wrong type repeat the value.
    FieldSeed(name).deserialize(&mut reader).map_err(|error| match error.is_data() {
        true => format!("the value is not a JSON object whose field {name:?} is a string or an integer"),
        false => format!("the value is not a JSON object with it: {error}"),
    })
}

/// A field's value.
#[derive(Debug, PartialEq)]
enum Field<'j> {
    Text(Cow<'j, str>),
    Integer(i128),
}

impl Field<'_> {
    /// Its text, an integer's in decimal.
    fn with_text<T>(&self, then: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Field::Text(text) => then(text.as_bytes()),
            Field::Integer(number) => {
                // As long as the longest i128 and its sign.
                let mut room = Cursor::new([0; 40]);
                write!(room, "{number}").expect("forty bytes hold it");
                let len = room.position() as usize;
                then(&room.get_ref()[..len])
            }
        }
    }
}

struct FieldSeed<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Option<Field<'de>>;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Option<Field<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object whose field {:?} is a string or an integer", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(it_is) = map.next_key_seed(NameSeed(self.0))? {
            if it_is {
                found = Some(map.next_value::<Field<'de>>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one that is looked for. A key of type `Cow` would be copied each time.
struct NameSeed<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Field<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Field<'de>, D::Error> {
        reader.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an integer")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Field<'de>, E> {
        Ok(Field::Integer(number.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Field<'de>, E> {
        Ok(Field::Integer(number.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn router(by: By, tenant: Tenant, shards: u16) -> Router {
        Router { shards, by, tenant, delimiter: ":".into(), declared: None }
    }

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> RawRecord<'a> {
        RawRecord { offset: Offset(0), timestamp_ms: -1, key, value, headers: &[] }
    }

    /// Where the whole key is the tenant, the shard leaves some lanes of each partition empty. Those that it fills it fills evenly, and there are
    /// as many as workers.
    #[test]
    fn lanes_that_a_shard_fills_are_enough_and_even() {
        for shards in [2_usize, 3, 4, 6, 8, 16] {
            let all: String =
                (0..shards).map(|i| format!("[[shard]]\nname = \"s{i}\"\ndsn = \"host=h{i}\"\n")).collect();
            let text = format!(
                "[kafka]\nbootstrap.servers = \"b\"\ngroup.id = \"g\"\n[shards]\nby = \"hash\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n{all}"
            );
            let config = crate::config::load::parse("f".as_ref(), &text, &|_| None).expect("valid").config;
            let router = Router::new(&config);
            let mut found = vec![BTreeMap::<Lane, u32>::new(); shards];
            for n in 0..50_000 {
                let key = format!("app-{}:{n}", n % 100).into_bytes();
                let ShardIx(shard) = router.route(0, &record(Some(&key), None)).expect("a shard");
                let lane = lane_of(key_hash(Some(&key), Offset(0)), config.engine.lanes);
                *found[usize::from(shard)].entry(lane).or_default() += 1;
            }
            for lanes in found {
                assert!(lanes.len() >= config.engine.workers_per_shard, "{shards} shards: {lanes:?}");
                let mean = lanes.values().sum::<u32>() / lanes.len() as u32;
                assert!(lanes.values().all(|n| (mean / 2..=mean * 3 / 2).contains(n)), "{shards} shards: {lanes:?}");
            }
        }
    }

    #[test]
    fn the_tenant_is_found_where_it_was_said_to_be() {
        let value = br#"{"skip":{"app":"no"},"app":"17","n":17}"#;
        for (tenant, expected) in [
            (Tenant::KeyPart(0), Ok(ShardIx(1))),
            (Tenant::KeyPart(1), Ok(ShardIx(2))),
            (Tenant::KeyPart(2), Err(RouteError::Unreadable("the record has no part 2 in its key".into()))),
            (Tenant::Field("app".into()), Ok(ShardIx(1))),
            (Tenant::Field("n".into()), Ok(ShardIx(1))),
        ] {
            let found = router(By::Modulo, tenant, 4).route(0, &record(Some(b"17:6"), Some(value)));
            assert_eq!(found, expected);
        }
    }

    /// Read once per record: it is borrowed where the record has it as it is.
    #[test]
    fn a_field_is_read_without_a_copy() {
        let text = |json: &str, expected: Result<(&str, bool), &str>| {
            let found = read_field(json.as_bytes(), "app");
            let shown = found.as_ref().map(|field| {
                let field = field.as_ref().expect("the field is there");
                let text = field.with_text(|text| String::from_utf8(text.to_vec()).unwrap());
                (text, matches!(field, Field::Text(Cow::Owned(_))))
            });
            match (shown, expected) {
                (Ok((text, copied)), Ok(expected)) => assert_eq!((text.as_str(), copied), expected, "{json}"),
                (Err(message), Err(words)) => assert!(message.contains(words), "{json}: {message}"),
                (shown, _) => panic!("{json}: {shown:?}"),
            }
        };
        text(r#"{"a\"b":[{"app":1}],"app":"x"}"#, Ok(("x", false)));
        text(r#"{"app":"a\u00e9"}"#, Ok(("a\u{e9}", true)));
        text(r#"{"\u0061pp":"x"}"#, Ok(("x", false)));
        text(r#"{"app":-9223372036854775808}"#, Ok(("-9223372036854775808", false)));
        text(r#"{"app":18446744073709551615}"#, Ok(("18446744073709551615", false)));
        text(r#"{"app":1,"app":"last"}"#, Ok(("last", false)));
        for other in ["1.5", "null", "true", "[1]", "{}"] {
            text(&format!(r#"{{"app":{other}}}"#), Err("a string or an integer"));
        }
        for value in [r#""4711""#, "4711", r#"{"app":4711.5}"#, r#"{"app":"4711"#, "{4711"] {
            let said = read_field(value.as_bytes(), "app").unwrap_err();
            assert!(!said.contains("4711"), "{value}: its value is repeated: {said}");
        }
        text("[]", Err("not a JSON object"));
        assert_eq!(read_field(br#"{"ap":1}"#, "app"), Ok(None));
    }

    struct Own;

    impl ShardFunction for Own {
        fn shard(&self, partition: i32, record: &RawRecord<'_>, shards: u16) -> Result<ShardIx, RouteError> {
            let tenant = record.key.ok_or_else(|| RouteError::Unreadable("no key".into()))?;
            Ok(ShardIx(if tenant == b"beyond" { shards } else { partition as u16 % shards }))
        }

        fn generation(&self) -> String {
            "own 1".to_owned()
        }
    }

    #[test]
    fn a_function_of_the_programs_own_decides_within_its_bounds() {
        let router = router(By::Function(Arc::new(Own)), Tenant::Key, 2);
        assert_eq!(router.route(3, &record(Some(b"a"), None)), Ok(ShardIx(1)));
        assert_eq!(router.route(3, &record(None, None)), Err(RouteError::Unreadable("no key".into())));
        assert_eq!(router.route(3, &record(Some(b"beyond"), None)), Err(RouteError::NoSuchShard(2, 2)));
        assert_eq!(router.shards_of(3), [ShardIx(0), ShardIx(1)]);
    }

    #[test]
    fn a_router_without_its_function_still_finds_tenants() {
        let router = router(By::Absent, Tenant::KeyPart(0), 2);
        assert_eq!(router.tenant_of(&record(Some(b"a:1"), None)).as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn an_unknown_tenant_is_told_apart_from_an_unreadable_one() {
        let by = By::Map { tenants: BTreeMap::from([("a".into(), 1)]), default: None };
        let router = router(by, Tenant::Key, 2);
        assert_eq!(router.route(0, &record(Some(b"a"), None)), Ok(ShardIx(1)));
        assert_eq!(router.route(0, &record(Some(b"b"), None)), Err(RouteError::Unmapped));
        assert!(matches!(router.route(0, &record(None, None)), Err(RouteError::Unreadable(_))));
    }

    proptest! {
        #[test]
        fn a_key_always_has_one_lane_and_one_shard(key in prop::collection::vec(any::<u8>(), 0..40), lanes in 0u32..7, shards in 1u16..9, a: i32, b: i32) {
            let lanes = 1 << lanes;
            let lane = lane_of(key_hash(Some(&key), Offset(1)), lanes);
            prop_assert!(lane < lanes);
            prop_assert_eq!(lane, lane_of(key_hash(Some(&key), Offset(999)), lanes));
            let router = router(By::Hash, Tenant::Key, shards);
            let shard = router.route(a, &record(Some(&key), None)).unwrap();
            prop_assert!(shard.0 < shards);
            prop_assert_eq!(shard, router.route(b, &record(Some(&key), Some(b"x"))).unwrap());
        }

        #[test]
        fn records_without_a_key_spread_over_all_lanes(first in 0i64..1_000_000) {
            let lanes: std::collections::BTreeSet<_> = (first..first + 16).map(|o| lane_of(key_hash(None, Offset(o)), 16)).collect();
            prop_assert_eq!(lanes.len(), 16);
        }

        #[test]
        fn modulo_follows_the_integer(tenant: i64, shards in 2u16..9) {
            let text = tenant.to_string();
            let shard = router(By::Modulo, Tenant::Key, shards).route(0, &record(Some(text.as_bytes()), None)).unwrap();
            prop_assert_eq!(i64::from(shard.0), tenant.rem_euclid(i64::from(shards)));
        }
    }
}
