//! Makes every shard forget where it stands with a topic, or with one partition of it, so that the next start begins where the
//! group's committed offset says. Touches no row of the user's. See the module above for the order of things.

use postgres::types::Type;
use postgres::{Client, Transaction};

use crate::config::{Config, Pooler, Shard};
use crate::fences::offsets::{GroupOffsets, OffsetsError, ToOffset};
use crate::sink::connect::{Connector, Opened, application_prefix};
use crate::sink::schema::{self, Expected, Version};
use crate::sink::{Failure, connections, shards, sqlstate};
use crate::types::ShardIx;

/// What our own connections that own nothing call themselves; all others of the group belong to a process that runs.
const NOT_OWNERS: [&str; 6] = ["fences", "check", "init", shards::PURPOSE, connections::SYNC, connections::INGEST];

/// What is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub topic: String,
    /// All of them where none.
    pub partition: Option<i32>,
    pub to: ToOffset,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Partition → the offset at which the next start begins. Others begin as `auto.offset.reset` says.
    pub offsets: Vec<(i32, i64)>,
    /// Shard → how many partitions it forgot.
    pub shards: Vec<(String, u64)>,
}

/// Why nothing was done, or (`Unfinished`) not all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// Neither Kafka nor a shard knows what is to be reset.
    #[error("{0}")]
    Unknown(String),
    /// Something must be done first.
    #[error("{0}")]
    Refused(String),
    /// A broker or a shard does not answer; all must, or they would disagree afterwards.
    #[error("{0}")]
    Unavailable(String),
    /// The group's offsets are rewritten, but not every shard has forgotten: to be repeated.
    #[error("{0}. Repeat the command: only then does the new start hold in every shard")]
    Unfinished(String),
}

impl From<OffsetsError> for ResetError {
    fn from(error: OffsetsError) -> ResetError {
        match error {
            OffsetsError::Unavailable(text) => ResetError::Unavailable(format!("Kafka: {text}")),
            OffsetsError::Refused(text) => ResetError::Refused(text),
        }
    }
}

/// See the module's text. The group must be stopped.
pub fn reset(config: &Config, request: &Request) -> Result<Done, ResetError> {
    let kafka = GroupOffsets::new(&config.kafka)?;
    let members = kafka.members()?;
    if !members.is_empty() {
        let text = format!(
            "group {:?} has members ({}): stop every process of it first",
            config.kafka.group_id,
            members.join(", ")
        );
        return Err(ResetError::Refused(text));
    }
    // Every shard is asked and held before anything changes.
    let mut opened: Vec<(&Shard, Opened, Version)> = Vec::new();
    for (index, shard) in config.shards.iter().enumerate() {
        let found = connect(config, ShardIx(index as u16)).map_err(|f| of_shard(&shard.name, &f))?;
        opened.extend(found.map(|(found, version)| (shard, found, version)));
    }
    let mut held = Vec::new();
    for (shard, opened, version) in &mut opened {
        let name = &shard.name;
        let hold = Held::new(&mut opened.client, *version, config, shard, request).map_err(|f| of_shard(name, &f))?;
        if !hold.owners.is_empty() {
            let owners = hold.owners.join(", ");
            let text = format!(
                "shard {name}: the group is running, its connections are there ({owners}): stop every process of it first"
            );
            return Err(ResetError::Refused(text));
        }
        if let Some(what) = hold.kept_back(&request.topic) {
            return Err(ResetError::Refused(format!("shard {name}: {what}")));
        }
        held.push((name.clone(), hold));
    }
    let partitions = selected(config, request, &kafka.partitions(&request.topic)?, &held)?;
    let offsets = kafka.wanted(&request.topic, &partitions, request.to)?;
    kafka.commit(&request.topic, &offsets)?;
    let mut shards = Vec::new();
    for (name, hold) in held {
        let forgotten = hold
            .forget(request.partition)
            .map_err(|f| ResetError::Unfinished(format!("shard {name}: {}", f.reason())))?;
        shards.push((name, forgotten));
    }
    Ok(Done { offsets: offsets.into_iter().collect(), shards })
}

