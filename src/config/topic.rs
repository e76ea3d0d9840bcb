//! `[[topic]]`: what becomes of a topic's records, cross-checked.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::raw::{Section, describe};
use super::settings::{self as s, BadPolicy};
use super::{BadLimit, ColumnSource, Delivery, InsertMode, OnBadRecord, Table, Target, Then, Topic};

/// Settings that say nothing without a table.
const TABLE_SETTINGS: &[&str] = &[
    "table",
    "insert_mode",
    "pk_fields",
    "delete_enabled",
    "delete_field",
    "key_format",
    "guard",
    "skip_unchanged",
    "unknown_fields",
    "columns",
];

/// Settings of `on_bad_record` that say nothing without dead letters.
const OF_DEAD_LETTERS: &[&str] = &["then", "run_max", "percent_max", "forward_to"];

/// Every topic; `None` where one has a problem.
pub fn read_all(root: &Section<'_>, delivery: Delivery) -> Option<Vec<Topic>> {
    let sections = root.tables("topic", &["columns", "on_bad_record"]);
    if sections.is_empty() && !root.is_written("topic") {
        root.problem("topic", "nothing", "[[topic]], one table for each topic");
    }
    let topics: Vec<Option<Topic>> = sections.iter().map(|section| read(section, delivery)).collect();
    for (i, section) in sections.iter().enumerate() {
        let Some(this) = &topics[i] else { continue };
        for other in topics[..i].iter().flatten() {
            if other.name == this.name {
                section.problem(
                    "name",
                    format!("{:?} again", this.name),
                    "each topic once: two entries would take it from each other for ever",
                );
            } else if same_table(this, other) {
                let found = format!("the table of topic {:?}", other.name);
                section.warning(
                    "table",
                    found,
                    "a table of its own: rows that both topics write have no order between them",
                );
            }
        }
    }
    no_loops(&sections, &topics);
    topics.into_iter().collect()
}

