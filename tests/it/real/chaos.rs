//! Three processes in one group under everything that goes wrong at once: killed and restarted, stopped for longer than their
//! session and woken as zombies, rolled over to other numbers of workers and lanes, without their broker, their database or
//! their connections. Afterwards every record is there exactly once, in order, and nothing says otherwise.
//!
//! `FOREBAY_CHAOS_SECONDS` makes it longer (the number of records with it), `FOREBAY_CHAOS_SEED` repeats a sequence of
//! events (not their timing), `FOREBAY_CHAOS_PROTOCOL` is `eager`, `cooperative` (default) or `consumer`.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::Signal;

use super::{LEDGER, assert_complete, count, ends, ledger, ledger_topic, record, shard, texts};
use crate::support::{Forebay, OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

const PG: Service = Service::Pg(Server::A);
const PARTITIONS: i32 = 8;
const KEYS: i64 = 400;
/// Into each of the two topics.
const RECORDS_PER_SECOND: u64 = 750;
const PROCESSES: usize = 3;
const SESSION_MS: &str = "6000";
/// Longer than a session.
const ZOMBIE: Duration = Duration::from_secs(8);
/// Between two events.
const PAUSE: Duration = Duration::from_millis(1200);
/// How long rows stay locked, and how long forebay waits for a lock.
const LOCKED: Duration = Duration::from_secs(3);
const LOCK_TIMEOUT_MS: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    Kill,
    /// SIGSTOP, and SIGCONT when its partitions have long been somebody else's.
    Zombie,
    /// SIGTERM and a start with other numbers of workers and lanes.
    Roll,
    Backends,
    Broker(Stop),
    Database,
    /// Somebody locks some rows of the table that is updated, for longer than anybody waits for them.
    Locks,
    /// An operator holds some keys, …
    Hold,
    /// … and lets all go on.
    Release,
}

/// What happens at least once, in an order of the seed's.
const SCRIPT: [Happening; 22] = [
    Happening::Kill,
    Happening::Kill,
    Happening::Kill,
    Happening::Kill,
    Happening::Kill,
    Happening::Zombie,
    Happening::Zombie,
    Happening::Roll,
    Happening::Roll,
    Happening::Roll,
    Happening::Backends,
    Happening::Backends,
    Happening::Backends,
    Happening::Database,
    Happening::Database,
    Happening::Broker(Stop::Immediate),
    Happening::Locks,
    Happening::Locks,
    Happening::Hold,
    Happening::Hold,
    Happening::Release,
    Happening::Release,
];

/// Everything that runs. In this order it ends, too: first the processes, then the rig, which shows their logs.
struct Chaos<'s> {
    processes: Vec<Forebay>,
    rig: Rig,
    services: &'s OwnServices,
    rng: fastrand::Rng,
    /// Which process is stopped, and until when.
    zombie: Option<(usize, Instant)>,
    began: Instant,
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Workers and lanes of the configurations that processes are started with.
const SHAPES: [(usize, usize); 4] = [(2, 16), (1, 8), (4, 32), (3, 4)];

fn shape_file(index: usize) -> String {
    format!("shape{index}.toml")
}

impl Chaos<'_> {
    fn start(&mut self) -> Forebay {
        let shape = self.rng.usize(..SHAPES.len());
        self.rig.start_with(&shape_file(shape), &[])
    }

    fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Nobody ends without having been told to.
    #[track_caller]
    fn assert_alive(&mut self) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            assert!(process.is_running(), "process in place {index} ended by itself:\n{}", process.log());
        }
    }

    /// One that is not stopped.
    fn victim(&mut self) -> usize {
        loop {
            let index = self.rng.usize(..PROCESSES);
            if self.zombie.is_none_or(|(zombie, _)| zombie != index) {
                return index;
            }
        }
    }

    fn wake_the_zombie(&mut self, at_once: bool) {
        if let Some((index, until)) = self.zombie
            && (at_once || Instant::now() >= until)
        {
            self.say(&format!("SIGCONT to {index}"));
            self.processes[index].signal(Signal::CONT);
            self.zombie = None;
        }
    }

    fn happen(&mut self, what: Happening) {
        let victim = self.victim();
        self.say(&format!("{what:?}, {victim} where it concerns one"));
        match what {
            Happening::Kill => {
                let fresh = self.start();
                std::mem::replace(&mut self.processes[victim], fresh).kill();
            }
            Happening::Roll => {
                let fresh = self.start();
                std::mem::replace(&mut self.processes[victim], fresh).terminate().expect(0);
            }
            Happening::Zombie => {
                self.wake_the_zombie(true);
                self.processes[victim].signal(Signal::STOP);
                self.zombie = Some((victim, Instant::now() + ZOMBIE));
            }
            Happening::Backends => {
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE application_name LIKE 'forebay/%' AND random() < 0.5";
                let terminated: i64 = self.client().query_one(sql, &[]).unwrap().get(0);
                self.say(&format!("{terminated} backends terminated"));
            }
            Happening::Broker(how) => self.services.restart(Service::Kafka, how),
            Happening::Database => self.services.restart(PG, Stop::Immediate),
            Happening::Locks => {
                let mut client = self.client();
                // Whoever restarts the database ends it early.
                thread::spawn(move || {
                    let lock = "BEGIN; SELECT FROM latest WHERE random() < 0.1 ORDER BY k FOR UPDATE SKIP LOCKED";
                    client.batch_execute(lock).is_ok().then(|| thread::sleep(LOCKED))
                });
            }
            Happening::Hold => {
                let sql = "INSERT INTO forebay.hold SELECT s.id, 'k', convert_to('key ' || n, 'UTF8') FROM forebay.source s, \
                           generate_series(0, $1) n WHERE random() < 0.05 ON CONFLICT DO NOTHING";
                let held = self.client().execute(sql, &[&((KEYS - 1) as i32)]).unwrap();
                self.say(&format!("{held} keys are held"));
            }
            Happening::Release => self.release(),
        }
    }

    fn release(&self) {
        self.client().execute("DELETE FROM forebay.hold", &[]).unwrap();
    }

    fn client(&self) -> Client {
        Client::connect(&self.services.pg_dsn(Server::A), NoTls).expect("the database")
    }
}

