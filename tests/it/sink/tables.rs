//! Batches for a table: rows and fences in one transaction, whatever the number of statements, and tables that are altered
//! while records flow.

use std::time::{Duration, Instant};

use forebay::config::{Config, Delivery, InsertMode, Table, Target, UnknownFields};
use forebay::sink::postgres::PostgresWriter;
use forebay::sink::{Applied, Control, Failure, Job, Writer, Written};
use forebay::state::batch::Batch;
use forebay::state::chunk::{Chunk, RawRecord};
use forebay::types::{Generation, NextOffset, Offset, Token};

use crate::statements::{AT, TOPIC, World, takeover};
use crate::support::wait_until;
use crate::table::table;

fn deletable(unknown_fields: UnknownFields) -> Table {
    Table { delete_enabled: true, unknown_fields, ..table("target", InsertMode::Upsert, &["id"]) }
}

fn world(name: &str, unknown_fields: UnknownFields, change: impl FnOnce(&mut Config)) -> (World, PostgresWriter) {
    let world = World::with(name, |config| {
        config.topics[0].target = Target::Table(deletable(unknown_fields));
        change(config);
    });
    world.database.execute("CREATE TABLE target (id int PRIMARY KEY, a text, b int)");
    world.located().takeover(&takeover(1, 1, 0)).expect("a takeover");
    let writer = world.writer("w0");
    (world, writer)
}

/// Writes payloads (`id`, JSON; none is a tombstone) as consecutive records of lane 0 from `from` on.
fn write(writer: &mut PostgresWriter, from: i64, payloads: &[(i32, Option<&str>)]) -> Result<Written, Failure> {
    let mut chunk = Chunk::new(TOPIC);
    let run = chunk.open_run(AT, 0, Generation(1), Token(1), NextOffset(from));
    for (at, (id, payload)) in payloads.iter().enumerate() {
        let key = format!("{{\"id\": {id}}}");
        let record = RawRecord {
            offset: Offset(from + at as i64),
            timestamp_ms: -1,
            key: Some(key.as_bytes()),
            value: payload.map(str::as_bytes),
            headers: &[],
        };
        chunk.push(run, at as u64, 0, &record);
    }
    let mut batch = Batch::new();
    batch.push(Box::new(chunk));
    let mut moves = Vec::new();
    batch.moves(batch.len(), &mut moves);
    writer.write(&Job::plain(&batch, 0..batch.len(), &moves))
}

/// `target` as JSON, by id, and lane 0's fence.
#[track_caller]
fn check(world: &World, rows: &str, fence: i64) {
    let mut client = world.database.connect();
    let found: String = client
        .query_one("SELECT coalesce(string_agg(to_jsonb(t)::text, ' ' ORDER BY id), '') FROM target t", &[])
        .unwrap()
        .get(0);
    let next: i64 = client.query_one("SELECT next_offset FROM forebay.fence", &[]).unwrap().get(0);
    assert_eq!((found.as_str(), next), (rows, fence));
}