/// What goes on to a topic that is read here would come back, and may be refused again.
fn no_loops(sections: &[Section<'_>], topics: &[Option<Topic>]) {
    let consumed: Vec<&str> = topics.iter().flatten().map(|topic| topic.name.as_str()).collect();
    for (section, topic) in sections.iter().zip(topics) {
        let to = topic.as_ref().and_then(|topic| topic.forward_to.as_deref());
        if let Some(to) = to.filter(|to| consumed.contains(to)) {
            let key = "on_bad_record.forward_to";
            section.problem(key, format!("{to:?}, which is one of the topics here"), "a topic that is not read here");
        }
    }
}

fn same_table(a: &Topic, b: &Topic) -> bool {
    match (&a.target, &b.target) {
        (Target::Table(a), Target::Table(b)) => (&a.schema, &a.name) == (&b.schema, &b.name),
        _ => false,
    }
}

fn read(section: &Section<'_>, delivery: Delivery) -> Option<Topic> {
    let name = section.get(&s::TOPIC_NAME);
    let table = section.get(&s::TOPIC_TABLE);
    let delivery = section.get(&s::TOPIC_DELIVERY).unwrap_or(delivery);
    let bad = section.table("on_bad_record", "topic.on_bad_record", &[]);
    let (on_bad_record, forward_to) = on_bad_record(&bad, delivery);
    let parent_tries = bad.get(&s::ON_BAD_RECORD_PARENT_TRIES) as u32;
    if delivery == Delivery::AtLeastOnce && bad.is_written(s::ON_BAD_RECORD_PARENT_TRIES.name) {
        let expected =
            "nothing: with delivery = \"at_least_once\" nothing is parked, and no record waits for its parent";
        bad.problem(s::ON_BAD_RECORD_PARENT_TRIES.name, "a value", expected);
    }
    let rows_per_second_max = section.get(&s::TOPIC_ROWS_PER_SECOND_MAX);
    if section.get(&s::TOPIC_HANDLER) {
        for setting in TABLE_SETTINGS.iter().filter(|setting| section.is_written(setting)) {
            section.problem(setting, "a value beside handler = true", "nothing: the handler decides");
        }
        let (name, target) = (name?, Target::Handler);
        return Some(Topic { name, target, delivery, on_bad_record, rows_per_second_max, parent_tries, forward_to });
    }
    if !section.is_written("table") {
        section.problem("table", "nothing", "a table, or handler = true in a program that embeds forebay");
    }
    let (schema, table) = table.unwrap_or_default();
    let table = Table {
        schema,
        name: table,
        insert_mode: section.get(&s::TOPIC_INSERT_MODE),
        pk_fields: section.get(&s::TOPIC_PK_FIELDS),
        delete_enabled: section.get(&s::TOPIC_DELETE_ENABLED),
        delete_field: section.get(&s::TOPIC_DELETE_FIELD),
        key_format: section.get(&s::TOPIC_KEY_FORMAT),
        guard: section.get(&s::TOPIC_GUARD),
        skip_unchanged: section.get(&s::TOPIC_SKIP_UNCHANGED),
        unknown_fields: section.get(&s::TOPIC_UNKNOWN_FIELDS),
        columns: columns(&section.open_table("columns", "topic.columns")),
    };
    cross_check(section, &table);
    let name = name?;
    let target = (!table.name.is_empty()).then_some(Target::Table(table))?;
    Some(Topic { name, target, delivery, on_bad_record, rows_per_second_max, parent_tries, forward_to })
}

/// What becomes of a bad record, and where it goes on to.
fn on_bad_record(section: &Section<'_>, delivery: Delivery) -> (OnBadRecord, Option<String>) {
    let policy = section.get(&s::ON_BAD_RECORD_POLICY);
    let then = section.get(&s::ON_BAD_RECORD_THEN);
    let run_max = section.get(&s::ON_BAD_RECORD_RUN_MAX);
    let percent_max = section.get(&s::ON_BAD_RECORD_PERCENT_MAX);
    let forward_to = section.get(&s::ON_BAD_RECORD_FORWARD_TO);
    let fenced = delivery == Delivery::ExactlyOnce;
    if !fenced && section.is_written("policy") && policy == BadPolicy::DeadLetter {
        section.problem(
            "policy",
            "\"dead_letter\" with delivery = \"at_least_once\"",
            "\"stop\": dead letters are written with the fences, and there are none",
        );
    }
    match policy {
        BadPolicy::DeadLetter if fenced => {
            if then == Then::Park && forward_to.is_some() {
                let found = "a value beside then = \"park\"";
                let expected = "then = \"skip\": letters that block their key wait in forebay.parked and go nowhere";
                section.warning(s::ON_BAD_RECORD_FORWARD_TO.name, found, expected);
            }
            (OnBadRecord::DeadLetter(BadLimit { run_max, percent_max }, then), forward_to)
        }
        BadPolicy::Stop | BadPolicy::DeadLetter => {
            for setting in OF_DEAD_LETTERS.iter().filter(|setting| section.is_written(setting)) {
                section.problem(setting, "a value", "nothing: this topic has no dead letters");
            }
            (OnBadRecord::Stop, None)
        }
    }
}

fn cross_check(section: &Section<'_>, table: &Table) {
    let deletes = table.delete_enabled || table.delete_field.is_some();
    let empty = section.is_empty_list("pk_fields");
    if table.pk_fields.is_empty()
        && (empty || !section.is_written("pk_fields"))
        && (table.insert_mode != InsertMode::Insert || deletes)
    {
        section.problem(
            "pk_fields",
            if empty { "an empty list" } else { "nothing" },
            "the columns that identify a row: upserts, updates and deletes need them",
        );
    }
    for (i, field) in table.pk_fields.iter().enumerate() {
        if table.pk_fields[..i].contains(field) {
            section.problem("pk_fields", format!("{field:?} twice"), "each column once");
        }
        if table.columns.get(field) == Some(&ColumnSource::Ignore) {
            section.problem(
                "pk_fields",
                format!("{field:?}, which columns.{field} never writes"),
                "columns with a value",
            );
        }
    }
    if table.insert_mode == InsertMode::Insert {
        for (name, written) in [("guard", table.guard.is_some()), ("skip_unchanged", table.skip_unchanged)] {
            if written {
                section.problem(
                    name,
                    "a value",
                    "nothing: with insert_mode = \"insert\" there is no row to compare with",
                );
            }
        }
    }
    if let Some(guard) = table.guard.as_ref().filter(|guard| table.pk_fields.contains(guard)) {
        section.problem("guard", format!("{guard:?}"), "a column that is not one of pk_fields: those never change");
    }
    match &table.key_format {
        Some(_) if !table.delete_enabled => {
            section.warning(
                "key_format",
                "a value",
                "delete_enabled = true beside it: only the keys of null values are read",
            );
        }
        Some(format) if !table.pk_fields.is_empty() => {
            if let Err(expected) = key_format_fits(format, &table.pk_fields) {
                section.problem("key_format", format!("{format:?}"), expected);
            }
        }
        _ => {}
    }
}

/// Every pk field exactly once, with something between them by which they can be told apart.
fn key_format_fits(format: &str, pk_fields: &[String]) -> Result<(), String> {
    let mut named = Vec::new();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((name, behind)) = behind.split_once('}') else { return Err("a } for every {".to_owned()) };
        if before.contains('}') {
            return Err("a { for every }".to_owned());
        }
        if before.is_empty() && !named.is_empty() {
            return Err(format!("something that separates {{{name}}} from what is before it"));
        }
        if !pk_fields.iter().any(|field| field == name) {
            return Err(format!("only {}", braced(pk_fields)));
        }
        if named.contains(&name) {
            return Err(format!("{{{name}}} once"));
        }
        named.push(name);
        rest = behind;
    }
    if rest.contains('}') {
        return Err("a { for every }".to_owned());
    }
    if named.len() < pk_fields.len() {
        return Err(format!("each of {}", braced(pk_fields)));
    }
    Ok(())
}

