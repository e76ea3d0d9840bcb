//! The properties of librdkafka: which the user may set, and which forebay owns.

use std::collections::BTreeMap;
use std::ffi::CStr;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use super::problem::did_you_mean;
use super::raw::{Section, describe_unless};
use super::secret::{Secret, is_sensitive, looks_secret};
use super::{Kafka, settings};

/// Properties that forebay sets itself, and why the user may not.
pub const OWNED: &[(&str, &str)] = &[
    ("enable.auto.commit", "an offset is committed only when every record below it is durable in PostgreSQL"),
    ("auto.commit.enable", "an offset is committed only when every record below it is durable in PostgreSQL"),
    ("auto.commit.interval.ms", "engine.commit_interval_ms says how often progress is stored and committed"),
    ("enable.auto.offset.store", "what may be committed follows from what is durable, not from what was handed out"),
    ("offset.store.method", "progress is kept in PostgreSQL and in Kafka"),
    ("offset.store.path", "progress is kept in PostgreSQL and in Kafka"),
    ("offset.store.sync.interval.ms", "progress is kept in PostgreSQL and in Kafka"),
    ("enable.partition.eof", "the end of a partition is how progress passes trailing transaction markers"),
    ("statistics.interval.ms", "forebay's own metrics depend on it"),
];

/// Properties that only a consumer has; a producer that is given one says so in the log. A test compares with librdkafka.
const CONSUMER_ONLY: &[&str] = &[
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "check.crcs",
    "consume.callback.max.messages",
    "consume_cb",
    "coordinator.query.interval.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "offset.store.method",
    "offset.store.path",
    "offset.store.sync.interval.ms",
    "offset_commit_cb",
    "partition.assignment.strategy",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "rebalance_cb",
    "session.timeout.ms",
];

/// Likewise for a producer: a consumer never sees them.
const PRODUCER_ONLY: &[&str] = &[
    "acks",
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "dr_cb",
    "dr_msg_cb",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "linger.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "msg_order_cmp",
    "partitioner",
    "partitioner_cb",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

impl Kafka {
    /// The user's properties that a consumer knows.
    pub fn consumer_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.without(PRODUCER_ONLY)
    }

    /// The user's properties that a producer knows.
    pub fn producer_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.without(CONSUMER_ONLY)
    }

    fn without(&self, left_out: &'static [&'static str]) -> impl Iterator<Item = (&str, &str)> {
        let all = self.properties.iter().map(|(name, value)| (name.as_str(), value.0.as_str()));
        all.filter(|(name, _)| !left_out.contains(name))
    }
}

/// Kafka's default of `group.min.session.timeout.ms` (<https://kafka.apache.org/documentation/#brokerconfigs>).
const SESSION_TIMEOUT_MIN_MS: u32 = 6000;

/// Reads `[kafka]`; what is wrong is reported. `None` only when something was.
pub fn read(section: &Section<'_>) -> Option<Kafka> {
    let first_start = section.get(&settings::AUTO_OFFSET_RESET);
    let bootstrap = section.get(&settings::BOOTSTRAP_SERVERS);
    let group_id = section.get(&settings::GROUP_ID);
    let mut properties = BTreeMap::new();
    for (name, value) in section.entries() {
        if let Some(reason) = owned(&name) {
            section.problem(
                &name,
                describe_unless(is_hidden(&name), value),
                format!("no such property: forebay owns it, because {reason}"),
            );
            continue;
        }
        if [settings::AUTO_OFFSET_RESET.name, settings::BOOTSTRAP_SERVERS.name, settings::GROUP_ID.name]
            .contains(&&*name)
        {
            continue;
        }
        let Some(text) = section.scalar_text(&name, value) else { continue };
        if let Err(expected) = accepted(&name, &text) {
            section.problem(&name, describe_unless(is_hidden(&name), value), expected);
        }
        properties.insert(name, Secret(text));
    }
    let session = properties.get("session.timeout.ms").and_then(|text| text.0.parse::<u32>().ok());
    if let Some(session) = session.filter(|ms| *ms < SESSION_TIMEOUT_MIN_MS) {
        let expected = format!(
            "at least {SESSION_TIMEOUT_MIN_MS}: brokers refuse less, unless their group.min.session.timeout.ms says otherwise"
        );
        section.warning("session.timeout.ms", session.to_string(), expected);
    }
    let (bootstrap, group_id) = (bootstrap?, group_id?);
    properties.insert(settings::BOOTSTRAP_SERVERS.name.to_owned(), Secret(bootstrap));
    properties.insert(settings::GROUP_ID.name.to_owned(), Secret(group_id.clone()));
    Some(Kafka { group_id, first_start, properties })
}

