//! An operator has locked a row in an open session: who that is can be read while the row stays locked, although its key is
//! parked after some milliseconds, and nobody waits for it any more.

use std::sync::Arc;
use std::thread;

use forebay::config::{Target, load};
use forebay::engine::sampler::Sampled;
use forebay::engine::{Engine, Options, Stopper};
use forebay::sink::handler::{Handler, HandlerError};
use forebay::state::chunk::RecordRef;
use forebay::state::contention::Snapshot;
use forebay::state::verdict::{Ours, verdict};
use forebay::types::ShardIx;
use postgres::{Client, Transaction};

use super::{Record, count, publish_all};
use crate::support::{Database, PATIENCE, Server, Topic, kafka_bootstrap, unique_name, wait_until};

/// Upserts `latest` by code.
struct Latest;

impl Handler for Latest {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            let key = record.key.map(String::from_utf8_lossy).unwrap_or_default();
            let sql = "INSERT INTO latest VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET seq = latest.seq + 1";
            transaction.execute(sql, &[&&*key])?;
        }
        Ok(())
    }
}

fn config(database: &Database, topic: &Topic, group: &str, target: &str) -> String {
    format!(
        "[kafka]\n\"bootstrap.servers\" = {:?}\n\"group.id\" = {group:?}\n[engine]\nworkers_per_shard = 2\n\
         commit_interval_ms = 200\n[[shard]]\nname = \"main\"\ndsn = {:?}\n[[topic]]\nname = {:?}\n{target}",
        kafka_bootstrap(),
        database.dsn(),
        topic.name()
    )
}

fn engine(text: &str) -> Engine {
    let loaded = load::parse("contention.toml".as_ref(), text, &|_| None).expect("valid");
    let handled = loaded.config.topics.iter().any(|topic| matches!(topic.target, Target::Handler));
    let topic = loaded.config.topics[0].name.clone();
    match handled {
        true => Engine::new(loaded.config).handle(&topic, || Latest).expect("its topic"),
        false => Engine::new(loaded.config),
    }
}

/// What runs until it is dropped.
struct Running {
    stopper: Stopper,
    observed: Arc<Sampled>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(text: &str) -> Running {
        let (engine, stopper) = (engine(text), Stopper::default());
        let (observed, until) = (engine.contention(ShardIx(0)), stopper.clone());
        let run = move || drop(engine.run(Options::default(), &until).expect("it ends well"));
        Running { stopper, observed, thread: Some(thread::spawn(run)) }
    }

    /// A look that shows this session in the way, and says so.
    #[track_caller]
    fn until_named(&self, pid: i32) -> Snapshot {
        let mut found = None;
        wait_until(PATIENCE, "whoever is in the way to be named", || {
            found = self.observed.snapshot().filter(|seen| seen.blockers.iter().any(|b| b.session.pid == pid));
            found.is_some()
        });
        let found = found.expect("it was waited for");
        let blocker = &found.blockers[0];
        assert_eq!((blocker.session.pid, blocker.relation.as_deref()), (pid, Some("latest")), "{found:?}");
        assert_eq!(blocker.session.state.as_deref(), Some("idle in transaction"));
        assert_eq!(blocker.session.command.as_deref(), Some("SELECT"));
        let said = verdict(Some(&found), &Ours::default());
        assert_eq!(said.kind.name(), "lock_bound");
        assert!(said.text.contains(&format!("pid {pid} (forebay-test, idle in transaction")), "{}", said.text);
        found
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn blocked_row(target: &str) {
    let database = Database::create(Server::A, "contention");
    database.execute("CREATE TABLE latest (k text PRIMARY KEY, seq bigint); INSERT INTO latest VALUES ('key 7', 0)");
    let topic = Topic::create("contention", 1);
    let text = config(&database, &topic, &unique_name("contention"), target);
    let mut other: Client = database.connect();
    let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    other.batch_execute("BEGIN").unwrap();
    other.batch_execute("SELECT FROM latest WHERE k = 'key 7' FOR UPDATE").unwrap();
    let mut client = database.connect();

    let running = Running::start(&text);
    let record = |seq: i64| (0, Some(format!("key {}", seq % 10)), Some(format!("{{\"seq\":{seq}}}")));
    publish_all(&topic, &(0..100).map(record).collect::<Vec<Record>>());
    running.until_named(pid);
    wait_until(PATIENCE, "the key to be parked", || count(&mut client, "forebay.parked") == 10);
    let parked = running.until_named(pid);
    assert!(parked.blockers[0].blocks.iter().all(|thread| thread.starts_with("fb-")), "{:?}", parked.blockers);
    // It stays so: time goes by, and the slow lane's pauses grow.
    let since = parked.blockers[0].blocked_for;
    wait_until(PATIENCE, "five seconds", || {
        let seen = running.observed.snapshot().expect("a sample");
        assert_eq!(seen.blockers.first().map(|blocker| blocker.session.pid), Some(pid), "{seen:?}");
        seen.blockers[0].blocked_for > since + std::time::Duration::from_secs(5)
    });
    let seen = running.until_named(pid);
    assert!(seen.waits.iter().any(|wait| wait.kind == "Lock" && wait.share > 0.0), "{:?}", seen.waits);

    // Whoever comes next finds the key parked, and its row locked.
    drop(running);
    let running = Running::start(&text);
    running.until_named(pid);
    other.batch_execute("ROLLBACK").unwrap();
    wait_until(PATIENCE, "the key to go on", || count(&mut client, "forebay.parked") == 0);
    wait_until(PATIENCE, "nobody to be in the way", || {
        running.observed.snapshot().is_some_and(|seen| seen.blockers.is_empty())
    });
    let seen = running.observed.snapshot().expect("a sample");
    assert_eq!(seen.notes, [""; 0]);
    // The slow lane, the control thread, whoever looks, and as many workers as had something to do.
    wait_until(PATIENCE, "connections to be counted", || {
        let open = running.observed.snapshot().and_then(|seen| seen.connections).and_then(|all| all.open);
        open.is_some_and(|open| (3..=5).contains(&open))
    });
    // A handler's tables nobody knows.
    let is_known = seen.tables.iter().any(|table| table.table == "latest");
    assert_eq!(is_known, target.starts_with("table"), "{:?}", seen.tables);
}

#[test]
fn a_locked_row_of_a_table() {
    blocked_row("table = \"latest\"\ninsert_mode = \"upsert\"\npk_fields = [\"k\"]\n[topic.columns]\nk = \"@key\"\n");
}

/// There the slow lane's tries wait for a moment each, which a sample meets sooner or later.
#[test]
fn a_locked_row_of_a_handler() {
    blocked_row("handler = true\n");
}
