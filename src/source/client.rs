//! The librdkafka client of the source: its configuration, and the callbacks, which decide nothing: they write down what
//! happened for the next poll.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::config;

/// What the source relies on; these win over the user's. Committing is the engine's, start offsets are always explicit, a
/// position outside the log must be an error instead of a silent jump, and the end of a partition is an event.
const OURS: [(&str, &str); 4] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
];

/// Used unless the user says otherwise. Nothing is fetched while a message of any partition waits in the queue; librdkafka looks
/// again after the back-off (with its own default, 1,000 ms, it would stop for a second). So steady traffic is fetched every few
/// milliseconds rather than a thousand times a second, for which broker, client, and PostgreSQL (smaller transactions) would pay,
/// and a backlog lies at the workers instead of in memory twice. An answer is one block of memory until its
/// last message is done with, hence the limits in bytes (a batch that is larger is answered all the same, alone). A fetch that
/// waits at the broker delays a partition that was just added or resumed, hence the short wait.
const DEFAULTS: [(&str, &str); 9] = [
    ("client.id", "forebay"),
    (STRATEGY, "cooperative-sticky"),
    ("isolation.level", "read_committed"),
    ("fetch.queue.backoff.ms", "1"),
    ("fetch.wait.max.ms", "100"),
    ("queued.max.messages.kbytes", "4096"),
    ("queued.min.messages", "1"),
    ("fetch.message.max.bytes", "524288"),
    (FETCH_MAX, "2097152"),
];

/// librdkafka wants it to be no less than `message.max.bytes`, and less than `receive.message.max.bytes`; unset, it follows these
/// and the queue's size.
const FETCH_MAX: &str = "fetch.max.bytes";

/// A member that comes or goes then stops nothing but the partitions that move; with the client's own `range` everything stops.
const STRATEGY: &str = "partition.assignment.strategy";

/// What is not ours to set where the user sets one of these: limits that must fit each other, or the same one by another name (of two
/// names for one property a client takes either).
const NOT_BESIDE: [(&str, &[&str]); 3] = [
    (STRATEGY, &["group.protocol"]),
    (FETCH_MAX, &["message.max.bytes", "receive.message.max.bytes", "queued.max.messages.kbytes"]),
    ("fetch.message.max.bytes", &["max.partition.fetch.bytes"]),
];

const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Unserved notices of trouble that are kept; more of them say nothing new.
const NOTICES_MAX: usize = 64;

/// The properties of the client: the user's, our defaults where he is silent, ours where they must be.
pub fn client_config(kafka: &config::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in DEFAULTS {
        let others = NOT_BESIDE.iter().find(|(ours, _)| *ours == name).map_or(&[][..], |(_, others)| others);
        if !others.iter().any(|other| kafka.properties.contains_key(*other)) {
            config.set(name, value);
        }
    }
    for (name, value) in kafka.consumer_properties() {
        config.set(name, value);
    }
    config.set("group.id", kafka.group_id.as_str());
    for (name, value) in OURS {
        config.set(name, value);
    }
    config.set_log_level(log_level(kafka));
    config
}

/// What a client is to log: everything where the user asks for `debug`.
pub fn log_level(kafka: &config::Kafka) -> RDKafkaLogLevel {
    if kafka.properties.contains_key("debug") { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info }
}

