//! A plan as files: a configuration that forebay reads, and commands that make the topics. What an operator has written stays; what
//! the plan decides is put in its place.

use std::path::Path;

use toml::{Table, Value};

use crate::config::load::{self, Loaded};
use crate::config::settings;
use crate::planner::PlanError;
use crate::planner::plan::Plan;
use crate::planner::wish::Wish;

/// The files' names.
pub const CONFIGURATION: &str = "forebay.toml";
pub const COMMANDS: &str = "topics.sh";
const BROKER: &str = "BROKER:9092";
/// What Kafka takes of one record by default, with what it adds itself.
const MESSAGE_BYTES_MAX: f64 = 1_000_000.0;

/// What the operator has.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Of his configuration; empty where there is none.
    pub document: Table,
    /// Where its relative paths start.
    pub directory: std::path::PathBuf,
}

impl Present {
    /// Nothing; or what a file says, which somebody has read already.
    ///
    /// # Errors
    /// [`PlanError::Configuration`] where it cannot be read.
    pub fn read(file: &Path) -> Result<Present, PlanError> {
        let wrong = |error: &dyn std::fmt::Display| PlanError::Configuration(format!("{}: {error}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|e| wrong(&e))?;
        let document = text.parse::<Table>().map_err(|e| wrong(&e))?;
        let full = std::path::absolute(file).map_err(|e| wrong(&e))?;
        let directory = full.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Present { document, directory })
    }

    fn topics(&self) -> Vec<String> {
        let names = self.document.get("topic").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<String> = names.filter_map(|t| Some(t.get("name")?.as_str()?.to_owned())).collect();
        if names.is_empty() { vec!["writes".to_owned()] } else { names }
    }

    fn brokers(&self) -> String {
        let kafka = self.document.get("kafka");
        let dotted = kafka.and_then(|kafka| kafka.get("bootstrap.servers"));
        let nested = kafka.and_then(|kafka| kafka.get("bootstrap")?.get("servers"));
        let brokers = dotted.or(nested).and_then(Value::as_str).unwrap_or(BROKER);
        brokers.to_owned()
    }
}

/// The configuration: what is there, with the plan's numbers. Read back, so that it is one that forebay takes.
///
/// # Errors
/// [`PlanError::Configuration`] where what is there and the plan do not go together.
pub fn configuration(present: &Present, plan: &Plan) -> Result<String, PlanError> {
    let mut document = present.document.clone();
    let is_new = document.is_empty();
    if is_new {
        document = template(&(0..plan.shards).map(stand_in).collect::<Vec<_>>());
    }
    let engine = table(&mut document, "engine")?;
    for (name, value) in [
        ("workers_per_shard", plan.workers_per_shard),
        ("lanes", plan.lanes),
        ("batch_records_max", plan.batch_records_max),
        ("slow_lanes_per_shard", plan.slow_lanes_per_shard),
        ("partition_bytes_max", plan.partition_bytes_max as usize),
    ] {
        engine.insert(name.to_owned(), Value::Integer(value as i64));
    }
    absolute(&mut document, &present.directory);
    declare_partitions(&mut document, plan)?;
    let text = format!("{}{}", head(plan, is_new), text(&document)?);
    parse(&text)?;
    Ok(text)
}

/// Reads what [`configuration`] wrote.
pub fn parse(text: &str) -> Result<Loaded, PlanError> {
    load::parse(Path::new(CONFIGURATION), text, &|name| std::env::var_os(name)).map_err(PlanError::from)
}

fn head(plan: &Plan, is_new: bool) -> String {
    let mut text = format!(
        "# Written by `forebay plan`. One for all {} processes: {} shards, {} partitions of each topic.\n",
        plan.processes, plan.shards, plan.partitions
    );
    if is_new {
        text.push_str(
            "# Put in what only you know: brokers, group, connection strings, topics, tables and their keys. Tenants are dealt out by\n\
             # a hash here; [shards] must say how your databases are sharded already (\"Several shards\" in tuning.md).\n",
        );
    }
    text
}

/// What to begin with where there is no configuration yet, of shards by their names and connection strings; the rest is for whoever has it
/// to say.
pub fn template(shards: &[(String, String)]) -> Table {
    let table = |entries: &[(&str, Value)]| {
        Value::Table(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    };
    let shard = |(name, dsn): &(String, String)| table(&[("name", name.as_str().into()), ("dsn", dsn.as_str().into())]);
    let keys = Value::Array(vec!["tenant_id".into(), "id".into()]);
    let topic = table(&[
        ("name", "writes".into()),
        ("table", "writes".into()),
        ("insert_mode", "upsert".into()),
        ("pk_fields", keys),
    ]);
    let mut document = Table::from_iter([
        ("kafka".to_owned(), table(&[("bootstrap.servers", BROKER.into()), ("group.id", "forebay".into())])),
        ("shard".to_owned(), Value::Array(shards.iter().map(shard).collect())),
        ("topic".to_owned(), Value::Array(vec![topic])),
    ]);
    if shards.len() > 1 {
        document.insert("shards".to_owned(), table(&[("by", "hash".into()), ("tenant", "key:0".into())]));
    }
    document
}

pub fn shard_name(index: usize) -> String {
    format!("db{:03}", index + 1)
}

/// A shard that nobody named.
pub fn stand_in(index: usize) -> (String, String) {
    let name = shard_name(index);
    let dsn = format!("host={name}.example port=5432 user=app dbname=app");
    (name, dsn)
}

/// As a file has it.
pub fn text(document: &Table) -> Result<String, PlanError> {
    toml::to_string(document).map_err(|e| PlanError::Failed(format!("the configuration: {e}")))
}

fn table<'d>(document: &'d mut Table, name: &str) -> Result<&'d mut Table, PlanError> {
    let value = document.entry(name).or_insert_with(|| Value::Table(Table::new()));
    value.as_table_mut().ok_or_else(|| PlanError::Configuration(format!("{name}: expected a table")))
}

