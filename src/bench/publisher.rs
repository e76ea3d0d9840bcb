//! Publishes the workload: as fast as the brokers take it, or at a rate. At a rate it is an open loop: each record has a time at
//! which it is to be sent, and carries it, and whoever is slow does not move these times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::bench::BenchError;
use crate::bench::protocol::Quantiles;
use crate::bench::topics::{client, is_full};
use crate::bench::workload::Workload;
use crate::clock::unix_us;
use crate::config;
use crate::engine::Stopper;
use crate::source::client as log;

/// It looks so often what is due.
const TICK: Duration = Duration::from_micros(500);
/// Of what became of batches; those that there are not cost next to nothing.
const EVENTS_AT_ONCE: usize = 32;
const FULL_WAIT: Duration = Duration::from_millis(1);
const FLUSH_DEADLINE: Duration = Duration::from_secs(60);
const METADATA_DEADLINE: Duration = Duration::from_secs(20);
/// Acknowledgements are served once in so many records.
const SERVE_EVERY: u64 = 1000;
/// An hour, in microseconds: what is later counts as this.
const LATE_MAX: u64 = 3_600_000_000;

/// What the brokers answer.
struct Answers {
    /// From the time at which a record should have been sent to its acknowledgement.
    acknowledged: Mutex<Histogram<u64>>,
    failure: Mutex<Option<String>>,
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log::log(level, facility, text);
    }
}

impl ProducerContext for Answers {
    /// When it should have been sent, in µs since the Unix epoch; 0: it does not matter.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, sent_us: usize) {
        match result {
            Ok(_) if sent_us == 0 => {}
            Ok(_) => self.acknowledged.lock().saturating_record(unix_us().saturating_sub(sent_us as u64)),
            Err((error, _)) => drop(self.failure.lock().get_or_insert(error.to_string())),
        }
    }
}

/// See the module's text.
pub struct Publisher {
    producer: BaseProducer<Answers>,
    topic: String,
    key: String,
    value: String,
}

impl Publisher {
    pub fn new(kafka: &config::Kafka, topic: &str, linger: Option<Duration>) -> Result<Publisher, BenchError> {
        let mut config: ClientConfig = client(kafka);
        // As Java's producers spread keys, unless the operator says otherwise.
        if !kafka.properties.contains_key("partitioner") {
            config.set("partitioner", "murmur2_random");
        }
        config.set("enable.idempotence", "true").set("queue.buffering.max.messages", "1000000");
        match linger {
            Some(linger) => config.set("linger.ms", linger.as_millis().to_string()),
            None => config.set("linger.ms", "20").set("batch.size", "500000"),
        };
        config.set_log_level(log::log_level(kafka));
        let acknowledged = Mutex::new(histogram());
        let answers = Answers { acknowledged, failure: Mutex::default() };
        let producer: BaseProducer<Answers> =
            config.create_with_context(answers).map_err(|e| BenchError::Configuration(format!("[kafka]: {e}")))?;
        // The connection first: it is not what is measured.
        let known = producer.client().fetch_metadata(Some(topic), METADATA_DEADLINE);
        known.map_err(|e| BenchError::kafka("the publisher", e))?;
        Ok(Publisher { producer, topic: topic.to_owned(), key: String::new(), value: String::new() })
    }

    /// The first `records`, as fast as they are taken. `seen` is told how many there are so far, and may end it.
    pub fn all(
        &mut self,
        workload: &Workload,
        records: u64,
        mut seen: impl FnMut(u64) -> bool,
    ) -> Result<u64, BenchError> {
        for n in 0..records {
            workload.write_key(n, &mut self.key);
            let has_value = workload.write_value(n, &mut self.value);
            self.send(None, has_value)?;
            if n % SERVE_EVERY == 0 {
                self.serve()?;
                if !seen(n) {
                    self.flush()?;
                    return Ok(n + 1);
                }
            }
        }
        self.flush()?;
        Ok(records)
    }

    /// Whole rows without a time, numbered from 0.
    pub fn warm_up(&mut self, workload: &Workload, records: u64) -> Result<(), BenchError> {
        for n in 0..records {
            workload.write_key(n, &mut self.key);
            workload.write_sent(n, 0, &mut self.value);
            self.send(None, true)?;
        }
        self.flush()
    }

    /// Hands a record over; waits while librdkafka's queue is full.
    fn send(&self, sent_us: Option<u64>, has_value: bool) -> Result<(), BenchError> {
        let opaque = sent_us.unwrap_or_default() as usize;
        let mut record = BaseRecord::<str, str, usize>::with_opaque_to(&self.topic, opaque).key(&self.key);
        record.payload = has_value.then_some(&self.value);
        // So that the engine's own figures count from there, too.
        record.timestamp = sent_us.map(|us| (us / 1000) as i64);
        while let Err((error, back)) = self.producer.send(record) {
            if !is_full(&error) {
                return Err(BenchError::kafka("publishing", error));
            }
            self.producer.poll(FULL_WAIT);
            record = back;
        }
        Ok(())
    }

