//! What is counted by topic, shard and worker. Threads add to it once a batch; whoever reads takes no lock that they wait for long.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::Counter;
use crate::metrics::histogram::Histogram;
use crate::types::{ShardIx, TopicIx};

/// A closed list of label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    };
}

labels! {
    /// What became of a record.
    Outcome {
        /// Its row was inserted or updated.
        Upserted = "upserted",
        Deleted = "deleted",
        /// Another record of its batch made it superfluous.
        Folded = "folded",
        /// The database had it already.
        Skipped = "skipped",
        Parked = "parked",
        DeadLettered = "dead_lettered",
    }
}

labels! {
    /// Why the gateway did not answer a request with success.
    Refused {
        Token = "token",
        NoRoute = "no_route",
        Method = "method",
        MediaType = "media_type",
        TooLarge = "too_large",
        /// No JSON object at all.
        NotJson = "not_json",
        /// The table cannot take it.
        Unfit = "unfit",
        /// The body says something else than the path.
        Contradiction = "contradiction",
        /// It has no tenant, or one without a shard.
        Tenant = "tenant",
        /// As much is on its way as may be.
        QueueFull = "queue_full",
        /// The brokers did not answer in time.
        Deadline = "deadline",
        /// The brokers refused it, or were given up.
        Brokers = "brokers",
        /// What the table or the topic is like is not known yet.
        Unknown = "unknown",
        /// `sync` only, from here on: another row has it, or none that it refers to.
        Conflict = "conflict",
        /// No connection was free in time.
        NoConnection = "no_connection",
        /// Somebody holds the row's lock, or another request is still writing it.
        RowBusy = "row_busy",
        /// The database is away, or did not do it.
        Database = "database",
    }
}

labels! {
    /// The way of a record: how long it took to come this far from the stage before.
    Stage {
        /// From the record's own timestamp to the poller.
        Fetched = "fetched",
        /// To its worker's inbox.
        Routed = "routed",
        /// To the batch that takes it.
        Dequeued = "dequeued",
        /// To the COMMIT that made it durable: with its row, parked, or as a dead letter.
        Written = "written",
        /// To the commit of its offset in Kafka.
        Committed = "committed",
    }
}

labels! {
    /// Why something was tried again.
    Cause {
        Lock = "lock",
        Transient = "transient",
        TooLong = "too_long",
        Outage = "outage",
        Record = "record",
        /// More would have had to be parked than may be.
        NoRoom = "no_room",
        /// A fence was not where it was expected, or a key not free.
        Mismatch = "mismatch",
        /// The database or the table refuses, until a person has done something.
        Refused = "refused",
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Metrics {
    pub topics: Vec<OfTopic>,
    pub shards: Vec<Arc<OfShard>>,
}

#[derive(Debug, Default)]
pub struct OfTopic {
    /// Records received from Kafka.
    pub fetched: Counter,
    /// Records whose shard is not the one that declares their partition.
    pub misaligned: Counter,
    /// The poller adds to it, chunk by chunk.
    pub times: Mutex<Times>,
}

/// How long records took, in microseconds.
#[derive(Debug, Clone)]
pub struct Times {
    stages: Vec<Histogram>,
    /// From the record's own timestamp to that COMMIT.
    pub durable: Histogram,
}

#[derive(Debug)]
pub struct OfShard {
    pub topics: Vec<OfTopicInShard>,
    /// Workers, then slow lanes.
    pub writers: Vec<OfWriter>,
    pub breaker_opened: Counter,
}

#[derive(Debug, Default)]
pub struct OfTopicInShard {
    outcomes: [Counter; Outcome::ALL.len()],
    retries: [Counter; Cause::ALL.len()],
    /// A batch was divided because something in it did not work.
    pub bisections: Counter,
    /// Records that a slow lane took out again.
    pub unparked: Counter,
    pub batch_records: Mutex<Histogram>,
}

#[derive(Debug, Default)]
pub struct OfWriter {
    /// Microseconds that it was at work on its database.
    pub busy_us: Counter,
}

impl Metrics {
    /// `writers`: of each shard.
    pub fn new(topics: usize, shards: usize, writers: usize) -> Metrics {
        Metrics {
            topics: (0..topics).map(|_| OfTopic::default()).collect(),
            shards: (0..shards).map(|_| Arc::new(OfShard::new(topics, writers))).collect(),
        }
    }

    pub fn topic(&self, topic: TopicIx) -> &OfTopic {
        &self.topics[usize::from(topic.0)]
    }

    pub fn shard(&self, shard: ShardIx) -> &Arc<OfShard> {
        &self.shards[usize::from(shard.0)]
    }
}

impl Default for Times {
    fn default() -> Times {
        Times { stages: Stage::ALL.iter().map(|_| Histogram::default()).collect(), durable: Histogram::default() }
    }
}

impl Times {
    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    pub fn stage_mut(&mut self, stage: Stage) -> &mut Histogram {
        &mut self.stages[stage as usize]
    }
}

impl OfShard {
    pub fn new(topics: usize, writers: usize) -> OfShard {
        OfShard {
            topics: (0..topics).map(|_| OfTopicInShard::default()).collect(),
            writers: (0..writers).map(|_| OfWriter::default()).collect(),
            breaker_opened: Counter::default(),
        }
    }

    pub fn topic(&self, topic: TopicIx) -> &OfTopicInShard {
        &self.topics[usize::from(topic.0)]
    }
}

impl OfTopicInShard {
    pub fn outcome(&self, outcome: Outcome) -> &Counter {
        &self.outcomes[outcome as usize]
    }

    pub fn retried(&self, cause: Cause) -> &Counter {
        &self.retries[cause as usize]
    }
}
