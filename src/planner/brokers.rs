//! Whether the brokers can have what a plan is about to write: topics that exist keep their partitions, and there are as many brokers as
//! copies. Asks, and changes nothing.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::Config;
use crate::planner::PlanError;
use crate::planner::plan::Plan;
use crate::source::client::client_config;
use crate::words::counted;

const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// # Errors
/// [`PlanError::Unavailable`] without an answer; [`PlanError::Configuration`] says what is there, and what the plan has.
pub fn fits(config: &Config, plan: &Plan) -> Result<(), PlanError> {
    let silent = |error: &dyn std::fmt::Display| {
        PlanError::Unavailable(format!("the brokers: {error}; --offline writes without asking them"))
    };
    // Never subscribed: the group does not notice.
    let consumer: BaseConsumer = client_config(&config.kafka).create().map_err(|error| silent(&error))?;
    let all = consumer.fetch_metadata(None, ASK_DEADLINE).map_err(|error| silent(&error))?;
    let brokers = all.brokers().len() as u64;
    if brokers < plan.replication {
        return Err(PlanError::Configuration(format!(
            "found {}, expected at least {} for so many copies of a record: --replication",
            counted(brokers, "broker"),
            plan.replication
        )));
    }
    for topic in &config.topics {
        let known = all.topics().iter().find(|known| known.name() == topic.name && !known.partitions().is_empty());
        let Some(found) = known.map(|known| known.partitions().len()).filter(|found| *found != plan.partitions) else {
            continue;
        };
        return Err(PlanError::Configuration(format!(
            "topic {}: found {}, and the plan has {}: nothing is written. More partitions move keys to other ones, and shards to other \
             partitions: plan a new topic, or with --partitions-per-shard so many that this one stays as it is",
            topic.name,
            counted(found as u64, "partition"),
            plan.partitions
        )));
    }
    Ok(())
}
