//! librdkafka's properties for the gateway's producer: what the user set, less what answers rely on.

use rdkafka::ClientConfig;

use crate::config;
use crate::config::ingest::Ingest;
use crate::forward::producer::LEFT_OUT;
use crate::source::client;

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

#[cfg(test)]
mod tests {
    use rdkafka::producer::BaseProducer;

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
}
