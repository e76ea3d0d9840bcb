//! The librdkafka producer of a forwarder. It sends what it is given, waits for the answers, and says what each one means; it
//! decides nothing about letters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};

use crate::config;
use crate::cpus::{self, CpuSet};
use crate::forward::message::Message;
use crate::forward::{Publisher, Trouble, Verdict};
use crate::source::client;

/// How long the brokers are asked for a topic.
const READY_DEADLINE: Duration = Duration::from_secs(2);
/// How long librdkafka tries with a record, and how long its answer is waited for: the claim's transaction is open meanwhile.
/// Enough for the largest record that [`DEFAULTS`] let through, at 10 MB/s.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWERS_DEADLINE: Duration = Duration::from_secs(11);
const _: () = assert!(RECORD_TIMEOUT.as_millis() < ANSWERS_DEADLINE.as_millis(), "or answers come after nobody waits");
/// A client that had nothing to do for so long is let go, and its connections with it.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// One wait for answers; they end it early.
const POLL: Duration = Duration::from_millis(100);

/// What forwarding relies on; these win over the user's. Under all their names: of two names for one property librdkafka takes
/// whichever comes last. A record is a batch of its own, because a batch is refused as a whole, and the neighbours of a letter
/// that is too large would go with it; waiting for company would be pointless then.
const OURS: &[(&[&str], &str)] = &[
    (&["enable.idempotence"], "true"),
    (&["acks", "request.required.acks"], "all"),
    (&["batch.num.messages"], "1"),
    (&["linger.ms", "queue.buffering.max.ms"], "0"),
    (&["delivery.report.only.error"], "false"),
];

/// Not handed through: an idempotent producer cannot be made with some of their values, or sends what nobody may read.
pub const LEFT_OUT: &[&str] = &[
    "batch.size",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "queuing.strategy",
    "retries",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Used unless the user says otherwise. Whether a letter is too large is for its topic to say, up to what brokers take in one
/// request (`socket.request.max.bytes`, 100 MiB by default): beyond that they answer nothing. They look at what is compressed: a
/// record that came compressed may fit no other way.
const DEFAULTS: &[(&[&str], &str)] = &[
    (&["client.id"], "forebay"),
    (&["message.max.bytes"], "100000000"),
    (&["compression.type", "compression.codec"], "lz4"),
];

/// The properties of the producer: the user's as far as they are a producer's, our defaults where he is silent, ours where they
/// must be.
pub fn producer_config(kafka: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (names, value) in DEFAULTS.iter().filter(|(names, _)| !names.iter().any(|n| kafka.properties.contains_key(*n)))
    {
        config.set(names[0], *value);
    }
    let owned = |name: &str| LEFT_OUT.contains(&name) || OURS.iter().any(|(names, _)| names.contains(&name));
    for (name, value) in kafka.producer_properties().filter(|(name, _)| !owned(name)) {
        config.set(name, value);
    }
    for (names, value) in OURS {
        config.set(names[0], *value);
    }
    config.set("message.timeout.ms", RECORD_TIMEOUT.as_millis().to_string());
    config.set_log_level(client::log_level(kafka));
    config
}

/// See the module's text. Its client is made when it is needed, and again after librdkafka gave it up.
pub struct KafkaPublisher {
    config: ClientConfig,
    /// Where librdkafka's threads run.
    cpus: Option<CpuSet>,
    live: Option<BaseProducer<Answers>>,
    /// When the client was used last.
    used: Instant,
    /// Tells the answers of one call from late ones of the call before.
    call: u32,
}

impl KafkaPublisher {
    pub fn new(kafka: &config::Kafka) -> KafkaPublisher {
        KafkaPublisher { config: producer_config(kafka), cpus: None, live: None, used: Instant::now(), call: 0 }
    }

    /// With the client's threads there.
    pub fn pinned(self, cpus: Option<CpuSet>) -> KafkaPublisher {
        KafkaPublisher { cpus, ..self }
    }

    fn open(&mut self) -> Result<&BaseProducer<Answers>, Trouble> {
        self.used = Instant::now();
        // After a fatal error nothing more can be sent with it.
        if self.live.as_ref().is_some_and(|producer| producer.context().fatal.load(Ordering::Relaxed)) {
            self.live = None;
        }
        if self.live.is_none() {
            let config = &self.config;
            let created = cpus::inherited_from(self.cpus.as_ref(), || config.create_with_context(Answers::default()));
            // The configuration was accepted property by property; what does not fit together shows here.
            let producer = created.map_err(|error| Trouble { text: error.to_string(), needs_a_person: true })?;
            self.live = Some(producer);
        }
        match &self.live {
            Some(producer) => Ok(producer),
            None => unreachable!("made above"),
        }
    }
}

impl Publisher for KafkaPublisher {
    fn ready(&mut self, topic: &str) -> Result<(), Trouble> {
        let producer = self.open()?;
        let asked = producer.client().fetch_metadata(Some(topic), READY_DEADLINE);
        // Runs the callbacks.
        producer.poll(Duration::ZERO);
        let metadata = asked.map_err(|error| {
            let why = producer.context().last.lock().take().map(|why| format!(" ({why})")).unwrap_or_default();
            Trouble { text: format!("the brokers do not answer{why}"), ..trouble(code(&error).unwrap_or(AWAY)) }
        })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|found| (found.error(), found.partitions().len())) {
            Some((None, 1..)) => Ok(()),
            Some((Some(error), _)) => Err(trouble(error.into())),
            _ => Err(trouble(RDKafkaErrorCode::UnknownTopicOrPartition)),
        }
    }

    fn publish(&mut self, topic: &str, messages: &[Message<'_>]) -> Vec<Verdict> {
        self.call = self.call.wrapping_add(1);
        let call = self.call;
        match self.open() {
            Ok(producer) => Sending::new(producer, call, messages.len()).all(topic, messages),
            Err(trouble) => vec![Verdict::NotNow(trouble); messages.len()],
        }
    }

    fn rest(&mut self) {
        if self.used.elapsed() >= IDLE_MAX {
            self.live = None;
        }
        // What its threads report piles up until somebody looks.
        if let Some(producer) = &self.live {
            producer.poll(Duration::ZERO);
        }
    }
}

/// One call's messages on their way.
struct Sending<'a> {
    producer: &'a BaseProducer<Answers>,
    call: u32,
    verdicts: Vec<Option<Verdict>>,
    /// How many were sent and not answered.
    open: usize,
    deadline: Instant,
}