/// Publishes each number to both topics, evenly over the time, whatever happens to the broker.
fn publish(topics: &[&Topic], records: i64, over: Duration, published: &AtomicI64) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", topics[0].bootstrap())
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "0")
        .create()
        .unwrap();
    let start = Instant::now();
    for seq in 0..records {
        let due = over.mul_f64(seq as f64 / records as f64);
        if let Some(early) = due.checked_sub(start.elapsed()) {
            producer.poll(early);
        }
        let (partition, key, value) = record(seq, KEYS, PARTITIONS);
        for topic in topics {
            let record = BaseRecord::<str, str>::to(topic.name()).partition(partition);
            let mut record = record.key(key.as_deref().unwrap()).payload(value.as_deref().unwrap());
            while let Err((error, back)) = producer.send(record) {
                assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "publishing: {error}");
                producer.poll(Duration::from_millis(10));
                record = back;
            }
        }
        published.store(seq + 1, Ordering::SeqCst);
    }
    producer.flush(PATIENCE).expect("the broker to take all records");
}

fn configuration(dsn: &str, events: &Topic, updates: &Topic, (workers, lanes): (usize, usize)) -> String {
    format!(
        "[engine]\nworkers_per_shard = {workers}\nlanes = {lanes}\nbatch_records_max = 100\ncommit_interval_ms = 300\n\
         retry_backoff_max_ms = 500\nrevoke_deadline_ms = 3000\n{}lock_timeout_ms = {LOCK_TIMEOUT_MS}\n{}\
         [[topic]]\nname = {:?}\ntable = \"latest\"\ninsert_mode = \"upsert\"\npk_fields = [\"k\"]\n\
         [topic.columns]\nk = \"@key\"\np = \"@partition\"\no = \"@offset\"\n",
        shard("main", dsn),
        ledger_topic(events.name()),
        updates.name()
    )
}

fn protocol() -> Vec<(&'static str, &'static str)> {
    match env::var("FOREBAY_CHAOS_PROTOCOL").as_deref().unwrap_or("cooperative") {
        "eager" => vec![("session.timeout.ms", SESSION_MS), ("partition.assignment.strategy", "range")],
        "cooperative" => {
            vec![("session.timeout.ms", SESSION_MS), ("partition.assignment.strategy", "cooperative-sticky")]
        }
        "consumer" => vec![("group.protocol", "consumer")],
        other => panic!("FOREBAY_CHAOS_PROTOCOL={other}: expected eager, cooperative or consumer"),
    }
}

