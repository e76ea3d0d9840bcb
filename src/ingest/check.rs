//! What `forebay check` says of the gateway: whether each route fits its table in every shard, and whether every shard has a partition of its
//! topic. It asks databases and brokers, and changes neither.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use crate::check::{Finding, Report};
use crate::config::Config;
use crate::config::load::Loaded;
use crate::ingest::catalog::topics;
use crate::ingest::rules::{Rules, Tables};
use crate::ingest::watch::tables_of;
use crate::source::client::client_config;
use crate::words::counted;

const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// Adds to a report what there is to say; nothing without `[ingest]`. Shards and brokers that do not answer are in the report already.
pub fn check(loaded: &Loaded, report: &mut Report) {
    let config = &loaded.config;
    let Some(ingest) = &config.ingest else { return };
    let mut partitions = vec![None; config.topics.len()];
    for topic in topics(config) {
        partitions[topic] = partitions_of(config, &config.topics[topic].name).ok();
    }
    let finding = |key: &str, found: String, expected: &str| Finding::from(loaded.places.problem(key, found, expected));
    let mut tables = Tables::new();
    for shard in 0..config.shards.len() {
        // Each shard alone, or what one of them lacks would be said of all.
        let Ok(found) = tables_of(config, shard) else { continue };
        // A table that is not there is in the report already.
        let found = found.into_iter().filter_map(|(topic, catalog)| Some(((shard, topic), catalog.ok()?)));
        let of_shard: Tables = found.collect();
        let rules = Rules::new(config, &of_shard, &partitions);
        for (index, (route, compiled)) in ingest.routes.iter().zip(&rules.routes).enumerate() {
            if let Err(why) = compiled
                && of_shard.contains_key(&(shard, route.topic))
            {
                let why = why.clone();
                let expected = "a route that its table can serve";
                report.problems.push(finding(&format!("ingest.route[{index}].path"), why, expected));
            }
        }
        tables.extend(of_shard);
    }
    let rules = Rules::new(config, &tables, &partitions);
    for topic in topics(config) {
        let Some(placement) = &rules.placements[topic] else { continue };
        for shard in placement.without_partition() {
            let (shard, name) = (&config.shards[usize::from(shard.0)].name, &config.topics[topic].name);
            let found =
                format!("shard {shard:?} without a partition of topic {name}, which has {}", placement.partitions());
            report.problems.push(finding(
                "ingest",
                found,
                "at least one of each topic in the `partitions` of each shard",
            ));
        }
    }
    let routes = ingest.routes.len() as u64;
    if rules.routes.iter().all(|route| route.as_ref().is_ok_and(|route| route.of_shard.iter().all(Result::is_ok))) {
        report.checked.push(format!("gateway: {} that the tables can serve", counted(routes, "route")));
    }
}

/// How many partitions a topic has.
///
/// # Errors
/// What the brokers say instead.
pub fn partitions_of(config: &Config, topic: &str) -> Result<i32, String> {
    let consumer: BaseConsumer = client_config(&config.kafka).create().map_err(|error| error.to_string())?;
    let metadata = consumer.fetch_metadata(Some(topic), ASK_DEADLINE).map_err(|error| error.to_string())?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| (found.error(), found.partitions().len())) {
        Some((None, count)) if count > 0 => Ok(count as i32),
        Some((Some(error), _)) => Err(RDKafkaErrorCode::from(error).to_string()),
        _ => Err("the brokers do not know it".to_owned()),
    }
}
