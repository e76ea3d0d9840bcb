//! `forebay fences`: what the shards say about who is how far, and how to overrule it.
//!
//! A start takes its word from the databases, not from Kafka: where every shard knows a partition, the group's committed offset
//! does not count. So moving the group's offsets with Kafka's tools has no effect by itself, on purpose: it would skip
//! records, or apply them twice. [`reset::reset`] makes the shards forget, and the next start begins where the group's committed
//! offset says.
//!
//! Each of forebay's commits also notes, in its metadata, where every shard began with the partition. A database without an
//! anchor is then taken for one that fell back, and the start would go back to the noted place. Therefore a reset always
//! commits anew, with the offset that is wanted and *without* metadata. Kafka comes first: if the reset ends between the
//! two, the shards' word still stands, and the reset may be repeated. The other way round records would be replayed.

mod offsets;
pub mod reset;
pub mod show;

pub use offsets::ToOffset;
