//! PostgreSQL as a sink: [`PostgresControl`] for a shard's control thread, [`PostgresWriter`] for each worker, and the topics'
//! numbers that they share. The protocol that both follow is described in `fence`.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::sink::place::Places;

pub use crate::sink::control::PostgresControl;
pub use crate::sink::writer::PostgresWriter;
use crate::types::TopicIx;

/// What is known of forebay's own rows in one shard. The number of each topic (`forebay.source`), 0 until it is known: found by the
/// control thread, used by the workers; one that is out of date does no harm, because no fence under it holds our token. And where
/// fences lie.
#[derive(Debug)]
pub struct OwnRows {
    ids: Vec<AtomicI32>,
    places: Places,
}

impl OwnRows {
    pub fn new(topics: usize) -> OwnRows {
        OwnRows { ids: (0..topics).map(|_| AtomicI32::new(0)).collect(), places: Places::default() }
    }

    pub fn get(&self, topic: TopicIx) -> i32 {
        self.ids[usize::from(topic.0)].load(Ordering::Acquire)
    }

    pub fn set(&self, topic: TopicIx, id: i32) {
        self.ids[usize::from(topic.0)].store(id, Ordering::Release);
    }

    pub fn places(&self) -> &Places {
        &self.places
    }
}
