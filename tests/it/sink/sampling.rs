//! What PostgreSQL says of our connections: who is in their way, what they wait for, and what a role may see of it; and that nothing of
//! others' queries but the command's name is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use forebay::config::{InsertMode, Pooler, Target, Then};
use forebay::sink::Sampler;
use forebay::sink::backends::{Backends, Known};
use forebay::sink::postgres::PostgresWriter;
use forebay::sink::sample::PostgresSampler;
use forebay::state::blocking::Blocker;
use forebay::state::contention::{Ask, Class, Contention, Snapshot};
use forebay::types::ShardIx;
use postgres::{Client, NoTls};

use super::parking::{SKIP, Try, drain, holding, waits, world};
use crate::statements::World;
use crate::support::{PATIENCE, unique_name, wait_until};
use crate::table::table;

/// What no snapshot may contain.
const SECRET: &str = "geheim";

/// A sampler, and what it has seen.
struct Eye {
    sampler: PostgresSampler,
    contention: Contention,
    start: Instant,
}

impl Eye {
    fn new(world: &World, backends: &Arc<Backends>) -> Eye {
        let sampler = PostgresSampler::new(&world.config, ShardIx(0), Arc::clone(backends));
        Eye { sampler, contention: Contention::new(PATIENCE), start: Instant::now() }
    }

    fn look(&mut self) -> Snapshot {
        let ask = self.contention.ask(self.start.elapsed());
        let sample = self.sampler.sample(&ask).expect("a sample");
        self.contention.add(self.start.elapsed(), 1, sample);
        let snapshot = self.contention.snapshot(self.start.elapsed()).expect("it was added");
        assert!(!format!("{snapshot:?}").contains(SECRET), "{snapshot:?}");
        snapshot
    }

    #[track_caller]
    fn until(&mut self, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut last = self.look();
        wait_until(PATIENCE, what, || {
            last = self.look();
            condition(&last)
        });
        last
    }

    #[track_caller]
    fn until_blocked(&mut self) -> Vec<Blocker> {
        self.until("a blocker", |snapshot| !snapshot.blockers.is_empty()).blockers
    }
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0)
}

/// A session that looks like one of ours, and is known as such.
fn ours(world: &World, backends: &Arc<Backends>, thread: &str, user: &str) -> (Client, Known) {
    let mut config: postgres::Config = world.database.dsn().parse().unwrap();
    if !user.is_empty() {
        config.user(user);
    }
    let mut client = config.application_name(&format!("forebay/group/{thread}")).connect(NoTls).unwrap();
    let known = Backends::add(backends, thread, Some(pid(&mut client)));
    (client, known)
}

/// Runs `sql`, which waits until somebody else goes; ends with the thread.
fn waiting(mut client: Client, known: Known, sql: &str) -> JoinHandle<()> {
    let sql = sql.to_owned();
    thread::spawn(move || {
        client.batch_execute(&sql).expect("in the end it has its turn");
        drop(known);
    })
}

fn writer(world: &World, backends: &Arc<Backends>, thread: &str) -> PostgresWriter {
    world.writer(thread).known_to(backends)
}

/// A session in a transaction whose last statement was this one, and its pid.
fn transaction(world: &World, sql: &str) -> (Client, i32) {
    let mut client = world.database.connect();
    let pid = pid(&mut client);
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(sql).unwrap();
    (client, pid)
}

/// Somebody who has row 1, and whose query holds something that nobody may read.
fn secretive(world: &World) -> (Client, i32) {
    transaction(world, &format!("/* {SECRET} */ UPDATE target SET v = length('{SECRET}') WHERE id = 1"))
}

