//! Dead letters on to a Kafka topic. The table is their outbox: a letter is in it first, exactly once, with the fence that
//! moved past its record; only then does it go on, at least once, and only after the brokers' acknowledgement is it marked.
//! A letter sent before the COMMIT could describe a record that the retry then applies.
//!
//! [`Outbox`] is what [`forwarder`] needs of a shard's database, [`Publisher`] what it needs of Kafka. Nothing here stops the
//! engine: a topic that is missing, full or forbidden leaves the letters in the table.

pub mod forwarder;
pub mod message;
pub mod outbox;
pub mod producer;

use crate::sink::Failure;
use message::Message;

/// A dead letter as it lies in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub id: i64,
    /// The topic's number in `forebay.source`.
    pub source: i32,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When it became one: UTC, ISO 8601.
    pub at: String,
    /// The record's own time, in milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    pub sqlstate: Option<String>,
    pub error: String,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// Packed; [`Headers`](crate::state::chunk::Headers) reads them.
    pub headers: Vec<u8>,
}

/// What became of a letter that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The brokers have it.
    Acknowledged,
    /// The topic will never take this one; others are not concerned.
    Refused(String),
    /// Not now; whether the brokers have it is unknown.
    NotNow(Trouble),
}

/// Why nothing can be published at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub text: String,
    /// Waiting alone does not help.
    pub needs_a_person: bool,
}

/// Publishes claimed letters and says what became of each, in their order.
pub type Publish<'a> = dyn FnMut(&[Letter]) -> Vec<Verdict> + 'a;

/// The letters of one shard and group.
pub trait Outbox {
    /// Of each of these topics: are there letters that nobody has forwarded or decided about?
    fn due(&mut self, topics: &[String]) -> Result<Vec<bool>, Failure>;
    /// Some of them, in the order of their ids, in one transaction that marks what `publish` says of each. False where another
    /// process of the group is about it: then nothing was done. After a failure what was published may not be marked, and
    /// comes again.
    fn claim(&mut self, topic: &str, publish: &mut Publish<'_>) -> Result<bool, Failure>;
}

/// The brokers.
pub trait Publisher {
    /// Whether they know this topic and answer: asked before letters are claimed.
    fn ready(&mut self, topic: &str) -> Result<(), Trouble>;
    /// Sends the messages in their order and waits, for a bounded time, for an answer about each.
    fn publish(&mut self, topic: &str, messages: &[Message<'_>]) -> Vec<Verdict>;
    /// Nothing is to be published at the moment; called about once a second then.
    fn rest(&mut self);
}