/// Passes on what librdkafka logs.
pub fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        // What it calls an error (a broker that is away) heals by itself; what does not comes as an error event.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{text}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", facility, "{text}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// The group's offsets, for whoever may wait. Who coordinates the group may be new to it: the very first group of a cluster has
/// to wait until the brokers have made their own topic for offsets.
///
/// # Errors
/// What the broker says, or, after `deadline`, has said all the time.
pub fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
    deadline: Duration,
) -> KafkaResult<TopicPartitionList> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let until = Instant::now() + deadline;
    loop {
        let answer = consumer.committed_offsets(list.clone(), deadline);
        let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        let passing = code
            .is_some_and(|code| [CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator].contains(&code));
        if !passing || Instant::now() >= until {
            return answer;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Something that a callback wrote down.
#[derive(Debug)]
pub enum Seen {
    Assigned(Rebalance),
    Revoked(Rebalance),
    Lost(Rebalance),
    Committed(Result<(), String>),
    Unwell(String),
    Fatal(String),
}

/// A rebalance that librdkafka waits to have answered.
#[derive(Debug, Clone)]
pub struct Rebalance {
    pub partitions: Vec<(String, i32)>,
    /// Whether it is answered by incremental calls; KIP-848 reports itself as cooperative, too.
    pub incremental: bool,
}

/// The callbacks' notebook.
#[derive(Default)]
pub struct Context {
    seen: Mutex<VecDeque<Seen>>,
    ending: AtomicBool,
}

impl Context {
    /// What happened since the last call, in order.
    pub fn take_seen(&self) -> VecDeque<Seen> {
        std::mem::take(&mut self.seen.lock())
    }

    /// From now on a rebalance is answered inside the callback by giving everything back: nobody else will, and the
    /// binding's end waits for it.
    pub fn answer_by_yourself(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn note(&self, what: Seen) {
        let mut seen = self.seen.lock();
        if matches!(what, Seen::Unwell(_)) && seen.len() >= NOTICES_MAX {
            return;
        }
        seen.push_back(what);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return self.note(Seen::Unwell(format!("{error}: {reason}")));
        };
        let text = format!("{reason} ({code:?})");
        self.note(if is_fatal(code) { Seen::Fatal(text) } else { Seen::Unwell(text) });
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.ending.load(Ordering::Relaxed) {
            // While leaving librdkafka takes this in every protocol.
            if let Err(error) = consumer.unassign() {
                tracing::warn!("giving partitions back at the end: {error}");
            }
            return;
        }
        let partitions = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let incremental = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let rebalance = Rebalance { partitions, incremental };
        let lost = consumer.assignment_lost();
        self.note(match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Seen::Assigned(rebalance),
            _ if lost => Seen::Lost(rebalance),
            _ => Seen::Revoked(rebalance),
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let partial = offsets.elements().iter().find_map(|e| {
            let error = e.error().err()?.rdkafka_error_code()?;
            Some(format!("{} [{}]: {error}", e.topic(), e.partition()))
        });
        let result = match (result, partial) {
            (Ok(()), None) => Ok(()),
            (_, Some(partial)) => Err(partial),
            (Err(error), None) => Err(error.rdkafka_error_code().map_or_else(|| error.to_string(), |c| c.to_string())),
        };
        self.note(Seen::Committed(result));
    }
}

/// Whether no waiting helps: this process is fenced out of its group, may not be in it, or cannot prove who it is.
pub fn is_fatal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::Fatal
            | E::Authentication
            | E::SaslAuthenticationFailed
            | E::UnsupportedSASLMechanism
            | E::GroupAuthorizationFailed
            | E::ClusterAuthorizationFailed
            | E::FencedInstanceId
            | E::UnreleasedInstanceId
            | E::InconsistentGroupProtocol
            | E::InvalidGroupId
            | E::InvalidSessionTimeout
            | E::GroupMaxSizeReached
            | E::UnsupportedAssignor
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What librdkafka says to `[kafka]` with these properties more.
    fn created(more: &str) -> Result<ClientConfig, String> {
        let text = format!(
            "[kafka]\n\"bootstrap.servers\" = \"127.0.0.1:1\"\n\"group.id\" = \"g\"\n{more}\n\
             [[shard]]\nname = \"main\"\ndsn = \"host=127.0.0.1\"\n[[topic]]\nname = \"t\"\ntable = \"t\"\n"
        );
        let loaded = config::load::parse(std::path::Path::new("test.toml"), &text, &|_| None);
        let config = client_config(&loaded.map_err(|problems| problems.to_string())?.config.kafka);
        config.create::<BaseConsumer>().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn what_the_user_says_of_sizes_fits_what_he_does_not_say() {
        assert_eq!(created("").unwrap().get(FETCH_MAX), Some("2097152"));
        assert_eq!(created("\"message.max.bytes\" = \"10000000\"").unwrap().get(FETCH_MAX), None);
        assert_eq!(created("\"fetch.max.bytes\" = \"5000000\"").unwrap().get(FETCH_MAX), Some("5000000"));
        let sizes = "\"queued.max.messages.kbytes\" = \"1024\"\n\"receive.message.max.bytes\" = \"1500000\"";
        assert_eq!(created(sizes).unwrap().get(FETCH_MAX), None);
        let alias = created("\"max.partition.fetch.bytes\" = \"10485760\"").unwrap();
        assert_eq!(alias.get("fetch.message.max.bytes"), None, "it would be whichever comes last");
        assert_eq!(created("").unwrap().get(STRATEGY), Some("cooperative-sticky"));
        assert_eq!(created("\"partition.assignment.strategy\" = \"range\"").unwrap().get(STRATEGY), Some("range"));
        assert_eq!(
            created("\"group.protocol\" = \"consumer\"").unwrap().get(STRATEGY),
            None,
            "it is refused beside it"
        );
        let contradicting = "\"message.max.bytes\" = \"10000000\"\n\"fetch.max.bytes\" = \"5000000\"";
        assert!(created(contradicting).unwrap_err().contains("fetch.max.bytes"));
    }

    fn document(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).expect("a document is readable")
    }

    /// Property, librdkafka's default, ours; in the order of the names.
    fn table_in_tuning_md() -> Vec<[String; 3]> {
        let text = document("tuning.md");
        let head = "| property | librdkafka's default | forebay's |\n|---|---|---|\n";
        let (_, rows) = text.split_once(head).expect("tuning.md has the table");
        let cells = |row: &str| -> [String; 3] {
            let cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            cells.collect::<Vec<_>>().try_into().expect("three cells")
        };
        let mut table: Vec<_> = rows.lines().take_while(|line| line.starts_with('|')).map(cells).collect();
        table.sort();
        table
    }

    /// It once said 1 in one line and 2 in the next.
    #[test]
    fn tuning_md_says_what_is_set_and_instead_of_what() {
        let librdkafka = ClientConfig::new().create_native_config().unwrap();
        let of =
            |(name, ours): &(&str, &str)| [*name, librdkafka.get(name).unwrap().as_str(), *ours].map(str::to_owned);
        let mut expected: Vec<_> = DEFAULTS.iter().map(of).collect();
        expected.sort();
        assert_eq!(table_in_tuning_md(), expected);
    }

    #[test]
    fn what_the_documents_say_of_a_default_in_passing_is_so() {
        for name in ["README.md", "tuning.md"] {
            let text = document(name).split_whitespace().collect::<Vec<_>>().join(" ");
            let mut said: Vec<&str> = text.split("` unless you say otherwise").collect();
            said.pop();
            assert!(!said.is_empty(), "{name}");
            for before in said {
                // …`name`, which is `value
                let mut parts = before.rsplit('`');
                let (value, _, property) = (parts.next(), parts.next(), parts.next());
                let found = DEFAULTS.iter().find(|(of, _)| Some(*of) == property).map(|(_, value)| *value);
                assert_eq!(found, value, "{name}: {property:?}");
            }
        }
    }
}
