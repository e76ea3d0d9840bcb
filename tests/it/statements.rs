//! The fence protocol's statements on a real PostgreSQL, with real concurrency: threads and connections that wait for each
//! other's locks. Nothing sleeps to let another go first; each test waits until the server says that somebody waits.
//!
//! Every test names the rule that it fails without (see `forebay::sink::fence`).

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use forebay::config::Config;
use forebay::sink::fence::Found;
use forebay::sink::handler::{Handler, HandlerError, HandlerFactory};
use forebay::sink::place::Place;
use forebay::sink::postgres::{OwnRows, PostgresControl, PostgresWriter};
use forebay::sink::{Control, Failure, FenceRow, Identity, Job, Progress, Taken, Takeover, Writer, Written, fence};
use forebay::state::batch::{Batch, LaneMove};
use forebay::state::chunk::{Chunk, RawRecord, RecordRef};
use forebay::types::{Generation, Lane, NextOffset, Offset, ShardIx, Token, TopicIx, TopicPartition};
use postgres::{Client, SimpleQueryMessage, Transaction};

use crate::pooler;
use crate::support::{Database, Server, handler_config, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);
pub const TOPIC: TopicIx = TopicIx(0);
pub const AT: TopicPartition = TopicPartition { topic: TOPIC, partition: 0 };
const GATE: i64 = 4711;

/// Notes each record in `applied`; waits in the middle of its transaction while the test holds the gate.
struct Note;

impl Handler for Note {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            transaction.execute("INSERT INTO applied VALUES ($1, $2)", &[&record.partition, &record.offset.0])?;
        }
        transaction.execute("SELECT pg_advisory_xact_lock_shared($1)", &[&GATE])?;
        Ok(())
    }
}

/// A database with one topic, and what the processes that share it have in common.
pub struct World {
    pub database: Database,
    pub config: Arc<Config>,
    pub ids: Arc<OwnRows>,
}

impl World {
    pub fn new(name: &str) -> World {
        World::with(name, |_| {})
    }

    pub fn with(name: &str, change: impl FnOnce(&mut Config)) -> World {
        let database = Database::create(Server::A, name);
        // Without a key: a record that is applied twice must show.
        database.execute("CREATE TABLE applied (partition int, \"offset\" bigint)");
        let mut config = handler_config("group", &[database.dsn()], &["topic"]);
        change(&mut config);
        pooler::stand_behind(&database, &mut config.shards[0]);
        World { database, config: Arc::new(config), ids: Arc::new(OwnRows::new(1)) }
    }

    pub fn control(&self) -> PostgresControl {
        PostgresControl::new(Arc::clone(&self.config), ShardIx(0), Arc::clone(&self.ids))
    }

    /// A control connection that knows the topic.
    pub fn located(&self) -> PostgresControl {
        let mut control = self.control();
        control.locate(TOPIC, &identity(), &[0]).expect("where the shard stands");
        control
    }

    pub fn writer(&self, name: &str) -> PostgresWriter {
        self.writer_of(name, Arc::new(|| Box::new(Note)))
    }

    pub fn writer_of(&self, name: &str, handler: HandlerFactory) -> PostgresWriter {
        let handlers = Arc::new(HashMap::from([(TOPIC, handler)]));
        PostgresWriter::new(Arc::clone(&self.config), ShardIx(0), Arc::clone(&self.ids), name, handlers)
    }