/// The partitions of each shard, next to each other: aligned. One shard has them all, and need not say so. What is declared already stays:
/// with other ranges, partitions that exist would be another database's from one moment to the next.
fn declare_partitions(document: &mut Table, plan: &Plan) -> Result<(), PlanError> {
    let Some(Value::Array(shards)) = document.get_mut("shard") else {
        return Err(PlanError::Configuration("shard: expected one [[shard]] for each database".to_owned()));
    };
    if shards.len() != plan.shards {
        let (found, expected) = (shards.len(), plan.shards);
        return Err(PlanError::Configuration(format!(
            "shard: found {found}, expected the {expected} of the plan: the configuration lacks those that are yet to come"
        )));
    }
    for (i, shard) in shards.iter_mut().filter_map(Value::as_table_mut).enumerate() {
        let planned = range(plan, i);
        match shard.get("partitions") {
            Some(declared) if !says(declared, &planned) => {
                return Err(PlanError::Configuration(format!(
                    "shard[{i}].partitions: found {declared}, and the plan has \"{planned}\": nothing is written, because partitions that exist \
                     would be another database's. --partitions-per-shard keeps as many as there are; for others, plan a new topic with a \
                     configuration that declares none"
                )));
            }
            None if plan.shards > 1 => drop(shard.insert("partitions".to_owned(), planned.into())),
            _ => {}
        }
    }
    Ok(())
}

/// Whether it declares exactly these, however it is written.
fn says(declared: &Value, planned: &str) -> bool {
    let read = |text: &str| {
        let mut all: Vec<i32> = (settings::SHARD_PARTITIONS.kind.parse)(text)?.into_iter().flatten().collect();
        all.sort_unstable();
        Some(all)
    };
    declared.as_str().and_then(read) == read(planned)
}

/// `0-7`.
pub fn range(plan: &Plan, shard: usize) -> String {
    let first = shard * plan.partitions_per_shard;
    format!("{first}-{}", first + plan.partitions_per_shard - 1)
}

