//! What an operator sees of trouble, and how soon: lag and its age, who holds up what, and which shard is away.

use std::process::Command;
use std::time::{Duration, Instant};

use forebay::admin::status::{Frontier, Partition, Status};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{LEDGER, count, ledger_topic, publish, publish_all, shard};
use crate::support::{Admin, Database, Forebay, OwnServices, PATIENCE, Rig, Server, Service, Stop, Topic, wait_until};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";
const ENGINE: &str = "[engine]\ncommit_interval_ms = 200\nretry_backoff_max_ms = 500\ncontention_interval_ms = 100\n";

/// A table with an entry for each record, a topic of two partitions, and a process that is looked at.
struct Setup {
    database: Database,
    topic: Topic,
    rig: Rig,
    forebay: Forebay,
    admin: Admin,
}

impl Setup {
    fn new() -> Setup {
        let database = Database::create(Server::A, "seeing");
        database.execute(LEDGER);
        let topic = Topic::create("seeing", 2);
        let rig = Rig::new(&format!("{ADMIN}{ENGINE}{}{}", shard("main", database.dsn()), ledger_topic(topic.name())));
        let forebay = rig.start();
        let admin = forebay.admin();
        Setup { database, topic, rig, forebay, admin }
    }

    fn pause(&self, path: &str) {
        self.admin.post(path, &format!("{{\"topic\":{:?}}}", self.topic.name())).expect(200);
    }

    /// Waits until all is applied and committed, and everybody knows.
    #[track_caller]
    fn wait_until_calm(&self, records: u64) -> Status {
        self.admin.wait_for("nothing behind", |status| {
            let all = status.partitions.len() == 2 && status.totals.durable == records;
            all && status.totals.message_lag == Some(0) && status.totals.time_lag_ms == 0
        })
    }