impl<'a> Sending<'a> {
    fn new(producer: &'a BaseProducer<Answers>, call: u32, messages: usize) -> Sending<'a> {
        let deadline = Instant::now() + ANSWERS_DEADLINE;
        Sending { producer, call, verdicts: vec![None; messages], open: 0, deadline }
    }

    fn all(mut self, topic: &str, messages: &[Message<'_>]) -> Vec<Verdict> {
        for (index, message) in messages.iter().enumerate() {
            match self.send(topic, index, message) {
                Ok(()) => self.open += 1,
                Err(code) => {
                    let verdict = verdict(code);
                    // Nothing overtakes what could not be sent.
                    let over = matches!(verdict, Verdict::NotNow(_));
                    self.verdicts[index] = Some(verdict);
                    if over {
                        break;
                    }
                }
            }
        }
        while self.open > 0 && Instant::now() < self.deadline {
            self.collect(POLL);
        }
        if self.open > 0 {
            // Their answers come at once, and so does the end of whatever is still on its way.
            self.producer.purge(PurgeConfig::default().queue().inflight());
            self.collect(POLL);
        }
        let unanswered = || Verdict::NotNow(trouble(AWAY));
        self.verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(unanswered)).collect()
    }

    /// Hands a message to librdkafka, waiting where its queue is full.
    fn send(&mut self, topic: &str, index: usize, message: &Message<'_>) -> Result<(), RDKafkaErrorCode> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(message.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, Answers::opaque(self.call, index));
        record.key = message.key;
        record.payload = message.value;
        record.timestamp = message.timestamp_ms;
        record.headers = Some(headers);
        loop {
            let Err((error, back)) = self.producer.send(record) else { return Ok(()) };
            match self.producer.context().heard(&error) {
                RDKafkaErrorCode::QueueFull if Instant::now() < self.deadline => {
                    self.collect(POLL);
                    record = back;
                }
                code => return Err(code),
            }
        }
    }

    fn collect(&mut self, wait: Duration) {
        self.producer.poll(wait);
        for (index, answer) in self.producer.context().take(self.call) {
            self.open -= 1;
            self.verdicts[index] = Some(answer.map_or_else(verdict, |()| Verdict::Acknowledged));
        }
    }
}

/// For whatever has no better word.
const AWAY: RDKafkaErrorCode = RDKafkaErrorCode::MessageTimedOut;

/// What an error means for the one message that it is about.
fn verdict(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as E;
    match code {
        E::MessageSizeTooLarge | E::MessageBatchTooLarge | E::InvalidTimestamp | E::InvalidRecord => {
            Verdict::Refused(code.to_string())
        }
        code => Verdict::NotNow(trouble(code)),
    }
}

fn trouble(code: RDKafkaErrorCode) -> Trouble {
    use RDKafkaErrorCode as E;
    let needs_a_person = matches!(
        code,
        E::UnknownTopicOrPartition
            | E::UnknownTopic
            | E::InvalidTopic
            | E::TopicAuthorizationFailed
            | E::ClusterAuthorizationFailed
            | E::Authentication
            | E::SaslAuthenticationFailed
            | E::UnsupportedSASLMechanism
            | E::PolicyViolation
    );
    Trouble { text: code.to_string(), needs_a_person }
}

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code()
}

type Answer = Result<(), RDKafkaErrorCode>;

/// The callbacks' notebook: what became of each message, and what the client says of itself.
#[derive(Default)]
struct Answers {
    seen: Mutex<Vec<(usize, Answer)>>,
    /// What it said last of its connections: a request by itself only says that it timed out.
    last: Mutex<Option<String>>,
    /// Nothing more can be sent with it.
    fatal: AtomicBool,
}

/// An answer's place within its call; a call's number stands above it.
const INDEX_BITS: u32 = usize::BITS / 2;