/// Which of the topic's partitions (in Kafka) get an offset. What only shards know is forgotten without one.
fn selected(
    config: &Config,
    request: &Request,
    in_kafka: &[i32],
    held: &[(String, Held<'_>)],
) -> Result<Vec<i32>, ResetError> {
    let (topic, group) = (&request.topic, &config.kafka.group_id);
    let known = |wanted: &dyn Fn(i32) -> bool| held.iter().any(|(_, hold)| hold.partitions.iter().any(|p| wanted(*p)));
    let selected: Vec<i32> =
        in_kafka.iter().copied().filter(|p| request.partition.is_none_or(|wanted| wanted == *p)).collect();
    match request.partition {
        Some(partition) if selected.is_empty() && !known(&|p| p == partition) => Err(ResetError::Unknown(format!(
            "topic {topic:?} has {} partitions, and no shard knows a partition {partition} of it",
            in_kafka.len()
        ))),
        None if selected.is_empty() && !known(&|_| true) => {
            Err(ResetError::Unknown(format!("neither Kafka nor a shard knows topic {topic:?} of group {group:?}")))
        }
        _ => Ok(selected),
    }
}

fn of_shard(name: &str, failure: &Failure) -> ResetError {
    let text = format!("shard {name}: {}", failure.reason());
    match failure {
        Failure::Outage(_) | Failure::Transient(_) | Failure::LockWait(_) => ResetError::Unavailable(text),
        Failure::LockedOut(_) | Failure::NoRoom(_) | Failure::TooLong(_) => ResetError::Unavailable(text),
        Failure::Record(..) | Failure::Topic(_) | Failure::Shard(_) => ResetError::Refused(text),
    }
}

/// None if forebay was never there.
fn connect(config: &Config, shard: ShardIx) -> Result<Option<(Opened, Version)>, Failure> {
    let settings = &config.shards[usize::from(shard.0)];
    let mut opened = Connector::new(settings, &config.kafka.group_id, "fences")?.connect()?;
    let version = schema::inspect(&mut opened.client, &Expected::new(config, shard))?;
    Ok(version.map(|version| (opened, version)))
}

/// A shard that is kept from taking the topic over until it has forgotten, or this is dropped.
struct Held<'a> {
    transaction: Transaction<'a>,
    sources: Vec<i32>,
    partitions: Vec<i32>,
    owners: Vec<String>,
    /// Parked records: Kafka would not bring them again, or bring them twice.
    parked: i64,
    /// Holds, which would be forgotten with the topic.
    holds: i64,
}

impl<'a> Held<'a> {
    fn new(
        client: &'a mut Client,
        version: Version,
        config: &Config,
        shard: &Shard,
        request: &Request,
    ) -> Result<Held<'a>, Failure> {
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        let mut transaction = client.transaction().map_err(failed)?;
        // Waits for takeovers under way, and keeps new ones waiting: they hold this row, too.
        let lock = "SELECT id FROM forebay.source WHERE grp = $1 AND topic = $2 FOR UPDATE";
        let group = &config.kafka.group_id;
        let rows =
            transaction.query_typed(lock, &[(group, Type::TEXT), (&request.topic, Type::TEXT)]).map_err(failed)?;
        let sources: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        // Only now: whoever took over before is connected, whoever comes later waits.
        // A pooler's connection keeps the name of whoever had it last: only while it works it says something.
        let alive = "SELECT application_name, pid, coalesce(host(client_addr), 'local') FROM pg_stat_activity \
                     WHERE datname = current_database() AND starts_with(application_name, $1) \
                     AND NOT application_name = ANY ($2) AND NOT ($3 AND state = 'idle')";
        let pooled = shard.pooler == Pooler::Transaction;
        let prefix = application_prefix(group);
        let others: Vec<String> = NOT_OWNERS.iter().map(|name| format!("{prefix}{name}")).collect();
        let rows = transaction
            .query_typed(alive, &[(&prefix, Type::TEXT), (&others, Type::TEXT_ARRAY), (&pooled, Type::BOOL)])
            .map_err(failed)?;
        let owners = rows.iter().map(|row| {
            format!("{} (pid {}) from {}", row.get::<_, String>(0), row.get::<_, i32>(1), row.get::<_, String>(2))
        });
        let owners = owners.collect();
        let known =
            "SELECT partition FROM forebay.partition WHERE source = ANY ($1) AND ($2::int IS NULL OR partition = $2)";
        let rows = transaction
            .query_typed(known, &[(&sources, Type::INT4_ARRAY), (&request.partition, Type::INT4)])
            .map_err(failed)?;
        let partitions = rows.iter().map(|row| row.get(0)).collect();
        let (mut parked, mut holds) = (0, 0);
        if version >= schema::PARKING {
            let kept = "SELECT (SELECT count(*) FROM forebay.parked WHERE source = ANY ($1) AND ($2::int IS NULL OR partition = $2)), \
                        (SELECT count(*) FROM forebay.hold WHERE source = ANY ($1) AND $2 IS NULL)";
            let row = transaction
                .query_typed_one(kept, &[(&sources, Type::INT4_ARRAY), (&request.partition, Type::INT4)])
                .map_err(failed)?;
            (parked, holds) = (row.get(0), row.get(1));
        }
        Ok(Held { transaction, sources, partitions, owners, parked, holds })
    }

    /// What must not be forgotten, and what to do about it.
    fn kept_back(&self, topic: &str) -> Option<String> {
        match (self.parked, self.holds) {
            (0, 0) => None,
            (0, holds) => Some(format!(
                "a person holds keys or tenants of {topic} ({holds}), and a reset would forget that. `forebay parked` lists them; \
                 `forebay unpark` first, and `forebay park` again after the next start"
            )),
            (parked, _) => Some(format!(
                "{parked} records of {topic} are parked, and after a reset they would be lost, or applied out of order. `forebay parked` \
                 lists them. Let them be applied first: `forebay unpark` what is held, `forebay dead-letters replay` or `discard` \
                 what blocks its key, and let `forebay run` work until none is left"
            )),
        }
    }

    /// Deletes anchors and fences, and with all partitions of a topic its identity. Returns the number of anchors.
    fn forget(mut self, partition: Option<i32>) -> Result<u64, Failure> {
        let failed = |error: postgres::Error| sqlstate::failure(&error);
        // Anchors first, as every takeover locks them.
        let mut delete = |table: &str| {
            let sql =
                format!("DELETE FROM forebay.{table} WHERE source = ANY ($1) AND ($2::int IS NULL OR partition = $2)");
            self.transaction
                .execute_typed(&sql, &[(&self.sources, Type::INT4_ARRAY), (&partition, Type::INT4)])
                .map_err(failed)
        };
        let forgotten = delete("partition")?;
        delete("fence")?;
        if partition.is_none() {
            self.transaction
                .execute_typed("DELETE FROM forebay.source WHERE id = ANY ($1)", &[(&self.sources, Type::INT4_ARRAY)])
                .map_err(failed)?;
        }
        self.transaction.commit().map_err(failed)?;
        Ok(forgotten)
    }
}
