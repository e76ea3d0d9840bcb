//! The gateway's producer: one for all listeners, idempotent, and acknowledged by all replicas that are in step. Its callback answers the
//! requests; nothing else does while their deadlines have not come.
//!
//! After a fatal error (the brokers' word about what was sent is not what librdkafka believes, or the principal may not write so) nothing
//! can be sent with it any more. Another one can: it begins a sequence of its own. What the old one still had is answered with 503, and
//! until the new one has shown that it works the gateway is not ready.

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
use crate::cpus::{self, CpuSet};
use crate::forward::producer::LEFT_OUT;
use crate::http::{Response, Status, Ticket};
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Queue, Repliers};
use crate::metrics::labelled::Refused;
use crate::source::client;
use crate::state::chunk::Headers;
use crate::state::retry::Backoff;

/// One wait for answers; they end it early.
const POLL: Duration = Duration::from_millis(100);
/// How long an old client may take to say what became of its records, after it was given up.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(5);
/// Without an error for so long, a new client works, whether or not it was asked for anything: it asks for its number at once.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// One that did not work is followed by another one after a wait between these.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What answers rely on; these win over the user's, under all their names.
const OURS: &[(&[&str], &str)] = &[
    (&["enable.idempotence"], "true"),
    (&["acks", "request.required.acks"], "all"),
    (&["delivery.report.only.error"], "false"),
    // A topic that is not there is somebody's to make, with the partitions that it should have.
    (&["allow.auto.create.topics"], "false"),
];

/// Used unless the user says otherwise. A request waits for its record's batch: a millisecond gathers some under load, and is not felt. A
/// batch that is larger than its topic takes is refused as a whole; one record of so many bytes as a batch may have goes alone.
const DEFAULTS: &[(&[&str], &str)] = &[
    (&["client.id"], "forebay-ingest"),
    (&["linger.ms", "queue.buffering.max.ms"], "1"),
    (&["batch.size"], "65536"),
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
    /// Records of fewer bytes may have gone with others.
    batch_bytes_max: usize,
    /// The brokers have taken something from it.
    proven: AtomicBool,
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

    fn error(&self, _: KafkaError, reason: &str) {
        *self.last.lock() = Some(reason.to_owned());
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        self.queue.leave(pending.bytes);
        if result.is_ok() && !self.proven.load(Ordering::Relaxed) {
            self.proven.store(true, Ordering::Relaxed);
        }
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
                if ticket.is_none() {
                    return;
                }
                let alone = pending.bytes >= self.batch_bytes_max;
                self.counts
                    .refuse(Some(pending.route), &if alone { undelivered(code) } else { undelivered_in_batch(code) })
            }
        };
        if let Some(ticket) = ticket {
            self.repliers.answer(pending.listener, ticket, response);
        }
    }
}

fn accepted(topic: &str, partition: i32, offset: i64) -> Response {
    // Of what the brokers had already, when it was sent again, they need not know where.
    let offset = if offset < 0 { String::new() } else { format!(",\"offset\":{offset}") };
    // Names of topics need no escapes.
    Response::json(Status::ACCEPTED, format!("{{\"topic\":\"{topic}\",\"partition\":{partition}{offset}}}"))
}

/// The same of a record that may have gone with others: then what is too large may be all of them together.
fn undelivered_in_batch(code: RDKafkaErrorCode) -> Problem {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge | E::MessageBatchTooLarge => Problem::new(
            Refused::Brokers,
            "the record went with others, and all of them are larger than the topic takes (its max.message.bytes, and batch.size here)",
        ),
        code => undelivered(code),
    }
}

/// Why the brokers do not have it.
pub fn undelivered(code: RDKafkaErrorCode) -> Problem {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge | E::MessageBatchTooLarge => {
            Problem::new(Refused::TooLarge, "the record is larger than the topic takes (its max.message.bytes)")
        }
        E::MessageTimedOut => Problem::new(
            Refused::Brokers,
            "the brokers did not acknowledge the record in time; whether they have it is not known",
        ),
        // Refused by the client that has ended, or taken back from it before it was sent.
        E::Fatal | E::PurgeQueue => Problem::new(
            Refused::Brokers,
            "the producer had to be given up, and the record was not sent; another one takes its place",
        ),
        // It was under way, or is what the client ended over.
        E::PurgeInflight | E::OutOfOrderSequenceNumber | E::UnknownProducerId => Problem::new(
            Refused::Brokers,
            "the producer had to be given up; whether the brokers have the record is not known; another one takes its place",
        ),
        code => Problem::new(Refused::Brokers, format!("the brokers did not acknowledge the record: {code}")),
    }
}

