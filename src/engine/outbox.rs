//! Requests on their way to a control thread. None is dropped: while the thread waits for its database its inbox may fill up,
//! and a takeover or a progress request that got lost would never be asked for again.

use std::collections::VecDeque;

use crossbeam_channel::{Sender, TrySendError};

use crate::engine::event::Request;
use crate::types::{Generation, TopicPartition};

/// See the module's text. What waits here is bounded: per partition the questions of its present tenure and one cancellation,
/// per topic one progress request. Older ones go with the cancellation.
pub struct Outbox {
    inbox: Sender<Request>,
    waiting: VecDeque<Request>,
}

impl Outbox {
    pub fn new(inbox: Sender<Request>) -> Outbox {
        Outbox { inbox, waiting: VecDeque::new() }
    }

    /// Sends a request, behind those that wait.
    pub fn push(&mut self, request: Request) {
        if let Request::Cancel { at, generation } = &request {
            self.cancel(*at, *generation);
        }
        self.waiting.push_back(request);
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub fn flush(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            match self.inbox.try_send(request) {
                Ok(()) => {}
                Err(TrySendError::Full(request)) => return self.waiting.push_front(request),
                // The thread panicked; it told the poller so.
                Err(TrySendError::Disconnected(_)) => return self.waiting.clear(),
            }
        }
    }

    /// What waits for tenures that are over need not be sent; only the thread's own part of it is to be cancelled.
    fn cancel(&mut self, over: TopicPartition, until: Generation) {
        self.waiting.retain_mut(|request| match request {
            Request::Locate { topic, partitions, .. } => {
                partitions.retain(|(p, g)| *topic != over.topic || *p != over.partition || *g > until);
                !partitions.is_empty()
            }
            Request::Takeover { takeover, generation } => takeover.at != over || *generation > until,
            Request::Cancel { at, generation } => *at != over || *generation > until,
            Request::Progress { .. } | Request::Probe => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Takeover;
    use crate::types::{NextOffset, Token, TopicIx};
    use crossbeam_channel::bounded;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicIx(0), partition }
    }

    fn takeover(partition: i32, generation: u64) -> Request {
        let takeover = Takeover { at: at(partition), token: Token(1), lanes: 1, begin: NextOffset(0) };
        Request::Takeover { takeover, generation: Generation(generation) }
    }

    fn cancel(partition: i32, generation: u64) -> Request {
        Request::Cancel { at: at(partition), generation: Generation(generation) }
    }

    fn show(request: &Request) -> String {
        match request {
            Request::Takeover { takeover, generation } => format!("take {} {}", takeover.at.partition, generation.0),
            Request::Cancel { at, generation } => format!("cancel {} {}", at.partition, generation.0),
            Request::Progress { .. } => "progress".into(),
            Request::Probe => "probe".into(),
            Request::Locate { partitions, .. } => format!("locate {}", partitions.len()),
        }
    }

    /// Two thousand partitions whose takeovers are asked for while the thread waits for its database: each arrives.
    #[test]
    fn a_full_inbox_loses_nothing_and_keeps_the_order() {
        let (inbox, thread) = bounded(2);
        let mut outbox = Outbox::new(inbox);
        (0..2000).for_each(|partition| outbox.push(takeover(partition, 1)));
        outbox.push(Request::Progress { topic: TopicIx(0), of: Vec::new() });
        let mut got = Vec::new();
        while let Ok(request) = thread.try_recv() {
            got.push(show(&request));
            outbox.flush();
        }
        let wanted = (0..2000).map(|p| format!("take {p} 1")).chain(["progress".to_owned()]);
        assert!(got.iter().eq(&wanted.collect::<Vec<_>>()), "{} came: {:?}", got.len(), got.last());
    }

    /// However often a partition starts over meanwhile, what waits for it does not add up.
    #[test]
    fn what_is_cancelled_while_it_waits_is_not_sent() {
        let (inbox, thread) = bounded(1);
        let mut outbox = Outbox::new(inbox);
        outbox.push(takeover(0, 1));
        outbox.push(takeover(1, 2));
        for generation in 1..1000 {
            outbox.push(cancel(0, generation));
            outbox.push(takeover(0, generation + 1));
        }
        assert_eq!(outbox.waiting.len(), 3);
        let mut got = Vec::new();
        while let Ok(request) = thread.try_recv() {
            got.push(show(&request));
            outbox.flush();
        }
        assert_eq!(got, ["take 0 1", "take 1 2", "cancel 0 999", "take 0 1000"]);
    }
}