const FIRST: &[(i32, Option<&str>)] =
    &[(1, Some(r#"{"id": 1, "a": "x", "b": 1}"#)), (2, Some(r#"{"id": 2, "a": "y", "b": 2}"#))];
const FIRST_ROWS: &str = r#"{"a": "x", "b": 1, "id": 1} {"a": "y", "b": 2, "id": 2}"#;

#[test]
pub fn one_kind_of_row_is_one_statement() {
    let (world, mut writer) = world("table_one", UnknownFields::Ignore, |_| {});
    let result = write(&mut writer, 0, FIRST);
    assert!(matches!(result, Ok(Written::Applied(Applied { counts, .. })) if counts.upserted == 2), "{result:?}");
    check(&world, FIRST_ROWS, 2);
    // The same again, from where the fence was: nothing, not even other values.
    assert_eq!(write(&mut writer, 0, &[(1, Some(r#"{"id": 1, "a": "z", "b": 9}"#))]), Ok(Written::Mismatch));
    check(&world, FIRST_ROWS, 2);
}

/// A batch that needs several statements: deletes, and rows with other columns.
#[test]
pub fn several_kinds_of_rows_are_one_transaction() {
    let (world, mut writer) = world("table_several", UnknownFields::Ignore, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    let mixed = [(1, None), (2, Some(r#"{"id": 2, "b": 7}"#)), (3, Some(r#"{"id": 3, "a": "n", "b": 3}"#))];
    assert_eq!(write(&mut writer, 1, &mixed), Ok(Written::Mismatch), "the fence is at 2");
    check(&world, FIRST_ROWS, 2);
    let result = write(&mut writer, 2, &mixed);
    assert!(
        matches!(result, Ok(Written::Applied(Applied { counts: c, .. })) if (c.upserted, c.deleted) == (2, 1)),
        "{result:?}"
    );
    let rows = r#"{"a": "y", "b": 7, "id": 2} {"a": "n", "b": 3, "id": 3}"#;
    check(&world, rows, 5);
    // One of the later statements is refused: the earlier ones go with it, and so do the fences.
    world.database.execute("ALTER TABLE target ADD CHECK (b < 100)");
    let refused = write(
        &mut writer,
        5,
        &[(3, None), (2, Some(r#"{"id": 2, "b": 500}"#)), (4, Some(r#"{"id": 4, "a": "q", "b": 4}"#))],
    );
    let Err(Failure::Record(None, reason)) = refused else { panic!("{refused:?}") };
    assert_eq!(reason.sqlstate.as_deref(), Some("23514"));
    check(&world, rows, 5);
    let result = write(&mut writer, 5, &[(3, None)]);
    assert!(matches!(result, Ok(Written::Applied(_))), "the connection still works: {result:?}");
}

#[test]
pub fn at_least_once_writes_rows_only() {
    let (world, mut writer) = world("table_alo", UnknownFields::Ignore, |config| {
        config.topics[0].delivery = Delivery::AtLeastOnce;
    });
    for _ in 0..2 {
        assert!(matches!(write(&mut writer, 0, FIRST), Ok(Written::Applied(_))));
    }
    check(&world, FIRST_ROWS, 0);
    assert!(matches!(write(&mut writer, 0, &[(1, None), (2, Some(r#"{"id": 2, "b": 8}"#))]), Ok(Written::Applied(_))));
    check(&world, r#"{"a": "y", "b": 8, "id": 2}"#, 0);
}

#[test]
pub fn a_bad_record_is_named_and_nothing_is_written() {
    let (world, mut writer) = world("table_bad", UnknownFields::Ignore, |_| {});
    let result = write(&mut writer, 0, &[FIRST[0], (2, Some(r#"{"id": 2, "b": "blue"}"#))]);
    assert!(matches!(result, Err(Failure::Record(Some(1), _))), "{result:?}");
    check(&world, "", 0);
    // Refused by PostgreSQL, alone: there is no doubt which.
    world.database.execute("ALTER TABLE target ADD CHECK (b < 100)");
    let result = write(&mut writer, 0, &[(2, Some(r#"{"id": 2, "b": 500}"#))]);
    assert!(matches!(result, Err(Failure::Record(Some(0), _))), "{result:?}");
    check(&world, "", 0);
}

/// What PostgreSQL refuses because a column went away or changed is tried once more, with a fresh look at the table.
#[test]
pub fn a_table_that_is_altered_while_records_flow() {
    let (world, mut writer) = world("table_altered", UnknownFields::Ignore, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    world.database.execute("ALTER TABLE target DROP COLUMN b");
    let result = write(&mut writer, 2, &[(1, Some(r#"{"id": 1, "a": "new", "b": 3}"#))]);
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
    check(&world, r#"{"a": "new", "id": 1} {"a": "y", "id": 2}"#, 3);
    world.database.execute("ALTER TABLE target ALTER a TYPE uuid USING NULL");
    let result = write(&mut writer, 3, &[(1, Some(r#"{"id": 1, "a": "6f1c1d3e-0d5c-4a43-9c5e-111111111111"}"#))]);
    assert!(matches!(result, Ok(Written::Applied(_))), "{result:?}");
    check(&world, r#"{"a": "6f1c1d3e-0d5c-4a43-9c5e-111111111111", "id": 1} {"a": null, "id": 2}"#, 4);
}

/// A column that is new, or wider than it was, is found before a record is blamed for it.
#[test]
pub fn a_table_that_grew() {
    let (world, mut writer) = world("table_grew", UnknownFields::Error, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    let begin = Instant::now();
    world.database.execute("ALTER TABLE target ADD COLUMN c text; ALTER TABLE target ALTER b TYPE bigint");
    let grown = [(1, Some(r#"{"id": 1, "a": "x", "b": 5000000000, "c": "z"}"#))];
    let mut last = write(&mut writer, 2, &grown);
    wait_until(Duration::from_secs(20), "the new columns to be seen", || {
        if !matches!(last, Ok(Written::Applied(_))) {
            last = write(&mut writer, 2, &grown);
        }
        matches!(last, Ok(Written::Applied(_)))
    });
    assert!(begin.elapsed() < Duration::from_secs(10), "a plan is trusted for five seconds");
    check(&world, r#"{"a": "x", "b": 5000000000, "c": "z", "id": 1} {"a": "y", "b": 2, "c": null, "id": 2}"#, 3);
}

#[test]
pub fn a_table_that_is_gone_or_forbidden_stops_the_topic() {
    let (world, mut writer) = world("table_gone", UnknownFields::Ignore, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    world.database.execute("ALTER TABLE target RENAME TO elsewhere");
    for _ in 0..2 {
        let result = write(&mut writer, 2, &[(3, Some(r#"{"id": 3}"#))]);
        let Err(Failure::Topic(reason)) = result else { panic!("{result:?}") };
        assert!(reason.text.contains("target") && reason.text.starts_with("topic \"topic\""), "{reason}");
    }
    world.database.execute("ALTER TABLE elsewhere RENAME TO target");
    let result = write(&mut writer, 2, &[(3, Some(r#"{"id": 3}"#))]);
    assert!(matches!(result, Ok(Written::Applied(_))), "it is back: {result:?}");
}

/// A database that fell back to before forebay's tables existed: not a broken table, but fences that do not match.
#[test]
pub fn tables_of_ours_that_fell_back_to_nothing() {
    let (world, mut writer) = world("table_fell_back", UnknownFields::Ignore, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    world.database.execute("DROP SCHEMA forebay CASCADE");
    assert_eq!(write(&mut writer, 2, &[(3, Some(r#"{"id": 3}"#))]), Ok(Written::Mismatch));
}

/// A killed connection is an outage, and the next write connects again and prepares everything anew.
#[test]
pub fn a_lost_connection_is_replaced() {
    let (world, mut writer) = world("table_lost", UnknownFields::Ignore, |_| {});
    write(&mut writer, 0, FIRST).expect("the first rows");
    world.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay/group/w0' AND \
         datname = current_database()",
    );
    let more = [(3, Some(r#"{"id": 3, "a": "z", "b": 3}"#))];
    let mut results = vec![write(&mut writer, 2, &more)];
    if matches!(results[0], Err(Failure::Outage(_))) {
        results.push(write(&mut writer, 2, &more));
    }
    assert!(matches!(results.last(), Some(Ok(Written::Applied(_)))), "{results:?}");
    check(&world, &format!(r#"{FIRST_ROWS} {{"a": "z", "b": 3, "id": 3}}"#), 3);
}
