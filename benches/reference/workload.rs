//! The records of the reference job, those of `forebay bench`, and how they get into a topic.

use std::time::Duration;

use forebay::bench::workload::Workload;
pub use forebay::bench::workload::{COUNTRIES, DEVICES};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

use super::Outcome;
use super::arguments::Arguments;
use super::support;

pub const PARTITIONS: i32 = 8;

const KEYS_PER_APP: u64 = 1000;

/// As `forebay bench` has it, and with it anybody who wants to measure the same.
pub fn workload(a: &Arguments) -> Workload {
    let tenants = (a.keys / KEYS_PER_APP).max(1);
    // One key has so many per cent of the records, where `--skew` says so.
    Workload { keys: a.keys, tenants, hot_percent: a.skew, ..Workload::default() }
}

pub fn key_of(n: u64, a: &Arguments) -> u64 {
    workload(a).key(n)
}

/// The app's and the subscription's.
pub fn ids(key: u64, a: &Arguments) -> (String, String) {
    workload(a).ids(key)
}

pub fn record_key(n: u64, a: &Arguments) -> String {
    let mut key = String::new();
    workload(a).write_key(n, &mut key);
    key
}

pub fn payload(n: u64, a: &Arguments) -> String {
    let mut value = String::new();
    workload(a).write_value(n, &mut value);
    value
}

fn client(a: &Arguments) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &a.kafka).set("partitioner", "murmur2_random");
    config
}

/// A producer that spreads keys as Java's do.
pub fn producer(a: &Arguments, properties: &[(&str, &str)]) -> Outcome<BaseProducer> {
    let mut config = client(a);
    for (name, value) in properties {
        config.set(*name, *value);
    }
    Ok(config.create()?)
}

/// Hands a record over, waiting where the producer's queue is full.
pub fn send(producer: &BaseProducer, topic: &str, key: &str, value: &str) -> Outcome<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    while let Err((error, back)) = producer.send(record) {
        if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            return Err(error.into());
        }
        producer.poll(Duration::from_millis(10));
        record = back;
    }
    Ok(())
}

/// Publishes the workload once; a topic that already holds it is used again.
pub fn publish(a: &Arguments, records: u64) -> Outcome<String> {
    publish_as(a, records, "", |n| payload(n, a))
}

/// As [`publish`], with other payloads; `name` tells them apart.
pub fn publish_as(a: &Arguments, records: u64, name: &str, payload_of: impl Fn(u64) -> String) -> Outcome<String> {
    let skew = if a.skew == 0 { String::new() } else { format!("-skew{}", a.skew) };
    let topic = format!("forebay-reference-{}-{records}-{}{name}{skew}", payload(0, a).len(), a.keys);
    create(a, &topic)?;
    let held = held(a, &topic)?;
    if held == records {
        return Ok(topic);
    }
    if held != 0 {
        return Err(format!("topic {topic} holds {held} records, not {records}: delete it").into());
    }
    eprintln!("publishing {records} records to {topic}");
    let properties = [("linger.ms", "20"), ("batch.size", "500000"), ("queue.buffering.max.messages", "500000")];
    let producer = producer(a, &properties)?;
    for n in 0..records {
        send(&producer, &topic, &record_key(n, a), &payload_of(n))?;
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(topic)
}

pub fn create(a: &Arguments, topic: &str) -> Outcome<()> {
    let admin: AdminClient<DefaultClientContext> = client(a).create()?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    for outcome in support::block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(format!("cannot create topic {topic}: {code}").into()),
        }
    }
    Ok(())
}

fn held(a: &Arguments, topic: &str) -> Outcome<u64> {
    let consumer: BaseConsumer = client(a).create()?;
    let mut held = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = loop {
            match consumer.fetch_watermarks(topic, partition, Duration::from_secs(20)) {
                // A topic that was just created has no leader yet.
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition)) => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                answer => break answer?,
            }
        };
        held += high - low;
    }
    Ok(held as u64)
}
