//! Emptied chunks and their blocks, kept for another use.
//!
//! A moment of many small chunks makes many of them: what is kept is bounded in bytes, not in number.

use crate::state::chunk::{Blocks, Chunk};
use crate::types::TopicIx;

/// Memory of the chunks kept, without blocks; what does not fit in is freed.
const FOOTPRINT_MAX: usize = 2 << 20;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Spares {
    /// For the chunks that are being filled.
    pub blocks: Blocks,
    chunks: Vec<Box<Chunk>>,
    footprint: usize,
}

impl Spares {
    /// An empty chunk: the one kept last, whose memory the processor's caches hold best, or a new one.
    pub fn take(&mut self, topic: TopicIx) -> Box<Chunk> {
        match self.chunks.pop() {
            Some(mut chunk) => {
                self.footprint -= chunk.footprint();
                chunk.topic = topic;
                chunk
            }
            None => Box::new(Chunk::new(topic)),
        }
    }

    pub fn keep(&mut self, mut chunk: Box<Chunk>) {
        chunk.empty(&mut self.blocks);
        let footprint = chunk.footprint();
        if self.footprint + footprint <= FOOTPRINT_MAX {
            self.footprint += footprint;
            self.chunks.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::chunk::RawRecord;
    use crate::types::{Generation, NextOffset, Offset, Token, TopicPartition};

    fn chunk_of(records: usize) -> Box<Chunk> {
        let mut chunk = Box::new(Chunk::new(TopicIx(0)));
        let at = TopicPartition { topic: TopicIx(0), partition: 0 };
        let run = chunk.open_run(at, 0, Generation(1), Token(1), NextOffset(0));
        for n in 0..records {
            let offset = Offset(n as i64);
            chunk.push(run, 0, 0, &RawRecord { offset, timestamp_ms: 0, key: None, value: Some(b"v"), headers: &[] });
        }
        chunk
    }

    #[test]
    fn a_chunk_comes_back_empty_and_with_its_memory() {
        let mut spares = Spares::default();
        let before = chunk_of(100);
        let footprint = before.footprint();
        spares.keep(before);
        let chunk = spares.take(TopicIx(3));
        assert!(chunk.is_empty() && chunk.runs.is_empty() && chunk.bytes() == 0);
        assert_eq!((chunk.topic, chunk.footprint()), (TopicIx(3), footprint));
        assert!(spares.take(TopicIx(0)).footprint() < footprint, "there was one only");
        assert_eq!(spares.footprint, 0);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_whether_chunks_are_many_or_large() {
        let mut spares = Spares::default();
        (0..20_000).for_each(|_| spares.keep(chunk_of(3)));
        assert!(spares.footprint <= FOOTPRINT_MAX && spares.footprint > FOOTPRINT_MAX / 2);
        let (kept, footprint) = (spares.chunks.len(), spares.footprint);
        spares.keep(chunk_of(FOOTPRINT_MAX / 64));
        assert_eq!((spares.chunks.len(), spares.footprint), (kept, footprint), "too large for ever being kept");
    }
}
