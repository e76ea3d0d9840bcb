//! Turns: each ends, however much there is to do.

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
