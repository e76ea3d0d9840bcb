//! A topic of a test's own, gone when its guard is dropped, and a plain producer for it.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{block_on, kafka_bootstrap, unique_name, wait_until};

const ADMIN_WAIT: Duration = Duration::from_secs(30);

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN_WAIT)).operation_timeout(Some(ADMIN_WAIT))
}

/// Those of the shared broker whose names begin so.
pub fn topics_and_groups(prefix: &str) -> Vec<String> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka_bootstrap()).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(None, ADMIN_WAIT).expect("metadata");
    let groups = consumer.fetch_group_list(None, ADMIN_WAIT).expect("the groups");
    let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
    let names = names.chain(groups.groups().iter().map(|group| group.name().to_owned()));
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// A topic with a unique name. Dropping it deletes the topic.
pub struct Topic {
    name: String,
    partitions: i32,
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Topic {
    /// Creates one with that many partitions, and returns once the broker serves them all.
    pub fn create(prefix: &str, partitions: i32) -> Topic {
        Topic::create_with(prefix, partitions, &[])
    }

    /// The same with topic settings, such as `("cleanup.policy", "compact")`.
    pub fn create_with(prefix: &str, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        Topic::create_at(&kafka_bootstrap(), prefix, partitions, settings)
    }

    /// The same on another broker than the shared one.
    pub fn create_at(bootstrap: &str, prefix: &str, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        Topic::new(bootstrap, unique_name(prefix), partitions, settings)
    }

    /// A namesake, on the shared broker, of a topic that another broker has.
    pub fn named(name: &str, partitions: i32) -> Topic {
        Topic::new(&kafka_bootstrap(), name.to_owned(), partitions, &[])
    }

    /// One that somebody else has made.
    pub fn adopt(name: &str, partitions: i32) -> Topic {
        let bootstrap = kafka_bootstrap();
        let admin = client_config(&bootstrap).create().expect("an administration client");
        let topic = Topic { name: name.to_owned(), partitions, bootstrap, admin };
        topic.wait_for_leaders();
        topic
    }

    fn new(bootstrap: &str, name: String, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let bootstrap = bootstrap.to_owned();
        let admin = client_config(&bootstrap).create().expect("an administration client");
        let topic = Topic { name, partitions, bootstrap, admin };
        topic.create_again(settings);
        topic
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The address of the broker that has it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Deletes the topic and waits until the broker does not know it any more.
    pub fn delete(&self) {
        self.try_delete().unwrap_or_else(|e| panic!("deleting topic {}: {e}", self.name));
        let consumer = self.consumer();
        wait_until(ADMIN_WAIT, "the deleted topic to disappear", || {
            consumer
                .fetch_metadata(None, ADMIN_WAIT)
                .is_ok_and(|metadata| !metadata.topics().iter().any(|t| t.name() == self.name))
        });
    }

    /// Creates it again after [`Topic::delete`]: the same name, but another topic to the broker.
    pub fn create_again(&self, settings: &[(&str, &str)]) {
        let new = settings
            .iter()
            .fold(NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(1)), |topic, (key, value)| {
                topic.set(key, value)
            });
        let results = block_on(self.admin.create_topics([&new], &admin_options())).expect("creating a topic");
        for result in results {
            result.unwrap_or_else(|(name, e)| panic!("creating topic {name}: {e}"));
        }
        self.wait_for_leaders();
    }

    fn wait_for_leaders(&self) {
        let consumer = self.consumer();
        wait_until(ADMIN_WAIT, "the new topic's partitions to have leaders", || {
            (0..self.partitions).all(|p| consumer.fetch_watermarks(&self.name, p, ADMIN_WAIT).is_ok())
        });
    }

    /// The first offset still there and the next to be written, of one partition.
    pub fn watermarks(&self, partition: i32) -> (i64, i64) {
        self.consumer().fetch_watermarks(&self.name, partition, ADMIN_WAIT).expect("a partition's watermarks")
    }

    /// Gives it more partitions, so many in all, and waits until they are served.
    pub fn grow(&self, partitions: i32) {
        let new = NewPartitions::new(&self.name, partitions as usize);
        for result in block_on(self.admin.create_partitions([&new], &admin_options())).expect("new partitions") {
            result.unwrap_or_else(|(name, e)| panic!("partitions of {name}: {e}"));
        }
        let consumer = self.consumer();
        wait_until(ADMIN_WAIT, "the new partitions to have leaders", || {
            (0..partitions).all(|p| consumer.fetch_watermarks(&self.name, p, ADMIN_WAIT).is_ok())
        });
    }

    /// Of all topics that its broker has.
    pub fn all_names(&self) -> Vec<String> {
        let metadata = self.consumer().fetch_metadata(None, ADMIN_WAIT).expect("the broker's topics");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Lets the broker forget the records of a partition before `offset`, as retention would.
    pub fn delete_records_before(&self, partition: i32, offset: i64) {
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, rdkafka::Offset::Offset(offset)).expect("an offset");
        let done = block_on(self.admin.delete_records(&list, &admin_options())).expect("deleting records");
        for element in done.elements() {
            element.error().unwrap_or_else(|e| panic!("deleting records of {}/{partition}: {e}", self.name));
        }
    }

    /// Every record that is there now, partition by partition, each in its order.
    pub fn records(&self) -> Vec<Published> {
        let consumer: BaseConsumer = client_config(&self.bootstrap)
            .set("group.id", "nobody")
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut found = Vec::new();
        for partition in 0..self.partitions {
            let (low, high) = self.watermarks(partition);
            if low == high {
                continue;
            }
            let mut list = rdkafka::TopicPartitionList::new();
            list.add_partition_offset(&self.name, partition, rdkafka::Offset::Offset(low)).expect("an offset");
            consumer.assign(&list).expect("an assignment");
            let mut next = low;
            while next < high {
                let message = consumer.poll(ADMIN_WAIT).expect("a record in time").expect("a record");
                next = message.offset() + 1;
                found.push(Published::of(&message));
            }
        }
        found
    }

    fn try_delete(&self) -> Result<(), KafkaError> {
        for result in block_on(self.admin.delete_topics(&[&self.name], &admin_options()))? {
            result.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        Ok(())
    }

    fn consumer(&self) -> BaseConsumer {
        client_config(&self.bootstrap).create().expect("a consumer")
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        use rdkafka::types::RDKafkaErrorCode::UnknownTopicOrPartition;
        match self.try_delete() {
            Ok(()) | Err(KafkaError::AdminOp(UnknownTopicOrPartition)) => {}
            Err(e) => eprintln!("the test's topic {} stays behind: {e}", self.name),
        }
    }
}

/// A record as a consumer sees it, or as a producer sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub partition: i32,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Published {
    fn of(message: &impl Message) -> Published {
        let headers = message.headers().map(|headers| {
            headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
        });
        Published {
            partition: message.partition(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    /// The last header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        value.as_ref().map(|value| String::from_utf8(value.clone()).expect("text"))
    }
}

/// Publishes whole records in this order and returns once the broker has them all.
pub fn publish_records(topic: &Topic, records: &[Published]) {
    let mut config = client_config(&topic.bootstrap);
    // As large as a test wants them.
    config.set("enable.idempotence", "true").set("message.max.bytes", "10000000");
    let producer: BaseProducer = config.create().expect("a producer");
    for published in records {
        let headers = published
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic.name).partition(published.partition).headers(headers);
        (record.key, record.payload) = (published.key.as_deref(), published.value.as_deref());
        record.timestamp = published.timestamp_ms;
        producer.send(record).map_err(|(error, _)| error).expect("a record for the producer's queue");
    }
    producer.flush(ADMIN_WAIT).expect("the broker to take all records");
}

fn client_config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// Publishes records (partition, key, value) in this order and returns once the broker has them all.
pub fn produce<'a>(topic: &str, records: impl IntoIterator<Item = (i32, Option<&'a [u8]>, Option<&'a [u8]>)>) {
    produce_at(&kafka_bootstrap(), topic, records);
}

/// The same on another broker than the shared one.
pub fn produce_at<'a>(
    bootstrap: &str,
    topic: &str,
    records: impl IntoIterator<Item = (i32, Option<&'a [u8]>, Option<&'a [u8]>)>,
) {
    let producer: BaseProducer =
        client_config(bootstrap).set("enable.idempotence", "true").set("linger.ms", "5").create().expect("a producer");
    for (partition, key, value) in records {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.key = key;
        record.payload = value;
        while let Err((e, back)) = producer.send(record) {
            assert_eq!(e.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "publishing: {e}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(ADMIN_WAIT).expect("the broker to take all records");
    assert_eq!(producer.in_flight_count(), 0, "records that the broker did not take");
}

#[test]
fn a_topic_takes_records_forgets_them_and_goes_with_its_guard() {
    let topic = Topic::create("support", 2);
    let records: Vec<String> = (0..10).map(|n| format!("value {n}")).collect();
    produce(topic.name(), records.iter().map(|value| (1, Some(&b"key"[..]), Some(value.as_bytes()))));
    assert_eq!(topic.watermarks(0), (0, 0));
    assert_eq!(topic.watermarks(1), (0, 10));
    topic.delete_records_before(1, 4);
    assert_eq!(topic.watermarks(1), (4, 10));
    topic.delete();
    topic.create_again(&[]);
    assert_eq!(topic.watermarks(1), (0, 0));
}
