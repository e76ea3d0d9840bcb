//! Where the threads of a running process may run: each of them, as the kernel says.

use std::collections::BTreeSet;

use super::{LEDGER, ledger_topic, publish_all, shard};
use crate::support::{Database, Forebay, PATIENCE, Rig, Server, Topic, wait_until};

/// What must be there before it can be said that every thread is where it should be; those of librdkafka are of three clients.
const THREADS: [&str; 14] = [
    "forebay",
    "forebay-admin",
    "forebay-ends",
    "forebay-log",
    "forebay-poller",
    "forebay-reload",
    "forebay-watch",
    "fb-a0",
    "fb-c0",
    "fb-f0",
    "fb-s0.0",
    "fb-w0.0",
    "fb-w0.1",
    "fb-w0.2",
];
const KAFKA_CLIENTS: usize = 3;

/// Where each kind of thread is expected.
struct Expected<'a> {
    poller: &'a str,
    workers: [&'a str; 3],
    kafka: &'a str,
    others: &'a str,
}

impl Expected<'_> {
    fn of(&self, thread: &str) -> &str {
        match thread {
            "forebay-poller" => self.poller,
            "fb-w0.0" => self.workers[0],
            "fb-w0.1" => self.workers[1],
            "fb-w0.2" => self.workers[2],
            // As librdkafka calls them: `rdk:main`, `rdk:broker1`.
            name if name.starts_with("rdk:") => self.kafka,
            _ => self.others,
        }
    }
}

/// One of each of its kind of thread is at work: also the forwarder's client, which is made for the first letter.
#[track_caller]
fn check(engine: &str, flags: &[&str], expected: &Expected<'_>) {
    let database = Database::create(Server::A, "pinning");
    database.execute(LEDGER);
    let (topic, letters) = (Topic::create("pinning", 2), Topic::create("pinning_letters", 1));
    let (good, bad) = (r#"{"seq":1}"#, "no JSON");
    publish_all(&topic, &[good, bad].map(|value| (0, Some("k".to_owned()), Some(value.to_owned()))));
    let rig = Rig::empty(topic.bootstrap());
    let socket = rig.path("admin.sock");
    rig.configure(
        &[],
        &format!(
            "[engine]\nworkers_per_shard = 3\ncommit_interval_ms = 200\n{engine}\n[admin]\nlisten = \"off\"\nsocket = {socket:?}\n{}{}\
             [topic.on_bad_record]\nforward_to = {:?}\n",
            shard("main", database.dsn()),
            ledger_topic(topic.name()),
            letters.name()
        ),
    );
    let forebay = rig.start_with("forebay.toml", flags);
    wait_until(PATIENCE, "the dead letter to be forwarded", || letters.watermarks(0).1 > 0);
    settle(&forebay, &THREADS, KAFKA_CLIENTS, &format!("{engine} {flags:?}"), |thread| expected.of(thread));
    forebay.terminate().expect(0);
}

/// Waits until these threads, and so many clients of librdkafka, are there, and each thread of the process is where it is expected.
#[track_caller]
pub fn settle<'e>(
    forebay: &Forebay,
    names: &[&str],
    kafka_clients: usize,
    settings: &str,
    expected: impl Fn(&str) -> &'e str,
) {
    let mut last = String::new();
    wait_until(PATIENCE, "every thread where it belongs", || {
        let threads = forebay.threads();
        let found: BTreeSet<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<&&str> = names.iter().filter(|name| !found.contains(**name)).collect();
        let clients = threads.iter().filter(|(name, _)| name == "rdk:main").count();
        let brokers = threads.iter().filter(|(name, _)| name.starts_with("rdk:broker")).count();
        let wrong: Vec<_> = threads.iter().filter(|(name, cpus)| cpus != expected(name)).collect();
        let said = format!("{settings}: wrong {wrong:?}, missing {missing:?}, {clients} clients, {brokers} of brokers");
        // A thread that starts is beside its starter for a moment. What stays wrong is said last.
        if said != last {
            eprintln!("{said}");
            last = said;
        }
        wrong.is_empty() && missing.is_empty() && clients == kafka_clients && brokers >= kafka_clients
    });
}

/// As the kernel lists those of this process, which forebay inherits; the first and the last of them.
pub fn cpus() -> (String, String, String) {
    let all = forebay::cpus::allowed().expect("the kernel says");
    let (first, last) = (all.first().expect("one"), all.iter().last().expect("one"));
    (all.to_string(), first.to_string(), last.to_string())
}

#[test]
fn every_thread_runs_where_it_was_put() {
    let (_, a, b) = cpus();
    let (a, b) = (a.as_str(), b.as_str());
    check(
        &format!("poller_core = {a}\ncores = {b}\nkafka_cores = \"{b}\"\nother_cores = \"{a}\""),
        &[],
        &Expected { poller: a, workers: [b; 3], kafka: b, others: a },
    );
    check(
        &format!("poller_core = {b}\ncores = [{a}, \"{b}\"]\nkafka_cores = {a}\nother_cores = {b}"),
        &[],
        &Expected { poller: b, workers: [a, b, a], kafka: a, others: b },
    );
}

#[test]
fn whoever_is_not_named_keeps_what_the_process_has() {
    let (all, a, b) = cpus();
    let all = all.as_str();
    check("", &[], &Expected { poller: all, workers: [all; 3], kafka: all, others: all });
    check(&format!("other_cores = {b}"), &[], &Expected { poller: all, workers: [all; 3], kafka: all, others: &b });
    check(&format!("cores = {a}"), &[], &Expected { poller: all, workers: [&a; 3], kafka: all, others: all });
}

#[test]
fn the_command_line_goes_before_the_file() {
    let (_, a, b) = cpus();
    let (a, b) = (a.as_str(), b.as_str());
    check(
        &format!("poller_core = {a}\ncores = {a}\nkafka_cores = {a}\nother_cores = {a}"),
        &["--cores", a, "--cores", b, "--kafka-cores", b, "--poller-core", b],
        &Expected { poller: b, workers: [a, b, a], kafka: b, others: a },
    );
}
