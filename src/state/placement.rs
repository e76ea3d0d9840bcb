//! Which partition a producer sends a record to, so that each partition's records are all of one shard: the shard of the record's
//! tenant, by the router's own rule, and of the partitions that this shard declares the one that the key chooses.
//!
//! The rule, for whoever writes a producer in another language:
//!
//! 1. The candidates are the partitions that the shard declares, in ascending order, as far as the topic has them. A shard that
//!    declares none, while others do, has those that nobody declares. Where no shard declares any, where there is one shard only, and with
//!    `by = "partition"`, they are all partitions of the topic.
//! 2. Of these n candidates it is number (murmur2(key) & 0x7fffffff) mod n, counted from 0: with all partitions as candidates that is what
//!    Kafka's own Java client does by default.
//!
//! Lanes within a partition go by another hash (xxh3), or all of a partition's keys would meet in a few of them.

use std::fmt;

use crate::state::chunk::RawRecord;
use crate::state::router::{RouteError, Router};
use crate::types::ShardIx;

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub shard: ShardIx,
    pub partition: i32,
    /// murmur2(key) & 0x7fffffff.
    pub hash: u32,
    /// The chosen one of so many.
    pub index: usize,
    pub candidates: usize,
}

/// Why it belongs nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misplaced {
    Route(RouteError),
    /// The shard's tenants have no partition of this topic.
    NoPartition(ShardIx),
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misplaced::Route(error) => error.fmt(f),
            Misplaced::NoPartition(_) => {
                f.write_str("the topic has no partition that is declared for this record's shard")
            }
        }
    }
}

/// For one topic with so many partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    partitions: i32,
    /// By shard; none: all of the topic's, for all shards.
    candidates: Option<Vec<Vec<i32>>>,
}

impl Placement {
    pub fn new(router: &Router, partitions: i32) -> Placement {
        let candidates = router.tells_tenants_apart().then(|| {
            let of_shard = |shard| (0..partitions).filter(|p| router.is_candidate(*p, shard)).collect();
            (0..router.shards()).map(|shard| of_shard(ShardIx(shard))).collect()
        });
        Placement { partitions, candidates }
    }

    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The place of a record, which has a key.
    ///
    /// # Errors
    /// Where its tenant, or its shard's partition, cannot be told.
    pub fn place(&self, router: &Router, record: &RawRecord<'_>) -> Result<Place, Misplaced> {
        let hash = positive(murmur2(record.key.unwrap_or_default()));
        let Some(candidates) = &self.candidates else {
            if self.partitions < 1 {
                return Err(Misplaced::NoPartition(ShardIx(0)));
            }
            let partition = (hash % self.partitions as u32) as i32;
            let shard = router.route(partition, record).map_err(Misplaced::Route)?;
            let (index, candidates) = (partition as usize, self.partitions as usize);
            return Ok(Place { shard, partition, hash, index, candidates });
        };
        // The partition says nothing to it.
        let shard = router.route(0, record).map_err(Misplaced::Route)?;
        let candidates = candidates.get(usize::from(shard.0)).filter(|candidates| !candidates.is_empty());
        let candidates = candidates.ok_or(Misplaced::NoPartition(shard))?;
        let index = hash as usize % candidates.len();
        Ok(Place { shard, partition: candidates[index], hash, index, candidates: candidates.len() })
    }

    /// The shards that no record can reach.
    pub fn without_partition(&self) -> impl Iterator<Item = ShardIx> {
        let shards = self.candidates.iter().flatten().enumerate();
        shards.filter(|(_, candidates)| candidates.is_empty()).map(|(shard, _)| ShardIx(shard as u16))
    }
}

/// As Kafka's Java client keeps it from being negative (`Utils.toPositive`).
pub fn positive(hash: u32) -> u32 {
    hash & 0x7fff_ffff
}

