//! The least that brings steady traffic into the table: one thread, one connection, one statement for whatever has come, no
//! fences, no lanes, nothing to recover from. How far the engine is from it is what its guarantees and its threads cost.

use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rdkafka::Message;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Outcome;
use super::arguments::Arguments;
use super::common::{bare_consumer, process_cpu};
use super::engine::print_run;
use super::workload::PARTITIONS;

const INSERT: &str = "INSERT INTO reference (app_id, subscription_id, country, device, sessions, updated_at, tags, sent_us) \
    SELECT a::uuid, s::uuid, c, d, n, u::timestamptz, t::jsonb, sent \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::bigint[]) \
    AS r (a, s, c, d, n, u, t, sent)";

#[derive(Deserialize)]
struct Row<'a> {
    app_id: &'a str,
    subscription_id: &'a str,
    country: &'a str,
    device: &'a str,
    sessions: i32,
    updated_at: &'a str,
    #[serde(borrow)]
    tags: &'a RawValue,
    sent_us: i64,
}

/// The process's own part; prints what an engine's does.
pub fn child(a: &Arguments) -> Outcome<()> {
    let consumer = bare_consumer(&a.kafka, &a.topic, PARTITIONS);
    let mut client = Client::connect(&a.dsn, NoTls)?;
    let insert = client.prepare(INSERT)?;
    let (mut rows, mut batches, mut began) = (0, 0, None);
    while rows < a.records {
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let mut wait = Duration::from_millis(100);
        while payloads.len() < a.batch
            && let Some(message) = consumer.poll(wait)
        {
            payloads.push(message?.payload().unwrap_or_default().to_vec());
            wait = Duration::ZERO;
        }
        if payloads.is_empty() {
            continue;
        }
        began.get_or_insert_with(|| (Instant::now(), process_cpu()));
        let of: Vec<Row<'_>> = payloads.iter().map(|p| serde_json::from_slice(p)).collect::<Result<_, _>>()?;
        client.execute(
            &insert,
            &[
                &of.iter().map(|r| r.app_id).collect::<Vec<_>>(),
                &of.iter().map(|r| r.subscription_id).collect::<Vec<_>>(),
                &of.iter().map(|r| r.country).collect::<Vec<_>>(),
                &of.iter().map(|r| r.device).collect::<Vec<_>>(),
                &of.iter().map(|r| r.sessions).collect::<Vec<_>>(),
                &of.iter().map(|r| r.updated_at).collect::<Vec<_>>(),
                &of.iter().map(|r| r.tags.get()).collect::<Vec<_>>(),
                &of.iter().map(|r| r.sent_us).collect::<Vec<_>>(),
            ],
        )?;
        (rows, batches) = (rows + of.len() as u64, batches + 1);
    }
    let (began, cpu) = began.ok_or("no records were asked for")?;
    print_run(began.elapsed(), process_cpu() - cpu, rows, batches);
    Ok(())
}
