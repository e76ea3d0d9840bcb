//! Every type that a column can have: the value that PostgreSQL keeps is the one that the JSON said.

use forebay::config::InsertMode;

use super::{Refused, database, rows, table, value, write, writer};

/// Writes one value per case into a column of the type, beside a null, and compares what PostgreSQL says of it.
fn check(declarations: &str, type_name: &str, cases: &[(&str, &str)]) {
    let (_database, mut client) = database();
    client
        .batch_execute(&format!(
            "SET timezone = 'UTC'; {declarations}; CREATE TABLE t (id int PRIMARY KEY, c {type_name})"
        ))
        .unwrap();
    let mut writer = writer(&mut client, &table("t", InsertMode::Upsert, &["id"]));
    let mut records = vec![value(r#"{"id":0,"c":null}"#)];
    records.extend(cases.iter().enumerate().map(|(i, (json, _))| value(&format!(r#"{{"id":{},"c":{json}}}"#, i + 1))));
    write(&mut client, &mut writer, &records).unwrap_or_else(|e| panic!("{type_name}: {e:?}"));
    let found: Vec<Option<String>> =
        client.query("SELECT c::text FROM t ORDER BY id", &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found[0], None);
    for ((json, expected), found) in cases.iter().zip(&found[1..]) {
        assert_eq!(found.as_deref(), Some(*expected), "{type_name} {json}");
    }
    assert_eq!(rows(&mut client, "t").len(), cases.len() + 1);
}

#[test]
fn numbers() {
    check("", "bool", &[("true", "true"), ("false", "false")]);
    check("", "smallint", &[("-32768", "-32768"), ("\"12\"", "12")]);
    check("", "integer", &[("1e3", "1000"), ("2147483647", "2147483647")]);
    check(
        "",
        "bigint",
        &[("9007199254740993", "9007199254740993"), ("\"-9223372036854775808\"", "-9223372036854775808")],
    );
    check("", "real", &[("0.1", "0.1"), ("\"-Infinity\"", "-Infinity")]);
    check("", "double precision", &[("0.30000000000000004", "0.30000000000000004"), ("\"NaN\"", "NaN"), ("-0", "-0")]);
    check(
        "",
        "numeric",
        &[
            ("12345678901234567890.123456789012345678901", "12345678901234567890.123456789012345678901"),
            ("\"NaN\"", "NaN"),
            ("1.50", "1.50"),
            ("1e2", "100"),
            ("1E-3", "0.001"),
            ("0e999999", "0"),
        ],
    );
    check("", "numeric(5,2)", &[("1.005", "1.01"), ("999.99", "999.99"), ("\"NaN\"", "NaN"), ("999.9949", "999.99")]);
    check("", "numeric(3,0)[]", &[("[999.4]", "{999}")]);
}

/// A value that PostgreSQL refuses for this type, whoever brings it, and that is refused before: then the column is known.
#[track_caller]
fn refused(type_name: &str, json: &str) {
    let (_database, mut client) = database();
    client.batch_execute(&format!("CREATE TABLE t (id int PRIMARY KEY, c {type_name})")).unwrap();
    let literal = json.trim_matches('"').replace('[', "{").replace(']', "}");
    let by_hand = client.batch_execute(&format!("INSERT INTO t VALUES (1, '{literal}')"));
    // Of names PostgreSQL keeps a part instead.
    assert_eq!(by_hand.is_ok(), type_name == "name", "{type_name} {json}");
    let mut writer = writer(&mut client, &table("t", InsertMode::Upsert, &["id"]));
    let found = write(&mut client, &mut writer, &[value(&format!(r#"{{"id":2,"c":{json}}}"#))]);
    let Err(Refused::Record(0, reason)) = found else { panic!("{type_name} {json}: {found:?}") };
    assert!(reason.contains("column \"c\""), "{reason}");
}

#[test]
fn what_does_not_fit_is_refused_by_the_name_of_its_column() {
    refused("numeric(5,2)", "999.995");
    refused("numeric(5,2)", "\"Infinity\"");
    refused("numeric(3,0)[]", "[1000]");
    refused("double precision", "1e-400");
    refused("real", "1e-60");
    refused("real", "1e60");
    refused("jsonb", "1e200000");
    refused("jsonb", "{\"a\":1e-20000}");
    refused("numeric", "0.0e-99999");
    refused("numeric(5,2)", &format!("1.{}", "0".repeat(16_384)));
    refused("jsonb", "[0e9999999999]");
    refused("date", "\"-004713-11-23\"");
    refused("timestamp", "\"-004713-11-23T23:59:59\"");
    refused("timestamptz[]", "[\"-004713-11-24T00:00:00+01:00\"]");
    refused("cidr", "\"10.0.0.1/8\"");
    refused("cidr", "\"2001:db8::1/32\"");
    refused("inet", "\"10.0.0.1/+8\"");
    refused("inet", "\"10.0.0.1/33\"");
    refused("inet", "\"::1/064\"");
    refused("name", &format!("\"{}\"", "x".repeat(64)));
}

#[test]
fn texts() {
    check("", "text", &[(r#""a\"\\\u00e9\ud83d\ude00""#, "a\"\\é😀"), ("\"\"", "")]);
    check("", "varchar(3)", &[("\"äöü\"", "äöü"), ("\"ab  \"", "ab ")]);
    check("", "char(3)", &[("\"a\"", "a")]);
    check("", "uuid", &[("\"7F3E4A10-0000-4000-8000-00000000002a\"", "7f3e4a10-0000-4000-8000-00000000002a")]);
    check("", "bytea", &[("\"AP8=\"", "\\x00ff"), ("\"AP8\"", "\\x00ff"), ("\"\"", "\\x")]);
    let inet = [
        ("\"10.0.0.1/8\"", "10.0.0.1/8"),
        ("\"10.0.0.1/08\"", "10.0.0.1/8"),
        ("\"::1\"", "::1/128"),
        ("\"::1/0\"", "::1/0"),
    ];
    check("", "inet", &inet);
    let cidr = [
        ("\"10.0.0.0/8\"", "10.0.0.0/8"),
        ("\"10.1.2.3\"", "10.1.2.3/32"),
        ("\"2001:db8::/32\"", "2001:db8::/32"),
        ("\"::/0\"", "::/0"),
    ];
    check("", "cidr", &cidr);
    check("CREATE TYPE \"Mood\" AS ENUM ('sad', 'so so')", "\"Mood\"", &[("\"so so\"", "so so")]);
    check("", "json", &[(r#"{"b": 1, "a" : [1.0,  2]}"#, r#"{"b": 1, "a" : [1.0,  2]}"#)]);
    check(
        "",
        "jsonb",
        &[
            (r#"{"b":12345678901234567890.10}"#, r#"{"b": 12345678901234567890.10}"#),
            ("[1]", "[1]"),
            ("\"s\"", "\"s\""),
            ("false", "false"),
        ],
    );
}

#[test]
fn times() {
    check(
        "",
        "timestamptz",
        &[
            ("\"2024-02-29T12:00:00.123456+02:00\"", "2024-02-29 10:00:00.123456+00"),
            ("\"-infinity\"", "-infinity"),
            ("\"1969-12-31T23:59:59.5Z\"", "1969-12-31 23:59:59.5+00"),
        ],
    );
    check(
        "",
        "timestamp",
        &[
            ("\"2024-02-29T12:00:00\"", "2024-02-29 12:00:00"),
            ("\"2024-02-29 12:00:00.25Z\"", "2024-02-29 12:00:00.25"),
        ],
    );
    check(
        "",
        "date",
        &[
            ("\"0001-01-01\"", "0001-01-01"),
            ("\"-004713-11-24\"", "4714-11-24 BC"),
            ("\"2024-02-29\"", "2024-02-29"),
            ("\"infinity\"", "infinity"),
        ],
    );
    check("", "time", &[("\"23:59:59.999999\"", "23:59:59.999999")]);
    check("", "timetz", &[("\"23:59:59+02\"", "23:59:59+02")]);
    check("", "interval", &[("\"P1DT2H\"", "1 day 02:00:00"), ("\"3 mons\"", "3 mons")]);
}

#[test]
fn arrays_and_domains() {
    check("", "int[]", &[("[1,null,3]", "{1,NULL,3}"), ("[]", "{}"), ("[[1,2],[3,4]]", "{{1,2},{3,4}}")]);
    check("", "bigint[]", &[("[9007199254740993, \"1\"]", "{9007199254740993,1}")]);
    check("", "text[]", &[(r#"["a,b","\"q\"","\\","null","","{}"]"#, r#"{"a,b","\"q\"","\\","null","","{}"}"#)]);
    check("", "float8[]", &[("[0.1,1e300,\"NaN\",\"-Infinity\"]", "{0.1,1e+300,NaN,-Infinity}")]);
    check("", "real[]", &[("[0.1]", "{0.1}")]);
    check("", "numeric[]", &[("[1.50,1e2]", "{1.50,100}")]);
    check("", "bool[]", &[("[true,false]", "{t,f}")]);
    check("", "uuid[]", &[("[\"7f3e4a10000040008000000000000002\"]", "{7f3e4a10-0000-4000-8000-000000000002}")]);
    check(
        "",
        "timestamptz[]",
        &[
            ("[\"2024-01-01T01:00:00+01\",\"infinity\"]", "{\"2024-01-01 00:00:00+00\",infinity}"),
            ("[\"-000044-03-15T12:00:00.5Z\"]", "{\"0045-03-15 12:00:00.5+00 BC\"}"),
        ],
    );
    check(
        "",
        "timestamp[]",
        &[
            ("[\"2024-01-01T01:00:00.5\"]", "{\"2024-01-01 01:00:00.5\"}"),
            ("[\"0000-01-01T00:00:01\"]", "{\"0001-01-01 00:00:01 BC\"}"),
        ],
    );
    check("", "date[]", &[("[\"2024-01-01\",\"0000-12-31\"]", "{2024-01-01,\"0001-12-31 BC\"}")]);
    check("", "time[]", &[("[\"01:02:03.000004\"]", "{01:02:03.000004}")]);
    check("", "interval[]", &[("[\"1 day\"]", "{\"1 day\"}")]);
    check("", "bytea[]", &[("[\"AP8=\"]", r#"{"\\x00ff"}"#)]);
    check("", "jsonb[]", &[(r#"[{"a":"x\"y"},[1],null]"#, r#"{"{\"a\": \"x\\\"y\"}",[1],NULL}"#)]);
    check("", "json[]", &[(r#"[{"a":1}]"#, r#"{"{\"a\":1}"}"#)]);
    check("", "inet[]", &[("[\"10.0.0.1\"]", "{10.0.0.1}")]);
    check("CREATE TYPE mood AS ENUM ('sad', 'so so')", "mood[]", &[("[\"so so\",\"sad\"]", "{\"so so\",sad}")]);
    check("", "varchar(3)[]", &[("[\"abc\"]", "{abc}")]);
    check(
        "CREATE DOMAIN small AS int CHECK (VALUE < 10); CREATE DOMAIN smaller AS small CHECK (VALUE < 5)",
        "smaller",
        &[("4", "4")],
    );
    check("CREATE DOMAIN price AS numeric(6,2)", "price", &[("1.234", "1.23")]);
    check("CREATE DOMAIN tags AS text[]", "tags", &[("[\"a\"]", "{a}")]);
    check("CREATE DOMAIN small AS int CHECK (VALUE < 10)", "small[]", &[("[4]", "{4}")]);
    check("CREATE DOMAIN code AS varchar(3)", "code", &[("\"abc\"", "abc")]);
}
