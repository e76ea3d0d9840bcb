//! PostgreSQL as a sink: [`PostgresControl`] for a shard's control thread, [`PostgresWriter`] for each worker, and the topics'
//! numbers that they share. The protocol that both follow is described in `fence`.

use std::sync::atomic::{AtomicI32, Ordering};

pub use crate::sink::control::PostgresControl;
pub use crate::sink::writer::PostgresWriter;
use crate::types::TopicIx;

/// The number of each topic in one shard (`forebay.source`), 0 until it is known: found by the control thread, used by the
/// workers. A number that is out of date does no harm: no fence under it holds our token.
#[derive(Debug)]
pub struct SourceIds(Vec<AtomicI32>);

impl SourceIds {
    pub fn new(topics: usize) -> SourceIds {
        SourceIds((0..topics).map(|_| AtomicI32::new(0)).collect())
    }

    pub fn get(&self, topic: TopicIx) -> i32 {
        self.0[usize::from(topic.0)].load(Ordering::Acquire)
    }

    pub fn set(&self, topic: TopicIx, id: i32) {
        self.0[usize::from(topic.0)].store(id, Ordering::Release);
    }
}
