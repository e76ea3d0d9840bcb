//! Every bound of the server, in one place. Nothing a peer sends makes the server hold more, or wait longer, than these say.

use std::time::Duration;

use super::buffer;

/// No head may have more headers than this, whatever [`Limits::headers_max`] says: they are parsed into an array on the stack.
pub const HEADERS_CEILING: usize = 128;

/// What a server allows its peers. All bounds but those marked *in all* are for each connection.
///
/// What a server holds at most: `buffered_bytes_max` of unfinished requests, and `all_unsent_bytes_max` of answers and those of one
/// connection more, which are `unsent_bytes_max` and one answer. An answer that the service has made and the server has not seen yet is
/// the service's: there are no more of them than `in_flight_max` for each connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request line and its headers. More is answered with 414 (no end of the request line among them) or 431.
    pub head_bytes_max: usize,
    /// Headers of a request, at most [`HEADERS_CEILING`]. More is answered with 431.
    pub headers_max: usize,
    /// Bytes of a body, decoded where it came in chunks. More is answered with 413, as soon as it is announced.
    pub body_bytes_max: usize,
    /// Bytes of buffers of requests that are not complete yet, *in all*. Whoever would need more is answered with 503; a quarter is kept for
    /// requests of up to 16 KiB.
    pub buffered_bytes_max: usize,
    /// Connections at a time, *in all*; each listener has a few of them to itself. Whoever comes then takes the place of one that asks for
    /// nothing; if there is none, it is answered with 503 at its first byte.
    pub connections_max: usize,
    /// Requests that were read and not yet answered. With so many, nothing more is read. Of answers that may be large, and are
    /// deferred, one at a time is enough.
    pub in_flight_max: usize,
    /// Bytes of answers that the peer did not take yet. With so many, nothing more is read.
    pub unsent_bytes_max: usize,
    /// Bytes of memory for answers that peers did not take yet, *in all*: one that is shared counts for each of them, a static one for
    /// none. With more, those who have not taken theirs for the longest time are cut.
    pub all_unsent_bytes_max: usize,
    /// From the first byte of a head (of the first one: from the connection's begin) to its end; then it is answered with 408.
    pub head_deadline: Duration,
    /// From the end of a head to the end of the body; then it is answered with 408.
    pub body_deadline: Duration,
    /// Between the last byte of an answer and the first of the next request; then the connection is closed.
    pub idle_deadline: Duration,
    /// For the peer to take what waits for it; then the connection is cut.
    pub write_deadline: Duration,
    /// For the service to answer what it deferred; then 504 is said in its stead, and a later answer is dropped.
    pub answer_deadline: Duration,
    /// For the peer to close, after the server did: meanwhile what it still sends is read and dropped, since unread bytes would
    /// turn the close into a reset, which takes the last answer away from the peer.
    pub linger_deadline: Duration,
    /// After the server was told to stop, for peers that keep a connection, or have just made one, to ask once more: then they hear with the
    /// answer that it ends. One that was closed before might have had a request on its way. At most half of `drain_deadline`.
    pub drain_grace: Duration,
    /// For all requests under way to end once the server was told to stop, *in all*; then what is left is cut.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes_max: 16 << 10,
            headers_max: 64,
            body_bytes_max: 1 << 20,
            buffered_bytes_max: 256 << 20,
            connections_max: 1024,
            in_flight_max: 32,
            unsent_bytes_max: 256 << 10,
            all_unsent_bytes_max: 256 << 20,
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            idle_deadline: Duration::from_secs(60),
            write_deadline: Duration::from_secs(30),
            answer_deadline: Duration::from_secs(30),
            linger_deadline: Duration::from_secs(2),
            drain_grace: Duration::ZERO,
            drain_deadline: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// What contradicts itself here, in words.
    pub fn check(&self) -> Result<(), String> {
        let counts = [
            ("head_bytes_max", self.head_bytes_max),
            ("connections_max", self.connections_max),
            ("in_flight_max", self.in_flight_max),
            ("unsent_bytes_max", self.unsent_bytes_max),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0; expected at least 1"));
        }
        // The positions within a message are kept in 32 bits.
        for (name, value) in [("head_bytes_max", self.head_bytes_max), ("body_bytes_max", self.body_bytes_max)] {
            if value > 1 << 30 {
                return Err(format!("{name} is {value}; expected at most {}", 1 << 30));
            }
        }
        let needed = Limits::buffered_at_least(self.head_bytes_max, self.body_bytes_max);
        if self.buffered_bytes_max < needed {
            let found = self.buffered_bytes_max;
            return Err(format!(
                "buffered_bytes_max is {found}; expected at least {needed}, for one request as large as may be"
            ));
        }
        if self.all_unsent_bytes_max < self.unsent_bytes_max {
            let (found, needed) = (self.all_unsent_bytes_max, self.unsent_bytes_max);
            return Err(format!(
                "all_unsent_bytes_max is {found}; expected at least unsent_bytes_max, which is {needed}"
            ));
        }
        if !(1..=HEADERS_CEILING).contains(&self.headers_max) {
            return Err(format!("headers_max is {}; expected 1 to {HEADERS_CEILING}", self.headers_max));
        }
        Ok(())
    }

    /// `buffered_bytes_max` for one request as large as may be: a buffer doubles until it fits, and begins with some kilobytes.
    pub fn buffered_at_least(head_bytes_max: usize, body_bytes_max: usize) -> usize {
        let grown = 2 * (head_bytes_max + body_bytes_max) + (64 << 10);
        grown.div_ceil(buffer::for_grown(4)) * 4
    }

    /// How often deadlines are looked at. What is overdue is seen an eighth of the shortest deadline late, and never more than
    /// a quarter of a second; looking costs some nanoseconds a connection.
    pub(super) fn sweep_interval(&self) -> Duration {
        let reading = self.head_deadline.min(self.body_deadline).min(self.idle_deadline);
        let answering = self.write_deadline.min(self.answer_deadline).min(self.linger_deadline);
        (reading.min(answering) / 8).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Limits), expected: Option<&str>) {
        let mut limits = Limits::default();
        change(&mut limits);
        let found = limits.check().err();
        assert_eq!(found.as_deref().and_then(|what| what.split(' ').next()), expected, "{found:?}");
    }

    #[test]
    fn limits_do_not_contradict_themselves() {
        check(|_| {}, None);
        check(|limits| limits.in_flight_max = 0, Some("in_flight_max"));
        check(|limits| limits.connections_max = 0, Some("connections_max"));
        check(|limits| limits.headers_max = HEADERS_CEILING, None);
        check(|limits| limits.headers_max = HEADERS_CEILING + 1, Some("headers_max"));
        check(|limits| limits.all_unsent_bytes_max = limits.unsent_bytes_max, None);
        check(|limits| limits.all_unsent_bytes_max = limits.unsent_bytes_max - 1, Some("all_unsent_bytes_max"));
        check(|limits| limits.body_bytes_max = (1 << 30) + 1, Some("body_bytes_max"));
        check(|limits| limits.body_bytes_max = 200 << 20, Some("buffered_bytes_max"));
    }

    /// The largest request that is allowed fits what is allowed at the least.
    #[test]
    fn one_request_fits() {
        let mut limits = Limits { head_bytes_max: 100_000, body_bytes_max: 300_000, ..Limits::default() };
        limits.buffered_bytes_max = Limits::buffered_at_least(100_000, 300_000);
        limits.check().expect("it is enough");
        let mut pool = crate::http::buffer::Pool::new(limits.buffered_bytes_max);
        let mut input = crate::http::buffer::Input::default();
        let mut left = 400_000;
        while left > 0 {
            assert!(pool.make_room(&mut input), "{left} more would fit");
            let length = input.room().len().min(left);
            input.filled(length);
            left -= length;
        }
    }
}
