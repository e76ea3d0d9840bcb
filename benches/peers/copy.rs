//! The other limit: `COPY` of the same rows from memory. It cannot upsert, so each batch is copied into a temporary table and inserted from
//! there, in one transaction.

use std::io::Write;
use std::sync::Barrier;
use std::time::UNIX_EPOCH;

use postgres::{Client, NoTls};

use super::Outcome;
use super::arguments::Arguments;
use super::bare::{Columns, rate};

/// PostgreSQL's documentation, "COPY", "Binary Format": the signature, flags, and the length of what may follow.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const PG_EPOCH_US: i64 = 946_684_800_000_000;

/// One connection's batches, as they go over the wire.
pub fn encoded(of_connections: &[Vec<Columns>]) -> Vec<Vec<Vec<u8>>> {
    of_connections.iter().map(|batches| batches.iter().map(encode).collect()).collect()
}

fn encode(c: &Columns) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    let field = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    for row in 0..c.0.len() {
        out.extend_from_slice(&7_i16.to_be_bytes());
        field(&c.0[row].0, &mut out);
        field(&c.1[row].0, &mut out);
        field(c.2[row].as_bytes(), &mut out);
        field(c.3[row].as_bytes(), &mut out);
        field(&c.4[row].to_be_bytes(), &mut out);
        let unix_us = c.5[row].duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        field(&(unix_us - PG_EPOCH_US).to_be_bytes(), &mut out);
        field(&c.6[row].0, &mut out);
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

/// Returns records per second.
pub fn copy(a: &Arguments, of_connections: &[Vec<Vec<u8>>]) -> Outcome<f64> {
    rate(a, of_connections, |batches, start| connection(a, batches, start))
}

fn connection(a: &Arguments, batches: &[Vec<u8>], start: &Barrier) -> Result<(), String> {
    // Whatever happens, the others must not wait for ever.
    let prepared = prepare(a);
    start.wait();
    let (mut client, insert) = prepared.map_err(|e| format!("bare COPY: {e}: {:?}", e.as_db_error()))?;
    let mut run = || -> Result<(), Box<dyn std::error::Error>> {
        for batch in batches {
            let mut transaction = client.transaction()?;
            let mut writer = transaction.copy_in("COPY stage FROM STDIN (FORMAT binary)")?;
            writer.write_all(batch)?;
            writer.finish()?;
            transaction.execute(&insert, &[])?;
            transaction.commit()?;
        }
        Ok(())
    };
    run().map_err(|e| format!("bare COPY: {e}"))
}

fn prepare(a: &Arguments) -> Result<(Client, postgres::Statement), postgres::Error> {
    let mut client = Client::connect(&a.dsn, NoTls)?;
    client.batch_execute("CREATE TEMPORARY TABLE stage (LIKE reference) ON COMMIT DELETE ROWS")?;
    let insert = client.prepare(
        "INSERT INTO reference SELECT * FROM stage \
         ON CONFLICT (app_id, subscription_id) DO UPDATE SET country = EXCLUDED.country, device = EXCLUDED.device, \
         sessions = EXCLUDED.sessions, updated_at = EXCLUDED.updated_at, tags = EXCLUDED.tags",
    )?;
    Ok((client, insert))
}
