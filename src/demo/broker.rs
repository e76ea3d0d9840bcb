//! librdkafka's mock cluster, inside the producer that publishes to it. It keeps a few MiB of each partition and drops what is
//! older without a word; who publishes must not run ahead of who reads by more than that.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::demo::{DemoError, PARTITIONS, TOPIC};

/// What the mock cluster keeps of a partition: `partition_max_size` and `max_cnt` in librdkafka's rdkafka_mock.c.
pub const BYTES_KEPT: usize = 5 << 20;
pub const RECORDS_KEPT: usize = 100_000;

/// It has no controller to ask for topics' ids; this one answers.
pub const BROKER: i32 = 1;

const FULL_WAIT: Duration = Duration::from_millis(1);

/// See the module's text. Dropping it ends the cluster.
pub struct Broker {
    producer: BaseProducer<Deliveries>,
}

/// Compares every acknowledged offset with the one that was expected: there is one publisher, so a partition's offsets count
/// from 0.
#[derive(Clone, Default)]
struct Deliveries {
    problem: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{text}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, expected: usize) {
        let problem = match result {
            Ok(message) if message.offset() == expected as i64 => return,
            Ok(message) => format!("a record has offset {} instead of {expected}", message.offset()),
            Err((error, _)) => format!("a record was not published: {error}"),
        };
        self.problem.lock().get_or_insert(problem);
    }
}

impl Broker {
    /// Starts a cluster of one broker with the demonstration's topic.
    pub fn start() -> Result<Broker, DemoError> {
        let failed = |e: KafkaError| DemoError::unavailable("librdkafka's mock cluster", e);
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set("enable.idempotence", "true").set("linger.ms", "1");
        let producer: BaseProducer<Deliveries> = config.create_with_context(Deliveries::default()).map_err(failed)?;
        let mock = producer.client().mock_cluster().ok_or_else(|| failed(KafkaError::Canceled))?;
        mock.create_topic(TOPIC, PARTITIONS as i32, 1).map_err(failed)?;
        // SAFETY: the client lives, and the cluster with it. The safe binding has no such call; without it the first member
        // waits three seconds for others.
        unsafe {
            let native = rdkafka_sys::rd_kafka_handle_mock_cluster(producer.client().native_ptr());
            rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(native, 0);
        }
        drop(mock);
        Ok(Broker { producer })
    }

    pub fn bootstrap(&self) -> String {
        self.producer.client().mock_cluster().map(|mock| mock.bootstrap_servers()).unwrap_or_default()
    }

    /// Hands a record to librdkafka; waits while its queue is full.
    pub fn send(&self, partition: usize, key: &str, value: Option<&str>, offset: i64) -> Result<(), DemoError> {
        let mut record =
            BaseRecord::<str, str, usize>::with_opaque_to(TOPIC, offset as usize).partition(partition as i32).key(key);
        record.payload = value;
        while let Err((error, back)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(DemoError::unavailable("publishing", error));
            }
            self.serve(FULL_WAIT)?;
            record = back;
        }
        Ok(())
    }

    /// Serves acknowledgements; a wrong one is an error.
    pub fn serve(&self, wait: Duration) -> Result<(), DemoError> {
        self.producer.poll(wait);
        self.producer.context().problem.lock().take().map_or(Ok(()), |problem| Err(DemoError::Unavailable(problem)))
    }

    /// Waits until everything sent is acknowledged.
    pub fn flush(&self, deadline: Duration) -> Result<(), DemoError> {
        self.producer.flush(deadline).map_err(|e| DemoError::unavailable("publishing", e))?;
        self.serve(Duration::ZERO)
    }
}
