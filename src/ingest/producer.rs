//! The gateway's producer: one for all listeners, idempotent, and acknowledged by all replicas that are in step. Its callback answers the
//! requests; nothing else does while their deadlines have not come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};

use crate::config;
use crate::config::ingest::Ingest;
use crate::forward::producer::LEFT_OUT;
use crate::http::{Response, Status, Ticket};
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Queue, Repliers};
use crate::metrics::labelled::Refused;
use crate::source::client;
use crate::state::chunk::Headers;

/// One wait for answers; they end it early.
const POLL: Duration = Duration::from_millis(100);
/// How long an old client may take to say what became of its records, after it was given up.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(5);

/// What answers rely on; these win over the user's, under all their names.
const OURS: &[(&[&str], &str)] = &[
    (&["enable.idempotence"], "true"),
    (&["acks", "request.required.acks"], "all"),
    (&["delivery.report.only.error"], "false"),
];

/// Used unless the user says otherwise. A request waits for its record's batch: a millisecond gathers some under load, and is not felt.
const DEFAULTS: &[(&[&str], &str)] = &[
    (&["client.id"], "forebay-ingest"),
    (&["linger.ms", "queue.buffering.max.ms"], "1"),
    (&["compression.type", "compression.codec"], "lz4"),
];

/// The properties of the producer.
pub fn producer_config(kafka: &config::Kafka, ingest: &Ingest) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (names, value) in DEFAULTS.iter().filter(|(names, _)| !names.iter().any(|n| kafka.properties.contains_key(*n)))
    {
        config.set(names[0], *value);
    }
    let bounds = ["queue.buffering.max.messages", "queue.buffering.max.kbytes"];
    let owned = |name: &str| {
        let of_batches = name == "batch.size";
        (LEFT_OUT.contains(&name) && !of_batches)
            || bounds.contains(&name)
            || OURS.iter().any(|(names, _)| names.contains(&name))
    };
    for (name, value) in kafka.producer_properties().filter(|(name, _)| !owned(name)) {
        config.set(name, value);
    }
    for (names, value) in OURS {
        config.set(names[0], *value);
    }
    if !kafka.properties.contains_key("message.max.bytes") {
        // Key, headers and framing beside the body; whether it is too large is for the topic to say.
        config.set("message.max.bytes", (ingest.body_bytes_max + (64 << 10)).max(1_000_000).to_string());
    }
    config.set("message.timeout.ms", (ingest.deadline * 3 / 4).as_millis().to_string());
    // The gateway's own bounds come first; these only must not.
    config.set(bounds[0], (ingest.queue_records_max + 1000).to_string());
    config.set(bounds[1], ((ingest.queue_bytes_max / 1024) * 2 + (64 << 10)).min(2_147_483_647).to_string());
    config.set_log_level(client::log_level(kafka));
    config
}

/// What the callbacks need.
pub struct Answers {
    counts: Arc<Counts>,
    queue: Arc<Queue>,
    repliers: Repliers,
    /// Nothing more can be sent with this client.
    fatal: AtomicBool,
    /// What it said last of its connections.
    last: Mutex<Option<String>>,
}

impl Answers {
    pub fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Relaxed);
        }
        *self.last.lock() = Some(reason.to_owned());
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        self.queue.leave(pending.bytes);
        let ticket = pending.take();
        let response = match (result, &ticket) {
            (Ok(message), Some(_)) => {
                let took = pending.sent.elapsed().as_micros().min(u64::MAX.into()) as u64;
                self.counts.acknowledged_us.lock().record(took, 1);
                let response = accepted(message.topic(), message.partition(), message.offset());
                self.counts.answered(Some(pending.route), &response);
                response
            }
            (Ok(_), None) => return self.counts.late.add(1),
            (Err((error, _)), _) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                if code == RDKafkaErrorCode::Fatal {
                    self.fatal.store(true, Ordering::Relaxed);
                }
                if ticket.is_none() {
                    return;
                }
                self.counts.refuse(Some(pending.route), &undelivered(code))
            }
        };
        if let Some(ticket) = ticket {
            self.repliers.answer(pending.listener, ticket, response);
        }
    }
}

