mod consumer;

use std::collections::BTreeMap;

use super::*;
use crate::config::Config;
use crate::http::Status;
use crate::ingest::samples;
use crate::sink::catalog::{Catalog, Column};
use crate::sink::encode::Kind;

const NOW_MS: i64 = 1_700_000_000_000;

fn door_over(config: &Config, catalogs: &[Catalog]) -> Door {
    let tables = catalogs.iter().enumerate().map(|(shard, catalog)| ((shard, 0), catalog.clone())).collect();
    let rules = Rules::new(config, &tables, &[Some(8)]);
    Door::new(Arc::new(rules))
}

fn door() -> Door {
    door_over(&samples::config(""), &[samples::catalog()])
}

/// Key, value and partition; or status, field, found and expected.
type Seen = Result<(String, Option<String>), (u16, String, String, String)>;

fn ask(door: &mut Door, method: Method, values: &[&str], body: &str) -> Seen {
    ask_with(door, method, values, body, &[])
}

fn ask_with(door: &mut Door, method: Method, values: &[&str], body: &str, headers: &[(&str, &str)]) -> Seen {
    let values: Vec<Cow<'_, str>> = values.iter().map(|value| Cow::Borrowed(*value)).collect();
    let mut packed = Vec::new();
    headers.iter().for_each(|(name, value)| Headers::pack(&mut packed, name, Some(value.as_bytes())));
    let asked = Asked { route: 0, method, values: &values, body: body.as_bytes(), headers: &packed, now_ms: NOW_MS };
    match door.check(&asked) {
        Ok(passed) => {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            Ok((text(passed.key), passed.value.map(text)))
        }
        Err(problem) => {
            let response = problem.response();
            let json: serde_json::Value = serde_json::from_slice(response.body()).expect("JSON");
            let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
            let found = if json["found"].is_null() { text("detail") } else { text("found") };
            Err((problem.status().0, text("field"), found, text("expected")))
        }
    }
}

#[track_caller]
fn passes(values: &[&str], body: &str, key: &str, value: &str) {
    let found = ask(&mut door(), Method::Put, values, body);
    assert_eq!(found, Ok((key.to_owned(), Some(value.to_owned()))), "{body}");
    serde_json::from_str::<serde_json::Value>(value).expect("what is published is JSON");
}

#[track_caller]
fn refused(values: &[&str], body: &str, status: u16, field: &str, found: &str, expected: &str) {
    let seen = ask(&mut door(), Method::Put, values, body);
    assert_eq!(seen, Err((status, field.to_owned(), found.to_owned(), expected.to_owned())), "{body}");
}

