//! The central promise, with a broker that is killed: every write that was answered with 202 ends in the table, those of a row in the order in
//! which its one client sent them, and none of them twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::{Gate, request, shard};
use crate::http::client::Client;
use crate::real::texts;
use crate::support::{Database, OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

const CLIENTS: usize = 8;
/// Of each client, which has one request of each under way.
const ROWS: usize = 5;
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// Every write is a row, numbered in the order in which they come.
const WRITES: &str = "CREATE TABLE writes (app_id text, subscription_id int, attempt int, seq bigserial)";

fn gateway(topic: &str) -> String {
    format!(
        "[[topic]]\nname = {topic:?}\ntable = \"writes\"\ninsert_mode = \"insert\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n\
         admin_listen = \"127.0.0.1:0\"\ndeadline_ms = 2000\ncatalog_interval_ms = 1000\n[[ingest.route]]\n\
         path = \"/apps/{{app_id}}/subscriptions/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = {topic:?}\n\
         key = \"{{app_id}}:{{subscription_id}}\"\n"
    )
}

#[derive(Default)]
struct Told {
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// What one client was told of its rows' writes: of each row the attempts that were accepted.
type Accepted = Vec<Vec<u32>>;

/// Each attempt has a number of its own, one more than that of the row's attempt before, whatever became of that.
fn client(number: usize, address: SocketAddr, told: &Told, over: &AtomicBool) -> Accepted {
    let mut accepted = vec![Vec::new(); ROWS];
    let mut client = Client::tcp(address);
    for attempt in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let body = format!("{{\"attempt\":{attempt}}}");
        let one = |row: usize| request("PUT", &format!("c{number}"), &row.to_string(), &body);
        client.send((0..ROWS).map(one).collect::<String>());
        let mut refused = false;
        for accepted in &mut accepted {
            let answer = client.answer();
            match answer.status {
                202 => {
                    accepted.push(attempt);
                    told.accepted.fetch_add(1, Ordering::Relaxed);
                }
                503 => {
                    refused = true;
                    told.refused.fetch_add(1, Ordering::Relaxed);
                }
                status => panic!("{status}: {}", answer.text()),
            }
        }
        if refused {
            std::thread::sleep(PAUSE);
        }
    }
    accepted
}

/// What the table has of each row, in its order.
fn written(database: &Database) -> BTreeMap<String, Vec<u32>> {
    let sql = "SELECT app_id || ':' || subscription_id || ' ' || attempt FROM writes ORDER BY seq";
    let mut rows: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for line in texts(&mut database.connect(), sql) {
        let (row, attempt) = line.split_once(' ').expect("two words");
        rows.entry(row.to_owned()).or_default().push(attempt.parse().expect("a number"));
    }
    rows
}

#[test]
fn what_was_accepted_is_in_the_table_in_order_and_once_whatever_becomes_of_the_broker() {
    let own = OwnServices::start(&[Service::Kafka]);
    let database = Database::create(Server::A, "ingest");
    database.execute(WRITES);
    let topic = Topic::create_at(&own.kafka_bootstrap(), "ingest", 4, &[]);
    let rig = Rig::at(
        &own.kafka_bootstrap(),
        &[],
        &format!("{}{}", shard("main", database.dsn(), ""), gateway(topic.name())),
    );
    let gate = Gate::start(&rig);
    let (told, over) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)));
    let address = gate.address;
    let clients: Vec<JoinHandle<Accepted>> = (0..CLIENTS)
        .map(|number| {
            let (told, over) = (Arc::clone(&told), Arc::clone(&over));
            spawn(move || client(number, address, &told, &over))
        })
        .collect();
    let more = |count: &AtomicU64, what: &str, by: u64| {
        let before = count.load(Ordering::Relaxed);
        wait_until(PATIENCE, what, || count.load(Ordering::Relaxed) >= before + by);
    };
    more(&told.accepted, "some load", 1000);
    // Away for so long that records are given up, then for as short as a restart takes, and at last as one that hangs.
    own.stop(Service::Kafka, Stop::Immediate);
    more(&told.refused, "refusals", 200);
    own.up(Service::Kafka);
    more(&told.accepted, "acceptances again", 1000);
    own.restart(Service::Kafka, Stop::Immediate);
    more(&told.accepted, "acceptances again", 1000);
    own.freeze(Service::Kafka);
    more(&told.refused, "refusals", 100);
    own.thaw(Service::Kafka);
    more(&told.accepted, "acceptances again", 1000);
    over.store(true, Ordering::Relaxed);
    let accepted: Vec<Accepted> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    gate.process.terminate().expect(0);

    rig.until_end().expect(0);
    let written = written(&database);
    for (number, rows) in accepted.iter().enumerate() {
        for (row, accepted) in rows.iter().enumerate() {
            let name = format!("c{number}:{row}");
            let found = written.get(&name).map(Vec::as_slice).unwrap_or_default();
            assert!(found.is_sorted_by(|a, b| a < b), "{name}: out of order, or twice: {found:?}");
            let there: BTreeSet<&u32> = found.iter().collect();
            let lost: Vec<&u32> = accepted.iter().filter(|attempt| !there.contains(attempt)).collect();
            assert!(lost.is_empty(), "{name}: {lost:?} of {} were accepted and are lost", accepted.len());
            assert!(found.last() >= accepted.last(), "{name}");
        }
    }
    assert_eq!(written.len(), CLIENTS * ROWS);
    let dead = texts(&mut database.connect(), "SELECT count(*)::text FROM forebay.dead_letter");
    assert_eq!(dead, ["0"]);
}