fn accepted(topic: &str, partition: i32, offset: i64) -> Response {
    // Names of topics need no escapes.
    let body = format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":{offset}}}");
    Response::json(Status::ACCEPTED, body)
}

/// Why the brokers do not have it.
pub fn undelivered(code: RDKafkaErrorCode) -> Problem {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge | E::MessageBatchTooLarge => {
            Problem::new(Refused::TooLarge, "the record is larger than the topic takes (its max.message.bytes)")
        }
        E::MessageTimedOut => Problem::new(Refused::Brokers, "the brokers did not take the record in time"),
        code => Problem::new(Refused::Brokers, format!("the brokers did not take the record: {code}")),
    }
}

/// The producer of the moment: after a fatal error another one takes its place.
pub struct Sender {
    config: ClientConfig,
    current: Mutex<Arc<BaseProducer<Answers>>>,
    version: AtomicU64,
    counts: Arc<Counts>,
    queue: Arc<Queue>,
    repliers: Repliers,
    over: AtomicBool,
}

impl Sender {
    /// # Errors
    /// If the properties do not fit together.
    pub fn new(
        config: ClientConfig,
        counts: Arc<Counts>,
        queue: Arc<Queue>,
        repliers: Repliers,
    ) -> Result<Sender, KafkaError> {
        let first = open(&config, &counts, &queue, &repliers)?;
        let (current, version, over) = (Mutex::new(Arc::new(first)), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Sender { config, current, version, counts, queue, repliers, over })
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn current(&self) -> Arc<BaseProducer<Answers>> {
        Arc::clone(&self.current.lock())
    }

    /// Answers a request by its listener's server.
    pub fn answer(&self, listener: usize, ticket: Ticket, response: Response) {
        self.repliers.answer(listener, ticket, response);
    }

    /// Takes the brokers' answers until it is told to end.
    pub fn run(&self) {
        while !self.over.load(Ordering::Acquire) {
            let producer = self.current();
            producer.poll(POLL);
            if producer.context().fatal.load(Ordering::Relaxed) {
                self.replace(&producer);
            }
        }
    }

    /// Ends [`Sender::run`].
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Waits until the brokers have answered everything; whether they have.
    pub fn flush(&self, until: Instant) -> bool {
        while self.queue.records() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.queue.records() == 0
    }

    /// Another client; what the old one has not sent is answered with an error.
    fn replace(&self, old: &BaseProducer<Answers>) {
        tracing::error!(
            "the producer cannot go on ({}): another one takes its place",
            old.context().last().unwrap_or_else(|| "a fatal error".to_owned())
        );
        match open(&self.config, &self.counts, &self.queue, &self.repliers) {
            Ok(new) => {
                *self.current.lock() = Arc::new(new);
                self.version.fetch_add(1, Ordering::Release);
            }
            Err(error) => return tracing::error!("no other producer: {error}"),
        }
        old.purge(PurgeConfig::default().queue().inflight());
        let until = Instant::now() + GIVE_UP_DEADLINE;
        while old.in_flight_count() > 0 && Instant::now() < until {
            old.poll(POLL);
        }
    }
}

fn open(
    config: &ClientConfig,
    counts: &Arc<Counts>,
    queue: &Arc<Queue>,
    repliers: &Repliers,
) -> Result<BaseProducer<Answers>, KafkaError> {
    config.create_with_context(Answers {
        counts: Arc::clone(counts),
        queue: Arc::clone(queue),
        repliers: repliers.clone(),
        fatal: AtomicBool::new(false),
        last: Mutex::default(),
    })
}

/// A record on its way out.
pub struct Outgoing<'r> {
    pub topic: &'r str,
    pub partition: i32,
    pub key: &'r [u8],
    pub value: Option<&'r [u8]>,
    /// Packed.
    pub headers: &'r [u8],
}

