//! Applies dead letters after all, when the table or the rule that refused them was mended. Each in a transaction that also
//! marks it: exactly once, however often it is asked for and by how many.
//!
//! The key of a skipped letter went on without it. Its record is older than what the row may hold by now, and would undo that;
//! so whoever replays says that this is meant, unless a guard column keeps older values from newer ones.

use std::sync::Arc;

use postgres::types::Type;
use postgres::{Client, Row};

use crate::config::{self, Config, Table, Target};
use crate::letters::{Answer, Filter, MATCHES, each, with_params};
use crate::sink::catalog::{Catalog, CatalogError};
use crate::sink::session::{Ready, Text};
use crate::sink::table::{TablePlan, TableWriter};
use crate::sink::{Failure, Reason, sqlstate};
use crate::state::batch::Batch;
use crate::state::chunk::{Chunk, RawRecord};
use crate::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub id: i64,
    /// It stays a letter where it is refused again.
    pub result: Result<(), Reason>,
}

/// Applies the letters of one topic, in the order of their offsets.
///
/// # Errors
/// [`Failure::Topic`] for a topic whose letters cannot be replayed like this, with the reason; [`Failure::Shard`] for a filter
/// that names no shard of the configuration.
pub fn replay(
    config: &Config,
    topic: &config::Topic,
    filter: &Filter,
    out_of_order: bool,
) -> Result<Vec<Answer<Replayed>>, Failure> {
    let refused = |text: String| Failure::Topic(Reason::new(text));
    let Target::Table(table) = &topic.target else {
        return Err(refused(format!(
            "the handler of topic {:?} is code of the program that embeds forebay",
            topic.name
        )));
    };
    if !out_of_order && table.guard.is_none() {
        return Err(refused(format!(
            "topic {:?}: these keys went on without their dead records; applied now, an older record would overwrite newer ones. \
             --out-of-order says that this is meant (a guard column would make it safe)",
            topic.name
        )));
    }
    let filter = Filter { topic: Some(topic.name.clone()), decided: false, ..filter.clone() };
    each(config, &filter, |client, _| replay_in(client, &config.kafka.group_id, topic, table, &filter))
}

fn replay_in(
    client: &mut Client,
    group: &str,
    topic: &config::Topic,
    table: &Table,
    filter: &Filter,
) -> Result<Vec<Replayed>, Failure> {
    let sql = format!("SELECT d.id FROM forebay.dead_letter d WHERE {MATCHES} ORDER BY d.partition, d.\"offset\"");
    let ids: Vec<i64> =
        with_params(group, filter, |params| client.query_typed(&sql, params))?.iter().map(|row| row.get(0)).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let refused = |text: String| Failure::Topic(Reason::new(text));
    let catalog = Catalog::read(client, table).map_err(|error| match error {
        CatalogError::Database(error) => sqlstate::failure(&error),
        error => refused(error.to_string()),
    })?;
    let plan = TablePlan::new(topic, table, &catalog).map_err(|problems| refused(problems.join("; ")))?;
    let mut writer = TableWriter::new(Arc::new(plan));
    let mut replayed = Vec::new();
    for id in ids {
        match replay_one(client, &mut writer, id) {
            // Somebody else has just decided about it.
            Ok(false) => {}
            Ok(true) => replayed.push(Replayed { id, result: Ok(()) }),
            Err(Failure::Record(_, reason) | Failure::LockWait(reason) | Failure::TooLong(reason)) => {
                replayed.push(Replayed { id, result: Err(reason) });
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(replayed)
}

/// Whether it was still there to be replayed.
fn replay_one(client: &mut Client, writer: &mut TableWriter, id: i64) -> Result<bool, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    let mut transaction = client.transaction().map_err(failed)?;
    let claim = "SELECT partition, \"offset\", (extract(epoch FROM ts) * 1000)::bigint, key, payload, headers \
                 FROM forebay.dead_letter WHERE id = $1 AND resolution IS NULL FOR UPDATE";
    let Some(row) = transaction.query_typed_opt(claim, &[(&id, Type::INT8)]).map_err(failed)? else { return Ok(false) };
    let mut bad = Vec::new();
    writer.load(&batch(&row), 0..1, &mut bad);
    if let Some(bad) = bad.into_iter().next() {
        return Err(Failure::Record(None, bad.reason));
    }
    for group in 0..writer.groups() {
        let text = Text { sql: writer.sql(group, 1, None), types: writer.param_types(group) };
        Ready::unnamed(text).execute(&mut transaction, &writer.params(group)).map_err(failed)?;
    }
    let mark = "UPDATE forebay.dead_letter SET resolution = 'replayed' WHERE id = $1";
    transaction.execute_typed(mark, &[(&id, Type::INT8)]).map_err(failed)?;
    // What is deferred to COMMIT may refuse it as well.
    transaction.commit().map_err(failed)?;
    Ok(true)
}

/// The letter's record, as it came.
fn batch(row: &Row) -> Batch {
    let (partition, offset): (i32, i64) = (row.get(0), row.get(1));
    let at = TopicPartition { topic: TopicIx(0), partition };
    let mut chunk = Chunk::new(at.topic);
    let run = chunk.open_run(at, 0, Generation(0), Token(0), NextOffset(offset));
    let record = RawRecord {
        offset: Offset(offset),
        timestamp_ms: row.get::<_, Option<i64>>(2).unwrap_or(-1),
        key: row.get(3),
        value: row.get(4),
        headers: row.get::<_, Option<&[u8]>>(5).unwrap_or_default(),
    };
    chunk.push(run, 0, 0, &record);
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    batch
}