impl Answers {
    fn opaque(call: u32, index: usize) -> usize {
        ((call as usize) << INDEX_BITS) | index
    }

    /// The answers of this call since the last look; those of earlier ones are nobody's any more.
    fn take(&self, call: u32) -> Vec<(usize, Answer)> {
        let seen = std::mem::take(&mut *self.seen.lock()).into_iter();
        let of_call = seen.filter(|(opaque, _)| opaque >> INDEX_BITS == call as usize);
        of_call.map(|(opaque, answer)| (opaque & ((1 << INDEX_BITS) - 1), answer)).collect()
    }

    fn heard(&self, error: &KafkaError) -> RDKafkaErrorCode {
        let code = code(error).unwrap_or(AWAY);
        if code == RDKafkaErrorCode::Fatal {
            self.fatal.store(true, Ordering::Relaxed);
        }
        code
    }
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard(&error);
        *self.last.lock() = Some(reason.to_owned());
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let answer = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(self.heard(error)),
        };
        self.seen.lock().push((opaque, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::FirstStart;
    use crate::config::secret::Secret;

    fn kafka(properties: &[(&str, &str)]) -> config::Kafka {
        let all = properties.iter().chain(&[("bootstrap.servers", "127.0.0.1:1"), ("group.id", "g")]);
        let properties: BTreeMap<_, _> = all.map(|(n, v)| ((*n).to_owned(), Secret((*v).to_owned()))).collect();
        config::Kafka { group_id: "g".into(), first_start: FirstStart::Earliest, properties }
    }

    #[track_caller]
    fn check(properties: &[(&str, &str)], expected: &[(&str, Option<&str>)]) {
        let config = producer_config(&kafka(properties));
        for (name, value) in expected {
            assert_eq!(config.get(name), *value, "{name} with {properties:?}");
        }
        let created: Result<BaseProducer<Answers>, _> = config.create_with_context(Answers::default());
        created.unwrap_or_else(|error| panic!("{properties:?}: {error}"));
    }

    /// Whatever stands in `[kafka]` for the consumer's sake, or in vain, the producer can be made and keeps its guarantees.
    #[test]
    fn properties_are_the_users_where_they_are_a_producers() {
        check(
            &[],
            &[
                ("group.id", None),
                ("enable.idempotence", Some("true")),
                ("acks", Some("all")),
                ("batch.num.messages", Some("1")),
                ("message.timeout.ms", Some("10000")),
                ("compression.type", Some("lz4")),
                ("client.id", Some("forebay")),
            ],
        );
        let user = [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("retries", "0"),
            ("message.send.max.retries", "0"),
            ("max.in.flight", "100"),
            ("max.in.flight.requests.per.connection", "100"),
            ("queuing.strategy", "lifo"),
            ("transactional.id", "x"),
            ("delivery.timeout.ms", "1"),
            ("queue.buffering.max.ms", "900000"),
            ("delivery.report.only.error", "true"),
            ("compression.codec", "gzip"),
            ("partitioner", "murmur2_random"),
            ("client.id", "mine"),
            ("security.protocol", "ssl"),
            ("session.timeout.ms", "6000"),
            ("isolation.level", "read_uncommitted"),
            ("message.max.bytes", "2000"),
        ];
        check(
            &user,
            &[
                ("acks", Some("all")),
                ("request.required.acks", None),
                ("enable.idempotence", Some("true")),
                ("retries", None),
                ("max.in.flight", None),
                ("transactional.id", None),
                ("delivery.timeout.ms", None),
                ("queue.buffering.max.ms", None),
                ("compression.codec", Some("gzip")),
                ("compression.type", None),
                ("partitioner", Some("murmur2_random")),
                ("client.id", Some("mine")),
                ("security.protocol", Some("ssl")),
                ("session.timeout.ms", None),
                ("isolation.level", None),
                ("message.max.bytes", Some("2000")),
            ],
        );
    }

    #[test]
    fn late_answers_of_an_earlier_call_are_nobodys() {
        let answers = Answers::default();
        answers.seen.lock().extend([(Answers::opaque(1, 7), Ok(())), (Answers::opaque(2, 0), Ok(()))]);
        assert_eq!(answers.take(2), [(0, Ok(()))]);
        assert_eq!(answers.take(2), []);
    }

    #[test]
    fn only_what_a_single_message_is_guilty_of_is_refused_for_good() {
        assert!(matches!(verdict(RDKafkaErrorCode::MessageSizeTooLarge), Verdict::Refused(_)));
        for (code, person) in [
            (RDKafkaErrorCode::UnknownTopicOrPartition, true),
            (RDKafkaErrorCode::TopicAuthorizationFailed, true),
            (RDKafkaErrorCode::MessageTimedOut, false),
            (RDKafkaErrorCode::NotEnoughReplicas, false),
            (RDKafkaErrorCode::BrokerTransportFailure, false),
        ] {
            let Verdict::NotNow(trouble) = verdict(code) else { panic!("{code:?}") };
            assert_eq!(trouble.needs_a_person, person, "{code:?}");
        }
    }
}