    fn serve(&self) -> Result<(), BenchError> {
        // One poll takes one event, which is what became of one batch; with a short linger there are thousands a second.
        (0..EVENTS_AT_ONCE).for_each(|_| self.producer.poll(Duration::ZERO));
        let failure = self.producer.context().failure.lock().take();
        failure.map_or(Ok(()), |failure| Err(BenchError::kafka("a record was not published", failure)))
    }

    fn flush(&self) -> Result<(), BenchError> {
        self.producer.flush(FLUSH_DEADLINE).map_err(|e| BenchError::kafka("publishing", e))?;
        self.serve()
    }
}

/// What a steady publisher did.
#[derive(Debug, Clone)]
pub struct Published {
    pub records: u64,
    /// From the time at which a record should have been handed to librdkafka until it was, in ms.
    pub late_ms: Quantiles,
    /// Until the brokers had it.
    pub acknowledged_ms: Quantiles,
}

/// A publisher at a rate, on a thread of its own. Dropping it ends it.
pub struct Steady {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Published, BenchError>>>,
}

#[derive(Default)]
struct Shared {
    /// Records a second.
    rate: AtomicU64,
    sent: AtomicU64,
    /// By how much the last record was.
    late_us: AtomicU64,
    over: AtomicBool,
}

impl Steady {
    /// Records are numbered from `first`.
    pub fn start(publisher: Publisher, workload: Workload, first: u64, rate: u64) -> Result<Steady, BenchError> {
        let shared = Arc::new(Shared { rate: AtomicU64::new(rate), ..Shared::default() });
        let own = Arc::clone(&shared);
        let body = move || steadily(publisher, &workload, first, &own);
        let thread = std::thread::Builder::new().name("bench-publisher".into()).spawn(body);
        let thread = thread.map_err(|e| BenchError::Failed(format!("the publisher's thread: {e}")))?;
        Ok(Steady { shared, thread: Some(thread) })
    }

    /// From the next record on.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Handed to librdkafka so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// By how much it is behind its own times.
    pub fn late(&self) -> Duration {
        Duration::from_micros(self.shared.late_us.load(Ordering::Relaxed))
    }

    /// It has failed.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and waits until the brokers have everything.
    pub fn end(mut self) -> Result<Published, BenchError> {
        self.shared.over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().map(JoinHandle::join);
        thread.and_then(Result::ok).unwrap_or_else(|| Err(BenchError::Failed("the publisher panicked".to_owned())))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

fn steadily(
    mut publisher: Publisher,
    workload: &Workload,
    first: u64,
    shared: &Shared,
) -> Result<Published, BenchError> {
    let (begin, begin_us) = (Instant::now(), unix_us());
    // In nanoseconds since the begin.
    let mut due = 0.0;
    let (mut n, mut late) = (first, histogram());
    while !shared.over.load(Ordering::Relaxed) {
        let until = begin.elapsed().as_nanos() as f64;
        while due <= until && !shared.over.load(Ordering::Relaxed) {
            let sent_us = begin_us + (due / 1e3) as u64;
            workload.write_key(n, &mut publisher.key);
            workload.write_sent(n, sent_us, &mut publisher.value);
            publisher.send(Some(sent_us), true)?;
            let late_us = ((begin.elapsed().as_nanos() as f64 - due) / 1e3) as u64;
            late.saturating_record(late_us);
            shared.late_us.store(late_us, Ordering::Relaxed);
            n += 1;
            shared.sent.store(n - first, Ordering::Relaxed);
            due += 1e9 / shared.rate.load(Ordering::Relaxed).max(1) as f64;
            if n % SERVE_EVERY == 0 {
                publisher.serve()?;
            }
        }
        publisher.serve()?;
        std::thread::sleep(TICK);
    }
    publisher.flush()?;
    let acknowledged = publisher.producer.context().acknowledged.lock().clone();
    Ok(Published { records: n - first, late_ms: quantiles(&late), acknowledged_ms: quantiles(&acknowledged) })
}

/// Publishes all of it, showing how far it is.
pub fn publish(
    publisher: &mut Publisher,
    workload: &Workload,
    records: u64,
    stopper: &Stopper,
    mut show: impl FnMut(u64),
) -> Result<(), BenchError> {
    let published = publisher.all(workload, records, |n| {
        show(n);
        !stopper.is_stopped()
    })?;
    if published < records { Err(BenchError::Interrupted) } else { Ok(()) }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATE_MAX, 3).expect("an hour to three digits")
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |q| ms(histogram.value_at_quantile(q));
    Quantiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()) }
}
