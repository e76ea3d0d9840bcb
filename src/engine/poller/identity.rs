//! Which incarnation of each topic this is: asked until known, then compared now and then.

use std::time::Duration;

use crate::engine::poller::{ASK_AGAIN, IDENTITY_INTERVAL, Poller};
use crate::sink::{Identity, Reason};
use crate::source::{Source, SourceError};
use crate::types::TopicIx;

impl<S: Source> Poller<S> {
    /// Asks the broker for the topics' identities, at first until it answers, then now and then: a recreated topic goes on in
    /// silence otherwise.
    pub(super) fn check_identities(&mut self, now: Duration) {
        if now < self.core.identity_at {
            return;
        }
        match self.ask_identities() {
            Ok(()) => self.core.identity_at = now + IDENTITY_INTERVAL,
            Err(error) => {
                tracing::warn!("cannot identify the topics: {error}; asking again");
                self.core.identity_at = now + ASK_AGAIN;
            }
        }
    }

    pub(super) fn ask_identities(&mut self) -> Result<(), SourceError> {
        for index in 0..self.core.topics.len() {
            let topic = TopicIx(index as u16);
            if self.core.topics[index].stopped.is_some() {
                continue;
            }
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
                    "{}: {before} partitions became {count}: keys that move to another partition lose their order across the \
                     change",
                    self.core.settings.topics[index].name
                ),
                _ => {}
            }
        }
        self.core.identities_known = true;
        Ok(())
    }
}