/// MurmurHash2 of 32 bits with the seed of Kafka's Java client (`org.apache.kafka.common.utils.Utils.murmur2`), which returns it as a
/// signed number.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::load::parse;
    use crate::state::chunk::Headers;
    use crate::state::router::{key_hash, lane_of};
    use crate::types::Offset;

    fn router(shards: &str) -> Router {
        let text = format!(
            "{shards}\n[kafka]\nbootstrap.servers = \"a\"\ngroup.id = \"g\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n"
        );
        let config = parse("f.toml".as_ref(), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}")).config;
        Router::new(&config)
    }

    fn shards(by: &str, partitions: &[&str]) -> String {
        let one = |(n, partitions): (usize, &&str)| {
            let line = if partitions.is_empty() { String::new() } else { format!("partitions = {partitions:?}\n") };
            format!("[[shard]]\nname = \"s{n}\"\ndsn = \"host=h{n}\"\n{line}")
        };
        format!("[shards]\n{by}\n{}", partitions.iter().enumerate().map(one).collect::<String>())
    }

    fn record(key: &str) -> RawRecord<'_> {
        RawRecord { offset: Offset(0), timestamp_ms: 0, key: Some(key.as_bytes()), value: None, headers: &[] }
    }

    /// `org.apache.kafka.common.utils.UtilsTest.testMurmur2` of apache/kafka, and lengths around a word's.
    #[test]
    fn murmur2_is_that_of_kafka_s_java_client() {
        for (text, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
    }

    #[track_caller]
    fn check(router: &Router, partitions: i32, key: &str, expected: Result<(u16, i32), Misplaced>) {
        let found = Placement::new(router, partitions).place(router, &record(key));
        assert_eq!(found.map(|place| (place.shard.0, place.partition)), expected, "{key}");
    }

    #[test]
    fn a_record_goes_to_a_partition_of_its_tenant_s_shard() {
        // murmur2("1:a") & 0x7fffffff and so on decide below; what they are is asserted by the vectors.
        let index = |key: &str, n: u32| positive(murmur2(key.as_bytes())) % n;
        let modulo = router(&shards("by = \"modulo\"\ntenant = \"key:0\"", &["0-3", "4,6-7"]));
        for key in ["2:a", "4:b", "6:c", "8:d"] {
            check(&modulo, 8, key, Ok((0, index(key, 4) as i32)));
        }
        for key in ["1:a", "3:b", "5:c", "7:d"] {
            check(&modulo, 8, key, Ok((1, [4, 6, 7][index(key, 3) as usize])));
            // What the topic does not have is nobody's.
            check(&modulo, 7, key, Ok((1, [4, 6][index(key, 2) as usize])));
            check(&modulo, 4, key, Err(Misplaced::NoPartition(ShardIx(1))));
        }
        // One shard declares none: what the others left is its own.
        let rest = router(&shards("by = \"modulo\"\ntenant = \"key:0\"", &["1-2", ""]));
        check(&rest, 4, "1:a", Ok((1, [0, 3][index("1:a", 2) as usize])));
        // Without declarations it is Java's own partitioner, whatever decides about the shard.
        let free = router(&shards("by = \"modulo\"\ntenant = \"key:0\"", &["", ""]));
        let alone = router(&shards("", &[""]));
        for key in ["1:a", "2:b", "9:c", "12:d"] {
            let shard = key.split(':').next().and_then(|n| n.parse::<u16>().ok()).expect("a number") % 2;
            check(&free, 12, key, Ok((shard, index(key, 12) as i32)));
            check(&alone, 12, key, Ok((0, index(key, 12) as i32)));
        }
        // The partition decides.
        let by_partition = router(&shards("by = \"partition\"", &["0-1", "2-3"]));
        for key in ["a", "b", "c", "d", "e"] {
            let partition = index(key, 4) as i32;
            check(&by_partition, 4, key, Ok((u16::from(partition > 1), partition)));
        }
        let unreadable = RouteError::Unreadable("it is not an integer".into());
        check(&modulo, 8, "x:1", Err(Misplaced::Route(unreadable)));
    }

    #[test]
    fn whatever_is_placed_is_aligned() {
        for by in ["by = \"hash\"", "by = \"hash\"\ntenant = \"key:0\"", "by = \"partition\""] {
            let router = router(&shards(by, &["0-4", "5-7", "8,10-11,9"]));
            let placement = Placement::new(&router, 12);
            for n in 0..5_000 {
                let key = format!("{}:{n}", n % 37);
                let place = placement.place(&router, &record(&key)).expect("a place");
                assert!(router.is_aligned(place.partition, place.shard));
                assert_eq!(router.route(place.partition, &record(&key)), Ok(place.shard), "the consumer agrees");
            }
        }
    }

    /// Of keys that meet in one partition, each lane gets its share: no lane of a partition more than half as many again as it should have.
    #[test]
    fn lanes_are_even_within_each_partition() {
        let router = router(&shards("by = \"hash\"\ntenant = \"key:0\"", &["0-7", "8-15"]));
        let placement = Placement::new(&router, 16);
        let (lanes, keys) = (16, 200_000);
        let mut found: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        for n in 0..keys {
            let key = format!("app-{}:{n}", n % 1000);
            let place = placement.place(&router, &record(&key)).expect("a place");
            let lane = lane_of(key_hash(Some(key.as_bytes()), Offset(0)), lanes);
            found.entry(place.partition).or_insert_with(|| vec![0; usize::from(lanes)])[usize::from(lane)] += 1;
        }
        assert_eq!(found.len(), 16, "every partition gets keys");
        for (partition, lanes) in found {
            let mean = lanes.iter().sum::<u32>() / lanes.len() as u32;
            let even = lanes.iter().all(|count| (mean / 2..=mean * 3 / 2).contains(count));
            assert!(even, "partition {partition}: {lanes:?}");
        }
    }

    /// What others test their producers with: see the file's own head.
    #[test]
    fn the_vectors_hold() {
        let text = include_str!("../../tests/vectors/placement.tsv");
        let mut seen = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [layout, key, hash, shard, partition, lane, tenant] = fields[..] else {
                panic!("{line:?}: seven fields")
            };
            let three = || vec!["0-4", "5-9", "10-15"];
            let of_map = format!(
                "by = \"map\"\ntenant = \"key:0\"\nmap_file = \"{}/tests/vectors/tenants.toml\"\ndefault = \"s1\"",
                env!("CARGO_MANIFEST_DIR")
            );
            let (by, declared, partitions) = match layout {
                "one" => ("", vec![""], 12),
                "modulo" => ("by = \"modulo\"\ntenant = \"key:0\"", vec!["0-3", "4,6-7"], 8),
                "hash" => ("by = \"hash\"\ntenant = \"key:0\"", three(), 16),
                "free" => ("by = \"hash\"\ntenant = \"key:0\"", vec!["", "", ""], 16),
                "rest" => ("by = \"hash\"\ntenant = \"key:0\"", vec!["1-2", ""], 8),
                "partition" => ("by = \"partition\"", vec!["0-4", "5-11"], 12),
                "map" => (of_map.as_str(), vec!["0-1", "2", "3-6"], 7),
                "header" => ("by = \"hash\"\ntenant = \"header:Tenant\"", vec!["0-3", "4-7"], 8),
                "field" => ("by = \"modulo\"\ntenant = \"field:app_id\"", vec!["0-3", "4-7"], 8),
                other => panic!("{other}: no such layout"),
            };
            let router = router(&shards(by, &declared));
            let (mut headers, value) = (Vec::new(), format!("{{\"app_id\":{tenant}}}"));
            Headers::pack(&mut headers, "Tenant", Some(tenant.as_bytes()));
            let record = RawRecord { headers: &headers, value: Some(value.as_bytes()), ..record(key) };
            let place = Placement::new(&router, partitions).place(&router, &record).expect("a place");
            let of_key = lane_of(key_hash(Some(key.as_bytes()), Offset(0)), 16);
            let found = [
                (murmur2(key.as_bytes()) as i32).to_string(),
                format!("s{}", place.shard.0),
                place.partition.to_string(),
                of_key.to_string(),
            ];
            assert_eq!(found.each_ref().map(String::as_str), [hash, shard, partition, lane], "{line}");
            seen += 1;
        }
        assert!(seen > 70, "{seen} vectors");
    }
}
