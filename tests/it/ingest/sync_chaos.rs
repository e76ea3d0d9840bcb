//! What sync mode promises, under load, with a database that is restarted and a gateway that is killed: every write that was answered with
//! 200 is in the table, none is there twice, and nobody waits longer than the deadline.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use super::{Gate, ask, request, shard};
use crate::real::texts;
use crate::support::{OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

const CLIENTS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(2);
/// The machine has other things to do.
const SLACK: Duration = Duration::from_secs(2);

fn gateway(topic: &str, port: u16) -> String {
    format!(
        "[[topic]]\nname = {topic:?}\ntable = \"writes\"\ninsert_mode = \"insert\"\n[ingest]\nlisten = \"127.0.0.1:{port}\"\n\
         admin_listen = \"127.0.0.1:0\"\ndeadline_ms = {}\npool_size = 4\n[[ingest.route]]\n\
         path = \"/apps/{{app_id}}/subscriptions/{{subscription_id}}\"\nmethods = [\"PUT\"]\ntopic = {topic:?}\n\
         key = \"{{app_id}}:{{subscription_id}}\"\nmode = \"sync\"\n",
        DEADLINE.as_millis()
    )
}

#[derive(Default)]
struct Told {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Connections that broke, or that could not be had.
    broken: AtomicU64,
    over: AtomicBool,
}

/// Sends one request after the other, each its own row of the table; returns those that were accepted.
fn client(number: usize, address: SocketAddr, told: &Told) -> Vec<String> {
    let (mut accepted, mut stream) = (Vec::new(), None);
    for n in 0.. {
        if told.over.load(Ordering::Relaxed) {
            break;
        }
        let Some(open) = stream.get_or_insert_with(|| TcpStream::connect(address).ok()) else {
            stream = None;
            // While there is no gateway this is all that is seen of it: those that had a connection may have lost it before anybody asks.
            told.broken.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(5));
            continue;
        };
        let start = Instant::now();
        // Four clients have one key.
        let text = request("PUT", &format!("c{}", number / 4), "1", &format!("{{\"n\":\"{number}-{n}\"}}"));
        let status = ask(open, &text).map(|(status, _)| status);
        let took = start.elapsed();
        assert!(took < DEADLINE + SLACK, "{took:?} until {status:?}");
        match status {
            Some(200) => {
                accepted.push(format!("{number}-{n}"));
                told.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Some(503) => {
                told.refused.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20));
            }
            Some(status) => panic!("{status}"),
            None => {
                told.broken.fetch_add(1, Ordering::Relaxed);
                stream = None;
            }
        }
    }
    accepted
}

#[test]
fn what_was_written_is_there_once_whatever_becomes_of_database_and_gateway() {
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let connect = || postgres::Client::connect(&own.pg_dsn(Server::A), postgres::NoTls).expect("it answers");
    connect().batch_execute("CREATE TABLE writes (app_id text, subscription_id int, n text)").expect("a table");
    let topic = Topic::create("ingest", 1);
    let toml = |port| format!("{}{}", shard("main", &own.pg_dsn(Server::A), ""), gateway(topic.name(), port));
    let rig = Rig::new(&toml(0));
    let gate = Gate::start(&rig);
    let (told, address) = (Arc::new(Told::default()), gate.address);
    // Whoever follows it is where it was.
    rig.configure(&[], &toml(address.port()));
    let clients: Vec<JoinHandle<Vec<String>>> = (0..CLIENTS)
        .map(|number| {
            let told = Arc::clone(&told);
            spawn(move || client(number, address, &told))
        })
        .collect();
    let more = |count: &AtomicU64, by: u64| {
        let before = count.load(Ordering::Relaxed);
        wait_until(PATIENCE, "more of it", || count.load(Ordering::Relaxed) >= before + by);
    };
    more(&told.accepted, 500);
    own.restart(Service::Pg(Server::A), Stop::Immediate);
    more(&told.accepted, 500);
    gate.process.kill();
    more(&told.broken, 1);
    let gate = Gate::start(&rig);
    more(&told.accepted, 500);
    own.stop(Service::Pg(Server::A), Stop::Fast);
    more(&told.refused, 100);
    own.up(Service::Pg(Server::A));
    more(&told.accepted, 500);
    // Everybody waits for a lock when it dies.
    let mut other = connect();
    other.batch_execute("BEGIN; LOCK TABLE writes").expect("a lock");
    more(&told.refused, 4);
    gate.process.kill();
    other.batch_execute("COMMIT").expect("it ends");
    let gate = Gate::start(&rig);
    more(&told.accepted, 500);
    told.over.store(true, Ordering::Relaxed);
    let accepted: Vec<String> = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    gate.process.terminate().expect(0);
    let rows = texts(&mut connect(), "SELECT n FROM writes");
    let there: BTreeSet<&String> = rows.iter().collect();
    assert_eq!(there.len(), rows.len(), "none is there twice");
    let lost: Vec<&String> = accepted.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "{lost:?} of {} were accepted and are lost", accepted.len());
}