    /// Offsets noted so far, in order, repetitions included.
    pub fn applied(&self) -> Vec<i64> {
        let rows = self.database.connect().query("SELECT \"offset\" FROM applied ORDER BY 1", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// (lane, next offset, token) as stored.
    pub fn fences(&self) -> Vec<(i16, i64, i64)> {
        let sql = "SELECT lane, next_offset, token FROM forebay.fence ORDER BY partition, lane";
        let rows = self.database.connect().query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    pub fn next_offsets(&self) -> Vec<i64> {
        self.fences().iter().map(|(_, next, _)| *next).collect()
    }

    fn done(&self) -> i64 {
        self.database.connect().query_one("SELECT done FROM forebay.partition", &[]).unwrap().get(0)
    }

    /// Keeps handlers waiting until it is dropped or rolled back.
    fn close_gate(&self) -> Client {
        let mut gate = self.database.connect();
        gate.execute("SELECT pg_advisory_lock($1)", &[&GATE]).unwrap();
        gate
    }

    /// Waits until that many backends here wait for a lock: at the gate, or for each other's rows.
    #[track_caller]
    pub fn wait_for_waiters(&self, count: i64, at_gate: bool) {
        let mut client = self.database.connect();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
                   wait_event_type = 'Lock' AND (wait_event = 'advisory') = $1";
        wait_until(PATIENCE, "somebody to wait for a lock", || {
            let found: i64 = client.query_one(sql, &[&at_gate]).unwrap().get(0);
            found == count
        });
    }
}

/// Whoever waits for a lock is there for as long as the test needs.
fn wait_long(config: &mut Config) {
    config.engine.park_after = PATIENCE;
}

pub fn identity() -> Identity {
    Identity { cluster_id: "cluster-1".to_owned(), topic_id: Some("id-1".to_owned()) }
}

pub fn takeover(token: i64, lanes: Lane, begin: i64) -> Takeover {
    Takeover { at: AT, token: Token(token), lanes, begin: NextOffset(begin) }
}

fn offsets(taken: &Taken) -> Vec<i64> {
    taken.fences.iter().map(|next| next.0).collect()
}

/// Runs of records: (lane, expected fence, offsets).
pub fn batch(token: i64, runs: &[(Lane, i64, &[i64])]) -> (Batch, Vec<LaneMove>) {
    let mut chunk = Chunk::new(TOPIC);
    let mut seq = 0;
    for (lane, expected, offsets) in runs {
        let run = chunk.open_run(AT, *lane, Generation(1), Token(token), NextOffset(*expected));
        for offset in *offsets {
            let value = format!("{{\"offset\": {offset}}}");
            let record = RawRecord {
                offset: Offset(*offset),
                timestamp_ms: -1,
                key: Some(b"key"),
                value: Some(value.as_bytes()),
                headers: &[],
            };
            chunk.push(run, seq, 0, &record);
            seq += 1;
        }
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    let mut moves = Vec::new();
    batch.moves(batch.len(), &mut moves);
    (batch, moves)
}

pub fn write(writer: &mut PostgresWriter, token: i64, runs: &[(Lane, i64, &[i64])]) -> Result<Written, Failure> {
    let (batch, moves) = batch(token, runs);
    writer.write(&Job::plain(&batch, 0..batch.len(), &moves))
}

#[track_caller]
fn expect_applied(result: Result<Written, Failure>) {
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
}

/// Writes one record of lane 0 in a thread of its own.
fn write_in_thread(
    mut writer: PostgresWriter,
    token: i64,
    expected: i64,
    offset: i64,
) -> JoinHandle<(PostgresWriter, Result<Written, Failure>)> {
    thread::spawn(move || {
        let result = write(&mut writer, token, &[(0, expected, &[offset])]);
        (writer, result)
    })
}

/// The first statements of another process's takeover, which then hesitates before it commits.
fn begin_takeover<'a>(client: &'a mut Client, source: i32, takeover: &Takeover) -> Transaction<'a> {
    let mut transaction = client.transaction().unwrap();
    let lanes = takeover.lanes as i16;
    let anchor = transaction
        .query_one(fence::ANCHOR.text, &[&source, &0, &lanes, &takeover.token.0, &takeover.begin.0, &"other"])
        .unwrap();
    transaction.query(fence::LOCK_FENCES.text, &[&source, &0]).unwrap();
    match anchor.get::<_, bool>("created") {
        true => {
            transaction.execute(fence::MAKE_FENCES.text, &[&source, &0, &lanes, &takeover.begin.0, &takeover.token.0])
        }
        false => transaction.execute(fence::MARK_FENCES.text, &[&source, &0, &takeover.token.0]),
    }
    .unwrap();
    transaction
}

/// Rule: the anchor is locked first. Without it both find no anchor, and the second one fails or begins at 99.
#[test]
pub fn a_takeover_waits_for_the_one_that_creates_the_anchor() {
    let world = World::new("takeover_create");
    let mut control = world.located();
    let mut other = world.database.connect();
    let first = begin_takeover(&mut other, world.ids.get(TOPIC), &takeover(111, 2, 5));
    let second = thread::spawn(move || control.takeover(&takeover(222, 2, 99)));
    world.wait_for_waiters(1, false);
    first.commit().unwrap();
    let taken = second.join().unwrap().expect("the second takeover");
    let (five, fences) = (NextOffset(5), vec![NextOffset(5); 2]);
    let expected = Taken { origin: five, done: five, created: false, fences, parked: Vec::new() };
    assert_eq!(taken, expected);
    assert_eq!(world.fences(), [(0, 5, 222), (1, 5, 222)], "the later token stands, in every fence");
}

/// Rule: a token is the present owner's alone. The earlier of two takeovers must not write any more.
#[test]
pub fn the_earlier_of_two_takeovers_is_fenced_out() {
    let world = World::new("takeover_twice");
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("the first takeover");
    let mut other = world.database.connect();
    let hesitating = begin_takeover(&mut other, world.ids.get(TOPIC), &takeover(222, 2, 0));
    let third = thread::spawn(move || control.takeover(&takeover(333, 2, 0)));
    world.wait_for_waiters(1, false);
    hesitating.commit().unwrap();
    third.join().unwrap().expect("the third takeover");
    let mut writer = world.writer("w0");
    for token in [111, 222] {
        assert_eq!(write(&mut writer, token, &[(0, 0, &[0])]), Ok(Written::Mismatch), "token {token} still writes");
    }
    expect_applied(write(&mut writer, 333, &[(0, 0, &[0])]));
    assert_eq!(world.applied(), [0]);
}

/// Rule: the fences are read in a statement of their own, behind the locks. Read together with the anchor they would be
/// those from before the wait, and offset 0 would be applied again.
#[test]
pub fn a_takeover_waits_for_a_worker_and_sees_what_it_did() {
    let world = World::new("takeover_in_flight");
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("the first takeover");
    let gate = world.close_gate();
    let worker = write_in_thread(world.writer("w0"), 111, 0, 0);
    world.wait_for_waiters(1, true);
    let newcomer = thread::spawn(move || control.takeover(&takeover(222, 2, 0)));
    world.wait_for_waiters(1, false);
    drop(gate);
    expect_applied(worker.join().unwrap().1);
    let taken = newcomer.join().unwrap().expect("the second takeover");
    assert_eq!(offsets(&taken), [1, 0], "the worker's move is not seen");
    assert_eq!(world.applied(), [0]);
}

/// Rule: a takeover gives up waiting after a bounded time, and says that it was a lock.
#[test]
pub fn a_takeover_does_not_wait_for_ever() {
    let world = World::with("takeover_bounded", |config| {
        config.shards[0].lock_timeout = Duration::from_millis(100);
    });
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("the first takeover");
    let mut other = world.database.connect();
    let mut holder = other.transaction().unwrap();
    holder.query(fence::LOCK_FENCES.text, &[&world.ids.get(TOPIC), &0]).unwrap();
    let result = control.takeover(&takeover(222, 2, 0));
    assert!(matches!(result, Err(Failure::LockWait(_))), "{result:?}");
    drop(holder);
    assert_eq!(world.fences(), [(0, 0, 111), (1, 0, 111)], "a takeover that gave up left something behind");
    control.takeover(&takeover(333, 2, 0)).expect("the connection still works");
}

/// Rule: a worker's move is conditional on its token. A zombie that wakes up behind a takeover would write again what its
/// successor writes.
#[test]
pub fn a_worker_behind_a_takeover_does_nothing() {
    let world = World::new("zombie");
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("the first takeover");
    let mut writer = world.writer("w0");
    expect_applied(write(&mut writer, 111, &[(0, 0, &[0])]));
    let mut other = world.database.connect();
    let newcomer = begin_takeover(&mut other, world.ids.get(TOPIC), &takeover(222, 2, 0));
    // Its offset is the expected one; only the token tells.
    let zombie = write_in_thread(writer, 111, 1, 1);
    world.wait_for_waiters(1, false);
    newcomer.commit().unwrap();
    assert_eq!(zombie.join().unwrap().1, Ok(Written::Mismatch));
    assert_eq!(world.applied(), [0]);
    assert_eq!(world.fences(), [(0, 1, 222), (1, 0, 222)]);
}

/// Rule: a move is conditional on the expected offset, too. A retry whose first attempt (its answer lost) commits meanwhile
/// would apply the batch twice.
#[test]
pub fn a_retry_behind_its_own_orphan_does_nothing() {
    let world = World::with("orphan_commits", wait_long);
    world.located().takeover(&takeover(111, 2, 0)).expect("a takeover");
    let gate = world.close_gate();
    let orphan = write_in_thread(world.writer("w0"), 111, 0, 0);
    world.wait_for_waiters(1, true);
    let retry = write_in_thread(world.writer("w1"), 111, 0, 0);
    world.wait_for_waiters(1, false);
    drop(gate);
    expect_applied(orphan.join().unwrap().1);
    let (mut writer, result) = retry.join().unwrap();
    assert_eq!(result, Ok(Written::Mismatch));
    assert_eq!(world.applied(), [0]);
    let now = FenceRow { partition: 0, lane: 0, next: NextOffset(1), token: Token(111) };
    assert_eq!(writer.reread(TOPIC, &[(0, 0), (0, 9)]), Ok(vec![now]), "all new values: it was applied");
}

/// Rule: as before, the other way round. The orphan's transaction is rolled back, and the retry is the one that counts.
#[test]
pub fn a_retry_behind_an_orphan_that_is_rolled_back_applies_the_batch() {
    let world = World::with("orphan_dies", wait_long);
    world.located().takeover(&takeover(111, 2, 0)).expect("a takeover");
    let gate = world.close_gate();
    let orphan = write_in_thread(world.writer("w0"), 111, 0, 0);
    world.wait_for_waiters(1, true);
    let retry = write_in_thread(world.writer("w1"), 111, 0, 0);
    world.wait_for_waiters(1, false);
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND \
                application_name = 'forebay/group/w0'";
    world.database.execute(kill);
    let (mut writer, result) = orphan.join().unwrap();
    assert!(matches!(result, Err(Failure::Outage(_))), "its outcome is unknown to it: {result:?}");
    drop(gate);
    expect_applied(retry.join().unwrap().1);
    assert_eq!(world.applied(), [0]);
    // The killed connection is replaced without ado.
    expect_applied(write(&mut writer, 111, &[(0, 1, &[1])]));
}

/// Rule: `done` is raised only under our token, compared behind the takeover that is under way.
#[test]
pub fn progress_behind_a_takeover_is_not_stored() {
    let world = World::new("progress_behind");
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("the first takeover");
    expect_applied(write(&mut world.writer("w0"), 111, &[(0, 0, &[0]), (1, 0, &[1])]));
    let mut other = world.database.connect();
    let newcomer = begin_takeover(&mut other, world.ids.get(TOPIC), &takeover(222, 2, 0));
    let believed = progress(111, 2, &[1, 2]);
    let late = thread::spawn(move || control.progress(TOPIC, &[believed]));
    world.wait_for_waiters(1, false);
    newcomer.commit().unwrap();
    assert_eq!(late.join().unwrap(), Ok(vec![]));
    assert_eq!(world.done(), 0);
}

fn progress(token: i64, done: i64, fences: &[i64]) -> Progress {
    let fences = fences.iter().map(|next| NextOffset(*next)).collect();
    Progress { partition: 0, token: Token(token), done: NextOffset(done), fences }
}

/// Rule: lock, count, then move only if all match. A plain conditional update would move lane 0, whose record is then never
/// written.
#[test]
pub fn several_lanes_move_together_or_not_at_all() {
    let world = World::new("all_or_nothing");
    world.located().takeover(&takeover(111, 3, 0)).expect("a takeover");
    let mut writer = world.writer("w0");
    for runs in [
        &[(0, 0, &[0][..]), (1, 1, &[1])][..], // lane 1 is not at 1
        &[(0, 0, &[0]), (7, 0, &[1])],         // there is no lane 7
    ] {
        assert_eq!(write(&mut writer, 111, runs), Ok(Written::Mismatch));
        assert_eq!((world.next_offsets(), world.applied()), (vec![0, 0, 0], vec![]), "{runs:?}");
    }
    // The same when the other lane moves while this transaction waits for it.
    let gate = world.close_gate();
    let earlier = thread::spawn({
        let mut writer = world.writer("w1");
        move || write(&mut writer, 111, &[(1, 0, &[1])])
    });
    world.wait_for_waiters(1, true);
    let later = thread::spawn(move || write(&mut writer, 111, &[(0, 0, &[0]), (1, 0, &[1])]));
    world.wait_for_waiters(1, false);
    drop(gate);
    expect_applied(earlier.join().unwrap());
    assert_eq!(later.join().unwrap(), Ok(Written::Mismatch));
    assert_eq!((world.next_offsets(), world.applied()), (vec![0, 2, 0], vec![1]));
}

/// Rule: as before, for the statement that writes fences and rows in one: rows only if every fence matches.
#[test]
pub fn fences_and_rows_in_one_statement() {
    let world = World::new("one_statement");
    world.located().takeover(&takeover(111, 2, 0)).expect("a takeover");
    let rows = format!("INSERT INTO applied SELECT 0, u FROM UNNEST($8::bigint[]) u WHERE {}", fence::CONDITION);
    let mut client = world.database.connect();
    let mut types = fence::batch_types().to_vec();
    types.push(postgres::types::Type::INT8_ARRAY);
    let statement = client.prepare_typed(&fence::batch(Found::ByKey, &[&rows]), &types).unwrap();
    let (source, nowhere) = (world.ids.get(TOPIC), Vec::<Place>::new());
    let mut write = |tokens: [i64; 2], expected: [i64; 2], next: [i64; 2]| -> bool {
        let params: &[&(dyn postgres::types::ToSql + Sync)] =
            &[&source, &&[0, 0][..], &&[0_i16, 1][..], &&tokens[..], &&expected[..], &&next[..], &nowhere, &&next[..]];
        client.query_one(&statement, params).unwrap().get(0)
    };
    assert!(!write([111, 222], [0, 0], [3, 4]), "another token in one lane");
    assert!(!write([111, 111], [0, 1], [3, 4]), "another offset in one lane");
    assert_eq!((world.next_offsets(), world.applied()), (vec![0, 0], vec![]));
    assert!(write([111, 111], [0, 0], [3, 4]));
    assert!(!write([111, 111], [0, 0], [3, 4]), "the same again");
    assert_eq!((world.next_offsets(), world.applied()), (vec![3, 4], vec![3, 4]));
}

/// Rule: the number of lanes changes only while no fence lies beyond `done`. Otherwise nobody could say which records
/// above `done` are written already.
#[test]
pub fn lanes_change_once_drained_and_back_again() {
    let world = World::new("relane");
    let mut control = world.located();
    let mut writer = world.writer("w0");
    let lanes = |taken: Result<Taken, Failure>| offsets(&taken.expect("a takeover"));
    assert_eq!(lanes(control.takeover(&takeover(1, 2, 5))), [5, 5]);
    expect_applied(write(&mut writer, 1, &[(0, 5, &[5, 8])]));
    // Lane 0 lies beyond done: a process with four lanes works with the two that are there.
    assert_eq!(lanes(control.takeover(&takeover(2, 4, 0))), [9, 5]);
    assert_eq!(write(&mut writer, 1, &[(1, 5, &[6])]), Ok(Written::Mismatch));
    expect_applied(write(&mut writer, 2, &[(1, 5, &[6])]));
    assert_eq!(control.progress(TOPIC, &[progress(2, 9, &[9, 7])]), Ok(vec![(0, NextOffset(9))]));
    // Drained: every fence is at most at done. The new lanes begin there.
    assert_eq!(lanes(control.takeover(&takeover(3, 4, 0))), [9, 9, 9, 9]);
    assert_eq!(write(&mut writer, 2, &[(0, 9, &[9])]), Ok(Written::Mismatch), "same lane, same offset, old token");
    assert_eq!(lanes(control.takeover(&takeover(4, 2, 0))), [9, 9], "back again: nothing was written meanwhile");
    assert_eq!(lanes(control.takeover(&takeover(5, 4, 0))), [9, 9, 9, 9]);
    expect_applied(write(&mut writer, 5, &[(3, 9, &[10])]));
    assert_eq!(lanes(control.takeover(&takeover(6, 1, 0))), [9, 9, 9, 11], "a rolling restart back must wait");
    let stored: i16 = world.database.connect().query_one("SELECT lanes FROM forebay.partition", &[]).unwrap().get(0);
    assert_eq!(stored, 4, "the anchor says what the fences are");
    let origin: i64 = world.database.connect().query_one("SELECT origin FROM forebay.partition", &[]).unwrap().get(0);
    assert_eq!((origin, world.done()), (5, 9), "the origin never changes");
    assert_eq!(world.applied(), [5, 6, 8, 10]);
}

/// Rule: a worker waiting for a fence that a takeover deletes finds nothing there, although the new lane has its number
/// and stands at the same offset.
#[test]
pub fn a_worker_behind_a_change_of_lanes_does_nothing() {
    let world = World::new("relane_behind");
    world.located().takeover(&takeover(111, 2, 0)).expect("a takeover");
    let source = world.ids.get(TOPIC);
    let mut other = world.database.connect();
    let mut newcomer = begin_takeover(&mut other, source, &takeover(222, 4, 0));
    newcomer.execute(fence::DROP_FENCES.text, &[&source, &0]).unwrap();
    newcomer.execute(fence::MAKE_FENCES.text, &[&source, &0, &4_i16, &0_i64, &222_i64]).unwrap();
    newcomer.execute(fence::SET_LANES.text, &[&source, &0, &4_i16]).unwrap();
    let zombie = write_in_thread(world.writer("w0"), 111, 0, 0);
    world.wait_for_waiters(1, false);
    newcomer.commit().unwrap();
    assert_eq!(zombie.join().unwrap().1, Ok(Written::Mismatch));
    assert_eq!((world.applied(), world.next_offsets()), (vec![], vec![0; 4]));
}

/// Rule: only a takeover creates fences, and only together with their anchor. Invented anew, a lost fence would let records
/// be applied again that it had passed.
#[test]
pub fn lost_fences_stop_the_topic() {
    for (name, damage) in [
        ("lost_one", "DELETE FROM forebay.fence WHERE lane = 1"),
        ("lost_all", "DELETE FROM forebay.fence"),
        ("lost_anchor", "DELETE FROM forebay.partition"),
        ("lost_count", "UPDATE forebay.partition SET lanes = 3"),
    ] {
        let world = World::new(name);
        let mut control = world.located();
        control.takeover(&takeover(111, 2, 0)).expect("a takeover");
        expect_applied(write(&mut world.writer("w0"), 111, &[(1, 0, &[0])]));
        world.database.execute(damage);
        let before = world.fences();
        let result = control.takeover(&takeover(222, 2, 0));
        let Err(Failure::Topic(reason)) = result else { panic!("{name}: {result:?}") };
        assert!(reason.text.contains("forebay fences reset"), "the way on is missing: {reason}");
        assert_eq!(world.fences(), before, "{name}: nothing may be changed");
        let missing = write(&mut world.writer("w0"), 111, &[(0, 0, &[1]), (1, 1, &[2])]);
        if name.ends_with("one") || name.ends_with("all") {
            assert_eq!(missing, Ok(Written::Mismatch), "{name}: a worker never creates a fence");
        }
    }
}

/// Rule: `done` is raised only if every fence is at least where we believe it. A database that fell back under the same
/// token would store, and Kafka would commit, progress that it lost.
#[test]
pub fn progress_finds_a_database_that_fell_back() {
    let world = World::new("fall_back");
    let mut control = world.located();
    control.takeover(&takeover(111, 2, 0)).expect("a takeover");
    let mut writer = world.writer("w0");
    expect_applied(write(&mut writer, 111, &[(0, 0, &[0]), (1, 0, &[1])]));
    assert_eq!(control.progress(TOPIC, &[progress(111, 2, &[1, 2])]), Ok(vec![(0, NextOffset(2))]));
    // As a pooler would do it: the connections stay, the database behind them is another one.
    world.database.execute(
        "CREATE TABLE was_partition AS TABLE forebay.partition; CREATE TABLE was_fence AS TABLE forebay.fence; \
         CREATE TABLE was_applied AS TABLE applied",
    );
    expect_applied(write(&mut writer, 111, &[(0, 1, &[3]), (1, 2, &[4])]));
    assert_eq!(control.progress(TOPIC, &[progress(111, 5, &[4, 5])]), Ok(vec![(0, NextOffset(5))]));
    world.database.execute(
        "BEGIN; TRUNCATE forebay.partition, forebay.fence, applied; INSERT INTO forebay.partition TABLE was_partition; \
         INSERT INTO forebay.fence TABLE was_fence; INSERT INTO applied TABLE was_applied; COMMIT",
    );
    // Nothing moved since, and still the comparison tells.
    assert_eq!(control.progress(TOPIC, &[progress(111, 5, &[4, 5])]), Ok(vec![]));
    assert_eq!(world.done(), 2, "progress was stored that the database lost");
    assert_eq!(write(&mut writer, 111, &[(0, 4, &[6])]), Ok(Written::Mismatch));
    let behind = writer.reread(TOPIC, &[(0, 0)]).expect("the fences");
    assert_eq!(behind[0].next, NextOffset(1), "lower than believed: to be rewound");
    // A database behind by one lane only is found as well.
    assert_eq!(control.progress(TOPIC, &[progress(111, 5, &[1, 5])]), Ok(vec![]));
    assert_eq!(control.progress(TOPIC, &[progress(111, 2, &[1, 2])]), Ok(vec![(0, NextOffset(2))]));
}

/// Rule: stored progress only rises, and one statement serves all partitions, each on its own merits.
#[test]
pub fn progress_of_many_partitions() {
    let world = World::new("progress_many");
    let mut control = world.located();
    for partition in 0..3 {
        let at = TopicPartition { topic: TOPIC, partition };
        let token = Token(100 + i64::from(partition));
        control.takeover(&Takeover { at, token, lanes: 2, begin: NextOffset(10) }).expect("a takeover");
    }
    let of = |partition: i32, token: i64, done: i64| Progress { partition, ..progress(token, done, &[10, 10]) };
    let mut stored = control.progress(TOPIC, &[of(0, 100, 12), of(1, 999, 12), of(2, 102, 7)]).expect("progress");
    stored.sort();
    assert_eq!(stored, [(0, NextOffset(12)), (2, NextOffset(10))], "another's token; and never down");
    assert_eq!(control.progress(TOPIC, &[]), Ok(vec![]));
    let anchors = control.locate(TOPIC, &identity(), &[2, 0, 5]).expect("where the shard stands");
    let found: Vec<_> = anchors.iter().map(|a| a.map(|a| (a.origin.0, a.done.0))).collect();
    assert_eq!(found, [Some((10, 10)), Some((10, 12)), None], "in the order asked for");
}

/// Rule: the comparison reads every fence once, however many partitions there are and whichever plan PostgreSQL takes. It was
/// once asked per partition: 600 of them took two thirds of a second, each second.
#[test]
pub fn the_comparison_reads_each_fence_once() {
    const PARTITIONS: i64 = 200;
    const LANES: i64 = 16;
    let world = World::new("progress_cost");
    let mut control = world.located();
    control.takeover(&takeover(100, LANES as Lane, 10)).expect("the schema and one partition");
    let others = format!(
        "INSERT INTO forebay.partition (source, partition, lanes, token, origin, done, taken_by) \
         SELECT source, p, lanes, token + p, origin, done, taken_by FROM forebay.partition, generate_series(1, {PARTITIONS} - 1) p; \
         INSERT INTO forebay.fence (source, partition, lane, next_offset, token) \
         SELECT source, p, lane, next_offset, token + p FROM forebay.fence, generate_series(1, {PARTITIONS} - 1) p"
    );
    world.database.execute(&others);
    let of = |partition: i64, fence: i64| {
        let fences = vec![NextOffset(fence); LANES as usize];
        Progress { partition: partition as i32, token: Token(100 + partition), done: NextOffset(10), fences }
    };
    // One fell back; all others are as believed.
    let asked: Vec<Progress> = (0..PARTITIONS).map(|p| of(p, if p == 7 { 11 } else { 10 })).collect();
    let stored = control.progress(TOPIC, &asked).expect("progress");
    assert_eq!(stored.len() as i64, PARTITIONS - 1);
    assert!(stored.iter().all(|(partition, done)| *partition != 7 && *done == NextOffset(10)));

    let list = |of: &str| format!("(SELECT array_agg({of} ORDER BY p) FROM generate_series(0, {PARTITIONS} - 1) p)");
    let fences = |of: &str| {
        let all = format!("generate_series(0, {PARTITIONS} - 1) p, generate_series(0, {LANES} - 1) l");
        format!("(SELECT array_agg(({of}) ORDER BY p, l) FROM {all})")
    };
    let lists = [
        (list("p"), "int[]"),
        (list("100 + p"), "bigint[]"),
        (list("10"), "bigint[]"),
        (fences("p"), "int[]"),
        (fences("l"), "smallint[]"),
        (fences("10"), "bigint[]"),
        (fences("100 + p"), "bigint[]"),
    ];
    let mut client = world.database.connect();
    let literals: Vec<String> = lists
        .iter()
        .map(|(sql, _)| client.query_one(&format!("SELECT {sql}::text"), &[]).unwrap().get(0))
        .map(|list: String| format!("'{list}'"))
        .collect();
    let types: Vec<&str> = lists.iter().map(|(_, r#type)| *r#type).collect();
    let prepare = format!("PREPARE progress (int, {}) AS {}", types.join(", "), fence::PROGRESS.text);
    client.batch_execute(&prepare).unwrap();
    for plan in ["force_custom_plan", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {plan}")).unwrap();
        let explain = format!(
            "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, FORMAT JSON) EXECUTE progress ({}, {})",
            world.ids.get(TOPIC),
            literals.join(", ")
        );
        let messages = client.simple_query(&explain).unwrap();
        let text = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
        let explained: serde_json::Value = serde_json::from_str(text.expect("a plan")).unwrap();
        let read = rows_read(&explained[0]["Plan"]);
        assert!(
            read <= 20 * PARTITIONS * LANES,
            "{plan}: {read} rows for {} fences: {explained:#}",
            PARTITIONS * LANES
        );
    }
}

/// The rows that all nodes of an explained plan handled together.
fn rows_read(node: &serde_json::Value) -> i64 {
    let n = |name: &str| node[name].as_i64().unwrap_or(0);
    let removed = n("Rows Removed by Filter") + n("Rows Removed by Join Filter");
    let below: i64 = node["Plans"].as_array().into_iter().flatten().map(rows_read).sum();
    (n("Actual Rows") + removed) * n("Actual Loops") + below
}
