//! The least that brings steady traffic into the table: one thread, one connection, one statement for whatever has come, no
//! fences, no lanes, nothing to recover from. What it cannot do faster on this machine, nothing can.

use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Outcome;
use super::arguments::Arguments;
use super::common::process_cpu;
use super::engine::peak_mb;
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
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &a.kafka)
        .set("group.id", "reference-least")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "2")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&a.topic, partition, Offset::Offset(0))?;
    }
    consumer.assign(&list)?;
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
        let (began, cpu) = *began.get_or_insert_with(|| (Instant::now(), process_cpu()));
        let of: Vec<Row<'_>> = payloads.iter().map(|p| serde_json::from_slice(p)).collect::<Result<_, _>>()?;
        let text = |field: fn(&Row<'_>) -> String| of.iter().map(field).collect::<Vec<_>>();
        client.execute(
            &insert,
            &[
                &text(|r| r.app_id.to_owned()),
                &text(|r| r.subscription_id.to_owned()),
                &text(|r| r.country.to_owned()),
                &text(|r| r.device.to_owned()),
                &of.iter().map(|r| r.sessions).collect::<Vec<_>>(),
                &text(|r| r.updated_at.to_owned()),
                &text(|r| r.tags.get().to_owned()),
                &of.iter().map(|r| r.sent_us).collect::<Vec<_>>(),
            ],
        )?;
        (rows, batches) = (rows + of.len() as u64, batches + 1);
        if rows >= a.records {
            let (took, cpu) = (began.elapsed().as_secs_f64(), process_cpu() - cpu);
            let cpu_us = cpu.as_secs_f64() * 1e6 / rows as f64;
            println!("{} {cpu_us} {} {rows} {batches}", rows as f64 / took, peak_mb());
        }
    }
    Ok(())
}