/// The file may come to lie elsewhere: what it names is found all the same.
fn absolute(document: &mut Table, directory: &Path) {
    let fix = |value: &mut Value| {
        if let Value::String(path) = value
            && Path::new(path).is_relative()
        {
            *path = directory.join(&*path).display().to_string();
        }
    };
    for (_, value) in document.iter_mut() {
        visit(value, &fix);
    }
}

/// Every setting that is a file's name, and every `{ file = … }`.
fn visit(value: &mut Value, fix: &impl Fn(&mut Value)) {
    match value {
        Value::Table(inner) => {
            let only = inner.len() == 1;
            for (name, value) in inner.iter_mut() {
                match name.as_str() {
                    "dsn_file" | "map_file" | "token_file" | "catalog_file" | "socket" => fix(value),
                    "file" if only => fix(value),
                    _ => visit(value, fix),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| visit(value, fix)),
        _ => {}
    }
}

/// Commands for Kafka's own tools.
pub fn commands(present: &Present, plan: &Plan, wish: &Wish) -> String {
    let ms = |seconds: f64| (seconds * 1000.0) as u64;
    let mut text = format!(
        "#!/bin/sh\n# Written by `forebay plan`: makes the topics, {} partitions each ({} for each of {} shards, next to each other).\n\
         # A topic that exists stays as it is: more partitions move keys to other ones and break their order across the change.\n\
         # Where it keeps records for a shorter time than the plan, the lines that are commented out change that.\n\
         # BROKERS, KAFKA_TOPICS (the tool) and COMMAND_CONFIG (a file of client properties, for TLS and SASL) may be set outside.\n\
         set -eu\nBROKERS=${{BROKERS:-{}}}\n\
         topics() {{\n    \"${{KAFKA_TOPICS:-kafka-topics.sh}}\" --bootstrap-server \"$BROKERS\" \\\n        \
         ${{COMMAND_CONFIG:+--command-config \"$COMMAND_CONFIG\"}} \"$@\"\n}}\n",
        plan.partitions,
        plan.partitions_per_shard,
        plan.shards,
        quoted(&present.brokers())
    );
    let bytes = wish.record_bytes;
    // Twice what a record has on average: some are larger.
    let large = (bytes * 2.0 > MESSAGE_BYTES_MAX)
        .then(|| format!(" \\\n    --config max.message.bytes={}", (bytes * 2.0) as u64));
    for topic in present.topics() {
        text.push_str(&format!(
            "\ntopics --create --if-not-exists --topic {} \\\n    --partitions {} --replication-factor {} \\\n    \
             --config retention.ms={} --config segment.ms={} --config retention.bytes=-1 \\\n    \
             --config cleanup.policy=delete --config min.insync.replicas={}{}\n\
             # \"${{KAFKA_CONFIGS:-kafka-configs.sh}}\" --bootstrap-server \"$BROKERS\" --alter --entity-type topics --entity-name {} \\\n\
             #     --add-config retention.ms={},segment.ms={},retention.bytes=-1\n",
            quoted(&topic),
            plan.partitions,
            plan.replication,
            ms(plan.retention_s),
            ms(plan.segment_s),
            plan.min_insync_replicas,
            large.as_deref().unwrap_or_default(),
            quoted(&topic),
            ms(plan.retention_s),
            ms(plan.segment_s)
        ));
    }
    text
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:,/".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Writes both files into a directory, which is made. What is there stays: nothing is overwritten.
///
/// # Errors
/// [`PlanError::Unavailable`] where a file cannot be written or is there already.
pub fn files(directory: &Path, configuration: &str, commands: &str) -> Result<Vec<std::path::PathBuf>, PlanError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let unwritable =
        |path: &Path, error: std::io::Error| PlanError::Unavailable(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(directory).map_err(|e| unwritable(directory, e))?;
    let mut written = Vec::new();
    // The configuration may hold passwords.
    for (name, text, mode) in [(CONFIGURATION, configuration, 0o600), (COMMANDS, commands, 0o755)] {
        let path = directory.join(name);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let result = file.and_then(|mut file| file.write_all(text.as_bytes()));
        result.map_err(|e| unwritable(&path, e))?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
