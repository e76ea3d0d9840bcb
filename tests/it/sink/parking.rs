//! Keys that cannot go on: parked by the transaction that moves their fences, with everything that follows them, and nobody else;
//! applied in order by a slow lane, once, when they can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::{BadLimit, Delivery, InsertMode, Table, Target, Then};
use forebay::letters::Filter;
use forebay::letters::discard::discard;
use forebay::letters::replay::replay;
use forebay::sink::handler::{Handler, HandlerError};
use forebay::sink::parked::{self, READ, READ_TYPES};
use forebay::sink::postgres::PostgresWriter;
use forebay::sink::{
    Applied, BadRecord, Care, Control, Drain, DrainLimits, Drained, Failure, FreeKey, Job, SlowLane, ToPark, Waiting,
    Writer, Written,
};
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, RawRecord, RecordRef};
use forebay::state::parked::Why;
use forebay::state::router::key_hash;
use forebay::state::tolerance::Tolerance;
use forebay::types::{Generation, KeyHash, NextOffset, Offset, Token};
use postgres::types::ToSql;
use postgres::{Client, Transaction};

use crate::statements::{AT, TOPIC, World, takeover};
use crate::support::wait_until;
use crate::table::table;

const LIMITS: DrainLimits = DrainLimits { records_max: 500, bytes_max: 1 << 20, key_records_max: usize::MAX };
pub const SKIP: Drain = Drain { tolerance: Some(few(usize::MAX)), then: Then::Skip, parent_tries: 2 };
const PARK: Drain = Drain { then: Then::Park, ..SKIP };

/// So many dead letters in a row.
const fn few(run_max: usize) -> Tolerance {
    Tolerance::new(BadLimit { run_max, percent_max: 100 })
}

fn upserts() -> Target {
    Target::Table(Table { delete_field: Some("gone".to_owned()), ..table("target", InsertMode::Upsert, &["id"]) })
}

/// Rows 1 to 9 are there. Locks are waited for as long as it takes to tell.
pub fn world(name: &str) -> (World, PostgresWriter) {
    let world = World::with(name, |config| {
        config.shards[0].lock_timeout = Duration::from_millis(300);
        config.topics[0].target = upserts();
    });
    world.database.execute(
        "CREATE TABLE target (id int PRIMARY KEY, v int CHECK (v < 100), u int UNIQUE, p int REFERENCES target); \
         CREATE TABLE child (of_target int REFERENCES target); INSERT INTO target SELECT i, 0 FROM generate_series(1, 9) i",
    );
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let writer = world.writer("w0");
    (world, writer)
}