/// The producer of the moment: after a fatal error another one takes its place.
pub struct Sender {
    config: ClientConfig,
    /// Where librdkafka's threads run.
    cpus: Option<CpuSet>,
    current: Mutex<Arc<BaseProducer<Answers>>>,
    version: AtomicU64,
    counts: Arc<Counts>,
    queue: Arc<Queue>,
    repliers: Repliers,
    /// Why the last one was given up, until the present one is proven.
    trouble: Mutex<Option<String>>,
    over: AtomicBool,
}

impl Sender {
    /// # Errors
    /// If the properties do not fit together.
    pub fn new(
        config: ClientConfig,
        cpus: Option<CpuSet>,
        counts: Arc<Counts>,
        queue: Arc<Queue>,
        repliers: Repliers,
    ) -> Result<Sender, KafkaError> {
        let first = open(&config, cpus.as_ref(), &counts, &queue, &repliers)?;
        let (current, version, over) = (Mutex::new(Arc::new(first)), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Sender { config, cpus, current, version, counts, queue, repliers, trouble: Mutex::default(), over })
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn current(&self) -> Arc<BaseProducer<Answers>> {
        Arc::clone(&self.current.lock())
    }

    /// Why nothing can be sent, or nobody knows yet whether it can.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Answers a request by its listener's server.
    pub fn answer(&self, listener: usize, ticket: Ticket, response: Response) {
        self.repliers.answer(listener, ticket, response);
    }

    /// Takes the brokers' answers until it is told to end.
    pub fn run(&self) {
        let mut renewal = Renewal::new();
        // Of those that others hold, the last one that lets go waits for its threads: that is to be here.
        let mut old: Vec<Arc<BaseProducer<Answers>>> = Vec::new();
        while !self.over.load(Ordering::Acquire) {
            let producer = self.current();
            producer.poll(POLL);
            old.retain(|old| Arc::strong_count(old) > 1);
            let ended = producer.client().fatal_error();
            let proven = producer.context().proven.load(Ordering::Relaxed);
            match renewal.step(Instant::now(), ended.is_some(), proven) {
                Step::Nothing => {}
                Step::GivenUp => self.give_up(ended),
                Step::Proven => {
                    self.trouble.lock().take();
                    tracing::info!("the producer that took another one's place works");
                }
            }
            if renewal.is_due(Instant::now()) {
                let replaced = self.replace();
                renewal.tried(Instant::now(), replaced);
                if replaced {
                    answer_all(&producer);
                    old.push(producer);
                }
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

    fn give_up(&self, why: Option<(RDKafkaErrorCode, String)>) {
        let why = why.map_or_else(String::new, |(code, text)| format!("{code}: {text}"));
        self.counts.producers_lost.add(1);
        tracing::error!("the gateway's producer cannot go on, and another one takes its place: {why}");
        *self.trouble.lock() =
            Some(format!("the producer had to be given up ({why}), and another one takes its place"));
    }

    /// Makes another client the present one; whether there is one.
    fn replace(&self) -> bool {
        match open(&self.config, self.cpus.as_ref(), &self.counts, &self.queue, &self.repliers) {
            Ok(new) => {
                *self.current.lock() = Arc::new(new);
                self.version.fetch_add(1, Ordering::Release);
                true
            }
            Err(error) => {
                tracing::error!("no other producer: {error}");
                false
            }
        }
    }
}

/// What a client that was given up has not sent, or has no word about, is answered with an error.
fn answer_all(old: &BaseProducer<Answers>) {
    old.purge(PurgeConfig::default().queue().inflight());
    let until = Instant::now() + GIVE_UP_DEADLINE;
    while old.in_flight_count() > 0 && Instant::now() < until {
        old.poll(POLL);
    }
}

/// When a client that has ended is followed by another one, and from when on that one is trusted.
#[derive(Debug)]
struct Renewal {
    backoff: Backoff,
    state: Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Proven,
    /// It took another one's place then.
    New(Instant),
    /// It has ended, and is to be followed then.
    Ended(Instant),
}

/// What is to be done beside that.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    GivenUp,
    Proven,
}

impl Renewal {
    fn new() -> Renewal {
        Renewal { backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX), state: Life::Proven }
    }

    /// `ended`, `proven`: what the client of the moment has heard.
    fn step(&mut self, now: Instant, ended: bool, proven: bool) -> Step {
        match self.state {
            Life::Ended(_) => Step::Nothing,
            Life::Proven if ended => {
                self.backoff.reset();
                self.state = Life::Ended(now);
                Step::GivenUp
            }
            Life::New(_) if ended => {
                self.state = Life::Ended(now + self.backoff.next(1.0));
                Step::GivenUp
            }
            Life::New(since) if proven || now.saturating_duration_since(since) >= PROVEN_AFTER => {
                self.state = Life::Proven;
                Step::Proven
            }
            Life::Proven | Life::New(_) => Step::Nothing,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, Life::Ended(until) if now >= until)
    }

    /// Another one was made, or could not be.
    fn tried(&mut self, now: Instant, replaced: bool) {
        self.state = if replaced { Life::New(now) } else { Life::Ended(now + self.backoff.next(1.0)) };
    }
}

fn open(
    config: &ClientConfig,
    cpus: Option<&CpuSet>,
    counts: &Arc<Counts>,
    queue: &Arc<Queue>,
    repliers: &Repliers,
) -> Result<BaseProducer<Answers>, KafkaError> {
    let context = Answers {
        counts: Arc::clone(counts),
        queue: Arc::clone(queue),
        repliers: repliers.clone(),
        batch_bytes_max: config.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(usize::MAX),
        proven: AtomicBool::new(false),
        last: Mutex::default(),
    };
    cpus::inherited_from(cpus, || config.create_with_context(context))
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
    producer.send(record).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))
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
                ("allow.auto.create.topics", Some("false")),
                ("batch.size", Some("65536")),
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

