//! A producer that cannot go on, on librdkafka's mock cluster, whose brokers answer what real ones do when they and a producer do not
//! believe the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Gate, SUBSCRIPTIONS, gateway, json, put, request, shard};
use crate::http::client::Answer;
use crate::support::{Database, PATIENCE, Rig, Server, wait_until};

const TOPIC: &str = "updates";
const PARTITIONS: i32 = 2;
const BROKER: i32 = 1;
/// Longer than all of it takes where the machine has other things to do.
const DEADLINE: Duration = Duration::from_secs(30);

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> (Mock, Database, Rig) {
    let mock = MockCluster::new(1).expect("a cluster");
    mock.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let more = format!("deadline_ms = {}\n", DEADLINE.as_millis());
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(TOPIC, &more));
    let rig = Rig::at(&mock.bootstrap_servers(), &[], &toml);
    (mock, database, rig)
}

/// The values of all records, by partition and offset.
fn records(mock: &Mock) -> BTreeMap<(i32, i64), String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "nobody")
        .create()
        .expect("a consumer");
    let mut found = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let (low, high) = consumer.fetch_watermarks(TOPIC, partition, PATIENCE).expect("its watermarks");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, rdkafka::Offset::Offset(low)).expect("an offset");
        consumer.assign(&list).expect("an assignment");
        for _ in low..high {
            let deadline = Instant::now() + PATIENCE;
            // An event that is no record ends a poll, too.
            let message = std::iter::repeat_with(|| consumer.poll(Duration::from_millis(100)))
                .take_while(|polled| polled.is_some() || Instant::now() < deadline)
                .find_map(|polled| polled)
                .expect("a record in time")
                .expect("a record");
            let value = String::from_utf8(message.payload().expect("a value").to_vec()).expect("text");
            found.insert((message.partition(), message.offset()), value);
        }
    }
    found
}

/// Where the record is of which a 202 says so.
fn place(answer: &Answer) -> (i32, i64) {
    let said = json(answer);
    (said["partition"].as_i64().expect("a partition") as i32, said["offset"].as_i64().expect("an offset"))
}

fn lost(gate: &Gate) -> f64 {
    gate.metric("forebay_ingest_producers_lost_total")
}

#[test]
fn a_producer_that_ends_under_load_is_followed_by_another_one() {
    let (mock, _database, rig) = cluster();
    let gate = Gate::start(&rig);
    assert_eq!(put(&mut gate.client(), "a", 0, "before").status, 202);
    assert_eq!((gate.admin().get("/readyz").status, lost(&gate)), (200, 0.0));

    // What is sent now is under way for a while; of the first batch the brokers say that it is not the one that follows.
    mock.broker_round_trip_time(BROKER, Duration::from_millis(300)).expect("a slow broker");
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| gate.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let state = |m: usize| format!("{{\"state\":\"c{n}m{m}\"}}");
        let many: Vec<String> = (0..10).map(|m| request("PUT", &format!("c{n}"), &m.to_string(), &state(m))).collect();
        client.send(many.concat());
    }
    let (mut accepted, mut refused) = (Vec::new(), BTreeMap::new());
    for (n, client) in clients.iter_mut().enumerate() {
        for m in 0..10 {
            let answer = client.answer();
            match answer.status {
                202 => accepted.push((place(&answer), format!("\"c{n}m{m}\""))),
                503 => {
                    assert!(answer.head.contains("Retry-After: 1\r\n"), "{}", answer.head);
                    *refused.entry(json(&answer)["detail"].as_str().expect("a reason").to_owned()).or_insert(0) += 1;
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
    }
    let took = start.elapsed();
    assert!(took < DEADLINE, "{took:?}: nobody waits for the deadline");
    assert!(refused.keys().any(|why| why.contains("the producer had to be given up")), "{refused:?}");
    assert!(!refused.keys().any(|why| why.contains("found no answer")), "{refused:?}");

    // Who and why, once.
    gate.process
        .wait_for_log(&["the gateway's producer cannot go on, and another one takes its place", "out of order"]);
    assert_eq!(lost(&gate), 1.0);

    // The next one is at work.
    mock.broker_round_trip_time(BROKER, Duration::ZERO).expect("a quick broker");
    wait_until(PATIENCE, "an acceptance", || {
        let answer = put(&mut clients[0], "a", 1, "after");
        let is_accepted = answer.status == 202;
        if is_accepted {
            accepted.push((place(&answer), "\"after\"".to_owned()));
        }
        is_accepted
    });
    wait_until(PATIENCE, "readiness", || gate.admin().get("/readyz").status == 200);
    assert_eq!((lost(&gate), gate.metric("forebay_ready")), (1.0, 1.0));
    wait_until(PATIENCE, "an empty queue", || gate.metric("forebay_ingest_queue_records") == 0.0);
    let found = records(&mock);
    for (place, state) in &accepted {
        let value = found.get(place);
        assert!(value.is_some_and(|value| value.contains(state)), "{state} was accepted at {place:?}: {value:?}");
    }
    // Nobody keeps the old one: as many threads as a client has.
    let clients = || gate.process.threads().iter().filter(|(name, _)| name == "rdk:main").count();
    wait_until(PATIENCE, "the old client's end", || clients() == 1);
    gate.process.terminate().expect(0);
}

/// The principal may not write, as brokers before 3.0 want it of idempotent producers (IdempotentWrite), until somebody lets it.
#[test]
fn one_that_ends_again_and_again_is_not_ready_and_tries_with_pauses() {
    let (mock, _database, rig) = cluster();
    mock.request_errors(
        RDKafkaApiKey::InitProducerId,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 4],
    );
    let start = Instant::now();
    let gate = Gate::start(&rig);
    let mut client = gate.client();
    gate.process.wait_for_log(&["the gateway's producer cannot go on"]);
    let ready = gate.admin().get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("the producer had to be given up"), "{ready:?}");
    assert!(ready.body.contains("authorization failed"), "{ready:?}");
    assert_eq!(gate.metric("forebay_ready"), 0.0);
    let mut statuses = Vec::new();
    wait_until(PATIENCE, "an acceptance", || {
        let asked = Instant::now();
        let answer = put(&mut client, "a", 1, "x");
        assert!(asked.elapsed() < DEADLINE, "{:?}: {}", asked.elapsed(), answer.text());
        if statuses.last() != Some(&answer.status) {
            statuses.push(answer.status);
        }
        answer.status == 202
    });
    assert_eq!(statuses, [503, 202]);
    // At once, and then after 0.25, 0.5 and 1 s.
    assert!(start.elapsed() >= Duration::from_millis(1750), "{:?}", start.elapsed());
    assert_eq!(lost(&gate), 4.0);
    wait_until(PATIENCE, "readiness", || gate.admin().get("/readyz").status == 200);
    assert_eq!(records(&mock).len(), 1, "what was refused was not sent");
    drop(client);
    gate.process.terminate().expect(0);
}