/// What a batch waits for a locked row is bounded by what else could be done, and never longer than the connection itself allows.
#[test]
fn nobody_waits_long_for_a_lock_where_keys_can_be_parked() {
    let waits = |delivery, lock_ms, own: &str, park_ms| {
        let world = World::with("park_after", |config| {
            config.shards[0].lock_timeout = Duration::from_millis(lock_ms);
            config.shards[0].dsn.0.push_str(own);
            config.engine.park_after = Duration::from_millis(park_ms);
            config.topics[0].delivery = delivery;
            config.topics[0].target = upserts();
        });
        world.database.execute("CREATE TABLE target (id int PRIMARY KEY, v int); INSERT INTO target VALUES (1, 0)");
        world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
        let mut holder = world.database.connect();
        let mut lock = holder.transaction().unwrap();
        lock.execute("UPDATE target SET v = 1", &[]).unwrap();
        let (mut writer, start) = (world.writer("w0"), Instant::now());
        let refused = Try::new(0, &[("a", r#"{"id":1,"v":2}"#)]).run(&mut writer);
        assert!(matches!(refused, Err(Failure::LockWait(_))), "{refused:?}");
        start.elapsed().as_millis()
    };
    let (once, least) = (Delivery::ExactlyOnce, Delivery::AtLeastOnce);
    assert!(waits(once, 20_000, "", 100) < 5000);
    assert!(waits(once, 20_000, " options='-c lock_timeout=50'", 15_000) < 5000);
    assert!(waits(least, 1000, "", 100) >= 1000);
}

/// Records (key, payload) of lane 0, from offset `from` on. One whose payload begins with a space names no tenant; one that ends with
/// a space was stamped in nanoseconds.
fn batch(from: i64, records: &[(&str, &str)]) -> Batch {
    let mut chunk = Chunk::new(TOPIC);
    let run = chunk.open_run(AT, 0, Generation(1), Token(1), NextOffset(from));
    for (at, (key, payload)) in records.iter().enumerate() {
        let (key, value) = ((!key.is_empty()).then_some(key.as_bytes()), Some(payload.as_bytes()));
        let timestamp_ms = if payload.ends_with(' ') { 1_700_000_000_123_456_789 } else { 1_700_000_000_123 };
        let record = RawRecord { offset: Offset(from + at as i64), timestamp_ms, key, value, headers: &[] };
        chunk.push(run, at as u64, 0, &record);
        if payload.starts_with(' ') {
            chunk.mark_unroutable("the tenant cannot be read: no field");
        }
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    batch
}

fn hash(key: &str) -> KeyHash {
    key_hash(Some(key.as_bytes()), Offset(0))
}

/// One transaction for these records. With `free`, the keys that are believed free; with `care`, as after a lock time-out.
pub struct Try<'a> {
    from: i64,
    records: &'a [(&'a str, &'a str)],
    park: &'a [usize],
    free: &'a [&'a str],
    care: Option<(bool, Then)>,
    room: u64,
}

impl<'a> Try<'a> {
    pub fn new(from: i64, records: &'a [(&'a str, &'a str)]) -> Try<'a> {
        Try { from, records, park: &[], free: &[], care: None, room: 1000 }
    }

    pub fn probing(from: i64, records: &'a [(&'a str, &'a str)], then: Then) -> Try<'a> {
        Try { care: Some((true, then)), ..Try::new(from, records) }
    }

    pub fn run(&self, writer: &mut PostgresWriter) -> Result<Written, Failure> {
        let (batch, mut moves) = (batch(self.from, self.records), Vec::new());
        batch.moves(batch.len(), &mut moves);
        let park: Vec<ToPark> = self.park.iter().map(|index| ToPark { index: *index, why: Why::Held }).collect();
        let free = |key: &&str| FreeKey { partition: AT.partition, token: Token(1), hash: hash(key) };
        let free: Vec<FreeKey> = self.free.iter().map(free).collect();
        let job = Job { batch: &batch, range: 0..batch.len(), moves: &moves, park: &park, free: &free };
        match self.care {
            None => writer.write(&job),
            Some((probe, then)) => {
                let mut all = |_: &[BadRecord]| true;
                let care = Care { probe, refused: false, then, room: self.room, tolerates: &mut all };
                writer.write_with_care(&job, care)
            }
        }
    }

    /// Which records were parked although the job did not say so.
    #[track_caller]
    pub fn parks(&self, writer: &mut PostgresWriter) -> Vec<usize> {
        match self.run(writer) {
            Ok(Written::Applied(Applied { parked, .. })) => parked.iter().map(|p| p.index).collect(),
            other => panic!("{other:?}"),
        }
    }
}

/// `id:v` of the rows that are not as they were, what is parked as `key:offset` (`!` behind a dead letter), the offsets of other dead
/// letters, and the fence.
#[track_caller]
fn check(world: &World, rows: &str, parked: &str, letters: &str, fence: i64) {
    let mut client = world.database.connect();
    let mut text =
        |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default() };
    let found = (
        text("SELECT string_agg(concat_ws(':', id, v), ' ' ORDER BY id) FROM target WHERE v <> 0 OR id > 9"),
        text(
            "SELECT string_agg(concat(convert_from(key, 'UTF8'), ':', \"offset\", CASE state WHEN 'd' THEN '!' END), ' ' \
             ORDER BY \"offset\") FROM forebay.parked",
        ),
        text("SELECT string_agg(\"offset\"::text, ' ' ORDER BY \"offset\") FROM forebay.dead_letter"),
        text("SELECT next_offset::text FROM forebay.fence"),
    );
    let found = (found.0.as_str(), found.1.as_str(), found.2.as_str(), found.3.as_str());
    assert_eq!(found, (rows, parked, letters, fence.to_string().as_str()));
}

/// A session that has executed this in a transaction, and holds what it locked until it is rolled back.
pub fn holding(world: &World, sql: &str) -> Client {
    let mut client = world.database.connect();
    client.batch_execute(&format!("BEGIN; {sql}")).unwrap();
    client
}

fn read(lane: &mut PostgresWriter, keys: &[&str]) -> Vec<Waiting> {
    let keys: Vec<(i32, KeyHash)> = keys.iter().map(|key| (AT.partition, hash(key))).collect();
    lane.read(TOPIC, &keys, LIMITS).expect("what is parked can be read")
}

/// Reads and applies what is parked of these keys.
pub fn drain(lane: &mut PostgresWriter, keys: &[&str], how: Drain) -> Result<Vec<Drained>, Failure> {
    let waiting = read(lane, keys);
    lane.drain(TOPIC, &waiting, &mut how.clone())
}

fn taken(rows: u64) -> Drained {
    Drained::Taken { rows, dead: 0 }
}

pub fn waits(outcome: &Drained) -> bool {
    matches!(outcome, Drained::Waits { .. })
}

#[test]
pub fn a_row_that_somebody_holds_parks_its_key_and_nobody_else() {
    let (world, mut writer) = world("parking_row");
    let mut other = holding(&world, "UPDATE target SET v = 50 WHERE id = 1");
    let records = [
        ("a", r#"{"id": 1, "v": 1}"#),
        ("b", r#"{"id": 2, "v": 2}"#),
        ("a", r#"{"id": 1, "v": 3}"#),
        // Another row of the key: it follows, too.
        ("a", r#"{"id": 3, "v": 4}"#),
        ("c", r#"{"id": 10, "v": 5}"#),
    ];
    let plain = Try::new(0, &records).run(&mut writer);
    assert!(matches!(plain, Err(Failure::LockWait(_))), "{plain:?}");
    check(&world, "", "", "", 0);
    let before = Instant::now();
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0, 2, 3]);
    assert!(before.elapsed() < Duration::from_millis(250), "a probe waits for no row: {:?}", before.elapsed());
    check(&world, "2:2 10:5", "a:0 a:2 a:3", "", 5);
    // What follows it goes the same way, in one statement with what does not.
    let later = [("b", r#"{"id": 2, "v": 6}"#), ("a", r#"{"id": 1, "v": 7}"#)];
    Try { park: &[1], ..Try::new(5, &later) }.run(&mut writer).expect("nothing is in the way");
    check(&world, "2:6 10:5", "a:0 a:2 a:3 a:6", "", 7);
    let mut lane = world.writer("s0");
    assert!(waits(&drain(&mut lane, &["a"], SKIP).unwrap()[0]));
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(drain(&mut lane, &["a"], SKIP), Ok(vec![taken(4)]));
    check(&world, "1:7 2:6 3:4 10:5", "", "", 7);
    assert_eq!((read(&mut lane, &["a"]), lane.tidy()), (vec![], Ok(())));
}

#[test]
pub fn keys_that_meet_in_a_row_wait_together() {
    let (world, mut writer) = world("parking_meet");
    let _other = holding(&world, "UPDATE target SET v = 50 WHERE id = 1");
    let records = [
        ("a", r#"{"id": 1, "v": 1}"#),
        ("b", r#"{"id": 2, "v": 2}"#),
        // b meets c, and c meets a in the row that is locked.
        ("c", r#"{"id": 2, "u": 3}"#),
        ("c", r#"{"id": 1, "u": 4}"#),
        ("d", r#"{"id": 3, "v": 5}"#),
    ];
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0, 1, 2, 3]);
    check(&world, "3:5", "a:0 b:1 c:2 c:3", "", 5);
}

#[test]
pub fn a_delete_needs_a_stronger_lock_than_an_update() {
    let (world, mut writer) = world("parking_delete");
    let mut other = holding(&world, "INSERT INTO child VALUES (1)");
    assert_eq!(Try::probing(0, &[("a", r#"{"id": 1, "v": 1}"#)], Then::Skip).parks(&mut writer), [0; 0]);
    assert_eq!(Try::probing(1, &[("a", r#"{"id": 1, "gone": true}"#)], Then::Skip).parks(&mut writer), [0]);
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(drain(&mut world.writer("s0"), &["a"], SKIP), Ok(vec![taken(1)]));
    let left: i64 = world.database.connect().query_one("SELECT count(*) FROM target", &[]).unwrap().get(0);
    assert_eq!(left, 8);
}

/// Neither parking nor a probe helps against it, and it is nobody's key's fault.
#[test]
pub fn a_table_that_is_locked_as_a_whole_parks_nobody() {
    let (world, mut writer) = world("parking_table");
    let mut other = holding(&world, "LOCK TABLE target IN SHARE MODE");
    let records = [("a", r#"{"id": 1, "v": 1}"#)];
    let result = Try::probing(0, &records, Then::Skip).run(&mut writer);
    let Err(Failure::LockedOut(reason)) = result else { panic!("{result:?}") };
    assert!(reason.text.contains("locked the table \"public\".\"target\" as a whole"), "{reason}");
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0; 0]);
}

/// A takeover, or a transaction of ours that is still in flight, has the fences.
#[test]
pub fn fences_that_are_locked_park_nobody() {
    let (world, mut writer) = world("parking_fences");
    let _other = holding(&world, "SELECT FROM forebay.fence FOR NO KEY UPDATE");
    let result = Try::probing(0, &[("a", r#"{"id": 1, "v": 1}"#)], Then::Skip).run(&mut writer);
    assert!(matches!(result, Err(Failure::LockedOut(_))), "{result:?}");
}

/// A value of a unique index that somebody else has inserted and not committed: no row shows it, so a second time-out follows.
#[test]
pub fn what_no_probe_shows_is_parked_with_all_its_batch() {
    let (world, mut writer) = world("parking_unique");
    let mut other = holding(&world, "INSERT INTO target VALUES (100, 1, 77)");
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("b", r#"{"id": 2, "u": 77}"#)];
    let second = Try::probing(0, &records, Then::Skip).run(&mut writer);
    assert!(matches!(second, Err(Failure::LockWait(_))), "{second:?}");
    Try { park: &[0, 1], ..Try::new(0, &records) }.run(&mut writer).expect("nothing is written but what is parked");
    check(&world, "", "a:0 b:1", "", 2);
    let mut lane = world.writer("s0");
    let together = drain(&mut lane, &["a", "b"], SKIP);
    assert!(matches!(together, Err(Failure::LockWait(_))), "{together:?}");
    assert_eq!(drain(&mut lane, &["a"], SKIP), Ok(vec![taken(1)]));
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(drain(&mut lane, &["b"], SKIP), Ok(vec![taken(1)]));
    check(&world, "1:1", "", "", 2);
}

#[test]
pub fn a_batch_that_mixes_locked_rows_and_bad_records_ends_right() {
    let (world, mut writer) = world("parking_mixed");
    let _other = holding(&world, "UPDATE target SET v = 50 WHERE id = 1");
    let records = [
        ("a", r#"{"id": 1, "v": 1}"#),
        ("b", r#"{"id": 2, "v": 2}"#),
        // Bad, and behind a record that waits: what it is shows in its turn.
        ("a", r#"{"id": 1, "v": 500}"#),
        ("b", r#"{"id": 5, "v": 500}"#),
        ("", r#"{"id": 3, "v": "x"}"#),
        ("b", r#"{"id": 2, "v": 6}"#),
        ("a", "{"),
        ("c", r#"{"id": 4, "v": 8}"#),
    ];
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0, 2, 6]);
    check(&world, "2:6 4:8", "a:0 a:2 a:6", "3 4", 8);
}

#[test]
pub fn a_dead_letter_may_block_its_key() {
    let (world, mut writer) = world("parking_dead");
    let records = [
        ("a", r#"{"id": 1, "v": 1}"#),
        ("a", r#"{"id": 1, "v": 500}"#),
        ("b", "{"),
        ("a", r#"{"id": 1, "v": 3}"#),
        ("a", "{"),
        ("", r#"{"id": 2, "v": 500}"#),
        ("b", r#"{"id": 3, "v": 6}"#),
        ("c", r#"{"id": 4, "v": 7}"#),
    ];
    let care = Some((false, Then::Park));
    assert_eq!(Try { care, ..Try::new(0, &records) }.parks(&mut writer), [1, 2, 3, 4, 5, 6]);
    // A record without a key blocks nothing but itself.
    check(&world, "1:1 4:7", "a:1! b:2! a:3 a:4 :5! b:6", "", 8);
    let mut lane = world.writer("s0");
    assert!(read(&mut lane, &["a", "b"]).iter().all(|key| key.dead && key.records.is_empty()));
    // Mended by a person: it goes on, up to the next one that is at fault.
    world.database.execute(
        "ALTER TABLE target DROP CONSTRAINT target_v_check; UPDATE forebay.parked SET state = 'w' WHERE \"offset\" = 1",
    );
    let drained = drain(&mut lane, &["a"], PARK).unwrap();
    assert!(matches!(&drained[..], [Drained::Dead { rows: 2, .. }]), "{drained:?}");
    check(&world, "1:3 4:7", "b:2! a:4! :5! b:6", "", 8);
}

/// A key behind a dead letter is looked at again and again: not at what waits there, however much that is.
#[test]
fn what_waits_behind_a_dead_letter_stays_where_it_is() {
    let (world, mut writer) = world("parking_dead_read");
    let padded = format!(r#"{{"id": 1, "v": 500, "x": "{}"}}"#, "x".repeat(10_000));
    let records: Vec<(&str, &str)> = (0..100).map(|n| (if n % 2 == 0 { "a" } else { "b" }, &*padded)).collect();
    Try { park: &(0..100).collect::<Vec<_>>(), ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    world.database.execute("UPDATE forebay.parked SET state = 'd' WHERE \"offset\" = 0");
    let mut client = world.database.connect();
    let source: i32 = client.query_one("SELECT id FROM forebay.source", &[]).unwrap().get(0);
    let (partitions, hashes) = ([0, 0], [hash("a"), hash("b")]);
    let params: [&(dyn ToSql + Sync); 5] = [&source, &&partitions[..], &&hashes[..], &500i64, &1_000_000i64];
    let rows = client.query_typed(READ, &parked::typed(&params, &READ_TYPES)).unwrap();
    let mut bytes = [0, 0];
    for row in &rows {
        let all = (5..8).filter_map(|column| row.get::<_, Option<&[u8]>>(column)).map(<[u8]>::len).sum::<usize>();
        bytes[(row.get::<_, i64>(0) - 1) as usize] += all;
    }
    assert_eq!((rows.len(), bytes), (1 + 50, [0, 50 * (padded.len() + 1)]), "half a megabyte less of the one");
    let keys = read(&mut world.writer("s0"), &["a", "b"]);
    assert_eq!([keys[0].records.len(), keys[1].records.len()], [0, 50]);
}

/// Whoever replays or discards letters that block their keys tells the processes at work, and nobody else does.
#[test]
fn what_a_person_decides_about_letters_shows() {
    let (world, mut writer) = world("parking_decided");
    let care = Some((false, Then::Park));
    assert_eq!(Try { care, ..Try::new(0, &[("a", "{"), ("b", "{")]) }.parks(&mut writer), [0, 1]);
    let mut control = world.located();
    let mut letters = || control.decided(TOPIC).expect("an answer").letters;
    let (first, again) = (letters(), letters());
    let topic = &world.config.topics[0];
    let of = |key: &str| Filter { key: Some(key.to_owned()), ..Filter::default() };
    replay(&world.config, topic, &of("nobody's"), false).expect("nothing to do");
    assert_eq!([again, letters()], [first; 2]);
    replay(&world.config, topic, &of("a"), false).expect("a letter");
    let replayed = letters();
    discard(&world.config, &of("b")).expect("a letter");
    let discarded = letters();
    assert!(first != replayed && replayed != discarded, "{first} {replayed} {discarded}");
    check(&world, "", "a:0", "1", 2);
}

#[test]
pub fn the_slow_lane_makes_dead_letters_too() {
    let (world, mut writer) = world("parking_letters");
    let records =
        [("a", r#"{"id": 1, "v": 1}"#), ("a", r#"{"id": 2, "v": 500}"#), ("a", r#"{"id": 1, "v": 3}"#), ("b", "{")];
    Try { park: &[0, 1, 2, 3], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    check(&world, "", "a:0 a:1 a:2 b:3", "", 4);
    let drained = drain(&mut world.writer("s0"), &["a", "b"], SKIP);
    assert_eq!(drained, Ok(vec![Drained::Taken { rows: 3, dead: 1 }, Drained::Taken { rows: 1, dead: 1 }]));
    check(&world, "1:3", "", "1 3", 4);
    // Where they stop the topic instead, nothing is done.
    Try { park: &[0, 1], ..Try::new(4, &records[..2]) }.run(&mut writer).expect("parked");
    let stop = Drain { tolerance: None, ..SKIP };
    let stopped = drain(&mut world.writer("s1"), &["a"], stop);
    let Err(Failure::Record(None, reason)) = stopped else { panic!("{stopped:?}") };
    assert!(reason.text.starts_with("partition 0 offset 5: "), "{reason}");
    check(&world, "1:3", "a:4 a:5", "1 3", 6);
}

/// A bad deploy whose records are parked does not drain into dead letters: beyond the limit nothing is done.
#[test]
fn the_slow_lane_tolerates_as_many_letters_as_a_worker() {
    let (world, mut writer) = world("parking_limit");
    let bad = r#"{"id": 2, "v": 500}"#;
    let records = [("a", bad), ("a", bad), ("b", r#"{"id": 3, "v": 1}"#), ("c", "{"), ("d", r#"{"id": 9, "p": 99}"#)];
    Try { park: &[0, 1, 2, 3, 4], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let mut lane = world.writer("s0");
    #[track_caller]
    fn exceeds(result: Result<Vec<Drained>, Failure>) {
        let Err(Failure::Record(None, reason)) = result else { panic!("{result:?}") };
        let limit = "; stopping because of more than 2 bad records in a row (on_bad_record.run_max)";
        assert!(reason.text.starts_with("partition 0 offset ") && reason.text.ends_with(limit), "{reason}");
    }
    // Two in a row, then a good one; and in one transaction all that is in between.
    let mut two = Drain { tolerance: Some(few(2)), ..SKIP };
    exceeds(drain(&mut lane, &["a", "c"], two));
    check(&world, "", "a:0 a:1 b:2 c:3 d:4", "", 5);
    let first = read(&mut lane, &["a"]);
    assert_eq!(lane.drain(TOPIC, &first, &mut two), Ok(vec![Drained::Taken { rows: 2, dead: 2 }]));
    // What was committed before counts.
    exceeds(drain(&mut lane, &["c"], two));
    let (b, c) = (read(&mut lane, &["b"]), read(&mut lane, &["c"]));
    assert_eq!(lane.drain(TOPIC, &b, &mut two), Ok(vec![taken(1)]));
    assert_eq!(lane.drain(TOPIC, &c, &mut two), Ok(vec![Drained::Taken { rows: 1, dead: 1 }]));
    // A missing parent is no letter before the last try.
    let mut none = Drain { tolerance: Some(few(0)), ..SKIP };
    let d = read(&mut lane, &["d"]);
    assert!(waits(&lane.drain(TOPIC, &d, &mut none).unwrap()[0]));
    let refused = drain(&mut lane, &["d"], none);
    assert!(matches!(&refused, Err(Failure::Record(None, reason)) if reason.text.contains("run_max")), "{refused:?}");
    check(&world, "3:1", "d:4", "0 1 3", 5);
    assert_eq!(drain(&mut lane, &["d"], two), Ok(vec![Drained::Taken { rows: 1, dead: 1 }]));
}

/// Where their keys wait behind them, too; but one that a person wanted tried again is no more letters than before.
#[test]
fn a_letter_that_is_replayed_in_vain_is_not_one_more() {
    let (world, mut writer) = world("parking_replayed");
    let records = [("a", r#"{"id": 1, "v": 500}"#), ("b", "{"), ("c", r#"{"id": 3, "v": 500}"#)];
    Try { park: &[0, 1, 2], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let mut lane = world.writer("s0");
    let two = Drain { tolerance: Some(few(2)), ..PARK };
    assert!(matches!(drain(&mut lane, &["a", "b", "c"], two), Err(Failure::Record(None, _))));
    check(&world, "", "a:0 b:1 c:2", "", 3);
    assert!(drain(&mut lane, &["a", "b"], two).is_ok());
    check(&world, "", "a:0! b:1! c:2", "", 3);
    world.database.execute("UPDATE forebay.parked SET state = 'w', sqlstate = NULL, error = NULL WHERE state = 'd'");
    let again = drain(&mut lane, &["a", "b", "c"], two).expect("one letter more");
    assert!(again.iter().all(|key| matches!(key, Drained::Dead { rows: 0, .. })), "{again:?}");
    check(&world, "", "a:0! b:1! c:2!", "", 3);
}

#[test]
pub fn a_missing_parent_is_waited_for_and_then_at_fault() {
    let (world, mut writer) = world("parking_parent");
    let records = [
        ("a", r#"{"id": 20, "v": 1, "p": 30}"#),
        ("b", r#"{"id": 21, "v": 1, "p": 31}"#),
        ("c", r#"{"id": 1, "v": 1}"#),
    ];
    let care = Some((false, Then::Skip));
    assert_eq!(Try { care, ..Try::new(0, &records) }.parks(&mut writer), [0, 1]);
    check(&world, "1:1", "a:0 b:1", "", 3);
    let mut lane = world.writer("s0");
    world.database.execute("INSERT INTO target VALUES (30, 1)");
    let patient = Drain { parent_tries: 3, ..SKIP };
    let drained = drain(&mut lane, &["a", "b"], patient).unwrap();
    assert!(drained[0] == taken(1) && waits(&drained[1]), "{drained:?}");
    check(&world, "1:1 20:1 30:1", "b:1", "", 3);
    assert_eq!(read(&mut lane, &["b"])[0].tries, 2);
    assert_eq!(drain(&mut lane, &["b"], patient), Ok(vec![Drained::Taken { rows: 1, dead: 1 }]));
    check(&world, "1:1 20:1 30:1", "", "1", 3);
}

/// Its parent is parked, too, and all of them are tried together: refused for the sake of the orphan, the halves hide the parent from
/// its child. So nobody is at fault for a missing parent beside others.
#[test]
pub fn a_parent_beside_its_child_is_not_missing() {
    let (world, mut writer) = world("parking_hidden_parent");
    let records = [
        ("child", r#"{"id": 20, "v": 1, "p": 30}"#),
        ("orphan", r#"{"id": 21, "v": 1, "p": 31}"#),
        ("parent", r#"{"id": 30, "v": 1}"#),
    ];
    let care = Some((false, Then::Skip));
    assert_eq!(Try { care, park: &[2], ..Try::new(0, &records) }.parks(&mut writer), [0, 1]);
    let mut lane = world.writer("s0");
    assert!(read(&mut lane, &["child"]).iter().all(|key| SKIP.is_last_try(key.tries)));
    let drained = drain(&mut lane, &["child", "orphan", "parent"], SKIP).unwrap();
    assert!(waits(&drained[1]) && drained[2] == taken(1), "{drained:?}");
    check(&world, "30:1", "child:0 orphan:1", "", 3);
    assert_eq!(drain(&mut lane, &["child"], SKIP), Ok(vec![taken(1)]));
    assert_eq!(drain(&mut lane, &["orphan"], SKIP), Ok(vec![Drained::Taken { rows: 1, dead: 1 }]));
    check(&world, "20:1 30:1", "", "1", 3);
}

#[test]
pub fn a_key_is_free_only_when_nothing_of_it_is_parked() {
    let (world, mut writer) = world("parking_free");
    Try { park: &[0], ..Try::new(0, &[("a", r#"{"id": 1, "v": 1}"#)]) }.run(&mut writer).expect("parked");
    let next = [("a", r#"{"id": 1, "v": 2}"#)];
    let free = Try { free: &["b", "a"], ..Try::new(1, &next) };
    assert_eq!(free.run(&mut writer), Ok(Written::NotFree));
    check(&world, "", "a:0", "", 1);
    drain(&mut world.writer("s0"), &["a"], SKIP).expect("applied");
    assert!(matches!(free.run(&mut writer), Ok(Written::Applied(_))));
    check(&world, "1:2", "", "", 2);
}

/// What would be parked beyond the limit is not: nothing of its batch happens.
#[test]
fn no_more_is_parked_than_there_is_room_for() {
    let (world, mut writer) = world("parking_room");
    let records = [("a", r#"{"id": 20, "p": 30}"#), ("b", r#"{"id": 21, "p": 31}"#), ("c", r#"{"id": 1, "v": 1}"#)];
    let care = Some((false, Then::Skip));
    let full = Try { care, room: 1, ..Try::new(0, &records) }.run(&mut writer);
    let Err(Failure::NoRoom(reason)) = full else { panic!("{full:?}") };
    assert!(reason.text.contains("room for 1 more"), "{reason}");
    check(&world, "", "", "", 0);
    assert_eq!(Try { care, room: 2, ..Try::new(0, &records) }.parks(&mut writer), [0, 1]);
}

/// A producer that means nanoseconds writes a time that no table takes. That is no reason to stop.
#[test]
fn an_absurd_timestamp_is_none() {
    let (world, mut writer) = world("parking_time");
    let records = [("a", r#"{"id": 1, "v": 1} "#), ("a", r#"{"id": 2, "v": 500} "#)];
    Try { park: &[0, 1], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    assert_eq!(drain(&mut world.writer("s0"), &["a"], SKIP), Ok(vec![Drained::Taken { rows: 2, dead: 1 }]));
    check(&world, "1:1", "", "1", 2);
}

/// A producer whose clock runs ahead would make it as old as nothing for that long.
#[test]
fn what_is_parked_is_at_least_as_old_as_that() {
    let (world, mut writer) = world("parking_ahead");
    Try { park: &[0], ..Try::new(0, &[("a", r#"{"id":1,"v":1}"#)]) }.run(&mut writer).expect("parked");
    let mut control = world.located();
    let mut timestamp = || control.oldest_parked(TOPIC, &[AT.partition]).expect("an answer")[0].timestamp_ms;
    assert_eq!(timestamp(), 1_700_000_000_123);
    world.database.execute("UPDATE forebay.parked SET ts = now() + interval '50 minutes'");
    let parked_at = timestamp();
    let mut client = world.database.connect();
    let sql = "SELECT (extract(epoch FROM parked_at) * 1000)::bigint FROM forebay.parked";
    assert_eq!(parked_at, client.query_one(sql, &[]).unwrap().get::<_, i64>(0));
}

/// A dead letter is replayed when its table has been mended: the slow lane looks at the table again.
#[test]
fn the_slow_lane_sees_that_a_table_was_altered() {
    let (world, mut writer) = world("parking_altered");
    let care = Some((false, Then::Park));
    let records = [("a", r#"{"id": 1, "u": "x"}"#), ("a", r#"{"id": 2, "v": 2}"#)];
    assert_eq!(Try { care, ..Try::new(0, &records) }.parks(&mut writer), [0, 1]);
    let mut lane = world.writer("s0");
    let replay = || world.database.execute("UPDATE forebay.parked SET state = 'w' WHERE state = 'd'");
    replay();
    assert!(matches!(drain(&mut lane, &["a"], PARK).as_deref(), Ok([Drained::Dead { rows: 0, .. }])));
    world.database.execute("ALTER TABLE target ALTER u TYPE text");
    wait_until(Duration::from_secs(30), "the record to fit", || {
        replay();
        drain(&mut lane, &["a"], PARK) == Ok(vec![taken(2)])
    });
    check(&world, "2:2", "", "", 2);
}

/// It follows its key into the table, and what it is, it is there, too.
#[test]
fn what_names_no_shard_is_applied_by_nobody() {
    let (world, mut writer) = world("parking_unroutable");
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("a", r#" {"id": 2, "v": 2}"#), ("a", r#"{"id": 3, "v": 3}"#)];
    Try { park: &[0, 1, 2], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    assert_eq!(drain(&mut world.writer("s0"), &["a"], SKIP), Ok(vec![Drained::Taken { rows: 3, dead: 1 }]));
    check(&world, "1:1 3:3", "", "1", 3);
    let error: String =
        world.database.connect().query_one("SELECT error FROM forebay.dead_letter", &[]).unwrap().get(0);
    assert_eq!(error, "the tenant cannot be read: no field");
}

/// Both have read the same rows.
#[test]
pub fn two_slow_lanes_do_not_apply_the_same_rows() {
    let (world, mut writer) = world("parking_two");
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("a", r#"{"id": 1, "v": 2}"#)];
    Try { park: &[0, 1], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let (mut one, mut two) = (world.writer("s0"), world.writer("s1"));
    let (first, second) = (read(&mut one, &["a"]), read(&mut two, &["a"]));
    assert_eq!(one.drain(TOPIC, &first[..], &mut SKIP.clone()), Ok(vec![taken(2)]));
    assert_eq!(two.drain(TOPIC, &second[..], &mut SKIP.clone()), Ok(vec![Drained::Busy]));
    check(&world, "1:2", "", "", 2);
}

/// A database that fell back has rows again that lie before what was read, or no longer all of what was read.
#[test]
pub fn what_was_read_must_be_what_is_there() {
    let (world, mut writer) = world("parking_back");
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("a", r#"{"id": 1, "v": 2}"#), ("a", r#"{"id": 1, "v": 3}"#)];
    Try { park: &[0, 1, 2], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let mut lane = world.writer("s0");
    world
        .database
        .execute("CREATE TABLE kept AS TABLE forebay.parked; DELETE FROM forebay.parked WHERE \"offset\" = 0");
    let behind = read(&mut lane, &["a"]);
    world.database.execute("INSERT INTO forebay.parked SELECT * FROM kept ON CONFLICT DO NOTHING");
    assert_eq!(lane.drain(TOPIC, &behind, &mut SKIP.clone()), Ok(vec![Drained::Busy]));
    let all = read(&mut lane, &["a"]);
    world.database.execute("DELETE FROM forebay.parked WHERE \"offset\" = 2");
    let result = lane.drain(TOPIC, &all, &mut SKIP.clone());
    assert!(matches!(result, Err(Failure::Transient(_))), "{result:?}");
    check(&world, "", "a:0 a:1", "", 3);
}

#[test]
pub fn a_takeover_finds_what_is_parked() {
    let (world, mut writer) = world("parking_takeover");
    let records = [("a", r#"{"id": 1, "v": 1}"#), ("b", r#"{"id": 2, "v": 2}"#), ("a", r#"{"id": 1, "v": 3}"#)];
    Try { park: &[0, 1, 2], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let taken = world.located().takeover(&takeover(2, 1, 0)).expect("a takeover");
    let mut found: Vec<(KeyHash, i64, u64, Why)> =
        taken.parked.iter().map(|tail| (tail.hash, tail.offset.0, tail.rows, tail.why)).collect();
    let mut expected = vec![(hash("a"), 2, 2, Why::Held), (hash("b"), 1, 1, Why::Held)];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let late = Try { park: &[0], ..Try::new(3, &records[..1]) }.run(&mut writer);
    assert_eq!(late, Ok(Written::Mismatch), "its token is out of date");
    check(&world, "", "a:0 b:1 a:2", "", 3);
}

/// What a handler has to say about each record is in its value: the row that it updates.
struct Updating;

impl Handler for Updating {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for record in records {
            let id: i32 =
                std::str::from_utf8(record.value.unwrap_or_default()).ok().and_then(|v| v.parse().ok()).unwrap_or(0);
            transaction.execute("UPDATE target SET v = $2 WHERE id = $1", &[&id, &(record.offset.0 as i32 + 1)])?;
        }
        Ok(())
    }
}

#[test]
pub fn a_handlers_key_that_waits_for_a_lock_is_parked() {
    let world = World::with("parking_handler", |config| config.shards[0].lock_timeout = Duration::from_millis(300));
    world.database.execute("CREATE TABLE target (id int PRIMARY KEY, v int CHECK (v < 100)); INSERT INTO target SELECT i, 0 FROM generate_series(1, 9) i");
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let make = || world.writer_of("w0", Arc::new(|| Box::new(Updating)));
    let (mut writer, mut lane) = (make(), make());
    let mut other = holding(&world, "UPDATE target SET v = 50 WHERE id = 1");
    let records = [("a", "2"), ("b", "3"), ("a", "1"), ("b", "4"), ("a", "5")];
    let plain = Try::new(0, &records).run(&mut writer);
    assert!(matches!(plain, Err(Failure::LockWait(_))), "{plain:?}");
    // Its records are one piece: what it did before the lock is undone with the rest.
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0, 2, 4]);
    check(&world, "3:2 4:4", "a:0 a:2 a:4", "", 5);
    assert!(waits(&drain(&mut lane, &["a"], SKIP).unwrap()[0]));
    other.batch_execute("ROLLBACK").unwrap();
    assert_eq!(drain(&mut lane, &["a"], SKIP), Ok(vec![taken(3)]));
    check(&world, "1:3 2:1 3:2 4:4 5:5", "", "", 5);
}

/// What names no shard is no record for a handler either: a letter, or it waits where its key waits.
#[test]
fn a_handler_is_not_given_what_names_no_shard() {
    let world = World::with("parking_handler_unroutable", |config| {
        config.shards[0].lock_timeout = Duration::from_millis(300);
    });
    world.database.execute(
        "CREATE TABLE target (id int PRIMARY KEY, v int); INSERT INTO target SELECT i, 0 FROM generate_series(1, 9) i",
    );
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let mut writer = world.writer_of("w0", Arc::new(|| Box::new(Updating)));
    let mut other = holding(&world, "UPDATE target SET v = 50 WHERE id = 1");
    let records = [("a", "1"), ("a", " 2"), ("b", " 3"), ("c", "4")];
    assert_eq!(Try::probing(0, &records, Then::Skip).parks(&mut writer), [0, 1]);
    check(&world, "4:4", "a:0 a:1", "2", 4);
    let care = Some((false, Then::Park));
    assert_eq!(Try { care, ..Try::new(4, &[("d", " 5"), ("d", "6")]) }.parks(&mut writer), [0, 1]);
    check(&world, "4:4", "a:0 a:1 d:4! d:5", "2", 6);
    other.batch_execute("ROLLBACK").unwrap();
    let mut lane = world.writer_of("s0", Arc::new(|| Box::new(Updating)));
    assert_eq!(drain(&mut lane, &["a"], SKIP), Ok(vec![Drained::Taken { rows: 2, dead: 1 }]));
    check(&world, "1:1 4:4", "d:4! d:5", "1 2", 6);
}

/// Asks for another try of one key's records as long as a row says so.
struct Asking;

impl Handler for Asking {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        let asks = |record: &RecordRef<'_>| record.key == Some(b"b");
        if records.iter().any(asks) && transaction.query_opt("SELECT FROM target WHERE id = 99", &[])?.is_some() {
            return Err(HandlerError::Retry("not yet".to_owned()));
        }
        Updating.handle(transaction, records)
    }
}

/// The whole lot fails, with nothing done; what the loop makes of that, each key by itself, keeps only that one.
#[test]
fn a_handler_that_asks_for_another_try_keeps_its_key_only() {
    let world = World::new("parking_handler_retry");
    world.database.execute(
        "CREATE TABLE target (id int PRIMARY KEY, v int); INSERT INTO target SELECT i, 0 FROM generate_series(1, 3) i; \
         INSERT INTO target VALUES (99, 0)",
    );
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let mut writer = world.writer_of("w0", Arc::new(|| Box::new(Asking)));
    let records = [("a", "1"), ("b", "2"), ("c", "3")];
    Try { park: &[0, 1, 2], ..Try::new(0, &records) }.run(&mut writer).expect("parked");
    let mut lane = world.writer_of("s0", Arc::new(|| Box::new(Asking)));
    let all = drain(&mut lane, &["a", "b", "c"], SKIP);
    assert!(matches!(all, Err(Failure::Transient(_))), "{all:?}");
    let each: Vec<_> = ["a", "b", "c"].map(|key| drain(&mut lane, &[key], SKIP)).into();
    assert!(
        matches!(&each[..], [Ok(a), Err(Failure::Transient(_)), Ok(c)] if *a == [taken(1)] && *c == [taken(1)]),
        "{each:?}"
    );
    world.database.execute("DELETE FROM target WHERE id = 99");
    assert_eq!(drain(&mut lane, &["b"], SKIP), Ok(vec![taken(1)]));
}
