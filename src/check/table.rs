//! A topic's table in one shard.

use postgres::Client;
use postgres::types::Type;

use crate::config::{InsertMode, Shard, Table, Topic};
use crate::sink::plan::TablePlan;
use crate::sink::{Failure, sqlstate};

use super::Notes;

/// The columns of every index that can find a row: valid, of the whole table, without expressions.
const INDEXES: &str = "\
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns
FROM pg_catalog.pg_index i
WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND 0 <> ALL (i.indkey)";

/// Whether everything is in order. A failure is the database's, not the table's.
pub fn check(
    shard: &Shard,
    (index, topic): (usize, &Topic),
    table: &Table,
    client: &mut Client,
    notes: &mut Notes<'_>,
) -> Result<bool, Failure> {
    let key = format!("topic[{index}].table");
    let plan = match TablePlan::read(client, topic, table) {
        Ok(plan) => plan,
        Err(problems) => {
            for problem in problems {
                let finding = notes.finding(&key, format!("shard {:?}: {problem}", shard.name));
                notes.report.problems.push(finding);
            }
            return Ok(false);
        }
    };
    let finds_rows = table.insert_mode == InsertMode::Update || table.delete_enabled || table.delete_field.is_some();
    if finds_rows && !is_indexed(client, &plan.table, &table.pk_fields)? {
        let found = format!(
            "shard {:?}: no index of {} that begins with {}",
            shard.name,
            plan.table,
            table.pk_fields.join(", ")
        );
        notes.warning(&key, found, "one: every update and delete reads the whole table otherwise");
    }
    Ok(true)
}

/// Whether the first columns of an index are among these.
fn is_indexed(client: &mut Client, table: &str, columns: &[String]) -> Result<bool, Failure> {
    let indexes = client.query_typed(INDEXES, &[(&table, Type::TEXT)]).map_err(|error| sqlstate::failure(&error))?;
    Ok(indexes.iter().any(|row| {
        let index: Vec<String> = row.get("columns");
        index.len().min(columns.len()) > 0 && index.iter().take(columns.len()).all(|column| columns.contains(column))
    }))
}