/// The whole way of a blocked row: waited for, given up, and let go.
#[test]
pub fn who_holds_a_row_that_we_wait_for() {
    let (world, _) = world("sampling_row");
    let backends = Arc::new(Backends::default());
    let (mut other, other_pid) = secretive(&world);
    let mut eye = Eye::new(&world, &backends);
    let mut writer = writer(&world, &backends, "fb-w0.3");
    let behind_pooler = world.config.shards[0].pooler == Pooler::Transaction;
    let wait = thread::spawn(move || {
        // Each time until the lock time-out.
        let mut refused = 0;
        while refused < 20 && Try::new(0, &[("a", r#"{"id": 1, "v": 1}"#)]).run(&mut writer).is_err() {
            refused += 1;
        }
        writer
    });
    let blocker = eye.until_blocked().remove(0);
    let session = &blocker.session;
    assert_eq!((session.pid, session.ours), (other_pid, false));
    assert_eq!(session.application.as_deref(), Some("forebay-test"));
    assert_eq!(session.state.as_deref(), Some("idle in transaction"));
    assert_eq!(session.command.as_deref(), Some("UPDATE"));
    assert_eq!(session.user.as_deref(), Some("forebay"));
    assert!(session.transaction_age.is_some() && session.query_age.is_some(), "{session:?}");
    assert_eq!(blocker.blocks, ["fb-w0.3"]);
    assert_eq!((blocker.lock.as_deref(), blocker.relation.as_deref()), (Some("transactionid"), Some("target")));
    let seen = eye.until("time spent waiting", |s| s.waits.iter().any(|wait| wait.kind == "Lock" && wait.share > 0.0));
    assert!(seen.totals.iter().any(|(kind, event, _)| (kind.as_str(), event.as_str()) == ("Lock", "transactionid")));
    assert_eq!(behind_pooler, seen.notes.iter().any(|note| note.contains("behind a pooler")), "{:?}", seen.notes);
    let _writer = wait.join().unwrap();
    // Nobody waits any more, and still it is in the way of whoever comes.
    let after = eye.look();
    assert_eq!((after.blocked, after.blockers.len()), (0, 1));
    other.batch_execute("ROLLBACK").unwrap();
    eye.until("nobody to be in the way", |snapshot| snapshot.blockers.is_empty());
}

/// The probe waits for nobody, and the slow lane passes the row by: the row says who has it. Likewise after a restart.
#[test]
pub fn who_holds_a_row_whose_key_is_parked() {
    let (world, _) = world("sampling_parked");
    let backends = Arc::new(Backends::default());
    let (mut other, other_pid) = secretive(&world);
    let mut eye = Eye::new(&world, &backends);
    let mut writer = writer(&world, &backends, "fb-w0.0");
    assert_eq!(eye.look().blockers, []);
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("b", r#"{"id": 2, "v": 2}"#)];
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0]);
    let blockers = eye.look().blockers;
    assert_eq!((blockers.len(), blockers[0].session.pid), (1, other_pid));
    assert_eq!(
        (&blockers[0].blocks[..], blockers[0].relation.as_deref()),
        (&["fb-w0.0".to_owned()][..], Some("target"))
    );
    assert_eq!((blockers[0].waited_for, blockers[0].session.command.as_deref()), (false, Some("UPDATE")));
    drop((writer, eye));

    let backends = Arc::new(Backends::default());
    let mut eye = Eye::new(&world, &backends);
    let mut lane = self::writer(&world, &backends, "fb-s0.0");
    assert!(waits(&drain(&mut lane, &["a"], SKIP).unwrap()[0]));
    let blockers = eye.look().blockers;
    assert_eq!((blockers[0].session.pid, &blockers[0].blocks[..]), (other_pid, &["fb-s0.0".to_owned()][..]));
    if world.config.shards[0].pooler == Pooler::None {
        let seen = eye.until("the slow lane's time", |s| s.waits.iter().any(|wait| wait.class == Class::Parked));
        assert_eq!(
            (seen.waits[0].kind.as_str(), seen.waits[0].event.as_str(), seen.waits[0].share),
            ("Lock", "parked", 1.0)
        );
    }
    other.batch_execute("ROLLBACK").unwrap();
    assert!(!waits(&drain(&mut lane, &["a"], SKIP).unwrap()[0]));
    eye.until("nobody to be in the way", |snapshot| snapshot.blockers.is_empty());
}

/// A row that several share bears a number for all of them.
#[test]
fn several_who_share_a_row() {
    let (world, _) = world("sampling_share");
    let backends = Arc::new(Backends::default());
    let share = "SELECT FROM target WHERE id = 1 FOR SHARE";
    let mut sharers = [holding(&world, share), holding(&world, share), holding(&world, share)];
    let mut expected: BTreeSet<i32> = sharers.iter_mut().map(pid).collect();
    let mut eye = Eye::new(&world, &backends);
    let mut writer = writer(&world, &backends, "fb-w0.0");
    assert_eq!(Try::probing(0, &[("a", r#"{"id": 1, "v": 1}"#)], Then::Skip).parks(&mut writer), [0]);
    let found = |snapshot: &Snapshot| snapshot.blockers.iter().map(|b| b.session.pid).collect::<BTreeSet<i32>>();
    assert_eq!(found(&eye.look()), expected);
    expected.remove(&pid(&mut sharers[0]));
    sharers[0].batch_execute("ROLLBACK").unwrap();
    eye.until("one of them to be gone", |snapshot| found(snapshot) == expected);
}

/// Roles belong to the whole server, their names to the encoding of the database where they were made.
#[test]
fn a_blocker_whose_name_is_no_utf8() {
    let (world, _) = world("sampling_name");
    let (plain, latin) = (unique_name("sampling_role"), unique_name("sampling_latin"));
    let mut admin = world.database.connect();
    admin.batch_execute(&format!("CREATE ROLE {plain} LOGIN SUPERUSER")).unwrap();
    let kind = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    admin.batch_execute(&format!("CREATE DATABASE {latin} {kind}")).unwrap();
    let config: postgres::Config = world.database.dsn().parse().unwrap();
    let mut blocker = config.clone().user(&plain).connect(NoTls).unwrap();
    blocker.batch_execute("BEGIN; UPDATE target SET v = 0 WHERE id = 1").unwrap();
    let mut elsewhere = config.clone().dbname(&latin).connect(NoTls).unwrap();
    elsewhere.batch_execute(&format!("ALTER ROLE {plain} RENAME TO \"{plain}é\"")).unwrap();

    let backends = Arc::new(Backends::default());
    let mut eye = Eye::new(&world, &backends);
    let mut writer = writer(&world, &backends, "fb-w0.0");
    assert_eq!(Try::probing(0, &[("a", r#"{"id": 1, "v": 1}"#)], Then::Skip).parks(&mut writer), [0]);
    let blockers = eye.look().blockers;
    assert_eq!(blockers[0].session.user, Some(format!("{plain}\u{fffd}")));

    drop(blocker);
    let dropped = format!("DROP ROLE \"{plain}é\"");
    wait_until(PATIENCE, "the role to be gone", || elsewhere.batch_execute(&dropped).is_ok());
    drop(elsewhere);
    admin.batch_execute(&format!("DROP DATABASE {latin} WITH (FORCE)")).unwrap();
}

/// Who waits for somebody who waits: named is the one at the end, with those in between.
#[test]
fn the_root_of_a_chain() {
    let (world, _) = world("sampling_chain");
    let backends = Arc::new(Backends::default());
    let (mut root, root_pid) = transaction(&world, "UPDATE target SET v = 1 WHERE id = 1");
    let (between, between_pid) = transaction(&world, "UPDATE target SET v = 2 WHERE id = 2");
    let nobody = Arc::new(Backends::default());
    let behind = waiting(between, Backends::add(&nobody, "", None), "UPDATE target SET v = 2 WHERE id = 1; COMMIT");
    let waits = ["fb-w0.0", "fb-w0.1"].map(|thread| {
        let (client, known) = ours(&world, &backends, thread, "");
        waiting(client, known, "UPDATE target SET v = 3 WHERE id = 2")
    });
    let mut eye = Eye::new(&world, &backends);
    let seen = eye.until("both to wait", |s| s.blockers.len() == 1 && s.blockers[0].blocks.len() == 2);
    let blocker = &seen.blockers[0];
    assert_eq!((blocker.session.pid, &blocker.through[..]), (root_pid, &[between_pid][..]));
    assert_eq!(
        (&blocker.blocks[..], blocker.relation.as_deref()),
        (&["fb-w0.0".to_owned(), "fb-w0.1".to_owned()][..], Some("target"))
    );
    assert_eq!((seen.blocked, blocker.waited_for, blocker.session.ours), (2, true, false));
    root.batch_execute("COMMIT").unwrap();
    behind.join().unwrap();
    waits.into_iter().for_each(|wait| wait.join().unwrap());
    assert_eq!(eye.until("nobody", |s| s.blockers.is_empty()).blocked, 0);
}

/// Locks of other kinds: on a whole table, and by number, of a session that is in no transaction. One more process of the group has
/// the same names, and none of it is counted as ours.
#[test]
fn other_locks_and_other_processes() {
    let (world, _) = world("sampling_kinds");
    let backends = Arc::new(Backends::default());
    let elsewhere = Arc::new(Backends::default());
    let (mut table, table_pid) = transaction(&world, "LOCK TABLE target IN EXCLUSIVE MODE");
    let (mut advisory, _theirs) = ours(&world, &elsewhere, "fb-w0.0", "");
    let advisory_pid = pid(&mut advisory);
    advisory.batch_execute("SELECT pg_advisory_lock(7)").unwrap();
    let waits = [("fb-w0.0", "UPDATE target SET v = 3 WHERE id = 2"), ("fb-w0.1", "SELECT pg_advisory_lock(7)")];
    let waits = waits.map(|(thread, sql)| {
        let (client, known) = ours(&world, &backends, thread, "");
        waiting(client, known, sql)
    });
    let mut eye = Eye::new(&world, &backends);
    let mut seen = eye.until("both to wait", |s| s.blockers.len() == 2);
    seen.blockers.sort_by_key(|blocker| blocker.blocks.clone());
    let text = |b: &Blocker| {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!(
            "{} {} {} {} {}",
            b.session.pid,
            text(&b.session.state),
            text(&b.session.command),
            text(&b.lock),
            text(&b.relation)
        )
    };
    let expected = [
        format!("{table_pid} idle in transaction LOCK relation target"),
        format!("{advisory_pid} idle SELECT advisory "),
    ];
    assert_eq!(seen.blockers.iter().map(text).collect::<Vec<_>>(), expected);
    assert_eq!((seen.blockers[1].session.ours, seen.at.iter().map(|(_, n)| n).sum::<f64>().round()), (true, 2.0));
    table.batch_execute("ROLLBACK").unwrap();
    advisory.batch_execute("SELECT pg_advisory_unlock(7)").unwrap();
    waits.into_iter().for_each(|wait| wait.join().unwrap());
}

/// What a role without privileges sees of another user's session: that it is there, its name, and that more could be seen.
#[test]
fn a_role_that_sees_little() {
    let (world, _) = world("sampling_plain");
    let role = unique_name("plain");
    world.database.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, UPDATE ON target TO {role}; \
         GRANT USAGE ON SCHEMA forebay TO {role}"
    ));
    let mut config = (*world.config).clone();
    config.shards[0].dsn.0.push_str(&format!(" user={role}"));
    let plain = World { config: Arc::new(config), database: world.database, ids: world.ids };
    let backends = Arc::new(Backends::default());
    let (mut other, other_pid) = secretive(&plain);
    let (client, known) = ours(&plain, &backends, "fb-w0.0", &role);
    let wait = waiting(client, known, "UPDATE target SET v = 3 WHERE id = 1");
    let mut eye = Eye::new(&plain, &backends);
    let blocker = eye.until_blocked().remove(0);
    let session = &blocker.session;
    assert_eq!(
        (session.pid, session.user.as_deref(), session.application.as_deref()),
        (other_pid, Some("forebay"), Some("forebay-test"))
    );
    assert_eq!((&session.state, &session.command, session.transaction_age), (&None, &None, None));
    assert_eq!((&blocker.blocks[..], blocker.relation.as_deref()), (&["fb-w0.0".to_owned()][..], Some("target")));
    let seen = eye.look();
    let note =
        format!("of other users' sessions role {role} sees neither state nor age: GRANT pg_read_all_stats TO {role}");
    assert_eq!(seen.notes, [note]);
    assert!(seen.wal.is_some() && seen.connections.is_some_and(|c| c.server_used > 0 && c.open == Some(2)), "{seen:?}");
    // Its transaction can be told from the next one all the same.
    other.batch_execute("COMMIT").unwrap();
    wait.join().unwrap();
    eye.until("nobody", |snapshot| snapshot.blockers.is_empty());
    plain.database.execute(&format!("GRANT pg_read_all_stats TO {role}"));
    let mut fresh = Eye::new(&plain, &backends);
    assert_eq!(fresh.look().notes, [""; 0]);
    drop((eye, fresh));
    wait_until(PATIENCE, "the role to go", || {
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        plain.database.connect().batch_execute(&drop).is_ok()
    });
}

/// Commits that follow each other show as waits for the log, and as bytes of it.
#[test]
fn commits_show() {
    let (world, _) = world("sampling_commits");
    let backends = Arc::new(Backends::default());
    let writers = [1, 2].map(|id: i32| {
        let (mut client, known) = ours(&world, &backends, &format!("fb-w0.{id}"), "");
        thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(7);
            while Instant::now() < end {
                client.execute("UPDATE target SET v = (v + 1) % 100 WHERE id = $1", &[&id]).unwrap();
            }
            drop(known);
        })
    });
    let mut eye = Eye::new(&world, &backends);
    let seen = eye.until("the log to have grown", |snapshot| snapshot.wal.is_some_and(|wal| wal.bytes > 0));
    let commit: f64 = seen.at.iter().filter(|(class, _)| *class == Class::Commit).map(|(_, backends)| backends).sum();
    assert!(commit > 0.05, "backends in commits: {commit}; {:?}", seen.waits);
    assert!(seen.wal.unwrap().bytes_per_s.is_some_and(|rate| rate > 0.0));
    assert_eq!((seen.blockers.len(), seen.blocked), (0, 0));
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

/// Updates that need no index entry, and those that do, since the sampler began; rows that nobody sees any more; partitions together.
#[test]
fn the_health_of_tables() {
    let world = World::with("sampling_tables", |config| {
        config.topics[0].target = Target::Table(table("parts", InsertMode::Upsert, &["id"]));
    });
    world.located();
    world.database.execute(
        "CREATE TABLE parts (id int PRIMARY KEY, v int, w int) PARTITION BY RANGE (id); CREATE INDEX ON parts (w); \
         CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (100) WITH (autovacuum_enabled = off, fillfactor = 30); \
         CREATE TABLE high PARTITION OF parts FOR VALUES FROM (100) TO (200) WITH (autovacuum_enabled = off, fillfactor = 30); \
         INSERT INTO parts SELECT i, 0, 0 FROM generate_series(50, 149) i",
    );
    let backends = Arc::new(Backends::default());
    // Numbers arrive when sessions end, a little later.
    let mut eye = Eye::new(&world, &backends);
    let parts = |snapshot: &Snapshot| snapshot.tables.iter().find(|table| table.table == "parts").cloned();
    let mut fresh = || {
        eye = Eye::new(&world, &backends);
        parts(&eye.look())
    };
    wait_until(PATIENCE, "the rows to be counted", || fresh().is_some_and(|table| table.live_rows == 100));
    let before = parts(&eye.look()).unwrap();
    assert_eq!((before.hot_ratio(), before.last_vacuum_at_ms), (None, None));
    world.database.execute("UPDATE parts SET v = v + 1 WHERE id < 80");
    world.database.execute("UPDATE parts SET w = w + 1 WHERE id > 139");
    let seen = eye.until("the updates", |snapshot| parts(snapshot).is_some_and(|table| table.updates == 40));
    let table = parts(&seen).unwrap();
    assert_eq!((table.hot_ratio(), table.live_rows, table.dead_rows), (Some(0.75), 100, 40));
    assert!(seen.tables.iter().any(|table| table.table == "forebay.fence"), "{:?}", seen.tables);
}

/// What is asked and answered costs the server little: far less than a hundredth of one core, four times a second.
#[test]
#[ignore = "measures"]
fn what_a_sample_costs() {
    let (world, _) = world("sampling_cost");
    let backends = Arc::new(Backends::default());
    let _ours: Vec<_> = (0..6).map(|n| ours(&world, &backends, &format!("fb-w0.{n}"), "")).collect();
    let _others: Vec<Client> = (0..60).map(|_| world.database.connect()).collect();
    let mut eye = Eye::new(&world, &backends);
    eye.look();
    let mut admin = world.database.connect();
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'forebay/group/sampler' AND datname = current_database()";
    let sampler: i32 = admin.query_one(sql, &[]).unwrap().get(0);
    let cpu = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("a server on this machine");
        stat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let mut measure = |what: &str| {
        let (before, start) = (cpu(sampler), Instant::now());
        (0..1000).for_each(|_| drop(eye.look()));
        let each = (cpu(sampler) - before) as f64 / 1e6;
        println!("{what}: {each:.0} µs of the server's CPU a sample, {:?} in all", start.elapsed() / 1000);
    };
    measure("usual");
    let (mut holder, _) = transaction(&world, "UPDATE target SET v = 1 WHERE id = 1");
    let (client, known) = ours(&world, &backends, "fb-w0.9", "");
    let wait = waiting(client, known, "UPDATE target SET v = 2 WHERE id = 1");
    measure("while somebody waits");
    let (ask, before) = (Ask { locks: true, ..Ask::default() }, cpu(sampler));
    (0..1000).for_each(|_| drop(eye.sampler.sample(&ask).expect("a sample")));
    println!("and looks at the locks each time: {:.0} µs", (cpu(sampler) - before) as f64 / 1e6);
    holder.batch_execute("ROLLBACK").unwrap();
    wait.join().unwrap();
}
