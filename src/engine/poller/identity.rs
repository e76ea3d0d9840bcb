//! Which incarnation of each topic this is: asked until known, then compared now and then.

use std::time::Duration;

use crate::engine::poller::{Closing, Core, IDENTITY_INTERVAL, Poller, Stop};
use crate::sink::{Identity, Reason};
use crate::source::{ASK_DEADLINE, Source, SourceError};
use crate::types::TopicIx;

/// How long `--until-end` waits for a topic that the brokers do not know: one that was just created is not known at once.
const CREATION_PATIENCE: Duration = Duration::from_secs(10);

impl<S: Source> Poller<S> {
    /// Asks the brokers for the topics' identities, at first until they answer, then now and then: a recreated topic goes on
    /// in silence otherwise. A topic without an answer holds up no other.
    pub(super) fn check_identities(&mut self, now: Duration) -> Result<(), Stop> {
        // Whoever leaves has no use for them, and a broker that is away makes each question wait its whole deadline.
        if now < self.core.identity_at || self.core.closing != Closing::No {
            return Ok(());
        }
        let (count, from) = (self.core.topics.len(), self.core.identity_from);
        let mut complete = true;
        for index in (from..count).chain(0..from) {
            if self.core.topics[index].stopped.is_some() {
                continue;
            }
            if self.core.clock.now() >= now + ASK_DEADLINE {
                (complete, self.core.identity_from) = (false, index);
                break;
            }
            let topic = TopicIx(index as u16);
            match self.ask_identity(topic) {
                Ok(()) => self.core.topics[index].refused = None,
                Err(SourceError::Fatal(what)) => return Err(Stop::Kafka(what)),
                Err(SourceError::Refused(what)) => {
                    complete = false;
                    self.core.not_known(topic, &what);
                }
                Err(SourceError::Retriable(what)) => {
                    complete = false;
                    let name = self.core.topic_name(topic);
                    tracing::warn!(
                        topic = name,
                        "topic {name:?}: the brokers do not say which it is: {what}; asking again"
                    );
                }
            }
        }
        let wait = if complete {
            self.core.identity_backoff.reset();
            IDENTITY_INTERVAL
        } else {
            self.core.identity_backoff.next(self.core.rng.f64())
        };
        self.core.identity_at = self.core.clock.now() + wait;
        Ok(())
    }

    pub(super) fn ask_identity(&mut self, topic: TopicIx) -> Result<(), SourceError> {
        let index = usize::from(topic.0);
        let known = self.core.topics[index].identity.clone();
        let cluster_id = match &known {
            Some(identity) => identity.cluster_id.clone(),
            None => self.source.cluster_id()?,
        };
        let topic_id = self.source.topic_id(topic)?;
        match known.and_then(|identity| identity.topic_id) {
            Some(old) if topic_id.as_ref().is_some_and(|new| *new != old) => {
                let text = format!(
                    "the topic was deleted and created again: its id was {old} and is {} now. Its offsets mean other \
                     records; `forebay fences reset` begins with the new topic",
                    topic_id.as_deref().unwrap_or("unknown"),
                );
                self.core.stop_topic(topic, None, Reason::new(text));
            }
            Some(_) => {}
            None => self.core.topics[index].identity = Some(Identity { cluster_id, topic_id }),
        }
        let count = self.source.partitions(topic)?;
        match self.core.topics[index].partitions.replace(count) {
            Some(before) if before != count => tracing::warn!(
                topic = self.core.settings.topics[index].name,
                "topic {}: {before} partitions became {count}: keys that move to another partition lose their order across the \
                 change",
                self.core.settings.topics[index].name
            ),
            _ => {}
        }
        Ok(())
    }
}

impl Core {
    /// The brokers do not know a topic: said once, and again when it has been there in between.
    fn not_known(&mut self, topic: TopicIx, what: &str) {
        let now = self.clock.now();
        let since = self.topics[usize::from(topic.0)].refused;
        let name = self.topic_name(topic);
        match since {
            None => {
                tracing::error!(
                    topic = name,
                    "topic {name:?}: {what}. It is looked for until it is there; other topics go on"
                );
                self.topics[usize::from(topic.0)].refused = Some(now);
            }
            Some(since) if self.settings.until_end && now >= since + CREATION_PATIENCE => {
                self.stop = Some(Stop::Configuration(format!("topic {name:?}: {what}")));
            }
            Some(_) => {}
        }
    }
}
