//! The gateway's producer: one for all listeners, idempotent, and acknowledged by all replicas that are in step. Its callback answers the
//! requests; nothing else does while their deadlines have not come.
//!
//! After a fatal error (the brokers' word about what was sent is not what librdkafka believes, or the principal may not write so) nothing
//! can be sent with it any more. Another one can: it begins a sequence of its own. What the old one still had is answered with 503, and
//! until the new one has shown that it works the gateway is not ready.

mod delivery;
mod properties;
mod renewal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use crate::cpus::{self, CpuSet};
use crate::http::{Response, Ticket};
use crate::ingest::queue::{Counts, Pending, Queue, Repliers};
use crate::state::chunk::Headers;

pub use delivery::{Answers, undelivered};
pub use properties::producer_config;
use renewal::{Renewal, Step};

/// One wait for answers; they end it early.
const POLL: Duration = Duration::from_millis(100);
/// How long an old client may take to say what became of its records, after it was given up.
const GIVE_UP_DEADLINE: Duration = Duration::from_secs(5);

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
            let proven = producer.context().is_proven();
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

fn open(
    config: &ClientConfig,
    cpus: Option<&CpuSet>,
    counts: &Arc<Counts>,
    queue: &Arc<Queue>,
    repliers: &Repliers,
) -> Result<BaseProducer<Answers>, KafkaError> {
    let context = Answers::new(config, counts, queue, repliers);
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

/// Hands a record to librdkafka, which answers by [`Answers`].
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