/// Hands a record to librdkafka, which answers by [`ProducerContext::delivery`].
///
/// # Errors
/// If it does not take it; then it does not answer.
pub fn send(
    producer: &BaseProducer<Answers>,
    outgoing: &Outgoing<'_>,
    pending: Arc<Pending>,
) -> Result<(), RDKafkaErrorCode> {
    let mut record =
        BaseRecord::with_opaque_to(outgoing.topic, pending).partition(outgoing.partition).key(outgoing.key);
    record.payload = outgoing.value;
    if !outgoing.headers.is_empty() {
        let all = Headers(outgoing.headers).iter();
        record.headers = Some(all.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value })));
    }
    producer.send(record).map_err(|(error, _)| {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if code == RDKafkaErrorCode::Fatal {
            producer.context().fatal.store(true, Ordering::Relaxed);
        }
        code
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::parse;

    fn config(kafka: &str) -> ClientConfig {
        let text = format!(
            "[kafka]\nbootstrap.servers = \"127.0.0.1:1\"\ngroup.id = \"g\"\n{kafka}\n[[shard]]\nname = \"s\"\ndsn = \"host=h\"\n[[topic]]\n\
             name = \"t\"\ntable = \"t\"\npk_fields = [\"id\"]\n[ingest]\ndeadline_ms = 4000\nqueue_bytes_max = 1048576\n\
             [[ingest.route]]\npath = \"/t\"\nmethods = [\"POST\"]\ntopic = \"t\"\n"
        );
        let config = parse("f.toml".as_ref(), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}")).config;
        producer_config(&config.kafka, config.ingest.as_ref().expect("a gateway"))
    }

    /// Whatever stands in `[kafka]`, the producer can be made, and keeps what answers rely on.
    #[test]
    fn properties_are_the_users_where_they_may_be() {
        let odd = "acks = \"0\"\nenable.idempotence = false\nmessage.timeout.ms = 1\nqueue.buffering.max.messages = 1\n\
                   \"max.in.flight\" = 100\nretries = 0\nlinger.ms = 20\n\"compression.codec\" = \"gzip\"\nsession.timeout.ms = 6000";
        for (kafka, linger, compression) in [("", Some("1"), Some("lz4")), (odd, Some("20"), None)] {
            let config = config(kafka);
            let expected = [
                ("acks", Some("all")),
                ("enable.idempotence", Some("true")),
                ("message.timeout.ms", Some("3000")),
                ("queue.buffering.max.messages", Some("51000")),
                ("linger.ms", linger),
                ("compression.type", compression),
                ("retries", None),
                ("max.in.flight", None),
                ("session.timeout.ms", None),
                ("group.id", None),
            ];
            for (name, value) in expected {
                assert_eq!(config.get(name), value, "{name} with {kafka:?}");
            }
            let created: Result<BaseProducer, _> = config.create();
            created.unwrap_or_else(|error| panic!("{kafka:?}: {error}"));
        }
    }

    #[test]
    fn what_is_too_large_is_the_client_s_and_all_else_is_ours() {
        assert_eq!(undelivered(RDKafkaErrorCode::MessageSizeTooLarge).status(), Status::CONTENT_TOO_LARGE);
        for code in [RDKafkaErrorCode::MessageTimedOut, RDKafkaErrorCode::UnknownTopicOrPartition] {
            assert_eq!(undelivered(code).status(), Status::SERVICE_UNAVAILABLE, "{code}");
        }
    }

    #[test]
    fn an_acceptance_is_json() {
        let response = accepted("a.b-c_1", 3, 1 << 40);
        let json: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(json, serde_json::json!({ "topic": "a.b-c_1", "partition": 3, "offset": 1u64 << 40 }));
    }
}