#[test]
fn every_record_once_and_in_order_whatever_happens() {
    let seconds = number("FOREBAY_CHAOS_SECONDS").unwrap_or(40);
    let seed = number("FOREBAY_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("FOREBAY_CHAOS_SEED={seed} FOREBAY_CHAOS_SECONDS={seconds}");
    let services = OwnServices::start(&[Service::Kafka, PG]);
    let dsn = services.pg_dsn(Server::A);
    let mut client = Client::connect(&dsn, NoTls).unwrap();
    client.batch_execute(LEDGER).unwrap();
    client.batch_execute("CREATE TABLE latest (k text PRIMARY KEY, seq bigint, p int, o bigint)").unwrap();
    let topics = ["events", "updates"].map(|name| Topic::create_at(&services.kafka_bootstrap(), name, PARTITIONS, &[]));
    let [events, updates] = &topics;
    let rig = Rig::empty(&services.kafka_bootstrap());
    for (index, shape) in SHAPES.into_iter().enumerate() {
        rig.configure_as(&shape_file(index), &protocol(), &configuration(&dsn, events, updates, shape));
    }
    let records = (seconds * RECORDS_PER_SECOND) as i64;
    let published = AtomicI64::new(0);
    let mut chaos = Chaos {
        processes: Vec::new(),
        rig,
        services: &services,
        rng: fastrand::Rng::with_seed(seed),
        zombie: None,
        began: Instant::now(),
    };
    for _ in 0..PROCESSES {
        let process = chaos.start();
        chaos.processes.push(process);
    }
    // What a person holds is written to a table that the processes make.
    wait_until(PATIENCE, "the tables", || chaos.client().query("SELECT FROM forebay.hold", &[]).is_ok());
    thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&[events, updates], records, Duration::from_secs(seconds), &published));
        let mut script = Vec::new();
        let mut rounds = 0;
        while !publisher.is_finished() || rounds == 0 || (rounds == 1 && !script.is_empty()) {
            if script.is_empty() {
                script = SCRIPT.to_vec();
                chaos.rng.shuffle(&mut script);
                rounds += 1;
            }
            thread::sleep(PAUSE);
            chaos.assert_alive();
            chaos.wake_the_zombie(false);
            if let Some(what) = script.pop() {
                chaos.happen(what);
            }
        }
        publisher.join().expect("the publisher");
    });
    chaos.wake_the_zombie(true);
    chaos.release();
    chaos.say(&format!("{} of {records} are published, the dust settles", published.load(Ordering::SeqCst)));
    settle(&mut chaos, &topics, records);
    chaos.say("settled");
    for process in std::mem::take(&mut chaos.processes) {
        process.terminate().expect(0);
    }
    inspect(&chaos, &topics, records);
}

/// Waits until the group has committed everything, and says what is missing where it does not.
fn settle(chaos: &mut Chaos<'_>, topics: &[Topic; 2], records: i64) {
    let ends = topics.each_ref().map(ends);
    for ends in &ends {
        assert_eq!(ends.values().sum::<i64>(), records, "the publisher published each record once");
    }
    let mut left = Vec::new();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        chaos.assert_alive();
        left = topics
            .iter()
            .zip(&ends)
            .flat_map(|(topic, ends)| ends.iter().map(move |(partition, end)| (topic, *partition, *end)))
            .map(|(topic, partition, end)| (topic, partition, end, chaos.rig.committed(topic.name(), partition)))
            .filter(|(_, _, end, committed)| *committed != Some(*end))
            .map(|(topic, partition, end, committed)| format!("{} [{partition}]: {committed:?} of {end}", topic.name()))
            .collect();
        if left.is_empty() && count(&mut chaos.client(), "forebay.parked") == 0 {
            return;
        }
    }
    let rows = count(&mut chaos.client(), "ledger");
    let parked = count(&mut chaos.client(), "forebay.parked");
    panic!(
        "after {PATIENCE:?} these are not committed to their ends ({rows} of {records} rows are there, {parked} records are \
         parked): {left:#?}"
    );
}

/// The guarantees.
fn inspect(chaos: &Chaos<'_>, [events, updates]: &[Topic; 2], records: i64) {
    let mut client = chaos.client();
    assert_complete(&ledger(&mut client), &ends(events));
    assert_eq!(count(&mut client, "ledger"), records);

    let rows = client.query("SELECT k, seq, p FROM latest", &[]).unwrap();
    let latest: BTreeMap<String, (i64, i32)> = rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect();
    let last_of = |key: i64| (0..records).rev().find(|seq| seq % KEYS == key).unwrap();
    let expected: BTreeMap<String, (i64, i32)> =
        (0..KEYS).map(|key| (format!("key {key}"), (last_of(key), (key % i64::from(PARTITIONS)) as i32))).collect();
    assert_eq!(latest, expected, "the last value of each key");

    for topic in [events, updates] {
        for (partition, end) in ends(topic) {
            assert_eq!(chaos.rig.committed(topic.name(), partition), Some(end), "{} [{partition}]", topic.name());
            let stored = client
                .query_one(
                    "SELECT p.done FROM forebay.partition p JOIN forebay.source s ON s.id = p.source \
                     WHERE s.topic = $1 AND s.grp = $2 AND p.partition = $3",
                    &[&topic.name(), &chaos.rig.group(), &partition],
                )
                .unwrap();
            assert_eq!(stored.get::<_, i64>(0), end, "stored progress of {} [{partition}]", topic.name());
        }
    }
    let beyond = "SELECT f::text FROM forebay.fence f JOIN forebay.partition p USING (source, partition) \
                  WHERE f.next_offset > p.done";
    assert!(texts(&mut client, beyond).is_empty(), "a fence beyond the stored progress");
}
