//! How it ends: in order under load, by SIGKILL, and with another one on the same port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::{Gate, SUBSCRIPTIONS, ask, gateway, published, request, shard};
use crate::http::client::Client;
use crate::real::texts;
use crate::support::{Admin, Database, PATIENCE, Rig, Server, Topic, wait_until};

/// Clients that write as fast as they are answered, each to rows of its own, and remember what was accepted.
struct Load {
    over: Arc<AtomicBool>,
    /// Requests that found a connection, and no answer.
    unanswered: Arc<AtomicU32>,
    clients: Vec<JoinHandle<Vec<(String, String)>>>,
}

impl Load {
    fn start(address: std::net::SocketAddr, clients: usize) -> Load {
        let (over, unanswered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let one = |number: usize| {
            let (over, unanswered) = (Arc::clone(&over), Arc::clone(&unanswered));
            spawn(move || {
                let mut accepted = Vec::new();
                let mut client = None;
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    let Some(open) = client.get_or_insert_with(|| std::net::TcpStream::connect(address).ok()) else {
                        client = None;
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    };
                    let row = n % 10;
                    let text =
                        request("PUT", &format!("c{number}"), &row.to_string(), &format!("{{\"state\":\"{n}\"}}"));
                    match ask(open, &text) {
                        Some((202, ends)) => {
                            accepted.push((format!("c{number}:{row}"), n.to_string()));
                            if ends {
                                client = None;
                            }
                        }
                        Some((status, _)) => panic!("{status}"),
                        // Nobody knows.
                        None => {
                            unanswered.fetch_add(1, Ordering::Relaxed);
                            client = None;
                        }
                    }
                    n += 1;
                }
                accepted
            })
        };
        Load { clients: (0..clients).map(one).collect(), over, unanswered }
    }

    fn end(self) -> Vec<(String, String)> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    }
}

fn setup(more: &str) -> (Database, Topic, Rig) {
    let database = Database::create(Server::A, "ingest");
    database.execute(SUBSCRIPTIONS);
    let topic = Topic::create("ingest", 3);
    let rig = Rig::new(&format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), more)));
    (database, topic, rig)
}

/// All that was accepted is there, once, in the order in which its client sent it; and the table ends with the last of it.
#[track_caller]
fn assert_kept(accepted: &[(String, String)], topic: &Topic, database: &Database, rig: &Rig) {
    assert!(accepted.len() > 100, "{} are few", accepted.len());
    let records = published(topic);
    let mut by_key: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (key, state) in &records {
        by_key.entry(key).or_default().push(state.as_deref().expect("a state").parse().expect("a number"));
    }
    for (key, states) in &by_key {
        assert!(states.is_sorted_by(|a, b| a < b), "{key}: out of order, or twice: {states:?}");
    }
    let there: BTreeSet<(&str, &str)> =
        records.iter().map(|(key, s)| (key.as_str(), s.as_deref().unwrap_or(""))).collect();
    let lost: Vec<_> =
        accepted.iter().filter(|(key, state)| !there.contains(&(key.as_str(), state.as_str()))).collect();
    assert!(
        lost.is_empty(),
        "{} of {} were accepted and are lost: {:?}",
        lost.len(),
        accepted.len(),
        &lost[..lost.len().min(5)]
    );
    rig.until_end().expect(0);
    let found = texts(
        &mut database.connect(),
        "SELECT app_id || ':' || subscription_id || ' ' || state FROM subscriptions ORDER BY 1",
    );
    let expected: Vec<String> =
        by_key.iter().map(|(key, states)| format!("{key} {}", states.last().expect("one"))).collect();
    assert_eq!(found, expected);
}

#[test]
fn sigterm_under_load_loses_nothing_that_was_accepted() {
    let (database, topic, rig) = setup("");
    let gate = Gate::start(&rig);
    let load = Load::start(gate.address, 8);
    wait_until(PATIENCE, "some load", || published_so_far(&topic) > 300);
    let ended = gate.process.terminate();
    let log = ended.expect(0);
    assert!(!log.contains("were cut") && !log.contains("still on their way"), "{log}");
    assert_kept(&load.end(), &topic, &database, &rig);
}

#[test]
fn sigkill_under_load_loses_nothing_that_was_accepted() {
    let (database, topic, rig) = setup("");
    let gate = Gate::start(&rig);
    let load = Load::start(gate.address, 8);
    wait_until(PATIENCE, "some load", || published_so_far(&topic) > 300);
    gate.process.kill();
    assert_kept(&load.end(), &topic, &database, &rig);
}

#[test]
fn one_takes_over_from_another_on_the_same_port() {
    let (database, topic, rig) = setup("");
    let first = Gate::start(&rig);
    let toml = format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name(), ""));
    // The admin side's address, too: whoever looks there is to see who serves.
    let Admin::Tcp(admin) = first.admin() else { panic!("TCP") };
    let toml = toml.replacen("127.0.0.1:0", &first.address.to_string(), 1).replacen("127.0.0.1:0", &admin, 1);
    rig.configure_as("second.toml", &[], &toml);
    let load = Load::start(first.address, 4);
    let second = Gate::of(rig.start_command("ingest", "second.toml", &[]));
    assert_eq!(second.address, first.address);
    second.process.wait_for_log(&["somebody else listens on", &admin]);
    wait_until(PATIENCE, "some load", || published_so_far(&topic) > 300);
    first.process.terminate().expect(0);
    let before = published_so_far(&topic);
    wait_until(PATIENCE, "the other one to serve", || published_so_far(&topic) > before + 300);
    let unanswered = load.unanswered.load(Ordering::Relaxed);
    let accepted = load.end();
    assert_eq!(unanswered, 0, "a restart without a gap");
    assert_eq!(second.admin().get("/readyz").status, 200);
    assert!(second.metric("forebay_ingest_acknowledged_seconds_count{mode=\"async\"}") > 100.0);
    second.process.terminate().expect(0);
    assert_kept(&accepted, &topic, &database, &rig);
}

fn published_so_far(topic: &Topic) -> i64 {
    (0..topic.partitions()).map(|partition| topic.watermarks(partition).1).sum()
}

/// A connection that asks for nothing does not keep it.
#[test]
fn idle_clients_do_not_keep_it() {
    let (_database, _topic, rig) = setup("");
    let gate = Gate::start(&rig);
    let mut idle: Vec<Client> = (0..100).map(|_| gate.client()).collect();
    wait_until(PATIENCE, "their connections", || gate.metric("forebay_ingest_connections") == 100.0);
    gate.process.terminate().expect(0);
    idle.iter_mut().for_each(Client::expect_gone);
}
