//! What the brokers' logs hold: asked for as often as somebody likes, on any client, without a part in the group.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;

use crate::source::client::{Context, is_fatal};
use crate::source::{SourceError, Watermarks, ask};
use crate::types::NextOffset;

/// Begin and end of each log (topic, partition), in their order. Asks the brokers, not a cache, and all of them at once.
pub fn watermarks(
    consumer: &BaseConsumer<Context>,
    of: &[(&str, i32)],
    deadline: Duration,
) -> Vec<Result<Watermarks, SourceError>> {
    // One without a leader would take the others' answers with it.
    let leaders = leaders(consumer, of, deadline);
    let led: Vec<(&str, i32)> = of.iter().zip(&leaders).filter(|(_, l)| l.is_ok()).map(|(of, _)| *of).collect();
    let mut logs = logs(consumer, &led, deadline).into_iter();
    leaders.into_iter().map(|leader| leader.and_then(|()| logs.next().expect("an answer for each"))).collect()
}

/// Whether each partition has a leader.
fn leaders(consumer: &BaseConsumer<Context>, of: &[(&str, i32)], deadline: Duration) -> Vec<Result<(), SourceError>> {
    let mut topics: HashMap<&str, Result<Metadata, SourceError>> = HashMap::new();
    // Brokers that did not answer about one topic are not waited for again.
    let mut silent: Option<SourceError> = None;
    let leader = |&(topic, partition)| {
        let ask = || match &silent {
            Some(error) => Err(error.clone()),
            None => consumer.fetch_metadata(Some(topic), deadline).map_err(refused),
        };
        let answer = topics.entry(topic).or_insert_with(ask);
        if let Err(error @ SourceError::Retriable(_)) = answer {
            silent.get_or_insert_with(|| error.clone());
        }
        let metadata = answer.as_ref().map_err(Clone::clone)?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        match partitions.into_iter().find(|p| p.id() == partition).map(|p| p.leader()) {
            Some(leader) if leader >= 0 => Ok(()),
            _ => Err(SourceError::Retriable("it has no leader".to_owned())),
        }
    };
    of.iter().map(leader).collect()
}

/// What the logs hold, asked together.
fn logs(
    consumer: &BaseConsumer<Context>,
    of: &[(&str, i32)],
    deadline: Duration,
) -> Vec<Result<Watermarks, SourceError>> {
    match ask::logs(consumer.client(), of, deadline) {
        Ok(found) => {
            let log = |(low, high)| Watermarks { low: NextOffset(low), high: NextOffset(high) };
            found.into_iter().map(|found| found.map(log).map_err(answered)).collect()
        }
        Err(refusal) => vec![Err(answered(refusal)); of.len()],
    }
}

/// An error of the client, by what is to be done about it.
pub(super) fn refused(error: KafkaError) -> SourceError {
    match error.rdkafka_error_code() {
        Some(code) => answered((code, error.to_string())),
        None => SourceError::Retriable(error.to_string()),
    }
}

/// Likewise of an answer to a question of ours.
pub(super) fn answered((code, text): ask::Refusal) -> SourceError {
    let text = format!("{text} ({code:?})");
    match code {
        _ if is_fatal(code) => SourceError::Fatal(text),
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed => SourceError::Refused(text),
        _ => SourceError::Retriable(text),
    }
}
