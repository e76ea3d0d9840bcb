//! What goes out on a connection, and how long the peer has been taking it. Large bodies are not copied: they wait, as they were
//! given, between the heads.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::buffer::Pool;
use super::response::Body;

/// Bodies up to this are copied behind their heads: for them that is cheaper than a place of their own, and one write takes both.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Pieces that one write is given.
pub const SLICES: usize = 8;

/// Heads and bodies in their order, sent up to somewhere.
#[derive(Debug, Default)]
pub struct Output {
    /// Heads, and bodies that are small.
    bytes: Vec<u8>,
    /// Of `bytes`.
    sent: usize,
    /// Bodies that are large, each with the place among `bytes` where it belongs.
    bodies: VecDeque<(usize, Body)>,
    /// Of the first of them.
    body_sent: usize,
    /// Of all of them.
    bodies_unsent: usize,
    /// As much of what is unsent as was there at `since`: the peer must take that before the deadline. What is added meanwhile
    /// gets a deadline of its own, so neither a trickle nor a busy connection escapes.
    marked: usize,
    since: Option<Instant>,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.unsent_bytes() == 0
    }

    /// What the peer did not take yet.
    pub fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.sent + self.bodies_unsent
    }

    /// What that takes of memory.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.bodies.iter().map(|(_, body)| body.held_bytes()).sum::<usize>()
    }

    /// Behind which a head is written.
    pub fn end(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.output();
        }
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.bodies.iter_mut().for_each(|(at, _)| *at -= self.sent);
            self.sent = 0;
        }
        &mut self.bytes
    }

    /// Behind the head that was written last.
    pub fn push_body(&mut self, body: Body) {
        let bytes = body.bytes();
        if bytes.len() <= COPIED_BYTES_MAX {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bodies_unsent += bytes.len();
            self.bodies.push_back((self.bytes.len(), body));
        }
    }

    /// What is unsent, if it lies in one piece.
    pub fn contiguous(&self) -> Option<&[u8]> {
        self.bodies.is_empty().then(|| &self.bytes[self.sent..])
    }

    /// Puts the first pieces of what is unsent into `slices`, and says how many these are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let (mut count, mut at, mut skipped) = (0, self.sent, self.body_sent);
        let mut push = |piece: &'a [u8]| {
            if !piece.is_empty() && count < SLICES {
                slices[count] = IoSlice::new(piece);
                count += 1;
            }
        };
        // Each body has a head in front of it, but for the first one, whose head may be sent.
        for (place, body) in self.bodies.iter().take(SLICES) {
            push(&self.bytes[at..*place]);
            push(&body.bytes()[skipped..]);
            (at, skipped) = (*place, 0);
        }
        if self.bodies.len() <= SLICES {
            push(&self.bytes[at..]);
        }
        count
    }

    /// The peer took so much.
    pub fn sent(&mut self, mut length: usize, now: Instant) {
        self.marked = self.marked.saturating_sub(length);
        while length > 0 {
            let (place, body) = match self.bodies.front() {
                Some((place, body)) => (*place, body.bytes().len()),
                None => (self.bytes.len(), 0),
            };
            if self.sent < place {
                let taken = length.min(place - self.sent);
                self.sent += taken;
                length -= taken;
                continue;
            }
            let taken = length.min(body - self.body_sent);
            self.body_sent += taken;
            self.bodies_unsent -= taken;
            length -= taken;
            if self.body_sent == body {
                self.bodies.pop_front();
                self.body_sent = 0;
            }
            debug_assert!(taken > 0, "more was sent than there was");
            if taken == 0 {
                break;
            }
        }
        if self.marked == 0 {
            self.since = None;
            self.mark(now);
        }
    }

    /// Begins to wait for the peer, if it has something to take.
    pub fn mark(&mut self, now: Instant) {
        if self.since.is_none() && !self.is_empty() {
            self.marked = self.unsent_bytes();
            self.since = Some(now);
        }
    }

    /// How long the peer has been waited for.
    pub fn waited(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }

    /// Gives its memory back; what is in it is lost.
    pub fn release(&mut self, pool: &mut Pool) {
        pool.take_output(std::mem::take(self).bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_trickle_does_not_move_the_deadline() {
        let (mut pool, mut output) = (Pool::new(0), Output::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let overdue = |output: &Output, seconds| output.waited(at(seconds)) >= Some(Duration::from_secs(10));
        output.end(&mut pool).extend_from_slice(&[0; 100]);
        output.mark(at(0));
        output.sent(90, at(5));
        output.end(&mut pool).extend_from_slice(&[0; 100]);
        output.mark(at(6));
        assert!(!overdue(&output, 9) && overdue(&output, 10), "the first hundred are due at 10");
        output.sent(10, at(9));
        assert!(!overdue(&output, 18) && overdue(&output, 19), "what came later is due 10 after that");
        output.sent(100, at(18));
        assert!(!overdue(&output, 1000));
    }

    /// Heads and bodies of all kinds and sizes come out in their order, however little is taken at a time.
    #[test]
    fn bodies_stay_behind_their_heads() {
        let bodies = || -> Vec<Body> {
            static LARGE: [u8; COPIED_BYTES_MAX + 1] = [b's'; COPIED_BYTES_MAX + 1];
            let small = || Body::Owned(vec![b'c'; COPIED_BYTES_MAX]);
            let shared = Body::Shared(Arc::from(vec![b'h'; 10_000]));
            let owned = || Body::Owned(vec![b'o'; 9_000]);
            let mut bodies = vec![Body::Static(&LARGE), small(), shared.clone(), owned(), Body::Static(b""), shared];
            bodies.extend((0..SLICES).map(|_| owned()));
            bodies.push(small());
            bodies
        };
        let expected: Vec<u8> =
            bodies().iter().enumerate().flat_map(|(n, body)| [&[n as u8; 50][..], body.bytes()].concat()).collect();
        for step in [1, 49, 50, 51, 4_000, 5_000, 1_000_000] {
            let (mut pool, mut output, now) = (Pool::new(0), Output::default(), Instant::now());
            let (mut taken, mut waiting) = (Vec::new(), bodies().into_iter().enumerate());
            loop {
                // Some is sent between one answer and the next.
                for (n, body) in waiting.by_ref().take(3) {
                    output.end(&mut pool).extend_from_slice(&[n as u8; 50]);
                    output.push_body(body);
                }
                if output.is_empty() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = output.slices(&mut slices);
                let piece: Vec<u8> =
                    slices[..count].iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
                assert!(output.contiguous().is_none_or(|all| all.starts_with(&piece)));
                let before = output.unsent_bytes();
                output.sent(piece.len(), now);
                assert_eq!(output.unsent_bytes(), before - piece.len());
                taken.extend(piece);
            }
            assert!(taken == expected, "{step} at a time");
            output.release(&mut pool);
            assert_eq!(output.held_bytes(), 0);
        }
    }

    #[test]
    fn a_static_body_holds_nothing_and_a_large_one_is_not_copied() {
        static PAGE: [u8; 1 << 20] = [b'p'; 1 << 20];
        let (mut pool, mut output) = (Pool::new(0), Output::default());
        output.end(&mut pool).extend_from_slice(b"head");
        let empty = output.held_bytes();
        output.push_body(Body::Static(&PAGE));
        assert_eq!((output.held_bytes(), output.unsent_bytes()), (empty, 4 + PAGE.len()));
        let owned = vec![0; 1 << 20];
        let address = owned.as_ptr();
        output.push_body(Body::Owned(owned));
        assert_eq!(output.held_bytes(), empty + (1 << 20));
        assert_eq!(output.bodies[1].1.bytes().as_ptr(), address);
    }
}
