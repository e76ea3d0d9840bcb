//! `forebay route`: where keys go, by the rule that the gateway and the engine follow. A producer in another language can be tested
//! against it.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::config::{Config, RouteBy, Tenant};
use crate::console;
use crate::ingest::check::partitions_of;
use crate::state::chunk::{Headers, RawRecord};
use crate::state::placement::{Misplaced, Place, Placement, murmur2};
use crate::state::router::{Router, key_hash, lane_of};
use crate::types::Offset;

use super::ExitCode;

/// What to route.
#[derive(Debug, Args)]
pub struct Route {
    /// The records' keys.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Of which topic; needed where the configuration has several.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// How many partitions it has, instead of asking the brokers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// A header of the records, for tenants that are in one.
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// A field of the records' values, for tenants that are in one.
    #[arg(long, value_name = "NAME=VALUE")]
    field: Vec<String>,
    /// Say how it comes to that.
    #[arg(long)]
    explain: bool,
    /// One JSON object a line.
    #[arg(long, conflicts_with = "explain")]
    json: bool,
}

pub fn run(config: &Path, arguments: &Route) -> ExitCode {
    let loaded = match super::load_to_work(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let config = &loaded.config;
    let (headers, value) = match (packed(&arguments.header), object(&arguments.field)) {
        (Some(headers), Some(value)) => (headers, value),
        _ => {
            console::err("--header and --field: expected NAME=VALUE");
            return ExitCode::Usage;
        }
    };
    let names: Vec<&str> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
    let topic = match (&arguments.topic, names.as_slice()) {
        (Some(topic), names) if names.contains(&topic.as_str()) => topic.as_str(),
        (None, [only]) => only,
        _ => {
            console::err(format_args!("--topic: expected one of {}", names.join(", ")));
            return ExitCode::Usage;
        }
    };
    let partitions = match arguments.partitions.map_or_else(|| partitions_of(config, topic), Ok) {
        Ok(partitions) => partitions,
        Err(why) => {
            console::err(format_args!("topic {topic}: {why}; --partitions N says it without asking"));
            return ExitCode::Unavailable;
        }
    };
    let router = Router::new(config);
    let placement = Placement::new(&router, partitions);
    let mut code = ExitCode::Ok;
    for key in &arguments.keys {
        let record = RawRecord {
            offset: Offset(0),
            timestamp_ms: -1,
            key: Some(key.as_bytes()),
            value: value.as_deref(),
            headers: &headers,
        };
        match placement.place(&router, &record) {
            Ok(place) => show(config, &router, &placement, &place, topic, &record, arguments),
            Err(misplaced) => {
                let why = match &misplaced {
                    Misplaced::NoPartition(shard) => {
                        format!("{misplaced} ({})", config.shards[usize::from(shard.0)].name)
                    }
                    Misplaced::Route(_) => misplaced.to_string(),
                };
                console::err(format_args!("{key}: {why}"));
                code = ExitCode::Data;
            }
        }
    }
    code
}

fn show(
    config: &Config,
    router: &Router,
    placement: &Placement,
    place: &Place,
    topic: &str,
    record: &RawRecord<'_>,
    arguments: &Route,
) {
    let shard = &config.shards[usize::from(place.shard.0)].name;
    let key = String::from_utf8_lossy(record.key.unwrap_or_default());
    let tenant = router.tenant_of(record).map(|tenant| String::from_utf8_lossy(&tenant).into_owned());
    let lanes = config.engine.lanes;
    let hash = key_hash(record.key, record.offset);
    let lane = lane_of(hash, lanes);
    let murmur = murmur2(key.as_bytes()) as i32;
    if arguments.json {
        let line = json!({
            "topic": topic, "key": key, "tenant": tenant, "shard": shard, "partition": place.partition, "lane": lane,
            "murmur2": murmur,
        });
        return console::out(line);
    }
    let shown = tenant.as_deref().unwrap_or("-");
    console::out(format_args!("{key}\ttenant {shown}\tshard {shard}\tpartition {}\tlane {lane}", place.partition));
    if !arguments.explain {
        return;
    }
    let tenant_is = match &config.routing.tenant {
        Tenant::Key => "the key".to_owned(),
        Tenant::KeyPart(n) => format!("part {n} of the key, split at {:?}", config.routing.delimiter),
        Tenant::Header(name) => format!("header {name}"),
        Tenant::Field(name) => format!("field {name}"),
    };
    let by = match &config.routing.by {
        _ if config.shards.len() == 1 => "there is only one".to_owned(),
        RouteBy::Partition => "its `partitions` have the partition".to_owned(),
        RouteBy::Hash => format!("xxh3({shown}) mod {}", config.shards.len()),
        RouteBy::Modulo => format!("{shown} mod {}", config.shards.len()),
        RouteBy::Map { file, .. } => format!("{} says so", file.display()),
        RouteBy::Function { generation } => format!("the function {generation} says so"),
    };
    let of = match place.candidates == placement.partitions() as usize {
        true => format!("all {} partitions", place.candidates),
        false => format!("the shard's {} partitions, in ascending order", place.candidates),
    };
    console::out(format_args!("  tenant: {tenant_is}"));
    console::out(format_args!("  shard: {by}"));
    console::out(format_args!(
        "  partition: number {} of {of}: murmur2(key) = {murmur}, without its sign {}, mod {}",
        place.index, place.hash, place.candidates
    ));
    console::out(format_args!(
        "  lane: xxh3(key) = {}, mod {lanes}, as configured; the number that the database keeps for the partition wins (forebay fences show)",
        hash as u64
    ));
}

fn packed(headers: &[String]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    for header in headers {
        let (name, value) = header.split_once('=')?;
        Headers::pack(&mut packed, name, Some(value.as_bytes()));
    }
    Some(packed)
}

/// As a payload could have them: a tenant's text is that of the string and that of the integer.
#[expect(clippy::option_option, reason = "no fields, no value; and a field that is none")]
fn object(fields: &[String]) -> Option<Option<Vec<u8>>> {
    if fields.is_empty() {
        return Some(None);
    }
    let mut object = Map::new();
    for field in fields {
        let (name, value) = field.split_once('=')?;
        object.insert(name.to_owned(), Value::from(value));
    }
    Some(Some(Value::Object(object).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_texts_as_they_were_written() {
        let fields = |fields: &[&str]| object(&fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>());
        assert_eq!(fields(&["app=007", "x=a=b"]), Some(Some(br#"{"app":"007","x":"a=b"}"#.to_vec())));
        assert_eq!((fields(&[]), fields(&["app"])), (Some(None), None));
    }
}
