//! What each mode does, step by step.

use forebay::config::{ColumnSource, InsertMode, UnknownFields};

use super::{Record, Refused, database, plan, rows, table, tombstone, value, write, writer};

#[test]
fn an_upsert_leaves_absent_columns_alone() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, b int DEFAULT 7, g int GENERATED ALWAYS AS (id * 2) STORED)").unwrap();
    let mut writer = writer(&mut client, &table("t", InsertMode::Upsert, &["id"]));
    let counts = write(
        &mut client,
        &mut writer,
        &[value(r#"{"id":1,"a":"x"}"#), value(r#"{"id":2,"a":"y","b":null,"g":5}"#), value(r#"{"id":2,"b":3}"#)],
    )
    .unwrap();
    assert_eq!((counts.upserted, counts.deleted, counts.folded), (2, 0, 1));
    assert_eq!(rows(&mut client, "t"), ["(1,x,7,2)", "(2,y,3,4)"]);
    // A partial write to a row that is there, although `a` may not be null.
    write(&mut client, &mut writer, &[value(r#"{"id":1,"b":8}"#)]).unwrap();
    assert_eq!(rows(&mut client, "t"), ["(1,x,8,2)", "(2,y,3,4)"]);
    // And to one that is not.
    let refused = write(&mut client, &mut writer, &[value(r#"{"id":3,"b":8}"#)]);
    assert_eq!(refused, Err(Refused::Database("23502".into())));
}

#[test]
fn deletes_by_key_by_format_and_by_field() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE TABLE t (a uuid, b text, n int, PRIMARY KEY (a, b))").unwrap();
    let a = "7f3e4a10-0000-4000-8000-00000000002a";
    let mut table = table("t", InsertMode::Upsert, &["a", "b"]);
    table.delete_enabled = true;
    table.delete_field = Some("gone".into());
    let mut by_json = writer(&mut client, &table);
    table.key_format = Some("{a}:{b}".into());
    let mut by_format = writer(&mut client, &table);
    let row = |b: &str, more: &str| value(&format!(r#"{{"a":"{a}","b":"{b}"{more}}}"#));
    write(
        &mut client,
        &mut by_json,
        &[row("1", ""), row("2", ""), row("3", ""), row("x:y", ""), row("5", r#","gone":false"#)],
    )
    .unwrap();
    let counts = write(
        &mut client,
        &mut by_json,
        &[tombstone(&format!(r#"{{"b":"1","a":"{a}"}}"#)), row("2", r#","gone":true,"n":"no number""#)],
    )
    .unwrap();
    assert_eq!((counts.upserted, counts.deleted), (0, 2));
    write(&mut client, &mut by_format, &[tombstone(&format!("{a}:x:y"))]).unwrap();
    assert_eq!(rows(&mut client, "t"), [format!("({a},3,)"), format!("({a},5,)")]);
    // In one batch: what is written after a delete begins with defaults.
    write(
        &mut client,
        &mut by_format,
        &[
            row("3", r#","n":1"#),
            row("3", r#","n":2,"gone":true"#),
            row("3", ""),
            row("5", r#","n":5"#),
            tombstone(&format!("{a}:5")),
        ],
    )
    .unwrap();
    assert_eq!(rows(&mut client, "t"), [format!("({a},3,)")]);
}

#[test]
fn update_and_insert() {
    let (_database, mut client) = database();
    client
        .batch_execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, v varchar(3), w numeric(6,2)); INSERT INTO t VALUES (1), (2)",
        )
        .unwrap();
    let mut update = writer(&mut client, &table("t", InsertMode::Update, &["id"]));
    write(
        &mut client,
        &mut update,
        &[
            value(r#"{"id":1,"v":"abc"}"#),
            value(r#"{"id":1,"w":1.234}"#),
            value(r#"{"id":3,"v":"no"}"#),
            value(r#"{"id":2}"#),
        ],
    )
    .unwrap();
    assert_eq!(rows(&mut client, "t"), ["(1,abc,1.23)", "(2,,)"]);
    let mut insert = writer(&mut client, &table("t", InsertMode::Insert, &[]));
    write(&mut client, &mut insert, &[value(r#"{"id":4}"#), value(r#"{"id":5,"v":"x"}"#)]).unwrap();
    assert_eq!(rows(&mut client, "t").len(), 4);
    assert_eq!(write(&mut client, &mut insert, &[value(r#"{"id":4}"#)]), Err(Refused::Database("23505".into())));
}

#[test]
fn guard_and_unchanged() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int, j json, at timestamptz)").unwrap();
    let mut guarded = table("t", InsertMode::Upsert, &["id"]);
    guarded.guard = Some("at".into());
    let mut guarded = writer(&mut client, &guarded);
    let record = |v: i32, second: i32| value(&format!(r#"{{"id":1,"v":{v},"at":"2024-01-01T00:00:0{second}Z"}}"#));
    write(&mut client, &mut guarded, &[record(1, 5), record(2, 4), record(3, 5)]).unwrap();
    write(&mut client, &mut guarded, &[record(4, 5), record(5, 3)]).unwrap();
    assert_eq!(rows(&mut client, "(SELECT v FROM t)"), ["(1)"]);
    write(&mut client, &mut guarded, &[record(6, 6)]).unwrap();
    assert_eq!(rows(&mut client, "(SELECT v FROM t)"), ["(6)"]);
    let without = write(&mut client, &mut guarded, &[record(7, 7), value(r#"{"id":1,"v":8}"#)]);
    assert_eq!(without, Err(Refused::Record(1, r#"column "at": expected a value of the guard, found nothing"#.into())));

    let mut unchanged = table("t", InsertMode::Upsert, &["id"]);
    unchanged.skip_unchanged = true;
    let mut unchanged = writer(&mut client, &unchanged);
    let place =
        |client: &mut postgres::Client| client.query_one("SELECT ctid::text FROM t", &[]).unwrap().get::<_, String>(0);
    write(&mut client, &mut unchanged, &[value(r#"{"id":1,"v":8,"j":[1]}"#)]).unwrap();
    let before = place(&mut client);
    write(&mut client, &mut unchanged, &[value(r#"{"id":1,"v":8,"j":[1]}"#)]).unwrap();
    assert_eq!(place(&mut client), before);
    write(&mut client, &mut unchanged, &[value(r#"{"id":1,"v":9,"j":[1]}"#)]).unwrap();
    assert_ne!(place(&mut client), before);
}

#[test]
fn metadata_and_pointers() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE SCHEMA \"My \"\"S\"; CREATE TABLE \"My \"\"S\".\"T'\" (\"O\"\"\" int, p int, at timestamptz, ms bigint, k text, h bytea, h2 text DEFAULT 'd', country text, \"select\" text, x text, PRIMARY KEY (p, \"O\"\"\"))").unwrap();
    let mut table = table("T'", InsertMode::Upsert, &["p", "O\""]);
    table.schema = Some("My \"S".into());
    for (column, source) in [
        ("O\"", ColumnSource::Offset),
        ("p", ColumnSource::Partition),
        ("at", ColumnSource::Timestamp),
        ("ms", ColumnSource::Timestamp),
        ("k", ColumnSource::Key),
        ("h", ColumnSource::Header("trace".into())),
        ("h2", ColumnSource::Header("other".into())),
        ("country", ColumnSource::Pointer(vec!["geo".into(), "country".into()])),
        ("x", ColumnSource::Ignore),
    ] {
        table.columns.insert(column.into(), source);
    }
    let mut writer = writer(&mut client, &table);
    let first = Record {
        key: Some("k1".into()),
        headers: vec![("trace".into(), Some(vec![0, 255]))],
        ..value(r#"{"geo":{"city":"B","country":"DE"},"select":"s","x":"never","more":[{"geo":1}]}"#)
    };
    write(&mut client, &mut writer, &[first, Record { timestamp_ms: -1, ..value(r#"{"geo":null}"#) }]).unwrap();
    client.batch_execute("SET timezone = 'UTC'").unwrap();
    let name = r#""My ""S"."T'""#;
    assert_eq!(
        rows(&mut client, name),
        [r#"(100,3,"2023-11-14 22:13:20.123+00",1700000000123,k1,"\\x00ff",d,DE,s,)"#, "(101,3,,,,,d,,,)"]
    );
}

#[test]
fn bad_records_are_named_without_their_values() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, seats int NOT NULL, tag varchar(3), j jsonb)").unwrap();
    let mut strict = table("t", InsertMode::Upsert, &["id"]);
    strict.unknown_fields = UnknownFields::Error;
    strict.delete_field = Some("gone".into());
    let mut writer = writer(&mut client, &strict);
    let deep = format!(r#"{{"id":1,"seats":1,"j":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for (payload, reason) in [
        (r#"{"id":1,"seats":"secret"}"#, r#"column "seats": expected integer, found a string that is not a number"#),
        (r#"{"id":1,"seats":1.5}"#, r#"column "seats": expected integer, found a number with a fraction"#),
        (r#"{"id":1,"seats":null}"#, r#"column "seats": expected a value (NOT NULL), found null"#),
        (r#"{"seats":1}"#, r#"column "id": expected a value of the key, found nothing"#),
        (r#"{"id":null,"seats":1}"#, r#"column "id": expected a value of the key, found null"#),
        (
            r#"{"id":1,"seats":1,"tag":"secret"}"#,
            r#"column "tag": expected character varying(3), found a string that is too long"#,
        ),
        (r#"{"id":1,"seats":1,"extra":"secret"}"#, r#"field "extra": no column of that name"#),
        (r#"{"id":1,"seats":1,"gone":"secret"}"#, "the delete field: expected a boolean, found a string"),
        (r#"{"id":1,"seats""#, "the payload: not valid JSON at line 1, column 15"),
        (r#"{"id":1,"seats":1} x"#, "the payload: not valid JSON at line 1, column 20"),
        (r#"["secret"]"#, "the payload: expected a JSON object, found an array"),
        ("null", "the payload: expected a JSON object, found null"),
        ("\"secret\"", "the payload: expected a JSON object, found a string"),
        ("", "the payload: not valid JSON at line 1, column 0"),
        (deep.as_str(), r#"column "j": expected jsonb, found a document nested more than 128 levels deep"#),
    ] {
        let refused = write(&mut client, &mut writer, &[value(r#"{"id":9,"seats":1}"#), value(payload)]);
        assert_eq!(refused, Err(Refused::Record(1, reason.into())), "{payload}");
    }
    let refused = write(&mut client, &mut writer, &[tombstone("1")]);
    assert!(matches!(refused, Err(Refused::Record(0, reason)) if reason.starts_with("a null value")));
    assert!(rows(&mut client, "t").is_empty());
}

#[test]
fn problems_are_found_at_once() {
    let (_database, mut client) = database();
    client.batch_execute("CREATE TABLE t (id int, p point, must text NOT NULL, j json, g int GENERATED ALWAYS AS (1) STORED); CREATE UNIQUE INDEX ON t (id) WHERE id > 5").unwrap();
    let mut wrong = table("t", InsertMode::Upsert, &["id", "nope"]);
    wrong.guard = Some("j".into());
    wrong.columns.insert("g".into(), ColumnSource::Offset);
    wrong.columns.insert("must".into(), ColumnSource::Ignore);
    wrong.columns.insert("missing".into(), ColumnSource::Key);
    let problems = plan(&mut client, &wrong).map(drop).unwrap_err();
    for part in [
        "column \"nope\": found no such column",
        "column \"missing\": found no such column",
        "column \"g\": found a generated column",
        "found unique keys none, expected one over exactly pk_fields (id, nope)",
        "column \"p\": found type point",
        "column \"must\": found NOT NULL without a default, and never written",
        "column \"j\": found a guard of type json",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part} is not in {problems:#?}");
    }
    assert_eq!(problems.len(), 7, "{problems:#?}");
    client
        .batch_execute("CREATE SCHEMA forebay; CREATE TABLE forebay.fence (id int); CREATE TABLE forebay.mine (id int)")
        .unwrap();
    // The tests' role has the schema's name.
    let own = plan(&mut client, &table("fence", InsertMode::Insert, &[])).map(drop).unwrap_err();
    assert!(own[0].contains("forebay.fence: found one of forebay's own tables"), "{own:?}");
    assert!(plan(&mut client, &table("mine", InsertMode::Insert, &[])).is_ok());
    let absent = plan(&mut client, &table("nowhere", InsertMode::Insert, &[])).map(drop).unwrap_err();
    assert_eq!(absent, ["topic \"records\": table \"nowhere\": not found"]);
}
