//! A batch with bad records among good ones: exactly the bad ones are dead letters, in the transaction that moves the fences,
//! and the good ones are applied in order.

use std::sync::Arc;

use forebay::config::{InsertMode, Target, Then};
use forebay::sink::handler::{Handler, HandlerError};
use forebay::sink::postgres::PostgresWriter;
use forebay::sink::{Applied, BadRecord, Care, Control, Failure, Job, Writer, Written};
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, Headers, RawRecord, RecordRef};
use forebay::types::{Generation, NextOffset, Offset, Token};
use postgres::Transaction;

use crate::statements::{AT, TOPIC, World, takeover};
use crate::table::table;

fn world(name: &str, sql: &str) -> (World, PostgresWriter) {
    let world = World::with(name, |config| {
        config.topics[0].target = Target::Table(table("target", InsertMode::Upsert, &["id"]));
    });
    world.database.execute(sql);
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let writer = world.writer("w0");
    (world, writer)
}

fn batch(from: i64, payloads: &[&str]) -> Batch {
    let mut headers = Vec::new();
    Headers::pack(&mut headers, "trace", Some(b"\0\xff"));
    let mut chunk = Chunk::new(TOPIC);
    let run = chunk.open_run(AT, 0, Generation(1), Token(1), NextOffset(from));
    for (at, payload) in payloads.iter().enumerate() {
        let record = RawRecord {
            offset: Offset(from + at as i64),
            timestamp_ms: 1_700_000_000_123,
            key: Some(b"\0key"),
            value: Some(payload.as_bytes()),
            headers: &headers,
        };
        chunk.push(run, at as u64, 0, &record);
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    batch
}

/// Sifts the payloads as consecutive records from `from` on. Also returns what `tolerates` was shown.
fn sift(
    writer: &mut PostgresWriter,
    from: i64,
    payloads: &[&str],
    tolerated: bool,
) -> (Result<Written, Failure>, Vec<usize>) {
    let batch = batch(from, payloads);
    let mut moves = Vec::new();
    batch.moves(batch.len(), &mut moves);
    let mut shown = Vec::new();
    let mut tolerates = |bad: &[BadRecord]| {
        shown = bad.iter().map(|b| b.index).collect();
        tolerated
    };
    let (then, room) = (Then::Skip, 1000);
    let care = Care { probe: false, refused: false, then, room, tolerates: &mut tolerates };
    let result = writer.write_with_care(&Job::plain(&batch, 0..batch.len(), &moves), care);
    (result, shown)
}

/// Rows of `target`, letters as `offset SQLSTATE`, and the fence.
#[track_caller]
fn check(world: &World, rows: &str, letters: &str, fence: i64) {
    let mut client = world.database.connect();
    let mut text =
        |sql: &str| -> String { client.query_one(sql, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default() };
    let found = text("SELECT string_agg(concat_ws(':', id, v), ' ' ORDER BY id) FROM target");
    let dead = text(
        "SELECT string_agg(concat_ws(':', \"offset\", sqlstate), ' ' ORDER BY \"offset\") FROM forebay.dead_letter",
    );
    let next = text("SELECT next_offset::text FROM forebay.fence");
    assert_eq!((found.as_str(), dead.as_str(), next.as_str()), (rows, letters, fence.to_string().as_str()));
}

#[test]
pub fn exactly_the_bad_ones_and_each_once() {
    let (world, mut writer) =
        world("letters", "CREATE TABLE target (id int PRIMARY KEY, v int NOT NULL CHECK (v < 100), w varchar(3))");
    let payloads = [
        r#"{"id": 1, "v": 1}"#,
        r#"{"id": 2, "v": "#,
        r#"{"id": 1, "v": 500}"#,
        r#"{"id": 3, "v": 3}"#,
        r#"{"id": 3, "v": 4, "w": "long"}"#,
        // Partial, and without a row that it could update.
        r#"{"id": 4}"#,
        r#"{"id": 1, "v": 7}"#,
        r#"{"id": 5, "v": 500}"#,
    ];
    let (all, mut moves) = (batch(0, &payloads), Vec::new());
    all.moves(payloads.len(), &mut moves);
    let plain = writer.write(&Job::plain(&all, 0..payloads.len(), &moves));
    assert!(matches!(plain, Err(Failure::Record(Some(1), _))), "{plain:?}");
    let (result, shown) = sift(&mut writer, 0, &payloads, true);
    assert!(matches!(result, Ok(Written::Applied(Applied { counts, .. })) if counts.dead == 5), "{result:?}");
    assert_eq!(shown, [1, 2, 4, 5, 7]);
    check(&world, "1:7 3:3", "1 2:23514 4 5:23502 7:23514", 8);
    let row = world
        .database
        .connect()
        .query_one(
            "SELECT topic, partition, ts::text, key, payload, headers FROM forebay.dead_letter WHERE \"offset\" = 2",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i32>(1), row.get(3)), (AT.partition, b"\0key".to_vec()));
    assert!(row.get::<_, String>(2).contains(".123"), "milliseconds");
    assert_eq!(row.get::<_, Vec<u8>>(4), payloads[2].as_bytes());
    let headers: Vec<u8> = row.get(5);
    assert_eq!(Headers(&headers).get("trace"), Some(Some(&b"\0\xff"[..])));
    // The same again finds the fence elsewhere, and leaves no letter.
    assert_eq!(sift(&mut writer, 0, &payloads, true).0, Ok(Written::Mismatch));
    check(&world, "1:7 3:3", "1 2:23514 4 5:23502 7:23514", 8);
}

/// Rows of one kind and what does not decode are a single statement, unless PostgreSQL refuses another one of them.
#[test]
pub fn what_does_not_decode_needs_no_search() {
    let (world, mut writer) =
        world("letters_decode", "CREATE TABLE target (id int PRIMARY KEY, v int CHECK (v < 100))");
    let payloads = [r#"{"id": 1, "v": 1}"#, "{", r#"{"id": 2, "v": 2}"#, r#"{"id": "x", "v": 2}"#];
    for expected in [Ok(true), Err(()), Ok(false)] {
        let (result, shown) = sift(&mut writer, 0, &payloads, expected.is_ok());
        let applied = match &result {
            Ok(Written::Applied(Applied { counts, .. })) => Ok((counts.upserted, counts.dead) == (2, 2)),
            Ok(Written::Mismatch) => Ok(false),
            Err(Failure::Record(Some(1), _)) => Err(()),
            other => panic!("{other:?}"),
        };
        assert_eq!((applied, shown), (expected, vec![1, 3]), "{result:?}");
        check(&world, "1:1 2:2", "1 3", 4);
    }
    let (result, shown) = sift(&mut writer, 4, &["{", r#"{"id": 1, "v": 100}"#, r#"{"id": 3, "v": 3}"#], true);
    assert!(
        matches!(result, Ok(Written::Applied(Applied { counts, .. })) if (counts.upserted, counts.dead) == (1, 2)),
        "{result:?}"
    );
    assert_eq!(shown, [0, 1]);
    check(&world, "1:1 2:2 3:3", "1 3 4 5:23514", 7);
}

#[test]
pub fn too_many_are_none() {
    let (world, mut writer) = world("letters_many", "CREATE TABLE target (id int PRIMARY KEY, v int CHECK (v < 100))");
    let payloads = [r#"{"id": 1, "v": 1}"#, r#"{"id": 2, "v": 200}"#, r#"{"id": 3, "v": 300}"#];
    let (result, shown) = sift(&mut writer, 0, &payloads, false);
    assert!(matches!(result, Err(Failure::Record(Some(1), _))), "{result:?}");
    assert_eq!(shown, [1, 2]);
    check(&world, "", "", 0);
    assert!(matches!(sift(&mut writer, 0, &payloads, true).0, Ok(Written::Applied(_))), "the connection still works");
    check(&world, "1:1", "1:23514 2:23514", 3);
}

#[test]
pub fn what_is_checked_at_commit_is_found_before() {
    let sql = "CREATE TABLE target (id int PRIMARY KEY, v int, UNIQUE (v) DEFERRABLE INITIALLY DEFERRED)";
    let (world, mut writer) = world("letters_deferred", sql);
    let payloads = [r#"{"id": 1, "v": 1}"#, r#"{"id": 2, "v": 1}"#, r#"{"id": 3, "v": 3}"#];
    let (result, _) = sift(&mut writer, 0, &payloads, true);
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
    check(&world, "1:1 3:3", "1:23505", 3);
}

#[test]
pub fn a_parent_may_come_later_in_the_batch_and_a_missing_one_is_waited_for() {
    let sql = "CREATE TABLE target (id int PRIMARY KEY, v int REFERENCES target DEFERRABLE INITIALLY DEFERRED)";
    let (world, mut writer) = world("letters_parent", sql);
    // Halving separates the child from its parent.
    let payloads =
        [r#"{"id": 1, "v": 4}"#, r#"{"id": 2}"#, r#"{"id": 3, "v": "x"}"#, r#"{"id": 4}"#, r#"{"id": 2147483648}"#];
    let (result, _) = sift(&mut writer, 0, &payloads, true);
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
    check(&world, "1:4 2 4", "2 4", 5);
    let (result, shown) = sift(&mut writer, 5, &[r#"{"id": 6}"#, r#"{"id": 7, "v": 99}"#, "{"], true);
    let Ok(Written::Applied(Applied { parked, .. })) = result else { panic!("{result:?}") };
    // It and what is behind it of its key; whether that is bad shows in its turn.
    assert_eq!((parked.iter().map(|p| p.index).collect::<Vec<_>>(), shown.len()), (vec![1, 2], 0));
    check(&world, "1:4 2 4 6", "2 4", 8);
    let sql = "SELECT string_agg(concat_ws(':', \"offset\", state, sqlstate, attempts), ' ' ORDER BY \"offset\") FROM forebay.parked";
    let parked: String = world.database.connect().query_one(sql, &[]).unwrap().get(0);
    assert_eq!(parked, "6:w:23503:1 7:w:0");
}

/// A statement that takes too long, or is cancelled, says nothing about the records of a batch; alone, about the record.
#[test]
pub fn what_takes_too_long_is_bad_only_alone() {
    let slow = "CREATE TABLE target (id int PRIMARY KEY, v int); CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN IF NEW.v = 7 THEN RAISE SQLSTATE '57014'; END IF; RETURN NEW; END $$; \
                CREATE TRIGGER slow BEFORE INSERT ON target FOR EACH ROW EXECUTE FUNCTION slow()";
    let (world, mut writer) = world("letters_slow", slow);
    let (result, shown) = sift(&mut writer, 0, &[r#"{"id": 1}"#, r#"{"id": 2, "v": 7}"#], true);
    assert!(matches!(result, Err(Failure::TooLong(_))), "{result:?}");
    assert_eq!(shown, [0; 0]);
    check(&world, "", "", 0);
    let (result, _) = sift(&mut writer, 0, &[r#"{"id": 2, "v": 7}"#], true);
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
    check(&world, "", "0:57014", 1);
}

/// Each piece is checked at its end; within the next one what may wait for COMMIT still waits.
#[test]
pub fn what_is_deferred_stays_deferred_from_piece_to_piece() {
    // A partial upsert and a full one are two statements: the child comes first.
    let sql = "CREATE TABLE target (id int PRIMARY KEY, v int REFERENCES target DEFERRABLE INITIALLY DEFERRED, w int CHECK (w < 9))";
    let (world, mut writer) = world("letters_pieces", sql);
    let child = |id: i32| format!(r#"{{"id": {id}, "v": {}}}"#, id + 1);
    let parent = |id: i32| format!(r#"{{"id": {id}, "v": null, "w": 1}}"#);
    let payloads = [child(1), parent(2), child(3), parent(4), r#"{"id": 9, "w": 10}"#.to_owned(), child(5), parent(6)];
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let (result, _) = sift(&mut writer, 0, &payloads, true);
    assert!(matches!(result, Ok(Written::Applied(Applied { counts, .. })) if counts.dead == 1), "{result:?}");
    check(&world, "1:2 2 3:4 4 5:6 6", "4:23514", 7);
}

/// Refuses what its payload says, each in another way.
struct Refusing(u32);

impl Handler for Refusing {
    fn handle(&mut self, transaction: &mut Transaction<'_>, records: &[RecordRef<'_>]) -> Result<(), HandlerError> {
        for (index, record) in records.iter().enumerate() {
            self.0 += 1;
            transaction.execute("INSERT INTO applied VALUES ($1, $2)", &[&record.partition, &record.offset.0])?;
            match record.value.unwrap_or_default() {
                b"database" => drop(transaction.execute("SELECT 1 / 0", &[])?),
                b"named" => return Err(HandlerError::record(index, "not\0this")),
                b"panic" => panic!("boom"),
                _ => {}
            }
        }
        Ok(())
    }
}

#[test]
pub fn a_handlers_bad_records_are_found_as_well() {
    let world = World::new("letters_handler");
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let mut writer = world.writer_of("w0", Arc::new(|| Box::new(Refusing(0))));
    let payloads = ["", "database", "", "", "named", "", "panic", ""];
    let (result, shown) = sift(&mut writer, 0, &payloads, true);
    assert!(
        matches!(result, Ok(Written::Applied(Applied { counts, .. })) if (counts.upserted, counts.dead) == (5, 3)),
        "{result:?}"
    );
    assert_eq!(shown, [1, 4, 6]);
    assert_eq!(world.applied(), [0, 2, 3, 5, 7]);
    let mut client = world.database.connect();
    let errors: String = client
        .query_one("SELECT string_agg(error, ' | ' ORDER BY \"offset\") FROM forebay.dead_letter", &[])
        .unwrap()
        .get(0);
    let parts = ["division by zero", "not\u{fffd}this", "panicked: boom"];
    assert!(parts.iter().all(|part| errors.contains(part)), "{errors}");
}