/// Whether a property's value is kept out of messages: a misspelt name may be that of a password.
fn is_hidden(name: &str) -> bool {
    is_sensitive(name) || !property_names().iter().any(|property| property == name)
}

fn owned(name: &str) -> Option<&'static str> {
    if name.ends_with("_cb") || name == "opaque" {
        return Some("callbacks are code");
    }
    OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, reason)| *reason)
}

/// Asks librdkafka for its opinion; an error says what is expected instead.
fn accepted(name: &str, value: &str) -> Result<(), String> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    let Err(error) = config.create_native_config() else { return Ok(()) };
    let known = property_names();
    if !known.iter().any(|property| property == name) {
        let hint = did_you_mean(name, known.iter().map(String::as_str));
        if let Some(near) = hint {
            return Err(format!("a property of librdkafka; did you mean {near}?"));
        }
    }
    Err(match error {
        // It may quote the value.
        KafkaError::ClientConfig(_, text, _, _) if !is_sensitive(name) && !looks_secret(value) => {
            format!("what librdkafka accepts: {}", text.trim_end_matches('\0'))
        }
        _ => "what librdkafka accepts".to_owned(),
    })
}

/// The names of librdkafka's properties, as far as they have a default value.
fn property_names() -> Vec<String> {
    let Ok(config) = ClientConfig::new().create_native_config() else { return Vec::new() };
    let mut count = 0;
    let mut names = Vec::new();
    // SAFETY: `config` lives until the end of the function; the dump is an array of `count` C strings, name and value in
    // turn, that is ours until it is freed. https://docs.confluent.io/platform/current/clients/librdkafka/html/rdkafka_8h.html
    unsafe {
        let dump = rdkafka_sys::rd_kafka_conf_dump(config.ptr(), &mut count);
        for i in (0..count).step_by(2) {
            names.push(CStr::from_ptr(*dump.add(i)).to_string_lossy().into_owned());
        }
        rdkafka_sys::rd_kafka_conf_dump_free(dump, count);
    }
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use super::*;

    /// The properties of one kind of client only, `C` or `P`, as librdkafka's own table says.
    fn only(kind: &str) -> BTreeSet<String> {
        let mut text = String::new();
        // SAFETY: the file is open until it is closed here; librdkafka only writes to it.
        unsafe {
            let file = libc::tmpfile();
            assert!(!file.is_null(), "a temporary file");
            rdkafka_sys::rd_kafka_conf_properties_show(file.cast());
            libc::fflush(file);
            libc::rewind(file);
            let mut copy = std::mem::ManuallyDrop::new(std::os::fd::FromRawFd::from_raw_fd(libc::fileno(file)));
            let open: &mut std::fs::File = &mut copy;
            open.read_to_string(&mut text).expect("what librdkafka wrote");
            libc::fclose(file);
        }
        let rows = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        rows.filter(|row| row.len() > 2 && row[1] == kind).map(|row| row[0].to_owned()).collect()
    }

    #[test]
    fn librdkafka_agrees_on_whose_property_is_whose() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(only("C"), set(CONSUMER_ONLY));
        assert_eq!(only("P"), set(PRODUCER_ONLY));
    }

    #[test]
    fn each_client_gets_what_it_knows() {
        let written =
            ["bootstrap.servers", "group.id", "linger.ms", "partitioner", "sasl.password", "session.timeout.ms"];
        let properties = written.iter().map(|name| ((*name).to_owned(), Secret("x".into()))).collect();
        let kafka = Kafka { group_id: "g".into(), first_start: super::super::FirstStart::Earliest, properties };
        let names = |properties: &mut dyn Iterator<Item = (&str, &str)>| -> Vec<String> {
            properties.map(|(name, _)| name.to_owned()).collect()
        };
        let consumer = names(&mut kafka.consumer_properties());
        assert_eq!(consumer, ["bootstrap.servers", "group.id", "sasl.password", "session.timeout.ms"]);
        let producer = names(&mut kafka.producer_properties());
        assert_eq!(producer, ["bootstrap.servers", "linger.ms", "partitioner", "sasl.password"]);
    }
}
