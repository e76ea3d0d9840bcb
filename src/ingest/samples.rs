//! A small gateway for tests: one topic, one table, one route.

use crate::config::Config;
use crate::config::load::parse;
use crate::sink::catalog::{Catalog, Column};
use crate::sink::encode::Kind;

/// With `more` in front of the topic and the route of `/apps/{app}/subs/{sub}`.
pub fn config(more: &str) -> Config {
    with_route(more, "", "")
}

/// `topic` and `route` are lines of theirs.
pub fn with_route(more: &str, topic: &str, route: &str) -> Config {
    let shard = if more.contains("[[shard]]") { "" } else { "[[shard]]\nname = \"main\"\ndsn = \"host=h\"\n" };
    let topic = if topic.is_empty() { "delete_enabled = true\nkey_format = \"{app}:{sub}\"\n" } else { topic };
    let route = if route.is_empty() {
        "path = \"/apps/{app}/subs/{sub}\"\nmethods = [\"PUT\", \"PATCH\", \"DELETE\"]\n"
    } else {
        route
    };
    let text = format!(
        "[kafka]\nbootstrap.servers = \"127.0.0.1:1\"\ngroup.id = \"g\"\n{more}\n{shard}[[topic]]\nname = \"t\"\ntable = \"subs\"\n\
         insert_mode = \"upsert\"\npk_fields = [\"app\", \"sub\"]\n{topic}\n[[ingest.route]]\ntopic = \"t\"\n{route}\n"
    );
    parse("f.toml".as_ref(), &text, &|_| None).unwrap_or_else(|problems| panic!("{problems}\n{text}")).config
}

pub fn column(name: &str, type_name: &str, kind: Kind) -> Column {
    Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        cast: format!("pg_catalog.{type_name}"),
        exact: kind.has_exact_key(),
        kind: Some(kind),
        not_null: false,
        has_default: false,
        generated: false,
        identity_always: false,
    }
}

/// `subs (app text, sub int4, PRIMARY KEY (app, sub), state text NOT NULL, price numeric(6,2), tier enum, note varchar(5), since timestamptz,
/// doc jsonb, ok bool, id int8, day date)`
pub fn catalog() -> Catalog {
    let required = |mut column: Column| {
        column.not_null = true;
        column
    };
    Catalog {
        oid: 1,
        schema: "public".to_owned(),
        table: "subs".to_owned(),
        relkind: 'r',
        columns: vec![
            required(column("app", "text", Kind::Text { chars_max: None })),
            required(column("sub", "integer", Kind::Int4)),
            required(column("state", "text", Kind::Text { chars_max: None })),
            column("price", "numeric(6,2)", Kind::Numeric { rounds: Some((6, 2)) }),
            column("tier", "tier", Kind::Enum(vec!["free".to_owned(), "paid".to_owned()])),
            column("note", "character varying(5)", Kind::Text { chars_max: Some(5) }),
            column("since", "timestamp with time zone", Kind::TimestampTz),
            column("doc", "jsonb", Kind::Jsonb),
            column("ok", "boolean", Kind::Bool),
            column("id", "bigint", Kind::Int8),
            column("day", "date", Kind::Date),
        ],
        unique: vec![vec!["app".to_owned(), "sub".to_owned()]],
        primary: vec!["app".to_owned(), "sub".to_owned()],
        has_before_triggers: false,
        may_select: true,
        may_insert: true,
        may_update: true,
        may_delete: true,
    }
}