    /// What Kafka's own tool says of the group's lag, all partitions together.
    fn lag_by_kafka(&self) -> u64 {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/services");
        let output = Command::new(tool)
            .args(["kafka", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"])
            .args(["--bootstrap-server", self.topic.bootstrap(), "--describe", "--group", self.rig.group()])
            .output()
            .expect("bin/services");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rows = text.lines().filter(|line| line.contains(self.topic.name()));
        let lags: Vec<u64> =
            rows.map(|row| row.split_whitespace().nth(5).expect("LAG").parse().expect("a number")).collect();
        assert_eq!(lags.len(), 2, "{text}{}", String::from_utf8_lossy(&output.stderr));
        lags.iter().sum()
    }
}

#[test]
fn lag_is_what_kafka_says_and_its_age_grows_in_real_seconds_while_nothing_is_consumed() {
    let setup = Setup::new();
    publish(&setup.topic, 0..1000, 10);
    let calm = setup.wait_until_calm(1000);
    assert!(calm.ready.ready, "{:?}", calm.ready);
    assert!(calm.partitions.iter().all(|p| p.frontier.is_none() && p.committed == p.end), "{calm:#?}");
    setup.pause("/pause");
    setup.admin.wait_for("a paused topic", |status| status.partitions.iter().all(|p| p.paused));
    publish(&setup.topic, 1000..1300, 10);
    let lags = |lag: u64| move |status: &Status| status.totals.message_lag == Some(lag);
    let first = setup.admin.wait_for("a lag of 300", lags(300));
    let began = Instant::now();
    assert_eq!(setup.lag_by_kafka(), 300);
    wait_until(PATIENCE, "some seconds", || began.elapsed() > Duration::from_secs(4));
    let second = setup.admin.status();
    let (grown, passed) = (second.totals.time_lag_ms - first.totals.time_lag_ms, began.elapsed().as_millis() as u64);
    assert!(grown.abs_diff(passed) < 1000, "in {passed} ms the time lag grew by {grown} ms");
    let frontier = second.partitions[0].frontier.as_ref().expect("records that are not fetched");
    assert_eq!((frontier.place.as_str(), Some(frontier.offset)), ("unfetched", second.partitions[0].fetched));
    setup.pause("/resume");
    setup.wait_until_calm(1300);
    assert_eq!(setup.lag_by_kafka(), 0);
    assert_eq!(count(&mut setup.database.connect(), "ledger"), 1300);
    setup.forebay.terminate().expect(0);
}

/// What is paused stays so when the group deals its partitions out anew: nothing is let through meanwhile.
#[test]
fn a_paused_topic_stays_paused_through_rebalances() {
    let setup = Setup::new();
    publish(&setup.topic, 0..100, 10);
    setup.wait_until_calm(100);
    setup.pause("/pause");
    setup.admin.wait_for("a paused topic", |status| status.partitions.iter().all(|p| p.paused));
    publish(&setup.topic, 100..20_100, 10);
    for _ in 0..2 {
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", setup.topic.bootstrap())
            .set("group.id", setup.rig.group())
            .set("enable.auto.commit", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // Where it ends within a rebalance it does not say so, and is waited for.
            .set("session.timeout.ms", "6000")
            .create()
            .expect("a consumer");
        member.subscribe(&[setup.topic.name()]).expect("a subscription");
        wait_until(PATIENCE, "another member of the group", || {
            let _ = member.poll(Duration::from_millis(50));
            setup.admin.status().partitions.len() == 1
        });
        drop(member);
        setup.admin.wait_for("both partitions again", |status| status.partitions.len() == 2);
        setup.admin.wait_for("their lag", |status| status.totals.message_lag == Some(20_000));
    }
    let status = setup.admin.status();
    assert_eq!(status.totals.durable, 100, "the topic is paused: {status:#?}");
    assert!(status.partitions.iter().all(|p| p.paused), "{status:#?}");
    assert_eq!(count(&mut setup.database.connect(), "ledger"), 100);
    setup.pause("/resume");
    setup.wait_until_calm(20_100);
    setup.forebay.terminate().expect(0);
}

/// A table with a row for each key, and a process that is looked at while somebody else holds one of the rows.
fn with_a_locked_row(topic_too: &str, key: &str, check: impl Fn(&Status, &Partition, &Frontier) -> bool) {
    let database = Database::create(Server::A, "seeing_lock");
    database.execute("CREATE TABLE latest (k text PRIMARY KEY, seq bigint)");
    let topic = Topic::create("seeing-lock", 1);
    let rig = Rig::new(&format!(
        "{ADMIN}{ENGINE}{}lock_timeout_ms = 1000\n[[topic]]\nname = {:?}\ntable = \"latest\"\ninsert_mode = \"upsert\"\n\
         pk_fields = [\"k\"]\n{topic_too}[topic.columns]\nk = \"@key\"\n",
        shard("main", database.dsn()),
        topic.name()
    ));
    let forebay = rig.start();
    let admin = forebay.admin();
    let record = |seq: i64| (0, Some(format!("key {}", seq % 10)), Some(format!("{{\"seq\":{seq}}}")));
    publish_all(&topic, &(0..10).map(record).collect::<Vec<_>>());
    admin.wait_for("the rows", |status| status.totals.durable == 10);
    let mut other = database.connect();
    other
        .batch_execute("SET application_name = 'somebody'; BEGIN; UPDATE latest SET seq = -1 WHERE k = 'key 7'")
        .unwrap();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    publish_all(&topic, &(10..30).map(record).collect::<Vec<_>>());
    let seen = admin.wait_for("the key, and who locks its row", |status| {
        let named = |p: &Partition| {
            p.frontier.as_ref().is_some_and(|frontier| {
                frontier.key.as_deref() == Some(key) && frontier.blocked_by == [pid] && check(status, p, frontier)
            })
        };
        status.partitions.iter().any(named)
    });
    let contention = seen.shards[0].contention.as_ref().expect("it was sampled");
    let blocker = contention.blockers.iter().find(|blocker| blocker.pid == pid).expect("the blocker");
    assert_eq!(blocker.application.as_deref(), Some("somebody"));
    assert_eq!(blocker.state.as_deref(), Some("idle in transaction"));
    assert!(blocker.transaction_age_ms.is_some() && !blocker.ours && !blocker.blocks.is_empty(), "{blocker:?}");
    assert!(!format!("{seen:?}").contains("key 7' "), "no literal of anybody's statement");
    let waits = admin.wait_for("a wait for a lock", |status| {
        let contention = status.shards[0].contention.as_ref();
        contention.is_some_and(|contention| contention.waits.iter().any(|wait| wait.kind == "Lock"))
    });
    assert_eq!(waits.shards[0].verdict.kind, "lock_bound", "{:?}", waits.shards[0].verdict);
    assert!(waits.shards[0].verdict.text.contains(&pid.to_string()), "{:?}", waits.shards[0].verdict);
    other.batch_execute("ROLLBACK").unwrap();
    admin.wait_for("the key to go on", |status| status.totals.time_lag_ms == 0 && status.totals.parked_records == 0);
    forebay.terminate().expect(0);
}

/// Its key is parked after some milliseconds, and everybody else goes on.
#[test]
fn a_locked_row_is_named_with_its_key_and_the_session_that_locks_it() {
    with_a_locked_row("", "key 7", |status, p, frontier| {
        let parked = frontier.place == "parked" && status.totals.parked_keys == 1;
        let code = frontier.last.as_ref().and_then(|last| last.sqlstate.as_deref());
        parked && frontier.offset == 17 && p.committed == p.end && code == Some("55P03")
    });
}

/// Nothing of such a topic can be parked: its worker waits, and the first record of its batch is the oldest that is not durable.
#[test]
fn a_locked_row_of_a_topic_that_cannot_park_is_named_with_its_worker() {
    with_a_locked_row("delivery = \"at_least_once\"\n", "key 0", |_, _, frontier| {
        let at_hand = frontier.place == "writing" && frontier.worker.as_deref() == Some("fb-w0.0");
        at_hand
            && frontier.attempt > Some(1)
            && frontier.last.as_ref().is_some_and(|last| last.sqlstate.as_deref() == Some("55P03"))
    });
}

#[test]
fn a_shard_that_goes_away_is_seen_within_two_seconds_and_everything_still_answers() {
    const SOON: Duration = Duration::from_secs(2);
    let own = OwnServices::start(&[Service::Pg(Server::A)]);
    let well = Database::create(Server::B, "seeing_shards");
    well.execute(LEDGER);
    let mut ill = postgres::Client::connect(&own.pg_dsn(Server::A), postgres::NoTls).unwrap();
    ill.batch_execute(LEDGER).unwrap();
    drop(ill);
    let topic = Topic::create("seeing-shards", 2);
    let rig = Rig::new(&format!(
        "{ADMIN}{ENGINE}{}partitions = \"0\"\n{}partitions = \"1\"\n{}",
        shard("ill", &own.pg_dsn(Server::A)),
        shard("well", well.dsn()),
        ledger_topic(topic.name())
    ));
    let forebay = rig.start();
    let admin = forebay.admin();
    publish(&topic, 0..1000, 10);
    admin.wait_for("all applied, on shards that are up", |status| {
        let up = status.shards.iter().all(|shard| shard.state == "up");
        status.totals.durable == 1000 && status.ready.ready && up
    });
    admin.get("/readyz").expect(200);
    own.stop(Service::Pg(Server::A), Stop::Fast);
    let stopped = Instant::now();
    wait_until(PATIENCE, "readiness to change", || admin.get("/readyz").status == 503);
    let seen = admin.status();
    assert!(stopped.elapsed() < SOON, "{:?}", stopped.elapsed());
    assert_eq!((seen.shards[0].state.as_str(), seen.shards[0].verdict.kind.as_str()), ("down", "down"));
    assert_eq!(seen.shards[1].state, "up");
    assert!(admin.get("/readyz").expect(503).contains("shard ill is down"));
    admin.get("/healthz").expect(200);
    for path in ["/", "/metrics", "/status"] {
        let asked = Instant::now();
        admin.get(path).expect(200);
        assert!(asked.elapsed() < Duration::from_millis(500), "{path}: {:?}", asked.elapsed());
    }
    let metrics = admin.get("/metrics").expect(200);
    assert!(metrics.contains("forebay_shard_up{shard=\"ill\"} 0\n") && metrics.contains("forebay_ready 0\n"));
    assert!(metrics.contains("forebay_shard_verdict{shard=\"ill\",verdict=\"down\"} 1\n"));
    publish(&topic, 1000..2000, 10);
    let behind = admin.wait_for("what the shard lacks", |status| {
        status.totals.durable == 1500 && status.partitions[0].message_lag >= Some(500)
    });
    let frontier = behind.partitions[0].frontier.as_ref().expect("somebody holds it up");
    assert_eq!(frontier.shard.as_deref(), Some("ill"), "{frontier:?}");
    own.up(Service::Pg(Server::A));
    admin.wait_for("everything again", |status| status.ready.ready && status.totals.durable == 2000);
    admin.get("/readyz").expect(200);
    forebay.terminate().expect(0);
}
