//! What becomes of a record, told to whoever waits for it: the producer's callback, and what each of the brokers' answers means to a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::http::{Response, Status};
use crate::ingest::problem::Problem;
use crate::ingest::queue::{Counts, Pending, Queue, Repliers};
use crate::metrics::labelled::Refused;
use crate::source::client;

/// What the callbacks need.
pub struct Answers {
    counts: Arc<Counts>,
    queue: Arc<Queue>,
    repliers: Repliers,
    /// Records of fewer bytes may have gone with others, where there were any.
    batch_bytes_max: usize,
    /// The brokers have taken something from it.
    proven: AtomicBool,
    /// What it said last of its connections.
    last: Mutex<Option<String>>,
}

impl Answers {
    /// For a producer with these properties.
    pub fn new(config: &ClientConfig, counts: &Arc<Counts>, queue: &Arc<Queue>, repliers: &Repliers) -> Answers {
        Answers {
            counts: Arc::clone(counts),
            queue: Arc::clone(queue),
            repliers: repliers.clone(),
            batch_bytes_max: config.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(usize::MAX),
            proven: AtomicBool::new(false),
            last: Mutex::default(),
        }
    }

    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

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
                let nobody_came = pending.alone.is_some_and(|entered| entered == self.queue.entered());
                let alone = nobody_came || pending.bytes >= self.batch_bytes_max;
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

#[cfg(test)]
mod tests {
    use super::*;

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
