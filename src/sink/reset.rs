//! Looking at a group's anchors and fences from outside, and deleting them: what `forebay fences` does in one shard. Never
//! used while records flow.

use postgres::{Client, Transaction};

use crate::sink::connect::application_prefix;
use crate::sink::{Failure, Reason, sqlstate};

/// Where a shard stands with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    pub topic: String,
    pub topic_id: Option<String>,
    pub partition: i32,
    pub lanes: i16,
    pub origin: i64,
    pub done: i64,
    /// The least and the greatest fence; none where the fences are gone.
    pub fences: Option<(i64, i64)>,
    pub taken_by: String,
    pub taken_at: String,
}

const SHOW: &str = "\
SELECT s.topic, s.topic_id, p.partition, p.lanes, p.origin, p.done, min(f.next_offset) AS low, max(f.next_offset) AS high,
       p.taken_by, to_char(p.taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS taken_at
FROM forebay.source s JOIN forebay.partition p ON p.source = s.id
LEFT JOIN forebay.fence f ON f.source = p.source AND f.partition = p.partition
WHERE s.grp = $1 GROUP BY s.id, p.source, p.partition ORDER BY s.topic, p.partition";

/// Our own commands' connections are no owners.
const OWNERS: &str = "\
SELECT count(*) FROM pg_stat_activity
WHERE starts_with(application_name, $1) AND pid <> pg_backend_pid() AND application_name <> $1 || $2";

/// Keeps takeovers of the topic out until the transaction ends; they lock the same row.
const LOCK: &str = "SELECT id FROM forebay.source WHERE grp = $1 AND topic = $2 FOR UPDATE";

/// Every partition of the group that this shard has an anchor for. None without our tables.
pub fn show(client: &mut Client, group: &str) -> Result<Vec<Stand>, Failure> {
    let rows = match client.query(SHOW, &[&group]) {
        Ok(rows) => rows,
        Err(error) if error.code().is_some_and(|c| ["42P01", "3F000"].contains(&c.code())) => return Ok(Vec::new()),
        Err(error) => return Err(sqlstate::failure(&error)),
    };
    let stand = |row: &postgres::Row| Stand {
        topic: row.get("topic"),
        topic_id: row.get("topic_id"),
        partition: row.get("partition"),
        lanes: row.get("lanes"),
        origin: row.get("origin"),
        done: row.get("done"),
        fences: row.get::<_, Option<i64>>("low").zip(row.get("high")),
        taken_by: row.get("taken_by"),
        taken_at: row.get("taken_at"),
    };
    Ok(rows.iter().map(stand).collect())
}

/// Deletes the anchors and fences of a topic, or of one of its partitions, and says how many anchors there were. With the
/// last partition goes the topic's identity, so that the next start registers what is there then.
///
/// # Errors
/// [`Failure::Shard`] while a process of the group is connected.
pub fn reset(
    transaction: &mut Transaction<'_>,
    group: &str,
    purpose: &str,
    (topic, partition): (&str, Option<i32>),
) -> Result<u64, Failure> {
    let failed = |error: postgres::Error| sqlstate::failure(&error);
    let has_tables: bool =
        transaction.query_one("SELECT to_regclass('forebay.source') IS NOT NULL", &[]).map_err(failed)?.get(0);
    if !has_tables {
        return Ok(0);
    }
    let owners: i64 = transaction.query_one(OWNERS, &[&application_prefix(group), &purpose]).map_err(failed)?.get(0);
    if owners > 0 {
        let text = format!("{owners} connections of the group are open: stop every process of group {group:?} first");
        return Err(Failure::Shard(Reason::new(text)));
    }
    let Some(source) = transaction.query_opt(LOCK, &[&group, &topic]).map_err(failed)? else { return Ok(0) };
    let source: i32 = source.get(0);
    let of = "source = $1 AND partition = coalesce($2, partition)";
    let delete = |table: &str| format!("DELETE FROM forebay.{table} WHERE {of}");
    transaction.execute(&delete("fence"), &[&source, &partition]).map_err(failed)?;
    let anchors = transaction.execute(&delete("partition"), &[&source, &partition]).map_err(failed)?;
    let last =
        "DELETE FROM forebay.source s WHERE id = $1 AND NOT EXISTS (SELECT FROM forebay.partition WHERE source = $1)";
    transaction.execute(last, &[&source]).map_err(failed)?;
    Ok(anchors)
}