fn braced(fields: &[String]) -> String {
    fields.iter().map(|field| format!("{{{field}}}")).collect::<Vec<_>>().join(", ")
}

fn columns(section: &Section<'_>) -> BTreeMap<String, ColumnSource> {
    let mut columns = BTreeMap::new();
    for (column, value) in section.entries() {
        match column_source(value) {
            Some(source) => drop(columns.insert(column, source)),
            None => section.problem(
                &column,
                describe("", value),
                "\"/json/pointer\", \"@offset\", \"@partition\", \"@timestamp\", \"@key\", \"@header:NAME\", or false to never write it",
            ),
        }
    }
    columns
}

fn column_source(written: &DeValue<'_>) -> Option<ColumnSource> {
    let text = match written {
        DeValue::Boolean(false) => return Some(ColumnSource::Ignore),
        DeValue::String(text) => text.as_ref(),
        _ => return None,
    };
    Some(match text {
        "@offset" => ColumnSource::Offset,
        "@partition" => ColumnSource::Partition,
        "@timestamp" => ColumnSource::Timestamp,
        "@key" => ColumnSource::Key,
        _ => match text.strip_prefix("@header:") {
            Some(name) if !name.is_empty() => ColumnSource::Header(name.to_owned()),
            Some(_) => return None,
            None => ColumnSource::Pointer(pointer(text)?),
        },
    })
}

/// RFC 6901: `/a/b`, with `~1` for a slash and `~0` for a tilde within a name.
fn pointer(text: &str) -> Option<Vec<String>> {
    text.strip_prefix('/')?
        .split('/')
        .map(|name| {
            let escapes_end = name.split('~').skip(1).all(|behind| behind.starts_with(['0', '1']));
            escapes_end.then(|| name.replace("~1", "/").replace("~0", "~"))
        })
        .collect()
}