#[test]
fn parameters_of_the_path_become_fields() {
    passes(&["a", "7"], r#"{"state":"on"}"#, "a:7", r#"{"app":"a","sub":7,"state":"on"}"#);
    passes(&["a", "7"], " {\n\"state\" : \"on\" } ", "a:7", "{\"app\":\"a\",\"sub\":7,\n\"state\" : \"on\" } ");
    // One form for all who mean the same.
    passes(&["a", "007"], r#"{"state":"on"}"#, "a:7", r#"{"app":"a","sub":7,"state":"on"}"#);
    passes(
        &["ü/\"\\\u{1}", "-0"],
        r#"{"state":"on"}"#,
        "ü/\"\\\u{1}:0",
        "{\"app\":\"ü/\\\"\\\\\\u0001\",\"sub\":0,\"state\":\"on\"}",
    );
    // What the body says, too, is said once.
    passes(&["a", "7"], r#"{"sub":7,"state":"on"}"#, "a:7", r#"{"app":"a","sub":7,"state":"on"}"#);
    passes(
        &["a", "7"],
        r#"{"app":"\u0061","sub":"7.0","state":"on"}"#,
        "a:7",
        r#"{"app":"\u0061","sub":"7.0","state":"on"}"#,
    );
    passes(&["a", "7"], r#"{"state":"on","app":"a"}"#, "a:7", r#"{"sub":7,"state":"on","app":"a"}"#);
}

#[test]
fn what_contradicts_the_path_is_refused() {
    let expected = "what the path says, or nothing";
    refused(&["a", "7"], r#"{"app":"b","state":"on"}"#, 422, "app", "another value in the body", expected);
    refused(&["a", "7"], r#"{"sub":8,"state":"on"}"#, 422, "sub", "another value in the body", expected);
    refused(&["a", "7"], r#"{"sub":null,"state":"on"}"#, 422, "sub", "null in the body", expected);
    // The last one of a name counts, as everywhere.
    refused(&["a", "7"], r#"{"sub":7,"state":"on","sub":8}"#, 422, "sub", "another value in the body", expected);
    refused(&["a", "7"], r#"{"app":5,"state":"on"}"#, 422, "app", "a number", "text: it is part of the key");
    refused(&["a", "x"], r#"{"state":"on"}"#, 422, "sub", "a string that is not a number, in the path", "integer");
    refused(&["a", "3000000000"], "{}", 422, "sub", "a number out of range, in the path", "integer");
    refused(&["a\0", "1"], "{}", 422, "app", "a string with a zero byte, in the path", "text");
}

#[test]
fn a_body_is_a_json_object() {
    let object = "a JSON object";
    for (body, found) in [
        ("", "nothing"),
        (" ", "nothing"),
        ("[1]", "an array"),
        ("null", "null"),
        ("7", "a number"),
        ("x", "no valid JSON at line 1, column 1"),
        ("{\"state\":\"on\"", "no valid JSON at line 1, column 13"),
        ("{\"state\":\"on\"} x", "no valid JSON at line 1, column 16"),
        ("{\n\"state\":on}", "no valid JSON at line 2, column 9"),
        ("{,\"state\":\"on\"}", "no valid JSON at line 1, column 2"),
        ("{\"state\":\"on\",}", "no valid JSON at line 1, column 15"),
    ] {
        refused(&["a", "7"], body, 400, "", found, object);
    }
    let mut door = door();
    let asked = Asked {
        route: 0,
        method: Method::Put,
        values: &["a".into(), "7".into()],
        body: b"{\"\xff\":1}",
        headers: &[],
        now_ms: 0,
    };
    assert_eq!(door.check(&asked).expect_err("no text").status(), Status::BAD_REQUEST);
}

#[test]
fn fields_are_judged_by_their_columns() {
    let check = |field: &str, value: &str, expected: Option<(&str, &str)>| {
        let body = format!("{{\"state\":\"on\",\"{field}\":{value}}}");
        match expected {
            None => assert!(ask(&mut door(), Method::Patch, &["a", "7"], &body).is_ok(), "{body}"),
            Some((found, expected)) => refused(&["a", "7"], &body, 422, field, found, expected),
        }
    };
    check("price", "9999.99", None);
    check("price", "\"1.5\"", None);
    check("price", "10000", Some(("a number out of range", "numeric(6,2)")));
    check("price", "\"much\"", Some(("a string that is not a number", "numeric(6,2)")));
    check("price", "true", Some(("a boolean", "numeric(6,2)")));
    check("tier", "\"paid\"", None);
    check("tier", "\"gold\"", Some(("a string that is not one of its labels", "one of \"free\", \"paid\"")));
    check("note", "\"12345\"", None);
    check("note", "\"123456\"", Some(("a string that is too long", "character varying(5)")));
    check("since", "\"2024-02-30T00:00:00Z\"", Some(("a string that is not ISO 8601", "timestamp with time zone")));
    check(
        "since",
        "1700000000",
        Some(("a number (seconds or milliseconds? only ISO 8601 strings are read)", "timestamp with time zone")),
    );
    check("doc", "{\"a\":[1,{\"b\":null}]}", None);
    check("doc", "\"\\u0000\"", Some(("a string with \\u0000", "jsonb")));
    check("ok", "1", Some(("a number", "boolean")));
    check("id", "9223372036854775808", Some(("a number out of range", "bigint")));
    check("note", "null", None);
    check("state", "null", Some(("null", "a value (NOT NULL)")));
    check("stat", "1", Some(("an unknown field", "a field that a column takes; did you mean \"state\"?")));
    check("colour", "1", Some(("an unknown field", "a field that a column takes")));
}

#[test]
fn required_columns() {
    let missing = "a value: text, NOT NULL without a default";
    refused(&["a", "7"], "{}", 422, "state", "nothing", missing);
    refused(&["a", "7"], r#"{"note":"x"}"#, 422, "state", "nothing", missing);
    // A part of a row that is there already; but an insert is a whole one.
    assert!(ask(&mut door(), Method::Patch, &["a", "7"], r#"{"note":"x"}"#).is_ok());
    let mut insert = samples::with_route("", "", "");
    let crate::config::Target::Table(table) = &mut insert.topics[0].target else { panic!("a table") };
    table.insert_mode = crate::config::InsertMode::Insert;
    let seen = ask(&mut door_over(&insert, &[samples::catalog()]), Method::Patch, &["a", "7"], r#"{"note":"x"}"#);
    assert_eq!(seen, Err((422, "state".into(), "nothing".into(), missing.into())));
    // Its default, a trigger, or a mode that writes no new rows.
    let mut with_default = samples::catalog();
    with_default.columns[2].has_default = true;
    let mut with_trigger = samples::catalog();
    with_trigger.has_before_triggers = true;
    let update = samples::with_route("", "", "");
    let mut update = update;
    let crate::config::Target::Table(table) = &mut update.topics[0].target else { panic!("a table") };
    table.insert_mode = crate::config::InsertMode::Update;
    for (config, catalog) in
        [(samples::config(""), with_default), (samples::config(""), with_trigger), (update, samples::catalog())]
    {
        let seen = ask(&mut door_over(&config, &[catalog]), Method::Put, &["a", "7"], r#"{"note":"x"}"#);
        assert!(seen.is_ok(), "{seen:?}");
    }
}

#[test]
fn a_delete_is_a_null_under_the_row_s_key() {
    let mut door = door();
    let deleted = |key: &str| Ok((key.to_owned(), None));
    assert_eq!(ask(&mut door, Method::Delete, &["a", "007"], ""), deleted("a:7"));
    assert_eq!(ask(&mut door, Method::Delete, &["ü b", "-3"], ""), deleted("ü b:-3"));
    let seen = ask(&mut door, Method::Delete, &["a", "7"], "{}");
    assert_eq!(seen, Err((400, "".into(), "a body".into(), "none with DELETE".into())));
    // Read back from "a:b:7" it would be the row of "a".
    for method in [Method::Delete, Method::Put] {
        let body = if method == Method::Put { r#"{"state":"on"}"# } else { "" };
        let seen = ask(&mut door, method, &["a:b", "7"], body);
        let found = "\":\" in it, which ends it in the key";
        assert_eq!(seen, Err((422, "app".into(), found.into(), "a value without it".into())));
    }
    // Without a key_format the key is JSON, and a colon is nothing special.
    let json = samples::with_route("", "delete_enabled = true\n", "");
    let mut json = door_over(&json, &[samples::catalog()]);
    assert_eq!(ask(&mut json, Method::Delete, &["a:\"b", "7"], ""), deleted(r#"{"app":"a:\"b","sub":7}"#));
    let seen = ask(&mut json, Method::Put, &["a:\"b", "7"], r#"{"state":"on"}"#);
    assert_eq!(seen.expect("a record").0, r#"{"app":"a:\"b","sub":7}"#);
}

#[test]
fn keys_may_come_from_the_body_and_have_one_form() {
    let route = "path = \"/subs\"\nmethods = [\"POST\"]\nkey = \"{sub}/{app}\"\n";
    let config = samples::with_route("", "delete_enabled = false\n", route);
    let mut door = door_over(&config, &[samples::catalog()]);
    for sub in ["7", "\"7\"", "7.0", "70e-1"] {
        let seen = ask(&mut door, Method::Post, &[], &format!("{{\"app\":\"a/b\",\"state\":\"on\",\"sub\":{sub}}}"));
        assert_eq!(seen.expect("a record").0, "7/a/b", "{sub}");
    }
    for (body, field, found, expected) in [
        (r#"{"app":"a","state":"on"}"#, "sub", "nothing", "integer: it is part of the key"),
        (r#"{"app":null,"sub":1,"state":"on"}"#, "app", "null", "text: it is part of the key"),
        (r#"{"app":"a","sub":1.5,"state":"on"}"#, "sub", "a number with a fraction", "integer: it is part of the key"),
    ] {
        let seen = ask(&mut door, Method::Post, &[], body);
        assert_eq!(seen, Err((422, field.into(), found.into(), expected.into())), "{body}");
    }
}

#[test]
fn what_an_unknown_field_is() {
    let route = "path = \"/apps/{app}/subs/{sub}\"\nmethods = [\"PUT\"]\nunknown_fields = \"ignore\"\n";
    let body = r#"{"state":"on","colour":{"x":1}}"#;
    let lenient = samples::with_route("", "", route);
    let seen = ask(&mut door_over(&lenient, &[samples::catalog()]), Method::Put, &["a", "7"], body);
    assert_eq!(seen.expect("a record").1.as_deref(), Some(r#"{"app":"a","sub":7,"state":"on","colour":{"x":1}}"#));
    // What the topic refuses is refused all the same.
    let strict = samples::with_route("", "unknown_fields = \"error\"\n", route);
    assert!(ask(&mut door_over(&strict, &[samples::catalog()]), Method::Put, &["a", "7"], body).is_err());
}

#[test]
fn tenants_decide_and_must_be_there() {
    let shards = "[shards]\nby = \"modulo\"\ntenant = \"header:Tenant\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\npartitions = \"0-3\"\n\
                  [[shard]]\nname = \"b\"\ndsn = \"host=b\"\npartitions = \"4-7\"\n";
    let config = samples::config(shards);
    let catalogs = [samples::catalog(), samples::catalog()];
    let mut door = door_over(&config, &catalogs);
    assert_eq!(config.ingest.as_ref().expect("a gateway").headers.last().map(String::as_str), Some("Tenant"));
    let body = r#"{"state":"on"}"#;
    assert!(ask_with(&mut door, Method::Put, &["a", "7"], body, &[("Tenant", "5")]).is_ok());
    for (headers, why) in [
        (&[][..], "the tenant cannot be read: the record has no header \"Tenant\""),
        (&[("Tenant", "x")][..], "the tenant cannot be read: it is not an integer"),
    ] {
        let seen = ask_with(&mut door, Method::Put, &["a", "7"], body, headers);
        assert_eq!(seen, Err((422, "".into(), why.into(), "".into())));
    }
    let values = ["a".into(), "7".into()];
    let mut packed = Vec::new();
    Headers::pack(&mut packed, "Tenant", Some(b"5"));
    let asked =
        Asked { route: 0, method: Method::Put, values: &values, body: body.as_bytes(), headers: &packed, now_ms: 0 };
    let passed = door.check(&asked).expect("a record");
    assert!(passed.shard == ShardIx(1) && (4..8).contains(&passed.partition), "{passed:?}");
}

/// During a migration each shard's own table decides.
#[test]
fn tables_that_differ_from_shard_to_shard() {
    let shards = "[shards]\nby = \"modulo\"\ntenant = \"key:0\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n";
    let config = samples::config(shards);
    let mut newer = samples::catalog();
    let mut added = samples::column("colour", "text", Kind::Text { chars_max: None });
    added.not_null = true;
    newer.columns.push(added);
    let (old, new) = (r#"{"state":"on"}"#, r#"{"state":"on","colour":"red"}"#);
    for catalogs in [[samples::catalog(), newer.clone()], [newer.clone(), samples::catalog()]] {
        let b_is_newer = catalogs[1] == newer;
        let mut door = door_over(&config, &catalogs);
        for app in ["2", "3"] {
            let is_newer = (app == "3") == b_is_newer;
            let fits = |seen: Seen| seen.is_ok();
            assert_eq!(fits(ask(&mut door, Method::Put, &[app, "7"], old)), !is_newer, "{app} {b_is_newer}");
            assert_eq!(fits(ask(&mut door, Method::Put, &[app, "7"], new)), is_newer, "{app} {b_is_newer}");
        }
    }
}

/// A table that cannot serve a route in one shard.
#[test]
fn a_shard_s_own_trouble_is_its_own() {
    let shards = "[shards]\nby = \"modulo\"\ntenant = \"key:0\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n";
    let config = samples::config(shards);
    let mut bad = samples::catalog();
    bad.unique.clear();
    bad.primary.clear();
    for (bad_one, catalogs) in [("a", [bad.clone(), samples::catalog()]), ("b", [samples::catalog(), bad.clone()])] {
        let mut door = door_over(&config, &catalogs);
        let missing = door.rules().missing(&config);
        assert!(missing.len() == 1 && missing[0].contains(&format!("shard {bad_one:?}: ")), "{missing:?}");
        for (app, shard) in [("2", "a"), ("3", "b")] {
            let seen = ask(&mut door, Method::Put, &[app, "7"], r#"{"state":"on"}"#);
            match shard == bad_one {
                false => assert!(seen.is_ok(), "{seen:?}"),
                true => assert_eq!(seen.expect_err("its table").0, 503),
            }
        }
    }
    let both = door_over(&config, &[bad.clone(), bad]);
    assert!(both.rules().routes[0].is_err());
}

/// A uuid in capitals is the same one, and the same row: it must not be another tenant.
#[test]
fn a_tenant_is_written_in_one_way() {
    let shards = "[shards]\nby = \"hash\"\ntenant = \"field:app\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n";
    let id = "0123abcd-0000-4000-8000-00000000000a";
    let with_app = |type_name: &str, kind: Kind| {
        let mut catalog = samples::catalog();
        catalog.columns[0] = Column { not_null: true, ..samples::column("app", type_name, kind) };
        catalog
    };
    let door = |route: &str, catalog: &Catalog| {
        let config = samples::with_route(shards, "delete_enabled = false\n", route);
        door_over(&config, &[catalog.clone(), catalog.clone()])
    };
    let in_body = "path = \"/subs/{sub}\"\nmethods = [\"PUT\"]\n";
    let other_form = |type_name: &str| {
        let expected = "as PostgreSQL writes it: it names the tenant, which decides where the row is";
        Err((422, "app".to_owned(), format!("another form of {type_name}"), expected.to_owned()))
    };
    let ask_for = |door: &mut Door, app: &str| {
        ask(door, Method::Put, &["7"], &format!("{{\"app\":{app},\"state\":\"on\"}}")).map(drop)
    };
    let mut ids = door(in_body, &with_app("uuid", Kind::Uuid));
    assert_eq!(ask_for(&mut ids, &format!("{id:?}")), Ok(()));
    let escaped = format!("\"\\u0030{}\"", &id[1..]);
    assert_eq!(ask_for(&mut ids, &escaped), Ok(()), "the router reads escapes, too");
    for other in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")] {
        assert_eq!(ask_for(&mut ids, &format!("{other:?}")), other_form("uuid"), "{other}");
    }
    let mut numbers = door(in_body, &with_app("integer", Kind::Int4));
    assert_eq!((ask_for(&mut numbers, "7"), ask_for(&mut numbers, "\"7\"")), (Ok(()), Ok(())));
    for other in ["\"007\"", "\"7.0\"", "\"7e0\""] {
        assert_eq!(ask_for(&mut numbers, other), other_form("integer"), "{other}");
    }
    // Of the path one form is made.
    let in_path = "path = \"/apps/{app}/subs/{sub}\"\nmethods = [\"PUT\"]\n";
    let mut ids = door(in_path, &with_app("uuid", Kind::Uuid));
    let seen = ask(&mut ids, Method::Put, &[&id.to_uppercase(), "7"], r#"{"state":"on"}"#).expect("a record");
    assert!(seen.1.expect("a value").contains(id));
    // Texts are what they are.
    let mut texts = door(in_body, &samples::catalog());
    assert_eq!((ask_for(&mut texts, "\"A\""), ask_for(&mut texts, "\"a\"")), (Ok(()), Ok(())));
}

/// Only where somebody takes the key apart must its parts be told from what is between them.
#[test]
fn a_value_may_hold_what_nobody_looks_for() {
    let route = "path = \"/apps/{app}/subs/{sub}\"\nmethods = [\"PUT\"]\nkey = \"{app}:{sub}\"\n";
    let two = "[[shard]]\nname = \"a\"\ndsn = \"host=a\"\n[[shard]]\nname = \"b\"\ndsn = \"host=b\"\n";
    let keyed = "delete_enabled = true\nkey_format = \"{app}:{sub}\"\n";
    for (more, topic, passes) in [
        (String::new(), "delete_enabled = false\n", true),
        (format!("[shards]\nby = \"hash\"\n{two}"), "delete_enabled = false\n", true),
        (format!("[shards]\nby = \"hash\"\ntenant = \"key:0\"\n{two}"), "delete_enabled = false\n", false),
        (String::new(), keyed, false),
    ] {
        let config = samples::with_route(&more, topic, route);
        let mut door = door_over(&config, &vec![samples::catalog(); config.shards.len()]);
        let seen = ask(&mut door, Method::Put, &["urn:x", "7"], r#"{"state":"on"}"#);
        assert_eq!(seen.is_ok(), passes, "{more}{topic}: {seen:?}");
    }
}

#[test]
fn a_key_fits_an_index() {
    // The row's primary key has four bytes of a number where the record's has a few digits.
    let most = "k".repeat(2596);
    assert_eq!(ask(&mut door(), Method::Put, &[&most, "777"], r#"{"state":"on"}"#).map(|seen| seen.0.len()), Ok(2600));
    let most = "k".repeat(2598);
    for method in [Method::Put, Method::Delete] {
        let body = if method == Method::Put { r#"{"state":"on"}"# } else { "" };
        let seen = ask(&mut door(), method, &[&most, "77"], body);
        let (found, expected) = ("a key of 2601 bytes", "at most 2600: no index takes more");
        assert_eq!(seen, Err((422, String::new(), found.to_owned(), expected.to_owned())));
    }
}

/// Also where the record's key has a part of it only.
#[test]
fn a_primary_key_fits_its_index() {
    let route = "path = \"/subs\"\nmethods = [\"POST\"]\nkey = \"{sub}\"\n";
    let mut door = door_over(&samples::with_route("", "delete_enabled = false\n", route), &[samples::catalog()]);
    let mut ask = |length: usize| {
        let body = format!(r#"{{"app":"{}","sub":7,"state":"on"}}"#, "k".repeat(length));
        ask(&mut door, Method::Post, &[], &body).map(|seen| seen.0)
    };
    assert_eq!(ask(2596), Ok("7".to_owned()));
    let (found, expected) = ("a key of 2601 bytes", "at most 2600: no index takes more");
    assert_eq!(ask(2597), Err((422, "app".to_owned(), found.to_owned(), expected.to_owned())));
}

/// A row that is written at once needs no partition, whatever the brokers say.
#[test]
fn rows_need_no_partition() {
    let shards = "[shards]\nby = \"modulo\"\ntenant = \"key:0\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\npartitions = \"0-3\"\n\
                  [[shard]]\nname = \"b\"\ndsn = \"host=b\"\npartitions = \"4-7\"\n";
    let lines = |mode: &str| format!("path = \"/apps/{{app}}/subs/{{sub}}\"\nmethods = [\"PUT\"]\nmode = \"{mode}\"\n");
    for (mode, partitions, passes) in [
        ("sync", None, true),
        ("sync", Some(4), true),
        ("sync", Some(8), true),
        ("async", Some(8), true),
        ("async", Some(4), false),
    ] {
        let config = samples::with_route(shards, "", &lines(mode));
        let tables = (0..2).map(|shard| ((shard, 0), samples::catalog())).collect();
        let rules = Rules::new(&config, &tables, &[partitions]);
        assert_eq!(rules.missing(&config).is_empty(), passes, "{mode} {partitions:?}");
        let seen = ask(&mut Door::new(Arc::new(rules)), Method::Put, &["3", "7"], r#"{"state":"on"}"#);
        assert_eq!(seen.is_ok(), passes, "{mode} {partitions:?}: {seen:?}");
    }
}

/// A topic that grew beyond what is declared: keys that nobody can place are no secret.
#[test]
fn partitions_of_nobody_are_missing() {
    let shards = "[shards]\nby = \"partition\"\n[[shard]]\nname = \"a\"\ndsn = \"host=a\"\npartitions = \"0-3\"\n\
                  [[shard]]\nname = \"b\"\ndsn = \"host=b\"\npartitions = \"4-7\"\n";
    let config = samples::config(shards);
    let tables: BTreeMap<_, _> = (0..2).map(|shard| ((shard, 0), samples::catalog())).collect();
    let missing = |partitions: i32| Rules::new(&config, &tables, &[Some(partitions)]).missing(&config);
    assert_eq!(missing(8), Vec::<String>::new());
    assert_eq!(missing(10), ["topic t: 2 of its 10 partitions are declared for no shard"]);
}

#[test]
fn what_is_not_known_yet_is_said() {
    let config = samples::config("");
    let tables = BTreeMap::from([((0, 0), samples::catalog())]);
    let seen = |rules: Rules| ask(&mut Door::new(Arc::new(rules)), Method::Put, &["a", "7"], r#"{"state":"on"}"#);
    let why = seen(Rules::new(&config, &BTreeMap::new(), &[Some(8)])).expect_err("no table");
    assert_eq!((why.0, why.2.as_str()), (503, "no database has said yet what the columns of subs are"));
    let why = seen(Rules::new(&config, &tables, &[None])).expect_err("no partitions");
    assert_eq!(why.0, 503);
    assert_eq!(Rules::new(&config, &tables, &[Some(8)]).missing(&config), Vec::<String>::new());
    let missing = Rules::new(&config, &BTreeMap::new(), &[None]).missing(&config);
    assert!(missing.len() == 2 && missing[0].starts_with("route /apps/{app}/subs/{sub}: "), "{missing:?}");
}

#[test]
fn a_route_that_its_table_cannot_serve_says_so() {
    let route = |lines: &str| samples::with_route("", "delete_enabled = false\n", lines);
    let check = |lines: &str, expected: &str| {
        let tables = BTreeMap::from([((0, 0), samples::catalog())]);
        let rules = Rules::new(&route(lines), &tables, &[Some(8)]);
        let why = rules.routes[0].as_ref().expect_err("it cannot be served");
        assert!(why.contains(expected), "{why}");
    };
    check("path = \"/{colour}\"\nmethods = [\"PUT\"]\nkey = \"{app}\"\n", "{colour}: found no column");
    check("path = \"/{doc}\"\nmethods = [\"PUT\"]\nkey = \"{app}\"\n", "found a column of type jsonb");
    check(
        "path = \"/x\"\nmethods = [\"PUT\"]\nkey = \"{price}\"\n",
        "column \"price\" in the key: found type numeric(6,2)",
    );
    check("path = \"/x\"\nmethods = [\"PUT\"]\nkey = \"{nothing}\"\n", "{nothing}: found no column");
}
