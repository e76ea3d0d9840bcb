//! A handler's topic in which one key takes half of everything: it is parked by itself, keeps nobody else, and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use forebay::config::load;
use forebay::engine::{Engine, Options, Stopper};
use forebay::metrics::Counters;
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use forebay::types::{ShardIx, TopicIx};
use postgres::Transaction;

use super::{LEDGER, Record, assert_complete, count, ends, ledger, publish_all, texts};
use crate::support::{Database, PATIENCE, Server, Topic, kafka_bootstrap, unique_name, wait_until};

/// Of each record of the hot key; the others take next to nothing.
const SLOW: Duration = Duration::from_millis(8);
/// Records that are published together, twenty times a second at most.
/// As many as make the key hot where each lot takes half a second, which a producer of its own may.
const TOGETHER: i64 = 60;
const HOT: &str = "hot";

/// Writes the ledger, as a table topic would.
struct Ledger;

impl Handler for Ledger {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            let key = record.key.map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            if key == HOT {
                thread::sleep(SLOW);
            }
            let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
            let (partition, offset) = (record.partition, record.offset.0);
            transaction.execute(
                "INSERT INTO ledger (p, o, k, seq) VALUES ($1, $2, $3, ($4::text::json->>'seq')::bigint)",
                &[&partition, &offset, &key, &value],
            )?;
        }
        Ok(())
    }
}

/// With one worker: with two the key may have one for itself, and then nobody waits for it.
fn engine(database: &Database, topic: &Topic) -> Engine {
    let text = format!(
        "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = {:?}\n[engine]\nworkers_per_shard = 1\ncommit_interval_ms = 200\n\
         hot_key_percent = 20\nhot_key_window_ms = 500\nhot_key_hold_ms = 1000\n\
         [[shard]]\nname = \"main\"\ndsn = {:?}\n[[topic]]\nname = {:?}\nhandler = true\n",
        kafka_bootstrap(),
        unique_name("hot"),
        database.dsn(),
        topic.name()
    );
    let loaded = load::parse("hot.toml".as_ref(), &text, &|_| None).unwrap();
    Engine::new(loaded.config).handle(topic.name(), || Ledger).unwrap()
}

/// Publishes steadily, half of it for the hot key, until `enough` says so; each record's number is its place.
fn publish_until(topic: &Topic, next: &mut i64, what: &str, enough: impl Fn() -> bool) {
    let slice = Duration::from_millis(50);
    let began = std::time::Instant::now();
    while !enough() {
        assert!(began.elapsed() < PATIENCE, "still waiting for {what}");
        let records: Vec<Record> = (0..TOGETHER)
            .map(|n| {
                let seq = *next + n;
                // In the hot key's partition, too.
                let (partition, key) =
                    if seq % 2 == 0 { (0, HOT.to_owned()) } else { ((seq / 2 % 40 % 2) as i32, key(seq)) };
                (partition, Some(key), Some(format!("{{\"seq\":{seq}}}")))
            })
            .collect();
        *next += records.len() as i64;
        publish_all(topic, &records);
        thread::sleep(slice);
    }
}

fn key(seq: i64) -> String {
    format!("key {}", seq / 2 % 40)
}

#[test]
fn a_hot_key_is_parked_by_itself_and_comes_back() {
    let database = Database::create(Server::A, "hot");
    database.execute(LEDGER);
    let topic = Topic::create("hot", 2);
    let engine = engine(&database, &topic);
    let (counters, stopper): (Arc<Counters>, _) = (engine.counters(), Stopper::default());
    let mut client = database.connect();
    thread::scope(|scope| {
        // However the test ends, the engine does.
        struct Stop<'a>(&'a Stopper);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        let stop = Stop(&stopper);
        let running = scope.spawn(|| engine.run(Options::default(), &stopper));
        let mut next = 0;
        publish_until(&topic, &mut next, "a hot key", || counters.hot_begun.get() > 0);
        let top = engine.top_keys(ShardIx(0), TopicIx(0));
        let (by_records, by_time) = (top.by_records[0], top.by_time[0]);
        assert_eq!(by_records.hash, by_time.hash);
        assert!(by_records.share > 0.4 && by_time.share > 0.6, "{by_records:?} {by_time:?}");

        let parked = counters.parked.get();
        publish_until(&topic, &mut next, "parked records", || counters.parked.get() > parked + 300);
        let reasons = "SELECT DISTINCT reason::text || ' ' || convert_from(key, 'UTF8') FROM forebay.parked";
        assert!(texts(&mut client, reasons).iter().all(|reason| reason == "h hot"), "nobody else is parked");
        assert_eq!(counters.hot_begun.get(), 1);
        assert_eq!(
            counters.hot_ended.get(),
            0,
            "it stays parked while it takes so much, though the slow lane keeps up"
        );

        // Nothing comes any more: it is calm, and the slow lane empties it.
        wait_until(PATIENCE, "the key to be calm", || counters.hot_ended.get() == 1);
        wait_until(PATIENCE, "an empty table", || count(&mut client, "forebay.parked") == 0);
        // Now and then a record: none of them is parked.
        let parked = counters.parked.get();
        let few: Vec<Record> =
            (next..next + 20).map(|seq| (0, Some(HOT.to_owned()), Some(format!("{{\"seq\":{seq}}}")))).collect();
        publish_all(&topic, &few);
        let all: i64 = ends(&topic).values().sum();
        wait_until(PATIENCE, "all rows", || count(&mut client, "ledger") == all);
        assert_eq!(counters.parked.get(), parked, "it is a key like any other");
        drop(stop);
        assert_eq!(running.join().unwrap().unwrap().stopped, []);
    });
    let entries = ledger(&mut client);
    let ends: BTreeMap<i32, i64> = ends(&topic);
    // Keys of both partitions are in order each, because none is in both.
    assert_complete(&entries, &ends);
    assert_eq!(counters.parked.get(), counters.drained.get());
}