    /// The first loss is mended at once; a client that ends again and again is not made again and again without a pause.
    #[test]
    fn a_producer_that_has_ended_is_followed_by_another_one() {
        let (mut renewal, start) = (Renewal::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!((renewal.step(at(0), false, false), renewal.is_due(at(0))), (Step::Nothing, false));
        assert_eq!((renewal.step(at(1), true, true), renewal.is_due(at(1))), (Step::GivenUp, true));
        renewal.tried(at(1), true);
        // It works once the brokers took something of it.
        assert_eq!(renewal.step(at(2), false, false), Step::Nothing);
        assert_eq!(renewal.step(at(3), false, true), Step::Proven);
        assert_eq!(renewal.step(at(4), false, true), Step::Nothing);
        // Or when nothing was wrong for a while.
        assert_eq!((renewal.step(at(10), true, true), renewal.is_due(at(10))), (Step::GivenUp, true));
        renewal.tried(at(10), true);
        assert_eq!(renewal.step(at(5_009), false, false), Step::Nothing);
        assert_eq!(renewal.step(at(5_010), false, false), Step::Proven);
        // Until then each next one comes later.
        assert_eq!(renewal.step(at(6_000), true, false), Step::GivenUp);
        let mut now = 6_000;
        for wait in [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            renewal.tried(at(now), true);
            assert_eq!(renewal.step(at(now), true, false), Step::GivenUp);
            assert_eq!(renewal.step(at(now), true, false), Step::Nothing, "it is said once");
            assert!(!renewal.is_due(at(now + wait - 1)) && renewal.is_due(at(now + wait)), "{wait}");
            now += wait;
        }
        // One that cannot be made is tried again later, too.
        renewal.tried(at(now), false);
        assert!(!renewal.is_due(at(now + 9_999)) && renewal.is_due(at(now + 10_000)));
    }

    #[test]
    fn what_is_too_large_is_the_client_s_and_all_else_is_ours() {
        assert_eq!(undelivered(RDKafkaErrorCode::MessageSizeTooLarge).status(), Status::CONTENT_TOO_LARGE);
        assert_eq!(undelivered_in_batch(RDKafkaErrorCode::MessageSizeTooLarge).status(), Status::SERVICE_UNAVAILABLE);
        for code in [RDKafkaErrorCode::MessageTimedOut, RDKafkaErrorCode::UnknownTopicOrPartition] {
            assert_eq!(undelivered_in_batch(code), undelivered(code));
            assert_eq!(undelivered(code).status(), Status::SERVICE_UNAVAILABLE, "{code}");
        }
        for (code, known) in [
            (RDKafkaErrorCode::Fatal, "was not sent"),
            (RDKafkaErrorCode::PurgeQueue, "was not sent"),
            (RDKafkaErrorCode::PurgeInflight, "is not known"),
            (RDKafkaErrorCode::OutOfOrderSequenceNumber, "is not known"),
        ] {
            let problem = undelivered(code);
            assert_eq!(problem.status(), Status::SERVICE_UNAVAILABLE, "{code}");
            assert!(problem.detail().contains("the producer had to be given up") && problem.detail().contains(known));
        }
    }

    #[test]
    fn an_acceptance_is_json() {
        let response = accepted("a.b-c_1", 3, 1 << 40);
        let json: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(json, serde_json::json!({ "topic": "a.b-c_1", "partition": 3, "offset": 1u64 << 40 }));
        let nowhere = accepted("t", 0, -1001);
        let json: serde_json::Value = serde_json::from_slice(nowhere.body()).expect("JSON");
        assert_eq!(json, serde_json::json!({ "topic": "t", "partition": 0 }));
    }
}
