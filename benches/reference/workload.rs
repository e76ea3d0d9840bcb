//! The records: made from their number alone, so that any can be made again without those before it.

use std::time::Duration;

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
pub const COUNTRIES: [&str; 6] = ["US", "DE", "BR", "IN", "JP", "ZA"];
pub const DEVICES: [&str; 3] = ["iPhone15,3", "Pixel 8", "SM-S911B"];

fn random(seed: u64) -> u64 {
    // splitmix64 (Steele, Lea, Flood 2014).
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn key_of(n: u64, a: &Arguments) -> u64 {
    random(n) % a.keys
}

/// The app's and the subscription's.
pub fn ids(key: u64) -> (String, String) {
    let app = key / 1000;
    (format!("00000000-0000-4000-8000-{app:012x}"), format!("{:08x}-0000-4000-8000-{key:012x}", random(key) as u32))
}

pub fn record_key(n: u64, a: &Arguments) -> String {
    let (app, subscription) = ids(key_of(n, a));
    format!("{app}:{subscription}")
}

pub fn payload(n: u64, a: &Arguments) -> String {
    let (app, subscription) = ids(key_of(n, a));
    let (country, device) = (COUNTRIES[n as usize % 6], DEVICES[n as usize % 3]);
    format!(
        "{{\"app_id\":\"{app}\",\"subscription_id\":\"{subscription}\",\"country\":\"{country}\",\"device\":\"{device}\",\
         \"sessions\":{},\"updated_at\":\"{}\",\"tags\":{{\"plan\":\"p{}\",\"n\":{},\"beta\":true}}}}",
        n % 1000,
        timestamp(n),
        n % 7,
        n % 10
    )
}

fn timestamp(n: u64) -> String {
    format!(
        "2026-01-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        1 + n / 86_400_000 % 28,
        n / 3_600_000 % 24,
        n / 60_000 % 60,
        n / 1000 % 60,
        n % 1000
    )
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
    let topic = format!("forebay-reference-{}-{records}-{}{name}", payload(0, a).len(), a.keys);
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
