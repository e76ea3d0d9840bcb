//! Memory for what comes in and what goes out. A connection has a buffer as long as there is something in it; idle ones have
//! none. Buffers go round through a pool, which also knows how much all of them hold.

/// What a buffer begins with, and what the pool keeps. Large enough for most requests, or for many small ones.
const BUFFER_BYTES: usize = 16 << 10;
/// Less room than this is not worth a read.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// How many buffers of a kind the pool keeps while nobody needs them.
const SPARE_MAX: usize = 64;

/// What buffers that grew may hold of `all`: the rest is for those that begin, so that large requests which never end keep no small one out.
pub fn for_grown(all: usize) -> usize {
    all / 4 * 3
}

/// What came in and was not used yet.
#[derive(Debug, Default)]
pub struct Input {
    /// All of it is initialised; what counts lies between `start` and `end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where the next read goes to, once [`Pool::make_room`] said yes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// So much was read into the room.
    pub fn filled(&mut self, length: usize) {
        self.end += length;
        debug_assert!(self.end <= self.bytes.len());
    }

    /// So much from the front was used.
    pub fn consume(&mut self, length: usize) {
        self.start += length;
        debug_assert!(self.start <= self.end);
    }

    /// Only so much from the front counts.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }
}

/// Buffers that nobody needs, and how much the others hold.
#[derive(Debug)]
pub struct Pool {
    spare_inputs: Vec<Vec<u8>>,
    spare_outputs: Vec<Vec<u8>>,
    /// Of all inputs in use.
    held_bytes: usize,
    held_bytes_max: usize,
    /// Of all answers that peers did not take yet, and of the buffers for them.
    unsent_bytes: usize,
}

impl Pool {
    pub fn new(held_bytes_max: usize) -> Pool {
        Pool { spare_inputs: Vec::new(), spare_outputs: Vec::new(), held_bytes: 0, held_bytes_max, unsent_bytes: 0 }
    }

    /// Makes sure that `input` has room for a read. `false`: all inputs together have reached their bound.
    pub fn make_room(&mut self, input: &mut Input) -> bool {
        if input.bytes.len() - input.end >= ROOM_BYTES_MIN {
            return true;
        }
        if input.start > 0 {
            input.bytes.copy_within(input.start..input.end, 0);
            (input.start, input.end) = (0, input.end - input.start);
            if input.bytes.len() - input.end >= ROOM_BYTES_MIN {
                return true;
            }
        }
        let more = input.bytes.len().max(BUFFER_BYTES);
        let max = if input.bytes.is_empty() { self.held_bytes_max } else { for_grown(self.held_bytes_max) };
        if self.held_bytes + more > max {
            return false;
        }
        self.held_bytes += more;
        if input.bytes.is_empty() {
            input.bytes = self.spare_inputs.pop().unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        } else {
            input.bytes.resize(input.bytes.len() + more, 0);
        }
        true
    }

    /// Takes the memory of an input back; what is in it is lost.
    pub fn take_input(&mut self, input: &mut Input) {
        let input = std::mem::take(input);
        self.held_bytes -= input.bytes.len();
        if input.bytes.len() == BUFFER_BYTES && self.spare_inputs.len() < SPARE_MAX {
            self.spare_inputs.push(input.bytes);
        }
    }

    /// A buffer for answers.
    pub fn output(&mut self) -> Vec<u8> {
        self.spare_outputs.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes such a buffer back; what is in it is lost.
    pub fn take_output(&mut self, mut bytes: Vec<u8>) {
        let grown = bytes.capacity() > 4 * BUFFER_BYTES;
        if bytes.capacity() > 0 && !grown && self.spare_outputs.len() < SPARE_MAX {
            bytes.clear();
            self.spare_outputs.push(bytes);
        }
    }

    /// A connection that held `before` bytes of answers holds `now`.
    pub fn hold(&mut self, before: usize, now: usize) {
        self.unsent_bytes = self.unsent_bytes - before + now;
    }

    /// What all connections together hold of answers.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    #[cfg(test)]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &mut Pool, input: &mut Input, length: usize) -> bool {
        for _ in 0..length {
            if !pool.make_room(input) {
                return false;
            }
            input.room()[0] = b'x';
            input.filled(1);
        }
        true
    }

    #[test]
    fn inputs_hold_no_more_together_than_they_may() {
        let mut pool = Pool::new(4 * BUFFER_BYTES);
        let mut inputs: [Input; 4] = Default::default();
        let [one, other, another, late] = &mut inputs;
        assert!(fill(&mut pool, one, BUFFER_BYTES), "it doubles before it is full");
        assert_eq!(pool.held_bytes(), 2 * BUFFER_BYTES);
        assert!(fill(&mut pool, other, 1));
        assert!(
            !fill(&mut pool, other, BUFFER_BYTES) && !fill(&mut pool, one, BUFFER_BYTES),
            "what is left is not for them"
        );
        assert!(fill(&mut pool, another, 1) && !fill(&mut pool, late, 1));
        inputs.iter_mut().for_each(|input| pool.take_input(input));
        assert_eq!(pool.held_bytes(), 0);
        assert_eq!(pool.spare_inputs.len(), 2, "the grown one is not kept");
    }

    #[test]
    fn what_was_used_makes_room() {
        let mut pool = Pool::new(BUFFER_BYTES);
        let mut input = Input::default();
        for _ in 0..10 {
            assert!(fill(&mut pool, &mut input, BUFFER_BYTES / 2));
            input.consume(BUFFER_BYTES / 2 - 1);
            input.truncate(1);
            input.consume(1);
        }
        assert_eq!(pool.held_bytes(), BUFFER_BYTES);
    }
}
