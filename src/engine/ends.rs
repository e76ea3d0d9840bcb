//! Where the logs end: asked for on a client and a thread of its own, because what the consumer knows goes stale while it is paused,
//! and because a broker that is away must not hold up the poller. Without it nothing but the message lag is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use rdkafka::consumer::BaseConsumer;

use crate::clock::Clock;
use crate::config;
use crate::engine::observed::Observed;
use crate::source::SourceError;
use crate::source::client::{Context, client_config};
use crate::source::logs;
use crate::types::{NextOffset, TopicPartition};

/// How often the ends are asked for.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer is waited for: less than whoever ends the process waits for this thread.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Says where logs end.
pub trait Logs {
    /// In the order of `of`; none of one that nobody knows about now.
    fn ends(&mut self, of: &[TopicPartition]) -> Vec<Option<NextOffset>>;
}

/// What is known of the logs' ends, for whoever looks.
#[derive(Debug, Default)]
pub struct Ends(Mutex<BTreeMap<TopicPartition, End>>);

/// A log's end, as of the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub end: NextOffset,
    reached: NextOffset,
    /// Since when there has been more in the log than was reached, and nothing of it was.
    pub stuck_since: Option<Duration>,
}

impl Ends {
    pub fn of(&self, at: TopicPartition) -> Option<End> {
        self.0.lock().get(&at).copied()
    }

    /// Takes answers: the partition, how far it is, and where it ends. Others are forgotten; of one without an answer what was
    /// known still holds.
    fn look(&self, answers: &[(TopicPartition, NextOffset, Option<NextOffset>)], now: Duration) {
        let mut known = self.0.lock();
        let before = std::mem::take(&mut *known);
        for &(at, reached, end) in answers {
            let last = before.get(&at).copied();
            let Some(end) = end.or(last.map(|last| last.end)) else { continue };
            let more = end > reached;
            let still = last.filter(|last| last.reached == reached).and_then(|last| last.stuck_since);
            known.insert(at, End { end, reached, stuck_since: more.then(|| still.unwrap_or(now)) });
        }
    }
}

/// See the module's text.
pub struct EndsLoop<L> {
    logs: L,
    observed: Arc<Observed>,
    ends: Arc<Ends>,
    clock: Arc<dyn Clock>,
}

impl<L: Logs> EndsLoop<L> {
    pub fn new(logs: L, observed: Arc<Observed>, ends: Arc<Ends>, clock: Arc<dyn Clock>) -> EndsLoop<L> {
        EndsLoop { logs, observed, ends, clock }
    }

    /// Until the sender of `stop` is gone.
    pub fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(ASK_EVERY) == Err(RecvTimeoutError::Timeout) {
            self.step();
        }
    }

    /// One look at all partitions that this process has.
    pub fn step(&mut self) {
        let view = self.observed.view();
        let of: Vec<TopicPartition> = view.partitions.iter().map(|p| p.at).collect();
        let ends = self.logs.ends(&of);
        let answers: Vec<_> = view.partitions.iter().zip(ends).map(|(p, end)| (p.at, p.reached(), end)).collect();
        self.ends.look(&answers, self.clock.now());
    }
}

/// The brokers.
pub struct KafkaLogs {
    consumer: BaseConsumer<Context>,
    topics: Vec<String>,
}

impl KafkaLogs {
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn new(config: &config::Config) -> Result<KafkaLogs, SourceError> {
        let consumer = client_config(&config.kafka)
            .create_with_context(Context::default())
            .map_err(|error| SourceError::Fatal(error.to_string()))?;
        Ok(KafkaLogs { consumer, topics: config.topics.iter().map(|topic| topic.name.clone()).collect() })
    }
}

impl Logs for KafkaLogs {
    fn ends(&mut self, of: &[TopicPartition]) -> Vec<Option<NextOffset>> {
        // Serves what the client has to say; the consumer proper says the same.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        let names: Vec<(&str, i32)> =
            of.iter().map(|at| (self.topics[usize::from(at.topic.0)].as_str(), at.partition)).collect();
        let end = |log: Result<_, SourceError>| match log {
            Ok(crate::source::Watermarks { high, .. }) => Some(high),
            Err(error) => {
                tracing::debug!("the end of a log is not known: {error}");
                None
            }
        };
        logs::watermarks(&self.consumer, &names, ASK_DEADLINE).into_iter().map(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicIx;

    const AT: TopicPartition = TopicPartition { topic: TopicIx(0), partition: 0 };

    #[test]
    fn who_fetches_nothing_of_what_there_is_is_stuck_since_then() {
        let ends = Ends::default();
        let check = |second: u64, fetched: i64, end: Option<i64>, expected: Option<(i64, Option<u64>)>| {
            let now = Duration::from_secs(second);
            ends.look(&[(AT, NextOffset(fetched), end.map(NextOffset))], now);
            let found = ends.of(AT).map(|e| (e.end.0, e.stuck_since.map(|since| since.as_secs())));
            assert_eq!(found, expected, "at {second} s");
        };
        check(0, 5, None, None);
        check(1, 5, Some(5), Some((5, None)));
        check(2, 5, Some(9), Some((9, Some(2))));
        check(3, 5, None, Some((9, Some(2)))); // the broker is away: what was known still holds
        check(9, 5, Some(12), Some((12, Some(2))));
        check(10, 7, Some(13), Some((13, Some(10)))); // it moves
        check(11, 13, Some(13), Some((13, None)));
        check(12, 13, Some(13), Some((13, None))); // producers idle
        ends.look(&[], Duration::from_secs(13));
        assert_eq!(ends.of(AT), None, "given back");
    }
}
