//! The table writer on a real PostgreSQL: types, operations, and random sequences against the same records one by one.

mod operations;
mod random;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay::config::{ColumnSource, Delivery, InsertMode, OnBadRecord, Table, Target, Topic, UnknownFields};
use forebay::sink::table::{TablePlan, TableWriter};
use forebay::sink::{BadRecord, RowCounts};
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, Headers, RawRecord};
use forebay::types::{Generation, NextOffset, Offset, Token, TopicIx, TopicPartition};
use postgres::Client;

use crate::support::{Database, Server};

/// A record that a test writes down: key, value, headers.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub key: Option<String>,
    pub value: Option<String>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp_ms: i64,
}

pub fn value(value: &str) -> Record {
    Record { value: Some(value.into()), timestamp_ms: 1_700_000_000_123, ..Record::default() }
}

pub fn tombstone(key: &str) -> Record {
    Record { key: Some(key.into()), ..Record::default() }
}

/// Partition 3, offsets from 100.
pub fn batch(records: &[Record]) -> Batch {
    let mut chunk = Chunk::new(TopicIx(0));
    let at = TopicPartition { topic: TopicIx(0), partition: 3 };
    let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(100));
    for (index, record) in records.iter().enumerate() {
        let mut headers = Vec::new();
        for (name, value) in &record.headers {
            Headers::pack(&mut headers, name, value.as_deref());
        }
        let raw = RawRecord {
            offset: Offset(100 + index as i64),
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(str::as_bytes),
            value: record.value.as_deref().map(str::as_bytes),
            headers: &headers,
        };
        chunk.push(run, index as u64, 0, &raw);
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    batch
}

pub fn table(name: &str, insert_mode: InsertMode, pk_fields: &[&str]) -> Table {
    Table {
        schema: None,
        name: name.into(),
        insert_mode,
        pk_fields: pk_fields.iter().map(|name| (*name).into()).collect(),
        delete_enabled: false,
        delete_field: None,
        key_format: None,
        guard: None,
        skip_unchanged: false,
        unknown_fields: UnknownFields::Ignore,
        columns: BTreeMap::<String, ColumnSource>::new(),
    }
}

pub fn plan(client: &mut Client, table: &Table) -> Result<TablePlan, Vec<String>> {
    let topic = Topic {
        name: "records".into(),
        target: Target::Table(table.clone()),
        delivery: Delivery::ExactlyOnce,
        on_bad_record: OnBadRecord::Stop,
        rows_per_second_max: None,
        parent_tries: 3,
        forward_to: None,
    };
    TablePlan::read(client, &topic, table)
}

pub fn writer(client: &mut Client, table: &Table) -> TableWriter {
    TableWriter::new(Arc::new(plan(client, table).unwrap_or_else(|problems| panic!("{problems:#?}"))))
}

/// Why a batch was not written: the record's index and a reason, or the SQLSTATE.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Record(usize, String),
    Database(String),
}

/// Writes the records in one transaction, each group as a member of a WITH, as the fences do it.
pub fn write(client: &mut Client, writer: &mut TableWriter, records: &[Record]) -> Result<RowCounts, Refused> {
    let batch = batch(records);
    let mut bad = Vec::new();
    writer.load(&batch, 0..batch.len(), &mut bad);
    if let Some(BadRecord { index, reason }) = bad.first() {
        return Err(Refused::Record(*index, reason.to_string()));
    }
    let mut transaction = client.transaction().unwrap();
    for group in 0..writer.groups() {
        let body = writer.sql(group, 2, Some("(SELECT ok FROM ok)"));
        let sql = format!("WITH ok AS (SELECT $1::boolean AS ok), t AS ({body}) SELECT ok FROM ok");
        let mut types = vec![postgres::types::Type::BOOL];
        types.extend(writer.param_types(group));
        let statement = transaction.prepare_typed(&sql, &types).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let mut params: Vec<&(dyn postgres::types::ToSql + Sync)> = vec![&true];
        params.extend(writer.params(group));
        if let Err(error) = transaction.execute(&statement, &params) {
            let code = error.code().map(|code| code.code().to_owned());
            return Err(Refused::Database(code.unwrap_or_else(|| panic!("{sql}: {error:?}"))));
        }
    }
    transaction.commit().unwrap();
    Ok(writer.counts())
}

/// The rows of a table as text, sorted.
pub fn rows(client: &mut Client, table: &str) -> Vec<String> {
    let sql = format!("SELECT whole_row::text FROM {table} AS whole_row ORDER BY 1");
    client.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

pub fn database() -> (Database, Client) {
    let database = Database::create(Server::A, "table");
    let client = database.connect();
    (database, client)
}
