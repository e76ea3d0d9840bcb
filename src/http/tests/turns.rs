//! Turns: each ends, however much there is to do.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::script::{Session, limits};
use crate::http::Limits;
use crate::http::connection::Turn;

#[test]
fn a_turn_ends_although_there_is_more_to_do() {
    let limits = Limits { in_flight_max: usize::MAX, ..limits() };
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut peer = Session::new(&limits);
    let (turn, served) = peer.turn_with(&request.repeat(20), 1000);
    assert_eq!(turn, Turn::Again);
    assert!((1..1000).contains(&served), "{served} requests in one turn");
    // Nor does one that only reads go on without end.
    let limits = Limits { body_bytes_max: 8 << 20, ..limits };
    let mut peer = Session::new(&limits);
    peer.turn_with(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n", 1);
    assert_eq!(peer.turn_with(b"x", 7_000_000), (Turn::Again, 0));
}

/// There is no further word of an end that came together with the last bytes.
#[test]
fn an_end_that_came_with_the_last_bytes_is_seen() {
    let limits = limits();
    let mut peer = Session::new(&limits);
    peer.send_all_and_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(peer.closed);
}

thread_local! {
    static CLOCK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// However long a request takes, a turn goes on for its time only; but each serves one at least.
#[test]
fn a_turn_ends_when_its_time_is_over() {
    let limits = limits();
    let mut peer = Session::new(&limits);
    let start = Instant::now();
    CLOCK.set(Some(start));
    // A request takes as long as it takes the clock to be looked at.
    peer.clock = || {
        CLOCK.set(CLOCK.get().map(|now| now + Duration::from_millis(1)));
        CLOCK.get().expect("it was set")
    };
    peer.until = start + Duration::from_millis(3);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (turn, served) = peer.turn_answered(&request.repeat(10));
    assert_eq!((turn, served), (Turn::Again, 3));
    assert_eq!(peer.turn_answered(b""), (Turn::Again, 4), "its time was over before it began");
    peer.until += Duration::from_secs(1);
    assert_eq!(peer.turn_answered(b""), (Turn::Wait, 10));
}
