//! Applies dead letters after all, when the table or the rule that refused them was mended.
//!
//! A letter that blocks its key is only set back to waiting: the slow lane applies it in its turn and takes it out in one
//! transaction, now or when a process runs again. So the key's order is kept, and a handler's topic may be replayed, too.
//!
//! Others are applied here, each in a transaction that also marks it: exactly once, however often it is asked for and by how many.
//! The key of a skipped letter went on without it. Its record is older than what the row may hold by now, and would undo that;
//! so whoever replays says that this is meant, unless a guard column keeps older values from newer ones.
//!
//! A record that names no shard is bad wherever its letter lies, whatever the table would take: it is refused again, as the engine
//! would refuse it.

use std::sync::Arc;

use postgres::types::Type;
use postgres::{Client, Row};

use crate::config::{self, Config, RouteBy, Table, Target};
use crate::letters::{Answer, Filter, IS_FOUND, MATCHES, SKIPPED, each, found, with_params};
use crate::sink::catalog::{Catalog, CatalogError};
use crate::sink::parked::TELL;
use crate::sink::table::{TablePlan, TableWriter};
use crate::sink::{Failure, Reason, schema, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::RawRecord;
use crate::state::router::{RouteError, Router};
use crate::types::Offset;

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    Applied(i64),
    /// It stays a letter.
    Refused(i64, Reason),
    /// Nothing was tried: see [`refusal`].
    Left(i64),
    /// It blocked its key, and is to be applied next.
    Waits {
        partition: i32,
        offset: i64,
    },
}

/// Sets letters that block their keys back to waiting, as far as they are letters still.
fn set_back() -> String {
    format!(
        "WITH {}, {TELL} UPDATE forebay.parked q SET state = 'w', sqlstate = NULL, error = CASE q.reason WHEN 'u' THEN q.error END, attempts = q.attempts + (q.reason = 'u')::int FROM found f WHERE {IS_FOUND} \
         RETURNING q.partition, q.\"offset\"",
        found()
    )
}

/// Why letters whose keys went on without them cannot be replayed like this.
pub fn refusal(config: &Config, topic: &config::Topic, out_of_order: bool) -> Option<Reason> {
    let text = match &topic.target {
        _ if config.shards.len() > 1 && matches!(config.routing.by, RouteBy::Function { .. }) => {
            "which shard a record belongs to is code of the program that embeds forebay".to_owned()
        }
        Target::Handler => {
            format!("the handler of topic {:?} is code of the program that embeds forebay", topic.name)
        }
        Target::Table(table) if !out_of_order && table.guard.is_none() => format!(
            "topic {:?}: these keys went on without their dead records; applied now, an older record would overwrite newer ones. \
             --out-of-order says that this is meant (a guard column would make it safe)",
            topic.name
        ),
        Target::Table(_) => return None,
    };
    Some(Reason::new(text))
}

/// The letters of one topic, in the order of their offsets.
///
/// # Errors
/// [`Failure::Shard`] for a filter that names no shard of the configuration.
pub fn replay(
    config: &Config,
    topic: &config::Topic,
    filter: &Filter,
    out_of_order: bool,
) -> Result<Vec<Answer<Replayed>>, Failure> {
    let filter = Filter { topic: Some(topic.name.clone()), decided: false, ..filter.clone() };
    let group = &config.kafka.group_id;
    let table = match &topic.target {
        Target::Table(table) if refusal(config, topic, out_of_order).is_none() => Some(table),
        _ => None,
    };
    each(config, &filter, |client, version| {
        let mut replayed = Vec::new();
        if version >= schema::PARKING {
            let rows = with_params(group, &filter, |params| client.query_typed(&set_back(), params))?;
            replayed.extend(rows.iter().map(|row| Replayed::Waits { partition: row.get(0), offset: row.get(1) }));
        }
        let sql = format!("SELECT d.id FROM {SKIPPED} WHERE {MATCHES} ORDER BY d.partition, d.\"offset\"");
        let rows = with_params(group, &filter, |params| client.query_typed(&sql, params))?;
        let ids = rows.iter().map(|row| row.get(0));
        match table {
            Some(table) => replayed.extend(replay_skipped(client, config, topic, table, ids.collect())?),
            None => replayed.extend(ids.map(Replayed::Left)),
        }
        Ok(replayed)
    })
}

fn replay_skipped(
    client: &mut Client,
    config: &Config,
    topic: &config::Topic,
    table: &Table,
    ids: Vec<i64>,
) -> Result<Vec<Replayed>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let refused = |text: String| Failure::Topic(Reason::new(text));
    let catalog = Catalog::read(client, table).map_err(|error| match error {
        CatalogError::Database(error) => sqlstate::failure(&error),
        error => refused(error.to_string()),
    })?;
    let plan = TablePlan::new(topic, table, &catalog).map_err(|problems| refused(problems.join("; ")))?;
    let (mut writer, router) = (TableWriter::new(Arc::new(plan)), Router::new(config));
    let mut replayed = Vec::new();
    for id in ids {
        match replay_one(client, &router, &mut writer, id) {
            // Somebody else has just decided about it.
            Ok(false) => {}
            Ok(true) => replayed.push(Replayed::Applied(id)),
            Err(Failure::Record(_, reason) | Failure::LockWait(reason) | Failure::TooLong(reason)) => {
                replayed.push(Replayed::Refused(id, reason));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(replayed)
}

/// Whether it was still there to be replayed.
fn replay_one(client: &mut Client, router: &Router, writer: &mut TableWriter, id: i64) -> Result<bool, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    let mut transaction = client.transaction().map_err(failed)?;
    let claim = "SELECT partition, \"offset\", (extract(epoch FROM ts) * 1000)::bigint, key, payload, headers \
                 FROM forebay.dead_letter WHERE id = $1 AND resolution IS NULL FOR UPDATE";
    let Some(row) = transaction.query_typed_opt(claim, &[(&id, Type::INT8)]).map_err(failed)? else { return Ok(false) };
    let (partition, record) = (row.get(0), record(&row));
    // Others lie in the shard that they belong to; these lie in the first one, whosever they are.
    if let Err(error @ RouteError::Unreadable(_)) = router.route(partition, &record) {
        let text = format!("{error}; publish the record again with its tenant, and discard this letter");
        return Err(Failure::Record(None, Reason::new(text)));
    }
    let mut bad = Vec::new();
    writer.load(&Batch::of_one(partition, &record), 0..1, &mut bad);
    if let Some(bad) = bad.into_iter().next() {
        return Err(Failure::Record(None, bad.reason));
    }
    writer.write(&mut transaction).map_err(failed)?;
    let mark = "UPDATE forebay.dead_letter SET resolution = 'replayed' WHERE id = $1";
    transaction.execute_typed(mark, &[(&id, Type::INT8)]).map_err(failed)?;
    // What is deferred to COMMIT may refuse it as well.
    transaction.commit().map_err(failed)?;
    Ok(true)
}

/// The letter's record, as it came.
fn record(row: &Row) -> RawRecord<'_> {
    RawRecord {
        offset: Offset(row.get(1)),
        timestamp_ms: row.get::<_, Option<i64>>(2).unwrap_or(-1),
        key: row.get(3),
        value: row.get(4),
        headers: row.get::<_, Option<&[u8]>>(5).unwrap_or_default(),
    }
}
