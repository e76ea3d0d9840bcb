//! Where the gateway's threads may run: each of them, as the kernel says; those of a producer that took another one's place, too.

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Gate, SUBSCRIPTIONS, gateway, put, shard};
use crate::real::pinning::{cpus, settle};
use crate::support::{Database, PATIENCE, Rig, Server, wait_until};

/// What must be there before it can be said that every thread is where it should be.
const THREADS: [&str; 10] = [
    "forebay",
    "forebay-log",
    "forebay-reload",
    "fb-acks",
    "fb-admin",
    "fb-i0",
    "fb-i1",
    "fb-s0.0",
    "fb-tables",
    "fb-topics",
];

/// Listeners 0 and 1, librdkafka, and all others.
#[track_caller]
fn check(ingest: &str, listeners: [&str; 2], kafka: &str, others: &str) {
    let mock = MockCluster::new(1).expect("a cluster");
    mock.create_topic("updates", 2, 1).expect("a topic");
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    // One route writes rows, another one publishes.
    let both = format!(
        "{}[[ingest.route]]\npath = \"/rows/{{app_id}}/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = \"updates\"\nmode = \"sync\"\n",
        gateway("updates", &format!("pool_size = 1\ncatalog_interval_ms = 1000\n{ingest}\n"))
    );
    let rig = Rig::at(&mock.bootstrap_servers(), &[], &format!("{}{both}", shard("main", database.dsn(), "")));
    let gate = Gate::start(&rig);
    let expected = |thread: &str| match thread {
        "fb-i0" => listeners[0],
        "fb-i1" => listeners[1],
        name if name.starts_with("rdk:") => kafka,
        _ => others,
    };
    let mut client = gate.client();
    assert_eq!(put(&mut client, "a", 1, "x").status, 202);
    settle(&gate.process, &THREADS, 1, ingest, expected);
    // Another client of librdkafka, made by another thread.
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    assert_eq!(put(&mut client, "a", 1, "y").status, 503);
    wait_until(PATIENCE, "another producer", || put(&mut client, "a", 1, "z").status == 202);
    settle(&gate.process, &THREADS, 1, ingest, expected);
    drop(client);
    gate.process.terminate().expect(0);
}

#[test]
fn every_thread_runs_where_it_was_put() {
    let (all, a, b) = cpus();
    let (all, a, b) = (all.as_str(), a.as_str(), b.as_str());
    check(&format!("cores = [{a}, {b}]\nkafka_cores = {b}\nother_cores = {a}"), [a, b], b, a);
    check(&format!("cores = {b}\nkafka_cores = {a}\nother_cores = {b}"), [b, b], a, b);
    check(&format!("cores = {a}"), [a, a], all, all);
    check("", [all, all], all, all);
}
